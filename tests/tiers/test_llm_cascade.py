"""The cascade of paid models runs on its stand-in, and its loop asks what the replay says."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import policyopt as po


def example(root, *words):
    command = [sys.executable, "-m", "examples.llm_cascade", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_whole_way_on_the_stand_in(root, tmp_path):
    done = example(
        root, "--stand-in", "--out", tmp_path / "p.json", "--methods", "max_prob,frugalgpt"
    )
    assert done.returncode == 0, done.stderr
    assert "a generated stand-in" in done.stdout and "frugalgpt at 30%" in done.stdout
    policy = po.load_policy(tmp_path / "p.json")
    assert policy.unit == "USD" and policy.model_exits == 5


def test_the_loop_pays_for_the_calls_it_makes(root, monkeypatch):
    monkeypatch.syspath_prepend(root)
    from examples.llm_cascade.records import stand_in
    from examples.llm_cascade.serve import Models, ask

    data = stand_in(400)
    policy = po.fit(data, "35%", method="subset").policy
    replayed, models = po.evaluate(policy, data), Models(data, "test")
    answers = [ask(policy, models, q) for q in range(len(replayed.exit))]
    np.testing.assert_array_equal(answers, replayed.prediction)
    assert models.spent == pytest.approx(replayed.cost.sum())
    asked = np.searchsorted(policy.active_exits, replayed.exit) + 1
    assert models.calls.sum() == asked.sum() < 0.6 * models.calls.size * len(answers)
    assert not models.calls[[k for k in range(5) if k not in policy.active_exits]].any()
