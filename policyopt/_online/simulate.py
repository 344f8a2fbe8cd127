"""Simulate: policies that adapt, side by side on the same requests from a cache's streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._answers.calibrators import fit_confidence
from policyopt._answers.crossfit import CrossFitted, observe
from policyopt._cache.data import ExitData
from policyopt._costs import Budget, parse_budget
from policyopt._methods.base import Method, check_budgets, check_exits
from policyopt._online.entrants import FIXED, asked
from policyopt._online.families import arms_family, called, fit_linucb, steerable, steering_family
from policyopt._progress import report, working
from policyopt._replay import follow, trace
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._answers import Identity
from policyopt.runtime._bandits import BANDITS, Bandit, Steering, make_bandit
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._checks import (
    check_names,
    check_one_of,
    check_positive,
    check_seed,
    check_type,
    check_whole,
)
from policyopt.runtime._errors import input_error
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.exit_rules import EXIT_RULES, ExitRule, LinUCB
from policyopt.runtime._online.serving import (
    REVEALS,
    REWARDS,
    ROUTED_LOAD,
    check_nested,
    check_routed,
    load_of,
    overhead_range,
    reveal_chances,
    reward_range,
    tier_ends,
)
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import no_thresholds
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Array, Bools, Floats, Ints

Exits = npt.NDArray[np.integer]  # of families with few exits, int8
_LEVELS = 63  # of the controller's family, its ends not counted
KINDS = ("stationary", "abrupt", "gradual", "recurring")
_CYCLES = 3
_TELLS = "Fit one: `policyopt fit --budgets 30`."
_ROUNDS = 4096  # rounds drawn at once
#: Bandits of the same seed draw from counters whose third word is below 2**63 (`runtime._bandits`).
_COUNTER = (0, 0, 1 << 63, 0)
_POINTS = 250
WINDOW = 400  # requests over which a policy must have recovered


@dataclass(frozen=True, eq=False, repr=False)
class Simulation(Shown):
    """What came of a simulation.

    A record per policy, JSON-able: means with the ends of 95 % intervals over repetitions (None for one),
    recovery in rounds after each sudden change (None: not before the next), and what was asked for.
    """

    schedule: Schedule
    labels: Floats  # of the arms of the bandits (A,): thresholds, or expected costs
    metrics: dict[str, Metrics]  # by policy as asked for
    records: list[dict[str, Any]]
    unit: str  # of costs
    arms_unit: str  # of the labels: threshold, or `unit`
    budget: float | None  # in `unit`
    means: Floats  # mean reward of each arm on each stream, (S, A)
    notes: list[str]  # rows left out


@working("simulating")
def simulate(
    data: ExitData,
    policies: str | Sequence[str] = ("ucb1",),
    *,
    schedule: str = "stationary",
    streams: str | Sequence[str] | None = None,
    rounds: int | None = None,
    repetitions: int = 20,
    seed: int = 0,
    arms: str | int | Sequence[float] | PolicyFamily = "0:1:0.2",
    method: str | Method = "max_prob",
    overhead: float | tuple[float, float] = 0.1,
    offload_at: int | Sequence[int] | None = None,
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

    All policies see the same requests. Regret is pseudo-regret: the expected reward of the best fixed arm of the
    bandits, less that of what was played; `moving_regret` compares with the arm that is best at each time. What
    looks at the request before it chooses (linucb) is measured by the rewards that came; it may beat any fixed arm.

    Parameters
    ----------
    data : ExitData
    policies : str or sequence of str
        Bandits (by `policyopt methods online`; ``bandits``: all), ``linucb``, ``splitee``,
        ``uee_ucb`` (whose arms are exits), ``fixed``, ``controller``; with settings as ``ucb1:c=2``. What
        ``linucb:inputs=both`` reads of features is learned on `split`.
    schedule : str
        ``stationary``, ``abrupt``, ``gradual``, ``recurring``, or ``test:4000,blur_medium:6000``.
    streams : str or sequence of str, optional
        Splits or streams of the cache that the schedule goes through; default ``test``, or those
        that the schedule names. Stationary over several: a mixture in equal parts.
    rounds : int, optional
        T; default 10,000, or what the schedule adds up to.
    repetitions, seed : int
        R, and the seed: same seed, same requests.
    arms : str, int, sequence of float, or PolicyFamily
        The arms of the bandits: thresholds ``low:high:step`` or a list, one for all exits; or a
        number of points of the fitted family of `method`, to which its two ends are added. A family that is given is
        also that of ``fixed`` and ``controller``; of `PolicyFamily.certified` nothing else is played. Levels of routing
        are rewarded by the confidence of the answer given, or its label.
    method : str or Method
        What is fitted on `split`: the score of the arms, and the policy of ``fixed`` and ``controller``.
    overhead : float or (low, high)
        Of going to the last exit, in units of the reward; earlier exits bear their share by cost.
        A range: drawn per request.
    offload_at : int or sequence of int, optional
        Last exits of tiers, as AdaEE has it: the overhead falls due on going on from them to the next tier (of
        several, in equal parts), and exits on one tier bear none of their own.
    reward : {"confidence", "signed", "calibrated", "label"}
        See `outcomes`.
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
    check_one_of("reveal", reveal, REVEALS, "E.g. smaller.")
    for name in plan.streams:
        if name not in data.split_names:
            allowed = f"among {', '.join(data.split_names)}"
            raise input_error("streams", allowed, name, "`policyopt info CACHE` tells of them.")
    tables = tables or Tables(data, cost)
    notes = list[str]()
    seen_tables = [known_rows(tables.get(name), notes) for name in plan.streams]
    check_exits(seen_tables[0])
    fit = tables.get(split) if split in data.split_names else None
    sizes = tuple(len(table) for table in seen_tables)
    requests = Requests(plan, sizes, repetitions, seed, float(label_share), over)
    family = arms_family(arms, method, fit, seen_tables[0], seed)
    given = isinstance(arms, PolicyFamily)
    if family.routes:
        if family.expected_costs is None:
            raise input_error("arms", "a family that tells its costs", "another", _TELLS)
        bandits = any(name in BANDITS for name, _ in entrants.values())
        check_routed(reward, offload_at, reveal if bandits else "played")
    tiers = None if family.routes else tier_ends(offload_at, family.policy.active_exits)

    def look_up(levels: PolicyFamily) -> Outcomes:
        if levels.routes:
            return level_outcomes(levels, seen_tables, reward)
        return outcomes(levels.policy, seen_tables, reward, fit, tiers)

    seen = look_up(family)
    exits = family.exits_of(seen.scores)
    baseline = RegretBaseline(plan, arm_means(seen, exits, over))
    limit = None
    if budget is not None and fit is not None:
        limit = parse_budget(budget, fit.mean_costs, fit.unit)
        check_budgets(fit, [limit])
    own_method = steerable(method)

    def enter(name: str, settings: dict[str, Any]) -> tuple[SimulatedPlayer, Outcomes]:
        """Return the player of an entrant, and what it sees."""
        if name in BANDITS:
            bandit = make_bandit(name, settings)
            return BanditPlayer(bandit, seen, exits, requests, reveal, delay), seen
        if name in EXIT_RULES:
            if family.routes:
                raise no_thresholds("arms", name)
            if family.all_certified:
                got = f"{name}, which looks at the request at each exit"
                step = "No level's certificate covers that: leave it out, or play other arms."
                raise input_error("policy", "one that plays certified levels alone", got, step)
            # Prices in units of the reward: the overhead's share of each exit.
            each = tuple((float(np.mean(over)) * seen.load).tolist())
            own: dict[str, Any] = {"layers": each, "offload": each[-1], "costs": each}
            rule: Any = EXIT_RULES[name]
            prices = {f.name: own[f.name] for f in fields(rule) if f.name in own}
            if settings.get("inputs", "history") == "history":
                return ExitPlayer(rule(**{**prices, **settings}), seen, requests, delay), seen
            rule = fit_linucb(data, **settings, policy=family.policy, split=split, tables=tables)
            mine = with_hidden(rule, seen, family.policy, seen_tables)
            return ExitPlayer(rule, mine, requests, delay), mine
        if limit is None or fit is None:
            lacking = "a budget" if limit is None else f"rows '{split}' to fit on"
            allowed = f"given with {lacking}"
            raise input_error(f"policy {name}", allowed, "none", "E.g. --budget 40%.")
        rule = None
        if given and family.expected_costs is None:
            raise input_error(f"arms of {name}", "a family that tells its costs", "another", _TELLS)
        if name == FIXED and given:
            levels = PolicyFamily((family.at(limit),))
        elif name == FIXED:
            policy = own_method.fit_path(fit, [limit], seed)[0].policy
            levels = PolicyFamily.of(policy, policy.thresholds[None])
        else:
            levels = family.steered() if given else steering_family(own_method, fit, _LEVELS, seed)
            low, high = levels.ends.tolist()
            if not low * (1 - 1e-9) <= limit <= high * (1 + 1e-9):
                notes.append(
                    f"{name}: a budget must lie between what the levels cost, {low:.6g} to {high:.6g} "
                    f"{family.policy.unit}; {limit:.6g} cannot be kept, the nearest of the two is aimed at"
                )
            # Costs that are all alike the controller refuses itself.
            share = min(max((limit - low) / ((high - low) or 1.0), 0.0), 1.0)
            # It starts on the level that was fitted to the budget.
            known: Any = levels.expected_costs
            start = float(np.interp(limit, known, np.linspace(0, 1, levels.levels)))
            rule = Controller(**{"budget": share, "start": start, **settings})
        mine = look_up(levels)
        return BudgetPlayer(rule, levels, mine, repetitions, delay), mine

    players = {spec: enter(*parts) for spec, parts in entrants.items()}
    metrics = {
        spec: Metrics(mine, player.exits, baseline, over, repetitions, player.contextual)
        for spec, (player, mine) in players.items()
    }
    for block in requests:
        for at, (spec, (player, _)) in enumerate(players.items()):
            report(block.first * len(players) + at, plan.rounds * len(players), spec)
            metrics[spec].add(block, player.play(block))
    unit = tables.cost.unit
    costs = family.expected_costs
    arms_unit, labels = ("threshold", family.thresholds[:, 0]) if costs is None else (unit, costs)
    run = {
        "rounds": plan.rounds, "repetitions": repetitions, "schedule": schedule,
        "streams": list(plan.streams), "overhead": list(over), "offload_at": tiers, "reward": reward,
        "delay": delay,
        "label_share": float(label_share), "seed": seed,
        "method": "given" if given else called(method),
        "arms": labels.tolist(), "arms_unit": arms_unit, "unit": unit,
    }  # fmt: skip
    records = []
    for spec, found in metrics.items():
        bandit, share = entrants[spec][0] in BANDITS, None
        if bandit:
            played = found.arms[found.rounds > 0.9 * plan.rounds].sum(axis=0)
            share = float(played[baseline.best] / max(played.sum(), 1))
        records.append({
            "policy": spec, **run, "reveal": reveal if bandit else None, "budget": limit,
            **found.record(), "best_arm": float(labels[baseline.best]),
            "best_arm_share": share, "recovery": recovery(found, baseline),
        })  # fmt: skip
    return Simulation(plan, labels, metrics, records, unit, arms_unit, limit, baseline.means, notes)


# ---- requests: cached rows drawn as a stream, by a schedule, for R repetitions side by side, seeded


@dataclass(frozen=True)
class Schedule:
    """Shares of the S streams over time, piecewise linear."""

    streams: tuple[str, ...]  # names of splits or streams of a cache
    knots: tuple[int, ...]  # rounds at which shares are stated, from 0; the last is T
    # Shares just before and just after each knot; between two knots they run in straight lines.
    before: tuple[tuple[float, ...], ...]
    after: tuple[tuple[float, ...], ...]

    @property
    def rounds(self) -> int:
        """T."""
        return self.knots[-1]

    @property
    def changes(self) -> tuple[int, ...]:
        """Rounds at which a sudden change happens."""
        pairs = zip(self.knots, self.before, self.after, strict=True)
        return tuple(t for t, old, new in pairs if 0 < t < self.rounds and old != new)

    def shares(self, rounds: npt.ArrayLike) -> Floats:
        """Return the shares of the streams at some rounds, (n, S)."""
        t = np.asarray(rounds, dtype=np.float64)
        at = np.clip(np.searchsorted(self.knots, t, side="right") - 1, 0, len(self.knots) - 2)
        knots = np.asarray(self.knots, dtype=np.float64)
        part = ((t - knots[at]) / (knots[at + 1] - knots[at]))[:, None]
        return np.asarray(self.after)[at] * (1 - part) + np.asarray(self.before)[at + 1] * part

    def draw(self, rounds: npt.ArrayLike, uniform: Floats) -> Ints:
        """Return which stream each request comes from, (n, R), by rounds (n,) and numbers in [0, 1) (n, R)."""
        edges = np.cumsum(self.shares(rounds), axis=1)[:, None, :-1]
        return (uniform[:, :, None] >= edges).sum(axis=2)


def make_schedule(kind: str, streams: str | Sequence[str], rounds: int) -> Schedule:
    """Make a schedule of T rounds."""
    # ``stationary``: a mixture of the streams in equal parts; ``abrupt``: one after the other; ``gradual``: each for
    # half of its part, then crossing over in a straight line; ``recurring``: three times round, abruptly; or a plan,
    # ``test:4000,blur_medium:6000``, from which streams and rounds are taken.
    check_type("schedule", kind, str, "a text", "E.g. abrupt, or test:4000,blur_medium:6000.")
    if ":" in kind:
        names, lengths = zip(*(_part(item) for item in kind.split(",")), strict=True)
        edges = np.concatenate([[0], np.cumsum(lengths)])
        if rounds and rounds != edges[-1]:
            allowed = f"the sum of the schedule, {edges[-1]}"
            raise input_error("rounds", allowed, rounds, "Or leave it out.")
        known = tuple(dict.fromkeys(names))
        given = check_names("streams", streams) if streams else known
        if set(given) != set(known):
            allowed = f"those of the schedule, {', '.join(known)}"
            raise input_error("streams", allowed, ", ".join(given), "Or none.")
        return _steps(known, [known.index(name) for name in names], edges)
    if kind not in KINDS:
        allowed = f"one of {', '.join(KINDS)}, or streams with rounds"
        raise input_error("schedule", allowed, kind, "E.g. abrupt, or test:4000,blur_medium:6000.")
    known = check_names("streams", streams, "`policyopt info CACHE` lists them.")
    if len(known) < 2 and kind != "stationary":
        allowed = f"two or more, for a schedule that is {kind}"
        raise input_error("streams", allowed, ", ".join(known), "E.g. --streams test,blur_medium.")
    order = list(range(len(known))) * (_CYCLES if kind == "recurring" else 1)
    parts = 1 if kind == "stationary" else len(order)
    rounds = check_whole("rounds", rounds, 2 * parts, step="E.g. 10000.")
    if kind == "stationary":
        even = (1.0 / len(known),) * len(known)
        return Schedule(known, (0, rounds), (even, even), (even, even))
    edges = np.round(np.linspace(0, rounds, parts + 1)).astype(int)
    if kind != "gradual":
        return _steps(known, order, edges)
    # Each is held to the middle of its part, then gives way to the next.
    middles = (edges[:-2] + edges[1:-1]) // 2
    knots = [0, *np.stack([middles, edges[1:-1]], axis=1).ravel().tolist(), rounds]
    rows = _alone(len(known), [0, *(i for k in order[1:] for i in (k - 1, k)), order[-1]])
    return Schedule(known, tuple(knots), rows, rows)


def _part(item: str) -> tuple[str, int]:
    name, _, length = item.rpartition(":")
    if not name.strip() or not length.strip().isdigit() or int(length) < 1:
        raise input_error("schedule", "streams with rounds", item.strip(), "E.g. test:40,blur:60.")
    return name.strip(), int(length)


def _steps(streams: tuple[str, ...], order: list[int], edges: Ints) -> Schedule:
    shares = _alone(len(streams), order)
    return Schedule(streams, tuple(edges.tolist()), (shares[0], *shares), (*shares, shares[-1]))


def _alone(count: int, order: list[int]) -> tuple[tuple[float, ...], ...]:
    """Return the shares where one of so many streams has all, for each in the order."""
    return tuple(tuple(float(j == i) for j in range(count)) for i in order)


@dataclass(frozen=True)
class Requests:
    """What arrives in each round of each of R repetitions; a row's number counts through all streams."""

    schedule: Schedule
    sizes: tuple[int, ...]  # rows of each stream
    repetitions: int
    seed: int = 0  # repetition r draws its own numbers: the same in a run of fewer repetitions
    label_share: float = 1.0  # of the requests, those whose feedback ever arrives
    overhead: tuple[float, float] = (0.0, 0.0)  # of the last exit, drawn evenly per request

    def players(self, rule: Steering, arms: int) -> list[Any]:
        """Return a player per repetition."""
        return [rule.player(arms, self.seed, r) for r in range(self.repetitions)]

    def __iter__(self) -> Iterator[Block]:
        """Yield blocks of rounds in order; rows are drawn with replacement, as AdaEE does."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]])
        size = np.asarray(self.sizes)
        sources = [
            np.random.Generator(np.random.Philox(key=[self.seed, r], counter=_COUNTER))
            for r in range(self.repetitions)
        ]
        low, high = self.overhead
        for first in range(0, self.schedule.rounds, _ROUNDS):
            rounds = np.arange(first, min(first + _ROUNDS, self.schedule.rounds))
            # (n, 4, R); a whole block is always drawn, so that numbers do not depend on the end
            drawn = np.stack([g.random((_ROUNDS, 4))[: len(rounds)] for g in sources], axis=2)
            stream = self.schedule.draw(rounds, drawn[:, 0])
            row = starts[stream] + (drawn[:, 1] * size[stream]).astype(np.int64)
            overhead = low + (high - low) * drawn[:, 3]
            yield Block(first, row, drawn[:, 2] < self.label_share, overhead)


@dataclass(frozen=True)
class Block:
    """Some rounds of all repetitions; arrays of shape (n, R)."""

    first: int  # number of the first round
    row: Ints
    arrives: Bools  # whether feedback ever comes
    overhead: Floats


# ---- outcomes: what every row would do at every exit, looked up in a replay


@dataclass(frozen=True, eq=False)
class Outcomes:
    """The rows of S streams, one after the other, as a policy sees them."""

    reward: str  # the reading of the gain
    sizes: tuple[int, ...]  # rows of each stream
    scores: Floats  # (n, K)
    gain: Floats  # (n, K): what exit k is worth beyond exit 0
    #: (K,): share of the overhead that leaving at exit k pays, from 0 to 1; (n, K) where exits are levels of routing.
    load: Floats
    cost: Floats  # (n, K): paid at each exit, the policy's own arithmetic included
    quality: Array | None  # (n, K); None where it is not known of some rows
    confidence: Floats  # (n, K): of the policy's answers; calibrated where the reading is
    prediction: npt.NDArray[np.int32]  # (n, K)
    correct: Array | None = None  # (n, K) bool; None where it is not known of some rows
    hidden: Floats | None = None  # (n, K-1, V): of the rows' vectors, as LinUCB reads them

    @property
    def by_level(self) -> bool:
        """Whether exits are levels of routing."""
        return self.load.ndim > 1


def outcomes(
    policy: Policy,
    tables: Sequence[Table],
    reward: str = "confidence",
    fit: Table | None = None,
    tiers: Sequence[int] | None = None,
) -> Outcomes:
    """Look up what a policy scores and answers on the rows of some streams."""
    # `reward`, of exit k beyond exit 0: ``confidence``, AdaEE's gain ``max(conf_k - conf_0, 0)``; ``signed``, without
    # the maximum (UCBEE); ``calibrated``, signed, of confidences mapped (Platt) on the labelled rows of `fit`;
    # ``label``, right or wrong, or the quality that is known.
    check_one_of("reward", reward, REWARDS, "E.g. confidence.")
    rule = None
    if reward == "calibrated":
        if fit is None:
            allowed = "label-free where there is no split 'fit'"
            raise input_error("reward", allowed, reward, "E.g. confidence.")
        right = trace(policy, fit).quality
        right = fit.quality if right is None else right  # the former says what is missing
        sure = confidences(policy, fit.built_for(policy))
        rule = fit_confidence("platt", sure, right.astype(float))
    seen = [trace(policy, table) for table in tables]
    kept = [table.built_for(policy) for table in tables]
    right = _joined([one.quality for one in seen])
    correct = _joined([one.correct for one in seen])
    confidence = np.concatenate([confidences(policy, table, rule) for table in kept])
    paid = [np.broadcast_to(t.costs + policy.overhead, (len(t), policy.exits)) for t in kept]
    cost, level = np.concatenate(paid), confidence
    if reward == "label":
        if right is None:
            allowed = "label-free where rows have no labels"
            raise input_error("reward", allowed, reward, "E.g. confidence.")
        level = right.astype(np.float64)
    gain = level - level[:, :1]
    if reward == "confidence":
        gain = np.maximum(gain, 0.0)
    return Outcomes(
        reward, tuple(len(table) for table in tables), np.concatenate([one.scores for one in seen]),
        gain, np.array(load_of(cost.mean(axis=0).tolist(), tiers, policy.active_exits)), cost, right, confidence,
        np.concatenate([one.predictions for one in seen]), correct,
    )  # fmt: skip


def level_outcomes(family: PolicyFamily, tables: Sequence[Table], reward: str) -> Outcomes:
    """Look up what each level of routing comes to on the rows of some streams: their exits are the levels."""
    found = [[follow(policy, table) for policy in family.policies] for table in tables]

    def columns(name: str) -> Array:
        return np.concatenate([np.stack([vars(r)[name] for r in each], axis=1) for each in found])

    quality, sure = columns("quality"), columns("confidence")
    load = family.policy.load(columns("turn") > 0)
    known = not np.isnan(quality).any()
    if reward == "label" and not known:
        allowed = "label-free where rows have no labels"
        raise input_error("reward", allowed, reward, "E.g. confidence.")
    right = quality > 0.5 if known and not found[0][0].graded else None
    return Outcomes(
        reward, tuple(map(len, tables)), np.zeros((len(sure), 0)), quality if reward == "label" else sure,
        load, columns("cost"), quality if known else None, sure, columns("prediction"), right,
    )  # fmt: skip


def with_hidden(rule: LinUCB, seen: Outcomes, policy: Policy, tables: Sequence[Table]) -> Outcomes:
    """Return outcomes with what LinUCB reads of the rows' vectors, and what that costs where arithmetic is paid."""
    assert rule.hidden is not None
    hidden, first = np.empty((len(seen.cost), *rule.hidden.shift.shape)), 0
    for table in [table.built_for(policy) for table in tables]:
        for low in range(0, len(table), _ROUNDS):
            rows = slice(low, min(low + _ROUNDS, len(table)))
            for at, exit in enumerate(policy.active_exits[:-1]):
                seen_here = rule.look(at, table.feature(at, rows), exit)
                hidden[first + low : first + rows.stop, at] = seen_here
        first += len(table)
    more = np.cumsum([rule.operations(k) for k in range(policy.exits)]) * tables[0].rate
    return replace(seen, hidden=hidden, cost=seen.cost + more)


