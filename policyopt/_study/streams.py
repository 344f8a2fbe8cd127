"""Policies under distortion: replayed, as fitted, on every stream; what the dearest rows cost, and an adversary's.

Sources: early-exit efficacy: Hong et al., A Panda? No, It's a Sloth, ICLR 2021 (arXiv:2010.02432), section 4;
conditional value at risk: Rockafellar & Uryasev, Journal of Risk 2, 2000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from policyopt._progress import report, working
from policyopt._replay import Replay, replay
from policyopt._table import Table, Tables
from policyopt.runtime._checks import check_names
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Array, Floats, Ints

#: The split of the rows that trained the model.
TRAIN = "train"
#: What stands among streams for an adversary's choice.
DEAREST = "dearest version"
#: How many of the dearest rows are named.
_FEW = 10
_TAKEN = ("cost", "quality", "exit", "abstained", "correct")


@dataclass(frozen=True)
class Robustness:
    """What `robustness` found."""

    records: list[dict[str, Any]]  # one per method, budget and stream, the clean rows first
    dearest: list[dict[str, Any]]  # per method and budget, the inputs that cost most
    unit: str
    notes: list[str]
    frontier: Frontier  # the fits, and their clean replays


@working("replaying on streams")
def robustness(
    data: ExitData, methods: str | Sequence[str] | Mapping[str, Method] = "all",
    budgets: int | float | str | Target | Sequence[Budget | Target] = "40%", *,
    streams: str | Sequence[str] = "all", floor: float | str | None = None,
    max_drop: float | str | None = None, cost: str | None = None, test: str = "test",
    utility: Any = None, tables: Tables | None = None,
) -> Robustness:  # fmt: skip
    """Replay policies that were fitted on clean rows on distorted streams, with their thresholds as they are.

    Streams with the labels of the test rows, in their order, are taken for distorted copies of these, row by row;
    others are told. An adversary may choose among copies: of every row its dearest version, of equally dear ones that
    which is answered worst. That is the stream ``"dearest version"``; may he repeat a row, too, a request costs its
    ``worst_cost``.

    Parameters
    ----------
    data : ExitData
    methods, budgets, cost, test, utility, tables
        As `curve` takes them. Each method is trained once.
    streams : str or sequence of str
        Names, or ``"all"``: every split but fit, calibrate, train and the test rows.
    floor : float or str, optional
        Least mean quality on every stream, ``0.9`` or ``"90%"``.
    max_drop : float or str, optional
        Or most by which it may fall short of the full model's on the same stream, in points, ``"1%"``.

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
    tables = tables or Tables(data, cost, utility=utility)
    names = [n for n in data.split_names if n not in (*RESERVED, TRAIN, test)]
    names = names if streams == "all" else list(check_names("streams", streams))
    if not names or test in names:
        step = "Import distorted test rows as a split of another name: blur_logits, blur_labels."
        raise input_error("streams", f"at least one split besides {test}", names or "none", step)
    if floor is not None and max_drop is not None:
        step = "Leave one of the two out: both are floors on quality."
        raise input_error("floor", "absent beside max_drop", floor, step)
    least = None if floor is None else read_share(floor, "floor")
    drop = None if max_drop is None else read_share(max_drop, "max_drop")
    names = [test, *names]
    rows = [tables.get(name) for name in names]
    frontier = curve(data, methods, budgets, tables=tables, test=test)
    found = Robustness([], [], tables.cost.unit, list(frontier.notes), frontier)
    copies = [i for i, table in enumerate(rows) if not i or _copied(rows[0], table)]
    for name in (name for i, name in enumerate(names) if i not in copies):
        why = "other labels, another order, or none"
        found.notes.append(f"stream {name} is no copy of {test}, row by row ({why}): no version")
    here, labels = np.arange(len(rows[0])), rows[0].statistics.labels
    fulls = [np.asarray(table.statistics.quality)[:, -1] for table in rows]
    for done, ((label, *_), fitted) in enumerate(frontier.fitted.items()):
        report(done, len(frontier.fitted), f"{label} on {len(names)} streams")
        outcomes = [replay(fitted.policy, table) for table in rows]
        told = {name: [getattr(outcomes[i], name) for i in copies] for name in _TAKEN}
        known = {f: np.stack(v) for f, v in told.items() if not any(one is None for one in v)}
        costs, mean = known["cost"], known["cost"].mean(axis=0)
        at = np.lexsort((known["quality"], -costs), axis=0)[0]  # a row's dearest version, (N,)
        picked = {field: known[field][at, here] if field in known else None for field in _TAKEN}
        worst = replace(outcomes[0], **picked)
        runs = list(zip(names, rows, outcomes, fulls, strict=True))
        if len(copies) > 1:
            runs.append((DEAREST, rows[0], worst, np.stack([fulls[i] for i in copies])[at, here]))
        head = {"method": label, "budget": fitted.budget}
        for name, table, outcome, best in runs:
            floors = None if drop is None else best - drop
            floors = floors if least is None else np.full(len(best), least)
            told = _told(fitted, outcome, table, best, floors)
            slowdown = float(outcome.cost.mean() / outcomes[0].cost.mean())
            found.records.append({**head, "stream": name, **told, "slowdown": slowdown})
        for n in np.lexsort((-mean, -worst.cost))[:_FEW].tolist():
            found.dearest.append({
                **head, "row": n, "label": None if labels is None else int(labels[n]),
                "stream": names[copies[at[n]]], "exit": int(worst.exit[n]), "cost": float(worst.cost[n]),
                "quality": float(worst.quality[n]), "mean_cost": float(mean[n]),
            })  # fmt: skip
    return found


def _copied(clean: Table, other: Table) -> bool:
    """Say whether rows are copies of each other, one by one, as far as their labels tell."""
    truths: list[Any] = [t.statistics.labels for t in (clean, other)]
    for i, t in enumerate((clean, other)):
        if t.source is not None and t.source.has(TARGETS):
            truths[i] = t.source.array(TARGETS)[slice(None) if t.places is None else t.places]
    return all(truth is not None for truth in truths) and np.array_equal(*truths)


def _told(
    fitted: Fitted, outcome: Replay, table: Table, full: Array, floors: Array | None
) -> dict[str, Any]:
    """Describe what a policy did on a stream, in plain types; the full model's qualities and the floors are (N,)."""
    known, budget, policy = ~np.isnan(outcome.quality), fitted.budget, fitted.policy
    record = {"target": policy.provenance.get("target"), "unit": table.unit}
    record |= summary(outcome, policy)
    ends = [record[f"realised_cost{end}"] for end in ("", "_low", "_high")]
    off = [end / budget - 1 if budget else None for end in ends]
    lack: Any = (None, None, None)
    if floors is not None:
        group = None if outcome.group is None else outcome.group[known]
        lack = mean_interval((outcome.quality - floors)[known], span=1.0, group=group)[:3]
    p99 = float(np.quantile(outcome.cost, 0.99, method="inverted_cdf"))  # as a limit has it
    return {
        **record, **with_interval("off_budget", *off), "over_budget": bool(budget) and ends[1] > budget,
        **with_interval("off_floor", *lack), "below_floor": lack[2] is not None and lack[2] < 0,
        "full_quality": float(full[known].mean()), "worst_cost": float(outcome.cost.max()),
        "cost_p99": p99, "cost_cvar99": tail(outcome.cost),
        "efficacy": efficacy(outcome.cost, outcome.exit, table.mean_costs),
        "dearest_rows": np.argsort(-outcome.cost, kind="stable")[:_FEW].tolist(),
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
