"""What our methods pass besides the checks of `policyopt._checking`, which are everyone's.

Each check takes the registry's spec of a method; `tests/test_methods.py` runs all of them over all rows.
"""

from __future__ import annotations

import json

import numpy as np
from policies import fits
from rules import assert_valid
from synthetic import outputs

import policyopt as po
from policyopt._answers.crossfit import CrossFitted
from policyopt._methods.exit_batch import build_batch
from policyopt._methods.lagrangian import LagrangianMethod
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.registry import ROWS, make_method
from policyopt._methods.regression import of_own_fold
from policyopt._methods.reinforcement import NeuralPolicyMethod
from policyopt._replay import replay, trace
from policyopt._table import Tables
from policyopt.runtime._answers import Identity
from policyopt.runtime._outputs import reduce_logits, with_log_prob
from policyopt.runtime._policy import to_dict

#: Methods that draw a coin, rows or folds by the row's number: their policy hangs on the order of rows.
DRAW = {"random", "agreement_cascade", "auto", "eenet", "eenet_released", "frugalgpt", "subset"} | {
    name
    for name, row in ROWS.items()
    if row.discrete or issubclass(row.load(), (LearnedScore, NeuralPolicyMethod, LagrangianMethod))
}
#: Need not spend what is left of a budget: one static exit; a list of exits that gain nothing by it.
SPARES = {"always", "frugalgpt", "subset"}


def fit_table(data):
    return Tables(data).get("fit")


def pool(logits, labels=None):
    """Rows of split `fit` alone, at costs 1, 2, 4, ...; labels may be unknown."""
    part = {"outputs": logits} if labels is None else {"outputs": logits, "labels": labels}
    return po.from_arrays(splits={"fit": part}, costs=2.0 ** np.arange(logits.shape[1]), unit="ms")


def fit_one(spec, table, budget):
    return make_method(spec).fit_path(table, [budget])[0]


def batch_of(data, features=False):
    return build_batch(fit_table(data), CrossFitted(Identity()), features)


def with_probabilities(logits):
    exits = range(logits.shape[1])
    return [with_log_prob(reduce_logits(logits[:, k]), logits[:, k]) for k in exits]


def exits_taken(found, columns, fold):
    """Exit each row takes at each price by coefficients that its own fold did not train, (N, L)."""
    odds = [of_own_fold(x, found.theta[:, k], fold) for k, x in enumerate(columns)]
    return (np.stack([*odds, np.zeros_like(odds[0])], axis=1) >= 0).argmax(axis=1)


def check_row_order_does_not_matter(spec):
    logits, labels = outputs(1000)
    order = np.random.default_rng(5).permutation(1000)
    tables = (fit_table(pool(logits[rows], labels[rows])) for rows in (np.arange(1000), order))
    exits = (fit_one(spec, table, 2.0).policy.decide(logits).exit for table in tables)
    np.testing.assert_array_equal(*exits)


def check_files_satisfy_the_schema(spec):
    for result in fits(spec)[0]:
        assert_valid(json.loads(json.dumps(to_dict(result.policy), allow_nan=False)))


def check_budget_is_spent(spec):
    for result in fits(spec, rows=8000)[0]:
        if spec.partition(":")[0] not in SPARES:
            assert result.expected.cost >= result.budget * 0.99


def check_replay_is_what_is_deployed(spec):
    """A table is run as its outputs are: scores, predictions, exits, costs."""
    results, tables = fits(spec)
    key, rows = tables.data.rows("test")
    outputs = tables.data.splits[key].array("outputs")[rows]
    table = tables.get("test")
    for policy in (result.policy for result in results):
        found, own, outcome = trace(policy, table), policy.trace(outputs), replay(policy, table)
        right = found.predictions == found.labels[:, None]
        paid = table.keep_exits(policy.active_exits).mean_costs + policy.overhead
        for one, other in (
            (policy.decide(outputs).exit, found.exit), (found.correct, right), (outcome.exit, found.exit),
            (outcome.correct, found.correct_taken), (outcome.cost, paid[found.position]), (found.cost, outcome.cost),
            *((getattr(found, n), getattr(own, n)) for n in ("scores", "predictions", "thresholds")),
        ):  # fmt: skip
            np.testing.assert_array_equal(one, other)


CHECKS = [function for name, function in sorted(globals().items()) if name.startswith("check_")]
