"""Abstaining: thresholds by share and by cost, risk and coverage by brute force, what a declined row counts; deadlines."""

import json
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from rules import C, families, policies
from synthetic import outputs

import policyopt as po
from policyopt._abstain import Declining, curve_of, cut
from policyopt._table import Tables
from policyopt.runtime import ALWAYS, Abstention, load_policy, make_score
from policyopt.runtime._outputs import reduce_logits

COSTS = [1.0, 2.0, 4.0, 8.0]


@pytest.fixture(scope="module")
def data():
    logits, labels = outputs(3000, exits=4)
    return po.from_arrays(logits * 0.6, labels, COSTS, unit="ms", split={"fit": 0.5, "test": 0.5})


@pytest.fixture(scope="module")
def rows(data):
    key, where = data.rows("test")
    return data.splits[key].array("outputs")[where]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([0.2, 0.5, 0.7]), st.sampled_from([0.0, 0.4, 1.0])),
        min_size=1,
        max_size=6,
    )
)
def test_risk_and_coverage_by_brute_force(pairs):
    """The mean over all orders of rows with equal scores."""
    scores, worth = (np.array(column) for column in zip(*pairs, strict=True))
    risks = [
        1 - np.cumsum(worth[list(order)]) / np.arange(1, len(order) + 1)
        for order in permutations(range(len(scores)))
        if (np.diff(scores[list(order)]) <= 0).all()
    ]
    found = curve_of(scores, worth)
    np.testing.assert_allclose(found.risk, np.mean(risks, axis=0), atol=1e-12)
    assert found.area == pytest.approx(np.mean(risks)) and found.coverage[-1] == 1
    assert found.quality_at(1.0) == pytest.approx(worth.mean())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.floats(0, 1), st.floats(0, 1))
def test_a_cut_declines_a_share_at_most_and_larger_shares_more(scores, share, other):
    scores = np.array(scores) / 5
    low, high = sorted((share, other))
    below = [set(np.flatnonzero(scores < cut(scores, s))) for s in (low, high)]
    assert below[0] <= below[1] and len(below[0]) <= low * len(scores) + 1e-6
    assert set(np.flatnonzero(scores < cut(scores, 1.0))) == set(range(len(scores)))


@pytest.mark.parametrize("score", [None, "energy", "max_logit", "margin"])
def test_a_limit_on_the_share_is_kept_on_new_rows(data, rows, score):
    """Who is declined stands lowest where they leave; cost and quality count as `Abstention` says; exits are as before."""
    plain = po.fit(data, "40%", "max_prob")
    fitted = po.fit(data, "40%", "max_prob", abstain="10%", abstain_score=score)
    found, before = po.evaluate(fitted, data), po.evaluate(plain, data)
    n = len(found.exit)
    np.testing.assert_array_equal(found.exit, before.exit)
    assert abs(found.abstained.mean() - 0.1) < 3 * (0.09 / n + 0.09 / 1500) ** 0.5
    np.testing.assert_array_equal(found.quality, np.where(found.abstained, 1.0, before.quality))
    np.testing.assert_array_equal(found.cost, before.cost)
    assert before.quality[found.abstained].mean() < before.quality.mean() - 0.05
    told = fitted.policy.provenance
    assert told["expected_abstained"] == pytest.approx(0.1, abs=1e-3)
    assert found.quality.mean() == pytest.approx(told["expected_quality"], abs=0.04)
    decided = fitted.policy.decide(rows)
    np.testing.assert_array_equal(decided.abstained, found.abstained)
    if score is None:  # one number for all exits, on calibrated confidence
        assert len(set(fitted.policy.abstention.thresholds)) == 1
        assert fitted.policy.calibrator.name == "platt"


def test_a_cost_of_handing_over_is_paid_from_the_budget(data):
    """The dearer a person, the fewer are asked; the mean cost stays; quality is never under that of not asking."""
    plain = po.evaluate(po.fit(data, "40%", "max_prob"), data)
    shares = []
    for cost in (2.0, 6.0, 20.0, 1000.0):
        fitted = po.fit(data, "40%", "max_prob", abstain_cost=cost)
        found = po.evaluate(fitted, data)
        shares.append(found.abstained.mean())
        assert fitted.expected.cost <= 3.2 * 1.001
        low, high = fitted.expected.interval(len(found.cost), 0.999)
        assert low < found.cost.mean() < high
        assert found.quality.mean() > plain.quality.mean() - 0.02
        by_exit = np.array(COSTS)[found.exit]
        np.testing.assert_allclose(found.cost, by_exit + cost * found.abstained)
    assert (np.diff(shares) <= 0).all() and shares[0] > 0.5 and shares[-1] < 0.01
    both = po.fit(data, "40%", "max_prob", abstain="3%", abstain_cost=6.0)
    assert both.policy.provenance["expected_abstained"] <= 0.03 + 1e-9
    poor = po.fit(data, "40%", "max_prob", abstain_cost=6.0, abstain_quality=0.1)
    assert poor.policy.provenance["expected_abstained"] < 0.02


