"""Golden vectors as an .npz, written and, from anyone, read."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import write_file
from policyopt.runtime.npz_file import check_zip, read_header, read_member
from policyopt.runtime.policy import Policy
from policyopt.runtime.strict_json import read_plain

from .golden import MOST_BYTES, Golden, Ran

_MOST = 256 << 20  # bytes of the file
#: Bytes of all arrays: twice what is written, since some rows at thresholds are added to others.
_MOST_UNPACKED = 2 * MOST_BYTES
_MOST_ROWS = 1 << 20
_HEADER = 10_128  # bytes of an array's header at most
_AGAIN = "Export anew."
#: Columns of a record: what must be there, and what may.
_RECORD = {"prediction": "<i4", "confidence": "<f8"}
_MORE = {"second": "<f8", "entropy": "<f8"}


def write_golden(golden: Golden, path: Path) -> None:
    """Write golden vectors as an .npz: keys ``input<position>:<name>``, ``sample``, and those of `Ran`.

    Raises
    ------
    InputError
        More than `read_golden` reads.
    """
    arrays: dict[str, Any] = {
        f"input{at}:{name}": array
        for at, given in enumerate(golden.inputs)
        for name, array in given.items()
    }
    expected = golden.expected
    size = sum(array.nbytes + _HEADER for array in arrays.values()) + 64 * expected.score.size
    if size > _MOST_UNPACKED or len(golden) > _MOST_ROWS:
        got = f"{len(golden)} rows, {size} bytes"
        raise input_error(
            "golden rows", f"of {_MOST_UNPACKED} bytes at most", got, "Fewer: --rows."
        )
    data = io.BytesIO()
    np.savez_compressed(
        data, allow_pickle=False, sample=golden.sample, score=expected.score, confidence=expected.confidence,
        prediction=expected.prediction, leave=expected.leave, **arrays,
    )  # fmt: skip
    write_file(path, data.getvalue())


def read_golden(path: Path, policy: Policy, rows: int | None = None) -> Golden:
    """Return golden vectors; name, shape and type of every array are checked before it is read.

    Parameters
    ----------
    path : Path
    policy : Policy
    rows : int, optional
        How many there are to be; default: as many as there are.

    Raises
    ------
    InputError
        Cut, damaged, too large, arrays that are not those of the policy's exits.
    """
    name = path.name
    data = read_plain(path, name, _MOST, _AGAIN)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            check_zip(archive, path, name)
            return _read(_Members(archive, name), policy, rows)
    except InputError:
        raise
    except Exception as error:  # zip, deflate and numpy raise many kinds on damaged files
        raise input_error(
            name, "an .npz of golden vectors", f"one that is damaged: {error}", _AGAIN
        ) from error


class _Members:
    """The arrays of an archive by name, read on request."""

    def __init__(self, archive: zipfile.ZipFile, file: str) -> None:
        self.archive, self.file = archive, file
        self.infos = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if sum(info.file_size for info in archive.infolist()) > _MOST_UNPACKED:
            raise input_error(file, f"of {_MOST_UNPACKED} bytes unpacked at most", "more", _AGAIN)

    def read(self, name: str, dtype: str, *shape: int | None) -> npt.NDArray[Any]:
        """Return an array of that type and shape; None: any number from 1 on."""
        label = f"{name} of {self.file}"
        info = self.infos.pop(name, None)
        if info is None:
            raise input_error(self.file, "whole", f"no '{name}'", _AGAIN)
        with self.archive.open(info) as file:
            known = None not in shape
            size = math.prod(n or 0 for n in shape) * np.dtype(dtype).itemsize
            if known and info.file_size > size + _HEADER:
                raise input_error(
                    label, f"{dtype} of shape {shape}", f"{info.file_size} bytes", _AGAIN
                )
            got, kind, _ = read_header(file, label)  # type: ignore[arg-type]
            fits = len(got) == len(shape) and all(
                (n == m) if m is not None else n > 0 for n, m in zip(got, shape, strict=True)
            )
            if kind != np.dtype(dtype) or not fits:
                wanted = tuple("any" if n is None else n for n in shape)
                raise input_error(
                    label, f"{dtype} of shape {wanted}", f"{kind} of shape {got}", _AGAIN
                )
            file.seek(0)
            return read_member(file, info, label)


def _read(members: _Members, policy: Policy, rows: int | None) -> Golden:
    given_size = members.infos["sample"].file_size if "sample" in members.infos else 0
    if (rows or 0) > _MOST_ROWS or given_size > 8 * _MOST_ROWS + _HEADER:
        raise input_error(members.file, f"of at most {_MOST_ROWS} rows", "more", _AGAIN)
    sample = members.read("sample", "<i8", rows)
    n, exits = len(sample), policy.exits
    inputs: list[dict[str, Any]] = []
    for at in range(exits):
        given: dict[str, Any] = {}
        if policy.kind == "record":
            more = {c: d for c, d in _MORE.items() if f"input{at}:{c}" in members.infos}
            for column, dtype in {**_RECORD, **more}.items():
                given[column] = members.read(f"input{at}:{column}", dtype, n)
        else:
            column = policy.kind
            given[column] = members.read(f"input{at}:{column}", "<f4", n, policy.classes)
        if policy.needs_features:
            given["features"] = members.read(f"input{at}:features", "<f4", n, None)
        inputs.append(given)
    expected = Ran(
        members.read("score", "<f8", n, exits),
        members.read("confidence", "<f8", n, exits),
        members.read("prediction", "<i4", n, exits),
        members.read("leave", "|b1", n, exits),
    )
    if members.infos:
        raise input_error(
            members.file, "of the policy's exits", f"'{min(members.infos)}' besides", _AGAIN
        )
    return Golden(inputs, sample, expected)
