"""Families: a level is an ordinary policy, levels rise, one file for serving and steering, the commands."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import signed
from random_routes import random_family
from rules import C, families
from rules import policy as made
from synthetic import outputs

import policyopt as po
from policyopt.runtime import (
    BudgetError,
    Controller,
    Online,
    PolicyFamily,
    load_family,
    make_bandit,
)
from policyopt.runtime._family import family_from_dict, family_to_dict

COSTS = [1.0, 2.0, 4.0, 8.0]
LOGITS = np.random.default_rng(0).normal(size=(60, 4, C)).astype(np.float32) * 2


def cache(n=800, seed=0):
    logits, labels = outputs(n, exits=4, seed=seed)
    return po.from_arrays(logits, labels, COSTS, unit="ms", split={"fit": 0.5, "test": 0.5})


@pytest.fixture(scope="module")
def data():
    return cache()


@pytest.mark.parametrize("name", families())
def test_levels_decide_as_their_own_policies(name, tmp_path):
    """In a batch of one level or of many, side by side, and one by one; of the file, too."""
    family = families()[name]
    family.save(tmp_path / "family.json")
    again = load_family(tmp_path / "family.json")
    assert family_to_dict(again) == family_to_dict(family) and again.one_rule == family.one_rule
    rows, rng = LOGITS[:, : family.model_exits], np.random.default_rng(1)
    level, numbers = rng.integers(0, len(family), len(rows)), np.arange(len(rows)) + 7
    found = again.decide(rows, level, numbers)
    for a in range(len(family)):
        mine, one = level == a, family.at(a)
        for some in (again.decide(rows, a, numbers), again.at(str(a)).decide(rows, numbers)):
            for field in ("exit", "prediction", "cost"):
                values = getattr(one.decide(rows, numbers), field)
                np.testing.assert_array_equal(getattr(some, field), values)
                np.testing.assert_array_equal(getattr(found, field)[mine], values[mine])
    state, left = again.start(level, numbers), np.arange(len(rows))
    for k in again.active_exits:
        seen = again.step(k, rows[left, k], state)
        assert (found.exit[left[seen.exit]] == k).all()
        left = left[~seen.exit]
        state.keep(~seen.exit)
    assert not len(left)
    for i in range(10):
        state = again.start(int(level[i]), int(numbers[i]))
        for k in again.at(int(level[i])).active_exits:
            if again.step(k, rows[i, k], state).exit:
                break
        assert k == found.exit[i]


@pytest.mark.parametrize("kind", ["logits", "logit", "summary"])
def test_levels_of_routing_decide_as_their_own_policies(kind, tmp_path):
    """In a batch of one level or of many, and one by one; of the file, too, in which each arm stands once."""
    asked = kind == "summary"
    family, rng = random_family(5, kind, query=asked, timed=not asked), np.random.default_rng(2)
    family.save(tmp_path / "family.json")
    again = load_family(tmp_path / "family.json")
    content = family_to_dict(family)
    assert family_to_dict(again) == content and len(content["rules"]) == 1
    assert len(content["arms"]) == 4 and sum(len(level["arms"]) for level in content["levels"]) == 6
    n, of = 80, again.model_exits
    rows = rng.normal(size=(n, of, 1 if kind == "logit" else again.classes)) * 2
    if asked:
        said = {"confidence": rng.random((of, n)), "prediction": rng.integers(0, 3, (of, n))}
        rows = [{name: column[m] for name, column in said.items()} for m in range(of)]
    of_one = lambda i, m: {k: v[i] for k, v in rows[m].items()} if asked else rows[i, m]  # noqa: E731
    query = rng.normal(size=(n, 3)) if asked else None
    paid, numbers, level = rng.gamma(4, size=(n, of)), np.arange(n) + 7, rng.integers(0, 4, n)
    found = again.decide(rows, level, numbers, costs=paid, query=query)
    for a in range(4):
        one = family.at(a).decide(rows, numbers, paid, query)
        for field in vars(one):
            whole = again.decide(rows, a, numbers, costs=paid, query=query)
            np.testing.assert_array_equal(getattr(whole, field), getattr(one, field))
            np.testing.assert_array_equal(
                getattr(found, field)[level == a], getattr(one, field)[level == a]
            )
    for i in range(n):
        route = again.start(str(level[i]), int(numbers[i]), None if query is None else query[i])
        while (m := route.next) is not None:
            told = again.step(m, of_one(i, m), route, cost=paid[i, m])
        assert told.prediction == found.prediction[i] and route.paid == pytest.approx(found.cost[i])
        assert set(route.seen) == set(np.flatnonzero(found.called[i]))
        assert route.confidence == pytest.approx(found.confidence[i])
    refuses("the model to ask, None", again.step, 0, of_one(0, 0), route)
    own = family.at(0).ensemble
    dearer = replace(family.at(0), ensemble=replace(own, costs=3 * own.costs))
    both = PolicyFamily((family.at(0), dearer)).decide(rows, np.ones(n, int), numbers, query=query)
    assert (both.cost == dearer.decide(rows, numbers, None, query).cost).all()
    refuses("'level' must be", again.start, [0, 1])
    for call in (lambda: family.thresholds, lambda: PolicyFamily.of(family.at(0), [[0.5]])):
        refuses("Got", call)
    if kind == "logits":
        one = family.at(0)
        alike = replace(one, ensemble=replace(one.ensemble, classes=C))
        other = made(active_exits=(0, 2, 3), model_exits=4)
        refuses("all of routing, or none", PolicyFamily, (other, alike))
    assert family.steered() is family and not family.nested


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(1, 999), min_size=1, max_size=12, unique=True),
    st.integers(1, 1999), st.booleans(),
)  # fmt: skip
def test_a_budget_finds_the_dearest_level_that_keeps_it(costs, budget, by_share):
    costs = sorted(costs)
    family = PolicyFamily((made(),) * len(costs), costs, full_cost=200.0)
    given = f"{budget / 2}%" if by_share else str(float(budget))
    allowed = [a for a, cost in enumerate(costs) if cost <= budget]
    if allowed:
        assert family.number(given) == allowed[-1]
        assert by_share or family.number(float(budget)) == allowed[-1]
    else:
        with pytest.raises(BudgetError, match="the cheapest costs"):
            family.number(given)


def test_what_is_no_level_or_no_family_is_refused():
    family, one = families()["several rules"], made()
    assert [family.number(x) for x in ("usual", 2, np.int64(0), "1")] == [1, 2, 0, 1]
    for level in ("dear", 3, -1, True, None, "nan%", "1e999", [0, 3], [0.5]):
        refuses("'level' must be", family.start, level)
    refuses("a whole number from 0", families()["without costs"].at, "35%")
    for words, call in (
        ("'policies' must be 1 to", lambda: PolicyFamily(())),
        ("'expected_costs' must be 2 rising", lambda: PolicyFamily((one, one), [2.0, 2.0])),
        ("'budgets' must be 2 rising", lambda: PolicyFamily((one, one), [1.0, 2.0], [2.0, 1.0])),
        ("'names of levels' must be none, or 1", lambda: PolicyFamily((one,), names=("0",))),
        ("kind of the policies", lambda: PolicyFamily((one, made(kind="probabilities")))),
        ("'thresholds' must be of shape", lambda: PolicyFamily.of(one, [[0.5]])),
        ("without a mixture", lambda: PolicyFamily.of(made(mixed=""), [[0.5, 0.5]])),
        ("'query' must be left out", lambda: family.start(0, query=[1.0])),
        ("'costs' must be left out", lambda: family.decide(LOGITS[:, :3], 0, costs=[1.0])),
        ("'query' must be left out", lambda: Online(family, Controller(0.5)).start(query=[1.0])),
        ("a bandit learns of all", lambda: Online(family, make_bandit("ucb1"))),
        ("a family of 3 levels. Take a level", lambda: po.evaluate(family, cache(40))),
    ):
        refuses(words, call)


def test_twice_and_unused_in_a_file_are_refused():
    content = json.loads(json.dumps(family_to_dict(families()["several rules"])))
    twist = lambda **more: family_from_dict(signed({**content, **more}))  # noqa: E731
    rules, levels = content["rules"], content["levels"]
    refuses("different, and each used", twist, rules=[*rules, rules[0]])
    refuses("different, and each used", twist, rules=[rules[0], rules[0], rules[2]])
    refuses("each first used in turn", twist, levels=[{**levels[0], "rule": 1}, *levels[1:]])
    refuses("of all or none", twist, levels=[{**levels[0], "name": None}, *levels[1:]])
    routing = json.loads(json.dumps(family_to_dict(random_family(1))))
    levels, arms = routing["levels"], routing["arms"]
    for words, more in (
        ("different, and each used", {"arms": [*arms, {**arms[0], "first": -7}]}),
        ("different, and each used", {"arms": [*arms[:3], arms[2]]}), ("hangs together|a model with", {"arms": [{**arms[0], "first": 9}, *arms[1:]]}),
        ("each first used in turn", {"levels": levels[::-1]}), ("each first used in turn", {"levels": [{**levels[0], "arms": [-1]}, *levels[1:]]}),
        ("one, or two", {"levels": [{**levels[0], "arms": []}, *levels[1:]]}), ("model_exits", {"model_exits": 5}),
    ):  # fmt: skip
        refuses(words, lambda more=more: family_from_dict(signed({**routing, **more})))
    content = json.loads(json.dumps(family_to_dict(families()["several rules"])))
    levels = content["levels"]
    refuses(
        "expected_costs", twist, levels=[levels[0], {**levels[1], "expected_cost": 1.0}, levels[2]]
    )


@pytest.mark.parametrize(
    "method", ["max_prob", "margin:answer=combined", "patience", "auto", "optimal_stopping"]
)
def test_a_fitted_family_rises_and_holds_its_budgets(data, method, tmp_path):
    family = po.fit_family(data, 7, method, calibrator="platt")
    policy, tables = family.policy, po.Tables(data)
    assert (np.diff(policy.expected_costs) > 0).all()
    assert (np.diff([part.quality for part in family.parts]) > 0).all()
    left_out = [note.split(" ms")[0].count(",") + 1 for note in family.notes]
    assert len(policy) + sum(left_out) == 7
    assert [p.provenance["budget"] for p in policy.policies] == policy.budgets.tolist()
    for a, budget in enumerate(policy.budgets):
        # Where a level spends less than its budget, a dearer one may keep that, too.
        found = policy.number(float(budget))
        assert a <= found == policy.number(f"{100 * budget / 8}%")
        assert found == a or policy.expected_costs[found] <= budget
    alone = po.fit(data, policy.budgets[2], method, calibrator="platt", tables=tables).policy
    rows, one = tables.get("test"), family.at(2)
    np.testing.assert_array_equal(po.evaluate(one, data).exit, po.evaluate(alone, data).exit)
    assert one.provenance["expected_cost"] == alone.provenance["expected_cost"]
    assert len(rows) == 400
    family.save(tmp_path / "family.json")
    again = load_family(tmp_path / "family.json")
    assert again.at(2).provenance == dict(policy.at(2).provenance)
    costs = [po.evaluate(p, data).cost.mean() for p in again.policies]
    assert (np.diff(costs) > 0).all()


def test_equal_levels_are_dropped_and_told(data):
    """Also those that only cost more: beyond exit 1 answers get no better here, unless all is to be spent."""
    logits, labels = outputs(800, exits=4)
    logits[:, 2:] = logits[:, 1:2]
    same = po.from_arrays(logits, labels, costs=[1, 2, 4, 8], unit="ms")
    family = po.fit_family(same, "1.5,2,4,6", "margin")
    assert family.policy.expected_costs[-1] < 2 + 1e-3 and "no level at 4, 6 ms" in family.notes[-1]
    assert len(po.fit_family(same, "1.5,2,4,6", "margin", spend="all").policy) == 4
    family = po.fit_family(data, "1%,30%,30%,31%", "always:exit=1")
    assert len(family.policy) == 1 and len(family.notes) == 2
    assert "no level at 0.08 ms: with" in family.notes[0] and "buys nothing" in family.notes[1]
    with pytest.raises(BudgetError, match="any of these budgets"):
        po.fit_family(data, "1%", "max_prob")


@pytest.mark.parametrize("method", ["max_prob", "optimal_stopping"])
def test_the_file_of_a_family_is_steered(data, method, tmp_path):
    """A controller on levels of one rule or many keeps its bound; what it saves gives the family back."""
    po.fit_family(data, 9, method).save(tmp_path / "family.json")
    family = load_family(tmp_path / "family.json")
    online, rule = Online(family, Controller(0.3, step=0.05)), Controller(0.3, step=0.05)
    assert online.family.steered() is online.family and len(online.family) == 11
    logits, _ = outputs(600, exits=4, seed=5)
    paid = []
    for row in logits:
        request = online.start()
        for k in range(4):
            if online.decide(k, row[k], request).exit:
                break
        paid.append(online.feedback(request))
    costs = online.family.policy.costs
    share = (np.mean(paid) - costs[0]) / (costs[-1] - costs[0])
    assert abs(share - 0.3) <= rule.bound(len(paid)) + 1e-9
    online.save(tmp_path / "online.json")
    again = Online.load(tmp_path / "online.json")
    assert again.state() == online.state()
    again.family.save(tmp_path / "family.json")
    kept = load_family(tmp_path / "family.json")
    assert family_to_dict(kept) == family_to_dict(online.family)


def test_the_commands_take_a_level(run, tmp_path):
    """Fit writes a family; commands name its levels where none is given, and take one by any way of saying it."""
    logits, labels = outputs(800, exits=4)
    np.savez(tmp_path / "x.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=COSTS)
    place, file = tmp_path / "cache", tmp_path / "f.json"
    assert run("import", tmp_path / "x.npz", "--out", place, "--unit", "ms")[0] == 0
    fit = ("fit", place, "--budgets", "5", "--method", "max_prob", "--out", file)
    told = lambda *line: json.loads(run(*line, "--format", "json")[1])  # noqa: E731
    assert [record["level"] for record in told(*fit)] == [0, 1, 2, 3, 4]
    assert "replaced" in run(*fit)[2] and "a family of 5 levels" in run(*fit)[2]
    whole = told("evaluate", file, place)
    for level in ("2", "37.6%", "3.01", "3.01ms", "3.01 ms"):
        assert [
            {"level": 2, **one} for one in told("evaluate", file, place, "--level", level)
        ] == whole[2:3]
    code, out, _ = run("info", file)
    assert code == 0 and "5 levels [ms]" in out and "expected cost" in out
    assert "thresholds" in run("info", file, "--level", "1")[1]
    rows = po.open_cache(place).splits["pool"].array("outputs")
    np.savez(tmp_path / "new.npz", logits=rows.swapaxes(0, 1))
    lines = {
        "explain": (file, place), "run": (file, tmp_path / "new.npz"),
        "calibration": (place, "--policy", file),
    }  # fmt: skip
    for command, line in lines.items():
        code, out, err = run(command, *line)
        assert (code, out) == (2, "") and "from 0 (the cheapest) to 4" in err, command
        code, out, err = run(command, *line, "--level", "1")
        assert code == 0 and out, err
    decided = told("run", *lines["run"], "--level", "3")
    assert [r["exit"] for r in decided] == load_family(file).decide(rows, 3).exit.tolist()
    code, _, err = run("evaluate", file, place, "--level", "1%")
    assert code == 3 and "the cheapest costs" in err
    load_family(file).at(0).save(tmp_path / "p.json")
    code, _, err = run("evaluate", tmp_path / "p.json", place, "--level", "1")
    assert code == 2 and "given with a family alone" in err
    assert run(*fit, "--budget", "40%")[0] == 2
