"""What learns when to stop, against exact dynamic programming, brute force, closed forms and libraries."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from checks import batch_of, exits_taken, fit_one, fit_table, pool, with_probabilities
from scipy.optimize import approx_fprime, least_squares
from scipy.special import expit
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from synthetic import cache, chain, hopeless, outputs

import policyopt as po
from policyopt._answers.logistic import weighted_logistic
from policyopt._methods import halting
from policyopt._methods import reinforcement as rl
from policyopt._methods.exit_batch import build_stopping_data, columns_of
from policyopt._methods.lagrangian import backward_induction, layer_by_layer, q_iteration
from policyopt._methods.learned_score import BERxiT, no_failure
from policyopt._methods.prototypes import E2CM
from policyopt._methods.registry import make_method
from policyopt._progress import progress
from policyopt._replay import replay
from policyopt._report.calibration import Observed, calibration_records, failure_auroc
from policyopt._table import Tables
from policyopt.runtime._errors import MissingExtraError
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import Logistic, score_table

COSTS = np.array([1.0, 2.0, 4.0, 8.0])
PRICES = np.array([0.004, 0.02, 0.05, 0.12])


# Backwards: the advantage, its sign, Q.
def tabular(signal, success, **more):
    columns = [np.eye(3)[signal[:, k]] for k in range(success.shape[1] - 1)]
    return rows_of(columns, success, **more)


def rows_of(columns, success, doubt=None, folds=5, **more):
    doubt = np.ones((len(success), len(columns))) if doubt is None else doubt
    fold = np.arange(len(success)) % folds
    return SimpleNamespace(columns=columns, success=success, doubt=doubt, fold=fold, **more)


def best_of_all(signal, reward):
    last, best = reward.shape[1] - 1, -np.inf
    for leave in itertools.product([False, True], repeat=3 * last):
        stops = np.array(leave).reshape(last, 3)[np.arange(last)[None], signal[:, :last]]
        exits = np.where(stops.any(axis=1), stops.argmax(axis=1), last)
        best = max(best, worth_at(exits, reward))
    return best


def worth_at(exits, reward):
    return float(np.take_along_axis(reward, exits[:, None], axis=1).mean())


def worth_of(scores, reward):
    """What leaving at the first exit whose score, of those before the last, is not negative is worth."""
    scores = np.hstack([scores[:, : reward.shape[1] - 1], np.zeros((len(scores), 1))])
    return worth_at(first_exit(scores, np.zeros(reward.shape[1] - 1)), reward)


LEARNERS = {
    "optimal_stopping": lambda *a: backward_induction(*a, PRICES),
    "bolukbasi": lambda *a: layer_by_layer(*a, PRICES),
    "fitted_q": lambda *a: q_iteration(*a, PRICES, True),
    "fitted_q:cross=false": lambda *a: q_iteration(*a, PRICES, False),
}


def test_equals_the_best_of_all_policies_of_a_small_chain():
    """With a column per signal the regression is tabular: it finds the best of all 512 policies."""
    signal, chance = chain(60_000, 0)
    success = (np.random.default_rng(1).random(chance.shape) < chance).astype(float)
    rewards = [success - price * COSTS for price in PRICES]
    best = [best_of_all(signal, reward) for reward in rewards]
    seen = tabular(signal, success)
    for name, learner in LEARNERS.items():
        taken = exits_taken(learner(seen, COSTS, 1e-6), seen.columns, seen.fold).T
        mine = [worth_at(exits, reward) for exits, reward in zip(taken, rewards, strict=True)]
        assert mine == pytest.approx(best, abs=1e-3), name


def test_the_regression_is_weighted_ridge():
    """Each exit's last fit equals scikit-learn's Ridge on standardised columns, weights given."""
    rng = np.random.default_rng(1)
    columns, doubt = rng.normal(size=(400, 6)) * [1, 2, 3, 4, 5, 6] + 1, rng.random((400, 1))
    success = rng.random((400, 2))
    seen = rows_of([columns], success, doubt, folds=4)
    found = backward_induction(seen, np.array([1.0, 3.0]), 25.0, np.array([0.1, 0.2]))
    weight = 1 / (doubt[:, 0] + 0.02)
    for g, rows in ((4, np.ones(400, bool)), (2, seen.fold != 2)):
        w = weight[rows] / weight.mean()
        target = (success[rows, 0] - success[rows, 1]) + 0.1 * 2.0
        mean = np.average(columns[rows], axis=0, weights=w)
        sd = np.sqrt(np.average((columns[rows] - mean) ** 2, axis=0, weights=w))
        ridge = Ridge(alpha=25.0).fit((columns[rows] - mean) / sd, target, sample_weight=w)
        np.testing.assert_allclose(found.theta[g, 0, 1:, 0], ridge.coef_ / sd, rtol=1e-6)


def test_rows_without_labels_count():
    logits, labels = outputs(3000, seed=5)
    labels[np.random.default_rng(0).permutation(3000)[200:]] = -1
    table = fit_table(pool(logits, labels))
    assert len(build_stopping_data(table, "combined", 1.0, 5, 0).success) == 3000
    expected = fit_one("optimal_stopping", table, 3.0).expected
    assert expected.rows == 3000 and expected.cost == pytest.approx(3.0, rel=0.01)


def test_no_row_is_answered_by_a_fit_it_took_part_in():
    """Changing one row's label leaves its own answers and its own success as they are."""
    logits, labels = outputs(600, seed=6)
    results = []
    for label in (labels[7], (labels[7] + 1) % 6):
        changed = labels.copy()
        changed[7] = label
        seen = build_stopping_data(fit_table(pool(logits, changed)), "combined", 1.0, 5, 0)
        results.append((seen.success[7], seen.doubt[7]))
    for first, second in zip(*results, strict=True):  # up to where the search for weights stops
        np.testing.assert_allclose(first, second, atol=1e-3)


