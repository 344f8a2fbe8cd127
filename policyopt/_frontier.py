"""The frontier: policies of several methods over a range of budgets, and their comparison.

Two policies never cost exactly the same on rows that chose nothing. So `compare` holds each point of a method
against its rival's frontier *at that point's realised cost*, where the rival mixes its two neighbouring policies,
which is a policy too. Rows are resampled together for both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import starmap
from typing import Any
from uuid import uuid4

import numpy as np

from policyopt._abstain import Declining, decline_or_refuse, declining
from policyopt._cache.data import ExitData, some_rows
from policyopt._costs import Budget, parse_budgets
from policyopt._engine import run
from policyopt._intervals import (
    bootstrap_means,
    by_group,
    interval,
    mean_interval,
    quality_fields,
    with_interval,
    worth_fields,
)
from policyopt._kept import KeptCells
from policyopt._limits import NEAR
from policyopt._methods.base import Method, cheapest, check_budgets, fit_or_refuse
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import (
    ROWS,
    at_most,
    here_only,
    load_installed,
    make_method,
    method_list,
    own_method,
)
from policyopt._methods.targets import Target, targets_of
from policyopt._metrics import metric_fields
from policyopt._progress import report, working
from policyopt._replay import Replay, replay
from policyopt._table import Table, Tables, known_rows, subsample, tables_of, unlabelled
from policyopt._tables import caption, paper_table
from policyopt._testing import gaps, ranked
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._checks import check_one_of, check_seed, check_whole
from policyopt.runtime._errors import BudgetError, InputError, input_error
from policyopt.runtime._policy import Policy, over_model_exits
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Array, Bools, Floats, Ints

#: With named splits, seeds after the first refit on this share of the fit rows, drawn anew.
REFIT_SHARE = 0.8
#: Fields of a record that a bound does not have.
_UNKNOWN_OF_BOUND = (
    "realised_cost_low", "realised_cost_high", "accuracy_low", "accuracy_high", "quality_low", "quality_high",
    "exit_share", "thresholds", "mixture", "target", "active_exits", "chosen",
)  # fmt: skip
#: What is tested, by what seeds are.
_TESTS = {
    "rows": "paired t of rows, Holm",
    "divisions": "corrected resampled t of {} divisions, Holm",
    "refits": "t of rows and {} refits, Holm",
}
#: Rows by which policies are held against each other, random ones: differences of means to 0.1 points and better.
MOST_COMPARED = 1_000_000
_PIECE = 1 << 20  # rows looked at at a time
#: Coins of its own: a policy that draws must not meet the same numbers (it uses streams 0..K).
_STREAM = 1 << 32


@dataclass(frozen=True, repr=False)
class Frontier(Shown):
    """What `curve` found."""

    records: list[dict[str, Any]]  # one per method, budget and seed; see `record`
    fitted: dict[tuple[str, int, int], Fitted]  # by method, seed and number of the budget
    exits: list[dict[str, Any]]  # always leaving at k: cost, quality (of the fit: fit_...), seed
    bound: list[dict[str, Any]]  # the hindsight oracle, not deployable: budget, quality, seed
    unit: str
    notes: list[str] = field(default_factory=list)  # methods left out, and why
    tests: dict[int, Table] = field(default_factory=dict)  # the rows replayed on, per seed
    fit_rows: int = 0  # of the first seed
    refits: bool = False  # whether seeds refit on parts of these, and do not divide all rows anew

    @property
    def graded(self) -> bool:
        """Whether quality is more than right or wrong."""
        return any(table.graded for table in self.tests.values())

    def table(self, style: str = "latex") -> str:
        """Return methods by budgets for a paper, see `Comparison.table`."""
        return compare(self).table(style)


@working("fitting")
def curve(
    data: ExitData,
    methods: str | Sequence[str] | Mapping[str, Method],
    budgets: int | float | str | Target | Sequence[Budget | Target] = 9,
    *,
    seeds: int = 1,
    cost: str | None = None,
    test: str = "test",
    tables: Tables | None = None,
    utility: Any = None,
    metric: str | None = None,
    abstain: float | str | None = None,
    abstain_cost: float | None = None,
    abstain_quality: float | None = None,
    abstain_score: str | None = None,
    head_cost: Any = None,
    max_exits: int | None = None,
    keep: str | os.PathLike[str] | None = None,
) -> Frontier:
    """Fit methods at several budgets on split `fit` and replay them on the test rows.

    Parameters
    ----------
    data : ExitData
    methods : str, sequence of str, or mapping of label to Method
        Names (``"max_prob"``), specs (``"max_prob:thresholds=joint"``), or ``"all"``.
    budgets : int, float, str or sequence
        See `policyopt._costs.parse_budgets`; or a `Target`, or several.
    seeds : int
        A pool is divided anew for each seed. Named splits stay as they are: seeds after the
        first refit on a random 80 % of the fit rows, so the spread shows the fit's own noise.
    cost : str, optional
        Name of the cost to use.
    test : str
        Split or stream to replay on.
    tables : Tables, optional
        Reuse of passes already made, with the utility and the heads that they have.
    utility : as in `fit`, optional
        What answers are worth.
    metric : {"accuracy", "balanced_accuracy", "macro_f1"}, optional
        What records hold besides, with an interval.
    abstain and its kin
        As `fit` takes them. Quality and cost then count who is handed over, and records tell coverage and the
        quality of the answers given; there is no bound in hindsight.
    head_cost, max_exits : as in `fit`, optional
        Records say which exits are kept (``active_exits``).
    keep : path, optional
        Folder in which each method is kept, for each seed, as soon as it is fitted: the same call goes on where it
        stopped. About 16 bytes per fit row and budget. Methods and scores of your own are not: their code may change.

    Returns
    -------
    Frontier

    Raises
    ------
    InputError
        Unknown method, missing split, or no labels.
    BudgetError
        A budget that cannot be met.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> frontier = po.curve(data, ["max_prob", "margin"], budgets="40%,60%")
    >>> [(r["method"], r["budget"]) for r in frontier.records]
    [('max_prob', 1.6), ('max_prob', 2.4), ('margin', 1.6), ('margin', 2.4)]
    """
    tables = tables_of(data, cost, tables, utility, head_cost)
    asked = declining(abstain, abstain_cost, abstain_quality, abstain_score)
    chosen, notes = _choose(methods, tables.get("fit"))
    chosen = {label: at_most(method, max_exits) for label, method in chosen.items()}
    check_whole("seeds", seeds, step="E.g. --seeds 5.")
    for method in chosen.values():
        method.check(known_rows(tables.get("fit")))  # before the first has worked for minutes
    of_fits: dict[str, Any] = {"fit_rows": len(tables.get("fit")), "refits": not data.pooled}
    frontier = Frontier([], {}, [], [], tables.cost.unit, notes, **of_fits)
    cells = _Cells(tables, budgets, test, seeds, asked, metric)
    kept = None if keep is None else cells.kept(keep, notes)
    tasks = [(seed, *one) for seed in range(seeds) for one in chosen.items()]
    refused: BudgetError | None = None
    with here_only(next(filter(None, starmap(cells.own, chosen.items())), ""), notes):
        done = run(cells, tasks, [label for _, label, _ in tasks], kept)
        for seed in range(seeds):
            fit_rows, test_rows, wanted = cells.rows(seed)
            frontier.tests[seed] = test_rows
            if not seed and not test_rows.labelled and test_rows.valued.any():
                notes.append(unlabelled(test_rows))
            for label, found in zip(chosen, done, strict=False):
                for index, (fitted, of) in enumerate(found):
                    if isinstance(fitted, BudgetError):
                        refused = refused or fitted
                        notes.append(left_out(label, wanted[index], frontier.unit, fitted))
                        continue
                    frontier.fitted[label, seed, index] = fitted
                    frontier.records.append(of)
            most = [target.most(fit_rows) for target in wanted]
            bounded = [b for b in most if b is not None and asked is None]
            _references(frontier, fit_rows, test_rows, bounded, seed, data.names)
    report(len(tasks), len(tasks), "done")
    if kept is not None and kept.found:
        notes.append(f"{len(kept.found)} of {len(tasks)} fits were kept in {keep}")
    if refused is not None and not frontier.records:
        raise refused
    return frontier


@dataclass
class _Cells:
    """Fits a method for a seed and replays it: what cells of a curve share, and what each does."""

    tables: Tables
    budgets: Any
    test: str
    seeds: int
    asked: Declining | None
    metric: str | None
    last: dict[int, Any] = field(default_factory=dict)  # rows of a seed, which stay in this process

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "last": {}}

    def rows(self, seed: int) -> tuple[Table, Table, list[Target]]:
        """Return a seed's fit and test rows, and what is asked of them."""
        if (found := self.last.get(seed)) is None:
            fit_rows, test_rows = split_for_seed(self.tables, seed, self.test, self.seeds)
            # Per-sample costs have other means in each division: shares and positions move along.
            found = fit_rows, test_rows, targets_in(self.budgets, fit_rows)
            self.last = {seed: found}
        return found

    def __call__(self, task: tuple[int, str, Method]) -> list[tuple[Fitted | BudgetError, Any]]:
        """Return of each budget the fitted policy and its record, or why there is none."""
        (seed, label, method), asked = task, self.asked
        fits: Any = fit_or_refuse if asked is None else partial(decline_or_refuse, asked=asked)
        fit_rows, test_rows, wanted = self.rows(seed)
        found = fits(method, fit_rows, wanted, seed)
        rows = test_rows, seed, self.metric
        return [(f, None if isinstance(f, BudgetError) else record(label, f, *rows)) for f in found]

    def own(self, label: str, method: Method) -> str:
        """Return the name of what is of one's own in a cell; else nothing."""
        return own_method(f"{label} {self.asked.score if self.asked else ''}", method)

    def kept(self, folder: Any, notes: list[str]) -> KeptCells:
        """Return the cells of the same data and wishes that are kept in a folder."""
        tables, data = self.tables, self.tables.data
        shards: Any = None  # their order divides a pool
        if data.kept is not None:
            same = all(data.kept.splits.get(n) is rows for n, rows in data.splits.items())
            shards = [shard.file for shard in data.kept.shards] if same else uuid4().hex
        facts = {
            "cache": data.fingerprint, "shards": shards, "division": data.division(), "cost": repr(tables.cost),
            "costs": repr(tables.costs), "utility": tables.utility and tables.utility.digest,
            "budgets": repr(self.budgets), "test": self.test, "asked": repr(self.asked), "metric": self.metric,
            "whole": self.seeds == 1,
        }  # fmt: skip
        return KeptCells(folder, facts, self.own, notes)


