"""What learned policies gain at equal realised cost, what budgets they keep, how fast.

python benchmarks/learned.py PART [--caches NAMES] [--seeds N] [--out DIR]

PART: gains, released, eenet, converged, ablations (the last four: EENet), keeping, or speed.

Each part writes DIR/learned_PART.json and .md (default benchmarks/results). Caches of others are
skipped where they are not there.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _caches import ROOT, caches
from _common import machine, write
from _gains import GROUPS, eenet_gains, gains, gains_text, merged
from _keeping_learned import keeping, keeping_text
from _path_speed import path_speed, path_speed_text

from policyopt._cache.data import ExitData

#: Per cache: what to find out, how to tell it, and how many seeds by default.
PARTS: dict[str, tuple[Callable[[str, ExitData, int], Any], Callable[[str, Any], str], int]] = {
    "gains": (gains, gains_text, 10),
    **{group: (eenet_gains(group), gains_text, 5) for group in GROUPS},
    "keeping": (keeping, keeping_text, 50),
}


def main() -> None:
    """Measure one part on the caches that are there and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("part", choices=[*PARTS, "speed"])
    parser.add_argument("--caches", help="names, comma-separated; default all")
    parser.add_argument("--seeds", type=int, help="divisions or refits; default by the part")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args()
    # What is found about EENet joins the other gains.
    part = "gains" if options.part in GROUPS else options.part
    out = options.out / f"learned_{part}.json"
    # Caches not measured again keep what was found before.
    results: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
    results["machine"] = machine()
    if options.part == "speed":
        results["speed"] = path_speed()
        write(out, results, path_speed_text(results["speed"]))
    else:
        measure, tell, seeds = PARTS[options.part]
        names = options.caches.split(",") if options.caches else None
        with tempfile.TemporaryDirectory() as place:
            for name, data in caches(Path(place), names):
                print(f"{options.part}: {name}", file=sys.stderr, flush=True)
                measured = measure(name, data, options.seeds or seeds)
                results[name] = merged(results.get(name, {}), measured)
                # A long run that is cut off leaves what it found so far.
                texts = [tell(n, found) for n, found in results.items() if n != "machine"]
                write(out, results, "\n".join(texts))


if __name__ == "__main__":
    main()
