"""Reinforcement learning against exact dynamic programming, finite differences and hand-made cases."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from checks import exits_taken
from scipy.optimize import check_grad
from synthetic import cache, chain

import policyopt as po
from policyopt._methods.backward_induction import iterate
from policyopt._methods.halting import climb, worth_and_slope
from policyopt._methods.registry import make_method
from policyopt._methods.reinforcement import (
    DQN,
    GO_ON,
    LEAVE,
    REINFORCE,
    Episodes,
    EPNet,
    at_price,
    bootstrapped,
    difference,
    outputs_at,
    returns,
    roll,
    samples_of,
    seen_at_all,
)
from policyopt._progress import progress_callback
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._artifact import from_dict, to_dict
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import make_rule

COSTS = np.array([1.0, 2.0, 4.0, 8.0])


def best_of_all(signal, reward):
    """The worth of the best of the 512 policies that leave by signal and exit."""
    best = -np.inf
    for leave in itertools.product([False, True], repeat=9):
        stops = np.array(leave).reshape(3, 3)[np.arange(3)[None], signal[:, :3]]
        exits = np.where(stops.any(axis=1), stops.argmax(axis=1), 3)
        best = max(best, float(np.take_along_axis(reward, exits[:, None], axis=1).mean()))
    return best


def worth_of(scores, reward):
    exits = first_exit(scores, np.zeros(reward.shape[1] - 1))
    return float(np.take_along_axis(reward, exits[:, None], axis=1).mean())


def tabular(signal, success):
    """Evidence with a column per signal."""
    return SimpleNamespace(
        columns=[np.eye(3)[signal[:, k]] for k in range(3)], doubt=np.ones((len(signal), 3)),
        success=success, fold=np.arange(len(signal)) % 5,
    )  # fmt: skip


def test_fitted_q_equals_the_best_of_all_policies_of_a_small_chain():
    signal, success = chain(60_000, 0)
    seen = tabular(signal, success)
    prices = np.array([0.004, 0.02, 0.05, 0.12])
    taken = []
    for cross in (True, False):
        rows = seen.columns, seen.doubt, success
        found = iterate(*rows, COSTS, seen.fold, 1e-6, cross, prices)
        taken.append(exits_taken(found, seen.columns, seen.fold))
    for i, price in enumerate(prices):
        reward = success - price * COSTS
        best = best_of_all(signal, reward)
        for exits in taken:
            mine = np.take_along_axis(reward, exits[:, i : i + 1], axis=1).mean()
            assert mine == pytest.approx(best, abs=1e-3)


def test_fitted_q_is_the_papers_iteration():
    """Ernst et al., figure 1, row by row with scikit-learn's Ridge in place of their trees."""
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    n, columns = 300, [rng.normal(size=(300, 4)) for _ in range(2)]
    columns = [(c - c.mean(axis=0)) / c.std(axis=0) for c in columns]
    success, costs, price = rng.random((n, 3)), np.array([1.0, 2.0, 3.0]), 0.2
    found = iterate(
        columns, np.ones((n, 2)), success, costs, np.arange(n) % 5, 7.0, False, np.array([price])
    )
    after = success[:, 2] - price * 3.0
    for k in (1, 0):
        stop = Ridge(alpha=7.0).fit(columns[k], success[:, k] - price * costs[k])
        on = Ridge(alpha=7.0).fit(columns[k], after)
        theta = found.theta[-1, k, :, 0]
        np.testing.assert_allclose(theta[1:], stop.coef_ - on.coef_, atol=1e-9)
        assert theta[0] == pytest.approx(stop.intercept_ - on.intercept_)
        after = np.maximum(stop.predict(columns[k]), on.predict(columns[k]))


def test_the_gradient_is_that_of_the_expected_worth():
    """Against finite differences, and the worth against the sum over exits as written."""
    rng = np.random.default_rng(0)
    x, reward = rng.normal(size=(40, 3, 5)), rng.normal(size=(40, 4))

    def worth(flat):
        z = np.einsum("nkm,km->nk", x, flat.reshape(3, 5))
        s, on = sigmoid(z), np.cumprod(1 - sigmoid(z), axis=1)
        p = np.stack([s[:, 0], on[:, 0] * s[:, 1], on[:, 1] * s[:, 2], on[:, 2]], axis=1)
        np.testing.assert_allclose(worth_and_slope(z, reward)[0], (p * reward).sum(axis=1))
        return float((p * reward).sum(axis=1).mean())

    def slope(flat):
        z = np.einsum("nkm,km->nk", x, flat.reshape(3, 5))
        return (np.einsum("nk,nkm->km", worth_and_slope(z, reward)[1], x) / 40).ravel()

    for _ in range(5):
        assert check_grad(worth, slope, rng.normal(size=15)) < 1e-6


