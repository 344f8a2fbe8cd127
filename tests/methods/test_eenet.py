"""EENet against its paper (arXiv:2301.07099) and its release: equations by hand, gradients by differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checks import with_probabilities
from scipy.special import expit
from synthetic import cache, outputs

import policyopt as po
from policyopt._methods import eenet
from policyopt._methods.base import seed_of
from policyopt._methods.eenet import EENet, EENetReleased, Network, ReleasedNetwork, Rows, rows_of
from policyopt._methods.exit_batch import outputs_of
from policyopt._methods.threshold import Threshold
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt._thresholds.quotas import tilted_shares
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import make_rule, score_table
from policyopt.runtime._scores.eenet import eenet_inputs

QUICK = {"spend": "all", "max_epochs": 25, "learning_rate": 1e-2, "batch_size": 128, "restarts": 1}


def reduced(n=200, exits=4, classes=6, seed=0):
    logits, labels = outputs(n, exits, classes, seed)
    return with_probabilities(logits), (logits.argmax(2) == labels[:, None]).astype(float)


def small(n=5, exits=3, classes=3):
    outs, correct = reduced(n, exits, classes, 1)
    rows = rows_of(outs, correct, np.arange(1.0, exits + 1))
    rows = Rows(*(x.double() for x in (rows.inputs, rows.q, rows.r, rows.costs)))
    network = Network.start(exits, classes, 0.5, 1, "cpu")
    weights = [tuple(w.detach().double().requires_grad_() for w in e) for e in network.weights]
    return Network(weights), rows, outs


def test_targets_and_confidence_vector_by_hand():
    """(5)-(7): maximum, normalised entropy, share of the leading class among the votes so far."""
    q, r = eenet.targets(np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]))
    np.testing.assert_array_equal(q[0], [1, 0, 1])
    np.testing.assert_allclose(r, [[0.5, 0, 0.5], [1 / 3] * 3, [0, 1, 0]])
    p = np.array([[[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.6, 0.2, 0.2]]])
    votes = np.empty((1, 0), dtype=np.int32)
    for k, vote in enumerate([1, 1 / 2, 2 / 3]):
        x, votes = eenet_inputs(k, with_probabilities(np.log(p))[k], votes)
        entropy = 1 + (p[0, k] * np.log(p[0, k])).sum() / np.log(3)
        np.testing.assert_allclose(x[0], [*p[0, k], p[0, k].max(), entropy, vote], atol=1e-6)
    np.testing.assert_array_equal(votes, [[0, 1, 0]])


def test_losses_by_hand():
    """(11)-(15) with loops, the minus sign of (12) put in; costs per exit and per sample."""
    rng = np.random.default_rng(0)
    n, exits, budget = 4, 3, 1.7
    for costs in (np.array([[1.0, 2.0, 4.0]]), rng.random((n, exits)).cumsum(1)):
        u, a = rng.normal(size=(2, n, exits))
        q, r = eenet.targets(rng.random((n, exits)) < 0.5)
        q_hat, r_hat = expit(u), np.exp(a) / np.exp(a).sum(1, keepdims=True)
        loss_g = loss_ce = planned = 0.0
        for i, k in np.ndindex(n, exits):
            w = (1 - r_hat[i, :k].sum()) / (1 - r_hat[:, :k].sum(axis=1)).sum()
            right = q[i, k] * np.log(q_hat[i, k]) + (1 - q[i, k]) * np.log(1 - q_hat[i, k])
            loss_g -= w * right / exits
            loss_ce -= np.log(r_hat[i, k]) * r[i, k] / (n * exits)
            planned += r_hat[i, k] * np.broadcast_to(costs, (n, exits))[i, k] / n
        wanted = (loss_g, abs(budget - planned) / budget, loss_ce)
        rows = Rows(None, *(torch.tensor(x) for x in (q, r, costs)))
        u, a = (torch.tensor(x, requires_grad=True) for x in (u, a))
        found = eenet.losses(u, a, rows, budget)
        np.testing.assert_allclose([float(loss.detach()) for loss in found], wanted)
        # In L_g the weights (13) are held: they carry no gradient.
        for loss, moves in zip(found, ((True, False), (False, True), (False, True)), strict=True):
            slopes = torch.autograd.grad(loss, (u, a), retain_graph=True, allow_unused=True)
            assert tuple(slope is not None for slope in slopes) == moves


def test_equation_8_to_10_with_loops():
    network, rows, outs = small(3, 3, 4)
    rule, width = eenet.rule_of(network), round(0.5 * (4 + 3))
    assert rule.operations(0, 4) == width * (4 + 3) + width
    utility, assignment = (t.detach().numpy() for t in network.forward(rows.inputs))
    np.testing.assert_allclose(score_table(rule, outs), expit(utility), atol=1e-6)
    for i in range(3):
        past = []
        for k, weights in enumerate(network.weights):
            shared, to_q, to_r = (w.detach().numpy() for w in weights)
            z = shared @ np.array([*rows.inputs[i, k].tolist(), *past])
            s = np.maximum(0, z) + 0.01 * np.minimum(0, z)
            np.testing.assert_allclose((utility[i, k], assignment[i, k]), (to_q @ s, to_r @ s))
            past.append(expit(utility[i, k]))


def literal_algorithm_1(scores, p):
    """The listing, line by line; quotas of 0 and quotas beyond what is left as the code's docstring says."""
    n_rows, exits = scores.shape
    gone, t = np.zeros(n_rows, bool), [1e8] * (exits - 1)
    for k in range(exits - 1):
        quota = min(round(n_rows * p[k]), n_rows - sum(gone))
        order = sorted(range(n_rows), key=lambda n: -scores[n, k])  # stable, most utilizable first
        leave = [n for n in order if not gone[n]][:quota]
        gone[leave] = True
        if leave:
            t[k] = scores[leave[-1], k]
    return t


