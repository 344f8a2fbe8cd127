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

import numpy as np

from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import refusing, write_file

from .golden import Golden, Ran

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Wpedantic", "-Wconversion", "-Wshadow",
          "-Wdouble-promotion")  # fmt: skip
_SECONDS = 120
_COLUMNS = ("prediction", "confidence", "second", "entropy")


class NoCompiler(InputError):
    """There is no C compiler here: this runtime cannot be tried."""


@dataclass(frozen=True)
class Sizes:
    """What a header takes, in bytes: its code, and the deepest stack of a step where it is known."""

    code: int
    stack: int | None
    how: str


def compiler() -> list[str]:
    """Return the command of a C compiler: of ``CC``, else cc, gcc or clang.

    Raises
    ------
    NoCompiler
        There is none.
    """
    for command in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise NoCompiler(
        "'cc' must be a C compiler. Got none of CC, cc, gcc, clang. Install one to run C exports."
    )


def _ran(command: list[str], folder: Path) -> str:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode:
        raise input_error(
            "header", "one that compiles and runs", done.stderr.strip()[:2000], "Export again."
        )
    return done.stdout


def check_compiles(source: str) -> None:
    """Refuse a header that does not compile; where there is no compiler, none is refused."""
    try:
        command = compiler()
    except NoCompiler:
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "p.h").write_text(source, encoding="utf-8")
        (folder / "p.c").write_text('#include "p.h"\n')
        _ran([*command, "-std=c99", "-c", "p.c", "-o", "p.o"], folder)


def measured(source: str, name: str) -> Sizes | None:
    """Return what a header takes when it is compiled small; None where there is no compiler.

    Parameters
    ----------
    source : str
    name : str
        Its prefix.
    """
    try:
        command = compiler()
    except NoCompiler:
        return None
    call = re.search(rf"static inline int {name}_step\((.*)\) {{", source)
    assert call is not None  # `c_source` wrote it
    given = ", ".join(re.findall(r"(\w+)(?:,|$)", call[1]))
    wrapper = f'#include "{name}.h"\nint step({call[1]});\nint step({call[1]}) {{ return {name}_step({given}); }}\n'
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_file(folder / f"{name}.h", source)
        write_file(folder / "one.c", wrapper)
        small = [*command, "-std=c99", "-Os", "-c", "one.c", "-o", "one.o"]
        try:
            _ran([*small, "-fstack-usage"], folder)
        except InputError:  # a compiler without that option
            _ran(small, folder)
        if shutil.which("size") is None:
            return None
        text = int(_ran(["size", "one.o"], folder).splitlines()[1].split()[0])
        used = folder / "one.su"
        stack = None
        if used.is_file():
            frames = {
                line.split("\t")[0].rsplit(":", 1)[1]: int(line.split("\t")[1])
                for line in used.read_text().splitlines()
            }
            stack = _deepest(frames)
    tables = sum(
        int(size) * _WIDTH[kind]
        for kind, size in re.findall(r"^static const (\w+(?: \w+)?) \w+\[(\d+)\]", source, re.M)
    )
    machine = _ran([*command, "-dumpmachine"], Path.cwd()).strip()
    how = re.sub(r"[^\w .,+-]", "?", f"{Path(command[0]).name} -Os, {machine}", flags=re.ASCII)
    return Sizes(max(text - tables, 0), stack, how)


_WIDTH = {"double": 8, "float": 4, "int32_t": 4, "int64_t": 8, "unsigned char": 1}


def _deepest(frames: dict[str, int]) -> int:
    """Return the sum of the step, the largest of its exits, and the largest function that an exit calls."""
    exits = [size for name, size in frames.items() if re.search(r"_at\d+", name)]
    step = sum(size for name, size in frames.items() if name == "step")
    rest = [s for n, s in frames.items() if n != "step" and not re.search(r"_at\d+", n)]
    return step + max(exits, default=0) + max(rest, default=0)


