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
    from policyopt.costs import Cost
    from policyopt.experts import fit_experts
    from policyopt.frontier.compare import compare
    from policyopt.frontier.curve import curve
    from policyopt.methods import make_method
    from policyopt.online.simulate import simulate
    from policyopt.runtime.artifact import load_policy
    from policyopt.runtime.errors import BudgetError, InputError, PolicyOptError
    from policyopt.runtime.experts import ExpertPolicy
    from policyopt.runtime.policy import Policy
    from policyopt.runtime.routing import route
    from policyopt.tuning import tune

_HOMES = {
    "BudgetError": "runtime.errors",
    "CacheWriter": "cache.writer",
    "Cost": "costs",
    "ExitData": "cache.data",
    "ExpertPolicy": "runtime.experts",
    "InputError": "runtime.errors",
    "Policy": "runtime.policy",
    "PolicyOptError": "runtime.errors",
    "compare": "frontier.compare",
    "curve": "frontier.curve",
    "evaluate": "api",
    "fit": "api",
    "fit_experts": "experts",
    "from_arrays": "cache.arrays",
    "import_sources": "cache.importers",
    "load_policy": "runtime.artifact",
    "make_method": "methods",
    "open_cache": "cache.reader",
    "route": "runtime.routing",
    "simulate": "online.simulate",
    "tune": "tuning",
}
__all__ = [
    "BudgetError", "CacheWriter", "Cost", "ExitData", "ExpertPolicy", "InputError", "Policy", "PolicyOptError",
    "compare", "curve", "evaluate", "fit", "fit_experts", "from_arrays", "import_sources", "load_policy",
    "make_method", "open_cache", "route", "simulate", "tune",
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
