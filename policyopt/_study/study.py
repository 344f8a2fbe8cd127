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
from policyopt._frontier import Frontier, curve, path_of, split_for_seed
from policyopt._frontier import Path as Replays
from policyopt._intervals import with_interval, worth_fields
from policyopt._methods.registry import OWN_FAMILY, ROWS, method_list
from policyopt._study.exits import exit_metrics
from policyopt._study.runs import compare_runs, less_is_better, letters
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._checks import check_share, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._typing import Array, Floats, Ints

Progress = Callable[[int, int, str], None]
_CHUNK_BYTES = 1 << 28
#: Own budgets of a model in whose range too few of those in common lie.
_OWN = 3
#: What the chain of all models is called.
JOINED = "all joined"
#: Labels, and changes of label from row to row, from which on the same order is no chance.
_TELLING = 30
#: Runs of a model from which on tests over runs find more than large differences.
_RUNS = 5
#: A last part of a name that tells runs of one model apart: 0, seed1, run-2.
_RUN = re.compile(r"(?:seed|run|fold|rep|s|r)?[-_]?\d{1,6}", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Study:
    """What `study` found; lists of plain records.

    Attributes
    ----------
    models : list of dict
        Per model: runs, the full model's cost and quality, ``area``: mean height of its frontier over the budgets that
        all models with early exits can keep, with interval, and rank by it.
    budgets : list of dict
        Per budget: every model's quality and cost at it, the best, its lead over the next with interval, ``winner``
        where it is shown to be the best, and ``contenders``, among whom the best is.
    pairs : list of dict
        Per pair of models: mean difference over the budgets that both can keep, its interval, p and Holm's p.
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
    """What one entry's policies did: what each row brings at every budget, (N, B)."""

    value: Floats
    row: Ints  # (N,): the same number is the same row, or group of rows, in all entries of one universe
    universe: Any  # entries of another share no rows
    points: list[dict[str, Any]]
    exits: list[dict[str, Any]]
    training: dict[str, Any]  # what the metadata record
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
    entries, notes = _entries(caches), list[str]()
    check_whole("seeds", seeds, step="E.g. --seeds 5.")
    if not 0 < check_share("level", level) < 1:
        raise input_error("level", "over 0 and under 1", level, "E.g. 0.95.")
    unit, methods = _one_unit(entries, cost), method_list(method)
    ranges = [_costs(entry.data, cost) for entry in entries]
    every = np.unique(np.concatenate(ranges))
    asked = np.array(sorted(parse_budgets(budgets, every)))
    if join and (chain := _chain(entries, cost, notes)) is not None:
        entries, ranges = [*entries, chain], [*ranges, _costs(chain.data, cost)]
    tasks = [
        (
            entry.data if jobs == 1 else entry.source,
            spec,
            _own_budgets(asked, costs),
            asked,
            test,
            cost,
            utility,
            seeds,
        )
        for entry, costs in zip(entries, ranges, strict=True)
        for spec in methods
    ]
    named = [
        replace(e, model=f"{e.model}: {s}") if len(methods) > 1 else e
        for e in entries
        for s in methods
    ]
    ran = _in_turn(tasks, named, jobs, notes, progress)
    if paired:
        if len(counts := {len(one.row) for one in ran}) > 1:
            step = "Leave it out, or give rows names: import --key group=ID."
            raise input_error("paired", "of caches with as many test rows", sorted(counts), step)
        ran = [replace(one, universe="stated") for one in ran]
    return _judged(named, ran, asked, unit, level, notes)


# --- what is compared ---------------------------------------------------------------------------


def named_caches(paths: Sequence[str | Path]) -> dict[str, Path]:
    """Return caches by name: of ``NAME=PATH``, or of paths, those in folders of caches too; ``name/run`` of runs.

    Names are what is left of the paths after what all have in common; a last part that is a number is a run.
    """
    found, plain = dict[str, Path](), list[Path]()
    for text in map(str, paths):
        name, mark, path = text.partition("=")
        inside = (
            [at.parent for at in sorted(Path(text).rglob("manifest.json"))]
            if Path(text).is_dir()
            else []
        )
        if mark and not Path(text).exists():
            if found.setdefault(name, Path(path)) != Path(path):
                raise input_error(
                    "CACHE", "each of a name of its own", f"{name} twice", "Rename one."
                )
        else:
            plain += inside or [Path(text)]  # which says what is wrong with it
    parts = [path.resolve().parts for path in plain]
    shared = 0
    while parts and all(len(p) > shared + 1 and p[shared] == parts[0][shared] for p in parts):
        shared += 1
    for path, of in zip(plain, parts, strict=True):
        *above, last = of[shared:]
        run = above and _RUN.fullmatch(last)
        name = f"{'-'.join(above)}/{last}" if run else "-".join([*above, last])
        if found.setdefault(name, path) != path:
            raise input_error(
                "CACHE", "each of a name of its own", f"{name} twice", "Name them: NAME=CACHE."
            )
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
    if len(inside) < _OWN and len(costs) > 1:
        inside += positions(costs, _OWN).tolist()
    return sorted({*inside, float(costs[-1])})


def _chain(entries: Sequence[_Entry], name: str | None, notes: list[str]) -> _Entry | None:
    """Return the full models, cheapest first, as one cascade; those that a cheaper one beats on fit rows left out."""
    first = list({entry.model: entry for entry in reversed(entries)}.values())
    first.sort(key=lambda entry: _costs(entry.data, name)[-1])
    data, lead = [entry.data for entry in first], first[0].data
    alike = (
        len({(d.kind, d.classes, d.measure, d.pooled) for d in data}) == 1
        and KINDS[lead.kind].whole
    )
    parts, blocks = [POOL] if lead.pooled else ["fit", "test"], dict[str, Any]()
    every = [Tables(d, name) for d in data]
    tables: Any = {part: [one.get(part) for one in every] if alike else [] for part in parts}
    orders: Any = {part: _aligned(of) for part, of in tables.items()}
    if not all(orders.values()) or any(d.graded or d.cost(name).per_sample for d in data):
        notes.append(
            "not joined as one cascade: it takes the same rows, labels, outputs of one kind, a cost per exit"
        )
        return None
    kept, best = list[int](), -np.inf
    for m, one in enumerate(every):
        if (worth := float(known_rows(one.get("fit")).quality[:, -1].mean())) > best:
            kept, best = [*kept, m], worth
    models = [first[m].model for m in kept]
    if len(kept) < 2:
        notes.append(f"not joined as one cascade: {models[0]} is the cheapest and the best")
        return None
    for part, of in tables.items():
        ends = [of[m].outputs(of[m].exits - 1, orders[part][m]) for m in kept]
        group, rows = of[0].group, orders[part][0]
        blocks[part] = {"outputs": np.stack(ends, axis=1), "labels": of[0].statistics.labels[rows]}
        blocks[part] |= {} if group is None else {"group": group[rows]}
    alone = tuple(float(_costs(data[m], name)[-1]) for m in kept)
    cost = Cost(lead.cost(name).name, lead.cost(name).unit, alone, "standalone")
    pool = (
        {"split": lead.shares, "seed": lead.split_seed, **blocks[POOL]}
        if lead.pooled
        else {"splits": blocks}
    )
    more = {"costs": cost, "kind": lead.kind, "metadata": {"names": models}, **pool}
    chained = from_arrays(**more)  # type: ignore[arg-type]
    notes.append(
        f"{JOINED}: the full models {', '.join(models)} in turn, each paid where it is asked"
    )
    return _Entry(JOINED, "0", chained, chained)


def _aligned(tables: Sequence[Table]) -> list[Ints] | None:
    """Return each table's rows in an order in which they are the same ones; None where that is not known."""
    found: list[Any] = []
    for table in tables:
        universe, row = _identity(table)
        order, labels = np.argsort(row, kind="stable"), table.statistics.labels
        found.append((order, universe, row[order], None if labels is None else labels[order]))
    known = [one[3] is not None and one[1] == found[0][1] for one in found]
    same = all(known) and all(np.array_equal(one[i], found[0][i]) for one in found for i in (2, 3))
    return [one[0] for one in found] if same and found else None


def _identity(table: Table) -> tuple[Any, Ints]:
    """Return what rows are told apart by, (N,), and where: tables of one universe name the same rows alike.

    By their groups; else by their places, where all labels are the same in an order that is no chance.
    """
    if table.group is not None:
        return "groups", table.group
    places = np.arange(len(table)) if table.places is None else table.places
    if table.source is None or not table.source.has("labels"):
        return object(), places
    labels = table.source.array("labels")
    changes = int((labels[1:] != labels[:-1]).sum())
    telling = changes >= max(_TELLING, 2 * len(np.unique(labels)))
    return blake2b(labels.tobytes()).hexdigest() if telling else object(), places


# --- what is run --------------------------------------------------------------------------------


def _in_turn(
    tasks: Sequence[tuple[Any, ...]], entries: Sequence[_Entry], jobs: int, notes: list[str],
    progress: Progress | None,
) -> list[_Ran]:  # fmt: skip
    """Run the tasks, in processes where it is asked for and methods can be handed over."""
    rows = [ROWS.get(task[1].partition(":")[0]) for task in tasks]
    own = [row.name for row in rows if row is not None and row.family == OWN_FAMILY]
    if jobs > 1 and own:
        notes.append(f"one process: {own[0]} is your own, and registered in this one alone")
    if jobs == 1 or own:
        results: Any = map(_run, tasks)
    else:
        from joblib import Parallel, delayed

        results = Parallel(jobs, return_as="generator")(delayed(_run)(task) for task in tasks)
    found, told = list[_Ran](), dict[str, dict[str, None]]()
    for entry, one in zip(entries, results, strict=True):
        found.append(one)
        for text in one.notes:
            told.setdefault(text, {})[entry.model] = None
        if progress:
            progress(len(found), len(tasks), f"{entry.model}/{entry.run}")
    for text, models in told.items():
        first, *others = models
        notes.append(f"{first}{f' and {len(others)} more' if others else ''}: {text}")
    return found


def _run(task: tuple[Any, ...]) -> _Ran:
    """Fit one entry's policies and replay them; return what its rows bring."""
    source, spec, budgets, asked, test, cost, utility, seeds = task
    data = source if isinstance(source, ExitData) else open_cache(source)
    tables = Tables(data, cost, utility=utility)
    if early := data.exits > 1:
        frontier = curve(data, [spec], budgets, seeds=seeds, tables=tables, test=test)
    else:  # one cost, and no policy
        tests = {seed: split_for_seed(tables, seed, test, seeds)[1] for seed in range(seeds)}
        frontier = Frontier([], {}, [], [], tables.cost.unit, tests=tests)
    parts = []
    for seed, whole in frontier.tests.items():
        table = known_rows(whole)
        path = path_of(frontier, spec, seed, table) if early else _always(table)
        ends = float(table.mean_costs[-1]), float(table.quality[:, -1].mean())
        parts.append((*values_at(path, asked), *_identity(table), ends))
    values, paid, universes, rows, ends = zip(*parts, strict=True)
    by_exit = exit_metrics(data, test, cost=cost, tables=tables)
    return _Ran(
        np.concatenate(values), np.concatenate(rows), universes[0], frontier.records, by_exit.exits,
        dict(by_exit.training), np.mean(ends, axis=0), np.mean(paid, axis=0), frontier.graded,
        [*frontier.notes, *by_exit.notes],
    )  # fmt: skip


def _always(table: Table) -> Replays:
    """Return the replays of what has one exit, twice: a line."""
    cost = np.broadcast_to(table.costs, (len(table), 1))
    return Replays(
        np.repeat(cost, 2, axis=1), np.repeat(table.quality, 2, axis=1), table.graded, table.group
    )


def values_at(path: Replays, asked: Floats) -> tuple[Floats, Floats]:
    """Return what every row brings to the frontier's heights at B costs, (N, B), and the costs paid, (B,).

    Columns' means are the heights of the raw line through the policies, their standard errors those of heights at the
    same realised cost. NaN where even the cheapest exit costs more. Beyond the dearest policy nothing is added.
    """
    cost, quality = path.cost.mean(axis=0), path.quality.mean(axis=0)
    order = np.argsort(cost, kind="stable")
    cost, quality, last = cost[order], quality[order], len(order) - 1
    high = np.clip(np.searchsorted(cost, asked, side="right"), 1, last)
    gap, inside = cost[high] - cost[high - 1], (asked < cost[-1]) & (asked >= cost[0])
    gap = np.where(inside, gap, 1.0)
    share = np.where(inside, (asked - cost[high - 1]) / gap, 1.0)
    slope = np.where(inside, (quality[high] - quality[high - 1]) / gap, 0.0)
    weights, here = np.zeros((last + 1, len(asked))), np.arange(len(asked))
    weights[high - 1, here], weights[high, here] = 1.0 - share, share
    value = (
        path.quality[:, order] @ weights - path.cost[:, order] @ (weights * slope) + slope * asked
    )
    value[:, asked < cost[0]] = np.nan
    return value, np.where(asked < cost[0], np.nan, np.minimum(asked, cost[-1]))


# --- what can be told ---------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Heights:
    """Frontiers' heights at B budgets, of M models; NaN where a model costs more."""

    models: list[str]
    each: list[Floats]  # (R, B) per model: its runs
    rows: Ints  # (M,): rows, or groups, that count
    by_rows: Floats  # (M, B, M, B): covariance of the means over rows
    shared: Array  # (M, M) bool: whether models have rows in common

    @property
    def mean(self) -> Floats:
        """Means over runs, (M, B)."""
        return np.array([runs.mean(axis=0) for runs in self.each])

    def test(
        self, at: Sequence[int], a: int, b: int | None, level: float
    ) -> tuple[float, float, float]:
        """Return the mean difference a - b at some budgets (or a alone), its half-width and one-sided p-value."""
        from scipy.stats import t

        of = {a: 1.0} if b is None else {a: 1.0, b: -1.0}
        gap = sum(sign * float(self.mean[m, at].mean()) for m, sign in of.items())
        over_rows = sum(
            of[m] * of[n] * float(self.by_rows[m][at][:, n][:, at].mean()) for m in of for n in of
        )
        parts = [(max(over_rows, 0.0), float(min(self.rows[m] for m in of) - 1))]
        runs = [self.each[m][:, at].mean(axis=1) for m in of if len(self.each[m]) > 1]
        parts += [(float(one.var(ddof=1)) / len(one), len(one) - 1.0) for one in runs]
        variance = sum(part for part, _ in parts)
        if not variance:
            return gap, 0.0, 0.5 * (gap <= 0)
        free = variance**2 / sum(
            part**2 / max(free, 1.0) for part, free in parts
        )  # Welch & Satterthwaite
        error = variance**0.5
        return gap, float(t.ppf(0.5 + level / 2, free)) * error, float(t.sf(gap / error, free))

    def common(self, models: Sequence[int]) -> list[int]:
        """Return the numbers of the budgets that all of some models can keep."""
        return np.flatnonzero(~np.isnan(self.mean[list(models)]).any(axis=0)).tolist()


def _heights(labels: Sequence[str], ran: Sequence[_Ran]) -> _Heights:
    models = list(dict.fromkeys(labels))
    of = [[e for e, label in enumerate(labels) if label == model] for model in models]
    # Rows, or groups, by numbers that are the same in all entries of one universe.
    at, units = [np.empty(0, np.int64)] * len(ran), 0
    for universe in dict.fromkeys(one.universe for one in ran):
        members = [e for e, one in enumerate(ran) if one.universe == universe]
        known, codes = np.unique(np.concatenate([ran[e].row for e in members]), return_inverse=True)
        ends = np.cumsum([len(ran[e].row) for e in members])[:-1]
        for e, part in zip(members, np.split(codes.reshape(-1), ends), strict=True):
            at[e] = part + units
        units += len(known)
    touched = np.zeros((len(models), units), dtype=np.float32)
    for m, mine in enumerate(of):
        touched[m, np.concatenate([at[e] for e in mine])] = 1.0
    rows, budgets = touched.sum(axis=1, dtype=np.int64), ran[0].value.shape[1]
    by_rows = np.zeros((len(models) * budgets,) * 2)
    step = max(_CHUNK_BYTES // (8 * len(by_rows)), 1)
    for low in range(0, units, step):
        # What a row adds to a model's means: differences of these have the error of a paired t-test.
        block = np.zeros((len(models), budgets, min(step, units - low)))
        for m, e in ((m, e) for m, mine in enumerate(of) for e in mine):
            here = (at[e] >= low) & (at[e] < low + step)
            value, weight = (
                ran[e].value,
                (rows[m] / max(rows[m] - 1, 1)) ** 0.5 / (len(at[e]) * len(of[m])),
            )
            add = weight * np.nan_to_num(value[here] - value.mean(axis=0))
            for b in range(budgets):
                block[m, b] += np.bincount(at[e][here] - low, add[:, b], block.shape[2])
        flat = block.reshape(len(by_rows), -1)
        by_rows += flat @ flat.T
    shape = (len(models), budgets, len(models), budgets)
    each = [np.array([ran[e].value.mean(axis=0) for e in mine]) for mine in of]
    return _Heights(models, each, rows, by_rows.reshape(shape), (touched @ touched.T) > 0)


def _judged(
    entries: Sequence[_Entry],
    ran: Sequence[_Ran],
    asked: Floats,
    unit: str,
    level: float,
    notes: list[str],
) -> Study:
    """Hold models against each other."""
    heights = _heights([entry.model for entry in entries], ran)
    mine = dict[str, list[_Ran]]()
    for entry, one in zip(entries, ran, strict=True):
        mine.setdefault(entry.model, []).append(one)
    graded = any(one.graded for one in ran)
    pairs = _pairs(heights, level)
    points, exits = (
        [
            {"model": e.model, "run": e.run, **r}
            for e, o in zip(entries, ran, strict=True)
            for r in getattr(o, name)
        ]
        for name in ("points", "exits")
    )
    return Study(
        _models(heights, mine, pairs, level, graded), _budgets(heights, mine, asked, level), pairs,
        _over_runs(heights, entries, ran, level, notes), points, exits, unit, level, graded, notes,
    )  # fmt: skip


def _pairs(heights: _Heights, level: float) -> list[dict[str, Any]]:
    """Return each pair's mean difference over the budgets that both can keep, by paired t where rows are shared."""
    found = []
    for pair in combinations(range(len(heights.models)), 2):
        at = heights.common(pair)
        if not at:
            continue
        a, b = pair if heights.test(at, *pair, level)[0] >= 0 else pair[::-1]
        gap, half, p = heights.test(at, a, b, level)
        found.append({
            "better": heights.models[a], "worse": heights.models[b],
            **with_interval("area", gap, gap - half, gap + half), "budgets": len(at), "p": 2 * p, "holm_p": 1.0,
            "paired": bool(heights.shared[a, b]), "runs": [len(heights.each[a]), len(heights.each[b])],
        })  # fmt: skip
    for one, p in zip(found, holm(np.array([one["p"] for one in found])).tolist(), strict=True):
        one["holm_p"] = p
    return found


def _models(
    heights: _Heights,
    of: Mapping[str, list[_Ran]],
    pairs: Sequence[dict[str, Any]],
    level: float,
    graded: bool,
) -> list[dict[str, Any]]:
    # A model without early exits, or a chain, does not narrow for all others where they are compared.
    early = [
        m for m, (name, runs) in enumerate(of.items()) if name != JOINED and len(runs[0].exits) > 1
    ]
    at, found = heights.common(early or range(len(of))), []
    for m, (model, mine) in enumerate(of.items()):
        there = bool(at) and set(at) <= set(heights.common([m]))
        area, half, _ = heights.test(at, m, None, level) if there else (None, 0.0, None)
        ends = (None, None) if area is None else (area - half, area + half)
        cost, worth = np.mean([one.ends for one in mine], axis=0).tolist()
        found.append({
            "model": model, "runs": len(mine), "rows": int(heights.rows[m]), "full_cost": cost,
            **worth_fields(worth, graded, "full_"), **with_interval("area", area, *ends),
        })  # fmt: skip
    found.sort(key=lambda one: -1.0 if one["area"] is None else one["area"], reverse=True)
    parted = {
        frozenset((pair["better"], pair["worse"])) for pair in pairs if pair["holm_p"] <= 1 - level
    }
    group = letters([one["model"] for one in found if one["area"] is not None], parted)
    return [
        {**one, "rank": None if one["area"] is None else 1 + i, "group": group.get(one["model"])}
        for i, one in enumerate(found)
    ]


def _budgets(
    heights: _Heights, of: Mapping[str, list[_Ran]], asked: Floats, level: float
) -> list[dict[str, Any]]:
    """Return per budget which model is best, whether that is shown, and among which it is.

    The best of M is held against each other one, one-sided, times M: so whichever of several equal ones looks best, it
    wins with a chance of at most 1 - `level` (multiple comparisons with the best: Hsu, 1996, chapter 4); Holm's
    correction over budgets. Contenders of one budget hold the best with `level`.
    """
    mean, names, found, claims = heights.mean, heights.models, [], []
    for b, budget in enumerate(asked.tolist()):
        there = [m for m in range(len(names)) if not np.isnan(mean[m, b])]
        best, *others = sorted(there, key=lambda m: -mean[m, b])
        leads = {m: heights.test([b], best, m, level) for m in others}
        p = {m: min(lead[2] * len(there), 1.0) for m, lead in leads.items()}
        claims.append(max(p.values(), default=0.0))  # 0: no other can be afforded
        gap, half, _ = leads[others[0]] if others else (None, 0.0, None)
        ends = (None, None) if gap is None else (gap - half, gap + half)
        found.append({
            "budget": budget, "best": names[best], "next": names[others[0]] if others else None,
            **with_interval("lead", gap, *ends), "winner": None, "p": None,
            "contenders": [names[m] for m in (best, *(m for m in others if p[m] > 1 - level))],
            "too_dear": [name for m, name in enumerate(names) if m not in there],
            "quality": {names[m]: float(mean[m, b]) for m in there},
            "cost": {names[m]: float(np.mean([one.paid[b] for one in of[names[m]]])) for m in there},
        })  # fmt: skip
    for one, p in zip(found, holm(np.array(claims)).tolist(), strict=True):
        one["p"] = p if one["next"] else None
        one["winner"] = one["best"] if p <= 1 - level else None
    return found


def _over_runs(
    heights: _Heights,
    entries: Sequence[_Entry],
    ran: Sequence[_Ran],
    level: float,
    notes: list[str],
) -> list[dict[str, Any]]:
    """Return the tests over training runs of every metric that all models with several runs have."""
    counts = {model: len(each) for model, each in zip(heights.models, heights.each, strict=True)}
    several = {model: count for model, count in counts.items() if count > 1}
    if single := [model for model in counts if model not in several and model != JOINED]:
        notes.append(
            f"{', '.join(single)}: one training run. What rows show is of this trained model, not of how it was "
            "trained; ANOVA over rows, or over divisions of them, would take them for training runs: it means nothing"
        )
    if len(several) < 2:
        return []
    if min(several.values()) < _RUNS:
        notes.append(
            f"fewer than {_RUNS} runs of a model: tests over runs find large differences only"
        )
    at = heights.common([heights.models.index(model) for model in several])
    areas = [
        (m, runs[:, at].mean(axis=1).tolist())
        for m, runs in zip(heights.models, heights.each, strict=True)
    ]
    metrics = {"area": {m: runs for m, runs in areas if m in several}} if at else {}
    # Exits are held against exits of models that have as many.
    exits = max(len(one.exits) for one in ran)
    for entry, one in zip(entries, ran, strict=True):
        for name, value in _metrics(one, exits).items() if entry.model in several else ():
            metrics.setdefault(name, {}).setdefault(entry.model, []).append(value)
    return [
        {
            "metric": name,
            "less_is_better": (less := less_is_better(name)),
            **compare_runs(found, level, less=less),
        }
        for name, found in sorted(
            metrics.items(), key=lambda m: not m[0].startswith(("area", "quality"))
        )
        if len(found) > 1 and all(len(runs) == several[model] for model, runs in found.items())
    ]


def _metrics(one: _Ran, exits: int) -> dict[str, float]:
    """Return the numbers of a run: of its exits, if they are as many, and what its metadata record of the training."""
    found: dict[str, Any] = {
        f"{name} of exit {exit_['exit']}": exit_.get(name)
        for name in ("quality", "loss", "accuracy_gap")
        for exit_ in (one.exits if len(one.exits) == exits else ())
    }
    found |= {name: value for name, value in one.training.items() if name != "seed"}
    return {k: float(v) for k, v in found.items() if type(v) in (int, float) and np.isfinite(v)}
