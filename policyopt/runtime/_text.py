"""Text that came from a file or an argument, made harmless where it is shown; it is kept as it is."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

#: Characters shown of one value, of a whole line, and of a cell.
SHOWN, LINE, CELL = 200, 4000, 1 << 20
#: What the name of an option that holds a password has in it.
SECRET = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)
# Bounded, so that no text takes long. A path has one slash left of two, a key of a file none.
_USER = re.compile(r"(:/{0,2}[^\s/:]{0,99}:)\S{1,1024}(?=@)")
_QUERY = re.compile(
    rf"([?&][\w-]{{0,32}}(?:{SECRET.pattern}|sig|credential)[\w-]{{0,32}}=)[^\s&]+", re.IGNORECASE
)
#: What a spreadsheet takes for a formula; some make the wide signs narrow.
_FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001
# Where lists are divided by semicolons, what follows one begins a cell.
_NEXT = re.compile(rf"(;\s*)(?=[{re.escape(''.join(_FORMULA))}])")
_NUMBER = re.compile(r"[-+]?(\d[\d,]*\.?\d*|\.\d+)(e[-+]?\d+)?%?", re.IGNORECASE | re.ASCII)

#: What stands around an answer, or behind it, and is none of it; signs and a point before a number are.
_AROUND, _BEHIND = " \"'`*_“”„‘’«»()[]{}", ".,;:?…"  # noqa: RUF001


def printable(text: str, most: int = LINE) -> str:
    """Return a text as one line that any terminal shows, escaped, passwords in URLs hidden, cut to `most`."""
    text = _shortened(_QUERY.sub(r"\1***", _USER.sub(r"\1***", text)), most)
    if text.isprintable():
        return text
    return _shortened("".join(c if c.isprintable() else ascii(c)[1:-1] for c in text), most)


def csv_cell(value: Any) -> Any:
    """Return a cell: numbers as they are, a text on one line and never a spreadsheet's formula."""
    if not isinstance(value, str):
        return value
    text = printable(value, CELL)
    formula = text.lstrip().startswith(_FORMULA) and not _NUMBER.fullmatch(text)
    return _NEXT.sub(r"\1'", f"'{text}" if formula else text)


def picture_text(text: str) -> str:
    """Return a text that a picture shows letter by letter: no mathematics between dollar signs."""
    text = printable(text, SHOWN).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # legends leave those out


def same_answer(text: str) -> str:
    """Return what texts that mean the same have in common: no case, spaces, quotes, brackets, full stop or "the"."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return text.lstrip(_AROUND).rstrip(_AROUND + _BEHIND).removeprefix("the ") or text


def _shortened(text: str, most: int) -> str:
    head = (most - 3) // 2
    return text if len(text) <= most else f"{text[:head]}...{text[head + 3 - most :]}"
