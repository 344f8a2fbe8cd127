"""Utilities, label maps and metrics: worth by label and prediction, wherever answers are valued."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, f1_score

import policyopt as po
from policyopt._metrics import metric_fields
from policyopt._utility import utility_of
from tests.conftest import refuses
from tests.test_quality import COSTS, K, logits

C = 4
MATRIX = np.random.default_rng(7).uniform(-2, 3, (C, C))
MAP = [0, 0, 1, 1]


def cases():
    """What can be stated, and U (K, C, C) that it means."""
    eye, weights = np.eye(C), np.array([1.0, 1.0, 2.0, 5.0])
    per_exit = np.random.default_rng(8).random((K, C, C))
    near = np.where(eye, 1.0, 0.6 * (np.array(MAP)[:, None] == MAP))
    above = 0.5 * (np.array(MAP)[:, None] == np.arange(C))
    scaled = (MATRIX - MATRIX.min()) / np.ptp(MATRIX)
    own = {"map": MAP, "worth": 0.5, "answers": "super-classes"}
    return {
        "text": ("1,1,2,5", [np.diag(weights / 5)] * K),
        "weights": ({"weights": weights}, [np.diag(weights / 5)] * K),
        "matrix": (MATRIX, [scaled] * K),
        "in range": (per_exit[0], [per_exit[0]] * K),
        "per exit": ({"matrix": per_exit.tolist()}, per_exit),
        "map": ({"exits": {"0": {"map": MAP, "worth": 0.6}}}, [near, eye, eye]),
        "super-classes": ({"exits": {"1": own}}, [eye, above, eye]),
    }


@pytest.mark.parametrize("name", cases())
def test_worth_is_the_matrix(name):
    """Worth, expected worth and kept exits are those of U looked up cell by cell; provenance states the same."""
    stated, wanted = cases()[name]
    found, rng = utility_of(stated, K, C), np.random.default_rng(0)
    labels, prediction = rng.integers(-1, C, 60), rng.integers(-1, C, (60, K))
    cell = [
        [wanted[k][y][p[k]] if y >= 0 and p[k] >= 0 else 0 for k in range(K)]
        for y, p in zip(labels, prediction, strict=True)
    ]
    np.testing.assert_allclose(found.worth(labels, prediction), cell)
    chance, answers = rng.dirichlet(np.ones(C), 60), np.maximum(prediction, 0)
    expected = np.einsum("nc,kcd->nkd", chance, np.array(wanted))
    expected = np.take_along_axis(expected, answers[:, :, None], axis=2)[:, :, 0]
    np.testing.assert_allclose(found.expected(chance, answers), expected)
    kept = found.keep_exits([0, 2]).worth(labels, prediction[:, [0, 2]])
    np.testing.assert_allclose(kept, np.array(cell)[:, [0, 2]])
    again = utility_of(json.loads(json.dumps(found.provenance["stated"])), K, C)
    assert again.digest == found.digest and bool(found.note) == (
        name in ("text", "weights", "matrix")
    )


@pytest.mark.parametrize("spec", ["max_prob", "optimal_stopping", "margin:answer=combined", "auto"])
def test_utility_all_the_way(spec):
    """Fits, replays and combined answers are valued by U, also after keeping exits and by the policy alone."""
    outputs, labels = logits(800)
    data = po.from_arrays(outputs, labels, **COSTS)
    fitted = po.fit(data, "60%", spec, utility=MATRIX)
    told = fitted.policy.provenance
    assert told["graded"] and told["utility"]["sha256"] == utility_of(MATRIX, K, C).digest
    outcome = po.evaluate(fitted, data)
    known = labels[data.rows("test")[1]]
    scaled = (MATRIX - MATRIX.min()) / np.ptp(MATRIX)
    np.testing.assert_allclose(outcome.quality, scaled[known, outcome.prediction])
    np.testing.assert_array_equal(outcome.correct, known == outcome.prediction)
    assert outcome.quality.mean() == pytest.approx(fitted.quality, abs=0.05)
    plain = po.evaluate(fitted, data, utility="none")
    assert not plain.graded and plain.quality.mean() == outcome.correct.mean()


def test_coarser_labels_let_more_leave():
    """Where a super-class is worth nearly as much, leaving early costs little quality."""
    outputs, labels = logits(3000, seed=3)
    data = po.from_arrays(outputs, labels, **COSTS)
    maps = {"exits": {"0": {"map": MAP, "worth": 0.9}}}
    coarse, fine = (po.fit(data, 1.6, "max_prob:thresholds=joint", utility=u) for u in (maps, None))
    assert coarse.quality > fine.quality + 0.03


REFUSED = {
    "a,b": "weights per class",
    "missing.json": "a file that is there",
    "0,0,0,0": "one above 0",
    "1,2": r"shape \(4,\)",
}


@pytest.mark.parametrize("text", REFUSED)
def test_bad_utilities_are_named(text):
    outputs, labels = logits(100)
    data = po.from_arrays(outputs, labels, **COSTS)
    refuses(REFUSED[text], po.Tables, data, utility=text)


@pytest.mark.parametrize(
    ("stated", "told"),
    [
        ({"exits": {"3": {"map": MAP, "worth": 1}}}, "numbers 0 to 2"),
        ({"exits": {"0": {"map": MAP[:3], "worth": 1}}}, "each of the 4 classes"),
        ({"exits": {"0": {"map": MAP, "worth": 2}}}, "worth"),
        ({"exits": {"0": {"map": MAP}}}, "with map, worth"),
        ({"exits": {"0": {"map": MAP, "worth": 1, "answers": "fine"}}}, "super-classes"),
        ({"exits": {"0": {"map": [0, 1, 2, 1e300], "worth": 1}}}, "super-class from 0"),
        ({"weights": np.eye(4)}, "weights"),
        ({"cost": 1}, "one key"),
        (np.full((4, 4), np.nan), "finite"),
        (np.ones((4, 4)), "differ"),
        ([["a"]], "weights per class"),
        (np.broadcast_to(1.0, (1 << 14, 1 << 14)), "numbers"),
    ],
)
def test_bad_mappings_are_named(stated, told):
    refuses(told, utility_of, stated, K, C)


LEAF = st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.text(max_size=3)
KEYS = st.sampled_from(["exits", "weights", "matrix", "0", "2", "map", "worth", "answers"])


@given(st.recursive(LEAF, lambda s: st.lists(s, max_size=4) | st.dictionaries(KEYS, s, max_size=3)))
def test_any_json_is_a_utility_or_refused(stated):
    """What a policy's file may hold in its place: worth within [0, 1], or a message."""
    if isinstance(stated, str):
        return  # a text names weights or a file
    try:
        found = utility_of(stated, K, C)
    except po.InputError:
        return
    assert found.matrix.min() >= 0 and found.matrix.max() <= 1


