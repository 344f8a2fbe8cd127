"""Simulate: policies that adapt, side by side on the same requests from a cache's streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.budgets import Budget, parse_budget
from policyopt.cache.data import ExitData
from policyopt.methods import make_method
from policyopt.methods.base import Method
from policyopt.methods.registry import parse_value
from policyopt.online.exit_players import LinUCBPlayer, SplitEEPlayer, UEEPlayer
from policyopt.online.ladders import family_ladder, threshold_ladder
from policyopt.online.outcomes import Outcomes, outcomes
from policyopt.online.players import BanditPlayer, BudgetPlayer, Fixed, Player
from policyopt.online.requests import Requests
from policyopt.online.schedule import Schedule, make_schedule
from policyopt.online.tally import Tally, Yardstick, arm_means
from policyopt.runtime.bandits import BANDITS, make_bandit
from policyopt.runtime.errors import bad
from policyopt.runtime.online.controller import Controller
from policyopt.runtime.online.ladder import Ladder
from policyopt.runtime.online.linucb import LinUCB
from policyopt.runtime.online.rewards import overhead_range
from policyopt.runtime.online.splitee import SplitEE
from policyopt.runtime.online.uee_ucb import UEEUCB
from policyopt.table import Table, Tables
from policyopt.telling import tell

Floats = npt.NDArray[np.float64]
#: What is no bandit over the arms.
OTHERS = {
    LinUCB.name: LinUCB.summary,
    SplitEE.name: SplitEE.summary,
    UEEUCB.name: UEEUCB.summary,
    "fixed": "stays where it was fitted, at the budget",
    "controller": Controller.summary,
}
_RUNGS = 63  # of the controller's ladder, its ends not counted


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
        ends of a 95 % interval over repetitions; exit_share; best_arm and its share of the last
        tenth of the rounds; recovery, in rounds, after each sudden change.
    unit : str
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
    budget: float | None
    means: Floats


def simulate(
    data: ExitData,
    policies: Sequence[str] = ("ucb1",),
    *,
    schedule: str = "stationary",
    streams: Sequence[str] = ("test",),
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
    policies : sequence of str
        Bandits (`policyopt.runtime.bandits.BANDITS`), ``linucb``, ``splitee``, ``uee_ucb`` (whose
        arms are exits), ``fixed``, ``controller``; with settings as ``ucb1:c=2``.
    schedule : str
        ``stationary``, ``abrupt``, ``gradual``, ``recurring``, or ``test:4000,blur_medium:6000``.
    streams : sequence of str
        Splits or streams of the cache that the schedule goes through.
    rounds : int, optional
        T; default 10,000, or what the schedule adds up to.
    repetitions, seed : int
        R, and the seed: same seed, same requests.
    arms : str, int or sequence of float
        The arms of the bandits: thresholds ``low:high:step`` or a list, one for all exits; or a
        number of points of the fitted family of `method`.
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
    >>> import policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 500)
    >>> logits = rng.normal(size=(500, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = simulate(data, ["ucb1", "controller"], rounds=2000, repetitions=2, budget=2.0)
    >>> [record["policy"] for record in found.records]
    ['ucb1', 'controller']
    """
    tables = tables or Tables(data, cost)
    if rounds is None:
        rounds = 0 if ":" in schedule else 10_000
    plan = make_schedule(schedule, streams, rounds)
    over = overhead_range(overhead)
    if not isinstance(label_share, (int, float)) or not 0 < label_share <= 1:
        raise bad("label_share", "a number above 0, at most 1", label_share, "E.g. 0.1.")
    if type(repetitions) is not int or repetitions < 1:
        raise bad("repetitions", "a whole number, at least 1", repetitions, "E.g. 20.")
    if not policies:
        raise bad("policy", "at least one", "none", "E.g. ucb1.")
    asked = {spec: _parse(spec) for spec in policies}
    method = make_method(method) if isinstance(method, str) else method
    seen_tables = [tables.get(name) for name in plan.streams]
    fit = tables.get(split) if split in data.split_names else None
    sizes = tuple(len(table) for table in seen_tables)
    requests = Requests(plan, sizes, repetitions, seed, float(label_share), over)

    ladder = _arms(arms, method, fit, seen_tables[0], seed)
    seen = outcomes(ladder.policy, seen_tables, reward, fit)
    exits = ladder.exits(seen.scores)
    means = arm_means(seen, exits, over)
    yardstick = Yardstick(plan, means)
    limit = None
    players: dict[str, tuple[Player, Outcomes]] = {}
    for spec, (name, settings) in asked.items():
        if name in BANDITS:
            bandit = make_bandit(name, settings)
            players[spec] = BanditPlayer(bandit, seen, exits, requests, reveal, delay), seen
            continue
        if name in _BY_EXIT:
            players[spec] = _by_exit(name, settings, seen, requests, delay), seen
            continue
        if budget is None or fit is None:
            lacking = "a budget" if budget is None else f"rows '{split}' to fit on"
            raise bad(f"policy {name}", f"given with {lacking}", "none", "E.g. --budget 40%.")
        limit = parse_budget(budget, fit.mean_costs)
        players[spec] = _at_budget(
            name, settings, method, fit, seen_tables, limit, reward, repetitions, seed, delay
        )
    tallies = {
        spec: Tally(
            mine, player.exits, yardstick, over, repetitions, getattr(player, "contextual", False)
        )
        for spec, (player, mine) in players.items()
    }
    for block in requests:
        for at, (spec, (player, _)) in enumerate(players.items()):
            tell(block.first * len(players) + at, plan.rounds * len(players), spec)
            tallies[spec].add(block, player.play(block))
    records = [
        {"policy": spec, "rounds": plan.rounds, "repetitions": repetitions, "schedule": schedule,
         "overhead": list(over), "reveal": reveal if asked[spec][0] in BANDITS else None,
         "budget": limit, **_record(tally, yardstick, asked[spec][0] in BANDITS, ladder)}
        for spec, tally in tallies.items()
    ]  # fmt: skip
    return Simulation(plan, _labels(ladder), tallies, records, tables.cost.unit, limit, means)


