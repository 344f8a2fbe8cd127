"""How well a score tells failures from the rest: what early exits need of it, and calibration does not give.

After Kubaty et al., Rethinking calibration for early-exit neural networks, arXiv:2508.21495: the area under
the ROC curve of an exit's score as a predictor of failure. What counts as no failure here: stopping at the
exit is at least as right as going on (see `policyopt.methods.failure_prediction`).
"""

from __future__ import annotations

import numpy as np

from policyopt.methods.failure_prediction import no_failure
from policyopt.runtime.typing import Floats


def failure_auroc(scores: Floats, correct: Floats) -> list[float | None]:
    """Return, per exit, the chance that a row that may stop there scores above one that should go on.

    Parameters
    ----------
    scores : ndarray of shape (N, K)
        Higher = readier to exit; equal ones count half.
    correct : ndarray of shape (N, K)
        0 or 1.

    Returns
    -------
    list of K float or None
        None where all rows are of one kind, as at the last exit.

    Examples
    --------
    >>> failure_auroc(
    ...     np.array([[0.9, 0.9], [0.4, 0.8], [0.5, 0.7]]), np.array([[1, 1], [0, 1], [0, 0]])
    ... )
    [1.0, None]
    """
    from scipy.stats import rankdata

    good = no_failure(np.asarray(correct, dtype=np.float64)) > 0
    areas: list[float | None] = []
    for k in range(good.shape[1]):
        count = int(good[:, k].sum())
        if count in (0, len(good)):
            areas.append(None)
            continue
        above = float(rankdata(scores[:, k])[good[:, k]].sum()) - count * (count + 1) / 2
        areas.append(above / (count * (len(good) - count)))
    return areas
