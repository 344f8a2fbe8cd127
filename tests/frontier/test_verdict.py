"""The verdict: made worlds whose answer is known, numbers against formulas, false claims as rare as it says."""

import json
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from conftest import refuses

import policyopt as po
from policyopt._frontier import record
from policyopt._table import Tables


def rows(n, seed, right, told, exits=None):
    """Answers of K exits: right with chance `right(conf)` (n, K), confidences `told(conf)`; conf (n, K) uniform."""
    rng = np.random.default_rng(seed)
    conf = rng.random((n, exits or 2))
    is_right = rng.random(conf.shape) < right(conf)
    labels = np.zeros(n, dtype=int)
    confidence = 0.5 + 0.49 * told(conf, rng)
    return {"prediction": (~is_right).astype(int), "confidence": confidence, "labels": labels}


def informed(conf, rng):
    return conf


def blind(conf, rng):
    return rng.random(conf.shape)


def sure_of_itself(conf):
    """Exit 0 is right where it is sure; exit 1 nearly always."""
    return np.stack([np.where(conf[:, 0] > 0.4, 0.97, 0.45), np.full(len(conf), 0.95)], axis=1)


def even(*shares):
    return lambda conf: np.broadcast_to(shares, conf.shape)


def made(right, told, n=(2000, 6000), exits=2, costs=(1.0, 5.0), seed=0, **more):
    sizes = dict(zip(("fit", "test"), n, strict=True))
    splits = {
        name: rows(size, [seed, i], right, told, exits)
        for i, (name, size) in enumerate(sizes.items())
    }
    return po.from_arrays(splits=splits, costs=list(costs), unit="ms", **more)


def judged(data, methods=("max_prob",), budgets=5, max_drop=0.005, **more):
    found = po.verdict(po.curve(data, list(methods), budgets, **more), max_drop)
    json.dumps(found.record, allow_nan=False)
    told = [b["within"] for b in found.record["budgets"]]
    assert told == sorted(told)  # what holds is a run of the dearest budgets
    return found


def test_it_pays_where_an_exit_knows_when_it_is_right():
    found = judged(made(sure_of_itself, informed), max_drop="2%")
    at = found.record["budgets"][found.record["at"]]
    assert found.pays and found.record["reason"] == "as good"
    assert at["within"] and at["gains"] and at["saving"] > 0.2
    share = f"{100 * (1 - at['saving']):.0f} %"
    ends = [f"{100 * at['to_full' + end]:+.1f}" for end in ("", "_low", "_high")]
    said = f"better than the full model ({ends[0]} [{ends[1]}, {ends[2]}] points)"
    by = f"max_prob at {share} of the cost of the full model"
    assert at["to_full_low"] > 0
    assert found.headline == f"Leaving early pays: {by} is {said}."
    assert "worse" not in str(found) and str(found).count(said) == 1
    assert "a gain is shown at 5 of 5 budgets" in str(found)


def test_its_numbers_are_those_of_replays_and_of_formulas():
    data = made(sure_of_itself, informed)
    frontier = po.curve(data, ["max_prob"], 5)
    table, found = frontier.tests[0], po.verdict(frontier)
    right, share = table.quality, np.linspace(0, 1, 5)
    assert len(found.record["budgets"]) == len(share)
    for one, fitted in zip(found.record["budgets"], frontier.fitted.values(), strict=True):
        outcome = po.evaluate(fitted, data)
        cost, worth = outcome.cost.mean(), outcome.quality.mean()
        up = (cost - 1) / 4  # of rows that a coin would send on
        assert one["realised_cost"] == pytest.approx(cost)
        assert one["saving"] == pytest.approx(1 - cost / 5)
        assert one["to_full"] == pytest.approx(worth - right[:, 1].mean())
        singles = (1 - up) * right[:, 0].mean() + up * right[:, 1].mean()
        assert one["to_singles"] == pytest.approx(worth - singles)
        gained = min(up, ((right[:, 0] == 0) & (right[:, 1] == 1)).mean())
        assert one["bound_lead"] == pytest.approx(right[:, 0].mean() + gained - singles)
        assert one["reached"] == pytest.approx(one["to_singles"] / one["bound_lead"])
        gap = outcome.quality - right[:, 1]
        error = gap.std() / len(gap) ** 0.5
        by_normal = NormalDist().cdf(-(gap.mean() + 0.005) / error)
        assert one["to_full_p"] == pytest.approx(by_normal, abs=0.02)
        assert one["within"] == (one["to_full_p"] <= 0.05)  # here all later ones hold, too


