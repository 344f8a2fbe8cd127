"""Thresholds: the two that are words, and all of them as people read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import floor, log10
from typing import Any

#: Thresholds that no score reaches and that every score reaches: finite, so that JSON, C and
#: float32 runtimes hold them (EENet's Algorithm 1 writes +-1e8 for the same purpose).
NEVER = 1e30
ALWAYS = -1e30


def threshold_text(threshold: float) -> str:
    """Return a threshold for people: always, never, or four digits; more near 1, fewer near 0."""
    if threshold >= NEVER or threshold <= ALWAYS:
        return "never" if threshold > 0 else "always"
    if 0 < (near := abs(1 - threshold)) < 1e-3:
        return f"{threshold:.{1 - floor(log10(near))}f}"
    if 0 < abs(threshold) < 1e-3 or abs(threshold) >= 1e5:
        return f"{threshold:.3g}"
    return f"{threshold:.4f}"


def list_text(thresholds: Iterable[float]) -> str:
    """Return one set of thresholds, exit 0 on; a dash where there are none."""
    return " ".join(map(threshold_text, thresholds)) or "-"


def thresholds_text(record: Mapping[str, Any]) -> str:
    """Return the thresholds of a record, or of its two sets, for people."""
    mixture = record.get("mixture")
    sets = mixture["thresholds"] if mixture else [record["thresholds"]]
    between = f" or, for {100 * mixture['share']:.1f} %, " if mixture else ""
    return between.join(map(list_text, sets))


def scale_text(policy: Any) -> str | None:
    """Return how thresholds are to be read where the score's scale is not plain, or papers have another; else None."""
    rule = getattr(policy, "rule", None)
    if rule is None or rule.below is None:
        return None
    what, form = rule.below
    told = f"score {rule.name} is {form}: leave at or above the threshold"
    if not what:
        return told
    sets = [policy.thresholds, *([policy.mixture.thresholds] if policy.mixture else [])]
    theirs = [[t if abs(t) >= NEVER else rule.below_of(t) for t in one] for one in sets]
    return f"{told}. Papers leave below, in {what}: {' or '.join(map(list_text, theirs))}"
