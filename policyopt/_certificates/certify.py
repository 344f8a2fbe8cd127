"""Certify: the cheapest level of a family of which rows that chose nothing show that a risk is kept.

Levels and their order come from `fit` rows, the test from `calibrate` rows. A level is shown where each claim, of each
class or context, has a p-value within what the testing leaves for it: that all of them hold together needs no division
of the level (intersection-union: Berger, Technometrics 24, 1982). Many levels may be tried as they are tried in an
order that the test's rows had no part in, and only as long as they are shown (`testing.fallback`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._api import DEFAULT_METHOD, tables_of
from policyopt._cache.data import ExitData
from policyopt._certificates.bounds import DEFAULTS, P_VALUES, rows_that_do
from policyopt._certificates.risks import KINDS, Losses, Risk, losses_of, rows_for, taken
from policyopt._certificates.testing import fallback
from policyopt._costs import Budget
from policyopt._family import FittedFamily, fit_family
from policyopt._methods.base import Method
from policyopt._table import Table, Tables
from policyopt.runtime._certificate import FIELD, certificate_of, fingerprint
from policyopt.runtime._checks import check_one_of, check_seed
from policyopt.runtime._errors import BudgetError, CheckError, input_error
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._policy import Policy
from policyopt.runtime._several import policy_of
from policyopt.runtime._typing import Floats

SPLIT, LEVELS = "calibrate", 30
_FEWEST = 20


@dataclass(frozen=True, eq=False)
class Certified:
    """The result of `certify`.

    Attributes
    ----------
    policy : Policy
        The cheapest level that was shown, its certificate in its provenance.
    family : PolicyFamily
        All levels that were shown, each with its certificate: all of them hold together.
    certificate : dict
        Claim, confidence, procedure, n, p-value, and who tested.
    records : list of dict
        One per level in the order of the test: what it costs, its risks and p-value, and whether it was shown.
    notes : tuple of str
    """

    policy: Policy
    family: PolicyFamily
    certificate: dict[str, Any]
    records: list[dict[str, Any]]
    notes: tuple[str, ...] = ()

    def save(self, path: Any) -> None:
        """Write the policy's artifact (JSON)."""
        self.policy.save(path)


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
    starts: int = 1,
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
    procedure : {"binomial", "ternary", "hoeffding_bentkus", "betting", "normal"}, optional
        Default: exact for losses of 0 and 1, or of -1, 0 and 1; betting for others. ``normal`` is asymptotic.
    starts : int
        Places in the order of the levels at which the test begins, each with its share of 1 - confidence.
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
    level = delta_of(confidence)
    risks = _risks(risk, budget)
    if procedure is not None:
        check_one_of("procedure", procedure, tuple(P_VALUES))
    data, notes = _with_calibration(data, split)
    tables = tables_of(data, cost, tables if tables and tables.data is data else None, utility)
    policies = _levels(data, budgets, method, cost, seed, tables, settings)
    for policy in policies:
        _refuse_own_rows(policy, data, split)
    table = tables.get(split)
    table = _usable(risks, table, split)
    found = _losses(risks, policies, table, cost_bound)
    order = _order(risks, policies, tables, cost_bound, level, procedure)
    p, told = _p_values(found, level, procedure, check_seed(seed))
    at = np.unique(np.linspace(0, len(order), max(starts, 1), endpoint=False).astype(int))
    shown = np.zeros(len(order), dtype=bool)
    shown[order] = fallback(p[order], level, at.tolist())
    costs = np.array([_cost(policy) for policy in policies])
    records = [
        _record(policies[j], j, float(costs[j]), found, float(p[j]), bool(shown[j]))
        for j in order.tolist()
    ]
    if not shown.any():
        raise _refused(found, p, policies, level, procedure, len(at))
    said = {one["level"]: one["risks"] for one in records}
    stated: dict[str, Any] = {
        "claim": " and ".join(one.text for one in risks), "confidence": 1.0 - level, "procedure": told,
        "given": procedure, "asymptotic": "normal" in told,
        "testing": f"{len(policies)} levels in order of the fit's rows, {len(at)} start{'s' * (len(at) > 1)}",
        "n": min(one.values.shape[1] for one in found), "unit": found[0].unit, "cache": data.fingerprint,
        "split": split, "seed": int(seed), "cost_bound": cost_bound,
        "full_cost": float(table.mean_costs[-1]),
        "void": "any change of the policy; requests that are not like those rows",
    }  # fmt: skip
    chosen = sorted(np.flatnonzero(shown).tolist(), key=lambda j: (costs[j], p[j]))
    levels = [
        _with(policies[j], {**stated, "level": j, "p_value": float(p[j]), "risks": said[j]})
        for j in chosen
    ]
    rising = [i for i, j in enumerate(chosen) if i == 0 or costs[j] > costs[chosen[i - 1]]]
    family = PolicyFamily(
        tuple(levels[i] for i in rising), np.array([costs[chosen[i]] for i in rising]),
        full_cost=float(table.mean_costs[-1]),
    )  # fmt: skip
    return Certified(levels[0], family, levels[0].provenance[FIELD], records, tuple(notes))


