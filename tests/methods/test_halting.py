"""Halting methods against their papers, sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from synthetic import cache

from policyopt._methods.halting import halting_weights, mean_field, neutral
from policyopt._methods.registry import make_method
from policyopt._table import Tables
from policyopt.runtime._errors import InputError
from policyopt.runtime._scores import Logistic, make_rule, score_table


def graves(h, value):
    """ACT's output for one sample, section 2 with eps = 0: weights h until they reach 1, then the rest."""
    worth, gathered = 0.0, 0.0
    for k, v in enumerate(value):
        if k == len(h) or gathered + h[k] >= 1:
            return worth + (1 - gathered) * v
        worth += h[k] * v
        gathered += h[k]
    raise AssertionError


def test_mean_field_is_graves_output_and_its_gradient():
    rng = np.random.default_rng(0)
    h, value = rng.random((200, 4)) * 0.8, rng.random((200, 5))
    worth, slope = mean_field(h, value)
    np.testing.assert_allclose(worth, [graves(a, v) for a, v in zip(h, value, strict=True)])
    for n in range(40):
        numeric = approx_fprime(h[n], lambda a, v=value[n]: graves(a, v), 1e-8)
        np.testing.assert_allclose(slope[n], numeric, atol=1e-6)


def test_act_leaves_where_the_papers_sum_reaches_its_target():
    table = Tables(cache(n=800)).get("fit")
    for result in make_method("act:answer=plain+eps=0.05").fit_path(table, [1.5, 3.0, 6.0]):
        policy = result.policy
        rule = policy.rule
        logits = np.concatenate([part for _, part in table.chunks()])
        h = score_table(
            Logistic(rule.features, rule.center, rule.scale, rule.weights, rule.offset),
            policy_outputs(logits),
        )
        exits = policy.decide(logits).exit
        for n in range(len(table)):
            gathered = 0.0
            for k in range(4):
                gathered += h[n, k]
                # The budget is met exactly by a small shift of the target, the same at all exits.
                if k == 3 or gathered - 0.95 >= policy.thresholds[k]:
                    break
            assert exits[n] == k


def policy_outputs(logits):
    from policyopt.runtime._outputs import reduce_logits, with_log_prob

    return [
        with_log_prob(reduce_logits(logits[:, k]), logits[:, k]) for k in range(logits.shape[1])
    ]


def test_act_finds_what_features_tell():
    """Where a feature says which of three exits is right, training sends each sample there."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 3000)
    value = np.eye(3)[kind] - np.array([0.0, 0.05, 0.1])
    columns = [np.eye(3)[kind], np.eye(3)[kind]]
    theta = halting_weights(columns, value, neutral(np.zeros((2, 4))), 1e-3)
    h = np.stack(
        [1 / (1 + np.exp(-(c @ t[1:] + t[0]))) for c, t in zip(columns, theta, strict=True)], 1
    )
    sums = np.cumsum(h, axis=1)
    left = np.where(sums[:, 0] >= 0.9, 0, np.where(sums[:, 1] >= 0.9, 1, 2))
    np.testing.assert_array_equal(left, kind)


def test_bad_settings_and_parameters_are_named():
    good = {
        "features": "record", "center": [[0.0] * 7], "scale": [[1.0] * 7],
        "weights": [[0.0] * 7], "offset": [0.0],
    }  # fmt: skip
    assert make_rule("halting", good).params()["eps"] == 0.01
    with pytest.raises(InputError, match="eps of score halting"):
        make_rule("halting", {**good, "eps": 1.0})
