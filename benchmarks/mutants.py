"""Break the package in many small ways and count which of them the tests notice.

    pip install coverage
    python benchmarks/mutants.py run --work /tmp/mutants --count 300 --seed 0
    python benchmarks/mutants.py report --work /tmp/mutants --out benchmarks/results/mutants.md

`run` copies the tree into the work folder and goes on where it stopped:

1. *map*: every test once, under coverage, to learn which tests run which line. What a shared fixture
   or a cached helper runs counts for all tests that use it, what subprocesses run for their test.
2. *draw*: syntax-tree mutants. Each room (package or module below `policyopt`) gets a share by its
   statements; in it statements are drawn uniformly, then an operator, then a place in the statement.
   Never in docstrings, messages, annotations, imports or `__repr__`.
3. *kill*: for each mutant the tests that run its lines, the short ones first, until one fails; at
   most `--cap` seconds of them by the times of the map. A mutant in a line that runs on import is
   tried by the tests of its file, then by those of the files that import it.
4. *check*: tests that killed must pass without a mutant; where one does not, its kills are undone.

A tree's mutants do what nobody meant: run this as a user who may write to the work folder only. Two
trees compare by the same seed, count and cap (`report --against`).
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import ctypes
import fcntl
import functools
import importlib
import json
import math
import os
import py_compile
import random
import resource
import shutil
import signal
import site
import sys
import time
import traceback
import venv
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

PACKAGE = "policyopt"
_LEFT_OUT = (
    ".git", "__pycache__", ".venv*", ".hypothesis", ".pytest_cache", ".ruff_cache", ".import_linter_cache",
    "build", "dist",
)  # fmt: skip
#: Loaded once; each run of tests is a fork that has them already, and loads the package anew.
_PRELOAD = (
    "numpy", "scipy.optimize", "scipy.stats", "scipy.special", "pandas", "pyarrow", "sklearn.linear_model",
    "sklearn.isotonic", "sklearn.neighbors", "torch", "matplotlib", "optuna", "jsonschema", "typer",
    "rich.console", "safetensors.numpy", "onnx", "onnxruntime", "gymnasium", "coverage", "pytest",
)  # fmt: skip
_MEMORY = 8 << 30  # bytes that a run of tests may fill, and a file of theirs
_OWN_FAULT = 70  # the code of a fork that failed by a fault in this script
_IDLE = 60.0  # seconds without news, and ten times what the test took in the map, before it hangs
_ROUNDS = ((5.0, 8), (30.0, 40))  # seconds of tests, and files that hold them; then the rest


# Mutants


@dataclass(frozen=True)
class Mutant:
    """One small fault: bytes `start` to `end` of a file become `text`."""

    room: str
    file: str
    line: int
    last: int
    operator: str
    start: int
    end: int
    before: str
    text: str
    on_import: bool

    @property
    def key(self) -> str:
        return f"{self.file}:{self.start}:{self.end}:{self.text}"


_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift,
}  # fmt: skip
_PAIRS = (
    ("min", "max"), ("minimum", "maximum"), ("argmin", "argmax"), ("nanmin", "nanmax"), ("any", "all"),
    ("floor", "ceil"),
)  # fmt: skip
_OTHER = dict(_PAIRS) | {b: a for a, b in _PAIRS}
_MESSAGES = {"bad", "input_error", "warn", "print", "echo", "note", "say"}
_UNTOUCHED = {"__repr__", "__str__", "__dir__"}
_NEVER_RUN = {"TYPE_CHECKING", "__name__ == '__main__'"}
_AXES = {"0": ["1"], "1": ["0"], "-1": ["0"], "2": ["1"], "-2": ["-1"]}
_NESTED = {"body", "orelse", "finalbody", "handlers", "cases", "annotation", "returns", "decorator_list",
           "type_params"}  # fmt: skip
#: An operator, the node whose text goes, texts to put in its place.
_Site = tuple[str, ast.AST, list[str]]


def room_of(file: str) -> str:
    """Return the package or module below the top one.

    >>> room_of("policyopt/cache/reader.py"), room_of("policyopt/costs.py")
    ('cache', 'costs.py')
    """
    return file.split("/")[1]


def _expressions(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a statement's own expressions, depth first; no messages, annotations or statements."""
    for name, value in ast.iter_fields(node):
        if name in _NESTED and isinstance(node, (ast.stmt, ast.arg)):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, (ast.stmt, ast.JoinedStr)):
                continue
            if isinstance(child, ast.Call) and _is_message(child.func):
                continue
            yield child
            yield from _expressions(child)


def _is_message(function: ast.expr) -> bool:
    name = getattr(function, "attr", getattr(function, "id", ""))
    return name in _MESSAGES or name.endswith(("Error", "Warning"))


def _changed(node: ast.AST, change: Callable[[Any], None]) -> str:
    """Return the text of a changed copy, in brackets where it is an expression."""
    new = copy.deepcopy(node)
    change(new)
    text = ast.unparse(ast.fix_missing_locations(new))
    return f"({text})" if isinstance(node, ast.expr) else text


