"""Every registered method passes every shared check; and each is checked against its paper."""

import json
import re
from functools import cache as once

import numpy as np
import pytest
from checks import fit_one, fit_table, pool
from policies import fits
from rules import assert_valid
from scipy.special import softmax
from synthetic import cache, outputs

import policyopt as po
from policyopt._checking import METHOD_CHECKS, Trial
from policyopt._methods.lagrangian import LagrangianMethod
from policyopt._methods.learned_score import LearnedScore
from policyopt._methods.registry import ROWS, apply_settings, make_method, needs_of
from policyopt._methods.reinforcement import NeuralPolicyMethod
from policyopt._replay import replay, trace
from policyopt._table import Tables
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import first_exit, to_dict
from policyopt.runtime._scores import Entropy, Margin, MaxProb, Vote, score_table

#: Settings that spare time where they leave what is checked as it is.
CHEAP = {
    "auto": "auto:folds=2", "subset": "subset:folds=2", "eenet": "eenet:max_epochs=15+restarts=1",
    "eenet_released": "eenet_released:max_epochs=20+restarts=1", "policy_gradient": "policy_gradient:steps=2",
    "reinforce": "reinforce:steps=200", "epnet": "epnet:steps=60+hidden=8", "dqn": "dqn:steps=60+hidden=8",
}  # fmt: skip
SPECS = [
    *(CHEAP.get(name, name) for name in ROWS), "optimal_stopping:mix=true", "max_prob:answer=combined",
    "margin:answer=vector", "vote:thresholds=geometric", "max_prob:thresholds=joint", "margin:thresholds=shared", "entropy:thresholds=joint+mix=true",
]  # fmt: skip
EVERY = pytest.mark.parametrize("spec", SPECS)
#: Whose policies have thresholds.
IN_TURN = pytest.mark.parametrize("spec", [spec for spec in SPECS if "rout" not in spec])
#: Methods that draw a coin, rows or folds by the row's number: their policy hangs on the order of rows.
DRAW = {
    "random",
    "agreement_cascade",
    "auto",
    "eenet",
    "eenet_released",
    "frugalgpt",
    "subset",
    "routing",
    "router",
} | {
    name
    for name, row in ROWS.items()
    if row.discrete or issubclass(row.load(), (LearnedScore, NeuralPolicyMethod, LagrangianMethod))
}
#: Need not spend what is left of a budget: one static exit; a list of exits, calls that gain nothing by it.
SPARES = {"always", "frugalgpt", "subset", "auto", "routing", "router"}


@pytest.mark.parametrize(
    "spec", [s for s in SPECS if not ("mix" in s or "answer" in s or s.partition(":")[0] in DRAW)]
)
def test_row_order_does_not_matter(spec):
    logits, labels = outputs(1000)
    order = np.random.default_rng(5).permutation(1000)
    tables = (fit_table(pool(logits[rows], labels[rows])) for rows in (np.arange(1000), order))
    exits = (fit_one(spec, table, 2.0).policy.decide(logits).exit for table in tables)
    np.testing.assert_array_equal(*exits)


@IN_TURN
def test_files_satisfy_the_schema(spec):
    for result in fits(spec)[0]:
        assert_valid(json.loads(json.dumps(to_dict(result.policy), allow_nan=False)))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.partition(":")[0] not in SPARES])
def test_budget_is_spent_where_it_is_asked_for(spec):
    both = f"{spec}{'+' if ':' in spec else ':'}spend=all"
    for result in fits(both, rows=4000)[0]:
        assert result.expected.cost >= result.budget * 0.99


@IN_TURN
def test_replay_is_what_is_deployed(spec):
    """A table is run as its outputs are: scores, predictions, exits, costs."""
    results, tables = fits(spec)
    key, rows = tables.data.rows("test")
    given = tables.data.splits[key].array("outputs")[rows]
    table = tables.get("test")
    for policy in (result.policy for result in results):
        found, own, outcome = trace(policy, table), policy.trace(given), replay(policy, table)
        right = found.predictions == found.labels[:, None]
        paid = table.keep_exits(policy.active_exits).mean_costs + policy.overhead
        for one, other in (
            (policy.decide(given).exit, found.exit), (found.quality, right), (outcome.exit, found.exit),
            (outcome.quality, found.quality_taken), (outcome.cost, paid[found.position]), (found.cost, outcome.cost),
            *((getattr(found, n), getattr(own, n)) for n in ("scores", "predictions", "thresholds")),
        ):  # fmt: skip
            np.testing.assert_array_equal(one, other)


@once
def trial(spec):
    return Trial(make_method(spec))


