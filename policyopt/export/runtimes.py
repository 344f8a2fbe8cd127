"""Every runtime of this package that gives scores, run on golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from policyopt.runtime.artifact import load_policy, to_dict
from policyopt.runtime.errors import input_error
from policyopt.runtime.policy import Policy

from .golden import Golden, Ran, expect, given_output
from .manifest import POLICY
from .scalar_policy import ScalarPolicy

_PARTS = ("score", "confidence", "prediction", "leave")


def run_batch(policy: Policy, golden: Golden) -> Ran:
    """All samples side by side, nobody leaves: as `expect`, against what the file says."""
    return expect(policy, golden.inputs, golden.sample).expected


def run_step(stepper: Policy | ScalarPolicy, golden: Golden) -> Ran:
    """One sample after the other, by numpy or in plain Python, through all exits."""
    policy = stepper.policy if isinstance(stepper, ScalarPolicy) else stepper
    out = Ran(*(np.empty_like(getattr(golden.expected, name)) for name in _PARTS))
    for row, number in enumerate(golden.sample):
        state: Any = stepper.start(int(number))
        for at, k in enumerate(policy.path):
            given = {name: array[row] for name, array in golden.inputs[at].items()}
            whole = {n: a if n in ("features", policy.kind) else a[None] for n, a in given.items()}
            output = given_output(policy, whole)
            seen = stepper.step(k, output, state, given.get("features"))
            out.score[row, at], out.confidence[row, at] = seen.score, seen.confidence
            out.prediction[row, at], out.leave[row, at] = seen.prediction, seen.exit
    return out


def run_torch(policy: Policy, golden: Golden) -> Ran:
    """Torch tensors, survivors regrouped after every exit; exits that no one reached are as expected."""
    import torch

    out = Ran(*(getattr(golden.expected, name).copy() for name in _PARTS))
    state, rows = policy.start(golden.sample), np.arange(len(golden))
    for at, k in enumerate(policy.path):
        given: dict[str, Any] = {
            name: torch.from_numpy(np.ascontiguousarray(array[rows]))
            for name, array in golden.inputs[at].items()
        }
        if policy.kind == "record":
            given = {name: array.numpy() for name, array in given.items()}
        seen = policy.step(k, given_output(policy, given), state, given.get("features"))
        out.score[rows, at], out.confidence[rows, at] = seen.score, seen.confidence
        out.prediction[rows, at], out.leave[rows, at] = seen.prediction, seen.exit
        rows, state = rows[~seen.exit], state.keep(~seen.exit)
        if not len(rows):
            break
    return out


def _run_python(folder: Path, golden: Golden) -> Ran | str:
    from .python_run import run_python

    return run_python(folder / "policy.py", golden)


def _run_c(folder: Path, golden: Golden) -> Ran | str:
    from .c_run import NoCompiler, run_c

    try:
        return run_c(folder, golden)
    except NoCompiler as error:
        return str(error)


def _run_onnx(folder: Path, golden: Golden) -> Ran | str:
    if find_spec("onnxruntime") is None:
        return "onnxruntime is not installed: pip install 'policyopt[onnx]'"
    from .onnx_run import read_manifest, run_onnx

    _check_onnx(read_manifest(folder / "onnx"), load_policy(folder / POLICY))
    return run_onnx(folder / "onnx", golden)


def _check_onnx(manifest: dict[str, Any], policy: Policy) -> None:
    """Refuse a manifest that tells a serving loop other exits, costs or thresholds than the policy's."""
    mixture, none = policy.mixture, [None] * policy.exits
    wanted: dict[str, Any] = {
        "exit": list(policy.path), "cost": policy.costs.tolist(),
        "threshold": [*policy.thresholds.tolist(), None],
        "threshold_of_share": none if mixture is None else [*mixture.thresholds.tolist(), None],
    }  # fmt: skip
    found: dict[str, Any] = {n: [entry.get(n) for entry in manifest["exits"]] for n in wanted}
    wanted["policy_sha256"] = to_dict(policy)["sha256"]
    found["policy_sha256"] = manifest.get("policy_sha256")
    for name, value in wanted.items():
        if found[name] != value:
            raise input_error(f"{name} of onnx/manifest.json", f"as in {POLICY}", found[name], "")


#: Of each target, what runs it: given the folder and golden vectors, what it says, or why it is not here.
RUNNERS: dict[str, Callable[[Path, Golden], Ran | str]] = {
    "python": _run_python, "onnx": _run_onnx, "c": _run_c,
}  # fmt: skip
