"""LinUCB over exits, for the setting of DEE: learns after which exits going on pays.

DEE (Ju, Bao, Ge & Yuan, "Dynamic Early Exit Scheduling for Deep Neural Network Inference through
Contextual Bandits", CIKM 2021) takes what an exit shows as the context, decides anew after every
exit, and names two difficulties: what going on brings depends on the decisions that follow, and
later exits are explored less than earlier ones. Its update rule is not public; this is LinUCB with
disjoint linear models (Li, Chu, Langford & Schapire, WWW 2010, algorithm 1, equations 3 to 5), one
model per exit but the last:

    A_k = I + sum phi phi^T,   b_k = sum phi R,   theta_k = A_k^-1 b_k
    go on from exit k  iff  theta_k . phi + alpha sqrt(phi^T A_k^-1 phi) > 0

Departures from Li et al., and why. There is one arm, going on: leaving is worth 0 by definition,
so there is nothing to learn about it. R is what the exit taken at last was worth beyond exit k, net
of the cost between (the return of DEE, not a reward of one step), so its mean moves while later
exits still learn; requests that stop at exit k say nothing about going on from there. A^-1 is kept
by the rank-one formula of Sherman & Morrison: a request takes O(d^2) per exit, whatever came before.

Nothing is forgotten: after a change of the inputs the models mix old and new requests. And where an
exit is worth going on from only for what lies far beyond it, models of the exits between can stop
short of it: what they never tried they do not learn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..bandits.parts.base import Bools, Ints
from ..bandits.parts.index import Numbers
from ..bandits.parts.saved import checked
from ..checks import check_positive, check_whole, plain_fields
from ..errors import input_error
from ..parameters import numbers
from ..typing import Floats

#: Numbers in a context.
FEATURES = 5
_LOOSE = 1e-6  # rounding that a saved inverse may show


def context(now: Any, before: Any = 0.0, agrees: Any = 0.0) -> tuple[Any, ...]:
    """Return ``(1, now, now**2, agrees, before)``, all in [0, 1].

    Parameters
    ----------
    now, before : float or ndarray of shape (...)
        Confidence of this exit and of the one before; 0 before exit 0.
    agrees : float or ndarray of shape (...)
        1 where both predict the same class, else 0; 0 at exit 0.

    Returns
    -------
    tuple of FEATURES floats or arrays

    Examples
    --------
    >>> context(0.5, 0.25, 1.0)
    (1.0, 0.5, 0.25, 1.0, 0.25)
    """
    return now * 0.0 + 1.0, now, now * now, agrees, before


def contexts(confidence: Floats, prediction: npt.NDArray[np.integer]) -> Floats:
    """Return the contexts after each exit but the last.

    Parameters
    ----------
    confidence, prediction : ndarray of shape (n, K)

    Returns
    -------
    ndarray of shape (FEATURES, n, K-1)
    """
    before, agrees = np.zeros(confidence.shape), np.zeros(confidence.shape)
    before[:, 1:] = confidence[:, :-1]
    agrees[:, 1:] = prediction[:, 1:] == prediction[:, :-1]
    return np.stack([part[:, :-1] for part in context(confidence, before, agrees)])


def dot(left: Any, right: Any) -> Any:
    """Return the sum over d of products, in their order: numbers and arrays give the same bits.

    Parameters
    ----------
    left, right : sequence of d floats, or ndarray of shape (d, ...)

    Examples
    --------
    >>> dot([1.0, 2.0], [3.0, 0.5])
    4.0
    """
    total = left[0] * right[0]
    for j in range(1, len(right)):
        total = total + left[j] * right[j]
    return total


def upper(m: Any, way: Any, target: Any, phi: Any, alpha: float) -> Any:
    """Return ``theta . phi + alpha sqrt(phi^T A^-1 phi)``.

    Parameters
    ----------
    m : Arithmetic
        Numbers or numpy.
    way, target, phi : sequence of d floats, or ndarray of shape (d, ...)
        ``A^-1 phi``, b and the context.
    alpha : float
    """
    return dot(way, target) + alpha * m.sqrt(m.maximum(dot(way, phi), 0.0))


@dataclass(frozen=True)
class LinUCB:
    """One linear model per exit of what going on is worth, and how sure of it one is.

    Parameters
    ----------
    alpha : float
        Weight of exploration. Worths lie in [-1, 1] and most are far smaller, so that the bound of
        Li et al., above 1, explores for long; 0.5 is a guess that was not fitted to any data.

    Examples
    --------
    >>> player = LinUCB().one(exits=2)
    >>> seen = context(0.9)
    >>> player.go_on(0, seen)  # nothing is known: it explores
    True
    >>> for _ in range(30):
    ...     player.learn([seen], [0.0, -0.2])  # the last exit was worth 0.2 less
    >>> player.go_on(0, seen)
    False
    """

    alpha: float = 0.5

    name: ClassVar[str] = "linucb"
    summary: ClassVar[str] = "learns from confidence and agreement whether going on pays (DEE)"

    def __post_init__(self) -> None:
        plain_fields(self)
        check_positive("alpha", self.alpha)

    def one(self, exits: int) -> OneLinUCB:
        """Return a player of one stream of a model with K exits."""
        return OneLinUCB(self, exits)

    def many(self, exits: int, streams: int) -> ManyLinUCB:
        """Return a player of R streams."""
        return ManyLinUCB(self, exits, streams)


class OneLinUCB:
    """The models of K-1 exits on one stream, in plain numbers: `inverse` and `target`, a list each."""

    def __init__(self, rule: LinUCB, exits: int) -> None:
        check_whole("exits", exits)
        self.rule = rule
        self.inverse: list[list[list[float]]] = [
            np.eye(FEATURES).tolist() for _ in range(exits - 1)
        ]
        self.target: list[list[float]] = [[0.0] * FEATURES for _ in range(exits - 1)]

    def go_on(self, exit: int, phi: Sequence[float]) -> bool:
        """Return whether to go on from an exit, but the last, given its `context`."""
        way = [dot(row, phi) for row in self.inverse[exit]]
        return upper(Numbers, way, self.target[exit], phi, self.rule.alpha) > 0.0

    def learn(self, phi: Sequence[Sequence[float]], worth: Sequence[float]) -> None:
        """Take in what a request that left at exit e has shown.

        Parameters
        ----------
        phi : sequence of e contexts
            Of the exits it went on from.
        worth : sequence of e + 1 floats
            Of exits 0 to e, net of cost: e.g. confidence less what the way there costs.
        """
        gone = len(phi)
        if len(worth) != gone + 1 or gone > len(self.target) or not all(map(math.isfinite, worth)):
            allowed = f"{gone + 1} finite numbers, one more than contexts"
            raise input_error("worth", allowed, worth, "A NaN would stay for ever.")
        if not all(len(x) == FEATURES and all(map(math.isfinite, x)) for x in phi):
            raise input_error("phi", f"{FEATURES} finite numbers per exit", phi, "See `context`.")
        for inverse, target, x, own in zip(self.inverse, self.target, phi, worth, strict=False):
            way = [dot(row, x) for row in inverse]
            scale = 1.0 + dot(way, x)
            gain = worth[gone] - own
            for i, w in enumerate(way):
                inverse[i] = [old - w * v / scale for old, v in zip(inverse[i], way, strict=True)]
                target[i] += x[i] * gain

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        inverse = [[list(row) for row in square] for square in self.inverse]
        return {"inverse": inverse, "target": [list(row) for row in self.target]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        state = checked("state of linucb", state, ("inverse", "target"))
        models = len(self.target)
        if not models and state["inverse"] == state["target"] == []:
            return  # a model of one exit has nothing to decide
        inverse, target = (
            numbers("inverse", state["inverse"], 3),
            numbers("target", state["target"], 2),
        )
        shape = (models, FEATURES, FEATURES)
        if inverse.shape != shape or target.shape != shape[:2]:
            got = f"shapes {inverse.shape} and {target.shape}"
            raise input_error(
                "inverse, target", f"of shapes {shape} and {shape[:2]}", got, "Start anew."
            )
        # A >= I, so A^-1 is symmetric and lies between 0 and I.
        even = bool((np.abs(inverse - inverse.swapaxes(1, 2)) <= _LOOSE).all())
        values = (
            np.linalg.eigvalsh(inverse) if bool((np.abs(inverse) <= 2).all()) else np.array([2])
        )
        if not even or values.min() < -_LOOSE or values.max() > 1 + _LOOSE:
            allowed = "symmetric, with eigenvalues in [0, 1]"
            raise input_error("inverse", allowed, state["inverse"], "Start anew.")
        self.inverse, self.target = inverse.tolist(), target.tolist()


class ManyLinUCB:
    """The models on R streams: `inverse` (d, d, R, K-1) and `target` (d, R, K-1)."""

    def __init__(self, rule: LinUCB, exits: int, streams: int) -> None:
        check_whole("exits", exits)
        check_whole("streams", streams)
        self.rule = rule
        shape = (FEATURES, FEATURES, streams, exits - 1)
        self.inverse = np.eye(FEATURES)[:, :, None, None] + np.zeros(shape)
        self.target = np.zeros(shape[1:])

    def choose(self, phi: Floats) -> Ints:
        """Return the exit that the next request of every stream leaves at, (R,).

        Parameters
        ----------
        phi : ndarray of shape (d, R, K-1)
            Contexts of all exits; those beyond the exit taken have no say.
        """
        way = dot(self.inverse, phi)  # rows are columns: it is symmetric to the last bit
        stop = upper(np, way, self.target, phi, self.rule.alpha) <= 0.0
        last = np.ones((len(stop), 1), dtype=bool)
        return np.concatenate([stop, last], axis=1).argmax(axis=1)

    def learn(self, phi: Floats, worth: Floats, taken: Ints, arrives: Bools) -> None:
        """Take in one request per stream.

        Parameters
        ----------
        phi : ndarray of shape (d, R, K-1)
        worth : ndarray of shape (R, K)
            Those beyond the exit taken have no say.
        taken : ndarray of shape (R,)
        arrives : ndarray of shape (R,), bool
            Whether feedback of the request came.
        """
        before = np.arange(self.target.shape[2])
        seen = (before < taken[:, None]) & arrives[:, None]
        way = dot(self.inverse, phi)
        scale = 1.0 + dot(way, phi)
        way = np.where(seen, way, 0.0)
        gain = np.take_along_axis(worth, taken[:, None], axis=1) - worth[:, :-1]
        self.inverse -= way[:, None] * way / scale
        self.target += np.where(seen, phi * gain, 0.0)
