"""What came out, as the tables of the README."""

from __future__ import annotations

from typing import Any

import numpy as np

from policyopt._experts import FittedExperts

from .compare import Paths

STREAMS = {
    "clean": "clean", "blur": "blur", "noise": "noise",
    "changing": "clean, blur, noise in turn",
}  # fmt: skip


def table(
    rows: dict[str, dict[str, tuple[float, float, float, float]]],
    paths: Paths,
    adaee: list[dict[str, Any]],
    fitted: FittedExperts,
    spent: dict[str, dict[str, float]],
    right: dict[str, float],
    light: float,
    cost: float,
    seconds: dict[str, float],
) -> str:
    """Return the results as Markdown.

    Parameters
    ----------
    rows
        Per stream, what `compare.at_cost` returns at `cost`.
    paths
        From `compare.paths_of`.
    adaee
        From `compare.play_adaee`.
    fitted
        The experts' policy at 40 %.
    spent
        By stream, what the policies of 40 % really cost there, by column.
    right
        Share of each kind that the detector names rightly.
    light
        Cost of the detector.
    cost
        Realised cost of the comparison, in MMACs.
    seconds
        Wall time of each step.
    """
    lines = [
        f"Accuracy [%] at a realised cost of {cost:.3g} MMACs per image; in brackets the 95 % interval",
        "of the lead over the clean branches (paired bootstrap over the test images):",
        "",
        "| stream | clean branches | one set, tuned on all kinds | experts, by the detector "
        "| experts, by the true kind |",
        "|---|---:|---:|---:|---:|",
    ]
    for stream, label in STREAMS.items():
        found = rows[stream]
        cells = [f"{100 * found['plain'][0]:.1f}"]
        for name in ("mixed", "experts", "oracle"):
            accuracy, _, low, high = found[name]
            cells.append(f"{100 * accuracy:.1f} [{100 * low:+.1f}, {100 * high:+.1f}]")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "AdaEE (UCB1 over one threshold for all exits, clean branches) on the changing stream; the",
        "others at the cost that AdaEE realised:",
        "",
        "| overhead | realised cost | AdaEE | clean branches, thresholds as fitted | experts |",
        "|---:|---:|---:|---:|---:|",
    ]
    for record in adaee:
        at = {name: _at(paths, name, record["realised_cost"]) for name in ("plain", "experts")}
        half = 100 * (record["accuracy_high"] - record["accuracy_low"]) / 2
        lines.append(
            f"| {record['overhead'][0]:g} | {record['realised_cost']:.2f} "
            f"| {100 * record['accuracy']:.1f} ± {half:.1f} | {100 * at['plain']:.1f} "
            f"| {100 * at['experts']:.1f} |"
        )
    lines += [
        "",
        f"The experts' policy at a joint budget of {fitted.budget:.3g} MMACs, of which it spends "
        f"{fitted.expected.cost:.3g}: more bought nothing on the rows of the fit.",
        "",
        "| context | share of the rows | budget | expected accuracy |",
        "|---|---:|---:|---:|",
    ]
    for part in fitted.parts:
        budget = part.fitted.budget or 0.0
        lines.append(
            f"| {part.context} | {100 * part.share:.1f} % | {budget:.3g} MMACs "
            f"| {100 * part.quality:.1f} % |"
        )
    lines += [
        "",
        "What such policies of the same budget really cost on each stream [MMACs]:",
        "",
        "| stream | " + " | ".join(next(iter(spent.values()))) + " |",
        "|---|" + "---:|" * len(next(iter(spent.values()))),
    ]
    for stream, costs in spent.items():
        lines.append(f"| {stream} | " + " | ".join(f"{c:.2f}" for c in costs.values()) + " |")
    named = ", ".join(f"{100 * share:.1f} % of {kind}" for kind, share in right.items())
    times = ", ".join(f"{name} {spent:.0f} s" for name, spent in seconds.items())
    lines += [
        "",
        f"The detector names rightly {named}, and costs {light:.3g} MMACs per image.",
        f"Wall time: {times}.",
        "",
    ]
    return "\n".join(lines)


def _at(paths: Paths, name: str, cost: float) -> float:
    """Return a column's accuracy on the changing stream at a realised cost."""
    part = paths[name]["changing"]
    costs, accuracy = part.cost.mean(axis=0), part.quality.mean(axis=0)
    order = np.argsort(costs, kind="stable")
    return float(np.interp(cost, costs[order], accuracy[order]))
