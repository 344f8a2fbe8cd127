"""Entrants of a simulation: policies by name and settings, and the players that they become."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.methods.base import Method
from policyopt.methods.registry import parse_value
from policyopt.online.exit_players import LinUCBPlayer, SplitEEPlayer, UEEPlayer
from policyopt.online.ladders import family_ladder
from policyopt.online.outcomes import Outcomes, outcomes
from policyopt.online.players import BanditPlayer, BudgetPlayer, Fixed, Player
from policyopt.online.requests import Requests
from policyopt.runtime.bandits import BANDITS, make_bandit
from policyopt.runtime.checks import check_names
from policyopt.runtime.errors import input_error
from policyopt.runtime.online.controller import Controller
from policyopt.runtime.online.ladder import Ladder
from policyopt.runtime.online.linucb import LinUCB
from policyopt.runtime.online.splitee import SplitEE
from policyopt.runtime.online.uee_ucb import UEEUCB
from policyopt.table import Table

_BY_EXIT: dict[str, tuple[Any, Any]] = {
    LinUCB.name: (LinUCB, LinUCBPlayer),
    SplitEE.name: (SplitEE, SplitEEPlayer),
    UEEUCB.name: (UEEUCB, UEEPlayer),
}
#: What is no bandit over the arms.
OTHERS: dict[str, str] = {name: rule.summary for name, (rule, _) in _BY_EXIT.items()} | {
    Controller.name: Controller.summary,
    "fixed": "stays where it was fitted, at the budget",
}
#: Fields that a simulation fills in: from costs and overhead, or from the budget.
_GIVEN = ("layers", "costs", "budget")
_FOLLOWS = ("offload", "start")  # unless set: the overhead, and the rung fitted to the budget
_RUNGS = 63  # of the controller's ladder, its ends not counted


def settings_of(name: str) -> dict[str, Any]:
    """Return the settings of an online policy and their defaults; None: it follows from the run.

    Examples
    --------
    >>> settings_of("ucb1"), settings_of("fixed")
    ({'c': 1.0}, {})
    """
    rule = _rule_of(name)
    if rule is None:
        return {}
    given = (f for f in fields(rule) if f.name not in _GIVEN)
    return {f.name: None if f.name in _FOLLOWS else f.default for f in given}


def every() -> list[dict[str, Any]]:
    """Return what `describe` says of every online policy."""
    return [describe(name) for name in (*BANDITS, *OTHERS)]


def describe(name: str) -> dict[str, Any]:
    """Return name, kind, summary, source and settings of an online policy, JSON-able."""
    rule = _rule_of(name)
    kind = "bandit" if name in BANDITS else "by exit" if name in _BY_EXIT else "at a budget"
    about = "" if rule is None else importlib.import_module(rule.__module__).__doc__ or ""
    return {
        "method": name,
        "family": "online",
        "kind": kind,
        "summary": OTHERS.get(name) or BANDITS[name].summary,
        "reference": about.partition("\n")[0],
        "settings": settings_of(name),
    }


def _rule_of(name: str) -> Any:
    if name in BANDITS:
        return BANDITS[name]
    return Controller if name == Controller.name else _BY_EXIT.get(name, (None,))[0]


def asked(policies: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return name and settings of each policy asked for; ``bandits`` stands for all of them.

    Examples
    --------
    >>> asked("ucb1:c=2,fixed")
    {'ucb1:c=2': ('ucb1', {'c': 2}), 'fixed': ('fixed', {})}
    """
    given = check_names("policies", policies, "E.g. ucb1.")
    every = [name for spec in given for name in (BANDITS if spec == "bandits" else (spec,))]
    check_names("policies", every, "E.g. ucb1; bandits stands for all bandits.")
    return {spec: _parse(spec) for spec in every}


