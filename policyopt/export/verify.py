"""Every runtime that is here, run on the golden vectors of an export, and compared."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.artifact import load_policy
from policyopt.runtime.errors import CheckError, InputError, bad
from policyopt.runtime.policy import Policy
from policyopt.runtime.strict_json import parse, read_plain

from .bundle import FORMAT, GOLDEN, MANIFEST, POLICY, TARGETS, VERSION, checksum
from .golden import Golden, Ran, expect, given_output

_MOST = 256 << 20  # bytes of a file of an export
_MOST_MANIFEST = 1 << 20
_FIELDS = {
    "format", "version", "score", "answer", "path", "kind", "classes", "unit", "costs", "rows",
    "targets", "files",
}  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What became of one runtime.

    Attributes
    ----------
    runtime : str
    absent : str
        Why it could not be run; empty where it was.
    rows : int
    error : float
        Largest difference of a score, in units of float32 rounding.
    """

    runtime: str
    absent: str = ""
    rows: int = 0
    error: float = 0.0


def verify(folder: Path) -> Iterator[Verdict]:
    """Check an export, runtime by runtime.

    Parameters
    ----------
    folder : Path

    Yields
    ------
    Verdict

    Raises
    ------
    InputError
        No export, or one that was changed since it was written.
    CheckError
        A runtime differs; the message names the first difference.
    """
    manifest = read_manifest(folder)
    policy = load_policy(folder / POLICY)
    golden = read_golden(folder / GOLDEN, policy)
    for name, run in (
        ("numpy batch", _batch),
        ("numpy step", _step),
        ("torch, survivors", run_torch),
    ):
        if name.startswith("torch") and find_spec("torch") is None:
            yield Verdict(name, "torch is not installed")
        else:
            yield _compared(name, run(policy, golden), golden, 0)
    for target in TARGETS:
        if target not in manifest["targets"]:
            continue
        try:
            found = RUNNERS[target](folder, golden)
        except Exception as error:  # whatever it is, this runtime does not do what the policy does
            text = f"{target}: does not run: {type(error).__name__}: {error}. Export anew."
            raise CheckError(text) from error
        if isinstance(found, str):
            yield Verdict(target, found)
        else:
            yield _compared(target, found, golden, manifest["targets"][target]["ulps"])


def _compared(runtime: str, ran: Ran, golden: Golden, ulps: int) -> Verdict:
    """Return the verdict; raises at the first difference."""
    wanted = golden.expected
    reached = np.arange(wanted.score.shape[1]) <= wanted.exit[:, None]
    for what, here, there in (
        ("exit", ran.leave, wanted.leave), ("answer", ran.prediction, wanted.prediction),
    ):  # fmt: skip
        _refuse(runtime, what, here != there, here, there)
    error = scaled_error(ran.score, wanted.score)
    _refuse(runtime, "score", ~(error <= ulps), ran.score, wanted.score)
    unsure = scaled_error(ran.confidence, wanted.confidence)
    _refuse(runtime, "confidence", ~(unsure <= ulps) & reached, ran.confidence, wanted.confidence)
    return Verdict(runtime, "", len(golden), float(error.max(initial=0.0)))


def scaled_error(score: Any, expected: Any) -> npt.NDArray[np.float64]:
    """Return differences of scores in units of float32 rounding (2**-23) of the larger of score and 1."""
    scale = np.maximum(np.abs(expected), 1.0) * 2.0**-23
    with np.errstate(invalid="ignore"):
        return np.where(score == expected, 0.0, np.abs(score - expected) / scale)


def _refuse(runtime: str, what: str, wrong: Any, here: Any, there: Any) -> None:
    if wrong.any():
        row, k = (int(x) for x in np.argwhere(wrong)[0])
        raise CheckError(
            f"{runtime}: {what} of golden row {row} at position {k} is {here[row, k]!r}, not "
            f"{there[row, k]!r} ({int(wrong.sum())} of {wrong.size} differ). Do not deploy it; export anew."
        )


def _batch(policy: Policy, golden: Golden) -> Ran:
    """All samples side by side, nobody leaves: as `expect`, against what the file says."""
    return expect(policy, golden.inputs, golden.sample).expected


def _step(policy: Policy, golden: Golden) -> Ran:
    """One sample after the other."""
    wanted = golden.expected
    out = Ran(
        *(np.empty_like(getattr(wanted, n)) for n in ("score", "confidence", "prediction", "leave"))
    )
    for row, number in enumerate(golden.sample):
        state = policy.start(int(number))
        for at, k in enumerate(policy.path):
            given = {name: array[row] for name, array in golden.inputs[at].items()}
            whole = {n: a if n in ("features", policy.kind) else a[None] for n, a in given.items()}
            output = given_output(policy, whole)
            seen = policy.step(k, output, state, given.get("features"))
            out.score[row, at], out.confidence[row, at] = seen.score, seen.confidence
            out.prediction[row, at], out.leave[row, at] = seen.prediction, seen.exit
    return out


