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

    from policyopt._api import evaluate, fit
    from policyopt._cache.arrays import from_arrays
    from policyopt._cache.data import ExitData
    from policyopt._cache.importers import import_sources
    from policyopt._cache.reader import open_cache
    from policyopt._cache.writer import CacheWriter
    from policyopt._checking import check_method, check_score
    from policyopt._costs import Cost
    from policyopt._experts import fit_experts
    from policyopt._frontier import compare, curve
    from policyopt._methods.base import Method
    from policyopt._methods.fitted import Fitted
    from policyopt._methods.learned_score import LearnedScore
    from policyopt._methods.registry import make_method, register_method
    from policyopt._online.drift import refit, watch_policy
    from policyopt._online.families import fit_family
    from policyopt._online.simulate import simulate
    from policyopt._table import Tables
    from policyopt._tiers.choose import certified_plan, make_plan
    from policyopt._tiers.description import Link, Tier, Tiers, load_tiers
    from policyopt._tiers.search import Goal, Limit
    from policyopt._tiers.tier_policy import TierPolicy, load_tier, tier_policies
    from policyopt._tuning import tune
    from policyopt.runtime._errors import BudgetError, InputError, PolicyOptError
    from policyopt.runtime._experts import ExpertPolicy, route
    from policyopt.runtime._parameters import array, choice, number
    from policyopt.runtime._policy import Policy, load_policy
    from policyopt.runtime._scores import ScoreRule, make_score, register_score

_HOMES = {
    "BudgetError": "runtime._errors",
    "CacheWriter": "_cache.writer",
    "Cost": "_costs",
    "ExitData": "_cache.data",
    "ExpertPolicy": "runtime._experts",
    "Fitted": "_methods.fitted",
    "Goal": "_tiers.search",
    "InputError": "runtime._errors",
    "LearnedScore": "_methods.learned_score",
    "Limit": "_tiers.search",
    "Link": "_tiers.description",
    "Method": "_methods.base",
    "Policy": "runtime._policy",
    "PolicyOptError": "runtime._errors",
    "ScoreRule": "runtime._scores",
    "Tables": "_table",
    "Tier": "_tiers.description",
    "TierPolicy": "_tiers.tier_policy",
    "Tiers": "_tiers.description",
    "array": "runtime._parameters",
    "certified_plan": "_tiers.choose",
    "check_method": "_checking",
    "check_score": "_checking",
    "choice": "runtime._parameters",
    "compare": "_frontier",
    "curve": "_frontier",
    "evaluate": "_api",
    "fit": "_api",
    "fit_experts": "_experts",
    "fit_family": "_online.families",
    "from_arrays": "_cache.arrays",
    "import_sources": "_cache.importers",
    "load_policy": "runtime._policy",
    "load_tier": "_tiers.tier_policy",
    "load_tiers": "_tiers.description",
    "make_method": "_methods.registry",
    "make_plan": "_tiers.choose",
    "make_score": "runtime._scores",
    "number": "runtime._parameters",
    "open_cache": "_cache.reader",
    "refit": "_online.drift",
    "register_method": "_methods.registry",
    "register_score": "runtime._scores",
    "route": "runtime._experts",
    "simulate": "_online.simulate",
    "tier_policies": "_tiers.tier_policy",
    "tune": "_tuning",
    "watch_policy": "_online.drift",
}
__all__ = [
    "BudgetError", "CacheWriter", "Cost", "ExitData", "ExpertPolicy", "Fitted", "Goal",
    "InputError", "LearnedScore", "Limit", "Link", "Method", "Policy", "PolicyOptError",
    "ScoreRule", "Tables", "Tier", "TierPolicy", "Tiers", "array", "certified_plan", "check_method",
    "check_score", "choice", "compare", "curve", "evaluate", "fit", "fit_experts", "fit_family",
    "from_arrays", "import_sources", "load_policy", "load_tier", "load_tiers", "make_method",
    "make_plan", "make_score", "number", "open_cache", "refit", "register_method", "register_score",
    "route", "simulate", "tier_policies", "tune", "watch_policy",
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
        from policyopt.runtime._errors import MissingExtraError

        raise MissingExtraError(
            f"'{name}' needs the package '{missing}', which is not installed. "
            "Install the extra that has it: pip install 'policyopt[fit]'."
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
