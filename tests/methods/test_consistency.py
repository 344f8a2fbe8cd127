"""Consistency methods against their papers, sample by sample, and against libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cosine, jensenshannon
from scipy.stats import entropy
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._methods.registry import make_method
from policyopt._methods.window import Windows, best_run
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt._thresholds.joint import Lagrangian, hull
from policyopt._thresholds.problem import Problem
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._outputs import reduce_logits, with_log_prob
from policyopt.runtime._scores import make_rule, score_table
from policyopt.runtime._scores.consistency import MEASURES


def seen(logits):
    return [
        with_log_prob(reduce_logits(logits[:, k]), logits[:, k]) for k in range(logits.shape[1])
    ]


def probabilities(logits):
    p = np.exp(logits.astype(float) - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


LIBRARY = {
    "kl": entropy,
    "rekl": lambda p, q: entropy(q, p),
    "bikl": lambda p, q: entropy(p, q) + entropy(q, p),
    "js": lambda p, q: jensenshannon(p, q) ** 2,
    "kd": lambda p, q: entropy(p) + entropy(p, q),
    "rekd": lambda p, q: entropy(q) + entropy(q, p),
    "bikd": lambda p, q: entropy(p) + entropy(p, q) + entropy(q) + entropy(q, p),
    "jskd": lambda p, q: (entropy(p) + entropy(q)) / 2 + jensenshannon(p, q) ** 2,
}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("patience", [1, 2])
def test_similarity_stops_where_the_papers_counter_does(measure, patience):
    """PF-BERxiT and Leco: the distance is under one threshold for `patience` exits in a row."""
    logits, _ = outputs(120, exits=5, seed=4)
    p = probabilities(logits)
    far = np.array(
        [[LIBRARY[measure](p[n, k - 1], p[n, k]) for k in range(1, 5)] for n in range(120)]
    )
    threshold = float(np.quantile(far, 0.4))
    scores = score_table(
        make_rule("similarity", {"measure": measure, "patience": patience}), seen(logits)
    )
    for n in range(120):
        counter, left = 0, 4
        for k in range(1, 5):
            counter = counter + 1 if far[n, k - 1] < threshold else 0
            if counter >= patience:
                left = k
                break
        stops = np.flatnonzero(scores[n, :4] > 1 / (1 + threshold))
        assert (stops[0] if len(stops) else 4) == left


def test_classes_that_cannot_be_leave_similarities_finite():
    logits = np.array([[[0.0, -np.inf, 1.0], [0.0, 2.0, -np.inf], [0.0, 2.0, -np.inf]]], np.float32)
    for measure in MEASURES:
        scores = score_table(make_rule("similarity", {"measure": measure}), seen(logits))
        assert np.isfinite(scores).all()
    assert scores[0, 2] > scores[0, 1]
    assert np.isfinite(score_table(make_rule("dda", {}), seen(logits))).all()


def test_pf_berxit_chooses_the_patience_that_is_most_accurate():
    table = Tables(cache(n=600)).get("fit")
    (free,) = make_method("pf_berxit").propose(table, [6.0])
    fixed = [make_method(f"pf_berxit:patience={p}").propose(table, [6.0])[0] for p in (1, 2)]
    assert free.accuracy == max(f.accuracy for f in fixed)


def test_pf_berxit_takes_a_patience_that_the_budget_allows():
    """More patience costs more under given thresholds: what one patience meets is not refused."""
    table = Tables(cache(n=600)).get("fit")
    spec = {"thresholds": "0.9,0.9,0.9"}
    costs = [
        make_method("pf_berxit", {**spec, "patience": p}).fit_path(table, [8.0])[0].expected.cost
        for p in (1, 2)
    ]
    between = sum(costs) / 2
    (result,) = make_method("pf_berxit", spec).fit_path(table, [between])
    assert costs[0] < between < costs[1]
    assert result.policy.rule.patience == 1 and result.expected.cost == costs[0]
    with pytest.raises(BudgetError, match="mean cost of"):
        make_method("pf_berxit", spec).fit_path(table, [costs[0] * 0.9])


def test_pf_berxit_does_not_compare_what_is_not_known():
    """Quotas need no labels, the choice of a patience does."""
    data = po.from_arrays(splits={"fit": {"outputs": outputs(200)[0]}}, costs=[1, 2, 4, 8])
    table = Tables(data).get("fit")
    with pytest.raises(InputError, match="label for every row"):
        make_method("pf_berxit:thresholds=geometric").fit_path(table, [3.0])
    assert make_method("pf_berxit:thresholds=geometric+patience=1").fit_path(table, [3.0])


@pytest.mark.parametrize("solver", ["geometric", "joint", "shared"])
def test_one_exit_leaves_nothing_to_search(solver):
    table = Tables(cache(n=50, exits=1)).get("fit")
    for name in ("max_prob", "leco"):
        (result,) = make_method(f"{name}:thresholds={solver}").fit_path(table, [1.0])
        assert result.expected.cost == 1.0 and not len(result.policy.thresholds)
    for name in ("window", "hidec", "optimal_stopping", "berxit", "always"):
        with pytest.raises(InputError, match="'exits' must be 2 or more"):
            make_method(name).fit_path(table, [1.0])


def test_dda_is_the_released_distance_on_exits_so_far():
    logits, _ = outputs(60, exits=4, seed=5)
    p = probabilities(logits)
    paper, alone = (
        score_table(make_rule("dda", {"confidence": c, "history": c}), seen(logits)) for c in (1, 0)
    )
    for n in range(60):
        for k in range(4):
            mean = p[n, : k + 1].mean(axis=0)
            near = [1 - cosine(p[n, j], mean) for j in range(k + 1)]
            assert paper[n, k] == pytest.approx(np.mean(near) * mean.max(), abs=1e-6)
            assert alone[n, k] == pytest.approx(near[-1], abs=1e-6)


@pytest.mark.parametrize("weights", ["accuracy", "cost"])
def test_beem_follows_the_papers_recursion(weights):
    data = cache(n=400)
    table = Tables(data).get("fit")
    (result,) = make_method(f"beem:weights={weights}").fit_path(table, [3.0])
    stats = table.statistics
    w = table.correct.mean(axis=0) if weights == "accuracy" else np.array([1, 2, 4, 8]) / 8
    exits = result.policy.decide(stats.outputs()).exit
    for n in range(len(table)):
        s = 0.0
        for k in range(4):
            agrees = k > 0 and stats.prediction[n, k] == stats.prediction[n, k - 1]
            s = (s if agrees else 0.0) + w[k] * stats.confidence[n, k]
            if k == 3 or s >= result.policy.thresholds[k]:
                break
        assert exits[n] == k


def test_beem_and_window_work_on_records():
    rng = np.random.default_rng(0)
    right = rng.random((400, 3)) < [0.6, 0.7, 0.8]
    data = po.from_arrays(
        labels=np.zeros(400, int), prediction=np.where(right, 0, 1),
        confidence=np.clip(0.5 + 0.3 * right + 0.3 * rng.random((400, 3)), 0, 1), costs=[1, 2, 4],
    )  # fmt: skip
    table = Tables(data).get("fit")
    for name in ("beem", "window"):
        (result,) = make_method(name).fit_path(table, [2.0])
        assert result.policy.kind == "record"
        assert result.expected.cost == pytest.approx(2.0, rel=0.02)


def test_best_run_is_the_best_of_all_runs():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 12):
        for _ in range(30):
            gains = rng.normal(-0.2, 1.0, size)
            a, b = best_run(gains)
            every = [gains[i:j].sum() for i in range(size + 1) for j in range(i, size + 1)]
            assert gains[a:b].sum() == pytest.approx(max(every))


def every_pair(problem, price):
    """Return the best value at a price over all pairs of windows of a problem of three exits."""
    gains = problem.value - price * problem.costs
    ranks = problem.scores.argsort(axis=0).argsort(axis=0)
    n = problem.rows
    runs = [(a, b) for a in range(n + 1) for b in range(a, n + 1)]
    inside = [[(ranks[:, k] >= a) & (ranks[:, k] < b) for a, b in runs] for k in range(2)]
    later = [np.where(goes, gains[:, 2], gains[:, 1]) for goes in inside[1]]
    return max(np.where(goes, then, gains[:, 0]).mean() for goes in inside[0] for then in later)


def test_windows_are_the_best_of_all_windows_on_small_problems():
    rng = np.random.default_rng(1)
    found, best = [], []
    for _ in range(12):
        problem = Problem(
            rng.random((7, 3)),
            (rng.random((7, 3)) < [0.4, 0.6, 0.8]) * 1.0,
            np.array([0.0, 1.0, 2.0]),
        )
        for price in (0.05, 0.2, 0.4):
            search = Windows(problem)
            cuts = search.best(price, [search.first, search.last])
            cost, value = search.point(cuts)
            plain = Lagrangian(problem)
            c, v = plain.point(plain.best(price, [plain.first, plain.last]))
            assert value - price * cost >= v - price * c - 1e-9
            found.append(value - price * cost)
            best.append(every_pair(problem, price))
    gap = np.array(best) - np.array(found)
    assert (gap > -1e-9).all()
    assert (gap < 1e-9).mean() > 0.8  # steps on one window at a time may end below the best pair


def test_windows_on_one_exit_are_exact_and_hull_reads_them():
    rng = np.random.default_rng(2)
    confidence = rng.random((300, 2))
    # Sure ones are right anyway; the hopeless ones never; those between only at the last exit.
    first = confidence[:, 0] > 0.7
    last = confidence[:, 0] > 0.3
    problem = Problem(confidence, np.stack([first, last], axis=1) * 1.0, np.array([1.0, 2.0]))
    search = Windows(problem)
    low, high = search.thresholds(search.best(0.5, [search.first]))
    assert 0.28 < low < 0.32
    assert 0.68 < high < 0.72
    assert any(np.allclose(ends, [low, high]) for ends in hull(problem, [1.4], search))


def test_window_gives_hopeless_samples_up():
    """Where a third gains nothing from going on, a window spends the budget on those that do."""
    tables = Tables(hopeless())
    (window,), (plain,) = (
        make_method(name).fit_path(tables.get("fit"), [2.0]) for name in ("window", "max_prob")
    )
    test = tables.get("test")
    ours, rival = replay(window.policy, test), replay(plain.policy, test)
    assert ours.cost.mean() == pytest.approx(2.0, rel=0.05)
    assert ours.correct.mean() > rival.correct.mean() + 0.1


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("similarity", {"measure": ["kl"]}),
        ("similarity", {"measure": "kl", "patience": 0}),
        ("dda", {"history": 3}),
        ("beem", {"weights": [1.0, -1.0]}),
        ("beem", {"weights": "x"}),
        ("window", {"middle": [[0.5]]}),
    ],
)
def test_bad_parameters_from_artifacts_are_refused(name, params):
    with pytest.raises(InputError):
        make_rule(name, params)


def test_parameters_must_fit_the_exits():
    with pytest.raises(InputError, match=r"weights of score beem.*K = 4"):
        make_rule("beem", {"weights": [1.0, 1.0]}).check(4, 3)
    with pytest.raises(InputError, match=r"middle of score window.*K = 4"):
        make_rule("window", {"middle": [0.5]}).check(4, 3)
