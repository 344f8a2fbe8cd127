"""The command line; its packages (typer, rich, ...) come with the extra ``fit``."""

from __future__ import annotations

import sys


def main() -> None:
    """Start the command line, or say which extra is missing."""
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
    start()
