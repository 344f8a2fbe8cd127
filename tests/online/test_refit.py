"""Refit on unlabelled rows: the budget is kept there, labels of recent rows are not looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from synthetic import outputs

import policyopt as po
from policyopt._online.drift import joined, method_of, refit, unlabelled
from policyopt._replay import trace
from policyopt._table import Tables
from policyopt.runtime._errors import BudgetError, InputError

BUDGET = 3.0


def tables(rows=1200, dim=0.6):
    """Rows to fit on, and the same model's outputs on dimmed inputs: less sure of themselves."""
    logits, labels = outputs(3 * rows)
    parts = {
        "fit": {"outputs": logits[:rows], "labels": labels[:rows]},
        "recent": {"outputs": dim * logits[rows : 2 * rows], "labels": labels[rows : 2 * rows]},
        "test": {"outputs": dim * logits[2 * rows :], "labels": labels[2 * rows :]},
    }
    return Tables(po.from_arrays(splits=parts, costs=[1.0, 2.0, 4.0, 8.0], unit="ms"))


@pytest.fixture(scope="module")
def dimmed():
    return tables()


@pytest.mark.parametrize(
    "name", ["max_prob", "entropy", "patience", "optimal_stopping", "max_prob:thresholds=joint"]
)
def test_the_budget_is_kept_again(dimmed, name):
    before = po.fit(dimmed.data, BUDGET, name, tables=dimmed)
    fit, recent, test = (dimmed.get(s) for s in ("fit", "recent", "test"))
    after = refit(before, fit, recent)
    missed = abs(trace(before.policy, test).cost.mean() - BUDGET)
    kept = trace(after.policy, test).cost
    assert missed > 0.35 or name == "patience"  # dimming changes no prediction
    assert abs(kept.mean() - BUDGET) < 4 * kept.std() * (2 / len(test)) ** 0.5
    paid = trace(after.policy, recent).cost.mean()
    assert paid <= BUDGET * (1 + 1e-9)
    assert paid > BUDGET * 0.985
    assert after.expected.cost == pytest.approx(paid) and after.expected.rows == len(recent)
    assert np.isnan(after.accuracy)
    assert after.policy.provenance["refit"]["rows"] == len(recent)
    assert method_of(after) == method_of(before)


@pytest.mark.parametrize("name", ["max_prob", "optimal_stopping"])
def test_labels_of_recent_rows_are_not_looked_at(dimmed, name):
    recent, fit = dimmed.get("recent").take(np.arange(200)), dimmed.get("fit").take(np.arange(300))
    stats = recent.statistics
    wrong = np.random.default_rng(0).permutation(stats.labels)
    scrambled = replace(stats, labels=wrong, correct=stats.prediction == wrong[:, None])
    none = replace(stats, labels=None, correct=None)
    tables = [replace(recent, statistics=s) for s in (stats, scrambled, none)]
    fitted = [refit(name, fit, t, BUDGET, seed=4).policy for t in tables]
    scores = [trace(policy, fit).scores.tolist() for policy in fitted]
    assert scores[0] == scores[1] == scores[2]  # and so the same seed gives the same policy
    assert all(p.thresholds.tolist() == fitted[0].thresholds.tolist() for p in fitted)


def test_recent_rows_teach_what_labelled_rows_cannot():
    """A new kind of input, unsure at exit 0 and settled by exit 1: only recent rows show it."""
    rng = np.random.default_rng(0)

    def rows(n, new):
        labels = rng.integers(0, 4, n)
        own, other = np.eye(4)[labels], np.eye(4)[(labels + 1) % 4]
        kind = rng.random(n) < 0.5
        logits = rng.normal(size=(n, 3, 4)) * 0.3
        easy = np.stack([6 * own] * 3, axis=1)
        # Unsure as before, of two classes; now exit 1 knows where before only exit 2 did.
        pair = 3 * (own + other)
        hard = np.stack([pair, 6 * own if new else pair, 6 * own], axis=1)
        logits += np.where(kind[:, None, None], easy, hard)
        return {"outputs": logits.astype(np.float32), "labels": labels}

    parts = {"fit": rows(1500, False), "recent": rows(1500, True), "test": rows(3000, True)}
    seen = Tables(po.from_arrays(splits=parts, costs=[1.0, 2.0, 8.0], unit="ms"))
    after = refit("optimal_stopping", seen.get("fit"), seen.get("recent"), 1.5)
    found = trace(after.policy, seen.get("test"))
    assert found.cost.mean() == pytest.approx(1.5, abs=0.06)
    assert found.correct_taken.mean() > 0.97
    # The same method without the recent rows' lesson pays eight for what two would do.
    blind = po.fit(seen.data, 1.5, "optimal_stopping", tables=seen)
    assert trace(blind.policy, seen.get("test")).correct_taken.mean() < 0.9


