"""The seam: the same numbers in turn, in processes and on a cluster, whoever dies meanwhile."""

import copy
import gc
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from contextvars import copy_context
from dataclasses import dataclass

import numpy as np
import pytest
from conftest import printed
from conftest import refuses as refused
from synthetic import cache, outputs
from threadpoolctl import threadpool_limits
from worker_tasks import Dies, Rows, fails_late, long_dot, refuses, square

import policyopt as po
from policyopt import _engine
from policyopt._engine import parallel, run
from policyopt.runtime import PolicyOptError

#: Sockets that distributed and joblib leave to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture(scope="module")
def cluster():
    """Gives a cluster of two processes of one thread each."""
    import dask
    from distributed import LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 1})
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0",
        host="127.0.0.1", silence_logs=50,
    ) as found:  # fmt: skip
        yield found
    gc.collect()  # here, where it is ignored


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
    counts = [done for done, _, _ in told]
    assert counts == sorted(counts) and set(counts) == set(range(13))
    assert told[-1] == (12, 12, "adding")


def test_what_a_task_raises_is_raised_here(engine):
    with parallel(**engine), pytest.raises(ValueError, match="task 3"):
        list(run(refuses, [3]))


def test_the_first_task_in_order_that_fails_is_told_after_what_came_before(engine, recwarn):
    found = []
    with parallel(**engine):
        with pytest.raises(ValueError, match="task 1") as told:
            found.extend(run(fails_late, range(6)))
        assert found == [0]
        assert any("in fails_late" in note for note in told.value.__notes__)
        given_up = run(square, range(6))
        assert next(given_up) == 0
        given_up.close()
    assert [str(one.message) for one in recwarn if "joblib" in str(one.message)] == []


def test_a_folder_for_temporary_files_that_is_not_there_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with parallel(2):
        refused("the folder for temporary files", list, run(square, range(3)))


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
    assert len(pickle.dumps(copy)) < 5000  # of its rows where they are
    logits, labels = outputs(600, seed=1)
    place = written.origin["path"]
    with po.CacheWriter(
        place, costs=list(written.costs), shares={"fit": 0.5, "test": 0.5}, overwrite=True
    ) as one:
        one.append("pool", logits, labels)
    refused("the one that was opened at first", pickle.loads, sent)
    with parallel(2):
        refused("the one that was opened at first", po.fit, written, "50%")


def test_an_opened_cache_is_freed_with_its_last_name_and_copies_of_rows_are_of_these(written):
    rows = copy.deepcopy(written.splits["pool"])
    assert not rows.home and len(copy.copy(rows)) == 600
    data = po.open_cache(written.origin["path"])
    seen = weakref.ref(data.splits["pool"])
    del data
    assert seen() is None  # at once: its files are many, and the collector may come late


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
    monkeypatch.setattr(_engine, "_SECONDS", 0.5)
    for address in ("nothing", "tcp://nothing", "tcp://127.0.0.1:1"):
        refused("'scheduler' must be the address", parallel(scheduler=address).__enter__)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        for address in (f"tcp://{host}", f"http://{host}", f"tls://{host}", "tcp://a..b:80"):
            refused("'scheduler' must be the address", parallel(scheduler=address).__enter__)
    monkeypatch.setattr(_engine, "_SECONDS", 15)
    monkeypatch.setattr(_engine, "release", lambda name: "0.0")
    words = r"'scheduler' must be of workers with policyopt 0\.0, numpy"
    refused(words, parallel(scheduler=cluster.scheduler_address).__enter__)


def test_what_is_loaded_within_is_held_to_one_thread_too():
    script = """
from policyopt._engine import one_thread
with one_thread():
    import torch
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
assert torch.get_num_threads() == before, (torch.get_num_threads(), before)
"""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], check=True, env=env)


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_processes_or_a_cluster_but_not_both(written, cluster, tmp_path, jobs, first):
    given = [["--jobs", jobs], ["--scheduler", cluster.scheduler_address]]
    words = ["curve", written.origin["path"], "--out", tmp_path, *given[first], *given[1 - first]]
    code, _, told = copy_context().run(printed, *words)
    assert code == 2 and "'--scheduler' must be left out with --jobs" in told


