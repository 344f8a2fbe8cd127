"""Flat exits: scores apart by rounding only are never told apart; all others as before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyopt._export import rounding
from policyopt._thresholds.budget_search import meet_budget, unless_idle
from policyopt._thresholds.degenerate_scores import ROUNDING, ULPS, collapse, collapse_held_out
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.quotas import solve_planned
from policyopt._thresholds.solvers import solve_path
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._scores import Constant, Entropy, Margin, MaxProb

COSTS = np.array([1.0, 2.0, 4.0, 8.0])


def posed(flat, seed, rows=120, centre=2.4e-7, noise=1e-19):
    """A problem whose `flat` exits score `centre` up to `noise`; later answers are no better."""
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, 4))
    scores[:, flat] = centre + noise * rng.normal(size=(rows, len(flat)))
    made, found = collapse(Constant(), scores)
    value = np.repeat((rng.random(rows) < 0.7)[:, None].astype(float), 4, axis=1)
    return scores, Problem(made, value, COSTS, flat=found)


def test_the_tolerance_is_what_exports_are_held_to():
    assert {rounding.ULPS["c"], rounding.ULPS["onnx"]} == {ULPS}


@given(
    st.integers(0, 10_000), st.floats(-1e6, 1e6), st.sampled_from([0.0, 0.3, 0.9, 1.2, 30.0, 1e5])
)
def test_flat_exactly_where_the_whole_spread_is_rounding(seed, centre, share):
    """An exit counts by its whole spread; the others keep their scores bit by bit."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(20, 3))
    tolerance = ROUNDING * max(abs(centre), 1.0)
    scores[:, 1] = centre + share * tolerance * np.linspace(0, 1, 20)
    made, flat = collapse(Constant(), scores)
    if share in (0.3, 0.9):
        assert flat == (1,)
        assert len(np.unique(made[:, 1])) == 1
        assert scores[:, 1].min() <= made[0, 1] <= scores[:, 1].max()
    else:  # equal already, or told apart
        assert flat == ()
    np.testing.assert_array_equal(made[:, [0, 2]], scores[:, [0, 2]])


@pytest.mark.parametrize("rule", [MaxProb(), Margin(), Entropy(10)])
def test_saturated_confidences_stay_apart(rule):
    """Their error is a share of the distance from 1: 1 - 1e-9 and 1 - 2e-9 are far apart."""
    doubt = np.array([1e-9, 2e-9, 3e-8, 5e-10])
    scores = np.stack([1 - doubt, np.ones(4)], axis=1)
    made, flat = collapse(rule, scores)
    assert made is scores
    assert flat == ()
    assert collapse(Constant(), scores)[1] == (0,)
    noise = np.stack([0.4 + 1e-7 * np.linspace(0, 1, 4), np.ones(4)], axis=1)
    assert collapse(rule, noise)[1] == (0,)


def test_neither_one_row_nor_infinities_nor_the_last_exit_are_flat():
    assert collapse(Constant(), np.array([[0.3, 0.0]]))[1] == ()
    assert collapse(Constant(), np.array([[np.inf, 0.0], [0.0, 1e-12]]))[1] == ()
    assert collapse(Constant(), np.array([[-np.inf, 0.0], [-np.inf, 0.0]]))[1] == ()


def test_the_deployed_rule_says_what_is_flat():
    """Folds' constants differ by 0.01 and the deployed rule has one: no row is told from another."""
    rng = np.random.default_rng(0)
    folds = np.stack([0.3 + 0.01 * (np.arange(500) % 5), rng.random(500), np.zeros(500)], axis=1)
    whole = folds.copy()
    whole[:, 0] = 0.32 + 1e-12 * rng.normal(size=500)
    made, flat = collapse_held_out(Constant(), folds, lambda rows: whole[rows])
    assert flat == (0,)
    assert len(np.unique(made[:, 0])) == 1
    assert made[0, 0] == pytest.approx(0.32, abs=1e-9)
    np.testing.assert_array_equal(made[:, 1], folds[:, 1])
    assert collapse_held_out(Constant(), folds, lambda rows: folds[rows]) == (folds, ())


