"""Do policies keep their budget on rows that chose nothing, and which solver earns most there?

python benchmarks/budget.py [--seeds 5] [--divisions 40] [--out benchmarks/results/budget.json]

Caches that are absent are skipped: ``cache/fashion_mnist`` ships with the project, the CIFAR-10
cascade of five models lies in ``../shared/data`` where its makers' outputs may be read.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import machine, write
from _keeping import keeping, text
from _many import many, many_text

from policyopt._cache.data import ExitData
from policyopt._cache.importers import import_sources
from policyopt._cache.reader import open_cache

_ROOT = Path(__file__).resolve().parent.parent
_FASHION = _ROOT / "cache" / "fashion_mnist"
_CASCADE = _ROOT.parent / "shared" / "data" / "cifar10_cascade5.npz"


def main() -> None:
    """Measure the caches that are there and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks/results/budget.json")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--divisions", type=int, default=40, help="for bias and coverage; 0 leaves them out"
    )
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    texts = []
    with tempfile.TemporaryDirectory() as place:
        sources: dict[str, tuple[Path, Callable[[], ExitData]]] = {
            "fashion_mnist": (_FASHION / "manifest.json", lambda: open_cache(_FASHION)),
            "cifar10_cascade5": (_CASCADE, lambda: _import_cascade(Path(place) / "cascade")),
        }
        for name, (needed, load) in sources.items():
            if not needed.exists():
                print(f"{name}: skipped, {needed} is not there", file=sys.stderr)
                continue
            data = load()
            found = keeping(data, options.seeds)
            results[name] = found
            texts.append(text(name, found))
            if options.divisions > 1:
                found["many"] = many(data, options.divisions)
                texts.append(many_text(name, found["many"], found["share_of_full"]))
    if not texts:
        sys.exit("nothing to measure")
    write(options.out, results, "\n".join(texts))


def _import_cascade(out: Path) -> ExitData:
    """Import the cascade; its costs are of each model alone, and a cascade pays their sum."""
    report = import_sources(
        _CASCADE, out, unit="MFLOPs", cost_kind="standalone", shares={"fit": 0.5, "test": 0.5}
    )
    return report.data


if __name__ == "__main__":
    main()
