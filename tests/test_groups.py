"""Rows that belong together: kept whole by every division, resampled together by every interval and test."""

import json

import numpy as np
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

import policyopt as po
from policyopt._answers.calibrators import SPREADS, choose_spread
from policyopt._answers.crossfit import cross_fit_combined
from policyopt._cache.data import folds_of, group_codes, places_of, some_rows
from policyopt._cache.importers import import_sources
from policyopt._frontier import mcnemar, summary
from policyopt._intervals import bootstrap_means, by_group, interval, proportion_interval
from policyopt._methods.base import off_of
from policyopt._methods.fitted import Expectation
from policyopt._metrics import metric_fields
from policyopt._replay import replay
from policyopt._table import Tables, subsample
from policyopt._tuning import fold_rows

E, C = 3, 4


def rows(groups, each, seed=0, jitter=0.0):
    """Logits (N, 3, 4) and labels of groups of rows that are alike."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, C, groups)
    logits = rng.normal(size=(groups, E, C))
    logits[np.arange(groups), :, labels] += np.array([0.8, 1.4, 2.0])
    logits = np.repeat(logits, each, axis=0)
    logits = logits + jitter * rng.normal(size=logits.shape)
    return logits.astype("f4"), np.repeat(labels, each)


def data_of(groups, each, seed=0, **more):
    logits, labels = rows(groups, each, seed)
    return po.from_arrays(logits, labels, costs=[1, 2, 4], unit="ms", **more)


def test_intervals_cover_where_rows_repeat():
    """300 draws of 80 groups of ten equal rows: rows by themselves would cover 44 and 51 %."""
    policy = po.fit(data_of(3000, 1, seed=999), 2.0, "max_prob:spend=all").policy
    true = replay(policy, Tables(data_of(100_000, 1, seed=12345)).get("test"))
    covered = np.zeros(2)
    for seed in range(300):
        data = data_of(80, 10, seed, group=np.repeat(np.arange(80), 10))
        found = summary(replay(policy, Tables(data).get("test")), policy)
        for i, (name, value) in enumerate(
            (("realised_cost", true.cost), ("quality", true.quality))
        ):
            covered[i] += found[f"{name}_low"] <= value.mean() <= found[f"{name}_high"]
    assert (covered / 300 >= 0.93).all(), covered


def test_groups_as_rows_of_their_own():
    """Ten equal rows per group say what one does: same interval, but for the size that a new row is given."""
    values = np.random.default_rng(0).integers(0, 2, 200).astype(float)
    group = np.repeat(np.arange(200), 10)
    np.testing.assert_allclose(by_group(np.repeat(values, 10), group), values)
    alone = proportion_interval(values)
    np.testing.assert_allclose(
        proportion_interval(np.repeat(values, 10), group=group), alone, rtol=0.01
    )
    pair = values.astype(bool), np.roll(values, 1).astype(bool)
    rng = np.random.default_rng(1)
    labels, answers = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    one = metric_fields("macro_f1", labels, answers)
    ten = metric_fields("macro_f1", np.repeat(labels, 10), np.repeat(answers, 10), group=group)
    np.testing.assert_allclose(list(one.values()), list(ten.values()), atol=0.01)
    better, worse = pair[0] & ~pair[1], pair[1] & ~pair[0]
    exact, grouped = (
        mcnemar(better, worse),
        mcnemar(*(np.repeat(x, 10) for x in (better, worse)), group),
    )
    assert abs(exact - grouped) < 0.1


@given(st.integers(0, 1000), st.integers(2, 40), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_linearised_resampling_is_that_of_whole_groups(seed, groups, most):
    """The spread of `by_group` is that of ratios of resampled sums, to first order; the mean is the rows'."""
    rng = np.random.default_rng(seed)
    group = np.repeat(rng.permutation(groups), rng.integers(1, most + 1, groups))
    values = rng.random((len(group), 2)) + group[:, None] / groups
    order = rng.permutation(len(group))
    each = by_group(values[order], group[order])
    assert len(each) == groups
    np.testing.assert_allclose(each.mean(axis=0), values.mean(axis=0))
    held = some_rows(len(group), int(rng.integers(1, len(group))), seed, group)
    assert 0 < len(held) < len(group)
    if groups >= 20:
        sums = np.stack([values[group == g].sum(axis=0) for g in range(groups)])
        sizes = np.bincount(group)
        drawn = rng.integers(0, groups, (2000, groups))
        ratios = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)[:, None]
        found = bootstrap_means(values, rng, 2000, group)
        wider = (groups / (groups - 1)) ** 0.5 * t.ppf(0.975, groups - 1) / 1.96  # few groups
        np.testing.assert_allclose(found.std(axis=0), wider * ratios.std(axis=0), rtol=0.15)


