"""BERxiT's learning-to-exit: Xin et al., EACL 2021: a learned certainty of each exit's answer.

The module is one linear layer and a sigmoid, ``u = sigmoid(w . x + b)``, the same for all exits, regressed on
whether the exit's answer is right by the squared error, summed over exits without weights (with the sign
turned: they regress on "wrong" and exit below a threshold; castorini/berxit, modeling_highway_bert.py).

Departures: x is not the hidden state (a cache may keep one as `features`, which is not read here), but the history
features of `runtime/_scores/history.py`; the exits whose decision is learned teach it, not the last, which always
answers; a ridge penalty takes the place of stopping early; targets are 0 and 1, where the released code
has 0.01 and 0.63; and nothing is fine-tuned along with it. ``shared=false`` gives each exit weights of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._methods.exit_batch import ExitBatch, columns_of
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.regression import fit_sigmoid
from policyopt._methods.settings import POSITIVE, YES_OR_NO, Real
from policyopt.runtime._scores import Logistic


@dataclass(frozen=True)
class BERxiT(LearnedScore):
    """Leave where the learned certainty is high.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    penalty : float
        Of the weights, in rows of evidence that they are 0.
    shared : bool
        One module for all exits, as in the paper, or one per exit.
    """

    penalty: float = 30.0
    shared: bool = True

    label = "berxit"
    uses = frozenset({"log_prob"})
    allowed: ClassVar = {"penalty": POSITIVE, "shared": YES_OR_NO}
    tuned: ClassVar = {"penalty": Real(1.0, 1000.0, log=True)}

    def learn(self, batch: ExitBatch, seed: int) -> Logistic:
        """Regress correctness on the history features, exit by exit or for all exits at once."""
        columns = columns_of(batch, common=self.shared)
        right = batch.correct[:, :-1]
        if self.shared:
            one = fit_sigmoid(np.concatenate(columns.basis), right.T.ravel(), self.penalty)
            theta = np.tile(one, (len(columns.basis), 1))
        else:
            theta = np.stack(
                [fit_sigmoid(x, right[:, k], self.penalty) for k, x in enumerate(columns.basis)]
            )
        return columns.rule(Logistic, theta)
