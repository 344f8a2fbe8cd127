"""Fits where learned scores tell no sample from another: nothing is decided by rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import cache

import policyopt as po
from policyopt._methods import auto
from policyopt._methods.choosing import Comparison
from policyopt._methods.fitted import flat_note
from policyopt._methods.registry import make_method
from policyopt._replay import trace
from policyopt._table import Tables
from policyopt._thresholds.degenerate_scores import ROUNDING
from policyopt.runtime._policy import from_dict, to_dict

SHARES = (0.3, 0.5, 0.8)
COSTS = [1.0, 2.0, 4.0, 8.0]


def no_better(blank=False, rows=800, seed=0):
    """Four exits of which the later ones say the same as exit 0, or nothing at all."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows)
    first = 1.7 * (rng.normal(size=(rows, 5)) + 1.6 * np.eye(5)[labels])
    logits = np.stack([first] * 4, axis=1)
    logits[:, 1:] *= not blank
    return po.from_arrays(
        logits.astype(np.float32), labels.astype(np.int32), COSTS, unit="ms",
        split={"fit": 0.8, "test": 0.2},
    )  # fmt: skip


def alike(right_at_last=True, rows=120):
    """Two exits, all rows the same up to a unit of rounding; exit 0 is wrong, exit 1 right or wrong."""
    rng = np.random.default_rng(0)
    one = np.array([[0.6, 0.1, 0.2], [0.0, 3.0 if right_at_last else -3.0, 0.1]], dtype=np.float32)
    logits = np.repeat(one[None], rows, axis=0)
    logits += 2.0**-24 * rng.integers(-1, 2, logits.shape).astype(np.float32)
    return po.from_arrays(
        splits={"fit": {"outputs": logits, "labels": np.ones(rows, dtype=np.int32)}},
        costs=[1.0, 3.0], unit="ms",
    )  # fmt: skip


def both(policy):
    """A policy, and the other one where two are mixed."""
    mixture = policy.mixture
    first = replace(policy, mixture=None)
    if mixture is None:
        return [first]
    return [first, replace(first, rule=mixture.rule or policy.rule, thresholds=mixture.thresholds)]


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


METHODS = (
    "optimal_stopping", "optimal_stopping:mix=true", "bolukbasi", "lista_stop", "act",
    "failure_prediction", "frugalgpt", "auto",
)  # fmt: skip


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("blank", [False, True])
def test_no_threshold_separates_scores_that_differ_by_rounding(spec, blank):
    table = Tables(no_better(blank)).get("fit")
    budgets = [share * COSTS[-1] for share in SHARES]
    flat = 0
    for result in make_method(spec).fit_path(table, budgets):
        flat += check_nothing_decided_by_rounding(result.policy, table)
        assert 1.0 - 1e-9 <= result.expected.cost <= result.budget * (1 + 1e-9)
        spent = trace(result.policy, table).cost.mean()
        # A coin costs the budget in expectation; a cross-fitted score nearly the same when deployed.
        assert spent <= result.budget * 1.1
    if spec.startswith("optimal_stopping"):
        assert flat


def test_optimal_stopping_leaves_where_nothing_is_gained_and_says_so():
    """All exits give one answer: every budget is met by the first, and a runtime cannot differ."""
    table = Tables(no_better()).get("fit")
    for result in make_method("optimal_stopping").fit_path(table, [2.4, 4.0, 6.4]):
        assert result.flat == (0, 1, 2)
        assert result.policy.provenance["notes"] == [flat_note([0, 1, 2])]
        assert from_dict(to_dict(result.policy)).provenance["notes"] == [flat_note([0, 1, 2])]
        assert result.policy.mixture is None
        assert (trace(result.policy, table).exit == 0).all()


def test_a_mixture_spends_the_budget_by_its_coin():
    table = Tables(no_better()).get("fit")
    for result in make_method("optimal_stopping:mix=true").fit_path(table, [2.4, 4.0, 6.4]):
        assert result.expected.cost == pytest.approx(result.budget)
        assert result.policy.mixture is not None
        for one in both(result.policy):
            assert len(np.unique(trace(one, table).exit)) == 1


