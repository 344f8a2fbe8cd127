"""A staged network as ONNX: one model per stage, one whole, and one graph with nested `If`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

WIDTH, DEPTH, STAGES, CLASSES = 512, 3, 5, 10
_OPSET = [helper.make_opsetid("", 18)]


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """One thread, all graph optimisations (the default)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _stage_parts(k: int, given: str, hidden: str, logits: str) -> tuple[list[Any], list[Any]]:
    """`DEPTH` dense layers with ReLU, and a head; weights by the stage's number."""
    rng = np.random.default_rng(k)
    nodes, weights, x = [], [], given
    for layer in range(DEPTH):
        name = f"w{k}_{layer}"
        scale = np.sqrt(2 / WIDTH)
        drawn = (rng.normal(size=(WIDTH, WIDTH)) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(drawn, name))
        out = hidden if layer == DEPTH - 1 else f"h{k}_{layer}"
        nodes.append(helper.make_node("MatMul", [x, name], [f"p{k}_{layer}"]))
        nodes.append(helper.make_node("Relu", [f"p{k}_{layer}"], [out]))
        x = out
    head = (rng.normal(size=(WIDTH, CLASSES)) * 2 / np.sqrt(WIDTH)).astype(np.float32)
    weights.append(numpy_helper.from_array(head, f"head{k}"))
    nodes.append(helper.make_node("MatMul", [hidden, f"head{k}"], [logits]))
    return nodes, weights


def _info(name: str, kind: int, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, ["n", *shape])


def _model(nodes: list[Any], given: list[Any], outputs: list[Any], weights: list[Any]) -> Any:
    graph = helper.make_graph(nodes, "stages", given, outputs, initializer=weights)
    return helper.make_model(graph, opset_imports=_OPSET, ir_version=8)


def stage(k: int) -> onnx.ModelProto:
    """Stage k: hidden values in, hidden values and logits out."""
    nodes, weights = _stage_parts(k, "x", "hidden", "logits")
    outputs = [
        _info("hidden", TensorProto.FLOAT, WIDTH),
        _info("logits", TensorProto.FLOAT, CLASSES),
    ]
    return _model(nodes, [_info("x", TensorProto.FLOAT, WIDTH)], outputs, weights)


def whole() -> onnx.ModelProto:
    """All stages, the last head only: the network without exits."""
    nodes, weights = [], []
    for k in range(STAGES):
        given = "x" if k == 0 else f"hidden{k - 1}"
        more, drawn = _stage_parts(k, given, f"hidden{k}", f"logits{k}")
        last = k == STAGES - 1
        nodes += more if last else more[:-1]
        weights += drawn if last else drawn[:-1]
    nodes.append(
        helper.make_node("ArgMax", [f"logits{STAGES - 1}"], ["prediction"], axis=1, keepdims=0)
    )
    outputs = [_info("prediction", TensorProto.INT64)]
    return _model(nodes, [_info("x", TensorProto.FLOAT, WIDTH)], outputs, weights)


def nested(decisions: Sequence[onnx.ModelProto]) -> onnx.ModelProto:
    """One graph: after each exit `If` all samples have left, their answers; else the next stage.

    Parameters
    ----------
    decisions : sequence of K onnx.ModelProto
        From `policyopt._export.onnx_graphs.onnx_models`, without states.
    """
    nodes, weights = _from(0, "x", None, decisions)
    outputs = [_info("prediction_0", TensorProto.INT32)]
    model = _model(nodes, [_info("x", TensorProto.FLOAT, WIDTH)], outputs, weights)
    onnx.checker.check_model(model, full_check=True)
    return model


def _from(
    k: int, given: str, before: tuple[str, str] | None, decisions: Sequence[onnx.ModelProto]
) -> tuple[list[Any], list[Any]]:
    """What follows from stage k on; its answers are called ``prediction_<k>``.

    `before` names who has left, and all answers so far.
    """
    nodes, weights = _stage_parts(k, given, f"hidden{k}", f"logits{k}")
    decision = onnx.compose.add_prefix(decisions[k], f"d{k}/").graph
    nodes.append(helper.make_node("Identity", [f"logits{k}"], [f"d{k}/logits"]))
    nodes += decision.node
    weights += decision.initializer
    left, answer = f"d{k}/exit", f"d{k}/prediction"
    if before is not None:
        nodes.append(helper.make_node("Where", [before[0], before[1], answer], [f"answer{k}"]))
        nodes.append(helper.make_node("Or", [before[0], left], [f"left{k}"]))
        left, answer = f"left{k}", f"answer{k}"
    if k == len(decisions) - 1:
        nodes.append(helper.make_node("Identity", [answer], [f"prediction_{k}"]))
        return nodes, weights
    nodes.append(helper.make_node("Cast", [left], [f"count{k}"], to=TensorProto.INT32))
    nodes.append(helper.make_node("ReduceMin", [f"count{k}"], [f"all{k}"], keepdims=0))
    nodes.append(helper.make_node("Cast", [f"all{k}"], [f"done{k}"], to=TensorProto.BOOL))
    out = [_info(f"prediction_{k}_then", TensorProto.INT32)]
    then = helper.make_graph(
        [helper.make_node("Identity", [answer], [f"prediction_{k}_then"])], f"then{k}", [], out
    )
    more, deeper = _from(k + 1, f"hidden{k}", (left, answer), decisions)
    out = [_info(f"prediction_{k + 1}", TensorProto.INT32)]
    otherwise = helper.make_graph(more, f"else{k}", [], out, initializer=deeper)
    branches: dict[str, Any] = {"then_branch": then, "else_branch": otherwise}
    nodes.append(helper.make_node("If", [f"done{k}"], [f"prediction_{k}"], **branches))
    return nodes, weights