def targets_in(budgets: Any, table: Table) -> list[Target]:
    """Return budgets, as people write them, or targets, for a table; budgets that none can meet are refused."""
    budgets = [budgets] if isinstance(budgets, Target) else budgets
    several = isinstance(budgets, Sequence) and not isinstance(budgets, str)
    if several and any(isinstance(one, Target) for one in budgets):
        found = targets_of(budgets, table)
    else:
        ends = table.mean_costs.copy()
        ends[0] = min(ends[0], cheapest(table))  # whoever jumps may begin with any model
        found = targets_of(parse_budgets(budgets, ends, table.unit), table)
    for target in found:
        target.check(table)
    most = [target.most(table) for target in found]
    check_budgets(table, [budget for budget in most if budget is not None])
    return found


def left_out(label: str, target: Target, unit: str, why: BudgetError) -> str:
    """Return what is said of a method that cannot do what is asked."""
    if target.floored or target.limits:
        return f"{label} left out at {target.text}: {why}"
    said = f"{target.budget:.6g} {unit}" if isinstance(target.budget, float) else target.text
    return f"{label} left out at {said}: with its own arithmetic it cannot cost so little"


def _choose(
    methods: str | Sequence[str] | Mapping[str, Method], table: Table
) -> tuple[dict[str, Method], list[str]]:
    """Build the methods; under "all", leave out what trains for minutes or lacks its columns."""
    if isinstance(methods, Mapping) and methods:
        return {n: m if isinstance(m, Method) else make_method(m) for n, m in methods.items()}, []
    names = method_list([] if isinstance(methods, Mapping) else methods)
    if names != ["all"]:
        return {spec: make_method(spec) for spec in names}, []
    load_installed()
    chosen, notes = {}, []
    for name, row in ROWS.items():
        if row.trains:
            notes.append(f"{name} left out: it trains a network per budget, for minutes; name it")
            continue
        method = make_method(name)
        if missing := method.missing_columns(table):
            notes.append(f"{name} left out: it needs {', '.join(missing)}, which is not there")
        else:
            chosen[name] = method
    if not chosen:
        raise InputError("No method works on these summaries. Import full logits.")
    return chosen, notes