@pytest.mark.parametrize("score", [None, "e2cm"])
def test_rows_without_a_label_are_left_out_of_what_declining_is_worth(score):
    """With a share of them, as many are declined as without: their worth is not known, and no NaN."""
    logits, labels = outputs(800, 3, C, 0)
    known = np.random.default_rng(0).random(800) < 0.7
    shares = []
    for seen in (labels, np.where(known, labels, -1)):
        data = po.from_arrays(splits={"fit": {"outputs": logits, "labels": seen}}, costs=[1, 2, 4])
        one = po.fit(data, 3.5, "max_prob", abstain_cost=2.0, abstain_score=score)
        shares.append(one.policy.provenance["expected_abstained"])
        assert one.quality > 0.8
    assert min(shares) > 0.5 and abs(shares[0] - shares[1]) < 0.1


def test_a_family_declines_on_every_level(data, rows, tmp_path):
    family = po.fit_family(data, 4, "max_prob", abstain=0.05, abstain_cost=1.0)
    family.save(tmp_path / "f.json")
    again = po.load_family(tmp_path / "f.json")
    level = np.arange(len(rows)) % len(again)
    found = again.decide(rows, level)
    for a in range(len(again)):
        mine, alone = level == a, po.evaluate(family.at(a), data)
        np.testing.assert_array_equal(found.abstained[mine], alone.abstained[mine])
        np.testing.assert_array_equal(found.cost[mine], alone.cost[mine])
        assert 0 < alone.abstained.mean() < 0.1
    refuses("a bandit learns of all", lambda: again.thresholds)


@pytest.mark.parametrize("name", ["abstains", "abstains by a score"])
def test_batch_and_step_decline_alike(name):
    policy = policies()[name]
    logits = np.random.default_rng(3).normal(size=(80, policy.exits, C)).astype(np.float32) * 2
    whole = policy.decide(logits)
    assert 0 < whole.abstained.mean() < 1
    np.testing.assert_array_equal(
        whole.cost, policy.costs[whole.exit] + policy.abstention.cost * whole.abstained
    )
    for i in range(80):
        state = policy.start(i)
        for k in range(policy.exits):
            seen = policy.step(k, logits[i, k], state)
            assert not seen.abstained or seen.exit
            if seen.exit:
                break
        assert (k, seen.abstained) == (whole.exit[i], whole.abstained[i])


def test_energy_and_the_largest_logit_are_what_papers_say():
    logits = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * 4
    reduced = po.runtime._policy.with_log_prob(reduce_logits(logits), logits)
    energy, _ = make_score("energy").score(0, reduced, ())
    largest, _ = make_score("max_logit").score(0, reduced, ())
    np.testing.assert_allclose(energy, np.log(np.exp(logits.astype(float)).sum(axis=1)), rtol=1e-6)
    np.testing.assert_allclose(largest, logits.max(axis=1), rtol=1e-6)


def test_what_cannot_be_declined_is_refused(data):
    fit = lambda *more, **given: po.fit(data, "40%", *(more or ("max_prob",)), **given)  # noqa: E731
    for words, call in (
        ("'abstain' must be a share such as 5%", lambda: fit(abstain="some")),
        ("'abstain'", lambda: fit(abstain="200%")),
        ("'abstain_cost'", lambda: fit(abstain_cost=-1.0)),
        ("a share, or a cost", lambda: Declining()),
        ("given beside a share or cost", lambda: fit(abstain_quality=0.9)),
        ("'abstain_quality'|'quality of abstention'", lambda: fit(abstain=0.1, abstain_quality=2.0)),
        ("plain with a score", lambda: fit("margin:answer=combined", abstain=0.1, abstain_score="energy")),
        ("method", lambda: fit(abstain=0.1, abstain_score="nonsense")),
        ("thresholds of abstention", lambda: replace(policies()["abstains"], abstention=Abstention([0.5]))),
        ("quality of abstention", lambda: Abstention([0.5], quality=1.5)),
    ):  # fmt: skip
        refuses(words, call)
    with pytest.raises(po.BudgetError):
        po.fit(data, "1%", "max_prob", abstain="5%")


