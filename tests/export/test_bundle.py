"""`policyopt export` and `policyopt verify`: whole folders, first differences, and folders from anyone."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from policies import fitted
from synthetic import cache

import policyopt as po
from policyopt._cli.export import runners
from policyopt._export.bundle import checksum, read_export, write_bundle
from policyopt._export.golden import LeftOut, expect, read_golden, write_golden
from policyopt._export.samples import gaps, golden_of, limits_of
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import verify
from policyopt.runtime._artifact import load_policy
from policyopt.runtime._decision import Mixture
from policyopt.runtime._errors import CheckError, InputError
from policyopt.runtime._policy import arms
from policyopt.runtime._strict_json import digest_of


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    po.fit(cache(), 3.7, "optimal_stopping").policy.save(folder / "policy.json")
    done = cli(
        "export", folder / "policy.json", "--to", "python", "--out", folder / "out", "--rows", 100
    )
    assert done.returncode == 0, done.stderr
    return folder / "out"


@pytest.fixture
def copy(export, tmp_path):
    return shutil.copytree(export, tmp_path / "copy")


def cli(*words):
    command = [sys.executable, "-m", "policyopt", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def sign(folder, **fields):
    """Make the manifest agree with files and fields that were changed."""
    manifest = {**json.loads((folder / "manifest.json").read_text()), **fields}
    if "files" not in fields:
        manifest["files"] = {
            name: checksum(folder / name) for name in manifest["files"] if (folder / name).exists()
        }
    manifest["sha256"] = digest_of({n: v for n, v in manifest.items() if n != "sha256"})
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_what_was_exported_verifies(export):
    found = {v.runtime: v for v in verify(export)}
    assert {"numpy batch", "numpy step", "python"} <= found.keys()
    edges = read_export(export).edges
    assert edges >= 3 * 4  # inner exits, and rows on both sides of each
    for v in found.values():
        assert v.absent or v.rows == 100 + edges, v
        assert not v.error, v
        assert v.absent or v.within < 1e-6, v
    done = cli("verify", export, "--format", "json", "--require", "python")
    assert done.returncode == 0, done.stderr
    rows = {row["runtime"]: row for row in json.loads(done.stdout)}
    assert rows.keys() == found.keys() | set(runners())
    assert all(r["absent"] or r["threshold_within"] < 1e-6 for r in rows.values())
    done = cli("verify", export)
    assert f"{edges} of the rows lie at thresholds" in done.stdout
    done = cli("verify", export, "--require", "c")
    assert done.returncode == 4 and "c could not be run" in done.stderr


def test_a_policy_that_was_changed_is_found(copy):
    """Golden vectors are of one policy: another, whole in itself, fails with exit code 4."""
    po.fit(cache(), 2.0, "optimal_stopping").policy.save(copy / "policy.json")
    done = cli("verify", copy)
    assert done.returncode == 2 and "'policy.json' was changed" in done.stderr
    sign(copy)
    done = cli("verify", copy)
    assert done.returncode == 4
    assert "numpy batch: exit of golden row" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("np.maximum(", "np.minimum(", "python: "),
        ("np.log(", "np.log2(", "python: "),
        ("def step(", "def stepp(", "python: does not run: KeyError"),
        ("import math", "import math,,", "python: does not run: SyntaxError"),
    ],
)
def test_a_file_that_decides_otherwise_is_found(copy, old, new, words):
    text = (copy / "policy.py").read_text()
    assert old in text
    (copy / "policy.py").write_text(text.replace(old, new))
    sign(copy)
    with pytest.raises(CheckError, match=words):
        list(verify(copy))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda d: (d / "manifest.json").unlink(), "'DIR' must be a folder"),
        (lambda d: (d / "manifest.json").write_text("{"), "'manifest.json' must be JSON"),
        (lambda d: (d / "manifest.json").write_text("[" * 10**5), "'manifest.json' must be"),
        (lambda d: sign(d, format="x"), "of format 'policyopt-export'"),
        (lambda d: sign(d, version=99), "'version of manifest.json' must be 1. Got 99. Update"),
        (lambda d: sign(d, version=2), "'version of manifest.json' must be 1. Got 2"),
        (lambda d: sign(d, version=True), "'version of manifest.json'"),
        (lambda d: sign(d, extra=1), "'fields of manifest.json'"),
        (lambda d: change(d, rows=7), "'manifest.json' must be as it was written"),
        (lambda d: sign(d, costs=[0.0] * 4), "'costs of manifest.json' must be .*as in policy"),
        (lambda d: sign(d, score="entropy"), "'score of manifest.json' must be 'advantage', as in"),
        (lambda d: sign(d, classes=999), "'classes of manifest.json'"),
        (lambda d: sign(d, unit="s"), "'unit of manifest.json'"),
        (lambda d: sign(d, path=[0, 1]), "'path of manifest.json'"),
        (lambda d: sign(d, rows=7), "sample of golden.npz"),
        (lambda d: sign(d, rows=0), "'rows of manifest.json' must be 1 or more"),
        (lambda d: sign(d, rows=10**18), "'golden.npz' must be of at most"),
        (lambda d: sign(d, edges=0), "sample of edges.npz"),
        (lambda d: sign(d, edges=True), "'edges of manifest.json'"),
        (lambda d: sign(d, left_out={"rows": 9, "of": 3, "ulps": []}), "'left_out of manifest"),
        (lambda d: sign(d, left_out={"rows": 0, "of": 3, "ulps": [1e9] * 3}), "'left_out of man"),
        (lambda d: sign(d, targets={}), "'targets of manifest.json'"),
        (lambda d: sign(d, targets={"rust": {"ulps": 0}}), "'targets of manifest.json'"),
        (lambda d: sign(d, targets={"python": {"ulps": 10**18}}), "{'ulps': 0} of python"),
        (lambda d: sign(d, targets={"python": {"ulps": False}}), "{'ulps': 0} of python"),
        (lambda d: sign(d, targets={"c": {"ulps": 64}}), "Got other: policy.py, policyopt_p"),
        (lambda d: sign(d, files=[]), "'files of manifest.json' must be a checksum by name"),
        (lambda d: sign(d, files={"../policy.json": "0"}), "'../policy.json' is missing"),
        (lambda d: unlisted(d), "'policy.py' besides"),
        (lambda d: (d / "evil.txt").write_text("x"), "'evil.txt' besides"),
        (lambda d: (d / "onnx" / "deep").mkdir(parents=True), "'onnx/deep' besides"),
        (lambda d: (d / "link.py").symlink_to("policy.py"), "link.py .a link"),
        (lambda d: (d / "policy.py").unlink(), "'policy.py' is missing"),
        (lambda d: (d / "policy.py").write_text("pass"), "'policy.py' was changed"),
        (lambda d: (d / "golden.npz").write_bytes(b"PK"), "'golden.npz' was changed"),
        (lambda d: resigned(d, "golden.npz", b"PK"), "'golden.npz' must be an .npz"),
        (lambda d: resigned(d, "policy.json", b"{}"), "policy.json"),
    ],
)
def test_folders_from_anyone(copy, damage, words):
    damage(copy)
    with pytest.raises(InputError, match=words):
        list(verify(copy))


def test_what_python_compiled_may_lie_about(copy):
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__" / "policy.cpython-311.pyc").write_bytes(b"")
    assert read_export(copy).targets == ("python",)


def change(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def resigned(folder, name, content):
    (folder / name).write_bytes(content)
    sign(folder)


def unlisted(folder):
    """A file that was edited, and its checksum taken away."""
    (folder / "policy.py").write_text("pass")
    files = json.loads((folder / "manifest.json").read_text())["files"]
    sign(folder, files={name: digest for name, digest in files.items() if name != "policy.py"})


def arrays_of(folder):
    with np.load(folder / "golden.npz") as file:
        return dict(file)


def cut(arrays, name):
    arrays[name] = arrays[name][:, :1]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda a: a.update({n: v[:0] for n, v in a.items()}), "sample of golden.npz"),
        (lambda a: a.update({"input0:logits": np.float32(3)}), "input0:logits of golden.npz"),
        (lambda a: cut(a, "prediction"), "prediction of golden.npz' must be <i4 of shape"),
        (lambda a: cut(a, "input2:logits"), "input2:logits of golden.npz"),
        (lambda a: a.update({"input²:logits": a["input0:logits"]}), "'input²:logits' besides"),
        (lambda a: a.pop("input1:logits"), "no 'input1:logits'"),
        (lambda a: a.pop("leave"), "no 'leave'"),
        (lambda a: a.update(score=a["score"].astype("f4")), "score of golden.npz' must be <f8"),
        (lambda a: a.update(leave=a["leave"].astype("i8")), "leave of golden.npz"),
        (lambda a: a.update({"input9:logits": a["input0:logits"]}), "'input9:logits' besides"),
        (lambda a: a["input0:logits"].fill(np.nan), "output of exit 0"),
    ],
)
def test_golden_vectors_from_anyone(copy, edit, words):
    arrays = arrays_of(copy)
    edit(arrays)
    np.savez(copy / "golden.npz", **arrays)
    sign(copy)
    with pytest.raises(InputError, match=words):
        list(verify(copy))


def test_a_cut_archive_and_a_bomb_are_refused_by_name(copy):
    whole = (copy / "golden.npz").read_bytes()
    resigned(copy, "golden.npz", whole[:-300])
    done = cli("verify", copy)
    assert done.returncode == 2 and "'golden.npz' must be an .npz of golden vectors" in done.stderr
    # 64 KB that unpack to 64 MB: as the header says, or with a header that says less.
    for rows in (10**9, 100):
        made = io.BytesIO()
        header = {"descr": "<i8", "fortran_order": False, "shape": (rows,)}
        np.lib.format.write_array_header_1_0(made, header)
        with zipfile.ZipFile(copy / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("sample.npy", made.getvalue() + bytes(1 << 26))
        sign(copy)
        tracemalloc.start()
        try:
            with pytest.raises(InputError, match=r"golden\.npz"):
                list(verify(copy))
            assert tracemalloc.get_traced_memory()[1] < 16 << 20
        finally:
            tracemalloc.stop()


def test_an_export_replaces_an_export_and_nothing_else(export, tmp_path):
    policy = load_policy(export / "policy.json")
    golden = golden_of(policy, trace_policy(policy), rows=20)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "work.txt").write_text("hours")
    with pytest.raises(InputError, match="'--out' must be a new folder"):
        write_bundle(policy, tmp_path / "mine", ["python"], golden)
    with pytest.raises(InputError, match="'--to' must be of python, onnx, c"):
        write_bundle(policy, tmp_path / "out", ["rust"], golden)
    for _ in range(2):
        write_bundle(policy, tmp_path / "out", ["python"], golden)
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "out"}


def thresholds_shifted(source, by):
    """Return a C header with every threshold moved."""
    number = r"(const int v\d+ = v\d+ >= )\(?(-?\d[\d.e+-]*)\)?;"
    found, count = re.subn(number, lambda m: f"{m[1]}{float(m[2]) + by!r};", source)
    assert count == 3
    return found


@pytest.mark.parametrize("by", [9e-6, -1e-7])
@pytest.mark.parametrize("rows_of", ["cache", "nothing"])
def test_thresholds_that_are_a_little_off_are_found(by, rows_of, tmp_path):
    """Rows at the thresholds tell, though no row of the cache lies between the right and the wrong one."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    policy = fitted("optimal_stopping")
    graphs = trace_policy(policy)
    golden = golden_of(policy, graphs, cache(2000) if rows_of == "cache" else None, rows=64)
    write_bundle(policy, tmp_path / "out", ["c"], golden, graphs)
    (right,) = [v for v in verify(tmp_path / "out") if v.runtime == "c"]
    assert right.within < 1e-7
    header = tmp_path / "out" / "policyopt_policy.h"
    header.write_text(thresholds_shifted(header.read_text(), by))
    sign(tmp_path / "out")
    with pytest.raises(CheckError, match="c: exit"):
        list(verify(tmp_path / "out"))


