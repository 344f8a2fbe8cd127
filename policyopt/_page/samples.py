"""Images and texts of rows, shown beside what was decided of them: from a folder, or a column of a table."""

from __future__ import annotations

from base64 import b64encode
from pathlib import Path
from typing import Any

from policyopt._optional import need
from policyopt.runtime._errors import input_error
from policyopt.runtime._text import printable

# fmt: off
#: Images in all, bytes of one, bytes of all, and letters of a text.
MOST, EACH, ALL, LETTERS = 24, 60_000, 2_000_000, 400
#: How files begin that browsers draw and never run: SVG is a document with scripts.
_IMAGES = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"GIF87a": "gif", b"GIF89a": "gif"}


class Samples:
    """Called with a row's number in the cache: its ``text`` or ``image``; `notes` say what was left out.

    `rows`: how many lines a table must have, `of` what.
    """

    def __init__(self, path: str, argument: str = "samples", rows: int = 0, of: str = "") -> None:
        self.folder, self.texts, self.notes, self.sizes = (Path(path), list[Any](), list[str](), list[int]())
        if self.folder.is_dir():
            return
        name, _, column = path.rpartition(":")
        kind = {".csv": "read_csv", ".parquet": "read_parquet"}.get(Path(name).suffix.lower(), "")
        if not kind or not Path(name).is_file():
            step = "E.g. a folder with 0.png, 1.png, ... by row, or texts.csv:COLUMN."
            raise input_error(argument, "a folder, or FILE:COLUMN of a .csv or .parquet file", path, step)
        frame = getattr(need("pandas", "fit", "to read tables"), kind)(name)
        if column not in frame:
            known = ", ".join(map(str, frame.columns[:20]))
            raise input_error(f"{argument}: column", f"one of {known}", column, f"E.g. {name}:{frame.columns[0]}.")
        self.texts = frame[column].tolist()
        if rows and rows != len(self.texts):
            step = "Give the file that was imported, its rows in that order."
            allowed = f"with the {rows:,} rows of {of}, in the order imported"
            raise input_error(argument, allowed, f"{len(self.texts):,} in {name}", step)

    def __call__(self, row: int) -> dict[str, Any]:
        """Return what a row has."""
        if self.texts:
            return {"text": printable(str(self.texts[row]), LETTERS)} if row < len(self.texts) else {}
        for end in (".png", ".jpg", ".jpeg", ".gif", ".txt"):
            if (path := self.folder / f"{row}{end}").is_symlink():
                self.notes.append(f"{path.name} is not shown: it is a link, which may lead anywhere")
            elif path.is_file():
                with path.open("rb") as file:
                    content = file.read(EACH + 1)
                if end == ".txt":
                    return {"text": printable(content.decode("utf-8", "replace"), LETTERS)}
                return self._image(path.name, content)
        return {}

    def _image(self, name: str, content: bytes) -> dict[str, Any]:
        kind = next((of for head, of in _IMAGES.items() if content.startswith(head)), None)
        room = len(content) <= EACH and len(self.sizes) < MOST and sum(self.sizes) + len(content) <= ALL
        if kind is None or not room:
            why = f"over {EACH // 1000} KB, or than {MOST} images and {ALL // 1_000_000} MB in all may be"
            self.notes.append(f"{name} is not shown: {why if kind else 'it is no PNG, JPEG or GIF'}")
            return {}
        self.sizes.append(len(content))
        return {"image": f"data:image/{kind};base64,{b64encode(content).decode()}"}
