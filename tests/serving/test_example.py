"""examples/serve_torch runs: small, on stand-in data of the real format."""

from __future__ import annotations

import subprocess
import sys

import pytest
from test_examples import stand_in  # noqa: F401

import policyopt as po


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
    for budget, code in (("1", 0), ("900", 2)):
        more = ("--weights", out / "weights.pt", "--budget", budget)
        again = subprocess.run([*command, *more], cwd=root, capture_output=True, text=True)
        assert again.returncode == code, again.stderr
    assert "'budget' must be" in again.stderr and "Traceback" not in again.stderr
