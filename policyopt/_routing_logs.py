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
from policyopt._routing import Set, _Induction, _Rows, _Way
from policyopt._table import Table, subsample
from policyopt.runtime._errors import input_error
from policyopt.runtime._routing import CHEAP
from policyopt.runtime._typing import Floats, Ints

#: Rows by which it can be told what asking a model at a standing comes to; rows of each that learn well.
_LEAST, _ENOUGH = 40, 250


class LoggedRows(_Rows):
    """Rows of a log: of each standing those that stood there."""

    most = 50_000

    def __init__(self, table: Table, soft: float, seed: int) -> None:
        table = subsample(subsample_outputs(table, seed), self.most, seed)
        assert table.log is not None
        self.order, self.likely = table.log
        self._places: dict[tuple[Set, int | bool], Ints] = {}
        super().__init__(table, soft, seed)

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

    def __init__(
        self, rows: LoggedRows, sets: Sequence[Set], penalties: tuple[float, float]
    ) -> None:
        self.rows, self.penalties, self.sets = rows, penalties, list(sets)
        self.theta = dict[Set, tuple[tuple[int, ...], Floats]]()
        prices, levels = rows.prices, len(rows.prices)
        learnt, robust = dict[Set, _Way](), dict[Set, _Way]()
        for size in range(max(map(len, sets)), 0, -1):
            here = [s for s in sets if len(s) == size]
            goes: dict[tuple[Set, int], tuple[_Way, _Way]] = {}
            for s, m in [(s, m) for s in here for m in rows.actions[s]]:
                asked = rows.told(s)[rows.taken(s, m)]
                after = tuple(sorted((*s, m)))
                at, cost = np.searchsorted(rows.told(after), asked), rows.costs[asked, m, None]
                ways = learnt[after], robust[after]
                goes[s, m] = tuple(
                    _Way(w.paid[at] + cost, w.worth[at], w.aim[at]) for w in ways
                )  # type: ignore[assignment]
            target = {
                (s, m): np.hstack([way.aim - rows.at(s).aim[rows.taken(s, m), None], way.paid])
                for (s, m), (way, _) in goes.items()
            }
            thetas = self._regressed(here, rows.actions, target)
            for s in here:
                seen, n = rows.at(s), len(rows.told(s))
                stop = np.repeat(seen.worth[:, None], levels, axis=1)
                learnt[s] = robust[s] = _Way(np.zeros_like(stop), stop, stop)
                models = rows.actions[s]
                if not models:
                    continue
                theta = np.stack([thetas[s, m] for m in models])
                fold = rows.fold[rows.told(s)]
                est = np.stack([of_own_fold(seen.basis, t, fold) for t in theta])  # (A, n, 2L)
                more, paid = est[..., :levels], est[..., levels:]
                gains = more - prices * paid
                best = gains.argmax(axis=0)
                choice = np.where(np.take_along_axis(gains, best[None], 0)[0] > 0, best, -1)
                worth, cost, right, spent = stop.copy(), np.zeros_like(stop), stop.copy(), np.zeros_like(stop)
                for a, m in enumerate(models):
                    mine = choice == a
                    values = stop + more[a], paid[a]
                    asked, weight = rows.taken(s, m), rows.weights(s, m)
                    weight /= weight.mean()
                    plain, true = goes[s, m]
                    for out, guess, came in ((worth, values[0], plain.aim), (cost, values[1], plain.paid)):
                        guess = guess.copy()
                        guess[asked] = came
                        np.copyto(out, guess, where=mine)
                    for out, guess, came in ((right, values[0], true.aim), (spent, values[1], true.paid)):
                        guess = guess.copy()
                        guess[asked] += weight[asked, None] * (came - guess[asked])
                        np.copyto(out, guess, where=mine)
                learnt[s], robust[s] = _Way(cost, worth, worth), _Way(spent, right, right)
                theta = theta[..., :levels] - prices * theta[..., levels:]
                self.theta[s] = tuple(models), theta[:, -1]
        starts = rows.actions[()]
        values, ways = [], []
        for m in starts:
            told, weight = rows.told((m,)), rows.weights((), m)
            weight /= weight.mean()
            plain, true = learnt[m,], robust[m,]
            share = weight[told, None] / weight.sum()
            cost = rows.costs[told, m, None]
            aim, paid = (share * plain.aim).sum(axis=0), (share * (plain.paid + cost)).sum(axis=0)
            values.append(aim - prices * paid)
            right, spent = (np.repeat(v[None], len(rows.table), axis=0) for v in (aim, paid))
            right[told] += weight[told, None] * (true.aim - aim)
            spent[told] += weight[told, None] * (true.paid + cost - paid)
            ways.append(_Way(spent, right, right))
        best = np.stack(values).argmax(axis=0)
        self.value = np.stack(values).max(axis=0)
        self.first = [starts[b] for b in best.tolist()]
        shape = np.broadcast_to(best - 1, (len(rows.table), levels))
        self.way = ways[0].take(shape, ways[1:])
