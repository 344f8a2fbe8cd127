"""Cost and accuracy over time, with the alarms and refits."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from policyopt._report.figures import save_figure
from policyopt.runtime._errors import input_error

WINDOW = 500  # requests that a point is the mean of


def check_path(path: Path) -> None:
    """Refuse a path that no picture can be written to, before the work and not after it.

    Raises
    ------
    InputError
    """
    if path.suffix.lower() != ".png":
        raise input_error("--out", "a PNG file", str(path), "E.g. drift_refit.png.")
    try:
        if path.is_dir():
            raise IsADirectoryError(path)
        tempfile.TemporaryFile(
            dir=path.absolute().parent
        ).close()  # tried, as root may be refused too
    except OSError as error:
        allowed = "a file in a directory that you may write to"
        raise input_error("--out", allowed, str(path), "Choose another place.") from error


def draw(
    cost: npt.NDArray[np.float64],
    alone: npt.NDArray[np.float64],
    correct: npt.NDArray[np.bool_],
    changes: Sequence[int],
    events: Sequence[tuple[int, str]],
    budget: float,
    unit: str,
    path: Path,
) -> None:
    """Draw the picture; the parameters are per request, `changes` and `events` by its number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    top.plot(smooth(alone), color="#D55E00", ls="--", lw=1.5, label="policy left alone")
    top.plot(smooth(cost), color="#0072B2", lw=1.5, label="watched and fitted anew")
    top.axhline(budget, color="black", lw=1, ls=":", label="budget")
    bottom.plot(smooth(100.0 * correct), color="#0072B2", lw=1.5)
    for axes in (top, bottom):
        for change in changes:
            axes.axvspan(change, len(cost), color="0.5", alpha=0.12, lw=0)
        for number, event in events:
            axes.axvline(number, color="#D55E00" if event.startswith("drift") else "#009E73", lw=1)
        axes.grid(color="0.92")
        axes.spines[["top", "right"]].set_visible(False)
    for number, event in events:
        text = " alarm" if event.startswith("drift") else " refit"
        top.annotate(text, (number, 1.0), xycoords=("data", "axes fraction"), va="top", fontsize=9)
    top.set_ylabel(f"cost [{unit}]")
    top.legend(frameon=False, loc="upper left")
    bottom.set_ylabel("accuracy [%]")
    bottom.set_xlabel(f"request (means of {WINDOW}; grey: the inputs have changed)")
    save_figure(figure, path, dpi=120)


def smooth(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return running means over the last `WINDOW` requests, fewer at the start."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    high = np.arange(1, len(values) + 1)
    low = np.maximum(high - WINDOW, 0)
    return (total[high] - total[low]) / (high - low)