def test_files_of_utilities(tmp_path):
    """One matrix in every kind of file; pickles are not opened."""
    np.save(tmp_path / "u.npy", MATRIX)
    np.savetxt(tmp_path / "u.csv", MATRIX, delimiter=",")
    (tmp_path / "u.json").write_text(json.dumps(MATRIX.tolist()))
    found = {utility_of(tmp_path / f"u.{kind}", K, C).digest for kind in ("npy", "csv", "json")}
    assert len(found) == 1
    np.savetxt(tmp_path / "w.csv", [1.0, 1, 2, 5])
    assert utility_of(tmp_path / "w.csv", K, C).matrix.tolist() == [0.2, 0.2, 0.4, 1.0]
    np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "bad.json").write_text("[1, NaN]")
    for kind in ("npy", "csv", "json"):
        refuses("utility", utility_of, tmp_path / f"bad.{kind}", K, C)


def test_a_policy_names_no_file(tmp_path):
    """What a policy's file calls its utility is data: a text is no path to read."""
    outputs, labels = logits(200)
    data = po.from_arrays(outputs, labels, **COSTS)
    fitted = po.fit(data, "50%", "max_prob", utility="1,1,1,2")
    fitted.policy.provenance["utility"]["stated"] = str(tmp_path / "u.npy")
    refuses("too long for its file", po.evaluate, fitted, data)
    graded = po.from_arrays(outputs, labels, quality=np.ones((200, K)), **COSTS)
    refuses("labels and no quality", po.fit, graded, "50%", "max_prob", utility="1,1,1,2")


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    labels = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    prediction = np.where(rng.random(300) < 0.6, labels, rng.integers(0, 6, 300))
    oracles = {
        "balanced_accuracy": balanced_accuracy_score(labels, prediction),
        "macro_f1": f1_score(labels, prediction, average="macro", zero_division=0),
        "accuracy": (labels == prediction).mean(),
    }
    for name, wanted in oracles.items():
        found = metric_fields(name, labels, prediction, seed)
        assert found[name] == pytest.approx(wanted)
        assert found[f"{name}_low"] < wanted < found[f"{name}_high"]
    refuses("rows without labels", metric_fields, "macro_f1", None, prediction)
    refuses("one of accuracy", metric_fields, "recall", labels, prediction)


