"""`ExitData`: the rows of a cache, by split, mapped where they come from disk; which splits may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from policyopt._cache.files import empty
from policyopt._costs import Cost
from policyopt._measures import Measure, measure_of
from policyopt.runtime._checks import check_one_of, check_seed, to_python
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import checked_names
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Array, Ints

#: The splits with a meaning of their own; any other name is a stream.
RESERVED = ("fit", "calibrate", "test")
#: Rows that are divided by a seed, and how where nobody says.
POOL = "pool"
DEFAULT_SHARES: Mapping[str, float] = {"fit": 0.5, "test": 0.5}
#: Arrays of a block: feature vectors by exit, costs by name, the numbers of the rows' contexts.
FEATURES_PREFIX, COST_PREFIX, CONTEXT = "features:", "cost:", "context"
#: The truth of rows that is no class number: sets of labels, values.
TARGETS = "targets"
#: Codes of rows that belong together, or that are equal: never divided, resampled whole.
GROUP = "group"
#: Of rows that a policy logged: when each model was called (1 first, 0 not), and how likely that decision was.
CALLED, PROPENSITY = "called", "propensity"
#: What is known of rows before any model is asked: embeddings, lengths, a router's score.
QUERY = "query"
#: More exits than this are a wrong axis order, not a model.
MAX_EXITS = 1024
#: As in a policy: outputs of one sample and exit must fit into memory many times.
MAX_CLASSES = 10**7
#: Arrays that identify a row. Measured costs are left out: a second run measures others.
_TELLING = ("outputs", "prediction", "confidence", "top_prob", "entropy")
_PIECE_ROWS = 4096
_HASH_SEED = 0x6A09E667
#: Share of equal rows whose labels may differ: more are equal by chance.
_BY_CHANCE = 0.02
_NESTED = 4  # parts of parts of a split
#: A part of a split, groups whole: of its rows in random order from here to there; those with a label, or without.
PART = re.compile(r"(.+)\[(?:(?:(\d{1,3})%)?:(?:(\d{1,3})%)?|((?:un)?labelled))\]")
#: Names of splits and costs.
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

Block = Mapping[str, Array]


def check_name(argument: str, name: object) -> str:
    """Return `name` where it is 1 to 64 of ``A-Z a-z 0-9 _ . -``, or refuse it."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise input_error(argument, "1 to 64 characters of A-Z a-z 0-9 _ . -", name, "Rename it.")
    return name


def like(block: Block) -> Block:
    """Return what tells the types and shapes of a block's arrays, without reading any."""
    return block.like if isinstance(block, Lazy) else block


def block_rows(block: Block) -> int:
    """Return how many rows a block has."""
    return len(next(iter(like(block).values())))


class Lazy(Mapping[str, Array]):
    """Arrays by name that are read when they are asked for; `like` has their types and shapes, and takes no memory."""

    like: Block
    hashes: Ints | None = None  # of its rows, where the writer knows them: see `row_hashes`

    def __iter__(self) -> Iterator[str]:
        return iter(self.like)

    def __len__(self) -> int:
        return len(self.like)

    def __contains__(self, name: object) -> bool:
        return name in self.like


class Span(Lazy):
    """Some rows of a block."""

    def __init__(self, block: Block, low: int, high: int) -> None:
        self._block, self._rows = block, slice(low, high)
        self.like = {name: array[low:high] for name, array in like(block).items()}

    def __getitem__(self, name: str) -> Array:
        return self._block[name][self._rows]


def filled(block: dict[str, Array]) -> dict[str, Array]:
    """Return a summary block that has predictions: -1 all over where only their worth was kept."""
    if "outputs" in block or "prediction" in block:
        return block
    # A view of one number: it takes no memory.
    unknown = np.broadcast_to(np.int32(-1), block["confidence"].shape)
    return {**block, "prediction": unknown}


