"""Windows: Xia & Bouganis, ICCV 2023, arXiv:2303.08010, Algorithm 2: go on only inside a window.

A sample goes on to the next exit only where ``low_k < confidence < high_k``: those above are sure, and those
below are given up, for the next exit is not thought to help them either. The paper leaves so that its cascade
decides well near one operating point of a binary task (reject or not), with a window about it of a width that the
budget allows.

HiDEC: Ilhan et al., WWW 2023 Companion, 10.1145/3543873.3587370: dual thresholds between tiers. Exits lie on
tiers: device, edge, cloud. On a tier easy samples leave where the score reaches an upper threshold. At its last
exit, before what is left is sent up, hopeless samples leave as well: those whose score is under a lower
threshold, which the next tier is not expected to help. So it is windows at the boundaries only, and plain
thresholds elsewhere.

Departures: what is decided here is the answer itself, so windows are found for what they are worth on labelled
rows: both ends of all exits together, on the Lagrangian of accuracy and cost, one price after another
(`Windows`); next to the budget the windows between two corners of the hull are widened until the replayed cost
meets it. Of HiDEC's four pages only the abstract could be read, so its thresholds come from the same search
rather than from their scheduler's latencies (whose place the cost takes), and the score is the confidence, not a
learned one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policyopt._methods.fitted import Draft, own_costs
from policyopt._methods.threshold import ConfidenceMethod
from policyopt._table import Table
from policyopt._thresholds.budget_search import bisect, meet_budget
from policyopt._thresholds.joint import Lagrangian, at_positions, hull, positions_of
from policyopt._thresholds.problem import Problem, between
from policyopt.runtime._errors import input_error
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import Window as WindowRule
from policyopt.runtime._typing import Bools, Floats, Ints

#: Ends that no confidence reaches: a window from one to the other lets all go on.
_LOW, _HIGH = -1.0, 2.0
_BISECTIONS = 30
_TINY_GAIN = 1e-12


@dataclass(frozen=True)
class Window(ConfidenceMethod):
    """Go on only inside a window of confidences; leave where sure, and where hopeless."""

    label = "window"
    decides = True
    remedy = "which these summaries do not hold. Import full logits, or use answer=plain."

    def closed(self, table: Table) -> Collection[int] | None:
        """Return the exits whose windows may have a lower end; None: all."""
        return None

    def pose(self, table: Table, seed: int) -> Draft:
        """Look at the plain confidence, at the cost of the window rule's arithmetic."""
        draft = super().pose(table, seed)
        own = own_costs(table, WindowRule(np.zeros(table.exits - 1)), answer=draft.answer)
        return replace(draft, problem=replace(draft.problem, costs=table.costs + own))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        problem = draft.problem
        closed, solved = self.closed(draft.table), []
        for budget in budgets:
            corners = hull(problem, [budget], lambda rows: Windows(rows, closed))
            ends = _at_budget(problem, corners, budget)
            middle, half = _middle(ends)
            posed = replace(problem, scores=_distance(problem.scores, middle))
            # What is left of the budget widens all windows; 3 wider, all go on.
            solution = meet_budget(
                posed, lambda t, h=half: h + 3.0 * t, -1.0, 1.0, budget, start=0.0
            )
            rule = WindowRule(middle)
            solved.append(replace(draft, rule=rule, problem=posed, solution=solution))
        return solved


@dataclass(frozen=True)
class HiDEC(Window):
    """Leave where sure, and at a tier's boundary also where hopeless.

    Parameters
    ----------
    boundary : int or sequence of int, optional
        Last exits of tiers. Default: the exit before the greatest step of cost.
    """

    boundary: int | tuple[float, ...] | None = None

    label = "hidec"

    def __post_init__(self) -> None:
        super().__post_init__()
        given, step = self.boundary, "E.g. --set boundary=1."
        for k in () if given is None else np.atleast_1d(np.asarray(given)):
            if isinstance(given, bool) or not np.issubdtype(type(k), np.number) or k % 1:
                raise input_error("boundary", "exit numbers", given, step)

    def closed(self, table: Table) -> Collection[int]:
        if self.boundary is None:
            return {int(np.argmax(np.diff(table.mean_costs)))} if table.exits > 1 else set()
        chosen = {int(k) for k in np.atleast_1d(np.asarray(self.boundary))}
        if not chosen <= set(range(table.exits - 1)):
            allowed = f"in 0..{table.exits - 2}: the last exit ends the last tier"
            raise input_error("boundary", allowed, self.boundary, "E.g. --set boundary=0.")
        return chosen


def _at_budget(problem: Problem, corners: list[Floats], budget: float) -> Floats:
    """Return the dearest windows within the budget, on the way between the corners next to it."""
    costs = np.array([_cost(problem, corner) for corner in corners])
    within = np.flatnonzero(costs <= budget)
    if not len(within):  # the thinned rows' cheapest corner is that of all rows, up to rounding
        return corners[0]
    at = int(within[-1])
    if at + 1 == len(corners):
        return corners[at]
    ordered = problem.ordered
    pair = [corner.reshape(2, -1) for corner in corners[at : at + 2]]
    cheap, dear = (positions_of(ordered, ends) for ends in pair)
    # A window that is empty lies wherever the other's middle is; where that is open below, at the bottom.
    for one, other in ((cheap, dear), (dear, cheap)):
        empty = one[0] >= one[1]
        one[:, empty] = np.where(other[0] > 0, other.mean(axis=0), 0.0)[empty]

    def on_the_way(part: float) -> Floats:
        return at_positions(ordered, cheap + part * (dear - cheap), _LOW, _HIGH).ravel()

    part, _ = bisect(lambda p: _cost(problem, on_the_way(p)) <= budget, 0.0, 1.0, _BISECTIONS)
    return on_the_way(part) if part > 0 else corners[at]


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
    return float(problem.cost_at(first_exit(_distance(problem.scores, middle), half)).mean())


