"""Feature vectors and contexts: kept beside the outputs, in every form, and read by scores and `info`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import policyopt as po
from policyopt._cache.manifest import signed
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime import InputError, Policy
from policyopt.runtime._outputs_file import read_features
from policyopt.runtime._scores import ScoreRule

NAMES, WIDTHS = ("clean", "blur", "noise"), (4, 2, 7)
COSTS = po.Cost("c", "ms", [1, 2, 3])


def batch(n, seed=0, **replaced):
    """The arrays of n rows of 3 exits and 5 classes."""
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(n, d)).astype(t) for d, t in zip(WIDTHS, "fef", strict=True)]
    found = {
        "outputs": rng.normal(size=(n, 3, 5)).astype("f"), "labels": rng.integers(0, 5, n),
        "features": features, "context": rng.integers(0, 3, n),
    }  # fmt: skip
    return found | replaced


def keyed(n, seed=0, prefix=""):
    """The same under the keys of a file."""
    given = batch(n, seed)
    named = {"logits": given["outputs"].swapaxes(0, 1).copy(), "labels": given["labels"]}
    named |= {f"features_{k}": array for k, array in enumerate(given["features"])}
    return {prefix + key: array for key, array in {**named, "context": given["context"]}.items()}


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
    same = {"fit": batch(20), "test": batch(20, 1)}
    one = po.from_arrays(splits=same, contexts=NAMES)
    assert one.feature_widths == WIDTHS and Tables(one).get("fit").has_features
    assert one.contexts == NAMES
    other = batch(20)
    other["features"][2][7, 3] += 1
    others = [
        po.from_arrays(splits=same),
        po.from_arrays(splits=same | {"fit": other}, contexts=NAMES),
        po.from_arrays(splits=same, contexts=NAMES[::-1]),
    ]
    assert others[0].contexts == ("0", "1", "2")
    assert len({data.fingerprint for data in (one, *others)}) == 4
    bare = po.from_arrays(splits={"fit": batch(20, features=None, context=None)})
    table = Tables(bare).get("fit")
    assert not bare.feature_widths and "features" not in table.known
    assert bare.contexts == () and table.context is None
    with pytest.raises(InputError, match=r"'fit' must hold feature vectors.*features_0"):
        table.feature(0)
    records = po.from_arrays(
        confidence=np.full((9, 2), 0.5), prediction=np.zeros((9, 2)), labels=np.zeros(9),
        features=[np.zeros((9, 1)), np.ones((9, 3))], context=np.zeros(9, int), contexts=["only"],
        split={"test": 1.0},
    )  # fmt: skip
    table = Tables(records).get("test")
    assert records.feature_widths == (1, 3) and "log_prob" not in table.known
    assert table.context.tolist() == [0] * 9


@pytest.mark.parametrize(
    ("replaced", "contexts", "said"),
    [
        ({"context": np.full(20, 3)}, NAMES, r"from 0 to 2 \(clean, blur, noise\). Got 3 at row 0"),
        ({"context": np.full(20, -1)}, None, "from 0 to 0.*Got -1 at row 0"),
        ({"context": np.full(20, 0.5)}, NAMES, r"Got 0.5 at row 0"),
        ({"context": np.full(20, np.nan)}, None, r"Got nan at row 0"),
        ({"context": np.full(20, 5000)}, None, r"Got 5000"),
        ({"context": np.zeros(19, int)}, NAMES, r"each of the 20 rows. Got 19 context"),
        ({"context": np.zeros((20, 1), int)}, NAMES, r"of shape \(n,\)"),
        ({"context": None}, NAMES, "'context' must be given with every batch"),
        ({}, ("a", "a", "b"), "different names"),
        ({}, ("a", "b c"), "different names"),
        ({}, "abc", "different names"),
        ({}, [f"n{e}" for e in range(1025)], "0 to 1024"),
        ({"features": np.zeros((20, 3, 2))}, NAMES, "a list of K arrays"),
    ],
)
def test_refused_by_name(replaced, contexts, said):
    with pytest.raises(InputError, match=said):
        po.from_arrays(**batch(20, **replaced), contexts=contexts)


def test_splits_and_batches_are_alike(tmp_path):
    narrow = batch(20, 1)
    narrow["features"][1] = narrow["features"][1][:, :1]
    for other, got in ((batch(20, 1, features=None), "none"), (narrow, "widths 4, 1, 7")):
        with pytest.raises(InputError, match=rf"widths 4, 2, 7. Got {got}"):
            po.from_arrays(splits={"fit": batch(20), "test": other})
    with po.CacheWriter(tmp_path / "a", costs=COSTS) as cache:
        with pytest.raises(InputError, match="'context' must be absent"):
            cache.append("test", **batch(5))
        cache.append("test", **batch(5, context=None))
    with po.CacheWriter(tmp_path / "b", costs=COSTS, contexts=NAMES) as cache:
        with pytest.raises(InputError, match="must be given with every batch, one of clean"):
            cache.append("test", **batch(5, context=None))
        cache.append("test", **batch(5))
    assert "contexts" not in json.loads((tmp_path / "a" / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("field", "kept", "others", "said"),
    [
        ("features", list(WIDTHS), ([4, 2], [4, 2, 8], [4, 2, -7], [4, 2, True], {}, [4, 2, 7, 7], None),
         "none. Got widths 4, 2, 7"),
        ("contexts", list(NAMES), (["clean"], ["clean", "blur"], ["a", "a", "b"], [1, 2, 3], {}, None, ["../x", "a", "b"], []),
         "'context' must be absent"),
    ],
)  # fmt: skip
def test_a_changed_manifest_is_refused(tmp_path, field, kept, others, said):
    with po.CacheWriter(tmp_path / "c", costs=COSTS, contexts=NAMES) as cache:
        cache.append("test", **batch(40))
    path = tmp_path / "c" / "manifest.json"
    content = json.loads(path.read_text())
    assert content[field] == kept
    for other in others:
        path.write_text(json.dumps(signed(content | {field: other})))
        with pytest.raises(InputError):
            po.open_cache(tmp_path / "c")
    del content[field]
    path.write_text(json.dumps(signed(content)))
    with pytest.raises(InputError, match=said):
        po.open_cache(tmp_path / "c")


def as_npz(path, arrays):
    np.savez(path, **arrays, contexts=np.array(NAMES))


def as_npy(path, arrays):
    np.save(path, arrays["val_logits"])
    found = {k.removeprefix("val_"): a.tolist() for k, a in arrays.items() if k[:4] == "val_"}
    del found["logits"]
    path.with_suffix(".json").write_text(json.dumps(found | {"contexts": NAMES}))


def as_pt(path, arrays):
    """A list of the exits' vectors: their widths differ."""
    found = {k: torch.tensor(a) for k, a in arrays.items() if "features" not in k}
    for prefix in ("val", "test"):
        given = [torch.tensor(arrays[f"{prefix}_features_{k}"]) for k in range(3)]
        found[f"{prefix}_features"] = given
    torch.save({**found, "contexts": list(NAMES)}, path)


