"""The object that serves: plays what the simulation plays, is saved and restored, refuses by name."""

import json
import threading

import numpy as np
import pytest

import policyopt as po
from policyopt.online.exit_players import LinUCBPlayer, SplitEEPlayer, UEEPlayer
from policyopt.online.ladders import family_ladder, threshold_ladder
from policyopt.online.outcomes import outcomes
from policyopt.online.players import BanditPlayer, BudgetPlayer
from policyopt.online.requests import Requests
from policyopt.online.schedule import make_schedule
from policyopt.runtime.bandits import BANDITS, make_bandit
from policyopt.runtime.online import UEEUCB, Controller, Ladder, LinUCB, Online, SplitEE
from policyopt.table import Tables
from tests.synthetic import outputs

ROUNDS = 400


@pytest.fixture(scope="module")
def data():
    logits, labels = outputs(n=600, exits=3, classes=4, seed=3)
    return po.from_arrays(logits, labels, costs=[1, 2, 5], split={"fit": 0.5, "test": 0.5})


def serve(online, logits, rows, overhead=None, stop=None):
    """Serve some rows, one after the other; return the arms."""
    arms = []
    for row in rows[:stop]:
        request = online.start()
        arms.append(request.arm)
        for k in online.ladder.policy.path:
            if online.decide(k, logits[row, k], request).exit:
                break
        online.feedback(request, overhead=overhead)
    return arms


def rows_of(data, table):
    logits = np.asarray(data.splits["pool"].array("outputs"), np.float64)
    return logits[table.places]


