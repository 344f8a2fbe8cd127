"""The C header: random graphs to the bit, in any program, by any compiler, in this process; and what does not compile.

(Every rule: test_targets.) Every combination of dialect and level with POLICYOPT_WHOLE_MATRIX=1 in the environment.
"""

import ctypes
import functools
import itertools
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import rules
from policies import fitted
from random_graphs import Steep, random_graphs
from random_routes import random_routing
from synthetic import outputs

import policyopt as po
from policyopt._export.bundle import write_bundle
from policyopt._export.c_compiler import (
    SAID,
    STRICT,
    NoCompiler,
    compiler,
    measured,
    program,
    routes_program,
    run_c,
)
from policyopt._export.c_header import c_source, routes_source
from policyopt._export.c_native import ASK, native
from policyopt._export.rounding import ULPS, scaled_error
from policyopt._export.routes import golden_routes, of_models
from policyopt._export.samples import golden_of
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import Entropy, Margin, MaxProb

WARNED = ["-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-Wdouble-promotion", "-O2"]
WARNED += ["-Wno-missing-braces", "-Wno-missing-field-initializers"]


@pytest.fixture(autouse=True)
def needs_a_compiler():
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


def compiled(folder, how, text=None, file="main.c"):
    """Compile a program, written first where it is given; return what the compiler said, if it was not content."""
    if text is not None:
        (folder / file).write_text(text)
    command = [*how, file, "-o", "main", "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return f"{' '.join(command)}: {done.stderr}" if done.returncode else ""


def printed(folder, text, *flags, how="cc", file="main.c"):
    assert not (said := compiled(folder, [how, *flags], text, file)), said
    return subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout


def written(folder, policy, name="p", file=None):
    source = c_source(policy, trace_policy(policy), name, sizes=False)
    (folder / f"{file or name}.h").write_text(source)


def logits_policy(classes=3, **more):
    return Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", classes, **more)


@pytest.mark.parametrize("seed", range(16))
def test_random_graphs_to_the_bit(seed, tmp_path):
    """Operations that IEEE sets: states, buffers and fused loops change no bit of the score."""
    graphs, golden, policy = random_graphs(np.random.default_rng(seed))
    (tmp_path / "p.h").write_text(c_source(policy, graphs, "p", sizes=False))
    ran = run_c(tmp_path, golden)
    for column, wanted in vars(golden.expected).items():
        np.testing.assert_array_equal(getattr(ran, column), wanted, column)


def test_misuse_has_codes_of_its_own(tmp_path):
    unit = 'm"s\\ */ µ@ ??/ %s'  # stays text
    written(tmp_path, replace(logits_policy(active_exits=(1, 4), model_exits=5), unit=unit))
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
    said = printed(tmp_path, text, "-std=c99", "-Wall", "-Wextra", "-Werror")
    assert said == f"-1 -2 -2 -2 0 -1 1 -1 1 2 5 3 {unit}"


def test_a_routing_header_refuses_what_cannot_be(tmp_path):
    """NaN, a cost below 0, and a sample that has ended: codes of their own, and no answer."""
    policy = random_routing(3, timed=True, models=4)
    (tmp_path / "p.h").write_text(routes_source(policy, "p"))
    rows = ", ".join(["0.5f"] * policy.classes)
    text = f"""
        #include <stdio.h>
        #include "p.h"
        int main(void) {{
            static p_state s; p_decision d; float good[] = {{{rows}}}, bad[] = {{{rows}}};
            int model = p_start(&s, 7), first = model, calls = 0;
            bad[1] = NAN;
            printf("%d ", p_step(&s, bad, 1.0, &d)); printf("%d ", p_step(&s, good, 1.0, &d));
            p_start(&s, 7); printf("%d ", p_step(&s, good, -1.0, &d));
            p_start(&s, 7); printf("%d %d ", p_step(&s, good, NAN, &d), d.prediction);
            for (model = p_start(&s, 7); model >= 0; ++calls) model = p_step(&s, good, 1.0, &d);
            printf("%d %d %d", model == P_STOP, first == {policy.start(7).next}, calls > 0);
            return p_step(&s, good, 1.0, &d) != P_BAD_INPUT;
        }}"""
    said = printed(tmp_path, text, *STRICT[:4])
    assert said == "-2 -2 -2 -2 -1 1 1 1"


@pytest.mark.parametrize(
    ("how", "file"),
    [(f"cc -std=c99 {level}", "main.c") for level in ("-O0", "-O1", "-Os", "-O3")]
    + [("g++ -std=c++17 -O2", "main.cpp")],
)
def test_policies_in_one_program_with_probabilities(how, file, tmp_path):
    """No warning, also not of unset numbers, at any level of optimisation."""
    how = how.split()
    if shutil.which(how[0]) is None:
        pytest.skip(f"no {how[0]} here")
    made = rules.policies()
    policies = {
        "one": logits_policy(6), "two": fitted("optimal_stopping:mix=true"),
        **{name.split()[1]: made[name] for name in ("score eenet", "score halting", "answer combined")},
    }  # fmt: skip
    logits = outputs(50, 4, 6, seed=4)[0]
    numbers = ", ".join(f"{x:.9g}f" if "." in f"{x:.9g}" else f"{x:.1f}f" for x in logits.ravel())
    text, calls = "#include <stdio.h>\n", ""
    for name, policy in policies.items():
        written(tmp_path, policy, name)
        text += f'#define {name.upper()}_PROBABILITIES\n#include "{name}.h"\n'
        calls += f"""
            {{
                {name}_state state; {name}_decision said;
                {name}_start(&state, row);
                for (int k = 0; k < {policy.exits}; ++k)
                {{
                    if ({name}_step(&state, k, logits[row][k], &said) < 0) return 1;
                    printf("{name} %.17g", said.score);
                    for (int c = 0; c < {policy.classes}; ++c) printf(" %.17g", said.probabilities[c]);
                    printf("\\n");
                }}
            }}"""
    text += f"static const float logits[50][4][6] = {{{numbers}}};\n"
    text += f"int main(void) {{ for (int row = 0; row < 50; ++row) {{ {calls} }} return 0; }}"
    lines = printed(tmp_path, text, *how[1:], *WARNED, how=how[0], file=file).splitlines()
    for name, policy in policies.items():
        mine = [line.split()[1:] for line in lines if line.startswith(name + " ")]
        found = np.array(mine, float).reshape(50, policy.exits, -1)
        state = policy.start(np.arange(50))
        for k in policy.active_exits:
            step = policy.step(k, logits[:, k, : policy.classes], state)
            assert scaled_error(found[:, k, 0], step.score).max() <= ULPS["c"]
            assert found[:, k, 1:].sum(axis=1) == pytest.approx(1)
            np.testing.assert_allclose(found[:, k, 1:], step.answer, rtol=1e-6)


def test_no_libc_but_math(tmp_path):
    policy = rules.policy("advantage", "combined")
    source = c_source(policy, trace_policy(policy), "p")
    includes = [line for line in source.splitlines() if line.startswith("#include")]
    assert includes == ["#include <float.h>", "#include <math.h>", "#include <stdint.h>"]
    (tmp_path / "p.h").write_text(source)
    step = "int f(p_state *s, const float *x, p_decision *d) { return p_step(s, 0, x, d); }"
    (tmp_path / "one.c").write_text(f'#include "p.h"\n{step}\n')
    subprocess.run(["cc", "-O1", "-ffreestanding", "-c", "one.c"], cwd=tmp_path, check=True)
    names = subprocess.run(["nm", "-u", "one.o"], cwd=tmp_path, capture_output=True, text=True)
    asked = {line.split()[-1].lstrip("_") for line in names.stdout.splitlines()}
    known = {"exp", "expf", "log", "log1p", "sqrt", "fabs", "fabsf", "GLOBAL_OFFSET_TABLE_"}
    # Compilers call these of their own accord, also where there is no libc (gcc's manual, "Standards").
    assert asked <= known | {"memcpy", "memset", "memmove", "stack_chk_fail"}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("-ffast-math", "without -ffast-math"), ("-ffinite-math-only", "without -ffast-math"),
        ("-funsafe-math-optimizations", "without -ffast-math"), ("-freciprocal-math", "without -ffast"),
        ("-DSECOND", "two policies by the name p"), ("", ""),
    ],
)  # fmt: skip
def test_what_would_change_decisions_does_not_compile(flag, words, tmp_path):
    written(tmp_path, logits_policy())
    written(tmp_path, replace(logits_policy(), thresholds=[0.7]), file="q")
    text = '#include "p.h"\n#include "p.h"\n#ifdef SECOND\n#include "q.h"\n#endif\nint main(void) { return 0; }\n'
    said = compiled(tmp_path, ["cc", "-std=c99", *flag.split()], text)
    assert words in said and bool(said) == bool(words)