def _sites(statement: ast.stmt, function: ast.AST | None, on_import: bool) -> list[_Site]:
    """Return what can be mutated in a statement, but not in the statements inside it."""
    if isinstance(statement, (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, ast.Nonlocal)):
        return []
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return []  # a docstring, or an ellipsis
    if isinstance(statement, ast.Raise):
        return [("drop", statement, ["pass"])]
    if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]).startswith("__"):
        return []
    found: list[_Site] = list(_whole(statement, function))
    axes: set[int] = set()
    for node in _expressions(statement):
        if id(node) not in axes:
            found += _inside(node, on_import, axes)
    return found


def _whole(statement: ast.stmt, function: ast.AST | None) -> Iterator[_Site]:
    """Yield faults of a statement as a whole: dropped, returning something else, negated."""
    if isinstance(statement, (ast.Expr, ast.AugAssign, ast.Delete, ast.Continue, ast.Break)):
        yield "drop", statement, ["pass"]
    elif isinstance(statement, ast.Assign) and not isinstance(
        statement.targets[0], (ast.Name, ast.Tuple)
    ):
        yield "drop", statement, ["pass"]  # of a plain name, it would only be missing
    elif isinstance(statement, ast.Return) and ast.unparse(statement) not in (
        "return",
        "return None",
    ):
        arguments = getattr(function, "args", None)
        names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]] if arguments else []
        names = names[1:] if names[:1] in (["self"], ["cls"]) else names
        texts = ["return None", *(f"return {name}" for name in names[:1])]
        yield "return", statement, [text for text in texts if text != ast.unparse(statement)]
    if isinstance(statement, ast.AugAssign) and type(statement.op) in _ARITHMETIC:
        other = _ARITHMETIC[type(statement.op)]
        text = _changed(statement, lambda new: setattr(new, "op", other()))
        yield "arithmetic", statement, [text]
    if isinstance(statement, (ast.If, ast.While, ast.Assert)):
        yield "condition", statement.test, [f"(not ({ast.unparse(statement.test)}))"]


def _inside(node: ast.AST, on_import: bool, axes: set[int]) -> Iterator[_Site]:
    """Yield faults of one node of an expression; the ids of axes go into `axes`."""
    if isinstance(node, ast.Compare):
        texts = [
            _changed(node, lambda new, i=i, other=other: new.ops.__setitem__(i, other()))
            for i, operator in enumerate(node.ops)
            for other in _COMPARISONS[type(operator)]
        ]
        yield "comparison", node, texts
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        if not (on_import and isinstance(node.op, ast.BitOr)):  # where types are joined
            other = _ARITHMETIC[type(node.op)]
            yield "arithmetic", node, [_changed(node, lambda new: setattr(new, "op", other()))]
    elif isinstance(node, ast.BoolOp):
        swapped = ast.Or if isinstance(node.op, ast.And) else ast.And
        yield "boolean", node, [_changed(node, lambda new: setattr(new, "op", swapped()))]
    elif isinstance(node, ast.IfExp):
        yield "condition", node.test, [f"(not ({ast.unparse(node.test)}))"]
    elif isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield "condition", test, [f"(not ({ast.unparse(test)}))"]
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "condition", node, [f"(bool({ast.unparse(node.operand)}))"]
    elif isinstance(node, ast.keyword) and node.arg == "axis":
        axes |= {id(inner) for inner in ast.walk(node.value)}
        text = ast.unparse(node.value)
        yield "axis", node.value, _AXES.get(text, ["None"])
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _OTHER:
        yield "minmax", node, [_OTHER[node.id]]
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in _OTHER:
        yield "minmax", node, [_changed(node, lambda new: setattr(new, "attr", _OTHER[new.attr]))]
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield "constant", node, [str(not node.value)]
        elif isinstance(node.value, int):
            yield "constant", node, [f"({node.value + 1})", f"({node.value - 1})"]
        elif isinstance(node.value, float):
            yield "constant", node, [f"({2.0 * node.value!r})" if node.value else "1.0"]


def _statements(
    node: ast.AST, function: ast.AST | None = None
) -> Iterator[tuple[ast.stmt, ast.AST | None]]:
    """Yield the statements of a tree that may be mutated, each with the function it is in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in _NEVER_RUN:
            continue
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if child.name in _UNTOUCHED:
                continue
            yield child, function
            yield from _statements(child, child)
            continue
        if isinstance(child, ast.stmt):
            yield child, function
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield from _statements(child, function)


def _own_lines(statement: ast.stmt) -> tuple[int, int]:
    """Return the first and last line of a statement without the statements inside it.

    Of a function all lines: its defaults are made on import, and seen when it runs.
    """
    last = statement.end_lineno or statement.lineno
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return statement.body[0].lineno, last
    inner = [
        child.lineno
        for child in ast.walk(statement)
        if isinstance(child, ast.stmt) and child is not statement
    ]
    return statement.lineno, max(statement.lineno, min(inner) - 1) if inner else last


class _Text:
    """A file's bytes, and where its nodes stand in them."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.starts = [0]
        for line in self.data.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: Any) -> tuple[int, int]:
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )


def _mutated(data: bytes, mutant: Mutant) -> bytes:
    return data[: mutant.start] + mutant.text.encode() + data[mutant.end :]


def draw(tree: Path, count: int, seed: int) -> list[Mutant]:
    """Draw mutants of the package in a tree: rooms by their statements, then statements uniformly."""
    rooms: dict[str, list[tuple[str, ast.stmt, ast.AST | None, list[_Site]]]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    texts: dict[str, _Text] = {}
    for path in sorted((tree / PACKAGE).rglob("*.py")):
        file = path.relative_to(tree).as_posix()
        texts[file] = _Text(path)
        parsed = ast.parse(texts[file].data)
        sizes[room_of(file)] += sum(isinstance(node, ast.stmt) for node in ast.walk(parsed))
        for statement, function in _statements(parsed):
            if sites := _sites(statement, function, function is None):
                rooms[room_of(file)].append((file, statement, function, sites))
    drawn: list[Mutant] = []
    for room, number in _shares(sizes, count).items():
        rng = random.Random(f"{seed} {room}")
        taken: set[str] = set()
        for _ in range(100 * number):
            if len(taken) == number or not rooms[room]:
                break
            file, statement, function, sites = rng.choice(rooms[room])
            operator = rng.choice(sorted({site[0] for site in sites}))
            _, node, options = rng.choice([site for site in sites if site[0] == operator])
            start, end = texts[file].span(node)
            before = texts[file].data[start:end].decode()
            mutant = Mutant(
                room, file, *_own_lines(statement), operator, start, end, before, rng.choice(options),
                function is None or isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)),
            )  # fmt: skip
            if mutant.key not in taken and _differs(texts[file].data, mutant):
                taken.add(mutant.key)
                drawn.append(mutant)
    random.Random(seed).shuffle(drawn)  # so that a part of them is a fair part
    return drawn


def _differs(data: bytes, mutant: Mutant) -> bool:
    """Whether a mutant is Python, and another program than the original."""
    try:
        new = ast.parse(_mutated(data, mutant))
        compile(new, mutant.file, "exec")
    except SyntaxError:
        return False
    return ast.dump(new) != ast.dump(ast.parse(data))


def _shares(sizes: Counter[str], count: int) -> dict[str, int]:
    """Divide a count by size, the largest remainders first.

    >>> _shares(Counter(a=50, b=30, c=21), 10)
    {'a': 5, 'b': 3, 'c': 2}
    """
    total = sum(sizes.values())
    exact = {room: count * size / total for room, size in sorted(sizes.items())}
    shares = {room: int(value) for room, value in exact.items()}
    for room in sorted(exact, key=lambda r: shares[r] - exact[r])[: count - sum(shares.values())]:
        shares[room] += 1
    return shares


# The work folder, and tests run in forks


