"""Fitted policies that tests share: a method is trained once per process, whoever asks for it."""

from functools import cache as once

import numpy as np
from synthetic import cache, outputs

import policyopt as po
from policyopt._checking import BUDGETS
from policyopt._methods.registry import ROWS, make_method
from policyopt._table import Tables


@once
def fits(spec, budgets=BUDGETS, rows=1000, seed=0):
    """Return the fits for the budgets and the tables they were fitted on."""
    needs, more = ROWS[spec.partition(":")[0]].needs, {}
    if "cascade" in needs:  # in turn the models cost the same
        more |= {"costs": [1.0, 1.0, 2.0, 4.0], "cost_kind": "standalone"}
    if "query" in needs:
        more["query"] = outputs(rows)[0][:, 0, :2]
    tables = Tables(cache(rows, **more))
    return make_method(spec).fit_path(tables.get("fit"), list(budgets), seed), tables


def fitted(spec):
    return fits(spec)[0][2].policy


def on_features(spec):
    """A policy of a method that scores feature vectors, of 3 to 6 numbers by exit."""
    rng = np.random.default_rng(0)
    data = cache(400, features=[rng.normal(size=(400, 3 + k)).astype("f4") for k in range(4)])
    policy = po.fit(data, 3.7, f"{spec}{'+' if ':' in spec else ':'}spend=all").policy
    assert policy.needs_features
    return policy
