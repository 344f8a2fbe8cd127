"""Serving: models wrapped and run; every sample leaves where a replay says; what users get wrong is told by name."""

import functools
import warnings
from collections import OrderedDict, UserDict, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from policies import fitted, on_features
from random_graphs import Steep
from replayed import COSTS, IN_TURN, LOGITS, C, K, N, Replayed, batches, same, simple
from synthetic import cache, outputs

import policyopt as po
from policyopt._export.c_compiler import NoCompiler
from policyopt.runtime import ExpertPolicy, InputError, Mixture, Policy
from policyopt.runtime._scores import Entropy, Margin, MaxProb

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from policyopt.serving import (  # noqa: E402
    StagedModel,
    TrainingModeWarning,
    export_cache,
    from_sequential,
    measure,
    serve,
)
from policyopt.serving._staged import part, size, take  # noqa: E402

CHANCES = torch.from_numpy(LOGITS).softmax(-1).numpy()
TWO = Policy(MaxProb(), [0.6], [1.0, 2.0], "ms", "logits", 4)
LATER = Policy(MaxProb(), [0.7], [2.0, 8.0], "ms", "logits", C, active_exits=(1, 3), model_exits=4)


def served(server, parts, n=N, **given):
    """Serve parts of the rows, numbered by row; exits, predictions and costs by row."""
    found = {name: np.full(n, np.nan) for name in ("exit", "prediction", "cost")}
    for rows in parts:
        per = {name: values[rows] for name, values in given.items()}
        one = server({"row": torch.from_numpy(rows)}, samples=rows, **per)
        for name, column in found.items():
            column[rows] = getattr(one, name)
    return found


def ask(server, *rows):
    return server({"row": torch.tensor(rows)})


def native_or_skip(model, policy):
    try:
        return serve(model, policy, native=True)
    except NoCompiler as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("spec", IN_TURN)
def test_every_policy_leaves_where_the_replay_says(spec):
    """By batches of 1, 7 and 64: exits, answers and costs of `Policy.decide`; heads run for survivors only."""
    policy = fitted(spec)
    stored = Replayed(LOGITS)
    found = served(serve(stored.model(), policy), batches(N, [1, 7, 64, 1]))
    same(found, policy.decide(LOGITS))
    for k in range(K):
        ran = np.flatnonzero(found["exit"] >= k).tolist() if k in policy.active_exits else []
        assert sorted(stored.seen[k]) == ran


