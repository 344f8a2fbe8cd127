"""Contexts: one number per row and their names, from arrays, writers and files to tables and `info`."""

from __future__ import annotations

import json

import numpy as np
import pytest

import policyopt as po
from policyopt.cache import CacheWriter, open_cache
from policyopt.cache.importers.run import import_sources
from policyopt.cache.manifest import signed
from policyopt.runtime import InputError
from policyopt.table import Tables

NAMES = ("clean", "blur", "noise")


def batch(n, seed=0, **replaced):
    rng = np.random.default_rng(seed)
    found = {
        "outputs": rng.normal(size=(n, 2, 4)).astype("f"), "labels": rng.integers(0, 4, n),
        "context": rng.integers(0, 3, n),
    }  # fmt: skip
    return found | replaced


def test_written_in_shards_and_read_back(tmp_path):
    """Batches of any size; a table's rows in any order; int16 on disk, the names in the manifest."""
    costs = po.Cost("c", "ms", [1, 2])
    with CacheWriter(tmp_path / "c", costs=costs, contexts=NAMES, shard_bytes=900) as cache:
        for seed, n in enumerate((30, 1, 44)):
            cache.append("test", **batch(n, seed))
    data = open_cache(tmp_path / "c")
    assert data.contexts == NAMES and len(data.splits["test"].blocks) > 2
    assert data.splits["test"].blocks[0]["context"].dtype == np.int16
    exact = np.concatenate([batch(n, seed)["context"] for seed, n in enumerate((30, 1, 44))])
    table, rows = Tables(data).get("test"), np.random.default_rng(0).permutation(75)[:40]
    np.testing.assert_array_equal(table.context, exact)
    np.testing.assert_array_equal(table.take(rows).take(np.arange(5)).context, exact[rows[:5]])
    np.testing.assert_array_equal(table.keep_exits((1,)).context, exact)
    assert table.contexts == NAMES


def test_in_memory_named_or_numbered_and_counted_in_the_fingerprint():
    one = po.from_arrays(**batch(20), contexts=NAMES)
    assert one.contexts == NAMES
    numbered = po.from_arrays(**batch(20))
    assert numbered.contexts == ("0", "1", "2")
    prints = {
        one.fingerprint,
        numbered.fingerprint,
        po.from_arrays(**batch(20), contexts=NAMES[::-1]).fingerprint,
    }
    assert len(prints) == 3
    bare = po.from_arrays(**batch(20, context=None))
    assert bare.contexts == () and Tables(bare).get("test").context is None
    records = po.from_arrays(
        confidence=np.full((9, 2), 0.5), prediction=np.zeros((9, 2)), labels=np.zeros(9),
        context=np.zeros(9, int), contexts=["only"], split={"test": 1.0},
    )  # fmt: skip
    assert Tables(records).get("test").context.tolist() == [0] * 9


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
    ],
)
def test_refused_by_name(replaced, contexts, said):
    with pytest.raises(InputError, match=said):
        po.from_arrays(**batch(20, **replaced), contexts=contexts)


def test_a_writer_wants_what_it_was_told(tmp_path):
    costs = po.Cost("c", "ms", [1, 2])
    with CacheWriter(tmp_path / "a", costs=costs) as cache:
        with pytest.raises(InputError, match="'context' must be absent"):
            cache.append("test", **batch(5))
        cache.append("test", **batch(5, context=None))
    with CacheWriter(tmp_path / "b", costs=costs, contexts=NAMES) as cache:
        with pytest.raises(InputError, match="must be given with every batch, one of clean"):
            cache.append("test", **batch(5, context=None))
        cache.append("test", **batch(5))
    assert "contexts" not in json.loads((tmp_path / "a" / "manifest.json").read_text())


