"""Serving: every sample leaves where a replay says, whatever the batches, the policy, the hidden state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from policies import fitted
from synthetic import outputs
from test_methods import SPECS

import policyopt as po
from policyopt._export.c_compiler import NoCompiler
from policyopt._methods.registry import make_method
from policyopt._table import Tables
from policyopt.runtime import ExpertPolicy, InputError, Mixture, Policy
from policyopt.runtime._scores import Margin, MaxProb

torch = pytest.importorskip("torch")
from policyopt.serving import StagedModel, serve  # noqa: E402

N, K, C = 200, 4, 6
COSTS = [1.0, 2.0, 4.0, 8.0]


@pytest.fixture(scope="module")
def logits():
    return outputs(N, K, C, seed=1)[0]


class Replayed:
    """A model whose exits give stored logits: the hidden state holds the samples' row numbers."""

    def __init__(self, logits, dtype=None):
        self.logits = torch.from_numpy(logits).to(dtype or torch.float32)
        self.seen = [[] for _ in range(logits.shape[1])]  # rows that each head was given

    def head(self, k):
        def run(hidden):
            rows = hidden["row"]
            self.seen[k].extend(rows.tolist())
            return self.logits[rows, k]

        return run

    def model(self, **more):
        k = self.logits.shape[1]
        return StagedModel([dict] * k, [self.head(i) for i in range(k)], **more)


def batches(n, sizes, seed=0):
    """Rows in random order, in batches whose sizes are taken in turn."""
    order = np.random.default_rng(seed).permutation(n)
    edges = np.minimum(np.cumsum([0, *np.resize(sizes, n)]), n)
    return [order[a:b] for a, b in pairwise(edges) if b > a]


def served(server, parts, n=N, **given):
    """Serve parts of the rows, numbered by row; exits, predictions and costs by row."""
    found = {name: np.full(n, np.nan) for name in ("exit", "prediction", "cost")}
    for rows in parts:
        per = {name: values[rows] for name, values in given.items()}
        one = server({"row": torch.from_numpy(rows)}, samples=rows, **per)
        for name, column in found.items():
            column[rows] = getattr(one, name)
    return found


def same(found, expected):
    for name, column in found.items():
        np.testing.assert_array_equal(column, getattr(expected, name), err_msg=name)


@pytest.mark.parametrize("spec", SPECS)
def test_every_policy_leaves_where_the_replay_says(spec, logits):
    """By batches of 1, 7 and 64: exits, answers and costs of `Policy.decide`; heads run for survivors only."""
    policy = fitted(spec)
    stored = Replayed(logits)
    found = served(serve(stored.model(), policy), batches(N, [1, 7, 64, 1]))
    same(found, policy.decide(logits))
    for k in range(K):
        ran = np.flatnonzero(found["exit"] >= k).tolist() if k in policy.path else []
        assert sorted(stored.seen[k]) == ran


@pytest.mark.parametrize("spec", ["e2cm:vectors=features", "de3_bert:vectors=features"])
def test_feature_vectors_reach_the_score(spec, logits):
    rng = np.random.default_rng(4)
    near, labels = outputs(400, K, C)
    vectors = [rng.normal(size=(400, 3)) + near[:, k, :3] for k in range(K)]
    data = po.from_arrays(near, labels, COSTS, unit="ms", features=vectors)
    policy = make_method(spec).fit_path(Tables(data).get("fit"), [3.0])[0].policy
    assert policy.needs_features
    mine = [(rng.normal(size=(N, 3)) + logits[:, k, :3]).astype(np.float32) for k in range(K)]
    calls = [lambda h, v=v: torch.from_numpy(v)[h["row"]] for v in mine]
    model = Replayed(logits).model(features=calls)
    same(served(serve(model, policy), batches(N, [1, 50])), policy.decide(logits, features=mine))
    with pytest.raises(InputError, match="'features of the model' must be 4 callables"):
        serve(Replayed(logits).model(), policy)


def simple(rule, thresholds=(0.5, 0.6, 0.7), **more):
    return Policy(rule, thresholds, COSTS, "ms", "logits", C, **more)


def test_results_of_one_sample_cannot_be_changed(logits):
    """They may be shared."""
    one = serve(Replayed(logits).model(), simple(Margin()))({"row": torch.arange(1)})
    for column in (one.exit, one.prediction, one.cost):
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_what_single_samples_go_by():
    model = Replayed(outputs(4, K, C)[0]).model()
    for policy in (
        simple(MaxProb()),
        simple(Margin()),
        simple(MaxProb(), mixture=Mixture([0.1, 0.1, 0.1], 0.5)),
        replace(simple(MaxProb()), kind="probabilities"),
        replace(simple(MaxProb()), kind="record", classes=0),
    ):
        assert serve(model, policy).reason == ""
    assert "probabilities" in serve(model, simple(MaxProb()), probabilities=True).reason
    experts = ExpertPolicy(("clean", "blur"), (simple(Margin()), simple(MaxProb())))
    chances = replace(simple(MaxProb()), kind="probabilities")
    assert native_or_skip(model, simple(MaxProb())).reason == ""
    for policy, more, words in (
        (experts, {}, "several contexts"),
        (simple(MaxProb()), {"probabilities": True}, "are asked for"),
        (chances, {}, "one of logits alone. Got prob"),
    ):
        with pytest.raises(InputError, match=words):
            serve(model, policy, native=True, **more)


