"""Methods that train one small network for all prices by playing episodes; read at any budget.

A subclass says how its network learns (`train`); this file gathers what episodes are played with, holds rows out,
and finds on them the price whose policy costs the budget. What is left of the budget goes by one common
threshold: 0 and a shift. Networks are trained by torch and deployed as the rule `network` by numpy.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from policyopt._answers.crossfit import NAMES, folds_of
from policyopt._costs import overhead
from policyopt._methods.base import ANSWERS, Method
from policyopt._methods.episodes import Samples, log_price, samples_of
from policyopt._methods.exit_batch import StoppingData, build_stopping_data, subsample_outputs
from policyopt._methods.fitted import Draft, Fitted
from policyopt._methods.settings import COUNT, FOLDS, POSITIVE, Integer, Number, Real
from policyopt._optional import need
from policyopt._progress import report
from policyopt._table import Table
from policyopt._thresholds.budget_search import bisect, common_shift
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import Network
from policyopt.runtime._typing import Floats, Ints

#: Prices played with, in success per cost of the full model: their logarithm is drawn evenly.
PRICES = (0.002, 5.0)
_BISECTIONS = 20
#: How often each row is shown, at most, but for the least updates: more of them cost time and teach
#: nothing (benchmarks/few_rows.py).
EPOCHS, LEAST_UPDATES = 600, 500
#: Weights (E, out, in) and biases (E, out) of each layer, E being 1 or K-1. What goes in is what
#: `Episodes.observe` shows: basis columns, exit one-hot (K), `log_price`.
Layers = list[tuple[Floats, Floats]]


@dataclass(frozen=True)
class NeuralPolicyMethod(Method):
    """A network that scores leaving against going on, at any price of cost.

    Parameters
    ----------
    answer, soft, folds
        As of `LagrangianMethod`.
    hold_out : float
        Share of the rows that does not train, and on which budgets are met.
    hidden : int
        Units of a hidden layer.
    steps : int
        Updates, at most; few rows get fewer, see `updates`.
    batch : int
        Episodes, or transitions, per update.
    learning_rate : float
        Of Adam; it falls to 0.
    """

    answer: str = "combined"
    soft: float = 1.0
    folds: int = 5
    hold_out: float = 0.2
    hidden: int = 32
    steps: int = 4000
    batch: int = 256
    learning_rate: float = 0.002

    allowed: ClassVar = {
        "answer": NAMES,
        "soft": Number(most=1),
        "folds": FOLDS,
        "hold_out": Number(above=0, below=1),
        **dict.fromkeys(("hidden", "steps", "batch"), COUNT),
        "learning_rate": POSITIVE,
    }
    tuned: ClassVar = {
        "answer": ANSWERS,
        "hidden": Integer(8, 128, log=True),
        "learning_rate": Real(3e-4, 1e-2, log=True),
    }
    learned = True
    decides = True

    @abstractmethod
    def train(self, samples: Samples, seed: int) -> Layers:
        """Return a network of one output: by how much leaving is the better."""

    @abstractmethod
    def sizes(self, columns: int, exits: int) -> tuple[list[int], int]:
        """Return inputs, hidden units and output of what `train` returns, and the networks side by side."""

    def lacks(self, table: Table) -> list[str]:
        """Return what the rows do not hold; and torch, where it is not installed."""
        torch = [] if find_spec("torch") else ["torch (policyopt[torch])"]
        return [*super().lacks(table), *torch]

    @property
    def validates(self) -> bool:
        """Thresholds are chosen on rows that trained nothing."""
        return False

    def check(self, table: Table) -> None:
        """Refuse to train without torch, or to decide where there is nothing to decide."""
        need("torch", "torch", f"to train '{self.label}'")
        super().check(table)

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        """Train once, and meet each budget; see `Method.propose`."""
        from threadpoolctl import threadpool_limits

        self.check(table)
        # Matrices of some tens of columns: more threads only wait for each other.
        with threadpool_limits(1, "blas"), one_thread():
            return super().propose(table, budgets, seed)

    def pose(self, table: Table, seed: int) -> Draft:
        """Gather what episodes are played with; costs are known before, scores are not."""
        table = subsample_outputs(table, seed)
        data = build_stopping_data(table, self.answer, self.soft, self.folds, seed)
        table, exits, columns = data.table, data.table.exits, data.columns[0].shape[1]
        sizes, each = self.sizes(columns, exits)
        zeros = [
            (np.zeros((each, out, into)), np.zeros((each, out))) for into, out in pairwise(sizes)
        ]
        blank = rule_at(at_price(zeros, columns, exits, 0.0), data)
        own = overhead(data.answer, (blank,), exits, table.classes, table.rate)
        costs = np.asarray(table.costs + own)
        problem = Problem(np.zeros_like(data.success), data.success, costs, table.unit)
        return Draft(blank, table, problem, data.answer, data=data)

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        """Train on some of the rows, and read each budget off the prices on the others."""
        data, whole = draft.data, draft.problem
        samples = samples_of(data.columns, data.success, whole.costs)
        held, rest = divided(len(samples), self.hold_out, seed)
        report(0, 1, f"training {self.label}")
        layers = self.train(samples.take(rest), seed)
        costs = whole.costs if whole.costs.ndim == 1 else whole.costs[held]
        problem = Problem(whole.scores[held], whole.value[held], costs, whole.unit)
        draft = replace(draft, problem=problem)
        return [_read(draft, layers, samples.columns[held], budget) for budget in budgets]


def _read(draft: Draft, layers: Layers, columns: npt.NDArray[np.float32], budget: float) -> Draft:
    """Find the price whose policy costs the budget on the rows held out."""
    problem = draft.problem
    aim = problem.within_reach(budget)
    exits, size = columns.shape[1:]

    def too_dear(log_price: float) -> bool:
        scores = outputs_at(at_price(layers, size, exits, np.exp(log_price)), columns)
        taken = first_exit(scores, np.zeros(exits - 1))
        return float(problem.paid(taken).mean()) > aim

    dear, cheap = (float(np.log(p)) for p in (PRICES[0] / 10, PRICES[1]))
    _, price = bisect(too_dear, dear, cheap, _BISECTIONS)
    fixed = at_price(layers, size, exits, float(np.exp(price)))
    rule = rule_at(fixed, draft.data)
    scores, flat = collapse(rule, outputs_at(fixed, columns))
    problem = replace(problem, scores=scores, flat=flat)
    return replace(draft, rule=rule, problem=problem, solution=common_shift(problem, aim))


def updates(steps: int, batch: int, rows: int) -> int:
    """Return how many updates of `batch` rows are worth making with so many rows, at most `steps`."""
    return min(steps, max(LEAST_UPDATES, -(-EPOCHS * rows // batch)))


def divided(rows: int, share: float, seed: int) -> tuple[Ints, Ints]:
    """Return the rows held out and those to train on; of a single row, both have it."""
    if rows == 1:
        return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
    parts = folds_of(rows, max(round(1 / share), 2), seed)
    return np.flatnonzero(parts == 0), np.flatnonzero(parts != 0)


def drawn_prices(rng: np.random.Generator, count: int) -> Floats:
    """Return random prices, (count,)."""
    low, high = np.log(PRICES)
    return np.exp(rng.uniform(low, high, count))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute by one thread in this block: of matrices so small, more only wait for each other."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Stack:
    """Layers (inputs, hidden units, outputs) with a ReLU between them; `each` of them side by side."""

    def __init__(self, sizes: list[int], seed: int, each: int = 1) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)  # of its own: the global one is the user's
        self.parameters: list[Any] = []
        for into, out in pairwise(sizes):
            # Torch's default for a linear layer.
            for shape in ((each, out, into), (each, out)):
                uniform = torch.rand(shape, generator=generator) * 2 - 1
                self.parameters.append((uniform / into**0.5).requires_grad_())

    def __call__(self, x: Any) -> Any:
        """Return the outputs (n, E, out) for inputs (n, E, in)."""
        import torch

        for i in range(0, len(self.parameters), 2):
            weight, bias = self.parameters[i : i + 2]
            if i:
                x = torch.relu(x)
            x = torch.einsum("nei,eoi->neo", x, weight) + bias
        return x

    def copy_to(self, other: Stack) -> None:
        """Give another stack of the same sizes these weights."""
        import torch

        with torch.no_grad():
            for theirs, mine in zip(other.parameters, self.parameters, strict=True):
                theirs.copy_(mine)

    def layers(self) -> Layers:
        """Return the weights as arrays."""
        arrays = [p.detach().double().numpy() for p in self.parameters]
        return list(zip(arrays[::2], arrays[1::2], strict=True))


def at_price(layers: Layers, columns: int, exits: int, price: float) -> Layers:
    """Return the layers with exit and price moved from the inputs into the first biases."""
    weight, bias = layers[0]
    own = np.broadcast_to(weight, (exits - 1, *weight.shape[1:]))
    places = own[np.arange(exits - 1), :, columns + np.arange(exits - 1)]
    moved = bias + places + own[:, :, -1] * float(log_price(np.array(price)))
    return [(weight[:, :, :columns], moved), *layers[1:]]


def outputs_at(layers: Layers, columns: npt.NDArray[np.float32]) -> Floats:
    """Return the scores (N, K) of layers of one output and no price; 0 at the last exit. Shapes: columns (N, K, M)."""
    out = np.zeros(columns.shape[:2], order="F")
    for k in range(columns.shape[1] - 1):
        x = columns[:, k].astype(np.float64)
        for i, (weight, bias) in enumerate(layers):
            x = np.maximum(x, 0.0) if i else x
            x = x @ weight[min(k, len(weight) - 1)].T + bias[min(k, len(bias) - 1)]
        out[:, k] = x[:, 0]
    return out


def rule_at(layers: Layers, data: StoppingData) -> Network:
    """Return the rule that scores as layers without a price do."""
    weights, biases = zip(*layers, strict=True)
    return Network(data.features, data.center, data.scale, "relu", list(weights), list(biases))
