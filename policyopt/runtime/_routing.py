"""`RoutingPolicy`: which model to ask first, and after each answer whether to stop or which model to ask next.

Models are called in any order. What has been called is a *standing*, a set of models, and it is all that matters of
the past besides what they said: the answer is their ensemble's, and for every model that may be asked next one short
sum says by how much asking it is worth more than to stop. Asked is the one that is worth most, while that is more
than 0. With two arms a coin by the sample's number says which decides, so that any mean cost can be met. Where a query
is known of a sample before, the standing in which nobody has been called says who is first, likewise.

A policy that explores calls a model at random now and then, by coins of their own, so that its log tells what other
choices would have come to: at each decision one request in ``2 / explore`` begins to, and from then on does so at every
other decision. Dearer models are drawn less often, as the inverse root of their cost: most is learnt for what is paid.

Answers are joined by a product of powers of the models' distributions, times a power of their mean (the logarithmic and
the linear opinion pool: Genest & Zidek, Statistical Science 1, 1986), of records by votes with the log odds that each
is right, weighed likewise; a standing has powers of its own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from random import getrandbits
from typing import Any

import numpy as np
import numpy.typing as npt

from ._answers import Identity
from ._arithmetic import coin, row_product, sigmoid
from ._checks import MAX_NAME, check_seed, check_share, check_text, check_type, sample_numbers
from ._errors import InputError, input_error
from ._files import write_file
from ._kinds import KINDS
from ._outputs import ExitOutput, log_probabilities
from ._parameters import numbers
from ._policy import Decisions, Next, Observer, _exactly
from ._query import Query
from ._reading import as_array, number_answer, read_exits, text_of
from ._shown import Shown
from ._strict_json import AGAIN, Form, to_text
from ._typing import Array, Bools, Floats, Ints

MAX_MODELS, MAX_STANDINGS, MAX_KNOTS = 256, 4096, 16
#: Of the dearest cost: what a model is taken to cost at least where one is drawn.
CHEAP = 0.01
_EDGE = 1e-6  # probabilities are kept so far from 0 and 1 where their log odds are taken
#: Columns that every standing has: the ensemble's log odds, entropy and margin, the share that agrees, their squares,
#: and the first times the last.
GENERAL = 9
OWN = 2  # of each model, beside its knots: how sure it is, whether its answer is the given one
_LEAST = 1e-30  # of a probability
_STEP = "Check the policy, or fit it again."


@dataclass(frozen=True, eq=False)
class Standing:
    """What follows where a set of models has been called.

    Parameters
    ----------
    called : tuple of int
        The models, ascending.
    powers : array of shape (S,)
        Of each model's distribution, or vote, in their product.
    parts : array of shape (S,), or (0,)
        Of each model's distribution in their mean; their sum is the power by which the mean multiplies the product.
    answerer : int
        The model whose answer is given, or -1: the ensemble's.
    actions : tuple of int
        The models that may be asked next.
    weights : array of shape (A, M + 1)
        Offset, and weight per column of `Ensemble.look`: what asking each is worth more than to stop.
    """

    called: tuple[int, ...]
    powers: Floats
    answerer: int = -1
    actions: tuple[int, ...] = ()
    weights: Floats = field(default_factory=lambda: np.empty((0, 0)))
    parts: Floats = field(default_factory=lambda: np.empty(0))

    def gains(self, columns: Floats) -> Floats:
        """Return by how much asking each is worth more than to stop, (n, A)."""
        return row_product(columns, self.weights[:, 1:]) + self.weights[:, 0]


@dataclass(frozen=True, eq=False)
class Ensemble:
    """How answers of several models are joined.

    Parameters
    ----------
    odds : array of shape (K, 2)
        Offset and slope of the log odds that a model is right, by those of its confidence.
    costs : array of shape (K,)
        Mean cost of each model alone.
    classes : int
        C; 0 where nobody says.
    timed : bool
        Whether what has been paid, beside what is usual, is one more column.
    temper : array of shape (K,)
        Power of each model's distribution where it is a part of a mean.
    answers : float
        Of records: among how many answers wrong ones are divided; the more, the more it says that two are the same.
    knots : array of shape (K, J)
        Where, along how sure each model is, what others are worth may bend.
    query : Query, optional
        What is known of a sample before: the last columns, and the only ones where nobody has been called.
    """

    odds: Floats
    costs: Floats
    classes: int
    timed: bool
    temper: Floats
    answers: float
    knots: Floats
    query: Query | None = None

    @property
    def own(self) -> int:
        """How many columns each model that has been called brings."""
        return OWN + self.knots.shape[1]

    def width(self, called: Sequence[int]) -> int:
        """Return M, the columns of a standing."""
        own = GENERAL + self.own * len(called) + self.timed if called else 0
        return own + (0 if self.query is None else len(self.query.weights))

    def sure(self, output: ExitOutput, model: int) -> Floats:
        """Return the log odds that a model's answer is right, (n,)."""
        p = np.clip(np.nan_to_num(output.confidence), _EDGE, 1.0 - _EDGE)
        return self.odds[model, 0] + self.odds[model, 1] * np.log(p / (1.0 - p))

    def evidence(
        self, seen: Mapping[int, ExitOutput], called: Sequence[int]
    ) -> tuple[list[Floats], Floats, Array]:
        """Return what each model says of V answers, (n, V) each, what is said before, and the answers, (n or 1, V).

        Of distributions the answers are all classes. Of records they are those given, whoever gave one first, each with
        the log odds that its model is right, and, as -1, all that nobody gave.
        """
        if seen[called[0]].log_prob is not None:
            logs = [log_probabilities(seen[m]) for m in called]
            return logs, np.zeros((1, self.classes)), np.arange(self.classes)[None]
        said = np.stack([seen[m].prediction for m in called], axis=1)
        alike = said[:, :, None] == said[:, None, :]
        first = (alike.argmax(axis=2) == np.arange(len(called))) & (said >= 0)
        others = np.maximum(self.answers - first.sum(axis=1), 1e-9)[:, None]
        base = np.concatenate([np.where(first, 0.0, -np.inf), np.log(others)], axis=1)
        nobody = np.zeros((len(said), 1))
        votes = [self.sure(seen[m], m) + np.log(self.answers - 1.0) for m in called]
        logs = [
            np.concatenate([alike[:, :, at] * vote[:, None], nobody], axis=1)
            for at, vote in enumerate(votes)
        ]
        return logs, base, np.concatenate([said, np.full((len(said), 1), -1)], axis=1)

    def tally(self, seen: Mapping[int, ExitOutput], one: Standing) -> tuple[Floats, Array]:
        """Return the scores of V answers, (n, V), -inf of none, and the answers, (n, V) or (1, V)."""
        logs, base, said = self.evidence(seen, one.called)
        return self.score(logs, one) + base, said

    def score(self, logs: Sequence[Floats], one: Standing) -> Floats:
        """Return what a standing's models say of V answers together, (n, V), by the evidence of each."""
        score = np.zeros_like(logs[0])
        for log, power in zip(logs, one.powers.tolist(), strict=True):
            score += power * log
        if len(one.parts):
            mean, power = np.zeros_like(score), sum(one.parts.tolist())
            for m, log, part in zip(one.called, logs, one.parts.tolist(), strict=True):
                mean += part / power * shares(float(self.temper[m]) * log)
            score += power * np.log(np.maximum(mean, _LEAST))
        return score

    def look(
        self, seen: Mapping[int, ExitOutput], one: Standing, paid: Floats | None = None,
        query: Floats | None = None,
    ) -> tuple[Array, Floats]:  # fmt: skip
        """Return a standing's answers, (n,) int32, and the columns that decide what follows, (n, M)."""
        answer, share = joined(*self.tally(seen, one))
        if one.answerer >= 0:
            answer = seen[one.answerer].prediction
        return answer, self.columns(seen, one.called, answer, share, paid, query)

    def confidence(self, one: Standing, columns: Floats) -> Floats:
        """Return the probability that a standing's answer is right, as far as the models say, (n,)."""
        own = one.answerer >= 0
        return sigmoid(
            columns[:, GENERAL + self.own * one.called.index(one.answerer) if own else 0]
        )

    def columns(
        self, seen: Mapping[int, ExitOutput], called: Sequence[int], answer: Array, share: Floats,
        paid: Floats | None = None, query: Floats | None = None,
    ) -> Floats:  # fmt: skip
        """Return the columns of a standing, (n, M); `share`: top, second, entropy of the ensemble, (n, 3)."""
        agrees = np.stack([seen[m].prediction == answer for m in called], axis=1).astype(np.float64)
        top = np.clip(share[:, 0], 0.01, 0.9999)
        out = [np.log(top / (1.0 - top)), share[:, 2], share[:, 0] - share[:, 1]]
        out.append(agrees.mean(axis=1))
        out += [*(column**2 for column in out), out[0] * out[3]]
        for at, m in enumerate(called):
            sure = self.sure(seen[m], m)
            over = (np.maximum(sure - knot, 0.0) for knot in self.knots[m].tolist())
            out += [sure, *over, agrees[:, at]]
        if self.timed:
            usual = self.costs[list(called)].sum()
            spent = np.full(len(answer), usual) if paid is None else paid
            least = 1e-9 * self.costs.sum()  # of what is free by itself
            out.append(np.log(np.maximum(spent, least) / max(usual, least)))
        own = np.stack(out, axis=1)
        return own if query is None else np.concatenate([own, query], axis=1)


