"""Tiers: device, edge and cloud with links between them, and plans of where to cut and where to exit.

Importing it loads nothing heavy: what a tier runs needs numpy alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyopt.tiers.certify import certified_plan
    from policyopt.tiers.choose import make_plan
    from policyopt.tiers.describe import Link, Tier, Tiers
    from policyopt.tiers.emit import emit, tier_policies
    from policyopt.tiers.goal import Goal, Limit
    from policyopt.tiers.plans import Plan
    from policyopt.tiers.read import load_tiers
    from policyopt.tiers.tier_policy import TierPolicy, load_tier

_HOMES = {
    "Goal": "goal",
    "Limit": "goal",
    "Link": "describe",
    "Plan": "plans",
    "Tier": "describe",
    "TierPolicy": "tier_policy",
    "Tiers": "describe",
    "certified_plan": "certify",
    "emit": "emit",
    "load_tier": "tier_policy",
    "load_tiers": "read",
    "make_plan": "choose",
    "tier_policies": "emit",
}
__all__ = [
    "Goal", "Limit", "Link", "Plan", "Tier", "TierPolicy", "Tiers", "certified_plan", "emit", "load_tier", "load_tiers",
    "make_plan", "tier_policies",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"policyopt.tiers.{_HOMES[name]}"), name)
