"""What the study finds, each finding as a comparison that the caches answer with numbers.

A finding compares one column of numbers per seed with another, and says which should be larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import ttest_rel

PLAIN = ("joint", "separate", "branch_wise", "two_stage", "distillation")
HYBRIDS = ("joint_branch", "joint_two_stage", "pretrained_branch")

Floats = np.ndarray
Values = Callable[[str, str], Floats]
"""Of a strategy and a measure: (seeds, K), or (seeds,) of what a network has one of."""


@dataclass(frozen=True)
class Answer:
    """By how much a finding holds on one backbone: per seed, above zero where it does."""

    margins: Floats
    told: str = ""

    @property
    def margin(self) -> float:
        """Mean over seeds."""
        return float(self.margins.mean())

    @property
    def p(self) -> float:
        """Of a paired t-test over the seeds, two-sided."""
        if len(self.margins) < 2 or np.ptp(self.margins) == 0:
            return float("nan")
        return float(ttest_rel(self.margins, np.zeros_like(self.margins)).pvalue)


@dataclass(frozen=True)
class Finding:
    """A sentence of the study, where it stands, the unit of the margin, and how it is checked."""

    claim: str
    where: str
    unit: str
    check: Callable[[Values], Answer]


def at(values: Values, strategy: str, measure: str, exits: Sequence[int]) -> Floats:
    """Return a measure averaged over exits, (seeds,)."""
    return values(strategy, measure)[:, list(exits)].mean(axis=1)


def lead(
    values: Values,
    ours: Iterable[str],
    others: Iterable[str],
    measure: str,
    exits: Sequence[int],
    sign: int = 1,
) -> Answer:
    """Return by how much the worst of `ours` is above the best of `others` (below, for sign -1)."""
    means = {s: sign * at(values, s, measure, exits) for s in (*ours, *others)}
    last = min(ours, key=lambda s: means[s].mean())
    first = max(others, key=lambda s: means[s].mean())
    return Answer(means[last] - means[first], f"{last} against {first}")


def ratio(values: Values, one: str, others: Iterable[str], measure: str, sign: int) -> Answer:
    """Return the logarithm of how many times as much `one` takes as its rival; sign -1: as little."""
    logs = {s: sign * np.log2(values(s, measure)) for s in (one, *others)}
    rival = max(others, key=lambda s: logs[s].mean())
    return Answer(logs[one] - logs[rival], f"{one} against {rival}")


def _rest(*names: str) -> list[str]:
    return [s for s in PLAIN if s not in names]


def _deeper(values: Values) -> Answer:
    gaps = np.mean([values(s, "gap") for s in PLAIN], axis=0)
    return Answer(gaps[:, -1] - gaps[:, 0], "exit 4 against exit 1, mean of five strategies")


def _hybrid_gap(values: Values, hybrid: str, alone: str) -> Answer:
    deep = (2, 3)
    return Answer(
        at(values, alone, "gap", deep) - at(values, hybrid, "gap", deep), f"{alone} less {hybrid}"
    )


FINDINGS = (
    Finding(
        "Distillation converges in the fewest epochs",
        "6.1.1", "epochs",
        lambda v: lead(v, ("distillation",), _rest("distillation"), "best_epoch", range(4), sign=-1),
    ),
    Finding(
        "At exits 1 and 2, distillation and joint training are the most accurate",
        "6.1.2", "points",
        lambda v: lead(v, ("distillation", "joint"), _rest("distillation", "joint"), "accuracy", (0, 1)),
    ),
    Finding(
        "At the final exit, distillation and joint training lead",
        "6.1.2", "points",
        lambda v: lead(v, ("distillation", "joint"), _rest("distillation", "joint"), "accuracy", (3,)),
    ),
    Finding(
        "Branch-wise training is the least accurate at the final exit",
        "6.1.2", "points",
        lambda v: lead(v, ("branch_wise",), _rest("branch_wise"), "accuracy", (3,), sign=-1),
    ),
    Finding(
        "Separate training is more accurate than two-stage training at exits 1 and 2",
        "6.1.2", "points",
        lambda v: lead(v, ("separate",), ("two_stage",), "accuracy", (0, 1)),
    ),
    Finding(
        "Distillation overfits least: the narrowest gap between training and unseen rows",
        "Table 3", "points",
        lambda v: lead(v, ("distillation",), _rest("distillation"), "gap", range(4), sign=-1),
    ),
    Finding(
        "Branch-wise training overfits most at the deeper exits (3 and 4)",
        "6.1.3", "points",
        lambda v: lead(v, ("branch_wise",), _rest("branch_wise"), "gap", (2, 3)),
    ),
    Finding("Overfitting grows with depth", "Table 3", "points", _deeper),
    Finding(
        "The pretrained-branch hybrid overfits less at exits 3 and 4 than branch-wise training",
        "6.3.1", "points",
        lambda v: _hybrid_gap(v, "pretrained_branch", "branch_wise"),
    ),
    Finding(
        "The joint-branch hybrid overfits less at exits 3 and 4 than joint training",
        "6.3.1", "points",
        lambda v: _hybrid_gap(v, "joint_branch", "joint"),
    ),
    Finding(
        "A hybrid from joint training has the most accurate final exit",
        "7, 8", "points",
        lambda v: max(
            (lead(v, (h,), (*PLAIN, "pretrained_branch"), "accuracy", (3,)) for h in HYBRIDS[:2]),
            key=lambda a: a.margin,
        ),
    ),
    Finding(
        "Joint training's final exit is as good as that of the network without early exits",
        "6.4, Table 7", "points",
        lambda v: Answer(
            v("joint", "accuracy")[:, -1] - v("backbone", "accuracy")[:, -1], "joint against backbone"
        ),
    ),
    Finding(
        "Two-stage training takes the least time",
        "6.2.2, Table 5", "log2",
        lambda v: ratio(v, "two_stage", _rest("two_stage"), "seconds", -1),
    ),
    Finding(
        "Joint training takes the most time",
        "6.2.2, Table 5", "log2",
        lambda v: ratio(v, "joint", _rest("joint"), "seconds", 1),
    ),
    Finding(
        "Joint training needs the least memory",
        "6.2.3 (Table 5: the most)", "log2",
        lambda v: ratio(v, "joint", _rest("joint"), "memory", -1),
    ),
)  # fmt: skip
