"""What all pictures share, by matplotlib, and those of a frontier, a comparison, a simulation and a plan."""

from __future__ import annotations

import html
import io
import math
import os
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policyopt._frontier import Comparison, Frontier, over_seeds
from policyopt.runtime._files import write_file
from policyopt.runtime._text import picture_text
from policyopt.runtime._typing import Floats

if TYPE_CHECKING:
    from policyopt._abstain import RiskCoverage
    from policyopt._tiers.choose import Planned
    from policyopt._tiers.description import Tiers
    from policyopt._tiers.search import Goal

# Okabe & Ito: told apart by colour-blind readers, and in print.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")  # and in grey
MARKERS = "osD^vPX"
_BEST, _NAMED = 5, 12  # lines in colour where there are more; lines that the legend has room for
_TIERS = (*COLOURS[:-1], "#7A4E2D")  # black is the chosen plan's


def new_figure(width: float, height: float) -> Any:
    """Return a figure of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Any, grid: str = "", labelsize: float = 9, **properties: Any) -> None:
    """Set properties; take away the frame's top and right; draw a faint grid of "x", "y" or "both"."""
    axes.set(**properties)
    if axes.get_xscale() == "log":
        axes.set_xlabel(f"{axes.get_xlabel()} (log scale)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=labelsize)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis=grid, color="0.92")


def log_scale(axes: Any, costs: Any, apart: float = 8.0) -> None:
    """Show costs in octaves where the dearest is more than so many times the cheapest."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    if not 0 < apart * min(costs) < max(costs):
        return
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def add_legend(figure: Any, side: str = "lower center", size: float = 9) -> None:
    """Put one legend outside all panels, each label once, in as many columns as there is room for."""
    drawn = [axes.get_legend_handles_labels() for axes in figure.axes]
    handles = {label: handle for pair in drawn for handle, label in zip(*pair, strict=True)}
    letters = max((len(line) for label in handles for line in label.split("\n")), default=1)
    most = max(int(figure.get_figwidth() / (size * (0.055 + 0.0077 * letters))), 1)
    lines = max(-(-len(handles) // most), 1)
    columns = max(-(-len(handles) // lines), 1)  # lines of like length
    look: dict[str, Any] = {"frameon": False, "fontsize": size, "ncols": columns}
    legend = figure.legend(handles.values(), handles.keys(), loc=f"outside {side}", **look)
    legend.set_gid(side)  # where it goes at another size


def add_heading(figure: Any, title: str, told: str = "") -> None:
    """Write a title above a figure, which may be empty, and what is told with it."""
    figure.suptitle("\n".join(filter(None, (picture_text(title), told))), fontsize=11)


def line_look(i: int, count: int = 1, colours: Sequence[str] = COLOURS) -> dict[str, Any]:
    """Return the look of the i-th of so many lines: later ones are thinner, so that none is hidden."""
    look = {"color": colours[i % len(colours)], "ls": LINES[i % len(LINES)]}
    return {**look, "lw": 2.2 - 0.9 * i / max(count, 1)}


def marked_look(i: int, count: int) -> dict[str, Any]:
    """Return the same with a marker."""
    marker = MARKERS[(i + i // len(MARKERS)) % len(MARKERS)]
    return {**line_look(i, count), "marker": marker, "ms": 6.5 - 2.5 * i / max(count, 1)}


def save_figure(
    figure: Any, path: str | os.PathLike[str], dpi: int = 140, width: float | None = None
) -> None:
    """Write a figure, whole or not at all, as its name ends (png, pdf, svg), at a width in inches or its own.

    Fonts are embedded as TrueType in PDF; text in SVG stays text, which can be found, edited and read aloud.
    """
    import matplotlib

    kind = Path(path).suffix[1:].lower()
    if width is not None:
        _resize(figure, width)
        dpi = max(dpi, 300)
    kept = {"png": None, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    fonts = {"pdf.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "policyopt"}
    data = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context(fonts):
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", r"Glyph .* missing from (current )?font", UserWarning)
        figure.savefig(data, format=kind, dpi=dpi, metadata=kept)
    write_file(path, data.getvalue())


def _resize(figure: Any, width: float) -> None:
    """Give a figure another width: text shrinks less than the rest; legends are laid out anew.

    Text stays at 6 points or more, but in pictures of many panels that are to be far narrower: these are only scaled.
    """
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

    scale = width / figure.get_figwidth()
    smaller, least = float(np.clip(scale**0.5, 0.7, 1.0)), 6.0
    if scale < 0.4:
        smaller, least = 1.3 * scale, 0.0
    for text in figure.findobj(Text):
        text.set_fontsize(max(smaller * text.get_fontsize(), least))
    for line in figure.findobj(Line2D):
        line.set_linewidth(smaller * line.get_linewidth())
        line.set_markersize(smaller * line.get_markersize())
    sides = [(legend.get_gid(), legend.get_texts()) for legend in figure.legends]
    for legend in list(figure.legends):
        legend.remove()
    for axes in figure.axes if scale < 0.7 else ():
        if axes.get_legend() and not axes.get_title("left"):  # above a panel: in one column
            size = axes.get_legend().get_texts()[0].get_fontsize()
            axes.legend(frameon=False, fontsize=size, loc="lower left", bbox_to_anchor=(0, 1))
    if title := figure.get_suptitle():
        size = 11 * smaller
        lines = (textwrap.wrap(line, int(width / (0.0077 * size))) for line in title.split("\n"))
        figure.suptitle("\n".join("\n".join(part) for part in lines), fontsize=size)
    # A narrow legend is higher.
    more = max(1 - scale, 0.0) * sum(0.12 * len(texts) for _, texts in sides)
    figure.set_size_inches(width, scale * figure.get_figheight() + smaller - scale + more)
    for side, texts in sides:
        add_legend(figure, side, texts[0].get_fontsize())


# --- panels of a page, as print has them --------------------------------------------------------


def panel_figure(*panels: Mapping[str, Any], title: str = "") -> Any:
    """Draw all views of panels of a page, many of them in rows, each with its name."""
    views = [view for one in panels for view in one["views"] or [["", one["figure"]]]]
    count = len(views)
    columns = count if count <= 3 else math.ceil(math.sqrt(count))
    wide, rows = 4.4 if count > 1 else 7.0, -(-count // columns)
    figure = new_figure(max(min(wide * columns, 16.0), 6.5), 3.1 * rows + 1.4)
    for i, (name, one) in enumerate(views, 1):
        axes = figure.add_subplot(rows, columns, i)
        draw_panel(axes, one)
        said = f"exit {name}" if name.isdigit() else _plain(name)
        axes.set_title(textwrap.fill(said, 44), fontsize=9.5)
    add_legend(figure)
    add_heading(figure, title)
    return figure


def draw_panel(axes: Any, drawing: Mapping[str, Any]) -> None:
    """Draw into axes what plotly draws on the page: lines with bands or bars, squares of numbers, rules."""
    from matplotlib.ticker import PercentFormatter

    layout, nth, below, named = drawing["layout"], 0, 0.0, 0
    mode, bars = layout.get("barmode", "group"), [d for d in drawing["data"] if d["type"] == "bar"]
    for one in drawing["data"]:
        look = {"color": one.get("marker", {}).get("color"), "label": _plain(one.get("name", ""))}
        if one["type"] == "heatmap":
            places = (np.arange(n + 1) - 0.5 for n in np.shape(one["z"])[::-1])
            x, y = places if one["x"] is None else ([0, *one["x"]], [*places][1])
            most, texts = max(float(np.max(one["z"])), 1e-9), "texttemplate" in one
            look = {"cmap": "Blues", "vmin": 0, "vmax": most * (1.4 if texts else 1.0)}
            shades = axes.pcolormesh(x, y, one["z"], **look)
            if not texts:
                axes.figure.colorbar(shades, ax=axes, shrink=0.8).ax.tick_params(labelsize=7)
            for (i, j), text in np.ndenumerate(one["text"]) if texts else ():
                axes.text(j, i, text, ha="center", va="center", fontsize=8)
            continue
        x, y = (np.array(one[of], float) for of in "xy")
        if one["type"] == "bar":
            abreast = len(bars) if mode == "group" else 1
            if abreast > 1:
                x, nth = x + 0.8 * ((nth + 0.5) / abreast - 0.5), nth + 1
            width, look["alpha"] = one.get("width", 0.8 / abreast), one.get("opacity")
            drawn = axes.bar(x, y, width, below, **look)
            below = below + y if mode == "stack" else below
            if mode == "group" and len(x) * abreast <= 2 * _NAMED:
                form = "{:.1%}" if "%" in layout["yaxis"].get("tickformat", "") else "{:.4g}"
                axes.bar_label(drawn, [*map(form.format, y)], padding=2, fontsize=6.5)
        elif one.get("fill"):
            axes.fill(x, y, alpha=0.14, lw=0, color=look["color"])
        else:
            ends = one.get("error_y")
            ends = ends and np.maximum(np.array([ends["arrayminus"], ends["array"]], float), 0)
            dots, joined = (name in one["mode"] for name in ("markers", "lines"))
            style = LINES[named % len(LINES)] if look["label"] else "-"  # told apart in grey, too
            named += bool(look["label"]) and joined
            marker = MARKERS[len(axes.containers) % len(MARKERS)]
            look |= {
                "marker": marker if dots else "",
                "ls": style if joined else "",
            }
            axes.errorbar(x, y, ends, lw=1.2, ms=3.5, elinewidth=0.8, **look)
    for one in layout.get("shapes", ()):
        (x, *_), (y, *_) = ends = [[one[f"{way}{i}"] for i in (0, 1)] for way in "xy"]
        look = {"color": "0.3", "lw": 1, "ls": "--"}
        told, small = _plain(one.get("label", {}).get("text", "")), {"ha": "right", "fontsize": 7}
        if one.get("yref") == "paper":
            axes.axvline(x, **look)
            axes.text(
                x, 0.98, told, rotation=90, va="top", transform=axes.get_xaxis_transform(), **small
            )
        elif one.get("xref") == "paper":
            axes.axhline(y, **look)
            axes.text(0.99, y, told, va="bottom", transform=axes.get_yaxis_transform(), **small)
        else:
            axes.plot(*ends, **look)
    for way, each in (("x", axes.xaxis), ("y", axes.yaxis)):
        axis = layout[f"{way}axis"]
        each.set_label_text(_plain(axis["title"]["text"]), fontsize=9)
        if "tickvals" in axis:
            room = int(13 * axes.figure.get_figwidth() / (len(axis["tickvals"]) + 1))
            folded = [textwrap.fill(_plain(text), max(room, 12)) for text in axis["ticktext"]]
            each.set_ticks(axis["tickvals"], folded, rotation=90 if room < 4 else 0)
        if "%" in axis.get("tickformat", ""):
            each.set_major_formatter(PercentFormatter(1.0))
        if "range" in axis:
            axes.set(**{f"{way}lim": axis["range"]})
        if axis.get("autorange") == "reversed" and not each.get_inverted():
            each.set_inverted(True)
    tidy(axes, grid="y", labelsize=8)


def _plain(text: str) -> str:
    """Return the text of a page's figure, which has marks of HTML for some letters, for a picture."""
    return picture_text(html.unescape(text))


def frontier_figure(frontier: Frontier, title: str = "") -> Any:
    """Draw quality against realised cost for every method, means over seeds, with bands and the oracle."""
    figure = new_figure(7.6, 5.6)
    axes = figure.add_subplot()
    draw_frontier(axes, frontier)
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    add_legend(figure)
    return figure


def draw_frontier(axes: Any, frontier: Frontier) -> None:
    """Draw it into axes: of many methods the best in colour, the rest in grey; bands of few, or of the best."""
    labels, exits = _labels(frontier.records), 1 + max(e["exit"] for e in frontier.exits)
    lines = {}
    for label in labels:
        rows = [r for r in frontier.records if r["method"] == label]
        found = _by_budget(rows, "realised_cost", "quality", "quality_low", "quality_high")
        lines[label] = found[:, np.argsort(found[0], kind="stable")]
    grid = np.unique(np.concatenate([line[0] for line in lines.values()]))
    worth = {label: float(np.interp(grid, *line[:2]).mean()) for label, line in lines.items()}
    _draw_lines(axes, lines, worth, _BEST, partial(_named, frontier))
    points = np.reshape([(e["cost"], e["quality"]) for e in frontier.exits], (-1, exits, 2))
    costs, qualities = points.mean(axis=0).T
    look = {"color": "0.35", "ms": 8, "mew": 2, "label": "always leave at exit k"}
    axes.plot(costs, 100 * qualities, "x", **look)
    for k in range(exits):
        beside = {"textcoords": "offset points", "xytext": (6, -2), "va": "top"}
        look = {"color": "0.35", "fontsize": 9, **beside}
        named = f"{frontier.exits[k]['exit']} {frontier.exits[k].get('name', '')}".rstrip()
        axes.annotate(
            textwrap.fill(picture_text(named), 20), (costs[k], 100 * qualities[k]), **look
        )
    if frontier.bound:
        bound_cost, bound = _by_budget(frontier.bound, "budget", "quality")
        told = "hindsight, not deployable"
        axes.plot(bound_cost, 100 * bound, ls=(0, (7, 3)), color="0.55", lw=1.2, label=told)
    log_scale(axes, costs)
    across = f"realised cost per sample [{picture_text(frontier.unit)}]"
    word = "quality" if frontier.graded else "accuracy"
    tidy(axes, grid="both", xlabel=across, ylabel=f"{word} [%]")


def _labels(records: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["method"] for record in records))


