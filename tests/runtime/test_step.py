"""One sample at a time gives the bits of a batch, whatever the width, the type and the edge case."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
from rules import SCORES, K
from rules import policy as made

from policyopt.runtime import Mixture, Policy
from policyopt.runtime._answers import Temperature
from policyopt.runtime._errors import InputError
from policyopt.runtime._outputs import reduce_logits, with_columns, with_log_prob
from policyopt.runtime._policy import Observer
from policyopt.runtime._scores import RULES, Entropy, Margin, MaxProb, Patience, Vote, score_table

COLUMNS = ("prediction", "top_prob", "top_class", "entropy", "log_sum_exp", "log_prob")
WIDTHS = (1, 2, 3, 5, 9, 33, 100, 129, 1001)


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
    full = reduce_logits(logits)
    for top in (1, 2, 3):
        whole = with_log_prob(reduce_logits(logits, top), logits)
        scratch = np.full((2, 70, classes), 7, dtype=np.float32)
        again = with_log_prob(reduce_logits(logits, top, scratch), logits)
        alone = [with_log_prob(reduce_logits(z[None], top), z[None]) for z in logits]
        for name in COLUMNS:
            _same(getattr(again, name), getattr(whole, name))
            _same(np.concatenate([getattr(one, name) for one in alone]), getattr(whole, name))
        few = reduce_logits(logits, top, entropy=False)
        for name in ("top_prob", "top_class"):
            _same(getattr(few, name), getattr(full, name)[:, :top])
        for name in ("prediction", "log_sum_exp"):
            _same(getattr(few, name), getattr(full, name))
        assert np.isnan(few.entropy).all()


def test_ranks_of_rows_with_few_possible_classes():
    """By hand: a row's own mass, its classes, and -1 beyond those that can be."""
    z = np.array([[-np.inf, 0, -np.inf, 0], [-np.inf, -np.inf, 3, -np.inf]], dtype=np.float32)
    out = reduce_logits(z)
    assert out.top_class.tolist() == [[1, 3, -1], [2, -1, -1]]
    assert out.top_prob.tolist() == [[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    np.testing.assert_allclose(out.entropy, [np.log(2), 0.0])
    np.testing.assert_allclose(out.log_sum_exp, [np.log(2), 3.0])


@pytest.mark.parametrize("name", SCORES)
def test_rules_read_no_more_than_they_say(name):
    """A policy's scores, on the columns that its rule's `required_columns` name, are those on all of them."""
    policy = made(name)
    logits = _cases(policy.classes)
    features = np.random.default_rng(0).normal(size=(K, len(logits), 3)).astype(np.float32)
    observer = Observer(policy.answer, "logits", policy.classes, full=True)
    seen = [observer.look(k, logits[:, k], (), len(logits))[0] for k in range(K)]
    seen = [with_columns(output, features=features[k]) for k, output in enumerate(seen)]
    trace = policy.trace(logits, features=list(features))
    _same(trace.scores, score_table(RULES[name](**SCORES[name]), seen))


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
    + [
        ("probabilities", row, "")
        for row in ([np.nan, 1, 0], [np.inf, *LAST], [np.inf, 0, 0], [-0.1, 1.1, 0], [0.4, 0.5, 0])
    ],
)
def test_rows_that_are_no_outputs_are_named(rows, kind, row, says):
    """And nothing else is heard of them: no warning of numpy."""
    more = {"answer": Temperature([1.0, 1.0])} if kind == "logits T" else {}
    policy = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", kind.split()[0], 3, **more)
    given = np.array([[0.5, 0.5, 0]] * (rows - 1) + [row], dtype=np.float32)
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
    with pytest.raises(InputError, match=says):
        policy.decide(change(logits))
    with pytest.raises(InputError, match="'k' must be the next exit, 0"):
        policy.step(1, logits[0, 1], policy.start())


def test_the_last_exit_always_stops_and_nothing_is_left_of_none():
    policy = Policy(MaxProb(), [2.0], [1.0, 2.0], "ms", "logits", 3)
    state = policy.start(np.arange(2))
    assert not policy.step(0, np.zeros((2, 3)), state).exit.any()
    state.keep(np.zeros(2, dtype=bool))
    decision = policy.step(1, np.zeros((0, 3)), state)
    assert decision.exit.shape == decision.score.shape == (0,)
    state = policy.start(np.arange(2))
    policy.step(0, np.zeros((2, 3)), state)
    assert policy.step(1, np.zeros((2, 3)), state).exit.all()


@pytest.mark.parametrize("wrong", [1.7, 2**63, 10**400, "a", [0.5], [[1]], True])
def test_numbers_of_samples_are_whole(wrong):
    policy = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", "logits", 2)
    for call in (lambda: policy.start(wrong), lambda: policy.decide(np.zeros((1, 2, 2)), wrong)):
        with pytest.raises(InputError, match="'samples' must be"):
            call()
    assert policy.start(np.uint8(3)).position == 0
