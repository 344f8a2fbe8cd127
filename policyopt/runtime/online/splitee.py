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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..bandits.parts.base import Bools, Ints
from ..bandits.ucb1 import UCB1
from ..checks import check_least, check_positive, plain_fields
from ..errors import input_error
from ..parameters import numbers
from ..typing import Floats


@dataclass(frozen=True)
class SplitEE:
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
    >>> confidence = np.array([[0.6, 0.9, 0.95]])
    >>> rule.exits(confidence), rule.rewards(confidence).round(2)
    (array([[2, 1, 2]], dtype=int16), array([[0.65, 0.7 , 0.65]]))
    """

    layers: tuple[float, ...]
    offload: float
    alpha: float = 0.8
    mu: float = 1.0
    side: bool = False
    beta: float = 1.0

    name: ClassVar[str] = "splitee"
    summary: ClassVar[str] = "learns at which exit to choose between leaving and the last exit"

    def __post_init__(self) -> None:
        plain_fields(self)
        layers = tuple(numbers("layers", self.layers, 1).tolist())
        if not layers or layers[0] < 0 or list(layers) != sorted(layers):
            raise input_error(
                "layers", "ascending numbers from 0 on", list(layers), "One per exit."
            )
        object.__setattr__(self, "layers", layers)
        check_least("offload", self.offload)
        check_positive("alpha", self.alpha, most=1.0)
        check_least("mu", self.mu)
        if not isinstance(self.side, bool):
            raise input_error("side", "true or false", self.side, "E.g. false.")
        check_positive("beta", self.beta)

    def prices(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return what a split layer costs where the sample leaves, and where it is sent on; (K,)."""
        sent = [self.mu * (cost + self.offload) for cost in self.layers]
        own = tuple(self.mu * cost for cost in self.layers)
        return own, (*sent[:-1], own[-1])

    def range(self) -> tuple[float, float]:
        """Return the least reward there can be, and the width up to the largest."""
        own, sent = self.prices()
        least = -max(max(own), max(sent))
        return least, 1.0 - min(own) - least

    def leaves(self, confidence: Floats) -> Bools:
        """Return where a sample would leave, were it split there, (n, K); at the last exit always."""
        found = confidence >= self.alpha
        found[:, -1] = True
        return found

    def exits(self, confidence: Floats) -> npt.NDArray[np.int16]:
        """Return the exit of each row for each split layer, (n, K)."""
        last = confidence.shape[1] - 1
        return np.where(self.leaves(confidence), np.arange(last + 1), last).astype(np.int16)

    def rewards(self, confidence: Floats) -> Floats:
        """Return the reward of each row for each split layer, (n, K), in units of confidence."""
        own, sent = (np.array(price) for price in self.prices())
        here = self.leaves(confidence)
        return np.where(here, confidence - own, confidence[:, -1:] - sent)

    def known(self, confidence: Floats, arm: Ints) -> Bools:
        """Return whose rewards playing `arm` (n,) shows, (n, K)."""
        layers = np.arange(confidence.shape[1])
        if not self.side:
            return layers == arm[:, None]
        here = self.leaves(confidence)
        last = ~np.take_along_axis(here, arm[:, None], axis=1) | (arm[:, None] == layers[-1])
        return (layers <= arm[:, None]) & (here | last)

    def one(self, seed: int = 0, stream: int = 0) -> OneSplitEE:
        """Return a player of one stream."""
        return OneSplitEE(self, seed, stream)

    def many(self, streams: int, seed: int = 0) -> ManySplitEE:
        """Return a player of R streams."""
        return ManySplitEE(self, streams, seed)


class OneSplitEE:
    """SplitEE on one stream.

    Examples
    --------
    >>> player = SplitEE((0.0, 0.1, 0.2), offload=0.1).one()
    >>> player.choose()
    2
    >>> player.learn([0.5, 0.6, 0.9], 0.9)
    >>> player.choose()
    1
    >>> player.leaves(1, 0.6)  # below alpha: on to the last exit
    False
    """

    def __init__(self, rule: SplitEE, seed: int, stream: int) -> None:
        self.rule = rule
        self.bandit = UCB1(rule.beta).one(len(rule.layers), seed, stream)
        self._own, self._sent = rule.prices()
        self._least, self._width = rule.range()

    def choose(self) -> int:
        """Return the split layer for the next request."""
        return self.bandit.choose()

    def leaves(self, split: int, confidence: float) -> bool:
        """Return whether a sample leaves at its split layer; else it goes to the last exit."""
        return split == len(self._own) - 1 or confidence >= self.rule.alpha

    def learn(self, confidence: Sequence[float], last: float | None = None) -> None:
        """Take in what a request has shown.

        Parameters
        ----------
        confidence : sequence of i + 1 floats
            Of exits 0 to i, the split layer; only that of i is read without `side`.
        last : float, optional
            Confidence at the last exit, where the sample went there.
        """
        split = len(confidence) - 1
        for j in range(0 if self.rule.side else split, split + 1):
            if self.leaves(j, confidence[j]):
                reward = confidence[j] - self._own[j]
            elif last is not None:
                reward = last - self._sent[j]
            else:
                continue
            rewards = [0.0] * j + [(reward - self._least) / self._width]
            self.bandit.learn(j, j, rewards)

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able: that of the bandit."""
        return self.bandit.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        self.bandit.restore(state)


class ManySplitEE:
    """SplitEE on R streams side by side."""

    def __init__(self, rule: SplitEE, streams: int, seed: int) -> None:
        self.rule = rule
        self.bandit = UCB1(rule.beta).many(len(rule.layers), streams, seed)
        self._least, self._width = rule.range()

    def choose(self) -> Ints:
        """Return the split layers for the next request of every stream, (R,)."""
        return self.bandit.choose()

    def learn(self, confidence: Floats, arm: Ints, arrives: Bools) -> None:
        """Take in one request per stream.

        Parameters
        ----------
        confidence : ndarray of shape (R, K)
            Of all exits; those that were not reached have no say.
        arm : ndarray of shape (R,)
            The split layers.
        arrives : ndarray of shape (R,), bool
        """
        seen = self.rule.known(confidence, arm) & arrives[:, None]
        rewards = (self.rule.rewards(confidence) - self._least) / self._width
        self.bandit.learn(seen, rewards)
