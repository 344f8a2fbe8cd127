"""``policyopt verify``: every runtime that is here, on the golden vectors of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.options import Style
from policyopt.cli.output import Format, print_records, print_table


def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What `policyopt export` wrote.")],
    require: Annotated[
        str, typer.Option("--require", help="Runtimes that must be here: python, onnx, c.")
    ] = "",
    style: Style = Format.table,
) -> None:
    """Run every runtime present on the golden vectors; exit code 4 at the first difference.

    The Python file and the C header are run for that: verify folders whose writer you trust.
    """
    from policyopt.export.bundle import TARGETS
    from policyopt.export.verify import verify as verdicts
    from policyopt.runtime.errors import CheckError, bad

    needed = [name.strip() for name in require.split(",") if name.strip()]
    for name in needed:
        if name not in TARGETS:
            raise bad("--require", f"of {', '.join(TARGETS)}", name, "E.g. --require c.")
    found = list(verdicts(folder))
    rows: list[dict[str, Any]] = [
        {"runtime": v.runtime, "rows": v.rows, "error_ulps": v.error, "absent": v.absent or None}
        for v in found
    ]
    if style is not Format.table:
        print_records(rows, style)
    else:
        print_table(
            rows,
            {
                "runtime": lambda r: r["runtime"],
                "golden rows": lambda r: "-" if r["absent"] else f"{r['rows']:,}",
                "exits, answers": lambda r: r["absent"] or "equal",
                "scores off by at most [float32 ulps]": lambda r: (
                    "-" if r["absent"] else f"{r['error_ulps']:.2g}"
                ),
            },
        )
    ran = {v.runtime for v in found if not v.absent}
    if missing := [name for name in needed if name not in ran]:
        raise CheckError(
            f"--require: {', '.join(missing)} could not be run, or is not in the export."
        )