def _joined(arrays: Sequence[Array | None]) -> Array | None:
    """Return the rows of all streams, or None where one lacks them."""
    known = [array for array in arrays if array is not None]
    return np.concatenate(known) if len(known) == len(arrays) else None


def confidences(policy: Policy, table: Table, rule: Calibrator | None = None) -> Floats:
    """Return the confidence of a policy's answers on a table of its exits, (N, K)."""
    found = np.empty((len(table), table.exits))
    if isinstance(policy.answer, Identity):
        every = [(slice(None), table.statistics.outputs())]
    else:
        every = observe(table, CrossFitted(policy.answer))
    rule = rule or policy.calibrator
    for rows, seen in every:
        for k, output in enumerate(seen):
            found[rows, k] = output.confidence if rule is None else rule.confidence(k, output)
    return found


# ---- players: who decides, each repetition as a server would

Feedback = tuple[Any, ...] | None  # what `learn` takes, where it comes


class SimulatedPlayer(ABC):
    """Chooses an arm per request, of exits (n, A); feedback is `delay` rounds late. `contextual`: by the request."""

    contextual = False

    def __init__(self, exits: Exits, players: Sequence[Any], delay: int = 0) -> None:
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
    """The budget controller on a family, as in `Online`; without a rule: a fixed level, the first."""

    def __init__(
        self, rule: Controller | None, family: PolicyFamily, seen: Outcomes, repetitions: int,
        delay: int = 0,
    ) -> None:  # fmt: skip
        players, (low, high) = [], family.ends.tolist()
        if rule is not None:
            rule.check_family(family)
            players = [rule.player(family.levels) for _ in range(repetitions)]
            self._cost = (seen.cost - low) / (high - low)
        super().__init__(family.exits_of(seen.scores), players, delay)

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        rows = block.row[:, r]
        for exits, cost in zip(self.exits[rows], self._cost[rows].tolist(), strict=True):
            arm = player.choose()
            yield arm, (cost[exits[arm]],)


