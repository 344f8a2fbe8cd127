"""The certificate that a policy, a family or expert policies carry, whether it is still of them, and in words."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import Any

from ._checks import MAX_COST
from ._errors import input_error
from ._saved_state import MOST_COUNT

FIELD = "certificate"
#: What is said of it: with a confidence, the same in the long run only, or of the mean over calibration rows.
SENSES = ("confidence", "asymptotic", "expectation")
#: How the level of a family may be chosen: from anything but the request, or from the request, too.
COVERS = ("blind", "request")
_TYPES: dict[str, Any] = {
    "claim": str, "cost": str, "utility": (str, type(None)), "confidence": (float, type(None)), "procedure": str,
    "given": (str, type(None)), "sense": str,
    "covers": str, "testing": str, "n": int, "unit": str, "cache": str, "split": str, "rows": str, "seed": int,
    "void": str, "cost_bound": (float, type(None)), "full_cost": float, "tested": str, "tested_at": float,
    "level": (int, type(None)), "p_value": float, "risks": dict, "policy": str,
}  # fmt: skip
_CLAIM = re.compile(
    r"([^<\s]+)\s*<=\s*([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)(%?)(.*)", re.IGNORECASE | re.ASCII
)
_OTHER = ("provenance", "sha256", "version", "format")
_READ = ("class_names", "confidences", "predictions")  # of provenance: how answers are read


def fingerprint(policy: Any) -> str:
    """Return a digest of all that decides: thresholds, score, answer, costs, coin, exits; of each of several."""
    from ._experts import any_to_dict  # which needs families, and they certificates

    content = _bare(any_to_dict(policy))
    for several in ("policies", "levels"):
        content |= {several: [_bare(one) for one in content[several]]} if several in content else {}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()


def _bare(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a file without what decides nothing; of its origins, how answers are read."""
    told = {
        name: content["provenance"][name] for name in _READ if name in content.get("provenance", {})
    }
    return {name: value for name, value in content.items() if name not in _OTHER} | told


def certificate_of(policy: Any) -> dict[str, Any] | None:
    """Return the certificate of a policy; None where it has none that is whole, or was changed since."""
    found = policy.provenance.get(FIELD)
    if not isinstance(found, dict) or found.keys() != _TYPES.keys():
        return None
    whole = all(
        isinstance(found[name], of) and not isinstance(found[name], bool)
        for name, of in _TYPES.items()
    )
    whole = whole and found["sense"] in SENSES and found["covers"] in COVERS
    whole = whole and (found["confidence"] is None) == (found["sense"] == "expectation")
    whole = (
        whole
        and 0.5 <= (found["confidence"] or 0.5) < 1
        and 0 <= found["p_value"] <= 1
        and 0 < found["tested_at"] <= 1
        and 1 <= found["n"] <= MOST_COUNT
        and 0 <= (found["level"] or 0) <= MOST_COUNT
        and 0 < (found["cost_bound"] or 1.0) <= MAX_COST
        and 0 <= found["full_cost"] <= MAX_COST
    )
    return found if whole and found["policy"] == fingerprint(policy) else None


def in_words(certificate: dict[str, Any]) -> str:
    """Return a certificate in plain words."""
    sense, p = certificate["sense"], f"{certificate['p_value']:.3g}"
    sure = "in the mean over draws of calibration rows"
    if sense != "expectation":
        sure = f"with {100 * certificate['confidence']:g} % confidence"
        sure = f"asymptotically, {sure}" if sense == "asymptotic" else sure
    told = f"p = {p}, {certificate['procedure']}"
    told = f"{p} of what is allowed, {certificate['procedure']}" if sense == "expectation" else told
    level = ", whatever level a request is given" if certificate["covers"] == "request" else ""
    n, unit, split = (
        f"{certificate['n']:,}",
        certificate["unit"],
        f"of split '{certificate['split']}'",
    )
    each = re.search(r" per (class|context)", certificate["claim"])
    rows = f"the {unit} {split}, {n} or more per {each[1]}" if each else f"the {n} {unit} {split}"
    return f"{sure}: {certificate['claim']} on requests like {rows}{level} ({told}). Void: {certificate['void']}."


def comment(policy: Any) -> str:
    """Return what an export says of a policy's certificate, on one line of plain letters; nothing without one."""
    found = certificate_of(policy)
    said = "" if found is None else f"Certified {in_words(found)} Of cache {found['cache'][:12]}."
    return re.sub(r"[^\w .,:;<=>%'()\[\]-]", "?", said, flags=re.ASCII)


def says(found: dict[str, Any], claim: str, confidence: float, by_request: bool = False) -> bool:
    """Whether a certificate says as much as a claim; `by_request`: of levels that are chosen by the request itself."""
    of, most = _read(claim)
    known = map(_read, found["claim"].split(" and "))
    as_much = any(name == of and number <= most * (1 + 1e-9) for name, number in known)
    by = (found["covers"] == "request" or not by_request) and found["sense"] != "asymptotic"
    return as_much and by and (found["confidence"] or 0.0) >= confidence - 1e-9


def _read(claim: str) -> tuple[Any, float]:
    """Return what a claim is of, and its number."""
    parts = _CLAIM.fullmatch(claim.strip()) if isinstance(claim, str) else None
    if parts is None:
        raise input_error("certified", "RISK<=NUMBER[%]", claim, 'E.g. "drop<=1%".')
    name, number, percent, cells = parts.groups()
    share = bool(percent)
    return (name, cells.split(), share and name == "cost"), float(number) / (100 if share else 1)
