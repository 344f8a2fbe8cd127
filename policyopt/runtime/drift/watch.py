"""`DriftWatch`: notices without labels that requests are no longer like the reference.

What is proven of its false alarms, what is not, and the sources: `policyopt.runtime.drift`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import check_seed, check_whole
from ..coin import coin
from ..errors import input_error
from .detector import advance, start_sums
from .movement import Alarm, Movement, movement
from .reference import Floats, Ints, Reference, as_table, checked_rows

_LARGEST = 2**53


class DriftWatch:
    """Watches requests one by one, in constant time and memory; made by `fit` or `restore`.

    Parameters
    ----------
    reference : Reference
    run_length : int
        Requests to a false alarm, in the mean at least.
    seed : int
        Of the coins that break ties.

    Attributes
    ----------
    requests : int
        How many came.
    learning : int
        How many more make the new reference after ``reset(learn=...)``.
    alarm_at : int or None
        Request whose alarm stands.
    sums : Sums
        What is remembered of the requests.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> usual = rng.beta(5, 2, size=(900, 1))
    >>> watch = DriftWatch.fit(usual, rng.integers(0, 3, 900), classes=3, steered=True)
    >>> watch.update_batch(rng.beta(5, 2, size=(500, 1)), rng.integers(0, 3, 500))
    >>> alarm = watch.update_batch(rng.beta(3, 3, size=(500, 1)), rng.integers(0, 3, 500))
    >>> alarm.moved.statistic, alarm.moved.direction, 500 < alarm.request < 600
    ('score at exit 0', 'lower', True)
    """

    def __init__(self, reference: Reference, run_length: int = 100_000, seed: int = 0) -> None:
        check_whole("run_length", run_length, 1)
        check_seed(seed)
        self.reference = reference
        self.run_length = int(run_length)
        self.seed = int(seed)
        self.requests = 0
        self.sums = start_sums(reference.pool)
        self.learning = 0
        self.alarm_at: int | None = None

    @classmethod
    def fit(
        cls,
        scores: npt.ArrayLike,
        predictions: npt.ArrayLike,
        exits: npt.ArrayLike | None = None,
        *,
        classes: int,
        path: Sequence[int] | None = None,
        run_length: int = 100_000,
        steered: bool = False,
        bins: int = 32,
        seed: int = 0,
    ) -> DriftWatch:
        """Learn from reference rows what requests look like.

        Parameters
        ----------
        scores : array of shape (N, K)
            The policy's; those past the exit taken are not read (NaN, say).
        predictions : array of shape (N,), int
            Class at the first exit; -1 where it gave none.
        exits : array of shape (N,), int
            Exit taken, the model's number. Not needed where `steered`.
        classes : int
            C.
        path : sequence of K int, optional
            `Policy.path`; default 0..K-1.
        run_length : int
            Mean number of requests to a false alarm, at least.
        steered : bool
            Thresholds change while deployed: watch the first exit only.
        bins : int
            Cells per score, at most.
        seed : int

        Returns
        -------
        DriftWatch

        Raises
        ------
        InputError
            Shapes that do not fit, scores that are not finite where reached, no rows.
        """
        check_whole("bins", bins, 2, 1024)
        check_whole("classes", classes, 0, 1 << 20)
        steered = bool(steered)
        table = as_table(scores)
        numbers = tuple(range(table.shape[-1])) if path is None else tuple(int(k) for k in path)
        if not numbers or any(a >= b for a, b in zip((-1, *numbers), numbers, strict=False)):
            raise input_error("path", "exit numbers, ascending", numbers, "E.g. path=policy.path.")
        if exits is None and not steered:
            raise input_error(
                "exits", "given", "none", "Or watch the first exit only: steered=True."
            )
        rows = checked_rows(table, predictions, exits, numbers, steered, classes)
        if not len(table):
            raise input_error(
                "scores", "of one row or more", "none", "E.g. rows of split 'calibrate'."
            )
        return cls(Reference.of(*rows, classes, numbers, steered, bins), run_length, seed)

    @property
    def limit(self) -> float:
        """What a sum must reach to raise an alarm."""
        return 2.0 * len(self.reference.columns) * self.run_length

    @property
    def alarm(self) -> Alarm | None:
        """The alarm that stands, until `reset`."""
        if self.alarm_at is None:
            return None
        first, *others = self.report()
        return Alarm(self.alarm_at, first, tuple(others))

    def update(self, scores: Any, prediction: int, exit: int | None = None) -> Alarm | None:
        """Take a request in.

        Parameters
        ----------
        scores : float, or sequence of float
            At the exits that were run, first to last.
        prediction : int
            Class at the first exit; -1 where it gave none.
        exit : int, optional
            Exit taken, the model's number. Not needed where `steered`.

        Returns
        -------
        Alarm or None
            The alarm that this request raises. After one the watch stands still: see `reset`.

        Raises
        ------
        InputError
            Another number of scores than exits run, or one that is not finite.
        """
        path, steered = self.reference.path, self.reference.steered
        taken = path[0] if steered else exit
        if taken not in path:
            raise input_error(
                "exit", f"one of {', '.join(map(str, path))}", taken,
                "Give the model's number of the exit taken.",
            )  # fmt: skip
        given = as_table(scores)
        run = path.index(taken) + 1
        right = 1 <= given.shape[1] <= len(path) if steered else given.shape[1] == run
        if len(given) != 1 or not right:
            raise input_error(
                "scores", f"{run}, one per exit run", f"shape {np.shape(scores)}",
                "First exit first.",
            )  # fmt: skip
        row = np.full((1, len(path)), np.nan)
        row[0, : given.shape[1]] = given[0]
        return self.update_batch(row, [prediction], [taken])

    def update_batch(
        self, scores: npt.ArrayLike, predictions: npt.ArrayLike, exits: npt.ArrayLike | None = None
    ) -> Alarm | None:
        """Take n requests in, in order: the same bits as `update` on one after another.

        Parameters
        ----------
        scores : array of shape (n, K)
        predictions, exits : arrays of shape (n,)
            As of `fit`.

        Returns
        -------
        Alarm or None
            The alarm that one of them raises; those after it are numbered and left.
        """
        steered = self.reference.steered
        if exits is None and not steered:
            raise input_error(
                "exits", "given", "none", "The watch was fitted without steered=True."
            )
        rows = checked_rows(
            scores, predictions, None if steered else exits, self.reference.path, steered,
            self.reference.classes,
        )  # fmt: skip
        cells, values = self.reference.read(*rows)
        n, width = cells.shape
        if self.requests + n >= _LARGEST // width:
            raise input_error(
                "requests", f"below {_LARGEST // width}", self.requests, "Fit a new watch."
            )
        counters = self.requests * width + np.arange(n * width)
        coins = coin(self.seed, counters).reshape(n, width)
        raised = False
        for i in range(n):
            if self.alarm_at is None:
                raised |= self._take(cells[i : i + 1], values[i : i + 1], coins[i : i + 1])
            self.requests += 1
        return self.alarm if raised else None

    def _take(self, cells: Ints, values: Floats, coins: Floats) -> bool:
        """Take one request, (1, J), in; return whether it raises an alarm."""
        if self.learning:
            self._learn(cells, values)
            return False
        sums = advance(self.sums, cells, values, coins, self.requests)
        if float(sums.max()) < self.limit:
            return False
        self.alarm_at = self.requests
        return True

    def report(self) -> tuple[Movement, ...]:
        """Return how each statistic stands and how it has moved, strongest evidence first.

        Returns
        -------
        tuple of Movement
        """
        s = self.sums
        levels = s.sums[0].mean(axis=-1) / self.limit
        found = [
            movement(
                self.reference, j, float(levels[j]), s.recent[0, j],
                (float(s.moments[0, j, 0]), float(s.moments[0, j, 1])), int(s.start[0, j]),
            )
            for j in range(len(levels))
        ]  # fmt: skip
        return tuple(found[j] for j in np.argsort(-levels, kind="stable"))

    def reset(self, learn: int = 0) -> None:
        """Watch on after an alarm, evidence cleared; the run length counts anew from here.

        Parameters
        ----------
        learn : int
            0: the reference stays (the inputs were repaired). Else that many requests to come
            become the reference, in the same cells, and nothing is watched until they have come
            (the change is there to stay, and the policy was fitted anew, say).
        """
        check_whole("learn", learn, 0)
        self.alarm_at = None
        self.learning = int(learn)
        self.sums = start_sums(self.reference.pool)

    def _learn(self, cells: Ints, values: Floats) -> None:
        """Count one request into the reference to be."""
        s = self.sums
        here = cells[0] >= 0
        s.recent[0, here, cells[0, here]] += 1
        s.moments[0, here] += np.stack([values[0], values[0] ** 2], axis=-1)[here]
        self.learning -= 1
        if self.learning:
            return
        count = np.maximum(s.recent[0].sum(axis=-1), 1)
        shift = s.moments[0, :, 0] / count
        spread = np.sqrt(np.maximum(s.moments[0, :, 1] / count - shift**2, 0.0))
        old = self.reference
        moments = np.stack([old.moments[:, 0] + shift, spread], axis=-1)
        self.reference = Reference(
            old.path, old.classes, old.steered, old.edges, s.recent[0].copy(), moments
        )
        self.sums = start_sums(self.reference.pool)

    def state(self) -> dict[str, Any]:
        """Return all of the watch, JSON-able: `restore` goes on as if nothing had happened."""
        from .saved import to_dict

        return to_dict(self)

    @classmethod
    def restore(cls, state: Any) -> DriftWatch:
        """Return the watch that `state` described.

        Raises
        ------
        InputError
            Anything that `state` cannot have returned.
        """
        from .saved import from_dict

        return from_dict(state)