def by_sklearn(columns, target, weight, penalty):
    """Offset and weights by scikit-learn, the ridge on standardised columns, one more row half and half."""
    mean, sd = columns.mean(axis=0), columns.std(axis=0)
    sd[sd == 0] = 1.0
    model = LogisticRegression(C=4 / penalty, tol=1e-10, max_iter=10_000)

    def fit(rows):
        x = (columns[rows] - mean) / sd
        extra = np.zeros((1, x.shape[1]))
        both = np.concatenate([weight[rows] * target[rows], weight[rows] * (1 - target[rows])])
        answers = np.repeat([1, 0, 1, 0], [len(x), len(x), 1, 1])
        model.fit(np.concatenate([x, x, extra, extra]), answers, np.append(both, [0.5, 0.5]))
        w = model.coef_[0] / sd
        return np.concatenate([[model.intercept_[0] - w @ mean], w])

    return fit


def test_weighted_logistic_is_that_of_a_library():
    """Fractional targets, uneven weights, hard and easy targets in turn; every fold and all rows."""
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(500, 4)) * [0.1, 1, 10, 0] + 3
    odds = columns @ [4.0, 1.0, -0.1, 0.0]
    target = expit(odds[:, None] - np.median(odds) + [-6.0, 0.0, 9.0])
    target[:, 1] = target[:, 1] > rng.random(500)
    weight = rng.exponential(size=(500, 3)) ** 3
    fold = rng.integers(0, 4, 500)
    theta = weighted_logistic(columns, target, weight, fold, 8.0)
    for i, g in itertools.product(range(3), range(5)):
        wanted = by_sklearn(columns, target[:, i], weight[:, i], 8.0)(fold != g)
        np.testing.assert_allclose(theta[g, :, i], wanted, rtol=2e-3, atol=2e-3)


