"""LinUCB, SplitEE and UEE-UCB as `Online` drives them: they say at each exit whether to leave.

Bandits and the controller choose a rung before a request starts; these look at what its exits show.
"""

from __future__ import annotations

from typing import Any, Protocol

from .linucb import LinUCB, OneLinUCB, context
from .splitee import OneSplitEE, SplitEE
from .uee_ucb import UEEUCB, OneUEEUCB

ByExit = LinUCB | SplitEE | UEEUCB
RULES: dict[str, type[ByExit]] = {rule.name: rule for rule in (LinUCB, SplitEE, UEEUCB)}


class Seen(Protocol):
    """What a request has shown so far, exit by exit; `arm` is what the driver chose at its start."""

    arm: int
    levels: list[float]
    predictions: list[int]
    exit: int | None


class LinUCBDriver:
    """Goes on as long as the model of the exit says so; it plans nothing at the start."""

    def __init__(self, player: OneLinUCB) -> None:
        self.player = player

    def choose(self) -> int:
        """Return 0."""
        return 0

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last."""
        return not self.player.go_on(at, _context(seen, at))

    def learn(self, seen: Seen, worth: list[float]) -> None:
        """Take in the worth of the exits seen, net of cost."""
        self.player.learn([_context(seen, k) for k in range(len(worth) - 1)], worth)


class SplitEEDriver:
    """Looks at one exit, the split layer, and leaves there or at the last one."""

    def __init__(self, player: OneSplitEE) -> None:
        self.player = player

    def choose(self) -> int:
        """Return the split layer."""
        return self.player.choose()

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last."""
        return at == seen.arm and self.player.leaves(at, seen.levels[at])

    def learn(self, seen: Seen, worth: list[float]) -> None:
        """Take in the confidences seen; its reward has prices of its own."""
        whole = seen.exit == len(self.player.rule.layers) - 1
        last = seen.levels[-1] if whole else None
        self.player.learn(seen.levels[: seen.arm + 1], last)


class UEEDriver:
    """Leaves at the exit chosen at the start."""

    def __init__(self, player: OneUEEUCB) -> None:
        self.player = player

    def choose(self) -> int:
        """Return the exit."""
        return self.player.choose()

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last."""
        return at == seen.arm

    def learn(self, seen: Seen, worth: list[float]) -> None:
        """Take in the predictions seen; no reward is needed."""
        self.player.learn(seen.predictions)


def driver(rule: ByExit, exits: int, seed: int, stream: int) -> Any:
    """Return who drives a rule on one stream of a model with K exits."""
    if isinstance(rule, LinUCB):
        return LinUCBDriver(rule.one(exits))
    if isinstance(rule, SplitEE):
        return SplitEEDriver(rule.one(seed=seed, stream=stream))
    return UEEDriver(rule.one())


def _context(seen: Seen, at: int) -> tuple[float, ...]:
    if at == 0:
        return context(seen.levels[0])
    same = float(seen.predictions[at] == seen.predictions[at - 1])
    return context(seen.levels[at], seen.levels[at - 1], same)