def test_an_exit_alone_is_named_where_it_does_as_well():
    data = made(even(0.5, 0.9, 0.9), blind, (2000, 40000), 3, (1.0, 2.0, 8.0))
    found = judged(data, max_drop=0.01)
    assert found.pays is False and found.record["reason"] == "single"
    assert (
        found.headline == "Leaving early does not pay: exit 1 alone does as well at no more cost."
    )
    assert "Alone, exit 1 costs 2 ms with 89.7 %" in found.sentences[0]


def test_the_full_model_may_be_needed():
    found = judged(made(even(0.5, 0.9), blind, (2000, 60000)), max_drop=0.01)
    assert found.pays is False and found.record["reason"] == "full model"
    assert "none of the 5 budgets tried is within 1 points of the full model" in found.headline


def test_no_headroom_in_hindsight_is_a_reason():
    def alike(conf):  # both exits are right on the same rows
        return np.where(conf[:, :1] > 0.2, 1.0, 0.0) * np.ones(2)

    found = judged(made(alike, informed))
    assert found.pays is False and found.record["reason"] == "no headroom"
    assert (
        "even a choice that knew the right answers could gain at most 0.05 points" in found.headline
    )


def test_it_gains_where_nothing_is_as_good_as_the_full_model():
    found = judged(made(sure_of_itself, informed), budgets="25%,35%")
    assert found.pays and found.record["reason"] == "gains" and found.record["at"] is None
    gain = found.record["budgets"][found.record["gain_at"]]
    assert gain["to_full_high"] < 0
    price = f"{100 * -gain['to_full']:.1f} points worse, but {100 * gain['to_singles']:.1f} better"
    assert found.headline.startswith("Leaving early pays only if some accuracy may be lost: ")
    assert price in found.headline
    first, then = found.sentences
    assert first.startswith(f"There it costs {gain['realised_cost']:.4g} ms")
    assert first.endswith(
        "points, and none of the 2 budgets tried is within 0.5 points of the full model."
    )
    assert then.startswith("At equal cost, it gains")
    assert "over mixing exit 0 and exit 1 at random" in then


def test_too_few_rows_say_so_and_how_many_would_do():
    def little(conf):
        return np.stack([0.7 + 0.06 * (conf[:, 0] > 0.5), np.full(len(conf), 0.85)], axis=1)

    few = judged(made(little, informed, (4000, 200)), budgets="40%")
    assert few.pays is None and few.record["reason"] == "few rows"
    needed = few.record["rows_needed"]
    assert (
        needed > 200
        and f"200 rows are too few to tell it from single exits, about {needed:,}" in str(few)
    )
    assert judged(made(little, informed, (4000, 60000)), budgets="40%").pays


def test_what_cannot_be_told_is_not_guessed():
    frontier = po.curve(made(sure_of_itself, informed), ["always", "random"], "40%")
    found = po.verdict(frontier)
    assert found.pays is None and "no method that leaves early" in found.headline
    frontier = po.curve(made(sure_of_itself, informed), ["max_prob"], "40%")
    table = frontier.tests[0]
    bare = replace(
        table, statistics=table.statistics.replace(quality=None, labels=None, correct=None)
    )
    found = po.verdict(replace(frontier, tests={0: bare}))
    assert found.pays is None and "no row has a label" in found.headline
    refuses("max_drop", po.verdict, frontier, 5)
    refuses("what po.curve returns", po.verdict, frontier.records)


def test_methods_are_chosen_by_the_rows_of_the_fit():
    frontier = po.curve(
        made(sure_of_itself, informed), ["max_prob", "max_prob:thresholds=joint"], 3
    )
    worth = {"max_prob": 0.1, "max_prob:thresholds=joint": 0.9}
    for by, wanted in (
        (worth, "max_prob:thresholds=joint"),
        (dict.fromkeys(worth, 0.5), "max_prob"),
    ):
        for key, fitted in frontier.fitted.items():
            frontier.fitted[key] = replace(fitted, quality=by[key[0]])
        found = po.verdict(frontier)
        assert {one["method"] for one in found.record["budgets"]} == {wanted}


def fresh(frontier, table):
    """The same policies on other rows."""
    told = [record(key[0], f, table, 0) for key, f in frontier.fitted.items()]
    return replace(frontier, tests={0: table}, records=told)


def population(right, told, draws, n):
    """Many draws of test rows of a world."""
    whole = rows(draws * n, 99, right, told)
    data = po.from_arrays(splits={"test": whole}, costs=[1.0, 5.0], unit="ms")
    table = Tables(data).get("test")
    return table, [table.take(np.arange(i * n, (i + 1) * n)) for i in range(draws)]


