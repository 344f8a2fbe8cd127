"""``policyopt import``: other people's files into a cache."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from policyopt._cli import options, output
from policyopt._cli.options import argument, option
from policyopt.runtime._errors import input_error


def import_(
    sources: list[str] = argument("A file, or SPLIT=FILE for several.", "SRC..."),
    out: Path = option(..., "Directory of the cache to write."),
    axes: str | None = option(None, "KNC or NKC (exits, samples, classes)."),
    kind: str | None = option(None, "logits, probabilities or record."),
    costs: str | None = option(None, "1,2,4 (one per exit), or a key of the file."),
    unit: str | None = option(None, "Unit of the costs, e.g. MFLOPs, ms, USD."),
    cost_kind: str | None = option(None, "cumulative or standalone."),
    split: str | None = option(None, "Division of one pool, e.g. fit=0.5,test=0.5."),
    seed: int = options.SEED,
    labels: Path | None = option(None, ".npy with the labels, where the source has none."),
    dtype: str | None = option(None, "float16 or float32; default: as the source."),
    allow_pickle: bool = option(
        False, "Load .pt that needs pickle: IT CAN RUN ANY CODE.", "--allow-pickle"
    ),
    overwrite: bool = option(False, "Replace a cache that is there.", "--overwrite"),
    style: output.Format = options.STYLE,
) -> None:
    """Read the outputs of a model into a cache: .npz, .npy, .safetensors, .pt, .csv, .jsonl or .parquet."""
    from policyopt._cache import import_sources

    options.out_directory(out)
    with output.progress("importing") as step:
        report = import_sources(
            sources, out, axes=axes, kind=kind, costs=costs, unit=unit, cost_kind=cost_kind,
            shares=_shares(split), seed=seed, labels=labels, overwrite=overwrite, dtype=dtype,
            allow_pickle=allow_pickle, progress=step,
        )  # fmt: skip
    for text in report.notes:
        output.note(text)
    data = report.data
    rows = [{"split": name, "rows": len(data.rows(name)[1])} for name in data.split_names]
    content = {"cache": str(out), "kind": data.kind, "exits": data.exits, "classes": data.classes}
    if not output.print_data(style, {**content, "splits": rows}, rows):
        output.print_table(rows)
        output.say(
            f"wrote {out}: {data.exits} exits, {data.kind}. Next: policyopt info {quote(str(out))}"
        )


def _shares(text: str | None) -> dict[str, float] | None:
    """Read NAME=SHARE pairs."""
    if text is None:
        return None
    shares: dict[str, float] = {}
    for item in text.split(","):
        name, _, value = (part.strip() for part in item.partition("="))
        try:
            share = float(value)
        except ValueError:
            got, step = item.strip() or "an empty one", "E.g. --split fit=0.5,test=0.5."
            raise input_error("--split", "NAME=SHARE pairs", got, step) from None
        if name in shares:
            step = "E.g. fit=0.5,test=0.5."
            raise input_error("--split", "each name once", f"{name} twice", step)
        shares[name] = share
    return shares
