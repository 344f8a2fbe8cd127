"""The store: what is written is read back, whatever the batches; what is changed or hostile is an InputError."""

import hashlib
import itertools
import json
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cache_rows import CONF, COSTS, NAMES, PRED, WIDTHS, P, X, Y, batch, keyed
from conftest import refuses
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import policyopt as po
from policyopt._cache.data import shared_rows
from policyopt._cache.manifest import CACHE, MAX_BYTES
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime import Policy
from policyopt.runtime._outputs_file import features_of, read_new
from policyopt.runtime._scores import ScoreRule

GONE = object()
SHARD = r"fit-00000[-0-9a-f]*\.safetensors"


def rows_of(kind, dtype, n, k, c, rng):
    labels, costs = rng.integers(-1, c, n), [po.Cost("c", "MMACs", range(1, k + 1), "standalone")]
    given, probs = {"costs": costs, "dtype": dtype}, rng.dirichlet(np.ones(c), (n, k))
    known = {"labels": labels, "quality": rng.random((n, k), dtype=np.float32)}
    if kind == "probabilities":
        return {"outputs": probs.astype(dtype), **known}, given
    if kind == "logits":
        outputs = rng.normal(size=(n, k, c)) * 9
        outputs[0, 0, 1] = -np.inf
        return {"outputs": outputs.astype(dtype), **known}, given
    prediction = rng.integers(-1, c, (n, k))
    right = (prediction == labels[:, None]) & (prediction >= 0)
    return {
        **known, "prediction": prediction, "correct": right, "entropy": np.full((n, k), 0.5),
        "confidence": rng.random((n, k)), "top_prob": np.sort(probs)[:, :, ::-1],
        "cost:price": np.cumsum(rng.random((n, k)), axis=1),
    }, {"costs": [po.Cost("price", "USD", None), *costs], "dtype": "float64"}  # fmt: skip


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["logits", "probabilities", "summary"]),
    dtype=st.sampled_from(["float16", "float32"]),
    sizes=st.tuples(st.integers(1, 30), st.integers(1, 4), st.integers(2, 6)),
    shard=st.integers(200, 3000),
    cuts=st.lists(st.integers(1, 9), max_size=5),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read_back(room, kind, dtype, sizes, shard, cuts, seed):
    """Bit by bit, mapped, as in memory; batches, shards and splits fall differently, the cache is the same."""
    arrays, options = rows_of(kind, dtype, *sizes, np.random.default_rng(seed))
    n, place = sizes[0], Path(tempfile.mkdtemp(dir=room))
    edges = [0, *np.unique(np.cumsum(cuts).clip(max=n - 1)).astype(int), n]
    for name, steps in (("one", [0, n]), ("more", edges)):
        with po.CacheWriter(place / name, kind=kind, shard_bytes=shard, **options) as cache:
            for rows in itertools.starmap(slice, itertools.pairwise(steps)):
                for split in ("s", "noisy") if rows.stop > rows.start else ():
                    cache.add(split, {name: array[rows] for name, array in arrays.items()})
    seen = []
    with po.progress(lambda *told: seen.append(told)):
        data = po.open_cache(place / "more")
    assert seen[-1][0] == seen[-1][1] and len(seen) >= 2
    assert (data.kind, data.exits) == (kind, sizes[1]) and data.classes in (0, sizes[2])
    given = {name: array for name, array in arrays.items() if name != "cost:price"}
    if kind == "summary":
        given["sample_costs"] = {"price": arrays["cost:price"]}
    memory = po.from_arrays(splits={"s": given}, kind=kind, **options).splits["s"]
    rows = data.splits["s"]
    for name, array in arrays.items():
        np.testing.assert_array_equal(rows.array(name), array)
        assert rows.array(name).dtype == memory.array(name).dtype
        assert not any(b[name].flags.writeable for b in (*rows.blocks, *memory.blocks))
    assert isinstance(rows.blocks[0]["labels"].base.base, np.memmap)  # mapped, not read
    other = po.open_cache(place / "one", verify=False)
    assert other.fingerprint == data.fingerprint and other.split_names == ("s", "noisy")
    assert data.cost("c").values == tuple(np.cumsum(range(1, sizes[1] + 1)))
    assert data.cost("c").cascade


