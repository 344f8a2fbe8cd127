"""LinUCB, SplitEE and UEE-UCB: simulated and served, against histories kept in lists."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from policyopt._online.simulate import ExitPlayer, Outcomes, Requests, make_schedule
from policyopt.runtime._errors import InputError
from policyopt.runtime._online import UEEUCB, LinUCB, SplitEE
from policyopt.runtime._online.exit_rules import FEATURES, context

PLAN = make_schedule("stationary", ["test"], 300)


def rows_of(n=400, exits=4, seed=0):
    """Outcomes of a cascade whose confidence grows, with the classes it predicts."""
    rng = np.random.default_rng(seed)
    confidence = np.sort(rng.uniform(0.2, 1.0, (n, exits)), axis=1)
    noisy = np.clip(confidence + rng.normal(0, 0.05, confidence.shape), 0, 1)
    prediction = (rng.random((n, exits)) > confidence).astype(np.int32)
    gain = np.maximum(noisy - noisy[:, :1], 0.0)
    load = np.linspace(0, 1, exits)
    cost = np.tile(1.0 + load, (n, 1))
    return Outcomes("confidence", (n,), noisy, gain, load, cost, prediction == 0, noisy, prediction)


def shown(seen, row, arm, exit):
    """A request that left at an exit, as a server has it: nothing of what lies beyond."""
    return SimpleNamespace(
        arm=arm, exit=exit, confidences=seen.confidence[row, : exit + 1].tolist(),
        predictions=seen.prediction[row, : exit + 1].tolist(),
    )  # fmt: skip


def serve(player, seen, row):
    """Play one request exit by exit; return what it has shown."""
    arm, last = player.choose(), seen.cost.shape[1] - 1
    k = next((k for k in range(last) if player.leaves(shown(seen, row, arm, k), k)), last)
    return shown(seen, row, arm, k)


def split_rule(exits: int = 4, **more: Any):
    layers = tuple(0.05 + 0.1 * k for k in range(exits))
    return SplitEE(**{"layers": layers, "offload": 0.15, "alpha": 0.7, **more})


def test_linucb_is_ridge_regression_on_the_history():
    """A and b built anew from all that was seen; theta from a solver."""
    seen, rng = rows_of(seed=5), np.random.default_rng(0)
    player = LinUCB(alpha=0.7).player(4)
    history = [[] for _ in range(3)]
    for _ in range(200):
        row = rng.integers(len(seen.gain))
        one = shown(seen, row, 0, 3)
        phi = [np.array(context(one, k)) for k in range(3)]
        one = serve(player, seen, row)
        for k, x in enumerate(phi[: one.exit + 1]):
            a = np.eye(FEATURES) + sum((np.outer(p, p) for p, _ in history[k]), np.zeros(()))
            b = sum((p * y for p, y in history[k]), np.zeros(FEATURES))
            value = np.linalg.solve(a, b) @ x + 0.7 * np.sqrt(x @ np.linalg.solve(a, x))
            assert abs(value) < 1e-9 or (one.exit > k) == (value > 0)
        worth = (seen.gain[row] - 0.5 * seen.load)[: one.exit + 1]
        for j in range(one.exit):
            history[j].append((phi[j], worth[one.exit] - worth[j]))
        player.learn(one, worth.tolist())
    assert all(history)
    for k in range(3):
        a = np.eye(FEATURES) + sum(np.outer(p, p) for p, _ in history[k])
        np.testing.assert_allclose(player.inverse[k], np.linalg.inv(a), atol=1e-10)
    before, same = shown(seen, 0, 0, 1), seen.prediction[0, 0] == seen.prediction[0, 1]
    first, second = before.confidences
    assert context(before, 0) == (1, first, first**2, 0, 0)
    assert context(before, 1) == (1, second, second**2, same, first)


def learned(rule):
    """A player of four exits that has seen some rows."""
    seen, player = rows_of(), rule.player(4)
    for row in range(100):
        one = serve(player, seen, row)
        player.learn(one, (seen.gain[row] - 0.2 * seen.load)[: one.exit + 1].tolist())
    return player


BROKEN = [
    (LinUCB(), change)
    for change in (
        {"more": 1}, {"target": [[0.0] * 5] * 2}, {"target": [[float("nan")] * 5] * 3}, {"inverse": "x"},
        *({"inverse": [matrix.tolist()] * 3} for matrix in (3 * np.eye(5), -np.eye(5), 0.5 * np.eye(5) + 0.1 * np.eye(5, k=1))),
    )
] + [
    (UEEUCB((0.0, 0.2, 0.4, 0.6)), change)
    for change in (
        {"rounds": -1}, {"reached": [1, 2]}, {"reached": [1, 2, 3, 4]}, {"differ": 3}, {"rounds": 3},
        {"differ": [[], [10**6], [0, 0], [0, 0, 0]]}, {"differ": [[], [0.5], [0, 0], [0, 0, 0]]},
        {"more": 1},
    )
]  # fmt: skip


@pytest.mark.parametrize(("rule", "change"), BROKEN)
def test_broken_states_and_feedback_are_refused(rule, change):
    player, one = learned(rule), shown(rows_of(), 0, 0, 1)
    good = player.state()
    with pytest.raises(InputError):
        player.restore({**good, **change})
    if isinstance(rule, LinUCB):
        for worth, confidence in (([0.0, float("nan")], 0.5), ([0.0, 0.1], float("nan"))):
            one.confidences = [confidence, 1.0]
            with pytest.raises(InputError, match="worth"):
                player.learn(one, worth)
    assert player.state() == good


@pytest.mark.parametrize("side", [False, True])
def test_splitee_rewards_and_exits_by_the_paper(side):
    seen, rule = rows_of(), split_rule(mu=0.7, side=side)
    exits, player = rule.exits(seen.confidence), rule.player(4)
    for row, confidence in enumerate(seen.confidence.tolist()):
        stays = [i == 3 or confidence[i] >= 0.7 for i in range(4)]
        due = [
            confidence[i if stays[i] else 3] - 0.7 * (price + (not stays[i]) * rule.offload)
            for i, price in enumerate(rule.layers)
        ]
        for i in range(4):
            left = i if stays[i] else 3
            assert exits[row, i] == left
            found = dict(player.rewards(shown(seen, row, i, left)))
            known = [j for j in range(i + 1) if left == 3 or confidence[j] >= 0.7]
            assert list(found) == (known if side else [i])
            for j, reward in found.items():
                assert reward == pytest.approx(due[j], abs=1e-12)
                assert -1e-9 <= reward - player._least <= player._width + 1e-9


def choose_by_history(rule, history, t):
    """UEE-UCB's rule, from the list of all predictions that were seen."""
    exits = len(rule.costs)
    if not any(len(seen) == exits for seen in history):
        return exits - 1
    for i in range(exits):
        fits = True
        for j in range(i + 1, exits):
            both = [seen[i] != seen[j] for seen in history if len(seen) > j]
            bound = sum(both) / len(both) + math.sqrt(rule.alpha * math.log(t) / len(both))
            fits &= rule.costs[j] - rule.costs[i] >= bound
        if fits:
            return i
    raise AssertionError


