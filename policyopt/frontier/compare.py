"""Comparison at equal realised cost: paired bootstrap, McNemar, area between curves.

Two policies never cost exactly the same on test rows. So each point of a method is held against
its rival's frontier *at that point's realised cost*: the rival mixes its two neighbouring
policies there, which is itself a policy. Rows are resampled together for both, so the interval
covers cost and accuracy and their pairing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from policyopt.frontier.curve import Frontier, over_seeds
from policyopt.intervals import bootstrap_means, interval
from policyopt.replay import replay
from policyopt.runtime.checks import check_seed
from policyopt.runtime.coin import coin
from policyopt.runtime.errors import input_error
from policyopt.runtime.policy import Policy
from policyopt.runtime.typing import Floats
from policyopt.table import Table

#: Coins of its own: a policy that draws must not meet the same numbers (it uses streams 0..K).
_STREAM = 1 << 32


@dataclass(frozen=True)
class Path:
    """A method's replays over all budgets on the same rows, the two ends added.

    The ends, all leaving at exit 0 and all running every exit, are policies that any method has.

    Attributes
    ----------
    cost, correct : ndarray of shape (N, P)
    """

    cost: Floats
    correct: Floats


def path_of(frontier: Frontier, label: str, seed: int, table: Table) -> Path:
    """Replay a method's policies on a table, cheapest end first."""
    chosen = [f for (name, s, _), f in frontier.fitted.items() if name == label and s == seed]
    if not chosen:
        raise input_error("method", "one of the fitted methods", label, "Fit it first.")
    return path_through([fitted.policy for fitted in chosen], table)


def path_through(policies: Sequence[Policy], table: Table) -> Path:
    """Replay policies of rising budgets on a table, the two ends added."""
    outcomes = [replay(policy, table) for policy in policies]
    costs = np.broadcast_to(table.costs, (len(table), table.exits))
    ends = (0, table.exits - 1)
    return Path(
        np.stack([costs[:, ends[0]], *(o.cost for o in outcomes), costs[:, ends[1]]], axis=1),
        np.stack(
            [table.correct[:, ends[0]], *(o.correct for o in outcomes), table.correct[:, ends[1]]],
            axis=1,
        ),
    )


def compare_paths(ours: Path, rival: Path, seed: int = 0) -> list[dict[str, Any]]:
    """Hold each inner point of `ours` against `rival` at equal realised cost.

    Parameters
    ----------
    ours, rival : Path
        Of the same rows.
    seed : int
        Of the bootstrap and of the coin that mixes for McNemar's test.

    Returns
    -------
    list of dict
        Per point: realised_cost, accuracy, reference_accuracy, difference, difference_low,
        difference_high (95 %, paired bootstrap), better, worse (discordant rows) and mcnemar_p
        (exact, two-sided, on the mixed rival).
    """
    inner = slice(1, ours.cost.shape[1] - 1)
    columns = np.concatenate(
        [ours.cost[:, inner], ours.correct[:, inner], rival.cost, rival.correct], axis=1
    )
    points = inner.stop - inner.start
    split = np.cumsum([points, points, rival.cost.shape[1]])
    means = bootstrap_means(columns, np.random.default_rng(check_seed(seed)))

    def difference(row: Floats) -> Floats:
        cost, accuracy, rival_cost, rival_accuracy = np.split(row, split)
        return accuracy - np.interp(cost, *_sorted(rival_cost, rival_accuracy))

    low, high = interval(np.array([difference(row) for row in means]))
    exact = columns.mean(axis=0)
    cost, accuracy, _, _ = np.split(exact, split)
    gain = difference(exact)
    out = []
    for i in range(points):
        mixed = _mixed(rival, float(cost[i]), seed)
        mine = ours.correct[:, i + 1]
        better, worse = int((mine > mixed).sum()), int((mine < mixed).sum())
        p = binomtest(better, better + worse).pvalue if better + worse else 1.0
        out.append(
            {
                "realised_cost": float(cost[i]),
                "accuracy": float(accuracy[i]),
                "reference_accuracy": float(accuracy[i] - gain[i]),
                "difference": float(gain[i]),
                "difference_low": float(low[i]),
                "difference_high": float(high[i]),
                "better": better,
                "worse": worse,
                "mcnemar_p": float(p),
            }
        )
    return out