def split_for_seed(tables: Tables, seed: int, test: str, seeds: int) -> tuple[Table, Table]:
    """Return the fit and test tables of a seed (see `curve`)."""
    if tables.data.pooled:
        # One seed: the division the cache states. Several: divisions 0, 1, ...
        division = None if seeds == 1 else seed
        return tables.get("fit", division), tables.get(test, division)
    fit_rows = tables.get("fit")
    if seed:
        count = max(int(REFIT_SHARE * len(fit_rows)), 1)
        fit_rows = fit_rows.take(some_rows(len(fit_rows), count, seed, fit_rows.group))
    return fit_rows, tables.get(test)


def record(
    label: str, fitted: Fitted, table: Table, seed: int, metric: str | None = None
) -> dict[str, Any]:
    """Replay a fitted policy on rows that chose nothing and describe what happened, in plain types."""
    outcome = replay(fitted.policy, table)
    more = {} if metric is None else told_metric(metric, table, outcome, seed)
    return {
        "method": label,
        "budget": fitted.budget,
        "target": fitted.policy.provenance.get("target"),
        "chosen": fitted.policy.provenance.get("chosen", {}).get("method"),
        "unit": table.unit,
        **{**more, **summary(outcome, fitted.policy, seed)},
        **threshold_fields(fitted.policy),
        "active_exits": list(fitted.policy.active_exits),
        **with_interval("expected_cost", fitted.expected.cost, *fitted.expected.stated),
        "seed": seed,
    }


def told_metric(name: str, table: Table, outcome: Replay, seed: int = 0) -> dict[str, Any]:
    """Return a metric of a replay's answers as fields; super-classes count as the label where that is in them."""
    labels, said, worth = table.statistics.labels, outcome.prediction, table.utility
    exits, group = outcome.exit, outcome.group
    if labels is not None and (labels >= 0).any():
        known = labels >= 0
        labels, said, exits = labels[known], said[known], exits[known]
        group = None if group is None else group[known]
    if worth is not None and worth.mixed and labels is not None:
        if name == "macro_f1":
            step = "F1 counts by class what was answered wrongly, and a super-class is several."
            allowed = "accuracy or balanced_accuracy where exits answer super-classes"
            raise input_error("metric", allowed, name, step)
        said = worth.in_classes(labels, said, exits)
    return metric_fields(name, labels, said, seed, group)


