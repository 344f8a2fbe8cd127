"""A policy's C header as machine code of this process, for loops that serve one sample at a time: only on request.

Its scores differ from the runtime's by how the C library's exp and log round, tried on made-up rows
(`rounding.doubtful`); where a score is nearer to its threshold the policy decides. What a rule compares inside
itself (a bin's edge) is taken as C finds it.

Libraries are kept in a folder of the user's own, by the hash of what they were made of; never beside a policy, nor
where others may write: to load one is to run it. So the folder and all above it are looked at as ssh does with a
key's; there nobody can change a file between the look at it and its load, and a file not ours is made anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import stat
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime._errors import input_error
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import Policy
from policyopt.runtime._typing import Array

from .c_compiler import compiler, ran
from .c_header import c_source
from .golden import BYTES, FEW, expect
from .graph import ExitGraph
from .rounding import BAND, LARGEST, doubtful, exact_scores
from .samples import CANDIDATES, made_up
from .symbolic import trace_policy

#: What to do where a policy has no machine code.
WITHOUT = "Leave out native=True."
#: What a step returns where the policy has to decide.
ASK = -3
_TRIED = 256  # of the made-up rows
_FLAGS = ("-std=gnu11", "-O2", "-shared", "-fPIC", f"-DASK=({ASK})")
_SHIM = """
#include <string.h>
#include "p.h"
typedef struct { double score; float seen[P_EXITS][P_CLASSES]; p_state state; } native_state;
static double limits[2][P_EXITS], doubt[P_EXITS];
int native_size(void) { return (int)sizeof(native_state); }
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
    """A policy in this process as machine code."""

    #: ``(state, sample, at, logits) -> int``: the state, a ctypes buffer of `size` bytes; the sample's
    #: number; the position on the path, 0 first; the address of C floats. Returns twice the class, and 1
    #: more to leave; `ASK` where the policy has to decide.
    step: Any
    size: int
    near: tuple[float, ...]  # how near to its threshold a score is in doubt, by exit but the last
    classes: int

    def seen(self, state: Any, count: int) -> list[Array]:
        """Return the logits that a state was shown at its first `count` exits, each of shape (1, C)."""
        flat = np.frombuffer(memoryview(state), np.float32, count * self.classes, 8)
        return list(flat.reshape(-1, 1, self.classes))

    def score(self, state: Any) -> float:
        """Return the score at the exit that a state was shown last."""
        return float(np.frombuffer(memoryview(state), np.float64, 1)[0])


def native(policy: Policy, folder: str | os.PathLike[str] | None = None) -> Native:
    """Compile a policy of logits into this process, or load what `folder` keeps; refuse what C says otherwise."""
    if policy.kind != "logits" or policy.needs_features or policy.abstention is not None:
        what = "feature vectors" if policy.needs_features else policy.kind
        what = what if policy.abstention is None else "one that may abstain"
        raise input_error("policy", "one of logits alone", what, WITHOUT)
    graphs = trace_policy(policy)
    library = _library(c_source(policy, graphs, "p", sizes=False), folder)
    made = Native(library.native_step, library.native_size(), (), policy.classes)
    both = [policy.thresholds, (policy.mixture or policy).thresholds]

    def set_doubt(near: Sequence[float]) -> None:
        vectors = [*both[0], np.inf], [*both[1], np.inf], [*near, 0.0]
        library.native_set(*((ctypes.c_double * policy.exits)(*v) for v in vectors))

    exact = exact_scores(graphs)[:-1]
    set_doubt([0.0 if sure else BAND for sure in exact])
    off = _off(policy, graphs, made)
    if not off <= BAND:
        got = f"{policy.rule.name}, off by {off:.1g}"
        raise input_error("policy", "one whose scores C can compute", got, WITHOUT)
    near = np.where(exact, 0.0, doubtful(policy, off)).tolist()
    set_doubt(near)
    return replace(made, near=tuple(near))


def _library(source: str, folder: str | os.PathLike[str] | None) -> Any:
    try:
        library = _loaded(source, _own(folder))
    except OSError:
        if folder is not None:
            raise
        # Loaded, its files may go; where they cannot, they stay until the machine clears such files.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
            library = _loaded(source, Path(temporary))
    vector = ctypes.POINTER(ctypes.c_double)
    library.native_set.argtypes, library.native_set.restype = [vector] * 3, None
    address, number = ctypes.c_void_p, ctypes.c_int64
    library.native_step.argtypes = [address, number, ctypes.c_int, address]
    return library


