"""Power of the procedures of a certificate, and false alarms and delays of the watch on it."""

from __future__ import annotations

import numpy as np
from _common import machine, table
from numpy.typing import NDArray

from policyopt._bounds import P_VALUES
from policyopt._testing import fallback, holm
from policyopt.runtime._risk_monitor import RiskMonitor, advance, audited, owned

Floats = NDArray[np.float64]
SIGNED = [
    name for name in P_VALUES if name not in ("binomial", "selective")
]  # of losses of -1, too
#: Of the power: the levels' risks, what is allowed, delta, and what is asked of the default per number of rows.
RISKS, MOST, DELTA = np.linspace(0, 0.2, 201), 0.05, 0.1
ASKED = {300: 0.64, 1000: 0.80, 5000: 0.90, 20_000: 0.945}
_NEAR = 80  # levels that betting is asked of: up to 0.08, past which nothing is shown


def drop_power(draws: int = 400) -> list[tuple[str, ...]]:
    """Return how often a true drop of 0, of answers 4 % of which differ, is shown to be at most 1 point at 90 %."""
    rng, out = np.random.default_rng(0), []
    for n in (300, 1000, 5000):
        losses = rng.choice([1.0, -1.0, 0.0], p=[0.02, 0.02, 0.96], size=(draws, n))
        p = {name: P_VALUES[name](losses, 0.01, low=-1.0, high=1.0, delta=0.1) for name in SIGNED}
        out.append((f"{n:,}", *(f"{100 * (v <= 0.1).mean():.0f}" for v in p.values())))
    return out


