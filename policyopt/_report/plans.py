"""The picture of a plan: cost against accuracy of all plans, the chosen one marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policyopt._report.figures import COLOURS, LINES, add_legend, new_figure, tidy
from policyopt._tiers.choose import Planned
from policyopt._tiers.description import Tiers
from policyopt._tiers.search import Goal
from policyopt.runtime._text import picture_text
from policyopt.runtime._typing import Floats

_COLOURS = (*COLOURS[:-1], "#7A4E2D")  # black is the chosen plan's


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
    that use the same tiers. Star: the chosen plan on held-out rows with 95 % intervals (`reached`, its
    summary); crosses: the full model on one tier (`others`).
    """
    figure = new_figure(9, 6)
    axes, name = figure.add_subplot(), goal.objective
    groups: dict[tuple[int, ...], list[Floats]] = {}
    for plan, points in planned.searched.frontiers:
        groups.setdefault(tuple(sorted(set(plan.tier))), []).append(points)
    for i, (used, lines) in enumerate(sorted(groups.items(), key=lambda g: (len(g[0]), g[0]))):
        again, place = divmod(i, len(_COLOURS))
        for points in lines:
            axes.plot(points[:, 0], 100 * points[:, 1], color=_COLOURS[place], lw=0.4, alpha=0.15)
        edge = np.concatenate(lines)
        edge = edge[np.argsort(edge[:, 0], kind="stable")]
        rising = np.diff(np.maximum.accumulate(edge[:, 1]), prepend=-1.0) > 0
        edge = edge[rising]  # the end of what more cost does not better is not drawn
        look = {"color": _COLOURS[place], "ls": LINES[again % 3], "lw": 1.8, "marker": "o"}
        look |= {"ms": 4 if len(edge) == 1 else 0, "drawstyle": "steps-post"}
        label = picture_text(" + ".join(tiers.tiers[t].name for t in used))
        axes.plot(edge[:, 0], 100 * edge[:, 1], label=label, **look)
    for i, one in enumerate(others):  # in turn below and above, so that neighbours do not meet
        place = (one[name], 100 * one["accuracy"])
        axes.plot(*place, "x", color="0.2", ms=8, mew=2, zorder=4)
        axes.annotate(
            f"full model, {picture_text(one['tiers'][-1])}", place, textcoords="offset points",
            xytext=(0, 9 if i % 2 else -16), ha="center", color="0.2", fontsize=8, zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip
    _draw_chosen(axes, reached, name)
    if goal.budget is not None:
        axes.axvline(goal.budget, color="0.4", ls="--", lw=1, label="budget")
    else:
        axes.axhline(100 * (goal.accuracy or 0), color="0.4", ls="--", lw=1, label="accuracy asked")
    points = np.concatenate([line for lines in groups.values() for line in lines])
    _zoom(axes, goal, points, [reached, *others])
    axes.set_xlabel(f"mean {name} per sample [{picture_text(tiers.unit_of(name))}]")
    axes.set_ylabel("accuracy [%]")
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    axes.set_title("lines: fit rows; star, crosses: held-out rows", loc="right", fontsize=8)
    tidy(axes, grid="both")
    add_legend(figure)
    return figure


def _draw_chosen(axes: Any, reached: dict[str, Any], name: str) -> None:
    """Draw the chosen plan with its intervals, its star alone in the legend."""
    x, y = reached[name], 100 * reached["accuracy"]
    bars = [
        [[max(centre - low, 0.0)], [max(high - centre, 0.0)]]
        for centre, low, high in (
            (x, reached[f"{name}_low"], reached[f"{name}_high"]),
            (y, 100 * reached["accuracy_low"], 100 * reached["accuracy_high"]),
        )
    ]
    axes.errorbar(x, y, xerr=bars[0], yerr=bars[1], color="black", capsize=3, ls="none", zorder=5)
    axes.plot(x, y, "*", color="black", mec="white", mew=0.8, ms=15, zorder=6)
    axes.plot([], [], "*", color="black", ms=9, label=picture_text(f"chosen: {reached['plan']}"))


def _zoom(axes: Any, goal: Goal, points: Floats, records: Sequence[dict[str, Any]]) -> None:
    """Show what is worth comparing: costs in octaves where they are far apart, the upper accuracies.

    `points`, (n, 2): cost and accuracy of the lines.
    """
    costs = np.array([*points[:, 0], *(one[goal.objective] for one in records)])
    if costs.min() > 0 and costs.max() > 6 * costs.min():
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    seen = [one["accuracy_low"] for one in records] + [goal.accuracy or 1.0]
    top = max(float(points[:, 1].max()), *(one["accuracy_high"] for one in records))
    low = max(top - max(4 * (top - min(seen)), 0.03), float(points[:, 1].min()))
    room = 0.04 * (top - low)
    axes.set_ylim(100 * (low - room), 100 * (top + room))
    axes.margins(x=0.06)
