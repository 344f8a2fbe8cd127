"""How far confidence can be trusted: calibrations fitted and applied, their errors, and diagrams.

Rows leave because their confidence is high, part of it by luck (the winner's curse): so every number is given
for all rows and for those that leave.

Sources: expected calibration error: Guo et al., On calibration of modern neural networks, ICML 2017, eq. 3; bins
of equal mass: Nixon et al., Measuring calibration in deep learning, 2019; what chance alone shows: Broecker &
Smith, Weather and Forecasting 2007; bias: Kumar et al., Verified uncertainty calibration, NeurIPS 2019; AUROC of
failure prediction: Kubaty et al., Rethinking calibration for early-exit neural networks, arXiv:2508.21495.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policyopt._answers import crossfit
from policyopt._answers.calibrators import (
    BINS,
    FITS,
    equal_mass_edges,
    fit_confidence,
    fit_temperature,
    fit_vector,
    row_losses,
)
from policyopt._api import cost_for
from policyopt._cache.data import ExitData
from policyopt._intervals import proportion_interval, with_interval
from policyopt._methods.learned_score import no_failure
from policyopt._progress import report, working
from policyopt._replay import replay
from policyopt._table import Table, Tables, known_rows
from policyopt._utility import coarse_exits
from policyopt.runtime._answers import AnswerRule, Identity
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._checks import check_names, check_seed
from policyopt.runtime._errors import input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._several import policy_of
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Array, Floats, Ints

#: They change the class probabilities; the others map the top probability only.
ANSWER_MAPS = {"temperature": fit_temperature, "vector": fit_vector}
MAPS = ("none", *ANSWER_MAPS, *FITS)
REPLICATES = 200
_BLOCK = 1 << 22  # resampled numbers held at a time
_MEASURES = (
    "ece", "ece_low", "ece_high", "ece_plain", "confidence", "accuracy", "gap", "brier", "nll",
    "failure_auroc",
)  # fmt: skip


@dataclass(frozen=True)
class Observed:
    """The answers of a table's rows at every exit, (N, K) each."""

    confidence: Floats
    correct: Floats
    losses: Floats | None = None  # of the label, in nats; None where only summaries are kept


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Shown):
    """What `calibration` found.

    Attributes
    ----------
    split : str
    method, budget, unit
        Of the policy, as far as it says them.
    records : list of dict
        One per map, exit and group of rows, ``all`` or ``leavers``: calibration error (``ece``) with its 95 % interval,
        mean confidence less accuracy (``gap``), Brier score, negative log likelihood.
    notes : list of str
        What was left out, and why.
    """

    split: str
    method: str | None
    budget: float | None
    unit: str
    records: list[dict[str, Any]]
    notes: list[str]
    exits: Ints = field(repr=False)  # (N,): the model's number of the exit taken
    path: tuple[int, ...] = field(repr=False)  # the model's numbers of the K exits that run
    seen: dict[str, Observed] = field(repr=False)  # by map, what the rows' answers are then
    group: Ints | None = field(default=None, repr=False)


