"""The C example decides as the runtime does; the program stays as short as it is said to be."""

from __future__ import annotations

import subprocess
import sys

import pytest
from synthetic import outputs

import policyopt as po
from policyopt._export.c_compiler import NoCompiler, compiler


@pytest.fixture
def example(root):
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))

    def run(*arguments):
        command = [sys.executable, "-m", "examples.embed_c", *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    return run


def test_the_program_decides_as_the_runtime(example, tmp_path):
    logits, labels = outputs(900, 4, 5)
    with po.CacheWriter(tmp_path / "cache", costs=[po.Cost("latency", "ms", [1, 2, 4, 8])]) as made:
        for split, rows in (("fit", slice(0, 600)), ("test", slice(600, 900))):
            made.append(split, list(logits[rows].swapaxes(0, 1)), labels[rows])
    done = example(tmp_path / "cache", "--out", tmp_path / "out", "--rows", "200")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "200 rows; 0 decided otherwise" in done.stdout
    assert "200 rows, mean cost" in done.stdout and "Bytes: tables" in done.stdout
    # What cannot be an output is named, and ends the program.
    (tmp_path / "bad.f32").write_bytes(b"\xff" * 4 * 5 * 4)
    program = tmp_path / "out" / "serve"
    told = subprocess.run([program, tmp_path / "bad.f32"], capture_output=True, text=True)
    assert told.returncode == 1 and "row 0: the output of exit 0 cannot be" in told.stderr
    assert subprocess.run([program], capture_output=True, text=True).returncode == 2


def test_errors_are_one_line(example, tmp_path):
    done = example(tmp_path / "none", "--out", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_sixty_lines(root):
    lines = (root / "examples" / "embed_c" / "serve.c").read_text().splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 100
