"""``policyopt export``: a policy as Python file, ONNX graphs or C header, with golden vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from policyopt.cli.options import PolicyPath, Seed, read_cache
from policyopt.cli.progress import progress
from policyopt.runtime.errors import bad
from policyopt.runtime.experts_file import load_any
from policyopt.runtime.policy import Policy


def export(
    policy: PolicyPath,
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="python, onnx or c; comma-separated, or repeated. Default: all."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option("--cache", help="Take golden rows from this cache (default: made-up ones)."),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Rows of the cache.")] = "test",
    rows: Annotated[int, typer.Option("--rows", min=1, help="Golden rows.")] = 512,
    seed: Seed = 0,
) -> None:
    """Write a policy for other runtimes, with golden vectors that `policyopt verify` runs."""
    from policyopt.export.bundle import TARGETS, write_bundle
    from policyopt.export.samples import golden_of
    from policyopt.export.tracing import trace_policy

    loaded = load_any(policy)
    if not isinstance(loaded, Policy):
        raise bad(
            "POLICY", "a policy", "expert branches: one policy per context",
            "Export the policy of each context: ExpertPolicy.policies.",
        )  # fmt: skip
    wanted = [t.strip() for part in to for t in part.split(",")] if to else list(TARGETS)
    data = None if cache is None else read_cache(cache)
    with progress("tracing the policy"):
        graphs = trace_policy(loaded)
        golden = golden_of(loaded, graphs, data, split, rows, seed)
    with progress("writing"):
        write_bundle(loaded, out, wanted, golden, graphs)
    print(f"wrote {out}: {', '.join(dict.fromkeys(wanted))}; {len(golden)} golden rows")
    print(f"next: policyopt verify {out}")
