"""A C compiler on this machine: headers measured, and run on golden vectors."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._errors import InputError, input_error, message
from policyopt.runtime._files import refusing, write_file
from policyopt.runtime._typing import Array

from .c_functions import TYPES
from .golden import Golden, Ran, Walk
from .routes import of_models

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wconversion", "-Wshadow",
          "-Wdouble-promotion")  # fmt: skip
UNMEASURED = "code not measured"
_SECONDS = 300


class NoCompiler(InputError):
    """There is no C compiler here: this runtime cannot be tried."""


def compiler() -> list[str]:
    """Return the command of a C compiler: ``CC`` if set, else cc, gcc or clang; raise `NoCompiler` where none works."""
    given = os.environ.get("CC", "").strip()
    for command in [given] if given else ("cc", "gcc", "clang"):
        with suppress(ValueError):  # a quotation that is not closed
            words = shlex.split(command)
            if shutil.which(words[0]) and _compiles(tuple(words)):
                return words
    name, got = ("CC", given) if given else ("cc", "none of CC, cc, gcc, clang")
    raise NoCompiler(message(name, "a C compiler", got, "Install one, or name it: CC=gcc."))


@lru_cache
def _compiles(command: tuple[str, ...]) -> bool:
    """Whether a command makes an object file of what needs the headers that ours needs."""
    failed = (InputError, OSError, subprocess.TimeoutExpired)
    with tempfile.TemporaryDirectory() as temporary, suppress(*failed):
        folder = Path(temporary)
        write_file(folder / "one.c", "#include <math.h>\n#include <stdint.h>\nint one;\n")
        ran([*command, "-c", "one.c", "-o", "one.o"], folder)
        return (folder / "one.o").is_file()
    return False


def ran(
    command: list[str], folder: Path, argument: str = "header",
    allowed: str = "one that compiles and runs", step: str = "Export again.",
) -> str:  # fmt: skip
    """Return what a command says; refuse what it was given where it fails."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise input_error(argument, allowed, done.stderr.strip()[:2000], step)
    return done.stdout


def _read(source: str, place: str) -> tuple[str, str, list[str]]:
    """Return the prefix of a header's names, the parameters of its step, and their names."""
    named = re.match(r"/\* ([a-z][a-z0-9_]*): (?:early-exit|routing) policy", source)
    call = named and re.search(rf"static inline int {named[1]}_step\((.*)\) {{", source)
    if named is None or call is None:
        raise input_error("header", "one that policyopt wrote", place, "Export again.")
    return named[1], call[1], re.findall(r"(\w+)(?:,|$)", call[1])


def measured(source: str) -> str:
    """Say what a header takes in bytes when it is compiled small, if that works here: its code, and its stack."""
    name, given, names = _read(source, "none")
    try:
        command = compiler()
    except NoCompiler:
        return UNMEASURED
    body = f"{{ return {name}_step({', '.join(names)}); }}"
    wrapper = f'#include "{name}.h"\nint step({given});\nint step({given}) {body}\n'
    late = suppress(OSError, subprocess.TimeoutExpired)
    with tempfile.TemporaryDirectory() as temporary, late:
        folder = Path(temporary)
        write_file(folder / f"{name}.h", source)
        write_file(folder / "one.c", wrapper)
        small = [*command, "-std=c99", "-Os", "-c", "one.c", "-o", "one.o"]
        try:
            ran([*small, "-fstack-usage"], folder)
        except InputError:  # a compiler without that option
            ran(small, folder)
        with suppress(ValueError, LookupError):  # `size` fails, or writes something else
            return _sizes(source, command, folder)
    return UNMEASURED


def _sizes(source: str, command: list[str], folder: Path) -> str:
    text = int(ran(["size", "one.o"], folder).splitlines()[1].split()[0])
    usage = folder / "one.su"
    lines = usage.read_text().splitlines() if usage.is_file() else []
    widths = {kind: np.dtype(dtype).itemsize for dtype, kind in TYPES.items()}
    found = re.findall(r"^static const (\w+) \w+\[(\d+)\]", source, re.M)
    tables = sum(int(size) * widths[kind] for kind, size in found)
    machine = ran([*command, "-dumpmachine"], Path.cwd()).strip()
    how = re.sub(r"[^\w .,+-]", "?", f"{Path(command[0]).name} -Os, {machine}", flags=re.ASCII)
    # The step's, that of the largest of its exits, and of the largest function that an exit calls.
    deepest: dict[str, int] = {}
    for line in lines:
        place, size, *_ = line.split("\t")
        called = place.rsplit(":", 1)[1]
        kind = "step" if called == "step" else "exit" if re.search(r"_at\d+", called) else "rest"
        deepest[kind] = max(deepest.get(kind, 0), int(size))
    stack = f", stack of a step {sum(deepest.values())}" if lines else ""
    return f"code {max(text - tables, 0)} ({how}){stack}"


