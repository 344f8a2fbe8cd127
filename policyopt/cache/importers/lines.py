"""Lines of a text file, one at a time, of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from policyopt.runtime.errors import input_error

#: Bytes of one line: 12 exits of 50,000 classes take half of it.
MAX_LINE = 16 << 20


def lines_of(path: Path) -> Iterator[bytes]:
    r"""Yield the lines of a file, refused where one is too long to be a sample.

    Examples
    --------
    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "a.csv"
    >>> _ = place.write_text("conf_0\n0.5\n")
    >>> list(lines_of(place))
    [b'conf_0\n', b'0.5\n']
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                if len(line) > MAX_LINE:
                    step = "One sample a line; save many numbers per sample as .npz."
                    raise input_error(
                        f"{path.name} line {number}", f"of at most {MAX_LINE} bytes", "more", step
                    )
                yield line
    except OSError as error:
        raise input_error(
            "SRC", "a readable file", f"{path} ({error})", "Check the path."
        ) from error
