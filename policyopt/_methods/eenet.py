"""EENet, by its paper and by its released code: scores and shares of exits, learned per budget.

By its paper: Ilhan et al., Adaptive Deep Neural Network Inference Optimization with EENet, WACV 2024. Equations,
algorithms and sections are those of arXiv:2301.07099. Where this departs, and why:

- Thresholds are chosen on held-out rows, the same that stop the training; the paper trains, stops and chooses on
  one set, where scores are too good and the cost on new rows is not the planned one.
- The budget enters training as a soft loss (14) and may be missed. With ``meet`` (the default) the learned
  distribution p is tilted by exp(t * cost), the smallest change in Kullback-Leibler divergence, until the cost
  replayed on the held-out rows is the budget.
- Learning rate: 1e-2 with batches of 512 comes to the held-out loss that smaller rates and batches come to, in
  seconds: on 5,000 rows of CIFAR-10 logits 0.252 after 26 epochs (1e-3 with batches of 16: 0.252 after 22, twenty
  times the time; the paper's 3e-5: 0.282 after 40, still falling). The paper's is a setting.
- Some starts end in poor minima (there, at a low budget: held-out loss 0.305 and the budget missed by 37%,
  against 0.278 and 0% from the next start); of a few the one of the least held-out loss is kept. The paper speaks
  of one.
- Algorithm 1 marks all samples as gone where a quota rounds to 0, or is more than are left; here none leave in
  the former case, all in the latter.

Readings where the paper leaves one open. Gradients pass through the earlier utilities b_k: only the weights (13)
are said to stay outside the graph. Losses (11)-(15) are taken over minibatches in training and over all held-out
rows in early stopping. With costs per sample, (14) uses each its own.

By its released code (git-disl/EENet, commit a5e80c8, utils/predict_helpers.py), defects fixed. The code differs
from the paper: a linear, clipped score; a separate network for the assignment (softmax over exits of sigmoids);
loss weights that are the assignment itself; a KL term towards the normalised scores. Its formulas are kept, and
so are its limits: a softmax of sigmoids keeps every planned share in [1/(1+(K-1)e), e/(e+K-1)] (K = 5: 8% to
41%), so that low and high budgets cannot be planned. With ``meet`` the plan is tilted until the budget is met;
without, it is used as it is.

Fixed, since the code does not run or does not do what it says: shapes of the score; gradients cleared before each
step; the best weights copied; one shuffle per epoch; the whole loss compared between epochs (not that of the
phase, whose two losses have other scales); each phase steps its own weights only; earlier scores clipped in use
as in training; no leaver where a quota is 0 (the code's threshold of 1 is within reach of unclipped scores);
everyone stops at the last exit; a row of scores that are all 0 has an even target.

Departures: thresholds and the choice among restarts are made on held-out rows (the code uses the rows it trained
on). One start where the release takes ten: a start costs 1000 epochs.

The release's learning rate, 3e-5, is kept as the default, for this is the method to compare with what was
released. On 5,000 rows it is far from converged after 1000 epochs; with ``learning_rate=0.01, max_epochs=200,
restarts=3`` the same formulas do much better, and the benchmarks show both.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from policyopt._cache.data import some_rows
from policyopt._costs import positions
from policyopt._engine import one_thread
from policyopt._methods.base import Method, seed_of
from policyopt._methods.exit_batch import MOST_NUMBERS, outputs_of
from policyopt._methods.fitted import Draft, own_costs
from policyopt._methods.settings import COUNT, NOT_NEGATIVE, POSITIVE, YES_OR_NO, Number, Real
from policyopt._optional import need
from policyopt._progress import report
from policyopt._table import Table, subsample
from policyopt._thresholds.degenerate_scores import collapse
from policyopt._thresholds.problem import Problem, Solution
from policyopt._thresholds.quotas import (
    geometric_shares,
    solve_geometric,
    solve_planned,
    solve_ratio,
)
from policyopt.runtime._errors import input_error
from policyopt.runtime._outputs import ExitOutput
from policyopt.runtime._policy import ALWAYS, NEVER
from policyopt.runtime._scores import EENet as EENetRule
from policyopt.runtime._scores import EENetReleased as ReleasedRule
from policyopt.runtime._scores import MaxProb, ScoreRule, score_table
from policyopt.runtime._scores.eenet import SLOPE, eenet_inputs, released_inputs
from policyopt.runtime._typing import Floats

#: With device "auto", a fit on fewer numbers (rows x exits x inputs) stays on the CPU: the network
#: is so small that a GPU would spend its time on starting kernels.
_GPU_FROM = 20_000_000
#: A planned cost within this part of the budget counts as meeting it (as released).
NEAR = 0.1


@dataclass(frozen=True)
class HeldOutMethod(Method):
    """A network per budget; thresholds on rows that are held out of its training.

    Parameters
    ----------
    holdout : float
        Share of the rows that stop the training and choose the thresholds.
    """

    holdout: float = 0.3

    allowed: ClassVar = {"holdout": Number(above=0, below=1)}
    learned = True
    per_budget = True
    validates = False  # thresholds are chosen on rows that trained nothing
    remedy = "which summaries do not hold. Import full logits or probabilities, or use max_prob."

    @abstractmethod
    def trainer(
        self, table: Table, rest: Table, held: Table, outputs: list[ExitOutput], seed: int
    ) -> Any:
        """Return what trains on `rest` and looks at the rows held out, with their outputs.

        `blank`: a rule of the shapes to come, which tells its cost. ``train(problem_on, budget)`` returns the
        budget's rule, its problem on the rows held out, and thresholds.
        """

    def required_columns(self) -> frozenset[str]:
        return frozenset({"log_prob"})

    def missing_columns(self, table: Table) -> list[str]:
        return ["log_prob (all class outputs)"] if not table.whole else []

    @property
    def limits(self) -> bool:
        """Not where it is to cost what Algorithm 1 makes it cost."""
        return super().limits and bool(getattr(self, "meet", True))

    def check(self, table: Table) -> None:
        """Refuse summaries, and to train without torch."""
        super().check(table)
        need("torch", "torch", f"to train {self.label}")

    def pose(self, table: Table, seed: int) -> Draft:
        """Divide the rows; budgets are checked before anything is trained."""
        rest, held = divide(table, self.holdout, seed)
        outputs = outputs_of(held)
        trainer = self.trainer(table, rest, held, outputs, seed)
        costs = table.mean_costs + own_costs(table, trainer.blank)
        nothing = np.zeros((1, table.exits))
        problem = Problem(nothing, nothing, costs, table.unit)
        return Draft(trainer.blank, table, problem, data=(trainer, held, outputs))

    def solve(self, draft: Draft, budgets: Sequence[float], seed: int) -> Sequence[Draft]:
        trainer, held, outputs = draft.data

        def problem_on(rule: ScoreRule) -> Problem:
            scores, flat = collapse(rule, score_table(rule, outputs))
            costs = held.costs + own_costs(held, rule)
            return Problem(scores, held.quality, costs, held.unit, flat, held.group)

        solved = []
        for index, budget in enumerate(budgets):
            report(index, len(budgets), "training EENet")
            rule, problem, solution = trainer.train(problem_on, budget)
            solved.append(replace(draft, rule=rule, problem=problem, solution=solution))
        return solved


@dataclass(frozen=True)
class EENet(HeldOutMethod):
    """Learned utility scores and a learned exit distribution, one network per budget.

    Defaults are section 4's for images; for text it has ``hidden=2, alpha=1e-2, beta=1e-4`` and a
    learning rate of 1e-4.

    Parameters
    ----------
    scores : {"learned", "max_prob"}
        "max_prob": the ablation of Figure 5 without learned scores.
    distribution : {"learned", "geometric"}
        "geometric": the ablation of Figure 5 without learned distribution.
    hidden : float
        D_h / D, size of the hidden layer by that of the input.
    alpha, beta : float
        Weights of L_budget (14) and L_CE (15).
    learning_rate, weight_decay : float
        Of Adam; weight decay is the paper's L2 regularisation. On small sets its 0.01 can leave a
        score that is all but constant: on 1,500 rows of a synthetic task it lost 15 points to
        max_prob at the lowest budgets, and none with 1e-4. `policyopt tune` searches it.
    batch_size : int
        Rows per update.
    patience : int
        Epochs without a lower held-out loss after which training stops.
    max_epochs : int
        Most passes over the rows.
    restarts : int
        Starts of the training; kept is the one of the least held-out loss.
    training : {"per_budget", "warm"}
        "warm": faster for many budgets; one network is trained for the middle one, and each
        budget's training starts from it.
    meet : bool
        Tilt the distribution until the budget is met; False: Algorithm 1 as printed.
    device : {"auto", "cpu", "cuda"}
        Where to train; "auto" takes a GPU for large fits only.
    """

    scores: str = "learned"
    distribution: str = "learned"
    hidden: float = 0.5
    alpha: float = 1e-1
    beta: float = 1e-3
    learning_rate: float = 1e-2
    weight_decay: float = 0.01
    batch_size: int = 512
    patience: int = 50
    max_epochs: int = 1000
    restarts: int = 3
    training: str = "per_budget"
    meet: bool = True
    device: str = "auto"

    label = "eenet"
    allowed: ClassVar = {
        "scores": ("learned", "max_prob"),
        "distribution": ("learned", "geometric"),
        "training": ("per_budget", "warm"),
        "meet": YES_OR_NO,
        "device": ("auto", "cpu", "cuda"),
        **dict.fromkeys(("hidden", "learning_rate"), POSITIVE),
        **dict.fromkeys(("alpha", "beta", "weight_decay"), NOT_NEGATIVE),
        **dict.fromkeys(("batch_size", "patience", "max_epochs", "restarts"), COUNT),
    }
    #: The size of the network and its two regularisers.
    tuned: ClassVar = {
        "hidden": Real(0.25, 4.0, log=True),
        "weight_decay": Real(1e-5, 0.1, log=True),
        "beta": Real(1e-5, 0.1, log=True),
    }

    def trainer(
        self, table: Table, rest: Table, held: Table, outputs: list[ExitOutput], seed: int
    ) -> _Trainer:
        return _Trainer(self, rest, held, outputs, seed)


class _Trainer:
    """Trains the networks of one fit; rows are turned into tensors once."""

    def __init__(
        self, method: EENet, rest: Table, held: Table, held_outputs: list[ExitOutput], seed: int
    ) -> None:
        device = choose_device(method.device, len(rest) * rest.exits * (rest.classes + 3))
        # In parts of the full model's cost, so that float32 holds them and no unit is too small.
        self._scale = float(np.abs(rest.mean_costs[-1])) or 1.0
        self._method, self._seed, self._middle = method, seed, positions(rest.mean_costs, 1)[0]
        self.starts = [
            Network.start(rest.exits, rest.classes, method.hidden, seed_of(seed, i, 0), device)
            for i in range(method.restarts)
        ]
        own = own_costs(rest, rule_of(self.starts[0]))
        self._rest, self._held = (
            rows_of(outputs, t.quality, (t.costs + own) / self._scale, device)
            for t, outputs in ((rest, outputs_of(rest)), (held, held_outputs))
        )
        self._warm, self.blank = False, self._rule(self.starts[0])

    def train(self, problem_on: Any, budget: float) -> tuple[ScoreRule, Problem, Solution]:
        """Train the network of a budget, and meet it."""
        m = self._method
        # The ablation of both learns nothing: its network is not read.
        trains = "learned" in (m.scores, m.distribution)
        network = self.network(budget) if trains else self.starts[0]
        rule = self._rule(network)
        problem = problem_on(rule)
        aim, shares = problem.within_reach(budget), self.shares(network)
        if m.distribution == "geometric":
            if m.meet:
                return rule, problem, solve_geometric(problem, [aim])[0]
            shares = geometric_shares(solve_ratio(problem.mean_costs, aim), problem.exits)
        if m.meet:
            return rule, problem, solve_planned(problem, shares, aim)
        return rule, problem, Solution(algorithm_1(problem.scores, shares))

    def _rule(self, network: Network) -> ScoreRule:
        return rule_of(network) if self._method.scores == "learned" else MaxProb()

    def network(self, budget: float) -> Network:
        """Train the network of a budget."""
        m = self._method
        if m.training == "warm" and not self._warm:
            # The middle budget, whatever budgets are asked for: one alone is fitted as in a path.
            self._warm = True
            self.starts = [self.network(self._middle)]
        aim = max(budget / self._scale, 1e-6)  # (14) divides by it
        runs = [
            train(start, self._rest, self._held, aim, m, seed_of(self._seed, i, 1))
            for i, start in enumerate(self.starts)
        ]
        return min(runs, key=lambda run: min(run[1]))[0]

    def shares(self, network: Network) -> Floats:
        """Return p, the mean of r over the held-out rows (Algorithm 1, line 7), (K,)."""
        import torch

        with torch.no_grad():
            _, assignment = network.forward(self._held.inputs)
            shares = torch.softmax(assignment.double(), dim=1).mean(dim=0).cpu().numpy()
        return shares / shares.sum()


def rule_of(network: Network) -> EENetRule:
    """Return the network as the score rule that is deployed, in float64."""
    shared, utility, _ = zip(*network.weights, strict=True)
    return EENetRule(*([w.detach().double().cpu().numpy() for w in ws] for ws in (shared, utility)))


def algorithm_1(scores: Floats, shares: Floats) -> Floats:
    """Return thresholds by which ``round(N p_k)`` of the samples still there leave at exit k."""
    # Algorithm 1, lines 5-15, "the most utilizable samples" first; the listing does not say. That equal scores leave
    # too is not accounted for, as printed. Shapes: scores (N, K); shares (K,); returns (K-1,).
    rows, exits = scores.shape
    thresholds = np.full(exits - 1, NEVER)
    alive = np.arange(rows)
    for k in range(exits - 1):
        count = min(round(rows * float(shares[k])), len(alive))
        if count:
            order = np.argsort(-scores[alive, k], kind="stable")
            thresholds[k] = scores[alive[order[count - 1]], k]
            alive = np.sort(alive[order[count:]])
    return np.clip(thresholds, ALWAYS, NEVER)


def divide(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Return the rows to train on, a random part where too many, and those held out."""
    most = max(MOST_NUMBERS // (table.exits * max(table.classes, 1)), 1000)
    table = subsample(table, most, seed)
    n = len(table)
    if table.units == 1:
        return table, table
    held = np.zeros(n, dtype=bool)
    held[some_rows(n, min(max(round(share * n), 1), n - 1), seed, table.group)] = True
    return table.take(np.flatnonzero(~held)), table.take(np.flatnonzero(held))


def targets(correct: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Return what to aim at: correctness q, equation (3), and exit assignment r, equation (4)."""
    q = np.asarray(correct, dtype=np.float64)
    right = q.sum(axis=1, keepdims=True)
    r = np.where(right > 0, q / np.where(right > 0, right, 1), 1 / q.shape[1])
    return q, r


@dataclass(frozen=True)
class Rows:
    """Tensors of some rows, on one device."""

    inputs: Any  # (n, K, C + 3): [p_k, a_max, a_entropy, a_vote], equations (5)-(7)
    q: Any  # (n, K), target (3)
    r: Any  # (n, K), target (4)
    costs: Any  # (1, K) or (n, K)

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Any) -> Rows:
        """Return some of the rows."""
        costs = self.costs if len(self.costs) == 1 else self.costs[rows]
        return Rows(self.inputs[rows], self.q[rows], self.r[rows], costs)


def rows_of(
    outputs: Sequence[ExitOutput], correct: Floats, costs: Floats, device: str = "cpu"
) -> Rows:
    """Return the training tensors (float32) of outputs that have their `log_prob`."""
    import torch

    votes = np.empty((len(correct), 0), dtype=np.int32)
    first = outputs[0].log_prob
    assert first is not None
    inputs = np.empty((len(correct), len(outputs), first.shape[1] + 3), dtype=np.float32)
    for k, output in enumerate(outputs):
        inputs[:, k], votes = eenet_inputs(k, output, votes)
    q, r = targets(correct)
    arrays = (inputs, q, r, np.atleast_2d(costs))
    return Rows(*(torch.as_tensor(a, dtype=torch.float32, device=device) for a in arrays))


class Network:
    """Weights (W_sh, W_g, W_h), (H_k, C + 3 + k), (H_k,), (H_k,), of all exits, and equations (8)-(10)."""

    def __init__(self, weights: list[tuple[Any, ...]]) -> None:
        self.weights = weights

    @classmethod
    def start(cls, exits: int, classes: int, hidden: float, seed: int, device: str) -> Network:
        """Draw weights from ±1/sqrt(inputs), torch's default for a linear layer."""
        import torch

        generator = torch.Generator().manual_seed(seed)  # of its own: the global one is the user's

        def draw(*shape: int) -> Any:
            uniform = torch.rand(shape, generator=generator) * 2 - 1
            return (uniform / shape[-1] ** 0.5).to(device).requires_grad_()

        weights = []
        for k in range(exits):
            inputs = classes + 3 + k
            width = max(round(hidden * inputs), 1)
            weights.append((draw(width, inputs), draw(width), draw(width)))
        return cls(weights)

    def parameters(self) -> list[Any]:
        """Return all weights, exit by exit."""
        return [w for exit_ in self.weights for w in exit_]

    def copy(self) -> Self:
        """Return the same weights in memory of their own."""
        copies = [tuple(w.detach().clone().requires_grad_() for w in e) for e in self.weights]
        return type(self)(copies)

    def forward(self, inputs: Any) -> tuple[Any, Any]:
        """Return the logits of the utilities q and of the assignment r, (n, K) each."""
        import torch
        from torch.nn.functional import leaky_relu

        utility, assignment, past = [], [], []
        for k, (shared, to_utility, to_assignment) in enumerate(self.weights):
            x = torch.cat([inputs[:, k], *past], dim=1) if k else inputs[:, k]
            hidden = leaky_relu(x @ shared.T, SLOPE)  # (8)
            utility.append(hidden @ to_utility)  # (9), before the sigmoid
            assignment.append(hidden @ to_assignment)  # (10), before the softmax
            past.append(torch.sigmoid(utility[-1])[:, None])
        return torch.stack(utility, dim=1), torch.stack(assignment, dim=1)


def survival_weights(assignment: Any) -> Any:
    """Return w, equation (13): probability to be alive at exit k, normalised over the rows."""
    r = assignment.detach()
    alive = (1 - r.cumsum(dim=1) + r).clamp(min=1e-12)  # rounding may leave it below 0
    return alive / alive.sum(dim=0)


def losses(utility: Any, assignment: Any, rows: Rows, budget: float) -> tuple[Any, Any, Any]:
    """Return L_g (11)-(13), with the minus sign that (12) lacks, L_budget (14), L_CE (15); utility, r: (n, K)."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    log_r = torch.log_softmax(assignment, dim=1)
    r = log_r.exp()
    loss_g = (survival_weights(r) * cross_entropy(utility, rows.q, reduction="none")).sum()
    planned = (r * rows.costs).sum(dim=1).mean()
    loss_ce = -(log_r * rows.r).mean()
    return loss_g / utility.shape[1], (budget - planned).abs() / budget, loss_ce


def total_loss(settings: EENet, network: Network, rows: Rows, budget: float) -> Any:
    """Return ``L = L_g + alpha L_budget + beta L_CE``."""
    loss_g, loss_budget, loss_ce = losses(*network.forward(rows.inputs), rows, budget)
    return loss_g + settings.alpha * loss_budget + settings.beta * loss_ce


@one_thread()
def train(
    network: Network, rows: Rows, held: Rows, budget: float, settings: EENet, seed: int
) -> tuple[Network, list[float]]:
    """Return the weights of the epoch with the least held-out loss, and those losses; stops as section 4."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    network = network.copy()
    rates = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    adam = torch.optim.Adam(network.parameters(), **rates)
    best, curve, waited = network.copy(), [_held_loss(network, held, budget, settings)], 0
    for _ in range(settings.max_epochs):
        order = torch.randperm(len(rows), generator=generator).to(rows.inputs.device)
        for part in order.split(settings.batch_size):
            adam.zero_grad()
            total_loss(settings, network, rows.take(part), budget).backward()
            adam.step()
        curve.append(_held_loss(network, held, budget, settings))
        if curve[-1] < min(curve[:-1]):
            best, waited = network.copy(), 0
        else:
            waited += 1
        if waited >= settings.patience:
            break
    return best, curve


def _held_loss(network: Network, held: Rows, budget: float, settings: EENet) -> float:
    import torch

    with torch.no_grad():
        return float(total_loss(settings, network, held, budget))


def choose_device(device: str, numbers: int) -> str:
    """Return "cpu" or "cuda" for `device`, which may be "auto"; `numbers`: inputs in all rows."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        allowed = "auto or cpu where torch finds no GPU"
        raise input_error("device", allowed, device, "--set device=auto.")
    if device != "auto":
        return device
    return "cuda" if numbers >= _GPU_FROM and torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class EENetReleased(HeldOutMethod):
    """The release's linear scores and planned exit distribution, one fit per budget.

    Parameters
    ----------
    hidden : float
        Hidden size of the assignment network by its inputs: 0.5 for images, 2 for text.
    alpha_kl, alpha_cost, beta : float
        Weights of the KL and the cost term; exponent of the scores in the KL term's target.
    learning_rate, weight_decay : float
        Of Adam.
    batch_size, max_epochs : int
        Rows per update; most passes over the rows.
    period : int
        Epochs in turn on the scores and on the assignment.
    patience : int
        Epochs without a lower loss after which a run stops; counted, as released, only where the
        planned cost is within a tenth of the budget.
    restarts : int
        Of those whose planned cost is within a tenth of the budget the one most accurate on held-out rows is kept.
    meet : bool
        Tilt the planned distribution until the budget is met; False: as planned.
    """

    hidden: float = 0.5
    alpha_kl: float = 1e-3
    alpha_cost: float = 1e-2
    beta: float = 1.0
    learning_rate: float = 3e-5
    weight_decay: float = 0.01
    batch_size: int = 512
    max_epochs: int = 1000
    period: int = 10
    patience: int = 100
    restarts: int = 1
    meet: bool = True

    label = "eenet_released"
    allowed: ClassVar = {
        **dict.fromkeys(("hidden", "learning_rate", "beta"), POSITIVE),
        **dict.fromkeys(("alpha_kl", "alpha_cost", "weight_decay"), NOT_NEGATIVE),
        **dict.fromkeys(("batch_size", "max_epochs", "period", "patience", "restarts"), COUNT),
        "meet": YES_OR_NO,
    }
    #: What holds the planned cost near the budget, and size.
    tuned: ClassVar = {
        "hidden": Real(0.25, 4.0, log=True),
        "weight_decay": Real(1e-5, 0.1, log=True),
        "alpha_cost": Real(1e-3, 1.0, log=True),
    }

    def trainer(
        self, table: Table, rest: Table, held: Table, outputs: list[ExitOutput], seed: int
    ) -> _ReleasedTrainer:
        return _ReleasedTrainer(self, table, rest, held, seed)


class _ReleasedTrainer:
    """As `_Trainer`; tensors are as `released_losses` takes them."""

    def __init__(
        self, method: EENetReleased, table: Table, rest: Table, held: Table, seed: int
    ) -> None:
        self._method, self._seed, self._shape = method, seed, (table.exits, table.classes)
        self.blank = ReleasedRule([[0.0] * (table.classes + 2 + k) for k in range(table.exits)])
        # The full model's cost: in parts of it float32 holds all costs, whatever the unit.
        self._scale = float(np.abs(table.mean_costs[-1])) or 1.0
        own = own_costs(table, self.blank)
        self._rows, (self._held, *_) = (_tensors(t, own, self._scale) for t in (rest, held))

    def train(self, problem_on: Any, budget: float) -> tuple[ScoreRule, Problem, Solution]:
        """Train from each start, and keep the most accurate of those whose planned cost is near the budget."""
        runs = []
        for restart in range(self._method.restarts):
            rule, r = self._run(budget, seed_of(self._seed, restart, 0))
            problem = problem_on(rule)
            if self._method.meet:
                solution = solve_planned(problem, r, problem.within_reach(budget))
            else:
                solution = Solution(problem.settled(released_thresholds(problem.scores, r)))
            gap = abs(float(r @ problem.mean_costs) - budget) / max(abs(budget), 1e-300)
            # Within a tenth of the budget: by accuracy; none there: the nearest.
            key = (max(gap, NEAR), -_quality(problem, solution), restart)
            runs.append((key, rule, problem, solution))
        return min(runs, key=lambda run: run[0])[1:]

    @one_thread()
    def _run(self, budget: float, seed: int) -> tuple[ReleasedRule, Floats]:
        """Train once; return the rule and the mean assignment of the held-out rows, (K,)."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        start = ReleasedNetwork.drawn(*self._shape, self._method.hidden, generator)
        aim = max(budget / self._scale, 1e-6)  # the cost term divides by it
        network = train_released(start, self._rows, aim, self._method, generator)
        with torch.no_grad():
            r = network.forward(self._held)[1].double().mean(dim=0).numpy()
        return ReleasedRule([w.detach().double().numpy() for w in network.scores]), r / r.sum()


def _tensors(rows: Table, own: Floats, scale: float) -> tuple[Any, Any, Any]:
    import torch

    inputs = np.stack([released_inputs(k, o) for k, o in enumerate(outputs_of(rows))], axis=1)
    arrays = inputs, rows.quality, np.atleast_2d(rows.costs + own) / scale
    inputs, correct, costs = (torch.as_tensor(a, dtype=torch.float32) for a in arrays)
    return inputs, correct, costs


def released_thresholds(scores: Floats, shares: Floats) -> Floats:
    """Return the release's quota thresholds: ``floor(N p_k)`` leave, at the least of their scores."""
    thresholds = np.full(scores.shape[1] - 1, NEVER)
    alive = scores
    for k in range(len(thresholds)):
        count = int(np.floor(len(scores) * shares[k]))
        if count:
            order = np.argsort(alive[:, k], kind="stable")
            thresholds[k] = alive[order[-count], k]
            alive = alive[order[:-count]]
    return np.clip(thresholds, ALWAYS, NEVER)


def _quality(problem: Problem, solution: Solution) -> float:
    value = problem.quality(solution.thresholds)
    if solution.other is None:
        return value
    return (1 - solution.share) * value + solution.share * problem.quality(solution.other)


class ReleasedNetwork(Network):
    """Score weights, (C + 2 + k,), and assignment networks W1, b1, W2, b2, of all exits."""

    @classmethod
    def drawn(cls, exits: int, classes: int, rate: float, generator: Any) -> ReleasedNetwork:
        """Draw weights as `torch.nn.Linear` does."""
        import torch

        def draw(inputs: int, *shape: int) -> Any:
            return (torch.rand(shape, generator=generator) * 2 - 1) / inputs**0.5

        weights = []
        for k in range(exits):
            inputs, rest = classes + 2 + k, 2 + k
            # Two layers in the code, one for the classes and one for the rest, added.
            score = torch.cat([draw(classes, classes), draw(rest, rest)])
            width = max(int(rate * inputs), 1)
            first = draw(inputs, width, inputs), draw(inputs, width)
            weights.append((score, *first, draw(width, width), draw(width, 1)))
        return cls(weights).copy()

    @property
    def scores(self) -> list[Any]:
        """Score weights of all exits."""
        return [exit_[0] for exit_ in self.weights]

    def forward(self, inputs: Any) -> tuple[Any, Any]:
        """Return clipped scores q and assignment r, (n, K) each, of inputs (n, K, C + 2)."""
        import torch

        scores, assigned, past = [], [], []
        for k, (weight, w1, b1, w2, b2) in enumerate(self.weights):
            x = torch.cat([inputs[:, k], *past], dim=1)
            scores.append((x @ weight).clamp(0, 1))
            assigned.append(torch.sigmoid(torch.sigmoid(x @ w1.T + b1) @ w2 + b2))
            past.append(scores[-1].detach()[:, None])
        return torch.stack(scores, dim=1), torch.softmax(torch.stack(assigned, dim=1), dim=1)


def released_losses(
    network: ReleasedNetwork, inputs: Any, correct: Any, costs: Any, budget: float, beta: float
) -> tuple[Any, Any, Any]:
    """Return L_q, L_KL and L_cost. Shapes: inputs (n, K, C + 2); correct (n, K); costs (1, K) or (n, K)."""
    import torch
    from torch.nn.functional import binary_cross_entropy

    q, r = network.forward(inputs)
    weight = r.detach() / r.detach().sum(dim=0)
    loss_q = binary_cross_entropy(q, correct, weight=weight, reduction="sum") / q.shape[1]
    target = q.detach() ** beta
    total = target.sum(dim=1, keepdim=True)
    target = torch.where(total > 0, target / total.clamp(min=1e-12), 1 / q.shape[1])
    loss_cost = ((r * costs).sum(dim=1).mean() - budget).abs() / budget
    loss_kl = (torch.xlogy(target, target) - target * r.log()).mean()
    return loss_q, loss_kl, loss_cost


def train_released(
    network: ReleasedNetwork,
    rows: tuple[Any, Any, Any],
    budget: float,
    settings: EENetReleased,
    generator: Any,
) -> ReleasedNetwork:
    """Return the weights of the epoch with the least training loss among those near the budget."""
    import torch

    inputs, correct, costs = rows
    network = network.copy()
    adams = [
        torch.optim.Adam(group, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for group in (network.scores, [w for exit_ in network.weights for w in exit_[1:]])
    ]
    best, least, waited = network, np.inf, 0
    for epoch in range(settings.max_epochs):
        # First the scores, then the assignment, `period` epochs each; both at once with period 1.
        phase = epoch // settings.period % 2 if settings.period > 1 else None
        parts = torch.randperm(len(inputs), generator=generator).split(settings.batch_size)
        loss = gap = 0.0
        for part in parts:
            own = costs if len(costs) == 1 else costs[part]
            batch = (inputs[part], correct[part], own)
            loss_q, loss_kl, loss_cost = released_losses(network, *batch, budget, settings.beta)
            total = loss_q + settings.alpha_kl * loss_kl + settings.alpha_cost * loss_cost
            for adam in adams:
                adam.zero_grad()
            total.backward()  # the two groups do not meet: past scores and targets are detached
            for index, adam in enumerate(adams):
                if phase in (None, index):
                    adam.step()
            loss += float(total.detach()) / len(parts)
            gap += float(loss_cost.detach()) / len(parts)
        if gap >= NEAR:
            continue
        if loss < least:
            best, least, waited = network.copy(), loss, 0
        else:
            waited += 1
            if waited >= settings.patience:
                break
    return best