def run_c(folder: str | os.PathLike[str], golden: Golden, policy: Any = None) -> Any:
    """Return what the one header in a folder, of a routing policy's if it is that, says of golden vectors."""
    routes = isinstance(golden.expected, Walk)
    command = compiler()
    headers = sorted(Path(folder).glob("*.h"))
    if len(headers) != 1:
        got = f"{len(headers)} in {folder}"
        raise input_error("folder", "with one C header", got, "Export again.")
    source = headers[0].read_text(encoding="utf-8")
    name, _, names = _read(source, str(headers[0]))
    inputs, names, n = golden.inputs, names[2:-1], len(golden)
    exits = len(inputs)
    if routes:
        inputs, exits = [of_models(policy, golden)], golden.expected.model.shape[1]
        names = list(inputs[0])
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_file(place / headers[0].name, source)
        abstains = "    int abstained;" in source
        made = (headers[0].name, name, names, golden, abstains)
        text = program(*made) if not routes else routes_program(*made[:2], inputs[0], exits, policy)
        write_file(place / "run.c", text)
        with refusing(place / "in.bin"), (place / "in.bin").open("wb") as file:
            for row, sample in enumerate(golden.sample.astype(np.int64)):
                file.write(sample.tobytes())
                for given in inputs:
                    file.writelines(given[what][row].tobytes() for what in names if what in given)
        ran([*command, *STRICT, "-O2", "run.c", "-o", "run", "-lm"], place)
        ran([str(place / "run")], place)
        said = np.fromfile(place / "out.bin", dtype=SAID)
    if len(said) != n * exits:
        got = f"{len(said)} decisions"
        raise input_error("header", f"for {exits} exits and {n} samples", got, "")
    said = said.reshape(n, exits)
    if routes:
        columns = (said[name] for name in ("leave", "prediction", "score"))
        return Walk(*map(np.ascontiguousarray, columns))
    if (said["leave"] < 0).any():
        got = "row {} refused at exit {}".format(*np.argwhere(said["leave"] < 0)[0])
        raise input_error("golden inputs", "fit for the policy", got, "")
    leave, abstained = said["leave"] == 1, said["abstained"] == 1
    return Ran(said["score"], said["confidence"], said["prediction"], leave, abstained)


def program(
    header: str, name: str, names: Sequence[str], golden: Golden, abstains: bool = False
) -> str:
    """Return a C program that takes samples (number, `names` of each exit) through all exits: in.bin to out.bin."""
    exits: list[str] = []
    for at, given in enumerate(golden.inputs):
        args = [f"{'*' * (given[n].ndim == 1)}{n}{at}" if n in given else "0" for n in names]
        for what in (what for what in names if what in given):
            wide = given[what].ndim > 1
            kind = "float" if wide else "int32_t" if what == "prediction" else "double"
            exits.append(f"        TAKE({kind}, {what}{at}, {given[what].shape[1] if wide else 1})")
        exits += [
            f"        leave = {name}_step(&state, {name}_path({at}), {', '.join(args)}, &decision);",
            "        put(out, &decision, leave);",
        ]
    level = dict.fromkeys(("level", "level_of", "level_read"), "")
    if golden.sample.ndim > 1:
        read = "        if (fread(&level, sizeof level, 1, in) != 1) return 3;\n"
        level = {"level": ", (int)level", "level_of": ", level", "level_read": read}
    said = "decision->abstained" if abstains else "none"
    return _PROGRAM.format(
        header=header, name=name, exits="\n".join(exits), abstained=said, **level,
        score="score", confidence="confidence",
    )  # fmt: skip


def routes_program(header: str, name: str, given: dict[str, Array], steps: int, policy: Any) -> str:
    """Return the same of a routing policy: all models' outputs are there, and those asked for are shown."""
    kinds = {n: TYPES[a.dtype.name] for n, a in given.items()}
    sizes = {n: a[0].size for n, a in given.items()}
    taken = [f"        TAKE({kinds[n]}, {n}, {size})" for n, size in sizes.items()]
    asked = [n for n in given if n != "query" and (n != "costs" or policy.needs_costs)]
    asked.sort(key=["prediction", "confidence", policy.kind, "costs"].index)
    at = {
        n: f"{n}[asked]" if given[n].ndim < 3 else f"{n} + asked * {given[n].shape[2]}"
        for n in asked
    }
    lines = [
        f"        for (int i = 0; i < {steps}; ++i) {{",
        "            const int32_t asked = leave;",
        "            decision.prediction = -1; decision.gain = 0.0;",
        f"            if (leave >= 0) leave = {name}_step(&state, {', '.join(at.values())}, &decision);",
        "            put(out, &decision, asked);", "        }",
    ]  # fmt: skip
    return _PROGRAM.format(
        header=header, name=name, exits="\n".join(lines), abstained="none", score="gain",
        confidence="gain", level=", query" * ("query" in given), level_of="",
        level_read="\n".join([*taken, "        leave =\n"]),
    )  # fmt: skip


#: What the program says at each exit.
_FIELDS = ["score", "confidence", "prediction", "leave", "abstained"]
SAID = np.dtype({"names": _FIELDS, "formats": ["f8", "f8", "i4", "i4", "i4"]})
_PROGRAM = """\
#include <stdio.h>
#include "{header}"
#define TAKE(kind, name, size) \\
    static kind name[size]; \\
    if (fread(name, sizeof name, 1, in) != 1) return 3;
static void put(FILE *out, const {name}_decision *decision, int leave) {{
    const int32_t said = leave, none = 0;
    (void)none;
    fwrite(&decision->{score}, 8, 1, out);
    fwrite(&decision->{confidence}, 8, 1, out);
    fwrite(&decision->prediction, 4, 1, out);
    fwrite(&said, 4, 1, out);
    fwrite(&{abstained}, 4, 1, out);
}}
int main(void) {{
    static {name}_state state;
    static {name}_decision decision;
    int64_t sample{level_of};
    int32_t leave;
    FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
    if (in == NULL || out == NULL) return 2;
    while (fread(&sample, sizeof sample, 1, in) == 1) {{
{level_read}        {name}_start(&state, sample{level});
{exits}
    }}
    fclose(in);
    return fclose(out) ? 4 : 0;
}}
"""
