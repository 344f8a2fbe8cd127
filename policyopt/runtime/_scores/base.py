"""What every score rule is: a pure step from one exit's output and a state to one number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._errors import PolicyOptError, input_error
from .._outputs import ExitOutput
from .._parameters import Rule
from .._typing import Floats, State

#: What a score may declare: see `ExitOutput`.
COLUMNS = frozenset({"margin", "entropy", "log_prob", "features"})


class ScoreRule(Rule, ABC):
    """One number per sample and exit; higher = readier to exit.

    A subclass names itself, declares its fields (`policyopt.runtime.array`, ...: they are its parameters
    and stand in the policy's file) and computes `score`. It sees exit k and the state left by exits
    0..k-1, nothing else: a rule cannot peek. Of exit k it is shown prediction and confidence, and of
    `COLUMNS` those that it `required_columns`. One that does not look at predictions may say so,
    ``reads_predictions = False``: then summaries need none.

    Examples
    --------
    >>> class Certainty(ScoreRule):
    ...     name = "certainty"
    ...     required_columns = frozenset({"entropy"})
    ...
    ...     def score(self, k, output, state):
    ...         return -output.entropy, state
    >>> Certainty()
    Certainty()
    """

    role = "score"
    #: Columns of `ExitOutput` that the rule reads beyond prediction and confidence. "log_prob" gives
    #: margin and entropy, too; summaries have it not.
    required_columns: ClassVar[frozenset[str]] = frozenset()
    #: Whether the score looks at predictions; summaries of new rows may lack them where it does not.
    reads_predictions: ClassVar[bool] = True
    #: Whether the score ends at 1 and ``1 - score`` is known as exactly as itself, like a probability: then
    #: 1 - 1e-9 and 1 - 1e-8 are two scores, not one.
    exact_at_one: ClassVar[bool] = False
    #: Where papers leave *below* a threshold on something else: what, and how the score is made of it.
    #: Thresholds that are given or shown are then told in both, see `below_of`. "": on nothing else.
    below: ClassVar[tuple[str, str] | None] = None
    #: Whether the package brings it: what others bring is looked after when it runs.
    ours: ClassVar[bool] = False

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        cls.ours = cls.__module__.startswith(__name__.rpartition(".")[0])
        given = cls.__dict__.get("required_columns", frozenset())
        if isinstance(given, (set, tuple, list)):
            given = cls.required_columns = frozenset(given)
        if not isinstance(given, property):  # of which the instance tells
            _check_columns(cls, given)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_columns(type(self), self.required_columns)

    @property
    def reads_features(self) -> bool:
        """Whether it looks at the model's own feature vectors."""
        return "features" in self.required_columns

    @abstractmethod
    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the scores (n,) at exit k, and the new state."""

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        """Return the state before exit 0, for samples numbered `samples`, (n,)."""
        return ()

    def operations(self, k: int, classes: int) -> float:
        """Return the multiply-adds that the score spends at exit k, beyond softmax and entropy."""
        return 0.0

    def below_of(self, threshold: float) -> float:
        """Return a threshold as papers give it, where they leave `below`."""
        return 1.0 - threshold


def _check_columns(cls: type, given: Any) -> None:
    """Refuse what is no set of `COLUMNS`."""
    if not isinstance(given, frozenset) or not given <= COLUMNS:
        allowed = f"of {', '.join(sorted(COLUMNS))}"
        step = 'E.g. required_columns = frozenset({"margin"}).'
        raise input_error(f"required_columns of {cls.__name__}", allowed, given, step)


def score_table(
    rule: ScoreRule, outputs: list[ExitOutput], samples: npt.NDArray[np.int64] | None = None
) -> Floats:
    """Score all K exits of n samples (numbered 0..n-1 unless said), (n, K), as serving would."""
    n = len(outputs[0])
    state = rule.start(np.arange(n) if samples is None else samples)
    _check(rule, "start", (np.zeros(n), state), n, "")
    table = np.empty((n, len(outputs)), order="F")  # solvers read it exit by exit
    for k, output in enumerate(outputs):
        table[:, k], state = scored(rule, k, output, state)
    return table


def scored(rule: ScoreRule, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
    """Return a rule's scores (n,) at exit k and its new state, after a look at what a rule not ours gives."""
    shown = output.shown_to(rule.required_columns, sealed=not rule.ours)
    if rule.ours:
        return rule.score(k, shown, state)
    try:
        found = rule.score(k, shown, state)
    except PolicyOptError:
        raise
    except Exception as error:  # somebody else's code: whatever it raises
        got, step = f"{type(error).__name__}: {error}", "Mend it; po.check_score finds such faults."
        raise input_error(f"{type(rule).__name__}.score", "run", got, step) from error
    n = len(output)
    _check(rule, "score", found, n, f"an array of {n} scores, and ")
    score, state = np.asarray(found[0], dtype=np.float64), found[1]
    if np.isnan(score).any():
        got = f"NaN at exit {k} in row {int(np.isnan(score).argmax())}"
        step = "log_prob is -inf where a class cannot be: -inf * 0 is NaN."
        raise input_error(f"what {type(rule).__name__}.score returns", "numbers", got, step)
    return score, state


def _check(rule: ScoreRule, method: str, found: Any, n: int, scores: str) -> None:
    """Refuse what a rule of somebody's own gives unless it is scores (n,) and a state of n samples."""
    pair = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], (tuple, list))
    parts: list[Any] = [found[0], *found[1]] if pair else [found]
    known = [
        type(part) is np.ndarray and part.shape[:1] == (n,)
        and part.dtype.kind in "biuf" and part.itemsize <= 8
        for part in parts
    ]  # fmt: skip
    if pair and all(known) and parts[0].ndim == 1:
        return
    got = [f"{p.dtype} {p.shape}" if isinstance(p, np.ndarray) else type(p).__name__ for p in parts]
    step = "E.g. return output.confidence, state; what it keeps has the samples on the first axis."
    allowed = f"{scores}a state: a tuple of arrays of at most 64 bits, each of {n} rows"
    raise input_error(f"what {type(rule).__name__}.{method} returns", allowed, ", ".join(got), step)