def _with(policy: Policy, certificate: dict[str, Any]) -> Policy:
    """Return a policy that carries a certificate of itself."""
    own = {**certificate, "policy": fingerprint(policy)}
    return replace(policy, provenance={**policy.provenance, FIELD: own})


def recheck(policy: Any, data: ExitData, *, cost: str | None = None) -> dict[str, Any]:
    """Recompute the certificate of a policy on the cache that it names; return it, or raise CheckError."""
    policy = policy_of(policy, single=True)
    stated = certificate_of(policy)
    if stated is None:
        got = "one that was changed since" if FIELD in policy.provenance else "one without"
        raise CheckError(
            f"The policy must carry a certificate of what it is. Got {got}. Certify it: `policyopt certify`."
        )
    if stated["cache"] != data.fingerprint:
        raise CheckError(
            f"The certificate is of cache {stated['cache'][:12]}, this one is {data.fingerprint[:12]}. Give that cache."
        )
    if stated["given"] is not None:
        check_one_of("procedure of the certificate", stated["given"], tuple(P_VALUES))
    data, _ = _with_calibration(data, stated["split"])
    level = 1.0 - stated["confidence"]
    risks = [Risk.parse(text) for text in stated["claim"].split(" and ")]
    table = _usable(risks, Tables(data, cost).get(stated["split"]), stated["split"])
    found = _losses(risks, [policy], table, stated["cost_bound"])
    p, _ = _p_values(found, level, stated["given"], check_seed(stated["seed"]))
    if p[0] > min(level, stated["p_value"] * (1 + 1e-6) + 1e-12):
        raise CheckError(
            f"The certificate '{stated['claim']}' must hold on its rows. Got p = {p[0]:.3g}, stated "
            f"{stated['p_value']:.3g}. Certify the policy again."
        )
    return {**stated, "p_value": float(p[0])}


