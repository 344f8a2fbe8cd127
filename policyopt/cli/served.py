"""`policyopt.serving` as runtimes of ``policyopt verify``: a model that says the golden outputs again."""

from __future__ import annotations

from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np

from policyopt.export.golden import Golden, given_output, rows_of
from policyopt.export.verify import Runner, Taken
from policyopt.runtime.policy import Policy


def runners() -> dict[str, Runner]:
    """Return the ways of serving, by name."""
    return {
        "torch server, one batch": _batch,
        "torch server, batches of 1": partial(_single, native=False),
        "torch server, batches of 1 in machine code": partial(_single, native=True),
    }


def replaying(policy: Policy, golden: Golden) -> Any:
    """Return a staged model whose batch is numbers of golden rows, and whose heads say their outputs."""
    import torch

    from policyopt.serving import StagedModel

    def output(at: int, rows: Any) -> Any:
        (given,) = rows_of(golden.inputs[at : at + 1], rows.numpy())
        found = given_output(policy, given)
        return found if policy.kind == "record" else torch.from_numpy(found)

    def vectors(at: int, rows: Any) -> Any:
        return torch.from_numpy(golden.inputs[at]["features"][rows.numpy()])

    def skipped(rows: Any) -> Any:
        raise AssertionError("an exit that the policy skips was asked")

    def each(of: Any) -> list[Any]:
        calls: list[Any] = [skipped] * policy.model_exits
        for at, k in enumerate(policy.path):
            calls[k] = partial(of, at)
        return calls

    stages = [lambda rows: rows] * policy.model_exits
    return StagedModel(stages, each(output), each(vectors) if policy.needs_features else None)


@lru_cache(maxsize=1)  # both sizes of batches are of one server
def _server(policy: Policy, golden: Golden) -> Any:
    from policyopt.serving import serve

    return serve(replaying(policy, golden), policy)


def _batch(policy: Policy, golden: Golden) -> Taken | str:
    """All rows at once; survivors regrouped."""
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    found = _server(policy, golden)(torch.arange(len(golden)), samples=golden.sample)
    return Taken(found.exit, found.prediction)


def _single(policy: Policy, golden: Golden, native: bool) -> Taken | str:
    """One row after the other."""
    if find_spec("torch") is None:
        return "torch is not installed"
    import torch

    from policyopt.export.c_run import NoCompiler
    from policyopt.serving import serve

    if native and (policy.kind != "logits" or policy.needs_features):
        return "only policies of logits alone"
    try:
        server = (
            serve(replaying(policy, golden), policy, native=True)
            if native
            else _server(policy, golden)
        )
    except NoCompiler as error:
        return str(error)
    exits, answers = np.empty(len(golden), np.int64), np.empty(len(golden), np.int32)
    for row, number in enumerate(golden.sample):
        found = server(torch.tensor([row]), samples=[int(number)])
        exits[row], answers[row] = found.exit[0], found.prediction[0]
    return Taken(exits, answers)
