"""Confidence rules: one file each. They run at every exit, so they live here and need numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import input_error
from .base import ConfidenceRule
from .beta import Beta
from .histogram import Histogram
from .isotonic import Isotonic
from .platt import Platt

CONFIDENCES: dict[str, type[ConfidenceRule]] = {
    rule.name: rule for rule in (Platt, Beta, Isotonic, Histogram)
}


def make_confidence(name: str, params: Mapping[str, Any]) -> ConfidenceRule:
    """Build a confidence rule from its name and parameters, as an artifact holds them.

    Parameters
    ----------
    name : {"platt", "beta", "isotonic", "histogram"}
    params : mapping

    Returns
    -------
    ConfidenceRule

    Raises
    ------
    InputError
        Unknown name, or parameters that the rule does not take.

    Examples
    --------
    >>> make_confidence("platt", {"slope": [1.0], "offset": [0.5]}).params()
    {'slope': [1.0], 'offset': [0.5]}
    """
    if not isinstance(name, str) or name not in CONFIDENCES:
        known = ", ".join(CONFIDENCES)
        raise input_error("confidence", f"one of {known}", name, "A newer policyopt may know it.")
    try:
        return CONFIDENCES[name](**params)
    except TypeError as error:
        raise input_error(
            f"parameters of confidence {name}", "those it declares", params, str(error)
        ) from error


__all__ = [
    "CONFIDENCES", "Beta", "ConfidenceRule", "Histogram", "Isotonic", "Platt", "make_confidence",
]  # fmt: skip