def test_later_writing_changes_nothing_and_what_is_read_only_is_shared():
    given = batch(20)
    rows = po.from_arrays(**given).splits["pool"]
    for name, array in (("outputs", given["outputs"]), ("features:0", given["features"][0])):
        array[:], array.flags.writeable = 9, False
        assert not (rows.array(name) == 9).any()
    again = po.from_arrays(**given).splits["pool"]
    assert np.shares_memory(again.array("outputs"), given["outputs"])


def test_a_pool_is_divided_by_its_seed():
    data = po.from_arrays(X, Y, COSTS)
    (key, fit), (_, test) = data.rows("fit"), data.rows("test")
    assert data.pooled and key == "pool" and sorted([*fit, *test]) == list(range(60))
    assert set(data.rows("fit", seed=1)[1]) != set(fit)
    refuses("fit=0.5,calibrate=0.2,test=0.3", data.rows, "calibrate")


def test_parts_of_a_split_are_disjoint_and_keep_groups_whole():
    rows, group = np.arange(60), np.arange(60) // 4
    known = np.where(group % 3 > 0, Y, -1)
    known[::4] = -1  # a row of each group has no label
    given = {"outputs": X, "labels": known, "group": group}
    data = po.from_arrays(splits={"recent": given, "bare": {"outputs": X}}, costs=COSTS)

    def places(split, of=data):
        return set(of.rows(split)[1].tolist())

    for one, other in (("[:30%]", "[30%:]"), ("[labelled]", "[unlabelled]")):
        mine, others = places(f"recent{one}"), places(f"recent{other}")
        assert mine | others == set(rows) and not mine & others and mine and others
        assert not set(group[[*mine]]) & set(group[[*others]])
    assert set(group[[*places("recent[labelled]")]]) == {g for g in range(15) if g % 3}
    assert places("recent[:]") == places("recent") and not places("bare[labelled]")
    nested = places("recent[labelled][:50%]") | places("recent[labelled][50%:]")
    assert nested == places("recent[labelled]")
    parts = [places(f"bare[{low}%:{low + 10}%]") for low in range(0, 100, 10)]
    assert sorted(n for part in parts for n in part) == list(rows) and {*map(len, parts)} == {6}
    pool = po.from_arrays(X, Y, COSTS)
    assert places("pool", pool) == set(rows) == places("pool[labelled]", pool)
    assert (
        places("test[:50%]", pool) < places("test", pool) and len(places("test[:50%]", pool)) == 15
    )
    right = po.from_arrays(
        confidence=np.full((9, 2), 0.5), correct=np.ones((9, 2), bool), costs=[1, 2]
    )
    assert len(right.rows("pool[labelled]")[1]) == 9
    for wrong in ("recent[x]", "recent[:30]", "other[:30%]", "pool", "recent[:30%"):
        refuses("'split' must be one of", data.rows, wrong)


def test_any_axes_tensors_and_lists_mean_the_same():
    tensors = [torch.tensor(X[:, k], requires_grad=True) for k in range(3)]
    forms = [
        (X, "NKC"), (X.transpose(1, 0, 2), "KNC"), (X.transpose(2, 1, 0), "CKN"),
        (X.tolist(), "NKC"), ([X[:, k] for k in range(3)], "NKC"), (tensors, "NKC"),
        (torch.stack(tensors), "KNC"), (X.transpose(1, 0, 2), None), ([t.T for t in tensors], "CKN"),
    ]  # fmt: skip
    found = [po.from_arrays(o, torch.tensor(Y), COSTS, axes=axes) for o, axes in forms]
    assert len({data.fingerprint for data in found}) == 1


