"""Policies under distortion: replayed, as fitted, on every stream; what the dearest rows cost, and an adversary's.

Sources: early-exit efficacy: Hong et al., A Panda? No, It's a Sloth, ICLR 2021 (arXiv:2010.02432), section 4;
conditional value at risk: Rockafellar & Uryasev, Journal of Risk 2, 2000.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._cache.data import RESERVED, TARGETS, ExitData
from policyopt._costs import Budget
from policyopt._frontier import Frontier, curve, summary
from policyopt._intervals import mean_interval, with_interval
from policyopt._methods.base import Method
from policyopt._methods.fitted import Fitted
from policyopt._methods.targets import Target, read_share
from policyopt._replay import Replay, replay
from policyopt._table import Table, Tables
from policyopt.runtime._checks import check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Array, Floats, Ints

#: The split of the rows that trained the model.
TRAIN = "train"
#: What stands among streams for an adversary's choice.
DEAREST = "dearest version"
_RANKED = ("cost", "quality")
_TAKEN = (*_RANKED, "exit", "abstained", "correct")


@dataclass(frozen=True)
class Robustness:
    """What `robustness` found."""

    records: list[dict[str, Any]]  # one per method, budget and stream, the clean rows first
    dearest: list[dict[str, Any]]  # per method and budget, the inputs that cost most
    unit: str
    notes: list[str]
    frontier: Frontier  # the fits, and their clean replays


def robustness(
    data: ExitData, methods: str | Sequence[str] | Mapping[str, Method] = "all",
    budgets: int | float | str | Target | Sequence[Budget | Target] = "40%", *,
    streams: str | Sequence[str] = "all", floor: float | str | None = None,
    max_drop: float | str | None = None, few: int = 10, cost: str | None = None, test: str = "test",
    utility: Any = None, tables: Tables | None = None, frontier: Frontier | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Robustness:  # fmt: skip
    """Replay policies that were fitted on clean rows on distorted streams, with their thresholds as they are.

    Streams with the labels of the test rows, in their order, are taken for distorted copies of these, row by row;
    others are told. An adversary may choose among copies: of every row its dearest version, of equally dear ones that
    which is answered worst. That is the stream ``"dearest version"``; may he repeat a row, too, a request costs its
    ``worst_cost``.

    Parameters
    ----------
    data : ExitData
    methods, budgets, cost, test, utility, tables, progress
        As `curve` takes them. Each method is trained once.
    streams : str or sequence of str
        Names, or ``"all"``: every split but fit, calibrate, train and the test rows.
    floor : float or str, optional
        Least mean quality on every stream, ``0.9`` or ``"90%"``.
    max_drop : float or str, optional
        Or most by which it may fall short of the full model's on the same stream, in points, ``"1%"``.
    few : int
        How many of the dearest rows are named.
    frontier : Frontier, optional
        Of `curve`, of the same data, cost and utility: what it fitted, of its first seed, serves.

    Returns
    -------
    Robustness
        ``records`` hold cost, accuracy and quality with 95 % intervals, shares of exits, and

        - ``off_budget`` (interval): by which share the cost misses the budget; ``over_budget``: it lies above;
        - ``off_floor`` (interval): quality less the floor; ``below_floor``: the interval lies under 0;
          ``full_quality``: the full model's;
        - ``slowdown``: cost over that of the clean rows; ``worst_cost``: of the dearest row; ``cost_p99``: the 99th
          percentile; ``cost_cvar99``: mean of the dearest 1 % of the rows; ``dearest_rows``: numbers of the dearest;
        - ``efficacy``: area under the share of rows that have left at each share of the full model's cost: near 1 if
          all leave at once; if none leaves early, half the share that the last exit costs more than the one before.

    Raises
    ------
    InputError
        No stream, an unknown one or method, two floors, no labels.
    BudgetError
        A budget that cannot be met.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> signal = 4 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> splits = {
    ...     name: {"outputs": rng.normal(size=(1000, 2, 3)) + signal / blur, "labels": labels}
    ...     for name, blur in [("fit", 2), ("test", 2), ("fog", 4)]
    ... }
    >>> data = po.from_arrays(splits=splits, costs=[1, 4], unit="ms")
    >>> found = po.robustness(data, "max_prob", "50%", max_drop="5%")
    >>> [(r["stream"], r["over_budget"]) for r in found.records]
    [('test', False), ('fog', True), ('dearest version', True)]
    """
    check_whole("few", few)
    tables = tables or Tables(data, cost, utility=utility)
    names = [test, *_named(streams, data, test)]
    if floor is not None and max_drop is not None:
        step = "Leave one of the two out: both are floors on quality."
        raise input_error("floor", "absent beside max_drop", floor, step)
    kind, wish = ("floor", floor) if max_drop is None else ("max_drop", max_drop)
    least = None if wish is None else read_share(wish, kind)
    if frontier is None:
        frontier = curve(data, methods, budgets, tables=tables, test=test, progress=progress)
    found = Robustness([], [], tables.cost.unit, list(frontier.notes), frontier)
    rows = [tables.get(name) for name in names]
    copies = [0, *(i for i in range(1, len(rows)) if _copied(rows[0], rows[i]))]
    for name in (name for i, name in enumerate(names) if i not in copies):
        why = "other labels, another order, or none"
        found.notes.append(f"stream {name} is no copy of {test}, row by row ({why}): no version")
    fits = {key[0::2]: fitted for key, fitted in frontier.fitted.items() if key[1] == 0}
    here, labels = np.arange(len(rows[0])), rows[0].statistics.labels
    fulls = [np.asarray(table.statistics.quality)[:, -1] for table in rows]
    for done, ((label, _), fitted) in enumerate(fits.items()):
        if progress:
            progress(f"{label} on {len(names)} streams", done, len(fits))
        outcomes = [replay(fitted.policy, table) for table in rows]
        runs = list(zip(names, rows, outcomes, fulls, strict=True))
        versions = [outcomes[i] for i in copies]
        costs, quality = (np.stack([getattr(o, name) for o in versions]) for name in _RANKED)
        at = np.lexsort((quality, -costs), axis=0)[0]  # of each row its dearest version, (N,)

        def chosen(values: Sequence[Any], at: Ints = at) -> Any:
            return None if any(v is None for v in values) else np.stack(values)[at, here]

        fields = {name: chosen([getattr(o, name) for o in versions]) for name in _TAKEN}
        worst = replace(outcomes[0], **fields)
        if len(copies) > 1:
            runs.append((DEAREST, rows[0], worst, chosen([fulls[i] for i in copies])))
        head = {"method": label, "budget": fitted.budget}
        for name, table, outcome, full in runs:
            told = _told(fitted, outcome, table, full, kind, least, few)
            slowdown = float(outcome.cost.mean() / outcomes[0].cost.mean())
            found.records.append({**head, "stream": name, **told, "slowdown": slowdown})
        mean = costs.mean(axis=0)
        for n in np.lexsort((-mean, -worst.cost))[:few].tolist():
            one = {"row": n, "label": None if labels is None else int(labels[n])}
            one |= {"stream": names[copies[at[n]]], "exit": int(worst.exit[n])}
            one |= {"cost": float(worst.cost[n]), "quality": float(worst.quality[n])}
            found.dearest.append({**head, **one, "mean_cost": float(mean[n])})
    return found


def _named(streams: str | Sequence[str], data: ExitData, test: str) -> list[str]:
    """Return the streams asked for."""
    names = [n for n in data.split_names if n not in (*RESERVED, TRAIN, test)]
    if streams != "all":
        names = [s.strip() for s in streams.split(",")] if isinstance(streams, str) else [*streams]
    if not names or test in names:
        step = "Import distorted test rows as a split of another name: blur_logits, blur_labels."
        raise input_error("streams", f"at least one split besides {test}", names or "none", step)
    for name in names:
        data.rows(name)  # raises where there is none
    return list(dict.fromkeys(names))


def _copied(clean: Table, other: Table) -> bool:
    """Say whether rows are copies of each other, one by one, as far as their labels tell."""
    truths: list[Any] = [t.statistics.labels for t in (clean, other)]
    for i, t in enumerate((clean, other)):
        if t.source is not None and t.source.has(TARGETS):
            truths[i] = t.source.array(TARGETS)[slice(None) if t.places is None else t.places]
    return all(truth is not None for truth in truths) and np.array_equal(*truths)


def _told(
    fitted: Fitted, outcome: Replay, table: Table, full: Array, kind: str, least: float | None, few: int
) -> dict[str, Any]:  # fmt: skip
    """Describe what a policy did on a stream, in plain types; `full`: the full model's qualities, (N,)."""
    known, budget, policy = ~np.isnan(outcome.quality), fitted.budget, fitted.policy
    record = {
        "target": policy.provenance.get("target"),
        "unit": table.unit,
        **summary(outcome, policy),
    }
    ends = [record[f"realised_cost{end}"] for end in ("", "_low", "_high")]
    off = [end / budget - 1 if budget else None for end in ends]
    record |= with_interval("off_budget", *off)
    record["over_budget"] = bool(budget) and ends[1] > budget
    lack: Any = (None, None, None)
    if least is not None:
        floor = least if kind == "floor" else full[known] - least
        group = None if outcome.group is None else outcome.group[known]
        lack = mean_interval(outcome.quality[known] - floor, span=1.0, group=group)[:3]
    record |= with_interval("off_floor", *lack)
    record["below_floor"] = lack[2] is not None and lack[2] < 0
    p99 = float(np.quantile(outcome.cost, 0.99, method="inverted_cdf"))  # as a limit has it
    return record | {
        "full_quality": float(full[known].mean()), "worst_cost": float(outcome.cost.max()),
        "cost_p99": p99, "cost_cvar99": tail(outcome.cost),
        "efficacy": efficacy(outcome.cost, outcome.exit, table.mean_costs),
        "dearest_rows": np.argsort(-outcome.cost, kind="stable")[:few].tolist(),
    }  # fmt: skip


def tail(costs: Floats, share: float = 0.01) -> float:
    """Return the mean cost of the dearest share of rows (N,), the conditional value at risk."""
    falling, most = np.sort(costs)[::-1], share * len(costs)
    weight = np.clip(most - np.arange(len(costs)), 0.0, 1.0)  # of a row that is in it in part
    return float(min(falling @ weight / most, falling[0]))


def efficacy(cost: Floats, exits: Ints, costs: Floats) -> float:
    """Return the early-exit efficacy of rows that paid `cost` (N,) and left at `exits` (N,) of a model of `costs` (K,).

    The curve is straight from (0, 0) through each exit's (share of the full cost, share of rows that have left): each
    row leaves evenly between the costs of the exit before and its own, and the area is 1 less the mean of the middles.
    """
    middle = cost - np.diff(costs, prepend=0.0)[exits] / 2
    return float(1.0 - middle.mean() / costs[-1])
