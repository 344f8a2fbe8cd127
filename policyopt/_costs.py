"""Costs and budgets: units, cumulative and standalone, the policy's own arithmetic.

Inside policyopt a cost is always **cumulative**: ``c[k]`` is what a sample that leaves at exit k
has paid in all. Standalone costs (each model of a cascade alone) are summed once, on the way in.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from policyopt.runtime._checks import MAX_COST, MAX_NAME, check_one_of, check_text, check_type
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._typing import Bools, Floats

if TYPE_CHECKING:
    from policyopt.runtime._answers import AnswerRule
    from policyopt.runtime._scores import ScoreRule

KINDS = ("cumulative", "standalone", "measured")
#: Of the last exit; the inverse of its square is a number too.
MIN_COST = 1e-100
MAX_BUDGETS = 10_000
Budget = float | str
_ARITHMETIC = re.compile(
    r"^(?P<scale>|k|kilo|m|mega|g|giga|t|tera)(?P<kind>flops?|macs?|ops?|madds?)$", re.IGNORECASE
)
_SCALES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
#: ``$3/1000``, ``3 USD per 1000 calls``, ``$0.003``; of units ``usd``, ``ct``, ``1e-6 USD``, ``USD/1k``.
_MONEY = re.compile(
    r"(?P<of>[^\d\s./+-]+)?\s*(?P<number>(\d+\.?\d*|\.\d+)(e[+-]?\d+)?)?\s*(?P<by>[^\d\s./+-]+)?"
    r"(\s*(/|per)\s*(?P<many>1000|1k|thousand)?\s*((request|call|question)s?|quer(y|ies))?)?",
    re.IGNORECASE,
)
_CALLED = {"$": "USD", "US$": "USD", "DOLLARS": "USD", "€": "EUR", "EUROS": "EUR", "£": "GBP"}
_CENTS = ("CT", "CENT", "CENTS", "¢")  # of any currency
_CURRENCIES = ("USD", "EUR", "GBP", "CHF", "JPY", "CNY", "INR")


@dataclass(frozen=True)
class Cost:
    """Cost per exit, or the name and unit of a cost that is given per sample.

    Parameters
    ----------
    name : str
        What the user calls it, e.g. ``"compute"`` or ``"latency"``.
    unit : str
        Unit of every number, e.g. ``"ms"``, ``"MMACs"``, ``"USD"``.
    values : sequence of K floats or None
        Cost per exit in `unit`; None when the cost is given per sample with the rows.
    kind : {"cumulative", "standalone", "measured"}, default "cumulative"
        Whether a value holds all that was paid up to that exit, or that exit alone; ``measured`` values are
        cumulative, too, and may fall by noise: they become the nearest that do not (isotonic regression).
    cascade : bool, default False
        Whether an exit that is skipped costs nothing: each cost is known alone, as those of the
        models of a cascade are. True wherever costs were given as standalone.
    heads : sequence of K floats or str, optional
        What the exits' heads cost, contained in `values`: in `unit`, or shares of the exit's own stage, ``"10%"``; one
        stands for all. A model built without an exit saves its head. Not of a cascade.

    Raises
    ------
    InputError
        A value is negative or not finite, cumulative values decrease, or a head costs more than its stage.

    Examples
    --------
    >>> cost = Cost("compute", "MFLOPs", [1, 2, 4], kind="standalone")
    >>> cost.values, cost.cascade
    ((1.0, 3.0, 7.0), True)
    """

    name: str
    unit: str
    values: tuple[float, ...] | None
    kind: str = "cumulative"
    cascade: bool = False
    heads: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_text("cost name", self.name, MAX_NAME, "Name it, e.g. compute.")
        check_text("cost unit", self.unit, step="E.g. ms, MMACs, USD.")
        check_cost_kind(self.kind)
        if self.values is not None:
            try:
                row = np.asarray(self.values, dtype=np.float64)
            except (TypeError, ValueError) as error:
                allowed = "one number per exit"
                raise input_error(self.name, allowed, self.values, "E.g. 1,2,4.") from error
            if row.ndim != 1 or not row.size:
                raise input_error(self.name, "of shape (K,)", f"shape {row.shape}", "One per exit.")
            values = cumulative(row[None, :], self.kind, self.name)
            if values[0, -1] < MIN_COST:
                allowed = f"more than 0 at the last exit ({MIN_COST:g} at least)"
                step = "A budget needs a cost; choose another unit."
                raise input_error(self.name, allowed, f"{values[0, -1]:g}", step)
            object.__setattr__(self, "values", tuple(float(v) for v in values[0]))
        check_type("cascade", self.cascade, bool, "True or False", "Are skipped exits free?")
        object.__setattr__(self, "cascade", self.cascade or self.kind == "standalone")
        # From here on the values are cumulative, whatever they were given as.
        object.__setattr__(self, "kind", "cumulative")
        if self.heads is not None:
            object.__setattr__(self, "heads", self._checked_heads(self.heads))

    def _checked_heads(self, given: Any) -> tuple[float, ...]:
        """Return the heads' costs as numbers in the unit."""
        name = f"head cost of {self.name}"
        if self.cascade:
            step = "Leave it out: a model of a cascade that is skipped costs nothing already."
            raise input_error(name, "of costs of one model, not of a cascade", given, step)
        several = isinstance(given, Iterable) and not isinstance(given, str)
        texts = [t.strip() for t in ",".join(map(str, given if several else [given])).split(",")]
        shares, exits = [t.endswith("%") for t in texts], len(self.values or texts)
        try:
            numbers = np.array([float(text.removesuffix("%")) for text in texts])
        except ValueError:
            numbers = np.empty(0)
        if len(numbers) not in (1, exits) or (any(shares) and self.values is None):
            more = "" if self.values is None else ", or shares of its own stage such as 10%"
            count = "a number" if self.values is None else f"{exits} numbers"
            allowed = f"{count} in {self.unit}, one per exit{more}; one alone stands for all"
            got, step = f"{len(texts)}: {', '.join(texts)}", "E.g. --head-cost 10%."
            raise input_error(name, allowed, got, step)
        if self.values is not None:
            alone = np.diff(self.values, prepend=0.0)
            numbers = np.where(shares, numbers / 100, 1.0) * np.where(shares, alone, numbers)
        check_heads(numbers, self.values, self.unit, name)
        return tuple(numbers.tolist())

    @property
    def per_sample(self) -> bool:
        """Whether each sample has costs of its own."""
        return self.values is None


