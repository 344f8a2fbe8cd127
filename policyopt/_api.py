"""The Python API in one line each: fit, evaluate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._abstain import RiskCoverage, calibrated, curve_of, decline_or_refuse, declining
from policyopt._answers.calibrators import FITS
from policyopt._cache.data import ExitData
from policyopt._costs import Budget
from policyopt._limits import Limit
from policyopt._methods.base import Method
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import at_most, make_method
from policyopt._methods.targets import Target
from policyopt._progress import working
from policyopt._replay import Replay, replay, trace
from policyopt._robust import fit_robust
from policyopt._table import Table, Tables, known_rows, tables_of
from policyopt._utility import Utility, told_utility, utility_of
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import BudgetError, input_error
from policyopt.runtime._policy import ALWAYS, Abstention, Policy
from policyopt.runtime._several import policy_of

DEFAULT_METHOD = "auto"


@working("fitting")
def fit(
    data: ExitData,
    budget: Budget | None = None,
    method: str | Method | None = None,
    *,
    quality: float | str | None = None,
    accuracy: float | str | None = None,
    max_drop: float | str | None = None,
    saving: float | str | None = None,
    limits: Limit | str | Sequence[Limit | str] = (),
    split: str = "fit",
    cost: str | None = None,
    seed: int = 0,
    calibrator: str | None = None,
    tables: Tables | None = None,
    utility: Any = None,
    abstain: float | str | None = None,
    abstain_cost: float | None = None,
    abstain_quality: float | None = None,
    abstain_score: str | None = None,
    head_cost: Any = None,
    max_exits: int | None = None,
    robust: str | None = None,
    over: Any = None,
    **settings: Any,
) -> Fitted:
    """Fit one policy: as good as possible within a budget, or as cheap as possible at a floor on quality.

    Parameters
    ----------
    data : ExitData
        From `open_cache` or `from_arrays`.
    budget : float or str, optional
        Most mean cost per sample: ``2.5`` in the cost's unit, or ``"40%"`` of the full model. More of it is never
        worse, and what buys nothing is not spent (``spend="all"`` spends it).
    method : str or Method, optional
        E.g. ``"margin:thresholds=joint"``. Default: ``auto``, the best at that budget.
    quality, accuracy : float or str, optional
        Least mean quality on unseen rows, ``0.9`` or ``"90%"``: least cost that meets it. The same but for graded rows,
        which have no accuracy.
    max_drop : float or str, optional
        Most by which quality may fall short of the full model's, in points: ``"1%"``.
    saving : float or str, optional
        Least share of the full model's cost to save: ``"50%"``.
    limits : Limit, str or sequence of them, optional
        ``"[COST:]mean|pNN|worst<=NUMBER"``, kept on the rows of the fit besides.
    split : str
        Rows to fit on.
    cost : str, optional
        Name of the cost; default the cache's first.
    seed : int
        Same seed, same policy.
    calibrator : {"platt", "beta", "isotonic", "histogram"}, optional
        Fit a map from the answer's largest probability to the probability that it is right, which
        the policy then shows with every decision (`Decision.confidence`).
    tables : Tables, optional
        Reuse of passes already made.
    abstain : float or str, optional
        Let the policy decline to answer at most this share of the samples, e.g. ``"5%"``.
    abstain_cost : float, optional
        Cost of handing a declined sample over, in the unit, paid from the budget; default 0. Without
        `abstain`, as many are declined as that is worth.
    abstain_quality : float, optional
        Quality of the answer that comes then, in [0, 1]; default 1, a person who knows.
    abstain_score : str, optional
        Whose low scores are declined: energy, max_logit, max_prob, margin, entropy, or a method whose score
        is learned, e.g. ``"e2cm"``. Default: the calibrated confidence (`calibrator`, platt unless said).
    utility : array of shape (C,), (C, C) or (K, C, C), mapping, or str, optional
        What answers are worth: weights per class, a matrix by label and prediction, label maps of exits, or a file
        of one. Quality is then this worth instead of right or wrong.
    head_cost : str, float or sequence, optional
        What the exits' heads cost, saved where an exit is not kept: K numbers in the unit, or shares of each exit's own
        stage, ``"10%"``; one stands for all. Default: what the cache says.
    max_exits : int, optional
        Keep at most so many exits, the best set of them at the budget (`subset`): those to build.
    robust : {"mean", "worst"}, optional
        Fit for the mean or the worst of the parts that `over` names: budget and floors are then of these.
    over : str, sequence of str, or array of shape (N,), optional
        Streams: ``"streams"``, or their names, of each its first half (``NAME[:50%]``) unless a part is named. Or a
        column of the split: ``"context"``, ``"label"``, ``"group"``, a value per row, or a file (.npy, .csv).
    **settings
        Of the method, e.g. ``thresholds="joint"``.

    Returns
    -------
    Fitted

    Raises
    ------
    InputError
        Unknown method or setting, no labels, or no target where one is needed.
    BudgetError
        The budget, floor or limit cannot be met; the message names what can.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> fitted = po.fit(data, budget=2.0, method="max_prob")
    >>> round(fitted.expected.cost, 2), po.fit(data, accuracy="85%", method="max_prob").budget
    (1.97, None)
    """
    if calibrator is not None:  # before the work
        check_one_of("calibrator", calibrator, FITS, "E.g. beta.")
    tables = tables_of(data, cost, tables, utility, head_cost)
    chosen = at_most(method_of(method, settings), max_exits)
    table = tables.get(split, censored=chosen.logs)
    if calibrator is not None:
        chosen = chosen.in_turn("calibrator")
    several = (limits,) if isinstance(limits, (str, Limit)) else limits
    kept = tuple(Limit.parse(one) if isinstance(one, str) else one for one in several)
    wishes = {"accuracy": accuracy, "quality": quality, "max_drop": max_drop, "saving": saving}
    if budget is None and not kept and all(wish is None for wish in wishes.values()):
        if not chosen.fixed:
            step = "E.g. --budget 40%, --accuracy 90%, --max-drop 1% (Python: budget='40%')."
            raise input_error("budget", "given, or another target", "none", step)
        # What the user gave may cost whatever it costs: the artifact claims no budget.
        target = Target(saving=0.0)
    else:
        target = Target(budget, **wishes, limits=kept)
        target.check(table)
    asked = declining(abstain, abstain_cost, abstain_quality, abstain_score)
    if robust is not None or over is not None:
        if asked is not None:
            raise input_error("abstain", "absent with robust", "both", "Leave one out.")
        fitted = fit_robust(chosen, tables, split, target, robust, over, seed)
    elif asked is None:
        fitted = chosen.fit_path(table, [target], seed)[0]
    else:
        found = decline_or_refuse(chosen, table, [target], seed, asked, calibrator)[0]
        if isinstance(found, BudgetError):
            raise found
        fitted, calibrator = found, None
    if budget is None and saving is None:
        said = target.text if target.saving is None else None
        provenance = {**fitted.policy.provenance, "budget": None, "target": said}
        fitted = replace(fitted, policy=replace(fitted.policy, provenance=provenance), budget=None)
    return fitted if calibrator is None else calibrated(calibrator, [fitted], table, seed)[0]


def method_of(method: str | Method | None, settings: Mapping[str, Any]) -> Method:
    """Return the method that `fit` is asked for, the default where none is named."""
    if method is None:
        unknown = settings.keys() - make_method(DEFAULT_METHOD).settings().keys()
        if unknown:
            got = f"{', '.join(sorted(unknown))} without a method"
            step = "Without one it is auto, which has folds; e.g. --method max_prob."
            raise input_error("settings", "of the method", got, step)
        return make_method(DEFAULT_METHOD, settings)
    if not isinstance(method, Method):
        return make_method(method, settings)
    if settings:
        allowed = "part of the method given"
        raise input_error("settings", allowed, sorted(settings), "Set them on the method.")
    return method


def evaluate(
    policy: Any,
    data: ExitData,
    split: str = "test",
    *,
    cost: str | None = None,
    utility: Any = None,
) -> Replay:
    """Replay a policy on a split of a cache.

    Parameters
    ----------
    policy : Policy, ExpertPolicy, RoutingPolicy, or what `fit` and its kin returned
    data : ExitData
    split : str
    cost : str, optional
        Name of the cost; default the one the policy was fitted on, else the cache's first.
    utility : as in `fit`, optional
        Default the policy's own; ``"none"`` for right or wrong.

    Returns
    -------
    Replay

    Raises
    ------
    InputError
        The policy was made for another model, or the split is missing or unlabelled.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> probs = np.array([[[0.9, 0.1], [0.8, 0.2]], [[0.6, 0.4], [0.1, 0.9]]])
    >>> data = po.from_arrays(probs, [0, 1], costs=[1, 4], unit="ms", split={"test": 1.0})
    >>> fitted = po.fit(data, split="test", method="max_prob", thresholds=[0.8])
    >>> po.evaluate(fitted, data).cost
    array([1., 4.])
    """
    found = policy_of(policy, routes=True)
    return replay(found, _table_for(found, data, split, cost, utility))


def _table_for(policy: Any, data: ExitData, split: str, cost: str | None, utility: Any) -> Table:
    """Return the rows of a split with the cost and the worth of answers that a policy is replayed with."""
    worth, _ = utility_for(policy, data, utility)
    return Tables(data, cost_for(policy, data, cost), utility=worth).get(split)


def cost_for(policy: Any, data: ExitData, cost: str | None = None) -> str | None:
    """Return the cost to replay a policy with: `cost`, else the one it was fitted on if it is there."""
    fitted_on = policy.provenance.get("cost")
    known = any(c.name == fitted_on for c in data.costs)
    if cost is None and not known and str(fitted_on).startswith("plan "):
        allowed = "named: the policy's is of a plan's tiers and links, which no cache holds"
        step = "`policyopt plan` says what the plan costs; --cost NAME takes a cost of the cache."
        raise input_error("cost", allowed, fitted_on, step)
    return str(fitted_on) if cost is None and known else cost


def utility_for(policy: Any, data: ExitData, utility: Any = None) -> tuple[Utility | None, str]:
    """Return the utility to value a policy's answers by, and a remark: `utility`, else the one it was fitted with."""
    stated, digest = told_utility(policy.provenance)
    if isinstance(utility, str) and utility == "none":
        return None, "the policy was fitted with a utility, which is left out" if digest else ""
    if utility is not None:
        found = utility_of(utility, data.exits, data.classes)
        other = "the policy was fitted with another utility" if digest else ""
        other = other or "the policy was fitted without a utility"
        return found, "" if found.digest == digest else other
    if not digest:
        return None, ""
    if data.graded:
        return (
            None,
            "the policy was fitted with a utility; the quality of this cache is graded, and holds",
        )
    if not isinstance(stated, (list, dict)):  # a text would be a path
        allowed = "given: the policy was fitted with one that is too long for its file"
        raise input_error("utility", allowed, "none", "--utility FILE, or --utility none.")
    return utility_of(stated, data.exits, data.classes), "valued by the policy's utility"


