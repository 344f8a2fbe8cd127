"""Fit every method on two caches and write what it costs and gets right; compare two such files.

Of the online policies it plays each on requests drawn from split `test`.

Run it in the tree before a change and in the tree after it, then compare:

    python benchmarks/house.py --out before.jsonl --cascade ../shared/data/cifar10_cascade5.npz
    python benchmarks/house.py --out after.jsonl --cascade ../shared/data/cifar10_cascade5.npz
    python benchmarks/house.py --out after.jsonl --against before.jsonl --markdown house.md

Each line of a file is one fit, replayed on split `test`. A run that is broken off goes on where it
stopped. Only names of `policyopt` itself are used, in `_prepare`, `_fit` and `_play`, so that one script
serves trees whose insides differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import policyopt as po

BUDGETS = ("30%", "60%")
_GIVEN = "-"  # in place of a budget: thresholds, patience or exit are given

#: Quick methods first. A name may carry settings, as on the command line.
METHODS = (
    "always", "random", "max_prob", "entropy", "margin", "patience", "dda", "beem", "e2cm", "de3_bert",
    "cbt", "pcee", "eero", "berxit", "failure_prediction", "agreement_cascade", "frugalgpt",
    "max_prob:thresholds=joint", "max_prob:thresholds=joint+mix=true", "max_prob:thresholds=shared",
    "max_prob:thresholds=shared+calibrator=beta", "max_prob:answer=combined",
    "optimal_stopping", "fitted_q", "deferral", "hidec", "window", "subset", "vote", "leco",
    "act", "bolukbasi", "lista_stop", "trust_score", "pf_berxit",
    "eenet", "dqn", "epnet", "reinforce", "policy_gradient", "auto", "eenet_released",
)  # fmt: skip
#: Fits that need no budget.
GIVEN = (
    "always:exit=0", "always:exit=2", "always:exit=4", "patience:patience=1", "patience:patience=3",
    "max_prob:thresholds=0.9,0.8,0.8,0.7", "margin:thresholds=0.5,0.5,0.5,0.5",
    "entropy:thresholds=0.8,0.8,0.8,0.8",
)  # fmt: skip
#: Played on requests, at half of the full cost where they keep a budget.
ONLINE = (
    "discounted_ucb", "exp3", "kl_ucb", "sliding_window_ucb", "thompson", "ucb1", "ucb_tuned", "ucb_v",
    "linucb", "splitee", "uee_ucb", "controller", "fixed",
)  # fmt: skip
_PLAYED = "50% online"
KEY = ("cache", "method", "budget")


def _prepare(name: str, source: Path, place: Path) -> Any:
    """Open a cache folder, or import an array file of models called one after another."""
    if source.is_dir():
        return po.open_cache(source)
    importer = getattr(po, "import_sources", None) or po.import_cache
    report = importer(
        source, place / name, unit="MFLOPs", cost_kind="standalone", shares={"fit": 0.5, "test": 0.5}
    )  # fmt: skip
    return getattr(report, "data", report)


def _fit(data: Any, method: str, budget: str) -> dict[str, Any]:
    """Fit and replay once; an error of the package is a result, too."""
    start = time.perf_counter()
    try:
        try:
            fitted = po.fit(data, None if budget == _GIVEN else budget, method, seed=0)
        except po.InputError:  # the setting was `calibrator` when the first results were made
            renamed = method.replace("calibrator=", "shared_map=")
            if renamed == method:
                raise
            fitted = po.fit(data, budget, renamed, seed=0)
        seconds = time.perf_counter() - start
        met = po.evaluate(fitted, data, "test")
    except po.PolicyOptError as error:
        return {"error": type(error).__name__}
    policy = fitted.policy
    thresholds = [getattr(policy, "thresholds", ())]
    mixture = getattr(policy, "mixture", None)
    if mixture is not None:
        thresholds.append(mixture.thresholds)
    return {
        "cost": float(np.mean(met.cost)),
        "accuracy": float(np.mean(met.quality)),
        "expected_cost": float(fitted.expected.cost),
        "seconds": round(seconds, 3),
        "thresholds": _digest(np.asarray(t, dtype="<f8") for t in thresholds),
        "decisions": _digest(np.asarray(a, dtype="<i8") for a in (met.exit, met.prediction)),
    }


def _play(data: Any, policy: str) -> dict[str, Any]:
    """Simulate one online policy, twice 4,000 requests."""
    start = time.perf_counter()
    try:
        found = po.simulate(data, policy, rounds=4000, repetitions=2, seed=0, budget="50%")
    except po.PolicyOptError as error:
        return {"error": type(error).__name__}
    seconds = time.perf_counter() - start
    record = found.records[0]
    return {
        "cost": _first(record["realised_cost"]),
        "accuracy": _first(record["accuracy"]),
        "seconds": round(seconds, 3),
        "thresholds": _digest([np.asarray(found.labels, dtype="<f8")]),
        "decisions": _digest([np.asarray(record["exit_share"], dtype="<f8")]),
    }


def _first(value: Any) -> float:
    """Return a mean, with or without the ends of its interval."""
    return float(np.ravel(value)[0])


def _digest(arrays: Iterable[np.ndarray[Any, Any]]) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[
        :16
    ]


def measure(sources: dict[str, Path], out: Path, methods: list[str]) -> None:
    """Append to `out` each fit that is not there yet."""
    done = read(out) if out.exists() else {}
    jobs = [(method, budget) for method in methods if method not in ONLINE for budget in BUDGETS]
    jobs = [(method, _GIVEN) for method in GIVEN if method.partition(":")[0] in methods] + jobs
    jobs = [(policy, _PLAYED) for policy in ONLINE if policy in methods] + jobs
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: _prepare(name, source, Path(folder)) for name, source in sources.items()}
        for method, budget in jobs:
            for name, data in caches.items():
                if (name, method, budget) in done:
                    continue
                row = dict(zip(KEY, (name, method, budget), strict=True))
                row |= _play(data, method) if budget == _PLAYED else _fit(data, method, budget)
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(json.dumps(row), file=sys.stderr, flush=True)


def read(path: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    """Return the rows of a file by cache, method and budget."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["cache"], row["method"], row["budget"]): row for row in rows}