def joined(score: Floats, said: Array) -> tuple[Array, Floats]:
    """Return the best answers, (n,) int32, -1 where there is none, and top share, second share and entropy, (n, 3)."""
    here, said = np.arange(len(score)), np.broadcast_to(said, score.shape)
    share = shares(score)
    given = np.where(said >= 0, share, -1.0)
    best = np.where(said >= 0, score, -np.inf).argmax(axis=1)
    entropy = -(share * np.log(np.maximum(share, 1e-30))).sum(axis=1)
    top, answer = np.maximum(given[here, best], 0.0), said[here, best].astype(np.int32)
    given[here, best] = 0.0
    return answer, np.stack([top, np.maximum(given.max(axis=1), 0.0), entropy], axis=1)


def shares(score: Floats) -> Floats:
    """Return the probabilities of V answers by their scores, (n, V)."""
    share = np.exp(score - score.max(axis=1, keepdims=True))
    return share / share.sum(axis=1, keepdims=True)


@dataclass(frozen=True, eq=False)
class Arm:
    """A way to route: the model that is asked first, and what follows by what has been called.

    A standing of none, where there is a query, says by how much another first model is worth more than `first`.
    """

    first: int
    standings: tuple[Standing, ...]

    @cached_property
    def by_called(self) -> dict[tuple[int, ...], Standing]:
        """The standings by their models."""
        return {one.called: one for one in self.standings}

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """The models that have standings of their own."""
        return tuple(one.called[0] for one in self.standings if len(one.called) == 1)

    def firsts(self, query: Floats | None, n: int) -> Ints:
        """Return the models that are asked first, (n,), by the columns of a query, (n, Q)."""
        root, found = self.by_called.get(()), np.full(n, self.first)
        if root is None or query is None:
            return found
        gains = root.gains(query)
        others = np.array(root.actions)[gains.argmax(axis=1)]
        return np.where(gains.max(axis=1) > 0, others, found)