def run_torch(policy: Policy, golden: Golden) -> Ran:
    """Torch tensors, survivors regrouped after every exit; exits that no one reached are as expected."""
    import torch

    wanted = golden.expected
    out = Ran(*(getattr(wanted, n).copy() for n in ("score", "confidence", "prediction", "leave")))
    state, rows = policy.start(golden.sample), np.arange(len(golden))
    for at, k in enumerate(policy.path):
        given: dict[str, Any] = {
            name: torch.from_numpy(np.ascontiguousarray(array[rows]))
            for name, array in golden.inputs[at].items()
        }
        if policy.kind == "record":
            given = {name: array.numpy() for name, array in given.items()}
        seen = policy.step(k, given_output(policy, given), state, given.get("features"))
        out.score[rows, at], out.confidence[rows, at] = seen.score, seen.confidence
        out.prediction[rows, at], out.leave[rows, at] = seen.prediction, seen.exit
        rows, state = rows[~seen.exit], state.keep(~seen.exit)
        if not len(rows):
            break
    return out


def _run_python(folder: Path, golden: Golden) -> Ran | str:
    from .python_run import run_python

    return run_python(folder / "policy.py", golden)


def _run_c(folder: Path, golden: Golden) -> Ran | str:
    from .c_run import NoCompiler, run_c

    try:
        return run_c(folder, golden)
    except NoCompiler as error:
        return str(error)


def _run_onnx(folder: Path, golden: Golden) -> Ran | str:
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'policyopt[onnx]'"
    from .onnx_run import run_onnx

    return run_onnx(folder / "onnx", golden)


RUNNERS: dict[str, Callable[[Path, Golden], Ran | str]] = {
    "python": _run_python, "onnx": _run_onnx, "c": _run_c,
}  # fmt: skip


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest; every file named in it is as it was written.

    Raises
    ------
    InputError
        Missing, not whole, or a file that was changed, added or taken away.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise bad(
            "DIR", "a folder that `policyopt export` wrote", str(folder), "It has manifest.json."
        )
    content = read_plain(path, MANIFEST, _MOST_MANIFEST)
    manifest = parse(content, MANIFEST, _MOST_MANIFEST, "Export anew.")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise bad(MANIFEST, f"of format '{FORMAT}'", "another file", "Export anew.")
    if manifest.get("version") != VERSION:
        raise bad(
            f"version of {MANIFEST}", str(VERSION), manifest.get("version"), "Update policyopt."
        )
    if manifest.keys() != _FIELDS:
        raise bad(
            f"fields of {MANIFEST}", ", ".join(sorted(_FIELDS)), sorted(manifest), "Export anew."
        )
    files, targets = manifest["files"], manifest["targets"]
    whole = (
        isinstance(files, dict) and {POLICY, GOLDEN} <= files.keys() and isinstance(targets, dict)
    )
    if (
        not whole
        or not targets.keys() <= set(TARGETS)
        or not all(isinstance(t, dict) and type(t.get("ulps")) is int for t in targets.values())
    ):
        raise bad(MANIFEST, "with files and targets", "something else", "Export anew.")
    for name, digest in files.items():
        where = PurePosixPath(name)
        if where.is_absolute() or ".." in where.parts:
            raise bad(f"a file of {MANIFEST}", "inside the folder", name, "Export anew.")
        file = folder / where
        if not file.is_file() or file.stat().st_size > _MOST or checksum(file) != digest:
            raise InputError(
                f"'{name}' is missing, or was changed after it was written. Export anew."
            )
    return manifest


def read_golden(path: Path, policy: Policy) -> Golden:
    """Return golden vectors, checked against the policy's shape."""
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, KeyError, EOFError) as error:
        raise bad(path.name, "an .npz of golden vectors", str(error), "Export anew.") from error
    try:
        expected = Ran(*(arrays.pop(n) for n in ("score", "confidence", "prediction", "leave")))
        sample = arrays.pop("sample")
    except KeyError as error:
        raise bad(path.name, "whole", f"no {error}", "Export anew.") from error
    inputs: list[dict[str, Any]] = [{} for _ in policy.path]
    for name, array in arrays.items():
        at, _, column = name.removeprefix("input").partition(":")
        if not at.isdigit() or int(at) >= len(inputs) or len(array) != len(sample):
            raise bad(path.name, "inputs of the policy's exits", name, "Export anew.")
        inputs[int(at)][column] = array
    if expected.score.shape != (len(sample), policy.exits):
        raise bad(path.name, f"of {policy.exits} exits", expected.score.shape, "Export anew.")
    return Golden(inputs, sample, expected)
