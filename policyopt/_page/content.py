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
from types import SimpleNamespace
from typing import Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._frontier import (
    Frontier,
    Path,
    compare,
    compare_paths,
    curve,
    exit_means,
    summary,
    threshold_fields,
)
from policyopt._intervals import mean_interval, quality_fields
from policyopt._methods.base import cheapest
from policyopt._methods.registry import ROWS, make_method, method_list, spec_of
from policyopt._optional import need
from policyopt._page import panels as draw
from policyopt._page.page import render
from policyopt._page.results import explanation_content, places_in_cache
from policyopt._page.results import page as blank
from policyopt._progress import stage, working
from policyopt._replay import replay
from policyopt._report.explanation import Explanation, change_record, explain_rows
from policyopt._report.routes import explain_routing, tree_of
from policyopt._table import Table, Tables, known_rows, tables_of
from policyopt._thresholds.joint import upper_hull
from policyopt._verdict import verdict
from policyopt.runtime._certificate import FIELD, certificate_of, fingerprint, in_words
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._files import write_file
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import policy_of
from policyopt.runtime._text import printable
from policyopt.runtime._thresholds import threshold_text

# fmt: off
#: Budgets of the explorer, evenly from the cheapest exit to the full model; every tenth is in verdict and tables.
BUDGETS, _STEP = 101, 10
REFERENCE, CERTIFIED = "max_prob", "certified "
#: What is shown where nothing is named: simple rules, the best thresholds, and the choice among all.
_USUAL = ("always", "margin", "entropy", "patience", "max_prob:thresholds=joint", "optimal_stopping", "auto")
_CASCADE = ("always", "margin", "subset", "optimal_stopping", "routing", "auto")
_CLASSES, _RARE, _ENDS = 30, 0.01, ("", "_low", "_high")
_PIECE = re.compile(r'^(?= {1,4}")', re.MULTILINE)  # where a policy's file is cut: at its outer keys


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
        told = [self.content["title"], said["headline"], *said["sentences"], "page.save('report.html')"]
        return "".join(f"<p>{draw.name(text, 4000)}</p>" for text in told)


