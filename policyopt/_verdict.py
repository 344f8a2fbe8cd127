"""A verdict in plain words: whether leaving early, or asking models in turn, pays on rows that chose nothing.

The rows of the fit choose what is looked at, so that nothing wins by luck: the method at each budget (`Fitted.quality`;
of those within a standard error the first), the single exits held against it, the budget whose gain is told. Then, by
paired rows, groups kept whole:

- *as good as the full model*: at most `max_drop` worse (tests of `policyopt._bounds`, exact or by betting; groups: by a
  normal). Budgets are
  tried from the dearest down, each at 95 %, until one fails: all shown hold at once with 95 % (fixed-sequence testing:
  Maurer, Hothorn & Lehmacher, 1995; as in Pareto testing, Laufer-Goldman et al., arXiv:2210.07913, section 4).
- *better than single exits*: than two mixed at random to equal realised cost; Holm's correction over budgets.
- *the ceiling*: what share of the lead that the best choice in hindsight has over single exits is reached.

It pays where a gain over single exits is shown; not where intervals leave room for at most `max_drop` at any budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from policyopt._bounds import betting, ternary
from policyopt._costs import per_thousand
from policyopt._frontier import (
    MOST_COMPARED,
    Frontier,
    Path,
    beside_full,
    exit_means,
    means_over,
    oracle,
    path_through,
    values_at,
)
from policyopt._intervals import mean_interval, standard_error, with_interval
from policyopt._methods.registry import ROWS
from policyopt._methods.targets import read_share
from policyopt._table import Table, known_rows, subsample
from policyopt._testing import holm
from policyopt._thresholds.joint import upper_hull
from policyopt.runtime._checks import check_type
from policyopt.runtime._shown import Shown

#: Of the full model's cost: to save less is to save nothing.
_SAVES = 0.01
#: Fields of a record that are no means over seeds.
_HEAD = (
    "method",
    "chosen",
    "budget",
    "target",
    "unit",
    "fit_lead",
    "bound_lead",
    "singles",
    "alone",
)
_Z, _NEAR = NormalDist().inv_cdf(0.975), np.array([1 - 1e-9, 1 + 1e-9])


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """What `verdict` found; `str` of it is the plain text.

    Attributes
    ----------
    pays : bool or None
        None: it cannot be told.
    headline, sentences, notes : str, tuple of str, tuple of str
        The answer, what it rests on, what a reader should know besides.
    record : dict
        The numbers, JSON-able. ``budgets``, the cheapest first: fields of `curve`, and ``saving``, differences with
        intervals ``to_full``, ``to_singles`` (at equal cost), ``to_alone`` (the best exit no dearer); ``within``: shown
        to be at most `max_drop` worse; ``gains``: shown over single exits; ``bound_lead``, ``reached``. ``at``,
        ``gain_at``: the numbers of those that the words are of.
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
    drop, seeds = read_share(max_drop, "max_drop"), list(frontier.tests)
    of = [(seed, known_rows(table)) for seed, table in frontier.tests.items()]
    tests = {seed: subsample(table, MOST_COMPARED, seed) for seed, table in of}
    null = {name for name, row in ROWS.items() if row.family == "null"}
    labels = list(dict.fromkeys(k[0] for k, f in frontier.fitted.items() if f.method not in null))
    found = {i: _chosen(frontier, labels, seeds, i) for i in {k[2] for k in frontier.fitted}}
    chosen = {i: label for i, label in found.items() if label is not None}
    if chosen and all(table.labelled for table in tests.values()):
        judged = _judged(frontier, tests, chosen, drop)
        return _told(frontier, tests[seeds[0]], drop, judged)
    why = "no method that leaves early met a budget; name one, e.g. auto"
    why = "no row has a label" if chosen else why
    record = {"pays": None, "reason": "nothing", "budgets": [], "at": None, "gain_at": None}
    return Verdict(None, f"Whether leaving early pays cannot be told: {why}.", (), record)


