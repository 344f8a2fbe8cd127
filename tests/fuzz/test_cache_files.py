"""Caches and ``.npz`` files, damaged, or twisted and signed as a forger would: a named error, or what was written."""

import hashlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from cache_rows import CONF, COSTS, NAMES, PRED, Y, batch
from mutations import Guard, damaged, forged_archive, in_batches, text_of, twisted

from policyopt._cache.importers import read_file as read_npz
from policyopt._cache.manifest import CACHE
from policyopt._cache.reader import open_cache
from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost
from policyopt.runtime._outputs_file import read_arrays

CACHES, ARCHIVES = 12, 10  # batches: 2,200 cases
N, K, C = 6, 2, 3


def made(room):
    """Write two caches: logits with features and contexts, and records with costs per sample."""
    facts = {"metadata": {"model": "x", "depths": [1, 2]}, "contexts": NAMES}
    with CacheWriter(room / "logits", costs=COSTS, **facts) as cache:
        for seed, split in enumerate(("fit", "test")):
            cache.append(split, **batch(N, seed))
    costs, shares = [COSTS, Cost("price", "USD", None)], {"fit": 0.5, "test": 0.5}
    price = {"price": np.cumsum(CONF[:N], axis=1)}
    with CacheWriter(room / "summary", kind="summary", costs=costs, shares=shares) as cache:
        rows = {"prediction": PRED[:N], "confidence": CONF[:N], "labels": Y[:N]}
        cache.append("pool", **rows, sample_costs=price)
    return [room / "logits", room / "summary"]


def told(data):
    return repr(replace(data, splits={})), {
        f"{split}:{name}": (rows.array(name).dtype, rows.array(name).tolist())
        for split, rows in data.splits.items()
        for name in sorted(rows.blocks[0])
    }


def forged_header(draw, whole):
    """Return a shard whose header is damaged or twisted, its length made to fit or not."""
    length = int.from_bytes(whole[:8], "little")
    header = whole[8 : 8 + length]
    twist = text_of(twisted(draw, json.loads(header))).strip()
    header = draw.choice((damaged(draw, header), twist))
    count = len(header) if draw.random() < 0.9 else draw.choice((0, 1, 2**20, 2**40, 2**63))
    return count.to_bytes(8, "little") + header + whole[8 + length :]


def one_cache(draw, number, guard, directory, whole):
    """Damage one file of a cache, open it, and put it right again."""
    file = draw.choice(sorted(directory.iterdir()))
    manifest = directory / "manifest.json"
    content, before = json.loads(manifest.read_bytes()), manifest.read_bytes()
    data = file.read_bytes()
    way, forged = draw.random(), False
    if way < 0.4:
        damage = damaged(draw, data)
    elif file == manifest:
        twist = twisted(draw, content)
        damage, forged = text_of(CACHE.signed(**twist) if isinstance(twist, dict) else twist), True
    else:
        damage, forged = forged_header(draw, data), True
        for shard in content["shards"]:
            if shard["file"] == file.name:
                shard |= {"bytes": len(damage), "sha256": hashlib.sha256(damage).hexdigest()}
        manifest.write_bytes(text_of(CACHE.signed(**content)))
    file.write_bytes(damage)
    size = sum(path.stat().st_size for path in directory.iterdir())
    what = (*number, directory.name, file.name, way, damage)
    try:
        found = guard.load(lambda: open_cache(directory), size, what)
        if found is not None and not forged:
            assert told(found) == whole, what
        if found is not None and forged:
            again = open_cache(directory, verify=False)
            assert told(again) == told(found), what
            for name in found.split_names:
                split, rows = found.rows(name)
                assert len(rows) <= len(found.splits[split]), what
    finally:
        for path, old in ((file, data), (manifest, before)):
            path.unlink()  # not written over: what is mapped still would change under its reader
            path.write_bytes(old)


def test_caches(room):
    sources = [(directory, told(open_cache(directory))) for directory in made(room)]
    guard = Guard()
    case = lambda draw, number: one_cache(draw, number, guard, *draw.choice(sources))  # noqa: E731
    in_batches(case, guard, CACHES, 0.01)


def archive(compress=False):
    rng, file = np.random.default_rng(1), io.BytesIO()
    arrays = {"logits": rng.normal(size=(K, N, C)).astype("f4"), "labels": rng.integers(0, C, N)}
    (np.savez_compressed if compress else np.savez)(file, **arrays)
    return file.getvalue(), arrays


@pytest.mark.filterwarnings("ignore")  # of numpy and zipfile, on the odd headers that damage makes
def test_archives(room):
    guard = Guard(free=16 << 20)  # what is imported late counts too
    path = room / "a.npz"
    sources = [archive(), archive(True)]
    path.write_bytes(sources[0][0])
    readers = (lambda: read_npz(path).arrays, lambda: read_arrays(path, {"logits", "labels"})[0])
    assert set(readers[0]()) == set(readers[1]())

    def one_archive(draw, number):
        data, arrays = draw.choice(sources)
        forged = draw.random() < 0.4
        damage = forged_archive(draw, data) if forged else damaged(draw, data)
        path.write_bytes(damage)
        what = (*number, forged, damage)
        for reader in readers:
            found = guard.load(reader, len(damage), what)
            if found is None or forged:
                continue
            # The members' checksums hold: only their names may have changed.
            for name, array in found.items():
                any_of = [a for a in arrays.values() if a.shape == array.shape]
                assert any(np.array_equal(a, array) for a in any_of), (name, what)

    in_batches(one_archive, guard, ARCHIVES, 0.01, 0.9)