@dataclass(eq=False)
class Route(Next):
    """Where one sample stands; owned by the caller, advanced by `RoutingPolicy.step`."""

    arm: Arm
    next: int | None  # number of the model to ask; None: stop
    names: tuple[str, ...] = ()
    seen: dict[int, ExitOutput] = field(default_factory=dict)
    paid: float = 0.0
    sample: int = 0
    explores: bool = False
    #: Of each decision so far, the probability of what was done.
    propensity: list[float] = field(default_factory=list)
    said: dict[int, Any] = field(default_factory=dict)  # what models said, as it was given
    spent: list[float] = field(default_factory=list)
    prediction: int = -1
    confidence: float = 0.0  # that the answer is right, as far as the models say
    level: int = 0  # of a family
    query: Floats | None = None  # its columns, (1, Q)
    texts: dict[str, str] | None = None  # answers that are texts, by what they have in common


@dataclass(frozen=True)
class Routed:
    """What `RoutingPolicy.step` says after a model's answer.

    Attributes
    ----------
    next : int or None
        Number of the model to ask next; None: stop here.
    prediction : int or str
        Class of the answer that would be given now, -1 where nobody has answered; or the text, None.
    gain : float
        By how much asking `next` (or the best that might be asked) is worth more than to stop.
    model : str or None
        Name of the model to ask next; its number as text where models have no names.
    confidence : float
        The prediction's share of the ensemble; of one model's own answer, how often such are right by its confidence.
    """

    next: int | None
    prediction: Any
    gain: float
    model: str | None = None
    confidence: float = 0.0

    @property
    def exit(self) -> bool:
        """Whether to stop."""
        return self.next is None


@dataclass(frozen=True)
class Followed(Decisions):
    """What a policy did with n samples; `exit` is the last model that was asked.

    Attributes
    ----------
    turn : ndarray of shape (n, K), int64
        When each model was asked, from 1; 0 where it was not.
    answerer : ndarray of shape (n,), int64
        The model whose answer it is; -1 where several are joined.
    propensity : ndarray of shape (n, K)
        How likely the decision was to ask each model, of a policy that explores; 1 of models not asked.
    confidence : ndarray of shape (n,)
        Probability that the answer is right, as far as the models say.
    """

    turn: Ints
    answerer: Ints
    propensity: Floats
    confidence: Floats

    @property
    def called(self) -> Bools:
        """Which models were asked, (n, K)."""
        return self.turn > 0


