"""The store: what is written is read back; what broke off is never read as whole."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyopt._cache.arrays import from_arrays
from policyopt._cache.reader import open_cache
from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost
from policyopt.runtime._errors import InputError


def shards_of(place):
    return [shard["file"] for shard in json.loads((place / "manifest.json").read_text())["shards"]]


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_outputs_come_back_bit_by_bit(tmp_path, logits, labels, costs, dtype, kind):
    outputs = (softmax(logits) if kind == "probabilities" else logits).astype(dtype)
    outputs[0, 0, 1] = -np.inf if kind == "logits" else outputs[0, 0, 1]
    with CacheWriter(tmp_path, costs=costs, kind=kind, dtype=dtype, shard_bytes=450) as cache:
        for low in range(0, 60, 7):  # batches, shards and splits fall differently
            cache.append("fit", outputs[low : low + 7], labels[low : low + 7])
            cache.append("noisy", outputs[low : low + 7] if low else outputs[:7])
    data = open_cache(tmp_path)
    fit = data.splits["fit"]
    assert len(fit.blocks) > 3
    assert fit.array("outputs").dtype == dtype
    np.testing.assert_array_equal(fit.array("outputs"), outputs)
    np.testing.assert_array_equal(fit.array("labels"), labels)
    assert not data.splits["noisy"].has("labels")
    assert (data.kind, data.exits, data.classes) == (kind, 3, 5)
    assert all(not a.flags.writeable for block in fit.blocks for a in block.values())
    assert isinstance(fit.blocks[0]["outputs"].base.base, np.memmap)  # mapped, not read


def test_records_and_sample_costs_come_back(tmp_path, record, rng):
    paid = np.cumsum(rng.random((60, 3)), axis=1)
    costs = [Cost("price", "USD", None), Cost("compute", "MMACs", [1, 2, 3], kind="standalone")]
    top = np.sort(rng.dirichlet(np.ones(5), (60, 3)), axis=2)[:, :, :-4:-1]
    record["entropy"] = np.full((60, 3), 0.5)
    record["top_prob"] = top
    with CacheWriter(tmp_path, costs=costs, kind="record", dtype="float64") as cache:
        cache.append("pool", sample_costs={"price": paid}, **record)
    data = open_cache(tmp_path)
    assert data.pooled and data.split_names == ("fit", "test")
    rows = data.splits["pool"]
    for name, array in {**record, "cost:price": paid}.items():
        np.testing.assert_array_equal(rows.array(name), array)
    assert data.cost().per_sample and data.cost("compute").values == (1, 3, 6)
    key, fit = data.rows("fit")
    assert key == "pool" and len(fit) == 30 and not set(fit) & set(data.rows("test")[1])


def test_batches_do_not_change_the_cache(tmp_path, logits, labels, costs):
    def write(path, step):
        with CacheWriter(path, costs=costs, shard_bytes=1000) as cache:
            for low in range(0, 60, step):
                cache.append("fit", logits[low : low + step], labels[low : low + step])
        return open_cache(path)

    one, other = write(tmp_path / "a", 60), write(tmp_path / "b", 11)
    assert one.fingerprint == other.fingerprint
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_any_axes_tensors_and_lists_mean_the_same(tmp_path, logits, labels, costs):
    import torch

    tensors = [torch.tensor(logits[:, k], requires_grad=True) for k in range(3)]
    forms = [
        (logits, "NKC"),
        (logits.transpose(1, 0, 2), "KNC"),
        (logits.transpose(2, 1, 0), "CKN"),
        (logits.tolist(), "NKC"),
        ([logits[:, k] for k in range(3)], "NKC"),
        (tensors, "NKC"),
        (torch.stack(tensors), "KNC"),
    ]
    prints = set()
    for number, (outputs, axes) in enumerate(forms):
        with CacheWriter(tmp_path / str(number), costs=costs) as cache:
            cache.append("fit", outputs, torch.tensor(labels), axes=axes)
        prints.add(open_cache(tmp_path / str(number)).fingerprint)
    assert len(prints) == 1


def test_an_exception_leaves_finished_shards_only(tmp_path, logits, labels, costs):
    writer = CacheWriter(tmp_path, costs=costs, shard_bytes=1200)
    with pytest.raises(ZeroDivisionError), writer as cache:
        cache.append("fit", logits, labels)
        raise ZeroDivisionError
    with pytest.raises(InputError, match="--incomplete"):
        open_cache(tmp_path)
    rows = open_cache(tmp_path, incomplete=True).splits["fit"]
    assert 0 < len(rows) < 60
    np.testing.assert_array_equal(rows.array("outputs"), logits[: len(rows)])


def test_a_bad_batch_adds_nothing(tmp_path, logits, labels, costs):
    with CacheWriter(tmp_path, costs=costs) as cache:
        cache.append("fit", logits[:10], labels[:10])
        with pytest.raises(InputError, match="row 13, exit 2 of split 'fit'"):
            bad = logits[10:20].copy()
            bad[3, 2, 0] = np.nan
            cache.append("fit", bad, labels[10:20])
        cache.append("fit", logits[10:20], labels[10:20])
    np.testing.assert_array_equal(open_cache(tmp_path).splits["fit"].array("outputs"), logits[:20])


def test_kill_9_at_any_moment(tmp_path):
    """A writer killed without warning leaves whole shards, and a cache that calls itself incomplete."""
    script = textwrap.dedent(
        """
        import sys, numpy as np
        from policyopt._cache.writer import CacheWriter
        from policyopt._costs import Cost
        rng = np.random.default_rng(0)
        with CacheWriter(sys.argv[1], costs=[Cost("c", "ms", [1, 2])], shard_bytes=20_000) as cache:
            while True:
                cache.append("fit", rng.normal(size=(50, 2, 10)), rng.integers(0, 10, 50))
                print("appended", flush=True)
        """
    )
    for number, batches in enumerate((12, 31, 54)):
        place = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(place)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(batches):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.stdout.close()
        process.wait()
        with pytest.raises(InputError, match="incomplete"):
            open_cache(place)
        (place / ".fit-9.safetensors.0.tmp").write_bytes(b"half")
        rows = open_cache(place, incomplete=True).splits["fit"]
        assert len(rows) >= 250
        expected = np.random.default_rng(0).normal(size=(50, 2, 10))
        np.testing.assert_array_equal(rows.array("outputs")[:50], expected.astype(np.float32))


def test_overwrite_replaces_caches_only(tmp_path, logits, labels, costs):
    place = tmp_path / "cache"

    def write(rows, **options):
        with CacheWriter(place, costs=costs, shard_bytes=2000, **options) as cache:
            cache.append("fit", logits[:rows], labels[:rows])

    place.mkdir()
    (place / "README.md").write_text("data card")
    write(60)
    with pytest.raises(InputError, match="--overwrite"):
        write(20)
    writer = CacheWriter(place, costs=costs, overwrite=True)
    with pytest.raises(InputError), writer as cache:  # before the first shard: the old one is whole
        cache.append("fit", logits[:, :2], labels)
    assert len(open_cache(place).splits["fit"]) == 60
    write(20, overwrite=True)
    assert len(open_cache(place).splits["fit"]) == 20
    assert {file.name for file in place.iterdir()} == {
        "README.md", "manifest.json", *shards_of(place)
    }  # fmt: skip
    assert len(shards_of(place)) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    for taken in (tmp_path / "other", tmp_path / "other" / "thesis.tex"):
        with pytest.raises(InputError, match="path"):
            CacheWriter(taken, costs=costs, overwrite=True)


def test_progress_and_trust(tmp_path, logits, labels, costs):
    with CacheWriter(tmp_path, costs=costs, shard_bytes=1000) as cache:
        cache.append("fit", logits, labels)
    seen = []
    open_cache(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and len(seen) > 2
    assert open_cache(tmp_path, verify=False).fingerprint == open_cache(tmp_path).fingerprint


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    n=st.integers(1, 30),
    k=st.integers(1, 4),
    c=st.integers(2, 6),
    shard=st.integers(200, 3000),
    cuts=st.lists(st.integers(1, 9), max_size=5),
    seed=st.integers(0, 99),
)
def test_disk_and_memory_agree(tmp_path_factory, n, k, c, shard, cuts, seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(n, k, c)) * 9, rng.integers(-1, c, n)
    costs = [Cost("c", "ms", range(1, k + 1))]
    place = tmp_path_factory.mktemp("cache")
    with CacheWriter(place, costs=costs, shard_bytes=shard) as cache:
        low = 0
        for step in [*cuts, n]:
            if low < n:
                cache.append("s", logits[low : low + step], labels[low : low + step])
            low += step
    on_disk = open_cache(place)
    memory = from_arrays(splits={"s": {"outputs": logits, "labels": labels}}, costs=costs)
    for name in ("outputs", "labels"):
        one, other = on_disk.splits["s"].array(name), memory.splits["s"].array(name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


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
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "[]", run.stderr
