"""Schedules, requests, families, regret and the controller's bound, each against something simple."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policyopt as po
from policyopt._online.families import fit_family, threshold_family
from policyopt._online.metrics import RegretBaseline, recovery
from policyopt._online.outcomes import outcomes
from policyopt._online.requests import Requests, make_schedule
from policyopt._online.simulate import BanditPlayer, simulate
from policyopt._table import Tables
from policyopt.runtime._bandits import BANDITS, make_bandit
from policyopt.runtime._online import Controller
from policyopt.runtime._online.serving import reveal_chances, reward_range
from tests.synthetic import cache, outputs


@pytest.fixture(scope="module")
def data():
    """Clean rows, and a stream whose exits are all but blind."""
    logits, labels = outputs(n=1200, exits=3, classes=4, seed=1)
    blind = logits * 0.3
    halves = {"fit": slice(0, 600), "test": slice(600, 1200)}
    splits = {k: {"outputs": logits[v], "labels": labels[v]} for k, v in halves.items()}
    splits["dim"] = {"outputs": blind[600:], "labels": labels[600:]}
    return po.from_arrays(splits=splits, costs=[1.0, 2.0, 5.0], unit="ms")


@pytest.mark.parametrize("kind", ["stationary", "abrupt", "gradual", "recurring", "a:30,b:50,a:20"])
def test_schedules_share_all_requests_among_the_streams(kind):
    plan = make_schedule(kind, ["a", "b"], 100)
    shares = plan.shares(np.arange(100))
    assert shares.shape == (100, 2) and (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    drawn = plan.draw(np.arange(100), np.random.default_rng(0).random((100, 4000)))
    np.testing.assert_allclose((drawn == 1).mean(axis=1), shares[:, 1], atol=0.05)
    if kind == "gradual":
        assert plan.changes == () and shares[0, 0] == shares[24, 0] == 1 and shares[60, 1] == 1
        assert 0.4 < shares[37, 0] < 0.6
    if kind == "recurring":
        assert len(plan.changes) == 5


def test_requests_are_seeded_and_do_not_depend_on_how_many_run():
    plan = make_schedule("abrupt", ["a", "b"], 5000)
    many, few = Requests(plan, (10, 20), 3, 7), Requests(plan, (10, 20), 1, 7)
    for one, two in zip(many, few, strict=True):
        np.testing.assert_array_equal(one.row[:, :1], two.row)
    rows = np.concatenate([block.row for block in many])
    assert rows[:2500].max() == 9 and rows[2500:].min() == 10 and rows.max() == 29
    other = next(iter(Requests(plan, (10, 20), 3, 8))).row
    assert (other != next(iter(many)).row).any()


def brute_force(seen, exits, arms, rows, stream_of, overhead):
    """Regret by its definition: mean reward of each arm on each stream, in loops."""
    reward = np.array(
        [[seen.gain[i, k] - overhead * seen.load[k] for k in row] for i, row in enumerate(exits)]
    )
    means = np.array([reward[stream_of == s].mean(axis=0) for s in range(stream_of.max() + 1)])
    fixed = sum(means[stream_of[i]] for i in rows)
    best = int(np.argmax(fixed))
    played = [means[stream_of[i], a] for i, a in zip(rows, arms, strict=True)]
    moving = sum(means[stream_of[i]].max() for i in rows)
    return fixed[best] - sum(played), moving - sum(played)


def test_regret_is_what_its_definition_says(data):
    tables = Tables(data)
    found = simulate(
        data, ["ucb1"], schedule="abrupt", streams=["test", "dim"], rounds=300, repetitions=2,
        overhead=0.3, arms=[0.0, 0.5, 0.7, 0.9], tables=tables,
    )  # fmt: skip
    pair = [tables.get(name) for name in ("test", "dim")]
    family = threshold_family(pair[0], [0.0, 0.5, 0.7, 0.9])
    seen = outcomes(family.policy, pair)
    exits = family.exits(seen.scores)
    requests = Requests(
        make_schedule("abrupt", ["test", "dim"], 300), (600, 600), 2, 0, 1.0, (0.3, 0.3)
    )
    (block,) = requests
    arms = BanditPlayer(make_bandit("ucb1"), seen, exits, requests).play(block)
    stream_of = np.repeat([0, 1], 600)
    for r in range(2):
        regret, moving = brute_force(seen, exits, arms[:, r], block.row[:, r], stream_of, 0.3)
        assert found.tallies["ucb1"].final("regret")[r] == pytest.approx(regret)
        assert found.tallies["ucb1"].final("moving")[r] == pytest.approx(moving)
        paid = seen.cost[block.row[:, r], exits[block.row[:, r], arms[:, r]]].sum()
        assert found.tallies["ucb1"].final("cost")[r] == pytest.approx(paid)


@pytest.mark.parametrize("name", list(BANDITS))
@pytest.mark.parametrize("reveal", ["played", "smaller", "all"])
@pytest.mark.parametrize("delay", [0, 7])
def test_what_is_fed_back_and_when(data, name, reveal, delay):
    """Each repetition played anew by the book: who is known by looking at exits, late or never."""
    tables = [Tables(data).get("test")]
    family = threshold_family(tables[0], [0.0, 0.4, 0.6, 0.8])
    seen = outcomes(family.policy, tables)
    exits, plan = family.exits(seen.scores).astype(int), make_schedule("stationary", ["test"], 300)
    requests = Requests(plan, (600,), 2, 3, 0.7, (0.1, 0.3))
    (block,) = requests
    bandit = make_bandit(name)
    arms = BanditPlayer(bandit, seen, exits, requests, reveal, delay).play(block)
    least, most = reward_range("confidence", seen.load.tolist(), (0.1, 0.3))
    for r in range(2):
        player, late = bandit.player(4, 3, r), []
        for t, row in enumerate(block.row[:, r]):
            arm = player.choose()
            assert arm == arms[t, r]
            worth = seen.gain[row, exits[row]] - block.overhead[t, r] * seen.load[exits[row]]
            shown = [a for a in range(4) if exits[row, a] <= exits[row, arm]]
            known = {"played": [arm], "smaller": range(arm + 1), "all": shown}[reveal]
            chance = None
            if player.chances is not None:
                starts = [int((exits[row] < k).sum()) for k in exits[row]]
                chance = reveal_chances(player.chances, reveal, starts)
            late.append((known[0], known[-1], ((worth - least) / (most - least)).tolist(), chance))
            late[-1] = late[-1] if block.arrives[t, r] else None
            if t >= delay and late[t - delay] is not None:
                player.learn(*late[t - delay])


def test_side_information_is_what_every_smaller_arm_would_have_done(data):
    table = Tables(data).get("test")
    family = threshold_family(table, [0.0, 0.4, 0.6, 0.8, 1.0])
    scores = outcomes(family.policy, [table]).scores
    exits = family.exits(scores)
    for arm in range(family.arms):
        for row in range(100):
            went = exits[row, arm]
            known = family.taken(scores[row, : went + 1].tolist(), bool(went == 2))
            for a, k in enumerate(known):
                assert k == exits[row, a] if exits[row, a] <= went else k is None
            assert None not in known[: arm + 1]


@pytest.mark.parametrize("method", ["max_prob", "entropy:thresholds=joint", "optimal_stopping"])
def test_families_nest_and_meet_their_budgets(method):
    data = cache(n=3000)
    table = Tables(data).get("fit")
    family = fit_family(method, table, 5)
    assert family.nested
    seen = outcomes(family.policy, [table])
    exits = family.exits(seen.scores)
    paid = np.take_along_axis(seen.cost, exits.astype(int), axis=1).mean(axis=0)
    assert (exits[:, 0] == 0).all() and (exits[:, -1] == 3).all()
    np.testing.assert_allclose(paid[1:-1], family.labels[1:-1], rtol=0.03)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=300),
    st.floats(0.01, 0.99), st.floats(0.001, 1.0), st.floats(0, 1),
)  # fmt: skip
def test_the_controller_keeps_its_bound_whatever_comes(inputs, budget, step, start):
    """Costs per level are any numbers in [0, 1], but 0 on the first level and 1 on the last."""
    rule = Controller(budget, step, start)
    player, paid = rule.player(5), []
    for costs in inputs:
        paid.append([0.0, *sorted(costs)[1:4], 1.0][player.choose()])
        player.learn(paid[-1])
        assert abs(np.mean(paid) - budget) <= rule.bound(len(paid)) + 1e-9


@pytest.mark.parametrize(("start", "level"), [(0, 0), (0.04, 0), (0.06, 1), (0.94, 9), (1, 10)])
def test_the_controller_takes_the_nearest_level(start, level):
    assert Controller(0.3, start=start).player(11).choose() == level


def test_recovered_is_when_a_window_costs_a_quarter_of_staying():
    baseline = RegretBaseline(make_schedule("a:1000,b:1000", "", 0), np.eye(2))
    rounds = np.arange(10, 2001, 10)
    for lost, wanted in (
        (500, 800),
        (0, 360),
        (1000, None),
    ):  # rounds at full regret; 0.9 of a window will do
        moving = np.clip(rounds - 1000, 0, lost)[:, None]
        metrics = SimpleNamespace(rounds=rounds, course={"moving": moving}.get)
        assert recovery(metrics, baseline) == [wanted]


def test_the_controller_holds_the_budget_where_a_fixed_policy_does_not(data):
    found = simulate(
        data, ["fixed", "controller"], schedule="abrupt", streams=["test", "dim"], rounds=8000,
        repetitions=3, budget="50%",
    )  # fmt: skip
    fixed, steered = (r["realised_cost"] / r["budget"] - 1 for r in found.records)
    assert abs(fixed) > 0.05 and abs(steered) < 0.01


def test_what_chooses_by_exit_is_measured_beside_the_others(data):
    found = simulate(
        data, ["ucb1", "linucb", "splitee:alpha=0.7", "uee_ucb"], rounds=3000, repetitions=4,
        overhead=0.2, arms="0:1:0.1",
    )  # fmt: skip
    regret = {r["policy"]: r["regret"] for r in found.records}
    assert regret["linucb"] < regret["uee_ucb"]  # it looks at each request
    assert all(regret["linucb"] < value < 3000 for value in list(regret.values())[2:])


def test_labels_and_calibration_change_what_is_rewarded(data):
    table = Tables(data).get("test")
    policy = threshold_family(table, [0.5]).policy
    label = outcomes(policy, [table], "label")
    correct = label.correct.astype(float)
    np.testing.assert_array_equal(label.gain, correct - correct[:, :1])
    calibrated = outcomes(policy, [table], "calibrated", Tables(data).get("fit"))
    raw = outcomes(policy, [table], "signed")
    error = [abs(g.confidence.mean(axis=0) - correct.mean(axis=0)).max() for g in (calibrated, raw)]
    assert error[0] < error[1]
    assert (outcomes(policy, [table]).gain == np.maximum(raw.gain, 0)).all()


def test_the_controller_keeps_its_budget_where_requests_cost_more_than_those_it_was_made_with():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 1500)
    logits = rng.normal(size=(1500, 3, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2], [3]]
    paid = np.tile([1.0, 2.0, 4.0], (1500, 1))
    parts = {
        name: {
            "outputs": logits[part],
            "labels": labels[part],
            "sample_costs": {"ms": times * paid[part]},
        }
        for name, part, times in (("fit", slice(500), 1), ("test", slice(500, None), 1.5))
    }
    data, asked = po.from_arrays(splits=parts, unit="ms"), {"rounds": 8000, "repetitions": 2}
    for delay in (0, 50):
        found = po.simulate(data, ["controller"], budget=2.4, delay=delay, **asked)
        assert abs(found.records[0]["realised_cost"] / 2.4 - 1) < 0.02


def test_rounds_follow_from_a_schedule_that_names_them(data):
    assert po.simulate(data, schedule="test:300", repetitions=1).records[0]["rounds"] == 300