def _draw_lines(
    axes: Any, lines: Mapping[str, Any], worth: Mapping[str, float], few: int, name: Callable[[str], str]
) -> None:  # fmt: skip
    """Draw cost, height, low, high by label: the best five in colour, others grey; bands of few, or of the best."""
    ranked = sorted(lines, key=lambda label: -worth[label])
    coloured, rest = [label for label in lines if label in ranked[:_BEST]], ranked[_BEST:]
    others = f"{len(rest)} others, best first: {', '.join(rest)}"
    crowd = "\n".join(map(picture_text, textwrap.wrap(others, 72)))
    for label, (cost, height, low, high) in lines.items():
        among = coloured if label in coloured else rest
        look = marked_look(among.index(label), len(among))
        if among is rest:
            look |= {"color": "0.62", "lw": 1.0, "zorder": 1.5}
        told = name(label)
        if len(lines) > _NAMED and label in rest:  # too many to be told apart: one entry names them
            look |= {"marker": "", "ls": "-"}
            told = crowd if label == rest[0] else "_"
        if len(lines) <= few or label == ranked[0]:  # bands of many lines hide each other
            band = {"color": look["color"], "alpha": 0.14, "lw": 0}
            band["label"] = "_" if len(lines) <= few else "95 % of the best"
            axes.fill_between(cost, 100 * low, 100 * high, **band)
        axes.plot(cost, 100 * height, label=told, **look)


