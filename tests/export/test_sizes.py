"""Exports of policies of very many classes or exits: memory is bounded, or the policy refused before it is taken."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from synthetic import cache

from policyopt._export.golden import BYTES, MOST_BYTES, row_bytes
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb, make_rule

#: One command line in a process of its own; how far memory rose over what importing took.
CHILD = """
import resource, sys
import onnx, onnxruntime, scipy, torch
import policyopt._cli.export, policyopt._cli.export, policyopt._export.onnx_graphs, policyopt.serving
from policyopt._cli.app import main
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    main()
finally:
    print("rose", (peak() - before) // 1024, file=sys.stderr)
"""


def made(score, exits, classes, kind="logits"):
    rule = MaxProb() if score == "max_prob" else make_rule(score, {"classes": classes})
    costs = np.arange(1.0, exits + 1)
    return Policy(rule, [0.6] * (exits - 1), costs, "ms", kind, classes)


def in_a_child(*words):
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, words)], capture_output=True, text=True
    )
    return done, int(done.stderr.split("rose ")[-1])


@pytest.mark.slow
def test_fifty_thousand_classes(tmp_path):
    """Once 7.5 GB: each command stays within 1 GB more than its imports; rows lie on both sides."""
    pytest.importorskip("resource")
    made("entropy", 5, 50_000).save(tmp_path / "policy.json")
    done, rose = in_a_child("export", tmp_path / "policy.json", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert rose < 1000, rose
    assert "golden rows of 512: each takes 1,000,320 bytes, all 32 MiB at most" in done.stderr
    for file in ("golden.npz", "edges.npz"):
        with np.load(tmp_path / "out" / file) as arrays:
            leave = arrays["leave"][:, :-1]
            assert (leave.sum(axis=0) >= 3).all() and ((~leave).sum(axis=0) >= 3).all()
            assert sum(arrays[name].nbytes for name in arrays) < 2 * BYTES
    done, rose = in_a_child(
        "verify", tmp_path / "out", "--format", "json", "--require", "python,onnx"
    )
    assert done.returncode == 0, done.stderr
    assert rose < 1000, rose
    assert all(row["absent"] or row["error_ulps"] is None or row["error_ulps"] <= 64
               for row in json.loads(done.stdout))  # fmt: skip


@pytest.mark.parametrize(
    ("exits", "classes"), [(2, 10**7), (5, 2_000_000), (30, 60_000), (100_000, 2), (5_000, 2)]
)
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_a_small_file_that_declares_much_is_refused_first(exits, classes, kind, run, tmp_path):
    path = tmp_path / "policy.json"
    made("max_prob", exits, classes, kind).save(path)
    tracemalloc.start()
    try:
        code, _, said = run("export", path, "--out", tmp_path / "out")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert code == 2, said
    assert (
        f"at most {MOST_BYTES >> 20} MiB" in said and f"{exits} exits of {classes} classes" in said
    )
    assert most < (32 << 20) + 60 * path.stat().st_size and not (tmp_path / "out").exists()


def test_a_cache_is_read_some_rows_at_a_time(monkeypatch):
    """The rows kept are as near to the thresholds as those of the whole cache at once."""
    policy, data = made("max_prob", 4, 6), cache(3000)
    graphs = trace_policy(policy)
    whole = golden_of(policy, graphs, data, rows=40)
    assert whole.left_out.of == 1500
    monkeypatch.setattr("policyopt._export.samples.BYTES", 200 * row_bytes(policy, graphs))
    some = golden_of(policy, graphs, data, rows=40)
    assert some.left_out.of == 1500 and len(some) == len(whole) == 40

    gap, other = (golden.expected.score[:, :-1] - 0.6 for golden in (some, whole))
    for side in (1, -1):  # of each threshold
        np.testing.assert_array_equal(*(
            np.where(g * side > 0, np.abs(g), np.inf).min(axis=0) for g in (gap, other)
        ))  # fmt: skip
    key, places = data.rows("test")
    outputs = data.splits[key].array("outputs")[places]
    for at, given in enumerate(some.inputs):
        np.testing.assert_array_equal(given["logits"], outputs[some.sample, at])
