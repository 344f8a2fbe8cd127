"""The seam: the same numbers in turn, in processes and on a cluster, whoever dies meanwhile."""

import os
import pickle
import signal
import time

import pytest
from conftest import refuses as refused
from synthetic import cache, outputs
from threadpoolctl import threadpool_limits
from worker_tasks import Dies, Rows, long_dot, refuses, square

import policyopt as po
from policyopt import _engine
from policyopt._cache import reader
from policyopt._engine import parallel, run
from policyopt.runtime import PolicyOptError


@pytest.fixture(scope="module")
def cluster():
    """Gives a cluster of two processes of one thread each."""
    import dask
    from distributed import LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1", silence_logs=50,
    ) as found:  # fmt: skip
        yield found


@pytest.fixture(params=["jobs", "scheduler"])
def engine(request):
    """Gives what `parallel` takes for each of the two that are not this process."""
    if request.param == "jobs":
        return {"jobs": 2}
    return {"scheduler": request.getfixturevalue("cluster").scheduler_address}


@pytest.fixture
def written(tmp_path):
    """Gives a cache on disk, opened."""
    logits, labels = outputs(600)
    costs = [po.Cost("compute", "ms", [1.0, 2.0, 4.0, 8.0])]
    with po.CacheWriter(tmp_path / "cache", costs=costs, shares={"fit": 0.5, "test": 0.5}) as one:
        one.append("pool", logits, labels)
    return po.open_cache(tmp_path / "cache")


def test_results_come_in_order_and_to_the_last_digit(engine):
    told = []
    with threadpool_limits(2):  # as processors of more than one core have it
        here = list(run(long_dot, range(12)))
        assert here != list(map(long_dot, range(12)))
    with parallel(**engine), po.progress(lambda *one: told.append(one)):
        there = list(run(long_dot, range(12), "adding"))
        assert list(run(square, [])) == []
    assert there == here and list(run(square, range(5))) == [0, 1, 4, 9, 16]
    assert [done for done, _, _ in told] == list(range(13)) and told[-1] == (12, 12, "adding")


def test_what_a_task_raises_is_raised_here(engine):
    with parallel(**engine), pytest.raises(ValueError, match="task 3"):
        list(run(refuses, [3]))


def test_workers_open_a_cache_by_themselves_and_once(engine, written, tmp_path):
    seen = tmp_path / "seen"
    seen.mkdir()
    assert len(pickle.dumps(written)) < 1000
    assert len(pickle.dumps(po.Tables(written))) < 2000
    here = list(map(Rows(written, seen), range(20)))
    (one,) = seen.iterdir()
    one.unlink()
    for data in (written, cache(600)):
        with parallel(**engine):
            there = list(run(Rows(data, seen), range(20)))
        assert data is not written or there == here
        marks = [mark.name.partition("-")[0] for mark in seen.iterdir()]
        assert len(marks) == len(set(marks)) <= 2  # a copy per process
        for mark in seen.iterdir():
            mark.unlink()


def test_a_cache_that_changed_is_refused_and_copies_go_with_their_rows(written):
    from dataclasses import replace

    sent, copy = pickle.dumps(written), replace(written, split_seed=5)
    assert pickle.loads(sent).splits["pool"].array("outputs").base is not None
    assert not copy.origin and pickle.loads(pickle.dumps(copy)).split_seed == 5
    logits, labels = outputs(600, seed=1)
    place = written.origin["path"]
    with po.CacheWriter(
        place, costs=list(written.costs), shares={"fit": 0.5, "test": 0.5}, overwrite=True
    ) as one:
        one.append("pool", logits, labels)
    assert pickle.loads(sent).fingerprint == written.fingerprint  # this process still maps it
    reader._reopened.cache_clear()
    refused("the one that was opened at first", pickle.loads, sent)


def test_a_worker_that_dies_is_replaced_and_its_task_done(engine, tmp_path):
    with parallel(**engine):
        assert list(run(Dies(tmp_path, at=2), range(6))) == list(range(6))
    assert (tmp_path / "died-2").exists()


def test_a_task_that_ends_every_worker_ends_the_work(engine, tmp_path):
    with parallel(**engine), pytest.raises(PolicyOptError, match=r"Workers ended within \d of 3"):
        list(run(Dies(tmp_path, at=1, always=True), range(3)))


def test_results_that_are_lost_with_their_worker_are_made_anew(cluster, tmp_path):
    from distributed import Client

    with parallel(scheduler=cluster.scheduler_address):
        work = run(Dies(tmp_path, at=-1), range(8))
        assert next(work) == 0
        with Client(cluster.scheduler_address, set_as_default=False) as client:
            time.sleep(0.5)  # all is done, and lies with the workers
            for pid in client.run(os.getpid).values():
                os.kill(pid, signal.SIGKILL)
        assert list(work) == list(range(1, 8))


def test_what_is_no_scheduler_or_has_other_workers_is_refused(cluster, monkeypatch):
    refused("'jobs' must be given, or scheduler", parallel().__enter__)
    refused("'jobs' must be given, or scheduler", parallel(2, scheduler="tcp://a").__enter__)
    refused("'jobs' must be a whole number", parallel(0).__enter__)
    refused("'scheduler' must be the address", parallel(scheduler="nothing").__enter__)
    monkeypatch.setattr(_engine, "release", lambda name: "0.0")
    words = r"'scheduler' must be of workers with policyopt 0\.0, numpy"
    refused(words, parallel(scheduler=cluster.scheduler_address).__enter__)
