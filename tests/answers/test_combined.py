"""Answers combined over exits: the fit against a grid and finite differences, kept only where it helps."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import cache, outputs

import policyopt as po
from policyopt._answers.combined import (
    cross_fit_combined,
    fit_combined,
    negative_log_likelihood,
    rows_negative_log_likelihood,
)
from policyopt._answers.crossfit import answered, crossfit, folds_of
from policyopt._costs import overhead, rate_of, unit_per_multiply_add
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime._answers import Combined, Identity
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb


def logs(logits):
    z = logits.astype(np.float64)
    z -= z.max(-1, keepdims=True)
    return (z - np.log(np.exp(z).sum(-1, keepdims=True))).astype(np.float32)


def test_gradient_of_the_likelihood():
    logits, labels = outputs(200, 3, 5)
    columns = [logs(logits)[:, k] for k in range(3)]
    rng = np.random.default_rng(0)
    weights, bias = rng.random(3), rng.normal(size=5) * 0.3
    _, slope, bias_slope = negative_log_likelihood(columns, labels, weights, bias)
    step = 1e-2  # float32 likelihoods: central differences of this width keep four digits

    def loss(step_of_weights, step_of_bias):
        at = weights + step_of_weights, bias + step_of_bias
        return negative_log_likelihood(columns, labels, *at)[0]

    for j, e in enumerate(step * np.eye(3)):
        assert slope[j] == pytest.approx((loss(e, 0) - loss(-e, 0)) / (2 * step), abs=2e-4)
    for c, e in enumerate(step * np.eye(5)):
        assert bias_slope[c] == pytest.approx((loss(0, e) - loss(0, -e)) / (2 * step), abs=2e-4)


def test_weights_are_the_best_of_a_grid():
    logits, labels = outputs(1500, 2, 4, seed=1)
    log_prob = logs(logits)
    rule = fit_combined(log_prob, labels)
    grid, columns = np.linspace(0, 2.5, 51), list(log_prob.swapaxes(0, 1))
    pairs = np.array([(a, b) for a in grid for b in grid])
    values = [negative_log_likelihood(columns, labels, pair)[0] for pair in pairs]
    np.testing.assert_allclose(rule.weights[1], pairs[np.argmin(values)], atol=0.06)
    reached = rows_negative_log_likelihood(rule, log_prob, labels)[:, 1].mean()
    assert reached <= np.min(values) + 1e-5


def test_independent_exits_combine_as_experts():
    """Exits with independent noise of known size: the likelihood's weights are those of Bayes' rule."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 40_000)
    noise = np.array([1.0, 0.5])
    seen = np.eye(3)[labels][:, None] + rng.normal(size=(40_000, 2, 3)) * noise[:, None]
    posterior = logs(seen / noise[:, None] ** 2)  # log p(class | exit) up to a constant
    rule = fit_combined(posterior, labels)
    np.testing.assert_allclose(rule.weights[1], [1, 1], atol=0.06)


def test_readings():
    logits, labels = outputs(800, 3, 4, seed=3)
    log_prob = logs(logits)
    poe = fit_combined(log_prob, labels, "poe")
    np.testing.assert_allclose(poe.weights, [[1 / 3, 0, 0], [1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 1]])
    shifted = log_prob + np.array([1.0, 0, 0, -1.0], dtype=np.float32)
    ztw = fit_combined(logs(shifted), labels, "ztw")
    assert ztw.bias[0, 0] < -0.3 < 0.3 < ztw.bias[0, 3]  # it takes back what was added
    with pytest.raises(InputError, match="geometric, ztw, poe"):
        fit_combined(log_prob, labels, "sum")


def test_kept_only_where_held_out_likelihood_improves():
    """An exit that repeats the one before adds nothing; one with noise of its own does."""
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 5, 2000)
    logits = 1.5 * np.eye(5)[labels][:, None] + rng.normal(size=(2000, 3, 5))
    logits[:, 1] = logits[:, 0]
    keep, whole, _ = cross_fit_combined(logs(logits), labels, np.arange(2000) % 5)
    assert np.count_nonzero(whole.weights[:2]) == 2  # their own alone
    assert keep.tolist() == [False, False, True]
    copies = np.repeat(logits[:, :1], 3, axis=1)
    rows = {"fit": {"outputs": copies, "labels": labels}}
    table = Tables(po.from_arrays(splits=rows, costs=[1, 2, 3])).get("fit")
    assert isinstance(crossfit(table, "combined", folds_of(2000, 5, 0)).rule, Identity)