@dataclass(frozen=True)
class Norm(ScoreRule):
    name = "norm"
    required_columns = frozenset({"features"})

    def score(self, k, output, state):
        return np.sqrt((output.features.astype(np.float64) ** 2).sum(axis=1)), state


def policy_of(**more):
    return Policy(Norm(), [2.0, 1.5], [1, 2, 3], "exits", "logits", 5, **more)


def test_columns_are_written_in_shards_and_read_back(tmp_path):
    """Batches of any size, float16 where it came so, int16; a table's rows in any order, over blocks."""
    whole = [batch(n, seed) for seed, n in enumerate((30, 1, 44))]
    with po.CacheWriter(tmp_path / "c", costs=COSTS, contexts=NAMES, shard_bytes=4000) as cache:
        for one in whole:
            cache.append("test", **one)
    data = po.open_cache(tmp_path / "c")
    blocks = data.splits["test"].blocks
    assert data.feature_widths == WIDTHS and data.contexts == NAMES and len(blocks) > 2
    assert (blocks[0]["context"].dtype, blocks[0]["features:1"].dtype) == (np.int16, np.float16)
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


def test_heads_are_kept_with_the_costs_and_count_in_the_fingerprint(tmp_path):
    costs = [po.Cost("c", "ms", [1, 2, 4], heads=h) for h in (None, "25%", [0.25, 0.25, 0.5], 0)]
    found = []
    for name, cost in enumerate(costs):
        with po.CacheWriter(tmp_path / str(name), costs=[cost]) as cache:
            cache.append("fit", X, Y)
        found.append(po.open_cache(tmp_path / str(name)))
    assert [data.cost().heads for data in found] == [None, *[(0.25, 0.25, 0.5)] * 2, (0, 0, 0)]
    prints = [data.fingerprint for data in found]
    assert len(set(prints)) == 3 and prints[1] == prints[2]
    assert "heads" not in (tmp_path / "0" / "manifest.json").read_text()
    per_row = np.cumsum(CONF, axis=1)
    cost = po.Cost("c", "ms", None, heads=[0.0, 0.005, 0.0])
    data = po.from_arrays(X, Y, costs=cost, sample_costs={"c": per_row}, split={"fit": 1.0})
    kept = Tables(data).get("fit").keep_exits((0, 2)).costs
    np.testing.assert_allclose(kept, per_row[:, [0, 2]] - [0, 0.005], rtol=1e-12)
    whole = replace(cost, heads=[0.0, 1.1, 0.0])
    data = po.from_arrays(X, Y, costs=whole, sample_costs={"c": per_row}, split={"fit": 1.0})
    refuses("'head cost of c' must be 0 to .* at exit 1, its own stage", Tables(data).get, "fit")


def test_columns_count_in_the_fingerprint():
    same, other = {"fit": batch(20), "test": batch(20, 1)}, batch(20)
    other["features"][2][7, 3] += 1
    found = [
        po.from_arrays(splits=same, contexts=NAMES), po.from_arrays(splits=same),
        po.from_arrays(splits=same | {"fit": other}, contexts=NAMES),
        po.from_arrays(splits=same, contexts=NAMES[::-1]),
    ]  # fmt: skip
    assert found[0].feature_widths == WIDTHS and Tables(found[0]).get("fit").has_features
    assert found[0].contexts == NAMES and found[1].contexts == ("0", "1", "2")
    assert len({data.fingerprint for data in found}) == 4
    bare = po.from_arrays(splits={"fit": batch(20, features=None, context=None)})
    table = Tables(bare).get("fit")
    assert not bare.feature_widths and "features" not in table.known
    assert bare.contexts == () and table.context is None
    refuses(r"'fit' must hold feature vectors.*features_0", table.feature, 0)
    records = po.from_arrays(
        confidence=CONF, prediction=PRED, labels=Y, features=batch(60)["features"],
        context=np.zeros(60, int), contexts=["only"], split={"test": 1.0},
    )  # fmt: skip
    table = Tables(records).get("test")
    assert table.feature(1).shape == (60, 2) and "log_prob" not in table.known
    assert table.context.tolist() == [0] * 60


