"""A policy's C header as a library of this process, for loops that serve one sample at a time.

One call per exit takes about a microsecond, and the header's own time. Its scores differ from the
runtime's by how the C library's exp and log round; how far is tried on made-up rows, as for plain
Python (`scalar_compile`), and a score that is nearer to its threshold than that allows is in doubt:
then the policy decides the sample to its end. What a rule compares inside itself (a bin's edge, the
larger of two calibrated classes) is taken as C finds it, which plain Python leaves to the policy, too.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import input_error
from policyopt.runtime.files import write_file
from policyopt.runtime.policy import Policy

from .c_header import c_source
from .c_run import compiler
from .scalar_compile import ExitFunction, doubtful, tried
from .scalar_source import BAND, exact_scores
from .tracing import trace_policy

#: What a step returns where the policy has to decide.
ASK = -3
_FLAGS = ("-std=gnu11", "-O2", "-shared", "-fPIC")
_SECONDS = 300
_SHIM = """
#include <stddef.h>
#include <string.h>
#include "p.h"
typedef struct { p_state state; double score; float seen[P_EXITS][P_CLASSES]; } native_state;
static double limits[2][P_EXITS], doubt[P_EXITS];
int native_size(void) { return (int)sizeof(native_state); }
int native_seen(void) { return (int)offsetof(native_state, seen); }
int native_score(void) { return (int)offsetof(native_state, score); }
void native_set(const double *one, const double *other, const double *near) {
    memcpy(limits[0], one, sizeof doubt);
    memcpy(limits[1], other, sizeof doubt);
    memcpy(doubt, near, sizeof doubt);
}
int native_step(native_state *s, int64_t sample, int at, const float *x) {
    p_decision said;
    int leave;
    if (at == 0) p_start(&s->state, sample);
    memcpy(s->seen[at], x, sizeof s->seen[at]);
    leave = p_step(&s->state, p_path(at), x, &said);
    if (leave < 0 || said.prediction < 0) return ASK;
    s->score = said.score;
    if (fabs(said.score - limits[0][at]) >= doubt[at] && fabs(said.score - limits[1][at]) >= doubt[at])
        return 2 * said.prediction + leave;
    return ASK;
}
"""


@dataclass(frozen=True, eq=False)
class Native:
    """A policy in this process as machine code.

    Attributes
    ----------
    step : callable
        ``(state, sample, at, logits) -> int``: the state, a ctypes buffer of `size` bytes; the
        sample's number; the position on the path, 0 first; the address of C floats. Returns twice the
        class, and 1 more to leave; `ASK` where the policy has to decide.
    size : int
        Bytes of a state.
    near : tuple of K-1 float
        How near to its threshold a score is in doubt; 0 where it has the runtime's bits.
    """

    step: Any
    size: int
    near: tuple[float, ...]
    _places: tuple[int, int, int]  # of what was seen and the score in a state; classes

    def seen(self, state: Any, count: int) -> list[npt.NDArray[np.float32]]:
        """Return the logits that a state was shown at its first `count` exits, each of shape (1, C)."""
        at, _, classes = self._places
        flat = np.frombuffer(memoryview(state), np.float32, count * classes, at)
        return list(flat.reshape(-1, 1, classes))


def native(policy: Policy) -> Native:
    """Compile a policy's header into this process.

    Parameters
    ----------
    policy : Policy
        That reads logits alone.

    Returns
    -------
    Native

    Raises
    ------
    NoCompiler
        There is no C compiler here.
    InputError
        A policy that reads something else, a rule that C cannot say or says otherwise, or a compiler
        that makes no shared libraries.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> native(Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "record", 2))
    Traceback (most recent call last):
    policyopt.runtime.errors.InputError: 'policy' must be one of logits alone. Got record. ...
    """
    if policy.kind != "logits" or policy.needs_features:
        what = "feature vectors" if policy.needs_features else policy.kind
        raise input_error("policy", "one of logits alone", what, "Leave out native=True.")
    graphs = trace_policy(policy)
    library = _library(c_source(policy, graphs, "p", sizes=False))
    places = library.native_seen(), library.native_score(), policy.classes
    made = Native(library.native_step, library.native_size(), (), places)

    def set_doubt(near: Sequence[float]) -> None:
        both = [policy.thresholds, (policy.mixture or policy).thresholds]
        vectors = [[*limits.tolist(), np.inf] for limits in both] + [[*near, 0.0]]
        library.native_set(*((ctypes.c_double * policy.exits)(*v) for v in vectors))

    exact = exact_scores(graphs)[:-1]
    set_doubt([0.0 if sure else BAND for sure in exact])
    off = tried(policy, graphs, [_function(made, at) for at in range(policy.exits)])
    if not off <= BAND:
        raise input_error(
            "policy", "one whose scores C can compute", f"{policy.rule.name}, off by {off:.1g}",
            "Leave out native=True.",
        )  # fmt: skip
    near = [0.0 if sure else n for n, sure in zip(doubtful(policy, off), exact, strict=True)]
    set_doubt(near)
    return Native(made.step, made.size, tuple(near), places)


def _library(source: str) -> Any:
    """Compile a header and what calls it; loaded, its files may go."""
    command = [*compiler(), *_FLAGS, f"-DASK=({ASK})"]
    # Where a loaded library cannot be removed, it stays until the machine clears its temporary files.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = Path(temporary)
        write_file(folder / "p.h", source)
        write_file(folder / "shim.c", _SHIM)
        done = subprocess.run(
            [*command, "shim.c", "-o", "shim.so", "-lm"], cwd=folder, check=False,
            capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
        if done.returncode:
            raise input_error(
                "cc", "a compiler that makes shared libraries", done.stderr.strip()[:500],
                f"It was run as {shlex.join(command)}.",
            )  # fmt: skip
        # A step is over before another thread could take the interpreter's lock.
        try:
            library = ctypes.PyDLL(os.fspath(folder / "shim.so"))
        except OSError as error:  # e.g. a compiler for another machine, a folder without execution
            raise input_error(
                "cc",
                "a compiler for this process",
                str(error),
                "Or let TMPDIR name another folder.",
            ) from error
    vector = ctypes.POINTER(ctypes.c_double)
    library.native_set.argtypes, library.native_set.restype = [vector] * 3, None
    library.native_step.argtypes = [
        ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_void_p,
    ]  # fmt: skip
    return library


def _function(made: Native, at: int) -> ExitFunction:
    """Return the step at a position as `tried` calls it: the state goes from exit to exit."""

    def function(row: Sequence[float], vector: Any, number: int, states: tuple[Any, ...]) -> Any:
        state = states[0] if states else ctypes.create_string_buffer(made.size)
        x = (ctypes.c_float * len(row))(*row)
        said = made.step(state, number, at, ctypes.addressof(x))
        if said == ASK:
            return None
        score = np.frombuffer(memoryview(state), np.float64, 1, made._places[1])[0]
        return bool(said & 1), said >> 1, float(score), (state,)

    return function