@dataclass(frozen=True, eq=False, repr=False)
class RoutingPolicy(Shown):
    """Which model to ask first, next, and when to stop: numpy only, ready to deploy.

    Parameters
    ----------
    arms : tuple of Arm
        One, or two between which a coin decides.
    share : float
        Of samples that the second arm decides about.
    seed : int
        Of the coin.
    ensemble : Ensemble
    unit, kind : str
        Of costs; of what `step` and `decide` are given.
    provenance : mapping
        How it was found; JSON-able, not used to decide.
    names : tuple of str
        Of the models; empty where they have none.
    explore : float
        About the share of requests that call some model at random, in [0, 1), see `exploring`.

    Raises
    ------
    InputError
        Standings that lead nowhere, of models that are not there, or whose weights do not fit.

    Examples
    --------
    >>> ensemble = Ensemble(
    ...     np.array([[0.0, 1], [0, 1]]),
    ...     np.array([1.0, 5]),
    ...     2,
    ...     False,
    ...     np.ones(2),
    ...     3.0,
    ...     np.zeros((2, 1)),
    ... )
    >>> ask = Standing((0,), np.ones(1), -1, (1,), np.array([[1.0, -1, *[0] * 11]]))
    >>> arm = Arm(0, (ask, Standing((0, 1), np.ones(2))))
    >>> policy = RoutingPolicy((arm,), 0.0, 0, ensemble, "ms", "probabilities")
    >>> policy.decide(np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.6, 0.4], [0.1, 0.9]]])).cost
    array([1., 6.])
    >>> route = policy.start()
    >>> first, second = (policy.step(output, route) for output in ([0.6, 0.4], [0.1, 0.9]))
    >>> first.next, second.next, second.prediction, round(second.confidence, 3)
    (1, None, 1, 0.857)
    """

    arms: tuple[Arm, ...]
    share: float
    seed: int
    ensemble: Ensemble
    unit: str
    kind: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    explore: float = 0.0

    # What other policies have, too.
    abstention, mixture, calibrator, error_scale = None, None, None, 0.0
    abstains, needs_features = False, False

    def __post_init__(self) -> None:
        check_routing(self)

    def __repr__(self) -> str:
        return f"RoutingPolicy({self.model_exits} models, {len(self.arms)} arms, {self.unit})"

    @property
    def costs(self) -> Floats:
        """Mean cost of each model alone, (K,)."""
        return self.ensemble.costs

    @property
    def classes(self) -> int:
        """C; 0 where nobody says."""
        return self.ensemble.classes

    @property
    def model_exits(self) -> int:
        """K, the models."""
        return len(self.costs)

    @property
    def span(self) -> float:
        """By how much what samples cost on average may differ."""
        return float(self.costs.sum() - self.costs.min())

    def ways(self, costs: Floats) -> Floats:
        """Return what requests may cost, (S,), by the cost of each model alone, (K,)."""
        calls = {one.called for arm in self.arms for one in arm.standings if one.called}
        return np.array([costs[list(called)].sum() for called in sorted(calls)])

    def load(self, called: Bools) -> Floats:
        """Return what calls of models, (n, K), cost on average, as a share: 0 the cheapest alone, 1 all of them."""
        low = self.costs.min()
        return (called @ self.costs - low) / max(float(self.costs.sum() - low), 1e-300)

    @property
    def asked_first(self) -> list[str]:
        """Names of the models of which one is asked first: by the arms' coin, and by the query."""
        roots = [one for arm in self.arms if (one := arm.by_called.get(())) is not None]
        models = [*(arm.first for arm in self.arms), *(m for one in roots for m in one.actions)]
        return [self.called(m) for m in dict.fromkeys(models)]

    def called(self, model: int) -> str:
        """Return what a model is called: its name, or its number as text."""
        return self.names[model] if self.names else str(model)

    @property
    def active_exits(self) -> tuple[int, ...]:
        """Numbers of the models that may be asked."""
        return tuple(sorted({m for arm in self.arms for one in arm.standings for m in one.called}))

    @cached_property
    def observer(self) -> Observer:
        """How outputs are looked at."""
        return Observer(Identity(), KINDS[self.kind], self.classes, full=KINDS[self.kind].whole)

    def start(self, sample: int | None = None, query: npt.ArrayLike | None = None) -> Route:
        """Begin a sample; its number decides where a coin does.

        Parameters
        ----------
        sample : int, optional
            A number of its own; default one drawn at random, so that another run may decide otherwise.
        query : array of shape (D,), where the policy `needs_query`
            What is known of the sample before any model is asked, as the cache had it.

        Returns
        -------
        Route
            ``next`` is the model to ask first.
        """
        number = sample_numbers(getrandbits(62) if sample is None else sample).reshape(1)
        arm, known = self.arms[int(self._second(number)[0])], self._known(query, 1)
        route = Route(arm, None, self.names, query=known, sample=int(number[0]))
        self._decided(route, arm.starts, arm.starts.index(int(arm.firsts(known, 1)[0])))
        return route

    def step(self, output: object, route: Route, cost: float | None = None) -> Routed:
        """Say what follows the answer of the model that was asked, ``route.next``.

        Parameters
        ----------
        output : array of shape (C,), or mapping for records
            With ``prediction``, or ``answer``, a text (None: there was none): then predictions are texts, too.
        route : Route
            From `start`; advanced in place.
        cost : float, optional
            What the call cost, where the policy `needs_costs`; default what it costs on average.

        Returns
        -------
        Routed

        Raises
        ------
        InputError
            A route that has ended; a wrong shape, NaN or infinity; a cost that is none.
        """
        step = "E.g. policy.step(output, route)."
        check_type("route", route, Route, "what `start` gave, after the output", step)
        model = route.next
        if model is None:
            raise input_error("route", "one that goes on", "one that has ended", "Start a sample.")
        if self.observer.kind.record:
            output = number_answer(output, route, self.provenance)
        elif not isinstance(output, ExitOutput):
            output = as_array(output).reshape(1, -1).copy()
        route.seen[model] = self._look(model, output, 1)
        route.said[model] = dict(output) if isinstance(output, Mapping) else output
        spent = float(self.costs[model])
        if cost is not None:
            if isinstance(cost, bool) or not isinstance(cost, Real) or not 0 <= cost < np.inf:
                raise input_error("cost", "a finite number, 0 or more", cost, f"In {self.unit}.")
            spent = float(cost)
        route.paid += spent
        route.spent.append(spent)
        one = route.arm.by_called[tuple(sorted(route.seen))]
        answer, columns = self.ensemble.look(route.seen, one, np.array([route.paid]), route.query)
        gains = one.gains(columns)[0] if one.actions else np.zeros(1)
        best, route.prediction = int(gains.argmax()), int(answer[0])
        route.confidence = float(self.ensemble.confidence(one, columns)[0])
        self._decided(route, one.actions, best if gains[best] > 0 else -1)
        told = text_of(route.prediction, route)
        return Routed(route.next, told, float(gains[best]), route.model, route.confidence)

    def _decided(self, route: Route, models: tuple[int, ...], wanted: int) -> None:
        """Go on with the model at the wanted place, -1: stop; or, exploring, with another."""
        does, chance, explores = self._explored(
            np.array([route.sample]), len(route.seen), models, np.array([wanted]), np.array([route.explores])
        )  # fmt: skip
        route.next = models[does[0]] if does[0] >= 0 else None
        route.propensity.append(float(chance[0]))
        route.explores = bool(explores[0])

    def _explored(
        self, samples: Ints, made: int, models: Sequence[int], wanted: Ints, explores: Bools
    ) -> tuple[Ints, Floats, Bools]:
        """Return what is done after `made` calls, (n,), a place or -1: stop; how likely that is; who explores now."""
        if not self.explore or not models:
            return wanted, np.ones(len(samples)), explores
        share = np.maximum(self.costs[list(models)], CHEAP * self.costs.max()) ** -0.5
        share /= share.sum()
        chance = np.where(explores, 0.5, self.explore / 2)
        draws = coin(self.seed, samples, 2 * made + 1) < chance
        at = np.searchsorted(share.cumsum(), coin(self.seed, samples, 2 * made + 2), side="right")
        does = np.where(draws, np.minimum(at, len(models) - 1), wanted)
        likely = chance * np.where(does >= 0, share[does], 0.0) + (1 - chance) * (does == wanted)
        return does, likely, explores | draws

    def exploring(self, explore: float) -> RoutingPolicy:
        """Return the policy, exploring: of about this share of requests, in [0, 1), some model is called at random.

        Models that the policy never begins with may come first, too; after such a one it stops, where it does not
        explore. `DecisionLog` writes what was done, and how likely that was; replays pay for it. 0 ends it.
        """
        known = {one.called: one for arm in self.arms for one in arm.standings if one.called}
        models = range(self.model_exits)
        for m in models:
            if (m,) not in known:
                then = tuple(a for a in models if tuple(sorted((m, a))) in known)
                weights = np.zeros((len(then), self.ensemble.width((m,)) + 1 if then else 0))
                known[m,] = Standing((m,), np.ones(1), m, then, weights)
        arms = [(arm.first, known | arm.by_called) for arm in self.arms]
        opened = tuple(
            Arm(first, tuple(own[called] for called in sorted(own))) for first, own in arms
        )
        return replace(self, arms=opened if explore else self.arms, explore=explore)

    def decide(
        self,
        outputs: object,
        samples: npt.ArrayLike | None = None,
        costs: npt.ArrayLike | None = None,
        query: npt.ArrayLike | None = None,
    ) -> Followed:
        """Decide for many samples of which all models' outputs are known.

        Parameters
        ----------
        outputs : array of shape (N, K, C), or sequence of K outputs of one model each
        samples : array of shape (N,), int, optional
            Their numbers; default 0..N-1.
        costs : array of shape (N, K), optional
            What each call costs; default the means.
        query : array of shape (N, D), where the policy `needs_query`
            What is known of the samples before.

        Returns
        -------
        Followed
        """
        n, rows = read_exits(
            outputs, self.model_exits, KINDS[self.kind], self.classes, self.active_exits
        )
        seen = {m: self._look(m, rows(m, slice(None)), n) for m in self.active_exits}
        return self.follow(seen, sample_numbers(samples, n), costs, query)

    def follow(
        self, seen: Mapping[int, ExitOutput], samples: Ints, costs: npt.ArrayLike | None = None,
        query: npt.ArrayLike | None = None, told: Any = None,
    ) -> Followed:  # fmt: skip
        """Decide for n samples whose outputs are looked at already; costs (K,) or (n, K) of each model alone.

        `told` is called with rows, their standing, its columns and what is found so far.
        """
        n = len(samples)
        known = self._known(query, n)
        each = self.each_cost(costs, n)
        found = Followed(
            np.zeros(n, np.int64), np.full(n, -1, np.int32), np.zeros(n), np.zeros(n, bool),
            np.zeros((n, self.model_exits), np.int64), np.full(n, -1), np.ones((n, self.model_exits)), np.zeros(n),
        )  # fmt: skip
        second, explores = self._second(samples), np.zeros(n, dtype=bool)
        for number, arm in enumerate(self.arms):
            waiting: dict[tuple[int, ...], Any] = {}

            def go_on(
                rows: Ints, called: tuple[int, ...], models: tuple[int, ...], wanted: Ints,
                waiting: dict[tuple[int, ...], Any] = waiting,
            ) -> None:  # fmt: skip
                does, likely, explores[rows] = self._explored(
                    samples[rows], len(called), models, wanted, explores[rows]
                )
                for at, m in enumerate(models):
                    mine = does == at
                    found.propensity[rows[mine], m] = likely[mine]
                    after = tuple(sorted((*called, m)))
                    waiting.setdefault(after, []).append((m, rows[mine]))

            mine = np.flatnonzero(second == number)
            first = arm.firsts(None if known is None else known[mine], len(mine))
            order = np.argsort(arm.starts)
            go_on(mine, (), arm.starts, order[np.searchsorted(arm.starts, first, sorter=order)])
            # Smaller standings first: what comes to one comes from these.
            for called in sorted(arm.by_called, key=len):
                arrived = [(m, rows) for m, rows in waiting.pop(called, []) if len(rows)]
                if not arrived:
                    continue
                for m, rows in arrived:
                    found.turn[rows, m], found.exit[rows] = len(called), m
                    found.cost[rows] += each[rows, m]
                here = np.sort(np.concatenate([rows for _, rows in arrived]))
                one = arm.by_called[called]
                part = {m: seen[m].take(here) for m in called}
                asked = None if known is None else known[here]
                answer, columns = self.ensemble.look(part, one, found.cost[here], asked)
                found.prediction[here], found.answerer[here] = answer, one.answerer
                found.confidence[here] = self.ensemble.confidence(one, columns)
                if told is not None:
                    told(here, one, columns, found)
                if not one.actions:
                    continue
                gains = one.gains(columns)
                best = gains.argmax(axis=1)
                on = gains[np.arange(len(here)), best] > 0
                go_on(here, called, one.actions, np.where(on, best, -1))
        return found

    @property
    def needs_costs(self) -> bool:
        """Whether what calls have cost helps to decide."""
        return self.ensemble.timed

    @property
    def needs_query(self) -> int:
        """How many numbers must be known of a sample before any model is asked; 0: none."""
        return 0 if self.ensemble.query is None else len(self.ensemble.query.center)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, one JSON file, atomically."""
        write_file(path, self.file_text())

    def file_text(self) -> str:
        """Return what `save` writes."""
        return to_text(routing_to_dict(self), "policy", MAX_ROUTING_BYTES, indent=1)

    def _known(self, query: Any, n: int) -> Floats | None:
        """Return the columns of queries, (n, Q)."""
        given, own = self.read_query(query, n), self.ensemble.query
        return None if own is None or given is None else own.columns(given)

    def read_query(self, query: Any, n: int) -> Floats | None:
        """Return the queries of n samples, (n, D); refused where they lack, or are of no use."""
        own = self.ensemble.query
        if (own is None) != (query is None):
            allowed = f"given: {self.needs_query} numbers per sample" if own else "left out"
            step = "Give what the cache had under that key: policy.start(sample, query=...)."
            if own is None:
                step = "The policy was fitted on a cache without: import with a key query, and fit."
            raise input_error("query", allowed, "none" if own else "one", step)
        return None if own is None else own.read(query, n)

    def each_cost(self, costs: npt.ArrayLike | None, n: int) -> Floats:
        """Return what each call costs, (n, K); refused unless numbers of 0 or more, one per model, or row and model."""
        given, k = np.asarray(self.costs if costs is None else costs), self.model_exits
        good = given.dtype.kind in "fiu" and given.shape in ((k,), (n, k))
        if not good or not (np.isfinite(given) & (given >= 0)).all():
            got = f"shape {given.shape}, dtype {given.dtype}, or a number below 0 or not finite"
            allowed = f"numbers of 0 or more, of shape ({k},) or ({n}, {k})"
            raise input_error("costs", allowed, got, "What each model's call costs by itself.")
        return np.broadcast_to(given, (n, k)).astype(np.float64)

    def _second(self, samples: Ints) -> Bools:
        if len(self.arms) == 1:
            return np.zeros(len(samples), dtype=bool)
        return coin(self.seed, samples) < self.share

    def _look(self, model: int, output: Any, n: int) -> ExitOutput:
        state = self.observer.start(n)
        return self.observer.look(model, output, state, n, f"output of model {model}")[0]


def check_next(k: Any, route: Route) -> None:
    """Refuse a model that is not the one to ask."""
    if type(k) is bool or k != route.next:
        step = "Loop while route.next is not None."
        raise input_error("k", f"the model to ask, {route.next}", k, step)


def only_routing(routes: bool, **given: Any) -> None:
    """Refuse what nobody but routing looks at."""
    for name, value in given.items():
        if value is not None and not routes:
            step = "Leave it out: it is not looked at."
            raise input_error(name, "left out where exits come in turn", "one", step)


def no_thresholds(argument: str, what: str = "") -> InputError:
    """Return why a policy that asks models in any order will not do, `what` for."""
    step = "E.g. --method subset: which models to ask, in their order, by thresholds."
    allowed = "one with thresholds" + (f", for {what}" if what else "")
    return input_error(argument, allowed, "routing, which has none", step)


def check_routing(policy: RoutingPolicy) -> None:
    """Refuse a policy that does not hang together."""
    ensemble, k = policy.ensemble, policy.model_exits
    if policy.kind not in KINDS or not KINDS[policy.kind].answers_class:
        raise input_error("kind", "one whose answers are classes", policy.kind, _STEP)
    shapes = ensemble.odds.shape, ensemble.temper.shape, ensemble.knots.shape[:1]
    if not 1 <= k <= MAX_MODELS or shapes != ((k, 2), (k,), (k,)):
        raise input_error("models", f"1 to {MAX_MODELS}, each with its numbers", k, _STEP)
    fine = all(
        bool(np.isfinite(some).all()) for some in (ensemble.odds, ensemble.temper, ensemble.knots)
    )
    if not (fine and 2 <= ensemble.answers < 1 << 31 and ensemble.knots.shape[1] <= MAX_KNOTS):
        allowed = f"finite, {MAX_KNOTS} or fewer of each model; 2 answers or more"
        got = f"{ensemble.knots.shape[1]}, of {ensemble.answers} answers"
        raise input_error("knots", allowed, got, _STEP)
    low, high = float(ensemble.costs.min()), float(ensemble.costs.max())
    if not (
        2 * KINDS[policy.kind].whole <= ensemble.classes < 1 << 31 and low >= 0 and 0 < high < 1e300
    ):
        got = f"{ensemble.classes} classes, costs {ensemble.costs.tolist()[:20]}"
        raise input_error("classes and costs", "0 or more, not all costs 0", got, _STEP)
    check_text("unit", policy.unit)
    if len(policy.names) not in (0, k) or len(set(policy.names)) < len(policy.names):
        raise input_error("names", f"none, or {k}, each its own", str(policy.names)[:200], _STEP)
    for name in policy.names:
        check_text("names", name, MAX_NAME)
    check_seed(policy.seed)
    check_share("explore", policy.explore)
    if policy.explore == 1:
        raise input_error("explore", "a share of requests, below 1", 1, "E.g. 0.1.")
    if not 1 <= len(policy.arms) <= 2 or not 0 <= policy.share <= 1:
        raise input_error("arms", "one, or two and a share in [0, 1]", len(policy.arms), _STEP)
    for arm in policy.arms:
        known: Any = getattr(arm, "fits", (None, ""))  # of another policy: levels share arms
        if known[0] is ensemble and known[1] == policy.kind:
            continue
        if len(arm.by_called) != len(arm.standings) or len(arm.standings) > MAX_STANDINGS:
            got = len(arm.standings)
            raise input_error("standings", f"{MAX_STANDINGS} or fewer, each once", got, _STEP)
        if (arm.first,) not in arm.by_called:
            raise input_error("first", "a model with a standing of its own", arm.first, _STEP)
        for one in arm.standings:
            good = len(one.called) > 0 or (ensemble.query is not None and len(one.actions) > 0)
            good = good and set(one.called) <= set(range(k))
            good = good and tuple(sorted(set(one.called))) == one.called
            good = good and len(one.powers) == len(one.called) and one.answerer in (-1, *one.called)
            after = [tuple(sorted((*one.called, m))) for m in one.actions]
            asked = (*one.called, *one.actions)
            good = good and len(set(asked)) == len(asked)
            good = good and all(a in arm.by_called for a in after)
            shape = (len(one.actions), ensemble.width(one.called) + 1)
            told = (one.powers, one.weights, one.parts)
            good = good and all(bool(np.isfinite(some).all()) for some in told)
            good = good and len(one.parts) in (0, len(one.called))
            parts = not len(one.parts) or (one.parts.min() >= 0 and one.parts.sum() > 0)
            good = good and parts and (KINDS[policy.kind].whole or not len(one.parts))
            weighs = one.actions or one.weights.size
            if not good or (weighs and one.weights.shape != shape):
                raise input_error("standing", "one that hangs together", one.called, _STEP)
        object.__setattr__(arm, "fits", (ensemble, policy.kind))


ROUTING = Form(
    "a routing policy", "policyopt-routing", 1,
    {
        "format": str, "version": int, "kind": str, "classes": int, "unit": str,
        "costs": list,  # of each model alone
        "odds": list, "timed": bool, "temper": list,
        "answers": (int, float), "knots": list, "query?": dict,  # see `Ensemble`, `Query`
        "arms": list,  # each: first, standings; see `Arm`
        "share": (int, float), "seed": int, "names": list,
        "explore?": (int, float),  # absent: 0
        "provenance": dict, "sha256": str,
    },
    "`policyopt fit --method routing` writes one.",
)  # fmt: skip
MAX_ROUTING_BYTES = 64 << 20


def routing_to_dict(policy: RoutingPolicy) -> dict[str, Any]:
    """Return the file's content, checksum included."""
    return ROUTING.signed(
        kind=policy.kind, classes=policy.classes, unit=policy.unit, **rule_to_dict(policy),
        arms=[arm_to_dict(arm) for arm in policy.arms], **own_to_dict(policy),
    )  # fmt: skip


