"""What the page of a cache holds: policies at all budgets, and what they did with rows that chose nothing.

Each method is fitted once over a grid of budgets, as `curve` does; distinct policies are its levels. All that is told
of a level is what `fit`, `evaluate` and `compare` say of it.
"""

from __future__ import annotations

import gzip
import json
import re
import shlex
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._frontier import Frontier, Path, compare_paths, curve, summary, threshold_fields
from policyopt._intervals import mean_interval, quality_fields
from policyopt._methods.base import cheapest
from policyopt._methods.registry import ROWS, make_method, method_list, spec_of
from policyopt._optional import need
from policyopt._page import panels as draw
from policyopt._page import results
from policyopt._replay import replay
from policyopt._report.calibration import calibration_records, observe
from policyopt._report.explanation import explain
from policyopt._report.routes import explain_routing, tree_of
from policyopt._table import Table, Tables, known_rows, tables_of
from policyopt._thresholds.joint import upper_hull
from policyopt.runtime._certificate import FIELD, certificate_of, fingerprint, in_words
from policyopt.runtime._errors import InputError
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._files import write_file
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import ALWAYS, NEVER, Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._text import printable

#: Budgets of the explorer, evenly from the cheapest exit to the full model; every tenth is in verdict and tables.
BUDGETS, _STEP = 101, 10
REFERENCE = "max_prob"
#: What is shown where nothing is named: simple rules, the best thresholds, and the choice among all.
_USUAL = ("always", "margin", "entropy", "patience", "max_prob:thresholds=joint", "optimal_stopping", "auto")  # fmt: skip
_CASCADE = ("always", "margin", "subset", "optimal_stopping", "routing", "auto")
_CLASSES, _RARE, _ENDS = 30, 0.01, ("", "_low", "_high")
_PIECE = re.compile(r'^(?= {1,4}")', re.MULTILINE)  # where a policy's file is cut: at its outer keys  # fmt: skip


@dataclass(frozen=True, eq=False)
class Page:
    """A page to look at: `content`, JSON-able, and one self-contained file of it, `html`."""

    content: dict[str, Any] = field(repr=False)
    html: str = field(repr=False)

    def save(self, path: Any) -> None:
        """Write the page, whole or not at all."""
        write_file(path, self.html)

    def _repr_html_(self) -> str:
        said = self.content["verdict"] or {"headline": self.content["subtitle"], "sentences": []}
        told = [self.content["title"], said["headline"], *said["sentences"], "page.save('report.html')"]  # fmt: skip
        return "".join(f"<p>{draw.name(text, 4000)}</p>" for text in told)


def report(
    data: ExitData, methods: Any = None, *, out: Any = None, cost: str | None = None, utility: Any = None,
    head_cost: Any = None, tables: Tables | None = None, **how: Any,
) -> Page:  # fmt: skip
    """Make a page about a cache: verdict, policies at all budgets to slide through, and what they do.

    Parameters
    ----------
    data, methods, cost, utility, head_cost, tables : as `curve` takes them
        `max_prob`, which others are held against, is added. Default: simple rules and `auto`; with `policies`, none.
    out : str or path, optional
        Where to write the page.
    **how
        ``policies``, mapping of name to policy or family: shown, too. ``test``, rows that all is told of. ``samples``,
        function of a row's number there to its ``text`` or ``image`` (data URI). ``panels``, more of them. ``title``;
        ``command``, which made the page; ``fits``, which fits a policy, up to its budget. ``progress``, as `curve`.

    Returns
    -------
    Page

    Raises
    ------
    InputError
        As `curve`; or a policy of another model.
    MissingExtraError
        Without the packages of the extra ``report``.

    Examples
    --------
    >>> page = po.report(po.open_cache("cache/fashion_mnist"), ["margin"])  # doctest: +SKIP
    >>> page.save("report.html")  # doctest: +SKIP
    """
    for package in ("jinja2", "plotly"):
        need(package, "report", "to write a page")
    from policyopt._page.page import render

    found = content(tables_of(data, cost, tables, utility, head_cost), methods, **how)
    page = Page(found, render(found))
    if out is not None:
        page.save(out)
    return page


