"""Expert branches: one policy per context, the budget kept by all of them together."""

from __future__ import annotations

from policyopt.experts.fit import FittedExperts, Part, fit_experts

__all__ = ["FittedExperts", "Part", "fit_experts"]
