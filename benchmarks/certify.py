"""Are certificates wrong as seldom as they say? Monte Carlo; resumable.

A draw is n calibration losses of L levels whose true mean risks are known. A procedure goes through the levels from
the safest to the cheapest and certifies the cheapest that it shows; it is wrong where the true risk of a level that it
shows is over `most`. Shapes of the true risks:

- *border*: all of the cheaper half lie at `most` or a hair over it, the rest under it;
- *just over*: all of the cheaper half lie a tenth over it;
- *rising*: from 0 to four times `most`, the cheaper the more;
- *overthinking*: as rising, with a stretch of safe levels among the cheap and a bad one among the safe;
- *K exits*: twelve thresholds, shared by K exits of a population of 200,000 rows, exits that answer better the later,
  and now and then worse; draws are rows of it, `most` a hair under the drop of the level nearest to 5 points.

Losses: 0 or 1 (`error`); -1, 0, 1 (`drop`); with heavy tails in [0, 1]; means of groups of 1 to 20 rows that share
their luck. Procedures: the default of `policyopt certify`, with one start, with three, and with Holm's testing in no
order; betting; Hoeffding-Bentkus; the normal's; and two that are to fail: *as published* (RC-EENN's released walk
deploys the first level that fails, of losses cut at 0; arXiv:2405.20915), and *rows*, where each of a group's rows
counts as one. In brackets the share of `most` that the certified level uses in the mean.

    python benchmarks/certify.py [--draws 1000]
    python benchmarks/certify.py --table      # the page again, from what was drawn
    python benchmarks/certify.py --figures    # power, and the monitor: _certify_figures.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from _certify_figures import figures
from _common import machine, table
from numpy.typing import NDArray

from policyopt._bounds import P_VALUES, default_of
from policyopt._testing import fallback, holm

OUT = Path(__file__).parent / "results" / "certify.jsonl"
Floats = NDArray[np.float64]
ROWS, LEVELS, EXITS, MOST = (300, 1000, 5000, 20_000), (2, 4, 12, 30), (2, 4, 8, 12), 0.05
DELTAS = (0.1, 0.05)
SHAPES = ("border", "just over", "rising", "overthinking", "K exits")
_BLOCK = 50  # draws to a line
_ROWS = 200_000  # of a population of K exits
Cell = tuple[str, str, int, int]  # losses, shape, levels or exits, rows


def risks_of(shape: str, levels: int) -> Floats:
    """Return the true mean risks of levels in the order of the test, the safest first."""
    place = np.linspace(0, 1, levels)
    if shape in ("border", "just over"):
        return np.where(place < 0.5, 0.8 * MOST, MOST * (1.0001 if shape == "border" else 1.1))
    rising = 4 * MOST * place
    if shape == "overthinking":
        rising[levels // 4] = 1.5 * MOST
        rising[-(levels // 3) : -1] = 0.3 * MOST
    return rising


@lru_cache(maxsize=4)
def population(exits: int) -> NDArray[np.int8]:
    """Return the losses of quality of twelve shared thresholds on all rows, the safest first, (12, N)."""
    rng = np.random.default_rng([17, exits])
    hard = rng.normal(size=(_ROWS, 1))
    worth = np.linspace(0.2, 1.5, exits) - hard + rng.normal(0, 0.8, (_ROWS, exits))
    right = worth > 0
    sure = np.abs(worth + rng.normal(0, 0.5, worth.shape))
    sure[:, -1] = np.inf
    many = []
    for threshold in np.quantile(sure[:, 0], np.linspace(0, 0.999, 80)):
        taken = (sure >= threshold).argmax(axis=1)
        many.append(right[:, -1].astype(np.int8) - right[np.arange(_ROWS), taken])
    drops = np.stack(many)
    means = drops.mean(axis=1)
    nearest = np.abs(means - np.linspace(0.005, min(0.1, means.max()), 12)[:, None]).argmin(axis=1)
    return drops[nearest]


def truth_of(shape: str, levels: int) -> tuple[Floats, float]:
    """Return the true mean risks of levels, and what they may be at most."""
    if shape != "K exits":
        return risks_of(shape, levels), MOST
    risks = population(levels).mean(axis=1)
    return risks, float(risks[np.abs(risks - MOST).argmin()]) * 0.9999


def _rows_of(rng: np.random.Generator, exits: int, n: int) -> Floats:
    """Return losses of rows of a population, (12, n)."""
    drops = population(exits)
    return drops[:, rng.integers(0, drops.shape[1], n)].astype(np.float64)


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


def p_values(name: str, losses: Floats, kind: str, low: float, most: float, delta: float) -> Floats:
    """Return p-values by a procedure; 1 where the exact ones are far over delta, since they take long."""
    test = default_of(kind, losses.shape[1], most, delta) if name == "default" else name
    p = np.ones(len(losses))
    at = losses.mean(axis=1) < most if test == "ternary" else np.ones(len(p), dtype=bool)
    if at.any():
        p[at] = P_VALUES[test](losses[at], most, low=low, high=1.0, delta=delta)
    return p


def shown(losses: Floats, kind: str, low: float, most: float, delta: float) -> dict[str, Any]:
    """Return which levels each procedure shows, (L,), and the cheapest last."""
    p = {
        name: p_values(name, losses, kind, low, most, delta)
        for name in ("default", "betting", "hoeffding_bentkus", "normal")
    }
    found = {name: fallback(p[name], delta) for name in p}
    starts = np.unique(np.linspace(0, len(losses), 3, endpoint=False).astype(int))
    found["3 starts"] = fallback(p["default"], delta, starts.tolist())
    found["Holm"] = holm(p["default"]) <= delta
    # The released code takes losses of 0 and 1 as such, and cuts others at 0.
    as_published = "binomial" if kind == "binary" else "hoeffding_bentkus"
    theirs = p_values(as_published, np.maximum(losses, 0.0), kind, 0.0, most, delta)
    first = min(int(fallback(theirs, delta).sum()), len(theirs) - 1)  # that fails
    found["as published"] = np.arange(len(theirs)) == first
    return found


def cells() -> list[Cell]:
    """Return losses, shape of the risks, levels or exits, and rows of each cell."""
    found = [
        (losses, shape, levels, n)
        for n in ROWS
        for losses in LOSSES
        for shape in SHAPES[:-1]
        for levels in (LEVELS if losses == "0 or 1" and n <= 1000 else (12,))
        if shape != "overthinking" or levels > 3
    ]
    some = EXITS[:: len(EXITS) - 1]
    return found + [
        ("-1, 0, 1", SHAPES[-1], k, n) for n in ROWS for k in (EXITS if n < max(ROWS) else some)
    ]


def block(cell: Cell, number: int) -> dict[str, Any]:
    """Return in how many of some draws each procedure was wrong, and what it used, per delta."""
    losses, shape, levels, n = cell
    kind, low, make = LOSSES[losses]
    risks, most = truth_of(shape, levels)
    rng = np.random.default_rng(
        [number, n, levels, list(LOSSES).index(losses), SHAPES.index(shape)]
    )
    wrong: dict[str, dict[str, int]] = {f"{delta:g}": {} for delta in DELTAS}
    used: dict[str, dict[str, float]] = {f"{delta:g}": {} for delta in DELTAS}
    for _ in range(_BLOCK):
        drawn = _rows_of(rng, levels, n) if shape == "K exits" else make(rng, risks, n)
        for delta in DELTAS:
            found = shown(drawn, kind, low, most, delta)
            if losses == "groups" and n <= 5000:
                # As if each of a group's ten equal rows stood alone.
                each = np.repeat(drawn, 10, axis=1)
                found["rows"] = fallback(p_values("betting", each, kind, low, most, delta), delta)
            for name, which in found.items():
                at, key = np.flatnonzero(which), f"{delta:g}"
                bad = bool((risks[at] > most).any())
                share = max(risks[at[-1]], 0.0) / most if len(at) and not bad else 0.0
                wrong[key][name] = wrong[key].get(name, 0) + bad
                used[key][name] = used[key].get(name, 0.0) + float(share)
    used = {d: {name: round(v, 4) for name, v in one.items()} for d, one in used.items()}
    return {"cell": list(cell), "block": number, "draws": _BLOCK, "wrong": wrong, "used": used}


NAMES = {
    "default": "default", "3 starts": "3 starts", "Holm": "Holm", "betting": "betting",
    "hoeffding_bentkus": "Hoeffding-Bentkus", "normal": "normal", "as published": "as published", "rows": "rows",
}  # fmt: skip
_VALID = ("default", "3 starts", "Holm", "betting", "hoeffding_bentkus")


def text(found: list[dict[str, Any]]) -> str:
    """Return the page."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault(tuple(one["cell"]), []).append(one)
    lines: list[tuple[str, ...]] = []
    over: dict[str, list[str]] = {name: [] for name in NAMES}
    tested, worst = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0.0)
    rank = {cell: i for i, cell in enumerate(cells())}
    for cell in sorted(groups, key=lambda c: rank.get(c, len(rank))):
        blocks = groups[cell]
        draws = sum(one["draws"] for one in blocks)
        for delta in DELTAS:
            key = f"{delta:g}"
            error = (delta * (1 - delta) / draws) ** 0.5
            row = [cell[0], cell[1], str(cell[2]), f"{cell[3]:,}", key, f"{draws:,}"]
            for name in NAMES:
                if name not in blocks[0]["wrong"][key]:
                    row.append("")
                    continue
                share = sum(b["wrong"][key][name] for b in blocks) / draws
                used = sum(b["used"][key][name] for b in blocks) / draws
                bold = "**" if share > delta + 3 * error else ""
                row.append(f"{bold}{100 * share:.1f}{bold} ({used:.2f})")
                tested[name] += 1
                worst[name] = max(worst[name], (share - delta) / error)
                if bold:
                    over[name].append(f"{', '.join(map(str, cell))}, {key}: {100 * share:.1f} %")
            lines.append(tuple(row))
    header = ("losses", "risks", "levels", "n", "delta", "draws", *NAMES.values())
    body = table("Wrong certificates [%], and share of what is allowed that is used", header, lines)
    counted = table(
        "Cells in which a procedure is wrong more often than delta plus 3 standard errors",
        ("procedure", "cells", "over", "worst, standard errors over delta"),
        [(NAMES[n], str(tested[n]), str(len(over[n])), f"{worst[n]:+.1f}") for n in NAMES],
    )
    told = "; ".join(f"{NAMES[n]}: {one}" for n in _VALID for one in over[n]) or "none"
    return (
        f"# Certificates\n\n{(__doc__ or '').strip()}\n\n{counted}\n\nOf those that are valid at any n: {told}.\n\n"
        f"{body}\n\nBold: over delta by more than 3 standard errors. `levels`: of *K exits* the exits.\n\n"
        f"{machine()}\n"
    )


def main() -> None:
    """Draw what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--figures", action="store_true")
    parser.add_argument("--table", action="store_true")
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
    for number in range(0 if given.table else -(-given.draws // _BLOCK)):
        for cell in cells():
            if (*cell, number) in done:
                continue
            found.append(block(cell, number))
            with given.out.open("a") as file:
                file.write(json.dumps(found[-1]) + "\n")
    given.out.with_suffix(".md").write_text(text(found))


if __name__ == "__main__":
    main()
