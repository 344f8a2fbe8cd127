"""`import_sources`: files of any kind to one cache, with a note on all that was not declared."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import wraps
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import numpy as np

from policyopt._cache import blocks
from policyopt._cache.array_files import read_npy, read_npz, read_safetensors
from policyopt._cache.data import CONTEXT, COST_PREFIX, POOL, RESERVED, TARGETS, ExitData
from policyopt._cache.decision_log import import_log, is_log
from policyopt._cache.exits import (
    by_exit,
    joined,
    number_contexts,
    numbered,
    with_logarithms,
    with_queries,
)
from policyopt._cache.keys import SYNONYMS, parse_key, split_name
from policyopt._cache.manifest import MANIFEST, with_told
from policyopt._cache.parts import Part, by_row, divide, turn
from policyopt._cache.places import address_of, fetched, place_of
from policyopt._cache.raw import Raw, Said
from policyopt._cache.reader import open_cache
from policyopt._cache.table_files import read_csv, read_json, read_jsonl, read_parquet
from policyopt._cache.torch_file import read_torch
from policyopt._cache.writer import CacheWriter, standing_cache
from policyopt._costs import Cost, check_cost_kind, cumulative, exit_counts, with_heads
from policyopt._measures import measure_of
from policyopt._progress import report, working
from policyopt.runtime._errors import InputError, PolicyOptError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._sizes import PIECE, Room
from policyopt.runtime._typing import Array

#: Who reads files of a suffix.
READERS: dict[str, Any] = {
    ".npz": read_npz, ".npy": read_npy, ".safetensors": read_safetensors, ".pt": read_torch,
    ".pth": read_torch, ".csv": read_csv, ".tsv": read_csv, ".jsonl": read_jsonl, ".json": read_json,
    ".parquet": read_parquet,
}  # fmt: skip
#: Unit that the end of a key tells.
UNITS = {
    "usd": "USD", "eur": "EUR", "s": "s", "ms": "ms", "us": "us", "mj": "mJ", "j": "J",
    "flops": "FLOPs", "mflops": "MFLOPs", "gflops": "GFLOPs", "macs": "MACs", "mmacs": "MMACs",
    "gmacs": "GMACs", "tokens": "tokens",
}  # fmt: skip
#: Those that are text, which may be packed.
_TEXTS = (".csv", ".tsv", ".jsonl", ".json")
_NAMED = re.compile(r"([A-Za-z0-9_.-]{1,64})=(.+)", re.DOTALL)
_LABELS = [(None, "labels", base) for base, role in SYNONYMS.items() if role == "labels"]
_LABELS.append((None, "outputs", "outputs"))  # a .npy
_PIECE_BYTES = 32 << 20
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class ImportReport:
    """What an import made."""

    data: ExitData  # the cache, opened
    notes: tuple[str, ...]  # a line on each thing that was decided rather than declared


def _near(function: F) -> F:
    """Check where a function writes to, then bring its sources and labels that stand in stores to this machine."""

    @wraps(function)
    def with_files(sources: Any, out: Any, *, labels: Any = None, **options: Any) -> Any:
        def near(source: Any) -> Any:
            if isinstance(source, Mapping):
                return {name: near(one) for name, one in source.items()}
            if not isinstance(source, (str, os.PathLike)):
                return source
            named = _NAMED.fullmatch(os.fspath(source))
            split, at = (f"{named[1]}=", named[2]) if named else ("", source)
            if not (address := address_of(at)):
                return source
            folder = TemporaryDirectory(prefix="policyopt-", ignore_cleanup_errors=True)
            return f"{split}{fetched(address, Path(stack.enter_context(folder)), READERS)}"

        again = bool(options.get("overwrite") or options.get("append"))
        standing_cache(place_of(out), again, "out")  # not after the work
        given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
        with ExitStack() as stack:
            return function([*map(near, given)], out, labels=near(labels), **options)

    return cast(F, with_files)


@working("importing")
@_near
def import_sources(
    sources: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    axes: str | None = None,
    kind: str | None = None,
    costs: Any = None,
    unit: str | None = None,
    cost_kind: str | None = None,
    cost_name: str | None = None,
    head_cost: Any = None,
    shares: Mapping[str, float] | None = None,
    seed: int = 0,
    labels: Any = None,
    overwrite: bool = False,
    append: bool = False,
    time: str | None = None,
    retain: str | None = None,
    dtype: str | None = None,
    quality_of: str | None = None,
    error_scale: float | None = None,
    allow_pickle: bool = False,
    exits: bool = False,
    keys: Mapping[str, str | Sequence[str]] | None = None,
) -> ImportReport:
    """Import files into a cache.

    Parameters
    ----------
    sources : path or sequence of paths
        ``PATH``, or ``SPLIT=PATH`` where a file holds one split; in stores (``s3://...``), too. ``.npz``, ``.npy``
        with a sidecar, ``.safetensors``, ``.pt``/``.pth``, and tables as ``.csv``, ``.tsv``, ``.jsonl``,
        ``.json``, ``.parquet``, the texts among them also with ``.gz``. A folder is its files, each of one exit or
        model, perhaps one of labels, in the order of their names.
    out : path
        Directory of the cache to make, or its address in a store.
    axes : str, optional
        Order of the axes in the files, e.g. ``"KNC"``; found by a check where not given.
    kind : str, optional
        ``logits``, ``probabilities`` and ``summary`` are found by key and values where not given; others
        (see `policyopt.CacheWriter`) are declared.
    costs : sequence of K floats, ``"1,2,4"``, ``"small=1,large=4"``, or the name of a cost in the file, optional
        Becomes the default cost. Names of models also say their order.
    unit : str, optional
        Unit of the default cost and of costs whose key does not tell one.
    cost_kind : {"cumulative", "standalone", "measured"}, optional
        How all costs are given; default cumulative, with a note.
    cost_name : str, optional
        Name of the values under `costs`; default "cost".
    head_cost : optional
        What the exits' heads cost, as in `fit`; kept in the cache.
    shares : mapping of str to float, optional
        How a pool of rows is divided; default ``{"fit": 0.5, "test": 0.5}``.
    seed : int, default 0
        Seed of that division.
    labels : array, path, or mapping of split to either, optional
        Go before labels in the files.
    overwrite : bool, default False
        Replace a cache at `out`, once the new one is whole.
    append, time, retain : optional
        Add the rows to a cache at `out`, see `policyopt.CacheWriter`; its costs hold where none are given.
    dtype : {"float16", "float32", "float64"}, optional
        Storage type; default keeps float16, makes other outputs float32 (float64: summaries only).
    quality_of, error_scale : optional
        Worth of sets of labels, and of values, see `policyopt.CacheWriter`.
    allow_pickle : bool, default False
        Load ``.pt`` files that need pickle. **They can run any code.**
    exits : bool, default False
        Each file holds one exit or model of the same rows, in the order given, cheapest first.
    keys : mapping of str to str or sequence of str, optional
        What keys of the file mean, by role: ``{"labels": "gt"}``; several are one per exit, in order.

    Returns
    -------
    ImportReport

    Raises
    ------
    InputError
        A file or an argument is not what it must be. No cache is left behind.
    MissingExtraError
        A package that reads this kind of file is not installed.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> place, rng = Path(tempfile.mkdtemp()), np.random.default_rng(0)
    >>> np.savez(
    ...     place / "a.npz",
    ...     logits=rng.normal(size=(2, 50, 10)),
    ...     labels=rng.integers(0, 10, 50),
    ...     costs=[1.0, 3.0],
    ... )
    >>> report = import_sources(
    ...     place / "a.npz", place / "cache", unit="MFLOPs", cost_kind="cumulative"
    ... )
    >>> report.data.split_names, report.data.cost().values
    (('fit', 'test'), (1.0, 3.0))
    >>> print(report.notes[0])
    a.npz: pool logits: axes read as KNC (fits 50 labels)
    """
    if axes is not None:
        axes = blocks.check_axes(axes)
    logs = [path for _, path in _listed(sources) if is_log(path)]
    if logs:
        if len(_listed(sources)) > 1:
            step = "Join them to one file (cat A B > AB), in the order of time."
            raise input_error("SRC", "one log of decisions", f"{len(_listed(sources))} files", step)
        truth = _label_arrays(labels, allow_pickle, []).get(None)
        told = import_log(logs[0], out, truth, shares, seed, overwrite)
        return ImportReport(open_cache(out, verify=False), tuple(told))
    old = standing_cache(place_of(out), True, "out") if append else None
    if old is not None and costs is None and (first := old.layout.costs[0]).values:
        costs, unit, cost_name = list(first.values), unit or first.unit, first.name
        costs = np.diff(costs, prepend=0.0).tolist() if first.cascade else costs
        cost_kind, head_cost = "standalone" if first.cascade else "cumulative", first.heads
    said = {
        role: (key,) if isinstance(key, str) else tuple(key) for role, key in (keys or {}).items()
    }
    listed = [(split, file) for split, path in _listed(sources) for file in _inside(path)]
    exits = exits or any(path.is_dir() for _, path in _listed(sources))
    named = [(split, read_file(path, allow_pickle, said=said)) for split, path in listed]
    _check_said(said, [raw for _, raw in named])
    of = dict(re.findall(r"\s*([^,=]+?)\s*=([^,]*)", costs)) if isinstance(costs, str) else {}
    if exits:
        groups = {split: [raw for at, raw in named if at == split] for split, _ in named}
        named = [(split, joined(raws, [*of])) for split, raws in groups.items()]
    raws = [raw for _, raw in named]
    if of:
        told = raws[0].metadata.get("names") or ["models with names"]
        if set(told) != of.keys() or len(of) < len(str(costs).split(",")):
            allowed = f"NAME=COST of each of {', '.join(told)}"
            raise input_error("costs", allowed, costs, "Or give one number per exit: 1,2,4.")
        costs = [of[name] for name in told]
    with _telling(raws):
        told = list[str]()
        refuse_orders((raw.name, raw.metadata.get("names")) for raw in raws)
        names = numbered(raws, told)
        parts = [part for split, raw in named for part in divide(raw, split, kind, axes)]
        one = _Import(raws, parts, [*(note for raw in raws for note in raw.notes), *told])
        one.share_labels(_label_arrays(labels, allow_pickle, raws))
        one.turn(len(_stated_values(costs)[0] or ()))
        stated = one.costs(costs, unit or "", cost_kind, cost_name or "cost")
        stated = with_heads(stated, head_cost)
        found, contexts = one.kind(), one.contexts()
        for part in one.parts:
            one.notes += blocks.truth_notes(f"{part.source}: {part.split}", part.arrays, found)
        splits = [part.split for part in one.parts]
        if shares is not None and POOL not in splits:
            got = f"shares beside the splits {', '.join(splits)} of the file"
            allowed = "given where the rows are one pool"
            raise input_error("split", allowed, got, "Leave --split out.")
        if shares is None and POOL in splits:
            one.notes.append(f"rows divided 50:50 into fit and test by seed {seed}; see --split")
        if any(note.endswith(" not used") for note in one.notes):
            told = "what is not used gets a role by --key ROLE=KEY"
            one.notes.append(f"{told}, e.g. --key group=KEY or --key quality=KEY")
        one.tell_same_labels()
        one.tell_labels()
        writer = CacheWriter(
            out, costs=stated, kind=found, shares=shares, split_seed=seed, contexts=contexts,
            dtype=dtype or blocks.natural_dtype(found, [part.lead for part in one.parts]),
            classes=max(part.classes for part in parts) if found == "summary" else None,
            metadata=one.metadata() | ({"class_names": names} if names else {}), overwrite=overwrite,
            append=append, time=time, retain=retain, **one.measure(found, quality_of, error_scale),
        )  # fmt: skip
        writer.lists_unfinished = False  # the sources are still there
        with writer:
            _write(writer, one.parts)
    return ImportReport(open_cache(out, verify=False), (*one.notes, *writer.notes))


def _check_said(said: Said, raws: Sequence[Raw]) -> None:
    """Refuse a key that no file has."""
    have = {key: None for raw in raws for key in raw.keys}
    if lacking := [key for names in said.values() for key in names if key not in have]:
        step = "Check its spelling."
        raise input_error("key", f"of a key of the files: {_few(have)}", _few(lacking), step)


def refuse_orders(told: Iterable[tuple[str, Any]]) -> None:
    """Refuse exits that have the same names in another order, by what tells of them."""
    for (one, names), (other, others) in combinations([(w, n) for w, n in told if n], 2):
        if names != others and sorted(map(str, names)) == sorted(map(str, others)):
            got = f"{', '.join(map(str, others))} in {other}"
            step = "Bring columns, rows or files to that order."
            allowed = f"in one order: {', '.join(map(str, names))}, as in {one}"
            raise input_error("exits", allowed, got, step)


def read_files(paths: Sequence[Path], said: Said, argument: str, names: Sequence[str] = ()) -> Raw:
    """Read a file, or files of one exit each, or a folder of them, as one; a folder's files as `names` stand."""
    files = [file for path in paths for file in _inside(path)]
    raws = [read_file(path, argument=argument, said=said) for path in files]
    _check_said(said, raws)
    number_contexts(raws)
    folders = any(path.is_dir() for path in paths)
    return joined(raws, names if folders else ()) if folders or len(raws) > 1 else raws[0]


@contextmanager
def _telling(raws: Sequence[Raw]) -> Iterator[None]:
    """Say in a refusal also what was found in the files and not used."""
    try:
        yield
    except InputError as error:
        unread = {key: shape for raw in raws for key, shape in raw.unread.items()}
        told = _few([f"{key} {shape}" if shape else key for key, shape in unread.items()])
        step = "--key ROLE=KEY gives such a key a role, e.g. --key labels=KEY."
        raise InputError(
            f"{error} Found and not used: {told}; {step}" if told else f"{error}"
        ) from error


def _few(words: Iterable[str], most: int = 8) -> str:
    words = list(words)
    return ", ".join(words[:most]) + (", ..." if words[most:] else "")


def _write(writer: CacheWriter, parts: list[Part]) -> None:
    sizes = [sum(array.nbytes for array in part.arrays.values()) for part in parts]
    done = 0
    for part, size in zip(parts, sizes, strict=True):
        step = max(1, _PIECE_BYTES * len(part.lead) // max(1, size))
        try:
            # The whole: pieces would hide wrong lengths.
            blocks.to_block(writer.layout, part.arrays)
            for low in range(0, len(part.lead), step):
                piece = {name: array[low : low + step] for name, array in part.arrays.items()}
                writer.add(part.split, piece)
                done += sum(array.nbytes for array in piece.values())
                report(done, sum(sizes), "")
        except InputError as error:
            raise InputError(f"{part.source}: {error}") from error


def _listed(sources: Any) -> list[tuple[str | None, Path]]:
    """Divide ``SPLIT=PATH``; a file whose own name holds a ``=`` is let be."""
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if not given:
        step = "E.g. policyopt import logits.npz --out DIR."
        raise input_error("SRC", "at least one file", "none", step)
    listed: list[tuple[str | None, Path]] = []
    for source in given:
        match = _NAMED.fullmatch(os.fspath(source))
        if match and not Path(source).exists():
            listed.append((split_name(match[1]), Path(match[2])))
        else:
            listed.append((None, Path(source)))
    return listed


def _inside(path: Path) -> list[Path]:
    """Return the files of a folder by name, that may be read; of a file, and a cache, itself."""
    if not path.is_dir() or (path / MANIFEST).exists():
        return [path]
    files = [p for p in sorted(path.iterdir()) if p.name[0] != "."]  # sidecars go:
    files = [p for p in files if p.suffix != ".json" or p.with_suffix(".npy") not in files]
    return [p for p in files if Path(p.name.removesuffix(".gz")).suffix in READERS] or [path]


def read_file(
    path: Path, allow_pickle: bool = False, argument: str = "SRC", said: Said | None = None
) -> Raw:
    """Read a file with the reader for its suffix; what it holds exit by exit is put together."""
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path.name).suffix.lower()
    if not path.is_file():
        step = "Name a file in it." if path.is_dir() else "Check the path."
        if (path / MANIFEST).exists():
            step = "It is a cache already: `policyopt info`, `fit`, `evaluate` take it as it is."
        got = f"{path} ({'a directory' if path.is_dir() else 'missing'})"
        raise input_error(argument, "a file", got, step)
    if suffix not in READERS or (packed and suffix not in _TEXTS):
        step = "Convert it, or write the cache from Python with policyopt.CacheWriter."
        kinds = f"{' '.join(READERS)} (texts also with .gz)"
        raise input_error(argument, f"a file of kind {kinds}", str(path), step)
    reader, allowed, step = READERS[suffix], "a readable file", "Check the path."
    try:
        path.open("rb").close()
        allowed, step = f"a readable {suffix} file", "It was cut or damaged: save or copy it anew."
        with TemporaryDirectory() if packed else nullcontext() as folder:
            source = path if folder is None else _unpacked(path, Path(folder))
            if suffix in (*_TEXTS, ".parquet"):
                allowed, step = f"a readable {suffix} table", "Mend the file or save it anew."
            more = (allow_pickle,) if reader is read_torch else ()
            raw = reader(source, said or {}, *more)
        raw.folder = path.absolute().parent.name
        with _telling([raw]):
            return with_logarithms(by_exit(with_queries(raw)))
    except PolicyOptError:
        raise
    except Exception as error:  # zip, numpy, pandas and Arrow raise many kinds on damaged files
        got = f"{path} ({' '.join(str(error).split())})"
        raise input_error(argument, allowed, got, step) from error


def _unpacked(path: Path, folder: Path) -> Path:
    """Unpack a ``.gz`` into a folder; its bytes are counted while."""
    room, at = Room("SRC", str(path), "Unpack it yourself."), 0
    with (
        path.open("rb") as file,
        gzip.open(file) as content,
        (folder / path.stem).open("wb") as out,
    ):
        while piece := content.read(PIECE):
            room.take(len(piece), file.tell() - at)
            at = file.tell()
            out.write(piece)
    return folder / path.stem


def _label_arrays(labels: Any, allow_pickle: bool, raws: Sequence[Raw]) -> dict[str | None, Array]:
    """Return the labels given apart, by split (None: for all that lack them)."""
    if labels is None:
        return {}
    given = labels if isinstance(labels, Mapping) else {None: labels}
    arrays: dict[str | None, Array] = {}
    for split, value in given.items():
        if isinstance(value, (str, os.PathLike)):
            ((named, path),) = _listed(value)
            split, raw = split or named, read_file(path, allow_pickle, "labels")
            known = [k for k in raw.arrays if parse_key(k) in _LABELS]
            if len(known) != 1 or known[0] in raw.texts:
                allowed = "a file with one key of labels (class numbers), or a .npy"
                step = "Save class numbers as .npy, or under a key labels."
                raise input_error("labels", allowed, f"{path} with {_few(raw.keys)}", step)
            value, own = raw.arrays[known[0]], list(raw.texts.get("ids", {}).values())
            others = [list(one.texts.get("ids", {}).values()) for one in raws]
            if own and own not in (others[0], list(map(str, range(len(own))))):
                got = f"ids {_few(own, 3)} beside the labels"
                step = "Bring the labels to the order of the outputs' rows, then drop the ids."
                raise input_error("labels", "in the rows' order, by the same ids", got, step)
        arrays[split] = blocks.to_numpy("labels", value)
    return arrays


@dataclass
class _Import:
    """Parts on their way to one cache, and notes on what was decided rather than declared."""

    raws: list[Raw]
    parts: list[Part]
    notes: list[str]

    def share_labels(self, given: Mapping[str | None, Array]) -> None:
        """Give labels to parts without their own: the ones passed, and to streams those of test."""
        splits = sorted(part.split for part in self.parts)
        for split in given:
            if split not in (None, *splits):
                raise input_error("labels", f"for the splits {splits}", f"for {split}", "Rename.")
        for part in self.parts:
            mine = given.get(part.split, given.get(None))
            if mine is not None:
                if "labels" in part.arrays:
                    told = f"{part.source}: {part.split}: labels of the file replaced by the ones given"
                    self.notes.append(told)
                part.arrays["labels"] = mine
        test = next((p.arrays.get("labels") for p in self.parts if p.split == "test"), None)
        for part in self.parts:
            if "labels" in part.arrays or test is None or part.split in (*RESERVED, POOL, "train"):
                continue
            told = f"{part.source}: stream {part.split!r}"
            if test.size in part.lead.shape[:2]:
                part.arrays["labels"] = test
                self.notes.append(f"{told} shares the labels of test")
            else:
                self.notes.append(f"{told} has no labels, nor as many rows as test")

    def turn(self, hint: int) -> None:
        """Bring all parts to rows first (`hint`: K where the user's costs tell it), one per split."""
        self._refuse_single_exits()
        for part in self.parts:
            own = next((len(cost) for cost in part.costs.values() if cost.ndim == 1), 0)
            turn(part, hint or own, self.notes)
        self.parts = [divided for part in self.parts for divided in by_row(part)]
        sources: dict[str, str] = {}
        for part in self.parts:
            if part.split in sources:
                got = f"split {part.split!r} from {sources[part.split]} and {part.source}"
                step = "Each has all exits: of other rows each, name their splits: fit=A test=B."
                raise input_error("SRC", "one source per split", got, step)
            sources[part.split] = part.source
        exits = [f"{part.split}: K = {part.lead.shape[1]}" for part in self.parts]
        if len({part.lead.shape[1] for part in self.parts}) > 1:
            allowed = "splits with the same number of exits"
            raise input_error("SRC", allowed, ", ".join(exits), "Check the axes.")
        rows, k = sum(len(part.lead) for part in self.parts), self.parts[0].lead.shape[1]
        if k > max(rows, 16):
            step = "Samples are rows: say --axes, or save a list of samples, each an object."
            raise input_error("SRC", "of fewer exits than rows", f"{k} exits, {rows} rows", step)
        if k == 1:
            self.notes.append(
                "ONE EXIT: there is nothing to decide. Give the files of all exits or models: --exits A B"
            )

    def _refuse_single_exits(self) -> None:
        """Refuse several files of one exit each: nothing could be decided, so they are exits of the same rows."""
        files = list(dict.fromkeys(part.source for part in self.parts))

        def single(part: Part) -> bool:
            shape, kind = part.lead.shape, KINDS[part.kind or "logits"]
            axes = 2 if part.kind == "summary" or kind.single else 3
            labels = part.arrays.get("labels")
            if len(shape) == 2 and labels is not None and len(labels) == shape[1] != shape[0]:
                return False  # (K, N), one number each
            return len(shape) < axes or 1 in shape[:2]

        if len(files) > 1 and all(map(single, self.parts)):
            got = ", ".join(f"{part.source} {part.lead.shape}" for part in self.parts)
            step = f"If each is one exit or model of the same rows, say --exits {' '.join(files)}, cheapest first."
            raise input_error("SRC", "files of 2 exits at least", got, step)

    def tell_same_labels(self) -> None:
        """Note splits whose labels are the same row by row: two models on the same rows, perhaps."""
        labels = {p.split: p.arrays.get("labels") for p in self.parts if p.split in RESERVED}
        for one, other in combinations(labels, 2):
            a, b = labels[one], labels[other]
            if a is None or b is None or a.shape != b.shape or len(a) < 20 or (a == a[0]).all():
                continue
            if (a == b).all():
                self.notes.append(
                    f"{one} and {other} have the same labels, row by row: if they are outputs of several models for "
                    "the same rows, no split is held out; models that are to be exits: --exits A B, a file (N, C) each"
                )

    def tell_labels(self) -> None:
        """Say that there are no labels, and which keys could be."""
        if any({"labels", TARGETS, *blocks.WORTH} & part.arrays.keys() for part in self.parts):
            return
        more = self._like({(len(part.lead),) for part in self.parts})
        self.notes.append(
            "NO LABELS: most methods cannot be fitted on such rows; pass --labels FILE"
            + (f", or --key labels=KEY with {more}" if more else "")
        )

    def _like(self, shapes: set[tuple[int, ...]]) -> str:
        """Return the keys of such shapes that are not used."""
        like = [k for raw in self.raws for k, shape in raw.unread.items() if shape in shapes]
        return f"one of the keys that are not used: {_few(like)}" if like else ""

    def measure(
        self, kind: str, quality_of: str | None, error_scale: float | None
    ) -> dict[str, Any]:
        """Return how answers are valued, as the user or a file says."""
        options = {key: text for raw in self.raws for key, text in raw.options.items()}
        found = measure_of(
            kind, quality_of or options.get("quality_of"), error_scale or options.get("error_scale")
        )
        if found.quality_of:
            given = quality_of or options.get("quality_of")
            more = "" if given else " (the default, see --quality-of)"
            self.notes.append(f"quality of a set of labels: {found.quality_of}{more}")
        return {name: value or None for name, value in vars(found).items()}

    def kind(self) -> str:
        """Return the kind of all parts, detected where it is not declared."""
        for part in self.parts:
            if part.key in ("logit", "logits"):  # whose name says so: `check_block` looks at them
                continue
            part.kind = blocks.after_sigmoid(part.kind, [part.arrays], self.notes)
        for part in self.parts:
            if part.kind is None:
                part.kind = blocks.detect_kind(part.arrays.get("outputs"))
                told = f"{part.split} outputs read as {part.kind} (by their values)"
                self.notes.append(f"{part.source}: {told}")
            if part.kind == "logits":
                where = f"{part.source}: {part.split}"
                odd = list(blocks.sigmoids_as_logits(part.arrays["outputs"], where))
                if odd and part.key == "probabilities":
                    step = odd[0].partition(". ")[2] + "."
                    got = "numbers in [0, 1] under a key that says probabilities"
                    raise input_error(f"{where} logits", "logits, as declared", got, step)
                self.notes += odd
        kinds = {part.split: part.kind for part in self.parts}
        if len(set(kinds.values())) > 1:
            raise input_error("kind", "the same for all splits", f"{kinds}", "State it: --kind.")
        return self.parts[0].kind or "summary"

    def contexts(self) -> tuple[str, ...]:
        """Return the names of the contexts, which all files that state any must share."""
        files = [raw for raw in self.raws if "contexts" in raw.metadata]
        stated = {raw.name: raw.metadata.pop("contexts") for raw in files}
        given = list(stated.values())
        if any(names != given[0] for names in given):
            step = "Number them alike."
            raise input_error("contexts", "the same in every file", f"{stated}", step)
        columns = [part.arrays.get(CONTEXT) for part in self.parts]
        if given and all(column is None for column in columns):
            self.notes.append("contexts are named, but no row has one (key context): left out")
            return ()
        names = blocks.name_contexts(given[0] if given else None, columns)
        if names and not given:
            self.notes.append(f"contexts have no names (key contexts): called {', '.join(names)}")
        return names

    def metadata(self) -> dict[str, Any]:
        """Merge what the files say about themselves; where they differ, by file."""
        merged: dict[str, Any] = {}
        for key in dict.fromkeys(key for raw in self.raws for key in raw.metadata):
            values = {raw.name: raw.metadata[key] for raw in self.raws if key in raw.metadata}
            first = next(iter(values.values()))
            merged[key] = first if all(v == first for v in values.values()) else values
        sources = [raw.name for raw in self.raws]
        return with_told(merged, sources=sources, notes=list(self.notes))

    def costs(self, costs: Any, unit: str, kind: str | None, name: str) -> tuple[Cost, ...]:
        """Fix the costs of the cache, and put those per sample, cumulative, into the parts' arrays."""
        values, wanted = _stated_values(costs)
        exits = self.parts[0].lead.shape[1]
        found: dict[str, list[Array]] = {}  # by name, of each part
        for key in dict.fromkeys(key for part in self.parts for key in part.costs):
            lacking = [part.split for part in self.parts if key not in part.costs]
            if lacking:
                told = f"split {lacking[0]!r} does not state it"
                self.notes.append(f"cost {key!r} left out: {told}")
            else:
                found[name if key == "costs" else key] = [part.costs[key] for part in self.parts]
        if name in found:  # the nameless cost is the main one
            found = {name: found.pop(name), **found}
        if values is not None:
            if len(values) != exits:
                allowed = f"{exits} numbers, one per exit"
                raise input_error("costs", allowed, f"{len(values)}", "Give one per exit.")
            if found.pop(name, None) is not None:
                self.notes.append(f"costs of the file under {name!r} replaced by the ones given")
            found = {name: [np.asarray(values)] * len(self.parts), **found}
        if wanted is not None:
            wanted = name if wanted in ("costs", "cost") and wanted not in found else wanted
            if wanted not in found:
                allowed = "numbers such as 1,2,4"
                if found:
                    allowed += f", or a cost that the file names: one of {', '.join(found)}"
                unread = any(wanted in raw.unread for raw in self.raws)
                step = f"Say --key costs={wanted} instead." if unread else "E.g. --costs 1,2,4."
                raise input_error("costs", allowed, wanted, step)
            found = {wanted: found.pop(wanted), **found}
        if not found:
            more = self._like({(exits,), *((exits, len(p.lead)) for p in self.parts)})
            self.notes.append(
                f"NO COSTS STATED: counted in exits, 1..{exits}. A budget means little so: "
                f"pass --costs and --unit{more and f', or --key costs=KEY with {more}'} (rows: --key NAME_cost_usd=KEY)"
            )
            return (exit_counts(exits),)
        options = {key: text for raw in self.raws for key, text in raw.options.items()}
        kind = kind or options.get("cost_kind")
        if kind is None:
            kind, where = "cumulative", "where each is the cost of that exit alone"
            self.notes.append(f"costs read as cumulative; {where}, say --cost-kind standalone")
        check_cost_kind(kind)
        main = (name, next(iter(found)))
        units = {key: self._unit(key, unit, key in main, options.get("unit")) for key in found}
        return tuple(self._cost(key, each, kind, units[key]) for key, each in found.items())

    def _unit(self, key: str, given: str, main: bool, of_file: str | None) -> str:
        """Take the unit the user gives (for the main cost), else the key's, else the file's."""
        told = UNITS.get(key.rsplit("_", 1)[-1].lower()) if "_" in key else None
        found = given if given and (main or not told) else told or of_file
        if not found:
            self.notes.append(f"cost {key!r}: unit unknown, called 'units'; pass --unit")
        return found or "units"

    def _cost(self, key: str, per_part: list[Array], kind: str, unit: str) -> Cost:
        for part, array in zip(self.parts, per_part, strict=True):
            if array.dtype.kind not in "biuf":
                argument, got = f"{part.source}: {key}", f"dtype {array.dtype}"
                raise input_error(argument, "numbers", got, "Convert them.")
        rows = {tuple(a.tolist()) if a.ndim == 1 else None for a in per_part}
        if None not in rows:
            if len(rows) > 1:
                shown = " and ".join(str(row) for row in list(rows)[:2])
                raise input_error(f"cost {key}", "the same in every file", shown, "Pass --costs.")
            self._tell(key, np.array([next(iter(rows))]), kind)
            return Cost(key, unit, next(iter(rows)), kind)
        pairs = zip(self.parts, per_part, strict=True)
        full = [np.broadcast_to(array, part.lead.shape[:2]) for part, array in pairs]
        if sum(map(len, full)) > 1 and all((a == full[0][:1]).all() for a in full):
            self.notes.append(f"cost {key!r} is the same for every sample: kept per exit")
            self._tell(key, full[0][:1], kind)
            return Cost(key, unit, tuple(full[0][0].tolist()), kind)
        self._tell(key, np.concatenate(full), kind)
        for part, array in zip(self.parts, full, strict=True):
            where = f"{key} (split {part.split!r})"
            part.arrays[COST_PREFIX + key] = cumulative(array.astype(np.float64), kind, where)
        return Cost(key, unit, None, kind)

    def _tell(self, key: str, given: Array, kind: str) -> None:
        """Note what becomes of costs (N, K): added up, smoothed."""
        if kind == "cumulative" or not np.isfinite(given).all() or not given.shape[1]:
            return
        made = cumulative(given, kind, key)
        if kind == "standalone":
            old, new = (", ".join(f"{v:.4g}" for v in row[0][:4]) for row in (given, made))
            self.notes.append(
                f"cost {key!r} read as of each exit alone and added up, e.g. {old} become {new}"
            )
            return
        count = int((made != given).any(axis=1).sum())
        if count:
            which = f"{count} of {len(given)} rows" if len(given) > 1 else "the values"
            self.notes.append(f"cost {key!r} falls in {which}: smoothed (isotonic regression)")


def _stated_values(costs: Any) -> tuple[tuple[float, ...] | None, str | None]:
    """Read the user's `costs`: values, or the name of a cost in the file."""
    if costs is None:
        return None, None
    parts = costs.split(",") if isinstance(costs, str) else costs
    try:
        return tuple(float(part) for part in parts), None
    except (TypeError, ValueError):
        if isinstance(costs, str) and len(parts) == 1:
            return None, costs.strip()
    allowed = "numbers such as 1,2,4, or the name of a cost in the file"
    step = "Give one number per exit, separated by commas: --costs 1,2,4."
    raise input_error("costs", allowed, costs, step)
