"""Stores: what is read by ranges is what stands there; one writer wins; what fails by chance is tried again."""

import itertools
import zipfile
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from conftest import printed, refuses
from stores import s3_server, web_server

import policyopt as po
from policyopt._cache import places, shards, statistics
from policyopt._cache.places import Store, place_of, shown
from policyopt._cache.reader import read_manifest
from policyopt._table import Tables, exit_statistics
from policyopt.runtime import InputError
from policyopt.runtime._experts import any_to_dict


@pytest.fixture(scope="module")
def s3():
    with s3_server() as at:
        yield at


@pytest.fixture
def web(tmp_path):
    (tmp_path / "web").mkdir()
    with web_server(tmp_path / "web") as server:
        yield server


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(places, "_WAITS", (0.01, 0.01))


def fresh(kind):
    return f"{kind}{uuid4().hex[:8]}/cache"


@pytest.mark.parametrize("kind", ["s3://bkt/", "memory://", "http", "zip"])
def test_bytes_by_ranges_are_those_that_stand_there(kind, s3, web, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_PIECE", 1000)
    monkeypatch.setattr(places, "AT_ONCE", 3000)
    data = np.random.default_rng(0).bytes(10_007)
    if kind == "http":
        (web.folder / "cache").mkdir()
        (web.folder / "cache" / "a.bin").write_bytes(data)
        store = Store(f"{web.at}/cache/")
    elif kind == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("in/a.bin", data)
        store = Store(f"zip://in::{tmp_path}/x.zip")
    else:
        store = Store(fresh(kind))
        assert store.listing() == {} and store.find("a.bin") is None
        store.put("a.bin", data)
    size, tag = store.find("a.bin")
    assert size == len(data) and tag
    for low, high in [(0, 10_007), (0, 1), (999, 1001), (2500, 9000), (5, 5)]:
        assert store.read("a.bin", low, high) == data[low:high]
    assert store.whole("a.bin", 10_007) == data
    refuses("at most 10006 bytes", store.whole, "a.bin", 10_006)
    refuses("removed, or replaced", store.read, "b.bin", 0, 10)
    if kind != "http":
        assert [*store.listing()] == ["a.bin"]


@pytest.mark.parametrize("kind", ["s3://bkt/", "memory://"])
def test_of_two_writers_one_wins_and_the_other_is_told(kind, s3):
    one, other = Store(at := fresh(kind)), Store(at)
    one.put("m", b"first", tag="")
    refuses("one writer at a time", other.put, "m", b"second", tag="")
    tag = one.find("m")[1]
    other.put("m", b"third", tag)
    refuses("one writer at a time", one.put, "m", b"fourth", tag)
    assert one.whole("m", 9) == b"third"
    one.remove("m")
    one.remove("m")
    assert other.find("m") is None


def test_the_store_itself_refuses_a_second_writer_between_look_and_write(s3, monkeypatch):
    store = Store(fresh("s3://bkt/"))
    real, before = store.fs.pipe_file, []

    def crowded(path, data, **how):
        for other in before:
            real(path, other, **(how if other == data else {}))
        return real(path, data, **how)

    monkeypatch.setattr(store.fs, "pipe_file", crowded)
    for mine, theirs in ((b"first", b"other"), (b"again", b"others")):
        before[:] = [theirs]
        found = store.find("m")
        refuses("one writer at a time", store.put, "m", mine, found[1] if found else "")
        assert store.whole("m", 9) == theirs
    before[:] = [b"mine"]  # an answer that was lost is no other writer
    store.put("m", b"mine", store.find("m")[1])
    assert store.whole("m", 9) == b"mine"


def test_what_fails_by_chance_is_tried_again_and_what_lasts_is_not(web, quick):
    (web.folder / "a").write_bytes(b"0123456789")
    store, web.fails = Store(web.at), 2
    assert store.read("a", 2, 5) == b"234"
    web.cuts = 2
    assert store.read("a", 2, 5) == b"234"
    web.fails = 3
    refuses("readable. Got .*503", store.read, "a", 2, 5)
    assert web.fails == 0
    web.token, web.fails = "x", 1
    refuses("readable. Got .*403", store.read, "a", 2, 5)
    assert web.fails == 1  # not asked again
    web.token, web.fails, web.ranges = "", 0, False
    refuses("whole files where ranges", store.read, "a", 2, 5)


def test_no_message_tells_a_key(web, quick):
    host = web.at.removeprefix("http://")
    (web.folder / "a").write_bytes(b"0123456789")
    web.token = "topsecret"
    store = Store(f"http://{host}/?token=topsecret&sig=hidden")
    assert store.read("a", 0, 3) == b"012"  # what opens the folder opens its files
    web.fails = 3
    told = []
    for call in (
        lambda: store.read("a", 0, 3),
        lambda: store.read("b", 0, 3),
        lambda: store.put("a", b""),
        lambda: Store(f"http://me:topsecret@{host}/x?sig=hidden").read("a", 0, 3),
        lambda: Store("what://me:topsecret@x/y?sig=hidden"),
        lambda: Store("zip::http://me:topsecret@127.0.0.1:9/x.zip?sig=hidden"),
    ):
        with pytest.raises(InputError) as error:
            call()
        told.append(str(error.value))
        assert error.value.__suppress_context__
    assert not [text for text in told if "topsecret" in text or "hidden" in text], told
    assert shown("zip://a::s3://me@b/c?x=1&y=2") == "zip://a::s3://b/c"


def test_paths_stay_paths(tmp_path):
    for path in (tmp_path, str(tmp_path), "C:/x", "fit=a.npz", "models::v2", f"file://{tmp_path}"):
        assert not isinstance(place_of(path), Store)
    for address in (
        "memory://a/b",
        "zip://in::memory://a/x.zip",
    ):  # a `Path` has one slash left of two
        assert places.address_of(Path(address)) == address
    (tmp_path / "ab:").mkdir()
    assert not places.address_of(tmp_path / "ab:") and not places.address_of(Path("a/ab:/x"))


# --- caches ------------------------------------------------------------------------------------

COSTS = [po.Cost("compute", "MMACs", [1, 2, 4])]


def rows(n, seed=0, classes=50):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, 3, classes)) + 3 * np.eye(classes)[labels][:, None] * [
        [1],
        [2],
        [3],
    ]
    return logits.astype(np.float32), labels


