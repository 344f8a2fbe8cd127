"""How often does the drift watch raise false alarms, how soon does it see a change, what does a refit mend?

python benchmarks/drift.py [--streams 200] [--out benchmarks/results/drift.json]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, table, write
from _drift_peers import first_time, kolmogorov_smirnov, page_hinkley, watch_levels
from _drift_streams import Streams, streams
from _refitting import refit_text, refitting

import policyopt as po
from policyopt._cache.reader import open_cache
from policyopt._replay import trace
from policyopt._table import Tables

_ROOT = Path(__file__).resolve().parent.parent
SHIFTS = ["blur_mild", "blur_medium", "noise_mild", "noise_medium"]
BUDGET = "40%"
REFERENCE, BEFORE, AFTER, RATE = 2500, 500, 1500, 0.05
METHODS = ("max_prob", "optimal_stopping")
EXIT_0 = (0, 1)  # statistics that a watch of steered thresholds has


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks/results/drift.json")
    parser.add_argument("--streams", type=int, default=200)
    options = parser.parse_args()
    data = open_cache(_ROOT / "cache" / "fashion_mnist")
    tables = Tables(data)
    results: dict[str, Any] = {"machine": machine(), "synthetic": synthetic(options.streams)}
    texts = [_synthetic_text(results["synthetic"])]
    for method in METHODS:
        policy = po.fit(data, BUDGET, method, tables=tables).policy
        seen = {s: trace(policy, tables.get(s)) for s in ("calibrate", "test", *SHIFTS)}
        clean = [seen["calibrate"], seen["test"]]
        null = streams(clean, None, 2 * options.streams, REFERENCE, BEFORE + AFTER, 0, 0)
        changed = {
            s: streams(clean, seen[s], options.streams, REFERENCE, BEFORE, AFTER, 1 + i)
            for i, s in enumerate(SHIFTS)
        }
        found = {"false_alarms": false_alarms(null), "delays": delays(null, changed)}
        results[method] = found
        texts += [_false_text(method, found["false_alarms"]), _delay_text(method, found["delays"])]
        print(f"{method}: streams done", file=sys.stderr)
    results["refit"] = refitting(data, SHIFTS, 2000, BUDGET)
    texts.append(refit_text(results["refit"]))
    write(options.out, results, "\n".join(texts))


def synthetic(count: int, run_length: int = 1000) -> dict[str, Any]:
    """Return how long independent requests go without an alarm, statistics alike or on their own."""
    rng = np.random.default_rng(0)
    out: dict[str, Any] = {"run_length": run_length, "streams": count, "cases": {}}
    cases = [(1, 100, 8, False), (6, 100, 8, False), (6, 1000, 32, False), (6, 1000, 32, True)]
    for statistics, rows, cells, alike in cases:
        horizon = 12 * run_length
        share = rng.dirichlet(np.ones(cells), size=count).cumsum(axis=1)
        own = 1 if alike else statistics
        uniform = rng.random((count, rows + horizon, own))
        drawn = np.empty(uniform.shape, dtype=np.int64)
        for r in range(count):
            drawn[r] = np.minimum(np.searchsorted(share[r], uniform[r]), cells - 1)
        drawn = np.broadcast_to(drawn, (*drawn.shape[:2], statistics))
        pools = (drawn[:, :rows, :, None] == np.arange(cells)).sum(axis=1)
        limit = run_length * (2 * statistics if statistics > 1 else 1)
        coins = rng.random((count, horizon, statistics))
        levels = watch_levels(pools, drawn[:, rows:], coins=coins)
        when = first_time(levels.max(axis=2), limit)
        kind = (
            "6 statistics, all alike"
            if alike
            else f"{statistics} statistic{'s' * (statistics > 1)}"
        )
        name = f"{kind}, {rows} reference rows, {cells} cells"
        waited = np.minimum(when, horizon)
        out["cases"][name] = {
            "mean_requests_at_least": float(waited.mean()),
            "standard_error": float(waited.std() / count**0.5),
            "still_silent": float((when > horizon).mean()),
            "bound": run_length,
            "within_run_length": float((when <= run_length).mean()),
            "bound_within": 0.5 if statistics > 1 else 1.0,
        }
    return out


def false_alarms(null: Streams) -> dict[str, Any]:
    """Return the share of streams without a change that raise an alarm, beside its bound."""
    levels = watch_levels(null.pools, null.cells).max(axis=2)
    count, width = len(levels), len(null.names)
    rounds = levels.shape[1]
    return {
        str(length): {
            "within": rounds,
            "share": float((first_time(levels, 2.0 * width * length) <= rounds).mean()),
            "bound": min(rounds / (2 * length), 1.0),
            "streams": count,
        }
        for length in (1_000, 2_000, 5_000, 20_000, 100_000)
    }


def delays(null: Streams, changed: dict[str, Streams]) -> dict[str, Any]:
    """Return requests from the change to the alarm, the peers' limits set on streams without one."""
    width = len(null.names)
    detectors = {
        "watch, run length 100,000": (_whole, 2.0 * width * 100_000),
        "watch of exit 0 (steered), run length 100,000": (_first, 2.0 * len(EXIT_0) * 100_000),
        "watch, limit tuned": (_whole, None),
        "watch of exit 0, limit tuned": (_first, None),
        "Kolmogorov-Smirnov, window 50": (lambda s: kolmogorov_smirnov(s.reference, s.scores, 50), None),
        "Kolmogorov-Smirnov, window 200": (lambda s: kolmogorov_smirnov(s.reference, s.scores, 200), None),
        "Page-Hinkley": (lambda s: page_hinkley(s.reference, s.scores), None),
    }  # fmt: skip
    out: dict[str, Any] = {}
    for name, (levels_of, limit) in detectors.items():
        usual = levels_of(null)
        # Half of the streams set the limit; the other half tell what it is worth.
        half = len(usual) // 2
        if limit is None:
            limit = float(np.quantile(usual[:half].max(axis=1), 1 - RATE))
        rows = {}
        for shift, found in changed.items():
            when = first_time(levels_of(found), limit) - BEFORE
            right = when[when > 0]
            rows[shift] = {
                "median": float(np.median(right)),
                "tenth_longest": float(np.quantile(right, 0.9)),
                "missed": float((right > AFTER).mean()),
                "too_early": float((when <= 0).mean()),
            }
            if levels_of is _whole:
                rows[shift]["named"] = _named(found, limit)
        out[name] = {
            "limit": limit,
            "false_alarms": float((usual[half:].max(axis=1) >= limit).mean()),
            "shifts": rows,
        }
    return out