def rule_to_dict(policy: RoutingPolicy) -> dict[str, Any]:
    """Return the fields of the file that all policies of one fit share."""
    own = policy.ensemble
    query = {} if own.query is None else {"query": own.query.params()}
    return {
        **query, "costs": own.costs.tolist(), "odds": own.odds.tolist(), "timed": own.timed,
        "temper": own.temper.tolist(), "answers": own.answers, "knots": own.knots.tolist(), "names": list(policy.names),
    }  # fmt: skip


def own_to_dict(policy: RoutingPolicy) -> dict[str, Any]:
    """Return the fields that they do not, but for the arms."""
    explore = {"explore": policy.explore} if policy.explore else {}
    return {
        "share": policy.share, "seed": policy.seed, **explore, "provenance": dict(policy.provenance),
    }  # fmt: skip


def arm_to_dict(arm: Arm) -> dict[str, Any]:
    """Return the content of an arm."""
    return {"first": arm.first, "standings": [
        {"called": list(one.called), "powers": one.powers.tolist(), "answerer": one.answerer,
         "actions": list(one.actions), "weights": one.weights.tolist() if one.actions else [],
         "parts": one.parts.tolist()}
        for one in arm.standings
    ]}  # fmt: skip


def routing_from_dict(content: Any, source: str = "policy") -> RoutingPolicy:
    """Build a routing policy from its file's content, checked; `source` names it in errors."""
    ROUTING.check(content, source)
    with whole(source):
        return routed(content, tuple(map(arm_from_dict, content["arms"])))