def test_a_changed_manifest_is_refused(tmp_path):
    with CacheWriter(tmp_path / "c", costs=po.Cost("c", "ms", [1, 2]), contexts=NAMES) as cache:
        cache.append("test", **batch(9))
    path = tmp_path / "c" / "manifest.json"
    content = json.loads(path.read_text())
    assert content["contexts"] == list(NAMES)
    for names in (
        ["clean"],
        ["clean", "blur"],
        ["a", "a", "b"],
        [1, 2, 3],
        {},
        None,
        ["../x", "a", "b"],
        [],
    ):
        path.write_text(json.dumps(signed(content | {"contexts": names})))
        with pytest.raises(InputError):
            open_cache(tmp_path / "c")
    del content["contexts"]
    path.write_text(json.dumps(signed(content)))
    with pytest.raises(InputError, match="with arrays"):
        open_cache(tmp_path / "c")


def keyed(n, seed, prefix, names=True):
    given = batch(n, seed)
    found = {
        f"{prefix}logits": given["outputs"].swapaxes(0, 1), f"{prefix}labels": given["labels"],
        f"{prefix}context": given["context"],
    }  # fmt: skip
    return found | ({"contexts": np.array(NAMES)} if names else {})


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".safetensors", ".pt"])
def test_imported_and_shown(tmp_path, suffix, run):
    arrays = keyed(40, 0, "val_") | keyed(30, 1, "test_")
    exact, wanted = batch(40)["context"], NAMES
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".npy":
        given = batch(40)
        np.save(path, given["outputs"])
        sidecar = {k: given[k].tolist() for k in ("labels", "context")} | {"contexts": NAMES}
        path.with_suffix(".json").write_text(json.dumps(sidecar))
    elif suffix == ".safetensors":
        from safetensors.numpy import save_file

        del arrays["contexts"]  # the format holds numbers only
        save_file({k: np.ascontiguousarray(a) for k, a in arrays.items()}, path)
        wanted = ("0", "1", "2")
    else:
        torch = pytest.importorskip("torch")
        torch.save(
            {
                k: torch.tensor(a.copy()) if k != "contexts" else list(NAMES)
                for k, a in arrays.items()
            },
            path,
        )
    report = import_sources(path, tmp_path / "c", costs="1,2", unit="ms")
    assert report.data.contexts == wanted
    assert any("called 0, 1, 2" in note for note in report.notes) == (wanted[0] == "0")
    part = report.data.splits["pool" if suffix == ".npy" else "fit"]
    np.testing.assert_array_equal(part.array("context"), exact)
    code, out, _ = run("info", tmp_path / "c", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["contexts"] == list(wanted)
    if suffix != ".npy":
        share = np.bincount(exact, minlength=3) / 40
        fit = next(split for split in found["splits"] if split["split"] == "fit")
        assert fit["context_share"] == pytest.approx(share.tolist())
    assert f"context: {', '.join(wanted)}" in run("info", tmp_path / "c")[1]


def test_tables_of_records_have_contexts_too(tmp_path):
    lines = ["conf_0,conf_1,pred_0,pred_1,label,context", "0.5,0.75,1,1,1,0", "0.6,0.9,0,2,2,1"]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    data = import_sources(
        tmp_path / "a.csv", tmp_path / "c", costs="1,2", shares={"test": 1.0}
    ).data
    assert data.splits["pool"].array("context").tolist() == [0, 1] and data.contexts == ("0", "1")
    row = {"logits": [[1, 2, 0], [3, 1, 0]], "label": 1, "context": 0}
    (tmp_path / "b.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | {"context": 2}))
    data = import_sources(
        tmp_path / "b.jsonl", tmp_path / "d", costs="1,2", shares={"test": 1.0}
    ).data
    assert data.splits["pool"].array("context").tolist() == [0, 2]


def test_files_that_disagree_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", **keyed(20, 0, ""))
    np.savez(tmp_path / "b.npz", **keyed(20, 1, "") | {"contexts": np.array(NAMES[::-1])})
    sources = [f"fit={tmp_path / 'a.npz'}", f"test={tmp_path / 'b.npz'}"]
    with pytest.raises(InputError, match="'contexts' must be the same in every file"):
        import_sources(sources, tmp_path / "c", costs="1,2")
    named = {k: a for k, a in keyed(20, 0, "").items() if k != "context"}
    np.savez(tmp_path / "n.npz", **named)
    report = import_sources(tmp_path / "n.npz", tmp_path / "d", costs="1,2")
    assert report.data.contexts == () and any("no row has one" in note for note in report.notes)
