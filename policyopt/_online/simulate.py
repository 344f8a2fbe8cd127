"""Simulate: policies that adapt, side by side on the same requests from a cache's streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
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
from policyopt._online.requests import Block, Requests, Schedule, make_schedule
from policyopt._progress import report
from policyopt._table import Tables
from policyopt.runtime._bandits import BANDITS, Bandit, make_bandit
from policyopt.runtime._checks import check_positive, check_seed, check_type, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.exit_rules import EXIT_RULES, ExitRule
from policyopt.runtime._online.family import PolicyFamily
from policyopt.runtime._online.serving import (
    REVEALS,
    check_nested,
    overhead_range,
    reveal_chances,
    reward_range,
)
from policyopt.runtime._policy import ALWAYS
from policyopt.runtime._typing import Floats, Ints

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
        Side information; see `BanditPlayer`.
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
    own_method = steerable(method)

    def enter(name: str, settings: dict[str, Any]) -> tuple[SimulatedPlayer, Outcomes]:
        """Return the player of an entrant, and what it sees."""
        if name in BANDITS:
            bandit = make_bandit(name, settings)
            return BanditPlayer(bandit, seen, exits, requests, reveal, delay), seen
        if name in EXIT_RULES:
            # Prices in units of the reward: the overhead's share of each exit.
            prices = tuple((float(np.mean(over)) * seen.load).tolist())
            own: dict[str, Any] = {"layers": prices, "offload": prices[-1], "costs": prices}
            rule: Any = EXIT_RULES[name]
            given = {f.name: own[f.name] for f in fields(rule) if f.name in own}
            return ExitPlayer(rule(**{**given, **settings}), seen, requests, delay), seen
        if limit is None or fit is None:
            lacking = "a budget" if limit is None else f"rows '{split}' to fit on"
            allowed = f"given with {lacking}"
            raise input_error(f"policy {name}", allowed, "none", "E.g. --budget 40%.")
        rule = None
        if name == FIXED:
            policy = own_method.fit_path(fit, [limit], seed)[0].policy
            levels = PolicyFamily(policy, policy.thresholds[None])
        else:
            levels = fit_family(own_method, fit, _LEVELS, seed)
            costs = levels.policy.costs
            share = min(max((limit - float(costs[0])) / float(costs[-1] - costs[0]), 0.0), 1.0)
            # It starts on the level that was fitted to the budget.
            start = float(np.interp(limit, levels.labels, np.linspace(0, 1, levels.arms)))
            rule = Controller(**{"budget": share, "start": start, **settings})
        mine = outcomes(levels.policy, seen_tables, reward, fit)
        return BudgetPlayer(rule, levels, mine, repetitions, delay), mine

    players = {spec: enter(*parts) for spec, parts in entrants.items()}
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
        bandit, share = entrants[spec][0] in BANDITS, None
        if bandit:
            played = metrics.arms[metrics.rounds > 0.9 * plan.rounds].sum(axis=0)
            share = float(played[baseline.best] / max(played.sum(), 1))
        records.append({
            "policy": spec, **run, "reveal": reveal if bandit else None, "budget": limit,
            **metrics.record(), "best_arm": float(family.labels[baseline.best]),
            "best_arm_share": share, "recovery": recovery(metrics, baseline),
        })  # fmt: skip
    return Simulation(plan, family.labels, tallies, records, unit, arms_unit, limit, baseline.means)


# ---- players: who decides, each repetition as a server would

Feedback = tuple[Any, ...] | None  # what `learn` takes, where it comes


class SimulatedPlayer(ABC):
    """Chooses an arm for every request; feedback comes `delay` rounds late.

    `exits` (n, A) is the exit of each row on each arm. `contextual`: the arm depends on the request. Then the
    mean reward of an arm says nothing of the requests that it was chosen for: regret is to be measured by
    the rewards that came.
    """

    contextual = False

    def __init__(
        self, exits: npt.NDArray[np.integer], players: Sequence[Any], delay: int = 0
    ) -> None:
        self.exits, self._players = exits, players
        self._delay = check_whole("delay", delay, 0)
        self._late: list[deque[Feedback]] = [deque() for _ in players]

    @abstractmethod
    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield the arm of each request of repetition r, and its feedback, None where none comes."""

    def play(self, block: Block) -> npt.NDArray[np.int16]:
        """Return the arms of a block of rounds, (rounds, R); blocks come in order."""
        out = np.zeros(block.row.shape, dtype=np.int16)  # without players, always the smallest
        for r, (player, late) in enumerate(zip(self._players, self._late, strict=True)):
            arms, learn, delay = [], player.learn, self._delay
            for arm, feedback in self.serve(player, block, r):
                arms.append(arm)
                if delay:
                    late.append(feedback)
                    feedback = late.popleft() if len(late) > delay else None
                if feedback is not None:
                    learn(*feedback)
            out[:, r] = arms
        return out


