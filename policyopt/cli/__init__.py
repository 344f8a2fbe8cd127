"""The command line; its packages (typer, rich, ...) come with the extra ``fit``."""

from __future__ import annotations

import os
import signal
import sys

#: Exit code of what Ctrl-C ended, as shells have it.
INTERRUPTED = 130
#: Whether Ctrl-C came while a command ran.
interrupted = False


def main() -> None:
    """Start the command line, or say which extra is missing; Ctrl-C ends it in one line at any time."""
    # Who started us may have SIGINT ignored (nohup): then it stays so.
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if heeded:
        signal.signal(signal.SIGINT, _leave)
    try:
        from policyopt.cli.app import main as start
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("policyopt"):
            raise
        print(
            f"error: the command line needs the package '{error.name}', which is not installed. "
            "Install the extra that has it: pip install 'policyopt[fit]'. To run a fitted policy "
            "with numpy alone: python -m policyopt.runtime POLICY OUTPUTS.",
            file=sys.stderr,
        )
        sys.exit(2)
    if heeded:
        signal.signal(signal.SIGINT, _stop)
    try:
        start()
    except BaseException:
        if not interrupted:
            raise
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    finally:
        if heeded:
            signal.signal(signal.SIGINT, _leave)


def _leave(*_: object) -> None:
    """Leave at once: where packages are loaded or unloaded there is nothing to clean up."""
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