def test_one_row_that_differs_is_enough_not_to_be_flat():
    """Seen where it is not among the first that are looked at, too."""
    whole = np.zeros((5000, 2))
    for place in (0, 1234, 4999):
        scores = whole.copy()
        scores[place, 0] = 0.1
        assert collapse_held_out(Constant(), whole, lambda rows, s=scores: s[rows])[1] == ()
        assert collapse(Constant(), scores)[1] == ()


@given(st.integers(0, 10_000), st.lists(st.sampled_from([0, 1e-9, -1e-9, 1e-6, 0.2, -3.0]), min_size=3, max_size=3))  # fmt: skip
def test_settled_thresholds_decide_the_same_and_keep_away(seed, shifts):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=3) * 10.0 ** rng.integers(-8, 4, 3)
    problem = Problem(np.append(np.repeat([centres], 9, axis=0), np.zeros((9, 1)), axis=1), np.ones((9, 4)), COSTS)  # fmt: skip
    given_ones = centres + shifts
    settled = problem.settled(given_ones)
    np.testing.assert_array_equal(
        first_exit(problem.scores, settled), first_exit(problem.scores, given_ones)
    )
    assert (np.abs(settled - centres) > ROUNDING * np.maximum(np.abs(centres), 1)).all()
    far = np.abs(given_ones - centres) > 0.1
    np.testing.assert_array_equal(settled[far], given_ones[far])


def test_thresholds_among_scores_that_differ_are_left_alone():
    rng = np.random.default_rng(0)
    problem = Problem(rng.random((50, 3)), np.ones((50, 3)), COSTS[:3])
    thresholds = problem.scores[7, :2]
    assert problem.settled(thresholds) is thresholds


SOLVERS = {
    "geometric": lambda p, b: solve_path(p, "geometric", [b])[0],
    "joint": lambda p, b: solve_path(p, "joint", [b])[0],
    "joint, mixed": lambda p, b: solve_path(p, "joint", [b], mix=True)[0],
    "shared": lambda p, b: solve_path(p, "shared", [b])[0],
    "shared, histogram": lambda p, b: solve_path(p, "shared", [b], calibrator="histogram")[0],
    "planned": lambda p, b: solve_planned(p, np.array([0.4, 0.3, 0.2, 0.1]), b),
    "common": lambda p, b: meet_budget(p, lambda t: np.full(3, t), -9.0, 9.0, b, start=0.0),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("flat", [[0], [2], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_budgets_hold_and_no_threshold_stands_at_a_flat_exits_score(solver, flat, share):
    """Replayed on the scores as they were before they were made equal."""
    for seed, centre in ((0, 2.4e-7), (1, 0.3)):
        scores, problem = posed(flat, seed, centre=centre)
        if centre == 2.4e-7:
            assert problem.flat == tuple(flat)
        budget = share * COSTS[-1]
        solution = SOLVERS[solver](problem, budget)
        sets = [(1 - solution.share, solution.thresholds)]
        if solution.other is not None:
            sets.append((solution.share, solution.other))
        spent = 0.0
        for weight, thresholds in sets:
            spent += weight * COSTS[first_exit(scores, thresholds)].mean()
            for k in flat:
                assert np.abs(thresholds[k] - scores[:, k]).min() > ROUNDING
        assert spent <= budget * (1 + 1e-9)


def test_a_coin_is_tossed_only_where_going_on_is_worth_something():
    _, problem = posed([0, 1, 2], 0)
    coin = meet_budget(problem, lambda t: np.full(3, t), -9.0, 9.0, 5.0, start=0.0)
    assert coin.other is not None
    stay = unless_idle(problem, coin, 5.0)
    assert stay.other is None
    assert stay.thresholds.tolist() == [ALWAYS] * 3
    better = Problem(problem.scores, problem.value * [0.5, 0.6, 0.8, 1.0], COSTS, flat=problem.flat)
    assert unless_idle(better, coin, 5.0) is coin


def test_a_dear_price_is_not_kept_over_the_budget():
    """Where thresholds 0 send all to the last exit, what meets the budget stays."""
    _, problem = posed([0, 1, 2], 0, centre=-0.5)
    cheap = Solution(np.array([ALWAYS, NEVER, NEVER]))
    assert unless_idle(problem, cheap, 5.0) is cheap
