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


#: An import of a compiled module that is interrupted may raise what it likes.
BROKEN = """
def broken(*_, **__):
    try: signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt: raise ImportError("numpy._core.multiarray failed to import")
"""


@pytest.mark.parametrize(
    ("before", "ends"),
    [(f"{BROKEN}{place} = broken", (130, "interrupted\n")) for place in ("app.app", "app.import_module")]
    + [("signal.signal(signal.SIGINT, signal.SIG_IGN)", (0, ""))],
)  # fmt: skip
def test_ctrl_c_in_compiled_code_and_ignored_signals(folder, before, ends):
    text = f"import signal, policyopt._cli as cli, policyopt._cli.app as app\n{before}\n"
    text += "try: cli.main()\nexcept SystemExit: print(repr(signal.getsignal(signal.SIGINT)))"
    command = [sys.executable, "-c", text, "info", "cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, preexec_fn=heard)
    assert (done.returncode, done.stderr) == ends
    assert ("4 exits" in done.stdout and "SIG_IGN" in done.stdout) == (not ends[0])
