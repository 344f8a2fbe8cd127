"""What one policy does on the rows of one table: by exit, by class, beside a reference; as data and as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt._api import cost_for, fit, utility_for
from policyopt._cache.data import ExitData
from policyopt._frontier import mcnemar, threshold_fields, threshold_sets
from policyopt._intervals import mean_interval, with_interval
from policyopt._replay import Traced, trace
from policyopt._report.calibration import auroc
from policyopt._report.figures import (
    COLOURS,
    LINES,
    add_heading,
    add_legend,
    fold,
    new_figure,
    tidy,
)
from policyopt._report.routes import Routes, explain_routing
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import PolicyOptError
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import policy_of
from policyopt.runtime._shown import Shown
from policyopt.runtime._text import picture_text
from policyopt.runtime._typing import Array, Bools, Floats

#: The method that a policy is held against where no reference is given.
REFERENCE = "max_prob"
LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)  # of the quantiles that are told
BINS = 40  # of the histograms
RIGHT, WRONG = COLOURS[:2]
_GROUPS = {"right": RIGHT, "wrong": WRONG, "all": COLOURS[2]}
GONE = "0.72"  # rows that left at an earlier exit
MANY = 8  # more exits are written smaller
WIDEST = 16.0  # inches that a row of panels may take
POINTS = 3000  # of one panel; more hide each other
NAMED, BARS = 20, 40  # classes up to which they are named on an axis, and have a bar of their own
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Shown):
    """What a policy did with N rows, beside a reference if given.

    Attributes
    ----------
    record : dict
        JSON-able; None where labels lack: ``exits``, ``classes``, ``changes`` against the reference, ``notes``.
    policy : Policy
    found, reference
        What it, and the reference, did row by row; `rows` tells it as records.
    """

    record: dict[str, Any]
    policy: Policy
    found: Traced
    reference: Traced | None

    def rows(self) -> list[dict[str, Any]]:
        """Return a record per row: where it left, what was answered, also by the reference."""
        columns: dict[str, Any] = {"row": np.arange(len(self.found.exit))}
        if self.found.labels is not None:
            columns["label"] = self.found.labels
        for prefix, found in (("", self.found), ("reference_", self.reference)):
            if found is None:
                continue
            columns[f"{prefix}exit"] = found.exit
            if self.policy.observer.kind.answers_class:  # of others only a number to compare by
                columns[f"{prefix}prediction"] = found.taken
            columns[f"{prefix}cost"] = found.cost
            if found.quality_taken is not None:
                columns[f"{prefix}quality"] = found.quality_taken.astype(float)
        return _records(columns)


def explain(
    policy: Any,
    data: ExitData,
    split: str = "test",
    *,
    reference: Any = REFERENCE,
    cost: str | None = None,
    utility: Any = None,
    tables: Tables | None = None,
) -> Explanation | Routes:
    """Explain what a policy does with rows: at each exit, to each class, and beside a reference policy.

    Parameters
    ----------
    policy : Policy, RoutingPolicy, or what `fit` returned
    data : ExitData
    split : str
        Split or stream to look at.
    reference : policy, "max_prob" or None
        What it is held against; default max_prob fitted at the same budget. Routing has none.
    cost, utility
        As `evaluate` takes them.
    tables : Tables, optional
        Reuse of passes already made.

    Returns
    -------
    Explanation
        Of routing `Routes`: which model is asked after which.

    Raises
    ------
    InputError
        The policy was made for another model, or is several.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = po.explain(po.fit(data, 2.0, "entropy"), data)
    >>> [round(one["share_left"], 2) for one in found.record["exits"]]
    [0.69, 0.31]
    """
    policy = policy_of(policy, single=True, routes=True)
    worth, told = utility_for(policy, data, utility)
    tables = tables or Tables(data, cost_for(policy, data, cost), utility=worth)
    if isinstance(policy, RoutingPolicy):
        routes = explain_routing(policy, tables.get(split))
        routes.record["notes"] += filter(None, [told])
        return routes
    table, remark = tables.get(split), ""
    if isinstance(reference, str):
        check_one_of("reference", reference, (REFERENCE,), "Or give a policy, or None.")
        reference, remark = default_reference(policy, tables)
    found = explain_rows(policy, table, reference, data.names)
    notes, changes = found.record["notes"], found.record["changes"]
    notes += filter(None, [told, remark])
    if changes and changes["same_exit"] == found.record["rows"]:
        notes.append("every row leaves where the reference lets it: --reference FILE for another")
    return found


def explain_rows(
    policy: Any, table: Table, reference: Any = None, names: Sequence[str] = ()
) -> Explanation:
    """Explain what a policy does with the rows of a table, labelled or not, beside a reference if given."""
    # `names`: of the model's exits, where they have some.
    policy = policy_of(policy, single=True)
    if reference is not None:
        reference = policy_of(reference, single=True, argument="reference")
    notes = list[str]()
    table = known_rows(table, notes)
    found = trace(policy, table)
    other = None if reference is None else trace(reference, table)
    record = {
        "policy": _describe(policy), "reference": None if reference is None else _describe(reference),
        "split": table.split, "rows": len(table), "unit": table.unit,
        "realised_cost": float(found.cost.mean()),
        **_both({"quality": None if found.quality_taken is None else float(found.quality_taken.mean())}, found),
        "exits": exit_records(found, policy), "classes": class_records(found),
        "changes": None if other is None else change_record(found, other),
        "notes": [*notes, *_notes(found, table)],
    }  # fmt: skip
    named = [{"name": name} for name in names] or [dict[str, str]()] * policy.model_exits
    for one in record["exits"]:
        one |= named[one["exit"]]
    if other is not None:  # whose transitions are over all the model's exits
        record["changes"]["exits"] = [{"exit": k, **one} for k, one in enumerate(named)]
    return Explanation(record, policy, found, other)


def default_reference(policy: Any, tables: Tables) -> tuple[Policy | None, str]:
    """Fit max_prob at a policy's budget, or at its expected cost, and say so; or None and why not."""
    policy = policy_of(policy, single=True)
    budget = policy.provenance.get("budget") or policy.provenance.get("expected_cost")
    if not isinstance(budget, (int, float)):
        return None, "no reference: the policy does not say its budget. Give --reference FILE"
    try:
        fitted = fit(tables.data, float(budget), REFERENCE, tables=tables)
    except PolicyOptError as error:
        return None, f"no reference: {REFERENCE} cannot be fitted. {error} Or give --reference FILE"
    told = f"reference: {REFERENCE} fitted at the same budget or cost; --reference FILE for another"
    return fitted.policy, told


