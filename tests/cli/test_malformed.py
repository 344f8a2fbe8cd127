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
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save as safetensors_of
from synthetic import outputs

from policyopt._cache.manifest import signed
from policyopt._cli.app import main

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


def arrays(n=N, exits=K, classes=C, seed=0) -> dict:
    logits, labels = outputs(n, exits, classes, seed)
    return {"logits": logits.swapaxes(0, 1), "labels": labels, "costs": 2.0 ** np.arange(exits)}


OWN = arrays()
X, Y = OWN["logits"], OWN["labels"]
PROBS = np.exp(X - X.max(axis=-1, keepdims=True))
PROBS /= PROBS.sum(axis=-1, keepdims=True)
RECORDS = {"conf": PROBS.max(axis=2), "pred": PROBS.argmax(axis=2)}


def npz(at: Path, name="a.npz", **changed) -> Path:
    """Write an .npz of sound arrays, some of them changed; None leaves one out."""
    np.savez(at / name, **{k: v for k, v in {**OWN, **changed}.items() if v is not None})
    return at / name


def spoilt(key: str, value: float, *at) -> dict:
    """One of the sound arrays with a value changed."""
    array = OWN[key].astype(
        float if isinstance(value, float) and key == "labels" else OWN[key].dtype
    )
    array[at] = value
    return {key: array}


def parts(**rows) -> dict:
    """Prefixed splits instead of one pool: places of the sound rows, or other arrays."""
    found: dict = {"logits": None, "labels": None}
    for split, at in rows.items():
        given = at if isinstance(at, dict) else {"logits": X[:, at], "labels": Y[at]}
        found |= {f"{split}_{key}": given[key] for key in ("logits", "labels")}
    return found


