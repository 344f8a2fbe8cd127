"""The runtime: reduced outputs against scipy, the coin, files of policies, and that it needs numpy alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import signed
from scipy.special import log_softmax, logsumexp
from scipy.stats import kstest

from policyopt._cache.data import Rows
from policyopt._table import exit_statistics
from policyopt.runtime import ALWAYS, NEVER, InputError, Mixture, Policy, load_policy
from policyopt.runtime._arithmetic import coin, distances, key_of, lookup, row_product
from policyopt.runtime._checks import (
    check_names,
    check_seed,
    check_text,
    check_whole,
    sample_numbers,
)
from policyopt.runtime._forks import parted
from policyopt.runtime._outputs import reduce_logits, reduce_probabilities
from policyopt.runtime._policy import from_dict, to_dict
from policyopt.runtime._scores import Entropy, MaxProb, Patience
from policyopt.runtime._text import csv_cell, picture_text, printable

LOGITS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12),
    elements=st.floats(-60, 60, width=32),
)


@given(LOGITS)
def test_reduction_agrees_with_scipy(logits):
    out = reduce_logits(logits)
    exact = logits.astype(np.float64)
    logp = log_softmax(exact, axis=1)
    p = np.exp(logp)
    ordered = np.sort(p, axis=1)[:, ::-1]
    top = min(3, logits.shape[1])
    np.testing.assert_array_equal(out.prediction, logits.argmax(axis=1))
    np.testing.assert_allclose(out.top_prob, ordered[:, :top], rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(np.take_along_axis(p, out.top_class, 1), ordered[:, :top], rtol=1e-5)
    np.testing.assert_allclose(out.entropy, -(p * logp).sum(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out.log_sum_exp, logsumexp(exact, axis=1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_pass_equals_the_step(dtype, monkeypatch):
    """Chunks, threads, strides; what is too large for memory goes to a file; NaN is named."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(700, 3, 100)) * 6).astype(dtype)
    labels = rng.integers(0, 100, 700)
    halves = [{"outputs": logits[s], "labels": labels[s]} for s in (slice(300), slice(300, None))]
    rows = Rows(tuple(halves))
    for threads, most in ((1, 1 << 30), (3, 1000)):
        monkeypatch.setattr("policyopt._table._SPILL_BYTES", most)
        table = exit_statistics(rows, "logits", threads=threads)
        assert isinstance(table.top_prob, np.memmap) == (most == 1000)
        for row in (0, 1, 299, 300, 699):
            for k in range(3):
                alone = reduce_logits(logits[row, k][None])
                np.testing.assert_array_equal(table.top_prob[row, k], alone.top_prob[0])
                np.testing.assert_array_equal(table.entropy[row, k], alone.entropy[0])
    np.testing.assert_array_equal(table.correct, logits.argmax(-1) == labels[:, None])
    logits[331, 1, 2] = np.nan
    with pytest.raises(InputError, match="row 331 at exit 1"):
        exit_statistics(rows, "logits")


def test_saturated_confidences_keep_their_order_and_probabilities_are_reduced():
    """Softmax in float32 would give 1.0 for all of these."""
    logits = np.array([[20.0, 0], [25.0, 0], [30.0, 0]], dtype=np.float32)
    assert (np.diff(reduce_logits(logits).confidence) > 0).all()
    p = np.random.default_rng(0).dirichlet(np.ones(5), 50)
    np.testing.assert_allclose(reduce_probabilities(p).confidence, p.max(axis=1), rtol=1e-6)


def test_the_coin_is_fair_independent_and_pinned():
    numbers = np.arange(50_000)
    draws = coin(7, numbers)
    assert kstest(draws, "uniform").pvalue > 0.001
    for other in (coin(8, numbers), coin(7, numbers, stream=1), np.roll(draws, 1)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.02
    assert (draws == draws.astype(np.float32)).all()  # float32 runtimes hold them exactly
    # Golden values: every runtime and every version must draw these.
    golden = [0.26913028955459595, 0.6532002687454224, 0.5781814455986023]
    assert coin(0, np.array([0, 1, 2])).tolist() == golden
    mixture = Mixture(np.array([NEVER]), 0.25, seed=3)
    policy = Policy(Patience(), [ALWAYS], [1.0, 2.0], "ms", "logits", 2, mixture)
    assert policy.decide(np.zeros((20_000, 2, 2))).exit.mean() == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (lambda: hex(key_of(0, 0)), "0x8b4fda8c892b50e"),
        (lambda: row_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [0.5, 0.0]])).tolist(), [[11, 0.5]]),
        (lambda: distances(np.zeros((1, 2)), np.array([[3.0, 4.0], [0.0, 1.0]])).tolist(), [[5, 1]]),
        (lambda: lookup(np.array([1.0, 2.0, 3.0]), np.array([0, -1])).tolist(), [1, 3]),
        (lambda: len({parted(stream, (fork,)) for stream in range(9) for fork in range(9)}), 81),
        (lambda: sample_numbers(None, 2).tolist(), [0, 1]), (lambda: sample_numbers(7).tolist(), 7),
        (lambda: [check_whole("n", np.int64(5)), check_seed(0), check_text("u", "µJ")], [5, 0, "µJ"]),
        (lambda: [check_names("s", "test, blur"), check_names("s", ["a"])], [("test", "blur"), ("a",)]),
        (lambda: printable("a\x1b[31m\u202eb"), "a\\x1b[31m\\u202eb"), (lambda: printable("0123456789", 7), "01...89"),
        (lambda: printable("postgresql://me:secret@host/db"), "postgresql://me:***@host/db"),
        (lambda: [csv_cell(x) for x in (-0.3, "-0.3", "=1+1", "a\rb")], [-0.3, "-0.3", "'=1+1", "a\\rb"]),
        (lambda: picture_text("$/call"), "\\$/call"),
    ],
)  # fmt: skip
def test_small_things_by_hand(found, wanted):
    assert found() == wanted


