"""A folder with a policy in every form asked for, its golden vectors, and a manifest with checksums."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policyopt.runtime._checks import check_names
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import policy_of, save_policy
from policyopt.runtime._files import write_file

from .c_header import c_source
from .folder import new_folder
from .golden import Golden, row_bytes, write_golden
from .graph import ExitGraph
from .manifest import EDGES, GOLDEN, MANIFEST, POLICY, TARGETS, checksum, manifest_of, read_manifest
from .onnx_folder import write_onnx
from .python_file import python_source
from .samples import edges_of
from .symbolic import trace_policy


def write_bundle(
    policy: Any, out: Path, targets: str | Sequence[str], golden: Golden,
    graphs: list[ExitGraph] | None = None, name: str = "policyopt_policy",
) -> None:  # fmt: skip
    """Write a policy, or the one of a fit, in the forms asked for; the folder appears whole or not at all.

    An earlier export at `out` is replaced; anything else is refused. `targets`: of `TARGETS`. `golden`: from
    `samples.golden_of`; where it has no edges, they are searched among its own rows. `name`: of the C
    header, and prefix of all names in it.
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
        if "python" in targets:
            write_file(folder / "policy.py", python_source(policy, graphs))
        if "onnx" in targets:
            write_onnx(policy, graphs, folder / "onnx")
        if "c" in targets:
            write_file(folder / f"{name}.h", c_source(policy, graphs, name))
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
