"""Draw every picture of README, docs, benchmarks and examples anew: `make figures`, or some by name.

python benchmarks/figures.py [NAMES]

Each is drawn by the code that first drew it, from what the repository holds: a cache that ships, or results of
benchmarks. What needs training, or an hour, is not measured again (`BY_HAND` says which command does).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _caches import ROOT

from policyopt._report.figures import save_figure
from policyopt.runtime._files import write_file

RESULTS = ROOT / "benchmarks" / "results"
CACHE = str(ROOT / "cache" / "fashion_mnist")
#: Pictures whose numbers the repository does not hold, and what makes them.
BY_HAND = {
    "examples/expert_branches/expert_branches.png": "python -m examples.expert_branches, which trains",
    "examples/serve_torch/serve_torch.png": "python -m examples.serve_torch, which measures seconds",
}


def _lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def _run(*words: str) -> None:
    """Run a command of policyopt."""
    subprocess.run(
        [sys.executable, "-m", "policyopt", *words], check=True, stdout=subprocess.DEVNULL
    )


def curve() -> None:
    """Draw docs/curve.png, which `policyopt demo` writes."""
    with tempfile.TemporaryDirectory() as place:
        _run("demo", "--cache", CACHE, "--out", place)
        write_file(ROOT / "docs/curve.png", (Path(place) / "curve.png").read_bytes())


def plan() -> None:
    """Draw docs/plan.png by the first command of docs/tiers.md."""
    to = str(ROOT / "docs/plan.png")
    _run("plan", CACHE, "--tiers", str(ROOT / "docs/tiers.toml"), "--budget", "7", "--figure", to)


def gains() -> None:
    """Draw docs/gains.png of learned_gains.json."""
    import picture

    picture.main()


def catalogue() -> None:
    """Draw docs/catalogue.png of catalogue.json."""
    from _catalogue_picture import draw

    draw(json.loads((RESULTS / "catalogue.json").read_text()))


def certified() -> None:
    """Draw docs/certified.png of certify_real.jsonl."""
    import certify_real

    certify_real.draw(_lines("certify_real.jsonl"))


def eenet() -> None:
    """Draw docs/eenet.png of eenet_conditions.jsonl."""
    import eenet_conditions

    eenet_conditions.draw(_lines("eenet_conditions.jsonl"), ROOT / "docs/eenet.png")


def online() -> None:
    """Draw docs/online.png: the simulation is played again."""
    import online as of

    from policyopt._page.results import simulation_content
    from policyopt._progress import progress
    from policyopt._report.figures import panel_figure

    with progress(None):
        panels = simulation_content(of.picture(), "")["panels"]
        save_figure(panel_figure(*panels), ROOT / "docs/online.png", dpi=110)


def robustness() -> None:
    """Draw benchmarks/results/robustness.png of robustness.jsonl."""
    import robustness as of

    save_figure(of.figure(of.read(of.OUT)), RESULTS / "robustness.png", dpi=100)


def model_zoo() -> None:
    """Draw the picture of examples/model_zoo, of the cache that ships."""
    from examples.model_zoo.__main__ import main

    sys.argv = ["model_zoo", "--out", str(ROOT / "examples/model_zoo/curve.png")]
    main()


def drift_refit() -> None:
    """Draw the picture of examples/drift_refit, of the cache that ships."""
    from examples.drift_refit.__main__ import main

    sys.argv = ["drift_refit", CACHE, "--out", str(ROOT / "examples/drift_refit/drift_refit.png")]
    main()


FIGURES: dict[str, Callable[[], None]] = {
    "docs/curve.png": curve,
    "docs/plan.png": plan,
    "docs/gains.png": gains,
    "docs/catalogue.png": catalogue,
    "docs/certified.png": certified,
    "docs/eenet.png": eenet,
    "docs/online.png": online,
    "benchmarks/results/robustness.png": robustness,
    "examples/model_zoo/curve.png": model_zoo,
    "examples/drift_refit/drift_refit.png": drift_refit,
}


def main() -> None:
    """Draw those that are named, by default all."""
    sys.path.insert(0, str(ROOT))
    os.chdir(ROOT)
    for name in sys.argv[1:] or FIGURES:
        start = time.monotonic()
        FIGURES[name]()
        size = (ROOT / name).stat().st_size / 1024
        print(
            f"{name}: {size:.0f} KiB, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True
        )
    for name, command in BY_HAND.items():
        print(f"{name}: left as it is: {command}", file=sys.stderr)


if __name__ == "__main__":
    main()
