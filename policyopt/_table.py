"""Tables: what methods are fitted on and policies replayed on, from one pass over a cache's outputs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policyopt._cache.data import (
    CALLED,
    CONTEXT,
    COST_PREFIX,
    FEATURES_PREFIX,
    GROUP,
    PROPENSITY,
    QUERY,
    TARGETS,
    Block,
    ExitData,
    Rows,
    block_rows,
    like,
    some_rows,
)  # fmt: skip
from policyopt._cache.files import empty, picked
from policyopt._cache.statistics import same_file
from policyopt._costs import Cost, check_heads, kept_costs, rate_of, with_heads
from policyopt._engine import elsewhere, run
from policyopt._measures import Measure
from policyopt._progress import Listener, teller, working
from policyopt._utility import Utility, utility_of
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._outputs import TOP, ExitOutput, reduce_logits, reduce_record, with_log_prob
from policyopt.runtime._policy import exit_numbers
from policyopt.runtime._typing import Array, Bools, Floats, Ints

Progress = Callable[[int, int], None]
#: Bytes of float32 logits that a thread works on at a time: with copies they stay in a core's cache. Where several do,
#: which take turns between steps, four times as many: with shorter ones two are no faster than one.
_PASS_BYTES = 1 << 19
#: Bytes of the outputs that a table hands out at a time.
_CHUNK_BYTES = 16 << 20
#: A pass of another number reads other columns, or rounds otherwise: what is kept of it holds no more.
_PASS = 4
#: What it finds of each exit by itself.
_REDUCED = {"top_prob", "top_class", "entropy", "log_sum_exp"}
_COLUMNS = ("top_prob", "top_class", "entropy", "log_sum_exp", "quality", "labels", "correct")


class _Some(NamedTuple):
    """Rows of a column that are read when somebody looks at them."""

    whole: Array
    rows: Ints

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is read."""
        return (len(self.rows), *self.whole.shape[1:])