class Work:
    """The folder of a run: a copy of the tree, an environment that imports it, and what was found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.tree, self.clean = self.folder / "tree", self.folder / "clean"
        self.map = self.folder / "map"
        self.python = self.folder / "venv" / "bin" / "python"
        self.running = 0  # the fork

    def prepare(self, source: Path) -> None:
        """Copy the tree and make the environment, where they are not there yet."""
        self.map.mkdir(parents=True, exist_ok=True)
        skip = shutil.ignore_patterns(*_LEFT_OUT)
        for start, place in ((source, self.clean), (self.clean, self.tree)):
            if not place.exists():
                half = self.folder / "half"
                shutil.rmtree(half, ignore_errors=True)
                shutil.copytree(start, half, ignore=skip)
                half.rename(place)
        # By hash, not by time: a mutant is of the same second and often of the same length.
        hashed = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self.tree / PACKAGE, quiet=1, invalidation_mode=hashed)
        shared, link = source.resolve().parent / "shared", self.folder / "shared"
        if shared.exists() and not link.exists():  # data beside the checkout
            link.symlink_to(shared.resolve())
        if not self.python.exists():
            self._environment()

    def _environment(self) -> None:
        """Make an environment that finds the copy first, then the packages of the present one."""
        import coverage

        venv.create(self.folder / "venv", symlinks=True)
        packages = next((self.folder / "venv" / "lib").glob("python*/site-packages"))
        more = [*site.getsitepackages(), str(Path(str(coverage.__file__)).parent.parent)]
        start = "import os; os.environ.get('COVERAGE_PROCESS_START') and __import__('coverage').process_startup()"
        (packages / "tree.pth").write_text(
            "\n".join([str(self.tree), *dict.fromkeys(more), start, ""])
        )
        for script in (Path(sys.prefix) / "bin").iterdir():
            place = self.python.parent / script.name
            if place.exists() or not script.is_file():
                continue
            with script.open("rb") as file:
                first = file.readline()
            if first.startswith(b"#!") and b"python" in first:
                rest = script.read_bytes().removeprefix(first)
                place.write_bytes(f"#!{self.python}\n".encode() + rest)
                place.chmod(0o755)
            else:
                place.symlink_to(script)

    def mend(self) -> None:
        """Take back a mutant, and what the tests of one may have left in the copy."""
        keep = {path.relative_to(self.clean) for path in self.clean.rglob("*")}
        for path in sorted(keep):
            here, there = self.clean / path, self.tree / path
            if here.is_dir():
                there.mkdir(exist_ok=True)
            elif not there.exists() or _stamp(here) != _stamp(there):
                shutil.copy2(here, there)
        for path in self.tree.rglob("*"):
            known = path.relative_to(self.tree) in keep or "__pycache__" in path.parts
            if not known and path.is_file():
                path.unlink()

    @contextmanager
    def broken(self, mutant: Mutant) -> Iterator[None]:
        """Have a mutant in the copy for a while."""
        path = self.tree / mutant.file
        path.write_bytes(_mutated(path.read_bytes(), mutant))
        try:
            yield
        finally:
            self.mend()

    def fork(self, name: str, plugin: Any, arguments: list[str], limit: Callable[[], bool]) -> int:
        """Run pytest in a fork, in the copy; return its code, or minus the signal that ended it."""
        pid = os.fork()
        if pid == 0:
            code = _OWN_FAULT
            try:
                os.setsid()
                _end_with_parent()
                with (self.folder / f"{name}.log").open("wb") as log:
                    os.dup2(log.fileno(), 1)
                    os.dup2(log.fileno(), 2)
                os.chdir(self.tree)
                for what in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
                    resource.setrlimit(what, (_MEMORY, _MEMORY))
                place = self.folder / "temporary"
                shutil.rmtree(place, ignore_errors=True)
                code = plugin.main([*arguments, "-p", "no:xdist", f"--basetemp={place}"])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        self.running, stopped = pid, False
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                break
            if not stopped and limit():
                stopped = True
                _end_group(pid)
            time.sleep(0.05)
        _end_group(pid)
        return os.waitstatus_to_exitcode(status)


def _stamp(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _end_with_parent() -> None:
    """Have this process ended when the one that forked it ends, however it ends (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _end_group(pid: int) -> None:
    """End a fork and what it has started."""
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def _append(path: Path, row: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a JSON-lines file that were written whole."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


# The map: which tests run which lines


class Recorder:
    """A pytest plugin: coverage by context, and who uses the contexts that are shared.

    A context is a test, or what several tests share: ``@file`` what importing a test file runs,
    ``@place::fixture`` a fixture of wider scope, ``@module:function`` a cached function.
    """

    def __init__(self, work: Work, name: str) -> None:
        self.work, self.name = work, name
        self.stack = [""]
        self.uses: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = defaultdict(float)
        self.outcome: dict[str, str] = {}
        self.fixtures: dict[str, set[tuple[str, str]]] = defaultdict(set)
        self.subprocesses = work.map / f"{name}.sub"

    def main(self, arguments: list[str]) -> int:
        import coverage

        shutil.rmtree(self.subprocesses, ignore_errors=True)
        self.subprocesses.mkdir()
        source = str(self.work.tree / PACKAGE)
        settings = self.subprocesses / "settings"
        settings.write_text(
            f"[run]\nparallel = true\ndata_file = {self.subprocesses / 'data'}\nsource = {source}\n"
            "context = ${MUTANTS_CONTEXT-}\ndisable_warnings = no-data-collected, module-not-imported\n"
        )
        os.environ["COVERAGE_PROCESS_START"] = str(settings)
        place = self.work.map / f"{self.name}.part"
        place.unlink(missing_ok=True)
        self.coverage = coverage.Coverage(data_file=str(place), config_file=False, source=[source])
        functools.lru_cache = self._watched(functools.lru_cache)  # functools.cache calls it, too
        self.coverage.start()
        code = int(pytest.main(arguments, plugins=[self]))
        self.coverage.stop()
        self.coverage.save()
        rows = self.work.map / f"{self.name}.rows"
        rows.unlink(missing_ok=True)
        for context in {*self.uses, *self.outcome}:
            row = {"context": context, "uses": sorted(self.uses[context])}
            if context in self.outcome:
                row |= {
                    "outcome": self.outcome[context],
                    "seconds": round(self.seconds[context], 3),
                }
            _append(rows, row)
        return code

    @contextmanager
    def context(self, name: str) -> Iterator[None]:
        self.stack.append(name)
        self._switch()
        try:
            yield
        finally:
            self.stack.pop()
            self._switch()

    def _switch(self) -> None:
        os.environ["MUTANTS_CONTEXT"] = self.stack[-1]
        self.coverage.switch_context(self.stack[-1])

    def _watched(self, original: Any) -> Any:
        """Return an lru_cache that tells who uses what it holds, for the package and its tests."""

        def lru_cache(maxsize: Any = 128, typed: bool = False) -> Any:
            if callable(maxsize):
                return lru_cache()(maxsize)

            def decorate(function: Any) -> Any:
                path = str(getattr(getattr(function, "__code__", None), "co_filename", ""))
                if not path.startswith(str(self.work.tree)):
                    return original(maxsize, typed)(function)
                name = f"@{function.__module__}:{function.__qualname__}"

                def first(*args: Any, **kwargs: Any) -> Any:
                    with self.context(name):
                        return function(*args, **kwargs)

                held = original(maxsize, typed)(functools.wraps(function)(first))

                @functools.wraps(function)
                def asked(*args: Any, **kwargs: Any) -> Any:
                    self.uses[self.stack[-1]].add(name)
                    return held(*args, **kwargs)

                for attribute in ("cache_info", "cache_clear", "cache_parameters"):
                    setattr(asked, attribute, getattr(held, attribute))
                return asked

            return decorate

        return lru_cache

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector: Any) -> Generator[None, Any, Any]:
        if not isinstance(collector, pytest.Module):
            return (yield)
        with self.context(f"@{collector.nodeid}"):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        name = f"@{fixturedef.baseid}::{fixturedef.argname}"
        self.uses[self.stack[-1]].add(name)
        self.fixtures[fixturedef.argname].add((fixturedef.baseid, name))
        with self.context(name):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Generator[None, Any, Any]:
        start = _processor_seconds()
        with self.context(item.nodeid):
            done = yield
        self.seconds[item.nodeid] = _processor_seconds() - start
        self.uses[item.nodeid].add("@" + item.nodeid.partition("::")[0])
        for fixture in getattr(item, "fixturenames", ()):
            for place, name in self.fixtures[fixture]:
                if item.nodeid.startswith(place):
                    self.uses[item.nodeid].add(name)
        return done

    def pytest_runtest_logreport(self, report: Any) -> None:
        if self.outcome.get(report.nodeid, "passed") == "passed":
            self.outcome[report.nodeid] = report.outcome


def _processor_seconds() -> float:
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def record(work: Work) -> None:
    """Run every test once, a directory of tests at a time, and keep which lines each runs."""
    for path in _test_places(work.tree):
        name = path.replace("/", "-")
        half, whole = (work.map / f"{name}.{suffix}" for suffix in ("part", "coverage"))
        if whole.exists():
            continue
        start = time.perf_counter()
        recorder = Recorder(work, name)
        code = work.fork(f"map/{name}", recorder, [path, "-q"], lambda: False)
        if code not in (0, 1):
            sys.exit(f"{path} could not be recorded (code {code}): see map/{name}.log.")
        _join(half, recorder.subprocesses)
        half.rename(whole)
        _tell(f"map: {name}, {time.perf_counter() - start:.0f} s")
    listed = work.map / "broken.json"
    if listed.exists():
        return
    # What fails without coverage, too, proves nothing.
    tests = Map(work).tests
    failed = [test for test, row in tests.items() if row["outcome"] == "failed"]
    broken = run_tests(work, "map/broken", failed, tests, stop=False).failed if failed else []
    listed.write_text(json.dumps(broken, indent=1))
    _tell(f"map: {len(failed)} tests failed under coverage, {len(broken)} of them without it")


def _test_places(tree: Path) -> list[str]:
    """Return the directories and files of tests, and the package for its doctests."""
    found = [
        path.relative_to(tree).as_posix()
        for path in sorted((tree / "tests").iterdir())
        if fnmatch(path.name, "test_*.py") or any(path.glob("**/test_*.py"))
    ]
    return [*found, PACKAGE]


def _join(place: Path, subprocesses: Path) -> None:
    """Add to a recording what the subprocesses of its tests recorded."""
    import coverage

    data = coverage.CoverageData(str(place))
    data.read()
    for part in sorted(subprocesses.glob("data*")):
        more = coverage.CoverageData(str(part))
        try:
            more.read()
            data.update(more)
        except coverage.CoverageException as error:  # a process that was ended while it wrote
            _tell(f"map: {part.name} left out: {error}")
    shutil.rmtree(subprocesses)


class Map:
    """What was recorded, all parts together."""

    def __init__(self, work: Work) -> None:
        import coverage

        self.tree = work.tree
        self.tests: dict[str, dict[str, Any]] = {}
        self.parts: list[tuple[Any, dict[str, set[str]]]] = []
        for place in sorted(work.map.glob("*.coverage")):
            rows = {row["context"]: row for row in _rows(place.with_suffix(".rows"))}
            mine = {context: row for context, row in rows.items() if "outcome" in row}
            self.tests |= mine
            users: dict[str, set[str]] = defaultdict(set)
            for test in mine:
                ahead, seen = [test], {test}
                while ahead:
                    users[ahead[-1]].add(test)
                    new = set(rows.get(ahead.pop(), {}).get("uses", ())) - seen
                    seen |= new
                    ahead += new
            data = coverage.CoverageData(str(place))
            data.read()
            self.parts.append((data, users))
        known = work.map / "broken.json"
        self.broken = set(json.loads(known.read_text())) if known.exists() else set()
        self.importers = _importers(work.tree)

    @functools.lru_cache(maxsize=64)  # noqa: B019
    def lines(self, file: str) -> tuple[dict[int, set[str]], set[int]]:
        """Return the tests of each line of a file, and the lines that ran on some import."""
        tests: dict[int, set[str]] = defaultdict(set)
        imported: set[int] = set()
        for data, users in self.parts:
            for line, contexts in data.contexts_by_lineno(str(self.tree / file)).items():
                for context in contexts:
                    tests[line] |= users.get(context, set())
                    if not context or (context[0] == "@" and ":" not in context):
                        imported.add(line)
        return tests, imported

    def of_functions(self, file: str) -> set[str]:
        """Return the tests that run a line inside some function of a file."""
        tests, _ = self.lines(file)
        return set().union(
            *(tests[line] for line in _function_lines(self.tree / file) if line in tests)
        )

    def covering(self, mutant: Mutant) -> list[str]:
        """Return the tests that may notice a mutant, the likely and short ones first."""
        tests, imported = self.lines(mutant.file)
        here = range(mutant.line, mutant.last + 1)
        tiers: list[set[str]] = []
        plain = mutant.on_import and mutant.line not in _function_lines(self.tree / mutant.file)
        if not plain:
            tiers.append(set().union(*(tests[line] for line in here if line in tests)))
        if plain or any(line in imported for line in here):
            tiers.append(self.of_functions(mutant.file))
            tiers += [set().union(*map(self.of_functions, self.importers[mutant.file]))]
        order: dict[str, None] = {}
        for tier in tiers:
            usable = [t for t in tier - self.broken if self.tests[t]["outcome"] != "skipped"]
            order |= dict.fromkeys(sorted(usable, key=lambda t: self._rank(t, mutant.room)))
        return list(order)

    def _rank(self, test: str, room: str) -> tuple[int, bool, str, str]:
        """Short tests first, in steps of four, so that tests of one file stay together."""
        step = math.ceil(math.log(max(self.tests[test]["seconds"], 0.03) / 0.1, 4))
        file = test.partition("::")[0]
        return step, room.removesuffix(".py") not in file, file, test


def _function_lines(path: Path) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines |= set(range(node.body[0].lineno, (node.end_lineno or node.lineno) + 1))
    return lines


def _importers(tree: Path) -> dict[str, set[str]]:
    """Return, per file, the files of the package that import it."""
    names = {}
    for path in (tree / PACKAGE).rglob("*.py"):
        parts = path.relative_to(tree).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        names[module] = path.relative_to(tree).as_posix()
    found: dict[str, set[str]] = defaultdict(set)
    for name, file in names.items():
        package = name if file.endswith("__init__.py") else name.rpartition(".")[0]
        for node in ast.walk(ast.parse((tree / file).read_bytes())):
            wanted: list[str] = []
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = package.rsplit(".", node.level - 1)[:1] if node.level else []
                base = ".".join([*above, *([node.module] if node.module else [])])
                wanted = [base, *(f"{base}.{alias.name}" for alias in node.names)]
            for module in wanted:
                if module in names and names[module] != file:
                    found[names[module]].add(file)
    return found


# Tests against a mutant


class Runner:
    """A pytest plugin: runs the tests named, in that order, and writes down how it goes."""

    def __init__(self, tests: list[str], progress: Path) -> None:
        self.order = {test: i for i, test in enumerate(tests)}
        self.progress = progress
        progress.unlink(missing_ok=True)

    def main(self, arguments: list[str]) -> int:
        return int(pytest.main(arguments, plugins=[self]))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        with suppress(ImportError):
            import hypothesis.internal.conjecture.engine as engine

            engine.MAX_SHRINKING_SECONDS = 1  # that it fails is enough
        items[:] = sorted(
            (item for item in items if item.nodeid in self.order),
            key=lambda item: self.order[item.nodeid],
        )
        _append(self.progress, {"collected": len(items)})

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _append(self.progress, {"started": nodeid})

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            _append(self.progress, {"failed": report.nodeid})

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            _append(self.progress, {"uncollected": report.nodeid})


@dataclass
class Outcome:
    """How tests went: pytest's code (minus a signal), what failed, and whether they hung."""

    code: int
    failed: list[str]
    uncollected: list[str]
    collected: int
    hung: str | None


def run_tests(
    work: Work, name: str, tests: list[str], known: dict[str, dict[str, Any]], stop: bool = True
) -> Outcome:
    """Run tests in a fork that is ended where it makes no headway, by its processor time."""
    progress = work.folder / f"{name}.progress"
    files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
    news = {"size": -1, "waited": 0.0, "looked": 0.0, "spent": 0.0, "allowed": _IDLE}
    where: list[str] = ["collection"]
    hung: list[str] = []
    plugin = Runner(tests, progress)

    def limit() -> bool:
        size = progress.stat().st_size if progress.exists() else 0
        spent = _spent(work.running)
        if size != news["size"]:
            rows = _rows(progress)
            started = [row["started"] for row in rows if "started" in row]
            where[0] = started[-1] if started else "collection"
            more = 10 * known.get(where[0], {}).get("seconds", 0.0)
            news.update(size=size, waited=0.0, spent=spent, allowed=_IDLE + more)
        now = time.monotonic()
        news["waited"] += min(now - news["looked"], 1.0)  # all of this may have been paused
        news["looked"] = now
        idle = max(spent - news["spent"], news["waited"] / 5)
        if idle > news["allowed"]:
            hung.append(where[0])
            return True
        return False

    arguments = [*files, "-q", "--tb=line", *(["-x"] if stop else [])]
    code = work.fork(name, plugin, arguments, limit)
    rows = _rows(progress)
    failed = list(dict.fromkeys(row["failed"] for row in rows if "failed" in row))
    uncollected = [row["uncollected"] for row in rows if "uncollected" in row]
    collected = next((row["collected"] for row in rows if "collected" in row), 0)
    return Outcome(code, failed, uncollected, collected, hung[0] if hung else None)


def _spent(pid: int) -> float:
    """Return the processor seconds of a process and of those that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def _rounds(tests: list[str], known: Map) -> Iterator[list[str]]:
    """Split tests into a quick round, a longer one, and the rest."""
    left = list(tests)
    for seconds, most in _ROUNDS:
        taken: list[str] = []
        files: set[str] = set()
        total = 0.0
        for test in left:
            file = test.partition("::")[0]
            if total + known.tests[test]["seconds"] > seconds or len(files | {file}) > most:
                break
            taken.append(test)
            files.add(file)
            total += known.tests[test]["seconds"]
        if taken:
            yield taken
        left = left[len(taken) :]
    if left:
        yield left


def kill(work: Work, mutant: Mutant, known: Map, cap: float) -> dict[str, Any]:
    """Try a mutant, and return its verdict."""
    tests, total = [], 0.0
    covering = known.covering(mutant)
    for test in covering:
        if total + known.tests[test]["seconds"] <= cap or not tests:
            tests.append(test)
            total += known.tests[test]["seconds"]
    found: dict[str, Any] = {"covering": len(covering), "chosen": len(tests), "ran": 0}
    if not tests:
        return {**found, "verdict": "no test"}
    with work.broken(mutant):
        for part in _rounds(tests, known):
            met = run_tests(work, "trial", part, known.tests)
            found["ran"] += len(part)
            if met.hung:
                return {**found, "verdict": "timed out", "by": met.hung}
            if met.code == _OWN_FAULT:
                sys.exit("The tests could not be run: see trial.log in the work folder.")
            if met.uncollected or met.code == 4:  # 4: not even the conftest can be imported
                return {**found, "verdict": "killed", "by": "collection"}
            if met.code < 0 or met.code in (2, 3):  # interrupted, or an error in pytest itself
                return {**found, "verdict": "crashed", "by": f"code {met.code}"}
            if met.code == 1:
                return {**found, "verdict": "killed", "by": met.failed[0]}
            if met.code or met.collected < len(part):
                found["missing"] = found.get("missing", 0) + len(part) - met.collected
    return {**found, "verdict": "survived" if len(tests) == len(covering) else "survived the cap"}


def run(work: Work, options: argparse.Namespace) -> None:
    """Do what is left to do."""
    for name in _PRELOAD:
        with suppress(ImportError):
            importlib.import_module(name)
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    alone = (work.folder / "lock").open("w")
    try:
        fcntl.flock(alone, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("Another run works in that folder.")
    work.mend()
    record(work)
    if options.only_map:
        return
    known = Map(work)
    listed = work.folder / "mutants.json"
    if not listed.exists():
        mutants = draw(work.tree, options.count, options.seed)
        how = {"seed": options.seed, "count": options.count, "cap": options.cap}
        listed.write_text(json.dumps({**how, "mutants": [asdict(m) for m in mutants]}, indent=1))
    held = json.loads(listed.read_text())
    if (held["seed"], held["count"], held["cap"]) != (options.seed, options.count, options.cap):
        sys.exit("Mutants of another seed, count or cap stand there: choose another --work.")
    mutants = [Mutant(**row) for row in held["mutants"]]
    results = work.folder / "results.jsonl"
    while True:
        done = {row["key"]: row for row in _rows(results)}
        known.broken |= set(_false_killers(work))
        left = [m for m in mutants if m.key not in done or done[m.key].get("by") in known.broken]
        for i, mutant in enumerate(left):
            start = time.perf_counter()
            row = {"key": mutant.key, **kill(work, mutant, known, options.cap)}
            _append(results, {**row, "seconds": round(time.perf_counter() - start, 1)})
            place = f"{mutant.file}:{mutant.line}"
            _tell(f"{i + 1} of {len(left)}: {row['verdict']}, {mutant.operator} in {place}")
        killers = [row["by"] for row in _rows(results) if row["verdict"] == "killed"]
        if not _check(work, known, killers):
            break


def _false_killers(work: Work) -> list[str]:
    return [row["test"] for row in _rows(work.folder / "checked.jsonl") if not row["passes"]]


def _check(work: Work, known: Map, killers: list[str]) -> bool:
    """Run the tests that killed without a mutant; return whether one of them fails."""
    checked = work.folder / "checked.jsonl"
    done = {row["test"] for row in _rows(checked)}
    new = [test for test in dict.fromkeys(killers) if test in known.tests and test not in done]
    if not new:
        return False
    failed = set(run_tests(work, "check", new, known.tests, stop=False).failed)
    for test in new:
        _append(checked, {"test": test, "passes": test not in failed})
    _tell(f"check: {len(new)} tests without a mutant, {len(failed)} fail")
    return bool(failed)


def _tell(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, file=sys.stderr, flush=True)


# The report

_NOTICED = ("killed", "timed out", "crashed")
_MISSED = ("survived", "survived the cap", "no test")


def wilson(count: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, 1927).

    >>> [round(v, 3) for v in wilson(90, 100)]
    [0.826, 0.945]
    """
    if not total:
        return 0.0, 1.0
    z = 1.959964
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total**2)) / (1 + z * z / total)
    return middle - half, middle + half