def summary(outcome: Replay, policy: Any, seed: int = 0) -> dict[str, Any]:
    """Return realised cost, accuracy and quality of a replay, with 95 % intervals (see `quality_fields`)."""
    declines = getattr(policy, "abstention", None) is not None
    found = told(outcome, span_of(policy), declines, seed)
    if outcome.turn is not None:
        found["asked_share"] = (outcome.turn > 0).mean(axis=0).tolist()
    return found


def span_of(policy: Any) -> float:
    """Return by how much mean costs of rows may differ."""
    return policy.span if isinstance(policy, RoutingPolicy) else float(np.ptp(policy.costs))


def told(outcome: Replay, span: float, declines: bool, seed: int = 0) -> dict[str, Any]:
    """Return the same of rows whose costs may lie so far apart: where all leave at one exit, another may not."""
    known = ~np.isnan(outcome.quality)
    at: Any = slice(None) if known.all() else known  # no copy of many rows
    correct, group = (None if a is None else a[at] for a in (outcome.correct, outcome.group))
    cost = mean_interval(outcome.cost, span=span, seed=seed, group=outcome.group)
    return {
        **with_interval("realised_cost", cost.mean, cost.low, cost.high),
        "effective_rows": cost.effective_rows,
        **quality_fields(outcome.quality[at], correct, outcome.graded, seed, group),
        "exit_share": outcome.exit_share.tolist(),
        "rows": len(outcome.exit),
        "labelled": int(known.sum()),
        **(_answered(outcome) if declines else {}),
    }


def _answered(outcome: Replay) -> dict[str, Any]:
    """Return coverage and selective quality of a policy that may decline; quality and cost are those of all rows."""
    kept = outcome.quality[~outcome.abstained]
    known = kept[~np.isnan(kept)]
    found = worth_fields(float(known.mean()) if len(known) else None, outcome.graded, "selective_")
    return {"coverage": len(kept) / len(outcome.exit), **found}


def threshold_sets(policy: Policy) -> list[Floats]:
    """Return the thresholds of a policy, (K-1,) each: one set, or two where it mixes."""
    sets = [policy.thresholds]
    return sets if policy.mixture is None else [*sets, policy.mixture.thresholds]


def threshold_fields(policy: Any) -> dict[str, Any]:
    """Return a policy's thresholds for a record, over all exits: never at those it skips; routing has none."""
    if isinstance(policy, RoutingPolicy):
        return {"thresholds": None, "mixture": None}
    sets, mixture = threshold_sets(policy), policy.mixture
    whole = [over_model_exits(t, policy.active_exits, policy.model_exits).tolist() for t in sets]
    if mixture is None:
        return {"thresholds": whole[0], "mixture": None}
    return {"thresholds": None, "mixture": {"thresholds": whole, "share": mixture.share}}


