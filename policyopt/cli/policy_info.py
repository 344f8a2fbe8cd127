"""What a policy file says: what it decides with, and how it was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policyopt.cli.output import Format, print_json, print_records
from policyopt.runtime.experts import ExpertPolicy
from policyopt.runtime.experts_file import load_any
from policyopt.runtime.policy import Policy

_SHOWN = 120


def print_policy(path: Path, style: Format) -> None:
    """Print what stands in a policy file, its checksum and contents checked; large values are cut."""
    policy = load_any(path)
    if isinstance(policy, ExpertPolicy):
        experts = dict(zip(policy.contexts, map(_facts, policy.policies), strict=True))
        content = {"experts": experts, "provenance": dict(policy.provenance)}
    else:
        content = _facts(policy)
    if style is Format.json:
        print_json(content)
        return
    rows = [{"field": name, "value": _text(value)} for name, value in _flat(content)]
    print_records(rows, style)


def _facts(policy: Policy) -> dict[str, Any]:
    mixture, confidence = policy.mixture, policy.confidence
    return {
        "kind": policy.kind,
        "classes": policy.classes,
        "model exits": policy.model_exits,
        "exits run": list(policy.path),
        "unit": policy.unit,
        "costs": policy.costs.tolist(),
        "overhead": policy.overhead.tolist(),
        "score": policy.rule.name,
        "answer": policy.answer.name,
        "confidence": None if confidence is None else confidence.name,
        "thresholds": policy.thresholds.tolist(),
        "share of the mixture": None if mixture is None else mixture.share,
        "provenance": dict(policy.provenance),
    }


def _flat(content: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    """Return fields in order, those of objects under dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        if isinstance(value, dict) and value:
            found += _flat(value, f"{above}{name}.")
        else:
            found.append((f"{above}{name}", value))
    return found


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
