"""What serves requests in many threads, when the process is forked.

A child would find locked whatever another thread held at that moment, for ever, and would draw the
same random numbers as its parent and siblings. So a fork waits until the locks are free, the child
gets new ones, and its streams part.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from typing import Any

#: Seconds to wait for a lock before a fork: one that is held longer is held by who forks.
_PATIENCE = 1.0
#: Of the forks that led from the first process to this one, the number of each.
Line = tuple[int, ...]


_served: weakref.WeakSet[Any] = weakref.WeakSet()
_forking = threading.RLock()  # two threads may fork at once
_taken: list[list[threading.Lock]] = []
_forks = 0  # of this process so far
_line: Line = ()


def tell_of_forks(served: Any) -> None:
    """Have an object's `_lock` held at forks, and its `_renew(line)` called in the child, while it lives."""
    _served.add(served)


def parted(stream: int, line: Line) -> int:
    """Return the number of the stream that a child goes on with: 62 bits, of its own."""
    return int.from_bytes(hashlib.sha256(f"{stream} {line}".encode()).digest()[:8], "big") >> 2


def _before() -> None:
    global _forks
    _forking.acquire()
    _forks += 1
    locks = [served._lock for served in list(_served)]
    _taken.append([lock for lock in locks if lock.acquire(timeout=_PATIENCE)])


def _in_parent() -> None:
    for lock in _taken.pop():
        lock.release()
    _forking.release()


def _in_child() -> None:
    global _forking, _forks, _line
    _forking, _forks, _line = threading.RLock(), 0, (*_line, _forks)
    _taken.clear()
    for served in list(_served):
        served._renew(_line)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
