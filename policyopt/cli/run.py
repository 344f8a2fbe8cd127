"""``policyopt run``: exits and answers for new outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from policyopt.cli.options import PolicyPath, Style
from policyopt.cli.output import Format, number, print_records, print_table
from policyopt.runtime.artifact import load_policy
from policyopt.runtime.outputs_file import read_outputs


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
    loaded = load_policy(policy)
    decisions = loaded.decide(read_outputs(outputs, loaded, axes))
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
    counts = np.bincount(decisions.exit, minlength=loaded.exits)
    print_table(
        [
            {
                "exit": k,
                "rows": int(n),
                "share": f"{100 * n / max(len(decisions.exit), 1):.1f}",
                "cost": float(loaded.costs[k]),
            }
            for k, n in enumerate(counts)
        ],
        {
            "exit": lambda r: r["exit"],
            "rows": lambda r: f"{r['rows']:,}",
            "share %": lambda r: r["share"],
            f"cost [{loaded.unit}]": lambda r: r["cost"],
        },
    )
    print(
        f"mean cost {number(float(decisions.cost.mean()))} {loaded.unit}; --format csv prints a line per row"
    )
