"""Every rule by every target: graphs and Python file to the last bit, ONNX and C the same exits, scores within rounding.

The Python file by itself: numpy alone, loaded in any way. Which scores are exact, and how far float32 takes the others.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache as remembered
from types import SimpleNamespace

import numpy as np
import pytest
import rules
from policies import fitted, on_features
from random_graphs import Steep

from policyopt._export.c_compiler import NoCompiler, run_c
from policyopt._export.c_header import c_source
from policyopt._export.golden import expect, part_of
from policyopt._export.graph import evaluate
from policyopt._export.onnx_graphs import run_onnx, write_onnx
from policyopt._export.python_file import python_source, run_python
from policyopt._export.rounding import (
    ULPS,
    doubtful,
    exact_scores,
    own_rounding,
    proven,
    scaled_error,
)
from policyopt._export.samples import golden_of, made_up
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import RULES, Entropy, Margin, MaxProb, ScoreRule, make_rule


def of_classes(score, classes):
    rule = make_rule(score, {"classes": classes} if score == "entropy" else {})
    return Policy(rule, [0.5, 0.6], [1.0, 2.0, 4.0], "ms", "logits", classes)


def kept_and_mixed():
    exits = {"active_exits": (0, 2, 6), "model_exits": 8}
    policy = rules.policy("margin", calibrator="isotonic", mixed="window", **exits)
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
    **{f"records of {score}": lambda score=score: rules.policy(score, kind="summary")
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
        whole = expect(policy, inputs, np.arange(1024))
    return policy, graphs, whole, golden_of(policy, graphs, rows=300)


EVERY = pytest.mark.parametrize("name", [*HAND_MADE, *MORE])


@EVERY
def test_python_and_rounding(name, tmp_path):
    """To the bit, on rows as they come: impossible classes, ties, huge logits. The graphs, too, and in float64 nearly."""
    policy, graphs, whole, _ = prepared(name)
    (tmp_path / "policy.py").write_text(python_source(policy, graphs))
    ran, states = run_python(tmp_path / "policy.py", whole), ()
    for column, wanted in vars(whole.expected).items():
        np.testing.assert_array_equal(getattr(ran, column), wanted, column)
    for at, graph in enumerate(graphs):
        given = {n: whole.sample if n == "sample" else whole.inputs[at][n] for n in graph.inputs}
        values = evaluate(graph, given, states)
        states = [values[id(node)] for node in graph.left]
        for column, said in (("score", "score"), ("prediction", "prediction"), ("leave", "exit")):
            found = np.broadcast_to(values[id(graph.outputs[said])], 1024)
            np.testing.assert_array_equal(found, getattr(whole.expected, column)[:, at])
    few = part_of(whole, slice(512))
    off, exact = own_rounding(graphs, few), np.array(exact_scores(graphs))
    assert off.shape == (policy.exits,) and (off < 512).all() and (off[exact] == 0).all()
    if name in ("score max_prob", "score entropy", "score advantage", "answer combined"):
        assert (off[:-1] > 0).all() and not exact[:-1].any()
    if name in ("score constant", "score patience", "score vote", "score random"):
        assert exact[:-1].all()
    halves = [own_rounding(graphs, part_of(few, rows)) for rows in (slice(256), slice(256, 512))]
    np.testing.assert_array_equal(np.maximum(*halves), off)


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
    pytest.importorskip("onnxruntime")
    policy = Policy(MaxProb(), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4)
    rows = np.array([[0, 0, 0, 0], [3, 3, 3, 3], [1, 1, -np.inf, -np.inf]], np.float32)
    golden, graphs = expect(policy, [{"logits": rows}] * 3, np.arange(3)), trace_policy(policy)
    assert golden.expected.leave[:, :2].tolist() == [[True, False], [True, False], [True, True]]
    write_onnx(policy, graphs, tmp_path / "onnx")
    (tmp_path / "policyopt_policy.h").write_text(c_source(policy, graphs, sizes=False))
    assert_same(run_onnx(tmp_path / "onnx", policy, golden), golden.expected, 0)
    try:
        assert_same(run_c(tmp_path, golden), golden.expected, 0)
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("spec", ["max_prob", "e2cm", "optimal_stopping"])
def test_the_file_is_loaded_in_any_way_and_decides_many_and_one(spec, tmp_path):
    """By numpy alone; by exec, without an entry in `sys.modules`: its dataclass looks nothing up there."""
    policy, path = fitted(spec), tmp_path / "policy.py"
    path.write_text(python_source(policy))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import policy; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "numpy" in loaded and not loaded & {"policyopt", "scipy", "torch"}, done.stderr
    names = {"__name__": "nowhere"}
    exec(compile(path.read_text(), "policy.py", "exec", dont_inherit=True), names)
    module = SimpleNamespace(**names)
    outputs = np.random.default_rng(0).normal(size=(70, 4, 6)).astype(np.float32) * 3
    wanted = policy.decide(outputs)
    exits, answers, costs = found = module.decide(outputs)
    assert found.exit is exits and found.prediction is answers and found.cost is costs
    for name, column in found._asdict().items():
        np.testing.assert_array_equal(column, getattr(wanted, name))
    for i, row in enumerate(outputs):
        state = module.start(i)
        for k in module.ACTIVE_EXITS:
            seen = module.step(k, row[k], state)
            if seen.exit:
                break
        assert (k, seen.prediction) == (exits[i], answers[i])
        assert abs(seen.probabilities.sum() - 1) < 1e-12
    x, chances = outputs[0], np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    for call, words in (
        (lambda: module.step(0, x[0, 1:], module.start()), "must be of shape"),
        (lambda: module.step(0, x, module.start()), "must be of shape"),
        (lambda: module.step(0, x[0] * np.nan, module.start()), "finite"),
        (lambda: module.step(1, x[1], module.start()), "next exit, 0"),
        (lambda: module.decide(chances[:4]), r"must be logits\. Got probabilities at exit 0"),
        (lambda: module.decide(chances), r"must be logits\. Got probabilities at exit 0"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    module.decide(chances[:3])
    chances[2, 0] *= 1.1
    module.decide(chances)


@pytest.mark.parametrize(
    "score",
    [
        lambda o: o.confidence if (o.confidence > 0.5).any() else o.margin,
        lambda o: np.sort(o.top_prob, axis=1)[:, 0], lambda o: np.asarray(o.confidence),
        lambda o: o.confidence - o.confidence.mean(axis=0), lambda o: np.cbrt(o.confidence),
    ],
)  # fmt: skip
def test_a_rule_that_graphs_cannot_say_is_refused_by_name(score):
    class Odd(ScoreRule):
        name = "odd"

        def score(self, k, output, state):
            return score(output), state

    with pytest.raises(InputError, match=r"Score 'odd' cannot|must have a score"):
        trace_policy(Policy(Odd(), [0.5], [1, 2], "ms", "logits", 3))
    assert "odd" not in RULES


@pytest.mark.parametrize("classes", [2, 3, 10, 256])
def test_what_is_proven_of_saturated_scores(classes):
    """Off by a share of 1 less the score, however near to 1: a quarter of what is in doubt, at most."""
    rng = np.random.default_rng(classes)
    rows = rng.normal(size=(1500, classes)) * np.exp(rng.normal(size=(1500, 1)) * 2)
    rows[::7] = np.round(rows[::7])
    rows[np.arange(1500), rng.integers(0, classes, 1500)] += rng.uniform(0, 40, 1500)
    rows = rows.astype(np.float32)
    shift = np.sort(rows.astype(float) - rows.max(axis=1, keepdims=True), axis=1)
    mass = np.exp(shift)
    rest = mass[:, :-1].sum(axis=1)
    nats = np.log1p(rest) - (mass * shift).sum(axis=1) / (1 + rest)
    for rule, lack in (  # 1 less the score of each, in float64
        (MaxProb(), rest / (1 + rest)), (Margin(), (rest + mass[:, -2]) / (1 + rest)),
        (Entropy(classes), nats / np.log(classes)),
    ):  # fmt: skip
        policy = Policy(rule, [0.5], [1.0, 2.0], "ms", "logits", classes)
        scores = policy.trace(np.stack([rows, rows], axis=1)).scores[:, 0]
        allowed = np.array([proven(s, classes) for s in scores]) / 4
        assert (np.abs((1 - scores) - lack) <= allowed).all()
        assert (1 - scores < 1e-6).sum() > 100
        assert doubtful(policy, 1.0) == pytest.approx([proven(0.5, classes)])


def test_a_score_that_magnifies_rounding_is_seen_to():
    policy = Policy(Steep(), [0.5], [1.0, 2.0], "ms", "logits", 3)
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    golden = expect(policy, [{"logits": logits}] * 2, np.arange(50))
    assert own_rounding(trace_policy(policy), golden)[0] > 1024
