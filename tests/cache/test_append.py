"""A cache that grows: rows are added, windows read the last of them, what is kept of older ones is used again."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

import policyopt as po
from policyopt._cache import statistics
from policyopt._cache.importers import import_sources
from policyopt._cache.reader import read_manifest
from policyopt._table import Tables, exit_statistics
from tests import faults
from tests.cache.test_statistics import COLUMNS, check, passes  # noqa: F401
from tests.conftest import refuses

DAYS = ("2026-11-01", "2026-11-02", "2026-11-03T06:00")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(statistics, "_WORTH_KEEPING", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def rows(seed, n=100):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, n)
    return rng.normal(size=(n, 3, 5)) + 2 * np.eye(5)[labels][:, None], labels


def day(place, number, split="recent", **more):
    first = {"costs": po.Cost("compute", "MMACs", [1, 2, 4])} if not place.exists() else {}
    with po.CacheWriter(
        place, append=True, time=DAYS[number], shard_bytes=4096, **first, **more
    ) as cache:
        cache.append(split, *rows(number))


def test_appended_rows_come_after_the_others(tmp_path):
    place = tmp_path / "c"
    for number in range(3):
        day(place, number)
    data = po.open_cache(place)
    whole = np.concatenate([rows(number)[0] for number in range(3)]).astype(np.float32)
    np.testing.assert_array_equal(data.splits["recent"].array("outputs"), whole)
    with po.CacheWriter(tmp_path / "once", costs=data.costs, shard_bytes=4096) as cache:
        for number in range(3):
            cache.append("recent", *rows(number))
    fitted = [
        po.fit(one, "60%", "max_prob", split="recent")
        for one in (data, po.open_cache(tmp_path / "once"))
    ]
    np.testing.assert_array_equal(*(one.policy.thresholds for one in fitted))


def test_only_new_rows_are_read(tmp_path, passes):  # noqa: F811
    place = tmp_path / "c"
    for number in range(3):
        day(place, number)
        passes()
        check(po.open_cache(place), "recent")
        read, _ = passes()
        assert read == 100 + 100 * (
            number + 1
        )  # the new ones, and the pass that `check` makes itself
    week = po.open_cache(place, last="1d")
    passes()
    check(week, "recent")  # a part of what is kept: the rows of the last day
    assert passes()[0] == 100 and len(week.splits["recent"]) == 100


def test_windows_by_time_and_rows(tmp_path):
    place = tmp_path / "c"
    for number in range(3):
        day(place, number)

    def count(**window):
        return len(po.open_cache(place, **window).splits["recent"])

    assert count(since="2026-11-02") == 200 and count(since="2026-11-03T06:00") == 100
    assert count(last="2d") == 200 and count(last="31h") == 200 and count(last="30h") == 100
    assert count(last=100) == 100 <= count(last=101) <= 200 and count(last=10**9) == 300
    assert count(last="999999999999d") == 300
    refuses("The newest are of 2026-11-03T06:00", po.open_cache, place, since="2027-01-01")
    refuses("7d", po.open_cache, place, last="a week")
    refuses("2026-11-30", po.open_cache, place, since="yesterday")
    first, last = po.open_cache(place, since="2026-11-02"), po.open_cache(place, last="2d")
    assert first.fingerprint == last.fingerprint != po.open_cache(place).fingerprint


def test_what_is_not_retained_goes_and_open_caches_go_on(tmp_path):
    place = tmp_path / "c"
    day(place, 0)
    day(place, 1)
    old = po.open_cache(place)
    check(old, "recent")
    day(place, 2, retain="2d")
    data = po.open_cache(place)
    assert len(data.splits["recent"]) == 200 and len(old.splits["recent"]) == 200
    check(old, "recent")
    check(data, "recent")
    named = {shard.file for shard in read_manifest(place).shards}
    assert {file.name for file in place.glob("*.safetensors")} == named
    refuses("appended rows that are new", day, place, 2)
    refuses("no later than now", po.CacheWriter, place, append=True, time="2999-01-01", retain=1)
    refuses("divided anew", lambda: day(tmp_path / "pool", 0, "pool"))
    assert len(po.open_cache(place).splits["recent"]) == 200


def test_rows_that_do_not_fit_are_refused(tmp_path):
    place = tmp_path / "c"
    day(place, 0)

    def append(split="recent", *given, **more):
        with po.CacheWriter(place, append=True, **more) as cache:
            cache.append(split, *(given or rows(1)))

    before = faults.tree(place)
    refuses("arrays", append, "recent", rows(1)[0])  # no labels
    refuses("exits", append, "recent", rows(1)[0][:, :2], rows(1)[1])
    refuses("costs", append, costs=po.Cost("other", "ms", [1, 2, 3]))
    refuses("absent with append", append, overwrite=True)
    refuses(
        "given with append", po.CacheWriter, tmp_path / "d", costs=po.Cost("c", "ms", [1]), retain=5
    )
    assert faults.tree(place) == before
    append("others")  # another stream
    assert set(po.open_cache(place).splits) == {"recent", "others"}


@pytest.mark.parametrize("mode", faults.MODES)
def test_a_crash_leaves_the_old_or_the_new(tmp_path, mode):
    day(tmp_path / "0", 0)
    day(tmp_path / "1", 1)
    truth = {}
    for name in "01":
        data = po.open_cache(tmp_path / name)
        columns = Tables(data).get("recent").statistics
        truth[name] = {n: np.array(getattr(columns, n)) for n in COLUMNS}
    told = set()
    for at in range(0, 300, 4):
        place = tmp_path / f"c{at}"
        shutil.copytree(tmp_path / "0", place)
        code, reached = faults.run(lambda p=place: day(p, 1, retain="1d"), at, mode)
        found = exit_statistics(po.open_cache(place).splits["recent"], "logits")
        is_old, is_new = (
            all(np.array_equal(truth[name][n], getattr(found, n)) for n in COLUMNS) for name in "01"
        )
        assert is_new if code == faults.DONE else is_old or is_new
        told.add((code, is_new))
        day(place, 2, retain="1d")  # and the next one cleans up
        named = {shard.file for shard in read_manifest(place).shards}
        assert {file.name for file in place.glob("*.safetensors")} == named
        shutil.rmtree(place)
        if not reached:
            break
    assert not reached and faults.OTHER not in {code for code, _ in told}, told


def test_a_watch_reads_what_was_appended_and_no_row_twice(tmp_path, monkeypatch):
    place, state, policy = tmp_path / "c", tmp_path / "monitor.json", tmp_path / "policy.json"
    day(place, 0)
    data = po.open_cache(place)
    po.fit(data, "60%", "max_prob", split="recent").save(policy)
    words = [
        "watch",
        str(place),
        "--policy",
        str(policy),
        "--risk",
        "drop<=20%",
        "--state",
        str(state),
    ]
    words += ["--format", "json"]
    base = [sys.executable, "-m", "policyopt"]

    def watch():
        done = subprocess.run([*base, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)[0]

    assert watch()["losses"] == 100 == watch()["losses"]  # nothing is new
    with po.CacheWriter(place, append=True, time=DAYS[0]) as cache:
        cache.append("late", *rows(5))
    for more, told in (
        (["--split", "recnt"], "must be one of recent"),
        (["--split", "late"], "this policy"),
    ):
        done = subprocess.run([*base, *words, *more], capture_output=True, text=True, check=False)
        assert done.returncode == 2 and told in done.stderr
    day(place, 1)
    day(place, 2, retain="1d")  # those of day 1 were never seen
    again = watch()
    assert again["losses"] == 200
    drops = []
    for number, cache in ((0, data), (2, po.open_cache(place))):
        logits, labels = rows(number)
        full = (logits.argmax(axis=2)[:, -1] == labels).mean()
        drops.append(full - po.evaluate(po.load_policy(policy), cache, "recent").quality.mean())
    assert again["risk_low"] <= np.mean(drops) <= again["risk_high"]


def test_files_are_appended(tmp_path):
    for number in range(2):
        logits, labels = rows(number)
        np.savez(tmp_path / f"{number}.npz", logits=logits, labels=labels)
    place, more = tmp_path / "c", {"cost_kind": "standalone", "costs": "1,2,4", "unit": "ms"}
    for number in range(2):
        import_sources(
            f"recent={tmp_path}/{number}.npz", place, append=True, time=DAYS[number], **more
        )
        more = {}
    data = po.open_cache(place, last="1d")
    np.testing.assert_array_equal(
        data.splits["recent"].array("outputs"), rows(1)[0].astype(np.float32)
    )
    assert len(po.open_cache(place).splits["recent"]) == 200 and data.cost().cascade
    assert data.metadata["sources"] == ["0.npz"]
    np.savez(tmp_path / "names.npz", logits=rows(1)[0], labels=np.array(list("abcde"))[rows(1)[1]])
    import_sources(
        f"recent={tmp_path}/names.npz", tmp_path / "d", append=True, costs="1,2,4", unit="ms"
    )
    np.savez(tmp_path / "more.npz", logits=rows(1)[0], labels=np.array(list("bcdef"))[rows(1)[1]])
    refuses(
        "class_names", import_sources, f"recent={tmp_path}/more.npz", tmp_path / "d", append=True
    )
