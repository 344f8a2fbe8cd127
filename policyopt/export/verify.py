"""Every runtime that is here, run on the golden vectors of an export, and compared.

The policy itself first, by numpy in a batch: on the machine that exported it gives what is recorded, to
the bit; on another (`machine`) scores within the ulps stated there, the same answers, and the same
exits but in rows within those ulps of a threshold, which are counted. Every other runtime is
compared with numpy here, so of these the same is asked on every machine.

Rows of golden.npz: exits and answers are the policy's, scores within what is declared. Rows of
edges.npz, which lie so near to a threshold that rounding may decide: the same of runtimes that declare
no rounding; of the others, exits are compared with the runtime's own score, as everywhere besides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.deciding import arms
from policyopt.runtime.errors import CheckError
from policyopt.runtime.policy import ALWAYS, NEVER, Policy

from .edges import limits_of
from .golden import Golden, LeftOut, Ran, joined
from .golden_file import read_golden
from .machine import TIMES, this_machine
from .manifest import EDGES, GOLDEN, TARGETS, ULPS, read_manifest
from .runtimes import RUNNERS, run_batch, run_step, run_torch
from .scalar_compile import ROOM
from .scalar_policy import ScalarPolicy
from .scalar_source import BAND

__all__ = ["RUNNERS", "Export", "Taken", "Verdict", "read_export", "run_torch", "scaled_error", "verify"]  # fmt: skip

_UNIT = 2.0**-23
#: What plain Python declares of its scores; its exits and answers are the policy's own everywhere.
_SCALAR_ULPS = int(ROOM * BAND / _UNIT)
_LAST = "Do not deploy it; export anew."


@dataclass(frozen=True)
class Verdict:
    """What became of one runtime.

    Attributes
    ----------
    runtime : str
    absent : str
        Why it could not be run; empty where it was.
    rows : int
        Golden vectors and edges.
    error : float, optional
        Largest difference of a score, in units of float32 rounding; None of runtimes that give none.
    within : float, optional
        How far one of its thresholds may be from the policy's at most, and no row here would tell: the
        largest distance from a threshold to the nearest score that came, on either side where one came.
    turned : int
        Rows within the stated ulps of a threshold whose exit is another; right, as rounding goes. Of
        numpy: than where they were recorded, 0 on that machine; of ONNX and C: than numpy's here.
    """

    runtime: str
    absent: str = ""
    rows: int = 0
    error: float | None = None
    within: float | None = None
    turned: int = 0


@dataclass(frozen=True, eq=False)
class Taken:
    """What a runtime says that tells exits and answers alone.

    Attributes
    ----------
    exit : ndarray of shape (n,), int
        The model's numbers.
    prediction : ndarray of shape (n,), int
    """

    exit: npt.NDArray[Any]
    prediction: npt.NDArray[Any]


#: Runs a policy on golden vectors; a text says why it cannot here.
Runner = Callable[[Policy, Golden], "Taken | str"]


@dataclass(frozen=True, eq=False)
class Export:
    """A folder that was read and checked.

    Attributes
    ----------
    folder : Path
    policy : Policy
    targets : tuple of str
    golden : Golden
        Rows of golden.npz, then those of edges.npz.
    edges : int
        How many of them are the latter.
    left_out : LeftOut
    machine : dict
        That the scores were recorded on (`machine.this_machine`).
    """

    folder: Path
    policy: Policy
    targets: tuple[str, ...]
    golden: Golden
    edges: int
    left_out: LeftOut
    machine: Mapping[str, Any]

    @property
    def same_machine(self) -> bool:
        """Whether this machine has the same arithmetic: then equality is asked."""
        return self.machine == this_machine()


def read_export(folder: Path) -> Export:
    """Read an export and check it, all but run it.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    InputError
        No export, or one that was changed since it was written.
    """
    manifest, policy = read_manifest(folder)
    golden = read_golden(folder / GOLDEN, policy, manifest["rows"])
    edges = read_golden(folder / EDGES, policy, manifest["edges"])
    left, targets = manifest["left_out"], manifest["targets"]
    out = LeftOut(left["rows"], left["of"], tuple(left["ulps"]))
    ordered = tuple(target for target in TARGETS if target in targets)
    whole = joined(golden, edges)
    return Export(folder, policy, ordered, whole, len(edges), out, manifest["machine"])


def verify(folder: Path | Export, others: Mapping[str, Runner] | None = None) -> Iterator[Verdict]:
    """Check an export, runtime by runtime.

    Parameters
    ----------
    folder : Path, or Export
        One that was read already.
    others : mapping, optional
        More runtimes by name, which tell exits and answers alone and declare no rounding.

    Yields
    ------
    Verdict

    Raises
    ------
    InputError
        No export, or one that was changed since it was written.
    CheckError
        A runtime differs; the message names the first difference.
    """
    export = folder if isinstance(folder, Export) else read_export(folder)
    policy, here = export.policy, run_batch(export.policy, export.golden)
    yield _recorded("numpy batch", here, export)
    golden = replace(export.golden, expected=here)
    export = replace(export, golden=golden)
    yield _compared("numpy step", run_step(policy, golden), export)
    yield _compared("plain Python", run_step(ScalarPolicy(policy), golden), export, _SCALAR_ULPS)
    if find_spec("torch") is None:
        yield Verdict("torch, survivors", "torch is not installed")
    else:
        yield _compared("torch, survivors", run_torch(policy, golden), export, all_exits=False)
    for name, runner in (others or {}).items():
        yield _told(name, runner(policy, golden), export)
    edges = (np.arange(len(golden)) >= len(golden) - export.edges)[:, None]
    for target in export.targets:
        try:
            found = RUNNERS[target](export.folder, golden)
        except Exception as error:  # whatever it is, this runtime does not do what the policy does
            text = f"{target}: does not run: {type(error).__name__}: {error}. Export anew."
            raise CheckError(text) from error
        if isinstance(found, str):
            yield Verdict(target, found)
        else:
            ulps = ULPS[target]
            yield _compared(target, found, export, ulps, edges if ulps else False)


def _recorded(runtime: str, ran: Ran, export: Export) -> Verdict:
    """Return the verdict on the policy here, against what is recorded."""
    if export.same_machine:
        return _compared(runtime, ran, export)
    golden, wanted = export.golden, export.golden.expected
    limits = limits_of(export.policy, golden.sample)
    # What needs no arithmetic: the thresholds are those that the recorded scores were compared with.
    leave = _by_score(wanted.score, limits)
    _refuse(runtime, "exit by the recorded score and the policy's threshold", wanted.leave != leave,
            wanted.leave, leave)  # fmt: skip
    ulps = np.maximum(ULPS["c"], TIMES * own_rounding(export.policy, golden, ran))
    ulps = np.minimum(ulps, BAND / _UNIT)
    near = np.zeros_like(leave)
    scale = np.maximum(np.maximum(np.abs(wanted.score[:, :-1]), np.abs(limits)), 1.0) * _UNIT
    near[:, :-1] = np.abs(wanted.score[:, :-1] - limits) <= ulps[:-1] * scale
    return _compared(runtime, ran, export, ulps, near)


def _by_score(score: npt.NDArray[np.float64], limits: Any) -> npt.NDArray[np.bool_]:
    """Return who leaves, (n, K): from the threshold on; at the last exit all, whatever the score."""
    leave = np.ones(score.shape, dtype=bool)
    leave[:, :-1] = score[:, :-1] >= limits
    return leave


def own_rounding(policy: Policy, golden: Golden, ran: Ran) -> npt.NDArray[np.float64]:
    """Return what float32 does to the scores of each exit, (K,), in its units: plain Python has doubles.

    0 where plain Python cannot run the policy.
    """
    scalar = ScalarPolicy(policy)
    if scalar.reason:
        return np.zeros(policy.exits)
    return scaled_error(run_step(scalar, golden).score, ran.score).max(axis=0, initial=0.0)


def _compared(
    runtime: str, ran: Ran, export: Export, ulps: Any = 0, may: Any = False, all_exits: bool = True
) -> Verdict:
    """Return the verdict; raises at the first difference.

    `ulps`: of all exits, or (K,). `may`: where (n, K) rounding may decide, so that exits are those of
    the runtime's own score. `all_exits`: not only those that the policy reached were run.
    """
    golden, wanted = export.golden, export.golden.expected
    reached = np.arange(wanted.score.shape[1]) <= wanted.exit[:, None]
    differs = ran.leave != wanted.leave
    _refuse(
        runtime, "exit", differs & ~np.broadcast_to(may, differs.shape), ran.leave, wanted.leave
    )
    _refuse(
        runtime, "answer", ran.prediction != wanted.prediction, ran.prediction, wanted.prediction
    )
    error = scaled_error(ran.score, wanted.score)
    _refuse(runtime, "score", ~(error <= ulps), ran.score, wanted.score)
    unsure = scaled_error(ran.confidence, wanted.confidence)
    _refuse(runtime, "confidence", ~(unsure <= ulps) & reached, ran.confidence, wanted.confidence)
    leave = _by_score(ran.score, limits_of(export.policy, golden.sample))
    _refuse(runtime, "exit by its own score and the policy's threshold", ran.leave != leave,
            ran.leave, leave)  # fmt: skip
    within = _within(export, ran.score, np.ones_like(reached) if all_exits else reached)
    turned = int(differs.any(axis=1).sum())
    return Verdict(runtime, "", len(golden), float(error.max(initial=0.0)), within, turned)


def _told(runtime: str, found: Taken | str, export: Export) -> Verdict:
    """As `_compared`, of a runtime that tells exits and answers alone."""
    if isinstance(found, str):
        return Verdict(runtime, found)
    golden, wanted = export.golden, export.golden.expected
    rows, path = np.arange(len(golden)), np.asarray(export.policy.path)
    for what, here, there in (
        ("exit", found.exit, path[wanted.exit]),
        ("answer", found.prediction, wanted.prediction[rows, wanted.exit]),
    ):
        if len(here) != len(there):
            raise CheckError(f"{runtime}: {len(here)} of {len(there)} golden rows came. {_LAST}")
        wrong = np.flatnonzero(here != there)
        if len(wrong):
            row = int(wrong[0])
            raise CheckError(
                f"{runtime}: {what} of golden row {row} is {here[row]!r}, not {there[row]!r} "
                f"({len(wrong)} of {len(here)} differ). {_LAST}"
            )
    reached = np.arange(len(path)) <= wanted.exit[:, None]
    return Verdict(runtime, "", len(golden), None, _within(export, wanted.score, reached))


def _within(export: Export, score: Any, seen: npt.NDArray[np.bool_]) -> float | None:
    """Return `Verdict.within`; None where no threshold is between scores."""
    policy, sample = export.policy, export.golden.sample
    limits, arm = limits_of(policy, sample), arms(policy, sample)
    worst = None
    for at in range(policy.exits - 1):
        for which in np.unique(arm):
            mine = seen[:, at] & (arm == which)
            gap = score[mine, at] - limits[mine, at]
            limit = limits[mine, at]
            if not len(gap) or not ALWAYS < limit[0] < NEVER:
                continue
            sides = [side.min() for side in (gap[gap >= 0], -gap[gap < 0]) if len(side)]
            worst = max(worst or 0.0, *map(float, sides), 0.0)
    return worst


def scaled_error(score: Any, expected: Any) -> npt.NDArray[np.float64]:
    """Return differences of scores in units of float32 rounding (2**-23) of the larger of score and 1."""
    with np.errstate(all="ignore"):
        scale = np.maximum(np.abs(expected), 1.0) * _UNIT
        return np.where(score == expected, 0.0, np.abs(score - expected) / scale)


def _refuse(runtime: str, what: str, wrong: Any, here: Any, there: Any) -> None:
    if wrong.any():
        row, k = (int(x) for x in np.argwhere(wrong)[0])
        raise CheckError(
            f"{runtime}: {what} of golden row {row} at position {k} is {here[row, k]!r}, not "
            f"{there[row, k]!r} ({int(wrong.sum())} of {wrong.size} differ). {_LAST}"
        )
