"""Certificates: p-values by enumeration, testing by hand, violations by simulation, and what is refused."""

import itertools
import json
import re
from dataclasses import replace
from math import comb

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from synthetic import cache, outputs
from test_experts import routed
from test_routing import zoo

import policyopt as po
from policyopt._bounds import P_VALUES, crc, default_of, rows_that_do
from policyopt._certificates.certify import TESTING, certify, recheck
from policyopt._certificates.risks import KINDS, Risk, losses_of, taken
from policyopt._cli.watch import _promise
from policyopt._table import Tables
from policyopt._testing import fallback, holm
from policyopt.runtime._bandits import make_bandit
from policyopt.runtime._certificate import _TYPES, certificate_of, says
from policyopt.runtime._errors import BudgetError, CheckError, InputError
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._online import Controller, Online, SplitEE
from policyopt.runtime._risk_monitor import RiskMonitor

ENDS = {"low": -1.0, "high": 1.0}


@pytest.mark.parametrize("delta", [0.05, 0.1, 0.3])
@pytest.mark.parametrize("name", ["ternary", "betting", "hoeffding_bentkus"])
def test_the_level_of_signed_losses_by_enumeration(name, delta):
    """Of all 3^7 draws, at the border of the claim, those with p <= delta have chance delta at most."""
    n, most = 7, 0.2
    draws = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=n)))
    p = P_VALUES[name](draws, most, delta=delta, **ENDS)
    ones, minus = (draws == 1).sum(axis=1), (draws == -1).sum(axis=1)
    for share in np.linspace(most, 1.0, 41):  # of what is not 0
        up, down = (share + most) / 2, (share - most) / 2
        chance = up**ones * down**minus * (1 - share) ** (n - ones - minus)
        assert chance.sum() == pytest.approx(1)
        assert chance[p <= delta].sum() <= delta * (1 + 1e-9)


@pytest.mark.parametrize("name", ["binomial", "betting", "hoeffding_bentkus"])
def test_the_level_of_losses_zero_or_one_by_enumeration(name):
    n, most, delta = 12, 0.3, 0.1
    draws = np.array(list(itertools.product((0.0, 1.0), repeat=n)))
    p, ones = P_VALUES[name](draws, most, low=0.0, high=1.0, delta=delta), draws.sum(axis=1)
    assert (most**ones * (1 - most) ** (n - ones))[p <= delta].sum() <= delta
    if name == "binomial":
        assert p == pytest.approx(stats.binom.cdf(ones, n, most))


def test_the_ternary_p_value_is_that_of_the_walk():
    """P(S <= s) of a sum of n ternary draws, by convolution, at the worst share, plus what is missed."""
    n, most, plus, minus = 60, 0.05, 2, 3
    losses = np.array([[1.0] * plus + [-1.0] * minus + [0.0] * (n - plus - minus)])
    (found,) = P_VALUES["ternary"](losses, most, delta=0.1)
    worst = 0.0
    for share in np.linspace(
        0.05, stats.beta.ppf(1 - 0.0025, plus + minus + 1, n - plus - minus), 400
    ):
        step = np.array([(share - most) / 2, 1 - share, (share + most) / 2])
        law = np.array([1.0])
        for _ in range(n):
            law = np.convolve(law, step)
        worst = max(worst, law[: n + plus - minus + 1].sum())
    assert found == pytest.approx(worst + 0.005, rel=0.01)
    assert found < P_VALUES["hoeffding_bentkus"](losses, most, **ENDS)[0]


def test_the_share_of_what_is_allowed_that_is_used():
    """Risks that rise from 0 to 0.2 over 201 levels, 5 % allowed at 90 %: published shares of a fixed sequence."""
    rng, risk = np.random.default_rng(0), np.linspace(0, 0.2, 201)
    for n, binomial, betting in ((300, 0.64, 0.53), (1000, 0.79, 0.72)):
        used = {"binomial": [], "betting": []}
        for _ in range(100):
            losses = (rng.random(n) < risk[:80, None]).astype(float)
            for name, found in used.items():
                p = P_VALUES[name](losses, 0.05, low=0.0, high=1.0, delta=0.1)
                found.append(risk[max(fallback(p, 0.1).sum() - 1, 0)] / 0.05)
        assert np.mean(used["binomial"]) > binomial - 0.03 and np.mean(used["betting"]) > betting


@given(st.lists(st.floats(0, 0.3), min_size=1, max_size=12), st.integers(1, 4))
def test_fallback_and_holm_by_hand(p, starts):
    p, delta = np.array(p), 0.1
    over = np.flatnonzero(p > delta)
    first = over[0] if len(over) else len(p)
    assert fallback(p, delta).tolist() == [j < first for j in range(len(p))]
    at = sorted({int(v) for v in np.linspace(0, len(p), starts, endpoint=False)})
    shown = fallback(p, delta, at)
    for j in range(len(p)):  # what is spent: the shares of starts since the last that failed
        last = max((i for i in range(j) if not shown[i]), default=-1)
        left = sum(last < s <= j for s in at) * delta / len(at)
        assert shown[j] == (left > 0 and p[j] <= left * (1 + 1e-12))
    ordered = np.sort(p)
    count = next((i for i, v in enumerate(ordered) if v > delta / (len(p) - i)), len(p))
    assert (holm(p) <= delta).sum() == count


def test_the_exact_test_of_the_answered():
    """By enumeration of right, wrong and unanswered rows: the level holds, and is more than half used."""
    n, most, worst = 8, 0.3, 0.0
    each = np.array(list(itertools.product([0.0, -most, 1 - most], repeat=n)))
    p = P_VALUES["selective"](each, 0.0, low=-most)
    wrong, answered = (each > 0).sum(axis=1), (each != 0).sum(axis=1)
    assert p == pytest.approx(stats.binom.cdf(wrong, answered, most))
    for share in (0.5, 0.9, 1.0):
        chance = (
            share**answered
            * (1 - share) ** (n - answered)
            * most**wrong
            * (1 - most) ** (answered - wrong)
        )
        assert chance[p <= 0.1].sum() <= 0.1 + 1e-12
        worst = max(worst, chance[p <= 0.1].sum())
    assert worst > 0.05
    assert (
        default_of("ternary", 500, 0.005, 0.1) == "betting"
        and default_of("ternary", 2000, 0.005, 0.1) == "ternary"
    )


def test_rows_that_do_are_the_least_that_do():
    losses = np.repeat([1.0, 0.0], [6, 194])
    n = rows_that_do("binary", None, losses, 0.05, 0.05, 0.0, 1.0)
    exact = next(n for n in range(200, 2000) if stats.binom.cdf(round(0.03 * n), n, 0.05) <= 0.05)
    assert abs(n - exact) <= 0.15 * exact
    assert rows_that_do("binary", None, losses, 0.03, 0.05, 0.0, 1.0) is None


def people(rows, seed=5):
    """A family fitted on other rows, the losses of its levels on many, and what they cost."""
    data = cache(4000, 4, 6, seed=2, split={"fit": 0.5, "calibrate": 0.5})
    family = po.fit_family(data, 12, "max_prob", spend="all").policy.policies
    logits, labels = outputs(rows, 4, 6, seed)
    everyone = po.from_arrays(logits, labels, [1.0, 2.0, 4.0, 8.0], unit="ms", split={"test": 1.0})
    table = Tables(everyone).get("test")
    (losses,) = losses_of(Risk.parse("drop<=1%"), [taken(one, table) for one in family], table)
    return losses.values, np.array([one.provenance["expected_cost"] for one in family])


