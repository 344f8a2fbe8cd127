"""Which model to deploy at a budget: frontiers of several caches, and what rows and training runs can tell.

Every model is a policy on its frontier, two neighbours mixed, at *equal realised cost* on rows that chose nothing. Its
quality there is linear in what a row brings, ``q - slope * (c - budget)``, cost priced by the frontier's own slope; so
differences of models have the standard error of a paired t-test where rows are shared, of an unpaired one where none
are, and of what lies between. Where a model was trained several times, the spread of its runs is added.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from hashlib import blake2b
from itertools import combinations, product, takewhile
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from policyopt import _engine
from policyopt._cache.arrays import from_arrays
from policyopt._cache.data import GROUP, POOL, ExitData, Rows
from policyopt._cache.manifest import CACHE, MANIFEST, UNFINISHED
from policyopt._cache.reader import open_cache
from policyopt._costs import Cost, parse_budgets, positions
from policyopt._frontier import Frontier, curve, path_through, split_for_seed, values_at
from policyopt._intervals import wilson, with_interval, worth_fields
from policyopt._limits import NEAR
from policyopt._methods.registry import here_only, make_method, method_list, own_among
from policyopt._parts import share_rows
from policyopt._progress import progress, working
from policyopt._study.exits import ExitMetrics, exit_metrics
from policyopt._study.runs import compare_runs, less_is_better
from policyopt._study.streams import TRAIN
from policyopt._table import Table, Tables, known_rows
from policyopt._tables import caption, paper_table
from policyopt._testing import holm, letters
from policyopt.runtime._checks import check_type, check_whole
from policyopt.runtime._errors import BudgetError, InputError, input_error, message
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Floats, Ints

#: Own budgets of a model in whose range too few of those in common lie.
_OWN = 3
#: What the chain of all models is called.
JOINED = "all joined"
#: Labels, and changes of label from row to row, from which on the same order is no chance.
_TELLING = 30
#: Runs of a model from which on tests over runs find more than large differences.
_RUNS = 5
#: Differences of means that are rounding.
_ROUNDING = 1e-12
#: A last part of a name that tells runs of one model apart: 0, seed1, run-2.
_RUN = re.compile(r"(?:seed|run|fold|rep|s|r)?[-_]?\d{1,6}", re.IGNORECASE)


@dataclass(frozen=True, eq=False, repr=False)
class Study(Shown):
    """What `study` found: records, as there, of models, runs and budgets."""

    models: list[dict[str, Any]]
    budgets: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    points: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    unit: str
    confidence: float
    graded: bool = False
    notes: list[str] = field(default_factory=list)

    def table(self, style: str = "latex") -> str:
        """Return models by budgets for a paper, best first, as ``"latex"``, ``"markdown"`` or ``"csv"``."""
        columns: dict[str, Any] = {}
        for one in self.budgets:
            marks = dict.fromkeys(one["contenders"], 1) | {one["best"]: 2}
            cells = {name: (worth, marks.get(name, 0)) for name, worth in one["quality"].items()}
            columns[f"{one['budget']:.4g}"] = cells
        columns["group"] = {one["model"]: one["group"] or "-" for one in self.models}
        told = caption(self.graded, self.unit, self.confidence, "t of rows and runs, Holm")
        return paper_table(style, "model", [one["model"] for one in self.models], columns, told)


@dataclass(frozen=True, eq=False)
class _Entry:
    """One training run of one model, or the chain of all, and what policies it gets."""

    model: str
    run: str
    data: ExitData
    costs: Floats  # (K,), mean and cumulative
    spec: str = ""
    entrant: str = ""  # the model, and the policy where there are several
    universe: Any = None  # of caches that are known to have the same rows


@dataclass(frozen=True, eq=False)
class _Ran:
    """What one entry's policies did: what each row brings at every budget, (N, B)."""

    head: dict[str, str]  # entrant and run
    model: str
    value: Floats
    row: Ints  # (N,): the same number is the same row, or group of rows, in all entries of one universe
    universe: Any  # entries of another share no rows
    ends: Floats  # (2,): the full model's mean cost and quality
    paid: Floats  # (B,): realised cost at each budget, NaN where it is too little
    points: list[dict[str, Any]]
    by_exit: ExitMetrics
    graded: bool
    notes: list[str]


