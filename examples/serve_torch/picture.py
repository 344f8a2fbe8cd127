"""Milliseconds per sample at each batch size: full model, served, ideal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from policyopt.report.figures import save_figure

from .clock import Race


def draw(races: Sequence[Race], title: str, path: Path) -> None:
    """Draw the picture, one panel per batch size (single samples cost much more)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(races), squeeze=False)[0]
    for axes, race in zip(panels, races, strict=True):
        bars = axes.bar([0, 1], [race.full[0], race.served[0]], 0.6, color=["0.6", "#0072B2"])
        axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=9)
        axes.hlines(race.ideal[0], 0.7, 1.3, color="#D55E00", lw=2)
        axes.set_xticks([0, 1], ["full model", "with policy"])
        axes.set_title(f"batch {race.batch}", fontsize=11)
        axes.set_ylim(0, 1.18 * max(race.full[0], race.served[0]))
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
