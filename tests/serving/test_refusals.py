"""What users get wrong around a served model is told by name: probabilities, training mode, inputs."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
from synthetic import outputs

import policyopt as po
from policyopt._export.c_compiler import NoCompiler
from policyopt.runtime import ExpertPolicy, InputError, Mixture, Policy
from policyopt.runtime._reading import looks_like_probabilities
from policyopt.runtime._scores import Entropy, Margin, MaxProb

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from policyopt.serving import (  # noqa: E402  # noqa: E402
    StagedModel,
    TrainingModeWarning,
    export_cache,
    from_sequential,
    measure,
    serve,
)

N, K, C = 80, 3, 6
LOGITS = outputs(N, K, C, seed=2)[0]
CHANCES = np.exp(LOGITS - LOGITS.max(-1, keepdims=True))
CHANCES /= CHANCES.sum(-1, keepdims=True)
COST = po.Cost("compute", "MMACs", [1, 2, 3])


def policy(rule=None, **more):
    return Policy(rule or MaxProb(), [0.6, 0.6], [1.0, 2.0, 3.0], "ms", "logits", C, **more)


def stored(rows, asked=None):
    """A model whose exits give these outputs; the batch holds row numbers."""

    def head(k):
        def run(h):
            if asked is not None:
                asked.append(k)
            return torch.from_numpy(rows)[h["row"], k]

        return run

    return StagedModel([dict] * K, [head(k) for k in range(K)])


def ask(server, *rows):
    return server({"row": torch.tensor(rows)})


# Probabilities for a policy of logits


@pytest.mark.parametrize("width", [np.float16, np.float32, np.float64])
def test_probabilities_look_like_it_and_logits_do_not(width):
    assert looks_like_probabilities(CHANCES[:, 0].astype(width))
    assert looks_like_probabilities(torch.from_numpy(CHANCES[:, 0].astype(width)))
    assert not looks_like_probabilities(LOGITS[:, 0].astype(width))
    assert not looks_like_probabilities(np.abs(LOGITS[:, 0]).astype(width))
    assert looks_like_probabilities(CHANCES[:4, 0]) and not looks_like_probabilities(CHANCES[:3, 0])
    odd = CHANCES[:, 0].astype(width)
    for value in (np.nan, np.inf, -0.2, 1.5):
        odd[2, 1] = value
        assert not looks_like_probabilities(odd)
    odd = CHANCES[:, 0].copy()
    odd[64:] = LOGITS[64:, 0]  # rows that are not looked at
    assert looks_like_probabilities(odd)


@pytest.mark.parametrize("rule", [MaxProb(), Margin(), Entropy(C)], ids=lambda rule: rule.name)
def test_decide_and_trace_refuse_probabilities(rule):
    mine = policy(rule)
    words = "'output of exit 0' must be logits.*sum to 1: probabilities"
    for call in (mine.decide, mine.trace):
        for given in (CHANCES, list(CHANCES.swapaxes(0, 1)), torch.from_numpy(CHANCES)):
            with pytest.raises(InputError, match=words):
                call(given)
        call(CHANCES[:3])  # so few could be logits
        call(LOGITS)
    later = Policy(rule, [0.6], [2.0, 3.0], "ms", "logits", C, kept=(1, 2), model_exits=3)
    with pytest.raises(InputError, match="'output of exit 1' must be logits"):
        later.decide([None, CHANCES[:, 1], CHANCES[:, 2]])
    experts = ExpertPolicy(("clean", "blur"), (mine, mine))
    with pytest.raises(InputError, match="must be logits"):
        experts.decide(CHANCES, np.arange(N) % 2)


def test_served_batches_of_probabilities_are_refused():
    server = serve(stored(CHANCES), policy())
    for _ in range(2):  # and again
        with pytest.raises(InputError, match="'output of exit 0' must be logits"):
            ask(server, *range(16))
    experts = serve(stored(CHANCES), ExpertPolicy(("a", "b"), (policy(), policy())))
    with pytest.raises(InputError, match="'output of exit 0' must be logits"):
        experts({"row": torch.arange(16)}, context=0)
    kept = Policy(MaxProb(), [0.6], [2.0, 3.0], "ms", "logits", C, kept=(1, 2), model_exits=3)
    with pytest.raises(InputError, match="'output of exit 1' must be logits"):
        ask(serve(stored(CHANCES), kept), *range(16))
    rows = torch.from_numpy(CHANCES)
    own = StagedModel([lambda h, k=k: (h, rows[h["row"], k]) for k in range(K)])
    with pytest.raises(InputError, match="'output of exit 0' must be logits"):
        ask(serve(own, policy()), *range(16))


@pytest.mark.parametrize("more", [{}, {"native": True}, {"probabilities": True}])
def test_single_samples_of_probabilities_are_refused_once_they_tell(more):
    try:
        server = serve(stored(CHANCES), policy(mixture=Mixture([0.9, 0.9], 0.5)), **more)
    except NoCompiler as error:
        pytest.skip(str(error))
    for row in range(3):
        assert ask(server, row).exit[0] == 2  # the full model, which is what would go unseen
    for row in (3, 4):
        with pytest.raises(InputError, match="'output of exit 0' must be logits"):
            ask(server, row)


@pytest.mark.parametrize("sizes", [[1] * 8, [2, 3, 1], [1, 64, 1], [0, 1, 4]])
def test_logits_are_looked_at_once(sizes):
    """Exits are those of a replay from the first request on; then the model itself is asked."""
    model, mine = stored(LOGITS), policy()
    server, wanted, low = serve(model, mine), mine.decide(LOGITS), 0
    assert server._run is not model and server._single.model is not model
    for n in sizes:
        rows = np.arange(low, low + n)
        np.testing.assert_array_equal(ask(server, *rows.tolist()).exit, wanted.exit[rows])
        low += n
    assert server._run is model and server._single.model is model


# Training mode


def linear(*more):
    return nn.Sequential(nn.Linear(4, 4), *more)


class Holder:
    """A callable that is no module, and has one."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, x):
        return self.inner(x)