@working("making the page")
def report(
    data: ExitData, methods: Any = None, *, out: Any = None, cost: str | None = None, utility: Any = None,
    head_cost: Any = None, tables: Tables | None = None, **how: Any,
) -> Page:
    """Make a page about a cache: verdict, policies at all budgets to slide through, and what they do.

    Parameters
    ----------
    data, methods, cost, utility, head_cost, tables : as `curve` takes them
        `max_prob`, which others are held against, is added. Default: simple rules and `auto`; with `policies`, none.
    out : str or path, optional
        Where to write the page.
    **how
        ``policies``, by name: policies, families, or what fits returned, shown, too. ``test``, rows that all is told
        of. ``samples``, a function of a row's number (in the split; of a pool, in all of it) to its ``text`` or
        ``image`` (data URI). ``panels``, more of them. ``title``; ``command``, which made the page; ``fits``, which
        fits a policy, up to its budget.

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
    found = content(tables_of(data, cost, tables, utility, head_cost), methods, **how)
    page = Page(found, render(found))
    if out is not None:
        page.save(out)
    return page


def with_reference(methods: Any, table: Table, given: bool = False) -> dict[str, Any]:
    """Return methods by label, the reference first, where it is possible; by default all that the rows allow."""
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
) -> dict[str, Any]:
    """Return what the page shows, JSON-able; see `report`."""
    data, whole, fit_rows, cost = tables.data, tables.get(test), tables.get("fit"), tables.cost
    of, spared = ("models" if whole.cascade else "exits", "saves its head" if whole.heads is not None else "is paid")
    facts = {
        "Cache": data.fingerprint, "Outputs": f"{data.kind}, {data.classes or 'unknown'} {KINDS[data.kind].counted}",
        "Cost": f"{cost.name} [{cost.unit}] per {'sample' if cost.per_sample else 'exit'}",
        "An exit that is skipped": "is free" if whole.cascade else spared,
        "Rows": f"a pool, divided by seed {data.split_seed}" if data.pooled else "in splits as they came",
        "Fitted on": "fit, seed 0", "Judged on": test, "Utility": tables.utility.digest if tables.utility else "none",
    }
    some = "" if whole.labelled else f", {int(whole.valued.sum()):,} labelled"
    told = f"{len(whole):,} rows of {test}{some}, {whole.exits} {of}, costs in {cost.unit}"
    page = blank("cache", title or "Early exits", told, [_data_panel(tables)], **facts)
    page["made"]["command"], notes = command, page["notes"]
    table = known_rows(whole, notes)
    if not table.labelled:
        notes.append(f"no row of {test} has a label: no quality, no policies are shown. --test names other rows")
        page["panels"] += panels
        return page
    table = table if whole.labelled else replace(table, split=f"{test}[labelled]")
    chosen, budgets = with_reference(methods, fit_rows, bool(policies)), _grid(fit_rows)
    named = {f"{name} (given)" if name in chosen else name: one for name, one in (policies or {}).items()}
    given = [_given(name, one, whole, fits) for name, one in named.items()]
    notes += [
        f"{entry.label} was fitted on another cache: its budget may not hold" for entry in given
        if entry.policies[0].provenance.get("cache") not in (None, whole.cache)
    ]
    if test in ("fit", "calibrate"):
        notes.append(f"rows of split {test} had a part in fits or certificates: what they show is flattered")
    stops = [level["budget"] for entry in given for level in entry.levels]
    looked = budgets[::_STEP]
    budgets = sorted({*budgets, *(stop for stop in stops if budgets[0] < stop < budgets[-1])})
    for entry in given:
        asked = np.maximum.accumulate([min(level["budget"], budgets[-1]) for level in entry.levels])
        entry.at = (np.searchsorted(asked, np.array(budgets) * (1 + 1e-9), side="right") - 1).tolist()
    frontier = curve(data, chosen, budgets, test=test, tables=tables)
    few = _thinned(frontier, [budgets.index(one) for one in looked])
    said = {n.partition(" left out at ")[0]: n for n in frontier.notes}
    found = verdict(few)
    notes += [one for one in dict.fromkeys([*said.values(), *found.notes]) if one not in notes]
    entries = [_fitted(frontier, label, method, fits, len(budgets)) for label, method in chosen.items()]
    entries = [entry for entry in [*entries, *given] if entry.levels]
    rival = next((entry for entry in entries if entry.label == REFERENCE), entries[0])
    if rival.label != REFERENCE:
        notes.append(f"{REFERENCE} cannot be fitted here: differences are to {rival.label}")
    path = _measure(rival, whole, None)
    for i, entry in enumerate(others := [entry for entry in entries if entry is not rival]):
        with stage(i, len(others), f"comparing {entry.label}"):
            _measure(entry, whole, path)
    order = sorted(entries, key=lambda entry: -entry.promise)
    first = given[0] if given else next((entry for entry in entries if entry.label == "auto"), order[0])
    full = fit_rows.mean_costs[-1]  # begin at 40 % of it, or half of the way
    most = 0.4 * full if budgets[0] < 0.4 * full else (full + budgets[0]) / 2
    met = [i for i, j in enumerate(first.at) if j >= 0]
    start = max([i for i in met if budgets[i] <= most], default=met[0])
    page["verdict"] = {"pays": found.pays, "headline": found.headline, "sentences": [*found.sentences]}
    if given:
        if first.levels[0]["certificate"] or not first.levels[1:]:
            start = met[0]
        page["verdict"] = _given_first(first, first.at[start], whole, page["verdict"])
    shown = {*looked, *(entry.levels[0]["budget"] for entry in given)}
    chunks, fields = _packed(entries), ("label", "title", "about", "command", "at", "levels")
    page["explorer"] = {
        **_explorer(frontier, table, budgets), "rows": len(whole), "labelled": len(table), "start": start,
        "split": test, "reference": rival.label, "chosen": first.label,
        "methods": [{of: getattr(entry, of) for of in fields} for entry in entries],
        "budgets": budgets, "chunks": chunks,
    }
    ranks = compare(few, rival.label).ranking if len(chosen) > 1 and rival.label in chosen else []
    page["panels"] += [
        *_panels(order, frontier, rival.label, table, {i: b for i, b in enumerate(budgets) if b in shown}, ranks),
        *_policy_panels(first, rival, start, table, fit_rows, samples, notes), *panels,
    ]
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
    """A method or policy file: levels of rising budgets as the page has them, their policies, the level per budget."""

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
        """Mean quality that its fits state, over all budgets: 0 at those that it cannot meet."""
        stated = [self.levels[j]["expected_quality"][0] if j >= 0 else 0.0 for j in self.at]
        return float(np.mean([one or 0.0 for one in stated]))

    def add(self, policy: Any, budget: Any, record: Mapping[str, Any]) -> None:
        """Add a level: what its fit states, and what rows say, all but what `_measure` finds."""
        told, known = policy.provenance, certificate_of(policy)
        own = threshold_fields(policy) if isinstance(policy, Policy) else {}
        mixture, one = own.get("mixture"), own.get("thresholds")
        sets = mixture["thresholds"] if mixture else one and [one]
        void = "void: the policy was changed since" if FIELD in told else None
        level = {"budget": budget, "exit_share": record["exit_share"], "share": mixture and mixture["share"]}
        level["certificate"] = void if known is None else in_words(known)
        for name, of in (("cost", "realised_cost"), ("quality", "quality")):
            ends = told.get(f"expected_{name}_95")  # a file may say anything
            ends = ends if isinstance(ends, list) and len(ends) == 2 else [None] * 2
            level[f"expected_{name}"] = [*map(_number, [told.get(f"expected_{name}"), *ends])]
            level[name] = [record[of + end] for end in _ENDS]
        level["thresholds"] = sets and [[*map(threshold_text, one)] for one in sets]
        self.levels.append(level)
        self.policies.append(policy)

    def row(self, level: dict[str, Any]) -> dict[str, Any]:
        """Return a level as a record with intervals."""
        parts = {of: level[of] or [None] * 3 for of in ("cost", "quality", "to_full", "to_reference")}
        named = {of + end: part[i] for of, part in parts.items() for i, end in enumerate(_ENDS)}
        return {"method": self.title, **named}


def _fitted(frontier: Frontier, label: str, method: Any, fits: str, count: int) -> _Entry:
    """Return a method of a frontier: budgets that share a policy, and what is stated of it, are one level."""
    row, spec = ROWS.get(method.name), spec_of(method) if method.name in ROWS else label
    about = f"Leaves where {row.summary}. {row.wins}" if row else ""
    command = [f"{fits} --budget ", f" --method {shlex.quote(spec)} --out {method.name}.json"]
    entry, places = _Entry(label, about, command, [-1] * count), dict[str, int]()
    for ((name, _, i), fitted), record in zip(frontier.fitted.items(), frontier.records, strict=True):
        if name == label:
            policy, stated = fitted.policy, fitted.policy.provenance
            same = [stated.get(of) for of in ("expected_cost", "expected_quality", "chosen")]
            entry.at[i] = places.setdefault(f"{fingerprint(policy)} {same}", len(places))
            if entry.at[i] == len(entry.levels):
                entry.add(policy, fitted.budget, record)
    return entry


def _given(name: str, given: Any, table: Table, fits: str) -> _Entry:
    """Return a policy, or the levels of a family, by what they were fitted for."""
    given = policy_of(given, argument="policies", routes=True)
    family = isinstance(given, PolicyFamily)
    command = fits.replace("policyopt fit", f"policyopt evaluate {shlex.quote(name)}")
    told = [f"{command} --level ", ""] if family else [command]
    if name != (risk := name.removeprefix(CERTIFIED)):
        told = [f"{fits.replace('policyopt fit', 'policyopt certify')} --risk {shlex.quote(risk)} --out certified.json"]
    entry = _Entry(name, "As it was given.", told)
    for j, policy in enumerate(given.policies if family else [given]):
        record = summary(replay(policy, table), policy)
        least = [one[j] for one in (given.budgets, given.expected_costs) if one is not None] if family else []
        stated = [_number(policy.provenance.get(of)) for of in ("budget", "expected_cost")]
        own = [float(min(least))] if least else stated
        entry.add(policy, next((one for one in own if one is not None), record["realised_cost"]), record)
        if (known := certificate_of(policy)) and (of := known["cache"]) != table.cache:
            entry.levels[-1]["certificate"] = f"of another cache ({of[:12]}), and says nothing of these rows"
    return entry


def _given_first(entry: _Entry, at: int, whole: Table, cache: Mapping[str, Any]) -> dict[str, Any]:
    """Return the verdict of a policy that was given, that of the cache behind it."""
    level, known, against = entry.levels[at], certificate_of(entry.policies[at]), _full_name(whole)
    gap, cost = [f"{100 * one:+.2f}" for one in level["to_full"]], level["cost"][0]
    full = exit_means(whole)[0][-1]
    way = "less" if cost <= full else "more"
    told = f"{cost:.4g} {whole.unit}, {draw.percent(abs(1 - cost / full))} {way} than {against}"
    some = "" if whole.labelled else f", {int(whole.valued.sum()):,} labelled"
    words = f"On {len(whole):,} rows of {whole.split}{some}, it costs {told} ({full:.4g}), with {_word(whole)} "
    words += f"{draw.percent(level['quality'][0], 2)}: {gap[0]} [{gap[1]}, {gap[2]}] points to {against}."
    who = "The cheapest certified level" if entry.label.startswith(CERTIFIED) else entry.label
    headline, badge, kept = f"{who}: {told}.", "As given", None
    if known and known["cache"] == whole.cache:
        claim, sure = re.sub(r"\s*(<=|%)", r" \1", known["claim"]), in_words(known).partition(":")[0]
        headline = f"{who} keeps {claim.replace('<=', '<= ')} {sure}"
        headline, badge, kept = f"{headline}: certified on {known['n']:,} rows of {known['split']}.", "Certified", True
    elif level["certificate"]:
        headline, badge, kept = f"The certificate of {entry.label} is {level['certificate']}.", "Not certified", False
    said = [words, f"Of the cache: {cache['headline']}", *cache["sentences"]]
    return {"badge": badge, "pays": kept, "headline": headline, "sentences": said}


def _full_name(table: Table) -> str:
    last = table.names[-1] if table.names else "the last model"
    return f"{last} alone" if table.cascade else "the full model"


def _number(value: Any) -> float | None:
    """Return a number of a provenance, which may hold anything: None for what is none."""
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _measure(entry: _Entry, whole: Table, rival: Path | None) -> Path:
    """Add to levels what rows tell of them, also beside the full model and the rival; return their path."""
    table, known = known_rows(whole), np.flatnonzero(whole.valued)
    worth, classes = table.quality, _classes(table)
    paid, earned = [np.broadcast_to(table.costs, worth.shape)[:, 0]], [worth[:, 0]]
    for policy, level in zip(entry.policies, entry.levels, strict=True):
        every = replay(policy, whole)  # of whose coins rows without a label have some
        outcome = every.take(known)
        paid.append(outcome.cost)
        earned.append(outcome.quality)
        gain = mean_interval(outcome.quality - worth[:, -1], span=1.0, group=table.group)
        level |= {"to_full": list(gain[:3]), "to_reference": None, "by_class": None, "ways": None}
        if classes is not None:
            exits = (outcome.exit[rows] for rows in classes.values())
            left = [np.bincount(one, minlength=outcome.exits) / len(one) for one in exits]
            level["by_class"] = np.round(left, 4).tolist()
        if every.turn is not None:
            level["ways"] = [{"path": way, "share": one["share"], "stop": one["stop"]}
                             for way, one in tree_of(every).items() if one["share"] >= _RARE]
    path = Path(np.stack(paid, axis=1), np.stack(earned, axis=1), table.graded, table.group)
    gains = compare_paths(path, rival) if rival else ()
    for level, found in zip(entry.levels, gains, strict=False):
        level["to_reference"] = [found[f"difference{end}"] for end in _ENDS]
    return path


def _classes(table: Table) -> dict[int, Any] | None:
    """Return the numbers of the rows of each class, those of most rows; None where rows have no classes."""
    labels = table.statistics.labels
    if labels is None or (labels < 0).any() or not KINDS[table.kind].answers_class:
        return None
    order = np.argsort(-np.bincount(labels), kind="stable")[: min(_CLASSES, len(np.unique(labels)))]
    return {c: np.flatnonzero(labels == c) for c in order.tolist()}


# --- the explorer -----------------------------------------------------------------------------


def _explorer(frontier: Frontier, table: Table, budgets: Sequence[float]) -> dict[str, Any]:
    """Return the explorer but for its methods."""
    classes, exits, rows = _classes(table), frontier.exits, table.statistics.labels
    best = quality_fields(table.quality[:, -1], None, table.graded, group=table.group)
    points = np.array([(one["cost"], one["quality"]) for one in exits])
    hull, named = points[upper_hull(points)], dict(enumerate(map(printable, table.class_names)))
    x, y = hull[: hull[:, 1].argmax() + 1].T
    bound = [one["quality"] for one in frontier.bound]
    shown: dict[str, Any] = {
        "unit": table.unit, "word": _word(table), "cascade": table.cascade, "classes": None,
        "exits": [
            {"name": printable(one.get("name", f"exit {one['exit']}")), "cost": one["cost"], "quality": one["quality"]}
            for one in exits
        ],
        "per": "request" if table.cascade else "sample", "bound": bound if len(bound) == len(budgets) else None,
        "full": {"cost": exits[-1]["cost"], "quality": [best[f"quality{end}"] for end in _ENDS]},
        "singles": [float(np.interp(b, x, y)) if b >= x[0] * (1 - 1e-9) else None for b in budgets],
    }
    if classes is not None and rows is not None:
        sizes, dropped = [*map(len, classes.values())], len(np.unique(rows)) - len(classes)
        names = [named.get(c, f"class {c}") for c in classes]
        shown["classes"] = {"names": names, "rows": sizes, "dropped": dropped}
    return shown


def _packed(entries: Sequence[_Entry]) -> str:
    """Cut policies' files into pieces, give levels the numbers of theirs, and return the pieces."""
    pieces = dict[str, int]()
    for entry in entries:
        for policy, level in zip(entry.policies, entry.levels, strict=True):
            cut = _PIECE.split(policy.file_text())
            level["file"] = [pieces.setdefault(piece, len(pieces)) for piece in cut]
    told = json.dumps(list(pieces), ensure_ascii=False, separators=(",", ":")).encode()
    return b64encode(gzip.compress(told, 9, mtime=0)).decode()


