"""What adapts: requests, families, regret, each against something simple; and it serves what was simulated."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import policyopt as po
from policyopt._online.families import fit_family, threshold_family
from policyopt._online.simulate import (
    BanditPlayer,
    BudgetPlayer,
    ExitPlayer,
    RegretBaseline,
    Requests,
    make_schedule,
    outcomes,
    recovery,
    simulate,
)
from policyopt._table import Tables
from policyopt.runtime._bandits import BANDITS, make_bandit
from policyopt.runtime._online import UEEUCB, Controller, LinUCB, Online, PolicyFamily, SplitEE
from policyopt.runtime._online.serving import reveal_chances, reward_range
from tests.synthetic import cache, outputs

ROUNDS = 400


@pytest.fixture(scope="module")
def data():
    """Clean rows, and a stream whose exits are all but blind."""
    logits, labels = outputs(n=1200, exits=3, classes=4, seed=1)
    halves = {"fit": slice(0, 600), "test": slice(600, 1200)}
    splits = {k: {"outputs": logits[v], "labels": labels[v]} for k, v in halves.items()}
    splits["dim"] = {"outputs": logits[600:] * 0.3, "labels": labels[600:]}
    return po.from_arrays(splits=splits, costs=[1.0, 2.0, 5.0], unit="ms")


@pytest.fixture(scope="module")
def table(data):
    return Tables(data).get("test")


@pytest.fixture(scope="module")
def family(table):
    return threshold_family(table, [0, 0.5, 1])


@pytest.fixture(scope="module")
def fitted(data):
    return fit_family("max_prob", Tables(data).get("fit"), 15)


# ---- requests


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
        assert plan.changes == (17, 33, 50, 67, 83)


def test_requests_are_seeded_and_do_not_depend_on_how_many_run():
    plan = make_schedule("abrupt", ["a", "b"], 5000)
    many, few = Requests(plan, (10, 20), 3, 7), Requests(plan, (10, 20), 1, 7)
    for one, two in zip(many, few, strict=True):
        np.testing.assert_array_equal(one.row[:, :1], two.row)
    rows = np.concatenate([block.row for block in many])
    assert rows[:2500].max() == 9 and rows[2500:].min() == 10 and rows.max() == 29
    other = next(iter(Requests(plan, (10, 20), 3, 8))).row
    assert (other != next(iter(many)).row).any()


# ---- simulations


def test_regret_is_what_its_definition_says(data, table):
    """Mean reward of each arm on each stream, in loops."""
    asked = {"schedule": "abrupt", "streams": ["test", "dim"], "rounds": 300, "repetitions": 2}
    found = simulate(data, ["ucb1"], **asked, overhead=0.3, arms=[0.0, 0.5, 0.7, 0.9])
    family = threshold_family(table, [0.0, 0.5, 0.7, 0.9])
    seen = outcomes(family.policy, [table, Tables(data).get("dim")])
    exits, plan = family.exits(seen.scores), make_schedule("abrupt", ["test", "dim"], 300)
    requests = Requests(plan, (600, 600), 2, 0, 1.0, (0.3, 0.3))
    (block,) = requests
    arms = BanditPlayer(make_bandit("ucb1"), seen, exits, requests).play(block)
    reward = np.array(
        [[seen.gain[i, k] - 0.3 * seen.load[k] for k in row] for i, row in enumerate(exits)]
    )
    means, stream_of = [reward[:600].mean(axis=0), reward[600:].mean(axis=0)], [0] * 600 + [1] * 600
    for r, rows in enumerate(block.row.T):
        best = sum(means[stream_of[i]] for i in rows).max()
        played = sum(means[stream_of[i]][a] for i, a in zip(rows, arms[:, r], strict=True))
        moving = sum(means[stream_of[i]].max() for i in rows)
        final = found.metrics["ucb1"].final
        assert final("regret")[r] == pytest.approx(best - played)
        assert final("moving")[r] == pytest.approx(moving - played)
        assert final("cost")[r] == pytest.approx(seen.cost[rows, exits[rows, arms[:, r]]].sum())


@pytest.mark.parametrize("name", list(BANDITS))
@pytest.mark.parametrize("reveal", ["played", "smaller", "all"])
@pytest.mark.parametrize("delay", [0, 7])
def test_what_is_fed_back_and_when(table, name, reveal, delay):
    """Each repetition played anew by the book: who is known by looking at exits, late or never."""
    family = threshold_family(table, [0.0, 0.4, 0.6, 0.8])
    seen = outcomes(family.policy, [table])
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


def test_recovered_is_when_a_window_costs_a_quarter_of_staying():
    baseline = RegretBaseline(make_schedule("a:1000,b:1000", "", 0), np.eye(2))
    rounds = np.arange(10, 2001, 10)
    # Rounds at full regret; 0.9 of a window will do.
    for lost, wanted in ((500, 800), (0, 360), (1000, None)):
        moving = np.clip(rounds - 1000, 0, lost)[:, None]
        metrics = SimpleNamespace(rounds=rounds, course={"moving": moving}.get)
        assert recovery(metrics, baseline) == [wanted]


def test_what_chooses_by_exit_is_measured_beside_the_others(data):
    found = simulate(
        data, ["ucb1", "linucb", "splitee:alpha=0.7", "uee_ucb"], rounds=3000, repetitions=4,
        overhead=0.2, arms="0:1:0.1",
    )  # fmt: skip
    regret = {r["policy"]: r["regret"] for r in found.records}
    assert regret["linucb"] < regret["uee_ucb"]  # it looks at each request
    assert all(regret["linucb"] < value < 3000 for value in list(regret.values())[2:])


def test_labels_and_calibration_change_what_is_rewarded(data, table):
    policy = threshold_family(table, [0.5]).policy
    label = outcomes(policy, [table], "label")
    correct = label.correct.astype(float)
    np.testing.assert_array_equal(label.gain, correct - correct[:, :1])
    calibrated = outcomes(policy, [table], "calibrated", Tables(data).get("fit"))
    raw = outcomes(policy, [table], "signed")
    error = [abs(g.confidence.mean(axis=0) - correct.mean(axis=0)).max() for g in (calibrated, raw)]
    assert error[0] < error[1]
    assert (outcomes(policy, [table]).gain == np.maximum(raw.gain, 0)).all()


def test_rounds_follow_from_a_schedule_that_names_them(data):
    assert po.simulate(data, schedule="test:300", repetitions=1).records[0]["rounds"] == 300


# ---- families and the budget


def test_side_information_is_what_every_smaller_arm_would_have_done(table, family):
    crossed = PolicyFamily(family.policy, [[0.3, 0.9], [0.9, 0.3]])
    for levels in (threshold_family(table, [0.0, 0.4, 0.6, 0.8, 1.0]), crossed):
        rng = np.random.default_rng(0)
        real, ties = outcomes(levels.policy, [table]).scores, rng.integers(0, 11, (90, 3)) / 10
        scores = np.concatenate([real[:100], ties])
        for row, exits in zip(scores, levels.exits(scores).tolist(), strict=True):
            for last in range(3):
                known = levels.taken(row[: last + 1].tolist(), last == 2)
                assert known == [k if k <= last else None for k in exits]
    with pytest.raises(po.InputError, match="'reveal' must be played"):
        Online(crossed, make_bandit("ucb1"))
    assert Online(crossed, make_bandit("ucb1"), reveal="played").start().arm == 1


@pytest.mark.parametrize("method", ["max_prob", "entropy:thresholds=joint", "optimal_stopping"])
def test_families_nest_and_meet_their_budgets(method):
    table = Tables(cache(n=3000)).get("fit")
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


@pytest.mark.parametrize("delay", [0, 50])
def test_the_controller_holds_the_budget_where_a_fixed_policy_does_not(data, delay):
    """Through a change of the inputs, and where requests cost more than those it was made with."""
    asked = {"rounds": 8000, "repetitions": 2, "delay": delay}
    found = simulate(
        data,
        ["fixed", "controller"],
        schedule="abrupt",
        streams=["test", "dim"],
        budget="50%",
        **asked,
    )
    fixed, steered = (r["realised_cost"] / r["budget"] - 1 for r in found.records)
    assert abs(fixed) > 0.05 and abs(steered) < 0.02
    logits, labels = outputs(n=1200, exits=3, classes=4, seed=1)
    paid = np.tile([1.0, 2.0, 4.0], (1200, 1))
    parts = {
        name: {
            "outputs": logits[at],
            "labels": labels[at],
            "sample_costs": {"ms": times * paid[at]},
        }
        for name, at, times in (("fit", slice(400), 1), ("test", slice(400, None), 1.5))
    }
    dearer = po.from_arrays(splits=parts, unit="ms")
    (record,) = simulate(dearer, ["controller"], budget=2.4, **asked).records
    assert abs(record["realised_cost"] / 2.4 - 1) < 0.02


# ---- the object that serves


def leave(online, request, output=(1.0, 0, 0, 0)):
    """Take a request through the exits, until one says leave."""
    for k in online.family.policy.active_exits:
        if online.decide(k, np.broadcast_to(output, (3, 4))[k], request).exit:
            return request
    raise AssertionError


def check_served(data, make, player, place, requests):
    """Serve the rows that were simulated, half before and half after a file; arms and exits alike."""
    logits = np.asarray(data.splits["test"].array("outputs"), np.float64)
    (block,) = requests
    arms = player.play(block)
    expected = np.take_along_axis(player.exits[block.row], arms[..., None], axis=-1)[..., 0]
    assert len(np.unique(expected)) > 1  # else nothing is compared
    for stream in range(requests.repetitions):
        online, exits = make(stream), []
        for t, row in enumerate(block.row[:, stream]):
            if t == ROUNDS // 2:
                online.save(place / f"online-{stream}.json")
                online = Online.load(place / f"online-{stream}.json")
            request = leave(online, online.start(), logits[row])
            exits.append(request.exit)
            online.feedback(request)
            assert online.family.arms == 1 or request.arm == arms[t, stream]
        assert exits == expected[:, stream].tolist()


def simulated(table, family):
    """What the rows of the test split come to, and two streams of them."""
    plan = make_schedule("stationary", ["test"], ROUNDS)
    return outcomes(family.policy, [table]), Requests(plan, (600,), 2, 5, 1.0, (0.2, 0.2))


@pytest.mark.parametrize("name", list(BANDITS))
@pytest.mark.parametrize("reveal", ["played", "smaller", "all"])
def test_bandits_serve_as_simulated(data, table, name, reveal, tmp_path):
    bandit, family = make_bandit(name), threshold_family(table, np.arange(5) / 4)
    if reveal == "all" and not bandit.draws:
        with pytest.raises(po.InputError, match="reveal"):
            Online(family, bandit, reveal=reveal)
        return
    seen, requests = simulated(table, family)
    player = BanditPlayer(bandit, seen, family.exits(seen.scores), requests, reveal)
    more = {"overhead": 0.2, "reveal": reveal, "seed": 5}
    make = lambda stream: Online(family, bandit, stream=stream, **more)  # noqa: E731
    check_served(data, make, player, tmp_path, requests)


@pytest.mark.parametrize("name", ["linucb", "splitee", "splitee, side", "uee_ucb"])
def test_rules_by_exit_serve_as_simulated(data, table, family, name, tmp_path):
    policy = family.at(1)
    seen, requests = simulated(table, family)
    prices = tuple((0.9 * seen.load).tolist())  # dear: UEE-UCB leaves the last exit soon
    rule = {
        "linucb": LinUCB(), "splitee": SplitEE(prices, 0.2), "uee_ucb": UEEUCB(prices),
        "splitee, side": SplitEE(prices, 0.2, side=True),
    }[name]  # fmt: skip
    make = lambda stream: Online(policy, rule, overhead=0.2, seed=5, stream=stream)  # noqa: E731
    check_served(data, make, ExitPlayer(rule, seen, requests), tmp_path, requests)
    with pytest.raises(po.InputError, match="one per exit of the policy: 3"):
        Online(policy, UEEUCB((0.0, 0.1)))


def test_the_controller_serves_as_simulated(data, table, fitted, tmp_path):
    seen, requests = simulated(table, fitted)
    player = BudgetPlayer(Controller(budget=0.4), fitted, seen, 2)
    check_served(data, lambda _: Online(fitted, Controller(0.4)), player, tmp_path, requests)


def test_a_controller_whose_feedback_is_late(table, fitted, tmp_path):
    with pytest.raises(po.InputError, match="first level leaves at exit 0 always"):
        Online(threshold_family(table, [0.5, 0.7]), Controller(0.3))
    online = Online(fitted, Controller(0.3))
    late = [leave(online, online.start()) for _ in range(300)]
    with pytest.raises(po.InputError, match="'cost' must be a number, at most 1000 times"):
        online.feedback(late[0], cost=3e9)
    with pytest.raises(po.InputError, match="'overhead' must be left out for the controller"):
        online.feedback(late[0], overhead=0.1)
    for request in late:
        online.feedback(request, cost=5.0)
    online.save(tmp_path / "online.json")  # the price is far out by now
    assert Online.load(tmp_path / "online.json").state() == online.state()


def test_label_reward_wants_labels_and_others_refuse_them(family):
    online = Online(family, make_bandit("ucb1"), reward="label", overhead=(0.0, 0.5))
    request = online.start()
    with pytest.raises(po.InputError, match="one still on its way"):
        online.feedback(request)
    leave(online, request)
    with pytest.raises(po.InputError, match="'correct' must be one truth value per exit seen: 3"):
        online.feedback(request)
    with pytest.raises(po.InputError, match="'overhead' must be from 0"):
        online.feedback(request, correct=[0, 1, 1], overhead=0.7)
    assert online.feedback(request, correct=[0, 1, 1], overhead=0.25) == 0.75
    with pytest.raises(po.InputError, match="learned from before"):
        online.feedback(request, correct=[0, 1, 1])
    with pytest.raises(po.InputError, match="'request' must be on its way"):
        online.decide(2, [1.0, 0, 0, 0], request)