class Named(nn.Module):
    """Has a method that is a stage."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def first(self, x):
        return self.inner(x)


def closed(inner):
    return lambda x: inner(x)


def given(inner):
    return lambda x, inner=inner: inner(x)


WRAPS = {
    "bare": lambda m: m, "closure": closed, "default": given, "partial": lambda m: functools.partial(m),
    "object": Holder, "method": lambda m: Named(m).first, "nested": lambda m: closed([closed(m)]),
}  # fmt: skip


@pytest.mark.parametrize(
    ("wrap", "where"),
    [*((wrap, "stages") for wrap in WRAPS), ("bare", "heads"), ("closure", "features")],
)
def test_training_mode_is_warned_of_wherever_the_module_is(wrap, where):
    parts = {name: [linear(), linear()] for name in ("stages", "heads", "features")}
    parts[where][1] = WRAPS[wrap](linear(nn.Dropout(0.3)))
    model = StagedModel(**parts)
    mine = Policy(MaxProb(), [0.6], [1.0, 2.0], "ms", "logits", 4)
    with pytest.warns(TrainingModeWarning, match=rf"\(Dropout in {where}\[1\]\).*eval\(\)") as told:
        serve(model, mine)
    assert len(told) == 1 and told[0].filename == __file__


def test_it_is_warned_of_by_export_measure_and_serve_and_not_by_requests(tmp_path):
    model = StagedModel([linear(nn.BatchNorm1d(4)), linear()], [linear(), linear(nn.Dropout())])
    x, cost = torch.randn(40, 4), po.Cost("compute", "MMACs", [1, 2])
    words = r"BatchNorm1d in stages\[0\]; Dropout in heads\[1\]"
    with pytest.warns(TrainingModeWarning, match=words) as told:
        measure(model, x, runs=1, warmup=0)
    assert told[0].filename == __file__
    with pytest.warns(TrainingModeWarning, match=words) as told:
        export_cache(model, (x, torch.arange(40) % 4), tmp_path / "a", costs=cost)
    assert told[0].filename == __file__
    mine = Policy(MaxProb(), [0.4], [1.0, 2.0], "ms", "logits", 4)
    for more in ({}, {"compile": True, "backend": "eager"}):
        with pytest.warns(TrainingModeWarning, match=words):
            server = serve(model, mine, **more)
    with pytest.warns(TrainingModeWarning, match=words):
        serve(model.compiled("eager"), mine)
    with warnings.catch_warnings(record=True) as none:
        warnings.simplefilter("always")
        server(x)
        server(x[:7])
    assert not [w for w in none if w.category is TrainingModeWarning]


@pytest.mark.parametrize(
    "more, warns",
    [
        ([], False), ([nn.Dropout(0.0)], False), ([nn.LayerNorm(4)], False), ([nn.Dropout().eval()], False),
        ([nn.Dropout1d()], True), ([nn.AlphaDropout()], True), ([nn.MultiheadAttention(4, 2)], False),
        ([nn.MultiheadAttention(4, 2, dropout=0.1)], True), ([nn.LSTM(4, 4, 2, dropout=0.1)], True),
        ([type("DropPath", (nn.Identity,), {})()], True),
    ],
)  # fmt: skip
def test_only_what_answers_otherwise_in_training_is_told(more, warns):
    model = StagedModel([linear(*more), linear()], [linear(), linear()])
    mine = Policy(MaxProb(), [0.6], [1.0, 2.0], "ms", "logits", 4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        serve(model, mine)
    assert len(told) == warns


def test_cut_chains_are_looked_into_and_left_in_their_mode():
    """A new `nn.Sequential` of modules in evaluation mode says that it trains itself."""
    mine = Policy(MaxProb(), [0.6], [1.0, 2.0], "ms", "logits", 4)
    chain = nn.Sequential(linear(), linear(nn.Dropout()), linear())
    with pytest.warns(TrainingModeWarning, match=r"\(Dropout in stages\[1\]\)"):
        serve(from_sequential(chain, ["0"], [linear()]), mine)
    parts = [linear(nn.Dropout()).eval() for _ in range(3)]
    staged = from_sequential(nn.Sequential(*parts), ["0"], [linear()])
    assert not any(m.training for part in parts for m in part.modules())
    serve(staged, mine)


# Confidence


@pytest.mark.parametrize("size", [1, 50])
def test_confidence_and_probabilities_are_those_of_the_exit_taken(size):
    server, rows = serve(stored(LOGITS), policy(), confidence=True), range(size)
    one, plain = ask(server, *rows), ask(serve(stored(LOGITS), policy()), *rows)
    assert one.confidence.shape == (size,) and one.probabilities is None is plain.confidence
    assert "confidence is asked for" in server.reason
    np.testing.assert_array_equal(one.exit, plain.exit)
    both = ask(serve(stored(LOGITS), policy(), confidence=True, probabilities=True), *rows)
    taken = torch.from_numpy(LOGITS[np.arange(size), one.exit]).double().softmax(-1).numpy()
    np.testing.assert_allclose(both.probabilities, taken, atol=1e-7)
    np.testing.assert_array_equal(both.probabilities.argmax(1), both.prediction)
    for served in (one, both):
        np.testing.assert_allclose(served.confidence, taken.max(1), rtol=1e-6)
    with pytest.raises(InputError, match=r"'native' must be False here.*confidence is asked for"):
        serve(stored(LOGITS), policy(), confidence=True, native=True)


def test_calibrated_confidence_is_served():
    logits, labels = outputs(400, K, C, seed=5)
    data = po.from_arrays(logits, labels, [1.0, 2.0, 3.0], unit="ms")
    mine = po.fit(data, 2.0, "max_prob", calibrator="platt").policy
    server = serve(stored(LOGITS), mine, confidence=True)
    many = ask(server, *range(N))
    wanted = np.empty(N)
    for i in range(N):
        state = mine.start(i)
        for k in mine.path:
            decision = mine.step(k, LOGITS[i, k], state)
            if decision.exit:
                break
        wanted[i] = decision.confidence
    np.testing.assert_array_equal(many.confidence, wanted)
    single = [server({"row": torch.tensor([i])}, samples=[i]).confidence[0] for i in range(20)]
    np.testing.assert_array_equal(single, wanted[:20])
    raw = serve(stored(LOGITS), po.fit(data, 2.0, "max_prob").policy, confidence=True)
    assert (ask(raw, *range(N)).confidence != wanted).any()


# Inputs


@pytest.mark.parametrize("form", [lambda x: x, lambda x: {"x": x}, lambda x: (x, None)])
def test_numpy_batches_for_torch_modules_are_refused(form, tmp_path):
    first, head = nn.Linear(4, 4), nn.Linear(4, C)
    get = lambda b: b["x"] if isinstance(b, dict) else b[0] if isinstance(b, tuple) else b  # noqa: E731
    model = StagedModel([lambda b: first(get(b)), nn.ReLU()], [head, head])
    mine = Policy(MaxProb(), [0.6], [1.0, 2.0], "ms", "logits", C)
    batch = form(np.zeros((5, 4), np.float32))
    server = serve(model, mine)
    words = r"'batch' must be of torch tensors.*numpy arrays.*torch\.from_numpy"
    for n in (5, 1):
        with pytest.raises(InputError, match=words):
            server(form(np.zeros((n, 4), np.float32)))
    with pytest.raises(InputError, match=words):
        measure(model, batch, runs=1, warmup=0)
    with pytest.raises(InputError, match=words):
        export_cache(model, [(batch, None)], tmp_path / "c", costs=po.Cost("c", "ms", [1, 2]))
    assert len(server(form(torch.zeros(5, 4))).exit) == 5


def test_numpy_models_take_numpy_and_keep_their_own_errors():
    """Only modules of torch refuse arrays: what other stages raise is theirs."""
    rows = LOGITS[:, :2]
    mine = Policy(MaxProb(), [0.6], [1.0, 2.0], "ms", "logits", C)
    model = StagedModel([lambda x: x, lambda x: x], [lambda x, k=k: x[:, k] for k in range(2)])
    np.testing.assert_array_equal(serve(model, mine)(rows).exit, mine.decide(rows).exit)
    broken = StagedModel([lambda x: x.nothing, lambda x: x], [lambda x: x] * 2)
    with pytest.raises(AttributeError, match="nothing"):
        serve(broken, mine)(rows)
    torches = StagedModel([lambda x: x.nothing, nn.Linear(4, 4)], [lambda x: x] * 2)
    with pytest.raises(AttributeError, match="nothing"):
        serve(torches, mine)(torch.from_numpy(rows))


def test_devices_and_options_are_checked_before_anything_is_written(tmp_path):
    x = torch.from_numpy(LOGITS)
    model = StagedModel([lambda x: x] * K, [lambda x, k=k: x[:, k] for k in range(K)])
    devices = ["nowhere", 1.5, *([] if torch.cuda.is_available() else ["cuda", "cuda:0"])]
    for device in devices:
        with pytest.raises(InputError, match="'device' must be one that torch can use here"):
            export_cache(model, (x, None), tmp_path / "c", costs=COST, device=device)
    with pytest.raises(InputError, match="'foo' must be left out, or one of kind, dtype,"):
        export_cache(model, (x, None), tmp_path / "c", costs=COST, foo=1)
    assert not (tmp_path / "c").exists()
    assert export_cache(model, (x, None), tmp_path / "c", costs=COST, device="cpu") == {"pool": N}
