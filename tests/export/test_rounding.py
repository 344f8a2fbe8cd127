"""What is said of rounding: which scores are exact, how far float32 takes the others, what is proven."""

from __future__ import annotations

import numpy as np
import pytest
import rules

from policyopt._export.golden import expect, part_of
from policyopt._export.rounding import doubtful, exact_scores, own_rounding, proven
from policyopt._export.samples import made_up
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._policy import Policy
from policyopt.runtime._scores import Entropy, Margin, MaxProb
from policyopt.runtime._scores.base import ScoreRule


@pytest.mark.parametrize("classes", [2, 3, 10, 64, 256])
def test_what_is_proven_of_saturated_scores(classes):
    """Off by a share of 1 less the score, however near to 1: a quarter of what is in doubt, at most."""
    rng = np.random.default_rng(classes)
    rows = rng.normal(size=(1500, classes)) * np.exp(rng.normal(size=(1500, 1)) * 2)
    rows[::7] = np.round(rows[::7])
    rows[np.arange(1500), rng.integers(0, classes, 1500)] += rng.uniform(0, 40, 1500)
    rows = rows.astype(np.float32)
    shift = np.sort(rows.astype(float) - rows.max(axis=1, keepdims=True), axis=1)
    mass = np.exp(shift)
    rest = mass[:, :-1].sum(axis=1)
    nats = np.log1p(rest) - (mass * shift).sum(axis=1) / (1 + rest)
    # 1 less the score, of each, in float64.
    lacks = {
        MaxProb(): rest / (1 + rest), Margin(): (rest + mass[:, -2]) / (1 + rest),
        Entropy(classes): nats / np.log(classes),
    }  # fmt: skip
    for rule, lack in lacks.items():
        policy = Policy(rule, [0.5], [1.0, 2.0], "ms", "logits", classes)
        scores = policy.trace(np.stack([rows, rows], axis=1)).scores[:, 0]
        allowed = np.array([proven(s, classes) for s in scores]) / 4
        assert (np.abs((1 - scores) - lack) <= allowed).all()
        assert (1 - scores < 1e-6).sum() > 100
        assert doubtful(policy, 1.0) == pytest.approx([proven(0.5, classes)])


def test_scores_that_are_exact_everywhere():
    exact = {
        name for name, p in rules.policies().items() if all(exact_scores(trace_policy(p))[:-1])
    }
    named = {"constant", "patience", "vote", "random"}
    assert {f"score {name}" for name in named} <= exact
    assert not exact & {"score max_prob", "score entropy", "score advantage", "answer combined"}


@pytest.mark.parametrize("name", rules.policies())
def test_float32_takes_no_rule_far(name):
    """Of rows that take the same turns in float64; none at all where scores are exact."""
    policy = rules.policies()[name]
    graphs = trace_policy(policy)
    with np.errstate(all="ignore"):
        inputs = made_up(policy, graphs, np.random.default_rng(1), 512)
        golden = expect(policy, inputs, np.arange(512))
    off = own_rounding(graphs, golden)
    assert off.shape == (policy.exits,) and (off < 512).all()
    exact = np.array(exact_scores(graphs))
    assert (off[exact] == 0).all()
    if policy.kind == "logits" and name in ("score max_prob", "score entropy", "score advantage"):
        assert (off[:-1] > 0).all()
    halves = [own_rounding(graphs, part_of(golden, rows)) for rows in (slice(256), slice(256, 512))]
    np.testing.assert_array_equal(np.maximum(*halves), off)


def test_a_score_that_magnifies_rounding_is_seen_to():
    class Steep(ScoreRule):
        name = "steep"
        needs = frozenset({"log_prob"})

        def score(self, k, output, state):
            return 1e6 * (np.exp(output.log_prob).sum(axis=1).astype(np.float64) - 1.0), state

    policy = Policy(Steep(), [0.5], [1.0, 2.0], "ms", "logits", 3)
    logits = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    golden = expect(policy, [{"logits": logits}] * 2, np.arange(50))
    assert own_rounding(trace_policy(policy), golden)[0] > 1024
