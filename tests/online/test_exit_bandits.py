"""LinUCB, SplitEE and UEE-UCB: against histories kept in lists, and one stream against many."""

from __future__ import annotations

import json

import numpy as np
import pytest

from policyopt.online.exit_players import LinUCBPlayer
from policyopt.online.outcomes import Outcomes
from policyopt.online.requests import Requests
from policyopt.online.schedule import make_schedule
from policyopt.runtime.errors import InputError
from policyopt.runtime.online.linucb import FEATURES, LinUCB, context, contexts


def rows_of(n=400, exits=4, seed=0):
    """Outcomes of a cascade whose confidence grows, with the classes it predicts."""
    rng = np.random.default_rng(seed)
    confidence = np.sort(rng.uniform(0.2, 1.0, (n, exits)), axis=1)
    noisy = np.clip(confidence + rng.normal(0, 0.05, confidence.shape), 0, 1)
    prediction = (rng.random((n, exits)) > confidence).astype(np.int32)
    gain = np.maximum(noisy - noisy[:, :1], 0.0)
    load = np.linspace(0, 1, exits)
    cost = np.broadcast_to(1 + load, (n, exits))
    return Outcomes(("test",), (n,), noisy, gain, load, cost, prediction == 0, noisy, prediction)


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
                before = seen.confidence[row, k - 1] if k else 0.0
                same = bool(k) and seen.prediction[row, k] == seen.prediction[row, k - 1]
                phi = context(seen.confidence[row, k], before, same)
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
        assert (one.inverse == player._many.inverse[r]).all()
        assert (one.target == player._many.target[r]).all()
    if exits > 2:
        assert len(set(many.ravel().tolist())) > 2


def test_linucb_is_ridge_regression_on_the_history():
    """A and b built anew from all that was seen; theta from a solver."""
    seen = rows_of(seed=5)
    phi, rng = contexts(seen.confidence, seen.prediction), np.random.default_rng(0)
    one = LinUCB(alpha=0.7).one(4)
    history = [[] for _ in range(3)]
    for _ in range(200):
        row = rng.integers(len(phi))
        k = 0
        while k < 3:
            a = np.eye(FEATURES) + sum((np.outer(p, p) for p, _ in history[k]), np.zeros(()))
            b = sum((p * y for p, y in history[k]), np.zeros(FEATURES))
            x = phi[row, k]
            value = np.linalg.solve(a, b) @ x + 0.7 * np.sqrt(x @ np.linalg.solve(a, x))
            assert abs(value) < 1e-9 or one.go_on(k, x) == (value > 0)
            if not one.go_on(k, x):
                break
            k += 1
        worth = (seen.gain[row] - 0.5 * seen.load)[: k + 1]
        for j in range(k):
            history[j].append((phi[row, j], worth[k] - worth[j]))
        one.learn(list(phi[row, :k]), worth.tolist())
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
        ("test",), (5000,), confidence, gain, np.array([0.0, 1.0]), 1.0 + zeros, None,
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
    assert (again.inverse == one.inverse).all() and (again.target == one.target).all()
    again.learn([context(0.3, 0, False)], [0.0, 0.1])  # may be written to
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
