"""`torch.compile` per stage, so that stages of one class do not use up each other's compilations.

Dynamo keeps its compilations by code object, eight at most (``recompile_limit``), and then runs the
plain Python in silence. All modules share the code of ``nn.Module.__call__``: a model of five stages
that meets batches of 1, of a few and of many samples is past the limit. So each stage gets a function
with a code object of its own. Sizes are dynamic from the first call; a batch of one sample is compiled
apart, and some operators (convolutions in PyTorch 2.13: below 16 samples) ask for one more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

from policyopt.runtime._errors import input_error


def compiled(
    call: Callable[[Any], Any], name: str, backend: Any, options: Mapping[str, Any]
) -> Callable[[Any], Any]:
    """Return one callable compiled for batches of any size.

    `name`: of the stage, shown by torch's logs. `backend`, `options`: of `torch.compile`.
    """
    import torch

    known = torch.compiler.list_backends(exclude_tags=())
    if not callable(backend) and backend not in known:
        raise input_error("backend", f"one of {', '.join(known)}, or a callable", backend, "")

    def run(hidden: Any) -> Any:
        return call(hidden)

    own = FunctionType(
        run.__code__.replace(co_name=name), run.__globals__, name, None, run.__closure__
    )
    return torch.compile(own, backend=backend, **{"dynamic": True, **options})