def _chosen(frontier: Frontier, labels: list[str], seeds: list[int], index: int) -> str | None:
    """Return the method that is best at a budget as the rows of the fit say, the first of those about as good."""
    found = {name: [frontier.fitted.get((name, s, index)) for s in seeds] for name in labels}
    of: dict[str, Any] = {name: each for name, each in found.items() if None not in each}
    parts = [str(f.policy.provenance.get("target")) for each in of.values() for f in each]
    if any(part[:4] in ("accu", "qual", "drop") for part in ", ".join(parts).split(", ")):
        # All keep the floor: the cheapest.
        return min(of, key=lambda name: np.mean([one.expected.cost for one in of[name]]))
    worth = {name: float(np.mean([one.quality for one in each])) for name, each in of.items()}
    known = [name for name in of if not math.isnan(worth[name])] or list(of)
    best = max(known, key=lambda name: worth[name], default="")

    def noise(a: Any, b: Any) -> float:
        if a.right is None or b.right is None or len(a.right) != len(b.right):
            return 0.0
        return float(standard_error(a.right - b.right, a.group))

    for name in known:
        errors = [noise(a.expected, b.expected) for a, b in zip(of[best], of[name], strict=True)]
        if name == best or worth[best] - worth[name] <= np.mean(errors):
            return name
    return None


def _judged(
    frontier: Frontier, tests: dict[int, Table], chosen: dict[int, str], drop: float
) -> list[dict[str, Any]]:
    """Return a record per budget, the cheapest first as the rows of the fit say, and what rows to test on show."""
    told = dict(zip(frontier.fitted, frontier.records, strict=True))
    first = {i: frontier.fitted[name, next(iter(tests)), i].expected for i, name in chosen.items()}
    order = sorted(chosen, key=lambda i: (first[i].cost, i))
    keys = {seed: [(chosen[i], seed, i) for i in order] for seed in tests}
    rows = [_on_rows(frontier, tests[seed], mine, drop) for seed, mine in keys.items()]
    records: list[dict[str, Any]] = []
    for mine, of in zip(zip(*keys.values(), strict=True), zip(*rows, strict=True), strict=True):
        each = [{**told[key], **one} for key, one in zip(mine, of, strict=True)]
        for (_, seed, _), one in zip(mine, each, strict=True):  # costs are of all rows
            one["full_cost"] = exit_means(frontier.tests[seed])[0][-1]
            one["saving"] = 1.0 - one["realised_cost"] / one["full_cost"]
        record = {**{name: each[0][name] for name in _HEAD}, **means_over(each)}
        lead = record["bound_lead"]
        record["reached"] = record["to_singles"] / lead if lead and lead > 1e-9 else None
        records.append(record)
    sure = True
    for record in reversed(records):
        record["within"] = sure = sure and record["to_full_p"] <= 0.05
    errors = [max(one["to_singles"] - one["to_singles_low"], 1e-12) / _Z for one in records]
    z = [one["to_singles"] / error for one, error in zip(records, errors, strict=True)]
    p = holm(np.array([min(2 * NormalDist().cdf(-one), 1.0) for one in z])).tolist()
    return [{**one, "p": p, "gains": p <= 0.05} for one, p in zip(records, p, strict=True)]


