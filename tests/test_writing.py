"""What is written is kept: one writer, one switch, and every file operation may be the last."""

import ctypes
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import faults
import numpy as np
import pytest
from conftest import refuses
from faults import tree

import policyopt as po
from policyopt._cache.manifest import CACHE
from policyopt._export import folder
from policyopt._export.bundle import read_manifest as read_export
from policyopt._export.bundle import write_bundle
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._bandits import make_bandit
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._forks import tell_of_forks
from policyopt.runtime._online import Online
from policyopt.runtime._policy import Policy, load_policy
from policyopt.runtime._scores import MaxProb
from policyopt.serving._server import Server

FORK = get_context("fork")
COSTS = [po.Cost("compute", "MMACs", [1, 2])]


def arrays(seed, rows=40):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, 2, 4)).astype(np.float32), rng.integers(0, 4, rows)


def policy(threshold):
    return Policy(MaxProb(), [threshold], [1.0, 3.0], "ms", "logits", 4)


def names(folder):
    return {path.name for path in folder.iterdir()}


def shards_of(place):
    return [shard["file"] for shard in json.loads((place / "manifest.json").read_text())["shards"]]


def online(steering="thompson"):
    return Online(PolicyFamily.of(policy(0.5), [[0.2], [0.4], [0.6]]), make_bandit(steering))


@dataclass
class Scene:
    """Something old in its place, work that writes something new there, and how to tell them."""

    out: Path
    prepare: Callable  # puts the old in its place
    work: Callable  # writes the new, from scratch, as a command does
    found: Callable  # what a reader sees
    again: Callable | None = None  # what is done after the work; default the same


def seen(out):
    try:
        return po.open_cache(out).fingerprint
    except po.InputError:
        assert not (out / "manifest.json").exists()
        return None


def importing(out, old=True):
    def import_(seed, **options):
        logits, labels = arrays(seed)
        path = out.parent.parent / f"{seed}.npz"
        np.savez(path, logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2.0])
        return lambda: po.import_sources(path, out, **options)

    over, found = import_(1, overwrite=True), lambda: seen(out)
    return Scene(out, import_(0) if old else list, over if old else import_(1), found, over)


importing_anew = partial(importing, old=False)


def streaming(out):
    """Several shards and splits from an inference loop, over an old cache."""

    def write(seed):
        logits, labels = arrays(seed)
        with po.CacheWriter(out, costs=COSTS, shard_bytes=600, overwrite=True) as cache:
            cache.append("fit", logits[:20], labels[:20])
            cache.append("test", logits[20:], labels[20:])

    def found():  # whole shards can be read, too, whose writing broke off
        rows = po.open_cache(out, incomplete=True).splits["fit"].array("outputs")
        assert any(np.array_equal(rows, arrays(seed)[0][: len(rows)]) for seed in (0, 1))
        return seen(out)

    return Scene(out, lambda: write(0), lambda: write(1), found)


def saving_a_policy(out):
    file = out / "policy.json"
    save = lambda threshold: lambda: policy(threshold).save(file)  # noqa: E731
    return Scene(out, save(0.5), save(0.7), lambda: load_policy(file).thresholds.tolist())


def saving_online(out):
    file = out / "online.json"

    def work():
        one = Online.load(file)
        one.start()
        one.save(file)

    found, again = lambda: Online.load(file).requests, lambda: Online.load(file).save(file)
    return Scene(out, lambda: online().save(file), work, found, again)


def exporting(out):
    def export(threshold):
        made = policy(threshold)
        graphs = trace_policy(made)
        golden = golden_of(made, graphs, rows=3)
        return lambda: write_bundle(made, out, ["python"], golden, graphs)

    found = lambda: read_export(out)[1].thresholds.tolist()  # noqa: E731
    return Scene(out, export(0.5), export(0.7), found)


