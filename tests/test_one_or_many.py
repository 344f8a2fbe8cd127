"""What takes a policy takes a fit; what takes several takes one; what cannot be read is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import cache, outputs

import policyopt as po
from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt._online.drift import watch_policy
from policyopt._report.explanation import explain
from policyopt._table import Tables
from policyopt.runtime import load_policy, save_policy
from policyopt.runtime._online import LinUCB, Online


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

    return serve(
        StagedModel([lambda h: h] * 4, [lambda h: h] * 4), policy
    ).policy.thresholds.tolist()


USES = {
    "evaluate": lambda p, t, _: po.evaluate(p, t.data).exit.tolist(),
    "explain": lambda p, t, _: explain(p, t.get("test"), p).record["exits"],
    "watch": lambda p, t, _: watch_policy(p, t.get("test")).reference.active_exits,
    "steer": lambda p, t, _: Online(p, LinUCB()).family.thresholds.tolist(),
    "export": lambda p, t, folder: exported(p, folder / "out"),
    "save": lambda p, t, folder: save_policy(p, folder / "p.json") or thresholds(folder / "p.json"),
    "experts": lambda p, t, _: po.ExpertPolicy(["a", "b"], [p, p]).policies[1].thresholds.tolist(),
    "serve": lambda p, t, _: served(p),
}


@pytest.mark.parametrize("use", USES)
def test_a_fit_is_taken_for_its_policy(use, tables, fitted, experts, tmp_path):
    found = USES[use](fitted, tables, tmp_path)
    assert found == USES[use](fitted.policy, tables, tmp_path)
    for wrong in ("policy.json", None, po.Policy, {"policy": fitted.policy}, tables):
        with pytest.raises(po.InputError, match="must be a Policy, or a fit that holds one"):
            USES[use](wrong, tables, tmp_path)
    data, both = experts
    if use == "evaluate":
        found = po.evaluate(both, data)
        np.testing.assert_array_equal(found.exit, po.evaluate(both.policy, data).exit)
    elif use != "serve":
        words = r"must be one policy\. Got one each for day, night"
        with pytest.raises(po.InputError, match=words):
            USES[use](both, tables, tmp_path)


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
    found, other = (
        po.curve(tables.data, *given, tables=tables).records for given in (one, several)
    )
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
    ):  # fmt: skip
        with pytest.raises(po.InputError, match=f"'{name}' must be"):
            po.curve(tables.data, methods, budgets, tables=tables)
    for method in (["max_prob"], 3, {"max_prob": 1}, po.Policy):
        for call in (
            lambda method: po.fit(tables.data, 2.0, method, tables=tables), po.make_method,
            lambda method: po.tune(tables.data, method), lambda method: po.simulate(tables.data, method=method),
        ):  # fmt: skip
            with pytest.raises(po.InputError, match="'method' must be"):
                call(method)


def test_simulations_take_one_name_or_number(tables):
    same = {"rounds": 50, "repetitions": 2, "tables": tables}
    one = po.simulate(tables.data, "ucb1", streams="test", **same)
    several = po.simulate(tables.data, ["ucb1"], streams=["test"], **same)
    assert one.records == several.records
    with pytest.raises(po.InputError, match="'arms' must be low:high:step"):
        po.simulate(tables.data, "ucb1", arms=0.5, **same)
