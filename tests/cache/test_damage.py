"""Damaged and hostile caches: every one ends in an InputError, never in another exception."""

import json
import os
import struct

import pytest

from policyopt._cache.manifest import MAX_BYTES, signed
from policyopt._cache.reader import open_cache
from policyopt._cache.writer import CacheWriter
from policyopt.runtime._errors import InputError

SHARD = r"fit-00000[-0-9a-f]*\.safetensors"


def first_shard(place):
    return next(place.glob("fit-00000*.safetensors"))


@pytest.fixture
def place(tmp_path, logits, labels, costs):
    with CacheWriter(tmp_path / "cache", costs=costs, shard_bytes=1500) as cache:
        cache.append("fit", logits[:40], labels[:40])
        cache.append("test", logits[40:], labels[40:])
    return tmp_path / "cache"


def edit(place, change):
    content = json.loads((place / "manifest.json").read_text())
    change(content)
    (place / "manifest.json").write_text(json.dumps(signed(content)))


def set_in(*path):
    *parents, last, value = path

    def change(content):
        for step in parents:
            content = content[step]
        content[last] = value

    return change


MANIFESTS = {
    "other format": (set_in("format", "zip"), "format"),
    "newer version": (set_in("version", 3), "version"),
    "unknown field": (set_in("colour", "red"), "colour"),
    "unknown shard field": (set_in("shards", 0, "url", "http://x"), "url"),
    "missing field": (lambda c: c.pop("kind"), "kind"),
    "wrong type": (set_in("exits", "3"), "exits"),
    "bool for int": (set_in("split_seed", True), "split_seed"),
    "huge K": (set_in("exits", 10**9), "K alike"),
    "huge rows": (set_in("shards", 0, "rows", 10**15), "shape"),
    "negative rows": (set_in("shards", 0, "rows", -1), "rows"),
    "traversal": (set_in("shards", 0, "file", "../x.safetensors"), "plain name"),
    "absolute path": (set_in("shards", 0, "file", "/etc/passwd"), "plain name"),
    "other shard": (set_in("shards", 0, "file", "gone.safetensors"), "gone.safetensors"),
    "same shard twice": (lambda c: c["shards"].append(c["shards"][0]), "twice"),
    "no shards": (set_in("shards", []), "shard"),
    "checksum": (set_in("shards", 0, "sha256", "0" * 64), "SHA-256"),
    "no checksum": (set_in("shards", 0, "sha256", ""), "SHA-256"),
    "size": (set_in("shards", 0, "bytes", 1), "bytes"),
    "classes": (set_in("classes", 6), "outputs"),
    "dtype": (set_in("dtype", "float16"), "outputs"),
    "object dtype": (set_in("dtype", "object"), "dtype"),
    "kind": (set_in("kind", "record"), "absent for kind record"),
    "probabilities": (set_in("kind", "probabilities"), "logits"),
    "split name": (set_in("shards", 0, "split", "a/b"), "split"),
    "pool beside test": (set_in("shards", 0, "split", "pool"), "pool"),
    "shares over 1": (set_in("shares", {"fit": 0.9, "test": 0.2}), "overlap"),
    "decreasing costs": (set_in("costs", 0, "values", [3, 2, 1]), "decrease"),
    "cost of text": (set_in("costs", 0, "values", ["a", 2, 3]), "number"),
    "per-sample cost not there": (set_in("costs", 0, "values", None), r"Missing \['compute'\]"),
    "not an object": (lambda c: c.__init__(), "format"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest(place, name):
    change, expected = MANIFESTS[name]
    if name == "not an object":
        (place / "manifest.json").write_text("[1]")
    else:
        edit(place, change)
    with pytest.raises(InputError, match=expected):
        open_cache(place)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b'{"format": NaN}',
        b"1" * 10_000,
        b" " * (MAX_BYTES + 9),
    ],
    ids=["empty", "not text", "cut", "deep", "NaN", "long number", "too large"],
)
def test_manifest_that_is_no_json(place, text):
    (place / "manifest.json").write_bytes(text)
    with pytest.raises(InputError, match="manifest"):
        open_cache(place)


def test_no_cache_at_all(tmp_path):
    for path in (tmp_path, tmp_path / "gone"):
        with pytest.raises(InputError, match="manifest"):
            open_cache(path)


@pytest.mark.parametrize("verify", [True, False])
def test_missing_cut_or_linked_shard(place, tmp_path, verify):
    shard = first_shard(place)
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(InputError, match=f"{SHARD}.*bytes"):
        open_cache(place, verify=verify)
    shard.unlink()
    with pytest.raises(InputError, match=f"{SHARD}.*missing"):
        open_cache(place, verify=verify)
    (tmp_path / "secret").write_bytes(whole)
    shard.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=f"{SHARD}.*link"):
        open_cache(place, verify=verify)
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(InputError, match=SHARD):  # and does not wait for a writer
        open_cache(place, verify=verify)


def test_lying_header(place):
    """A header that claims more than the file holds allocates nothing."""
    shard = first_shard(place)
    data = shard.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    rows = header["outputs"]["shape"][0]
    for shape, offsets in (
        ([rows * 10**12, 3, 5], header["outputs"]["data_offsets"]),
        ([rows, 3, 5], [0, 10**18]),
        ([rows, -3, -5], header["outputs"]["data_offsets"]),
    ):
        header["outputs"] |= {"shape": shape, "data_offsets": offsets}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        shard.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
        edit(place, set_in("shards", 0, "bytes", shard.stat().st_size))
        with pytest.raises(InputError, match=SHARD):
            open_cache(place, verify=False)
    shard.write_bytes(struct.pack("<Q", 2**60) + data[8:])
    edit(place, set_in("shards", 0, "bytes", shard.stat().st_size))
    with pytest.raises(InputError, match="header"):
        open_cache(place, verify=False)


def test_wrong_values_behind_right_checksums(place, logits, labels):
    """Values are checked on opening too: a shard from elsewhere may hold anything."""
    import hashlib

    from safetensors.numpy import load_file, save_file

    block = load_file(first_shard(place))
    block["labels"] = block["labels"] + 99
    save_file(block, first_shard(place))
    digest = hashlib.sha256(first_shard(place).read_bytes()).hexdigest()
    edit(place, set_in("shards", 0, "sha256", digest))
    with pytest.raises(InputError, match=f"{SHARD}.*labels"):
        open_cache(place)
