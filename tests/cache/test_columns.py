"""Feature vectors and contexts: kept beside the outputs, in every form, and read by scores and `info`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from cache_rows import COSTS, NAMES, WIDTHS, batch, keyed

import policyopt as po
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime import InputError, Policy
from policyopt.runtime._outputs_file import read_features
from policyopt.runtime._scores import ScoreRule


@dataclass(frozen=True)
class Norm(ScoreRule):
    """The length of the feature vector."""

    name = "norm"
    required_columns = frozenset({"features"})

    def score(self, k, output, state):
        return np.sqrt((output.features.astype(np.float64) ** 2).sum(axis=1)), state


def policy_of(**more):
    return Policy(Norm(), [2.0, 1.5], [1, 2, 3], "exits", "logits", 5, **more)


def test_written_in_shards_and_read_back(tmp_path):
    """Batches of any size, float16 where it came so, int16; a table's rows in any order, over blocks."""
    with po.CacheWriter(tmp_path / "c", costs=COSTS, contexts=NAMES, shard_bytes=4000) as cache:
        for seed, n in enumerate((30, 1, 44)):
            cache.append("test", **batch(n, seed))
    data = po.open_cache(tmp_path / "c")
    whole = [batch(n, seed) for seed, n in enumerate((30, 1, 44))]
    assert data.feature_widths == WIDTHS and len(data.splits["test"].blocks) > 2
    assert data.contexts == NAMES and data.splits["test"].blocks[0]["context"].dtype == np.int16
    assert data.splits["test"].array("features:1").dtype == np.float16
    assert isinstance(data.splits["test"].blocks[0]["features:0"].base, np.ndarray)  # mapped
    table = Tables(data).get("test")
    rows = np.random.default_rng(0).permutation(75)[:40]
    for k in range(3):
        exact = np.concatenate([one["features"][k] for one in whole]).astype(np.float32)
        np.testing.assert_array_equal(table.feature(k), exact)
        np.testing.assert_array_equal(table.take(rows).feature(k), exact[rows])
        np.testing.assert_array_equal(table.take(rows).feature(k, slice(5, 9)), exact[rows[5:9]])
    np.testing.assert_array_equal(table.keep_exits((0, 2)).feature(1), table.feature(2))
    assert table.known >= {"features", "log_prob", "entropy"} and table.contexts == NAMES
    exact = np.concatenate([one["context"] for one in whole])
    np.testing.assert_array_equal(table.keep_exits((1,)).context, exact)
    np.testing.assert_array_equal(table.take(rows).take(np.arange(5)).context, exact[rows[:5]])


def test_in_memory_as_on_disk_and_counted_in_the_fingerprint():
    same, other = {"fit": batch(20), "test": batch(20, 1)}, batch(20)
    other["features"][2][7, 3] += 1
    found = [
        po.from_arrays(splits=same, contexts=NAMES),
        po.from_arrays(splits=same),
        po.from_arrays(splits=same | {"fit": other}, contexts=NAMES),
        po.from_arrays(splits=same, contexts=NAMES[::-1]),
    ]
    assert found[0].feature_widths == WIDTHS and Tables(found[0]).get("fit").has_features
    assert found[0].contexts == NAMES and found[1].contexts == ("0", "1", "2")
    assert len({data.fingerprint for data in found}) == 4
    bare = po.from_arrays(splits={"fit": batch(20, features=None, context=None)})
    table = Tables(bare).get("fit")
    assert not bare.feature_widths and "features" not in table.known
    assert bare.contexts == () and table.context is None
    with pytest.raises(InputError, match=r"'fit' must hold feature vectors.*features_0"):
        table.feature(0)
    table = Tables(po.from_arrays(
        confidence=np.full((9, 2), 0.5), prediction=np.zeros((9, 2)), labels=np.zeros(9),
        features=[np.zeros((9, 1)), np.ones((9, 3))], context=np.zeros(9, int), contexts=["only"],
        split={"test": 1.0},
    )).get("test")  # fmt: skip
    assert table.feature(1).shape == (9, 3) and "log_prob" not in table.known
    assert table.context.tolist() == [0] * 9


def test_a_score_sees_its_features():
    given, policy = batch(50, context=None), policy_of()
    logits, features = given["outputs"], given["features"]
    assert policy.needs_features
    whole = policy.decide(logits, features=features)
    lengths = np.stack([np.linalg.norm(f.astype("d"), axis=1) for f in features], axis=1)
    by_hand = np.where(lengths[:, 0] >= 2, 0, np.where(lengths[:, 1] >= 1.5, 1, 2))
    np.testing.assert_array_equal(whole.exit, by_hand)
    data = po.from_arrays(**given, split={"test": 1.0})
    np.testing.assert_array_equal(replay(policy, Tables(data).get("test")).exit, by_hand)
    some = policy_of(active_exits=(0, 1, 3), model_exits=4)
    four, vectors = logits[:, [0, 1, 0, 2]], [*features[:2], None, features[2]]
    found = some.decide(four, features=vectors).exit
    np.testing.assert_array_equal(found, np.array([0, 1, 3])[by_hand])
    with pytest.raises(InputError, match=r"'features of exit 0' must be given"):
        policy.step(0, logits[:, 0], policy.start(np.arange(50)))
    infinite = [features[0], np.full((50, 2), np.inf), features[2]]
    for vectors, said in (
        (None, r"'features of exit 0' must be given"), (features[:2], "a list of 3 arrays"),
        ([*features[:2], features[2][:3]], r"exit 2' must be of shape \(50, D\)"),
        (infinite, "'features of exit 1' must be finite"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=said):
            policy.decide(logits, features=vectors)
    bare = po.from_arrays(**batch(5, features=None), split={"test": 1.0})
    with pytest.raises(InputError, match="must hold feature vectors"):
        replay(policy, Tables(bare).get("test"))


def test_new_vectors_are_read_from_the_outputs_file(tmp_path):
    arrays = keyed(6)
    np.savez(tmp_path / "a.npz", **arrays)
    np.testing.assert_array_equal(
        read_features(tmp_path / "a.npz", policy_of())[2], arrays["features_2"]
    )
    assert (
        read_features(tmp_path / "a.npz", policy_of(active_exits=(0, 1, 2), model_exits=4))[3]
        is None
    )
    del arrays["features_1"]
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match="no features_1"):
        read_features(tmp_path / "b.npz", policy_of())