def _on_rows(frontier: Frontier, table: Table, keys: list[Any], drop: float) -> list[Any]:
    """Return how policies of one seed fare on its rows: against the full model, single exits and hindsight."""
    (_, seed, _), quality, group = keys[0], table.quality, table.group
    exits = [one for one in frontier.exits if one["seed"] == seed]
    points = np.array([[one["fit_cost"], one["fit_quality"]] for one in exits], dtype=float)
    if np.isnan(points).any():  # no labels there: the best on these rows, which is in their favour
        points = np.array([[one["cost"], one["quality"]] for one in exits])
    hull = upper_hull(points)
    hull = hull[: int(points[hull, 1].argmax()) + 1]
    fitted = [frontier.fitted[key] for key in keys]
    ours = path_through([one.policy for one in fitted], table)
    paid = np.broadcast_to(table.standalone_costs, quality.shape)[:, hull]
    costs = ours.cost[:, 1:].mean(axis=0)
    line = paid.mean(axis=0), quality[:, hull].mean(axis=0)
    rival = Path(paid, quality[:, hull], table.graded, group)
    rivals = values_at(rival, np.maximum(costs, line[0].min()))[0]
    step = np.maximum(1e-6 * costs, 1e-300)
    slopes = (np.interp(costs + step, *line) - np.interp(costs, *line)) / step
    asked = np.maximum([one.budget or 0.0 for one in fitted], costs).tolist()
    single = np.interp(asked, paid.mean(axis=0), quality[:, hull].mean(axis=0))
    rooms = np.maximum(oracle(table, asked) - single, 0.0)
    # About its upper end: of few rows that no choice would help, another may well be one that it does.
    rooms += 1.645 * (rooms / table.units) ** 0.5 + 3 / table.units
    alike = np.interp(costs, *line).tolist()
    bounds = zip(oracle(table, costs).tolist(), rooms.tolist(), strict=True)
    out = []
    for i, (one, (bound, room)) in enumerate(zip(fitted, bounds, strict=True), 1):
        cost, worth, claimed = ours.cost[:, i], ours.quality[:, i], one.expected.cost
        # At equal realised cost: what a row costs more is priced by the slope of the line through single exits.
        priced = worth - slopes[i - 1] * (cost - costs[i - 1])
        gain = mean_interval(priced - rivals[:, i - 1], span=1.0, group=group, seed=seed)
        lead = one.quality - float(np.interp(claimed, *points[hull].T))
        no_dearer = points[:, 0] <= max(claimed, points[:, 0].min()) * (1 + 1e-9)
        alone = int(np.where(no_dearer, points[:, 1], -1.0).argmax())
        full, loss = beside_full(table, cost, worth), quality[:, -1] - worth
        error = (full["to_full"] - full["to_full_low"]) / _Z
        p = NormalDist().cdf(-(full["to_full"] + drop) / error)
        if group is None and np.isin(loss, (-1.0, 0.0, 1.0)).all():
            p = float(ternary(loss[None], drop, delta=0.05)[0])
        elif group is None:
            some = (1 + loss[None, np.random.default_rng(seed).permutation(len(loss))]) / 2
            p = float(betting(some, (1 + drop) / 2, high=1.0, delta=0.05)[0])
        own = mean_interval(worth - quality[:, alone], span=1.0, group=group)
        low, high = np.searchsorted(paid.mean(axis=0), cost.mean() * _NEAR).tolist()
        out.append({
            **full, "to_full_p": p, **with_interval("to_alone", *own[:3]), "alone": alone,
            **with_interval("to_singles", gain.mean, max(gain.low, -1.0), min(gain.high, 1.0)),
            "singles": hull[max(high - 1, 0) : low + 1], "headroom": room,
            "bound_lead": None if getattr(one.policy, "abstention", None) else bound - alike[i - 1],
            "fit_lead": None if math.isnan(lead) else lead,
        })  # fmt: skip
    return out


# --- in words ------------------------------------------------------------------------------------


