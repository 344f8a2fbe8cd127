"""What tests of methods share."""

import numpy as np

import policyopt as po
from policyopt._answers.crossfit import CrossFitted
from policyopt._methods.exit_batch import build_batch
from policyopt._methods.registry import make_method
from policyopt._methods.regression import of_own_fold
from policyopt._table import Tables
from policyopt.runtime._answers import Identity
from policyopt.runtime._outputs import reduce_logits, with_log_prob


def fit_table(data):
    return Tables(data).get("fit")


def pool(logits, labels=None):
    """Rows of split `fit` alone, at costs 1, 2, 4, ...; labels may be unknown."""
    part = {"outputs": logits} if labels is None else {"outputs": logits, "labels": labels}
    return po.from_arrays(splits={"fit": part}, costs=2.0 ** np.arange(logits.shape[1]), unit="ms")


def fit_one(spec, table, budget):
    return make_method(spec).fit_path(table, [budget])[0]


def batch_of(data, features=False):
    return build_batch(fit_table(data), CrossFitted(Identity()), features)


def with_probabilities(logits):
    exits = range(logits.shape[1])
    return [with_log_prob(reduce_logits(logits[:, k]), logits[:, k]) for k in exits]


def exits_taken(found, columns, fold):
    """Exit each row takes at each price by coefficients that its own fold did not train, (N, L)."""
    odds = [of_own_fold(x, found.theta[:, k], fold) for k, x in enumerate(columns)]
    return (np.stack([*odds, np.zeros_like(odds[0])], axis=1) >= 0).argmax(axis=1)
