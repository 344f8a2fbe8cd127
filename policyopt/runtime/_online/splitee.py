"""SplitEE (Bajpai et al., AIMLSystems 2023, 2309.09195; I-SplitEE, 2401.10541, adds mu).

An arm is a split layer i of K. The device computes a sample up to exit i and looks at that exit
alone: with ``conf_i >= alpha`` the sample leaves there, else it is sent on to the last exit L, for
the price o of sending it. The reward needs no labels:

    conf_i - mu lambda_i          where conf_i >= alpha, or i = L
    conf_L - mu (lambda_i + o)    else

lambda_i is the cost of computing as far as exit i. alpha is fixed; the bandit learns where to split.

Side observations (SplitEE-S): the device can also look at the exits j < i on its way. The reward of
j is known where ``conf_j >= alpha``, and where the sample went to the last exit. Where it left at i
with ``conf_j < alpha`` it is not: conf_L was never computed. The released code takes it from a cache
of all exits all the same, which nothing that serves has. Here it is left out, and so what is known is
not missing at random: it lacks samples that exit j did not and exit i did resolve, which would have
paid o for a confident last exit. Arms before the one played look better than they are where o is
dear, and worse where it is cheap; `side` is off by default for that reason. Playing the last exit
shows every reward, whatever the sample: that is unbiased. Measured on the test rows of a 5-exit
cascade on CIFAR-10 (o = 0.05, 0.1, 0.2, 0.4, lambda rising to o, alpha 0.8, UCB1 with c = 1, 10,000
requests): exit 0 looks better by 0.007, 0.012, 0.020, 0.037 while exit 3 is played, and pseudo-regret
is 94, 117, 148, 192 with side observations, 69, 96, 133, 182 without: more of them does harm here.

Further departures: UCB1 is the one of `bandits` (c is beta); rewards are scaled to [0, 1] by the
least and the largest there can be, as all bandits here expect, so that their exploration is wider
by that range than in the released code; arms are first played largest first; I-SplitEE's released
loop enters updates several times, this does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._bandits.base import Steering, setting
from .._bandits.ucb import UCB1
from .._checks import check_least, check_positive
from .._errors import input_error
from .._typing import Floats, Ints
from .feedback import Seen, ascending, check_prices


@dataclass(frozen=True)
class SplitEE(Steering):
    """Learns up to which exit to compute before one confidence decides: leave, or the last exit.

    Parameters
    ----------
    layers : tuple of K floats
        lambda: what computing as far as each exit costs, in units of confidence; ascending, from 0.
    offload : float
        o: what sending a sample on to the last exit costs, in the same units.
    alpha : float
        The confidence from which a sample leaves, in (0, 1]. The paper has 0.7 to 0.85.
    mu : float
        Price of a unit of cost.
    side : bool
        Whether to learn from the exits before the split layer too; see above.
    beta : float
        Weight of exploration of UCB1, which chooses the split layer.

    Examples
    --------
    >>> rule = SplitEE(layers=(0.1, 0.2, 0.3), offload=0.2, alpha=0.8)
    >>> rule.exits(np.array([[0.6, 0.9, 0.95]]))
    array([[2, 1, 2]])
    """

    layers: tuple[float, ...]
    offload: float
    alpha: float = setting(0.8, check_positive, most=1.0)
    mu: float = setting(1.0, check_least)
    side: bool = False
    beta: float = setting(1.0, check_positive)

    name = "splitee"
    summary = "learns at which exit to choose between leaving and the last exit"
    reference = (
        "SplitEE (Bajpai et al., AIMLSystems 2023, 2309.09195; I-SplitEE, 2401.10541, adds mu)."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = ascending("layers", self.layers, "ascending numbers from 0 on", 0.0)
        object.__setattr__(self, "layers", layers)
        check_least("offload", self.offload)
        if not isinstance(self.side, bool):
            raise input_error("side", "true or false", self.side, "E.g. false.")

    def prices(self) -> tuple[list[float], list[float]]:
        """Return what a split layer costs where the sample leaves, and where it is sent on; K each."""
        own = [self.mu * cost for cost in self.layers]
        return own, [self.mu * (cost + self.offload) for cost in self.layers[:-1]] + own[-1:]

    def exits(self, confidence: Floats) -> Ints:
        """Return the exit of each row (n, K) for each split layer, (n, K)."""
        last = confidence.shape[1] - 1
        return np.where(confidence >= self.alpha, np.arange(last + 1), last)

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> SplitEEPlayer:
        """Return a player of a model with so many exits."""
        check_prices("layers", self.layers, arms)
        return SplitEEPlayer(self, seed, stream)


class SplitEEPlayer:
    """UCB1 on the split layers of one stream."""

    def __init__(self, rule: SplitEE, seed: int, stream: int) -> None:
        self.rule, self._last = rule, len(rule.layers) - 1
        self.bandit = UCB1(rule.beta).player(len(rule.layers), seed, stream)
        self._own, self._sent = rule.prices()
        self._least = -max(self._own + self._sent)
        self._width = 1.0 - min(self._own) - self._least

    def choose(self) -> int:
        """Return the split layer for the next request."""
        return self.bandit.choose()

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last: only at the split layer."""
        return at == seen.arm and seen.confidences[at] >= self.rule.alpha

    def rewards(self, seen: Seen) -> Iterator[tuple[int, float]]:
        """Yield the split layers whose rewards a request has shown, and these."""
        split, confidence = seen.arm, seen.confidences
        for j in range(0 if self.rule.side else split, split + 1):
            if j == self._last or confidence[j] >= self.rule.alpha:
                yield j, confidence[j] - self._own[j]
            elif seen.exit == self._last:
                yield j, confidence[self._last] - self._sent[j]

    def learn(self, seen: Seen, worth: Sequence[float]) -> None:
        """Take in the confidences seen; its reward has prices of its own."""
        del worth
        for j, reward in self.rewards(seen):
            self.bandit.learn(j, j, [0.0] * j + [(reward - self._least) / self._width])

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able: that of the bandit."""
        return self.bandit.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        self.bandit.restore(state)
