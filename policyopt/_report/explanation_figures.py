"""The pictures of an explanation: exits, scores, classes, and the rows that moved."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._replay import Traced
from policyopt._report.explanation import Explanation, threshold_sets
from policyopt._report.figures import BLUE, GREEN, LINES, ORANGE, new_figure, save_figure, tidy
from policyopt.runtime._experts import policy_of
from policyopt.runtime._policy import Policy
from policyopt.runtime._text import picture_text
from policyopt.runtime._typing import Ints

RIGHT, WRONG = BLUE, ORANGE
_GROUPS = {"right": RIGHT, "wrong": WRONG, "all": GREEN}
#: Rows that left at an earlier exit.
GONE = "0.72"
#: More exits than this are written smaller.
MANY = 8
#: Inches that a row of panels may take.
WIDEST = 16.0
#: Points of one panel; more hide each other.
POINTS = 3000
#: Up to so many classes are named on an axis, and have a bar of their own.
NAMED, BARS = 20, 40
_MINUS = "\N{MINUS SIGN}"


def write_figures(
    explanation: Explanation, policy: Any, out: str | os.PathLike[str], title: str = ""
) -> list[Path]:
    """Write the pictures into a directory; return their paths."""
    paths = []
    for name, figure in figures(explanation, policy, title).items():
        save_figure(figure, Path(out) / name)
        paths.append(Path(out) / name)
    return paths


def figures(explanation: Explanation, policy: Any, title: str = "") -> dict[str, Any]:
    """Draw what the rows of an explained policy (or of a fit that holds it) allow, by file name.

    ``exits.png`` and ``scores.png``; ``classes.png`` and ``per_class.png`` with labels; ``changes.png``
    with a reference.
    """
    policy = policy_of(policy, single=True)
    record = explanation.record
    drawn = {
        "exits.png": exits_figure(explanation, title),
        "scores.png": scores_figure(explanation, policy, title),
    }
    if record["classes"] is not None:
        drawn["classes.png"] = classes_figure(explanation, policy, title)
        drawn["per_class.png"] = per_class_figure(explanation, title)
    if record["changes"] is not None:
        against = f"against {record['reference']['method'] or 'the reference'}"
        drawn["changes.png"] = changes_figure(
            explanation, f"{title}, {against}" if title else against
        )
    return drawn


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


# --- by exit ---------------------------------------------------------------------------------


def exits_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw the share that leaves at each exit, what it costs, and how right leavers and stayers are.

    One panel, two where correctness is known.
    """
    record = explanation.record
    exits, unit = record["exits"], picture_text(record["unit"])
    labelled = record["accuracy"] is not None
    size = 8 if len(exits) > MANY else 9
    figure = new_figure(max(7.0, 1.0 * len(exits) + 2.0), 6.4 if labelled else 3.8)
    axes = figure.subplots(1 + labelled, 1, sharex=True, squeeze=False)[:, 0]
    at = np.arange(len(exits))
    for shift, key, colour, label in (
        (-0.2, "share_left", RIGHT, "of the rows leave here"),
        (0.2, "cost_share", GONE, "of all cost is spent on them"),
    ):
        heights = [100 * (e[key] or 0.0) for e in exits]
        axes[0].bar(at + shift, heights, 0.38, color=colour, label=label)
        for x, y in zip(at + shift, heights, strict=True):
            text = f"{y:.0f}" if y >= 10 or y == 0 else f"{y:.1f}"
            _write_beside(axes[0], text, (x, y), 2, size)
    axes[0].set_ylabel("share [%]")
    axes[0].margins(y=0.12)
    axes[0].legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))
    if labelled:
        _draw_accuracies(axes[1], exits, size)
    ticks = [f"exit {e['exit']}\n{e['cost']:.4g}" for e in exits]
    for panel in axes:
        tidy(panel, grid="y")
    axes[-1].set_xticks(at, ticks, fontsize=size)
    axes[-1].set_xlim(-0.6, len(exits) - 0.4)
    axes[-1].set_xlabel(f"exit, and its mean cost [{unit}]")
    told = f"mean cost {record['realised_cost']:.4g} {unit}"
    if labelled:
        told += f", accuracy {_percent(record['accuracy'], 2)}"
    figure.suptitle(f"{picture_text(title)}\n{told}" if title else told, fontsize=11)
    return figure


