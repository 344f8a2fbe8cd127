"""Meeting a budget: the member of a family of thresholds, dearer along one parameter, that costs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policyopt._thresholds.degenerate_scores import ROUNDING
from policyopt._thresholds.problem import Problem, Solution, between
from policyopt.runtime._policy import ALWAYS, NEVER, first_exit
from policyopt.runtime._typing import Floats, Ints

#: A budget counts as met from below within this share of what it allows beyond exit 0 (or within one sample's way from
#: the first exit to the last, where that is more).
TOLERANCE = 0.002
_TINY_GAIN = 1e-9
_EPSILON = 4 * np.finfo(float).eps


def bisect(
    goes_up: Callable[[float], bool], low: float, high: float, steps: int
) -> tuple[float, float]:
    """Halve [low, high] `steps` times, keeping the upper half where `goes_up` says so of the middle."""
    for _ in range(steps):
        middle = (low + high) / 2
        if goes_up(middle):
            low = middle
        else:
            high = middle
    return low, high


def brent_root(f: Callable[[float], float], low: float, high: float, tolerance: float) -> float:
    """Return where `f` crosses 0 between ends of unlike sign (Brent, 1973, chapter 4), as scipy's brentq does."""
    x0, x, other = low, high, low
    y0, y = f(x0), f(x)
    y_other, before, step = y0, x - x0, x - x0
    while y != 0:
        if (y0 < 0) != (y < 0):
            other, y_other = x0, y0
            before = step = x - x0
        if abs(y_other) < abs(y):
            x0, x, other = x, other, x
            y0, y, y_other = y, y_other, y
        least = (tolerance + _EPSILON * abs(x)) / 2
        half = (other - x) / 2
        if y == 0 or abs(half) < least:
            break
        tried = np.inf
        if abs(before) > least and abs(y) < abs(y0):
            if x0 == other:
                tried = -y * (x - x0) / (y - y0)
            else:
                slope, wide = (y0 - y) / (x0 - x), (y_other - y) / (other - x)
                tried = -y * (y_other * wide - y0 * slope) / (wide * slope * (y_other - y0))
        short = 2 * abs(tried) < min(abs(before), 3 * abs(half) - least)
        before, step = (step, tried) if short else (half, half)
        x0, y0 = x, y
        x += step if abs(step) > least else np.copysign(least, half)
        y = f(x)
    return float(x)


def meet_budget(
    problem: Problem, family: Callable[[float], Floats], low: float, high: float, budget: float,
    start: float | None = None, steps: int = 50,
) -> Solution:  # fmt: skip
    """Find the member of a family whose replayed cost is the budget, which has been checked."""
    # `family`, from parameter to thresholds (K-1,), costs at most the budget at `low`, at least at `high`. Where it
    # jumps over the budget (few distinct scores), the two neighbours are mixed.
    span = float(problem.mean_costs[-1] - problem.mean_costs[0])
    tolerance = max(TOLERANCE * (budget - float(problem.mean_costs[0])), span / problem.rows)
    cheap = np.full(problem.exits - 1, ALWAYS)
    dear = np.full(problem.exits - 1, NEVER)
    cheap_cost, dear_cost = (float(c) for c in problem.mean_costs[[0, -1]])
    guess = start
    for _ in range(steps):
        middle = (low + high) / 2 if guess is None else guess
        guess = None
        if not low < middle < high:
            break
        thresholds = problem.settled(family(middle))
        cost = problem.cost(thresholds)
        if cost <= budget:
            low, cheap, cheap_cost = middle, thresholds, cost
        else:
            high, dear, dear_cost = middle, thresholds, cost
        if 0 <= budget - cost <= tolerance:
            break
        if 0 < cost - budget <= tolerance:  # a hair too dear: step back by about as much
            guess = middle - min(0.5, 2 * tolerance / max(span, 1e-300)) * (middle - low)
    spent = spend(problem, cheap, budget - cheap_cost)
    if budget - problem.cost(spent) <= tolerance or dear_cost <= cheap_cost:
        return Solution(spent)
    return Solution(cheap, dear, (budget - cheap_cost) / (dear_cost - cheap_cost))


