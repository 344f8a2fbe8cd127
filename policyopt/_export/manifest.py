"""The manifest of an export: what is in the folder, and that it is what was written.

Version 1 holds exactly these fields::

    format, version   "policyopt-export", 1
    score, answer, path, kind, classes, unit, costs   as policy.json has them
    rows, edges       samples in golden.npz and in edges.npz
    left_out          {"rows": n, "of": candidates, "ulps": [...]}: candidates for golden.npz that were
                      left out, being so near to a threshold (K-1 numbers; 2**-23 of the larger of score,
                      threshold and 1) that rounding may decide; edges.npz has some of them
    targets           {"c": {"ulps": 64}, ...}
    machine           {"numpy": ..., "features": [...], ...}: whose arithmetic gave the scores recorded
    files             {"policy.json": SHA-256, ...}: every file but the manifest
    sha256            of all the above in canonical form

The checksums tell damage and careless edits. They are no signature: who forges a folder can sign it anew.
So whatever follows from policy.json is compared with it besides.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policyopt._thresholds import degenerate_scores
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._policy import Policy, load_policy
from policyopt.runtime._strict_json import digest_of, parse, read_plain

from .golden import Golden
from .rounding import check_machine, this_machine

FORMAT, VERSION = "policyopt-export", 1
MANIFEST, POLICY, GOLDEN, EDGES = "manifest.json", "policy.json", "golden.npz", "edges.npz"
TARGETS = ("python", "onnx", "c")
#: How far scores may be from those of the runtime: units of float32 rounding (2**-23) of the larger of
#: the score and 1. The Python file runs the runtime's own code. The others sum and take exponentials of
#: float32 in another order; exits and answers must be equal all the same.
ULPS = {"python": 0, "onnx": degenerate_scores.ULPS, "c": degenerate_scores.ULPS}
FIELDS = (
    "format", "version", "score", "answer", "path", "kind", "classes", "unit", "costs", "rows",
    "edges", "left_out", "targets", "machine", "files", "sha256",
)  # fmt: skip
#: Names of C headers, and the one of an export that names none.
_HEADER, _USUAL = re.compile(r"[a-z][a-z0-9_]{0,40}\.h"), "policyopt_policy.h"
_COMPILED = re.compile(r"__pycache__/policy\.[\w-]+(\.opt-\d)?\.pyc")
_MOST = 1 << 20
_MOST_FILE = 256 << 20
_AGAIN = "Export anew, to another folder."


def manifest_of(
    policy: Policy, golden: Golden, edges: int, targets: Sequence[str], files: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest, signed; `edges`: samples at the thresholds, `files`: checksum by name."""
    left = golden.left_out
    content = {
        "format": FORMAT, "version": VERSION, **_told(policy), "rows": len(golden), "edges": edges,
        "left_out": {"rows": left.rows, "of": left.of, "ulps": list(left.ulps)},
        "targets": {t: {"ulps": ULPS[t]} for t in targets}, "machine": this_machine(),
        "files": dict(files),
    }  # fmt: skip
    return {**content, "sha256": digest_of(content)}


def _told(policy: Policy) -> dict[str, Any]:
    """Return what the manifest says of the policy."""
    return {
        "score": policy.rule.name, "answer": policy.answer.name, "path": list(policy.path),
        "kind": policy.kind, "classes": policy.classes, "unit": policy.unit,
        "costs": policy.costs.tolist(),
    }  # fmt: skip