def native_or_skip(model, policy):
    try:
        return serve(model, policy, native=True)
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "spec",
    [
        "max_prob", "entropy", "vote", "optimal_stopping", "e2cm", "random",
        "max_prob:answer=combined", "entropy:thresholds=joint+mix=true",
    ],
)  # fmt: skip
def test_machine_code_leaves_where_the_policy_does(spec, logits, monkeypatch):
    """Drawn, exact, learned, mixed scores; on a threshold with exp in it the policy itself decides."""
    policy = fitted(spec)
    if not policy.mixture:
        scores = policy.trace(logits).scores[:, :-1]
        policy = replace(policy, thresholds=np.sort(scores, axis=0)[N // 2])
    server = native_or_skip(Replayed(logits).model(), policy)
    asked, step = set(), Policy.step
    monkeypatch.setattr(Policy, "step", lambda *a: asked.add(now) or step(*a))
    found = {name: np.empty(N) for name in ("exit", "prediction", "cost")}
    for now in range(N):
        said = server({"row": torch.tensor([now])}, samples=[now])
        for name, column in found.items():
            column[now] = getattr(said, name)[0]
    same(found, policy.decide(logits))
    assert len(asked) < 0.1 * N
    if spec in ("max_prob", "entropy"):
        assert asked


def test_machine_code_of_other_rows(logits):
    """Half precision, strides, rows that no policy takes; heads whose rows are changed afterwards."""
    policy = simple(Margin())
    stored = Replayed(logits, torch.float16)
    expected = policy.decide(stored.logits.float().numpy())
    same(served(native_or_skip(stored.model(), policy), batches(N, [1])), expected)
    broken = logits.copy()
    broken[:, 1, 2] = np.nan
    server = native_or_skip(Replayed(broken).model(), simple(Margin(), [2.0] * 3))
    with pytest.raises(InputError, match="finite largest value"):
        server({"row": torch.arange(1)})
    with pytest.raises(InputError, match=r"of shape \(n, 6\)"):
        native_or_skip(Replayed(logits[:, :, :5]).model(), policy)({"row": torch.arange(1)})
    scores = policy.trace(logits).scores
    on = replace(policy, thresholds=[2.0, scores[7, 1], 2.0])
    rows = torch.from_numpy(logits[7:8].copy())

    def stage(hidden):
        rows[:, : hidden["k"]] = 50.0  # what a layer in place does to the outputs before
        return {"k": hidden["k"] + 1}

    def reset(hidden):
        rows.copy_(torch.from_numpy(logits[7:8]))
        return {"k": torch.ones(1, dtype=int)}

    heads = [lambda h, k=k: rows[:, k] for k in range(K)]
    model = StagedModel([reset, stage, stage, stage], heads)
    said = native_or_skip(model, on)(torch.zeros(1, 1))
    assert said.exit[0] == on.decide(logits[7:8]).exit[0] == 1


@pytest.mark.parametrize("sizes", [[1], [64]])
def test_bad_outputs_are_refused_by_name(sizes, logits):
    for value in (np.nan, np.inf):
        broken = logits.copy()
        broken[:, 1, 2] = value
        with pytest.raises(InputError, match="finite largest value"):
            served(serve(Replayed(broken).model(), simple(MaxProb(), [2.0] * 3)), batches(N, sizes))
    with pytest.raises(InputError, match=r"'output of exit 0' must be of shape \(n, 6\)"):
        served(serve(Replayed(logits[:, :, :5]).model(), simple(MaxProb())), batches(N, sizes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_are_decided_as_float32(dtype, logits):
    stored = Replayed(logits, dtype)
    expected = simple(Margin()).decide(stored.logits.float().numpy())
    same(served(serve(stored.model(), simple(Margin())), batches(N, [1, 40])), expected)


def test_exits_that_are_skipped_run_no_head(logits):
    policy = Policy(MaxProb(), [0.6], [2.0, 8.0], "ms", "logits", C, kept=(1, 3), model_exits=4)
    stored = Replayed(logits)
    same(served(serve(stored.model(), policy), batches(N, [1, 30])), policy.decide(logits))
    assert not stored.seen[0] and not stored.seen[2] and len(stored.seen[1]) == N


def test_a_mixture_counts_the_samples_that_came(logits):
    policy = simple(MaxProb(), mixture=Mixture([0.9, 0.9, 0.9], 0.5, seed=3))
    server = serve(Replayed(logits).model(), policy)
    found = np.concatenate(
        [server({"row": torch.arange(a, b)}).exit for a, b in pairwise([0, 1, 50, 51, N])]
    )
    np.testing.assert_array_equal(found, policy.decide(logits).exit)
    assert (found != simple(MaxProb()).decide(logits).exit).any()
    with pytest.raises(InputError, match="'samples' must be one number per sample: 2"):
        server({"row": torch.arange(2)}, samples=[1])


def test_threads_share_the_count(logits):
    server = serve(Replayed(logits).model(), simple(MaxProb()))
    with ThreadPoolExecutor(4) as pool:
        for _ in range(80):
            pool.submit(server, {"row": torch.arange(3)})
    assert server._counted(1) == 4 * 20 * 3


def test_experts_by_context(logits):
    """Heads route by the contexts that the batch carries; every expert has its own path and costs."""
    other = outputs(N, K, C, seed=9)[0]
    context = np.random.default_rng(0).integers(0, 2, N)
    both = torch.from_numpy(np.stack([logits, other]))
    costs, kept = [1.5, 4.5, 9.0], (0, 2, 3)
    skips = Policy(MaxProb(), [0.7, 0.8], costs, "ms", "logits", C, kept=kept, model_exits=4)
    policy = ExpertPolicy(("clean", "blur"), (simple(Margin()), skips))
    which = torch.from_numpy(context)
    heads = [lambda h, k=k: both[which[h["row"]], h["row"], k] for k in range(K)]
    server = serve(StagedModel([dict] * K, heads), policy)
    mixed = np.where(context[:, None, None] == 0, logits, other)
    found = served(server, batches(N, [1, 40, 3]), context=context)
    same(found, policy.decide(mixed, context))
    with pytest.raises(InputError, match="'context' must be given: one of clean, blur"):
        server({"row": torch.arange(2)})
    with pytest.raises(InputError, match="'context' must be left out"):
        serve(Replayed(logits).model(), simple(MaxProb()))({"row": torch.arange(1)}, context=0)


def test_records_and_probabilities(logits):
    """Heads that return a record, and heads that return probabilities, with policies of that kind."""
    chances = torch.from_numpy(logits).softmax(-1)
    confidence, prediction = chances.max(-1)

    def record(k):
        return lambda h: {
            "prediction": prediction[h["row"], k],
            "confidence": confidence[h["row"], k],
        }

    heads, policy = (
        [record(k) for k in range(K)],
        replace(simple(MaxProb()), kind="record", classes=0),
    )
    model = StagedModel([dict] * K, heads)
    due = policy.decide([head({"row": torch.arange(N)}) for head in heads])
    same(served(serve(model, policy), batches(N, [1, 9])), due)
    with pytest.raises(InputError, match="'probabilities' must be False"):
        serve(model, policy, probabilities=True)
    policy, model = (
        replace(simple(MaxProb()), kind="probabilities"),
        Replayed(chances.numpy()).model(),
    )
    same(served(serve(model, policy), batches(N, [1, 9])), policy.decide(chances.numpy()))


def test_an_empty_batch(logits):
    one = serve(Replayed(logits).model(), simple(MaxProb()))({"row": torch.arange(0)})
    assert len(one.exit) == len(one.prediction) == len(one.cost) == 0


def test_cascade_of_models_reads_the_original_input(logits):
    """Texts in, logits out; a model that the policy skips is never called."""
    calls = [0] * K

    def model(k):
        def run(texts):
            calls[k] += len(texts)
            return logits[[int(text) for text in texts], k]

        return run

    policy = Policy(MaxProb(), [0.7], [2.0, 8.0], "USD", "logits", C, kept=(1, 3), model_exits=4)
    server = serve(StagedModel.of_cascade([model(k) for k in range(K)]), policy)
    expected = policy.decide(logits)
    many = server([str(i) for i in range(N)])
    np.testing.assert_array_equal(many.exit, expected.exit)
    assert calls == [0, N, 0, (expected.exit == 3).sum()]
    assert [int(server([str(i)]).exit[0]) for i in range(20)] == expected.exit[:20].tolist()


def test_stages_that_return_logits_themselves(logits):
    stored = Replayed(logits)
    stages = [lambda h, k=k: (h, stored.head(k)(h)) for k in range(K)]
    policy = simple(Margin())
    same(served(serve(StagedModel(stages), policy), batches(N, [1, 30])), policy.decide(logits))
    with pytest.raises(InputError, match=r"'stage 0' must be a callable that returns \(hidden"):
        serve(StagedModel([dict] * K), policy)({"row": torch.arange(3)})


def test_arguments_are_checked(logits):
    model = Replayed(logits).model()
    two = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", "logits", C)
    for words, call in {
        "'model' must be a StagedModel": lambda: serve(torch.nn.Identity(), simple(MaxProb())),
        "'policy' must be a Policy": lambda: serve(model, "policy.json"),
        "'model' must be of 2 exits": lambda: serve(model, two),
        "'heads' must be 4 callables": lambda: StagedModel([dict] * 4, [dict] * 3),
        "'stages' must be at least one": lambda: StagedModel([]),
        "'batch' must be a tensor": lambda: serve(model, simple(MaxProb()))("text"),
    }.items():
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(logits):
    stored = Replayed(logits)
    stored.logits = stored.logits.cuda()
    policy = simple(MaxProb())
    server = serve(stored.model(), policy)
    for rows in batches(N, [1, 64]):
        one = server({"row": torch.from_numpy(rows).cuda()})
        np.testing.assert_array_equal(one.exit, policy.decide(logits[rows]).exit)
