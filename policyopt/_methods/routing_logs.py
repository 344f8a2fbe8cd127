"""Routing from logs: what a policy that explored did, and how likely it was, in the place of all models' outputs.

At a standing only the rows are known that stood there, and what asking a model came to only of those that asked it.
Regressed on these, its gain is an estimate for all that stood there: who asks which model is decided by what the
standing knows, and by a coin. Estimates are corrected by the rows that did what the new policy would do, weighed by the
inverse of how likely that was, so they are *doubly robust* (Dudik, Langford & Li, arXiv:1103.4601; Jiang & Li,
arXiv:1511.03722); the weights add up to the rows that they stand for. A row's own correction is noisy and, on average,
right: of such are the quality that is stated, and both intervals. Choices and costs are of estimates with the mean
correction, shrunk where few rows make it; the first model is another than the usual one only if that is clear.

The weights of rows that asked a model at a standing add up to all that stood there, if each might have asked it. Where
they do not, or the rows are few, the model is not asked there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policyopt._methods.exit_batch import subsample_outputs
from policyopt._methods.regression import of_own_fold
from policyopt._methods.routing import _PENALTIES, Set, _Induction, _Rows, _Way
from policyopt._table import Table, subsample
from policyopt.runtime._errors import input_error
from policyopt.runtime._routing import CHEAP, Standing
from policyopt.runtime._typing import Bools, Floats, Ints

#: Rows by which it can be told what asking a model at a standing comes to; rows of each that learn well.
_LEAST, _ENOUGH, _EXPLORE = 40, 250, 0.1
#: Rows of evidence that estimates need no correction; most that a row counts in a regression.
_SHRINK, _MOST_WEIGHT = 20.0, 20.0


class LoggedRows(_Rows):
    """Rows of a log: of each standing those that stood there."""

    most, penalties = 50_000, _PENALTIES[:1]

    def __init__(self, table: Table, soft: float, seed: int) -> None:
        table = subsample(subsample_outputs(table, seed), self.most, seed)
        assert table.log is not None
        self.order, self.likely = table.log
        self._places: dict[tuple[Set, int | bool], Ints] = {}
        super().__init__(table, soft, seed)

    def induction(self, sets: Sequence[Set], penalties: tuple[float, float]) -> _Induction:
        """Return what is found of a structure with some penalties."""
        return _Logged(self, sets, penalties)

    # Of models that no row called, or not with the others, nothing is known.
    def _odds(self, model: int, right: Floats) -> Floats:
        return super()._odds(model, right) if len(self.told((model,), True)) else np.zeros(2)

    def _sharpest(self, one: Standing) -> float:
        return super()._sharpest(one) if len(self.told(one.called, True)) else 1.0

    def _powers(self, called: Set, start: Floats) -> Floats:
        return super()._powers(called, start) if len(self.told(called, True)) else start

    def _parts(self, called: Set) -> Floats:
        return np.full(len(called), 1.0 / len(called))

    def told(self, called: Set, all_rows: bool = False) -> Ints:
        """Return the rows that stood there; or all that know what these models said."""
        if (called, all_rows) not in self._places:
            order = self.order[:, list(called)]
            known = (order > 0) & (all_rows | (order <= len(called)))
            self._places[called, all_rows] = np.flatnonzero(known.all(axis=1))
        return self._places[called, all_rows]

    def taken(self, called: Set, model: int) -> Ints:
        """Return which of those that stood there, by their places among them, asked the model next."""
        return np.flatnonzero(self.order[self.told(called), model] == len(called) + 1)

    def weights(self, called: Set, model: int) -> Floats:
        """Return the inverse probability that a row that stood there asked the model next; 0 where it did not."""
        rows, asked = self.told(called), self.taken(called, model)
        out = np.zeros(len(rows))
        out[asked] = 1.0 / self.likely[rows[asked], model]
        return out

    def weights_of(self, called: Set, model: int) -> Floats:
        """Return how much each of these rows counts: as those that stood there, as far as its weight is no outlier."""
        asked = self.taken(called, model)
        weight = np.minimum(self.weights(called, model)[asked], _MOST_WEIGHT)
        return self.at(called).weight[asked] * weight

    def supported(self, called: Set, model: int) -> bool:
        """Whether the log tells what asking the model comes to."""
        weight = self.weights(called, model)
        error = weight.std() / max(len(weight), 1) ** 0.5
        return bool((weight > 0).sum() >= _LEAST and weight.mean() > 0.9 - 3 * error)

    def _structures(self) -> list[list[Set]]:
        """Return the standings that rows stood at and that supported decisions lead to, all as one structure."""
        found, tried, left = list[Set](), list[tuple[Set, int]](), list[tuple[Set, int]]()
        waiting: list[Set] = [()]
        while waiting:
            called = waiting.pop()
            for m in sorted({*range(self.k)} - {*called}):
                after = tuple(sorted((*called, m)))
                if not self.supported(called, m):
                    left.append((called, m))
                    continue
                tried.append((called, m))
                if after not in found:
                    found.append(after)
                    waiting.append(after)
        self.actions = {called: [m for s, m in tried if s == called] for called in [(), *found]}
        often = [(s, m) for s, m in left if len(self.told(s)) >= _ENOUGH]
        if not any(len(models) > 1 for models in self.actions.values()):
            self._refuse()
        called = self.table.names or [*map(str, range(self.k))]
        if often:
            texts = [f"{called[m]} {self._after(s, called)}" for s, m in often[:5]]
            more = f" and {len(often) - 5} more" if len(often) > 5 else ""
            self.notes = (f"left out, tried too seldom: {', '.join(texts)}{more}",)
        if self.table.query is not None:
            self.notes += ("query features of logs are not used",)
        return [found]

    def _after(self, standing: Set, called: Sequence[str]) -> str:
        return f"after {' and '.join(called[m] for m in standing)}" if standing else "first"

    def _refuse(self) -> None:
        """Refuse a log that tells of nothing but what was done anyhow."""
        share = np.maximum(self.ensemble.costs, CHEAP * self.ensemble.costs.max()) ** -0.5
        # Half of those that explore begin to at the first choice, the others after the usual first answer.
        need = _ENOUGH / (_EXPLORE / 2 * share.min() / share.sum())
        explored = 100 * float((self.likely < 1).any(axis=1).mean())
        got = f"{len(self.table):,} requests; {explored:.0f} % met a coin that might decide otherwise, hardly one did"
        step = (
            f"Serve with policy.exploring({_EXPLORE}), each request with a number of its own (policy.start(number)): "
            f"about {round(need, -3):,.0f} requests try each model {_ENOUGH} times as the first, and "
            "as often after the usual first one; fewer teach less."
        )
        raise input_error("log", "of a policy that explores, long enough to learn from", got, step)


@dataclass(frozen=True, eq=False)
class _Estimate(_Way):
    """What rows come to, estimated: `aim` and `paid` with mean corrections, `worth` and `spent` with each row's own."""

    spent: Floats


