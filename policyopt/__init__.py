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

    from policyopt._api import evaluate, fit, risk_coverage
    from policyopt._cache.arrays import from_arrays, summarise
    from policyopt._cache.data import ExitData
    from policyopt._cache.importers import import_sources
    from policyopt._cache.reader import open_cache
    from policyopt._cache.writer import CacheWriter
    from policyopt._certificates.certify import Certified, certify
    from policyopt._certificates.risks import Risk, register_risk
    from policyopt._checking import check_method, check_score
    from policyopt._costs import Cost
    from policyopt._engine import parallel
    from policyopt._experts import fit_experts
    from policyopt._export.bundle import export
    from policyopt._export.verify import verify
    from policyopt._family import FittedFamily, fit_family
    from policyopt._frontier import compare, curve
    from policyopt._limits import Limit
    from policyopt._methods.base import Method
    from policyopt._methods.fitted import Fitted
    from policyopt._methods.learned_score import LearnedScore
    from policyopt._methods.registry import make_method, register_method
    from policyopt._methods.targets import Target
    from policyopt._online.drift import refit, watch
    from policyopt._online.families import fit_linucb
    from policyopt._online.simulate import simulate
    from policyopt._page.content import Page, report
    from policyopt._parts import by_part
    from policyopt._progress import progress
    from policyopt._report.calibration import Calibration, calibration
    from policyopt._report.explanation import Explanation, explain
    from policyopt._study.exits import exit_metrics
    from policyopt._study.runs import compare_runs
    from policyopt._study.streams import robustness
    from policyopt._study.study import Study, study
    from policyopt._table import Tables
    from policyopt._tiers.choose import plan
    from policyopt._tiers.description import Link, Tier, Tiers, load_tiers
    from policyopt._tiers.search import Goal
    from policyopt._tiers.tier_policy import TierPolicy, load_tier, tier_policies
    from policyopt._tuning import tune
    from policyopt._verdict import Verdict, verdict
    from policyopt.runtime._arithmetic import lookup, row_product
    from policyopt.runtime._errors import BudgetError, CheckError, InputError, PolicyOptError
    from policyopt.runtime._experts import ExpertPolicy, load_experts, route
    from policyopt.runtime._family import PolicyFamily, load_family
    from policyopt.runtime._parameters import array, choice, number
    from policyopt.runtime._policy import Policy, load_policy
    from policyopt.runtime._routing import RoutingPolicy
    from policyopt.runtime._scores import ScoreRule, make_score, register_score

_NAMES = {
    "_api": "evaluate fit risk_coverage",
    "_cache.arrays": "from_arrays summarise",
    "_cache.data": "ExitData",
    "_cache.importers": "import_sources",
    "_cache.reader": "open_cache",
    "_cache.writer": "CacheWriter",
    "_certificates.certify": "Certified certify",
    "_certificates.risks": "Risk register_risk",
    "_checking": "check_method check_score",
    "_costs": "Cost",
    "_engine": "parallel",
    "_experts": "fit_experts",
    "_export.bundle": "export",
    "_export.verify": "verify",
    "_family": "FittedFamily fit_family",
    "_frontier": "compare curve",
    "_limits": "Limit",
    "_methods.base": "Method",
    "_methods.fitted": "Fitted",
    "_methods.learned_score": "LearnedScore",
    "_methods.registry": "make_method register_method",
    "_methods.targets": "Target",
    "_online.drift": "refit watch",
    "_online.families": "fit_linucb",
    "_online.simulate": "simulate",
    "_report.calibration": "Calibration calibration",
    "_report.explanation": "Explanation explain",
    "_study.runs": "compare_runs",
    "_study.study": "Study study",
    "_page.content": "Page report",
    "_parts": "by_part",
    "_progress": "progress",
    "_study.exits": "exit_metrics",
    "_study.streams": "robustness",
    "_table": "Tables",
    "_tiers.choose": "plan",
    "_tiers.description": "Link Tier Tiers load_tiers",
    "_tiers.search": "Goal",
    "_tiers.tier_policy": "TierPolicy load_tier tier_policies",
    "_tuning": "tune",
    "_verdict": "Verdict verdict",
    "runtime": "BudgetError CheckError ExpertPolicy InputError Policy PolicyFamily PolicyOptError ScoreRule array "
    "choice load_experts load_family load_policy lookup make_score number register_score route row_product",
    "runtime._routing": "RoutingPolicy",
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names.split()}
__all__ = [
    "BudgetError", "CacheWriter", "Calibration", "Certified", "CheckError", "Cost", "ExitData",
    "ExpertPolicy", "Explanation", "Fitted", "FittedFamily", "Goal", "InputError", "LearnedScore", "Limit",
    "Link", "Method", "Page", "Policy", "PolicyFamily", "PolicyOptError", "Risk", "RoutingPolicy", "ScoreRule",
    "Study", "Tables", "Target", "Tier", "TierPolicy", "Tiers", "Verdict", "array", "by_part", "calibration",
    "certify", "check_method", "check_score", "choice", "compare", "compare_runs", "curve", "evaluate",
    "exit_metrics", "explain", "export", "fit", "fit_experts", "fit_family", "fit_linucb", "from_arrays",
    "import_sources", "load_experts", "load_family", "load_policy", "load_tier", "load_tiers", "lookup",
    "make_method", "make_score", "number", "open_cache", "parallel", "plan", "progress", "refit", "register_method",
    "register_risk", "register_score", "report", "risk_coverage", "robustness", "route", "row_product", "simulate",
    "study", "summarise", "tier_policies", "tune", "verdict", "verify", "watch",
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
