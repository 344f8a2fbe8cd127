"""A C compiler on this machine: headers measured, and run on golden vectors."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._files import refusing, write_file

from .c_functions import TYPES
from .golden import Golden, Ran

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wconversion", "-Wshadow",
          "-Wdouble-promotion")  # fmt: skip
_SECONDS = 300


class NoCompiler(InputError):
    """There is no C compiler here: this runtime cannot be tried."""


@dataclass(frozen=True)
class Sizes:
    """What a header takes, in bytes: its code, and the deepest stack of a step where it is known."""

    code: int
    stack: int | None
    how: str


def compiler() -> list[str]:
    """Return the command of a C compiler: of ``CC``, else cc, gcc or clang; raise `NoCompiler` where none is."""
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise NoCompiler(
        "'cc' must be a C compiler. Got none of CC, cc, gcc, clang. Install one to run C exports."
    )


def ran(command: list[str], folder: Path) -> str:
    """Return what a command says; refuse what it was given where it fails."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        said = done.stderr.strip()[:2000]
        raise input_error("header", "one that compiles and runs", said, "Export again.")
    return done.stdout


def measured(source: str, name: str) -> Sizes | None:
    """Return what a header of some prefix takes when it is compiled small; None where there is no compiler."""
    try:
        command = compiler()
    except NoCompiler:
        return None
    given = _parameters(source, name)
    names = ", ".join(re.findall(r"(\w+)(?:,|$)", given))
    wrapper = f'#include "{name}.h"\nint step({given});\nint step({given}) {{ return {name}_step({names}); }}\n'
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_file(folder / f"{name}.h", source)
        write_file(folder / "one.c", wrapper)
        small = [*command, "-std=c99", "-Os", "-c", "one.c", "-o", "one.o"]
        try:
            ran([*small, "-fstack-usage"], folder)
        except InputError:  # a compiler without that option
            ran(small, folder)
        if shutil.which("size") is None:
            return None
        text = int(ran(["size", "one.o"], folder).splitlines()[1].split()[0])
        stack = _deepest(folder / "one.su")
    widths = {kind: np.dtype(dtype).itemsize for dtype, kind in TYPES.items()}
    tables = sum(
        int(size) * widths[kind]
        for kind, size in re.findall(r"^static const (\w+(?: \w+)?) \w+\[(\d+)\]", source, re.M)
    )
    machine = ran([*command, "-dumpmachine"], Path.cwd()).strip()
    how = re.sub(r"[^\w .,+-]", "?", f"{Path(command[0]).name} -Os, {machine}", flags=re.ASCII)
    return Sizes(max(text - tables, 0), stack, how)


def _deepest(usage: Path) -> int | None:
    """Return the sum of the step, the largest of its exits, and the largest function that an exit calls."""
    if not usage.is_file():
        return None
    deepest = {"step": 0, "exit": 0, "rest": 0}
    for line in usage.read_text().splitlines():
        place, size, *_ = line.split("\t")
        name = place.rsplit(":", 1)[1]
        kind = "step" if name == "step" else "exit" if re.search(r"_at\d+", name) else "rest"
        deepest[kind] = max(deepest[kind], int(size))
    return sum(deepest.values())


def _parameters(source: str, name: str) -> str:
    call = re.search(rf"static inline int {name}_step\((.*)\) {{", source)
    if call is None:
        raise input_error("header", f"with a function {name}_step", "none", "Export again.")
    return call[1]


