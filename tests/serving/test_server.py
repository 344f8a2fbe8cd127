"""Serving: every sample leaves where a replay says, whatever the batches, the policy, the hidden state."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from policies import fitted
from synthetic import cache, outputs
from test_methods import SPECS

import policyopt as po
from policyopt.export.c_run import NoCompiler
from policyopt.methods import make_method
from policyopt.runtime import ExpertPolicy, InputError, Mixture, Policy
from policyopt.runtime.scores import Entropy, Margin, MaxProb, Patience
from policyopt.table import Tables

torch = pytest.importorskip("torch")
from policyopt.serving import StagedModel, serve  # noqa: E402

N, K, C = 300, 4, 6
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


RULES = [MaxProb(), Margin(), Entropy(C)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_one_sample_is_decided_as_the_policy_does(rule, logits, monkeypatch):
    """Thresholds on scores of the rows themselves: ties and neighbours go through the policy."""
    scores = simple(rule).trace(logits).scores
    thresholds = [scores[5, 0], np.nextafter(scores[6, 1], 9), scores[7, 2]]
    policy = simple(rule, thresholds)
    asked = []
    step = Policy.step
    monkeypatch.setattr(Policy, "step", lambda *a: asked.append(a[1]) or step(*a))
    found = served(serve(Replayed(logits).model(), policy), [np.array([i]) for i in range(N)])
    assert 1 <= len(asked) < 0.05 * N  # the shortcut spares nearly all steps
    same(found, policy.decide(logits))
    one = serve(Replayed(logits).model(), policy)({"row": torch.arange(1)})
    for column in (
        one.exit,
        one.prediction,
        one.cost,
    ):  # results may be shared: none can be changed
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


def test_what_single_samples_go_by():
    model = Replayed(outputs(4, K, C)[0]).model()
    for policy in (
        simple(MaxProb()),
        simple(Patience()),
        simple(MaxProb(), mixture=Mixture([0.1, 0.1, 0.1], 0.5)),
        replace(simple(MaxProb()), kind="probabilities"),
    ):
        assert serve(model, policy).reason == ""
    record = serve(model, replace(simple(MaxProb()), kind="record", classes=0))
    assert record.reason == "the policy reads records"
    assert "probabilities" in serve(model, simple(MaxProb()), probabilities=True).reason
    experts = ExpertPolicy(("clean", "blur"), (simple(Margin()), simple(MaxProb())))
    assert "contexts" in serve(model, experts).reason
    for policy, more, words in (
        (experts, {}, "several contexts"), (simple(MaxProb()), {"probabilities": True}, "are asked for"),
        (replace(simple(MaxProb()), kind="probabilities"), {}, "one of logits alone. Got prob"),
    ):  # fmt: skip
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
        "max_prob", "entropy", "patience", "vote", "optimal_stopping", "e2cm", "act", "random",
        "max_prob:answer=combined", "entropy:thresholds=joint+mix=true",
    ],
)  # fmt: skip
def test_machine_code_leaves_where_the_policy_does(spec, logits, monkeypatch):
    """As drawn, exact, learned and mixed scores; thresholds on scores of some rows, which the policy itself decides where exp is in them."""
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


@pytest.mark.parametrize("spec", ["optimal_stopping", "vote", "max_prob:answer=combined"])
def test_in_doubt_the_policy_decides_from_there_on(spec, logits, monkeypatch):
    """Thresholds on the scores of some rows: these, and few others, go through `Policy.step`."""
    policy = make_method(spec).fit_path(Tables(cache(400, K, C)).get("fit"), [3.0])[0].policy
    scores = policy.trace(logits).scores
    policy = replace(policy, thresholds=[scores[5, 0], np.nextafter(scores[6, 1], 9), scores[7, 2]])
    server, expected = serve(Replayed(logits).model(), policy), policy.decide(logits)
    asked, step = set(), Policy.step
    monkeypatch.setattr(Policy, "step", lambda *a: asked.add(now) or step(*a))
    for now in range(N):
        one = server({"row": torch.tensor([now])}, samples=[now])
        assert (one.exit[0], one.prediction[0]) == (expected.exit[now], expected.prediction[now])
    if spec != "vote":  # whose scores are exact
        assert 5 in asked
    assert len(asked) < 0.05 * N


@pytest.mark.parametrize("sizes", [[1], [64]])
def test_bad_outputs_are_refused_by_name(sizes, logits):
    for value, words in ((np.nan, "finite largest value"), (np.inf, "finite largest value")):
        broken = logits.copy()
        broken[:, 1, 2] = value
        with pytest.raises(InputError, match=words):
            served(serve(Replayed(broken).model(), simple(MaxProb(), [2.0] * 3)), batches(N, sizes))
    with pytest.raises(InputError, match=r"'output of exit 0' must be of shape \(n, 6\)"):
        served(serve(Replayed(logits[:, :, :5]).model(), simple(MaxProb())), batches(N, sizes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_are_decided_as_float32(dtype, logits):
    stored = Replayed(logits, dtype)
    expected = simple(Margin()).decide(stored.logits.float().numpy())
    same(served(serve(stored.model(), simple(Margin())), batches(N, [1, 40])), expected)


def test_exits_that_are_skipped_run_no_head(logits):
    policy = Policy(
        MaxProb(), [0.6], [2.0, 8.0], "ms", "logits", C, kept=(1, 3), model_exits=4
    )  # fmt: skip
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
    workers = [
        threading.Thread(target=lambda: [server({"row": torch.arange(3)}) for _ in range(20)])
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert server._counted(1) == 4 * 20 * 3


def test_experts_by_context(logits):
    """Heads route by the contexts that the batch carries; every expert has its own path and costs."""
    other = outputs(N, K, C, seed=9)[0]
    context = np.random.default_rng(0).integers(0, 2, N)
    both = torch.from_numpy(np.stack([logits, other]))
    skips = Policy(
        MaxProb(), [0.7, 0.8], [1.5, 4.5, 9.0], "ms", "logits", C, kept=(0, 2, 3), model_exits=4
    )  # fmt: skip
    policy = ExpertPolicy(("clean", "blur"), (simple(Margin()), skips))
    heads = [
        lambda h, k=k: both[torch.from_numpy(context)[h["row"]], h["row"], k] for k in range(K)
    ]
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

    policy = replace(simple(MaxProb()), kind="record", classes=0)
    same(
        served(serve(StagedModel([dict] * K, [record(k) for k in range(K)]), policy), batches(N, [1, 9])),
        policy.decide([record(k)({"row": torch.arange(N)}) for k in range(K)]),
    )  # fmt: skip
    with pytest.raises(InputError, match="'probabilities' must be False"):
        serve(StagedModel([dict] * K, [record(k) for k in range(K)]), policy, probabilities=True)
    policy = replace(simple(MaxProb()), kind="probabilities")
    same(
        served(serve(Replayed(chances.numpy()).model(), policy), batches(N, [1, 9])),
        policy.decide(chances.numpy()),
    )


@pytest.mark.parametrize("size", [1, 50])
def test_probabilities_are_those_of_the_exit_taken(size, logits):
    server = serve(Replayed(logits).model(), simple(MaxProb()), probabilities=True)
    one = server({"row": torch.arange(size)})
    taken = torch.from_numpy(logits[np.arange(size), one.exit]).double().softmax(-1).numpy()
    np.testing.assert_allclose(one.probabilities, taken, atol=1e-7)
    np.testing.assert_array_equal(one.probabilities.argmax(1), one.prediction)


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
    lacking = serve(StagedModel([dict] * K), policy)
    with pytest.raises(
        InputError, match=r"'stage 0' must be a callable that returns \(hidden, logits\)"
    ):
        lacking({"row": torch.arange(3)})


def test_arguments_are_checked(logits):
    model = Replayed(logits).model()
    with pytest.raises(InputError, match="'model' must be a StagedModel"):
        serve(torch.nn.Identity(), simple(MaxProb()))
    with pytest.raises(InputError, match="'policy' must be a Policy"):
        serve(model, "policy.json")
    with pytest.raises(InputError, match="'model' must be of 2 exits"):
        serve(model, Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", "logits", C))
    with pytest.raises(InputError, match="'heads' must be 4 callables"):
        StagedModel([dict] * 4, [dict] * 3)
    with pytest.raises(InputError, match="'stages' must be at least one"):
        StagedModel([])
    with pytest.raises(InputError, match="'batch' must be a tensor"):
        serve(model, simple(MaxProb()))("text")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu(logits):
    stored = Replayed(logits)
    stored.logits = stored.logits.cuda()
    policy = simple(MaxProb())
    server = serve(stored.model(), policy)
    for rows in batches(N, [1, 64]):
        one = server({"row": torch.from_numpy(rows).cuda()})
        np.testing.assert_array_equal(one.exit, policy.decide(logits[rows]).exit)