@working("calibrating")
def calibration(
    policy: Any,
    data: ExitData,
    split: str = "test",
    maps: str | Sequence[str] | None = None,
    *,
    cost: str | None = None,
    tables: Tables | None = None,
) -> Calibration:
    """Measure how far confidence can be trusted, at every exit: of all rows, and of those that a policy lets leave.

    Parameters
    ----------
    policy : Policy, or what `fit` returned
    data : ExitData
        Every map is fitted on split ``fit``.
    split : str
        Rows that are looked at.
    maps : str or sequence of str, optional
        Of ``none``, ``temperature``, ``vector``, ``platt``, ``beta``, ``isotonic``, ``histogram``; default all that can
        be.
    cost : str, optional
        As `evaluate` takes it.
    tables : Tables, optional
        Reuse of passes already made.

    Returns
    -------
    Calibration

    Raises
    ------
    InputError
        Answers that are neither right nor wrong; an unknown map, or none that can be.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(6 * logits, labels, costs=[1, 4], unit="ms")
    >>> found = po.calibration(po.fit(data, 2.0, "max_prob"), data, maps="none,temperature")
    >>> [(r["calibration"], r["gap"] > 0.05) for r in found.records if r["exit"] == 0][::2]
    [('none', True), ('temperature', False)]
    """
    policy = policy_of(policy, single=True)
    wanted = MAPS if maps is None else check_names("maps", maps, "E.g. none,platt.")
    if unknown := [name for name in wanted if name not in MAPS]:
        raise input_error("maps", f"some of {','.join(MAPS)}", unknown, "E.g. none,platt.")
    if coarse_exits(policy.provenance):
        step = "`policyopt fit --calibrator` calibrates its confidence; `policyopt explain` shows the rest."
        got = "one with super-classes, as its utility says"
        raise input_error("policy", "one whose exits answer classes, as labels do", got, step)
    tables = tables or Tables(data, cost_for(policy, data, cost))
    own = "calibrations are fitted on these very rows: they look better than they are"
    notes = [own] if split == "fit" else []
    for name in ("fit", split):  # refused before the work
        right_or_wrong(tables.get(name))
    known = [known_rows(tables.get(name), notes) for name in ("fit", split)]
    exits = replay(policy, known[1]).exit
    names = _possible(wanted, data.kind, policy, notes)
    fit, test = (table.built_for(policy) for table in known)
    report(0, len(names), "reading the outputs")
    before, after = observe(fit, policy.answer), observe(test, policy.answer)
    records, seen, path = list[dict[str, Any]](), dict[str, Observed](), policy.active_exits
    for i, name in enumerate(names):
        report(i, len(names), name)
        one = seen[name] = apply_map(fit_map(name, fit, before), test, after)
        records += calibration_records(name, one, exits, path, test.group)
    for record in records if data.names else ():
        record["name"] = data.names[record["exit"]]
    told = policy.provenance.get("method"), policy.provenance.get("budget"), policy.unit
    notes = list(dict.fromkeys(notes))
    return Calibration(split, *told, records, notes, exits, path, seen, test.group)


def _possible(wanted: Sequence[str], kind: str, policy: Any, notes: list[str]) -> list[str]:
    """Leave out the maps of class probabilities where there are none, or others are combined."""
    why = ""
    if not KINDS[kind].whole:
        why = f"{'summaries' if kind == 'summary' else kind} hold no class probabilities"
    elif not isinstance(policy.answer, Identity):
        why = f"the policy's answers are {policy.answer.name} ones (--method max_prob has the exits' own)"
    out = [name for name in wanted if why and name in ANSWER_MAPS]
    if len(out) == len(wanted):
        allowed = f"some of {','.join(name for name in MAPS if name not in ANSWER_MAPS)}"
        raise input_error("maps", allowed, list(wanted), why)
    if out:
        notes.append(f"without {' and '.join(out)}: {why}")
    return [name for name in wanted if name not in out]


def right_or_wrong(table: Table) -> Floats:
    """Return whether each answer is right, (N, K); refused where answers are only worth more or less."""
    table = known_rows(table)
    _, labels, own = table.quality, table.statistics.labels, table.statistics.correct
    if own is not None and (labels is None or bool((labels >= 0).all())):
        return own.astype(np.float64)
    valued = KINDS[table.kind].scaled
    allowed = "one that tells which answers are right or wrong, by labels or `correct`"
    got = (
        f"{table.kind}, whose answers are more or less near" if valued else "a graded quality alone"
    )
    step = (
        "`policyopt fit --calibrator isotonic` fits a map from confidence to the quality to expect, which "
        "decisions then show; `policyopt explain` tells at each exit the quality of those who leave"
    )
    more = "." if valued else ". Or import labels besides."
    raise input_error(f"split {table.split}", allowed, got, step + more)


