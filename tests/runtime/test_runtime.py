"""The runtime: reductions, one sample as many, kept exits, the coin, files of policies; it needs numpy alone."""

import json
import subprocess
import sys
import warnings
from dataclasses import replace
from functools import cache as once
from pathlib import Path

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import signed
from rules import K
from scipy.special import log_softmax, logsumexp
from scipy.stats import kstest
from synthetic import outputs

import policyopt as po
from policyopt._answers.calibrators import fit_confidence
from policyopt._cache.data import Rows
from policyopt._frontier import record
from policyopt._methods.registry import make_method
from policyopt._replay import replay, trace
from policyopt._report.explanation import explain_rows as explain
from policyopt._table import Tables, exit_statistics
from policyopt.runtime import ALWAYS, NEVER, InputError, Mixture, Policy, load_policy
from policyopt.runtime._answers import Temperature
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._checks import check_names, check_seed, check_text, check_whole
from policyopt.runtime._forks import parted
from policyopt.runtime._outputs import _widen, reduce_logits, with_log_prob
from policyopt.runtime._policy import from_dict, to_dict
from policyopt.runtime._scores import Entropy, Margin, MaxProb, Patience, Vote
from policyopt.runtime._text import csv_cell, picture_text, printable


@given(
    hnp.arrays(
        np.float32, st.tuples(*[st.integers(1, 12)] * 2), elements=st.floats(-60, 60, width=32)
    )
)
def test_reduction_agrees_with_scipy(logits):
    out = reduce_logits(logits)
    exact = logits.astype(np.float64)
    logp = log_softmax(exact, axis=1)
    p = np.exp(logp)
    ordered = np.sort(p, axis=1)[:, ::-1][:, :2]
    np.testing.assert_array_equal(out.prediction, logits.argmax(axis=1))
    np.testing.assert_allclose(out.top_prob, ordered, rtol=2e-5, atol=1e-30)
    np.testing.assert_allclose(np.take_along_axis(p, out.top_class, 1), ordered, rtol=1e-5)
    np.testing.assert_allclose(out.entropy, -(p * logp).sum(axis=1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out.log_sum_exp, logsumexp(exact, axis=1), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(reduce_logits(logp).confidence, p.max(axis=1), rtol=1e-6)
    saturated = np.array([[20.0, 0], [25.0, 0], [30.0, 0]], dtype=np.float32)  # all 1.0 in float32
    assert (np.diff(reduce_logits(saturated).confidence) > 0).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_pass_equals_the_step(dtype, monkeypatch):
    """Chunks, threads, strides; what is too large for memory goes to a file; NaN is named."""
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=(700, 3, 100)) * 6).astype(dtype)
    labels = rng.integers(0, 100, 700)
    halves = [{"outputs": logits[s], "labels": labels[s]} for s in (slice(300), slice(300, None))]
    rows = Rows(tuple(halves))
    for threads, most in ((1, 1 << 30), (3, 1000)):
        monkeypatch.setattr("policyopt._cache.files._SPILL_BYTES", most)
        table = exit_statistics(rows, "logits", threads=threads)
        assert isinstance(table.top_prob, np.memmap) == (most == 1000)
        for row in (0, 1, 299, 300, 699):
            for k in range(3):
                alone = reduce_logits(logits[row, k][None])
                np.testing.assert_array_equal(table.top_prob[row, k], alone.top_prob[0])
                np.testing.assert_array_equal(table.entropy[row, k], alone.entropy[0])
    np.testing.assert_array_equal(table.quality, logits.argmax(-1) == labels[:, None])
    logits[331, 1, 2] = np.nan
    refuses("row 331 at exit 1", exit_statistics, rows, "logits")


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
        (lambda: len({parted(stream, (fork,)) for stream in range(9) for fork in range(9)}), 81),
        (lambda: [check_whole("n", np.int64(5)), check_seed(0), check_text("u", "µJ")], [5, 0, "µJ"]),
        (lambda: [check_names("s", "test, blur"), check_names("s", ["a"])], [("test", "blur"), ("a",)]),
        (lambda: printable("a\x1b[31m\u202eb"), "a\\x1b[31m\\u202eb"), (lambda: printable("0123456789", 7), "01...89"),
        (lambda: printable("postgresql://me:secret@host/db"), "postgresql://me:***@host/db"),
        (lambda: [csv_cell(x) for x in (-0.3, "-0.3", "=1+1", "a\rb")], [-0.3, "-0.3", "'=1+1", "a\\rb"]),
        (lambda: [csv_cell(x) for x in ("a;=1+1; @b;-2", "[0.5, -1e30]", "a; b")], ["a;'=1+1; '@b;'-2", "[0.5, -1e30]", "a; b"]),
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
    assert (policy.active_exits == (0, 2, 3)) == (name == "kept")
    trace = policy.trace(logits)
    assert trace.exit.tolist() == golden["exits"]
    assert trace.taken.tolist() == golden["predictions"]
    # An ulp of float32: the order of a sum over classes is not part of the format.
    np.testing.assert_allclose(trace.scores, golden["scores"], rtol=2**-23, atol=2**-23)
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
        (True, {"overhead": [2, 0, 0]}, "from 0 to the costs"), (True, {"classes": 0}, "at least 1"),
        *((True, {"active_exits": kept, "model_exits": 5}, "'active_exits") for kept in (
            [0, 1, 5], [2, 0, 1], [0, 1, 1], [0, 1], [], ["0", "1", "2"], [True, 2, 3], [0, 1.0, 2], None,
        )),
        *((True, {"active_exits": [0, 1, 2], "model_exits": of}, "'model_exits") for of in (10**9, 2, -2, True)),
    ],
)  # fmt: skip
def test_broken_files_and_signed_nonsense_are_refused(sign, change, words):
    policy = Policy(Entropy(4), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4)
    content = {**to_dict(policy), **change}
    refuses(words, from_dict, signed(content) if sign else content)


