"""Threshold solvers against brute force, the papers' pseudo-code and properties; flat exits."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import cache

from policyopt._export import rounding
from policyopt._methods.base import problem_of
from policyopt._table import Tables
from policyopt._thresholds import joint
from policyopt._thresholds.budget_search import brent_root, common_shift, spend, unless_idle
from policyopt._thresholds.degenerate_scores import ROUNDING, ULPS, collapse, collapse_held_out
from policyopt._thresholds.problem import Problem, Solution, between
from policyopt._thresholds.quotas import (
    geometric_shares,
    quota_thresholds,
    solve_geometric,
    solve_planned,
    solve_ratio,
)
from policyopt._thresholds.solvers import solve_path, solve_shared
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._scores import Constant, Entropy, Margin, MaxProb

COSTS = np.array([1.0, 2.0, 4.0, 8.0])
SOLVERS = {
    "geometric": lambda p, b: solve_path(p, "geometric", [b])[0],
    "joint": lambda p, b: solve_path(p, "joint", [b])[0],
    "joint, mixed": lambda p, b: solve_path(p, "joint", [b], mix=True)[0],
    "shared": lambda p, b: solve_path(p, "shared", [b])[0],
    "shared, histogram": lambda p, b: solve_path(p, "shared", [b], calibrator="histogram")[0],
    "shared, isotonic": lambda p, b: solve_path(p, "shared", [b], calibrator="isotonic")[0],
    "planned": lambda p, b: solve_planned(p, np.array([0.4, 0.3, 0.2, 0.1]), b),
    "common": common_shift,
}


def small_problem(rng, n, exits, decimals=9, per_sample=False):
    scores = rng.random((n, exits)).round(decimals)
    value = (rng.random((n, exits)) < np.linspace(0.5, 0.9, exits)).astype(float)
    costs = np.cumsum(rng.random((n, exits) if per_sample else exits) + 0.1, axis=-1)
    return Problem(scores, value, costs)


def sides(solution):
    sets = [(1 - solution.share, solution.thresholds)]
    return sets if solution.other is None else [*sets, (solution.share, solution.other)]


def mean(solution, of):
    return sum(share * of(thresholds) for share, thresholds in sides(solution))


@pytest.mark.parametrize("n_exits", [(14, 3), (8, 4), (5, 5), (60, 2)])
@pytest.mark.parametrize("decimals", [9, 1])
@pytest.mark.parametrize("per_sample", [False, True])
def test_joint_search_equals_brute_force(n_exits, decimals, per_sample):
    """Its hull is the upper hull of all sets of thresholds there are: each score of an exit, or never."""
    rng = np.random.default_rng([*n_exits, decimals])
    problem = small_problem(rng, *n_exits, decimals, per_sample)
    levels = [np.append(np.unique(problem.scores[:, k]), NEVER) for k in range(problem.exits - 1)]
    every = [np.array(t) for t in itertools.product(*levels)]
    every = np.array([(problem.cost(t), problem.quality(t)) for t in every])
    best = every[joint.upper_hull(every)]
    grid = np.linspace(best[0, 0], best[-1, 0], 20)
    corners = joint.hull(problem, grid)
    ours = np.array([(problem.cost(t), problem.quality(t)) for t in corners])
    found, due = (np.interp(grid, hull[:, 0], hull[:, 1]) for hull in (ours, best))
    np.testing.assert_allclose(found, due, atol=1e-9)


def test_joint_mixture_lies_on_the_hull_and_single_sets_meet_the_budget():
    problem = problem_of(MaxProb(), Tables(cache(n=8000)).get("fit"))
    budgets = [1.4, 2.2, 3.9, 6.0]
    corners = joint.hull(problem, budgets)
    points = np.array([(problem.cost(t), problem.quality(t)) for t in corners]).T
    mixtures, singles = (joint.solve_joint(problem, budgets, mix=mix) for mix in (True, False))
    quotas = solve_geometric(problem, budgets)
    for budget, mixed, single, quota in zip(budgets, mixtures, singles, quotas, strict=True):
        worth = mean(mixed, problem.quality)
        assert mean(mixed, problem.cost) == pytest.approx(budget)
        assert worth == pytest.approx(np.interp(budget, *points))
        assert single.other is None
        assert 0 <= budget - problem.cost(single.thresholds) <= 0.01 * budget
        ours, theirs = (problem.quality(s.thresholds) for s in (single, quota))
        assert ours >= worth - 0.005 and ours >= theirs - 1e-3


@given(st.integers(0, 10_000), st.sampled_from([1, 9]), st.booleans(), st.floats(0, 3))
def test_what_is_spent_brings_the_exits_along(seed, decimals, per_sample, left):
    """Exits that are brought along are those of a replay, and what was spent is what that costs more."""
    rng = np.random.default_rng(seed)
    problem = small_problem(rng, 40, 5, decimals, per_sample)
    thresholds = rng.choice([*rng.random(3), ALWAYS, NEVER], 4)
    exits = first_exit(problem.scores, thresholds)
    before = problem.paid(exits)
    raised = spend(problem, thresholds, left, exits)
    np.testing.assert_array_equal(exits, first_exit(problem.scores, raised))
    assert before - 1e-12 <= problem.cost(raised) <= before + left + 1e-12


def test_many_exits_are_searched_on_fewer_rows_and_are_no_worse_on_unseen_ones():
    rng = np.random.default_rng(0)
    exits, rows = 16, 24_000
    sure = rng.normal(size=(rows, 1)) + np.linspace(0, 2, exits)
    scores = 1 / (1 + np.exp(-sure + 0.3 * rng.normal(size=sure.shape)))
    value = (rng.random((rows, 1)) < 1 / (1 + np.exp(-sure))) * 1.0  # right once, right later
    posed, unseen = (
        Problem(scores[part], value[part], np.linspace(1.0, 8.0, exits))
        for part in (slice(12_000), slice(12_000, rows))
    )
    assert joint.subsample(posed).rows == 5_000
    budgets = [2.0, 3.0, 5.0]
    found = joint.solve_joint(posed, budgets)
    for budget, one, quota in zip(budgets, found, solve_geometric(posed, budgets), strict=True):
        assert 0.985 * budget <= posed.cost(one.thresholds) <= budget
        assert posed.quality(one.thresholds) > posed.quality(quota.thresholds)
        assert unseen.quality(one.thresholds) > unseen.quality(quota.thresholds) - 0.005


def test_quotas_take_the_best_that_are_still_there():
    """EENet, Algorithm 1, lines 5-15: so many leave at each exit; a threshold leaves no choice of whom."""
    scores, counts = np.random.default_rng(0).random((200, 4)), np.array([80, 60, 40, 20])
    exits = first_exit(scores, quota_thresholds(scores, counts))
    np.testing.assert_array_equal(np.bincount(exits), counts)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(-1, 32))
def test_a_threshold_takes_the_count_or_the_nearest_group(values, count):
    scores = np.array(values, dtype=float)[:, None] / 6
    (threshold,) = quota_thresholds(np.hstack([scores, scores]), np.array([count]))
    taken = int((scores[:, 0] >= threshold).sum())
    possible = {int((scores[:, 0] >= t).sum()) for t in [*np.unique(scores), NEVER, ALWAYS]}
    wanted = min(max(count, 0), len(values))
    assert taken in possible and abs(taken - wanted) == min(abs(p - wanted) for p in possible)


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_between_separates(a, b):
    low, high = min(a, b), max(a, b)
    assert low == high or low < between(low, high) <= high


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8), st.floats(0, 1))
def test_the_ratio_meets_the_planned_budget(steps, position):
    costs = np.cumsum(steps)
    budget = costs[0] + position * (costs[-1] - costs[0])
    planned = geometric_shares(solve_ratio(costs, budget), len(costs)) @ costs
    assert planned == pytest.approx(budget, rel=1e-6)


def test_geometric_shares_are_geometric_after_fitting():
    """What leaves at each exit follows the solved ratio (MSDNet), not just the budget."""
    problem = problem_of(MaxProb(), Tables(cache(n=20000)).get("fit"))
    (solution,) = solve_geometric(problem, [3.0])
    share = np.bincount(first_exit(problem.scores, solution.thresholds)) / problem.rows
    np.testing.assert_allclose(share[1:] / share[:-1], share[1] / share[0], rtol=0.01)


def test_the_root_finder_is_that_of_a_library_to_the_bit():
    """Round budgets put quotas on the edge of rounding: another last bit of the ratio is another sample."""
    from scipy.optimize import brentq

    rng = np.random.default_rng(0)
    for exits in (2, 3, 7):
        for costs in (np.arange(1.0, exits + 1), np.cumsum(rng.random(exits) + 0.01)):
            for budget in (costs.mean(), *rng.uniform(costs[0], costs[-1], 20)):
                gap, powers = costs - budget, np.arange(exits)

                def excess(ratio, gap=gap, powers=powers):
                    return float(np.exp(ratio * powers - max(ratio * powers[-1], 0.0)) @ gap)

                if excess(-60.0) < 0 < excess(60.0):
                    found = brent_root(excess, -60.0, 60.0, 1e-10)
                    assert found == brentq(excess, -60.0, 60.0, xtol=1e-10)


def test_shared_threshold_is_one_calibrated_probability():
    problem = problem_of(MaxProb(), Tables(cache(n=40000)).get("fit"))
    (solution,) = solve_shared(problem, [3.0])
    near = []
    for k, threshold in enumerate(solution.thresholds):
        rank = np.argsort(np.abs(problem.scores[:, k] - threshold))[:1500]
        near.append(problem.value[rank, k].mean())
    assert np.ptp(near) < 0.08, near


@pytest.mark.parametrize("solver", ["geometric", "shared", "joint"])
def test_per_sample_costs_and_tied_scores(solver):
    rng = np.random.default_rng(1)
    for decimals in (9, 1):
        problem = small_problem(rng, 400, 4, decimals, per_sample=True)
        low, high = problem.mean_costs[[0, -1]]
        for budget in np.linspace(low, high, 4):
            cost = mean(SOLVERS[solver](problem, float(budget)), problem.cost)
            assert budget * 0.985 <= cost <= budget * 1.000001
    with pytest.raises(InputError, match="calibrator"):
        solve_shared(problem, [float(low)], "plat")


# Flat exits: scores apart by rounding only are never told apart; all others as before
def posed(flat, seed, rows=120, centre=2.4e-7, noise=1e-19):
    """A problem whose `flat` exits score `centre` up to `noise`; later answers are no better."""
    rng = np.random.default_rng(seed)
    scores = rng.random((rows, 4))
    scores[:, flat] = centre + noise * rng.normal(size=(rows, len(flat)))
    made, found = collapse(Constant(), scores)
    value = np.repeat((rng.random(rows) < 0.7)[:, None].astype(float), 4, axis=1)
    return scores, Problem(made, value, COSTS, flat=found)


@given(
    st.integers(0, 10_000), st.floats(-1e6, 1e6), st.sampled_from([0.0, 0.3, 0.9, 1.2, 30.0, 1e5])
)
def test_flat_exactly_where_the_whole_spread_is_rounding(seed, centre, share):
    """An exit counts by its whole spread; the others keep their scores bit by bit."""
    assert {rounding.ULPS["c"], rounding.ULPS["onnx"]} == {ULPS}
    scores = np.random.default_rng(seed).normal(size=(20, 3))
    tolerance = ROUNDING * max(abs(centre), 1.0)
    scores[:, 1] = centre + share * tolerance * np.linspace(0, 1, 20)
    made, flat = collapse(Constant(), scores)
    assert flat == ((1,) if share in (0.3, 0.9) else ())  # else equal already, or told apart
    if flat:
        assert len(np.unique(made[:, 1])) == 1
        assert scores[:, 1].min() <= made[0, 1] <= scores[:, 1].max()
    np.testing.assert_array_equal(made[:, [0, 2]], scores[:, [0, 2]])


@pytest.mark.parametrize("rule", [MaxProb(), Margin(), Entropy(10)])
def test_saturated_confidences_stay_apart(rule):
    """Their error is a share of the distance from 1: 1 - 1e-9 and 1 - 2e-9 are far apart."""
    scores = np.stack([1 - np.array([1e-9, 2e-9, 3e-8, 5e-10]), np.ones(4)], axis=1)
    made, flat = collapse(rule, scores)
    assert made is scores and flat == () and collapse(Constant(), scores)[1] == (0,)
    noise = np.stack([0.4 + 1e-7 * np.linspace(0, 1, 4), np.ones(4)], axis=1)
    assert collapse(rule, noise)[1] == (0,)
    for few in ([[0.3, 0.0]], [[np.inf, 0.0], [0.0, 1e-12]], [[-np.inf, 0.0], [-np.inf, 0.0]]):
        assert collapse(Constant(), np.array(few))[1] == ()


def test_the_deployed_rule_says_what_is_flat():
    """Folds' constants differ by 0.01 and the deployed rule has one: no row is told from another."""
    rng = np.random.default_rng(0)
    folds = np.stack([0.3 + 0.01 * (np.arange(500) % 5), rng.random(500), np.zeros(500)], axis=1)
    whole = folds.copy()
    whole[:, 0] = 0.32 + 1e-12 * rng.normal(size=500)
    made, flat = collapse_held_out(Constant(), folds, lambda rows: whole[rows])
    assert flat == (0,) and len(np.unique(made[:, 0])) == 1
    assert made[0, 0] == pytest.approx(0.32, abs=1e-9)
    np.testing.assert_array_equal(made[:, 1], folds[:, 1])
    assert collapse_held_out(Constant(), folds, lambda rows: folds[rows]) == (folds, ())
    whole = np.zeros((5000, 2))
    for place in (0, 1234, 4999):  # one row that differs, among the first that are looked at or not
        scores = whole.copy()
        scores[place, 0] = 0.1
        assert collapse_held_out(Constant(), whole, lambda rows, s=scores: s[rows])[1] == ()
        assert collapse(Constant(), scores)[1] == ()


