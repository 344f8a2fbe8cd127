"""Who steers an `Online`: by name, and whether ladder and settings are such as they look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..bandits import BANDITS, Bandit, make_bandit
from ..bandits.parts.reveal import REVEALS
from ..errors import InputError, input_error
from .by_exit import RULES, ByExit
from .controller import Controller
from .ladder import Ladder
from .linucb import LinUCB
from .rewards import REWARDS

KINDS = (Bandit, Controller, *RULES.values())


def steering_of(name: Any, settings: Any) -> Bandit | Controller | ByExit:
    """Return who steers, by name, as a file holds it."""
    if not isinstance(settings, Mapping):
        raise input_error("settings of the steering", "a mapping", settings, "Save it again.")
    others = {Controller.name: Controller, **RULES}
    if name in BANDITS:
        return make_bandit(name, settings)
    if name not in others:
        raise InputError(f"'{name}' steers nothing that this version knows.")
    try:
        return others[name](**settings)
    except TypeError as error:
        raise input_error(
            f"settings of {name}", "those it has", settings, "Save it again."
        ) from error


def check_fit(ladder: Ladder, steering: Any, reward: str, reveal: str) -> None:
    """Refuse a ladder that this steering cannot move along, and settings that it would not look at.

    Raises
    ------
    InputError
    """
    for name, value, known in (("reward", reward, REWARDS), ("reveal", reveal, REVEALS)):
        if value not in known:
            raise input_error(name, f"one of {', '.join(known)}", value, f"E.g. {known[0]}.")
    who = steering.name
    if reward == "calibrated" and ladder.policy.confidence is None:
        raise input_error(
            "reward", "confidence, signed or label for a policy without a confidence map",
            reward, "Fit with --confidence platt.",
        )  # fmt: skip
    if reward == "label" and not isinstance(steering, (Bandit, LinUCB)):
        raise input_error("reward", f"label-free for {who}", reward, "It learns from no labels.")
    if not isinstance(steering, Bandit) and reveal != "smaller":
        raise input_error("reveal", f"left out for {who}", reveal, "Bandits look at it.")
    if isinstance(steering, ByExit):
        for name in ("layers", "costs"):
            prices = getattr(steering, name, None)
            if prices is not None and len(prices) != ladder.policy.exits:
                allowed = f"one per exit of the policy: {ladder.policy.exits}"
                raise input_error(name, allowed, len(prices), "In its order.")
        if ladder.arms > 1:
            got = f"a ladder of {ladder.arms} rungs"
            raise input_error("ladder", f"a policy, for {who}", got, "It looks at no rungs.")
    elif ladder.arms < 2:
        step = "policyopt.online.ladders.family_ladder(...) makes one."
        raise input_error("ladder", f"of at least 2 rungs, for {who}", ladder.arms, step)
    if isinstance(steering, Controller):
        steering.check_ladder(ladder)
    if isinstance(steering, Bandit):
        if reveal == "all" and not steering.draws:
            raise input_error(
                "reveal", "smaller or played for bandits that draw nothing", reveal,
                "Rewards of larger arms are known for hard inputs only: exp3 weighs them.",
            )  # fmt: skip
        check_nested(reveal, ladder.nested)


def check_nested(reveal: str, nested: bool) -> None:
    """Refuse side information where rungs do not nest."""
    if reveal != "played" and not nested:
        raise input_error(
            "reveal", "played for a ladder whose rungs do not nest", reveal,
            "A larger rung that leaves earlier shows the smaller one for some inputs only.",
        )  # fmt: skip


def refuse_given(who: str, **given: Any) -> None:
    """Refuse feedback that nobody would look at."""
    for name, value in given.items():
        if value is not None:
            raise input_error(name, f"left out for {who}", value, "It is not looked at.")