def area_between(ours: Path, rival: Path, seed: int = 0) -> dict[str, float]:
    """Return the mean height between two frontiers over the whole range of cost, with interval.

    Both are raw polylines (not hulls) through all replayed points and the two common ends.

    Returns
    -------
    dict
        area (accuracy, averaged over cost), area_low, area_high (95 %, paired bootstrap).
    """
    columns = np.concatenate([ours.cost, ours.correct, rival.cost, rival.correct], axis=1)
    p, q = ours.cost.shape[1], rival.cost.shape[1]
    split = np.cumsum([p, p, q])

    def area(row: Floats) -> float:
        a_cost, a_accuracy, b_cost, b_accuracy = np.split(row, split)
        grid = np.union1d(a_cost, b_cost)
        gap = np.interp(grid, *_sorted(a_cost, a_accuracy)) - np.interp(
            grid, *_sorted(b_cost, b_accuracy)
        )
        return float(((gap[1:] + gap[:-1]) / 2 @ np.diff(grid)) / max(np.ptp(grid), 1e-300))

    replicates = np.array(
        [area(row) for row in bootstrap_means(columns, np.random.default_rng(check_seed(seed)))]
    )
    low, high = interval(replicates)
    return {"area": area(columns.mean(axis=0)), "area_low": float(low), "area_high": float(high)}


def compare(frontier: Frontier, reference: str | None = None) -> list[dict[str, Any]]:
    """Compare every method of a frontier with a reference, per seed and over all seeds.

    Parameters
    ----------
    frontier : Frontier
        From `curve`, with at least two methods.
    reference : str, optional
        Default: the first method.

    Returns
    -------
    list of dict
        Per method and seed: records of `compare_paths` with method, reference, unit, seed and
        budget, then one with ``budget`` None that holds the area between the curves. After them,
        where there are several seeds, the same over all seeds, with ``seed`` None: means (also of
        the ends of intervals, which splits of one pool, overlapping, do not narrow), without
        counts and p-values; and ``area_sd``, the standard deviation of the area over seeds.

    Raises
    ------
    InputError
        Fewer than two methods, or an unknown reference.
    """
    labels = list(dict.fromkeys(name for name, _, _ in frontier.fitted))
    reference = reference or labels[0]
    if reference not in labels:
        raise input_error(
            "reference", f"one of {', '.join(labels)}", reference, "Add it to --methods."
        )
    if len(labels) < 2:
        raise input_error(
            "methods", "at least two to compare", labels, "E.g. --methods max_prob,margin."
        )
    records = []
    for label in labels:
        if label == reference:
            continue
        for seed, table in frontier.tests.items():
            ours, rival = (path_of(frontier, name, seed, table) for name in (label, reference))
            head = {"method": label, "reference": reference, "unit": frontier.unit, "seed": seed}
            budgets = [
                f.budget
                for (name, s, _), f in frontier.fitted.items()
                if (name, s) == (label, seed)
            ]
            for budget, point in zip(budgets, compare_paths(ours, rival, seed), strict=True):
                records.append({**head, "budget": budget, **point})
            records.append({**head, "budget": None, **area_between(ours, rival, seed)})
    return records + (pooled(records) if len(frontier.tests) > 1 else [])


def pooled(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of `compare` averaged over seeds; their ``seed`` is None."""
    out = []
    for group in over_seeds(records):
        means = {
            name: float(np.mean([record[name] for record in group]))
            for name, value in group[0].items()
            if isinstance(value, float) and name != "mcnemar_p"
        }
        if "area" in means:
            means["area_sd"] = float(np.std([record["area"] for record in group], ddof=1))
        head = {name: group[0][name] for name in ("method", "reference", "unit")}
        out.append({**head, "seed": None, "budget": None, **means})
    return out


def _sorted(cost: Floats, accuracy: Floats) -> tuple[Floats, Floats]:
    order = np.argsort(cost, kind="stable")
    return cost[order], accuracy[order]


def _mixed(path: Path, cost: float, seed: int) -> Floats:
    """Return the outcome of each row under the mixture of two neighbours that costs `cost`, (N,)."""
    means = path.cost.mean(axis=0)
    order = np.argsort(means, kind="stable")
    dearer = int(np.clip(np.searchsorted(means[order], cost), 1, len(order) - 1))
    low, high = order[dearer - 1], order[dearer]
    gap = means[high] - means[low]
    share = float(np.clip((cost - means[low]) / gap, 0, 1)) if gap > 0 else 0.0
    second = coin(seed, np.arange(len(path.cost)), stream=_STREAM) < share
    return np.where(second, path.correct[:, high], path.correct[:, low])
