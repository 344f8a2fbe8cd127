"""Scores of how exits agree with each other: their predictions, votes and distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._arithmetic import coin
from .._outputs import ExitOutput, log_probabilities
from .._parameters import array, choice, number
from .._typing import Floats
from .base import ScoreRule, State


class Patience(ScoreRule):
    """0 at exit 0; +1 where exit k predicts as exit k-1 did, else back to 0: PABEE's counter itself.

    Zhou et al., PABEE, NeurIPS 2020, eq. 5, stops when the counter equals its patience, which is
    ``counter >= patience``. One counter per sample (the released code keeps one per batch).
    """

    name = "patience"

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        n = len(samples)
        return np.full(n, -1, dtype=np.int32), np.zeros(n)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        before, counter = state
        agrees = (output.prediction == before) & (output.prediction >= 0)
        counter = np.where(agrees, counter + 1.0, 0.0)
        return counter, (output.prediction, counter)


class BEEM(Patience):
    """``S_k = S_{k-1} + w_k C_k`` where exit k predicts as exit k-1 did, else ``w_k C_k``.

    Bajpai & Hanawal, BEEM, ICLR 2025, arXiv:2502.00745. C_k is the largest probability. An exit without
    an answer agrees with none. The method `beem` says where its weights come from.
    """

    name = "beem"
    weights: Any = array("K", least=0)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        before, gathered = state
        agrees = (output.prediction == before) & (output.prediction >= 0)
        gathered = np.where(agrees, gathered, 0.0) + self.weights[k] * output.confidence
        return gathered, (output.prediction, gathered)

    def operations(self, k: int, classes: int) -> float:
        return 1.0


class Vote(ScoreRule):
    """``max_c #{j <= k: prediction_j = c} / (k + 1)``; an exit without an answer casts no vote.

    Ilhan et al., EENet, WACV 2024, eq. 7. At exit 0 the vote of whoever answers is 1: it says nothing there.
    With a `seed` of 0 or more a fresh coin in [0, 1) per sample and exit breaks ties, ``(count - coin) / (k + 1)``:
    as the release of EENet adds noise to its votes (git-disl/EENet at a5e80c8, utils/predict_utils.py).
    """

    name = "vote"
    seed: int = number(least=-1, default=-1)

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        votes = np.empty((len(samples), 0), dtype=np.int32)
        return (votes,) if self.seed < 0 else (votes, samples)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        votes = np.concatenate([state[0], output.prediction[:, None]], axis=1)
        count = _same(votes).sum(axis=1).max(axis=1)
        if self.seed >= 0:
            count = count - coin(self.seed, state[1], stream=k + 1)  # stream 0 is that of mixtures
        return count / (k + 1), (votes, *state[1:])


class Agreement(ScoreRule):
    """Share of the tier's members that vote for the leading class; -1 inside a tier.

    Kolawole et al., Agreement-Based Cascading, TMLR 2025, arXiv:2407.02348. Tiers have `size` exits. With
    ``soft=1`` the mean probability that the members give to that class. Of equally many votes the class
    that was voted for first leads; an exit without an answer casts none.
    """

    name = "agreement"
    size: int = number(least=1)
    soft: int = number(least=0, most=1, default=0)

    @property
    def required_columns(self) -> frozenset[str]:  # type: ignore[override]
        return frozenset({"log_prob"}) if self.soft else frozenset()

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no votes, (n, 0), and, where they count, no probabilities, (n, 0, 0)."""
        n = len(samples)
        votes = np.empty((n, 0), dtype=np.int32)
        return (votes, np.empty((n, 0, 0), dtype=np.float32)) if self.soft else (votes,)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Add exit k's vote; at the last of a tier return the agreement and forget the tier."""
        n = len(output)
        votes = np.concatenate([state[0], output.prediction[:, None]], axis=1)
        log_prob = None
        if self.soft:
            assert output.log_prob is not None  # the policy refuses summaries that lack it
            here = output.log_prob[:, None]
            # An empty state does not know the number of classes yet.
            log_prob = np.concatenate([state[1], here], axis=1) if state[1].shape[1] else here
        if (k + 1) % self.size:
            return np.full(n, -1.0), (votes,) if log_prob is None else (votes, log_prob)
        count = _same(votes).sum(axis=2)
        if log_prob is None:
            agreement = count.max(axis=1) / self.size
        else:
            rows = np.arange(n)
            leader = votes[rows, count.argmax(axis=1)]
            # Contiguous, so that the sum over members runs in the same order for one row as for many.
            given = log_prob[rows, :, leader].astype(np.float64, order="C")
            agreement = np.where(leader >= 0, np.exp(given).sum(axis=1) / self.size, 0.0)
        return agreement, self.start(np.zeros(n, dtype=np.int64))

    def operations(self, k: int, classes: int) -> float:
        return float(classes) if self.soft else 0.0


