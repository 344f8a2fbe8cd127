"""Draw docs/gains.png from benchmarks/results/learned_gains.json: points over max_prob at equal cost.

python benchmarks/picture.py
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from _caches import ROOT
from matplotlib.figure import Figure

from policyopt._report.figures import add_legend, save_figure

#: Okabe & Ito, as the project's other pictures.
METHODS = {
    "optimal_stopping": ("#0072B2", "o", "-"),
    "auto": ("#000000", "X", "-"),
    "max_prob:thresholds=joint": ("#D55E00", "s", "--"),
    "margin": ("#009E73", "D", "-."),
    "eenet": ("#CC79A7", "^", ":"),
}
CACHES = {
    "cifar10_cascade5": "CIFAR-10, cascade of 5 models",
    "fashion_mnist": "Fashion-MNIST, 5 exits",
    "fashion_mnist_pairs": "pairs of Fashion-MNIST, 100 classes",
    "mmlu_llama5": "MMLU, 5 Llama models (records)",
}


def main() -> None:
    """Draw one panel per cache."""
    found = json.loads((ROOT / "benchmarks/results/learned_gains.json").read_text())
    names = [name for name in CACHES if name in found]
    figure = Figure(figsize=(3.2 * len(names), 3.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(names)))
    for axes, name in zip(panels, names, strict=True):
        _panel(axes, found[name])
        axes.set_title(CACHES[name], fontsize=10)
    panels[0].set_ylabel("points over max_prob, geometric\nquotas, at equal realised cost")
    add_legend(figure, size=10)
    save_figure(figure, ROOT / "docs" / "gains.png", dpi=110)


def _panel(axes: Any, found: dict[str, Any]) -> None:
    results = {**found["against_max_prob"], **found.get("eenet_against_max_prob", {})}
    where = np.arange(10, 100, 10)
    axes.axhline(0, color="0.4", lw=1)
    for method, (colour, marker, style) in METHODS.items():
        if method in results:
            points, low, high = (
                100 * np.array(results[method][k]) for k in ("difference", "low", "high")
            )
            if method == "optimal_stopping":
                band = {"color": colour, "alpha": 0.13, "lw": 0, "label": f"{method}: 95 %"}
                axes.fill_between(where, low, high, **band)
            axes.plot(
                where, points, color=colour, marker=marker, ls=style, ms=4.5, lw=1.5, label=method
            )
    axes.set_xlabel("budget: way from first to last exit [%]")
    axes.set_xticks(where[::2])
    axes.grid(color="0.92")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main()
