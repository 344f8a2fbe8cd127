"""The C header under every dialect, level of optimisation and processor, by gcc and clang.

A covering part of the combinations, such that every pair of choices occurs; all of them with
POLICYOPT_WHOLE_MATRIX=1 in the environment.
"""

from __future__ import annotations

import functools
import itertools
import os
import platform
import shutil
import subprocess

import numpy as np
import pytest
import rules

from policyopt._export.c_compiler import SAID, STRICT, program
from policyopt._export.c_header import c_source
from policyopt._export.rounding import ULPS, scaled_error
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy

COMPILERS = ("gcc", "clang")
DIALECTS = ("", "-std=c99", "-std=gnu99", "-std=c11", "-std=gnu11", "-std=c17", "-std=c2x",
            "c++ -std=c++11", "c++ -std=gnu++17")  # fmt: skip
LEVELS = ("-O0", "-O2", "-O3")
HALF = "-march=sapphirerapids"  # has arithmetic of _Float16, for which FLT_EVAL_METHOD is 16
X86 = platform.machine() == "x86_64"
PROCESSORS = (
    "", "-march=native", *(("-march=x86-64-v2", "-march=x86-64-v3", HALF) if X86 else ()),
)  # fmt: skip
AXES = (COMPILERS, DIALECTS, LEVELS, PROCESSORS)
ROWS = 40


def pairs(values):
    return set(itertools.combinations(enumerate(values), 2))


@functools.cache
def covering():
    """Return combinations such that every pair of choices of two axes is in one: greedily."""
    every = list(itertools.product(*AXES))
    if os.environ.get("POLICYOPT_WHOLE_MATRIX") == "1":
        return every
    wanted, found = set().union(*map(pairs, every)), []
    while wanted:
        best = max(every, key=lambda values: len(pairs(values) & wanted))
        found.append(best)
        wanted -= pairs(best)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A program of a policy that exps, sums, joins and multiplies; its golden rows, and what is expected."""
    folder = tmp_path_factory.mktemp("matrix")
    policy = rules.policy("advantage", "combined", "platt", mixed="entropy")
    graphs = trace_policy(policy)
    golden = golden_of(policy, graphs, rows=ROWS)
    assert len(golden) == ROWS
    (folder / "p.h").write_text(c_source(policy, graphs, "p", sizes=False))
    for file in ("main.c", "main.cpp"):
        (folder / file).write_text(program("p.h", "p", ["logits"], golden))
    with (folder / "in.bin").open("wb") as file:
        for row in range(ROWS):
            file.write(golden.sample[row].tobytes())
            file.writelines(given["logits"][row].tobytes() for given in golden.inputs)
    return folder, golden.expected


def here(compiler):
    if shutil.which(compiler) is None:
        assert os.environ.get("CI") != "true", f"{compiler} is to be here: .ci/run installs it"
        pytest.skip(f"{compiler} is not installed")


def built(folder, compiler, dialect, *flags):
    """Compile the program; return what the compiler said, empty where it is content."""
    words, source = dialect.split(), "main.c"
    if words[:1] == ["c++"]:
        compiler = {"gcc": "g++", "clang": "clang++"}[compiler]
        words, source = words[1:], "main.cpp"
    command = [compiler, *words, *STRICT[1:], *flags, source, "-o", "main", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return f"{' '.join(command)}: {done.stderr}" if done.returncode else ""


@functools.cache
def runs(processor):
    """Whether this processor can run what is compiled for one."""
    if processor in ("", "-march=native"):
        return True
    features = np.show_config(mode="dicts")["SIMD Extensions"]
    named = {"-march=x86-64-v2": "X86_V2", "-march=x86-64-v3": "X86_V3", HALF: "AVX512_SPR"}
    return named[processor] in [*features["baseline"], *features.get("found", ())]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_header_compiles_and_decides_alike(compiler, processor, place):
    """Without a warning everywhere; where the program runs, exits, answers and scores of the golden rows."""
    here(compiler)
    folder, wanted = place
    mine = [values for values in covering() if (values[0], values[3]) == (compiler, processor)]
    assert mine
    wrong, first = [], None
    for _, dialect, level, _ in mine:
        if said := built(folder, compiler, dialect, level, *processor.split()):
            wrong.append(said)
        elif runs(processor):
            subprocess.run([folder / "main"], cwd=folder, check=True)
            found = np.fromfile(folder / "out.bin", SAID).reshape(ROWS, -1)
            first = found if first is None else first
            same = (found["leave"] == wanted.leave).all()
            same &= (found["prediction"] == wanted.prediction).all()
            near = scaled_error(found["score"], wanted.score).max() <= ULPS["c"]
            # Nothing is fused and nothing is widened: one C library, one set of bits.
            if not (same and near and (found == first).all()):
                wrong.append(f"decides otherwise: {compiler} {dialect} {level} {processor}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not X86, reason="x87 is a part of x86 processors")
@pytest.mark.parametrize("dialect", ["", "-std=c99", "-std=c2x", "c++ -std=c++11"])
@pytest.mark.parametrize(
    "how", [("gcc", "-mfpmath=387"), ("gcc", "-mfpmath=both"), ("clang", "-mno-sse")]
)
def test_wider_arithmetic_does_not_compile(how, dialect, place):
    """x87 computes float as long double (FLT_EVAL_METHOD 2), or as it falls (-1)."""
    compiler, flag = how
    here(compiler)
    said = built(place[0], compiler, dialect, flag)
    assert "float must be computed as float" in said, said


@pytest.mark.skipif(not X86, reason="only gcc for x86 has 16")
def test_the_matrix_meets_the_half_precision_that_once_failed(tmp_path):
    """gcc's default dialect says 16 there: else the combination above tried nothing."""
    here("gcc")
    (tmp_path / "a.c").write_text("#include <float.h>\nint method = FLT_EVAL_METHOD;\n")
    command = ["gcc", "-E", "-P", HALF, "a.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"this gcc has no {HALF}")
    assert "int method = 16;" in done.stdout
