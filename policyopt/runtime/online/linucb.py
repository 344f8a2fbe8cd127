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
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..bandits.base import Bools, Ints, check_positive, check_whole
from ..bandits.saved import checked
from ..errors import bad
from ..parameters import numbers

Floats = npt.NDArray[np.float64]
#: Numbers in a context.
FEATURES = 5
_LOOSE = 1e-6  # rounding that a saved inverse may show


def context(now: Any, before: Any, agrees: Any) -> Floats:
    """Return ``[1, now, now**2, agrees, before]``, all in [0, 1].

    Parameters
    ----------
    now, before : float or ndarray of shape (...)
        Confidence of this exit and of the one before; 0 before exit 0.
    agrees : bool or ndarray of shape (...)
        Whether both predict the same class; False at exit 0.

    Returns
    -------
    ndarray of shape (..., FEATURES)

    Examples
    --------
    >>> context(0.5, 0.25, True)
    array([1.  , 0.5 , 0.25, 1.  , 0.25])
    """
    now = np.asarray(now, dtype=np.float64)
    return np.stack([np.ones_like(now), now, now * now, agrees + 0.0 * now, before + 0.0 * now], -1)


def contexts(confidence: Floats, prediction: npt.NDArray[np.integer]) -> Floats:
    """Return the contexts after each exit but the last.

    Parameters
    ----------
    confidence, prediction : ndarray of shape (n, K)

    Returns
    -------
    ndarray of shape (n, K-1, FEATURES)
    """
    before, agrees = np.zeros(confidence.shape), np.zeros(confidence.shape)
    before[:, 1:] = confidence[:, :-1]
    agrees[:, 1:] = prediction[:, 1:] == prediction[:, :-1]
    return np.ascontiguousarray(context(confidence, before, agrees)[:, :-1])


def upper(inverse: Floats, target: Floats, phi: Floats, alpha: float) -> Floats:
    """Return ``theta . phi + alpha sqrt(phi^T A^-1 phi)``.

    Parameters
    ----------
    inverse : ndarray of shape (..., d, d)
        A^-1, symmetric.
    target, phi : ndarray of shape (..., d)
    alpha : float

    Returns
    -------
    ndarray of shape (...)
    """
    way = (inverse * phi[..., None, :]).sum(axis=-1)
    width = np.sqrt(np.maximum((way * phi).sum(axis=-1), 0.0))
    return (way * target).sum(axis=-1) + alpha * width


def absorb(inverse: Floats, target: Floats, phi: Floats, returns: Any, seen: Any) -> None:
    """Add contexts and their returns to models, in place, where they are `seen`.

    Parameters
    ----------
    inverse : ndarray of shape (..., d, d)
    target, phi : ndarray of shape (..., d)
    returns : ndarray of shape (...)
    seen : ndarray of shape (...), bool
    """
    way = (inverse * phi[..., None, :]).sum(axis=-1)
    scale = 1.0 + (way * phi).sum(axis=-1)
    way = np.where(seen[..., None], way, 0.0)
    inverse -= way[..., :, None] * way[..., None, :] / scale[..., None, None]
    target += np.where(seen[..., None], phi * returns[..., None], 0.0)


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
    >>> seen = context(0.9, 0.0, False)
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
        check_positive("alpha", self.alpha)

    def one(self, exits: int) -> OneLinUCB:
        """Return a player of one stream of a model with K exits."""
        return OneLinUCB(self, exits)

    def many(self, exits: int, streams: int) -> ManyLinUCB:
        """Return a player of R streams."""
        return ManyLinUCB(self, exits, streams)