@given(
    st.integers(0, 10_000),
    st.lists(st.sampled_from([0, 1e-9, -1e-9, 1e-6, 0.2, -3.0]), min_size=3, max_size=3),
)
def test_settled_thresholds_decide_the_same_and_keep_away(seed, shifts):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=3) * 10.0 ** rng.integers(-8, 4, 3)
    scores = np.append(np.repeat([centres], 9, axis=0), np.zeros((9, 1)), axis=1)
    problem, given_ones = Problem(scores, np.ones((9, 4)), COSTS), centres + shifts
    settled = problem.settled(given_ones)
    due, found = (first_exit(problem.scores, one) for one in (given_ones, settled))
    np.testing.assert_array_equal(found, due)
    assert (np.abs(settled - centres) > ROUNDING * np.maximum(np.abs(centres), 1)).all()
    far = np.abs(given_ones - centres) > 0.1
    np.testing.assert_array_equal(settled[far], given_ones[far])
    apart = Problem(rng.random((50, 3)), np.ones((50, 3)), COSTS[:3])
    assert apart.settled(thresholds := apart.scores[7, :2]) is thresholds


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("flat", [[0], [2], [0, 1], [0, 1, 2]])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_budgets_hold_and_no_threshold_stands_at_a_flat_exits_score(solver, flat, share):
    for seed, centre in ((0, 2.4e-7), (1, 0.3)):
        scores, problem = posed(flat, seed, centre=centre)
        assert centre == 0.3 or problem.flat == tuple(flat)
        solution = SOLVERS[solver](problem, share * COSTS[-1])
        spent = mean(solution, lambda t, s=scores: COSTS[first_exit(s, t)].mean())
        assert spent <= share * COSTS[-1] * (1 + 1e-9)
        for _, thresholds in sides(solution):
            assert np.abs(thresholds[flat] - scores[:, flat]).min() > ROUNDING


def test_a_coin_is_tossed_only_where_going_on_is_worth_something():
    _, problem = posed([0, 1, 2], 0)
    coin = common_shift(problem, 5.0)
    stay = unless_idle(problem, coin, 5.0)
    assert coin.other is not None and stay.other is None
    assert stay.thresholds.tolist() == [ALWAYS] * 3
    better = Problem(problem.scores, problem.value * [0.5, 0.6, 0.8, 1.0], COSTS, flat=problem.flat)
    assert unless_idle(better, coin, 5.0) is coin
    # Where thresholds 0 send all to the last exit, what meets the budget stays.
    _, problem = posed([0, 1, 2], 0, centre=-0.5)
    cheap = Solution(np.array([ALWAYS, NEVER, NEVER]))
    assert unless_idle(problem, cheap, 5.0) is cheap
