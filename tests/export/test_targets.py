"""Every rule by every target: graphs and Python file to the last bit, ONNX and C the same exits, scores within rounding.

The Python file by itself: numpy alone, loaded in any way. Which scores are exact, and how far float32 takes the others.
ONNX by itself: operation by operation on the numbers where precision goes; the models, and folders that were damaged.
"""

import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache as remembered
from textwrap import dedent
from types import SimpleNamespace

import numpy as np
import pytest
import rules
from policies import fitted, on_features
from random_graphs import Steep, Zeros
from synthetic import outputs

from policyopt._export.c_compiler import NoCompiler, run_c
from policyopt._export.c_header import c_source
from policyopt._export.golden import expect, part_of
from policyopt._export.graph import ELEMENTWISE, ExitGraph, Pool, compute, evaluate
from policyopt._export.onnx_graphs import onnx_model, onnx_models, passed_on, run_onnx, write_onnx
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
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._errors import InputError
from policyopt.runtime._outputs import reduce_logits
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import RULES, Entropy, Margin, MaxProb, ScoreRule, make_rule


def kept_and_mixed():
    exits = {"active_exits": (0, 2, 6), "model_exits": 8}
    policy = rules.policy("margin", calibrator="isotonic", mixed="window", **exits)
    return replace(policy, mixture=replace(policy.mixture, share=0.4))


