"""Every rule by every target: graphs and Python file to the last bit, ONNX and C the same exits, scores within rounding."""

from __future__ import annotations

from dataclasses import replace
from functools import cache as remembered

import numpy as np
import pytest
import rules
from policies import fitted
from synthetic import cache

import policyopt as po
from policyopt._export.c_compiler import NoCompiler, run_c
from policyopt._export.c_header import c_source
from policyopt._export.golden import expect
from policyopt._export.graph import evaluate
from policyopt._export.onnx_graphs import run_onnx, write_onnx
from policyopt._export.python_file import python_source, run_python
from policyopt._export.rounding import ULPS, scaled_error
from policyopt._export.samples import golden_of, made_up
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb, make_rule


def of_classes(score, classes):
    given = {"classes": classes} if score == "entropy" else {}
    thresholds, costs = [0.5, 0.6], [1.0, 2.0, 4.0]
    return Policy(make_rule(score, given), thresholds, costs, "ms", "logits", classes)


def on_features(spec):
    rng = np.random.default_rng(0)
    data = cache(400, features=[rng.normal(size=(400, 3 + k)).astype("f4") for k in range(4)])
    policy = po.fit(data, 3.7, spec).policy
    assert policy.needs_features
    return policy


def kept_and_mixed():
    policy = rules.policy(
        "margin", confidence="isotonic", mixed="window", kept=(0, 2, 6), model_exits=8
    )
    return replace(policy, mixture=replace(policy.mixture, share=0.4))


HAND_MADE = rules.policies()
#: Fitted ones, with weights as training leaves them, and what no rule by itself shows.
MORE = {
    **{spec: lambda spec=spec: fitted(spec) for spec in (
        "optimal_stopping:mix=true", "eenet:max_epochs=15+restarts=1", "trust_score", "dda",
        "max_prob:answer=combined", "entropy:thresholds=joint+mix=true",
    )},
    **{spec: lambda spec=spec: on_features(spec)
       for spec in ("e2cm:vectors=features", "de3_bert:vectors=features")},
    **{f"{score} of {c} classes": lambda score=score, c=c: of_classes(score, c)
       for score, c in (("margin", 2), ("patience", 2), ("entropy", 127), ("entropy", 1000))},
    **{f"records of {score}": lambda score=score: rules.policy(score, kind="record")
       for score in ("vote", "margin", "entropy", "class_offset")},
    **{f"probabilities of {score}, {answer}":
       lambda score=score, answer=answer: rules.policy(score, answer, kind="probabilities")
       for score, answer in (("entropy", "plain"), ("advantage", "combined"))},
    "kept exits, mixed, of probabilities": lambda: replace(kept_and_mixed(), kind="probabilities"),
    "kept exits, mixed": kept_and_mixed,
    "one exit": lambda: Policy(MaxProb(), [], [8.0], "ms", "logits", 6),
}  # fmt: skip


@remembered
def prepared(name):
    """The policy, its graphs, awkward rows with what is expected of them, and golden ones."""
    policy = HAND_MADE[name] if name in HAND_MADE else MORE[name]()
    graphs = trace_policy(policy)
    with np.errstate(all="ignore"):
        inputs = made_up(policy, graphs, np.random.default_rng(0), 1024)
        return (
            policy,
            graphs,
            expect(policy, inputs, np.arange(1024)),
            golden_of(policy, graphs, rows=300),
        )


EVERY = pytest.mark.parametrize("name", [*HAND_MADE, *MORE])


@EVERY
def test_python(name, tmp_path):
    """Its graphs, too, to the bit, on rows as they come: impossible classes, ties, huge logits."""
    policy, graphs, whole, _ = prepared(name)
    (tmp_path / "policy.py").write_text(python_source(policy, graphs))
    ran = run_python(tmp_path / "policy.py", whole)
    for column in ("score", "prediction", "leave", "confidence"):
        wanted = getattr(whole.expected, column)
        np.testing.assert_array_equal(getattr(ran, column), wanted, column)
    states = ()
    for at, graph in enumerate(graphs):
        given = {n: whole.sample if n == "sample" else whole.inputs[at][n] for n in graph.inputs}
        values = evaluate(graph, given, states)
        states = [values[id(node)] for node in graph.left]
        for column, said in (("score", "score"), ("prediction", "prediction"), ("leave", "exit")):
            wanted = getattr(whole.expected, column)[:, at]
            np.testing.assert_array_equal(
                np.broadcast_to(values[id(graph.outputs[said])], 1024), wanted
            )


def assert_same(ran, expected, ulps):
    np.testing.assert_array_equal(ran.leave, expected.leave)
    np.testing.assert_array_equal(ran.prediction, expected.prediction)
    assert scaled_error(ran.score, expected.score).max() <= ulps
    assert not (scaled_error(ran.confidence, expected.confidence) > ulps).any()


@EVERY
def test_c(name, tmp_path):
    policy, graphs, _, golden = prepared(name)
    (tmp_path / "policyopt_policy.h").write_text(c_source(policy, graphs, sizes=False))
    try:
        assert_same(run_c(tmp_path, golden), golden.expected, ULPS["c"])
    except NoCompiler as error:
        pytest.skip(str(error))


@EVERY
def test_onnx(name, tmp_path):
    """A batch of one as a batch of many."""
    pytest.importorskip("onnxruntime")
    policy, graphs, _, golden = prepared(name)
    write_onnx(policy, graphs, tmp_path)
    assert_same(run_onnx(tmp_path, policy, golden), golden.expected, ULPS["onnx"])
    one = [{column: a[7:8] for column, a in given.items()} for given in golden.inputs]
    alone = expect(policy, one, golden.sample[7:8])
    assert_same(run_onnx(tmp_path, policy, alone), alone.expected, ULPS["onnx"])


def test_ties_at_the_threshold_are_left_alike(tmp_path):
    """Equal logits give probabilities that are exact: such a score equals its threshold everywhere."""
    pytest.importorskip("onnxruntime")
    policy = Policy(MaxProb(), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4)
    rows = np.array([[0, 0, 0, 0], [3, 3, 3, 3], [1, 1, -np.inf, -np.inf]], np.float32)
    golden, graphs = expect(policy, [{"logits": rows}] * 3, np.arange(3)), trace_policy(policy)
    (tmp_path / "policyopt_policy.h").write_text(c_source(policy, graphs, sizes=False))
    write_onnx(policy, graphs, tmp_path / "onnx")
    for run in (
        lambda: run_c(tmp_path, golden),
        lambda: run_onnx(tmp_path / "onnx", policy, golden),
    ):
        try:
            ran = run()
        except NoCompiler:
            continue
        assert ran.leave[:, 0].all() and ran.leave[:, 1].tolist() == [False, False, True]
        np.testing.assert_array_equal(ran.score, golden.expected.score)
        np.testing.assert_array_equal(ran.prediction, 0)