def _word(table: Table) -> str:
    return "quality" if table.graded else "accuracy"


def _thinned(frontier: Frontier, places: Sequence[int]) -> Frontier:
    """Return some budgets: as many as people look at, and corrections are for."""
    pairs = zip(frontier.fitted, frontier.records, strict=True)
    kept = {key: record for key, record in pairs if key[2] in places}
    fitted = {key: frontier.fitted[key] for key in kept}
    return replace(frontier, records=[*kept.values()], fitted=fitted)


# --- panels -----------------------------------------------------------------------------------


def _data_panel(tables: Tables) -> dict[str, Any]:
    """Return what the cache holds, split by split."""
    data, rows, table = tables.data, [], tables.get("fit")
    for split in data.split_names:
        of = tables.get(split)
        known = known_rows(of)
        worth = known.quality.mean(axis=0).tolist() if known.labelled else [None] * data.exits
        groups = None if of.group is None else of.units
        rows.append(
            {"split": split, "rows": len(of), "labelled": int(of.valued.sum()), "worth": worth, "groups": groups}
        )
    told = "; ".join(f"{one['split']} {one['rows']:,}" for one in rows)
    columns: dict[str, Any] = {"split": ("text", "split")}
    columns |= {of: ("number", of, 0) for of in ("rows", "labelled", "groups")}
    for k in range(data.exits):
        columns[f"exit {data.called(k)} %"] = ("percent", lambda r, k=k: r["worth"][k])
    return draw.panel("data", {"rows": told, "word": _word(table)}, table=draw.table(rows, columns))


