"""Are certificates wrong as seldom as they say? Monte Carlo; resumable.

A draw is n calibration losses of L levels whose true mean risks are known. A procedure goes through the levels from the
safest to the cheapest and certifies the cheapest that it reaches; it is wrong where the true risk of that level is over
`most`. Shapes of the true risks:

- *border*: all of the cheaper half lie at `most` or a hair over it, the rest under it;
- *rising*: from 0 to four times `most`, the cheaper the more;
- *overthinking*: as rising, with a stretch of safe levels among the cheap and a bad one among the safe.

Losses: 0 or 1 (`error`); -1, 0, 1 (`drop`); with heavy tails in [0, 1]; means of groups of 1 to 20 rows that share
their luck. Procedures: the default of `policyopt certify`; betting; Hoeffding-Bentkus; the normal's; and two that are
to fail: *as published* (RC-EENN's released walk deploys the first level that fails; arXiv:2405.20915), and *rows*,
where each of a group's rows counts as one. In brackets the share of `most` that the certified level uses in the mean.

    python benchmarks/certify.py [--draws 1000]
    python benchmarks/certify.py --figures    # power of a drop, delays of the monitor
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, table
from numpy.typing import NDArray

from policyopt._bounds import P_VALUES, default_of
from policyopt._certificates.testing import fallback
from policyopt.runtime._risk_monitor import advance, owned

OUT = Path(__file__).parent / "results" / "certify.jsonl"
Floats = NDArray[np.float64]
ROWS, LEVELS, MOST = (300, 1000, 5000, 20_000), (2, 4, 12, 30), 0.05
DELTAS = (0.1, 0.05)
_BLOCK = 50  # draws to a line


def risks_of(shape: str, levels: int) -> Floats:
    """Return the true mean risks of levels in the order of the test, the safest first."""
    place = np.linspace(0, 1, levels)
    if shape == "border":
        return np.where(place < 0.5, 0.8 * MOST, MOST * 1.0001)
    rising = 4 * MOST * place
    if shape == "overthinking" and levels > 3:
        rising[levels // 4] = 1.5 * MOST
        rising[-(levels // 3) : -1] = 0.3 * MOST
    return rising


def _errors(rng: np.random.Generator, risks: Floats, n: int) -> Floats:
    """Return losses 0 or 1 of levels that share their luck, (L, n)."""
    return (rng.random(n) < risks[:, None]).astype(float)


def _drops(rng: np.random.Generator, risks: Floats, n: int) -> Floats:
    """Return losses -1, 0, 1: 0.03 of the rows are won back by stopping early."""
    luck = rng.random(n)
    return (luck < risks[:, None] + 0.03).astype(float) - (luck > 0.97)


def _heavy(rng: np.random.Generator, risks: Floats, n: int) -> Floats:
    """Return losses in [0, 1] that are nearly always small: a Beta of shape 0.05."""
    risks = np.clip(risks, 1e-6, 1.0)
    a = 0.05
    return np.stack([rng.beta(a, a * (1 - r) / r, n) for r in risks])


def _groups(rng: np.random.Generator, risks: Floats, n: int) -> Floats:
    """Return mean losses of n groups, whose own risks are spread: a Beta about each level's."""
    sizes = rng.integers(1, 21, n)
    spread, risks = 0.5, np.clip(risks, 1e-6, 1 - 1e-6)
    return np.stack([
        rng.binomial(sizes, rng.beta(spread * r, spread * (1 - r), n)) / sizes for r in risks
    ])  # fmt: skip


LOSSES: dict[str, tuple[str, float, Callable[..., Floats]]] = {
    "0 or 1": ("binary", 0.0, _errors), "-1, 0, 1": ("ternary", -1.0, _drops),
    "heavy tail": ("bounded", 0.0, _heavy), "groups": ("bounded", 0.0, _groups),
}  # fmt: skip


