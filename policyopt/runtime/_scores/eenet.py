"""EENet's exit utility score, as printed and as released: Ilhan et al., WACV 2024, arXiv:2301.07099."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._arithmetic import row_product, sigmoid
from .._outputs import ExitOutput
from .._parameters import array
from .._typing import Floats
from .base import ScoreRule, State
from .confidence import Entropy
from .consistency import Vote

#: Slope of the leaky ReLU below 0 (section 3, after equation (10)).
SLOPE = 0.01


class EENet(ScoreRule):
    """``q_k = sigmoid(W_g leaky_relu(W_sh [p_k, a_max, a_entropy, a_vote, q_0..q_{k-1}]))``, equations (5)-(9).

    No bias, as printed: the C probabilities add to 1, so a constant added to their weights is one.
    """

    name = "eenet"
    required_columns = frozenset({"log_prob"})
    shared: Any = array("H", "C+3+k", each="K")
    utility: Any = array("H", each="K")

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        return (*Vote().start(samples), np.empty((len(samples), 0)))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        votes, past = state
        x, votes = eenet_inputs(k, output, votes)
        hidden = row_product(np.concatenate([x, past], axis=1), self.shared[k])
        hidden = np.where(hidden > 0, hidden, SLOPE * hidden)
        utility = sigmoid(row_product(hidden, self.utility[k][None])[:, 0])
        return utility, (votes, np.concatenate([past, utility[:, None]], axis=1))

    def operations(self, k: int, classes: int) -> float:
        return float(self.shared[k].size + self.utility[k].size)


def eenet_inputs(
    k: int, output: ExitOutput, votes: npt.NDArray[np.int32]
) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Return ``[p_k, a_max, a_entropy, a_vote]``, (5)-(7), of exit k, (n, C + 3), and the votes so far, (n, k + 1)."""
    assert output.log_prob is not None  # the rule's `required_columns` sees to it
    certainty, _ = Entropy(output.log_prob.shape[1]).score(k, output, ())
    vote, (votes,) = Vote().score(k, output, (votes,))
    measures = np.stack([output.confidence, certainty, vote], axis=1)
    return np.concatenate([np.exp(output.log_prob.astype(np.float64)), measures], axis=1), votes


class EENetReleased(ScoreRule):
    """``w_k . [p_k, max p_k, certainty_k, clip(q_0), .., clip(q_{k-1})]``, unclipped: git-disl/EENet's code.

    Source: utils/predict_helpers.py, ScoreNormalizer. Earlier scores are clipped to [0, 1], as in the release's
    training; its test code passes them on unclipped, and so deploys another score than it trained.
    """

    name = "eenet_released"
    required_columns = frozenset({"log_prob"})
    weights: Any = array("C+2+k", each="K")

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        return (np.empty((len(samples), 0)),)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        (past,) = state
        x = np.concatenate([released_inputs(k, output), past], axis=1)
        score = row_product(x, self.weights[k][None])[:, 0]
        return score, (np.concatenate([past, np.clip(score, 0.0, 1.0)[:, None]], axis=1),)

    def operations(self, k: int, classes: int) -> float:
        return float(self.weights[k].size)


def released_inputs(k: int, output: ExitOutput) -> Floats:
    """Return ``[p_k, max p_k, 1 + sum p log p / log C]``, (n, C + 2); no vote, as released."""
    assert output.log_prob is not None  # the rule's `required_columns` sees to it
    certainty, _ = Entropy(output.log_prob.shape[1]).score(k, output, ())
    measures = np.stack([output.confidence, certainty], axis=1)
    return np.concatenate([np.exp(output.log_prob.astype(np.float64)), measures], axis=1)