def _told(frontier: Frontier, table: Table, drop: float, judged: list[Any]) -> Verdict:
    """Return the answer that judged budgets give, and what it rests on, in words."""
    rows, cascade, unit = len(table), table.cascade, frontier.unit
    exits = frontier.exits[: table.exits]  # of the first seed
    kind = "model" if cascade else "exit"
    names = [f"{kind} {one.get('name', one['exit'])}" for one in exits]
    full, singles = f"{names[-1]} alone" if cascade else "the full model", f"single {kind}s"
    what, points = "A cascade" if cascade else "Leaving early", f"{100 * drop:g} points"
    shown = [b for b, one in enumerate(judged) if one["gains"]]
    saves = [b for b, one in enumerate(judged) if one["saving"] >= _SAVES] or [len(judged) - 1]
    good = [b for b in saves if judged[b]["within"] and judged[b]["saving"] >= _SAVES]
    at = next((b for b in good if b in shown), good[0] if good else None)
    gain_at = max(shown or range(len(judged)), key=lambda b: judged[b]["fit_lead"] or -1.0)
    gain, one = judged[gain_at], judged[saves[-1] if at is None else at]
    word = "quality" if frontier.graded else "accuracy"
    leads = [record["bound_lead"] for record in judged]
    knew = "a choice that knew the right answers could gain"

    def by(of: dict[str, Any]) -> str:
        share, chosen = 100 * (1 - of["saving"]), f" ({of['chosen']})" if of["chosen"] else ""
        return f"{of['method']}{chosen} at {share:.{share < 9.5:d}f} % of the cost of {full}"

    def mix(of: dict[str, Any]) -> str:
        found = " and ".join(names[k] for k in of["singles"])
        return f"mixing {found} at random" if of["singles"][1:] else f"{found} alone"

    def has(cost: float, quality: float) -> str:
        return f"{cost:.4g} {unit}{per_thousand(cost, unit)} with {100 * quality:.1f} % {word}"

    better = at is not None and one["to_full_low"] > 5e-4
    near = f"{by(one)} is at most {points} worse (95 % sure)"
    if better:
        near = f"{by(one)} is better than {full} ({_range(one, 'to_full', '+')} points)"
    if at is None:
        sure = all(judged[b]["to_full_high"] < -drop for b in saves)
        tried = f"none of the {len(saves)} budgets tried" if saves[1:] else "the budget tried"
        sure = f"{'is' if saves[1:] else 'is not'} {'' if sure else 'shown to be '}"
        near = f"{tried} {sure}within {points} of {full}"
    if one["saving"] < _SAVES:
        near = f"nothing tried is cheaper than {full}"
    told, after, only, needed, alone = "", "", "", None, one["to_alone_high"] <= drop
    if at in shown:
        pays, reason, why = True, "as good", near
    elif shown:
        pays, reason = True, "gains"
        lead, lost = 100 * gain["to_singles"], -100 * gain["to_full"]
        why = f"{by(gain)} gains {lead:.1f} points over {singles} of that cost"
        if gain["to_full_low"] < -drop:  # the price goes first
            lost = f"{lost:.1f}" if lost >= 0.05 else f"up to {-100 * gain['to_full_low']:.1f}"
            only = f" only if some {word} may be lost"
            why = f"{by(gain)} is {lost} points worse, but {lead:.1f} better than {singles} of that cost"
        if at is None:
            one, after = gain, f", and {near}"
        else:
            told = f"But {near}; {mix(one)} may be as good. "
    elif any(record["to_singles_high"] > drop for record in judged):
        mean, low = gain["to_singles"], gain["to_singles_low"]
        more = max((mean - low) / max(mean, drop - mean, 1e-4), 1.2) ** 2  # if means stay so
        pays, reason, needed = None, "few rows", int(float(f"{rows * more:.1e}"))
        why = f"{rows:,} rows are too few to tell it from {singles}, about {needed:,} might do"
        told = "" if at is None else f"But {near}. "
    elif max(record["headroom"] for record in judged) <= drop:
        most = max(record["headroom"] for record in judged)
        pays, reason = False, "no headroom"
        why = f"even {knew} at most {100 * most + 1e-9:.2f} points over {singles} at these budgets"
    elif at is None:
        pays, reason, why = False, "full model", f"{near}, and below that {singles} do as well"
    else:
        who = f"{names[one['alone']]} alone" if alone else mix(one)
        pays, reason, why = False, "single", f"{who} does as well at no more cost"
    who = f"The {'dearest that saves' if at is None else 'cheapest as good'}, {by(one)},"
    told += f"{'There it' if shown or (pays is None and at is not None) else who} "
    told += f"costs {has(one['realised_cost'], one['quality'])}, {full} "
    told += has(one["full_cost"], one["full_quality"])
    apart = f": {_range(one, 'to_full', '+')} points{after}"
    told += "." if better and near in why + told else f"{apart}."
    if at is not None and alone:
        own = exits[one["alone"]]
        told += f" Alone, {names[own['exit']]} costs {has(own['cost'], own['quality'])}."
    more = f"At equal cost, {'it' if shown and one is gain else by(gain)} gains"
    more += f" {_range(gain, 'to_singles')} points over {mix(gain)}"
    more += f"; a gain is shown at {len(shown)} of {len(judged)} budgets." if judged[1:] else "."
    if gain["bound_lead"] is not None:
        more += f" {knew[0].upper()}{knew[1:]} {100 * gain['bound_lead']:.1f} points"
        more += f"; {100 * gain['reached']:.0f} % of that is reached." if shown else "."
    groups = "" if table.group is None else f" in {table.units:,} groups"
    some = "random " if rows < len(known_rows(frontier.tests[min(frontier.tests)])) else ""
    notes = [f"the verdict is of {rows:,} {some}rows{groups} of split {table.split}"]
    if None in leads:
        notes.append(
            "cost and quality of the policy count what is handed over, the full model's do not"
        )
    best = max(exits, key=lambda e: e["fit_quality"] or 0.0)
    if (best["fit_quality"] or 0.0) > (exits[-1]["fit_quality"] or 0.0):
        notes.append(f"by the rows of the fit {names[best['exit']]} is better than {full}")
    record = {
        "pays": pays, "reason": reason, "max_drop": drop, "unit": unit, "at": at, "gain_at": gain_at, "rows": rows,
        "rows_needed": needed, "budgets": judged,
        "full": {"name": full, "cost": one["full_cost"], "quality": one["full_quality"]},
    }  # fmt: skip
    answer = f"Whether {what.lower()} pays cannot be told"
    answer = answer if pays is None else f"{what} pays{only}" if pays else f"{what} does not pay"
    return Verdict(pays, f"{answer}: {why}.", (told, more), record, tuple(notes))


def _range(record: dict[str, Any], name: str, sign: str = "") -> str:
    """Return a difference of qualities in points with its interval."""
    ends = (round(100 * record[name + end], 1) + 0.0 for end in ("", "_low", "_high"))
    return "{} [{}, {}]".format(*(f"{end:{sign}.1f}" for end in ends))
