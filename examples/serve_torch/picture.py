"""Milliseconds per sample at each batch size: full model, served, ideal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policyopt._report.figures import save_figure

from .clock import Race


def tops(race: Race) -> tuple[float, float]:
    """Return where the labels of the full and of the served model stand: on all that is drawn there.

    Examples
    --------
    >>> tops(Race(1, (2.0, 2.0), (1.0, 1.0), (1.1, 1.1), (0.5, 0.5), 1.0))
    (2.0, 1.1)
    """
    return race.full[0], max(race.served[0], race.ideal[0])


def draw(races: Sequence[Race], title: str, path: Path) -> None:
    """Draw the picture, one panel per batch size (single samples cost much more)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(races), squeeze=False)[0]
    for axes, race in zip(panels, races, strict=True):
        heights = race.full[0], race.served[0]
        axes.bar([0, 1], heights, 0.6, color=["0.6", "#0072B2"])
        axes.hlines(race.ideal[0], 0.7, 1.3, color="#D55E00", lw=2)
        # Above the line of the ideal too, where that stands on top of the bar (or a little above it).
        for x, (height, top) in enumerate(zip(heights, tops(race), strict=True)):
            axes.annotate(
                f"{height:.3g}", (x, top), (0, 5), textcoords="offset points", ha="center", fontsize=9,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"},
            )  # fmt: skip
        axes.set_xticks([0, 1], ["full model", "with policy"])
        axes.set_title(f"batch {race.batch}", fontsize=11)
        axes.set_ylim(0, 1.18 * max(tops(race)))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="0.92")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("ms per sample, wall-clock")
    line = panels[0].plot([], [], color="#D55E00", lw=2)
    figure.legend(
        line, ["ideal: share of each exit x its cost, no loss"], loc="outside lower center", frameon=False
    )  # fmt: skip
    figure.suptitle(title, fontsize=11)
    save_figure(figure, path)