@pytest.mark.parametrize("by", [1e-6, -1e-6])
@pytest.mark.parametrize(
    "spec", ["max_prob", "entropy", "max_prob:thresholds=joint+mix=true", "beem"]
)
def test_a_policy_with_other_thresholds_is_found_by_numpy(spec, by, tmp_path):
    """Every threshold by itself, in both arms of a mixture."""
    policy = fitted(spec)
    golden = golden_of(policy, trace_policy(policy), rows=64)
    write_bundle(policy, tmp_path / "out", ["python"], golden)
    arms = [policy] if policy.mixture is None else [policy, policy.mixture]
    tried = 0
    for arm in arms:
        for at in np.flatnonzero(np.abs(arm.thresholds) < 1e30):
            moved = arm.thresholds + by * (np.arange(len(arm.thresholds)) == at)
            other = replace(arm, thresholds=moved)
            other = other if arm is policy else replace(policy, mixture=other)
            other.save(tmp_path / "out" / "policy.json")
            sign(tmp_path / "out")
            tried += 1
            with pytest.raises(CheckError, match="numpy batch: exit"):
                list(verify(tmp_path / "out"))
    assert tried >= 3


def test_edges_lie_on_both_sides_of_every_threshold():
    policy = replace(fitted("max_prob"), mixture=Mixture([0.3, 0.4, 0.5], 0.3, seed=5))
    golden = golden_of(policy, trace_policy(policy), rows=64)
    edges = golden.edges
    gap = edges.expected.score[:, :-1] - limits_of(policy, edges.sample)
    for arm in (False, True):
        mine = gap[arms(policy, edges.sample) == arm]
        for side in (mine >= 0, mine < 0):
            nearest = np.where(side, np.abs(mine), np.inf).min(axis=0)
            assert (nearest < 3e-7).all(), (arm, nearest)
    # Golden rows stand off by what rounding may decide, and no further than there are rows.
    off = gaps(policy, golden)
    assert (off >= np.array(golden.left_out.ulps)).all()
    assert golden.left_out.of == 4096 and 0 <= golden.left_out.rows < 40


