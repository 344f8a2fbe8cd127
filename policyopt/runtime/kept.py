"""Kept exits: a policy may run only some of a model's exits, as a cascade may jump a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import input_error
from .thresholds import ALWAYS, NEVER

#: More exits than this are no model (a cache holds no more): a policy file may claim anything.
MAX_EXITS = 1024


def checked_kept(kept: object, exits: int, model_exits: int) -> tuple[tuple[int, ...] | None, int]:
    """Return the kept exits, None where all are, and how many the model has.

    Parameters
    ----------
    kept : sequence of int, or None
        The model's exit numbers, ascending.
    exits : int
        How many the policy runs.
    model_exits : int
        How many the model has; 0: `exits`.

    Returns
    -------
    kept : tuple of int, or None
    model_exits : int

    Raises
    ------
    InputError
        Not ascending, not exits of the model, another number of them.

    Examples
    --------
    >>> checked_kept([0, 2], 2, 4), checked_kept((0, 1), 2, 2)
    (((0, 2), 4), (None, 2))
    """
    if isinstance(model_exits, bool) or not isinstance(model_exits, (int, np.integer)):
        raise input_error(
            "model_exits", "a whole number", model_exits, "How many exits the model has."
        )
    of = int(model_exits) or exits
    if kept is None:
        if of != exits:
            raise input_error(
                "kept", f"the {exits} exits that the policy runs", f"none, of {of} exits",
                "Name them, or leave model_exits out.",
            )  # fmt: skip
        return None, of
    if not exits <= of <= MAX_EXITS:
        raise input_error("model_exits", f"from {exits} to {MAX_EXITS}", of, "Check the policy.")
    chosen = exit_numbers(kept, range(of))
    if len(chosen) != exits:
        raise input_error(
            "kept", f"{exits} exits, one per cost", f"{len(chosen)}", "Check the policy."
        )
    return (None if len(chosen) == of else chosen), of


def exit_numbers(kept: object, allowed: Sequence[int]) -> tuple[int, ...]:
    """Return exit numbers as a tuple, refused unless they ascend and each is allowed.

    Examples
    --------
    >>> exit_numbers(np.array([0, 2]), range(3))
    (0, 2)
    """
    given = list(kept) if isinstance(kept, (list, tuple, range, np.ndarray)) else []
    whole = all(isinstance(k, (int, np.integer)) and not isinstance(k, bool) for k in given)
    numbers = tuple(int(k) for k in given) if whole else ()
    if not numbers or list(numbers) != sorted(set(numbers)) or not set(numbers) <= set(allowed):
        raise input_error(
            "kept", f"at least one exit of {', '.join(map(str, allowed))}, in ascending order",
            kept, "Exits are numbered from 0.",
        )  # fmt: skip
    return numbers


def over_model_exits(
    thresholds: npt.NDArray[np.float64], kept: tuple[int, ...] | None, model_exits: int
) -> npt.NDArray[np.float64]:
    """Return thresholds over all the model's exits, which lead to the same exits.

    Never at exits that are skipped, always at the last one kept: who is left leaves there.

    Parameters
    ----------
    thresholds : ndarray of shape (K-1,)
        Over the exits kept.
    kept : tuple of K int, or None
    model_exits : int

    Returns
    -------
    ndarray of shape (model_exits - 1,)

    Examples
    --------
    >>> over_model_exits(np.array([0.7]), (1, 2), 4).tolist()
    [1e+30, 0.7, -1e+30]
    """
    if kept is None:
        return thresholds
    whole = np.full(model_exits, NEVER)
    whole[list(kept)] = [*thresholds, ALWAYS]
    return whole[:-1]
