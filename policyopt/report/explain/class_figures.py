"""Pictures by class: scores of every sample (EENet, Figures 6 to 9), and exit shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.report.explain.explanation import Explanation
from policyopt.report.explain.style import (
    GONE,
    RIGHT,
    WRONG,
    draw_thresholds,
    exit_colours,
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
from policyopt.trace import Traced

#: Points of one panel; more hide each other.
POINTS = 3000
#: Up to so many classes are named on an axis, and have a bar of their own.
NAMED, BARS = 20, 40


def classes_figure(explanation: Explanation, policy: Policy, title: str = "", seed: int = 0) -> Any:
    """Draw score against class at each exit, as EENet's Figures 6 to 9.

    Classes stand in the order of the last exit's accuracy (as in its Figure 3). At most 3,000
    rows, the same in every panel, drawn by `seed`. Grey crosses left at an earlier exit.

    Parameters
    ----------
    explanation : Explanation
        Of labelled rows.
    policy : Policy
        The one explained.
    title : str
    seed : int

    Returns
    -------
    matplotlib.figure.Figure
        K panels.
    """
    from matplotlib.lines import Line2D

    found, classes = explanation.found, explanation.record["classes"]
    order = sorted(classes, key=lambda c: c["accuracy_exits"][-1])
    names = [c["class"] for c in order]
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(found.exit))[:POINTS]
    x = _places(found, names)[rows] + rng.uniform(-0.36, 0.36, len(rows))
    few = len(names) <= NAMED
    figure, axes = panels(found.exits, 4.4 if few else 5.0, 2.9)
    for k, panel in enumerate(axes):
        _scatter(panel, found, k, rows, x)
        record = explanation.record["exits"][k]
        edges = record["score"]["edges"]
        said = draw_thresholds(panel, thresholds_of(policy, k), (edges[0], edges[-1]), across=True)
        told = f"exit {record['exit']}: {percent(record['share_left'])} leave"
        panel.set_title(f"{told} ({said})" if said else told, fontsize=9.5)
        panel.set_xlim(-0.7, len(names) - 0.3)
        panel.set_xticks(range(len(names)) if few else [], names if few else [])
        tidy(panel)
    style: dict[str, Any] = {"ls": "", "ms": 6}
    handles = [
        Line2D([], [], marker="o", color=RIGHT, label="right at this exit", **style),
        Line2D([], [], marker="o", color=WRONG, label="wrong at this exit", **style),
        Line2D([], [], marker="x", color=GONE, label="left before", **style),
        *threshold_handles(policy),
    ]
    legend_below(figure, handles)
    what = "class" if few else f"{len(names)} classes"
    label_bottom(axes, f"{what}, least accurate (last exit) first")
    figure.supylabel(f"score ({policy.rule.name})", fontsize=10)
    shown = f"{len(rows):,} of {len(found.exit):,} rows"
    figure.suptitle(f"{picture_text(title)}: {shown}" if title else shown, fontsize=11)
    return figure


def _places(found: Traced, names: list[int]) -> npt.NDArray[np.int64]:
    """Position of every row's class on the axis, (N,)."""
    labels = np.asarray(found.labels)
    position = np.empty(int(labels.max()) + 1, dtype=np.int64)
    position[names] = np.arange(len(names))
    return position[labels]


def _scatter(panel: Any, found: Traced, k: int, rows: npt.NDArray[np.int64], x: Any) -> None:
    """Draw those gone before, then right and wrong in one go: neither colour hides the other."""
    scores, right = found.scores[rows, k], np.asarray(found.correct)[rows, k]
    gone = found.position[rows] < k
    panel.scatter(x[gone], scores[gone], 12, color=GONE, marker="x", lw=0.7, zorder=1, label="gone")
    here = ~gone
    panel.scatter(
        x[here], scores[here], 9, c=np.where(right[here], RIGHT, WRONG), lw=0, alpha=0.75,
        zorder=2, label="reached",
    )  # fmt: skip


def per_class_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw where the samples of each class leave, cheapest class first.

    Parameters
    ----------
    explanation : Explanation
        Of labelled rows.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        One bar per class, its accuracy and cost beside it; over 40 classes, their accuracy below.
    """
    from matplotlib.figure import Figure

    order = sorted(explanation.record["classes"], key=lambda c: c["cost"])
    shares = 100 * np.array([c["exit_share"] for c in order])
    low = shares.cumsum(axis=1) - shares
    unit, named = explanation.record["unit"], len(order) <= BARS
    height = 1.9 + 0.3 * len(order) if named else 6.2
    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.subplots(1 if named else 2, 1, squeeze=False, sharex=not named)[:, 0]
    at = np.arange(len(order))
    for k, colour in enumerate(exit_colours(shares.shape[1])):
        label, bars = f"exit {explanation.found.path[k]}", shares[:, k]
        if named:
            axes[0].barh(at, bars, 0.82, left=low[:, k], color=colour, label=label)
        else:
            axes[0].bar(at, bars, 1.0, bottom=low[:, k], color=colour, label=label)
    if named:
        _name_bars(axes[0], order, unit)
    else:
        axes[0].set_ylabel("share of the class [%]")
        axes[0].set_ylim(0, 100)
        axes[1].plot(at, [100 * c["accuracy"] for c in order], ".", color=RIGHT, ms=4)
        axes[1].set_ylabel("accuracy [%]")
        axes[1].set_xlabel(f"{len(order)} classes, cheapest first")
        axes[1].set_xlim(-0.5, len(order) - 0.5)
        axes[1].grid(True, axis="y", color="0.92")
    for panel in axes:
        tidy(panel)
    figure.legend(
        loc="outside lower center", ncols=min(shares.shape[1], 6), frameon=False, fontsize=9
    )
    figure.suptitle(picture_text(title), fontsize=11)
    return figure


def _name_bars(axes: Any, order: list[dict[str, Any]], unit: str) -> None:
    axes.set_yticks(range(len(order)), [c["class"] for c in order])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the class that leaves at each exit [%]")
    axes.set_ylabel("class, cheapest first")
    axes.text(
        101.5,
        -0.85,
        f"accuracy, cost [{picture_text(unit)}]",
        fontsize=8.5,
        color="0.25",
        va="center",
    )
    for y, record in enumerate(order):
        told = f"{percent(record['accuracy'])}, {record['cost']:.4g}"
        axes.text(101.5, y, told, va="center", fontsize=8.5, color="0.25")