@contextmanager
def whole(source: str) -> Iterator[None]:
    """Refuse what lacks a part, or has another in its place."""
    try:
        yield
    except (KeyError, TypeError, AttributeError) as error:
        raise input_error(source, "whole", str(error), AGAIN) from error


def routed(content: Mapping[str, Any], arms: tuple[Arm, ...]) -> RoutingPolicy:
    """Return the policy of a file's content, its arms built already."""
    ensemble = Ensemble(
        numbers("odds", content["odds"], 2),
        numbers("costs", content["costs"], 1), content["classes"], content["timed"],
        numbers("temper", content["temper"], 1), float(content["answers"]), numbers("knots", content["knots"], 2),
        Query(**content["query"]) if "query" in content else None,
    )  # fmt: skip
    return RoutingPolicy(
        arms, ensemble=ensemble, unit=content["unit"], kind=content["kind"],
        names=tuple(content["names"]), **own_from_dict(content),
    )  # fmt: skip


def own_from_dict(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields as `RoutingPolicy` takes them."""
    return {
        "share": float(content["share"]), "seed": content["seed"], "provenance": content["provenance"],
        "explore": float(content.get("explore", 0.0)),
    }  # fmt: skip


def arm_from_dict(content: Any) -> Arm:
    """Build an arm from its content."""
    _exactly("arm", content, {"first", "standings"})
    return Arm(_whole(content["first"]), tuple(_standing(one) for one in content["standings"]))


def _standing(content: Any) -> Standing:
    _exactly("standing", content, {"called", "powers", "answerer", "actions", "weights", "parts"})
    called, actions = (tuple(map(_whole, content[name])) for name in ("called", "actions"))
    weights = content["weights"]
    weights = numbers("weights", weights, 2) if actions or weights != [] else np.empty((0, 0))
    powers, parts = (numbers(name, content[name], 1) for name in ("powers", "parts"))
    return Standing(called, powers, _whole(content["answerer"]), actions, weights, parts)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"whole numbers, not {value!r}")
    return value
