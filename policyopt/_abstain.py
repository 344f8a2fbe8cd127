"""Declining to answer: thresholds for a limit on the share, or at a cost within the budget; risk and coverage.

A sample is declined where its score at the exit taken is under a threshold. By Chow (On optimum recognition error
and reject tradeoff, IEEE Trans. Inf. Theory 16, 1970) the best rule thresholds the probability that the answer is
right, wherever it was given: so by default one number holds for the calibrated confidence at all exits. Other scores
(energy, distances of features) mean something else at every exit: there each exit declines the same share of those
who leave there. Either way one number, the share, moves all thresholds; who is declined at one share is so at all
larger ones.

Where handing over costs something, what it costs is saved at the exits: policies are fitted for what the shares on a
grid leave of the budget, and the one with the best quality on the rows is taken, the smaller share of equals.
A floor is one on the quality that counts what comes of handing over: budgets on a grid are tried, then others beside
the best, and the cheapest policy that meets it is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import isnan
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._answers.calibrators import FITS, fit_confidence
from policyopt._answers.crossfit import answered, crossfit
from policyopt._cache.data import folds_of
from policyopt._methods.base import (
    Method,
    bounded,
    cheapest,
    fit_where_possible,
    outcome_of,
    own_costs,
    subsample,
    worth_interval,
)
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import make_method
from policyopt._methods.targets import ANOTHER, Target, read_share, targets_of
from policyopt._replay import trace
from policyopt._table import Table, known_rows
from policyopt.runtime._answers import Identity
from policyopt.runtime._calibrators import Calibrator
from policyopt.runtime._checks import MAX_COST, check_least, check_one_of, check_share
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._policy import ALWAYS, Abstention
from policyopt.runtime._scores import RULES, ScoreRule, make_rule
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Floats

#: Scores that nothing is to be learned for.
STATIC = ("energy", "entropy", "margin", "max_logit", "max_prob")
_SHARES = 21  # on the grid, from none to the most that can be paid
_MOST = 100_000  # rows that thresholds are set on
_AIMS = 17  # budgets on the grid of a floor
_NEAR = 1e-9


@dataclass(frozen=True)
class Declining:
    """What is asked of a policy that may decline.

    Parameters
    ----------
    share : float, optional
        Most of the rows that may be declined, in [0, 1]; default as many as are worth it.
    cost : float
        Of handing a row over, in the unit of the budget.
    quality : float
        Of the answer that comes then, in [0, 1].
    score : str, optional
        Whose low scores are declined: `STATIC`, or a method whose score is learned, e.g. ``"e2cm"``
        (distances of features). Default: the calibrated confidence.
    """

    share: float | None = None
    cost: float = 0.0
    quality: float = 1.0
    score: str | None = None

    def __post_init__(self) -> None:
        if self.share is None and not self.cost:
            step = "E.g. --abstain 5%, or --abstain-cost 2 (Python: abstain='5%', abstain_cost=2)."
            raise input_error("abstain", "a share, or a cost of handing over", "neither", step)
        if self.share is not None:
            check_share("abstain", self.share)
        check_least("abstain_cost", self.cost, MAX_COST)
        check_share("abstain_quality", self.quality)


def declining(
    share: float | str | None, cost: float | None, quality: float | None, score: str | None
) -> Declining | None:
    """Return what is asked for, None where nothing is; a share may be a text such as "5%"."""
    if share is None and cost is None:
        for name, value in (("abstain_quality", quality), ("abstain_score", score)):
            if value is not None:
                raise input_error(name, "given beside a share or cost", value, "E.g. --abstain 5%.")
        return None
    if isinstance(share, str):
        share = read_share(share, "abstain")
    return Declining(share, cost or 0.0, 1.0 if quality is None else quality, score)


def fit_declining(
    method: Method, table: Table, targets: Sequence[float | Target], seed: int, asked: Declining,
    calibrator: str | None = None,
) -> list[Fitted | None]:  # fmt: skip
    """Fit policies that may decline, one per target, None where a budget is not met."""
    method = method.in_turn("abstain")
    # Where confidence drives that, it is calibrated, by Platt's map unless said.
    name = calibrator or ("platt" if asked.score is None else None)
    # With what they cost, by exits run.
    scores: dict[tuple[int, ...], tuple[ScoreRule, Floats]] = {}

    def score_at(exits: tuple[int, ...]) -> tuple[ScoreRule, Floats] | None:
        if asked.score is None:
            return None
        if exits not in scores:
            part = table.keep_exits(exits)
            rule = score_of(asked.score, part, seed)
            scores[exits] = rule, own_costs(part, rule)
        return scores[exits]

    whole = score_at(table.active_exits)
    spare = 0.0 if whole is None else float(whole[1][-1])  # so that the score is paid, too
    rows = subsample(table, _MOST, 0)

    def fits(aims: set[Target]) -> dict[Target, Fitted]:
        once = sorted(aims, key=lambda aim: float(aim.budget or 0))
        found = zip(once, fit_where_possible(method, table, once, seed), strict=True)
        met = {aim: one for aim, one in found if one is not None}
        made = list(met.values())
        made = made if name is None else calibrated(name, made, table, seed)
        return dict(zip(met, made, strict=True))

    def declined(one: Fitted, share: float, budget: float) -> tuple[float, Fitted]:
        if asked.score is not None and not isinstance(one.policy.answer, Identity):
            got = f"{one.policy.answer.name}: what the score means is lost in it"
            step = "Leave --abstain-score out, or fit a method of plain answers."
            raise input_error("answer", "plain with a score for abstaining", got, step)
        return _declined(one, rows, share, score_at(one.policy.active_exits), asked, budget)

    def within(target: Target, most: float) -> list[tuple[float, Target]]:
        """Return shares, ascending, with what they leave of the budget to the exits."""
        left = most - spare
        shares = _shares(table, left, asked)
        return [(s, Target(left - asked.cost * s, limits=target.limits)) for s in shares]

    wishes = [_wish(one, table, asked, spare) for one in targets_of(targets, table)]
    grids = [[] if target.floored else within(target, most) for target, most in wishes]
    met = fits({aim for grid in grids for _, aim in grid})
    out = []
    for (target, most), grid in zip(wishes, grids, strict=True):
        if target.floored:
            best: Fitted | None = _least(target, table, asked, most, spare, fits, declined)
        else:
            tried = [declined(met[aim], share, most) for share, aim in grid if aim in met]
            # The first of equals, which declines the fewest.
            best = max(tried, key=lambda found: found[0])[1] if tried else None
        out.append(None if best is None else _told(best, target, table))
    return out


def decline_or_refuse(
    method: Method, table: Table, targets: Sequence[float | Target], seed: int, asked: Declining,
    calibrator: str | None = None,
) -> list[Fitted | BudgetError]:  # fmt: skip
    """Fit policies that may decline, one per target; for those that cannot be met return why not."""
    given = targets_of(targets, table)
    # One that is refused is that one alone.
    if len(given) > 1 and any(target.floored for target in given):
        return [
            decline_or_refuse(method, table, [one], seed, asked, calibrator)[0] for one in given
        ]
    try:
        found = fit_declining(method, table, given, seed, asked, calibrator)
    except BudgetError as error:
        return [error] * len(given)
    return [
        one
        or BudgetError(
            f"No policy of {method.name} costs {target.most(table):.6g} {table.unit} or less on these rows: exits "
            f"cost {cheapest(table):.6g} to {table.mean_costs[-1]:.6g} {table.unit}. Raise the budget."
        )
        for one, target in zip(found, given, strict=True)
    ]


def _wish(target: Target, table: Table, asked: Declining, spare: float) -> tuple[Target, float]:
    """Return a target and the most that may be spent."""
    if target.limits and (asked.cost or spare):
        step = "Leave one of the two out; --budget and --accuracy hold with either."
        got = ", ".join(limit.text for limit in target.limits)
        raise input_error("limits", "absent where declining has a cost of its own", got, step)
    most = target.most(table)
    if most is None:
        share = 1.0 if asked.share is None else asked.share
        most = float(table.mean_costs[-1]) + spare + asked.cost * share
    return target, most


def _least(
    target: Target, table: Table, asked: Declining, most: float, spare: float,
    fits: Callable[[set[Target]], dict[Target, Fitted]],
    declined: Callable[[Fitted, float, float], tuple[float, Fitted]],
) -> Fitted:  # fmt: skip
    """Return the cheapest policy within `most` whose quality, hand-overs counted, meets a floor."""
    floor = target.floor(table)
    assert floor is not None
    _ = known_rows(table).quality  # says what is missing
    share = 1.0 if asked.share is None else asked.share
    shares = np.linspace(0.0, share, _SHARES).tolist() if asked.cost else [share]
    ends = min(cheapest(table), most - spare), min(float(table.mean_costs[-1]), most - spare)
    best: tuple[float, Fitted] | None = None  # after what its exits may cost
    top: Fitted | None = None
    for _ in range(2):
        aims = np.linspace(*ends, _AIMS).tolist()
        met = fits({Target(aim, limits=target.limits) for aim in aims})
        for aim, one in met.items():
            for share in shares:  # the first that meets the floor is the cheapest
                made = declined(one, share, most)[1]
                dearer = best is not None and made.expected.cost >= best[1].expected.cost
                if dearer or made.expected.cost > most * (1 + _NEAR):
                    break
                top = made if top is None or made.quality > top.quality else top
                if made.quality >= floor - _NEAR:
                    best = float(aim.budget or 0), made
                    break
        if best is None:
            break
        width = (ends[1] - ends[0]) / (_AIMS - 1)
        up = width if len(shares) > 1 else 0.0  # a dearer aim with fewer who are handed over
        ends = max(best[0] - width, ends[0]), min(best[0] + up, ends[1])
    if best is not None:
        return best[1]
    unit = table.unit
    if top is None:
        allowed, got = f"{cheapest(table) + spare:.6g} {unit} or more", f"{most:.6g}"
        raise BudgetError(message("budget", allowed, got, "Raise it."))
    step = f"Ask for less, allow more cost, decline more{'' if top.method == 'auto' else ANOTHER}."
    raise target.unmet(table, top.quality, top.expected.cost, step)


def _told(one: Fitted, target: Target, table: Table) -> Fitted:
    """Return a fit that says what it was asked for."""
    budget = target.most(table)
    said = {**one.policy.provenance, "budget": budget, "target": target.text}
    return replace(one, budget=budget, policy=replace(one.policy, provenance=said))


def _shares(table: Table, budget: float, asked: Declining) -> list[float]:
    """Return the shares to try at a budget, ascending."""
    most = 1.0 if asked.share is None else asked.share
    if not asked.cost:
        return [most]
    affordable = (budget - cheapest(table)) / asked.cost
    if affordable <= 0:
        return [0.0]
    return np.linspace(0.0, min(most, affordable), _SHARES).tolist()


def score_of(name: str, table: Table, seed: int) -> ScoreRule:
    """Return the rule of a score that drives abstaining, learned on the rows where it must be."""
    if name in STATIC or (name in RULES and not RULES[name].ours):
        rule = make_rule(name, {"classes": table.classes} if name == "entropy" else {})
    else:
        method = make_method(name)
        if method.answer == "class_mean":  # its distances alone
            method = make_method(name, {"answer": "plain"})
        method.check(table)
        draft = method.pose(known_rows(table), seed)
        if not isinstance(draft.answer, Identity):
            step = "E.g. energy, max_logit, e2cm."
            raise input_error("abstain_score", "a score of plain answers", name, step)
        rule = draft.rule
    if name in ("energy", "max_logit") and table.kind != "logits":
        step = "Import logits, or leave it out."
        raise input_error("abstain_score", f"other than {name} for {table.kind}", name, step)
    return rule


def _declined(
    one: Fitted, table: Table, share: float, score: tuple[ScoreRule, Floats] | None, asked: Declining,
    budget: float,
) -> tuple[float, Fitted]:  # fmt: skip
    """Return a fit that declines a share of rows at most, after its quality on them."""
    never, before = np.full(one.policy.exits, ALWAYS), one.policy
    rule, own = (None, np.zeros(before.exits)) if score is None else score
    if own.any():
        before = replace(before, costs=before.costs + own, overhead=before.overhead + own)
    policy = replace(before, abstention=Abstention(never, rule, asked.cost, asked.quality))
    seen = trace(policy, table)
    assert seen.standing is not None
    at = seen.position
    standing = seen.standing[np.arange(len(at)), at]
    if rule is None:
        thresholds = np.full(policy.exits, cut(standing, share))
    else:
        thresholds = np.array([cut(standing[at == k], share) for k in range(policy.exits)])
    policy = replace(policy, abstention=Abstention(thresholds, rule, asked.cost, asked.quality))
    outcome, plain = outcome_of(policy, table), outcome_of(one.policy, table)
    gone = float((standing < thresholds[at]).mean())
    known = table.valued | ~table.valued.any()  # what rows without a label are worth is no number
    worth, before_it = (float(one.right[known].mean()) for one in (outcome, plain))
    more, gained = float((outcome.paid - plain.paid).mean()), worth - before_it
    quality = one.quality if isnan(one.quality + gained) else min(one.quality + gained, 1.0)
    expected = replace(one.expected, cost=one.expected.cost + more, paid=outcome.paid)
    expected = bounded(expected, before, table)
    if expected.ends is not None:
        expected = replace(expected, ends=(expected.ends[0], expected.ends[1] + asked.cost))
    answered = (quality - gone * asked.quality) / (1 - gone) if gone < 1 else float("nan")
    provenance = {
        **one.policy.provenance, **expected.fields, "budget": float(budget),
        "expected_quality": None if isnan(quality) else quality, "expected_abstained": gone,
        "expected_quality_95": worth_interval(quality, outcome.right, table.group, graded=True),
        "expected_selective_quality": None if isnan(answered) else answered,
        "abstain": {
            "share": asked.share, "cost": asked.cost, "quality": asked.quality, "score": asked.score,
        },
    }  # fmt: skip
    policy = replace(policy, provenance=provenance)
    found = replace(one, policy=policy, expected=expected, quality=quality, budget=float(budget))
    return 0.0 if isnan(worth) else worth, found


def cut(standing: Floats, share: float) -> float:
    """Return the threshold under which at most a share of scores lie; `ALWAYS` for none.

    >>> cut(np.array([0.9, 0.5, 0.7, 0.6]), 0.5), cut(np.array([0.5, 0.5]), 0.5)
    (0.7, 0.5)
    """
    count = int(share * len(standing) + 1e-9)
    if not count:
        return ALWAYS
    ordered = np.sort(standing)
    return float(ordered[count] if count < len(ordered) else np.nextafter(ordered[-1], np.inf))


# ---- calibrated confidence


def calibrated(name: str, parts: Sequence[Fitted], table: Table, seed: int) -> list[Fitted]:
    """Return fits whose policies carry a confidence map, one for all that answer alike."""
    check_one_of("calibrator", name, FITS, "E.g. beta.")
    made: dict[Any, Calibrator] = {}
    out = []
    for one in parts:
        key = id(one.policy.answer), one.policy.active_exits
        if key not in made:
            made[key] = _calibrate(name, one, table, seed)
        out.append(replace(one, policy=replace(one.policy, calibrator=made[key])))
    return out


def _calibrate(name: str, fitted: Fitted, table: Table, seed: int) -> Calibrator:
    """Fit a confidence map on answers of rows that did not train those answers."""
    labels = table.statistics.labels
    if labels is not None and (labels >= 0).any():  # without any, `correct` says what is missing
        table = table.take(np.flatnonzero(labels >= 0))
    table = table.built_for(fitted.policy)
    provenance = fitted.policy.provenance
    settings = provenance.get("chosen", provenance)["settings"]
    plain = isinstance(fitted.policy.answer, Identity) or not table.whole
    answer = "plain" if plain else settings.get("answer", "plain")
    seen = answered(table, crossfit(table, answer, folds_of(len(table), 5, seed, table.group)))
    return fit_confidence(name, seen.statistics.confidence, seen.quality)


# ---- risk and coverage


@dataclass(frozen=True, eq=False, repr=False)
class RiskCoverage(Shown):
    """What answers are worth if only those with the highest scores are given.

    Attributes
    ----------
    coverage : ndarray of shape (N,)
        1/N, 2/N, ..., 1.
    risk : ndarray of shape (N,)
        1 less the mean quality of the answers given at that coverage; of equal scores, in expectation over
        their order.
    area : float
        Mean of the risks (AURC: Geifman, Uziel & El-Yaniv, ICLR 2019): 0 is best.
    """

    coverage: Floats
    risk: Floats

    @property
    def area(self) -> float:
        return float(self.risk.mean())

    def quality_at(self, coverage: float) -> float:
        """Return the selective quality: of the share of answers that stand best, 1/N at least."""
        check_share("coverage", coverage)
        count = max(int(coverage * len(self.risk) + 1e-9), 1)
        return 1.0 - float(self.risk[count - 1])


def curve_of(score: npt.ArrayLike, quality: npt.ArrayLike) -> RiskCoverage:
    """Return risk at every coverage from scores and qualities, (N,) each.

    >>> curve_of([0.9, 0.8, 0.7, 0.6], [1, 1, 0, 1]).risk.round(3)
    array([0.   , 0.   , 0.333, 0.25 ])
    """
    scores, worth = np.asarray(score, dtype=np.float64), np.asarray(quality, dtype=np.float64)
    if scores.shape != worth.shape or scores.ndim != 1 or not len(scores):
        got = f"shapes {scores.shape} and {worth.shape}"
        raise input_error("score", "one per quality, one or more", got, "(N,) each.")
    _, group = np.unique(-scores, return_inverse=True)
    means = np.bincount(group, worth) / np.bincount(group)
    counts = np.arange(1, len(scores) + 1)
    # In the order of scores; each of a group of equals counts its mean.
    return RiskCoverage(counts / len(scores), 1.0 - np.cumsum(means[np.sort(group)]) / counts)
