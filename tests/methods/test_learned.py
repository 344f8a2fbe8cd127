"""Learned scores and stop decisions against brute force, closed forms and scikit-learn."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from checks import exits_taken
from scipy.optimize import least_squares
from scipy.special import expit
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._answers.crossfit import CrossFitted
from policyopt._answers.logistic import weighted_logistic
from policyopt._methods.backward_induction import layer_by_layer
from policyopt._methods.exit_batch import StoppingData, build_batch, build_stopping_data, columns_of
from policyopt._methods.halting import LISTAStop, stop_posterior
from policyopt._methods.learned_score import BERxiT, FailurePrediction, no_failure
from policyopt._methods.prototypes import E2CM
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._report.calibration import calibration_records, failure_auroc
from policyopt._table import Tables
from policyopt.runtime._answers import Identity
from policyopt.runtime._scores import score_table


def by_sklearn(columns, target, weight, penalty):
    """Offset and weights by scikit-learn, the ridge on standardised columns, one more row half and half."""
    from sklearn.linear_model import LogisticRegression

    mean, sd = columns.mean(axis=0), columns.std(axis=0)
    sd[sd == 0] = 1.0
    model = LogisticRegression(C=4 / penalty, tol=1e-10, max_iter=10_000)

    def fit(rows):
        x = (columns[rows] - mean) / sd
        extra = np.zeros((1, x.shape[1]))
        model.fit(
            np.concatenate([x, x, extra, extra]),
            np.repeat([1, 0, 1, 0], [len(x), len(x), 1, 1]),
            np.concatenate(
                [weight[rows] * target[rows], weight[rows] * (1 - target[rows]), [0.5, 0.5]]
            ),
        )
        w = model.coef_[0] / sd
        return np.concatenate([[model.intercept_[0] - w @ mean], w])

    return fit


def test_weighted_logistic_is_that_of_a_library():
    """Fractional targets, uneven weights, hard and easy targets in turn; every fold and all rows."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(500, 4)) * [0.1, 1, 10, 0] + 3
    odds = columns @ [4.0, 1.0, -0.1, 0.0]
    target = expit(odds[:, None] - np.median(odds) + [-6.0, 0.0, 9.0])
    target[:, 1] = target[:, 1] > rng.random(500)
    weight = rng.exponential(size=(500, 3)) ** 3
    fold = rng.integers(0, 4, 500)
    theta = weighted_logistic(columns, target, weight, fold, 8.0)
    for i, g in itertools.product(range(3), range(5)):
        wanted = by_sklearn(columns, target[:, i], weight[:, i], 8.0)(fold != g)
        np.testing.assert_allclose(theta[g, :, i], wanted, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_weighted_logistic_of_nothing_to_learn(rows):
    """All alike, all of one kind, weights of 0, a fold that holds all rows: finite."""
    columns = np.ones((rows, 3))
    target, weight = np.ones((rows, 2)), np.stack([np.ones(rows), np.zeros(rows)], axis=1)
    for fold in (np.zeros(rows, int), np.arange(rows) % 5):
        theta = weighted_logistic(columns, target, weight, fold, 1.0)
        assert np.isfinite(theta).all()
        np.testing.assert_allclose(theta[:, :, 1], 0.0, atol=1e-9)
        assert theta[-1, 0, 0] > 0


def world(rows, seed):
    """Two signals seen at exits 0 and 1; success at three exits depends on the signal of the exit."""
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 3, rows)
    second = np.where(rng.random(rows) < 0.6, first, rng.integers(0, 3, rows))
    last = np.where(rng.random(rows) < 0.6, second, rng.integers(0, 3, rows))
    right = np.array([[0.3, 0.5, 0.65], [0.6, 0.7, 0.72], [0.95, 0.9, 0.92]])
    signal = np.stack([first, second, last], axis=1)
    success = (rng.random((rows, 3)) < right[signal, np.arange(3)]).astype(float)
    return signal, success


def test_bolukbasi_finds_the_best_of_all_policies():
    """With a column per signal, minimal weighted error is attained: the best of all 64 policies."""
    signal, success = world(40_000, 1)
    costs, prices = np.array([1.0, 2.0, 4.0]), np.array([-0.01, 0.01, 0.04, 0.1, 0.5])
    columns = [np.eye(3)[signal[:, k]] for k in range(2)]
    fold = np.arange(40_000) % 5
    found = layer_by_layer(columns, success, costs, fold, 1e-6, prices)
    taken = exits_taken(found, columns, fold)
    policies = np.array(list(itertools.product([False, True], repeat=6))).reshape(-1, 2, 3)
    for i, price in enumerate(prices):
        worth = success - price * costs
        values = []
        for leave in policies:
            at = [leave[k][signal[:, k]] for k in range(2)]
            values.append(
                np.where(at[0], worth[:, 0], np.where(at[1], worth[:, 1], worth[:, 2])).mean()
            )
        mine = worth[np.arange(40_000), taken[:, i]].mean()
        assert mine == pytest.approx(max(values), abs=1e-3)