def test_sizes_are_told_and_true(tmp_path, monkeypatch):
    policy = rules.policy("eenet")
    source = c_source(policy, trace_policy(policy), "p")
    sizes = measured(source)
    code, stack = re.fullmatch(r"code (\d+) \(.* -Os, .*\), stack of a step (\d+)", sizes).groups()
    assert 500 < int(code) < 50_000 and 100 < int(stack) < 10_000 and sizes in source
    (tmp_path / "p.h").write_text(source)
    main = 'int main(void) { printf("%d", (int)sizeof(p_state)); }'
    size = printed(tmp_path, f'#include <stdio.h>\n#include "p.h"\n{main}')
    tables = sum(int(n) * (8 if kind == "double" else 4)
                 for kind, n in re.findall(r"^static const (\w+) \w+\[(\d+)\]", source, re.M))  # fmt: skip
    assert f"state {size}, " in source and f"Bytes: tables {tables}, " in source
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert "code not measured" in c_source(policy, trace_policy(policy))
    with pytest.raises(NoCompiler, match="'cc' must be a C compiler"):
        run_c(tmp_path, golden_of(policy, trace_policy(policy), rows=5))


def test_what_cannot_be_is_refused(tmp_path):
    policy = logits_policy()
    graphs = trace_policy(policy)
    for name in ("3d", "a b", "math", "X", "../x", "", "a;b"):
        with pytest.raises(InputError, match="'name' must be a C identifier"):
            c_source(policy, graphs, name)
    with pytest.raises(InputError, match="'name' must be a C identifier"):
        write_bundle(policy, tmp_path / "x", ["python"], None, graphs, "../x")
    golden, source = golden_of(policy, graphs, rows=5), c_source(policy, graphs, sizes=False)
    with pytest.raises(InputError, match="one C header"):
        run_c(tmp_path, golden)
    far = {"score": lambda _, k, o, s: (o.top_prob[np.arange(1), (o.margin * 2).astype(int)], s)}
    far, chances = type("Far", (Steep,), far), replace(policy, kind="probabilities")
    for other, bad in ((chances, [[0.9] * 3]), (replace(policy, rule=far()), [[60.0, 0, 0]])):
        (tmp_path / "other.h").write_text(c_source(other, trace_policy(other), sizes=False))
        inputs = [{other.kind: np.array(bad, np.float32)}] * 2
        with pytest.raises(InputError, match="row 0 refused at exit 0"):
            run_c(tmp_path, replace(golden, inputs=inputs, sample=np.zeros(1, int)))
    for text, words in (
        ("int x;\n", "one that policyopt wrote"),
        (source.replace("policyopt_policy_step(", "step("), "one that policyopt wrote"),
        (source.replace("return path[position];", "return path;"), "one that compiles and runs"),
    ):
        (tmp_path / "other.h").write_text(text)
        with pytest.raises(InputError, match=words):
            run_c(tmp_path, golden)