def _named(frontier: Frontier, label: str) -> str:
    """Return what a legend says of a method: which ones it chose, the most frequent first."""
    mine = [f.policy.provenance for (name, *_), f in frontier.fitted.items() if name == label]
    chosen = Counter(of["chosen"]["method"] for of in mine if of.get("chosen"))
    some = [name for name, _ in chosen.most_common()]
    told = f"{label}: {', '.join(some[:2])}{', ...' if some[2:] else ''}" if some else label
    lines = textwrap.wrap(told, 26, break_long_words=False, break_on_hyphens=False) or [label]
    return "\n".join(map(picture_text, lines))


def comparison_figure(found: Comparison, title: str = "") -> Any:
    """Draw points over the reference at equal realised cost, and the ranking with its groups beside it."""
    count = len(_labels(found.ranking))
    figure = new_figure(8.6, max(4.2, 1.6 + 0.2 * count))
    axes, ranks = figure.subplots(1, 2, width_ratios=[1.5, 1])
    draw_comparison(axes, found)
    draw_ranking(ranks, found)
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    add_legend(figure)
    return figure


def draw_comparison(axes: Any, found: Comparison) -> None:
    """Draw how many points methods are over the reference at equal realised cost; a band of few, or of the best."""
    several = found.seeds > 1
    means = [r for r in found.records if "difference" in r and (r["seed"] is None) == several]
    labels = _labels(means)
    worth = {r["method"]: r["quality"] for r in found.ranking if r["budget"] is None}
    lines = {}
    for label in labels:
        rows = sorted((r for r in means if r["method"] == label), key=lambda r: r["realised_cost"])
        names = "realised_cost", "difference", "difference_low", "difference_high"
        lines[label] = np.array([[r[name] for r in rows] for name in names])
    _draw_lines(axes, lines, worth, 2, picture_text)
    axes.axhline(0, color="0.4", lw=1)
    log_scale(axes, [record["realised_cost"] for record in means])
    tidy(axes, grid="both", xlabel=f"realised cost per sample [{picture_text(found.unit)}]")
    axes.set_ylabel(f"points over {picture_text(found.reference)}")


