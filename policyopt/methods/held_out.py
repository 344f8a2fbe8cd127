"""What methods with a trained score share: rows held out, all class outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from policyopt.overhead import overhead
from policyopt.runtime.answers import Plain
from policyopt.runtime.errors import InputError
from policyopt.runtime.output import ExitOutput
from policyopt.runtime.scores import ScoreRule, score_table
from policyopt.runtime.typing import Floats
from policyopt.table import Table
from policyopt.thresholds.flat import level
from policyopt.thresholds.problem import Problem

_MOST_NUMBERS = 1 << 27


def divide(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Return the rows to train on, and those held out to stop the training and choose thresholds.

    Of more outputs than fit in memory several times over, a random part is used.

    Parameters
    ----------
    table : Table
    share : float
        Of the rows to hold out, in (0, 1): at least one row each; of a single row, both have it.
    seed : int
        Of the draw.

    Returns
    -------
    rest, held : Table
    """
    most = max(_MOST_NUMBERS // (table.exits * max(table.classes, 1)), 1000)
    if len(table) > most:
        rows = np.random.default_rng(seed).permutation(len(table))[:most]
        table = table.take(np.sort(rows))
    n = len(table)
    if n == 1:
        return table, table
    order = np.random.default_rng(seed).permutation(n)
    count = min(max(round(share * n), 1), n - 1)
    return table.take(np.sort(order[count:])), table.take(np.sort(order[:count]))


def outputs_of(table: Table) -> list[ExitOutput]:
    """Return all exits' columns with the logarithms of all class probabilities."""
    log_prob = table.log_prob()
    return [
        replace(output, log_prob=log_prob[:, k])
        for k, output in enumerate(table.statistics.outputs())
    ]


def check_outputs(method: str, table: Table) -> None:
    """Refuse records by name: the score reads all class probabilities."""
    missing = lacks_outputs(table)
    if missing:
        raise InputError(
            f"Method '{method}' needs {', '.join(missing)}, which these records do not hold. "
            "Import full logits or probabilities, or use max_prob."
        )


def lacks_outputs(table: Table) -> list[str]:
    """Return what a score over all classes needs and these rows do not hold."""
    return ["log_prob (all class outputs)"] if table.kind == "record" else []


def check_budgets(rule: ScoreRule, table: Table, budgets: Sequence[float]) -> None:
    """Refuse budgets that no policy with this rule can meet, before anything is trained."""
    shape = (1, table.exits)
    costs = table.mean_costs + own_costs(rule, table)
    problem = Problem(np.zeros(shape), np.zeros(shape), costs, table.unit)
    for budget in budgets:
        problem.check_budget(budget)


def problem_on(rule: ScoreRule, outputs: list[ExitOutput], table: Table) -> Problem:
    """Pose the threshold problem of a rule on outputs that have their `log_prob`.

    As `policyopt.methods.base.problem_of`, which gives the rule the table's reduced columns only.
    """
    costs = table.costs + own_costs(rule, table)
    scores, flat = level(rule, score_table(rule, outputs))
    return Problem(scores, table.correct, costs, table.unit, flat)


def seed_of(seed: int, restart: int, use: int = 0) -> int:
    """Return the seed of a restart: streams of their own for every (seed, restart, use)."""
    return int(np.random.SeedSequence([seed, restart, use]).generate_state(1)[0])


def own_costs(rule: ScoreRule, table: Table) -> Floats:
    """Return the cumulative cost of the rule's arithmetic, (K,): known before any training."""
    return overhead(Plain(), (rule,), table.exits, table.classes, table.rate)


def reachable(problem: Problem, budget: float) -> float:
    """Return the budget, within what the held-out rows can cost (where costs differ by row)."""
    return float(np.clip(budget, problem.mean_costs[0], problem.mean_costs[-1]))
