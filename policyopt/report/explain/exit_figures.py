"""Pictures by exit: who leaves and how right they are; how scores are distributed."""

from __future__ import annotations

from typing import Any

import numpy as np

from policyopt.report.explain.explanation import Explanation
from policyopt.report.explain.style import (
    GONE,
    MANY,
    OTHER,
    RIGHT,
    WRONG,
    draw_thresholds,
    label_bottom,
    legend_below,
    panels,
    percent,
    threshold_handles,
    thresholds_of,
    tidy,
)
from policyopt.runtime.policy import Policy
from policyopt.runtime.text import picture_text

_GROUPS = {"right": RIGHT, "wrong": WRONG, "all": OTHER}


def exits_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw the share that leaves at each exit, what it costs, and how right leavers and stayers are.

    Parameters
    ----------
    explanation : Explanation
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        One panel, two where correctness is known.
    """
    from matplotlib.figure import Figure

    record = explanation.record
    exits, unit = record["exits"], picture_text(record["unit"])
    labelled = record["accuracy"] is not None
    size = 8 if len(exits) > MANY else 9
    figure = Figure(
        figsize=(max(7.0, 1.0 * len(exits) + 2.0), 6.4 if labelled else 3.8), layout="constrained"
    )
    axes = figure.subplots(1 + labelled, 1, sharex=True, squeeze=False)[:, 0]
    at = np.arange(len(exits))
    for shift, key, colour, label in (
        (-0.2, "share_left", RIGHT, "of the rows leave here"),
        (0.2, "cost_share", GONE, "of all cost is spent on them"),
    ):
        heights = [100 * (e[key] or 0.0) for e in exits]
        axes[0].bar(at + shift, heights, 0.38, color=colour, label=label)
        for x, y in zip(at + shift, heights, strict=True):
            axes[0].annotate(
                f"{y:.0f}" if y >= 10 or y == 0 else f"{y:.1f}", (x, y), (0, 2),
                textcoords="offset points", ha="center", fontsize=size,
            )  # fmt: skip
    axes[0].set_ylabel("share [%]")
    axes[0].margins(y=0.12)
    axes[0].legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    if labelled:
        _accuracies(axes[1], exits, size)
    ticks = [f"exit {e['exit']}\n{e['cost']:.4g}" for e in exits]
    axes[-1].set_xticks(at, ticks, fontsize=size)
    axes[-1].set_xlim(-0.6, len(exits) - 0.4)
    axes[-1].set_xlabel(f"exit, and its mean cost [{unit}]")
    for panel in axes:
        tidy(panel)
        panel.grid(True, axis="y", color="0.92")
        panel.set_axisbelow(True)
    told = f"mean cost {record['realised_cost']:.4g} {unit}"
    if labelled:
        told += f", accuracy {percent(record['accuracy'], 2)}"
    figure.suptitle(f"{picture_text(title)}\n{told}" if title else told, fontsize=11)
    return figure


def _accuracies(axes: Any, exits: list[dict[str, Any]], size: int) -> None:
    series = (
        ("accuracy_left", RIGHT, "o", -0.2, "leave here"),
        ("accuracy_stayed", WRONG, "s", 0.2, "go on (had they left)"),
        ("accuracy", "0.35", "_", 0.0, "all rows (had they left)"),
    )
    for key, colour, marker, shift, label in series:
        points = [(i + shift, 100 * e[key]) for i, e in enumerate(exits) if e[key] is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker, color=colour, ms=14 if marker == "_" else 7, mew=2, label=label)
        if marker == "_":
            continue
        for px, py in points:
            axes.annotate(
                f"{py:.1f}", (px, py), (0, 7 if shift < 0 else -7), textcoords="offset points",
                ha="center", va="bottom" if shift < 0 else "top", fontsize=size, color=colour,
            )  # fmt: skip
    axes.set_ylabel("accuracy [%]")
    axes.margins(y=0.18)
    axes.set_ylim(*axes.get_ylim())  # room for the numbers, but no ticks beyond 100 %
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def scores_figure(explanation: Explanation, policy: Policy, title: str = "") -> Any:
    """Draw how the scores of right and of wrong answers lie at each exit (EENet, Figure 3).

    Filled: rows that reach the exit, each group summing to 100 %; dotted: those gone before.

    Parameters
    ----------
    explanation : Explanation
    policy : Policy
        The one explained.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        K panels.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    exits = explanation.record["exits"]
    figure, axes = panels(len(exits), 3.7, 2.7)
    shown = []
    for k, (panel, record) in enumerate(zip(axes, exits, strict=True)):
        score = record["score"]
        edges = np.array(score["edges"])
        for name, group in score["reached"].items():
            if group["rows"]:
                heights = 100 * np.array(group["counts"]) / group["rows"]
                panel.stairs(heights, edges, fill=True, color=_GROUPS[name], alpha=0.5)
                panel.stairs(heights, edges, color=_GROUPS[name], lw=1.3)
                shown.append(name)
        # Those gone often pile up in one bin: they do not set the scale, unless nobody else is here.
        top = panel.get_ylim()[1] if record["rows_reached"] else 105
        gone = np.sum([g["counts"] for g in score["gone"].values()], axis=0)
        if gone.sum():
            panel.stairs(100 * gone / gone.sum(), edges, color="0.45", ls=":", lw=1.2)
        panel.set_ylim(0, top)
        said = draw_thresholds(panel, thresholds_of(policy, k), (edges[0], edges[-1]), across=False)
        if record["auroc"] is not None:
            said = f"AUROC {record['auroc']:.3f}{', ' if said else ''}{said}"
        told = f"exit {record['exit']}: {percent(record['share_left'])} leave"
        panel.set_title(f"{told}\n{said}", fontsize=9.5)
        tidy(panel)
    names = [n for n in _GROUPS if n in shown]
    words = {"right": "right answers", "wrong": "wrong answers", "all": "all answers"}
    handles: list[Any] = [Patch(color=_GROUPS[n], alpha=0.6, label=words[n]) for n in names]
    handles.append(Line2D([], [], color="0.45", ls=":", label="gone before"))
    handles += threshold_handles(policy)
    legend_below(figure, handles)
    label_bottom(axes, f"score ({policy.rule.name})")
    figure.supylabel("share of the group [%]", fontsize=10)
    figure.suptitle(picture_text(title), fontsize=11)
    return figure