HAND_MADE = rules.policies()
#: Fitted ones, with weights as training leaves them, and what no rule by itself shows.
MORE = {
    **{spec: lambda spec=spec: fitted(spec) for spec in (
        "optimal_stopping:mix=true", "eenet:max_epochs=15+restarts=1", "trust_score", "dda",
        "max_prob:answer=combined", "e2cm", "vote:thresholds=geometric", "entropy:thresholds=joint+mix=true",
    )},
    **{spec: lambda spec=spec: on_features(spec)
       for spec in ("e2cm:vectors=features", "e2cm:vectors=features+answer=plain", "berxit:inputs=both+shared=false",
                    "epnet:inputs=both+steps=60+hidden=8", "de3_bert:vectors=features")},
    **{f"{rule.name} of {c} classes": lambda rule=rule, c=c: Policy(rule, [0.5, 0.6], [1, 2, 4], "ms", "logits", c)
       for rule, c in ((Margin(), 2), (make_rule("patience", {}), 2), (Entropy(127), 127), (Entropy(1000), 1000))},
    **{f"records of {score}": lambda score=score: rules.policy(score, kind="summary")
       for score in ("vote", "margin", "entropy", "class_offset")},
    **{f"probabilities of {score}, {answer}":
       lambda score=score, answer=answer: rules.policy(score, answer, kind="probabilities")
       for score, answer in (("entropy", "plain"), ("advantage", "combined"))},
    **{f"{kind} of {score}": lambda kind=kind, score=score: rules.of_kind(kind, score)
       for kind, scores in rules.KIND_SCORES.items() for score in scores},
    "kept exits, mixed, of probabilities": lambda: replace(kept_and_mixed(), kind="probabilities"),
    "kept exits, mixed": kept_and_mixed,
    "signed zeros": lambda: Policy(Zeros(), [0.5], [1, 2], "ms", "logits", 6),
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
    assert not found.abstained.any()
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
        told = names | {"output_of_exit": row.__getitem__}
        exec(dedent(re.search(r"^    state = .*?(?=^\S)", module.__doc__, re.M | re.S)[0]), told)
        assert (told["k"], told["decision"].prediction) == (exits[i], answers[i])
    x, chances = outputs[0], np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
    for k, given, words in (
        (0, x[0, 1:], "must be of shape"), (0, x, "must be of shape"), (0, x[0] * np.nan, "finite"),
        (1, x[1], "next exit, 0"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            module.step(k, given, module.start())
    for given in (chances[:4], chances):
        with pytest.raises(ValueError, match=r"must be logits\. Got probabilities at exit 0"):
            module.decide(given)
    module.decide(chances[:3])
    chances[2, 0] *= 1.1
    module.decide(chances)


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (lambda o: o.margin if (o.margin > 0.5).any() else o.entropy, "not know an array's any, but these: absolute, "),
        (lambda o: np.sort(o.top_prob), "not know numpy.sort, but"), (lambda o: np.cbrt(o.margin), "numpy.cbrt of such num"),
        (lambda o: o.margin - o.margin.mean(axis=0), "mix samples"), (lambda o: np.asarray(o.margin), "becomes no array"),
        (lambda o: o.log_prob.sum(axis=1, where=o.log_prob > -1), r"sum\(\) got an unexpected keyword argument 'where'"),
        (lambda o: np.add(o.margin, 3, dtype=np.float32), "add of dtype"), (lambda o: ~o.prediction, "invert of such num"),
        (lambda o: np.add(1, 1, out=o.log_prob[:, 0]), r"\.copy\(\)"), (lambda o: o.margin.astype("i1"), "arrays of int8"),
        (lambda o: np.add(o.margin, 1, out=np.zeros(1)), "zeros_like"), (lambda o: np.arange(9)[o.prediction], "t.lookup"),
        (lambda o: o.log_prob @ np.ones(3), "t.row_product"), (lambda o: {}[len(o)], r"cannot: 1\. Deploy"),
        (lambda o: o.features[:, 0], "the width of features"), (lambda o: np.log(o.margin - 0.1), "must be finite|be numbers"),
    ],
)  # fmt: skip
def test_a_rule_that_graphs_cannot_say_is_refused_by_name(score, words):
    class Odd(ScoreRule):
        name, required_columns = "odd", {"log_prob", *["features"] * ("features" in words)}

        def score(self, k, output, state):
            return score(output), state

    policy = Policy(Odd(), [0.5], [1, 2], "ms", "logits", 3)
    with pytest.raises(InputError, match=words), np.errstate(all="ignore"):
        golden_of(policy, trace_policy(policy))
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


# ONNX by itself.
HARD = np.array([0.0, -0.0, 1.0, -1.0, 1e-300, 1e-30, 3e-17, 0.5, 2.5, -2.5, 700.0, 1e300, -1e300])
FINITE = np.concatenate([HARD, np.random.default_rng(0).normal(size=50)])
ALL = np.concatenate([FINITE, [np.inf, -np.inf, np.nan]])


def run_model(model, **inputs):
    onnx, onnxruntime = (pytest.importorskip(name) for name in ("onnx", "onnxruntime"))
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession
    return session(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, inputs)


def one_op(op, inputs, shape, dtype, **attrs):
    pool = Pool()
    given = {f"x{i}": pool.make("input", (), (1, *x.shape[1:]), x.dtype, name=f"x{i}") for i, x in enumerate(inputs)}  # fmt: skip
    node = pool.make(op, list(given.values()), (1, *shape), dtype, **attrs)
    model = onnx_model(ExitGraph(0, 0, given, (), {"y": node}, ()), {})
    with np.errstate(all="ignore"):
        wanted = compute(node, inputs)
    return run_model(model, **dict(zip(given, inputs, strict=True)))[0], wanted


def assert_close(found, wanted, ulps, scale=None):
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if wanted.dtype.kind != "f":
        np.testing.assert_array_equal(found, wanted)
        return
    with np.errstate(invalid="ignore", over="ignore"):
        small = ulps * np.finfo(wanted.dtype).eps * (np.abs(wanted) if scale is None else scale)
        same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
        near = np.isfinite(wanted) & (np.abs(found - wanted) <= small + np.finfo(wanted.dtype).tiny)
    assert (same | near).all(), (found[~(same | near)], wanted[~(same | near)])


_LOGIC = {"not", "and", "or"}
# Of floats only: numpy gives floats for others, or no answer; rules ask no such thing.
_REAL = {"exp", "log", "log1p", "sqrt", "tanh", "isinf", "isfinite", "div", "logaddexp", "pow"}
_NUMBERS = {"neg", "abs", "add", "sub", "mul"}


@pytest.mark.parametrize("op", ELEMENTWISE)
def test_elementwise(op):
    """Every name, on the numbers where precision goes: bits for what IEEE sets, else a few ulps."""
    function = ELEMENTWISE[op]
    kinds = [bool] if op in _LOGIC else [np.float64, np.float32]
    if op not in _LOGIC | _REAL:
        kinds += [np.int64] + [bool] * (op not in _NUMBERS)
    for kind in kinds:
        with np.errstate(all="ignore"):
            values = (ALL if kind in (np.float64, np.float32) else FINITE.clip(-9, 9)).astype(kind)
            pairs = [np.repeat(values, len(values)), np.tile(values, len(values))]
            inputs = [values] if function.nin == 1 else pairs
            dtype = function(*inputs).dtype
        found, wanted = one_op(op, inputs, (), dtype)
        exact = op not in {"exp", "log", "log1p", "tanh", "logaddexp", "pow"}
        # Near 0 a logarithm of a sum is a difference of larger numbers.
        scale = np.maximum(np.maximum(*np.abs(inputs)), 1) if op == "logaddexp" else None
        assert_close(found, wanted, 0 if exact else 8, scale)


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.int64, np.int32, bool])
def test_shapes_and_reductions(kind):
    x = np.random.default_rng(1).integers(0, 3, (5, 4, 3)).astype(kind)
    index, where = np.array([0, 2, -1, 1, -2]), x[..., :1].astype(bool)
    for axis, rest, cut in ((1, (3,), (1, 3)), (2, (4,), (4, 1))):
        total = np.sum(x, axis=axis).dtype
        for op, given, shape, dtype, more in (
            ("max", [x], rest, kind, {}), ("min", [x], rest, kind, {}),
            *([("sum", [x], rest, total, {})] if kind is not bool else []),
            ("argmax", [x], rest, np.int64, {}), ("take", [x, index], rest, kind, {}),
            ("slice", [x], cut, kind, {"start": 1, "stop": 2}),
        ):  # fmt: skip
            assert_close(*one_op(op, given, shape, dtype, axis=axis, **more), 0)
    assert_close(*one_op("concat", [x, x], (8, 3), kind, axis=1), 0)
    assert_close(*one_op("reshape", [x], (12,), kind), 0)
    assert_close(*one_op("where", [where, x, x[:, ::-1].copy()], (4, 3), kind), 0)
    for other in (np.float64, np.float32, np.int64, np.int32, bool):
        assert_close(*one_op("cast", [x], (4, 3), np.dtype(other)), 0)


