"""Which model to deploy at a budget: frontiers of several caches, and what rows and training runs can tell.

Every model is a policy on its frontier, two neighbours mixed, at *equal realised cost* on rows that chose nothing. Its
quality there is linear in what a row brings, ``q - slope * (c - budget)``, cost priced by the frontier's own slope; so
differences of models have the standard error of a paired t-test where rows are shared, of an unpaired one where none
are, and of what lies between. Where a model was trained several times, the spread of its runs is added.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.arrays import from_arrays
from policyopt._cache.data import POOL, ExitData
from policyopt._cache.reader import open_cache
from policyopt._certificates.testing import holm
from policyopt._costs import Cost, parse_budgets, positions
from policyopt._frontier import Path as Replays
from policyopt._frontier import curve, path_of
from policyopt._intervals import with_interval, worth_fields
from policyopt._methods.registry import OWN_FAMILY, ROWS, method_list
from policyopt._study.runs import compare_runs, less_is_better, letters
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._checks import check_share, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Array, Floats, Ints

Progress = Callable[[int, int, str], None]
#: Model, run, and what the cache's metadata say.
_Run = tuple[str, str, Mapping[str, Any]]
#: Costs at which the area under a frontier is summed.
_GRID = 200
#: Own budgets of a model in whose range too few of those in common lie.
_OWN = 3
#: What the chain of all models is called.
JOINED = "all joined"
#: Labels, and changes of label from row to row, from which on the same order is no chance.
_TELLING = 30
#: A last part of a name that tells runs of one model apart: 0, seed1, run-2.
_RUN = re.compile(r"(?:seed|run|fold|rep|s|r)?[-_]?\d{1,6}", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Study:
    """What `study` found; lists of plain records.

    Attributes
    ----------
    models : list of dict
        Per model: runs, the full model's cost and quality, area under its frontier with interval, rank.
    budgets : list of dict
        Per budget: every model's quality and cost at it, the best, its lead over the next with interval, ``winner``
        where it is shown to be the best, and ``contenders``, among whom the best is.
    pairs : list of dict
        Per pair of models: difference of areas, its interval, p and Holm's p.
    tests : list of dict
        Per metric: the tests over training runs, see `compare_runs`.
    points : list of dict
        Per model, run and budget: the policy's record, as `curve` has it.
    exits : list of dict
        Per model, run and exit: metrics of the exit by itself.
    unit : str
    level : float
    notes : list of str
    """

    models: list[dict[str, Any]]
    budgets: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    points: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    unit: str
    level: float
    graded: bool = False
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Entry:
    """One training run of one model, or the chain of all."""

    model: str
    run: str
    source: Any  # ExitData, or the directory of one
    data: ExitData


@dataclass(frozen=True, eq=False)
class _Ran:
    """What one entry's policies did: what each row brings at every budget and to the area, (N, B + 1)."""

    value: Floats
    row: Ints  # (N,): the same number is the same row, or group of rows, in all entries of one universe
    universe: Any  # entries of another share no rows
    labels: Array | None  # (N,)
    points: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    ends: Floats  # (2,): the full model's mean cost and quality
    paid: Floats  # (B,): realised cost at each budget, NaN where it is too little
    graded: bool
    notes: list[str]