@working("studying")
def study(
    caches: Mapping[str, Any],
    budgets: int | str | Sequence[float | str] = 9,
    method: str = "auto",
    *,
    seeds: int = 1,
    test: str = "test",
    cost: str | None = None,
    utility: Any = None,
    confidence: float | str = 0.95,
    paired: bool = False,
    join: bool = True,
) -> Study:
    """Ask of several models, trained or built differently, which one to deploy at a budget.

    Parameters
    ----------
    caches : mapping of str to ExitData, path, or sequence of these
        By name. ``"name/run"``, or several caches under one name: training runs of one model.
    budgets : int, str or sequence
        Costs at which models are compared, shares are of the dearest full model's. A number of them: evenly spaced in
        the logarithm between the cheapest first exit and the dearest full model.
    method : str
        Spec of the policy that each model gets, or several, comma-separated: each makes an entrant of its own.
    seeds, test, cost, utility
        As `curve` takes them; the cost must be of one unit in all caches. Divisions of pools are no training runs.
    confidence : float or str
        Of intervals and winners, 0.95 or ``"95%"``.
    paired : bool
        State that rows stand in the same order in all caches, where neither groups nor labels can tell.
    join : bool
        Whether the full models, cheapest first, are tried as one cascade, too.

    Returns
    -------
    Study
        Its lists of plain records:

        - ``models``: runs, the full model's cost and quality, ``area``: mean height of the frontier over the budgets
          that all models with early exits can keep, with interval, and rank by it;
        - ``budgets``: every model's quality and cost at it, the best, its lead over the next with interval, ``winner``
          where it is shown to be the best, and ``contenders``, among whom the best is;
        - ``pairs`` of models: mean difference over the budgets that both can keep, its interval, p and Holm's p;
        - ``tests`` over training runs per metric, see `compare_runs`;
        - ``points`` per model, run and budget, as `curve` has them; ``exits``, as `exit_metrics` has them.

    Raises
    ------
    InputError
        Fewer than two models, costs of different units, or no labels.
    BudgetError
        A budget below what every model costs at least.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 2000)
    >>> noise = rng.normal(size=(2000, 2, 3))
    >>> def model(strength):
    ...     logits = noise + strength * np.eye(3)[labels][:, None] * [[1], [2]]
    ...     return po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = po.study(
    ...     {"weak": model(1.0), "strong": model(1.6)}, "40%,80%", "max_prob", join=False
    ... )
    >>> [row["winner"] for row in found.budgets], found.pairs[0]["paired"]
    (['strong', 'strong'], True)
    """
    from policyopt._bounds import delta_of  # which loads scipy

    check_whole("seeds", seeds, step="E.g. --seeds 5.")
    delta, methods = delta_of(confidence), list(dict.fromkeys(method_list(method)))
    for spec in methods:
        make_method(spec)
    entries, notes = _entries(caches, cost), list[str]()
    asked = _asked(budgets, entries, cost, notes)
    entries = _same_rows(entries, test, paired)
    if join:
        try:
            chain, told = _chain(entries, cost, test)
        except InputError as error:
            chain, told = [], f"not joined as one cascade: {error}"
        entries, notes = [*entries, *chain], [*notes, told]
    tasks = []
    for entry, spec in product(entries, methods):
        entrant = f"{entry.model}: {spec}" if len(methods) > 1 else entry.model
        tasks.append(replace(entry, entrant=entrant, spec=spec))
    work = partial(_run, asked=asked, test=test, seeds=seeds, cost=cost, utility=utility)
    named, told = [f"{task.entrant}/{task.run}" for task in tasks], dict[str, dict[str, None]]()
    with here_only(own_among({spec: make_method(spec) for spec in methods}), notes):
        ran = list(_engine.run(work, tasks, named))
    for task, one in zip(tasks, ran, strict=True):
        for text in one.notes:
            told.setdefault(text, {})[task.entrant] = None
    for text, (first, *others) in told.items():
        notes.append(f"{first}{f' and {len(others)} more' if others else ''}: {text}")
    if other := dict.fromkeys(one.model for one in ran if one.universe != ran[0].universe):
        why = "groups or labels do not tell that they are the same; --paired states it"
        notes.append(f"{', '.join(other)}: other rows than those of {ran[0].model}, or {why}")
    heights = _heights(ran, delta)
    pairs = _pairs(heights)
    return Study(
        models=_models(heights, pairs),
        budgets=_budgets(heights, asked, notes),
        pairs=pairs,
        tests=_over_runs(heights, notes),
        points=[{**one.head, **point} for one in ran for point in one.points],
        exits=[
            {**one.head, "model": one.model, **e}
            for one in ran[:: len(methods)]
            for e in one.by_exit.exits
        ],
        unit=entries[0].data.cost(cost).unit,
        confidence=1 - delta,
        graded=any(one.graded for one in ran),
        notes=notes,
    )


