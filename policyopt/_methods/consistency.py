"""Agreement between exits: patience, BEEM, DDA, PF-BERxiT, LeCo, and cascades whose tiers are ensembles.

Patience: Zhou et al., PABEE, NeurIPS 2020, section 3.2: stop after p exits in a row agree. Only K+1 policies
exist (p = 0: leave at once; p = K: never early), so their costs are discrete: between two of them the budget is
met by mixing the two patiences with a coin.

Vote: Ilhan et al., EENet, WACV 2024, eq. 7, by which section 4 runs its baseline PABEE: agreement as a score, its
thresholds those of the geometric shares that meet the budget. Votes of K exits take few values, and quotas divide them
only where ties are broken; the paper does not say how, and its release adds noise. Here a coin does (``ties=coin``,
with ``thresholds=geometric``; the order is uniform within a tie, as by noise).

BEEM: Bajpai & Hanawal, Boosting performance of early exit DNNs, ICLR 2025, arXiv:2502.00745. Exits are experts.
While neighbours agree, their weighted confidences add up; where one disagrees, the sum starts anew with its own;
a sample leaves where the sum reaches the exit's threshold. BEEM-C weights an expert by what it costs to run it,
BEEM-A by its accuracy on validation rows.

Departures: thresholds are found for the budget, where the paper derives them from the exits' error rates to match
the full model. The cost weights are cumulative costs as given, over that of the full model, where the paper's
layers all cost alike (``lambda i``; 0.1 i in the released code). The released code sets the sum to 0 at a
disagreement, and stops by patience alone; here the paper holds. The accuracies are K numbers from the rows that
set the thresholds.

DDA: Li et al., Dynamic domain adaptation for efficient inference, CVPR 2021, arXiv:2103.16403. What the score is,
where it comes from and how it departs stands in `policyopt.runtime._scores.consistency`.

PF-BERxiT: Gao et al., Neurocomputing 558 (2023) 126690. A sample leaves where the distance between adjacent
exits' class distributions has been under a threshold for a set number of exits in a row; both the threshold and
that patience move with the load (abstract). Distances are the Kullback-Leibler divergence (``kl``, with ``bikl``
the best of their ablation), its reverse (``rekl``) or their sum (``bikl``). The same first author's code of
F-PABEE (ICASSP 2023, arXiv:2305.11916), which uses the same names, computes cross-entropies, ``-sum p log q``:
these are ``kd``, ``rekd``, ``bikd``, ``jskd``.

LeCo's comparison-based exiting (COBEE): Zhang et al., ACL 2023 student research workshop, section 3. An exit
compares its class distribution with that of the exit before it, and the sample leaves where the two differ by
less than a threshold: agreement as in PABEE, but soft, so that the threshold, and not only a whole number of
exits, sets the speed.

Departures: threshold and patience are found for the budget, thresholds by default one per exit, where the papers
try values of one threshold; each sample has its own counter; an exit is compared with the one before it
(F-PABEE's code runs the layer after it to compare with, and does not count its cost). The text of LeCo beyond its
abstract was not at hand: measure and patience are settings, by default the Jensen-Shannon divergence of two
adjacent exits. The other halves of the papers, parallel adapters and learned exits, belong to the model.

Agreement-based cascading: Kolawole et al., ABC, TMLR 2025, arXiv:2407.02348: tiers are ensembles. Exits are
called tier by tier, all of a tier each time; at its end a sample leaves if the share of the members that vote for
the leading class reaches the tier's threshold (their vote-based deferral rule; the released code's
``majority_count / members >= threshold``), or the mean probability that the members give to that class does
(their score-based rule, for models whose probabilities can be seen).

Departures: the answer is that of the tier's last exit, not the majority's; they differ only where a tier of three
or more leaves against its last member. Members run one after the other and are all paid for. Thresholds, which
the paper sets by hand or on held-out rows, come from the joint search at the budget, and what votes cannot divide
is divided by a coin. Budgets under the cost of the first tier are met by sending the coin's share home at exit 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from policyopt._methods.base import Method
from policyopt._methods.exit_batch import outputs_of, subsample_outputs
from policyopt._methods.fitted import Draft, own_costs
from policyopt._methods.levels import Spend
from policyopt._methods.settings import COUNT, YES_OR_NO, Choice, Integer, Number
from policyopt._methods.threshold import Threshold
from policyopt._table import Table
from policyopt._thresholds.joint import solve_joint
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import solve_given
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import NEVER
from policyopt.runtime._scores import BEEM as BeemRule
from policyopt.runtime._scores import DDA as DdaRule
from policyopt.runtime._scores import Agreement, ScoreRule, Similarity, score_table
from policyopt.runtime._scores import Patience as PatienceRule
from policyopt.runtime._scores import Vote as VoteRule
from policyopt.runtime._scores.consistency import MEASURES
from policyopt.runtime._typing import Floats


@dataclass(frozen=True)
class Patience(Method):
    """The counter rule of PABEE.

    Parameters
    ----------
    patience : int, optional
        A fixed p >= 0; refused where it costs more than the budget. Default: the two
        neighbouring patiences that meet the budget, mixed.
    """

    patience: int | None = None

    label = "patience"
    asks = "compared"
    allowed: ClassVar = {"patience": Number(whole=True, optional=True)}

    def requires_labels(self) -> bool:
        """Nothing is learned: costs follow from the exits' outputs alone."""
        return False

    @property
    def fixed(self) -> bool:
        return self.patience is not None

    def rule(self, table: Table, seed: int) -> PatienceRule:
        return PatienceRule()

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        if self.patience is not None:
            given = [self.patience - 0.5]
            return [solve_given(problem, given, budget, "patience") for budget in budgets]
        # The counter is whole: a threshold midway leaves room for rounding.
        exits = problem.exits
        sets = [np.full(exits - 1, p - 0.5) for p in range(exits + 1)]
        costs = np.array([problem.cost(t) for t in sets])
        solutions = []
        for budget in budgets:
            low = int(np.clip(np.searchsorted(costs, budget, side="right") - 1, 0, exits))
            high = min(low + 1, exits)
            gap = costs[high] - costs[low]
            share = float(np.clip((budget - costs[low]) / gap, 0, 1)) if gap > 0 else 0.0
            other = sets[high] if share > 0 else None
            solutions.append(Solution(sets[low], other, share))
        return solutions