def test_metric_intervals_cover():
    """95 % intervals of balanced accuracy hold the truth about as often."""
    rng, hits = np.random.default_rng(0), 0
    for i in range(200):
        labels = rng.choice(3, 400, p=[0.6, 0.3, 0.1])
        right = rng.random(400) < np.array([0.9, 0.7, 0.5])[labels]
        found = metric_fields("balanced_accuracy", labels, np.where(right, labels, 3), i)
        hits += found["balanced_accuracy_low"] <= 0.7 <= found["balanced_accuracy_high"]
    assert hits >= 182


def test_commands_take_utilities(run, tmp_path):
    outputs, labels = logits(600)
    cache, policy, maps = tmp_path / "c", tmp_path / "p.json", tmp_path / "maps.json"
    np.savez(tmp_path / "a.npz", logits=outputs.swapaxes(0, 1), labels=labels, costs=[1, 2, 4])
    maps.write_text(json.dumps({"exits": {"0": {"map": MAP, "worth": 0.6}}}))
    assert run("import", tmp_path / "a.npz", "--out", cache, "--unit", "ms")[0] == 0
    fit = ("fit", cache, "--budget", "50%", "--method", "max_prob", "--out", policy)
    code, out, err = run(*fit, "--utility", "1,1,1,4")
    assert code == 0 and "expected quality %" in out and "weight of its class / 4" in err
    code, out, err = run("evaluate", policy, cache, "--metric", "macro_f1")
    assert code == 0 and "macro f1 %" in out and "policy's utility" in err
    code, out, err = run("evaluate", policy, cache, "--utility", maps)
    assert code == 0 and "fitted with another utility" in err
    assert "left out" in run("explain", policy, cache, "--utility", "none")[2]
    curve = ("curve", cache, "--methods", "max_prob", "--budgets", "2", "--format", "json")
    told = json.loads(run(*curve, "--metric", "balanced_accuracy", "--utility", maps)[1])
    assert all(r["quality"] >= r["accuracy"] and r["balanced_accuracy_low"] > 0 for r in told)
    compare = ("compare", cache, "--methods", "random,max_prob", "--budgets", "2")
    assert run(*compare, "--utility", maps)[0] == 0
    tune = ("tune", cache, "--method", "berxit", "--trials", "2", "--out", tmp_path / "t")
    code, out, _ = run(*tune, "--utility", "1,1,1,4", "--format", "json")
    assert code == 0 and "--utility 1,1,1,4" in json.loads(out)["command"]