def as_stacked(path, arrays):
    """One array of all exits' vectors, made as wide as the widest."""
    found = {k: a for k, a in arrays.items() if "features" not in k}
    for prefix in ("val", "test"):
        given = [arrays[f"{prefix}_features_{k}"][:, :2] for k in range(3)]
        found[f"{prefix}_features"] = np.stack(given)
    as_npz(path, found)


FORMS = {
    ".npz": as_npz, ".npy": as_npy, ".pt": as_pt, "stacked.npz": as_stacked,
    ".safetensors": lambda path, arrays: save_file(arrays, path),  # which holds numbers only
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_imported_and_shown(tmp_path, form, run):
    path, names = tmp_path / f"a{form}", NAMES if form != ".safetensors" else ("0", "1", "2")
    FORMS[form](path, keyed(40, 0, "val_") | keyed(30, 1, "test_"))
    report = po.import_sources(path, tmp_path / "c", costs="1,2,3", unit="ms", axes="KNC")
    widths = (2, 2, 2) if "stacked" in form else WIDTHS
    assert report.data.contexts == names and report.data.feature_widths == widths
    assert any("called 0, 1, 2" in note for note in report.notes) == (names[0] == "0")
    rows = report.data.splits["pool" if form == ".npy" else "fit"]
    context = batch(40)["context"]
    np.testing.assert_array_equal(rows.array("context"), context)
    for k, array in enumerate(batch(40)["features"]):
        np.testing.assert_array_equal(rows.array(f"features:{k}"), array[:, : widths[k]])
    code, out, _ = run("info", tmp_path / "c", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["contexts"] == list(names) and found["features"] == list(widths)
    if form != ".npy":
        fit = next(one for one in found["splits"] if one["split"] == "fit")
        assert fit["context_share"] == pytest.approx(np.bincount(context, minlength=3) / 40)
    told = run("info", tmp_path / "c")[1]
    assert f"context: {', '.join(names)}" in told and f"width {widths[0]}," in told


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("features_1"), r"of every exit, 0 to 2.*missing \['features:1'\]"),
        (lambda a: a.update(features_3=a["features_0"]), r"superfluous \['features:3'\]"),
        (lambda a: a.update(features_1=a["features_1"][:-1]), r"exit 1' must be of shape \(40, D\)"),
        (lambda a: a.update(features_1=a["features_1"][:, 0]), r"exit 1' must be of shape"),
        (lambda a: a.update(features_1=a["features_1"][:, :0]), r"exit 1' must be of shape"),
        (lambda a: a["features_2"].__setitem__((3, 5), np.nan), r"nan in column 5 at row 3 of"),
        (lambda a: a.update(features_0=np.full((40, 2), 1e39)), r"finite in float32"),
        (lambda a: a.update(features_0=np.full((40, 2), "x")), r"array of numbers"),
        (lambda a: a.update(features=np.zeros((3, 40, 2))), r"one array with axes KND"),
    ],
)  # fmt: skip
def test_an_import_is_refused_by_name(tmp_path, change, said):
    arrays = keyed(40)
    change(arrays)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=said):
        po.import_sources(tmp_path / "a.npz", tmp_path / "c", unit="ms")
    assert not (tmp_path / "c").exists()


