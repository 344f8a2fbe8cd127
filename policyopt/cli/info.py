"""``policyopt info``: what a cache holds, or a policy file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from policyopt.cache.data import ExitData
from policyopt.cli.options import CostName, Incomplete, Style, read_cache
from policyopt.cli.output import Format, number, percent, print_csv, print_json, print_table, say
from policyopt.cli.policy_info import print_policy
from policyopt.cli.progress import progress
from policyopt.table import Table, Tables


def info(
    cache: Annotated[
        Path, typer.Argument(metavar="CACHE", help="Directory of a cache, or a policy file (JSON).")
    ],
    cost: CostName = None,
    incomplete: Incomplete = False,
    style: Style = Format.table,
) -> None:
    """Show rows, accuracy per exit, costs and metadata of a cache; or what a policy file says."""
    if cache.suffix == ".json" and not cache.is_dir():
        print_policy(cache, style)
        return
    data = read_cache(cache, incomplete)
    with progress("reading the outputs") as step:
        tables = Tables(data, cost, step)
        splits = [_split(tables, name) for name in data.split_names]
    content = {
        "kind": data.kind,
        "exits": data.exits,
        "classes": data.classes,
        "features": list(data.feature_widths),
        "contexts": list(data.contexts),
        "pooled": data.pooled,
        "splits": splits,
        "costs": _costs(data),
        "metadata": dict(data.metadata),
        "fingerprint": data.fingerprint,
    }
    if style is Format.json:
        print_json(content)
    elif style is Format.csv:
        print_csv(splits)
    else:
        _print(content, data)


def _split(tables: Tables, name: str) -> dict[str, Any]:
    table = tables.get(name)
    stats = table.statistics
    known = stats.labels is None or bool((stats.labels >= 0).all())
    accuracy = stats.correct.mean(axis=0).tolist() if stats.correct is not None and known else None
    role = name if name in ("fit", "calibrate", "test") else "stream"
    no_answer = float((stats.prediction < 0).mean())
    return {
        "split": name,
        "role": role,
        "rows": len(table),
        "accuracy": accuracy,
        "no_answer": no_answer,
        **_shares(table),
    }


def _shares(table: Table) -> dict[str, list[float]]:
    """Return how large a part of the rows each context has, where rows have contexts."""
    if table.context is None:
        return {}
    counts = np.bincount(table.context, minlength=len(table.contexts))
    return {"context_share": (counts / len(table)).tolist()}


def _costs(data: ExitData) -> list[dict[str, Any]]:
    costs = []
    for cost in data.costs:
        if cost.values is not None:
            values = list(cost.values)
        else:
            arrays = [rows.array(f"cost:{cost.name}") for rows in data.splits.values()]
            values = np.concatenate(arrays).mean(axis=0).tolist()
        costs.append(
            {
                "cost": cost.name,
                "unit": cost.unit,
                "per_sample": cost.per_sample,
                "cascade": cost.cascade,
                "cumulative_mean": values,
            }
        )
    return costs


def _print(content: dict[str, Any], data: ExitData) -> None:
    classes = f"{data.classes} classes" if data.classes else "classes unknown"
    pool = ", one pool divided by seed" if data.pooled else ""
    say(f"{data.kind}: {data.exits} exits, {classes}{pool}")
    if data.feature_widths:
        say(f"feature vectors of width {', '.join(map(str, data.feature_widths))}")
    exits = {
        f"exit {k}": (lambda r, k=k: r["accuracy"] and percent(r["accuracy"][k]))
        for k in range(data.exits)
    }
    contexts = {
        f"{name} share %": (lambda r, e=e: f"{100 * r['context_share'][e]:.1f}")
        for e, name in enumerate(data.contexts)
    }
    if contexts:
        say(f"every row has a context: {', '.join(data.contexts)}; their shares stand last")
    print_table(
        content["splits"],
        {
            "split": lambda r: r["split"],
            "role": lambda r: r["role"],
            "rows": lambda r: f"{r['rows']:,}",
            **exits,
            **contexts,
        },
        title="accuracy [%]",
    )
    print_table(
        content["costs"],
        {
            "cost": lambda r: r["cost"],
            "unit": lambda r: r["unit"],
            "given": lambda r: "per sample" if r["per_sample"] else "per exit",
            "a skipped exit": lambda r: "is free" if r["cascade"] else "is paid",
            **{
                f"exit {k}": (lambda r, k=k: number(r["cumulative_mean"][k]))
                for k in range(data.exits)
            },
        },
        title="cumulative cost",
    )
