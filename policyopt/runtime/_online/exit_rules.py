"""Rules that learn while serving when to leave, from what a request has shown: LinUCB, SplitEE, UEE-UCB."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from itertools import pairwise
from typing import Any, ClassVar, Protocol

import numpy as np

from .._bandits import UCB1, Steering, setting
from .._checks import check_least, check_one_of, check_positive, check_type, check_whole
from .._errors import input_error
from .._parameters import make, numbers
from .._saved_state import check_fields, refused, saved_counts, saved_numbers
from .._scores.history import INPUTS, Hidden, hidden
from .._typing import Floats, Ints

#: Numbers in a context of LinUCB, but for those of the model's vectors, of which there are at most so many per exit: a
#: player holds a square of both at each exit.
FEATURES, MOST_HIDDEN = 5, 64
_LOOSE = 1e-6  # rounding that a saved inverse may show


class Seen(Protocol):
    """What a request has shown up to the exit it has reached; `arm`: chosen at its start; `exit`: where it left."""

    arm: int
    confidences: Sequence[float]
    predictions: Sequence[int]
    hidden: Sequence[Floats]  # of its vectors, where the rule reads them: see `LinUCB.look`
    exit: int | None


class ExitRule(Steering):
    """Settings of such a rule; arm k is exit k, unless it says otherwise."""

    #: Whether the exit depends on more than the arm that was chosen at the start, and what that arm gives.
    contextual: ClassVar[bool] = False

    def exits(self, confidence: Floats) -> Ints:
        """Return the exit of each row (n, K) on each arm, (n, K)."""
        return np.broadcast_to(np.arange(confidence.shape[1]), confidence.shape)


def _prices(name: str, value: Any, allowed: str, least: float = -math.inf) -> tuple[float, ...]:
    """Return prices, one per exit, as plain numbers, or refuse them."""
    found = tuple(numbers(name, value, 1).tolist())
    if not found or found[0] < least or list(found) != sorted(found):
        raise input_error(name, allowed, list(found), "One per exit.")
    return found


def _check_count(name: str, prices: Sequence[float], exits: int) -> None:
    """Refuse prices that are not one per exit of the policy."""
    if len(prices) != exits:
        raise input_error(name, f"one per policy exit: {exits}", len(prices), "In its order.")


# ---- LinUCB


def _as_hidden(name: str, value: Any) -> Hidden | None:
    """Return how vectors are read, perhaps as a file holds it."""
    found = make({name: Hidden}, "setting", name, value) if isinstance(value, Mapping) else value
    if found is None:
        return None
    step = "policyopt.fit_linucb makes the rule."
    check_type(name, found, Hidden, "a Hidden", step)
    check_whole("numbers of hidden at an exit", found.shift.shape[1], 1, MOST_HIDDEN, step)
    return found


@dataclass(frozen=True)
class LinUCB(ExitRule):
    """LinUCB over exits, for the setting of DEE: learns after which exits going on pays.

    DEE (Ju, Bao, Ge & Yuan, "Dynamic Early Exit Scheduling for Deep Neural Network Inference through
    Contextual Bandits", CIKM 2021) takes what an exit shows as the context and decides anew after every exit.
    Its update rule is not public; this is LinUCB with disjoint linear models (Li, Chu, Langford & Schapire,
    WWW 2010, algorithm 1, equations 3 to 5), one model per exit but the last::

        A_k = I + sum phi phi^T,   b_k = sum phi R,   theta_k = A_k^-1 b_k
        go on from exit k  iff  theta_k . phi + alpha sqrt(phi^T A_k^-1 phi) > 0

    Parameters
    ----------
    alpha : float
        Weight of exploration. Worths lie in [-1, 1] and most are far smaller, so that the bound of
        Li et al., above 1, explores for long; 0.5 is a guess that was not fitted to any data.
    inputs : {"history", "features", "both"}
        What phi is made of: confidences and agreement (``1, now, now**2, agrees, before``), the model's
        own vectors (hidden states), or both.
    hidden : Hidden, optional
        How vectors become phi, but with ``history``: `policyopt.fit_linucb` learns it, and makes the rule.

    Notes
    -----
    Departures from Li et al. There is one arm, going on: leaving is worth 0 by definition. R is what the exit
    taken at last was worth beyond exit k, net of the cost between (the return of DEE, not a reward of one
    step), so its mean moves while later exits still learn; requests that stop at exit k say nothing about
    going on from there. A^-1 is kept by the formula of Sherman & Morrison: O(d^2) per exit and request.

    Vectors enter as their V principal components, standardised and divided by sqrt(V): a context as long
    as Chu et al. (AISTATS 2011) assume, about 1, whatever the model's width and scale. The ridge, I, then
    weighs as much as V requests. What a request costs does not grow with their number.

    Nothing is forgotten: after a change of the inputs the models mix old and new requests. Where an exit is
    worth going on from only for what lies far beyond it, models of the exits between can stop short of it.
    """

    alpha: float = setting(0.5, check_positive)
    inputs: str = setting("history", check_one_of, known=INPUTS, step="E.g. both.")
    hidden: Hidden | None = setting(None, _as_hidden)  # noqa: RUF009

    name = "linucb"
    summary = "learns whether going on pays, from confidence and agreement or hidden states (DEE)"
    reference = "LinUCB over exits, for the setting of DEE: learns after which exits going on pays."
    contextual = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.hidden is None) != (self.inputs == "history"):
            allowed = "given with inputs features or both, and only then"
            got = f"{'none' if self.hidden is None else 'one'}, with inputs {self.inputs}"
            step = f"policyopt.fit_linucb(data, inputs='{self.inputs}') makes the rule."
            raise input_error("hidden", allowed, got, step)

    @property
    def width(self) -> int:
        """d, the numbers of phi."""
        if self.hidden is None:
            return FEATURES
        return self.hidden.shift.shape[1] + (1 if self.inputs == "features" else FEATURES)

    def look(self, at: int, vectors: Any, exit: int) -> Floats:
        """Return what phi holds of the vectors (n, D) that an exit gave, (n, V); `exit`: its number."""
        assert self.hidden is not None
        projection, shift = self.hidden.projection[at], self.hidden.shift[at]
        return hidden(vectors, projection, shift, exit) / math.sqrt(len(shift))

    def operations(self, k: int) -> float:
        """Return the multiply-adds at exit k that vectors bring: their projection, and A^-1 phi."""
        own = () if self.hidden is None else self.hidden.projection
        return float(own[k].size + self.width**2) if k < len(own) else 0.0

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> LinUCBPlayer:
        if self.hidden is not None and len(self.hidden.shift) != arms - 1:
            allowed, got = f"for the policy's {arms} exits", f"one for {len(self.hidden.shift) + 1}"
            step = "policyopt.fit_linucb(data, policy=policy) fits it."
            raise input_error("hidden", allowed, got, step)
        return LinUCBPlayer(self, arms)


def context(seen: Seen, at: int) -> Sequence[float]:
    """Return ``(1, now, now**2, agrees, before)`` after an exit: confidences here and before, equal predictions."""
    now = seen.confidences[at]
    if at == 0:
        return 1.0, now, now * now, 0.0, 0.0
    agrees = float(seen.predictions[at] == seen.predictions[at - 1])
    return 1.0, now, now * now, agrees, seen.confidences[at - 1]


class LinUCBPlayer:
    """The models of K-1 exits on one stream: `inverse` (d, d) and `target` (d,), a list each."""

    def __init__(self, rule: LinUCB, exits: int) -> None:
        self.rule, self._own = rule, 1 if rule.inputs == "features" else FEATURES
        self.inverse: list[Floats] = [np.eye(rule.width) for _ in range(exits - 1)]
        self.target: list[Floats] = [np.zeros(rule.width) for _ in range(exits - 1)]
        self._looks: list[tuple[Any, ...]] = [(None,)] * exits

    def choose(self) -> int:
        """Return 0: it plans nothing at the start."""
        return 0

    def _look(self, seen: Seen, at: int) -> tuple[Any, ...]:
        """Return the request, A^-1, phi, A^-1 phi and phi^T A^-1 phi after an exit; the latest is kept."""
        look, inverse = self._looks[at], self.inverse[at]
        if look[0] is not seen or look[1] is not inverse:
            x: Any = context(seen, at)[: self._own]
            x = np.array(x) if self.rule.hidden is None else np.concatenate([x, seen.hidden[at]])
            way = inverse @ x
            self._looks[at] = look = (seen, inverse, x, way, float(x @ way))
        return look

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last."""
        _, _, _, way, width = self._look(seen, at)
        sure = math.sqrt(max(width, 0.0))
        return not float(self.target[at] @ way) + self.rule.alpha * sure > 0.0

    def learn(self, seen: Seen, worth: Sequence[float]) -> None:
        """Take in what a request has shown, and what exits 0 to the one taken were worth, net of cost."""
        gone = len(worth) - 1
        looks = [self._look(seen, k) for k in range(gone)]
        widths = sum(look[-1] for look in looks)
        if not math.isfinite(sum(worth) + sum(seen.confidences[: gone + 1]) + widths):
            raise input_error("worth", "finite numbers", worth, "A NaN would stay for ever.")
        for k, (_, inverse, x, way, width) in enumerate(looks):
            self.inverse[k] = inverse - way[:, None] * way / (1.0 + width)
            self.target[k] = self.target[k] + (worth[gone] - worth[k]) * x

    def state(self) -> dict[str, Any]:
        """Return all that was learned, JSON-able."""
        parts = {"inverse": self.inverse, "target": self.target}
        return {name: [array.tolist() for array in arrays] for name, arrays in parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, checked."""
        state = check_fields("state of linucb", state, ("inverse", "target"))
        if not self.target and state["inverse"] == state["target"] == []:
            return  # a model of one exit has nothing to decide
        shape, wide = (len(self.target), self.rule.width), math.inf
        inverse = saved_numbers("inverse", state["inverse"], (*shape, shape[1]), -2, 2)
        target = saved_numbers("target", state["target"], shape, -wide, wide)
        # A >= I, so A^-1 is symmetric and lies between 0 and I.
        fine = (np.abs(inverse - inverse.swapaxes(1, 2)) <= _LOOSE).all()
        values = np.linalg.eigvalsh(inverse) if fine else np.array([2.0])
        if values.min() < -_LOOSE or values.max() > 1 + _LOOSE:
            raise refused("inverse", "symmetric, with eigenvalues in [0, 1]", state["inverse"])
        self.inverse, self.target = list(inverse), list(target)


# ---- SplitEE


@dataclass(frozen=True)
class SplitEE(ExitRule):
    """SplitEE (Bajpai et al., AIMLSystems 2023, 2309.09195; I-SplitEE, 2401.10541, adds mu).

    An arm is a split layer i of K. The device computes a sample up to exit i and looks at that exit
    alone: with ``conf_i >= alpha`` the sample leaves there, else it is sent on to the last exit L, for
    the price o of sending it. The reward needs no labels::

        conf_i - mu lambda_i          where conf_i >= alpha, or i = L
        conf_L - mu (lambda_i + o)    else

    lambda_i is the cost of computing as far as exit i. alpha is fixed; the bandit learns where to split.

    Parameters
    ----------
    layers : tuple of K floats
        lambda: what computing as far as each exit costs, in units of confidence; ascending, from 0.
    offload : float
        o: what sending a sample on to the last exit costs, in the same units.
    alpha : float
        The confidence from which a sample leaves, in (0, 1]. The paper has 0.7 to 0.85.
    mu : float
        Price of a unit of cost.
    side : bool
        Whether to learn from the exits before the split layer too; see the notes.
    beta : float
        Weight of exploration of UCB1, which chooses the split layer.

    Notes
    -----
    Side observations (SplitEE-S): the device can also look at the exits j < i on its way. The reward of j is
    known where ``conf_j >= alpha``, and where the sample went to the last exit. Where it left at i with
    ``conf_j < alpha`` it is not: conf_L was never computed (the released code takes it from a cache of all
    exits). Left out, what is known lacks samples that exit j did not and exit i did resolve, which would have
    paid o for a confident last exit: arms before the one played look better than they are where o is dear,
    worse where it is cheap. So `side` is off by default. Playing the last exit shows every reward, without
    bias. On the test rows of a 5-exit cascade on CIFAR-10 (o = 0.05, 0.1, 0.2, 0.4, lambda rising to o, alpha
    0.8, UCB1 with c = 1, 10,000 requests) exit 0 looks better by 0.007, 0.012, 0.020, 0.037 while exit 3 is
    played; pseudo-regret is 94, 117, 148, 192 with side observations, 69, 96, 133, 182 without.

    Further departures: UCB1 is the one of our bandits (c is beta), on rewards scaled to [0, 1] by the least and
    the largest there can be, so that exploration is wider by that range than in the released code; arms are
    first played largest first; I-SplitEE's released loop enters updates several times, this does not.

    Examples
    --------
    >>> rule = SplitEE(layers=(0.1, 0.2, 0.3), offload=0.2, alpha=0.8)
    >>> rule.exits(np.array([[0.6, 0.9, 0.95]]))
    array([[2, 1, 2]])
    """

    layers: tuple[float, ...] = setting(
        MISSING, _prices, allowed="ascending numbers from 0 on", least=0.0
    )
    offload: float = setting(MISSING, check_least)
    alpha: float = setting(0.8, check_positive, most=1.0)
    mu: float = setting(1.0, check_least)
    side: bool = setting(False, check_type, kinds=bool, allowed="true or false", step="E.g. false.")
    beta: float = setting(1.0, check_positive)

    name = "splitee"
    summary = "learns at which exit to choose between leaving and the last exit"
    reference = (
        "SplitEE (Bajpai et al., AIMLSystems 2023, 2309.09195; I-SplitEE, 2401.10541, adds mu)."
    )

    def exits(self, confidence: Floats) -> Ints:
        """Return the exit of each row (n, K) for each split layer, (n, K)."""
        last = confidence.shape[1] - 1
        return np.where(confidence >= self.alpha, np.arange(last + 1), last)

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> SplitEEPlayer:
        _check_count("layers", self.layers, arms)
        return SplitEEPlayer(self, seed, stream)


class SplitEEPlayer:
    """UCB1 on the split layers of one stream."""

    def __init__(self, rule: SplitEE, seed: int, stream: int) -> None:
        self.rule, self._last = rule, len(rule.layers) - 1
        self.bandit = UCB1(rule.beta).player(len(rule.layers), seed, stream)
        # What a split layer costs where the sample leaves, and where it is sent on.
        self._own = [rule.mu * cost for cost in rule.layers]
        sent = [rule.mu * (cost + rule.offload) for cost in rule.layers[:-1]]
        self._sent = sent + self._own[-1:]
        self._least = -max(self._own + self._sent)
        self._width = 1.0 - min(self._own) - self._least
        # It chooses, and all that was learned is its own.
        self.choose, self.state = self.bandit.choose, self.bandit.state
        self.restore = self.bandit.restore

    def leaves(self, seen: Seen, at: int) -> bool:
        """Return whether to leave at exit `at`, not the last: only at the split layer."""
        return at == seen.arm and seen.confidences[at] >= self.rule.alpha

    def rewards(self, seen: Seen) -> Iterator[tuple[int, float]]:
        """Yield the split layers whose rewards a request has shown, and these."""
        split, confidence = seen.arm, seen.confidences
        for j in range(0 if self.rule.side else split, split + 1):
            if j == self._last or confidence[j] >= self.rule.alpha:
                yield j, confidence[j] - self._own[j]
            elif seen.exit == self._last:
                yield j, confidence[self._last] - self._sent[j]

    def learn(self, seen: Seen, worth: Sequence[float]) -> None:
        """Take in the confidences seen; its reward has prices of its own."""
        for j, reward in self.rewards(seen):
            self.bandit.learn(j, j, [0.0] * j + [(reward - self._least) / self._width])


# ---- UEE-UCB


@dataclass(frozen=True)
class UEEUCB(ExitRule):
    """UEE-UCB: one exit for all, found without labels from how exits disagree (2209.09480).

    Hari Narayan, Hanawal & Bhardwaj, "Unsupervised Early Exit in DNNs with Multiple Exits" (AIMLSystems
    2022), bring USS-UCB (Verma, Hanawal, Szepesvari & Saligrama, "Online Algorithm for Unsupervised
    Sensor Selection", AISTATS 2019) to exits. An arm is an exit. The loss of exit i is c_i + error_i; no
    error is ever seen, but playing exit i shows what exits 0 to i predict. Under strong dominance,
    where an exit that is right is followed by exits that are right::

        error_i - error_j = P(prediction_i != prediction_j) = p_ij   for i < j,

    so that exits compare by how often they disagree. After playing the last exit once, each round plays
    the smallest exit i from which no later exit is worth its cost, for all that is known::

        c_j - c_i >= p_ij + sqrt(alpha ln t / N_j)   for all j > i,

    p_ij the share of disagreements among the N_j rounds that reached exit j. It suffices that
    ``c_j - c_i > p_ij`` for the best i and all j > i (weak dominance). Where exits overthink, or swap errors,
    p_ij is larger than what going on gains, and the exit found is deeper than the best.

    Parameters
    ----------
    costs : tuple of K floats
        Of leaving at each exit, in units of the error rate: ascending.
    alpha : float
        Weight of exploration; the analysis of USS-UCB needs more than 1/2.

    Notes
    -----
    The papers' numbered equations were not at hand. Departures: bounds are not clipped at 1 (no choice changes
    where costs differ by less than 1); t counts requests, also those whose feedback is late or lost.
    """

    costs: tuple[float, ...] = setting(MISSING, _prices, allowed="ascending numbers")
    alpha: float = setting(0.51, check_positive)

    name = "uee_ucb"
    summary = "finds the one best exit from how often exits disagree"
    reference = (
        "UEE-UCB: one exit for all, found without labels from how exits disagree (2209.09480)."
    )

    def player(self, arms: int, seed: int = 0, stream: int = 0) -> UEEPlayer:
        _check_count("costs", self.costs, arms)
        return UEEPlayer(self)


class UEEPlayer:
    """Rounds that `reached` each exit (K), and how often j and i < j disagreed: `differ[j][i]`."""

    def __init__(self, rule: UEEUCB) -> None:
        exits = len(rule.costs)
        self.rule, self.rounds = rule, 0
        self.reached = [0] * exits
        self.differ = [[0] * j for j in range(exits)]

    def choose(self) -> int:
        """Return the exit for the next request: O(K^2)."""
        self.rounds += 1
        costs, reached, last = self.rule.costs, self.reached, len(self.reached) - 1
        if not reached[last]:
            return last
        clock = self.rule.alpha * math.log(self.rounds)
        later = [
            (c, differ, n, math.sqrt(clock / n))
            for c, differ, n in zip(costs, self.differ, reached, strict=True)
        ]
        for i in range(last):
            for c, differ, n, bound in later[:i:-1]:
                if c - costs[i] < differ[i] / n + bound:
                    break
            else:
                return i
        return last

    def leaves(self, seen: Seen, at: int) -> bool:
        return at == seen.arm

    def learn(self, seen: Seen, worth: Sequence[float]) -> None:
        """Take in what the exits up to the one taken have predicted; no reward is needed."""
        prediction = seen.predictions
        for j in range(seen.arm + 1):
            self.reached[j] += 1
            row, own = self.differ[j], prediction[j]
            for i in range(j):
                row[i] += prediction[i] != own

    def state(self) -> dict[str, Any]:
        differ = [list(row) for row in self.differ]
        return {"rounds": self.rounds, "reached": list(self.reached), "differ": differ}

    def restore(self, state: Mapping[str, Any]) -> None:
        state = check_fields("state of uee_ucb", state, ("rounds", "reached", "differ"))
        exits, table = len(self.reached), state["differ"]
        reached = saved_counts("reached", state["reached"], exits, state["rounds"])
        if any(after > n for n, after in pairwise(reached)):
            raise refused("reached", "counts that never rise from exit to exit", reached)
        if not isinstance(table, list) or len(table) != exits:
            raise refused("differ", f"a list of {exits} lists", table)
        differ = [saved_counts("differ", row, j, reached[j]) for j, row in enumerate(table)]
        self.rounds, self.reached, self.differ = state["rounds"], reached, differ


#: By name.
EXIT_RULES: dict[str, type[ExitRule]] = {rule.name: rule for rule in (LinUCB, SplitEE, UEEUCB)}
