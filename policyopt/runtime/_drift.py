"""Drift of the inputs, noticed without labels beside a deployed policy; numpy only.

For every request, a few statistics: the score and the predicted class at the first exit, the exit
taken, the score at each later exit among the requests that reached it. Each becomes a smoothed
conformal p-value; bets against p-values being uniform are summed as Shiryaev and Roberts do; an
alarm is raised where one of the J sums reaches ``2 * J * run_length``.

What is proven
--------------
While reference and requests are exchangeable (e.g. independent draws of one distribution):

1. The p-values of one statistic are independent and uniform, to the coin's 2**-24 (Vovk, Gammerman &
   Shafer, "Algorithmic Learning in a Random World": smoothed conformal transducers). This needs that
   cells are set by rows outside the pool (`Reference.of`), and that every request joins the pool.
2. Bets have mean 1 given the p-values before, so the sum R of a statistic, the mean over its bets,
   less the number of requests is a martingale: an e-detector (Shin, Ramdas & Rinaldo, NEJSDS 2024).
   For its first time T at a limit L: ``L * P(T <= m) <= E[min(T, m)] <= m``.
3. Each sum is a martingale in the history of its *own* p-values only: conformal martingales of
   several statistics may not be averaged (Choe & Ramdas, "Combining evidence across filtrations",
   2402.09698). So each has its own limit, and the union bound gives ``P(alarm within m requests) <=
   m / (2 * run_length)``, whatever the dependence; summed over m, the mean number of requests to a
   false alarm is at least `run_length`.

Not proven: how soon a change is found. Requests after a change join the pool and dilute it ("test-time
contamination", Shaer et al., 2602.13848). Freezing the pool is no way out: with n reference rows, what
they miss of the distribution is soon taken for drift; Shaer et al. pay for that by a margin. A growing
pool keeps point 1 exact and costs little where delays are small beside n. A change that shows only in
how statistics go together, each staying as it was, is not seen at all.

A bet is a density on [0, 1), a table of equal cells. A fixed one is a Beta density, put on `CELLS`
cells and scaled to mean 1. The power bets of Vovk, Nouretdinov & Gammerman, "Testing exchangeability
on-line" (ICML 2003) are Beta(e, 1); beside them stand mirrored ones (scores that rise instead of fall)
and symmetric ones (spread). Two bets learn: the predictive density of a histogram that forgets, as the
plug-in betting functions of Fedorova et al., "Plug-in martingales for testing exchangeability on-line"
(ICML 2012) learn theirs. The sum over conformal p-values: also Vovk et al., "Retrain or not retrain"
(COPA 2021).

Departures: one limit per statistic instead of an average of e-detectors, for the reason in 3; an
estimate of the change by the last start of a CUSUM run of the same bets; densities are step functions:
their mean is 1 exactly, none is infinite at 0, a step is one look-up, and a batch gives the bits of a
step; histograms forget, since a change may come late.

Reference rows must not have trained anything that deployed scores depend on: take those of split
``calibrate``, or recent traffic that was found sound. Thresholds that a controller or a bandit moves
change exits and which requests reach later exits, though inputs stay: then ``steered=True`` watches
the two statistics of the first exit only, on which thresholds have no effect.

Bursts: p-values of requests that come alike in a row (frames of a video, retries) repeat each other. With
``block=m`` the next request that counts comes m to 2m - 1 after the last, by a coin: of m alike or fewer one
counts at most, wherever they begin (of one drawn per m in a row, two might). Where all bursts are of m, which
of its burst it is stays uniform, as that of a group in `policyopt.watch`. Of n requests n / m count at most.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ._arithmetic import coin
from ._checks import check_seed, check_type, check_whole
from ._errors import input_error
from ._parameters import numbers
from ._saved_state import saved_numbers
from ._typing import Floats, Ints

#: Cells of [0, 1) on which the fixed bets are constant.
CELLS = 64
#: Cells of the histograms; divides `CELLS`.
GROUPS = 16
#: p-values that a histogram remembers, in the mean.
WINDOWS = (64.0, 512.0)
_KEEP = 1.0 - 1.0 / np.array(WINDOWS)
_DOWN = ((1.0, 1.3), (1.0, 2.0), (1.0, 4.0), (0.4, 2.0))
_SPREAD = ((0.5, 0.5), (0.8, 0.8), (2.0, 2.0), (4.0, 4.0))
_MOST = 1e300  # sums stop there: a bet that stops winning keeps a supermartingale


def beta_bets() -> Floats:
    """Return the fixed bets, (CELLS, 12): density of each in each cell, mean 1 over the cells."""
    middle = (np.arange(CELLS) + 0.5) / CELLS
    shapes = (*_DOWN, *((b, a) for a, b in _DOWN), *_SPREAD)
    raw = [middle ** (a - 1) * (1 - middle) ** (b - 1) for a, b in shapes]
    return np.ascontiguousarray(np.stack([d / d.mean() for d in raw], axis=1))


FIXED = beta_bets()
#: I, how many bets there are.
BETS = FIXED.shape[1] + len(WINDOWS)


def densities(p: Floats, histograms: Floats) -> Floats:
    """Return what each bet pays for p-values (...): (..., I), by histograms (..., 2, GROUPS) of those before."""
    cell = _cell_of(p)
    group = (cell // (CELLS // GROUPS))[..., None, None]
    inside = np.take_along_axis(histograms, group, axis=-1)[..., 0] + 1.0
    learned = GROUPS * inside / (histograms.sum(axis=-1) + GROUPS)
    return np.concatenate([FIXED[cell], learned], axis=-1)


def remember(histograms: Floats, p: Floats) -> Floats:
    """Return the histograms after a p-value: all entries fade, its own cell gains 1."""
    group = _cell_of(p) // (CELLS // GROUPS)
    return histograms * _KEEP[:, None] + (np.arange(GROUPS) == group[..., None])[..., None, :]


def _cell_of(p: Floats) -> Ints:
    """Return the cell of each p-value; 1.0, which rounding may give, is in the last."""
    return np.minimum((p * CELLS).astype(np.int64), CELLS - 1)


@dataclass(frozen=True, eq=False)
class Sums:
    """All that the watch remembers of R streams; arrays are changed in place."""

    pool: Ints  # (R, J, M): rows per cell, reference and requests so far
    sums: Floats  # (R, J, I): Shiryaev-Roberts sum of each bet
    histograms: Floats  # (R, J, 2, GROUPS): what the bets that learn have learned
    run: Floats  # (R, J): CUSUM of the bets together, whose last start estimates when the change came
    start: Ints  # (R, J): request at which that run started
    recent: Ints  # (R, J, M): requests per cell since
    moments: Floats  # (R, J, 2): sums of (score - reference mean), and of its square, since


def start_sums(pool: Ints, streams: int = 1) -> Sums:
    """Return the sums before the first request, of a reference with `pool` (J, M) rows per cell."""
    shape = (streams, len(pool))
    return Sums(
        np.repeat(np.asarray(pool, dtype=np.int64)[None], streams, axis=0),
        np.zeros((*shape, BETS)),
        np.zeros((*shape, len(WINDOWS), GROUPS)),
        np.ones(shape),
        np.zeros(shape, dtype=np.int64),
        np.zeros((streams, *pool.shape), dtype=np.int64),
        np.zeros((*shape, 2)),
    )


def smoothed(pool: Ints, cells: Ints, coins: Floats) -> Floats:
    """Return smoothed conformal p-values (R, J) of cells (R, J) in pools (R, J, M) without them, by coins (R, J)."""
    below = (pool * (np.arange(pool.shape[-1]) < cells[..., None])).sum(axis=-1)
    equal = np.take_along_axis(pool, cells[..., None], axis=-1)[..., 0] + 1
    return (below + coins * equal) / (pool.sum(axis=-1) + 1)


def advance(state: Sums, cells: Ints, values: Floats, coins: Floats, request: int) -> Floats:
    """Take in a request of each stream, all (R, J), cells -1 where it has none; return each statistic's sum."""
    here = cells >= 0
    at = np.where(here, cells, 0)
    p = smoothed(state.pool, at, coins)
    before = state.sums + 1.0
    after = np.minimum(densities(p, state.histograms) * before, _MOST)
    growth = after.sum(axis=-1) / before.sum(axis=-1)
    np.copyto(state.sums, after, where=here[..., None])
    np.copyto(state.histograms, remember(state.histograms, p), where=here[..., None, None])
    fresh = here & (state.run <= 1.0)
    state.start[fresh] = request
    state.recent[fresh] = 0
    state.moments[fresh] = 0.0
    run = np.minimum(np.maximum(state.run, 1.0) * growth, _MOST)
    np.copyto(state.run, run, where=here)
    own = here[..., None] & (np.arange(state.pool.shape[-1]) == at[..., None])
    state.recent[...] += own
    state.pool[...] += own
    gain = np.stack([values, values * values], axis=-1)
    np.add(state.moments, gain, out=state.moments, where=here[..., None])
    return state.sums.mean(axis=-1)


