"""Answer rules fitted on rows of a table such that no row is answered by a rule it helped to fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from policyopt._answers.calibrators import fit_temperature, fit_vector
from policyopt._answers.combined import READINGS, cross_fit_combined
from policyopt._table import Table
from policyopt.runtime._answers import AnswerRule, Identity
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._outputs import ExitOutput
from policyopt.runtime._policy import Observer
from policyopt.runtime._typing import Ints

#: Names a user can give; "combined" is the geometric reading.
NAMES = ("plain", "combined", *READINGS[1:], "temperature", "vector")
#: Rows and numbers that a fit looks at: K weights per exit need no more, and with C=1000 time counts.
_MOST_ROWS = 20_000
_MOST_NUMBERS = 1 << 23
#: Below this many labelled rows nothing about an answer can be learned.
_FEWEST_ROWS = 20


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """An answer rule, and the rules that answer for the rows it was fitted on."""

    rule: AnswerRule  # fitted on all rows: what is deployed
    rules: tuple[AnswerRule, ...] = ()  # one per fold, fitted on the other folds
    #: Which of `rules` may answer for a row, (N,); None: `rule` answers for all (rows of another split).
    fold: Ints | None = None


def folds_of(rows: int, folds: int, seed: int) -> Ints:
    """Return a random fold number per row, (N,), sizes equal to within one."""
    return np.random.default_rng(seed).permutation(rows) % max(min(folds, rows), 1)


def crossfit(table: Table, name: str, fold: Ints) -> CrossFitted:
    """Fit an answer rule on all rows (of very many, a random part), and once per fold on the others."""
    if name not in NAMES:
        allowed, step = f"one of {', '.join(NAMES)}", "E.g. --set answer=combined."
        raise input_error("answer", allowed, name, step)
    count = int(fold.max(initial=0)) + 1
    if name == "plain":
        return CrossFitted(Identity())
    labels = table.statistics.labels
    known = np.flatnonzero(labels >= 0) if labels is not None else np.empty(0, np.int64)
    most = min(_MOST_ROWS, max(_MOST_NUMBERS // (table.exits * max(table.classes, 1)), 1000))
    if len(known) > most:
        known = np.sort(np.random.default_rng(0).permutation(known)[:most])
    if labels is None or len(known) < _FEWEST_ROWS or len(np.unique(fold[known])) < 2:
        return CrossFitted(Identity())
    log_prob = table.take(known).log_prob()
    labels, groups = labels[known], fold[known]
    if name in ("temperature", "vector"):
        fit = fit_temperature if name == "temperature" else fit_vector
        rests = [groups != f for f in range(count)]
        rules = tuple(fit(log_prob[rest], labels[rest]) for rest in rests)
        return CrossFitted(fit(log_prob, labels), rules, fold)
    reading = "geometric" if name == "combined" else name
    keep, whole, combined = cross_fit_combined(log_prob, labels, groups, reading)
    if not keep.any():
        return CrossFitted(Identity())
    # A fold without labelled rows: no rule was fitted on its rows, so that of all serves.
    return CrossFitted(whole, (*combined, *[whole] * (count - len(combined))), fold)


def observe(
    table: Table, answers: CrossFitted, full: bool = False
) -> Iterator[tuple[Ints, list[ExitOutput]]]:
    """Yield (rows (n,), their reduced answers exit by exit), each row answered by its fold's rule."""
    for part, outputs in table.chunks():
        if answers.fold is None:
            rows = np.arange(part.start, part.stop)
            yield rows, look_through(answers.rule, table, outputs, full)
            continue
        groups = answers.fold[part]
        for f in np.unique(groups):
            chosen = np.flatnonzero(groups == f)
            yield part.start + chosen, look_through(answers.rules[f], table, outputs[chosen], full)


def look_through(
    rule: AnswerRule, table: Table, outputs: npt.NDArray[np.floating], full: bool
) -> list[ExitOutput]:
    """Return the reduced answers of some outputs (n, K, C), exit by exit, as the runtime sees them."""
    observer = Observer(rule, table.kind, table.classes, full)
    state = rule.start(len(outputs), table.classes)
    seen = []
    for k in range(table.exits):
        reduced, _, state = observer.look(k, outputs[:, k], state, len(outputs))
        seen.append(reduced)
    return seen


def answered(table: Table, answers: CrossFitted) -> Table:
    """Return the table as it looks with those answers: statistics and correctness recomputed."""
    if isinstance(answers.rule, Identity):
        return table
    old = table.statistics
    if old.labels is None:
        raise InputError(
            f"Split '{table.split}' must have labels. Got rows without. Import with --labels FILE."
        )
    columns = ("top_prob", "top_class", "entropy", "log_sum_exp")
    made = {name: np.empty_like(getattr(old, name)) for name in columns}
    for rows, seen in observe(table, answers):
        for k, output in enumerate(seen):
            for name, column in made.items():
                column[rows, k] = getattr(output, name)
    new = replace(old, correct=None, **made)
    correct = (new.prediction == old.labels[:, None]) & (old.labels >= 0)[:, None]
    return replace(table, statistics=replace(new, correct=correct))