def _describe(policy: Policy) -> dict[str, Any]:
    names = ("method", "settings", "budget", "expected_cost")
    told = {name: policy.provenance.get(name) for name in names}
    told |= {"score": policy.rule.name, "answer": policy.answer.name}
    return told | threshold_fields(policy)


def _notes(found: Traced, table: Table) -> list[str]:
    if found.quality is None:
        some = table.statistics.quality is not None
        why = "some rows have no label" if some else "the rows have no labels"
        if table.quality_given and some:
            why = "the quality known is of the exits' own answers, and the policy's are others"
        return [f"{why}: nothing is said of accuracy, nor by class"]
    kind = KINDS[table.kind]
    if not kind.answers_class:
        return [f"{kind.name} has no classes: nothing is said by class"]
    if found.labels is None:
        why = "the records tell what answers are worth but not the class"
        return [f"{why}: nothing is said by class"]
    return []


def _both(fields: dict[str, Any], found: Traced) -> dict[str, Any]:
    """Return fields of qualities, and those of the same name with accuracy for it: None where quality is graded."""
    names = {name: name.replace("quality", "accuracy") for name in fields if "quality" in name}
    return {**{names[name]: None if found.graded else fields[name] for name in names}, **fields}


def exit_records(found: Traced, policy: Policy) -> list[dict[str, Any]]:
    """Describe each of the K exits of a policy that was run over N rows."""
    # ``cost``, ``quality``: of all rows, had they left here; ``quality_stayed``: of those who go on, had they left;
    # ``overthought``: better here than where they leave; ``rescued``: the reverse; ``auroc``: of rows that come.
    sets, n, spent = threshold_sets(policy), len(found.exit), float(found.cost.sum())
    known = found.quality is not None
    correct = np.zeros((n, found.exits), bool) if found.quality is None else found.quality
    final = correct[np.arange(n), found.position]
    records = []
    for k in range(found.exits):
        left, reached, stayed = found.position == k, found.position >= k, found.position > k
        right, scores = correct[:, k], found.scores[:, k]
        qualities = {"quality": float(right.mean()), "quality_left": _mean_of(right, left)}
        qualities["quality_stayed"] = _mean_of(right, stayed)
        answers = {
            **_both(qualities, found),
            "overthought": int((stayed & (right > final)).sum()),
            "rescued": int((stayed & (right < final)).sum()),
            "auroc": auroc(scores[reached], right[reached]), "auroc_all": auroc(scores, right),
        }  # fmt: skip
        records.append({
            "exit": found.active_exits[k], "rows_reached": int(reached.sum()),
            "share_reached": float(reached.sum() / n), "rows_left": int(left.sum()),
            "share_left": float(left.sum() / n), "cost": float(found.exit_costs[k]),
            "cost_left": _mean_of(found.cost, left),
            "cost_share": float(found.cost[left].sum() / spent) if spent else None,
            "thresholds": [float(t[k]) for t in sets] if k < found.exits - 1 else [],
            **(answers if known else dict.fromkeys(answers)),
            "score": score_record(scores, None if found.correct is None else found.correct[:, k], reached),
        })  # fmt: skip
    return records


