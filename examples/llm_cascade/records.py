"""Records of five models on the same questions: those of a file, or a stand-in of the same form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import policyopt as po
from policyopt._cache.importers import import_sources

#: Price in USD per question, before its length: each model some times the one before.
_PRICES = np.array([1.9e-5, 1.9e-5, 3.8e-5, 1.7e-4, 5.7e-4])
_SKILL = np.array([-0.4, 0.35, 0.6, 1.6, 2.0])


def read(train: Path, test: Path, place: Path) -> po.ExitData:
    """Import two files of records, the authors' own split; prices are those of each call alone."""
    named = [f"fit={train}", f"test={test}"]
    return import_sources(named, place, cost_kind="standalone").data


def stand_in(questions: int = 1600, seed: int = 0) -> po.ExitData:
    """Make records of five models that differ in skill and price, a third of the questions to fit on."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=(questions, 1)) * 1.2
    margin = _SKILL - hard + rng.normal(size=(questions, 5)) * 0.7
    right = rng.random((questions, 5)) < 0.25 + 0.75 / (1 + np.exp(-2 * margin))
    # Sure where the question is easy for the model, and now and then for no reason.
    sure = 1 / (1 + np.exp(-(1.3 * margin + 0.8 * rng.normal(size=(questions, 5)))))
    labels = rng.integers(0, 4, questions)
    wrong = (labels[:, None] + rng.integers(1, 4, (questions, 5))) % 4
    said = np.where(right, labels[:, None], wrong)
    price = _PRICES * rng.gamma(8, 1 / 8, (questions, 1))
    splits: dict[str, Any] = {}
    for name, rows in (("fit", slice(0, questions // 3)), ("test", slice(questions // 3, None))):
        splits[name] = {
            "confidence": sure[rows], "prediction": said[rows], "labels": labels[rows],
            "sample_costs": {"price": price[rows]},
        }  # fmt: skip
    cost = po.Cost("price", "USD", None, kind="standalone")
    return po.from_arrays(splits=splits, costs=cost, cost_kind="standalone")
