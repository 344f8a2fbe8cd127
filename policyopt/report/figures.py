"""Pictures, by matplotlib."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np

from policyopt.frontier.curve import Frontier
from policyopt.runtime.files import write_file
from policyopt.runtime.text import picture_text

# Okabe & Ito: told apart by colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_MOST_INSIDE = 12  # lines; the names of more stand beside the picture


def frontier_figure(frontier: Frontier, title: str = "") -> Any:
    """Draw accuracy against realised cost for every method.

    Lines: means over seeds; bands: 95 % bootstrap intervals (mean over seeds). Grey crosses:
    always leaving at exit k. Dashed grey: the hindsight oracle, which no
    policy can reach whose answers are the exits' own.

    Parameters
    ----------
    frontier : Frontier
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(r["method"] for r in frontier.records))
    many = len(labels) > _MOST_INSIDE
    figure = Figure(figsize=(11.5, 7.5) if many else (8, 5.2), layout="constrained")
    axes = figure.add_subplot()
    for i, label in enumerate(labels):
        rows = [r for r in frontier.records if r["method"] == label]
        cost, accuracy, low, high = (
            _by_budget(rows, key)
            for key in ("realised_cost", "accuracy", "accuracy_low", "accuracy_high")
        )
        order = np.argsort(cost, kind="stable")
        # Each further round of colours has other markers and another kind of line.
        again, i = divmod(i, len(COLOURS))
        colour, marker = COLOURS[i], _MARKERS[(i + again) % len(_MARKERS)]
        if not many:  # bands of many lines hide each other
            axes.fill_between(
                cost[order], 100 * low[order], 100 * high[order], color=colour, alpha=0.10, lw=0
            )
        axes.plot(
            cost[order],
            100 * accuracy[order],
            color=colour,
            marker=marker,
            ms=5,
            lw=1.6,
            ls=("-", "--", ":", "-.")[again % 4],
            label=picture_text(label),
        )
    exits = sorted({e["exit"] for e in frontier.exits})
    costs = [np.mean([e["cost"] for e in frontier.exits if e["exit"] == k]) for k in exits]
    points = [
        100 * np.mean([e["accuracy"] for e in frontier.exits if e["exit"] == k]) for k in exits
    ]
    axes.plot(costs, points, "x", color="0.35", ms=8, mew=2, label="always leave at exit k")
    for k, x, y in zip(exits, costs, points, strict=True):
        axes.annotate(
            str(k), (x, y), textcoords="offset points", xytext=(6, -11), color="0.35", fontsize=9
        )
    bound_cost, bound = (_by_budget(frontier.bound, key) for key in ("budget", "accuracy"))
    bound = 100 * bound
    axes.plot(
        bound_cost, bound, "--", color="0.55", lw=1.2, label="hindsight bound (not deployable)"
    )
    if costs[0] > 0 and costs[-1] / costs[0] > 8:
        axes.set_xscale("log")
        for place in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            place(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "125" else "")
    axes.set_xlabel(f"realised cost per sample [{picture_text(frontier.unit)}]")
    axes.set_ylabel("accuracy [%]")
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    axes.grid(True, which="both", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    if many:
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    else:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def save_figure(figure: Any, path: str | os.PathLike[str], dpi: int = 140) -> None:
    """Write a figure as PNG, whole or not at all."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font", UserWarning)
        figure.savefig(data, format="png", dpi=dpi)
    write_file(path, data.getvalue())


def _by_budget(rows: list[dict[str, Any]], key: str) -> np.ndarray:
    """Mean of a field over seeds, one value per budget position."""
    seeds = sorted({r["seed"] for r in rows})
    return np.mean([[r[key] for r in rows if r["seed"] == s] for s in seeds], axis=0)