def _mean_of(values: Array, rows: Bools) -> float | None:
    """Return the mean of some rows; None where there are none."""
    return float(values[rows].mean()) if rows.any() else None


def score_record(scores: Floats, right: Bools | None, reached: Bools) -> dict[str, Any]:
    """Describe the scores of N rows at one exit: right and wrong ones that reach it or are gone before."""
    edges = np.histogram_bin_edges(scores, BINS)
    everyone = np.ones(len(scores), bool)
    groups = {"all": everyone} if right is None else {"right": right, "wrong": ~right}

    def described(rows: Bools) -> dict[str, Any]:
        some, found = rows.any(), scores[rows]
        return {
            "rows": len(found), "mean": float(found.mean()) if some else None,
            "quantiles": np.quantile(found, LEVELS).tolist() if some else None,
            "counts": np.histogram(found, edges)[0].tolist(),
        }  # fmt: skip

    record: dict[str, Any] = {"edges": edges.tolist(), "levels": list(LEVELS)}
    for name, rows in (("reached", reached), ("gone", ~reached)):
        record[name] = {key: described(rows & group) for key, group in groups.items()}
    return record


def class_records(found: Traced) -> list[dict[str, Any]] | None:
    """Describe every class that has rows; ``quality_exits`` (K,): had all of the class left there."""
    leaves = found.position[:, None] == np.arange(found.exits)
    columns = {"quality": found.quality_taken, "cost": found.cost, "exit_share": leaves}
    return _by_class(found, {**columns, "quality_exits": found.quality})