def test_vectors_that_do_not_fit_are_refused():
    given, policy = batch(50, context=None), policy_of()
    logits, features = given["outputs"], given["features"]
    exits = policy.decide(logits, features=features).exit
    longer = policy_of(active_exits=(0, 1, 3), model_exits=4)
    found = longer.decide(logits[:, [0, 1, 0, 2]], features=[*features[:2], None, features[2]])
    np.testing.assert_array_equal(found.exit, np.array([0, 1, 3])[exits])
    refuses("exit 0' must be given", policy.step, 0, logits[:, 0], policy.start(np.arange(50)))
    infinite = [features[0], np.full((50, 2), np.inf), features[2]]
    for vectors, said in (
        (None, r"'features of exit 0' must be given"), (features[:2], "a list of 3 arrays"),
        ([*features[:2], features[2][:3]], r"exit 2' must be of shape \(50, D\)"),
        (infinite, "'features of exit 1' must be finite"),
    ):  # fmt: skip
        refuses(said, policy.decide, logits, features=vectors)
    bare = po.from_arrays(**batch(5, features=None), split={"test": 1.0})
    refuses("must hold feature vectors", replay, policy, Tables(bare).get("test"))


def test_new_vectors_are_read_from_the_outputs_file(tmp_path):
    arrays = keyed(6)
    np.savez(tmp_path / "a.npz", **arrays)
    read, keys = read_new(tmp_path / "a.npz", policy_of())
    assert set(keys) == set(arrays)
    found = features_of(read, policy_of(), "a.npz")[2]
    np.testing.assert_array_equal(found, arrays["features_2"])
    wide = policy_of(active_exits=(0, 1, 2), model_exits=4)
    assert features_of(read, wide, "a.npz")[3] is None
    del read["features_1"]
    refuses("no features_1", features_of, read, policy_of(), "a.npz")


@pytest.fixture
def place(tmp_path):
    with po.CacheWriter(tmp_path / "c", costs=COSTS, contexts=NAMES, shard_bytes=1500) as cache:
        cache.append("fit", **batch(40))
        cache.append("test", **batch(20, 1))
    return tmp_path / "c"


def edit(place, *steps):
    """Change or remove one value of a manifest, which is signed anew."""
    *parents, last, value = steps
    content = json.loads((place / "manifest.json").read_text())
    at = content
    for step in parents:
        at = at[step]
    at[last] = value
    if value is GONE:
        del at[last]
    (place / "manifest.json").write_text(json.dumps(CACHE.signed(**content)))