class ExitStatistics:
    """The reduced outputs of all exits for N samples; what is unknown is NaN or -1. Rows taken of it are read on use.

    ``top_prob`` (N, K, T) float64, the T = min(2, C) largest, largest first; ``top_class`` (N, K, T) int32, their
    classes; ``entropy``, ``log_sum_exp`` (N, K) float64; ``quality`` (N, K) in [0, 1], bool where right or wrong, or
    None; ``labels`` (N,) int32 or None; ``correct`` (N, K) bool, which answers are right, where also that is known.
    """

    def __init__(
        self, top_prob: Floats, top_class: Array, entropy: Floats, log_sum_exp: Floats,
        quality: Array | None, labels: Array | None, correct: Array | None = None,
    ) -> None:  # fmt: skip
        given = (top_prob, top_class, entropy, log_sum_exp, quality, labels, correct)
        self._given: dict[str, Any] = dict(zip(_COLUMNS, given, strict=True))

    def __getattr__(self, name: str) -> Any:
        """Return a column, read now where it is rows of another."""
        if name not in _COLUMNS:
            raise AttributeError(name)
        found = self._given[name]
        if isinstance(found, _Some):
            found = self._given[name] = picked(found.whole, found.rows)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return what goes to another process: no more rows than these."""
        return {"_given": {name: getattr(self, name) for name in _COLUMNS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __len__(self) -> int:
        return self._given["entropy"].shape[0]

    @property
    def exits(self) -> int:
        """K."""
        return self._given["entropy"].shape[1]

    @property
    def quality_dtype(self) -> Any:
        """Of `quality`, bool where answers are right or wrong; None where nothing is known. Nothing is read."""
        found = self._given["quality"]
        return None if found is None else getattr(found, "whole", found).dtype

    @property
    def prediction(self) -> npt.NDArray[np.int32]:
        """Predicted class, (N, K); -1 where an exit gave no answer."""
        return self._first("top_class")

    @property
    def confidence(self) -> Floats:
        """Largest probability, (N, K)."""
        return self._first("top_prob")

    def _first(self, name: str) -> Array:
        """Return the first rank of a column (N, K, T), without reading the others."""
        found, first = self._given[name], f"first {name}"
        if not isinstance(found, _Some):
            return found[:, :, 0]
        if first not in self._given:
            self._given[first] = picked(found.whole[:, :, 0], found.rows)
        return self._given[first]

    @property
    def margin(self) -> Floats:
        """Largest less second probability, (N, K); NaN where unknown."""
        if self.top_prob.shape[2] < 2:
            return np.full(self.entropy.shape, np.nan)
        return self.top_prob[:, :, 0] - self.top_prob[:, :, 1]

    @property
    def known(self) -> frozenset[str]:
        """Which of the columns that a summary may lack are there: ``entropy``, ``margin``."""
        first = self.take(np.arange(min(1, len(self))))
        columns = {"entropy": first.entropy, "margin": first.margin}
        return frozenset(name for name, c in columns.items() if not np.isnan(c).any())

    def output(self, k: int, needs: frozenset[str] | None = None) -> ExitOutput:
        """Return exit k's columns as the runtime sees them; of a score's `needs`: no others are read."""
        said, unknown = self.prediction, np.broadcast_to(np.nan, (len(self), self.exits))
        more = needs is None
        top = self.top_prob if more or "margin" in needs else self.confidence[:, :, None]
        classes = self.top_class if more else said[:, :, None]
        entropy = self.entropy if more or "entropy" in needs else unknown
        total = self.log_sum_exp if more else unknown
        return ExitOutput(said[:, k], top[:, k], classes[:, k], entropy[:, k], total[:, k])

    def outputs(self, needs: frozenset[str] | None = None) -> list[ExitOutput]:
        """Return all exits' columns, first exit first."""
        return [self.output(k, needs) for k in range(self.exits)]

    def replace(self, **columns: Array | None) -> ExitStatistics:
        """Return the same with other columns in their place."""
        return ExitStatistics(**{**{n: self._given[n] for n in _COLUMNS}, **columns})

    def take(self, rows: Ints) -> ExitStatistics:
        """Return the statistics of some rows."""
        if not isinstance(rows, np.ndarray) or rows.dtype.kind not in "iu":
            rows = np.arange(len(self))[rows]
        of = dict[int, Ints]()

        def some(array: Any) -> Any:
            if array is None:
                return None
            if isinstance(array, _Some):
                if id(array.rows) not in of:
                    of[id(array.rows)] = array.rows[rows]
                return _Some(array.whole, of[id(array.rows)])
            if any(array.strides):
                return _Some(array, rows)
            return np.broadcast_to(array[:1], (len(rows), *array.shape[1:]))  # no memory

        return ExitStatistics(**{name: some(self._given[name]) for name in _COLUMNS})

    def keep_exits(self, kept: Sequence[int]) -> ExitStatistics:
        """Return the statistics of some exits, ascending."""
        of_exits = {n: getattr(self, n) for n in _COLUMNS if n != "labels"}
        at = list(kept)
        return self.replace(**{n: a if a is None else a[:, at] for n, a in of_exits.items()})


