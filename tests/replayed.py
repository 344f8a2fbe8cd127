"""A staged model whose exits give stored logits, and what is tried on it: by a server, and by queues before it."""

from itertools import pairwise

import numpy as np
import pytest
from synthetic import outputs
from test_methods import SPECS

from policyopt.runtime import Policy

torch = pytest.importorskip("torch")

from policyopt.serving import StagedModel  # noqa: E402

N, K, C = 200, 4, 6
COSTS = [1.0, 2.0, 4.0, 8.0]
LOGITS = outputs(N, K, C, seed=1)[0]
#: What asks models in any order is no matter of exits: `serve` refuses it.
IN_TURN = [spec for spec in SPECS if spec not in ("routing", "router")]


class Replayed:
    """A model whose exits give stored logits: the hidden state holds the samples' row numbers."""

    def __init__(self, logits, dtype=None):
        self.logits = torch.from_numpy(logits).to(dtype or torch.float32)
        self.seen = [[] for _ in range(logits.shape[1])]  # rows that each head was given

    def head(self, k):
        def run(hidden):
            rows = hidden["row"]
            self.seen[k].extend(rows.tolist())
            return self.logits[rows, k]

        return run

    def model(self, **more):
        k = self.logits.shape[1]
        return StagedModel([dict] * k, [self.head(i) for i in range(k)], **more)


def batches(n, sizes, seed=0):
    """Rows in random order, in batches whose sizes are taken in turn."""
    order = np.random.default_rng(seed).permutation(n)
    edges = np.minimum(np.cumsum([0, *np.resize(sizes, n)]), n)
    return [order[a:b] for a, b in pairwise(edges) if b > a]


def same(found, expected):
    for name, column in found.items():
        np.testing.assert_array_equal(column, getattr(expected, name), err_msg=name)


def simple(rule, thresholds=(0.5, 0.6, 0.7), **more):
    return Policy(rule, thresholds, COSTS, "ms", "logits", C, **more)
