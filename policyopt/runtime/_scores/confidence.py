"""Scores of one exit's class probabilities alone, and the two that look at nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._arithmetic import coin, lookup
from .._errors import input_error
from .._outputs import ExitOutput
from .._parameters import array
from .._typing import Floats
from .base import ScoreRule, State


class MaxProb(ScoreRule):
    """``max_c p_c``, in [1/C, 1] (EENet eq. 5): Huang et al., MSDNet, ICLR 2018, 4.2; Kaya et al., SDN, 2019."""

    name = "max_prob"
    reads_predictions = False
    exact_at_one = True

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        return output.confidence, state


class Margin(ScoreRule):
    """``p_(1) - p_(2)``, in [0, 1] (Scheffer et al., 2001; Park et al., big/little, 2015)."""

    name = "margin"
    reads_predictions = False
    exact_at_one = True
    required_columns = frozenset({"margin"})

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        return output.margin, state


class Energy(ScoreRule):
    """``log sum_c exp(z_c)`` of the logits z: the negative energy, low for inputs unlike those of the training.

    Liu et al., Energy-based out-of-distribution detection, NeurIPS 2020, eq. 4, at temperature 1.
    """

    name = "energy"
    reads_predictions = False
    required_columns = frozenset({"log_prob"})

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        return output.log_sum_exp, state


class MaxLogit(ScoreRule):
    """``max_c z_c`` of the logits z (Hendrycks et al., Scaling out-of-distribution detection, ICML 2022)."""

    name = "max_logit"
    reads_predictions = False
    required_columns = frozenset({"log_prob"})

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        return output.log_sum_exp + np.log(output.confidence), state


class Entropy(ScoreRule):
    """``1 + sum_c p_c log p_c / log C``: 0 for even odds, 1 for certainty.

    Teerapittayanon et al., BranchyNet, ICPR 2016, algorithm 1, which exits where the entropy is *below*
    its threshold: the same decisions, since the score falls strictly with it; normalised as EENet eq. 6.
    """

    name = "entropy"
    reads_predictions = False
    exact_at_one = True
    required_columns = frozenset({"entropy"})
    below = "entropy H in nats", "1 - H / log C"
    classes: int

    def check(self, exits: int, classes: int) -> None:
        super().check(exits, classes)
        if self.classes != classes:
            allowed = f"the policy's: {classes}"
            raise input_error("classes of the score", allowed, self.classes, "Fit again.")

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        return 1.0 - output.entropy / self._most, state

    @property
    def _most(self) -> float:
        return float(np.log(max(self.classes, 2)))

    def below_of(self, threshold: float) -> float:
        return (1.0 - threshold) * self._most

    def above_of(self, nats: float) -> float:
        """Return the threshold that leaves below so many nats."""
        return float(np.nextafter(1.0 - nats / self._most, np.inf))


class ClassOffset(ScoreRule):
    """``confidence - offset[prediction]``: class-based thresholds, as one score.

    Görmez & Koyuncu, arXiv:2210.15621: ``confidence >= t + offset_c``. `other` is the offset of a class beyond
    them, and of a sample without an answer.
    """

    name = "class_offset"
    below = "", "confidence less the offset of the class predicted"
    offset: Any = array("C")
    other: float

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        known = (output.prediction >= 0) & (output.prediction < len(self.offset))
        own = lookup(self.offset, np.where(known, output.prediction, 0))
        offset = np.where(known, own, self.other)
        return output.confidence - offset, state

    def operations(self, k: int, classes: int) -> float:
        return 1.0


class Window(ScoreRule):
    """``|confidence - middle_k|``: Xia & Bouganis, ICCV 2023, Algorithm 2.

    Samples inside the window go on; those above are sure, those below given up. The threshold is half its width.
    """

    name = "window"
    reads_predictions = False
    middle: Any = array("K-1")

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the distance at exit k; 0 at the last one, which always stops."""
        if k == len(self.middle):
            return np.zeros(len(output)), state
        return np.abs(output.confidence - self.middle[k]), state

    def operations(self, k: int, classes: int) -> float:
        return 1.0


class Constant(ScoreRule):
    """0 everywhere: with thresholds of never and always every sample leaves at one exit."""

    name = "constant"
    reads_predictions = False

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        return np.zeros(len(output)), state


class Random(ScoreRule):
    """The null baseline: a fresh coin in [0, 1) per sample and exit; the counter is the sample's number."""

    name = "random"
    reads_predictions = False
    seed: int

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        return (samples,)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the coin of (sample, k); stream 0 is the coin of mixtures."""
        return coin(self.seed, state[0], stream=k + 1), state