# ---- the watch

_FORMAT = "policyopt.drift/1"
_LARGEST = 2**53
_LONGEST = 1 << 20  # block
_TOLD = 10  # classes, or exits, of which is told what would be noticed
_NEXT = "Restore what `state` returned."
_FLOATS = {"sums": (BETS,), "histograms": (len(WINDOWS), GROUPS), "run": (), "moments": (2,)}


#: Cells of the table that come to each that is used, and cells that are too few to matter.
_RATIO, _FREE = 16, 1 << 22
_EVERY = 4  # of the rows, one in so many sets the edges and is not counted


@dataclass(frozen=True, eq=False)
class Reference:
    """Cells and counts of the J statistics of a watch: score and class at the first exit, exit taken, later scores."""

    active_exits: tuple[int, ...]  # the model's numbers of the exits that the policy runs
    classes: int  # C, 0 where nobody knows; no class (-1) has a cell of its own
    steered: bool
    edges: tuple[Floats, ...]  # of each score; cell m holds edges[m-1] < score <= edges[m]
    pool: Ints  # (J, M): rows per cell, 0 beyond a statistic's own cells
    moments: Floats  # (J, 2): mean and standard deviation of each score; 0 of a class or an exit
    # Of each statistic: its name, the column of the scores that it reads (None of a class or an exit), its cells.
    names: tuple[str, ...] = field(init=False)
    columns: tuple[int | None, ...] = field(init=False)
    widths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        scores = enumerate(zip(self.active_exits, self.edges, strict=False))
        first, *later = ((f"score at exit {k}", at, len(e) + 1) for at, (k, e) in scores)
        rows = [first, (f"class at exit {self.active_exits[0]}", None, self.classes + 1)]
        if not self.steered:
            rows += [("exit taken", None, len(self.active_exits)), *later]
        own = ("names", "columns", "widths")
        for name, column in zip(own, zip(*rows, strict=True), strict=True):
            object.__setattr__(self, name, column)

    @classmethod
    def of(
        cls, scores: Floats, predictions: Ints, positions: Ints, classes: int,
        active_exits: tuple[int, ...], steered: bool, bins: int,
    ) -> Reference:  # fmt: skip
        """Count rows: scores (N, K), predictions at the first exit (N,), columns of the exits taken (N,).

        One row in four sets the edges of at most `bins` cells per score and is not counted: edges that depend
        on rows of the pool would make those unlike the requests, and the p-values no longer exact.
        """
        edges, moments = [], []
        for k in range(1 if steered else len(active_exits)):
            reached = scores[positions >= k, k]
            base = np.sort(reached[::_EVERY])
            at = (np.arange(1, bins) * len(base)) // bins
            edges.append(np.unique(base[at]) if len(base) else np.zeros(0))
            moments.append((reached.mean(), reached.std()) if len(reached) else (0.0, 0.0))
        moments[1:1] = [(0.0, 0.0)] * (1 if steered else 2)
        none = np.zeros((0, 0), np.int64)
        blank = cls(active_exits, classes, steered, tuple(edges), none, np.array(moments))
        blank.check_size("Watch the first exit only: steered=True.")
        cells, _ = blank.read(scores, predictions, positions)
        for j, k in enumerate(blank.columns):
            # The rows that set a score's edges are every fourth of those that reach it.
            cells[np.flatnonzero(positions >= (k or 0))[::_EVERY], j] = -1
        most = max(blank.widths)
        counts = [np.bincount(column[column >= 0], minlength=most) for column in cells.T]
        return replace(blank, pool=np.array(counts, dtype=np.int64))

    def check_size(self, step: str) -> None:
        """Refuse a table far larger than what is used of it: a row is as long as the longest, often of classes."""
        rows, longest = len(self.widths), max(self.widths)
        most = max(_RATIO * sum(self.widths), _FREE) // longest
        if rows > most:
            allowed = f"{most} at most, where one has {longest} cells (classes {self.classes})"
            raise input_error("statistics", allowed, f"{rows}", step)

    def read(self, scores: Floats, predictions: Ints, positions: Ints) -> tuple[Ints, Floats]:
        """Return the cells (n, J), -1 where not reached, and the scores less their means (n, J)."""
        n = len(predictions)
        cells = np.full((n, len(self.columns)), -1, dtype=np.int64)
        values = np.zeros(cells.shape)
        inside = (predictions >= 0) & (predictions < self.classes)
        cells[:, 1] = np.where(inside, predictions, self.classes)
        if not self.steered:
            cells[:, 2] = positions
        scored = [(j, k) for j, k in enumerate(self.columns) if k is not None]
        for (j, k), edges in zip(scored, self.edges, strict=True):
            there = positions >= k
            column = scores[there, k]
            cells[there, j] = np.searchsorted(edges, column, side="left")
            values[there, j] = column - self.moments[j, 0]
        return cells, values

    def label(self, j: int, cell: int) -> str:
        """Return what a cell of a class or an exit is called."""
        if j == 1:
            return f"class {cell}" if cell < self.classes else "no class"
        return f"exit {self.active_exits[cell]}"


