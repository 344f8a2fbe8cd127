"""The store: what is written is read back, whatever the batches; what is changed or hostile is an InputError."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import faults
import numpy as np
import pytest
import torch
from cache_rows import CONF, CORRECT, COSTS, NAMES, PRED, X, Y, batch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import policyopt as po
from policyopt._cache.manifest import MAX_BYTES, signed

room = faults.room
GONE = object()
SHARD = r"fit-00000[-0-9a-f]*\.safetensors"


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def rows_of(kind, dtype, n, k, c, rng):
    """The arrays of n rows of a kind, and what else they need to be written."""
    labels, costs = rng.integers(-1, c, n), [po.Cost("c", "MMACs", range(1, k + 1), "standalone")]
    if kind != "summary":
        outputs = rng.normal(size=(n, k, c)) * 9
        outputs = (softmax(outputs) if kind == "probabilities" else outputs).astype(dtype)
        if kind == "logits":
            outputs[0, 0, 1] = -np.inf
        return {"outputs": outputs, "labels": labels}, {"costs": costs, "dtype": dtype}
    prediction = rng.integers(-1, c, (n, k))
    right = (prediction == labels[:, None]) & (prediction >= 0)
    return {
        "labels": labels, "prediction": prediction, "correct": right, "entropy": np.full((n, k), 0.5),
        "confidence": rng.random((n, k)), "top_prob": np.sort(rng.dirichlet(np.ones(c), (n, k)))[:, :, ::-1],
        "sample_costs": {"price": np.cumsum(rng.random((n, k)), axis=1)},
    }, {"costs": [po.Cost("price", "USD", None), *costs], "dtype": "float64"}  # fmt: skip


def cut(arrays, low, high):
    inner = {n: a[low:high] for n, a in arrays.get("sample_costs", {}).items()}
    flat = {n: a[low:high] for n, a in arrays.items() if n != "sample_costs"}
    return flat | ({"sample_costs": inner} if inner else {})


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
    edges = [0, *np.cumsum(cuts).clip(max=n).tolist(), n]
    for name, steps in (("one", [0, n]), ("more", edges)):
        with po.CacheWriter(place / name, kind=kind, shard_bytes=shard, **options) as cache:
            for low, high in itertools.pairwise(steps):
                if low < high:
                    cache.append("s", **cut(arrays, low, high))
                    cache.append("noisy", **cut(arrays, low, high))
    seen = []
    data = po.open_cache(place / "more", progress=lambda *step: seen.append(step))
    assert seen[-1][0] == seen[-1][1] and len(seen) >= 2
    assert (data.kind, data.exits) == (kind, sizes[1]) and data.classes in (0, sizes[2])
    memory = po.from_arrays(splits={"s": arrays}, kind=kind, **options)
    rows = data.splits["s"]
    for name, array in (arrays | arrays.get("sample_costs", {})).items():
        if name != "sample_costs":
            name = f"cost:{name}" if name == "price" else name
            np.testing.assert_array_equal(rows.array(name), array)
            assert rows.array(name).dtype == memory.splits["s"].array(name).dtype
            assert all(
                not b[name].flags.writeable for b in (*rows.blocks, *memory.splits["s"].blocks)
            )
    assert isinstance(rows.blocks[0]["labels"].base.base, np.memmap)  # mapped, not read
    other = po.open_cache(place / "one", verify=False)
    assert other.fingerprint == data.fingerprint and other.split_names == ("s", "noisy")
    assert data.cost("c").values == tuple(np.cumsum(range(1, sizes[1] + 1)))


def test_a_pool_is_divided_by_its_seed(tmp_path):
    with po.CacheWriter(tmp_path, costs=COSTS, kind="summary") as cache:
        cache.append(
            "pool", labels=Y, prediction=PRED, confidence=CONF, correct=CORRECT & (PRED >= 0)
        )
    data = po.open_cache(tmp_path)
    assert data.pooled and data.split_names == ("fit", "test")
    key, fit = data.rows("fit")
    assert key == "pool" and len(fit) == 30 and not set(fit) & set(data.rows("test")[1])
    assert set(data.rows("fit", seed=1)[1]) != set(fit)


def test_any_axes_tensors_and_lists_mean_the_same():
    tensors = [torch.tensor(X[:, k], requires_grad=True) for k in range(3)]
    forms = [
        (X, "NKC"), (X.transpose(1, 0, 2), "KNC"), (X.transpose(2, 1, 0), "CKN"),
        (X.tolist(), "NKC"), ([X[:, k] for k in range(3)], "NKC"), (tensors, "NKC"),
        (torch.stack(tensors), "KNC"), (X.transpose(1, 0, 2), None),
    ]  # fmt: skip
    found = [po.from_arrays(o, torch.tensor(Y), COSTS, axes=axes) for o, axes in forms]
    assert len({data.fingerprint for data in found}) == 1


def test_the_simple_way_loads_nothing_heavy(tmp_path):
    """An ``.npz`` becomes a cache and is opened and tabled with numpy and safetensors."""
    rng = np.random.default_rng(0)
    arrays = {"logits": rng.normal(size=(2, 5000, 10)), "labels": rng.integers(0, 10, 5000)}
    np.savez(tmp_path / "a.npz", costs=[1.0, 2.0], **arrays)
    script = """
        import sys, policyopt as po
        po.import_sources("a.npz", "c", unit="ms")
        from policyopt._table import Tables
        import policyopt._intervals
        assert len(Tables(po.open_cache("c")).get("fit")) == 2500
        print([m for m in ("scipy", "sklearn", "pandas", "pyarrow", "torch", "matplotlib") if m in sys.modules])
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr


# --- damaged and hostile caches ----------------------------------------------------------------


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
    (place / "manifest.json").write_text(json.dumps(signed(content)))


