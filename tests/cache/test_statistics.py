"""What is kept beside a cache: equal to what a pass finds, dropped when anything was touched, never in the way."""

import os
import pickle
import shutil
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

import policyopt as po
import policyopt._cache.reader
import policyopt._table
from policyopt._cache import statistics
from policyopt._cache.data import some_rows
from policyopt._table import ExitStatistics, Tables, exit_statistics
from tests import faults
from tests.conftest import refuses

COLUMNS = ("top_prob", "top_class", "entropy", "log_sum_exp", "quality", "labels", "correct")


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Caches of tests are small; what cannot stand beside them stands here."""
    monkeypatch.setattr(statistics, "_WORTH_KEEPING", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


def write(place, seed=0, n=600, **more):
    rng = np.random.default_rng(seed)
    costs = po.Cost("compute", "MMACs", [1, 2, 4])
    with po.CacheWriter(place, costs=costs, shard_bytes=4096, **more) as cache:
        for split in ("fit", "test"):
            labels = rng.integers(0, 5, n)
            logits = rng.normal(size=(n, 3, 5)) + 2 * np.eye(5)[labels][:, None]
            cache.append(split, logits, labels)
    return place


def columns(data, split="fit"):
    found = Tables(data).get(split).statistics
    return {name: np.array(getattr(found, name)) for name in COLUMNS}


def check(data, split="fit"):
    """Hold what a table has against a pass over its rows, bit by bit."""
    fresh = exit_statistics(data.splits[split], data.kind)
    for name, array in columns(data, split).items():
        np.testing.assert_array_equal(array, getattr(fresh, name), err_msg=name)


@pytest.fixture
def passes(monkeypatch):
    """Count the rows that are passed over, and the bytes of shards that are hashed."""
    seen, hashed = [], []  # threads add to them
    reduce_logits, sha256_file = policyopt._table.reduce_logits, policyopt._cache.reader.sha256_file

    def reduce(logits, *args):
        seen.append(len(logits))
        return reduce_logits(logits, *args)

    def sha256(path, *args):
        hashed.append(path.stat().st_size)
        return sha256_file(path, *args)

    monkeypatch.setattr("policyopt._table.reduce_logits", reduce)
    monkeypatch.setattr("policyopt._cache.reader.sha256_file", sha256)

    def since():
        told = sum(seen) // 3, sum(hashed)
        seen.clear()
        hashed.clear()
        return told

    return since


def test_the_second_start_reads_nothing_and_finds_the_same(tmp_path, passes):
    place = write(tmp_path / "c")
    data = po.open_cache(place)
    first = columns(data), columns(data, "test")
    rows, hashed = passes()
    assert rows == 1200 and hashed > 0
    data = po.open_cache(place)
    second = columns(data), columns(data, "test")
    assert passes() == (0, 0)
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(one[name], other[name], equal_nan=True) for name in COLUMNS)
    shutil.rmtree(place / "statistics")
    check(po.open_cache(place))
    assert passes()[0] >= 600  # removed, all is read anew


@pytest.mark.parametrize("kind", ["summary", "regression", "multilabel", "probabilities"])
def test_columns_of_every_kind(tmp_path, kind):
    rng = np.random.default_rng(0)
    more = {"regression": {"error_scale": 1.0}}.get(kind, {})
    with po.CacheWriter(
        tmp_path / "c", costs=po.Cost("c", "ms", [1, 2]), kind=kind, shard_bytes=2048, **more
    ) as cache:
        outputs = rng.normal(size=(200, 2, 3))
        given = {
            "summary": {"prediction": rng.integers(0, 3, (200, 2)), "confidence": rng.random((200, 2))},
            "regression": {"outputs": outputs},
            "multilabel": {"outputs": outputs},
            "probabilities": {"outputs": rng.dirichlet([1, 1, 1], (200, 2))},
        }[kind]  # fmt: skip
        labels = {"regression": outputs[:, 0] + 0.1, "multilabel": rng.integers(0, 2, (200, 3))}
        cache.append("test", labels=labels.get(kind, rng.integers(0, 3, 200)), **given)
    first = columns(po.open_cache(tmp_path / "c"), "test")
    second = columns(po.open_cache(tmp_path / "c"), "test")
    for name in COLUMNS:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_a_pass_by_other_processes_finds_the_same(tmp_path):
    place = write(tmp_path / "c")
    with po.parallel(jobs=2):
        check(po.open_cache(place))
    (file,) = (place / "statistics").glob("*.safetensors")
    (place / "statistics" / "index.json").unlink()
    data = po.open_cache(place)
    columns(data)  # here
    found = {one.read_bytes() for one in (place / "statistics").glob("*.safetensors")}
    assert found == {file.read_bytes()}
    table, spec = Tables(data).get("fit").statistics, {"top_prob": ((600, 3, 2), "f8")}
    spec["log_sum_exp"] = ((600, 3), "f8")
    for which in ("", "another machine's"):  # what is no file of ours is not written to: it is sent
        files = dict.fromkeys(spec, (str(file), 0, which))
        low = 0
        for number, block in enumerate(data.splits["fit"].blocks):
            sent = policyopt._table._Shard(data, "fit", (0, 1, 2), spec, files)(number)
            high = low + len(block["labels"])
            np.testing.assert_array_equal(sent["top_prob"], table.top_prob[low:high])
            low = high


def test_two_at_the_same_columns_have_files_of_their_own(tmp_path):
    place = write(tmp_path / "c")
    data = po.open_cache(place)
    asked = "fit", "ones", {"entropy": ((len(data.splits["fit"]), 3), np.float64)}
    with ExitStack() as later:
        with data.kept.columns(*asked) as (mine, _):
            theirs, _ = later.enter_context(data.kept.columns(*asked))
            mine["entropy"][:] = 1.0
        with po.open_cache(place).kept.columns(*asked) as (found, missing):
            assert not missing and (found["entropy"] == 1).all()
        theirs["entropy"][:] = 1.0


def test_of_no_rows_none_are_taken():
    unknown, top = np.broadcast_to(np.nan, (3, 2)), np.full((3, 2, 1), 0.5)
    rows = ExitStatistics(top, top.astype(np.int32), unknown, unknown, None, None)
    for _ in range(3):
        rows = rows.take(np.empty(0, np.int64))
        assert rows.entropy.shape == (0, 2) and rows.confidence.shape == (0, 2)


def test_touched_shards_are_read_anew_and_damage_is_found(tmp_path, passes):
    place = write(tmp_path / "c")
    columns(po.open_cache(place))
    shard = sorted(place.glob("fit-*.safetensors"))[1]
    about = shard.stat()
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(about.st_atime_ns, about.st_mtime_ns))  # as a hand that hides it would
    refuses("SHA-256", po.open_cache, place)
    content[-3] ^= 1
    shard.write_bytes(content)
    passes()
    check(po.open_cache(place))
    assert passes()[1] == len(content)  # that one only


def test_a_copy_is_not_trusted_with_what_the_original_knew(tmp_path, passes):
    place = write(tmp_path / "c")
    columns(po.open_cache(place))
    other = tmp_path / "copy"
    shutil.copytree(place, other, copy_function=shutil.copy2)
    passes()
    check(po.open_cache(other))
    assert passes()[1] == sum(s.stat().st_size for s in other.glob("*.safetensors"))


def test_what_was_damaged_between_opening_and_pass_is_not_kept(tmp_path):
    place = write(tmp_path / "c")
    data = po.open_cache(place)
    (shard, *_) = place.glob("fit-*.safetensors")
    content = bytearray(shard.read_bytes())
    with shard.open("r+b") as file:
        file.seek(len(content) - 2000)
        file.write(bytes(1000))
    Tables(data).get("fit")
    refuses("SHA-256", po.open_cache, place)
    shard.write_bytes(content)
    check(po.open_cache(place))


def test_rows_are_those_that_are_kept_and_no_others(tmp_path):
    data = po.open_cache(write(tmp_path / "c"))
    table = Tables(data).get("fit")
    other = replace(data, splits={**data.splits, "fit": data.splits["test"]})
    found = Tables(other).get("fit").statistics
    np.testing.assert_array_equal(found.top_prob, Tables(data).get("test").statistics.top_prob)
    for rows in (slice(3, 9), [5, 2], np.arange(600) % 7 == 0, np.array([-1, 0]), []):
        some, places = table.statistics.take(rows), np.arange(600)[rows]
        some = pickle.loads(pickle.dumps(some.take(np.arange(len(some)))))
        np.testing.assert_array_equal(some.entropy, table.statistics.entropy[places])
        np.testing.assert_array_equal(some.confidence, table.statistics.confidence[places])


@pytest.mark.parametrize("unknown", [slice(0), slice(0, 150), slice(450, 600)])
@pytest.mark.parametrize("graded", [False, True])
def test_a_replay_in_parts_is_the_whole_one(tmp_path, monkeypatch, unknown, graded):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 600)
    logits = rng.normal(size=(600, 3, 5)) + np.eye(5)[labels][:, None]
    labels[unknown] = -1
    quality = rng.random((600, 3)) if graded else None
    with po.CacheWriter(tmp_path / "c", costs=po.Cost("c", "ms", [1, 2, 4])) as cache:
        cache.append("fit", logits, labels, quality=quality)
    data = po.open_cache(tmp_path / "c")
    policy = po.fit(data, "50%", "max_prob", thresholds="joint", mix=True).policy
    found = []
    for rows in (10**6, 100):
        monkeypatch.setattr("policyopt._replay._PART_BYTES", rows * 64 * 3)
        found.append(po.evaluate(policy, data, "fit"))
    for name in ("exit", "prediction", "cost", "quality", "correct"):
        np.testing.assert_array_equal(*(getattr(one, name) for one in found), err_msg=name)


@pytest.mark.parametrize("damage", ["columns", "cut", "index", "version", "hostile"])
def test_damaged_statistics_are_made_anew(tmp_path, monkeypatch, damage):
    place = write(tmp_path / "c")
    columns(po.open_cache(place))
    index = place / "statistics" / "index.json"
    (file, *_) = (place / "statistics").glob("*.safetensors")
    if damage == "columns":
        content = bytearray(file.read_bytes())
        content[200] ^= 1
        file.write_bytes(content)
    elif damage == "cut":
        os.truncate(file, 100)
    elif damage == "index":
        index.write_text(index.read_text()[:-5])
    elif damage == "version":
        monkeypatch.setattr("policyopt._table._PASS", 99)
    else:  # well-formed and signed, of nonsense
        form = statistics._FORM
        entry = {
            "file": "../../x",
            "of": "y",
            "shards": [[1]],
            "rows": ["a"],
            "sha256": "",
            "stamp": "",
        }
        index.write_text(
            statistics.json.dumps(form.signed(whole={"a": 1}, disjoint=[], columns=[entry]))
        )
    check(po.open_cache(place))
    check(po.open_cache(place))


def test_bits_that_rot_unseen_are_found_by_the_checksum(tmp_path, monkeypatch):
    place = write(tmp_path / "c")
    columns(po.open_cache(place))
    for file in (place / "statistics").glob("*.safetensors"):
        content = bytearray(file.read_bytes())
        content[-9] ^= 1
        file.write_bytes(content)
    monkeypatch.setattr(statistics, "stamp_of", lambda path: "same")
    index = statistics.json.loads((place / "statistics" / "index.json").read_text())
    for entry in index["columns"]:
        entry["stamp"] = "same"
    for shard, (sha, _) in index["whole"].items():
        index["whole"][shard] = [sha, "same"]
    text = statistics.json.dumps(
        statistics._FORM.signed(**{k: index[k] for k in ("whole", "disjoint", "columns")})
    )
    (place / "statistics" / "index.json").write_text(text)
    check(po.open_cache(place))


def test_a_link_in_a_cache_leads_nowhere(tmp_path):
    place = write(tmp_path / "c")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / ("a" * 16 + ".safetensors")).write_text("mine")
    (mine / "index.json").write_text("mine")
    (place / "statistics").symlink_to(mine)
    check(po.open_cache(place))
    assert {file.read_text() for file in mine.iterdir()} == {"mine"} and len([*mine.iterdir()]) == 2
    write(place, 1, overwrite=True)
    assert {file.read_text() for file in mine.iterdir()} == {"mine"}
    check(po.open_cache(place))


def test_where_nobody_may_write_it_stands_with_the_user(tmp_path, monkeypatch, passes):
    place = write(tmp_path / "c")
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: real(path, mode) and str(path) != str(place)
    )
    columns(po.open_cache(place))
    assert not (place / "statistics").exists()
    assert len([*(tmp_path / "home").rglob("index.json")]) == 1
    # The folder of compiled libraries is private, and is not made by others in passing.
    assert not (tmp_path / "home" / "policyopt").exists()
    passes()
    check(po.open_cache(place))
    assert passes()[1] == 0
    # Nor with the user, whose home may be another's: read anew, and nothing is kept.
    monkeypatch.setenv("XDG_CACHE_HOME", f"/{'x' * 300}")
    check(po.open_cache(place))
    assert passes()[1] > 0


def test_an_overwritten_cache_loses_what_was_kept(tmp_path):
    place = write(tmp_path / "c")
    columns(po.open_cache(place))
    old = po.open_cache(place)
    write(place, 1, overwrite=True)
    assert not (place / "statistics").exists()
    check(old)  # who has opened it goes on reading it
    check(po.open_cache(place))


@pytest.mark.parametrize("mode", faults.MODES)
def test_whatever_breaks_the_numbers_are_right_and_the_cache_whole(tmp_path, mode):
    """Kill and refuse each file operation of a first start in turn: the next one finds what a pass finds."""
    place = write(tmp_path / "c", n=60)
    truth = {n: a for n, a in columns(po.open_cache(place)).items()}
    before = {n: b for n, b in faults.tree(place).items() if "statistics" not in n}
    codes = set()
    for at in range(0, 400, 6):
        shutil.rmtree(place / "statistics", ignore_errors=True)
        code, reached = faults.run(lambda: columns(po.open_cache(place)), at, mode)
        codes.add(code)
        found = columns(po.open_cache(place))
        assert all(np.array_equal(truth[n], found[n]) for n in COLUMNS), (mode, at)
        assert {n: b for n, b in faults.tree(place).items() if "statistics" not in n} == before
        if not reached:
            break
    assert not reached and faults.OTHER not in codes, codes


@pytest.mark.parametrize("last", [0.49, 0.2])  # all rows, or some are left out
@pytest.mark.parametrize("most", [1 << 30, 100])
def test_a_pool_is_divided_as_ever_and_what_is_kept_of_it_is_that(
    tmp_path, monkeypatch, most, last
):
    """In memory, in a file, kept, and read again: the order of numpy's permutation, cut and sorted."""
    monkeypatch.setattr("policyopt._cache.files._SPILL_BYTES", most)
    rng, costs = np.random.default_rng(0), po.Cost("c", "ms", [1, 2])
    shares = {"fit": 0.3, "calibrate": 0.21, "test": last}
    with po.CacheWriter(tmp_path / "c", costs=costs, shares=shares, shard_bytes=4096) as cache:
        cache.append("pool", rng.normal(size=(997, 2, 5)), rng.integers(0, 5, 997))
    for _ in range(2):
        data = po.open_cache(tmp_path / "c")
        for seed in (None, 0, 3):
            order = np.random.default_rng(seed or 0).permutation(997)
            ends = np.round(np.cumsum(list(shares.values())) * 997).astype(int)
            for name, part in zip(shares, np.split(order, ends), strict=False):
                assert not data.rows(name, seed)[1].flags.writeable
                np.testing.assert_array_equal(data.rows(name, seed)[1], np.sort(part))
        # Of a window of it another division is drawn.
        some = po.open_cache(tmp_path / "c", only={data.kept.shards[0].file})
        n = len(some.splits["pool"])
        drawn = np.concatenate([some.rows(name)[1] for name in shares])
        assert len(np.unique(drawn)) == len(drawn) == round(n * (0.51 + last))
    assert pickle.loads(pickle.dumps(data))._drawn == {}