def test_lookups():
    rng = np.random.default_rng(2)
    edges, values = np.sort(rng.normal(size=9)), rng.normal(size=9)
    x = np.concatenate([edges, ALL])  # on the edges, over and under all
    index, table, wide = np.array([0, 8, -1, 3]), rng.normal(size=(9, 2)), rng.normal(size=(6, 7))
    points = rng.normal(size=(1500, 7))  # more than is looked at side by side
    points[3] = wide[2]
    one = {"knots": edges[:1], "values": values[:1]}
    for op, given, shape, dtype, ulps, more in (
        ("search", x, (), np.int64, 0, {"edges": edges, "side": "left"}),
        ("search", x, (), np.int64, 0, {"edges": edges, "side": "right"}),
        ("interp", x, (), np.float64, 4, {"knots": edges, "values": values}),
        ("interp", x[~np.isnan(x)], (), np.float64, 0, one),
        ("lookup", index, (), np.float64, 0, {"table": values}),
        ("lookup", index, (2,), np.float64, 0, {"table": table}),
        *(("minimum_at", wide, (len(starts),), np.float64, 0, {"starts": np.array(starts)})
          for starts in ([0, 1, 2, 3, 4, 5, 6], [0, 3, 4], [0, 5], [2, 3])),
        ("linear", np.abs(wide), (1500,), np.float64, 8, {"weight": np.abs(points)}),
        ("distances", wide, (1500,), np.float64, 8, {"points": points}),
    ):  # fmt: skip
        found, wanted = one_op(op, [given], shape, dtype, **more)
        assert_close(found, wanted, ulps)
    assert found[2, 3] == 0
    samples = np.array([0, 1, 2, 3, 10**6, 2**40, 2**62, 2**63 - 1, *range(50, 250)])
    for seed, stream in ((0, 0), (7, 3), (2**63, 1)):
        found, _ = one_op("coin", [samples], (), np.float64, seed=seed, stream=stream)
        np.testing.assert_array_equal(found, coin(seed, samples, stream))


@pytest.mark.parametrize("classes", [2, 3, 7, 100])
def test_reduction_keeps_what_the_runtime_keeps(classes):
    logits, pool = hard_rows(classes), Pool()
    wanted = reduce_logits(logits)
    put = pool.make("input", (), (1, classes), np.float32, name="logits")
    whole = pool.make("reduce", (put,), (1,), np.float64, top=wanted.top_prob.shape[1])
    columns = {n: getattr(wanted, n)
               for n in ("prediction", "top_prob", "top_class", "entropy", "log_sum_exp")}  # fmt: skip
    nodes = {n: pool.make("field", (whole,), (1, *c.shape[1:]), c.dtype, name=n)
             for n, c in columns.items()}  # fmt: skip
    model = onnx_model(ExitGraph(0, 0, {"logits": put}, (), nodes, ()), {})
    found = dict(zip(columns, run_model(model, logits=logits), strict=True))
    for name, column in columns.items():
        if column.dtype.kind == "f":
            assert scaled_error(found[name], column).max() < 8, name
        else:
            np.testing.assert_array_equal(found[name], column)
    # What lacks to 1 is small and precise; a float32 softmax would give 0.
    lacks, lacked = 1 - found["top_prob"][:, 0], 1 - wanted.top_prob[:, 0]
    sure = (lacked > 1e-13) & (lacked < 1e-8)
    assert sure.sum() >= 2
    np.testing.assert_allclose(lacks[sure], lacked[sure], rtol=2e-3)


