"""The Python file by itself: numpy alone, loaded in any way; and what no graph can say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
from policies import fitted

from policyopt._export.python_file import python_source
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import RULES
from policyopt.runtime._scores.base import ScoreRule


def test_the_file_needs_numpy_alone_and_decides_many_and_one(tmp_path):
    policy = fitted("optimal_stopping")
    (tmp_path / "policy.py").write_text(python_source(policy))
    rng = np.random.default_rng(0)
    outputs = rng.normal(size=(50, policy.exits, policy.classes)).astype(np.float32) * 3
    np.save(tmp_path / "outputs.npy", outputs)
    wanted = policy.decide(outputs)
    code = """
import sys, numpy as np
sys.path.insert(0, ".")
import policy
x = np.load("outputs.npy")
exits, answers, costs = found = policy.decide(x)
assert found.exit is exits and found.prediction is answers and found.cost is costs
assert isinstance(found, tuple) and len(found) == 3
for i, row in enumerate(x):
    state = policy.start(i)
    for k in policy.PATH:
        seen = policy.step(k, row[k], state)
        if seen.exit:
            break
    assert (k, seen.prediction) == (exits[i], answers[i])
    assert abs(seen.probabilities.sum() - 1) < 1e-12
assert not {m for m in sys.modules if m.partition(".")[0] in ("policyopt", "scipy", "torch")}
for bad, words in ((x[0, 0, 1:], "must be of shape"), (x[0, 0] * np.nan, "finite"), (x[0], "shape")):
    try:
        policy.step(0, bad, policy.start())
    except ValueError as error:
        assert words in str(error), error
    else:
        raise AssertionError(words)
try:
    policy.step(1, x[0, 1], policy.start())
except ValueError as error:
    assert "next exit, 0" in str(error)
np.savez("out.npz", exits=exits, answers=answers, costs=costs)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code.replace('"."', repr(str(tmp_path)))],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(found["exits"], wanted.exit)
    np.testing.assert_array_equal(found["answers"], wanted.prediction)
    np.testing.assert_array_equal(found["costs"], wanted.cost)


@pytest.mark.parametrize("spec", ["max_prob", "e2cm", "optimal_stopping"])
def test_the_file_is_loaded_in_any_way(spec, tmp_path):
    """By importlib without an entry in `sys.modules`, and by exec: its dataclass looks nothing up there."""
    policy, path = fitted(spec), tmp_path / "elsewhere.py"
    path.write_text(python_source(policy))
    made = importlib.util.spec_from_file_location("elsewhere_by_path", path)
    module = importlib.util.module_from_spec(made)
    made.loader.exec_module(module)
    assert "elsewhere_by_path" not in sys.modules
    names = {"__name__": "nowhere"}
    exec(compile(path.read_text(), "policy.py", "exec", dont_inherit=True), names)
    assert "nowhere" not in sys.modules
    outputs = np.random.default_rng(0).normal(size=(40, 4, 6)).astype(np.float32) * 3
    wanted = policy.decide(outputs)
    for decide in (module.decide, names["decide"]):
        found = decide(outputs)
        for name in ("exit", "prediction", "cost"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def test_decide_refuses_probabilities_for_logits():
    names = {}
    exec(python_source(fitted("max_prob")), names)
    logits = np.random.default_rng(0).normal(size=(70, 4, 6)).astype(np.float32)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for rows in (4, 70):
        with pytest.raises(ValueError, match=r"must be logits\. Got probabilities at exit 0"):
            names["decide"](chances[:rows])
    names["decide"](chances[:3])
    mixed = chances.copy()
    mixed[2, 0] *= 1.1
    names["decide"](mixed)


@pytest.mark.parametrize(
    "score",
    [
        lambda o: (
            np.where(o.confidence > 0.5, 1.0, 0.0) if (o.confidence > 0.5).any() else o.margin
        ),
        lambda o: np.sort(o.top_prob, axis=1)[:, 0],
        lambda o: np.asarray(o.confidence),
        lambda o: o.confidence - o.confidence.mean(axis=0),
        lambda o: np.cbrt(o.confidence),
    ],
)
def test_a_rule_that_graphs_cannot_say_is_refused_by_name(score):
    class Odd(ScoreRule):
        name = "odd"

        def score(self, k, output, state):
            return score(output), state

    with pytest.raises(InputError, match=r"Score 'odd' cannot|must have a score"):
        trace_policy(Policy(Odd(), [0.5], [1, 2], "ms", "logits", 3))
    assert "odd" not in RULES
