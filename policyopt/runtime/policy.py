"""`Policy`: score rule + thresholds, frozen. The only code that decides.

Evaluation replays `Policy.decide`; deployment calls `Policy.step`. Both compare the same
float64 scores with the same thresholds: exit at the first k with ``score >= threshold``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .coin import coin
from .decision import Decision, Decisions, Mixture, State
from .errors import bad
from .output import ExitOutput, as_array, reduce_exit
from .scores import ScoreRule, score_table

Floats = npt.NDArray[np.float64]
#: Thresholds that no score reaches and that every score reaches: finite, so that JSON, C and
#: float32 runtimes hold them (EENet's Algorithm 1 writes +-1e8 for the same purpose).
NEVER = 1e30
ALWAYS = -1e30
_CHUNK = 8192


@dataclass(frozen=True, eq=False)
class Policy:
    """A frozen exit policy: numpy only, ready to deploy.

    Parameters
    ----------
    rule : ScoreRule
        Gives one score per exit.
    thresholds : array of shape (K-1,)
        Exit at the first k with ``score >= thresholds[k]``; the last exit always stops.
    costs : array of shape (K,)
        Mean cumulative cost per exit, in `unit`.
    unit : str
    kind : {"logits", "probabilities", "record"}
        What `step` and `decide` are given.
    classes : int
        C (0 where records do not say).
    mixture : Mixture, optional
        A second set of thresholds for a share of the samples.
    provenance : mapping
        How the policy was found; JSON-able, not used to decide.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> state = policy.start()
    >>> decision = policy.step(0, [0.9, 0.1], state)
    >>> decision.exit, decision.prediction, round(decision.score, 6)
    (True, 0, 0.9)
    """

    rule: ScoreRule
    thresholds: Floats
    costs: Floats
    unit: str
    kind: str
    classes: int
    mixture: Mixture | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("thresholds", "costs"):
            array = np.array(getattr(self, name), dtype=np.float64)
            if array.ndim != 1 or not np.isfinite(array).all():
                raise bad(name, "a list of finite numbers", array.tolist(), "Check the policy.")
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        if (self.costs < 0).any() or (np.diff(self.costs) < 0).any():
            raise bad(
                "costs", "0 or more and not decreasing", self.costs.tolist(), "They are cumulative."
            )
        sets = [self.thresholds]
        if self.mixture is not None:
            share, other = self.mixture.share, np.asarray(self.mixture.thresholds, dtype=np.float64)
            if not 0 <= share <= 1 or not np.isfinite(other).all():
                raise bad(
                    "mixture", "finite thresholds and a share in [0, 1]",
                    f"share {share}, thresholds {other.tolist()}", "Check the policy.",
                )  # fmt: skip
            sets.append(other)
        for thresholds in sets:
            if len(thresholds) != len(self.costs) - 1:
                raise bad(
                    "thresholds",
                    f"one per exit but the last: {len(self.costs) - 1}",
                    f"{len(thresholds)}",
                    "The last exit always stops.",
                )

    @property
    def exits(self) -> int:
        """K."""
        return len(self.costs)

    def start(self, samples: int | npt.ArrayLike = 0) -> State:
        """Begin one sample, or several side by side.

        Parameters
        ----------
        samples : int or array of shape (n,), int
            The sample's number (e.g. a request counter). Only a policy that mixes or draws
            looks at it; the same number gives the same decisions in every runtime.

        Returns
        -------
        State
        """
        numbers = np.atleast_1d(np.asarray(samples, dtype=np.int64))
        return State(self.rule.start(numbers), self._arm(numbers), np.ndim(samples) == 0)

    def step(self, k: int, output: object, state: State) -> Decision:
        """Decide at exit k.

        Parameters
        ----------
        k : int
            0, 1, ... in turn.
        output : array of shape (C,) for one sample, (n, C) for several; mapping for records
            What exit k gave, of the policy's `kind`; numpy or torch.
        state : State
            From `start`; advanced in place.

        Returns
        -------
        Decision

        Raises
        ------
        InputError
            Exits out of turn, wrong shape, NaN or infinity.
        """
        if k != state.next_exit or not 0 <= k < self.exits:
            raise bad(
                "k",
                f"the next exit, {state.next_exit} of 0..{self.exits - 1}",
                k,
                "One state per sample.",
            )
        if self.kind != "record" and not isinstance(output, ExitOutput):
            output = as_array(output)
            output = np.atleast_2d(output) if state.scalar else output
        reduced = reduce_exit(output, self.kind, self.classes, name=f"output of exit {k}")
        if len(reduced) != len(state.arm):
            raise bad(
                "output",
                f"one row per sample: {len(state.arm)}",
                f"{len(reduced)} rows",
                "See State.keep.",
            )
        self._check_needs(reduced, k)
        score, state.rule_state = self.rule.score(k, reduced, state.rule_state)
        state.next_exit = k + 1
        stop = (
            score >= self._thresholds(state.arm)[:, k]
            if k < self.exits - 1
            else np.ones(len(score), bool)
        )
        if state.scalar:
            return Decision(
                bool(stop[0]), int(reduced.prediction[0]), float(score[0]), output, self.kind
            )
        return Decision(stop, reduced.prediction, score, output, self.kind)

    def decide(self, outputs: object, samples: npt.ArrayLike | None = None) -> Decisions:
        """Decide for many samples whose outputs are all known.

        Parameters
        ----------
        outputs : array of shape (N, K, C), or sequence of K outputs of one exit each
            Of the policy's `kind`; each entry (N, C), a record mapping, or an `ExitOutput`.
        samples : array of shape (N,), int, optional
            Their numbers; default 0..N-1.

        Returns
        -------
        Decisions

        Raises
        ------
        InputError
            Wrong number of exits, shape, NaN or infinity.

        Examples
        --------
        >>> from policyopt.runtime.scores import MaxProb
        >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
        >>> policy.decide(np.array([[[0.9, 0.1], [1, 0]], [[0.6, 0.4], [0, 1]]])).exit
        array([0, 1])
        """
        reduced = self._reduce(outputs)
        n = len(reduced[0])
        for k, output in enumerate(reduced):
            self._check_needs(output, k)
            if len(output) != n:
                raise bad(f"output of exit {k}", f"{n} rows, as exit 0 has", len(output), "")
        numbers = np.arange(n) if samples is None else np.asarray(samples, dtype=np.int64)
        if numbers.shape != (n,):
            raise bad("samples", f"one number per sample: {n}", f"shape {numbers.shape}", "")
        exits = self.exits_of(score_table(self.rule, reduced, numbers), numbers)
        predictions = np.stack([output.prediction for output in reduced], axis=1)
        return Decisions(exits, predictions[np.arange(n), exits], self.costs[exits])

    def exits_of(self, scores: Floats, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the exit each sample takes, (n,), given all its scores, (n, K)."""
        if self.mixture is None:
            return first_exit(scores, self.thresholds)
        return first_exit(scores, self._thresholds(self._arm(samples)))

    def save(self, path: Any) -> None:
        """Write the artifact (JSON); see `policyopt.runtime.artifact`."""
        from .artifact import save_policy

        save_policy(self, path)

    def _check_needs(self, output: ExitOutput, k: int) -> None:
        if self.kind == "record":
            for name in self.rule.needs:
                if np.isnan(getattr(output, name)).any():
                    raise bad(
                        f"record of exit {k}", f"such that {name} is known", "rows without",
                        f"The policy's score reads it; see score '{self.rule.name}'.",
                    )  # fmt: skip

    def _arm(self, samples: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        if self.mixture is None:
            return np.zeros(len(samples), dtype=bool)
        return coin(self.mixture.seed, samples) < self.mixture.share

    def _thresholds(self, arm: npt.NDArray[np.bool_]) -> Floats:
        if self.mixture is None:
            return np.broadcast_to(self.thresholds, (len(arm), len(self.thresholds)))
        return np.where(arm[:, None], self.mixture.thresholds, self.thresholds)

    def _reduce(self, outputs: Any) -> list[ExitOutput]:
        if isinstance(outputs, Mapping):
            raise bad("outputs", "one entry per exit", "a mapping", "Pass a list of K records.")
        is_array = hasattr(outputs, "ndim")
        count = (outputs.shape[1] if outputs.ndim == 3 else -1) if is_array else len(outputs)
        if count != self.exits:
            came = f"shape {tuple(outputs.shape)}" if is_array else f"{count} entries"
            raise bad(
                "outputs",
                f"of shape (N, {self.exits}, {self.classes}), or a sequence of {self.exits} exits",
                came,
                "",
            )
        if not is_array:
            return [
                reduce_exit(o, self.kind, self.classes, f"output of exit {k}")
                for k, o in enumerate(outputs)
            ]
        array = as_array(outputs)
        return [
            concatenate(
                [
                    reduce_exit(
                        array[low : low + _CHUNK, k], self.kind, self.classes, f"output of exit {k}"
                    )
                    for low in range(0, max(len(array), 1), _CHUNK)
                ]
            )
            for k in range(self.exits)
        ]


def concatenate(parts: Sequence[ExitOutput]) -> ExitOutput:
    """Return the rows of several `ExitOutput` as one."""
    if len(parts) == 1:
        return parts[0]
    names = ("prediction", "top_prob", "top_class", "entropy", "log_sum_exp")
    return ExitOutput(*(np.concatenate([getattr(p, name) for p in parts]) for name in names))


def first_exit(scores: Floats, thresholds: Floats) -> npt.NDArray[np.int64]:
    """Return the first exit whose score reaches its threshold; the last where none does.

    Parameters
    ----------
    scores : ndarray of shape (n, K)
    thresholds : ndarray of shape (K-1,) or (n, K-1)

    Returns
    -------
    ndarray of shape (n,), int64

    Examples
    --------
    >>> first_exit(np.array([[0.9, 0.1], [0.5, 0.1]]), np.array([0.8]))
    array([0, 1])
    """
    n, exits = scores.shape
    taken = np.zeros(n, dtype=np.int64)
    onward = np.ones(n, dtype=bool)
    for k in range(exits - 1):
        onward &= ~(scores[:, k] >= thresholds[..., k])
        taken += onward
    return taken