def test_the_runtime_loads_numpy_alone():
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


COLUMNS = ("prediction", "top_prob", "top_class", "entropy", "log_sum_exp", "log_prob")
WIDTHS = (1, 2, 3, 5, 9, 33, 100, 129, 1001, 2100)


def _cases(classes, dtype=np.float32):
    """Logits (N, K, C): plain, tied, all alike, saturated, with classes that cannot be, one left."""
    rng = np.random.default_rng(classes)
    z = rng.normal(size=(60, K, classes)) * 4
    z[10:20] = np.round(z[10:20] / 3)
    z[20:25] = 1.5
    z[25:30] *= 20
    masked = rng.random((20, K, classes)) < 0.6
    masked[10:] = True
    np.put_along_axis(masked, rng.integers(0, classes, (20, K, 1)), False, axis=2)
    z[30:50][masked] = -np.inf
    return z.astype(dtype)


def _same(a, b):
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    np.testing.assert_array_equal(a, b)  # shows where, if it is more than the sign of a zero
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("classes", WIDTHS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_row_reduces_to_the_bits_it_has_in_a_batch(classes, dtype):
    """And what no score asks for is left out, and changes no bit of the rest."""
    logits = _cases(classes, dtype)[:, 0]
    full, rows = (
        reduce_logits(logits, 3),
        np.arange(1200) % len(logits),
    )  # of so many ranks are found by class
    for top in (1, 2, 3):
        whole = with_log_prob(reduce_logits(logits, top), logits)
        scratch = np.full((2, 70, classes), 7, dtype=np.float32)
        many = with_log_prob(reduce_logits(logits[rows], top), logits[rows])
        again = with_log_prob(reduce_logits(logits, top, scratch), logits)
        alone = [with_log_prob(reduce_logits(z[None], top), z[None]) for z in logits]
        for name in COLUMNS:
            _same(getattr(again, name), getattr(whole, name))
            _same(getattr(many, name), getattr(whole, name)[rows])
            _same(np.concatenate([getattr(one, name) for one in alone]), getattr(whole, name))
        few = reduce_logits(logits, top, entropy=False)
        for name in ("top_prob", "top_class"):
            _same(getattr(few, name), getattr(full, name)[:, :top])
        for name in ("prediction", "log_sum_exp"):
            _same(getattr(few, name), getattr(full, name))
        assert np.isnan(few.entropy).all()
    assert len(reduce_logits(logits[:0])) == 0


@pytest.mark.parametrize("classes", [1, 3, 40, 60])
def test_many_rows_of_few_classes_are_as_each_alone(classes):
    """Where differences round together, and where a number is none: ranks are found class by class there."""
    close = np.full((1200, classes), 1e-7, np.float32) * np.arange(1, classes + 1, dtype=np.float32)
    close[:, 0] = 20
    many, alone = reduce_logits(close), reduce_logits(close[:1])
    for name in ("prediction", "top_class", "top_prob", "entropy"):
        _same(getattr(many, name)[:1], getattr(alone, name))
    for bad in (np.nan, np.inf, -np.inf):
        z = np.zeros((1200, classes), np.float32)
        z[700] = bad
        for at in {0, classes - 1} if bad != -np.inf else ():
            z[700] = 0
            z[700, at] = bad
            with pytest.raises(InputError, match=r"finite largest.* in row 700"):
                reduce_logits(z, name="logits")
        with pytest.raises(InputError, match=r"finite largest.* in row 700"):
            reduce_logits(z, name="logits")


@pytest.mark.parametrize("special", [None, np.inf, -np.inf, np.nan, -np.nan])
def test_every_float16_is_widened_as_numpy_does(special):
    """All bits there are, one special number or none among them."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    given = every[np.isfinite(every)].reshape(64, -1)
    if special is not None:
        given[3, 7] = special
    into = np.empty((64, given.shape[1] // 2), dtype=np.float32)
    for columns in (slice(None, None, 2), slice(1, None, 2)):  # of rows that do not lie together
        _widen(given[:, columns], into)
        _same(into, given[:, columns].astype(np.float32))


def test_ranks_of_rows_with_few_possible_classes():
    """By hand: a row's own mass, its classes, and -1 beyond those that can be."""
    z = np.array([[-np.inf, 0, -np.inf, 0], [-np.inf, -np.inf, 3, -np.inf]], dtype=np.float32)
    out = reduce_logits(z, 3)
    assert out.top_class.tolist() == [[1, 3, -1], [2, -1, -1]]
    assert out.top_prob.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(out.entropy, [np.log(2), 0.0])
    np.testing.assert_allclose(out.log_sum_exp, [np.log(2), 3.0])


def _policies(classes):
    costs, say = np.arange(1.0, K + 1), ("ms", "logits", classes)
    mixture = Mixture(np.array([0.2, 0.9]), 0.5, 1, Entropy(classes))
    for rule in (MaxProb(), Margin(), Entropy(classes), Patience(), Vote()):
        yield Policy(rule, [0.6, 0.5], costs, *say)
    yield Policy(Margin(), [0.6, 0.5], costs, *say, mixture, answer=Temperature([1.0, 1.5, 2.0]))
    for kept in ((0, 2), (1, 2), (0, 1)):
        mixture = Mixture(np.array([1.0]), 0.5, 3, Patience())
        yield Policy(MaxProb(), [0.6], [1, 2], *say, mixture, active_exits=kept, model_exits=K)


@pytest.mark.parametrize("classes", [1, 3, 33, 129])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_step_batch_and_survivors_agree_to_the_last_bit(classes, dtype):
    logits = _cases(classes, dtype)
    for policy in _policies(classes):
        trace = policy.trace([logits[:, k] if k in policy.active_exits else None for k in range(K)])
        np.testing.assert_array_equal(policy.decide(logits).exit, trace.exit)
        alive, state = np.arange(len(logits)), policy.start(np.arange(len(logits)))
        singles = [policy.start(row) for row in alive]
        for at, k in enumerate(policy.active_exits):
            many = policy.step(k, logits[alive, k], state)
            ones = [policy.step(k, logits[row, k], singles[row]) for row in alive]
            _same(many.score, trace.scores[alive, at])
            _same(many.prediction, trace.predictions[alive, at])
            for name in ("score", "confidence", "exit"):
                _same([getattr(one, name) for one in ones], getattr(many, name))
            _same(np.reshape([one.answer for one in ones], (-1, classes)), many.answer)
            assert [one.prediction for one in ones] == many.prediction.tolist()
            np.testing.assert_array_equal(trace.exit[alive] == k, many.exit)
            state.keep(~many.exit)
            alive = alive[~many.exit]
        assert not len(alive)


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_tensors_give_the_bits_of_arrays(kind):
    torch = pytest.importorskip("torch")
    logits = _cases(33)
    if kind == "probabilities":
        logits = np.exp(logits - logits.max(axis=2, keepdims=True))
        logits /= logits.sum(axis=2, keepdims=True)
    policy = Policy(Entropy(33), [0.6, 0.5], [1.0, 2.0, 3.0], "ms", kind, 33)
    for row in logits:
        tensor = torch.from_numpy(row).requires_grad_()
        for turn in (tensor, tensor[:, None], tensor.double()):
            ours, theirs = policy.start(), policy.start()
            for k in policy.active_exits:
                a, b = policy.step(k, row[k], ours), policy.step(k, turn[k], theirs)
                _same(a.answer, b.answer)
                assert replace(a, _logits=None) == replace(b, _logits=None)
        half = policy.step(0, tensor[0].bfloat16(), policy.start())
        assert half == policy.step(0, tensor[0].bfloat16().float(), policy.start())


LAST = [-np.inf] * 2


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(
    ("kind", "row", "says"),
    [("logits", [*LAST, x], f"Got {x} in row ROW") for x in (np.nan, np.inf, -np.inf)]
    + [("logits T", [*LAST, x], f"Got {x} in row ROW") for x in (np.nan, np.inf, -np.inf)]
    + [("logits T", [0.1, 0, 1e39], "Got inf in row ROW")]  # too large for float32
    + [
        ("probabilities", row, "")
        for row in ([np.nan, 1, 0], [np.inf, *LAST], [np.inf, 0, 0], [-0.1, 1.1, 0], [0.4, 0.5, 0])
    ],
)
def test_rows_that_are_no_outputs_are_named(rows, kind, row, says):
    more = {"answer": Temperature([1.0, 1.0])} if kind.endswith(" T") else {}
    policy = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", kind.split()[0], 3, **more)
    given = np.array([[0.5, 0.5, 0]] * (rows - 1) + [row], dtype="f8" if 1e39 in row else "f4")
    words = "'output of exit 0' must.*" + says.replace("ROW", str(rows - 1))
    with warnings.catch_warnings(), pytest.raises(InputError, match=words):
        warnings.simplefilter("error")
        policy.step(0, given, policy.start(np.arange(rows)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda z: np.where(np.arange(10)[:, None, None] == 3, np.nan, z), "output of exit 0.*row 3"),
        (lambda z: z[:, :2], r"outputs.*\(N, 3, 6\).*\(10, 2, 6\)"),
        (lambda z: z[:, :, :5], r"output of exit 0.*\(n, 6\)"), (lambda z: z.astype(str), "output of exit 0.*dtype"),
        (lambda z: list(z.swapaxes(0, 1)[:2]), "2 entries"), (lambda z: {"prediction": z}, "one entry per exit"),
        (lambda z: [z[:, 0], z[:9, 1], z[:, 2]], "output of exit 1' must be 10 rows, as exit 0 has"),
    ],
)  # fmt: skip
def test_outputs_that_cannot_be_are_named(change, says):
    policy = Policy(Patience(), [1, 1], [1.0, 2.0, 3.0], "ms", "logits", 6)
    logits = np.random.default_rng(0).normal(size=(10, 3, 6))
    policy.decide(logits)
    refuses(says, policy.decide, change(logits))
    refuses("'k' must be the next exit, 0", policy.step, 1, logits[0, 1], policy.start())


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"entropy": [0.1]}, r"entropy of .* of shape \(3,\)"), ({"entropy": [0.1, -1, 0]}, "entropy of .* 0 or more"),
        ({"top_prob": np.full((2, 3), 0.3)}, r"top_prob of .* \(3, 'T'\)"),
        ({"top_prob": [[0.5, 0.6]] * 3}, "largest first"), ({"top_prob": [[0.6, 7]] * 3}, "largest first"),
    ],
)  # fmt: skip
def test_summaries_that_cannot_be_are_named(column, says):
    policy = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", "summary", 3)
    record = {"prediction": [0, 1, 2], "confidence": [0.5, 0.6, 0.7], **column}
    refuses(says, policy.step, 0, record, policy.start(np.arange(3)))
    for wrong in ({"kind": "prob"}, {"classes": 2.5}, {"rule": MaxProb}):
        refuses(f"'{next(iter(wrong))}' must be", replace, policy, **wrong)


