"""Ctrl-C: one line and exit code 130, whenever it comes; nothing half-written stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from synthetic import outputs

import policyopt as po

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
#: Seconds after the command line began: while packages load, and at work.
DELAYS = (0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("interrupted")
    logits, labels = outputs(2000, exits=4)
    splits = {"pool": {"outputs": logits, "labels": labels}}
    with po.CacheWriter(path / "cache", costs=po.Cost("time", "ms", [1, 2, 4, 8])) as writer:
        for split in splits.values():
            writer.append("pool", split["outputs"], split["labels"])
    return path


def heard():
    """In a child, before it begins: heed Ctrl-C, which a suite run in the background was told to ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def started(command, folder):
    """Begin a command; return once Python has loaded what holds `main`."""
    child = subprocess.Popen(
        [sys.executable, "-X", "importtime", *command], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=heard,
    )  # fmt: skip
    for line in child.stderr:
        if line.rstrip().endswith("| policyopt.cli"):
            return child
    raise AssertionError("the command line did not load")


def script():
    found = shutil.which("policyopt", path=str(Path(sys.executable).parent))
    return [found] if found else pytest.skip("not installed")


@pytest.mark.parametrize("entry", [lambda: ["-m", "policyopt"], script], ids=["module", "script"])
@pytest.mark.parametrize("delay", DELAYS)
def test_ctrl_c_is_one_line(entry, delay, folder):
    long = [
        "curve",
        "cache",
        "--methods",
        "optimal_stopping",
        "--budgets",
        "400",
        "--seeds",
        "400",
        "--out",
        "out",
    ]
    child = started([*entry(), *long], folder)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    told = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert child.returncode == 130 and out == ""
    assert told[-1] == "interrupted" and set(told[:-1]) <= {"fitting ..."}
    assert sorted(path.name for path in folder.iterdir()) == ["cache"]


def test_ctrl_c_in_compiled_code_is_no_internal_error(folder):
    """An import of a compiled module that is interrupted may raise what it likes."""
    program = (
        "import os, signal, sys, policyopt.cli as cli, policyopt.cli.app as app\n"
        "def broken(**_):\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: raise ImportError('numpy._core.multiarray failed to import')\n"
        "app.app = broken\n"
        "cli.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, preexec_fn=heard
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ignored_signals_stay_ignored(folder):
    program = (
        "import signal, sys, policyopt.cli as cli\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.argv = ['policyopt', 'info', 'cache']\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "4 exits" in done.stdout