@dataclass(frozen=True)
class Movement:
    """One statistic: its evidence of a change, and how it looks since that evidence began."""

    statistic: str
    level: float  #: its sum as a share of the limit: an alarm at 1
    direction: str  #: lower, higher, wider or narrower of a score; "exit 2 more often"
    before: float  #: mean or standard deviation of the score, whichever moved more; else the share
    now: float
    since: int  #: request at which the evidence began: an estimate of when the change came
    requests: int  #: of this statistic since then

    def __str__(self) -> str:
        what = "share" if " " in self.direction else "mean"
        what = "spread" if self.direction in ("wider", "narrower") else what
        before, now = f"{self.before:.3g}", f"{self.now:.3g}"
        # Coins break ties: of rows that are all alike, they alone can raise an alarm, a false one.
        how = f"{self.direction}, {what} {before} -> {now}"
        how = f"no visible movement, {what} {now}," if before == now else how
        return f"{self.statistic}: {how} over {self.requests} requests since request {self.since}"


@dataclass(frozen=True)
class Alarm:
    """The inputs have changed."""

    request: int  #: number of the request that raised it, from 0
    moved: Movement  #: the statistic whose evidence is strongest
    others: tuple[Movement, ...]  #: the rest, strongest first

    def __str__(self) -> str:
        return f"drift at request {self.request}: {self.moved}"


