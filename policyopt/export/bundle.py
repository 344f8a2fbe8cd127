"""A folder with a policy in every form asked for, its golden vectors, and a manifest with checksums."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from policyopt.runtime.artifact import save_policy
from policyopt.runtime.checks import check_names
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.experts import policy_of
from policyopt.runtime.files import write_file
from policyopt.runtime.policy import Policy

from .edges import edges_of
from .folder import new_folder
from .golden import Golden, row_bytes
from .golden_file import write_golden
from .graph import ExitGraph
from .manifest import (
    EDGES,
    GOLDEN,
    MANIFEST,
    POLICY,
    TARGETS,
    ULPS,
    checksum,
    manifest_of,
    read_manifest,
)
from .tracing import trace_policy

__all__ = ["TARGETS", "ULPS", "checksum", "write_bundle", "write_golden"]


def write_bundle(
    policy: Any, out: Path, targets: str | Sequence[str], golden: Golden,
    graphs: list[ExitGraph] | None = None, name: str = "policyopt_policy",
) -> None:  # fmt: skip
    """Write a policy in the forms asked for; the folder appears whole or not at all.

    Parameters
    ----------
    policy : Policy, or a fit that holds one
    out : Path
        An earlier export in its place is replaced; anything else is refused.
    targets : str or sequence of str
        Of `TARGETS`.
    golden : Golden
        From `samples.golden_of`; where it has no edges, they are searched among its own rows.
    graphs : list of K ExitGraph, optional
    name : str
        Of the C header, and prefix of all names in it.

    Raises
    ------
    InputError
        Unknown target, a folder that is no export, a policy that cannot be exported.
    """
    policy, targets = policy_of(policy, single=True), check_names("targets", targets, "E.g. c.")
    unknown = [t for t in targets if t not in TARGETS]
    if unknown:
        raise input_error("--to", f"of {', '.join(TARGETS)}", ", ".join(unknown), "E.g. --to c.")
    row_bytes(policy, graphs or ())  # before anything of that size is made
    graphs = trace_policy(policy) if graphs is None else graphs
    with new_folder(out, _check_old) as folder:
        save_policy(policy, folder / POLICY)
        edges = edges_of(policy, golden) if golden.edges is None else golden.edges
        write_golden(golden, folder / GOLDEN)
        write_golden(edges, folder / EDGES)
        for target in dict.fromkeys(targets):
            _WRITERS[target](policy, graphs, folder, name)
        files = {
            path.relative_to(folder).as_posix(): checksum(path)
            for path in sorted(folder.rglob("[!.]*")) if path.is_file()
        }  # fmt: skip
        manifest = manifest_of(policy, golden, len(edges), list(dict.fromkeys(targets)), files)
        write_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _check_old(out: Path) -> None:
    """Refuse to replace what `write_bundle` did not write, and files put beside it."""
    if out.is_dir() and not any(out.iterdir()):
        return
    try:
        read_manifest(out)
    except (InputError, OSError) as error:
        raise input_error(
            "--out", "a new folder, or an earlier export as it was written", f"{out} ({error})",
            "Name another folder, or take away what is there.",
        ) from error  # fmt: skip


def _python(policy: Policy, graphs: list[ExitGraph], folder: Path, name: str) -> None:
    from .python_file import python_source

    write_file(folder / "policy.py", python_source(policy, graphs))


def _c(policy: Policy, graphs: list[ExitGraph], folder: Path, name: str) -> None:
    from .c_header import c_source

    write_file(folder / f"{name}.h", c_source(policy, graphs, name))


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
