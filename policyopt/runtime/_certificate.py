"""The certificate that a policy carries, and whether it is still of this policy."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from policyopt.runtime._policy import Policy, to_dict

FIELD = "certificate"
_TYPES: dict[str, Any] = {
    "claim": str, "confidence": float, "procedure": str, "given": (str, type(None)), "asymptotic": bool,
    "testing": str, "n": int, "unit": str, "cache": str, "split": str, "seed": int, "void": str,
    "cost_bound": (int, float, type(None)), "full_cost": float, "level": int, "p_value": float, "risks": dict,
    "policy": str,
}  # fmt: skip
_OTHER = ("provenance", "sha256", "version", "format")


def fingerprint(policy: Policy) -> str:
    """Return a digest of all that decides: thresholds, score, answer, costs, coin, exits."""
    content = {name: value for name, value in to_dict(policy).items() if name not in _OTHER}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def certificate_of(policy: Policy) -> dict[str, Any] | None:
    """Return the certificate of a policy; None where it has none that is whole, or was changed since."""
    found = policy.provenance.get(FIELD)
    if not isinstance(found, dict) or found.keys() != _TYPES.keys():
        return None
    whole = all(isinstance(found[name], of) for name, of in _TYPES.items())
    whole = whole and 0.5 <= found["confidence"] < 1 and 0 <= found["p_value"] <= 1
    return found if whole and found["policy"] == fingerprint(policy) else None
