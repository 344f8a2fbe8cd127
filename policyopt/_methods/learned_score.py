"""Methods that learn one score and then set thresholds: the fit they share; BERxiT, failure prediction, deferral.

A subclass says what it learns from the rows it is given (`learn`); this file meets the budgets on the scores that
are deployed, or, where a score keeps rows, on scores of rows held out of its learning.

BERxiT's learning-to-exit: Xin et al., EACL 2021: a learned certainty of each exit's answer. The module is one
linear layer and a sigmoid, ``u = sigmoid(w . x + b)``, the same for all exits, regressed on whether the exit's
answer is right by the squared error, summed over exits without weights (with the sign turned: they regress on
"wrong" and exit below a threshold; castorini/berxit, modeling_highway_bert.py).

Departures: x is by default not the hidden state, but the history features of `runtime/_scores/history.py`; with
``inputs=features`` it is the hidden state, where the cache keeps it, in its 32 first principal components (a cache
has some thousands of rows where the paper trains with the network), and with ``inputs=both`` both; the exits whose
decision is learned teach it, not the last, which always answers; a ridge penalty takes the place of stopping early;
targets are 0 and 1, where the released code has 0.01 and 0.63; and nothing is fine-tuned along with it.
``shared=false`` gives each exit weights of its own.

Failure prediction: a score that says whether stopping here is a failure. ``target=failure``: Kubaty et al.,
Rethinking calibration for early-exit neural networks (arXiv:2508.21495), hold that exits should be judged by
failure prediction and not by calibration, and that a failure at an exit is to be seen beside the cost of further
computation: an answer that no later exit mends is no reason to go on. The paper measures this and refines the
heads by it; the score learned here is ours. Its target is

    1 where exit k is right, or every later exit is wrong;   0 where k is wrong and a later exit is right,

fitted by logistic regression on the history features of `policyopt.runtime._scores.history`, exit by exit.

``target=true_class``: Corbiere et al., Addressing failure prediction by learning model confidence, NeurIPS 2019,
arXiv:1910.04851: the probability that the model gives to the true class, which is over 1/2 only where the answer
is right, regressed by the mean squared error of a sigmoid. Departures: from history features, not from a network
on the model's hidden layer (``inputs=features`` reads it, by a regression); per exit; their optional heavier weight
of failures is left out. It needs all class probabilities; ``failure`` works on summaries.

Post-hoc deferral, Jitkrittum et al., NeurIPS 2023, arXiv:2307.02764: go on where a later exit does better. The
Bayes-optimal rule (their proposition 3.1) defers where ``P(next right | x) - P(this right | x) > c``: what the
present exit knows of itself is half of it. Of the later exit nothing is known when deciding, so a regression g,
by squared error, stands in for it (their section 4 and table 1):

- ``diff01``: g estimates ``1[later right] - 1[this right]``; defer where ``g > c``;
- ``diffprob``: g estimates ``p_later(y) - p_this(y)``, what both give to the true class: less noise;
- ``maxprob``: g estimates the later exit's largest probability; defer where ``g - max p_this > c``.

Departures: the regression is a ridge on the history features of `policyopt.runtime._scores.history` (theirs is a
small network on the largest probabilities); ``maxprob`` regresses the difference itself, which is the same in
expectation, the present probability being one of the features; and of K exits, where theirs are two, each is held
against the last one or the next, with a constant c of its own that the budget sets.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from policyopt._answers.crossfit import NAMES, crossfit
from policyopt._answers.logistic import weighted_logistic
from policyopt._cache.data import folds_of
from policyopt._methods.base import ANSWERS, Method
from policyopt._methods.exit_batch import (
    ExitBatch,
    build_batch,
    columns_of,
    subsample_outputs,
    true_class,
)
from policyopt._methods.fitted import Draft, own_costs
from policyopt._methods.regression import fit_sigmoid, ridge
from policyopt._methods.settings import FOLDS, POSITIVE, YES_OR_NO, Choice, Real
from policyopt._methods.threshold import missing_outputs
from policyopt._table import Table
from policyopt._thresholds.degenerate_scores import collapse_held_out
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.solvers import SOLVERS, check_solver, solve_path
from policyopt.runtime._checks import check_type
from policyopt.runtime._errors import input_error
from policyopt.runtime._scores import Advantage, Logistic, ScoreRule, score_table
from policyopt.runtime._scores.history import INPUTS
from policyopt.runtime._typing import Floats

#: Of scores that keep rows: thresholds are set on what 4/5 of the rows taught, and deployed with that of all. Of few
#: rows that is another score; more folds than 5 are used as long as they learn from this many rows in all.
_FOLDS, _LEARNED = 20, 10_000


@dataclass(frozen=True)
class LearnedScore(Method):
    """A score learned once, cross-fitted; thresholds per budget.

    Parameters
    ----------
    thresholds : {"geometric", "shared", "joint"}
        How they are found; ``shared`` for scores in [0, 1].
    answer : str
        What exits return, and the score looks at; a name of `policyopt._answers`.
    folds : int
        Of the cross-fitting. Of few rows the score, not the answers, is learned in up to 20 folds.
    """

    thresholds: str = "geometric"
    answer: str = "plain"
    folds: int = 5

    allowed: ClassVar = {"answer": NAMES, "folds": FOLDS}
    tuned: ClassVar = {"thresholds": Choice(SOLVERS), "answer": ANSWERS}
    learned = True
    decides = True
    remedy = (
        "which this cache does not hold. Import full logits (and the model's vectors by keys features_0, "
        "features_1, ...), or choose a method that does without: `policyopt methods`."
    )
    #: Whether the score keeps rows (prototypes, neighbours), to which the rows themselves are nearer than any new
    #: one: thresholds are then set on scores that were learned without the row. Of a regression's few coefficients
    #: thresholds are set on what is deployed, and cross-validation sees to the rest (see `base`): where many
    #: rows are alike, coefficients that differ by a hair from fold to fold put all of them on the other side.
    keeps_rows: ClassVar[bool] = False
    #: What `learn` is shown besides what the method needs, where the rows hold it: it does without.
    uses: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        check_solver(self.thresholds)
        if not isinstance(self.thresholds, str):
            raise input_error("thresholds", f"one of {', '.join(SOLVERS)}", self.thresholds, "")
        super().__post_init__()

    @abstractmethod
    def learn(self, batch: ExitBatch, seed: int) -> ScoreRule:
        """Return the score rule that these rows teach; they may be few, or all alike."""

    def missing_columns(self, table: Table) -> list[str]:
        missing = super().missing_columns(table)
        whole = self.answer != "plain" or "log_prob" in self.required_columns()
        if not table.whole and whole:
            missing = sorted({*missing, "all class outputs"} - {"log_prob"})
        elif table.plain_only:
            missing += missing_outputs(self.answer, table)
        return missing

    def pose(self, table: Table, seed: int) -> Draft:
        """Learn the score, and once more per fold where it keeps rows."""
        features = "features" in self.required_columns()
        table = subsample_outputs(table, seed, features)
        answers = crossfit(table, self.answer, folds_of(len(table), self.folds, seed, table.group))
        batch = build_batch(table, answers, features)
        shown = batch.shown_to(self.required_columns() | self.uses)
        rule = self.learn(shown, seed)
        check_type(f"what {self.name} learns", rule, ScoreRule, "a score", "Return one from learn.")
        given = self.required_columns() | (self.uses & table.known)
        given |= {"margin", "entropy"} if "log_prob" in given else set()
        if unseen := ", ".join(sorted(rule.required_columns - given)):
            step = f"Let {type(self).__name__}.required_columns return it."
            what = f"columns of the score that {self.name} learns"
            raise input_error(what, "those that it declares", unseen, step)
        fold = folds_of(len(table), self.parts(table), seed, table.group)
        scores = np.empty((len(batch), table.exits), order="F")
        for f in np.unique(fold):
            held, rest = np.flatnonzero(fold == f), np.flatnonzero(fold != f)
            without = self.learn(shown.take(rest), seed) if len(rest) else rule
            scores[held] = score_table(without, batch.take(held).outputs, held)
        scores, flat = collapse_held_out(
            rule, scores, lambda rows: score_table(rule, batch.take(rows).outputs, rows)
        )
        costs = table.costs + own_costs(table, rule, answer=answers.rule)
        problem = Problem(scores, batch.quality, costs, table.unit, flat)
        return Draft(rule, table, problem, answers.rule)

    def parts(self, table: Table) -> int:
        """Return in how many folds the score is learned."""
        return max(self.folds, min(_FOLDS, _LEARNED // len(table))) if self.keeps_rows else 1

    def solve_problem(self, problem: Problem, budgets: Sequence[float]) -> list[Solution]:
        return solve_path(problem, self.thresholds, budgets)


@dataclass(frozen=True)
class InputsScore(LearnedScore):
    """A score regressed on what exits say, or on the model's own vectors.

    Parameters
    ----------
    inputs : {"history", "features", "both"}
        History features, the vectors (hidden states) that the cache keeps, in 32 principal components at most, or
        both.
    """

    inputs: str = "history"

    allowed: ClassVar = {"inputs": INPUTS}
    uses = frozenset({"log_prob"})

    def required_columns(self) -> frozenset[str]:
        return frozenset() if self.inputs == "history" else frozenset({"features"})


@dataclass(frozen=True)
class BERxiT(InputsScore):
    """Leave where the learned certainty is high.

    Parameters
    ----------
    penalty : float
        Of the weights, in rows of evidence that they are 0.
    shared : bool
        One module for all exits, as in the paper, or one per exit.
    """

    penalty: float = 30.0
    shared: bool = True

    label = "berxit"
    allowed: ClassVar = {"penalty": POSITIVE, "shared": YES_OR_NO}
    tuned: ClassVar = {"penalty": Real(1.0, 1000.0, log=True)}

    def learn(self, batch: ExitBatch, seed: int) -> Logistic:
        columns = columns_of(batch, self.shared, self.inputs)
        right = batch.quality[:, :-1]
        if self.shared:
            one = fit_sigmoid(np.concatenate(columns.basis), right.T.ravel(), self.penalty)
            theta = np.tile(one, (len(columns.basis), 1))
        else:
            each = enumerate(columns.basis)
            theta = np.stack([fit_sigmoid(x, right[:, k], self.penalty) for k, x in each])
        return columns.rule(Logistic, theta)


def missing_labels(table: Table) -> list[str]:
    """Return that classes must be known, where they are not known of every row whose worth is."""
    labels = table.statistics.labels
    known = labels is not None and not (table.quality_given and bool((labels < 0).any()))
    return [] if known else ["class labels"]


FAILURES = ("failure", "true_class")


@dataclass(frozen=True)
class FailurePrediction(InputsScore):
    """Leave where going on is unlikely to mend a failure, or where the true class is likely the answer.

    Parameters
    ----------
    target : {"failure", "true_class"}
        What is predicted: a failure that going on would mend, or the probability of the true class.
    penalty : float
        Of the weights, in rows of evidence that they are 0.
    """

    target: str = "failure"
    penalty: float = 30.0

    label = "failure_prediction"
    allowed: ClassVar = {"target": FAILURES, "penalty": POSITIVE}
    tuned: ClassVar = {"target": Choice(FAILURES), "penalty": Real(1.0, 1000.0, log=True)}

    def required_columns(self) -> frozenset[str]:
        return super().required_columns() | ({"log_prob"} if self.target == "true_class" else set())

    def missing_columns(self, table: Table) -> list[str]:
        more = missing_labels(table) if self.target == "true_class" else []
        return [*super().missing_columns(table), *more]

    def learn(self, batch: ExitBatch, seed: int) -> Logistic:
        columns, good, theta = columns_of(batch, inputs=self.inputs), no_failure(batch.quality), []
        ones, one_fold = np.ones((len(batch), 1)), np.zeros(len(batch), dtype=np.int64)
        for k, basis in enumerate(columns.basis):
            if self.target == "true_class":
                likely = true_class(batch.outputs[k], batch.labels)
                theta.append(fit_sigmoid(basis, likely, self.penalty))
            else:
                target = good[:, k : k + 1]
                found = weighted_logistic(basis, target, ones, one_fold, self.penalty)
                theta.append(found[-1, :, 0])
        return columns.rule(Logistic, np.stack(theta))


def no_failure(correct: Floats) -> Floats:
    """Return 1.0 where stopping is at least as right as going on, to whichever exit, (N, K)."""
    ahead = np.maximum.accumulate(correct[:, ::-1], axis=1)[:, ::-1]  # the best from each exit on
    return (correct >= ahead).astype(np.float64)


TARGETS = ("diff01", "diffprob", "maxprob")
RIVALS = ("last", "next")


@dataclass(frozen=True)
class Deferral(LearnedScore):
    """Leave where a later exit's answer is not expected to be better.

    Parameters
    ----------
    target : {"diffprob", "diff01", "maxprob"}
        What is regressed. Records do not know the probability of the true class: there
        ``diffprob`` is ``diff01``.
    against : {"last", "next"}
        The later exit that an exit is held against.
    penalty : float
        Of the ridge regression, in rows of evidence that no sample differs from the mean.
    """

    target: str = "diffprob"
    against: str = "last"
    penalty: float = 30.0

    label = "deferral"
    uses = frozenset({"log_prob"})
    allowed: ClassVar = {"target": TARGETS, "against": RIVALS, "penalty": POSITIVE}
    tuned: ClassVar = {
        "target": Choice(TARGETS),
        "against": Choice(RIVALS),
        "penalty": Real(1.0, 1000.0, log=True),
    }

    def learn(self, batch: ExitBatch, seed: int) -> Advantage:
        columns = columns_of(batch)
        worth = worth_of(batch, self.target)
        last = batch.exits - 1
        theta = []
        for k, basis in enumerate(columns.basis):
            later = last if self.against == "last" else k + 1
            theta.append(-ridge(basis, worth[:, later] - worth[:, k], self.penalty))
        return columns.rule(Advantage, np.stack(theta))


def worth_of(batch: ExitBatch, target: str) -> Floats:
    """Return each exit's worth as a target counts it, (N, K): the differences are regressed."""
    if target == "maxprob":
        return np.stack([output.confidence for output in batch.outputs], axis=1)
    if target == "diff01" or batch.record or batch.graded:
        return batch.quality
    return np.stack([true_class(output, batch.labels) for output in batch.outputs], axis=1)