def certified(name: str, losses: Floats, kind: str, low: float, delta: float) -> int:
    """Return the place of the level that a procedure certifies, -1 for none."""
    most = MOST
    if name == "as published":
        clipped = np.maximum(losses, 0.0)
        p = P_VALUES["betting"](clipped, most, high=1.0, delta=delta)
        return min(int(fallback(p, delta).sum()), len(p) - 1)  # the first that fails
    if name == "rows":  # as if each of a group's ten equal rows stood alone
        p = P_VALUES["betting"](np.repeat(losses, 10, axis=1), most, high=1.0, delta=delta)
    else:
        test = P_VALUES[default_of(kind, losses.shape[1], most, delta) if name == "default" else name]
        p = test(losses, most, low=low, high=1.0, delta=delta)
    return int(fallback(p, delta).sum()) - 1


def cells() -> list[tuple[str, str, int, int, float]]:
    """Return losses, shape of the risks, levels, rows and delta of each cell."""
    return [
        (losses, shape, levels, n, delta)
        for n in ROWS
        for losses in LOSSES
        for shape in ("border", "rising", "overthinking")
        for levels in (LEVELS if losses == "0 or 1" and n <= 1000 else (12,))
        for delta in DELTAS
        if not (n == max(ROWS) and delta != DELTAS[0])
    ]


def procedures(losses: str) -> list[str]:
    names = ["default", "betting", "hoeffding_bentkus", "normal", "as published"]
    return [*names, "rows"] if losses == "groups" else names


def block(cell: tuple[str, str, int, int, float], number: int) -> dict[str, Any]:
    """Return how often each procedure was wrong in some draws, and what it used."""
    losses, shape, levels, n, delta = cell
    kind, low, make = LOSSES[losses]
    risks = risks_of(shape, levels)
    key = [number, n, levels, list(LOSSES).index(losses), len(shape), round(1000 * delta)]
    rng = np.random.default_rng(key)
    wrong, used = ({name: 0.0 for name in procedures(losses)} for _ in range(2))
    for _ in range(_BLOCK):
        drawn = make(rng, risks, n)
        for name in wrong:
            j = certified(name, drawn, kind, low, delta)
            wrong[name] += j >= 0 and risks[j] > MOST
            used[name] += max(risks[j], 0.0) / MOST if j >= 0 and risks[j] <= MOST else 0.0
    return {"cell": list(cell), "block": number, "wrong": wrong, "used": used}


def text(found: list[dict[str, Any]]) -> str:
    """Return the page."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault(tuple(one["cell"]), []).append(one)
    lines, over = [], []
    for cell, blocks in groups.items():
        draws, delta = _BLOCK * len(blocks), cell[-1]
        border = delta + 3 * (delta * (1 - delta) / draws) ** 0.5
        row = [*cell[:3], f"{cell[3]:,}", f"{delta:g}", draws]
        for name in ("default", "betting", "hoeffding_bentkus", "normal", "as published", "rows"):
            if name not in blocks[0]["wrong"]:
                row.append("")
                continue
            share = sum(b["wrong"][name] for b in blocks) / draws
            bold = "**" if share > border else ""
            used = sum(b["used"][name] for b in blocks) / draws
            row.append(f"{bold}{100 * share:.1f}{bold} ({used:.2f})")
            if name == "default" and share > border:
                over.append(f"{cell}: {share:.3f}")
        lines.append(tuple(row))
    header = (
        "losses", "risks", "levels", "n", "delta", "draws", "default", "betting", "Hoeffding-Bentkus", "normal",
        "as published", "rows",
    )  # fmt: skip
    body = table("Wrong certificates [%], and share of what is allowed that is used", header, lines)
    return (
        f"# Certificates\n\n{(__doc__ or '').strip()}\n\n{body}\n\nBold: over delta by more than 3 standard errors. "
        f"Of the default: {'; '.join(over) or 'none'}.\n\n{machine()}\n"
    )


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


def main() -> None:
    """Draw what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figures", action="store_true")
    given = parser.parse_args()
    if given.figures:
        page = figures()
        given.out.with_name("certify_figures.md").write_text(page)
        print(page)
        return
    found = (
        [json.loads(line) for line in given.out.read_text().splitlines()]
        if given.out.exists()
        else []
    )
    done = {(*one["cell"], one["block"]) for one in found}
    for number in range(-(-given.draws // _BLOCK)):
        for cell in cells():
            if (*cell, number) in done:
                continue
            found.append(block(cell, number))
            with given.out.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
        given.out.with_suffix(".md").write_text(text(found))


if __name__ == "__main__":
    main()
