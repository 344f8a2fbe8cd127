"""Reliability diagrams: confidence against accuracy, one panel per exit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.report.calibration import reliability
from policyopt.report.calibration_error import calibration_error
from policyopt.runtime.text import picture_text
from policyopt.runtime.typing import Floats

#: Okabe & Ito, told apart by colour-blind readers and by marker in print.
_GROUPS = {"all": ("all rows", "#0072B2", "o"), "leavers": ("rows that leave here", "#D55E00", "s")}
_BARS = 24
_PER_ROW = 6


def reliability_figure(
    confidence: Floats,
    correct: Floats,
    exits: npt.NDArray[np.int64],
    title: str = "",
    path: Sequence[int] | None = None,
) -> Any:
    """Draw accuracy against confidence at each exit, for all rows and for those that leave there.

    Points: bins of equal mass; bars: Wilson's 95 % intervals; dashed: calibrated; above it an
    exit is less sure than it could be, below it too sure. Beneath, how many rows have which
    confidence.

    Parameters
    ----------
    confidence, correct : ndarray of shape (N, K)
    exits : ndarray of shape (N,), int64
        Exit each row takes.
    title : str
    path : sequence of K int, optional
        The model's exit number of each column; default 0..K-1.

    Returns
    -------
    matplotlib.figure.Figure

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> p = rng.random((200, 2))
    >>> figure = reliability_figure(p, rng.random((200, 2)) < p, rng.integers(0, 2, 200))
    >>> len(figure.axes)
    4
    """
    from matplotlib.figure import Figure

    count = confidence.shape[1]
    numbers = range(count) if path is None else path
    columns = min(count, _PER_ROW)
    lines = -(-count // columns)
    figure = Figure(figsize=(2.55 * columns + 0.7, 3.9 * lines + 0.75), layout="constrained")
    grid = figure.add_gridspec(2 * lines, columns, height_ratios=[3, 1] * lines)
    points = [
        {g: reliability(confidence[m, k], correct[m, k]) for g, m in _masks(exits, number).items()}
        for k, number in enumerate(numbers)
    ]
    low = _lowest(points)
    for k, number in enumerate(numbers):
        line, column = divmod(k, columns)
        axes = figure.add_subplot(grid[2 * line, column])
        below = figure.add_subplot(grid[2 * line + 1, column], sharex=axes)
        axes.plot([low, 1], [low, 1], "--", color="0.55", lw=1)
        note = []
        for group, mask in _masks(exits, number).items():
            name, colour, marker = _GROUPS[group]
            _curve(axes, points[k][group], name, colour, marker)
            if mask.any():
                ece = calibration_error(confidence[mask, k], correct[mask, k])["ece"]
                note.append(f"ECE {100 * ece:.1f} % {'all' if group == 'all' else 'leaving'}")
            _bars(below, confidence[mask, k], low, len(exits), colour, group)
        axes.text(
            0.03, 0.97, "\n".join(note), transform=axes.transAxes, va="top", fontsize=8, color="0.3"
        )
        share = 100 * float((exits == number).mean())
        axes.set_title(f"exit {number}: {share:.0f} % leave", fontsize=10)
        axes.set(xlim=(low, 1.01), ylim=(low, 1.01))
        axes.tick_params(labelbottom=False, labelleft=column == 0)
        below.tick_params(labelleft=column == 0)
        below.set_yscale("log")
        below.set_ylim(0.1, 110)
        below.set_yticks([0.1, 1, 10, 100])
        below.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        below.minorticks_off()
        below.set_xlabel("confidence", fontsize=9)
        if column == 0:
            axes.set_ylabel("accuracy")
            below.set_ylabel("% of rows", fontsize=9)
        for each in (axes, below):
            each.grid(True, color="0.92")
            each.set_axisbelow(True)
            each.spines[["top", "right"]].set_visible(False)
            each.tick_params(labelsize=8)
    handles = {
        label: h
        for a in figure.axes
        for h, label in zip(*a.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=2, frameon=False,
        fontsize=9,
    )  # fmt: skip
    figure.suptitle(picture_text(title), x=0.01, ha="left", fontsize=11)
    return figure


def _masks(exits: npt.NDArray[np.int64], k: int) -> dict[str, npt.NDArray[np.bool_]]:
    return {"all": np.ones(len(exits), dtype=bool), "leavers": exits == k}


def _lowest(points: list[dict[str, list[dict[str, Any]]]]) -> float:
    """Return where the axes begin: a tenth that leaves no point out."""
    values = [
        p[name] for groups in points for g in groups.values() for p in g
        for name in ("confidence", "accuracy")
    ]  # fmt: skip
    return float(np.clip(np.floor(10 * min(values, default=0.0) - 0.3) / 10, 0.0, 0.9))


def _curve(axes: Any, points: list[dict[str, Any]], name: str, colour: str, marker: str) -> None:
    if not points:
        return
    x, y, low, high = (
        np.array([p[key] for p in points])
        for key in ("confidence", "accuracy", "accuracy_low", "accuracy_high")
    )
    error = np.maximum([y - low, high - y], 0)
    axes.errorbar(
        x, y, error, color=colour, marker=marker, ms=3.5, lw=1.2, elinewidth=0.8, label=name
    )


def _bars(axes: Any, values: Floats, low: float, rows: int, colour: str, group: str) -> None:
    counts, edges = np.histogram(np.clip(values, low, 1.0), bins=_BARS, range=(low, 1.0))
    solid = group == "leavers"
    axes.stairs(
        np.maximum(100 * counts / rows, 1e-3),
        edges,
        baseline=1e-3,
        fill=solid,
        color=colour,
        alpha=0.55 if solid else 1.0,
        lw=1,
    )