def hard_rows(classes, seed=0):
    """Logits with ties, classes that cannot be, huge and tiny ones, certainty; (n, C) float32."""
    one, huge = np.eye(classes), np.array([1e-30, 1.0, 20.0, 24.0, 50, 120.0, 3e38])
    alone = np.where(one[[0, -1]] > 0, -3.0, -np.inf)
    rows = [
        np.random.default_rng(seed).normal(size=(20, classes)),
        np.outer([0, 1e30, -1e-30], np.ones(classes)), np.outer(huge, one[0]),
        np.outer(huge, one[-1]), -one[:1], [np.arange(classes) % 2, -(np.arange(classes) % 3)],
        alone, [np.where(np.arange(classes) < 2, 1.0, -np.inf)],
    ]  # fmt: skip
    return np.concatenate(rows).astype(np.float32)


def test_the_models_are_small_readable_and_old_enough():
    pytest.importorskip("onnxruntime")
    policy = rules.policy("patience")
    graphs = trace_policy(policy)
    whole, lean = (onnx_models(policy, graphs, probabilities=told) for told in (True, False))
    for graph, model in zip(passed_on(graphs), whole, strict=True):
        assert model.ir_version == 8 and [o.version for o in model.opset_import] == [18]
        assert len(model.SerializeToString()) < 20_000
        properties = {p.key: p.value for p in model.metadata_props}
        assert properties["exit"] == str(graph.exit) and len(properties["policy_sha256"]) == 64
        read = {name for node in model.graph.node for name in node.input}
        assert {put.name for put in [*model.graph.input, *model.graph.initializer]} <= read
        (given,) = [put for put in model.graph.input if put.name == "logits"]
        assert given.type.tensor_type.shape.dim[0].dim_param == "n"
    assert [len(m.graph.node) for m in lean] < [len(m.graph.node) for m in whole]
    assert "probabilities" not in {put.name for put in lean[0].graph.output}


def test_damage_is_named(tmp_path):
    pytest.importorskip("onnxruntime")
    policy = rules.policy()
    rows = np.random.default_rng(0).normal(size=(3, 20, 3)).astype(np.float32)
    golden = expect(policy, [{"logits": x} for x in rows], np.arange(20))
    write_onnx(policy, trace_policy(policy), tmp_path)
    first, manifest = tmp_path / "exit_0.onnx", tmp_path / "manifest.json"
    whole, told = first.read_bytes(), json.loads(manifest.read_text())
    exit_0, *others = told["exits"]
    damages = [(first, data, "exits") for data in (whole[:-1], whole + b"\0", b"x" + whole[1:])]
    damages += [
        (manifest, json.dumps({**told, name: value}).encode(), name)
        for name, value in (
            *((name, "x") for name in told), ("exits", []), ("exits", others),
            *(("exits", [{**exit_0, name: 7}, *others]) for name in exit_0),
        )
    ]  # fmt: skip
    for file, data, name in damages:
        before = file.read_bytes()
        file.write_bytes(data)
        with pytest.raises(InputError, match=f"'{name} of onnx/manifest.json' must be as policy"):
            run_onnx(tmp_path, policy, golden)
        file.write_bytes(before)
    assert (run_onnx(tmp_path, policy, golden).leave == golden.expected.leave).all()
    manifest.write_text("[]")
    with pytest.raises(InputError, match="Got list"):
        run_onnx(tmp_path, policy, golden)
    first.unlink()
    with pytest.raises(InputError, match="missing"):
        run_onnx(tmp_path, policy, golden)


@pytest.mark.parametrize("spec", ["patience", "optimal_stopping:mix=true", "kept"])
def test_the_loop_of_the_docs(spec, root, tmp_path):
    """Regrouped survivors, states and coins of docs/onnx.md leave where the runtime says."""
    pytest.importorskip("onnxruntime")
    page = (root / "docs" / "onnx.md").read_text()
    names = {}
    exec(re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)[0], names)
    policy = fitted("patience" if spec == "kept" else spec)
    if spec == "kept":
        policy = replace(policy, active_exits=(1, 3, 5, 7), model_exits=8)
    rows = outputs(300, policy.model_exits, 6, seed=5)[0]
    write_onnx(policy, trace_policy(policy), tmp_path)

    class Stage:  # hidden values are row numbers
        def __init__(self, k):
            self.k = k

        def run(self, wanted, given):
            assert wanted == ["hidden", "logits"]
            return given["x"], np.ascontiguousarray(rows[given["x"], self.k])

    server = names["Server"]([Stage(k) for k in range(policy.model_exits)], tmp_path)
    answers, taken = server(np.arange(300), np.arange(300))
    said = policy.decide(rows)
    assert len(np.unique(taken)) > 1
    np.testing.assert_array_equal(taken, said.exit)
    np.testing.assert_array_equal(answers, said.prediction)
