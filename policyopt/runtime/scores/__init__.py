"""Score rules: one file each. A rule decides at run time, so it lives here and needs numpy only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import bad
from .advantage import Advantage
from .base import ScoreRule, State, score_table
from .constant import Constant
from .eenet import Eenet
from .eenet_released import EenetReleased
from .entropy import Entropy
from .margin import Margin
from .max_prob import MaxProb
from .patience import Patience
from .random import Random
from .vote import Vote

RULES: dict[str, type[ScoreRule]] = {
    rule.name: rule
    for rule in (
        MaxProb, Entropy, Margin, Vote, Patience, Random, Constant, Eenet, EenetReleased,
        Advantage,
    )
}  # fmt: skip


def make_rule(name: str, params: Mapping[str, Any]) -> ScoreRule:
    """Build a rule from its name and parameters, as an artifact holds them.

    Examples
    --------
    >>> make_rule("entropy", {"classes": 10})
    Entropy(classes=10)
    """
    if not isinstance(name, str) or name not in RULES:
        raise bad("score", f"one of {', '.join(RULES)}", name, "A newer policyopt may know it.")
    try:
        if not isinstance(params, Mapping):
            raise TypeError("parameters are a mapping")
        for key, value in params.items():
            if key in RULES[name].arrays:
                continue  # checked by the rule itself
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{value!r} is not a number")
        return RULES[name](**params)
    except TypeError as error:
        raise bad(f"parameters of score {name}", "those it declares", params, str(error)) from error


__all__ = [
    "RULES", "Advantage", "Constant", "Eenet", "EenetReleased", "Entropy", "Margin", "MaxProb", "Patience",
    "Random", "ScoreRule", "State", "Vote", "make_rule", "score_table",
]  # fmt: skip
