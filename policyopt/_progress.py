"""Progress of long work: who works reports, and one bar is drawn of it, in notebooks, terminals and the command line.

A bar (tqdm) comes after two seconds and goes when the work ends. It is drawn by a thread that looks at what was
reported last: work need not report often, and pays nothing for it. There is one bar at a time; work in work has none.
Where standard error is neither a terminal nor a notebook's, nothing is drawn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar, copy_context
from importlib.util import find_spec
from threading import Event, Lock, Thread
from typing import Any

from policyopt.runtime._text import printable

Listener = Callable[[int, int, str], Any]
#: Who is told; None: nobody as yet, and the next work may draw a bar.
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)
#: Seconds after which a bar comes, and between two looks at the work.
_PATIENCE, _TICK = 2.0, 0.5
_ONE_BAR = Lock()


@contextmanager
def progress(listener: Callable[[int, int, str], Any] | None) -> Iterator[None]:
    """Tell a function of your own how far long work is, or nobody; within the block no bar is drawn.

    Without it, work of more than two seconds draws a bar (tqdm) in notebooks and terminals. The environment variable
    ``TQDM_DISABLE=1``, set before Python starts, turns all bars off.

    Parameters
    ----------
    listener : callable or None
        Called with (done, in all, what is done) in the thread that works; what it raises ends the work. None: silence.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> told = []
    >>> with po.progress(lambda done, total, what: told.append((done, total, what))):
    ...     frontier = po.curve(data, "max_prob,margin", "50%")
    >>> (0, 2, "max_prob") in told, told[-1]
    (True, (2, 2, 'done'))
    """
    token = _LISTENER.set(listener or _nobody)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def _nobody(done: int, total: int, what: str) -> None:
    """Hear, and say nothing."""


def report(done: int, total: int, what: str) -> None:
    """Say how far the work is; nothing happens where nobody listens."""
    teller()(done, total, what)


def teller() -> Listener:
    """Return who listens here, for threads of the work: they do not know it by themselves."""
    return _LISTENER.get() or _nobody


@contextmanager
def stage(done: int, total: int, what: str) -> Iterator[None]:
    """Begin a stage of the work; what is reported within it is told beside it, and moves no bar."""
    outer = _LISTENER.get()
    if outer is None:
        yield
        return
    outer(done, total, what)

    def beside(inner: int, of: int, told: str) -> None:
        words = told.partition(":")[0]  # not what is beside that
        outer(done, total, f"{what}: {words} {100 * inner // max(of, 1)} %")

    with progress(beside):
        yield


@contextmanager
def working(title: str, line: Callable[[str], None] | None = None) -> Iterator[None]:
    """Draw a bar of the work in this block (or function: it decorates, too), but of what is quick or within other work.

    `line`: is told one line instead where there is no terminal, as logs want it.
    """
    shown = _interactive()
    if _LISTENER.get() is not None or not (shown or line) or not _ONE_BAR.acquire(blocking=False):
        yield
        return
    last, over = [(0, 1, "")], Event()

    def tell(done: int, total: int, what: str) -> None:
        last[0] = (done, max(total, 1), what)

    def draw() -> None:
        if over.wait(_PATIENCE):
            return
        with suppress(OSError, ValueError):  # a stream that was closed meanwhile: no reason to stop
            if shown:
                _draw(title, last, over)
            elif line:
                line(f"{title} ...")

    # With the context, so that a notebook knows of which cell it is.
    thread = Thread(target=copy_context().run, args=(draw,), name="progress", daemon=True)
    thread.start()
    try:
        with progress(tell):
            yield
    finally:
        over.set()
        thread.join()
        _ONE_BAR.release()


def _interactive() -> bool:
    """Return whether somebody looks on: standard error is a terminal, or a notebook's."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


def _draw(title: str, last: list[tuple[int, int, str]], over: Event) -> None:
    """Draw what was reported last until the work is over."""
    if find_spec("tqdm") is None:
        return
    if find_spec("ipywidgets") is None:  # without them the other one warns in notebooks
        from tqdm.std import tqdm
    else:
        from tqdm.auto import tqdm
    look: dict[str, Any] = {"bar_format": "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"}
    look |= {"leave": False, "dynamic_ncols": True}
    done, total, what = last[0]
    with tqdm(desc=_words(title, what), total=total, initial=done, **look) as bar:
        while not over.wait(_TICK):
            done, total, what = last[0]
            if total != bar.total or done < bar.n:  # another part of the work
                bar.reset(total)
            bar.n = done
            bar.set_description_str(_words(title, what))  # which draws


def _words(title: str, what: str) -> str:
    return printable(", ".join(dict.fromkeys(word for word in (title, what) if word)))
