"""A policy as one C99 header: no malloc, nothing of libc but ``math.h``, static sizes.

The same arithmetic as `policyopt.runtime`: of classes in float32, of a row in float64, sums in the
same order. Only `exp`, `log` and their kin may differ in the last bits, since every libm rounds them
as it does. Doubles are few per row; without them a score could fall on the other side of its
threshold, and the same policy would decide otherwise on the device than where it was evaluated.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from policyopt.runtime.artifact import to_dict
from policyopt.runtime.errors import input_error

from .c_body import Body
from .c_helpers import Helpers
from .c_plan import Slot, state_slots
from .c_run import Sizes, check_compiles, measured
from .c_text import TYPES, Numbers, literal, string
from .graph import ExitGraph

#: Parameters of a record, in order.
COLUMNS = {
    "prediction": "int32_t prediction", "confidence": "double confidence",
    "second": "double second", "entropy": "double entropy",
}  # fmt: skip
_KEYWORDS = {"int", "float", "double", "if", "for", "do", "while", "return", "static", "const"}


def c_source(
    policy: Any, graphs: Sequence[ExitGraph], name: str = "policyopt_policy", sizes: bool = True
) -> str:
    """Return a policy as the text of a C header.

    Parameters
    ----------
    policy : Policy
    graphs : sequence of K ExitGraph
        By `trace_policy`.
    name : str
        Prefix of all names in the header; a C identifier.
    sizes : bool
        Whether a compiler, where there is one, measures what the header takes, to be told in it,
        and tries the header.

    Returns
    -------
    str

    Raises
    ------
    InputError
        `name` is none, or an operation is unknown here.

    Examples
    --------
    >>> from policyopt.runtime.policy import Policy
    >>> from policyopt.runtime.scores import MaxProb
    >>> from policyopt.export.tracing import trace_policy
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> text = c_source(policy, trace_policy(policy), "demo")
    >>> "#define DEMO_EXITS 2" in text, "static inline int demo_step(" in text
    (True, True)
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", name) or name in _KEYWORDS:
        raise input_error(
            "name", "a C identifier in small letters, at most 41 long", name, "E.g. easy_model."
        )
    try:
        source = _Header(policy, graphs, name)
    except TypeError as error:
        raise input_error(
            "policy", "made of operations that C knows", str(error), "Export it to Python instead."
        ) from error
    if not sizes:
        return source.text(None)
    text = source.text(measured(source.text(None), name))
    check_compiles(text)
    return text


