"""The runtime: reduced outputs against scipy, the coin, the artifact, and that it needs numpy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp
from scipy.stats import kstest

from policyopt._cache.data import Rows
from policyopt._table import exit_statistics
from policyopt.runtime import ALWAYS, NEVER, InputError, Mixture, Policy, load_policy
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._outputs import reduce_logits, reduce_probabilities
from policyopt.runtime._policy import from_dict, to_dict
from policyopt.runtime._scores import Entropy, MaxProb, Patience

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


@given(LOGITS)
def test_rows_are_independent_to_the_last_bit(logits):
    """Why a batch and a single step agree: a row's numbers do not depend on its neighbours."""
    whole = reduce_logits(logits)
    for row in range(len(logits)):
        alone = reduce_logits(logits[row : row + 1])
        for name in ("prediction", "top_prob", "top_class", "entropy", "log_sum_exp"):
            np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[row])


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_pass_equals_the_step(classes, dtype):
    """Chunks, threads, strides and widths: the pass gives what a single row gives."""
    rng = np.random.default_rng(classes)
    logits = (rng.normal(size=(700, 3, classes)) * 6).astype(dtype)
    labels = rng.integers(0, classes, 700)
    rows = Rows(
        (
            {"outputs": logits[:300], "labels": labels[:300]},
            {"outputs": logits[300:], "labels": labels[300:]},
        )
    )
    for threads in (1, 3):
        table = exit_statistics(rows, "logits", threads=threads)
        for row in (0, 1, 299, 300, 699):
            for k in range(3):
                alone = reduce_logits(logits[row, k][None])
                np.testing.assert_array_equal(table.top_prob[row, k], alone.top_prob[0])
                np.testing.assert_array_equal(table.entropy[row, k], alone.entropy[0])
    np.testing.assert_array_equal(table.correct, logits.argmax(-1) == labels[:, None])


def test_saturated_confidences_keep_their_order():
    """Softmax in float32 would give 1.0 for all of these."""
    logits = np.array([[20.0, 0], [25.0, 0], [30.0, 0]], dtype=np.float32)
    assert (np.diff(reduce_logits(logits).confidence) > 0).all()


def test_classes_that_cannot_be_and_probabilities():
    masked = reduce_logits(np.array([[0, -np.inf, 1.0, -np.inf]], dtype=np.float32))
    plain = reduce_logits(np.array([[0, 1.0]], dtype=np.float32))
    assert masked.entropy == pytest.approx(plain.entropy)
    assert masked.confidence == pytest.approx(plain.confidence)
    assert masked.top_class.tolist() == [[2, 0, -1]]
    p = np.random.default_rng(0).dirichlet(np.ones(5), 50)
    np.testing.assert_allclose(reduce_probabilities(p).confidence, p.max(axis=1), rtol=1e-6)


def test_nan_in_the_pass_is_named():
    outputs = np.zeros((50, 2, 3), dtype=np.float32)
    outputs[31, 1, 2] = np.nan
    with pytest.raises(InputError, match="row 31 at exit 1"):
        exit_statistics(Rows(({"outputs": outputs, "labels": np.zeros(50, int)},)), "logits")


def test_large_tables_go_to_a_file(monkeypatch):
    monkeypatch.setattr("policyopt._table._SPILL_BYTES", 1000)
    outputs = np.random.default_rng(0).normal(size=(500, 2, 3)).astype(np.float32)
    rows = Rows(({"outputs": outputs, "labels": np.zeros(500, int)},))
    table = exit_statistics(rows, "logits")
    assert isinstance(table.top_prob, np.memmap)
    monkeypatch.undo()
    np.testing.assert_array_equal(table.entropy, exit_statistics(rows, "logits").entropy)