@pytest.mark.parametrize(
    "scene_of", [importing, importing_anew, streaming, saving_a_policy, saving_online, exporting]
)
def test_every_file_operation_may_be_the_last(scene_of, room):
    """Old or new, whole, after each; then the same command does its work and leaves nothing else."""
    place, start = room / "place", room / "start"
    place.mkdir()
    scene = scene_of(place / "out")
    scene.prepare()
    shutil.copytree(place, start)
    old = scene.found()
    scene.work()
    new, finished = scene.found(), set(tree(place))
    assert new != old
    mended = set()  # what was left behind, and done anew with success
    for mode in ("killed before", "killed within", "refused once", "full from then on"):
        at = 0
        while True:
            shutil.rmtree(place)
            shutil.copytree(start, place)
            code, reached = faults.run(scene.work, at, mode)
            if not reached:
                break
            where = f"{mode}, operation {at}"
            assert code != faults.OTHER, where
            now, left = scene.found(), tree(place)
            assert now in (old, new), where
            assert code != faults.DONE or now == new, where
            if code == faults.REFUSED and mode == "refused once" and now == old:
                more = set(left) - set(tree(start))
                assert not [name for name in more if name.endswith("tmp")], where
            # A lock holds the number of its process: of no meaning once that is dead.
            state = frozenset((n, b"" if n.endswith("lock") else data) for n, data in left.items())
            if state not in mended:
                (scene.again or scene.work)() if now == new else scene.work()
                assert scene.found() == new, where
                assert set(tree(place)) == finished, where
                mended.add(state)
            at += 3 if mode == "full from then on" else 1
        assert at > 5 or mode == "killed within"


def write(place, seed=0, rows=40, **options):
    logits, labels = arrays(seed, rows)
    with po.CacheWriter(place, costs=COSTS, **options) as cache:
        cache.append("fit", logits, labels)


@contextmanager
def child(work):
    """Run a function in a forked child until the block ends; it gets a function that says: ready."""
    ready = FORK.Event()
    with faults.quiet():
        (one := FORK.Process(target=work, args=(ready.set,))).start()
    try:
        assert ready.wait(60)
        yield one.pid
    finally:
        one.kill()
        one.join()


def forked(work):
    """Return what a function says in a forked child; None where it is refused."""
    read, say = FORK.Pipe(duplex=False)

    def tell():
        signal.alarm(20)
        with suppress(po.InputError):
            say.send(work())

    with faults.quiet():
        (one := FORK.Process(target=tell)).start()
    one.join()
    assert one.exitcode == 0
    return read.recv() if read.poll() else None


def test_a_second_writer_is_refused_by_name(tmp_path):
    """Nested, and in another thread or process; the first one's rows are there."""
    place = tmp_path / "cache"
    logits, labels = arrays(0)
    with po.CacheWriter(place, costs=COSTS, shard_bytes=600) as first:
        first.append("fit", logits, labels)
        for overwrite in (False, True):
            refuses(rf"{place}.*this process \({os.getpid()}\)", write, place, overwrite=overwrite)
        with ThreadPoolExecutor(1) as pool, pytest.raises(po.InputError, match="one writer"):
            pool.submit(write, place, overwrite=True).result()
    assert len(po.open_cache(place).splits["fit"]) == 40

    def hold(ready):
        with po.CacheWriter(place, costs=COSTS, overwrite=True) as cache:
            cache.append("fit", *arrays(1))
            ready()
            time.sleep(60)

    with child(hold) as pid:
        refuses(f"{place}.*process {pid} is writing", write, place, overwrite=True)
        assert len(po.open_cache(place).splits["fit"]) == 40
    write(place, 2, overwrite=True)  # it was killed: its lock is no more
    assert names(place) == {"manifest.json", *shards_of(place)}


def test_a_fork_holds_nothing_and_writes_nothing(tmp_path):
    """A child of the writer is refused, and may outlive it without keeping others out."""
    place, seen = tmp_path / "cache", tmp_path / "seen"

    def hold(ready):
        with po.CacheWriter(place, costs=COSTS) as cache:
            cache.append("fit", *arrays(0))
            if not os.fork():
                try:
                    cache.append("fit", *arrays(1))
                except po.InputError as error:
                    seen.write_text(f"{os.getpid()} {error}")
                    ready()
            time.sleep(60)

    with child(hold):
        pass
    pid, _, said = seen.read_text().partition(" ")
    try:
        assert "fork" in said
        write(place)  # while the child of the dead writer lives
    finally:
        os.kill(int(pid), signal.SIGKILL)
    with po.CacheWriter(place, costs=COSTS, overwrite=True) as cache:
        cache.append("fit", *arrays(3, 30))
        # As a worker whose code falls out of the block.
        assert forked(lambda: cache.__exit__(None, None, None) or "done") is None
        assert len(po.open_cache(place).splits["fit"]) == 40
    assert len(po.open_cache(place).splits["fit"]) == 30


