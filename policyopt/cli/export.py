"""``policyopt export``: a policy as Python file, ONNX graphs or C header, with golden vectors."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from policyopt.cli.options import PolicyPath, Seed, read_cache
from policyopt.cli.output import note, say, writing
from policyopt.cli.progress import progress
from policyopt.runtime.errors import input_error
from policyopt.runtime.experts_file import load_any
from policyopt.runtime.policy import Policy


def export(
    policy: PolicyPath,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    to: Annotated[
        list[str] | None,
        typer.Option(
            "--to",
            help="python, onnx or c; comma-separated, or repeated. Default: all that can be written here.",
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Take golden rows from this cache (default: made-up ones)."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", help="Rows of the cache (default: test).")
    ] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Golden rows, at most.")] = 512,
    name: Annotated[
        str, typer.Option("--name", help="Of the C header, and prefix of the names in it.")
    ] = "policyopt_policy",
    seed: Seed = 0,
) -> None:
    """Write a policy for other runtimes, with golden vectors that `policyopt verify` runs."""
    from policyopt.export.bundle import TARGETS, write_bundle
    from policyopt.export.golden import BYTES, row_bytes
    from policyopt.export.samples import golden_of
    from policyopt.export.tracing import trace_policy

    loaded = load_any(policy)
    if not isinstance(loaded, Policy):
        raise input_error(
            "POLICY", "a policy", "expert branches: one policy per context",
            "Export the policy of each context: ExpertPolicy.policies.",
        )  # fmt: skip
    if split is not None and cache is None:
        raise input_error("--split", "given with --cache", split, "Made-up rows have no splits.")
    wanted = [t.strip() for part in to for t in part.split(",")] if to else _possible(TARGETS)
    data = None if cache is None else read_cache(cache)
    size = row_bytes(loaded, ())
    with progress("tracing the policy"):
        graphs = trace_policy(loaded)
        golden = golden_of(loaded, graphs, data, split or "test", rows, seed)
    with progress("writing"), writing(out):
        write_bundle(loaded, out, wanted, golden, graphs, name)
    if BYTES // size < min(rows, golden.left_out.of):
        why = f"each takes {size:,} bytes, all {BYTES >> 20} MiB at most"
        note(f"{len(golden):,} golden rows of {rows:,}: {why}")
    elif len(golden) < rows and (data is not None or rows != 512):
        note(f"{len(golden):,} golden rows of {rows:,}: there are no more")
    say(f"wrote {out}: {', '.join(dict.fromkeys(wanted))}; {len(golden)} golden rows")
    say(f"next: policyopt verify {quote(str(out))}")


def _possible(targets: Sequence[str]) -> list[str]:
    """Return the targets that can be written here, all but ONNX always; say what is left out."""
    if find_spec("onnx") is not None:
        return list(targets)
    note("no ONNX graphs: pip install 'policyopt[onnx]' for them")
    return [target for target in targets if target != "onnx"]
