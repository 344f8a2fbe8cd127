"""A folder that appears whole or not at all, and takes the place of an earlier one in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._files import LOCK, FileLock, refusing, sync_folder

_AT_CWD, _EXCHANGE, _SWAP = -100, 2, 2  # of renameat2 (Linux), of renamex_np (macOS)


@contextlib.contextmanager
def new_folder(out: str | os.PathLike[str], check: Callable[[Path], None]) -> Iterator[Path]:
    """Give a folder to fill that stands at `out` when the block ends well; `check` may refuse what is there."""
    out = Path(os.path.realpath(out))
    if not out.name:
        raise input_error("out", "a folder that can be made", f"{out}", "E.g. exported.")
    fresh, old = (out.with_name(f".{out.name}.policyopt-{what}") for what in ("new", "old"))
    with refusing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(out.with_name(f".{out.name}{LOCK}"), out):
            if old.exists() and not out.exists():  # a crash between two renames
                old.rename(out)
            for left in (fresh, old):
                if left.exists():
                    shutil.rmtree(left)
            if out.exists():
                check(out)
            fresh.mkdir()
            try:
                yield fresh
                for left in fresh.rglob(f"*{LOCK}"):  # a lock that could not be removed at first
                    left.unlink()
                sync_folder(fresh)
                if out.exists():
                    check(out)  # again, for what came while this was made
                    _keep(_exchange(fresh, out, old), out, check)
                else:
                    fresh.rename(out)
                sync_folder(out.parent)
            finally:
                for left in (fresh, old):
                    shutil.rmtree(left, ignore_errors=True)  # what stays, the next run removes


def _keep(gone: Path, out: Path, check: Callable[[Path], None]) -> None:
    """See that the folder replaced may go; what came into it at the last moment is somebody's."""
    with contextlib.suppress(InputError):
        return check(gone)
    try:
        check(gone)  # once more: the system may have refused to read it for a moment
    except InputError as error:
        names = (out.with_name(f"{out.name}.replaced{i or ''}") for i in count())
        kept = next(path for path in names if not os.path.lexists(path))
        gone.rename(kept)
        raise InputError(
            f"{error} The new folder stands at {out}, the earlier one at {kept}."
        ) from error


def _exchange(fresh: Path, out: Path, old: Path) -> Path:
    """Put one folder in the place of another, and say where that is: in one step where the system can, else in two."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        libc = ctypes.CDLL(None, use_errno=True)
        one, other = os.fsencode(fresh), os.fsencode(out)
        if sys.platform == "darwin":
            done = libc.renamex_np(one, other, _SWAP)
        else:
            done = libc.renameat2(_AT_CWD, one, _AT_CWD, other, _EXCHANGE)
        if done == 0:
            return fresh
    out.rename(old)
    fresh.rename(out)
    return old