def test_bolukbasi_classifies_layer_by_layer():
    """Pseudo-labels and weights row by row, as the paper says, then scikit-learn, at both exits."""
    table = Tables(cache(1600, exits=3)).get("fit")
    seen = build_stopping_data(table, "plain", 0.0, 5, 0, groups=4)
    costs, price, penalty = np.array([1.0, 2.0, 4.0]), 0.05, 40.0

    def learn(first):
        return layer_by_layer(
            seen.columns[first:], seen.success[:, first:], costs[first:], seen.fold, penalty,
            np.array([price]),
        )  # fmt: skip

    worth = seen.success - price * costs
    onward = worth[:, 2].copy()
    for k in (1, 0):
        label, weight = np.zeros(len(table)), np.zeros(len(table))
        for n in range(len(table)):
            label[n], weight[n] = worth[n, k] >= onward[n], abs(worth[n, k] - onward[n])
        fit = by_sklearn(seen.columns[k], label, weight / weight.mean(), penalty)
        found = learn(k)
        np.testing.assert_allclose(found.theta[-1, 0, :, 0], fit(label >= 0), atol=2e-3)
        stops = (
            exits_taken(found, seen.columns[k:], seen.fold)[:, 0] == 0
        )  # by coefficients of the other folds:
        for g in range(4):
            theta, held = fit(seen.fold != g), seen.fold == g
            odds = theta[0] + seen.columns[k][held] @ theta[1:]
            clear = np.abs(odds) > 0.02
            np.testing.assert_array_equal(stops[held][clear], (odds > 0)[clear])
        onward[stops] = worth[stops, k]


def tabular(signal, success, likelihood):
    """Evidence whose columns tell the signal and nothing else."""
    columns = [np.eye(3)[signal[:, k]] for k in range(2)]
    rows = len(signal)
    blank = np.zeros((2, 3))
    return StoppingData(
        SimpleNamespace(kind="logits"), Identity(), "record", blank, blank, columns, columns, np.ones((rows, 2)), success,
        np.arange(rows) % 5, likelihood,
    )  # fmt: skip


def brute_posterior(loss, costs, price, beta):
    """q* of one row by the formula of the module, prior and likelihood written out."""
    prior = [np.exp(-price * c / beta) for c in costs]
    joint = [p * np.exp(-x) ** (1 / beta) for p, x in zip(prior, loss, strict=True)]
    return np.array(joint) / sum(joint)


@pytest.mark.parametrize(("loss", "beta"), [("likelihood", 1.0), ("error", 0.5)])
def test_lista_stop_imitates_the_posterior(loss, beta):
    """Brute-force q*; in each cell of a table the forward divergence is least at q*'s pooled hazard."""
    signal, success = world(600, 2)
    likelihood = np.random.default_rng(3).uniform(0.05, 0.95, (600, 3))
    costs = np.array([1.0, 2.0, 4.0])
    seen = tabular(signal, success, likelihood)
    found = LISTAStop(loss=loss, beta=beta, penalty=1e-9).train(seen, costs, 0)
    losses = -np.log(likelihood) if loss == "likelihood" else 1 - success
    for i in (2, 5, 9, 12):
        q = np.stack([brute_posterior(row, costs, found.prices[i], beta) for row in losses])
        np.testing.assert_allclose(
            stop_posterior(losses, costs, found.prices, beta)[:, :, i].T, q, rtol=1e-9, atol=1e-300
        )
        for k in range(2):
            theta = found.theta[-1, k, :, i]
            for cell in range(3):
                rows = signal[:, k] == cell
                hazard = q[rows, k].sum() / q[rows, k:].sum()
                mine = expit(theta[0] + theta[1 + cell])
                assert mine == pytest.approx(hazard, abs=0.01)  # one row of 1/2 besides

                def divergence(stop, rows=rows, k=k, q=q):
                    return -(
                        q[rows, k] * np.log(stop) + q[rows, k + 1 :].sum(axis=1) * np.log1p(-stop)
                    ).sum()

                least = min(divergence(p) for p in np.linspace(0.005, 0.995, 199))
                assert divergence(hazard) <= least + 1e-9


