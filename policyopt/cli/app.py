"""The command line: commands, exit codes, one message per error.

Exit code 0 done; 1 internal error; 2 bad usage or input; 3 budget or risk level cannot be met;
4 a check failed; 130 interrupted.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from typing import Any

import typer

from policyopt import cli
from policyopt.cli import (
    calibration,
    compare,
    curve,
    demo,
    evaluate,
    explain,
    export,
    fit,
    import_,
    info,
    methods,
    plan,
    run,
    simulate,
    tune,
    verify,
)
from policyopt.cli.output import complain
from policyopt.runtime.errors import PolicyOptError
from policyopt.runtime.files import FULL, refused
from policyopt.runtime.text import printable

#: What the parser raises on bad usage, quoting arguments: click's, or typer's copy of it.
Usage: Any = typer.BadParameter.__mro__[2]
app = typer.Typer(
    name="policyopt",
    help=(
        "Fit early-exit policies after training, from cached per-exit outputs. "
        "Exit codes: 0 done, 2 bad usage or input, 3 the budget cannot be met, 4 a check failed. "
        "--debug, anywhere, shows the traceback of an error."
    ),
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("import")(import_.import_)
app.command("info")(info.info)
app.command("methods")(methods.methods)
app.command("fit")(fit.fit)
app.command("evaluate")(evaluate.evaluate)
app.command("explain")(explain.explain)
app.command("curve")(curve.curve)
app.command("compare")(compare.compare)
app.command("tune")(tune.tune)
app.command("calibration")(calibration.calibration)
app.command("plan")(plan.plan)
app.command("run")(run.run)
app.command("export")(export.export)
app.command("verify")(verify.verify)
app.command("simulate")(simulate.simulate)
app.command("demo")(demo.demo)


def main() -> None:
    """Run the command line and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a name that the terminal cannot show ends nothing
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    sys.argv = [argument for argument in sys.argv if argument != "--debug"]
    try:
        sys.exit(app(standalone_mode=False))
    except BrokenPipeError:  # the reader of our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as caught:
        if cli.interrupted:  # compiled code makes errors of its own of Ctrl-C
            raise
        error: Any = caught
        if isinstance(error, Usage):
            error.message = "\n".join(map(printable, error.message.split("\n")))
            error.show()
            sys.exit(error.exit_code)
        if debug:
            complain(*traceback.format_exc().splitlines())
        known = isinstance(error, (PolicyOptError, OSError, MemoryError))
        fault = f"{type(error).__name__}: {error}. Please report it; --debug shows where."
        complain(f"error: {_message(error)}" if known else f"internal error: {fault}")
        sys.exit(getattr(error, "exit_code", 2) if known else 1)


def _message(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return f"out of memory. {f'{error}. ' if str(error) else ''}Give fewer rows, exits or budgets, or more memory."
    if isinstance(error, OSError) and error.errno in FULL:
        return str(refused(error.filename or "the output", error))
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"'{error.filename}': {error.strerror}. Check the path and its permissions."
    return str(error)
