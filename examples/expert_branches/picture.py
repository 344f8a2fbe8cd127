"""Accuracy against realised cost, one panel per stream and one for the changing stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from policyopt._report.figures import save_figure

from .compare import Paths

# Okabe & Ito: told apart by colour-blind readers, and in print.
LINES = {
    "plain": ("#000000", "o", "clean branches for all"),
    "mixed": ("#E69F00", "s", "one set of branches, tuned on all kinds"),
    "experts": ("#0072B2", "D", "experts, by the detector"),
    "oracle": ("#56B4E9", "^", "experts, by the true kind (upper bound)"),
}
TITLES = {
    "clean": "clean", "blur": "blur, five strengths", "noise": "noise, five strengths",
    "changing": "clean, then blur, then noise",
}  # fmt: skip


def draw(paths: Paths, adaee: list[dict[str, Any]], unit: str, path: Path) -> None:
    """Draw the picture.

    Parameters
    ----------
    paths
        From `compare.paths_of`.
    adaee
        From `compare.play_adaee`.
    unit
        Of the costs.
    path
        PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(15, 4.4), layout="constrained")
    panels = figure.subplots(1, len(TITLES), sharey=True)
    for axes, (stream, title) in zip(panels, TITLES.items(), strict=True):
        for name, (colour, marker, label) in LINES.items():
            part = paths[name][stream]
            cost, accuracy = part.cost.mean(axis=0), 100 * part.quality.mean(axis=0)
            order = np.argsort(cost, kind="stable")
            axes.plot(
                cost[order], accuracy[order], color=colour, marker=marker, ms=4, lw=1.5,
                label=label,
            )  # fmt: skip
        if stream == "changing":
            axes.plot(
                [r["realised_cost"] for r in adaee], [100 * r["accuracy"] for r in adaee],
                color="#D55E00", marker="X", ms=6, lw=1, ls=":",
                label="clean branches for all, thresholds by AdaEE",
            )  # fmt: skip
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(f"realised cost [{unit}]")
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("accuracy [%]")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    save_figure(figure, path, dpi=110)
