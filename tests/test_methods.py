"""Every registered method passes every shared check; and each is checked against its paper."""

from __future__ import annotations

from functools import cache as once

import numpy as np
import pytest
from checks import CHECKS, DRAW, fit_one, fit_table, pool
from policies import fits
from scipy.special import softmax
from synthetic import cache, outputs

import policyopt as po
from policyopt._checking import METHOD_CHECKS, Trial
from policyopt._methods.registry import ROWS, apply_settings, make_method, needs_of
from policyopt._table import Tables
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import Entropy, Margin, MaxProb, Vote, score_table

#: Settings that spare time where they leave what is checked as it is.
CHEAP = {
    "auto": "auto:folds=2",
    "subset": "subset:folds=2",
    "eenet": "eenet:max_epochs=15+restarts=1",
    "eenet_released": "eenet_released:max_epochs=20+restarts=1",
    "policy_gradient": "policy_gradient:steps=2",
    "reinforce": "reinforce:steps=200",
    "epnet": "epnet:steps=60+hidden=8",
    "dqn": "dqn:steps=60+hidden=8",
}
SPECS = [
    *(CHEAP.get(name, name) for name in ROWS),
    "optimal_stopping:mix=true",
    "max_prob:answer=combined",
    "margin:answer=vector",
    "max_prob:thresholds=joint",
    "margin:thresholds=shared",
    "entropy:thresholds=joint+mix=true",
]


def _applies(check, spec):
    drawn = "mix" in spec or "answer" in spec or spec.partition(":")[0] in DRAW
    return not drawn or check.__name__ != "check_row_order_does_not_matter"


@pytest.mark.parametrize(
    ("check", "spec"),
    [
        pytest.param(c, s, id=f"{c.__name__[6:]}-{s}")
        for c in CHECKS
        for s in SPECS
        if _applies(c, s)
    ],
)
def test_shared(check, spec):
    check(spec)


@once
def trial(spec):
    return Trial(make_method(spec))


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("name", METHOD_CHECKS)
def test_everyones_checks(name, spec):
    made = trial(spec)
    made.checking = name
    METHOD_CHECKS[name](made)


@pytest.mark.parametrize("patience", range(5))
def test_patience_is_the_papers_counter(patience):
    """PABEE, eq. 5 and section 3.2."""
    table = fit_table(cache(n=600))
    said, counter = table.statistics.prediction, np.zeros(table.statistics.prediction.shape)
    for k in range(1, table.exits):
        counter[:, k] = np.where(said[:, k] == said[:, k - 1], counter[:, k - 1] + 1, 0)
    policy = fit_one(f"patience:patience={patience}", table, 8.0).policy
    exits = policy.decide(table.statistics.outputs()).exit
    np.testing.assert_array_equal(exits, first_exit(counter, np.full(3, patience)))


def test_given_thresholds_are_used_and_refused_over_the_budget():
    table, spec = fit_table(cache()), "max_prob:thresholds=0.9,0.8,0.7"
    np.testing.assert_array_equal(fit_one(spec, table, 8.0).policy.thresholds, [0.9, 0.8, 0.7])
    with pytest.raises(BudgetError, match="mean cost of"):
        fit_one(spec, table, 1.1)
    with pytest.raises(InputError, match="3 numbers"):
        fit_one("max_prob:thresholds=0.9,0.8", table, 8.0)


def test_deterministic_by_default():
    """Only the scores with few distinct values mix."""
    for name, row in ROWS.items():
        mixed = any(result.policy.mixture for result in fits(CHEAP.get(name, name))[0])
        assert mixed == row.discrete, name
    assert all(one.policy.mixture for one in fits("entropy:thresholds=joint+mix=true")[0])