def test_prices_of_lista_stop_run_from_dear_to_cheap():
    table = Tables(cache(4000)).get("fit")
    seen = build_stopping_data(table, "plain", 1.0, 5, 0, groups=20)
    for settings in ({}, {"beta": 1.0}, {"loss": "error"}):
        found = LISTAStop(**settings).train(seen, table.costs, 0)
        costs = table.costs[exits_taken(found, seen.columns, seen.fold)].mean(axis=0)
        assert costs[0] > 6.5 and costs[-1] < 1.1
        assert (np.diff(costs) < 0.1).all()


def test_lista_stop_learns_from_labelled_rows_only():
    """Rows without a label weigh nothing: what their outputs say does not matter."""
    logits, labels = outputs(800, seed=5)
    labels = labels.copy()
    labels[400:] = -1
    thetas = []
    for change in (0.0, 1.0):
        changed = logits.copy()
        changed[400:, -1] = np.roll(
            changed[400:, -1], int(change), axis=1
        )  # no feature sees the last
        data = po.from_arrays(
            splits={"fit": {"outputs": changed, "labels": labels}}, costs=[1, 2, 4, 8], unit="ms"
        )
        seen = build_stopping_data(Tables(data).get("fit"), "plain", 1.0, 5, 0)
        assert np.isnan(seen.true_class[400:]).all()
        assert np.isfinite(seen.true_class[:400]).all()
        hard = build_stopping_data(
            Tables(data).get("fit"), "plain", 0.0, 5, 0
        )  # takes labelled rows only
        np.testing.assert_array_equal(hard.true_class, seen.true_class[:400])
        thetas.append(LISTAStop().train(seen, np.array([1.0, 2, 4, 8]), 0).theta)
    np.testing.assert_array_equal(*thetas)


def squares(columns, target, penalty):
    """Offset and weights that minimise berxit's loss, by Gauss-Newton on residuals."""
    n = len(target)

    def residuals(theta):
        off = (expit(columns @ theta[1:] + theta[0]) - target) / n**0.5
        return np.concatenate([off, (penalty / (8 * n)) ** 0.5 * theta[1:]])

    return least_squares(residuals, np.zeros(columns.shape[1] + 1), xtol=1e-14, ftol=1e-14).x


@pytest.mark.parametrize("shared", [True, False])
def test_berxit_is_one_module_fitted_by_squares(shared):
    """The module of all exits, or one each; the rule is a sigmoid of its linear layer."""
    seen = build_batch(Tables(cache(1200, exits=3)).get("fit"), CrossFitted(Identity()))
    rule = BERxiT(shared=shared).learn(seen, 0)
    columns = columns_of(seen, common=shared)
    if shared:
        for name in ("center", "scale", "weights"):
            np.testing.assert_array_equal(getattr(rule, name)[0], getattr(rule, name)[1])
        groups = [
            (
                np.concatenate(columns.basis),
                np.concatenate([seen.correct[:, 0], seen.correct[:, 1]]),
            )
        ]
    else:
        groups = [(columns.basis[k], seen.correct[:, k]) for k in range(2)]
    for k, (x, right) in enumerate(groups):
        wanted = expit(x @ (theta := squares(x, right, 30.0))[1:] + theta[0])
        own = expit(x @ rule.weights[k] + rule.offset[k])
        np.testing.assert_allclose(own, wanted, atol=2e-3)
    scores = score_table(rule, seen.outputs)
    for k in range(2):
        odds = columns.basis[k] @ rule.weights[k] + rule.offset[k]
        np.testing.assert_allclose(scores[:, k], expit(odds), atol=1e-12)
    assert (scores[:, 2] == 1).all()


def test_a_failure_is_what_a_later_exit_mends():
    """All patterns of four exits; then the score is a library's logistic regression."""
    correct = np.array(list(itertools.product([0.0, 1.0], repeat=4)))
    for row, good in zip(correct, no_failure(correct), strict=True):
        for k in range(4):
            assert good[k] == float(row[k] == 1 or not row[k + 1 :].any())
    seen = build_batch(Tables(cache(1200, exits=3)).get("fit"), CrossFitted(Identity()))
    rule = FailurePrediction(penalty=10.0).learn(seen, 0)
    for k, x in enumerate(columns_of(seen).basis):
        good = no_failure(seen.correct)[:, k]
        theta = by_sklearn(x, good, np.ones(len(x)), 10.0)(good >= 0)
        np.testing.assert_allclose(
            score_table(rule, seen.outputs)[:, k], expit(x @ theta[1:] + theta[0]), atol=2e-3
        )


