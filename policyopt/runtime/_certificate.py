"""The certificate that a policy carries, and whether it is still of this policy."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from policyopt.runtime._policy import Policy, to_dict

FIELD = "certificate"
_OTHER = ("provenance", "sha256", "version", "format")


def fingerprint(policy: Policy) -> str:
    """Return a digest of all that decides: thresholds, score, answer, costs, coin, exits."""
    content = {name: value for name, value in to_dict(policy).items() if name not in _OTHER}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def certificate_of(policy: Policy) -> dict[str, Any] | None:
    """Return the certificate of a policy; None where it has none, or was changed since."""
    found = policy.provenance.get(FIELD)
    if not isinstance(found, dict) or found.get("policy") != fingerprint(policy):
        return None
    return found