def _draw_accuracies(axes: Any, exits: list[dict[str, Any]], size: int) -> None:
    series = (
        ("accuracy_left", RIGHT, "o", -0.2, "leave here"),
        ("accuracy_stayed", WRONG, "s", 0.2, "go on (had they left)"),
        ("accuracy", "0.35", "_", 0.0, "all rows (had they left)"),
    )
    for key, colour, marker, shift, label in series:
        points = [(i + shift, 100 * e[key]) for i, e in enumerate(exits) if e[key] is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker, color=colour, ms=14 if marker == "_" else 7, mew=2, label=label)
        for point in points if shift else ():
            where = (7, "bottom") if shift < 0 else (-7, "top")
            _write_beside(axes, f"{point[1]:.1f}", point, where[0], size, color=colour, va=where[1])
    axes.set_ylabel("accuracy [%]")
    axes.margins(y=0.18)
    axes.set_ylim(*axes.get_ylim())  # room for the numbers, but no ticks beyond 100 %
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
    axes.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))


def _write_beside(
    axes: Any, text: str, point: tuple[float, float], up: int, size: int, **look: Any
) -> None:
    """Write a text so many points above a point."""
    axes.annotate(
        text, point, (0, up), textcoords="offset points", ha="center", fontsize=size, **look
    )


def scores_figure(explanation: Explanation, policy: Policy, title: str = "") -> Any:
    """Draw how the scores of right and of wrong answers lie at each exit (EENet, Figure 3).

    Filled: rows that reach the exit, each group summing to 100 %; dotted: those gone before.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    exits = explanation.record["exits"]
    figure, axes = _panels(len(exits), 3.7, 2.7)
    shown = []
    for k, (panel, record) in enumerate(zip(axes, exits, strict=True)):
        score = record["score"]
        edges = np.array(score["edges"])
        for name, group in score["reached"].items():
            if group["rows"]:
                heights = 100 * np.array(group["counts"]) / group["rows"]
                panel.stairs(heights, edges, fill=True, color=_GROUPS[name], alpha=0.5)
                panel.stairs(heights, edges, color=_GROUPS[name], lw=1.3)
                shown.append(name)
        # Those gone often pile up in one bin: they do not set the scale, unless nobody else is here.
        top = panel.get_ylim()[1] if record["rows_reached"] else 105
        gone = np.sum([g["counts"] for g in score["gone"].values()], axis=0)
        if gone.sum():
            panel.stairs(100 * gone / gone.sum(), edges, color="0.45", ls=":", lw=1.2)
        panel.set_ylim(0, top)
        said = _draw_thresholds(panel, policy, k, edges, across=False)
        if record["auroc"] is not None:
            said = f"AUROC {record['auroc']:.3f}{', ' if said else ''}{said}"
        told = f"exit {record['exit']}: {_percent(record['share_left'])} leave"
        panel.set_title(f"{told}\n{said}", fontsize=9.5)
        tidy(panel)
    names = [n for n in _GROUPS if n in shown]
    words = {"right": "right answers", "wrong": "wrong answers", "all": "all answers"}
    handles: list[Any] = [Patch(color=_GROUPS[n], alpha=0.6, label=words[n]) for n in names]
    handles.append(Line2D([], [], color="0.45", ls=":", label="gone before"))
    _finish_panels(figure, axes, handles, policy, f"score ({policy.rule.name})")
    figure.supylabel("share of the group [%]", fontsize=10)
    figure.suptitle(picture_text(title), fontsize=11)
    return figure


# --- by class --------------------------------------------------------------------------------


def classes_figure(explanation: Explanation, policy: Policy, title: str = "", seed: int = 0) -> Any:
    """Draw score against class at each exit, as EENet's Figures 6 to 9, of labelled rows.

    Classes stand in the order of the last exit's accuracy (as in its Figure 3). At most 3,000
    rows, the same in every panel, drawn by `seed`. Grey crosses left at an earlier exit.
    """
    from matplotlib.lines import Line2D

    found, classes = explanation.found, explanation.record["classes"]
    order = sorted(classes, key=lambda c: c["accuracy_exits"][-1])
    names = [c["class"] for c in order]
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(found.exit))[:POINTS]
    x = _places(found, names)[rows] + rng.uniform(-0.36, 0.36, len(rows))
    few = len(names) <= NAMED
    figure, axes = _panels(found.exits, 4.4 if few else 5.0, 2.9)
    for k, panel in enumerate(axes):
        _scatter(panel, found, k, rows, x)
        record = explanation.record["exits"][k]
        said = _draw_thresholds(panel, policy, k, record["score"]["edges"], across=True)
        told = f"exit {record['exit']}: {_percent(record['share_left'])} leave"
        panel.set_title(f"{told} ({said})" if said else told, fontsize=9.5)
        panel.set_xlim(-0.7, len(names) - 0.3)
        panel.set_xticks(range(len(names)) if few else [], names if few else [])
        tidy(panel)
    marks = (
        ("o", RIGHT, "right at this exit"),
        ("o", WRONG, "wrong at this exit"),
        ("x", GONE, "left before"),
    )
    handles = [
        Line2D([], [], marker=marker, color=colour, label=label, ls="", ms=6)
        for marker, colour, label in marks
    ]
    what = "class" if few else f"{len(names)} classes"
    _finish_panels(figure, axes, handles, policy, f"{what}, least accurate (last exit) first")
    figure.supylabel(f"score ({policy.rule.name})", fontsize=10)
    shown = f"{len(rows):,} of {len(found.exit):,} rows"
    figure.suptitle(f"{picture_text(title)}: {shown}" if title else shown, fontsize=11)
    return figure


def _places(found: Traced, names: list[int]) -> Ints:
    """Return the position of every row's class on the axis, (N,)."""
    labels = np.asarray(found.labels)
    position = np.empty(int(labels.max()) + 1, dtype=np.int64)
    position[names] = np.arange(len(names))
    return position[labels]