@dataclass(frozen=True)
class Vote(Threshold):
    """Leave where a large share of the exits so far agrees.

    Parameters
    ----------
    ties : {"coin", "kept"}, optional
        Equal shares are told apart by a coin, or leave together. Default: a coin with ``thresholds=geometric``,
        whose quotas divide them; else kept.
    """

    score: str = "vote"
    ties: str | None = None

    allowed: ClassVar = {"ties": ("coin", "kept", None)}

    def rule(self, table: Table, seed: int) -> ScoreRule:
        ties = self.ties or ("coin" if self.thresholds == "geometric" else "kept")
        return VoteRule(int(seed)) if ties == "coin" else VoteRule()


WEIGHTS = ("accuracy", "cost")


@dataclass(frozen=True)
class BEEM(Threshold):
    """Leave where exits that agree have gathered enough weighted confidence.

    Parameters
    ----------
    weights : {"accuracy", "cost"}
        BEEM-A or BEEM-C.
    """

    score: str = "beem"
    weights: str = "accuracy"

    allowed: ClassVar = {"weights": WEIGHTS}
    tuned: ClassVar = {"weights": Choice(WEIGHTS)}

    def requires_labels(self) -> bool:
        """Accuracies need labels."""
        return self.weights == "accuracy" or super().requires_labels()

    def rule(self, table: Table, seed: int) -> ScoreRule:
        if self.weights == "accuracy":
            return BeemRule(table.quality.mean(axis=0))
        costs = table.mean_costs
        return BeemRule(costs / costs[-1] if costs[-1] > 0 else costs + 1.0)


@dataclass(frozen=True)
class DDA(Threshold):
    """Leave where the exits so far lie near their mean prediction.

    Parameters
    ----------
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
        return DdaRule(int(self.confidence), int(self.history))


#: More patience than this leaves too few exits to choose from.
_MOST_PATIENCE = 6


@dataclass(frozen=True)
class SimilarityThreshold(Threshold):
    """Leave where the last `patience` distances between adjacent exits are all small.

    Parameters
    ----------
    measure : str
        ``kl`` (from the earlier exit to the later), ``rekl`` (the other way), ``bikl`` (their sum),
        ``js``; or ``kd``, ``rekd``, ``bikd``, ``jskd``: the same with cross-entropies.
    patience : int
        How many distances in a row, 1 or more.
    """

    score: str = "similarity"
    thresholds: str | tuple[float, ...] = "joint"
    measure: str = "kl"
    patience: int | None = 1

    allowed: ClassVar = {
        "measure": tuple(MEASURES),
        "patience": Number(above=0, whole=True, most=1000, optional=True),
    }
    tuned: ClassVar = {"measure": Choice(tuple(MEASURES)), "patience": Integer(1, 3)}

    def rule(self, table: Table, seed: int) -> ScoreRule:
        return Similarity(self.measure, self.patience or 1)


@dataclass(frozen=True)
class LeCo(SimilarityThreshold):
    """Leave where adjacent exits' distributions hardly differ; low budgets, without exit 1, are met by mixing."""

    measure: str = "js"

    label = "leco"