@pytest.mark.parametrize("spec", ["optimal_stopping", "bolukbasi", "lista_stop"])
def test_where_all_look_alike_a_coin_buys_what_going_on_is_worth(spec):
    """Exit 1 is right for all: half the way costs half the rows, whichever. Wrong: none goes on."""
    (better,) = make_method(spec).fit_path(Tables(alike()).get("fit"), [2.0])
    assert better.flat == (0,)
    assert better.policy.mixture is not None
    assert better.expected.cost == pytest.approx(2.0, rel=1e-3)
    check_nothing_decided_by_rounding(better.policy, Tables(alike()).get("fit"))
    table = Tables(alike(right_at_last=False)).get("fit")
    (worse,) = make_method(spec).fit_path(table, [2.0])
    check_nothing_decided_by_rounding(worse.policy, table)
    assert worse.expected.cost <= 2.0 + 1e-9


def test_confidences_that_differ_by_rounding_are_one():
    """Logits apart in the last bit: max_prob tosses a coin instead of reading that bit."""
    table = Tables(alike()).get("fit")
    for spec in ("max_prob", "max_prob:thresholds=shared", "max_prob:thresholds=joint", "entropy"):
        (result,) = make_method(spec).fit_path(table, [2.0])
        assert result.flat == (0,)
        assert result.policy.mixture is not None
        for one in both(result.policy):
            assert len(np.unique(trace(one, table).exit)) == 1


def test_no_note_where_scores_tell_samples_apart():
    table = Tables(cache(n=800)).get("fit")
    for spec in ("optimal_stopping", "max_prob", "failure_prediction", "patience", "frugalgpt"):
        (result,) = make_method(spec).fit_path(table, [3.0])
        assert result.flat == ()
        assert "notes" not in result.policy.provenance


def test_exits_are_named_by_the_models_numbers():
    table = Tables(no_better()).get("fit").keep_exits([0, 2, 3])
    (result,) = make_method("optimal_stopping").fit_path(table, [4.0])
    assert result.flat == (0, 2)


def test_auto_with_a_flat_choice(monkeypatch):
    """Where only a flat regression withstands later exits that know nothing, it decides nothing by rounding."""
    monkeypatch.setattr(auto, "CANDIDATES", (auto.CANDIDATES[0], auto.CANDIDATES[-1]))
    data = no_better(blank=True)
    table = Tables(data).get("fit")
    for share in SHARES:
        fitted = po.fit(data, f"{100 * share:.0f}%", method="auto")
        assert fitted.policy.provenance["chosen"]["method"] == "optimal_stopping"
        assert fitted.flat
        assert check_nothing_decided_by_rounding(fitted.policy, table)
        assert fitted.policy.provenance["notes"]
        assert fitted.expected.cost <= fitted.budget * (1 + 1e-9)


def test_a_plain_policy_as_accurate_goes_before_a_flat_one():
    rng = np.random.default_rng(0)
    right = (rng.random(400) < 0.7).astype(float)
    fee = right - 0.01  # as accurate, at a fee for what it overspends
    wrong = right * (rng.random(400) < 0.8)
    candidates = [("plain", None, 1), ("simple", None, 0), ("worse", None, 0), ("flat", None, 3)]
    correct = np.stack([right, right, wrong, right])[None]
    values = np.stack([fee, fee, wrong, right])[None]

    def chosen(flat, values=values, correct=correct):
        return Comparison(values, correct, np.array([flat])).plain(0, 3, candidates, 1.0)

    assert chosen([False, False, False, True]) == 1
    assert chosen([False, True, False, True]) == 0
    assert chosen([False] * 4) == 3
    assert chosen([True, True, False, True]) == 3  # the only other plain one is worse
    cannot = values.copy()
    cannot[0, 1] = -np.inf
    assert chosen([False, False, False, True], cannot) == 0
