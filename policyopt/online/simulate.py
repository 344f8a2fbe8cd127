"""Simulate: policies that adapt, side by side on the same requests from a cache's streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from policyopt.budgets import Budget, parse_budget
from policyopt.cache.data import ExitData
from policyopt.methods.base import Method, check_budgets
from policyopt.online.entrants import Stage, asked
from policyopt.online.ladders import arms_ladder, called, steerable
from policyopt.online.outcomes import outcomes
from policyopt.online.requests import Requests
from policyopt.online.schedule import Schedule, make_schedule
from policyopt.online.tally import Tally, Yardstick, arm_means, recovery
from policyopt.progress import report
from policyopt.runtime.bandits import BANDITS
from policyopt.runtime.bandits.parts.reveal import REVEALS
from policyopt.runtime.checks import check_positive, check_seed, check_type, check_whole
from policyopt.runtime.errors import input_error
from policyopt.runtime.online.ladder import Ladder
from policyopt.runtime.online.rewards import overhead_range
from policyopt.runtime.policy import ALWAYS
from policyopt.runtime.typing import Floats
from policyopt.table import Tables


@dataclass(frozen=True, eq=False)
class Simulation:
    """What came of a simulation.

    Attributes
    ----------
    schedule : Schedule
    labels : ndarray of shape (A,)
        The arms of the bandits: thresholds, or expected costs.
    tallies : dict of str to Tally
        By policy as asked for.
    records : list of dict
        One per policy, JSON-able: regret, moving_regret, realised_cost, accuracy, each with the
        ends of a 95 % interval over repetitions (None for one); exit_share; best_arm and its share
        of the last tenth of the rounds; recovery, in rounds, after each sudden change (None: not
        before the next); and what was asked for.
    unit : str
        Of costs.
    arms_unit : str
        Of the labels: ``threshold``, or `unit`.
    budget : float or None
        In `unit`.
    means : ndarray of shape (S, A)
        Mean reward of each arm on each stream.
    """

    schedule: Schedule
    labels: Floats
    tallies: dict[str, Tally]
    records: list[dict[str, Any]]
    unit: str
    arms_unit: str
    budget: float | None
    means: Floats


def simulate(
    data: ExitData,
    policies: str | Sequence[str] = ("ucb1",),
    *,
    schedule: str = "stationary",
    streams: str | Sequence[str] | None = None,
    rounds: int | None = None,
    repetitions: int = 20,
    seed: int = 0,
    arms: str | int | Sequence[float] = "0:1:0.2",
    method: str | Method = "max_prob",
    overhead: float | tuple[float, float] = 0.1,
    reward: str = "confidence",
    reveal: str = "smaller",
    budget: Budget | None = None,
    delay: int = 0,
    label_share: float = 1.0,
    split: str = "fit",
    cost: str | None = None,
    tables: Tables | None = None,
) -> Simulation:
    """Play adaptive policies on requests drawn from the streams of a cache.

    All policies see the same requests. Regret is pseudo-regret: the expected reward of the best
    fixed arm of the bandits, less the expected reward of what was played; `moving_regret` compares
    with the arm that is best at each time. What looks at the request before it chooses (linucb) is
    measured by the rewards that came; it may do better than any fixed arm.

    Parameters
    ----------
    data : ExitData
    policies : str or sequence of str
        Bandits (`policyopt.runtime.bandits.BANDITS`; ``bandits``: all), ``linucb``, ``splitee``,
        ``uee_ucb`` (whose arms are exits), ``fixed``, ``controller``; with settings as ``ucb1:c=2``.
    schedule : str
        ``stationary``, ``abrupt``, ``gradual``, ``recurring``, or ``test:4000,blur_medium:6000``;
        see `policyopt.online.schedule.make_schedule`.
    streams : str or sequence of str, optional
        Splits or streams of the cache that the schedule goes through; default ``test``, or those
        that the schedule names. Stationary over several: a mixture in equal parts.
    rounds : int, optional
        T; default 10,000, or what the schedule adds up to.
    repetitions, seed : int
        R, and the seed: same seed, same requests.
    arms : str, int or sequence of float
        The arms of the bandits: thresholds ``low:high:step`` or a list, one for all exits; or a
        number of points of the fitted family of `method`, to which its two ends are added.
    method : str or Method
        What is fitted on `split`: the score of the arms, and the policy of ``fixed`` and
        ``controller``.
    overhead : float or (low, high)
        Of going to the last exit, in units of the reward; earlier exits bear their share by cost.
        A range: drawn per request.
    reward : {"confidence", "signed", "calibrated", "label"}
        See `policyopt.online.outcomes`.
    reveal : {"smaller", "played", "all"}
        Side information; see `policyopt.online.players`.
    budget : float or str, optional
        For ``fixed`` and ``controller``.
    delay : int
        Rounds until feedback comes.
    label_share : float
        Share of the requests whose feedback comes at all, in (0, 1]; costs are known of all.
    split : str
        Rows that the family is fitted on; where the cache has none, thresholds are needed as arms.
    cost : str, optional
    tables : Tables, optional
        Reuse of passes already made.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError, BudgetError

    Examples
    --------
    >>> import numpy as np
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 500)
    >>> logits = rng.normal(size=(500, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = simulate(data, ["ucb1", "controller"], rounds=2000, repetitions=2, budget=2.0)
    >>> [record["policy"] for record in found.records]
    ['ucb1', 'controller']
    """
    check_type("data", data, ExitData, "a cache", "E.g. po.open_cache('cache/fashion_mnist').")
    entrants = asked(policies)
    if rounds is None:
        rounds = 0 if ":" in str(schedule) else 10_000
    plan = make_schedule(schedule, streams or ("" if ":" in str(schedule) else "test"), rounds)
    over = overhead_range(overhead)
    check_positive("label_share", label_share, most=1.0)
    repetitions = check_whole("repetitions", repetitions, step="E.g. 20.")
    seed = check_seed(seed)
    delay = check_whole("delay", delay, 0, step="E.g. 0.")
    if reveal not in REVEALS:
        raise input_error("reveal", f"one of {', '.join(REVEALS)}", reveal, "E.g. smaller.")
    for name in plan.streams:
        if name not in data.split_names:
            known = ", ".join(data.split_names)
            raise input_error(
                "streams", f"among {known}", name, "`policyopt info CACHE` tells of them."
            )
    tables = tables or Tables(data, cost)
    seen_tables = [tables.get(name) for name in plan.streams]
    fit = tables.get(split) if split in data.split_names else None
    sizes = tuple(len(table) for table in seen_tables)
    requests = Requests(plan, sizes, repetitions, seed, float(label_share), over)
    ladder = arms_ladder(arms, method, fit, seen_tables[0], seed)
    seen = outcomes(ladder.policy, seen_tables, reward, fit)
    exits = ladder.exits(seen.scores)
    means = arm_means(seen, exits, over)
    yardstick = Yardstick(plan, means)
    limit = None if budget is None or fit is None else parse_budget(budget, fit.mean_costs)
    if limit is not None and fit is not None:
        check_budgets(fit, [limit])
    stage = Stage(
        steerable(method), fit, split, seen_tables, seen, exits, requests, reward, reveal, delay, limit
    )  # fmt: skip
    players = {spec: stage.enter(*parts) for spec, parts in entrants.items()}
    tallies = {
        spec: Tally(
            mine, player.exits, yardstick, over, repetitions, getattr(player, "contextual", False)
        )
        for spec, (player, mine) in players.items()
    }
    for block in requests:
        for at, (spec, (player, _)) in enumerate(players.items()):
            report(block.first * len(players) + at, plan.rounds * len(players), spec)
            tallies[spec].add(block, player.play(block))
    unit = tables.cost.unit
    # The first rung of a family leaves at exit 0 always.
    arms_unit = unit if (ladder.thresholds[0] <= ALWAYS).all() else "threshold"
    run = {
        "rounds": plan.rounds, "repetitions": repetitions, "schedule": schedule,
        "streams": list(plan.streams), "overhead": list(over), "reward": reward, "delay": delay,
        "label_share": float(label_share), "seed": seed, "method": called(method),
        "arms": ladder.labels.tolist(), "arms_unit": arms_unit, "unit": unit,
    }  # fmt: skip
    records = []
    for spec, tally in tallies.items():
        bandit = entrants[spec][0] in BANDITS
        own = {"reveal": reveal if bandit else None, "budget": limit}
        records.append({"policy": spec, **run, **own, **_record(tally, yardstick, bandit, ladder)})
    return Simulation(plan, ladder.labels, tallies, records, unit, arms_unit, limit, means)


def _record(tally: Tally, yardstick: Yardstick, bandit: bool, ladder: Ladder) -> dict[str, Any]:
    """Return what one policy came to."""
    found = tally.record()
    found["best_arm"] = float(ladder.labels[yardstick.best])
    found["best_arm_share"] = None
    if bandit:
        late = tally.rounds > 0.9 * yardstick.schedule.rounds
        played = tally.arms[late].sum(axis=0)
        found["best_arm_share"] = float(played[yardstick.best] / max(played.sum(), 1))
    found["recovery"] = recovery(tally, yardstick)
    return found