def exit_statistics(
    rows: Rows, name: str, *, measure: Measure | None = None, at: Sequence[int] | None = None,
    threads: int | None = None, data: ExitData | None = None, split: str = "",
) -> ExitStatistics:  # fmt: skip
    """Reduce all outputs of a split in one pass: 41 bytes per sample and exit, kept beside large `data`."""
    first, kind, measure = like(rows.blocks[0]), KINDS[name], measure or Measure()
    if kind.record:
        exits = first["prediction"].shape[1]
        top = first["top_prob"].shape[2] if rows.has("top_prob") else 1
    else:
        _, exits, width = first["outputs"].shape
        top = min(TOP, kind.classes(width)) if kind.whole else 1 if kind.scaled else 2
    n, exits = len(rows), list(range(exits) if at is None else at)
    spec: dict[str, Any] = {"top_prob": ((n, len(exits), top), np.float64)}
    if not kind.record:
        spec["log_sum_exp"] = ((n, len(exits)), np.float64)
    if not kind.record or rows.has("entropy"):
        spec["entropy"] = ((n, len(exits)), np.float64)
    spec["top_class"] = ((n, len(exits), top), np.int32)
    if rows.has("labels"):
        spec["labels"] = ((n,), np.int32)
    if rows.has("labels") or rows.has("correct"):
        spec["correct"] = ((n, len(exits)), bool)
    if not kind.record and rows.has(TARGETS):
        spec["worth"] = ((n, len(exits)), measure.dtype)
    columns: dict[str, Array] = {}
    over = _Pass(rows, name, measure, tuple(exits), threads)
    if data is None or at is not None:
        columns = {column: empty(*of) for column, of in spec.items()}
        over(columns, range(len(rows.blocks)))
    else:
        meaning = f"pass {_PASS} of {name}, top {top}, {measure!r}"
        with data.kept.columns(split, meaning, spec) as (columns, missing):
            if missing and elsewhere() and data.origin and data.kept.worth:
                files = {
                    name: (str(array.filename), array.offset, same_file(array.filename))
                    for name, array in columns.items()
                    if isinstance(array, np.memmap) and array.filename
                }
                files = files if len(files) == len(spec) else {}
                shard = _Shard(data, split, over.exits, spec, files)
                ran = run(shard, missing, "reading the outputs")
                for i, found in zip(missing, ran, strict=True):
                    for column, array in found.items():
                        columns[column][over.starts[i] : over.starts[i + 1]] = array
            elif missing:
                over(columns, missing)
    worth, unknown = columns.pop("worth", None), np.broadcast_to(np.nan, (n, len(exits)))
    known = {"entropy": unknown, "log_sum_exp": unknown, **columns}
    labels, correct = known.pop("labels", None), known.pop("correct", None)
    table = ExitStatistics(**known, labels=labels, correct=correct, quality=correct)
    if rows.has("quality"):
        nothing = not rows.has("correct") and (table.prediction < 0).all()  # was said
        quality = rows.array("quality")
        quality = quality if quality.shape[1] == len(exits) else quality[:, exits]
        table = table.replace(quality=quality, **{"correct": None} if nothing else {})
    elif worth is not None:
        table = table.replace(quality=worth, correct=worth if worth.dtype == bool else None)
    return table