def test_tables_of_records_have_contexts_too(tmp_path):
    row = {"logits": [[1, 2, 0], [3, 1, 0]], "label": 1, "context": 0}
    files = {
        "a.csv": ("conf_0,conf_1,pred_0,pred_1,label,context\n0.5,0.75,1,1,1,0\n0.6,0.9,0,2,2,1", [0, 1]),
        "b.jsonl": (json.dumps(row) + "\n" + json.dumps(row | {"context": 2}), [0, 2]),
    }  # fmt: skip
    for name, (text, context) in files.items():
        (tmp_path / name).write_text(text)
        out = tmp_path / name.replace(".", "")
        data = po.import_sources(tmp_path / name, out, costs="1,2", shares={"test": 1.0}).data
        assert data.splits["pool"].array("context").tolist() == context
        assert data.contexts == ("0", "1", "2")[: context[-1] + 1]


def test_files_that_disagree_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **keyed(20), contexts=np.array(NAMES))
    np.savez(tmp_path / "b.npz", **keyed(20, 1), contexts=np.array(NAMES[::-1]))
    sources = [f"fit={tmp_path / 'a.npz'}", f"test={tmp_path / 'b.npz'}"]
    with pytest.raises(InputError, match="'contexts' must be the same in every file"):
        po.import_sources(sources, tmp_path / "c", costs="1,2,3")
    named = {k: a for k, a in keyed(20).items() if k != "context"}
    np.savez(tmp_path / "n.npz", **named, contexts=np.array(NAMES))
    report = po.import_sources(tmp_path / "n.npz", tmp_path / "d", costs="1,2,3")
    assert report.data.contexts == () and any("no row has one" in note for note in report.notes)


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
    some = policy_of(kept=(0, 1, 3), model_exits=4)
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
    assert read_features(tmp_path / "a.npz", policy_of(kept=(0, 1, 2), model_exits=4))[3] is None
    del arrays["features_1"]
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(InputError, match="no features_1"):
        read_features(tmp_path / "b.npz", policy_of())