@pytest.mark.parametrize("loss", ["lock", "folder", "gone"])
def test_a_lock_that_was_lost_is_no_success(loss, tmp_path):
    place, writer = tmp_path / "cache", po.CacheWriter(tmp_path / "cache", costs=COSTS)
    with pytest.raises(po.InputError, match=f"{place}.*lock"), writer as cache:
        cache.append("fit", *arrays(0))
        if loss == "lock":
            next(path for path in place.iterdir() if path.name.endswith("lock")).unlink()
        else:
            place.rename(tmp_path / "moved")
        if loss != "gone":
            write(place, 1)
        before = tree(place)
    assert tree(place) == before and place.exists() == (loss != "gone")


def test_what_another_reads_is_old_or_new(room):
    """Opened again and again while it is overwritten; a cache that is open goes on being read."""
    place = room / "cache"
    write(place)
    data, before = po.open_cache(place), po.open_cache(place, mmap=False)

    def work(ready):
        ready()
        for number in range(10**6):
            write(place, number % 5, overwrite=True)

    prints, until = set(), time.monotonic() + 30
    with child(work):
        while len(prints) < 5 and time.monotonic() < until:
            prints |= {po.open_cache(place).fingerprint for _ in range(20)}
    assert len(prints) == 5
    for name, array in data.splits["fit"].blocks[0].items():
        np.testing.assert_array_equal(array, before.splits["fit"].array(name))


def test_unfinished_caches_are_not_lost_by_a_second_try(tmp_path):
    """What a long run has written before it broke off can be read, until one says --overwrite."""
    place = tmp_path / "cache"
    writer = po.CacheWriter(place, costs=COSTS, shard_bytes=600)
    with pytest.raises(ZeroDivisionError), writer as cache:
        cache.append("fit", *arrays(0))
        raise ZeroDivisionError
    assert 10 < len(po.open_cache(place, incomplete=True).splits["fit"]) < 40
    for again, says in ((po.open_cache, "--incomplete"), (write, "--overwrite")):
        refuses(says, again, place)
    write(place, overwrite=True)
    assert names(place) == {"manifest.json", *shards_of(place)}


def test_overwriting_deletes_shards_and_nothing_a_manifest_names(tmp_path):
    """A manifest from elsewhere names the user's files, some with their checksum."""
    place = tmp_path / "cache"
    place.mkdir()
    (place / "README.md").write_text("data card")
    write(place, 0, shard_bytes=600)
    right = f"fit-00093-{hashlib.sha256(b'years').hexdigest()[:16]}"
    mine = {
        "thesis.safetensors": b"years of work",  # not named as shards are, its checksum right
        f"{right}-of-2.safetensors": b"years",
        "fit-00090.safetensors": b"own numbers",  # named as nearly
        "fit-00091-0123456789abcdef.safetensors": b"own numbers",  # named so, another checksum
        "notes.txt": b"!",
        "README.md": b"data card",
    }
    content = json.loads((place / "manifest.json").read_text())
    for name, data in mine.items():
        (place / name).write_bytes(data)
        entry = {"file": name, "split": "fit", "rows": 1, "bytes": len(data)}
        if name.endswith(".safetensors"):
            content["shards"].append(entry | {"sha256": hashlib.sha256(data).hexdigest()})
    shard = content["shards"][0]["file"]
    linked = f"{shard[:4]}00092{shard[9:]}"  # a shard's name and checksum, but a link
    content["shards"][0]["file"] = linked
    (tmp_path / "target").write_bytes((place / shard).read_bytes())
    (place / linked).symlink_to(tmp_path / "target")
    (place / "manifest.json").write_text(json.dumps(CACHE.signed(**content)))
    write(place, 1, overwrite=True)
    assert len(po.open_cache(place).splits["fit"]) == 40
    assert tree(place).items() >= mine.items()
    assert (place / linked).is_symlink() and (tmp_path / "target").exists()
    assert names(place) == {*mine, linked, "manifest.json", *shards_of(place)}
    (place / "manifest.json").unlink()
    for taken in (place, place / "notes.txt"):
        refuses("path", write, taken, overwrite=True)


