"""Progress of long work, told to whoever listens: methods tell, the command line draws a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_LISTENER: ContextVar[Callable[[int, int, str], None] | None] = ContextVar("listener", default=None)


def report(done: int, total: int, what: str) -> None:
    """Say how far the outermost long work is; nothing happens where nobody listens."""
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, total, what)


@contextmanager
def progress_callback(listener: Callable[[int, int, str], None] | None) -> Iterator[None]:
    """Let `listener` be told within the block; None: within it, nobody listens."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)
