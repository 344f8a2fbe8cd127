"""What a decision is made of: the next exit on the path, its output scored, the thresholds that hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .coin import coin
from .decision import State
from .errors import input_error
from .observe import Observer
from .output import ExitOutput, with_columns
from .reading import read_vectors
from .typing import Floats

if TYPE_CHECKING:
    from .policy import Policy


def observer_of(policy: Policy) -> Observer:
    """Return how a policy looks at outputs: at what its score rules say they read, and no more."""
    full = "log_prob" in policy.needs  # no record serves such rules: they may read the rest too
    top = 2 if full or "margin" in policy.needs else 1
    entropy = full or "entropy" in policy.needs
    return Observer(policy.answer, policy.kind, policy.classes, full, top, entropy)


def position(policy: Policy, k: int, state: State) -> int:
    """Return where on the path the model's exit k stands; refused where it is not the next one."""
    path, at = policy.path, state.position
    if at >= policy.exits or k != path[at]:
        due = "none: the sample was at the last one" if at >= policy.exits else f"{path[at]}"
        shown = f"0..{policy.exits - 1}" if policy.kept is None else ", ".join(map(str, path))
        raise input_error("k", f"the next exit, {due}, of {shown}", k, "One state per sample.")
    return at


def advance(
    policy: Policy, at: int, output: Any, state: State, features: Any
) -> tuple[ExitOutput, Floats, Any]:
    """Look at the output of an exit and score it; the state moves on.

    Parameters
    ----------
    policy : Policy
    at : int
        The exit's position on the path.
    output, features : object
        What the exit gave for the state's n samples.
    state : State

    Returns
    -------
    ExitOutput
        The reduced answer.
    ndarray of shape (n,), float64
        Its scores.
    ndarray of shape (n, C), or None
        The answer's logits; None for records.
    """
    k, samples = policy.path[at], len(state.arm)
    reduced, answer, answer_state = policy.observer.look(
        at, output, state.answer_state, samples, f"output of exit {k}"
    )
    if policy.needs_features and (features is not None or reduced.features is None):
        vectors = read_vectors(k, features, samples, state.scalar)
        reduced = with_columns(reduced, features=vectors)
    if policy.kind == "record":
        _check_columns(policy, reduced, k)
    scores, states = [], []
    for rule, before in zip(policy.rules, state.rule_states, strict=True):
        score, after = rule.score(at, reduced, before)
        scores.append(score)
        states.append(after)
    state.answer_state, state.rule_states = answer_state, tuple(states)
    score = scores[0] if len(scores) == 1 else np.where(state.arm, scores[1], scores[0])
    return reduced, score, answer


def arms(policy: Policy, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which of the samples go by the second set of a mixture, (n,)."""
    if policy.mixture is None:
        return np.zeros(len(samples), dtype=bool)
    return coin(policy.mixture.seed, samples) < policy.mixture.share


def thresholds_of(policy: Policy, arm: npt.NDArray[np.bool_]) -> Floats:
    """Return the thresholds that hold for each sample, (n, K-1)."""
    if policy.mixture is None:
        return np.broadcast_to(policy.thresholds, (len(arm), len(policy.thresholds)))
    return np.where(arm[:, None], policy.mixture.thresholds, policy.thresholds)


def leaves(policy: Policy, at: int, score: Floats, state: State) -> npt.NDArray[np.bool_]:
    """Return which samples leave at a position on the path, (n,)."""
    if at == policy.exits - 1:
        return np.ones(len(score), dtype=bool)
    # Slices, for numpy 1 would compare with a single number at the width of the scores.
    threshold = policy.thresholds[at : at + 1]
    if policy.mixture is not None:
        threshold = np.where(state.arm, policy.mixture.thresholds[at : at + 1], threshold)
    return score >= threshold


def _check_columns(policy: Policy, output: ExitOutput, k: int) -> None:
    """Refuse records that lack a column which a score reads."""
    for name in policy.needs - {"features"}:
        column = getattr(output, name)
        if column is None or np.isnan(column).any():
            raise input_error(
                f"record of exit {k}", f"such that {name} is known", "rows without",
                f"The policy's score reads it; see score '{policy.rule.name}'.",
            )  # fmt: skip
