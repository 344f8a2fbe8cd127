"""A policy as one C99 header: no malloc, nothing of libc but ``math.h``, static sizes.

The same arithmetic as `policyopt.runtime`: of classes in float32, of a row in float64, sums in the same order; only
`exp`, `log` and their kin may differ in the last bits.

An exit's graph becomes a function's body: a number with one reader is computed where it is read (chains of
elementwise operations are one loop), others stand in a variable or an array. What an exit leaves stands in fields
of the state; what only grows at its end keeps its field. In all texts ``@`` stands for the header's prefix.
"""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt.runtime._arithmetic import key_of
from policyopt.runtime._certificate import comment
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import any_to_dict
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._typing import Array

from .c_compiler import UNMEASURED, measured
from .c_functions import TYPES, function
from .golden import costs_by_level, words
from .graph import ELEMENTWISE, ExitGraph, Node, ordered
from .routes import RouteGraphs

#: How elementwise operations are written: of operands {0}, {1}, ..., or all of them, `bare`; `f` ends the
#: names of functions of float.
_WRITTEN = {
    **{op: f"({{0}} {sign} {{1}})" for op, sign in {
        "add": "+", "sub": "-", "mul": "*", "div": "/", "ge": ">=", "gt": ">", "le": "<=", "lt": "<",
        "eq": "==", "ne": "!=", "and": "&&", "or": "||",
    }.items()},
    **{op: f"{op}{{f}}({{bare}})" for op in ("exp", "log", "log1p", "sqrt", "tanh", "pow")},
    "abs": "fabs{f}({bare})", "neg": "(-{0})", "not": "(!{0})", "where": "({0} ? {1} : {2})",
    "cast": "({to}){0}", "isfinite": "(fabs{f}({bare}) <= {most})",
    "isinf": "(fabs{f}({bare}) > {most})",
}  # fmt: skip
#: The same of truth.
_TRUTHS = {"abs": "{0}", "maximum": "({0} || {1})", "minimum": "({0} && {1})"}
_COMPARED = ("ge", "gt", "le", "lt", "eq", "ne")
#: Along an axis.
_FOLDS = ("sum", "max", "min", "argmax")
#: One number after the other, each from those at the same place.
_POINTWISE = {*ELEMENTWISE, "where", "cast", "search", "interp", "lookup"}
#: May be computed one number at a time, where it is used.
_ANYWHERE = _POINTWISE | {"take", "linear", "distances"}
#: From so many floats on, numpy's sum is no longer from first to last.
_PAIRWISE = 8
#: An expression from here on gets a name.
_LONG = 72
#: Parameters of a summary, in order.
_COLUMNS = {
    "prediction": "int32_t prediction", "confidence": "double confidence",
    "second": "double second", "entropy": "double entropy",
}  # fmt: skip
#: Headers of C that a file of that name would shadow.
_STANDARD = (
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|std(align|arg|atomic|bit|bool"
    "|ckdint|def|int|io|lib|noreturn)|string|tgmath|threads|time|u?w?char|wctype"
)
#: An index into one axis: a number, or the name of a loop's variable.
Index = int | str
#: An array in memory: its name, and where in it.
Place = tuple[str, int]


def c_source(
    policy: Any, graphs: Sequence[ExitGraph], name: str = "policyopt_policy", sizes: bool = True
) -> str:
    """Return a policy as a C header, `name` before all its names; `sizes`: told where a compiler measures them."""
    check_name(name)
    text = _source(policy, graphs).replace("@@", name.upper()).replace("@", name)
    return text.replace(UNMEASURED, measured(text), 1) if sizes else text


def routes_source(policy: RoutingPolicy, name: str = "policyopt_policy") -> str:
    """Return a routing policy as a C header, `name` before all its names."""
    check_name(name)
    made, shared, kind = RouteGraphs(policy), _Shared(), policy.observer.kind
    fields = dict[str, Node]()
    start, look, stand = made.parts()
    for graph in (start, stand):  # what is read of the state
        fields |= {n[7:]: x for n, x in graph.inputs.items() if n.startswith("state->")}
    given = dict.fromkeys(kind.record * ("prediction", "confidence") or (policy.kind,))
    parameters = [_COLUMNS.get(n, f"const float *{n}") for n in given]
    parameters += ["double cost"] * policy.needs_costs
    paid = "cost >= 0.0 && cost <= DBL_MAX" if policy.needs_costs else ""
    check = " && ".join(filter(None, (_check(policy, look, shared), paid))) or "1"
    to = {n: f"state->{n}[place]" for n in ("prediction", "confidence") if n in fields}
    seen = [f"{place} = {n};" for n, place in to.items()]
    if kind.whole:
        seen = _put(
            look, to | {"log_prob": f"(state->log_prob + place * {policy.classes})"}, shared
        )
    seen += ["state->paid[0] += cost;"] * policy.needs_costs
    then = {"prediction": "decision->prediction", "gain": "decision->gain", "after": "state->at[0]"}
    bodies = {
        "begin": _put(start, {"at": "state->at[0]", "known": "state->known"}, shared), "look": seen,
        "decide": _put(stand, then | {"model": "state->place"}, shared),
    }  # fmt: skip
    tables = {"alone": made.alone, "path": made.numbers}
    names = {n: shared.table(n, table, np.int32) for n, table in tables.items()}
    size = sum(x.size * x.dtype.itemsize for x in fields.values())
    query = ["", ", const float *query", ", query"] if "query" in start.inputs else [""] * 3
    text = (_ROUTES_HEAD + _PROLOGUE + _ROUTES_TEXT + _EPILOGUE).format(
        models=policy.model_exits, places=len(made.active), state=size + 4, check=check,
        given=", ".join(parameters), **_common(policy, shared),
        fields="".join(f"    {TYPES[x.dtype.name]} {n}[{x.size}];\n" for n, x in fields.items()),
        zeros=_zeros((n, x.size) for n, x in fields.items()), query=query[1], of_query=query[2],
        **names, **{n: "".join(f"    {line}\n" for line in lines) for n, lines in bodies.items()},
    )  # fmt: skip
    text = text.replace("@@", name.upper()).replace("@", name)
    return text.replace(UNMEASURED, measured(text), 1)


def _common(policy: Any, shared: _Shared) -> dict[str, Any]:
    """Return what any header says of its policy, once its bodies are written."""
    own = json.dumps(any_to_dict(policy), sort_keys=True, allow_nan=False)
    said = comment(policy)
    return {
        "kind": policy.kind, "classes": policy.classes, "unit": string(policy.unit), "code": UNMEASURED,
        "number": f"0x{hashlib.sha256(own.encode()).hexdigest()[:8]}", "bytes": shared.bytes,
        "certified": textwrap.indent(textwrap.fill(said, 96), "   ") + "\n" * bool(said),
        "tables": "".join(f"{line}\n" for line in shared.lines),
        "functions": "\n".join(shared.functions.values()),
    }  # fmt: skip


def _put(graph: ExitGraph, to: Mapping[str, str], shared: _Shared) -> list[str]:
    """Return statements that put what a graph says where it goes."""
    body, last = _Body(graph, [], [], shared), []
    for node in body.main:
        body._write(node)
    for name, node in graph.outputs.items():
        kind = TYPES[node.dtype.name]
        if node.size > 1:
            body.loop(node.shape, lambda ix, n=name, x=node: body.add(
                f"{to[n]}[{_flat(ix, x.shape)}] = {_strip(body.value(x, ix))};"
            ))  # fmt: skip
            continue
        body.add(f"const {kind} said_{name} = {_strip(body.value(node))};")
        kind = "int32_t" if name in ("prediction", "model") else kind
        last.append(f"{to[name]} = ({kind})said_{name};")  # after all that reads what was there
    return ["{", *_indented(body.lines + last), "}"]


def _zeros(fields: Iterable[tuple[str, int]]) -> str:
    """Return statements that set the arrays of a state: what exits have left compilers cannot see."""
    return "".join(
        f"    for (int i = 0; i < {n}; ++i) state->{name}[i] = 0;\n" for name, n in fields
    )


def check_name(name: str) -> None:
    """Refuse what is no prefix of C's names, or is a header of C's own."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or re.fullmatch(_STANDARD, name):
        allowed = "a C identifier in small letters, at most 41 long, and no header of C's own"
        raise input_error("name", allowed, name, "E.g. easy_model.")


# Spelling.
def literal(value: Any, dtype: np.dtype[Any]) -> str:
    """Return a number as C writes it, to the same bits."""
    if dtype.kind != "f":
        number = int(value)
        text = f"INT64_C({number})" if abs(number) >= 1 << 31 else str(number)
    elif np.isfinite(value):  # the shortest decimals that are read back as the same number
        text = str(np.float32(value)) + "f" if dtype.itemsize == 4 else repr(float(value))
    else:
        text = "NAN" if np.isnan(value) else "INFINITY"
        text = text if dtype.itemsize == 4 else f"((double){text})"
        return f"(-{text})" if value < 0 else text
    return f"({text})" if text.startswith("-") or value < 0 else text


def string(text: str) -> str:
    r"""Return a text as a C string of UTF-8: every byte that C, its preprocessor or our templates read is octal."""
    plain = lambda byte: byte < 128 and (chr(byte).isalnum() or chr(byte) in " .,/%-_")  # noqa: E731
    given = text.encode("utf-8", "replace")
    return '"' + "".join(chr(b) if plain(b) else f"\\{b:03o}" for b in given) + '"'


def _strip(text: str) -> str:
    """Return an expression without parentheses around the whole of it."""
    depth = 0
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[1:-1] if at and at == len(text) - 1 and text[0] == "(" else text
    return text


def _strides(shape: Sequence[int]) -> list[int]:
    """Return how many numbers lie between neighbours of each axis."""
    return [int(np.prod(shape[axis + 1 :], dtype=np.int64)) for axis in range(len(shape))]


def _flat(index: Sequence[Index], shape: Sequence[int], offset: int = 0) -> str:
    """Return the place of an element in memory."""
    terms = []
    for at, size, stride in zip(index, shape, _strides(shape), strict=True):
        if isinstance(at, int):
            offset += at * stride
        elif size > 1:
            terms.append(at if stride == 1 else f"{stride} * {at}")
    return " + ".join(([str(offset)] if offset or not terms else []) + terms)


def _pointer(name: str, at: str) -> str:
    return name if at == "0" else f"({name} + {at})"


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of what is put into memory: truth is an int."""
    return np.dtype(np.int32) if dtype.kind == "b" else dtype


def _indented(lines: Sequence[str]) -> list[str]:
    return [line if line.startswith("#") else "    " + line for line in lines]


# What nodes are.
def _squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(size for size in shape if size != 1)


def _outer(node: Node) -> int:
    """How many numbers a node's axis is repeated for, by its operand."""
    return int(np.prod(node.args[0].shape[: node.attrs["axis"]], dtype=np.int64))


def _is_view(node: Node) -> bool:
    """Whether a node is another's numbers, looked at otherwise; widened ones included."""
    if node.op == "reshape":
        return _squeezed(node.shape) == _squeezed(node.args[0].shape)
    costly = node.op == "cast" and node.args[0].dtype.kind == "f" and node.dtype != np.float64
    return node.op == "slice" or (node.op == "cast" and not costly)


def _base(node: Node) -> Node:
    """Return what a node is after reshaping only: the same numbers in the same order."""
    while node.op == "reshape":
        node = node.args[0]
    return node


def _addressed(node: Node) -> tuple[Node, int]:
    """Return what lies in memory where a node's numbers are read by address, and where in it they begin."""
    offset = 0
    while node.op == "reshape" or (node.op == "slice" and _outer(node) == 1):
        if node.op == "slice":
            offset += node.attrs["start"] * _strides(node.args[0].shape)[node.attrs["axis"]]
        node = node.args[0]
    return node, offset


def _widened(node: Node) -> bool:
    """Whether a node is float32 widened to float64, which the functions do themselves."""
    return node.op == "cast" and node.args[0].dtype == np.float32 and node.dtype == np.float64


def _read_by_address(user: Node) -> Iterator[Node]:
    """Yield the nodes in memory that a node reads by address."""
    if user.op in ("linear", "distances"):
        x = user.args[0]
        yield _addressed(x.args[0] if _widened(x) else x)[0]
    elif user.op in (*_FOLDS, "minimum_at", "reduce") or (
        user.op == "reshape" and not _is_view(user)
    ):
        yield _addressed(user.args[0])[0]


# The state.
@dataclass(eq=False)
class _Field:
    """Of the state; `size` is the most it holds."""

    name: str
    dtype: np.dtype[Any]
    size: int = 0


#: Where what is left goes, and how many of its numbers are there already.
Left = tuple[_Field, int]


def _state_fields(graphs: Sequence[ExitGraph]) -> tuple[list[_Field], list[list[Left]]]:
    """Give all that exits leave a field: what only grows at its end keeps its own, others get an empty one."""
    fields: list[_Field] = []
    found: list[list[Left]] = []
    held: list[_Field] = []  # by the states of the exit
    for graph in graphs:
        place = {id(node): field for node, field in zip(graph.states, held, strict=True)}
        given: dict[int, Left] = {}
        nodes = [_base(node) for node in graph.left]
        grown = [_base(n.args[0]) if n.op == "concat" and _outer(n) == 1 else n for n in nodes]
        for i, first in [*enumerate(nodes), *enumerate(grown)]:
            if i not in given and id(first) in place:
                given[i] = place.pop(id(first)), first.size
        for i, node in enumerate(nodes):
            if i not in given:
                taken = [*held, *(field for field, _ in given.values())]
                dtype = _stored(node.dtype)
                empty = [f for f in fields if f.dtype == dtype and f not in taken]
                if not empty:
                    empty = [_Field(f"kept{len(fields)}", dtype)]
                    fields += empty
                given[i] = empty[0], 0
            given[i][0].size = max(given[i][0].size, node.size)
        found.append([given[i] for i in range(len(nodes))])
        held = [field for field, _ in found[-1]]
    return fields, found


class _Shared:
    """Tables and functions of the header, each written once."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes = 0
        self.functions: dict[str, str] = {}
        self._named: dict[Any, str] = {}

    def use(self, which: str) -> str:
        """Return the C name of a function; it will be written out."""
        self.functions.setdefault(which, function(which))
        return f"@_{which}"

    def table(self, what: str, values: Array, dtype: Any = None) -> str:
        """Return the name of a table of numbers, row by row in memory."""
        array = np.ascontiguousarray(values, dtype=dtype or _stored(values.dtype))
        key = array.dtype.str, array.tobytes()
        if key not in self._named:
            self._named[key] = name = f"@_{what}{len(self._named)}"
            self.bytes += array.nbytes
            numbers = ", ".join(_strip(literal(x, array.dtype)) for x in array.ravel())
            self.lines += [
                f"/* {' x '.join(map(str, array.shape))} */",
                f"static const {TYPES[array.dtype.name]} {name}[{array.size}] = {{",
                *textwrap.wrap(numbers, 92, initial_indent="    ", subsequent_indent="    "),
                "};",
            ]
        return self._named[key]


class _Body:
    """Writes one exit's function; `held`: fields of its states."""

    def __init__(
        self, graph: ExitGraph, held: Sequence[_Field], left: Sequence[Left], shared: _Shared
    ) -> None:
        self.graph, self.left, self.shared = graph, left, shared
        self.lines: list[str] = []
        self.names: dict[int, str] = {}  # of single numbers
        self.places: dict[int, Place] = {}  # of arrays
        self.home: dict[int, Place] = {}  # where an array is to be written, known beforehand
        self.count = 0
        # What is computed, in order, and what of it is read by whom.
        said = [node for name, node in graph.outputs.items() if name != "probabilities"]
        wanted = [*graph.outputs.values(), *graph.left]
        self.main = ordered([*said, *graph.left])
        self.nodes = ordered([*said, *graph.left, *wanted])  # then those of probabilities alone
        self.users: dict[int, list[tuple[Node, Node]]] = {}
        pairs = [(node, arg) for node in self.nodes for arg in node.args]
        for user, arg in [*pairs, *((node, node) for node in wanted)]:
            self.users.setdefault(id(arg), []).append((user, arg))
        self.in_memory = {id(n) for user in self.nodes for n in _read_by_address(user)}
        self.in_memory |= {id(_base(n)) for n in graph.left if n.size > 1}
        for name, node in graph.inputs.items():
            if node.dtype == np.float32 or name.startswith("state->"):  # arrays, by address
                self.places[id(node)] = (name, 0)
            else:
                self.names[id(node)] = f"state->{name}" if name in ("sample", "level") else name
        for node, field in zip(graph.states, held, strict=True):
            self.places[id(node)] = (f"state->{field.name}", 0)
        # Arrays that are left are computed in their fields, which hold nothing that is read.
        for whole, (field, there) in zip(graph.left, left, strict=True):
            node, home = _base(whole), (f"state->{field.name}", 0)
            if there < node.size > 1 and self.home.setdefault(id(node), home) == home and there:
                for part in node.args[1:]:
                    if part.size > 1 and _base(part).op != "concat":
                        self.home.setdefault(id(_base(part)), (home[0], there))
                    there += part.size

    def _readers(self, node: Node) -> list[tuple[Node, Node]]:
        """Return who reads a node, through views, and as which operand; who is wanted outside reads itself."""
        found = []
        for user, arg in self.users.get(id(node), []):
            through = user is not arg and _is_view(user) and id(user) not in self.in_memory
            found += self._readers(user) if through else [(user, arg)]
        return found

    def _is_stored(self, node: Node) -> bool:
        if node.op in ("input", "const", "field"):
            return False
        if id(node) in self.in_memory:
            return True
        if _is_view(node) or node.op == "reshape":
            return False
        readers = self._readers(node)
        if node.op not in _ANYWHERE or len(readers) != 1:
            return True
        user, arg = readers[0]
        if user is arg:
            return True  # outputs have names
        if node.size == 1:
            return user.size > 1  # so has what loops read
        return user.op in _POINTWISE and user.size != arg.size

    def text(self) -> list[str]:
        """Return the lines of the body, without indentation of their own."""
        said = self.graph.outputs
        for node in self.main:
            self._write(node)
        leave = self.named("int", self.value(said["exit"]))
        for name in ("prediction", "score", "confidence", "abstained"):
            if name not in said:
                continue
            value = self.value(said[name])
            value = f"(int32_t){value}" if said[name].dtype == np.int64 else _strip(value)
            self.add(f"decision->{name} = {value};")
        if "probabilities" in said:
            self.add("#ifdef @@_PROBABILITIES")
            self._block("{", lambda: self._probabilities(said["probabilities"]))
            self.add("#endif")
        self._leave()
        return [*self.lines, f"return {_strip(leave)};"]

    def add(self, *lines: str) -> None:
        self.lines += lines

    def _block(self, head: str, body: Callable[[], None]) -> None:
        """Write what a function writes inside of braces."""
        before, self.lines = self.lines, []
        body()
        self.lines = [*before, head, *_indented(self.lines), "}"]

    def loop(
        self, shape: Sequence[int], body: Callable[[tuple[Index, ...]], None],
        index: tuple[Index, ...] = (),
    ) -> None:  # fmt: skip
        """Write loops over a shape around what a function of the index writes."""
        if not shape:
            body(index)
        elif shape[0] == 1:
            self.loop(shape[1:], body, (*index, 0))
        else:
            i = "ijkln"[sum(isinstance(at, str) for at in index)]
            head = f"for (int {i} = 0; {i} < {shape[0]}; ++{i}) {{"
            self._block(head, lambda: self.loop(shape[1:], body, (*index, i)))

    def _probabilities(self, node: Node) -> None:
        to = "decision->probabilities"
        self.home.setdefault(id(node), (to, 0))
        for each in self.nodes[len(self.main) :]:
            self._write(each)
        if self.places.get(id(node)) != (to, 0):
            self.loop(node.shape, lambda ix: self.add(
                f"{to}[{_flat(ix, node.shape)}] = {_strip(self.value(node, ix))};"
            ))  # fmt: skip

    def _leave(self) -> None:
        """Put what is left where it goes."""
        for node, (field, there) in zip(self.graph.left, self.left, strict=True):
            base, name = _base(node), f"state->{field.name}"
            if there == node.size or self.places.get(id(base)) == (name, 0):
                continue
            if node.size == 1:
                self.add(f"{name}[0] = {_strip(self.value(node))};")
            else:
                self.loop((node.size,), lambda ix, base=base, name=name: self.add(
                    f"{name}[{ix[0]}] = {self._element(base, str(ix[0]))};"
                ))  # fmt: skip

    def _write(self, node: Node) -> None:
        """Write the statements of a node that is stored."""
        if not self._is_stored(node):
            return
        if node.op == "reduce":
            self._reduce(node)
        elif node.op == "concat":
            self._concat(node)
        elif node.size == 1:
            value = self._compute(node, (0,) * len(node.shape))
            # What has its address taken needs a name of its own.
            value = f"({value})" if id(node) in self.in_memory else value
            self.names[id(node)] = self.named(TYPES[node.dtype.name], value)
        else:
            name, offset = self._target(node)
            self.loop(node.shape, lambda ix: self.add(
                f"{name}[{_flat(ix, node.shape, offset)}] = "
                f"{_strip(self._compute(node, ix))};"
            ))  # fmt: skip

    def _target(self, node: Node) -> Place:
        """Give an array its memory."""
        if id(node) not in self.home:
            name = self._new("a")
            self.add(f"{TYPES[node.dtype.name]} {name}[{node.size}];")
            self.home[id(node)] = (name, 0)
        self.places[id(node)] = place = self.home[id(node)]
        return place

    def _new(self, letter: str) -> str:
        self.count += 1
        return f"{letter}{self.count}"

    def named(self, kind: str, value: str) -> str:
        """Return a name, or number, for an expression; a variable where it has none."""
        if value.replace(".", "").isalnum():  # a name or a number
            return value
        name = self._new("v")
        self.add(f"const {kind} {name} = {_strip(value)};")
        return name

    def value(self, node: Node, index: Sequence[Index] | None = None) -> str:
        """Return a number of a node as an expression; `index` may be that of a wider one."""
        index = (0,) * len(node.shape) if index is None else index
        index = tuple(index)[len(index) - len(node.shape) :]
        index = tuple(0 if size == 1 else at for at, size in zip(index, node.shape, strict=True))
        if id(node) in self.names:
            return self.names[id(node)]
        if id(node) in self.places:
            name, offset = self.places[id(node)]
            return f"{name}[{_flat(index, node.shape, offset)}]"
        text = self._compute(node, index)
        return self.named(TYPES[node.dtype.name], text) if len(text) > _LONG else text

    def _memory(self, node: Node) -> Place:
        """Return where a node's numbers begin."""
        memory, offset = _addressed(node)
        if memory.op == "const":
            return self.shared.table("const", memory.attrs["value"]), offset
        if id(memory) in self.names:
            return f"(&{self.names[id(memory)]})", offset
        name, start = self.places[id(memory)]
        return name, start + offset

    def _element(self, node: Node, at: str) -> str:
        """Return the number of a node at a place in memory."""
        name, offset = self._memory(node)
        return f"{name}[{offset} + {at}]" if offset else f"{name}[{at}]"

    def address(self, node: Node, index: Sequence[Index] = ()) -> str:
        """Return the address of a node's numbers, or of those from an index on."""
        name, offset = self._memory(node)
        return _pointer(name, _flat(index or (0,) * len(node.shape), node.shape, offset))

    def _compute(self, node: Node, index: tuple[Index, ...]) -> str:
        a = node.attrs
        x = node.args[0] if node.args else node
        match node.op:
            case "const":
                values = a["value"]
                one = values.ravel()[:1].tobytes()
                if values.tobytes() == one * values.size:  # 0.0 is not -0.0
                    return literal(values.ravel()[0], node.dtype)
                return f"{self.shared.table('const', values)}[{_flat(index, node.shape)}]"
            case "reshape" if _is_view(node):
                kept = iter([at for at, size in zip(index, node.shape, strict=True) if size != 1])
                return self.value(x, [0 if size == 1 else next(kept) for size in x.shape])
            case "reshape":
                return self._element(x, _flat(index, node.shape))
            case "slice":
                at, start = index[a["axis"]], a["start"]
                if start:
                    at = at + start if isinstance(at, int) else f"({at} + {start})"
                return self.value(x, (*index[: a["axis"]], at, *index[a["axis"] + 1 :]))
            case "take":
                axis = a["axis"]
                at = self._picked(node.args[1], (0,), x.shape[axis])
                return self.value(x, (*index[:axis], at, *index[axis:]))
            case "lookup":
                table, depth = np.asarray(a["table"]), len(x.shape)
                at = self._picked(x, index[:depth], len(table))
                name = self.shared.table("table", table)
                return f"{name}[{_flat((at, *index[depth:]), table.shape)}]"
            case "search" if not len(a["edges"]):  # one bin; C has no empty tables
                return "INT64_C(0)"
            case "search":
                edges = self.shared.table("edges", a["edges"], np.float64)
                called = self.shared.use(f"search_{a['side']}")
                return f"{called}({self._double(x, index)}, {edges}, {len(a['edges'])})"
            case "interp":
                tables = [self.shared.table(n, a[n], np.float64) for n in ("knots", "values")]
                given = ", ".join([self._double(x, index), *tables, str(len(a["knots"]))])
                self.shared.use("search_right")  # which it calls
                return f"{self.shared.use('interp')}({given})"
            case "linear":
                return self._row(node, index[1], a["weight"], "dot", "weight")
            case "distances":
                return self._row(node, index[1], a["points"], "distance", "points")
            case "sum" | "max" | "min" | "argmax":
                axis, stride = a["axis"], _strides(x.shape)[a["axis"]]
                place = self.address(x, (*index[:axis], 0, *index[axis:]))
                given = f"{place}, {x.shape[axis]}"
                apart = stride > 1 or x.shape[axis] < _PAIRWISE
                if node.op == "sum" and x.dtype.kind == "f" and not apart:
                    return f"{self.shared.use(f'pairwise_{x.dtype.name}')}({given})"
                return f"{self.shared.use(f'{node.op}_{x.dtype.name}')}({given}, {stride})"
            case "minimum_at":
                starts, g = np.asarray(a["starts"]), index[1]
                if (np.diff(starts) <= 0).any():
                    raise input_error(
                        "policy", "made of operations that C knows",
                        "minimum of runs that are not one after the other",
                        "Export it to Python instead.",
                    )  # fmt: skip
                runs = self.shared.table("runs", np.append(starts, x.shape[1]), np.int32)
                called = self.shared.use(f"min_{x.dtype.name}")
                size = f"{runs}[{g} + 1] - {runs}[{g}]"
                return f"{called}({self.address(x)} + {runs}[{g}], {size}, 1)"
            case "coin":
                key = key_of(a["seed"], a["stream"])
                return f"{self.shared.use('coin')}({self.value(x)}, UINT64_C({key:#x}))"
        return self._pointwise(node, [self.value(arg, index) for arg in node.args])

    def _pointwise(self, node: Node, args: list[str]) -> str:
        """Return an elementwise operation, a choice or a cast of expressions."""
        x, op = node.args[0], node.op
        if op in _COMPARED and x.dtype.kind != "f" and args[0] == args[1]:
            args = [args[0], f"(0 + {args[1]})"]  # of the same with itself compilers warn
        bare = ", ".join(map(_strip, args))
        written = _TRUTHS.get(op, _WRITTEN.get(op)) if x.dtype.kind == "b" else _WRITTEN.get(op)
        if op == "cast" and node.dtype.kind == "b":
            return f"({args[0]} != 0)"
        if written is None or (op == "abs" and x.dtype.kind == "i"):
            return f"{self.shared.use(f'{op}_{x.dtype.name}')}({bare})"
        f, most = ("f", "FLT_MAX") if x.dtype == np.float32 else ("", "DBL_MAX")
        return written.format(*args, bare=bare, f=f, most=most, to=TYPES[node.dtype.name])

    def _double(self, node: Node, index: tuple[Index, ...]) -> str:
        text = _strip(self.value(node, index))
        return text if node.dtype == np.float64 else f"(double)({text})"

    def _row(self, node: Node, row: Index, rows: Array, which: str, what: str) -> str:
        x = node.args[0]
        if _widened(x) and id(x) not in self.places:
            x = x.args[0]
        at = _pointer(self.shared.table(what, rows, np.float64), _flat((row, 0), rows.shape))
        return f"{self.shared.use(f'{which}_{x.dtype.name}')}({self.address(x)}, {at}, {rows.shape[1]})"

    def _picked(self, node: Node, index: tuple[Index, ...], size: int) -> str:
        """Return an index by value as a name: -1 is the last."""
        kind = TYPES[node.dtype.name]
        given = self.named(kind, self.value(node, index))
        if _base(node).attrs.get("name") == "prediction" and _base(node).op == "field":
            return given  # a class that was found here
        self.add(f"if ({given} < {-size} || {given} >= {size}) return @@_BAD_INPUT;")
        name = self._new("at")
        at = f"{given} < 0 ? {given} + {size} : {given}"
        self.add(f"const {kind} {name} = {at};", f"(void){name};")  # of one number it is not read
        return name

    def _concat(self, node: Node) -> None:
        axis, start = node.attrs["axis"], 0
        name, offset = self._target(node)
        for part in node.args:
            at = offset + start * _strides(node.shape)[axis]
            # What a state holds already, and what was written there at once, stays.
            if self.places.get(id(_base(part))) != (name, at) or _outer(node) > 1:
                self.loop(part.shape, lambda ix, part=part, at=at: self.add(
                    f"{name}[{_flat(ix, node.shape, at)}] = "
                    f"{_strip(self.value(part, ix))};"
                ))  # fmt: skip
            start += part.shape[axis]

    def _reduce(self, node: Node) -> None:
        """`runtime._outputs.reduce_logits`, as far as its columns are read."""
        fields = {n.attrs["name"]: n for n in self.nodes if n.op == "field" and n.args[0] is node}
        columns = [fields[name] for name in ("top_prob", "top_class") if name in fields]
        ranks = max([1, *(
            user.attrs["stop"] if user.op == "slice" else column.shape[1]
            for column in columns for user in self.nodes if column in user.args
        )])  # fmt: skip
        x, size, use, add = self.address(node.args[0]), node.args[0].size, self.shared.use, self.add
        tag = self._new("")
        best, peak, rest, sums, gaps, classes, tops = (
            f"{what}{tag}" for what in ("best", "peak", "rest", "sums", "gaps", "class", "top")
        )
        add(f"const int {best} = {use('best')}({x}, {size});")
        add(f"if ({best} < 0) return @@_BAD_INPUT;")
        summed = fields.keys() & {"top_prob", "entropy", "log_sum_exp"}
        if summed or ranks > 1:
            add(f"const float {peak} = {x}[{best}];")
        if "entropy" in fields:
            add(f"float {sums}[2];", f"{use('spread')}({x}, {best}, {peak}, {size}, {sums});")
            add(f"const double {rest} = (double){sums}[0];")
        elif summed:
            add(f"const double {rest} = (double){use('rest')}({x}, {best}, {peak}, {size});")
        raw = f"log1p({rest}) - (double){sums}[1] / (1.0 + {rest})"
        known = {
            "prediction": best, "top_class": best, "top_prob": f"1.0 / (1.0 + {rest})",
            "log_sum_exp": f"(double){peak} + log1p({rest})",
            "entropy": f"{use('maximum_float64')}({raw}, 0.0)" if "entropy" in fields else "",
        }  # fmt: skip
        if ranks > 1:
            add(f"float {gaps}[{ranks - 1}];", f"int32_t {classes}[{ranks}];")
            given = f"{x}, {size}, {best}, {peak}, {ranks - 1}, {gaps}, &{classes}[1]"
            add(f"{use('next')}({given});", f"{classes}[0] = {best};")
            if "top_class" in fields:
                self.places[id(fields["top_class"])] = (classes, 0)
            if "top_prob" in fields:
                self.places[id(fields["top_prob"])] = (tops, 0)
                add(f"double {tops}[{ranks}];", f"{tops}[0] = {known['top_prob']};")
                for r in range(1, ranks):
                    gap = f"(double){gaps}[{r - 1}]"
                    add(f"{tops}[{r}] = exp({gap}) / (1.0 + {rest});")
        for name, node in fields.items():
            if id(node) not in self.places:
                self.names[id(node)] = self.named(TYPES[node.dtype.name], known[name])


def _source(policy: Any, graphs: Sequence[ExitGraph]) -> str:
    """Return the header of a policy, with ``@`` and ``@@`` for the prefix, and nothing of its code's size."""
    kind, shared = policy.observer.kind, _Shared()
    record = kind.record
    fields, left = _state_fields(graphs)
    read = {name for graph in graphs for name in graph.inputs}
    given = {policy.kind: f"const float *{policy.kind}", "features": "const float *features"}
    always = {"prediction", "confidence"} if record else {policy.kind}
    given = {n: t for n, t in (_COLUMNS if record else given).items() if n in read | always}
    parameters, names = ", ".join(given.values()), ", ".join(given)
    exits, calls, held = [], "", []
    for graph, goes in zip(graphs, left, strict=True):
        at, check = graph.position, _check(policy, graph, shared)
        body = _Body(graph, held, goes, shared).text()
        held = [field for field, _ in goes]
        exits += [
            f"/* Exit {graph.exit} of the model, {at + 1} of {len(graphs)} on the path. */",
            f"static int @_at{at}(@_state *state, {parameters}, @_decision *decision) {{",
            "    " + " ".join(f"(void){n};" for n in ("state", *given)),
            *_indented([f"if (!({check})) return @@_BAD_INPUT;"] if check else []),
            *_indented(body), "}", "",
        ]  # fmt: skip
        calls += f"    case {at}: leave = @_at{at}(state, {names}, decision); break;\n"
    plain = lambda text: re.sub(r"[^\w .-]", "?", text, flags=re.ASCII)  # noqa: E731
    return (_HEAD + _PROLOGUE + _TEXT + _EPILOGUE).format(
        rule=plain(words(policy, "rule")), answer=plain(words(policy, "answer")), **_levels(policy),
        exits=policy.exits, of=policy.model_exits, **_common(policy, shared),
        state=8 * (2 + sum(-(-f.size * f.dtype.itemsize // 8) for f in fields)),
        more=_MORE if kind.whole else "",
        said=_SAID.get(policy.kind.partition("_")[0], _SAID["logits"]),
        path=", ".join(map(str, policy.active_exits)),
        fields="".join(f"    {TYPES[f.dtype.name]} {f.name}[{f.size}];\n" for f in fields),
        abstained="    int abstained;      /* it leaves unanswered, to be handed over */\n" if policy.abstains else "",
        answered="    decision->abstained = 0;\n" if policy.abstains else "",
        probabilities=_PROBABILITIES.format(classes=policy.classes) if kind.whole else "",
        bodies="\n".join(exits), given=parameters, calls=calls,
        zeros=_zeros((f.name, f.size) for f in fields),
    )  # fmt: skip


def _levels(policy: Any) -> dict[str, str]:
    """Return what a header says of costs, and of the levels of a family."""
    costs = costs_by_level(policy)
    number = lambda c: literal(c, np.dtype(np.float64))  # noqa: E731
    if not isinstance(policy, PolicyFamily):
        table = ", ".join(map(number, costs[0]))
        body = f"    static const double cost[{policy.exits}] = {{{table}}};\n    return cost[position];"
        none = ("levels", "level_field", "level_given", "level_put", "level_told", "cost_given")
        return {**dict.fromkeys(none, ""), "cost_body": body}
    rows = ",\n".join(f"        {{{', '.join(map(number, row))}}}" for row in costs)
    body = f"    static const double cost[{len(costs)}][{policy.exits}] = {{\n{rows}\n    }};\n"
    body += "    return cost[level][position];"
    return {
        "levels": f"#define @@_LEVELS {len(costs)} /* of the family, from the cheapest: 0 */\n",
        "level_field": "    int64_t level; /* that serves it; steps refuse another than 0 to @@_LEVELS - 1 */\n",
        "level_given": ", int level", "level_told": ", level", "level_put": "    state->level = level;\n",
        "cost_given": ", int level", "cost_body": body,
    }  # fmt: skip


def _check(policy: Any, graph: ExitGraph, shared: _Shared) -> str:
    """Return what inputs must be, as a condition; empty where the exit finds out by itself."""
    checks, logits = [], graph.inputs.get("logits")
    name, width = policy.kind, policy.observer.kind.width(policy.classes)
    within = {
        "logit": "-INFINITY, FLT_MAX", "multilabel": "-INFINITY, FLT_MAX",
        "probability": "0.0f, 1.0f", "multilabel_probabilities": "0.0f, 1.0f",
    }  # fmt: skip
    if policy.kind == "probabilities":
        checks.append(f"{shared.use('probable')}(probabilities, {policy.classes})")
    elif policy.kind == "summary":
        checks.append("confidence >= 0.0 && confidence <= 1.0")
        checks += [f"{n} == {n}" for n in ("second", "entropy") if n in graph.inputs]
    elif policy.kind in within:
        checks.append(f"{shared.use('within')}({name}, {width}, {within[name]})")
    elif policy.observer.kind.scaled:
        checks.append(f"{shared.use('finite')}({name}, {width})")
        if width > policy.classes:
            more = f"{name} + {policy.classes}, {policy.classes}, 0.0f, FLT_MAX"
            checks.append(f"{shared.use('within')}({more})")
    elif not any(n.op == "reduce" and n.args[0] is logits for n in graph.order()):
        checks.append(f"{shared.use('best')}(logits, {policy.classes}) >= 0")
    if "features" in graph.inputs:
        checks.append(f"{shared.use('finite')}(features, {graph.inputs['features'].size})")
    return " && ".join(checks)


_HEAD = """\
/* @: early-exit policy, written by policyopt. Do not edit: export it again.

   Score '{rule}', answer '{answer}'; {exits} of the model's {of} exits, {classes} classes, {kind}.
{certified}
   Bytes: tables {bytes}, state {state}, {code}.

       @_state state;
       @_decision decision;
       @_start(&state, request_number{level_told});
       for (int i = 0; i < @@_EXITS; ++i) {{
           ... run the model up to exit @_path(i) ...
           const int leave = @_step(&state, @_path(i), ..., &decision);
           if (leave < 0) ... this output cannot be decided on: NaN, say (@@_BAD_INPUT) ...
           if (leave) break;
       }}
{more}
"""
_PROLOGUE = """\
   C99 or C++, needs math.h only (link with -lm); no memory is allotted and nothing is global.
   Classes are computed with in float, what there is one of per row in double, in the order of
   policyopt.runtime, whose decisions these are. Compile without -ffast-math, and clang besides without
   -ffp-contract=fast, which it sets above the header's own word that nothing be fused. */

#if defined(@@_H) && @@_POLICY != {number}
#error "two policies by the name @: export one of them by another (--name)"
#endif
#ifndef @@_H
#define @@_H
#define @@_POLICY {number}

#include <float.h>
#include <math.h>
#include <stdint.h>

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) \\
    || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "policyopt: compile without -ffast-math and the options it stands for, which change decisions"
#endif
/* By TS 18661-3 (C23 annex H), 0 computes every type as itself; 16 and 32 only widen what is narrower
   than float (_Float16, where a processor has it): float and double stay themselves. The others
   compute float as something wider (1, 2, 33, 64, ...: x87, say), or as it falls (-1). */
#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 && FLT_EVAL_METHOD != 32
#error "policyopt: float must be computed as float; on x86 use SSE for it: -msse2 -mfpmath=sse"
#endif
/* Products must be rounded before they are added: no fused multiply-add. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__) && (!defined(__STRICT_ANSI__) || defined(__cplusplus) || defined(__FP_FAST_FMA))
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")
#endif

"""
_TEXT = """\
#define @@_EXITS {exits} /* that the policy runs */
#define @@_MODEL_EXITS {of} /* that the model has */
#define @@_CLASSES {classes}
#define @@_UNIT {unit}
{levels}/* What a step returns. */
#define @@_LEAVE 1
#define @@_GO_ON 0
#define @@_WRONG_EXIT (-1)
#define @@_BAD_INPUT (-2)

/* The model's numbers of the exits to run, in turn, and the mean cost of a sample that leaves there. */
static inline int @_path(int position) {{
    static const int32_t path[{exits}] = {{{path}}};
    return path[position];
}}
static inline double @_cost(int position{cost_given}) {{
{cost_body}
}}

/* One sample between exits. */
typedef struct {{
    int64_t sample; /* its number: counter of the coin */
{level_field}{fields}    int32_t next; /* position of the exit that is due */
}} @_state;

typedef struct {{
    int32_t prediction; /* {said} */
    double score;       /* leaves from the threshold on */
    double confidence;  /* probability that the prediction is right */
{abstained}{probabilities}}} @_decision;

{tables}
{functions}
{bodies}

/* Begin a sample. Its number matters to policies that draw; the same number, the same
   decisions. */
static inline void @_start(@_state *state, int64_t sample{level_given}) {{
    state->sample = sample;
{level_put}{zeros}    state->next = 0;
}}

/* Decide at the exit of a number: 1 leave, 0 go on; negative on misuse, after which the
   sample must be started anew. */
static inline int @_step(@_state *state, int exit, {given}, @_decision *decision) {{
    int leave = @@_WRONG_EXIT;
    decision->prediction = -1;
    decision->score = decision->confidence = 0.0;
{answered}    if (state->next < 0 || state->next >= @@_EXITS || exit != @_path(state->next))
        return @@_WRONG_EXIT;
    switch (state->next) {{
{calls}    }}
    if (leave >= 0) ++state->next;
    return leave;
}}
"""
_EPILOGUE = """
#if defined(__GNUC__) && !defined(__clang__) && (!defined(__STRICT_ANSI__) || \
defined(__cplusplus) || defined(__FP_FAST_FMA))
#pragma GCC pop_options
#endif

#endif /* @@_H */
"""
_ROUTES_HEAD = """\
/* @: routing policy, written by policyopt. Do not edit: export it again.

   Which of {models} models to ask first, and after each answer which next; {classes} classes, {kind}.
{certified}
   Bytes: tables {bytes}, state {state}, {code}.

       @_state state;
       @_decision decision;
       int model = @_start(&state, request_number{of_query});
       while (model >= 0) {{
           ... ask the model of that number ...
           model = @_step(&state, ..., &decision);
       }}
       if (model != @@_STOP) ... what it said cannot be decided on: NaN, say (@@_BAD_INPUT) ...

"""
_ROUTES_TEXT = """\
#define @@_MODELS {models}
#define @@_CLASSES {classes}
#define @@_UNIT {unit}
/* What a start and a step return where it is no model's number. */
#define @@_STOP (-1)
#define @@_BAD_INPUT (-2)

/* One sample between calls. */
typedef struct {{
{fields}    int32_t place; /* of the model that is asked */
}} @_state;

typedef struct {{
    int32_t prediction; /* class that would be answered now; -1 where nobody has answered */
    double gain;        /* of asking the model that comes next, or the best that might, instead of stopping */
}} @_decision;

{tables}
{functions}
/* Begin a sample: the number of the model to ask first. The same number, the same decisions. */
static inline int @_start(@_state *state, int64_t number{query}) {{
{zeros}    (void)number;
{begin}    state->place = {alone}[state->at[0]];
    return {path}[state->place];
}}

/* Take what that model said: the number of the model to ask next, or @@_STOP; @@_BAD_INPUT on misuse, after
   which the sample must be started anew. */
static inline int @_step(@_state *state, {given}, @_decision *decision) {{
    const int32_t place = state->place;
    decision->prediction = state->place = -1;
    decision->gain = 0.0;
    if (place < 0 || place >= {places} || !({check})) return @@_BAD_INPUT;
{look}{decide}    return state->place < 0 ? @@_STOP : {path}[state->place];
}}
"""
_SAID = {
    "logits": "class; -1 where the exit gave no answer",
    "multilabel": "of the set: bit c is label c, of 31 at most; of more a number to compare by",
    "regression": "0: the answer is the output itself",
}
_MORE = """
   Define @@_PROBABILITIES before the header is included to have the class probabilities of
   each answer in the decision, too; it costs one exp of a double per class.
"""
_PROBABILITIES = """\
#ifdef @@_PROBABILITIES
    double probabilities[{classes}];
#endif
"""