class BanditPlayer(SimulatedPlayer):
    """A bandit over the arms of a table of exits (n, A).

    `reveal`: whose rewards feedback shows. ``smaller``: also those of smaller arms, which would have left no
    later; ``all``: of larger ones too where the sample went far enough, which is biased unless weighted.
    """

    def __init__(
        self, bandit: Bandit, seen: Outcomes, exits: Exits, requests: Requests,
        reveal: str = "smaller", delay: int = 0,
    ) -> None:  # fmt: skip
        check_nested(reveal, bool((np.diff(exits, axis=1) >= 0).all()))
        arms, (low, high) = exits.shape[1], requests.overhead
        super().__init__(exits, requests.players(bandit, arms), delay)
        self._reveal, self._draws = reveal, bandit.draws
        ends = ROUTED_LOAD if seen.by_level else seen.load.tolist()
        self._least, most = reward_range(seen.reward, ends, requests.overhead)
        self._width = max(most - self._least, 1e-12)
        rows = np.arange(len(exits))[:, None]
        self._gain = seen.gain[rows, exits]
        self._load = np.broadcast_to(seen.load, seen.gain.shape)[rows, exits]
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


class ExitPlayer(SimulatedPlayer):
    """A rule that says at each exit whether to leave: its arms are exits, or split layers.

    An exit's worth is its gain less its share of the overhead, so that what LinUCB learns from sums to the
    reward measured. SplitEE learns from its own; a sample sent on is recorded by the last exit it leaves at.
    """

    def __init__(self, rule: ExitRule, seen: Outcomes, requests: Requests, delay: int = 0) -> None:
        exits = seen.cost.shape[1]
        super().__init__(rule.exits(seen.confidence), requests.players(rule, exits), delay)
        self._seen, self._last, self.contextual = seen, exits - 1, rule.contextual

    def serve(self, player: Any, block: Block, r: int) -> Iterator[tuple[int, Feedback]]:
        rows, seen, leaves, last = block.row[:, r], self._seen, player.leaves, self._last
        worth = (seen.gain[rows] - block.overhead[:, [r]] * seen.load).tolist()
        confidences, predictions = seen.confidence[rows].tolist(), seen.prediction[rows].tolist()
        exits, came = self.exits[rows].tolist(), block.arrives[:, r].tolist()
        choose, contextual, hidden = player.choose, self.contextual, seen.hidden
        for j, arrives in enumerate(came):
            own = () if hidden is None else hidden[rows[j]]
            said = {"confidences": confidences[j], "predictions": predictions[j], "hidden": own}
            shown = SimpleNamespace(arm=choose(), exit=0, **said)  # as rules by exit see a request
            if contextual:
                while shown.exit < last and not leaves(shown, shown.exit):
                    shown.exit += 1
                shown.arm = shown.exit
            else:  # known beforehand
                shown.exit = exits[j][shown.arm]
            yield shown.arm, (shown, worth[j][: shown.exit + 1]) if arrives else None