def _panels(
    order: Sequence[_Entry], frontier: Frontier, rival: str, table: Table, budgets: Mapping[int, float], ranks: Any
) -> list[dict[str, Any]]:
    """Return curves, those that promise most first, with gains over the rival; and all methods at some budgets."""
    rows = [entry.row(one) for entry in order for one in sorted(entry.levels, key=lambda one: one["cost"])]
    facts = {"word": _word(table), "unit": table.unit, "rival": rival, "split": table.split.removesuffix("[labelled]")}
    facts |= {"best": order[0].title, "methods": ", ".join(entry.title for entry in order)}
    curves = draw.panel("frontier", facts, rows=rows)
    drawn, dashes = curves["figure"] or curves["views"][0][1], {"color": draw.GREY, "dash": "dash"}
    for of, x, called, look in (
        (frontier.exits, "cost", "one exit for all", {"mode": "markers"}),
        (frontier.bound, "budget", "hindsight bound", {"line": dashes}),
    ):
        points = [one[x] for one in of], [one["quality"] for one in of]
        drawn["data"].append(draw.plain(draw.line(*points, called, draw.GREY, **look)))
    letters = {(one["budget"], one["method"]): one["group"] for one in ranks}
    full, some = frontier.exits[-1]["cost"], list[dict[str, Any]]()
    places = [(i, entry) for i in budgets for entry in order if entry.at[i] >= 0]
    for i, entry in places:
        own = entry.row(entry.levels[entry.at[i]])
        some.append({**own, "saved": 1 - own["cost"] / full, "equal": letters.get((budgets[i], entry.label))})
    return [curves, draw.panel("methods", facts, some, of={"budget": [budgets[i] for i, _ in places]})]