#: A path into the manifest and what is put there, or the whole file -> what the message must match
MANIFESTS = {
    "other format": (("format", "zip"), "format"),
    "newer version": (("version", 3), "version"),
    "unknown field": (("colour", "red"), "colour"),
    "unknown shard field": (("shards", 0, "url", "http://x"), "url"),
    "missing field": (("kind", GONE), "kind"),
    "wrong type": (("exits", "3"), "exits"),
    "bool for int": (("split_seed", True), "split_seed"),
    "seed of more bits": (("split_seed", 1 << 63), "manifest.json.*seed"),
    "huge K": (("exits", 10**9), "K alike"),
    "huge C": (("classes", 10**12), "classes"),
    "huge rows": (("shards", 0, "rows", 10**15), "shape"),
    "negative rows": (("shards", 0, "rows", -1), "rows"),
    "traversal": (("shards", 0, "file", "../x.safetensors"), "plain name"),
    "absolute path": (("shards", 0, "file", "/etc/passwd"), "plain name"),
    "other shard": (("shards", 0, "file", "gone.safetensors"), "gone.safetensors"),
    "no shards": (("shards", []), "shard"),
    "checksum": (("shards", 0, "sha256", "0" * 64), "SHA-256"),
    "no checksum": (("shards", 0, "sha256", ""), "SHA-256"),
    "size": (("shards", 0, "bytes", 1), "bytes"),
    "classes": (("classes", 6), "outputs"),
    "dtype": (("dtype", "float16"), "outputs"),
    "object dtype": (("dtype", "object"), "dtype"),
    "kind": (("kind", "summary"), "absent for kind summary"),
    "probabilities": (("kind", "probabilities"), "logits"),
    "split name": (("shards", 0, "split", "a/b"), "split"),
    "pool beside test": (("shards", 0, "split", "pool"), "pool"),
    "shares over 1": (("shares", {"fit": 0.9, "test": 0.2}), "overlap"),
    "decreasing costs": (("costs", 0, "values", [3, 2, 1]), "decrease"),
    "cost of text": (("costs", 0, "values", ["a", 2, 3]), "number"),
    "per-sample cost not there": (("costs", 0, "values", None), r"Missing \['compute'\]"),
    "widths of two exits": (("features", [4, 2]), "one width per exit"),
    "other width": (("features", [4, 2, 8]), "widths 4, 2, 8. Got widths 4, 2, 7"),
    "negative width": (("features", [4, 2, -7]), "a width of 1 or more"),
    "bool for width": (("features", [4, 2, True]), "a width of 1 or more"),
    "no widths": (("features", GONE), "none. Got widths 4, 2, 7"),
    "fewer contexts": (("contexts", ["clean"]), "from 0 to 0"),
    "contexts of one name": (("contexts", ["a", "a", "b"]), "different names"),
    "numbers for contexts": (("contexts", [1, 2, 3]), "different names"),
    "no names of contexts": (("contexts", GONE), "'context' must be absent"),
    "not an object": (b"[1]", "format"), "empty": (b"", "manifest"), "not text": (b"\xff\xfe", "manifest"),
    "cut": (b"{", "manifest"), "deep": (b"[" * 100_000, "manifest"), "NaN": (b'{"format": NaN}', "manifest"),
    "long number": (b"1" * 10_000, "manifest"), "too large": (b" " * (MAX_BYTES + 9), "manifest"),
}  # fmt: skip


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_refused(place, name):
    change, expected = MANIFESTS[name]
    if isinstance(change, bytes):
        (place / "manifest.json").write_bytes(change)
    else:
        edit(place, *change)
    with pytest.raises(po.InputError, match=expected):
        po.open_cache(place)


def test_what_is_changed_or_no_cache_is_refused(place, tmp_path):
    file = place / "manifest.json"
    content = json.loads(file.read_text())
    for other, says in (
        ({k: v for k, v in content.items() if k != "sha256"}, "sha256"),
        (content | {"metadata": {"model": "y"}}, "changed after it was written"),
        (content | {"sha256": "0" * 64}, "changed after it was written"),
        (signed(content | {"shards": [*content["shards"], content["shards"][0]]}), "twice"),
    ):
        file.write_text(json.dumps(other))
        with pytest.raises(po.InputError, match=says):
            po.open_cache(place)
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(po.InputError, match="manifest"):
            po.open_cache(path)


@pytest.mark.parametrize("verify", [True, False])
def test_missing_cut_or_linked_shard(place, tmp_path, verify):
    shard = next(place.glob("fit-00000*.safetensors"))
    whole = shard.read_bytes()
    (tmp_path / "secret").write_bytes(whole)

    def refused(match):
        with pytest.raises(po.InputError, match=match):
            po.open_cache(place, verify=verify)
        shard.unlink()

    shard.write_bytes(whole[:-1])
    refused(f"{SHARD}.*bytes")
    with pytest.raises(po.InputError, match=f"{SHARD}.*missing"):
        po.open_cache(place, verify=verify)
    shard.symlink_to(tmp_path / "secret")
    refused(f"{SHARD}.*link")
    os.mkfifo(shard)
    refused(SHARD)  # and does not wait for a writer


def test_wrong_values_behind_right_checksums(place):
    """Values are checked on opening too: a shard from elsewhere may hold anything."""
    shard = next(place.glob("fit-00000*.safetensors"))
    block = load_file(shard)
    save_file({**block, "labels": block["labels"] + 99}, shard)
    edit(place, "shards", 0, "sha256", hashlib.sha256(shard.read_bytes()).hexdigest())
    with pytest.raises(po.InputError, match=f"{SHARD}.*labels"):
        po.open_cache(place)