@pytest.mark.parametrize("mine", ["notes.txt", "policy.py", "onnx/notes.txt", "__pycache__/a.txt"])
def test_an_export_replaces_what_an_export_wrote(mine, tmp_path):
    """But no folder with a file that was added or changed."""
    scene = exporting(tmp_path / "out")
    scene.prepare()
    (scene.out / "__pycache__").mkdir()
    (scene.out / "__pycache__" / "policy.cpython-311.pyc").write_text("by Python: it may go")
    (scene.out / mine).parent.mkdir(exist_ok=True)
    (scene.out / mine).write_text("hours")
    before = tree(scene.out)
    refuses(r"'--out' must be a new folder.*another folder", scene.work)
    assert tree(scene.out) == before and names(tmp_path) == {"out"}


@pytest.mark.parametrize(
    ("moment", "says", "where"),
    [("sync_folder", "new folder", "out"), ("_exchange", r"the earlier one at .*out\.replaced", "out.replaced")],
)  # fmt: skip
def test_what_comes_into_a_folder_while_it_is_replaced_stays(
    moment, says, where, tmp_path, monkeypatch
):
    scene, real = exporting(tmp_path / "out"), getattr(folder, moment)
    scene.prepare()
    comes = lambda *paths: ((scene.out / "thesis.txt").write_text("years"), real(*paths))[1]  # noqa: E731
    monkeypatch.setattr(folder, moment, comes)
    refuses(says, scene.work)
    thesis = tmp_path / where / "thesis.txt"
    assert thesis.read_text() == "years"
    thesis.unlink()
    assert scene.found() == [0.5 if where == "out" else 0.7]


@pytest.mark.parametrize("held", ["thesis", "42\n"], ids=["a file", "a number of two names"])
def test_a_lock_is_no_file_of_anyones(held, tmp_path):
    """A lock is cut to its length and removed: never a user's file that an archive linked to its name."""
    mine, place = tmp_path / "mine.txt", tmp_path / "p.json"
    mine.write_text(held)
    os.link(mine, tmp_path / ".p.json.policyopt-lock")
    refuses("may be a link to a file of yours", policy(0.5).save, place)
    assert mine.read_text() == held and not place.exists()


def test_without_an_exchange_of_folders_the_next_run_finds_the_old(tmp_path, monkeypatch):
    """Two renames where the system has no exchange; killed between them, the old is found again."""

    def none(*_, **__):
        raise OSError

    monkeypatch.setattr(ctypes, "CDLL", none)
    for at in range(8):
        place = tmp_path / str(at)
        place.mkdir()
        scene = exporting(place / "out")
        scene.prepare()
        if not faults.run(scene.work, at, "killed before a rename")[1]:
            break
        scene.work()
        assert scene.found() == [0.7] and names(place) == {"out"}
    assert at > 1


def test_a_file_is_replaced_as_it_stands(tmp_path):
    """A private file stays private, a link is followed; what is no file is refused and stays."""
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    policy(0.5).save(real)
    real.chmod(0o600)
    link.symlink_to(real)
    policy(0.7).save(link)
    assert link.is_symlink() and load_policy(real).thresholds.tolist() == [0.7]
    assert real.stat().st_mode & 0o777 == 0o600
    os.mkfifo(tmp_path / "pipe")
    for place, what in ((tmp_path, "directory"), (tmp_path / "pipe", "pipe"), ("a\0b", "NUL")):
        refuses(what, policy(0.5).save, place)
    refuses("NUL", write, f"{tmp_path}/a\0b")
    # Of a dead writer, or not.
    (tmp_path / ".real.json.policyopt-tmp").symlink_to(tmp_path / "elsewhere")
    policy(0.5).save(real)
    assert names(tmp_path) == {"real.json", "link.json", "pipe"}


