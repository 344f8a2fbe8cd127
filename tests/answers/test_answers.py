"""Answers: calibrated and combined ones against planted truths, brute force, scikit-learn and by hand."""

import json

import numpy as np
import pytest
from scipy.special import log_softmax, logit, softmax
from synthetic import cache, outputs

import policyopt as po
from policyopt._answers import calibrators as maps
from policyopt._answers.crossfit import (
    answered,
    cross_fit_combined,
    crossfit,
    fit_combined,
    losses_of,
    negative_log_likelihood,
)
from policyopt._cache.data import folds_of
from policyopt._costs import overhead, rate_of, unit_per_multiply_add
from policyopt._replay import replay
from policyopt._report.calibration import (
    Observed,
    apply_map,
    calibration_error,
    calibration_records,
    fit_map,
    observe,
    reliability,
)
from policyopt._table import Tables
from policyopt.runtime._answers import Combined, Identity, Temperature, Vector, make_answer
from policyopt.runtime._calibrators import CALIBRATORS, make_calibrator
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._outputs import reduce_logits
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb


def planted(n, classes, seed, scale=1.0, bias=0.0):
    """Log-probabilities and labels such that softmax(scale * log_prob + bias) is the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    p = softmax(logits * scale + bias, axis=1)
    labels = (rng.random(n)[:, None] > p.cumsum(axis=1)).sum(axis=1).clip(0, classes - 1)
    return logs(logits), labels.astype(np.int32)


def logs(logits):
    return log_softmax(logits.astype(np.float64), axis=-1).astype(np.float32)


def test_temperature_is_the_least_of_a_grid_and_stays_in_bounds():
    log_prob, labels = planted(800, 4, 2, scale=0.6)
    grid = np.linspace(0.5, 4, 1401)
    losses = [maps.row_losses(log_prob, labels, 1 / t).mean() for t in grid]
    assert maps.temperature(log_prob, labels) == pytest.approx(grid[np.argmin(losses)], abs=0.003)
    sure = np.log(np.array([[0.9, 0.1], [0.1, 0.9]]))
    assert maps.temperature(sure, np.array([0, 1])) == maps.BOUNDS[0]  # all right
    assert maps.temperature(sure, np.array([1, 0])) == maps.BOUNDS[1]  # all wrong
    impossible = np.array([[0.0, -np.inf]] * 3, dtype=np.float32)
    assert maps.BOUNDS[0] <= maps.temperature(impossible, np.array([0, 0, 1])) <= maps.BOUNDS[1]
    for labels in (np.array([0, 2]), np.array([-1, 0]), np.array([0])):
        with pytest.raises(InputError, match="labels"):
            maps.temperature(sure, labels)


def test_vector_helps_where_classes_are_biased_and_never_hurts():
    bias = np.array([0.8, -0.6, 0.3, 0.0, -0.5])
    for planted_bias, rows, better in ((bias, 4000, 0.01), (0.0, 4000, -1e-9), (0.0, 150, -1e-9)):
        log_prob, labels = planted(rows, 5, 5, scale=0.7, bias=planted_bias)
        held, held_labels = planted(20_000, 5, 6, scale=0.7, bias=planted_bias)
        single = maps.temperature(log_prob, labels)
        fitted = maps.fit_vector(log_prob[:, None], labels)
        mine = maps.row_losses(held, held_labels, fitted.scale[0], fitted.bias[0]).mean()
        plain = maps.row_losses(held, held_labels, 1 / single).mean()
        assert plain - mine >= better
        for spread in (0.0, 1e-6):
            scale, shift = maps.vector(log_prob, labels, spread)
            np.testing.assert_allclose(scale, 1 / single, atol=1e-6)
            np.testing.assert_allclose(shift, 0, atol=1e-6)
    assert maps.choose_spread(*planted(400, 50, 7)) == maps.SPREADS[0]  # few rows, many classes


def test_platt_is_the_logistic_regression_of_a_library():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(8)
    p = rng.uniform(0.05, 0.99, 3000)
    y = (rng.random(3000) < p**1.5).astype(float)
    model = LogisticRegression(C=1e6, tol=1e-9, max_iter=1000).fit(logit(p)[:, None], y)
    np.testing.assert_allclose(maps.platt(p, y), [*model.coef_[0], *model.intercept_], rtol=1e-4)


def test_beta_is_the_best_that_never_falls():
    from scipy.optimize import minimize

    rng = np.random.default_rng(9)
    p = rng.uniform(0.3, 0.99, 2000)
    # Where it is worse again near 1, the free fit has a negative coefficient.
    for chance, at_bound in ((p**1.5, False), (np.where(p < 0.8, p, 0.7), True)):
        y = (rng.random(2000) < chance).astype(float)
        x = np.stack([np.log(p), -np.log1p(-p), np.ones_like(p)], axis=1)

        def loss(w, x=x, y=y):
            return (np.logaddexp(0, x @ w) - y * (x @ w)).mean()

        found, bounds = np.array(maps.beta(p, y)), [(0, None), (0, None), (None, None)]
        best = minimize(loss, [1, 1, 0], bounds=bounds, method="L-BFGS-B")
        assert (found[:2].min() == 0) == at_bound and (found[:2] >= 0).all()
        assert loss(found) <= best.fun + 1e-7


@pytest.mark.parametrize("name", maps.FITS)
def test_fractions_and_constant_rows(name):
    rng = np.random.default_rng(10)
    p = rng.uniform(0.2, 1, (4000, 2))
    rule = maps.fit_confidence(name, p, p)  # each row right with its own probability
    assert np.abs(rule.curve(0, p[:, 0]) - p[:, 0]).mean() < 0.03
    for right in (np.ones((40, 1)), np.zeros((40, 1))):
        value = maps.fit_confidence(name, p[:40, :1], right).curve(0, np.array([0.0, 0.5, 1.0]))
        assert (np.abs(value - right[0]) < 0.03).all()
    one = maps.fit_confidence(name, np.array([[1.0]]), np.array([[1.0]]))
    assert np.isfinite(one.curve(0, np.array([0.0, 1.0]))).all()
    with pytest.raises(InputError):
        maps.fit_confidence(name, p, p[:, :1])
    with pytest.raises(InputError):
        maps.fit_confidence(name, p + 1, p)


def test_isotonic_is_sklearns_at_its_knots():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(11)
    p = rng.random(500).round(2)  # with ties
    y = (rng.random(500) < p).astype(float)
    knots, values = maps.isotonic(p, y, fewest=1)
    theirs = IsotonicRegression(y_min=0, y_max=1).fit(p, y)
    np.testing.assert_allclose(values, np.unique(theirs.predict(p).round(12)), atol=1e-9)
    np.testing.assert_allclose(values, theirs.predict(knots), atol=1e-9)
    wide, wide_values = maps.isotonic(p, y)
    assert len(wide) <= 500 / 20 and (np.diff(wide_values) >= 0).all()


def test_histogram_by_hand():
    p = np.repeat([0.1, 0.3, 0.5, 0.9], 20)
    y = np.repeat([0.0, 1.0, 0.0, 1.0], 20)
    y[:5] = 1
    edges, values = maps.histogram(p, y, bins=4)
    assert edges.tolist() == [0.3, 0.5, 0.9] and values.tolist() == [0.25, 1, 0, 1]
    assert maps.histogram(p, y, bins=2)[1].tolist() == [0.625, 0.5]
    assert len(maps.equal_mass_edges(np.full(100, 0.7))) == 0  # equals are never divided
    assert len(maps.equal_mass_edges(np.linspace(0, 1, 39))) == 0  # too few for two bins


def every_rule():
    p = np.random.default_rng(12).uniform(0.2, 1, (400, 2))
    y = (np.random.default_rng(13).random((400, 2)) < p).astype(float)
    return [maps.fit_confidence(name, p, y) for name in CALIBRATORS]


def test_batch_is_single_rows_to_the_bit():
    """Of what a file gives back, too; of calibrated answers: `tests/runtime/test_runtime.py`, exports."""
    logits = outputs(257, exits=2)[0]
    logits[3, :, 2] = -np.inf
    rng = np.random.default_rng(14)
    vectors = Vector(rng.uniform(0.5, 2, (2, 6)), rng.normal(size=(2, 6)))
    for k in range(2):
        out = reduce_logits(logits[:, k])
        for rule in (Temperature([1.7, 0.6]), vectors):
            batch = rule.answer(k, logits[:, k], ())[0]
            assert batch.dtype == np.float32 and batch[3, 2] == -np.inf
            moved = reduce_logits(rule.answer(k, logits[:, k] + 8, ())[0]).top_prob
            np.testing.assert_allclose(moved, reduce_logits(batch).top_prob, atol=1e-5)
        for rule in every_rule():
            again = make_calibrator(rule.name, json.loads(json.dumps(rule.params())))
            again.check(2, 6)
            batch = rule.confidence(k, out)
            assert ((batch >= 0) & (batch <= 1)).all()
            singles = [again.confidence(k, out.take(slice(i, i + 1)))[0] for i in range(257)]
            np.testing.assert_array_equal(batch, singles)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("temperature", {"temperatures": [0.0]}), ("temperature", {"temperatures": [[1.0]]}),
        ("temperature", {"temperatures": ["1"]}), ("vector", {"scale": [[-1.0]], "bias": [[0.0]]}),
        ("vector", {"scale": [[1.0, 1.0]], "bias": [[0.0]]}), ("vector", {"scale": [[1.0]], "bias": [[np.nan]]}),
        ("combined", {"weights": [[1, 1], [0, 1]]}), ("combined", {"weights": [[-1, 0], [0, 1]]}),
        ("combined", {"weights": [[1, 0]]}), ("combined", {"weights": [["a"]]}),
        ("combined", {"weights": [[1, 0], [np.nan, 1]]}), ("plat", {}), ("platt", {"slope": [1.0]}),
        ("platt", {"slope": [-1.0], "offset": [0.0]}), ("platt", {"slope": [1.0, 1.0], "offset": [0.0]}),
        ("platt", {"slope": [1.0], "offset": [np.inf]}), ("beta", {"a": [1.0], "b": [-0.1], "c": [0.0]}),
        ("isotonic", {"knots": [[0.5, 0.4]], "values": [[0.1, 0.2]]}),
        ("isotonic", {"knots": [[0.4, 0.5]], "values": [[0.2, 0.1]]}), ("isotonic", {"knots": [[]], "values": [[]]}),
        ("isotonic", {"knots": 3, "values": [[0.1]]}), ("histogram", {"edges": [[0.5]], "values": [[0.1]]}),
        ("histogram", {"edges": [[0.5, 0.5]], "values": [[0.1, 0.2, 0.3]]}),
        ("histogram", {"edges": [[0.5]], "values": [[0.1, 1.2]]}),
    ],
)  # fmt: skip
def test_malformed_parameters_are_refused(name, params):
    answer = name in ("temperature", "vector", "combined")
    with pytest.raises(InputError):
        (make_answer if answer else make_calibrator)(name, params)


def test_parameters_of_another_model_are_refused():
    square = np.ones((3, 5))
    for rule in (Temperature([1.0]), Vector(square, 0 * square), *every_rule()):
        with pytest.raises(InputError):
            rule.check(3, 6)


def test_calibration_error_by_hand_and_of_calibrated_rows():
    p = np.repeat([0.6, 0.9], 1000)
    y = np.concatenate([np.repeat([1.0, 0], [800, 200]), np.repeat([1.0, 0], [700, 300])])
    found = calibration_error(p, y, bins=2)
    assert found["ece_plain"] == pytest.approx(0.2)
    assert found["ece"] == pytest.approx(0.2, abs=0.005)
    assert found["ece_low"] < 0.2 < found["ece_high"]
    points = [(q["accuracy"], q["rows"]) for q in reliability(p, y, bins=2)]
    assert points == [(0.8, 1000), (0.7, 1000)]
    rng = np.random.default_rng(15)
    p = rng.beta(4, 1, 5000)
    found = calibration_error(p, (rng.random(5000) < p).astype(float))
    assert found["ece"] < 0.01 < found["ece_plain"] and found["ece_low"] == 0


def test_leavers_show_the_winners_curse():
    rng = np.random.default_rng(16)
    n = 6000
    truth = rng.beta(3, 2, n)
    # Two exits of the same truth, each calibrated given its own noisy view of the rows; a row leaves
    # at exit 1 where exit 0 was not sure: it is harder than its confidence at exit 1 says.
    views = truth[:, None] + rng.normal(size=(n, 2)) * 0.15
    right = (rng.random((n, 2)) < truth[:, None]).astype(float)
    views = views.clip(0, 1)
    rule = maps.fit_confidence("isotonic", views, right)
    p = np.stack([rule.curve(k, views[:, k]) for k in (0, 1)], axis=1)
    exits = np.where(p[:, 0] >= 0.6, 0, 1)
    records = {
        (r["exit"], r["group"]): r for r in calibration_records("x", Observed(p, right), exits)
    }
    assert records[1, "all"]["ece"] < 0.01
    assert records[1, "leavers"]["ece_low"] > 0.02 and records[1, "leavers"]["gap"] > 0.03
    alone = calibration_records("x", Observed(p, right), np.zeros(n, np.int64))
    assert alone[3]["rows"] == 0 and alone[3]["ece"] is None


def test_maps_on_unseen_rows_of_a_cache():
    logits, labels = outputs(6000, exits=2)
    tables = Tables(po.from_arrays(3 * logits, labels, [1.0, 2.0], unit="ms"))
    fit, test = tables.get("fit"), tables.get("test")
    before, after = observe(fit), observe(test)
    np.testing.assert_array_equal(after.correct, test.quality)
    raw = calibration_error(after.confidence[:, 0], after.correct[:, 0])["ece"]
    for name in ("temperature", "vector", *maps.FITS):
        seen = apply_map(fit_map(name, fit, before), test, after)
        assert calibration_error(seen.confidence[:, 0], seen.correct[:, 0])["ece"] < raw / 3
    rule = maps.fit_temperature(fit.log_prob(), fit.statistics.labels)
    np.testing.assert_array_equal(observe(test, rule).correct, after.correct)


@pytest.mark.parametrize(
    ("loss", "classes", "step", "close"),
    [
        (lambda columns, *more: maps.loss_and_gradient(columns[0], *more), 3, 1e-5, 1e-7),
        # float32 likelihoods: central differences of this width keep four digits
        (negative_log_likelihood, 5, 1e-2, 2e-4),
    ],
)
def test_gradients_are_those_of_differences(loss, classes, step, close):
    logits, labels = outputs(200, 3, classes)
    columns = list(logs(logits).swapaxes(0, 1))
    rng = np.random.default_rng(0)
    at = 0.5 + rng.random(3), rng.normal(size=classes) * 0.3
    wanted = []
    for e in step * np.eye(3 + classes):
        up, down = (loss(columns, labels, at[0] + s * e[:3], at[1] + s * e[3:])[0] for s in (1, -1))
        wanted.append((up - down) / (2 * step))
    np.testing.assert_allclose(np.concatenate(loss(columns, labels, *at)[1:]), wanted, atol=close)


def test_weights_are_the_best_of_a_grid():
    logits, labels = outputs(1500, 2, 4, seed=1)
    log_prob = logs(logits)
    rule = fit_combined(log_prob, labels)
    grid, columns = np.linspace(0, 2.5, 51), list(log_prob.swapaxes(0, 1))
    pairs = np.array([(a, b) for a in grid for b in grid])
    values = [negative_log_likelihood(columns, labels, pair)[0] for pair in pairs]
    np.testing.assert_allclose(rule.weights[1], pairs[np.argmin(values)], atol=0.06)
    reached = losses_of(rule, log_prob, labels)[0][:, 1].mean()
    assert reached <= np.min(values) + 1e-5


def test_readings():
    logits, labels = outputs(800, 3, 4, seed=3)
    log_prob = logs(logits)
    poe = fit_combined(log_prob, labels, "poe")
    np.testing.assert_allclose(poe.weights, [[1 / 3, 0, 0], [1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 1]])
    ztw = fit_combined(logs(log_prob + np.float32([1, 0, 0, -1])), labels, "ztw")
    assert ztw.bias[0, 0] < -0.3 < 0.3 < ztw.bias[0, 3]  # it takes back what was added
    with pytest.raises(InputError, match="geometric, ztw, poe"):
        fit_combined(log_prob, labels, "sum")


def test_kept_only_where_held_out_likelihood_improves():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 5, 2000)
    logits = 1.5 * np.eye(5)[labels][:, None] + rng.normal(size=(2000, 3, 5))
    logits[:, 1] = logits[:, 0]
    keep, whole, _ = cross_fit_combined(logs(logits), labels, np.arange(2000) % 5)
    assert np.count_nonzero(whole.weights[:2]) == 2  # their own alone
    assert keep.tolist() == [False, False, True]
    copies = np.repeat(logits[:, :1], 3, axis=1)
    rows = {"fit": {"outputs": copies, "labels": labels}}
    table = Tables(po.from_arrays(splits=rows, costs=[1, 2, 3])).get("fit")
    assert isinstance(crossfit(table, "combined", folds_of(2000, 5, 0)).rule, Identity)


def test_answers_cross_fitted_by_fold():
    data = cache(1200, 3, 5)
    table = Tables(data).get("fit")
    fold = folds_of(len(table), 4, 0)
    answers = crossfit(table, "combined", fold)
    assert crossfit(table, "combined", fold) is answers  # asked for once more by the next candidate
    assert crossfit(table, "combined", (fold + 1) % 4) is not answers
    new = answered(table, answers)
    log_prob = table.log_prob()
    for g, rule in enumerate(answers.rules):
        rows = fold == g
        total = np.einsum("nkc,jk->njc", log_prob[rows].astype(float), rule.weights)
        np.testing.assert_array_equal(new.statistics.prediction[rows], total.argmax(axis=2))
    labels = table.statistics.labels
    np.testing.assert_array_equal(new.quality, new.statistics.prediction == labels[:, None])


def test_units_of_arithmetic():
    for unit, value in (
        ("MFLOPs", 2e-6), ("GMACs", 1e-9), ("FLOPs", 2.0), ("ms", None), ("USD", None), ("madds", 1.0), ("MOps", 2e-6),
    ):  # fmt: skip
        assert unit_per_multiply_add(unit) == value
    compute, latency = po.Cost("compute", "MFLOPs", (1, 8)), po.Cost("latency", "ms", (1, 4))
    assert rate_of(latency, (compute, latency)) == pytest.approx(4 / 8 * 2e-6)
    assert rate_of(latency, (latency,)) == 0.0


def test_the_arithmetic_of_answers_is_paid_for():
    """Costs of a few operations: combining is then dear, and counted in budget, policy and replay."""
    logits, labels = outputs(2000, 3, 6, seed=6)
    data = po.from_arrays(logits, labels, [1000, 2000, 4000], unit="FLOPs")
    tables = Tables(data)
    spends = po.make_method("max_prob", {"answer": "combined", "spend": "all"})
    (result,) = spends.fit_path(tables.get("fit"), [2500.0])
    policy = result.policy
    own = overhead(policy.answer, (MaxProb(),), 3, 6, 2.0)
    used = [int(np.count_nonzero(policy.answer.weights[k])) for k in range(3)]
    np.testing.assert_allclose(own, np.cumsum([12 * u for u in used]))
    np.testing.assert_allclose(policy.overhead, own)
    np.testing.assert_allclose(policy.costs, np.array([1000, 2000, 4000]) + own)
    assert result.expected.cost <= 2500.0
    outcome = replay(policy, tables.get("test"))
    np.testing.assert_allclose(outcome.cost, policy.costs[outcome.exit])
    with pytest.raises(BudgetError, match=f"from {1000 + own[0]:.6g} to"):
        spends.fit_path(tables.get("fit"), [1000.0])
    # Where it cannot be paid, and need not: all leave at the first exit with its own answer.
    (bare,) = po.make_method("max_prob:answer=combined").fit_path(tables.get("fit"), [1000.0])
    assert bare.expected.cost == 1000.0 and not bare.policy.overhead.any()


def test_exits_that_rule_out_each_others_classes():
    answer = Combined([[1, 0], [1, 1]])
    policy = Policy(MaxProb(), [2.0], [1.0, 2.0], "ms", "probabilities", 2, answer=answer)
    trace = policy.trace(np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.9, 0.1], [0.0, 1.0]]]))
    assert np.isfinite(trace.scores).all()
    assert trace.predictions[1, 1] == 1
    logits, labels = outputs(800, 3, 6, seed=9)
    p = np.exp(logs(logits))
    p = np.where(p < 0.02, 0.0, p)
    p /= p.sum(axis=2, keepdims=True)
    data = po.from_arrays(p.astype(np.float32), labels, [1, 2, 4], unit="ms", kind="probabilities")
    for method in ("margin:answer=combined", "optimal_stopping"):
        assert np.isfinite(po.evaluate(po.fit(data, 2.0, method).policy, data).cost).all()


def test_command(run, tmp_path):
    logits, labels = outputs(1200, exits=3)
    np.savez(tmp_path / "x.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4])
    assert run("import", tmp_path / "x.npz", "--out", tmp_path / "c", "--unit", "ms")[0] == 0
    command = ("calibration", tmp_path / "c", "--maps", "none,temperature")
    plain = ("--method", "max_prob")  # whose answers are the exits' own
    code, out, _ = run(*command, *plain, "--out", tmp_path / "o", "--format", "json")
    content = json.loads(out)
    assert code == 0 and len(content["records"]) == 2 * 3 * 2
    assert json.loads((tmp_path / "o" / "calibration.json").read_text()) == content
    for name in ("reliability.png", "reliability_temperature.png"):
        assert (tmp_path / "o" / name).read_bytes()[:4] == b"\x89PNG"
    assert sum(r["rows"] for r in content["records"] if r["group"] == "leavers") == 2 * 600
    policy = tmp_path / "p.json"
    fit = ("fit", tmp_path / "c", "--budget", "40%", *plain, "--out", policy)
    assert run(*fit)[0] == 0
    code, out, _ = run(*command, "--policy", policy, "--format", "csv")
    assert code == 0 and out.splitlines()[0].startswith("calibration,exit,group,rows,ece")
    assert "overconfident" in run(*command, "--policy", policy)[1]
    assert run(*fit, "--set", "answer=combined")[0] == 0
    code, out, err = run(*command, "--policy", policy, "--format", "csv")
    assert code == 0 and "temperature" not in out and "combined" in err
    of = f"--policy {policy} "
    for wrong in (of + "--maps vector", "--maps plat", "--maps ,", of + "--budget 40%"):
        code, _, err = run("calibration", tmp_path / "c", *wrong.split())
        assert code == 2 and err.startswith("error: ")


def test_command_on_records(run, tmp_path):
    rng = np.random.default_rng(18)
    sure, said = rng.random((800, 2)), np.zeros((800, 2), int)
    right = rng.random((800, 2)) < sure
    np.savez(tmp_path / "r.npz", pred=said, conf=sure, correct=right, costs=[1.0, 3.0])
    code, _, err = run("import", tmp_path / "r.npz", "--out", tmp_path / "c", "--unit", "ms")
    assert code == 0, err
    code, out, err = run("calibration", tmp_path / "c", "--method", "max_prob", "--format", "json")
    assert code == 0 and "summaries hold no class probabilities" in err
    assert {r["calibration"] for r in json.loads(out)["records"]} == {"none", *maps.FITS}
    assert run("calibration", tmp_path / "c", "--maps", "vector")[0] == 2
