"""A fitted policy as one Python file that needs numpy and nothing else."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

import numpy as np

from policyopt.runtime.policy import Policy
from policyopt.runtime.prototypes import distances

from .graph import ELEMENTWISE, ExitGraph, Node
from .tracing import trace_policy

#: Of the runtime: they, and what they import of it, go into the file as they are.
_MODULES = ("output", "linear", "coin")
_PER_LINE = 8


def python_source(policy: Policy, graphs: list[ExitGraph] | None = None) -> str:
    """Return the file.

    Parameters
    ----------
    policy : Policy
    graphs : list of K ExitGraph, optional
        From `trace_policy`.

    Returns
    -------
    str
        A module with ``start``, ``step`` and ``decide``; its docstring says how to use them.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> source = python_source(Policy(MaxProb(), [0.8], [1, 3], "ms", "logits", 2))
    >>> names = {}
    >>> exec(source, names)
    >>> names["step"](0, [3.0, 0.0], names["start"]()).exit
    True
    """
    graphs = trace_policy(policy) if graphs is None else graphs
    tables = _Tables()
    exits = [_exit_source(graph, tables) for graph in graphs]
    used = {node.op for graph in graphs for node in graph.order()}
    parts = list(_runtime(_MODULES).values())
    if "distances" in used:
        parts.append(f"_BLOCK = {1 << 15}\n\n\n" + inspect.getsource(distances))
    parts += [tables.source(), *exits, _serving(policy, graphs)]
    text = _head(policy) + "\n\n".join(part.strip() + "\n" for part in parts if part.strip())
    ast.parse(text)  # what cannot be read is never written
    return text


def _head(policy: Policy) -> str:
    how = {
        "record": 'a mapping: {"prediction": ..., "confidence": ...}',
        "logits": "its logits, (C,)", "probabilities": "its class probabilities, (C,)",
    }[policy.kind]  # fmt: skip
    return f'''"""An early-exit policy: when to stop. Made by policyopt {_version()}; needs numpy only.

Score {policy.rule.name}, answer {policy.answer.name}; how it was found stands in policy.json.

    state = start()                  # start(number) where samples are numbered
    for k in PATH:
        decision = step(k, output_of_exit(k), state)   # {how}
        if decision.exit:
            break
    decision.prediction, decision.confidence