def test_costs_of_errors_are_not_taken_for_worth_and_super_classes_are_not_combined():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    logits = rng.normal(size=(800, 2, 4)) + 2 * np.eye(4)[labels][:, None] * [[1], [2]]
    data = po.from_arrays(logits, labels, [1.0, 3.0])
    errors = 1.0 - np.eye(4)
    refuses("give -costs", po.fit, data, "50%", "max_prob", utility=errors)
    assert po.fit(data, "50%", "max_prob", utility=-errors).quality > 0.5
    own = {"exits": {"0": {"map": [0, 0, 1, 1], "worth": 0.6, "answers": "super-classes"}}}
    fitted = po.fit(data, "90%", "optimal_stopping", utility=own)
    assert fitted.policy.answer.name == "plain"
    refuses("answer", po.fit, data, "90%", "max_prob", answer="combined", utility=own)


def test_super_classes_are_held_against_their_map_and_named(run, tmp_path):
    """What exit 0 answers is right where the label is in it: in info, accuracy and metrics; its numbers are told."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 800)
    logits = rng.normal(size=(800, 2, 4)) + 2 * np.eye(4)[labels][:, None] * [[0], [2]]
    logits[:, 0, 2:], parents = -np.inf, np.array(MAP)[labels]
    logits[np.arange(800), 0, parents] += 2
    np.savez(tmp_path / "x.npz", logits=logits.swapaxes(0, 1), labels=labels, costs=[1, 3])
    own = {"exits": {"0": {"map": MAP, "worth": 0.6, "answers": "super-classes"}}}
    (tmp_path / "u.json").write_text(json.dumps(own))
    cache, policy, worth = tmp_path / "c", tmp_path / "p.json", ("--utility", tmp_path / "u.json")
    assert run("import", tmp_path / "x.npz", "--out", cache, "--unit", "ms")[0] == 0
    assert (
        run("fit", cache, "--budget", "60%", "--method", "max_prob", *worth, "--out", policy)[0]
        == 0
    )
    data = po.open_cache(cache)
    outcome, known = po.evaluate(po.load_policy(policy), data), labels[data.rows("test")[1]]
    early = outcome.exit == 0
    right = np.where(early, np.array(MAP)[known] == outcome.prediction, known == outcome.prediction)
    assert 0.1 < early.mean() < 0.9 and right[early].mean() > 0.85
    np.testing.assert_array_equal(outcome.correct, right)
    np.testing.assert_allclose(outcome.quality, np.where(early, 0.6, 1.0) * right)
    told = ("--metric", "balanced_accuracy", "--format", "json")
    (found,) = json.loads(run("evaluate", policy, cache, *told)[1])
    recalls = [right[known == c].mean() for c in range(4)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    (record,) = json.loads(
        run("curve", cache, "--methods", "max_prob", "--budgets", "60%", *worth, *told)[1]
    )
    assert record["balanced_accuracy"] == found["balanced_accuracy"]
    code, _, err = run("evaluate", policy, cache, "--metric", "macro_f1")
    assert code == 2 and "where exits answer super-classes" in err
    splits = json.loads(run("info", cache, *worth, "--format", "json")[1])["splits"]
    test = next(one for one in splits if one["split"] == "test")
    all_early = np.array(MAP)[known] == po.Tables(data).get("test").statistics.prediction[:, 0]
    assert test["quality"][0] == pytest.approx(0.6 * all_early.mean())
    np.savez(tmp_path / "new.npz", logits=logits.swapaxes(0, 1)[:, :50])
    code, out, err = run("run", policy, tmp_path / "new.npz", "--format", "json")
    assert "predictions of exit 0 are super-classes" in err
    assert all(
        r["answers"] == ("super-classes" if r["exit"] == 0 else "classes") for r in json.loads(out)
    )
    for _ in range(2):  # the second replaces the first
        assert run("evaluate", policy, cache, "--out", tmp_path / "rows.csv")[0] == 0
    assert run("calibration", cache, "--policy", policy)[0] == 2