def test_ties_are_kept_where_scores_are_exact():
    policy = replace(fitted("patience"), thresholds=np.array([1.0, 1.0, 2.0]))
    golden = golden_of(policy, trace_policy(policy), rows=200)
    assert golden.left_out == LeftOut(0, 4096, (0.0, 0.0, 0.0))
    ties = golden.expected.score[:, :-1] == policy.thresholds
    assert ties[:, 1:].any(axis=0).all() and golden.expected.leave[:, :-1][ties].all()


def test_serving_that_decides_otherwise_is_found(export):
    pytest.importorskip("torch")
    read = read_export(export)
    for name, runner in runners().items():
        found = runner(read.policy, read.golden)
        if isinstance(found, str):
            continue
        assert (np.asarray(read.policy.path)[read.golden.expected.exit] == found.exit).all()
        for what in ("exit", "prediction"):
            wrong = getattr(found, what).copy()
            wrong[3] = (wrong[3] + 1) % 4
            says = partial(lambda told, *_: told, replace(found, **{what: wrong}))
            with pytest.raises(CheckError, match=f"{name}: .* of golden row 3"):
                list(verify(read, {name: says}))


@pytest.mark.parametrize("kind", ["kept", "probabilities", "record", "features"])
def test_serving_is_verified_for_every_kind_of_policy(kind, tmp_path):
    pytest.importorskip("torch")
    data, more = cache(400), {}
    if kind == "features":
        rng = np.random.default_rng(0)
        data = cache(400, features=[rng.normal(size=(400, 3 + k)).astype("f4") for k in range(4)])
        policy = po.fit(data, 3.7, "e2cm:vectors=features").policy
    else:
        policy = fitted("patience") if kind == "record" else fitted("max_prob")
        more = {"kept": (0, 2, 3, 5), "model_exits": 7} if kind == "kept" else {"kind": kind}
        policy = replace(policy, **more)
    write_bundle(policy, tmp_path / "out", ["python"], golden_of(policy, trace_policy(policy)))
    found = list(verify(tmp_path / "out", runners()))
    served = [v for v in found if v.runtime.startswith("torch server")]
    assert len(served) == 3 and not any(v.absent for v in served[:2])
    assert "only policies of logits" in served[2].absent or kind == "kept"


def test_golden_rows_of_a_cache(export, tmp_path):
    data = cache()
    policy = load_policy(export / "policy.json")
    golden = golden_of(policy, trace_policy(policy), data, rows=100)
    assert len(golden) == 100
    key, places = data.rows("test")
    outputs = data.splits[key].array("outputs")[places][golden.sample]
    assert (golden.expected.exit == policy.decide(outputs).exit).all()
    write_golden(golden, tmp_path / "golden.npz")
    again = read_golden(tmp_path / "golden.npz", policy, 100)
    assert (
        expect(policy, again.inputs, again.sample).expected.score == golden.expected.score
    ).all()
    # Half of them are the nearest to the thresholds: nearer than rows drawn by lot.
    gap = np.abs(golden.expected.score[:, :-1] - policy.thresholds).min(axis=1)
    every = policy.trace(data.splits[key].array("outputs")[places]).scores[:, :-1]
    assert np.median(gap) < np.median(np.abs(every - policy.thresholds).min(axis=1))
    other = po.from_arrays(np.zeros((20, 2, 3)), np.zeros(20, int), costs=[1, 2])
    with pytest.raises(InputError, match="'cache' must be logits of 4 exits"):
        golden_of(policy, trace_policy(policy), other)
