"""A progress bar on standard error, shown once something takes longer than a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from policyopt.cli.output import complain
from policyopt.runtime.text import printable

_PATIENCE = 1.0


class Step(Protocol):
    """Called with (done, in all), and perhaps what is being done."""

    def __call__(self, done: int, total: int, what: str = "") -> None:
        """Report progress."""


@contextmanager
def progress(title: str) -> Iterator[Step]:
    """Give a callback that draws a bar titled `title`; nothing is drawn for what is quick."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
        console=console, transient=True, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    task = bar.add_task(title, total=None)
    started = time.monotonic()
    shown = told = closed = False

    def step(done: int, total: int, what: str = "") -> None:
        nonlocal shown, told
        if closed:  # a callback kept beyond its bar has nothing to draw on
            return
        late = time.monotonic() - started > _PATIENCE
        if late and console.is_terminal and not shown:
            bar.start()
            shown = True
        elif late and not console.is_terminal and not told:
            complain(f"{title} ...")  # a log wants a line, not a bar
            told = True
        bar.update(
            task, completed=done, total=total, description=printable(f"{title} {what}".rstrip())
        )

    try:
        yield step
    finally:
        closed = True
        if shown:
            bar.stop()
