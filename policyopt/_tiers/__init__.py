"""Tiers: device, edge and cloud with links between them, and plans of where to cut and where to exit.

Importing it loads nothing heavy: what a tier runs needs numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyopt._tiers.certify import certified_plan
    from policyopt._tiers.choose import make_plan
    from policyopt._tiers.description import Link, Tier, Tiers, load_tiers
    from policyopt._tiers.plans import Plan
    from policyopt._tiers.search import Goal, Limit
    from policyopt._tiers.tier_policy import TierPolicy, emit, load_tier, tier_policies

_NAMES = {
    "certify": ["certified_plan"],
    "choose": ["make_plan"],
    "description": ["Link", "Tier", "Tiers", "load_tiers"],
    "plans": ["Plan"],
    "search": ["Goal", "Limit"],
    "tier_policy": ["TierPolicy", "emit", "load_tier", "tier_policies"],
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}
__all__ = [
    "Goal",
    "Limit",
    "Link",
    "Plan",
    "Tier",
    "TierPolicy",
    "Tiers",
    "certified_plan",
    "emit",
    "load_tier",
    "load_tiers",
    "make_plan",
    "tier_policies",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"policyopt._tiers.{_HOMES[name]}"), name)