# Every dialect, level of optimisation and processor, by gcc and clang.
COMPILERS = ("gcc", "clang")
DIALECTS = ("", "-std=c99", "-std=gnu99", "-std=c11", "-std=gnu11", "-std=c17", "-std=c2x",
            "c++ -std=c++11", "c++ -std=gnu++17")  # fmt: skip
LEVELS = ("-O0", "-O2", "-O3")
HALF = "-march=sapphirerapids"  # has arithmetic of _Float16, for which FLT_EVAL_METHOD is 16
X86 = platform.machine() == "x86_64"
PROCESSORS = (
    "", "-march=native", *(("-march=x86-64-v2", "-march=x86-64-v3", HALF) if X86 else ()),
)  # fmt: skip
ROWS = 40


@pytest.fixture(scope="module", params=["exits", "routing"])
def place(request, tmp_path_factory):
    """A program of a policy that exps, sums, joins and multiplies; its golden rows, and what is expected."""
    folder = tmp_path_factory.mktemp("matrix")
    if request.param == "routing":
        policy = random_routing(3, timed=True, arms=2, query=True, models=4)
        (folder / "p.h").write_text(routes_source(policy, "p"))
        golden = golden_routes(policy, rows=ROWS)
        walk, every = golden.expected, of_models(policy, golden)
        wanted = SimpleNamespace(leave=walk.model, prediction=walk.prediction, score=walk.gain)
        text, inputs = routes_program("p.h", "p", every, walk.model.shape[1], policy), [every]
    else:
        policy = rules.policy("advantage", "combined", "platt", mixed="entropy")
        written(folder, policy)
        golden = golden_of(policy, trace_policy(policy), rows=ROWS)
        text, wanted = program("p.h", "p", ["logits"], golden), golden.expected
        inputs = [{"logits": given["logits"]} for given in golden.inputs]
    for file in ("main.c", "main.cpp"):
        (folder / file).write_text(text)
    with (folder / "in.bin").open("wb") as file:
        for row in range(ROWS):
            file.write(golden.sample[row].tobytes())
            file.writelines(a[row].tobytes() for given in inputs for a in given.values())
    return folder, wanted


