"""Routing: which model to ask first, and after each answer whether to stop or which to ask next, in any order.

Whoever has the outputs of all models on the rows of a fit knows what every way through them would have come to. So
the best policy at a price of cost is found by backward induction over standings, the sets of models that may have been
called (Dekoninck et al., arXiv:2410.10347, call such policies cascade routing; they estimate the quality of
every set by models that the user writes). At a standing S and price l, to stop is worth ``U_S``, what the ensemble's
answer is worth, and to ask m ``V_{S+m} - l c_m``, what the policy then earns. Their difference is regressed on what the
models of S have said; asked is the model of the largest estimate, if that is over 0.

- Standings are many and rows few. The regressions of one action at all standings of a size are one regression, on
  columns that all have; what is left of each standing's own is a second one, with a larger penalty. The penalties are
  those, of a few, by which rows fare best that the coefficients of their fold have not seen. Along how sure each model
  is they may bend at knots: who is to be asked next need not rise or fall with it.
- It is cross-fitted: what a row earns later comes from decisions of coefficients that it took no part in. So are the
  costs and qualities of all prices, by whose upper hull a budget is met, two neighbours mixed by a coin. Prices stand
  closer where costs and qualities change more. By how much few rows still flatter (powers, answerers and penalties are
  of all of them), folds left out of the whole fit say, and that is taken off the quality that is stated; not off that
  of one model for all rows, which it is where few rows tell little.
- An answer's worth is the probability that the ensemble of all models gives to it, which is less noisy than right or
  wrong: the other models are known when fitting (see `policyopt._methods.lagrangian`). It is believed as far as what
  single models' answers are worth bears it out, by one map for all standings, and shifted where a standing's mean is
  off by more than noise. Of records it is half of the worth.
- Up to `EVERY` models all sets are standings. Of more there are several structures, of which each price takes the one
  that serves it best: all models as one chain in the order of their costs, chains of some, found by a search at a few
  prices, and all sets of a short chain's models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from policyopt._answers.logistic import descended
from policyopt._cache.data import folds_of
from policyopt._methods.base import Method, worth_interval
from policyopt._methods.exit_batch import subsample_outputs
from policyopt._methods.fitted import Fitted, expectation, provenance_of
from policyopt._methods.levels import Spend, aims_of
from policyopt._methods.query import fit_query
from policyopt._methods.regression import (
    fit_sigmoid,
    noise_weights,
    of_own_fold,
    ridge_without_each,
)
from policyopt._methods.settings import Choice, Number
from policyopt._methods.targets import Target, targets_of
from policyopt._progress import report
from policyopt._replay import replay
from policyopt._table import Table, known_rows, subsample
from policyopt._thresholds.joint import upper_hull
from policyopt.runtime._arithmetic import sigmoid
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import BudgetError, input_error, message
from policyopt.runtime._outputs import log_probabilities, with_columns
from policyopt.runtime._routing import (
    GENERAL,
    Arm,
    Ensemble,
    RoutingPolicy,
    Standing,
    joined,
    no_thresholds,
    shares,
)
from policyopt.runtime._typing import Array, Floats, Ints

EVERY = 6  # models of which all sets are standings
_MOST_ROWS = 10_000  # more do not sharpen some tens of coefficients
_GROUPS = 20
#: Rows up to which folds left out say by how much what is stated is too high, of few and of many models; the folds.
_REFITTED, _FOLDS = (2000, 500), 5
_KNOTS = (5, 1)  # of how sure each of few models is, and each of many
_FEW = 4  # models: of fewer a mean adds nothing to a product
#: Of the search for members: rows, and numbers of the prices, the highest first.
_SEARCHED, _SEARCHED_AT = 2500, (22, 18, 15, 12)
_NUMBERS = 50_000  # of a model's distributions that powers are chosen by, on 2,500 rows or more
_PRICES = 30
_SHARPNESS = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4])
_STEPS = 50  # of EM
_SHRINK = 100.0  # rows of evidence that a standing's powers are as they are among all models
#: Penalties, in rows: of what standings of a size share, and of each one's own.
_PENALTIES = ((10.0, 300.0), (100.0, 1000.0), (1000.0, 10_000.0))

if TYPE_CHECKING:
    from typing import Self

Set = tuple[int, ...]


@dataclass(frozen=True)
class Routing(Method):
    """Which model to ask first, and after each answer whether to stop or which to ask next.

    Parameters
    ----------
    soft : float
        Weight of soft targets against what answers are worth, in [0, 1]; of records, which say less, half of it.
    explore : float
        About the share of requests that call some model at random, see `RoutingPolicy.exploring`; beside the budget.
    """

    soft: float = 1.0
    explore: float = 0.0

    label = "routing"
    learned = logs = True
    asks = "classes"
    allowed: ClassVar = {"soft": Number(most=1.0), "explore": Number(most=0.99)}
    tuned: ClassVar = {"soft": Choice((0.5, 1.0))}
    one: ClassVar[bool] = False  # whether a single model is asked
    remedy = "which this cache does not hold. Use auto, which takes what fits."

    def missing_columns(self, table: Table) -> list[str]:
        apart = [] if table.cascade else ["models that are paid one by one"]
        return [*apart, *super().missing_columns(table)]

    def check(self, table: Table) -> None:
        if not table.cascade:
            step = (
                "Import with --cost-kind standalone; exits of one network, passed in turn, take another method "
                "(--method auto)."
            )
            raise input_error("cost", "of models that are paid one by one", table.cost_name, step)
        super().check(table)

    def fit_targets(
        self, table: Table, targets: Sequence[Target], seed: int = 0
    ) -> list[Fitted | BudgetError]:
        self.check(table)
        for target in targets:
            if target.limits:
                step = "Give a budget or a floor; --method auto keeps limits, too."
                raise input_error("limits", "absent with routing", target.text, step)
        levels = self.levels(table, seed)
        most = _REFITTED[levels.rows.k > EVERY]
        if table.log is None and len(levels.rows.table) <= most:
            levels.settle(self._flattery(levels, seed))
        return self.fit_levels(levels, targets, seed)

    def _flattery(self, levels: _Levels, seed: int) -> float:
        """Return by how much rows make policies look better than others would: of folds left out, over budgets."""
        rows, found = levels.rows.table, list[float]()
        fold, cost = folds_of(len(rows), _FOLDS, seed, rows.group), levels.cost
        low, high = max(cost[0], 1e-3 * cost[-1]), cost[-1]
        aims = targets_of(np.geomspace(low, high, 6).tolist(), rows) if high else []  # all free
        for f in range(_FOLDS if fold.max() + 1 == _FOLDS else 0):  # a few groups tell nothing
            held = rows.take(np.flatnonzero(fold == f))
            kept = _Rows(rows.take(np.flatnonzero(fold != f)), self.soft, seed)
            left = kept.levels(self.one, levels.rows.structures)
            for one in self.fit_levels(left, aims, seed):
                if isinstance(one, Fitted):
                    found.append(one.quality - float(replay(one.policy, held).quality.mean()))
        return max((1.0 - 1.0 / _FOLDS) * float(np.mean(found)), 0.0) if found else 0.0

    def levels(self, table: Table, seed: int) -> _Levels:
        """Return all that can be had on a table's rows."""
        if table.log is None:
            rows = _Rows(known_rows(table), self.soft, check_seed(seed))
            rows.notes += own_arithmetic(rows.ensemble, table)
            return rows.levels(self.one)
        from policyopt._methods.routing_logs import LoggedRows

        if self.one:
            step = "Their queries are not used yet."
            raise input_error("method", "routing, for logs of decisions", self.name, step)
        return LoggedRows(known_rows(table), 0.0, check_seed(seed)).levels()

    def fit_levels(
        self, levels: _Levels, targets: Sequence[Target], seed: int
    ) -> list[Fitted | BudgetError]:
        """Return the policy of each target of such levels, or why it cannot be met."""
        found: list[Fitted | BudgetError] = []
        for target in targets:
            try:
                found.append(levels.fitted(self, target, seed))
            except BudgetError as error:
                found.append(error)
        return found

    def propose(self, table: Table, budgets: Sequence[float], seed: int = 0) -> list[Fitted]:
        return self.fit_path(table, budgets, seed)

    def trained(self, table: Table, seed: int) -> Spend:
        raise no_thresholds("method", "another to stand on")

    def in_turn(self, what: str) -> Method:
        raise no_thresholds("method", what)

    def fit_grid(self, table: Table, seed: int) -> list[Fitted | None]:
        found = self.fit_levels(self.levels(table, seed), targets_of(aims_of(table), table), seed)
        return [one if isinstance(one, Fitted) else None for one in found]


