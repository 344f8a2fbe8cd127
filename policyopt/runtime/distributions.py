"""Class probabilities of an exit as side-by-side float64, for rules that compare distributions."""

from __future__ import annotations

import numpy as np

from .output import ExitOutput
from .typing import Floats

#: Logarithms of probabilities are kept above this: a class that cannot be is one in 10**13.
LOWEST = -30.0


def log_probabilities(output: ExitOutput) -> Floats:
    """Return the logarithms of all class probabilities, (n, C), at least `LOWEST`.

    Contiguous, so that sums over classes run in the same order for one row as for many.

    Examples
    --------
    >>> from policyopt.runtime.output import reduce_logits, with_log_prob
    >>> logits = np.log([[0.75, 0.25]])
    >>> np.exp(log_probabilities(with_log_prob(reduce_logits(logits), logits))).round(6)
    array([[0.75, 0.25]])
    """
    assert output.log_prob is not None  # the policy refuses records for rules that need it
    return np.maximum(output.log_prob.astype(np.float64, order="C", copy=False), LOWEST)