def test_a_division_is_of_all_shards_in_their_order(tmp_path):
    """What is kept elsewhere of a cache that was overwritten by the same shards in another order is of no use."""
    place, drawn = tmp_path / "c", []
    for order in ((0, 1), (1, 0)):
        costs = po.Cost("c", "ms", [1, 2])
        shares = {"fit": 0.4, "test": 0.6}
        with po.CacheWriter(
            place, costs=costs, shares=shares, shard_bytes=1, overwrite=True
        ) as cache:
            for seed in order:
                rng = np.random.default_rng(seed)
                cache.append("pool", rng.normal(size=(9, 2, 5)), rng.integers(0, 5, 9))
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        (place / "statistics").symlink_to(
            tmp_path / "elsewhere"
        )  # so the user's own folder is taken
        drawn += [po.open_cache(place).rows("fit")[1].tolist() for _ in range(2)]
        (place / "statistics").unlink()
    assert all(one == drawn[0] for one in drawn)


def test_few_of_very_many_rows_are_drawn_alike():
    drawn = some_rows(10**9, 1000, 0)
    assert (np.diff(drawn) > 0).all() and len(drawn) == 1000
    counts = np.bincount([some_rows(1 << 23, 4, seed)[0] >> 20 for seed in range(500)], minlength=8)
    # The least of four: in the lower half 15 times of 16.
    assert abs(counts[:4].sum() / 500 - 15 / 16) < 0.05