def observe(table: Table, answer: AnswerRule | None = None) -> Observed:
    """Return the answers of a table's labelled rows under an answer rule, by default the exits' own."""
    table = known_rows(table)
    own, labels = right_or_wrong(table), table.statistics.labels
    answer = Identity() if answer is None else answer
    if labels is None or table.source is None or not table.source.has("outputs"):
        if not isinstance(answer, Identity):
            raise input_error("answer", "plain where only summaries are kept", answer.name, "")
        return Observed(table.statistics.confidence, own)
    confidence, correct, losses = (np.empty(own.shape) for _ in range(3))
    for rows, exits in crossfit.observe(table, crossfit.CrossFitted(answer), full=True):
        for k, seen in enumerate(exits):
            confidence[rows, k] = seen.confidence
            correct[rows, k] = seen.prediction == labels[rows]
            assert seen.log_prob is not None
            losses[rows, k] = row_losses(seen.log_prob, labels[rows])
    return Observed(confidence, correct, losses)


def fit_map(name: str, table: Table, observed: Observed) -> AnswerRule | Calibrator | None:
    """Fit one of `MAPS` per exit on labelled rows and their answers; None for "none"."""
    if name == "none":
        return None
    if name not in ANSWER_MAPS:
        return fit_confidence(name, observed.confidence, observed.correct)
    return ANSWER_MAPS[name](table.log_prob(), np.asarray(table.statistics.labels), table.group)


def apply_map(rule: AnswerRule | Calibrator | None, table: Table, observed: Observed) -> Observed:
    """Return the answers of a table's rows after a calibration of `fit_map`."""
    if rule is None:
        return observed
    if isinstance(rule, AnswerRule):
        return observe(table, rule)
    # No losses: a confidence map says nothing of the other classes.
    columns = [rule.curve(k, np.ascontiguousarray(p)) for k, p in enumerate(observed.confidence.T)]
    return Observed(np.stack(columns, axis=1), observed.correct)


def calibration_records(
    name: str,
    seen: Observed,
    exits: Ints,
    path: Sequence[int] | None = None,
    kin: Ints | None = None,
) -> list[dict[str, Any]]:
    """Return one record per exit and group of rows: all of them, and those that leave there."""
    # `exits`: (N,); `path`: the model's number of each column; `kin`: which rows belong together, `Table.group`.
    # Measures of no rows are None; ``gap`` over 0 is overconfident.
    records, areas = [], failure_auroc(seen.confidence, seen.correct)
    for k, number in enumerate(range(seen.confidence.shape[1]) if path is None else path):
        for group, rows in (("all", np.full(len(exits), True)), ("leavers", exits == number)):
            p, right = seen.confidence[rows, k], seen.correct[rows, k]
            record: dict[str, Any] = {"calibration": name, "exit": number, "group": group}
            record |= {"rows": len(p), **dict.fromkeys(_MEASURES)}
            if len(p):
                record |= calibration_error(p, right, kin=None if kin is None else kin[rows])
                record |= {
                    "confidence": float(p.mean()), "accuracy": float(right.mean()),
                    "gap": float(p.mean() - right.mean()), "brier": float(((p - right) ** 2).mean()),
                    "nll": None if seen.losses is None else float(seen.losses[rows, k].mean()),
                    "failure_auroc": areas[k] if group == "all" else None,
                }  # fmt: skip
            records.append(record)
    return records