# --- what is compared ---------------------------------------------------------------------------


def named_caches(paths: Sequence[str | Path], tell: Callable[[str], Any] = str) -> dict[str, Path]:
    """Return caches by name: of ``NAME=PATH``, or of paths, those in folders of caches too; ``name/run`` of runs.

    Names are what is left of the paths after what all have in common; a last part that is a number is a run.
    """
    found, plain = list[tuple[str, Path]](), list[Path]()
    for text in map(str, paths):
        name, mark, path = text.partition("=")
        if mark and not Path(text).exists():
            found.append((name, Path(path)))
        else:
            plain += _caches_in(Path(text), tell)
    parts = [Path(os.path.abspath(path)).parts for path in plain]  # noqa: PTH100 links keep their names
    levels = zip(*(of[:-1] for of in parts), strict=False)
    shared = len(list(takewhile(lambda names: len(set(names)) == 1, levels)))
    for path, of in zip(plain, parts, strict=True):
        *above, last = of[shared:]
        run = above and _RUN.fullmatch(last)
        found.append((f"{'-'.join(above)}/{last}" if run else "-".join(of[shared:]), path))
    named = dict(found)
    if twice := next((name for name, path in found if named[name] != path), None):
        step = "Name them: NAME=CACHE."
        raise input_error("CACHE", "each of a name of its own", f"{twice} twice", step)
    return named


def _caches_in(folder: Path, tell: Callable[[str], Any]) -> list[Path]:
    """Return the caches in a folder, or in a folder linked there, each once; tell what else has a manifest."""
    found = dict[Path, Path]()
    for top in (folder, *(at for at in sorted(folder.glob("*")) if at.is_symlink())):
        for at in sorted(top.rglob(MANIFEST)):
            if at.parent == folder or CACHE.format.encode() in at.read_bytes():
                found.setdefault(at.parent.resolve(), at.parent)
            else:
                tell(f"{at.parent} left out: its {MANIFEST} is not one of a cache")
    if folder.is_dir() and not found and not (folder / UNFINISHED).exists():
        step = "Give what `policyopt import` wrote, or a folder of such."
        raise input_error("CACHE", "a cache, or a folder with some", f"{folder}, without one", step)
    return list(found.values()) or [folder]  # opening it says what is wrong


def _entries(caches: Mapping[str, Any], cost: str | None) -> list[_Entry]:
    step = "E.g. po.study({'joint': data, 'separate': other})."
    check_type("caches", caches, Mapping, "a mapping of name to cache", step)
    found, seen = list[_Entry](), set[tuple[Any, ...]]()
    for name, given in caches.items():
        several = isinstance(given, (list, tuple))
        for i, source in enumerate((given or [None]) if several else [given]):
            model, mark, run = (str(name), "/", str(i)) if several else str(name).rpartition("/")
            model, run = (model, run) if mark else (run, "0")
            if not (model.strip() and run.strip()) or model.startswith(JOINED):
                step = "Rename it: NAME=CACHE, or NAME/RUN=CACHE."
                raise input_error("caches", f"each of a name, not {JOINED!r}", str(name), step)
            step = "po.open_cache(folder), or po.from_arrays(logits, labels, costs)."
            allowed, kinds = "an opened cache, or a path", (ExitData, str, Path)
            data = check_type(f"cache {name}", source, kinds, allowed, step)
            with _naming(f"{model}/{run}"):
                data = data if isinstance(data, ExitData) else open_cache(data)
                found.append(_Entry(model, run, data, _costs(data, cost)))
            marks = {(model, run), (model, data.fingerprint or id(data), "numbers")}
            if marks & seen:
                allowed = "each of another name, and runs of other numbers"
                got = f"{model}/{run} twice, by its name or its numbers"
                raise input_error("caches", allowed, got, "Leave one out.")
            seen |= marks
    if len(models := {entry.model for entry in found}) < 2:
        got = next(iter(models), "none")
        step = "Runs of one model need another to be compared with; policies of one: `policyopt compare`."
        raise input_error("caches", "of two or more models", got, step)
    units = {entry.data.cost(cost).unit: entry.model for entry in found}
    if len(units) > 1:
        got = ", ".join(f"{unit} ({model})" for unit, model in units.items())
        step = "Name one that all have: --cost."
        raise input_error("costs", "of one unit in all caches", got, step)
    return found


