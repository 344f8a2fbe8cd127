"""Machine code in this process: the policy's exits and answers; libraries in a folder of one's own and nowhere else."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import pytest
import rules
from policies import fitted
from synthetic import outputs

from policyopt._export.c_compiler import NoCompiler, compiler
from policyopt._export.c_native import ASK, native
from policyopt.runtime import InputError, Policy
from policyopt.runtime._scores import Entropy, Margin, MaxProb
from policyopt.runtime._scores.base import ScoreRule

K, C = 4, 6
COSTS = [1.0, 2.0, 4.0, 8.0]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """A folder for libraries, empty."""
    try:
        compiler()
    except NoCompiler as error:
        pytest.skip(str(error))
    monkeypatch.setenv("POLICYOPT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def simple(rule, thresholds=(0.5, 0.6, 0.7)):
    return Policy(rule, thresholds, COSTS, "ms", "logits", C)


def stepped(made, rows, number=0):
    """What is said of one sample's logits (K, C) at each exit until it leaves or asks."""
    state, said = ctypes.create_string_buffer(made.size), []
    rows = np.ascontiguousarray(rows, np.float32)
    for at, row in enumerate(rows):
        said.append(made.step(state, number, at, row.ctypes.data))
        if said[-1] == ASK or said[-1] & 1:
            break
    return said, state


@pytest.mark.parametrize(
    "policy",
    [
        simple(MaxProb()),
        simple(Margin()),
        fitted("optimal_stopping:mix=true"),
        fitted("trust_score"),
    ],
    ids=lambda policy: policy.rule.name,
)
def test_exits_and_answers_are_the_policys(policy):
    logits = outputs(400, K, C, seed=5)[0]
    wanted, made, asked = policy.decide(logits), native(policy), 0
    for row in range(400):
        said, state = stepped(made, logits[row], row)
        if said[-1] == ASK:
            asked += 1
            shown = np.concatenate(made.seen(state, len(said)))
            np.testing.assert_array_equal(shown, logits[row, : len(said)].astype(np.float32))
            continue
        assert (len(said) - 1, said[-1] >> 1) == (wanted.exit[row], wanted.prediction[row])
    assert asked < 8


@pytest.mark.parametrize("rule", [MaxProb(), Margin(), Entropy(C)], ids=lambda rule: rule.name)
def test_at_the_threshold_it_asks(rule):
    logits = outputs(200, K, C, seed=5)[0]
    scores = simple(rule).trace(logits).scores
    for threshold in (scores[7, 0], np.nextafter(scores[7, 0], 9)):
        made = native(simple(rule, [threshold, 2.0, 2.0]))
        assert stepped(made, logits[7])[0][0] == ASK
        far = np.abs(scores[:, 0] - threshold).argmax()
        assert stepped(made, logits[far])[0][0] != ASK
        assert 0 < made.near[0] < 1e-4
    assert native(rules.policy("patience")).near == (0.0, 0.0)  # the same bits everywhere


def test_saturated_thresholds_are_decided():
    """Nearly all scores within 1e-5 of 1, as exits of strong models have them."""
    logits = outputs(400, K, C, seed=3)[0] * 0.1
    logits[..., 2] += np.random.default_rng(0).uniform(8, 14, (400, K))
    scores = simple(MaxProb()).trace(logits).scores
    policy = simple(MaxProb(), np.quantile(scores[:, :-1], 0.7, axis=0) - 1e-12)
    assert (policy.thresholds > 1 - 1e-3).all()
    made = native(policy)
    assert sum(stepped(made, rows)[0][-1] == ASK for rows in logits) < 4


def test_what_cannot_be_is_refused():
    @dataclass(frozen=True)
    class Steep(ScoreRule):
        """Nothing but rounding, magnified."""

        name = "steep"
        needs = frozenset({"log_prob"})

        def score(self, k, output, state):
            return 1e6 * (np.exp(output.log_prob).sum(axis=1).astype(np.float64) - 1.0), state

    with pytest.raises(InputError, match="one whose scores C can compute"):
        native(simple(Steep()))
    with pytest.raises(InputError, match=r"one of logits alone\. Got record"):
        native(rules.policy(kind="record"))


def test_libraries_are_kept_by_their_source_and_need_no_compiler_again(home, monkeypatch):
    first, second = simple(MaxProb()), simple(MaxProb(), [0.5, 0.6, 0.71])
    for policy, files in ((first, 1), (first, 1), (second, 2)):
        native(policy)
        assert len(list(home.iterdir())) == files
    assert home.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    logits = outputs(1, K, C, seed=5)[0][0]
    assert stepped(native(first), logits)[0]
    with pytest.raises(NoCompiler):
        native(simple(Margin()))


def test_nothing_is_read_from_where_others_may_write(home, tmp_path, monkeypatch):
    """Nor from beside a policy; what cannot be loaded is made again."""
    loaded = []
    load = ctypes.PyDLL
    monkeypatch.setattr(ctypes, "PyDLL", lambda path: loaded.append(path) or load(path))
    monkeypatch.chdir(tmp_path)
    simple(MaxProb()).save(tmp_path / "policy.json")
    native(simple(MaxProb()))
    (kept,) = home.iterdir()
    assert set(loaded) == {str(kept)}
    home.chmod(0o777)
    with pytest.raises(InputError, match="nobody else's to write to"):
        native(simple(MaxProb()))
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    (own / kept.name).write_bytes(b"no library")
    native(simple(MaxProb()), own)
    assert (own / kept.name).stat().st_size > 1000


def test_a_home_that_cannot_be_used_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("POLICYOPT_CACHE", str(tmp_path / "file"))
    assert stepped(native(simple(MaxProb())), np.zeros((K, C)))[0]
    with pytest.raises(OSError, match="file"):
        native(simple(MaxProb()), tmp_path / "file" / "more")