def test_policy_gradient_equals_the_best_of_all_policies_of_a_small_chain():
    """From coins that do not look the exact gradient finds the best of 512."""
    signal, success = chain(20_000, 0)
    columns = [np.insert(np.eye(3)[signal[:, k]], 0, 1.0, axis=1) for k in range(3)]
    for price in (0.004, 0.02, 0.05, 0.12):
        reward = success - price * COSTS
        theta = climb(np.zeros((3, 4)), columns, reward, 1e-6, 200)
        scores = np.stack([c @ t for c, t in zip(columns, theta, strict=True)], axis=1)
        scores = np.insert(scores, 3, 0.0, axis=1)
        assert worth_of(scores, reward) == pytest.approx(best_of_all(signal, reward), abs=1e-3)


def test_sampled_slopes_average_to_the_exact_ones():
    """REINFORCE with any baseline, and actor-critic with the true value, are unbiased."""
    rng = np.random.default_rng(0)
    z, reward = rng.normal(size=(1, 3)), rng.normal(size=(1, 4))
    _, exact = worth_and_slope(z, reward)
    leave, count = sigmoid(z), 400_000
    tails, reached = roll(np.repeat(leave, count, axis=0), rng.random((count, 3)))
    value = np.empty((1, 3))
    onward = reward[:, 3]
    for k in (2, 1, 0):
        onward = value[:, k] = leave[:, k] * reward[:, k] + (1 - leave[:, k]) * onward
    many, values = np.repeat(reward, count, axis=0), np.repeat(value, count, axis=0)
    for gain, baseline in (
        (returns(reached, many)[:, None], 0.0),
        (returns(reached, many)[:, None], 0.7),
        (bootstrapped(tails, many, values), values),
    ):
        slope = (tails - leave) * (gain - baseline) * reached[:, :-1]
        error = slope.std(axis=0) / count**0.5
        assert (np.abs(slope.mean(axis=0) - exact[0]) < 4 * error + 1e-12).all()
        assert (error < 0.005).all()


@pytest.mark.parametrize("critic", [False, True])
def test_reinforce_learns_the_small_chain(critic):
    """Near the best of all policies, and far over the best single exit."""
    signal, success = chain(5000, 0)
    seen = tabular(signal, success)
    method = REINFORCE(critic=critic, steps=400, learning_rate=0.05)
    found = method.train(seen, COSTS, 0)
    for place in (7.0, 9.0):
        reward = success - found.prices[int(place)] * COSTS
        theta = found.at(place)[-1]
        scores = np.stack([seen.columns[k] @ theta[k, 1:] + theta[k, 0] for k in range(3)], axis=1)
        mine, best = (
            worth_of(np.insert(scores, 3, 0.0, axis=1), reward),
            best_of_all(signal, reward),
        )
        static = reward.mean(axis=0).max()
        assert best - mine < 0.01 + 0.15 * (best - static)


def small_samples(rows=4000):
    signal, success = chain(rows, 1)
    return signal, samples_of([np.eye(3)[signal[:, k]] for k in range(3)], success, COSTS)


def exact_advantage(signal, samples, price):
    """By dynamic programming over the three signals, from the rows' own moves: (3, 3), signal by exit."""
    reward = samples.success - price * samples.costs
    onward, out = reward[:, 3], np.empty((3, 3))
    for k in (2, 1, 0):
        on = np.array([onward[signal[:, k] == s].mean() for s in range(3)])
        stop = np.array([reward[signal[:, k] == s, k].mean() for s in range(3)])
        out[:, k] = stop - on
        onward = np.maximum(stop, on)[signal[:, k]]
    return out