def _scatter(panel: Any, found: Traced, k: int, rows: Ints, x: Any) -> None:
    """Draw those gone before, then right and wrong in one go: neither colour hides the other."""
    scores, right = found.scores[rows, k], np.asarray(found.correct)[rows, k]
    gone = found.position[rows] < k
    panel.scatter(x[gone], scores[gone], 12, color=GONE, marker="x", lw=0.7, zorder=1)
    colours = np.where(right[~gone], RIGHT, WRONG)
    panel.scatter(x[~gone], scores[~gone], 9, c=colours, lw=0, alpha=0.75, zorder=2)


def per_class_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw where the samples of each class leave, cheapest class first, of labelled rows.

    One bar per class, its accuracy and cost beside it; over 40 classes, their accuracy below.
    """
    import matplotlib

    order = sorted(explanation.record["classes"], key=lambda c: c["cost"])
    shares = 100 * np.array([c["exit_share"] for c in order])
    low = shares.cumsum(axis=1) - shares
    named = len(order) <= BARS
    figure = new_figure(8.2, 1.9 + 0.3 * len(order) if named else 6.2)
    axes = figure.subplots(1 if named else 2, 1, squeeze=False, sharex=not named)[:, 0]
    at, exits = np.arange(len(order)), shares.shape[1]
    for k in range(exits):  # from light (early) to dark (late)
        colour = matplotlib.colormaps["cividis_r"](0.08 + 0.92 * k / max(exits - 1, 1))
        look = {"color": colour, "label": f"exit {explanation.found.path[k]}"}
        if named:
            axes[0].barh(at, shares[:, k], 0.82, left=low[:, k], **look)
        else:
            axes[0].bar(at, shares[:, k], 1.0, bottom=low[:, k], **look)
    if named:
        _name_bars(axes[0], order, explanation.record["unit"])
    else:
        axes[0].set_ylabel("share of the class [%]")
        axes[0].set_ylim(0, 100)
        axes[1].plot(at, [100 * c["accuracy"] for c in order], ".", color=RIGHT, ms=4)
        axes[1].set_ylabel("accuracy [%]")
        axes[1].set_xlabel(f"{len(order)} classes, cheapest first")
        axes[1].set_xlim(-0.5, len(order) - 0.5)
    tidy(axes[0])
    if not named:
        tidy(axes[1], grid="y")
    below = {"loc": "outside lower center", "frameon": False, "fontsize": 9}
    figure.legend(ncols=min(exits, 6), **below)
    figure.suptitle(picture_text(title), fontsize=11)
    return figure


def _name_bars(axes: Any, order: list[dict[str, Any]], unit: str) -> None:
    axes.set_yticks(range(len(order)), [c["class"] for c in order])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the class that leaves at each exit [%]")
    axes.set_ylabel("class, cheapest first")
    look = {"fontsize": 8.5, "color": "0.25", "va": "center"}
    axes.text(101.5, -0.85, f"accuracy, cost [{picture_text(unit)}]", **look)
    for y, record in enumerate(order):
        axes.text(101.5, y, f"{_percent(record['accuracy'])}, {record['cost']:.4g}", **look)


# --- beside a reference ----------------------------------------------------------------------


def changes_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw how many rows moved from each exit of the reference to each exit now.

    Below a count: how many of these rows the move made right (+) and wrong (-).
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.patches import Rectangle

    record, unit = explanation.record["changes"], picture_text(explanation.record["unit"])
    counts = np.array(record["transitions"])
    exits = len(counts)
    side = max((0.72 if exits > MANY else 0.95) * exits, 3.4)
    figure = new_figure(side + 2.6, side + 2.0)
    axes = figure.add_subplot()
    # Most rows stay where they were; the root keeps the others visible.
    norm = PowerNorm(0.5, 0, max(counts.max(), 1))
    image = axes.imshow(counts, cmap="Blues", norm=norm)
    look = {"ha": "center", "va": "center", "fontsize": 7.5 if exits > MANY else 9}
    for i, j in np.argwhere(counts > 0):
        colour = "white" if norm(counts[i, j]) > 0.6 else "black"
        axes.text(j, i, f"{counts[i, j]:,}{_signs(record, i, j)}", color=colour, **look)
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
        told += f"; {record['better']:,} became right (+), {record['worse']:,} wrong ({_MINUS})"
    told += f"\nmean cost {record['reference_cost']:.4g} → {record['cost']:.4g} {unit}"
    figure.suptitle(f"{picture_text(title)}\n{told}" if title else told, fontsize=10)
    return figure


def _signs(record: dict[str, Any], i: int, j: int) -> str:
    """Return a line such as "+3 -1"; nothing where no answer of this cell became right or wrong."""
    if record["better_at"] is None:
        return ""
    ups, downs = record["better_at"][i][j], record["worse_at"][i][j]
    return f"\n+{ups:,} {_MINUS}{downs:,}" if ups or downs else ""


# --- panels, one per exit --------------------------------------------------------------------


def _panels(exits: int, width: float, height: float) -> tuple[Any, list[Any]]:
    """Return a figure and K axes of so many inches, in rows; what is left over stays blank."""
    columns = exits if exits <= 3 else math.ceil(math.sqrt(exits))
    rows = math.ceil(exits / columns)
    width = min(width, WIDEST / columns)
    # One row more of inches for title and legend.
    figure = new_figure(max(width * columns, 6.5), height * rows + 0.9)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=False, sharey=False)
    for blank in axes.flat[exits:]:
        blank.set_axis_off()
    return figure, list(axes.flat[:exits])


def _draw_thresholds(axes: Any, policy: Policy, k: int, edges: Any, across: bool) -> str:
    """Draw the thresholds at the k-th exit that a policy runs where they lie among the scores.

    `across`: horizontal lines (scores stand on the y axis). Returns words for those that do not.
    """
    if k == policy.exits - 1:
        return "the last exit: no threshold"
    line = axes.axhline if across else axes.axvline
    values, said = [float(t[k]) for t in threshold_sets(policy)], []
    for number, (value, style) in enumerate(zip(values, LINES, strict=False), start=1):
        if edges[0] <= value <= edges[-1]:
            line(value, color="black", lw=1.3, ls=style, zorder=4)
        else:
            name = "threshold" if len(values) == 1 else f"threshold {number}"
            said.append(f"{name} {'above' if value > edges[-1] else 'below'} all scores")
    return ", ".join(said)


def _finish_panels(
    figure: Any, axes: Sequence[Any], handles: list[Any], policy: Policy, label: str
) -> None:
    """Put a legend with the thresholds under all panels, and label the lowest of each column."""
    from matplotlib.lines import Line2D

    if policy.mixture is None:
        names = ["threshold"]
    else:
        shares = (1.0 - policy.mixture.share, policy.mixture.share)
        names = [f"threshold {i} ({_percent(s, 0)} of rows)" for i, s in enumerate(shares, 1)]
    handles = handles + [
        Line2D([], [], color="black", ls=style, label=name)
        for style, name in zip(LINES, names, strict=False)
    ]
    columns = min(len(handles), max(int(figure.get_figwidth() / 2.0), 2))
    if columns < len(handles):  # rows of like length
        columns = math.ceil(len(handles) / math.ceil(len(handles) / columns))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5
    )
    grid = axes[0].get_subplotspec().get_gridspec()
    for k, panel in enumerate(axes):
        if k + grid.ncols >= len(axes):
            panel.set_xlabel(label, fontsize=9.5)