def test_false_claims_are_rare():
    """At a drop that no budget keeps: 5 % claim one. Where scores know nothing: hardly one says that it pays."""
    draws, n = 150, 300
    frontier = po.curve(made(sure_of_itself, informed, (1000, 100)), ["max_prob"], "30%,38%,45%")
    whole, parts = population(sure_of_itself, informed, draws, n)
    true = [one["to_full"] for one in po.verdict(fresh(frontier, whole)).record["budgets"]]
    claims = [po.verdict(fresh(frontier, part), -max(true) - 1e-6).record["at"] for part in parts]
    assert (
        0.005 <= np.mean([at is not None for at in claims]) <= 0.085
    )  # 5 % and two standard errors
    frontier = po.curve(made(even(0.6, 0.8), blind, (1000, 100)), ["max_prob"], "30%,40%,50%,60%")
    _, parts = population(even(0.6, 0.8), blind, draws, n)
    found = [po.verdict(fresh(frontier, part)).pays for part in parts]
    assert np.mean([pays is True for pays in found]) <= 0.05


def test_groups_are_kept_whole_and_widen_what_is_told():
    """Each row twenty times: as sure as the rows that there are."""
    data = made(sure_of_itself, informed, (1000, 300))
    frontier = po.curve(data, ["max_prob"], "50%")
    alone = po.verdict(frontier).record["budgets"][0]
    copies = np.repeat(np.arange(300), 20)
    part = {k: v for k, v in rows(300, [0, 1], sure_of_itself, informed).items()}
    grouped = {name: value[copies] for name, value in part.items()} | {"group": copies}
    fit = rows(1000, [0, 0], sure_of_itself, informed) | {"group": np.arange(1000) + 10_000}
    data = po.from_arrays(splits={"fit": fit, "test": grouped}, costs=[1.0, 5.0], unit="ms")
    found = po.verdict(po.curve(data, ["max_prob"], "50%"))
    one = found.record["budgets"][0]
    assert "in 300 groups" in found.notes[0]
    width = [r["to_full_high"] - r["to_full_low"] for r in (alone, one)]
    assert width[1] == pytest.approx(width[0], rel=0.15)


def test_seeds_graded_floors_declining_and_cascades_have_a_verdict():
    rng = np.random.default_rng(0)
    n = 2000
    pool = rows(n, 3, sure_of_itself, informed)
    data = po.from_arrays(**pool, costs=[1.0, 5.0], unit="ms")
    one, mean = (judged(data, budgets="50%", seeds=seeds).record["budgets"][0] for seeds in (1, 3))
    wide = [r["to_full_high"] - r["to_full_low"] for r in (one, mean)]
    assert wide[1] == pytest.approx(wide[0], rel=0.2)  # divisions overlap: no narrower
    assert judged(data, budgets="40%", abstain="5%").record["budgets"][0]["bound_lead"] is None
    floored = judged(data, ("max_prob", "max_prob:thresholds=joint"), [po.Target(max_drop=0.02)])
    assert floored.record["budgets"][0]["budget"] is None
    graded = {**pool, "quality": rng.beta(2, 1, (n, 2))}
    graded.pop("labels")
    found = judged(po.from_arrays(**graded, costs=[1.0, 5.0], unit="ms"), budgets="50%")
    assert "quality" in found.sentences[0]
    names = {"names": ["small", "large"]}
    more = {"unit": "USD", "cost_kind": "standalone", "metadata": names}
    data = po.from_arrays(**pool, costs=[0.001, 0.004], **more)
    found = judged(data, ("optimal_stopping",), max_drop=0.05)
    assert found.pays and found.headline.startswith("A cascade pays: optimal_stopping at ")
    assert (
        "of the cost of model large alone" in found.headline and "($4/1000)" in found.sentences[0]
    )
    assert found.record["full"]["cost"] == pytest.approx(0.004)  # not of asking both


def test_of_very_many_rows_random_ones_are_held_against_each_other(monkeypatch):
    data = made(sure_of_itself, informed)
    frontier = po.curve(data, ["max_prob", "random"], 3)
    whole, compared = po.verdict(frontier), po.compare(frontier)
    monkeypatch.setattr("policyopt._frontier.MOST_COMPARED", 5000)
    monkeypatch.setattr("policyopt._verdict.MOST_COMPARED", 5000)
    some = po.verdict(frontier)
    assert "5,000 random rows" in some.notes[0] and "random" not in whole.notes[0]
    for one, other in zip(some.record["budgets"], whole.record["budgets"], strict=True):
        assert one["realised_cost"] == other["realised_cost"]  # of all
        assert one["to_singles"] == pytest.approx(other["to_singles"], abs=0.02)
    for one, other in zip(po.compare(frontier).ranking, compared.ranking, strict=True):
        assert one["method"] == other["method"]
        assert one["quality"] == pytest.approx(other["quality"], abs=0.02)
