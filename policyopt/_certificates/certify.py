"""Certify: the cheapest level of a family of which rows that chose nothing show that a risk is kept.

Levels and their order come from `fit` rows, the test from `calibrate` rows. A level is shown where each claim, of each
class or context, has a p-value within what the testing leaves for it: that all of them hold together needs no division
of the level (intersection-union: Berger, Technometrics 24, 1982). Many levels may be tried as they are tried in an
order that the test's rows had no part in, and only as long as they are shown (`testing.fallback`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np

from policyopt._api import DEFAULT_METHOD, cost_for, utility_for
from policyopt._bounds import PROCEDURES, default_of, delta_of, rows_that_do
from policyopt._cache.data import ExitData
from policyopt._certificates.risks import (
    BESIDE_FULL,
    KINDS,
    Losses,
    Risk,
    Taken,
    Worst,
    losses_of,
    replays,
    rows_for,
)  # fmt: skip
from policyopt._costs import Budget, money, parse_budget
from policyopt._family import FittedFamily, fit_family
from policyopt._methods.base import Method
from policyopt._methods.fitted import Saved
from policyopt._parts import origins, share_rows, took_part
from policyopt._progress import working
from policyopt._table import Table, Tables, tables_of
from policyopt._testing import fallback, holm
from policyopt.runtime._certificate import COVERS, FIELD, certificate_of, fingerprint
from policyopt.runtime._checks import MAX_COST, check_one_of, check_positive, check_seed, check_type
from policyopt.runtime._errors import BudgetError, CheckError, input_error
from policyopt.runtime._experts import ExpertPolicy
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._policy import Policy
from policyopt.runtime._several import policy_of
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Floats, Ints

SPLIT, LEVELS = "calibrate", 30
#: In which order levels are tried: of the fit's rows, and only as long as they get cheaper; dearest first; in none.
TESTING = ("pareto", "sequence", "holm")
_FEWEST = 20
_SURE = 0.5


@dataclass(frozen=True, eq=False, repr=False)
class Certified(Shown, Saved):
    """The result of `certify`.

    Attributes
    ----------
    policy : Policy, RoutingPolicy or ExpertPolicy
        The cheapest level that was shown, its certificate in its provenance.
    family : PolicyFamily, optional
        All levels that were shown, it and each of them with a certificate: all of them hold together. None of expert
        policies.
    certificate : dict
        Claim, confidence, procedure, n, p-value, and who tested.
    records : list of dict
        One per level in the order of the test: what it costs, its risks and p-value, and whether it was shown.
    notes : tuple of str
    """

    policy: Any
    family: PolicyFamily | None
    certificate: dict[str, Any]
    records: list[dict[str, Any]]
    notes: tuple[str, ...] = ()


@working("certifying")
def certify(
    data: ExitData,
    risk: str | Risk | Sequence[str | Risk],
    confidence: float | str = 0.95,
    *,
    budget: Budget | None = None,
    method: Any = None,
    budgets: int | str | Sequence[Budget] = LEVELS,
    split: str = SPLIT,
    cost: str | None = None,
    seed: int = 0,
    procedure: str | None = None,
    testing: str = "pareto",
    starts: int = 1,
    covers: str = "blind",
    cost_bound: float | None = None,
    tables: Tables | None = None,
    utility: Any = None,
    **settings: Any,
) -> Certified:
    """Return the cheapest policy of which rows that chose nothing show, with a confidence, that a risk is kept.

    Parameters
    ----------
    data : ExitData
        With rows ``calibrate``; half of the test rows of a pool that has none are taken for it.
    risk : str, Risk, or sequence of them
        ``"drop<=1%"``; ``error``, ``loss``, ``harm``, ``disagreement``, ``miss[CLASS]``, ``selective_error``, ``cost``;
        ``"harm<=2% per class"``. All of them at once.
    confidence : float or str
        0.95, or ``"95%"``.
    budget : float or str, optional
        The same as a risk ``cost<=...``.
    method : str, Method, policy, family, or what a fit returned, optional
        What is certified: the levels of a family, fitted on the `fit` rows by a method (default ``auto``) or given.
    budgets : int, str or sequence
        The levels of a family that is fitted, as `fit_family` takes them.
    split : str
        The rows of the test.
    procedure : str, optional
        ``binomial``, ``ternary``, ``selective``, ``betting``, ``hoeffding_bentkus``, ``normal`` or ``crc``. Default:
        exact for losses of 0 and 1, of -1, 0 and 1, and of the answered; betting for others. ``normal`` is asymptotic;
        ``crc`` (conformal risk control) promises the mean over draws of calibration rows, without a confidence.
    testing : {"pareto", "sequence", "holm"}
        Levels are tried as the fit's rows have them, the surest first, and only those that get cheaper; from the
        dearest to the cheapest (so, too, where no rows of a fit are at hand that are none of the test's); or in no
        order, at the price of a divided level.
    starts : int
        Places in the order of the levels at which the test begins, each with its share of 1 - confidence.
    covers : {"blind", "request"}
        How a level of the family may be chosen later: without looking at the request (by the hour, the load, the
        budget left, a context that the risk is ``per``); or by the request itself: then the greatest loss over levels
        is what is tested, row by row.
    cost_bound : float, optional
        The most that a request may cost, where rows have costs of their own.

    Returns
    -------
    Certified

    Raises
    ------
    BudgetError
        No level is shown; the message tells the nearest, and how many rows would do.
    InputError
        Rows that took part in the fit, or that lack what a risk needs.
    """
    check_type("data", data, ExitData, "an ExitData", "E.g. open_cache(PATH).")
    check_type("split", split, str, "a name", "E.g. calibrate.")
    level = 1.0 if procedure == "crc" else delta_of(confidence)
    if isinstance(budget, str) and money(budget, ""):
        budget = parse_budget(budget, np.empty(0), data.cost(cost).unit)
    risks = _risks(risk, budget)
    _check_how(risks, procedure, testing, starts, covers)
    if cost_bound is not None:
        cost_bound = float(check_positive("cost_bound", cost_bound, MAX_COST))
    data, notes = _with_calibration(data, split)
    given = _given(method, settings)
    if tables is not None:
        check_type("tables", tables, Tables, "Tables", "E.g. Tables(data).")
    elif given:
        cost, utility = cost_for(given[0], data, cost), utility_for(given[0], data, utility)[0]
    tables = tables_of(data, cost, tables, utility)
    if tables.data is not data:
        tables = Tables(data, tables.cost.name, utility=tables.utility)
    policies = given or _fitted(data, budgets, method, cost, seed, tables, settings)
    notes += _refuse_own_rows(policies, data, split)
    table = _usable(risks, tables.get(split), split)
    seen = replays(policies, tables, table)
    found = _losses(risks, seen, table, cost_bound)
    rows_of_fit = testing == "pareto" and len(policies) > 1 and "fit" in data.split_names
    if rows_of_fit and not share_rows(data, split, data, "fit"):
        order = _order(risks, policies, tables, table.units, cost_bound, level, procedure)
    else:
        order = np.argsort([-_cost(policy) for policy in policies], kind="stable")
        testing = "sequence" if testing == "pareto" and len(policies) > 1 else testing
    at = np.linspace(0, len(order), min(starts, len(order)), endpoint=False).astype(int)
    # What a level is to be shown at, at first.
    each = level / (len(order) if testing == "holm" else len(at))
    p, told = _p_values(found, each, procedure, check_seed(seed))
    tested = found
    if nested := covers == "request" or procedure == "crc":
        tested = _losses(risks, seen, table, cost_bound, _worst_of(procedure, order))
        p = np.maximum(p, _p_values(tested, each, procedure, seed)[0])
    shown = np.zeros(len(p), dtype=bool)
    tried = p[order]
    passed = holm(tried) <= level if testing == "holm" else fallback(tried, level, at.tolist())
    shown[order] = passed
    costs = np.array([_cost(policy) for policy in policies])
    records = [
        _record(policies[j], j, float(costs[j]), found, float(p[j]), bool(shown[j]))
        for j in order.tolist()
    ]
    if not shown.any():
        first = order if testing == "holm" else order[at]
        raise _refused(tested, p, first, policies, level, procedure, each, records, notes)
    said = {one["level"]: one["risks"] for one in records}
    stated: dict[str, Any] = {
        "claim": " and ".join(one.text for one in risks),
        "confidence": None if procedure == "crc" else 1.0 - level, "given": procedure, "covers": covers,
        **_told(found, told, table, tables),
        "testing": f"{testing}, {len(order)} of {len(p)} levels, {len(at)} start{'s' * (len(at) > 1)}",
        "cache": data.fingerprint, "split": split, "rows": _digest(data, split), "seed": int(seed),
        # What tells the levels of one test, which hold together, from others.
        "tested": sha256("".join(fingerprint(policies[j]) for j in order.tolist()).encode()).hexdigest()[:16],
        "tested_at": float(each), "cost_bound": cost_bound,
    }  # fmt: skip
    chosen = sorted(np.flatnonzero(shown).tolist(), key=lambda j: (costs[j], p[j]))
    levels = {
        j: _with(policies[j], {**stated, "level": j, "p_value": float(p[j]), "risks": said[j]})
        for j in chosen
    }
    first = levels[chosen[0]]
    family = None
    if not isinstance(first, ExpertPolicy):
        rising = [j for i, j in enumerate(chosen) if i == 0 or costs[j] > costs[chosen[i - 1]]]
        while nested and _together(risks, [seen[j] for j in rising], table, stated) > level:
            rising = rising[1:]  # where a bet on the worst of fewer levels happens to win less
        family = PolicyFamily(
            tuple(levels[j] for j in rising), np.array([costs[j] for j in rising]),
            full_cost=float(table.mean_costs[-1]),
        )  # fmt: skip
        most = {name: max(said[j][name] for j in rising) for name in said[chosen[0]]}
        whole = {"level": None, "p_value": float(p[rising].max()), "risks": most}
        family = _with(family, {**stated, **whole})
    return Certified(first, family, dict(first.provenance[FIELD]), records, tuple(notes))


def _with(policy: Any, certificate: dict[str, Any]) -> Any:
    """Return a policy, family or expert policies that carry a certificate of themselves."""
    own = {**certificate, "policy": fingerprint(policy)}
    return replace(policy, provenance={**policy.provenance, FIELD: own})


def _told(found: Sequence[Losses], procedure: str, table: Table, tables: Tables) -> dict[str, Any]:
    """Return what of a certificate its rows alone tell."""
    senses = {"crc": "expectation", "normal": "asymptotic"}
    return {
        "procedure": procedure, "sense": senses.get(procedure, "confidence"),
        "n": min(one.values.shape[1] for one in found), "unit": found[0].unit,
        "cost": tables.cost.name, "utility": tables.utility.digest if tables.utility else None,
        "full_cost": float(table.mean_costs[-1]),
        "void": "any change of the policy; requests that are not like those rows",
    }  # fmt: skip


def recheck(
    policy: Any, data: ExitData, *, utility: Any = None, tables: Tables | None = None
) -> dict[str, Any]:
    """Recompute the certificate of a policy or family on the cache that it names; return it, or raise CheckError."""
    policy = policy_of(policy, routes=True)
    stated = certificate_of(policy)
    if stated is None:
        got = "one that was changed since" if FIELD in policy.provenance else "one without"
        raise CheckError(
            f"The policy must carry a certificate of itself. Got {got}. `policyopt certify` makes one."
        )
    if stated["cache"] != data.fingerprint:
        raise CheckError(
            f"The certificate is of cache {stated['cache'][:12]}, this one is {data.fingerprint[:12]}. Give that cache."
        )
    if stated["given"] is not None:
        check_one_of("procedure of the certificate", stated["given"], tuple(PROCEDURES))
    data, _ = _with_calibration(data, stated["split"])
    if stated["rows"] != _digest(data, stated["split"]):
        raise CheckError(
            f"The certificate is of other rows of split '{stated['split']}': this cache's pool is divided otherwise. "
            "Import it with the same --split and --seed."
        )
    risks = [Risk.parse(text) for text in dict.fromkeys(stated["claim"].split(" and "))]
    policies = list(policy.policies) if isinstance(policy, PolicyFamily) else [policy]
    _refuse_own_rows(policies, data, stated["split"])
    if utility is None and stated["utility"] is not None:
        utility = utility_for(policies[0], data)[0]
    if tables is None or tables.cost.name != stated["cost"]:
        tables = Tables(data, stated["cost"], utility=utility)
    if (tables.utility.digest if tables.utility else None) != stated["utility"]:
        raise CheckError(
            "The certificate is of answers valued by a utility that its policy was not fitted with. Fit with it "
            "(--utility) and certify that; in Python give it again: utility=."
        )
    table = _usable(risks, tables.get(stated["split"]), stated["split"])
    check_seed(stated["seed"])
    seen = replays(policies, tables, table)
    p = _together(risks, seen, table, stated)
    found = _losses(risks, seen, table, stated["cost_bound"])
    told = _p_values(found, stated["tested_at"], stated["given"], stated["seed"])[1]
    for name, value in _told(found, told, table, tables).items():
        if stated[name] != value:
            raise CheckError(
                f"{name} of the certificate must be {value}, by its rows. Got {stated[name]}. Certify the policy again."
            )
    level = 1.0 if stated["confidence"] is None else 1.0 - stated["confidence"]
    if p > level or (len(policies) == 1 and p > stated["p_value"] * (1 + 1e-6) + 1e-12):
        raise CheckError(
            f"The certificate '{stated['claim']}' must hold on its rows. Got p = {p:.3g}, stated "
            f"{stated['p_value']:.3g}. Certify the policy again."
        )
    if isinstance(policy, PolicyFamily):
        for one in policies:  # what a level says by itself is believed where it is a floor
            if FIELD in one.provenance:
                recheck(one, data, utility=utility, tables=tables)
    most = {f"{one.text} {one.cell}".strip(): float(one.means.max()) for one in found}
    return {**stated, "p_value": p, "risks": most}


def _risks(risk: Any, budget: Budget | None) -> list[Risk]:
    given = list(risk) if isinstance(risk, (list, tuple)) else [risk]
    risks = [one if isinstance(one, Risk) else Risk.parse(one) for one in given]
    if budget is not None:
        risks.append(Risk.parse(f"cost<={budget}"))
    if not risks:
        raise input_error("risk", "one or more", "none", 'E.g. --risk "drop<=1%".')
    return risks


def _with_calibration(data: ExitData, split: str) -> tuple[ExitData, list[str]]:
    """Return data that has the split: half of a pool's test rows where it has none."""
    if split in data.split_names or split != SPLIT or not data.pooled or "test" not in data.shares:
        return data, []
    shares: dict[str, float] = {}
    for name, share in data.shares.items():
        shares |= {SPLIT: share / 2, "test": share / 2} if name == "test" else {name: share}
    note = f"half of the pool's test rows, {100 * shares[SPLIT]:.3g} % of all, calibrate"
    return replace(data, shares=shares), [note]


def _fitted(
    data: ExitData, budgets: Any, method: Any, cost: str | None, seed: int, tables: Tables, settings: dict[str, Any],
) -> list[Policy]:  # fmt: skip
    """Return the levels of a family that a method fits; without labels by default one that needs none."""
    if method is None and "fit" in data.split_names and not tables.get("fit").labelled:
        method = "max_prob"
    if not isinstance(method, Method) and "spend=" not in (method or ""):
        # What buys no quality may still come nearer to the full model.
        method, settings = method or DEFAULT_METHOD, {"spend": "all", **settings}
    found = fit_family(data, budgets, method, cost=cost, seed=seed, tables=tables, **settings)
    return list(found.policy.policies)


def _given(method: Any, settings: dict[str, Any]) -> list[Any]:
    """Return the policies that are given; none where a method is to fit them."""
    if method is None or isinstance(method, (str, Method)):
        return []
    if settings:
        step = "Leave it out: a policy is certified as it is."
        raise input_error(next(iter(settings)), "of a method that fits levels", "a policy", step)
    if isinstance(method, FittedFamily):
        method = method.policy
    if isinstance(method, PolicyFamily):
        return list(method.policies)
    return [policy_of(method, routes=True)]


def _refuse_own_rows(policies: Sequence[Any], data: ExitData, split: str) -> list[str]:
    """Refuse rows that took part in the fit of a policy; return what cannot be told, or what else they chose."""
    notes, mark = set[str](), (data.fingerprint, _digest(data, split))
    for policy in policies:
        before = policy.provenance.get(FIELD)
        if isinstance(before, Mapping) and (before.get("cache"), before.get("rows")) == mark:
            notes.add(
                "these rows have certified, and so chosen, this policy before: each claim that is tried on them is "
                "another chance to be wrong; ask for more confidence, or gather new rows"
            )
        for part in policy.policies if isinstance(policy, ExpertPolicy) else (policy,):
            if not any(True for _ in origins(part, data)):
                notes.add("fitted on another cache: that it shares no rows is yours to know")
        if took_part(policy, data, split):
            got = f"'{split}', of which rows fitted the policy, or others of their groups"
            step = f"Fit on other rows (--split), and keep '{split}' for the certificate."
            raise input_error("split", "of rows that had no part in the fit", got, step)
    return sorted(notes)


def _digest(data: ExitData, split: str) -> str:
    """Return what tells the rows of a split from others of the cache."""
    key, rows = data.rows(split)
    return sha256(key.encode() + rows.astype("<i8").tobytes()).hexdigest()[:16]


def _check_how(
    risks: Sequence[Risk], procedure: str | None, testing: str, starts: int, covers: str
) -> None:
    """Refuse procedures that do not go together."""
    if procedure is not None:
        check_one_of("procedure", procedure, tuple(PROCEDURES))
    check_one_of("testing", testing, TESTING)
    check_one_of("covers", covers, COVERS)
    if type(starts) is not int or starts < 1:
        raise input_error("starts", "1 or more", starts, "3 pass over a level that is worse.")
    nested = covers == "request" or procedure == "crc"
    if testing == "holm" and (nested or starts > 1):
        step = "Leave the others out, or --testing."
        allowed = "pareto or sequence with starts, covers=request or crc"
        raise input_error("testing", allowed, testing, step)
    if procedure == "crc":
        if starts > 1:
            raise input_error("starts", "1 with crc: it goes one way", starts, "Leave it out.")
        if never := [one.text for one in risks if one.name not in BESIDE_FULL]:
            step = "Certify it with a confidence: another --procedure."
            allowed = f"one that the full model, run where none is shown, has not, for crc: {', '.join(BESIDE_FULL)}"
            raise input_error("risk", allowed, never[0], step)


def _usable(risks: Sequence[Risk], table: Table, split: str) -> Table:
    if any(KINDS[one.name].labels for one in risks):
        table = rows_for(next(one for one in risks if KINDS[one.name].labels), table)
    n = len(table) if table.group is None else len(np.unique(table.group))
    if n < _FEWEST:
        step = "Gather more: some hundreds show a risk of a few percent."
        raise input_error(f"rows of split '{split}'", f"{_FEWEST} or more", n, step)
    return table


def _losses(
    risks: Sequence[Risk], seen: Sequence[Taken], table: Table, bound: float | None, worst: Worst | None = None
) -> list[Losses]:  # fmt: skip
    """Return the losses of every claim, each class or context by itself."""
    return [one for risk in risks for one in losses_of(risk, seen, table, bound, worst)]


def _worst_of(procedure: str | None, order: Ints) -> Worst:
    """Return what takes of losses (L, N) the greatest up to each level; of crc no less than the full model's 0."""

    def worst(values: Floats) -> Floats:
        out = np.maximum(values, 0.0) if procedure == "crc" else values.copy()
        out[order] = np.maximum.accumulate(out[order], axis=0)
        return out

    return worst


def _together(
    risks: Sequence[Risk], seen: Sequence[Taken], table: Table, stated: dict[str, Any]
) -> float:
    """Return the p-value of a policy, or of all levels of a family."""
    nested = stated["covers"] == "request" or stated["given"] == "crc"
    worst = _worst_of(stated["given"], np.arange(len(seen))) if nested else None
    found = _losses(risks, seen, table, stated["cost_bound"], worst)
    p, _ = _p_values(found, stated["tested_at"], stated["given"], stated["seed"])
    return float(p[-1] if nested else p.max())


def _p_values(
    found: Sequence[Losses], level: float, procedure: str | None, seed: int
) -> tuple[Floats, str]:
    """Return the p-value of each policy, the greatest over claims, (L,), and by which procedures."""
    names: list[str] = []
    worst: Floats = np.zeros(len(found[0].values))
    for i, one in enumerate(found):
        name = procedure or default_of(one.kind, one.values.shape[1], one.most, level)
        _check_fits(name, one)
        order = np.random.default_rng([seed, i]).permutation(one.values.shape[1])
        values = one.values[:, order]
        p = PROCEDURES[name](values, one.most, low=one.low, high=one.high, delta=level)
        worst = np.maximum(worst, p)
        names += [] if name in names else [name]
    return worst, ", ".join(names)


def _check_fits(name: str, losses: Losses) -> None:
    allowed = {"binomial": (0.0, 1.0), "ternary": (-1.0, 0.0, 1.0)}.get(name)
    if name == "selective" and losses.kind != name:
        step = "Leave it out, or use betting."
        raise input_error("procedure", "for selective_error by rows", losses.text, step)
    if allowed is not None and not np.isin(losses.values, allowed).all():
        step = "Use betting, or leave it out."
        of = f"of losses that are {', '.join(f'{a:g}' for a in allowed)} for {name}"
        raise input_error("procedure", of, "others", step)


def _order(
    risks: Sequence[Risk], policies: Sequence[Policy], tables: Tables, units: int, bound: float | None,
    level: float, procedure: str | None,
) -> Ints:  # fmt: skip
    """Return the order in which levels are tried: by what the rows of the fit show, `units` of which will be tested."""
    costs = np.array([_cost(policy) for policy in policies])
    fit = _usable(risks, tables.get("fit"), "fit")
    found = _losses(risks, replays(policies, tables, fit), fit, bound)
    # As many as will be tested, in the same shares, those of classes too: what so few can show is what counts.
    found = [_resized(one, units / fit.units) for one in found]
    p, _ = _p_values(found, level, procedure, 0)
    # Whom few rows flatter comes before who is safe, if p-values alone rank those that will hardly fail.
    sure = p <= _SURE * level
    order = np.lexsort((-costs, np.where(sure, 0.0, p), ~sure))
    # What is dearer than a surer one can only stand in the way.
    before = np.minimum.accumulate(np.concatenate([[np.inf], costs[order][:-1]]))
    return order[costs[order] < before]


def _resized(losses: Losses, times: float) -> Losses:
    """Return so many times the losses of each level, in the shares of those that there are."""
    ranked = np.sort(losses.values, axis=1)
    n = max(round(times * ranked.shape[1]), 2)
    return replace(losses, values=ranked[:, np.arange(n) * ranked.shape[1] // n])


def _cost(policy: Policy) -> float:
    """Return what a policy states to cost."""
    stated: Any = policy.provenance.get("expected_cost")
    known = type(stated) in (int, float) and 0 <= stated <= MAX_COST
    return float(stated if known else policy.costs.max())


def _record(
    policy: Policy, j: int, cost: float, found: Sequence[Losses], p: float, shown: bool
) -> dict[str, Any]:
    """Return what a level costs, its risks on the rows of the test, and whether they are shown to be kept."""
    said = {f"{one.text} {one.cell}".strip(): float(one.means[j]) for one in found}
    return {
        "level": j, "cost": cost, "unit": policy.unit, "risks": said, "p_value": p, "certified": shown,
    }  # fmt: skip


def _refused(
    found: Sequence[Losses],
    p: Floats,
    first: Ints,
    policies: Sequence[Policy],
    level: float,
    procedure: str | None,
    each: float,
    records: list[dict[str, Any]],
    notes: Sequence[str],
) -> BudgetError:
    """Return why nothing is shown: the nearest level, and the number of rows that would do."""
    j = int(first[np.argmin(p[first])])  # of those at which the test had to begin
    needs = [
        rows_that_do(one.kind, procedure, one.values[j], one.most, each, one.low, one.high)
        for one in found
    ]
    unit, n = found[0].unit, min(one.values.shape[1] for one in found)
    nearest = f"Nearest is level {j} at cost {_cost(policies[j]):.6g} (p = {p[j]:.3g}, {each:.3g} or less would do)"
    if any(need is None for need in needs):
        over = [one for one in found if one.values[j].mean() >= one.most] or list(found)
        dear = [one.text.startswith("cost<") for one in over]
        step = "allow more risk, or fit levels that cost more."
        step = "no level keeps all of it: allow more." if any(dear) else step
        step = f"here {', '.join(one.is_at(j) for one in over)}: {step}"
    else:
        many = max(need for need in needs if need is not None)
        step = f"about {many:,} {unit} like these {n:,} would show it: {many - n:,} more."
    sure = f"with confidence {100 * (1 - level):g} %" if procedure != "crc" else "in the mean"
    error = BudgetError(f"No level is shown to keep the risk {sure}. {nearest}; {step}")
    error.levels = tuple(records)
    for note in dict.fromkeys(notes):
        error.add_note(note)
    return error