@pytest.mark.parametrize("double", [False, True])
def test_dqn_finds_the_values_of_the_small_chain(double):
    """Q(leave) - Q(go on) against dynamic programming, over the range of prices."""
    pytest.importorskip("torch")
    signal, samples = small_samples()
    layers = DQN(steps=2500, learning_rate=0.003, double=double).train(samples, 0)
    for price in (0.05, 0.3, 1.0):
        scores = outputs_at(at_price(layers, 3, 4, price), samples.columns) * (1 + price)
        exact = exact_advantage(signal, samples, price)
        mine = np.array([[scores[signal[:, k] == s, k][0] for k in range(3)] for s in range(3)])
        assert np.abs(mine - exact).mean() < 0.03 * (1 + price)
        reward = samples.success - price * samples.costs
        assert best_of_all(signal, reward) - worth_of(scores, reward) < 0.01


def test_epnet_learns_the_small_chain():
    pytest.importorskip("torch")
    signal, samples = small_samples()
    layers = EPNet(steps=1500, learning_rate=0.005).train(samples, 0)
    for price in (0.1, 0.3, 1.0):
        reward = samples.success - price * samples.costs
        scores = outputs_at(at_price(layers, 3, 4, price), samples.columns)
        best, static = best_of_all(signal, reward), reward.mean(axis=0).max()
        assert best - worth_of(scores, reward) < 0.01 + 0.15 * (best - static)


def test_episodes_earn_the_same_by_steps_and_by_roll():
    """The state machine against the sum over whole episodes, costs per sample."""
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=(200, 2)) for _ in range(3)]
    costs = np.cumsum(rng.uniform(0.5, 2, (200, 4)), axis=1)
    samples = samples_of(columns, rng.random((200, 4)), costs)
    assert samples.costs[:, -1].mean() == pytest.approx(1.0)
    prices = rng.uniform(0.01, 1, 200)
    tails, reached = roll(np.full((200, 3), 0.4), rng.random((200, 3)))
    reward = samples.success - samples.costs * prices[:, None]
    played = Episodes(samples)
    played.start(np.arange(200), prices)
    shown = seen_at_all(samples, np.arange(200), prices)
    total, alive = np.zeros(200), np.ones(200, dtype=bool)
    for k in range(3):
        np.testing.assert_array_equal(played.observe()[alive], shown[alive, k])
        rewards, ended = played.step(np.where(tails[:, k], LEAVE, GO_ON) if k < 3 else None)
        total += np.where(alive, rewards, 0.0)
        alive &= ~ended
        played.exit[~alive] = 0  # of no matter any more
    np.testing.assert_allclose(total, returns(reached, reward))


def test_the_deployed_network_is_the_trained_one():
    """Numpy's rule with exit and price in its biases, against torch's network with them as inputs."""
    torch = pytest.importorskip("torch")
    from policyopt._methods.reinforcement import Stack

    rng = np.random.default_rng(0)
    for each in (1, 3):
        stack = Stack([28 + 4 + 1, 8, 8, 2], 3, each)
        basis = rng.normal(size=(50, 4, 28)).astype(np.float32)
        price = 0.2
        for k in range(3):
            place = np.tile(np.eye(4, dtype=np.float32)[k], (50, 1))
            x = np.concatenate([basis[:, k], place, np.full((50, 1), np.log10(0.201))], axis=1)
            x = torch.from_numpy(np.repeat(x[:, None], each, axis=1).astype(np.float32))
            q = stack(x)[:, k if each > 1 else 0].detach().numpy()
            mine = outputs_at(at_price(difference(stack.layers()), 28, 4, price), basis)
            np.testing.assert_allclose(mine[:, k], q[:, 1] - q[:, 0], atol=1e-5)


