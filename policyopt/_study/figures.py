"""Pictures of a study: frontiers and the best model at each budget, which outdo which, policies by streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policyopt._report import figures as draw
from policyopt._study.study import Study
from policyopt.runtime._text import picture_text, printable
from policyopt.runtime._typing import Array

_ARROWS = 12  # models between which arrows can be told apart
_BEHIND, _OFF = 5.0, 50.0  # where colours end: points behind the best, % of the budget
_NAME = 32  # letters of a model's name


def study_figure(found: Study, title: str = "") -> Any:
    """Draw every model's frontier, means over runs; below, who is best at each budget, hollow where not shown."""
    names = [one["model"] for one in found.models]
    below = 0.3 + 0.17 * len(names)  # inches
    figure = draw.new_figure(9, 5.0 + below + 0.22 * -(-len(names) // 4))
    axes, strip = figure.subplots(2, 1, sharex=True, height_ratios=[4.2, below])
    draw_study(axes, found, strip)
    axes.set_xlabel("")
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    draw.add_legend(figure, side="upper center")
    return figure


def draw_study(axes: Any, found: Study, strip: Any = None) -> None:
    """Draw the frontiers of a study into given axes, and who is best into a strip below them."""
    names, rows = [one["model"] for one in found.models], found.budgets
    budgets = np.array([one["budget"] for one in rows])
    places = len(names) - np.arange(len(names))
    for m, (name, place) in enumerate(zip(names, places, strict=True)):
        look = draw.marked_look(m, len(names))  # curves may coincide
        mark, colour = look["marker"], look["color"]
        height = [100 * one["quality"].get(name, np.nan) for one in rows]
        axes.plot(budgets, height, label=_short(name), **look)
        if strip is None:
            continue
        edges = [colour if name in one["contenders"] else "none" for one in rows]
        faces = [colour if name == one["winner"] else "none" for one in rows]
        strip.scatter(budgets, [place] * len(rows), 40, marker=mark, c=faces, edgecolors=edges)
    draw.log_scale(axes, budgets)  # which the strip shares
    word = "quality" if found.graded else "accuracy"
    across = f"mean cost per sample [{picture_text(found.unit)}]"
    draw.tidy(axes, grid="both", xlabel=across, ylabel=f"{word} [%] at equal realised cost")
    if strip is None:
        return
    strip.set_yticks(places, [_short(name) for name in names])
    strip.set_ylim(0.4, len(names) + 0.6)
    draw.tidy(strip, labelsize=7, xlabel=across)
    told = f"filled: the best at this budget, shown with {100 * found.confidence:g} %; hollow: among these it is"
    strip.set_title(told, loc="left", fontsize=8)


def _short(name: str) -> str:
    return picture_text(printable(name, _NAME))


def dominance_figure(tests: Sequence[Mapping[str, Any]], confidence: float, some: str = "") -> Any:
    """Draw per metric which models outdo which over training runs: arrows, or of many models a square of them."""
    shown = [one for one in tests if one["pairs"]]
    many = max(len(one["rank"]) for one in shown) > _ARROWS
    wide = min(len(shown), 2 if many or len(shown) == 4 else 3)
    high, (width, height) = -(-len(shown) // wide), (6.8, 6.2) if many else (4.6, 3.5)
    figure = draw.new_figure(width * wide, height * high)
    more = ": dark where the line's model outdoes the column's" if many else ""
    for i, one in enumerate(shown):
        axes = figure.add_subplot(high, wide, i + 1)
        names = sorted(one["rank"], key=one["rank"].get)
        parted = [pair for pair in one["pairs"] if pair["p"] <= 1 - confidence]
        (_square if many else _arrows)(axes, names, parted)
        word = "lower" if one["less_is_better"] else "higher"
        told = f"{picture_text(one['metric'])} ({word} is better)\n{one['post_hoc']}{more}"
        axes.set_title(told, fontsize=9)
    draw.add_heading(figure, f"over training runs{some}")
    return figure


def _arrows(axes: Any, names: Sequence[str], parted: Sequence[Mapping[str, Any]]) -> None:
    """Draw models in a circle by rank, an arrow to each that is outdone."""
    angle = np.pi / 2 - 2 * np.pi * np.arange(len(names)) / len(names)
    place = dict(zip(names, np.stack([np.cos(angle), np.sin(angle)], axis=1), strict=True))
    for pair in parted:
        look = {"arrowstyle": "-|>", "color": "0.45", "lw": 0.8, "shrinkA": 11, "shrinkB": 11}
        axes.annotate("", place[pair["worse"]], place[pair["better"]], arrowprops=look)
    for rank, (name, at) in enumerate(place.items(), 1):
        axes.plot(*at, "o", ms=17, color="white", mec=draw.COLOURS[0])
        axes.annotate(str(rank), at, ha="center", va="center", fontsize=9)
        across = "center" if abs(at[0]) < 0.1 else "left" if at[0] > 0 else "right"
        up = "center" if across != "center" else "bottom" if at[1] > 0 else "top"
        axes.annotate(_short(name), 1.25 * at, fontsize=8, ha=across, va=up)
    axes.set(xlim=(-2.2, 2.2), ylim=(-1.4, 1.4), aspect="equal")
    axes.set_axis_off()


def _square(axes: Any, names: Sequence[str], parted: Sequence[Mapping[str, Any]]) -> None:
    """Draw models by rank on both sides of a square, dark where one outdoes another."""
    found = np.zeros((len(names), len(names)))
    for pair in parted:
        found[names.index(pair["better"]), names.index(pair["worse"])] = 1.0
    axes.imshow(found, cmap="Blues", vmax=1.4)
    labels = [_short(name) for name in names]
    axes.set_yticks(range(len(names)), labels, fontsize=6.5)
    axes.set_xticks(range(len(names)), labels, fontsize=6.5, rotation=90)
    axes.tick_params(length=0)


def robustness_figure(records: Sequence[dict[str, Any]], title: str = "") -> Any:
    """Draw quality, and by how much cost misses the budget, of methods by streams: a pair of tables per budget.

    The best method stands on top. Framed: the floor, or the budget, is missed by more than chance. Without a budget,
    cost is told beside that of the clean rows. Colours mean the same at every budget.
    """
    import pandas as pd

    budgets = list(dict.fromkeys(one["budget"] for one in records))
    streams, methods = (list(dict.fromkeys(r[of] for r in records)) for of in ("stream", "method"))
    size = 4.2 + 0.95 * len(streams), 0.5 + (1.8 + 0.23 * len(methods)) * len(budgets)
    figure = draw.new_figure(*size)
    panels = figure.subplots(len(budgets), 2, squeeze=False)
    for (left, right), budget in zip(panels, budgets, strict=True):
        mine = pd.DataFrame([one for one in records if one["budget"] == budget])
        means = mine.groupby("method", sort=False)["quality"].mean()
        names = means.sort_values(ascending=False, kind="stable").index
        table = mine.pivot(index="method", columns="stream").loc[names]
        told = "full_quality", "below_floor", "over_budget", "quality", "off_budget", "slowdown"
        full, under, over, *cells = (table[field][streams].to_numpy() for field in told)
        quality, off = 100 * cells[0], 100 * (cells[1] if budget else cells[2] - 1)
        word = "accuracy" if mine["accuracy"][0] is not None else "quality"
        named = f"{word} [%], darker: further behind the stream's best"
        behind = np.sqrt((quality.max(axis=0) - quality) / _BEHIND)  # the first points are seen
        ends = [dict.fromkeys(f"{100 * end:.1f}" for end in (f.min(), f.max())) for f in full.T]
        texts = [*map("-".join, ends)], *(map("{:.1f}".format, line) for line in quality)
        _heat(left, texts, behind, under, "Oranges", 0.0, named)
        past = f"the budget, {budget:.4g} {records[0]['unit']}" if budget else "the clean rows'"
        named = f"cost off {picture_text(past)} [%]"
        texts = [""] * len(streams), *([f"{round(v) or 0:+d}" for v in line] for line in off)
        _heat(right, texts, off / _OFF, over, "RdBu_r", -1.0, named)
        for panel in (left, right):
            slanted = {"rotation": 38, "ha": "left", "rotation_mode": "anchor"}
            panel.set_xticks(range(len(streams)), [*map(_short, streams)], **slanted)
        left.set_yticks(range(1 + len(names)), ["full model", *map(_short, names)])
        right.set_yticks([])
    draw.add_heading(figure, title, "framed: misses the floor, or the budget, by more than chance")
    return figure


def _heat(
    axes: Any, texts: Sequence[Any], shades: Array, framed: Array, colours: str, low: float, told: str
) -> None:  # fmt: skip
    """Draw a table of texts, the first line plain, others in shades from `low` (0 or -1) to 1, some framed."""
    from matplotlib.patches import Rectangle

    # The darkest colours are left out: numbers and frames are black.
    shades = np.insert(np.clip(shades, -1.0, 1.0), 0, np.nan, axis=0)
    axes.imshow(shades, cmap=colours, aspect="auto", vmin=1.5 * low, vmax=1.5)
    for i, line in enumerate(texts):
        for j, text in enumerate(line):
            axes.text(j, i, text, ha="center", va="center", fontsize=9)
            if i and framed[i - 1, j]:
                axes.add_patch(Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, lw=1.2))
    axes.tick_params(length=0, labelsize=9, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(told, fontsize=9)