def _by_class(found: Traced, columns: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the means of columns, (N,) or (N, K), by class; None where a class or column is not known."""
    if found.labels is None or any(column is None for column in columns.values()):
        return None
    names, place, rows = np.unique(found.labels, return_inverse=True, return_counts=True)

    def means(column: Array) -> Floats:
        return np.apply_along_axis(lambda values: np.bincount(place, values) / rows, 0, column)

    means_of = {name: means(column) for name, column in columns.items()}
    records = _records({"class": names, "rows": rows, **means_of})
    return [_both(record, found) for record in records]


def _records(columns: dict[str, Array]) -> list[dict[str, Any]]:
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, values, strict=True)) for values in rows]


def change_record(found: Traced, reference: Traced) -> dict[str, Any]:
    """Compare two policies over the same N rows; ``transitions`` (K, K): rows by the reference's exit and exit now."""
    exits = found.model_exits
    pair = reference.exit * exits + found.exit

    def moved(rows: Bools) -> list[list[int]]:
        return np.bincount(pair[rows], minlength=exits**2).reshape(exits, exits).tolist()

    now, before = found.quality_taken, reference.quality_taken
    known = now is not None and before is not None
    if now is None or before is None:
        now = before = np.zeros(len(pair), bool)
    better, worse, graded = now > before, now < before, found.graded
    ups, downs = int(better.sum()), int(worse.sum())
    gain = mean_interval(now.astype(float) - before.astype(float), span=1.0, group=found.group)
    correctness = {
        **_both({"quality": float(now.mean()), "reference_quality": float(before.mean())}, found),
        **with_interval("difference", gain.mean, gain.low, gain.high), "better": ups, "worse": downs,
        "both_right": None if graded else int(((now == 1) & (before == 1)).sum()),
        "both_wrong": None if graded else int(((now == 0) & (before == 0)).sum()), "better_at": moved(better),
        "worse_at": moved(worse), "rows_better": np.flatnonzero(better).tolist(),
        "rows_worse": np.flatnonzero(worse).tolist(),
        "mcnemar_p": None if graded else mcnemar(better, worse, found.group),
    }  # fmt: skip
    columns = {"quality": found.quality_taken, "reference_quality": reference.quality_taken}
    columns |= {"cost": found.cost, "reference_cost": reference.cost}
    return {
        "transitions": moved(np.ones(len(pair), bool)),
        "earlier": int((found.exit < reference.exit).sum()),
        "same_exit": int((found.exit == reference.exit).sum()),
        "later": int((found.exit > reference.exit).sum()),
        "other_answer": int((found.taken != reference.taken).sum()), "cost": float(found.cost.mean()),
        "reference_cost": float(reference.cost.mean()),
        **(correctness if known else dict.fromkeys(correctness)), "classes": _by_class(found, columns),
    }  # fmt: skip


# --- pictures ------------------------------------------------------------------------------------


def figures(explanation: Explanation, title: str = "") -> dict[str, Any]:
    """Draw what the rows of an explained policy allow, by file name."""
    record, drawers = explanation.record, {"exits.png": exits_figure, "scores.png": scores_figure}
    if record["classes"] is not None:
        drawers |= {"classes.png": classes_figure, "per_class.png": per_class_figure}
    drawn = {name: draw(explanation, title) for name, draw in drawers.items()}
    if record["changes"] is not None:
        against = f"against {record['reference']['method'] or 'the reference'}"
        named = f"{title}, {against}" if title else against
        drawn["changes.png"] = changes_figure(explanation, named)
    return drawn


def _word(explanation: Explanation) -> str:
    return "quality" if explanation.found.graded else "accuracy"


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def exits_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw the share that leaves at each exit, what it costs, and how right leavers and stayers are."""
    record = explanation.record
    exits, unit, labelled = record["exits"], record["unit"], record["quality"] is not None
    figure = new_figure(max(7.0, 1.0 * len(exits) + 2.0), 6.4 if labelled else 3.8)
    draw_exits(
        list(figure.subplots(1 + labelled, 1, sharex=True, squeeze=False)[:, 0]), explanation
    )
    told = f"mean cost {record['realised_cost']:.4g} {picture_text(unit)}"
    if labelled:
        told += f", {_word(explanation)} {_percent(record['quality'], 2)}"
    add_heading(figure, title, told)
    return figure


def draw_exits(axes: Sequence[Any], explanation: Explanation) -> None:
    """Draw the same into given axes: shares into the first, qualities into the last, which may be the same."""
    exits, unit = explanation.record["exits"], picture_text(explanation.record["unit"])
    size, wide = 8 if len(exits) > MANY else 9, axes[0].figure.get_figwidth()
    at = np.arange(len(exits))
    for shift, key, colour, label in (
        (-0.2, "share_left", RIGHT, "of the rows leave here"),
        (0.2, "cost_share", GONE, "of all cost is spent on them"),
    ):
        heights = [100 * (e[key] or 0.0) for e in exits]
        bars = axes[0].bar(at + shift, heights, 0.38, color=colour, label=label)
        texts = [f"{y:.0f}" if y >= 10 or y == 0 else f"{y:.1f}" for y in heights]
        axes[0].bar_label(bars, texts, padding=2, fontsize=size)
    axes[0].set_ylabel("share [%]")
    axes[0].margins(y=0.12)
    if explanation.record["quality"] is not None:
        draw_qualities(axes[-1], exits, size)
        word = f"{_word(explanation)} [%]"
        axes[-1].set_ylabel(word if len(axes) > 1 else f"share, {word}")
    for panel in axes:
        panel.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
        tidy(panel, grid="y")
    room = int(13 * wide / (len(exits) + 1))  # letters
    labels = [f"{fold(e, room, 'exit {}')}\n{e['cost']:.4g}" for e in exits]
    axes[-1].set_xticks(at, labels, fontsize=size)
    axes[-1].set(xlim=(-0.6, len(exits) - 0.4), xlabel=f"exit, and its mean cost [{unit}]")


def draw_qualities(axes: Any, exits: list[dict[str, Any]], size: int) -> None:
    series = (
        ("quality_left", RIGHT, "o", -0.2, "leave here"),
        ("quality_stayed", WRONG, "s", 0.2, "go on (had they left)"),
        ("quality", "0.35", "_", 0.0, "all rows (had they left)"),
    )
    for key, colour, marker, shift, label in series:
        points = [(i + shift, 100 * e[key]) for i, e in enumerate(exits) if e[key] is not None]
        if not points:
            continue
        x, y = zip(*points, strict=True)
        axes.plot(x, y, marker, color=colour, ms=14 if marker == "_" else 7, mew=2, label=label)
        for point in points if shift else ():
            up, edge = (7, "bottom") if shift < 0 else (-7, "top")
            look = {"ha": "center", "va": edge, "fontsize": size, "color": colour}
            text = f"{point[1]:.1f}"
            axes.annotate(text, point, (0, up), textcoords="offset points", **look)
    axes.margins(y=0.18)
    axes.set_ylim(*axes.get_ylim())  # room for the numbers, but no ticks beyond 100 %
    axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])


def scores_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw how the scores of right and of wrong answers lie at each exit (EENet, Figure 3)."""
    exits, policy = explanation.record["exits"], explanation.policy
    words = f"score ({policy.rule.name})", "share of the group [%]"
    figure, axes = _panels(len(exits), 3.7, 2.7, *words)
    for k, (panel, record) in enumerate(zip(axes, exits, strict=True)):
        score = record["score"]
        edges = np.array(score["edges"])
        for name, group in score["reached"].items():
            if group["rows"]:
                heights, label = 100 * np.array(group["counts"]) / group["rows"], f"{name} answers"
                fill = {"color": _GROUPS[name], "alpha": 0.5, "label": label}
                panel.stairs(heights, edges, fill=True, **fill)
                panel.stairs(heights, edges, color=_GROUPS[name], lw=1.3)
        # Those gone often pile up in one bin: they do not set the scale, unless nobody else is here.
        top = panel.get_ylim()[1] if record["rows_reached"] else 105
        gone = np.sum([g["counts"] for g in score["gone"].values()], axis=0)
        if gone.sum():
            dotted = {"color": "0.45", "ls": ":", "lw": 1.2, "label": "gone before"}
            panel.stairs(100 * gone / gone.sum(), edges, **dotted)
        panel.set_ylim(0, top)
        said = _draw_thresholds(panel, policy, k, edges, across=False)
        if record["auroc"] is not None:
            said = f"AUROC {record['auroc']:.3f}{', ' if said else ''}{said}"
        told = f"exit {{}}: {_percent(record['share_left'])} leave"
        panel.set_title(f"{fold(record, 44, told)}\n{said}", fontsize=9.5)
    add_legend(figure)
    add_heading(figure, title)
    return figure


def classes_figure(explanation: Explanation, title: str = "", seed: int = 0) -> Any:
    """Draw score against class at each exit, by the last exit's accuracy (EENet, Figures 3 and 6 to 9)."""
    found, classes, policy = explanation.found, explanation.record["classes"], explanation.policy
    names = np.array([c["class"] for c in classes])
    order = np.argsort([c["quality_exits"][-1] for c in classes], kind="stable")
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(found.exit))[:POINTS]
    labels, correct = np.asarray(found.labels)[rows], found.correct
    correct = (np.asarray(found.quality) >= 0.5 if correct is None else correct)[rows]
    x = np.argsort(order)[np.searchsorted(names, labels)] + rng.uniform(-0.36, 0.36, len(rows))
    few = len(names) <= NAMED
    what = "class" if few else f"{len(names)} classes"
    words = f"{what}, least accurate (last exit) first", f"score ({policy.rule.name})"
    figure, axes = _panels(found.exits, 4.4 if few else 5.0, 2.9, *words)
    axes[0].plot([], [], "o", color=RIGHT, label="right at this exit")
    axes[0].plot([], [], "o", color=WRONG, label="wrong at this exit")
    axes[0].plot([], [], "x", color=GONE, label="left before")
    for k, panel in enumerate(axes):
        scores, gone = found.scores[rows, k], found.position[rows] < k
        panel.scatter(x[gone], scores[gone], 12, color=GONE, marker="x", lw=0.7, zorder=1)
        # Right and wrong in one go: neither colour hides the other.
        colours = np.where(correct[~gone, k], RIGHT, WRONG)
        panel.scatter(x[~gone], scores[~gone], 9, c=colours, lw=0, alpha=0.75, zorder=2)
        record = explanation.record["exits"][k]
        said = _draw_thresholds(panel, policy, k, record["score"]["edges"], across=True)
        told = f"exit {{}}: {_percent(record['share_left'])} leave{f' ({said})' if said else ''}"
        panel.set_title(fold(record, 56, told), fontsize=9.5)
        panel.set_xlim(-0.7, len(names) - 0.3)
        panel.set_xticks(range(len(names)) if few else [], names[order] if few else [])
    add_legend(figure)
    add_heading(figure, title, f"{len(rows):,} of {len(found.exit):,} rows", between=": ")
    return figure