def test_an_empty_batch_goes_on_and_numbers_of_samples_are_whole():
    policy = Policy(MaxProb(), [2.0], [1.0, 2.0], "ms", "logits", 3)
    state = policy.start(np.arange(2))
    policy.step(0, np.zeros((2, 3)), state)
    decision = policy.step(1, np.zeros((0, 3)), state.keep(np.zeros(2, dtype=bool)))
    assert decision.exit.shape == decision.score.shape == (0,)
    assert policy.start(np.uint8(3)).position == 0
    for wrong in (1.7, 2**63, 10**400, "a", [0.5], [[1]], True):
        for call in (policy.start, lambda wrong: policy.decide(np.zeros((1, 2, 3)), wrong)):
            refuses("'samples' must be", call, wrong)


EXITS = 5
ALONE = [1.0, 2.0, 4.0, 3.0, 16.0]
KEPT = st.sets(st.integers(0, EXITS - 1), min_size=2).map(lambda s: tuple(sorted(s)))
ROWS = outputs(600, EXITS, 4, 0)
#: Standalone costs per sample: whole numbers, so that any order of summing is exact.
WHOLE = np.random.default_rng(0).integers(1, 9, (600, EXITS)).astype(float)


@once
def cascade(per_sample=False):
    costs = WHOLE if per_sample else ALONE
    return po.from_arrays(*ROWS, costs, unit="ms", cost_kind="standalone")