def test_full_disks_and_quotas_are_told(tmp_path):
    """By a limit that the system itself keeps, at the command line: one line, old files whole."""
    write(tmp_path / "cache", rows=400)
    policy(0.5).save(tmp_path / "p.json")
    logits, labels = arrays(1, 400)
    np.savez(tmp_path / "a.npz", logits=logits.transpose(1, 0, 2), labels=labels, costs=[1.0, 2.0])
    before = tree(tmp_path)
    limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
    start = [sys.executable, "-c", limit + "from policyopt._cli import main; main()"]
    for line in ("import a.npz --out cache --overwrite", "export p.json --to python --out e"):
        run = subprocess.run(
            [*start, *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert run.returncode == 2, run.stderr
        (said,) = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert "must be writable" in said and "File too large" in said and "another place" in said
        assert line.split()[line.split().index("--out") + 1] in said
        assert tree(tmp_path) == before


def serve(one, requests=1):
    arms = []
    for number in range(requests):
        request = one.start()
        arms.append(request.arm)
        for k in range(2):
            if one.decide(k, [2.0 - number % 3, 0, 0, 0], request).exit:
                break
        one.feedback(request)
    return arms


def test_of_two_that_loaded_a_file_the_second_is_refused(tmp_path):
    file, mine = tmp_path / "online.json", tmp_path / "mine.txt"
    serve(first := online(), 3)
    first.save(file)
    second = Online.load(file)
    serve(first, 2)
    first.save(file)
    serve(second, 1)
    for other in (second, online()):  # nor may one that knows nothing of it
        refuses(r"another has saved.*[Ll]oad it.*own", other.save, file)
    assert Online.load(file).requests == 5
    second.save(tmp_path / "own.json")
    third = Online.load(file)  # as it says
    serve(third)
    third.save(file)
    assert Online.load(file).requests == 6
    mine.write_text("hours")
    refuses(r"Online\.save wrote", first.save, mine)
    assert mine.read_text() == "hours"


def test_the_counter_in_a_file_never_goes_backwards(room):
    """Two processes, two threads each, save to one file; who is refused loads again."""
    file = room / "online.json"
    online().save(file)

    def work(ready):
        ready()
        while True:
            one = Online.load(file)
            with suppress(po.InputError), ThreadPoolExecutor(2) as pool:
                for job in [pool.submit(turn, one) for _ in range(8)]:
                    job.result()

    def turn(one):
        serve(one)
        one.save(file)

    with child(work), child(work):
        seen, until = [0], time.monotonic() + 30
        while seen[-1] < 100 and time.monotonic() < until:
            seen.append(Online.load(file).requests)
    assert seen == sorted(seen) and seen[-1] >= 100


@pytest.mark.parametrize("steering", ["thompson", "ucb1"])
def test_forks_while_threads_serve(steering, tmp_path):
    """No child hangs; what it goes on from is whole; its arms are others than its siblings'."""
    one, stop, count = online(steering), threading.Event(), counting()

    def serving():
        while not stop.is_set():
            serve(one)
            count()

    def work():
        assert one.requests == one.state()["player"]["rounds"]
        arms = serve(one, 60)
        one.save(tmp_path / f"{os.getpid()}.json")
        again = Online.load(tmp_path / f"{os.getpid()}.json")
        assert (again.stream, again.requests) == (one.stream, one.requests)
        return arms, one.stream, count()

    threads = [threading.Thread(target=serving) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        found = [forked(work) for _ in range(20)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    arms, streams, numbers = zip(*found, strict=True)
    assert len(set(streams)) == len(set(numbers)) == len(found) and one.stream == 0
    if steering != "ucb1":  # which draws nothing
        assert len({tuple(a) for a in arms}) > len(found) * 0.9


def counting():
    """Return the counter of `policyopt.serving`, which needs no model."""
    server = Server.__new__(Server)
    server._count, server._lock = 0, threading.Lock()
    tell_of_forks(server)
    return lambda: server._counted(1)


def test_a_cache_in_memory_outlives_its_files(tmp_path):
    """A mapped one would end the process here (SIGBUS)."""
    write(tmp_path / "cache", shard_bytes=600)
    rows = po.open_cache(tmp_path / "cache", mmap=False).splits["fit"]
    for name in shards_of(tmp_path / "cache"):
        os.truncate(tmp_path / "cache" / name, 100)
    for name, array in zip(("outputs", "labels"), arrays(0), strict=True):
        np.testing.assert_array_equal(rows.array(name), array)
        assert not any(block[name].flags.writeable for block in rows.blocks)
