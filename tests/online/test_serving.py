"""The object that serves: plays what the simulation plays, is saved and restored, refuses by name."""

import json
import threading

import numpy as np
import pytest

import policyopt as po
from policyopt._online.families import fit_family, threshold_family
from policyopt._online.outcomes import outcomes
from policyopt._online.requests import Requests, make_schedule
from policyopt._online.simulate import BanditPlayer, BudgetPlayer, ExitPlayer
from policyopt._table import Tables
from policyopt.runtime._bandits import BANDITS, make_bandit
from policyopt.runtime._online import UEEUCB, Controller, LinUCB, Online, PolicyFamily, SplitEE
from policyopt.runtime._strict_json import digest_of
from tests.synthetic import outputs

ROUNDS = 400


@pytest.fixture(scope="module")
def data():
    logits, labels = outputs(n=600, exits=3, classes=4, seed=3)
    return po.from_arrays(logits, labels, costs=[1, 2, 5], split={"fit": 0.5, "test": 0.5})


@pytest.fixture(scope="module")
def family(data):
    return threshold_family(Tables(data).get("test"), [0, 0.5, 1])


def leave(online, request, output=(1.0, 0, 0, 0)):
    """Take a request through the exits, until one says leave."""
    for k in online.ladder.policy.path:
        if online.decide(k, np.broadcast_to(output, (3, 4))[k], request).exit:
            return request
    raise AssertionError


def check_served(data, make, player, place, requests):
    """Serve the rows that were simulated, half before and half after a file; arms and exits alike."""
    table, (block,) = Tables(data).get("test"), requests
    logits = np.asarray(data.splits["pool"].array("outputs"), np.float64)[table.places]
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
            assert online.ladder.arms == 1 or request.arm == arms[t, stream]
        assert exits == expected[:, stream].tolist()


def simulated(data, family):
    """What the rows of the test split come to, and two streams of them."""
    table = Tables(data).get("test")
    plan = make_schedule("stationary", ["test"], ROUNDS)
    return outcomes(family.policy, [table]), Requests(plan, (len(table),), 2, 5, 1.0, (0.2, 0.2))


@pytest.mark.parametrize("name", list(BANDITS))
@pytest.mark.parametrize("reveal", ["played", "smaller", "all"])
def test_bandits_serve_as_simulated(data, name, reveal, tmp_path):
    bandit, family = make_bandit(name), threshold_family(Tables(data).get("test"), np.arange(5) / 4)
    if reveal == "all" and not bandit.draws:
        with pytest.raises(po.InputError, match="reveal"):
            Online(family, bandit, reveal=reveal)
        return
    seen, requests = simulated(data, family)
    player = BanditPlayer(bandit, seen, family.exits(seen.scores), requests, reveal)
    more = {"overhead": 0.2, "reveal": reveal, "seed": 5}
    make = lambda stream: Online(family, bandit, stream=stream, **more)  # noqa: E731
    check_served(data, make, player, tmp_path, requests)


@pytest.mark.parametrize("name", ["linucb", "splitee", "splitee, side", "uee_ucb"])
def test_rules_by_exit_serve_as_simulated(data, family, name, tmp_path):
    policy = family.at(1)
    seen, requests = simulated(data, family)
    prices = tuple((0.9 * seen.load).tolist())  # dear: UEE-UCB leaves the last exit soon
    rule = {
        "linucb": LinUCB(), "splitee": SplitEE(prices, 0.2), "uee_ucb": UEEUCB(prices),
        "splitee, side": SplitEE(prices, 0.2, side=True),
    }[name]  # fmt: skip
    make = lambda stream: Online(policy, rule, overhead=0.2, seed=5, stream=stream)  # noqa: E731
    check_served(data, make, ExitPlayer(rule, seen, requests), tmp_path, requests)
    with pytest.raises(po.InputError, match="one per exit of the policy: 3"):
        Online(policy, UEEUCB((0.0, 0.1)))


def test_the_controller_serves_as_simulated(data, tmp_path):
    family = fit_family("max_prob", Tables(data).get("fit"), 15)
    seen, requests = simulated(data, family)
    player = BudgetPlayer(Controller(budget=0.4), family, seen, 2)
    check_served(data, lambda _: Online(family, Controller(0.4)), player, tmp_path, requests)