class DriftWatch:
    """Watches requests one by one, in constant time and memory; made by `fit` or `restore`.

    Parameters
    ----------
    reference : Reference
    run_length : int
        Requests to a false alarm, in the mean at least.
    seed : int
        Of the coins that break ties.
    block : int
        Requests come in bursts of up to so many alike: none counts within so many of the last that did.

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

    def __init__(
        self, reference: Reference, run_length: int = 100_000, seed: int = 0, block: int = 1
    ) -> None:
        check_whole("run_length", run_length, 1)
        check_whole("block", block, 1, _LONGEST)
        check_seed(seed)
        self.reference = reference
        self.run_length = int(run_length)
        self.seed = int(seed)
        self.block = int(block)
        self.requests = 0  #: how many came
        self.next = self._after(-1)  #: the next that counts
        self.sums = start_sums(reference.pool)  #: what is remembered of them
        self.learning = 0  #: how many more make the new reference after ``reset(learn=...)``
        self.alarm_at: int | None = None  #: request whose alarm stands

    @classmethod
    def fit(
        cls,
        scores: npt.ArrayLike,
        predictions: npt.ArrayLike,
        exits: npt.ArrayLike | None = None,
        *,
        classes: int,
        active_exits: Sequence[int] | None = None,
        run_length: int = 100_000,
        steered: bool = False,
        bins: int = 32,
        seed: int = 0,
        block: int = 1,
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
        active_exits : sequence of K int, optional
            `Policy.active_exits`; default 0..K-1.
        run_length : int
            Mean number of requests to a false alarm, at least.
        steered : bool
            Thresholds change while deployed: watch the first exit only.
        bins : int
            Cells per score, at most.
        seed : int
        block : int
            Requests come in bursts of up to so many alike; reference rows do not: one of each.

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
        given = range(table.shape[-1]) if active_exits is None else active_exits
        known = tuple(int(k) for k in given)
        if not known or any(a >= b for a, b in zip((-1, *known), known, strict=False)):
            step = "E.g. active_exits=policy.active_exits."
            raise input_error("active_exits", "exit numbers, ascending", known, step)
        step = "Or watch the first exit only: steered=True."
        rows = checked_rows(table, predictions, exits, known, steered, classes, step)
        if not len(table):
            raise input_error("scores", "of one row or more", "none", "E.g. split 'calibrate'.")
        return cls(Reference.of(*rows, classes, known, steered, bins), run_length, seed, block)

    @property
    def limit(self) -> float:
        """What a sum must reach to raise an alarm."""
        return 2.0 * len(self.reference.columns) * self.run_length / self.block

    def _after(self, request: int) -> int:
        """Return the next request that counts after one that does."""
        drawn = coin(self.seed, np.array(request + 1), 1) if self.block > 1 else 0.0
        return request + self.block + int(self.block * drawn)

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
        active_exits, steered = self.reference.active_exits, self.reference.steered
        taken = active_exits[0] if steered else check_exit(exit, active_exits)
        given = as_table(scores)
        run, (rows, width) = active_exits.index(taken) + 1, given.shape
        if rows != 1 or not (1 <= width <= len(active_exits) if steered else width == run):
            allowed = f"{run}, one per exit run"
            raise input_error("scores", allowed, f"shape {np.shape(scores)}", "First exit first.")
        row = np.pad(given, ((0, 0), (0, len(active_exits) - width)), constant_values=np.nan)
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
        r, step = self.reference, "The watch was fitted without steered=True."
        exits = None if r.steered else exits
        rows = checked_rows(scores, predictions, exits, r.active_exits, r.steered, r.classes, step)
        cells, values = r.read(*rows)
        n, width = cells.shape
        if self.requests + n >= _LARGEST // width:
            most = _LARGEST // width
            raise input_error("requests", f"below {most}", self.requests, "Fit a new watch.")
        counters = self.requests * width + np.arange(n * width)
        coins = coin(self.seed, counters).reshape(n, width)
        stood = self.alarm_at is not None
        while (i := self.next - self.requests) < n:
            cell, value = cells[i : i + 1], values[i : i + 1]
            if self.alarm_at is None and self.learning:
                self._learn(cell[0], value[0])
            elif self.alarm_at is None:
                sums = advance(self.sums, cell, value, coins[i : i + 1], self.next)
                if float(sums.max()) >= self.limit:
                    self.alarm_at = self.next
            self.next = self._after(self.next)
        self.requests += n
        return None if stood else self.alarm

    def report(self) -> tuple[Movement, ...]:
        """Return how each statistic stands and how it has moved, strongest evidence first."""
        levels = self.sums.sums[0].mean(axis=-1) / self.limit
        order = np.argsort(-levels, kind="stable").tolist()
        return tuple(_movement(self.reference, self.sums, j, float(levels[j])) for j in order)

    def notices(self, within: int = 1000) -> list[dict[str, Any]]:
        """Return how far a share must move for an alarm within about so many requests, of each statistic by itself.

        By the reference and the run length alone, the sums replayed in the mean: half of the alarms or more are in
        time. Of a score it is the share below its median, its ranks those of a normal variable that is shifted.

        Records state ``statistic``, ``share`` (of what; of the ten commonest classes or exits), ``before``, and from
        where it is noticed: ``more`` or above, ``less`` or below; None: not at all.
        """
        check_whole("within", within, 1)
        r, out, count = self.reference, [], 2.0 * within / (3 * self.block - 1)
        for j, (name, width) in enumerate(zip(r.names, r.widths, strict=True)):
            pool = r.pool[j, :width].astype(np.float64)
            n = int(count * pool.sum() / max(r.pool[0].sum(), 1))  # of those that reach it
            order = [-1] if r.columns[j] is not None else np.argsort(-pool, kind="stable")[:_TOLD]
            for cell in (int(c) for c in order if pool[c] or c < 0 < n):
                before = 0.5 if cell < 0 else round(float(pool[cell] / pool.sum()), 4)
                ends = (_noticed(pool, cell, before, end, n, self.limit) for end in (1.0, 0.0))
                what = "below its median" if cell < 0 else r.label(j, cell)
                told = zip(("more", "less"), ends, strict=True)
                out.append({"statistic": name, "share": what, "before": before, **dict(told)})
        return out

    def reset(self, learn: int = 0) -> None:
        """Watch on after an alarm, evidence cleared; the run length counts anew from here.

        Parameters
        ----------
        learn : int
            0: the reference stays (the inputs were repaired). Else that many requests to come that count
            become the reference, in the same cells, and nothing is watched until they have come
            (the change is there to stay, and the policy was fitted anew, say).
        """
        check_whole("learn", learn, 0)
        self.alarm_at = None
        self.learning = int(learn)
        self.sums = start_sums(self.reference.pool)

    def _learn(self, cells: Ints, values: Floats) -> None:
        """Count one request, (J,), into the reference to be."""
        recent, moments, here = self.sums.recent[0], self.sums.moments[0], cells >= 0
        recent[here, cells[here]] += 1
        moments[here] += np.stack([values, values**2], axis=-1)[here]
        self.learning -= 1
        if self.learning:
            return
        count = np.maximum(recent.sum(axis=-1), 1)
        shift = moments[:, 0] / count
        spread = np.sqrt(np.maximum(moments[:, 1] / count - shift**2, 0.0))
        usual = np.stack([self.reference.moments[:, 0] + shift, spread], axis=-1)
        self.reference = replace(self.reference, pool=recent.copy(), moments=usual)
        self.sums = start_sums(self.reference.pool)

    def state(self) -> dict[str, Any]:
        """Return all of the watch, JSON-able: `restore` goes on as if nothing had happened."""
        r, s = self.reference, self.sums

        def rows(counts: Ints) -> list[list[int]]:
            return [row[:width].tolist() for row, width in zip(counts, r.widths, strict=True)]

        names = ("run_length", "seed", "block", "requests", "next", "learning", "alarm_at")
        return {
            "format": _FORMAT,
            "active_exits": list(r.active_exits),
            "classes": r.classes,
            "steered": r.steered,
            **{name: getattr(self, name) for name in names},
            "edges": [e.tolist() for e in r.edges],
            "usual": r.moments.tolist(),
            "reference": rows(r.pool),
            "pool": rows(s.pool[0]),
            "recent": rows(s.recent[0]),
            "start": s.start[0].tolist(),
            **{name: getattr(s, name)[0].tolist() for name in _FLOATS},
        }

    @classmethod
    def restore(cls, state: Any) -> DriftWatch:
        """Return the watch that `state` described.

        Raises
        ------
        InputError
            Anything that `state` cannot have returned.
        """
        if not isinstance(state, Mapping) or state.get("format") != _FORMAT:
            got = state.get("format") if isinstance(state, Mapping) else type(state).__name__
            raise input_error("state", f"of format {_FORMAT}", got, _NEXT)
        reference = _reference(state)
        block = _count(state, "block", 1, _LONGEST)
        watch = cls(reference, _count(state, "run_length", 1), _count(state, "seed"), block)
        at = watch.requests = _count(state, "requests", most=_LARGEST // len(reference.columns) - 1)
        watch.next = _count(state, "next", at, at + 2 * block - 2)
        watch.learning = _count(state, "learning")
        if state.get("alarm_at") is not None:
            watch.alarm_at = _count(state, "alarm_at", most=watch.requests)
        count, widths = len(reference.columns), reference.widths
        watch.sums = sums = start_sums(_counts(state, "pool", widths))
        sums.recent[0] = _counts(state, "recent", widths)
        sums.start[0] = _numbers(state, "start", (count,), 0, watch.requests, True)
        for name, shape in _FLOATS.items():
            low = -np.inf if name == "moments" else 0
            getattr(sums, name)[0] = _numbers(state, name, (count, *shape), low)
        if (sums.moments[0, :, 1] < 0).any():
            least = float(sums.moments.min())
            raise input_error("moments", "sums of squares, 0 or more", least, _NEXT)
        return watch


# ---- how a statistic moved, in words and numbers


def _movement(reference: Reference, sums: Sums, j: int, level: float) -> Movement:
    """Say how a statistic's requests since its evidence began differ from the reference."""
    recent, n = sums.recent[0, j], int(sums.recent[0, j].sum())
    if reference.columns[j] is not None:
        direction, before, now = _score(reference.moments[j], sums.moments[0, j], n)
    else:
        direction, before, now = _share(reference, j, recent, n)
    return Movement(reference.names[j], level, direction, before, now, int(sums.start[0, j]), n)


