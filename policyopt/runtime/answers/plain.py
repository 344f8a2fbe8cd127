"""The exit's own class probabilities."""

from __future__ import annotations

from dataclasses import dataclass

from .base import AnswerRule, Logits, State


@dataclass(frozen=True)
class Plain(AnswerRule):
    """What exit k says, unchanged."""

    name = "plain"

    def answer(self, k: int, logits: Logits, state: State) -> tuple[Logits, State]:
        """Return the exit's own logits."""
        del k
        return logits, state