class BudgetPlayer(SimulatedPlayer):
    """The budget controller on a family, whose policy's costs scale what requests cost, as in `Online`.

    What a request cost needs no label, and comes for every one. Without a rule: a fixed level, the first.
    """

    def __init__(
        self, rule: Controller | None, family: PolicyFamily, seen: Outcomes, repetitions: int,
        delay: int = 0,
    ) -> None:  # fmt: skip
        players, costs = [], family.policy.costs
        if rule is not None:
            rule.check_family(family)
            players = [rule.player(family.arms) for _ in range(repetitions)]
            self._cost = (seen.cost - costs[0]) / float(costs[-1] - costs[0])
        super().__init__(family.exits(seen.scores), players, delay)

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield levels; see `SimulatedPlayer.serve`."""
        rows = block.row[:, r]
        for exits, cost in zip(self.exits[rows], self._cost[rows].tolist(), strict=True):
            arm = player.choose()
            yield arm, (cost[exits[arm]],)


class BanditPlayer(SimulatedPlayer):
    """A bandit over the arms of a table of exits (n, A).

    `reveal` says whose rewards feedback shows. ``smaller``: also those of all smaller arms, which
    would have left no later: side information. ``all``: of larger arms too, where the sample went far
    enough; whether it did depends on the sample, so that this is biased unless weighted, as bandits
    that draw do.
    """

    def __init__(
        self, bandit: Bandit, seen: Outcomes, exits: npt.NDArray[np.integer], requests: Requests,
        reveal: str = "smaller", delay: int = 0,
    ) -> None:  # fmt: skip
        check_nested(reveal, bool((np.diff(exits, axis=1) >= 0).all()))
        arms, (low, high) = exits.shape[1], requests.overhead
        super().__init__(exits, requests.players(bandit, arms), delay)
        self._reveal, self._draws = reveal, bandit.draws
        self._least, most = reward_range(seen.reward, seen.load.tolist(), requests.overhead)
        self._width = max(most - self._least, 1e-12)
        rows = np.arange(len(exits))[:, None]
        self._gain, self._load = seen.gain[rows, exits], seen.load[exits]
        self._reward = None if high > low else self._scaled(self._gain, self._load, low)
        # The smallest arm that leaves where arm a does: what is known together.
        new = np.diff(exits, axis=1, prepend=-1) != 0
        self._start = np.maximum.accumulate(np.where(new, np.arange(arms), 0), axis=1)

    def _scaled(self, gain: Floats, load: Floats, overhead: Any) -> Floats:
        return (gain - overhead * load - self._least) / self._width

    def _rewards(self, rows: Ints, overhead: Floats) -> list[list[float]]:
        if self._reward is not None:
            return self._reward[rows].tolist()
        return self._scaled(self._gain[rows], self._load[rows], overhead[:, None]).tolist()

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield arms and what they and others would have earned; see `SimulatedPlayer.serve`."""
        rows, reveal, choose = block.row[:, r], self._reveal, player.choose
        came, rewards = block.arrives[:, r].tolist(), self._rewards(rows, block.overhead[:, r])
        if reveal == "smaller" and not self._draws:
            for arrives, reward in zip(came, rewards, strict=True):
                arm = choose()
                yield arm, (0, arm, reward) if arrives else None
            return
        starts, exits = self._start[rows].tolist(), self.exits[rows]
        for j, reward in enumerate(rewards):
            arm = choose()
            first, last = (arm, arm) if reveal == "played" else (0, arm)
            if reveal == "all":
                last = int((exits[j] <= exits[j, arm]).sum()) - 1
            chance = player.chances and reveal_chances(player.chances, reveal, starts[j])
            yield arm, (first, last, reward, chance) if came[j] else None


@dataclass(slots=True)
class _Shown:
    """A request of a simulation, as rules by exit see it."""

    arm: int
    confidences: list[float]
    predictions: list[int]
    exit: int = 0


class ExitPlayer(SimulatedPlayer):
    """A rule that says at each exit whether to leave: its arms are exits, or split layers.

    What an exit is worth is its gain by the reading of the outcomes less its share of the overhead, so
    that the sum of what LinUCB learns from is the reward by which simulations measure. It is
    contextual: a pseudo-regret by the means of its arms would be wrong. SplitEE learns from its own
    reward; what simulations tell of it, rewards and costs, is by the exit it leaves at: a sample sent
    on pays for the last exit there, not for the layer it was split at and for sending it.
    """

    def __init__(self, rule: ExitRule, seen: Outcomes, requests: Requests, delay: int = 0) -> None:
        exits = seen.cost.shape[1]
        super().__init__(rule.exits(seen.confidence), requests.players(rule, exits), delay)
        self._seen, self._last, self.contextual = seen, exits - 1, rule.contextual

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        """Yield exits or split layers, and what was shown; see `SimulatedPlayer.serve`."""
        rows, seen, leaves, last = block.row[:, r], self._seen, player.leaves, self._last
        worth = (seen.gain[rows] - block.overhead[:, [r]] * seen.load).tolist()
        confidences, predictions = seen.confidence[rows].tolist(), seen.prediction[rows].tolist()
        exits, came = self.exits[rows].tolist(), block.arrives[:, r].tolist()
        for j, arrives in enumerate(came):
            shown = _Shown(player.choose(), confidences[j], predictions[j])
            if self.contextual:
                while shown.exit < last and not leaves(shown, shown.exit):
                    shown.exit += 1
                shown.arm = shown.exit
            else:  # known beforehand
                shown.exit = exits[j][shown.arm]
            yield shown.arm, (shown, worth[j][: shown.exit + 1]) if arrives else None
