"""A fitted policy as one Python file that needs numpy and nothing else."""

from __future__ import annotations

import ast
import json
import re
import runpy
import textwrap
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._certificate import comment
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._policy import Policy
from policyopt.runtime._routing import RoutingPolicy, routing_to_dict
from policyopt.runtime._typing import Array

from .golden import Golden, Ran, Walk, by_name, costs_by_level, levels_of, words
from .graph import ELEMENTWISE, ExitGraph, Node
from .routes import run_steps
from .symbolic import trace_policy

#: Of the runtime: where files find what they use.
_MODULES = ("_outputs", "_arithmetic", "_kinds")
#: Of `runtime._typing`.
_ARRAYS = {"Array", "Bools", "Floats", "Ints"}
#: What the code of files uses besides.
_IMPORTS = {
    "from typing import Any, NamedTuple",
    "import numpy as np",
    "from numpy import inf, nan",
}
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


def python_source(policy: Any, graphs: list[ExitGraph] | None = None) -> str:
    """Return the text of a module with ``start``, ``step`` and ``decide``; `graphs`: from `trace_policy`."""
    if isinstance(policy, RoutingPolicy):
        return _routing_source(policy)
    graphs = trace_policy(policy) if graphs is None else graphs
    tables = _Tables()
    exits = [_exit_source(graph, tables) for graph in graphs]
    own = ["\n".join(tables.lines), *exits, _serving(policy, graphs)]
    return _file(_head(policy), own, _MODULES)


def _routing_source(policy: RoutingPolicy) -> str:
    """Return the same of a routing policy: the runtime's own, and the artifact as a text."""
    content = json.dumps(routing_to_dict(policy), allow_nan=False)  # ASCII
    pieces = "\n".join(repr(content[i : i + 90]) for i in range(0, len(content), 90))
    own = f"POLICY = routing_from_dict(json.loads(\n{pieces}\n))\n"
    own += "start, step, decide = POLICY.start, POLICY.step, POLICY.decide\n"
    paid = ", cost=what it cost" if policy.needs_costs else ""
    gave = {"summary": '{"confidence": ..., "prediction": ...}'}.get(policy.kind, policy.kind)
    told = {"version": version("policyopt"), "certified": _certified(policy)}
    head = _ROUTING.format(**told, paid=paid, gave=gave)
    return _file(head, [own], _ROUTES)


_ROUTES = ("_routing", "_strict_json")
_ROUTING = '''"""A routing policy: which model to ask, and when to stop. Made by policyopt {version}; needs numpy only.
{certified}
    route = start()                        # start(number) where samples are numbered
    while route.next is not None:          # the number of the model to ask
        told = step(output, route{paid})   # of that model: {gave}
    told.prediction

`decide(outputs)` does the same for many samples of which all models' outputs are known. Do not edit: export anew.
"""
'''


def _file(head: str, own: list[str], modules: Sequence[str]) -> str:
    """Return a file that begins with a docstring, then has what its own code uses of the runtime, then that."""
    used = _Runtime("\n".join(own), modules)
    imports = "\n".join(sorted(used.imports))
    made = [f"{head}\n{imports}", *used.text, *own]
    text = "\n\n".join(part.strip() + "\n" for part in made if part.strip())
    ast.parse(text)  # what cannot be read is never written
    return text


def _certified(policy: Any) -> str:
    said = comment(policy)
    return f"\n{textwrap.fill(said, 96)}\n" if said else ""


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
    certified = _certified(policy)
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
'''


class _Runtime:
    """What code uses of the runtime, as it is but for annotations, which may name what stands further down."""

    def __init__(self, code: str, modules: Sequence[str]) -> None:
        self.seen, self.text, self.imports = set[Any](), list[str](), set(_IMPORTS)
        names = _names(ast.parse(code))
        for module in modules:
            self.take(module, names)

    def take(self, module: str, names: Iterable[str]) -> None:
        """Take what names stand for in a module, and what that uses."""
        for name in names:
            node, place = _defined(module).get(name), module
            while isinstance(node, ast.ImportFrom) and node.level:
                place = str(node.module)
                node = _defined(place).get(name)
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.imports.add(ast.unparse(node))
            elif node is not None and node not in self.seen:
                self.seen.add(node)
                used, text = _statement(node)
                self.take(place, used)
                self.text.append(text)


def _names(user: ast.AST) -> list[str]:
    """Return the names that a statement uses, each once."""
    return list(dict.fromkeys(part.id for part in ast.walk(user) if isinstance(part, ast.Name)))


@cache
def _statement(node: ast.AST) -> tuple[list[str], str]:
    """Return the names that a statement of the runtime uses, and its text."""
    return _names(node), ast.unparse(ast.fix_missing_locations(node))


@cache
def _defined(module: str) -> dict[str, Any]:
    """Return the statements of a module by the names that they define."""
    path, found = files("policyopt.runtime").joinpath(f"{module}.py"), dict[str, Any]()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.ClassDef):
            node.body = [n for n in node.body if getattr(n, "name", "") != "save"]
        elif (
            isinstance(node, ast.AnnAssign)
            and set(re.findall(r"\w+", ast.unparse(node.annotation))) & _ARRAYS
        ):
            node.annotation = ast.Name("Any", ast.Load())
    for node in tree.body:
        names = [
            getattr(node, "name", ""),
            *(a.asname or a.name for a in getattr(node, "names", ())),
        ]
        for to in getattr(node, "targets", [getattr(node, "target", None)]):
            names += [n.id for n in ast.walk(to) if isinstance(n, ast.Name)] if to else []
        found |= dict.fromkeys(names, node)
    return found


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
        costs = tuple(map(tuple, costs_by_level(policy).tolist()))
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


def run_python(path: Path, golden: Golden) -> Any:
    """Return what an exported file says of golden vectors: it is run, so its checksum must be the manifest's."""
    module = runpy.run_path(str(path))
    if isinstance(golden.expected, Walk):
        return run_steps(module["POLICY"], golden)
    ran = Ran.empty(len(golden), len(module["ACTIVE_EXITS"]))
    state = module["start"](*by_name(golden.sample).values())
    for at, (k, given) in enumerate(zip(module["ACTIVE_EXITS"], golden.inputs, strict=True)):
        output: Any = given.get(module["KIND"], given)
        if "second" in given:
            output = {**given, "top_prob": np.stack([given["confidence"], given["second"]], axis=1)}
        ran.put(slice(None), at, module["step"](k, output, state, given.get("features")))
    return ran