def found_of(folder: Path) -> tuple[dict[str, Any], list[tuple[Mutant, dict[str, Any]]]]:
    """Return how a run was made, and its mutants with their verdicts."""
    held = json.loads((folder / "mutants.json").read_text())
    verdicts = {row["key"]: row for row in _rows(folder / "results.jsonl")}
    pairs = [(Mutant(**row), verdicts.get(Mutant(**row).key)) for row in held["mutants"]]
    return held, [(mutant, verdict) for mutant, verdict in pairs if verdict]


def _share(rows: list[str]) -> str:
    noticed = sum(verdict in _NOTICED for verdict in rows)
    low, high = wilson(noticed, len(rows))
    return f"{noticed} of {len(rows)}, {noticed / max(len(rows), 1):.1%} ({low:.1%} to {high:.1%})"


def _grouped(found: list[tuple[Mutant, dict[str, Any]]], name: str) -> dict[str, Counter[str]]:
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant, verdict in found:
        groups[getattr(mutant, name)][verdict["verdict"]] += 1
    return dict(sorted(groups.items()))


def report(folder: Path, other: Path | None) -> str:
    """Return the results as markdown, perhaps beside those of another tree."""
    held, found = found_of(folder)
    verdicts = [verdict["verdict"] for _, verdict in found]
    lines = [
        f"{len(held['mutants'])} mutants drawn with seed {held['seed']}, {len(found)} tried; at most "
        f"{held['cap']:g} s of tests each, by their processor time under coverage.",
        "",
        f"Noticed (killed, timed out or crashed): {_share(verdicts)}.",
    ]
    if other:
        theirs = [verdict["verdict"] for _, verdict in found_of(other)[1]]
        lines += ["", f"Before: {_share(theirs)}."]
    for name in ("room", "operator"):
        mine = _grouped(found, name)
        before = _grouped(found_of(other)[1], name) if other else {}
        header = [name, *_NOTICED, *_MISSED, "noticed", *(["before"] if other else [])]
        lines += ["", f"| {' | '.join(header)} |", "|---|" + "---:|" * (len(header) - 1)]
        for group in sorted({*mine, *before}):
            counts = mine.get(group, Counter())
            cells = [group, *(str(counts[verdict]) for verdict in (*_NOTICED, *_MISSED))]
            for side in (counts, *([before.get(group, Counter())] if other else [])):
                total = side.total()
                cells.append(
                    f"{sum(side[v] for v in _NOTICED) / total:.0%} of {total}" if total else "-"
                )
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Not noticed:", ""]
    for mutant, verdict in sorted(found, key=lambda pair: (pair[0].file, pair[0].line)):
        if verdict["verdict"] in _MISSED:
            before, after = (" ".join(text.split())[:80] for text in (mutant.before, mutant.text))
            tests = f"{verdict['ran']} of {verdict['covering']} tests"
            lines.append(
                f"- {mutant.file}:{mutant.line} `{before}` -> `{after}` ({verdict['verdict']}, {tests})"
            )
    return "\n".join([*lines, ""])


def main() -> None:
    """Run, or report."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run", help="map, draw, kill and check, from where it stopped")
    runs.add_argument("--tree", type=Path, default=root)
    runs.add_argument("--count", type=int, default=300)
    runs.add_argument("--seed", type=int, default=0)
    runs.add_argument("--cap", type=float, default=120.0, help="seconds of tests per mutant")
    runs.add_argument("--only-map", action="store_true")
    told = commands.add_parser("report", help="write what was found as markdown and JSON lines")
    told.add_argument("--against", type=Path, help="the work folder of the tree before")
    told.add_argument(
        "--out", type=Path, required=True, help="the markdown; JSON lines go beside it"
    )
    for command in (runs, told):
        command.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    if options.command == "report":
        text = report(options.work, options.against)
        options.out.write_text(text)
        rows = [{**asdict(m), **verdict} for m, verdict in found_of(options.work)[1]]
        options.out.with_suffix(".jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows)
        )
        print(text)
        return
    work = Work(options.work)
    work.prepare(options.tree)
    if Path(sys.executable) != work.python:  # again, in an environment that imports the copy
        os.execv(work.python, [str(work.python), str(Path(__file__).resolve()), *sys.argv[1:]])
    run(work, options)


if __name__ == "__main__":
    main()
