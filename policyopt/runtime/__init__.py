"""What runs beside the model: load a policy, decide. Needs numpy and the standard library only.

>>> from policyopt.runtime import load_policy  # doctest: +SKIP
>>> policy = load_policy("policy.json")  # doctest: +SKIP
>>> state = policy.start()  # doctest: +SKIP
>>> for k in policy.active_exits:  # doctest: +SKIP
...     decision = policy.step(k, exit_of(model, k, x), state)
...     if decision.exit:
...         break
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._arithmetic import distances, log_odds, lookup, row_product, sigmoid
from ._errors import BudgetError, CheckError, InputError, MissingExtraError, PolicyOptError
from ._experts import ExpertPolicy, load_any, load_experts, route
from ._family import PolicyFamily, load_family
from ._outputs import ExitOutput
from ._parameters import array, choice, number
from ._policy import (
    ALWAYS,
    NEVER,
    Abstention,
    Answer,
    Decision,
    Decisions,
    Mixture,
    Policy,
    State,
    first_exit,
    load_policy,
)
from ._reading import reduce_exit
from ._scores import ScoreRule, make_score, register_score

if TYPE_CHECKING:
    from ._bandits import make_bandit
    from ._decision_log import DecisionLog
    from ._drift import DriftWatch
    from ._online import UEEUCB, Controller, LinUCB, Online, SplitEE
    from ._risk_monitor import RiskMonitor, audited
    from ._routing import RoutingPolicy

#: Where names stand that most who decide do without.
_LATER = {
    "Controller": "_online", "DecisionLog": "_decision_log", "DriftWatch": "_drift", "LinUCB": "_online",
    "Online": "_online",
    "RiskMonitor": "_risk_monitor", "RoutingPolicy": "_routing", "SplitEE": "_online", "UEEUCB": "_online",
    "audited": "_risk_monitor", "make_bandit": "_bandits",
}  # fmt: skip
__all__ = [
    "ALWAYS", "NEVER", "UEEUCB", "Abstention", "Answer", "BudgetError", "CheckError", "Controller",
    "Decision", "DecisionLog", "Decisions", "DriftWatch", "ExitOutput", "ExpertPolicy", "InputError", "LinUCB",
    "MissingExtraError", "Mixture", "Online", "Policy", "PolicyFamily", "PolicyOptError", "RiskMonitor",
    "RoutingPolicy", "ScoreRule", "SplitEE", "State", "array", "audited", "choice", "distances",
    "first_exit", "load_any", "load_experts", "load_family", "load_policy", "log_odds",
    "lookup", "make_bandit", "make_score", "number", "reduce_exit", "register_score", "route",
    "row_product", "sigmoid",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what serves while adapting when it is first asked for."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_LATER[name]}", __name__), name)
