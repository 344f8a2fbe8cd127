"""What long work says on standard error: how long it will take, and a bar after the first second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from policyopt.cli.output import complain, note
from policyopt.methods.registry import ROWS
from policyopt.runtime.text import printable

_PATIENCE = 1.0

#: Seconds from which on work is foretold.
_LONG = 20.0


def foretell(methods: Sequence[str], rows: int, budgets: int, seeds: int = 1) -> None:
    """Say on standard error about how long fits will take, before they begin, where it is long."""
    known = {spec: ROWS[name] for spec in methods if (name := spec.partition(":")[0]) in ROWS}
    each = {spec: seeds * row.expected_seconds(rows, budgets) for spec, row in known.items()}
    if (total := sum(each.values())) < _LONG:
        return
    slow = sorted(each, key=lambda spec: -each[spec])[:4]
    most = ", ".join(f"{spec} {each[spec]:.0f} s" for spec in slow)
    rest = f" and {len(each) - len(slow)} more" if len(each) > len(slow) else ""
    note(f"about {total:.0f} s of processor time: {most}{rest}")


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
