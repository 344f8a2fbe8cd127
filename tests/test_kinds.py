"""Kinds of outputs that are no class outputs: read, valued, fitted, stepped and told; oracles are closed forms and scikit-learn."""

import csv
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import rules
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, hamming_loss, jaccard_score

import policyopt as po
from policyopt._cache.importers import import_sources
from policyopt._export.python_file import python_source
from policyopt._measures import Measure
from policyopt._replay import trace
from policyopt._table import _COLUMNS, Tables
from policyopt.runtime._errors import InputError
from policyopt.runtime._family import PolicyFamily, family_from_dict, family_to_dict
from policyopt.runtime._kinds import KINDS, set_weights
from policyopt.runtime._policy import from_dict, to_dict

N, K = 400, 4
GAIN = np.array([0.6, 1.2, 2.0, 2.6])
COSTS = [1.0, 2.0, 3.0, 4.0]


def drawn(kind, labels=4, seed=0):
    """Outputs (N, K, ...) that get better by exit, what is true, and what import has to be told."""
    rng = np.random.default_rng(seed)
    if kind.startswith("regression"):
        true, hard = rng.normal(size=(N, labels)), rng.gamma(1.0, 1.0, (N, 1, 1))
        spread = np.broadcast_to(hard / GAIN[:, None], (N, K, labels))
        values = true[:, None] + rng.normal(size=(N, K, labels)) * spread
        if kind == "regression_variances":
            values = np.concatenate([values, spread**2], axis=2)
        return values.astype(np.float32), true, {"error_scale": 0.7}
    several = kind.startswith("multi")
    true = (rng.random((N, labels)) < 0.3).astype(int) if several else rng.integers(0, 2, N)
    side = (2 * true - 1).reshape(N, 1, -1)
    values = rng.normal(size=(N, K, side.shape[2])) + GAIN[:, None] * side
    if kind in ("probability", "multilabel_probabilities"):
        values = 1 / (1 + np.exp(-values))
    return values.astype(np.float32), true, {}


NEW = (
    "logit",
    "probability",
    "multilabel",
    "multilabel_probabilities",
    "regression",
    "regression_variances",
)
every_kind = pytest.mark.parametrize("kind", NEW)


def data_of(kind, **more):
    outputs, true, told = drawn(kind)
    return po.from_arrays(outputs, true, COSTS, unit="ms", kind=kind, **told, **more)


# Reading and valuing.


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 3.0]))
def test_sets_are_the_classes_of_a_product(labels, seed, spread):
    """By brute force over all 2**C sets: the two likeliest, the entropy, and equal numbers for equal sets alone."""
    z = np.random.default_rng(seed).normal(size=(8, labels)).astype(np.float32) * spread
    p = 1 / (1 + np.exp(-z.astype(np.float64)))
    sets = np.array(list(itertools.product((0, 1), repeat=labels)))
    mass = np.prod(np.where(sets[:, None] == 1, p, 1 - p), axis=2)  # (2**C, 8)
    for kind, given_values in (("multilabel", z), ("multilabel_probabilities", p)):
        seen, _ = KINDS[kind].reduce(0, given_values, (), 0.0)
        top = np.sort(mass, axis=0)[::-1]
        np.testing.assert_allclose(seen.confidence, top[0], rtol=1e-7)
        np.testing.assert_allclose(seen.top_prob[:, 1], top[1], rtol=1e-7, atol=1e-12)
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.nansum(np.where(mass > 0, mass * np.log(mass), 0), axis=0)
        np.testing.assert_allclose(seen.entropy, entropy, rtol=1e-6, atol=1e-8)
        said = KINDS[kind].answer(given_values)
        np.testing.assert_array_equal(said, sets[mass.argmax(axis=0)])
        same = (said[:, None] == said).all(axis=2)
        np.testing.assert_array_equal(seen.prediction[:, None] == seen.prediction, same)
        assert (seen.prediction >= 0).all()


