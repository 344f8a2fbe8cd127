"""DDA: Li et al., Dynamic domain adaptation for efficient inference, CVPR 2021, arXiv:2103.16403.

What the score is, where it comes from and how it departs stands in `policyopt.runtime._scores.dda`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policyopt._methods.settings import YES_OR_NO, Choice
from policyopt._methods.threshold import Threshold
from policyopt._table import Table
from policyopt.runtime._scores import DDA as DdaRule
from policyopt.runtime._scores import ScoreRule


@dataclass(frozen=True)
class DDA(Threshold):
    """Leave where the exits so far lie near their mean prediction.

    Parameters
    ----------
    score, thresholds, mix, answer, shared_map
        As of `Threshold`.
    confidence : bool
        Whether the cosine is multiplied by the mean's largest probability, as the authors' code
        does by default; without it exit 0 says nothing, and thresholds=joint is needed.
    history : bool
        Whether the cosines of all exits so far count (the paper's score), or exit k's alone.
    """

    score: str = "dda"
    confidence: bool = True
    history: bool = True

    allowed: ClassVar = {"confidence": YES_OR_NO, "history": YES_OR_NO}
    tuned: ClassVar = {"history": Choice(YES_OR_NO)}

    def rule(self, table: Table, seed: int) -> ScoreRule:
        """Return the score rule."""
        return DdaRule(int(self.confidence), int(self.history))