def test_algorithm_1_is_the_listing():
    rng = np.random.default_rng(0)
    for case in range(500):
        n, exits = rng.integers(1, 12), rng.integers(2, 5)
        scores = rng.random((n, exits))
        scores = np.round(scores * 3) if case % 2 else scores  # ties
        p = rng.dirichlet(np.ones(exits) * rng.choice([0.2, 1, 5]))
        found = eenet.algorithm_1(scores, p)
        found[found == NEVER] = 1e8
        np.testing.assert_array_equal(found, literal_algorithm_1(scores, p))


def test_early_stopping_restores_the_best():
    outs, correct = reduced(400)
    rows = rows_of(outs, correct, np.array([1.0, 2, 4, 8]) / 8)
    rest, held = rows.take(slice(0, 60)), rows.take(slice(60, 400))
    steep = {"learning_rate": 0.05, "weight_decay": 0.0, "batch_size": 20}  # it overfits
    schedule = EENet(alpha=0.1, patience=10, max_epochs=100, **steep)
    start = Network.start(4, 6, 2.0, 0, "cpu")
    before = [w.detach().clone() for w in start.parameters()]
    best, curve = eenet.train(start, rest, held, 0.3, schedule, 0)
    assert 0 < int(np.argmin(curve)) == len(curve) - 1 - schedule.patience
    with torch.no_grad():
        assert float(eenet.total_loss(schedule, best, held, 0.3)) == min(curve) < curve[-1]
    # The start is left alone.
    assert all(map(torch.equal, before, start.parameters()))


def test_of_the_restarts_the_least_held_out_loss_is_kept(tables):
    table, short = tables.get("fit"), {"batch_size": 128, "max_epochs": 8}
    parts = eenet.divide(table, 0.3, 0)
    rest, held = (rows_of(outputs_of(t), t.quality, t.costs / 8) for t in parts)
    runs = []
    for i in range(3):
        start = Network.start(4, 6, 0.5, seed_of(0, i, 0), "cpu")
        runs.append(eenet.train(start, rest, held, 3 / 8, EENet(**short), seed_of(0, i, 1)))
    for restarts, network in ((1, runs[0][0]), (3, min(runs, key=lambda run: min(run[1]))[0])):
        (result,) = EENet(**short, restarts=restarts, spend="all").fit_path(table, [3.0])
        assert result.policy.rule.params() == eenet.rule_of(network).params()


