"""Answers fitted on rows of a table such that no row is answered by a rule it helped to fit; combined ones.

Combined over exits: a weighted geometric mean of the class probabilities so far. Readings, all of the form
``log P_k = sum_{j<=k} w_kj log p_j + b_k + const``:

``geometric``
    Weights 0 or more, one vector per exit, by likelihood (convex). The sum of the weights is
    free, so a temperature is part of it. The default.
``ztw``
    Zero Time Waste (Wołczyk et al., NeurIPS 2021, eq. 4): as above, the mean over exits with
    positive weights, and a bias per class and exit. Departures: the weights are bounded below by
    0 instead of being exponentials (the same set but for its border), the bias is shrunk.
``poe``
    Product of experts (Jazbec et al., NeurIPS 2023, eq. 4), weights (j+1)/K as there, nothing
    fitted. Departure: softmax experts; their ReLU experts need logits whose zero has a meaning.

A combination is kept at an exit only where it improves the likelihood of held-out rows over the
exit's own probabilities, tempered, by more than one standard error, and does not answer fewer of them right by as much;
elsewhere the latter stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from weakref import ref

import numpy as np
import numpy.typing as npt

from policyopt._answers.calibrators import fit_temperature, fit_vector
from policyopt._answers.logistic import descended
from policyopt._engine import one_thread
from policyopt._intervals import standard_error
from policyopt._table import Table, is_right
from policyopt.runtime._answers import FLOOR, AnswerRule, Combined, Identity
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import InputError
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._outputs import ExitOutput
from policyopt.runtime._policy import Observer
from policyopt.runtime._typing import Bools, Floats, Ints

Logs, Labels = npt.NDArray[np.float32], npt.NDArray[np.integer]
READINGS = ("geometric", "ztw", "poe")
_UNDERFLOW = 1e-30
_LARGEST = 20.0  # of a weight: separable rows would drive it to infinity
_LEAST = 1e-3  # of an exit's own, alone: its answer stays what it says
#: Shrinkage of class biases towards 0, as that many rows of doubt per class.
_BIAS_PENALTY = 10.0
_NO_BIAS = np.zeros(0)
#: Names a user can give; "combined" is the geometric reading.
NAMES = ("plain", "combined", *READINGS[1:], "temperature", "vector")
#: Rows and numbers that a fit looks at: K weights per exit need no more, and with C=1000 time counts.
_MOST_ROWS = 20_000
_MOST_NUMBERS = 1 << 23
_MANY = 12  # exits: of more, fewer numbers
#: Below this many labelled rows nothing about an answer can be learned.
_FEWEST_ROWS = 20


@dataclass(frozen=True, eq=False)
class CrossFitted:
    """An answer rule, and the rules that answer for the rows it was fitted on."""

    rule: AnswerRule  # fitted on all rows: what is deployed
    rules: tuple[AnswerRule, ...] = ()  # one per fold, fitted on the other folds
    #: Which of `rules` may answer for a row, (N,); None: `rule` answers for all (rows of another split).
    fold: Ints | None = None


#: What the table that was asked for last has, by the answer's name: methods that are compared ask for the same.
_last: dict[str, tuple[ref[Table], Ints, CrossFitted]] = {}


def crossfit(table: Table, name: str, fold: Ints) -> CrossFitted:
    """Fit an answer rule on all rows (of very many, a random part), and once per fold on the others."""
    if (known := _last.get(name)) and known[0]() is table and np.array_equal(known[1], fold):
        return known[2]
    with one_thread():  # for tens of weights more only wait
        found = _crossfit(table, name, fold)
    _last[name] = ref(table), fold, found
    return found


def _crossfit(table: Table, name: str, fold: Ints) -> CrossFitted:
    """Do what `crossfit` says."""
    # Plain where a graded quality is of the exits' own answers: of any other nobody knows it.
    check_one_of("answer", name, NAMES, "E.g. --set answer=combined.")
    count = int(fold.max(initial=0)) + 1
    if name == "plain" or table.plain_only:
        return CrossFitted(Identity())
    labels = table.statistics.labels
    known = np.flatnonzero(labels >= 0) if labels is not None else np.empty(0, np.int64)
    # Weights grow with the square of the exits, and of many exits most are 0.
    numbers = _MOST_NUMBERS * min(table.exits, _MANY) // table.exits
    most = min(_MOST_ROWS, max(numbers // (table.exits * max(table.classes, 1)), 1000))
    if len(known) > most:
        known = np.sort(np.random.default_rng(0).permutation(known)[:most])
    if labels is None or len(known) < _FEWEST_ROWS or len(np.unique(fold[known])) < 2:
        return CrossFitted(Identity())
    log_prob = table.take(known).log_prob()
    # A class that an exit rules out: no weights make it right, and its infinite loss would flatten all others.
    told = log_prob[np.arange(len(known)), :, labels[known]] - log_prob.max(axis=2) > FLOOR
    possible = told.all(axis=1)
    if possible.sum() < _FEWEST_ROWS or len(np.unique(fold[known[possible]])) < 2:
        return CrossFitted(Identity())
    known, log_prob = known[possible], log_prob if possible.all() else log_prob[possible]
    labels, own = labels[known], fold[known]
    group = None if table.group is None else table.group[known]
    if name in ("temperature", "vector"):
        fit = fit_temperature if name == "temperature" else fit_vector
        rests = [own != f for f in range(count)]
        kin = [None if group is None else group[rest] for rest in rests]
        rules = (fit(log_prob[r], labels[r], g) for r, g in zip(rests, kin, strict=True))
        return CrossFitted(fit(log_prob, labels, group), tuple(rules), fold)
    reading = "geometric" if name == "combined" else name
    keep, whole, combined = cross_fit_combined(log_prob, labels, own, reading, group)
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
            yield rows, look_through(answers.rule, table, outputs, full, rows)
            continue
        groups = answers.fold[part]
        for f in np.unique(groups):
            chosen = np.flatnonzero(groups == f)
            rows = part.start + chosen
            yield rows, look_through(answers.rules[f], table, outputs[chosen], full, rows)


def look_through(
    rule: AnswerRule, table: Table, outputs: npt.NDArray[np.floating], full: bool, rows: Ints
) -> list[ExitOutput]:
    """Return the reduced answers of some outputs (n, K, C), of `rows`, exit by exit, as the runtime sees them."""
    observer = Observer(rule, KINDS[table.kind], table.classes, full)
    state = observer.start(len(outputs))
    seen = []
    for k in range(table.exits):
        features = table.feature(k, rows) if rule.reads_features else None
        reduced, _, state = observer.look(k, outputs[:, k], state, len(outputs), features=features)
        seen.append(reduced)
    return seen


def answered(table: Table, answers: CrossFitted) -> Table:
    """Return the table as it looks with those answers: statistics and qualities recomputed."""
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
    new = old.replace(**made)
    quality, correct = table.worth(new.prediction), is_right(new.prediction, old.labels)
    return replace(table, statistics=new.replace(quality=quality, correct=correct))


def fit_combined(
    log_prob: Logs,
    labels: Labels,
    reading: str = "geometric",
    keep: Bools | None = None,
    start: Combined | None = None,
) -> Combined:
    """Fit the weights of every exit by likelihood. Shapes: log_prob (N, K, C); labels (N,); keep (K,)."""
    check_one_of("answer", reading, READINGS, "E.g. answer=geometric.")
    _, exits, classes = log_prob.shape
    # One contiguous array per exit: a step of the search then runs over memory in order.
    peaks = log_prob.max(axis=2, keepdims=True)
    logs = [np.maximum(log_prob[:, k] - peaks[:, k], FLOOR) for k in range(exits)]
    weights = np.zeros((exits, exits))
    bias = np.zeros((exits, classes)) if reading == "ztw" else None
    for k in range(exits):
        combine = keep is None or bool(keep[k])
        used = list(range(k + 1)) if combine else [k]
        if combine and reading == "poe":
            weights[k, used] = (np.arange(k + 1) + 1) / exits
            continue
        first, shift = np.eye(len(used))[-1], _NO_BIAS
        if bias is not None and combine:
            shift = bias[k] if start is None or start.bias is None else start.bias[k]
        if start is not None:
            first = start.weights[k, used]
        weights[k, used], shift = _maximise([logs[j] for j in used], labels, first, shift)
        # All are worse than none: the exit's own answer stays, unsure as can be.
        if not weights[k].any():
            weights[k, k] = _LEAST
        if bias is not None and len(shift):
            bias[k] = shift
    return Combined(weights, bias)


def negative_log_likelihood(
    logs: Sequence[Logs], labels: Labels, weights: Floats, bias: Floats = _NO_BIAS
) -> tuple[float, Floats, Floats]:
    """Return mean -log P(label), and its gradient in the weights (J,) and in the bias (C,)."""
    rows, total = np.arange(len(labels)), np.zeros_like(logs[0])
    if len(bias):
        total += bias.astype(np.float32)
    for weight, log in zip(weights, logs, strict=True):
        if weight:  # of many exits most are 0
            total += np.float32(weight) * log
    picked = total[rows, labels]
    with np.errstate(over="ignore"):
        powers = np.exp(total)
    norm = np.einsum("nc->n", powers)  # not BLAS: its spare lanes may raise flags
    # Seldom: the largest log of each exit is near 0.
    if not ((norm > _UNDERFLOW) & np.isfinite(norm)).all():
        total -= total.max(axis=1, keepdims=True)
        picked = total[rows, labels]
        powers = np.exp(total)
        norm = np.einsum("nc->n", powers)
    total = powers
    value = float((np.log(norm.astype(np.float64)) - picked.astype(np.float64)).mean())
    total /= norm[:, None]
    total[rows, labels] -= 1.0
    slope = np.array([float(np.einsum("nc,nc->", total, log)) for log in logs]) / len(rows)
    bias_slope = total.mean(axis=0, dtype=np.float64) if len(bias) else _NO_BIAS
    return value, slope, bias_slope


def losses_of(answer: Combined, log_prob: Logs, labels: Labels) -> tuple[Floats, Bools]:
    """Return -log P_k(label) of every row and exit, (N, K), and whether its answer is right."""
    state = answer.start(len(log_prob), log_prob.shape[2])
    out, right = np.empty(log_prob.shape[:2]), np.empty(log_prob.shape[:2], dtype=bool)
    rows = np.arange(len(labels))
    for k in range(log_prob.shape[1]):
        logits, state = answer.answer(k, log_prob[:, k], state)
        right[:, k] = logits.argmax(axis=1) == labels
        logits = logits - logits.max(axis=1, keepdims=True)
        out[:, k] = np.log(np.exp(logits).sum(axis=1, dtype=np.float64)) - logits[rows, labels]
    return out, right


def cross_fit_combined(
    log_prob: Logs,
    labels: Labels,
    fold: Ints,
    reading: str = "geometric",
    group: Ints | None = None,
) -> tuple[Bools, Combined, list[Combined]]:
    """Fit on all rows and without each fold; keep the combination where it helps on held-out rows."""
    exits = log_prob.shape[1]
    alone = np.zeros(exits, dtype=bool)
    whole = [fit_combined(log_prob, labels, reading, keep) for keep in (alone, None)]
    gain, better = np.zeros(log_prob.shape[:2]), np.zeros(log_prob.shape[:2])
    pairs = []
    for f in range(int(fold.max()) + 1):
        held, rest = fold == f, fold != f
        # Nearly the same rows as all: their solution is a good place to start from.
        starts = zip((alone, None), whole, strict=True)
        pair = [fit_combined(log_prob[rest], labels[rest], reading, *one) for one in starts]
        if held.any():
            own, both = (losses_of(rule, log_prob[held], labels[held]) for rule in pair)
            gain[held], better[held] = own[0] - both[0], both[1].astype(float) - own[1]
        pairs.append(pair)
    gained, right = gain.mean(axis=0), better.mean(axis=0)
    error, doubt = (standard_error(a, group) for a in (gain, better))
    keep = (gained > error) & (right >= -doubt) & (np.arange(exits) > 0)
    return keep, _picked(whole, keep), [_picked(pair, keep) for pair in pairs]


def _picked(pair: Sequence[Combined], keep: Bools) -> Combined:
    """Return the combined weights of the exits that are kept, the own ones of the others."""
    own, combined = pair
    weights = np.where(keep[:, None], combined.weights, own.weights)
    if own.bias is None or combined.bias is None:
        return Combined(weights)
    return Combined(weights, np.where(keep[:, None], combined.bias, own.bias))


def _maximise(
    logs: list[Logs], labels: Labels, first: Floats, shift: Floats
) -> tuple[Floats, Floats]:
    """Maximise the likelihood over weights in [0, 20], (J,), and a class bias, (C,) or (0,), from a start."""
    count, penalty = len(logs), _BIAS_PENALTY / len(labels)

    def objective(parameters: Floats) -> tuple[float, Floats]:
        bias = parameters[count:]
        value, slope, bias_slope = negative_log_likelihood(logs, labels, parameters[:count], bias)
        gradient = np.concatenate([slope, bias_slope + penalty * bias])
        return value + penalty * float(bias @ bias) / 2, gradient

    bounds = [(_LEAST if count == 1 else 0.0, _LARGEST)] * count + [(None, None)] * len(shift)
    # The likelihood is computed in float32: closer than 1e-6 there is only rounding.
    start = np.concatenate([first, shift])
    found = descended(objective, start, bounds, maxiter=100, ftol=1e-7, gtol=1e-4)
    return found[:count], found[count:]