def write(place, overwrite=False, seed=0, **options):
    with po.CacheWriter(place, costs=COSTS, overwrite=overwrite, **options) as cache:
        for at, split in enumerate(("fit", "test")):
            cache.append(split, *rows(400, 2 * seed + at))


def zipped(folder, file):
    with zipfile.ZipFile(file, "w") as archive:
        for one in folder.iterdir():
            archive.write(one, f"in/{one.name}")


@pytest.mark.parametrize("kind", ["s3://bkt/", "memory://", "http", "zip", "zip-web"])
@pytest.mark.parametrize("verify", [True, False])
def test_a_cache_in_a_store_is_the_one_on_disk(kind, verify, s3, web, tmp_path):
    write(tmp_path / "cache", shard_bytes=90_000)
    shards = [file for file in (tmp_path / "cache").iterdir() if file.suffix == ".safetensors"]
    assert len(shards) > 4
    if "://" in kind:
        write(place := fresh(kind), shard_bytes=90_000)
    elif kind == "http":
        (tmp_path / "cache").rename(web.folder / "c")
        place = f"{web.at}/c?sig=x"
        write(tmp_path / "cache", shard_bytes=90_000)
    else:
        zipped(tmp_path / "cache", tmp_path / "web" / "x.zip")
        place = f"zip://in::{web.at}/x.zip" if "web" in kind else f"zip://in::{web.folder}/x.zip"
    data, local = po.open_cache(place, verify=verify), po.open_cache(tmp_path / "cache")
    assert data.fingerprint == local.fingerprint and repr(data.splits) == repr(local.splits)
    for split, at in local.splits.items():
        far = data.splits[split]
        assert np.array_equal(far.array("labels"), at.array("labels"))
        places_ = np.array([399, 0, 250, 7])
        assert np.array_equal(
            far.pick("outputs", places_, [2, 0]), at.pick("outputs", places_, [2, 0])
        )
        assert np.array_equal(far.array("outputs"), at.array("outputs"))
    fitted, same = po.fit(data, "40%", "max_prob"), po.fit(local, "40%", "max_prob")
    assert any_to_dict(fitted.policy) == any_to_dict(same.policy)