def _score(usual: Floats, moments: Floats, n: int) -> tuple[str, float, float]:
    mean, spread = (float(v) for v in usual)
    if not n:
        return "still", mean, mean
    shift = float(moments[0]) / n
    now = max(float(moments[1]) / n - shift**2, 0.0) ** 0.5
    # Standard errors that the mean and the logarithm of the spread lie away.
    away = abs(shift) / max(spread, 1e-12) * n**0.5
    ratio = abs(np.log(max(now, 1e-12) / max(spread, 1e-12))) * (2 * n) ** 0.5
    if n > 1 and ratio > away:
        return ("wider" if now > spread else "narrower"), spread, now
    return ("lower" if shift < 0 else "higher"), mean, mean + shift


def _share(reference: Reference, j: int, recent: Ints, n: int) -> tuple[str, float, float]:
    usual = reference.pool[j] / max(int(reference.pool[j].sum()), 1)
    share = recent / max(n, 1) if n else usual
    cell = int(np.abs(share - usual).argmax())
    how = "more often" if share[cell] > usual[cell] else "less often"
    return f"{reference.label(j, cell)} {how}", float(usual[cell]), float(share[cell])


# ---- which shifts are noticed


def _noticed(pool: Floats, cell: int, near: float, end: float, n: int, limit: float) -> Any:
    """Return the share, from `near` towards `end`, from which on n requests raise an alarm, or None."""
    far = near + 0.9999 * (end - near)
    if sum_after(pool, shifted(pool, cell, far), n) < limit:
        return None
    for _ in range(10):
        middle = (near + far) / 2
        over = sum_after(pool, shifted(pool, cell, middle), n) >= limit
        near, far = (near, middle) if over else (middle, far)
    return round(far, 4)


