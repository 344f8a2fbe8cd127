"""The certificate that a policy carries, and whether it is still of this policy."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any

from policyopt.runtime._errors import input_error
from policyopt.runtime._policy import Policy, to_dict

FIELD = "certificate"
_TYPES: dict[str, Any] = {
    "claim": str, "confidence": float, "procedure": str, "given": (str, type(None)), "asymptotic": bool,
    "testing": str, "n": int, "unit": str, "cache": str, "split": str, "seed": int, "void": str,
    "cost_bound": (int, float, type(None)), "full_cost": float, "level": int, "p_value": float, "risks": dict,
    "policy": str,
}  # fmt: skip
_CLAIM = re.compile(r"([^<\s]+)\s*<=\s*([0-9.]+(?:e-?[0-9]+)?)(%?)(.*)", re.IGNORECASE)
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


def says(found: dict[str, Any], claim: str, confidence: float, by_request: bool = False) -> bool:
    """Whether a certificate says as much as a claim; `by_request`: of levels that are chosen by the request itself."""
    of, most = _read(claim)
    known = map(_read, found["claim"].split(" and "))
    as_much = any(name == of and number <= most * (1 + 1e-9) for name, number in known)
    by = found.get("covers", "blind") == "request" or not by_request
    return as_much and by and found["confidence"] >= confidence - 1e-9


def _read(claim: str) -> tuple[Any, float]:
    """Return what a claim is of, and its number."""
    parts = _CLAIM.fullmatch(claim.strip()) if isinstance(claim, str) else None
    if parts is None:
        raise input_error("certified", "RISK<=NUMBER[%]", claim, 'E.g. "drop<=1%".')
    name, number, percent, cells = parts.groups()
    share = bool(percent)
    return (name, cells.split(), share and name == "cost"), float(number) / (100 if share else 1)