def built(folder, compiler, dialect, *flags):
    """Compile the program; return what the compiler said, empty where it is content."""
    if shutil.which(compiler) is None:
        assert os.environ.get("CI") != "true", f"{compiler} is to be here: .ci/run installs it"
        pytest.skip(f"{compiler} is not installed")
    words, file = dialect.split(), "main.c"
    if words[:1] == ["c++"]:
        compiler, words, file = {"gcc": "g++", "clang": "clang++"}[compiler], words[1:], "main.cpp"
    return compiled(folder, [compiler, *words, *STRICT[1:], *flags], file=file)


@functools.cache
def runs(processor):
    if processor in ("", "-march=native"):
        return True
    features = np.show_config(mode="dicts")["SIMD Extensions"]
    named = {"-march=x86-64-v2": "X86_V2", "-march=x86-64-v3": "X86_V3", HALF: "AVX512_SPR"}
    return named[processor] in [*features["baseline"], *features.get("found", ())]


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_header_compiles_and_decides_alike(compiler, processor, place):
    """Without a warning everywhere; where the program runs, exits, answers and scores of the golden rows."""
    folder, wanted = place
    every, first = list(itertools.product(DIALECTS, LEVELS)), None
    if os.environ.get("POLICYOPT_WHOLE_MATRIX") != "1":
        every = every[COMPILERS.index(compiler) + 2 * PROCESSORS.index(processor) :: 7]
    for dialect, level in every:
        said = built(folder, compiler, dialect, level, *processor.split())
        assert not said, said
        if runs(processor):
            subprocess.run([folder / "main"], cwd=folder, check=True)
            found = np.fromfile(folder / "out.bin", SAID).reshape(ROWS, -1)
            first = found if first is None else first
            np.testing.assert_array_equal(found["leave"], wanted.leave)
            np.testing.assert_array_equal(found["prediction"], wanted.prediction)
            assert scaled_error(found["score"], wanted.score).max() <= ULPS["c"]
            # Nothing is fused and nothing is widened: one C library, one set of bits.
            assert (found == first).all(), (compiler, dialect, level, processor)


@pytest.mark.skipif(not X86, reason="x87 is a part of x86 processors")
@pytest.mark.parametrize("dialect", ["", "-std=c99", "-std=c2x", "c++ -std=c++11"])
@pytest.mark.parametrize("how", [("gcc", "-mfpmath=387"), ("gcc", "-mfpmath=both"), ("clang", "-mno-sse")])  # fmt: skip
def test_wider_arithmetic_does_not_compile(how, dialect, place):
    """x87 computes float as long double (FLT_EVAL_METHOD 2), or as it falls (-1)."""
    compiler, flag = how
    said = built(place[0], compiler, dialect, flag)
    assert "float must be computed as float" in said, said


