"""SMPyBandits and MABWiser as the benchmark plays them: one stream at a time, choose and learn.

They are no dependencies: ``pip install --no-deps SMPyBandits==0.9.7 mabwiser==2.7.4`` (MABWiser also
wants joblib, pandas and scikit-learn, which the extra ``fit`` brings).
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import math
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

_POLICIES = {
    "UCBalpha": ["UCBalpha"], "UCBV": ["UCBV"], "UCBVtuned": ["UCBVtuned"], "klUCB": ["klUCB"],
    "SlidingWindowUCB": ["SWUCB"], "DiscountedUCB": ["DiscountedUCB"], "Thompson": ["Thompson"],
    "Exp3": ["Exp3"],
}  # fmt: skip
Make = Callable[[int, int], "Peer"]  # (arms, seed) to a player


class Peer(Protocol):
    """A library's bandit on one stream."""

    def choose(self) -> int: ...

    def learn(self, arm: int, reward: float) -> None: ...


@cache
def smpybandits() -> Any:
    """Import SMPyBandits' policies, without the packages around them, which import what they plot with.

    It predates numpy 1.24 and scipy 1.12: names that these took away are put back.
    """
    import scipy.special

    if not hasattr(scipy.special, "btdtri"):
        scipy.special.btdtri = scipy.special.betaincinv  # type: ignore[attr-defined]
    spec = importlib.util.find_spec("SMPyBandits")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install --no-deps SMPyBandits==0.9.7 mabwiser==2.7.4")
    root = Path(spec.submodule_search_locations[0])
    for name in ("SMPyBandits", "SMPyBandits.Policies"):
        package = types.ModuleType(name)
        package.__path__ = [str(root.parent.joinpath(*name.split(".")))]
        sys.modules[name] = package
    found = types.SimpleNamespace()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for file, names in _POLICIES.items():
            module = importlib.import_module(f"SMPyBandits.Policies.{file}")
            for name in names:
                setattr(found, name, getattr(module, name))
    return found


class OfSMPyBandits:
    """One of its policies."""

    def __init__(self, policy: Any, seed: int) -> None:
        np.random.seed(seed)  # noqa: NPY002  it draws from numpy's and Python's global generators
        import random

        random.seed(seed)
        self._policy = policy
        policy.startGame()

    def choose(self) -> int:
        return int(self._policy.choice())

    def learn(self, arm: int, reward: float) -> None:
        self._policy.getReward(arm, reward)


class OfMABWiser:
    """One of its learning policies; it must be fitted before it predicts, so each arm comes once."""

    def __init__(self, policy: Any, arms: int, seed: int) -> None:
        from mabwiser.mab import MAB

        self._mab = MAB(list(range(arms)), policy, seed=seed)
        self._first: list[int] = list(range(arms))
        self._seen: list[tuple[int, float]] = []

    def choose(self) -> int:
        return self._first[len(self._seen)] if self._first else int(self._mab.predict())

    def learn(self, arm: int, reward: float) -> None:
        if not self._first:
            self._mab.partial_fit([arm], [reward])
            return
        self._seen.append((arm, reward))
        if len(self._seen) == len(self._first):
            arms, rewards = zip(*self._seen, strict=True)
            self._mab.fit(list(arms), list(rewards))
            self._first = []


def mended(policies: Any) -> dict[str, Any]:
    """Return two of SMPyBandits' classes with the formula of the paper in place of theirs."""

    class Tuned(policies.UCBVtuned):
        """With the bound of 1/4 on the variance, which theirs leaves out."""

        def computeAllIndex(self) -> None:
            with np.errstate(all="ignore"):
                mean, log = self.rewards / self.pulls, math.log(max(self.t, 1))
                spread = self.rewardsSquared / self.pulls - mean**2 + np.sqrt(2 * log / self.pulls)
                index = mean + np.sqrt(log / self.pulls * np.minimum(0.25, spread))
            self.index[:] = np.where(self.pulls < 1, np.inf, index)

    class Discounted(policies.DiscountedUCB):
        """With counts that are no whole numbers and fade every round; theirs are cut to whole ones
        and fade when an arm is played."""

        def startGame(self) -> None:
            super().startGame()
            self.n, self.x = np.zeros(self.nbArms), np.zeros(self.nbArms)

        def getReward(self, arm: int, reward: float) -> None:
            self.t += 1
            self.n *= self.gamma
            self.x *= self.gamma
            self.n[arm] += 1
            self.x[arm] += reward

        def computeAllIndex(self) -> None:
            with np.errstate(all="ignore"):
                padding = np.sqrt(self.alpha * math.log(max(self.n.sum(), 1)) / (2 * self.n))
                index = self.x / self.n + padding
            self.index[:] = np.where(self.n <= 0, np.inf, index)

    return {"tuned": Tuned, "discounted": Discounted}


def contestants() -> list[tuple[str, str, dict[str, Any], str, Make]]:
    """Return (label, our bandit, its settings, whose, how theirs is made); parameters mapped exactly.

    Theirs takes ``sqrt(alpha ln t / (2 N))``: our c is ``sqrt(alpha / 2)``.
    """
    p = smpybandits()
    mend = mended(p)
    from mabwiser.mab import LearningPolicy

    def smp(make: Callable[[int], Any]) -> Make:
        return lambda arms, seed: OfSMPyBandits(make(arms), seed)

    def wise(make: Callable[[], Any]) -> Make:
        return lambda arms, seed: OfMABWiser(make(), arms, seed)

    one, two = "SMPyBandits", "MABWiser"
    return [
        ("UCB1, c = 1", "ucb1", {"c": 1.0}, one, smp(lambda a: p.UCBalpha(a, alpha=2))),
        ("UCB1, c = sqrt 2", "ucb1", {"c": math.sqrt(2)}, one, smp(lambda a: p.UCBalpha(a, alpha=4))),
        ("UCB1, c = sqrt 2", "ucb1", {"c": math.sqrt(2)}, two,
         wise(lambda: LearningPolicy.UCB1(alpha=1.0))),
        ("UCB-tuned", "ucb_tuned", {}, one, smp(lambda a: p.UCBVtuned(a))),
        ("UCB-tuned", "ucb_tuned", {}, f"{one}, mended", smp(lambda a: mend["tuned"](a))),
        ("UCB-V", "ucb_v", {}, one, smp(lambda a: p.UCBV(a))),
        ("KL-UCB", "kl_ucb", {}, one, smp(lambda a: p.klUCB(a, tolerance=1e-9))),
        ("SW-UCB, w = 1,000", "sliding_window_ucb", {"window": 1000, "xi": 0.6}, one,
         smp(lambda a: p.SWUCB(a, tau=1000, alpha=0.6))),
        ("D-UCB, 0.998", "discounted_ucb", {"discount": 0.998, "xi": 0.6}, one,
         smp(lambda a: p.DiscountedUCB(a, alpha=4.8, gamma=0.998))),
        ("D-UCB, 0.998", "discounted_ucb", {"discount": 0.998, "xi": 0.6}, f"{one}, mended",
         smp(lambda a: mend["discounted"](a, alpha=4.8, gamma=0.998))),
        ("Thompson, beta", "thompson", {"posterior": "beta"}, one, smp(lambda a: p.Thompson(a))),
        ("Thompson, beta", "thompson", {"posterior": "beta"}, two,
         wise(lambda: LearningPolicy.ThompsonSampling())),
        ("EXP3, gamma = 0.1", "exp3", {"gamma": 0.1}, one, smp(lambda a: p.Exp3(a, gamma=0.1))),
    ]  # fmt: skip
