"""Routing: samples to the experts that their contexts chose, and their decisions back in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .contexts import context_numbers
from .decision import State
from .errors import input_error
from .output import ExitOutput
from .reading import as_array
from .typing import Ints

if TYPE_CHECKING:
    from .policy import Policy


def route(outputs_by_expert: Sequence[npt.ArrayLike], context: npt.ArrayLike) -> npt.NDArray[Any]:
    """Return of every sample the outputs of the expert that its context chose.

    Parameters
    ----------
    outputs_by_expert : sequence of E arrays of shape (N, K, C)
        What each expert's branches gave for all samples.
    context : array of shape (N,), int
        Number of the expert, from 0 to E-1, per sample.

    Returns
    -------
    ndarray of shape (N, K, C)

    Raises
    ------
    InputError
        No expert, arrays of other shapes, a context without an expert.

    Examples
    --------
    >>> route([np.zeros((2, 1, 3)), np.ones((2, 1, 3))], [1, 0])[:, 0, 0]
    array([1., 0.])
    """
    arrays = [as_array(outputs, f"outputs of expert {e}") for e, outputs in
              enumerate(outputs_by_expert)]  # fmt: skip
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 3:
        raise input_error(
            "outputs_by_expert", "one array (N, K, C) per expert, all of one shape",
            f"shapes {sorted(shapes)}", "Run every expert on the same samples.",
        )  # fmt: skip
    rows = context_numbers(context, len(arrays), len(arrays[0]))
    routed = np.empty(arrays[0].shape, dtype=np.result_type(*arrays))
    for e, array in enumerate(arrays):
        mine = rows == e
        routed[mine] = array[mine]
    return routed


class ExpertState:
    """Where some samples stand between exits, each in the hands of its context's policy."""

    __slots__ = ("context", "groups", "scalar")

    def __init__(self, context: Ints, groups: list[tuple[int, Ints, State]], scalar: bool) -> None:
        self.context = context
        self.groups = groups  # (context, rows of its samples, their state)
        self.scalar = scalar

    def keep(self, rows: npt.NDArray[Any]) -> ExpertState:
        """Keep some samples only (a mask or row numbers), the survivors of an exit; return itself."""
        chosen = np.arange(len(self.context))[rows]
        place = np.empty(len(self.context), dtype=np.int64)
        self.context = self.context[chosen]
        groups = []
        for e, members, state in self.groups:
            place[members] = np.arange(len(members))
            mine = np.flatnonzero(self.context == e)
            if len(mine):
                groups.append((e, mine, state.keep(place[chosen[mine]])))
        self.groups = groups
        return self


def rows_of(output: Any, rows: Ints) -> Any:
    """Return what an exit gave of some samples: outputs, a record or reduced columns."""
    if isinstance(output, ExitOutput):
        return output.take(rows)
    if isinstance(output, Mapping):
        return {key: as_array(column)[rows] for key, column in output.items()}
    return output[rows]


def vectors_of(policy: Policy, features: Any, rows: Ints) -> Any:
    """Return the feature vectors of some samples, where the policy reads any."""
    if features is None or not policy.needs_features or not isinstance(features, (list, tuple)):
        return features
    wanted = [k in policy.path for k in range(len(features))]
    return [as_array(v)[rows] if w else None for v, w in zip(features, wanted, strict=True)]


def joined(answers: list[tuple[Ints, Any]], n: int) -> npt.NDArray[Any] | None:
    """Return the answers' logits of all samples, (n, C); NaN where a policy skips the exit."""
    if not answers or any(logits is None for _, logits in answers):
        return None
    first = np.asarray(answers[0][1])
    joined = np.full((n, first.shape[1]), np.nan, dtype=np.result_type(*(a for _, a in answers)))
    for rows, logits in answers:
        joined[rows] = logits
    return joined
