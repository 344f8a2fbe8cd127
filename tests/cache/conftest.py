"""Small caches, made from a seed."""

import numpy as np
import pytest
from faults import room  # noqa: F401

from policyopt._costs import Cost

N, K, C = 60, 3, 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def logits(rng):
    return rng.normal(size=(N, K, C)).astype(np.float32)


@pytest.fixture
def labels(rng):
    return rng.integers(0, C, N)


@pytest.fixture
def costs():
    return [Cost("compute", "MMACs", (1.0, 2.0, 4.0))]


@pytest.fixture
def record(rng, labels):
    prediction = rng.integers(-1, C, (N, K))
    return {
        "labels": labels,
        "prediction": prediction,
        "confidence": rng.random((N, K)),
        "correct": prediction == labels[:, None],
    }
