"""The catalogue's picture: every method's gain over max_prob, one panel per cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from _caches import ROOT
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from policyopt._methods.registry import FAMILIES, ROWS
from policyopt._report.figures import save_figure

_TITLES = {
    "fashion_mnist": "Fashion-MNIST\n5 exits",
    "cifar10_cascade5": "CIFAR-10\ncascade of 5 models",
    "resnet8_2exit_cifar10": "CIFAR-10\nResNet8, 2 exits",
    "alexnet2_cifar10_confidence": "CIFAR-10\nAlexNet, 2 exits, records",
    "mmlu_llama5": "MMLU\n5 Llama models, records",
}
#: Okabe & Ito, one colour per family, repeated where there are more families than colours.
_COLOURS = (
    "#000000",
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#666666",
    "#7A4E2D",
    "#8E7CC3",
)
_FLOOR = -2.5  # points; worse is drawn at the edge, with the number


def draw(results: Mapping[str, Any]) -> None:
    """Write docs/catalogue.png."""
    found = results["caches"]
    methods = [m for family in FAMILIES for m in results["methods"] if ROWS[m].family == family]
    figure = Figure(
        figsize=(2.4 + 2.0 * len(found), 1.8 + 0.25 * len(methods)), layout="constrained"
    )
    panels = np.atleast_1d(figure.subplots(1, len(found), sharey=True))
    for axes, (cache, said) in zip(panels, found.items(), strict=True):
        _panel(axes, said, methods)
        axes.set_title(_TITLES.get(cache, cache), fontsize=10)
    panels[0].set_yticks(range(len(methods)), methods, fontsize=9)
    for label, method in zip(panels[0].get_yticklabels(), methods, strict=True):
        label.set_color(_colour(method))
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    figure.supxlabel(
        "points of accuracy over max_prob with geometric quotas, at equal realised cost "
        "(mean of nine budgets, 95 % interval)", fontsize=10,
    )  # fmt: skip
    drawn = dict.fromkeys(ROWS[method].family for method in methods)
    handles = [
        Line2D([], [], marker="o", color=_COLOURS[FAMILIES.index(f) % len(_COLOURS)]) for f in drawn
    ]
    figure.legend(
        handles, list(drawn), loc="outside upper center", ncols=6, frameon=False, fontsize=9
    )
    save_figure(figure, ROOT / "docs" / "catalogue.png", dpi=110)


def _panel(axes: Any, said: Mapping[str, Any], methods: list[str]) -> None:
    axes.axvline(0, color="0.4", lw=1)
    before = None
    for y, method in enumerate(methods):
        if before is not None and ROWS[method].family != before:
            axes.axhline(y - 0.5, color="0.88", lw=0.8)
        before = ROWS[method].family
        one = said.get(method, {})
        if "average" not in one:
            text = "-" if "lacks" in one or not one else "not all budgets"
            axes.text(0, y, text, color="0.6", fontsize=8, ha="center", va="center")
            continue
        mean, low, high = (100 * one[k] for k in ("average", "average_low", "average_high"))
        colour = _colour(method)
        if mean < _FLOOR:
            axes.plot(_FLOOR, y, "<", color=colour, ms=5)
            axes.text(_FLOOR, y, f"   {mean:.1f}", color=colour, fontsize=8, va="center")
            continue
        axes.plot([max(low, _FLOOR), high], [y, y], color=colour, lw=1.4)
        axes.plot(mean, y, "o", color=colour, ms=4.5)
    axes.set_xlim(left=_FLOOR - 0.15)
    axes.grid(axis="x", color="0.93")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _colour(method: str) -> str:
    return _COLOURS[FAMILIES.index(ROWS[method].family) % len(_COLOURS)]