def with_reference(methods: Any, table: Table, given: bool = False) -> dict[str, Any]:
    """Return methods by label, the reference first, where it is possible; by default all that the rows allow."""  # fmt: skip
    usual = methods is None
    if usual:
        methods = () if given else _CASCADE if table.cascade else _USUAL
    if not isinstance(methods, Mapping):
        methods = {spec: make_method(spec) for spec in (method_list(methods) if methods else ())}
    own = make_method(REFERENCE)
    found = dict(methods) if own.missing_columns(table) else {REFERENCE: own, **methods}
    return {n: m for n, m in found.items() if not usual or not m.missing_columns(table)}


def content(
    tables: Tables, methods: Any = None, policies: Mapping[str, Any] | None = None, *, title: str = "",
    test: str = "test", samples: Callable[[int], Mapping[str, Any]] | None = None,
    panels: Sequence[Mapping[str, Any]] = (), command: str = "", fits: str = "policyopt fit CACHE",
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the page shows, JSON-able; see `report`."""
    data, whole, fit_rows, unit = tables.data, tables.get(test), tables.get("fit"), tables.cost.unit
    subtitle = f"{len(whole):,} rows of {test}, {whole.exits} {'models' if whole.cascade else 'exits'}, costs in {unit}"  # fmt: skip
    facts = {
        "cache": data.fingerprint, "outputs": f"{data.kind}, {data.classes or 'unknown'} {KINDS[data.kind].counted}",
        "cost": f"{tables.cost.name}, per {'sample' if tables.cost.per_sample else 'exit'}",
        "an_exit_that_is_skipped": "is free" if whole.cascade else "saves its head" if whole.heads is not None else "is paid",
        "rows": f"a pool, divided by seed {data.split_seed}" if data.pooled else "in splits as they came",
        "fitted_on": "fit, seed 0", "judged_on": test, "utility": tables.utility.digest if tables.utility else "none",
    }  # fmt: skip
    page = results.page("cache", title or "Early exits", subtitle, [_data_panel(tables)], **facts)
    page["made"]["command"], notes = command, page["notes"]
    table = known_rows(whole, notes)
    if not table.labelled:
        notes.append(f"no row of {test} has a label: no quality, no policies are shown. --test names another split")  # fmt: skip
        page["panels"] += panels
        return page
    chosen, budgets = with_reference(methods, fit_rows, bool(policies)), _grid(fit_rows)
    frontier = curve(data, chosen, budgets, test=test, tables=tables, progress=progress)
    notes += {note.partition(" left out at ")[0]: note for note in frontier.notes if note not in notes}.values()  # fmt: skip
    entries = [_fitted(frontier, label, method, fits) for label, method in chosen.items()]
    entries += [_given(name, one, whole, budgets, fits) for name, one in (policies or {}).items()]
    entries = [entry for entry in entries if entry.levels]
    rival = next((e for e in entries if e.label == REFERENCE), entries[0])
    if rival.label != REFERENCE:
        notes.append(f"{REFERENCE} cannot be fitted here: differences are to {rival.label}")
    path = _measure(rival, table, None)
    for i, entry in enumerate(entries):
        if progress:
            progress("comparing", i, len(entries))
        if entry is not rival:
            _measure(entry, table, path)
    order = sorted(entries, key=lambda entry: -entry.promise)
    first = next((e for e in entries if e.label == "auto"), order[0])
    full = fit_rows.mean_costs[-1]  # begin at 40 % of it, or half of the way
    usual = 0.4 * full if budgets[0] < 0.4 * full else (full + budgets[0]) / 2
    met = [i for i, j in enumerate(first.at) if j >= 0]
    start = max([i for i in met if budgets[i] <= usual], default=met[0])
    page["verdict"] = _verdict(frontier)
    chunks, fields = _packed(entries), ("label", "title", "about", "command", "at", "levels")
    page["explorer"] = {
        **_explorer(frontier, table, data, budgets), "start": start, "reference": rival.label, "chosen": first.label,
        "methods": [{of: getattr(entry, of) for of in fields} for entry in entries],
        "budgets": budgets, "chunks": chunks,
    }  # fmt: skip
    page["panels"] += [
        *_panels(order, frontier, rival.label, table, budgets),
        *_policy_panels(first, rival, start, table, tables, samples, notes), *panels,
    ]  # fmt: skip
    return page


def _grid(table: Table) -> list[float]:
    """Return the page's budgets, at even positions by exit index as `positions` has them, first and last included."""
    ends = table.mean_costs.copy()
    ends[0] = min(ends[0], cheapest(table))
    at = np.interp(np.linspace(0, len(ends) - 1, BUDGETS), np.arange(len(ends)), ends)
    return [float(ends[0]), *(float(f"{one:.10g}") for one in at[1:-1]), float(ends[-1])]


# --- methods and files, level by level ------------------------------------------------------


@dataclass
class _Entry:
    """A method or policy file: levels of rising budgets as the page has them, their policies, the level per budget."""  # fmt: skip

    label: str
    about: str
    command: list[str]
    at: list[int] = field(default_factory=list)
    levels: list[dict[str, Any]] = field(default_factory=list)
    policies: list[Any] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its label; of a choice also what it chose, most budgets first."""
        told = [self.policies[j].provenance.get("chosen") for j in self.at if j >= 0]
        names = [str(one.get("method")) for one in told if isinstance(one, Mapping)]
        found = sorted(set(names), key=lambda name: (-names.count(name), name))
        more = f" ({', '.join(found[:2])}{', ...' * (len(found) > 2)})"
        return self.label + more * bool(found)

    @property
    def promise(self) -> float:
        """Mean quality that its fits state, of all budgets; of those that it cannot meet, of its cheapest level."""  # fmt: skip
        return float(np.mean([self.levels[max(j, 0)]["expected_quality"][0] or 0.0 for j in self.at]))  # fmt: skip

    def add(self, policy: Any, budget: Any, record: Mapping[str, Any]) -> None:
        """Add a level: what its fit states, and what rows say, all but what `_measure` finds."""
        told, known = policy.provenance, certificate_of(policy)
        own = threshold_fields(policy) if isinstance(policy, Policy) else {}
        mixture, one = own.get("mixture"), own.get("thresholds")
        sets = mixture["thresholds"] if mixture else one and [one]
        level = {"budget": budget, "exit_share": record["exit_share"], "certificate": known and in_words(known)}  # fmt: skip
        if FIELD in told and known is None:
            level["certificate"] = "void: the policy was changed since"
        for name, of in (("cost", "realised_cost"), ("quality", "quality")):
            ends = told.get(f"expected_{name}_95") or (None, None)
            level[f"expected_{name}"] = [*map(_number, (told.get(f"expected_{name}"), *ends))]
            level[name] = [record[of + end] for end in _ENDS]
        level |= {"thresholds": sets and [[*map(_threshold, one)] for one in sets]}
        self.levels.append(level | {"share": mixture and mixture["share"]})
        self.policies.append(policy)

    def row(self, level: dict[str, Any]) -> dict[str, Any]:
        """Return a level as a record with intervals."""
        fields = {of: level[of] or [None] * 3 for of in ("cost", "quality", "to_full", "to_reference")}  # fmt: skip
        return {"method": self.title} | {
            of + end: v for of, each in fields.items() for end, v in zip(_ENDS, each, strict=True)
        }


def _fitted(frontier: Frontier, label: str, method: Any, fits: str) -> _Entry:
    """Return a method of a frontier: budgets that share a policy, and what is stated of it, are one level."""  # fmt: skip
    row, spec = ROWS.get(method.name), spec_of(method) if method.name in ROWS else label
    about = f"Leaves where {row.summary}. {row.wins}" if row else ""
    command = [f"{fits} --budget ", f" --method {shlex.quote(spec)} --out policy.json"]
    entry, places = _Entry(label, about, command, [-1] * BUDGETS), dict[str, int]()
    told = {key: one for key, one in zip(frontier.fitted, frontier.records, strict=True) if key[0] == label}  # fmt: skip
    for key, record in told.items():
        fitted = frontier.fitted[key]
        policy, stated = fitted.policy, fitted.policy.provenance
        same = [stated.get(of) for of in ("expected_cost", "expected_quality", "chosen")]
        entry.at[key[2]] = place = places.setdefault(f"{fingerprint(policy)} {same}", len(places))
        if place == len(entry.levels):
            entry.add(policy, fitted.budget, record)
    return entry


def _given(name: str, given: Any, table: Table, budgets: Sequence[float], fits: str) -> _Entry:
    """Return a policy, or the levels of a family, by what they were fitted for."""
    family = isinstance(given, PolicyFamily)
    command = fits.replace("policyopt fit", f"policyopt evaluate {shlex.quote(name)}")
    entry = _Entry(name, "As it was given.", [f"{command} --level ", ""] if family else [command])
    for j, policy in enumerate(given.policies if family else [given]):
        record, told = summary(replay(policy, table), policy), policy.provenance
        own = [_number(told.get("budget")), _number(told.get("expected_cost")), record["realised_cost"]]  # fmt: skip
        own = [float(given.budgets[j])] if family and given.budgets is not None else own
        entry.add(policy, next(one for one in own if one is not None), record)
    asked = np.maximum.accumulate([level["budget"] for level in entry.levels])
    entry.at = (np.searchsorted(asked, np.array(budgets) * (1 + 1e-9), side="right") - 1).tolist()
    return entry


def _number(value: Any) -> float | None:
    """Return a number of a provenance, which may hold anything: None for what is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _threshold(value: float) -> str:
    return {ALWAYS: "always", NEVER: "never"}.get(value, f"{value:.4g}")


def _measure(entry: _Entry, table: Table, rival: Path | None) -> Path:
    """Add to levels what rows tell of them, also beside the full model and the rival; return their path."""  # fmt: skip
    costs, worth, classes = np.broadcast_to(table.costs, (len(table), table.exits)), table.quality, _classes(table)  # fmt: skip
    paid, earned = [costs[:, 0]], [worth[:, 0]]
    for policy, level in zip(entry.policies, entry.levels, strict=True):
        outcome = replay(policy, table)
        paid.append(outcome.cost)
        earned.append(outcome.quality)
        gain = mean_interval(outcome.quality - worth[:, -1], span=1.0, group=table.group)
        level |= {"to_full": list(gain[:3]), "to_reference": None, "by_class": None, "ways": None}
        if classes is not None:
            left = [np.bincount(outcome.exit[rows], minlength=outcome.exits) for rows in classes.values()]  # fmt: skip
            level["by_class"] = [(counts / counts.sum()).round(5).tolist() for counts in left]
        if outcome.turn is not None:
            level["ways"] = [{"path": way, "share": one["share"], "stop": one["stop"]}
                             for way, one in tree_of(outcome).items() if one["share"] >= _RARE]  # fmt: skip
    path = Path(np.stack(paid, axis=1), np.stack(earned, axis=1), table.graded, table.group)
    for level, found in zip(entry.levels, compare_paths(path, rival) if rival else (), strict=False):  # fmt: skip
        level["to_reference"] = [found[f"difference{end}"] for end in _ENDS]
    return path


def _classes(table: Table) -> dict[int, Any] | None:
    """Return the numbers of the rows of each class, those of most rows; None where rows have no classes."""  # fmt: skip
    labels = table.statistics.labels
    if labels is None or (labels < 0).any() or not KINDS[table.kind].answers_class:
        return None
    order = np.argsort(-np.bincount(labels), kind="stable")[: min(_CLASSES, len(np.unique(labels)))]
    return {c: np.flatnonzero(labels == c) for c in order.tolist()}


# --- the explorer -----------------------------------------------------------------------------


def _explorer(
    frontier: Frontier, table: Table, data: ExitData, budgets: Sequence[float]
) -> dict[str, Any]:
    """Return the explorer but for its methods."""
    classes, exits, bound = _classes(table), frontier.exits, [one["quality"] for one in frontier.bound]  # fmt: skip
    best = quality_fields(table.quality[:, -1], None, table.graded, group=table.group)
    points = np.array([(one["cost"], one["quality"]) for one in exits])
    hull = points[upper_hull(points)]
    hull = hull[: hull[:, 1].argmax() + 1]
    return {
        "unit": table.unit, "word": _word(table), "rows": len(table), "per": "request" if table.cascade else "sample",
        "exits": [{"name": printable(one.get("name", f"exit {one['exit']}")), "cost": one["cost"], "quality": one["quality"]}
                  for one in exits],
        "cascade": table.cascade, "full": {"cost": exits[-1]["cost"], "quality": [best[f"quality{end}"] for end in _ENDS]},
        "classes": None if classes is None else {
            "names": [_class_name(c, data) for c in classes], "rows": [len(rows) for rows in classes.values()],
            "dropped": len(np.unique(table.statistics.labels)) - len(classes),  # type: ignore[arg-type]
        },
        "bound": bound if len(bound) == len(budgets) else None,
        "singles": [float(np.interp(b, *hull.T)) if b >= hull[0, 0] * (1 - 1e-9) else None for b in budgets],
    }  # fmt: skip


def _packed(entries: Sequence[_Entry]) -> str:
    """Cut policies' files into pieces, give levels the numbers of theirs, and return the pieces."""
    pieces = dict[str, int]()
    for policy, level in ((p, one) for e in entries for p, one in zip(e.policies, e.levels, strict=True)):  # fmt: skip
        level["file"] = [pieces.setdefault(text, len(pieces)) for text in _PIECE.split(policy.file_text())]  # fmt: skip
    told = json.dumps(list(pieces), ensure_ascii=False, separators=(",", ":")).encode()
    return b64encode(gzip.compress(told, 9, mtime=0)).decode()


def _word(table: Table) -> str:
    return "quality" if table.graded else "accuracy"


def _class_name(number: int, data: ExitData) -> str:
    named = data.metadata.get("class_names", data.metadata.get("classes"))
    known = isinstance(named, list) and number < len(named)
    return printable(str(named[number])) if known else f"class {number}"


def _verdict(frontier: Frontier) -> dict[str, Any]:
    """Return the verdict over every tenth budget: as many as people look at, and its correction is for."""  # fmt: skip
    from policyopt._verdict import verdict

    few = [i % _STEP == 0 for _, _, i in frontier.fitted]
    found = verdict(replace(
        frontier, records=[one for one, keep in zip(frontier.records, few, strict=True) if keep],
        fitted={key: fitted for key, fitted in frontier.fitted.items() if key[2] % _STEP == 0},
    ))  # fmt: skip
    return {"pays": found.pays, "headline": found.headline, "sentences": list(found.sentences)}


# --- panels -----------------------------------------------------------------------------------


def _data_panel(tables: Tables) -> dict[str, Any]:
    """Return what the cache holds, split by split."""
    data, rows, table = tables.data, [], tables.get("fit")
    for split in data.split_names:
        of = tables.get(split)
        known = known_rows(of)
        worth = known.quality.mean(axis=0).tolist() if known.labelled else [None] * data.exits
        rows.append({"split": split, "rows": len(of), "labelled": int(of.valued.sum()), "worth": worth,
                     "groups": None if of.group is None else of.units})  # fmt: skip
    told = "; ".join(f"{one['split']} {one['rows']:,}" for one in rows)
    columns: dict[str, Any] = {of: ("number", of, 0) for of in ("rows", "labelled", "groups")}
    for k in range(data.exits):
        columns[f"{_word(table)} at {data.called(k)} %"] = ("percent", lambda r, k=k: r["worth"][k])
    return draw.panel("data", {"rows": told}, table=draw.table(rows, {"split": ("text", "split"), **columns}))  # fmt: skip


def _panels(
    order: Sequence[_Entry], frontier: Frontier, rival: str, table: Table, budgets: Sequence[float]
) -> list[dict[str, Any]]:
    """Return curves of all methods, those that promise most first, gains over the rival, and a table at some budgets."""
    rows = [entry.row(one) for entry in order for one in sorted(entry.levels, key=lambda one: one["cost"][0])]  # fmt: skip
    across, word, full = f"realised cost [{table.unit}]", _word(table), frontier.exits[-1]["cost"]
    curves = draw.chart(rows, "cost", "quality", across, word, by="method", yaxis={"tickformat": ".1%"})  # fmt: skip
    for of, x, called, look in (
        (frontier.exits, "cost", "one exit for all", {"mode": "markers"}),
        (
            frontier.bound,
            "budget",
            "bound in hindsight",
            {"line": {"color": draw.GREY, "dash": "dot"}},
        ),
    ):
        curves["data"].append(
            draw.line(
                [one[x] for one in of], [one["quality"] for one in of], called, draw.GREY, **look
            )
        )
    views = [["Frontier", curves]]
    if gains := [one for one in rows if one["to_reference"] is not None]:
        up = f"gain over {rival} at equal cost"
        views.append(
            [
                f"Gain over {rival}",
                draw.chart(
                    gains,
                    "cost",
                    "to_reference",
                    across,
                    up,
                    by="method",
                    yaxis={"tickformat": "+.1%"},
                ),
            ]
        )
    facts = {"word": word, "unit": table.unit, "rival": rival, "split": table.split, "best": order[0].title}  # fmt: skip
    facts["methods"] = ", ".join(entry.title for entry in order)
    places = [(i, entry) for i in range(0, len(budgets), _STEP) for entry in order if entry.at[i] >= 0]  # fmt: skip
    some = [entry.row(entry.levels[entry.at[i]]) for i, entry in places]
    some = [{**one, "saved": 1 - one["cost"] / full} for one in some]
    return [
        draw.panel("frontier", facts, views=views),
        draw.panel("methods", facts, some, {"budget": [budgets[i] for i, _ in places]}),
    ]


def _policy_panels(
    entry: _Entry,
    rival: _Entry,
    start: int,
    table: Table,
    tables: Tables,
    samples: Any,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Return what the policy that is shown first does, beside the rival's, its confidence and costs."""  # fmt: skip
    policy, place = entry.policies[entry.at[start]], rival.at[start]
    if isinstance(policy, RoutingPolicy):
        return [*draw.routes_panels(explain_routing(policy, table)), _costs_panel(policy, table)]
    other = rival.policies[place] if place >= 0 and entry is not rival else None
    numbers = np.flatnonzero(tables.get(table.split).valued)  # samples are those of all rows of the split  # fmt: skip
    panels = list[dict[str, Any]]()
    try:
        found = explain(policy, table, other if isinstance(other, Policy) else None, tables.data.names)  # fmt: skip
        classes = [_class_name(c, tables.data) for c in range(table.classes)]
        panels += draw.explanation_panels(found, classes, samples and (lambda row: samples(int(numbers[row]))))  # fmt: skip
        notes += getattr(samples, "notes", [])
        seen = observe(table.built_for(policy), policy.answer)
        of = seen.confidence, seen.correct, found.found.exit
        told = calibration_records("none", *of, seen.losses, policy.active_exits, table.group)
        panels += draw.calibration_panels(told, {"none": of}, table.group)
    except InputError as error:  # of a policy per context, or graded answers
        notes.append(f"less is told of {entry.label}: {error}")
    return [*panels, _costs_panel(policy, table)]


def _costs_panel(policy: Any, table: Table) -> dict[str, Any]:
    """Return what each exit costs by itself and up to there, its head, and the policy's own arithmetic."""  # fmt: skip
    whole, heads = table.mean_costs.tolist(), table.heads
    own = dict(zip(policy.active_exits, policy.overhead.tolist(), strict=True)) if isinstance(policy, Policy) else {}  # fmt: skip
    rows = [
        {"exit": draw.numbered({"exit": k, "name": (table.names or [""] * table.exits)[k]}), "alone": alone,
         "whole": whole[k], "head": None if heads is None else float(heads[k]), "own": own.get(k)}
        for k, alone in enumerate(np.diff(whole, prepend=0.0).tolist())
    ]  # fmt: skip
    told = "; ".join(f"{row['exit']} {row['alone']:.4g} {table.unit}" for row in rows)
    figure = draw.chart(rows, "exit", "alone", "exit", f"cost [{table.unit}]", kind="bars")
    return draw.panel("costs", {"costs": told, "unit": table.unit}, rows, figure=figure)
