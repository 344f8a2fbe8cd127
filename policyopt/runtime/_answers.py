"""Answer rules: from the logits of exits 0..k to those of what exit k returns. numpy only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arithmetic import distances
from ._errors import input_error
from ._outputs import reduce_logits, with_log_prob
from ._parameters import Rule, array, choice, make
from ._scores.prototypes import SPACES, projected, vectors
from ._typing import State

Logits = npt.NDArray[np.float32]
#: Least log-odds of a class against the exit's largest, where exits are combined.
FLOOR = np.float32(-30.0)
#: Least and largest temperature of an artifact.
LIMITS = (1e-6, 1e6)


class AnswerRule(Rule, ABC):
    """The class probabilities returned at exit k, from (the logarithms of) those of exits 0..k."""

    role = "answer"
    #: Whether it looks at the model's own feature vectors, too.
    reads_features = False

    @abstractmethod
    def answer(
        self, k: int, logits: Logits, state: State, features: Any = None
    ) -> tuple[Logits, State]:
        """Return the answer's logits at exit k, (n, C) float32, and the new state; -inf: a class that cannot be.

        `features`, (n, D_k), come along where the rule `reads_features`.
        """

    def start(self, samples: int, classes: int) -> State:
        """Return the state of `samples` samples before exit 0."""
        return ()

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds that the rule spends at exit k, beyond the exit's own softmax."""
        return 0.0


class Identity(AnswerRule):
    """What exit k says, unchanged."""

    name = "plain"

    def answer(
        self, k: int, logits: Logits, state: State, features: Any = None
    ) -> tuple[Logits, State]:
        return logits, state


class Combined(AnswerRule):
    """``log P_k = sum_{j<=k} weights[k, j] z_j + bias[k]``, normalised over the classes.

    Sources: Wołczyk et al., Zero Time Waste, NeurIPS 2021, eq. 4 (weights and class biases fitted per exit);
    Jazbec et al., Towards anytime classification in early-exit architectures, NeurIPS 2023, eq. 4 (product of
    experts). Logits stand for log-probabilities: the normalisation takes their constant per row away.
    """

    name = "combined"
    weights: Any = array("K", "K", least=0)
    bias: Any = array("K", "C", optional=True, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if np.triu(self.weights, 1).any():
            what = "weights of the answer"
            raise input_error(what, "0 for later exits", "others", "Check the policy.")
        if self.bias is None and not self.weights.any(axis=1).all():
            allowed = "with one over 0 for every exit"
            raise input_error("weights of the answer", allowed, "only 0", "Check the policy.")

    def start(self, samples: int, classes: int) -> State:
        return (np.empty((samples, 0, classes), dtype=np.float32),)

    def answer(
        self, k: int, logits: Logits, state: State, features: Any = None
    ) -> tuple[Logits, State]:
        # Relative to the largest: a class that one exit rules out is unlikely, not impossible, else
        # exits that rule out each other's classes leave none.
        logits = np.maximum(logits - logits.max(axis=1, keepdims=True), FLOOR)
        past = state[0]
        out = np.zeros_like(logits)
        for j in range(k + 1):  # in turn, so that a row's sum does not depend on its batch
            weight = np.float32(self.weights[k, j])
            if weight:
                out += weight * (past[:, j] if j < k else logits)
        if self.bias is not None:
            out += self.bias[k].astype(np.float32)
        return out, (np.concatenate([past, logits[:, None]], axis=1),)

    def operations(self, k: int, classes: int) -> float:
        """One multiply-add per class and exit with a weight, one addition per class bias."""
        used = int(np.count_nonzero(self.weights[k])) + (self.bias is not None)
        return float(classes * used)


class Temperature(AnswerRule):
    """``P_k = softmax(z_k / T_k)``, T_k in [1e-6, 1e6]: above 1 the exit is less sure; the class stays.

    Guo et al., On calibration of modern neural networks, ICML 2017 (arXiv:1706.04599), eq. 9.
    """

    name = "temperature"
    temperatures: Any = array("K", least=LIMITS[0], most=LIMITS[1])

    def answer(
        self, k: int, logits: Logits, state: State, features: Any = None
    ) -> tuple[Logits, State]:
        with np.errstate(over="ignore"):  # far below the largest is -inf: a class that cannot be
            below = logits - logits.max(axis=1, keepdims=True)
            return below / np.float32(self.temperatures[k]), state

    def operations(self, k: int, classes: int) -> float:
        return float(classes)


class Vector(AnswerRule):
    """``log P_k = scale[k] * log p_k + bias[k]``, normalised over the classes: a factor and a bias per class.

    Guo et al., ICML 2017, section 4.2; the diagonal case of Kull et al., Dirichlet calibration, NeurIPS 2019.
    Factors are over 0, so that a class that cannot be (-inf) stays so. Logits are normalised first: times a
    factor per class, their constant per row would change the answer.
    """

    name = "vector"
    scale: Any = array("K", "C", least=1e-6, most=1e6)
    bias: Any = array("K", "C", least=-1e6, most=1e6)

    def answer(
        self, k: int, logits: Logits, state: State, features: Any = None
    ) -> tuple[Logits, State]:
        log_prob = with_log_prob(reduce_logits(logits), logits).log_prob
        assert log_prob is not None
        with np.errstate(over="ignore"):
            scaled = log_prob * self.scale[k].astype(np.float32)
        return scaled + self.bias[k].astype(np.float32), state

    def operations(self, k: int, classes: int) -> float:
        """One multiply-add and one subtraction per class."""
        return 2.0 * classes


class NearestMean(AnswerRule):
    """``log P_k(c) = -distance_kc / norm_kc + offset_kc``, normalised: the nearest class mean answers.

    Görmez, Dasari & Koyuncu, E2CM, IJCNN 2022, arXiv:2103.01148, section III: a sample's distance to the mean
    of each class at exit k, over that mean's average distance to the training rows. The last exit answers by its
    own head. `offset` is 0, and -30 for a class of which no row was seen.
    """

    name = "nearest_mean"
    space: str = choice(*SPACES)
    points: Any = array("C", "D", each="K-1")
    norm: Any = array("C", each="K-1", over=0)
    offset: Any = array("C", each="K-1", most=0)
    projection: Any = array("D", "W", each="K-1", optional=True, default=None)

    @property
    def reads_features(self) -> bool:  # type: ignore[override]
        return self.space == "features"

    def answer(
        self, k: int, logits: Logits, state: State, features: Any = None
    ) -> tuple[Logits, State]:
        if k == len(self.points):
            return logits, state
        if self.reads_features:
            rows = features.astype(np.float64)
        else:
            rows = vectors(with_log_prob(reduce_logits(logits), logits), self.space)
        rows = projected(k, rows, self.space, self.points, self.projection)
        far = distances(rows, self.points[k]) / self.norm[k]
        return (self.offset[k] - far).astype(np.float32), state

    def operations(self, k: int, classes: int) -> float:
        """As the score of the same distances, and an addition per class."""
        if k == len(self.points):
            return 0.0
        project = 0 if self.projection is None else self.projection[k].size
        logs = 0 if self.reads_features else classes
        return 1.5 * self.points[k].size + float(project + logs + classes)


ANSWERS: dict[str, type[AnswerRule]] = {
    rule.name: rule for rule in (Identity, Combined, Temperature, Vector, NearestMean)
}


#: Builds an answer rule from its name and parameters, as an artifact holds them.
make_answer = partial(make, ANSWERS, "answer")