def test_commands_say_who_answers(run, tmp_path):
    logits, labels = outputs(1200, exits=4)
    np.savez(tmp_path / "x.npz", logits=logits.swapaxes(0, 1) * 0.6, labels=labels, costs=COSTS)
    place, file = tmp_path / "c", tmp_path / "p.json"
    assert run("import", tmp_path / "x.npz", "--out", place, "--unit", "ms")[0] == 0
    fit = ("fit", place, "--budget", "40%", "--method", "max_prob", "--out", file)
    code, _, err = run(*fit, "--abstain", "8%", "--abstain-cost", "2")
    assert code == 0 and "declines 8.00 % of the rows" in err
    assert load_policy(file).abstention.cost == 2.0
    (told,) = json.loads(run("evaluate", file, place, "--format", "json")[1])
    assert 0.85 < told["coverage"] < 0.97 and told["selective_accuracy"] < told["accuracy"]
    assert "coverage %" in run("evaluate", file, place)[1]
    np.savez(tmp_path / "new.npz", logits=logits.swapaxes(0, 1) * 0.6)
    decided = json.loads(run("run", file, tmp_path / "new.npz", "--format", "json")[1])
    said = load_policy(file).decide(logits * 0.6)
    assert [row["abstained"] for row in decided] == said.abstained.tolist()
    assert "% are handed over" in run("run", file, tmp_path / "new.npz")[1]
    (record,) = json.loads(run(*fit, "--abstain", "8%", "--format", "json")[1])
    assert record["abstain"]["share"] == 0.08 and record["expected_abstained"] == pytest.approx(
        0.08, abs=2e-3
    )
    code, out, _ = run("risk-coverage", file, place, "--out", tmp_path / "r")
    assert code == 0 and "AURC" in out and (tmp_path / "r" / "risk_coverage.png").stat().st_size
    told = json.loads(run("risk-coverage", file, place, "--format", "json")[1])
    found = po.risk_coverage(load_policy(file), po.open_cache(place))
    assert told["area"] == found.area and told["records"][-1]["risk"] == 1 - found.quality_at(0.1)
    evaluated = po.evaluate(load_policy(file), po.open_cache(place))
    assert told["policy"]["coverage"] == (~evaluated.abstained).mean()
    curve = ("curve", place, "--methods", "max_prob", "--abstain", "8%")
    records = json.loads(run(*curve, "--budgets", "40%", "--format", "json")[1])
    assert records[0]["thresholds"] == load_policy(file).thresholds.tolist()
    assert records[0]["coverage"] == told["policy"]["coverage"]
    code, out, err = run(*curve, "--accuracy", "70%,99.99%", "--out", tmp_path / "k")
    assert code == 0 and "coverage %" in out and "left out at" in err
    code, _, err = run(*curve, "--bounds")
    assert code == 2 and "--bounds' must be given without --abstain" in err
    code, _, err = run(*fit, "--experts", "--abstain", "8%")
    assert code == 2 and "--abstain' must be absent with --experts" in err


def test_rows_without_a_label_tell_nothing_of_what_declining_is_worth(run, tmp_path, monkeypatch):
    """Nor do they hide it: what is expected, what is worth a cost, the risk of the policy itself."""
    logits, labels = outputs(3000, exits=4)
    labels = np.where(np.random.default_rng(0).random(3000) < 0.2, -1, labels)
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", logits=logits.swapaxes(0, 1) * 0.6, labels=labels, costs=COSTS)
    assert run("import", "x.npz", "--out", "c", "--unit", "ms")[0] == 0
    data = po.open_cache("c")
    plain, fitted = (po.fit(data, "40%", "max_prob", abstain=share) for share in (None, "10%"))
    told, found = fitted.policy.provenance, po.evaluate(fitted, data)
    given = ~found.abstained & ~np.isnan(found.quality)
    assert fitted.quality > plain.quality + 0.03
    assert told["expected_selective_quality"] > plain.quality + 0.01
    assert np.nanmean(found.quality) == pytest.approx(fitted.quality, abs=0.04)
    asked = po.fit(data, "40%", "max_prob", abstain_cost=2.0)
    assert asked.policy.provenance["expected_abstained"] > 0.3
    fitted.save("p.json")
    _, out, err = run("risk-coverage", "p.json", "c", "--format", "json")
    told, known = json.loads(out), int((~np.isnan(found.quality)).sum())
    assert f"{1500 - known} of the 1500 rows" in err and told["rows"] == known
    assert told["records"][0]["answers"] == known
    assert told["policy"]["risk"] == pytest.approx(1 - found.quality[given].mean())


