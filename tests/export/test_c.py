"""The C header decides as `policyopt.runtime` does: random graphs to the bit, every method on awkward rows."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from policies import fitted
from random_graphs import random_graphs, replayed
from synthetic import cache, outputs
from test_methods import SPECS

import policyopt as po
from policyopt.export.c_header import c_source
from policyopt.export.c_run import NoCompiler, compiler, measured, run_c
from policyopt.export.golden import expect
from policyopt.export.manifest import ULPS
from policyopt.export.samples import golden_of
from policyopt.export.tracing import trace_policy
from policyopt.export.verify import scaled_error
from policyopt.methods import make_method
from policyopt.runtime.decision import Mixture
from policyopt.runtime.errors import InputError
from policyopt.runtime.policy import Policy
from policyopt.runtime.scores import MaxProb
from policyopt.table import Tables

NAME = "policyopt_policy"


@pytest.fixture(autouse=True)
def needs_a_compiler():
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


def in_c(policy, golden, folder):
    (folder / f"{NAME}.h").write_text(c_source(policy, trace_policy(policy)))
    return run_c(folder, golden)


def assert_same(ran, expected):
    np.testing.assert_array_equal(ran.leave, expected.leave)
    np.testing.assert_array_equal(ran.prediction, expected.prediction)
    assert scaled_error(ran.score, expected.score).max() <= ULPS["c"]
    assert scaled_error(ran.confidence, expected.confidence).max() <= ULPS["c"]


def program(folder, text, *flags, compiled_by="cc"):
    """Compile and run a program; return what it prints."""
    name = "main.cpp" if compiled_by == "g++" else "main.c"
    (folder / name).write_text(text)
    subprocess.run([compiled_by, *flags, name, "-o", "main", "-lm"], cwd=folder, check=True)
    done = subprocess.run([folder / "main"], capture_output=True, text=True, check=True)
    return done.stdout


def logits_policy(classes=3, **more):
    return Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", classes, **more)


@pytest.mark.parametrize("spec", SPECS)
def test_every_method(spec, tmp_path):
    """Ties, saturated and impossible classes: the same exits and answers, scores within rounding."""
    policy = fitted(spec)
    golden = golden_of(policy, trace_policy(policy), rows=2000)
    assert_same(in_c(policy, golden, tmp_path), golden.expected)


@pytest.mark.parametrize("spec", ["e2cm:vectors=features", "de3_bert:vectors=features"])
def test_features(spec, tmp_path):
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(800, 3 + k)).astype("f4") for k in range(4)]
    data = cache(800, features=vectors)
    (result,) = make_method(spec).fit_path(Tables(data).get("fit"), [3.0])
    golden = golden_of(result.policy, trace_policy(result.policy), rows=2000)
    assert_same(in_c(result.policy, golden, tmp_path), golden.expected)


@pytest.mark.parametrize("seed", range(12))
def test_random_graphs_to_the_bit(seed, tmp_path):
    """Operations that IEEE sets: states, buffers and fused loops change no bit of the score."""
    graphs, inputs, policy = random_graphs(np.random.default_rng(seed))
    golden = replayed(graphs, inputs)
    (tmp_path / f"{NAME}.h").write_text(c_source(policy, graphs))
    ran = run_c(tmp_path, golden)
    np.testing.assert_array_equal(ran.score, golden.expected.score)
    np.testing.assert_array_equal(ran.confidence, golden.expected.confidence)
    np.testing.assert_array_equal(ran.prediction, golden.expected.prediction)
    np.testing.assert_array_equal(ran.leave, golden.expected.leave)


@pytest.mark.parametrize(
    ("spec", "classes", "more"),
    [
        ("margin", 2, {}),
        ("entropy", 127, {}),
        ("entropy", 1000, {}),
        ("max_prob:answer=vector", 7, {}),
        ("entropy:answer=combined", 5, {}),
        ("optimal_stopping:mix=true", 3, {}),
        ("max_prob:thresholds=joint+mix=true", 4, {}),
    ],
)
def test_answers_mixtures_and_many_classes(spec, classes, more, tmp_path):
    data = cache(300, exits=3, classes=classes, **more)
    (result,) = make_method(spec).fit_path(Tables(data).get("fit"), [2.0])
    golden = golden_of(result.policy, trace_policy(result.policy), rows=1000)
    assert_same(in_c(result.policy, golden, tmp_path), golden.expected)


def test_probabilities_are_read_and_refused(tmp_path):
    logits, labels = outputs(400, 3, 5)
    mass = np.exp(logits.astype(float))
    mass = (mass / mass.sum(axis=2, keepdims=True)).astype(np.float32)
    data = po.from_arrays(mass, labels, [1.0, 2.0, 4.0], unit="ms", kind="probabilities")
    policy = po.fit(data, "60%", "entropy").policy
    golden = golden_of(policy, trace_policy(policy))
    assert_same(in_c(policy, golden, tmp_path), golden.expected)
    bad = [{"probabilities": np.full((1, 5), 0.9, np.float32)}] * 3
    with pytest.raises(InputError, match="row 0 refused at exit 0"):
        run_c(tmp_path, replace(golden, inputs=bad, sample=np.zeros(1, int)))


def test_records_and_answers_that_are_none(tmp_path):
    rng = np.random.default_rng(0)
    right = rng.random((600, 3)) < [0.6, 0.7, 0.9]
    record = {"prediction": np.where(right, 0, 1), "confidence": rng.random((600, 3))}
    data = po.from_arrays(labels=np.zeros(600, int), costs=[1.0, 2.0, 4.0], **record)
    for spec in ("vote", "optimal_stopping", "window", "cbt"):
        (result,) = make_method(spec).fit_path(Tables(data).get("fit"), [2.0])
        golden = golden_of(result.policy, trace_policy(result.policy))
        assert_same(in_c(result.policy, golden, tmp_path), golden.expected)


def test_a_mixture_and_a_calibrated_confidence_of_kept_exits(tmp_path):
    data = cache(600)
    policy = po.fit(data, "60%", "max_prob:thresholds=shared+calibrator=isotonic").policy
    kept = replace(
        policy, kept=(0, 2, 5, 6), model_exits=8,
        mixture=Mixture(policy.thresholds * 0.9, 0.3, seed=5),
    )  # fmt: skip
    golden = golden_of(kept, trace_policy(kept))
    assert_same(in_c(kept, golden, tmp_path), golden.expected)


def test_ties_at_the_threshold_are_left_alike(tmp_path):
    """Equal logits give probabilities that are exact: such a score equals its threshold everywhere."""
    policy = Policy(MaxProb(), [0.25, 0.5], [1.0, 2.0, 3.0], "ms", "logits", 4)
    rows = np.array([[0, 0, 0, 0], [3, 3, 3, 3], [1, 1, -np.inf, -np.inf]], np.float32)
    golden = expect(policy, [{"logits": rows}] * 3, np.arange(3))
    ran = in_c(policy, golden, tmp_path)
    assert ran.leave[:, 0].all() and ran.leave[:, 1].tolist() == [False, False, True]
    np.testing.assert_array_equal(ran.score, golden.expected.score)
    np.testing.assert_array_equal(ran.prediction, 0)


def test_misuse_has_codes_of_its_own(tmp_path):
    policy = logits_policy(kept=(1, 4), model_exits=5)
    (tmp_path / "p.h").write_text(c_source(policy, trace_policy(policy), "p"))
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


@pytest.mark.parametrize(
    "how", [("cc", "-std=c99"), ("cc", "-std=gnu11", "-mfma"), ("g++", "-std=c++17", "-mfma")]
)
def test_two_policies_in_one_program_with_probabilities(how, tmp_path):
    """Compiled as C99, as C with fused multiply-adds at hand, and as C++: one answer."""
    import platform
    import shutil

    if shutil.which(how[0]) is None or ("-mfma" in how and platform.machine() != "x86_64"):
        pytest.skip(f"no {' '.join(how)} here")
    if "-mfma" in how and "fma" not in _cpu_flags():
        pytest.skip("this processor has no fused multiply-add")
    policies = {"one": logits_policy(6), "two": fitted("optimal_stopping")}
    for name, policy in policies.items():
        (tmp_path / f"{name}.h").write_text(c_source(policy, trace_policy(policy), name))
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
    strict = [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wconversion",
        "-Wshadow",
        "-Wdouble-promotion",
        "-O2",
    ]
    said = program(
        tmp_path,
        text,
        *how[1:],
        *strict,
        "-Wno-missing-braces",
        "-Wno-missing-field-initializers",
        compiled_by=how[0],
    )
    found = np.array([line.split() for line in said.splitlines()], float).reshape(50, 4, 14)
    for which, policy in enumerate(policies.values()):
        state = policy.start(np.arange(50))
        for k in policy.path:
            step = policy.step(k, logits[:, k], state)
            assert scaled_error(found[:, k, which], step.score).max() <= ULPS["c"]
            assert found[:, k, 2 + which :: 2].sum(axis=1) == pytest.approx(1)
            np.testing.assert_allclose(found[:, k, 2 + which :: 2], step.answer, rtol=1e-6)
    _SAID[how] = found
    np.testing.assert_array_equal(found, next(iter(_SAID.values())))


_SAID: dict[tuple[str, ...], np.ndarray] = {}


def _cpu_flags():
    path = Path("/proc/cpuinfo")
    return path.read_text().split() if path.is_file() else []


def test_no_libc_but_math(tmp_path):
    """The object of a header asks the linker for functions of math.h only."""
    policy = fitted("optimal_stopping")
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


@pytest.mark.parametrize("spec", ["eenet:max_epochs=15+restarts=1", "optimal_stopping", "act"])
def test_no_number_is_unset_at_any_level_of_optimisation(spec, tmp_path):
    """The loop that the header's comment shows, under what the compiler says of unset numbers."""
    policy = fitted(spec)
    (tmp_path / "p.h").write_text(c_source(policy, trace_policy(policy), "p"))
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
    policies = logits_policy(), replace(logits_policy(), thresholds=[0.7])
    for policy, file in zip(policies, ("p.h", "q.h"), strict=True):
        (tmp_path / file).write_text(c_source(policy, trace_policy(policy), "p"))
    text = '#include "p.h"\n#include "p.h"\n#ifdef SECOND\n#include "q.h"\n#endif\nint main(void) { return 0; }\n'
    program(tmp_path, text, "-std=c99")
    done = subprocess.run(
        ["cc", "-std=c99", flag, "main.c"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode and words in done.stderr


def test_products_are_not_fused_whatever_the_flags(tmp_path):
    policy = fitted("optimal_stopping")
    golden = golden_of(policy, trace_policy(policy))
    (tmp_path / f"{NAME}.h").write_text(c_source(policy, trace_policy(policy)))
    plain = run_c(tmp_path, golden)
    if "fma" not in _cpu_flags():
        pytest.skip("this processor has no fused multiply-add")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CC", "cc -march=native -ffp-contract=fast")
        np.testing.assert_array_equal(run_c(tmp_path, golden).score, plain.score)


def test_sizes_are_told_and_true(tmp_path):
    policy = fitted("eenet:max_epochs=15+restarts=1")
    source = c_source(policy, trace_policy(policy), "p")
    sizes = measured(source, "p")
    assert sizes is not None and 500 < sizes.code < 50_000
    assert f"code {sizes.code} (" in source and f"stack of a step {sizes.stack}" in source
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
    (tmp_path / "p.h").write_text(c_source(policy, trace_policy(policy), "p"))
    text = '#include <stdio.h>\n#include "p.h"\nint main(void) { printf("%s", P_UNIT); return 0; }'
    assert program(tmp_path, text) == 'm"s\\ */ µ@ ??/ %s'
