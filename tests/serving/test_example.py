"""examples/serve_torch runs: small, on stand-in data of the real format."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_examples import stand_in  # noqa: F401

import policyopt as po


def test_labels_stand_above_the_bar_and_the_ideal(tmp_path, monkeypatch):
    """No label's box touches the line of the ideal, wherever that is: below, on or above the bar."""
    pytest.importorskip("torch")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from examples.serve_torch import picture
    from examples.serve_torch.clock import Race

    drawn = []
    save = picture.save_figure
    monkeypatch.setattr(
        picture, "save_figure", lambda figure, path: drawn.append(figure) or save(figure, path)
    )
    ideals = 0.5, 0.785, 0.8, 0.82, 0.9
    pairs = [((0.99, 0.99), (0.8, 0.8), (ideal, ideal)) for ideal in ideals]
    races = [Race(b, *pair, (1.0,), 1.0) for b, pair in enumerate(pairs)]
    picture.draw(races, "title", tmp_path / "a.png")
    (figure,) = drawn
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    for axes, ideal in zip(figure.axes, ideals, strict=True):
        line = axes.transData.transform((1, ideal))[1]
        full, served = (text.get_window_extent(renderer) for text in axes.texts)
        assert [text.get_text() for text in axes.texts] == ["0.99", "0.8"]
        assert served.y0 > line + 2 and served.y0 > axes.transData.transform((1, 0.8))[1]
        assert full.y1 < axes.bbox.y1 and served.y1 < axes.bbox.y1


def test_from_training_to_a_served_policy(root, stand_in):  # noqa: F811
    pytest.importorskip("torch")
    out = stand_in / "out"
    command = [
        sys.executable, "-m", "examples.serve_torch", "--quick", "--data", stand_in, "--out", out,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (out / "results.md").read_text()
    assert text in done.stdout and "other exits than the replay of the cache: 0" in text
    for batch in (1, 16, 256):
        (line,) = (row for row in text.splitlines() if row.startswith(f"| {batch} | wall |"))
        full, served, ideal = (float(cell.split()[0]) for cell in line.split("|")[3:6])
        assert full > 0 and served > 0 and ideal > 0
    data, policy = po.open_cache(out / "cache"), po.load_policy(out / "policy.json")
    assert po.evaluate(policy, data).cost.mean() < 0.5 * data.cost().values[-1]
    assert (out / "serve_torch.png").stat().st_size > 10_000
    again = subprocess.run(
        [*command, "--weights", out / "weights.pt", "--budget", "1"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    bad = subprocess.run(
        [*command, "--weights", out / "weights.pt", "--budget", "900"],
        cwd=root, capture_output=True, text=True,
    )  # fmt: skip
    assert (
        bad.returncode == 2 and "'budget' must be" in bad.stderr and "Traceback" not in bad.stderr
    )
