"""Simulate: policies that adapt, side by side on the same requests from a cache's streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._cache.data import ExitData
from policyopt._costs import Budget, parse_budget
from policyopt._methods.base import Method, check_budgets
from policyopt._online.entrants import FIXED, asked
from policyopt._online.families import arms_family, called, fit_family, steerable
from policyopt._online.metrics import Metrics, RegretBaseline, arm_means, recovery
from policyopt._online.outcomes import Outcomes, outcomes
from policyopt._online.players import BanditPlayer, BudgetPlayer, ExitPlayer, SimulatedPlayer
from policyopt._online.requests import Requests, Schedule, make_schedule
from policyopt._progress import report
from policyopt._table import Table, Tables
from policyopt.runtime._bandits import BANDITS, make_bandit
from policyopt.runtime._checks import check_positive, check_seed, check_type, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.exit_rules import EXIT_RULES
from policyopt.runtime._online.family import PolicyFamily
from policyopt.runtime._online.feedback import REVEALS, overhead_range
from policyopt.runtime._policy import ALWAYS
from policyopt.runtime._typing import Floats

_LEVELS = 63  # of the controller's family, its ends not counted


@dataclass(frozen=True, eq=False)
class Simulation:
    """What came of a simulation.

    A record per policy, JSON-able: regret, moving_regret, realised_cost, accuracy, each with the ends of a
    95 % interval over repetitions (None for one); exit_share; best_arm and its share of the last tenth of the
    rounds; recovery, in rounds, after each sudden change (None: not before the next); and what was asked for.
    """

    schedule: Schedule
    labels: Floats  # of the arms of the bandits (A,): thresholds, or expected costs
    tallies: dict[str, Metrics]  # by policy as asked for
    records: list[dict[str, Any]]
    unit: str  # of costs
    arms_unit: str  # of the labels: threshold, or `unit`
    budget: float | None  # in `unit`
    means: Floats  # mean reward of each arm on each stream, (S, A)


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
        Bandits (`policyopt.runtime._bandits.BANDITS`; ``bandits``: all), ``linucb``, ``splitee``,
        ``uee_ucb`` (whose arms are exits), ``fixed``, ``controller``; with settings as ``ucb1:c=2``.
    schedule : str
        ``stationary``, ``abrupt``, ``gradual``, ``recurring``, or ``test:4000,blur_medium:6000``;
        see `policyopt._online.requests.make_schedule`.
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
        See `policyopt._online.outcomes`.
    reveal : {"smaller", "played", "all"}
        Side information; see `policyopt._online.players`.
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
            allowed = f"among {', '.join(data.split_names)}"
            raise input_error("streams", allowed, name, "`policyopt info CACHE` tells of them.")
    tables = tables or Tables(data, cost)
    seen_tables = [tables.get(name) for name in plan.streams]
    fit = tables.get(split) if split in data.split_names else None
    sizes = tuple(len(table) for table in seen_tables)
    requests = Requests(plan, sizes, repetitions, seed, float(label_share), over)
    family = arms_family(arms, method, fit, seen_tables[0], seed)
    seen = outcomes(family.policy, seen_tables, reward, fit)
    exits = family.exits(seen.scores)
    baseline = RegretBaseline(plan, arm_means(seen, exits, over))
    limit = None if budget is None or fit is None else parse_budget(budget, fit.mean_costs)
    if limit is not None and fit is not None:
        check_budgets(fit, [limit])
    context = SimulationContext(
        steerable(method), fit, split, seen_tables, seen, exits, requests, reward, reveal, delay, limit
    )  # fmt: skip
    players = {spec: context.enter(*parts) for spec, parts in entrants.items()}
    tallies = {
        spec: Metrics(mine, player.exits, baseline, over, repetitions, player.contextual)
        for spec, (player, mine) in players.items()
    }
    for block in requests:
        for at, (spec, (player, _)) in enumerate(players.items()):
            report(block.first * len(players) + at, plan.rounds * len(players), spec)
            tallies[spec].add(block, player.play(block))
    unit = tables.cost.unit
    # The first level of a family leaves at exit 0 always.
    arms_unit = unit if (family.thresholds[0] <= ALWAYS).all() else "threshold"
    run = {
        "rounds": plan.rounds, "repetitions": repetitions, "schedule": schedule,
        "streams": list(plan.streams), "overhead": list(over), "reward": reward, "delay": delay,
        "label_share": float(label_share), "seed": seed, "method": called(method),
        "arms": family.labels.tolist(), "arms_unit": arms_unit, "unit": unit,
    }  # fmt: skip
    records = []
    for spec, metrics in tallies.items():
        bandit = entrants[spec][0] in BANDITS
        own = {"reveal": reveal if bandit else None, "budget": limit}
        records.append({"policy": spec, **run, **own, **_record(metrics, baseline, bandit, family)})
    return Simulation(plan, family.labels, tallies, records, unit, arms_unit, limit, baseline.means)


def _record(
    metrics: Metrics, baseline: RegretBaseline, bandit: bool, family: PolicyFamily
) -> dict[str, Any]:
    """Return what one policy came to."""
    share, best = None, baseline.best
    if bandit:
        late = metrics.rounds > 0.9 * baseline.schedule.rounds
        played = metrics.arms[late].sum(axis=0)
        share = float(played[best] / max(played.sum(), 1))
    return {
        **metrics.record(),
        "best_arm": float(family.labels[best]),
        "best_arm_share": share,
        "recovery": recovery(metrics, baseline),
    }


@dataclass(frozen=True, eq=False)
class SimulationContext:
    """What all entrants of a simulation have in common.

    `method` is fitted for those at a budget on the rows `fit`, named `split`; `tables` are the streams,
    `seen` and `exits` (n, A) what the policy whose thresholds the bandits choose does on them; the budget
    is in the cost's unit.
    """

    method: Method
    fit: Table | None
    split: str
    tables: list[Table]
    seen: Outcomes
    exits: npt.NDArray[np.integer]
    requests: Requests
    reward: str
    reveal: str
    delay: int
    budget: float | None

    def enter(self, name: str, settings: dict[str, Any]) -> tuple[SimulatedPlayer, Outcomes]:
        """Return the player of an entrant, and what it sees."""
        seen, requests, delay = self.seen, self.requests, self.delay
        if name in BANDITS:
            bandit = make_bandit(name, settings)
            return BanditPlayer(bandit, seen, self.exits, requests, self.reveal, delay), seen
        if name in EXIT_RULES:
            # Prices in units of the reward: the overhead's share of each exit.
            prices = tuple((float(np.mean(requests.overhead)) * seen.load).tolist())
            own: dict[str, Any] = {"layers": prices, "offload": prices[-1], "costs": prices}
            rule = EXIT_RULES[name]
            given = {f.name: own[f.name] for f in fields(rule) if f.name in own}  # type: ignore[arg-type]
            return ExitPlayer(rule(**{**given, **settings}), seen, requests, delay), seen
        return self._at_budget(name, settings)

    def _at_budget(self, name: str, settings: dict[str, Any]) -> tuple[SimulatedPlayer, Outcomes]:
        budget, fit, seed = self.budget, self.fit, self.requests.seed
        if budget is None or fit is None:
            lacking = "a budget" if budget is None else f"rows '{self.split}' to fit on"
            allowed = f"given with {lacking}"
            raise input_error(f"policy {name}", allowed, "none", "E.g. --budget 40%.")
        rule = None
        if name == FIXED:
            policy = self.method.fit_path(fit, [budget], seed)[0].policy
            family = PolicyFamily(policy, policy.thresholds[None])
        else:
            family = fit_family(self.method, fit, _LEVELS, seed)
            costs = family.policy.costs
            share = min(max((budget - float(costs[0])) / float(costs[-1] - costs[0]), 0.0), 1.0)
            # It starts on the level that was fitted to the budget.
            start = float(np.interp(budget, family.labels, np.linspace(0, 1, family.arms)))
            rule = Controller(**{"budget": share, "start": start, **settings})
        seen = outcomes(family.policy, self.tables, self.reward, fit)
        return BudgetPlayer(rule, family, seen, self.requests.repetitions, self.delay), seen
