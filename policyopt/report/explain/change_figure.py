"""Picture of the rows that a policy treats otherwise than its reference."""

from __future__ import annotations

from typing import Any

import numpy as np

from policyopt.report.explain.explanation import Explanation
from policyopt.report.explain.style import MANY
from policyopt.runtime.text import picture_text


def changes_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw how many rows moved from each exit of the reference to each exit now.

    Below a count: how many of these rows the move made right (+) and wrong (-).

    Parameters
    ----------
    explanation : Explanation
        With a reference.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    record, unit = explanation.record["changes"], picture_text(explanation.record["unit"])
    counts = np.array(record["transitions"])
    exits = len(counts)
    cell = 0.72 if exits > MANY else 0.95
    side = max(cell * exits, 3.4)
    figure = Figure(figsize=(side + 2.6, side + 2.0), layout="constrained")
    axes = figure.add_subplot()
    # Most rows stay where they were; the root keeps the others visible.
    norm = PowerNorm(0.5, 0, max(counts.max(), 1))
    image = axes.imshow(counts, cmap="Blues", norm=norm)
    dark = norm(counts) > 0.6
    size = 7.5 if exits > MANY else 9
    for i, j in np.argwhere(counts > 0):
        text = f"{counts[i, j]:,}"
        if record["better_at"] is not None and (ups_downs := _signs(record, i, j)):
            text += f"\n{ups_downs}"
        axes.text(
            j, i, text, ha="center", va="center", fontsize=size,
            color="white" if dark[i, j] else "black",
        )  # fmt: skip
    for k in range(exits):  # where nothing moved
        axes.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, ec="0.6", lw=0.8))
    axes.set_xticks(range(exits))
    axes.set_yticks(range(exits))
    axes.tick_params(length=0)
    axes.set_xlabel("exit now (framed: the same exit)")
    axes.set_ylabel("exit of the reference")
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="rows")
    told = f"{record['earlier']:,} rows leave earlier, {record['later']:,} later"
    if record["better"] is not None:
        told += f"; {record['better']:,} became right (+), {record['worse']:,} wrong (−)"  # noqa: RUF001
    told += f"\nmean cost {record['reference_cost']:.4g} → {record['cost']:.4g} {unit}"
    figure.suptitle(f"{picture_text(title)}\n{told}" if title else told, fontsize=10)
    return figure


def _signs(record: dict[str, Any], i: int, j: int) -> str:
    """Return e.g. "+3 −1"; nothing where no answer of this cell became right or wrong."""  # noqa: RUF002
    ups, downs = record["better_at"][i][j], record["worse_at"][i][j]
    return f"+{ups:,} −{downs:,}" if ups or downs else ""  # noqa: RUF001
