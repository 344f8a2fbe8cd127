"""The tables and the picture of the catalogue's benchmark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from _common import seconds, table

from policyopt._methods.registry import ROWS


def text_of(results: Mapping[str, Any]) -> str:
    """Return all tables: gains, time, and accuracy budget by budget."""
    found = results["caches"]
    out = [
        "# Every method on every cache\n",
        f"{results['seeds']} seeds; points of accuracy over max_prob with geometric quotas, mean of nine budgets, "
        "each at its own realised cost; in brackets the 95 % interval over test rows (paired bootstrap, "
        "mean of the seeds). `-`: the cache does not hold what the method needs. "
        f"All of it took {results['wall_s'] / 60:.0f} minutes.\n",
        _across("Gain over max_prob, points", results, _gain),
        _across("Fit, all nine budgets (median of seeds)", results, lambda one: seconds(one["fit_s"])),
        _across("Realised cost over budget, mean, %", results,
                lambda one: f"{100 * one['off_budget']:+.2f}"),
        _decisions(results),
    ]  # fmt: skip
    for name, methods in found.items():
        header = ["method", *(f"{10 * (i + 1)}%" for i in range(9))]
        rows = [
            (m, *(f"{100 * v:.2f}" for v in one["at_budget"]))
            for m, one in methods.items()
            if "at_budget" in one
        ]
        out.append(
            table(f"Accuracy at a realised cost of exactly each budget, {name}, %", header, rows)
        )
    return "\n".join(out)


def _across(title: str, results: Mapping[str, Any], cell: Callable[[Any], str]) -> str:
    """Return a table of methods by caches."""
    found = results["caches"]
    rows = [
        (ROWS[m].family, m, *("-" if "lacks" in found[c][m] else cell(found[c][m]) for c in found))
        for m in results["methods"]
    ]
    return table(title, ["family", "method", *found], rows)


def _gain(one: Mapping[str, Any]) -> str:
    if "average" not in one:
        return f"{one['budgets_met']} of 9 budgets met"
    low, high = 100 * one["average_low"], 100 * one["average_high"]
    return f"{100 * one['average']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _decisions(results: Mapping[str, Any]) -> str:
    timed = results["decision_s"]
    rows = [
        (m, *(_cost(times, m) for times in timed.values()))
        for m in results["methods"]
        if any(m in times for times in timed.values())
    ]
    return table("One decision at one exit, one sample, numpy (and times max_prob)",
                 ["method", *timed], rows)  # fmt: skip


def _cost(times: Mapping[str, float], method: str) -> str:
    if method not in times:
        return "-"
    return f"{seconds(times[method])} ({times[method] / times['max_prob']:.1f} x)"
