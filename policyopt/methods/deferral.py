"""Post-hoc deferral, Jitkrittum et al., NeurIPS 2023, arXiv:2307.02764: go on where a later exit does better.

The Bayes-optimal rule (their proposition 3.1) defers where ``P(next right | x) - P(this right | x) > c``:
what the present exit knows of itself is half of it. Of the later exit nothing is known when deciding,
so a regression g, by squared error, stands in for it (their section 4 and table 1):

- ``diff01``: g estimates ``1[later right] - 1[this right]``; defer where ``g > c``;
- ``diffprob``: g estimates ``p_later(y) - p_this(y)``, what both give to the true class: less noise;
- ``maxprob``: g estimates the later exit's largest probability; defer where ``g - max p_this > c``.

Departures: the regression is a ridge on the history features of `policyopt.runtime.features` (theirs is a
small network on the largest probabilities); ``maxprob`` regresses the difference itself, which is the
same in expectation, the present probability being one of the features; and of K exits, where theirs are
two, each is held against the last one or the next, with a constant c of its own that the budget sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt.methods.learned_score import LearnedScore
from policyopt.methods.ridge import ridge
from policyopt.methods.seen import Seen, columns_of
from policyopt.methods.settings import check_choice, check_number
from policyopt.methods.space import Choice, Domain, Real
from policyopt.runtime.scores.advantage import Advantage
from policyopt.runtime.typing import Floats

TARGETS = ("diff01", "diffprob", "maxprob")
RIVALS = ("last", "next")


@dataclass(frozen=True)
class Deferral(LearnedScore):
    """Leave where a later exit's answer is not expected to be better.

    Parameters
    ----------
    thresholds, answer, folds
        As of `LearnedScore`.
    target : {"diffprob", "diff01", "maxprob"}
        What is regressed. Records do not know the probability of the true class: there
        ``diffprob`` is ``diff01``.
    against : {"last", "next"}
        The later exit that an exit is held against.
    penalty : float
        Of the ridge regression, in rows of evidence that no sample differs from the mean.

    Examples
    --------
    >>> Deferral(target="diff01").target
    'diff01'
    """

    target: str = "diffprob"
    against: str = "last"
    penalty: float = 30.0

    label = "deferral"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("target", self.target, TARGETS)
        check_choice("against", self.against, RIVALS)
        check_number("penalty", self.penalty, above=0)

    @classmethod
    def space(cls) -> dict[str, Domain]:
        """Return what is worth tuning."""
        more: dict[str, Domain] = {
            "target": Choice(TARGETS), "against": Choice(RIVALS),
            "penalty": Real(1.0, 1000.0, log=True),
        }  # fmt: skip
        return {**super().space(), **more}

    def learn(self, seen: Seen, seed: int) -> Advantage:
        """Regress what the later exit is worth more than the present one, exit by exit."""
        del seed
        columns = columns_of(seen)
        worth = worth_of(seen, self.target)
        last = seen.exits - 1
        theta = np.stack(
            [
                -ridge(basis, worth[:, last if self.against == "last" else k + 1] - worth[:, k],
                       self.penalty)
                for k, basis in enumerate(columns.basis)
            ]
        )  # fmt: skip
        return columns.rule(Advantage, theta)


def worth_of(seen: Seen, target: str) -> Floats:
    """Return each exit's worth as a target counts it, (N, K): the differences are regressed.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_record
    >>> outputs = [reduce_record([0, 1], [0.6, 0.9]), reduce_record([0, 1], [0.8, 0.9])]
    >>> seen = Seen(outputs, np.array([[0.0, 1.0], [1.0, 1.0]]), None, np.array([1.0, 2.0]), 0)
    >>> worth_of(seen, "maxprob").tolist(), worth_of(seen, "diffprob").tolist()
    ([[0.6, 0.8], [0.9, 0.9]], [[0.0, 1.0], [1.0, 1.0]])
    """
    if target == "maxprob":
        return np.stack([output.confidence for output in seen.outputs], axis=1)
    if target == "diff01" or seen.record or seen.labels is None:
        return seen.correct
    rows = np.arange(len(seen))
    picked = [output.log_prob[rows, seen.labels] for output in seen.outputs]  # type: ignore[index]
    return np.exp(np.stack(picked, axis=1).astype(np.float64))
