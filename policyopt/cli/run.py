"""``policyopt run``: exits and answers for new outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from policyopt.cli.options import PolicyPath, Style
from policyopt.cli.output import Format, number, print_records, print_table, say
from policyopt.runtime.errors import input_error
from policyopt.runtime.experts_file import decide_file, load_any
from policyopt.runtime.outputs_file import read_outputs
from policyopt.runtime.reading import FEWEST, refuse_probabilities

_AXES = ("KNC", "NKC", "KN", "NK")


def run(
    policy: PolicyPath,
    outputs: Annotated[
        Path, typer.Argument(metavar="OUTPUTS", help=".npy or .npz with the outputs of all exits.")
    ],
    axes: Annotated[
        str | None, typer.Option("--axes", help="KNC or NKC; default: found from the policy.")
    ] = None,
    style: Style = Format.table,
) -> None:
    """Decide for new outputs: exit, prediction and cost per row (json, csv), or a summary (table)."""
    loaded = load_any(policy)
    if axes is not None and axes.upper() not in _AXES:
        raise input_error(
            "--axes", f"one of {', '.join(_AXES)}", axes, "Classes are the last axis."
        )
    found = read_outputs(outputs, loaded, axes and axes.upper())
    _refuse_odd(found, loaded.kind, outputs)
    decisions = decide_file(loaded, found, outputs)
    if style is not Format.table:
        columns = zip(
            decisions.exit.tolist(),
            decisions.prediction.tolist(),
            decisions.cost.tolist(),
            strict=True,
        )
        print_records(
            [
                {"row": i, "exit": k, "prediction": p, "cost": c}
                for i, (k, p, c) in enumerate(columns)
            ],
            style,
        )
        return
    counts = np.bincount(decisions.exit, minlength=loaded.model_exits)
    print_table(
        [
            {
                "exit": k,
                "rows": int(counts[k]),
                "share": f"{100 * counts[k] / len(decisions.exit):.1f}",
                "cost": float(cost),
            }
            for k, cost in zip(loaded.path, loaded.costs, strict=True)
        ],
        {
            "exit": lambda r: r["exit"],
            "rows": lambda r: f"{r['rows']:,}",
            "share %": lambda r: r["share"],
            f"cost [{loaded.unit}]": lambda r: r["cost"],
        },
    )
    say(
        f"mean cost {number(float(decisions.cost.mean()))} {loaded.unit}; --format csv prints a line per row"
    )


def _refuse_odd(found: list[Any], kind: str, path: Path) -> None:
    """Refuse no rows at all, and probabilities where the policy takes logits."""
    first = found[0]["confidence"] if kind == "record" else found[0]
    if not len(first):
        raise input_error(
            "OUTPUTS", "of at least one row", f"none in {path}", "Is it the right file?"
        )
    if kind != "logits" or any(exit_.dtype.kind not in "fiu" for exit_ in found):
        return
    # Of every exit, so that even one row tells where there are exits enough.
    refuse_probabilities(np.concatenate([exit_[:FEWEST] for exit_ in found]), "OUTPUTS")