class Router(Routing):
    """Which one model to ask, by what is known of a sample before (query): `Routing` of a single call."""

    label = "router"
    one = True
    remedy = "which this cache does not hold: import with a key query (Python: query=)."

    def required_columns(self) -> frozenset[str]:
        return frozenset({"query"})


@dataclass(frozen=True, eq=False)
class _Seen:
    """What a standing says of every row."""

    standing: Standing
    worth: Floats  # (N,): of its answer
    aim: Floats  # (N,): what the whole ensemble gives to it, mixed with that
    basis: Floats  # (N, M)
    weight: Floats  # (N,)


@dataclass(frozen=True, eq=False)
class _Way:
    """What rows come to from a standing on, (N, L) each, by coefficients that their fold has not seen."""

    paid: Floats
    worth: Floats
    aim: Floats

    def take(self, choice: Array, others: Sequence[Self]) -> Self:
        """Return the ways of another where `choice` (N, L) names it by its number; -1 is this one."""
        columns = {}
        for name, column in vars(self).items():
            out = column.copy()
            for at, other in enumerate(others):
                np.copyto(out, getattr(other, name), where=choice == at)
            columns[name] = out
        return type(self)(**columns)


class _Rows:
    """Rows of a fit, and what standings say of them."""

    most, penalties, notes = _MOST_ROWS, _PENALTIES, tuple[str, ...]()

    def __init__(self, table: Table, soft: float, seed: int) -> None:
        table = subsample(subsample_outputs(table, seed), self.most, seed)
        self.table, self.k, self.soft = table, table.exits, soft if table.whole else soft / 2
        self.costs = np.broadcast_to(table.standalone_costs, (len(table), self.k))
        self.prices = prices_of(self.costs.mean(axis=0))
        self.fold = folds_of(len(table), _GROUPS, seed, table.group)
        said, self.labels = table.statistics.prediction, table.statistics.labels
        if table.says:
            # The label is what those say that are right; or nobody's.
            right = (table.quality > 0.5) & (said >= 0)
            first = said[np.arange(len(said)), right.argmax(axis=1)]
            self.labels = np.where(right.any(axis=1), first, said.max() + 1)
        self.joins = table.says or (self.labels is not None and not table.plain_only)
        self.seen = dict(enumerate(table.statistics.outputs()))
        if table.whole and self.joins:
            every = table.log_prob()
            self.seen = {m: with_columns(o, every[:, m]) for m, o in self.seen.items()}
        right = table.quality
        odds = np.array([self._odds(m, right[:, m]) for m in range(self.k)])
        timed = table.standalone_costs.ndim == 2
        query, self.query = None, None
        given = None if table.log is not None else table.query
        if given is not None:  # its columns, of each row by what its fold has not seen
            rank = self.costs.mean(axis=1).argsort().argsort() / len(given)  # of what calls cost
            shown = np.column_stack([right, rank]) if timed else right
            query, self.query = fit_query(given, shown, self.fold, seed)
        none = np.ones(self.k)
        mean = self.costs.mean(axis=0) if timed else np.asarray(table.standalone_costs)
        knots, answers = np.empty((self.k, 0)), self._answers(right)
        self.ensemble = Ensemble(odds, mean, table.classes, timed, none, answers, knots, query)
        parts = np.linspace(0.0, 1.0, _KNOTS[self.k > EVERY] + 2)[1:-1]
        sure = [
            self.ensemble.sure(one.take(self.told((m,), all_rows=True)), m)
            for m, one in self.seen.items()
        ]
        knots = np.array([np.quantile(one if len(one) else [0.0], parts) for one in sure])
        self.ensemble = replace(self.ensemble, knots=knots)
        if self.joins and table.whole:
            temper = [self._sharpest(Standing((m,), none[:1])) for m in range(self.k)]
            self.ensemble = replace(self.ensemble, temper=np.array(temper))
        self.refines = True  # the powers of each standing
        self._known: dict[Set, _Seen] = {}

    def told(self, called: Set, all_rows: bool = False) -> Any:
        """Return the rows that know what models said: all; of logs those that stood there (`all_rows`: and others)."""
        return slice(None)

    def taken(self, called: Set, model: int) -> Any:
        """Return the places, among these rows, of those that know what asking a model came to: all."""
        return slice(None)

    def weights_of(self, called: Set, model: int) -> Floats:
        """Return how much each of these rows counts."""
        return self.at(called).weight

    def _odds(self, model: int, right: Floats) -> Floats:
        here = self.told((model,), all_rows=True)
        p = np.clip(np.nan_to_num(self.seen[model].confidence[here]), 1e-6, 1 - 1e-6)
        return fit_sigmoid(np.log(p / (1 - p))[:, None], right[here], 3.0)

    def _answers(self, right: Floats) -> float:
        """Return among how many answers wrong ones are divided: classes, or by how seldom two of them are the same."""
        if self.table.classes or not self.joins:
            return float(max(self.table.classes, 3))
        said = self.table.statistics.prediction
        wrong, same, both = (right < 0.5) & (said >= 0), 1.0, 2.0
        for a, b in combinations(range(self.k), 2):
            rows = wrong[:, a] & wrong[:, b]
            same += float((said[rows, a] == said[rows, b]).sum())
            both += float(rows.sum())
        return float(np.clip(1.0 + both / same, 3.0, 1e6))

    def _sharpest(self, one: Standing) -> float:
        """Return by which power of what a standing says labels are likeliest."""
        logs, base, mine = self._told(one.called)
        score, here = self.ensemble.score(logs, one), np.arange(len(mine))
        loss = [
            -np.log(np.maximum(shares(t * score + base)[here, mine], 1e-30)).mean()
            for t in _SHARPNESS.tolist()
        ]
        return float(_SHARPNESS[int(np.argmin(loss))])

    @cached_property
    def _word(self) -> tuple[Floats, Array] | None:
        """What all models together say: probabilities, (N, V), of answers, (N, V) or (1, V)."""
        if not self.joins or not self.soft or (self.table.graded and not self.table.says):
            return None
        every = tuple(range(self.k))
        score, said = self.ensemble.tally(self.seen, self.standing(every))
        return shares(score), said

    def _heard(self, answer: Array) -> Floats:
        """Return the log odds that all models together give to answers, (N, 1)."""
        assert self._word is not None
        chance, of = self._word
        soft = np.where(of == answer[:, None], chance, 0.0).max(axis=1)
        soft = np.clip(soft, 1e-4, 1 - 1e-4)
        return np.log(soft / (1.0 - soft))[:, None]

    @cached_property
    def _trust(self) -> Floats:
        """How far that word is to be believed, by what the models' own answers are worth: one map for all standings."""
        heard = [self._heard(self.seen[m].prediction) for m in range(self.k)]
        return fit_sigmoid(np.concatenate(heard), self.table.quality.T.ravel(), 3.0)

    @cached_property
    def common(self) -> Floats:
        """Powers of all models' distributions in the product of all, (K,), adding up to 1."""
        if not self.joins:
            return np.full(self.k, 1.0 / self.k)
        found = self._powers(tuple(range(self.k)), np.full(self.k, 1.0 / self.k))
        found = np.maximum(found, 0.05 * found.mean())
        if not found.sum() > 0.0:  # what they say tells nothing of the label
            found = np.ones(self.k)
        return found / found.sum()

    def standing(self, called: Set) -> Standing:
        """Return how a standing's models are joined, near as they are among all; of records each is one vote."""
        if not self.joins:
            return Standing(called, np.ones(len(called)))
        start = self.common[list(called)] / self.common[list(called)].sum()
        one = Standing(called, start * self._sharpest(Standing(called, start)))
        if len(called) > 1 and self.refines:
            one = replace(one, powers=self._powers(called, one.powers))
        if len(called) < _FEW or not self.table.whole:
            return one
        # Of many models some may be sure and wrong: in a product that is a veto, in a mean one voice.
        one = replace(one, parts=(len(called) - 1) / 2 * self._parts(called))
        sharp = self._sharpest(one)
        return replace(one, powers=sharp * one.powers, parts=sharp * one.parts)

    @cached_property
    def _own(self) -> Floats:
        """The probability that each model gives to the label, (n, K)."""
        logs, _, mine = self._told(tuple(range(self.k)))
        voices = (
            shares(t * log) for t, log in zip(self.ensemble.temper.tolist(), logs, strict=True)
        )
        found = [voice[np.arange(len(mine)), mine] for voice in voices]
        return np.maximum(np.stack(found, axis=1).astype(np.float64), 1e-30)

    def _parts(self, called: Set) -> Floats:
        """Return the parts of a mean at which labels are likeliest, (S,): steps of EM."""
        own, prior = self._own[:, list(called)], 10.0 / len(called)
        parts = np.full(len(called), 1.0 / len(called))
        for _ in range(_STEPS):
            parts = ((own * (parts / (own @ parts)[:, None])).sum(axis=0) + prior) / (
                len(own) + 10.0
            )
        return parts

    def _powers(self, called: Set, start: Floats) -> Floats:
        """Return the powers at which a product is likeliest to give the labels, shrunk to the start's ratios."""
        logs, base, mine = self._told(called)
        n, here = len(mine), np.arange(len(mine))
        weight = _SHRINK / n / float(start @ start)

        def loss(power: Floats) -> tuple[float, Floats]:
            score = np.array(np.broadcast_to(base, logs[0].shape))
            for p, log in zip(power, logs, strict=True):
                score += log * log.dtype.type(p)
            score -= score.max(axis=1, keepdims=True)
            share = np.exp(score)
            total = share.sum(axis=1)
            off = power - start * (power @ start) / (start @ start)
            value = float((np.log(total) - score[here, mine]).mean() + weight * off @ off)
            share /= total[:, None]
            share[here, mine] -= 1.0
            slope = np.array([np.vdot(share, log) for log in logs]) / n
            return value, slope + 2.0 * weight * off

        bounds = [(0.0, None)] * len(logs)
        return descended(loss, start, bounds)

    def _told(self, called: Set) -> tuple[list[Any], Any, Ints]:
        """Return the evidence on some rows, and which answer of each is the label, (n,): -1, where none is."""
        here, most = self.told(called, all_rows=True), self._most
        here = slice(most) if isinstance(here, slice) else here[:most]
        labels = np.asarray(self.labels)[here]
        if self.table.whole:
            logs = [self._logs[m][here] for m in called]
            return logs, np.zeros((len(labels), 1), np.float32), labels
        some = {m: self.seen[m].take(here) for m in called}
        logs, base, said = self.ensemble.evidence(some, called)
        mine = (said == labels[:, None]) & np.isfinite(base)
        mine = np.where(mine.any(axis=1), mine.argmax(axis=1), -1)
        return logs, np.broadcast_to(base, logs[0].shape), mine

    @property
    def _most(self) -> int:
        return max(_SEARCHED, _NUMBERS // max(self.table.classes, 1))

    @cached_property
    def _logs(self) -> list[Any]:
        """What models say of classes on those rows, (n, C) float32 each: as good for powers, three times as fast."""
        some = slice(self._most if self.table.log is None else None)
        every = (log_probabilities(self.seen[m].take(some)) for m in range(self.k))
        return [log.astype(np.float32) for log in every]

    def at(self, called: Set) -> _Seen:
        """Return what a standing says of every row, of logs of those that stood there."""
        if called in self._known:
            return self._known[called]
        if not called:  # what the query says
            assert self.query is not None
            none = np.zeros(len(self.table))
            return _Seen(Standing((), np.empty(0)), none, none, self.query, none + 1.0)
        here, table, given, costs = self.told(called), self.table, self.seen, self.costs
        if not isinstance(here, slice):
            table, costs = table.take(here), costs[here]
            given = {m: given[m].take(here) for m in called}
        quality = table.quality
        best = max(called, key=lambda m: quality[:, m].mean())
        standing = self.standing(called)
        answer, share = joined(*self.ensemble.tally(given, standing))
        worth, answerer = quality[:, best], best
        if self.joins and len(called) > 1:
            own = table.worth(np.repeat(answer[:, None], self.k, axis=1))
            if own is not None and own[:, 0].mean() >= worth.mean():
                worth, answerer = own[:, 0].astype(np.float64), -1
        if answerer >= 0:
            answer = given[answerer].prediction
        aim = worth
        if self._word is not None:
            odds = self._heard(answer) @ self._trust[1:] + self._trust[0]
            soft = sigmoid(odds)
            # Less noisy row by row; on average what answers are worth, where that is off by more than noise.
            off = worth - soft
            error, mean = float(off.var()) / len(off), float(off.mean()) ** 2
            soft += off.mean() * max(1.0 - 9.0 * error / mean, 0.0) if mean > 0 else 0.0
            aim = self.soft * soft + (1 - self.soft) * worth
        paid = costs[:, list(called)].sum(axis=1)
        basis = self.ensemble.columns(given, called, answer, share, paid, self.query)
        standing = replace(standing, answerer=answerer if len(called) > 1 else best)
        found = _Seen(standing, worth, aim, basis, noise_weights(1.0 - share[:, 0]))
        self._known[called] = found
        return found

    def wide(self, called: Set) -> Floats:
        """Return a standing's columns among those of all models, 0 of others, (N, M)."""
        own = self.at(called).basis
        out = np.zeros((len(own), self.ensemble.width(range(self.k))))
        out[:, self.places(called)] = own
        return out

    def places(self, called: Set) -> list[int]:
        """Return where a standing's columns stand among those of all models."""
        own = self.ensemble.own
        pairs = [GENERAL + own * m + i for m in called for i in range(own)]
        every = range(self.ensemble.width(range(self.k)))
        if not called:
            return [*every[len(every) - self.ensemble.width(()) :]]
        return [*every[:GENERAL], *pairs, *every[GENERAL + own * self.k :]]

    def levels(self, one: bool = False, structures: list[list[Set]] | None = None) -> _Levels:
        """Return all that can be had: of every price the structure and penalties by which rows left out fare best."""
        tried = []
        if structures is None:
            structures = [[(m,) for m in range(self.k)]] if one else self._structures()
        self.structures = structures
        self.prices = self.induction(
            structures[0], self.penalties[len(self.penalties) // 2]
        ).even_prices()
        for i, sets in enumerate(structures):
            for j, penalties in enumerate(self.penalties):
                count = len(self.penalties)
                report(i * count + j, len(structures) * count, "training routing")
                tried.append(self.induction(sets, penalties))
        alone = [(m,) for m in range(self.k)]
        plain = None if self.table.log else self.induction(alone, self.penalties[0])
        return _Levels(self, tried, plain)

    def induction(self, sets: Sequence[Set], penalties: tuple[float, float]) -> _Induction:
        """Return what is found of a structure with some penalties."""
        return _Induction(self, sets, penalties)

    def _structures(self) -> list[list[Set]]:
        if self.k <= EVERY:
            return [_subsets(range(self.k))]
        alone = [(m,) for m in range(self.k)]
        lists = [tuple(range(self.k)), *self._members()]
        found = [[*self._chain(members), *alone] for members in dict.fromkeys(lists)]
        few = dict.fromkeys(members[:5] for members in lists if len(members) <= EVERY)
        return found + [
            [*_subsets(members), *(a for a in alone if a[0] not in members)] for members in few
        ]

    def _chain(self, members: Set) -> list[Set]:
        """Return the standings of models that are asked in the order of their costs."""
        order = sorted(members, key=lambda m: (self.ensemble.costs[m], m))
        return [tuple(sorted(order[:n])) for n in range(1, len(order) + 1)]

    def _members(self) -> list[Set]:
        """Return models that serve well as one chain, at some prices: one more, or one less, while rows gain by it."""
        few = _Rows(subsample(self.table, _SEARCHED, 1), self.soft, 1)
        few.ensemble, few.refines = self.ensemble, False
        found, members = list[Set](), ()
        for level in _SEARCHED_AT:
            price = float(self.prices[level])
            best = few._worth(members, price) if members else -np.inf
            while True:
                tried = [tuple(sorted({*members} ^ {m})) for m in range(self.k)]
                worth = [few._worth(one, price) if one else -np.inf for one in tried]
                at = int(np.argmax(worth))
                if worth[at] <= best + 1e-5:
                    break
                members, best = tried[at], worth[at]
            found.append(members)
        return found

    def _worth(self, members: Set, price: float) -> float:
        """Return what rows earn by a chain at a price, by coefficients that their fold has not seen."""
        self.prices = np.array([price])
        return float(self.induction(self._chain(members), (30.0, 0.0)).value[0])


def own_arithmetic(ensemble: Ensemble, table: Table) -> tuple[str, ...]:
    """Return a note on what routing computes per call, which costs leave out, where that is not small beside them."""
    # Two answers are joined, and all models weighed.
    count = 4 * max(ensemble.classes, 3) + (GENERAL + 2 * ensemble.own) * len(ensemble.costs)
    if ensemble.query is not None:
        count += ensemble.query.axes.size + ensemble.query.weights.size
    share = table.rate * count / max(float(ensemble.costs.min()), 1e-300)
    told = f"about {count:,} multiply-adds a call, {100 * share:.2g} % of the cheapest model's cost"
    return (f"routing's own arithmetic is not counted: {told}",) if share > 0.001 else ()


def prices_of(costs: Floats) -> Floats:
    """Return prices of costs, (K,), in value per unit: from 0 to where only the cheapest model is asked."""
    low, total = np.unique(costs), float(costs.sum())
    last = max(10**2.3 / total, 2.0 / float(low[1] - low[0]) if len(low) > 1 else 0.0)
    return np.concatenate([[0.0], np.geomspace(10**-3.3 / total, last, _PRICES - 1)])


def _subsets(models: Sequence[int]) -> list[Set]:
    return [s for n in range(1, len(models) + 1) for s in combinations(sorted(models), n)]


class _Induction:
    """Backward induction over some standings, at all prices."""

    def __init__(self, rows: _Rows, sets: Sequence[Set], penalties: tuple[float, float]) -> None:
        self.rows, self.penalties = rows, penalties
        there, self.theta = set(sets), dict[Set, tuple[tuple[int, ...], Floats]]()
        ways: dict[Set, _Way] = {}
        n, prices = len(rows.table), rows.prices
        self.sets = list(sets)
        for size in range(max(map(len, sets)), 0, -1):
            here = [s for s in sets if len(s) == size]
            after = {
                s: [m for m in range(rows.k) if m not in s and tuple(sorted((*s, m))) in there]
                for s in here
            }
            stops = {s: self._stop(s) for s in here}
            goes = {
                (s, m): self._asked(ways[tuple(sorted((*s, m)))], m) for s in here for m in after[s]
            }
            gains = {sm: self._gain(way, stops[sm[0]]) for sm, way in goes.items()}
            thetas = self._regressed(here, after, gains)
            new = {
                s: self._decided(s, after[s], thetas, stops[s], goes) if after[s] else stops[s]
                for s in here
            }
            ways = {**{s: w for s, w in ways.items() if len(s) == 1}, **new}
        starts = [(s[0], self._asked(ways[s], s[0])) for s in sets if len(s) == 1]
        value = np.stack([(w.aim - prices * w.paid).mean(axis=0) for _, w in starts])
        best = value.argmax(axis=0)
        self.value = value.max(axis=0)
        self.first = [starts[b][0] for b in best.tolist()]
        self.way = starts[0][1].take(
            np.broadcast_to(best - 1, (n, len(prices))), [w for _, w in starts[1:]]
        )
        self.asks = np.zeros(len(prices), dtype=bool)  # at which prices the query says who is first
        if rows.query is not None and len(starts) > 1:
            goes = {((), m): way for m, way in starts}
            models = [m for m, _ in starts]
            gains = {sm: self._gain(way, self.way) for sm, way in goes.items()}
            thetas = self._regressed([()], {(): models}, gains)
            way = self._decided((), models, thetas, self.way, goes)
            value = (way.aim - prices * way.paid).mean(axis=0)
            self.asks = value > self.value
            self.value = np.maximum(value, self.value)
            self.way = self.way.take(np.broadcast_to(self.asks - 1, (n, len(prices))), [way])

    def _decided(
        self, s: Set, models: list[int], thetas: dict[tuple[Set, int], Floats], stop: _Way,
        goes: dict[tuple[Set, int], _Way],
    ) -> _Way:  # fmt: skip
        """Return what rows come to where the best of some models is asked, or none, and keep the coefficients."""
        theta = np.stack([thetas[s, m] for m in models])  # (A, G+1, M+1, L)
        basis, fold = self.rows.at(s).basis, self.rows.fold
        gains = np.stack([of_own_fold(basis, t, fold) for t in theta])
        best = gains.argmax(axis=0)
        choice = np.where(np.take_along_axis(gains, best[None], 0)[0] > 0, best, -1)
        self.theta[s] = tuple(models), theta[:, -1]
        return stop.take(choice, [goes[s, m] for m in models])

    def _gain(self, way: _Way, stop: _Way) -> Floats:
        return way.aim - stop.aim - self.rows.prices * (way.paid - stop.paid)

    def even_prices(self) -> Floats:
        """Return as many prices, over which costs and qualities change as evenly as can be."""
        prices, steps = self.rows.prices, np.full(len(self.rows.prices) - 2, 0.5 / _PRICES)
        paid, aim = (column[:, 1:].mean(axis=0) for column in (self.way.paid, self.way.aim))
        for column in (np.log(np.maximum(paid, 1e-6 * self.rows.costs.mean())), aim):
            change = np.abs(np.diff(column))
            steps += change / max(float(change.sum()), 1e-9)
        along = np.concatenate([[0.0], steps.cumsum()])
        even = np.linspace(0.0, along[-1], len(along))
        return np.concatenate([prices[:1], np.exp(np.interp(even, along, np.log(prices[1:])))])

    def _stop(self, called: Set) -> _Way:
        seen, shape = self.rows.at(called), (len(self.rows.table), len(self.rows.prices))
        worth, aim = (np.broadcast_to(v[:, None], shape) for v in (seen.worth, seen.aim))
        return _Way(np.zeros(shape), np.array(worth), np.array(aim))

    def _asked(self, way: _Way, model: int) -> _Way:
        return replace(way, paid=way.paid + self.rows.costs[:, model, None])

    def _regressed(
        self, here: Sequence[Set], after: dict[Set, list[int]],
        gains: dict[tuple[Set, int], Floats],
    ) -> dict[tuple[Set, int], Floats]:  # fmt: skip
        """Return each action's coefficients at each standing of a size, (G+1, M+1, L), by rows that know its gains."""
        rows, (shared, own) = self.rows, self.penalties
        found, folds = {}, int(rows.fold.max(initial=0)) + 1
        for m in range(rows.k):
            at = [s for s in here if m in after[s]]
            if not at:
                continue
            places = {s: rows.taken(s, m) for s in at}
            fold = {s: rows.fold[rows.told(s)][places[s]] for s in at}
            weights = {s: rows.weights_of(s, m) for s in at}
            weights = {s: weight / weight.mean() for s, weight in weights.items()}
            known = {s: (rows.at(s).basis[places[s]], weights[s]) for s in at}
            if len(at) == 1:
                (s,) = at
                found[s, m] = ridge_without_each(*known[s], gains[s, m], fold[s], shared, folds)
                continue
            pooled = ridge_without_each(
                np.concatenate([rows.wide(s)[places[s]] for s in at]),
                np.concatenate([weights[s] for s in at]), np.concatenate([gains[s, m] for s in at]),
                np.concatenate([fold[s] for s in at]), shared * len(at), folds,
            )  # fmt: skip
            for s in at:
                theta = pooled[:, [0, *(1 + p for p in rows.places(s))]]
                rest = gains[s, m] - of_own_fold(known[s][0], theta, fold[s])
                found[s, m] = theta + ridge_without_each(*known[s], rest, fold[s], own, folds)
        return found

    def arm(self, level: int, every: bool = False) -> Arm:
        """Return the deployed arm of a price: what can be reached of it, or `every` standing."""
        first, rows = self.first[level], self.rows
        waiting, found = [(first,), *([()] if self.asks[level] else [])], dict[Set, Standing]()
        waiting += self.sets if every else []
        while waiting:
            called = waiting.pop()
            if called in found:
                continue
            standing = rows.at(called).standing
            if called in self.theta:
                actions, theta = self.theta[called]
                standing = replace(standing, actions=actions, weights=theta[:, :, level])
                waiting += [tuple(sorted((*called, m))) for m in actions]
            found[called] = standing
        return Arm(first, tuple(found[s] for s in sorted(found, key=lambda s: (len(s), s))))


class _Levels:
    """Policies of all prices, and which of them a target is met by."""

    def __init__(
        self, rows: _Rows, tried: Sequence[_Induction], alone: _Induction | None = None
    ) -> None:
        self.rows = rows
        best = np.stack([one.value for one in tried]).argmax(axis=0)
        self.of = [(tried[b], level) for level, b in enumerate(best.tolist())]
        count = len(self.of)
        if alone is not None:  # one model for all rows: few rows flatter that less
            self.of += [(alone, int(i)) for i in np.flatnonzero(~alone.asks)]
        self.adapts = np.arange(len(self.of)) < count
        self.settle(0.0)

    def settle(self, flattery: float) -> None:
        """State so much less of policies that adapt, and find the upper hull."""
        self.less = flattery * self.adapts
        points: Any = [(one.way.paid[:, i].mean(), one.way.aim[:, i].mean()) for one, i in self.of]
        self.points: Any = np.array(points)
        self.points[:, 1] -= self.less
        self.hull = upper_hull(self.points)
        self.paid = [self._paid(h) for h in self.hull]
        self.cost = np.maximum.accumulate([paid.mean() for paid in self.paid])

    def _paid(self, point: int) -> Floats:
        """Return what rows pay, (N,): by coefficients their fold has not seen, or, if more, by those that are deployed.

        Where many rows at once are near to be decided otherwise, by some folds they are, and by all rows not.
        """
        (one, level), rows = self.of[point], self.rows
        paid = one.way.paid[:, level]
        if rows.table.log is not None:
            return paid
        policy = self.policy((one.arm(level),), 0.0, 0, {})
        every = np.arange(len(rows.table)), rows.costs, rows.table.query
        return max(paid, policy.follow(rows.seen, *every).cost, key=lambda each: each.mean())

    def policy(
        self, arms: tuple[Arm, ...], share: float, seed: int, said: dict[str, Any]
    ) -> RoutingPolicy:
        """Return a policy of some arms."""
        table, own = self.rows.table, self.rows.ensemble
        return RoutingPolicy(arms, share, seed, own, table.unit, table.kind, said, table.names)

    def _sides(self, at: float) -> list[tuple[float, int]]:
        """Return the places of the neighbours on the hull that a cost lies between, with their shares."""
        cost = self.cost
        high = int(np.clip(np.searchsorted(cost, at, "right"), 1, max(len(cost) - 1, 1)))
        if len(cost) == 1:
            return [(1.0, 0)]
        gap = cost[high] - cost[high - 1]
        part = float(np.clip((at - cost[high - 1]) / gap, 0, 1)) if gap > 0 else 0.0
        pair = [(1 - part, high - 1), (part, high)]
        return [one for one in pair if one[0] > 0]

    def held_out(self, most: float) -> tuple[Floats, Floats]:
        """Return what rows pay and are worth within a mean cost, by coefficients their fold has not seen, (N,) each."""
        dearest = self.cost[int(self.points[self.hull, 1].argmax())]
        outcomes = [self._outcome(*side) for side in self._sides(min(most, float(dearest)))]
        paid, worth = (sum(one[0] * one[at] for one in outcomes) for at in (1, 2))
        return np.asarray(paid), np.asarray(worth)

    def _outcome(self, share: float, place: int) -> tuple[float, Floats, Floats]:
        """Return a share, and what rows pay and are worth at a place on the hull."""
        one, level = self.of[self.hull[place]]
        return share, self.paid[place], one.way.worth[:, level] - self.less[self.hull[place]]

    def fitted(self, method: Routing, target: Target, seed: int) -> Fitted:
        """Return the best within a budget, or the cheapest at a floor: two neighbours on the hull, mixed."""
        table, cost = self.rows.table, self.cost
        aims = self.points[self.hull, 1]
        # What buys nothing is not spent, unless that is asked for.
        rise = cost if method.spend == "all" else cost[: int(aims.argmax()) + 1]
        worth = np.array([self._outcome(1.0, place)[2].mean() for place in range(len(cost))])
        most, floor = target.most(table), target.floor(table)
        if most is not None and most < cost[0] * (1 - 1e-9):
            allowed = f"{cost[0]:.6g} {table.unit} or more: the cheapest model costs as much"
            raise BudgetError(message("budget", allowed, f"{most:.6g}", "Raise it."))
        at = float(rise[-1]) if most is None else min(most, float(rise[-1]))
        if floor is not None:
            low = float(np.interp(at, cost, worth))
            if low < floor:
                raise target.unmet(table, low, at, "Ask for less, or allow more cost.")
            grid = np.linspace(cost[0], at, 513)
            at = float(grid[int((np.interp(grid, cost, worth) >= floor).argmax())])
        sides = self._sides(at)
        outcomes = [self._outcome(*side) for side in sides]
        arms = [
            one.arm(level, every=method.explore > 0)
            for one, level in (self.of[self.hull[place]] for _, place in sides)
        ]
        ends = float(self.rows.ensemble.costs.min()), float(table.mean_costs[-1])
        span = ends[1] - ends[0]
        ends = ends if table.costs.ndim == 1 else (0.0, np.inf)  # of costs per row no more is known
        expected = replace(
            expectation(outcomes), group=table.group, span=span,
            ends=ends,
            right=np.sum([w * right for w, _, right in outcomes], axis=0),
        )  # fmt: skip
        quality = float(np.clip(np.asarray(expected.right).mean(), 0.0, 1.0))
        graded = table.graded or table.log is not None  # as estimates of rows may be anything
        known = worth_interval(quality, np.asarray(expected.right), table.group, graded)
        said = provenance_of(method, table, most, seed) | expected.fields | {"target": target.text}
        said |= {"expected_quality": quality, "expected_quality_95": known}
        said |= {"notes": list(self.rows.notes)} if self.rows.notes else {}
        low, high = expected.interval()  # NaN where it is declined
        off = 50 * (high - low) / max(expected.cost, 1e-300)
        if table.log is not None and off > 15:
            told = f"the log tells the cost to within {off:.0f} % only: it may be over budget"
            said["notes"] = [*said.get("notes", []), told + "; explore longer, or lower the budget"]
        share = sides[1][0] if len(sides) > 1 else 0.0
        policy = self.policy(tuple(arms), share, int(seed), said).exploring(method.explore)
        if method.explore and table.log is None:
            every = np.arange(len(table)), self.rows.costs, table.query
            more = policy.follow(self.rows.seen, *every).cost.mean() - expected.cost
            told = f"exploring costs {more:.3g} {table.unit} per request beside the budget"
            told += f", {100 * more / expected.cost:.0f} %" if expected.cost else ""
            said["notes"] = [*said.get("notes", []), told]
        return Fitted(policy, method.name, most, expected, quality)