def best_run(gains: Floats) -> tuple[int, int]:
    """Return (a, b) such that ``gains[a:b]`` has the largest sum; (0, 0) where none is over 0."""
    sums = np.concatenate([[0.0], np.cumsum(gains)])
    worth = sums - np.minimum.accumulate(sums)
    end = int(worth.argmax())
    if worth[end] <= 0:
        return 0, 0
    return int(sums[: end + 1].argmin()), end


class Windows(Lagrangian):
    """The search over one problem's rows, for `joint.hull`.

    At a fixed price, the other exits' windows held, the best window is the run of ranks with the largest sum of
    gains from going on, found in one pass (Bentley, Programming Pearls, 1984: the largest sum of a contiguous
    part). Steps repeat until none helps, from the neighbouring price's windows and from the best plain thresholds.

    Windows are held as *cuts*, (2K-2,) integers: the lower ends of all exits, then the upper ones. At exit k a
    sample goes on if its score is at least the a-th distinct one and below the b-th. `closed`: exits whose
    windows may have a lower end (default: all).
    """

    def __init__(self, problem: Problem, closed: Collection[int] | None = None) -> None:
        super().__init__(problem)
        self._closed = range(problem.exits) if closed is None else closed
        self.first, self.last = (_open_below(cuts) for cuts in (self.first, self.last))

    def best(self, price: float, starts: list[Ints]) -> Ints:
        plain = super().best(price, [start[len(start) // 2 :] for start in starts])
        gains = self._value - price * self._cost
        results = [self._climb(gains, start) for start in (*starts, _open_below(plain))]
        return max(results, key=lambda found: found[0])[1]

    def point(self, cuts: Ints) -> tuple[float, float]:
        cost, value = (self._onward(table, cuts)[0].mean() for table in (self._cost, self._value))
        return float(cost), float(value)

    def thresholds(self, cuts: Ints) -> Floats:
        out = np.empty(len(cuts))
        for i, cut in enumerate(cuts):
            level = self._grid.levels[i % (len(cuts) // 2)]
            if cut <= 0 or cut >= len(level):
                out[i] = _LOW if cut <= 0 else _HIGH
            else:
                out[i] = between(float(level[cut - 1]), float(level[cut]))
        return out

    def _onward(self, gains: Floats, cuts: Ints) -> Floats:
        """Return what each sample earns from exit k on if it comes there, (K, N)."""
        lower, upper = cuts.reshape(2, -1)
        earned = np.empty_like(gains)
        earned[-1] = gains[-1]
        for k in range(len(lower) - 1, -1, -1):
            ranks = self._grid.ranks[k]
            goes = (ranks >= lower[k]) & (ranks < upper[k])
            earned[k] = np.where(goes, earned[k + 1], gains[k])
        return earned

    def _climb(self, gains: Floats, start: Ints) -> tuple[float, Ints]:
        """Improve windows until no step on one of them helps; gains (K, N)."""
        cuts = start.copy()
        count = len(cuts) // 2
        worth = float(self._onward(gains, cuts)[0].mean())
        while True:
            onward = self._onward(gains, cuts)
            reach = self._reach(cuts)
            # Later exits first: an exit's window changes what comes before it, not after it.
            for k in range(count - 1, -1, -1):
                onward[k] = self._step(gains, onward[k + 1], reach[k], cuts, k)
            now = float(onward[0].mean())
            if now <= worth + _TINY_GAIN:
                return max(now, worth), cuts
            worth = now

    def _reach(self, cuts: Ints) -> Bools:
        """Return which samples come to each exit but the last, (K-1, N)."""
        lower, upper = cuts.reshape(2, -1)
        reach = np.ones(self._grid.ranks.shape, dtype=bool)
        for k in range(len(lower) - 1):
            ranks = self._grid.ranks[k]
            reach[k + 1] = reach[k] & (ranks >= lower[k]) & (ranks < upper[k])
        return reach

    def _step(self, gains: Floats, later: Floats, comes: Bools, cuts: Ints, k: int) -> Floats:
        """Set window k to its best, the others held; return what samples then earn from exit k on."""
        ranks, size, count = self._grid.ranks[k], len(self._grid.levels[k]), len(cuts) // 2
        worth = np.bincount(ranks, weights=(later - gains[k]) * comes, minlength=size)
        by_rank = np.asarray(worth, dtype=np.float64)
        if k in self._closed:
            a, b = best_run(by_rank)
        else:
            a, b = 0, int(np.concatenate([[0.0], np.cumsum(by_rank)]).argmax())
        now = by_rank[cuts[k] : cuts[count + k]].sum()
        if by_rank[a:b].sum() > now + _TINY_GAIN:
            cuts[k], cuts[count + k] = a, b
        return np.where((ranks >= cuts[k]) & (ranks < cuts[count + k]), later, gains[k])


def _open_below(cuts: Ints) -> Ints:
    """Return plain cuts ("leave from the a-th distinct score up") as windows."""
    return np.concatenate([np.zeros_like(cuts), cuts])