@contextmanager
def _naming(cache: str) -> Iterator[None]:
    """Say in errors which cache it is."""
    try:
        yield
    except (InputError, BudgetError) as error:
        raise type(error)(f"{cache}: {error}") from error


def _asked(budgets: Any, entries: Sequence[_Entry], cost: str | None, notes: list[str]) -> Floats:
    """Return the budgets in the unit of the costs, rising, (B,); say what they are, and of unlike tasks."""
    least, dearest = min(e.costs[0] for e in entries), max(entries, key=lambda e: e.costs[-1])
    most, unit = float(dearest.costs[-1]), dearest.data.cost(cost).unit
    spaced = np.geomspace if least > 0 else np.linspace
    asked = np.unique(parse_budgets(budgets, spaced(least, most, 1001), unit))
    if asked[0] < least - NEAR * most:
        allowed = f"{least:.6g} {unit} at least, the least that any of the models can cost"
        step = f"Raise it: {-(-1000 * least // most) / 10:g}% of the dearest full model will do."
        raise BudgetError(message("budgets", allowed, f"{asked[0]:.6g} {unit}", step))
    told = f"{len(asked)} budget(s) from {asked[0]:.6g} to {asked[-1]:.6g} {unit}"
    notes.append(f"{told}; the dearest full model, {dearest.model}, costs {most:.6g}")
    for what in ("classes", "class_names"):
        each = [(e.model, getattr(e.data, what, e.data.metadata.get(what))) for e in entries]
        if len(apart := {str(value): model for model, value in each if value}) > 1:
            told = f"{what} are not the same: heights of other tasks say nothing about each other"
            notes.append(f"{', '.join(apart.values())}: {told}")
    return asked


def _costs(data: ExitData, name: str | None) -> Floats:
    """Return mean cumulative costs per exit, (K,), of the rows that fit policies."""
    cost = data.cost(name)
    if cost.values is not None:
        return np.array(cost.values)
    key, rows = data.rows("fit" if "fit" in data.split_names else data.split_names[0])
    costs = data.splits[key].array(f"cost:{cost.name}")[rows]
    return np.asarray(costs, dtype=np.float64).mean(axis=0)


def _own_budgets(asked: Floats, costs: Floats) -> list[float | str]:
    """Return at what policies are fitted: the budgets in range of all divisions' costs, (S, K), or a few, and 100%."""
    low, high = costs[:, 0].max(), costs[:, -1].min()
    inside = asked[(asked >= low) & (asked < high)].tolist()
    if len(inside) < _OWN:
        inside += positions(np.clip(costs.mean(axis=0), low, high), _OWN).tolist()
    return [*sorted(set(inside)), "100%"]


def _same_rows(entries: Sequence[_Entry], test: str, paired: bool) -> list[_Entry]:
    """Have caches of the same rows in the same order divide and count them alike, by the largest groups that one knows.

    Equal rows are groups, and which are equal depends on the model.
    """
    import pandas as pd

    found, same, first = list(entries), dict[Any, list[tuple[int, str, Rows]]](), np.empty(0)
    named = list[Any]()
    for i, entry in enumerate(entries):
        with _naming(f"{entry.model}/{entry.run}"):
            key = entry.data.rows(test)[0]
            rows = entry.data.splits[key]
            labels = rows.array("labels") if rows.has("labels") else np.full(len(rows), -1)
            first = first if i else labels
            known = (labels >= 0) & (first >= 0) if len(labels) == len(first) else None
            if paired and (known is None or (labels != first)[known].any()):
                allowed = f"of caches of rows in the same order as those of {entries[0].model}"
                got = "other labels, or another number of rows"
                step = "Leave it out, or give rows names: import --key group=ID."
                raise input_error("paired", allowed, got, step)
        if rows.has(GROUP) and rows.has("labels"):  # of one name and other labels: others' groups
            own = pd.Series(labels, rows.array(GROUP)).groupby(level=0).min()
            both = [own.to_frame("a").join(one.rename("b"), how="inner") for one in named]
            fits = [not len(one) or (one.a == one.b).mean() > 0.9 for one in both]
            u = [*fits, True].index(True)
            named += [own] * (u == len(named))
            found[i] = replace(entry, universe=f"groups {u}") if u else entry
        same.setdefault("stated" if paired else _order(rows) or i, []).append((i, key, rows))
    for universe, of in same.items():
        codes = [rows.array(GROUP) if rows.has(GROUP) else None for *_, rows in of]
        apart = len({None if one is None else one.tobytes() for one in codes}) > 1
        for i, key, rows in of if apart or paired else ():
            found[i] = replace(found[i], universe=universe)
            if apart:
                group = min((c for c in codes if c is not None), key=lambda c: len(np.unique(c)))
                block: Any = {name: rows.array(name) for name in rows.blocks[0]} | {GROUP: group}
                splits = {**entries[i].data.splits, key: Rows((block,))}
                data = replace(entries[i].data, splits=splits)
                found[i] = replace(found[i], data=data)
    return found