def draw_ranking(axes: Any, found: Comparison) -> None:
    """Draw methods by rank with their mean difference to the reference; letters: not told apart."""
    ranks = [record for record in found.ranking if record["budget"] is None]
    for at, one in enumerate(ranks):
        gap, reach = _with_reach(one, "difference")
        colour = COLOURS[0] if one["among_best"] else "0.5"
        look = {"fmt": "o" if one["among_best"] else "s", "ms": 5, "capsize": 2, "color": colour}
        axes.errorbar(gap, at, xerr=reach, **look)
        beside = {"xycoords": axes.get_yaxis_transform(), "va": "center", "fontsize": 9}
        axes.annotate(one["group"], (1.02, at), annotation_clip=False, **beside)
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(ranks)), [picture_text(one["method"]) for one in ranks])
    axes.invert_yaxis()
    axes.set_title("letters: not told apart", loc="right", fontsize=8)
    tidy(axes, grid="x", xlabel="mean over budgets [points], 95 %", labelsize=8)


def risk_coverage_figure(
    found: RiskCoverage, word: str, own: dict[str, Any] | None = None, title: str = ""
) -> Any:
    """Draw risk against coverage, and where the policy itself declines (`own`: coverage, risk)."""
    figure = new_figure(6.5, 4.4)
    draw_risk_coverage(figure.add_subplot(), found, word, own, title)
    return figure