def test_the_coin_is_fair_independent_and_pinned():
    numbers = np.arange(50_000)
    draws = coin(7, numbers)
    assert kstest(draws, "uniform").pvalue > 0.001
    for other in (coin(8, numbers), coin(7, numbers, stream=1), np.roll(draws, 1)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.02
    assert (draws == draws.astype(np.float32)).all()  # float32 runtimes hold them exactly
    # Golden values: every runtime and every version must draw these.
    assert coin(0, np.array([0, 1, 2])).tolist() == [
        0.26913028955459595,
        0.6532002687454224,
        0.5781814455986023,
    ]


def test_mixture_takes_its_share():
    policy = Policy(
        Patience(), [ALWAYS], [1.0, 2.0], "ms", "logits", 2, Mixture(np.array([NEVER]), 0.25, seed=3)
    )  # fmt: skip
    exits = policy.decide(np.zeros((20_000, 2, 2))).exit
    assert exits.mean() == pytest.approx(0.25, abs=0.01)


@pytest.fixture
def artifact():
    policy = Policy(
        Entropy(4), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4, None, {"method": "entropy"}
    )
    return to_dict(policy)


BROKEN = {
    "other format": ({"format": "x"}, "a policy file"),
    "other version": ({"version": 99}, "version"),
    "changed threshold": ({"thresholds": [0.1, 0.5]}, "changed after"),
    "unknown field": ({"extra": 1}, "unknown fields: extra"),
    "wrong type": ({"thresholds": "0.5"}, "thresholds"),
    "truth value": ({"classes": True}, "classes"),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_artifacts_are_refused(artifact, change, words):
    with pytest.raises(InputError, match=words):
        from_dict({**artifact, **change})


def _resigned(content):
    from policyopt.runtime._strict_json import digest_of

    body = {k: v for k, v in content.items() if k != "sha256"}
    return {**body, "sha256": digest_of(body)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"thresholds": [0.5]}, "one per exit"),
        ({"thresholds": [0.5, "x"]}, "thresholds"),
        ({"costs": [1.0, [2.0], 3.0]}, "costs"),
        ({"score": {"name": "magic", "params": {}}}, "score"),
        ({"score": {"name": "entropy", "params": {"klasses": 3}}}, "parameters"),
        ({"score": {}}, "score"),
        ({"kind": "words"}, "kind"),
        ({"mixture": {"share": 0.5}}, "mixture"),
    ],
)
def test_signed_nonsense_is_refused(artifact, change, words):
    with pytest.raises(InputError, match=words):
        from_dict(_resigned({**artifact, **change}))


@given(data=st.data())
def test_damaged_files_never_load_as_something_else(data, tmp_path_factory):
    policy = Policy(
        MaxProb(), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4, None, {"method": "max_prob"}
    )
    path = tmp_path_factory.mktemp("policy") / "policy.json"
    policy.save(path)
    whole = path.read_bytes()
    if data.draw(st.booleans()):
        damaged = whole[: data.draw(st.integers(0, len(whole) - 2))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        damaged = whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :]
    path.write_bytes(damaged)
    try:
        loaded = load_policy(path)
    except InputError:
        return
    assert to_dict(loaded) == to_dict(policy)


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


def test_step_accepts_torch_and_gives_answers():
    torch = pytest.importorskip("torch")
    policy = Policy(MaxProb(), [0.8], [1.0, 2.0], "ms", "logits", 3)
    logits = torch.tensor([3.0, 0.0, 0.0], requires_grad=True)
    for given_logits in (logits, logits.bfloat16(), logits[None]):
        decision = policy.step(0, given_logits, policy.start())
        assert decision.exit is True
        np.testing.assert_allclose(decision.answer, torch.softmax(logits, 0).detach(), rtol=1e-6)


def test_runtime_command_line(tmp_path):
    policy = Policy(MaxProb(), [0.8], [1.0, 2.0], "ms", "logits", 2)
    policy.save(tmp_path / "p.json")
    np.save(
        tmp_path / "x.npy", np.array([[[3.0, 0], [0, 1]], [[0, 0.1], [0, 1]], [[0, 0], [1, 0]]])
    )
    command = [sys.executable, "-m", "policyopt.runtime", str(tmp_path / "p.json")]
    done = subprocess.run([*command, str(tmp_path / "x.npy")], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "row,exit,prediction,cost",
        "0,0,0,1.0",
        "1,1,1,2.0",
        "2,1,0,2.0",
    ]
    with Path("/dev/full").open("w") as full:
        words = [*command, str(tmp_path / "x.npy")]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, str(tmp_path / "missing.npy")], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: 'outputs' must be a file")
