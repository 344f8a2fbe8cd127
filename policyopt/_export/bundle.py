"""The folder of an export: a policy in every form asked for, golden vectors, and a manifest; written and read.

Version 1 of the manifest holds exactly these fields::

    format, version   "policyopt-export", 1
    score, answer, active_exits, kind, classes, unit, costs   as policy.json has them (score and answer
                      of the dearest level of a family, costs in the mean over levels)
    levels            how many a family has; null where it is none
    rows, boundary    samples in golden.npz and in boundary.npz
    left_out          {"rows": n, "of": candidates, "ulps": [...]}: candidates for golden.npz that were
                      left out, being so near to a threshold (K-1 numbers; 2**-23 of the larger of score,
                      threshold and 1) that rounding may decide; boundary.npz has some of them
    targets           {"c": {"ulps": 64}, ...}
    machine           {"numpy": ..., "features": [...], ...}: whose arithmetic gave the scores recorded
    files             {"policy.json": SHA-256, ...}: every file but the manifest
    sha256            of all the above in canonical form

The checksums tell damage and careless edits. They are no signature: who forges a folder can sign it anew.
So whatever follows from policy.json is compared with it besides.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policyopt._cache.data import ExitData
from policyopt._progress import report, working
from policyopt.runtime._checks import check_names
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._files import write_file
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._strict_json import Form, parse, read_plain

from .c_header import c_source, check_name, routes_source
from .folder import new_folder
from .golden import (
    Golden,
    LeftOut,
    exported,
    joined,
    levels_of,
    read_golden,
    row_bytes,
    write_golden,
)
from .graph import ExitGraph
from .onnx_graphs import graph_files, graphs_of, write_onnx
from .python_file import python_source
from .rounding import ULPS, check_machine, this_machine
from .routes import golden_routes
from .samples import boundary_samples, golden_of
from .symbolic import trace_policy

MANIFEST, POLICY, GOLDEN, BOUNDARY = "manifest.json", "policy.json", "golden.npz", "boundary.npz"
TARGETS = ("python", "onnx", "c")
EXPORT = Form(
    "the manifest of an export", "policyopt-export", 1,
    {
        "format": str, "version": int, "score": str, "answer": str, "levels": (int, type(None)),
        "active_exits": list, "kind": str, "classes": int, "unit": str, "costs": list,
        "rows": int, "boundary": int, "left_out": dict, "targets": dict, "machine": dict, "files": dict, "sha256": str,
    },
    "`policyopt export` writes one.", "Export anew, to another folder.",
)  # fmt: skip
#: Names of C headers, and the one of an export that names none.
_HEADER, _USUAL = re.compile(r"[a-z][a-z0-9_]{0,40}\.h"), "policyopt_policy.h"
_COMPILED = re.compile(r"__pycache__/policy\.[\w-]+(\.opt-\d)?\.pyc")
_MOST = 1 << 20
_MOST_FILE = 256 << 20


@dataclass(frozen=True, eq=False)
class Export:
    """A folder that was read and checked."""

    folder: Path
    policy: Any
    targets: tuple[str, ...]
    golden: Golden  # rows of golden.npz, then those of boundary.npz
    boundary: int  # how many of them are the latter
    left_out: LeftOut
    machine: Mapping[str, Any]  # that the scores were recorded on

    @property
    def same_machine(self) -> bool:
        """Whether this machine has the same arithmetic: then equality is asked."""
        return self.machine == this_machine()


@working("exporting")
def export(
    policy: Any, out: str | os.PathLike[str], to: str | Sequence[str] | None = None, *, data: ExitData | None = None,
    split: str = "test", rows: int = 512, name: str = "policyopt_policy", seed: int = 0,
) -> Export:  # fmt: skip
    """Write a policy for other runtimes, with golden vectors that `verify` runs.

    Parameters
    ----------
    policy : Policy, PolicyFamily, RoutingPolicy, or what a fit returned
    out : path
        Folder to write, whole or not at all; only an earlier export is replaced.
    to : str or sequence of str, optional
        Of ``python``, ``onnx`` and ``c``; default all that can be written here.
    data : ExitData, optional
        Take golden rows from its `split`; default made-up ones.
    rows : int
        Golden rows, at most.
    name : str
        Of the C header, and prefix of the names in it.
    seed : int
        Of the rows.

    Returns
    -------
    Export
        The folder, read and checked.

    Raises
    ------
    InputError
        A policy that has no exports, or a folder that is something else.

    Examples
    --------
    >>> import policyopt as po, tempfile
    >>> policy = po.Policy(po.make_score("max_prob"), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     made = po.export(policy, folder + "/exported", "python", rows=16)
    ...     [one.runtime for one in po.verify(made) if not one.absent][::3]
    ['numpy batch', 'python']
    """
    policy = exported(policy)
    wanted = to or installed_targets()
    row_bytes(policy, ())  # refuses, before the work, what is too large
    report(0, 2, "tracing the policy")
    if isinstance(policy, RoutingPolicy):
        graphs, golden = [], golden_routes(policy, data, split, rows, seed)
    else:
        graphs = trace_policy(policy)
        golden = golden_of(policy, graphs, data, split, rows, seed)
    report(1, 2, "writing")
    write_bundle(policy, Path(out), wanted, golden, graphs, name)
    return read_export(Path(out))


def installed_targets() -> list[str]:
    """Return the forms whose packages are there."""
    return [one for one in TARGETS if one != "onnx" or find_spec("onnx") is not None]


def write_bundle(
    policy: Any, out: Path, targets: str | Sequence[str], golden: Golden,
    graphs: list[ExitGraph] | None = None, name: str = "policyopt_policy",
) -> None:  # fmt: skip
    """Write the forms in `targets` with golden vectors, whole or not at all; only an earlier export is replaced."""
    policy, targets = exported(policy), check_names("targets", targets, "E.g. c.")
    if unknown := [t for t in targets if t not in TARGETS]:
        raise input_error("--to", f"of {', '.join(TARGETS)}", ", ".join(unknown), "E.g. --to c.")
    check_name(name)
    row_bytes(policy, graphs or ())  # before anything of that size is made
    plain = isinstance(policy, RoutingPolicy) and set(targets) == {"python"}  # the runtime's code
    graphs = graphs or ([] if plain else graphs_of(policy))
    with new_folder(out, _check_old) as folder:
        policy.save(folder / POLICY)
        boundary = boundary_samples(policy, golden) if golden.boundary is None else golden.boundary
        write_golden(golden, folder / GOLDEN)
        write_golden(boundary, folder / BOUNDARY)
        if "python" in targets:
            write_file(folder / "policy.py", python_source(policy, graphs))
        if "onnx" in targets:
            write_onnx(policy, graphs, folder / "onnx")
        if "c" in targets:
            routes = isinstance(policy, RoutingPolicy)
            source = routes_source(policy, name) if routes else c_source(policy, graphs, name)
            write_file(folder / f"{name}.h", source)
        files = {
            path.relative_to(folder).as_posix(): checksum(path)
            for path in sorted(folder.rglob("[!.]*")) if path.is_file()
        }  # fmt: skip
        left = golden.left_out
        content = {
            **_told(policy), "rows": len(golden), "boundary": len(boundary),
            "targets": {t: {"ulps": ULPS[t]} for t in targets},
            "left_out": {"rows": left.rows, "of": left.of, "ulps": list(left.ulps)},
            "machine": this_machine(), "files": files,
        }  # fmt: skip
        inside = {name: content[name] for name in EXPORT.fields if name in content}
        manifest = EXPORT.signed(**inside)
        write_file(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")


def _told(policy: Any) -> dict[str, Any]:
    """Return what the manifest says of the policy."""
    names = ("routing", "ensemble")
    if not isinstance(policy, RoutingPolicy):
        names = (one := levels_of(policy)[-1]).rule.name, one.answer.name
    return {
        "score": names[0], "answer": names[1],
        "levels": len(policy) if isinstance(policy, PolicyFamily) else None,
        "active_exits": list(policy.active_exits), "kind": policy.kind, "classes": policy.classes,
        "unit": policy.unit, "costs": policy.costs.tolist(),
    }  # fmt: skip


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


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_export(folder: Path) -> Export:
    """Read an export and check it, all but run it; refuse one that was changed since it was written."""
    manifest, policy = read_manifest(folder)
    golden = read_golden(folder / GOLDEN, policy, manifest["rows"])
    boundary = read_golden(folder / BOUNDARY, policy, manifest["boundary"])
    left, targets = manifest["left_out"], manifest["targets"]
    out = LeftOut(left["rows"], left["of"], tuple(left["ulps"]))
    ordered = tuple(target for target in TARGETS if target in targets)
    whole = joined(golden, boundary)
    return Export(folder, policy, ordered, whole, len(boundary), out, manifest["machine"])


def read_manifest(folder: Path) -> tuple[dict[str, Any], Any]:
    """Return the manifest and the policy of an export: whole, as it was written, nothing besides."""
    path = folder / MANIFEST
    if not path.is_file():
        raise input_error(
            "DIR", f"a folder that `policyopt export` wrote, with {MANIFEST}",
            f"{folder} without one" if folder.is_dir() else f"{folder} (no folder)", "Name its --out.",
        )  # fmt: skip
    manifest = parse(read_plain(path, MANIFEST, _MOST), MANIFEST, _MOST, EXPORT.again)
    EXPORT.check(manifest, MANIFEST)

    def need(name: str, fits: Any, allowed: str) -> None:
        if not fits:
            raise input_error(f"{name} of {MANIFEST}", allowed, manifest[name], EXPORT.again)

    files, targets, left = manifest["files"], manifest["targets"], manifest["left_out"]
    texts = all(isinstance(d, str) for d in files.values())
    need("files", texts, "a checksum by name")
    known = targets and targets.keys() <= set(TARGETS)
    need("targets", known, f"of {', '.join(TARGETS)}")
    for name, target in targets.items():
        need("targets", _same(target, ulps := {"ulps": ULPS[name]}), f"{ulps} of {name}")
    need("rows", _count(manifest["rows"], 1), "1 or more")
    need("boundary", _count(manifest["boundary"]), "0 or more")
    counts = left.keys() == {"rows", "of", "ulps"}
    counts = counts and _count(left["rows"]) and _count(left["of"]) and left["rows"] <= left["of"]
    need("left_out", counts, "rows of so many, and ulps")
    check_machine(manifest["machine"], f"machine of {MANIFEST}", EXPORT.again)
    _check_files(folder, files)
    policy = exported(load_any(folder / POLICY))
    for name, value in _told(policy).items():
        need(name, _same(manifest[name], value), f"{value!r}, as in {POLICY}")
    ulps, wanted = left["ulps"], len(policy.active_exits) - 1
    fits = isinstance(ulps, list) and len(ulps) in (0, wanted)
    fits = fits and all(type(u) in (int, float) and 0 <= u <= 64 for u in ulps)
    need("left_out", fits, f"{wanted} ulps, 0 to 64")
    headers = [name for name in files if _HEADER.fullmatch(name)]
    of = {
        "python": ["policy.py"], "c": headers if len(headers) == 1 else [_USUAL],
        "onnx": [f"onnx/{MANIFEST}", *(f"onnx/{name}" for name in graph_files(policy))],
    }  # fmt: skip
    names = {POLICY, GOLDEN, BOUNDARY, *(name for target in targets for name in of[target])}
    if differ := ", ".join(sorted(files.keys() ^ names)):
        allowed = "those of its targets"
        raise input_error(f"files of {MANIFEST}", allowed, f"other: {differ}", EXPORT.again)
    return manifest, policy


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Refuse files that are not those listed, byte for byte, and what is no file or folder."""
    found = set(_walk(folder)) - {MANIFEST}
    if lacking := sorted(files.keys() - found):
        raise InputError(f"'{lacking[0]}' is missing. {EXPORT.again}")
    if more := sorted(found - files.keys()):
        step = "Take it away."
        raise input_error("DIR", f"of files that {MANIFEST} lists", f"'{more[0]}' besides", step)
    for name, digest in files.items():
        path = folder / name
        if path.stat().st_size > _MOST_FILE or checksum(path) != digest:
            raise InputError(f"'{name}' was changed after it was written. {EXPORT.again}")


def _walk(folder: Path, before: str = "") -> list[str]:
    """Return the plain files inside a folder, by name; what Python compiled of policy.py is passed over."""
    found: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name, mode = before + entry.name, entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISDIR(mode):
                if name == "__pycache__":
                    inside = _walk(Path(entry.path), f"{name}/")
                    found += [one for one in inside if not _COMPILED.fullmatch(one)]
                    continue
                # No export is deeper: a folder there is told as what it is, one too many.
                found += [name] if before else _walk(Path(entry.path), f"{name}/")
            elif stat.S_ISREG(mode):
                found.append(name)
            else:
                got = f"{name} (a link, pipe or device)"
                raise input_error("DIR", "of plain files", got, EXPORT.again)
    return found


def _same(given: Any, wanted: Any) -> bool:
    """Whether parsed JSON is the same; true is no number, 1 is 1.0."""
    if isinstance(wanted, list):
        same = isinstance(given, list) and len(given) == len(wanted)
        return same and all(map(_same, given, wanted))
    if isinstance(wanted, dict):
        same = isinstance(given, dict) and given.keys() == wanted.keys()
        return same and all(_same(given[name], value) for name, value in wanted.items())
    return isinstance(given, bool) == isinstance(wanted, bool) and given == wanted


def _count(value: Any, least: int = 0) -> bool:
    return type(value) is int and value >= least
