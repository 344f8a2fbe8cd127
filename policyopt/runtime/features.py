"""History features: what exits 0..k say about the present answer, as a few numbers per sample.

``distribution`` reads whole class distributions, ``record`` predictions and confidences only.
Features that look back are 0 at exit 0. Source: the set of `optimal_stopping`'s first sketch,
thinned to what cross-validation could tell from noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .output import ExitOutput
from .typing import Floats

State = tuple[npt.NDArray[Any], ...]
_TINY = 1e-9  # of a probability: saturated exits differ below float32's resolution, by chance
_LOWEST = -20.0
#: Standardised features are cut here: what lies further out was hardly seen when fitting.
CLIP = 4.0


class History(ABC):
    """A set of features; `step` sees exit k and what exits before it left."""

    width: ClassVar[int]
    needs: ClassVar[frozenset[str]]
    #: Squares of all features, and products of the first few, join the basis.
    squares: ClassVar[bool]
    products: ClassVar[int]

    @abstractmethod
    def start(self, samples: int) -> State:
        """Return the state before exit 0."""

    @abstractmethod
    def step(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the features at exit k, (n, width), and the new state."""


class Distribution(History):
    """Of whole distributions: how peaked the answer is, and how exits before saw its class.

    0 log ratio of the two largest probabilities, 1 their difference, 2 log odds of the largest,
    3 log(difference + 0.05), 4 entropy, 5 share of earlier exits that agree, 6 whether the last
    one does, 7 log-probability it gave to the present class, 8 mean probability of that class
    over earlier exits.
    """

    width = 9
    needs = frozenset({"log_prob", "margin", "entropy"})
    squares = True
    products = 5

    def start(self, samples: int) -> State:
        """No log-probabilities and predictions yet; the number of classes shows at exit 0."""
        return np.empty((samples, 0, 0), dtype=np.float32), np.empty((samples, 0), dtype=np.int32)

    def step(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the nine features."""
        log_prob = output.log_prob
        assert log_prob is not None  # the policy refuses records for rules that need it
        first = np.maximum(output.top_prob[:, 0], _TINY)
        second = (
            np.maximum(output.top_prob[:, 1], _TINY)
            if output.top_prob.shape[1] > 1
            else np.full(len(first), _TINY)
        )
        columns = [
            np.log(first / second),
            first - second,
            np.log(first / np.maximum(1.0 - first, _TINY)),
            np.log(first - second + 0.05),
            output.entropy,
        ]
        if k == 0:
            columns += [np.zeros(len(output))] * 4
            return np.stack(columns, axis=1), (log_prob[:, None], output.prediction[:, None])
        past, predictions = state
        here = np.arange(len(output))
        # Contiguous, so that sums over exits run in the same order for one row as for many.
        chosen = past[here, :, output.prediction].astype(np.float64, order="C")
        agree = predictions == output.prediction[:, None]
        columns += [
            agree.sum(axis=1) / k,
            agree[:, -1],
            np.maximum(chosen[:, -1], _LOWEST),
            np.exp(chosen).sum(axis=1) / k,
        ]
        return np.stack(columns, axis=1), (
            np.concatenate([past, log_prob[:, None]], axis=1),
            np.concatenate([predictions, output.prediction[:, None]], axis=1),
        )


class Record(History):
    """Of predictions and confidences: the same questions, as far as records answer them.

    0 log odds of the confidence, 1 confidence, 2 -log(1 - confidence), 3 share of earlier exits
    that agree, 4 whether the last one does, 5 mean over earlier exits of the confidence of those
    that agree, 6 log odds of the last one's confidence, negative where it does not agree.
    """

    width = 7
    needs = frozenset()
    squares = False
    products = 0

    def start(self, samples: int) -> State:
        """No predictions and confidences yet."""
        return np.empty((samples, 0), dtype=np.int32), np.empty((samples, 0))

    def step(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the seven features."""
        predictions, confidences = state
        sure = output.confidence
        columns = [_log_odds(sure), sure, -np.log(np.clip(1.0 - sure, _EDGE, 1.0))]
        if k == 0:
            columns += [np.zeros(len(output))] * 4
        else:
            # An exit without an answer agrees with none.
            agree = (predictions == output.prediction[:, None]) & (output.prediction >= 0)[:, None]
            odds = _log_odds(confidences[:, -1])
            columns += [
                agree.sum(axis=1) / k,
                agree[:, -1],
                (agree * confidences).sum(axis=1) / k,
                np.where(agree[:, -1], odds, -odds),
            ]
        return np.stack(columns, axis=1), (
            np.concatenate([predictions, output.prediction[:, None]], axis=1),
            np.concatenate([confidences, sure[:, None]], axis=1),
        )


FEATURES: dict[str, History] = {"distribution": Distribution(), "record": Record()}
_EDGE = 1e-4


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def basis_size(name: str) -> int:
    """Return M, the number of basis columns of a set of features.

    Examples
    --------
    >>> basis_size("distribution"), basis_size("record")
    (28, 7)
    """
    history = FEATURES[name]
    return history.width * (1 + history.squares) + history.products * (history.products - 1) // 2


def basis(values: Floats, center: Floats, scale: Floats, name: str) -> Floats:
    """Return the basis columns of some features.

    Parameters
    ----------
    values : ndarray of shape (n, F)
    center, scale : ndarray of shape (F,)
    name : {"distribution", "record"}

    Returns
    -------
    ndarray of shape (n, M), float64
        Standardised features, then their squares, then the products of the first few.
    """
    history = FEATURES[name]
    unit = np.clip((values - center) / scale, -CLIP, CLIP)
    columns = [unit]
    if history.squares:
        columns.append(unit * unit)
    count = history.products
    columns.extend(unit[:, i : i + 1] * unit[:, i + 1 : count] for i in range(count))
    return np.concatenate(columns, axis=1)