class _Logged(_Induction):
    """Backward induction over the standings of a log, at all prices."""

    rows: LoggedRows

    def __init__(
        self, rows: LoggedRows, sets: Sequence[Set], penalties: tuple[float, float]
    ) -> None:
        self.rows, self.penalties, self.sets = rows, penalties, list(sets)
        self.theta, self.ways = dict[Set, tuple[tuple[int, ...], Floats]](), dict[Set, _Estimate]()
        prices, n, levels = rows.prices, len(rows.table), len(rows.prices)
        self.asks = np.zeros(levels, dtype=bool)
        for size in range(max(map(len, sets)), 0, -1):
            here = [s for s in sets if len(s) == size]
            came = {(s, m): self._came(s, m) for s in here for m in rows.actions[s]}
            target = {
                (s, m): np.hstack([way.aim - rows.at(s).aim[rows.taken(s, m), None], way.paid])
                for (s, m), way in came.items()
            }
            thetas = self._regressed(here, rows.actions, target)
            for s in here:
                seen, models, fold = rows.at(s), rows.actions[s], rows.fold[rows.told(s)]
                stop = np.repeat(seen.worth[:, None], levels, axis=1)
                none = np.zeros_like(stop)
                self.ways[s] = _Estimate(none, stop, stop, none)
                if not models:
                    continue
                theta = np.stack([thetas[s, m] for m in models])  # (A, G+1, M+1, 2L)
                said = np.stack([of_own_fold(seen.basis, t, fold) for t in theta])
                more, paid = said[..., :levels], said[..., levels:]
                gains = more - prices * paid
                best = np.where(gains.max(axis=0) > 0, gains.argmax(axis=0), -1)
                asked = [
                    self._corrected(best == a, stop + more[a], paid[a], s, m, came[s, m])
                    for a, m in enumerate(models)
                ]
                self.ways[s] = self.ways[s].take(best, asked)
                last = theta[:, -1]  # of all folds
                self.theta[s] = tuple(models), last[..., :levels] - prices * last[..., levels:]
        values, ways, every = [], list[_Way](), np.ones((n, levels), dtype=bool)
        for m in rows.actions[()]:
            way, share = self._came((), m), rows.weights((), m)[rows.taken((), m), None]
            share = share / share.sum()
            aim, paid = (share * way.aim).sum(axis=0), (share * way.paid).sum(axis=0)
            off = share * (way.aim - aim - prices * (way.paid - paid))
            values.append(aim - prices * paid - 2.0 * np.sqrt((off**2).sum(axis=0)))
            found = self._corrected(every, every * aim, every * paid, (), m, way)
            spent = found.spent + paid - found.spent.mean(axis=0)  # as uncertain, about the other
            ways.append(_Way(spent, found.worth, found.aim))
        best = np.stack(values).argmax(axis=0)
        self.value = np.stack(values).max(axis=0)
        self.first = [rows.actions[()][b] for b in best.tolist()]
        self.way = ways[0].take(np.broadcast_to(best - 1, (n, levels)), ways[1:])

    def _came(self, called: Set, model: int) -> _Estimate:
        """Return what the rows that asked a model at a standing came to."""
        rows, after = self.rows, tuple(sorted((*called, model)))
        asked, way = rows.told(called)[rows.taken(called, model)], self.ways[after]
        at, cost = np.searchsorted(rows.told(after), asked), rows.costs[asked, model, None]
        return _Estimate(way.paid[at] + cost, way.worth[at], way.aim[at], way.spent[at] + cost)

    def _corrected(
        self, mine: Bools, aim: Floats, paid: Floats, called: Set, model: int, came: _Estimate
    ) -> _Estimate:
        """Return what rows at a standing come to by asking a model, (n, L), by guesses and by those that asked it.

        Of the rows that are to ask it, `mine`, weights of those that did add up to their number.
        """
        asked, out = self.rows.taken(called, model), dict[str, Floats]()
        weight = self.rows.weights(called, model)[asked, None] * mine[asked]
        share = weight / np.maximum(weight.sum(axis=0), 1e-30)
        count = (weight > 0).sum(axis=0)
        for plain, own, guess in (("aim", "worth", aim), ("paid", "spent", paid)):
            off = (share * (getattr(came, plain) - guess[asked])).sum(axis=0)
            out[plain], out[own] = guess + count / (count + _SHRINK) * off, guess.copy()
            out[own][asked] += mine.sum(axis=0) * share * (getattr(came, own) - guess[asked])
        return _Estimate(**out)
