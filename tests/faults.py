"""A function run in a forked child whose n-th file operation goes wrong, and what is in a folder then."""

import errno
import fcntl
import os
import traceback
import warnings
from contextlib import contextmanager

from policyopt.runtime._errors import PolicyOptError

#: Whatever opens, changes, moves, removes or locks a file.
OPERATIONS = (
    "open", "close", "write", "fsync", "ftruncate", "chmod", "mkdir", "rename", "replace", "unlink",
    "remove", "rmdir",
)  # fmt: skip
#: What goes wrong, and with which operations: the process is killed before one, or when half of a
#: write is done; the system refuses one, or from then on all that need room.
MODES = {
    "killed before": (*OPERATIONS, "flock"),
    "killed before a rename": ("rename",),
    "killed within": ("write",),
    "refused once": tuple(name for name in (*OPERATIONS, "flock") if name != "close"),
    "full from then on": ("open", "write", "fsync", "mkdir", "rename", "replace"),
}
DONE, REFUSED, KILLED, OTHER = 0, 2, 9, 1  # REFUSED by our error; OTHER errors are shown


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def quiet():
    """Fork within: that other threads run is the point of some tests, so no warning of it is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def run(work, at, mode):
    """Run `work` in a child whose operation of number `at` goes wrong; return its code, and whether it came so far."""
    read, write = os.pipe()
    with quiet():
        child = os.fork()
    if child:
        os.close(write)
        reached = bool(os.read(read, 1))
        os.close(read)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), reached
    code = OTHER
    try:
        _break(at, mode, write)
        work()
        code = DONE
    except PolicyOptError:
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _break(at, mode, tell):
    """Count operations from here on; the one of number `at` goes wrong."""
    count, pid, whole_write, leave = 0, os.getpid(), os.write, os._exit

    def broken(real):
        def call(*args, **named):
            nonlocal count
            number, count = count, count + (os.getpid() == pid)
            if os.getpid() != pid or number < at:
                return real(*args, **named)
            if number == at:
                whole_write(tell, b"!")
            if mode == "killed within":
                real(args[0], bytes(args[1])[: len(args[1]) // 2])
            if mode.startswith("killed"):
                leave(KILLED)
            if number == at or mode == "full from then on":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **named)

        return call

    for name in MODES[mode]:
        module = fcntl if name == "flock" else os
        setattr(module, name, broken(getattr(module, name)))