@given(st.integers(0, 1000), st.integers(4, 60), st.integers(2, 6))
@settings(max_examples=40, deadline=None)
def test_no_division_parts_a_group(seed, groups, folds):
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, 6, groups)))
    n = len(group)
    shares = {"fit": 0.4, "calibrate": 0.2, "test": 0.4}
    logits = rng.normal(size=(n, E, C))
    data = po.from_arrays(logits, rng.integers(0, C, n), group=group, split=shares, costs=[1, 2, 4])
    parts = [group[data.rows(name, seed)[1]] for name in shares]
    assert sum(map(len, parts)) == n and len(set().union(*map(set, parts))) == groups
    assert sum(len(set(part)) for part in parts) == groups
    assert all(abs(len(p) - s * n) <= 5 for p, s in zip(parts, shares.values(), strict=True))
    fold = folds_of(n, folds, seed, group)
    assert all(len(set(fold[group == g])) == 1 for g in range(groups)) and fold.min() == 0
    assert set(fold) == set(range(fold.max() + 1))
    assert sorted(places_of(group, seed)) != list(places_of(group, seed)) or groups < 8
    table = Tables(data).get("fit", seed)
    some = subsample(table, len(table) // 2 + 1, 0)
    kept = set(some.group)
    assert sum(np.isin(table.group, list(kept))) == len(some)
    if folds <= len(table) // 2 and table.units > 1:
        held = fold_rows(len(table), folds, seed, table.group)
        assert sum(len(set(table.group[r])) for r in held) == len(set(table.group))


def test_every_method_keeps_groups_whole(monkeypatch):
    """Tables that a method divides have whole groups on both sides: told by what `take` is asked for."""
    from policyopt._table import Table

    logits, labels = rows(60, 4, jitter=0.3)
    data = po.from_arrays(
        logits, labels, costs=[1, 2, 4], unit="ms", group=np.repeat(np.arange(60), 4)
    )
    table = Tables(data).get("fit")
    whole = {g: int(np.sum(table.group == g)) for g in set(table.group)}
    seen, take = [], Table.take

    def watched(self, places):
        out = take(self, places)
        parted = [
            g
            for g, count in zip(*np.unique(out.group, return_counts=True), strict=True)
            if count != whole[g]
        ]
        seen.append(len(parted))
        return out

    monkeypatch.setattr(Table, "take", watched)
    for spec in (
        "max_prob",
        "optimal_stopping",
        "auto",
        "eenet:max_epochs=2",
        "margin:answer=combined",
    ):
        seen.clear()
        po.fit(data, "60%", spec)
        assert seen and not any(seen), (spec, seen)


def test_choices_count_groups_as_they_count_rows():
    """Twenty equal rows per group: what is kept, how wide, how far off, is what single rows say, not twenty of them."""
    for seed in (0, 1, 3):  # rows by themselves keep others
        logits, labels = rows(60, 1, seed)
        log_prob = (logits - np.log(np.exp(logits).sum(axis=2, keepdims=True))).astype("f4")
        fold, group = folds_of(60, 5, 0), np.arange(60)
        alone = cross_fit_combined(log_prob, labels, fold)[0]
        again = (np.repeat(a, 20, axis=0) for a in (log_prob, labels, fold))
        kept = cross_fit_combined(*again, group=np.repeat(group, 20))[0]
        assert (kept == alone).all()
    several = [np.repeat(a, 20, axis=0) for a in (log_prob[:, 0], labels, group)]
    assert choose_spread(*several) == SPREADS[0] < choose_spread(*several[:2])
    paid, fold = np.random.default_rng(0).gamma(1.0, size=200), np.arange(200) % 5
    given = [paid, 0 * paid + 2.0, fold, paid]
    found = off_of(*given, 1.0)
    given, kin = [np.repeat(a, 20) for a in given], np.repeat(np.arange(200), 20)
    assert off_of(*given, 1.0, kin) == pytest.approx(found)
    assert off_of(*given, 1.0) > found + 1e-3
    moved = [Expectation(1.0, a, group=g).sd for a, g in ((paid, None), (given[0], kin))]
    assert moved[1] == pytest.approx(moved[0] * 20**0.5)  # of as many rows, a twentieth stand alone


def test_few_groups_know_their_spread_badly():
    """Four groups: with a normal's quantile 85 to 90 % of 400 intervals of a share hold the truth, of means 77 %."""
    rng, held, group = np.random.default_rng(0), np.zeros(2), np.repeat(np.arange(4), 20)
    for seed in range(400):
        right = rng.random(80) < rng.beta(4, 1, 4)[group]
        means = bootstrap_means(right[:, None] - 0.8, np.random.default_rng(seed), group=group)
        low, high = interval(means)
        held[1] += low[0] <= 0 <= high[0]
        low, high = proportion_interval(right, group=group)
        held[0] += low <= 0.8 <= high
    assert held[0] / 400 > 0.94 and held[1] / 400 > 0.88


@pytest.mark.parametrize("groups", [1, 2, 3])
def test_few_groups_are_fitted(groups):
    """One cannot be divided, of two a fold has none: no error, no NaN, and an interval that owns up to it."""
    logits, labels = rows(120, 1)
    data = po.from_arrays(
        splits={"fit": {"outputs": logits, "labels": labels, "group": np.arange(120) % groups}},
        costs=[1, 2, 4],
        unit="ms",
    )
    specs = (
        "max_prob",
        "auto",
        "subset",
        "margin:answer=vector",
        "eenet:max_epochs=2",
        "dqn:steps=20",
    )
    for spec in specs:
        fitted = po.fit(data, "60%", spec)
        low, high = fitted.policy.provenance["expected_quality_95"]
        assert low < fitted.quality < high and high - low > 0.1, spec
        assert fitted.expected.stated == (1.0, 4.0) or groups == 3, spec
        assert fitted.expected.units <= groups
    if groups == 1:
        assert "one group" in str(po.fit(data, "60%", "max_prob").policy.provenance["notes"])
        with pytest.raises(po.InputError, match="two groups or more"):
            po.tune(data, "margin", trials=1)


def test_named_splits_that_share_a_group_are_refused():
    logits, labels = rows(40, 2, jitter=0.5)
    group = np.repeat(np.arange(40), 2)
    parts = {"fit": slice(0, 41), "test": slice(41, 80)}
    splits = {
        name: {"outputs": logits[s], "labels": labels[s], "group": group[s]}
        for name, s in parts.items()
    }
    with pytest.raises(po.InputError, match="1 groups with rows in 'fit' and in 'test'"):
        po.from_arrays(splits=splits, costs=[1, 2, 4])


def test_equal_rows_of_a_pool_stay_on_one_side(tmp_path):
    """In memory, imported and appended: kept together, and said."""
    logits, labels = rows(60, 10)
    order = np.random.default_rng(0).permutation(600)
    logits, labels = logits[order], labels[order]
    np.savez(tmp_path / "pool.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1, 2, 4])
    report = import_sources(tmp_path / "pool.npz", tmp_path / "c", unit="ms")
    with po.CacheWriter(
        tmp_path / "w", costs=po.Cost("cost", "ms", [1, 2, 4]), shard_bytes=4000
    ) as writer:
        for low in range(0, 600, 100):
            writer.append("pool", logits[low : low + 100], labels[low : low + 100])
    memory = po.from_arrays(logits, labels, costs=[1, 2, 4], unit="ms")
    for data in (memory, report.data, po.open_cache(tmp_path / "w")):
        told = data.metadata["notes"]
        assert sum("540 of the 600 rows of the pool repeat others" in note for note in told) == 1
        fit, test = (Tables(data).get(name) for name in ("fit", "test"))
        assert not set(fit.group) & set(test.group) and len(fit) == len(test) == 300
    assert any("540 of the 600" in note for note in report.notes)
    other, known = rows(200, 1, seed=1)
    named = po.from_arrays(
        splits={
            "test": {"outputs": logits, "labels": labels},
            "fit": {"outputs": other, "labels": known},
        },
        costs=[1, 2, 4],
    )
    assert len(np.unique(Tables(named).get("test").group)) == 60
    assert Tables(named).get("fit").group is None and named.split_names == ("test", "fit")


def test_rows_that_meet_by_chance_stand_alone():
    """Saturated or rounded confidences make equal rows whose labels differ; untrained exits make all rows equal."""
    rng = np.random.default_rng(0)
    right = rng.random((2000, 3)) < 0.8
    saturated = np.where(rng.random((2000, 3)) < 0.7, 1.0, np.round(rng.random((2000, 3)), 1))
    data = po.from_arrays(
        confidence=saturated,
        correct=right,
        prediction=np.where(right, 1, 0),
        labels=np.ones(2000),
        costs=[1, 2, 4],
    )
    assert not data.splits["pool"].has("group")
    data = po.from_arrays(np.zeros((100, 3, 4)), rng.integers(0, 4, 100), costs=[1, 2, 4])
    assert not data.splits["pool"].has("group")


def test_groups_from_files_and_names(tmp_path, run):
    """The same codes from .npz, .csv long and wide, .jsonl; a name is the same group in every split."""
    n, names = 40, [f"patient {i // 4}" for i in range(40)]
    rng = np.random.default_rng(0)
    conf, correct, label = rng.random((n, 2)), rng.random((n, 2)) < 0.7, np.zeros(n, int)
    np.savez(tmp_path / "a.npz", conf=conf.T, correct=correct.T, group=np.array(names))
    wide = {
        "conf_0": conf[:, 0],
        "conf_1": conf[:, 1],
        "correct_0": correct[:, 0],
        "correct_1": correct[:, 1],
    }
    pandas.DataFrame({**wide, "group": names}).to_csv(tmp_path / "wide.csv", index=False)
    long = [
        {"sample": i, "exit": k, "confidence": conf[i, k], "correct": bool(correct[i, k]), "group": names[i]}
        for i in range(n) for k in range(2)
    ]  # fmt: skip
    pandas.DataFrame(long).to_csv(tmp_path / "long.csv", index=False)
    lines = [
        json.dumps({"conf": conf[i].tolist(), "correct": correct[i].tolist(), "group": names[i]})
        for i in range(n)
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(lines))
    for file in ("a.npz", "wide.csv", "long.csv", "lists.jsonl"):
        data = import_sources(tmp_path / file, tmp_path / file.replace(".", "_"), costs=[1, 2]).data
        assert (data.splits["pool"].array("group") == group_codes(np.array(names))).all(), file
    assert label.sum() == 0
    told = json.loads(run("info", tmp_path / "a_npz", "--format", "json")[1])
    assert [split["groups"] for split in told["splits"]] == [5, 5]
    with pytest.raises(po.InputError, match="whole numbers or names"):
        po.from_arrays(rng.normal(size=(4, 2, 3)), [0, 1, 2, 0], group=[0.5, 1, 1, 2])