#: A path into the manifest and what is put there, or the whole file -> what the message must match
MANIFESTS = {
    "other format": (("format", "zip"), "format"), "newer version": (("version", 3), "version"),
    "unknown field": (("colour", "red"), "colour"), "missing field": (("kind", GONE), "kind"),
    "wrong type": (("exits", "3"), "exits"), "bool for int": (("split_seed", True), "split_seed"),
    "seed of more bits": (("split_seed", 1 << 63), "manifest.json.*seed"), "huge K": (("exits", 10**9), "K alike"),
    "huge C": (("classes", 10**12), "classes"), "huge rows": (("shards", 0, "rows", 10**15), "shape"),
    "negative rows": (("shards", 0, "rows", -1), "at least 1 row"),
    "traversal": (("shards", 0, "file", "../x.safetensors"), "plain name"),
    "other shard": (("shards", 0, "file", "gone.safetensors"), "gone.safetensors"),
    "no shards": (("shards", []), "shard"), "checksum": (("shards", 0, "sha256", "0" * 64), "SHA-256"),
    "classes": (("classes", 6), "outputs"), "dtype": (("dtype", "float16"), "outputs"),
    "object dtype": (("dtype", "object"), "dtype"), "kind": (("kind", "summary"), "absent for kind summary"),
    "probabilities": (("kind", "probabilities"), "logits"), "split name": (("shards", 0, "split", "a/b"), "split"),
    "pool beside test": (("shards", 0, "split", "pool"), "pool"),
    "shares over 1": (("shares", {"fit": 0.9, "test": 0.2}), "overlap"),
    "decreasing costs": (("costs", 0, "values", [3, 2, 1]), "decrease"),
    "cost of text": (("costs", 0, "values", ["a", 2, 3]), "number"),
    "heads of text": (("costs", 0, "heads", ["10%", 0, 0]), "finite numbers"),
    "heads of two exits": (("costs", 0, "heads", [0.1, 0]), "head cost of .* per exit"),
    "a head dearer than its stage": (("costs", 0, "heads", [0, 99, 0]), "its own stage"),
    "number for a cascade": (("costs", 0, "cascade", 1), "cascade in costs"),
    "per-sample cost not there": (("costs", 0, "values", None), r"Missing \['compute'\]"),
    "widths of two exits": (("features", [4, 2]), "one width per exit"),
    "other width": (("features", [4, 2, 8]), "widths 4, 2, 8. Got widths 4, 2, 7"),
    "bool for width": (("features", [4, 2, True]), "a width of 1 or more"),
    "no widths": (("features", GONE), "none. Got widths 4, 2, 7"),
    "fewer contexts": (("contexts", ["clean"]), "from 0 to 0"),
    "no names of contexts": (("contexts", GONE), "'context' must be absent"),
    "not an object": (b"[1]", "format"), "empty": (b"", "manifest"), "too large": (b" " * (MAX_BYTES + 9), "manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_refused(place, name):
    change, expected = MANIFESTS[name]
    if isinstance(change, bytes):
        (place / "manifest.json").write_bytes(change)
    else:
        edit(place, *change)
    refuses(expected, po.open_cache, place)


def test_what_is_changed_or_no_cache_is_refused(place, tmp_path):
    file = place / "manifest.json"
    content = json.loads(file.read_text())
    for other, says in (
        ({k: v for k, v in content.items() if k != "sha256"}, "sha256"),
        (content | {"metadata": {"model": "y"}}, "changed after it was written"),
        (content | {"sha256": "0" * 64}, "changed after it was written"),
        (CACHE.signed(**content | {"shards": content["shards"] * 2}), "twice"),
    ):
        file.write_text(json.dumps(other))
        refuses(says, po.open_cache, place)
    for path in (tmp_path, tmp_path / "gone"):
        refuses("manifest", po.open_cache, path)


@pytest.mark.parametrize("options", [{}, {"verify": False}, {"mmap": False}])
def test_missing_cut_or_linked_shard(place, tmp_path, options):
    shard = next(place.glob("fit-00000*.safetensors"))
    whole = shard.read_bytes()
    (tmp_path / "secret").write_bytes(whole)
    for spoil, match in (
        (lambda: shard.write_bytes(whole[:-1]), ".*of .* bytes"), (lambda: None, ".*missing"),
        (lambda: shard.symlink_to(tmp_path / "secret"), ".*link"),
        (lambda: os.mkfifo(shard), ""),  # and does not wait for a writer
    ):  # fmt: skip
        shard.unlink(missing_ok=True)
        spoil()
        refuses(SHARD + match, po.open_cache, place, **options)


def test_wrong_values_behind_right_checksums(place):
    """Values are checked on opening too: a shard from elsewhere may hold anything."""
    shard = next(place.glob("fit-00000*.safetensors"))
    block = load_file(shard)
    save_file({**block, "labels": block["labels"] + 99}, shard)
    edit(place, "shards", 0, "sha256", hashlib.sha256(shard.read_bytes()).hexdigest())
    refuses(f"{SHARD}.*labels", po.open_cache, place)


def spoil(array, value, *at):
    array = np.array(array)
    array[at] = value
    return array


#: arguments of from_arrays -> what the message must match
REFUSED = {
    "nothing": ({}, "'outputs' must be given"),
    "+inf": ({"outputs": spoil(X, np.inf, 7, 1, 2)}, r"\+inf.*row 7, exit 1"),
    "all -inf": ({"outputs": spoil(X, -np.inf, 7, 1)}, "at least one class.*row 7, exit 1"),
    "two axes": ({"outputs": X[:, :, 0]}, "3 axes"), "one class": ({"outputs": X[:, :, :1]}, "at least 2 classes"),
    "no rows": ({"outputs": X[:0]}, "at least 1"), "text": ({"outputs": np.full((4, 2, 3), "a")}, "numbers"),
    "complex": ({"outputs": X + 1j}, "numbers"), "ragged": ({"outputs": [[[1, 2], [3]]]}, "numbers"),
    "ragged exits": ({"outputs": [X[:, 0], X[:, 1, :4]]}, "one shape"),
    "probabilities as logits": ({"outputs": P, "kind": "logits"}, "kind='probabilities'"),
    "logits as probabilities": ({"outputs": X, "kind": "probabilities"}, "kind='logits'"),
    "one bad probability row": ({"outputs": spoil(P, 0.9, 3, 2), "kind": "probabilities"}, "row 3, exit 2"),
    "kind": ({"outputs": X, "kind": "logitz"}, "one of logits, probabilities, logit"),
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
    "sample costs fall": ({"outputs": X, "costs": spoil(np.cumsum(CONF, 1), 99, 4, 0)}, "decrease.*row 4"),
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
    "confidence alone": ({"confidence": CONF}, "prediction.*quality"),
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
    "record and outputs": ({"outputs": X, "confidence": CONF, "prediction": PRED}, "kind='summary'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_name(name):
    arguments, expected = REFUSED[name]
    refuses(expected, po.from_arrays, **arguments)


AMONG = po.Cost("a", "ms", [1, 2])
WRITER = {
    "no costs": ({"costs": []}, "costs"), "costs as numbers": ({"costs": [1, 2, 3]}, "Cost"),
    "costs of another K": ({"costs": [AMONG, po.Cost("b", "J", [1, 2, 3])]}, "K"),
    "costs of one name": ({"costs": [AMONG, po.Cost("a", "J", [1, 2])]}, "twice"),
    "odd dtype": ({"dtype": "int8"}, "float16 or float32"), "shard_bytes": ({"shard_bytes": 0}, "shard_bytes"),
    "split_seed": ({"split_seed": -1}, "seed"), "shares": ({"shares": {"pool": 0.5}}, "pool"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITER)
def test_writer_arguments(tmp_path, name):
    arguments, expected = WRITER[name]
    refuses(expected, po.CacheWriter, tmp_path, **{"costs": COSTS, **arguments})


def test_a_bad_batch_adds_nothing(tmp_path):
    def refused(match, *args, **options):
        refuses(match, cache.append, *args, **options)

    with po.CacheWriter(tmp_path / "a", costs=COSTS) as cache:
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
    found = po.open_cache(tmp_path / "a").splits["fit"].array("outputs")
    np.testing.assert_array_equal(found, X[:20])
    with po.CacheWriter(tmp_path / "d", costs=COSTS, contexts=NAMES) as cache:
        refused("with every batch, one of clean", "test", **batch(5, context=None))
        cache.append("test", **batch(5))
    empty = po.CacheWriter(tmp_path / "b", costs=COSTS)
    with pytest.raises(po.InputError, match="at least 1"), empty:
        pass
    assert not (tmp_path / "b").exists()
    writer = po.CacheWriter(tmp_path / "c", costs=COSTS)
    with pytest.raises(po.InputError, match=r"12 of the 60 rows of 'fit'.*'test'"), writer as cache:
        cache.append("fit", X)
        cache.append("test", np.concatenate([X[:12], X + 1]))


def test_records_may_say_only_what_is_right():
    told = {"classes": np.int64(5), "metadata": {"notes": "mine"}}
    data = po.from_arrays(confidence=CONF, correct=CONF > 0.5, **told)
    assert data.classes == 5 and data.metadata["own_notes"] == "mine" and "notes" in data.metadata
    assert (data.splits["pool"].array("prediction") == -1).all()


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
