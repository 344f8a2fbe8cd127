"""How a statistic moved, in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .reference import Ints, Reference


@dataclass(frozen=True)
class Movement:
    """One statistic: its evidence of a change, and how it looks since that evidence began.

    Attributes
    ----------
    statistic : str
    level : float
        Its sum as a share of the limit: an alarm at 1.
    direction : str
        ``lower``, ``higher``, ``wider`` or ``narrower`` of a score; ``exit 2 more often``.
    before, now : float
        Mean of the score, or its standard deviation where that moved more; share of the class or exit.
    since : int
        Request at which the evidence began: an estimate of when the change came.
    requests : int
        Of this statistic since then.
    """

    statistic: str
    level: float
    direction: str
    before: float
    now: float
    since: int
    requests: int

    def __str__(self) -> str:
        what = "share" if " " in self.direction else "mean"
        what = "spread" if self.direction in ("wider", "narrower") else what
        before, now = f"{self.before:.3g}", f"{self.now:.3g}"
        # Coins break ties: of rows that are all alike, they alone can raise an alarm, a false one.
        how = f"{self.direction}, {what} {before} -> {now}"
        how = f"no visible movement, {what} {now}," if before == now else how
        return f"{self.statistic}: {how} over {self.requests} requests since request {self.since}"


@dataclass(frozen=True)
class Alarm:
    """The inputs have changed.

    Attributes
    ----------
    request : int
        Number of the request that raised it, from 0.
    moved : Movement
        The statistic whose evidence is strongest.
    others : tuple of Movement
        The rest, strongest first.
    """

    request: int
    moved: Movement
    others: tuple[Movement, ...]

    def __str__(self) -> str:
        return f"drift at request {self.request}: {self.moved}"


def movement(
    reference: Reference,
    j: int,
    level: float,
    recent: Ints,
    moments: tuple[float, float],
    since: int,
) -> Movement:
    """Say how a statistic's recent requests differ from the reference.

    Parameters
    ----------
    reference : Reference
    j : int
    level : float
    recent : ndarray of shape (M,)
        Requests per cell since `since`.
    moments : (float, float)
        Sums of (score - reference mean) and of its square since then.
    since : int

    Returns
    -------
    Movement
    """
    n = int(recent.sum())
    if reference.columns[j] is not None:
        direction, before, now = _score(reference.moments[j], moments, n)
    else:
        direction, before, now = _share(reference, j, recent, n)
    return Movement(reference.names[j], level, direction, before, now, since, n)


def _score(
    usual: tuple[float, float], moments: tuple[float, float], n: int
) -> tuple[str, float, float]:
    mean, spread = (float(v) for v in usual)
    if not n:
        return "still", mean, mean
    shift = float(moments[0]) / n
    now = max(float(moments[1]) / n - shift**2, 0.0) ** 0.5
    # Standard errors that the mean and the logarithm of the spread lie away.
    away = abs(shift) / max(spread, 1e-12) * n**0.5
    ratio = abs(np.log(max(now, 1e-12) / max(spread, 1e-12))) * (2 * n) ** 0.5
    if n > 1 and ratio > away:
        return ("wider" if now > spread else "narrower"), spread, now
    return ("lower" if shift < 0 else "higher"), mean, mean + shift


def _share(reference: Reference, j: int, recent: Ints, n: int) -> tuple[str, float, float]:
    usual = reference.pool[j] / max(int(reference.pool[j].sum()), 1)
    share = recent / max(n, 1) if n else usual
    cell = int(np.abs(share - usual).argmax())
    how = "more often" if share[cell] > usual[cell] else "less often"
    return f"{reference.label(j, cell)} {how}", float(usual[cell]), float(share[cell])