def test_numbers_of_large_sets_fit_and_seldom_meet():
    weights, rng = set_weights(1000), np.random.default_rng(0)
    assert weights.min() >= 1 and weights.sum() < 2**31
    sets = rng.random((5000, 1000)) < 0.1
    assert len(np.unique(np.where(sets, weights, 0).sum(axis=1))) >= 4990
    assert set_weights(31).sum() == 2**31 - 1


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 5), st.integers(1, 30), st.integers(0, 10**6))
def test_worth_of_sets_is_scikit_learns(labels, rows, seed):
    rng = np.random.default_rng(seed)
    said, true = (rng.random((2, rows, labels)) < rng.random()).astype(np.int8)
    worth = {name: Measure(name).worth(said, true) for name in ("subset", "hamming", "jaccard")}
    assert worth["subset"].mean() == pytest.approx(accuracy_score(true, said))
    assert worth["hamming"].mean() == pytest.approx(1 - hamming_loss(true, said))
    both_empty = (said.sum(axis=1) + true.sum(axis=1)) == 0
    assert (worth["jaccard"][both_empty] == 1).all()
    if (~both_empty).any():
        wanted = jaccard_score(true[~both_empty], said[~both_empty], average="samples")
        assert worth["jaccard"][~both_empty].mean() == pytest.approx(wanted)


def test_worth_of_values_falls_with_the_mean_absolute_error():
    worth = Measure("", 2.0).worth(
        np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[1.0, 1.0], [0, 0]])
    )
    np.testing.assert_allclose(worth, [np.exp(-0.5), 1.0])


def test_a_value_is_as_sure_as_it_changed_little_and_its_variance_is_small():
    values = np.array([[[1.0, 2.0], [1.5, 2.5]], [[0.0, 0.0], [0.0, 0.0]]], np.float32)
    kind, state = KINDS["regression"], KINDS["regression"].start(2, 2)
    first, state = kind.reduce(0, values[:, 0], state, 0.5)
    second, _ = kind.reduce(1, values[:, 1], state, 0.5)
    assert first.confidence.tolist() == [0, 0]
    np.testing.assert_allclose(second.confidence, [np.exp(-1.0), 1.0])
    given_values = np.array([[5.0, 7.0, 0.25, 1.0]], np.float32)
    seen, _ = KINDS["regression_variances"].reduce(0, given_values, (), 2.0)
    errors = np.random.default_rng(0).normal(size=(200_000, 2)) * [0.5, 1.0]
    assert -np.log(seen.confidence[0]) * 2.0 == pytest.approx(np.abs(errors).mean(), rel=0.01)


def test_one_logit_is_two_classes():
    z, labels, _ = drawn("logit")
    both = np.concatenate([np.zeros_like(z), z], axis=2)
    one = Tables(po.from_arrays(z[..., 0], labels, COSTS, kind="logit")).get("fit")
    two = Tables(po.from_arrays(both, labels, COSTS, kind="logits")).get("fit")
    for name in _COLUMNS:
        ours, theirs = getattr(one.statistics, name), getattr(two.statistics, name)
        np.testing.assert_array_equal(ours, theirs, name)
    np.testing.assert_array_equal(one.log_prob(), two.log_prob())


# From a fit to decisions.


@every_kind
@pytest.mark.parametrize("spec", ["max_prob", "optimal_stopping", "auto"])
def test_a_batch_survivors_and_single_rows_are_decided_alike(kind, spec, tmp_path):
    """By the policy itself, from its file, and by the exported Python file; a replay shows the same answers."""
    data = data_of(kind)
    fitted = po.fit(data, "60%", spec).policy
    policy = from_dict(to_dict(fitted))
    rows = data.rows("test")[1]
    outputs = drawn(kind)[0][rows]
    whole = policy.decide(outputs)
    done = po.evaluate(policy, data)
    np.testing.assert_array_equal(done.exit, whole.exit)
    np.testing.assert_array_equal(done.prediction, whole.prediction)
    names = {"__name__": "nowhere"}
    exec(python_source(policy), names)
    module = SimpleNamespace(**names)
    exported = module.decide(outputs)
    np.testing.assert_array_equal(exported.exit, whole.exit)
    np.testing.assert_array_equal(exported.prediction, whole.prediction)
    for row in range(25):
        for runtime in (policy, module):
            state = runtime.start(row)
            for k in policy.active_exits:
                seen = runtime.step(k, outputs[row, k], state)
                if seen.exit:
                    break
            assert k == whole.exit[row]
            np.testing.assert_array_equal(seen.prediction, whole.prediction[row])
            assert np.asarray(seen.prediction).dtype.kind == whole.prediction.dtype.kind
    state, left = policy.start(np.arange(len(rows))), np.arange(len(rows))
    for k in policy.active_exits:
        seen = policy.step(k, outputs[left, k], state)
        assert (whole.exit[left[seen.exit]] == k).all()
        state, left = state.keep(~seen.exit), left[~seen.exit]
    assert not len(left)