def test_answers_cross_fitted_by_fold():
    """Each row is answered by the rule that its fold did not train; the table says what it answers."""
    data = cache(1200, 3, 5)
    table = Tables(data).get("fit")
    fold = folds_of(len(table), 4, 0)
    answers = crossfit(table, "combined", fold)
    new = answered(table, answers)
    log_prob = table.log_prob()
    for g, rule in enumerate(answers.rules):
        rows = fold == g
        total = np.einsum("nkc,jk->njc", log_prob[rows].astype(float), rule.weights)
        np.testing.assert_array_equal(new.statistics.prediction[rows], total.argmax(axis=2))
    labels = table.statistics.labels
    np.testing.assert_array_equal(new.correct, new.statistics.prediction == labels[:, None])


def test_rows_do_not_depend_on_their_batch():
    logits, labels = outputs(300, 4, 7, seed=5)
    rule = fit_combined(logs(logits), labels)
    state = rule.start(300, 7)
    batch = []
    for k in range(4):
        answer, state = rule.answer(k, logits[:, k], state)
        batch.append(answer)
    for row in (0, 17, 299):
        state = rule.start(1, 7)
        for k in range(4):
            answer, state = rule.answer(k, logits[[row], k], state)
            np.testing.assert_array_equal(answer[0], batch[k][row])


@pytest.mark.parametrize(
    "weights", [[[1, 1], [0, 1]], [[-1, 0], [0, 1]], [[1, 0]], [["a"]], [[1, 0], [np.nan, 1]]]
)
def test_malformed_weights_are_refused(weights):
    with pytest.raises(InputError, match=r"weights of (the )?answer"):
        Combined(weights)


def test_units_of_arithmetic():
    for unit, value in (
        ("MFLOPs", 2e-6), ("GMACs", 1e-9), ("FLOPs", 2.0), ("ms", None), ("USD", None), ("madds", 1.0), ("MOps", 2e-6),
    ):  # fmt: skip
        assert unit_per_multiply_add(unit) == value
    compute, latency = po.Cost("compute", "MFLOPs", (1, 8)), po.Cost("latency", "ms", (1, 4))
    assert rate_of(latency, (compute, latency)) == pytest.approx(4 / 8 * 2e-6)
    assert rate_of(latency, (latency,)) == 0.0


def test_the_arithmetic_of_answers_is_paid_for():
    """Costs of a few operations: combining is then dear, and counted in budget, policy and replay."""
    logits, labels = outputs(2000, 3, 6, seed=6)
    data = po.from_arrays(logits, labels, [100, 200, 400], unit="FLOPs")
    tables = Tables(data)
    (result,) = make_method("max_prob:answer=combined").fit_path(tables.get("fit"), [250.0])
    policy = result.policy
    own = overhead(policy.answer, (MaxProb(),), 3, 6, 2.0)
    used = [int(np.count_nonzero(policy.answer.weights[k])) for k in range(3)]
    np.testing.assert_allclose(own, np.cumsum([12 * u for u in used]))
    np.testing.assert_allclose(policy.overhead, own)
    np.testing.assert_allclose(policy.costs, np.array([100, 200, 400]) + own)
    assert result.expected.cost <= 250.0
    outcome = replay(policy, tables.get("test"))
    np.testing.assert_allclose(outcome.cost, policy.costs[outcome.exit])
    with pytest.raises(BudgetError, match=rf"\[{100 + own[0]:.6g}"):
        make_method("max_prob:answer=combined").fit_path(tables.get("fit"), [100.0])


def test_exits_that_rule_out_each_others_classes():
    """A class of probability 0 at one exit is unlikely in the combination, not impossible."""
    policy = Policy(
        MaxProb(), [2.0], [1.0, 2.0], "ms", "probabilities", 2, answer=Combined([[1, 0], [1, 1]])
    )
    trace = policy.trace(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.0, 1.0]]]))
    assert np.isfinite(trace.scores).all()
    assert trace.predictions[1, 1] == 1
    logits, labels = outputs(800, 3, 6, seed=9)
    p = np.exp(logs(logits))
    p = np.where(p < 0.02, 0.0, p)
    p /= p.sum(axis=2, keepdims=True)
    data = po.from_arrays(p.astype(np.float32), labels, [1, 2, 4], unit="ms", kind="probabilities")
    for method in ("margin:answer=combined", "optimal_stopping"):
        assert np.isfinite(po.evaluate(po.fit(data, 2.0, method).policy, data).cost).all()