def run_c(folder: str | os.PathLike[str], golden: Golden) -> Ran:
    """Return what the one header in a folder, written by `c_source`, says of golden vectors."""
    command = compiler()
    headers = sorted(Path(folder).glob("*.h"))
    if len(headers) != 1:
        got = f"{len(headers)} in {folder}"
        raise input_error("folder", "with one C header", got, "Export again.")
    source = headers[0].read_text(encoding="utf-8")
    found = re.match(r"/\* ([a-z][a-z0-9_]*): early-exit policy", source)
    if found is None:
        raise input_error("header", "one that policyopt wrote", str(headers[0]), "Export again.")
    names = re.findall(r"(\w+)(?:,|$)", _parameters(source, found[1]))[2:-1]
    n, exits = len(golden), len(golden.inputs)
    arrays: dict[str, Any] = {"sample": golden.sample.astype("<i8")} | {
        f"{name}{at}": given[name]
        for at, given in enumerate(golden.inputs)
        for name in names
        if name in given
    }
    row = np.dtype([(name, a.dtype.newbyteorder("<"), a.shape[1:]) for name, a in arrays.items()])
    out = np.dtype(
        [("score", "<f8"), ("confidence", "<f8"), ("prediction", "<i4"), ("leave", "<i4")]
    )
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_file(place / headers[0].name, source)
        write_file(place / "run.c", _harness(headers[0].name, found[1], names, golden))
        with refusing(place / "in.bin"), (place / "in.bin").open("wb") as file:
            for at in range(n):  # one at a time: side by side they are the golden vectors again
                record = np.zeros(1, dtype=row)
                for name, array in arrays.items():
                    record[name] = array[at]
                file.write(record.tobytes())
        ran([*command, *STRICT, "-O2", "run.c", "-o", "run", "-lm"], place)
        ran([str(place / "run")], place)
        said = np.fromfile(place / "out.bin", dtype=out)
    if len(said) != n * exits:
        got = f"{len(said)} decisions"
        raise input_error("header", f"for {exits} exits and {n} samples", got, "")
    said = said.reshape(n, exits)
    if (said["leave"] < 0).any():
        got = "row {} refused at exit {}".format(*np.argwhere(said["leave"] < 0)[0])
        raise input_error("golden inputs", "fit for the policy", got, "")
    score, confidence, prediction = (
        said[name].copy() for name in ("score", "confidence", "prediction")
    )
    return Ran(score, confidence, prediction, said["leave"] == 1)


def _harness(header: str, name: str, names: list[str], golden: Golden) -> str:
    """Return a C program that takes every sample through all exits: ``in.bin`` to ``out.bin``."""
    reads, calls = [], []
    for at, given in enumerate(golden.inputs):
        args = [f"{what}{at}" if what in given else "0" for what in names]
        for what in (what for what in names if what in given):
            wide = given[what].ndim > 1
            kind = "float" if wide else "int32_t" if what == "prediction" else "double"
            size, address = (f"[{given[what].shape[1]}]", "") if wide else ("", "&")
            reads.append(f"    static {kind} {what}{at}{size};")
            read = f"fread({address}{what}{at}, sizeof {what}{at}, 1, in)"
            calls.append(f"        if ({read} != 1) return 3;")
        calls += [
            f"        leave = {name}_step(&state, {name}_path({at}), {', '.join(args)}, &decision);",
            "        put(out, &decision, leave);",
        ]
    return _HARNESS.format(
        header=header, name=name, reads="\n".join(reads), calls="\n".join(calls)
    )  # fmt: skip


_HARNESS = """\
#include <stdio.h>
#include "{header}"
static void put(FILE *out, const {name}_decision *decision, int leave) {{
    const int32_t said = leave;
    fwrite(&decision->score, 8, 1, out);
    fwrite(&decision->confidence, 8, 1, out);
    fwrite(&decision->prediction, 4, 1, out);
    fwrite(&said, 4, 1, out);
}}
int main(void) {{
    static {name}_state state;
    static {name}_decision decision;
{reads}
    int64_t sample;
    int32_t leave;
    FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
    if (in == NULL || out == NULL) return 2;
    while (fread(&sample, sizeof sample, 1, in) == 1) {{
        {name}_start(&state, sample);
{calls}
    }}
    fclose(in);
    return fclose(out) ? 4 : 0;
}}
"""
