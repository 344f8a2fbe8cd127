"""LinUCB, SplitEE and UEE-UCB: against histories kept in lists, and one stream against many."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policyopt.online.exit_players import LinUCBPlayer, SplitEEPlayer, UEEPlayer
from policyopt.online.outcomes import Outcomes
from policyopt.online.requests import Requests
from policyopt.online.schedule import make_schedule
from policyopt.runtime.errors import InputError
from policyopt.runtime.online.linucb import FEATURES, LinUCB, context, contexts
from policyopt.runtime.online.splitee import SplitEE
from policyopt.runtime.online.uee_ucb import UEEUCB


def rows_of(n=400, exits=4, seed=0):
    """Outcomes of a cascade whose confidence grows, with the classes it predicts."""
    rng = np.random.default_rng(seed)
    confidence = np.sort(rng.uniform(0.2, 1.0, (n, exits)), axis=1)
    noisy = np.clip(confidence + rng.normal(0, 0.05, confidence.shape), 0, 1)
    prediction = (rng.random((n, exits)) > confidence).astype(np.int32)
    gain = np.maximum(noisy - noisy[:, :1], 0.0)
    load = np.linspace(0, 1, exits)
    cost = np.tile(1.0 + load, (n, 1))
    return Outcomes(
        "confidence", ("test",), (n,), noisy, gain, load, cost, prediction == 0, noisy, prediction
    )


def requests_of(seen, rounds=300, repetitions=3, **more):
    plan = make_schedule("stationary", ["test"], rounds)
    return Requests(plan, seen.sizes, repetitions, seed=1, **more)


def arms_of(player, requests):
    return np.concatenate([player.play(block) for block in requests])


def serve_linucb(rule, seen, requests, r):
    """One stream as a server would play it: exit after exit, with late feedback left out."""
    one, arms = rule.one(seen.cost.shape[1]), []
    last = seen.cost.shape[1] - 1
    for block in requests:
        for j, row in enumerate(block.row[:, r]):
            phis, k = [], 0
            while k < last:
                before = float(seen.confidence[row, k - 1]) if k else 0.0
                same = bool(k) and seen.prediction[row, k] == seen.prediction[row, k - 1]
                phi = context(float(seen.confidence[row, k]), before, float(same))
                if not one.go_on(k, phi):
                    break
                phis.append(phi)
                k += 1
            worth = seen.gain[row] - block.overhead[j, r] * seen.load
            if block.arrives[j, r]:
                one.learn(phis, worth[: k + 1].tolist())
            arms.append(k)
    return one, arms


@pytest.mark.parametrize("exits", [1, 2, 4])
def test_linucb_one_is_many(exits):
    seen = rows_of(exits=exits)
    requests = requests_of(seen, overhead=(0.1, 0.4), label_share=0.7)
    player = LinUCBPlayer(LinUCB(), seen, requests)
    many = arms_of(player, requests)
    for r in range(3):
        one, arms = serve_linucb(LinUCB(), seen, requests, r)
        assert arms == many[:, r].tolist()
        assert one.inverse == player._many.inverse[:, :, r].transpose(2, 0, 1).tolist()
        assert one.target == player._many.target[:, r].T.tolist()
    if exits > 2:
        assert len(set(many.ravel().tolist())) > 2


def test_linucb_is_ridge_regression_on_the_history():
    """A and b built anew from all that was seen; theta from a solver."""
    seen = rows_of(seed=5)
    phi, rng = contexts(seen.confidence, seen.prediction), np.random.default_rng(0)
    one = LinUCB(alpha=0.7).one(4)
    history = [[] for _ in range(3)]
    for _ in range(200):
        row = rng.integers(phi.shape[1])
        k = 0
        while k < 3:
            a = np.eye(FEATURES) + sum((np.outer(p, p) for p, _ in history[k]), np.zeros(()))
            b = sum((p * y for p, y in history[k]), np.zeros(FEATURES))
            x = phi[:, row, k]
            value = np.linalg.solve(a, b) @ x + 0.7 * np.sqrt(x @ np.linalg.solve(a, x))
            assert abs(value) < 1e-9 or one.go_on(k, x.tolist()) == (value > 0)
            if not one.go_on(k, x.tolist()):
                break
            k += 1
        worth = (seen.gain[row] - 0.5 * seen.load)[: k + 1]
        for j in range(k):
            history[j].append((phi[:, row, j], worth[k] - worth[j]))
        one.learn(phi[:, row, :k].T.tolist(), worth.tolist())
    assert all(history)
    for k in range(3):
        a = np.eye(FEATURES) + sum(np.outer(p, p) for p, _ in history[k])
        np.testing.assert_allclose(one.inverse[k], np.linalg.inv(a), atol=1e-10)


def test_linucb_nears_the_best_rule():
    """Two exits; the gain is linear in the confidence: going on pays below 0.6 only."""
    rng = np.random.default_rng(3)
    first = rng.uniform(0, 1, 5000)
    confidence = np.stack([first, np.clip(first + 0.5 * (1 - first), 0, 1)], axis=1)
    gain = confidence - confidence[:, :1]
    zeros = np.zeros(confidence.shape, dtype=np.int32)
    seen = Outcomes(
        "confidence", ("test",), (5000,), confidence, gain, np.array([0.0, 1.0]), np.ones(confidence.shape), None,
        confidence, zeros,
    )  # fmt: skip
    requests = requests_of(seen, 4000, 3, overhead=(0.2, 0.2))
    arms = arms_of(LinUCBPlayer(LinUCB(), seen, requests), requests)
    rows = np.concatenate([block.row for block in requests])
    reward = np.where(arms == 1, gain[rows, 1] - 0.2, 0.0)[1000:].mean()
    best = np.maximum(gain[rows, 1] - 0.2, 0.0)[1000:].mean()
    static = max(0.0, (gain[rows, 1] - 0.2)[1000:].mean())
    assert best >= reward > best - 0.1 * (best - static)


def test_linucb_feedback_late_or_never():
    seen = rows_of()
    never = requests_of(seen, 50, label_share=0.0)
    assert (arms_of(LinUCBPlayer(LinUCB(), seen, never), never) == 3).all()  # it only explores
    soon = requests_of(seen, 200, overhead=(0.5, 0.5))
    arms = arms_of(LinUCBPlayer(LinUCB(), seen, soon, delay=150), soon)
    assert (arms[:150] == 3).all() and (arms[160:] < 3).any()
    with pytest.raises(InputError, match="delay"):
        LinUCBPlayer(LinUCB(), seen, soon, delay=-1)


def test_linucb_state_goes_through_json():
    seen = rows_of()
    one, _ = serve_linucb(LinUCB(), seen, requests_of(seen, overhead=(0.2, 0.2)), 0)
    again = LinUCB().one(4)
    again.restore(json.loads(json.dumps(one.state())))
    assert again.state() == one.state()
    again.learn([context(0.3)], [0.0, 0.1])  # may be written to
    good = one.state()
    broken = [
        {}, {"inverse": good["inverse"]}, {**good, "target": good["target"][:2]},
        {**good, "inverse": (3 * np.eye(5) + np.zeros((3, 1, 1))).tolist()},
        {**good, "inverse": (-np.eye(5) + np.zeros((3, 1, 1))).tolist()},
        {**good, "target": [[float("nan")] * 5] * 3}, {**good, "inverse": "x"},
    ]  # fmt: skip
    for state in broken:
        with pytest.raises(InputError):
            again.restore(state)
    with pytest.raises(InputError, match="alpha"):
        LinUCB(alpha=0.0)
    with pytest.raises(InputError, match="worth"):
        again.learn([context(0.3)], [0.0, float("nan")])
    assert np.isfinite(again.target).all()


def split_rule(exits: int = 4, **more: Any):
    layers = tuple(0.05 + 0.1 * k for k in range(exits))
    return SplitEE(**{"layers": layers, "offload": 0.15, "alpha": 0.7, **more})


def reward_of(rule, confidence, i):
    """The paper's reward of split layer i, from one sample's confidences, or None: not known."""
    last = len(confidence) - 1
    if i == last or confidence[i] >= rule.alpha:
        return confidence[i] - rule.mu * rule.layers[i]
    return confidence[last] - rule.mu * (rule.layers[i] + rule.offload)


def test_splitee_rewards_and_exits_by_the_paper():
    seen = rows_of()
    rule = split_rule(mu=0.7)
    exits, rewards = rule.exits(seen.confidence), rule.rewards(seen.confidence)
    low, width = rule.range()
    assert low <= rewards.min() and rewards.max() <= low + width
    for row, confidence in enumerate(seen.confidence.tolist()):
        for i in range(4):
            assert exits[row, i] == (i if i == 3 or confidence[i] >= 0.7 else 3)
            assert rewards[row, i] == pytest.approx(reward_of(rule, confidence, i), abs=1e-12)


@pytest.mark.parametrize("side", [False, True])
@pytest.mark.parametrize("exits", [1, 2, 4])
def test_splitee_one_is_many_and_sees_only_what_was_computed(exits, side):
    """The server hands over no confidence that it has not got."""
    seen, rule = rows_of(exits=exits), split_rule(exits, side=side, beta=0.5)
    requests = requests_of(seen, label_share=0.7)
    many = arms_of(SplitEEPlayer(rule, seen, requests), requests)
    one = rule.one(1)
    for r in range(3):
        one, arms = rule.one(seed=1, stream=r), []
        for block in requests:
            for j, row in enumerate(block.row[:, r]):
                i = one.choose()
                arms.append(i)
                reached = seen.confidence[row, : i + 1].tolist()
                leaves = one.leaves(i, reached[i])
                last = None if leaves and i < exits - 1 else float(seen.confidence[row, -1])
                if block.arrives[j, r]:
                    one.learn(reached, last)
        assert arms == many[:, r].tolist()
    again = rule.one(seed=1, stream=2)
    again.restore(json.loads(json.dumps(one.state())))
    assert [one.choose() for _ in range(5)] == [again.choose() for _ in range(5)]


def test_splitee_finds_the_best_split():
    seen = rows_of(2000)
    rule = split_rule(beta=0.1)
    requests = requests_of(seen, 6000)
    arms = arms_of(SplitEEPlayer(rule, seen, requests), requests)
    means = rule.rewards(seen.confidence).mean(axis=0)
    assert (arms[-1000:] == means.argmax()).mean() > 0.8


def test_splitee_side_observations_are_biased():
    """Not missing at random: what is lacking had low confidence at j, and much at the last exit.

    Where sending is cheap those were good rewards, and arm 0 looks worse than it is; where it is
    dear, better. From the last exit all is known, and nothing is biased.
    """
    seen, bias = rows_of(20000), []
    for offload in (0.0, 0.6):
        rule = split_rule(side=True, offload=offload, alpha=0.5)
        rewards = rule.rewards(seen.confidence)
        known = rule.known(seen.confidence, np.full(20000, 2))
        assert known[:, 2].all() and not known[:, 3].any() and not known[:, 0].all()
        bias.append(rewards[known[:, 0], 0].mean() - rewards[:, 0].mean())
    assert bias[0] < -0.03 and bias[1] > 0.03
    assert rule.known(seen.confidence, np.full(20000, 3)).all()


def test_splitee_refuses():
    cases: list[dict[str, Any]] = [
        {"layers": ()}, {"layers": (0.2, 0.1)}, {"layers": (-0.1,)}, {"alpha": 1.5},
        {"offload": -1.0}, {"mu": float("nan")}, {"side": 1}, {"beta": 0.0},
    ]  # fmt: skip
    for wrong in cases:
        with pytest.raises(InputError):
            split_rule(**wrong)
    seen = rows_of()
    with pytest.raises(InputError, match="layers"):
        SplitEEPlayer(split_rule(3), seen, requests_of(seen))


def dominant(n=4000, exits=4, seed=0):
    """Outcomes under strong dominance: once an exit is right (class 0), all later ones are."""
    seen, rng = rows_of(n, exits, seed), np.random.default_rng(seed)
    right = rng.random(n)[:, None] < np.array([0.6, 0.8, 0.9, 0.92])[:exits]
    wrong = rng.integers(1, 3, (n, 1))  # and wrong ones agree
    return replace(seen, prediction=np.where(right, 0, wrong).astype(np.int32))


def choose_by_history(rule, history, t):
    """The rule, from the list of all predictions that were seen."""
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
def test_uee_is_its_rule_on_the_history_one_and_many(exits):
    seen = dominant(400, exits)
    rule = UEEUCB(tuple(0.3 * k for k in range(exits)))
    requests = requests_of(seen, 300, label_share=0.8)
    many = arms_of(UEEPlayer(rule, seen, requests), requests)
    for r in range(3):
        one, history, t = rule.one(), [], 0
        for block in requests:
            for j, row in enumerate(block.row[:, r]):
                t += 1
                exit = one.choose()
                assert exit == many[t - 1, r] == choose_by_history(rule, history, t)
                if block.arrives[j, r]:
                    history.append(seen.prediction[row, : exit + 1].tolist())
                    one.learn(history[-1])
    if exits > 1:
        assert len(set(many.ravel().tolist())) > 1


@pytest.mark.parametrize(("price", "best"), [(0.01, 3), (0.12, 2), (0.45, 1), (1.2, 0)])
def test_uee_finds_the_least_cost_plus_error(price, best):
    seen = dominant()
    costs = price * seen.load
    assert (costs + (seen.prediction != 0).mean(axis=0)).argmin() == best
    requests = requests_of(seen, 20_000, 2)
    arms = arms_of(UEEPlayer(UEEUCB(tuple(costs)), seen, requests), requests)
    assert (arms[-2000:] == best).mean() > 0.9


def test_uee_state_goes_through_json():
    seen, rule = dominant(200), UEEUCB((0.0, 0.2, 0.4, 0.6))
    one = rule.one()
    for row in seen.prediction[:150].tolist():
        one.learn(row[: one.choose() + 1])
    good = json.loads(json.dumps(one.state()))
    again = rule.one()
    again.restore(good)
    for row in seen.prediction[150:].tolist():
        exit = one.choose()
        assert exit == again.choose()
        one.learn(row[: exit + 1])
        again.learn(row[: exit + 1])
    assert one.state() == again.state()
    broken = [
        {}, {**good, "rounds": -1}, {**good, "reached": [1, 2]}, {**good, "reached": [1, 2, 3, 4]},
        {**good, "differ": [[], [10**6], [0, 0], [0, 0, 0]]}, {**good, "differ": 3},
        {**good, "differ": [[], [0.5], [0, 0], [0, 0, 0]]}, {**good, "rounds": 3},
    ]  # fmt: skip
    for state in broken:
        with pytest.raises(InputError):
            again.restore(state)
    for wrong in ((), (0.2, 0.1), (float("nan"),)):
        with pytest.raises(InputError, match="costs"):
            UEEUCB(wrong)
    with pytest.raises(InputError, match="prediction"):
        one.learn([])
    with pytest.raises(InputError, match="costs"):
        UEEPlayer(UEEUCB((0.0,)), seen, requests_of(seen))