def shifted(pool: Floats, cell: int, share: float) -> Floats:
    """Return shares (M,) of cells of which one has this share; cell -1: of a score that has it below its median."""
    usual = pool / pool.sum()
    if cell >= 0:
        others = usual * (1 - share) / max(1 - usual[cell], 1e-12)
        return np.where(np.arange(len(pool)) == cell, share, others)
    normal, inner = NormalDist(), np.clip(np.cumsum(usual)[:-1], 1e-12, 1 - 1e-12).tolist()
    moved = [normal.cdf(normal.inv_cdf(u) + normal.inv_cdf(share)) for u in inner]
    return np.diff(moved, prepend=0.0, append=1.0)


def sum_after(pool: Floats, shares: Floats, n: int) -> float:
    """Return the sum of a statistic n requests after its shares became these, logarithms of bets at their means.

    Pool and histograms, those of a long time of usual requests at first, stand still in each of some 32 pieces of that
    time; that histograms learn noise, too, is counted to second order.
    """
    sums, before, above = np.zeros(BETS), 0, np.append(0.0, np.cumsum(shares))
    for t in np.unique(np.geomspace(1, n, 32).astype(np.int64)).tolist() if n else ():
        middle = (before + t) / 2
        joined = np.append(0.0, np.cumsum(pool + middle * shares))
        below = np.interp(np.arange(1, CELLS) / CELLS, joined / joined[-1], above)
        mass = np.diff(below, prepend=0.0, append=1.0)
        group, usual = mass.reshape(GROUPS, -1).sum(axis=1), 1.0 / GROUPS
        keep, once = _KEEP[:, None] ** middle, _KEEP[:, None]
        seen = 1.0 + (usual * keep + group * (1 - keep)) / (1 - once)
        noise = usual * (1 - usual) * keep**2 + group * (1 - group) * (1 - keep**2)
        paid = np.log(GROUPS * seen / seen.sum(axis=1, keepdims=True))
        paid -= noise / (1 - once**2) / (2 * seen**2)
        growth = np.concatenate([mass @ np.log(FIXED), paid @ group]) + 1e-9
        factor, top = np.exp(np.minimum((t - before) * growth, 300.0)), np.exp(growth)
        sums = np.minimum(sums * factor + top * (factor - 1) / (top - 1), 1e150)
        before = t
    return float(sums.mean())


