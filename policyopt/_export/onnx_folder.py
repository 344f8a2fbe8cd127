"""A folder of ONNX graphs: ``exit_<number>.onnx`` per exit and a manifest of what feeds what; written, read and run."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.files import open_regular
from policyopt.runtime._arithmetic import key_of
from policyopt.runtime._errors import input_error
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import Policy, read_json, to_dict

from .golden import Golden, Ran, few_at_a_time, rows_of
from .graph import ExitGraph, Node
from .manifest import ULPS
from .onnx_graphs import FORMAT, GIVEN, IR, OPSET, VERSION, onnx_models, passed_on, puts

MANIFEST = "manifest.json"
_MOST = 1 << 30  # bytes of one graph: a protobuf holds no more than twice that
_NAME = re.compile(r"exit_\d{1,4}\.onnx")
_AGAIN = "Export the policy again."
_COIN = (
    "z = (sample + 1) * 0x9E3779B97F4A7C15 + key; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; "
    "z = (z ^ z >> 27) * 0x94D049BB133111EB; u = (z ^ z >> 31) >> 40, times 2**-24; whole numbers of 64 bits "
    "without sign. The graphs compute it: they take the sample's number as the input 'sample'"
)


def write_onnx(policy: Policy, graphs: list[ExitGraph], folder: Path) -> None:
    """Write a policy's ONNX graphs into a folder, and at last their manifest."""
    models, entries = onnx_models(policy, graphs), []
    folder.mkdir(parents=True, exist_ok=True)
    for graph, model in zip(passed_on(graphs), models, strict=True):
        data = model.SerializeToString(deterministic=True)
        name = f"exit_{graph.exit}.onnx"
        write_file(folder / name, data)
        entries.append(_entry(policy, graph, name, hashlib.sha256(data).hexdigest()))
    content = _manifest(policy, graphs, entries)
    write_file(folder / MANIFEST, json.dumps(content, indent=2, allow_nan=False) + "\n")


def _entry(policy: Policy, graph: ExitGraph, name: str, sha: str) -> dict[str, Any]:
    """Return what the manifest says of one exit."""
    at, last = graph.position, graph.position == policy.exits - 1
    given, outputs = puts(graph)
    mixture = policy.mixture
    return {
        "exit": graph.exit, "file": name, "sha256": sha, "cost": float(policy.costs[at]),
        "threshold": None if last else float(policy.thresholds[at]),
        "threshold_of_share": None if last or mixture is None else float(mixture.thresholds[at]),
        "inputs": [_described(name, node) for name, node in given.items()],
        "outputs": [_described(name, node) for name, node in outputs.items()],
        # Which outputs of the exit before are which inputs of this one.
        "states": [
            {"output": f"left_{i}", "input": node.attrs["name"]}
            for i, node in enumerate(graph.states)
        ],
    }  # fmt: skip


def _described(name: str, node: Node) -> dict[str, Any]:
    return {"name": name, "dtype": node.dtype.name, "shape": ["n", *map(int, node.shape[1:])]}


def _manifest(policy: Policy, graphs: list[ExitGraph], entries: list[Any]) -> dict[str, Any]:
    coins = [node.attrs for graph in graphs for node in graph.order() if node.op == "coin"]
    keys = sorted({key_of(c["seed"], c["stream"]) for c in coins})
    return {
        "format": FORMAT, "version": VERSION, "opset": OPSET, "ir_version": IR,
        "policy_sha256": to_dict(policy)["sha256"],
        "kind": policy.kind, "classes": policy.classes, "model_exits": policy.model_exits,
        "unit": policy.unit,
        "share": None if policy.mixture is None else float(policy.mixture.share),
        "coin": {"formula": _COIN, "keys": [f"0x{key:016X}" for key in keys]} if keys else None,
        # Of scores and confidences, in units of 2**-23 of the larger of them and 1; exits and
        # predictions are equal.
        "tolerance_ulps": ULPS["onnx"],
        "exits": entries,
    }  # fmt: skip


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the manifest of an ONNX export; refuse another format or version."""
    manifest = read_json(Path(folder) / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise input_error("manifest", f"of format {FORMAT}", type(manifest).__name__, _AGAIN)
    if manifest.get("version") != VERSION:
        raise input_error("manifest", f"of version {VERSION}", manifest.get("version"), _AGAIN)
    entries = manifest.get("exits")
    if not isinstance(entries, list) or not entries or not all(map(_whole, entries)):
        allowed = "one entry per exit: file, sha256, states"
        raise input_error("exits of the manifest", allowed, entries, _AGAIN)
    return manifest


def _whole(entry: Any) -> bool:
    texts = lambda given, *names: (  # noqa: E731
        isinstance(given, dict) and all(isinstance(given.get(name), str) for name in names)
    )
    return (
        texts(entry, "file", "sha256")
        and _NAME.fullmatch(entry["file"]) is not None
        and isinstance(entry.get("states"), list)
        and all(texts(state, "output", "input") for state in entry["states"])
    )


def open_sessions(folder: str | os.PathLike[str], manifest: dict[str, Any]) -> list[Any]:
    """Return one onnxruntime session per exit, its file checked against the manifest's checksum."""
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
        name = entry["file"]
        with os.fdopen(open_regular(Path(folder) / name, name), "rb") as file:
            data = file.read(_MOST + 1)
        if len(data) > _MOST or hashlib.sha256(data).hexdigest() != entry["sha256"]:
            allowed = "the file that the manifest names, byte for byte"
            raise input_error(name, allowed, "another checksum", _AGAIN)
        providers = ["CPUExecutionProvider"]
        sessions.append(onnxruntime.InferenceSession(data, options, providers=providers))
    return sessions


def run_onnx(folder: str | os.PathLike[str], golden: Golden) -> Ran:
    """Return what an ONNX export says of golden vectors, of every sample at every exit."""
    manifest = read_manifest(folder)
    sessions, entries = open_sessions(folder, manifest), manifest["exits"]
    n, exits = len(golden), len(sessions)
    if len(golden.inputs) != exits:
        step = "They belong to another policy."
        raise input_error("golden", f"of {exits} exits", len(golden.inputs), step)
    ran = Ran.empty(n, exits)
    for part in few_at_a_time(golden.inputs, n):
        left: dict[str, Any] = {}
        inputs = rows_of(golden.inputs, part)
        for at, (session, entry, given) in enumerate(zip(sessions, entries, inputs, strict=True)):
            known = {**given, **{GIVEN + name: column for name, column in given.items()}}
            known["sample"] = golden.sample[part]
            known |= {state["input"]: left.get(state["output"]) for state in entry["states"]}
            unfit = "logits" in given and ~np.isfinite(given["logits"].max(axis=1, initial=-np.inf))
            if np.any(unfit):
                got = f"row {part.start + int(np.argmax(unfit))} refused at exit {at}"
                raise input_error("golden inputs", "fit for the policy", got, "")
            names = [put.name for put in session.get_inputs()]
            if lacking := [name for name in names if known.get(name) is None]:
                of, allowed = f"golden at exit {entry['exit']}", f"with {', '.join(lacking)}"
                raise input_error(of, allowed, sorted(known), "")
            outputs = [put.name for put in session.get_outputs()]
            # Floats with gaps between rows are copied: onnxruntime reads them side by side.
            feeds = {name: np.ascontiguousarray(known[name]) for name in names}
            left = dict(zip(outputs, session.run(outputs, feeds), strict=True))
            ran.score[part, at], ran.confidence[part, at] = left["score"], left["confidence"]
            ran.prediction[part, at], ran.leave[part, at] = left["prediction"], left["exit"]
    return ran
