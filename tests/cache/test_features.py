"""Feature vectors: kept beside the outputs, of every exit or none; they reach the score that reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest

import policyopt as po
from policyopt.cache import CacheWriter, open_cache
from policyopt.cache.importers.run import import_sources
from policyopt.cache.manifest import signed
from policyopt.replay import replay
from policyopt.runtime import InputError, Policy
from policyopt.runtime.outputs_file import read_features
from policyopt.runtime.scores import ScoreRule
from policyopt.table import Tables

WIDTHS = (4, 2, 7)


def batch(n, seed=0, **replaced):
    """The arrays of n rows of 3 exits and 5 classes."""
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(n, d)).astype(t) for d, t in zip(WIDTHS, "fef", strict=True)]
    found = {
        "outputs": rng.normal(size=(n, 3, 5)).astype("f"), "labels": rng.integers(0, 5, n),
        "features": features,
    }  # fmt: skip
    return found | replaced


def keyed(n, seed=0, prefix="", axes="KNC"):
    """The same under the keys of a file."""
    given = batch(n, seed)
    logits = given["outputs"] if axes == "NKC" else given["outputs"].swapaxes(0, 1).copy()
    named = {"logits": logits, "labels": given["labels"]}
    named |= {f"features_{k}": array for k, array in enumerate(given["features"])}
    return {prefix + key: array for key, array in named.items()}


@dataclass(frozen=True)
class Norm(ScoreRule):
    """The length of the feature vector."""

    name = "norm"
    needs = frozenset({"features"})

    def score(self, k, output, state):
        return np.sqrt((output.features.astype(np.float64) ** 2).sum(axis=1)), state


def policy_of(**more):
    return Policy(Norm(), [2.0, 1.5], [1, 2, 3], "exits", "logits", 5, **more)


def test_written_in_shards_and_read_back(tmp_path):
    """Batches of any size, float16 where it came so; a table's rows in any order, over blocks."""
    costs = po.Cost("c", "ms", [1, 2, 3])
    with CacheWriter(tmp_path / "c", costs=costs, shard_bytes=4000) as cache:
        for seed, n in enumerate((30, 1, 44)):
            cache.append("test", **batch(n, seed))
    data = open_cache(tmp_path / "c")
    whole = [batch(n, seed)["features"] for seed, n in enumerate((30, 1, 44))]
    assert data.feature_widths == WIDTHS and len(data.splits["test"].blocks) > 2
    assert data.splits["test"].array("features:1").dtype == np.float16
    assert isinstance(data.splits["test"].blocks[0]["features:0"].base, np.ndarray)  # mapped
    table = Tables(data).get("test")
    rows = np.random.default_rng(0).permutation(75)[:40]
    for k in range(3):
        exact = np.concatenate([features[k] for features in whole]).astype(np.float32)
        np.testing.assert_array_equal(table.feature(k), exact)
        np.testing.assert_array_equal(table.take(rows).feature(k), exact[rows])
        np.testing.assert_array_equal(table.take(rows).feature(k, slice(5, 9)), exact[rows[5:9]])
    np.testing.assert_array_equal(table.keep_exits((0, 2)).feature(1), table.feature(2))
    assert table.known >= {"features", "log_prob", "entropy"}


