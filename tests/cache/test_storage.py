"""Stores: what is read by ranges is what stands there; one writer wins; what fails by chance is tried again."""

import zipfile
from uuid import uuid4

import numpy as np
import pytest
from conftest import refuses
from stores import s3_server, web_server

from policyopt._cache import places
from policyopt._cache.places import Store, place_of, shown
from policyopt.runtime import InputError


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
        assert store.read("a.bin", low, high).tobytes() == data[low:high]
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
    for mine, theirs in ((b"first", b"other"), (b"again", b"others")):
        found = store.find("m")
        tag = found[1] if found else ""
        store.put("m", theirs)
        monkeypatch.setattr(store, "find", lambda name, found=found: found)
        refuses("one writer at a time", store.put, "m", mine, tag)
        monkeypatch.undo()
        assert store.whole("m", 9) == theirs
    # An answer that was lost is no other writer.
    found = store.find("m")
    store.put("m", b"mine", found[1])
    monkeypatch.setattr(store, "find", lambda name: found)
    monkeypatch.setattr(store, "whole", lambda name, most: b"mine")
    store.put("m", b"mine", found[1])


def test_what_fails_by_chance_is_tried_again_and_what_lasts_is_not(web, quick):
    (web.folder / "a").write_bytes(b"0123456789")
    store, web.fails = Store(web.at), 2
    assert store.read("a", 2, 5).tobytes() == b"234"
    web.cuts = 2
    assert store.read("a", 2, 5).tobytes() == b"234"
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
    assert store.read("a", 0, 3).tobytes() == b"012"  # what opens the folder opens its files
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
    for path in (tmp_path, str(tmp_path), "C:/x", "fit=a.npz", f"file://{tmp_path}"):
        assert not isinstance(place_of(path), Store)
    assert place_of(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
