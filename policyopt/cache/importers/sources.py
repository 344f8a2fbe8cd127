"""The files of an import: which, read by which reader, and labels that stand apart."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from policyopt.cache.data import POOL, RESERVED
from policyopt.cache.importers.keys import Group
from policyopt.cache.importers.raw import Array, Raw, split_name
from policyopt.cache.manifest import MANIFEST
from policyopt.cache.orient import to_numpy
from policyopt.runtime.errors import input_error

#: One file each; loaded when a file of that kind comes.
READERS = {
    ".npz": "npz",
    ".npy": "npy",
    ".safetensors": "safetensors_file",
    ".pt": "torch_file",
    ".pth": "torch_file",
    ".csv": "csv_file",
    ".jsonl": "jsonl_file",
    ".parquet": "parquet_file",
}
_NAMED = re.compile(r"([A-Za-z0-9_.-]{1,64})=(.+)", re.DOTALL)


def listed(sources: Any) -> list[tuple[str | None, Path]]:
    """Divide ``SPLIT=PATH``; a file whose own name holds a ``=`` is let be.

    Examples
    --------
    >>> listed(["val=a.npz", "b.npz"])
    [('fit', PosixPath('a.npz')), (None, PosixPath('b.npz'))]
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    if not given:
        raise input_error(
            "SRC", "at least one file", "none", "E.g. policyopt import logits.npz --out DIR."
        )
    listed: list[tuple[str | None, Path]] = []
    for source in given:
        match = _NAMED.fullmatch(os.fspath(source))
        if match and not Path(source).exists():
            listed.append((split_name(match[1]), Path(match[2])))
        else:
            listed.append((None, Path(source)))
    return listed


def read_source(
    source: tuple[str | None, Path], allow_pickle: bool = False, argument: str = "SRC"
) -> tuple[str | None, Raw]:
    """Read a file with the reader for its suffix; see `import_sources` for the arguments.

    Examples
    --------
    >>> read_source((None, Path("a.doc")))
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'SRC' must be a file. Got a.doc (missing). Check the path.
    """
    split, path = source
    suffix = path.suffix.lower()
    if not path.is_file():
        step = "Name a file in it." if path.is_dir() else "Check the path."
        if (path / MANIFEST).exists():
            step = "A directory with a manifest.json is a cache already: use it as it is."
        got = f"{path} ({'a directory' if path.is_dir() else 'missing'})"
        raise input_error(argument, "a file", got, step)
    if suffix not in READERS:
        raise input_error(
            argument,
            f"a file of kind {' '.join(READERS)}",
            str(path),
            "Convert it, or write the cache from Python with policyopt.cache.CacheWriter.",
        )
    reader = import_module(f"policyopt.cache.importers.{READERS[suffix]}")
    return split, reader.read(path, allow_pickle) if suffix in (".pt", ".pth") else reader.read(
        path
    )


def label_arrays(labels: Any, allow_pickle: bool = False) -> dict[str | None, Array]:
    """Return the labels given apart, by split (None: for all that lack them).

    Examples
    --------
    >>> label_arrays({"test": [0, 1]})
    {'test': array([0, 1])}
    """
    if labels is None:
        return {}
    given = labels if isinstance(labels, Mapping) else {None: labels}
    arrays: dict[str | None, Array] = {}
    for split, value in given.items():
        if isinstance(value, (str, os.PathLike)):
            ((named, path),) = listed(value)
            split, raw = read_source((split or named, path), allow_pickle, "labels")
            keys = [k for k in ("labels", "outputs") if k in raw.arrays]
            if not keys:
                raise input_error(
                    "labels", "a file with the key labels, or a .npy", f"{path}", "Rename."
                )
            value = raw.arrays[keys[0]]
        arrays[split] = to_numpy("labels", value)
    return arrays


def share_labels(groups: list[Group], given: dict[str | None, Array], notes: list[str]) -> None:
    """Give labels to groups without their own: the ones passed, and to streams those of test.

    Examples
    --------
    >>> import numpy as np
    >>> stream = Group("fog", "a.npz", "logits", {"logits": np.zeros((2, 5, 3))}, "logits")
    >>> share_labels([stream], {None: np.arange(5)}, [])
    >>> stream.labels
    array([0, 1, 2, 3, 4])
    """
    splits = {g.split for g in groups}
    for split in given:
        if split is not None and split not in splits:
            raise input_error(
                "labels", f"for the splits {sorted(splits)}", f"for {split}", "Rename."
            )
    for g in groups:
        mine = given.get(g.split, given.get(None))
        if mine is not None and g.labels is None:
            g.labels = mine
    test = next((g.labels for g in groups if g.split == "test"), None)
    for g in groups:
        if g.labels is not None or test is None or g.split in (*RESERVED, POOL, "train"):
            continue
        if test.size in g.arrays[g.lead].shape[:2]:
            g.labels = test
            notes.append(f"{g.source}: stream {g.split!r} shares the labels of test")
        else:
            notes.append(f"{g.source}: stream {g.split!r} has no labels, nor as many rows as test")
