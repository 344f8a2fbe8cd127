"""What every confidence rule is: from the top probability at exit k to that of being right.

It leaves the answer and the decision as they are and says how far the answer can be trusted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np

from ..errors import input_error
from ..output import ExitOutput
from ..parameters import numbers
from ..typing import Floats

#: Probabilities are kept this far from 0 and 1 where their log-odds are taken.
EDGE = 1e-9
_LARGEST = 1e9


class ConfidenceRule(ABC):
    """The probability that exit k's prediction is right.

    A subclass is a frozen dataclass: its fields are its parameters, one entry per exit, and
    stand in the artifact.
    """

    name: ClassVar[str]

    @abstractmethod
    def curve(self, k: int, top: Floats) -> Floats:
        """Map top probabilities of exit k, (n,), to probabilities of being right, (n,)."""

    def confidence(self, k: int, output: ExitOutput) -> Floats:
        """Return the probability that exit k's prediction is right, (n,) float64 in [0, 1].

        Parameters
        ----------
        k : int
        output : ExitOutput
            Of exit k; a record serves too.
        """
        # A copy side by side in memory: numpy's arithmetic is then the same for one row and many.
        return self.curve(k, np.ascontiguousarray(output.confidence, dtype=np.float64))

    def check(self, exits: int, classes: int) -> None:
        """Raise `InputError` where the parameters are not made for K exits."""
        del classes
        for field in fields(self):  # type: ignore[arg-type]
            count = len(getattr(self, field.name))
            if count != exits:
                raise input_error(
                    f"{field.name} of confidence {self.name}", f"one entry per exit: {exits}",
                    count, "Check the policy.",
                )  # fmt: skip

    def params(self) -> dict[str, Any]:
        """Return the fields of the rule as lists."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {
            name: v.tolist() if isinstance(v, np.ndarray) else [part.tolist() for part in v]
            for name, v in values.items()
        }


def coefficients(rule: ConfidenceRule, least: dict[str, float]) -> None:
    """Check the rule's fields as one number per exit, and freeze them.

    Parameters
    ----------
    rule : ConfidenceRule
    least : mapping
        Smallest value of a field; others are free within 1e9.

    Raises
    ------
    InputError
        No finite numbers, unequal lengths, too small or too large.
    """
    lengths = set()
    for field in fields(rule):  # type: ignore[arg-type]
        name = f"{field.name} of confidence {rule.name}"
        low = least.get(field.name, -_LARGEST)
        array = numbers(name, getattr(rule, field.name), 1)
        if ((array < low) | (array > _LARGEST)).any():
            raise input_error(
                name, f"in [{low:g}, {_LARGEST:g}]", array.tolist(), "Check the policy."
            )
        object.__setattr__(rule, field.name, array)
        lengths.add(len(array))
    if len(lengths) != 1:
        raise input_error(
            f"parameters of confidence {rule.name}", "of one length", sorted(lengths),
            "Check the policy.",
        )  # fmt: skip


def per_exit(name: str, value: Any) -> tuple[Floats, ...]:
    """Check one list of numbers in [0, 1] per exit, perhaps of different lengths.

    Parameters
    ----------
    name : str
        Used in errors.
    value : sequence of K arrays

    Returns
    -------
    tuple of K ndarrays, float64, read-only

    Raises
    ------
    InputError
        No list of lists, or something outside [0, 1].

    Examples
    --------
    >>> per_exit("values", [[0.5], [0, 1]])
    (array([0.5]), array([0., 1.]))
    """
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise input_error(
            name, "one list of numbers per exit", type(value).__name__, "Check the policy."
        )
    arrays = tuple(numbers(f"{name}, exit {k}", part, 1) for k, part in enumerate(value))
    for k, array in enumerate(arrays):
        if ((array < 0) | (array > 1)).any():
            raise input_error(f"{name}, exit {k}", "in [0, 1]", array.tolist(), "Check the policy.")
    return arrays


def log_odds(p: Floats) -> Floats:
    """Return ``log(p / (1 - p))`` with `p` kept 1e-9 from 0 and 1."""
    p = np.clip(p, EDGE, 1 - EDGE)
    return np.log(p) - np.log1p(-p)


def sigmoid(x: Floats) -> Floats:
    """Return ``1 / (1 + exp(-x))``, precise near 0 and without overflow."""
    return np.exp(-np.logaddexp(0.0, -x))
