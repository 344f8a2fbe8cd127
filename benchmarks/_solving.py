"""Threshold finding and replay against the loops of `_loops`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from _common import Timing, paired, seconds, synthetic, table, times
from _loops import Walk, on_arrays, on_lists, on_tensors, scan, sort_tensors

from policyopt._cache.data import Rows
from policyopt._costs import positions
from policyopt._table import exit_statistics
from policyopt._thresholds.problem import Problem
from policyopt._thresholds.quotas import (
    geometric_shares,
    quota_thresholds,
    solve_geometric,
    solve_ratio,
)
from policyopt.runtime._policy import first_exit

ROWS, EXITS, CLASSES = 10_000, 5, 100
COSTS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
SHARE = 0.25  # of the full model: the one budget
TARGET = 300.0
OURS = "policyopt"
WALK, SORT = "torch tensors, MSDNet's walk", "torch tensors, EENet's sort + replay"
ARRAYS, LISTS = "the walk on numpy arrays", "the walk on Python lists"


class Found(NamedTuple):
    """What policyopt found for one budget; exits (N,)."""

    thresholds: npt.NDArray[np.float64]
    exits: npt.NDArray[np.int64]
    cost: float
    accuracy: float


def solving(repeats: int) -> tuple[dict[str, Any], str]:
    """Run this part; return its record and its table."""
    logits, labels = synthetic(ROWS, EXITS, CLASSES)
    rows = Rows(({"outputs": logits, "labels": labels},))
    pass_time = paired({"pass": lambda: exit_statistics(rows, "logits")}, repeats, {"pass": 2})
    statistics = exit_statistics(rows, "logits")
    scores = np.ascontiguousarray(statistics.confidence)
    predictions = np.ascontiguousarray(statistics.prediction)
    correct = (predictions == labels[:, None]).astype(np.float64)
    budgets = [float(b) for b in positions(COSTS, 9)]
    budget = SHARE * float(COSTS[-1])
    held = (scores, predictions, labels, COSTS)
    loops = {ARRAYS: on_arrays(*held), LISTS: on_lists(*held)}
    if importlib.util.find_spec("torch"):
        loops = {WALK: on_tensors(*held), SORT: on_tensors(*held, sort_tensors), **loops}

    agreement = _agree(scores, correct, budget, loops)
    one: dict[str, Callable[[], object]] = {OURS: lambda: _ours(scores, correct, [budget])}
    nine: dict[str, Callable[[], object]] = {OURS: lambda: _ours(scores, correct, budgets)}
    grid: dict[str, Callable[[], object]] = {OURS: lambda: _ours(scores, correct, [budget])}
    for name, loop in loops.items():
        one[name] = lambda loop=loop: loop(_shares(budget))
        nine[name] = lambda loop=loop: [loop(_shares(b)) for b in budgets]
        if name != SORT:  # its code chooses the ratio from the costs alone, before it sorts
            grid[name] = lambda loop=loop: scan(loop, EXITS, [budget])
    timed = {
        "one budget, the ratio handed to the loop": paired(one, repeats, {OURS: 20}),
        "nine budgets, their ratios handed to the loop": paired(nine, max(repeats // 3, 1)),
        "one budget, the loop scans its 40 ratios": paired(grid, 1, {OURS: 20}),
    }
    record = {
        "rows": ROWS, "exits": EXITS, "classes": CLASSES, "budget": budget, "budgets": budgets,
        "target": TARGET, "pass": pass_time["pass"].record(), "agreement": agreement,
        "jobs": {job: _record(timings) for job, timings in timed.items()},
    }  # fmt: skip
    return record, _text(record, timed, pass_time["pass"])


def _ours(
    scores: npt.NDArray[np.float64], correct: npt.NDArray[np.float64], budgets: list[float]
) -> list[Found]:
    """Find thresholds for each budget, replay them, and take cost and accuracy."""
    problem = Problem(scores, correct, COSTS)
    found = []
    for solution in solve_geometric(problem, budgets):
        exits = first_exit(problem.scores, solution.thresholds)
        accuracy = correct[np.arange(len(exits)), exits].mean()
        found.append(Found(solution.thresholds, exits, float(COSTS[exits].mean()), float(accuracy)))
    return found


def _shares(budget: float) -> npt.NDArray[np.float64]:
    return geometric_shares(solve_ratio(COSTS, budget), EXITS)


def _agree(
    scores: npt.NDArray[np.float64],
    correct: npt.NDArray[np.float64],
    budget: float,
    loops: dict[str, Callable[[Any], Walk]],
) -> dict[str, Any]:
    """Check that all contestants do the same job.

    Raises
    ------
    AssertionError
        Same quotas, other exits; or counts that differ by more than rounding.
    """
    shares = _shares(budget)
    quotas = np.floor(shares * ROWS).astype(np.int64)
    same_quotas = first_exit(scores, quota_thresholds(scores, quotas))
    (found,) = _ours(scores, correct, [budget])
    counts = np.bincount(found.exits, minlength=EXITS)
    largest = agreed = 0.0
    for name, loop in loops.items():
        walked = loop(shares)
        theirs = first_exit(scores, np.array(walked.thresholds[:-1]))
        assert np.array_equal(theirs, same_quotas), f"{name}: other exits for the same quotas"
        assert np.array_equal(np.bincount(theirs, minlength=EXITS), walked.counts), name
        largest = float(np.abs(counts - walked.counts).max())
        agreed = float((theirs == found.exits).mean())
        assert largest <= EXITS, f"{name}: exit counts differ by {largest:.0f}"
        assert abs(walked.accuracy - found.accuracy) < 0.002, name
        assert abs(walked.cost / found.cost - 1) < 0.005, name
    return {
        "counts": counts.tolist(), "largest_count_difference": largest,
        "same_exit_share": agreed, "realised_over_budget": found.cost / budget - 1,
        "accuracy": found.accuracy,
    }  # fmt: skip


def _record(timings: dict[str, Timing]) -> dict[str, Any]:
    ours = timings[OURS]
    return {
        name: {
            **timing.record(),
            "ratio_best": timing.best / ours.best,
            "ratio_median": timing.median / ours.median,
        }
        for name, timing in timings.items()
    }


def _text(record: dict[str, Any], timed: dict[str, dict[str, Timing]], pass_time: Timing) -> str:
    rows = []
    for job, timings in timed.items():
        for name, timing in timings.items():
            entry = record["jobs"][job][name]
            rows.append(
                (
                    job, name, seconds(timing.best), seconds(timing.median),
                    times(entry["ratio_best"]), times(entry["ratio_median"]),
                )
            )  # fmt: skip
    agreement = record["agreement"]
    title = f"Threshold finding + replay, N = {ROWS:,}, K = {EXITS}, C = {CLASSES}"
    header = ("job", "way", "best", "median", "of ours (best)", "of ours (median)")
    return (
        f"{table(title, header, rows)}\n"
        f"Target: {TARGET:.0f} x. Same quotas: same exit for every sample. With the budget met "
        f"({agreement['realised_over_budget']:+.3%} of it): {agreement['same_exit_share']:.2%} of the "
        f"samples take the same exit, counts per exit differ by at most "
        f"{agreement['largest_count_difference']:.0f}. The pass from logits to scores that all start "
        f"from takes {seconds(pass_time.best)} and is not counted.\n"
    )
