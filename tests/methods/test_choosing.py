"""The choice among methods: simple where in doubt, better where clear; and exits where scores tell nothing apart."""

from __future__ import annotations

import numpy as np
import pytest
from checks import fit_one, fit_table, pool
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._methods import choosing
from policyopt._methods.base import sides
from policyopt._methods.choosing import CANDIDATES, Comparison, one_standard_error, winners_gain
from policyopt._methods.fitted import flat_note
from policyopt._methods.registry import make_method
from policyopt._methods.threshold import Threshold
from policyopt._replay import trace
from policyopt._thresholds.degenerate_scores import ROUNDING
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import from_dict, to_dict


def rule(values, errors=1.0):
    return one_standard_error(np.array(values, dtype=float), CANDIDATES[: len(values)], errors)


def test_one_standard_error_rule_by_hand():
    """The last is best by 0.1; paired with it, the fourth is noisy, the others are worse for sure."""
    rng = np.random.default_rng(0)
    best = 0.1 + (rng.random(400) < 0.8)
    noisy, surely = best - 0.05 + rng.normal(size=400) * 2.0, best - 0.05
    values = [surely, surely, surely, noisy, surely, best]
    chosen, report = rule(values)
    assert CANDIDATES[chosen][0] == "max_prob:thresholds=joint"  # the simplest within one error
    assert rule(values, errors=0.0)[0] == np.mean(values, axis=1).argmax()
    assert report[0]["behind_best"] == pytest.approx(0.05)
    assert report[0]["standard_error"] == pytest.approx(0.0, abs=1e-12)
    line = np.linspace(0, 1, 100)
    assert rule([line, line + 0.2, line + 0.1])[0] == 1  # equals of one complexity: by their means
    chosen, report = rule([line, line, line, line, line, np.full(100, -np.inf)])
    assert chosen == 0 and [r["method"] for r in report] == [name for name, _, _ in CANDIDATES[:5]]


@pytest.mark.parametrize("count", [2, 6])
def test_what_a_choice_owes_to_its_rows(count):
    """Of M methods alike the best mean of N looks better by the mean of the largest of M normals, over sqrt(N)."""
    rng, rows = np.random.default_rng(0), 300
    alike = [(str(i), CANDIDATES[0][1], 0) for i in range(count)]
    found = [winners_gain(rng.normal(size=(count, rows)), alike, 1.0, s) for s in range(60)]
    largest = rng.normal(size=(100_000, count)).max(axis=1).mean()
    assert np.mean(found) * rows**0.5 == pytest.approx(largest, rel=0.2)
    values = rng.normal(size=(count, rows))
    values[0] += 2.0  # nothing to choose
    assert winners_gain(values, alike, 1.0, 0) == 0.0


def test_learned_policies_where_they_clearly_win_and_simple_ones_where_nothing_is_to_be_gained():
    """Hopeless samples: only the regression knows them from curable ones. Noise beyond the confidence: none leads."""
    found = po.fit(hopeless(), 2.0).policy.provenance
    assert found["method"] == "auto" and found["chosen"]["method"] == "optimal_stopping"
    assert len(found["compared"]) == len(CANDIDATES)
    rng = np.random.default_rng(4)
    sure = rng.random((2000, 2))
    right = rng.random((2000, 2)) < sure
    data = po.from_arrays(correct=right, prediction=1 - right, confidence=sure, costs=[1, 2])
    assert po.fit(data, 1.5).policy.provenance["chosen"]["method"] == "max_prob"


def test_unlabelled_rows_are_left_to_methods_that_use_them():
    logits, labels = outputs(1000, seed=8)
    labels[500:] = -1
    found = fit_one("auto:folds=2", fit_table(pool(logits, labels)), 3.0)
    assert found.expected.rows in (500, 1000)
    for method in ("auto", "subset"):
        with pytest.raises(InputError, match="label for every row"):
            po.fit(pool(logits, np.full(1000, -1)), 3.0, method)