def _policy_panels(
    entry: _Entry, rival: _Entry, start: int, table: Table, fit_rows: Table, samples: Any, notes: list[str]
) -> list[dict[str, Any]]:
    """Return what the policy that is shown first does, beside the rival's, how sure it may be, and costs."""
    policy, place = entry.policies[entry.at[start]], rival.at[start]
    if not isinstance(policy, (Policy, RoutingPolicy)):
        notes.append(f"{entry.label} has a policy per context: `policyopt evaluate --by context` tells of each")
        return [_costs_panel(policy, table)]
    other, against = rival.policies[place] if place >= 0 and entry is not rival else None, rival.label
    if not isinstance(other, Policy):  # then beside the full model
        full = make_method(f"always:exit={table.exits - 1}").fit_path(known_rows(fit_rows), ["100%"])
        other, against = full[0].policy, _full_name(table)
    if isinstance(policy, RoutingPolicy):
        found: Any = explain_routing(policy, table)
        shown = explanation_content(found, "", table)
        shown["panels"].append(_changes_of(policy, other, against, table, samples))
    else:
        found = explain_rows(policy, table, other, table.names)
        found.record["reference"]["method"] = against
        shown = explanation_content(found, "", table, samples)
    if samples and not any(one["items"] for one in shown["panels"]):
        notes.append(f"no sample is shown: {entry.label} does with all rows as well as {against}")
    notes += [one for one in (*shown["notes"], *getattr(samples, "notes", ())) if one not in notes]
    return [*shown["panels"], _costs_panel(policy, table)]


