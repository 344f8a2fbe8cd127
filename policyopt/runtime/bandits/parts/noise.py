"""Counter-based random numbers of a bandit: a block of rounds is drawn by its number alone.

So a restored player goes on with the same numbers, and one stream and many draw alike. (numpy may
change how it makes them from one version to the next; then a restored player draws others, as good.)
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: Rounds whose numbers are drawn at once.
BLOCK = 256


def _generator(seed: int, stream: int, block: int, series: int) -> np.random.Generator:
    # Philox counts up its lowest word, so that series and blocks never meet.
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, series, block]))


def normals(
    seed: int, stream: int, block: int, width: int, series: int = 0
) -> npt.NDArray[np.float64]:
    """Return standard normal numbers for the rounds of a block, (BLOCK, width).

    Another `series` of the same seed and stream is independent of this one.

    Examples
    --------
    >>> normals(0, 0, 1, 3).shape, bool((normals(0, 0, 1, 3) == normals(0, 0, 1, 3)).all())
    ((256, 3), True)
    """
    return _generator(seed, stream, block, series).standard_normal((BLOCK, width))


def uniforms(
    seed: int, stream: int, block: int, width: int, series: int = 1
) -> npt.NDArray[np.float64]:
    """Return numbers in [0, 1) for the rounds of a block, (BLOCK, width); see `normals`."""
    return _generator(seed, stream, block, series).random((BLOCK, width))
