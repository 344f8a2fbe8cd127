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
LONG = "curve cache --methods optimal_stopping --budgets 400 --seeds 400 --out out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("interrupted")
    with po.CacheWriter(path / "cache", costs=po.Cost("time", "ms", [1, 2, 4, 8])) as writer:
        writer.append("pool", *outputs(2000, exits=4))
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
        if line.rstrip().endswith("| policyopt._cli"):
            return child
    raise AssertionError("the command line did not load")


def script():
    found = shutil.which("policyopt", path=str(Path(sys.executable).parent))
    return [found] if found else pytest.skip("not installed")


@pytest.mark.parametrize("entry", [lambda: ["-m", "policyopt"], script], ids=["module", "script"])
@pytest.mark.parametrize("delay", [0.01, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5])
def test_ctrl_c_is_one_line(entry, delay, folder):
    """So many seconds after the command line began: while packages load, and at work."""
    child = started([*entry(), *LONG.split()], folder)
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    try:
        out, err = child.communicate(timeout=60)
    finally:
        child.kill()
    told = [line for line in err.splitlines() if not line.startswith("import time:")]
    assert child.returncode == 130 and out == ""
    assert told[-1] == "interrupted"
    assert all(line == "fitting ..." or line.startswith("note: about ") for line in told[:-1])
    assert sorted(path.name for path in folder.iterdir()) == ["cache"]


def program(text, folder):
    return subprocess.run(
        [sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, preexec_fn=heard
    )


@pytest.mark.parametrize("place", ["app.app = broken", "app.import_module = broken"])
def test_ctrl_c_in_compiled_code_is_no_internal_error(folder, place):
    """An import of a compiled module that is interrupted may raise what it likes."""
    text = (
        "import os, signal, sys, policyopt._cli as cli, policyopt._cli.app as app\n"
        "def broken(*_, **__):\n"
        "    try: signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt: raise ImportError('numpy._core.multiarray failed to import')\n"
        f"{place}\n"
        "sys.argv = ['policyopt', 'info', 'cache']\n"
        "cli.main()\n"
    )
    done = program(text, folder)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_ignored_signals_stay_ignored(folder):
    text = (
        "import signal, sys, policyopt._cli as cli\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "sys.argv = ['policyopt', 'info', 'cache']\n"
        "try: cli.main()\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
    )
    done = program(text, folder)
    assert done.returncode == 0, done.stderr
    assert "4 exits" in done.stdout
