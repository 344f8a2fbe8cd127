"""The true class's probability: what an exit's answer gives to the label, the target of two methods."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from policyopt.runtime.output import ExitOutput
from policyopt.runtime.typing import Floats


def true_class(output: ExitOutput, labels: npt.NDArray[np.int32] | None) -> Floats:
    """Return the probability that one exit's answers give to the labels.

    Parameters
    ----------
    output : ExitOutput
    labels : ndarray of shape (n,), int32, or None
        -1 where unknown.

    Returns
    -------
    ndarray of shape (n,)
        NaN where the label is unknown, and of records, which tell the prediction's probability only.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> logits = np.log(np.array([[0.7, 0.2, 0.1]] * 2, dtype=np.float32))
    >>> true_class(with_log_prob(reduce_logits(logits), logits), np.array([1, -1])).round(3)
    array([0.2, nan])
    """
    if output.log_prob is None or labels is None:
        return np.full(len(output), np.nan)
    known = labels >= 0
    picked = output.log_prob[np.arange(len(labels)), np.where(known, labels, 0)]
    return np.where(known, np.exp(picked.astype(np.float64)), np.nan)