def test_bolukbasi_classifies_layer_by_layer():
    """Pseudo-labels and weights as the paper says, then scikit-learn, at both exits."""
    table = fit_table(cache(1600, exits=3))
    seen = build_stopping_data(table, "plain", 0.0, 5, 0, groups=4)
    costs, price, penalty = np.array([1.0, 2.0, 4.0]), 0.05, 40.0

    def learn(first):
        rest = {"columns": seen.columns[first:], "success": seen.success[:, first:]}
        rest = SimpleNamespace(**rest, fold=seen.fold)
        return layer_by_layer(rest, costs[first:], penalty, np.array([price]))

    worth = seen.success - price * costs
    onward = worth[:, 2].copy()
    for k in (1, 0):
        label, weight = worth[:, k] >= onward, np.abs(worth[:, k] - onward)
        fit = by_sklearn(seen.columns[k], label, weight / weight.mean(), penalty)
        found = learn(k)
        np.testing.assert_allclose(found.theta[-1, 0, :, 0], fit(label >= 0), atol=2e-3)
        stops = exits_taken(found, seen.columns[k:], seen.fold)[:, 0] == 0
        for g in range(4):  # by coefficients of the other folds
            theta, held = fit(seen.fold != g), seen.fold == g
            odds = theta[0] + seen.columns[k][held] @ theta[1:]
            clear = np.abs(odds) > 0.02
            np.testing.assert_array_equal(stops[held][clear], (odds > 0)[clear])
        onward[stops] = worth[stops, k]


def test_fitted_q_is_the_papers_iteration():
    """Ernst et al., figure 1, row by row with scikit-learn's Ridge in place of their trees."""
    rng = np.random.default_rng(0)
    n, columns = 300, [rng.normal(size=(300, 4)) for _ in range(2)]
    columns = [(c - c.mean(axis=0)) / c.std(axis=0) for c in columns]
    success, costs, price = rng.random((n, 3)), np.array([1.0, 2.0, 3.0]), 0.2
    found = q_iteration(rows_of(columns, success), costs, 7.0, np.array([price]), False)
    after = success[:, 2] - price * 3.0
    for k in (1, 0):
        stop = Ridge(alpha=7.0).fit(columns[k], success[:, k] - price * costs[k])
        on = Ridge(alpha=7.0).fit(columns[k], after)
        theta = found.theta[-1, k, :, 0]
        np.testing.assert_allclose(theta[1:], stop.coef_ - on.coef_, atol=1e-9)
        assert theta[0] == pytest.approx(stop.intercept_ - on.intercept_)
        after = np.maximum(stop.predict(columns[k]), on.predict(columns[k]))


# Probabilities of halting.
def graves(h, value):
    """ACT's output for one sample, section 2 with eps = 0: weights h until they reach 1, then the rest."""
    worth, gathered = 0.0, 0.0
    for k in range(len(h)):
        if gathered + h[k] >= 1:
            return worth + (1 - gathered) * value[k]
        worth += h[k] * value[k]
        gathered += h[k]
    return worth + (1 - gathered) * value[-1]


def test_mean_field_is_graves_output_and_its_gradient():
    rng = np.random.default_rng(0)
    h, value = rng.random((200, 4)) * 0.8, rng.random((200, 5))
    worth, slope = halting.mean_field(h, value)
    np.testing.assert_allclose(worth, [graves(a, v) for a, v in zip(h, value, strict=True)])
    for n in range(40):
        numeric = approx_fprime(h[n], lambda a, v=value[n]: graves(a, v), 1e-8)
        np.testing.assert_allclose(slope[n], numeric, atol=1e-6)


def test_act_leaves_where_the_papers_sum_reaches_its_target():
    table = fit_table(cache(n=800))
    for result in make_method("act:answer=plain+eps=0.05").fit_path(table, [1.5, 3.0, 6.0]):
        policy, rule = result.policy, result.policy.rule
        logits = np.concatenate([part for _, part in table.chunks()])
        plain = Logistic(rule.features, rule.center, rule.scale, rule.weights, rule.offset)
        gathered = np.cumsum(score_table(plain, with_probabilities(logits)), axis=1)
        # The budget is met exactly by a small shift of the target, the same at all exits.
        wanted = first_exit(gathered - 0.95, policy.thresholds)
        np.testing.assert_array_equal(policy.decide(logits).exit, wanted)


@pytest.mark.parametrize("name", ["optimal_stopping", "act"])
def test_budgets_find_their_prices_together_as_each_does_by_the_deployed_scores(name):
    method = make_method(name)
    draft = method.pose(fit_table(cache(n=600)), 0)
    data, stopping = draft.data
    low, high = draft.problem.mean_costs[[0, -1]]
    budgets = np.linspace(low, high, 7)[1:-1].tolist()
    for budget, found in zip(budgets, method.solve(draft, budgets, 0), strict=True):
        ends = [0.0, len(stopping.prices) - 1.0]
        for _ in range(14):
            middle = sum(ends) / 2
            scores, _ = method._collapsed(data, stopping.at(middle))
            paid = draft.problem.cost_at(first_exit(scores, np.zeros(draft.problem.exits - 1)))
            ends[0 if paid.mean() > budget else 1] = middle
        due = method.rule_at(data, stopping.at(ends[1]))
        np.testing.assert_array_equal(found.rule.weights, due.weights)


