"""Leaving costs against a walk along the way."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import tier_cases

from policyopt._tiers.plans import cuts, leaving_costs, plan_table
from policyopt.runtime._errors import InputError


@pytest.mark.parametrize("cascade", [False, True])
@pytest.mark.parametrize("objective", ["latency", "energy", "price"])
def test_costs_are_those_of_the_way(objective, cascade):
    table = tier_cases.table(1, 40, 4, cascade)
    tiers = tier_cases.tiers(2, 4, 3, cascade)
    amounts = np.diff(table.costs, prepend=0.0)
    seen = 0
    for size in range(1, 5):
        for kept in combinations(range(4), size):
            for plan in cuts(tiers, kept, cascade):
                due = tier_cases.walk(tiers, plan.tier, kept, objective, amounts, cascade)
                got = leaving_costs(tiers, plan, objective, table)
                np.testing.assert_allclose(got, due, rtol=1e-12)
                seen += 1
    assert seen > 100


def test_costs_per_sample_are_those_of_each_row():
    table = tier_cases.table(3, 6, 3, per_sample=True)
    tiers = tier_cases.tiers(4, 3)
    plan = cuts(tiers, (0, 2), False)[4]
    got = leaving_costs(tiers, plan, "energy", table)
    for row, costs in zip(got, table.costs, strict=True):
        due = tier_cases.walk(tiers, plan.tier, (0, 2), "energy", np.diff(costs, prepend=0), False)
        np.testing.assert_allclose(row, due)


def test_cuts_are_all_the_ways_that_never_turn_back():
    tiers = tier_cases.tiers(0, 4, 3)
    every = [t for t in product(range(3), repeat=4) if list(t) == sorted(t)]
    assert [plan.tier for plan in cuts(tiers, (1, 3), False)] == every
    # Of a cascade only the two models that run matter.
    assert len(cuts(tiers, (1, 3), True)) == 6


def test_a_tier_holds_no_more_than_it_can():
    tiers = tier_cases.tiers(0, 3, 2)
    small = replace(tiers, tiers=(replace(tiers.tiers[0], most_stages=1), tiers.tiers[1]))
    assert [p.tier for p in cuts(small, (2,), False)] == [(0, 1, 1), (1, 1, 1)]


def test_too_many_cuts_are_refused():
    tiers = tier_cases.tiers(0, 60, 8)
    with pytest.raises(InputError, match="20,000 ways to cut"):
        cuts(tiers, tuple(range(60)), False)


def test_a_plans_table_has_its_costs_and_unit():
    table, tiers = tier_cases.table(0, 30, 4), tier_cases.tiers(0, 4)
    plan = cuts(tiers, (0, 3), False)[5]
    small = plan_table(tiers, plan, "energy", table)
    assert small.unit == "mJ" and small.path == (0, 3) and small.exits == 2
    np.testing.assert_array_equal(small.costs, leaving_costs(tiers, plan, "energy", table))
