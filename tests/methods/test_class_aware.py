"""Class-aware methods against the papers' rules, sample by sample, and a general-purpose optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from synthetic import cache, outputs

import policyopt as po
from policyopt._answers.calibrators import equal_mass_edges
from policyopt._answers.crossfit import crossfit
from policyopt._methods.exit_batch import build_batch
from policyopt._methods.prototypes import classes_of
from policyopt._methods.registry import make_method
from policyopt._methods.threshold import weights
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt._thresholds.problem import Problem
from policyopt._thresholds.quotas import solve_planned
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._scores import make_rule, score_table


def fit_rows(data):
    table = Tables(data).get("fit")
    return table, build_batch(table, crossfit(table, "plain", np.zeros(len(table), int)))


def records(n=800, labelled=True, seed=0):
    """Predictions and confidences of synthetic logits, some exits without an answer."""
    from policyopt.runtime._outputs import reduce_logits

    logits, labels = outputs(n, 3, 4, seed)
    reduced = [reduce_logits(logits[:, k]) for k in range(3)]
    prediction = np.stack([r.prediction for r in reduced], axis=1)
    confidence = np.stack([r.confidence for r in reduced], axis=1)
    prediction[::50, 0], confidence[::50, 0] = -1, 0.0
    known = {"labels": labels} if labelled else {"correct": prediction == labels[:, None]}
    return po.from_arrays(
        prediction=prediction, confidence=confidence, costs=[1.0, 2.0, 4.0], unit="ms", **known
    )


def test_cbt_by_the_papers_rule_sample_by_sample():
    """Mean probabilities over rows and exits, gap of the two largest, straight onto [alpha, beta]."""
    table, seen = fit_rows(cache(500, classes=4))
    rule = make_method("cbt:kappa=0+width=0.3").learn(seen, 0)
    z = np.stack([o.log_prob for o in seen.outputs], axis=1).astype(float)
    p = np.exp(z)
    gaps = []
    for c in range(4):
        mean = np.mean([p[i, k] for i in range(len(z)) if seen.labels[i] == c for k in range(4)], 0)
        first, second = sorted(mean)[::-1][:2]
        gaps.append(first - second)
    alpha, beta = 0.6, 0.9
    threshold = [beta - (g - min(gaps)) / (max(gaps) - min(gaps)) * (beta - alpha) for g in gaps]
    scores = score_table(rule, seen.outputs)
    for i in range(len(z)):
        for k in range(4):
            leaves = p[i, k].max() >= threshold[p[i, k].argmax()]
            assert leaves == (scores[i, k] >= alpha)
    del table


def test_cbt_shrinks_classes_of_few_rows():
    _, seen = fit_rows(cache(600, classes=4))
    kept = np.concatenate([np.flatnonzero(seen.labels != 2), np.flatnonzero(seen.labels == 2)[:2]])
    some = seen.take(kept)
    own, shrunk = (make_method(f"cbt:kappa={k}").learn(some, 0) for k in (0, 1000))
    assert np.ptp(own.offset) == pytest.approx(0.098)
    assert abs(shrunk.offset[2] - shrunk.other) < 0.003 * abs(own.offset[2] - own.other) + 1e-9
    assert (make_method("cbt:width=0").learn(some, 0).offset == 0).all()


def test_cbt_learns_classes_from_records_that_know_only_what_is_right():
    _, labelled = fit_rows(records())
    _, seen = fit_rows(records(labelled=False))
    assert seen.labels is None
    classes, count = classes_of(seen)
    right = seen.correct.any(axis=1)
    np.testing.assert_array_equal(classes[right], labelled.labels[right])
    assert (classes[~right] == -1).all()
    assert count == 4


@pytest.mark.parametrize("name", ["cbt", "pcee", "eero"])
@pytest.mark.parametrize("labelled", [True, False])
def test_records_suffice(name, labelled):
    tables = Tables(records(labelled=labelled))
    for result in make_method(name).fit_path(tables.get("fit"), [1.3, 2.5]):
        assert 0.97 * result.budget <= result.expected.cost <= result.budget * (1 + 1e-9)
        step = result.policy.step(0, {"prediction": -1, "confidence": 0.0}, result.policy.start(0))
        assert not step.exit


def test_offsets_from_an_artifact_are_checked():
    rule = make_rule("class_offset", {"offset": [0.0, 0.1], "other": 0.05})
    rule.check(3, 2)
    for params in ({"offset": [], "other": 0.0}, {"offset": [[0.1]], "other": 0.0}):
        with pytest.raises(InputError, match="offset of score class_offset"):
            make_rule("class_offset", params)
    with pytest.raises(InputError, match=r"offset of score class_offset.*C = 3"):
        rule.check(3, 3)


@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_pcee_leaves_where_the_bins_accuracy_reaches_delta(smooth):
    """The paper's rule, sample by sample, on the reliability diagram made rising from above."""
    table = Tables(cache(1500)).get("fit")
    delta, bins = 0.85, 10
    method = make_method("pcee", {"delta": delta, "bins": bins, "smooth": smooth})
    (result,) = method.fit_path(table, [8.0])
    stats = table.statistics
    exits = result.policy.decide(stats.outputs()).exit
    accuracies, edges = [], []
    for k in range(3):
        edge = equal_mass_edges(stats.confidence[:, k], bins)
        place = np.searchsorted(edge, stats.confidence[:, k], side="right")
        raw = [stats.correct[place == b, k].mean() for b in range(len(edge) + 1)]
        if smooth:
            window = [
                [np.exp(-0.5 * ((a - b) / smooth) ** 2) for b in range(len(raw))]
                for a in range(len(raw))
            ]
            raw = [np.average(raw, weights=w) for w in window]
        accuracies.append([min(raw[b:]) for b in range(len(raw))])
        edges.append(edge)
    for i in range(len(table)):
        for k in range(4):
            b = np.searchsorted(edges[k], stats.confidence[i, k], side="right") if k < 3 else 0
            if k == 3 or accuracies[k][b] >= delta:
                break
        assert exits[i] == k
    early = exits < 3
    assert np.mean(stats.correct[np.flatnonzero(early), exits[early]]) >= delta