def study(
    caches: Mapping[str, Any],
    budgets: int | str | Sequence[float | str] = 9,
    method: str = "auto",
    *,
    seeds: int = 1,
    test: str = "test",
    cost: str | None = None,
    utility: Any = None,
    level: float = 0.95,
    paired: bool = False,
    join: bool = True,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Study:
    """Ask of several models, trained or built differently, which one to deploy at a budget.

    Parameters
    ----------
    caches : mapping of str to ExitData, path, or sequence of these
        By name. ``"name/run"``, or several caches under one name: training runs of one model.
    budgets : int, str or sequence
        Costs at which models are compared: as `curve` takes them, of the dearest full model.
    method : str
        Spec of the policy that each model gets, or several, comma-separated: each is an entrant of its own.
    seeds : int
        Divisions of pools, as in `curve`. They are no training runs.
    test : str
        Rows, or stream, to compare on.
    cost : str, optional
        Name of the cost, of one unit in all caches; default each one's first.
    utility : as in `fit`, optional
    level : float
        Confidence of intervals and winners.
    paired : bool
        State that rows stand in the same order in all caches, where neither groups nor labels can tell.
    join : bool
        Whether the full models, cheapest first, are tried as one cascade, too.
    jobs : int
        Processes; caches given as paths are cheapest to hand over.
    progress : callable, optional
        Called with (done, in all, what).

    Returns
    -------
    Study

    Raises
    ------
    InputError
        Fewer than two models, costs of different units, or no labels.

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
    entries = _entries(caches)
    check_whole("seeds", seeds, step="E.g. --seeds 5.")
    check_share("level", level)
    unit = _one_unit(entries, cost)
    notes = list[str]()
    methods = method_list(method)
    if join and (chain := _chain(entries, cost, notes)) is not None:
        entries = [*entries, chain]
    ranges = [_costs(entry.data, cost) for entry in entries]
    every = np.sort(
        np.concatenate(
            [costs for entry, costs in zip(entries, ranges, strict=True) if entry.model != JOINED]
        )
    )
    asked = np.array(sorted(parse_budgets(budgets, every)))
    span = max(costs[0] for costs in ranges), float(every[-1])
    tasks = [
        (entry.source, spec, _own_budgets(asked, costs), asked, span, test, cost, utility, seeds)
        for entry, costs in zip(entries, ranges, strict=True)
        for spec in methods
    ]
    runs = [
        (
            f"{entry.model}: {spec}" if len(methods) > 1 else entry.model,
            entry.run,
            entry.data.metadata,
        )
        for entry in entries
        for spec in methods
    ]
    ran = _in_turn(tasks, runs, jobs, notes, progress)
    if paired:
        ran = [replace(one, universe="stated") for one in ran]
    return _judged(runs, ran, asked, unit, level, notes)


# --- what is compared ---------------------------------------------------------------------------


def named(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Return caches by name: of ``NAME=PATH``, or of paths, those in folders of caches too; ``name/run`` of runs.

    Names are what is left of the paths after what all have in common; a last part that is a number is a run.
    """
    found: dict[str, Path] = {}
    plain: list[Path] = []
    for text in map(str, paths):
        name, mark, path = text.partition("=")
        if mark and not Path(text).exists():
            if name in found:
                raise input_error("CACHE", "each of another name", f"{name} twice", "Rename one.")
            found[name] = Path(path)
        elif (Path(text) / "manifest.json").exists() or not Path(text).is_dir():
            plain.append(Path(text))
        else:
            inside = sorted(place.parent for place in Path(text).rglob("manifest.json"))
            if not inside:
                step = "`policyopt import` makes one."
                raise input_error("CACHE", "a cache, or a folder of caches", text, step)
            plain += inside
    parts = [path.resolve().parts for path in plain]
    shared = 0
    while parts and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    for path, of in zip(plain, parts, strict=True):
        rest = of[shared:]
        run = len(rest) > 1 and _RUN.fullmatch(rest[-1])
        name = "/".join(rest) if run else "-".join(rest)
        if run:
            name = f"{'-'.join(rest[:-1])}/{rest[-1]}"
        if name in found:
            raise input_error("CACHE", "each given once", str(path), "Or name it: NAME=PATH.")
        found[name] = path
    return found


def _entries(caches: Mapping[str, Any]) -> list[_Entry]:
    if not isinstance(caches, Mapping):
        step = "E.g. po.study({'joint': data, 'separate': other})."
        raise input_error("caches", "a mapping of name to cache", type(caches).__name__, step)
    found = []
    for name, given in caches.items():
        several = isinstance(given, (list, tuple))
        for i, source in enumerate(given if several else [given]):
            model, mark, run = (str(name), "/", str(i)) if several else str(name).rpartition("/")
            model, run = (model, run) if mark else (run, "0")
            data = source if isinstance(source, ExitData) else open_cache(source)
            if data.exits < 2:
                step = "A model with one exit joins others by `policyopt import A B`."
                raise input_error(f"cache {name}", "with at least 2 exits", data.exits, step)
            found.append(_Entry(model, run, source, data))
    runs = [(entry.model, entry.run) for entry in found]
    twice = next((run for run in runs if runs.count(run) > 1), None)
    if twice:
        raise input_error(
            "caches", "each of another name", f"{'/'.join(twice)} twice", "Rename one."
        )
    if len({entry.model for entry in found}) < 2:
        got = found[0].model if found else "none"
        step = "Runs of one model need another to be compared with; policies of one: `policyopt compare`."
        raise input_error("caches", "of two or more models", got, step)
    return found


def _one_unit(entries: Sequence[_Entry], cost: str | None) -> str:
    units = {entry.data.cost(cost).unit: entry.model for entry in entries}
    if len(units) > 1:
        got = ", ".join(f"{unit} ({model})" for unit, model in units.items())
        raise input_error(
            "costs", "of one unit in all caches", got, "Name one that all have: --cost."
        )
    return next(iter(units))


def _costs(data: ExitData, name: str | None) -> Floats:
    """Return mean cumulative costs per exit, (K,)."""
    cost = data.cost(name)
    if cost.values is not None:
        return np.array(cost.values)
    rows = data.splits[data.rows("fit")[0]]
    return np.asarray(rows.array(f"cost:{cost.name}"), dtype=np.float64).mean(axis=0)


def _own_budgets(asked: Floats, costs: Floats) -> list[float]:
    """Return at what a model's policies are fitted: the budgets in its range, or a few of its own, and all it costs."""
    inside = asked[(asked >= costs[0]) & (asked < costs[-1])].tolist()
    if len(inside) < _OWN:
        inside += positions(costs, _OWN).tolist()
    return sorted({*inside, float(costs[-1])})


def _chain(entries: Sequence[_Entry], name: str | None, notes: list[str]) -> _Entry | None:
    """Return the full models, cheapest first, as one cascade; those that a cheaper one beats on fit rows left out."""
    first = list({entry.model: entry for entry in reversed(entries)}.values())
    first.sort(key=lambda entry: _costs(entry.data, name)[-1])
    lead = first[0].data
    parts = [POOL] if lead.pooled else ["fit", "test"]
    alike = len({(e.data.kind, e.data.classes, e.data.measure, e.data.pooled) for e in first}) == 1
    if not alike or any(e.data.cost(name).per_sample or e.data.graded for e in first):
        notes.append(
            "not joined as one cascade: it takes outputs of one kind, labels, and costs per exit"
        )
        return None
    tables = {part: [Tables(e.data, name).get(part) for e in first] for part in parts}
    rows = {part: [_in_order(table) for table in of] for part, of in tables.items()}
    if not all(_same_rows(tables[part], rows[part]) for part in parts):
        notes.append("not joined as one cascade: the models' rows are not the same")
        return None
    kept, best = list[int](), -np.inf
    for m, table in enumerate(Tables(e.data, name).get("fit") for e in first):
        if (worth := float(known_rows(table).quality[:, -1].mean())) > best:
            kept, best = [*kept, m], worth
    models = [first[m].model for m in kept]
    if len(kept) < 2:
        notes.append(f"not joined as one cascade: {models[0]} is the cheapest and the best")
        return None

    def block(part: str) -> dict[str, Any]:
        of = [(tables[part][m], rows[part][m]) for m in kept]
        outputs = [t.source.pick("outputs", r, [t.exits - 1])[:, 0] for t, r in of if t.source]  # fmt: skip
        told = {
            "outputs": np.stack(outputs, axis=1),
            "labels": of[0][0].statistics.labels[of[0][1]],
        }  # type: ignore[index]
        return told | ({} if of[0][0].group is None else {"group": of[0][0].group[of[0][1]]})

    alone = [float(_costs(first[m].data, name)[-1]) for m in kept]
    more: dict[str, Any] = {
        "costs": Cost(lead.cost(name).name, lead.cost(name).unit, tuple(alone), "standalone"), "kind": lead.kind,
        "metadata": {"names": models},
    }  # fmt: skip
    if lead.pooled:
        more |= {**block(POOL), "split": lead.shares, "seed": lead.split_seed}
    else:
        more["splits"] = {part: block(part) for part in parts}
    data = from_arrays(**more)
    notes.append(
        f"{JOINED}: the full models {', '.join(models)} in turn, each paid where it is asked"
    )
    return _Entry(JOINED, "0", data, data)


def _in_order(table: Table) -> Ints:
    """Return the rows in the order of their groups, in which the same rows of several caches stand alike."""
    return np.arange(len(table)) if table.group is None else np.argsort(table.group, kind="stable")


def _same_rows(tables: Sequence[Table], rows: Sequence[Ints]) -> bool:
    """Whether tables, in such orders, hold the same rows: the same groups, or telling labels, and labels."""
    labels = [
        None if t.statistics.labels is None else t.statistics.labels[r]
        for t, r in zip(tables, rows, strict=True)
    ]
    groups = [None if t.group is None else t.group[r] for t, r in zip(tables, rows, strict=True)]
    known = labels[0] is not None and all(np.array_equal(labels[0], one) for one in labels)  # type: ignore[arg-type]
    if groups[0] is None:
        return known and all(one is None for one in groups) and _telling(labels[0])
    return known and all(one is not None and np.array_equal(groups[0], one) for one in groups)


def _telling(labels: Array | None) -> bool:
    """Whether labels come in an order that two sets of rows do not share by chance: neither few, nor sorted."""
    if labels is None or len(labels) < _TELLING:
        return False
    changes = int((labels[1:] != labels[:-1]).sum())
    return changes >= max(_TELLING, 2 * len(np.unique(labels)))


# --- what is run --------------------------------------------------------------------------------


def _in_turn(
    tasks: Sequence[tuple[Any, ...]],
    runs: Sequence[_Run],
    jobs: int,
    notes: list[str],
    progress: Progress | None,
) -> list[_Ran]:
    """Run the tasks, in processes where it is asked for and methods can be handed over."""
    found: list[_Ran] = []
    own = [
        task[1]
        for task in tasks
        if getattr(ROWS.get(task[1].partition(":")[0]), "family", "") == OWN_FAMILY
    ]
    if jobs > 1 and own:
        notes.append(
            f"one process: {own[0]} is a method of your own, which is registered in this one alone"
        )
    if jobs == 1 or own or len(tasks) == 1:
        results: Any = map(_run, tasks)
    else:
        from joblib import Parallel, delayed

        results = Parallel(jobs, return_as="generator")(delayed(_run)(task) for task in tasks)
    for (model, run, _), one in zip(runs, results, strict=True):
        found.append(one)
        notes += [f"{model}: {text}" for text in one.notes if f"{model}: {text}" not in notes]
        if progress:
            progress(len(found), len(tasks), f"{model}/{run}")
    return found


def _run(task: tuple[Any, ...]) -> _Ran:
    """Fit one entry's policies and replay them; return what its rows bring."""
    source, spec, budgets, asked, span, test, cost, utility, seeds = task
    data = source if isinstance(source, ExitData) else open_cache(source)
    tables = Tables(data, cost, utility=utility)
    frontier = curve(data, [spec], budgets, seeds=seeds, tables=tables, test=test)
    values, rows, labels, ends, costs = [], [], [], [], []
    for seed, whole in frontier.tests.items():
        table = known_rows(whole)
        value, realised = values_at(path_of(frontier, spec, seed, table), asked, span)
        values.append(value)
        costs.append(realised)
        places = np.arange(len(table)) if table.places is None else table.places
        rows.append(places if table.group is None else table.group)
        labels.append(table.statistics.labels)
        ends.append((table.mean_costs[-1], table.quality[:, -1].mean()))
    exits = [
        {**{k: v for k, v in one.items() if k != "seed"}}
        for one in frontier.exits
        if one["seed"] == 0
    ]
    return _Ran(
        np.concatenate(values), np.concatenate(rows), _universe(table),
        None if labels[0] is None else np.concatenate(labels), frontier.records, exits,
        np.mean(ends, axis=0), np.mean(costs, axis=0), frontier.graded, frontier.notes,
    )  # fmt: skip


def values_at(path: Replays, asked: Floats, span: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return what every row brings at B costs and to the mean over a span of costs, (N, B + 1), and costs paid (B,).

    Columns' means are the frontier's heights, their standard errors those of heights at the same realised cost. NaN
    where even the cheapest exit costs more. Beyond the dearest policy nothing is added: a budget need not be spent.
    """
    cost, quality = path.cost.mean(axis=0), path.quality.mean(axis=0)
    order = np.argsort(cost, kind="stable")
    cost, quality, last = cost[order], quality[order], len(order) - 1
    grid = np.concatenate([asked, np.maximum(np.linspace(*span, _GRID), cost[0])])
    high = np.clip(np.searchsorted(cost, grid, side="right"), 1, last)
    gap, inside = cost[high] - cost[high - 1], (grid < cost[-1]) & (grid >= cost[0])
    share = np.where(inside, (grid - cost[high - 1]) / np.where(inside, gap, 1.0), 1.0)
    slope = np.where(inside, (quality[high] - quality[high - 1]) / np.where(inside, gap, 1.0), 0.0)
    weights = np.zeros((len(grid), last + 1))
    here = np.arange(len(grid))
    weights[here, high - 1], weights[here, high] = 1.0 - share, share
    weights[grid >= cost[-1]] = np.eye(last + 1)[last]
    priced, free = slope[:, None] * weights, slope * grid
    first = len(asked)
    columns = [np.vstack([of[:first], of[first:].mean(axis=0)]) for of in (weights, priced)]
    value = path.quality[:, order] @ columns[0].T - path.cost[:, order] @ columns[1].T
    value += np.append(free[:first], free[first:].mean())
    value[:, :first][:, asked < cost[0]] = np.nan
    paid = np.where(asked < cost[0], np.nan, np.minimum(asked, cost[-1]))
    return value, paid


def _universe(table: Table) -> Any:
    """Return what rows are told apart by: entries of one universe name their rows alike; others share none."""
    if table.group is not None:
        return "groups"
    if table.source is None or not table.source.has("labels"):
        return object()
    labels = table.source.array("labels")
    return blake2b(labels.tobytes()).hexdigest() if _telling(labels) else object()


# --- what can be told ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Heights:
    """Frontiers' heights at B budgets and over the span (the last column), by M models."""

    models: list[str]
    each: list[Floats]  # (R, B + 1) per model
    rows: Ints  # (M,): rows, or groups, that count
    by_rows: Floats  # (B + 1, M, M): covariance of models' means over rows
    by_runs: Floats  # (M, B + 1): variance of the mean of runs
    shared: Array  # (M, M) bool: whether models have rows in common

    @property
    def mean(self) -> Floats:
        """Mean over runs, (M, B + 1)."""
        return np.array([runs.mean(axis=0) for runs in self.each])

    def test(self, at: int, a: int, b: int) -> tuple[float, float, float]:
        """Return the difference a - b in a column, its standard error and degrees of freedom."""
        rows = self.by_rows[at]
        parts = [
            (
                max(rows[a, a] + rows[b, b] - 2 * rows[a, b], 0.0),
                min(self.rows[a], self.rows[b]) - 1,
            )
        ]
        parts += [
            (self.by_runs[m, at], len(self.each[m]) - 1) for m in (a, b) if len(self.each[m]) > 1
        ]
        total = sum(variance for variance, _ in parts)
        # Welch & Satterthwaite.
        below = sum(variance**2 / max(free, 1) for variance, free in parts)
        mean = self.mean
        return (
            float(mean[a, at] - mean[b, at]),
            total**0.5,
            total**2 / below if below > 0 else np.inf,
        )


def _judged(
    runs: Sequence[_Run], ran: list[_Ran], asked: Floats, unit: str, level: float, notes: list[str]
) -> Study:
    """Hold models against each other."""
    ran = _checked(runs, ran, notes)
    heights = _heights([model for model, _, _ in runs], ran)
    graded = any(one.graded for one in ran)
    pairs = _pairs(heights, level)
    parted = np.zeros((len(heights.models),) * 2, dtype=bool)
    for pair in pairs:
        a, b = (heights.models.index(pair[side]) for side in ("better", "worse"))
        parted[a, b] = parted[b, a] = pair["holm_p"] <= 1 - level
    models = _models(heights, runs, ran, parted, level, graded)
    points = [
        {"model": model, "run": run, **record}
        for (model, run, _), one in zip(runs, ran, strict=True)
        for record in one.points
    ]
    exits = [
        {"model": model, "run": run, **record}
        for (model, run, _), one in zip(runs, ran, strict=True)
        for record in one.exits
    ]
    tests = _over_runs(heights, runs, ran, level, notes)
    budgets = _budgets(heights, runs, ran, asked, level, graded)
    return Study(models, budgets, pairs, tests, points, exits, unit, level, graded, notes)


def _checked(runs: Sequence[_Run], ran: list[_Ran], notes: list[str]) -> list[_Ran]:
    """Return entries, those whose groups are called alike but have other labels as others'."""
    found: list[_Ran] = []
    lead: _Ran | None = None
    for (model, _, _), one in zip(runs, ran, strict=True):
        if one.universe == "groups" and one.labels is not None:
            lead = lead or one
            _, mine, theirs = np.intersect1d(one.row, lead.row, return_indices=True)
            single = all(len(np.unique(o.row)) == len(o.row) for o in (one, lead))
            if (
                single
                and lead.labels is not None
                and (one.labels[mine] != lead.labels[theirs]).any()
            ):
                notes.append(
                    f"{model}: groups are called as in {runs[0][0]} but have other labels: taken for other rows"
                )
                one = replace(one, universe=object())
        found.append(one)
    return found


def _heights(labels: Sequence[str], ran: Sequence[_Ran]) -> _Heights:
    models = list(dict.fromkeys(labels))
    at, universes, start = list[Ints](), dict[Any, list[int]](), 0
    for e, one in enumerate(ran):
        universes.setdefault(one.universe, []).append(e)
    number: dict[int, Ints] = {}
    for members in universes.values():
        _, codes = np.unique(np.concatenate([ran[e].row for e in members]), return_inverse=True)
        ends = np.cumsum([len(ran[e].row) for e in members])[:-1]
        for e, part in zip(members, np.split(codes.reshape(-1) + start, ends), strict=True):
            number[e] = part
        start += int(codes.max()) + 1
    at = [number[e] for e in range(len(ran))]
    of = [[e for e, label in enumerate(labels) if label == model] for model in models]
    each = [np.array([ran[e].value.mean(axis=0) for e in mine]) for mine in of]
    columns = ran[0].value.shape[1]
    by_rows = np.empty((columns, len(models), len(models)))
    touched = np.zeros((len(models), start), dtype=bool)
    for m, mine in enumerate(of):
        for e in mine:
            touched[m, at[e]] = True
    rows = touched.sum(axis=1)
    for column in range(columns):
        # What a row adds to a model's mean: differences of these have the error of a paired t-test.
        adds = np.zeros((len(models), start))
        for m, mine in enumerate(of):
            for e in mine:
                value = ran[e].value[:, column]
                share = (value - value.mean()) / (len(value) * len(mine))
                adds[m] += np.bincount(at[e], weights=share, minlength=start)
        adds *= (rows / np.maximum(rows - 1, 1))[:, None] ** 0.5
        by_rows[column] = adds @ adds.T
    by_runs = np.array(
        [
            runs.var(axis=0, ddof=1) / len(runs) if len(runs) > 1 else np.zeros(columns)
            for runs in each
        ]
    )
    return _Heights(
        models, each, rows, by_rows, by_runs, (touched.astype(float) @ touched.T.astype(float)) > 0
    )


def _pairs(heights: _Heights, level: float) -> list[dict[str, Any]]:
    """Return each pair's difference of areas, by paired t where rows are shared."""
    from scipy.stats import t

    found = []
    for a, b in combinations(range(len(heights.models)), 2):
        gap, error, free = heights.test(-1, a, b)
        a, b, gap = (a, b, gap) if gap >= 0 else (b, a, -gap)
        half = float(t.ppf(0.5 + level / 2, free)) * error
        p = float(2 * t.sf(gap / error, free)) if error > 0 else 1.0 - (gap > 0)
        found.append({
            "better": heights.models[a], "worse": heights.models[b], **with_interval("area", gap, gap - half, gap + half),
            "p": p, "paired": bool(heights.shared[a, b]), "runs": [len(heights.each[a]), len(heights.each[b])],
        })  # fmt: skip
    for pair, p in zip(found, holm(np.array([pair["p"] for pair in found])).tolist(), strict=True):
        pair["holm_p"] = p
    return found


def _models(
    heights: _Heights,
    runs: Sequence[_Run],
    ran: Sequence[_Ran],
    parted: Array,
    level: float,
    graded: bool,
) -> list[dict[str, Any]]:
    from scipy.stats import t

    area = heights.mean[:, -1]
    order = [heights.models[m] for m in np.argsort(-area, kind="stable")]
    group, found = letters(order, heights.models, parted), []
    for m, model in enumerate(heights.models):
        of = [one for (name, _, _), one in zip(runs, ran, strict=True) if name == model]
        error = (heights.by_rows[-1, m, m] + heights.by_runs[m, -1]) ** 0.5
        free = len(of) - 1 if len(of) > 1 else heights.rows[m] - 1
        half = float(t.ppf(0.5 + level / 2, max(free, 1))) * error
        cost, worth = np.mean([one.ends for one in of], axis=0).tolist()
        found.append({
            "model": model, "runs": len(of), "rows": int(heights.rows[m]), "full_cost": cost,
            **worth_fields(worth, graded, "full_"),
            **with_interval("area", float(area[m]), float(area[m] - half), float(area[m] + half)),
            "rank": 1 + order.index(model), "group": group[model],
        })  # fmt: skip
    return sorted(found, key=lambda one: one["rank"])


def _budgets(
    heights: _Heights,
    runs: Sequence[_Run],
    ran: Sequence[_Ran],
    asked: Floats,
    level: float,
    graded: bool,
) -> list[dict[str, Any]]:
    """Return per budget which model is best, whether that is shown, and among which it is.

    The best of M is held against each other one, one-sided, times M: so whichever of several equal ones looks best, it
    wins with a chance of at most 1 - `level` (multiple comparisons with the best: Hsu, 1996, chapter 4); Holm's
    correction over budgets. Contenders of one budget hold the best with `level`.
    """
    from scipy.stats import t

    mean, found, claims = heights.mean, [], []
    paid = np.array([
        np.nanmean([o.paid for (name, _, _), o in zip(runs, ran, strict=True) if name == model], axis=0)
        for model in heights.models
    ])  # fmt: skip
    for b, budget in enumerate(asked.tolist()):
        there = np.flatnonzero(~np.isnan(mean[:, b]))
        best = int(there[np.argmax(mean[there, b])])
        behind = {}
        for other in there.tolist():
            if other != best:
                gap, error, free = heights.test(b, best, other)
                p = float(t.sf(gap / error, free)) if error > 0 else 0.5 * (gap <= 0)
                behind[other] = (min(p * len(there), 1.0), gap, error, free)
        claims.append(max((p for p, *_ in behind.values()), default=1.0))
        rivals = [m for m, (p, *_) in behind.items() if p > 1 - level]
        lead: tuple[Any, ...] = (None, None, None)
        second = None
        if behind:
            second = min(behind, key=lambda m: behind[m][1])
            _, gap, error, free = behind[second]
            half = float(t.ppf(0.5 + level / 2, free)) * error
            lead = gap, gap - half, gap + half
        names = heights.models
        found.append({
            "budget": budget, "best": names[best], "second": None if second is None else names[second],
            **with_interval("lead", *lead),
            "contenders": [names[m] for m in (best, *rivals)],
            "too_dear": [names[m] for m in range(len(names)) if m not in there],
            "quality": {names[m]: float(mean[m, b]) for m in there.tolist()},
            "cost": {names[m]: float(paid[m, b]) for m in there.tolist()},
        })  # fmt: skip
    alone = [not one["second"] for one in found]
    tested = [b for b in range(len(found)) if not alone[b]]
    corrected = dict(zip(tested, holm(np.array([claims[b] for b in tested])).tolist(), strict=True))
    for b, one in enumerate(found):
        one["p"] = corrected.get(b)
        one["winner"] = one["best"] if alone[b] or corrected[b] <= 1 - level else None
    return found


def _over_runs(
    heights: _Heights, runs: Sequence[_Run], ran: Sequence[_Ran], level: float, notes: list[str]
) -> list[dict[str, Any]]:
    """Return the tests over training runs of every metric that all models with several runs have."""
    several = [
        model for model, each in zip(heights.models, heights.each, strict=True) if len(each) > 1
    ]
    single = [model for model in heights.models if model not in several and model != JOINED]
    if single:
        notes.append(
            f"{', '.join(single)}: one training run. What rows show is of this trained model, not of how it was trained; "
            "ANOVA over rows, or over divisions of them, would take them for training runs, and means nothing"
        )
    if len(several) < 2:
        return []
    if min(len(heights.each[heights.models.index(model)]) for model in several) < 5:
        notes.append("fewer than five runs of a model: tests over runs find large differences only")
    metrics: dict[str, dict[str, list[float]]] = {}
    for (model, _, about), one in zip(runs, ran, strict=True):
        if model in several:
            for name, value in _metrics(one, about).items():
                metrics.setdefault(name, {}).setdefault(model, []).append(value)
    full = {model: metrics["area"][model] for model in several}
    return [
        {
            "metric": name,
            "less_is_better": less_is_better(name),
            **compare_runs(found, level, less=less_is_better(name)),
        }
        for name, found in metrics.items()
        if {m: len(v) for m, v in found.items()} == {m: len(v) for m, v in full.items()}
    ]


def _metrics(one: _Ran, about: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a run: area, each exit's quality, and what its metadata record of the training."""
    found = {"area": float(one.value[:, -1].mean())}
    found |= {f"quality of exit {exit_['exit']}": exit_["quality"] for exit_ in one.exits}
    training = about.get("training", {})
    told = training.items() if isinstance(training, Mapping) else ()
    return found | {
        name: float(value) for name, value in told
        if type(value) in (int, float) and np.isfinite(value) and name != "seed"
    }  # fmt: skip
