"""Tuning by several processes on one PostgreSQL server, which the test starts itself; one process is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import pytest
from synthetic import outputs

import policyopt as po
from policyopt import _tuning

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
#: Tunes a method in a process of its own; with a mark, within its second trial, after a fold, it waits to be killed.
WORKER = """
import sys, time
from pathlib import Path
import policyopt as po
from policyopt import _tuning
cache, url, method, trials, mark = sys.argv[1:]
_tuning._HEARTBEAT, judge, calls = 1, _tuning.score_fold, []
def waiting(*arguments):
    calls.append(0)
    if mark and len(calls) == 4:
        Path(mark).touch()
        time.sleep(100)
    return judge(*arguments)
_tuning.score_fold = waiting
po.tune(po.open_cache(cache), method, trials=int(trials), folds=2, budgets=2, storage=url)
"""


@contextmanager
def server(folder):
    """Start a server of its own user, root may not run one, on a socket in the folder."""
    folder.mkdir()
    own = [] if os.getuid() else ["runuser", "-u", "nobody", "--"]
    if own:
        shutil.chown(folder, "nobody")
    for above in folder.parents:  # pytest's are the user's alone
        if above.stat().st_uid == os.getuid() and above != Path("/"):
            above.chmod(above.stat().st_mode | 0o011)
    place, binaries = folder / "data", BINARIES[-1].parent
    more = {"cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    words = ["-D", place, "-U", "tuner", "-A", "trust", "-N", "--no-locale", "-E", "UTF8"]
    subprocess.run([*own, binaries / "initdb", *words], check=True, **more)
    words = ["-D", place, "-k", folder, "-c", "listen_addresses=", "-F"]
    with subprocess.Popen([*own, binaries / "postgres", *words], **more) as process:
        try:
            late = time.monotonic() + 30
            while subprocess.run([binaries / "pg_isready", "-h", folder], **more).returncode:
                assert time.monotonic() < late and process.poll() is None
                time.sleep(0.05)
            yield f"postgresql+psycopg://tuner@/postgres?host={folder}"
        finally:
            # runuser hands it on; the server ends its sessions.
            process.send_signal(signal.SIGINT if not own else signal.SIGTERM)
            process.wait(30)


@contextmanager
def looking(url):
    """Give the storage to look at."""
    storage = optuna.storages.RDBStorage(url)
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@pytest.mark.slow
@pytest.mark.skipif(
    not BINARIES and os.environ.get("CI") != "true", reason="PostgreSQL is not installed"
)
def test_one_of_several_processes_on_a_server_is_killed(tmp_path, monkeypatch):
    logits, labels = outputs(400)
    np.savez(tmp_path / "l.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1.0, 2, 4, 8])
    po.import_sources([tmp_path / "l.npz"], tmp_path / "c", unit="ms")
    monkeypatch.setattr(_tuning, "_HEARTBEAT", 1)
    data, mark = po.open_cache(tmp_path / "c"), tmp_path / "in-a-trial"
    with server(tmp_path / "server") as url, looking(url) as storage:
        # All six settings of max_prob; nine of the many of pcee.
        for method, trials, left in (("max_prob", 12, 6), ("pcee:answer=plain", 9, 9)):
            more = {"trials": trials, "folds": 2, "budgets": 2}

            def worker(place="", words=(method, str(trials))):
                command = [sys.executable, "-c", WORKER, tmp_path / "c", url, *words, place]
                return subprocess.Popen(command)

            doomed, late = worker(mark), time.monotonic() + 60
            while not mark.exists():
                assert doomed.poll() is None and time.monotonic() < late
                time.sleep(0.02)
            doomed.kill()
            mark.unlink()
            doomed.wait()
            name = next(n for n in optuna.get_all_study_names(storage) if n.startswith(method[:4]))
            study = optuna.load_study(study_name=name, storage=storage)
            ended, lost = study.get_trials()
            assert (ended.state.name, lost.state.name) == ("COMPLETE", "RUNNING")
            assert len(lost.intermediate_values) == 1
            time.sleep(3.5)  # its heart has stopped
            if left > 6:
                assert [one.wait(60) for one in (worker(), worker())] == [0, 0]
            found = po.tune(data, method, storage=url, **more)
            tried = [json.dumps(one["settings"], sort_keys=True) for one in found.history]
            assert tried.count(json.dumps(lost.params, sort_keys=True)) == 1  # and not lost
            assert len(set(tried)) == len(tried) and left <= len(tried) <= left + 1
            assert study.get_trials()[1].state.name == "FAIL" and found.failed == 0
            again = po.tune(data, method, storage=url, **more)
            assert again == found  # nothing is left to do
            if method == "max_prob":
                alone = po.tune(data, method, **more)
                assert (found.settings, found.value) == (alone.settings, alone.value)
                values = ({json.dumps(one["settings"], sort_keys=True): one["folds"] for one in of.history
                           if one["state"] == "complete"} for of in (found, alone))  # fmt: skip
                mine, whole = values
                assert all(mine[key] == whole[key] for key in mine.keys() & whole.keys())
