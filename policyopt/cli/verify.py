"""``policyopt verify``: every runtime that is here, on the golden vectors of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.cli.options import Style
from policyopt.cli.output import Format, print_records, print_table, say


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
    from policyopt.cli.served import runners
    from policyopt.export.manifest import TARGETS
    from policyopt.export.verify import read_export
    from policyopt.export.verify import verify as verdicts
    from policyopt.runtime.errors import CheckError, bad

    needed = [name.strip() for name in require.split(",") if name.strip()]
    for name in needed:
        if name not in TARGETS:
            raise bad("--require", f"of {', '.join(TARGETS)}", name, "E.g. --require c.")
    export = read_export(folder)
    found = list(verdicts(export, runners()))
    rows: list[dict[str, Any]] = [
        {
            "runtime": v.runtime, "rows": v.rows, "error_ulps": v.error,
            "threshold_within": v.within, "absent": v.absent or None,
        }
        for v in found
    ]  # fmt: skip
    if style is not Format.table:
        print_records(rows, style)
    else:
        print_table(
            rows,
            {
                "runtime": lambda r: r["runtime"],
                "golden rows": lambda r: "-" if r["absent"] else f"{r['rows']:,}",
                "exits, answers": lambda r: r["absent"] or "equal",
                "scores off by at most [float32 ulps]": lambda r: _number(r["error_ulps"]),
                "thresholds checked to within": lambda r: _number(r["threshold_within"]),
            },
        )
        say(_rows(export))
    ran = {v.runtime for v in found if not v.absent}
    if missing := [name for name in needed if name not in ran]:
        raise CheckError(
            f"--require: {', '.join(missing)} could not be run, or is not in the export."
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _rows(export: Any) -> str:
    """Return what the golden rows are, and what was left out of them."""
    left = export.left_out
    text = f"{export.edges:,} of the rows lie at thresholds, as near as floats allow."
    if left.rows:
        text += (
            f" {left.rows:,} of {left.of:,} candidates for the others were left out: within "
            f"{max(left.ulps):.2g} float32 ulps of a threshold, where rounding may decide."
        )
    return text
