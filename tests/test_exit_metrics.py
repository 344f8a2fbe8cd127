"""Per-exit metrics against their definitions and scikit-learn, what metadata record, `info --full`."""

import json
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss
from synthetic import outputs

import policyopt as po
from policyopt._intervals import proportion_interval
from policyopt._report.calibration import Observed, calibration_records
from policyopt._study.exits import _less
from tests.conftest import refuses

COSTS = {"costs": [1, 2, 4, 8], "unit": "ms"}


def three(metadata=None, sharper=1.0, **more):
    """A cache with rows of the training, whose logits are surer of the label by a factor."""
    logits, labels = outputs(1500, 4, 6)
    rows = {n: slice(i * 500, i * 500 + 500) for i, n in enumerate(("fit", "test", "train"))}
    splits = {n: {"outputs": logits[at].copy(), "labels": labels[at]} for n, at in rows.items()}
    train = splits["train"]["outputs"]
    train[np.arange(500), :, labels[rows["train"]]] *= sharper
    return po.from_arrays(splits=splits, metadata=metadata, **COSTS, **more)


def test_metrics_are_as_defined():
    data = three()
    found = po.exit_metrics(data)
    logits, labels = (data.splits["test"].array(name) for name in ("outputs", "labels"))
    mass = np.exp(logits.astype(float))
    mass /= mass.sum(axis=2, keepdims=True)
    said, right = mass.argmax(axis=2), mass.argmax(axis=2) == labels[:, None]
    seen = Observed(mass.max(axis=2), right.astype(float))
    told = calibration_records("none", seen, np.full(500, -1))[::2]
    for k, one in enumerate(found.exits):
        assert one["exit"] == k and one["cost"] == 2.0**k and one["rows"] == 500
        assert one["accuracy"] == accuracy_score(labels, said[:, k])
        assert one["accuracy_low"], one["accuracy_high"] == proportion_interval(right[:, k])
        assert one["loss"] == pytest.approx(log_loss(labels, mass[:, k], labels=range(6)), rel=1e-5)
        assert one["loss_low"] < one["loss"] < one["loss_high"]
        for field in ("ece", "ece_low", "ece_high", "brier"):
            assert one[field] == pytest.approx(told[k][field], abs=1e-6)
        assert one["agreement"] == (said[:, k] == said[:, -1]).mean()
        assert one["overthinking"] == (right[:, k] & ~right[:, -1]).mean()
        assert one["recorded"] == {}


def test_overfitting_is_seen_where_it_is_planted():
    plain, over = (po.exit_metrics(three(sharper=s)).exits for s in (1.0, 1.5))
    for same, gap in zip(plain, over, strict=True):
        assert gap["gap_from"] == "rows" and gap["accuracy_gap_low"] > 0 < gap["loss_gap_low"]
        assert same["accuracy_gap_low"] < 0 < same["accuracy_gap_high"]
    assert po.exit_metrics(three(), "train").exits[0]["accuracy_gap"] is None
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        records = []
        for p, n in ((0.9, 300), (0.8, 500)):
            right = (rng.random(n) < p).astype(float)
            low, high = proportion_interval(right)
            records.append({"a": right.mean(), "a_low": low, "a_high": high})
        _, low, high = _less("a", *records)
        held += low <= 0.1 <= high
    assert 0.93 <= held / 400 <= 0.975


def test_what_the_metadata_record_is_checked():
    good = {"parameters": [10, 20, 30, 40], "train_accuracy": [1.0, 1, 1, 1]}
    bad = {
        "few": [1, 2], "text": [1, 2, 3, "4"], "flags": [True, False, True, True], "one": 3,
        "validation_accuracy": [91, 92, 93, 94], "train_loss": [0.1, None, 0.1, 0.1],
    }  # fmt: skip
    training = {
        "seconds": 12.5,
        "strategy": "joint",
        "weights": [0.5, 1],
        "more": {"a": 1},
        "done": None,
    }
    logits, labels = outputs(300, 4, 6)
    one = {"test": {"outputs": logits, "labels": labels}}
    told = {"per_exit": good | bad, "training": training}
    found = po.exit_metrics(po.from_arrays(splits=one, metadata=told, **COSTS))
    assert [r["recorded"] for r in found.exits] == [
        {"parameters": 10 * k, "train_accuracy": 1} for k in (1, 2, 3, 4)
    ]
    assert list(found.training) == ["seconds", "strategy", "weights"]
    left_out = [note.split(" left out")[0].split(": ")[1] for note in found.notes]
    assert left_out == [*bad, "done"]  # what is nested is no fault
    last = found.exits[-1]
    assert last["gap_from"] == "metadata" and last["loss_gap"] is None
    assert last["accuracy_gap"] == pytest.approx(1 - last["accuracy"])
    off = po.exit_metrics(po.from_arrays(splits=one, metadata={"per_exit": [1, 2]}, **COSTS))
    assert "per_exit" in off.notes[0] and off.exits[0]["gap_from"] is None