def check_heads(heads: Floats, costs: Any, unit: str, name: str) -> None:
    """Refuse heads, (K,), that are not finite, negative, or dearer than their stages, of costs (K,) or (N, K)."""
    costs = MAX_COST * np.arange(1.0, len(heads) + 1) if costs is None else np.atleast_2d(costs)
    # A stage is a difference of sums: a head that is all of it may pass it by a rounding.
    room = np.atleast_2d(np.diff(costs, axis=-1, prepend=0.0)).min(axis=0) + 1e-9 * np.max(costs)
    for k in np.flatnonzero(~((heads >= 0) & (heads <= room)))[:1].tolist():
        allowed = f"0 to {room[k]:.6g} {unit} at exit {k}, its own stage"
        step = "Stages hold their heads: give what the head alone costs, 0 if that is not known."
        raise input_error(name, allowed, f"{heads[k]:g}", step)


def with_heads(costs: Sequence[Cost], given: Any, name: str | None = None) -> tuple[Cost, ...]:
    """Return costs with heads, of the cost `name` (default: the first) or, of ``"NAME=VALUES"``, of those named."""
    several = given if isinstance(given, (list, tuple)) else [given] * (given is not None)
    if given is not None and not len(several):
        raise input_error("head cost", "a number per exit, or one", "none", "Leave it out.")
    named = all("=" in str(one) for one in several)
    for one in several if named else [given]:
        of, _, heads = str(one).partition("=") if named else (name or costs[0].name, "", given)
        if of.strip() not in (known := [cost.name for cost in costs]):
            step = "E.g. --head-cost compute=0.1,0.1,0.2,0; `policyopt info` lists the costs."
            raise input_error("head cost", f"of one of {', '.join(known)}", of, step)
        costs = tuple(replace(c, heads=heads) if c.name == of.strip() else c for c in costs)
    return tuple(costs)


def check_cost_kind(kind: str) -> None:
    """Refuse what is no way of giving costs."""
    check_one_of("cost kind", kind, KINDS, "Choose one (--cost-kind).")