def test_violations_stay_within_the_level_and_those_of_the_plain_choice_do_not():
    """200 draws of 500 rows: the true risk of what is certified, and of the cheapest that looks good enough."""
    losses, costs = people(20_000)
    truth, order, rng = losses.mean(axis=1), np.argsort(-costs), np.random.default_rng(0)
    most, delta, draws = float(np.sort(truth)[5]) - 1e-4, 0.1, 200
    assert (truth > most).sum() >= 4
    wrong = {"ternary": 0, "betting": 0, "looks": 0}
    shown_any = 0
    for _ in range(draws):
        drawn = losses[:, rng.integers(0, losses.shape[1], 500)]
        for name in ("ternary", "betting"):
            p = P_VALUES[name](drawn, most, delta=delta, **ENDS)
            shown = order[fallback(p[order], delta)]
            shown_any += len(shown) > 0
            wrong[name] += len(shown) > 0 and truth[shown[np.argmin(costs[shown])]] > most
        good = np.flatnonzero(drawn.mean(axis=1) <= most)
        wrong["looks"] += len(good) > 0 and truth[good[np.argmin(costs[good])]] > most
    border = delta + 3 * (delta * (1 - delta) / draws) ** 0.5
    assert wrong["ternary"] / draws <= border and wrong["betting"] / draws <= border
    assert wrong["looks"] / draws > 2 * border and shown_any > draws


def test_groups_are_the_unit():
    """Ten equal rows per group: a test of rows believes too much, that of groups does not."""
    rng, most, delta, draws = np.random.default_rng(1), 0.1, 0.1, 300
    rows = groups = 0
    for _ in range(draws):
        each = (rng.random((1, 60)) < most).astype(float)
        rows += P_VALUES["binomial"](np.repeat(each, 10, axis=1), most)[0] <= delta
        groups += P_VALUES["betting"](each, most, high=1.0, delta=delta)[0] <= delta
    assert groups / draws <= delta + 0.052 < rows / draws


def test_a_certificate_is_of_this_policy_and_this_cache(tmp_path):
    data = cache(6000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    found = certify(data, ["drop<=3%", "disagreement<=20%"], "90%", method="max_prob", budget="90%")
    stated = certificate_of(found.policy)
    assert stated == found.certificate and stated["p_value"] <= 0.1 and stated["n"] == 2400
    assert stated["claim"] == "drop<=3% and disagreement<=20% and cost<=90%"
    shown = [one for one in found.records if one["certified"]]
    assert min(one["cost"] for one in shown) == found.policy.provenance["expected_cost"]
    found.save(tmp_path / "p.json")
    again = po.load_policy(tmp_path / "p.json")
    assert recheck(again, data)["p_value"] == pytest.approx(stated["p_value"])
    edited = replace(again, thresholds=again.thresholds - 0.01)
    assert certificate_of(edited) is None
    with pytest.raises(CheckError, match="changed since"):
        recheck(edited, data)
    with pytest.raises(CheckError, match="without"):
        recheck(po.fit(data, "50%", "max_prob"), data)
    with pytest.raises(CheckError, match="is of cache"):
        recheck(again, cache(3000, seed=9, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2}))
    for wrong in (
        {"confidence": "95 %"},
        {"cache": 3},
        {"p_value": -1.0},
        {"claim": None},
        {"n": "x"},
        {"more": 1},
    ):
        forged = {**again.provenance, "certificate": {**stated, **wrong}}
        assert certificate_of(replace(again, provenance=forged)) is None
    forged = {**again.provenance, "certificate": {**stated, "given": "sure"}}
    with pytest.raises(InputError, match="procedure of the certificate"):
        recheck(replace(again, provenance=forged), data)
    worse = {**stated, "p_value": 1e-9}
    with pytest.raises(CheckError, match="must hold on its rows"):
        recheck(replace(again, provenance={**again.provenance, "certificate": worse}), data)
    given = certify(data, "drop<=3%", 0.9, method=again)  # one policy alone
    assert given.certificate["n"] == 2400 and len(given.records) == 1
    assert any("another chance to be wrong" in note for note in given.notes) and not found.notes


def test_risks_by_brute_force_per_class_context_and_group():
    rng = np.random.default_rng(0)
    logits, labels = outputs(3000, 3, 4, seed=4)
    data = po.from_arrays(
        logits, labels, [1.0, 2.0, 4.0], unit="ms", context=rng.integers(0, 2, 3000),
        group=rng.integers(0, 400, 3000), split={"fit": 0.5, "calibrate": 0.5},
    )  # fmt: skip
    policy = po.fit(data, "50%", "max_prob").policy
    table = Tables(data).get("calibrate")
    seen, group = taken(policy, table), table.group
    last = table.statistics.prediction[:, -1]
    label = table.statistics.labels
    wrong = (seen.prediction != label).astype(float)
    full = (last != label).astype(float)
    want = {
        "error<=9%": wrong, "drop<=9%": wrong - full, "harm<=9%": np.maximum(wrong - full, 0),
        "disagreement<=9%": (seen.prediction != last).astype(float), "cost<=50%": seen.cost,
        "loss<=9%": wrong,
    }  # fmt: skip
    for text, each in want.items():
        (found,) = losses_of(Risk.parse(text), [seen], table)
        means = [each[group == g].mean() for g in np.unique(group)]
        assert found.values[0] == pytest.approx(means) and found.unit == "groups"
    assert losses_of(Risk.parse("cost<=50%"), [seen], table)[0].most == pytest.approx(2.0)
    each = losses_of(Risk.parse("error<=9% per class"), [seen], table)
    assert [one.cell for one in each] == [f"class {c}" for c in range(4)]
    mine = label == 2
    means = [wrong[mine & (group == g)].mean() for g in np.unique(group[mine])]
    assert each[2].values[0] == pytest.approx(means)
    assert losses_of(Risk.parse("miss[2]<=9%"), [seen], table)[0].values[0] == pytest.approx(means)
    assert len(losses_of(Risk.parse("drop<=9% per context"), [seen], table)) == 2


def test_scores_of_probabilities_and_losses_of_ones_own():
    logits, labels = outputs(2000, 3, 4, seed=4)
    data = po.from_arrays(
        logits, labels, [1.0, 2.0, 4.0], unit="ms", split={"fit": 0.5, "calibrate": 0.5}
    )
    policy, table = po.fit(data, "50%", "max_prob").policy, Tables(data).get("calibrate")
    seen = taken(policy, table)
    prob = np.exp(logits[seen.rows].astype(float))
    prob /= prob.sum(axis=2, keepdims=True)
    truth, at = np.eye(4)[seen.labels], np.arange(len(seen.exit))
    for text, score in (
        ("brier_gap<=5%", lambda p: ((p - truth) ** 2).sum(axis=1)),
        ("log_loss_gap<=5%", lambda p: np.minimum(-np.log(p[at, seen.labels]), 7.0)),
    ):
        (found,) = losses_of(Risk.parse(text), [seen], table)
        assert found.values[0] == pytest.approx(
            score(prob[at, seen.exit]) - score(prob[:, -1]), abs=1e-5
        )
        assert found.kind == "bounded"
    name = "late_and_dear"

    @po.register_risk(name, high=4.0, labels=False)
    def late(one):
        """Cost beyond 2."""
        return np.maximum(one.cost - 2.0, 0.0)

    try:
        found = certify(data, f"{name}<=1.9", 0.9, method=policy)
        assert found.certificate["procedure"] == "betting"
        assert found.certificate["risks"] == {f"{name}<=190%": pytest.approx(late(seen).mean())}
        assert recheck(found.policy, data)["p_value"] <= 0.1
        assert (
            po.register_risk(name, high=4.0, labels=False)(late) is late
        )  # a cell that is run again
        for used in (name, "error"):
            with pytest.raises(InputError, match="name of a risk"):
                po.register_risk(used)(lambda one: one.cost)
        KINDS[name] = replace(KINDS[name], loss=lambda one: one.cost + 9)
        with pytest.raises(InputError, match="losses of risk late"):
            certify(data, f"{name}<=10%", 0.9, method=policy)
    finally:
        KINDS.pop(name)


