"""What runs beside the model: load a policy, decide. Needs numpy and the standard library only.

>>> from policyopt.runtime import load_policy  # doctest: +SKIP
>>> policy = load_policy("policy.json")  # doctest: +SKIP
>>> state = policy.start()  # doctest: +SKIP
>>> for k in policy.path:  # doctest: +SKIP
...     decision = policy.step(k, exit_of(model, k, x), state)
...     if decision.exit:
...         break
"""

from __future__ import annotations

from .artifact import load_policy, save_policy
from .decision import Decision, Decisions, Mixture, State
from .errors import BudgetError, CheckError, InputError, MissingExtraError, PolicyOptError
from .experts import ExpertPolicy
from .experts_file import load_any, load_experts, save_experts
from .output import ExitOutput
from .policy import ALWAYS, NEVER, Policy, first_exit
from .reading import reduce_exit
from .routing import route

__all__ = [
    "ALWAYS", "NEVER", "BudgetError", "CheckError", "Decision", "Decisions", "ExitOutput", "ExpertPolicy",
    "InputError", "MissingExtraError", "Mixture", "Policy", "PolicyOptError", "State",
    "first_exit", "load_any", "load_experts", "load_policy", "reduce_exit", "route", "save_experts",
    "save_policy",
]  # fmt: skip
