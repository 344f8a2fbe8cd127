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

    On another processor than the one that exported, scores may differ by the ulps stated, and exits of
    rows within those of a threshold: these are counted and told, with exit code 0.

    The Python file and the C header are run for that: verify folders whose writer you trust.
    """
    from policyopt.cli.served import runners
    from policyopt.export.manifest import TARGETS
    from policyopt.export.verify import read_export
    from policyopt.export.verify import verify as verdicts
    from policyopt.runtime.errors import CheckError, input_error

    needed = [name.strip() for name in require.split(",") if name.strip()]
    for name in needed:
        if name not in TARGETS:
            raise input_error("--require", f"of {', '.join(TARGETS)}", name, "E.g. --require c.")
    export = read_export(folder)
    found = list(verdicts(export, runners()))
    rows: list[dict[str, Any]] = [
        {
            "runtime": v.runtime, "rows": v.rows, "error_ulps": v.error,
            "threshold_within": v.within, "turned_at_threshold": v.turned,
            "same_machine": export.same_machine, "absent": v.absent or None,
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
                "exits, answers": lambda r: r["absent"] or _equal(r["turned_at_threshold"]),
                "scores off by at most [float32 ulps]": lambda r: _number(r["error_ulps"]),
                "thresholds checked to within": lambda r: _number(r["threshold_within"]),
            },
        )
        say(_rows(export))
        say(_machine(export, found[0]))
    ran = {v.runtime for v in found if not v.absent}
    if missing := [name for name in needed if name not in ran]:
        raise CheckError(
            f"--require: {', '.join(missing)} could not be run, or is not in the export."
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _equal(turned: int) -> str:
    return f"equal but {turned:,} at a threshold" if turned else "equal"


def _machine(export: Any, numpy: Any) -> str:
    """Return whether the scores recorded were this machine's, and what was asked for that."""
    from policyopt.export.manifest import ULPS

    if export.same_machine:
        return (
            "Exported on a machine with this one's arithmetic: numpy's scores and exits are equal."
        )
    there = export.machine
    return (
        f"Exported on another processor or C library (numpy {there['numpy']}, {there['architecture']}, "
        f"{' '.join(there['features'])}; {there['libc'] or there['system']}): numpy's scores differ by "
        f"{_number(numpy.error)} float32 ulps of the {ULPS['c']} stated, "
        f"{numpy.turned:,} rows at a threshold leave otherwise."
    )


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