def _parse(spec: str) -> tuple[str, dict[str, Any]]:
    """Divide ``name:key=value+key=value``."""
    name, colon, inline = spec.partition(":")
    if name == "bandits":
        raise input_error(
            "settings of bandits", "none: it stands for all of them", inline, "E.g. ucb1:c=2."
        )
    if name not in BANDITS and name not in OTHERS:
        allowed = f"one of {', '.join((*BANDITS, *OTHERS))}, or bandits for all bandits"
        raise input_error("policy", allowed, name, "`policyopt methods online` tells of them.")
    known, settings = settings_of(name), {}
    step = f"`policyopt methods {name}` lists its settings."
    for item in inline.split("+") if colon else []:
        key, equals, value = item.partition("=")
        if not equals or not value:
            raise input_error(f"settings of {name}", "key=value", item or "none", step)
        if key not in known:
            allowed = f"one of {', '.join(known)}" if known else "none: it has none"
            raise input_error(f"setting of {name}", allowed, key, step)
        if key in settings:
            raise input_error(f"{key} of {name}", "set once", inline, step)
        settings[key] = parse_value(value)
    return name, settings


@dataclass(frozen=True, eq=False)
class Stage:
    """What all entrants of a simulation have in common.

    Attributes
    ----------
    method : Method
        Fitted for those at a budget.
    fit : Table or None
        Rows to fit on.
    split : str
        Their name.
    tables : list of Table
        The streams.
    seen : Outcomes
        Of the policy whose thresholds the bandits choose.
    exits : ndarray of shape (n, A)
    requests : Requests
    reward, reveal : str
    delay : int
    budget : float or None
        In the cost's unit.
    """

    method: Method
    fit: Table | None
    split: str
    tables: list[Table]
    seen: Outcomes
    exits: npt.NDArray[np.integer]
    requests: Requests
    reward: str
    reveal: str
    delay: int
    budget: float | None

    def enter(self, name: str, settings: dict[str, Any]) -> tuple[Player, Outcomes]:
        """Return the player of an entrant, and what it sees."""
        seen, requests, delay = self.seen, self.requests, self.delay
        if name in BANDITS:
            bandit = make_bandit(name, settings)
            return BanditPlayer(bandit, seen, self.exits, requests, self.reveal, delay), seen
        if name in _BY_EXIT:
            rule, player = _BY_EXIT[name]
            # Prices in units of the reward: the overhead's share of each exit.
            prices = tuple((float(np.mean(requests.overhead)) * seen.load).tolist())
            own = {"layers": prices, "offload": prices[-1], "costs": prices}
            given = {f.name: own[f.name] for f in fields(rule) if f.name in own}
            return player(rule(**{**given, **settings}), seen, requests, delay), seen
        return self._at_budget(name, settings)

    def _at_budget(self, name: str, settings: dict[str, Any]) -> tuple[Player, Outcomes]:
        budget, fit, seed = self.budget, self.fit, self.requests.seed
        if budget is None or fit is None:
            lacking = "a budget" if budget is None else f"rows '{self.split}' to fit on"
            raise input_error(
                f"policy {name}", f"given with {lacking}", "none", "E.g. --budget 40%."
            )
        if name == "fixed":
            policy = self.method.fit_path(fit, [budget], seed)[0].policy
            seen = outcomes(policy, self.tables, self.reward, fit)
            return Fixed(Ladder(policy, policy.thresholds[None]).exits(seen.scores)), seen
        ladder = family_ladder(self.method, fit, _RUNGS, seed)
        seen = outcomes(ladder.policy, self.tables, self.reward, fit)
        costs = ladder.policy.costs
        share = min(max((budget - float(costs[0])) / float(costs[-1] - costs[0]), 0.0), 1.0)
        # It starts on the rung that was fitted to the budget.
        start = float(np.interp(budget, ladder.labels, np.linspace(0, 1, ladder.arms)))
        rule = Controller(**{"budget": share, "start": start, **settings})
        return BudgetPlayer(rule, ladder, seen, self.requests.repetitions, self.delay), seen