def test_act_finds_what_features_tell():
    kind = np.random.default_rng(0).integers(0, 3, 3000)
    value, columns = np.eye(3)[kind] - np.array([0.0, 0.05, 0.1]), [np.eye(3)[kind]] * 2
    theta = halting.halting_weights(columns, value, halting.neutral(np.zeros((2, 4))), 1e-3)
    h = [expit(c @ t[1:] + t[0]) for c, t in zip(columns, theta, strict=True)]
    gathered = np.stack([h[0], h[0] + h[1], 0 * h[0]], axis=1)
    np.testing.assert_array_equal(first_exit(gathered, np.array([0.9, 0.9])), kind)


@pytest.mark.parametrize(("loss", "beta"), [("likelihood", 1.0), ("error", 0.5)])
def test_lista_stop_imitates_the_posterior(loss, beta):
    """q* is prior times likelihood; in each cell of a table the forward divergence is least at q*'s pooled hazard."""
    signal, success = chain(600, 2)
    signal, success = signal[:, :3], success[:, :3]
    likelihood = np.random.default_rng(3).uniform(0.05, 0.95, (600, 3))
    costs = np.array([1.0, 2.0, 4.0])
    seen = tabular(
        signal, success, table=SimpleNamespace(whole=True, graded=False), true_class=likelihood
    )
    found = halting.LISTAStop(loss=loss, beta=beta, penalty=1e-9).train(seen, costs, 0)
    losses = -np.log(likelihood) if loss == "likelihood" else 1 - success
    for i in (2, 5, 9, 12):
        joint = np.exp(-found.prices[i] * costs / beta) * np.exp(-losses) ** (1 / beta)
        q = joint / joint.sum(axis=1, keepdims=True)
        mine = halting.stop_posterior(losses, costs, found.prices, beta)[:, :, i].T
        np.testing.assert_allclose(mine, q, rtol=1e-9, atol=1e-300)
        for k in range(2):
            theta = found.theta[-1, k, :, i]
            for cell in range(3):
                rows = signal[:, k] == cell
                hazard = q[rows, k].sum() / q[rows, k:].sum()
                mine = expit(theta[0] + theta[1 + cell])
                assert mine == pytest.approx(hazard, abs=0.01)  # one row of 1/2 besides


def test_lista_stop_learns_from_labelled_rows_only():
    logits, labels = outputs(800, seed=5)
    labels[400:] = -1
    thetas = []
    for _ in range(2):
        seen = build_stopping_data(fit_table(pool(logits, labels)), "plain", 1.0, 5, 0)
        assert np.isnan(seen.true_class[400:]).all()
        thetas.append(halting.LISTAStop().train(seen, COSTS, 0).theta)
        logits[400:, -1] = np.roll(logits[400:, -1], 1, axis=1)  # no feature sees the last
    np.testing.assert_array_equal(*thetas)


def test_the_gradient_is_that_of_the_expected_worth():
    """Against finite differences, and the worth against the sum over exits as written."""
    rng = np.random.default_rng(0)
    z, reward = rng.normal(size=(200, 3)), rng.normal(size=(200, 4))

    def worth(z, reward):
        s, on = expit(z), np.cumprod(1 - expit(z))
        return reward @ [s[0], on[0] * s[1], on[1] * s[2], on[2]]

    found, slope = halting.worth_and_slope(z, reward)
    for n in range(200):
        assert found[n] == pytest.approx(worth(z[n], reward[n]))
        numeric = approx_fprime(z[n], worth, 1e-8, reward[n])
        np.testing.assert_allclose(slope[n], numeric, atol=1e-6)