@pytest.mark.parametrize("name", ["combined", "kept"])
def test_golden_files(root, name):
    """Files as they were once written, and what they decided: they must load and decide so."""
    folder = root / "tests" / "golden"
    golden = json.loads((folder / f"decisions_{name}.json").read_text())
    logits = np.array(golden["logits"], dtype=np.float32)
    policy = load_policy(folder / f"policy_{name}.json")
    assert (policy.path == (0, 2, 3)) == (name == "kept")
    trace = policy.trace(logits)
    assert trace.exit.tolist() == golden["exits"]
    assert trace.taken.tolist() == golden["predictions"]
    np.testing.assert_allclose(trace.scores, golden["scores"], atol=1e-9)
    state = policy.start(0)
    assert policy.step(0, logits[0, 0], state).confidence == pytest.approx(golden["confidence"])


@pytest.mark.parametrize(
    ("sign", "change", "words"),
    [
        (False, {"format": "x"}, "a policy file"), (False, {"version": 99}, "version"),
        (False, {"thresholds": [0.1, 0.5]}, "changed after"), (False, {"extra": 1}, "unknown fields: extra"),
        (False, {f"f{i:02}": 1 for i in range(30)}, "unknown fields: f00, .* f19 and 10 more"),
        (False, {"thresholds": "0.5"}, "thresholds"), (False, {"classes": True}, "classes"),
        (True, {"thresholds": [0.5]}, "one per exit"), (True, {"thresholds": [0.5, "x"]}, "thresholds"),
        (True, {"costs": [1.0, [2.0], 3.0]}, "costs"), (True, {"score": {"name": "magic", "params": {}}}, "score"),
        (True, {"score": {"name": "entropy", "params": {"klasses": 3}}}, "parameters"), (True, {"score": {}}, "score"),
        (True, {"kind": "words"}, "kind"), (True, {"mixture": {"share": 0.5}}, "mixture"),
        (True, {"mixture": {"thresholds": [0, 0], "share": 2, "seed": 0, "score": None}}, "share"),
        (True, {"overhead": [0, 0]}, "one number per cost"), (True, {"model_exits": 0}, "1 or more"),
        (True, {"costs": [3, 2, 1]}, "not decreasing"), (True, {"costs": [1, 2, 1e101]}, "larger unit"),
        (True, {"overhead": [2, 0, 0]}, "from 0 to the costs"), (True, {"classes": 0}, "from 1 to"),
    ],
)  # fmt: skip
def test_broken_files_and_signed_nonsense_are_refused(sign, change, words):
    policy = Policy(Entropy(4), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4)
    content = {**to_dict(policy), **change}
    with pytest.raises(InputError, match=words):
        from_dict(signed(content) if sign else content)


def test_the_runtime_loads_numpy_alone():
    """In a fresh interpreter; importing the package itself loads nothing heavy either."""
    code = """
import sys, pkgutil, importlib
before = set(sys.modules)
import policyopt, policyopt.runtime
for module in pkgutil.walk_packages(policyopt.runtime.__path__, "policyopt.runtime."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
new = {name.partition(".")[0] for name in set(sys.modules) - before}
third = sorted(n for n in new - set(sys.stdlib_module_names) if not n.startswith(("_", "numpy", "cython", "policyopt")))
assert not third, third
assert not [n for n in sys.modules if n.startswith("policyopt.") and not n.startswith("policyopt.runtime")]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_runtime_command_line(tmp_path):
    Policy(MaxProb(), [0.8], [1.0, 2.0], "ms", "logits", 2).save(tmp_path / "p.json")
    np.save(tmp_path / "x.npy", [[[3.0, 0], [0, 1]], [[0, 0.1], [0, 1]], [[0, 0], [1, 0]]])
    np.save(tmp_path / "long.npy", np.zeros((2, 30_000, 2)))
    command = [sys.executable, "-m", "policyopt.runtime", "p.json"]

    def done(*words, stdout=subprocess.PIPE):
        more = {"stdout": stdout, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path}
        return subprocess.run([*command, *words], **more)

    assert done("x.npy").stdout == "row,exit,prediction,cost\n0,0,0,1.0\n1,1,1,2.0\n2,1,0,2.0\n"
    with Path("/dev/full").open("w") as full:
        found = done("x.npy", stdout=full)
    assert found.returncode == 2 and "The disk is full" in found.stderr
    assert "Traceback" not in found.stderr
    found = done("missing.npy")
    assert found.returncode == 2 and found.stderr.startswith("error: 'outputs' must be a file")
    # A reader that has seen enough breaks nothing.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path}
    with subprocess.Popen([*command, "long.npy", "--axes=KNC"], **pipes) as run:
        assert run.stdout.readline() == b"row,exit,prediction,cost\n"
        run.stdout.close()
        assert run.stderr.read() == b"" and run.wait() == 0
