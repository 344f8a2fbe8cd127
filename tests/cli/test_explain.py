"""`policyopt explain` end to end: what it writes and prints, and what it refuses."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from synthetic import cache as make_cache
from synthetic import outputs

import policyopt as po


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A cache of splits fit, test and an unlabelled stream, and policies, on disk."""
    folder = tmp_path_factory.mktemp("explain")
    logits, labels = outputs(900, exits=3)
    with po.CacheWriter(folder / "c", costs=[po.Cost("time", "ms", [1, 2, 4])]) as writer:
        writer.append("fit", logits[:400], labels[:400])
        writer.append("test", logits[400:], labels[400:])
        writer.append("bare", logits[400:] + 0.5 * np.roll(logits[400:], 1, axis=0))
    data = po.open_cache(folder / "c")
    po.fit(data, "50%", "entropy").save(folder / "p.json")
    po.fit(data, "60%", "patience").save(folder / "q.json")
    po.fit(make_cache(n=400), "50%", "max_prob").save(folder / "other.json")
    return folder


def test_explain_writes_what_it_prints(run, files, tmp_path):
    line = ("explain", files / "p.json", files / "c", "--out", tmp_path)
    code, out, err = run(*line, "--format", "json")
    record = json.loads(out)
    assert code == 0 and "max_prob fitted at the same budget" in err
    assert json.loads((tmp_path / "explain.json").read_text()) == record
    assert record["reference"]["method"] == "max_prob"
    lines = list(csv.DictReader(io.StringIO((tmp_path / "rows.csv").read_text())))
    assert len(lines) == record["rows"] == 500
    became = [int(r["row"]) for r in lines if (r["correct"], r["reference_correct"]) == ("1", "0")]
    assert became == record["changes"]["rows_better"]
    assert np.mean([float(r["cost"]) for r in lines]) == pytest.approx(record["realised_cost"])
    for name in ("exits", "scores", "classes", "per_class", "changes"):
        picture = (tmp_path / f"{name}.png").read_bytes()
        assert picture[:4] == b"\x89PNG" and len(picture) > 15_000


def test_explain_prints(run, files):
    command = ("explain", files / "p.json", files / "c", "--reference", files / "q.json")
    code, out, err = run(*command)
    assert code == 0 and not err
    for text in ("exit", "overthought", "against patience", "became right", "McNemar"):
        assert text in out
    code, out, _ = run(*command, "--format", "csv")
    assert code == 0 and [r["exit"] for r in csv.DictReader(io.StringIO(out))] == ["0", "1", "2"]


def test_explain_unlabelled_stream_and_mixture(run, files, tmp_path):
    line = ("explain", files / "q.json", files / "c", "--split", "bare", "--out", tmp_path)
    code, out, err = run(*line)
    assert code == 0 and "no labels" in err and "overthought" not in out and " or " in out
    assert not (tmp_path / "classes.png").exists() and (tmp_path / "scores.png").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("p.json c --split nights", ["split", "nights", "bare"]),
        ("p.json c --cost joules", ["cost", "joules", "time"]),
        ("p.json c --out p.json", ["--out", "a file"]),
        ("none.json c", ["none.json"]),
        ("p.json c --reference none.json", ["none.json"]),
        ("p.json c --reference other.json", ["exits", "4", "3"]),
        ("other.json c", ["exits", "4", "3"]),
        ("p.json nowhere", ["nowhere"]),
    ],
)
def test_malformed_input_is_one_message(run, files, monkeypatch, line, words):
    monkeypatch.chdir(files)
    code, out, err = run("explain", *line.split())
    assert code == 2 and not out and "Traceback" not in err
    assert err.startswith("error:") and len(err.strip().splitlines()) == 1
    assert all(word in err for word in words), err
