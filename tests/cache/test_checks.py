"""Malformed input: a table of what is refused, and what the message must name."""

import numpy as np
import pytest
from cache_rows import CONF, COSTS, NAMES, PRED, P, X, Y, batch
from hypothesis import given, settings
from hypothesis import strategies as st

from policyopt._cache.arrays import from_arrays
from policyopt._cache.data import shared_rows
from policyopt._cache.reader import open_cache
from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost
from policyopt.runtime._errors import InputError


def spoil(array, value, *at):
    array = np.array(array)
    array[at] = value
    return array


#: arguments of from_arrays -> what the message must match
REFUSED = {
    "nothing": ({}, "'outputs' must be given"),
    "+inf": ({"outputs": spoil(X, np.inf, 7, 1, 2)}, r"\+inf.*row 7, exit 1"),
    "all -inf": ({"outputs": spoil(X, -np.inf, 7, 1)}, "at least one class.*row 7, exit 1"),
    "two axes": ({"outputs": X[:, :, 0]}, "3 axes"),
    "one class": ({"outputs": X[:, :, :1]}, "at least 2 classes"),
    "no rows": ({"outputs": X[:0]}, "at least 1"),
    "text": ({"outputs": np.full((4, 2, 3), "a")}, "numbers"),
    "complex": ({"outputs": X + 1j}, "numbers"),
    "ragged": ({"outputs": [[[1, 2], [3]]]}, "numbers"),
    "probabilities as logits": ({"outputs": P, "kind": "logits"}, "kind='probabilities'"),
    "logits as probabilities": ({"outputs": X, "kind": "probabilities"}, "kind='logits'"),
    "one bad probability row": ({"outputs": spoil(P, 0.9, 3, 2), "kind": "probabilities"}, "row 3, exit 2"),
    "kind": ({"outputs": X, "kind": "logit"}, "one of logits, probabilities, record"),
    "axes that do not fit": ({"outputs": X, "labels": Y, "axes": "KNC"}, "labels"),
    "label C": ({"outputs": X, "labels": spoil(Y, 5, 9)}, "classes 0 to 4.*5 at row 9"),
    "label -2": ({"outputs": X, "labels": spoil(Y, -2, 9)}, "-1.*-2 at row 9"),
    "label 1.5": ({"outputs": X, "labels": spoil(Y + 0.0, 1.5, 9)}, "whole.*row 9"),
    "too few labels": ({"outputs": X, "labels": Y[:-1]}, "labels.*60 rows"),
    "one-hot labels": ({"outputs": X, "labels": np.eye(5)[Y]}, "argmax"),
    "costs too few": ({"outputs": X, "costs": [1, 2]}, "exits.*2.*3"),
    "costs negative": ({"outputs": X, "costs": [-1, 2, 3]}, "0 or more"),
    "costs zero": ({"outputs": X, "costs": [0, 0, 0]}, "more than 0"),
    "costs of text": ({"outputs": X, "costs": "1,2,3"}, "numbers"),
    "cost kind": ({"outputs": X, "costs": [1, 2, 3], "cost_kind": "mean"}, "standalone"),
    "sample costs elsewhere": ({"outputs": X, "sample_costs": {"ms": CONF[:, :2]}}, "ms"),
    "split empty": ({"outputs": X, "split": {"fit": 0.5, "test": 0.001}}, "at least one row"),
    "split zero": ({"outputs": X, "split": {"fit": 0.5, "test": 0}}, r"share in \(0, 1\]"),
    "split name": ({"outputs": X, "split": {"../fit": 0.5}}, "A-Z"),
    "metadata": ({"outputs": X, "metadata": {"a": object()}}, "JSON"),
    "splits and outputs": ({"outputs": X, "splits": {"fit": {"outputs": X}}}, "alone"),
    "splits misspelt": ({"splits": {"fit": {"logits": X}}}, "logits"),
    "splits of other C": ({"splits": {"fit": {"outputs": X}, "test": {"outputs": P[:, :, :4] * 9}}}, "classes.*5"),
    "confidence 1.1": ({"confidence": spoil(CONF, 1.1, 2, 0), "prediction": PRED}, "row 2, exit 0"),
    "confidence NaN": ({"confidence": spoil(CONF, np.nan, 2, 0), "prediction": PRED}, "row 2"),
    "confidence alone": ({"confidence": CONF}, "prediction"),
    "prediction -2": ({"confidence": CONF, "prediction": spoil(PRED, -2, 1, 1)}, "row 1, exit 1"),
    "prediction of C": ({"confidence": CONF, "prediction": PRED, "classes": 3}, "prediction.*classes 0 to 2"),
    "correct disagrees": ({"confidence": CONF, "prediction": PRED, "labels": Y, "correct": Y[:, None] != PRED}, "prediction == label.*row 0, exit 0"),
    "no answer is wrong": ({"confidence": CONF, "prediction": np.full((60, 3), -1), "correct": np.ones((60, 3))}, "-1 is wrong"),
    "correct 2": ({"confidence": CONF, "correct": np.full((60, 3), 2)}, "true or false"),
    "entropy": ({"confidence": CONF, "prediction": PRED, "entropy": -CONF - 1}, "nats"),
    "top_prob unsorted": ({"top_prob": np.sort(P, axis=2)[:, :, :2], "prediction": PRED}, "largest first"),
    "sample costs of a split": ({"splits": {"fit": {"outputs": np.zeros((4, 2, 3)), "sample_costs": np.ones((4, 2))}}, "costs": [1, 2]}, "'sample_costs' must be a mapping"),
    "splits of other widths": ({"splits": {"fit": batch(9), "test": batch(9, features=[np.ones((9, d)) for d in (4, 1, 7)])}}, "widths 4, 2, 7. Got widths 4, 1, 7"),
    "splits without features": ({"splits": {"fit": batch(9), "test": batch(9, 1, features=None)}}, "widths 4, 2, 7. Got none"),
    "context 3": (batch(20, context=np.full(20, 3), contexts=NAMES), r"0 to 2 \(clean, blur, noise\). Got 3 at row 0"),
    "context NaN": (batch(20, context=np.full(20, np.nan)), r"Got nan at row 0"),
    "too few contexts": (batch(20, context=np.zeros(19, int)), r"each of the 20 rows. Got 19 context"),
    "contexts of two axes": (batch(20, context=np.zeros((20, 1), int)), r"of shape \(n,\)"),
    "no context": (batch(20, context=None, contexts=NAMES), "'context' must be given with every batch"),
    "contexts of one name": (batch(20, contexts=("a", "a", "b")), "different names"),
    "contexts in one text": (batch(20, contexts="abc"), "different names"),
    "too many contexts": (batch(20, contexts=[f"n{e}" for e in range(1025)]), "0 to 1024"),
    "features in one array": (batch(20, features=np.zeros((20, 3, 2))), "a list of K arrays"),
    "record and outputs": ({"outputs": X, "confidence": CONF, "prediction": PRED}, "kind='record'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    arguments, expected = REFUSED[name]
    with pytest.raises(InputError, match=expected):
        from_arrays(**arguments)


WRITER = {
    "no costs": ({"costs": []}, "costs"),
    "costs as numbers": ({"costs": [1, 2, 3]}, "Cost"),
    "costs of another K": ({"costs": [Cost("a", "ms", [1, 2]), Cost("b", "J", [1, 2, 3])]}, "K"),
    "costs of one name": ({"costs": [Cost("a", "ms", [1, 2]), Cost("a", "J", [1, 2])]}, "twice"),
    "odd dtype": ({"dtype": "int8"}, "float16 or float32"),
    "shard_bytes": ({"shard_bytes": 0}, "shard_bytes"),
    "split_seed": ({"split_seed": -1}, "seed"),
    "shares": ({"shares": {"pool": 0.5}}, "pool"),
}


@pytest.mark.parametrize("name", WRITER)
def test_writer_arguments(tmp_path, name):
    arguments, expected = WRITER[name]
    with pytest.raises(InputError, match=expected):
        CacheWriter(tmp_path, **{"costs": [Cost("c", "ms", [1, 2, 4])], **arguments})


def test_a_bad_batch_adds_nothing(tmp_path):
    def refused(match, *args, **options):
        with pytest.raises(InputError, match=match):
            cache.append(*args, **options)

    with CacheWriter(tmp_path / "a", costs=COSTS) as cache:
        refused("A-Z", "a/b", X, Y)
        refused("exits", "fit", X[:, :2], Y)
        refused("'context' must be absent", "fit", X, Y, context=Y)
        cache.append("fit", X[:10], Y[:10])
        refused("classes", "fit", X[:, :, :4], Y)
        refused("same ones", "fit", X)
        refused("pool", "pool", X, Y)
        refused("sample_costs", "fit", X, Y, sample_costs={"ms": np.ones((60, 3))})
        refused("row 13, exit 2 of split 'fit'", "fit", spoil(X[10:20], np.nan, 3, 2), Y[:10])
        cache.append("fit", X[10:20], Y[10:20])
    refused("with", "fit", X, Y)
    found = open_cache(tmp_path / "a").splits["fit"].array("outputs")
    np.testing.assert_array_equal(found, X[:20])
    with CacheWriter(tmp_path / "d", costs=COSTS, contexts=NAMES) as cache:
        refused("with every batch, one of clean", "test", **batch(5, context=None))
        cache.append("test", **batch(5))
    with pytest.raises(InputError, match="at least 1"), CacheWriter(tmp_path / "b", costs=COSTS):
        pass
    assert not (tmp_path / "b").exists()
    writer = CacheWriter(tmp_path / "c", costs=COSTS)
    match = "12 of the 60 rows of 'fit' standing also in 'test'"
    with pytest.raises(InputError, match=match), writer as cache:
        cache.append("fit", X)
        cache.append("test", np.concatenate([X[:12], X + 1]))


def test_what_is_allowed():
    """Records that say only what is right; labels that are not known, logits that are masked."""
    data = from_arrays(confidence=CONF, correct=CONF > 0.5)
    assert (data.splits["pool"].array("prediction") == -1).all()
    data = from_arrays(spoil(X, -np.inf, 0, 0, 1), spoil(Y, -1, 0), costs=[1, 2, 3], unit="ms")
    assert data.splits["pool"].array("labels")[0] == -1
    assert data.cost().unit == "ms" and "notes" not in data.metadata


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(200, 3000),
    cells=st.sampled_from([30, 300, 3000, 10**12]),
    copied=st.sampled_from([0.0, 0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 10**6),
)
def test_overlap_is_told_from_chance(n, cells, copied, seed):
    """Independent draws from few possible records are let be; copied rows are found."""
    rng = np.random.default_rng(seed)
    large = rng.zipf(1.3, 2 * n) % cells if cells < 10**9 else rng.integers(0, cells, 2 * n)
    small = rng.zipf(1.3, n) % cells if cells < 10**9 else rng.integers(0, cells, n)
    take = int(copied * n)
    small[:take] = large[:take]
    count = shared_rows(small, large)
    if copied == 0:
        assert count < max(2, 0.05 * n)
    elif cells > 10**9:
        assert count >= take - 2
