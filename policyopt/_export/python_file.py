"""A fitted policy as one Python file that needs numpy and nothing else."""

from __future__ import annotations

import ast
import re
import runpy
import textwrap
from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._certificate import comment
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._policy import Policy
from policyopt.runtime._typing import Array

from .golden import Golden, Ran, levels_of, words
from .graph import ELEMENTWISE, ExitGraph, Node
from .symbolic import trace_policy

#: Of the runtime: they, and what they import of it, go into the file as they are.
_MODULES = ("_outputs", "_arithmetic", "_kinds")
#: Operations in numpy's words: of operands by number, attributes by name.
_WORDS = {
    "const": "{value}", "where": "np.where({0}, {1}, {2})", "cast": "{0}.astype({dtype})",
    "reshape": "{0}.reshape(len({0}){shape})", "slice": "{0}[{axes}{start}:{stop}]",
    "concat": "np.concatenate([{rows}], axis={axis})", "argmax": "{0}.argmax(axis={axis})",
    "sum": "np.ascontiguousarray({0}).sum(axis={axis})",
    "max": "np.ascontiguousarray({0}).max(axis={axis})",
    "min": "np.ascontiguousarray({0}).min(axis={axis})",
    "take": "_rows({0}, n)[np.arange(n), {inner}_rows({1}, n)]", "lookup": "{table}[{0}]",
    "minimum_at": "np.minimum.reduceat({0}, {starts}, axis=1)",
    "search": 'np.searchsorted({edges}, {0}, side="{side}")',
    "interp": "np.interp({0}, {knots}, {values})", "linear": "row_product({0}, {weight})",
    "distances": "distances({0}, {points})", "reduce": "reduce_logits({0}, {top})",
    "field": "{0}.{name}", "coin": "coin({seed}, {0}, {stream})",
}  # fmt: skip


def python_source(policy: Policy | PolicyFamily, graphs: list[ExitGraph] | None = None) -> str:
    """Return the text of a module with ``start``, ``step`` and ``decide``; `graphs`: from `trace_policy`."""
    graphs = trace_policy(policy) if graphs is None else graphs
    tables = _Tables()
    exits = [_exit_source(graph, tables) for graph in graphs]
    made = [*_runtime(_MODULES).values(), "\n".join(tables.lines), *exits, _serving(policy, graphs)]
    text = _head(policy) + "\n\n".join(part.strip() + "\n" for part in made if part.strip())
    ast.parse(text)  # what cannot be read is never written
    return text


def _head(policy: Policy | PolicyFamily) -> str:
    how = {
        "summary": 'a mapping: {"confidence": ..., "prediction": ...}',
        "logits": "its logits, (C,)", "probabilities": "its class probabilities, (C,)",
    }.get(policy.kind, f"its {policy.kind}, {policy.observer.kind.width(policy.classes)} numbers")  # fmt: skip
    also = ", features_of_exit(k)" if policy.needs_features else ""
    begin = "state = start()                  # start(number) where samples are numbered"
    if isinstance(policy, PolicyFamily):
        begin = (
            f"state = start(number, level)     # a level from 0, the cheapest, to {len(policy) - 1}"
        )
    said = comment(policy)
    certified = f"\n{textwrap.fill(said, 96)}\n" if said else ""
    plain = lambda name: re.sub(r"[^\w ,.-]", "?", name)  # noqa: E731
    return f'''"""An early-exit policy: when to stop. Made by policyopt {version("policyopt")}; needs numpy only.

Score {plain(words(policy, "rule"))}, answer {plain(words(policy, "answer"))}; how it was found stands in policy.json.
{certified}
    {begin}
    for k in ACTIVE_EXITS:
        decision = step(k, output_of_exit(k), state{also})   # {how}
        if decision.exit:
            break
    decision.prediction, decision.confidence

`decide(outputs)` does the same for many samples whose outputs are known. Do not edit: export anew.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numpy import inf, nan

'''


def _runtime(names: Iterable[str], found: dict[str, str] | None = None) -> dict[str, str]:
    """Return modules of the runtime and those they import, in order, without docstrings and imports."""
    found = {} if found is None else found
    for name in names:
        text = files("policyopt.runtime").joinpath(f"{name}.py").read_text(encoding="utf-8")
        lines, tree = text.splitlines(), ast.parse(text)
        own = [n for n in tree.body if isinstance(n, ast.ImportFrom) and n.level == 1]
        _runtime([str(n.module) for n in own if n.module not in found], found)
        _quote_own_names(tree, lines)
        for node in reversed(tree.body):
            docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
                del lines[node.lineno - 1 : node.end_lineno]
        found.setdefault(name, "\n".join(lines))
    return found


def _quote_own_names(tree: ast.Module, lines: list[str]) -> None:
    """Quote annotations that name their own class: postponed ones would need the file in `sys.modules`."""
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in ast.walk(owner):
            told = getattr(node, "returns", None) or getattr(node, "annotation", None)
            if told is not None and re.search(rf"\b{owner.name}\b", ast.unparse(told)):
                line, start, end = lines[told.lineno - 1], told.col_offset, told.end_col_offset
                lines[told.lineno - 1] = f'{line[:start]}"{line[start:end]}"{line[end:]}'