def cumulative(costs: Floats, kind: str, name: str = "costs", first_row: int = 0) -> Floats:
    """Return costs (N, K) as cumulative; refused where not finite, negative, too large, or falling."""
    check_cost_kind(kind)
    costs = np.asarray(costs, dtype=np.float64)
    if costs.ndim != 2 or costs.shape[1] == 0:
        shape = f"shape {costs.shape}"
        raise input_error(name, "of shape (K,) or (N, K)", shape, "Give one cost per exit.")

    def place(row: int, exit_: int) -> str:
        return f"exit {exit_}" + (f" of row {first_row + row}" if len(costs) > 1 else "")

    def refuse(off: Bools, values: Floats, allowed: str, step: str) -> None:
        if off.any():
            row, exit_ = np.argwhere(off)[0]
            raise input_error(name, allowed, f"{values[row, exit_]:g} at {place(row, exit_)}", step)

    refuse(~np.isfinite(costs), costs, "finite", "Mend or drop that cost.")
    refuse(costs < 0, costs, "0 or more", "Mend that cost, or leave it out.")
    with np.errstate(over="ignore"):  # too much all the same
        whole = np.cumsum(costs, axis=1) if kind == "standalone" else costs
    step = "Mend it, or choose a larger unit."
    refuse(whole > MAX_COST, whole, f"at most {MAX_COST:g}", step)
    if kind == "standalone":
        return whole
    if kind == "measured":
        return rising(whole)
    falls = np.argwhere(np.diff(costs, axis=1) < 0)
    if falls.size:
        row, exit_ = falls[0]
        raise InputError(
            f"'{name}' must not decrease from exit to exit when cumulative. Got {costs[row, exit_]:g} at "
            f"{place(row, exit_)} and then {costs[row, exit_ + 1]:g} at exit {exit_ + 1}. If they were measured and "
            "fall by noise, say --cost-kind measured (Python: cost_kind='measured'): they are smoothed. Only if "
            "each is the cost of that exit alone, say standalone: they are then added up."
        )
    return costs


def rising(costs: Floats) -> Floats:
    """Return the nearest costs (N, K) that do not fall from exit to exit: isotonic regression of each row."""
    # By the min-max formula: the largest over i <= k of the least over j >= k of the means from i to j (Barlow et
    # al., Statistical inference under order restrictions, 1972, eq. 1.9).
    out = costs.copy()
    rows = np.flatnonzero((np.diff(costs, axis=1) < 0).any(axis=1))
    sums = np.cumsum(costs[rows], axis=1)
    count = costs.shape[1]
    best = np.full((len(rows), count), -np.inf)
    for i in range(count):
        means = (sums[:, i:] - (sums[:, [i - 1]] if i else 0.0)) / np.arange(1, count - i + 1)
        least = np.minimum.accumulate(means[:, ::-1], axis=1)[:, ::-1]
        best[:, i:] = np.maximum(best[:, i:], least)
    out[rows] = np.maximum.accumulate(np.maximum(best, 0.0), axis=1)
    return out


def exit_counts(exits: int) -> Cost:
    """Return the cost where none is stated: 1..K."""
    return Cost("exits", "exits", tuple(float(k) for k in range(1, exits + 1)))


def kept_costs(costs: Floats, kept: Sequence[int], cascade: bool, heads: Any = None) -> Floats:
    """Return cumulative costs, (K,) or (N, K), where only the exits `kept` (ascending) are built and run.

    A skipped model of a cascade costs nothing; a skipped exit of one model all but its head, (K,), if that is known.

    >>> kept_costs(np.array([1.0, 3.0, 7.0]), [0, 2], cascade=True)
    array([1., 5.])
    >>> kept_costs(
    ...     np.array([1.0, 3.0, 7.0]), [0, 2], cascade=False, heads=np.array([0.0, 0.5, 0.0])
    ... )
    array([1. , 6.5])
    """
    at = list(kept)
    if not cascade and (heads is None or not any(heads)):
        return costs[..., at]
    alone = np.diff(costs, axis=-1, prepend=0.0)
    if cascade or heads is None:
        return np.cumsum(alone[..., at], axis=-1)
    saved = np.where(np.isin(np.arange(costs.shape[-1]), at), 0.0, heads)
    return np.cumsum(np.maximum(alone - saved, 0.0), axis=-1)[..., at]


def positions(costs: Floats, count: int) -> Floats:
    """Return `count` budgets at even positions between exit 0 and exit K-1, by mean costs (K,).

    By exit index, the cost interpolated between neighbours: costs are often geometric.

    >>> positions(np.array([1.0, 2.0, 6.0]), 3)
    array([1.5, 2. , 4. ])
    """
    if not 1 <= count <= MAX_BUDGETS:
        allowed = f"a positive number of budgets, at most {MAX_BUDGETS}"
        raise input_error("budgets", allowed, count, "E.g. --budgets 9.")
    share = np.arange(1, count + 1) / (count + 1)
    return np.interp(share * (len(costs) - 1), np.arange(len(costs)), costs)


def money(text: str, least: str = "1") -> tuple[float, str] | None:
    """Return an amount per request, and its currency, "" of cents; None: no money. `least`: what no number is."""
    found = _MONEY.fullmatch(text.strip())
    named = [one.upper() for one in (found["of"], found["by"]) if one] if found else []
    name = _CALLED.get(named[0], named[0]) if len(named) == 1 else None
    number = (found["number"] or least) if found else ""
    amount = float(number or 0)
    if name not in (*_CURRENCIES, *_CENTS) or not found or not 0 < amount < math.inf:
        return None
    amount /= 1000 if found["many"] else 1
    return (amount / 100, "") if name in _CENTS else (amount, name)