def draw_risk_coverage(
    axes: Any, found: RiskCoverage, word: str = "quality", own: dict[str, Any] | None = None, title: str = ""
) -> None:  # fmt: skip
    """Draw the same into given axes."""
    axes.plot(
        100 * found.coverage, 100 * found.risk, label="the surest answers alone", **line_look(0)
    )
    look = {"color": "0.55", "ls": "--", "lw": 1.2, "label": "as many at random"}
    axes.axhline(100 * float(found.risk[-1]), **look)
    if own is not None and own["risk"] is not None:
        place = 100 * own["coverage"], 100 * own["risk"]
        axes.plot(*place, "*", color="black", ms=13, label="the policy itself")
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    told = f"area (AURC) {100 * found.area:.2f} %"
    axes.set_title(told, loc="right", fontsize=9)
    across = "coverage: share of samples answered [%]"
    tidy(axes, grid="both", xlabel=across, ylabel=f"risk: 100 % less {word} [%]")
    axes.set(xlim=(0, 101), ylim=(0, None))
    axes.legend(frameon=False, fontsize=9, loc="center left")


def _by_budget(records: Sequence[dict[str, Any]], *keys: str) -> Floats:
    """Return the means of fields over seeds, (keys, budgets)."""
    groups = over_seeds(records)
    means = [[np.mean([r[key] for r in group]) for group in groups] for key in keys]
    return np.asarray(means, dtype=np.float64)


