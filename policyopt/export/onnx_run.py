"""The ONNX export run on golden vectors, exit by exit, by onnxruntime on the CPU."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.cache.files import open_regular
from policyopt.runtime.artifact import read_json
from policyopt.runtime.errors import input_error

from .golden import Golden, Ran, few_at_a_time, rows_of
from .onnx_manifest import FORMAT, GIVEN, MANIFEST, VERSION

_MOST = 1 << 30  # bytes of one graph: a protobuf holds no more than twice that
_NAME = re.compile(r"exit_\d{1,4}\.onnx")


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of an ONNX export.

    Parameters
    ----------
    folder : path-like

    Raises
    ------
    InputError
        None there, or of another format or version.
    """
    manifest = read_json(Path(folder) / MANIFEST)
    again = "Export the policy again."
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise input_error("manifest", f"of format {FORMAT}", type(manifest).__name__, again)
    if manifest.get("version") != VERSION:
        raise input_error("manifest", f"of version {VERSION}", manifest.get("version"), again)
    entries = manifest.get("exits")
    if not isinstance(entries, list) or not entries or not all(map(_whole, entries)):
        raise input_error(
            "exits of the manifest", "one entry per exit: file, sha256, states", entries, again
        )
    return manifest


def _whole(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("file"), str)
        and _NAME.fullmatch(entry["file"]) is not None
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("states"), list)
        and all(
            isinstance(s, dict)
            and isinstance(s.get("output"), str)
            and isinstance(s.get("input"), str)
            for s in entry["states"]
        )
    )


def open_sessions(folder: str | os.PathLike[str], manifest: dict[str, Any]) -> list[Any]:
    """Return one onnxruntime session per exit, its file checked against the manifest's checksum.

    Parameters
    ----------
    folder : path-like
    manifest : dict
        From `read_manifest`.

    Raises
    ------
    InputError
        The package onnxruntime is not there; a file is missing, too large or another than the manifest's.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise input_error(
            "onnxruntime", "installed", "no such package", "pip install 'policyopt[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    sessions = []
    for entry in manifest["exits"]:
        with os.fdopen(open_regular(Path(folder) / entry["file"], entry["file"]), "rb") as file:
            data = file.read(_MOST + 1)
        if len(data) > _MOST or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise input_error(
                entry["file"], "the file that the manifest names, byte for byte",
                "another checksum", "Export the policy again.",
            )  # fmt: skip
        sessions.append(
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        )
    return sessions


def run_onnx(folder: str | os.PathLike[str], golden: Golden) -> Ran:
    """Return what an ONNX export says of golden vectors, of every sample at every exit.

    Parameters
    ----------
    folder : path-like
        Written by `policyopt.export.onnx_graphs.write_onnx`.
    golden : Golden

    Returns
    -------
    Ran

    Raises
    ------
    InputError
        As `open_sessions`; golden vectors of another number of exits, without an input that a graph
        takes, or with logits that have no finite largest (the graphs do not look for these).
    """
    manifest = read_manifest(folder)
    sessions, entries = open_sessions(folder, manifest), manifest["exits"]
    n, exits = len(golden), len(sessions)
    if len(golden.inputs) != exits:
        raise input_error(
            "golden", f"of {exits} exits", len(golden.inputs), "They belong to another policy."
        )
    score, confidence = np.empty((n, exits)), np.empty((n, exits))
    prediction, leave = np.empty((n, exits), np.int32), np.empty((n, exits), bool)
    for part in few_at_a_time(golden.inputs, n):
        left: dict[str, Any] = {}
        inputs = rows_of(golden.inputs, part)
        for at, (session, entry, given) in enumerate(zip(sessions, entries, inputs, strict=True)):
            known = {**given, **{GIVEN + name: column for name, column in given.items()}}
            known["sample"] = golden.sample[part]
            known |= {state["input"]: left.get(state["output"]) for state in entry["states"]}
            unfit = "logits" in given and ~np.isfinite(given["logits"].max(axis=1, initial=-np.inf))
            if np.any(unfit):
                row = part.start + int(np.argmax(unfit))
                raise input_error(
                    "golden inputs", "fit for the policy", f"row {row} refused at exit {at}", ""
                )
            names = [put.name for put in session.get_inputs()]
            lacking = [name for name in names if known.get(name) is None]
            if lacking:
                raise input_error(
                    f"golden at exit {entry['exit']}",
                    f"with {', '.join(lacking)}",
                    sorted(known),
                    "",
                )
            puts = [put.name for put in session.get_outputs()]
            # Floats with gaps between rows are copied: onnxruntime reads them side by side.
            feeds = {name: np.ascontiguousarray(known[name]) for name in names}
            left = dict(zip(puts, session.run(puts, feeds), strict=True))
            score[part, at], confidence[part, at] = left["score"], left["confidence"]
            prediction[part, at], leave[part, at] = left["prediction"], left["exit"]
    return Ran(score, confidence, prediction, leave)
