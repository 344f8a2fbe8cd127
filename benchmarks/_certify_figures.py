"""Power of the procedures of a certificate, and false alarms and delays of the watch on it."""

from __future__ import annotations

import numpy as np
from _common import machine, table
from numpy.typing import NDArray

from policyopt._certificates.bounds import P_VALUES
from policyopt.runtime._risk_monitor import advance, owned

Floats = NDArray[np.float64]


def drop_power(draws: int = 400) -> list[tuple[str, ...]]:
    """Return how often a true drop of 0, of answers 4 % of which differ, is shown to be at most 1 point at 90 %."""
    rng, out = np.random.default_rng(0), []
    for n in (300, 1000, 5000):
        losses = rng.choice([1.0, -1.0, 0.0], p=[0.02, 0.02, 0.96], size=(draws, n))
        p = {name: test(losses, 0.01, low=-1.0, high=1.0, delta=0.1) for name, test in P_VALUES.items()
             if name != "binomial"}  # fmt: skip
        out.append((f"{n:,}", *(f"{100 * (v <= 0.1).mean():.0f}" for v in p.values())))
    return out


def delays(streams: int = 400, delta: float = 0.05) -> list[tuple[str, ...]]:
    """Return false alarms within 20,000 losses, and delays on a doubled risk over the shortest there is."""
    rng, out = np.random.default_rng(0), []

    def first(most: float, rates: tuple[float, float], good: int, losses: int) -> Floats:
        wealth, found = np.zeros((streams, 12)), np.full(streams, np.inf)
        for t in range(1, losses + 1):
            wealth = advance(wealth, (rng.random(streams) < rates[t > good]).astype(float), most, t)
            found[(owned(wealth, t) >= 1 / delta) & np.isinf(found)] = t
        return found

    for most in (0.01, 0.05, 0.2):
        bad = 2 * most
        divergence = bad * np.log(2) + (1 - bad) * np.log((1 - bad) / (1 - most))
        shortest = np.log(1 / delta) / divergence
        false = np.isfinite(first(most, (most, most), 0, 20_000)).mean()
        once = np.median(first(most, (bad, bad), 0, 6_000)) / shortest
        late = (np.median(first(most, (0.9 * most, bad), 10_000, 16_000)) - 10_000) / shortest
        out.append((f"{most:g}", f"{100 * false:.1f}", f"{once:.2f}", f"{late:.2f}"))
    return out


def figures() -> str:
    """Return both as a page."""
    names = [name for name in P_VALUES if name != "binomial"]
    power = table(
        "A drop of 0 shown to be at most 1 point, % of draws", ("rows", *names), drop_power()
    )
    header = ("promised risk", "false alarms, %", "delay at once", "delay after 10,000 good")
    slow = table("RiskMonitor: alarms at 95 %, delays over log(1/delta) / KL", header, delays())
    return f"# Power and delays\n\n{power}\n\n{slow}\n\n{machine()}\n"
