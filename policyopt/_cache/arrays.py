"""`from_arrays`: an `ExitData` from arrays in memory, checked as a cache on disk is; `summarise`: logits made small."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from policyopt._cache import blocks, data
from policyopt._cache.data import CONTEXT, COST_PREFIX, POOL, ExitData, Layout, Rows
from policyopt._cache.files import sha256_arrays
from policyopt._cache.manifest import check_metadata, fingerprint, with_told
from policyopt._costs import Cost, cumulative, exit_counts
from policyopt._measures import measure_of
from policyopt.runtime._checks import check_seed, check_type, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._outputs import TOP, ExitOutput, reduce_logits
from policyopt.runtime._sparse import SPARSE
from policyopt.runtime._typing import Array

#: The arrays that show n and K.
_LEADS = ("outputs", "confidence", "top_prob", "top_logits", *blocks.WORTH, data.QUERY)
_ROW_ARRAYS = (
    "outputs", "labels", "quality", *blocks.SUMMARY_ARRAYS, "sample_costs", "features", "context", "group",
    "query", "variances", *SPARSE,
)  # fmt: skip


def from_arrays(
    outputs: Any = None,
    labels: Any = None,
    costs: Any = None,
    *,
    unit: str = "",
    cost_kind: str = "cumulative",
    cost_name: str | None = None,
    sample_costs: Mapping[str, Any] | None = None,
    kind: str | None = None,
    axes: str | None = None,
    split: Mapping[str, float] | None = None,
    seed: int = 0,
    prediction: Any = None,
    confidence: Any = None,
    top_prob: Any = None,
    entropy: Any = None,
    correct: Any = None,
    quality: Any = None,
    classes: int | None = None,
    dtype: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    splits: Mapping[str, Mapping[str, Any]] | None = None,
    features: Sequence[Any] | None = None,
    context: Any = None,
    contexts: Sequence[str] | None = None,
    group: Any = None,
    query: Any = None,
    variances: Any = None,
    top_logits: Any = None,
    top_classes: Any = None,
    rest: Any = None,
    quality_of: str | None = None,
    error_scale: float | None = None,
) -> ExitData:
    """Make an `ExitData` from arrays: one pool to be divided, or named splits.

    Arrays are copied, so that writing to them afterwards changes nothing here. Read-only ones are
    shared where their type allows, such as large files that numpy maps with ``mmap_mode="r"``.

    Parameters
    ----------
    outputs : array of shape (n, K, C), or sequence of K arrays of shape (n, C)
        Logits or probabilities; numpy or torch. Leave out for summaries. Of one number per row and
        exit (``logit``, ``regression``), (n, K) does, too.
    labels : array of shape (n,), optional
        Whole numbers in [0, C), -1 where unknown; of `multilabel` (n, C), 0 and 1; of a regression the
        true values, (n,) or (n, D).
    costs : K numbers, (n, K) array, Cost, or sequence of Cost, optional
        Without it, costs are 1..K in the unit "exits" (noted in the metadata).
    unit : str, default ""
        Unit of numbers given as `costs`; "" becomes "units".
    cost_kind : {"cumulative", "standalone", "measured"}, default "cumulative"
        How numbers in `costs` and `sample_costs` are given, see `Cost`.
    cost_name : str, optional
        Name of the numbers given as `costs`; default "cost".
    sample_costs : mapping of str to array of shape (n, K), optional
        Further costs per sample; units from a Cost of that name in `costs`, else `unit`.
    kind : str, optional
        ``logits``, ``probabilities`` or ``summary`` are detected by a check of the values where not given;
        ``logit``, ``multilabel`` and ``regression`` are declared (see `CacheWriter`): of the first two
        numbers that are all in [0, 1] are taken for their sigmoids.
    axes : str, optional
        Order of the axes N, K, C in every array. Default NKC; KNC is taken where only that
        fits the length of the labels.
    split : mapping of str to float, optional
        Shares of the pool; default ``{"fit": 0.5, "test": 0.5}``.
    seed : int, default 0
        Seed of that division.
    prediction, confidence, top_prob, entropy, correct, quality, features, context : array, optional
        Summaries, graded quality, feature vectors, numbers of contexts, see `CacheWriter.append`, as of `top_logits`.
    classes : int, optional
        C, for summaries.
    dtype : {"float16", "float32", "float64"}, optional
        Storage type; default keeps float16, makes all other outputs float32.
    metadata : mapping, optional
        Free, JSON-able.
    splits : mapping of str to mapping, optional
        Named splits instead of a pool: each a mapping with the row arrays above by name, e.g.
        ``{"fit": {"outputs": ..., "labels": ...}, "test": {...}}``.
    contexts : sequence of str, optional
        Names of the contexts, from 0 on; default "0", "1", ...
    group : array of shape (n,), optional
        Whole numbers or names of what rows belong to, see `CacheWriter.append`. Without it, equal rows of a pool are
        such groups (noted in the metadata).
    query : array of shape (n, D) or (n,), optional
        What is known of a row before any model is asked, see `CacheWriter.append`.
    variances : array as `outputs`, optional
        Of a regression: predicted variances of its values.
    quality_of, error_scale : optional
        Worth of sets of labels, and of values, see `CacheWriter`.

    Returns
    -------
    ExitData

    Raises
    ------
    InputError
        As `CacheWriter.append`; also overlapping splits.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> data = from_arrays(
    ...     rng.normal(size=(100, 3, 10)), rng.integers(0, 10, 100), costs=[1, 2, 4], unit="MMACs"
    ... )
    >>> data.kind, data.split_names, data.cost().values
    ('logits', ('fit', 'test'), (1.0, 2.0, 4.0))
    """
    given = {name: value for name, value in dict(locals()).items() if name in _ROW_ARRAYS}
    seed, notes = check_seed(seed), list[str]()
    groups = _groups({k: v for k, v in given.items() if v is not None}, splits, split)
    if costs is not None and not _are_costs(costs):
        costs = blocks.to_numpy("costs", costs)
        if costs.ndim == 2:  # what they are: costs per sample of the one pool
            if list(groups) != [POOL]:
                step = "Give sample_costs with each split."
                allowed = "of shape (K,) with named splits"
                raise input_error("costs", allowed, f"shape {costs.shape}", step)
            moved = {cost_name or "cost": costs}
            groups[POOL]["sample_costs"] = moved | groups[POOL].get("sample_costs", {})
            costs = None
    kind = blocks.kind_with(kind, any("variances" in arrays for arrays in groups.values()))
    oriented = {n: _oriented(a, axes, kind, n, notes, classes or 0) for n, a in groups.items()}
    leads = [next(b[n] for n in _LEADS if n in b) for b in oriented.values()]
    per_sample = [n for b in oriented.values() for n in b if n.startswith(COST_PREFIX)]
    names = dict.fromkeys(n.removeprefix(COST_PREFIX) for n in per_sample)
    stated = _costs(costs, unit, cost_kind, cost_name, leads[0].shape[1], names, notes)
    kind = blocks.after_sigmoid(kind, oriented.values(), notes)
    kind = kind or blocks.detect_kind(next(iter(oriented.values())).get("outputs"))
    measure = measure_of(blocks.known_kind(kind), quality_of, error_scale)
    for name, block in oriented.items():
        if kind == "logits" and "outputs" in block:
            notes += blocks.sigmoids_as_logits(block["outputs"], f"split {name}")
        notes += blocks.summary_notes(f"split {name}", block)
        notes += blocks.truth_notes(f"split {name}", block, kind)
    named = blocks.name_contexts(contexts, [b.get(CONTEXT) for b in oriented.values()])
    stored = dtype or blocks.natural_dtype(kind, leads)
    layout = Layout(kind, 0, classes or 0, stored, stated, contexts=named, measure=measure)
    rows, checksums = {}, []
    for name, arrays in oriented.items():
        for key in arrays:
            if key.startswith(COST_PREFIX):
                cost = key.removeprefix(COST_PREFIX)
                arrays[key] = cumulative(arrays[key], cost_kind, cost)
        layout, block = blocks.normalise(layout, arrays, "NKC", name)
        kept = {
            k: (blocks.own if v.flags.writeable else blocks.store)(layout, k, v).view()
            for k, v in block.items()
        }
        for array in kept.values():
            array.flags.writeable = False
        rows[name] = Rows((kept,))
    for name, group in data.equal_rows(rows, notes).items():
        group.flags.writeable = False
        rows[name] = Rows(({**rows[name].blocks[0], data.GROUP: group},))
    for name, one in rows.items():
        checksums.append((name, sha256_arrays(one.blocks[0])))
        rows[name] = Rows((data.filled(dict(one.blocks[0])),))
    shares = data.check_shares(split or data.DEFAULT_SHARES) if POOL in rows else {}
    told = with_told(check_metadata(metadata), **({"notes": notes} if notes else {}))
    return data.to_data(layout, rows, shares, seed, told, fingerprint(checksums, layout))


def summarise(logits: Any, top: int = TOP) -> dict[str, Array]:
    """Reduce logits to the summary that `CacheWriter.append` takes, by the arithmetic of policies that serve.

    Parameters
    ----------
    logits : array of shape (..., C), or sequence of K arrays of shape (n, C)
        Numpy or torch; read a few rows at a time.
    top : int, default 2
        T, how many of the largest probabilities to return.

    Returns
    -------
    dict
        ``prediction`` (...), int32; ``top_prob`` (..., T) and, in nats, ``entropy`` (...), float64. Of K arrays (n, K).

    Raises
    ------
    InputError
        No axis of classes, or a row without a finite largest value.

    Examples
    --------
    >>> kept = summarise(np.random.default_rng(0).normal(size=(100, 3, 5000)))  # (n, K, C)
    >>> {name: array.shape for name, array in kept.items()}
    {'prediction': (100, 3), 'top_prob': (100, 3, 2), 'entropy': (100, 3)}
    """
    if isinstance(logits, (list, tuple)):
        parts = [summarise(one, top) for one in logits]
        return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}
    shape: tuple[int, ...] = tuple(getattr(logits, "shape", ()))
    if len(shape) < 2 or 0 in shape:
        raise input_error("logits", "of shape (..., C)", f"shape {shape}", "Classes come last.")
    top, each = check_whole("top", top), max((1 << 17) * len(logits) // int(np.prod(shape)), 1)
    seen = list[ExitOutput]()
    for low in range(0, len(logits), each):  # as many as stay in a core's cache
        part = blocks.to_numpy("logits", logits[low : low + each])
        seen.append(reduce_logits(part.reshape(-1, part.shape[-1]), top, name="logits"))
    names = ("prediction", "top_prob", "entropy")
    found = {name: np.concatenate([getattr(one, name) for one in seen]) for name in names}
    return {name: array.reshape(shape[:-1] + array.shape[1:]) for name, array in found.items()}


def _groups(
    whole: dict[str, Any], splits: Mapping[str, Mapping[str, Any]] | None, shares: Any
) -> dict[str, dict[str, Any]]:
    """Return the row arrays by split name."""
    if splits is None:
        if not set(_LEADS) & set(whole):
            raise input_error(
                "outputs", "given (confidence= or quality= of summaries)", "none", "Pass them."
            )
        return {POOL: whole}
    if whole or shares is not None:
        got = f"also {sorted(whole) or 'split'}"
        raise input_error("splits", "given alone", got, "Move it inside.")
    if not isinstance(splits, Mapping) or not splits:
        raise input_error("splits", "a mapping of split to arrays", splits, "E.g. {'fit': {...}}.")
    groups = {}
    for name, arrays in splits.items():
        argument = f"splits[{data.check_name('split', name)!r}]"
        check_type(argument, arrays, Mapping, "a mapping of array names to arrays")
        odd = sorted(set(arrays) - set(_ROW_ARRAYS))
        if odd:
            raise input_error(argument, f"of {', '.join(_ROW_ARRAYS)}", f"{odd}", "Rename.")
        groups[name] = {k: v for k, v in arrays.items() if v is not None}
        if not set(_LEADS) & set(groups[name]):
            raise input_error(argument, "with outputs, confidence or quality", f"{sorted(arrays)}")
    return groups


def _are_costs(costs: Any) -> bool:
    if isinstance(costs, Sequence) and not isinstance(costs, str) and costs:
        return all(isinstance(c, Cost) for c in costs)
    return isinstance(costs, Cost)


def _oriented(
    arrays: Mapping[str, Any], axes: str | None, kind: str | None, split: str, notes: list[str], classes: int
) -> dict[str, Array]:  # fmt: skip
    """Return the row arrays rows first, by the axes given or those that fit the labels."""
    read = None if kind is None else KINDS[blocks.known_kind(kind)]
    block = blocks.orient(arrays, axes or "NKC", read, classes)
    lead = next(block[n] for n in _LEADS if n in block)
    n = next((len(block[name]) for name in ("labels", data.TARGETS) if name in block), len(lead))
    if axes is None and len(lead) != n and lead.shape[1] == n:
        notes.append(f"split {split}: axes read as KNC, which fits the {n} labels")
        block = blocks.orient(arrays, "KNC", read, classes)
    return block


def _costs(
    costs: Any, unit: str, kind: str, name: str | None, exits: int, per_sample: Iterable[str],
    notes: list[str],
) -> tuple[Cost, ...]:  # fmt: skip
    """Return every cost declared, those per sample last."""
    stated: list[Cost] = []
    if _are_costs(costs):
        stated = [costs] if isinstance(costs, Cost) else list(costs)
    elif costs is not None:
        stated = [Cost(name or "cost", unit or "units", costs, kind)]
    known = {c.name for c in stated}
    if kind == "standalone":  # numbers per sample are given so too
        stated = [replace(c, cascade=True) if c.per_sample else c for c in stated]
    stated += [Cost(n, unit or "units", None, kind) for n in per_sample if n not in known]
    if not stated:
        notes.append("no costs given: counted in exits, 1..K; pass costs= and unit=")
        stated = [exit_counts(exits)]
    return tuple(stated)