HALVES = {"val": slice(0, N // 2), "test": slice(N // 2, N)}
EMPTY = {"logits": np.zeros((K, 0, C), np.float32), "labels": np.zeros(0, int)}
SAME = parts(val=slice(N), test=slice(N))


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
        return Path(shutil.copytree(getattr(self, name), at / name))


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    root = tmp_path_factory.mktemp("world")
    named = parts(**HALVES)
    made = {
        "cache": npz(root, "cache.npz"),
        "named": npz(root, "named.npz", **named),
        "records": npz(root, "records.npz", logits=None, **RECORDS),
        "bare": npz(root, "bare.npz", **named | {"val_labels": None, "test_labels": None}),
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
    """`build` puts files into an empty directory; `args` may name it and the world's files in braces."""

    name: str
    says: (
        str  # patterns, in any order: the culprit, what came, the next step; "3: " is the exit code
    )
    args: str
    build: Callable[[Path, World], Any] = lambda at, world: None

    @property
    def code(self) -> int:
        return 3 if self.says.startswith("3: ") else 2

    def patterns(self) -> list[str]:
        return self.says.removeprefix("3: ").split(" & ")

    def command(self, at: Path, world: World) -> list[str]:
        """Build the files and return the arguments; a word in quotes may be empty or hold spaces."""
        self.build(at, world)
        words = re.findall(r"'[^']*'|\S+", self.args)
        return [word.strip("'").format(at=at, **vars(world)) for word in words]


CASES: list[Case] = []


def cases(table: dict[str, tuple], command: str, build: Callable[[Any], Callable]) -> None:
    """Add rows of (says, content[, more arguments]); `build` makes the files from the content."""
    for name, (says, content, *more) in table.items():
        CASES.append(Case(name, says, " ".join([command, *more]), build(content)))


# --- what an import takes: arrays changed, and more arguments -----------------------------------

IMPORTS = {
    "no_known_key": (r"a\.npz & logits or probs & weights", {"logits": None, "labels": None, "costs": None, "weights": np.zeros(3)}),
    "objects_in_an_npz": (r"a\.npz: logits & pickle & [Ss]ave the numbers", {"logits": np.array([[1, 2], [3]], dtype=object)}),
    "wrong_axes": (r"axes & 240 labels & logits of N = 4, K = 240, C = 6 & Say --axes KNC", {}, "--axes NKC"),
    "axes_that_fit_nothing": (r"logits & shape \(6, 240, 4\) & --axes", {"logits": np.ascontiguousarray(X.transpose(2, 1, 0))}),
    "axes_nonsense": (r"axes & KNC & Got XYZ", {}, "--axes XYZ"),
    "two_axes": (r"logits & shape \(240, 6\) & K, N, C|one array over all exits", {"logits": X[0]}),
    "as_many_exits_as_rows": (r"fits .* and  & State the order with --axes KNC or --axes NKC", {"logits": X[:, :K], "labels": Y[:K]}),
    "nan": (r"outputs & free of NaN & row 7, exit 2 & [Mm]end|[Ll]eave", spoilt("logits", np.nan, 2, 7, 1)),
    "plus_infinity": (r"outputs & inf at row 7, exit 2 & [Mm]end|[Ll]eave", spoilt("logits", np.inf, 2, 7, 1)),
    "all_classes_masked": (r"outputs & only -inf at row 7, exit 2", spoilt("logits", -np.inf, 2, 7)),
    "float16_overflow": (r"outputs & float16 & Got 1e\+06 & --dtype float32", spoilt("logits", 1e6, 2, 7, 1), "--dtype float16"),
    "unknown_dtype": (r"dtype & float16.*float32 & int7", {}, "--dtype int7"),
    "label_out_of_range": (r"labels & 0 to 5 & 6 at row 3", spoilt("labels", C, 3)),
    "label_not_whole": (r"labels & whole numbers & 0\.5 at row 3", spoilt("labels", 0.5, 3)),
    "labels_of_wrong_length": (r"labels' must be 240 & Got 200 & label for each row & --axes", {"labels": Y[:200]}),
    "labels_of_wrong_length_with_axes": (r"labels & 200 & 240|as many", {"labels": Y[:200]}, "--axes KNC"),
    "labels_as_one_number": (r"labels & one for each of the 240 rows", {"labels": np.array(3)}, "--axes KNC"),
    "one_hot_labels": (r"labels & one-hot|argmax", {"labels": np.eye(C)[Y]}),
    "labels_file_missing": (r"labels & x\.npy \(missing\)", {"labels": None}, "--labels {at}/x.npy"),
    "probabilities_as_logits": (r"outputs & probabilities & --kind probabilities", {"logits": PROBS}, "--kind logits"),
    "logits_as_probabilities": (r"outputs & sum 1 & row 0, exit 0 & --kind logits", {}, "--kind probabilities"),
    "unknown_kind": (r"kind & logits.*probabilities.*record & scores", {}, "--kind scores"),
    "logits_as_record": (r"kind & record & conf", {}, "--kind record"),
    "zero_rows": (r"a\.npz: pool logits & at least one row & \(4, 0, 6\)", EMPTY),
    "one_class": (r"classes & 1", {"logits": np.ones((K, N, 1)), "labels": np.zeros(N, int)}),
    "booleans_as_logits": (r"a\.npz: 'outputs' & numbers & dtype bool & logits themselves", {"logits": X > 0}),
    "decreasing_costs": (r"cost & must not decrease & 2 at exit 1 and then 1 at exit 2 & standalone", {}, "--costs 1,2,1,8"),
    "negative_costs": (r"cost & 0 or more & -2 at exit 1", {}, "--costs=1,-2,4,8"),
    "nan_cost": (r"cost & finite & nan at exit 1", {}, "--costs 1,nan,4,8"),
    "nan_cost_in_the_file": (r"cost & finite & nan at exit 1", {"costs": np.array([1, np.nan, 4, 8])}),
    "wrong_number_of_costs": (r"'costs' & 4 numbers, one per exit & Got 3 & --costs|--axes", {"costs": None}, "--costs 1,2,4"),
    "costs_garbage": (r"cost & numbers such as 1,2,4 & 1,two,4", {}, "--costs 1,two,4"),
    "costs_unknown_key": (r"cost & latency & numbers", {}, "--costs latency"),
    "costs_empty": (r"costs & numbers", {}, "--costs ,"),
    "costs_with_a_gap": (r"'costs' & numbers such as 1,2,4 & Got 1,,2,4,8 & separated by commas", {}, "--costs 1,,2,4,8"),
    "costs_with_semicolons": (r"'costs' & one of cost & Got 1;2;4;8 & --costs 1,2,4", {}, "--costs 1;2;4;8"),
    "costs_zero": (r"cost & more than 0", {}, "--costs 0,0,0,0"),
    "cost_kind_unknown": (r"cost kind & cumulative, standalone & total & --cost-kind", {}, "--cost-kind total"),
    "unit_blank": (r"unit & non-empty", {}, "--unit ' '"),
    "overlapping_splits": (r"disjoint & fit.*test|test.*fit & --split", SAME),
    "splits_that_overlap_in_part": (r"disjoint & 40 of the 120 rows of 'test' & 'fit' & [Rr]emove", parts(val=slice(160), test=slice(120, N)), "--axes KNC"),
    "splits_of_other_classes": (r"a\.npz: 'classes' & must be 6 & Got 5 & one model", parts(val=slice(N), test=arrays(classes=5, seed=1)), "--axes KNC"),
    "named_split_of_no_rows": (r"a\.npz: test logits & at least one row & \(4, 0, 6\) & leave that split out", parts(val=slice(N), test=EMPTY), "--axes KNC"),
    "shares_over_one": (r"split & at most 1 & 1\.4 & [Ll]ower", {}, "--split fit=0.7,test=0.7"),
    "shares_garbage": (r"split & NAME=SHARE & fit0\.5 & --split fit=0\.5,test=0\.5", {}, "--split fit0.5"),
    "share_given_twice": (r"split & fit.*twice|once|two shares & fit=0\.5,test=0\.5", {}, "--split fit=0.3,fit=0.5"),
    "share_negative": (r"split test & share in \(0, 1\] & -0\.5", {}, "--split fit=0.5,test=-0.5"),
    "share_without_a_row": (r"split calibrate & at least one row & 0\.001 of 240 & [Rr]aise its share", {}, "--split fit=0.5,calibrate=0.001,test=0.499"),
    "shares_for_named_splits": (r"shares|split & fit, test|already|Leave & --split|[Ll]eave", parts(**HALVES), "--split fit=0.5,test=0.5"),
    "seed_negative": (r"seed & 0 or more & -1", {}, "--seed -1"),
}  # fmt: skip
cases(
    IMPORTS,
    "import {at}/a.npz --out {at}/out",
    lambda changed: lambda at, world: npz(at, **changed),
)


# --- files that are not what they say -----------------------------------------------------------


def bytes_of(save: Callable, *args, **named) -> bytes:
    file = io.BytesIO()
    save(file, *args, **named)
    return file.getvalue()


def zip_of_a_cut_member() -> bytes:
    """A sound zip around a member whose header promises more than it holds."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("logits.npy", bytes_of(np.save, X)[:-100])
    return file.getvalue()


def pickle_as_torch_saves_it() -> bytes:
    torch = pytest.importorskip("torch")
    return bytes_of(lambda file: torch.save({"logits": Path("x")}, file))


WIDE = "conf_0,conf_1,pred_0,pred_1,label\n"
LONG = "sample,exit,confidence,prediction,label\n"
FILES = {
    "truncated.npz": (r"a\.npz & cut or damaged & anew", lambda: bytes_of(np.savez, **OWN)[:-2000]),
    "empty.npz": (r"a\.npz & empty|not a zip & anew", ""),
    "member_cut_inside.npz": (r"a\.npz: logits & [Ss]ave it anew", zip_of_a_cut_member),
    "truncated.safetensors": (r"a\.safetensors & anew", lambda: safetensors_of({k: np.ascontiguousarray(v) for k, v in OWN.items()})[:-50]),
    "pickle_in_a.pt": (r"a\.pt & pickle & torch\.save", pickle_as_torch_saves_it),
    "plain_pickle_named.pt": (r"a\.pt & torch\.save & anew", lambda: pickle.dumps({"logits": Path("x")})),
    "garbage.pt": (r"a\.pt & cut or damaged & anew", "\x00garbage" * 30),
    "garbage.parquet": (r"a\.parquet & [Ss]ave it anew", "PAR1 no"),
    "unknown_extension.xlsx": (r"a\.xlsx & \.npz .*\.csv & Convert it", "x"),
    "confidence_out_of_range.csv": (r"conf & \[0, 1\] & 1\.5 at row 1, exit 0", WIDE + "0.5,0.6,1,1,1\n1.5,0.6,1,1,0\n"),
    "no_columns.csv": (r"a\.csv & confidence for each exit & name, age & conf_0", "name,age\nx,3\n"),
    "no_predictions.csv": (r"a\.csv & pred|correct & conf_0|[Aa]dd", "conf_0,conf_1,label\n0.5,0.6,1\n0.4,0.6,0\n"),
    "text_where_numbers_belong.csv": (r"a\.csv & number & high", WIDE + "0.5,high,1,1,1\n"),
    "missing_exit.csv": (r"a\.csv & conf_1|exit 1|0 to", WIDE.replace("_1", "_2") + "0.5,0.6,1,1,1\n0.4,0.6,1,1,1\n"),
    "empty_cell.csv": (r"a\.csv: conf_1|confidence & nan|NaN|nothing|missing|empty & row 1|row 0 & [Mm]end|[Ff]ill", WIDE + "0.5,0.7,1,1,1\n0.4,,1,1,1\n"),
    "long_with_a_double.csv": (r"a\.csv & second row for sample a, exit 0 & [Dd]rop", LONG + "a,0,.5,1,1\na,0,.5,1,1\na,1,.5,1,1\n"),
    "long_with_a_hole.csv": (r"a\.csv & sample b, exit 1 & [Aa]dd it or drop", LONG + "a,0,.5,1,1\na,1,.5,1,1\nb,0,.5,1,1\n"),
    "empty.csv": (r"a\.csv & empty|No columns & [Mm]end|[Ii]s it", ""),
    "header_only.csv": (r"a\.csv & at least 1 & right file", WIDE),
    "semicolons.csv": (r"a\.csv: columns & conf_0;conf_1 & separated by commas", (WIDE + "0.5,0.7,1,1,1\n").replace(",", ";")),
    "ragged.csv": (r"a\.csv & of 3 cells.*line 3 & Mend header or rows", "conf_0,conf_1,label\n0.5,0.6,1\n0.5,0.6,1,9,9\n"),
    "percent.csv": (r"a\.csv: 'confidence' & \[0, 1\] & 85 at row 0, exit 0 & 0\.5, not 50", WIDE + "85,97,1,1,1\n"),
    "ragged_rows.jsonl": (r"a\.jsonl line 2: logits & shape \(2, 3\) & as line 1", '{"logits": [[1,2,0],[3,1,0]], "label": 1}\n{"logits": [[1,2,0]], "label": 1}'),
    "ragged_exits.jsonl": (r"a\.jsonl line 1: logits & numbers with 2 axes & [Mm]end", '{"logits": [[1,2,0],[3,1]], "label": 1}\n'),
    "garbage.jsonl": (r"a\.jsonl line 2 & JSON object & [Mm]end", '{"logits": [[1,2,0],[3,1,0]], "label": 1}\nnot json\n'),
    "empty.jsonl": (r"a\.jsonl & at least one line|empty & [Cc]heck", "\n\n"),
}  # fmt: skip
for _name, (_says, _content) in FILES.items():
    _file = f"a{Path(_name).suffix}"

    def _build(at, world, file=_file, content=_content):
        found = content() if callable(content) else content
        (at / file).write_bytes(found.encode() if isinstance(found, str) else found)

    CASES.append(Case(_name, _says, f"import {{at}}/{_file} --out {{at}}/out", _build))


# --- damaged caches: fields of the manifest, or what is done to the copy --------------------------


def shard_of(copy: Path) -> Path:
    return next(copy.glob("*.safetensors"))


def damage_of(change: Any) -> Callable[[Path, World], None]:
    def build(at, world):
        copy = world.copy("cache", at)
        file = copy / "manifest.json"
        content = json.loads(file.read_text())
        if isinstance(change, str):
            file.write_text(change)
        elif callable(change):
            change(copy, at)
        else:
            shard = {k: v for k, v in change.items() if k in ("sha256", "file")}
            top = {k: v for k, v in change.items() if k not in shard}
            content["shards"][0] |= shard
            file.write_text(json.dumps(signed(content | top)))

    return build


def flip(copy: Path, at: Path) -> None:
    content = bytearray(shard_of(copy).read_bytes())
    content[-100] ^= 1
    shard_of(copy).write_bytes(content)


def link(copy: Path, at: Path) -> None:
    shard = shard_of(copy)
    shutil.move(shard, at / "elsewhere")
    shard.symlink_to(at / "elsewhere")


DAMAGED = {
    "manifest_not_json": (r"manifest\.json & JSON & anew", "{not json"),
    "manifest_of_something_else": (r"manifest\.json: format & policyopt-cache & policyopt import", {"format": "npm"}),
    "manifest_of_another_version": (r"manifest\.json: version & must be 1 & Got 99 & policyopt that knows", {"version": 99}),
    "manifest_with_another_checksum": (r"shard & SHA-256 & 0000 & anew|again", {"sha256": "0" * 64}),
    "manifest_with_path_traversal": (r"shard file & plain name & \.\./ & trust", {"file": "../../etc/passwd.safetensors"}),
    "manifest_with_an_unknown_field": (r"manifest & unknown & colour", {"colour": "red"}),
    "shard_missing": (r"safetensors & missing & [Rr]estore|anew", lambda copy, at: shard_of(copy).unlink()),
    "shard_truncated": (r"shard & bytes & cut or changed & anew", lambda copy, at: shard_of(copy).write_bytes(shard_of(copy).read_bytes()[:-9])),
    "shard_changed": (r"shard & SHA-256 & anew|again", flip),
    "shard_is_a_link": (r"a link & file itself", link),
    "cache_incomplete": (r"complete & --incomplete|anew", {"complete": False}),
}  # fmt: skip
cases(DAMAGED, "info {at}/cache", damage_of)


# --- policies: fields changed, or other text ------------------------------------------------------


def policy_with(at: Path, world: World, resign: bool = True, **changed) -> Path:
    content = {**json.loads(world.policy.read_text()), **changed}
    if resign:
        body = {k: v for k, v in content.items() if k != "sha256"}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        content["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (at / "p.json").write_text(json.dumps(content))
    return at / "p.json"


def policy_of(change: Any) -> Callable[[Path, World], None]:
    def build(at, world):
        if isinstance(change, dict):
            policy_with(at, world, **change)
        else:
            text = change if isinstance(change, str) else change(world.policy.read_text())
            (at / "p.json").write_bytes(text.encode("latin-1"))

    return build


def mixture(**changed) -> dict:
    return {
        "mixture": {"thresholds": [0.5, 0.5, 0.5], "share": 0.5, "seed": 0, "score": None} | changed
    }


AGAIN = " & [Ff]it and save it again"
POLICIES = {
    "policy_not_json": (r"p\.json & JSON" + AGAIN, "thresholds: 0.9"),
    "policy_truncated": (r"p\.json & JSON & whole" + AGAIN, lambda text: text[:-40]),
    "policy_binary": (r"p\.json & JSON" + AGAIN, "\xff\xfe\x00\x80" * 9),
    "policy_of_something_else": (r"p\.json & policy file & policyopt fit", '{"name": "left-pad"}'),
    "policy_changed": (r"p\.json & checksum" + AGAIN, {"resign": False, "unit": "s"}),
    "policy_of_another_version": (r"version of p\.json & must be  & Got 99 & policyopt that knows", {"version": 99}),
    "policy_of_unknown_score": (r"score|rule & oracle", {"score": {"name": "oracle", "params": {}}}),
    "policy_with_unknown_field": (r"p\.json & unknown fields & colour", {"colour": "red"}),
    "policy_with_an_overflowing_number": (r"p\.json & finite|number|JSON" + AGAIN, lambda text: text.replace('"costs": [', '"costs": [1e999,')),
    "policy_with_an_empty_mixture": (r"mixture|p\.json & [Ff]it and save it again|[Ff]it it again", {"mixture": {}}),
    "policy_with_a_share_over_one": (r"share & \[0, 1\]|0 and 1 & 7", mixture(share=7)),
    "policy_with_nan_in_its_mixture": (r"thresholds & finite|NaN|nan|null|None", mixture(thresholds=[0.5, None, 0.5])),
    "policy_with_impossible_costs": (r"costs & decrease|0 or more", {"costs": [1.0, -2.0, 4.0, 8.0]}),
    "policy_nested_too_deep": (r"p\.json & JSON" + AGAIN, "[" * 100_000),
    "policy_with_text_in_its_score": (r"entropy|classes & p\.json|score|number", {"score": {"name": "entropy", "params": {"classes": "six"}}}),
    "policy_with_text_for_a_seed": (r"seed & number", {"score": {"name": "random", "params": {"seed": "x"}}}),
    "policy_with_a_huge_whole_number": (r"p\.json|thresholds & finite|number", {"thresholds": [10**400, 1, 1]}),
}  # fmt: skip
cases(POLICIES, "evaluate {at}/p.json {cache}", policy_of)


# --- run: an array -------------------------------------------------------------------------------

ZEROS = np.zeros((K, 20, C), np.float32)


def at_place(value: float) -> np.ndarray:
    array = ZEROS.copy()
    array[2, 5, 1] = value
    return array


RUNS = {
    "run_on_other_exits": (r"new\.npy & 4 exits & shape \(3, 20, 6\) & --axes|[Gg]ive|fitted", ZEROS[:3]),
    "run_on_other_classes": (r"new\.npy & 6 classes & shape \(4, 20, 5\) & fitted", ZEROS[:, :, :5]),
    "run_on_two_axes": (r"new\.npy & 3-dimensional & shape \(20, 6\)", ZEROS[0]),
    "run_on_nan": (r"output|new\.npy & NaN & row 5|sample 5 & exit 2", at_place(np.nan)),
    "run_on_infinity": (r"output|new\.npy & inf", at_place(np.inf)),
    "run_on_pickle": (r"new\.npy & [Pp]ickle|objects & [Ss]ave", np.array([{"a": 1}], dtype=object)),
    "run_on_text": (r"output of exit 0|new\.npy & <U1 & floats|numbers", np.full((K, 20, C), "x")),
    "run_with_axes_nonsense": (r"axes & KNC & NKC & XYZ", ZEROS, "--axes XYZ"),
    "run_with_the_wrong_axes": (r"new\.npy|axes & logits of|K = |exits & NKC", ZEROS, "--axes NKC"),
    "run_on_as_many_exits_as_rows": (r"axes & KNC or NKC", ZEROS[:, :K]),
    "run_on_no_rows": (r"rows|new\.npy & at least (1|one)|no rows|none|empty", ZEROS[:, :0]),
    "run_on_probabilities": (r"OUTPUTS & logits & probabilities & fit the policy on probabilities", PROBS),
}  # fmt: skip
cases(
    RUNS,
    "run {policy} {at}/new.npy",
    lambda array: lambda at, world: np.save(at / "new.npy", array, allow_pickle=True),
)


def records_policy(changed: dict) -> Callable[[Path, World], None]:
    """A policy of records, and records, some of them changed."""

    def build(at, world):
        more = ("--method", "max_prob", "--out", at / "p.json")
        assert run_cli("fit", world.records, "--budget", "40%", *more)[0] == 0
        np.savez(at / "new.npz", **RECORDS | changed)

    return build


cases({
    "run_on_records_with_nan": (r"conf & nan|NaN|\[0, 1\]", {"conf": np.full((K, N), np.nan)}),
    "run_on_records_in_percent": (r"conf & \[0, 1\]", {"conf": np.full((K, N), 85.0)}),
    "run_on_records_of_other_rows": (r"pred & shape|rows", {"pred": np.zeros((K, N - 1), int)}),
}, "run {at}/p.json {at}/new.npz", records_policy)  # fmt: skip


# --- commands: what is asked for, and the place to write to ---------------------------------------


def folder(*names: str) -> Callable[[Path, World], None]:
    """Make folders (with a slash at the end) and files."""

    def build(at, world):
        for name in names:
            (at / name).parent.mkdir(exist_ok=True)
            (at / name).mkdir() if name.endswith("/") else (at / name).write_text("mine")

    return build


def small_cache(unit="ms", **shape) -> Callable[[Path, World], None]:
    def build(at, world):
        file = npz(at, **arrays(**shape))
        code, _, err = run_cli("import", file, "--out", at / "cache", "--unit", unit)
        assert code == 0, err

    return build


def imported(*more: str, **changed) -> Callable[[Path, World], None]:
    def build(at, world):
        assert run_cli("import", npz(at, **changed), "--out", at / "cache", *more)[0] == 0

    return build


def over_a_cache(**changed) -> Callable[[Path, World], None]:
    def build(at, world):
        shutil.copytree(world.cache, at / "out")
        npz(at, **changed)

    return build


def in_turn(*builds: Callable) -> Callable[[Path, World], None]:
    return lambda at, world: [build(at, world) for build in builds]  # type: ignore[return-value]


def source(name="a.npz", **changed) -> Callable[[Path, World], None]:
    return lambda at, world: npz(at, name, **changed)  # type: ignore[return-value]


def cut(at: Path, world: World) -> None:
    np.save(at / "new.npy", ZEROS)
    (at / "new.npy").write_bytes((at / "new.npy").read_bytes()[:-64])


FIT, IMPORT, CURVE = (
    "fit {cache} --out {at}/p.json",
    "import {at}/a.npz --out {at}/out",
    "curve {cache} --out {at}/out",
)
MAX_PROB, BUDGET = f"{FIT} --method max_prob", f"{FIT} --budget 40%"
RANGE = "3: budget & 1.*8.*ms"
COMMANDS = {
    "missing_file": (r"nothing\.npz \(missing\) & Check the path", "import {at}/nothing.npz --out {at}/out"),
    "directory_as_source": (r"a directory & Name a file in it", "import {at}/sub --out {at}/out", folder("sub/")),
    "cache_as_source": (r"a directory & already|as it is", "import {cache} --out {at}/out"),
    "out_is_no_cache": (r"notes\.txt|Other files & [Cc]hoose another", f"{IMPORT} --overwrite", in_turn(folder("out/notes.txt"), source())),
    "out_is_a_file": (r"out & a file & [Cc]hoose another", f"{IMPORT} --overwrite", in_turn(folder("out"), source())),
    "out_holds_a_cache": (r"out & holds a cache & --overwrite", IMPORT, over_a_cache()),
    "overwrite_with_bad_input_keeps_the_old": (r"outputs & NaN", f"{IMPORT} --overwrite", over_a_cache(**spoilt("logits", np.nan, 0, 0, 0))),
    "overwrite_with_overlap_keeps_the_old": (r"disjoint", f"{IMPORT} --overwrite", over_a_cache(**SAME)),
    "two_sources_for_one_split": (r"SRC & one source per split & test=", "import {at}/a.npz {at}/b.npz --out {at}/out", in_turn(source(), source("b.npz"))),
    "two_sources_of_other_exits": (r"SRC & same number of exits & K = 4.*K = 3", "import fit={at}/a.npz test={at}/b.npz --out {at}/out", in_turn(source(costs=None), source("b.npz", **arrays(exits=3) | {"costs": None}))),
    "policy_out_is_a_directory": (r"policy|sub & directory & --out|[Cc]hoose|[Gg]ive", "fit {cache} --budget 40% --out {at}/sub", folder("sub/")),
    "policy_out_below_a_file": (r"file/policy\.json|file & directory", "fit {cache} --budget 40% --out {at}/file/policy.json", folder("file")),
    "cache_missing": (r"nothing & manifest\.json|a cache|missing|no such & policyopt import", "info {at}/nothing"),
    "directory_that_is_no_cache": (r"no cache|manifest\.json|a cache & policyopt import", "info {at}/sub", folder("sub/")),
    "npz_as_cache": (r"a\.npz & policyopt import", "fit {at}/a.npz --budget 40%", source()),
    "cache_incomplete_for_fit": (r"complete & anew & policyopt info", "fit {at}/cache --budget 40% --out {at}/p.json", damage_of({"complete": False})),
    "budget_too_low": (f"{RANGE} & 0\\.5 & [Rr]aise|[Cc]hoose|within", f"{FIT} --budget 0.5"),
    "budget_too_high": (f"{RANGE} & 9 & [Ll]ower|[Cc]hoose|within", f"{FIT} --budget 9"),
    "budget_share_too_low": (f"{RANGE} & 0\\.4|5", f"{FIT} --budget 5%"),
    "budget_share_too_high": (RANGE, f"{FIT} --budget 150%"),
    "budget_negative": (RANGE, f"{FIT} --budget=-1"),
    "demo_budget_too_high": (RANGE, "demo --cache {cache} --budget 900% --out {at}/out"),
    "curve_budget_too_low": (f"{RANGE} & 0\\.5", f"{CURVE} --budgets 0.5,2"),
    "budget_no_number": (r"budget & number & a lot & %", f"{FIT} --budget 'a lot'"),
    "budget_nan": (r"budget & number & nan", f"{FIT} --budget nan"),
    "budget_not_given": (r"budget & given & --budget 40%", FIT),
    "budgets_with_garbage": (r"budget & number & Got x & %", f"{CURVE} --budgets 20%,x,2"),
    "budgets_zero": (r"budgets & positive & Got 0 & --budgets 9", f"{CURVE} --budgets 0"),
    "budgets_of_commas": (r"budgets & at least one & --budgets 9", f"{CURVE} --budgets ,,"),
    "budgets_absurdly_many": (r"budgets & memory|at most", f"{CURVE} --budgets 99999999999999"),
    "method_unknown": (r"method & max_prob, entropy & max_porb & Did you mean 'max_prob'", f"{BUDGET} --method max_porb"),
    "method_unlike_any": (r"method & zzz & policyopt methods", f"{CURVE} --methods max_prob,zzz"),
    "methods_empty": (r"methods & at least one & policyopt methods", f"{CURVE} --methods ''"),
    "methods_of_commas": (r"methods & at least one & policyopt methods", "compare {cache} --methods , --out {at}/out"),
    "methods_all_and_one_more": (r"--methods & all alone & [Ll]eave the others out", f"{CURVE} --methods all,max_prob"),
    "compare_with_one_method": (r"methods & two & max_prob & --methods", "compare {cache} --methods max_prob --out {at}/out"),
    "compare_with_unknown_reference": (r"reference & max_prob.*margin & entropy", "compare {cache} --methods max_prob,margin --reference entropy --budgets 2 --out {at}/out"),
    "setting_unknown": (r"setting of max_prob & thresholds, mix & colour", f"{MAX_PROB} --budget 40% --set colour=red"),
    "setting_unknown_for_curve": (r"setting & colour & policyopt methods", f"{CURVE} --set colour=red"),
    "setting_for_all_methods": (r"--set & methods by name & --methods all & [Nn]ame the methods", f"{CURVE} --methods all --set thresholds=joint"),
    "setting_without_value": (r"--set & KEY=VALUE & thresholds & --set thresholds=joint", f"{BUDGET} --set thresholds"),
    "setting_of_bad_value": (r"thresholds & geometric, shared, joint & best & --set thresholds=joint", f"{MAX_PROB} --budget 40% --set thresholds=best"),
    "setting_that_the_default_lacks": (r"settings & auto & thresholds & --method max_prob", f"{BUDGET} --set thresholds=0.9,0.8"),
    "setting_of_bad_type": (r"mix & true or false & perhaps & --set mix=true", f"{FIT} --method max_prob:thresholds=joint --set mix=perhaps"),
    "thresholds_too_few": (r"thresholds & 3 numbers & 0\.9 & one for all|last exit", f"{MAX_PROB} --set thresholds=0.9,0.8"),
    "threshold_nan": (r"thresholds & 3 numbers & nan", f"{MAX_PROB} --set thresholds=0.9,nan,0.9"),
    "threshold_garbage": (r"setting & numbers & Got x & --set thresholds=0\.9,0\.8", f"{MAX_PROB} --set thresholds=0.9,x,0.9"),
    "thresholds_over_the_budget": (r"3: thresholds & at most 1\.5 ms & mean cost & [Ll]ower|[Rr]aise", f"{MAX_PROB} --budget 1.5 --set thresholds=0.99,0.99,0.99"),
    "patience_negative": (r"patience & 0 or more & -1 & --set patience=2", f"{BUDGET} --method patience --set patience=-1"),
    "patience_over_the_budget": (r"3: patience|thresholds & at most 1\.5 ms & patience", f"{FIT} --budget 1.5 --method patience --set patience=4"),
    "exit_that_is_not_there": (r"'exit' & 0\.\.3 & 9 & --set exit=0", f"{BUDGET} --method always --set exit=9"),
    "exit_that_is_no_number": (r"'exit' & last", f"{BUDGET} --method always --set exit=last"),
    "margin_of_records": (r"margin & top_prob & [Ii]mport full logits & max_prob", "fit {records} --out {at}/p.json --budget 40% --method margin"),
    "fit_rows_without_labels": (r"[Ss]plit 'fit' & label & --labels|[Gg]ive labels", "fit {bare} --out {at}/p.json --budget 40%"),
    "cost_unknown": (r"cost & energy & one of|cost", f"{BUDGET} --cost energy"),
    "fit_seed_negative": (r"seed & 0 or more|greater than or equal to 0|x>=0", f"{BUDGET} --method random --seed -3"),
    "one_exit_only": (r"exits? & 2|two|at least & 1", "fit {at}/cache --out {at}/p.json --budget 40%", imported("--axes", "KNC", logits=X[:1], costs=None)),
    "evaluate_on_unknown_split": (r"split & fit, test|'fit'.*'test' & nights", "evaluate {policy} {cache} --split nights --out {at}/o.csv"),
    "curve_without_test_split": (r"split & test & fit & --split|--test|[Ii]mport", "curve {at}/cache --out {at}/out", imported(**parts(val=slice(N)))),
    "fit_without_fit_split": (r"split & fit & test & --split|[Ii]mport", "fit {at}/cache --out {at}/p.json --budget 40%", imported(**parts(test=OWN))),
    "curve_on_unknown_stream": (r"split & fit, test & nights & policyopt info", f"{CURVE} --test nights"),
    "evaluate_on_rows_without_labels": (r"[Ss]plit 'test' & label & --labels FILE", "evaluate {policy} {bare}"),
    "evaluate_out_is_a_directory": (r"--out & a directory & E\.g\.", "evaluate {policy} {cache} --out {at}/sub", folder("sub/")),
    "curve_out_is_a_file": (r"--out & a file & [Cc]hoose", CURVE, folder("out")),
    "policy_missing": (r"policy & a file & nothing\.json & policyopt fit", "evaluate {at}/nothing.json {cache}"),
    "policy_and_cache_swapped": (r"policy & a file & cache & policyopt fit", "evaluate {cache} {policy}"),
    "policy_of_another_number_of_exits": (r"exits of the cache & fitted on: 4 & Got 3 & same model", "evaluate {policy} {at}/cache", small_cache(exits=3)),
    "policy_of_another_number_of_classes": (r"classes of the cache & fitted on: 6 & Got 5 & same model", "evaluate {policy} {at}/cache", small_cache(classes=5)),
    "policy_of_another_unit": (r"cost unit of the cache & fitted on: ms & Got mJ & --cost", "evaluate {policy} {at}/cache", small_cache(unit="mJ")),
    "policy_of_another_kind": (r"kind of outputs & fitted on: logits & Got record", "evaluate {policy} {records}"),
    "run_on_truncated": (r"new\.npy & [Ss]ave", "run {policy} {at}/new.npy", cut),
    "run_on_missing_file": (r"outputs & x\.npy & \.npy or \.npz", "run {policy} {at}/x.npy"),
    "run_without_known_key": (r"new\.npz & logits & Got weights & [Rr]ename", "run {policy} {at}/new.npz", source("new.npz", logits=None, labels=None, costs=None, weights=np.zeros(3))),
    "format_unknown": (r"--format & table.*json.*csv & yaml", "info {cache} --format yaml"),
    "seeds_zero": (r"--seeds & greater than or equal to 1|x>=1", f"{CURVE} --seeds 0"),
    "seeds_no_number": (r"--seeds & integer", f"{CURVE} --seeds many"),
    "option_unknown": (r"--colour & [Nn]o such option", "info {cache} --colour"),
    "command_unknown": (r"fti & [Nn]o such command", "fti {cache}"),
    "import_without_out": (r"--out & [Mm]issing option", "import {at}/a.npz", source()),
    "info_without_cache": (r"CACHE & [Mm]issing argument", "info"),
}  # fmt: skip
CASES += [Case(name, *row) for name, row in COMMANDS.items()]


# --- the checks ----------------------------------------------------------------------------------


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


def says_all(case: Case, said: str) -> None:
    for pattern in case.patterns():
        assert re.search(pattern, said), f"no {pattern!r} in: {said}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_malformed(case, tmp_path, world, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = case.command(tmp_path, world)
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
    says_all(case, said)
    assert contents(tmp_path) == before
    assert (tmp_path / "out").exists() == any(n.split("/")[0] == "out" for n in before)


def test_table_is_long_enough():
    assert len(CASES) >= 190
    assert len({c.name for c in CASES}) == len(CASES)


@pytest.mark.parametrize("name", ["nan", "budget_too_low", "format_unknown"])
def test_in_a_process_of_its_own(name, tmp_path, world):
    case = next(c for c in CASES if c.name == name)
    run = subprocess.run(
        [sys.executable, "-m", "policyopt", *case.command(tmp_path, world)],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert run.returncode == case.code, run.stderr
    assert not run.stdout
    says_all(case, one_message(run.stderr, tmp_path, world.root))


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
    out = Path(shutil.copytree(world.cache, tmp_path / "out"))
    (out / "README.md").write_text("the card")
    before, command = contents(out), ("import", tmp_path / "a.npz", "--out", out, "--overwrite")
    npz(tmp_path, **spoilt("logits", np.nan, 0, -1, 0))
    code, _, err = run_cli(*command)
    assert code == 2 and "NaN" in err
    assert contents(out) == before
    npz(tmp_path, **arrays(120))
    code, _, err = run_cli(*command)
    assert code == 0, err
    shards = json.loads((out / "manifest.json").read_text())["shards"]
    assert {p.name for p in out.iterdir()} == {"README.md", "manifest.json", shards[0]["file"]}
    assert '"rows": 60' in run_cli("info", out, "--format", "json")[1]


def test_what_messages_advise_can_be_done(tmp_path, world):
    torch = pytest.importorskip("torch")
    content = {k: torch.tensor(np.ascontiguousarray(OWN[k])) for k in ("logits", "labels")}
    torch.save({**content, "path": Path("x")}, tmp_path / "a.pt")
    command = ("import", tmp_path / "a.pt", "--out", tmp_path / "out")
    code, _, err = run_cli(*command)
    assert code == 2 and "--allow-pickle" in err
    code, _, err = run_cli(*command, "--allow-pickle")
    assert code == 0, err
    spec = "max_prob:thresholds=0.9,0.8,0.7,margin"
    args = ["curve", world.cache, "--methods", spec, "--budgets", "100%", "--format", "csv"]
    code, out, err = run_cli(*args)
    assert code == 0 and out.count("\n") == 3, err


@pytest.mark.parametrize("part", ["manifest", "shard", "shard, signed again", "policy"])
def test_a_damaged_file_is_refused_or_read(part, tmp_path, world):
    """Bits flipped or the end cut: one message, however far it is read. More of this: `tests/fuzz`."""
    rng = np.random.default_rng(0)
    copy = world.copy("cache", tmp_path)
    manifest, file = copy / "manifest.json", copy / "manifest.json"
    args: tuple = ("info", copy)
    if part == "policy":
        file = Path(shutil.copy(world.policy, tmp_path / "p.json"))
        args = ("evaluate", file, world.cache)
    elif part != "manifest":
        file = shard_of(copy)
    whole, told, codes = file.read_bytes(), json.loads(manifest.read_text()), []
    head = 8 + int.from_bytes(whole[:8], "little") if "signed" in part else len(whole)
    for i in range(16):
        damage = bytearray(whole[:head])
        if i % 3 == 2:
            del damage[int(rng.integers(0, head)) :]
        else:
            for at in rng.integers(0, head, 1 + i % 2):
                damage[at] ^= 1 << int(rng.integers(0, 8))
        damage += whole[head:]
        file.write_bytes(damage)
        if "signed" in part:
            digest = hashlib.sha256(damage).hexdigest()
            told["shards"][0] |= {"bytes": len(damage), "sha256": digest}
            manifest.write_text(json.dumps(signed(told)))
        code, _, err = run_cli(*args)
        assert code in (0, 2), (code, err, damage[:400])
        if code:
            one_message(err)
        codes.append(code)
    assert codes.count(2) > 10 and (part != "shard" or 0 not in codes)


ODD = (None, True, -1, 1 << 70, 0.5, "", "x" * 400, [[]], {})


def twisted(content):
    """Yield `content` with each of its parts, however deep, replaced by odd values in turn."""
    yield from ODD
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        for odd in twisted(value) if isinstance(value, (dict, list)) else ODD:
            copy = content.copy()
            copy[key] = odd
            yield copy


@pytest.mark.parametrize("what", ["manifest", "policy"])
def test_odd_files_that_are_signed_are_refused_or_read(what, tmp_path, world):
    """Whoever changes a file can sign it: readers must not rely on the checksum alone."""
    copy = world.copy("cache", tmp_path)
    manifest = copy / "manifest.json"
    file = manifest if what == "manifest" else world.policy
    left = ("metadata",) if what == "manifest" else ("sha256", "provenance")
    whole = {k: v for k, v in json.loads(file.read_text()).items() if k not in left}
    for odd in list(twisted(whole))[:: 3 if what == "manifest" else 5]:
        if what == "manifest":
            content = signed({**odd, "metadata": {}}) if isinstance(odd, dict) and odd else odd
            manifest.write_text(json.dumps(content))
            args: tuple = ("info", copy)
        elif isinstance(odd, dict) and odd.get("mixture") != {}:  # which is a case of its own
            args = ("evaluate", policy_with(tmp_path, world, **odd), world.cache)
        else:
            continue
        code, _, err = run_cli(*args)
        assert code in (0, 2), (code, err, odd)
        if code:
            one_message(err)
