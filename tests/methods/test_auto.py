"""The choice: simple where in doubt, better where that is clear, never by overspending."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import cache, hopeless, outputs

import policyopt as po
from policyopt._methods.choosing import CANDIDATES, one_standard_error, winners_gain
from policyopt._methods.registry import make_method
from policyopt._table import Tables
from policyopt.runtime._errors import InputError


def rule(values, errors=1.0):
    """Choose among as many candidates as there are rows of values, by their places in the list."""
    return one_standard_error(np.array(values, dtype=float), CANDIDATES[: len(values)], errors)


def test_one_standard_error_rule_by_hand():
    """The last is best by 0.1; paired with it, the first is noisy, the fourth is worse for sure."""
    rng = np.random.default_rng(0)
    base = (rng.random(400) < 0.8).astype(float)
    best = base + 0.1
    noisy = best - 0.05 + rng.normal(size=400) * 2.0
    surely = best - 0.05
    _, report = rule([surely, surely, surely, noisy, surely, best])
    chosen, _ = rule([surely, surely, surely, noisy, surely, best])
    assert CANDIDATES[chosen][0] == "max_prob:thresholds=joint"  # the simplest within one error
    assert rule([surely, surely, surely, noisy, surely, best], errors=0.0)[0] == int(
        np.argmax([surely.mean()] * 3 + [noisy.mean(), surely.mean(), best.mean()])
    )
    assert report[0]["behind_best"] == pytest.approx(0.05)
    assert report[0]["standard_error"] == pytest.approx(0.0, abs=1e-12)


def test_equals_of_one_complexity_compete_by_their_means():
    base = np.linspace(0, 1, 100)
    assert rule([base, base + 0.2, base + 0.1])[0] == 1


def test_what_cannot_meet_a_budget_is_not_chosen():
    base = np.linspace(0, 1, 100)
    chosen, report = rule([base, base, base, base, base, np.full(100, -np.inf)])
    assert chosen == 0
    assert [r["method"] for r in report] == [name for name, _, _ in CANDIDATES[:5]]


@pytest.mark.parametrize("count", [2, 6])
def test_what_a_choice_owes_to_its_rows(count):
    """Of M methods alike the best mean of N looks better by the mean of the largest of M normals, over sqrt(N)."""
    rng, rows = np.random.default_rng(0), 300
    alike = [(str(i), CANDIDATES[0][1], 0) for i in range(count)]
    found = [winners_gain(rng.normal(size=(count, rows)), alike, 1.0, s) for s in range(60)]
    largest = rng.normal(size=(100_000, count)).max(axis=1).mean()
    assert np.mean(found) * rows**0.5 == pytest.approx(largest, rel=0.2)
    values = rng.normal(size=(count, rows))
    values[0] += 2.0  # nothing to choose
    assert winners_gain(values, alike, 1.0, 0) == 0.0


def test_learned_policies_where_they_clearly_win():
    """Hopeless samples: no confidence rule knows them from curable ones, the regression does."""
    fitted = po.fit(hopeless(), 2.0)
    assert fitted.method == "auto"
    assert fitted.policy.provenance["chosen"]["method"] == "optimal_stopping"
    assert len(fitted.policy.provenance["compared"]) == len(CANDIDATES)


def test_simple_policies_where_nothing_is_to_be_gained():
    """Two exits and pure noise beyond the confidence: whatever leads, leads by less than noise."""
    rng = np.random.default_rng(4)
    sure = rng.random((2000, 2))
    right = rng.random((2000, 2)) < sure
    data = po.from_arrays(
        labels=np.zeros(2000, int), prediction=np.where(right, 0, 1), confidence=sure, costs=[1, 2]
    )
    fitted = po.fit(data, 1.5)
    assert fitted.policy.provenance["chosen"]["method"] == "max_prob"


def test_few_rows_are_not_compared():
    logits, labels = outputs(60)
    data = po.from_arrays(splits={"fit": {"outputs": logits, "labels": labels}}, costs=[1, 2, 4, 8])
    fitted = po.fit(data, 3.0)
    assert fitted.policy.provenance["chosen"]["method"] == "max_prob"
    assert fitted.policy.provenance["compared"] == []


def test_the_ends_of_the_range_can_be_had():
    """With its own arithmetic counted no learned policy costs what exit 0 costs; simple ones do."""
    logits, labels = outputs(400)
    data = po.from_arrays(logits, labels, [1000, 2000, 4000, 8000], unit="FLOPs")
    table = Tables(data).get("fit")
    for budget in (1000.0, 8000.0):
        (result,) = make_method("auto:folds=2").fit_path(table, [budget])
        assert result.expected.cost <= budget


def test_unlabelled_rows_are_left_to_methods_that_use_them():
    logits, labels = outputs(1000, seed=8)
    labels = labels.copy()
    labels[500:] = -1
    data = po.from_arrays(
        splits={"fit": {"outputs": logits, "labels": labels}}, costs=[1, 2, 4, 8], unit="ms"
    )
    (result,) = make_method("auto:folds=2").fit_path(Tables(data).get("fit"), [3.0])
    assert result.expected.rows in (500, 1000)


def test_default_of_fit():
    assert po.fit(cache(400), "40%").method == "auto"


def test_records_with_the_largest_probabilities():
    """They know a margin, and no class outputs to combine."""
    rng = np.random.default_rng(5)
    top = np.sort(rng.dirichlet(np.ones(4), (600, 3)), axis=2)[..., ::-1]
    right = rng.random((600, 3)) < top[..., 0]
    data = po.from_arrays(
        labels=np.zeros(600, int), prediction=np.where(right, 0, 1), confidence=top[..., 0],
        top_prob=top[..., :2], costs=[1, 2, 4], unit="ms",
    )  # fmt: skip
    assert po.fit(data, 2.0).expected.cost <= 2.0


def test_labels_that_are_all_unknown_are_named():
    logits, _ = outputs(200)
    parts = {"fit": {"outputs": logits, "labels": np.full(200, -1)}}
    with pytest.raises(InputError, match="label"):
        po.fit(po.from_arrays(splits=parts, costs=[1, 2, 4, 8]), 3.0)


def test_each_chosen_method_is_fitted_once_for_all_its_budgets(monkeypatch):
    from policyopt._methods.threshold import Threshold

    calls = []
    fit_path = Threshold.fit_path
    monkeypatch.setattr(
        Threshold, "fit_path", lambda self, *a: calls.append(self) or fit_path(self, *a)
    )
    table = Tables(cache(60)).get("fit")
    assert len(make_method("auto").fit_path(table, [1.5, 2.0, 3.0, 5.0])) == 4
    assert len(calls) <= 2


def test_a_cascade_may_jump_models():
    """A dear model that is no better than the first: on a cascade it is jumped, else it is run."""
    logits, labels = outputs(1500, exits=3, seed=8)
    logits[:, 1] = logits[:, 0] + np.random.default_rng(0).normal(size=logits[:, 0].shape) * 0.1
    paths = {}
    for kind, costs in (("standalone", [1.0, 20.0, 10.0]), ("cumulative", [1.0, 21.0, 31.0])):
        data = po.from_arrays(logits, labels, costs=costs, unit="USD", cost_kind=kind)
        (result,) = make_method("auto:folds=3").fit_path(Tables(data).get("fit"), [8.0])
        paths[kind] = result.policy.path
    assert paths == {"standalone": (0, 2), "cumulative": (0, 1, 2)}
