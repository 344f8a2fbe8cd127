"""What all pictures share, by matplotlib, and the picture of a frontier."""

from __future__ import annotations

import io
import os
import warnings
from typing import Any

import numpy as np

from policyopt._frontier import Frontier
from policyopt.runtime._files import write_file
from policyopt.runtime._text import picture_text
from policyopt.runtime._typing import Floats

# Okabe & Ito: told apart by colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
#: Lines of the first round of colours, the second, ...
LINES = ("-", "--", ":", "-.")
_MARKERS = "osD^vPX"
_MOST_INSIDE = 12  # lines; the names of more stand beside the picture


def new_figure(width: float, height: float) -> Any:
    """Return a figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Any, grid: str = "", labelsize: float = 9) -> None:
    """Take away the frame's top and right; draw a faint grid of "x", "y" or "both"."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=labelsize)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis=grid, which="both", color="0.92")


def add_legend(figure: Any, each: float = 2.2, side: str = "lower center", size: float = 9) -> None:
    """Put one legend outside all panels, each label once, in columns of so many inches."""
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for pair in drawn for handle, label in zip(*pair, strict=True)}
    most = max(int(figure.get_figwidth() / each), 2)
    lines = max(-(-len(handles) // most), 1)
    columns = max(-(-len(handles) // lines), 1)  # lines of like length
    look: dict[str, Any] = {"frameon": False, "fontsize": size, "ncols": columns}
    figure.legend(handles.values(), handles.keys(), loc=f"outside {side}", **look)


def add_heading(figure: Any, title: str, told: str = "", between: str = "\n") -> None:
    """Write a title above a figure, which may be empty, and what is told with it."""
    figure.suptitle(between.join(filter(None, (picture_text(title), told))), fontsize=11)


def save_figure(figure: Any, path: str | os.PathLike[str], dpi: int = 140) -> None:
    """Write a figure as PNG, whole or not at all."""
    data = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font", UserWarning)
        figure.savefig(data, format="png", dpi=dpi)
    write_file(path, data.getvalue())


def frontier_figure(frontier: Frontier, title: str = "") -> Any:
    """Draw accuracy against realised cost for every method.

    Lines: means over seeds; bands: 95 % bootstrap intervals (mean over seeds). Grey crosses:
    always leaving at exit k. Dashed grey: the hindsight oracle, which no policy can reach whose
    answers are the exits' own.
    """
    labels = list(dict.fromkeys(r["method"] for r in frontier.records))
    many = len(labels) > _MOST_INSIDE
    figure = new_figure(11.5, 7.5) if many else new_figure(8, 5.2)
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
        x, colour = cost[order], COLOURS[i]
        if not many:  # bands of many lines hide each other
            band = (100 * low[order], 100 * high[order])
            axes.fill_between(x, *band, color=colour, alpha=0.10, lw=0)
        look = {"marker": _MARKERS[(i + again) % len(_MARKERS)], "ls": LINES[again % len(LINES)]}
        look |= {"color": colour, "ms": 5, "lw": 1.6}
        axes.plot(x, 100 * accuracy[order], label=picture_text(label), **look)
    costs = _draw_exits(axes, frontier)
    bound_cost, bound = (_by_budget(frontier.bound, key) for key in ("budget", "accuracy"))
    told = "hindsight bound (not deployable)"
    axes.plot(bound_cost, 100 * bound, "--", color="0.55", lw=1.2, label=told)
    if costs[0] > 0 and costs[-1] / costs[0] > 8:
        axes.set_xscale("log")
        for place in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            place(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "125" else "")
    axes.set_xlabel(f"realised cost per sample [{picture_text(frontier.unit)}]")
    axes.set_ylabel("accuracy [%]")
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    tidy(axes, grid="both")
    if many:
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
    else:
        axes.legend(frameon=False, fontsize=9, loc="lower right")
    return figure


def _draw_exits(axes: Any, frontier: Frontier) -> Floats:
    """Draw what always leaving at an exit costs and earns, mean over seeds; return the costs, (K,)."""
    exits = sorted({e["exit"] for e in frontier.exits})
    points = np.array(
        [
            np.mean([(e["cost"], e["accuracy"]) for e in frontier.exits if e["exit"] == k], axis=0)
            for k in exits
        ]
    )
    costs, accuracies = points[:, 0], 100 * points[:, 1]
    axes.plot(costs, accuracies, "x", color="0.35", ms=8, mew=2, label="always leave at exit k")
    for k, point in zip(exits, zip(costs, accuracies, strict=True), strict=True):
        beside = {"textcoords": "offset points", "xytext": (6, -11)}
        axes.annotate(str(k), point, color="0.35", fontsize=9, **beside)
    return costs


def _by_budget(rows: list[dict[str, Any]], key: str) -> Floats:
    """Return the mean of a field over seeds, one value per budget position."""
    seeds = sorted({r["seed"] for r in rows})
    return np.mean([[r[key] for r in rows if r["seed"] == s] for s in seeds], axis=0)
