"""How much a file may ask for: bytes are counted before memory is taken for them.

Each file has a `Room`: what grows more than measured numbers do comes out of a small allowance, all of it
out of the memory that is free. A user who trusts a file says how much it may take, by `VARIABLE`.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ._errors import input_error

#: Most bytes that one file may unpack to, stated by the user; replaces the two rules below.
VARIABLE = "POLICYOPT_MAX_BYTES"
#: A byte of a file of measured numbers does not become more than this many (one-hot outputs: 100).
RATIO = 100
#: Bytes that a file may unpack to however few it has: small tables of constants do.
FREE = 64 << 20
#: Bytes of one piece of a file that is read piece by piece.
PIECE = 16 << 20
#: Share of the free memory that a file may take: the rest is for what is made of it.
_SHARE = 0.75


class Room:
    """The bytes that one file may unpack to; `step` is what to do besides raising the limit."""

    def __init__(self, argument: str, file: str, step: str = "") -> None:
        self.argument, self.file, self.step = argument, file, step
        self.taken, self._grown, self._stated = 0, 0, stated_limit()
        self._memory = None if self._stated is not None else free_memory()

    def take(self, decoded: int, encoded: int = 0) -> None:
        """Count bytes that are about to be unpacked from `encoded` ones; refuse what is too much."""
        self.taken += decoded
        self._grown += decoded if decoded > RATIO * encoded else 0
        if self._stated is not None:
            if self.taken > self._stated:
                self._refuse(f"{self._stated} bytes, as {VARIABLE} says")
        elif self._grown > FREE:
            self._refuse(f"{RATIO} times its size, or {FREE} bytes")
        elif self._memory is not None and self.taken > _SHARE * self._memory:
            free = int(_SHARE * self._memory)
            self._refuse(f"{free} bytes, three quarters of the memory that is free")

    def _refuse(self, most: str) -> None:
        got = f"{self.file}, of which {self.taken} bytes are asked for so far"
        step = f"{VARIABLE} to the bytes that it may take, e.g. {VARIABLE}={2 * self.taken}."
        step = f"If you trust the file and have the memory, set {step}"
        allowed = f"a file that unpacks to at most {most}"
        raise input_error(self.argument, allowed, got, f"{self.step} {step}".strip())


def stated_limit() -> int | None:
    """Return the bytes that the user allows a file, or None."""
    text = os.environ.get(VARIABLE, "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18 or not int(text):
        raise input_error(VARIABLE, "a number of bytes", text, f"E.g. {VARIABLE}=8000000000.")
    return int(text)


def free_memory() -> int | None:
    """Return the bytes that system, container (cgroup) and process (``ulimit -v``) leave; None where none tells."""
    found = [n for n in (_of_system(), _of_container(), _of_process()) if n is not None]
    return max(min(found), 0) if found else None


def _of_system() -> int | None:
    with suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        return int(dict(at.split(":") for at in lines)["MemAvailable"].split()[0]) << 10
    with suppress(OSError, ValueError, AttributeError):  # all there is: better than nothing known
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _of_container() -> int | None:
    old = "memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"
    for most, used in (("memory.max", "memory.current"), old):
        with suppress(OSError, ValueError, KeyError):  # no such file, or the text "max"
            root = Path("/sys/fs/cgroup")
            limit, now = (int((root / name).read_text()) for name in (most, used))
            stat = (root / used).with_name("memory.stat").read_text().split()
            # Files read before stand in memory until it is needed.
            return limit - now + int(dict(zip(stat[::2], stat[1::2], strict=True))["inactive_file"])
    return None


def _of_process() -> int | None:
    with suppress(ImportError, OSError, ValueError):
        import resource

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        if most != resource.RLIM_INFINITY:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            return most - pages * os.sysconf("SC_PAGE_SIZE")
    return None
