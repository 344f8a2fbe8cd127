"""BERxiT's learning-to-exit: Xin et al., EACL 2021: a learned certainty of each exit's answer.

The module is one linear layer and a sigmoid, ``u = sigmoid(w . x + b)``, the same for all exits, regressed on
whether the exit's answer is right by the squared error, summed over exits without weights (with the sign
turned: they regress on "wrong" and exit below a threshold; castorini/berxit, modeling_highway_bert.py).

Departures: x is not the hidden state, which a cache does not keep, but the history features of
`policyopt.runtime.features`; the exits whose decision is learned teach it, not the last, which always
answers; a ridge penalty takes the place of stopping early; targets are 0 and 1, where the released code
has 0.01 and 0.63; and nothing is fine-tuned along with it. ``shared=false`` gives each exit weights of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from policyopt.methods.learned_score import LearnedScore
from policyopt.methods.seen import Seen, columns_of
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Domain, Real
from policyopt.runtime.confidence.base import sigmoid
from policyopt.runtime.scores.logistic import Logistic
from policyopt.runtime.typing import Floats


@dataclass(frozen=True)
class Berxit(LearnedScore):
    """Leave where the learned certainty is high.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    penalty : float
        Of the weights, in rows of evidence that they are 0.
    shared : bool
        One module for all exits, as in the paper, or one per exit.

    Examples
    --------
    >>> Berxit(penalty=10)
    Berxit(thresholds='geometric', answer='plain', folds=5, penalty=10, shared=True)
    """

    penalty: float = 30.0
    shared: bool = True

    label = "berxit"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("penalty", self.penalty, above=0)
        check_choice("shared", self.shared, (True, False))

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        return {**super().space(), "penalty": Real(1.0, 1000.0, log=True)}

    def learn(self, seen: Seen, seed: int) -> Logistic:
        """Regress correctness on the history features, exit by exit or for all exits at once."""
        del seed
        columns = columns_of(seen, common=self.shared)
        right = seen.correct[:, :-1]
        if self.shared:
            one = certainty(np.concatenate(columns.basis), right.T.ravel(), self.penalty)
            theta = np.tile(one, (len(columns.basis), 1))
        else:
            theta = np.stack(
                [certainty(x, right[:, k], self.penalty) for k, x in enumerate(columns.basis)]
            )
        return columns.rule(Logistic, theta)


def certainty(columns: Floats, right: Floats, penalty: float) -> Floats:
    """Return offset and weights (M+1,) that minimise the squared error of ``sigmoid(. )``.

    Parameters
    ----------
    columns : ndarray of shape (N, M)
        Standardised.
    right : ndarray of shape (N,)
        Targets in [0, 1].
    penalty : float
        ``penalty / (8 N) * |weights|^2`` joins the mean squared error: at the steepest, the squared
        error of a sigmoid curves by 1/8, so it stands for that many rows.

    Returns
    -------
    ndarray of shape (M+1,)

    Examples
    --------
    >>> x = np.repeat([[-1.0], [1.0]], 50, axis=0)
    >>> w = certainty(x, np.repeat([0.2, 0.9], 50), 1e-6)
    >>> sigmoid(w[0] + w[1] * np.array([-1, 1])).round(3)
    array([0.2, 0.9])
    """
    n = len(right)
    start = np.zeros(columns.shape[1] + 1)
    mean = np.clip(right.mean(), 1e-3, 1 - 1e-3)
    start[0] = np.log(mean / (1 - mean))

    def loss(theta: Floats) -> tuple[float, Floats]:
        u = sigmoid(columns @ theta[1:] + theta[0])
        off = u - right
        slope = 2 * off * u * (1 - u) / n
        shrink = penalty / (4 * n) * theta[1:]
        gradient = np.concatenate([[slope.sum()], columns.T @ slope + shrink])
        return float((off**2).mean() + shrink @ theta[1:] / 2), gradient

    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B").x)
