"""Files that appear whole or not at all, and locks that end with their process."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ._errors import InputError, input_error

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

#: How the names of locks and of files on their way end: unlike any file of a user's.
LOCK, TEMPORARY = ".policyopt-lock", ".policyopt-tmp"
#: Seconds for which a writer of one file waits for another.
_PATIENCE = 10.0
_NOWHERE = "Write to a place where you may write."
_STEPS = {
    errno.ENOSPC: "The disk is full: free space, or write to another place.",
    errno.EDQUOT: "Your quota is used up: free space, or write to another place.",
    errno.EFBIG: "Files may not become so large here: raise the limit, or write to another place.",
    errno.EIO: "The disk may be failing: write to another one.",
    errno.ENOENT: "It, or the folder it was in, was taken away: write it again.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EROFS: _NOWHERE, errno.EACCES: _NOWHERE, errno.EPERM: _NOWHERE,
}  # fmt: skip
#: What a system says of no room, wherever it comes up.
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}
#: What systems say that cannot make a folder's entries durable.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOSYS}


def refused(path: str | os.PathLike[str], error: OSError) -> InputError:
    """Return the error for what the system refuses to write: full disk, quota, no permission."""
    step = _STEPS.get(error.errno or 0, "Write to another place.")
    return input_error(os.fsdecode(path), "writable", error.strerror or str(error), step)


@contextlib.contextmanager
def refusing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system refuses inside the block into our error, which names `path`."""
    if "\0" in os.fsdecode(path):
        raise input_error("path", "free of NUL", os.fsdecode(path), "Choose another name.")
    try:
        yield
    except UnicodeEncodeError as error:
        raise input_error("path", "a name the system can write", str(path), "Rename it.") from error
    except OSError as error:
        raise refused(path, error) from error


def write_file(path: str | os.PathLike[str], data: bytes | str | Callable[[], bytes | str]) -> None:
    """Write a file whole or not at all, a callable's text while no other writes; links are followed, folders made."""
    with refusing(path):
        path = Path(os.path.realpath(path))
        if path.exists() and not path.is_file():
            what = "a directory" if path.is_dir() else "a pipe or device"
            raise input_error("path", "a file", f"{path} ({what})", "Name a file to write.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}{LOCK}"), path, _PATIENCE):
            put(path, data() if callable(data) else data)


def put(path: Path, data: bytes | str) -> None:
    """Write a file whole or not at all, where no one else writes it (else: `write_file`)."""
    # Beside the target: a rename is atomic within one file system only. What a dead writer left
    # under this name goes first, so that no link there is followed.
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    temporary.unlink(missing_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        descriptor = os.open(temporary, flags, 0o666)
        try:
            with contextlib.suppress(FileNotFoundError):  # what replaces a file is as private as it
                temporary.chmod(stat.S_IMODE(path.stat().st_mode))
            left = memoryview(data.encode() if isinstance(data, str) else data)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(descriptor)


class FileLock:
    """One writer at a time, of processes and threads, waited for `patience` s: a lock that dies with its process."""

    def __init__(self, path: Path, guarded: Path, patience: float = 0.0) -> None:
        self.path, self.guarded, self.patience = path, guarded, patience
        self._descriptor = -1

    def __enter__(self) -> FileLock:
        until = time.monotonic() + self.patience
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        while True:
            self._descriptor = os.open(self.path, flags, 0o666)
            _held.add(self)
            taken = False
            try:
                taken = _lock(self._descriptor)
                if taken and self.held():
                    if not _is_lock(self._descriptor):
                        taken = False  # nor is it removed
                        allowed = "a lock of policyopt's, or nothing"
                        step = "Remove or rename it: it may be a link to a file of yours."
                        raise input_error(os.fsdecode(self.path), allowed, "another file", step)
                    os.ftruncate(self._descriptor, 0)
                    os.write(self._descriptor, f"{os.getpid()}\n".encode())
                    return self
                holder = "" if taken else os.read(self._descriptor, 20).decode("ascii", "replace")
            except BaseException:
                self._drop(unlink=taken and self.held())
                raise
            self._drop(unlink=False)
            if not taken and time.monotonic() >= until:
                raise self._busy(holder.strip())
            time.sleep(0.0 if taken else 0.01)  # taken, but removed by who held it: once more

    def _busy(self, holder: str) -> InputError:
        who = f"process {holder}" if holder.isdecimal() else "another process"
        if holder == str(os.getpid()):
            who = f"this process ({holder})"
        got = f"one more, while {who} is writing it"
        step = "Wait until that has ended, or write elsewhere."
        return input_error(os.fsdecode(self.guarded), "written by one writer at a time", got, step)

    def held(self) -> bool:
        """Whether the lock is this process's, on the file that stands there now."""
        if self._descriptor < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except OSError:  # the lock, or its folder, is no more
            return False

    def check(self) -> None:
        """Refuse to go on where the lock is lost."""
        if not self.held():
            raise input_error(
                os.fsdecode(self.guarded), "locked by its writer until the end",
                f"its lock {self.path.name} removed or replaced, or a fork of the writer",
                "What stands there now was left alone: write it again, from one process.",
            )  # fmt: skip

    def __exit__(self, *error: object) -> None:
        self._drop(unlink=self.held())

    def _drop(self, unlink: bool) -> None:
        """Release; `unlink` removes the file first, or else who waits would lock a file no more there."""
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        try:
            if unlink and sys.platform != "win32":
                with contextlib.suppress(OSError):  # left behind, it is taken over by the next
                    self.path.unlink()
            with contextlib.suppress(OSError):  # closing frees it, but for a fork's copy
                _unlock(descriptor)
        finally:
            os.close(descriptor)
        if unlink and sys.platform == "win32":  # where no open file can be removed
            with contextlib.suppress(OSError):
                self.path.unlink()


_held: set[FileLock] = set()


def _is_lock(descriptor: int) -> bool:
    """Whether an open file is one that only locks: a number or nothing in it, and no other name that leads to it."""
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1 or about.st_size > 32:
        return False
    told = os.read(descriptor, 33).strip()
    os.lseek(descriptor, 0, os.SEEK_SET)
    return not told or told.isdigit()


def _lock(descriptor: int) -> bool:
    """Lock a file, or return False where another holds it."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, 1 << 30, os.SEEK_SET)  # beyond the text, which stays readable
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        os.lseek(descriptor, 0, os.SEEK_SET)
        return False
    return True


def _unlock(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _in_child() -> None:
    """Let go of the parent's locks: a child that outlives it would hold them on."""
    for lock in list(_held):
        with contextlib.suppress(OSError):
            os.close(lock._descriptor)
        lock._descriptor = -1
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