def test_true_class_probability_is_regressed():
    """ConfidNet's target by its definition, and its loss by another minimiser."""
    table = Tables(cache(1200, exits=3)).get("fit")
    seen = build_batch(table, CrossFitted(Identity()))
    rule = FailurePrediction(target="true_class").learn(seen, 0)
    chances = np.exp(table.log_prob().astype(float))
    for k, x in enumerate(columns_of(seen).basis):
        target = np.array([p[k, y] for p, y in zip(chances, seen.labels, strict=True)])
        theta = squares(x, target, 30.0)
        np.testing.assert_allclose(
            score_table(rule, seen.outputs)[:, k], expit(x @ theta[1:] + theta[0]), atol=3e-3
        )


RECORDS = (
    "bolukbasi", "lista_stop", "failure_prediction", "berxit", "optimal_stopping", "fitted_q",
    "policy_gradient:steps=2",
)  # fmt: skip


@pytest.mark.parametrize("spec", RECORDS)
def test_records_serve(spec):
    """Predictions and confidences are enough, with costs per sample too: better than a coin."""
    rng = np.random.default_rng(7)
    statistics = Tables(cache(3000, exits=3, split={"fit": 1.0})).get("fit").statistics
    costs = np.cumsum(rng.gamma(4.0, 1.0, (3000, 3)) * [1, 3, 9], axis=1)
    data = po.from_arrays(
        labels=statistics.labels, prediction=statistics.prediction,
        confidence=statistics.confidence, costs=costs, unit="USD",
    )  # fmt: skip
    tables = Tables(data)
    means = tables.get("fit").mean_costs
    budget = float(np.interp(0.8, range(3), means))
    (result,) = make_method(spec).fit_path(tables.get("fit"), [budget])
    assert result.expected.cost == pytest.approx(budget, rel=0.01)
    test = tables.get("test")
    (coin,) = make_method("random").fit_path(tables.get("fit"), [budget])
    ours, chance = (replay(r.policy, test).correct.mean() for r in (result, coin))
    assert ours > chance + 0.02


@pytest.mark.parametrize(
    "spec", ["bolukbasi", "lista_stop", "failure_prediction", "optimal_stopping"]
)
def test_hopeless_samples_leave_early(spec):
    """What going on cannot mend is not sent on, as max_prob and a probability of being right do."""
    tables = Tables(hopeless())
    fit, test = tables.get("fit"), tables.get("test")
    ours, *others = (
        replay(make_method(m).fit_path(fit, [2.0])[0].policy, test).correct.mean()
        for m in (spec, "max_prob", "berxit")
    )
    assert ours > max(others) + 0.05


def test_of_few_rows_a_score_that_keeps_rows_is_learned_in_more_folds(monkeypatch):
    """Each row is scored by a rule of nearly all the others, as the deployed one is of all; a regression is not."""
    sizes = []
    for kind in (E2CM, BERxiT):
        monkeypatch.setattr(
            kind, "learn", lambda *a, learn=kind.learn: sizes.append(len(a[1])) or learn(*a)
        )
    for rows, spec, learned in (
        (100, "e2cm", 20), (1000, "e2cm", 10), (3000, "e2cm", 5), (100, "e2cm:folds=25", 25), (100, "berxit", 0),
    ):  # fmt: skip
        sizes.clear()
        table = Tables(cache(rows, exits=2, split={"fit": 1.0})).get("fit")
        make_method(spec).propose(table, [1.5])
        assert sizes == [rows] + [rows - rows // learned for _ in range(learned)]


def test_failure_auroc_is_that_of_a_library():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(8)
    scores = rng.integers(0, 20, (400, 4)) / 20  # ties
    correct = (rng.random((400, 4)) < scores * 0.5 + 0.3).astype(float)
    areas = failure_auroc(scores, correct)
    good = no_failure(correct)
    for k in range(3):
        assert areas[k] == pytest.approx(roc_auc_score(good[:, k], scores[:, k]), abs=1e-12)
    assert areas[3] is None
    assert failure_auroc(scores, np.ones((400, 4))) == [None] * 4
    records = calibration_records("none", scores, correct, np.zeros(400, np.int64))
    assert [r["failure_auroc"] for r in records if r["group"] == "all"] == areas
