"""History features, and the scores that are functions of them: what exits 0..k say, as a few numbers per sample.

Features that look back are 0 at exit 0. Source: the set of `optimal_stopping`'s first sketch, thinned to what
cross-validation could tell from noise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._arithmetic import row_product, sigmoid
from .._errors import input_error
from .._outputs import ExitOutput
from .._parameters import Rule, array, choice, number
from .._typing import Floats
from .base import ScoreRule, State

_TINY = 1e-9  # of a probability: saturated exits differ below float32's resolution, by chance
_LOWEST = -20.0
_NOTHING: Any = None
#: Standardised features are cut here: what lies further out was hardly seen when fitting.
CLIP = 4.0
#: What a regression looks at: what exits say, the model's own vectors (hidden states), or both.
INPUTS = ("history", "features", "both")


class History(ABC):
    """A set of features; `step` sees exit k and what exits before it left."""

    width: ClassVar[int]
    required_columns: ClassVar[frozenset[str]]
    #: Squares of all features, and products of the first few, join the basis.
    squares: ClassVar[bool]
    products: ClassVar[int]

    @abstractmethod
    def start(self, samples: int) -> State:
        """Return the state before exit 0."""

    @abstractmethod
    def step(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the features at exit k, (n, width), and the new state."""


class Distribution(History):
    """Of whole distributions: how peaked the answer is, and how exits before saw its class.

    0 log ratio of the two largest probabilities, 1 their difference, 2 log odds of the largest,
    3 log(difference + 0.05), 4 entropy, 5 share of earlier exits that agree, 6 whether the last
    one does, 7 log-probability it gave to the present class, 8 mean probability of that class
    over earlier exits.
    """

    width = 9
    required_columns = frozenset({"log_prob", "margin", "entropy"})
    squares = True
    products = 5

    def start(self, samples: int) -> State:
        return np.empty((samples, 0, 0), dtype=np.float32), np.empty((samples, 0), dtype=np.int32)

    def step(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        log_prob = output.log_prob
        assert log_prob is not None  # the policy refuses summaries for rules that need it
        first, second = np.maximum(output.top_prob[:, 0], _TINY), np.full(len(output), _TINY)
        if output.top_prob.shape[1] > 1:
            second = np.maximum(output.top_prob[:, 1], _TINY)
        columns = [
            np.log(first / second),
            first - second,
            np.log(first / np.maximum(1.0 - first, _TINY)),
            np.log(first - second + 0.05),
            output.entropy,
        ]
        if k == 0:
            columns += [np.zeros(len(output))] * 4
            return np.stack(columns, axis=1), (log_prob[:, None], output.prediction[:, None])
        past, predictions = state
        here = np.arange(len(output))
        # Contiguous, so that sums over exits run in the same order for one row as for many.
        chosen = past[here, :, output.prediction].astype(np.float64, order="C")
        agree = predictions == output.prediction[:, None]
        columns += [
            agree.sum(axis=1) / k,
            agree[:, -1],
            np.maximum(chosen[:, -1], _LOWEST),
            np.exp(chosen).sum(axis=1) / k,
        ]
        return np.stack(columns, axis=1), (
            np.concatenate([past, log_prob[:, None]], axis=1),
            np.concatenate([predictions, output.prediction[:, None]], axis=1),
        )


class Summary(History):
    """Of predictions and confidences: the same questions, as far as summaries answer them.

    0 log odds of the confidence, 1 confidence, 2 -log(1 - confidence), 3 share of earlier exits
    that agree, 4 whether the last one does, 5 mean over earlier exits of the confidence of those
    that agree, 6 log odds of the last one's confidence, negative where it does not agree.
    """

    width = 7
    required_columns = frozenset()
    squares = False
    products = 0

    def start(self, samples: int) -> State:
        return np.empty((samples, 0), dtype=np.int32), np.empty((samples, 0))

    def step(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        predictions, confidences = state
        sure = output.confidence
        columns = [_log_odds(sure), sure, -np.log(np.clip(1.0 - sure, _EDGE, 1.0))]
        if k == 0:
            columns += [np.zeros(len(output))] * 4
        else:
            # An exit without an answer agrees with none.
            agree = (predictions == output.prediction[:, None]) & (output.prediction >= 0)[:, None]
            odds = _log_odds(confidences[:, -1])
            columns += [
                agree.sum(axis=1) / k,
                agree[:, -1],
                (agree * confidences).sum(axis=1) / k,
                np.where(agree[:, -1], odds, -odds),
            ]
        return np.stack(columns, axis=1), (
            np.concatenate([predictions, output.prediction[:, None]], axis=1),
            np.concatenate([confidences, sure[:, None]], axis=1),
        )


FEATURES: dict[str, History] = {"distribution": Distribution(), "summary": Summary()}
_EDGE = 1e-4


def _log_odds(p: Floats) -> Floats:
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return np.log(p / (1 - p))


def basis_size(name: str) -> int:
    """Return M, the number of basis columns of a set of features."""
    history = FEATURES[name]
    return history.width * (1 + history.squares) + history.products * (history.products - 1) // 2


def basis(values: Floats, center: Floats, scale: Floats, name: str) -> Floats:
    """Return standardised features (n, F), their squares and products of the first few, (n, M); center, scale (F,)."""
    history = FEATURES[name]
    unit = np.clip((values - center) / scale, -CLIP, CLIP)
    columns = [unit]
    if history.squares:
        columns.append(unit * unit)
    count = history.products
    columns.extend(unit[:, i : i + 1] * unit[:, i + 1 : count] for i in range(count))
    return np.concatenate(columns, axis=1)


def hidden(features: Any, projection: Floats, shift: Floats, exit: int) -> Floats:
    """Return a few standardised numbers of the model's own vectors (n, D), (n, V); projection (V, D), shift (V,)."""
    if features.shape[1] != projection.shape[1]:
        allowed = f"{projection.shape[1]} numbers, as in the fit"
        step = "The policy belongs to another model."
        raise input_error(f"features of exit {exit}", allowed, features.shape[1], step)
    return np.clip(row_product(features.astype(np.float64), projection) - shift, -CLIP, CLIP)


class Hidden(Rule):
    """How the model's own vectors become V standardised numbers at each exit but the last: see `hidden`."""

    role, name = "setting", "hidden"
    projection: Any = array("V", "D", each="K-1")
    shift: Any = array("K-1", "V")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_hidden(self)

    def columns(self, vectors: list[Any]) -> list[Floats]:
        """Return the numbers of some rows' vectors, K-1 x (N, V)."""
        each = zip(vectors, self.projection, self.shift, strict=True)
        return [hidden(rows, own, shift, k) for k, (rows, own, shift) in enumerate(each)]


class HistoryRule(ScoreRule):
    """A rule that reads history features, standardised exit by exit but the last: (K-1, F) each.

    With a `projection` (V, D_k) per exit and a `shift` (K-1, V) also the model's own vectors: V numbers of each
    follow the history's in the basis (`hidden`).
    """

    # Subclasses declare them last, where they may be left out.
    projection = shift = _NOTHING

    features: str = choice(*FEATURES)
    center: Any = array("K-1", "F")
    scale: Any = array("K-1", "F", over=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _wide("center", self, FEATURES[self.features].width)

    @property
    def required_columns(self) -> frozenset[str]:  # type: ignore[override]
        own = FEATURES[self.features].required_columns
        return own if self.projection is None else own | {"features"}

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        return FEATURES[self.features].start(len(samples))

    @property
    @abstractmethod
    def products(self) -> float:
        """Products of the basis and weights of one exit but the last."""

    @property
    def size(self) -> int:
        """M, the numbers of the basis at one exit."""
        return basis_size(self.features) + (0 if self.shift is None else self.shift.shape[1])

    def operations(self, k: int, classes: int) -> float:
        """Weights and products of the basis; logarithms of all probabilities, where they are read."""
        logs = float(classes) if "log_prob" in self.required_columns else 0.0
        if k == len(self.center):
            return logs
        return logs + self.products + (0 if self.projection is None else self.projection[k].size)

    def look(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return the basis of the features at exit k, (n, M), and the new state."""
        values, state = FEATURES[self.features].step(k, output, state)
        columns = basis(values, self.center[k], self.scale[k], self.features)
        if self.projection is None:
            return columns, state
        assert output.features is not None  # the policy asks for what its score needs
        own = hidden(output.features, self.projection[k], self.shift[k], k)
        return np.concatenate([columns, own], axis=1), state


def _check_hidden(rule: HistoryRule | Hidden) -> None:
    """Refuse a projection without a shift, or of another size."""
    given, shift = rule.projection, rule.shift
    if (given is None) != (shift is None) or any(len(p) != shift.shape[1] for p in given or ()):
        what = f"projection and shift of {rule.role} {rule.name}"
        raise input_error(what, "both or none, of one size", "others", "Fit it again.")


def _wide(name: str, rule: HistoryRule, width: int) -> None:
    came = getattr(rule, name).shape[-1]
    if came != width:
        allowed = f"{width} numbers per exit"
        raise input_error(f"{name} of score {rule.name}", allowed, came, "Fit it again.")


class Advantage(HistoryRule):
    """``offset_k + weights_k . basis((features_k - center_k) / scale_k)``: of stopping over going on.

    The score of `optimal_stopping`. `weights`, (K-1, M), are of features, squares and products.
    """

    name = "advantage"
    below = (
        "",
        "what speaks for stopping over going on (0: going on is not worth its cost)",
    )
    weights: Any = array("K-1", "M")
    offset: Any = array("K-1")
    projection: Any = array("V", "D", each="K-1", optional=True, default=None)
    shift: Any = array("K-1", "V", optional=True, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_hidden(self)
        _wide("weights", self, self.size)

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        if k == len(self.offset):
            return np.zeros(len(output)), state
        columns, state = self.look(k, output, state)
        return row_product(columns, self.weights[k][None])[:, 0] + self.offset[k], state

    @property
    def products(self) -> float:
        return 2.0 * self.weights.shape[1]


class Logistic(Advantage):
    """The logistic function of an `Advantage`, in (0, 1): learned by berxit and others. The last exit scores 1."""

    name = "logistic"
    below = None

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        if k == len(self.offset):
            return np.ones(len(output)), state
        value, state = super().score(k, output, state)
        return sigmoid(value), state


class Halting(Advantage):
    """``sum_{j<=k} h_j - (1 - eps)``, h_j the logistic function of history features at exit j.

    Graves, ACT, 2016, arXiv:1603.08983, section 2; Figurnov et al., SACT, 2017. `eps` over 0 lets one exit alone
    halt. The last exit, which always stops, scores eps.
    """

    name = "halting"
    below = "", "the halting scores so far, less one (0: they have added up to one)"
    eps: float = number(least=0, below=1, default=0.01)

    def start(self, samples: npt.NDArray[np.int64]) -> State:
        return (np.zeros(len(samples)), *super().start(samples))

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        if k == len(self.offset):
            return np.full(len(output), self.eps), state
        value, history = super().score(k, output, state[1:])
        gathered = state[0] + sigmoid(value)
        return gathered - (1.0 - self.eps), (gathered, *history)


ACTIVATIONS = ("relu", "tanh")


class Network(HistoryRule):
    """``W_L f(W_{L-1} ... f(W_1 x + b_1) ...) + b_L``, x the basis of history features: of dqn and others.

    A layer's weights are (1, H_l, H_{l-1}), of all exits, or (K-1, H_l, H_{l-1}); H_0 is the size of the basis,
    H_L is 1. The exit's number and the price of cost stand in the first biases.
    """

    name = "network"
    below = Advantage.below
    activation: str = choice(*ACTIVATIONS)
    weights: Any = array("E", "H", "I", each="L")
    biases: Any = array("B", "H", each="L")
    projection: Any = array("V", "D", each="K-1", optional=True, default=None)
    shift: Any = array("K-1", "V", optional=True, default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_hidden(self)
        size, exits = self.size, len(self.center)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = 1 if i == len(self.weights) - 1 else weight.shape[1]
            for what, shape, wanted in (
                ("weights", weight.shape, (out, size)),
                ("biases", bias.shape, (out,)),
            ):
                if shape[1:] != wanted or shape[0] not in (1, exits):
                    told = f"of shape (1 or {exits}, {', '.join(map(str, wanted))})"
                    raise input_error(f"{what} of layer {i}", told, shape, "Fit and save it again.")
            size = out

    def score(self, k: int, output: ExitOutput, state: State) -> tuple[Floats, State]:
        """Return what the network says at exit k; 0 at the last one, which always stops."""
        if k == len(self.center):
            return np.zeros(len(output)), state
        x, state = self.look(k, output, state)
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                x = np.maximum(x, 0.0) if self.activation == "relu" else np.tanh(x)
            x = row_product(x, _of(weight, k)) + _of(bias, k)
        return x[:, 0], state

    @property
    def products(self) -> float:
        return basis_size(self.features) + sum(float(w[0].size) for w in self.weights)


def _of(array: Floats, k: int) -> Floats:
    """Return exit k's part of an array that all exits may share."""
    return array[0] if len(array) == 1 else array[k]
