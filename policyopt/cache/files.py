"""Files of a cache on disk: reads that follow no link and trust no size."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

from policyopt.runtime.errors import input_error

#: ``progress(done_bytes, total_bytes)``
Progress = Callable[[int, int], None]

_CHUNK = 4 << 20


def open_regular(path: Path, argument: str) -> int:
    """Return a read-only descriptor of a regular file; links, pipes and devices are refused.

    Parameters
    ----------
    path : Path
        File to open.
    argument : str
        Name used in errors.

    Returns
    -------
    int
        File descriptor; the caller closes it.

    Raises
    ------
    InputError
        Missing, a link, not a plain file, or not readable.

    Examples
    --------
    >>> open_regular(Path("nothing-here"), "shard")
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'shard' must be a plain file. Got nothing-here (missing)...
    """
    # O_NONBLOCK: opening a named pipe must not wait for a writer that never comes.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    flags |= getattr(os, "O_BINARY", 0)
    if path.is_symlink():  # also where O_NOFOLLOW does not exist
        raise input_error(
            argument, "a plain file", f"{path} (a link)", "Put the file itself there."
        )
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise input_error(
            argument, "a plain file", f"{path} (missing)", "Restore it or write the cache anew."
        ) from None
    except (OSError, ValueError) as error:
        raise input_error(
            argument, "a readable plain file", f"{path} ({error})", "Check the path."
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise input_error(
            argument, "a plain file", f"{path} (not a file)", "Put the file itself there."
        )
    return descriptor


def sha256_file(path: Path, argument: str, step: Callable[[int], None] | None = None) -> str:
    """Return the SHA-256 of a file, read in pieces.

    Parameters
    ----------
    path : Path
        File to read.
    argument : str
        Name used in errors.
    step : callable, optional
        Called with the number of bytes of each piece read.

    Returns
    -------
    str
        64 hexadecimal digits.

    Raises
    ------
    InputError
        As `open_regular`.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "a"
    >>> _ = target.write_bytes(b"")
    >>> sha256_file(target, "shard")[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    with os.fdopen(open_regular(path, argument), "rb") as file:
        chunk = min(_CHUNK, os.fstat(file.fileno()).st_size + 1)  # as much memory is taken at once
        while piece := file.read(chunk):
            digest.update(piece)
            if step is not None:
                step(len(piece))
    return digest.hexdigest()
