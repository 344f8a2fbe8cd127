"""From what an exit gave to what a score rule sees: checked, answered, reduced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .answers import AnswerRule, Plain
from .errors import input_error
from .output import TOP, ExitOutput, reduce_logits, with_log_prob
from .reading import read_logits, reduce_exit


@dataclass(frozen=True)
class Observer:
    """How outputs are looked at, the same in a replay and in an inference loop.

    Parameters
    ----------
    answer : AnswerRule
    kind : {"logits", "probabilities", "record"}
    classes : int
    full : bool
        Whether the logarithms of all class probabilities are wanted (`ExitOutput.log_prob`).
    top : int
        How many of the largest probabilities are wanted of logits and probabilities.
    entropy : bool
        Whether their entropy is wanted; else it is NaN.
    """

    answer: AnswerRule
    kind: str
    classes: int
    full: bool = False
    top: int = TOP
    entropy: bool = True

    def look(
        self, k: int, output: Any, state: tuple[Any, ...], samples: int, name: str = ""
    ) -> tuple[ExitOutput, npt.NDArray[np.floating] | None, tuple[Any, ...]]:
        """Return exit k's reduced answer, its logits (None for records), and the answer's new state.

        Parameters
        ----------
        k : int
        output : array of shape (n, C), `ExitOutput`, or mapping for records
        state : tuple of ndarray
            The answer rule's.
        samples : int
            n.
        name : str, optional
            Of the output, in errors; default by k.

        Raises
        ------
        InputError
            As `read_logits`; another number of rows; reduced outputs where whole ones are needed.
        """
        name = name or f"output of exit {k}"
        plain = isinstance(self.answer, Plain)
        if self.kind == "record" or isinstance(output, ExitOutput):
            if isinstance(output, ExitOutput) and (self.full or not plain):
                raise input_error(
                    name, "all class outputs, (n, C)", "reduced columns", "Pass the logits."
                )
            reduced = reduce_exit(output, self.kind, self.classes, name)
            _check_rows(name, len(reduced), samples)
            return reduced, None, state
        logits = read_logits(output, self.kind, self.classes, name, finite=not plain)
        _check_rows(name, len(logits), samples)
        if not plain:
            logits, state = self.answer.answer(k, logits.astype(np.float32, copy=False), state)
        reduced = reduce_logits(logits, self.top, entropy=self.entropy, name=name if plain else "")
        return with_log_prob(reduced, logits) if self.full else reduced, logits, state


def _check_rows(name: str, rows: int, samples: int) -> None:
    if rows != samples:
        raise input_error(
            name,
            f"one row per sample: {samples}",
            f"{rows} rows",
            "Start with one number per sample, and State.keep the survivors.",
        )
