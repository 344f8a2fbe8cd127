"""Shared fixtures."""

import io
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

# Before numpy is there: a worker has one core, and more threads than that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from policyopt.runtime import InputError

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # tests share synthetic.py and checks.py


def refuses(words, call, *arguments, **named):
    """Fail unless a call is refused by an InputError that says so."""
    with pytest.raises(InputError, match=words):
        call(*arguments, **named)


settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def own_machine_code(tmp_path_factory):
    """What tests compile for `serve(native=True)` is kept from the user's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POLICYOPT_CACHE", str(tmp_path_factory.mktemp("compiled")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real caches made by others; tests that need them skip where they are absent."""
    path = ROOT.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the shared data are not here")
    return path


def printed(*arguments, columns=""):
    """Run a command line in a terminal of so many columns; return its exit code, standard output and standard error."""
    from policyopt._cli.app import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["policyopt", *map(str, arguments)])
        patch.setenv("COLUMNS", columns)
        patch.setattr("policyopt._progress._PATIENCE", 3600.0)  # no "fitting ..." on a slow machine
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def run():
    return printed


@pytest.fixture
def room():
    """A folder in memory where the system has one: a disk would wait for each file."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)
