"""Threshold solvers against brute force, the papers' pseudo-code and properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import cache

from policyopt._methods.base import problem_of
from policyopt._table import Tables
from policyopt._thresholds import joint
from policyopt._thresholds.budget_search import brent_root
from policyopt._thresholds.problem import Problem, between
from policyopt._thresholds.quotas import (
    geometric_shares,
    quota_thresholds,
    solve_geometric,
    solve_ratio,
)
from policyopt._thresholds.solvers import solve_shared
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._scores import MaxProb


def small_problem(rng, n, exits, decimals=9, per_sample=False):
    scores = rng.random((n, exits)).round(decimals)
    value = (rng.random((n, exits)) < np.linspace(0.5, 0.9, exits)).astype(float)
    costs = np.cumsum(rng.random((n, exits) if per_sample else exits) + 0.1, axis=-1)
    return Problem(scores, value, costs)


def all_thresholds(problem):
    """Every distinct set of thresholds: each score of an exit, or never."""
    levels = [np.append(np.unique(problem.scores[:, k]), NEVER) for k in range(problem.exits - 1)]
    return [np.array(t) for t in itertools.product(*levels)]


@pytest.mark.parametrize("n_exits", [(14, 3), (8, 4), (5, 5), (60, 2)])
@pytest.mark.parametrize("decimals", [9, 1])
@pytest.mark.parametrize("per_sample", [False, True])
def test_joint_search_equals_brute_force(n_exits, decimals, per_sample):
    """Its hull is the upper hull of all sets of thresholds there are."""
    rng = np.random.default_rng([*n_exits, decimals])
    for _ in range(2):
        problem = small_problem(rng, *n_exits, decimals, per_sample)
        every = np.array([(problem.cost(t), problem.accuracy(t)) for t in all_thresholds(problem)])
        best = every[joint.upper_hull(every)]
        grid = np.linspace(best[0, 0], best[-1, 0], 20)
        corners = joint.hull(problem, grid)
        ours = np.array([(problem.cost(t), problem.accuracy(t)) for t in corners])
        np.testing.assert_allclose(
            np.interp(grid, ours[:, 0], ours[:, 1]),
            np.interp(grid, best[:, 0], best[:, 1]),
            atol=1e-9,
        )


def test_joint_mixture_lies_on_the_hull_and_single_sets_meet_the_budget():
    problem = problem_of(MaxProb(), Tables(cache(n=8000)).get("fit"))
    budgets = [1.4, 2.2, 3.9, 6.0]
    corners = joint.hull(problem, budgets)
    points = np.array([(problem.cost(t), problem.accuracy(t)) for t in corners])
    for budget, mixed, single in zip(
        budgets,
        joint.solve_joint(problem, budgets, mix=True),
        joint.solve_joint(problem, budgets),
        strict=True,
    ):
        share = mixed.share
        cost = (1 - share) * problem.cost(mixed.thresholds) + share * problem.cost(mixed.other)
        worth = (1 - share) * problem.accuracy(mixed.thresholds) + share * problem.accuracy(
            mixed.other
        )
        assert cost == pytest.approx(budget)
        assert worth == pytest.approx(np.interp(budget, points[:, 0], points[:, 1]))
        assert single.other is None
        assert 0 <= budget - problem.cost(single.thresholds) <= 0.01 * budget
        assert problem.accuracy(single.thresholds) >= worth - 0.005


def test_joint_never_loses_to_quotas_on_the_rows_of_the_fit():
    problem = problem_of(MaxProb(), Tables(cache(n=6000)).get("fit"))
    budgets = np.linspace(1.2, 7.5, 9)
    for a, b in zip(
        joint.solve_joint(problem, budgets), solve_geometric(problem, budgets), strict=True
    ):
        assert problem.accuracy(a.thresholds) >= problem.accuracy(b.thresholds) - 1e-3


def test_quotas_follow_the_pseudo_code():
    """EENet, Algorithm 1, lines 5-15, read literally; our thresholds decide alike."""
    rng = np.random.default_rng(0)
    scores = rng.random((200, 4))
    shares = np.array([0.4, 0.3, 0.2, 0.1])
    gone = np.zeros(200, dtype=bool)
    literal = np.full(4, 1e8)
    for k in range(4):
        count = 0
        for n in np.argsort(-scores[:, k]):
            if not gone[n]:
                count += 1
                gone[n] = True
                if count == round(200 * shares[k]):
                    literal[k] = scores[n, k]
                    break
    counts = np.round(200 * shares).astype(int)
    ours = quota_thresholds(scores, counts)
    assert (ours <= literal[:-1]).all()
    np.testing.assert_array_equal(first_exit(scores, ours), first_exit(scores, literal[:-1]))
    np.testing.assert_array_equal(np.bincount(first_exit(scores, ours)), counts)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30), st.integers(-1, 32))
def test_a_threshold_takes_the_count_or_the_nearest_group(values, count):
    scores = np.array(values, dtype=float)[:, None] / 6
    (threshold,) = quota_thresholds(np.hstack([scores, scores]), np.array([count]))
    taken = int((scores[:, 0] >= threshold).sum())
    possible = {int((scores[:, 0] >= t).sum()) for t in [*np.unique(scores), NEVER, ALWAYS]}
    assert taken in possible
    assert abs(taken - min(max(count, 0), len(values))) == min(
        abs(p - min(max(count, 0), len(values))) for p in possible
    )


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_between_separates(a, b):
    low, high = min(a, b), max(a, b)
    if low < high:
        assert low < between(low, high) <= high


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
    """At each exit's threshold, the observed accuracy nearby is about the same."""
    problem = problem_of(MaxProb(), Tables(cache(n=40000)).get("fit"))
    (solution,) = solve_shared(problem, [3.0])
    near = []
    for k, threshold in enumerate(solution.thresholds):
        rank = np.argsort(np.abs(problem.scores[:, k] - threshold))[:1500]
        near.append(problem.value[rank, k].mean())
    assert np.ptp(near) < 0.08, near


@pytest.mark.parametrize("solver", [solve_geometric, solve_shared, joint.solve_joint])
def test_per_sample_costs_and_tied_scores(solver):
    """The budget is met on replayed per-sample costs; ties are never divided."""
    rng = np.random.default_rng(1)
    for decimals in (9, 1):
        problem = small_problem(rng, 400, 4, decimals, per_sample=True)
        low, high = problem.mean_costs[[0, -1]]
        for budget in np.linspace(low, high, 7):
            (found,) = solver(problem, [float(budget)])
            cost = problem.cost(found.thresholds)
            if found.other is not None:
                cost += found.share * (problem.cost(found.other) - cost)
            assert cost <= budget * 1.000001
            assert cost >= budget * 0.985