class OfCounts:
    """P-values of losses 0 and 1 by how many are 1: each count is tested once."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n = name, n
        self.known = np.full(n + 1, np.nan)

    def __call__(self, counts: NDArray[np.int64]) -> Floats:
        for count in np.unique(counts[np.isnan(self.known[counts])]).tolist():
            losses = (np.arange(self.n) < count).astype(float)[None]
            low = -1.0 if self.name == "ternary" else 0.0
            found = P_VALUES[self.name](losses, MOST, low=low, high=1.0, delta=DELTA)
            self.known[count] = found[0]
        return self.known[counts]


def shares_used(n: int, draws: int, few: int) -> dict[str, tuple[float, float, int]]:
    """Return the share of what is allowed that is used, how often too much, and the draws, per procedure.

    Loss of level j: a row's luck is under its risk. Betting, which needs the order of the rows, on `few` draws.
    """
    rng = np.random.default_rng([n, 3])
    tests = {
        name: OfCounts(name, n) for name in ("binomial", "ternary", "hoeffding_bentkus", "normal")
    }
    thirds = np.unique(np.linspace(0, len(RISKS), 3, endpoint=False).astype(int)).tolist()
    used: dict[str, list[float]] = {}
    for draw in range(draws):
        luck = rng.random(n)
        counts = np.searchsorted(np.sort(luck), RISKS)
        p = {name: test(counts) for name, test in tests.items()}
        if draw < few:
            p["betting"] = np.ones(len(RISKS))
            losses = (luck < RISKS[:_NEAR, None]).astype(float)
            p["betting"][:_NEAR] = P_VALUES["betting"](losses, MOST, high=1.0, delta=DELTA)
        found = {name: fallback(one, DELTA) for name, one in p.items()}
        found["binomial, 3 starts"] = fallback(p["binomial"], DELTA, thirds)
        found["binomial, Holm"] = holm(p["binomial"]) <= DELTA
        for name, shown in found.items():
            at = np.flatnonzero(shown)
            used.setdefault(name, []).append(float(RISKS[at[-1]]) / MOST if len(at) else 0.0)
    return {
        name: (float(np.mean(one)), float(np.mean(np.array(one) > 1 + 1e-9)), len(one))
        for name, one in used.items()
    }


def power(draws: int = 1000, few: int = 200) -> list[tuple[str, ...]]:
    """Return a line per procedure."""
    found = {n: shares_used(n, draws, few) for n in ASKED}
    lines = [("asked of the default", *(f"{v:g}" for v in ASKED.values()), "")]
    for name in ("binomial", *SIGNED, "binomial, 3 starts", "binomial, Holm"):
        each = [found[n][name] for n in ASKED]
        wrong = ", ".join(f"{100 * one[1]:.1f}" for one in each)
        lines.append((
            f"{name} ({each[0][2]:,} draws)", *(f"{one[0]:.3f}" for one in each), wrong
        ))  # fmt: skip
    return lines


def first_alarms(
    most: float, rates: tuple[float, float], good: int, losses: int, streams: int, deltas: tuple[float, ...]
) -> Floats:  # fmt: skip
    """Return after how many losses the watch alarms, at the first rate for `good` of them, (D, S); inf: never."""
    rng = np.random.default_rng(0)
    wealth, found = np.zeros((streams, 12)), np.full((len(deltas), streams), np.inf)
    limits = 1 / np.array(deltas)[:, None]
    for t in range(1, losses + 1):
        wealth = advance(wealth, (rng.random(streams) < rates[t > good]).astype(float), most, t)
        found[(owned(wealth, t) >= limits) & np.isinf(found)] = t
    return found


def delays(streams: int = 1000, requests: int = 100_000) -> list[tuple[str, ...]]:
    """Return false alarms at the border of the promise, and delays on a doubled risk over the shortest there is."""
    deltas, out = (0.1, 0.05), []
    for most in (0.01, 0.05, 0.2):
        bad = 2 * most
        divergence = bad * np.log(2) + (1 - bad) * np.log((1 - bad) / (1 - most))
        false = np.isfinite(first_alarms(most, (most, most), 0, requests, streams, deltas))
        once = first_alarms(most, (bad, bad), 0, 6_000, 400, deltas)
        late = first_alarms(most, (0.9 * most, bad), 10_000, 18_000, 400, deltas) - 10_000
        for i, delta in enumerate(deltas):
            shortest = np.log(1 / delta) / divergence
            ratios = [np.median(one[i][one[i] > 0]) / shortest for one in (once, late)]
            rate = f"{100 * false[i].mean():.1f}"
            out.append((f"{most:g}", f"{delta:g}", rate, *(f"{ratio:.2f}" for ratio in ratios)))
    return out


def intervals(streams: int = 100) -> list[tuple[str, ...]]:
    """Return the running interval of a risk at the promise, medians of its ends in %, and how often it ever misses."""
    rng, out = np.random.default_rng(0), []
    for most in (0.01, 0.05):
        ends, missed = np.empty((2, streams, 2)), 0
        for s in range(streams):
            monitor, off = RiskMonitor(most), False
            for i, more in enumerate((1000, 9000)):
                for _ in range(10):
                    monitor.update(rng.random(more // 10) < most)
                    off |= not monitor.risk[0] <= most <= monitor.risk[1]
                ends[i, s] = monitor.risk
            missed += off
        text = [f"{100 * low:.1f} to {100 * high:.1f}" for low, high in np.median(ends, axis=1)]
        out.append((f"{most:g}", *text, f"{100 * missed / streams:.0f}"))
    return out


def audits(
    streams: int = 300, share: float = 0.05, requests: int = 20_000
) -> list[tuple[str, ...]]:
    """Return requests and losses seen until a disagreement that doubled from 5 % is found: medians."""
    rng, found = np.random.default_rng(0), {"all labels": [], "audits": []}
    for s in range(streams):
        loss = (rng.random(requests) < 0.1).astype(float)
        seen = audited(s, np.arange(requests), share)
        for name, chance in (("all labels", 1.0), ("audits", share)):
            monitor = RiskMonitor(0.05, least=chance)
            alarm = monitor.update(np.where(seen, loss, np.nan) if chance < 1 else loss, chance)
            at = alarm.losses if alarm else np.inf
            place = np.flatnonzero(seen) if chance < 1 else np.arange(requests)
            found[name].append((place[int(at) - 1] + 1 if alarm else np.inf, at))
    return [
        (name, *(f"{value:,.0f}" for value in np.median(each, axis=0)))
        for name, each in found.items()
    ]


def figures() -> str:
    """Return all as a page."""
    parts = [
        table(
            "Share of what is allowed that is used", ("procedure", *(f"n = {n:,}" for n in ASKED), "wrong, %"), power()
        ),
        "Losses 0 or 1 of 201 nested levels with risks from 0 to 0.2, at most 0.05 with 90 %, one start unless told. "
        "*wrong*: draws in which a level over 0.05 is certified, per n. "
        f"Betting is asked of the first {_NEAR} levels, which changes nothing: it stops long before.",
        table(
            "A drop of 0 shown to be at most 1 point, % of draws", ("rows", *SIGNED), drop_power()
        ),
        "Answers of 4 % of the rows differ, half of them for the better; one level, 90 %, 400 draws.",
        table(
            "RiskMonitor: alarms and delays",
            ("promised risk", "delta", "false alarms, %", "delay at once", "delay after 10,000 good"),
            delays(),
        ),
        "False alarms: 1,000 streams of 100,000 requests at the border of the promise. Delays on a doubled risk: "
        "medians of 400 streams over log(1 / delta) / KL, after nothing and after 10,000 requests at nine tenths of "
        "the promised risk (streams that had alarmed before are left out).",
        table(
            "RiskMonitor: the running interval at 95 %, %",
            ("risk and promise", "after 1,000 losses", "after 10,000", "ever missed, % of streams"), intervals(),
        ),
        "Medians of 100 streams, looked at 20 times.",
        table(
            "RiskMonitor: a disagreement that doubled from 5 %",
            ("seen", "requests until the alarm", "losses seen"), audits(),
        ),
        "Medians of 300 streams; audits of 5 % of the requests.",
    ]  # fmt: skip
    body = "\n\n".join(parts)
    return f"# Power and delays\n\n{body}\n\n{machine()}\n"