# --- curves, studies, and what is kept of them ---------------------------------------------------

METHODS = "max_prob,berxit"


def compared(frontier):
    return frontier.records, frontier.exits, frontier.bound, po.compare(frontier).records


def test_a_curve_is_the_same_to_the_last_digit_wherever_it_is_made(engine, written):
    wanted = {"budgets": "40%,70%", "seeds": 2, "metric": "macro_f1"}
    here = po.curve(written, METHODS, **wanted)
    with parallel(**engine):
        there = po.curve(written, METHODS, **wanted)
    assert compared(here) == compared(there) and here.notes == there.notes
    assert list(here.fitted) == list(there.fitted)
    for one, other in zip(here.fitted.values(), there.fitted.values(), strict=True):
        assert one.policy.file_text() == other.policy.file_text()


def test_choices_and_certificates_are_the_same_wherever_they_are_made(engine, written):
    risks = ["drop<=20%", "log_loss_gap<=1"]  # the latter of probabilities, which do not travel
    made = [po.fit(written, "60%").policy]  # auto, whose candidates are folds apart
    made += [po.certify(written, risks, budgets=4, method="max_prob", cost_bound=8.0)]
    with parallel(**engine):
        again = [po.fit(written, "60%").policy]
        again += [po.certify(written, risks, budgets=4, method="max_prob", cost_bound=8.0)]
    assert made[0].file_text() == again[0].file_text()
    assert made[1].certificate == again[1].certificate and made[1].records == again[1].records


def test_methods_of_ones_own_stay_in_this_process(written):
    from policyopt._methods.registry import ROWS
    from policyopt._methods.threshold import Threshold

    @po.register_method("mine")
    @dataclass(frozen=True)
    class Mine(Threshold):
        score: str = "max_prob"

    try:
        here = po.fit(written, "50%")  # it is among those that auto tries
        with parallel(2):
            found = po.curve(written, "max_prob,mine", "50%")
            assert found.notes == [
                "one process: mine is your own, and registered in this one alone"
            ]
            assert po.fit(written, "50%").policy.file_text() == here.policy.file_text()
    finally:
        del ROWS["mine"]


@pytest.mark.parametrize("spec", ["squared", "subset:inner=squared"])
def test_scores_of_ones_own_stay_in_this_process(written, spec, tmp_path):
    from policyopt._methods.registry import ROWS
    from policyopt.runtime._scores import RULES

    @po.register_score
    class Squared(po.ScoreRule):
        name = "squared"

        def score(self, k, output, state):
            return output.confidence**2, state

    try:
        here = po.fit(written, "60%", spec)
        with parallel(2):
            there = po.fit(written, "60%", spec)
        assert here.policy.file_text() == there.policy.file_text()
        # What declines may be one's own, of a method that is ours.
        asked = {
            "methods": "max_prob,margin",
            "budgets": "60%",
            "abstain": "9%",
            "abstain_score": "squared",
        }
        here = po.curve(written, **asked)
        with parallel(2):
            there = po.curve(written, **asked, keep=tmp_path)
        assert compared(here) == compared(there) and any("is your own" in n for n in there.notes)
        assert not [*tmp_path.glob("*.cell")]
    finally:
        del ROWS["squared"], RULES["squared"]


def fits_of(monkeypatch):
    """Return a list that grows with each cell that is fitted in this process."""
    from policyopt._frontier import _Cells

    fitted, whole = [], _Cells.__call__
    monkeypatch.setattr(
        _Cells, "__call__", lambda self, task: (fitted.append(task[:2]), whole(self, task))[1]
    )
    return fitted


