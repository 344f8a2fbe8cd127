"""Pictures of a study: frontiers with the best model at each budget, and which models outdo which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policyopt._report.figures import COLOURS, LINES, add_legend, log_scale, new_figure, tidy
from policyopt._study.study import Study
from policyopt.runtime._text import picture_text


def study_figure(found: Study, title: str = "") -> Any:
    """Draw every model's frontier, means over runs; below, who is best at each budget, faint where not shown."""
    names = [one["model"] for one in found.models]
    figure = new_figure(9, 6.2)
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[1, 0.05 + 0.035 * len(names)])
    budgets = np.array([one["budget"] for one in found.budgets])
    edges = (
        np.sqrt(budgets[1:] * budgets[:-1]) if budgets[0] > 0 else (budgets[1:] + budgets[:-1]) / 2
    )
    edges = np.concatenate([budgets[:1], edges, budgets[-1:]])
    for m, name in enumerate(names):
        look = {"color": COLOURS[m % len(COLOURS)], "ls": LINES[m // len(COLOURS) % len(LINES)]}
        there = [one for one in found.budgets if name in one["quality"]]
        place = [one["budget"] for one in there], [100 * one["quality"][name] for one in there]
        axes.plot(*place, marker="o", ms=4, lw=1.6, label=picture_text(name), **look)
        for b, one in enumerate(found.budgets):
            strength = 1.0 if one["winner"] == name else 0.3 if name in one["contenders"] else 0.0
            strip.barh(
                len(names) - m,
                edges[b + 1] - edges[b],
                0.8,
                edges[b],
                color=look["color"],
                alpha=strength,
            )
    if budgets[0] > 0 and budgets[-1] > 8 * budgets[0]:
        log_scale(strip)
    word = "quality" if found.graded else "accuracy"
    tidy(axes, grid="both", ylabel=f"{word} [%] at equal realised cost")
    axes.set_xlabel("")
    strip.set_yticks(
        [len(names) - m for m in range(len(names))], [picture_text(name) for name in names]
    )
    tidy(strip, labelsize=7, xlabel=f"mean cost per sample [{picture_text(found.unit)}]")
    told = f"full: the best, shown with {100 * found.level:g} %; faint: among these it is"
    strip.set_title(told, loc="left", fontsize=8)
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    add_legend(figure, side="upper center")
    return figure


def dominance_figure(tests: Sequence[Mapping[str, Any]], level: float) -> Any:
    """Draw per metric an arrow from each model to those that it outdoes over training runs (simultaneous intervals)."""
    shown = [one for one in tests if one["pairs"]]
    wide = min(len(shown), 4 if len(shown) == 4 else 3)
    figure = new_figure(4.2 * wide, 4.4 * -(-len(shown) // wide))
    for i, one in enumerate(shown):
        axes = figure.add_subplot(-(-len(shown) // wide), wide, i + 1)
        names = sorted(one["rank"], key=one["rank"].get)
        angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
        place = dict(zip(names, np.stack([np.cos(angle), np.sin(angle)], axis=1), strict=True))
        for pair in one["pairs"]:
            if pair["p"] <= 1 - level:
                look = {
                    "arrowstyle": "-|>",
                    "color": "0.45",
                    "lw": 0.8,
                    "shrinkA": 11,
                    "shrinkB": 11,
                }
                axes.annotate("", place[pair["worse"]], place[pair["better"]], arrowprops=look)
        for name, at in place.items():
            axes.plot(*at, "o", ms=17, color="white", mec=COLOURS[0])
            axes.annotate(str(one["rank"][name]), at, ha="center", va="center", fontsize=9)
            axes.annotate(picture_text(name), 1.3 * at, ha="center", va="center", fontsize=8)
        axes.set(xlim=(-1.75, 1.75), ylim=(-1.55, 1.55), aspect="equal")
        axes.set_axis_off()
        word = "lower" if one["less_is_better"] else "higher"
        axes.set_title(
            f"{picture_text(one['metric'])} ({word} is better)\n{one['post_hoc']}", fontsize=9
        )
    return figure