def test_of_few_rows_the_simplest_is_fitted_once_for_all_its_budgets(monkeypatch):
    calls, fit = [], Threshold.fit_path
    monkeypatch.setattr(Threshold, "fit_path", lambda *a: calls.append(a) or fit(*a))
    found = make_method("auto").fit_path(fit_table(cache(60)), [1.5, 2.0, 3.0, 5.0])
    for provenance in (one.policy.provenance for one in found):
        assert provenance["chosen"]["method"] == "max_prob" and provenance["compared"] == []
    assert len(found) == 4 and len(calls) == 1


@pytest.mark.parametrize(
    ("kind", "costs", "path"),
    [("standalone", [1.0, 20.0, 10.0], (0, 2)), ("cumulative", [1.0, 21.0, 31.0], (0, 1, 2))],
)
def test_a_cascade_may_jump_models(kind, costs, path):
    logits, labels = outputs(1500, exits=3, seed=8)
    logits[:, 1] = logits[:, 0] + np.random.default_rng(0).normal(size=logits[:, 0].shape) * 0.1
    data = po.from_arrays(logits, labels, costs=costs, unit="USD", cost_kind=kind)
    assert fit_one("auto:folds=3", fit_table(data), 8.0).policy.active_exits == path


# Exits whose scores differ by rounding only.
BUDGETS = [2.4, 4.0, 6.4]