def test_joined_rows_are_both_tables_rows(dimmed):
    fit = dimmed.get("fit").take(np.arange(50, 80))
    recent = unlabelled(dimmed.get("recent").take(np.array([9, 3, 7])))
    both = joined(fit, recent)
    assert len(both) == 33 and not both.labelled
    assert both.statistics.labels[30:].tolist() == [-1, -1, -1]
    assert both.log_prob().tolist() == np.concatenate([fit.log_prob(), recent.log_prob()]).tolist()
    assert (both.statistics.entropy[30:] == recent.statistics.entropy).all()
    assert both.costs.tolist() == fit.costs.tolist()
    fit, recent = dimmed.get("fit"), dimmed.get("recent")  # costs per row stay with their rows
    dear = replace(recent, costs=recent.costs * np.linspace(1, 2, len(recent))[:, None])
    both = joined(fit, dear)
    assert both.costs.shape == (len(both), 4)
    assert (both.costs[: len(fit)] == fit.costs).all() and (both.costs[-1] == dear.costs[-1]).all()
    for name in ("max_prob", "optimal_stopping"):
        after = refit(name, fit, dear, BUDGET)
        assert trace(after.policy, dear).cost.mean() == pytest.approx(BUDGET, rel=0.02)
        assert after.policy.costs == pytest.approx(dear.mean_costs + after.policy.overhead)


def test_records_and_few_rows_serve_too(dimmed):
    rng = np.random.default_rng(0)
    confidence = np.sort(rng.random((900, 3)), axis=1)
    correct = rng.random((900, 3)) < confidence
    parts = {
        "fit": {"confidence": confidence[:500], "correct": correct[:500]},
        "recent": {"confidence": confidence[500:] ** 2, "correct": correct[500:]},
    }
    seen = Tables(po.from_arrays(splits=parts, costs=[1.0, 2.0, 4.0], unit="ms", classes=3))
    for name in ("max_prob", "optimal_stopping"):
        after = refit(name, seen.get("fit"), seen.get("recent"), 2.0)
        assert trace(after.policy, seen.get("recent")).cost.mean() == pytest.approx(2.0, rel=0.02)
        for rows in (1, 3):
            few = dimmed.get("recent").take(np.arange(rows))
            assert refit(name, dimmed.get("fit"), few, "60%").expected.cost <= 4.8 * (1 + 1e-9)


def test_auto_is_refitted_by_what_it_chose():
    few = tables(rows=300)
    before = po.fit(few.data, BUDGET, "auto", tables=few)
    after = refit(before, few.get("fit"), few.get("recent"))
    assert after.expected.cost == pytest.approx(BUDGET, rel=0.02)


def test_mistakes_are_named(dimmed):
    fit, recent = dimmed.get("fit"), dimmed.get("recent")
    mJ, says = replace(recent, unit="mJ"), "'unit of the recent rows' must be as of the labelled"
    for table, budget, words in (
        (recent, None, "'budget' must be given"), (mJ, BUDGET, says),
        (recent.take(np.arange(0)), BUDGET, "'recent' must be of one row or more"),
        (recent.keep_exits((0, 3)), BUDGET, "'path of the recent rows'"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            refit("max_prob", fit, table, budget)
    for name in ("max_prob", "optimal_stopping"):
        with pytest.raises(BudgetError):
            refit(name, fit, recent, 0.5)