BAD_SETTINGS = """
max_porb -> Did you mean 'max_prob'
max_prob:thresold=1 -> setting of max_prob
max_prob:thresholds=magic -> geometric, shared, joint
max_prob:mix=true -> thresholds=joint
max_prob:thresholds=joint+mix=perhaps -> true or false
max_prob:joint -> key=value
max_prob:thresholds=0.9,x -> number
max_prob:shared_map=beta -> thresholds=shared
patience:patience=-1 -> 0 or more
auto:folds=1 -> folds
auto:errors=-1 -> errors
eero:beta=0 -> above 0
eero:prior=none -> cost, uniform
pcee:bins=0.5 -> whole number
cbt:width=2 -> at most 1
cbt:kappa=-1 -> 0 or more
leco:measure=euclid -> kl, rekl
pf_berxit:patience=0 -> above 0
dda:confidence=2 -> true, false
beem:weights=none -> accuracy, cost
window:answer=no -> plain
bolukbasi:penalty=0 -> 'penalty' must be a number, above 0
lista_stop:beta=0 -> 'beta' must be a number, above 0
lista_stop:loss=hinge -> likelihood, error
failure_prediction:target=success -> failure, true_class
berxit:shared=perhaps -> true, false
optimal_stopping:answer=magic -> plain, combined
optimal_stopping:soft=2 -> 'soft' must be a number, 0 or more and at most 1
optimal_stopping:penalty=0 -> penalty
optimal_stopping:folds=1 -> whole number
optimal_stopping:mix=perhaps -> true, false
act:eps=1.5 -> above 0 and below 1
fitted_q:cross=perhaps -> cross
policy_gradient:penalty=-1 -> penalty
policy_gradient:steps=0 -> steps
reinforce:episodes=0 -> episodes
reinforce:entropy=-1 -> entropy
pcee:delta=1.2 -> at most 1
dqn:memory=0 -> memory
dqn:hold_out=1 -> hold_out
epnet:hidden=0 -> hidden
epnet:answer=x -> answer
subset:inner=max_porb -> Did you mean
subset:inner=subset -> name of another method
subset:most=0 -> most
subset:towards=left -> full, few
"""


def test_bad_settings_are_named():
    for line in BAD_SETTINGS.strip().splitlines():
        spec, _, words = line.partition(" -> ")
        with pytest.raises(InputError, match=words):
            make_method(spec)


def test_settings_reach_the_methods_that_have_them():
    chosen = apply_settings(["max_prob", "patience"], {"thresholds": "joint", "patience": "2"})
    assert chosen["max_prob"].thresholds == "joint"
    assert chosen["patience"].patience == 2
    with pytest.raises(InputError, match="one that max_prob has"):
        apply_settings(["max_prob"], {"patience": "2"})


@once
def records():
    """Rows to fit on of which predictions and confidences are known, and no more."""
    rng = np.random.default_rng(0)
    right = rng.random((300, 3)) < [0.6, 0.7, 0.8]
    data = po.from_arrays(
        labels=np.zeros(300, int), prediction=np.where(right, 0, 1),
        confidence=rng.random((300, 3)), costs=[1.0, 2.0, 4.0],
    )  # fmt: skip
    return fit_table(data)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_its_method_needs(name):
    """What `policyopt methods` says of labels and records is what the class says, and what a fit finds."""
    method, needs = make_method(CHEAP.get(name, name)), set(ROWS[name].needs)
    assert ROWS[name].needs == needs_of(method.required_columns(), method.requires_labels())
    unlabelled = fit_table(pool(outputs(300, 3)[0]))
    for table, able in (
        (records(), needs <= {"labels"}),
        (unlabelled, not {"labels", "features"} & needs),
    ):
        if able:
            assert method.fit_path(table, [2.0])[0].expected.cost <= 2.0 + 1e-9
        else:
            with pytest.raises(InputError):
                method.fit_path(table, [2.0])


@pytest.mark.parametrize(
    ("spec", "column"),
    [("margin", "top_prob"), ("entropy", "entropy"), ("eenet", "log_prob"), ("eenet_released", "log_prob")]
    + [(spec, "all class outputs") for spec in (
        "pf_berxit", "leco", "dda", "max_prob:answer=combined", "pcee:answer=combined",
        "failure_prediction:target=true_class",
    )],
)  # fmt: skip
def test_records_that_lack_what_a_method_reads_are_refused_by_name(spec, column):
    with pytest.raises(InputError, match=f"'{spec.partition(':')[0]}' needs {column}"):
        make_method(spec).fit_path(records(), [1.5])


def test_scores_follow_their_formulas():
    """EENet eq. 5-7 and the margin, from float64 softmax."""
    logits, labels = outputs(200, exits=5, classes=7)
    table = Tables(cache(200, 5, 7, split={"fit": 1.0})).get("fit")
    p = softmax(logits.astype(float), axis=-1)
    ordered = np.sort(p, axis=-1)
    votes = p.argmax(-1)
    share = np.array([[np.bincount(v[: k + 1]).max() / (k + 1) for k in range(5)] for v in votes])
    wanted = {
        MaxProb(): ordered[..., -1],
        Margin(): ordered[..., -1] - ordered[..., -2],
        Entropy(7): 1 + (p * np.log(p)).sum(-1) / np.log(7),
        Vote(): share,
    }
    for rule, values in wanted.items():
        np.testing.assert_allclose(score_table(rule, table.statistics.outputs()), values, atol=2e-6)
    np.testing.assert_array_equal(table.statistics.correct, votes == labels[:, None])
