"""A routing policy as one C99 header: who is asked first, and after each answer who is asked next."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from policyopt.runtime._files import write_file
from policyopt.runtime._routing import RoutingPolicy, routing_to_dict

from .c_compiler import STRICT, UNMEASURED, compiler, measured, ran
from .c_functions import TYPES
from .c_header import (
    _EPILOGUE,
    _PROLOGUE,
    _Body,
    _check,
    _flat,
    _Shared,
    _strip,
    check_name,
    string,
)
from .golden import Golden, Walk
from .graph import ExitGraph
from .routes import RouteGraphs, of_models

#: Of what models say, as parameters.
_RECORD = {"prediction": "int32_t prediction", "confidence": "double confidence"}


def routes_source(policy: RoutingPolicy, name: str = "policyopt_policy") -> str:
    """Return a routing policy as a C header, `name` before all its names."""
    check_name(name)
    shared, made, query = _Shared(), RouteGraphs(policy), policy.ensemble.query
    start, look, stand = made.parts()
    p, c, record, timed = (
        len(made.active),
        policy.classes,
        policy.observer.kind.record,
        policy.needs_costs,
    )
    fields = {"at": (np.int64, 1), "paid": (np.float64, 1), "confidence": (np.float64, p)}
    fields |= {} if query is None else {"known": (np.float64, len(query.weights))}
    fields |= {} if record else {"log_prob": (np.float32, p * c)}
    fields |= {"prediction": (np.int32, p), "place": (np.int32, 1)}
    given = dict(_RECORD) if record else {policy.kind: f"const float *{policy.kind}"}
    given |= {"cost": "double cost"} if timed else {}
    conditions = [_check(policy, look, shared), "cost >= 0.0 && cost <= DBL_MAX" if timed else ""]
    said = {name: f"state->{name}[place]" for name in _RECORD}
    bodies = {
        "begin": _lines(start, {"at": "state->at", "known": "state->known"}, shared),
        "look": [f"{to} = {name};" for name, to in said.items()] if record else
                _lines(look, said | {"log_prob": f"(state->log_prob + place * {c})"}, shared),
        "decide": _lines(stand, {
            "prediction": "decision->prediction", "gain": "decision->gain", "after": "state->at",
            "model": "state->place",
        }, shared),
    }  # fmt: skip
    alone, path = (shared.table("places", np.array(t), np.int32) for t in (made.alone, made.active))
    content = json.dumps(routing_to_dict(policy), sort_keys=True)
    declared = {
        n: f"[{size}]" * (n not in ("at", "paid", "place")) for n, (_, size) in fields.items()
    }
    text = (_HEAD + _PROLOGUE + _TEXT + _EPILOGUE).format(
        models=policy.model_exits, kind=policy.kind, classes=c, unit=string(policy.unit), code=UNMEASURED,
        bytes=shared.bytes, state=sum(np.dtype(d).itemsize * n for d, n in fields.values()),
        number=f"0x{hashlib.sha256(content.encode()).hexdigest()[:8]}",
        fields="".join(f"    {TYPES[np.dtype(d).name]} {n}{declared[n]};\n" for n, (d, _) in fields.items()),
        zeros="".join(
            f"    for (int i = 0; i < {size}; ++i) state->{n}[i] = 0;\n"
            for n, (_, size) in fields.items() if declared[n]
        ),
        tables="".join(f"{line}\n" for line in shared.lines), alone=alone, path=path, places=p,
        functions="\n".join(shared.functions.values()),
        query="" if query is None else ", const float *query", given=", ".join(given.values()),
        of_query="" if query is None else ", query",
        check=" && ".join(filter(None, conditions)) or "1", cost="cost" if timed else "0.0",
        **{n: "".join(f"    {line}\n" for line in lines) for n, lines in bodies.items()},
    )  # fmt: skip
    text = text.replace("@@", name.upper()).replace("@", name)
    return text.replace(UNMEASURED, measured(text), 1)


def _lines(graph: ExitGraph, to: Mapping[str, str], shared: _Shared) -> list[str]:
    """Return statements that put what a graph says where it goes."""
    body = _Body(graph, [], [], shared)
    for node in body.main:
        body._write(node)
    ready = {}
    for name, node in graph.outputs.items():  # all, before any is put where another is read
        kind = TYPES[node.dtype.name]
        if node.size == 1:
            ready[name] = body._new("v")
            body.add(f"const {kind} {ready[name]} = {_strip(body.value(node))};")
            continue
        body.loop(node.shape, lambda ix, name=name, node=node, kind=kind: body.add(
            f"{to[name]}[{_flat(ix, node.shape)}] = ({kind})({_strip(body.value(node, ix))});"
        ))  # fmt: skip
    kinds = {"at": "int64_t", "after": "int64_t", "gain": "double", "confidence": "double"}
    return body.lines + [
        f"{to[n]} = ({kinds.get(n, 'int32_t')}){value};" for n, value in ready.items()
    ]


_HEAD = """\
/* @: routing policy, written by policyopt. Do not edit: export it again.

   Which of {models} models to ask first, and after each answer which next; {classes} classes, {kind}.
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
_TEXT = """\
#define @@_MODELS {models}
#define @@_CLASSES {classes}
#define @@_UNIT {unit}
/* What a start and a step return where it is no model's number. */
#define @@_STOP (-1)
#define @@_BAD_INPUT (-2)