def no_better(blank=False, rows=800):
    """Rows to fit on of four exits of which the later ones say the same as exit 0, or nothing at all."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, rows)
    first = 1.7 * (rng.normal(size=(rows, 5)) + 1.6 * np.eye(5)[labels])
    logits = np.stack([first] * 4, axis=1)
    logits[:, 1:] *= not blank
    return pool(logits.astype(np.float32), labels.astype(np.int32))


def alike(right_at_last=True, rows=120):
    """Two exits, all rows the same up to a unit of rounding; exit 0 is wrong, exit 1 right or wrong."""
    one = np.array([[0.6, 0.1, 0.2], [0.0, 3.0 if right_at_last else -3.0, 0.1]], dtype=np.float32)
    rounding = np.random.default_rng(0).integers(-1, 2, (rows, 2, 3)).astype(np.float32)
    data = {"outputs": one + 2.0**-24 * rounding, "labels": np.ones(rows, dtype=np.int32)}
    return fit_table(po.from_arrays(splits={"fit": data}, costs=[1.0, 3.0], unit="ms"))


def both(policy):
    return [one for _, one in sides(policy)]


def check_nothing_decided_by_rounding(policy, table):
    """Return how many exits have scores within rounding of each other; no threshold is near those."""
    found = 0
    for one in both(policy):
        scores = trace(one, table).scores
        for k, threshold in enumerate(one.thresholds):
            tolerance = ROUNDING * max(float(np.abs(scores[:, k]).max()), 1.0)
            if np.ptp(scores[:, k]) <= tolerance:
                found += 1
                assert np.abs(scores[:, k] - threshold).min() > tolerance, (k, threshold)
    return found


@pytest.mark.parametrize("blank", [False, True])
@pytest.mark.parametrize(
    "spec",
    ["optimal_stopping", "optimal_stopping:mix=true", "bolukbasi", "lista_stop", "act",
     "failure_prediction", "frugalgpt", "auto"],
)  # fmt: skip
def test_no_threshold_separates_scores_that_differ_by_rounding(spec, blank):
    table = fit_table(no_better(blank))
    flat = 0
    for result in make_method(spec).fit_path(table, BUDGETS):
        flat += check_nothing_decided_by_rounding(result.policy, table)
        assert 1.0 - 1e-9 <= result.expected.cost <= result.budget * (1 + 1e-9)
        if spec.endswith("mix=true") and not blank:  # the coin spends it, and nothing else decides
            assert result.expected.cost == pytest.approx(result.budget)
            assert all(len(np.unique(trace(one, table).exit)) == 1 for one in both(result.policy))
        # A coin costs the budget in expectation; a cross-fitted score nearly the same when deployed.
        assert trace(result.policy, table).cost.mean() <= result.budget * 1.1
    assert flat or not spec.startswith("optimal_stopping")


def test_optimal_stopping_leaves_where_nothing_is_gained_and_says_so():
    """All exits give one answer: every budget is met by the first, and a runtime cannot differ."""
    table = fit_table(no_better())
    for result in make_method("optimal_stopping").fit_path(table, BUDGETS):
        assert result.flat == (0, 1, 2) and result.policy.mixture is None
        assert from_dict(to_dict(result.policy)).provenance["notes"] == [flat_note([0, 1, 2])]
        assert (trace(result.policy, table).exit == 0).all()
    some = table.keep_exits([0, 2, 3])  # exits are named by the model's numbers
    assert fit_one("optimal_stopping", some, 4.0).flat == (0, 2)
    for spec in (
        "optimal_stopping",
        "max_prob",
        "patience",
        "frugalgpt",
    ):  # that tell samples apart
        result = fit_one(spec, fit_table(cache(n=800)), 3.0)
        assert result.flat == () and "notes" not in result.policy.provenance


@pytest.mark.parametrize(
    "spec",
    ["optimal_stopping", "bolukbasi", "lista_stop", "max_prob", "max_prob:thresholds=shared",
     "max_prob:thresholds=joint", "entropy"],
)  # fmt: skip
def test_where_all_look_alike_a_coin_buys_what_going_on_is_worth(spec):
    """Exit 1 is right for all: half the way costs half the rows, whichever. Wrong: none goes on."""
    better = fit_one(spec, alike(), 2.0)
    assert better.flat == (0,) and better.policy.mixture is not None
    assert better.expected.cost == pytest.approx(2.0, rel=1e-3)
    assert all(len(np.unique(trace(one, alike()).exit)) == 1 for one in both(better.policy))
    check_nothing_decided_by_rounding(better.policy, alike())
    worse = fit_one(spec, alike(right_at_last=False), 2.0)
    check_nothing_decided_by_rounding(worse.policy, alike(right_at_last=False))
    assert worse.expected.cost <= 2.0 + 1e-9


def test_auto_with_a_flat_choice(monkeypatch):
    """Where only a flat regression withstands later exits that know nothing, it decides nothing by rounding."""
    monkeypatch.setattr(choosing, "CANDIDATES", (CANDIDATES[0], CANDIDATES[-1]))
    table = fit_table(no_better(blank=True))
    for budget in BUDGETS:
        fitted = fit_one("auto", table, budget)
        assert fitted.policy.provenance["chosen"]["method"] == "optimal_stopping"
        assert fitted.flat and fitted.policy.provenance["notes"]
        assert check_nothing_decided_by_rounding(fitted.policy, table)
        assert fitted.expected.cost <= budget * (1 + 1e-9)


def test_a_plain_policy_as_accurate_goes_before_a_flat_one():
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.7).astype(float)
    fee = right - 0.01  # as accurate, at a fee for what it overspends
    wrong = right * (rng.random(400) < 0.8)
    candidates = [("plain", None, 1), ("simple", None, 0), ("worse", None, 0), ("flat", None, 3)]
    correct, values = np.stack([right, right, wrong, right]), np.stack([fee, fee, wrong, right])
    cannot = values.copy()
    cannot[1] = -np.inf
    for worth, flat, wanted in (
        (values, [3], 1), (values, [1, 3], 0), (values, [], 3), (cannot, [3], 0),
        (values, [0, 1, 3], 3),  # the only other plain one is worse
    ):  # fmt: skip
        compared = Comparison(worth[None], correct[None], np.isin([range(4)], flat))
        assert compared.plain(0, 3, candidates, 1.0) == wanted