def plan_figure(
    tiers: Tiers,
    goal: Goal,
    planned: Planned,
    reached: dict[str, Any],
    others: Sequence[dict[str, Any]] = (),
    title: str = "",
) -> Any:
    """Draw each plan's upper hull, by its tiers, the chosen one (`reached`) and the full model on one (`others`)."""
    figure = new_figure(9, 6)
    axes, name = figure.add_subplot(), goal.objective
    groups: dict[tuple[int, ...], list[Floats]] = {}
    for plan, points in planned.searched.frontiers:
        groups.setdefault(tuple(sorted(set(plan.tier))), []).append(points)
    for i, (used, lines) in enumerate(sorted(groups.items(), key=lambda g: (len(g[0]), g[0]))):
        look = line_look(i, len(groups), _TIERS)
        for points in lines:
            axes.plot(points[:, 0], 100 * points[:, 1], color=look["color"], lw=0.4, alpha=0.15)
        edge = np.concatenate(lines)
        edge = edge[np.argsort(edge[:, 0], kind="stable")]
        rising = np.diff(np.maximum.accumulate(edge[:, 1]), prepend=-1.0) > 0
        edge = edge[rising]  # the end of what more cost does not better is not drawn
        look |= {"marker": "o", "ms": 4 if len(edge) == 1 else 0, "drawstyle": "steps-post"}
        label = picture_text(" + ".join(tiers.tiers[t].name for t in used))
        axes.plot(edge[:, 0], 100 * edge[:, 1], label=label, **look)
    for i, one in enumerate(others):  # in turn below and above, so that neighbours do not meet
        place = (one[name], 100 * one["quality"])
        axes.plot(*place, "x", color="0.2", ms=8, mew=2, zorder=4)
        axes.annotate(
            f"full model, {picture_text(one['tiers'][-1])}", place, textcoords="offset points",
            xytext=(0, 9 if i % 2 else -16), ha="center", color="0.2", fontsize=8, zorder=4,
            bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
        )  # fmt: skip
    _draw_chosen(axes, reached, name)
    word = "quality" if reached["accuracy"] is None else "accuracy"
    if goal.budget is not None:
        axes.axvline(goal.budget, color="0.4", ls="--", lw=1, label="budget")
    else:
        axes.axhline(100 * (goal.accuracy or 0), color="0.4", ls="--", lw=1, label=f"{word} asked")
    points = np.concatenate([line for lines in groups.values() for line in lines])
    _zoom(axes, goal, points, [reached, *others])
    axes.set_title(picture_text(title), loc="left", fontsize=11)
    axes.set_title("lines: fit rows; star, crosses: held-out rows", loc="right", fontsize=8)
    across = f"mean {name} per sample [{picture_text(tiers.unit_of(name))}]"
    tidy(axes, grid="both", xlabel=across, ylabel=f"{word} [%]")
    add_legend(figure)
    return figure


def _draw_chosen(axes: Any, reached: dict[str, Any], name: str) -> None:
    """Draw the chosen plan with its intervals, its star alone in the legend."""
    (x, across), (y, up) = _with_reach(reached, name, 1.0), _with_reach(reached, "quality")
    axes.errorbar(x, y, xerr=across, yerr=up, color="black", capsize=3, ls="none", zorder=5)
    axes.plot(x, y, "*", color="black", mec="white", mew=0.8, ms=15, zorder=6)
    axes.plot([], [], "*", color="black", ms=9, label=picture_text(f"chosen: {reached['plan']}"))


def _with_reach(record: dict[str, Any], of: str, scale: float = 100.0) -> tuple[float, Floats]:
    """Return a field, 0 where it is not known, and how far its interval reaches down and up, (2, 1)."""
    centre, low, high = (scale * (record[f"{of}{end}"] or 0.0) for end in ("", "_low", "_high"))
    return centre, np.maximum([[centre - low], [high - centre]], 0.0)


def _zoom(axes: Any, goal: Goal, points: Floats, records: Sequence[dict[str, Any]]) -> None:
    """Show what is worth comparing: costs in octaves where they are far apart, the upper accuracies."""
    log_scale(axes, [*points[:, 0], *(one[goal.objective] for one in records)], apart=6.0)
    seen = [one["quality_low"] for one in records] + [goal.accuracy or 1.0]
    top = max(float(points[:, 1].max()), *(one["quality_high"] for one in records))
    low = max(top - max(4 * (top - min(seen)), 0.03), float(points[:, 1].min()))
    room = 0.04 * (top - low)
    axes.set_ylim(100 * (low - room), 100 * (top + room))
    axes.margins(x=0.06)