def test_in_memory_as_on_disk_and_counted_in_the_fingerprint():
    one = po.from_arrays(splits={"fit": batch(20), "test": batch(20, 1)})
    assert one.feature_widths == WIDTHS and Tables(one).get("fit").has_features
    other = batch(20)
    other["features"][2][7, 3] += 1
    changed = po.from_arrays(splits={"fit": other, "test": batch(20, 1)})
    assert one.fingerprint != changed.fingerprint
    bare = po.from_arrays(splits={"fit": batch(20, features=None)})
    assert not bare.feature_widths and "features" not in Tables(bare).get("fit").known
    with pytest.raises(InputError, match=r"'fit' must hold feature vectors.*features_0"):
        Tables(bare).get("fit").feature(0)
    records = po.from_arrays(
        confidence=np.full((9, 2), 0.5), prediction=np.zeros((9, 2)), labels=np.zeros(9),
        features=[np.zeros((9, 1)), np.ones((9, 3))],
    )  # fmt: skip
    assert records.feature_widths == (1, 3)
    assert "log_prob" not in Tables(records).get("test").known


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pt", "stacked"])
def test_imported_with_prefixed_splits(tmp_path, suffix, run):
    arrays = keyed(40, 0, "val_") | keyed(30, 1, "test_") | {"costs": np.array([1.0, 2, 3])}
    exact = batch(40)["features"]
    path = tmp_path / f"a{suffix if suffix != 'stacked' else '.npz'}"
    if suffix == ".safetensors":
        from safetensors.numpy import save_file

        save_file(arrays, path)
    elif suffix == ".pt":
        torch = pytest.importorskip("torch")
        found = {k: torch.tensor(a) for k, a in arrays.items() if "features" not in k}
        for prefix in ("val", "test"):
            vectors = [torch.tensor(arrays[f"{prefix}_features_{k}"]) for k in range(3)]
            found[f"{prefix}_features"] = vectors
        torch.save(found, path)
    elif suffix == "stacked":
        exact = [np.random.default_rng(k).normal(size=(40, 6)).astype("f") for k in range(3)]
        arrays = {k: a for k, a in arrays.items() if "features" not in k}
        arrays |= {"val_features": np.stack(exact), "test_features": np.stack(exact)[:, :30]}
        np.savez(path, **arrays)
    else:
        np.savez(path, **arrays)
    data = import_sources(path, tmp_path / "c", unit="ms").data
    assert data.feature_widths == tuple(a.shape[1] for a in exact)
    for k, array in enumerate(exact):
        np.testing.assert_array_equal(data.splits["fit"].array(f"features:{k}"), array)
    code, out, _ = run("info", tmp_path / "c", "--format", "json")
    assert code == 0 and json.loads(out)["features"] == list(data.feature_widths)
    assert f"width {data.feature_widths[0]}," in run("info", tmp_path / "c")[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("features_1"), r"of every exit, 0 to 2.*missing \['features:1'\]"),
        (lambda a: a.update(features_3=a["features_0"]), r"superfluous \['features:3'\]"),
        (
            lambda a: a.update(features_1=a["features_1"][:-1]),
            r"exit 1' must be of shape \(40, D\)",
        ),
        (lambda a: a.update(features_1=a["features_1"][:, 0]), r"exit 1' must be of shape"),
        (lambda a: a.update(features_1=a["features_1"][:, :0]), r"exit 1' must be of shape"),
        (lambda a: a["features_2"].__setitem__((3, 5), np.nan), r"nan in column 5 at row 3 of"),
        (lambda a: a.update(features_0=np.full((40, 2), 1e39)), r"finite in float32"),
        (lambda a: a.update(features_0=np.full((40, 2), "x")), r"array of numbers"),
        (lambda a: a.update(features=np.zeros((3, 40, 2))), r"one array with axes KND"),
    ],
)
def test_an_import_is_refused_by_name(tmp_path, change, said):
    arrays = keyed(40)
    change(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        import_sources(tmp_path / "a.npz", tmp_path / "c", unit="ms")
    assert not (tmp_path / "c").exists()


def test_splits_and_batches_are_alike():
    narrow = batch(20, 1)
    narrow["features"][1] = narrow["features"][1][:, :1]
    for other, got in ((batch(20, 1, features=None), "none"), (narrow, "widths 4, 1, 7")):
        with pytest.raises(InputError, match=rf"widths 4, 2, 7. Got {got}"):
            po.from_arrays(splits={"fit": batch(20), "test": other})
    with pytest.raises(InputError, match="a list of K arrays"):
        po.from_arrays(**batch(20, features=np.zeros((20, 3, 2))))


def test_a_manifest_with_other_widths_is_refused(tmp_path):
    with CacheWriter(tmp_path / "c", costs=po.Cost("c", "ms", [1, 2, 3])) as cache:
        cache.append("test", **batch(9))
    path = tmp_path / "c" / "manifest.json"
    content = json.loads(path.read_text())
    assert content["features"] == list(WIDTHS)
    for widths in ([4, 2], [4, 2, 8], [4, 2, -7], [4, 2, True], {}, [4, 2, 7, 7], None):
        path.write_text(json.dumps(signed(content | {"features": widths})))
        with pytest.raises(InputError):
            open_cache(tmp_path / "c")
    del content["features"]
    path.write_text(json.dumps(signed(content)))
    with pytest.raises(InputError, match="with arrays"):
        open_cache(tmp_path / "c")


def test_a_score_sees_its_features_in_batch_step_and_replay():
    given, policy = batch(50), policy_of()
    logits, features = given["outputs"], given["features"]
    assert policy.needs_features and not policy_of(mixture=None).kept
    whole = policy.decide(logits, features=features)
    lengths = np.stack([np.linalg.norm(f.astype("d"), axis=1) for f in features], axis=1)
    by_hand = np.where(lengths[:, 0] >= 2, 0, np.where(lengths[:, 1] >= 1.5, 1, 2))
    np.testing.assert_array_equal(whole.exit, by_hand)
    for row in range(50):
        state = policy.start(row)
        for k in policy.path:
            if policy.step(k, logits[row, k], state, features[k][row]).exit:
                break
        assert k == by_hand[row]
    data = po.from_arrays(**given, split={"test": 1.0})
    np.testing.assert_array_equal(replay(policy, Tables(data).get("test")).exit, by_hand)
    some = policy_of(kept=(0, 1, 3), model_exits=4)
    four, vectors = logits[:, [0, 1, 0, 2]], [*features[:2], None, features[2]]
    found = some.decide(four, features=vectors).exit
    np.testing.assert_array_equal(found, np.array([0, 1, 3])[by_hand])


def test_features_that_lack_are_named():
    given, policy = batch(5), policy_of()
    logits, features = given["outputs"], given["features"]
    with pytest.raises(InputError, match=r"'features of exit 0' must be given"):
        policy.step(0, logits[:, 0], policy.start(np.arange(5)))
    with pytest.raises(InputError, match=r"'features of exit 0' must be given"):
        policy.decide(logits)
    with pytest.raises(InputError, match="a list of 3 arrays"):
        policy.decide(logits, features=features[:2])
    with pytest.raises(InputError, match=r"exit 2' must be of shape \(5, D\)"):
        policy.decide(logits, features=[*features[:2], features[2][:3]])
    features[1][0, 0] = np.inf
    with pytest.raises(InputError, match="'features of exit 1' must be finite"):
        policy.decide(logits, features=features)
    bare = po.from_arrays(**batch(5, features=None), split={"test": 1.0})
    with pytest.raises(InputError, match="must hold feature vectors"):
        replay(policy, Tables(bare).get("test"))


def test_new_vectors_are_read_from_the_outputs_file(tmp_path):
    arrays = keyed(6)
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_features(tmp_path / "a.npz", policy_of())
    np.testing.assert_array_equal(found[2], arrays["features_2"])
    assert read_features(tmp_path / "a.npz", policy_of(kept=(0, 1, 2), model_exits=4))[3] is None
    del arrays["features_1"]
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match="no features_1"):
        read_features(tmp_path / "b.npz", policy_of())