# ---- what comes in is checked: rows, and states, which come from anywhere


def as_table(scores: Any) -> Floats:
    """Return scores as numbers (n, K), one row where one request is given; or raise `InputError`."""
    allowed = "numbers, (N, K), NaN where an exit was not run"
    try:
        table = np.array(scores, dtype=np.float64, ndmin=2)
    except (TypeError, ValueError) as error:
        raise input_error("scores", allowed, str(error)) from error
    if table.ndim != 2:
        raise input_error("scores", allowed, f"shape {table.shape}")
    return table


def check_exit(exit: Any, active_exits: Sequence[int]) -> int:
    """Return the exit taken, refused where the policy does not run it."""
    if exit not in active_exits:
        allowed = f"one of {', '.join(map(str, active_exits))}"
        raise input_error("exit", allowed, exit, "The model's number of the exit taken.")
    return exit


def checked_rows(
    scores: Any, predictions: Any, exits: Any, active_exits: Sequence[int], steered: bool, classes: int,
    step: str,
) -> tuple[Floats, Ints, Ints]:  # fmt: skip
    """Check n rows; return scores (n, K), predictions (-1: none), columns of exits (n,). C = 0: unknown classes."""
    if exits is None and not steered:
        raise input_error("exits", "given", "none", step)
    table = as_table(scores)
    given = np.asarray(predictions)
    taken = np.asarray(exits) if exits is not None else np.full(len(table), active_exits[0])
    width = 1 if steered else len(active_exits)
    if not width <= table.shape[1] <= len(active_exits):
        allowed = f"of shape (N, {len(active_exits)})"
        raise input_error("scores", allowed, table.shape, "NaN where an exit was not run.")
    for name, array in (("predictions", given), ("exits", taken)):
        if array.shape != (len(table),) or array.dtype.kind not in "iu":
            allowed = f"{len(table)} integers, one per row of the scores"
            got = f"shape {array.shape}, dtype {array.dtype}"
            raise input_error(name, allowed, got, "Predictions are those of the first exit.")
    strange = given[(given < -1) | (given >= classes)]
    if classes and len(strange):
        allowed = f"classes from 0 to {classes - 1}, or -1 for none"
        raise input_error("predictions", allowed, int(strange[0]), "Those of the first exit.")
    positions = np.searchsorted(np.array(active_exits), taken)
    unknown = np.array(active_exits)[np.minimum(positions, len(active_exits) - 1)] != taken
    if unknown.any():
        check_exit(int(taken[unknown][0]), active_exits)
    if steered:
        positions = np.zeros(len(table), dtype=np.int64)
    reached = np.arange(table.shape[1]) <= positions[:, None]
    if not np.isfinite(table[reached]).all():
        allowed = "finite at every exit up to the one taken"
        got = float(table[reached & ~np.isfinite(table)][0])
        raise input_error("scores", allowed, got, "Pass what `Policy.step` returned.")
    return table, given.astype(np.int64), positions