def run_c(folder: str | os.PathLike[str], golden: Golden) -> Ran:
    """Run an exported header on golden vectors.

    Parameters
    ----------
    folder : path-like
        Holds one header that `c_source` wrote.
    golden : Golden

    Returns
    -------
    Ran

    Raises
    ------
    NoCompiler
        There is no C compiler here.
    InputError
        No header or several, one that does not compile without a warning, or refused inputs.
    """
    command = compiler()
    headers = sorted(Path(folder).glob("*.h"))
    if len(headers) != 1:
        raise input_error(
            "folder", "with one C header", f"{len(headers)} in {folder}", "Export again."
        )
    source = headers[0].read_text(encoding="utf-8")
    found = re.match(r"/\* ([a-z][a-z0-9_]*): early-exit policy", source)
    if found is None:
        raise input_error("header", "one that policyopt wrote", str(headers[0]), "Export again.")
    names = _given(source, found[1])
    n, exits = len(golden), len(golden.inputs)
    fields = [
        (f"{name}{at}", _typed(given[name]), given[name].shape[1:])
        for at, given in enumerate(golden.inputs)
        for name in names
        if name in given
    ]
    out = np.dtype(
        [("score", "<f8"), ("confidence", "<f8"), ("prediction", "<i4"), ("leave", "<i4")]
    )
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_file(place / headers[0].name, source)
        write_file(place / "run.c", harness(headers[0].name, found[1], names, golden))
        with refusing(place / "in.bin"), (place / "in.bin").open("wb") as file:
            for row in range(n):  # one at a time: side by side they are the golden vectors again
                record = np.zeros(1, dtype=[("sample", "<i8"), *fields])
                record["sample"] = golden.sample[row]
                for at, given in enumerate(golden.inputs):
                    for name in names:
                        if name in given:
                            record[f"{name}{at}"] = given[name][row]
                file.write(record.tobytes())
        _ran([*command, *STRICT, "-O2", "run.c", "-o", "run", "-lm"], place)
        _ran([str(place / "run")], place)
        ran = np.fromfile(place / "out.bin", dtype=out)
    if len(ran) != n * exits:
        raise input_error(
            "header", f"for {exits} exits and {n} samples", f"{len(ran)} decisions", ""
        )
    ran = ran.reshape(n, exits)
    if (ran["leave"] < 0).any():
        row, at = np.argwhere(ran["leave"] < 0)[0]
        raise input_error(
            "golden inputs", "fit for the policy", f"row {row} refused at exit {at}", ""
        )
    return Ran(
        ran["score"].copy(), ran["confidence"].copy(), ran["prediction"].copy(), ran["leave"] == 1
    )


def _given(source: str, name: str) -> list[str]:
    call = re.search(rf"static inline int {name}_step\((.*)\) {{", source)
    if call is None:
        raise input_error("header", f"with a function {name}_step", "none", "Export again.")
    return re.findall(r"(\w+)(?:,|$)", call[1])[2:-1]


def _typed(values: np.ndarray) -> str:
    return {"f": f"<f{4 if values.ndim > 1 else 8}", "i": "<i4"}[values.dtype.kind]


def harness(header: str, name: str, names: list[str], golden: Golden) -> str:
    """Return a C program that takes every sample through all exits: ``in.bin`` to ``out.bin``.

    Parameters
    ----------
    header : str
        File name.
    name : str
        Its prefix.
    names : list of str
        What a step takes.
    golden : Golden
        For the widths of the inputs.
    """
    reads, calls = [], []
    for at, given in enumerate(golden.inputs):
        args = []
        for what in names:
            if what not in given:
                args.append("0")
                continue
            wide = given[what].ndim > 1
            kind = "float" if wide else "int32_t" if what == "prediction" else "double"
            size = f"[{given[what].shape[1]}]" if wide else ""
            reads.append(f"    static {kind} {what}{at}{size};")
            calls.append(
                f"        if (fread({'' if wide else '&'}{what}{at}, sizeof {what}{at}, 1, in) != 1)"
                " return 3;"
            )
            args.append(f"{what}{at}")
        calls += [
            f"        leave = {name}_step(&state, {name}_path({at}), {', '.join(args)}, &decision);",
            "        put(out, &decision, leave);",
        ]
    lines, steps = "\n".join(reads), "\n".join(calls)
    return f"""\
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
{lines}
    int64_t sample;
    int32_t leave;
    FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
    if (in == NULL || out == NULL) return 2;
    while (fread(&sample, sizeof sample, 1, in) == 1) {{
        {name}_start(&state, sample);
{steps}
    }}
    fclose(in);
    return fclose(out) ? 4 : 0;
}}
"""