def delta_of(confidence: float | str) -> float:
    """Return delta."""
    value: Any = confidence
    if isinstance(confidence, str):
        text = confidence.strip()
        try:
            value = float(text.rstrip("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            value = None
    if type(value) not in (int, float) or not 0.5 <= value < 1.0:
        step = 'E.g. 0.95, or "95%".'
        raise input_error("confidence", "from 50 % to below 100 %", confidence, step)
    return 1.0 - float(value)


def _risks(risk: Any, budget: Budget | None) -> list[Risk]:
    given = [risk] if isinstance(risk, (str, Risk)) else list(risk)
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
    note = (
        f"half of the pool's test rows, {100 * shares[SPLIT]:.3g} % of all, are taken to calibrate"
    )
    return replace(data, shares=shares), [note]


def _levels(
    data: ExitData, budgets: Any, method: Any, cost: str | None, seed: int, tables: Tables, settings: dict[str, Any],
) -> list[Policy]:  # fmt: skip
    """Return the policies that are tried, fitted unless they are given."""
    if method is None or isinstance(method, (str, Method)):
        if not isinstance(method, Method) and "spend=" not in (method or ""):
            # What buys no quality may still come nearer to the full model.
            method, settings = method or DEFAULT_METHOD, {"spend": "all", **settings}
        found = fit_family(data, budgets, method, cost=cost, seed=seed, tables=tables, **settings)
        return list(found.policy.policies)
    if isinstance(method, FittedFamily):
        method = method.policy
    if isinstance(method, PolicyFamily):
        return list(method.policies)
    return [policy_of(method, single=True)]


def _refuse_own_rows(policy: Policy, data: ExitData, split: str) -> None:
    """Refuse rows that took part in the policy's fit."""
    places = data.rows(split)
    for origin in (policy.provenance, policy.provenance.get("refit")):
        if isinstance(origin, dict) and origin.get("cache") == data.fingerprint:
            key, rows = data.rows(str(origin.get("split")))
            if key == places[0] and np.intersect1d(rows, places[1]).size:
                step = f"Fit on other rows (--split), and keep '{split}' for the certificate."
                got = f"'{split}', which fitted the policy"
                raise input_error("split", "of rows that had no part in the fit", got, step)


def _usable(risks: Sequence[Risk], table: Table, split: str) -> Table:
    if any(KINDS[one.name].labels for one in risks):
        table = rows_for(next(one for one in risks if KINDS[one.name].labels), table)
    n = len(table) if table.group is None else len(np.unique(table.group))
    if n < _FEWEST:
        step = "Gather more: some hundreds show a risk of a few percent."
        raise input_error(f"rows of split '{split}'", f"{_FEWEST} or more", n, step)
    return table


def _losses(
    risks: Sequence[Risk], policies: Sequence[Policy], table: Table, bound: float | None
) -> list[Losses]:
    """Return the losses of every claim, each class or context by itself."""
    seen = [taken(policy, table) for policy in policies]
    return [one for risk in risks for one in losses_of(risk, seen, table, bound)]


def _p_values(
    found: Sequence[Losses], level: float, procedure: str | None, seed: int
) -> tuple[Floats, str]:
    """Return the p-value of each policy, the greatest over claims, (L,), and by which procedures."""
    names: list[str] = []
    worst: Floats = np.zeros(len(found[0].values))
    for i, one in enumerate(found):
        name = procedure or DEFAULTS[one.kind]
        _check_fits(name, one)
        order = np.random.default_rng([seed, i]).permutation(one.values.shape[1])
        p = P_VALUES[name](one.values[:, order], one.most, low=one.low, high=one.high, delta=level)
        worst = np.maximum(worst, p)
        names += [] if name in names else [name]
    return worst, ", ".join(names)


def _check_fits(name: str, losses: Losses) -> None:
    allowed = {"binomial": (0.0, 1.0), "ternary": (-1.0, 0.0, 1.0)}.get(name)
    if allowed is not None and not np.isin(losses.values, allowed).all():
        step = "Use betting, or leave it out."
        raise input_error(
            "procedure",
            f"of losses that are {', '.join(f'{a:g}' for a in allowed)} for {name}",
            "others",
            step,
        )


def _order(
    risks: Sequence[Risk], policies: Sequence[Policy], tables: Tables, bound: float | None,
    level: float, procedure: str | None,
) -> Any:  # fmt: skip
    """Return the order in which levels are tried: by what the rows of the fit show, dearest first without them."""
    costs = np.array([_cost(policy) for policy in policies])
    if "fit" in tables.data.split_names and len(policies) > 1:
        table = _usable(risks, tables.get("fit"), "fit")
        found = _losses(risks, policies, table, bound)
        p, _ = _p_values(found, level, procedure, 0)
        # Of those that all rows show for certain: the mean says more.
        excess = np.max(
            [(one.values.mean(axis=1) - one.most) / (one.high - one.low) for one in found], axis=0
        )
        return np.lexsort((-costs, excess, p))
    return np.argsort(-costs, kind="stable")


def _cost(policy: Policy) -> float:
    """Return what a policy states to cost."""
    return float(policy.provenance.get("expected_cost", policy.costs.max()))


def _record(
    policy: Policy, j: int, cost: float, found: Sequence[Losses], p: float, shown: bool
) -> dict[str, Any]:
    """Return what a level costs, its risks on the rows of the test, and whether they are shown to be kept."""
    said = {f"{one.text} {one.cell}".strip(): float(one.values[j].mean()) for one in found}
    return {
        "level": j, "cost": cost, "unit": policy.unit, "risks": said, "p_value": p, "certified": shown,
    }  # fmt: skip


def _refused(
    found: Sequence[Losses],
    p: Floats,
    policies: Sequence[Policy],
    level: float,
    procedure: str | None,
    starts: int,
) -> BudgetError:
    """Return why nothing is shown: the nearest level, and the number of rows that would do."""
    j, share = int(np.argmin(p)), level / starts
    needs = [
        rows_that_do(
            procedure or DEFAULTS[one.kind], one.values[j], one.most, share, one.low, one.high
        )
        for one in found
    ]
    unit, n = found[0].unit, min(one.values.shape[1] for one in found)
    nearest = f"Nearest is level {j} at cost {_cost(policies[j]):.6g} (p = {p[j]:.3g}, {share:.3g} or less would do)"
    if any(need is None for need in needs):
        over = max(found, key=lambda one: float(one.values[j].mean()) - one.most)
        step = (
            f"its risk here is {float(over.values[j].mean()):.3g}, over the {over.most:.3g} that is claimed: "
            "allow more risk, or fit levels that cost more."
        )
    else:
        many = max(need for need in needs if need is not None)
        step = f"about {many:,} {unit} like these {n:,} would show it: {many - n:,} more."
    return BudgetError(
        f"No level is shown to keep the risk with confidence {100 * (1 - level):g} %. {nearest}; {step}"
    )
