"""Counter-based random numbers of a bandit: a block of rounds is drawn by its number alone.

So a restored player goes on with the same numbers, and one stream and many draw alike.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Rounds whose numbers are drawn at once.
BLOCK = 256


def _generator(seed: int, stream: int, block: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, 0, block]))


def normals(seed: int, stream: int, block: int, arms: int) -> npt.NDArray[np.float64]:
    """Return standard normal numbers for the rounds of a block, (BLOCK, A).

    Examples
    --------
    >>> normals(0, 0, 1, 3).shape, bool((normals(0, 0, 1, 3) == normals(0, 0, 1, 3)).all())
    ((256, 3), True)
    """
    return _generator(seed, stream, block).standard_normal((BLOCK, arms))


def uniforms(seed: int, stream: int, block: int) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1) for the rounds of a block, (BLOCK,)."""
    return _generator(seed, stream, block).random(BLOCK)