@every_kind
def test_what_a_user_sees_is_the_answer_and_is_worth_what_the_cache_says(kind):
    _outputs, true, told = drawn(kind)
    data = data_of(kind)
    rows = data.rows("test")[1]
    done = po.evaluate(po.fit(data, "60%", "max_prob"), data)
    if kind in ("logit", "probability"):
        wanted = done.prediction == true[rows]
    else:
        wanted = Measure("" if told else "subset", *told.values()).worth(
            done.prediction, true[rows]
        )
    np.testing.assert_allclose(done.quality, wanted)


def test_skipped_exits_change_what_a_value_changed_by():
    data = data_of("regression")
    table = Tables(data).get("fit")
    kept, outputs = table.keep_exits((0, 3)), drawn("regression")[0][data.rows("fit")[1]]
    change = np.abs(outputs[:, 3].astype(float) - outputs[:, 0]).mean(axis=1)
    np.testing.assert_allclose(kept.statistics.confidence[:, 1], np.exp(-change / 0.7))
    np.testing.assert_array_equal(kept.quality, table.quality[:, [0, 3]])
    policy = po.fit(data, "60%", "subset").policy
    seen = trace(policy, Tables(data).get("test"))
    assert seen.active_exits == policy.active_exits


def test_more_sure_is_better():
    """Confidence tells rows apart: what leaves early is worth more than what stays, in all kinds."""
    for kind in NEW:
        table = Tables(data_of(kind)).get("fit")
        worth, sure = table.quality[:, 1], table.statistics.confidence[:, 1]
        high = sure >= np.median(sure)
        assert worth[high].mean() > worth[~high].mean() + 0.05, kind


def test_methods_that_do_not_apply_say_so():
    for kind, spec, words in (
        ("regression", "patience", "answers that exits can agree on"),
        (
            "regression",
            "entropy",
            "entropy, which outputs of kind regression do not say. Use max_prob",
        ),
        ("multilabel", "cbt", "answers that are classes"),
        ("multilabel", "e2cm", "all class outputs"),
        ("multilabel", "max_prob:answer=combined", "all class outputs"),
    ):
        with pytest.raises(InputError, match=words):
            po.fit(data_of(kind), "60%", spec)


# Import.


def saved(place, **arrays):
    np.savez(place / "a.npz", costs=COSTS, **arrays)
    return place / "a.npz"


@every_kind
def test_imported_written_and_in_memory_it_is_one_cache(kind, tmp_path):
    outputs, true, told = drawn(kind)
    declared = kind.partition("_")[0].replace("probability", "logit")
    key = "probs" if "prob" in kind else "values" if told else "logits"
    arrays = {key: outputs.swapaxes(0, 1)}
    if kind == "regression_variances":
        arrays = {"values": arrays[key][..., :4], "variances": arrays[key][..., 4:]}
    path = saved(tmp_path, labels=true, **arrays)
    options = {"unit": "ms", "cost_kind": "cumulative", **told}
    found = import_sources(path, tmp_path / "c", kind=declared, **options).data
    assert found.kind == kind
    with po.CacheWriter(tmp_path / "w", costs=po.Cost("cost", "ms", COSTS), kind=kind, shares={"fit": 0.5, "test": 0.5}, **told) as w:  # fmt: skip
        for low in range(0, N, 150):
            w.append("pool", outputs[low : low + 150], true[low : low + 150])
    tables = [Tables(d).get("fit") for d in (found, po.open_cache(tmp_path / "w"), data_of(kind))]
    for other in tables[1:]:
        np.testing.assert_array_equal(other.quality, tables[0].quality)
        np.testing.assert_array_equal(other.statistics.top_prob, tables[0].statistics.top_prob)
    assert found.measure == data_of(kind).measure