def _chain(entries: Sequence[_Entry], name: str | None, test: str) -> tuple[list[_Entry], str]:
    """Join the full models, cheapest first, but those that one no dearer beats on fit rows; say what was done."""
    first = list({entry.model: entry for entry in reversed(entries)}.values())
    first.sort(key=lambda entry: entry.costs[-1])
    data, lead, no = [entry.data for entry in first], first[0].data, "not joined as one cascade"
    alike = len({(d.kind, d.classes, d.measure, d.pooled) for d in data}) == 1
    plain = not any(d.graded or d.cost(name).per_sample for d in data)
    every = [Tables(d, name) for d in data if alike and plain and KINDS[lead.kind].whole]
    parts = [POOL] if lead.pooled else ["fit", test]
    tables = {part: [one.get(part) for one in every] for part in parts}
    orders = {part: _aligned(of) for part, of in tables.items()}
    if not all(orders.values()):
        return [], f"{no}: it takes the same rows, labels, outputs of one kind, a cost per exit"
    worth, kept = [float(known_rows(one.get("fit")).quality[:, -1].mean()) for one in every], []
    for m in sorted(range(len(first)), key=lambda m: (first[m].costs[-1], -worth[m])):
        kept += [m] if worth[m] > max((worth[n] for n in kept), default=-1.0) else []
    names = [first[m].model for m in kept]
    if len(kept) < 2:
        return [], f"{no}: {names[0]} is the cheapest and the best"
    blocks = dict[str, Any]()
    for part, of in tables.items():
        order, labels, group = orders[part], np.asarray(of[0].statistics.labels), of[0].group
        ends = [of[m].outputs(of[m].exits - 1, order[m]) for m in kept]
        blocks[part] = {"outputs": np.stack(ends, axis=1), "labels": labels[order[0]]}
        blocks[part]["group"] = None if group is None else group[order[0]]
    alone = tuple(float(first[m].costs[-1]) for m in kept)
    costs = Cost(lead.cost(name).name, lead.cost(name).unit, alone, "standalone")
    more: dict[str, Any] = {"splits": blocks}
    if lead.pooled:
        more = {"split": lead.shares, "seed": lead.split_seed, **blocks[POOL]}
    joined = from_arrays(costs=costs, kind=lead.kind, metadata={"names": names}, **more)
    told = f"{JOINED}: the full models {', '.join(names)} in turn, each paid where it is asked"
    if len(entries) > len(first):
        told += ", of one run: " + ", ".join(f"{first[m].model}/{first[m].run}" for m in kept)
    own = JOINED, "0", joined, _costs(joined, None)
    return [_Entry(*own, universe=first[0].universe)], told


def _aligned(tables: Sequence[Table]) -> list[Ints]:
    """Return each table's rows in an order in which they are the same ones; none where that is not known."""
    found: list[Any] = []
    for table in tables:
        (universe, row), labels = _identity(table), table.statistics.labels
        if labels is None:
            return []
        order = np.argsort(row, kind="stable")
        found.append((order, universe, np.stack([row, labels], axis=1)[order]))
    same = all(of == found[0][1] and np.array_equal(row, found[0][2]) for _, of, row in found)
    return [order for order, *_ in found] if same else []


def _identity(table: Table) -> tuple[Any, Ints]:
    """Return what rows are told apart by, (N,), and where: tables of one universe name the same rows alike.

    By their groups; else by their places, where all labels are the same in an order that is no chance.
    """
    if table.group is not None:
        return "groups", table.group
    places = np.arange(len(table)) if table.places is None else table.places
    return (table.source and _order(table.source)) or table.cache, places


def _order(rows: Rows) -> str | None:
    """Return a name of rows' labels in their order; None where others may have the same by chance."""
    if not rows.has("labels"):
        return None
    labels = rows.array("labels")
    changes = int((labels[1:] != labels[:-1]).sum())
    telling = changes >= max(_TELLING, 2 * len(np.unique(labels)))
    return blake2b(labels.tobytes()).hexdigest() if telling else None