def test_what_was_fitted_is_kept_by_all_that_it_depends_on(written, tmp_path, monkeypatch):
    fitted, keep = fits_of(monkeypatch), tmp_path / "kept"
    asked = [po.Target("40%"), po.Target(quality="99.9%")]
    wanted = {"methods": "max_prob,patience", "budgets": asked, "seeds": 2}
    here = po.curve(written, **wanted)
    assert any("left out" in note for note in here.notes)  # a refusal is kept, too
    fitted.clear()
    for fits in (4, 0):
        again = po.curve(written, **wanted, keep=keep)
        told = [] if fits else [f"4 of 4 fits were kept in {keep}"]
        assert compared(again) == compared(here) and again.notes == here.notes + told
        assert len(fitted) == fits, fitted
        for one, other in zip(here.fitted.values(), again.fitted.values(), strict=True):
            assert one.policy.file_text() == other.policy.file_text()
            assert (one.quality, one.budget, one.flat) == (other.quality, other.budget, other.flat)
            assert one.expected.mean == other.expected.mean
            assert one.expected.interval(100) == other.expected.interval(100)
        fitted.clear()
    plain = {"methods": "patience", "budgets": "40%", "seeds": 2}
    for more in (
        {}, {"budgets": "41%"}, {"metric": "macro_f1"}, {"methods": "patience:spend=all"},
        {"utility": [1, 1, 1, 1, 1, 3]}, {"head_cost": "10%"}, {"seeds": 1}, {"test": "fit"},
    ):  # fmt: skip
        po.curve(written, **plain | more, keep=keep)
        assert fitted, more
        fitted.clear()
    po.curve(written, "max_prob,patience", "40%", seeds=3, keep=keep)
    assert fitted == [(0, "max_prob"), (1, "max_prob"), (2, "max_prob"), (2, "patience")]
    fitted.clear()
    cascade = cache(200, costs=po.Cost("calls", "ms", [1, 2, 4, 8], "standalone"))
    for fits in (1, 0):
        routed = po.curve(cascade, "routing", "70%", keep=tmp_path / "routed")
        assert len(fitted) == fits and routed.records == po.curve(cascade, "routing", "70%").records
        fitted.clear()
    # What is damaged anywhere is fitted anew, and told.
    for cell in keep.iterdir():
        whole = bytearray(cell.read_bytes())
        whole[len(whole) * 2 // 3] ^= 1
        cell.write_bytes(whole)
    again = po.curve(written, **wanted, keep=keep)
    assert len(fitted) == 4 and compared(again) == compared(here)
    assert sum("is damaged, and fitted anew" in note for note in again.notes) == 4


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_curve_that_was_killed_goes_on_where_it_stopped(written, tmp_path, monkeypatch, jobs):
    keep, methods = tmp_path / "kept", "max_prob,margin,entropy,patience"
    words = ["curve", written.origin["path"], "--methods", methods, "--budgets", "40%,70%"]
    words += ["--seeds", "3", "--jobs", str(jobs), "--keep", str(keep), "--format", "json"]
    command = [sys.executable, "-m", "policyopt", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as one:
        late = time.monotonic() + 60
        while len(list(keep.glob("*.cell"))) < 3:
            assert one.poll() is None and time.monotonic() < late
            time.sleep(0.001)
        one.kill()
    before = {cell.name: cell.stat().st_mtime_ns for cell in keep.glob("*.cell")}
    assert 3 <= len(before) < 12
    fitted = fits_of(monkeypatch)
    code, out, err = printed(*[word for word in words if word not in ("--jobs", str(jobs))])
    assert code == 0, err
    after = {cell.name: cell.stat().st_mtime_ns for cell in keep.glob("*.cell")}
    assert len(after) == 12 and {name: after[name] for name in before} == before
    assert len(fitted) == 12 - len(before)
    whole = po.curve(written, methods, "40%,70%", seeds=3)
    assert json.loads(out) == json.loads(json.dumps(whole.records))


def test_resamples_are_the_same_whoever_draws_them(monkeypatch):
    from policyopt import _intervals

    columns, found = np.random.default_rng(0).normal(size=(50_000, 3)), []
    for long, jobs in ((1 << 40, 1), (1, 1), (1, 2)):
        monkeypatch.setattr(_intervals, "_LONG", long)
        with parallel(jobs), threadpool_limits(1):
            found.append(_intervals.bootstrap_means(columns, np.random.default_rng(1), 200))
    assert (found[0] == found[1]).all() and (found[1] == found[2]).all()
    assert np.allclose(found[0].std(axis=0), 50_000**-0.5, rtol=0.2)
    assert len(np.unique(found[0][:, 0])) == 200  # no two blocks draw alike
