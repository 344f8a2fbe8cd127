"""``python -m policyopt.runtime POLICY OUTPUTS``: exits and predictions as CSV, numpy only."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

from ._errors import PolicyOptError
from ._experts import load_any
from ._family import at_level
from ._files import refused
from ._outputs_file import decide_arrays, outputs_of, read_new
from ._text import printable


def main() -> int:
    """Run a policy over new outputs and print one line per sample."""
    parser = _Parser(prog="python -m policyopt.runtime", description=__doc__)
    parser.add_argument("policy", help="policy file (JSON)")
    parser.add_argument("outputs", help=".npy or .npz with the outputs of all exits")
    parser.add_argument("--axes", choices=("KNC", "NKC"), help="order of the first two axes")
    parser.add_argument("--level", help="of a family: a number, a budget such as 35%%, or a name")
    given = parser.parse_args()
    try:
        policy = at_level(load_any(given.policy), given.level)
        name = Path(given.outputs).name
        arrays, keys = read_new(given.outputs, policy)
        outputs = outputs_of(arrays, policy, given.axes, name, keys)
        decisions = decide_arrays(policy, outputs, arrays, name)
    except PolicyOptError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    try:
        names = ["exit", "prediction", "cost", *(["abstained"] if policy.abstains else [])]
        print("row", *names, sep=",")
        for row, columns in enumerate(zip(*(getattr(decisions, n) for n in names), strict=True)):
            print(row, *columns, sep=",")
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"error: {refused('the output', error)}", file=sys.stderr)
        return 2
    return 0


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(message))  # it quotes arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