def test_a_controller_needs_a_family_from_always_to_never(data, tmp_path):
    tables = Tables(data)
    short = threshold_family(tables.get("test"), [0.5, 0.7])
    with pytest.raises(po.InputError, match="first level leaves at exit 0 always"):
        Online(short, Controller(0.3))
    family = fit_family("max_prob", tables.get("fit"), 5)
    online = Online(family, Controller(0.3))
    late = [online.start() for _ in range(300)]  # feedback of none of them is there yet
    for request in late:
        leave(online, request)
    with pytest.raises(po.InputError, match="'cost' must be a number, at most 1000 times"):
        online.feedback(late[0], cost=3e9)
    with pytest.raises(po.InputError, match="'overhead' must be left out for the controller"):
        online.feedback(late[0], overhead=0.1)
    for request in late:
        online.feedback(request, cost=5.0)
    online.save(tmp_path / "online.json")  # the price is far out by now
    assert Online.load(tmp_path / "online.json").state() == online.state()


def test_side_information_needs_levels_that_nest(family):
    crossed = PolicyFamily(family.policy, [[0.3, 0.9], [0.9, 0.3]])
    with pytest.raises(po.InputError, match="'reveal' must be played"):
        Online(crossed, make_bandit("ucb1"))
    assert Online(crossed, make_bandit("ucb1"), reveal="played").start().arm == 1
    for scores in (np.random.default_rng(0).integers(0, 11, (90, 3)) / 10).tolist():  # ties too
        exits = crossed.exits(np.array([scores]))[0].tolist()
        for last in range(3):
            seen = [k if k <= last else None for k in exits]
            assert crossed.taken(scores[: last + 1], last == 2) == seen


def test_label_reward_wants_labels_and_others_refuse_them(family):
    online = Online(family, make_bandit("ucb1"), reward="label", overhead=(0.0, 0.5))
    request = online.start()
    with pytest.raises(po.InputError, match="one still on its way"):
        online.feedback(request)
    for k in range(3):
        online.decide(k, [1.0, 0, 0, 0], request)
    with pytest.raises(po.InputError, match="'correct' must be one truth value per exit seen: 3"):
        online.feedback(request)
    with pytest.raises(po.InputError, match="'overhead' must be from 0"):
        online.feedback(request, correct=[0, 1, 1], overhead=0.7)
    assert online.feedback(request, correct=[0, 1, 1], overhead=0.25) == 0.75
    with pytest.raises(po.InputError, match="learned from before"):
        online.feedback(request, correct=[0, 1, 1])
    with pytest.raises(po.InputError, match="'request' must be on its way"):
        online.decide(2, [1.0, 0, 0, 0], request)


def test_many_threads_lose_nothing(family):
    online = Online(family, make_bandit("ucb1"))

    def work():
        for _ in range(50):
            online.feedback(leave(online, online.start(), [3.0, 0, 0, 0]))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = online.state()["player"]
    assert online.requests == state["rounds"] == sum(state["choices"]) == 400
    assert state["pulls"][0] == 400  # side information: every request shows the smallest arm


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["state"]["player"]["pulls"].pop(),
        lambda c: c["state"]["player"].update(rounds=-1),
        lambda c: c["thresholds"][0].append(1.0),
        lambda c: c["steering"].update(name="../ucb1"),
        lambda c: c["settings"].update(reward="gold"),
        lambda c: c.update(extra=1),
        lambda c: c["policy"].update(classes=9),
    ],
)
def test_files_are_refused_by_name(family, tmp_path, change):
    Online(family, make_bandit("ucb1")).save(tmp_path / "online.json")
    content = json.loads((tmp_path / "online.json").read_text())
    change(content)
    (tmp_path / "changed.json").write_text(json.dumps(content))
    with pytest.raises(po.InputError, match=r"changed after|must be|unknown fields"):
        Online.load(tmp_path / "changed.json")
    content["sha256"] = digest_of({k: v for k, v in content.items() if k != "sha256"})
    (tmp_path / "forged.json").write_text(json.dumps(content))
    with pytest.raises(po.InputError):
        Online.load(tmp_path / "forged.json")