class _Header:
    def __init__(self, policy: Any, graphs: Sequence[ExitGraph], name: str) -> None:
        self.policy, self.graphs, self.name = policy, graphs, name
        self.upper = name.upper()
        self.numbers, self.helpers = Numbers(name), Helpers(name)
        self.slots, moves = state_slots(graphs)
        self.given = self._given()
        held: list[Slot] = []
        self.bodies = []
        for graph, move in zip(graphs, moves, strict=True):
            body = Body(
                graph, held, move, self.numbers, self.helpers, f"{self.upper}_BAD_INPUT",
                policy.kind == "record",
            )  # fmt: skip
            self.bodies.append(body.text())
            held = move.slots
        self.step = self._step()

    def _given(self) -> dict[str, str]:
        """Parameters of a step, by the name of the input."""
        read = {name for graph in self.graphs for name in graph.inputs}
        if self.policy.kind == "record":
            needed = {"prediction", "confidence"} | read
            return {n: text for n, text in COLUMNS.items() if n in needed}
        found = {self.policy.kind: f"const float *{self.policy.kind}"}
        if "features" in read:
            found["features"] = "const float *features"
        return found

    def text(self, sizes: Sizes | None) -> str:
        upper, name = self.upper, self.name
        parts = [
            self._comment(sizes), self._guard(), _INCLUDES,
            self._defines(), self._types(), "\n".join(self.numbers.lines), self.helpers.text,
            *self._exits(), self._start(), self.step,
            "#if defined(__GNUC__) && !defined(__clang__) && (!defined(__STRICT_ANSI__) || "
            "defined(__cplusplus) || defined(__FP_FAST_FMA))\n#pragma GCC pop_options\n#endif",
            f"#endif /* {upper}_H */",
        ]  # fmt: skip
        whole = "\n".join(part.strip("\n") + "\n" for part in parts if part)
        return whole.replace("@PROBABILITIES", f"{upper}_PROBABILITIES").replace("@", name)

    def _guard(self) -> str:
        """Include the header once; another policy's by the same name is refused."""
        own = json.dumps(to_dict(self.policy), sort_keys=True, allow_nan=False)
        number = f"0x{hashlib.sha256(own.encode()).hexdigest()[:8]}"
        u = self.upper
        return (
            f"#if defined({u}_H) && {u}_POLICY != {number}\n"
            f'#error "two policies by the name {self.name}: export one of them by another (--name)"\n'
            f"#endif\n#ifndef {u}_H\n#define {u}_H\n#define {u}_POLICY {number}\n"
        )

    def _comment(self, sizes: Sizes | None) -> str:
        p = self.policy
        code = "code not measured" if sizes is None else f"code {sizes.code} ({sizes.how})"
        stack = "" if sizes is None or sizes.stack is None else f", stack of a step {sizes.stack}"
        state = 8 * (2 + sum(-(-s.size * s.dtype.itemsize // 8) for s in self.slots))
        return _COMMENT.format(
            name=self.name, upper=self.upper, rule=p.rule.name, answer=p.answer.name,
            exits=p.exits, of=p.model_exits, classes=p.classes, kind=p.kind,
            tables=self.numbers.bytes, code=code, state=state, stack=stack,
            probabilities="" if p.kind == "record" else _PROBABILITIES.format(upper=self.upper),
        )  # fmt: skip

    def _defines(self) -> str:
        p, u = self.policy, self.upper
        doubles = np.dtype(np.float64)
        costs = ", ".join(literal(c, doubles) for c in p.costs)
        path = ", ".join(map(str, p.path))
        return f"""\
#define {u}_EXITS {p.exits} /* that the policy runs */
#define {u}_MODEL_EXITS {p.model_exits} /* that the model has */
#define {u}_CLASSES {p.classes}
#define {u}_UNIT {string(p.unit)}
/* What a step returns. */
#define {u}_LEAVE 1
#define {u}_GO_ON 0
#define {u}_WRONG_EXIT (-1)
#define {u}_BAD_INPUT (-2)

/* The model's numbers of the exits to run, in turn, and the mean cost of a sample that leaves there. */
static inline int {self.name}_path(int position) {{
    static const int32_t path[{p.exits}] = {{{path}}};
    return path[position];
}}
static inline double {self.name}_cost(int position) {{
    static const double cost[{p.exits}] = {{{costs}}};
    return cost[position];
}}
"""

    def _types(self) -> str:
        fields = [
            f"    {TYPES[s.dtype.name]} {s.name}{f'[{s.size}]' if s.size > 1 else ''};"
            for s in self.slots
        ]
        head = "typedef struct {\n    int64_t sample; /* its number: counter of the coin */\n"
        lines = "\n".join([*fields, "    int32_t next; /* position of the exit that is due */"])
        more = (
            ""
            if self.policy.kind == "record"
            else f"#ifdef @PROBABILITIES\n    double probabilities[{self.policy.classes}];\n#endif\n"
        )
        return f"""\
/* One sample between exits. */
{head}{lines}
}} @_state;

typedef struct {{
    int32_t prediction; /* class; -1 where the exit gave no answer */
    double score;       /* leaves from the threshold on */
    double confidence;  /* probability that the prediction is right */
{more}}} @_decision;
"""

    def _exits(self) -> list[str]:
        found = []
        for graph, body in zip(self.graphs, self.bodies, strict=True):
            state = "const @_state *state" if not graph.left else "@_state *state"
            given = [text for name, text in self.given.items() if name in graph.inputs]
            used = any("state->" in line for line in body)
            head = ", ".join([*([state] if used else []), *given, "@_decision *decision"])
            lines = [line if line.startswith("#") else "    " + line for line in body]
            found.append(
                f"/* Exit {graph.exit} of the model, {graph.position + 1} of {len(self.graphs)} "
                f"on the path. */\nstatic int @_at{graph.position}({head}) {{\n"
                + "\n".join(lines)
                + "\n}"
            )
        return found

    def _start(self) -> str:
        # Exits read what exits before them have left, which compilers cannot see: no unset numbers.
        zeros = [
            f"    for (int i = 0; i < {s.size}; ++i) state->{s.name}[i] = 0;"
            if s.size > 1
            else f"    state->{s.name} = 0;"
            for s in self.slots
        ]
        return "\n".join([
            "/* Begin a sample. Its number matters to policies that draw; the same number, the same",
            "   decisions. */",
            "static inline void @_start(@_state *state, int64_t sample) {",
            "    state->sample = sample;", *zeros, "    state->next = 0;", "}",
        ])  # fmt: skip

    def _step(self) -> str:
        u = self.upper
        cases = []
        for graph, body in zip(self.graphs, self.bodies, strict=True):
            used = any("state->" in line for line in body)
            args = [*(["state"] if used else []), *(n for n in self.given if n in graph.inputs)]
            call = f"@_at{graph.position}({', '.join([*args, 'decision'])})"
            check = self._check(graph)
            lines = [f"    case {graph.position}:"]
            if check:
                lines.append(f"        if (!({check})) return {u}_BAD_INPUT;")
            cases += [*lines, f"        leave = {call};", "        break;"]
        unused = "".join(
            f"    (void){name};\n"
            for name in self.given
            if all(name not in g.inputs and name not in self._check(g) for g in self.graphs)
        )
        return "\n".join([
            "/* Decide at the exit of a number: 1 leave, 0 go on; negative on misuse, after which the",
            "   sample must be started anew. */",
            f"static inline int @_step(@_state *state, int exit, {', '.join(self.given.values())}, "
            "@_decision *decision) {",
            f"    int leave = {u}_WRONG_EXIT;",
            *([unused.rstrip()] if unused else []),
            "    decision->prediction = -1;",
            "    decision->score = decision->confidence = 0.0;",
            f"    if (state->next < 0 || state->next >= {u}_EXITS || exit != @_path(state->next))",
            f"        return {u}_WRONG_EXIT;",
            "    switch (state->next) {", *cases, "    }",
            "    if (leave >= 0) ++state->next;", "    return leave;", "}",
        ])  # fmt: skip

    def _check(self, graph: ExitGraph) -> str:
        """Return what inputs must be, as a condition; empty where the exit finds out by itself."""
        checks = []
        if self.policy.kind == "probabilities":
            checks.append(f"{self.helpers.use('probable')}(probabilities, {self.policy.classes})")
        elif self.policy.kind == "logits":
            node = graph.inputs.get("logits")
            looks = any(n.op == "reduce" and n.args[0] is node for n in graph.order())
            if not looks:
                checks.append(f"{self.helpers.use('best')}(logits, {self.policy.classes}) >= 0")
        else:
            checks.append("confidence >= 0.0 && confidence <= 1.0")
            checks += [f"{n} == {n}" for n in ("second", "entropy") if n in graph.inputs]
        if "features" in graph.inputs:
            width = graph.inputs["features"].size
            checks.append(f"{self.helpers.use('finite')}(features, {width})")
        return " && ".join(checks)


_COMMENT = """\
/* {name}: early-exit policy, written by policyopt. Do not edit: export it again.

   Score '{rule}', answer '{answer}'; {exits} of the model's {of} exits, {classes} classes, {kind}.

   Bytes: tables {tables}, {code}, state {state}{stack}.

       {name}_state state;
       {name}_decision decision;
       {name}_start(&state, request_number);
       for (int i = 0; i < {upper}_EXITS; ++i) {{
           ... run the model up to exit {name}_path(i) ...
           const int leave = {name}_step(&state, {name}_path(i), ..., &decision);
           if (leave < 0) ... this output cannot be decided on: NaN, say ({upper}_BAD_INPUT) ...
           if (leave) break;
       }}
{probabilities}
   C99 or C++, needs math.h only (link with -lm); no memory is allotted and nothing is global.
   Classes are computed with in float, what there is one of per row in double, in the order of
   policyopt.runtime, whose decisions these are. Compile without -ffast-math, and clang besides without
   -ffp-contract=fast, which it sets above the header's own word that nothing be fused. */
"""
_PROBABILITIES = """
   Define {upper}_PROBABILITIES before the header is included to have the class probabilities of
   each answer in the decision, too; it costs one exp of a double per class.
"""
_INCLUDES = """\
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
