"""Wrapping models: chains cut by names, compiled stages; the closed loop."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple

import numpy as np
import pytest

import policyopt as po
from policyopt.runtime import InputError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from policyopt.serving import StagedModel, export_cache, from_sequential, measure, serve  # noqa: E402
from policyopt.serving._staged import part, size, take  # noqa: E402

C = 5


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
    assert measured.seconds.shape == (5, 3) and (np.diff(measured.latency.values) > 0).all()
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