@pytest.fixture
def counted(s3, monkeypatch, tmp_path):
    """Bytes that an S3 store has sent, in requests of at most so many; little stays in memory, all is worth keeping."""
    from s3fs import S3FileSystem

    real, told = S3FileSystem._cat_file, []

    async def cat(self, path, version_id=None, start=None, end=None):
        out = await real(self, path, version_id=version_id, start=start, end=end)
        told.append(len(out))
        return out

    monkeypatch.setattr(S3FileSystem, "_cat_file", cat)
    monkeypatch.setattr(shards, "MOST", 200_000)
    monkeypatch.setattr(places, "_PIECE", 40_000)
    monkeypatch.setattr(statistics, "_WORTH_KEEPING", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))

    def since():
        assert max(told, default=0) <= 40_000
        total = sum(told)
        told.clear()
        return total

    return since


def test_what_is_read_is_what_is_needed_and_that_once(counted):
    write(place := fresh("s3://bkt/"), shard_bytes=90_000)
    assert counted() < 10_000  # headers: nothing is read back
    listed = Store(place).listing()
    size = {
        split: sum(one["size"] for name, one in listed.items() if name.startswith(split))
        for split in ("fit", "test")
    }
    counted()
    data = po.open_cache(place)
    assert (data.feature_widths, data.query_width, len(data.splits["fit"])) == ((), 0, 400)
    opened = counted()
    assert opened < 12_000  # the manifest, and a header for each split
    po.fit(data, "40%", "max_prob")
    assert size["fit"] <= counted() <= 1.02 * size["fit"]
    outputs = data.splits["test"].pick("outputs", np.array([3, 5]))  # of the first shard
    assert counted() <= 90_500 and outputs.shape == (2, 3, 50)
    tables = Tables(po.open_cache(place))
    assert counted() == opened
    again = tables.get("fit").statistics
    assert counted() <= 400 * 8 + 5 * 4096  # the labels alone: the rest was kept
    fresh_ = exit_statistics(po.open_cache(place).splits["fit"], "logits")
    assert np.array_equal(again.top_prob, fresh_.top_prob) and np.array_equal(
        again.quality, fresh_.quality
    )
    counted()
    trusted = po.open_cache(place, verify=False).splits["test"]
    counted()
    trusted.array("labels")
    assert counted() <= 400 * 8 + 5 * 2048
    trusted.array("outputs")
    assert counted() == 400 * 3 * 50 * 4
    large = [a.nbytes for block in trusted.blocks for a in block._arrays.values() if a.ndim > 1]
    assert (
        len(trusted.blocks) > len(large) > 0 and sum(large) <= shards.MOST
    )  # little stays in memory


def test_a_damaged_shard_is_told_when_it_is_needed(tmp_path):
    write(place := fresh("memory://"), shard_bytes=90_000)
    store = Store(place)
    fit = sorted(name for name in store.listing() if name.startswith("fit"))
    for at in (20, -5):  # of the header, of the numbers
        content = bytearray(store.whole(fit[1], 1 << 20))
        content[at] ^= 1
        store.put(fit[1], bytes(content))
        data = po.open_cache(place)
        data.splits["test"].array("outputs")
        refuses(f"shard {fit[1]}.*SHA-256", data.splits["fit"].array, "labels")
        content[at] ^= 1 if at > 0 else 0
        store.put(fit[1], bytes(content))
    po.open_cache(place, verify=False).splits["fit"].array("labels")
    store.put(fit[1], bytes(content[:-1]))
    refuses(f"shard {fit[1]}.* bytes", po.open_cache, place)
    store.remove(fit[1])
    refuses(f"shard {fit[1]}.*none", po.open_cache, place)


