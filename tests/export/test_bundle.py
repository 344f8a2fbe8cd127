"""`policyopt export` and `verify`: whole folders, first differences, other machines, sizes, and folders from anyone."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import rules
from mutations import signed, traced
from policies import fitted, on_features
from synthetic import cache

import policyopt as po
from policyopt._cli.export import runners
from policyopt._export.bundle import checksum, read_export, write_bundle
from policyopt._export.golden import (
    BYTES,
    MOST_BYTES,
    LeftOut,
    expect,
    read_golden,
    row_bytes,
    write_golden,
)
from policyopt._export.rounding import this_machine
from policyopt._export.samples import gaps, golden_of, limits_of
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import verify
from policyopt.runtime._errors import CheckError, InputError
from policyopt.runtime._policy import Mixture, Policy, arms, load_policy
from policyopt.runtime._scores import MaxProb, make_rule


def exported(policy, folder, targets=("python",), rows=64, data=None):
    graphs = trace_policy(policy)
    golden = golden_of(policy, graphs, data, rows=rows)
    write_bundle(policy, folder, list(targets), golden, graphs)
    return golden


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "out"
    exported(fitted("optimal_stopping"), folder, rows=100)
    return folder


@pytest.fixture
def copy(export, tmp_path):
    return shutil.copytree(export, tmp_path / "copy")


def sign(folder, **fields):
    """Make the manifest agree with files and fields that were changed."""
    path = folder / "manifest.json"
    manifest = {**json.loads(path.read_text()), **fields}
    if "files" not in fields:
        there = (name for name in manifest["files"] if (folder / name).exists())
        manifest["files"] = {name: checksum(folder / name) for name in there}
    path.write_text(json.dumps(signed(manifest)))


def resigned(folder, name, content):
    (folder / name).write_bytes(content)
    sign(folder)


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit(folder, change, file="golden.npz"):
    """Change arrays of an archive, and the manifest with them."""
    with np.load(folder / file) as given:
        arrays = dict(given)
    change(arrays)
    np.savez(folder / file, **arrays)
    sign(folder)


def arrays(change):
    return lambda folder: edit(folder, change)


def machine(folder, **more):
    made = json.loads((folder / "manifest.json").read_text())["machine"]
    sign(folder, machine={**made, **more})


MACHINE = r"'machine of manifest\.json' must be"


def test_what_was_exported_verifies(export, run):
    found = {v.runtime: v for v in verify(export)}
    assert {"numpy batch", "numpy step", "python"} <= found.keys()
    boundary = read_export(export).boundary
    assert boundary >= 3 * 4  # inner exits, and rows on both sides of each
    for v in found.values():
        assert v.absent or (v.rows == 100 + boundary and not v.error and v.within < 1e-6), v
    code, out, said = run("verify", export, "--format", "json", "--require", "python")
    assert code == 0, said
    rows = {row["runtime"]: row for row in json.loads(out)}
    assert rows.keys() == found.keys() | set(runners())
    assert all(r["absent"] or r["threshold_within"] < 1e-6 for r in rows.values())
    for name in ("numpy batch", "python"):
        told = rows[name]
        assert told["same_machine"] and told["error_ulps"] == told["turned_at_threshold"] == 0
    assert f"{boundary} of the rows lie at thresholds" in run("verify", export)[1]
    code, _, said = run("verify", export, "--require", "c")
    assert code == 4 and "c could not be run" in said


def test_a_policy_that_was_changed_is_found(copy, run):
    """Golden vectors are of one policy: another, whole in itself, fails with exit code 4."""
    (copy / "__pycache__").mkdir()  # what Python compiled may lie about
    (copy / "__pycache__" / "policy.cpython-311.pyc").write_bytes(b"")
    assert read_export(copy).targets == ("python",)
    po.fit(cache(), 2.0, "optimal_stopping").policy.save(copy / "policy.json")
    code, _, said = run("verify", copy)
    assert code == 2 and "'policy.json' was changed" in said
    sign(copy)
    code, _, said = run("verify", copy)
    assert code == 4 and "numpy batch: exit of golden row" in said and "Traceback" not in said


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), "'DIR' must be a folder"),
        (lambda d: (d / "manifest.json").write_text("{"), "'manifest.json' must be JSON"),
        (lambda d: (d / "manifest.json").write_text("[" * 10**5), "'manifest.json' must be"),
        (lambda d: sign(d, format="x"), "(format 'policyopt-export')"),
        (lambda d: sign(d, version=99), "'version of manifest.json' must be 1. Got 99. Use a"),
        (lambda d: sign(d, version=True), "'version of manifest.json'"),
        (lambda d: sign(d, extra=1), "unknown fields: extra. Export anew"),
        (lambda d: replaced(d / "manifest.json", '"rows": 100', '"rows": 7'), "after it was written.*Export anew"),
        (lambda d: sign(d, costs=[0.0] * 4), "'costs of manifest.json' must be .*as in policy"),
        (lambda d: sign(d, score="entropy"), "'score of manifest.json' must be 'advantage', as in"),
        (lambda d: sign(d, classes=999), "'classes of manifest.json'"),
        (lambda d: sign(d, unit="s"), "'unit of manifest.json'"),
        (lambda d: sign(d, active_exits=[0, 1]), "'active_exits of manifest.json'"),
        (lambda d: sign(d, rows=7), "sample of golden.npz"),
        (lambda d: sign(d, rows=0), "'rows of manifest.json' must be 1 or more"),
        (lambda d: sign(d, rows=10**18), "'golden.npz' must be of at most"),
        (lambda d: sign(d, boundary=0), "sample of boundary.npz"),
        (lambda d: sign(d, boundary=True), "'boundary in manifest.json'"),
        (lambda d: sign(d, left_out={"rows": 9, "of": 3, "ulps": []}), "'left_out of manifest"),
        (lambda d: sign(d, left_out={"rows": 0, "of": 3, "ulps": [1e9] * 3}), "'left_out of man"),
        (lambda d: sign(d, targets={}), "'targets of manifest.json'"),
        (lambda d: sign(d, targets={"rust": {"ulps": 0}}), "'targets of manifest.json'"),
        (lambda d: sign(d, targets={"python": {"ulps": 10**18}}), "{'ulps': 0} of python"),
        (lambda d: sign(d, targets={"python": {"ulps": False}}), "{'ulps': 0} of python"),
        (lambda d: sign(d, targets={"c": {"ulps": 64}}), "Got other: policy.py, policyopt_p"),
        (lambda d: sign(d, files=[]), "'files in manifest.json' must be of type dict"),
        (lambda d: sign(d, files={"policy.json": 0}), "must be a checksum by name"),
        (lambda d: sign(d, files={"../policy.json": "0"}), "'../policy.json' is missing"),
        (lambda d: sign(d, files={"policy.json": "0"}), "'boundary.npz' besides"),
        (lambda d: (d / "evil.txt").write_text("x"), "'evil.txt' besides"),
        (lambda d: (d / "onnx" / "deep").mkdir(parents=True), "'onnx/deep' besides"),
        (lambda d: (d / "link.py").symlink_to("policy.py"), "link.py .a link"),
        (lambda d: (d / "policy.py").unlink(), "'policy.py' is missing"),
        (lambda d: (d / "policy.py").write_text("pass"), "'policy.py' was changed"),
        (lambda d: (d / "golden.npz").write_bytes(b"PK"), "'golden.npz' was changed"),
        (lambda d: resigned(d, "golden.npz", b"PK"), "'golden.npz' must be an .npz"),
        (lambda d: resigned(d, "golden.npz", (d / "golden.npz").read_bytes()[:-300]), "an .npz of"),
        (lambda d: resigned(d, "policy.json", b"{}"), "policy.json"),
        (lambda d: sign(d, machine=[]), "'machine in manifest.json'"),
        (lambda d: sign(d, machine={}), MACHINE),
        *((partial(machine, **{name: value}), MACHINE)
          for name, value in (("x", 1), ("numpy", 2), ("libc", "x" * 999), ("features", "X86_V3"),
                              ("features", [1]), ("features", ["X"] * 999))),
        (arrays(lambda a: a.update({n: v[:0] for n, v in a.items()})), "sample of golden.npz"),
        (arrays(lambda a: a.update({"input0:logits": np.float32(3)})), "input0:logits of golden.npz"),
        (arrays(lambda a: a.update(prediction=a["prediction"][:, :1])), "prediction of golden.npz' must be <i4 of shape"),
        (arrays(lambda a: a.update({"input2:logits": a["input2:logits"][:, :1]})), "input2:logits of golden.npz"),
        (arrays(lambda a: a.update({"input²:logits": a["input0:logits"]})), "'input²:logits' besides"),
        (arrays(lambda a: a.pop("input1:logits")), "no 'input1:logits'"),
        (arrays(lambda a: a.pop("leave")), "no 'leave'"),
        (arrays(lambda a: a.update(score=a["score"].astype("f4"))), "score of golden.npz' must be <f8"),
        (arrays(lambda a: a.update(leave=a["leave"].astype("i8"))), "leave of golden.npz"),
        (arrays(lambda a: a.update({"input9:logits": a["input0:logits"]})), "'input9:logits' besides"),
        (arrays(lambda a: a["input0:logits"].fill(np.nan)), "output of exit 0"),
    ],
)  # fmt: skip
def test_folders_from_anyone(copy, damage, words):
    damage(copy)
    with pytest.raises(InputError, match=words):
        list(verify(copy))


def test_a_bomb_is_refused_by_name(copy):
    """64 KB that unpack to 64 MB: as the header says, or with a header that says less."""
    for rows in (10**9, 100):
        made = io.BytesIO()
        header = {"descr": "<i8", "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(made, header)
        with zipfile.ZipFile(copy / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sample.npy", made.getvalue() + bytes(1 << 26))
        sign(copy)
        with traced():
            with pytest.raises(InputError, match=r"golden\.npz"):
                list(verify(copy))
            assert tracemalloc.get_traced_memory()[1] < 16 << 20


# Thresholds, and what lies at them.
@pytest.mark.parametrize("by", [9e-6, -1e-7])
@pytest.mark.parametrize("rows_of", ["cache", "nothing"])
def test_thresholds_that_are_a_little_off_are_found(by, rows_of, tmp_path):
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    out, data = tmp_path / "out", cache(2000) if rows_of == "cache" else None
    exported(fitted("optimal_stopping"), out, ["c"], data=data)
    (right,) = [v for v in verify(out) if v.runtime == "c"]
    assert right.within < 1e-7
    header = out / "policyopt_policy.h"
    number = r"(const int32_t v\d+ = v\d+ >= )\(?(-?\d[\d.e+-]*)\)?;"
    moved = lambda m: f"{m[1]}{float(m[2]) + by!r};"  # noqa: E731
    text, count = re.subn(number, moved, header.read_text())
    assert count == 3
    resigned(out, header.name, text.encode())
    with pytest.raises(CheckError, match="c: exit"):
        list(verify(out))


@pytest.mark.parametrize("by", [1e-6, -1e-6])
@pytest.mark.parametrize(
    "spec", [f"{spec}spend=all" for spec in ("max_prob:", "entropy:", "max_prob:mix=true+thresholds=joint+", "beem:")]
)  # fmt: skip
def test_a_policy_with_other_thresholds_is_found_by_numpy(spec, by, tmp_path):
    """Every threshold by itself, in both arms of a mixture; whatever machine is named."""
    policy, tried, out = fitted(spec), 0, tmp_path / "out"
    exported(policy, out)
    for arm in [policy] if policy.mixture is None else [policy, policy.mixture]:
        for at in np.flatnonzero(np.abs(arm.thresholds) < 1e30):
            moved = arm.thresholds + by * (np.arange(len(arm.thresholds)) == at)
            other = replace(arm, thresholds=moved)
            (other if arm is policy else replace(policy, mixture=other)).save(out / "policy.json")
            for libc in (this_machine()["libc"], "another 1.0"):
                machine(out, libc=libc)
                with pytest.raises(CheckError, match="numpy batch: exit"):
                    list(verify(out))
            tried += 1
    assert tried >= 3


def test_edges_lie_on_both_sides_of_every_threshold():
    policy = replace(fitted("max_prob:spend=all"), mixture=Mixture([0.3, 0.4, 0.5], 0.3, seed=5))
    golden = golden_of(policy, trace_policy(policy), rows=64)
    boundary = golden.boundary
    gap = boundary.expected.score[:, :-1] - limits_of(policy, boundary.sample)
    for arm in (False, True):
        mine = gap[arms(policy, boundary.sample) == arm]
        for side in (mine >= 0, mine < 0):
            nearest = np.where(side, np.abs(mine), np.inf).min(axis=0)
            assert (nearest < 3e-7).all(), (arm, nearest)
    # Golden rows stand off by what rounding may decide, and no further than there are rows.
    assert (gaps(policy, golden) >= np.array(golden.left_out.ulps)).all()
    assert golden.left_out.of == 4096 and 0 <= golden.left_out.rows < 40
    # Ties are kept where scores are exact.
    policy = replace(fitted("patience"), thresholds=np.array([1.0, 1.0, 2.0]), mixture=None)
    golden = golden_of(policy, trace_policy(policy), rows=200)
    assert golden.left_out == LeftOut(0, 4096, (0.0, 0.0, 0.0))
    ties = golden.expected.score[:, :-1] == policy.thresholds
    assert ties[:, 1:].any(axis=0).all() and golden.expected.leave[:, :-1][ties].all()


def test_thresholds_of_summaries_are_met_wherever_they_lie():
    """A confidence that is given may be anything from 0 to 1: that of a text is often under a half."""
    policy = replace(
        fitted("max_prob"), kind="summary", classes=0, thresholds=np.array([0.7, 0.25, 0.04])
    )
    boundary = golden_of(policy, trace_policy(policy), rows=64).boundary
    gap = boundary.expected.score[:, :-1] - policy.thresholds
    for side in (gap >= 0, gap < 0):
        assert (np.where(side, np.abs(gap), np.inf).min(axis=0) < 1e-9).all()


def test_golden_rows_of_a_cache(export, tmp_path, monkeypatch):
    """Half of them are the nearest to the thresholds; so they are where the cache is read some rows at a time."""
    data, policy = cache(), load_policy(export / "policy.json")
    graphs = trace_policy(policy)
    golden = golden_of(policy, graphs, data, rows=100)
    assert len(golden) == 100 and golden.left_out.of == 1000
    key, places = data.rows("test")
    outputs = data.splits[key].array("outputs")[places]
    write_golden(golden, tmp_path / "golden.npz")
    again = read_golden(tmp_path / "golden.npz", policy, 100)
    scores = expect(policy, again.inputs, again.sample).expected.score
    assert (scores == golden.expected.score).all()
    monkeypatch.setattr("policyopt._export.samples.BYTES", 200 * row_bytes(policy, graphs))
    some = golden_of(policy, graphs, data, rows=100)
    assert some.left_out.of == 1000 and len(some) == 100
    every = policy.trace(outputs).scores
    gap, less, all_ = (s[:, :-1] - policy.thresholds for s in (scores, some.expected.score, every))
    assert np.median(np.abs(gap).min(axis=1)) < np.median(np.abs(all_).min(axis=1))
    for side in (1, -1):  # of each threshold
        near = [np.where(g * side > 0, np.abs(g), np.inf).min(axis=0) for g in (gap, less)]
        np.testing.assert_array_equal(*near)
    for each in (golden, some):
        assert (each.expected.exit == policy.decide(outputs[each.sample]).exit).all()
        for at, given in enumerate(each.inputs):
            np.testing.assert_array_equal(given["logits"], outputs[each.sample, at])
    other = po.from_arrays(np.zeros((20, 2, 3)), np.zeros(20, int), costs=[1, 2])
    with pytest.raises(InputError, match="'cache' must be logits of 4 exits"):
        golden_of(policy, graphs, other)
    with pytest.raises(InputError, match="'--to' must be of python, onnx, c"):
        write_bundle(policy, tmp_path / "out", ["rust"], golden)


# Serving.
def test_serving_that_decides_otherwise_is_found(export):
    pytest.importorskip("torch")
    read = read_export(export)
    ran = {name: run(read.policy, read.golden) for name, run in runners().items()}
    for name, found in ran.items():
        if isinstance(found, str):
            continue
        assert (np.asarray(read.policy.active_exits)[read.golden.expected.exit] == found.exit).all()
        wrong = [(replace(found, exit=found.exit[1:]), "golden rows came")]
        for what in ("exit", "prediction"):
            column = getattr(found, what).copy()
            column[3] = (column[3] + 1) % 4
            wrong.append((replace(found, **{what: column}), f"{name}: .* of golden row 3"))
        for told, words in wrong:
            with pytest.raises(CheckError, match=words):
                list(verify(read, {name: lambda *_, told=told: told}))


@pytest.mark.parametrize(
    "kind", ["active_exits", "probabilities", "summary", "features", *rules.KIND_SCORES]
)
def test_serving_is_verified_for_every_kind_of_policy(kind, tmp_path):
    pytest.importorskip("torch")
    policy = {
        "features": lambda: on_features("e2cm:vectors=features"),
        "active_exits": lambda: replace(fitted("margin"), active_exits=(0, 2, 3, 5), model_exits=7),
        "summary": lambda: replace(fitted("patience"), kind=kind),
        "probabilities": lambda: replace(fitted("max_prob"), kind=kind),
    }.get(kind, lambda: rules.of_kind(kind))()
    exported(policy, tmp_path / "out")
    found = list(verify(tmp_path / "out", runners()))
    served = found[-3:]  # after the targets: what is wrong with one is told first
    assert "torch server" in served[0].runtime and not any(v.absent for v in served[:2])
    assert "one of logits alone" in served[2].absent or kind == "active_exits"


# Sizes: memory is bounded, or the policy refused before it is taken.
@pytest.mark.slow
def test_fifty_thousand_classes(tmp_path, run):
    """Once 7.5 GB; rows lie on both sides of every threshold."""
    entropy = make_rule("entropy", {"classes": 50_000})
    policy = Policy(entropy, [0.6] * 4, np.arange(1.0, 6), "ms", "logits", 50_000)
    policy.save(tmp_path / "policy.json")
    with traced():
        code, _, said = run("export", tmp_path / "policy.json", "--out", tmp_path / "out")
        assert code == 0 and "golden rows of 512: each takes 1,000,320 bytes, all 32 MiB at" in said
        more = ("--format", "json", "--require", "python,onnx")
        code, out, said = run("verify", tmp_path / "out", *more)
        assert code == 0 and tracemalloc.get_traced_memory()[1] < 600 << 20, said
    assert all(row["absent"] or (row["error_ulps"] or 0) <= 64 for row in json.loads(out))
    for file in ("golden.npz", "boundary.npz"):
        with np.load(tmp_path / "out" / file) as arrays:
            leave = arrays["leave"][:, :-1]
            assert (leave.sum(axis=0) >= 3).all() and ((~leave).sum(axis=0) >= 3).all()
            assert sum(arrays[name].nbytes for name in arrays) < 2 * BYTES


@pytest.mark.parametrize(("exits", "classes"), [(2, 10**7), (5, 2_000_000), (30, 60_000), (100_000, 2), (5_000, 2)])  # fmt: skip
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_small_file_that_declares_much_is_refused_first(exits, classes, kind, run, tmp_path):
    path, costs = tmp_path / "policy.json", np.arange(1.0, exits + 1)
    Policy(MaxProb(), [0.6] * (exits - 1), costs, "ms", kind, classes).save(path)
    with traced():
        code, _, said = run("export", path, "--out", tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
    assert code == 2 and f"at most {MOST_BYTES >> 20} MiB" in said, said
    assert f"{exits} exits of {classes} classes" in said
    assert most < (32 << 20) + 60 * path.stat().st_size and not (tmp_path / "out").exists()


# Between machines: numpy with and without the processor's features, in processes of their own.
FOUND = " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", ()))
#: numpy with all that this processor has; without its widest vectors; with none but the baseline.
PROCESSORS = {"all": "", "narrower": " ".join(FOUND.split()[1:]), "baseline": FOUND}
ALL_RULES = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from rules import policies
from policyopt._export.bundle import read_export, write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import verify
from policyopt.runtime._errors import CheckError

what, folder = sys.argv[2], Path(sys.argv[3])
for name, policy in policies().items():
    both = policy.kind == "logits" and name.startswith(("answer", "score advantage", "score entropy"))
    for kind in ("logits", "probabilities") if both else (policy.kind,):
        policy, place = replace(policy, kind=kind), folder / f"{name} {kind}".replace(" ", "_")
        if what == "write":
            graphs = trace_policy(policy)
            write_bundle(policy, place, ["python"], golden_of(policy, graphs, rows=60), graphs)
            continue
        try:
            found = list(verify(read_export(place)))
            print(place.name, found[0].error, found[0].turned, sum(v.turned for v in found[1:]))
        except CheckError as error:
            print(place.name, error)
"""