def per_thousand(cost: float | None, unit: str) -> str:
    """Return what stands beside a mean cost in money, `` ($2.71/1000)``, requests; beside others nothing."""
    own = money(unit)
    if own is None or cost is None:
        return ""
    amount, sign = 1000 * cost * own[0], {"USD": "$", "EUR": "€", "GBP": "£"}.get(own[1], "")
    amount, after = (amount, "" if sign else f" {own[1]}") if own[1] else (100 * amount, " ct")
    return f" ({sign}{amount:{'.3g' if amount < 1000 else '.0f'}}{after}/1000)"


def parse_budget(budget: Budget, costs: Floats, unit: str = "") -> float:
    """Return a budget in the unit of `costs`: a number, a share of the last, or money (see `money`)."""
    text, of = str(budget).strip(), unit or "the unit of the costs"
    text = text.removesuffix(unit).strip()
    try:
        value = float(text.removesuffix("%"))
    except ValueError:
        value = math.nan
        asked, own = money(text, ""), money(unit)
        if asked and (own is None or (asked[1] and own[1] and asked[1] != own[1])):
            step = "Convert it, or take another cost (--cost NAME): a number in the unit, or 40%, does."
            of = own[1] if own else of
            raise input_error("budget", f"in {of}, as the costs", budget, step) from None
        if asked and own:
            return asked[0] / own[0]
    if not math.isfinite(value):
        allowed = f"a number in {of}, or a share such as 40%"
        step = "`fit` and `curve` take other targets, too."
        if money(unit):
            allowed += ", or money per request or per 1000 requests"
            step = "Money in single quotes, as a shell reads $3 itself: '$3/1000', or 3USD/1000."
        raise input_error("budget", allowed, budget, step)
    value = value / 100 * float(costs[-1]) if text.endswith("%") else value
    ends = [float(end) for end in (costs[0], costs[-1]) if abs(value - end) <= 5e-6 * abs(end)]
    return ends[0] if ends else value  # an end as it is printed, of six digits, is that end


def parse_budgets(
    budgets: int | float | str | Sequence[Budget], costs: Floats, unit: str = ""
) -> list[float]:
    """Return one budget, a count of them (9), or a list ("20%,1.5"), in the unit of `costs`, (K,).

    >>> parse_budgets("20%,1.5", np.array([1.0, 5.0])), parse_budgets(3, np.array([1.0, 5.0]))
    ([1.0, 1.5], [2.0, 3.0, 4.0])
    """
    if isinstance(budgets, (np.ndarray, np.generic)):
        budgets = budgets.tolist()
    if isinstance(budgets, str) and re.fullmatch(r"[+-]?\d{1,400}", budgets.strip()):
        budgets = int(budgets)
    if isinstance(budgets, int):
        return [float(b) for b in positions(costs, budgets)]
    given: Any = [budgets] if isinstance(budgets, float) else budgets
    given = given.split(",") if isinstance(given, str) else given
    items = [b for b in (given if isinstance(given, Iterable) else ()) if str(b).strip()]
    if not items:
        raise input_error("budgets", "at least one budget", "none", "E.g. --budgets 9, or 20%,40%.")
    return [parse_budget(budget, costs, unit) for budget in items]


def unit_per_multiply_add(unit: str) -> float | None:
    """Return what a multiply-add (two FLOPs, one MAC) costs in the unit; None where not arithmetic."""
    found = _ARITHMETIC.match(unit.strip())
    if found is None:
        return None
    worth = 1.0 if found["kind"].lower().startswith("ma") else 2.0
    return worth / _SCALES[found["scale"][:1].lower()]


def rate_of(cost: Cost, costs: tuple[Cost, ...]) -> float:
    """Return the cost of one multiply-add in the unit of `cost`, by another cost where need be; 0 if unknown."""
    own = unit_per_multiply_add(cost.unit)
    if own is not None:
        return own
    for other in costs:
        rate = unit_per_multiply_add(other.unit)
        if rate is not None and other.values is not None and cost.values is not None:
            return cost.values[-1] / other.values[-1] * rate
    return 0.0


def overhead(
    answer: AnswerRule, rules: tuple[ScoreRule, ...], exits: int, classes: int, rate: float
) -> Floats:
    """Return the cumulative cost of a policy's own arithmetic per exit, (K,); softmax and entropy are the head's."""
    each = [sum(one.operations(k, classes) for one in (answer, *rules)) for k in range(exits)]
    return np.cumsum(each) * rate
