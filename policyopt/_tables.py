"""Tables for a paper, a line per method and a column per budget: LaTeX (booktabs), Markdown, CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from policyopt.runtime._checks import check_one_of
from policyopt.runtime._text import SHOWN, csv_cell, printable

STYLES = ("latex", "markdown", "csv")
_LATEX = {c: f"\\{c}" for c in "{}$&#%_"} | {
    "\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "-": "{-}", "`": r"\textasciigrave{}",
}  # fmt: skip
_MARKDOWN = {c: f"\\{c}" for c in r"\`*_[]|~$"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"}


def escaped(text: str, style: str) -> str:
    """Return a text that the style shows letter by letter."""
    signs = {"latex": _LATEX, "markdown": _MARKDOWN}[style]
    return "".join(signs.get(c, c) for c in printable(text, SHOWN))


def paper_table(
    style: str, what: str, names: Sequence[str], columns: Mapping[str, Mapping[str, Any]], told: str
) -> str:
    """Return a table of names by columns, cells (share, mark): 2 is the best, 1 not told apart from it; or a text."""
    check_one_of("style", style, STYLES, "E.g. latex.")
    if style == "csv":  # numbers only
        lines = [[what, *columns]]
        for name in names:
            cells = (column.get(name, "") for column in columns.values())
            lines.append(
                [name, *(round(100 * c[0], 6) if isinstance(c, tuple) else c for c in cells)]
            )
        csv.writer(found := io.StringIO(), lineterminator="\n").writerows(
            map(csv_cell, line) for line in lines
        )
        return found.getvalue()
    marks = ("{}", r"{}$^\dagger$", r"\textbf{{{}}}")
    if style == "markdown":
        marks = "{}", "{}†", "**{}**"
    body = [[escaped(head, style) for head in (what, *columns)]]
    for name in names:
        cells = [escaped(name, style)]
        for column in columns.values():
            cell = column.get(name, "-")
            plain = isinstance(cell, str)
            cells.append(
                escaped(cell, style) if plain else marks[cell[1]].format(f"{100 * cell[0]:.2f}")
            )
        body.append(cells)
    if style == "markdown":
        body.insert(1, ["---", *["---:"] * len(columns)])
        rows = [f"| {' | '.join(cells)} |" for cells in body]
        return "\n".join([*rows, "", escaped(told, style).replace("(dagger)", "†"), ""])
    head, *rest = (f"{' & '.join(cells)} \\\\" for cells in body)
    told = escaped(told, style).replace("(dagger)", r"$^\dagger$")
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{told}}}",
        rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule", head, r"\midrule", *rest, r"\bottomrule",
        r"\end{tabular}", r"\end{table}", "",
    ])  # fmt: skip


def caption(graded: bool, unit: str, confidence: float, test: str) -> str:
    """Return what a table of qualities says of itself."""
    word = "Quality" if graded else "Accuracy"
    told = f"{word} [%] where each may cost so much [{unit}]; needing less earns nothing. "
    told += "Bold: the best; (dagger): not told apart from it"
    return f"{told} ({test}, {100 * confidence:g} %). Group: methods that share a letter are not told apart."
