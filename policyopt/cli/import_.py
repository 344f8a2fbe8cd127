"""``policyopt import``: other people's files into a cache."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from policyopt.cli.options import Seed, Style, out_directory
from policyopt.cli.output import Format, note, print_csv, print_json, print_table, say
from policyopt.cli.progress import progress
from policyopt.runtime.errors import input_error


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
    seed: Seed = 0,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help=".npy with the labels, where the source has none."),
    ] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float16 or float32; default: as the source.")
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Load .pt that needs pickle: IT CAN RUN ANY CODE."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a cache that is there.")
    ] = False,
    style: Style = Format.table,
) -> None:
    """Read outputs from .npz, .npy, .safetensors, .pt, .csv, .jsonl or .parquet into a cache."""
    from policyopt.cache import import_sources

    out_directory(out)
    with progress("importing") as step:
        report = import_sources(
            sources, out, axes=axes, kind=kind, costs=costs, unit=unit, cost_kind=cost_kind,
            shares=_shares(split), seed=seed, labels=labels, overwrite=overwrite, dtype=dtype,
            allow_pickle=allow_pickle, progress=step,
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
    elif style is Format.csv:
        print_csv(rows)
    else:
        print_table(rows, {"split": lambda r: r["split"], "rows": lambda r: f"{r['rows']:,}"})
        say(f"wrote {out}: {data.exits} exits, {data.kind}. Next: policyopt info {quote(str(out))}")


def _shares(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        try:
            share = float(value)
        except ValueError:
            got = item.strip() or "an empty one"
            raise input_error(
                "--split", "NAME=SHARE pairs", got, "E.g. --split fit=0.5,test=0.5."
            ) from None
        if name in shares:
            raise input_error(
                "--split", "each name once", f"{name} twice", "E.g. fit=0.5,test=0.5."
            )
        shares[name] = share
    return shares
