"""EENet's exit utility score: Ilhan et al., WACV 2024, arXiv:2301.07099, equations (5)-(9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..confidence.base import sigmoid
from ..errors import input_error
from ..linear import row_product
from ..output import ExitOutput
from ..parameters import numbers
from .base import Floats, ScoreRule, State
from .entropy import Entropy
from .vote import Vote

#: Slope of the leaky ReLU below 0 (section 3, after equation (10)).
SLOPE = 0.01


@dataclass(frozen=True, eq=False)
class Eenet(ScoreRule):
    """``q_k = sigmoid(W_g leaky_relu(W_sh [p_k, a_max, a_entropy, a_vote, q_0..q_{k-1}]))``.

    No bias, as printed: the C probabilities add to 1, so a constant added to their weights is one.

    Parameters
    ----------
    shared : sequence of K arrays of shape (H_k, C + 3 + k)
        W_sh of exit k, counted from 0: one input more per earlier exit.
    utility : sequence of K arrays of shape (H_k,)
        W_g of exit k.
    """

    shared: Any
    utility: Any

    name = "eenet"
    needs = frozenset({"log_prob"})
    arrays = frozenset({"shared", "utility"})

    def __post_init__(self) -> None:
        shared = each_exit("shared weights of eenet", self.shared, 2)
        utility = each_exit("utility weights of eenet", self.utility, 1)
        if len(shared) != len(utility):
            raise input_error(
                "utility weights of eenet", f"of {len(shared)} exits, as the shared ones are",
                f"{len(utility)}", "Check the policy.",
            )  # fmt: skip
        for k, (hidden, out) in enumerate(zip(shared, utility, strict=True)):
            if hidden.shape != (len(out), shared[0].shape[1] + k) or not len(out):
                raise input_error(
                    f"weights of eenet at exit {k}", "(H, C + 3 + k) and (H,)",
                    f"{hidden.shape} and {out.shape}", "Check the policy.",
                )  # fmt: skip
        object.__setattr__(self, "shared", shared)
        object.__setattr__(self, "utility", utility)

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no votes and no utilities."""
        return (*Vote().start(samples), np.empty((len(samples), 0)))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the utility at exit k, in (0, 1)."""
        votes, past = state
        x, votes = eenet_inputs(k, output, votes)
        hidden = row_product(np.concatenate([x, past], axis=1), self.shared[k])
        hidden = np.where(hidden > 0, hidden, SLOPE * hidden)
        utility = sigmoid(row_product(hidden, self.utility[k][None])[:, 0])
        return utility, (votes, np.concatenate([past, utility[:, None]], axis=1))

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds of (8) and (9) at exit k."""
        del classes
        return float(self.shared[k].size + self.utility[k].size)

    def check(self, exits: int, classes: int) -> None:
        """Refuse weights of another number of exits or classes."""
        came = (len(self.shared), self.shared[0].shape[1] - 3)
        if came != (exits, classes):
            raise input_error(
                "weights of eenet", f"made for {exits} exits and {classes} classes",
                f"{came[0]} and {came[1]}", "Fit again.",
            )  # fmt: skip

    def params(self) -> dict[str, Any]:
        """Return the weights as nested lists."""
        return {name: [w.tolist() for w in getattr(self, name)] for name in ("shared", "utility")}


def eenet_inputs(
    k: int, output: ExitOutput, votes: npt.NDArray[np.int32]
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Return ``[p_k, a_max, a_entropy, a_vote]`` of exit k, equations (5)-(7).

    Parameters
    ----------
    k : int
        Counted from 0.
    output : ExitOutput
        With its `log_prob`, (n, C).
    votes : ndarray of shape (n, k), int32
        Predictions of the earlier exits.

    Returns
    -------
    ndarray of shape (n, C + 3), float64
    ndarray of shape (n, k + 1), int32
        The votes with exit k's own.
    """
    assert output.log_prob is not None  # the rule's `needs` sees to it
    classes = output.log_prob.shape[1]
    certainty, _ = Entropy(classes).score(k, output, ())
    vote, (votes,) = Vote().score(k, output, (votes,))
    measures = np.stack([output.confidence, certainty, vote], axis=1)
    return np.concatenate([np.exp(output.log_prob.astype(np.float64)), measures], axis=1), votes


def each_exit(name: str, value: Any, ndim: int) -> tuple[Floats, ...]:
    """Return one checked, read-only array per exit; at least one."""
    if not isinstance(value, (list, tuple)) or not value:
        raise input_error(
            name, "a list, one entry per exit", type(value).__name__, "Check the policy."
        )
    return tuple(numbers(f"{name} at exit {k}", entry, ndim) for k, entry in enumerate(value))
