"""Costs of their own need a bound that the user states; stages that no row reaches are not planned."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import synthetic

sys.path.insert(0, str(Path(__file__).parent))
import tier_cases

import policyopt as po
from policyopt.methods import make_method
from policyopt.replay import replay
from policyopt.runtime.errors import BudgetError, InputError
from policyopt.tiers.certify import certified_plan
from policyopt.tiers.choose import make_plan
from policyopt.tiers.describe import Tier, Tiers
from policyopt.tiers.goal import Goal, Limit
from policyopt.tiers.plans import plan_table
from policyopt.tiers.summary import outcome


def of_their_own(rows, seed=0, rare=0.004, dear=200.0):
    """Return rows of which a rare one is dear: few draws hold one."""
    table = tier_cases.table(5, rows, 2)
    factor = np.where(np.random.default_rng(seed).random(rows) < rare, dear, 1.0)
    return replace(table, costs=factor[:, None] * table.costs)


def test_a_stated_bound_keeps_the_mean_of_rare_dear_rows():
    """The largest cost seen is none: where no dear row is drawn it lies below the true mean."""
    table, tiers = of_their_own(20_000), tier_cases.tiers(5, 2, 2)
    bound = float(table.costs.max())
    whole = certified_plan(tiers, table, Goal("latency", accuracy=0.5), 0.9, cost_bound=bound)
    cheap, dear = (float(plan_table(tiers, whole.plan, "latency", table).costs[:, k].mean()) for k in (0, -1))  # fmt: skip
    rng, broken, made = np.random.default_rng(1), 0, 0
    for seed in range(25):
        rows = table.take(rng.integers(0, len(table), 400))
        goal = Goal("latency", budget=cheap + 2 * (dear - cheap))
        try:
            planned = certified_plan(tiers, rows, goal, 0.9, seed=seed, cost_bound=bound)
        except BudgetError:
            continue
        made += 1
        true = float(
            outcome(tiers, planned.plan, planned.fitted.policy, table)[1]["latency"].mean()
        )
        broken += true > min(planned.certificate.cost_high, goal.budget)
    assert broken <= 25 * 0.1 + 3 * (25 * 0.09) ** 0.5, made
    floor = certified_plan(tiers, table, Goal("latency", accuracy=0.5), 0.9, cost_bound=bound)
    assert floor.certificate.cost <= floor.certificate.cost_high < np.inf


def test_without_a_bound_no_mean_is_promised():
    table, tiers = of_their_own(2000), tier_cases.tiers(5, 2, 2)
    mean = Limit("energy", "mean", 1e9)
    for goal in (
        Goal("latency", budget=1e6),
        Goal("latency", accuracy=0.3, limits=(mean,)),
    ):
        with pytest.raises(InputError, match=r"cost_bound.*--cost-bound"):
            certified_plan(tiers, table, goal, 0.9)
    with pytest.raises(InputError, match=r"cost_bound.*a row of split"):
        certified_plan(tiers, table, Goal("latency", accuracy=0.3), 0.9, cost_bound=1.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf"), 1e300, "9"):
        with pytest.raises(InputError, match="cost_bound"):
            certified_plan(tiers, table, Goal("latency", accuracy=0.3), 0.9, cost_bound=wrong)
    # A floor and a percentile need no range of costs; of the mean nothing is said.
    goal = Goal("latency", accuracy=0.3, limits=(Limit("latency", "p95", 1e6),))
    found = certified_plan(tiers, table, goal, 0.9).certificate
    assert found.accuracy_low >= 0.3 and found.cost_high is None


def test_times_that_were_measured_need_no_bound():
    """Where stages take stated times, costs of their own do not change the latency."""
    table = of_their_own(1000)
    times = tuple(float(k + 1) for k in range(table.exits))
    tiers = Tiers((Tier("device", stage_ms=times),), (), 100.0)
    goal = Goal("latency", budget=sum(times))
    assert certified_plan(tiers, table, goal, 0.9).certificate.cost_high <= sum(times)


def test_the_command_asks_for_the_bound(run, tmp_path):
    logits, labels = synthetic.outputs(1200, 3, 4)
    costs = np.array([1.0, 2, 4]) * np.random.default_rng(0).uniform(1, 2, (1200, 1))
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=costs.T)
    po.import_sources(
        tmp_path / "a.npz", tmp_path / "c", unit="ms", shares={"fit": 0.5, "test": 0.5}
    )
    (tmp_path / "t.json").write_text(
        json.dumps({"model": {"input_bytes": 10}, "tier": [{"name": "device", "ms_per_unit": 1}]})
    )
    command = ("plan", tmp_path / "c", "--tiers", tmp_path / "t.json", "--method", "none")
    sure = ("--budget", "5", "--confidence", "90%", "--format", "json")
    code, _, said = run(*command, *sure)
    assert code == 2 and "--cost-bound" in said
    code, _, said = run(*command, *sure, "--cost-bound", "7")
    assert code == 2 and "is what a row of split" in said
    code, text, said = run(*command, *sure, "--cost-bound", "8")
    assert code == 0 and json.loads(text)["cost_bound"] == 8 and "latency at most" in said
    code, _, said = run(*command, "--accuracy", "30%", "--confidence", "90%")
    assert code == 0 and "no bound without --cost-bound" in said
    assert run(*command, "--budget", "5", "--cost-bound", "8")[0] == 2


@pytest.mark.parametrize("method", [None, "max_prob", "optimal_stopping"])
@pytest.mark.parametrize("seed", [3, 8, 11])
def test_no_stage_that_no_row_reaches_is_planned(method, seed):
    """Random models and tiers, limits that only early exits keep: the plan ends where rows do."""
    table, tiers = tier_cases.table(seed, 600, 4), tier_cases.tiers(seed, 4, 2 + seed % 2)
    by = None if method is None else make_method(method)
    ends = [
        make_plan(tiers, table, goal).held_out.cost
        for goal in (Goal("latency", accuracy=0.0), Goal("latency", budget=1e9))
    ]
    for statistic, part in (("worst", 0.8), ("p95", 0.6), ("mean", 0.4)):
        most = ends[0] + part * (ends[1] - ends[0])
        goal = Goal("price", budget=1e9, limits=(Limit("latency", statistic, most),))
        planned = make_plan(tiers, table, goal, by)
        small = plan_table(tiers, planned.plan, "price", table)
        policy = planned.fitted.policy
        assert planned.plan.kept[-1] == replay(policy, small).exit.max(), (goal, planned.plan)
        assert len(planned.plan.tier) == planned.plan.kept[-1] + 1
        assert policy.path[-1] == planned.plan.kept[-1]
        assert goal.kept(*outcome(tiers, planned.plan, policy, table, goal.objectives))
