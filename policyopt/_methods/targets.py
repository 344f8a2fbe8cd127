"""Targets: what a fit is asked for, a budget, a floor on quality, limits on costs, in any combination."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from policyopt._costs import Budget, parse_budget
from policyopt._limits import Limit
from policyopt._table import Table, known_rows
from policyopt.runtime._checks import check_type
from policyopt.runtime._errors import BudgetError, input_error, message

_FLOORS = ("accuracy", "quality", "max_drop")
#: What a refusal says last, but of the method that it names.
ANOTHER = ", or try another method (--method auto)"


@dataclass(frozen=True)
class Target:
    """What a fit is asked for: as good as possible within a budget, or as cheap as possible at a floor.

    Parameters
    ----------
    budget : float or str, optional
        Most mean cost: a number in the unit, or ``"40%"`` of the full model.
    quality : float or str, optional
        Least mean quality on unseen rows: ``0.9`` or ``"90%"``.
    max_drop : float or str, optional
        Most by which it may fall short of the full model's, under 1: ``0.01`` or ``"1%"``, a point.
    saving : float or str, optional
        Least share of the full model's cost that is saved: ``0.5`` or ``"50%"``.
    limits : tuple of Limit
        On this and other costs.
    accuracy : float or str, optional
        The same as `quality`, of rows that are right or wrong.

    Raises
    ------
    InputError
        Nothing asked for, two floors, or a share that is none.

    Examples
    --------
    >>> Target(quality="90%", limits=(Limit.parse("p95<=20"),)).text
    'quality >= 0.9, p95<=20'
    """

    budget: Budget | None = None
    quality: float | str | None = None
    max_drop: float | str | None = None
    saving: float | str | None = None
    limits: tuple[Limit, ...] = ()
    accuracy: float | str | None = None

    def __post_init__(self) -> None:
        for name in (*_FLOORS, "saving"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else read_share(value, name))
        floors = [name for name in _FLOORS if getattr(self, name) is not None]
        if len(floors) > 1:
            step = "Leave one of the two out: both are floors on quality."
            allowed = f"absent beside {floors[1]}"
            raise input_error(floors[0], allowed, getattr(self, floors[0]), step)
        limits: Any = self.limits
        given = [Limit.parse(one) if isinstance(one, str) else one for one in limits]
        for one in given:
            check_type("limits", one, Limit, "of Limit", "E.g. Limit.parse('p95<=20').")
        object.__setattr__(self, "limits", tuple(given))
        if not self._given:
            step = "E.g. --budget 40%, --accuracy 90% or --max-drop 1%."
            raise input_error("budget", "given, or another target", "none", step)

    @property
    def _given(self) -> bool:
        wishes = (self.budget, self.saving)
        return bool(self.limits) or self.floored or any(wish is not None for wish in wishes)

    @property
    def floored(self) -> bool:
        """Whether there is a floor on quality."""
        return any(getattr(self, name) is not None for name in _FLOORS)

    @property
    def text(self) -> str:
        """As a person would say it."""
        said = {
            "budget": "budget {}", "accuracy": "accuracy >= {:g}", "quality": "quality >= {:g}",
            "max_drop": "drop <= {:g}", "saving": "saving >= {:g}",
        }  # fmt: skip
        given = [(form, getattr(self, name)) for name, form in said.items()]
        parts = [form.format(value) for form, value in given if value is not None]
        return ", ".join([*parts, *(limit.text for limit in self.limits)])

    def most(self, table: Table) -> float | None:
        """Return the budget in the table's unit; None: none is given."""
        budget, costs = self.budget, table.mean_costs
        found = [] if budget is None else [parse_budget(budget, costs, table.unit)]
        if self.saving is not None:
            found.append((1.0 - float(self.saving)) * float(table.mean_costs[-1]))
        return min(found, default=None)

    def floor(self, table: Table) -> float | None:
        """Return the least mean quality; None: none is given."""
        self.check(table)
        if self.max_drop is not None:
            return _of_full(table) - float(self.max_drop)
        found = self.quality if self.accuracy is None else self.accuracy
        return None if found is None else float(found)

    def check(self, table: Table) -> None:
        """Refuse an accuracy of rows that have none."""
        if self.accuracy is not None and table.graded:
            step = "Say --quality 0.9 (Python: quality=0.9), which is of what answers are worth."
            got = "graded rows" if table.utility is None else "answers that a utility values"
            raise input_error("accuracy", "of rows that are right or wrong", got, step)

    def unmet(
        self, table: Table, best: float, cost: float, step: str, within: str = ""
    ) -> BudgetError:
        """Return why a floor cannot be met, in the words that it was asked for in; `best` at a `cost` can be."""
        name = next(name for name in _FLOORS if getattr(self, name) is not None)
        if name == "max_drop":  # rounded to what can be had
            least = max(math.ceil(1e4 * (_of_full(table) - best) - 1e-6) / 1e4, 0.0)
            allowed = f"at least {least:.4g}"
        else:
            allowed = f"at most {math.floor(1e4 * best + 1e-6) / 1e4:.4g}"
        allowed += f"{within}, which costs {cost:.6g} {table.unit}"
        return BudgetError(message(name, allowed, f"{getattr(self, name):.4g}", step))


def _of_full(table: Table) -> float:
    """Return the full model's mean quality."""
    return float(known_rows(table).mean_quality[-1])


def read_share(value: Any, name: str) -> float:
    """Read a share: ``"91%"`` or 0.91."""
    text = str(value).strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = math.nan
    drops = name == "max_drop"  # of which all is no wish, but a number of points
    if isinstance(value, bool) or not 0 <= found <= 1 or (drops and found == 1):
        small = {"max_drop": ("1%", 0.01), "abstain": ("5%", 0.05)}
        percent, part = small.get(name, ("90%", 0.9))
        step = f"E.g. --{name.replace('_', '-')} {percent}."
        if drops and 1 <= found < 100 and not text.endswith("%"):
            step = f"{text} is {100 * found:g} points: write {text}% or {found / 100:g}."
        allowed = f"a share{' under 1' * drops} such as {percent} or {part}"
        raise input_error(name, allowed, value, step)
    return found


def targets_of(budgets: Any, table: Table) -> list[Target]:
    """Return budgets and targets, one or several, as targets in the unit of a table."""
    several = isinstance(budgets, Iterable) and not isinstance(budgets, str)
    given: list[Any] = list(budgets) if several else [budgets]
    costs, unit = table.mean_costs, table.unit
    return [
        one if isinstance(one, Target) else Target(parse_budget(one, costs, unit)) for one in given
    ]
