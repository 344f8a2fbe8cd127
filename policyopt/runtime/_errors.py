"""Errors with an exit code: each names the argument, what is allowed, what came, what next."""

from __future__ import annotations

from ._text import SHOWN, printable


class PolicyOptError(Exception):
    """Root of every error that policyopt raises on purpose.

    ``exit_code`` is what the command line returns for it. Messages may quote files: they are one
    printable line.
    """

    exit_code = 2

    def __init__(self, *args: object) -> None:
        super().__init__(*(printable(a) if isinstance(a, str) else a for a in args))


class InputError(PolicyOptError, ValueError):
    """An argument, a file or an array is not what it must be (exit code 2)."""


class BudgetError(PolicyOptError, ValueError):
    """The budget (or risk level) cannot be met (exit code 3)."""

    exit_code = 3
    levels: tuple[dict[str, object], ...] = ()  # of a test that showed none, as `certify` has them


class CheckError(PolicyOptError):
    """A check that was asked for failed, e.g. a parity run (exit code 4)."""

    exit_code = 4


class MissingExtraError(PolicyOptError, ImportError):
    """An optional package is not installed; the message names the extra (exit code 2)."""


def message(argument: str, allowed: str, got: object, next_step: str) -> str:
    """Return the one sentence that all input errors share: what is wrong, what it must be, what came, what next."""
    try:
        shown = printable(got if isinstance(got, str) else repr(got), SHOWN)
    except ValueError:  # hexadecimal numbers of a file may be too long to print in decimal
        shown = "a number too long to print"
    return f"'{printable(argument, SHOWN)}' must be {allowed}. Got {shown}. {next_step}".rstrip()


def input_error(argument: str, allowed: str, got: object, next_step: str = "") -> InputError:
    """Return an `InputError` in the shared form (see `message`)."""
    return InputError(message(argument, allowed, got, next_step))