# ---- the best answer so far


@pytest.mark.parametrize(
    "name", ["score max_prob", "answer ensemble", "calibrator platt", "kept exits", "several"]
)
def test_the_answer_at_any_deadline_is_that_of_the_last_exit_seen(name):
    """Of a sample, of survivors, and of a family's levels: what the policy would have returned there."""
    if name == "several":
        return check_levels_now()
    found = policies()
    policy = (
        found[name] if name in found else found[next(n for n in found if n.startswith("answer"))]
    )
    logits = np.random.default_rng(1).normal(size=(30, 5, C)).astype(np.float32) * 2
    refuses("one before the first. Step to an exit first", policy.answer_now, policy.start())
    state, left = policy.start(np.arange(30)), np.arange(30)
    for k in policy.active_exits:
        # Forced to leave where the deadline is: the answer is the one of a policy that ends there.
        seen = policy.step(k, logits[left, k], state)
        now = policy.answer_now(state)
        assert (now.exit == k).all()
        np.testing.assert_array_equal(now.prediction, seen.prediction)
        np.testing.assert_array_equal(now.confidence, seen.confidence)
        stay = np.flatnonzero(~seen.exit)
        state.keep(stay)
        np.testing.assert_array_equal(policy.answer_now(state).prediction, seen.prediction[stay])
        left = left[stay]
    one = policy.start(0)
    policy.step(policy.active_exits[0], logits[0, policy.active_exits[0]], one)
    now = policy.answer_now(one)
    assert type(now.prediction) is int and type(now.confidence) is float


def check_levels_now():
    family = families()["several sets of exits"]
    logits = np.random.default_rng(1).normal(size=(6, 4, C)).astype(np.float32)
    state = family.start(np.array([0, 1, 0, 1, 0, 1]))
    refuses("one before the first", family.answer_now, state)
    family.step(0, logits[:, 0], state)
    family.step(1, logits[:, 1], state)
    assert family.answer_now(state).exit.tolist() == [1, 0, 1, 0, 1, 0]
    one = family.start(2)
    family.step(1, logits[0, 1], one)
    assert family.answer_now(one).exit == 1 and ALWAYS < 0


def test_accuracy_rises_with_the_deadline(data, rows):
    """Rows past an exit have answers of it: with every further exit, more are right."""
    table = Tables(data).get("test")
    policy, labels = (
        po.fit(data, "60%", "margin", answer="combined").policy,
        table.statistics.labels,
    )
    state, right = policy.start(np.arange(len(rows))), []
    for k in range(4):
        policy.step(k, rows[:, k], state)
        right.append((policy.answer_now(state).prediction == labels).mean())
    assert (np.diff(right) > 0).all()


@pytest.mark.parametrize("method", ["max_prob", "margin:answer=combined"])
def test_a_floor_is_met_by_what_counts_who_is_asked(data, method):
    """Cheaper than without: the worst answers are somebody else's; a floor out of reach is told with what can be had."""
    goal = float(np.round(po.fit(data, "50%", "max_prob").quality, 2))
    plain = po.fit(data, method=method, accuracy=goal)
    fitted = po.fit(data, method=method, accuracy=goal, abstain="5%")
    assert goal <= fitted.quality < goal + 0.02 and fitted.budget is None
    assert fitted.expected.cost < plain.expected.cost
    assert fitted.policy.provenance["target"] == f"accuracy >= {goal:g}"
    found = po.evaluate(fitted, data)
    assert found.quality.mean() > goal - 0.04 and 0.02 < found.abstained.mean() < 0.08
    priced = po.fit(data, "70%", method, accuracy=goal, abstain_cost=3.0)
    assert priced.quality >= goal and priced.expected.cost <= min(0.7 * 8, plain.expected.cost)
    with pytest.raises(po.BudgetError, match="at most"):
        po.fit(data, method=method, accuracy=0.999, abstain="5%")


def test_limits_hold_beside_a_share_and_not_beside_a_cost(data):
    fitted = po.fit(data, "60%", "max_prob", limits=["p80<=4"], abstain="5%")
    assert (po.evaluate(fitted, data, "fit").cost <= 4).mean() >= 0.8
    refuses(
        "a cost of its own",
        lambda: po.fit(data, "60%", "max_prob", limits=["p80<=4"], abstain_cost=2.0),
    )
