"""The C header: random graphs to the bit, in any program, and what does not compile. (Every rule: test_targets.)"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import rules
from policies import fitted
from random_graphs import random_graphs, replayed
from synthetic import outputs

from policyopt._export.c_compiler import NoCompiler, compiler, measured, run_c
from policyopt._export.c_header import c_source
from policyopt._export.rounding import ULPS, scaled_error
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import MaxProb

NAME = "policyopt_policy"
WARNED = ["-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wdouble-promotion", "-O2"]
WARNED += ["-Wno-missing-braces", "-Wno-missing-field-initializers"]


@pytest.fixture(autouse=True)
def needs_a_compiler():
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


def program(folder, text, *flags, compiled_by="cc"):
    """Compile and run a program; return what it prints."""
    name = "main.cpp" if compiled_by == "g++" else "main.c"
    (folder / name).write_text(text)
    subprocess.run([compiled_by, *flags, name, "-o", "main", "-lm"], cwd=folder, check=True)
    done = subprocess.run([folder / "main"], capture_output=True, text=True, check=True)
    return done.stdout


def written(folder, policy, name="p", file=None):
    """Write the header of a policy; return its graphs."""
    graphs = trace_policy(policy)
    (folder / f"{file or name}.h").write_text(c_source(policy, graphs, name, sizes=False))
    return graphs


def logits_policy(classes=3, **more):
    return Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", classes, **more)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_to_the_bit(seed, tmp_path):
    """Operations that IEEE sets: states, buffers and fused loops change no bit of the score."""
    graphs, inputs, policy = random_graphs(np.random.default_rng(seed))
    golden = replayed(graphs, inputs)
    (tmp_path / f"{NAME}.h").write_text(c_source(policy, graphs, sizes=False))
    ran = run_c(tmp_path, golden)
    for column in ("score", "confidence", "prediction", "leave"):
        np.testing.assert_array_equal(
            getattr(ran, column), getattr(golden.expected, column), column
        )


def test_probabilities_that_are_none_are_refused(tmp_path):
    policy = replace(logits_policy(), kind="probabilities")
    golden = golden_of(policy, trace_policy(policy), rows=20)
    (tmp_path / f"{NAME}.h").write_text(c_source(policy, trace_policy(policy), sizes=False))
    bad = [{"probabilities": np.full((1, 3), 0.9, np.float32)}] * 2
    with pytest.raises(InputError, match="row 0 refused at exit 0"):
        run_c(tmp_path, replace(golden, inputs=bad, sample=np.zeros(1, int)))


def test_misuse_has_codes_of_its_own(tmp_path):
    policy = logits_policy(kept=(1, 4), model_exits=5)
    written(tmp_path, policy)
    text = """
        #include <stdio.h>
        #include "p.h"
        int main(void) {
            const float sure[3] = {9.0f, 0.0f, 0.0f}, unsure[3] = {0.0f, 0.1f, 0.0f};
            const float bad[3][3] = {{NAN, 0, 0}, {INFINITY, 0, 0}, {-INFINITY, -INFINITY, -INFINITY}};
            p_state state;
            p_decision said;
            p_start(&state, 0);
            printf("%d ", p_step(&state, 0, sure, &said));
            for (int i = 0; i < 3; ++i) printf("%d ", p_step(&state, 1, bad[i], &said));
            printf("%d ", p_step(&state, 1, unsure, &said));
            printf("%d ", p_step(&state, 1, sure, &said));
            printf("%d ", p_step(&state, 4, unsure, &said));
            printf("%d ", p_step(&state, 4, unsure, &said));
            p_start(&state, 1);
            printf("%d %d %d %g %s", p_step(&state, 1, sure, &said), P_EXITS, P_MODEL_EXITS, p_cost(1), P_UNIT);
            return 0;
        }"""
    said = program(tmp_path, text, "-std=c99", "-Wall", "-Wextra", "-Werror")
    assert said == "-1 -2 -2 -2 0 -1 1 -1 1 2 5 3 ms"


@pytest.mark.parametrize("how", [("cc", "-std=c99"), ("g++", "-std=c++17")])
def test_two_policies_in_one_program_with_probabilities(how, tmp_path):
    if shutil.which(how[0]) is None:
        pytest.skip(f"no {how[0]} here")
    policies = {"one": logits_policy(6), "two": fitted("optimal_stopping:mix=true")}
    for name, policy in policies.items():
        written(tmp_path, policy, name)
    logits = outputs(50, 4, 6, seed=4)[0]
    numbers = ", ".join(f"{x:.9g}f" if "." in f"{x:.9g}" else f"{x:.1f}f" for x in logits.ravel())
    text = f"""
        #define ONE_PROBABILITIES
        #define TWO_PROBABILITIES
        #include <stdio.h>
        #include "one.h"
        #include "two.h"
        static const float logits[50][4][6] = {{{numbers}}};
        int main(void) {{
            for (int row = 0; row < 50; ++row) {{
                one_state a; one_decision x = {{0}};
                two_state b; two_decision y = {{0}};
                one_start(&a, row); two_start(&b, row);
                for (int k = 0; k < 4; ++k) {{
                    if (k < 2 && one_step(&a, k, logits[row][k], &x) < 0) return 1;
                    if (two_step(&b, k, logits[row][k], &y) < 0) return 1;
                    printf("%.17g %.17g", x.score, y.score);
                    for (int c = 0; c < 6; ++c) printf(" %.17g %.17g", x.probabilities[c], y.probabilities[c]);
                    printf("\\n");
                }}
            }}
            return 0;
        }}"""
    said = program(tmp_path, text, *how[1:], *WARNED, compiled_by=how[0])
    found = np.array([line.split() for line in said.splitlines()], float).reshape(50, 4, 14)
    for which, policy in enumerate(policies.values()):
        state = policy.start(np.arange(50))
        for k in policy.path:
            step = policy.step(k, logits[:, k], state)
            assert scaled_error(found[:, k, which], step.score).max() <= ULPS["c"]
            assert found[:, k, 2 + which :: 2].sum(axis=1) == pytest.approx(1)
            np.testing.assert_allclose(found[:, k, 2 + which :: 2], step.answer, rtol=1e-6)


def test_no_libc_but_math(tmp_path):
    """The object of a header asks the linker for functions of math.h only."""
    policy = rules.policy("advantage", "combined")
    source = c_source(policy, trace_policy(policy), "p")
    includes = [line for line in source.splitlines() if line.startswith("#include")]
    assert includes == ["#include <float.h>", "#include <math.h>", "#include <stdint.h>"]
    (tmp_path / "p.h").write_text(source)
    wrapper = '#include "p.h"\nint f(p_state *s, const float *x, p_decision *d) { return p_step(s, 0, x, d); }\n'
    (tmp_path / "one.c").write_text(wrapper)
    subprocess.run(["cc", "-O1", "-ffreestanding", "-c", "one.c"], cwd=tmp_path, check=True)
    names = subprocess.run(["nm", "-u", "one.o"], cwd=tmp_path, capture_output=True, text=True)
    asked = {line.split()[-1].lstrip("_") for line in names.stdout.splitlines()}
    known = {"exp", "expf", "log", "log1p", "sqrt", "fabs", "fabsf", "GLOBAL_OFFSET_TABLE_"}
    # Compilers call these of their own accord, also where there is no libc (gcc's manual, "Standards").
    assert asked <= known | {"memcpy", "memset", "memmove", "stack_chk_fail"}


LOOP = """
#include <stdio.h>
#include "p.h"
int main(int count, char **words) {
    static float x[P_MODEL_EXITS][P_CLASSES];
    p_state state;
    p_decision decision;
    int leave = P_GO_ON;
    x[0][count % P_CLASSES] = words[0][0];
    p_start(&state, 0);
    for (int i = 0; i < P_EXITS; ++i) {
        leave = p_step(&state, p_path(i), x[p_path(i)], &decision);
        if (leave) break;
    }
    printf("%d %d %g %g", leave, (int)decision.prediction, decision.score, decision.confidence);
    return 0;
}
"""


@pytest.mark.parametrize("name", ["score eenet", "score halting", "answer combined"])
def test_no_number_is_unset_at_any_level_of_optimisation(name, tmp_path):
    """The loop that the header's comment shows, under what the compiler says of unset numbers."""
    policy = rules.policies()[name]
    written(tmp_path, policy)
    said = {
        program(tmp_path, LOOP, "-std=c99", level, "-Wall", "-Wextra", "-Werror")
        for level in ("-O0", "-O1", "-O2", "-Os", "-O3")
    }
    assert len(said) == 1


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("-ffast-math", "without -ffast-math"), ("-ffinite-math-only", "without -ffast-math"),
        ("-funsafe-math-optimizations", "without -ffast-math"), ("-freciprocal-math", "without -ffast"),
        ("-DSECOND", "two policies by the name p"),
    ],
)  # fmt: skip
def test_what_would_change_decisions_does_not_compile(flag, words, tmp_path):
    written(tmp_path, logits_policy())
    written(tmp_path, replace(logits_policy(), thresholds=[0.7]), file="q")
    text = '#include "p.h"\n#include "p.h"\n#ifdef SECOND\n#include "q.h"\n#endif\nint main(void) { return 0; }\n'
    program(tmp_path, text, "-std=c99")
    command = ["cc", "-std=c99", flag, "main.c"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode and words in done.stderr


def test_sizes_are_told_and_true(tmp_path):
    policy = rules.policy("eenet")
    source = c_source(policy, trace_policy(policy), "p")
    sizes = measured(source)
    code, stack = re.fullmatch(r"code (\d+) \(.* -Os, .*\), stack of a step (\d+)", sizes).groups()
    assert 500 < int(code) < 50_000 and 100 < int(stack) < 10_000 and sizes in source
    (tmp_path / "p.h").write_text(source)
    text = '#include <stdio.h>\n#include "p.h"\nint main(void) { printf("%d", (int)sizeof(p_state)); return 0; }'
    assert f"state {program(tmp_path, text)}, " in source


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    policy = logits_policy()
    source = c_source(policy, trace_policy(policy))
    assert "code not measured" in source
    (tmp_path / f"{NAME}.h").write_text(source)
    golden = golden_of(policy, trace_policy(policy))
    with pytest.raises(NoCompiler, match="'cc' must be a C compiler"):
        run_c(tmp_path, golden)


def test_what_cannot_be_is_refused(tmp_path):
    policy = logits_policy()
    graphs = trace_policy(policy)
    for name in ("3d", "a b", "int", "X", "", "a;b"):
        with pytest.raises(InputError, match="'name' must be a C identifier"):
            c_source(policy, graphs, name)
    golden = golden_of(policy, graphs)
    with pytest.raises(InputError, match="one C header"):
        run_c(tmp_path, golden)
    (tmp_path / "other.h").write_text("int x;\n")
    with pytest.raises(InputError, match="one that policyopt wrote"):
        run_c(tmp_path, golden)
    broken = c_source(policy, graphs).replace("return path[position];", "return path;")
    (tmp_path / "other.h").write_text(broken)
    with pytest.raises(InputError, match="one that compiles and runs"):
        run_c(tmp_path, golden)


def test_text_of_a_unit_stays_text(tmp_path):
    policy = replace(logits_policy(), unit='m"s\\ */ µ@ ??/ %s')
    written(tmp_path, policy)
    text = '#include <stdio.h>\n#include "p.h"\nint main(void) { printf("%s", P_UNIT); return 0; }'
    assert program(tmp_path, text) == 'm"s\\ */ µ@ ??/ %s'