def against(after: Path, before: Path) -> tuple[str, bool]:
    """Return a table of the largest differences per method, and whether all agree within rounding.

    Costs are told in parts of the cost before. Within rounding: 1e-9 of the cost, and no other
    accuracy.
    """
    new, old = read(after), read(before)
    lines = [
        "| method | fits | cost, largest difference | accuracy, largest difference | same decisions "
        "| same thresholds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    differ: list[str] = []
    for method in dict.fromkeys(key[1] for key in [*old, *new]):
        keys = [key for key in dict.fromkeys([*old, *new]) if key[1] == method]
        absent = [key for key in keys if key not in old or key not in new]
        pairs = [(old[key], new[key]) for key in keys if key not in absent]
        errors = [(a.get("error"), b.get("error")) for a, b in pairs]
        both = [(a, b) for a, b in pairs if "error" not in a and "error" not in b]
        cost = max((abs(b["cost"] / a["cost"] - 1) for a, b in both), default=math.nan)
        accuracy = max((abs(b["accuracy"] - a["accuracy"]) for a, b in both), default=math.nan)
        same = {k: sum(a[k] == b[k] for a, b in both) for k in ("decisions", "thresholds")}
        lines.append(
            f"| {method} | {len(pairs)} | {cost:.1e} | {accuracy:.1e} | {same['decisions']} of {len(both)} "
            f"| {same['thresholds']} of {len(both)} |"
        )
        if absent:
            sides = sorted({"before" if key not in old else "after" for key in absent})
            differ.append(f"{method}: {len(absent)} fits are missing {' and '.join(sides)}")
        if any(a != b for a, b in errors):
            differ.append(f"{method}: {', '.join(f'{a} became {b}' for a, b in errors if a != b)}")
        if cost > 1e-9 or accuracy > 0:
            differ.append(f"{method}: cost by {cost:.1e} of itself, accuracy by {accuracy:.1e}")
    said = (
        ["All agree within rounding."]
        if not differ
        else ["These differ:", "", *(f"- {d}" for d in differ)]
    )
    count = sum("error" in row for row in old.values())
    head = [f"{len(old)} fits before ({count} of them refused by an error), {len(new)} after.", ""]
    return "\n".join([*head, *said, "", *lines, ""]), not differ


def main() -> None:
    """Measure, or compare."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one per fit")
    parser.add_argument("--cache", type=Path, default=root / "cache" / "fashion_mnist")
    parser.add_argument("--cascade", type=Path, help="cifar10_cascade5.npz; left out by default")
    parser.add_argument("--methods", help="names, comma-separated; default all")
    parser.add_argument("--against", type=Path, help="compare with this file, and fit nothing")
    parser.add_argument("--markdown", type=Path, help="where to write the comparison")
    options = parser.parse_args()
    if options.against:
        text, agree = against(options.out, options.against)
        print(text)
        if options.markdown:
            options.markdown.write_text(text)
        sys.exit(0 if agree else 1)
    sources = {options.cache.name: options.cache}
    if options.cascade:
        sources[options.cascade.stem] = options.cascade
    chosen = options.methods.split(",") if options.methods else [*ONLINE, *METHODS]
    measure(sources, options.out, chosen)


if __name__ == "__main__":
    main()
