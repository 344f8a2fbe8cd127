"""The parser: one style of error, help, version, completion in shells."""

import os
import re
import subprocess
import sys
from importlib.metadata import version

import pytest

from policyopt._cli.app import COMMANDS


@pytest.mark.parametrize("line, told", [
    ("simulat", r"'command' must be one of import, .* Got simulat\. Did you mean 'simulate'\? See `policyopt --help`"),
    ("--versio", r"'option' must be one of `policyopt`\. Got --versio\. Did you mean '--version'\? See `policyopt --help`"),
    ("fit c --budgt 3", r"'option' must be one of `policyopt fit`\. Got --budgt\. Did you mean '--budget'\? See"),
    ("fit -x", r"'option' must be one of `policyopt fit`\. Got -x\. See `policyopt fit --help`"),
    ("fit", r"'CACHE' must be given: directory of a cache\. Got none\. See `policyopt fit --help`"),
    ("import a.npz", r"'--out' must be given: directory of the cache to write\. Got none\. See"),
    ("fit c --out", r"'--out' must be followed by a value\. Got none\. See `policyopt fit --help`"),
    ("info c --full=3", r"'--full' must be given without a value\. Got 3\. See"),
    ("info c d", r"'arguments' must be those that `policyopt info` takes\. Got d besides\. See"),
    ("curve c --seeds=0", r"'--seeds' must be greater than or equal to 1\. Got 0\. See"),
    ("fit c --seed 1.5", r"'--seed' must be a valid integer\. Got 1\.5\. See"),
    ("fit c --format jsn", r"'--format' must be one of 'table', 'json', 'csv'\. Got jsn\. Did you mean 'json'\? See"),
    ("methods max_pro", r"'NAME' must be .*Got max_pro\. Did you mean 'max_prob'\? `policyopt methods` lists"),
])  # fmt: skip
def test_all_errors_read_alike(run, line, told):
    code, out, err = run(*line.split())
    assert (code, out) == (2, "") and re.fullmatch(f"error: {told}.*\n", err), err


def test_no_argument_shows_the_help(run):
    assert run()[0] == 2 and "Usage: policyopt" in run()[2]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_a_short_name(run, command):
    words = command.split()
    assert run(*words, "-h") == run(*words, "--help") and run(*words, "-h")[0] == 0


def completed(*words, code="from policyopt._cli import main; main()"):
    """Return what bash would offer for the last word, and the modules that it took."""
    told = {
        "_POLICYOPT_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(map(str, words)),
        "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    code = f"import sys\ntry: {code}\nfinally: print(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **told}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(), set(done.stderr.split())


def test_shells_complete_commands_methods_and_splits(tmp_path, root):
    found, modules = completed("policyopt", "")
    assert found == list(COMMANDS)
    assert not modules & {"scipy", "pandas", "sklearn", "policyopt._methods", "policyopt._cli.fit"}
    assert completed("policyopt", "re")[0] == ["refit", "report"]
    assert completed("policyopt", "fit", "c", "--accu")[0] == ["--accuracy"]
    assert completed("policyopt", "fit", "c", "--format", "c")[0] == ["csv"]
    assert completed("policyopt", "fit", "c", "--method", "marg")[0] == ["margin"]
    found = completed("policyopt", "curve", "c", "--methods", "entropy,marg")[0]
    assert found == ["entropy,margin"] and completed("policyopt", "methods", "marg")[0] == [
        "margin"
    ]
    (tmp_path / "manifest.json").write_text("{}")  # no cache
    assert completed("policyopt", "info", tmp_path, "--split", "")[0] == []
    words = ("evaluate", "p.json", root / "cache" / "fashion_mnist", "--split", "noise")
    found = completed("policyopt", *words)[0]
    assert found == ["noise_medium", "noise_mild", "noise_ruinous"]


def test_version(run):
    assert run("--version") == (0, f"policyopt {version('policyopt')}\n", "")