def test_what_single_samples_go_by():
    model = Replayed(LOGITS).model()
    mine, chances = simple(MaxProb()), replace(simple(MaxProb()), kind="probabilities")
    for policy in (mine, simple(MaxProb(), mixture=Mixture([0.1, 0.1, 0.1], 0.5)), chances):
        assert serve(model, policy).reason == ""
    experts = ExpertPolicy(("clean", "blur"), (simple(Margin()), mine))
    assert native_or_skip(model, mine).reason == ""
    for policy, more, words in (
        (experts, {}, "several contexts"), (mine, {"probabilities": True}, "are asked for"),
        (mine, {"confidence": True}, "'native' must be False here.*confidence is asked for"),
        (chances, {}, "one of logits alone. Got prob"),
        (simple(Steep()), {}, "one whose scores C can compute"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            serve(model, policy, native=True, **more)
    one = ask(serve(model, mine), 0)
    for column in (one.exit, one.prediction, one.cost):  # results may be shared
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1


@pytest.mark.parametrize(
    "spec",
    [
        "max_prob", "entropy", "vote", "optimal_stopping", "e2cm", "random", "trust_score",
        "max_prob:answer=combined", "entropy:thresholds=joint+mix=true",
    ],
)  # fmt: skip
def test_machine_code_leaves_where_the_policy_does(spec, monkeypatch):
    """Drawn, exact, learned, mixed scores; on a threshold with exp in it the policy itself decides."""
    policy = fitted(spec)
    if not policy.mixture:
        scores = policy.trace(LOGITS).scores[:, :-1]
        policy = replace(policy, thresholds=np.sort(scores, axis=0)[N // 2])
    due, asked, step = policy.decide(LOGITS), [], Policy.step
    monkeypatch.setattr(Policy, "step", lambda *a: asked.append(a) or step(*a))
    same(served(native_or_skip(Replayed(LOGITS).model(), policy), batches(N, [1])), due)
    assert len(asked) < 0.1 * N and (asked or spec not in ("max_prob", "entropy"))


@pytest.mark.parametrize("start", [serve, native_or_skip])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_widths_are_decided_as_float32(dtype, start):
    stored = Replayed(LOGITS, dtype)
    expected = simple(Margin()).decide(stored.logits.float().numpy())
    same(served(start(stored.model(), simple(Margin())), batches(N, [1, 40])), expected)


def test_heads_whose_rows_are_changed_afterwards():
    policy, rows = simple(Margin()), torch.empty(1, K, C)
    on = replace(policy, thresholds=[2.0, policy.trace(LOGITS).scores[7, 1], 2.0])

    def stage(k, hidden):
        rows.copy_(torch.from_numpy(LOGITS[7:8]))
        rows[:, :k] = 50.0  # what a layer in place does to the outputs before
        return hidden

    stages = [functools.partial(stage, k) for k in range(K)]
    model = StagedModel(stages, [lambda h, k=k: rows[:, k] for k in range(K)])
    said = native_or_skip(model, on)(torch.zeros(1, 1))
    assert said.exit[0] == on.decide(LOGITS[7:8]).exit[0] == 1


@pytest.mark.parametrize("start", [serve, native_or_skip])
@pytest.mark.parametrize("n", [1, 64])
def test_bad_outputs_are_refused_by_name(start, n):
    broken = np.array([LOGITS[:n]] * 2)
    broken[:, :, 1, 2] = [[np.nan], [np.inf]]
    for logits, words in (
        (broken[0], "finite largest value"), (broken[1], "finite largest value"),
        (LOGITS[:, :, :5], r"'output of exit 0' must be of shape \(n, 6\)"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            ask(start(Replayed(logits).model(), simple(MaxProb(), [2.0] * 3)), *range(n))


def test_a_mixture_counts_the_samples_that_came():
    policy = simple(MaxProb(), mixture=Mixture([0.9, 0.9, 0.9], 0.5, seed=3))
    server = serve(Replayed(LOGITS).model(), policy)
    found = [ask(server, *range(a, b)).exit for a, b in pairwise([0, 1, 50, 51, N])]
    np.testing.assert_array_equal(np.concatenate(found), policy.decide(LOGITS).exit)
    assert (np.concatenate(found) != simple(MaxProb()).decide(LOGITS).exit).any()
    with pytest.raises(InputError, match="'samples' must be one number per sample: 2"):
        server({"row": torch.arange(2)}, samples=[1])
    server = serve(Replayed(LOGITS).model(), simple(MaxProb()))  # which threads share
    with ThreadPoolExecutor(4) as pool:
        for _ in range(80):
            pool.submit(server, {"row": torch.arange(3)})
    assert server._counted(1) == 4 * 20 * 3


def test_experts_by_context():
    both = np.stack([LOGITS, outputs(N, K, C, seed=9)[0]])
    context = np.random.default_rng(0).integers(0, 2, N)
    costs, kept = [1.5, 4.5, 9.0], (0, 2, 3)
    skips = Policy(MaxProb(), [0.7, 0.8], costs, "ms", "logits", C, active_exits=kept, model_exits=4)  # fmt: skip
    policy, model = ExpertPolicy(("clean", "blur"), (simple(Margin()), skips)), Replayed(LOGITS)
    model.logits = torch.from_numpy(mixed := both[context, np.arange(N)])
    server = serve(model.model(), policy)
    found = served(server, batches(N, [1, 40, 3]), context=context)
    same(found, policy.decide(mixed, context))
    with pytest.raises(InputError, match="'context' must be given: one of clean, blur"):
        ask(server, 0, 1)
    with pytest.raises(InputError, match="'context' must be left out"):
        serve(model.model(), simple(MaxProb()))({"row": torch.arange(1)}, context=0)


def test_cascade_of_models_reads_the_original_input():
    """Texts in, logits out; a model that the policy skips is never called."""
    calls = [0] * K

    def run(k, texts):
        calls[k] += len(texts)
        return LOGITS[[int(text) for text in texts], k]

    server = serve(StagedModel.of_cascade([functools.partial(run, k) for k in range(K)]), LATER)
    wanted, texts = LATER.decide(LOGITS).exit, [str(i) for i in range(N)]
    np.testing.assert_array_equal(server(texts).exit, wanted)
    assert calls == [0, N, 0, (wanted == 3).sum()]
    assert [server([text]).exit[0] for text in texts[:20]] == wanted[:20].tolist()


def own_logits(logits):
    stored = Replayed(logits)
    return StagedModel([lambda h, k=k: (h, stored.head(k)(h)) for k in range(K)])


def test_stages_may_return_logits_themselves_and_batches_be_empty():
    """Records, probabilities and features: `verify` asks servers of them, `tests/export/test_bundle.py`."""
    server, policy = serve(own_logits(LOGITS), simple(Margin())), simple(Margin())
    same(served(server, batches(N, [1, 30, 0])), policy.decide(LOGITS))
    one = ask(server)
    assert len(one.exit) == len(one.prediction) == len(one.cost) == 0


def test_arguments_are_checked():
    model, mine = Replayed(LOGITS).model(), simple(MaxProb())
    two = Policy(MaxProb(), [0.5], [1.0, 2.0], "ms", "logits", C)
    records = replace(mine, kind="summary", classes=0)
    for words, call in {
        "'features of the model' must be 4 callables": lambda: serve(
            model, on_features("e2cm:vectors=features")
        ),
        "'probabilities' must be False": lambda: serve(model, records, probabilities=True),
        r"'stage 0' must be a callable that returns \(hidden": lambda: ask(
            serve(StagedModel([dict] * K), mine), 0, 1, 2
        ),
        "'model' must be a StagedModel": lambda: serve(torch.nn.Identity(), mine),
        "'policy' must be a Policy": lambda: serve(model, "policy.json"),
        "'model' must be of 2 exits": lambda: serve(model, two),
        "'heads' must be 4 callables": lambda: StagedModel([dict] * 4, [dict] * 3),
        "'stages' must be at least one": lambda: StagedModel([]),
        "'batch' must be a tensor": lambda: serve(model, mine)("text"),
    }.items():
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize("rule", [MaxProb(), Margin(), Entropy(C)], ids=lambda rule: rule.name)
def test_decide_and_trace_refuse_probabilities(rule):
    mine = simple(rule)
    late = np.concatenate([CHANCES[:64], LOGITS[64:]])  # rows that are not looked at
    forms = [CHANCES.astype(width) for width in (np.float16, np.float32, np.float64)]
    for call in (mine.decide, mine.trace):
        for given in (*forms, late, list(CHANCES.swapaxes(0, 1)), torch.from_numpy(CHANCES)):
            with pytest.raises(InputError, match=r"exit 0' must be logits.*sum to 1: prob"):
                call(given)
        for value in (-0.2, 1.5):
            odd = CHANCES.copy()
            odd[2, 0, 1] = value
            call(odd)
        for given in (CHANCES[:3], LOGITS, np.abs(LOGITS)):  # so few could be logits
            call(given)
    both, turns = ExpertPolicy(("clean", "blur"), (mine, mine)), np.arange(N) % 2
    for policy, given, exit_ in (
        (mine, [CHANCES[:4]], 0), (LATER, [[None, *CHANCES.swapaxes(0, 1)[1:]]], 1), (both, [CHANCES, turns], 0),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"'output of exit {exit_}' must be logits"):
            policy.decide(*given)


def test_served_probabilities_are_refused_once_they_tell():
    """Batches at once, and again; single samples when the fourth has come."""
    stored, mine = Replayed(CHANCES).model(), simple(MaxProb())
    mixed = replace(mine, mixture=Mixture([0.9, 0.9, 0.9], 0.5))
    for model, policy, exit_, more in (
        (stored, mine, 0, {}), (stored, ExpertPolicy(("a", "b"), (mine, mine)), 0, {"context": 0}),
        (stored, LATER, 1, {}), (own_logits(CHANCES), mine, 0, {}),
    ):  # fmt: skip
        server = serve(model, policy)
        for _ in range(2):
            with pytest.raises(InputError, match=f"'output of exit {exit_}' must be logits"):
                server({"row": torch.arange(16)}, **more)
    for start in (serve, native_or_skip, functools.partial(serve, probabilities=True)):
        server = start(stored, mixed)
        for row in range(3):
            ask(server, row)
        for row in (3, 4):
            with pytest.raises(InputError, match="'output of exit 0' must be logits"):
                ask(server, row)


@pytest.mark.parametrize("sizes", [[1] * 8, [2, 3, 1], [1, 64, 1], [0, 1, 4]])
def test_logits_are_looked_at_once(sizes):
    """Exits are those of a replay from the first request on; then no more is looked at."""
    policy = simple(MaxProb())
    server = serve(Replayed(LOGITS).model(), policy)
    assert server.looking
    for low, high in pairwise(np.cumsum([0, *sizes])):
        found = ask(server, *range(low, high)).exit
        np.testing.assert_array_equal(found, policy.decide(LOGITS).exit[low:high])
    assert not server.looking


def linear(*more):
    return nn.Sequential(nn.Linear(4, 4), *more)


class Holder:
    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


WRAPS = {
    "bare": lambda m: m, "closure": lambda m: lambda x: m(x), "default": lambda m: lambda x, inner=m: inner(x),
    "partial": functools.partial, "object": Holder, "method": lambda m: m.forward,
    "nested": lambda m: lambda x, inner=[lambda x: m(x)]: inner[0](x),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrap", "where"),
    [*((wrap, "stages") for wrap in WRAPS), ("bare", "heads"), ("closure", "features")],
)
def test_training_mode_is_warned_of_wherever_the_module_is(wrap, where):
    parts = {name: [linear(), linear()] for name in ("stages", "heads", "features")}
    parts[where][1] = WRAPS[wrap](linear(nn.Dropout(0.3)))
    model = StagedModel(**parts)
    with pytest.warns(TrainingModeWarning, match=rf"\(Dropout in {where}\[1\]\).*eval\(\)") as told:
        serve(model, TWO)
    assert len(told) == 1 and told[0].filename == __file__


def test_it_is_warned_of_by_export_measure_and_serve_and_not_by_requests(tmp_path):
    model = StagedModel([linear(nn.BatchNorm1d(4)), linear()], [linear(), linear(nn.Dropout())])
    x, cost = torch.randn(40, 4), po.Cost("compute", "MMACs", [1, 2])
    for call in (
        lambda: measure(model, x, runs=1, warmup=0),
        lambda: export_cache(model, (x, torch.arange(40) % 4), tmp_path / "a", costs=cost),
        lambda: serve(model.compiled("eager"), TWO), lambda: serve(model, TWO),
        lambda: serve(model, TWO, compile=True, backend="eager"),
    ):  # fmt: skip
        words = r"BatchNorm1d in stages\[0\]; Dropout in heads\[1\]"
        with pytest.warns(TrainingModeWarning, match=words) as told:
            server = call()
        assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error", TrainingModeWarning)
        server(x)
        server(x[:7])


def test_only_what_answers_otherwise_in_training_is_told():
    for more, warns in (
        ([], False), ([nn.Dropout(0.0)], False), ([nn.LayerNorm(4)], False), ([nn.Dropout().eval()], False),
        ([nn.Dropout1d()], True), ([nn.AlphaDropout()], True), ([nn.MultiheadAttention(4, 2)], False),
        ([nn.MultiheadAttention(4, 2, dropout=0.1)], True), ([nn.LSTM(4, 4, 2, dropout=0.1)], True),
        ([type("DropPath", (nn.Identity,), {})()], True),
    ):  # fmt: skip
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            serve(StagedModel([linear(*more), linear()], [linear(), linear()]), TWO)
        assert len(told) == warns, more


def test_cut_chains_are_looked_into_and_left_in_their_mode():
    """A new `nn.Sequential` of modules in evaluation mode says that it trains itself."""
    chain = nn.Sequential(linear(), linear(nn.Dropout()), linear())
    with pytest.warns(TrainingModeWarning, match=r"\(Dropout in stages\[1\]\)"):
        serve(from_sequential(chain, ["0"], [linear()]), TWO)
    for child in chain:
        child.eval()
    staged = from_sequential(chain, ["0"], [linear()])
    assert not any(m.training for child in chain for m in child.modules())
    serve(staged, TWO)  # warnings are errors


@pytest.mark.parametrize("calibrator", [None, "platt"])
@pytest.mark.parametrize("size", [1, 50])
def test_confidence_and_probabilities_are_those_of_the_exit_taken(size, calibrator):
    mine = po.fit(cache(400), 2.0, "max_prob", calibrator=calibrator).policy
    model, rows = Replayed(LOGITS).model(), range(size)
    one, plain = ask(serve(model, mine, confidence=True), *rows), ask(serve(model, mine), *rows)
    assert one.confidence.shape == (size,) and one.probabilities is None is plain.confidence
    np.testing.assert_array_equal(one.exit, plain.exit)
    both = ask(serve(model, mine, confidence=True, probabilities=True), *rows)
    taken = torch.from_numpy(LOGITS[np.arange(size), one.exit]).double().softmax(-1).numpy()
    np.testing.assert_allclose(both.probabilities, taken, atol=1e-7)
    np.testing.assert_array_equal(both.probabilities.argmax(1), both.prediction)
    wanted = taken.max(1)
    if calibrator:
        curves = zip(one.exit, wanted, strict=True)
        wanted = np.array([mine.calibrator.curve(k, np.array([p]))[0] for k, p in curves])
        assert (np.abs(wanted - taken.max(1)) > 1e-3).any()
    for found in (one, both):
        np.testing.assert_allclose(found.confidence, wanted, rtol=1e-5)


@pytest.mark.parametrize("form", [lambda x: x, lambda x: {"x": x}, lambda x: (x, None)])
def test_numpy_batches_for_torch_modules_are_refused(form, tmp_path):
    first, head = nn.Linear(4, 4), nn.Linear(4, C)
    get = lambda b: b["x"] if isinstance(b, dict) else b[0] if isinstance(b, tuple) else b  # noqa: E731
    model = StagedModel([lambda b: first(get(b)), nn.ReLU()], [head, head])
    batch, cost = form(np.zeros((5, 4), np.float32)), po.Cost("c", "ms", [1, 2])
    server = serve(model, replace(TWO, classes=C))
    for call in (
        lambda: server(batch), lambda: server(form(np.zeros((1, 4), np.float32))),
        lambda: measure(model, batch, runs=1, warmup=0),
        lambda: export_cache(model, [(batch, None)], tmp_path / "c", costs=cost),
    ):  # fmt: skip
        words = r"'batch' must be of torch tensors.*numpy arrays.*torch\.from_numpy"
        with pytest.raises(InputError, match=words):
            call()
    assert len(server(form(torch.zeros(5, 4))).exit) == 5


def test_numpy_models_take_numpy_and_keep_their_own_errors():
    """Only modules of torch refuse arrays: what other stages raise is theirs."""
    rows, mine = LOGITS[:, :2], replace(TWO, classes=C)
    same_, broken = lambda x: x, lambda x: x.nothing
    model = StagedModel([same_, same_], [lambda x, k=k: x[:, k] for k in range(2)])
    np.testing.assert_array_equal(serve(model, mine)(rows).exit, mine.decide(rows).exit)
    for second, given in ((same_, rows), (nn.Linear(4, 4), torch.from_numpy(rows))):
        with pytest.raises(AttributeError, match="nothing"):
            serve(StagedModel([broken, second], [same_] * 2), mine)(given)


def test_devices_and_options_are_checked_before_anything_is_written(tmp_path):
    model = StagedModel([lambda x: x] * K, [lambda x, k=k: x[:, k] for k in range(K)])
    given, out, cost = (torch.from_numpy(LOGITS), None), tmp_path / "c", po.Cost("c", "ms", COSTS)
    words = "'device' must be one that torch can use here"
    wrong = ["nowhere", 1.5, *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])]
    for more, told in (
        *(({"device": device}, words) for device in wrong),
        ({"foo": 1}, "'foo' must be left out, or one of kind, dtype,"),
    ):
        with pytest.raises(InputError, match=told):
            export_cache(model, given, out, costs=cost, **more)
    assert not out.exists()
    assert export_cache(model, given, out, costs=cost, device="cpu") == {"pool": N}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu():
    stored, policy = Replayed(LOGITS), simple(MaxProb())
    stored.logits = stored.logits.cuda()
    server = serve(stored.model(), policy)
    for rows in batches(N, [1, 64]):
        one = server({"row": torch.from_numpy(rows).cuda()})
        np.testing.assert_array_equal(one.exit, policy.decide(LOGITS[rows]).exit)


# Wrapping models.
def conv(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())


def head(width):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, C))


@pytest.fixture
def chain():
    torch.manual_seed(0)
    body = nn.Sequential(conv(4, 6), conv(6, 8))
    parts = {"stem": conv(1, 4), "body": body, "tail": conv(8, 8)}
    return nn.Sequential(OrderedDict(parts)).eval()


@pytest.fixture
def staged(chain):
    torch.manual_seed(1)
    heads = [head(w).eval() for w in (4, 6, 8)]
    return from_sequential(chain, ["stem", "body.0"], heads)


def images(n, seed=0):
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_chain_is_cut_by_names(chain, staged):
    x = images(9)
    with torch.inference_mode():
        stem, whole = chain.stem(x), chain(x)
        hidden = (stem, chain.body[0](stem), whole)
        wanted = [one(h) for one, h in zip(staged.heads, hidden, strict=True)]
        torch.testing.assert_close(list(staged(x)), wanted, rtol=0, atol=0)
        torch.testing.assert_close(staged.last(x), wanted[2], rtol=0, atol=0)
    assert not any(m.training for stage in staged.stages for m in stage.modules())
    whole = nn.Sequential(*chain, head(8)).eval()  # it ends in logits itself
    cut = from_sequential(whole, ["0", "1"], [head(4), head(8)])
    torch.testing.assert_close(cut(x)[2], whole(x))


def test_bad_cuts_heads_and_modules_are_refused(chain):
    one = [nn.Identity()]
    for cuts in (
        [], ["tail"], ["body", "stem"], ["body.7"], ["stem", "stem"],
        [0, 1], "stem", None, 3, [["stem"]], [None], b"0", [""],
    ):  # fmt: skip
        with pytest.raises(InputError, match="'cuts' must be names of children in their order, of"):
            from_sequential(chain, cuts, one * 3)
    for heads in ([], None):
        with pytest.raises(InputError, match="'heads' must be 2 callables, or 1"):
            from_sequential(chain, ["stem"], heads)
    with pytest.raises(InputError, match=r"'module' must be an nn\.Sequential"):
        from_sequential(chain.stem[0], ["0"], one)


Pair = namedtuple("Pair", "states mask")


def test_hidden_states_of_every_form_are_regrouped_together():
    x = torch.arange(12).reshape(4, 3)
    rows = np.array([0, 3])
    mask = (x[:, 0], torch.tensor(7), torch.ones(1, 3), ["p", "q", "r", "s"])
    hidden = Pair({"a": x, "b": [x, None]}, mask)
    kept = take(hidden, rows, 4)
    assert isinstance(kept, Pair) and kept.states["b"][1] is None
    for found in (kept.states["a"], kept.states["b"][0]):
        assert found.tolist() == x[[0, 3]].tolist()
    assert kept.mask[0].tolist() == [0, 9] and kept.mask[1] == 7 and kept.mask[2].shape == (1, 3)
    assert kept.mask[3] == ["p", "s"] and size(hidden) == 4 and size(UserDict(a=x)) == 4
    assert part(hidden, 1, 3, 4).mask[3] == ["q", "r"]
    for wrong in (torch.ones(3, 2), ["p"]):
        with pytest.raises(InputError, match="'hidden' must be of 4 rows"):
            take(wrong, rows, 4)
    image = torch.randn(10, 4, 6, 6).to(memory_format=torch.channels_last)
    assert take(image, rows, 10).is_contiguous(memory_format=torch.channels_last)


def test_compiled_stages_are_compiled_for_all_batch_sizes(staged):
    """Six stages of one class, eight batch sizes: nothing runs into dynamo's limit and falls back."""
    import torch._dynamo as dynamo

    stages = [conv(1, 3), *(conv(c, c + 1) for c in range(3, 8))]
    model = StagedModel([s.eval() for s in stages], [head(c).eval() for c in range(3, 9)])
    dynamo.reset()
    dynamo.utils.counters.clear()
    quick = model.compiled("eager")
    with torch.inference_mode():
        for n in (40, 1, 17, 3, 33, 1, 2, 25):
            torch.testing.assert_close(list(quick(images(n))), list(model(images(n))))
        before = dynamo.utils.counters["stats"]["unique_graphs"]
        quick(images(29))
    frames = dynamo.utils.counters["frames"]
    assert frames["total"] == frames["ok"]  # past the limit, a frame is no longer ok
    assert 12 <= before == dynamo.utils.counters["stats"]["unique_graphs"]
    with pytest.raises(InputError, match=r"'backend' must be one of .*inductor"):
        staged.compiled("magic")


def test_the_loop_closes(staged, tmp_path):
    """Measure, export, fit, attach, serve: served exits and costs are those of the evaluation."""
    x, labels = images(400), torch.arange(400) % C
    measured = measure(staged, x[:8], runs=5, warmup=1)
    # By hand: 3 x 3 convolutions on 8 x 8, then the heads, each passed on the way.
    by_hand = [9 * 4 * 64 + 4 * C, 9 * 4 * 6 * 64 + 6 * C, 9 * (6 * 8 + 8 * 8) * 64 + 8 * C]
    np.testing.assert_allclose(measured.compute.values, np.cumsum(by_hand) / 1e6)
    assert (
        measured.seconds.shape == (5, 3)
        and measured.table is None
        and (np.diff(measured.latency.values) > 0).all()
    )
    middle = np.median(measured.seconds, axis=0) / 8 * 1e3
    np.testing.assert_allclose(measured.latency.values, middle)
    told = {"latency_batch": 8, "latency_runs": 5, "threads": 0, "device": "cpu"}
    assert measured.describe() | {"threads": 0} == told
    loader = [(x[a : a + 50], labels[a : a + 50]) for a in (200, 250, 300, 350)]
    rows = export_cache(
        staged, {"fit": (x[:200], labels[:200]), "test": loader}, tmp_path / "cache",
        costs=measured.costs, batch=64, metadata=measured.describe(),
    )  # fmt: skip
    assert rows == {"fit": 200, "test": 200}
    data = po.open_cache(tmp_path / "cache")
    with torch.inference_mode():
        whole = np.stack(list(staged(x[200:])), axis=1)
    kept = data.splits["test"].array("outputs")
    np.testing.assert_allclose(kept, whole, rtol=1e-4, atol=1e-6)
    policy = po.fit(data, "60%", method="max_prob").policy
    outcome, served = po.evaluate(policy, data), serve(staged, policy)(x[200:])
    assert (served.exit != outcome.exit).sum() <= 1  # rounding by batch size, at a threshold
    assert served.cost.mean() == pytest.approx(outcome.cost.mean(), rel=0.01)


def test_features_pools_and_records_are_exported(tmp_path):
    vectors = [lambda h: h[:, :2], lambda h: h]
    model = StagedModel([lambda x: x, lambda x: 2 * x], [lambda h: h, lambda h: -h], vectors)
    x, labels = torch.randn(40, 3), torch.arange(40) % 3
    cost = po.Cost("compute", "MMACs", [1, 2])
    export_cache(model, (x, labels), tmp_path / "a", costs=cost, features=True, batch=7)
    data = po.open_cache(tmp_path / "a")
    assert set(data.split_names) >= {"fit", "test"}
    np.testing.assert_array_equal(data.splits["pool"].array("outputs")[:, 1], -2 * x.numpy())

    def record(h):
        return dict(zip(("confidence", "prediction"), h.softmax(-1).max(-1), strict=True))

    heads = [lambda h: h] * 2
    placed = StagedModel([torch.clone, lambda h: h.mul_(2)], heads, heads)  # works in place
    export_cache(placed, {"fit": (x, labels)}, tmp_path / "i", costs=cost, features=True)
    stored = po.open_cache(tmp_path / "i").splits["fit"]
    for found in (stored.array("outputs")[:, 0], stored.array("features:0"), placed(x)[0]):
        np.testing.assert_array_equal(found, x.numpy())
    kept = StagedModel.of_cascade([lambda x: record(x), lambda x: record(-x)])
    export_cache(kept, (x, labels), tmp_path / "b", costs=cost, kind="summary", classes=3)
    stored = po.open_cache(tmp_path / "b").splits["pool"]
    np.testing.assert_array_equal(stored.array("prediction")[:, 1], (-x).argmax(1).numpy())
    for words, broken, source, more in (
        ("'features of the model' must be 2 callables", kept, (x, None), {"features": True}),
        ("'labels of 'fit'' must be one per sample: 40", model, {"fit": (x, labels[:3])}, {}),
        (r"pairs \(inputs, labels\)", model, {"fit": [x]}, {}),
        (r"a pair \(inputs, labels\)", model, {"fit": (x,)}, {}),
    ):
        with pytest.raises(InputError, match=words):
            export_cache(broken, source, tmp_path / "c", costs=cost, **more)


def test_measuring_needs_something_to_count(staged):
    still = StagedModel([lambda x: x], [lambda x: x])
    for model, rows, runs, words in (
        (still, 2, 1, "'model' must compute with torch's matrix products"),
        (staged, 2, 0, "'runs' must be 1 or more"),
        (staged, 0, 1, "'example' must be a batch"),
    ):
        with pytest.raises(InputError, match=words):
            measure(model, images(rows), runs=runs, warmup=0)
    models = [nn.Linear(3, C), nn.Sequential(nn.Linear(3, 9), nn.Linear(9, C))]  # each alone
    measured = measure(StagedModel.of_cascade(models), torch.randn(4, 3), runs=2, warmup=0)
    assert measured.compute.cascade and measured.latency.cascade
    np.testing.assert_allclose(measured.compute.values, np.cumsum([3 * C, 27 + 9 * C]) / 1e6)
