"""``policyopt import``: other people's files into a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.options import Style
from policyopt.cli.output import Format, note, print_json, print_table
from policyopt.cli.progress import progress
from policyopt.runtime.errors import bad


def import_(
    sources: Annotated[
        list[str], typer.Argument(metavar="SRC...", help="A file, or SPLIT=FILE for several.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Directory of the cache to write.")],
    axes: Annotated[
        str | None, typer.Option("--axes", help="KNC or NKC (exits, samples, classes).")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="logits, probabilities or record.")
    ] = None,
    costs: Annotated[
        str | None, typer.Option("--costs", help="1,2,4 (one per exit), or a key of the file.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", help="Unit of the costs, e.g. MFLOPs, ms, USD.")
    ] = None,
    cost_kind: Annotated[
        str | None, typer.Option("--cost-kind", help="cumulative or standalone.")
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Division of one pool, e.g. fit=0.5,test=0.5.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of that division.")] = 0,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help=".npy with the labels, where the source has none."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float16 or float32; default: as the source.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cache that is there.")
    ] = False,
    style: Style = Format.table,
) -> None:
    """Read outputs from .npz, .npy, .safetensors, .pt, .csv, .jsonl or .parquet into a cache."""
    from policyopt.cache import import_sources

    with progress("importing") as step:
        report = import_sources(
            sources, out, axes=axes, kind=kind, costs=_costs(costs), unit=unit, cost_kind=cost_kind,
            shares=_shares(split), seed=seed, labels=labels, overwrite=overwrite, dtype=dtype, progress=step,
        )  # fmt: skip
    for text in report.notes:
        note(text)
    data = report.data
    rows = [{"split": name, "rows": len(data.rows(name)[1])} for name in data.split_names]
    if style is Format.json:
        print_json(
            {
                "cache": str(out),
                "kind": data.kind,
                "exits": data.exits,
                "classes": data.classes,
                "splits": rows,
            }
        )
    else:
        print_table(rows, {"split": lambda r: r["split"], "rows": lambda r: f"{r['rows']:,}"})
        print(f"wrote {out}: {data.exits} exits, {data.kind}. Next: policyopt info {out}")


def _costs(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        return text.strip()  # the name of a key in the file


def _shares(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    shares = {}
    for item in text.split(","):
        name, equals, value = item.partition("=")
        try:
            shares[name.strip()] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise bad("--split", "NAME=SHARE pairs", item, "E.g. --split fit=0.5,test=0.5.")
    return shares