def files_of(policy: Policy, targets: Sequence[str], header: str = _USUAL) -> set[str]:
    """Return the names of the files that an export holds, but the manifest's."""
    of = {
        "python": ["policy.py"], "c": [header],
        "onnx": ["onnx/manifest.json", *(f"onnx/exit_{k}.onnx" for k in policy.path)],
    }  # fmt: skip
    return {POLICY, GOLDEN, EDGES, *(name for target in targets for name in of[target])}


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> tuple[dict[str, Any], Policy]:
    """Return the manifest and the policy of an export: whole, as it was written, nothing besides."""
    path = folder / MANIFEST
    if not path.is_file():
        raise input_error(
            "DIR", "a folder that `policyopt export` wrote", str(folder), "It has manifest.json."
        )
    manifest = parse(read_plain(path, MANIFEST, _MOST), MANIFEST, _MOST, _AGAIN)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise input_error(MANIFEST, f"of format '{FORMAT}'", "another file", _AGAIN)
    if not _same(version := manifest.get("version"), VERSION):
        raise input_error(f"version of {MANIFEST}", str(VERSION), version, "Update policyopt.")
    if manifest.keys() != set(FIELDS):
        raise input_error(f"fields of {MANIFEST}", ", ".join(FIELDS), sorted(manifest), _AGAIN)
    told = {name: value for name, value in manifest.items() if name != "sha256"}
    if manifest["sha256"] != digest_of(told):
        raise input_error(MANIFEST, "as it was written", "a sha256 that differs", _AGAIN)
    _check_parts(manifest)
    _check_files(folder, manifest["files"])
    policy = load_policy(folder / POLICY)
    _check_policy(manifest, policy)
    return manifest, policy


def _need(manifest: dict[str, Any], name: str, fits: bool, allowed: str) -> None:
    if not fits:
        raise input_error(f"{name} of {MANIFEST}", allowed, manifest[name], _AGAIN)


def _check_parts(manifest: dict[str, Any]) -> None:
    """Refuse what no policy is needed to judge."""
    files, targets, left = manifest["files"], manifest["targets"], manifest["left_out"]
    texts = isinstance(files, dict) and all(isinstance(d, str) for d in files.values())
    _need(manifest, "files", texts, "a checksum by name")
    known = isinstance(targets, dict) and targets and targets.keys() <= set(TARGETS)
    _need(manifest, "targets", bool(known), f"of {', '.join(TARGETS)}")
    for name, target in targets.items():
        ulps = {"ulps": ULPS[name]}
        _need(manifest, "targets", _same(target, ulps), f"{ulps} of {name}")
    for name, least in (("rows", 1), ("edges", 0)):
        _need(manifest, name, _count(manifest[name], least), f"{least} or more")
    whole = isinstance(left, dict) and left.keys() == {"rows", "of", "ulps"}
    whole = whole and _count(left["rows"]) and _count(left["of"]) and left["rows"] <= left["of"]
    _need(manifest, "left_out", whole, "rows of so many, and ulps")
    check_machine(manifest["machine"], f"machine of {MANIFEST}", _AGAIN)


def _check_files(folder: Path, files: dict[str, str]) -> None:
    """Refuse files that are not those listed, byte for byte, and what is no file or folder."""
    found = set(_walk(folder)) - {MANIFEST}
    if lacking := sorted(files.keys() - found):
        raise InputError(f"'{lacking[0]}' is missing. {_AGAIN}")
    if more := sorted(found - files.keys()):
        step = "Take it away."
        raise input_error("DIR", f"of files that {MANIFEST} lists", f"'{more[0]}' besides", step)
    for name, digest in files.items():
        path = folder / name
        if path.stat().st_size > _MOST_FILE or checksum(path) != digest:
            raise InputError(f"'{name}' was changed after it was written. {_AGAIN}")


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
                raise input_error(
                    "DIR", "of plain files", f"{name} (a link, pipe or device)", _AGAIN
                )
    return found


def _check_policy(manifest: dict[str, Any], policy: Policy) -> None:
    """Refuse what differs from the policy, and files that are not those of the targets."""
    for name, value in _told(policy).items():
        _need(manifest, name, _same(manifest[name], value), f"{value!r}, as in {POLICY}")
    ulps, wanted = manifest["left_out"]["ulps"], policy.exits - 1
    fits = isinstance(ulps, list) and len(ulps) in (0, wanted)
    fits = fits and all(type(u) in (int, float) and 0 <= u <= 64 for u in ulps)
    _need(manifest, "left_out", fits, f"{wanted} ulps, 0 to 64")
    headers = [name for name in manifest["files"] if _HEADER.fullmatch(name)]
    header = headers[0] if len(headers) == 1 else _USUAL
    names = files_of(policy, list(manifest["targets"]), header)
    if differ := ", ".join(sorted(manifest["files"].keys() ^ names)):
        allowed = "those of its targets"
        raise input_error(f"files of {MANIFEST}", allowed, f"other: {differ}", _AGAIN)


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
