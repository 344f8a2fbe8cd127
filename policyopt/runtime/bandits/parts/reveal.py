"""How probable it was that the reward of an arm would be known: what bandits that draw divide by."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import input_error

#: Whose rewards feedback shows: of the arm played, of all smaller ones, of all that are known.
REVEALS = ("played", "smaller", "all")


def reveal_chances(probabilities: Any, reveal: str, start: Any = None) -> Any:
    """Return the probability that each arm's reward becomes known.

    Parameters
    ----------
    probabilities : sequence of A floats, or ndarray of shape (..., A)
        With which each arm was drawn.
    reveal : {"played", "smaller", "all"}
        ``played``: that of the arm itself. ``smaller``: that of itself or any larger arm.
        ``all``: that of any arm which goes at least as far on this sample.
    start : sequence of A int, or ndarray of shape (..., A), optional
        For ``all``: the smallest arm that takes the same exit as arm a on this sample.

    Returns
    -------
    ndarray of shape (..., A); a list for lists

    Examples
    --------
    >>> reveal_chances([0.5, 0.25, 0.25], "smaller")
    [1.0, 0.5, 0.25]
    >>> reveal_chances([0.5, 0.25, 0.25], "all", [0, 1, 1])
    [1.0, 0.5, 0.5]
    """
    if reveal not in REVEALS:
        raise input_error("reveal", f"one of {', '.join(REVEALS)}", reveal, "E.g. smaller.")
    if reveal == "played":
        return probabilities
    if isinstance(probabilities, np.ndarray):
        tail = np.cumsum(probabilities[..., ::-1], axis=-1)[..., ::-1]
        return tail if reveal == "smaller" else np.take_along_axis(tail, start, axis=-1)
    tail, above = [], 0.0
    for p in reversed(probabilities):
        above += p
        tail.append(above)
    tail.reverse()
    return tail if reveal == "smaller" else [tail[a] for a in start]
