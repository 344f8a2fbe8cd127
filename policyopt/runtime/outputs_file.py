"""Reading new outputs for a policy from ``.npy`` and ``.npz``, with numpy alone."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import InputError, input_error
from .npz_file import Members, read_header
from .policy import Policy

if TYPE_CHECKING:
    from .experts import ExpertPolicy

_KEYS = {"logits": ("logits",), "probabilities": ("probs", "probabilities")}
_RECORD = {
    "prediction": ("pred", "prediction"),
    "confidence": ("conf", "confidence"),
    "entropy": ("entropy",),
    "top_prob": ("top_prob",),
}


def read_outputs(
    path: str | Path, policy: Policy | ExpertPolicy, axes: str | None = None
) -> list[Any]:
    """Return one entry per exit, as `Policy.decide` takes them.

    Parameters
    ----------
    path : path-like
        ``.npy`` with one array, or ``.npz`` with ``logits``, ``probs``, or records
        (``pred``, ``conf`` and what the policy's score needs besides).
    policy : Policy
        Says how many exits (all of the model's) and classes to expect.
    axes : {"KNC", "NKC"}, optional
        Default: found from the policy's number of exits; needed where both would do.

    Returns
    -------
    list of K arrays (N, C), or of K record mappings

    Raises
    ------
    InputError
        Not such a file, pickled content, or arrays that do not fit the policy.
    """
    path = Path(path)
    wanted = {key for keys in (*_KEYS.values(), *_RECORD.values()) for key in keys}
    arrays, keys = read_arrays(path, wanted)
    if not arrays:
        raise input_error(
            f"keys of {path.name}", f"among {', '.join(sorted(wanted))}", ", ".join(keys) or "none",
            "Rename the key of the outputs.",
        )  # fmt: skip
    with _named(path):
        return from_arrays(arrays, policy, axes, path.name)


def read_features(path: str | Path, policy: Policy | ExpertPolicy) -> list[Any] | None:
    """Return the feature vectors of new samples, as `Policy.decide` takes them.

    Parameters
    ----------
    path : path-like
        ``.npz`` with ``features_0``, ``features_1``, ..., (N, D_k) each: the exits that the
        policy runs must be there.
    policy : Policy

    Returns
    -------
    list of K arrays, or None
        None where the policy reads no features; None in place of exits that it skips.

    Raises
    ------
    InputError
        A key that is needed is missing, or no such file.
    """
    if not policy.needs_features:
        return None
    path = Path(path)
    wanted = [f"features_{k}" for k in policy.path]
    arrays, _ = read_arrays(path, set(wanted))
    missing = [key for key in wanted if key not in arrays]
    if missing:
        raise input_error(
            f"keys of {path.name}", f"with {', '.join(wanted)}", f"no {', '.join(missing)}",
            "The policy's score reads the model's feature vectors: save them in an .npz.",
        )  # fmt: skip
    return [arrays.get(f"features_{k}") for k in range(policy.model_exits)]


def read_arrays(
    path: str | os.PathLike[str], wanted: set[str]
) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    """Return the wanted arrays of an ``.npz`` and all its keys; that of an ``.npy`` has an empty key."""
    path = Path(path)
    if not path.is_file():
        raise input_error("outputs", "a file", str(path), "Give a .npy or .npz file.")
    if path.suffix not in (".npy", ".npz"):
        raise input_error(
            "outputs", "a .npy or .npz file", path.name, "Save the arrays with numpy.savez."
        )
    with _named(path):
        if path.suffix == ".npy":
            with path.open("rb") as file:
                size = read_header(file, path.name)[2]
            if size != path.stat().st_size:
                got = f"{path.stat().st_size} bytes"
                raise input_error(
                    path.name, f"of {size} bytes, as its header says", got, "Save it again."
                )
            return {"": np.load(path, mmap_mode="r", allow_pickle=False)}, [""]
        return _unpacked(path, wanted)


def _unpacked(path: Path, wanted: set[str]) -> tuple[dict[str, npt.NDArray[Any]], list[str]]:
    with zipfile.ZipFile(path) as archive:
        members = Members(archive, path, f"outputs in {path.name}")
        keys = {name.removesuffix(".npy"): name for name in members.infos}
        found = {
            key: members.read(keys[key], f"{key} in {path.name}") for key in keys if key in wanted
        }
        return found, list(keys)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what numpy raises on a damaged file into an error that names it."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # zip, deflate and numpy raise many kinds on damaged files
        raise input_error(
            f"outputs in {path.name}", "whole arrays of numbers", str(error), "Save them again."
        ) from error


def from_arrays(
    arrays: Mapping[str, npt.NDArray[Any]],
    policy: Policy | ExpertPolicy,
    axes: str | None,
    name: str,
) -> list[Any]:
    """Bring named arrays into one entry per exit (see `read_outputs`)."""
    if policy.kind == "record":
        columns = {}
        for field, keys in _RECORD.items():
            found = [arrays[key] for key in keys if key in arrays]
            if found:
                columns[field] = by_exit(found[0], policy, axes, f"{keys[0]} in {name}")
        missing = {"prediction", "confidence"} - columns.keys()
        if missing:
            raise input_error(
                f"outputs in {name}",
                "records with 'pred' and 'conf'",
                f"{sorted(arrays)}",
                "The policy was fitted on records.",
            )
        return [
            {field: column[k] for field, column in columns.items()}
            for k in range(policy.model_exits)
        ]
    for key in (*_KEYS[policy.kind], ""):
        if key in arrays:
            array = arrays[key]
            if array.ndim != 3 or array.shape[2] != policy.classes:
                raise input_error(
                    f"{key or 'array'} in {name}", f"3-dimensional with {policy.classes} classes last",
                    f"shape {array.shape}", "Take the outputs of the model that the policy was fitted on.",
                )  # fmt: skip
            return list(by_exit(array, policy, axes, f"{key or 'array'} in {name}"))
    raise input_error(
        f"outputs in {name}",
        f"an array '{_KEYS[policy.kind][0]}'",
        f"{sorted(arrays)}",
        "Rename the key.",
    )


def by_exit(
    array: npt.NDArray[Any], policy: Policy | ExpertPolicy, axes: str | None, name: str
) -> npt.NDArray[Any]:
    """Return the array with the exits first."""
    exits = policy.model_exits
    first, second = array.shape[0] == exits, array.ndim > 1 and array.shape[1] == exits
    order = (
        axes[:2] if axes else "KN" if first and not second else "NK" if second and not first else ""
    )
    if not order and first:
        raise input_error(
            "axes",
            "given where exits and samples are equally many",
            f"shape {array.shape}",
            "Say KNC or NKC.",
        )
    if axes and order not in ("KN", "NK"):
        raise input_error("axes", "KNC or NKC", axes, "K exits, N samples, C classes.")
    if not first and not second:
        raise input_error(
            name, f"with {exits} exits on one of its first two axes", f"shape {array.shape}",
            "Take all exits of the model that the policy was fitted on.",
        )  # fmt: skip
    if (order == "KN" and not first) or (order == "NK" and not second):
        fits = "KNC" if first else "NKC"
        raise input_error(
            "axes",
            f"{fits} for {name}",
            axes,
            f"It has K = {exits} exits in shape {array.shape}; say --axes {fits}.",
        )
    return array if order == "KN" else array.swapaxes(0, 1)