def _changes_of(policy: RoutingPolicy, other: Policy, against: str, table: Table, samples: Any) -> dict[str, Any]:
    """Return the panel of rows that fare otherwise with a policy that routes."""
    labels, pair = table.statistics.labels, []
    for one in (replay(policy, table), replay(other, table)):
        more = {"model_exits": one.exits, "quality_taken": one.quality, "taken": one.prediction, "labels": labels}
        pair.append(SimpleNamespace(**vars(one), **more))
    changes, names = change_record(*pair), table.names or [""] * table.exits
    changes["exits"] = [{"exit": k, "name": name} for k, name in enumerate(names)]
    record = {"changes": changes, "reference": {"method": against}, "unit": table.unit}
    found = Explanation(record, policy, *pair)  # type: ignore[arg-type]
    return draw.changes_panel(found, record, table.class_names, samples, *places_in_cache(table))


def _costs_panel(policy: Any, table: Table) -> dict[str, Any]:
    """Return what each exit costs by itself and up to there, its head, and the policy's own arithmetic."""
    whole, heads = table.mean_costs.tolist(), table.heads
    spent = policy.overhead.tolist() if isinstance(policy, Policy) else []
    own = dict(zip(policy.active_exits, spent, strict=False)) if spent else {}
    rows = [
        {"exit": draw.numbered({"exit": k, "name": (table.names or [""] * table.exits)[k]}), "alone": alone,
         "whole": whole[k], "head": None if heads is None else float(heads[k]), "own": own.get(k)}
        for k, alone in enumerate(np.diff(whole, prepend=0.0).tolist())
    ]
    told = "; ".join(f"{row['exit']} {row['alone']:.4g} {table.unit}" for row in rows)
    return draw.panel("costs", {"costs": told, "unit": table.unit}, rows, rows)