def _by_exit(
    name: str, settings: dict[str, Any], seen: Outcomes, requests: Requests, delay: int
) -> Player:
    """Return the player of a policy whose arms are exits; its costs are the overhead's shares."""
    prices = tuple((float(np.mean(requests.overhead)) * seen.load).tolist())
    given: dict[str, Any] = {}
    if name == SplitEE.name:
        given = {"layers": prices, "offload": prices[-1]}
    elif name == UEEUCB.name:
        given = {"costs": prices}
    rule_type, player = _BY_EXIT[name]
    known = [f.name for f in fields(rule_type) if f.name not in ("layers", "costs")]
    for key in settings:
        if key not in known:
            raise bad(f"setting of {name}", f"one of {', '.join(known)}", key, "E.g. alpha.")
    return player(rule_type(**{**given, **settings}), seen, requests, delay)


def _split(rule: SplitEE, seen: Outcomes, requests: Requests, delay: int) -> SplitEEPlayer:
    return SplitEEPlayer(rule, "ucb1", seen, requests, delay)


_BY_EXIT: dict[str, tuple[Any, Any]] = {
    LinUCB.name: (LinUCB, LinUCBPlayer),
    SplitEE.name: (SplitEE, _split),
    UEEUCB.name: (UEEUCB, UEEPlayer),
}


def _at_budget(
    name: str, settings: dict[str, Any], method: Method, fit: Table, tables: list[Table],
    budget: float, reward: str, repetitions: int, seed: int, delay: int,
) -> tuple[Player, Outcomes]:  # fmt: skip
    """Return the player of a policy that has a budget, and what it sees."""
    if name == "fixed":
        if settings:
            raise bad("setting of fixed", "none: it has none", next(iter(settings)), "")
        ladder_policy = method.fit_path(fit, [budget], seed)[0].policy
        seen = outcomes(ladder_policy, tables, reward, fit)
        taken = Ladder(ladder_policy, ladder_policy.thresholds[None]).exits(seen.scores)
        return Fixed(taken), seen
    ladder = family_ladder(method, fit, _RUNGS, seed)
    seen = outcomes(ladder.policy, tables, reward, fit)
    costs = ladder.policy.costs
    share = min(max((budget - float(costs[0])) / float(costs[-1] - costs[0]), 0.0), 1.0)
    # It starts on the rung that was fitted to the budget.
    start = float(np.interp(budget, _labels(ladder), np.linspace(0, 1, ladder.arms)))
    rule = Controller(**{"budget": share, "start": start, **settings})
    return BudgetPlayer(rule, ladder, seen, repetitions, delay), seen