def _own(folder: str | os.PathLike[str] | None) -> Path:
    """Return the folder for libraries, made where it is not there; refuse one that others may write or move."""
    home, named = os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("POLICYOPT_CACHE", "")
    if not (folder or Path(named or "/").is_absolute()):
        raise input_error("POLICYOPT_CACHE", "an absolute path", named, "E.g. /home/me/.cache.")
    usual = Path(home) if Path(home).is_absolute() else Path.home() / ".cache"
    path = Path(folder or named or usual / "policyopt").resolve()
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in (path, *path.parents):
        if not _private(each.stat(), above=each != path):
            step = f"Libraries are run: remove what lies in {path}, chmod 700 it, or name another."
            raise input_error("folder", "yours, and nobody else's to write to", str(each), step)
    return path


def _private(found: os.stat_result, above: bool = False) -> bool:
    """Whether nobody else may write here; `above`: but root, or as in /tmp, without touching what is not theirs."""
    mine = getattr(os, "getuid", None)
    shared = found.st_mode & 0o022 and not (above and found.st_mode & stat.S_ISVTX)
    return mine is None or (found.st_uid in (mine(), 0 if above else mine()) and not shared)


def _loaded(source: str, folder: Path) -> Any:
    """Return the library of a header and what calls it, from a folder where it is kept by its hash."""
    made_of = (source, _SHIM, *_FLAGS, sys.platform, platform.machine())
    kept = folder / f"{hashlib.sha256(chr(0).join(made_of).encode()).hexdigest()}.so"
    # A step is over before another thread could take the interpreter's lock: PyDLL.
    with contextlib.suppress(OSError):  # not there, or for another machine
        found = kept.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and _private(found):
            return ctypes.PyDLL(os.fspath(kept))
    command = [*compiler(), *_FLAGS]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        place = Path(temporary)
        write_file(place / "p.h", source)
        write_file(place / "shim.c", _SHIM)
        step = f"It was run as {shlex.join(command)}."
        making = [*command, "shim.c", "-o", "shim.so", "-lm"]
        ran(making, place, "cc", "a compiler that makes shared libraries", step)
        (place / "shim.so").chmod(0o700)
        (place / "shim.so").replace(kept)
    try:
        return ctypes.PyDLL(os.fspath(kept))
    except OSError as error:  # e.g. a compiler for another machine, a folder without execution
        step = "Or let POLICYOPT_CACHE name another folder."
        raise input_error("cc", "a compiler for this process", str(error), step) from error


def _off(policy: Policy, graphs: list[ExitGraph], made: Native) -> float:
    """Return how far scores are off on made-up rows; infinite where a decision is another."""
    with np.errstate(all="ignore"):
        most = max(BYTES // (4 * policy.exits * policy.classes), FEW)  # of many classes, fewer rows
        whole = made_up(policy, graphs, np.random.default_rng(0), min(most, CANDIDATES))
        step = max(len(whole[0]["logits"]) // _TRIED, 1)
        inputs = [{"logits": _far(given["logits"][::step])} for given in whole]
        sample = np.arange(len(inputs[0]["logits"]))
        expected = expect(policy, inputs, sample).expected
    worst = 0.0
    for row in sample.tolist():
        state = ctypes.create_string_buffer(made.size)
        for at, given in enumerate(inputs):
            said = made.step(state, row, at, given["logits"][row].ctypes.data)
            if said == ASK:
                break
            if (said & 1, said >> 1) != (expected.leave[row, at], expected.prediction[row, at]):
                return np.inf
            if at < policy.exits - 1:  # there all leave, whatever the score
                own, found = float(expected.score[row, at]), made.score(state)
                gap = 0.0 if found == own else abs(found - own) / max(abs(own), 1.0)
                worst = worst if gap <= worst else gap  # NaN stays
    return worst


def _far(rows: Array) -> Array:
    """Return logits, and again moved together nearly as far as scores are looked at: float32 is coarse there."""
    norm = np.linalg.norm(np.where(np.isfinite(rows), rows, 0.0), axis=1)
    room = np.maximum(LARGEST - norm, 0.0) / np.sqrt(rows.shape[1])
    signs = np.resize([1.0, -1.0, 0.5, -0.5], len(rows))
    return np.concatenate([rows, rows + (0.99 * room * signs).astype(np.float32)[:, None]])
