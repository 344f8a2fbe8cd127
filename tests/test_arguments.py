"""What is taken: one or several, a policy or its fit, numbers in range; all else is refused by name."""

from itertools import product

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import signed
from synthetic import cache, outputs

import policyopt as po
from policyopt._costs import MIN_COST, Cost
from policyopt._experts import fit_experts
from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt._online.drift import refit, watch
from policyopt._online.families import steering_family
from policyopt._online.simulate import simulate
from policyopt._report.explanation import explain_rows as explain
from policyopt._table import Tables
from policyopt.runtime import load_policy
from policyopt.runtime._checks import MAX_COST, MAX_SEED
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._online import LinUCB, Online
from policyopt.runtime._policy import from_dict, to_dict

ONE, GOAL = po.Tiers((po.Tier("a", 1.0),), (), 1.0), po.Goal(budget=1.5)


@pytest.fixture(scope="module")
def data():
    logits, labels = outputs(120, 2, 3)
    return po.from_arrays(logits, labels, [1, 2], context=labels % 2)


#: The calls of the library that take a seed, of data, a table, outputs and labels.
CALLS = {
    "from_arrays": lambda d, t, x, y, s: po.from_arrays(x, y, [1, 2], seed=s),
    "fit": lambda d, t, x, y, s: po.fit(d, 1.5, "max_prob", seed=s),
    "fit_experts": lambda d, t, x, y, s: fit_experts(d, 1.5, "max_prob", seed=s),
    "refit": lambda d, t, x, y, s: refit("max_prob", t, t, 1.5, seed=s),
    "ladder": lambda d, t, x, y, s: steering_family("max_prob", t, 3, seed=s),
    "tune": lambda d, t, x, y, s: po.tune(d, "max_prob", trials=1, seed=s),
    "simulate": lambda d, t, x, y, s: simulate(d, rounds=20, repetitions=1, seed=s),
    "plan": lambda d, t, x, y, s: po.plan(ONE, t, GOAL, seed=s),
    "plan, certified": lambda d, t, x, y, s: po.plan(ONE, t, GOAL, confidence=0.9, seed=s),
}


@pytest.mark.parametrize("call", CALLS)
def test_seeds_out_of_range(data, call):
    table, rows = Tables(data).get("fit"), outputs(20, 2, 3)
    for seed in (-1, MAX_SEED + 1, 1 << 200, 1.0, True, None, "0", float("nan")):
        with pytest.raises(InputError, match=r"'seed' must be a whole number"):
            CALLS[call](data, table, *rows, seed)


def test_the_largest_seed_goes_all_the_way(data, tmp_path):
    logits, labels = outputs(40, 2, 3)
    np.savez(tmp_path / "a.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2.0])
    po.import_sources(tmp_path / "a.npz", tmp_path / "c", unit="ms", seed=np.int64(MAX_SEED))
    assert po.open_cache(tmp_path / "c").split_seed == MAX_SEED
    assert po.fit(data, 1.5, "max_prob", seed=MAX_SEED).policy


def test_seeds_of_commands(run):
    lines = "import a.npz --out c", "fit c", "plan c --tiers t", "tune c", "simulate c"
    for line, seed in product((*lines, "export p --out e"), (-1, 1 << 63)):
        code, _, said = run(*line.split(), "--seed", seed)
        assert code == 2 and "'seed' must be a whole number, at least 0" in said


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=2, max_size=3), st.booleans()
)
def test_any_costs_are_fitted_or_refused(costs, standalone):
    """What is taken has variances: a fit ends, with intervals that are numbers."""
    logits, labels = outputs(60, len(costs), 3)
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
    logits, labels = outputs(40, 2, 3)
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


@pytest.fixture(scope="module")
def tables():
    return Tables(cache(600))


@pytest.fixture(scope="module")
def fitted(tables):
    return po.fit(tables.data, "50%", "max_prob", tables=tables)


def thresholds(path):
    return load_policy(path).thresholds.tolist()


@pytest.fixture(scope="module")
def experts():
    logits, labels = outputs(600, exits=3)
    more = {"context": np.arange(600) % 2, "contexts": ["day", "night"]}
    data = po.from_arrays(logits, labels, [1, 2, 4], unit="ms", **more)
    return data, po.fit_experts(data, "50%", "max_prob")


def exported(policy, folder):
    graphs = trace_policy(policy)
    write_bundle(policy, folder, "python", golden_of(policy, graphs, rows=20))
    return thresholds(folder / "policy.json")


def served(policy):
    pytest.importorskip("torch")
    from policyopt.serving import StagedModel, serve

    parts = [lambda h: h] * 4
    return serve(StagedModel(parts, parts), policy).policy.thresholds.tolist()