def test_what_replaces_a_cache_is_whole_or_not_there(s3, tmp_path):
    for kind in ("s3://bkt/", "memory://"):
        write(place := fresh(kind))
        first = po.open_cache(place).fingerprint
        refuses("holds a cache", po.CacheWriter, place, costs=COSTS)
        with (
            pytest.raises(KeyboardInterrupt),
            po.CacheWriter(place, costs=COSTS, overwrite=True, shard_bytes=90_000) as cache,
        ):
            cache.append("fit", *rows(400, 5))
            raise KeyboardInterrupt
        assert po.open_cache(place).fingerprint == first
        assert len(po.open_cache(place, incomplete=True).splits["fit"]) < 400
        write(place, overwrite=True, seed=3)
        assert po.open_cache(place).fingerprint != first
        # Nothing is left of the others.
        assert len(Store(place).listing()) == 3
        one, other = (
            po.CacheWriter(place, costs=COSTS, overwrite=True).__enter__() for _ in range(2)
        )
        one.append("fit", *rows(400, 7))
        other.append("fit", *rows(300, 8))
        one.__exit__(None, None, None)
        refuses("one writer", other.__exit__, None, None, None)
        assert len(po.open_cache(place).splits["fit"].array("outputs")) == 400
        Store(place).put("mine.txt", b"")
        for name in ("manifest.json", "manifest.unfinished.json"):
            Store(place).remove(name)
        refuses("Other files", po.CacheWriter, place, costs=COSTS)


class Killed(BaseException):
    """Of a process: nothing is cleaned up behind it."""


def dying(name, calls, at, when):
    """A store's method; the process dies with the call of this number, of those of both methods."""
    real = getattr(Store, name)

    def call(self, *arguments):
        dead = next(calls) == at
        if dead and when == "before":
            raise Killed
        real(self, *arguments)
        if dead:
            raise Killed

    return call


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_writer_that_is_killed_at_any_request_leaves_the_old_or_the_new_cache(when, monkeypatch):
    write(old := fresh("memory://"), shard_bytes=90_000)
    write(new := fresh("memory://"), shard_bytes=90_000, seed=1)
    whole = {(data := po.open_cache(place)).fingerprint: data for place in (old, new)}
    leave, seen, requests = po.CacheWriter._leave, set(), 0
    while True:
        write(place := fresh("memory://"), shard_bytes=90_000)
        calls = itertools.count()
        with monkeypatch.context() as patch:
            for name in ("put", "remove"):
                patch.setattr(Store, name, dying(name, calls, requests, when))
            patch.setattr(po.CacheWriter, "_leave", lambda self: self._done and leave(self))
            try:
                write(place, overwrite=True, shard_bytes=90_000, seed=1)
                break
            except Killed:
                requests += 1
        found = po.open_cache(place)
        same = whole[found.fingerprint].splits["fit"].array("outputs")
        assert np.array_equal(found.splits["fit"].array("outputs"), same)
        seen.add(found.fingerprint)
        write(place, overwrite=True, seed=3)
        assert len(Store(place).listing()) == 3  # the next one cleans up
    assert requests >= 20 and seen == whole.keys()


def test_sources_of_a_store_are_imported(s3, web, tmp_path, monkeypatch):
    logits, labels = rows(300)
    names = [tmp_path / f"{i}.npy" for i in range(3)]
    for i, name in enumerate(names):
        np.save(name, logits[:, i])
    np.save(tmp_path / "labels.npy", labels)
    np.savez(web.folder / "a.npz", logits=logits, labels=labels, costs=[1.0, 2.0, 4.0])
    np.save(web.folder / "b.npy", logits)
    np.save(web.folder / "b.labels.npy", labels)
    folder = Store(f"s3://bkt/{uuid4().hex}/models")
    for name in (*names, tmp_path / "labels.npy"):
        folder.put(name.name, name.read_bytes())
    folder.put("notes.md", b"")
    from policyopt._cache.importers import import_sources

    told = {"costs": [1, 2, 4], "unit": "MMACs"}
    for i, (source, more) in enumerate([
        (f"{web.at}/a.npz?token=x", {}), (f"fit={web.at}/b.npy", {}), (folder.address, {}),
        (f"{web.at}/b.npy", {"labels": f"{web.at}/b.labels.npy"}),
    ]):  # fmt: skip
        data = import_sources(source, fresh("memory://"), **told, **more).data
        (split,) = data.splits
        assert np.array_equal(data.splits[split].array("outputs"), logits), i
        assert np.array_equal(data.splits[split].array("labels"), labels)
    refuses("missing", import_sources, f"{web.at}/c.npz", tmp_path / "c")
    write(place := fresh("memory://"))
    refuses("It is a cache already", import_sources, place, tmp_path / "c")
    web.fails = 99
    refuses("holds a cache", import_sources, f"{web.at}/a.npz", place)
    assert web.fails == 99  # refused before anything was fetched
    web.fails = 0
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("room", (), {"free": 1000}))
    refuses("at most 1000 bytes, which are free", import_sources, f"{web.at}/a.npz", tmp_path / "c")


