"""Meeting a budget with a family of thresholds that grows dearer along one parameter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policyopt.runtime.policy import ALWAYS, NEVER, first_exit
from policyopt.runtime.typing import Floats
from policyopt.thresholds.flat import ROUNDING
from policyopt.thresholds.problem import Problem, Solution
from policyopt.thresholds.quota import between

#: A budget counts as met from below within this share of what it allows beyond exit 0 (or within one sample's way from
#: the first exit to the last, where that is more).
TOLERANCE = 0.002
_TINY_GAIN = 1e-9


def meet_budget(
    problem: Problem,
    family: Callable[[float], Floats],
    low: float,
    high: float,
    budget: float,
    start: float | None = None,
    steps: int = 50,
) -> Solution:
    """Find the member of a family whose replayed cost is the budget.

    Bisection on the *replayed* cost, not on a planned one. What is left of the budget is spent by
    `spend`. Where the family jumps over the budget (few distinct scores: votes, counters, flat exits), the
    two neighbours are mixed so that the expected cost is the budget.

    Parameters
    ----------
    problem : Problem
    family : callable
        From the parameter to thresholds (K-1,); at `low` it costs at most the budget, at
        `high` at least the budget.
    low, high : float
        Ends of the parameter.
    budget : float
        Mean cost allowed, already checked.
    start : float, optional
        A good first guess.
    steps : int
        Most bisections.

    Returns
    -------
    Solution
    """
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


def spend(problem: Problem, thresholds: Floats, left: float) -> Floats:
    """Raise thresholds, from exit 0 on, so that the least ready leavers go on until `left` is spent.

    Quotas are whole samples and one sample at a dear exit may be a visible share of a small
    budget; the way from exit 0 to exit 1 is the small change.

    Parameters
    ----------
    problem : Problem
    thresholds : ndarray of shape (K-1,)
    left : float
        Mean cost per sample that may still be spent.

    Returns
    -------
    ndarray of shape (K-1,)
    """
    thresholds = thresholds.copy()
    steps = np.diff(problem.mean_costs)
    for k in range(problem.exits - 1):
        if problem.costs.ndim == 1 and left * problem.rows < steps[steps > 0].min(initial=np.inf):
            break
        leavers = np.flatnonzero(first_exit(problem.scores, thresholds) == k)
        # Only the least ready matter: as many as `left` pays for at one step each.
        most = len(leavers)
        if problem.costs.ndim == 1 and steps[k] > 0:
            most = int(left * problem.rows / steps[k]) + 1
        scores = problem.scores[leavers, k]
        cut_short = most + 1 < len(leavers)
        if cut_short:
            near = np.argpartition(scores, most + 1)[: most + 2]
            leavers, scores = leavers[near], scores[near]
        order = np.argsort(scores, kind="stable")
        leavers, ranked = leavers[order], scores[order]
        # Equal scores go on together or not at all; where the list was cut short, its last score
        # may have equals that are not on it.
        usable = np.append(ranked[1:] > ranked[:-1], not cut_short)
        onward = thresholds.copy()
        onward[: k + 1] = NEVER
        later = first_exit(problem.scores[leavers], onward)
        if problem.costs.ndim == 1:
            extra = problem.costs[later] - problem.costs[k]
        else:
            costs = problem.costs[leavers]
            extra = np.take_along_axis(costs, later[:, None], axis=1)[:, 0] - costs[:, k]
        total = np.cumsum(extra) / problem.rows
        fits = np.flatnonzero((total <= left) & usable)
        if len(fits):
            last = fits[-1]
            following = float(ranked[last + 1]) if last + 1 < len(ranked) else NEVER
            thresholds[k] = between(float(ranked[last]), following)
            left -= float(total[last])
    return thresholds


def centred(problem: Problem, solution: Solution) -> Solution:
    """Return a solution that decides the same here, each threshold midway between the scores next to it.

    A bisection ends a hair from the score of many equal rows; another runtime's rounding must not move them.
    Where all rows lie on one side, the threshold stays out of reach of rounding.

    Examples
    --------
    >>> problem = Problem(np.array([[0.2, 0.0], [0.6, 0.0]]), np.ones((2, 2)), np.array([1.0, 2.0]))
    >>> centred(problem, Solution(np.array([0.6 - 1e-12]))).thresholds
    array([0.4])
    >>> centred(problem, Solution(np.array([0.2 - 1e-12]))).thresholds < 0.2 - 1e-6
    array([ True])
    """

    def middle(thresholds: Floats) -> Floats:
        out, alive = thresholds.copy(), np.arange(problem.rows)
        for k, threshold in enumerate(thresholds):
            scores = problem.scores[alive, k]
            leaves = scores >= threshold
            low, high = scores.min(initial=NEVER), scores.max(initial=ALWAYS)
            if leaves.any() and not leaves.all():
                out[k] = between(float(scores[~leaves].max()), float(scores[leaves].min()))
            elif leaves.any():
                out[k] = min(threshold, low - 2 * ROUNDING * max(abs(low), 1.0))
            elif len(alive):
                out[k] = max(threshold, high + 2 * ROUNDING * max(abs(high), 1.0))
            alive = alive[~leaves]
        return out

    other = None if solution.other is None else middle(solution.other)
    return Solution(middle(solution.thresholds), other, solution.share)


def unless_idle(problem: Problem, solution: Solution, budget: float) -> Solution:
    """Return the decisions at thresholds 0 where what a solution spends beyond them buys nothing.

    For scores that say by how much leaving is the better. Where all samples look alike, the rest of a budget
    can go on samples drawn by a coin, or on all from one exit to the next: worth it only where the
    later answers are better.

    Parameters
    ----------
    problem : Problem
    solution : Solution
    budget : float

    Returns
    -------
    Solution

    Examples
    --------
    >>> scores, costs = np.array([[1e-7, 0.0], [1e-7, 0.0]]), np.array([1.0, 3.0])
    >>> coin = Solution(np.array([ALWAYS]), np.array([NEVER]), 0.5)
    >>> for last in (1.0, 0.0):
    ...     value = np.array([[0.0, last], [0.0, last]])
    ...     print(unless_idle(Problem(scores, value, costs), coin, 2.0).other is None)
    False
    True
    """
    own = problem.settled(np.zeros(problem.exits - 1))
    spent = problem.accuracy(solution.thresholds)
    if solution.other is not None:
        spent += solution.share * (problem.accuracy(solution.other) - spent)
    idle = spent <= problem.accuracy(own) + _TINY_GAIN
    return Solution(own) if idle and problem.cost(own) <= budget else solution
