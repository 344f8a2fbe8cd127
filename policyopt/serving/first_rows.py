"""The first rows that a server is given, looked at once: logits are not probabilities.

One sample alone does not tell: logits may be non-negative with sum 1 by chance. So the first exit's rows
are gathered over the first requests until they are as many as tell; then the model is asked without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from policyopt.runtime.reading import FEWEST, refuse_probabilities

from .output import host
from .staged import StagedModel


class FirstRows:
    """A model that looks at what exit k gives, until it has seen enough rows of it.

    Parameters
    ----------
    model : StagedModel
    k : int
        The first exit that the policy runs.
    done : callable
        Called once: the rows are no probabilities, and the model itself can be asked from now on.
    """

    def __init__(self, model: StagedModel, k: int, done: Callable[[], None]) -> None:
        self.exits, self.stage, self.vectors = model.exits, model.stage, model.vectors
        self._head, self._k, self._done = model.head, k, done
        self._rows: list[Any] = []

    def head(self, k: int, hidden: Any, logits: Any = None) -> Any:
        """Return the logits of exit k, as `StagedModel.head`.

        Raises
        ------
        InputError
            Four rows or more have come, and they are probabilities.
        """
        output = self._head(k, hidden, logits)
        if k == self._k:
            self._look(output)
        return output

    def _look(self, output: Any) -> None:
        # A copy: what a head returns may be written over by the next request.
        rows = np.array(host(output))
        if rows.ndim != 2 or (self._rows and rows.shape[1] != self._rows[0].shape[1]):
            return  # the policy says what is wrong with it
        seen = [*self._rows, rows]  # threads may be here at once: each has a list of its own
        if sum(map(len, seen)) < FEWEST:
            self._rows = seen
            return
        # Where these are refused, what comes next is looked at with those before.
        refuse_probabilities(np.concatenate(seen), f"output of exit {self._k}")
        self._done()
