"""The statistics of an exit as a plain script computes them, and whether ours agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax, logsumexp

from policyopt._table import ExitStatistics

Columns = dict[str, npt.NDArray[Any]]
#: Largest allowed difference, absolute: float32 arithmetic over C classes.
TOLERANCE = {"confidence": 2e-6, "second": 2e-6, "entropy": 2e-4, "log_sum_exp": 2e-5}


def plain(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Columns:
    """Reduce (..., C) float32 logits, one library call after another."""
    log_p = np.asarray(log_softmax(logits, axis=-1))
    p = np.exp(log_p)
    prediction = p.argmax(axis=-1)
    return {
        "confidence": p.max(axis=-1),
        "prediction": prediction,
        "second": np.partition(p, -2, axis=-1)[..., -2],
        "entropy": -(p * log_p).sum(axis=-1),
        "log_sum_exp": np.asarray(logsumexp(logits, axis=-1)),
        "correct": prediction == labels,
    }


def plain_by_exit(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Columns:
    """Reduce (N, K, C) logits exit by exit, which needs K times less memory.

    float16 is widened first: numpy computes in it several times slower than in float32.
    """
    parts = [
        plain(logits[:, k].astype(np.float32, copy=False), labels) for k in range(logits.shape[1])
    ]
    return {name: np.stack([part[name] for part in parts], axis=1) for name in parts[0]}


def plain_whole(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> Columns:
    """Reduce (N, K, C) logits at once."""
    return plain(logits, labels[:, None])


def differences(ours: ExitStatistics, theirs: Columns) -> dict[str, float]:
    """Return the largest difference per column; for predictions the share of rows that differ.

    Raises
    ------
    AssertionError
        More than float32 explains.
    """
    columns = {
        "confidence": ours.confidence,
        "second": ours.top_prob[:, :, 1],
        "entropy": ours.entropy,
        "log_sum_exp": ours.log_sum_exp,
    }
    found = {name: float(np.abs(c - theirs[name]).max()) for name, c in columns.items()}
    for name, value in found.items():
        assert value <= TOLERANCE[name], f"{name} differs by {value}"
    # exp may round two near logits to equal probabilities: the plain argmax then takes the first.
    found["prediction"] = float((ours.prediction != theirs["prediction"]).mean())
    assert found["prediction"] <= 1e-4, f"predictions differ in {found['prediction']:.2%}"
    assert ours.quality is not None
    found["correct"] = float((ours.quality != theirs["correct"]).mean())
    return found