def test_tilt_is_the_nearest_distribution_of_its_cost():
    p, costs = np.array([0.5, 0.3, 0.2]), np.array([1.0, 2.0, 5.0])
    best = tilted_shares(p, costs, 0.7)
    rng = np.random.default_rng(0)
    across = np.cross(np.ones(3), costs)  # keeps the sum and the cost
    for step in rng.normal(size=50) * 0.01:
        other = best + step * across / np.abs(across).max()
        assert (other * np.log(other / p)).sum() >= (best * np.log(best / p)).sum()


@pytest.fixture(scope="module")
def tables():
    return Tables(cache(n=2000))


@pytest.mark.parametrize("method", [EENet(**QUICK), EENetReleased(max_epochs=20, restarts=1, spend="all")])
def test_meet_keeps_the_budget_on_held_out_rows(method, tables):
    state = torch.random.get_rng_state()
    _, held = eenet.divide(tables.get("fit"), method.holdout, 0)
    for result in method.fit_path(tables.get("fit"), [1.0, 1.3, 3.7, 8.0]):
        cost = replay(result.policy, held).cost.mean()
        assert result.budget * 0.99 <= cost <= result.budget * 1.000001
        assert result.expected.rows == len(held)
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_meet_thresholds_are_algorithm_1s(tables):
    table, method = tables.get("fit"), EENet(**QUICK, meet=False)
    (result,) = method.fit_path(table, [3.0], seed=4)
    (met,) = replace(method, meet=True).fit_path(table, [3.0], seed=4)
    _, held = eenet.divide(table, method.holdout, 4)
    scores = score_table(result.policy.rule, outputs_of(held))
    # Quotas are what left, whatever they were: the listing finds the same thresholds again.
    found = eenet.algorithm_1(scores, shares(result, held))
    np.testing.assert_array_equal(found, result.policy.thresholds)
    assert met.policy.rule.params() == result.policy.rule.params()
    assert abs(result.expected.cost - 3.0) < 0.5  # the loss (14) is soft, but it is a loss


def shares(result, held):
    return np.bincount(replay(result.policy, held).exit, minlength=4) / len(held)


def test_ablations_differ_in_their_part_only(tables):
    table = tables.get("fit")
    full, no_scores, no_distribution, neither = (
        EENet(**QUICK, scores=s, distribution=d).fit_path(table, [3.0])[0]
        for d in ("learned", "geometric")
        for s in ("learned", "max_prob")
    )
    assert full.policy.rule.name == no_distribution.policy.rule.name == "eenet"
    assert full.policy.rule.params() == no_distribution.policy.rule.params()
    assert no_scores.policy.rule.name == neither.policy.rule.name == "max_prob"
    _, held = eenet.divide(table, 0.3, 0)
    # Quotas belong to the distribution, whoever scores (but for a sample or two of small change).
    for one, other in ((full, no_scores), (no_distribution, neither)):
        np.testing.assert_allclose(shares(one, held), shares(other, held), atol=0.02)
    plain = Threshold("max_prob").fit_path(held, [3.0])[0]
    np.testing.assert_array_equal(plain.policy.thresholds, neither.policy.thresholds)


def planted(n=4000):
    rng = np.random.default_rng(0)
    said = rng.integers(0, 2, n)
    sure = np.where(said == 0, 0.5 + 0.3 * rng.random(n), 0.85 + 0.15 * rng.random(n))
    first = np.log(np.where(said[:, None] == np.arange(2), sure[:, None], 1 - sure[:, None]))
    labels = np.where((said == 1) & (rng.random(n) < 0.5), 0, said)
    last = np.where(labels[:, None] == np.arange(2), 4.0, 0.0)
    return np.stack([first, last], axis=1).astype(np.float32), labels.astype(np.int32)


@pytest.mark.parametrize(
    "method",
    [EENet(**QUICK), EENetReleased(learning_rate=1e-2, max_epochs=60, restarts=2, batch_size=64)],
)
def test_learned_scores_find_what_confidence_hides(method):
    tables = Tables(po.from_arrays(*planted(), [1.0, 2.0], split={"fit": 0.5, "test": 0.5}))
    fits = (m.fit_path(tables.get("fit"), [1.5])[0] for m in (method, Threshold("max_prob")))
    ours, plain = (replay(fit.policy, tables.get("test")).quality.mean() for fit in fits)
    assert ours > 0.95 > 0.85 > plain