def calibration_error(
    confidence: Floats, correct: Floats, bins: int = BINS, seed: int = 0, kin: Ints | None = None
) -> dict[str, float]:
    """Return the expected calibration error of n rows with a 95 % interval, in bins of equal mass."""
    # The plain estimate is too high: chance alone opens gaps, of 0.02 in all at 2,000 calibrated rows. So all gaps
    # are shrunk by one factor, such that they and chance together would show, on average, the plain value. Interval:
    # basic bootstrap above, 0 below where calibrated confidence shows as much in 2.5 % of draws. Rows of one group
    # (`kin`) are drawn together. Planted errors of 0 to 0.1 at 300 and 2,000 rows lay in it in 80 to 98 % of
    # repetitions.
    n = len(confidence)
    at = np.arange(n) if kin is None else np.unique(kin, return_inverse=True)[1]
    units = int(at.max()) + 1
    place = np.searchsorted(equal_mass_edges(confidence, bins), confidence, side="right")
    rows = np.bincount(place)
    bin_of = np.zeros((n, len(rows)))
    bin_of[np.arange(n), place] = 1.0
    gaps = np.abs((confidence - correct) @ bin_of) / n
    plain = float(gaps.sum())
    rate = (correct @ bin_of + 0.5) / (rows + 1)
    ece = _shrink(gaps, np.sqrt(rate * (1 - rate) * rows * n / units) / n) * plain

    rng = np.random.default_rng(check_seed(seed))
    drawn, chance = np.empty(REPLICATES), np.empty(REPLICATES)
    size = max(_BLOCK // n, 1)
    signed = bin_of * (confidence - correct)[:, None]
    for low in range(0, REPLICATES, size):
        part = slice(low, min(low + size, REPLICATES))
        shape = (part.stop - low, units)
        # Poisson weights: the bootstrap of rows without a fixed total, which is divided out.
        weights = rng.poisson(1.0, shape).astype(np.float64)[:, at]
        drawn[part] = np.abs(weights @ signed).sum(axis=1) / np.maximum(weights.sum(axis=1), 1)
        right = rng.random(shape)[:, at] < confidence
        chance[part] = np.abs((confidence - right) @ bin_of).sum(axis=1) / n
    bottom, top = np.quantile(drawn, [0.025, 0.975])
    calibrated = (1 + np.count_nonzero(chance >= plain - 1e-12)) / (REPLICATES + 1) > 0.025
    return {
        "ece": ece, "ece_low": 0.0 if calibrated else float(max(ece + drawn.mean() - top, 0.0)),
        "ece_high": float(max(2 * plain - bottom, ece)), "ece_plain": plain,
    }  # fmt: skip


def _shrink(gaps: Floats, chance: Floats) -> float:
    """Return t in [0, 1] with ``sum E|N(t gaps, chance^2)| = sum gaps``; see `calibration_error`."""
    from scipy.optimize import brentq
    from scipy.special import ndtr

    def excess(t: float) -> float:
        z = t * gaps / chance  # the mean of a folded normal
        shown = chance * (np.sqrt(2 / np.pi) * np.exp(-z * z / 2) + z * (1 - 2 * ndtr(-z)))
        return float((shown - gaps).sum())

    if excess(0.0) >= 0:
        return 0.0
    return float(brentq(excess, 0.0, 1.0)) if excess(1.0) > 0 else 1.0  # type: ignore[arg-type]


def auroc(scores: Floats, right: Array) -> float | None:
    """Return the chance that a right answer of n scores above a wrong one, ties counting half."""
    # A graded answer is right with the probability that its quality says: all pairs of two rows count with that
    # weight.
    good = np.asarray(right, dtype=np.float64)
    wrong = 1.0 - good
    pairs = good.sum() * wrong.sum() - good @ wrong
    if pairs <= 1e-12 * max(len(good), 1):
        return None
    _, place = np.unique(scores, return_inverse=True)
    at, below = np.bincount(place, good), np.bincount(place, wrong)
    above = at @ (np.cumsum(below) - below / 2) - good @ wrong / 2
    return float(above / pairs)


def failure_auroc(scores: Floats, correct: Floats) -> list[float | None]:
    """Return, per exit, the chance that a row that may stop (is as right as later) outscores one that should not."""
    good = no_failure(np.asarray(correct, dtype=np.float64)) > 0
    return [auroc(scores[:, k], good[:, k]) for k in range(good.shape[1])]


# --- reliability diagrams --------------------------------------------------------------------


def reliability(
    confidence: Floats, correct: Floats, bins: int = BINS, kin: Ints | None = None
) -> list[dict[str, Any]]:
    """Return one point per bin of equal mass: mean confidence, accuracy with Wilson's interval."""
    if not len(confidence):
        return []
    place = np.searchsorted(equal_mass_edges(confidence, bins), confidence, side="right")
    points = []
    for j in np.unique(place):
        inside, right = confidence[place == j], correct[place == j]
        low, high = proportion_interval(right, group=None if kin is None else kin[place == j])
        points.append({
            "confidence": float(inside.mean()), "rows": len(right),
            **with_interval("accuracy", float(right.mean()), low, high),
        })  # fmt: skip
    return points