def risk_coverage(
    policy: Any,
    data: ExitData,
    split: str = "test",
    *,
    cost: str | None = None,
    utility: Any = None,
) -> RiskCoverage:
    """Return the risk-coverage curve of a policy's answers at the exits taken, by what its abstention looks at.

    Parameters
    ----------
    policy : Policy, or what `fit` returned
        Its abstention's score ranks the rows; without one, its confidence does (calibrated where it has
        a map). Its thresholds for abstaining are left out: the curve shows them all.
    data : ExitData
    split : str
    cost, utility
        As `evaluate` takes them.

    Returns
    -------
    RiskCoverage

    Raises
    ------
    InputError
        As `evaluate`.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> found = po.risk_coverage(po.fit(data, "30%", "max_prob"), data)
    >>> found.quality_at(0.8) > found.quality_at(1.0), found.area < 0.1
    (True, True)
    """
    found: Policy = policy_of(policy, single=True)
    rule = None if found.abstention is None else found.abstention.rule
    found = replace(found, abstention=Abstention(np.full(found.exits, ALWAYS), rule))
    table = known_rows(_table_for(found, data, split, cost, utility))
    _ = table.quality  # raises where no row has a label
    seen = trace(found, table)
    assert seen.standing is not None
    return curve_of(
        seen.standing[np.arange(len(table)), seen.position], np.asarray(seen.quality_taken)
    )