SETS, SET_LABELS, _ = drawn("multilabel")
SIGMOIDS = 1 / (1 + np.exp(-SETS))
ONE, BINARY, _ = drawn("logit")
REFUSED = {
    "several labels": ({"probs": SIGMOIDS, "labels": SET_LABELS}, {}, "Rows hold 0 to . ones.*--kind multilabel"),
    "several labels, as logits": ({"logits": SETS, "labels": SET_LABELS}, {}, "--kind multilabel"),
    "sigmoids as probabilities": ({"probs": SIGMOIDS, "labels": SET_LABELS.argmax(1)}, {}, "after a sigmoid.*--kind multilabel.*No argmax"),
    "sigmoids as logits": ({"probs": SIGMOIDS, "labels": SET_LABELS.argmax(1)}, {"kind": "logits"}, "--kind multilabel"),
    "one hot": ({"logits": SETS, "labels": np.eye(4)[SET_LABELS.argmax(1)]}, {}, "argmax"),
    "sigmoids under logits": ({"logits": SIGMOIDS, "labels": SET_LABELS}, {"kind": "multilabel"}, "multilabel_probabilities"),
    "labels that are no sets": ({"logits": SETS, "labels": SET_LABELS * 2}, {"kind": "multilabel"}, "0 or 1 for each"),
    "one number, undeclared": ({"logits": ONE[..., 0], "labels": BINARY}, {}, "--kind logit"),
    "one number, three classes": ({"logits": ONE, "labels": BINARY * 2}, {}, "a column each.*--kind regression"),
    "no scale": ({"values": ONE[..., 0], "labels": ONE[:, 3, 0]}, {"kind": "regression"}, "error_scale.*over 0.*none"),
    "a measure of sets": ({"logits": ONE, "labels": BINARY}, {"kind": "logit", "quality_of": "jaccard"}, "multilabel alone"),
    "negative variances": ({"values": ONE[..., 0], "variances": -np.ones((N, K)), "labels": ONE[:, 3, 0]}, {"kind": "regression", "error_scale": 1}, "variances, which are 0 or more"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_never_guessed_in_silence(case, tmp_path):
    arrays, options, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        import_sources(saved(tmp_path, **arrays), tmp_path / "c", axes="NKC", **options)


def test_one_logit_is_detected_where_nothing_else_it_can_be(tmp_path):
    path = saved(tmp_path, logits=ONE, labels=BINARY)
    report = import_sources(path, tmp_path / "c")
    assert report.data.kind == "logit" and any("read as kind logit" in n for n in report.notes)


@pytest.mark.parametrize("suffix", ["npz", "csv", "jsonl", "splits"])
def test_sigmoids_as_confidences_are_noted(suffix, tmp_path):
    """p = P(class 1) as `conf`: of two classes none is predicted with less than 1/2; folded ones are fine."""
    p, labels = 1 / (1 + np.exp(-ONE[..., 0].astype(float))), BINARY
    for conf, odd in ((p, True), (np.maximum(p, 1 - p), False)):
        arrays = {"conf": conf, "pred": (p > 0.5).astype(int), "labels": labels}
        path = tmp_path / f"{suffix}{odd}.npz"
        if suffix == "npz":
            np.savez(path, costs=COSTS, **arrays)
        elif suffix == "splits":
            halves = {"val": slice(200), "test": slice(200, 400)}
            parts = {f"{s}_{n}": a[rows] for s, rows in halves.items() for n, a in arrays.items()}
            np.savez(path, costs=COSTS, **parts)
        else:
            path = tmp_path / f"a{odd}.{suffix}"
            records = [
                {"label": int(y), **{f"conf_{k}": float(c[k]) for k in range(K)}, **{f"pred_{k}": int(q[k]) for k in range(K)}}
                for y, c, q in zip(labels, conf, arrays["pred"], strict=True)
            ]  # fmt: skip
            with path.open("w", newline="") as file:
                if suffix == "jsonl":
                    file.writelines(f"{json.dumps(row)}\n" for row in records)
                else:
                    writer = csv.DictWriter(file, records[0])
                    writer.writeheader()
                    writer.writerows(records)
        report = import_sources(path, tmp_path / f"c{odd}", costs=COSTS)
        told = [note for note in report.notes if "max(p, 1 - p)" in note and "class 0" in note]
        assert bool(told) == odd, report.notes


@pytest.mark.parametrize("kind", [k for k in NEW if k not in ("logit", "multilabel", "regression")])
def test_the_commands(kind, run, tmp_path):
    """import, info, fit, curve, compare, explain, run, export, verify: by the command line, each done."""
    outputs, true, told = drawn(kind)
    key = "probs" if "prob" in kind else "values" if told else "logits"
    path = saved(tmp_path, labels=true, **{key: outputs})
    np.savez(tmp_path / "new.npz", **{key: outputs[:10]})
    scale = ["--error-scale", "0.7"] if told else []
    at = lambda name: str(tmp_path / name)  # noqa: E731
    base = ["import", str(path), "--axes", "NKC", "--kind", kind, "--unit", "ms", "--out", at("c")]
    for command in (
        [*base, *scale],
        ["info", at("c")],
        ["fit", at("c"), "--budget", "60%", "--method", "max_prob", "--out", at("p.json")],
        ["curve", at("c"), "--methods", "max_prob", "--budgets", "2"],
        ["compare", at("c"), "--methods", "max_prob,optimal_stopping", "--budgets", "2"],
        ["explain", at("p.json"), at("c")],
        ["run", at("p.json"), at("new.npz"), "--format", "csv"],
        ["export", at("p.json"), "--cache", at("c"), "--out", at("e")],
        ["verify", at("e")],
    ):
        done = run(*command)
        assert done[0] == 0, (command, done)
    code, _, err = run("calibration", at("c"), "--maps", "none", "--policy", at("p.json"))
    assert code == 2 * bool(told) and bool(told) == ("fit --calibrator" in err and kind in err)


@every_kind
def test_families_of_every_kind_decline_on_every_level(kind, tmp_path):
    """In a batch, by steps with deadlines, from the file and in the exported one."""
    data = data_of(kind)
    fitted = po.fit_family(data, 3, "max_prob", abstain="10%")
    fitted.save(tmp_path / "f.json")
    family, outputs = po.load_family(tmp_path / "f.json"), drawn(kind, seed=3)[0]
    level = np.arange(N) % len(family)
    whole = family.decide(outputs, level)
    assert 0 < whole.abstained.mean() < 0.3 and len(set(whole.exit)) > 1
    exported: dict = {}
    exec(python_source(family), exported)
    said = exported["decide"](list(outputs.swapaxes(0, 1)), level=level)
    for a in range(len(family)):
        alone, mine = family.at(a).decide(outputs), level == a
        for field in ("exit", "prediction", "abstained"):
            wanted = getattr(alone, field)[mine]
            np.testing.assert_array_equal(getattr(whole, field)[mine], wanted)
            np.testing.assert_array_equal(getattr(said, field)[mine], wanted)
    state, rows = family.start(level), np.arange(N)
    for k in range(K):
        seen, now = family.step(k, outputs[rows, k], state), family.answer_now(state)
        np.testing.assert_array_equal(now.prediction, seen.prediction)
        leaves = seen.exit
        np.testing.assert_array_equal(seen.prediction[leaves], whole.prediction[rows[leaves]])
        np.testing.assert_array_equal(seen.abstained[leaves], whole.abstained[rows[leaves]])
        state.keep(~leaves)
        rows = rows[~leaves]
        if not len(rows):
            break
    one = family.at(0)
    alone = one.start()
    seen = one.step(0, outputs[0, 0], alone)
    np.testing.assert_array_equal(one.answer_now(alone).prediction, seen.prediction)


@every_kind
def test_families_keep_what_a_kind_needs(kind):
    policy = rules.of_kind(kind)
    dearer = replace(policy, thresholds=policy.thresholds + 0.1)
    content = json.loads(json.dumps(family_to_dict(PolicyFamily((policy, dearer)))))
    rules.assert_valid(content)
    back = family_from_dict(content)
    assert [p.error_scale for p in back.policies] == [policy.error_scale] * 2
    logits = np.random.default_rng(0).normal(size=(40, policy.classes))
    outputs = np.stack([KINDS[kind].example(logits, 0.7)] * 3, axis=1).astype(np.float32)
    one, other = back.decide(outputs, np.arange(40) % 2), policy.decide(outputs)
    np.testing.assert_array_equal(one.prediction[::2], other.prediction[::2])


GENERATED = ("binary", "multi-class", "multi-label", "regression", "graded, from", "graded, with")


@pytest.mark.parametrize("kind", GENERATED)
def test_the_benchmark_of_kinds_goes_the_whole_way(kind, run, root, tmp_path, monkeypatch):
    """Every command is done, and new rows leave from files of every sort where a replay says; without labels or quality."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    monkeypatch.chdir(tmp_path)
    import kinds

    (case,) = (one for one in kinds.generated(150) if one.kind.startswith(kind))
    cells = kinds.followed(case, tmp_path, lambda words, _: run(*words), "max_prob")
    assert {command: cell["state"] for command, cell in cells.items()} == dict.fromkeys(
        kinds.COMMANDS, "ok"
    ), cells
    assert len(cells["verify"]["ran"]) >= 4 and cells["run"]["differ"] == 0
