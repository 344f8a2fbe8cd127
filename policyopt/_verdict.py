"""A verdict in plain words: whether leaving early, or asking models in turn, pays on rows that chose nothing.

What is looked at is chosen by what the rows of the fit say, so that nothing wins by luck on the rows to test on: the
method at each budget (`Fitted.quality`; of those within a standard error the first), which single exits are held
against it, and at which budget its gain over them is told. Then, by paired rows, groups kept whole:

- *as good as the full model*: at most `max_drop` worse. Budgets are tried from the dearest down, each at 95 %, until
  one fails: all that are shown hold at once with 95 % (fixed-sequence testing: Maurer, Hothorn & Lehmacher, 1995; as
  in Pareto testing, Laufer-Goldman et al., arXiv:2210.07913, section 4).
- *better than single exits*: than two that a coin mixes at equal realised cost; Holm's correction over budgets.
- *the ceiling*: what share of the lead that the best choice in hindsight has over single exits is reached.

It pays where a gain over single exits is shown. It does not where intervals leave room for no more than `max_drop`
at any budget. Else the rows are too few to tell.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from policyopt._costs import per_thousand
from policyopt._frontier import Frontier, means_over, oracle
from policyopt._intervals import mean_interval, standard_error, with_interval
from policyopt._methods.registry import ROWS
from policyopt._methods.targets import read_share
from policyopt._replay import replay
from policyopt._table import Table, known_rows
from policyopt._testing import holm
from policyopt._thresholds.joint import upper_hull
from policyopt.runtime._checks import check_type
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Floats

#: Of the full model's cost: to save less is to save nothing.
_SAVES = 0.01
_Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """What `verdict` found; `str` of it is the plain text.

    Attributes
    ----------
    pays : bool or None
        None: it cannot be told.
    headline : str
        The answer, in a sentence.
    sentences : tuple of str
        What it rests on.
    record : dict
        The numbers, JSON-able. ``budgets``, the cheapest first: ``method``, ``realised_cost``, ``saving``, ``quality``,
        and differences of quality with intervals ``to_full``, ``to_singles`` (at equal cost), ``to_alone`` (the best
        exit that is no dearer); ``within``: shown to be at most ``max_drop`` worse, ``gains``: shown over single exits;
        ``bound_lead``, ``reached``. ``at``, ``gain_at``: numbers of those that the words are of. ``rows_needed``.
    notes : tuple of str
        What a reader should know besides.
    """

    pays: bool | None
    headline: str
    sentences: tuple[str, ...]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((self.headline, *self.sentences))


def verdict(frontier: Frontier, max_drop: float | str = 0.005) -> Verdict:
    """Say in plain words whether leaving early, or a cascade of models, pays.

    Parameters
    ----------
    frontier : Frontier
        From `curve`. Of several seeds differences are means, and intervals those of one: divisions of a pool overlap.
    max_drop : float or str
        How much worse than the full model is still as good: ``0.005`` or ``"0.5%"``, half a point.

    Returns
    -------
    Verdict

    Raises
    ------
    InputError
        No frontier, or a `max_drop` that is no share.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 4000)
    >>> logits = rng.normal(size=(4000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = po.verdict(po.curve(data, ["max_prob"], budgets="40%,60%,80%"), max_drop="2%")
    >>> found.pays, [budget["within"] for budget in found.record["budgets"]]
    (True, [False, True, True])
    """
    check_type("frontier", frontier, Frontier, "what po.curve returns", "po.curve(data, ['auto']).")
    drop = read_share(max_drop, "max_drop")
    tests = {seed: known_rows(table) for seed, table in frontier.tests.items()}
    null = {name for name, row in ROWS.items() if row.family == "null"}
    labels = list(dict.fromkeys(k[0] for k, f in frontier.fitted.items() if f.method not in null))
    places = dict.fromkeys(index for _, _, index in frontier.fitted)
    found = {i: _chosen(frontier, labels, list(tests), i) for i in places}
    chosen = {i: label for i, label in found.items() if label is not None}
    if not chosen or not all(table.labelled for table in tests.values()):
        why = "no method that leaves early met a budget; name one, e.g. auto"
        why = (
            why
            if tests and all(table.labelled for table in tests.values())
            else "no row has a label"
        )
        record = {"pays": None, "reason": why, "budgets": [], "at": None, "gain_at": None}
        return Verdict(None, f"Whether leaving early pays cannot be told: {why}.", (), record)
    return _told(frontier, tests, drop, _judged(frontier, tests, chosen, drop))


def _chosen(
    frontier: Frontier, labels: Sequence[str], seeds: Sequence[int], index: int
) -> str | None:
    """Return the method that is best at a budget as the rows of the fit say, the first of those about as good."""
    found = {name: [frontier.fitted.get((name, s, index)) for s in seeds] for name in labels}
    of: dict[str, list[Any]] = {name: each for name, each in found.items() if None not in each}
    targets = {str(one.policy.provenance.get("target")) for each in of.values() for one in each}
    if any(part[:4] in ("accu", "qual", "drop") for text in targets for part in text.split(", ")):
        # All keep the floor: the cheapest.
        return min(of, key=lambda name: np.mean([one.expected.cost for one in of[name]]))
    worth = {name: float(np.mean([one.quality for one in each])) for name, each in of.items()}
    known = [name for name in of if not math.isnan(worth[name])] or list(of)
    best = max(known, key=lambda name: worth[name], default=None)

    def near(name: str, best: str) -> bool:
        pairs = [(a.expected, b.expected) for a, b in zip(of[best], of[name], strict=True)]
        if any(
            a.right is None or b.right is None or len(a.right) != len(b.right) for a, b in pairs
        ):
            return False
        noise = [standard_error(a.right - b.right, a.group) for a, b in pairs]
        return worth[best] - worth[name] <= float(np.mean(noise))

    return next((name for name in known if best and (name == best or near(name, best))), None)


# --- what happened on rows that chose nothing ----------------------------------------------------


def _judged(
    frontier: Frontier, tests: dict[int, Table], chosen: dict[int, str], drop: float
) -> list[dict[str, Any]]:
    """Return a record per budget, the cheapest first as the rows of the fit say, and what they show."""
    told, seeds = dict(zip(frontier.fitted, frontier.records, strict=True)), list(tests)
    first = {i: frontier.fitted[label, seeds[0], i] for i, label in chosen.items()}
    order = sorted(chosen, key=lambda i: (first[i].expected.cost, first[i].budget or 0.0))
    rows = [_on_rows(frontier, tests[s], [(chosen[i], s, i) for i in order]) for s in seeds]
    records: list[dict[str, Any]] = []
    for i, *of in zip(order, *rows, strict=True):
        keys = [(chosen[i], seed, i) for seed in seeds]
        picks = [frontier.fitted[k].policy.provenance.get("chosen", {}).get("method") for k in keys]
        record = {
            "method": chosen[i], "chosen": " or ".join(dict.fromkeys(filter(None, picks))) or None,
            "budget": first[i].budget, "target": told[keys[0]]["target"], "unit": frontier.unit,
            "bound": None, "fit_lead": None, "bound_lead": None, "reached": None,
            **means_over([{**told[key], **one} for key, one in zip(keys, of, strict=True)]),
            "singles": of[0]["singles"], "alone": of[0]["alone"],
        }  # fmt: skip
        if record["bound"] is not None:
            record["bound_lead"] = record["bound"] - record["quality"] + record["to_singles"]
            if record["bound_lead"] > 1e-9:
                record["reached"] = record["to_singles"] / record["bound_lead"]
        records.append(record)
    sure = True
    for record in reversed(records):
        record["within"] = sure = sure and record["to_full_least"] >= -drop
    wide = [max(one["to_singles"] - one["to_singles_low"], 1e-12) for one in records]
    z = [_Z * one["to_singles"] / width for one, width in zip(records, wide, strict=True)]
    p = holm(np.array([min(2 * NormalDist().cdf(-one), 1.0) for one in z]))
    return [
        {**one, "p": chance, "gains": chance <= 0.05}
        for one, chance in zip(records, p.tolist(), strict=True)
    ]


def _on_rows(
    frontier: Frontier, table: Table, keys: Sequence[tuple[str, int, int]]
) -> list[dict[str, Any]]:
    """Return how policies of one seed fare on its rows: against the full model, single exits and hindsight."""
    quality, exits = table.quality, [e for e in frontier.exits if e["seed"] == keys[0][1]]
    costs = np.broadcast_to(table.standalone_costs, quality.shape)
    points = np.array([[one["fit_cost"], one["fit_quality"]] for one in exits], dtype=float)
    if np.isnan(points).any():  # no labels there: the best on these rows, which is in their favour
        points = np.array([[one["cost"], one["quality"]] for one in exits])
    hull = upper_hull(points)
    hull = hull[: int(points[hull, 1].argmax()) + 1]
    full, full_cost = quality[:, -1], float(costs[:, -1].mean())
    outcomes = [replay(frontier.fitted[key].policy, table) for key in keys]
    bounds = oracle(table, [outcome.cost.mean() for outcome in outcomes]).tolist()
    out = []
    for key, outcome, bound in zip(keys, outcomes, bounds, strict=True):
        fitted, worth = frontier.fitted[key], outcome.quality
        claimed = fitted.expected.cost
        lead = fitted.quality - float(np.interp(claimed, *points[hull].T))
        no_dearer = points[:, 0] <= max(claimed, points[:, 0].min()) * (1 + 1e-9)
        alone = int(np.where(no_dearer, points[:, 1], -1.0).argmax())
        mix, weights = _mixed(outcome.cost, costs[:, hull], quality[:, hull])
        found: dict[str, Any] = {
            "full_cost": full_cost, "full_quality": float(full.mean()), "alone": alone,
            "saving": 1.0 - float(outcome.cost.mean()) / full_cost,
            "fit_lead": None if math.isnan(lead) else lead,
            "bound": bound if getattr(fitted.policy, "abstention", None) is None else None,
            "singles": [k for k, weight in zip(hull, weights, strict=True) if weight > 0.005],
        }  # fmt: skip
        rivals = {"to_full": full, "to_singles": mix, "to_alone": quality[:, alone]}
        for name, rival in rivals.items():
            mean, low, high, _ = mean_interval(worth - rival, span=1.0, group=table.group)
            found |= with_interval(name, mean, low, high)
        one_sided = mean_interval(worth - full, 0.9, span=1.0, group=table.group)
        out.append({**found, "to_full_least": one_sided.low})
    return out


def _mixed(cost: Floats, costs: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """Return what rows have of a coin's mixture of two exits that costs as much as `cost`, (N,), and weights (H,).

    Of H exits of a hull, (N, H). What a row pays besides is priced by the slope between the two, so that differences
    have the error of heights at equal realised cost.
    """
    paid, worth = costs.mean(axis=0), quality.mean(axis=0)
    weights, order = np.zeros(len(paid)), np.argsort(paid, kind="stable")
    place = min(int(np.searchsorted(paid[order], cost.mean())), len(paid) - 1)
    low, high = order[max(place - 1, 0)], order[place]
    gap = paid[high] - paid[low]
    share = min((cost.mean() - paid[low]) / gap, 1.0) if gap > 0 else 1.0
    slope = (worth[high] - worth[low]) / gap if share < 1 else 0.0
    weights[low], weights[high] = 1.0 - share, share
    more = cost - costs @ weights
    return quality @ weights + slope * (more - more.mean()), weights


# --- in words ------------------------------------------------------------------------------------


def _told(
    frontier: Frontier, tests: dict[int, Table], drop: float, judged: list[dict[str, Any]]
) -> Verdict:
    """Return the answer that judged budgets give, and what it rests on, in words."""
    seed, table = next(iter(tests.items()))
    rows, cascade, unit = len(table), table.cascade, frontier.unit
    exits = [one for one in frontier.exits if one["seed"] == seed]
    names = [f"{'model' if cascade else 'exit'} {one.get('name', one['exit'])}" for one in exits]
    full = f"{names[-1]} alone" if cascade else "the full model"
    what, singles = ("a cascade", "single models") if cascade else ("leaving early", "single exits")
    title, word = what.capitalize(), "quality" if frontier.graded else "accuracy"
    near = f"within {100 * drop:g} points of {full}"
    at = next((b for b, r in enumerate(judged) if r["within"] and r["saving"] >= _SAVES), None)
    shown = [b for b, one in enumerate(judged) if one["gains"]]
    gain_at = max(shown or range(len(judged)), key=lambda b: judged[b]["fit_lead"] or -1.0)
    gain, one = judged[gain_at], judged[-1 if at is None else at]
    leads = [record["bound_lead"] for record in judged]

    def place(of: dict[str, Any]) -> str:
        share = 100 * (1 - of["saving"])
        return f"t {share:.{0 if share >= 9.5 else 1}f} % of the cost of {full}"

    def by(of: dict[str, Any]) -> str:
        return of["method"] + (f" ({of['chosen']})" if of["chosen"] else "")

    def mix(of: dict[str, Any]) -> str:
        found = [names[k] for k in of["singles"]]
        return f"a coin between {' and '.join(found)}" if found[1:] else f"{found[0]} alone"

    far = f"nothing cheaper is {'' if one['to_full_high'] < -drop else 'shown to be '}{near}"
    good = f"it is at most {100 * drop:g} points worse (95 % sure), by {by(one)}"
    pays, needed = True if shown else None, None
    if shown and at is not None:
        reason, headline = "as good", f"{title} pays: a{place(one)} {good}."
    elif shown:
        told = f"a{place(gain)} it gains {_points(gain['to_singles'])} points over {singles}, by {by(gain)}"
        reason, headline = "gains", f"{title} pays where {full} is too dear: {told}; {far}."
    elif any(record["to_singles_high"] > drop for record in judged):
        reason, needed = "few rows", _needed(gain, drop, rows, len(judged))
        told = f"cannot be told from {rows:,} rows; about {needed:,} could tell"
        headline = f"Whether {what} pays {told}."
        if at is not None:
            headline = f"A{place(one)} {good}; whether {singles} would do as well {told}."
    else:
        pays = False
        if None not in leads and max(leads) <= drop:
            most = _points(max(*leads, 0.0))
            reason, why = (
                "no headroom",
                f"even with hindsight it could gain only {most} points over {singles}",
            )
        elif at is None:
            reason, why = "full model", f"{far}, and at lower cost {singles} do as well"
        elif one["to_alone_high"] <= drop:
            reason, why = "single", f"{names[one['alone']]} alone does as well; deploy that"
        else:
            reason, why = "single", f"{mix(one)} does as well"
        headline = f"{title} does not pay: {why}."
    record = {
        "pays": pays, "reason": reason, "max_drop": drop, "unit": unit, "at": at, "gain_at": gain_at, "rows": rows,
        "groups": table.units, "seeds": len(tests), "rows_needed": needed, "budgets": judged,
        "full": {"name": full, "cost": one["full_cost"], "quality": one["full_quality"]},
    }  # fmt: skip
    which = "It then" if at is not None else f"The dearest, {by(one)} a{place(one)},"
    paid = f"{_range(one, 'realised_cost')} {unit}{per_thousand(one['realised_cost'], unit)}"
    told = f"{which} costs {paid} and has {100 * one['quality']:.1f} % {word}; {full} costs {one['full_cost']:.4g}"
    told += f" and has {100 * one['full_quality']:.1f} %: {_range(one, 'to_full', '+')} points."
    alone = exits[one["alone"]]
    if at is not None and one["to_alone_high"] <= drop:
        own = f"costs {alone['cost']:.4g} {unit} and has {100 * alone['quality']:.1f} %"
        told += f" {names[one['alone']].capitalize()} alone {own}."
    more = f"A{place(gain)} it gains {_range(gain, 'to_singles', '')} points over {mix(gain)}"
    more += f"; a gain is shown at {len(shown)} of {len(judged)} budgets." if judged[1:] else "."
    if (lead := gain["bound_lead"]) is not None:
        reached = (
            f": {100 * gain['reached']:.0f} % of that is reached"
            if shown and gain["reached"]
            else ""
        )
        more += f" Hindsight could gain {_points(lead)}{reached}."
    groups = f" in {table.units:,} groups" if table.group is not None else ""
    notes = [f"told from {rows:,} rows{groups} of split {table.split}, which chose nothing"]
    if len(tests) > 1:
        notes.append(f"means over {len(tests)} seeds, with the intervals of one")
    if any(record["fit_lead"] is None for record in judged):
        notes.append("the rows of the fit have no labels: methods are taken as they were named")
    if None in leads:
        notes.append("cost and quality count what is handed over; there is no bound in hindsight")
    best = max(exits, key=lambda e: e["fit_quality"] or 0.0)
    if best is not exits[-1] and best["fit_quality"]:
        notes.append(f"by the rows of the fit {names[best['exit']]} is better than {full}")
    return Verdict(pays, headline, (told, more), record, tuple(notes))


def _needed(gain: dict[str, Any], drop: float, rows: int, budgets: int) -> int:
    """Return about how many rows would tell whether single exits do as well, if means stay as they are."""
    mean, strict = (
        gain["to_singles"],
        NormalDist().inv_cdf(1 - 0.025 / budgets) / _Z,
    )  # Holm's, at worst
    wide = (mean - gain["to_singles_low"]) * min(
        strict / max(mean, 1e-9), 1 / max(drop - mean, 1e-9)
    )
    return int(float(f"{rows * max(wide, 1.1) ** 2:.1e}"))


def _points(value: float, sign: str = "") -> str:
    """Return a difference of qualities in points; two digits where one would show nothing."""
    digits = 1 if abs(value) >= 0.00095 or not value else 2
    return f"{round(100 * value, digits) + 0.0:{sign}.{digits}f}"


def _range(record: dict[str, Any], name: str, sign: str | None = None) -> str:
    """Return a cost, or a difference of qualities with its sign, with its interval."""
    ends = (record[name + end] for end in ("", "_low", "_high"))
    mean, low, high = (
        f"{v:.4g}" if sign is None else f"{round(100 * v, 1) + 0.0:{sign}.1f}" for v in ends
    )
    return f"{mean} [{low}, {high}]"