/* One sample between calls. */
typedef struct {{
{fields}}} @_state;

typedef struct {{
    int32_t prediction; /* class that would be answered now; -1 where nobody has answered */
    double gain;        /* of asking the model that comes next, or the best that might, instead of stopping */
}} @_decision;

{tables}
{functions}
static int @_begin(@_state *state, int64_t number{query}) {{
    (void)number;
{begin}    return 0;
}}
static int @_decide(@_state *state, @_decision *decision) {{
{decide}    return 0;
}}

/* Begin a sample: the number of the model to ask first. The same number, the same decisions. */
static inline int @_start(@_state *state, int64_t number{query}) {{
    state->paid = 0.0;
{zeros}    if (@_begin(state, number{of_query}) < 0) return @@_BAD_INPUT;
    state->place = {alone}[state->at];
    return {path}[state->place];
}}

/* Take what that model said: the number of the model to ask next, or @@_STOP; @@_BAD_INPUT on misuse, after
   which the sample must be started anew. */
static inline int @_step(@_state *state, {given}, @_decision *decision) {{
    const int place = (int)state->place;
    decision->prediction = -1;
    decision->gain = 0.0;
    state->place = -1;
    if (place < 0 || place >= {places} || !({check})) return @@_BAD_INPUT;
{look}    state->paid += {cost};
    if (@_decide(state, decision) < 0) return @@_BAD_INPUT;
    return state->place < 0 ? @@_STOP : {path}[state->place];
}}
"""


def run_routes(folder: Path, policy: RoutingPolicy, golden: Golden) -> Walk:
    """As `c_compiler.run_c`, of a routing policy."""
    command, (header,) = compiler(), Path(folder).glob("*.h")
    known, name = of_models(policy, golden), header.stem
    known = {n: known[n] for n in (*_RECORD, policy.kind, "costs") if n in known}
    known |= {"query": golden.inputs[0]["query"]} if policy.needs_query else {}
    called = [n for n in known if n not in ("query", "costs")] + ["costs"] * policy.needs_costs
    steps, takes = golden.expected.model.shape[1], []
    for what, array in known.items():
        shape = "".join(f"[{size}]" for size in array.shape[1:])
        takes.append(f"        TAKE({TYPES[array.dtype.name]}, {what}, {shape})")
    source = _PROGRAM.format(
        header=header.name, name=name, steps=steps, takes="\n".join(takes),
        query=", query" * bool(policy.needs_query), prefix=name.upper(),
        given=", ".join(f"{what}[asked]" for what in called),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_file(place / header.name, header.read_text(encoding="utf-8"))
        write_file(place / "run.c", source)
        rows = [golden.sample.astype(np.int64), *known.values()]
        data = b"".join(a[row].tobytes() for row in range(len(golden)) for a in rows)
        (place / "in.bin").write_bytes(data)
        ran([*command, *STRICT, "-O2", "run.c", "-o", "run", "-lm"], place)
        ran([str(place / "run")], place)
        kinds = np.dtype([("model", "<i4"), ("prediction", "<i4"), ("gain", "<f8")])
        said = np.fromfile(place / "out.bin", dtype=kinds).reshape(len(golden), steps)
    return Walk(*(np.ascontiguousarray(said[n]) for n in said.dtype.names))


_PROGRAM = """\
#include <stdio.h>
#include "{header}"
#define TAKE(kind, name, shape) \\
    static kind name shape; \\
    if (fread(name, sizeof name, 1, in) != 1) return 3;
int main(void) {{
    static {name}_state state;
    int64_t sample;
    FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
    if (in == NULL || out == NULL) return 2;
    while (fread(&sample, sizeof sample, 1, in) == 1) {{
        int32_t at = 0, asked;
        int model;
{takes}
        model = {name}_start(&state, sample{query});
        for (; at < {steps}; ++at) {{
            {name}_decision said = {{-1, 0.0}};
            asked = model;
            if (model >= 0) model = {name}_step(&state, {given}, &said);
            fwrite(&asked, 4, 1, out);
            fwrite(&said.prediction, 4, 1, out);
            fwrite(&said.gain, 8, 1, out);
        }}
        if (model != {prefix}_STOP) return 5;
    }}
    fclose(in);
    return fclose(out) ? 4 : 0;
}}
"""
