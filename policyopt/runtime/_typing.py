"""Types of arrays, named once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
#: Arrays with the samples on their first axis, so that survivors can be picked by index.
State = tuple[npt.NDArray[Any], ...]