@once
def kept_policy(kept, method="optimal_stopping:mix=true"):
    table = Tables(cascade()).get("fit").keep_exits(kept)
    budget = float(table.mean_costs[[0, -1]] @ [0.6, 0.4])
    policy = make_method(method).fit_path(table, [budget])[0].policy
    rule = fit_confidence("isotonic", table.statistics.confidence, table.quality)
    return replace(policy, calibrator=rule)


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("method", ["max_prob", "patience", "max_prob:answer=combined"])
@settings(max_examples=6)
@given(kept=KEPT)
def test_as_fitted_on_a_cache_of_those_exits(method, per_sample, kept):
    alone = (WHOLE if per_sample else np.array(ALONE))[..., kept]
    say = {"unit": "ms", "cost_kind": "standalone"}
    own = Tables(po.from_arrays(ROWS[0][:, kept], ROWS[1], alone, **say))
    table = Tables(cascade(per_sample))
    sub = table.get("fit").keep_exits(kept)
    np.testing.assert_array_equal(sub.costs, own.get("fit").costs)
    budget = float(sub.mean_costs[[0, -1]] @ [0.5, 0.5])
    policy = make_method(method).fit_path(sub, [budget])[0].policy
    other = make_method(method).fit_path(own.get("fit"), [budget])[0].policy
    np.testing.assert_array_equal(policy.thresholds, other.thresholds)
    assert policy.active_exits == kept and policy.model_exits == EXITS
    one, two = replay(policy, table.get("test")), replay(other, own.get("test"))
    np.testing.assert_array_equal(one.exit, np.array(kept)[two.exit])
    for name in ("prediction", "cost", "quality"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert len(one.exit_share) == EXITS and not np.delete(one.exit_share, kept).any()
    # A sub-table of just those exits is the same to it.
    np.testing.assert_array_equal(replay(policy, table.get("test").keep_exits(kept)).cost, two.cost)


def test_costs_of_one_model_stay_and_exits_kept_in_turn():
    table = Tables(cascade(per_sample=True)).get("test")
    twice = table.keep_exits((1, 2, 4)).keep_exits((2, 4))
    np.testing.assert_array_equal(twice.costs[:, 1], WHOLE[table.places][:, [2, 4]].sum(1))
    one = Tables(po.from_arrays(*ROWS, np.cumsum(ALONE), unit="ms"))
    assert not one.get("test").cascade and one.data.fingerprint != cascade().fingerprint
    costs = one.get("test").keep_exits((1, 2, 4)).costs
    np.testing.assert_array_equal(costs, np.cumsum(ALONE)[[1, 2, 4]])


def test_wrong_exits_and_outputs_are_named():
    policy, table = kept_policy((1, 3, 4)), Tables(cascade()).get("test")
    logits, state, other = ROWS[0], policy.start(), table.keep_exits((0, 3))
    policy.step(1, logits[0, 1], state)
    two = Policy(MaxProb(), [0.5], [1, 2], "ms", "logits", 4, active_exits=[0, 1])
    assert two.active_exits == (0, 1)
    for says, wrong in (
        (r"the next exit, 1, of 1, 3, 4. Got 0", lambda: policy.step(0, logits[0, 0], policy.start())),
        ("the next exit, 3", lambda: policy.step(2, logits[0, 2], state)),
        ("5 exits", lambda: policy.decide(logits[:, [1, 3, 4]])),
        ("'outputs' must be an array, or one entry per exit", lambda: policy.decide(None)),
        ("'outputs' must be an array, or one entry per exit", lambda: policy.decide(5)),
        ("active_exits", lambda: table.keep_exits((1, 3)).keep_exits((2,))), ("active_exits", lambda: trace(policy, other)),
        ("exits of the cache", lambda: trace(two, other)),
    ):  # fmt: skip
        refuses(says, wrong)


def test_reports_speak_of_the_models_exits():
    """Last kept exit is not the model's last; every report counts over the same rows."""
    table, kept = Tables(cascade()).get("test"), (1, 3)
    method = make_method("max_prob")
    sub = Tables(cascade()).get("fit").keep_exits(kept)
    fitted = method.fit_path(sub, [float(sub.mean_costs.mean())])[0]
    told = record("max_prob", fitted, table, 0)
    assert len(told["exit_share"]) == EXITS
    assert told["thresholds"] == [NEVER, float(fitted.policy.thresholds[0]), NEVER, ALWAYS]
    reference = method.fit_path(Tables(cascade()).get("fit"), [9.0])[0].policy
    explained = explain(fitted.policy, table, reference).record
    exits = explained["exits"]
    assert [e["exit"] for e in exits] == [1, 3]
    assert [e["share_left"] for e in exits] == [told["exit_share"][k] for k in kept]
    assert exits[0]["cost"] == ALONE[1] and exits[1]["cost"] == ALONE[1] + ALONE[3]
    moves = np.array(explained["changes"]["transitions"])
    assert moves.shape == (EXITS, EXITS) and moves.sum() == len(table)
    assert not np.delete(moves, kept, axis=1).any()
    assert np.isclose(explained["realised_cost"], told["realised_cost"])


def test_the_command_line_takes_policies_of_kept_exits(tmp_path, run):
    source, place, policy = tmp_path / "a.npz", tmp_path / "cache", tmp_path / "p.json"
    np.savez(source, logits=ROWS[0], labels=ROWS[1], costs=ALONE)
    kept_policy((1, 2)).save(policy)
    maps = ("calibration", place, "--policy", policy, "--maps", "none,platt")
    said = []
    for command in (
        ("import", source, "--out", place, "--unit", "ms", "--cost-kind", "standalone"),
        ("explain", policy, place), ("evaluate", policy, place), ("run", policy, source), maps,
    ):  # fmt: skip
        code, out, error = run(*command, *["--format", "json"] * (command[0] != "import"))
        assert code == 0, error
        said.append(out)
    (evaluated,), ran, calibrated = map(json.loads, said[2:])
    assert [share > 0 for share in evaluated["exit_share"]] == [False, True, True, False, False]
    assert {line["exit"] for line in ran} <= {1, 2}
    assert {r["exit"] for r in calibrated["records"]} == {1, 2}
