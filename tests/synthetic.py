"""Synthetic multi-exit outputs: deeper exits are better, samples differ in difficulty."""

import numpy as np

import policyopt as po
from policyopt._checking import made_up


def outputs(n=2000, exits=4, classes=6, seed=0):
    """Logits (n, K, C) and labels (n,): signal grows over exits and shrinks with difficulty."""
    logits, labels = made_up(n, exits, classes, seed)
    return logits, labels.astype(np.int32)


def cache(n=2000, exits=4, classes=6, seed=0, costs=None, **more):
    logits, labels = outputs(n, exits, classes, seed)
    costs = list(2.0 ** np.arange(exits)) if costs is None else costs
    return po.from_arrays(logits, labels, costs, unit="ms", **more)


def hopeless(rows=4000, seed=3):
    """Thirds: easy; two classes alike at exit 0 and clear at exit 1; nothing to be known at either."""
    rng = np.random.default_rng(seed)
    labels, kind = rng.integers(0, 5, rows), rng.integers(0, 3, rows)
    logits = rng.normal(size=(rows, 2, 5)) * 0.3
    own, other = np.eye(5)[labels], np.eye(5)[(labels + 1) % 5]
    logits[:, 0] += np.array([6.0, 3.0, 0.0])[kind, None] * own
    logits[:, 0] += np.array([0.0, 3.0, 0.0])[kind, None] * other
    logits[:, 1] += np.array([6.0, 6.0, 0.0])[kind, None] * own
    return po.from_arrays(logits.astype(np.float32), labels, [1.0, 4.0], unit="ms")


def chain(rows, seed):
    """A Markov chain of three signals over four exits: (N, 4), and success by signal and exit."""
    rng = np.random.default_rng(seed)
    move = np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25], [0.05, 0.15, 0.8]])
    right = np.array([[0.35, 0.4, 0.5, 0.6], [0.6, 0.65, 0.7, 0.72], [0.95, 0.93, 0.92, 0.9]])
    signal = np.empty((rows, 4), dtype=int)
    signal[:, 0] = rng.integers(0, 3, rows)
    for k in range(1, 4):
        draws = rng.random(rows)
        signal[:, k] = (draws[:, None] > np.cumsum(move[signal[:, k - 1]], axis=1)).sum(axis=1)
    return signal, right[signal, np.arange(4)]