def _whole(found: Streams) -> Any:
    return watch_levels(found.pools, found.cells).max(axis=2)


def _first(found: Streams) -> Any:
    pools, cells = found.pools[:, EXIT_0], found.cells[:, :, EXIT_0]
    return watch_levels(np.ascontiguousarray(pools), np.ascontiguousarray(cells)).max(axis=2)


def _named(found: Streams, limit: float) -> dict[str, int]:
    levels = watch_levels(found.pools, found.cells)
    when = first_time(levels.max(axis=2), limit)
    there = np.flatnonzero((when > BEFORE) & (when <= levels.shape[1]))
    which = levels[there, when[there] - 1].argmax(axis=1)
    return dict(Counter(found.names[j] for j in which).most_common())


def _synthetic_text(found: dict[str, Any]) -> str:
    body = [
        [
            name, f"{c['mean_requests_at_least']:,.0f} ± {c['standard_error']:,.0f}",
            f"{c['bound']:,}", f"{100 * c['still_silent']:.0f} %",
            f"{100 * c['within_run_length']:.1f} %", f"{100 * c['bound_within']:.0f} %",
        ]
        for name, c in found["cases"].items()
    ]  # fmt: skip
    head = ["independent requests", "mean requests to a false alarm", "proven: at least",
            f"silent for {12 * found['run_length']:,}", f"alarm within {found['run_length']:,}",
            "proven: at most"]  # fmt: skip
    return table(f"No change, synthetic, {found['streams']} streams", head, body)


def _false_text(method: str, found: dict[str, Any]) -> str:
    any_ = next(iter(found.values()))
    body = [
        [f"{int(length):,}", f"{100 * c['share']:.1f} %", f"{100 * c['bound']:.1f} %"]
        for length, c in found.items()
    ]
    title = f"No change, fashion_mnist, {method}: {any_['streams']} orders of real rows"
    head = ["run length", f"alarm within {any_['within']:,} requests", "proven: at most"]
    return table(title, head, body)


def _delay_text(method: str, found: dict[str, Any]) -> str:
    def cell(c: dict[str, Any]) -> str:
        if c["missed"] >= 0.5:
            return f"missed in {100 * c['missed']:.0f} %"
        late = f"{c['tenth_longest']:.0f}" if c["missed"] < 0.1 else f"over {AFTER:,}"
        return f"{c['median']:.0f} / {late}"

    body = [
        [name, f"{100 * c['false_alarms']:.0f} %", *(cell(c["shifts"][s]) for s in SHIFTS)]
        for name, c in found.items()
    ]
    head = ["detector", f"false alarms in {BEFORE + AFTER:,}", *SHIFTS]
    title = f"Requests from the change to the alarm, {method}: median / 90 %"
    named = found["watch, run length 100,000"]["shifts"]
    lines = [
        f"- {shift}: " + ", ".join(f"{k} {v}" for k, v in c["named"].items())
        for shift, c in named.items()
    ]
    first = "Statistic named by the first row's alarms, streams:"
    return "\n".join([table(title, head, body), first, "", *lines, ""])


if __name__ == "__main__":
    main()