@dataclass(frozen=True)
class Layout:
    """What every block of one cache has in common; ``exits`` and ``classes`` 0 = not known yet."""

    kind: str
    exits: int
    classes: int
    dtype: str  # of outputs, and of confidences and the like (float64: summaries only)
    costs: tuple[Cost, ...]  # the first is the default
    features: tuple[int, ...] | None = None  # widths by exit; () where there are none, None: open
    contexts: tuple[str, ...] = ()  # names; (): rows have none
    measure: Measure = field(default_factory=Measure)
    query: int | None = None  # width; 0 where there is none, None: open

    def __post_init__(self) -> None:
        check_one_of("kind", self.kind, tuple(KINDS), "Say what the outputs are.")
        given = self.measure
        made = measure_of(self.kind, given.quality_of or None, given.error_scale or None)
        object.__setattr__(self, "measure", made)
        allowed = ("float32", "float64") if self.kind == "summary" else ("float16", "float32")
        dtype = getattr(self.dtype, "name", getattr(self.dtype, "__name__", self.dtype))
        if dtype not in allowed:
            wanted = f"{' or '.join(allowed)} for kind {self.kind}"
            raise input_error("dtype", wanted, dtype, "Choose one.")
        object.__setattr__(self, "dtype", dtype)  # np.float16 and np.dtype("f2") are welcome too
        classes = to_python(self.classes)
        least = max(KINDS[self.kind].least, 1 + KINDS[self.kind].record)
        if type(classes) is not int or (classes != 0 and not least <= classes <= MAX_CLASSES):
            raise input_error("classes", f"0 (not known) or {least} to {MAX_CLASSES}", classes)
        object.__setattr__(self, "classes", classes)
        if not self.costs:
            step = "E.g. Cost('compute', 'MMACs', [1, 2])."
            raise input_error("costs", "at least one Cost", "none", step)
        exits = {len(c.values) for c in self.costs if c.values is not None}
        exits |= {len(c.heads) for c in self.costs if c.heads} | ({self.exits} - {0})
        if len(exits) > 1:
            step = "Give each cost one value for each exit."
            got = f"K = {sorted(exits)}"
            raise input_error("costs", "one value per exit, K alike for all", got, step)
        if exits and not 1 <= max(exits) <= MAX_EXITS:
            raise input_error("exits", f"1 to {MAX_EXITS}", max(exits), "Check the axes.")
        object.__setattr__(self, "exits", max(exits, default=0))
        names = [check_name("cost name", c.name) for c in self.costs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise input_error("costs", "each of another name", f"{twice!r} twice", "Rename one.")
        object.__setattr__(self, "contexts", checked_names(self.contexts, 0))

    @property
    def sample_costs(self) -> tuple[str, ...]:
        """Names of the costs that every row brings along."""
        return tuple(c.name for c in self.costs if c.per_sample)


def _opened(origin: Mapping[str, Any], fingerprint: str) -> ExitData:
    """Open a cache that was opened in another process."""
    from policyopt._cache.reader import open_cache

    found = open_cache(**origin)
    if found.fingerprint != fingerprint:
        got, step = f"another at {found.origin['path']}", "It was overwritten: begin anew."
        raise input_error("cache", "the one that was opened at first", got, step)
    return found


def _rows_of(origin: Mapping[str, Any], fingerprint: str, split: str) -> Rows:
    return _opened(origin, fingerprint).splits[split]


@dataclass(frozen=True, eq=False)
class Rows:
    """One split (or stream, or pool): a list of blocks, each a mapping of n aligned rows.

    ``outputs``      (n, K, W) what exits gave, W numbers (`Kind.width`); absent for summaries
    ``prediction``   (n, K) integers, -1 where the exit gave no answer, or only its worth is known
    ``confidence``   (n, K) in [0, 1] (summaries)
    ``top_prob``     (n, K, T) the few largest probabilities, largest first (summaries, optional)
    ``entropy``      (n, K) in nats (summaries, optional)
    ``correct``      (n, K) bool (summaries, optional when labels are there)
    ``quality``      (n, K) in [0, 1], graded worth of the exits' answers (optional)
    ``labels``       (n,) integers, -1 where unknown; absent for unlabelled rows
    ``targets``      (n, C) in their place: 0 and 1 of sets of labels, values of a regression
    ``cost:<name>``  (n, K) cumulative cost per sample, in the unit of that cost (optional)
    ``features:<k>`` (n, D_k) the model's feature vectors at exit k: of every exit or of none
    ``context``      (n,) number of the context whose expert gave the outputs (optional)
    ``group``        (n,) code of the rows that it belongs with: a patient, a video (optional)
    ``query``        (n, D) what is known of it before any model is asked (optional)
    ``called``       (n, K) when a policy called the model, 1 first; 0: not, and all else of it is unknown (logs)
    ``propensity``   (n, K) in (0, 1], how likely that decision was (logs)
    """

    blocks: tuple[Block, ...]
    #: The opened cache, as it travels, and the split; empty where they come from elsewhere.
    home: tuple[Any, ...] = field(default=(), init=False)

    def __reduce__(self) -> Any:
        """Return what goes to another process: of an opened cache where they are."""
        return (_rows_of, self.home) if self.home else (Rows, (self.blocks,))

    def __copy__(self) -> Rows:
        return Rows(self.blocks)

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return Rows(deepcopy(self.blocks, memo))

    def __repr__(self) -> str:
        names = ", ".join(self.blocks[0]) if self.blocks else "empty"
        return f"Rows({len(self)} rows in {len(self.blocks)} blocks: {names})"

    def __len__(self) -> int:
        return sum(map(block_rows, self.blocks))

    def has(self, name: str) -> bool:
        """Whether every block carries the array `name`."""
        return bool(self.blocks) and all(name in block for block in self.blocks)

    def array(self, name: str) -> Array:
        """Return one array over all rows (a view where there is one block, else a copy)."""
        if len(self.blocks) == 1:
            return self.blocks[0][name]
        types = [like(block)[name] for block in self.blocks]
        out = empty((len(self), *types[0].shape[1:]), np.result_type(*types))
        return np.concatenate([block[name] for block in self.blocks], out=out)

    def pick(self, name: str, places: Ints, exits: Sequence[int] | None = None) -> Array:
        """Return the rows at `places`, in their order, of the array `name`; of some exits where given."""
        ends = np.cumsum([0, *map(block_rows, self.blocks)])
        if (places[1:] >= places[:-1]).all():  # of most blocks nothing is asked
            spans = pairwise(np.searchsorted(places, ends).tolist())
            asked = [(b, slice(*span)) for b, span in enumerate(spans) if span[1] > span[0]]
        else:
            of = np.searchsorted(ends, places, side="right") - 1
            asked = [(b, np.flatnonzero(of == b)) for b in np.unique(of).tolist()]
        out, types = np.empty(0), [like(block)[name].dtype for block in self.blocks]
        for b, here in asked or [(0, slice(0, 0))]:
            array, at = self.blocks[b][name], places[here] - ends[b]
            found = array[at] if exits is None else array[at[:, None], np.array(exits)]
            if len(at) == len(places):
                return found
            if not len(out):
                out = np.empty((len(places), *found.shape[1:]), np.result_type(*types))
            out[here] = found
        return out

    def chunks(self, size: int) -> Iterator[tuple[int, Block]]:
        """Yield ``(first row, block of at most `size` rows)``, without copying."""
        start = 0
        for block in self.blocks:
            n = block_rows(block)
            for low in range(0, n, size):
                yield start + low, Span(block, low, low + size)
            start += n


@dataclass(frozen=True, eq=False, repr=False)
class ExitData(Shown):
    """Per-exit outputs, labels, costs and metadata: what a cache holds, checked.

    Parameters
    ----------
    kind : str
        What ``outputs`` are: ``logits``, ``probabilities``, ``summary``, or another of `policyopt.Policy`.
    exits, classes : int
        K and C; ``classes`` is 0 where summaries do not say; labels or values where there are no classes.
    splits : mapping of str to Rows
        Either named splits (``fit``, ``calibrate``, ``test``, and streams), or one ``pool``.
    costs : tuple of Cost
        The first is the default.
    shares : mapping of str to float
        How a pool is to be divided, e.g. ``{"fit": 0.5, "test": 0.5}``; empty where
        splits are named.
    split_seed : int
        Seed of that division.
    metadata : dict
        Free, JSON-able.
    fingerprint : str
        SHA-256 over the checksums of all arrays; names the cache in artifacts.
    contexts : tuple of str
        Names of the contexts that the rows' ``context`` counts; empty where they have none.
    measure : Measure
        How sets of labels, and values, are valued.

    Examples
    --------
    >>> rows = Rows(({"outputs": np.zeros((10, 2, 3), np.float32)},))
    >>> costs = (Cost("compute", "MMACs", (1, 2)),)
    >>> data = ExitData("logits", 2, 3, {"pool": rows}, costs, {"fit": 0.5, "test": 0.5})
    >>> data.split_names, len(data.rows("test")[1]), data.cost().unit
    (('fit', 'test'), 5, 'MMACs')
    """

    kind: str
    exits: int
    classes: int
    splits: Mapping[str, Rows]
    costs: tuple[Cost, ...]
    shares: Mapping[str, float] = field(default_factory=dict)
    split_seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    contexts: tuple[str, ...] = ()
    measure: Measure = field(default_factory=Measure)
    kept: Any = None  # what passes over its shards have found, see `policyopt._cache.statistics`
    #: What `open_cache` takes to open it again; empty where rows come from elsewhere, and of copies.
    origin: Mapping[str, Any] = field(default_factory=dict, init=False)
    #: The parts of a pool, by the last seed.
    _drawn: dict[int, list[Ints]] = field(default_factory=dict, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return what goes to another process: of an opened cache where it is, not its rows."""
        if not self.origin:
            return {**self.__dict__, "_drawn": {}}
        return {"origin": self.origin, "fingerprint": self.fingerprint}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state if "splits" in state else _opened(**state).__dict__)

    @property
    def pooled(self) -> bool:
        """Whether the rows are one pool, divided by a seed."""
        return POOL in self.splits

    @property
    def split_names(self) -> tuple[str, ...]:
        """Names of the splits a user can ask for."""
        return tuple(self.shares) if self.pooled else tuple(self.splits)

    def division(self, seed: int | None = None) -> dict[str, Any]:
        """Return how a pool is divided; empty of named splits."""
        of = self.split_seed if seed is None else seed
        return {"shares": dict(self.shares), "seed": of} if self.pooled else {}

    @property
    def graded(self) -> bool:
        """Whether answers have a graded quality of their own, instead of being right or wrong."""
        measured = bool(KINDS[self.kind].targets) and self.measure.dtype is float
        return measured or any(rows.has("quality") for rows in self.splits.values())

    @property
    def censored(self) -> bool:
        """Whether rows know what the models said that a policy called, and no more."""
        return any(rows.has(CALLED) for rows in self.splits.values())

    @property
    def names(self) -> tuple[str, ...]:
        """What its exits, or models, are called, where the metadata name all of them; else empty."""
        names = self.metadata.get("names")
        given = names if isinstance(names, list) and len(names) == self.exits else []
        each = all(isinstance(name, str) for name in given) and len(set(given)) == len(given)
        return tuple(given) if each else ()

    def called(self, k: int) -> str:
        """Return what people see for exit k: its number, and its name where it has one."""
        return f"{k} {self.names[k]}" if self.names else str(k)

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """Width of each exit's feature vectors, D_k; empty where none are kept."""
        block = like(next(iter(self.splits.values())).blocks[0])
        found = [block.get(f"{FEATURES_PREFIX}{k}") for k in range(self.exits)]
        return tuple(array.shape[1] for array in found if array is not None)

    @property
    def query_width(self) -> int:
        """D of what is known of rows before any model is asked; 0 where nothing is."""
        array = like(next(iter(self.splits.values())).blocks[0]).get(QUERY)
        return 0 if array is None else array.shape[1]

    def cost(self, name: str | None = None) -> Cost:
        """Return the cost called `name` (default: the first)."""
        known = {None: self.costs[0], **{cost.name: cost for cost in self.costs}}
        if name in known:
            return known[name]
        names = ", ".join(c.name for c in self.costs)
        raise input_error("cost", f"one of {names}", name, "`policyopt info CACHE` lists them.")

    def rows(self, split: str, seed: int | None = None) -> tuple[str, Ints]:
        """Return the key into `splits` where the rows of `split` stand, and their numbers, ascending.

        Also of a part: ``recent[:30%]``, ``recent[30%:]``, ``recent[labelled]``, ``recent[unlabelled]``; of all a pool.
        """
        if split.count("[") > _NESTED:
            step = "E.g. recent[:30%]."
            raise input_error("split", f"a part of a part, {_NESTED} deep at most", split, step)
        if split == POOL and self.pooled:
            return POOL, np.arange(len(self.splits[POOL]))
        if part := PART.fullmatch(split):
            key, rows = self.rows(part[1], seed)
            return key, rows[self._within(self.splits[key], rows, part, seed)]
        if split not in self.split_names:
            step = "`policyopt info CACHE` lists them."
            if split in RESERVED:
                step = (
                    f"This cache has no rows for it: import it with such rows (keys {split}_...), or all rows as "
                    "one pool to be divided (--split fit=0.5,calibrate=0.2,test=0.3)."
                )
            raise input_error("split", f"one of {', '.join(self.split_names)}", split, step)
        if not self.pooled:
            return split, np.arange(len(self.splits[split]))
        n = len(self.splits[POOL])
        seed = self.split_seed if seed is None else check_seed(seed)
        edges, at = np.cumsum([0.0, *self.shares.values()]) * n, list(self.shares).index(split)
        pool = self.splits[POOL]
        if pool.has(GROUP):
            place = places_of(pool.array(GROUP), seed)
            return POOL, np.flatnonzero((place >= edges[at]) & (place < edges[at + 1]))
        if (parts := self._drawn.get(seed)) is None:
            ends, kept = np.round(edges[1:]).astype(int), self.kept  # behind the last: left out
            ours = kept is not None and kept.splits.get(POOL) is pool and seed == self.split_seed
            # Of a store, columns say that their shards were read.
            if kept is not None and ours and not kept.checked:
                of_all = blake2b("".join(s.sha256 for s in kept.shards).encode()).hexdigest()[:16]
                meaning = f"division of {n} at {ends.tolist()} by {seed}, {of_all}"
                with kept.columns(POOL, meaning, {"order": ((n,), np.int64)}) as (of, missing):
                    whole = _divided(of["order"], seed, ends) if missing else of["order"]
            else:
                whole = _divided(empty((n,), np.int64), seed, ends)
            parts = np.split(whole, ends)
            for part in parts:
                part.flags.writeable = False
            self._drawn.clear()
            self._drawn[seed] = parts
        return POOL, parts[at]

    def _within(self, source: Rows, rows: Ints, part: re.Match[str], seed: int | None) -> Array:
        """Say which rows are of a part of them, (n,)."""
        group = source.array(GROUP)[rows] if source.has(GROUP) else rows
        if part[4] is None:
            place = places_of(group, self.split_seed if seed is None else check_seed(seed))
            low, high = (len(rows) * int(end) / 100 for end in (part[2] or "0", part[3] or "100"))
            return (place >= low) & (place < high)
        known = np.full(len(rows), any(map(source.has, (TARGETS, "correct", "quality"))))
        if source.has("labels") and not self.graded:
            known = source.array("labels")[rows] >= 0
        return np.isin(group, group[known], invert=part[4] == "unlabelled")


def _divided(out: Ints, seed: int, ends: Ints) -> Ints:
    """Put the numbers of rows into N places, in random order between `ends` and ascending within them."""
    for low in range(0, len(out), 1 << 22):
        out[low : low + (1 << 22)] = np.arange(low, min(low + (1 << 22), len(out)))
    np.random.default_rng(seed).shuffle(out.view(np.ndarray))  # others are shuffled in Python
    for part in np.split(out, ends):
        part.sort()
    return out


def places_of(group: Array, seed: int) -> Array:
    """Return the middle of each row's group among all rows, groups in random order, (N,): to be cut at shares of N."""
    _, at, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(sizes))
    ends = np.cumsum(sizes[order])
    middle = np.empty(len(sizes))
    middle[order] = ends - sizes[order] / 2
    return middle[at]


def folds_of(rows: int, folds: int, seed: int, group: Array | None = None) -> Ints:
    """Return a random fold number per row, (N,), groups whole, sizes equal to within one row (or group)."""
    if group is None:
        return np.random.default_rng(seed).permutation(rows) % max(min(folds, rows), 1)
    fold = np.floor(places_of(group, seed) * folds / rows).astype(np.int64)
    return np.unique(fold, return_inverse=True)[1]  # a large group may leave one empty


def some_rows(rows: int, count: int, seed: int, group: Array | None = None) -> Ints:
    """Return the numbers of `count` random rows, ascending; of groups, which stay whole, about as many."""
    # One group at least, and not all of several where fewer rows than all are asked for.
    if group is None:
        rng = np.random.default_rng(seed)
        if rows <= max(16 * count, 1 << 22):
            return np.sort(rng.permutation(rows)[:count])
        drawn = np.unique(rng.integers(0, rows, 2 * count))  # of very many no list is made
        return np.sort(rng.choice(drawn, count, replace=False))
    place = places_of(group, seed)
    ends = np.unique(place)
    return np.flatnonzero(place <= np.clip(count, ends[0], ends[-2 if count < rows else -1 :][0]))


def group_codes(values: Array) -> Array:
    """Return groups named by whole numbers or texts as codes, (N,) int64: the same name is the same code everywhere."""
    if values.dtype.kind in "iub":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        if not (np.isfinite(values) & (values == np.floor(values))).all():
            step = "Give a whole number or a name per row; rows that stand alone one of their own."
            raise input_error("group", "whole numbers or names", "other numbers, or none", step)
        return values.astype(np.int64)
    names, at = np.unique(values.astype(str), return_inverse=True)
    codes = [blake2b(name.encode(), digest_size=8).digest() for name in names.tolist()]
    return np.frombuffer(b"".join(codes), dtype=np.int64)[at]


def equal_rows(splits: Mapping[str, Rows], notes: list[str]) -> dict[str, Array]:
    """Return the groups of splits in which rows repeat others, (N,) each, where no split says its groups; noted."""
    found, start = dict[str, Array](), 0
    if any(rows.has(GROUP) for rows in splits.values()):
        return found
    for name, rows in splits.items():
        group = repeated(rows)
        if group is not None:
            count = len(group) - len(np.unique(group))
            notes.append(
                f"{count} of the {len(group)} rows of the {name if name == POOL else f'split {name}'} repeat others "
                "(augmented views, doubled files?): equal rows are never divided and count as one in intervals; a key "
                "group says better what belongs together"
            )
            found[name] = group + start  # of no other split
        start += len(rows)
    return found


def repeated(rows: Rows) -> Array | None:
    """Return the rows that are equal as groups, (N,), where they are repetitions and no chance; else None."""
    # Rows of few distinct confidences meet by chance: with other labels, or at every exit far more often than at all.
    hashes = row_hashes(rows)
    if np.diff(np.sort(hashes)).all():  # the usual case, in little memory
        return None
    _, first, at, sizes = np.unique(
        hashes, return_index=True, return_inverse=True, return_counts=True
    )
    again = sizes[at] > 1
    if sizes.max() > len(at) / 4:
        return None
    for name in ("labels", TARGETS, "correct", "quality"):
        if rows.has(name):
            truth = rows.array(name).reshape(len(at), -1)
            if (truth != truth[first[at]]).any(axis=1)[again].mean() > _BY_CHANCE:
                return None
    lead = "outputs" if rows.has("outputs") else "confidence"
    for k in range(like(rows.blocks[0])[lead].shape[1]):
        _, here, counts = np.unique(row_hashes(rows, k), return_inverse=True, return_counts=True)
        if again.sum() > 0.9 * (counts[here] > 1).sum():
            return first[at].astype(np.int64)
    return None


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares of a pool, in the given order: positive, adding to at most 1."""
    if not isinstance(shares, Mapping) or not shares:
        raise input_error("split", "shares by name", shares, "E.g. fit=0.5,test=0.5.")
    for name, share in shares.items():
        if check_name("split", name) == POOL:
            raise input_error("split", f"any name but {POOL}", POOL, "The pool is what is divided.")
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise input_error(f"split {name}", "a share in (0, 1]", share, "E.g. fit=0.5,test=0.5.")
    if sum(shares.values()) > 1 + 1e-9:
        allowed = "shares adding to at most 1 (else splits overlap)"
        raise input_error("split", allowed, f"{sum(shares.values()):g}", "Lower one.")
    return {name: float(share) for name, share in shares.items()}


def check_splits(rows: Mapping[str, int], shares: Mapping[str, float]) -> None:
    """Refuse no rows, a pool beside named splits, shares without a pool, and those of no row."""
    if not rows:
        raise input_error("rows", "at least 1", "none", "Append rows to at least one split.")
    check_pool(rows, shares)
    edge, total = 0.0, rows.get(POOL, 0)
    for name, share in shares.items():
        if round((edge + share) * total) - round(edge * total) < 1:
            got = f"{share:g} of {total} rows"
            step = "Raise its share or give more rows."
            raise input_error(f"split {name}", "of at least one row", got, step)
        edge += share


def check_pool(names: Iterable[str], shares: Mapping[str, float]) -> None:
    """Refuse a pool beside named splits, and shares without a pool."""
    named = sorted(names)
    if POOL in named and len(named) > 1:
        step = "Name every split, or give all rows as the pool."
        raise input_error("splits", f"either {POOL!r} alone or named splits", f"{named}", step)
    if (POOL in named) != bool(shares):
        allowed = f"given for the split {POOL!r}, and for no other"
        got, step = f"{shares or 'none'} and {named}", "E.g. {'fit': 0.5, 'test': 0.5}."
        raise input_error("shares", allowed, got, step)


def to_data(
    layout: Layout,
    splits: Mapping[str, Rows],
    shares: Mapping[str, float],
    seed: int,
    metadata: Mapping[str, Any],
    fingerprint: str,
    disjoint: bool = True,
) -> ExitData:
    """Return the rows as data, their splits checked; `disjoint`: also for rows in two of them."""
    check_splits({name: len(rows) for name, rows in splits.items()}, shares)
    if disjoint:
        refuse_overlap(splits)
    return ExitData(
        layout.kind, layout.exits, layout.classes, splits, layout.costs, shares, seed, metadata,
        fingerprint, layout.contexts, layout.measure,
    )  # fmt: skip


def refuse_overlap(splits: Mapping[str, Rows]) -> None:
    """Refuse fit, calibrate and test splits that share rows (byte by byte): two at least, and 5 % of the smaller."""
    named = [name for name in RESERVED if name in splits]
    if len(named) < 2:
        return
    for one, other in combinations(named, 2):
        if splits[one].has(GROUP) and splits[other].has(GROUP):
            both = np.intersect1d(splits[one].array(GROUP), splits[other].array(GROUP))
            if len(both):
                raise InputError(
                    f"'splits' must keep groups whole. Got {len(both)} groups with rows in {one!r} and in "
                    f"{other!r}. Move each to one, or give all rows as one pool to be divided "
                    "(--split fit=0.5,test=0.5)."
                )
    hashes = {name: row_hashes(splits[name]) for name in named}
    for one, other in combinations(named, 2):
        small, large = sorted((one, other), key=lambda name: len(hashes[name]))
        count = shared_rows(hashes[small], hashes[large])
        if count >= max(2, 0.05 * len(hashes[small])):
            raise InputError(
                f"'splits' must be disjoint. Got {count} of the {len(hashes[small])} rows of "
                f"{small!r} standing also in {large!r}. Remove them from one, or give all rows "
                "as one pool to be divided (--split fit=0.5,test=0.5)."
            )


def shared_rows(small: Ints, large: Ints) -> int:
    """Count rows of `small` that stand in `large`, by their hashes, beyond what chance explains."""
    if len(small) == len(large) and np.array_equal(np.sort(small), np.sort(large)):
        return len(small) if len(np.unique(small)) > 1 else 0  # the same file twice
    found = int(np.isin(small, large).sum())
    # Of two independent draws, pairs coincide across the splits as often as within them.
    pairs, chances = 0.0, 0.0
    for hashes in (small, large):
        counts = np.unique(hashes, return_counts=True)[1].astype(np.float64)
        pairs += float((counts * (counts - 1.0) / 2).sum())
        chances += len(hashes) * (len(hashes) - 1.0) / 2
    expected = len(small) * len(large) * pairs / max(chances, 1.0)
    return max(0, found - int(np.ceil(2 * expected)))


def row_hashes(rows: Rows, k: int | None = None) -> Ints:
    """Return a 64-bit hash per row over the bytes of what identifies it, at exit k or at all."""
    names, found = [name for name in _TELLING if rows.has(name)], []
    at = slice(None) if k is None else slice(k, k + 1)
    for each in rows.blocks:
        if k is None and isinstance(each, Lazy) and each.hashes is not None:
            found.append(each.hashes)
            continue
        for _, block in Rows((each,)).chunks(_PIECE_ROWS):
            flat = [block[name][:, at].reshape(len(block[name]), -1) for name in names]
            whole = [np.ascontiguousarray(array).view(np.uint8) for array in flat]
            found.append(_hashed(np.concatenate(whole, axis=1)))
    return np.concatenate(found)


def _hashed(rows: Array) -> Ints:
    """Return a 64-bit hash of each row of bytes (n, W): multilinear (Lemire & Kaser, Comput. J. 57, 2014), mixed."""
    words = np.zeros((len(rows), -(-rows.shape[1] // 4) * 4), np.uint8)
    words[:, : rows.shape[1]] = rows
    rng = np.random.default_rng(_HASH_SEED)
    random = rng.integers(1 << 64, size=words.shape[1] // 4, dtype=np.uint64)
    numbers = words.view(np.uint32)
    numbers = numbers + (numbers >> np.uint32(16))  # of floats the upper bits alone may differ
    mixed = numbers @ random
    mixed ^= mixed >> np.uint64(32)  # its lower half alone would tell less
    return (mixed * np.uint64(0x9E3779B97F4A7C15)).view(np.int64)
