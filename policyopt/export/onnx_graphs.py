"""ONNX: one small decision graph per exit, and a manifest that says how they follow each other.

The opset and the format version are those of 2022, which onnxruntime has read since 1.14. Every sample
is a row of its own; the batch axis is ``n``. See `docs/onnx.md` for how to chain the graphs with a
model's stages.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from policyopt.cache.files import sha256_file
from policyopt.runtime.artifact import to_dict
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import write_file
from policyopt.runtime.policy import Policy

from .folder import new_folder
from .graph import ExitGraph, Node
from .onnx_builder import OPSET, Builder
from .onnx_manifest import FORMAT, IR, MANIFEST, VERSION, entry_of, manifest_of, puts
from .onnx_ops import emit
from .onnx_run import read_manifest


def onnx_models(policy: Policy, graphs: list[ExitGraph], probabilities: bool = True) -> list[Any]:
    """Return the decision graphs of a policy as ONNX models, checked.

    Parameters
    ----------
    policy : Policy
    graphs : list of K ExitGraph
        From `policyopt.export.tracing.trace_policy`.
    probabilities : bool
        Whether the graphs give out the answer's class probabilities too.

    Returns
    -------
    list of K onnx.ModelProto

    Raises
    ------
    InputError
        The package onnx is not there.

    Examples
    --------
    >>> from policyopt.export.tracing import trace_policy
    >>> from policyopt.runtime.scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> first, last = onnx_models(policy, trace_policy(policy))
    >>> [put.name for put in first.graph.input], [put.name for put in first.graph.output][:3]
    (['logits'], ['exit', 'prediction', 'score'])
    """
    try:
        import onnx
    except ImportError as error:
        raise input_error(
            "onnx", "installed", "no such package", "pip install 'policyopt[onnx]'"
        ) from error
    sha, found = to_dict(policy)["sha256"], []
    for graph in passed_on(graphs, probabilities):
        model = onnx_model(graph, {"policy_sha256": sha, "exit": str(graph.exit)})
        onnx.checker.check_model(model, full_check=True)
        found.append(model)
    return found


def passed_on(graphs: list[ExitGraph], probabilities: bool = True) -> list[ExitGraph]:
    """Return the graphs without states that no later exit looks at."""
    found: list[ExitGraph] = []
    wanted: tuple[int, ...] = ()  # of what the exit leaves, what the next one takes
    for graph in reversed(graphs):
        outputs = dict(graph.outputs)
        if not probabilities:
            outputs.pop("probabilities", None)
        left = tuple(graph.left[i] for i in wanted)
        live = replace(graph, outputs=outputs, left=left)
        used = {id(node) for node in live.order()}
        wanted = tuple(i for i, node in enumerate(graph.states) if id(node) in used)
        inputs = {name: node for name, node in graph.inputs.items() if id(node) in used}
        states = tuple(graph.states[i] for i in wanted)
        found.append(replace(live, inputs=inputs, states=states))
    return found[::-1]


def onnx_model(graph: ExitGraph, properties: dict[str, str]) -> Any:
    """Return one graph as an ONNX model, with properties that it carries."""
    from onnx import helper

    given, outputs = puts(graph)
    b = Builder(next(iter(given)))
    values: dict[int, Any] = {id(node): name for name, node in given.items()}
    for node in graph.order():
        if id(node) not in values:
            values[id(node)] = emit(b, node, [values[id(arg)] for arg in node.args])
    b.finish([(name, b.whole(values[id(node)], node)) for name, node in outputs.items()])
    whole = helper.make_graph(
        b.nodes, f"exit_{graph.exit}",
        [_info(name, node) for name, node in given.items()],
        [_info(name, node) for name, node in outputs.items()],
        initializer=b.constants,
    )  # fmt: skip
    model = helper.make_model(
        whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR,
        producer_name="policyopt", producer_version=str(VERSION),
    )  # fmt: skip
    helper.set_model_props(model, {**properties, "format": FORMAT, "version": str(VERSION)})
    return model


def _info(name: str, node: Node) -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(node.dtype)
    return helper.make_tensor_value_info(name, kind, ["n", *map(int, node.shape[1:])])


def write_onnx(
    policy: Policy,
    graphs: list[ExitGraph],
    folder: str | os.PathLike[str],
    probabilities: bool = True,
) -> list[Path]:
    """Write ``exit_<number>.onnx`` per exit on the policy's path, and ``manifest.json``.

    The folder appears whole or not at all.

    Parameters
    ----------
    policy : Policy
    graphs : list of K ExitGraph
    folder : path-like
        An earlier export in its place is replaced; anything else is refused.
    probabilities : bool
        As in `onnx_models`.

    Returns
    -------
    list of Path
        What was written.
    """
    models = onnx_models(policy, graphs, probabilities)
    entries = []
    with new_folder(folder, _check_old) as fresh:
        for graph, model in zip(passed_on(graphs, probabilities), models, strict=True):
            data = model.SerializeToString(deterministic=True)
            name = f"exit_{graph.exit}.onnx"
            write_file(fresh / name, data)
            entries.append(entry_of(policy, graph, name, hashlib.sha256(data).hexdigest()))
        content = manifest_of(policy, graphs, entries)
        write_file(fresh / MANIFEST, json.dumps(content, indent=2, allow_nan=False) + "\n")
    return [Path(folder) / name for name in (*(entry["file"] for entry in entries), MANIFEST)]


def _check_old(folder: Path) -> None:
    """Refuse to replace what `write_onnx` did not write, and files put beside it."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {""}
    if not names:
        return
    try:
        entries = read_manifest(folder)["exits"]
        listed = {entry["file"]: entry["sha256"] for entry in entries}
        same = all(sha256_file(folder / name, name) == sha for name, sha in listed.items())
        wrong = "" if same else "a file that was changed"
        if more := sorted(names - listed.keys() - {MANIFEST}):
            wrong = f"'{more[0]}' besides"
    except InputError as error:
        wrong = str(error)
    if wrong:
        raise input_error(
            "folder", "a new one, or an earlier export as it was written", f"{folder} ({wrong})",
            "Name another folder, or take away what is there.",
        )  # fmt: skip