def test_a_family_of_levels_that_hold_together(tmp_path):
    data = cache(6000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    found = certify(data, "drop<=4%", 0.9, method="max_prob")
    assert len(found.family) == sum(one["certified"] for one in found.records) > 3
    found.family.save(tmp_path / "f.json")
    family = po.load_family(tmp_path / "f.json")
    for level in (0, len(family) - 1):
        assert recheck(family.at(level), data)["p_value"] <= 0.1
    assert certificate_of(family.at(0)) == found.certificate


def test_nobody_who_adapts_goes_under_certified_levels(tmp_path, monkeypatch):
    data = cache(6000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    shown = certify(data, ["drop<=4%", "cost<=95%"], 0.9, method="max_prob").family
    cheap = replace(shown.at(0), thresholds=shown.at(0).thresholds - 0.3)  # what it voids
    costs = np.array([1.0, *shown.expected_costs])
    mixed = PolicyFamily(
        (cheap, *shown.policies), costs, names=("cheap", *"bcdefghijklm"[: len(shown)])
    )
    family = mixed.certified("drop <= 4.5%", 0.9)
    assert family.policies == shown.policies and family.names[0] == "b"
    assert shown.certified("cost<=95%", 0.9) is shown and not mixed.all_certified
    for claim, level, by, told in (
        ("drop<=1%", 0.9, False, "Got drop<=1%, of levels with drop<=4% and cost<=95% at 90 %"),
        ("drop<=4%", 0.95, False, "at 95 %"), ("harm<=4%", 0.9, False, "harm"), ("cost<=0.95", 0.9, False, "cost"),
        ("drop<=4% per class", 0.9, False, "per class"), ("drop<=4%", 0.9, True, "chosen by the request"),
        ("drop", 0.9, False, "RISK<=NUMBER"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=told):
            mixed.certified(claim, level, by_request=by)
    test = data.rows("test")
    rows = data.splits[test[0]].array("outputs")[test[1]][:300]

    def serve(online, rows, full=False):
        for row in rows:
            request = online.start(full)
            for k in family.active_exits:
                if online.decide(k, row[k], request).exit:
                    break
            online.feedback(request)
            yield request

    bandits = map(make_bandit, ("ucb1", "exp3"))
    for i, steering in enumerate((Controller(0.0, 0.5), Controller(1.0, 0.5), *bandits)):
        online = Online(family, steering)
        served = list(serve(online, rows[:150]))
        online.save(tmp_path / f"{i}.json")
        again = Online.load(tmp_path / f"{i}.json")
        served += serve(again, rows[150:])
        played = {id(r.policy) for r in served}
        assert played <= {id(p) for one in (family, again.family) for p in one.policies}
        assert again.family.certified("drop<=4%", 0.9) is again.family
        if isinstance(steering, Controller):  # its budget is out of reach: it stays at the end
            assert {r.arm for r in served[100:]} == {(len(family) - 1) * int(steering.budget)}
        learned = again.state()["player"]  # a monitor has alarmed: all exits, nothing is learned
        assert {r.exit for r in serve(again, rows[:20], full=True)} == {family.exits - 1}
        assert again.state()["player"] == learned
    assert len(Online(mixed, Controller(0.0)).family) > len(mixed)
    asked = {"budget": "80%", "rounds": 300, "repetitions": 2}
    found = po.simulate(data, ["ucb1", "controller", "fixed"], arms=family, **asked)
    assert [found.metrics[name].shares().shape[1] for name in found.metrics] == [
        len(family)
    ] * 2 + [1]
    with pytest.raises(InputError, match=r"certified levels alone\. Got splitee"):
        Online(family.policies[0], SplitEE([0.1, 0.2, 0.3, 0.4], 0.5))
    with pytest.raises(InputError, match=r"certified levels alone\. Got linucb"):
        po.simulate(data, "linucb", arms=family, rounds=30)
    other = certify(data, "drop<=4%", 0.9, method=mixed.at(len(mixed) - 1)).policy
    several = PolicyFamily((*family.policies[:-1], other))
    with pytest.raises(InputError, match="of one test: these hold together"):
        several.certified("drop<=4%", 0.9)
    bare = PolicyFamily(family.policies)
    with pytest.raises(InputError, match="that tells its costs"):
        po.simulate(data, "controller", arms=bare, budget="70%", rounds=30)
    monkeypatch.setitem(_TYPES, "covers", str)
    each = [
        replace(p, provenance={"certificate": {**p.provenance["certificate"], "covers": covers}})
        for p, covers in zip(family.policies, ["request", "blind", *["request"] * 99], strict=False)
    ]
    kept = PolicyFamily(tuple(each)).certified("drop<=4%", 0.9, by_request=True)
    assert len(kept) == len(family) - 1


def test_routing_is_certified_as_it_is_served(tmp_path, run):
    """Policy and family, blind and by request, with its exploration; void once anything that decides is changed."""
    data = zoo(3000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    asked = {"risk": ["drop<=4%", "cost<=70%"], "confidence": 0.9}
    found = certify(data, **asked, method="routing", budgets=6, explore=0.05)
    found.family.save(tmp_path / "f.json")
    family = po.load_family(tmp_path / "f.json")
    assert family.certified("drop<=4%", 0.9) is family and family.at(0).explore == 0.05
    assert Online(family, Controller(0.3)).family is family
    for one in (family, family.at(0)):
        assert recheck(one, data)["p_value"] <= 0.1
    policy, table = family.at(0), Tables(data).get("calibrate")
    seen, served = taken(policy, table), po.evaluate(policy, data, "calibrate")
    np.testing.assert_array_equal(seen.cost, served.cost)
    np.testing.assert_array_equal(seen.quality, served.quality)
    assert (
        seen.costs == (1.0, 15.0)
        and seen.cost.mean() > taken(policy.exploring(0.0), table).cost.mean()
    )
    stated = found.records[
        [one["level"] for one in found.records].index(found.certificate["level"])
    ]
    loss = table.quality[:, -1] - served.quality
    assert stated["risks"] == pytest.approx(
        {"drop<=4%": loss.mean(), "cost<=70%": served.cost.mean()}
    )
    ensemble = replace(policy.ensemble, temper=policy.ensemble.temper * 1.01)
    for other in (
        {"share": 0.5}, {"seed": 3}, {"explore": 0.1}, {"arms": policy.arms[:1]}, {"ensemble": ensemble},
        {"provenance": {**policy.provenance, "confidences": False}},
    ):  # fmt: skip
        assert certificate_of(replace(policy, **other)) is None
    with pytest.raises(CheckError, match="changed since"):
        recheck(policy.exploring(0.0), data)
    both = certify(data, "harm<=9%", 0.9, method=family, covers="request", split="test").family
    assert certificate_of(both)["covers"] == "request" and recheck(both, data)["p_value"] <= 0.1
    with pytest.raises(InputError, match="of plain answers"):
        certify(data, "brier_gap<=5%", method=family)
    policy.save(tmp_path / "p.json")
    out = tmp_path / "out"
    assert run("export", tmp_path / "p.json", "--to", "python", "--out", out)[0] == 0
    assert "Certified with 90 % confidence: drop<=4%" in " ".join(
        (out / "policy.py").read_text().split()
    )


def test_false_certificates_of_routing_are_as_rare_as_they_say():
    """150 draws of 300 rows: the true risk of what is certified, and of the cheapest that looks good enough."""
    levels = po.fit_family(zoo(800), "1.5,2.5,3.5,5,7", "routing").policy
    world = zoo(20_000, seed=1).splits["pool"]
    logits, labels = (world.array(name) for name in ("outputs", "labels"))
    paid = {"costs": 2.0 ** np.arange(4), "unit": "ms", "cost_kind": "standalone"}
    of = lambda rows: po.from_arrays(  # noqa: E731
        splits={"calibrate": {"outputs": logits[rows], "labels": labels[rows]}}, **paid
    )
    table = Tables(of(np.arange(20_000))).get("calibrate")
    truth = np.array(
        [(table.quality[:, -1] - taken(p, table).quality).mean() for p in levels.policies]
    )
    most, rng, wrong, looks, shown = float(truth[2] - 1e-4), np.random.default_rng(0), 0, 0, 0
    assert truth[3] < most < truth[2]
    for _ in range(150):
        drawn = of(rng.integers(0, 20_000, 300))
        seen = [taken(p, Tables(drawn).get("calibrate")) for p in levels.policies]
        good = [a for a, one in enumerate(seen) if (one.full_quality - one.quality).mean() <= most]
        looks += bool(good) and truth[good[0]] > most
        try:
            found = certify(drawn, Risk("drop", most), 0.9, method=levels)
        except BudgetError:
            continue
        shown, wrong = shown + 1, wrong + (truth[found.certificate["level"]] > most)
    assert wrong / 150 <= 0.1 + 3 * (0.09 / 150) ** 0.5 < looks / 150 and shown > 20


def test_a_pool_gives_half_of_its_test_rows_and_the_fit_keeps_its_own():
    data = cache(4000, split={"fit": 0.5, "test": 0.5})
    found = certify(data, "drop<=4%", 0.9, method="max_prob")
    assert found.certificate["n"] == 1000 and "half of the pool's test rows" in found.notes[0]
    assert recheck(found.policy, data)["p_value"] <= 0.1


def test_what_is_refused():
    data = cache(2000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    own = po.fit(data, "50%", "max_prob", split="calibrate")
    for argument, call in {
        "split": lambda: certify(data, "drop<=3%", method=own),
        "risk": lambda: certify(data, "drop=3%"),
        "risk drop": lambda: certify(data, "drop<=0%"),
        "confidence": lambda: certify(data, "drop<=3%", 1.0),
        "procedure": lambda: certify(data, "drop<=3%", procedure="z"),
    }.items():
        refuses(argument, call)
    for text in (
        "nothing<=3%",
        "miss<=3%",
        "drop[1]<=3%",
        "harm<=200%",
        "drop<=x",
        "drop<=3% per row",
        "",
    ):
        with pytest.raises(InputError, match="risk"):
            Risk.parse(text)
    with pytest.raises(InputError, match="losses that are 0, 1 for binomial"):
        certify(data, "drop<=3%", method="max_prob", procedure="binomial")
    with pytest.raises(InputError, match="20 or more"):
        certify(
            cache(60, split={"fit": 0.5, "calibrate": 0.2, "test": 0.3}),
            "drop<=3%",
            method="max_prob",
        )
    with pytest.raises(InputError, match="occurs, 0 to 5"):
        certify(data, "miss[9]<=3%", method="max_prob")
    with pytest.raises(BudgetError, match=r"about [\d,]+ rows like these 800 would show it"):
        certify(data, "drop<=0.5%", method="max_prob")
    with pytest.raises(BudgetError, match=r"is at .* % \(claimed: 1 %\): allow more risk"):
        certify(data, "error<=1%", method="max_prob")


def test_exact_binomials_need_no_library():
    n, k, most = 30, 4, 0.2
    by_hand = sum(comb(n, i) * most**i * (1 - most) ** (n - i) for i in range(k + 1))
    losses = np.repeat([[1.0, 0.0]], [1], axis=0).repeat([k, n - k], axis=1)
    assert P_VALUES["binomial"](losses, most)[0] == pytest.approx(by_hand)


def test_certify_verify_info_and_watch_on_the_command_line(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")
    logits, labels = outputs(4000, 3, 4, seed=1)
    np.savez("l.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4])
    assert (
        run(
            "import",
            "l.npz",
            "--unit",
            "ms",
            "--out",
            "c",
            "--split",
            "fit=0.4,calibrate=0.4,test=0.2",
        )[0]
        == 0
    )
    asked = ("certify", "c", "--risk", "drop<=4%", "--method", "max_prob", "--confidence", "90%")
    code, out, err = run(*asked, "--out", "p.json", "--format", "json")
    assert code == 0, err
    said = json.loads(out)
    assert said["certificate"]["p_value"] <= 0.1 and any(one["certified"] for one in said["levels"])
    assert run("verify", "p.json", "c")[1].startswith("holds: with 90 % confidence: drop<=4%")
    assert "with 90 % confidence" in run("info", "p.json")[1]
    edited = po.load_policy("p.json")
    replace(edited, thresholds=edited.thresholds * 0.5).save("e.json")
    assert "void" in run("info", "e.json")[1] and run("verify", "e.json", "c")[0] == 4
    code, _, err = run(*asked[:3], "drop<=0.01%", *asked[4:], "--out", "n.json")
    assert code == 3 and "would show it" in err and not (tmp_path / "n.json").exists()
    code, out, err = run(
        "fit",
        "c",
        "--risk",
        "drop<=4%",
        "--method",
        "max_prob",
        "--out",
        "f.json",
        "--format",
        "json",
    )
    assert code == 0 and json.loads(out)["certificate"]["confidence"] == 0.95
    assert run("fit", "c", "--risk", "drop<=4%", "--max-drop", "1%")[0] == 2
    assert run(*asked, "--family", "--out", "f.json")[0] == 0 and len(po.load_family("f.json")) > 1
    play = ("simulate", "c", "--certified", "drop<=4%", "--rounds", "200", "--repetitions", "2")
    code, out, err = run(
        *play,
        "--arms",
        "f.json",
        "--confidence",
        "90%",
        "--policy",
        "ucb1,controller",
        "--budget",
        "80%",
    )
    assert code == 0, err
    assert run(*play, "--arms", "f.json")[0] == 2  # at 95 %
    assert "a family file as --arms" in run(*play)[2]
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 2000)
    full = np.where(rng.random(2000) < 0.95, label, 3)
    worse = np.where(rng.random(2000) < 0.9, full, 3)
    for name, answer in (("good", full), ("bad", worse)):
        lines = [
            f"{a},{float(b) if i % 3 else ('' if i % 2 else 'nan')},{c}"
            for i, (a, b, c) in enumerate(zip(answer, label, full, strict=True))
        ]
        (tmp_path / f"{name}.csv").write_text(
            "\n".join(["prediction,label,full_prediction", *lines])
        )
    first = run("watch", "good.csv", "--policy", "p.json", "--state", "m.json", "--format", "json")
    assert first[0] == 0 and json.loads(first[1])[0]["losses"] == 2000 - 667
    code, out, err = run(
        "watch", "bad.csv", "--policy", "p.json", "--state", "m.json", "--format", "json"
    )
    assert code == 4 and json.loads(out)[0]["losses"] == 2 * (2000 - 667) and "broken" in err
    assert (
        "most of m.json" in run("watch", "good.csv", "--risk", "drop<=5%", "--state", "m.json")[2]
    )
    (tmp_path / "x.jsonl").write_text(
        '{"loss": 0.5, "probability": 0.1}\n{"loss": null, "probability": 0.1}\n'
    )
    code, out, _ = run(
        "watch", "x.jsonl", "--risk", "loss<=60%", "--least", "0.1", "--format", "json"
    )
    assert code == 0 and json.loads(out)[0]["losses"] == 1
    for wrong, words in (
        ("{", "JSON"),
        ("[1]", "no object"),
        ('{"loss": "a"}', "a number"),
        ('{"x": 1}', "no loss"),
    ):
        (tmp_path / "w.jsonl").write_text(wrong)
        code, _, err = run("watch", "w.jsonl", "--risk", "loss<=6%", "--state", "w.json")
        assert code == 2 and words in err


def test_what_a_refusal_shows_and_what_a_watch_takes_from_a_certificate(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logits, labels = outputs(4000, 3, 4, seed=1)
    paid = np.cumsum(np.random.default_rng(3).uniform(0.5, 1.5, (4000, 3)), axis=1)
    with po.CacheWriter("c", costs=[po.Cost("c", "USD", None)]) as writer:
        for name, at in (("fit", slice(2000)), ("calibrate", slice(2000, None))):
            writer.append(name, logits[at], labels[at], sample_costs={"c": paid[at]})
    asked = ("certify", "c", "--method", "max_prob")
    # Levels are shown, and the claim that fails is named, in its own terms.
    code, out, err = run(*asked, "--risk", "selective_error<=2%", "--risk", "drop<=5%")
    assert code == 3 and "levels in the order" in out
    right = logits[2000:, -1].argmax(axis=1) == labels[2000:]
    wrong = float(re.search(r"selective_error<=2% is at ([\d.]+) %", err)[1])
    assert wrong == pytest.approx(100 * (1 - right.mean()), abs=1.5) and "drop<=5% is" not in err
    # What no request can cost more than is the certificate's, not the mean; the other claim is told.
    more = ("--cost-bound", "5", "--out", "p.json")
    assert run(*asked, "--risk", "cost<=2.85", "--risk", "drop<=6%", *more)[0] == 0
    (tmp_path / "x.csv").write_text("cost\n4.9\n1.1")
    code, out, err = run("watch", "x.csv", "--policy", "p.json", "--state", "a.json")
    assert code == 0 and "drop<=6%: by --risk" in err
    for risk in ("drop<=6%", "drop<=0.1%"):  # told where it is shown, and where it is not
        again = run(*asked[:2], "--policy", "p.json", "--risk", risk, "--out", "q.json")
        assert "these rows have certified" in again[2] and again[0] == 3 * (risk == "drop<=0.1%")
    # A family's promise; a loss of one's own.
    assert run(*asked, "--risk", "drop<=6%", "--family", "--out", "f.json")[0] == 0
    (tmp_path / "l.csv").write_text("loss\n0\n1")
    assert run("watch", "l.csv", "--policy", "f.json", "--state", "b.json")[0] == 0
    code, _, err = run("watch", "x.csv", "--risk", "log_loss_gap<=5%", "--state", "d.json")
    assert code == 2 and "no loss" in err
    assert "(missing)" in run("watch", "no.csv", "--risk", "error<=5%")[2]
    # Of groups: rows one by one are no draws.
    grouped = po.load_policy("p.json")
    own = {**grouped.provenance["certificate"], "unit": "groups"}
    replace(grouped, provenance={**grouped.provenance, "certificate": own}).save("g.json")
    assert (
        "in a column group" in run("watch", "l.csv", "--policy", "g.json", "--state", "e.json")[2]
    )
    (tmp_path / "gr.csv").write_text("loss,group\n1,b\n0,a\n0.5,b\n,a\n,c\n")
    code, out, _ = run(
        "watch", "gr.csv", "--risk", "loss<=60%", "--state", "gr.json", "--format", "json"
    )
    assert code == 0 and json.loads(out)[0]["losses"] == 2
    whole = RiskMonitor(0.6)
    whole.update([0.75, 0.0])
    assert json.loads(out)[0]["e_value"] == pytest.approx(whole.e_value)
    for text, words in (("error<=8", "write error<=8%"), ("accuracy>=95%", "error<=5%")):
        with pytest.raises(InputError, match=words):
            Risk.parse(text)


def test_levels_chosen_by_the_request_and_conformal_risk_control():
    """Whoever picks each row's worst level keeps a claim that covers that, and breaks one that does not."""
    data = cache(8000, 4, 6, seed=2, split={"fit": 0.3, "calibrate": 0.3, "test": 0.4})
    base = po.fit(data, "80%", "max_prob").policy
    family = po.PolicyFamily(tuple(
        replace(base, thresholds=np.array(t), provenance={**base.provenance, "expected_cost": cost})
        for t, cost in (([1.1, 1.1, 0.6], 6.5), ([0.7, 1.1, 1.1], 7.5))
    ))  # fmt: skip
    asked = {"risk": "harm<=2.2%", "confidence": 0.9, "method": family}
    blind, any_level = certify(data, **asked), certify(data, **asked, covers="request")
    table = Tables(data).get("test")

    def worst(found):
        seen = [taken(one, table) for one in found.family.policies]
        return losses_of(Risk.parse("harm<=9%"), seen, table)[0].values.max(axis=0).mean()

    assert worst(any_level) <= 0.022 < worst(blind)
    assert (len(any_level.family), len(blind.family)) == (1, 2)
    both = certify(data, "harm<=3.5%", 0.9, method=family, covers="request")
    assert len(both.family) == 2 and worst(both) <= 0.035
    assert recheck(both.family, data)["p_value"] <= 0.1
    stated = certificate_of(any_level.family)
    assert stated["covers"] == "request" and recheck(any_level.family, data)["p_value"] <= 0.1
    assert recheck(any_level.policy, data)["p_value"] <= 0.1
    more = po.PolicyFamily(blind.family.policies, provenance=any_level.family.provenance)
    assert certificate_of(more) is None
    family = po.fit_family(data, 12, "max_prob", spend="all").policy
    asked |= {"method": family, "risk": "harm<=6%"}
    given = certify(data, **asked, procedure="crc")
    assert given.certificate["confidence"] is None and given.certificate["sense"] == "expectation"
    mine = losses_of(Risk.parse("harm<=6%"), [taken(given.policy, Tables(data).get("calibrate"))],
                     Tables(data).get("calibrate"))[0].values  # fmt: skip
    assert (mine.sum() + 1) / (mine.shape[1] + 1) <= 0.06
    assert (
        given.policy.provenance["expected_cost"]
        <= certify(data, **asked).policy.provenance["expected_cost"]
    )
    assert recheck(given.policy, data)["p_value"] <= 1
    # Draws of 200 rows of nested losses 1[u < risk]: the mean risk of what is taken is what is allowed, about.
    rng, risk = np.random.default_rng(0), np.linspace(0, 0.2, 201)
    taken_risks = []
    for _ in range(400):
        losses = (rng.random(200) < risk[:, None]).astype(float)
        shown = fallback(crc(losses, 0.05, high=1.0), 1.0)
        taken_risks.append(risk[shown.sum() - 1] if shown.any() else 0.0)
    assert 0.042 < np.mean(taken_risks) <= 0.05 + 3 * np.std(taken_risks) / 20


def test_orders_of_the_levels():
    data = cache(6000, 4, 6, seed=2, split={"fit": 0.3, "calibrate": 0.3, "test": 0.4})
    family = po.fit_family(data, 12, "max_prob", spend="all").policy
    costs = {}
    for testing in TESTING:
        found = certify(data, "drop<=2%", 0.9, method=family, testing=testing)
        tried = [one["cost"] for one in found.records]
        assert tried == sorted(tried, reverse=True)  # each cheaper than all before it
        assert found.certificate["testing"].startswith(testing)
        costs[testing] = found.policy.provenance["expected_cost"]
        assert costs[testing] == min(one["cost"] for one in found.records if one["certified"])
    assert costs["pareto"] <= costs["holm"]
    # A level that is worse than its neighbours, and is dearer than a surer one, is passed over.
    bad = replace(family.policies[10], thresholds=family.policies[8].thresholds)
    levels = po.PolicyFamily((*family.policies[:10], bad, *family.policies[11:]))
    tried = {t: [one["level"] for one in certify(data, "drop<=2%", 0.9, method=levels, testing=t).records]
             for t in ("pareto", "sequence")}  # fmt: skip
    assert tried["sequence"][1] == 10 and 10 not in tried["pareto"][:3]


def test_expert_policies_are_certified_as_one():
    logits, labels, context = routed(4000, 0)
    data = po.from_arrays(
        logits, labels, [1.0, 2.0, 4.0, 8.0], unit="ms", context=context, contexts=["a", "b", "c"],
        split={"fit": 0.4, "calibrate": 0.4, "test": 0.2},
    )  # fmt: skip
    fitted = po.fit_experts(data, "60%", "max_prob")
    found = certify(data, "drop<=20% per context", 0.9, method=fitted)
    assert found.family is None and recheck(found.policy, data)["p_value"] <= 0.1
    table = Tables(data).get("calibrate")
    seen, direct = taken(found.policy, table), fitted.policy.decide(
        data.splits["pool"].array("outputs")[data.rows("calibrate")[1]], table.context
    )  # fmt: skip
    assert (seen.exit == direct.exit).all() and (seen.prediction == direct.prediction).all()
    assert seen.cost == pytest.approx(direct.cost)
    one = replace(fitted.policy.policies[0], thresholds=fitted.policy.policies[0].thresholds / 2)
    edited = replace(found.policy, policies=(one, *found.policy.policies[1:]))
    assert certificate_of(edited) is None


def test_exports_carry_the_certificate(tmp_path, run):
    data = cache(4000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    found = certify(data, "drop<=4%", 0.9, method="max_prob")
    found.save(tmp_path / "p.json")
    forged = {**found.certificate, "claim": 'drop<=4% """ */ \n\\'}
    replace(found.policy, provenance={**found.policy.provenance, "certificate": forged}).save(
        tmp_path / "f.json"
    )
    for name, said in (("p", "Certified with 90 % confidence: drop<=4%"), ("f", "drop<=4% ??? ??")):
        out = tmp_path / name
        assert run("export", str(tmp_path / f"{name}.json"), "--out", str(out))[0] == 0
        for file in ("policy.py", "policyopt_policy.h"):
            assert said in " ".join((out / file).read_text().split())
        models = list((out / "onnx").glob("*.onnx"))
        assert not models or said.encode() in models[0].read_bytes()


def test_wrong_uses_end_in_one_clear_message(run, tmp_path, monkeypatch):
    """Each: exit code 2 (3: cannot be shown, 4: does not hold), one line that names what, what came, and what to do."""
    monkeypatch.chdir(tmp_path)
    logits, labels = outputs(3000, 3, 4, seed=1)
    each = logits.swapaxes(0, 1)
    paid = np.cumsum(np.random.default_rng(0).random((3000, 3)), axis=1)
    for name, more in {
        "l": {"labels": labels, "costs": [1.0, 2, 4]}, "u": {"costs": [1.0, 2, 4]},
        "r": {"labels": labels, "costs": paid},
        "g": {"labels": labels, "costs": [1.0, 2, 4], "group": np.arange(3000) // 250},
    }.items():  # fmt: skip
        np.savez(f"{name}.npz", logits=each, **more)
        cut = "fit=0.4,calibrate=0.4,test=0.2"
        assert run("import", f"{name}.npz", "--unit", "ms", "--out", name, "--split", cut)[0] == 0
    again = (
        "import",
        "l.npz",
        "--unit",
        "ms",
        "--out",
        "s",
        "--split",
        "fit=0.4,test=0.6",
        "--seed",
        "3",
    )
    assert run(*again)[0] == 0
    np.savez("few.npz", logits=each[:, :30], labels=labels[:30], costs=[1.0, 2, 4])
    assert (
        run("import", "few.npz", "--unit", "ms", "--out", "few", "--split", "fit=0.5,test=0.5")[0]
        == 0
    )
    how, fast = ("--risk", "drop<=5%"), ("--method", "max_prob", "--budgets", "6")
    assert run("certify", "l", *how, *fast, "--out", "p.json")[0] == 0
    assert run("certify", "l", *how, *fast, "--out", "f.json", "--family")[0] == 0
    assert run("fit", "s", "--budget", "60%", "--method", "max_prob", "--out", "other.json")[0] == 0
    policy = po.load_policy("p.json")
    replace(policy, thresholds=policy.thresholds * 0.9).save("edited.json")
    text = (tmp_path / "p.json").read_text()
    (tmp_path / "forged.json").write_text(text.replace("drop<=5%", "drop<=1%"))
    plain = po.fit(po.open_cache("l"), "60%", "max_prob").policy
    plain.save("plain.json")
    replace(plain, provenance={**plain.provenance, "pool": {"shares": 3}}).save("pool.json")
    uses = {
        ("certify", "l", *how, "--policy", "other.json"): (2, "must be of rows that had no part in the fit"),
        ("certify", "l", *how, "--policy", "pool.json"): (2, "shares by name"),
        ("certify", "l", *how, *fast, "--split", "fit"): (2, "which rows fitted the policy|of which rows fitted"),
        ("certify", "l", *how, *fast, "--split", "night"): (2, "one of fit, calibrate, test"),
        ("certify", "few", *how, *fast): (2, "20 or more"),
        ("certify", "g", *how, *fast): (2, "20 or more"),
        ("certify", "u", *how, *fast): (2, "label"),
        ("certify", "u", "--risk", "error<=5%", "--policy", "plain.json"): (2, "label"),
        ("certify", "l", "--risk", "drop<=0%", *fast): (2, "above 0"),
        ("certify", "l", "--risk", "drop<=nan", *fast): (2, "above 0"),
        ("certify", "l", "--risk", "drop<=5", *fast): (2, "5%"),
        ("certify", "l", "--risk", "drop<5%", *fast): (2, "RISK<=NUMBER"),
        ("certify", "l", "--risk", "dorp<=5%", *fast): (2, "one of error, loss, drop"),
        ("certify", "l", "--risk", "miss<=5%", *fast): (2, r"miss\[CLASS\]"),
        ("certify", "l", "--risk", "miss[7]<=5%", *fast): (2, "that occurs, 0 to 3"),
        ("certify", "l", "--risk", "drop<=5% per context", *fast): (2, "context"),
        ("certify", "r", "--risk", "cost<=60%", *fast): (2, "--cost-bound"),
        ("certify", "r", "--risk", "cost<=60%", *fast, "--cost-bound", "1"): (2, "a row may cost that"),
        ("certify", "l", *how, *fast, "--confidence", "100%"): (2, "below 100 %"),
        ("certify", "l", *how, *fast, "--procedure", "exact"): (2, "one of binomial"),
        ("certify", "l", *how, *fast, "--procedure", "binomial"): (2, "0, 1 for binomial"),
        ("certify", "l", *how, *fast, "--testing", "holm", "--starts", "3"): (2, "pareto or sequence"),
        ("certify", "l", *how, *fast, "--procedure", "crc", "--starts", "3"): (2, "1 with crc"),
        ("certify", "l", *how, *fast, "--covers", "request"): (2, "--family"),
        ("certify", "l", *how, "--method", "max_prob", "--policy", "p.json"): (2, "without --method"),
        ("certify", "l", "--risk", "drop<=0.6%", *fast): (3, "would show it"),
        ("certify", "l", "--risk", "error<=1%", *fast): (3, "allow more risk"),
        ("verify", "p.json"): (2, "must be given with a policy file"),
        ("verify", "p.json", "g"): (4, "is of cache"),
        ("verify", "p.json", "s"): (4, "divided otherwise"),
        ("verify", "plain.json", "l"): (4, "without"),
        ("verify", "edited.json", "l"): (4, "changed since"),
        ("verify", "forged.json", "l"): (2, "checksum|sha256"),
        ("watch", "no.csv", "--policy", "plain.json"): (2, "a certificate that is of it"),
    }  # fmt: skip
    bad = []
    for use, (code, words) in uses.items():
        found, _, err = run(*use, *(("--out", "n.json") if use[0] == "certify" else ()))
        lines = [line for line in err.splitlines() if not line.startswith("note")]
        fits = (found, len(lines)) == (code, 1)
        bad += [] if fits and re.search(words, lines[0]) else [(use, found, err)]
        assert not (tmp_path / "n.json").exists()
    assert not bad
    assert run("verify", "f.json", "l")[0] == 0


def test_the_cost_and_the_utility_are_those_of_the_fit():
    """A policy of another cost than the first, and of a utility, is certified and verified by these."""
    logits, labels = outputs(6000, 3, 4, seed=4)
    data = po.from_arrays(
        logits, labels, [po.Cost("ms", "ms", [1.0, 2, 4]), po.Cost("euro", "euro", [3.0, 4, 5])], split={"fit": 0.4, "calibrate": 0.4, "test": 0.2},
    )  # fmt: skip
    worth = np.eye(4) * 0.5 + 0.5
    fitted = po.fit(data, "90%", "max_prob", cost="euro", utility=worth)
    found = certify(data, ["loss<=25%", "cost<=95%"], 0.9, method=fitted)
    assert found.certificate["full_cost"] == 5.0
    assert found.certificate["risks"]["loss<=25%"] == pytest.approx(
        0.5 * (taken(fitted.policy, Tables(data, "euro").get("calibrate")).quality == 0).mean()
    )
    assert recheck(found.policy, data)["p_value"] <= found.certificate["p_value"] * (1 + 1e-6)
    tables = Tables(replace(data, shares={"fit": 0.4, "test": 0.6}), "euro", utility=worth)
    pooled = certify(tables.data, "loss<=25%", 0.9, method=fitted, tables=tables)
    assert pooled.certificate["full_cost"] == 5.0 and "half of the pool" in pooled.notes[0]
    refuses("spend", certify, data, "loss<=25%", method=fitted, spend="all")


def test_the_order_and_the_rows_of_the_test_know_nothing_of_each_other():
    """Rows that test order no levels; neither they nor rows of their groups fitted, whoever of the experts."""
    family = po.fit_family(cache(2000, 4, 6, seed=9), 8, "max_prob", spend="all").policy
    data = cache(1500, 4, 6, seed=2, split={"fit": 0.8, "test": 0.2})
    worst_first = po.PolicyFamily(tuple(
        replace(one, provenance={"expected_cost": float(8 - j)}) for j, one in enumerate(family.policies)
    ))  # fmt: skip
    found = certify(data, "error<=90%", 0.9, method=worst_first, split="fit[30%:]")
    assert [one["level"] for one in found.records] == list(range(8))
    assert found.certificate["testing"].startswith("sequence")
    logits, labels, context = routed(4000, 0)
    more = {"context": context, "contexts": ["a", "b", "c"]}
    data = po.from_arrays(
        logits, labels, [1.0, 2.0, 4.0, 8.0], unit="ms", split={"fit": 0.5, "test": 0.5}, **more
    )
    experts = po.fit_experts(data, "60%", "max_prob").policy
    first, *others = experts.policies
    mixed = replace(experts, policies=(replace(first, provenance={}), *others))
    with pytest.raises(InputError, match="no part in the fit"):
        certify(data, "drop<=20%", method=mixed, split="fit[50%:]")
    half = np.arange(2000)
    named = {
        name: po.from_arrays(logits[at], labels[at], [1.0, 2.0, 4.0, 8.0], unit="ms", group=half // 2).splits["pool"]
        for name, at in (("one", half), ("two", half + 2000))
    }  # fmt: skip
    data = replace(data, splits=named, shares={}, contexts=())
    policy = po.fit(data, "60%", "max_prob", split="one").policy
    with pytest.raises(InputError, match="others of their groups"):
        certify(data, "drop<=20%", method=policy, split="two")


def test_what_is_claimed_is_what_is_tested(tmp_path):
    """Shares of costs per row, whoever answers instead, losses that lack by level, classes that lack, digits."""
    logits, labels = outputs(4000, 4, 6, 2)
    parts = {"split": {"fit": 0.4, "calibrate": 0.4, "test": 0.2}}
    paid = np.cumsum(np.random.default_rng(0).exponential(size=(4000, 4)), axis=1)
    data = po.from_arrays(logits, labels, paid, unit="ms", **parts)
    table = Tables(data).get("calibrate")
    one = taken(po.fit(data, "50%", "max_prob").policy, table)
    (found,) = losses_of(Risk.parse("cost<=60%"), [one], table, 40.0)
    assert found.values[0] == pytest.approx(one.cost - 0.6 * table.costs[:, -1])
    assert (found.most, found.high) == (0.0, 40.0) and found.means[0] == pytest.approx(
        one.cost.mean()
    )
    with pytest.raises(InputError, match="cost_bound"):
        losses_of(Risk.parse("cost<=60%"), [replace(one, cost=one.cost * 0)], table, 5.0)

    costs = [po.Cost("time", "ms", [1, 2, 4, 8]), po.Cost("other", "ms", [1, 7, 7.5, 8])]
    data, worth = po.from_arrays(logits, labels, costs, **parts), np.eye(6)
    worth[0, 1:] = 0.5
    found = certify(
        data, ["loss<=30%", "cost<=95%"], 0.9, method="max_prob", cost="other", utility=worth
    )
    assert recheck(found.policy, data)["p_value"] == pytest.approx(found.certificate["p_value"])
    declines = po.fit(
        data, "60%", "max_prob", abstain="10%", abstain_quality=0.9, abstain_cost=20.0
    ).policy
    table = Tables(data).get("calibrate")
    one = taken(declines, table)
    assert one.costs[1] >= 28
    declines.save(tmp_path / "d.json")
    assert _promise(tmp_path / "d.json", "cost<=12", None)[1] == pytest.approx(one.costs[1])
    found = certify(data, ["error<=30%", "selective_error<=30%"], 0.9, method=declines).certificate
    assert found["procedure"] == "betting, selective"
    answered = ~one.abstained
    assert found["risks"]["selective_error<=30%"] == pytest.approx(1 - one.quality[answered].mean())
    other = replace(one, quality=np.where(table.places % 2, np.nan, one.quality))
    with pytest.raises(InputError, match="one of each row"):
        losses_of(Risk.parse("error<=30%"), [one, other], table)
    none = table.take(np.flatnonzero(table.statistics.labels != 2))
    with pytest.raises(InputError, match=r"rows of class 2.* 2 or more\. Got 0"):
        losses_of(Risk.parse("error<=30% per class"), [taken(declines, none)], none)
    for text in ("cost<=1234567.25", "drop<=1.23456789%"):
        assert Risk.parse(Risk.parse(text).text) == Risk.parse(text)
    assert says(
        {"claim": "cost<=1e+15", "covers": "blind", "confidence": 0.95, "sense": "confidence"},
        "cost<=1e+15",
        0.9,
    )
    with pytest.raises(InputError, match="that the full model"):
        certify(data, "error<=30%", method=declines, procedure="crc")


@given(st.floats(1e-6, 0.99), st.sampled_from(["drop<={}", "drop<={}%", "cost<={}%", "cost<={}"]))
def test_a_claim_states_to_the_last_digit_what_was_tested(most, form):
    risk = Risk.parse(form.format(repr(most)))
    assert Risk.parse(risk.text).most == risk.most and Risk.parse(risk.text).share == risk.share


def test_what_a_certificate_says_is_what_its_rows_say(tmp_path):
    """Fields that rows tell, rows of the fit, claims of a family's levels: each forgery is told, none is believed."""
    data = cache(6000, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    found = certify(data, "drop<=3.3333333333%", 0.9, method="max_prob", budgets=8, starts=10**9)
    stated = recheck(found.policy, data)
    assert stated["claim"] == "drop<=3.3333333333%" and stated == found.certificate
    recheck(found.family, data)

    def forged(of, **fields):
        own = {**of.provenance["certificate"], **fields}
        return replace(of, provenance={**of.provenance, "certificate": own})

    for wrong in (
        {"n": 10**6}, {"unit": "groups"}, {"procedure": "exact"}, {"sense": "asymptotic"}, {"void": "never"},
        {"full_cost": 1e9}, {"claim": "drop<=0.01%"},
    ):  # fmt: skip
        with pytest.raises(CheckError):
            recheck(forged(found.policy, **wrong), data)
        levels = tuple(forged(one, **wrong) for one in found.family.policies)
        with pytest.raises(CheckError):
            recheck(replace(found.family, policies=levels), data)
    for wrong in (
        {"n": True},
        {"n": -1},
        {"n": 10**400},
        {"cost_bound": 10**400},
        {"full_cost": 1e308},
        {"level": -1},
    ):
        assert certificate_of(forged(found.policy, **wrong)) is None
    own = {**found.policy.provenance, "split": "calibrate"}
    with pytest.raises(InputError, match="no part in the fit"):
        recheck(replace(found.policy, provenance=own), data)
    stated = {**found.certificate, "claim": "cost<=1.5e+06"}
    assert says(stated, "cost<=2000000", 0.9) and not says(stated, "cost<=1e+06", 0.9)
    refuses("certified", lambda: says(stated, "drop<=..%", 0.9))
    in_the_mean = certify(data, "drop<=30%", method="max_prob", procedure="crc").family
    refuses(
        "certified", lambda: in_the_mean.certified("drop<=40%")
    )  # which says nothing with a confidence


def test_a_policy_is_tested_by_the_cost_and_utility_of_its_own():
    logits, labels = outputs(4000, 3, 4)
    costs = [po.Cost("a", "ms", [1.0, 2.0, 4.0]), po.Cost("b", "J", [1.0, 3.0, 3.5])]
    data = po.from_arrays(logits, labels, costs, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    worth = np.eye(4) * [1.0, 0.5, 0.5, 0.5]
    for more in ({"cost": "b"}, {"utility": worth}):
        found = certify(data, ["loss<=70%", "cost<=97%"], method="max_prob", budgets=8, **more)
        assert recheck(found.policy, data) == found.certificate
        again = certify(data, ["loss<=70%", "cost<=97%"], method=found.policy)
        assert recheck(again.policy, data) == again.certificate
        same = ("p_value", "cost", "full_cost", "risks", "procedure")
        assert [again.certificate[n] for n in same] == [found.certificate[n] for n in same]


def test_no_certificate_of_what_was_not_looked_at(monkeypatch):
    """Values agree with nothing; losses that are written over, or left out; classes without rows; own Risk objects."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2000)
    told = truth[:, None] + rng.normal(size=(2000, 2)) * [0.8, 0.1]
    values = po.from_arrays(
        told.astype(np.float32), truth, [1.0, 4.0], unit="ms", kind="regression", error_scale=0.5
    )
    refuses("risk disagreement", lambda: certify(values, "disagreement<=1%", method="max_prob"))
    data = cache(3000, 3, 4, split={"fit": 0.4, "calibrate": 0.4, "test": 0.2})
    family = po.fit_family(data, 6, "max_prob")

    def writes(seen):
        seen.full_prediction[:] = seen.prediction
        return np.zeros(len(seen.exit))

    for loss in (
        writes, lambda seen: np.where(seen.prediction == seen.full_prediction, 0.0, np.nan), lambda seen: 1 / 0,
        lambda seen: ["x"] * len(seen.exit), lambda seen: seen.exit * 1j, lambda seen: 0.0,
    ):  # fmt: skip
        monkeypatch.setitem(KINDS, "own", replace(KINDS["disagreement"], loss=loss))
        with pytest.raises(InputError, match="losses of risk own"):
            certify(data, ["own<=20%", "disagreement<=1%"], method=family)
    for wrong in (
        ("drop", np.nan), ("drop", "1"), ("drop", True), ("drop", 0.1, "", "group"), ("miss", 0.1), ("nothing", 0.1),
        ("drop", 0.1, "", "", True), ("drop", 0.1, 3),
    ):  # fmt: skip
        with pytest.raises(InputError):
            Risk(*wrong)
    logits, labels = outputs(3000, 3, 4)
    _, rows = data.rows("calibrate")
    labels[rows] = np.where(labels[rows] == 2, 1, labels[rows])
    lacking = po.from_arrays(logits, labels, [1.0, 2.0, 4.0], unit="ms", split=data.shares)
    refuses("rows of class 2", lambda: certify(lacking, "drop<=90% per class", method="max_prob"))
    for bound in (np.nan, np.inf, -1, "4", True, 1e300):
        refuses(
            "cost_bound", lambda b=bound: certify(data, "cost<=90%", method=family, cost_bound=b)
        )
    refuses(
        "split",
        lambda: certify(data, "drop<=5%", method=family, split="calibrate" + "[:99%]" * 5000),
    )
    for stated in ("x", None, [1], -1.0):
        forged = [
            replace(p, provenance={**p.provenance, "expected_cost": stated})
            for p in family.policy.policies
        ]
        assert certify(data, "drop<=20%", method=forged[-1]).records[0]["cost"] == 4.0
    refused = certify(
        data, "selective_error<=90%", method=po.fit(data, "60%", "max_prob", abstain="20%")
    )
    assert (
        0 < refused.records[0]["risks"]["selective_error<=90%"] < 1
    )  # of the answered, as it is claimed


def test_rows_and_states_of_a_watch_that_are_not_whole(run, tmp_path, monkeypatch):
    """Bad bytes and cells are refused in one line; a class is the same class in a column of floats."""
    monkeypatch.chdir(tmp_path)
    head = "prediction,label,full_prediction\n"
    bad = {
        "csv": (
            b"\xff", head.encode("utf16"), head + "1,1,1,1", head + "1", "label," + head + "1,1,1,1",
            head + '"1,1,1\n' * 3, head + "1" * 200_000 + ",1,1", head + "True,1,1", head + "cat,1,1",
        ),
        "jsonl": ('{"loss": 1e400}', "[" * 100_000, '{"loss": ' + "9" * 5000 + "}", '{"loss": [Infinity]}'),
    }  # fmt: skip
    for suffix, each in bad.items():
        for content in each:
            path = tmp_path / f"r.{suffix}"
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
            code, _, err = run("watch", path.name, "--risk", "drop<=5%")
            assert code == 2 and err.startswith("error: '") and err.count("\n") == 1, (
                content[:40],
                err,
            )
            assert not (tmp_path / "monitor.json").exists()
    told = set()
    for answer, label in (("1", "2"), ("1.0", "2"), ("1", "2.0")):
        (tmp_path / "r.csv").write_text(
            head + f"{answer},{label},{label}\n" * 60 + f"1,nan,1\n{answer},{answer}.,1\n"
        )
        code, out, _ = run(
            "watch",
            "r.csv",
            "--risk",
            "drop<=5%",
            "--state",
            f"{label}{answer}.json",
            "--format",
            "json",
        )
        told.add((code, *json.loads(out)[0].values()))
    assert len({one[:-1] for one in told}) == 1 and {one[0] for one in told} == {4}
    assert "columns of r.csv" in run("watch", "r.csv", "--risk", "brier_gap<=5%")[2]
    for content in (b"\xff", b"[" * 100_000, b"9" * 5000, b"null"):
        (tmp_path / "s.json").write_bytes(content)
        code, _, err = run("watch", "r.csv", "--risk", "drop<=5%", "--state", "s.json")
        assert code == 2 and "internal" not in err
    assert run("fit", "c", "--risk", "drop<=4%", "--abstain-quality", "0.5")[2].startswith(
        "error: '--risk'"
    )
