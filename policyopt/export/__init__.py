"""Export of fitted policies: one decision graph per exit, written as Python, ONNX or C, with golden vectors.

For one sample at a time in a Python process:

>>> from policyopt.export import ScalarPolicy
>>> ScalarPolicy(policy).step(0, logits, state)  # doctest: +SKIP
"""

from __future__ import annotations

from .scalar_policy import ScalarDecision, ScalarPolicy, ScalarState

__all__ = ["ScalarDecision", "ScalarPolicy", "ScalarState"]
