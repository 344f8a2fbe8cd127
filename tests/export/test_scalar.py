"""One sample in plain Python: scores near the policy's, exits and classes always its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from policies import fitted
from synthetic import cache, outputs
from test_methods import SPECS

import policyopt as po
from policyopt.export import ScalarPolicy
from policyopt.export.golden import expect, given_output
from policyopt.export.samples import made_up
from policyopt.export.scalar_compile import ROOM, _proven, compiled, tried
from policyopt.export.scalar_source import BAND
from policyopt.export.tracing import trace_policy
from policyopt.methods import make_method
from policyopt.runtime import InputError, Mixture, Policy
from policyopt.runtime.confidence import CONFIDENCES
from policyopt.runtime.scores import Entropy, Margin, MaxProb
from policyopt.runtime.scores.base import ScoreRule
from policyopt.table import Tables

K, C = 4, 6
COSTS = [1.0, 2.0, 4.0, 8.0]


def fitted_to(data, spec):
    table = Tables(data).get("fit")
    return make_method(spec).fit_path(table, [3.7])[0].policy


def stepped(scalar, inputs, rows, whole=False):
    """Step through rows; exits and answers, scores where they were decided, and who asked the policy."""
    policy, asked, scores = scalar.policy, 0, np.full((len(rows), scalar.policy.exits), np.nan)
    exits, answers = np.empty(len(rows), int), np.empty(len(rows), int)
    for i, row in enumerate(rows):
        state = scalar.start(int(row))
        for at, k in enumerate(policy.path):
            given = {name: a[row] for name, a in inputs[at].items()}
            seen = scalar.step(k, given_output(policy, given), state, given.get("features"))
            scores[i, at] = seen.score
            if seen.exit and not whole:
                break
        exits[i], answers[i] = at, seen.prediction
        asked += state.slow is not None
    return exits, answers, scores, asked / len(rows)


def far_too(given):
    """The rows, and again with their logits moved together: float32 is coarse there."""
    both = {name: np.concatenate([a, a]) for name, a in given.items()}
    if "logits" in given:
        size = both["logits"][4096:].shape
        moved = np.random.default_rng(2).uniform(-1, 1, (4096, 1)) * 240 / size[1] ** 0.5
        both["logits"][4096:] += moved.astype(np.float32)
    return both


def checked(policy, most, rows=512):
    """On awkward rows: exits and answers of the policy, scores within an eighth of the band."""
    scalar = ScalarPolicy(policy)
    assert scalar.reason == ""
    graphs = trace_policy(policy)
    with np.errstate(all="ignore"):
        inputs = [far_too(given) for given in made_up(policy, graphs, np.random.default_rng(1))]
        wanted = expect(policy, inputs, np.arange(8192)).expected
    rows = np.arange(0, 8192, 8192 // rows)
    exits, answers, scores, asked = stepped(scalar, inputs, rows)
    np.testing.assert_array_equal(exits, wanted.exit[rows])
    np.testing.assert_array_equal(answers, wanted.prediction[rows, exits])
    assert asked < most
    _, answers, scores, _ = stepped(scalar, inputs, rows[::4], whole=True)
    np.testing.assert_array_equal(answers, wanted.prediction[rows[::4], -1])
    own = wanted.score[rows[::4], :-1]
    with np.errstate(invalid="ignore"):
        off = np.abs(scores[:, :-1] - own) / np.maximum(np.abs(own), 1)
    worst = np.nanmax(np.where(scores[:, :-1] == own, 0, off), initial=0)
    assert worst <= ROOM * BAND
    if type(policy.rule) not in (MaxProb, Margin, Entropy):  # for which more is proven
        assert worst <= min(ROOM * min(compiled(policy).near, default=1.0), ROOM * BAND)


# An eighth of the rows has huge or impossible logits.
@pytest.mark.parametrize("spec", SPECS)
def test_every_method(spec):
    checked(fitted(spec), 0.25)


@pytest.mark.parametrize("rule", CONFIDENCES)
def test_confidence_maps(rule):
    policy = po.fit(cache(), 3.7, "max_prob", confidence=rule).policy
    checked(policy, 0.15)
    logits = outputs(40, K, C, seed=2)[0]
    scalar = ScalarPolicy(policy)
    for row in logits[:, 0]:
        own = policy.step(0, row, policy.start()).confidence
        assert abs(scalar.step(0, row, scalar.start()).confidence - own) < BAND


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 256])
def test_numbers_of_classes(classes):
    for spec in ("margin", "optimal_stopping", "e2cm")[: 3 if classes < 256 else 2]:
        data = cache(400, K, classes)
        checked(fitted_to(data, spec), 0.2, 256)


@pytest.mark.parametrize("spec", ["e2cm:vectors=features", "de3_bert:vectors=features"])
@pytest.mark.parametrize("width", [1, 3, 200])
def test_features(spec, width):
    rng = np.random.default_rng(4)
    near, labels = outputs(400, K, C)
    vectors = [rng.normal(size=(400, width)) + near[:, k, :1] for k in range(K)]
    policy = fitted_to(po.from_arrays(near, labels, COSTS, unit="ms", features=vectors), spec)
    assert policy.needs_features
    checked(policy, 0.2, 256)
    scalar = ScalarPolicy(policy)
    for features, words in (
        (None, "given: the policy's score reads them"), ([0.0] * (width + 1), "numbers per sample"),
        ([np.nan] * width, "must be finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            scalar.step(0, [0.0] * C, scalar.start(), features)


def simple(rule, thresholds=(0.5, 0.6, 0.7), **more):
    return Policy(rule, thresholds, COSTS, "ms", more.pop("kind", "logits"), C, **more)


@pytest.mark.parametrize(
    "policy",
    [
        simple(MaxProb(), mixture=Mixture([0.9, 0.9, 0.9], 0.5, seed=3)),
        simple(MaxProb(), mixture=Mixture([0.3, 0.2, 0.2], 0.5, rule=Margin())),
        simple(Margin(), kind="probabilities"),
        Policy(MaxProb(), [0.6], [2, 8], "ms", "logits", C, kept=(1, 3), model_exits=4),
        Policy(MaxProb(), [], [8.0], "ms", "logits", C),
    ],
    ids=["mixture", "mixture_of_rules", "probabilities", "kept", "one_exit"],
)
def test_what_else_policies_have(policy):
    checked(policy, 0.2)


@pytest.mark.parametrize("rule", [MaxProb(), Margin(), Entropy(C)], ids=lambda rule: rule.name)
def test_at_the_threshold_the_policy_decides(rule):
    logits = outputs(200, K, C, seed=5)[0]
    scores = simple(rule).trace(logits).scores
    (near, *_) = compiled(simple(rule, [scores[7, 0], 2.0, 2.0])).near
    assert near < BAND
    for threshold in (scores[7, 0], np.nextafter(scores[7, 0], 9), scores[7, 0] + near / 2):
        policy = simple(rule, [threshold, 2.0, 2.0])
        scalar = ScalarPolicy(policy)
        state = scalar.start()
        assert scalar.step(0, logits[7, 0], state).exit == (scores[7, 0] >= threshold)
        assert state.slow is not None
        state = scalar.start()
        scalar.step(0, logits[np.abs(scores[:, 0] - threshold).argmax(), 0], state)
        assert state.slow is None


@pytest.mark.parametrize("classes", [2, 3, 10, 64, 256])
def test_what_is_proven_of_saturated_scores(classes):
    """Off by a share of 1 less the score, however near to 1: a quarter of what is in doubt, at most."""
    rng = np.random.default_rng(classes)
    rows = rng.normal(size=(1500, classes)) * np.exp(rng.normal(size=(1500, 1)) * 2)
    rows[::7] = np.round(rows[::7])
    rows[np.arange(1500), rng.integers(0, classes, 1500)] += rng.uniform(0, 40, 1500)
    rows = rows.astype(np.float32)[:, None]
    saturated = 0
    for rule in (MaxProb(), Margin(), Entropy(classes)):
        policy = Policy(rule, [0.5], [1.0, 2.0], "ms", "logits", classes)
        trace = policy.trace(np.concatenate([rows, rows], axis=1))
        function = compiled(policy, ("score",)).functions[0]
        for row, own in zip(rows[:, 0], trace.scores[:, 0].tolist(), strict=True):
            found = function(row.tolist(), None, 0, ())
            if found is not None:
                assert abs(found[2] - own) <= _proven(own, classes) / 4
                saturated += 1 - own < 1e-6
    assert saturated > 100


def test_saturated_thresholds_are_decided():
    """Nearly all scores within 1e-5 of 1, as exits of strong models have them."""
    logits = outputs(400, K, C, seed=3)[0] * 0.1
    logits[..., 2] += np.random.default_rng(0).uniform(8, 14, (400, K))
    scores = simple(MaxProb()).trace(logits).scores
    policy = simple(MaxProb(), np.quantile(scores[:, :-1], 0.7, axis=0) - 1e-12)
    assert (policy.thresholds > 1 - 1e-3).all()
    scalar, expected, asked = ScalarPolicy(policy), policy.decide(logits), 0
    for row in range(400):
        state = scalar.start()
        k = next(k for k in range(K) if scalar.step(k, logits[row, k], state).exit)
        assert k == expected.exit[row]
        asked += state.slow is not None
    assert asked < 4


def test_equal_answers_are_the_policys_to_order():
    """Two classes alike in a combined answer: of the sums in float32, one may be larger."""
    policy = fitted("max_prob:answer=combined")
    scalar = ScalarPolicy(policy)
    logits = np.float32([[3.1, 3.1, 0, 0, 0, 0]] * 4)
    state = scalar.start()
    for k in range(K):
        own = policy.decide(logits[None])
        seen = scalar.step(k, logits[k], state)
        if seen.exit:
            break
    assert state.slow is not None
    assert (k, seen.prediction) == (own.exit[0], own.prediction[0])
    state = ScalarPolicy(simple(MaxProb())).start()  # as given, the first of equals is the answer
    assert ScalarPolicy(simple(MaxProb())).step(0, logits[0], state).prediction == 0
    assert state.slow is None


def test_forms_of_one_sample_and_errors_of_the_policy():
    torch = pytest.importorskip("torch")
    logits = outputs(1, K, C, seed=5)[0][0]
    policy = simple(Margin(), [2.0, 2.0, 2.0])
    scalar = ScalarPolicy(policy)
    wanted = ScalarPolicy(policy).step(0, logits[0], scalar.start())
    for form in (
        logits[0].tolist(), logits[:1], logits[:1].tolist(), tuple(logits[0].tolist()),
        logits[0].astype(np.float64), torch.tensor(logits[0]), torch.tensor(logits[:1]),
    ):  # fmt: skip
        seen = scalar.step(0, form, scalar.start())
        assert seen[:2] == wanted[:2]
        assert seen.score == pytest.approx(wanted.score, abs=BAND)
        assert type(seen.exit) is bool and type(seen.prediction) is int
    for bad, words in (
        (logits[0, 1:], "of shape"), (logits[0] * np.nan, "finite largest"), (["a"] * C, "array of"),
        (logits[:2], "one row per sample"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            scalar.step(0, bad, scalar.start())
    state = scalar.start()
    with pytest.raises(InputError, match="the next exit, 0"):
        scalar.step(1, logits[1], state)
    for k in range(K):
        assert scalar.step(k, logits[k], state).exit == (k == K - 1)
    with pytest.raises(InputError, match="the next exit, none"):
        scalar.step(K, logits[0], state)


def test_what_the_caller_does_to_its_arrays_later_is_not_seen():
    policy = fitted("optimal_stopping")
    logits = outputs(60, K, C, seed=8)[0]
    trace = policy.trace(logits)
    row = int(np.flatnonzero(trace.exit >= 2)[0])
    policy = replace(policy, thresholds=[*policy.thresholds[:1], trace.scores[row, 1], 9.0])
    scalar = ScalarPolicy(policy)
    state, buffer = scalar.start(), logits[row, 0].copy()
    assert not scalar.step(0, buffer, state).exit
    buffer[:] = 99.0
    seen = scalar.step(1, logits[row, 1], state)  # in doubt
    assert state.slow is not None
    assert seen.exit and seen.score == trace.scores[row, 1]


def test_what_goes_by_the_policy_alone():
    class Odd(ScoreRule):
        name = "odd"

        def score(self, k, output, state):
            return np.cbrt(output.confidence), state

    logits = outputs(20, K, C, seed=5)[0]
    odd = simple(Odd(), [0.8, 0.9, 0.9])
    wide = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", "logits", 257)
    record = replace(simple(MaxProb()), kind="record", classes=0)
    for policy, words in ((odd, "cannot be written"), (wide, "257 classes"), (record, "records")):
        assert words in ScalarPolicy(policy).reason
    scalar, expected = ScalarPolicy(odd), odd.decide(logits)
    for row in range(20):
        state = scalar.start(row)
        k = next(k for k in range(K) if (seen := scalar.step(k, logits[row, k], state)).exit)
        assert (k, seen.prediction) == (expected.exit[row], expected.prediction[row])
    seen = ScalarPolicy(record).step(0, {"prediction": 2, "confidence": 0.9}, scalar.start())
    assert seen == (True, 2, 0.9, 0.9)


def test_scores_that_rounding_takes_too_far_are_not_used():
    """A score that is nothing but rounding, magnified: found when it is tried, and refused."""

    class Steep(ScoreRule):
        name = "steep"
        needs = frozenset({"log_prob"})

        def score(self, k, output, state):
            return 1e6 * (np.exp(output.log_prob).sum(axis=1).astype(np.float64) - 1.0), state

    policy = simple(Steep())
    assert "too far" in compiled(policy).reason
    made = compiled(simple(MaxProb()), ("score",))
    assert tried(simple(MaxProb()), trace_policy(simple(MaxProb())), made.functions) < ROOM * BAND
    assert tried(simple(Margin()), trace_policy(simple(Margin())), made.functions) > BAND