def test_rows_that_repeat_or_stand_in_two_splits_are_found_in_a_store(tmp_path):
    outputs, labels = rows(400)
    twice = np.concatenate([outputs, outputs[:100]]), np.concatenate([labels, labels[:100]])
    groups = []
    for place in (tmp_path / "cache", at := fresh("memory://")):
        with po.CacheWriter(place, costs=COSTS, shard_bytes=90_000) as cache:
            cache.append("pool", *twice)
        groups.append(po.open_cache(place).splits["pool"].array("group"))
        assert "repeat others" in cache.notes[0]
    assert np.array_equal(*groups) and len(np.unique(groups[0])) == 400
    assert {shard.file for shard in read_manifest(Store(at)).shards} == Store(
        at
    ).listing().keys() - {"manifest.json"}
    with (
        pytest.raises(InputError, match="disjoint"),
        po.CacheWriter(fresh("memory://"), costs=COSTS) as cache,
    ):
        cache.append("fit", outputs, labels)
        cache.append("test", outputs[:50], labels[:50])
    # A cache that grows.
    write(place := fresh("memory://"))
    with po.CacheWriter(place, append=True, time="2026-11-30") as cache:
        cache.append("recent", outputs, labels)
    data = po.open_cache(place, since="2026-11-30")
    assert (
        np.array_equal(data.splits["recent"].array("outputs"), outputs)
        and len(data.splits["fit"]) == 400
    )


def test_the_command_line_takes_addresses(s3, tmp_path, monkeypatch):
    logits, labels = rows(300)
    np.savez(tmp_path / "a.npz", logits=logits, labels=labels, costs=[1.0, 2.0, 4.0])
    place = fresh("s3://bkt/")
    monkeypatch.chdir(tmp_path)
    code, out, err = printed("import", "a.npz", "--out", place, "--unit", "MMACs")
    assert code == 0 and f"policyopt info {place}" in out, err
    for words in (
        ["info"],
        ["fit", "--budget", "40%", "--method", "max_prob"],
        ["curve", "--methods", "max_prob", "--figure", "c.svg"],
    ):
        code, out, err = printed(words[0], place, *words[1:])
        assert code == 0, err
    assert "cache, split test" in (tmp_path / "c.svg").read_text()
    code, out, err = printed("info", "s3://bkt/none")
    assert code == 2 and "s3://bkt/none" in err
    code, out, err = printed("info", "http://me:hush@127.0.0.1:9/x?sig=hush")
    assert code == 2 and "hush" not in err
    assert {file.name for file in tmp_path.iterdir()} == {"a.npz", "c.svg", "policy.json"}


def test_a_pool_that_is_divided_was_not_read(tmp_path, monkeypatch):
    """What is kept of a division says nothing of the shards: a damaged one is still found."""
    monkeypatch.setattr(statistics, "_WORTH_KEEPING", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    rng, place, costs = np.random.default_rng(0), fresh("memory://"), po.Cost("c", "ms", [1, 2])
    with po.CacheWriter(place, costs=costs, shares={"fit": 0.5, "test": 0.5}) as cache:
        cache.append("pool", rng.normal(size=(500, 2, 5)), rng.integers(0, 5, 500))
    (shard,) = (name for name in Store(place).listing() if name.startswith("pool"))
    content = bytearray(Store(place).whole(shard, 1 << 20))
    content[-5] ^= 1
    Store(place).put(shard, bytes(content))
    for _ in range(2):
        assert len(po.open_cache(place).rows("fit")[1]) == 250
    refuses(f"shard {shard}.*SHA-256", Tables(po.open_cache(place)).get, "fit")
