"""``policyopt methods``: what there is, where it comes from, what it needs and how it is set."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from policyopt.cli.options import Style
from policyopt.cli.output import Format, note, print_records
from policyopt.methods.registry import FAMILIES, ROWS
from policyopt.methods.row import Row
from policyopt.runtime.errors import input_error


def methods(
    name: Annotated[
        str | None,
        typer.Argument(help="A method or a family (online: those of simulate); without, all."),
    ] = None,
    style: Style = Format.table,
) -> None:
    """List the methods; of one, also its settings and when to choose it."""
    from policyopt.online.entrants import every

    online = every()
    if name is None:
        print_records([_record(row) for row in ROWS.values()], style, _COLUMNS)
        if style is Format.table:
            print_records(online, style, _ONLINE)
            note(
                "`policyopt methods NAME` shows settings; which to choose: docs/choosing_a_policy.md"
            )
        return
    chosen = [one for one in online if name in (one["method"], one["family"])]
    if chosen:
        single = style is Format.table and len(chosen) == 1
        shown = [{"": k, " ": _plain(v)} for k, v in chosen[0].items()] if single else chosen
        print_records(shown, style, None if single else _ONLINE)
        return
    rows = [row for row in ROWS.values() if name in (row.name, row.family)]
    if not rows:
        adapting = [one["method"] for one in online]
        known = [*ROWS, *FAMILIES, *adapting, "online"]
        close = difflib.get_close_matches(name.partition(":")[0].lower(), known, n=1)
        hint = f"Did you mean '{close[0]}'?" if close else "`policyopt methods` lists them."
        allowed = (
            f"a family ({', '.join(FAMILIES)}, online) or a method "
            f"({', '.join(ROWS)}; online: {', '.join(adapting)})"
        )
        raise input_error("NAME", allowed, name, hint)
    if style is not Format.table or len(rows) > 1:
        print_records([_record(row) for row in rows], style, {**_COLUMNS, **_SETTINGS})
        return
    fields = [{"": key, " ": _plain(value)} for key, value in _record(rows[0]).items()]
    print_records(fields, style)


def _record(row: Row) -> dict[str, Any]:
    return {
        "method": row.name,
        "family": row.family,
        "summary": row.summary,
        "paper": row.paper,
        "year": row.year or None,
        "reference": row.reference,
        "needs": row.needs(),
        "supports": row.supports(),
        "wins": row.wins,
        "settings": row.settings(),
    }


def _pairs(settings: dict[str, Any]) -> str:
    def text(value: Any) -> str:
        return str(value).lower() if isinstance(value, bool) or value is None else str(value)

    return ", ".join(f"{key}={text(value)}" for key, value in settings.items()) or "-"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _pairs(value)
    return ", ".join(value) or "-" if isinstance(value, list) else str(value or "-")


_COLUMNS = {
    "method": lambda r: r["method"],
    "family": lambda r: r["family"],
    "leaves where": lambda r: r["summary"],
    "paper": lambda r: f"{r['paper']}, {r['year']}" if r["year"] else r["paper"],
    "needs": lambda r: ", ".join(r["needs"]) or "-",
    "records": lambda r: r["supports"]["records"],
}
_ONLINE = {
    "online policy (policyopt simulate)": lambda r: r["method"],
    "kind": lambda r: r["kind"],
    "what it does": lambda r: r["summary"],
    "settings, as NAME:key=value+key=value": lambda r: _pairs(r["settings"]),
}
_SETTINGS = {"settings (--set)": lambda r: _pairs(r["settings"])}
