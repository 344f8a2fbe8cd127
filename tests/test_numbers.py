"""Numbers out of range, from the command line, from Python and from files: our errors, by name."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import synthetic
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import signed

import policyopt as po
from policyopt._costs import MIN_COST, Cost
from policyopt._experts import fit_experts
from policyopt._online.drift import refit
from policyopt._online.families import fit_family
from policyopt._online.simulate import simulate
from policyopt._table import Tables
from policyopt.runtime._checks import MAX_COST, MAX_SEED
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import from_dict, to_dict

ONE, GOAL = po.Tiers((po.Tier("a", 1.0),), (), 1.0), po.Goal(budget=1.5)


@pytest.fixture(scope="module")
def data():
    logits, labels = synthetic.outputs(120, 2, 3)
    return po.from_arrays(logits, labels, [1, 2], context=labels % 2)


#: The calls of the library that take a seed, of data, a table, outputs and labels.
CALLS = {
    "from_arrays": lambda d, t, x, y, s: po.from_arrays(x, y, [1, 2], seed=s),
    "fit": lambda d, t, x, y, s: po.fit(d, 1.5, "max_prob", seed=s),
    "fit_experts": lambda d, t, x, y, s: fit_experts(d, 1.5, "max_prob", seed=s),
    "refit": lambda d, t, x, y, s: refit("max_prob", t, t, 1.5, seed=s),
    "ladder": lambda d, t, x, y, s: fit_family("max_prob", t, 3, seed=s),
    "tune": lambda d, t, x, y, s: po.tune(d, "max_prob", trials=1, seed=s),
    "simulate": lambda d, t, x, y, s: simulate(d, rounds=20, repetitions=1, seed=s),
    "make_plan": lambda d, t, x, y, s: po.make_plan(ONE, t, GOAL, seed=s),
    "certified_plan": lambda d, t, x, y, s: po.certified_plan(ONE, t, GOAL, 0.9, seed=s),
}


@pytest.mark.parametrize("call", CALLS)
def test_seeds_out_of_range(data, call):
    table, outputs = Tables(data).get("fit"), synthetic.outputs(20, 2, 3)
    for seed in (-1, MAX_SEED + 1, 1 << 200, 1.0, True, None, "0", float("nan")):
        with pytest.raises(InputError, match=r"'seed' must be a whole number"):
            CALLS[call](data, table, *outputs, seed)


def test_the_largest_seed_goes_all_the_way(data, tmp_path):
    logits, labels = synthetic.outputs(40, 2, 3)
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2.0])
    po.import_sources(tmp_path / "a.npz", tmp_path / "c", unit="ms", seed=np.int64(MAX_SEED))
    assert po.open_cache(tmp_path / "c").split_seed == MAX_SEED
    assert po.fit(data, 1.5, "max_prob", seed=MAX_SEED).policy


def test_seeds_of_commands(run):
    lines = (
        "import a.npz --out c",
        "fit c",
        "plan c --tiers t",
        "tune c",
        "simulate c",
        "export p --out e",
    )
    for line, seed in product(lines, (-1, 1 << 63)):
        code, _, said = run(*line.split(), "--seed", seed)
        assert code == 2 and "'seed' must be a whole number, at least 0" in said


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=2, max_size=3), st.booleans()
)
def test_any_costs_are_fitted_or_refused(costs, standalone):
    """What is taken has variances: a fit ends, with intervals that are numbers."""
    logits, labels = synthetic.outputs(60, len(costs), 3)
    kind = "standalone" if standalone else "cumulative"
    try:
        data = po.from_arrays(logits, labels, costs, cost_kind=kind)
    except InputError:
        return
    assert MIN_COST <= data.cost().values[-1] <= MAX_COST
    try:
        found = po.fit(data, "60%", "max_prob").expected
    except (InputError, BudgetError):
        return
    assert np.isfinite([found.cost, found.sd]).all()


@pytest.mark.parametrize("costs", [(1, 1e300), (1, 1e101), (0, 1e-200), (6e99, 6e99)])
def test_costs_beyond_range_are_refused_everywhere(costs, tmp_path, run):
    kind = "standalone" if costs[0] == 6e99 else "cumulative"
    logits, labels = synthetic.outputs(40, 2, 3)
    with pytest.raises(InputError, match=r"at most 1e|1e-100 at least"):
        Cost("c", "ms", costs, kind)
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=costs)
    code, _, said = run("import", tmp_path / "a.npz", "--out", tmp_path / "c", "--cost-kind", kind)
    assert code == 2 and "'cost' must be" in said and not (tmp_path / "c").exists()
    if costs[1] > MAX_COST:
        with pytest.raises(InputError, match="at most 1e"):
            po.from_arrays(logits, labels, np.tile(np.array(costs, float), (40, 1)))
        fitted = po.fit(po.from_arrays(logits, labels, [1, 2]), 1.5, "max_prob")
        with pytest.raises(InputError, match="costs"):
            from_dict(signed(to_dict(fitted.policy) | {"costs": list(map(float, costs))}))
