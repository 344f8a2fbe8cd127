"""The caches of others, as they are (skipped where they are not present)."""

from pathlib import Path

import numpy as np
import pytest

from policyopt._cache.importers import import_sources
from policyopt._cache.reader import open_cache

DATA = Path(__file__).parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="../shared/data is not here")


def accuracies(rows):
    if rows.has("correct"):
        return rows.array("correct").mean(axis=0) * 100
    right = rows.array("outputs").argmax(axis=2) == rows.array("labels")[:, None]
    return right.mean(axis=0) * 100


@pytest.mark.parametrize(
    ("file", "options", "rows", "first", "last"),
    [
        ("cifar10_cascade5", {"cost_kind": "standalone", "unit": "MFLOPs"}, 10_000, 90.7, 95.3),
        ("alexnet2_cifar10_confidence", {}, 10_000, 72.8, 90.6),
        # The README beside the files says 72.0 / 79.6; the file itself holds these.
        ("resnet8_2exit_cifar10", {}, 10_000, 73.7, 78.3),
        ("mmlu_llama5_train", {"cost_kind": "standalone"}, 285, None, None),
        ("mmlu_llama5_test", {"cost_kind": "standalone"}, 1531, 42.5, 85.2),
    ],
)
def test_each_file(tmp_path, file, options, rows, first, last):
    report = import_sources(DATA / f"{file}.npz", tmp_path / "out", **options)
    data = open_cache(tmp_path / "out")
    pool = data.splits["pool"]
    assert len(pool) == rows and pool.has("labels")
    if first is not None:
        assert accuracies(pool)[[0, -1]] == pytest.approx([first, last], abs=0.051)
    assert any("axes read as KN" in note for note in report.notes)
    assert any("NO COSTS" in note for note in report.notes) == (not options)
    if file == "cifar10_cascade5":
        source = np.load(DATA / f"{file}.npz")
        np.testing.assert_allclose(data.cost().values, np.cumsum(source["costs"]))
        np.testing.assert_array_equal(pool.array("outputs"), source["logits"].swapaxes(0, 1))
