"""What the coefficients of a stop rule decide."""

import numpy as np

from policyopt._methods.regression import of_own_fold


def exits_taken(found, columns, fold):
    """Exit each row takes at each price by coefficients that its own fold did not train, (N, L)."""
    odds = [of_own_fold(x, found.theta[:, k], fold) for k, x in enumerate(columns)]
    leave = np.stack([*odds, np.zeros_like(odds[0])], axis=1) >= 0
    return leave.argmax(axis=1)
