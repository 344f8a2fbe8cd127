"""``policyopt evaluate``: replay a policy on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyopt.api import evaluate as replay_policy
from policyopt.cli.options import CachePath, CostName, PolicyPath, Style, out_table, read_cache
from policyopt.cli.output import (
    Format,
    note,
    number,
    percent,
    print_records,
    shares_text,
    to_csv,
    writing,
)
from policyopt.frontier.curve import summary
from policyopt.runtime.experts_file import load_any
from policyopt.runtime.files import write_file

_COLUMNS: tuple[str, ...] = ("row", "exit", "prediction", "cost", "correct")


def evaluate(
    policy: PolicyPath,
    cache: CachePath,
    split: Annotated[str, typer.Option("--split", help="Split or stream to replay on.")] = "test",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="CSV with exit, prediction, cost and correctness per row."),
    ] = None,
    cost: CostName = None,
    style: Style = Format.table,
) -> None:
    """Show realised cost and accuracy of a policy."""
    if out is not None:
        out_table(out, ",".join(_COLUMNS))
    loaded = load_any(policy)
    data = read_cache(cache)
    outcome = replay_policy(loaded, data, split, cost=cost)
    if loaded.provenance.get("cache") not in (None, data.fingerprint):
        note("this is not the cache that the policy was fitted on: its budget may not hold here")
    if out is not None:
        columns = zip(
            outcome.exit.tolist(),
            outcome.prediction.tolist(),
            outcome.cost.tolist(),
            outcome.correct.tolist(),
            strict=True,
        )
        rows = [dict(zip(_COLUMNS, (i, *c), strict=True)) for i, c in enumerate(columns)]
        with writing(out):
            write_file(out, to_csv(rows))
    # Provenance decides nothing, so the loader takes any: what is no name or number is not shown.
    provenance = loaded.provenance
    method, budget, chosen = (provenance.get(name) for name in ("method", "budget", "chosen"))
    record = {
        "method": method if isinstance(method, str) else None,
        "chosen": chosen.get("method") if isinstance(chosen, dict) else None,
        "split": split,
        "budget": budget if isinstance(budget, (int, float)) else None,
        "unit": loaded.unit,
        **summary(outcome, loaded),
    }
    print_records(
        [record],
        style,
        {
            "method": lambda r: (r["method"] or "-") + (f": {r['chosen']}" if r["chosen"] else ""),
            "split": lambda r: r["split"],
            "rows": lambda r: f"{r['rows']:,}",
            f"budget [{loaded.unit}]": lambda r: r["budget"],
            "realised cost [95 %]": lambda r: (
                f"{number(r['realised_cost'])} [{number(r['realised_cost_low'])}, {number(r['realised_cost_high'])}]"
            ),
            "off %": lambda r: (
                f"{100 * (r['realised_cost'] / r['budget'] - 1):+.1f}" if r["budget"] else "-"
            ),
            "accuracy % [95 %]": lambda r: (
                f"{percent(r['accuracy'])} [{percent(r['accuracy_low'])}, {percent(r['accuracy_high'])}]"
            ),
            "exit share %": lambda r: shares_text(r["exit_share"]),
        },
    )