@dataclass(frozen=True)
class PFBERxiT(SimilarityThreshold):
    """Leave where adjacent exits' distributions have been alike for some exits in a row.

    Parameters
    ----------
    patience : int, optional
        Default: for each budget the one of 1 to 6 that is most accurate on the rows of the fit.
    """

    patience: int | None = None

    label = "pf_berxit"

    def requires_labels(self) -> bool:
        """Choosing a patience looks at what is right."""
        return self.patience is None or super().requires_labels()

    def trained(self, table: Table, seed: int) -> Spend:
        if self.patience is not None:
            return super().trained(table, seed)
        most = max(min(table.exits - 2, _MOST_PATIENCE), 1)  # the last exit always stops
        self.check(table)
        _ = table.quality  # says what is missing: quotas alone would do without
        ways = [replace(self, patience=p).trained(table, seed) for p in range(1, most + 1)]

        def spend(budgets: Sequence[float]) -> Sequence[Draft]:
            found = list(ways[0](budgets))  # the least patient refuses what none can meet
            for way in ways[1:]:
                for i, budget in enumerate(budgets):
                    with suppress(BudgetError):
                        found[i] = max(found[i], way([budget])[0], key=_worth)
            return found

        return spend


def _worth(draft: Draft) -> float:
    """Return what a solved draft is worth on its rows."""
    assert draft.solution is not None
    return draft.problem.worth(draft.solution)


VOTES = ("share", "probability")


@dataclass(frozen=True)
class AgreementCascade(Method):
    """Leave at the end of a tier whose members agree.

    Parameters
    ----------
    tiers : int
        Exits per tier, 1 or more; the last tier has what is left.
    vote : {"share", "probability"}
        Share of the members that vote for the leading class, or the mean probability they give it.
    """

    tiers: int = 2
    vote: str = "share"

    label = "agreement_cascade"
    asks = "compared"
    allowed: ClassVar = {"tiers": COUNT, "vote": VOTES}
    tuned: ClassVar = {"tiers": Integer(2, 4), "vote": Choice(VOTES)}
    decides = True

    def required_columns(self) -> frozenset[str]:
        """Probabilities of a class that others voted for, where they are asked for."""
        return Agreement(1, int(self.vote == "probability")).required_columns

    def check(self, table: Table) -> None:
        """Refuse summaries where probabilities are asked for."""
        if self.required_columns() - table.known:
            raise InputError(
                "'vote' must be 'share' where only summaries are kept. Got 'probability'. "
                "Import full logits or probabilities, or leave it out."
            )
        super().check(table)

    def pose(self, table: Table, seed: int) -> Draft:
        rule = Agreement(self.tiers, int(self.vote == "probability"))
        if rule.soft:
            table = subsample_outputs(table, seed)
        outputs = outputs_of(table) if rule.soft else table.statistics.outputs()
        costs = table.costs + own_costs(table, rule)
        scores = score_table(rule, outputs)
        return Draft(rule, table, Problem(scores, table.quality, costs, table.unit))

    def ends(self, exits: int) -> Sequence[int]:
        return gates(exits, self.tiers)[:-1]

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        ends = gates(problem.exits, self.tiers)
        if "tiers" not in problem.memory:
            scores, value = problem.scores[:, ends], problem.value[:, ends]
            small = Problem(scores, value, problem.costs[..., ends], problem.unit)
            problem.memory["tiers"] = small
        found = solve_joint(problem.memory["tiers"], budgets, mix=True)
        return [_spread(solution, ends, problem.exits) for solution in found]


def gates(exits: int, size: int) -> list[int]:
    """Return the exits at which samples may leave: 0, the ends of tiers, the last."""
    return sorted({0, *range(size - 1, exits, size), exits - 1})


def _spread(found: Solution, ends: list[int], exits: int) -> Solution:
    """Return a solution over the ends of tiers as one over all exits: never inside a tier."""

    def whole(thresholds: Floats) -> Floats:
        out = np.full(exits, NEVER)
        out[ends[:-1]] = thresholds
        return out[:-1]

    other = None if found.other is None else whole(found.other)
    return Solution(whole(found.thresholds), other, found.share)