# In this process.
K, C = 4, 6


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("POLICYOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def simple(rule, thresholds=(0.5, 0.6, 0.7)):
    return Policy(rule, thresholds, [1.0, 2.0, 4.0, 8.0], "ms", "logits", C)


def stepped(made, rows):
    """What is said of one sample's logits (K, C) at the exit where it leaves or asks."""
    state = ctypes.create_string_buffer(made.size)
    for at, row in enumerate(np.ascontiguousarray(rows, np.float32)):
        said = made.step(state, 0, at, row.ctypes.data)
        if said == ASK or said & 1:
            return said


def test_how_near_to_a_threshold_it_asks():
    logits = outputs(200, K, C, seed=5)[0]
    for rule in (MaxProb(), Margin(), Entropy(C)):
        threshold = simple(rule).trace(logits).scores[7, 0]
        made = native(simple(rule, [threshold, 2.0, 2.0]))
        assert stepped(made, logits[7]) == ASK and 0 < made.near[0] < 1e-4
    assert native(rules.policy("patience")).near == (0.0, 0.0)  # the same bits everywhere
    # Nearly all scores within 1e-5 of 1, as exits of strong models have them.
    logits *= 0.1
    logits[..., 2] += np.random.default_rng(0).uniform(8, 14, (200, K))
    scores = simple(MaxProb()).trace(logits).scores
    policy = simple(MaxProb(), np.quantile(scores[:, :-1], 0.7, axis=0) - 1e-12)
    assert (policy.thresholds > 1 - 1e-3).all()
    made = native(policy)
    assert sum(stepped(made, rows) == ASK for rows in logits) < 4


def test_libraries_are_kept_by_their_source_and_need_no_compiler_again(home, monkeypatch):
    first, second = simple(MaxProb()), simple(MaxProb(), [0.5, 0.6, 0.71])
    for policy, files in ((first, 1), (first, 1), (second, 2)):
        native(policy)
        assert len(list(home.iterdir())) == files
    assert home.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert stepped(native(first), np.zeros((K, C))) & 1
    with pytest.raises(NoCompiler):
        native(simple(Margin()))


def test_nothing_is_read_from_where_others_may_write(home, tmp_path, monkeypatch):
    """Nor from beside a policy; what cannot be loaded is made again; a home that cannot be used is done without."""
    loaded, load, policy = [], ctypes.PyDLL, simple(MaxProb())
    monkeypatch.setattr(ctypes, "PyDLL", lambda path: loaded.append(path) or load(path))
    monkeypatch.chdir(tmp_path)
    policy.save(tmp_path / "policy.json")
    native(policy)
    (kept,) = home.iterdir()
    assert set(loaded) == {str(kept)}
    kept.chmod(0o666)
    kept.symlink_to(kept.rename(tmp_path / "theirs.so"))
    for _ in range(2):
        native(policy)
        assert kept.lstat().st_mode & 0o777 == 0o700  # another one
        kept.chmod(0o666)
    for place in (home, tmp_path):
        place.chmod(0o777)
        with pytest.raises(InputError, match="nobody else's to write to"):
            native(policy)
        place.chmod(0o700)
    monkeypatch.setenv("POLICYOPT_CACHE", "here")
    with pytest.raises(InputError, match="'POLICYOPT_CACHE' must be an absolute path"):
        native(policy)
    own, file = tmp_path / "own", tmp_path / "file"
    own.mkdir(mode=0o700)
    (own / kept.name).write_bytes(b"no library")
    native(policy, "own")
    assert (own / kept.name).stat().st_size > 1000
    file.write_text("")
    monkeypatch.setenv("POLICYOPT_CACHE", str(file))
    assert stepped(native(policy), np.zeros((K, C))) & 1
    with pytest.raises(OSError, match="file"):
        native(policy, file / "more")


# The example.
def test_the_program_of_the_example_decides_as_the_runtime(root, tmp_path):
    def example(*arguments):
        command = [sys.executable, "-m", "examples.embed_c", *map(str, arguments)]
        return subprocess.run(command, cwd=root, capture_output=True, text=True)

    logits, labels = outputs(900, 4, 6)
    with po.CacheWriter(tmp_path / "cache", costs=[po.Cost("latency", "ms", [1, 2, 4, 8])]) as made:
        for split, rows in (("fit", slice(0, 600)), ("test", slice(600, 900))):
            made.append(split, list(logits[rows].swapaxes(0, 1)), labels[rows])
    done = example(tmp_path / "cache", "--out", tmp_path / "out", "--rows", "200")
    assert done.returncode == 0, done.stderr + done.stdout
    for words in ("200 rows; 0 decided otherwise", "200 rows, mean cost", "Bytes: tables"):
        assert words in done.stdout
    (tmp_path / "bad.f32").write_bytes(b"\xff" * 4 * 6 * 4)
    serve = [tmp_path / "out" / "serve"]
    told = subprocess.run([*serve, tmp_path / "bad.f32"], capture_output=True, text=True)
    assert told.returncode == 1 and "row 0: the output of exit 0 cannot be" in told.stderr
    assert subprocess.run(serve, capture_output=True).returncode == 2
    done = example(tmp_path / "none", "--out", tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert len((root / "examples" / "embed_c" / "serve.c").read_text().splitlines()) <= 60
