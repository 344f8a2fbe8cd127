"""``policyopt demo``: the main job on the cache that ships with the repository."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyopt.api import fit as fit_policy
from policyopt.cli.curve import print_curve, run_curve, write_curve
from policyopt.cli.fit import COLUMNS, describe
from policyopt.cli.options import make_tables, out_folder, read_cache
from policyopt.cli.output import print_table, say, writing
from policyopt.runtime.errors import input_error

METHODS = "max_prob,max_prob:thresholds=joint,margin,entropy,patience,optimal_stopping,auto"
_SHIPPED = Path("cache") / "fashion_mnist"


def demo(
    out: Annotated[Path, typer.Option("--out", help="Directory for what the demo makes.")] = Path(
        "demo"
    ),
    cache: Annotated[Path | None, typer.Option("--cache", help="Another cache.")] = None,
    budget: Annotated[str, typer.Option("--budget", help="Budget of the policy file.")] = "40%",
) -> None:
    """Compare policies on a real cache, fit one, and write it: table, curve.png, policy.json."""
    out_folder(out, {"curve.csv": "method,budget,"}, policy=True)
    path = cache or _find()
    data = read_cache(path)
    tables = make_tables(data, None)
    fitted = fit_policy(data, budget, tables=tables)  # a budget out of range ends it here
    say(
        f"1. Policies at nine budgets, on rows that chose nothing ({path.name}, {len(tables.get('test')):,} test rows)"
    )
    frontier, _ = run_curve(tables, METHODS, "9", 1, None)
    print_curve(frontier)
    with writing(out):
        write_curve(frontier, frontier.records, out, f"{path.name}: accuracy at realised cost")
    say(f"2. One policy for a budget of {budget}")
    with writing(out):
        fitted.save(out / "policy.json")
    print_table([describe(fitted, str(out / "policy.json"))], COLUMNS)
    say(
        f"3. Look at {out / 'curve.png'}; the same on your own outputs: policyopt import, info, fit, curve."
    )


def _find() -> Path:
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / _SHIPPED / "manifest.json").is_file():
            return root / _SHIPPED
    raise input_error(
        "cache",
        f"{_SHIPPED} under this folder or the checkout",
        "none",
        "Run it in a checkout, or give --cache.",
    )