class _Tables:
    """Constants of the file, each once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._made: dict[Any, str] = {}

    def name(self, value: Array) -> str:
        key = value.shape, value.dtype.str, value.tobytes()
        if key not in self._made:
            self._made[key] = name = f"T{len(self._made)}"
            kind = "bool_" if value.dtype == bool else value.dtype.name
            numbers = textwrap.fill(repr(value.tolist()), 96, break_on_hyphens=False)
            self.lines.append(f"{name} = np.array({numbers}, np.{kind}).reshape({value.shape})")
        return self._made[key]


def _exit_source(graph: ExitGraph, tables: _Tables) -> str:
    """Return the function of one exit."""
    names: dict[int, str] = {id(node): name for name, node in graph.inputs.items()}
    names |= {id(node): f"s{i}" for i, node in enumerate(graph.states)}
    lines = [f"def _exit_{graph.position}(given: dict[str, Any], states: Any, n: int) -> Any:"]
    lines += [f'    """What happens at exit {graph.exit} of the model."""']
    lines += [f'    {name} = given["{name}"]' for name in graph.inputs]
    lines += [f"    s{i} = states[{i}]" for i in range(len(graph.states))]
    for node in graph.order():
        if id(node) in names:
            continue
        names[id(node)] = f"v{len(names)}"
        lines.append(f"    {names[id(node)]} = {_expression(node, names, tables)}")
    whole = lambda node: f"_rows({names[id(node)]}, n)"  # noqa: E731
    outputs = ", ".join(f'"{name}": {whole(node)}' for name, node in graph.outputs.items())
    left = "".join(f"{whole(node)}, " for node in graph.left)
    return "\n".join([*lines, f"    return {{{outputs}}}, ({left})"])


def _expression(node: Node, names: dict[int, str], tables: _Tables) -> str:
    args = [names[id(arg)] for arg in node.args]
    if node.op in ELEMENTWISE:
        return f"np.{ELEMENTWISE[node.op].__name__}({', '.join(args)})"
    attrs: dict[str, Any] = {
        name: tables.name(value) if isinstance(value, np.ndarray) else value
        for name, value in node.attrs.items()
    }
    axis = node.attrs.get("axis", 0)
    return _WORDS[node.op].format(
        *args, **attrs, axes=":, " * axis, inner=":, " * (axis - 1),
        rows=", ".join(f"_rows({arg}, n)" for arg in args),
        shape="".join(f", {size}" for size in node.shape[1:]),
        dtype="bool" if node.dtype == bool else f"np.{node.dtype.name}",
    )  # fmt: skip


#: What the template says of handing over, and what stands there for a policy that never does.
_ANSWERS_ALL = {
    "    abstained: Any  # who is handed over\n": (
        "\n    @property\n    def abstained(self) -> Any:\n"
        '        """Whether a sample is handed over: none is."""\n'
        "        return np.zeros(np.shape(self.exit), dtype=bool)\n"
    ),
    "Decisions(exits, answers, paid, over)": "Decisions(exits, answers, paid)",
}


def _serving(policy: Policy | PolicyFamily, graphs: list[ExitGraph]) -> str:
    """Return what callers see."""
    template = files("policyopt._export").joinpath("python_serving.txt").read_text(encoding="utf-8")
    inputs = {name for graph in graphs for name in graph.inputs}
    columns = sorted(inputs - {"sample", "level", "features"})
    widths = [g.inputs["features"].size if "features" in g.inputs else 0 for g in graphs]
    declines = [one.abstention for one in levels_of(policy)]
    fees = [0.0 if one is None else float(one.cost) for one in declines]
    costs: Any = tuple(policy.costs.tolist())
    if isinstance(policy, PolicyFamily):
        table = np.full((len(policy), policy.exits), np.nan)
        for row, one in zip(table, policy.policies, strict=True):
            row[np.searchsorted(policy.active_exits, one.active_exits)] = one.costs
        costs = tuple(map(tuple, table.tolist()))
    values = {
        "LEVELS": len(policy) if isinstance(policy, PolicyFamily) else 0,
        "ACTIVE_EXITS": policy.active_exits, "MODEL_EXITS": policy.model_exits,
        "HANDING_OVER": tuple(fees) if isinstance(policy, PolicyFamily) else fees[0],
        "CLASSES": policy.classes, "COSTS": costs, "UNIT": policy.unit, "KIND": policy.kind,
        "COLUMNS": tuple(columns), "FEATURES": tuple(widths),
        "PREDICTIONS_MAY_LACK": policy.kind == "summary"
        and not any(one.needs_predictions for one in levels_of(policy)),
    }  # fmt: skip
    if all(one is None for one in declines):  # a tuple of three, as of a policy that always answers
        for written, plain in _ANSWERS_ALL.items():
            template = template.replace(written, plain)
    head = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    exits = ", ".join(f"_exit_{graph.position}" for graph in graphs)
    return f"{head}\n_EXITS = ({exits},)\n\n\n{template}"


def run_python(path: Path, golden: Golden) -> Ran:
    """Return what an exported file says of golden vectors: it is run, so its checksum must be the manifest's."""
    module = runpy.run_path(str(path))
    ran = Ran.empty(len(golden), len(module["ACTIVE_EXITS"]))
    samples = golden.sample.T if golden.sample.ndim > 1 else [golden.sample]
    state = module["start"](*samples)
    for at, (k, given) in enumerate(zip(module["ACTIVE_EXITS"], golden.inputs, strict=True)):
        output: Any = given.get(module["KIND"], given)
        if "second" in given:
            output = {**given, "top_prob": np.stack([given["confidence"], given["second"]], axis=1)}
        ran.put(slice(None), at, module["step"](k, output, state, given.get("features")))
    return ran