def test_pcee_refuses_an_accuracy_that_costs_more_than_the_budget():
    table = Tables(cache()).get("fit")
    with pytest.raises(BudgetError, match="delta"):
        make_method("pcee:delta=0.999").fit_path(table, [1.2])
    with pytest.raises(InputError, match="at most 1"):
        make_method("pcee:delta=1.2")


@pytest.mark.parametrize("beta", [0.02, 0.3])
def test_eero_solves_the_papers_problem(beta):
    """Where the budget binds: the minimiser that a general solver finds under the same constraints."""
    risk, costs, budget = np.array([0.4, 0.2, 0.25, 0.1]), np.array([1.0, 2.0, 4.0, 8.0]), 2.2
    prior = (1 / costs) / (1 / costs).sum()

    def objective(eps):
        eps = np.maximum(eps, 1e-300)
        return eps @ risk + beta * (eps @ np.log(eps / prior))

    found = minimize(
        objective, prior, method="SLSQP", bounds=[(0, 1)] * 4, options={"maxiter": 500, "ftol": 1e-14},
        constraints=[
            {"type": "eq", "fun": lambda e: e.sum() - 1},
            {"type": "ineq", "fun": lambda e: budget - e @ costs},
        ],
    )  # fmt: skip
    assert found.success
    assert found.x @ costs == pytest.approx(budget)  # it binds
    # Shares as they leave, where every sample has its own score.
    n = 20_000
    problem = Problem(np.random.default_rng(0).random((n, 4)), np.tile(1 - risk, (n, 1)), costs)
    solution = solve_planned(problem, weights(risk, costs, beta, "cost"), budget)
    from policyopt.runtime._policy import first_exit

    shares = np.bincount(first_exit(problem.scores, solution.thresholds), minlength=4) / n
    np.testing.assert_allclose(shares, found.x, atol=2e-3)


def test_eero_sends_few_to_an_exit_that_is_worse_than_a_cheaper_one():
    risk, costs = np.array([0.3, 0.1, 0.3]), np.array([1.0, 2.0, 2.2])
    cold, warm = (weights(risk, costs, beta, "uniform") for beta in (0.01, 100.0))
    np.testing.assert_allclose(cold, [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(warm, 1 / 3, atol=1e-3)
    assert np.isfinite(weights(risk, np.zeros(3), 0.1, "cost")).all()


def test_cbt_keeps_its_budget_where_confidences_crowd_at_one():
    """Saturated exits, a dear last one: learned fold by fold, places a hair apart cost 58 % too much."""
    off = []
    for seed in range(4):
        logits, labels = outputs(8000, 3, 8, seed=seed)
        halves = {"fit": 0.5, "test": 0.5}
        data = po.from_arrays(30 * logits, labels, [1.0, 20.0, 200.0], unit="ms", split=halves)
        tables = Tables(data)
        (result,) = make_method("cbt").fit_path(tables.get("fit"), [10.0])
        off.append(replay(result.policy, tables.get("test")).cost.mean() / result.expected.cost - 1)
    assert abs(np.mean(off)) < 0.15