`decide(outputs)` does the same for many samples whose outputs are known. Do not edit: export anew.
"""

import math
import re
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

'''


def _version() -> str:
    from importlib.metadata import version

    return version("policyopt")


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
    """Quote annotations in a class that name the class: the file evaluates its annotations.

    (Postponed, all of them would be strings, and a dataclass looks strings up in `sys.modules`, where a
    file that is loaded by `importlib` need not be.)
    """
    for owner in (node for node in tree.body if isinstance(node, ast.ClassDef)):
        for node in ast.walk(owner):
            if not isinstance(node, (ast.FunctionDef, ast.arg)):
                continue
            told = node.returns if isinstance(node, ast.FunctionDef) else node.annotation
            if told is None or owner.name not in {getattr(x, "id", "") for x in ast.walk(told)}:
                continue
            at, line = told.lineno - 1, lines[told.lineno - 1]
            start, end = told.col_offset, told.end_col_offset
            lines[at] = f'{line[:start]}"{line[start:end]}"{line[end:]}'


class _Tables:
    """Constants of the file, each once."""

    def __init__(self) -> None:
        self.made: dict[Any, tuple[str, np.ndarray]] = {}

    def name(self, value: np.ndarray) -> str:
        key = value.shape, value.dtype.str, value.tobytes()
        return self.made.setdefault(key, (f"T{len(self.made)}", value))[0]

    def source(self) -> str:
        return "\n".join(f"{name} = {_array(value)}" for name, value in self.made.values())


def _array(value: np.ndarray) -> str:
    numbers = [_number(x) for x in value.reshape(-1).tolist()]
    if len(numbers) <= _PER_LINE:
        body = ", ".join(numbers)
        body = f"[{body}]"
    else:
        rows = [numbers[i : i + _PER_LINE] for i in range(0, len(numbers), _PER_LINE)]
        body = "[\n" + "".join(f"    {', '.join(row)},\n" for row in rows) + "]"
    if value.ndim == 0:
        return f"np.{value.dtype.name if value.dtype != bool else 'bool_'}({numbers[0]})"
    made = f"np.array({body}, dtype=np.{value.dtype.name if value.dtype != bool else 'bool_'})"
    return made if value.ndim == 1 else f"{made}.reshape{value.shape}"


def _number(x: Any) -> str:
    if isinstance(x, float) and not np.isfinite(x):
        return "np.nan" if np.isnan(x) else ("np.inf" if x > 0 else "-np.inf")
    return repr(x)


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
    x = args[0] if args else ""
    a = node.attrs
    if node.op in ELEMENTWISE:
        return f"np.{ELEMENTWISE[node.op].__name__}({', '.join(args)})"
    colons = ":, " * a.get("axis", 0)
    dtype = "bool" if node.dtype == bool else f"np.{node.dtype.name}"
    match node.op:
        case "const":
            return tables.name(a["value"])
        case "where":
            return f"np.where({', '.join(args)})"
        case "cast":
            return f"{x}.astype({dtype})"
        case "reshape":
            return f"{x}.reshape({', '.join(['len(' + x + ')', *map(str, node.shape[1:])])})"
        case "slice":
            return f"{x}[{colons}{a['start']}:{a['stop']}]"
        case "concat":
            rows = ", ".join(f"_rows({arg}, n)" for arg in args)
            return f"np.concatenate([{rows}], axis={a['axis']})"
        case "sum" | "max" | "min":
            return f"np.ascontiguousarray({x}).{node.op}(axis={a['axis']})"
        case "argmax":
            return f"{x}.argmax(axis={a['axis']})"
        case "take":
            return f"_rows({x}, n)[np.arange(n), {':, ' * (a['axis'] - 1)}_rows({args[1]}, n)]"
        case "lookup":
            return f"{tables.name(a['table'])}[{x}]"
        case "minimum_at":
            return f"np.minimum.reduceat({x}, {tables.name(a['starts'])}, axis=1)"
        case "search":
            return f'np.searchsorted({tables.name(a["edges"])}, {x}, side="{a["side"]}")'
        case "interp":
            return f"np.interp({x}, {tables.name(a['knots'])}, {tables.name(a['values'])})"
        case "linear":
            return f"row_product({x}, {tables.name(a['weight'])})"
        case "distances":
            return f"distances({x}, {tables.name(a['points'])})"
        case "reduce":
            return f"reduce_logits({x}, {a['top']})"
        case "field":
            return f"{x}.{a['name']}"
        case "coin":
            return f"coin({a['seed']}, {x}, {a['stream']})"
    raise ValueError(f"no operation {node.op}")


def _serving(policy: Policy, graphs: list[ExitGraph]) -> str:
    """Return what callers see."""
    template = files("policyopt.export").joinpath("python_serving.txt").read_text(encoding="utf-8")
    columns = sorted({name for graph in graphs for name in graph.inputs} - {"sample", "features"})
    widths = [g.inputs["features"].size if "features" in g.inputs else 0 for g in graphs]
    values = {
        "PATH": policy.path, "MODEL_EXITS": policy.model_exits, "CLASSES": policy.classes,
        "COSTS": tuple(policy.costs.tolist()), "UNIT": policy.unit, "KIND": policy.kind,
        "COLUMNS": tuple(columns), "FEATURES": tuple(widths),
    }  # fmt: skip
    head = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    exits = ", ".join(f"_exit_{graph.position}" for graph in graphs)
    return f"{head}\n_EXITS = ({exits},)\n\n\n{template}"
