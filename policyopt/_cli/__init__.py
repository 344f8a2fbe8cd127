"""The command line; its packages (typer, rich, ...) come with the extra ``fit``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

#: Exit code of what Ctrl-C ended, as shells have it.
INTERRUPTED = 130
#: Whether Ctrl-C came while a command ran.
interrupted = False
#: What ``--plugin`` named.
plugins: list[str] = []


def main() -> None:
    """Start the command line, or say which extra is missing; Ctrl-C ends it in one line at any time."""
    # Who started us may have SIGINT ignored (nohup): then it stays so.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    try:
        from policyopt._cli.app import main as start
    except ModuleNotFoundError as error:
        if not (told := missing(error)):
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(2)
    try:
        if heeded:
            signal.signal(signal.SIGINT, _stop)  # in here: it may come at once
        start()
    except BaseException:
        if not interrupted:
            raise
        with suppress(OSError):
            sys.stdout.flush()
        _leave()  # sys.exit may end by the signal itself: Python notes what code run from text let pass
    finally:
        if heeded:
            signal.signal(signal.SIGINT, _leave)


def missing(error: BaseException) -> str:
    """Return what to install where an error is that of a missing package of others, else nothing."""
    name = getattr(error, "name", None) or ""
    if not isinstance(error, ModuleNotFoundError) or name.startswith("policyopt"):
        return ""
    return (
        f"the command line needs the package '{name}', which is not installed. "
        "Install the extra that has it: pip install 'policyopt[fit]'. To run a fitted policy "
        "with numpy alone: python -m policyopt.runtime POLICY OUTPUTS."
    )


@contextmanager
def loading() -> Iterator[None]:
    """Let Ctrl-C leave at once in this block: where packages are loaded there is nothing to clean up."""
    before = signal.getsignal(signal.SIGINT)
    if before is _stop:
        signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        if before is _stop:
            signal.signal(signal.SIGINT, _stop)


def _leave(*_: object) -> None:
    """Leave at once."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _stop(*_: object) -> None:
    """Unwind, so that what is half-written is removed; a second Ctrl-C does not wait for that."""
    signal.signal(signal.SIGINT, _leave)
    # Compiled code may turn the exception into one of its own, or lose it: whoever sees one asks here.
    sys.unraisablehook = lambda _: _leave()
    global interrupted
    interrupted = True
    raise KeyboardInterrupt
