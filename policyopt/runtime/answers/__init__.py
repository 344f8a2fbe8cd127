"""Answer rules: one file each. They run at every exit, so they live here and need numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import input_error
from .base import AnswerRule, Logits, State
from .combined import Combined
from .plain import Plain
from .temperature import Temperature
from .vector import Vector

ANSWERS: dict[str, type[AnswerRule]] = {
    rule.name: rule for rule in (Plain, Combined, Temperature, Vector)
}


def make_answer(name: str, params: Mapping[str, Any]) -> AnswerRule:
    """Build an answer rule from its name and parameters, as an artifact holds them.

    Examples
    --------
    >>> make_answer("plain", {})
    Plain()
    """
    if not isinstance(name, str) or name not in ANSWERS:
        raise input_error(
            "answer", f"one of {', '.join(ANSWERS)}", name, "A newer policyopt may know it."
        )
    try:
        if not isinstance(params, Mapping):
            raise TypeError("parameters are a mapping")
        return ANSWERS[name](**params)
    except TypeError as error:
        raise input_error(
            f"parameters of answer {name}", "those it declares", params, str(error)
        ) from error


__all__ = [
    "ANSWERS",
    "AnswerRule",
    "Combined",
    "Logits",
    "Plain",
    "State",
    "Temperature",
    "Vector",
    "make_answer",
]