def _reference(state: Mapping[str, Any]) -> Reference:
    active_exits = _numbers(state, "active_exits", None, 0, _LARGEST, True)
    if not len(active_exits) or not (np.diff(active_exits) > 0).all():
        got = active_exits.tolist()
        raise input_error("active_exits", "of one exit or more, ascending", got, _NEXT)
    steered = check_type("steered", state.get("steered"), bool, "true or false", _NEXT)
    raw, scored = state.get("edges"), 1 if steered else len(active_exits)
    if not isinstance(raw, list) or len(raw) != scored:
        raise input_error("edges", f"{scored} lists, one per score", type(raw).__name__, _NEXT)
    edges = tuple(numbers("edges", e, 1) for e in raw)
    if any((np.diff(e) <= 0).any() for e in edges):
        raise input_error("edges", "ascending", "others", _NEXT)
    classes = _count(state, "classes", most=1 << 20)
    usual = _numbers(state, "usual", (2 if steered else len(active_exits) + 2, 2))
    if (usual[:, 1] < 0).any():
        raise input_error("usual", "means, and spreads 0 or more", float(usual[:, 1].min()), _NEXT)
    exits = tuple(int(k) for k in active_exits)
    blank = Reference(exits, classes, steered, edges, np.zeros((0, 0), np.int64), usual)
    blank.check_size(_NEXT)
    return replace(blank, pool=_counts(state, "reference", blank.widths))


def _counts(state: Mapping[str, Any], name: str, widths: tuple[int, ...]) -> Ints:
    """Return saved rows per cell, (J, M)."""
    raw = state.get(name)
    if not isinstance(raw, list) or len(raw) != len(widths):
        allowed = f"{len(widths)} lists, one per statistic"
        raise input_error(name, allowed, type(raw).__name__, _NEXT)
    out = np.zeros((len(widths), max(widths)), dtype=np.int64)
    for row, given, width in zip(out, raw, widths, strict=True):
        # A sum over all cells must not leave what an integer and a float hold alike.
        most = _LARGEST // max(widths)
        row[:width] = saved_numbers(name, given, (width,), 0, most, True, _NEXT)
    return out


def _count(state: Mapping[str, Any], name: str, least: int = 0, most: int = _LARGEST) -> int:
    return check_whole(name, state.get(name), least, most, _NEXT)


def _numbers(
    state: Mapping[str, Any], name: str, shape: tuple[int, ...] | None,
    low: float = -np.inf, high: float = np.inf, whole: bool = False,
) -> Floats:  # fmt: skip
    return saved_numbers(name, state.get(name), shape, low, high, whole, _NEXT)