# --- what is run --------------------------------------------------------------------------------


def _run(entry: _Entry, asked: Floats, test: str, seeds: int, cost: Any, utility: Any) -> _Ran:
    """Fit one entry's policies and replay them; return what its rows bring."""
    with _naming(f"{entry.model}/{entry.run}"), progress(None):
        data = entry.data
        tables, seen = Tables(data, cost, utility=utility), test == TRAIN
        if data.exits > 1:
            fits = [split_for_seed(tables, seed, test, seeds)[0] for seed in range(seeds)]
            own = _own_budgets(asked, np.array([fit.mean_costs for fit in fits]))
            of = {"seeds": seeds, "tables": tables, "test": test}
            frontier = curve(data, [entry.spec], own, **of)
            order = None if data.pooled else _order(data.splits[data.rows(test)[0]])
            named = all(data.splits[data.rows(of)[0]].has(GROUP) for of in (test, "fit"))
            copied = not named and order is not None and order == _order(data.splits["fit"])
            seen = seen or copied or share_rows(data, test, data, "fit")
        else:  # one cost, and no policy
            divided = data.pooled and seeds > 1
            tests = {seed: tables.get(test, seed if divided else None) for seed in range(seeds)}
            frontier = Frontier([], {}, [], [], tables.cost.unit, tests=tests)
        values, rows, means, universe = [], [], [], None
        for seed, whole in frontier.tests.items():
            table = known_rows(whole)
            policies = [one.policy for key, one in frontier.fitted.items() if key[1] == seed]
            value, paid = values_at(path_through(policies, table), asked)
            universe, row = _identity(table)
            values.append(value)
            rows.append(row)
            means.append([table.mean_costs[-1], table.quality[:, -1].mean(), *paid])
        by_exit, mean = exit_metrics(data, test, tables=tables), np.mean(means, axis=0)
    head, notes = {"model": entry.entrant, "run": entry.run}, [*frontier.notes, *by_exit.notes]
    if seen:
        notes.append(f"rows of {test} fitted the policies or the model: they flatter it")
    each = np.concatenate(values), np.concatenate(rows), entry.universe or universe
    more = mean[:2], mean[2:], frontier.records, by_exit, frontier.graded, notes
    return _Ran(head, entry.model, *each, *more)


# --- what can be told ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Heights:
    """Frontiers' heights at B budgets, of M models; NaN where a model costs more."""

    of: dict[str, list[_Ran]]  # by model, its runs
    runs: list[list[_Ran]]  # the same
    each: list[Floats]  # (R, B) per model: of its runs
    adds: list[Any]  # frame (rows, B) per model: what a row, or group, adds to its means
    delta: float

    @cached_property
    def mean(self) -> Floats:
        """Means over runs, (M, B)."""
        return np.array([runs.mean(axis=0) for runs in self.each])

    def common(self, models: Sequence[int]) -> list[int]:
        """Return the numbers of the budgets that all of some models can keep."""
        return np.flatnonzero(~np.isnan(self.mean[list(models)]).any(axis=0)).tolist()

    def order(self, models: Iterable[int], at: Sequence[int]) -> list[int]:
        """Return models, best first at some budgets; of equal ones, but for rounding, the cheaper there."""

        def key(m: int) -> tuple[float, ...]:
            paid = np.mean([one.paid[at].mean() for one in self.runs[m]])
            return -round(float(self.mean[m, at].mean()), 12), float(paid), self.runs[m][0].ends[0]

        return sorted(models, key=key)

    @cached_property
    def areas(self) -> tuple[list[int], list[int]]:
        """The budgets that all models with early exits can keep, and which models can, best first."""
        # A model without early exits, or a chain, does not narrow for all others where they are compared.
        staged = [one.model != JOINED and len(one.by_exit.exits) > 1 for one, *_ in self.runs]
        at = self.common(np.flatnonzero(staged).tolist() or range(len(self.runs)))
        can = ~np.isnan(self.mean[:, at]).any(axis=1) if at else np.zeros(len(self.runs))
        return at, self.order(np.flatnonzero(can).tolist(), at)

    def test(self, at: Sequence[int], a: int, b: int | None = None) -> tuple[Any, ...]:
        """Return the mean difference a - b at some budgets (or a alone), its interval's ends and one-sided p-value.

        Where one row, or group, is all there is, ends are None, and p is 1.
        """
        from scipy.stats import t

        of = [a] if b is None else [a, b]
        gap, *less = (float(self.mean[m, at].mean()) for m in of)
        add, *other = (self.adds[m][at].mean(axis=1) for m in of)
        if less:  # of rows that are shared, differences: the error of a paired t-test
            gap, add = gap - less[0], add.sub(other[0], fill_value=0.0)
            gap *= abs(gap) > _ROUNDING
        if (rows := min(len(self.adds[m]) for m in of)) < 2:
            return gap, None, None, 1.0
        # As if one more row told them apart: that none does, of a few, does not say that none will.
        unseen = gap**2 / (rows + 1) / rows if less else 0.0
        parts = [(max(float((add**2).sum()), unseen), rows - 1)]
        runs = [self.each[m][:, at].mean(axis=1) for m in of if len(self.each[m]) > 1]
        parts += [(float(one.var(ddof=1)) / len(one), len(one) - 1) for one in runs]
        variance = sum(part for part, _ in parts) or _ROUNDING**3
        squares = sum(part**2 / max(free, 1) for part, free in parts) or variance**2
        free, error = variance**2 / squares, variance**0.5  # Welch & Satterthwaite
        wide = float(t.ppf(1 - self.delta / 2, free))
        if less:
            return gap, gap - wide * error, gap + wide * error, float(t.sf(gap / error, free))
        # A height in [0, 1]: Wilson's, of as many rows as would be as sure, see `effective_rows`.
        most = np.inf if self.runs[a][0].graded else len(self.runs[a][0].row)
        alone, few = gap * (1 - gap), wide / NormalDist().inv_cdf(1 - self.delta / 2)
        tells = alone > _ROUNDING and variance > _ROUNDING**2
        count = min(alone / variance / few**2, most) if tells else rows
        return gap, *wilson(gap, count, 1 - self.delta), 0.0