class OneLinUCB:
    """The models of K-1 exits on one stream: `inverse` (K-1, d, d) and `target` (K-1, d)."""

    def __init__(self, rule: LinUCB, exits: int) -> None:
        check_whole("exits", exits)
        self.rule = rule
        self.inverse = np.tile(np.eye(FEATURES), (exits - 1, 1, 1))
        self.target = np.zeros((exits - 1, FEATURES))

    def go_on(self, exit: int, phi: Floats) -> bool:
        """Return whether to go on from an exit, but the last, given its `context`."""
        return bool(upper(self.inverse[exit], self.target[exit], phi, self.rule.alpha) > 0.0)

    def learn(self, phi: Sequence[Floats], worth: Sequence[float]) -> None:
        """Take in what a request that left at exit e has shown.

        Parameters
        ----------
        phi : sequence of e contexts
            Of the exits it went on from.
        worth : sequence of e + 1 floats
            Of exits 0 to e, net of cost: e.g. confidence less what the way there costs.
        """
        gone = len(phi)
        if gone:  # else nothing was seen of what going on brings
            returns = worth[gone] - np.asarray(worth[:gone], dtype=np.float64)
            if len(worth) != gone + 1 or not np.isfinite([*returns, *np.ravel(phi)]).all():
                allowed = f"{gone + 1} finite numbers, one more than finite contexts"
                raise bad("worth", allowed, worth, "A NaN would stay for ever.")
            seen = np.ones(gone, dtype=bool)
            absorb(self.inverse[:gone], self.target[:gone], np.stack(phi), returns, seen)

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        return {"inverse": self.inverse.tolist(), "target": self.target.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        state = checked("state of linucb", state, ("inverse", "target"))
        if not len(self.target) and state["inverse"] == state["target"] == []:
            return  # a model of one exit has nothing to decide
        found = numbers("inverse", state["inverse"], 3), numbers("target", state["target"], 2)
        for name, new, old in zip(
            ("inverse", "target"), found, (self.inverse, self.target), strict=True
        ):
            if new.shape != old.shape:
                raise bad(name, f"of shape {old.shape}", f"shape {new.shape}", "Start anew.")
        inverse, even = found[0], found[0].swapaxes(1, 2)
        # A >= I, so A^-1 lies between 0 and I.
        if (np.abs(inverse) > 1 + _LOOSE).any() or (np.abs(inverse - even) > _LOOSE).any():
            raise bad("inverse", "symmetric, entries within [-1, 1]", "other ones", "Start anew.")
        values = np.linalg.eigvalsh(inverse)
        if values.min() < -_LOOSE or values.max() > 1 + _LOOSE:
            raise bad("inverse", "with eigenvalues in [0, 1]", values.tolist(), "Start anew.")
        self.inverse, self.target = found[0].copy(), found[1].copy()


class ManyLinUCB:
    """The models on R streams side by side: `inverse` (R, K-1, d, d) and `target` (R, K-1, d)."""

    def __init__(self, rule: LinUCB, exits: int, streams: int) -> None:
        check_whole("exits", exits)
        check_whole("streams", streams)
        self.rule = rule
        self.inverse = np.tile(np.eye(FEATURES), (streams, exits - 1, 1, 1))
        self.target = np.zeros((streams, exits - 1, FEATURES))

    def choose(self, phi: Floats) -> Ints:
        """Return the exit that the next request of every stream leaves at, (R,).

        Parameters
        ----------
        phi : ndarray of shape (R, K-1, d)
            Contexts of all exits; those beyond the exit taken have no say.
        """
        stop = upper(self.inverse, self.target, phi, self.rule.alpha) <= 0.0
        last = np.ones((len(stop), 1), dtype=bool)
        return np.concatenate([stop, last], axis=1).argmax(axis=1)

    def learn(self, phi: Floats, worth: Floats, taken: Ints, arrives: Bools) -> None:
        """Take in one request per stream.

        Parameters
        ----------
        phi : ndarray of shape (R, K-1, d)
        worth : ndarray of shape (R, K)
            Those beyond the exit taken have no say.
        taken : ndarray of shape (R,)
        arrives : ndarray of shape (R,), bool
            Whether feedback of the request came.
        """
        before = np.arange(self.target.shape[1])
        seen = (before < taken[:, None]) & arrives[:, None]
        returns = np.take_along_axis(worth, taken[:, None], axis=1) - worth[:, :-1]
        absorb(self.inverse, self.target, phi, returns, seen)