def _arms(
    arms: str | int | Sequence[float], method: Method, fit: Table | None, first: Table, seed: int
) -> Ladder:
    """Return the ladder of the bandits."""
    if isinstance(arms, str) and ":" in arms:
        parts = arms.split(":")
        try:
            low, high, step = (float(part) for part in parts)
            count = round((high - low) / step)
            values = [round(low + i * step, 10) for i in range(count + 1)]
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise bad("arms", "low:high:step", arms, "E.g. 0:1:0.2.") from error
        if len(values) > 1000:
            raise bad("arms", "at most 1000", len(values), "Take a larger step.")
        return threshold_ladder(fit or first, values, method, seed)
    if isinstance(arms, str):
        parsed = parse_value(arms)
        arms = parsed if isinstance(parsed, (int, tuple)) else (parsed,)
    if isinstance(arms, int):
        if not 1 <= arms <= 1000:
            raise bad("arms", "from 1 to 1000 points", arms, "E.g. 11, or 0:1:0.2.")
        if fit is None:
            raise bad(
                "arms", "thresholds where the cache has no split 'fit'", arms, "E.g. 0:1:0.2."
            )
        return family_ladder(method, fit, arms, seed)
    if not all(isinstance(value, (int, float)) for value in arms):
        raise bad("arms", "low:high:step, a list of thresholds, or a number", arms, "E.g. 0:1:0.2.")
    return threshold_ladder(fit or first, arms, method, seed)


def _labels(ladder: Ladder) -> Floats:
    assert ladder.labels is not None
    return ladder.labels


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Divide ``name:key=value+key=value``."""
    name, _, inline = spec.partition(":")
    if name not in BANDITS and name not in OTHERS:
        raise bad("policy", f"one of {', '.join((*BANDITS, *OTHERS))}", name, "E.g. ucb1.")
    settings = {}
    for item in filter(None, inline.split("+")):
        key, equals, value = item.partition("=")
        if not equals:
            raise bad(f"settings of {name}", "key=value", item, "E.g. ucb1:c=0.5.")
        settings[key] = parse_value(value)
    if name == "controller" and not settings.keys() <= {"step", "start"}:
        raise bad(f"setting of {name}", "step or start", sorted(settings), "E.g. step=0.05.")
    return name, settings


def _record(tally: Tally, yardstick: Yardstick, bandit: bool, ladder: Ladder) -> dict[str, Any]:
    """Return what one policy came to."""
    found = tally.record()
    found["best_arm"] = float(_labels(ladder)[yardstick.best])
    found["best_arm_share"] = None
    if bandit:
        late = tally.rounds > 0.9 * yardstick.schedule.rounds
        played = tally.arms[late].sum(axis=0)
        found["best_arm_share"] = float(played[yardstick.best] / max(played.sum(), 1))
    found["recovery"] = recovery(tally, yardstick)
    return found


def recovery(tally: Tally, yardstick: Yardstick, window: int = 400) -> list[int | None]:
    """Return how many rounds each sudden change takes to be made good; None: not before the next.

    Recovered is when, over the `window` rounds that end there and all repetitions, the mean regret
    against the arm that is best now is at most a quarter of what staying with the arm that was best
    before would cost (or 0.01, where that is more).
    """
    plan = yardstick.schedule
    edges = [*plan.changes, plan.rounds]
    moving = tally.course("moving").mean(axis=1)
    found: list[int | None] = []
    for change, end in pairwise(edges):
        before, now = plan.shares([change - 1, change]) @ yardstick.means
        allowed = max(0.25 * float(now.max() - now[before.argmax()]), 0.01)
        points = np.flatnonzero((tally.rounds > change) & (tally.rounds <= end))
        at_change = np.searchsorted(tally.rounds, change)
        first: int | None = None
        for point in points:
            since = np.searchsorted(tally.rounds, max(tally.rounds[point] - window, change))
            since = max(since, at_change)
            span = int(tally.rounds[point] - tally.rounds[since])
            if span >= min(window, end - change) * 0.9:
                rate = float(moving[point] - moving[since]) / span
                if rate <= allowed:
                    first = int(tally.rounds[point] - change)
                    break
        found.append(first)
    return found