def common_shift(problem: Problem, budget: float) -> Solution:
    """Return one threshold for all exits that costs the budget, of scores that leave at 0 by themselves."""
    most = float(np.abs(problem.scores).max()) + 1.0
    same = np.ones(problem.exits - 1)
    return meet_budget(problem, lambda t: t * same, -most, most, budget, start=0.0)


def spend(
    problem: Problem, thresholds: Floats, left: float, exits: Ints | None = None, rest: float = 0.0
) -> Floats:
    """Raise thresholds (K-1,), from exit 0 on, so that the least ready go on until only `rest` is left, per sample."""
    exits = first_exit(problem.scores, thresholds) if exits is None else exits
    for k in range(problem.exits - 1):
        if left < rest:
            break
        thresholds, spent = spend_at(problem, thresholds, k, left, exits)
        left -= spent
    return thresholds


def spend_at(
    problem: Problem, thresholds: Floats, k: int, left: float, exits: Ints
) -> tuple[Floats, float]:
    """Raise the threshold of exit k only: the thresholds, and what is spent; `exits` taken, (N,), are brought along."""
    step, alike = float(problem.mean_costs[k + 1] - problem.mean_costs[k]), problem.costs.ndim == 1
    if alike and left * problem.rows < step:  # who goes on pays so much at least
        return thresholds, 0.0
    leavers = np.flatnonzero(exits == k)
    scores, most = problem.scores[leavers, k], len(leavers)
    if alike and step > 0:  # only the least ready matter: as many as `left` pays for
        most = int(left * problem.rows / step) + 1
    cut_short = most + 1 < len(leavers)
    if cut_short:
        near = np.argpartition(scores, most + 1)[: most + 2]
        leavers, scores = leavers[near], scores[near]
    order = np.argsort(scores, kind="stable")
    leavers, ranked = leavers[order], scores[order]
    # Equal scores go on together or not at all; where the list was cut short, its last score
    # may have equals that are not on it.
    usable = np.append(ranked[1:] > ranked[:-1], not cut_short)
    later, onward = np.full(len(leavers), problem.exits - 1), np.arange(len(leavers))
    for j in range(k + 1, problem.exits - 1):
        leaves = problem.scores[leavers[onward], j] >= thresholds[j]
        later[onward[leaves]], onward = j, onward[~leaves]
    costs = np.broadcast_to(problem.costs, problem.scores.shape)
    total = np.cumsum(costs[leavers, later] - costs[leavers, k]) / problem.rows
    fits = np.flatnonzero((total <= left) & usable)
    if not len(fits):
        return thresholds, 0.0
    last, raised = fits[-1], thresholds.copy()
    following = float(ranked[last + 1]) if last + 1 < len(ranked) else NEVER
    raised[k] = between(float(ranked[last]), following)
    exits[leavers[: last + 1]] = later[: last + 1]
    return raised, float(total[last])


def centred(problem: Problem, solution: Solution) -> Solution:
    """Return a solution that decides the same here, each threshold midway between the scores next to it."""

    def middle(thresholds: Floats) -> Floats:
        out, alive = thresholds.copy(), np.arange(problem.rows)
        for k, threshold in enumerate(thresholds):
            scores = problem.scores[alive, k]
            leaves = scores >= threshold
            low, high = scores.min(initial=NEVER), scores.max(initial=ALWAYS)
            if leaves.any() and not leaves.all():
                out[k] = between(float(scores[~leaves].max()), float(scores[leaves].min()))
            elif leaves.any():  # all rows lie on one side: out of reach of rounding
                out[k] = min(threshold, low - 2 * ROUNDING * max(abs(low), 1.0))
            elif len(alive):
                out[k] = max(threshold, high + 2 * ROUNDING * max(abs(high), 1.0))
            alive = alive[~leaves]
        return out

    other = None if solution.other is None else middle(solution.other)
    return Solution(middle(solution.thresholds), other, solution.share)


def unless_idle(problem: Problem, solution: Solution, budget: float) -> Solution:
    """Return the decisions at thresholds 0 where what a solution spends beyond them buys no better answers."""
    own = problem.settled(np.zeros(problem.exits - 1))
    idle = problem.worth(solution) <= problem.quality(own) + _TINY_GAIN
    return Solution(own) if idle and problem.cost(own) <= budget else solution