def test_the_exact_gradient_finds_the_best_of_all_policies():
    signal, success = chain(20_000, 0)
    columns = [np.insert(np.eye(3)[signal[:, k]], 0, 1.0, axis=1) for k in range(3)]
    for price in PRICES:
        reward = success - price * COSTS
        theta = halting.climb(np.zeros((3, 4)), columns, reward, 1e-6, 200)
        scores = np.stack([c @ t for c, t in zip(columns, theta, strict=True)], axis=1)
        assert worth_of(scores, reward) == pytest.approx(best_of_all(signal, reward), abs=1e-3)


def test_sampled_slopes_average_to_the_exact_ones():
    """REINFORCE with any baseline, and actor-critic with the true value, are unbiased."""
    rng = np.random.default_rng(0)
    z, reward = rng.normal(size=(1, 3)), rng.normal(size=(1, 4))
    _, exact = halting.worth_and_slope(z, reward)
    leave, count = expit(z), 400_000
    tails, reached = rl.roll(np.repeat(leave, count, axis=0), rng.random((count, 3)))
    value, onward = np.empty((1, 3)), reward[:, 3]
    for k in (2, 1, 0):
        onward = value[:, k] = leave[:, k] * reward[:, k] + (1 - leave[:, k]) * onward
    many, values = np.repeat(reward, count, axis=0), np.repeat(value, count, axis=0)
    whole, stepwise = rl.returns(reached, many)[:, None], rl.bootstrapped(tails, many, values)
    for gain, baseline in ((whole, 0.0), (whole, 0.7), (stepwise, values)):
        slope = (tails - leave) * (gain - baseline) * reached[:, :-1]
        error = slope.std(axis=0) / count**0.5
        assert (np.abs(slope.mean(axis=0) - exact[0]) < 4 * error + 1e-12).all()
        assert (error < 0.005).all()


# By sampled episodes.
@pytest.mark.parametrize("critic", [False, True])
def test_reinforce_learns_the_small_chain(critic):
    signal, success = chain(5000, 0)
    seen = tabular(signal, success)
    method = rl.REINFORCE(critic=critic, steps=400, learning_rate=0.05)
    found = method.train(seen, COSTS, 0)
    for place in (7.0, 9.0):
        theta = found.at(place)
        scores = np.stack([seen.columns[k] @ theta[k, 1:] + theta[k, 0] for k in range(3)], axis=1)
        check_near_the_best(scores, signal, success - found.prices[int(place)] * COSTS)


def check_near_the_best(scores, signal, reward):
    """What is earned over the best single exit is most of what the best policy earns."""
    best, static = best_of_all(signal, reward), reward.mean(axis=0).max()
    assert best - worth_of(scores, reward) < 0.01 + 0.15 * (best - static)


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


@pytest.mark.parametrize(
    "method",
    [rl.DQN(steps=2500, learning_rate=0.003, double=double) for double in (False, True)]
    + [rl.EPNet(steps=1500, learning_rate=0.005)],
)
def test_networks_learn_the_small_chain(method):
    """DQN's Q(leave) - Q(go on) is that of dynamic programming, over the range of prices."""
    signal, success = chain(4000, 1)
    samples = rl.samples_of([np.eye(3)[signal[:, k]] for k in range(3)], success, COSTS)
    layers = method.train(samples, 0)
    for price in (0.05, 0.3, 1.0):
        reward = samples.success - price * samples.costs
        scores = rl.outputs_at(rl.at_price(layers, 3, 4, price), samples.columns) * (1 + price)
        check_near_the_best(scores, signal, reward)
        if method.label == "dqn":
            exact = exact_advantage(signal, samples, price)
            mine = np.array([[scores[signal[:, k] == s, k][0] for k in range(3)] for s in range(3)])
            assert np.abs(mine - exact).mean() < 0.03 * (1 + price)
            assert best_of_all(signal, reward) - worth_of(scores, reward) < 0.01