def _heights(ran: Sequence[_Ran], delta: float) -> _Heights:
    import pandas as pd

    universes, of = [one.universe for one in ran], dict[str, list[_Ran]]()
    for one in ran:
        of.setdefault(one.head["model"], []).append(one)
    each = [np.array([one.value.mean(axis=0) for one in mine]) for mine in of.values()]
    adds = []
    for mine, means in zip(of.values(), each, strict=True):
        parts = []
        for one, mean in zip(mine, means, strict=True):
            where = [np.full(len(one.row), universes.index(one.universe)), one.row]
            value = np.nan_to_num(one.value - mean) / len(one.row) / len(mine)
            parts.append(pd.DataFrame(value, index=where))
        add = pd.concat(parts).groupby(level=[0, 1]).sum()
        adds.append(add * (len(add) / max(len(add) - 1, 1)) ** 0.5)
    return _Heights(of, list(of.values()), each, adds, delta)


def _pairs(heights: _Heights) -> list[dict[str, Any]]:
    """Return each pair's mean difference over the budgets that both can keep, by paired t where rows are shared."""
    found, names = [], list(heights.of)
    for pair in combinations(range(len(names)), 2):
        if not (at := heights.common(pair)):
            continue
        a, b = heights.order(pair, at)
        *area, p = heights.test(at, a, b)
        shared = heights.adds[a].index.isin(heights.adds[b].index)
        found.append({
            "better": names[a], "worse": names[b], **with_interval("area", *area),
            "budgets": len(at), "p": min(2 * p, 1.0), "holm_p": 1.0, "paired": bool(shared.any()),
            "runs": [len(heights.each[a]), len(heights.each[b])],
        })  # fmt: skip
    for one, p in zip(found, holm(np.array([one["p"] for one in found])).tolist(), strict=True):
        one["holm_p"] = p
    return found