USES = {
    "evaluate": lambda p, t, _: po.evaluate(p, t.data).exit.tolist(),
    "explain": lambda p, t, _: explain(p, t.get("test"), p).record["exits"],
    "watch": lambda p, t, _: watch(p, t.get("test")).reference.active_exits,
    "steer": lambda p, t, _: Online(p, LinUCB()).family.thresholds.tolist(),
    "export": lambda p, t, folder: exported(p, folder / "out"),
    "experts": lambda p, t, _: po.ExpertPolicy(["a", "b"], [p, p]).policies[1].thresholds.tolist(),
    "serve": lambda p, t, _: served(p),
}


@pytest.mark.parametrize("use", USES)
def test_a_fit_is_taken_for_its_policy(use, tables, fitted, experts, tmp_path):
    found = USES[use](fitted, tables, tmp_path)
    assert found == USES[use](fitted.policy, tables, tmp_path)
    for wrong in ("policy.json", None, po.Policy, {"policy": fitted.policy}, tables):
        refuses("must be a Policy, or a fit that holds one", USES[use], wrong, tables, tmp_path)
    data, both = experts
    if use == "evaluate":
        found = po.evaluate(both, data)
        np.testing.assert_array_equal(found.exit, po.evaluate(both.policy, data).exit)
    elif use != "serve":
        words = r"must be one policy\. Got one each for day, night"
        refuses(words, USES[use], both, tables, tmp_path)


@pytest.mark.parametrize(
    "one, several",
    [
        (("max_prob", 2.0), (["max_prob"], [2.0])), (("max_prob", "50%"), (["max_prob"], ["50%"])),
        (("max_prob", np.float32(2)), (("max_prob",), (2.0,))),
        (("max_prob", np.array(2.0)), (iter(["max_prob"]), np.array([2.0]))),
        (("max_prob, margin", "1.5, 2"), (["max_prob", "margin"], [1.5, 2])),
        (("max_prob:thresholds=0.9,0.8,0.7,margin", "90%"), (["max_prob:thresholds=0.9,0.8,0.7", "margin"], ["90%"])),
        ((["max_prob"], 2.0), ({"max_prob": po.make_method("max_prob")}, 2.0)),
    ],
)  # fmt: skip
def test_one_method_or_budget_or_several(one, several, tables):
    found, other = (po.curve(tables.data, *way, tables=tables).records for way in (one, several))
    for name in ("method", "budget", "realised_cost"):
        assert [r[name] for r in found] == [r[name] for r in other]


def test_fit_path_takes_one_budget(tables):
    table = tables.get("fit")
    for name in ("max_prob", "always", "patience", "optimal_stopping"):
        method = po.make_method(name)
        several = method.fit_path(table, [2.0])[0].policy.thresholds
        for one in (2.0, np.float64(2), f"{200 / float(table.mean_costs[-1])!r}%"):
            (found,) = method.fit_path(table, one)
            np.testing.assert_allclose(found.policy.thresholds, several)
        assert len(method.fit_path(table, iter(["50%", 2.0]))) == 2


def test_what_is_no_list_is_refused_by_name(tables):
    for methods, budgets, name in (
        (["max_prob", 3], 2, "methods"), (None, 2, "methods"), (7, 2, "methods"), ([], 2, "methods"),
        ("", 2, "methods"), (po.make_method("max_prob"), 2, "methods"), ("maxprob", 2, "method"),
        (["m", "a", "x"], 2, "method"), ({"a": 3}, 2, "method"), ({}, 2, "methods"), ("all,margin", 2, "methods"),
        ("max_prob", None, "budgets"), ("max_prob", [], "budgets"), ("max_prob", "a lot", "budget"),
        ("max_prob", [None], "budget"), ("max_prob", object(), "budgets"), ("max_prob", {}, "budgets"),
        ("max_prob", "²", "budget"), ("max_prob", "--5", "budget"), ("max_prob", "9" * 5000, "budget"),
    ):  # fmt: skip
        refuses(f"'{name}' must be", po.curve, tables.data, methods, budgets, tables=tables)
    for method in (["max_prob"], 3, {"max_prob": 1}, po.Policy):
        for call in (
            lambda method: po.fit(tables.data, 2.0, method, tables=tables), po.make_method,
            lambda method: po.tune(tables.data, method), lambda method: po.simulate(tables.data, method=method),
        ):  # fmt: skip
            refuses("'method' must be", call, method)


def test_simulations_take_one_name_or_number(tables):
    same = {"rounds": 50, "repetitions": 2, "tables": tables}
    one = po.simulate(tables.data, "ucb1", streams="test", **same)
    several = po.simulate(tables.data, ["ucb1"], streams=["test"], **same)
    assert one.records == several.records
    refuses("'arms' must be low:high:step", po.simulate, tables.data, "ucb1", arms=0.5, **same)
