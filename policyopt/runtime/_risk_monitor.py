"""A watch on the promise "the mean loss is `most` or less", beside a deployed policy; numpy only.

Bets against the promise, stakes chosen before each loss is seen: while it holds, whoever bets owns 1 in the mean at
most, at any time, so ``P(ever 1 / delta or more) <= delta`` (Ville). That holds for requests that are independent, and
wherever the mean given all that was before is `most` or less; labels may be late, or lack for reasons of no account.

Wealth is divided over stakes, since nobody knows how bad it gets, and over the time when it begins: half bets from the
first loss on, the rest is put in as time goes by, ``1 / (2 log(e + t))`` of it left at loss t. What begins at t costs
about ``log t`` more: of a risk that doubles at once, 1.3 times the shortest delay there is, ``log(1 / delta)``
over the divergence; after 10,000 good requests 3.9 to 4.9 times. (A mixture of e-processes is one: Ramdas, Gruenwald,
Vovk & Shafer, Statist. Sci. 38, 2023; sums over starts as in Shin, Ramdas & Rinaldo, NEJSDS 2024, with weights that sum
to 1 instead of a limit on the run length.)

The running interval is a confidence sequence of the mean loss by hedged betting (Waudby-Smith & Ramdas, JRSS B 86,
2024, section 4.3): it holds at all times at once while the mean stays the same.

Audits: where a loss is seen with a known probability only, it counts one over that, and an unseen one 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arithmetic import coin
from ._errors import input_error
from ._saved_state import check_fields, refused, saved_counts, saved_numbers
from ._typing import Bools, Floats

_STAKES, _MEANS = 12, 256
_MOST = 1e300  # wealth stops there: a bet that stops winning stays fair or worse
_TRUNCATED = 0.5  # of what a hedged bet may stake
_FORMAT = "policyopt-risk-monitor"
_FIELDS = (
    "format", "version", "most", "low", "high", "confidence", "least", "losses", "wealth", "sums", "hedged",
    "alarm",
)  # fmt: skip


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


def owned(wealth: Floats, t: int) -> Floats:
    """Return what a bettor owns after t losses: the e-value, (...)."""
    return np.asarray(wealth.mean(axis=-1) + left_at(t))


def audited(seed: int, samples: npt.ArrayLike, share: npt.ArrayLike) -> Bools:
    """Return which requests, by their numbers, also run the full model: a coin of `share`, (N,) or one for all."""
    chance = np.asarray(share, dtype=np.float64)
    if not ((chance > 0) & (chance <= 1)).all():
        raise input_error("share", "above 0, at most 1", share, "E.g. 0.01.")
    return np.asarray(coin(seed, np.asarray(samples)) < chance)


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
        for name, value in {"most": most, "low": low, "high": high}.items():
            if not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
                raise input_error(name, "a finite number", value)
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
        self._wealth = np.zeros(_STAKES)
        self._count = 0
        self._sums = np.zeros(2)  # of losses as scaled, and of squares about their running mean
        self._hedged = np.zeros(
            (2, _MEANS)
        )  # log wealth of those who bet that the mean is more, or less
        self._alarm: RiskAlarm | None = None

    @property
    def losses(self) -> int:
        """How many losses were seen, those that an audit passed over included."""
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
        limit = math.log(2 / (1 - self.confidence))
        means = _means()
        possible = means[(self._hedged < limit).all(axis=0)]
        if not len(possible):  # the mean has moved: no single one is left
            middle = self._sums[0] / max(self._count, 1)
            possible = np.array([middle])
        step = 0.5 / _MEANS
        ends = (possible[0] - step) / self.least, (possible[-1] + step) / self.least
        low, high = (self.low + (self.high - self.low) * float(np.clip(e, 0.0, 1.0)) for e in ends)
        return low, high

    def update(self, losses: npt.ArrayLike, probability: npt.ArrayLike = 1.0) -> RiskAlarm | None:
        """Take losses as they come, one or (N,); return the alarm once there is one.

        Parameters
        ----------
        losses : float or (N,) array
            NaN: not seen; left out where it was to be seen for certain, else 0 by its audit.
        probability : float or (N,) array
            With which each loss was to be seen: `audited` has drawn it, or 1.

        Raises
        ------
        InputError
            A loss outside its ends, a probability under `least`.
        """
        seen = np.atleast_1d(np.asarray(losses, dtype=np.float64))
        chance = np.broadcast_to(np.asarray(probability, dtype=np.float64), seen.shape)
        if seen.ndim != 1:
            raise input_error("losses", "one, or (N,)", f"shape {seen.shape}")
        known = ~np.isnan(seen)
        off = known & ((seen < self.low) | (seen > self.high))
        if off.any():
            allowed, got = f"from {self.low:g} to {self.high:g}", f"{seen[off][0]:g}"
            raise input_error(
                "losses", allowed, got, "State low and high where they may be others."
            )
        if not ((chance >= self.least) & (chance <= 1)).all():
            step = "State the least at the start: RiskMonitor(..., least=0.01)."
            raise input_error("probability", f"from {self.least:g} to 1", float(chance.min()), step)
        scaled = np.where(known, (seen - self.low) / (self.high - self.low) / chance, 0.0)
        for value in scaled[known | (chance < 1)].tolist():
            self._one(value)
        return self._alarm

    def _one(self, value: float) -> None:
        self._count += 1
        self._wealth = advance(self._wealth, np.array(value), self._at, self._count)
        self._hedge(value * self.least)
        if self._alarm is None and self.e_value >= 1 / (1 - self.confidence):
            self._alarm = RiskAlarm(self._count, self.e_value, self.risk)

    def _hedge(self, value: float) -> None:
        """Let both hedgers bet on one more loss in [0, 1] about each mean."""
        t, means = self._count, _means()
        variance = (0.25 + self._sums[1]) / t  # of those before, and one more
        stake = (2 * math.log(2 / (1 - self.confidence)) / (variance * t * math.log(1 + t))) ** 0.5
        for side, sign in enumerate((1.0, -1.0)):
            most = _TRUNCATED / (means if sign > 0 else 1 - means)
            self._hedged[side] += np.log1p(sign * np.minimum(stake, most) * (value - means))
        mean = (0.5 + self._sums[0] + value) / (t + 1)
        self._sums += (value, (value - mean) ** 2)

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
        found._sums = saved_numbers("sums", state["sums"], (2,), 0.0, 1e300).copy()
        found._hedged = saved_numbers("hedged", state["hedged"], (2, _MEANS), -1e300, 1e300).copy()
        if state["alarm"] is not None:
            count, e_value, low, high = saved_numbers(
                "alarm", state["alarm"], (4,), -1e300, 1e300
            ).tolist()
            found._alarm = RiskAlarm(int(count), e_value, (low, high))
        return found


def _means() -> Floats:
    return (np.arange(_MEANS) + 0.5) / _MEANS
