"""A watch on the promise "the mean loss is `most` or less", beside a deployed policy; numpy only.

Bets against the promise, stakes chosen before each loss is seen: while it holds, whoever bets owns 1 in the mean at
most, at any time, so ``P(ever 1 / delta or more) <= delta`` (Ville). That holds for requests that are independent, and
wherever the mean given all that was before is `most` or less; labels may be late, or lack for reasons of no account.

Wealth is divided over stakes, since nobody knows how bad it gets, and over the time when it begins: half bets from the
first loss on, the rest is put in as time goes by, ``1 / (2 log(e + t))`` of it left at loss t. What begins at t costs
about ``log t`` more: of a risk that doubles at once, 1.3 times the shortest delay there is, ``log(1 / delta)``
over the divergence; after 10,000 good requests 3.8 to 6.1 times. (A mixture of e-processes is one: Ramdas, Gruenwald,
Vovk & Shafer, Statist. Sci. 38, 2023; sums over starts as in Shin, Ramdas & Rinaldo, NEJSDS 2024, with weights that sum
to 1 instead of a limit on the run length.)

The running interval is a confidence sequence of the mean loss by hedged betting (Waudby-Smith & Ramdas, JRSS B 86,
2024, section 4.3): it holds at all times at once while the mean stays the same.

Audits: where a loss is seen with a known probability only, what is bet on it is weighted by `least` over that, and
nothing is bet on an unseen one. So chance adds no spread of its own: with the same probability for all, audits say as
much as as many losses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arithmetic import coin
from ._checks import check_seed, sample_numbers, to_python
from ._errors import input_error
from ._saved_state import check_fields, refused, saved_counts, saved_numbers
from ._typing import Bools, Floats

_STAKES, _MEANS = 12, 256
_BLOCK = 512  # losses taken at a time
_MOST = 1e300  # wealth stops there: a bet that stops winning stays fair or worse
_FARTHEST, _NEAREST = 1e100, 1e-12
_AUDIT = 1 << 21  # stream of the coin: no policy draws it, whose sides audits are to see alike
_TRUNCATED = 0.5  # of what a hedged bet may stake
_FORMAT = "policyopt-risk-monitor"
_FIELDS = (
    "format", "version", "most", "low", "high", "confidence", "least", "losses", "wealth", "sums", "hedged",
    "alarm",
)  # fmt: skip


@lru_cache(maxsize=64)
def stakes_of(most: float) -> Floats:
    """Return what is staked on losses in [0, 1], (I,): from a little to nearly all."""
    return np.geomspace(min(0.02 / most, 0.25), 0.95 / most, _STAKES)


def left_at(t: Any) -> Any:
    """Return the share of the wealth that has not been put in at loss t; 1 before the first."""
    return np.where(np.asarray(t) == 0, 1.0, 0.5 / np.log(np.e + t))


def advance(wealth: Floats, losses: Floats, most: float, t: int) -> Floats:
    """Return the wealth of each stake, (..., I), after loss t >= 1, each in [0, 1], or more by an audit: (...)."""
    put_in = float(left_at(t - 1) - left_at(t))
    won = 1.0 + stakes_of(most) * (np.asarray(losses)[..., None] - most)
    return np.minimum((wealth + put_in) * won, _MOST)


def owned(wealth: Floats, t: Any) -> Floats:
    """Return what a bettor owns after t losses: the e-value, (...)."""
    return np.asarray(wealth.mean(axis=-1) + left_at(t))


def audited(seed: int, samples: npt.ArrayLike, share: npt.ArrayLike) -> Bools:
    """Return which requests, by their numbers, also run the full model: a coin of `share`, (N,) or one for all."""
    chance, at = _floats("share", share), sample_numbers(samples)
    if chance.ndim and chance.shape != at.shape:
        raise input_error("share", "one, or one of each sample", f"shape {chance.shape}")
    if not ((chance > 0) & (chance <= 1)).all():
        raise input_error("share", "above 0, at most 1", share, "E.g. 0.01.")
    return np.asarray(coin(check_seed(seed), at, _AUDIT) < chance)


def _floats(name: str, value: Any) -> Floats:
    """Return numbers as float64, refused where they are none."""
    try:
        found = np.asarray(value)
        return found.astype(np.float64, casting="unsafe" if found.dtype == object else "same_kind")
    except (TypeError, ValueError, OverflowError) as error:
        raise input_error(name, "numbers", str(error)) from error


@dataclass(frozen=True)
class RiskAlarm:
    """Why a promise is not believed any more: after how many losses, and what is owned by betting against it."""

    losses: int
    e_value: float
    risk: tuple[float, float]  # interval of the mean loss since the first

    def __str__(self) -> str:
        low, high = self.risk
        return (
            f"the promise is broken: e-value {self.e_value:.3g} after {self.losses:,} losses, "
            f"their mean {low:.4g} to {high:.4g}"
        )


class RiskMonitor:
    """Watch that a mean loss stays at `most` or below; alarms with chance 1 - confidence at most, ever, if it does.

    Parameters
    ----------
    most : float
        What the mean loss was promised to be at most.
    low, high : float
        Between which each loss lies: 0 and 1; -1 and 1 of a drop; of a cost its ends.
    confidence : float
        0.95: in one of twenty deployments that keep the promise an alarm may ever come.
    least : float
        The least probability with which a loss is seen, where that varies between requests.

    Examples
    --------
    >>> import numpy as np
    >>> from policyopt.runtime import RiskMonitor
    >>> monitor = RiskMonitor(0.05)
    >>> rng = np.random.default_rng(0)
    >>> monitor.update(rng.random(2000) < 0.04)
    >>> monitor.update(rng.random(2000) < 0.10).losses
    2168
    """

    def __init__(
        self,
        most: float,
        *,
        low: float = 0.0,
        high: float = 1.0,
        confidence: float = 0.95,
        least: float = 1.0,
    ) -> None:
        given = {"most": most, "low": low, "high": high, "confidence": confidence, "least": least}
        for name, value in given.items():
            value = to_python(value)
            if not isinstance(value, (int, float)) or not abs(value) <= _FARTHEST:
                raise input_error(name, f"a number, {_FARTHEST:g} at most", value)
        if not low < most < high:
            got = f"{most:g} of {low:g} to {high:g}"
            raise input_error("most", "between low and high", got, "E.g. RiskMonitor(0.05).")
        if not 0.5 <= confidence < 1:
            raise input_error("confidence", "from 0.5 to below 1", confidence, "E.g. 0.95.")
        if not 0 < least <= 1:
            raise input_error("least", "above 0, at most 1", least, "1: all losses are seen.")
        self.most, self.low, self.high = float(most), float(low), float(high)
        self.confidence, self.least = float(confidence), float(least)
        self._at = (self.most - self.low) / (self.high - self.low)
        if not _NEAREST < self._at < 1 - _NEAREST:
            allowed = f"more than {_NEAREST:g} of the way from both ends, {low:g} and {high:g}"
            raise input_error("most", allowed, f"{most:g}", "State ends that are met.")
        self._wealth = np.zeros(_STAKES)
        self._count = 0
        self._sums = np.zeros(3)  # of weights, weighted losses, their squares about the mean
        # Log wealth of those who bet that the mean is more, or less, than each of these: closest at the promise.
        self._hedged = np.zeros((2, _MEANS))
        near = ((np.arange(_MEANS // 2) + 0.5) / (_MEANS // 2)) ** 3
        below, above = self._at * (1 - near[::-1]), self._at + (1 - self._at) * near
        self._means = np.concatenate([below, above])
        self._most_staked = _TRUNCATED / np.stack([self._means, 1 - self._means])
        self._alarm: RiskAlarm | None = None

    @property
    def losses(self) -> int:
        """How many losses were seen."""
        return self._count

    @property
    def e_value(self) -> float:
        """What betting against the promise has made of 1."""
        return float(owned(self._wealth, self._count))

    @property
    def alarm(self) -> RiskAlarm | None:
        """The first alarm; None while the promise is believed."""
        return self._alarm

    @property
    def risk(self) -> tuple[float, float]:
        """The running interval of the mean loss, at `confidence` for all times together."""
        less, more = self._hedged >= math.log(2 / (1 - self.confidence))
        low, high = self._means[less].max(initial=0.0), self._means[more].min(initial=1.0)
        if low >= high:  # the mean has moved: no single one is left
            low = high = self._sums[1] / self._sums[0]
        low, high = (self.low + (self.high - self.low) * float(end) for end in (low, high))
        return low, high

    def update(self, losses: npt.ArrayLike, probability: npt.ArrayLike = 1.0) -> RiskAlarm | None:
        """Take losses as they come, one or (N,); return the alarm once there is one.

        Parameters
        ----------
        losses : float or (N,) array
            NaN: not seen, and left out.
        probability : float or (N,) array
            With which each loss was to be seen: `audited` has drawn it, or 1.

        Raises
        ------
        InputError
            A loss outside its ends, a probability under `least`.
        """
        seen = np.atleast_1d(_floats("losses", losses))
        chance = _floats("probability", probability)
        if seen.ndim != 1:
            raise input_error("losses", "one, or (N,)", f"shape {seen.shape}")
        if chance.shape not in ((), (1,), seen.shape):
            raise input_error("probability", "one, or one of each loss", f"shape {chance.shape}")
        chance = np.broadcast_to(chance, seen.shape)
        known = ~np.isnan(seen)
        off = known & ((seen < self.low) | (seen > self.high))
        if off.any():
            allowed, got = f"from {self.low:g} to {self.high:g}", f"{seen[off][0]:g}"
            raise input_error("losses", allowed, got, "State low and high where they are others.")
        wrong = known & ~((chance >= self.least) & (chance <= 1))
        if wrong.any():
            step = "State the least of all at the start: RiskMonitor(..., least=0.01), or --least 0.01."
            got = f"{chance[wrong][0]:g}"
            raise input_error("probability", f"from {self.least:g} to 1", got, step)
        scaled, weight = (seen - self.low) / (self.high - self.low), self.least / chance
        rows = np.flatnonzero(known)
        for first in range(0, len(rows), _BLOCK):
            block = rows[first : first + _BLOCK]
            self._take(scaled[block], weight[block])
        return self._alarm

    def _take(self, losses: Floats, weights: Floats) -> None:
        """Take losses in [0, 1] and their weights, (n,): as one by one, to the bit."""
        found, before = self._bet(losses, weights), self._count
        over = np.flatnonzero(found >= 1 / (1 - self.confidence))
        cut = int(over[0]) + 1 if len(over) and self._alarm is None else 0
        if cut:
            self._hedge(losses[:cut], weights[:cut])
            self._alarm = RiskAlarm(before + cut, float(found[cut - 1]), self.risk)
        self._hedge(losses[cut:], weights[cut:])

    def _bet(self, losses: Floats, weights: Floats) -> Floats:
        """Bet on losses against the promise; return what is owned after each, (n,)."""
        t = self._count + np.arange(len(losses) + 1)
        won = 1.0 + stakes_of(self._at) * ((losses - self._at) * weights)[:, None]
        wealth, course = self._wealth.copy(), np.empty_like(won)
        with np.errstate(over="ignore"):  # of promises near 0
            for i, put_in in enumerate((-np.diff(left_at(t))).tolist()):
                wealth += put_in
                wealth *= won[i]
                course[i] = np.minimum(wealth, _MOST, out=wealth)
        self._wealth = wealth
        return owned(course, t[1:])

    def _hedge(self, losses: Floats, weights: Floats) -> None:
        """Let both hedgers bet on more losses about each mean; stakes look at those before alone."""
        if not len(losses):
            return
        t = self._count + np.arange(1, len(losses) + 1)
        weight, total = (
            np.cumsum([carried, *each])
            for carried, each in zip(self._sums, (weights, weights * losses), strict=False)
        )
        mean = (0.5 + total[1:]) / (1 + weight[1:])
        squares = np.cumsum([self._sums[2], *(weights * (losses - mean)) ** 2])
        variance = (0.25 + squares[:-1]) / t
        stake = np.sqrt(2 * math.log(2 / (1 - self.confidence)) / (variance * t * np.log1p(t)))
        gain = (losses[:, None] - self._means) * weights[:, None]
        for hedged, most, way in zip(self._hedged, self._most_staked, (gain, -gain), strict=True):
            won = np.minimum(stake[:, None], most)
            won *= way
            won += 1.0
            np.log(won, out=won)
            won[0] += hedged
            hedged[:] = won.sum(axis=0)
        self._sums = np.array([weight[-1], total[-1], squares[-1]])
        self._count += len(losses)

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs, JSON-able."""
        alarm = self._alarm
        return {
            "format": _FORMAT, "version": 1, "most": self.most, "low": self.low, "high": self.high,
            "confidence": self.confidence, "least": self.least, "losses": self._count,
            "wealth": self._wealth.tolist(), "sums": self._sums.tolist(), "hedged": self._hedged.tolist(),
            "alarm": None if alarm is None else [alarm.losses, alarm.e_value, *alarm.risk],
        }  # fmt: skip

    @classmethod
    def restore(cls, state: Any) -> RiskMonitor:
        """Return the monitor whose `state` this was."""
        check_fields("a risk monitor", state, _FIELDS)
        if state["format"] != _FORMAT or state["version"] != 1:
            raise refused("format", f"{_FORMAT}, version 1", state["format"])
        ends = ("most", "low", "high", "confidence", "least")
        most, *others = saved_numbers(
            "ends", [state[name] for name in ends], (5,), -1e300, 1e300
        ).tolist()
        found = cls(most, **dict(zip(ends[1:], others, strict=True)))
        (found._count,) = saved_counts("losses", [state["losses"]], 1)
        found._wealth = saved_numbers("wealth", state["wealth"], (_STAKES,), 0.0, _MOST).copy()
        found._sums = saved_numbers("sums", state["sums"], (3,), 0.0, 1e300).copy()
        found._hedged = saved_numbers("hedged", state["hedged"], (2, _MEANS), -1e300, 1e300).copy()
        if state["alarm"] is not None:
            count, e_value, low, high = saved_numbers(
                "alarm", state["alarm"], (4,), -1e300, 1e300
            ).tolist()
            found._alarm = RiskAlarm(int(count), e_value, (low, high))
        return found
