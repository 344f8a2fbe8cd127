"""The manifest of an ONNX export: which file is which exit, what goes in and out, and what feeds what."""

from __future__ import annotations

from typing import Any

from policyopt.runtime.artifact import to_dict
from policyopt.runtime.coin import key_of
from policyopt.runtime.policy import Policy

from .graph import ExitGraph, Node
from .manifest import ULPS
from .onnx_builder import OPSET

FORMAT = "policyopt-onnx"
VERSION = 1
MANIFEST = "manifest.json"
IR = 8
#: Before the names of inputs that an output has too.
GIVEN = "given_"
_GIVEN = {"probabilities", "prediction", "confidence", "second", "entropy"}
_COIN = (
    "z = (sample + 1) * 0x9E3779B97F4A7C15 + key; z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9; "
    "z = (z ^ z >> 27) * 0x94D049BB133111EB; u = (z ^ z >> 31) >> 40, times 2**-24; whole numbers of 64 bits "
    "without sign. The graphs compute it: they take the sample's number as the input 'sample'"
)


def puts(graph: ExitGraph) -> tuple[dict[str, Node], dict[str, Node]]:
    """Return the inputs and the outputs of an exit's ONNX graph by name.

    Probabilities and the columns of a record are ``given_prediction`` and so on: outputs have the bare names.
    """
    given = {f"{GIVEN}{n}" if n in _GIVEN else n: node for n, node in graph.inputs.items()}
    given |= {node.attrs["name"]: node for node in graph.states}
    return given, {**graph.outputs, **{f"left_{i}": node for i, node in enumerate(graph.left)}}


def entry_of(policy: Policy, graph: ExitGraph, name: str, sha: str) -> dict[str, Any]:
    """Return what the manifest says of one exit, its file's name and checksum with it."""
    at, last = graph.position, graph.position == policy.exits - 1
    given, outputs = puts(graph)
    mixture = policy.mixture
    return {
        "exit": graph.exit,
        "file": name,
        "sha256": sha,
        "cost": float(policy.costs[at]),
        "threshold": None if last else float(policy.thresholds[at]),
        "threshold_of_share": None if last or mixture is None else float(mixture.thresholds[at]),
        "inputs": [_described(name, node) for name, node in given.items()],
        "outputs": [_described(name, node) for name, node in outputs.items()],
        # Which outputs of the exit before are which inputs of this one.
        "states": [
            {"output": f"left_{i}", "input": node.attrs["name"]}
            for i, node in enumerate(graph.states)
        ],
    }


def _described(name: str, node: Node) -> dict[str, Any]:
    return {"name": name, "dtype": node.dtype.name, "shape": ["n", *map(int, node.shape[1:])]}


def manifest_of(
    policy: Policy, graphs: list[ExitGraph], entries: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the manifest."""
    coins = [node.attrs for graph in graphs for node in graph.order() if node.op == "coin"]
    keys = sorted({key_of(c["seed"], c["stream"]) for c in coins})
    return {
        "format": FORMAT,
        "version": VERSION,
        "opset": OPSET,
        "ir_version": IR,
        "policy_sha256": to_dict(policy)["sha256"],
        "kind": policy.kind,
        "classes": policy.classes,
        "model_exits": policy.model_exits,
        "unit": policy.unit,
        "share": None if policy.mixture is None else float(policy.mixture.share),
        "coin": {"formula": _COIN, "keys": [f"0x{key:016X}" for key in keys]} if keys else None,
        # Of scores and confidences, in units of 2**-23 of the larger of them and 1; exits and
        # predictions are equal.
        "tolerance_ulps": ULPS["onnx"],
        "exits": entries,
    }