@pytest.mark.parametrize("each", [1, 3])
def test_the_deployed_network_is_the_trained_one(each):
    """Numpy's rule with exit and price in its biases, against torch's network with them as inputs."""
    torch = pytest.importorskip("torch")
    stack, price = rl.Stack([28 + 4 + 1, 8, 8, 2], 3, each), 0.2
    basis = np.random.default_rng(0).normal(size=(50, 4, 28)).astype(np.float32)
    mine = rl.outputs_at(rl.at_price(rl.difference(stack.layers()), 28, 4, price), basis)
    for k in range(3):
        place = np.tile([*np.eye(4)[k], np.log10(price + 0.001)], (50, 1))
        x = np.concatenate([basis[:, k], place], axis=1)
        x = torch.from_numpy(np.repeat(x[:, None], each, axis=1).astype(np.float32))
        q = stack(x)[:, k if each > 1 else 0].detach().numpy()
        np.testing.assert_allclose(mine[:, k], q[:, 1] - q[:, 0], atol=1e-5)


def test_a_missing_torch_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"train 'dqn'.*policyopt\[torch\]"):
        make_method("dqn").fit_path(fit_table(cache(100)), [2.0])
    assert make_method("dqn").missing_columns(fit_table(cache(100))) == ["torch (policyopt[torch])"]