@pytest.mark.parametrize("exits", [1, 2, 4])
def test_uee_is_its_rule_on_the_history(exits):
    seen, rule = rows_of(exits=exits), UEEUCB(tuple(0.9 * k for k in range(exits)))
    requests = Requests(PLAN, seen.sizes, 1, seed=1, label_share=0.8)
    (block,) = requests
    history, arms = [], ExitPlayer(rule, seen, requests).play(block)[:, 0]
    for t, row in enumerate(block.row[:, 0]):
        assert arms[t] == choose_by_history(rule, history, t + 1)
        if block.arrives[t, 0]:
            history.append(seen.prediction[row, : arms[t] + 1].tolist())
    assert exits == 1 or len(set(arms.tolist())) > 1


WRONG = [
    lambda: split_rule(layers=()), lambda: split_rule(layers=(0.2, 0.1)), lambda: split_rule(side=1),
    lambda: split_rule(layers=(-0.1,)), lambda: split_rule(alpha=1.5), lambda: split_rule(offload=-1.0),
    lambda: split_rule(mu=float("nan")), lambda: split_rule(beta=0.0), lambda: UEEUCB(()), lambda: LinUCB(alpha=0.0),
    lambda: UEEUCB((0.2, 0.1)), lambda: UEEUCB((float("nan"),)), lambda: UEEUCB((0.0,), alpha=0),
    *(lambda rule=rule, more=more: ExitPlayer(rule, rows_of(), Requests(PLAN, (400,), 3), **more)
      for rule, more in ((split_rule(3), {}), (UEEUCB((0.0,)), {}), (LinUCB(), {"delay": -1}))),
]  # fmt: skip


@pytest.mark.parametrize("make", WRONG)
def test_settings_are_checked(make):
    with pytest.raises(InputError):
        make()
