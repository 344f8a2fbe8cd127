"""Routing from logs: what a policy that explored did, and how likely it was, in the place of all models' outputs.

At a standing only the rows are known that stood there, and what asking a model came to only of those of them that
asked it. Regressed on these, its gain is an estimate for all that stood there: who asks which model is decided by what
the standing knows, and a coin. What rows come to is then *doubly robust* (Dudik, Langford & Li, arXiv:1103.4601; Jiang & Li,
arXiv:1511.03722): the estimate of what the new policy would do and, where the log did the same, the inverse of its
probability times what it really came to, less the estimate. Costs and qualities that are stated are means of these. Choices
are learnt without that correction, whose noise is large: from rows that did the same as they are, else from the estimates.

The weights of rows that asked a model add up to all rows that stood there, if each of them might have asked it. Where
they do not, or the rows are few, the model is not asked there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policyopt._methods.exit_batch import subsample_outputs
from policyopt._methods.regression import of_own_fold
from policyopt._methods.routing import _PENALTIES, Set, _Induction, _Rows, _Way
from policyopt._table import Table, subsample
from policyopt.runtime._errors import input_error
from policyopt.runtime._routing import CHEAP
from policyopt.runtime._typing import Bools, Floats, Ints

#: Rows by which it can be told what asking a model at a standing comes to; rows of each that learn well.
_LEAST, _ENOUGH = 40, 250
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
        if often:
            shown = "; ".join(
                f"{m} after {', '.join(map(str, s)) or 'nothing'}" for s, m in often[:5]
            )
            more = f" and {len(often) - 5} more" if len(often) > 5 else ""
            self.notes = (f"left out, too seldom tried: model {shown}{more}",)
        return [found]

    def _refuse(self) -> None:
        """Refuse a log that tells of nothing but what was done anyhow."""
        costs = self.ensemble.costs
        share = np.maximum(costs, CHEAP * costs.max()) ** -0.5
        explore = 0.1
        need = int(np.ceil(_ENOUGH / (explore / 2 * share.min() / share.sum()) / 1000)) * 1000
        explored = float((self.likely < 1).any(axis=1).mean())
        got = f"{len(self.table)} requests, of which {100 * explored:.0f} % had another choice"
        step = (
            f"Serve with policy.exploring({explore:g}): about {need:,} requests then try each model {_ENOUGH} times "
            "first, and as often after the usual first one."
        )
        raise input_error("log", "of a policy that explores, long enough to learn from", got, step)


class _Logged(_Induction):
    """Backward induction over the standings of a log, at all prices."""

    rows: LoggedRows

    def __init__(
        self, rows: LoggedRows, sets: Sequence[Set], penalties: tuple[float, float]
    ) -> None:
        self.rows, self.penalties, self.sets = rows, penalties, list(sets)
        self.theta = dict[Set, tuple[tuple[int, ...], Floats]]()
        self.asks = np.zeros(len(rows.prices), dtype=bool)
        prices, n, levels = rows.prices, len(rows.table), len(rows.prices)
        learnt, robust = dict[Set, _Way](), dict[Set, _Way]()
        for size in range(max(map(len, sets)), 0, -1):
            here = [s for s in sets if len(s) == size]
            came = {
                (s, m): tuple(self._came(ways, s, m) for ways in (learnt, robust))
                for s in here
                for m in rows.actions[s]
            }
            target = {
                (s, m): np.hstack([way.aim - rows.at(s).aim[rows.taken(s, m), None], way.paid])
                for (s, m), (way, _) in came.items()
            }
            thetas = self._regressed(here, rows.actions, target)
            for s in here:
                seen, models = rows.at(s), rows.actions[s]
                stop = np.repeat(seen.worth[:, None], levels, axis=1)
                learnt[s] = robust[s] = _Way(np.zeros_like(stop), stop, stop)
                if not models:
                    continue
                theta = np.stack([thetas[s, m] for m in models])  # (A, G+1, M+1, 2L)
                guess = np.stack([of_own_fold(seen.basis, t, rows.fold[rows.told(s)]) for t in theta])
                more, paid = guess[..., :levels], guess[..., levels:]
                gains = more - prices * paid
                best = gains.argmax(axis=0)
                choice = np.where(np.take_along_axis(gains, best[None], 0)[0] > 0, best, -1)
                for ways, which in ((learnt, 0), (robust, 1)):
                    asked = [
                        self._valued(choice == a, stop + more[a], paid[a], s, m, came[s, m][which], bool(which))
                        for a, m in enumerate(models)
                    ]
                    ways[s] = ways[s].take(choice, asked)
                theta = theta[..., :levels] - prices * theta[..., levels:]
                self.theta[s] = tuple(models), theta[:, -1]
        starts, every = rows.actions[()], np.ones((n, levels), dtype=bool)
        values, chosen = [], list[_Way]()
        for m in starts:
            ways = [self._came(ways, (), m) for ways in (learnt, robust)]
            share = rows.weights((), m)[rows.taken((), m), None]
            share = share / share.sum()
            aim, paid = (np.repeat((share * x).sum(axis=0)[None], n, axis=0) for x in (ways[0].aim, ways[0].paid))
            found = [self._valued(every, aim, paid, (), m, way, True) for way in ways]
            net = found[0].aim - prices * found[0].paid
            values.append(net.mean(axis=0) - 2.0 * net.std(axis=0) / n**0.5)
            chosen.append(_Way(found[0].paid, found[1].worth, found[0].aim))
        best = np.stack(values).argmax(axis=0)
        self.value = np.stack(values).max(axis=0)
        self.first = [starts[b] for b in best.tolist()]
        shape = np.broadcast_to(best - 1, (n, levels))
        self.way = chosen[0].take(shape, chosen[1:])

    def _came(self, ways: dict[Set, _Way], called: Set, model: int) -> _Way:
        """Return what the rows that asked a model at a standing came to."""
        rows, after = self.rows, tuple(sorted((*called, model)))
        asked = rows.told(called)[rows.taken(called, model)]
        at = np.searchsorted(rows.told(after), asked)
        way = ways[after]
        return _Way(way.paid[at] + rows.costs[asked, model, None], way.worth[at], way.aim[at])

    def _valued(
        self, mine: Bools, aim: Floats, paid: Floats, called: Set, model: int, came: _Way, whole: bool
    ) -> _Way:
        """Return estimates, (n, L), of what rows at a standing come to if they ask a model, corrected by those that did.

        Of the rows that are to ask it, `mine`, the weights add up to their number. `whole`: each row that did has its own
        correction; else all have the mean one, shrunk where few did.
        """
        asked = self.rows.taken(called, model)
        weight = self.rows.weights(called, model)[asked, None] * mine[asked]
        share = weight / np.maximum(weight.sum(axis=0), 1e-30)
        trust = (weight > 0).sum(axis=0)
        trust = trust / (trust + _SHRINK)
        out = []
        for guess, true in ((aim, came.aim), (paid, came.paid)):
            off = share * (true - guess[asked])
            if whole:
                guess = guess.copy()
                guess[asked] += off * mine.sum(axis=0)
            else:
                guess = guess + trust * off.sum(axis=0)
            out.append(guess)
        return _Way(out[1], out[0], out[0])