def test_the_rule_on_a_hand_made_network():
    """One hidden unit: relu(2 x_0 + b_k), times 3, plus 1; x_0 the standardised log odds of a record."""
    from policyopt.runtime._outputs import reduce_record
    from policyopt.runtime._scores import score_table

    first = np.zeros((1, 1, 7))
    first[0, 0, 0] = 2.0
    params = {
        "features": "record", "center": np.zeros((2, 7)), "scale": np.ones((2, 7)),
        "activation": "relu", "weights": [first.tolist(), [[[3.0]]]],
        "biases": [[[0.0], [1.0]], [[1.0]]],
    }  # fmt: skip
    rule = make_rule("network", params)
    outputs = [reduce_record([1, 1], [0.5, 0.8]) for _ in range(3)]
    odds = np.log(0.8 / 0.2)
    wanted = [[1.0, 4.0, 0.0], [1 + 6 * odds, 4 + 6 * odds, 0.0]]
    np.testing.assert_allclose(score_table(rule, outputs), wanted)
    rule.check(3, 0)
    for broken, words in (
        ({"activation": "cosine"}, "relu, tanh"),
        ({"scale": np.zeros((2, 7))}, "scale"),
        ({"weights": [np.zeros((1, 1, 6)), [[[3.0]]]]}, "weights of layer 0"),
        ({"biases": [[[0.0], [1.0], [2.0]], [[1.0]]]}, "biases of layer 0"),
        ({"weights": [[[[3.0]]]]}, "biases of score network"),
        ({"weights": 3}, "a list of L arrays"),
    ):
        with pytest.raises(InputError, match=words):
            make_rule("network", {**params, **broken})
    with pytest.raises(InputError, match=r"of score network.*K = 4"):
        rule.check(4, 0)


@pytest.mark.parametrize("method", ["reinforce:steps=20", "dqn:steps=50"])
def test_records_with_a_cost_each(method):
    rng = np.random.default_rng(0)
    right = rng.random((600, 3)) < [0.6, 0.7, 0.9]
    data = po.from_arrays(
        labels=np.zeros(600, int), prediction=np.where(right, 0, 1),
        confidence=np.where(right, rng.uniform(0.5, 1, (600, 3)), rng.uniform(0.2, 0.8, (600, 3))),
        costs=np.cumsum(rng.uniform(1, 2, (600, 3)), axis=1), unit="USD",
    )  # fmt: skip
    table = Tables(data).get("fit")
    budget = float(np.interp(0.8, range(3), table.mean_costs))
    (result,) = make_method(method).fit_path(table, [budget])
    assert result.expected.cost == pytest.approx(budget, rel=0.06)
    assert to_dict(from_dict(to_dict(result.policy))) == to_dict(result.policy)


def test_the_best_of_them_gains_what_optimal_stopping_gains():
    """At equal cost on unseen rows, within noise; and all of them beat chance by far."""
    tables = Tables(cache(6000, exits=4))
    fit, test = tables.get("fit"), tables.get("test")
    budgets = list(np.interp([0.5, 1.5, 2.5], range(4), fit.mean_costs))

    def accuracy(name):
        fitted = make_method(name).propose(fit, budgets)
        return np.mean([replay(f.policy, test).correct.mean() for f in fitted])

    best = accuracy("optimal_stopping")
    assert accuracy("fitted_q") == pytest.approx(best, abs=0.003)
    assert accuracy("policy_gradient") == pytest.approx(best, abs=0.005)


def test_a_missing_torch_is_named(monkeypatch):
    import sys

    from policyopt.runtime._errors import MissingExtraError

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"train 'dqn'.*policyopt\[torch\]"):
        make_method("dqn").fit_path(Tables(cache(100)).get("fit"), [2.0])
    assert make_method("dqn").lacks(Tables(cache(100)).get("fit")) == ["torch (policyopt[torch])"]


@pytest.mark.parametrize("name", ["dqn", "epnet", "reinforce"])
def test_few_rows_are_not_shown_without_end(name, monkeypatch):
    """More updates than the rows are worth are not made; small networks keep to one thread."""
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(reinforcement, "EPOCHS", 100)
    monkeypatch.setattr(reinforcement, "LEAST_UPDATES", 50)
    table = Tables(cache(200)).get("fit")
    before, threads = torch.get_num_threads(), []
    with progress_callback(lambda *_: threads.append(torch.get_num_threads())):
        most, more, fewer = (
            po.make_method(f"{name}:steps={steps}").fit_path(table, [2.0])[0].policy
            for steps in (50, 80, 10)
        )
    assert torch.get_num_threads() == before
    if name != "reinforce":
        assert threads and set(threads) == {1}
    assert most.rule.params() == more.rule.params() != fewer.rule.params()
    np.testing.assert_array_equal(most.thresholds, more.thresholds)