def test_warm_training_is_the_same_alone_and_in_a_path(tables):
    table, method = tables.get("fit"), EENet(training="warm", max_epochs=5, restarts=2, spend="all")
    path, (alone,) = (method.fit_path(table, budgets) for budgets in ([2.0, 5.0], [5.0]))
    low, high, same = (one.policy.rule.params() for one in (*path, alone))
    assert low != high == same


def test_a_device_that_is_not_there_is_refused(tables):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="device"):
            EENet(device="cuda").fit_path(tables.get("fit"), [3.0])


def test_released_losses_by_hand():
    outs, correct = reduced(5, 3, 4)
    network = ReleasedNetwork.drawn(3, 4, 0.5, torch.Generator().manual_seed(3))
    x = np.stack([np.exp(o.log_prob) for o in outs], axis=1)
    certainty = 1 + (x * np.log(x)).sum(2) / np.log(4)
    inputs = np.concatenate([x, x.max(2)[..., None], certainty[..., None]], axis=2)
    q_hat, rho = np.empty((5, 3)), np.empty((5, 3))
    for i, k in np.ndindex(5, 3):
        z = np.array([*inputs[i, k], *q_hat[i, :k]])
        score, w1, b1, w2, b2 = (w.detach().numpy() for w in network.weights[k])
        q_hat[i, k] = np.clip(score @ z, 0, 1)
        rho[i, k] = expit(w2 @ expit(w1 @ z + b1) + b2[0])
    r = np.exp(rho) / np.exp(rho).sum(1, keepdims=True)
    assert r.min() >= 1 / (1 + 2 * np.e) and r.max() <= np.e / (np.e + 2)
    logs = np.maximum(np.log(np.maximum(np.where(correct > 0, q_hat, 1 - q_hat), 1e-300)), -100)
    target = q_hat / np.maximum(q_hat.sum(1, keepdims=True), 1e-12)
    target[q_hat.sum(1) == 0] = 1 / 3
    divergence = np.where(target > 0, target * np.log(np.maximum(target, 1e-300) / r), 0)
    planned = (r * [1, 2, 4]).sum(1).mean()
    wanted = -(r / r.sum(0) * logs).sum() / 3, divergence.mean(), abs(planned - 2.5) / 2.5
    tensors = (torch.tensor(a).float() for a in (inputs, correct, [[1.0, 2.0, 4.0]]))
    found = eenet.released_losses(network, *tensors, 2.5, 1.0)
    np.testing.assert_allclose([float(f.detach()) for f in found], wanted, rtol=2e-5)
    found[0].backward()  # r weighs L_q, outside the graph
    assert all(w.grad is None for e in network.weights for w in e[1:])
    rule = make_rule("eenet_released", {"weights": [w.tolist() for w in network.scores]})
    np.testing.assert_allclose(np.clip(score_table(rule, outs), 0, 1), q_hat, atol=1e-6)


def test_released_plan_cannot_reach_low_budgets(tables):
    """Softmax of sigmoids: at least 1/(1+3e) of the samples are planned for the last exit."""
    method = EENetReleased(learning_rate=1e-2, meet=False, max_epochs=40)
    (result,) = method.fit_path(tables.get("fit"), [1.2])
    assert result.expected.cost > (np.e * 1 + 2 + 4 + 8) / (np.e + 3) * 0.99 > 1.2


def test_released_thresholds_by_hand():
    scores = np.array([[0.9, 0.1, 0], [0.8, 1.7, 0], [0.3, 0.2, 0], [-0.1, 0.4, 0]])
    for planned, wanted in (([0.3, 0.6, 0.1], [0.9, 0.4]), ([0.2, 0, 0.8], [NEVER] * 2)):
        found = eenet.released_thresholds(scores, np.array(planned))
        np.testing.assert_array_equal(found, wanted)
    assert eenet.released_thresholds(scores, np.array([1.0, 0, 0]))[0] == -0.1 > ALWAYS
