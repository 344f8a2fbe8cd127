"""A folder with a policy in every form asked for, its golden vectors, and a manifest with checksums."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime.artifact import save_policy
from policyopt.runtime.errors import InputError, bad
from policyopt.runtime.policy import Policy

from .golden import Golden
from .graph import ExitGraph
from .tracing import trace_policy

FORMAT, VERSION = "policyopt-export", 1
MANIFEST, POLICY, GOLDEN = "manifest.json", "policy.json", "golden.npz"
TARGETS = ("python", "onnx", "c")
#: How far scores may be from those of the runtime: units of float32 rounding (2**-23) of the larger of
#: the score and 1. The Python file runs the runtime's own code. The others sum and take exponentials of
#: float32 in another order; exits and answers must be equal all the same.
ULPS = {"python": 0, "onnx": 64, "c": 64}


def write_bundle(
    policy: Policy, out: Path, targets: Sequence[str], golden: Golden,
    graphs: list[ExitGraph] | None = None, name: str = "policyopt_policy",
) -> None:  # fmt: skip
    """Write a policy in the forms asked for; the folder appears whole or not at all.

    Parameters
    ----------
    policy : Policy
    out : Path
        An earlier export in its place is replaced; anything else is refused.
    targets : sequence of str
        Of `TARGETS`.
    golden : Golden
    graphs : list of K ExitGraph, optional
    name : str
        Of the C header, and prefix of all names in it.

    Raises
    ------
    InputError
        Unknown target, a folder that is no export, a policy that cannot be exported.
    """
    unknown = [t for t in targets if t not in TARGETS]
    if unknown or not targets:
        raise bad(
            "--to", f"of {', '.join(TARGETS)}", ", ".join(unknown) or "nothing", "E.g. --to c."
        )
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise bad("--out", "a new folder, or an earlier export", f"{out}", "Name another folder.")
    graphs = trace_policy(policy) if graphs is None else graphs
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as made:
        folder = Path(made) / "export"
        folder.mkdir()
        save_policy(policy, folder / POLICY)
        write_golden(golden, folder / GOLDEN)
        for target in dict.fromkeys(targets):
            _WRITERS[target](policy, graphs, folder, name)
        files = {
            path.relative_to(folder).as_posix(): checksum(path)
            for path in sorted(folder.rglob("*")) if path.is_file()
        }  # fmt: skip
        manifest = {
            "format": FORMAT, "version": VERSION, "score": policy.rule.name,
            "answer": policy.answer.name, "path": list(policy.path), "kind": policy.kind,
            "classes": policy.classes, "unit": policy.unit, "costs": policy.costs.tolist(),
            "rows": len(golden), "targets": {t: {"ulps": ULPS[t]} for t in dict.fromkeys(targets)},
            "files": files,
        }  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        if out.exists():
            shutil.move(str(out), str(Path(made) / "old"))
        folder.rename(out)


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_golden(golden: Golden, path: Path) -> None:
    """Write golden vectors as an .npz: keys ``input<position>:<name>``, ``sample``, and those of `Ran`."""
    arrays: dict[str, Any] = {
        f"input{at}:{name}": array
        for at, given in enumerate(golden.inputs)
        for name, array in given.items()
    }
    expected = golden.expected
    np.savez_compressed(
        path, allow_pickle=False, sample=golden.sample, score=expected.score, confidence=expected.confidence,
        prediction=expected.prediction, leave=expected.leave, **arrays,
    )  # fmt: skip


def _python(policy: Policy, graphs: list[ExitGraph], folder: Path, name: str) -> None:
    from .python_file import python_source

    (folder / "policy.py").write_text(python_source(policy, graphs), encoding="utf-8")


def _c(policy: Policy, graphs: list[ExitGraph], folder: Path, name: str) -> None:
    from .c_header import c_source

    (folder / f"{name}.h").write_text(c_source(policy, graphs, name), encoding="utf-8")


def _onnx(policy: Policy, graphs: list[ExitGraph], folder: Path, name: str) -> None:
    try:
        from .onnx_graphs import write_onnx
    except ModuleNotFoundError as error:
        raise InputError(
            f"--to onnx needs the package '{error.name}', which is not installed. Install the extra "
            "that has it: pip install 'policyopt[onnx]'."
        ) from error
    write_onnx(policy, graphs, folder / "onnx")


_WRITERS: dict[str, Callable[[Policy, list[ExitGraph], Path, str], None]] = {
    "python": _python, "onnx": _onnx, "c": _c,
}  # fmt: skip