@pytest.mark.parametrize("name", ["dqn", "epnet", "reinforce"])
def test_few_rows_are_not_shown_without_end(name, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(rl, "EPOCHS", 100)
    monkeypatch.setattr(rl, "LEAST_UPDATES", 50)
    table = fit_table(cache(200))
    before, threads = torch.get_num_threads(), []
    with progress(lambda *_: threads.append(torch.get_num_threads())):
        fits = (fit_one(f"{name}:steps={steps}", table, 2.0) for steps in (50, 80, 10))
        most, more, fewer = (fit.policy for fit in fits)
    assert torch.get_num_threads() == before
    if name != "reinforce":
        assert threads and set(threads) == {1}
    assert most.rule.params() == more.rule.params() != fewer.rule.params()
    np.testing.assert_array_equal(most.thresholds, more.thresholds)


# Learned scores.
def squares(columns, target, penalty):
    """Offset and weights that minimise berxit's loss, by Gauss-Newton on residuals."""
    n = len(target)

    def residuals(theta):
        off = (expit(columns @ theta[1:] + theta[0]) - target) / n**0.5
        return np.concatenate([off, (penalty / (8 * n)) ** 0.5 * theta[1:]])

    return least_squares(residuals, np.zeros(columns.shape[1] + 1), xtol=1e-14, ftol=1e-14).x


def by_squares(x, target):
    theta = squares(x, target, 30.0)
    return expit(x @ theta[1:] + theta[0])


def by_logistic(x, target):
    theta = by_sklearn(x, target, np.ones(len(x)), 30.0)(target >= 0)
    return expit(x @ theta[1:] + theta[0])


def by_ridge(x, target):
    x = StandardScaler().fit_transform(x)
    return -Ridge(alpha=30.0, solver="cholesky").fit(x, target).predict(x)


#: How a score is regressed, and on what: of correctness (N, 3), class probabilities, and those of the label.
REGRESSIONS = {
    "berxit:shared=false": (by_squares, lambda right, p, own, k: right[:, k]),
    "failure_prediction": (by_logistic, lambda right, p, own, k: no_failure(right)[:, k]),
    "failure_prediction:target=true_class": (by_squares, lambda right, p, own, k: own[:, k]),
    "deferral:target=diff01": (by_ridge, lambda right, p, own, k: right[:, 2] - right[:, k]),
    "deferral:against=next": (by_ridge, lambda right, p, own, k: own[:, k + 1] - own[:, k]),
    "deferral:target=maxprob": (by_ridge, lambda right, p, own, k: p.max(2)[:, 2] - p.max(2)[:, k]),
}


@pytest.mark.parametrize("spec", REGRESSIONS)
def test_a_learned_score_is_the_regression_of_its_target(spec):
    seen = batch_of(cache(1200, exits=3))
    p = np.exp(np.stack([o.log_prob for o in seen.outputs], axis=1).astype(float))
    own = p[np.arange(len(p)), :, seen.labels]
    scores = score_table(make_method(spec).learn(seen, 0), seen.outputs)
    regress, target = REGRESSIONS[spec]
    for k, x in enumerate(columns_of(seen).basis):
        wanted = regress(x, target(seen.quality, p, own, k))
        np.testing.assert_allclose(scores[:, k], wanted, atol=3e-3)
    assert regress is by_ridge or (scores[:, 2] == 1).all()


def test_berxit_is_one_module_for_all_exits():
    seen = batch_of(cache(1200, exits=3))
    rule = make_method("berxit").learn(seen, 0)
    columns = columns_of(seen, common=True).basis
    wanted = by_squares(np.concatenate(columns), seen.quality[:, :2].T.ravel())
    scores = score_table(rule, seen.outputs)[:, :2]
    np.testing.assert_allclose(scores.T.ravel(), wanted, atol=2e-3)
    for name in ("center", "scale", "weights"):
        np.testing.assert_array_equal(getattr(rule, name)[0], getattr(rule, name)[1])


@pytest.mark.parametrize(
    "spec",
    ["bolukbasi", "lista_stop", "failure_prediction", "berxit", "optimal_stopping", "fitted_q",
     "policy_gradient:steps=2"],
)  # fmt: skip
def test_records_serve(spec):
    stats = fit_table(cache(3000, exits=3, split={"fit": 1.0})).statistics
    steps = np.random.default_rng(7).gamma(4.0, 1.0, (3000, 3)) * [1, 3, 9]
    seen = {"prediction": stats.prediction, "confidence": stats.confidence}
    data = po.from_arrays(labels=stats.labels, costs=np.cumsum(steps, axis=1), **seen)
    fit, test = (Tables(data).get(name) for name in ("fit", "test"))
    budget = float(np.interp(0.8, range(3), fit.mean_costs))
    result, coin = (fit_one(m, fit, budget) for m in (spec, "random"))
    assert result.expected.cost == pytest.approx(budget, rel=0.01)
    ours, chance = (replay(r.policy, test).quality.mean() for r in (result, coin))
    assert ours > chance + 0.02


@pytest.mark.parametrize(
    "spec", ["bolukbasi", "lista_stop", "failure_prediction", "optimal_stopping", "window", "hidec"]
)
def test_hopeless_samples_leave_early(spec):
    tables = Tables(hopeless())
    fit, test = tables.get("fit"), tables.get("test")
    policies = (fit_one(m, fit, 2.0).policy for m in (spec, "max_prob", "berxit"))
    ours, *others = (replay(policy, test) for policy in policies)
    assert ours.cost.mean() == pytest.approx(2.0, rel=0.05)
    assert ours.quality.mean() > max(other.quality.mean() for other in others) + 0.05


def test_of_few_rows_a_score_that_keeps_rows_is_learned_in_more_folds(monkeypatch):
    """Each row is scored by a rule of nearly all the others, as the deployed one is of all; a regression is not."""
    sizes = []
    for kind in (E2CM, BERxiT):
        monkeypatch.setattr(
            kind, "learn", lambda *a, learn=kind.learn: sizes.append(len(a[1])) or learn(*a)
        )
    for rows, spec, learned in (
        (100, "e2cm", 20), (1000, "e2cm", 10), (3000, "e2cm", 5), (100, "e2cm:folds=25", 25), (100, "berxit", 0),
    ):  # fmt: skip
        sizes.clear()
        table = fit_table(cache(rows, exits=2, split={"fit": 1.0}))
        make_method(spec).propose(table, [1.5])
        assert sizes == [rows] + [rows - rows // learned for _ in range(learned)]


def test_a_failure_is_what_a_later_exit_mends_and_its_auroc_that_of_a_library():
    for row in itertools.product([0.0, 1.0], repeat=4):
        wanted = [row[k] == 1 or not any(row[k + 1 :]) for k in range(4)]
        np.testing.assert_array_equal(no_failure(np.array([row]))[0], wanted)
    rng = np.random.default_rng(8)
    scores = rng.integers(0, 20, (400, 4)) / 20  # ties
    correct = (rng.random((400, 4)) < scores * 0.5 + 0.3).astype(float)
    areas, good = failure_auroc(scores, correct), no_failure(correct)
    wanted = [roc_auc_score(good[:, k], scores[:, k]) for k in range(3)]
    assert areas == [*(pytest.approx(area, abs=1e-12) for area in wanted), None]
    assert failure_auroc(scores, np.ones((400, 4))) == [None] * 4
    records = calibration_records("none", Observed(scores, correct), np.zeros(400, np.int64))
    assert [r["failure_auroc"] for r in records if r["group"] == "all"] == areas