def per_class_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw where the samples of each class leave, cheapest class first, of labelled rows."""
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
        label = fold(explanation.record["exits"][k], 20, "exit {}")
        look = {"color": colour, "label": label}
        look["left" if named else "bottom"] = low[:, k]
        (axes[0].barh if named else axes[0].bar)(at, shares[:, k], 0.82 if named else 1.0, **look)
    tidy(axes[0])
    if named:
        across = "share of the class that leaves at each exit [%]"
        axes[0].set(xlim=(0, 100), xlabel=across, ylabel="class, cheapest first")
        axes[0].set_yticks(at, [c["class"] for c in order])
        axes[0].invert_yaxis()
        unit = picture_text(explanation.record["unit"])
        texts = [f"{_percent(c['quality'])}, {c['cost']:.4g}" for c in order]
        told = f"{_word(explanation)}, cost [{unit}]"
        for y, text in zip([-0.85, *at], [told, *texts], strict=True):
            axes[0].text(101.5, y, text, fontsize=8.5, color="0.25", va="center")
    else:
        axes[0].set(ylim=(0, 100), ylabel="share of the class [%]")
        axes[1].plot(at, [100 * c["quality"] for c in order], ".", color=RIGHT, ms=4)
        across = {"xlim": (-0.5, len(order) - 0.5), "ylabel": f"{_word(explanation)} [%]"}
        tidy(axes[1], grid="y", **across)
        axes[1].set_xlabel(f"{len(order)} classes, cheapest first")
    add_legend(figure)
    add_heading(figure, title)
    return figure


def changes_figure(explanation: Explanation, title: str = "") -> Any:
    """Draw how many rows moved from each exit of the reference to each exit now."""
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
        text = f"{counts[i, j]:,}"
        ups, downs = ((record[name] or counts * 0)[i][j] for name in ("better_at", "worse_at"))
        if ups or downs:
            text += f"\n+{ups:,} {_MINUS}{downs:,}"
        axes.text(j, i, text, color="white" if norm(counts[i, j]) > 0.6 else "black", **look)
    for k in range(exits):  # where nothing moved
        axes.add_patch(Rectangle((k - 0.5, k - 0.5), 1, 1, fill=False, ec="0.6", lw=0.8))
    labels = [fold(one, 12) for one in record["exits"]]
    axes.set_xticks(range(exits), labels, fontsize=look["fontsize"])
    axes.set_yticks(range(exits), labels, fontsize=look["fontsize"])
    axes.set(xlabel="exit now (framed: the same exit)", ylabel="exit of the reference")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=axes, shrink=0.8, label="rows")
    told = f"{record['earlier']:,} rows leave earlier, {record['later']:,} later"
    if record["better"] is not None:
        became = ("better", "worse") if explanation.found.graded else ("right", "wrong")
        told += f"; {record['better']:,} became {became[0]} (+), {record['worse']:,} {became[1]} ({_MINUS})"
    costs = f"mean cost {record['reference_cost']:.4g} → {record['cost']:.4g} {unit}"
    add_heading(figure, title, f"{told}\n{costs}")
    return figure


# --- panels, one per exit --------------------------------------------------------------------


def _panels(exits: int, width: float, height: float, across: str, up: str) -> tuple[Any, list[Any]]:
    """Return a figure and K axes of so many inches, in rows, and with names; what is left over is blank."""
    columns = exits if exits <= 3 else math.ceil(math.sqrt(exits))
    rows = math.ceil(exits / columns)
    width = min(width, WIDEST / columns)
    # One row more of inches for title and legend.
    figure = new_figure(max(width * columns, 6.5), height * rows + 0.9)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for blank in axes[exits:]:
        blank.set_axis_off()
    for panel in axes[:exits]:
        tidy(panel)
    for panel in axes[max(exits - columns, 0) : exits]:
        panel.set_xlabel(across, fontsize=9.5)
    figure.supylabel(up, fontsize=10)
    return figure, axes[:exits]


def _draw_thresholds(axes: Any, policy: Policy, k: int, edges: Any, across: bool) -> str:
    """Draw the thresholds at a policy's k-th exit that lie among the scores; say which do not."""
    if k == policy.exits - 1:
        return "the last exit: no threshold"
    line = axes.axhline if across else axes.axvline
    sets, said = threshold_sets(policy), []
    for i, value in enumerate(float(t[k]) for t in sets):
        name = f"threshold {i + 1}" if policy.mixture else "threshold"
        if edges[0] <= value <= edges[-1]:
            if policy.mixture:
                share = policy.mixture.share if i else 1.0 - policy.mixture.share
                name += f" ({_percent(share, 0)} of rows)"
            line(value, color="black", lw=1.3, ls=LINES[i], zorder=4, label=name)
        else:
            said.append(f"{name} {'above' if value > edges[-1] else 'below'} all scores")
    return ", ".join(said)