def _models(heights: _Heights, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    (at, ranked), found, names = heights.areas, [], list(heights.of)
    others = [m for m in range(len(names)) if m not in ranked]
    for m in (*ranked, *others):
        model, mine = names[m], heights.runs[m]
        area = heights.test(at, m)[:3] if m in ranked else (None, None, None)
        cost, worth = np.mean([one.ends for one in mine], axis=0).tolist()
        worths = worth_fields(worth, any(one.graded for one in mine), "full_")
        head = {"model": model, "runs": len(mine), "rows": len(heights.adds[m]), "full_cost": cost}
        found.append({**head, **worths, **with_interval("area", *area)})
    group = letters([names[m] for m in ranked], [p for p in pairs if p["holm_p"] <= heights.delta])
    for i, one in enumerate(found):
        one |= {"rank": i + 1 if i < len(ranked) else None, "group": group.get(one["model"])}
    return found


def _budgets(heights: _Heights, asked: Floats, notes: list[str]) -> list[dict[str, Any]]:
    """Return per budget which model is best, whether that is shown, and among which it is.

    The best of M is held against each other one, one-sided, times M: so whichever of several equal ones looks best, it
    wins with a chance of at most `delta` (multiple comparisons with the best: Hsu, 1996, chapter 4); Holm's
    correction over budgets. Contenders of one budget hold the best with 1 - `delta`.
    """
    mean, names, found, claims = heights.mean, list(heights.of), [], []
    for b, budget in enumerate(asked.tolist()):
        there = [m for m in range(len(names)) if not np.isnan(mean[m, b])]
        if not there:  # of costs by row, those of rows to test on lie elsewhere
            notes.append(f"budget {budget:.6g} left out: on rows to test on all models cost more")
            continue
        best, *others = heights.order(there, [b])
        leads = [heights.test([b], best, m) for m in others]
        p = [min(lead[3] * len(there), 1.0) for lead in leads]
        claims.append(max(p, default=0.0))  # 0: no other can be afforded
        paid = {m: np.mean([one.paid[b] for one in heights.runs[m]]) for m in there}
        contenders = [m for m, chance in zip(others, p, strict=True) if chance > heights.delta]
        found.append({
            "budget": budget, "best": names[best], "next": names[others[0]] if others else None,
            **with_interval("lead", *(leads[0][:3] if leads else (None, None, None))),
            "winner": None, "p": None, "contenders": [names[m] for m in (best, *contenders)],
            "too_dear": [name for m, name in enumerate(names) if m not in there],
            "quality": {names[m]: float(mean[m, b]) for m in there},
            "cost": {names[m]: float(cost) for m, cost in paid.items()},
        })  # fmt: skip
    for one, p in zip(found, holm(np.array(claims)).tolist(), strict=True):
        one["p"] = p if one["next"] else None
        one["winner"] = one["best"] if p <= heights.delta else None
    return found


def _over_runs(heights: _Heights, notes: list[str]) -> list[dict[str, Any]]:
    """Return the tests over training runs: of the area per entrant, of every other metric that all models have."""
    several = {name: mine for name, mine in heights.of.items() if len(mine) > 1}
    models = {mine[0].model: mine for mine in several.values() if mine[0].model != JOINED}
    each = dict.fromkeys(mine[0].model for mine in heights.of.values())
    single = [model for model in each if model not in models and model != JOINED]
    if single:
        told = (
            "one training run. What rows show is of this trained model, not of how it was trained; ANOVA over rows, or "
            "over divisions of them, would take them for training runs: it means nothing"
        )
        notes.append(f"{', '.join(single)}: {told}")
    if len(several) < 2 or not models:
        return []
    if min(map(len, several.values())) < _RUNS:
        notes.append(f"fewer than {_RUNS} runs of a model: their tests find large differences only")
    counts = [len(mine[0].by_exit.exits) for mine in models.values()]
    exits = max(counts, key=lambda count: (counts.count(count), count))
    if out := [model for model, count in zip(models, counts, strict=True) if count != exits]:
        notes.append(f"{', '.join(out)}: not {exits} exits: left out of the tests exit by exit")
    (at, there), names, metrics = heights.areas, list(heights.of), dict[str, Any]()
    areas = {names[m]: heights.each[m][:, at].mean(axis=1).tolist() for m in there}
    metrics["area"] = {name: area for name, area in areas.items() if name in several}
    for model, mine in models.items():
        for name, value in ((n, v) for one in mine for n, v in _metrics(one, exits).items()):
            metrics.setdefault(name, {}).setdefault(model, []).append(value)
    tests = []
    for name in sorted(metrics, key=lambda name: not name.startswith(("area", "quality"))):
        found = {m: of for m, of in metrics[name].items() if len(of) == len((several | models)[m])}
        if len(found) > 1:
            told = compare_runs(found, 1 - heights.delta, less=less_is_better(name))
            tests.append({"metric": name, **told})
    return tests


def _metrics(one: _Ran, exits: int) -> dict[str, float]:
    """Return the numbers of a run's exits, if they are as many, and of its training."""
    found, own = dict[str, Any](), one.by_exit.exits
    for name in ("quality", "loss", "accuracy_gap") if len(own) == exits else ():
        found |= {f"{name} of exit {exit_['exit']}": exit_[name] for exit_ in own}
    found |= {name: value for name, value in one.by_exit.training.items() if name != "seed"}
    return {k: float(v) for k, v in found.items() if type(v) in (int, float) and np.isfinite(v)}
