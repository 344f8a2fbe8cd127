"""Windows: Xia & Bouganis, ICCV 2023, arXiv:2303.08010, Algorithm 2: go on only inside a window.

A sample goes on to the next exit only where ``low_k < confidence < high_k``: those above are sure, and
those below are given up, for the next exit is not thought to help them either. The paper leaves so
that its cascade decides well near one operating point of a binary task (reject or not), with a window
about it of a width that the budget allows.

Departures: what is decided here is the answer itself, so windows are found for what they are worth on
labelled rows: both ends of all exits together, on the Lagrangian of accuracy and cost, one price after
another (`policyopt.thresholds.window`); next to the budget the windows between two corners of the
hull are widened until the replayed cost meets it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from policyopt.answers.crossfit import NAMES, answered, crossfit, folds_of
from policyopt.methods.base import Fitted, Method, check_exits, conclude, problem_of
from policyopt.methods.settings import check_choice
from policyopt.methods.space import Choice, Domain
from policyopt.runtime.errors import InputError
from policyopt.runtime.policy import first_exit
from policyopt.runtime.scores.max_prob import MaxProb
from policyopt.runtime.scores.window import Window as WindowRule
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.thresholds.joint import hull, thinned
from policyopt.thresholds.meet import meet_budget
from policyopt.thresholds.problem import Problem
from policyopt.thresholds.window import Windows

#: Ends that no confidence reaches: a window from one to the other lets all go on.
_LOW, _HIGH = -1.0, 2.0
_FOLDS = 5
_BISECTIONS = 30


@dataclass(frozen=True)
class Window(Method):
    """Go on only inside a window of confidences; leave where sure, and where hopeless.

    Parameters
    ----------
    answer : str
        What exits return, and the confidence is that of: ``plain``, or another name of
        `policyopt.answers`.

    Examples
    --------
    >>> Window()
    Window(answer='plain')
    """

    answer: str = "plain"

    #: Name of the method.
    label: ClassVar[str] = "window"

    def __post_init__(self) -> None:
        check_choice("answer", self.answer, NAMES)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {"answer": Choice(("plain", "combined"))}

    def closed(self, table: Table) -> Collection[int] | None:
        """Return the exits whose windows may have a lower end; None: all."""
        del table
        return None

    def lacks(self, table: Table) -> list[str]:
        """Return what the method needs and these rows do not hold."""
        missing = super().lacks(table)
        if self.answer != "plain" and table.kind == "record":
            missing.append("all class outputs (for answers other than plain)")
        return missing

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Find windows for each budget; see `Method.propose`."""
        if self.lacks(table):
            raise InputError(
                f"Method '{self.label}' needs {', '.join(self.lacks(table))}, which these records do not "
                "hold. Import full logits, or use answer=plain."
            )
        check_exits(table)
        answers = crossfit(table, self.answer, folds_of(len(table), _FOLDS, seed))
        table = answered(table, answers)
        problem = problem_of(MaxProb(), table, answers)
        # The window rule's own arithmetic beside that of the plain confidence.
        blank = WindowRule(np.zeros(table.exits - 1))
        problem = replace(problem, costs=problem_of(blank, table, answers).costs)
        for budget in budgets:
            problem.check_budget(budget)
        few = thinned(problem)
        search = Windows(few, _LOW, _HIGH, self.closed(table))
        fitted = []
        for budget in budgets:
            ends = _at_budget(problem, hull(few, [budget], search), budget)
            middle, half = _middle(ends)
            posed = replace(problem, scores=_distance(problem.scores, middle))
            # What is left of the budget widens all windows; 3 wider, all go on.
            solution = meet_budget(
                posed, lambda t, h=half: h + 3.0 * t, -1.0, 1.0, budget, start=0.0
            )
            fitted.append(
                conclude(
                    self, self.label, WindowRule(middle), table, posed, solution, budget, seed,
                    answer=answers.rule,
                )
            )  # fmt: skip
        return fitted


def _at_budget(problem: Problem, corners: list[Floats], budget: float) -> Floats:
    """Return the dearest windows within the budget, on the way between the corners next to it."""
    costs = np.array([_cost(problem, corner) for corner in corners])
    within = np.flatnonzero(costs <= budget)
    if not len(within):  # the thinned rows' cheapest corner is that of all rows, up to rounding
        return corners[0]
    at = int(within[-1])
    if at + 1 == len(corners):
        return corners[at]
    ordered = np.sort(problem.scores[:, :-1], axis=0)
    cheap, dear = (_positions(ordered, corner) for corner in (corners[at], corners[at + 1]))
    # A window that is empty lies wherever the other's middle is; where that is open below, at the bottom.
    for one, other in ((cheap, dear), (dear, cheap)):
        empty = one[0] >= one[1]
        one[:, empty] = np.where(other[0] > 0, other.mean(axis=0), 0.0)[empty]
    low, high, found = 0.0, 1.0, corners[at]
    for _ in range(_BISECTIONS):
        part = (low + high) / 2
        ends = _at_positions(ordered, cheap + part * (dear - cheap))
        if _cost(problem, ends) <= budget:
            low, found = part, ends
        else:
            high = part
    return found


def _middle(ends: Floats) -> tuple[Floats, Floats]:
    """Return the windows' middles, and half their widths: below 0 where nothing goes on."""
    low, high = ends.reshape(2, -1)
    empty = low >= high
    return np.where(empty, 0.5, (low + high) / 2), np.where(empty, -1.0, (high - low) / 2)


def _distance(confidence: Floats, middle: Floats) -> Floats:
    """Return the rule's scores, (N, K)."""
    out = np.zeros(confidence.shape, order="F")
    out[:, :-1] = np.abs(confidence[:, :-1] - middle)
    return out


def _cost(problem: Problem, ends: Floats) -> float:
    middle, half = _middle(ends)
    return float(problem.paid(first_exit(_distance(problem.scores, middle), half)).mean())


def _positions(ordered: Floats, ends: Floats) -> Floats:
    """Return how many samples lie below each end, (2, K-1)."""
    ends = ends.reshape(2, -1)
    return np.array(
        [[np.searchsorted(ordered[:, k], e) for k, e in enumerate(row)] for row in ends], np.float64
    )


def _at_positions(ordered: Floats, positions: Floats) -> Floats:
    """Return ends with about that many samples below each, (2K-2,)."""
    rows = len(ordered)
    at = np.round(positions).astype(np.int64)
    below = np.take_along_axis(ordered, np.clip(at - 1, 0, rows - 1), axis=0)
    above = np.take_along_axis(ordered, np.clip(at, 0, rows - 1), axis=0)
    ends = np.where(at <= 0, _LOW, np.where(at >= rows, _HIGH, (below + above) / 2))
    return ends.ravel()