def _kinds():
    rng = np.random.default_rng(0)
    logits, labels = outputs(200, 3, 4)
    summary = {"confidence": rng.random((200, 3)), "prediction": logits.argmax(axis=2)}
    some = np.where(np.arange(200) < 50, -1, labels)
    cut = np.where(np.arange(4) == (labels[:, None, None] + 1) % 4, -np.inf, logits)
    sets, values = rng.random((200, 5)) < 0.4, rng.normal(size=200)
    near = values[:, None] + rng.normal(size=(200, 3))
    return {
        "logits": {"outputs": logits, "labels": labels},
        "summary": {**summary, "labels": labels},
        "correct": {**summary, "correct": rng.random((200, 3)) < 0.7},
        "graded": {"outputs": logits, "labels": labels, "quality": rng.random((200, 3))},
        "unlabelled": {"outputs": logits, "labels": some},
        "impossible": {"outputs": cut, "labels": (labels + 1) % 4},
        "multilabel": {"outputs": rng.normal(size=(200, 3, 5)) + 2 * sets[:, None], "labels": sets, "kind": "multilabel"},
        "regression": {"outputs": near[:, :, None], "labels": values, "kind": "regression", "error_scale": 1.0},
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_kinds()))
def test_of_every_kind_what_is_known_is_told(name):
    data = po.from_arrays(**_kinds()[name], costs=[1, 2, 4], unit="ms", split={"test": 1.0})
    found = po.exit_metrics(data)
    text = json.dumps(vars(found), allow_nan=False)
    assert text and found.exits[-1]["overthinking"] == 0
    known = {f for f in ("accuracy", "loss", "ece", "agreement") if found.exits[0][f] is not None}
    lacks = {
        "summary": {"loss"}, "correct": {"loss"}, "impossible": {"loss"}, "multilabel": {"loss", "agreement"},
        "regression": {"accuracy", "loss", "ece", "agreement"},
    }  # fmt: skip
    assert {"accuracy", "loss", "ece", "agreement"} - known == lacks.get(name, set())
    if name == "unlabelled":
        assert found.exits[0]["rows"] == 150 and "50 of the 200" in found.notes[0]
    if name == "impossible":
        assert "infinite" in found.notes[0]


def test_info_full(run, tmp_path):
    names = (
        "parameters head_multiply_adds train_seconds validation_accuracy validation_loss best_epoch"
    )
    each = {n: [1, 20, 300, 4000] if n == "parameters" else [0.25] * 4 for n in names.split()}
    told = {"per_exit": each, "training": {"seconds": 12.5}}
    data, cache = three(told, sharper=1.5), tmp_path / "cache"
    with po.CacheWriter(cache, costs=data.costs, metadata=told) as writer:
        for name, rows in data.splits.items():
            writer.append(name, rows.array("outputs"), rows.array("labels"))
    status, out, err = run("info", cache, "--full", columns="80")
    assert status == 0 and not err and max(map(len, out.splitlines())) <= 80
    for word in (
        "overthink %",
        "loss gap",
        "head multiply adds",
        "4,000",
        "seconds 12.5",
        "split test",
    ):
        assert word in out
    content = json.loads(run("info", cache, "--full", "--format", "json")[1])
    assert content["metrics"]["exits"] == po.exit_metrics(po.open_cache(cache)).exits
    assert run("info", cache, "--full", "--format", "csv")[1].startswith("exit,cost,unit,rows,")
    assert "split train" in run("info", cache, "--full", "--split", "train")[1]
    assert "--full" in run("info", cache, "--split", "fit")[2]
    assert "metrics" not in json.loads(run("info", cache, "--format", "json")[1])
    code = (
        "import sys; from policyopt._cli.app import main\ntry: main()\nexcept SystemExit: pass\n"
        "assert not {'policyopt._study.exits', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, "info", cache], check=True, stdout=subprocess.PIPE)


def test_head_costs_are_shown_where_they_are_stated(run, tmp_path):
    data, cache = three(), tmp_path / "cache"
    costs = {"named": [po.Cost("time", "ms", (1, 2, 4, 8), heads=(0.125, 0.25, 0.375, 0))]}
    with po.CacheWriter(cache, costs=costs["named"]) as writer:
        writer.append("test", data.splits["test"].array("outputs"))
    out = run("info", cache)[1]
    assert "time: head" in out and "0.375" in out


def test_refusals():
    refuses("split", po.exit_metrics, three(), "fog")
    logits, _ = outputs(50, 3, 4)
    bare = po.from_arrays(logits, costs=[1, 2, 4], unit="ms", split={"test": 1.0})
    refuses("label", po.exit_metrics, bare)
