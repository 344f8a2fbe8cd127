"""Every runtime that is here, run on the golden vectors of an export, and compared.

The policy itself first, by numpy in a batch: equal to the bit on the machine that exported it; on another within
the ulps stated, exits of rows within those of a threshold counted (`rounding`). Others are compared with numpy
here. Of boundary.npz, where rounding may decide, runtimes that declare rounding are held to their own score.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._progress import working
from policyopt.runtime._errors import CheckError
from policyopt.runtime._experts import load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._policy import ALWAYS, NEVER, Policy
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._typing import Array, Bools

from .bundle import POLICY, Export, read_export
from .c_compiler import NoCompiler, run_c
from .golden import Golden, Ran, Walk, begin, expect, exported, stepped
from .onnx_graphs import run_onnx
from .python_file import run_python
from .rounding import BAND, TIMES, ULPS, UNIT, own_rounding, scaled_error
from .routes import run_steps, walked
from .samples import gaps, limits_of, sides_of
from .symbolic import trace_policy

_LAST = "Do not deploy it; export anew."


@dataclass(frozen=True)
class Checked:
    """What became of one runtime."""

    runtime: str
    absent: str = ""  # why it could not be run
    rows: int = 0  # golden vectors and those at thresholds
    #: Largest difference of a score, in units of float32 rounding; None of runtimes that give none.
    error: float | None = None
    #: How far one of its thresholds may be from the policy's at most, and no row here would tell: the
    #: largest distance from a threshold to the nearest score that came, on either side where one came.
    within: float | None = None
    #: Rows within the stated ulps of a threshold whose exit is another; right, as rounding goes. Of
    #: numpy: than where they were recorded, 0 on that machine; of ONNX and C: than numpy's here.
    turned: int = 0


@dataclass(frozen=True, eq=False)
class Taken:
    """What a runtime says that tells exits (the model's numbers) and answers alone, each (n,) int."""

    exit: Array
    prediction: Array


#: Runs a policy on golden vectors; a text says why it cannot here.
Runner = Callable[[Any, Golden], "Taken | str"]


def run_step(policy: Policy | PolicyFamily, golden: Golden) -> Ran:
    """Step one sample after the other through all exits."""
    ran = Ran.empty(len(golden), policy.exits)
    for row, number in enumerate(golden.sample):
        # Side by side with itself: exits that a level skips are told.
        if isinstance(policy, PolicyFamily):
            part, state = slice(row, row + 1), begin(policy, golden.sample[row : row + 1])
            for at, k in enumerate(policy.active_exits):
                given = {name: array[part] for name, array in golden.inputs[at].items()}
                ran.put(part, at, stepped(policy, k, given, state))
            continue
        state = policy.start(int(number))
        for at, k in enumerate(policy.active_exits):
            given = {name: array[row] for name, array in golden.inputs[at].items()}
            whole = {n: a if n in ("features", policy.kind) else a[None] for n, a in given.items()}
            ran.put(row, at, stepped(policy, k, whole, state))
    return ran


def run_torch(policy: Policy | PolicyFamily, golden: Golden) -> Ran:
    """Torch tensors, survivors regrouped after every exit; exits that no one reached are as expected."""
    import torch

    ran = Ran(**{name: array.copy() for name, array in vars(golden.expected).items()})
    state, rows = begin(policy, golden.sample), np.arange(len(golden))
    for at, k in enumerate(policy.active_exits):
        given: dict[str, Any] = {n: array[rows] for n, array in golden.inputs[at].items()}
        if not policy.observer.kind.record:
            given = {n: torch.from_numpy(np.ascontiguousarray(a)) for n, a in given.items()}
        seen = stepped(policy, k, given, state)
        ran.put(rows, at, seen)
        rows, state = rows[~seen.exit], state.keep(~seen.exit)
        if not len(rows):
            break
    return ran


def _run_onnx(folder: Path, golden: Golden) -> Ran | str:
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'policyopt[onnx]'"
    return run_onnx(folder / "onnx", exported(load_any(folder / POLICY)), golden)


#: Of each target, what runs it: given the folder and golden vectors, what it says, or why it is not here.
RUNNERS: dict[str, Callable[[Path, Golden], Any]] = {
    "python": lambda folder, golden: run_python(folder / "policy.py", golden),
    "onnx": _run_onnx,
    "c": lambda folder, golden: run_c(folder, golden, exported(load_any(folder / POLICY))),
}  # fmt: skip


@working("verifying")
def verify(
    folder: str | os.PathLike[str] | Export, others: Mapping[str, Runner] | None = None
) -> list[Checked]:
    """Test an export on its golden vectors, in every runtime that is here; the Python file and C header are run.

    Parameters
    ----------
    folder : path, or Export
        What `export` wrote, by someone you trust.
    others : mapping of str to callable, optional
        Further runtimes: given the policy and golden vectors each tells exits and answers, or why it cannot.

    Returns
    -------
    list of Checked
        One per runtime: rows, error, and ``absent``, why it could not be run.

    Raises
    ------
    CheckError
        A runtime decides otherwise.
    InputError
        The folder was changed since it was written.
    """
    return list(checks(folder if isinstance(folder, Export) else read_export(Path(folder)), others))


def checks(export: Export, others: Mapping[str, Runner] | None = None) -> Iterator[Checked]:
    """Check an export, runtime by runtime."""
    policy, golden = export.policy, export.golden
    if isinstance(policy, RoutingPolicy):
        yield from _routes(export)
        return
    here = expect(policy, golden.inputs, golden.sample).expected
    yield _recorded("numpy batch", here, export)
    golden = replace(golden, expected=here)
    export = replace(export, golden=golden)
    yield _compared("numpy step", run_step(policy, golden), export)
    told = run_torch(policy, golden) if find_spec("torch") else "torch is not installed"
    yield _compared("torch, survivors", told, export, all_exits=False)
    boundary = (np.arange(len(golden)) >= len(golden) - export.boundary)[:, None]
    for target, found in _run(export):
        ulps = ULPS[target]
        yield _compared(target, found, export, ulps, boundary if ulps else False)
    for name, runner in (others or {}).items():
        yield _told(name, runner(policy, golden), export)


def _run(export: Export) -> Iterator[tuple[str, Any]]:
    """Yield what the forms of an export say of its golden vectors, or why they are not here."""
    for target in export.targets:
        try:
            yield target, RUNNERS[target](export.folder, export.golden)
        except NoCompiler as error:
            yield target, str(error)
        except Exception as error:  # whatever it is, this runtime does not do what the policy does
            text = f"{target}: does not run: {type(error).__name__}: {error}. Export anew."
            raise CheckError(text) from error


def _routes(export: Export) -> Iterator[Checked]:
    """As `verify`, of a routing policy: who was asked and every answer, equal; gains within the ulps of their terms."""
    policy, golden = export.policy, export.golden
    here, scale, _ = walked(policy, golden)

    def compared(runtime: str, ran: Walk | str, wanted: Walk, ulps: float) -> Checked:
        if isinstance(ran, str):
            return Checked(runtime, ran)
        for what in ("model", "prediction"):
            _refuse(runtime, what, getattr(ran, what), getattr(wanted, what))
        error = np.abs(ran.gain - wanted.gain) / (scale * UNIT)
        _refuse(runtime, "gain", ran.gain, wanted.gain, ~(error <= ulps))
        return Checked(runtime, "", len(golden), float(error.max(initial=0.0)))

    yield compared("numpy batch", here, golden.expected, 0 if export.same_machine else ULPS["c"])
    yield compared("numpy step", run_steps(policy, golden), here, 0)
    for target, found in _run(export):
        yield compared(target, found, here, ULPS[target])


def _recorded(runtime: str, ran: Ran, export: Export) -> Checked:
    """Return the verdict on the policy here, against what is recorded."""
    if export.same_machine:
        return _compared(runtime, ran, export)
    golden, wanted = export.golden, export.golden.expected
    limits = limits_of(export.policy, golden.sample)
    # What needs no arithmetic: the thresholds are those that the recorded scores were compared with.
    leave = _by_score(wanted.score, limits)
    what = "exit by the recorded score and the policy's threshold"
    _refuse(runtime, what, wanted.leave, leave)
    own = own_rounding(trace_policy(export.policy), golden)
    ulps = np.minimum(np.maximum(ULPS["c"], TIMES * own), BAND / UNIT)
    near = np.zeros_like(leave)
    near[:, :-1] = gaps(export.policy, golden) <= ulps[:-1]
    return _compared(runtime, ran, export, ulps, near)


def _by_score(score: Any, limits: Any) -> Bools:
    """Return who leaves, (n, K): from the threshold on; at the last exit all, whatever the score."""
    leave = np.ones(score.shape, dtype=bool)
    leave[:, :-1] = score[:, :-1] >= limits
    return leave


def _compared(
    runtime: str, ran: Ran | str, export: Export, ulps: Any = 0, may: Any = False, all_exits: bool = True
) -> Checked:  # fmt: skip
    """Return the verdict, or raise; `ulps`: (K,); `may`: (n, K) where exits are those of the runtime's own score."""
    if isinstance(ran, str):  # why it could not be run
        return Checked(runtime, ran)
    golden, wanted = export.golden, export.golden.expected
    reached = np.arange(wanted.score.shape[1]) <= wanted.exit[:, None]
    differs = ran.leave != wanted.leave
    may = np.broadcast_to(may, differs.shape)
    _refuse(runtime, "exit", ran.leave, wanted.leave, differs & ~may)
    _refuse(runtime, "answer", ran.prediction, wanted.prediction)
    # But where the exit itself was turned by rounding.
    declines = (ran.abstained != wanted.abstained) & ~differs
    _refuse(runtime, "abstaining", ran.abstained, wanted.abstained, declines)
    error = scaled_error(ran.score, wanted.score)
    _refuse(runtime, "score", ran.score, wanted.score, ~(error <= ulps))
    unsure = scaled_error(ran.confidence, wanted.confidence)
    wrong = ~(unsure <= ulps) & reached
    _refuse(runtime, "confidence", ran.confidence, wanted.confidence, wrong)
    leave = _by_score(ran.score, limits_of(export.policy, golden.sample))
    _refuse(runtime, "exit by its own score and the policy's threshold", ran.leave, leave)
    within = _within(export, ran.score, np.ones_like(reached) if all_exits else reached)
    turned = int(differs.any(axis=1).sum())
    return Checked(runtime, "", len(golden), float(error.max(initial=0.0)), within, turned)


def _told(runtime: str, found: Taken | str, export: Export) -> Checked:
    """As `_compared`, of a runtime that tells exits and answers alone."""
    if isinstance(found, str):
        return Checked(runtime, found)
    golden, wanted = export.golden, export.golden.expected
    rows, path = np.arange(len(golden)), np.asarray(export.policy.active_exits)
    for what, here, there in (
        ("exit", found.exit, path[wanted.exit]),
        ("answer", found.prediction, said_at_all(export.policy, golden)[rows, wanted.exit]),
    ):
        if len(here) != len(there):
            raise CheckError(f"{runtime}: {len(here)} of {len(there)} golden rows came. {_LAST}")
        _refuse(runtime, what, here, there)
    reached = np.arange(len(path)) <= wanted.exit[:, None]
    return Checked(runtime, "", len(golden), None, _within(export, wanted.score, reached))


def said_at_all(policy: Policy | PolicyFamily, golden: Golden) -> Array:
    """Return the answers of every exit as users see them, (n, K, ...)."""
    kind = policy.observer.kind
    if kind.answers_class:
        return golden.expected.prediction
    said: list[Any] = [kind.answer(given[kind.name]) for given in golden.inputs]
    return np.stack(said, axis=1)


def _within(export: Export, score: Any, seen: Bools) -> float | None:
    """Return `Checked.within`; None where no threshold is between scores."""
    policy, sample = export.policy, export.golden.sample
    limits, arm = limits_of(policy, sample), sides_of(policy, sample)
    worst = None
    for at in range(policy.exits - 1):
        for which in np.unique(arm):
            mine = seen[:, at] & (arm == which)
            gap, limit = score[mine, at] - limits[mine, at], limits[mine, at]
            if not len(gap) or not ALWAYS < limit[0] < NEVER:
                continue
            sides = [side.min() for side in (gap[gap >= 0], -gap[gap < 0]) if len(side)]
            worst = max(worst or 0.0, *map(float, sides), 0.0)
    return worst


def _refuse(runtime: str, what: str, here: Any, there: Any, wrong: Any = None) -> None:
    """Raise at the first difference, by row or by row and exit."""
    wrong = here != there if wrong is None else wrong
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        place = " at position ".join(map(str, at))
        raise CheckError(
            f"{runtime}: {what} of golden row {place} is {here[at]!r}, not {there[at]!r} "
            f"({int(wrong.sum())} of {wrong.size} differ). {_LAST}"
        )