def on(processor, *words):
    more = {"NPY_DISABLE_CPU_FEATURES": PROCESSORS[processor], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **more})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Every rule, some of probabilities too, exported with all features and with none."""
    if not FOUND:
        pytest.skip("numpy has no features to disable here")
    place = tmp_path_factory.mktemp("machines")
    for processor in ("all", "baseline"):
        on(processor, "-c", ALL_RULES, Path(__file__).parents[1], "write", place / processor)
    return place


@pytest.mark.parametrize(
    ("by", "at"),
    [("all", "baseline"), ("baseline", "all"), ("all", "narrower"), ("baseline", "baseline")],
)
def test_every_rule_verifies_on_another_processor(by, at, exports):
    """Within the ulps stated, and exits equal but at a threshold; some differ, or nothing was tried."""
    told = on(at, "-c", ALL_RULES, Path(__file__).parents[1], "read", exports / by)
    lines = [line.split(maxsplit=1) for line in told.splitlines()]
    assert len(lines) > 35 and not [line for line in lines if len(line[1].split()) != 3]
    figures = np.nan_to_num(np.array([said.split() for _, said in lines], float))
    assert (figures[:, 2] == 0).all()  # all else is compared with numpy here, and equal
    if by == at:  # the machine that exported: to the bit
        assert (figures == 0).all()
    elif at != "narrower":
        assert (figures[:, 0] > 0).sum() > 20 and figures[:, 1].sum() > 0
        plain = [error for (name, _), error in zip(lines, figures[:, 0], strict=True)
                 if name.split("_logits")[0] in ("score_max_prob", "score_margin", "score_entropy")]  # fmt: skip
        assert len(plain) == 3 and max(plain) <= 4


def turned(arrays):
    arrays["leave"][:, 0] = ~arrays["leave"][:, 0]


def turned_with_scores(arrays):
    """A golden row that says of itself, consistently, that it left: far from the threshold."""
    row = int(np.argmin(arrays["score"][:, 0]))
    arrays["leave"][row, 0], arrays["score"][row, 0] = True, 0.6 + 1e-9


NUMPY = "numpy batch: .* of golden row"
FAULTS = {
    "an answer": (arrays(lambda a: np.add.at(a["prediction"], (7, 1), 1)), NUMPY),
    "a score": (arrays(lambda a: np.add.at(a["score"], (7, 1), 2e-5)), NUMPY),
    "a confidence": (arrays(lambda a: np.add.at(a["confidence"], (7, 0), 2e-5)), NUMPY),
    "exits": (arrays(turned), NUMPY), "an exit and its score": (arrays(turned_with_scores), NUMPY),
    "exits at thresholds": (lambda d: edit(d, turned, "boundary.npz"), NUMPY),
    "a sign": (lambda d: replaced(d / "policy.py", "np.log1p(", "-np.log1p("), "python: "),
    "no step": (lambda d: replaced(d / "policy.py", "def step(", "def other("),
                "python: does not run: KeyError"),
    "no Python": (lambda d: replaced(d / "policy.py", "import math", "import math,,"),
                  "python: does not run: SyntaxError"),
}  # fmt: skip


@pytest.mark.parametrize("forged", [{}, {"libc": "another 1.0"}])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_whatever_machine_is_named(fault, forged, exports, tmp_path):
    """The name of another machine loosens equality to the ulps stated, and nothing else."""
    folder = shutil.copytree(exports / "all" / "score_entropy_logits", tmp_path / "copy")
    damage, words = FAULTS[fault]
    damage(folder)
    machine(folder, **forged)
    with pytest.raises(CheckError, match=words):
        list(verify(folder))


def test_the_command_tells_what_turned(exports):
    verifying = ["-m", "policyopt", "verify", exports / "all" / "score_entropy_logits"]
    words = " ".join(on("baseline", *verifying).split())
    assert "Exported on another processor or C library" in words and "of the 64 stated" in words
    assert re.search(r"[1-9]\d* rows at a threshold leave otherwise", words)
