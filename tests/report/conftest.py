"""What the tests of explanations share."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import cache as make_cache

import policyopt as po
from policyopt.runtime.answers import Combined
from policyopt.runtime.policy import Policy
from policyopt.runtime.scores import MaxProb
from policyopt.table import Tables


@pytest.fixture(scope="session")
def world():
    """Cache, table of its test rows, a policy and a rival."""
    data = make_cache(n=1600, exits=4, classes=5)
    tables = Tables(data)
    policy = po.fit(data, "40%", "entropy", tables=tables).policy
    rival = po.fit(data, "45%", "max_prob", tables=tables).policy
    return data, tables.get("test"), policy, rival


@pytest.fixture(scope="session")
def combined_policy():
    """Makes a policy whose answers are combined over exits, and cost something."""

    def make(table, thresholds=(0.5, 0.6, 0.7)):
        weights = np.tril(np.full((4, 4), 0.4))
        return Policy(
            MaxProb(), np.array(thresholds), table.mean_costs, table.unit, table.kind, table.classes,
            answer=Combined(weights), overhead=[0.0, 0.1, 0.2, 0.3],
        )  # fmt: skip

    return make
