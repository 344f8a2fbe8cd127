"""The picture of a plan: cost against accuracy of all plans, the chosen one marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policyopt.report.figures import COLOURS
from policyopt.tiers.choose import Planned
from policyopt.tiers.describe import Tiers
from policyopt.tiers.goal import Goal


def plan_figure(
    tiers: Tiers,
    goal: Goal,
    planned: Planned,
    reached: dict[str, Any],
    others: Sequence[dict[str, Any]] = (),
    title: str = "",
) -> Any:
    """Draw what every plan offers, by the tiers it uses, and what the chosen one came to.

    Thin lines: the upper hull of each plan's thresholds on the fit rows; thick: the best of the plans
    that use the same tiers. Star: the chosen plan on held-out rows with 95 % intervals; crosses: the full
    model on one tier.

    Parameters
    ----------
    tiers : Tiers
    goal : Goal
    planned : Planned
    reached : dict
        `policyopt.tiers.choose.summary` of the chosen plan.
    others : sequence of dict
        Summaries of what it is held against.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes, name = figure.add_subplot(), goal.objective
    groups: dict[tuple[int, ...], list[np.ndarray]] = {}
    for plan, points in planned.searched.frontiers:
        groups.setdefault(tuple(sorted(set(plan.tier))), []).append(points)
    for i, (used, lines) in enumerate(sorted(groups.items())):
        colour = COLOURS[i % len(COLOURS)]
        for points in lines:
            axes.plot(points[:, 0], 100 * points[:, 1], color=colour, lw=0.5, alpha=0.25)
        edge = np.concatenate(lines)
        edge = edge[np.argsort(edge[:, 0], kind="stable")]
        top = np.maximum.accumulate(edge[:, 1])
        label = " + ".join(tiers.tiers[t].name for t in used)
        axes.step(edge[:, 0], 100 * top, where="post", color=colour, lw=1.8, label=label)
    for one in others:
        axes.plot(one[name], 100 * one["accuracy"], "x", color="0.3", ms=8, mew=2)
        axes.annotate(
            f"full model, {one['tiers'][-1]}", (one[name], 100 * one["accuracy"]),
            textcoords="offset points", xytext=(0, -14), ha="center", color="0.3", fontsize=8,
        )  # fmt: skip
    x, y = reached[name], 100 * reached["accuracy"]
    spread = [
        [[centre - low], [high - centre]]
        for centre, low, high in (
            (x, reached[f"{name}_low"], reached[f"{name}_high"]),
            (y, 100 * reached["accuracy_low"], 100 * reached["accuracy_high"]),
        )
    ]
    axes.errorbar(
        x, y, xerr=np.maximum(spread[0], 0), yerr=np.maximum(spread[1], 0), color="black",
        marker="*", ms=15, capsize=3, zorder=5, label=f"chosen: {reached['plan']} (held-out rows)",
    )  # fmt: skip
    if goal.budget is not None:
        axes.axvline(goal.budget, color="0.5", ls="--", lw=1, label="budget")
    else:
        axes.axhline(100 * (goal.accuracy or 0), color="0.5", ls="--", lw=1, label="accuracy asked")
    axes.set_xlabel(f"mean {name} per sample [{tiers.unit_of(name)}]")
    axes.set_ylabel("accuracy [%]")
    axes.set_title(title, loc="left", fontsize=11)
    axes.grid(True, color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=4)
    return figure
