"""Rows of small caches, made from a seed: 60 of 3 exits and 5 classes."""

import numpy as np

import policyopt as po

N, K, C = 60, 3, 5
rng = np.random.default_rng(0)
X = rng.normal(size=(N, K, C)).astype(np.float32)
Y = rng.integers(0, C, N)
P = rng.dirichlet(np.ones(C), (N, K)).astype(np.float32)
CONF, PRED = rng.random((N, K)), rng.integers(-1, C, (N, K))
CORRECT = Y[:, None] == PRED
COSTS = po.Cost("compute", "MMACs", [1, 2, 4])
#: Names of contexts, and widths of feature vectors.
NAMES, WIDTHS = ("clean", "blur", "noise"), (4, 2, 7)


def batch(n, seed=0, **replaced):
    """Return the arrays of n rows with features and contexts."""
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=(n, d)).astype(t) for d, t in zip(WIDTHS, "fef", strict=True)]
    found = {
        "outputs": rng.normal(size=(n, K, C)).astype("f"), "labels": rng.integers(0, C, n),
        "features": features, "context": rng.integers(0, 3, n),
    }  # fmt: skip
    return found | replaced


def keyed(n, seed=0, prefix=""):
    given = batch(n, seed)
    named = {"logits": given["outputs"].swapaxes(0, 1).copy(), "labels": given["labels"]}
    named |= {f"features_{k}": array for k, array in enumerate(given["features"])}
    return {prefix + key: array for key, array in {**named, "context": given["context"]}.items()}
