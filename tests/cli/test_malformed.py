"""Malformed input, end to end: one message that helps, the right exit code, nothing left behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from synthetic import outputs

from policyopt.cache.manifest import signed
from policyopt.cli.app import main

COSTS = [1.0, 2.0, 4.0, 8.0]
N, K, C = 240, 4, 6


def run_cli(*args) -> tuple[int, str, str]:
    """Run the command line in this process: (exit code, standard output, standard error)."""
    out, err = io.StringIO(), io.StringIO()
    before, code = sys.argv, 0
    sys.argv = ["policyopt", *map(str, args)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    finally:
        sys.argv = before
    return code, out.getvalue(), err.getvalue()


@dataclass(frozen=True)
class World:
    """Sound files that the cases start from and never change."""

    root: Path
    cache: Path  # one pool, logits
    named: Path  # splits fit and test, logits
    records: Path  # conf, pred, correct only
    bare: Path  # fit and test without labels
    policy: Path  # of `cache`

    def copy(self, name: str, at: Path) -> Path:
        target = at / name
        source = getattr(self, name)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target


def arrays(n=N, exits=K, classes=C, seed=0) -> dict:
    logits, labels = outputs(n, exits, classes, seed)
    return {
        "logits": logits.swapaxes(0, 1),
        "labels": labels,
        "costs": np.array([2.0**k for k in range(exits)]),
    }


def npz(at: Path, name="a.npz", **changed) -> Path:
    """Write an .npz of sound arrays, some of them changed; None leaves one out."""
    content = {**arrays(), **changed}
    np.savez(at / name, **{k: v for k, v in content.items() if v is not None})
    return at / name


def probabilities(logits):
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    both = arrays()
    half = N // 2
    parts = {"val": slice(0, half), "test": slice(half, N)}
    named = {f"{s}_logits": both["logits"][:, at] for s, at in parts.items()}
    labelled = named | {f"{s}_labels": both["labels"][at] for s, at in parts.items()}
    probs = probabilities(both["logits"])
    records = {"conf": probs.max(axis=2), "pred": probs.argmax(axis=2), "labels": both["labels"]}
    made = {
        "cache": npz(root, "cache.npz"),
        "named": npz(root, "named.npz", logits=None, labels=None, **labelled),
        "records": npz(root, "records.npz", logits=None, **records),
        "bare": npz(root, "bare.npz", logits=None, labels=None, **named),
    }
    for name, source in made.items():
        more = ["--axes", "KNC"] if name == "bare" else []
        code, _, err = run_cli("import", source, "--out", root / name, "--unit", "ms", *more)
        assert code == 0, err
    policy = root / "policy.json"
    code, _, err = run_cli("fit", root / "cache", "--budget", "40%", "--out", policy)
    assert code == 0, err
    return World(root, policy=policy, **{name: root / name for name in made})


@dataclass(frozen=True)
class Case:
    name: str
    build: Callable[[Path, World], list]  # from an empty directory: the arguments
    says: tuple[str, ...]  # patterns, in any order: the culprit, what came, the next step
    code: int


CASES: list[Case] = []


def case(*says: str, code: int = 2):
    def keep(build):
        CASES.append(Case(build.__name__, build, says, code))
        return build

    return keep


def importing(at: Path, source, *more) -> list:
    return ["import", source, "--out", at / "out", *more]


# --- files that are not what they say -------------------------------------------------------


@case(r"a\.npz", r"cut or damaged", r"anew")
def truncated_npz(at, world):
    path = npz(at)
    path.write_bytes(path.read_bytes()[:-2000])
    return importing(at, path)


@case(r"a\.npz", r"empty|not a zip", r"anew")
def empty_npz(at, world):
    (at / "a.npz").write_bytes(b"")
    return importing(at, at / "a.npz")


@case(r"a\.npz: logits", r"[Ss]ave it anew")
def npz_member_cut_inside(at, world):
    """A sound zip around a member whose header promises more than it holds."""
    import zipfile

    buffer = io.BytesIO()
    np.save(buffer, arrays()["logits"])
    with zipfile.ZipFile(at / "a.npz", "w") as archive:
        archive.writestr("logits.npy", buffer.getvalue()[:-100])
    return importing(at, at / "a.npz")


@case(r"a\.safetensors", r"anew")
def truncated_safetensors(at, world):
    from safetensors.numpy import save_file

    save_file({k: np.ascontiguousarray(v) for k, v in arrays().items()}, at / "a.safetensors")
    (at / "a.safetensors").write_bytes((at / "a.safetensors").read_bytes()[:-50])
    return importing(at, at / "a.safetensors")


@case(r"a\.pt", r"pickle", r"torch\.save")
def pickle_in_a_pt(at, world):
    torch = pytest.importorskip("torch")
    torch.save({"logits": Path("x")}, at / "a.pt")
    return importing(at, at / "a.pt")


@case(r"a\.pt", r"torch\.save", r"anew")
def plain_pickle_named_pt(at, world):
    pytest.importorskip("torch")
    with (at / "a.pt").open("wb") as file:
        pickle.dump({"logits": Path("x")}, file)
    return importing(at, at / "a.pt")


@case(r"a\.pt", r"cut or damaged", r"anew")
def garbage_pt(at, world):
    pytest.importorskip("torch")
    (at / "a.pt").write_bytes(b"\x00garbage" * 30)
    return importing(at, at / "a.pt")


@case(r"a\.npz: logits", r"pickle", r"[Ss]ave the numbers")
def objects_in_an_npz(at, world):
    return importing(at, npz(at, logits=np.array([[1, 2], [3]], dtype=object)))


@case(r"a\.parquet", r"[Ss]ave it anew")
def garbage_parquet(at, world):
    (at / "a.parquet").write_bytes(b"PAR1 no")
    return importing(at, at / "a.parquet")


@case(r"a\.xlsx", r"\.npz .*\.csv", r"Convert it")
def unknown_extension(at, world):
    (at / "a.xlsx").write_bytes(b"x")
    return importing(at, at / "a.xlsx")


@case(r"nothing\.npz \(missing\)", r"Check the path")
def missing_file(at, world):
    return importing(at, at / "nothing.npz")


@case(r"a directory", r"Name a file in it")
def directory_as_source(at, world):
    (at / "sub").mkdir()
    return importing(at, at / "sub")


@case(r"a directory", r"already|as it is")
def cache_as_source(at, world):
    return importing(at, world.cache)


@case(r"a\.npz", r"logits or probs", r"weights")
def no_known_key(at, world):
    np.savez(at / "a.npz", weights=np.zeros(3))
    return importing(at, at / "a.npz")


# --- arrays that are not what they say ------------------------------------------------------


@case(r"axes", r"240 labels", r"logits of N = 4, K = 240, C = 6", r"Say --axes KNC")
def wrong_axes(at, world):
    return importing(at, npz(at), "--axes", "NKC")


@case(r"logits", r"shape \(6, 240, 4\)", r"--axes")
def axes_that_fit_nothing(at, world):
    logits = np.ascontiguousarray(arrays()["logits"].transpose(2, 1, 0))
    return importing(at, npz(at, logits=logits))


@case(r"axes", r"KNC", r"Got XYZ")
def axes_nonsense(at, world):
    return importing(at, npz(at), "--axes", "XYZ")


@case(r"logits", r"shape \(240, 6\)", r"K, N, C|one array over all exits")
def two_axes(at, world):
    return importing(at, npz(at, logits=arrays()["logits"][0]))


@case(r"fits .* and ", r"State the order with --axes KNC or --axes NKC")
def as_many_exits_as_rows(at, world):
    logits, labels = outputs(K, K, C)
    return importing(at, npz(at, logits=logits, labels=labels))


@case(r"outputs", r"free of NaN", r"row 7, exit 2", r"[Mm]end|[Ll]eave")
def nan(at, world):
    logits = arrays()["logits"].copy()
    logits[2, 7, 1] = np.nan
    return importing(at, npz(at, logits=logits))


@case(r"outputs", r"inf at row 7, exit 2", r"[Mm]end|[Ll]eave")
def plus_infinity(at, world):
    logits = arrays()["logits"].copy()
    logits[2, 7, 1] = np.inf
    return importing(at, npz(at, logits=logits))


@case(r"outputs", r"only -inf at row 7, exit 2")
def all_classes_masked(at, world):
    logits = arrays()["logits"].copy()
    logits[2, 7] = -np.inf
    return importing(at, npz(at, logits=logits))


@case(r"outputs", r"float16", r"Got 1e\+06", r"--dtype float32")
def float16_overflow(at, world):
    logits = arrays()["logits"].copy()
    logits[2, 7, 1] = 1e6
    return importing(at, npz(at, logits=logits), "--dtype", "float16")


@case(r"dtype", r"float16.*float32", r"int7")
def unknown_dtype(at, world):
    return importing(at, npz(at), "--dtype", "int7")


@case(r"labels", r"0 to 5", r"6 at row 3")
def label_out_of_range(at, world):
    labels = arrays()["labels"].copy()
    labels[3] = C
    return importing(at, npz(at, labels=labels))


@case(r"labels", r"whole numbers", r"0\.5 at row 3")
def label_not_whole(at, world):
    labels = arrays()["labels"].astype(float)
    labels[3] = 0.5
    return importing(at, npz(at, labels=labels))


@case(r"labels' must be 240", r"Got 200", r"label for each row", r"--axes")
def labels_of_wrong_length(at, world):
    return importing(at, npz(at, labels=arrays()["labels"][:200]))


@case(r"labels", r"200", r"240|as many")
def labels_of_wrong_length_with_axes(at, world):
    return importing(at, npz(at, labels=arrays()["labels"][:200]), "--axes", "KNC")


@case(r"labels", r"one-hot|argmax")
def one_hot_labels(at, world):
    return importing(at, npz(at, labels=np.eye(C)[arrays()["labels"]]))


@case(r"labels", r"x\.npy \(missing\)")
def labels_file_missing(at, world):
    return importing(at, npz(at, labels=None), "--labels", at / "x.npy")


@case(r"outputs", r"probabilities", r"--kind probabilities")
def probabilities_as_logits(at, world):
    probs = probabilities(arrays()["logits"])
    return importing(at, npz(at, logits=probs), "--kind", "logits")


@case(r"outputs", r"sum 1", r"row 0, exit 0", r"--kind logits")
def logits_as_probabilities(at, world):
    return importing(at, npz(at), "--kind", "probabilities")


@case(r"kind", r"logits.*probabilities.*record", r"scores")
def unknown_kind(at, world):
    return importing(at, npz(at), "--kind", "scores")


@case(r"kind", r"record", r"conf")
def logits_as_record(at, world):
    return importing(at, npz(at), "--kind", "record")


@case(r"a\.npz: pool logits", r"at least one row", r"\(4, 0, 6\)")
def zero_rows(at, world):
    empty = {"logits": np.zeros((K, 0, C), np.float32), "labels": np.zeros(0, int)}
    return importing(at, npz(at, **empty))


@case(r"classes", r"1")
def one_class(at, world):
    return importing(at, npz(at, logits=np.ones((K, N, 1)), labels=np.zeros(N, int)))


# --- costs ----------------------------------------------------------------------------------


@case(r"cost", r"must not decrease", r"2 at exit 1 and then 1 at exit 2", r"standalone")
def decreasing_costs(at, world):
    return importing(at, npz(at), "--costs", "1,2,1,8")


@case(r"cost", r"0 or more", r"-2 at exit 1")
def negative_costs(at, world):
    return importing(at, npz(at), "--costs=1,-2,4,8")


@case(r"cost", r"finite", r"nan at exit 1")
def nan_cost(at, world):
    return importing(at, npz(at), "--costs", "1,nan,4,8")


@case(r"cost", r"finite", r"nan at exit 1")
def nan_cost_in_the_file(at, world):
    return importing(at, npz(at, costs=np.array([1, np.nan, 4, 8])))


@case(r"'costs'", r"4 numbers, one per exit", r"Got 3", r"--costs|--axes")
def wrong_number_of_costs(at, world):
    return importing(at, npz(at, costs=None), "--costs", "1,2,4")


@case(r"cost", r"numbers such as 1,2,4", r"1,two,4")
def costs_garbage(at, world):
    return importing(at, npz(at), "--costs", "1,two,4")


@case(r"cost", r"latency", r"numbers")
def costs_unknown_key(at, world):
    return importing(at, npz(at), "--costs", "latency")


@case(r"costs", r"numbers")
def costs_empty(at, world):
    return importing(at, npz(at), "--costs", ",")


@case(r"cost", r"more than 0")
def costs_zero(at, world):
    return importing(at, npz(at), "--costs", "0,0,0,0")


@case(r"cost kind", r"cumulative, standalone", r"total", r"--cost-kind")
def cost_kind_unknown(at, world):
    return importing(at, npz(at), "--cost-kind", "total")


@case(r"unit", r"non-empty")
def unit_blank(at, world):
    return importing(at, npz(at), "--unit", " ")


# --- splits ---------------------------------------------------------------------------------


@case(r"disjoint", r"fit.*test|test.*fit", r"--split")
def overlapping_splits(at, world):
    own = arrays()
    same = {f"{s}_{k}": own[k] for s in ("val", "test") for k in ("logits", "labels")}
    return importing(at, npz(at, logits=None, labels=None, **same))


@case(r"split", r"at most 1", r"1\.4", r"[Ll]ower")
def shares_over_one(at, world):
    return importing(at, npz(at), "--split", "fit=0.7,test=0.7")


@case(r"split", r"NAME=SHARE", r"fit0\.5", r"--split fit=0\.5,test=0\.5")
def shares_garbage(at, world):
    return importing(at, npz(at), "--split", "fit0.5")


@case(r"split", r"fit.*twice|once|two shares", r"fit=0\.5,test=0\.5")
def share_given_twice(at, world):
    return importing(at, npz(at), "--split", "fit=0.3,fit=0.5")


@case(r"split test", r"share in \(0, 1\]", r"-0\.5")
def share_negative(at, world):
    return importing(at, npz(at), "--split", "fit=0.5,test=-0.5")


@case(r"split calibrate", r"at least one row", r"0\.001 of 240", r"[Rr]aise its share")
def share_without_a_row(at, world):
    return importing(at, npz(at), "--split", "fit=0.5,calibrate=0.001,test=0.499")


@case(r"a\.npz: test logits", r"at least one row", r"\(4, 0, 6\)", r"leave that split out")
def named_split_of_no_rows(at, world):
    own = arrays()
    named = {"val_logits": own["logits"], "val_labels": own["labels"]}
    named |= {"test_logits": own["logits"][:, :0], "test_labels": own["labels"][:0]}
    return importing(at, npz(at, logits=None, labels=None, **named), "--axes", "KNC")


@case(r"shares|split", r"fit, test|already|Leave", r"--split|[Ll]eave")
def shares_for_named_splits(at, world):
    own = arrays()
    named = {"val_logits": own["logits"][:, :99], "val_labels": own["labels"][:99]}
    named |= {"test_logits": own["logits"][:, 99:], "test_labels": own["labels"][99:]}
    file = npz(at, logits=None, labels=None, **named)
    return importing(at, file, "--split", "fit=0.5,test=0.5")


@case(r"seed", r"0 or more", r"-1")
def seed_negative(at, world):
    return importing(at, npz(at), "--seed", "-1")


# --- the place to write to ------------------------------------------------------------------


@case(r"notes\.txt|Other files", r"[Cc]hoose another")
def out_is_no_cache(at, world):
    (at / "out").mkdir()
    (at / "out" / "notes.txt").write_text("mine")
    return importing(at, npz(at), "--overwrite")


@case(r"out", r"a file", r"[Cc]hoose another")
def out_is_a_file(at, world):
    (at / "out").write_text("mine")
    return importing(at, npz(at), "--overwrite")


@case(r"out", r"holds a cache", r"--overwrite")
def out_holds_a_cache(at, world):
    shutil.copytree(world.cache, at / "out")
    return importing(at, npz(at))


@case(r"outputs", r"NaN")
def overwrite_with_bad_input_keeps_the_old(at, world):
    shutil.copytree(world.cache, at / "out")
    logits = arrays()["logits"].copy()
    logits[0, 0, 0] = np.nan
    return importing(at, npz(at, logits=logits), "--overwrite")


@case(r"disjoint")
def overwrite_with_overlap_keeps_the_old(at, world):
    shutil.copytree(world.cache, at / "out")
    own = arrays()
    same = {f"{s}_{k}": own[k] for s in ("val", "test") for k in ("logits", "labels")}
    return importing(at, npz(at, logits=None, labels=None, **same), "--overwrite")


@case(r"policy|sub", r"directory", r"--out|[Cc]hoose|[Gg]ive")
def policy_out_is_a_directory(at, world):
    (at / "sub").mkdir()
    return ["fit", world.cache, "--budget", "40%", "--out", at / "sub"]


@case(r"file/policy\.json|file", r"directory")
def policy_out_below_a_file(at, world):
    (at / "file").write_text("mine")
    return ["fit", world.cache, "--budget", "40%", "--out", at / "file" / "policy.json"]


# --- caches that are damaged ----------------------------------------------------------------


def manifest(at: Path, world: World, **changed) -> Path:
    """Copy the cache, with fields of its manifest changed."""
    copy = world.copy("cache", at)
    file = copy / "manifest.json"
    file.write_text(json.dumps(signed({**json.loads(file.read_text()), **changed})))
    return copy


def shards(world: World) -> list[dict]:
    return json.loads((world.cache / "manifest.json").read_text())["shards"]


@case(r"nothing", r"manifest\.json|a cache|missing|no such", r"policyopt import")
def cache_missing(at, world):
    return ["info", at / "nothing"]


@case(r"no cache|manifest\.json|a cache", r"policyopt import")
def directory_that_is_no_cache(at, world):
    (at / "sub").mkdir()
    return ["info", at / "sub"]


@case(r"a\.npz", r"policyopt import")
def npz_as_cache(at, world):
    return ["fit", npz(at), "--budget", "40%"]


@case(r"manifest\.json", r"JSON", r"anew")
def manifest_not_json(at, world):
    copy = world.copy("cache", at)
    (copy / "manifest.json").write_text("{not json")
    return ["info", copy]


@case(r"manifest\.json: format", r"policyopt-cache", r"policyopt import")
def manifest_of_something_else(at, world):
    return ["info", manifest(at, world, format="npm")]


@case(r"manifest\.json: version", r"from 1 to 2", r"Got 99", r"policyopt that knows")
def manifest_of_another_version(at, world):
    return ["info", manifest(at, world, version=99)]


@case(r"shard", r"SHA-256", r"0000", r"anew|again")
def manifest_with_another_checksum(at, world):
    return ["info", manifest(at, world, shards=[{**shards(world)[0], "sha256": "0" * 64}])]


@case(r"shard file", r"plain name", r"\.\./", r"trust")
def manifest_with_path_traversal(at, world):
    file = "../../etc/passwd.safetensors"
    return ["info", manifest(at, world, shards=[{**shards(world)[0], "file": file}])]


@case(r"manifest", r"unknown", r"colour")
def manifest_with_an_unknown_field(at, world):
    return ["info", manifest(at, world, colour="red")]


@case(r"safetensors", r"missing", r"[Rr]estore|anew")
def shard_missing(at, world):
    copy = world.copy("cache", at)
    next(copy.glob("*.safetensors")).unlink()
    return ["info", copy]


@case(r"shard", r"bytes", r"cut or changed", r"anew")
def shard_truncated(at, world):
    copy = world.copy("cache", at)
    shard = next(copy.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-9])
    return ["info", copy]


@case(r"shard", r"SHA-256", r"anew|again")
def shard_changed(at, world):
    copy = world.copy("cache", at)
    shard = next(copy.glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-100] ^= 1
    shard.write_bytes(content)
    return ["info", copy]


@case(r"a link", r"file itself")
def shard_is_a_link(at, world):
    copy = world.copy("cache", at)
    shard = next(copy.glob("*.safetensors"))
    shutil.move(shard, at / "elsewhere")
    shard.symlink_to(at / "elsewhere")
    return ["info", copy]


@case(r"complete", r"--incomplete|anew")
def cache_incomplete(at, world):
    return ["info", manifest(at, world, complete=False)]


@case(r"complete", r"anew", r"policyopt info")
def cache_incomplete_for_fit(at, world):
    copy = manifest(at, world, complete=False)
    return ["fit", copy, "--budget", "40%", "--out", at / "p.json"]


# --- budgets --------------------------------------------------------------------------------


def fitting(at: Path, world: World, *more, cache: Path | None = None) -> list:
    return ["fit", cache or world.cache, "--out", at / "p.json", *more]


@case(r"budget", r"1.*8.*ms", r"0\.5", r"[Rr]aise|[Cc]hoose|within", code=3)
def budget_too_low(at, world):
    return fitting(at, world, "--budget", "0.5")


@case(r"budget", r"1.*8.*ms", r"9", r"[Ll]ower|[Cc]hoose|within", code=3)
def budget_too_high(at, world):
    return fitting(at, world, "--budget", "9")


@case(r"budget", r"1.*8.*ms", r"0\.4|5", code=3)
def budget_share_too_low(at, world):
    return fitting(at, world, "--budget", "5%")


@case(r"budget", r"1.*8.*ms", code=3)
def budget_share_too_high(at, world):
    return fitting(at, world, "--budget", "150%")


@case(r"budget", r"1.*8.*ms", code=3)
def budget_negative(at, world):
    return fitting(at, world, "--budget=-1")


@case(r"budget", r"1.*8.*ms", r"0\.5", code=3)
def curve_budget_too_low(at, world):
    return ["curve", world.cache, "--budgets", "0.5,2", "--out", at / "out"]


@case(r"budget", r"number", r"a lot", r"%")
def budget_no_number(at, world):
    return fitting(at, world, "--budget", "a lot")


@case(r"budget", r"number", r"nan")
def budget_nan(at, world):
    return fitting(at, world, "--budget", "nan")


@case(r"budget", r"given", r"--budget 40%")
def budget_not_given(at, world):
    return fitting(at, world)


@case(r"budget", r"number", r"Got x", r"%")
def budgets_with_garbage(at, world):
    return ["curve", world.cache, "--budgets", "20%,x,2", "--out", at / "out"]


@case(r"budgets", r"positive", r"Got 0", r"--budgets 9")
def budgets_zero(at, world):
    return ["curve", world.cache, "--budgets", "0", "--out", at / "out"]


@case(r"budgets", r"at least one", r"--budgets 9")
def budgets_of_commas(at, world):
    return ["curve", world.cache, "--budgets", ",,", "--out", at / "out"]


@case(r"budgets", r"memory|at most")
def budgets_absurdly_many(at, world):
    return ["curve", world.cache, "--budgets", "99999999999999", "--out", at / "out"]


# --- methods and settings -------------------------------------------------------------------


@case(r"method", r"max_prob, entropy", r"max_porb", r"Did you mean 'max_prob'")
def method_unknown(at, world):
    return fitting(at, world, "--budget", "40%", "--method", "max_porb")


@case(r"method", r"zzz", r"policyopt methods")
def method_unlike_any(at, world):
    return ["curve", world.cache, "--methods", "max_prob,zzz", "--out", at / "out"]


@case(r"methods", r"at least one", r"policyopt methods")
def methods_empty(at, world):
    return ["curve", world.cache, "--methods", "", "--out", at / "out"]


@case(r"methods", r"at least one", r"policyopt methods")
def methods_of_commas(at, world):
    return ["compare", world.cache, "--methods", ",", "--out", at / "out"]


@case(r"methods", r"two", r"max_prob", r"--methods")
def compare_with_one_method(at, world):
    return ["compare", world.cache, "--methods", "max_prob", "--out", at / "out"]


@case(r"reference", r"max_prob.*margin", r"entropy")
def compare_with_unknown_reference(at, world):
    methods = ["--methods", "max_prob,margin", "--reference", "entropy"]
    return ["compare", world.cache, *methods, "--budgets", "2", "--out", at / "out"]


@case(r"setting of max_prob", r"thresholds, mix", r"colour")
def setting_unknown(at, world):
    return fitting(at, world, "--budget", "40%", "--set", "colour=red", "--method", "max_prob")


@case(r"setting", r"colour", r"policyopt methods")
def setting_unknown_for_curve(at, world):
    return ["curve", world.cache, "--set", "colour=red", "--out", at / "out"]


@case(r"--set", r"KEY=VALUE", r"thresholds", r"--set thresholds=joint")
def setting_without_value(at, world):
    return fitting(at, world, "--budget", "40%", "--set", "thresholds")


@case(r"thresholds", r"geometric, shared, joint", r"best", r"--set thresholds=joint")
def setting_of_bad_value(at, world):
    return fitting(at, world, "--method", "max_prob", "--budget", "40%", "--set", "thresholds=best")


@case(r"settings", r"auto", r"thresholds", r"--method max_prob")
def setting_that_the_default_lacks(at, world):
    return fitting(at, world, "--budget", "40%", "--set", "thresholds=0.9,0.8")


@case(r"mix", r"true or false", r"perhaps", r"--set mix=true")
def setting_of_bad_type(at, world):
    return fitting(at, world, "--method", "max_prob:thresholds=joint", "--set", "mix=perhaps")


@case(r"thresholds", r"3 numbers", r"0\.9", r"one for all|last exit")
def thresholds_too_few(at, world):
    return fitting(at, world, "--method", "max_prob", "--set", "thresholds=0.9,0.8")


@case(r"thresholds", r"3 numbers", r"nan")
def threshold_nan(at, world):
    return fitting(at, world, "--method", "max_prob", "--set", "thresholds=0.9,nan,0.9")


@case(r"setting", r"numbers", r"Got x", r"--set thresholds=0\.9,0\.8")
def threshold_garbage(at, world):
    return fitting(at, world, "--method", "max_prob", "--set", "thresholds=0.9,x,0.9")


@case(r"thresholds", r"at most 1\.5 ms", r"mean cost", r"[Ll]ower|[Rr]aise", code=3)
def thresholds_over_the_budget(at, world):
    return fitting(
        at, world, "--budget", "1.5", "--method", "max_prob", "--set", "thresholds=0.99,0.99,0.99"
    )


@case(r"patience", r"0 or more", r"-1", r"--set patience=2")
def patience_negative(at, world):
    return fitting(at, world, "--budget", "40%", "--method", "patience", "--set", "patience=-1")


@case(r"patience|thresholds", r"at most 1\.5 ms", r"patience", code=3)
def patience_over_the_budget(at, world):
    return fitting(at, world, "--budget", "1.5", "--method", "patience", "--set", "patience=4")


@case(r"margin", r"top_prob", r"[Ii]mport full logits", r"max_prob")
def margin_of_records(at, world):
    return fitting(at, world, "--budget", "40%", "--method", "margin", cache=world.records)


@case(r"[Ss]plit 'fit'", r"label", r"--labels|[Gg]ive labels")
def fit_rows_without_labels(at, world):
    return fitting(at, world, "--budget", "40%", cache=world.bare)


@case(r"cost", r"energy", r"one of|cost")
def cost_unknown(at, world):
    return fitting(at, world, "--budget", "40%", "--cost", "energy")


@case(r"seed", r"0 or more|greater than or equal to 0|x>=0")
def fit_seed_negative(at, world):
    return fitting(at, world, "--budget", "40%", "--method", "random", "--seed", "-3")


@case(r"exits?", r"2|two|at least", r"1")
def one_exit_only(at, world):
    file = npz(at, logits=arrays()["logits"][:1], costs=None)
    assert run_cli(*importing(at, file, "--axes", "KNC"))[0] == 0  # it may be looked at
    return fitting(at, world, "--budget", "40%", cache=at / "out")


# --- splits asked for -----------------------------------------------------------------------


@case(r"split", r"fit, test|'fit'.*'test'", r"nights")
def evaluate_on_unknown_split(at, world):
    return ["evaluate", world.policy, world.cache, "--split", "nights", "--out", at / "o.csv"]


@case(r"split", r"test", r"fit", r"--split|--test|[Ii]mport")
def curve_without_test_split(at, world):
    own = arrays()
    file = npz(at, logits=None, labels=None, val_logits=own["logits"], val_labels=own["labels"])
    assert run_cli("import", file, "--out", at / "cache")[0] == 0
    return ["curve", at / "cache", "--out", at / "out"]


@case(r"split", r"fit", r"test", r"--split|[Ii]mport")
def fit_without_fit_split(at, world):
    own = arrays()
    file = npz(at, logits=None, labels=None, test_logits=own["logits"], test_labels=own["labels"])
    assert run_cli("import", file, "--out", at / "cache")[0] == 0
    return fitting(at, world, "--budget", "40%", cache=at / "cache")


@case(r"split", r"fit, test", r"nights", r"policyopt info")
def curve_on_unknown_stream(at, world):
    return ["curve", world.cache, "--test", "nights", "--out", at / "out"]


@case(r"[Ss]plit 'test'", r"label", r"--labels FILE")
def evaluate_on_rows_without_labels(at, world):
    return ["evaluate", world.policy, world.bare]


@case(r"--out", r"a directory", r"E\.g\.")
def evaluate_out_is_a_directory(at, world):
    (at / "sub").mkdir()
    return ["evaluate", world.policy, world.cache, "--out", at / "sub"]


@case(r"--out", r"a file", r"[Cc]hoose")
def curve_out_is_a_file(at, world):
    (at / "out").write_text("mine")
    return ["curve", world.cache, "--out", at / "out"]


@case(r"SRC", r"one source per split", r"test=")
def two_sources_for_one_split(at, world):
    return importing(at, npz(at), npz(at, "b.npz"))


@case(r"SRC", r"same number of exits", r"K = 4.*K = 3")
def two_sources_of_other_exits(at, world):
    other = npz(at, "b.npz", **{**arrays(exits=3), "costs": None})
    return importing(at, f"fit={npz(at, costs=None)}", f"test={other}")


# --- usage ----------------------------------------------------------------------------------


@case(r"--format", r"table.*json.*csv", r"yaml")
def format_unknown(at, world):
    return ["info", world.cache, "--format", "yaml"]


@case(r"--seeds", r"greater than or equal to 1|x>=1")
def seeds_zero(at, world):
    return ["curve", world.cache, "--seeds", "0", "--out", at / "out"]


@case(r"--seeds", r"integer")
def seeds_no_number(at, world):
    return ["curve", world.cache, "--seeds", "many", "--out", at / "out"]


@case(r"--colour", r"[Nn]o such option")
def option_unknown(at, world):
    return ["info", world.cache, "--colour"]


@case(r"fti", r"[Nn]o such command")
def command_unknown(at, world):
    return ["fti", world.cache]


@case(r"--out", r"[Mm]issing option")
def import_without_out(at, world):
    return ["import", npz(at)]


@case(r"CACHE", r"[Mm]issing argument")
def info_without_cache(at, world):
    return ["info"]


# --- policy files ---------------------------------------------------------------------------


def evaluating(world: World, policy: Path) -> list:
    return ["evaluate", policy, world.cache]


def policy_with(at: Path, world: World, resign: bool = True, **changed) -> Path:
    content = {**json.loads(world.policy.read_text()), **changed}
    if resign:
        body = {k: v for k, v in content.items() if k != "sha256"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (at / "p.json").write_text(json.dumps(content))
    return at / "p.json"


@case(r"p\.json", r"JSON", r"[Ff]it and save it again")
def policy_not_json(at, world):
    (at / "p.json").write_text("thresholds: 0.9")
    return evaluating(world, at / "p.json")


@case(r"p\.json", r"JSON", r"whole", r"[Ff]it and save it again")
def policy_truncated(at, world):
    (at / "p.json").write_text(world.policy.read_text()[:-40])
    return evaluating(world, at / "p.json")


@case(r"p\.json", r"JSON", r"[Ff]it and save it again")
def policy_binary(at, world):
    (at / "p.json").write_bytes(b"\xff\xfe\x00\x80" * 9)
    return evaluating(world, at / "p.json")


@case(r"p\.json", r"policy file", r"policyopt fit")
def policy_of_something_else(at, world):
    (at / "p.json").write_text('{"name": "left-pad"}')
    return evaluating(world, at / "p.json")


@case(r"p\.json", r"checksum", r"[Ff]it and save it again")
def policy_changed(at, world):
    return evaluating(world, policy_with(at, world, resign=False, unit="s"))


@case(r"version of p\.json", r"must be from 1 to", r"Got 99", r"policyopt that knows")
def policy_of_another_version(at, world):
    return evaluating(world, policy_with(at, world, version=99))


@case(r"score|rule", r"oracle")
def policy_of_unknown_score(at, world):
    return evaluating(world, policy_with(at, world, score={"name": "oracle", "params": {}}))


@case(r"p\.json", r"unknown fields", r"colour")
def policy_with_unknown_field(at, world):
    return evaluating(world, policy_with(at, world, colour="red"))


@case(r"p\.json", r"finite|number|JSON", r"[Ff]it and save it again")
def policy_with_an_overflowing_number(at, world):
    content = world.policy.read_text().replace('"costs": [', '"costs": [1e999,')
    (at / "p.json").write_text(content)
    return evaluating(world, at / "p.json")


@case(r"mixture|p\.json", r"[Ff]it and save it again|[Ff]it it again")
def policy_with_an_empty_mixture(at, world):
    return evaluating(world, policy_with(at, world, mixture={}))


@case(r"share", r"\[0, 1\]|0 and 1", r"7")
def policy_with_a_share_over_one(at, world):
    mixture = {"thresholds": [0.5, 0.5, 0.5], "share": 7, "seed": 0, "score": None}
    return evaluating(world, policy_with(at, world, mixture=mixture))


@case(r"thresholds", r"finite|NaN|nan|null|None")
def policy_with_nan_in_its_mixture(at, world):
    mixture = {"thresholds": [0.5, None, 0.5], "share": 0.5, "seed": 0, "score": None}
    return evaluating(world, policy_with(at, world, mixture=mixture))


@case(r"costs", r"decrease|0 or more")
def policy_with_impossible_costs(at, world):
    return evaluating(world, policy_with(at, world, costs=[1.0, -2.0, 4.0, 8.0]))


@case(r"p\.json", r"JSON", r"[Ff]it and save it again")
def policy_nested_too_deep(at, world):
    (at / "p.json").write_text("[" * 100_000)
    return evaluating(world, at / "p.json")


@case(r"policy", r"a file", r"nothing\.json", r"policyopt fit")
def policy_missing(at, world):
    return evaluating(world, at / "nothing.json")


@case(r"policy", r"a file", r"cache", r"policyopt fit")
def policy_and_cache_swapped(at, world):
    return ["evaluate", world.cache, world.policy]


@case(r"exits of the cache", r"fitted on: 4", r"Got 3", r"same model")
def policy_of_another_number_of_exits(at, world):
    cache = small_cache(at, exits=3)
    return ["evaluate", world.policy, cache]


@case(r"classes of the cache", r"fitted on: 6", r"Got 5", r"same model")
def policy_of_another_number_of_classes(at, world):
    return ["evaluate", world.policy, small_cache(at, classes=5)]


@case(r"cost unit of the cache", r"fitted on: ms", r"Got mJ", r"--cost")
def policy_of_another_unit(at, world):
    return ["evaluate", world.policy, small_cache(at, unit="mJ")]


@case(r"kind of outputs", r"fitted on: logits", r"Got record")
def policy_of_another_kind(at, world):
    return ["evaluate", world.policy, world.records]


def small_cache(at: Path, unit="ms", **shape) -> Path:
    file = npz(at, **arrays(**shape))
    code, _, err = run_cli("import", file, "--out", at / "cache", "--unit", unit)
    assert code == 0, err
    return at / "cache"


# --- run ------------------------------------------------------------------------------------


def running(at: Path, world: World, array, *more) -> list:
    np.save(at / "new.npy", array, allow_pickle=True)
    return ["run", world.policy, at / "new.npy", *more]


@case(r"new\.npy", r"4 exits", r"shape \(3, 20, 6\)", r"--axes|[Gg]ive|fitted")
def run_on_other_exits(at, world):
    return running(at, world, np.zeros((3, 20, C), np.float32))


@case(r"new\.npy", r"6 classes", r"shape \(4, 20, 5\)", r"fitted")
def run_on_other_classes(at, world):
    return running(at, world, np.zeros((K, 20, 5), np.float32))


@case(r"new\.npy", r"3-dimensional", r"shape \(20, 6\)")
def run_on_two_axes(at, world):
    return running(at, world, np.zeros((20, C), np.float32))


@case(r"output|new\.npy", r"NaN", r"row 5|sample 5", r"exit 2")
def run_on_nan(at, world):
    array = np.zeros((K, 20, C), np.float32)
    array[2, 5, 1] = np.nan
    return running(at, world, array)


@case(r"output|new\.npy", r"inf")
def run_on_infinity(at, world):
    array = np.zeros((K, 20, C), np.float32)
    array[2, 5, 1] = np.inf
    return running(at, world, array)


@case(r"new\.npy", r"[Pp]ickle|objects", r"[Ss]ave")
def run_on_pickle(at, world):
    return running(at, world, np.array([{"a": 1}], dtype=object))


@case(r"output of exit 0|new\.npy", r"<U1", r"floats|numbers")
def run_on_text(at, world):
    return running(at, world, np.full((K, 20, C), "x"))


@case(r"new\.npy", r"[Ss]ave")
def run_on_truncated(at, world):
    args = running(at, world, np.zeros((K, 20, C), np.float32))
    (at / "new.npy").write_bytes((at / "new.npy").read_bytes()[:-64])
    return args


@case(r"axes", r"KNC", r"NKC", r"XYZ")
def run_with_axes_nonsense(at, world):
    return running(at, world, np.zeros((K, 20, C), np.float32), "--axes", "XYZ")


@case(r"axes", r"KNC or NKC")
def run_on_as_many_exits_as_rows(at, world):
    return running(at, world, np.zeros((K, K, C), np.float32))


@case(r"rows|new\.npy", r"at least (1|one)|no rows|none|empty")
def run_on_no_rows(at, world):
    return running(at, world, np.zeros((K, 0, C), np.float32))


@case(r"outputs", r"x\.npy", r"\.npy or \.npz")
def run_on_missing_file(at, world):
    return ["run", world.policy, at / "x.npy"]


@case(r"new\.npz", r"logits", r"Got weights", r"[Rr]ename")
def run_without_known_key(at, world):
    np.savez(at / "new.npz", weights=np.zeros(3))
    return ["run", world.policy, at / "new.npz"]


# --- tables of records ----------------------------------------------------------------------


def text(at: Path, name: str, content: str, *more) -> list:
    (at / name).write_text(content)
    return importing(at, at / name, *more)


@case(r"conf", r"\[0, 1\]", r"1\.5 at row 1, exit 0")
def csv_confidence_out_of_range(at, world):
    rows = "conf_0,conf_1,pred_0,pred_1,label\n0.5,0.6,1,1,1\n1.5,0.6,1,1,0\n"
    return text(at, "a.csv", rows * 1)


@case(r"a\.csv", r"confidence for each exit", r"name, age", r"conf_0")
def csv_without_columns(at, world):
    return text(at, "a.csv", "name,age\nx,3\n")


@case(r"a\.csv", r"pred|correct", r"conf_0|[Aa]dd")
def csv_without_predictions(at, world):
    return text(at, "a.csv", "conf_0,conf_1,label\n0.5,0.6,1\n0.4,0.6,0\n")


@case(r"a\.csv", r"number", r"high")
def csv_text_where_numbers_belong(at, world):
    return text(at, "a.csv", "conf_0,conf_1,pred_0,pred_1,label\n0.5,high,1,1,1\n")


@case(r"a\.csv", r"conf_1|exit 1|0 to")
def csv_with_a_missing_exit(at, world):
    return text(at, "a.csv", "conf_0,conf_2,pred_0,pred_2,label\n0.5,0.6,1,1,1\n0.4,0.6,1,1,1\n")


@case(
    r"a\.csv: conf_1|confidence",
    r"nan|NaN|nothing|missing|empty",
    r"row 1|row 0",
    r"[Mm]end|[Ff]ill",
)
def csv_with_an_empty_cell(at, world):
    rows = "conf_0,conf_1,pred_0,pred_1,label\n0.5,0.7,1,1,1\n0.4,,1,1,1\n"
    return text(at, "a.csv", rows)


@case(r"a\.csv", r"second row for sample a, exit 0", r"[Dd]rop")
def csv_long_with_a_double(at, world):
    rows = "sample,exit,confidence,prediction,label\na,0,.5,1,1\na,0,.5,1,1\na,1,.5,1,1\n"
    return text(at, "a.csv", rows)


@case(r"a\.csv", r"sample b, exit 1", r"[Aa]dd it or drop")
def csv_long_with_a_hole(at, world):
    rows = "sample,exit,confidence,prediction,label\na,0,.5,1,1\na,1,.5,1,1\nb,0,.5,1,1\n"
    return text(at, "a.csv", rows)


@case(r"a\.csv", r"empty|No columns", r"[Mm]end|[Ii]s it")
def csv_empty(at, world):
    return text(at, "a.csv", "")


@case(r"a\.csv", r"at least 1", r"right file")
def csv_header_only(at, world):
    return text(at, "a.csv", "conf_0,conf_1,pred_0,pred_1,label\n")


@case(r"a\.jsonl line 2: logits", r"shape \(2, 3\)", r"as line 1")
def jsonl_ragged_rows(at, world):
    lines = ['{"logits": [[1,2,0],[3,1,0]], "label": 1}', '{"logits": [[1,2,0]], "label": 1}']
    return text(at, "a.jsonl", "\n".join(lines))


@case(r"a\.jsonl line 1: logits", r"numbers with 2 axes", r"[Mm]end")
def jsonl_ragged_exits(at, world):
    return text(at, "a.jsonl", '{"logits": [[1,2,0],[3,1]], "label": 1}\n')


@case(r"a\.jsonl line 2", r"JSON object", r"[Mm]end")
def jsonl_garbage(at, world):
    return text(at, "a.jsonl", '{"logits": [[1,2,0],[3,1,0]], "label": 1}\nnot json\n')


@case(r"a\.jsonl", r"at least one line|empty", r"[Cc]heck")
def jsonl_empty(at, world):
    return text(at, "a.jsonl", "\n\n")


@case(r"a\.csv: columns", r"conf_0;conf_1", r"separated by commas")
def csv_with_semicolons(at, world):
    return text(at, "a.csv", "conf_0;conf_1;pred_0;pred_1;label\n0.5;0.7;1;1;1\n")


@case(r"a\.csv", r"of 3 cells.*line 3", r"Mend header or rows")
def csv_ragged(at, world):
    return text(at, "a.csv", "conf_0,conf_1,label\n0.5,0.6,1\n0.5,0.6,1,9,9\n")


@case(r"a\.csv: 'confidence'", r"\[0, 1\]", r"85 at row 0, exit 0", r"0\.5, not 50")
def csv_confidence_in_percent(at, world):
    return text(at, "a.csv", "conf_0,conf_1,pred_0,pred_1,label\n85,97,1,1,1\n")


# --- found on the way -----------------------------------------------------------------------


@case(r"'costs'", r"numbers such as 1,2,4", r"Got 1,,2,4,8", r"separated by commas")
def costs_with_a_gap(at, world):
    return importing(at, npz(at), "--costs", "1,,2,4,8")


@case(r"'costs'", r"one of cost", r"Got 1;2;4;8", r"--costs 1,2,4")
def costs_with_semicolons(at, world):
    return importing(at, npz(at), "--costs", "1;2;4;8")


@case(r"a\.npz: 'outputs'", r"numbers", r"dtype bool", r"logits themselves")
def booleans_as_logits(at, world):
    return importing(at, npz(at, logits=arrays()["logits"] > 0))


@case(r"a\.npz: 'classes'", r"must be 6", r"Got 5", r"one model")
def splits_of_other_classes(at, world):
    own, other = arrays(), arrays(classes=5, seed=1)
    named = {f"val_{k}": own[k] for k in ("logits", "labels")}
    named |= {f"test_{k}": other[k] for k in ("logits", "labels")}
    return importing(at, npz(at, logits=None, labels=None, **named), "--axes", "KNC")


@case(r"disjoint", r"40 of the 120 rows of 'test'", r"'fit'", r"[Rr]emove")
def splits_that_overlap_in_part(at, world):
    own, half = arrays(), {"val": slice(0, 160), "test": slice(120, N)}
    named = {f"{s}_logits": own["logits"][:, rows] for s, rows in half.items()}
    named |= {f"{s}_labels": own["labels"][rows] for s, rows in half.items()}
    return importing(at, npz(at, logits=None, labels=None, **named), "--axes", "KNC")


@case(r"--methods", r"all alone", r"[Ll]eave the others out")
def methods_all_and_one_more(at, world):
    return ["curve", world.cache, "--methods", "all,max_prob", "--out", at / "out"]


@case(r"--set", r"methods by name", r"--methods all", r"[Nn]ame the methods")
def setting_for_all_methods(at, world):
    more = ["--set", "thresholds=joint", "--out", at / "out"]
    return ["curve", world.cache, "--methods", "all", *more]


@case(r"'exit'", r"0\.\.3", r"9", r"--set exit=0")
def exit_that_is_not_there(at, world):
    return fitting(at, world, "--budget", "40%", "--method", "always", "--set", "exit=9")


@case(r"'exit'", r"last")
def exit_that_is_no_number(at, world):
    return fitting(at, world, "--budget", "40%", "--method", "always", "--set", "exit=last")


@case(r"budget", r"1.*8.*ms", code=3)
def demo_budget_too_high(at, world):
    return ["demo", "--cache", world.cache, "--budget", "900%", "--out", at / "out"]


@case(r"OUTPUTS", r"logits", r"probabilities", r"fit the policy on probabilities")
def run_on_probabilities(at, world):
    return running(at, world, probabilities(arrays()["logits"]))


@case(r"new\.npy|axes", r"logits of|K = |exits", r"NKC")
def run_with_the_wrong_axes(at, world):
    return running(at, world, np.zeros((K, 20, C), np.float32), "--axes", "NKC")


@case(r"entropy|classes", r"p\.json|score|number")
def policy_with_text_in_its_score(at, world):
    score = {"name": "entropy", "params": {"classes": "six"}}
    return evaluating(world, policy_with(at, world, score=score))


@case(r"seed", r"number")
def policy_with_text_for_a_seed(at, world):
    score = {"name": "random", "params": {"seed": "x"}}
    return evaluating(world, policy_with(at, world, score=score))


@case(r"p\.json|thresholds", r"finite|number")
def policy_with_a_huge_whole_number(at, world):
    return evaluating(world, policy_with(at, world, thresholds=[10**400, 1, 1]))


def running_records(at: Path, world: World, **changed) -> list:
    """Run a policy of records on records, some of them changed."""
    policy = at / "records.json"
    assert run_cli("fit", world.records, "--budget", "40%", "--out", policy)[0] == 0
    probs = probabilities(arrays()["logits"])
    np.savez(at / "new.npz", **{"conf": probs.max(axis=2), "pred": probs.argmax(axis=2), **changed})
    return ["run", policy, at / "new.npz"]


@case(r"conf", r"nan|NaN|\[0, 1\]")
def run_on_records_with_nan(at, world):
    return running_records(at, world, conf=np.full((K, N), np.nan))


@case(r"conf", r"\[0, 1\]")
def run_on_records_in_percent(at, world):
    return running_records(at, world, conf=np.full((K, N), 85.0))


@case(r"pred", r"shape|rows")
def run_on_records_of_other_rows(at, world):
    return running_records(at, world, pred=np.zeros((K, N - 1), int))


# --- the checks -----------------------------------------------------------------------------


def contents(at: Path) -> dict[str, bytes]:
    return {str(p.relative_to(at)): p.read_bytes() for p in sorted(at.rglob("*")) if p.is_file()}


def one_message(err: str, *places: Path) -> str:
    """Return the one message on standard error; notes may stand before it, a usage text instead.

    `places` are taken out: their names tell the test's name, and would satisfy any pattern.
    """
    for place in places:
        err = err.replace(str(place), "PLACE")
    assert "Traceback" not in err and 'File "' not in err and "internal error" not in err, err
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    if lines and lines[0].startswith("Usage: "):
        found = [line for line in lines if line.startswith("Error: ")]
        assert len(found) == 1 and lines[-1] == found[0], err
        return " ".join(lines)
    assert len(lines) == 1 and lines[0].startswith("error: "), err
    return lines[0]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed(case, tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = case.build(tmp_path, world)
    before = contents(tmp_path)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        code, out, err = run_cli(*args)
    if code == 0:
        pytest.fail(f"accepted: {args}\n{out}\n{err}")
    said = one_message(err, tmp_path, world.root)
    assert code == case.code, err
    assert not out, out
    assert not warned, [str(w.message) for w in warned]
    for pattern in case.says:
        assert re.search(pattern, said), f"no {pattern!r} in: {said}"
    assert contents(tmp_path) == before
    assert (tmp_path / "out").exists() == any(n.split("/")[0] == "out" for n in before)


def test_table_is_long_enough():
    assert len(CASES) >= 100
    assert len({c.name for c in CASES}) == len(CASES)


SUBPROCESS = ("nan", "budget_too_low", "format_unknown", "policy_truncated")


@pytest.mark.parametrize("name", SUBPROCESS)
def test_in_a_process_of_its_own(name, tmp_path, world):
    case = next(c for c in CASES if c.name == name)
    args = map(str, case.build(tmp_path, world))
    run = subprocess.run(
        [sys.executable, "-m", "policyopt", *args],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert run.returncode == case.code, run.stderr
    assert not run.stdout
    said = one_message(run.stderr, tmp_path, world.root)
    for pattern in case.says:
        assert re.search(pattern, said), f"no {pattern!r} in: {said}"


def test_names_that_a_terminal_cannot_show_end_nothing(tmp_path, world):
    """A micro sign in a unit, on a terminal that knows ASCII only."""
    copy = world.copy("cache", tmp_path)
    file = copy / "manifest.json"
    content = json.loads(file.read_text().replace('"ms"', '"\\u00b5s"'))
    file.write_text(json.dumps(signed(content)))
    run = subprocess.run(
        [sys.executable, "-m", "policyopt", "info", str(copy)],
        capture_output=True, check=False, env={"PYTHONIOENCODING": "ascii"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert rb"\xb5s" in run.stdout


def test_an_old_cache_stays_until_the_new_one_is_whole(tmp_path, world):
    out = tmp_path / "out"
    shutil.copytree(world.cache, out)
    (out / "README.md").write_text("the card")
    logits = arrays(seed=5)["logits"].copy()
    logits[0, -1, 0] = np.nan
    before = contents(out)
    code, _, err = run_cli(*importing(tmp_path, npz(tmp_path, logits=logits), "--overwrite"))
    assert code == 2 and "NaN" in err
    assert contents(out) == before
    code, _, err = run_cli(*importing(tmp_path, npz(tmp_path, **arrays(120)), "--overwrite"))
    assert code == 0, err
    shards = json.loads((out / "manifest.json").read_text())["shards"]
    assert {p.name for p in out.iterdir()} == {"README.md", "manifest.json", shards[0]["file"]}
    assert '"rows": 60' in run_cli("info", out, "--format", "json")[1]


def test_what_messages_advise_can_be_done(tmp_path, world):
    torch = pytest.importorskip("torch")
    own = arrays()
    content = {k: torch.tensor(np.ascontiguousarray(own[k])) for k in ("logits", "labels")}
    torch.save({**content, "path": Path("x")}, tmp_path / "a.pt")
    code, _, err = run_cli(*importing(tmp_path, tmp_path / "a.pt"))
    assert code == 2 and "--allow-pickle" in err
    code, _, err = run_cli(*importing(tmp_path, tmp_path / "a.pt", "--allow-pickle"))
    assert code == 0, err
    spec = "max_prob:thresholds=0.9,0.8,0.7,margin"
    args = ["curve", world.cache, "--methods", spec, "--budgets", "100%", "--format", "csv"]
    code, out, err = run_cli(*args)
    assert code == 0 and out.count("\n") == 3, err


def damaged(content: bytes, rng: np.random.Generator, count: int):
    """Yield `count` copies with a few bits flipped, or cut short."""
    for i in range(count):
        if i % 3 == 2:
            yield content[: int(rng.integers(0, len(content)))]
            continue
        copy = bytearray(content)
        for at in rng.integers(0, len(copy), 1 + i % 2):
            copy[at] ^= 1 << int(rng.integers(0, 8))
        yield bytes(copy)


def settled(args, damage: bytes) -> int:
    code, _, err = run_cli(*args)
    assert code in (0, 2), (code, err, damage[:400])
    if code:
        one_message(err)
    return code


@pytest.mark.parametrize("part", ["manifest", "shard"])
def test_a_damaged_cache_is_refused_or_read(part, tmp_path, world):
    rng = np.random.default_rng(0)
    copy = world.copy("cache", tmp_path)
    file = copy / "manifest.json" if part == "manifest" else next(copy.glob("*.safetensors"))
    content = file.read_bytes()
    codes = []
    for damage in damaged(content, rng, 60):
        file.write_bytes(damage)
        codes.append(settled(["info", copy], damage))
    assert codes.count(2) > 40
    if part == "shard":
        assert 0 not in codes
    file.write_bytes(content)
    assert run_cli("info", copy)[0] == 0


def test_a_header_damaged_and_signed_again_is_refused_or_read(tmp_path, world):
    """The manifest's checksum may be made to fit: the reader must not rely on it alone."""
    rng = np.random.default_rng(1)
    copy = world.copy("cache", tmp_path)
    shard, file = next(copy.glob("*.safetensors")), copy / "manifest.json"
    content = shard.read_bytes()
    head = 8 + int.from_bytes(content[:8], "little")
    for damage in damaged(content[:head], rng, 40):
        whole = damage + content[head:]
        shard.write_bytes(whole)
        told = json.loads(file.read_text())
        told["shards"][0] |= {"bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
        file.write_text(json.dumps(signed(told)))
        settled(["info", copy], damage)


def test_a_damaged_policy_is_refused_or_read(tmp_path, world):
    rng = np.random.default_rng(2)
    file = tmp_path / "p.json"
    codes = []
    for damage in damaged(world.policy.read_bytes(), rng, 60):
        file.write_bytes(damage)
        codes.append(settled(evaluating(world, file), damage))
    assert codes.count(2) > 50


ODD = (None, True, -1, 1 << 70, 0.5, "", "x" * 400, [[]], {})


def twisted(content):
    """Yield `content` with each of its parts, however deep, replaced by odd values in turn."""
    yield from ODD
    parts = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in parts:
        for odd in twisted(value) if isinstance(value, (dict, list)) else ODD:
            copy = content.copy()
            copy[key] = odd
            yield copy


def test_an_odd_policy_that_is_signed_is_refused_or_read(tmp_path, world):
    """Whoever changes a policy can sign it: the reader must not rely on the checksum alone."""
    whole = json.loads(world.policy.read_text())
    body = {k: v for k, v in whole.items() if k not in ("sha256", "provenance")}
    for odd in twisted(body):
        if isinstance(odd, dict) and odd.get("mixture") != {}:  # which is a case of its own
            file = policy_with(tmp_path, world, **odd)
            settled(evaluating(world, file), repr(odd).encode())


def test_an_odd_manifest_is_refused_or_read(tmp_path, world):
    copy = world.copy("cache", tmp_path)
    file = copy / "manifest.json"
    whole = json.loads(file.read_text())
    body = {k: v for k, v in whole.items() if k != "metadata"}
    for odd in twisted(body):
        content = signed({**odd, "metadata": {}}) if isinstance(odd, dict) and odd else odd
        file.write_text(json.dumps(content))
        settled(["info", copy], repr(odd).encode())