def _same(votes: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return which pairs of votes agree, (n, k, k): for few exits cheaper than counting per class."""
    return (votes[:, :, None] == votes[:, None, :]) & (votes >= 0)[:, :, None]


def _kl(p: Floats, log_p: Floats, log_q: Floats) -> Floats:
    return (p * (log_p - log_q)).sum(axis=1)


def _cross(p: Floats, log_p: Floats, log_q: Floats) -> Floats:
    return -(p * log_q).sum(axis=1)


#: From the earlier exit's distribution p and the later one's q to how far they are apart: one way, the
#: other, both, and from their middle. Of the Kullback-Leibler divergence, and of the cross-entropy, which
#: tells besides how undecided the exits are.
MEASURES = {"kl": _kl, "rekl": _kl, "bikl": _kl, "js": _kl,
            "kd": _cross, "rekd": _cross, "bikd": _cross, "jskd": _cross}  # fmt: skip


def _apart(measure: str, p: Floats, log_p: Floats, q: Floats, log_q: Floats) -> Floats:
    far = MEASURES[measure]
    if measure.startswith("js"):
        middle = np.log((p + q) / 2)
        return (far(p, log_p, middle) + far(q, log_q, middle)) / 2
    if measure.startswith("re"):
        return far(q, log_q, log_p)
    there = far(p, log_p, log_q)
    return there + far(q, log_q, log_p) if measure.startswith("bi") else there


class Similarity(ScoreRule):
    """``1 / (1 + d)``, d the largest of the last `patience` distances between adjacent exits' distributions.

    To leave where the distance has been under a threshold for `patience` exits in a row is to leave where
    ``score >= 1 / (1 + threshold)``. Before there are as many, 0.
    """

    name = "similarity"
    required_columns = frozenset({"log_prob"})
    below = "distance d", "1 / (1 + d)"
    measure: str = choice(*MEASURES)
    patience: int = number(least=1, default=1)

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with no distribution and no distances; the number of classes shows at exit 0."""
        return np.empty((len(samples), 0)), np.empty((len(samples), 0))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        before, distances = state
        log_q = log_probabilities(output)
        if k == 0:
            return np.zeros(len(output)), (log_q, distances)
        p, q = np.exp(before), np.exp(log_q)
        # Rounding may leave a hair below 0, where both are the same.
        far = np.maximum(_apart(self.measure, p, before, q, log_q), 0.0)
        distances = np.concatenate([distances, far[:, None]], axis=1)[:, -self.patience :]
        if k < self.patience:
            return np.zeros(len(output)), (log_q, distances)
        return 1.0 / (1.0 + distances.max(axis=1)), (log_q, distances)

    def operations(self, k: int, classes: int) -> float:
        """Exponentials of one distribution, and the sums over classes that the measure takes."""
        sums = 2.0 if self.measure in ("kl", "rekl", "kd", "rekd") else 4.0
        return float(classes) if k == 0 else (1.0 + sums) * classes

    def below_of(self, threshold: float) -> float:
        return 1.0 / threshold - 1.0 if threshold > 0 else np.inf


class DDA(ScoreRule):
    """``mean_{j<=k} cos(p_j, m_k) * max_c m_k(c)``, m_k the mean of p_0..p_k.

    Li et al., DDA, CVPR 2021, arXiv:2103.16403, section 3.3, scores a sample by how near each classifier's
    prediction is, in cosine, to the mean prediction of all of them, times the largest probability of that
    mean (`distance.py`, `train_dda.py` of the authors' release, with its defaults). Departures: it takes
    all classifiers, for pseudo-labels; here the mean runs over exits 0..k, as it must where exit k
    decides, and cosines are averaged, not summed, so that scores of different exits compare. The release
    itself exits by the largest probability; that a prediction near the mean may end the inference is the
    reading of Rahmath P et al. (ACM Computing Surveys 57(3), 2024, article 75, section 6.2):
    ``confidence=0`` (no factor of the mean's largest probability), ``history=0`` (the cosine of exit k alone).
    """

    name = "dda"
    required_columns = frozenset({"log_prob"})
    confidence: int = number(least=0, most=1, default=1)
    history: int = number(least=0, most=1, default=1)

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Start with empty sums; the number of classes shows at exit 0."""
        return np.empty((len(samples), 0)), np.empty((len(samples), 0))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        p = np.exp(log_probabilities(output))
        unit = p / _length(p)[:, None]
        total, units = (p, unit) if k == 0 else (state[0] + p, state[1] + unit)
        # The cosines of all exits with the mean add up to one product with the sum of directions.
        near = (units / (k + 1) if self.history else unit) * (total / _length(total)[:, None])
        score = np.ones(len(p)) if k == 0 else np.minimum(near.sum(axis=1), 1.0)
        if self.confidence:
            score = score * (total.max(axis=1) / (k + 1))
        return score, (total, units)

    def operations(self, k: int, classes: int) -> float:
        return 8.0 * classes


def _length(rows: Floats) -> Floats:
    return np.sqrt((rows * rows).sum(axis=1))