class _Pass:
    """The pass over blocks of rows: columns of what exits say, by threads of this process."""

    def __init__(
        self, rows: Rows, kind: str, measure: Measure, exits: tuple[int, ...], threads: int | None
    ) -> None:
        self.rows, self.kind, self.measure = rows, KINDS[kind], measure
        self.exits, self.threads = exits, threads or min(os.cpu_count() or 1, 8)
        first = like(rows.blocks[0])
        self.width = 1 if self.kind.record else first["outputs"].shape[2]
        each = TOP * first["prediction"].shape[1] if self.kind.record else self.width
        self.size = max(_PASS_BYTES * (1 if self.threads == 1 else 4) // (4 * each), 16)
        self.starts = np.cumsum([0, *map(block_rows, rows.blocks)]).tolist()
        self._lock, self._done = Lock(), 0

    def __call__(self, columns: dict[str, Array], blocks: Sequence[int], before: int = 0) -> None:
        """Fill in the rows of some blocks; `before`: rows that come before the columns' first."""
        parts = [(self.starts[i] - before, Rows((self.rows.blocks[i],))) for i in blocks]
        chunks = [(start + low, b) for start, part in parts for low, b in part.chunks(self.size)]
        workers = min(self.threads, max(len(chunks) // 2, 1))
        tell, total = teller(), sum(map(len, (part for _, part in parts)))
        if workers == 1:
            self._work(chunks, columns, tell, total)
        else:
            with ThreadPoolExecutor(workers) as pool:
                spans = [chunks[i::workers] for i in range(workers)]
                list(pool.map(lambda span: self._work(span, columns, tell, total), spans))
        # NaN and infinity surface in the log-sum-exp (or the confidence) of their row.
        for i, (start, part) in zip(blocks, parts, strict=True):
            here = slice(start, start + len(part))
            column = columns["log_sum_exp"] if self.kind.whole else columns["top_prob"][:, :, 0]
            if not np.isfinite(column[here]).all():
                row, exit_ = np.argwhere(~np.isfinite(column[here]))[0]
                raise InputError(
                    f"'outputs' must be finite. Got NaN or infinity in row {self.starts[i] + row} at exit {exit_}. "
                    "Look for overflow (float16?) where the cache was written."
                )

    def _work(
        self, span: list[tuple[int, Block]], columns: dict[str, Array], tell: Listener, total: int
    ) -> None:
        """Fill in the rows of chunks, each (first row, block)."""
        kind, measure, exits = self.kind, self.measure, list(self.exits)
        width, step = self.width, max(self.size // len(exits), 1)
        shape = 2, step * len(exits), kind.classes(width)
        scratch = np.empty(shape, dtype=np.float32) if kind.whole else None
        top = columns["top_prob"].shape[2]
        for start, block in span:
            count = block_rows(block)
            # Of whole kinds all exits at once, as they lie in memory.
            for low in range(0, count, step) if kind.whole else ():
                given = block["outputs"][low : low + step]
                given = given if given.shape[1] == len(exits) else given[:, exits]
                output = reduce_logits(kind.logits(given.reshape(-1, width)), top, scratch)
                for column in _REDUCED & columns.keys():
                    into = columns[column][start + low : start + min(low + step, count)]
                    into[...] = getattr(output, column).reshape(into.shape)
            rows_here, state = slice(start, start + count), kind.start(count, kind.classes(width))
            for i, k in enumerate(exits) if not kind.whole else ():
                if kind.record:
                    names = {"prediction", "confidence", "top_prob", "entropy"} & block.keys()
                    output = reduce_record(**{name: block[name][:, k] for name in names})
                else:
                    given = block["outputs"][:, k]
                    output, state = kind.reduce(i, given, state, measure.error_scale)
                for column in _REDUCED & columns.keys():
                    columns[column][rows_here, i] = getattr(output, column)
                if "worth" in columns:
                    said = kind.answer(block["outputs"][:, k])
                    columns["worth"][rows_here, i] = measure.worth(said, block[TARGETS])
            if "labels" in columns:
                columns["labels"][rows_here] = block["labels"]
            if "correct" in columns:
                given = block["correct"][:, exits] if "correct" in block else None
                if given is None:
                    given = is_right(columns["top_class"][rows_here, :, 0], block["labels"])
                columns["correct"][rows_here] = given
            with self._lock:
                self._done += count
                tell(self._done, total, "reading the outputs")


@dataclass(frozen=True)
class _Shard:
    """The pass over one shard of a cache, by whoever opens it: into the parent's file, or else returned."""

    # Into that file on the same machine alone: of one that two map, either may write back old bytes of the other's.
    data: ExitData
    split: str
    exits: tuple[int, ...]
    spec: Mapping[str, tuple[tuple[int, ...], Any]]
    files: Mapping[str, tuple[str, int, str]]  # of columns: name, offset, mark (`same_file`)

    def __call__(self, number: int) -> dict[str, Array]:
        over = _Pass(self.data.splits[self.split], self.data.kind, self.data.measure, self.exits, 1)
        here = [which and same_file(file) == which for file, _, which in self.files.values()]
        if here and all(here):
            columns: dict[str, Array] = {
                name: np.memmap(file, self.spec[name][1], "r+", offset, self.spec[name][0])
                for name, (file, offset, _) in self.files.items()
            }
            over(columns, [number])
            return {}
        low, high = over.starts[number : number + 2]
        columns = {n: np.empty((high - low, *of[1:]), t) for n, (of, t) in self.spec.items()}
        over(columns, [number], low)
        return columns


def is_right(prediction: Array, labels: Array) -> Bools:
    """Say which answers (N, K) are right; none is where the label is not known."""
    return (prediction == labels[:, None]) & (labels >= 0)[:, None]


@dataclass(frozen=True)
class Table:
    """Statistics and costs of N rows of one split."""

    statistics: ExitStatistics
    costs: Floats  # (K,) or (N, K), cumulative, in `unit`
    unit: str
    cost_name: str
    kind: str
    classes: int
    split: str
    cache: str  # the cache's fingerprint
    source: Rows | None = None
    places: Ints | None = None  # (N,), the rows' places in `source`
    rate: float = 0.0  # cost of a multiply-add
    cascade: bool = False  # whether a skipped exit costs nothing, see `Cost`
    active_exits: tuple[int, ...] = ()  # the model's numbers of the table's exits; default all
    model_exits: int = 0  # of the model; K where all are active
    contexts: tuple[str, ...] = ()
    known_costs: tuple[Cost, ...] = ()  # all that the cache states
    measure: Measure = field(default_factory=Measure)
    quality_given: bool = False  # graded, of the exits' own answers: of others nobody knows it
    utility: Utility | None = None  # by which labels tell what answers are worth
    names: tuple[str, ...] = ()  # of the model's exits
    class_names: tuple[str, ...] = ()
    pool: Mapping[str, Any] = field(default_factory=dict)  # how the split was drawn, if it was

    def __post_init__(self) -> None:
        if not self.active_exits:
            object.__setattr__(self, "active_exits", tuple(range(self.exits)))
            object.__setattr__(self, "model_exits", self.exits)

    def __len__(self) -> int:
        return len(self.statistics)

    @property
    def exits(self) -> int:
        """K, the exits that the table is of."""
        return self.statistics.exits

    @property
    def mean_costs(self) -> Floats:
        """Mean cumulative cost per exit, (K,)."""
        return self.costs if self.costs.ndim == 1 else self.costs.mean(axis=0)

    @property
    def standalone_costs(self) -> Floats:
        """Cost of exit k where no other is kept, (K,) or (N, K); cumulative where skipped exits are paid."""
        return self.alone(self.costs)

    def alone(self, costs: Floats) -> Floats:
        """Return the same of other costs of the table, (K,) or (N, K)."""
        if self.cascade:
            return np.diff(costs, axis=-1, prepend=0.0)
        own = self.heads
        return costs if own is None else costs - (np.cumsum(own) - own)

    @property
    def stated_heads(self) -> tuple[float, ...] | None:
        """What the heads of the model's exits cost, as the cache or the user says."""
        return next((c.heads for c in self.known_costs if c.name == self.cost_name), None)

    @property
    def heads(self) -> Floats | None:
        """What the heads of the table's exits cost, (K,), saved where one is skipped; None where nothing is."""
        told = self.stated_heads
        if told is None or not any(told):
            return None
        return np.broadcast_to(told, self.model_exits)[list(self.active_exits)]

    @property
    def saves(self) -> bool:
        """Whether an exit that is skipped saves anything: all of it in a cascade, else its head."""
        return self.cascade or self.heads is not None

    @property
    def whole(self) -> bool:
        """Whether exits say a probability of every class, which answers and scores may read."""
        return KINDS[self.kind].whole

    @property
    def valued(self) -> Bools:
        """Of which rows it is known what answers are worth, (N,)."""
        known, labels = self.statistics.quality_dtype is not None, self.statistics.labels
        if not known or labels is None or self.quality_given:
            return np.full(len(self), known)
        return labels >= 0

    @cached_property
    def labelled(self) -> bool:
        """Whether it is known of every row what answers are worth."""
        return bool(self.valued.all())

    @property
    def plain_only(self) -> bool:
        """Whether answers other than the exits' own are out: of unknown worth, or made of unlike classes."""
        return self.quality_given or (self.utility is not None and self.utility.mixed)

    @cached_property
    def says(self) -> bool:
        """Whether rows say, without labels, which answers are right: equal ones are, or are not, as of texts."""
        stats = self.statistics
        if stats.labels is not None or stats.quality_dtype is None or self.utility is not None:
            return False
        worth = stats.quality
        said = stats.prediction
        same = (said[:, :, None] == said[:, None, :]) & (said >= 0)[:, None, :]
        other = (worth[:, :, None] != worth[:, None, :]) & same
        return bool(
            (said >= 0).any() and np.isin(worth[said >= 0], (0, 1)).all() and not other.any()
        )

    @property
    def graded(self) -> bool:
        """Whether answers may be worth anything from 0 to 1, and not only right or wrong."""
        known = self.statistics.quality_dtype
        declared = self.quality_given or self.utility is not None
        return declared or (known is not None and known.kind != "b")

    def worth(self, prediction: Array) -> Array | None:
        """Return what answers (N, K) are worth, 0 where `valued` says no; None where it is not known of them."""
        stats = self.statistics
        if self.quality_given or stats.labels is None:
            if np.array_equal(prediction, stats.prediction):
                return stats.quality
            if not self.says:
                return None
            same = prediction[:, :, None] == stats.prediction[:, None, :]  # who has said it
            found = np.take_along_axis(stats.quality, same.argmax(axis=2), axis=1)
            return (
                found * (prediction >= 0) if (same.any(axis=2) | (prediction < 0)).all() else None
            )
        if self.utility is not None:
            return self.utility.worth(stats.labels, prediction)
        return is_right(prediction, stats.labels)

    @property
    def quality(self) -> Floats:
        """Worth of every exit's answer in [0, 1], (N, K): 0.0 or 1.0 where right or wrong."""
        return self.check_quality().astype(np.float64)

    @property
    def mean_quality(self) -> Floats:
        """Its mean per exit, (K,)."""
        return self.check_quality().mean(axis=0, dtype=np.float64)

    def check_quality(self) -> Array:
        """Return the same as it is kept; refused where it is not known of every row."""
        stats = self.statistics
        if self.quality_given and stats.quality is None:
            raise InputError(
                f"Split '{self.split}' must have a quality for every row and exit, as other splits of this cache have. "
                "Got none. Import it with such a key (quality), or all without it."
            )
        if not self.labelled or stats.quality is None:
            raise InputError(
                f"Split '{self.split}' must have a label for every row. Got rows without. "
                "Import with --labels FILE or a key 'labels' (Python: labels=), or leave those rows out; "
                "or with a key 'quality', of any kind of worth from 0 to 1."
            )
        return stats.quality

    @property
    def context(self) -> Ints | None:
        """Number of each row's context among `contexts`, (N,); None where the rows have none."""
        if not self.contexts or self.source is None:
            return None
        return self._column(CONTEXT).astype(np.int64)

    @property
    def group(self) -> Ints | None:
        """Codes of what rows belong to, (N,): rows of one are never divided; None where each stands alone."""
        if self.source is None or not self.source.has(GROUP):
            return None
        return self._column(GROUP)

    @property
    def log(self) -> tuple[Ints, Floats] | None:
        """When models were called and how likely that was, (N, K) each, see `Rows`; None where all is known."""
        if self.source is None or not self.source.has(CALLED):
            return None
        return self._column(CALLED).astype(np.int64), self._column(PROPENSITY)

    @property
    def query(self) -> Floats | None:
        """What is known of each row before any model is asked, (N, D); None where nothing is."""
        if self.source is None or not self.source.has(QUERY):
            return None
        return self._column(QUERY).astype(np.float64)

    @property
    def units(self) -> int:
        """How many groups the rows are; N where each stands alone."""
        return len(self) if self.group is None else len(np.unique(self.group))

    def costs_of(self, name: str) -> Floats:
        """Return another cost of the cache, (K,) or (N, K), cumulative, of the table's exits."""
        found = [cost for cost in self.known_costs if cost.name == name]
        if not found:
            known = ", ".join(cost.name for cost in self.known_costs) or self.cost_name
            step = "Name a cost that `policyopt info` lists, or none for the budget's own."
            raise input_error("cost of a limit", f"one of {known}", name, step)
        cost = found[0]
        if cost.values is not None:
            whole = np.array(cost.values, dtype=np.float64)
        else:
            assert self.source is not None
            whole = np.asarray(self._column(COST_PREFIX + cost.name), dtype=np.float64)
        return kept_costs(whole, list(self.active_exits), cost.cascade, cost.heads)

    def cost_at(self, exits: Ints) -> Floats:
        """Return what each row pays for the exit it takes, (N,)."""
        if self.costs.ndim == 1:
            return self.costs[exits]
        return np.take_along_axis(self.costs, exits[:, None], axis=1)[:, 0]

    def take(self, rows: Ints) -> Table:
        """Return some of the rows."""
        costs = self.costs if self.costs.ndim == 1 else self.costs[rows]
        places = rows if self.places is None else self.places[rows]
        return replace(self, statistics=self.statistics.take(rows), costs=costs, places=places)

    def keep_exits(self, exits: Sequence[int]) -> Table:
        """Return the same rows as if the model had only some of its exits (ascending)."""
        numbers = exit_numbers(exits, self.active_exits)
        if numbers == self.active_exits:
            return self
        at = [self.active_exits.index(k) for k in numbers]
        costs = kept_costs(self.costs, at, self.cascade, self.heads)
        statistics = self.statistics.keep_exits(at)
        if KINDS[self.kind].stateful and self.source is not None:  # what came before is another
            read = exit_statistics(self.source, self.kind, measure=self.measure, at=numbers)
            read = read if self.places is None else read.take(self.places)
            statistics = read.replace(quality=statistics.quality, correct=statistics.correct)
        utility = None if self.utility is None else self.utility.keep_exits(at)
        return replace(
            self, statistics=statistics, costs=costs, active_exits=numbers, utility=utility
        )

    def priced_for(self, policy: Any) -> Table:
        """Return the rows at the heads' costs that a policy was fitted with, where it says and all exits are here."""
        told, whole = policy.provenance, self.exits == self.model_exits
        if "head_costs" not in told or told.get("cost") != self.cost_name or not whole:
            return self
        known = with_heads(self.known_costs, told["head_costs"], self.cost_name)
        return replace(self, known_costs=known)

    def built_for(self, policy: Any) -> Table:
        """Return the rows as a policy counts them: of a model with its exits only."""
        return self.priced_for(policy).keep_exits(policy.active_exits)

    def chunks(self) -> Iterator[tuple[slice, npt.NDArray[np.floating]]]:
        """Yield (rows, their outputs (n, K, C)), a few at a time."""
        if self.source is None or not self.whole:
            raise InputError(
                f"Split '{self.split}' must hold all class outputs. Got {self.kind}. "
                "Import full logits, or choose a method that works on summaries."
            )
        size = max(_CHUNK_BYTES // (4 * self.exits * max(self.classes, 1)), 16)
        picked = self.active_exits if self.exits < self.model_exits else None
        for low in range(0, len(self), size):
            rows = slice(low, min(low + size, len(self)))
            yield rows, self.source.pick("outputs", self._at(rows), picked)

    def outputs(self, k: int, rows: Ints) -> Array:
        """Return the outputs of some rows at the table's exit k, (n, C)."""
        assert self.source is not None  # a table of a cache
        return self.source.pick("outputs", self._at(rows), [self.active_exits[k]])[:, 0]

    def _column(self, name: str) -> Array:
        """Return an array of the rows' own, (N, ...)."""
        assert self.source is not None
        at = self.places
        return self.source.array(name) if at is None else self.source.pick(name, at)

    def _at(self, rows: slice | Ints) -> Ints:
        """Return the places of some of the table's rows in its source."""
        return np.arange(len(self))[rows] if self.places is None else self.places[rows]

    @property
    def has_features(self) -> bool:
        """Whether the cache keeps the model's feature vectors, exit by exit."""
        return self.source is not None and self.source.has(f"{FEATURES_PREFIX}0")

    @property
    def known(self) -> frozenset[str]:
        """Which of the columns a score may need are there: those of the statistics, and more."""
        more = {"log_prob": self.source is not None and self.whole, "features": self.has_features}
        more["query"] = self.source is not None and self.source.has(QUERY)
        return self.statistics.known | {name for name, there in more.items() if there}

    def feature(self, k: int, rows: slice | Ints = slice(None)) -> npt.NDArray[np.float32]:
        """Return the model's feature vectors at the table's exit k, (N, D_k), float32."""
        if not self.has_features:
            raise InputError(
                f"Split '{self.split}' must hold feature vectors. Got none. Import them with keys "
                "features_0, features_1, ... (Python: features=), or choose a method without them."
            )
        assert self.source is not None
        found = self.source.pick(f"{FEATURES_PREFIX}{self.active_exits[k]}", self._at(rows))
        return found.astype(np.float32, copy=False)

    def log_prob(self) -> npt.NDArray[np.float32]:
        """Return the logarithms of all class probabilities, (N, K, C), float32."""
        out = np.empty((len(self), self.exits, self.classes), dtype=np.float32)
        for rows, outputs in self.chunks():
            for k in range(self.exits):
                logits = KINDS[self.kind].logits(outputs[:, k])
                out[rows, k] = with_log_prob(reduce_logits(logits), logits).log_prob
        return out


def known_rows(table: Table, notes: list[str] | None = None) -> Table:
    """Return the rows of which it is known what answers are worth (others are noted); all where it is known of none."""
    if table.labelled or not table.valued.any():
        return table
    known = np.flatnonzero(table.valued)
    if notes is not None:
        notes.append(unlabelled(table))
    return table.take(known)


def unlabelled(table: Table) -> str:
    """Return the note on rows without a label."""
    count = len(table) - int(table.valued.sum())
    return f"{count} of the {len(table)} rows of split {table.split} have no label: left out of the qualities"


def subsample(table: Table, most: int, seed: int) -> Table:
    """Return the table, or a random part of its rows, in order, where there are more than `most`."""
    if len(table) <= most:
        return table
    return table.take(some_rows(len(table), most, seed, table.group))


class Tables:
    """Makes tables from a cache; each physical part is passed over once, whatever is asked.

    Parameters
    ----------
    data : ExitData
    cost : str, optional
        Name of the cost to use; default the cache's first.
    utility : Utility, array, mapping or str, optional
        What answers are worth by label and prediction, see `policyopt._utility.utility_of`.
    head_cost : optional
        What the exits' heads cost, see `fit`; default what the cache says.
    """

    def __init__(
        self,
        data: ExitData,
        cost: str | None = None,
        utility: Any = None,
        head_cost: Any = None,
    ) -> None:
        if not isinstance(data, ExitData):
            step = "po.open_cache(folder), or po.from_arrays(logits, labels, costs)."
            raise input_error("data", "an opened cache", type(data).__name__, step)
        self.data = data
        name = data.cost(cost).name
        self.costs = with_heads(data.costs, head_cost, name)
        self.cost = next(one for one in self.costs if one.name == name)
        self.utility: Utility | None = None
        if utility is not None:
            if data.graded:
                step = "Leave it out, or import the labels without the key quality."
                got = "a cache with graded quality"
                raise input_error("utility", "of a cache that has labels and no quality", got, step)
            self.utility = utility_of(utility, data.exits, data.classes)
        self._passed: dict[str, ExitStatistics] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what goes to another process, which makes passes of its own."""
        return {**self.__dict__, "_passed": {}}

    def get(self, split: str, seed: int | None = None, censored: bool = False) -> Table:
        """Return the table of a split; `seed` divides a pool (default: the cache's own).

        A `censored` one, of what a policy logged, is for who knows that models not called are unknown.
        """
        data = self.data
        if data.censored and not censored:
            step = "Fit the method routing on it; for all else run all models on some rows."
            got = "a log, in which models that were not called are unknown"
            raise input_error("cache", "one that knows what every model says", got, step)
        key, rows = data.rows(split, seed)
        if not len(rows):
            got = f"'{split}' with none"
            raise input_error("split", "with at least one row", got, "Choose other shares.")
        source, cost = data.splits[key], self.cost
        named = data.metadata.get("class_names", data.metadata.get("classes"))
        if key not in self._passed:
            with working("reading the outputs"):
                ours = data.kept is not None and data.kept.splits.get(key) is source
                known = {"data": data, "split": key} if ours else {}
                read = exit_statistics(source, data.kind, measure=data.measure, **known)
            self._passed[key] = self._valued(read, split)
        values = source.array(COST_PREFIX + cost.name) if cost.values is None else cost.values
        table = Table(
            self._passed[key], np.array(values, dtype=np.float64), cost.unit, cost.name, data.kind,
            data.classes, split, data.fingerprint, source, rate=rate_of(cost, data.costs),
            cascade=cost.cascade, contexts=data.contexts, known_costs=self.costs,
            quality_given=data.graded, utility=self.utility, measure=data.measure, names=data.names,
            pool=data.division(seed),
            class_names=tuple(map(str, named)) if isinstance(named, list) else (),
        )  # fmt: skip
        if table.heads is not None:
            check_heads(table.heads, table.costs, cost.unit, f"head cost of {cost.name}")
        return table if len(rows) == len(table) else table.take(rows)

    def _valued(self, found: ExitStatistics, split: str) -> ExitStatistics:
        """Return statistics whose quality is the one that holds for all of the cache: graded, by utility, or right."""
        if self.utility is not None:
            self.utility.check(found.labels, found.prediction, split)
            assert found.labels is not None
            worth, correct = self.utility.worth(found.labels, found.prediction), found.correct
            if self.utility.mixed:
                each = found.labels[:, None], found.prediction, np.arange(found.exits)
                correct = is_right(self.utility.in_classes(*each), found.labels)
            return found.replace(quality=worth, correct=correct)
        if self.data.graded and (found.quality is None or found.quality.dtype == bool):
            return found.replace(quality=None)  # right or wrong is another scale
        return found


def tables_of(
    data: ExitData, cost: str | None, tables: Tables | None, utility: Any, head_cost: Any = None
) -> Tables:
    """Return the tables given, which have a utility and heads of their own, or new ones."""
    for name, given in {"utility": utility, "head_cost": head_cost}.items():
        if tables is not None and given is not None:
            step = f"Tables(data, cost, {name}=...)."
            raise input_error(name, "part of the tables that are given", "also one apart", step)
    return tables or Tables(data, cost, utility=utility, head_cost=head_cost)