@pytest.mark.parametrize("name", METHOD_CHECKS)
@EVERY  # a method's checks one after the other: by one worker, of one fit
def test_everyones_checks(spec, name):
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
    for name, row in ROWS.items():
        mixed = any(result.policy.mixture for result in fits(CHEAP.get(name, name))[0])
        assert mixed == row.discrete, name
    assert all(one.policy.mixture for one in fits("entropy:thresholds=joint+mix=true")[0])


#: What is said of a setting, and what is not of the kind.
BAD_SETTINGS = {
    "above 0": "eero:beta=0 pf_berxit:patience=0 bolukbasi:penalty=0 lista_stop:beta=0 optimal_stopping:penalty=0 "
    "policy_gradient:steps=0 reinforce:episodes=0 dqn:memory=0 epnet:hidden=0 subset:most=0 "
    "eenet:hidden=0 eenet:restarts=0 eenet:learning_rate=nan",
    "0 or more": "patience:patience=-1 subset:errors=-1 cbt:kappa=-1 policy_gradient:penalty=-1 reinforce:entropy=-1 eenet:alpha=-1",
    "0 or more and at most 1": "cbt:width=2 optimal_stopping:soft=2 pcee:delta=1.2",
    "above 0 and below 1": "act:eps=1.5 dqn:hold_out=1 eenet:holdout=1",
    "a whole number": "pcee:bins=0.5 auto:folds=1 optimal_stopping:folds=1 eenet:batch_size=1.5",
    "true, false": "dda:confidence=2 berxit:shared=perhaps optimal_stopping:mix=perhaps fitted_q:cross=perhaps "
    "eenet:meet=1 max_prob:thresholds=joint+mix=perhaps",
    "plain, combined": "window:answer=no optimal_stopping:answer=magic epnet:answer=x",
    "thresholds=": "max_prob:mix=true max_prob:shared_map=beta",
    "geometric, shared, joint": "max_prob:thresholds=magic", "cost, uniform": "eero:prior=none",
    "kl, rekl": "leco:measure=euclid", "accuracy, cost": "beem:weights=none",
    "likelihood, error": "lista_stop:loss=hinge", "failure, true_class": "failure_prediction:target=success",
    "the name of another method": "subset:inner=subset", "full, few": "subset:towards=left",
    "learned, max_prob": "eenet:scores=best", "cpu": "eenet:device=tpu",
}  # fmt: skip


def test_bad_settings_are_named():
    rows = [(spec, words, re.split("[:+=]", spec)[-2])
            for words, specs in BAD_SETTINGS.items() for spec in specs.split()]  # fmt: skip
    for spec, words, name in (
        *rows, ("max_porb", "Did you mean 'max_prob'", "method"), ("subset:inner=max_porb", "Did you", "method"),
        ("max_prob:thresold=1", "one of: thresholds", "setting of max_prob"),
        ("max_prob:joint", "key=value", "settings of max_prob"), ("max_prob:thresholds=0.9,x", "numbers", "setting"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=rf"'{name}' must be .*{words}"):
            make_method(spec)


def test_settings_reach_the_methods_that_have_them():
    chosen = apply_settings(["max_prob", "patience"], {"thresholds": "joint", "patience": "2"})
    assert chosen["max_prob"].thresholds == "joint"
    assert chosen["patience"].patience == 2
    with pytest.raises(InputError, match="one that max_prob has"):
        apply_settings(["max_prob"], {"patience": "2"})


@once
def records(query=False, **paid):
    rng = np.random.default_rng(0)
    right = rng.random((300, 3)) < [0.6, 0.7, 0.8]
    data = po.from_arrays(
        labels=np.zeros(300, int), prediction=np.where(right, 0, 1),
        confidence=rng.random((300, 3)), query=rng.random((300, 2)) if query else None,
        **{"costs": [1.0, 2.0, 4.0], **paid},
    )  # fmt: skip
    return fit_table(data)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_says_what_its_method_needs(name):
    """What `policyopt methods` says of labels and records is what the class says, and what a fit finds."""
    method, needs = make_method(CHEAP.get(name, name)), set(ROWS[name].needs)
    read, paid = needs_of(method.required_columns(), method.requires_labels()), {}
    if "cascade" in needs:
        paid = {"cost_kind": "standalone", "query": "query" in needs}
        needs -= {"cascade"}
        with pytest.raises(InputError, match="paid one by one"):
            method.fit_path(records(), [2.0])
    assert needs == set(read)
    unlabelled = fit_table(pool(outputs(300, 3)[0]))
    for table, able in (
        (records(**paid), needs <= {"labels", "query"}),
        (unlabelled, not {"labels", "features", "query"} & needs),
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
    np.testing.assert_array_equal(table.statistics.quality, votes == labels[:, None])
