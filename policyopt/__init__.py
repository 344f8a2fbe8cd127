"""policyopt: fit early-exit policies after training, from cached per-exit outputs.

>>> import policyopt as po
>>> data = po.open_cache("cache/fashion_mnist")  # doctest: +SKIP
>>> fitted = po.fit(data, budget="40%", method="max_prob")  # doctest: +SKIP
>>> fitted.save("policy.json")  # doctest: +SKIP

Importing this package loads nothing heavy: each name below is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as typing has it; typing itself takes longer to load than all of this
if TYPE_CHECKING:
    from typing import Any

    from policyopt.api import evaluate, fit
    from policyopt.cache.arrays import from_arrays
    from policyopt.cache.data import ExitData
    from policyopt.cache.importers import import_sources
    from policyopt.cache.reader import open_cache
    from policyopt.cache.writer import CacheWriter
    from policyopt.checking import check_method, check_score
    from policyopt.costs import Cost
    from policyopt.experts import fit_experts
    from policyopt.frontier import compare, curve
    from policyopt.methods.base import Method
    from policyopt.methods.fitted import Fitted
    from policyopt.methods.learned_score import LearnedScore
    from policyopt.methods.registry import make_method, register_method
    from policyopt.online.drift import refit, watch_policy
    from policyopt.online.families import fit_family
    from policyopt.online.simulate import simulate
    from policyopt.runtime.artifact import load_policy
    from policyopt.runtime.errors import BudgetError, InputError, PolicyOptError
    from policyopt.runtime.experts import ExpertPolicy, route
    from policyopt.runtime.parameters import array, choice, number
    from policyopt.runtime.policy import Policy
    from policyopt.runtime.scores import ScoreRule, make_score, register_score
    from policyopt.table import Tables
    from policyopt.tiers import Tiers, load_tier, make_plan
    from policyopt.tuning import tune

_HOMES = {
    "BudgetError": "runtime.errors",
    "CacheWriter": "cache.writer",
    "Cost": "costs",
    "ExitData": "cache.data",
    "ExpertPolicy": "runtime.experts",
    "Fitted": "methods.fitted",
    "InputError": "runtime.errors",
    "LearnedScore": "methods.learned_score",
    "Method": "methods.base",
    "Policy": "runtime.policy",
    "PolicyOptError": "runtime.errors",
    "ScoreRule": "runtime.scores",
    "Tables": "table",
    "Tiers": "tiers",
    "array": "runtime.parameters",
    "check_method": "checking",
    "check_score": "checking",
    "choice": "runtime.parameters",
    "compare": "frontier",
    "curve": "frontier",
    "evaluate": "api",
    "fit": "api",
    "fit_experts": "experts",
    "fit_family": "online.families",
    "from_arrays": "cache.arrays",
    "import_sources": "cache.importers",
    "load_policy": "runtime.artifact",
    "load_tier": "tiers",
    "make_method": "methods.registry",
    "make_plan": "tiers",
    "make_score": "runtime.scores",
    "number": "runtime.parameters",
    "open_cache": "cache.reader",
    "refit": "online.drift",
    "register_method": "methods.registry",
    "register_score": "runtime.scores",
    "route": "runtime.experts",
    "simulate": "online.simulate",
    "tune": "tuning",
    "watch_policy": "online.drift",
}
__all__ = [
    "BudgetError", "CacheWriter", "Cost", "ExitData", "ExpertPolicy", "Fitted", "InputError",
    "LearnedScore", "Method", "Policy", "PolicyOptError", "ScoreRule", "Tables", "Tiers", "array",
    "check_method", "check_score", "choice", "compare", "curve", "evaluate", "fit", "fit_experts",
    "fit_family", "from_arrays", "import_sources", "load_policy", "load_tier", "make_method",
    "make_plan", "make_score", "number", "open_cache", "refit", "register_method", "register_score",
    "route", "simulate", "tune", "watch_policy",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'policyopt' has no attribute {name!r}")
    try:
        return getattr(import_module(f"policyopt.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing == "policyopt":
            raise
        from policyopt.runtime.errors import MissingExtraError

        raise MissingExtraError(
            f"'{name}' needs the package '{missing}', which is not installed. "
            "Install the extra that has it: pip install 'policyopt[fit]'."
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
