"""What heads return, brought to the host as the policy reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def host(output: Any) -> Any:
    """Return an exit's output on the host, as float32; records column by column."""
    if isinstance(output, Mapping):
        return {name: _host_column(column) for name, column in output.items()}
    if hasattr(output, "detach"):
        return output.detach().float().cpu().numpy()
    return np.asarray(output)


def host_row(logits: Any, wanted: tuple[int, int]) -> tuple[Any, list[float] | None]:
    """Return one sample's logits as the policy gets them, and as floats; None: of another form."""
    brought = host(logits)
    if getattr(brought, "shape", None) != wanted or brought.dtype.kind not in "fiu":
        return brought, None
    return brought, brought[0].astype(np.float32).tolist()


def _host_column(column: Any) -> npt.NDArray[Any]:
    return column.detach().cpu().numpy() if hasattr(column, "detach") else np.asarray(column)