def over_seeds(records: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group a method's records at one budget, all seeds; budgets that differ are matched by position."""
    methods: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for record in records:
        methods.setdefault(record["method"], {}).setdefault(record["seed"], []).append(record)
    groups = []
    for seeds in methods.values():
        places: dict[Any, list[dict[str, Any]]] = {}
        alike = len({len(found) for found in seeds.values()}) == 1
        for found in seeds.values():
            for place, record in enumerate(found):
                places.setdefault(place if alike else record["budget"], []).append(record)
        groups += places.values()
    return groups


def means_over(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the means of the fields that are numbers or exit shares."""
    return {
        name: np.mean([record[name] for record in records], axis=0).tolist()
        for name, value in records[0].items()
        if isinstance(value, float) or (name == "exit_share" and value is not None)
    }


# --- what is no policy: always the same exit, and the bound in hindsight -----------------------


def _references(
    frontier: Frontier, fit_rows: Table, table: Table, budgets: Sequence[float], seed: int, names: Sequence[str]
) -> None:  # fmt: skip
    paid, table = exit_means(table)[0], known_rows(table)  # of all rows, as policies' costs are
    columns = [paid, exit_means(table)[1], *exit_means(known_rows(fit_rows))]
    for k, (cost, value, fit_cost, fit_value) in enumerate(zip(*columns, strict=True)):
        one = {"exit": k, "cost": cost, **worth_fields(value, table.graded), "seed": seed}
        one |= {"fit_cost": fit_cost, "fit_quality": fit_value}
        frontier.exits.append(one | ({"name": names[k]} if names else {}))
    for budget, value in zip(budgets, oracle(table, budgets), strict=True):
        record = {"method": "oracle", "deployable": False, "budget": budget, "unit": table.unit}
        record |= {"realised_cost": budget, **worth_fields(float(value), table.graded)}
        frontier.bound.append({**record, **dict.fromkeys(_UNKNOWN_OF_BOUND), "seed": seed})


def exit_means(table: Table) -> tuple[list[float], list[Any]]:
    """Return each exit's mean cost, kept by itself, and quality, None where labels are unknown."""
    costs = np.atleast_2d(table.standalone_costs).mean(axis=0).tolist()
    return costs, table.mean_quality.tolist() if table.labelled else [None] * len(costs)


def beside_full(table: Table, cost: Floats, quality: Floats) -> dict[str, Any]:
    """Return the last exit's cost, by itself, and quality, and how a policy's, (N,) each, differ, by paired rows."""
    known = known_rows(table)
    full, worth = exit_means(table)[0][-1], exit_means(known)[1][-1]
    gap = quality[~np.isnan(quality)] - known.check_quality()[:, -1]
    found = {"full_cost": full, **worth_fields(worth, table.graded, "full_")}
    found["saving"] = 1.0 - float(cost.mean()) / full
    return found | with_interval("to_full", *mean_interval(gap, span=1.0, group=known.group)[:3])


def oracle(table: Table, budgets: Sequence[float]) -> Floats:
    """Return the hindsight oracle's quality, (B,): the exact fractional multiple-choice knapsack."""
    # Each row climbs the upper hull of its exits' costs and qualities, steepest steps of all rows first (Sinha &
    # Zoltners, Operations Research 27, 1979); right or wrong, that is one step, to the cheapest right exit.
    quality, alone = table.check_quality(), table.standalone_costs
    weight = np.ones(len(table))
    if alone.ndim == 1:  # rows of the same qualities are one row of their number
        quality, counts = _patterns(quality)
        weight = counts.astype(np.float64)
    quality, rows = quality.astype(np.float64), np.arange(len(quality))
    alone = np.broadcast_to(alone, quality.shape)
    at = np.where(alone <= alone.min(axis=1, keepdims=True), quality, -1.0).argmax(axis=1)
    cost, value = [weight @ alone[rows, at] / len(table)], [weight @ quality[rows, at] / len(table)]
    steps = [np.empty((0, 3))]
    while len(rows):
        dearer = alone[rows] - alone[rows, at][:, None]
        better = quality[rows] - quality[rows, at][:, None]
        up = (dearer > 0) & (better > 0)
        slope = np.where(up, better / np.where(up, dearer, 1.0), 0.0)
        best = slope.max(axis=1, keepdims=True)
        onward = np.where(up & (slope >= best), dearer, 0.0).argmax(axis=1)  # of one line, its end
        moving, here = up.any(axis=1), np.arange(len(rows))
        step = [dearer[here, onward], better[here, onward], weight[rows]]
        steps.append(np.stack(step, axis=1)[moving])
        rows, at = rows[moving], onward[moving]
    whole = np.concatenate(steps)
    order = np.argsort(-whole[:, 1] / np.maximum(whole[:, 0], 1e-300), kind="stable")
    rising = np.cumsum(whole[order, :2] * whole[order, 2:], axis=0) / len(table)
    costs = np.append(cost, cost[0] + rising[:, 0])
    values = np.append(value, value[0] + rising[:, 1])
    return np.interp(budgets, costs, values)


def _patterns(quality: Array) -> tuple[Array, Ints]:
    """Return the distinct rows of (N, K), and how many there are of each; of grades all rows, one each."""
    if quality.dtype != bool or quality.shape[1] > 62:
        return quality, np.ones(len(quality), np.int64)
    bits, found = 1 << np.arange(quality.shape[1]), list[tuple[Ints, Ints]]()
    for low in range(0, len(quality), _PIECE):
        found.append(np.unique(quality[low : low + _PIECE] @ bits, return_counts=True))
    code, of = np.unique(np.concatenate([codes for codes, _ in found]), return_inverse=True)
    counts = np.bincount(of, weights=np.concatenate([counts for _, counts in found]))
    return (code[:, None] & bits) > 0, counts.astype(np.int64)


# --- comparison at equal realised cost -------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """A method's replays over all budgets on the same rows, after "all leave at exit 0", (N, P) each."""

    cost: Floats
    quality: Floats
    graded: bool = False
    group: Ints | None = None  # (N,), see `Table.group`


def path_of(frontier: Frontier, label: str, seed: int, table: Table) -> Path:
    """Replay a method's policies on a table, cheapest end first."""
    chosen = [f for (name, s, _), f in frontier.fitted.items() if name == label and s == seed]
    if not chosen:
        raise input_error("method", "one of the fitted methods", label, "Fit it first.")
    return path_through([fitted.policy for fitted in chosen], table)


def path_through(policies: Sequence[Policy], table: Table) -> Path:
    """Replay policies of rising budgets on a table; beyond the dearest nothing is added: more need not be spent."""
    table = known_rows(table)
    outcomes = [replay(policy, table) for policy in policies]
    costs, right = np.broadcast_to(table.costs, (len(table), table.exits)), table.quality
    paid = np.stack([costs[:, 0], *(o.cost for o in outcomes)], axis=1)
    earned = np.stack([right[:, 0], *(o.quality for o in outcomes)], axis=1)
    return Path(paid, earned, table.graded, table.group)


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown, Sequence[dict[str, Any]]):
    """What `compare` found: as a sequence, its records.

    Attributes
    ----------
    records : list of dict
        Per method and seed: one per budget (difference at equal realised cost, its interval, rows
        better and worse, McNemar's p or None where quality is graded), then one with ``budget`` None that
        holds the area between the curves. After them, of several seeds, their means with ``seed`` None (also of ends
        of intervals, which overlapping splits of one pool do not narrow) and ``area_sd``.
    ranking : list of dict
        Methods by mean quality at equal realised cost: of all budgets (``budget`` None), then at each. ``difference``
        to the reference, its 95 % interval, ``holm_p`` of it, corrected for all pairs there are; ``group``: methods
        that share a letter are not told apart; ``among_best``: not told apart from the first.
    pairs : list of dict
        The tests behind it, of each pair: ``better``, ``worse``, ``difference``, its interval, ``p``, ``holm_p``.
    test : str
        Of what they are: rows (one seed), divisions of a pool, or refits.
    """

    records: list[dict[str, Any]]
    ranking: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    reference: str
    unit: str
    graded: bool
    seeds: int
    test: str

    def __getitem__(self, at: Any) -> Any:
        """Return a record, or several."""
        return self.records[at]

    def __len__(self) -> int:
        """Return how many records there are."""
        return len(self.records)

    def table(self, style: str = "latex") -> str:
        """Return methods by budgets for a paper, best first, as ``"latex"``, ``"markdown"`` or ``"csv"``."""
        columns: dict[str, dict[str, Any]] = {}
        for one in sorted(self.ranking, key=lambda one: one["budget"] is None):  # means last
            head = "mean" if one["budget"] is None else f"{one['budget']:.4g}"
            mark = 2 if one["rank"] == 1 else int(one["among_best"])
            columns.setdefault(head, {})[one["method"]] = one["quality"], mark
            if head == "mean":
                columns.setdefault("group", {})[one["method"]] = one["group"]
        told = caption(self.graded, self.unit, 0.95, _TESTS[self.test].format(self.seeds))
        return paper_table(style, "method", list(columns["mean"]), columns, told)


@working("comparing")
def compare(
    frontier: Frontier, reference: str | None = None, first: int | None = None
) -> Comparison:
    """Compare every method of a frontier with a reference, and rank them all, at equal realised cost.

    Parameters
    ----------
    frontier : Frontier
        From `curve`, with at least two methods.
    reference : str, optional
        Default: the first method.
    first : int, optional
        Tell of the first so many budgets of `curve`; default all. The others draw the frontiers between: where two
        policies lie far apart, a coin between them is a poor rival.

    Returns
    -------
    Comparison
        Its records as a sequence; ``ranking`` and ``pairs``.

    Raises
    ------
    InputError
        Fewer than two methods, or an unknown reference.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> compared = po.compare(po.curve(data, ["random", "max_prob"], budgets=[2.5]))
    >>> point, area = compared
    >>> point["method"], point["reference"], bool(point["difference"] > 0.02)
    ('max_prob', 'random', True)
    >>> [(one["method"], one["group"]) for one in compared.ranking if one["budget"] is None]
    [('max_prob', 'a'), ('random', 'b')]
    """
    labels = list(dict.fromkeys(name for name, _, _ in frontier.fitted))
    reference = reference or labels[0]
    check_one_of("reference", reference, labels, "Add it to --methods.")
    if len(labels) < 2:
        raise input_error("methods", "two or more", labels, "E.g. --methods max_prob,margin.")
    records: list[dict[str, Any]] = []
    met = [{i for _, s, i in frontier.fitted if s == seed} for seed in frontier.tests]
    shared, heights = sorted(set.intersection(*met)), []  # that some method kept in every seed
    indices = [i for i in shared if first is None or i < first]
    for seed, whole in frontier.tests.items():
        table = subsample(known_rows(whole), MOST_COMPARED, seed)
        paths = {label: path_of(frontier, label, seed, table) for label in labels}
        asked = _asked(frontier, (reference, *labels), seed, paths)
        heights.append(_heights(list(paths.values()), np.array([asked[i] for i in indices])))
        for label in labels:
            if label == reference:
                continue
            head = {"method": label, "reference": reference, "unit": frontier.unit, "seed": seed}
            fitted = {key[2]: f for key, f in frontier.fitted.items() if key[:2] == (label, seed)}
            found = compare_paths(paths[label], paths[reference], seed)
            for (index, one), point in zip(fitted.items(), found, strict=True):
                if first is None or index < first:
                    records.append({**head, "budget": one.budget, **point})
            area = area_between(paths[label], paths[reference], seed)
            records.append({**head, "budget": None, **area})
    records.sort(key=lambda record: labels.index(record["method"]))
    pooled = _pooled(records) if len(frontier.tests) > 1 else []
    test = "rows" if len(frontier.tests) < 2 else "refits" if frontier.refits else "divisions"
    facts = reference, frontier.unit, frontier.graded, len(frontier.tests), test
    ranking, pairs = _ranking(frontier, labels, reference, heights)
    return Comparison(records + pooled, ranking, pairs, *facts)


def _asked(
    frontier: Frontier, labels: Sequence[str], seed: int, paths: Mapping[str, Path]
) -> dict[int, float]:
    """Return a seed's budgets by number; of floors, what the first method that keeps them pays."""
    found: dict[int, float] = {}
    for label in labels:
        mine = [
            (key[2], f.budget) for key, f in frontier.fitted.items() if key[:2] == (label, seed)
        ]
        paid = paths[label].cost.mean(axis=0)[1:].tolist()
        for (index, budget), cost in zip(mine, paid, strict=True):
            found.setdefault(index, cost if budget is None else budget)
    return found


def _heights(paths: Sequence[Path], asked: Floats) -> tuple[Floats, Floats, Floats, int]:
    """Return B costs, heights there and first their mean, (1 + B, M), the squared errors of differences, and units."""
    values = np.stack([values_at(path, asked)[0] for path in paths], axis=2)  # (N, B, M)
    values = np.concatenate([values.mean(axis=1, keepdims=True), values], axis=1)
    values = by_group(values, paths[0].group)
    errors = []
    for column in values.swapaxes(0, 1):
        shared = np.atleast_2d(np.cov(column, rowvar=False)) / len(column)
        alone = np.diag(shared)
        errors.append(np.maximum(alone[:, None] + alone - 2 * shared, 0.0))
    return asked, values.mean(axis=0), np.array(errors), len(values)


def _ranking(
    frontier: Frontier, labels: Sequence[str], reference: str, heights: Sequence[Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the ranking and the pairs of a `Comparison`."""
    asked, means, errors, units = zip(*heights, strict=True)
    means, errors = np.array(means), np.mean(errors, axis=0)  # (S, 1 + B, M), (1 + B, M, M)
    shared = len(frontier.tests[0]) / max(frontier.fit_rows, 1)
    if frontier.refits:
        shared = REFIT_SHARE / (1 - REFIT_SHARE)
    ranking, pairs = [], []
    for b, budget in enumerate([None, *np.mean(asked, axis=0).tolist()]):
        # The cheapest exit can be too dear.
        there = np.flatnonzero(~np.isnan(means[:, b]).any(axis=0)).tolist()
        mine, names = means[:, b, there], [labels[m] for m in there]
        tests = gaps(mine, errors[b][np.ix_(there, there)], min(units), shared, frontier.refits)
        worth = dict(zip(names, mine.mean(axis=0).tolist(), strict=True))
        best, tested, group = ranked(names, list(worth.values()), tests)
        pairs += [{"budget": budget, **pair} for pair in tested]
        to_reference = {}
        for pair in tested:
            if reference in (pair["better"], pair["worse"]):
                ours = pair["better"] != reference
                ends = [pair[f"difference{end}"] for end in ("", "_low", "_high")]
                ends = ends if ours else [-ends[0], -ends[2], -ends[1]]
                to_reference[pair["better" if ours else "worse"]] = *ends, pair["holm_p"]
        for rank, name in enumerate(best, 1):
            *ends, p = to_reference.get(name, (None,) * 4)
            ranking.append({
                "budget": budget, "rank": rank, "method": name,
                **worth_fields(worth[name], frontier.graded), "reference": reference,
                **with_interval("difference", *ends), "holm_p": p, "group": group[name],
                "among_best": bool(set(group[name]) & set(group[best[0]])), "unit": frontier.unit,
            })  # fmt: skip
    return ranking, pairs


def _pooled(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of `compare` averaged over seeds; their ``seed`` is None."""
    out = []
    for group in over_seeds(records):
        means = means_over(group)
        means.pop("mcnemar_p", None)
        if "area" in means:
            means["area_sd"] = float(np.std([record["area"] for record in group], ddof=1))
        head = {name: group[0][name] for name in ("method", "reference", "unit")}
        out.append({**head, "seed": None, "budget": None, **means})
    return out


def values_at(path: Path, asked: Floats) -> tuple[Floats, Floats]:
    """Return what every row brings to the frontier's heights at B costs, (N, B), and the costs paid, (B,).

    Columns' means are the heights of the raw line through the policies, their standard errors those of heights at the
    same realised cost. NaN where even the cheapest exit costs more. Beyond the dearest policy nothing is added.
    """
    cost, quality = path.cost.mean(axis=0), path.quality.mean(axis=0)
    order = np.argsort(cost, kind="stable")
    cost, quality, last = cost[order], quality[order], len(order) - 1
    too_dear, asked = asked < cost[0] - NEAR * cost[-1], np.maximum(asked, cost[0])
    high = np.clip(np.searchsorted(cost, asked, side="right"), 1, last)
    gap, inside = cost[high] - cost[high - 1], asked < cost[-1]
    gap = np.where(inside, gap, 1.0)
    share = np.where(inside, (asked - cost[high - 1]) / gap, 1.0)
    slope = np.where(inside, (quality[high] - quality[high - 1]) / gap, 0.0)
    weights, here = np.zeros((last + 1, len(asked))), np.arange(len(asked))
    weights[high - 1, here], weights[high, here] = 1.0 - share, share
    priced = path.cost[:, order] @ (weights * slope) - slope * asked
    value = np.where(too_dear, np.nan, path.quality[:, order] @ weights - priced)
    return value, np.where(too_dear, np.nan, np.minimum(asked, cost[-1]))


def compare_paths(ours: Path, rival: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Hold each point of `ours` but the first against the mixed `rival` at equal realised cost, by paired bootstrap."""
    # Where a rival's dearest policy costs less, it is held against that: a budget need not be spent.
    inner = slice(1, None)

    def difference(cost: Floats, quality: Floats, *rival: Floats) -> Floats:
        return quality - np.interp(cost, *_sorted(*rival))

    columns = (ours.cost[:, inner], ours.quality[:, inner], rival.cost, rival.quality)
    (cost, quality, *_), gain, low, high = _bootstrapped(difference, columns, seed, ours.group)
    out = []
    for i in range(len(cost)):
        mixed = _mixed(rival, float(cost[i]), seed)
        mine = ours.quality[:, i + 1]
        better, worse = mine > mixed, mine < mixed
        found = {"realised_cost": float(cost[i]), **worth_fields(float(quality[i]), ours.graded)}
        found |= worth_fields(float(quality[i] - gain[i]), ours.graded, "reference_")
        found |= with_interval("difference", float(gain[i]), float(low[i]), float(high[i]))
        found |= {"better": int(better.sum()), "worse": int(worse.sum())}
        found["mcnemar_p"] = None if ours.graded else mcnemar(better, worse, ours.group)
        out.append(found)
    return out


def mcnemar(better: Bools, worse: Bools, group: Ints | None = None) -> float:
    """Return the p-value of McNemar's test of discordant rows (N,), two-sided: exact, or of groups by their sums."""
    # Of groups: ``(sum of d)**2 / sum of d**2`` is chi-squared, d a group's better less its worse rows (Durkalski et
    # al., Statistics in Medicine 22, 2003).
    from scipy.stats import binomtest, chi2

    ups, downs = int(better.sum()), int(worse.sum())
    if not ups + downs:
        return 1.0
    if group is None:
        return float(binomtest(ups, ups + downs).pvalue)
    _, at = np.unique(group, return_inverse=True)
    gain = np.bincount(at, weights=better.astype(float) - worse)
    squares = float(gain @ gain)
    return float(chi2.sf(gain.sum() ** 2 / squares, 1)) if squares else 1.0


def area_between(ours: Path, rival: Path, seed: int = 0) -> dict[str, float]:
    """Return the mean height between two raw polylines (not hulls) over all costs, with its 95 % interval."""

    def height(cost: Floats, quality: Floats, *rival: Floats) -> float:
        grid = np.union1d(cost, rival[0])
        gap = np.interp(grid, *_sorted(cost, quality)) - np.interp(grid, *_sorted(*rival))
        return float(((gap[1:] + gap[:-1]) / 2 @ np.diff(grid)) / max(np.ptp(grid), 1e-300))

    columns = (ours.cost, ours.quality, rival.cost, rival.quality)
    _, area, low, high = _bootstrapped(height, columns, seed, ours.group)
    return with_interval("area", area, float(low), float(high))


def _bootstrapped(
    statistic: Callable[..., Any], blocks: Sequence[Floats], seed: int, group: Ints | None
) -> tuple[list[Floats], Any, Floats, Floats]:
    """Return the means of blocks of columns, (N, .) each, a statistic of them, and its 95 % interval."""
    columns = np.concatenate(blocks, axis=1)
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    means = bootstrap_means(columns, np.random.default_rng(check_seed(seed)), group=group)
    low, high = interval(np.array([statistic(*np.split(row, ends)) for row in means]))
    exact = np.split(columns.mean(axis=0), ends)
    return exact, statistic(*exact), low, high


def _sorted(cost: Floats, quality: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(cost, kind="stable")
    return cost[order], quality[order]


def _mixed(path: Path, cost: float, seed: int) -> Floats:
    """Return the outcome of each row under the mixture of two neighbours that costs `cost`, (N,)."""
    means = path.cost.mean(axis=0)
    order = np.argsort(means, kind="stable")
    dearer = int(np.clip(np.searchsorted(means[order], cost), 1, len(order) - 1))
    low, high = order[dearer - 1], order[dearer]
    gap = means[high] - means[low]
    share = float(np.clip((cost - means[low]) / gap, 0, 1)) if gap > 0 else 0.0
    second = coin(seed, np.arange(len(path.cost)), stream=_STREAM) < share
    return np.where(second, path.quality[:, high], path.quality[:, low])