# ---- metrics: regret, cost and accuracy per repetition, and their course


@dataclass(frozen=True, eq=False)
class RegretBaseline:
    """Mean rewards (S, A) of the arms that regret is measured against."""

    schedule: Schedule
    means: Floats
    best: int = field(init=False)  # the arm that is best over the whole schedule

    def __post_init__(self) -> None:
        rounds = np.arange(self.schedule.rounds)
        parts = np.array_split(rounds, max(len(rounds) // 100_000, 1))
        over = sum(self.schedule.shares(part).sum(axis=0) for part in parts)
        object.__setattr__(self, "best", int((over @ self.means).argmax()))


def arm_means(seen: Outcomes, exits: Exits, overhead: tuple[float, float]) -> Floats:
    """Return the mean reward of each arm on each stream, (S, A)."""
    rows, edges = np.arange(len(exits))[:, None], np.cumsum((0, *seen.sizes))
    load = np.broadcast_to(seen.load, seen.gain.shape)
    values = seen.gain[rows, exits] - np.mean(overhead) * load[rows, exits]
    return np.array([values[low:high].mean(axis=0) for low, high in pairwise(edges)])


class Metrics:
    """Gathers what R repetitions of T rounds came to; regret is against the best fixed arm, `moving`: at each time."""

    def __init__(
        self, seen: Outcomes, exits: Exits, baseline: RegretBaseline,
        overhead: tuple[float, float], repetitions: int, contextual: bool = False,
    ) -> None:  # fmt: skip
        self._seen, self._exits, self._baseline = seen, exits, baseline
        self._means = arm_means(seen, exits, overhead)
        self._contextual = contextual  # an arm's mean says nothing of requests it was chosen for
        total = baseline.schedule.rounds
        # The course is kept at P rounds: even steps, and every round at which something changes.
        points = np.linspace(0, total, min(_POINTS, total) + 1).astype(int)[1:]
        self.rounds = np.unique(np.concatenate([points, baseline.schedule.changes]).astype(int))
        shape = (len(self.rounds), repetitions)
        # Sums over all rounds, (R,), and up to the points, (P, R).
        names = ("regret", "moving", "cost", "quality", "correct")
        self.final = {name: np.zeros(repetitions) for name in names}
        self.course = {name: np.zeros(shape) for name in self.final}
        self.arms = np.zeros((len(self.rounds), exits.shape[1]))  # played since the point before
        self.exit_share = np.zeros(seen.cost.shape[1])

    def add(self, block: Block, arms: Exits) -> None:
        """Take in a block of rounds."""
        rounds = np.arange(block.first, block.first + len(arms))
        shares = self._baseline.schedule.shares(rounds)
        reference = shares @ self._baseline.means
        taken = self._exits[block.row, arms].astype(np.int64)
        if self._contextual:
            mine = self._seen.gain[block.row, taken] - block.overhead * self._seen.load[taken]
        else:
            mine = np.take_along_axis(shares @ self._means, arms.astype(np.int64), axis=1)
        found = {
            "regret": reference[:, [self._baseline.best]] - mine,
            "moving": reference.max(axis=1, keepdims=True) - mine,
            "cost": self._seen.cost[block.row, taken],
        }
        for name in ("quality", "correct"):
            known = getattr(self._seen, name)
            if known is not None:
                found[name] = known[block.row, taken]
        self.exit_share += np.bincount(taken.ravel(), minlength=len(self.exit_share))
        here = (self.rounds > block.first) & (self.rounds <= block.first + len(arms))
        at = self.rounds[here] - block.first - 1
        for name, values in found.items():
            sums = self.final[name] + np.cumsum(values, axis=0)
            self.course[name][here] = sums[at]
            self.final[name] = sums[-1]
        which = np.searchsorted(self.rounds, rounds + 1)
        for point in np.unique(which):
            played = arms[which == point]
            self.arms[point] += np.bincount(played.ravel(), minlength=self.arms.shape[1])

    def shares(self) -> Floats:
        """Return the share of each arm between the points, (P, A)."""
        return self.arms / np.maximum(self.arms.sum(axis=1, keepdims=True), 1)

    def record(self) -> dict[str, Any]:
        """Return the means over repetitions with 95 % intervals (none of one repetition), JSON-able."""
        rounds, paid = self._baseline.schedule.rounds, self._seen.cost
        single = len(self.final["cost"]) < 2  # one repetition says nothing of its own spread
        found: dict[str, Any] = {}
        for name, label, scale, least, most in (
            ("regret", "regret", 1.0, -np.inf, np.inf),
            ("moving", "moving_regret", 1.0, -np.inf, np.inf),
            ("cost", "realised_cost", rounds, float(paid.min()), float(paid.max())),
            ("correct", "accuracy", rounds, 0.0, 1.0),
            ("quality", "quality", rounds, 0.0, 1.0),
        ):
            mean, half = (float(x) for x in interval(self.final[name] / scale))
            known = getattr(self._seen, name, 0) is not None
            found[label] = mean if known else None
            found[f"{label}_low"] = max(mean - half, least) if known and not single else None
            found[f"{label}_high"] = min(mean + half, most) if known and not single else None
        share, costs = self.exit_share / self.exit_share.sum(), self.final["cost"] / rounds
        ends = [float(costs.min()), float(costs.max())]  # over repetitions
        shares = None if self._seen.by_level else share.tolist()
        return {**found, "cost_range": ends, "exit_share": shares}


def interval(values: Floats) -> tuple[Floats, Floats]:
    """Return the mean of repetitions (..., R), and half its 95 % t interval: NaN for one repetition."""
    from scipy.stats import t

    count, mean = values.shape[-1], values.mean(axis=-1)
    if count < 2:
        return mean, np.full_like(mean, np.nan)
    return mean, float(t.ppf(0.975, count - 1)) * values.std(axis=-1, ddof=1) / count**0.5


def recovery(metrics: Metrics, baseline: RegretBaseline) -> list[int | None]:
    """Return how many rounds each sudden change takes to be made good; None: not before the next."""
    # When, over `WINDOW` rounds and all repetitions, the mean regret against the arm that is best now is at most a
    # quarter of what the arm that was best before would cost, or 0.01.
    plan, rounds, found = baseline.schedule, metrics.rounds, []
    moving = metrics.course["moving"].mean(axis=1)
    for change, end in pairwise([*plan.changes, plan.rounds]):
        before, now = plan.shares([change - 1, change]) @ baseline.means
        allowed = max(0.25 * float(now.max() - now[before.argmax()]), 0.01)
        points = np.flatnonzero((rounds > change) & (rounds <= end))
        since = np.searchsorted(rounds, np.maximum(rounds[points] - WINDOW, change))
        span = rounds[points] - rounds[since]
        rate = (moving[points] - moving[since]) / span
        made_good = (rate <= allowed) & (span >= min(WINDOW, end - change) * 0.9)
        found.append(int(rounds[points[made_good.argmax()]] - change) if made_good.any() else None)
    return found
