"""Pictures of several models and streams: where policies hold that were fitted on clean rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from policyopt._report.figures import add_heading, new_figure
from policyopt.runtime._text import picture_text
from policyopt.runtime._typing import Array

_BEHIND, _OFF = 5.0, 50.0  # where colours end: points behind the best, % of the budget


def robustness_figure(records: Sequence[dict[str, Any]], title: str = "") -> Any:
    """Draw quality, and by how much cost misses the budget, of methods by streams: a pair of tables per budget.

    The best method stands on top. Framed: the floor, or the budget, is missed by more than chance. Without a budget,
    cost is told beside that of the clean rows.
    """
    budgets = list(dict.fromkeys(one["budget"] for one in records))
    streams, methods = (list(dict.fromkeys(r[of] for r in records)) for of in ("stream", "method"))
    height = 1.9 + 0.23 * len(methods)
    figure = new_figure(4.5 + 1.15 * len(streams), 0.5 + height * len(budgets))
    panels = figure.subplots(len(budgets), 2, squeeze=False)
    for (left, right), budget in zip(panels, budgets, strict=True):
        lines: dict[str, dict[str, Any]] = {}
        for one in (one for one in records if one["budget"] == budget):
            lines.setdefault(one["method"], {})[one["stream"]] = one
        names = sorted(lines, key=lambda m: -np.mean([r["quality"] for r in lines[m].values()]))

        def cells(field: str, lines: Any = lines, names: Any = names) -> Array:
            return np.array([[lines[name][stream][field] for stream in streams] for name in names])

        quality, full, unit = 100 * cells("quality"), cells("full_quality"), records[0]["unit"]
        off = 100 * (cells("slowdown") - 1 if budget is None else cells("off_budget"))
        word = "accuracy" if lines[names[0]][streams[0]]["accuracy"] is not None else "quality"
        named = f"{word} [%], darker: further behind the stream's best"
        behind = quality.max(axis=0) - quality, cells("below_floor"), _BEHIND
        _heat(left, quality, *behind, "Oranges", "{:.1f}", named)
        past = "the clean rows'" if budget is None else f"the budget, {budget:.4g} {unit}"
        over = off, cells("over_budget"), _OFF
        _heat(right, off, *over, "RdBu_r", "{:+.0f}", f"cost off {picture_text(past)} [%]")
        told = [f"\nfull model {100 * f[0]:.1f}" if np.ptp(f) < 1e-9 else "" for f in full.T]
        for panel, more in ((left, told), (right, [""] * len(streams))):
            tops = [picture_text(s) + text for s, text in zip(streams, more, strict=True)]
            slanted = {"rotation": 38, "ha": "left", "rotation_mode": "anchor"}
            panel.set_xticks(range(len(streams)), tops, **slanted)
        left.set_yticks(range(len(names)), [picture_text(name) for name in names])
        right.set_yticks([])
    add_heading(figure, title, "framed: misses the floor, or the budget, by more than chance")
    return figure


def _heat(
    axes: Any, values: Array, shades: Array, framed: Array, end: float, colours: str, form: str, told: str
) -> None:  # fmt: skip
    """Draw a table of numbers in colours up to an end, from 0 or from both sides of it, some framed."""
    from matplotlib.patches import Rectangle

    # The darkest colours are left out: numbers and frames are black.
    scale = {"vmin": -1.5 * end if (shades < 0).any() else 0.0, "vmax": 1.5 * end}
    axes.imshow(np.clip(shades, -end, end), cmap=colours, aspect="auto", **scale)
    for i, j in np.ndindex(values.shape):
        axes.text(j, i, form.format(values[i, j]), ha="center", va="center", fontsize=7.5)
        if framed[i, j]:
            axes.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, lw=1.2))
    axes.tick_params(length=0, labelsize=8, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(told, fontsize=9)