@pytest.mark.parametrize("name", list(BANDITS))
@pytest.mark.parametrize("reveal", ["played", "smaller", "all"])
def test_serving_plays_what_the_simulation_plays(data, name, reveal, tmp_path):
    bandit = make_bandit(name)
    tables = Tables(data)
    table = tables.get("test")
    ladder = threshold_ladder(table, [0, 0.4, 0.6, 0.8, 1])
    if reveal == "all" and not bandit.draws:
        with pytest.raises(po.InputError, match="reveal"):
            Online(ladder, bandit, reveal=reveal)
        return
    seen = outcomes(ladder.policy, [table])
    requests = Requests(
        make_schedule("stationary", ["test"], ROUNDS), (len(table),), 2, 5, 1.0, (0.2, 0.2)
    )
    player = BanditPlayer(bandit, seen, ladder.exits(seen.scores), requests, reveal)
    block = next(iter(requests))
    expected = player.play(block)
    logits = rows_of(data, table)
    for stream in range(2):
        online = Online(ladder, bandit, overhead=0.2, reveal=reveal, seed=5, stream=stream)
        arms = serve(online, logits, block.row[:, stream], stop=ROUNDS // 2)
        online.save(tmp_path / f"online-{stream}.json")  # and go on from the file
        online = Online.load(tmp_path / f"online-{stream}.json")
        arms += serve(online, logits, block.row[ROUNDS // 2 :, stream])
        assert arms == expected[:, stream].tolist()


@pytest.mark.parametrize("name", ["linucb", "splitee", "splitee, side", "uee_ucb"])
def test_rules_by_exit_serve_as_simulated(data, name, tmp_path):
    table = Tables(data).get("test")
    policy = threshold_ladder(table, [0.8]).policy
    seen = outcomes(policy, [table])
    requests = Requests(
        make_schedule("stationary", ["test"], ROUNDS), (len(table),), 2, 5, 1.0, (0.2, 0.2)
    )
    block = next(iter(requests))
    prices = tuple((0.9 * seen.load).tolist())  # dear: UEE-UCB leaves the last exit soon
    rule, player = {
        "linucb": lambda: (LinUCB(), LinUCBPlayer(LinUCB(), seen, requests)),
        "splitee": lambda: (
            SplitEE(prices, 0.2), SplitEEPlayer(SplitEE(prices, 0.2), seen, requests)
        ),
        "splitee, side": lambda: (
            SplitEE(prices, 0.2, side=True),
            SplitEEPlayer(SplitEE(prices, 0.2, side=True), seen, requests),
        ),
        "uee_ucb": lambda: (UEEUCB(prices), UEEPlayer(UEEUCB(prices), seen, requests)),
    }[name]()  # fmt: skip
    arms = player.play(block)
    expected = np.take_along_axis(player.exits[block.row], arms[..., None], axis=-1)[..., 0]
    assert len(np.unique(expected)) > 1  # else nothing is compared
    logits = rows_of(data, table)
    for stream in range(2):
        online, exits = Online(policy, rule, overhead=0.2, seed=5, stream=stream), []
        for t, row in enumerate(block.row[:, stream]):
            if t == ROUNDS // 2:  # and go on from the file
                online.save(tmp_path / f"online-{stream}.json")
                online = Online.load(tmp_path / f"online-{stream}.json")
            request = online.start()
            for k in policy.path:
                if online.decide(k, logits[row, k], request).exit:
                    break
            exits.append(request.exit)
            online.feedback(request)
        assert exits == expected[:, stream].tolist()
    with pytest.raises(po.InputError, match="one per exit of the policy: 3"):
        Online(policy, UEEUCB((0.0, 0.1)))


def test_controller_serves_as_simulated_and_keeps_its_bound(data, tmp_path):
    tables = Tables(data)
    table = tables.get("test")
    ladder = family_ladder("max_prob", tables.get("fit"), 15)
    seen = outcomes(ladder.policy, [table])
    rule = Controller(budget=0.4)
    requests = Requests(make_schedule("stationary", ["test"], ROUNDS), (len(table),), 1, 1)
    block = next(iter(requests))
    expected = BudgetPlayer(rule, ladder, seen, 1).play(block)
    online = Online(ladder, rule)
    logits = rows_of(data, table)
    arms = serve(online, logits, block.row[:150, 0])
    online.save(tmp_path / "online.json")
    arms += serve(Online.load(tmp_path / "online.json"), logits, block.row[150:, 0])
    assert arms == expected[:, 0].tolist()


def test_a_controller_needs_a_ladder_from_always_to_never(data, tmp_path):
    tables = Tables(data)
    short = threshold_ladder(tables.get("test"), [0.5, 0.7])
    with pytest.raises(po.InputError, match="first rung leaves at exit 0 always"):
        Online(short, Controller(0.3))
    ladder = family_ladder("max_prob", tables.get("fit"), 5)
    online = Online(ladder, Controller(0.3))
    late = [online.start() for _ in range(300)]  # feedback of none of them is there yet
    for request in late:
        for k in range(3):
            if online.decide(k, [1.0, 0, 0, 0], request).exit:
                break
    with pytest.raises(po.InputError, match="'cost' must be a number, at most 1000 times"):
        online.feedback(late[0], cost=3e9)
    with pytest.raises(po.InputError, match="'overhead' must be left out for the controller"):
        online.feedback(late[0], overhead=0.1)
    for request in late:
        online.feedback(request, cost=5.0)
    online.save(tmp_path / "online.json")  # the price is far out by now
    assert Online.load(tmp_path / "online.json").state() == online.state()


def test_side_information_needs_rungs_that_nest(data):
    policy = threshold_ladder(Tables(data).get("test"), [0.5]).policy
    crossed = Ladder(policy, [[0.3, 0.9], [0.9, 0.3]])
    with pytest.raises(po.InputError, match="'reveal' must be played"):
        Online(crossed, make_bandit("ucb1"))
    assert Online(crossed, make_bandit("ucb1"), reveal="played").start().arm == 1


def test_label_reward_wants_labels_and_others_refuse_them(data):
    ladder = threshold_ladder(Tables(data).get("test"), [0, 0.5, 1])
    online = Online(ladder, make_bandit("ucb1"), reward="label", overhead=(0.0, 0.5))
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


def test_many_threads_lose_nothing(data):
    ladder = threshold_ladder(Tables(data).get("test"), [0, 0.5, 1])
    online = Online(ladder, make_bandit("ucb1"))

    def work():
        for _ in range(50):
            request = online.start()
            for k in range(3):
                if online.decide(k, [3.0, 0, 0, 0], request).exit:
                    break
            online.feedback(request)

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
def test_files_are_refused_by_name(data, tmp_path, change):
    from policyopt.runtime.content import digest_of

    online = Online(threshold_ladder(Tables(data).get("test"), [0, 0.5, 1]), make_bandit("ucb1"))
    online.save(tmp_path / "online.json")
    content = json.loads((tmp_path / "online.json").read_text())
    change(content)
    (tmp_path / "changed.json").write_text(json.dumps(content))
    with pytest.raises(po.InputError, match=r"changed after|must be"):
        Online.load(tmp_path / "changed.json")
    content["sha256"] = digest_of({k: v for k, v in content.items() if k != "sha256"})
    (tmp_path / "forged.json").write_text(json.dumps(content))
    with pytest.raises(po.InputError):
        Online.load(tmp_path / "forged.json")
