"""Graded quality: read, fitted on, replayed, told; what needs right or wrong says so."""

import json

import numpy as np
import pandas
import pytest
from scipy.optimize import linprog

import policyopt as po
from policyopt._export.python_file import python_source
from policyopt._frontier import oracle
from policyopt._intervals import quality_fields
from policyopt._methods.registry import ROWS, make_method
from policyopt._report.calibration import auroc
from policyopt._tiers.plans import summary
from policyopt.rl import exit_problem
from tests.conftest import refuses

N, K = 400, 3
COSTS = {"costs": [1, 2, 4], "unit": "ms"}


def graded(n=N, exits=K, seed=0):
    """Confidences (n, K) and grades of halves and quarters that rise with them, (n, K)."""
    rng = np.random.default_rng(seed)
    confidence = rng.random((n, exits))
    raw = 0.55 * confidence + 0.4 * rng.random((n, exits)) + np.linspace(0, 0.15, exits)
    return confidence, np.round(np.clip(raw, 0, 1) * 4) / 4


def logits(n=N, seed=0):
    """Logits (n, K, 4) and labels, later exits better."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    signal = np.linspace(1.0, 3.0, K)[:, None]
    return rng.normal(size=(n, K, 4)) + signal * np.eye(4)[labels][:, None], labels


FAST = [name for name, row in ROWS.items() if not row.trains]


def paid(name):
    more = {"cost_kind": "standalone"} if "cascade" in ROWS[name].needs else {}
    return {
        **COSTS,
        **more,
        **({"query": logits()[0][:, 0]} if "query" in ROWS[name].needs else {}),
    }


@pytest.mark.parametrize("name", FAST)
def test_grades_of_0_and_1_are_right_or_wrong(name):
    """Every method finds the same policy, whether right or wrong are called so or graded 1 and 0."""
    confidence, quality = graded()
    prediction = np.where(quality > 0.6, 1, 0).astype(np.int32)
    known = {"confidence": confidence, "prediction": prediction}
    right = quality > 0.6
    tables = [
        po.Tables(po.from_arrays(**known, **more, **paid(name))).get("fit")
        for more in ({"correct": right}, {"quality": right.astype(float)})
    ]
    method = make_method(name)
    if method.missing_columns(tables[0]):
        assert method.missing_columns(tables[1])
        return
    plain, same = (method.fit_path(table, [2.0])[0] for table in tables)
    assert plain.quality == same.quality and plain.expected.cost == same.expected.cost
    rows = [table.take(np.arange(50)) for table in tables]
    outcomes = [
        po._replay.replay(one.policy, t) for one, t in zip((plain, same), rows, strict=True)
    ]
    np.testing.assert_array_equal(outcomes[0].exit, outcomes[1].exit)
    assert not outcomes[0].graded and outcomes[1].graded


@pytest.mark.parametrize("name", FAST)
def test_every_method_on_grades_with_logits(name):
    """Whatever does not ask for classes fits on grades, within the grades' range and the budget."""
    outputs, labels = logits()
    quality = graded(seed=1)[1]
    table = po.Tables(po.from_arrays(outputs, quality=quality, **paid(name))).get("fit")
    # Its own answer, the nearest mean, is of a worth that nobody knows.
    method = make_method("e2cm:answer=plain" if name == "e2cm" else name)
    if missing := method.missing_columns(table):
        assert any("class labels" in one for one in missing)
        with_labels = po.from_arrays(outputs, labels, quality=quality, **paid(name))
        table = po.Tables(with_labels).get("fit")
        assert not method.missing_columns(table)
    fitted = method.fit_path(table, [2.0])[0]
    ends = table.quality.mean(axis=0)
    assert table.graded and quality.min() <= fitted.quality <= ends.max() + 0.1
    assert fitted.policy.provenance["graded"] and fitted.expected.cost <= 2.0 + 1e-6


def test_answers_of_unknown_worth_are_refused():
    """A grade is of the exits' own answer: combined ones are left out, and refused by name."""
    outputs, labels = logits()
    data = po.from_arrays(outputs, labels, quality=graded()[1], **COSTS)
    for spec in ("max_prob:answer=combined", "berxit:answer=vector", "pcee:answer=temperature"):
        refuses("labels instead of a graded quality", po.fit, data, "50%", spec)
    assert po.fit(data, "50%", "optimal_stopping").policy.answer.name == "plain"
    combined = po.fit(po.from_arrays(outputs, labels, **COSTS), "60%", "max_prob:answer=combined")
    assert combined.policy.answer.name == "combined"
    refuses("answers of the policy.*plain", po.evaluate, combined, data)


def test_oracle_is_the_linear_programme():
    """The hindsight bound is the fractional multiple-choice knapsack's optimum."""
    _, quality = graded(12, 4)
    rng = np.random.default_rng(1)
    costs = np.cumsum(rng.uniform(0.2, 2, (12, 4)), axis=1)
    data = po.from_arrays(confidence=quality, quality=quality, costs=costs, split={"test": 1.0})
    table = po.Tables(data).get("test")
    low, high = costs[:, 0].mean(), costs[:, -1].mean()
    budgets = np.linspace(low, high, 7)
    one_each = np.kron(np.eye(12), np.ones(4))
    for budget, found in zip(budgets, oracle(table, budgets), strict=True):
        best = linprog(
            -quality.ravel() / 12, costs.ravel()[None] / 12, [budget], one_each, np.ones(12)
        )
        assert found == pytest.approx(-best.fun, abs=1e-7)


def test_interval_of_grades_covers():
    """95 % intervals of mean grades hold the mean in about 95 % of samples, within [0, 1]."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        q = rng.beta(0.5, 0.2, 60)
        found = quality_fields(q, None, True)
        assert 0 <= found["quality_low"] <= found["quality"] <= found["quality_high"] <= 1
        assert found["accuracy"] is None
        hits += found["quality_low"] <= 0.5 / 0.7 <= found["quality_high"]
    assert 0.92 <= hits / 400 <= 0.99
    same = quality_fields(np.ones(50), None, True)
    assert same["quality_low"] < 1.0 == same["quality_high"]


def test_auroc_of_grades_is_that_of_coins():
    """Each pair of rows counts by the chance that one is right and the other wrong."""
    rng = np.random.default_rng(0)
    scores, q = rng.integers(0, 5, 30), rng.random(30)
    weight = q[:, None] * (1 - q)
    np.fill_diagonal(weight, 0)
    wins = (scores[:, None] > scores) + 0.5 * (scores[:, None] == scores)
    assert auroc(scores, q) == pytest.approx((weight * wins).sum() / weight.sum())
    assert auroc(scores, np.ones(30)) is None


def test_files_with_grades(tmp_path):
    """Tables long and wide, lines of lists and arrays hold the same grades; predictions may lack."""
    confidence, quality = graded(30)
    wide = {f"conf_{k}": confidence[:, k] for k in range(K)}
    wide |= {f"quality_{k}": quality[:, k] for k in range(K)}
    pandas.DataFrame(wide).to_csv(tmp_path / "wide.csv", index=False)
    at = {"sample": np.repeat(np.arange(30), K), "exit": np.tile(np.arange(K), 30)}
    long = pandas.DataFrame({**at, "conf": confidence.ravel(), "quality": quality.ravel()})
    long.to_csv(tmp_path / "long.csv", index=False)
    lists = [
        {"conf": c, "quality": q}
        for c, q in zip(confidence.tolist(), quality.tolist(), strict=True)
    ]
    (tmp_path / "lists.jsonl").write_text("\n".join(map(json.dumps, lists)))
    np.savez(tmp_path / "a.npz", conf=confidence.T, quality=quality.T)
    outputs, labels = logits(30)
    both = {"logits": outputs.swapaxes(0, 1), "labels": labels, "quality": quality.T}
    np.savez(tmp_path / "logits.npz", **both)
    for name in ("wide.csv", "long.csv", "lists.jsonl", "a.npz", "logits.npz"):
        data = po.import_sources(tmp_path / name, tmp_path / f"c{name}").data
        np.testing.assert_allclose(data.splits["pool"].array("quality"), quality)
        assert data.graded
        table = po.Tables(data).get("fit")
        assert table.labelled and (table.statistics.correct is None) == (name != "logits.npz")
        if name != "logits.npz":
            assert (table.statistics.prediction == -1).all()


def test_confidence_may_lack(tmp_path):
    """A router's score of K-1 columns is enough; without any score only shares of rows are chosen."""
    confidence, quality = graded(200, 2)
    columns = {"conf_0": confidence[:, 0], "quality_0": quality[:, 0], "quality_1": quality[:, 1]}
    pandas.DataFrame(columns).to_csv(tmp_path / "router.csv", index=False)
    told = po.import_sources(tmp_path / "router.csv", tmp_path / "a", costs=[1, 24])
    assert any("needs none" in note for note in told.notes)
    np.testing.assert_array_equal(told.data.splits["pool"].array("confidence")[:, 1], 1.0)
    routed = po.fit(told.data, "50%", "max_prob")
    assert routed.quality > po.fit(told.data, "50%", "random").quality
    columns["router"] = columns.pop("conf_0")
    pandas.DataFrame(columns).to_csv(tmp_path / "bare.csv", index=False)
    told = po.import_sources(tmp_path / "bare.csv", tmp_path / "b", costs=[1, 24])
    assert any("NO CONFIDENCES" in note for note in told.notes)
    bare = po.fit(told.data, "50%", "max_prob")
    assert bare.policy.mixture and bare.expected.cost == pytest.approx(12, rel=0.02)


def test_confidence_may_be_the_largest_probability(tmp_path):
    top = -np.sort(-np.random.default_rng(0).dirichlet(np.ones(4), (K, 50)), axis=2)[:, :, :2]
    np.savez(tmp_path / "top.npz", top_prob=top, quality=graded(50)[1].T)
    told = po.import_sources(tmp_path / "top.npz", tmp_path / "a")
    found = told.data.splits["pool"].array("confidence")
    np.testing.assert_array_equal(found, top[:, :, 0].T)
    assert not any("CONFIDENCES" in note for note in told.notes)


def test_bad_grades_are_named():
    confidence, quality = graded(20)
    for value, told in (
        (80.0, "80.*row 3, exit 1.*"),
        (np.nan, "nan at row 3, exit 1"),
        (-1, "-1"),
    ):
        wrong = quality.copy()
        wrong[3, 1] = value
        refuses(told, po.from_arrays, confidence=confidence, quality=wrong, **COSTS)
    refuses(
        "under the key quality", po.from_arrays, confidence=confidence, correct=quality, **COSTS
    )
    refuses("quality.*20 rows", po.from_arrays, confidence=confidence, quality=quality[:9], **COSTS)
    splits = {
        "fit": {"confidence": confidence, "quality": quality},
        "test": {"confidence": confidence[::-1] ** 2, "correct": quality > 0.5},
    }
    data = po.from_arrays(splits=splits, **COSTS)
    fitted = po.fit(data, "50%", "max_prob")
    refuses("'test' must have a quality", po.evaluate, fitted, data)


def test_other_rooms_value_grades():
    """Plans and certificates, experts, environments and refits work on grades and state them."""
    outputs, _ = logits(1200)
    quality, context = graded(1200)[1], np.arange(1200) % 2
    more = {"context": context, "contexts": ["clean", "blur"]}
    data = po.from_arrays(outputs, quality=quality, **COSTS, **more)
    tables = po.Tables(data)
    fit, test = tables.get("fit"), tables.get("test")
    tiers = po.Tiers(
        (po.Tier("device", 4.0), po.Tier("cloud", 0.2)), (po.Link(50, 8),), 700, (9e3, 9e3)
    )
    low, high = fit.quality.mean(axis=0)[[0, -1]]
    goal = po.Goal("latency", accuracy=float(low + high) / 2)
    planned = po.plan(tiers, fit, goal, confidence=0.8)
    sure = planned.certificate
    assert goal.accuracy <= sure.accuracy_low < sure.accuracy < 1
    record = summary(tiers, planned.plan, planned.fitted.policy, test, "latency")
    assert record["accuracy"] is None and record["quality_low"] < record["quality"]
    experts = po.fit_experts(data, "50%", "max_prob")
    outcome = po.evaluate(experts, data)
    assert outcome.graded and outcome.correct is None
    assert outcome.quality.mean() == pytest.approx(experts.quality, abs=0.05)
    for like in (None, exit_problem(tables)):
        problem = exit_problem(tables, "test", like=like)
        np.testing.assert_array_equal(problem.samples.success, test.quality)
    again = po.refit("max_prob", fit, test, "50%")
    assert np.isnan(again.quality) and again.expected.cost <= 2.0 + 1e-9


def test_commands_tell_quality(run, tmp_path):
    """Records hold quality always, accuracy where right or wrong is known; McNemar and ECE give way."""
    outputs, labels = logits(600)
    path, policy = tmp_path / "graded.npz", tmp_path / "p.json"
    quality = graded(600)[1]
    np.savez(path, logits=outputs.swapaxes(0, 1), labels=labels, quality=quality.T, costs=[1, 2, 4])
    cache = tmp_path / "cache"
    assert run("import", path, "--out", cache, "--unit", "ms", "--cost-kind", "cumulative")[0] == 0
    fit = ("fit", cache, "--budget", "50%", "--method", "max_prob", "--out", policy)
    code, out, _ = run(*fit)
    assert code == 0 and "expected quality %" in out
    (record,) = json.loads(run(*fit, "--format", "json")[1])
    assert record["expected_accuracy"] is None and 0 < record["expected_quality"] < 1
    (found,) = json.loads(run("evaluate", policy, cache, "--format", "json")[1])
    outcome = po.evaluate(po.load_policy(policy), po.open_cache(cache))
    assert found["quality"] == pytest.approx(outcome.quality.mean())
    assert found["accuracy"] == pytest.approx(outcome.correct.mean())
    curve = ("curve", cache, "--methods", "max_prob,patience", "--budgets", "3")
    code, out, _ = run(*curve, "--bounds")
    assert code == 0 and "quality %" in out and "accuracy" not in out
    compare = ("compare", *curve[1:])
    records = json.loads(run(*compare, "--format", "json")[1])
    assert all(r["mcnemar_p"] is None for r in records if r["budget"] is not None)
    code, out, err = run(*compare)
    assert code == 0 and "McNemar" not in out and "paired bootstrap" in err
    code, out, _ = run("explain", policy, cache, "--out", tmp_path / "x")
    assert code == 0 and "quality % of leavers" in out and "points)" in out
    told = json.loads((tmp_path / "x" / "explain.json").read_text())
    assert told["accuracy"] is None and told["changes"]["mcnemar_p"] is None
    taken = outcome.quality
    assert told["quality"] == pytest.approx(taken.mean())
    assert run("calibration", cache, "--policy", policy)[0] == 0  # labels are there besides
    np.savez(path, logits=outputs.swapaxes(0, 1), quality=quality.T, costs=[1, 2, 4])
    assert run("import", path, "--out", cache, "--overwrite", "--unit", "ms")[0] == 0
    code, _, err = run("calibration", cache, "--budget", "50%", "--method", "max_prob")
    assert code == 2 and "which answers are right" in err and "--calibrator" in err
    code, out, _ = run("info", cache)
    assert code == 0 and "quality [%]" in out


def test_tuning_leaves_answers_alone():
    """No trial is lost to answers whose worth nobody knows."""
    outputs, _ = logits(300)
    data = po.from_arrays(outputs, quality=graded(300)[1], **COSTS)
    tuned = po.tune(data, "berxit", trials=2, budgets=2, folds=2)
    assert tuned.failed == 0 and tuned.recommended["answer"] == "plain"


def new_rows(place, confidence):
    """Write confidences (n, K) of new rows, nothing else, as every sort of file; yield their paths."""
    wide = pandas.DataFrame({f"conf_{k}": c for k, c in enumerate(confidence.T)})
    wide.to_csv(place / "new.csv", index=False)
    wide.to_parquet(place / "new.parquet")
    wide.to_json(place / "wide.jsonl", orient="records", lines=True, double_precision=15)
    n, exits = confidence.shape
    at = {"sample": np.repeat(np.arange(n), exits), "exit": np.tile(np.arange(exits), n)}
    long = pandas.DataFrame({**at, "confidence": confidence.ravel()})
    long.to_csv(place / "long.csv", index=False)
    (place / "lists.jsonl").write_text(
        "\n".join(json.dumps({"conf": row}) for row in confidence.tolist())
    )
    np.savez(place / "new.npz", conf=confidence.T)
    np.savez(place / "log.npz", conf_logprob=np.log(confidence.T))
    np.savez(place / "router.npz", conf=confidence[:, :-1].T)
    for name in ("new.csv", "new.parquet", "wide.jsonl", "long.csv", "lists.jsonl", "new.npz", "log.npz", "router.npz"):  # fmt: skip
        yield place / name


@pytest.mark.parametrize("method", ["max_prob", "optimal_stopping"])
def test_new_rows_of_grades_need_confidences_alone(method, run, tmp_path):
    """No quality, no labels, no predictions; from every file that `import` reads, and by the exported file."""
    confidence, quality = graded()
    file = tmp_path / "p.json"
    fitted = po.fit(po.from_arrays(confidence=confidence, quality=quality, **COSTS), "60%", method)
    fitted.save(file)
    fresh = np.clip(graded(60, seed=5)[0], 0.01, 0.99)
    fresh[0] = 1.0
    bare = [{"confidence": fresh[:, k]} for k in range(K)]
    unknown = [one | {"prediction": np.full(60, -1)} for one in bare]
    wanted = fitted.policy.decide(unknown).exit.tolist()
    assert len(set(wanted)) > 1 and fitted.policy.decide(bare).exit.tolist() == wanted
    names = {"__name__": "nowhere"}
    exec(python_source(fitted.policy), names)
    assert names["decide"](bare).exit.tolist() == wanted
    fresh[0] = 1 + 1e-6  # as of a softmax in float16
    for path in new_rows(tmp_path, fresh):
        code, out, err = run("run", file, path, "--format", "json")
        assert code == 0, (path.name, err)
        assert [row["exit"] for row in json.loads(out)] == wanted, path.name


@pytest.mark.parametrize("rows", [1, K - 1, K, K + 1])
def test_few_rows_of_a_table_are_not_taken_for_exits(rows, run, tmp_path):
    """Tables have rows first, whatever their numbers; also where the last exit's confidence is left out."""
    confidence, quality = graded()
    data = po.from_arrays(confidence=confidence, quality=quality, **COSTS)
    policy = po.fit(data, "60%", "max_prob").policy
    policy.save(tmp_path / "p.json")
    wanted = policy.decide([{"confidence": c} for c in confidence[:rows].T]).exit.tolist()
    for columns in (K, K - 1):
        wide = {f"conf_{k}": confidence[:rows, k] for k in range(columns)}
        pandas.DataFrame(wide).to_csv(tmp_path / "new.csv", index=False)
        code, out, err = run("run", tmp_path / "p.json", tmp_path / "new.csv", "--format", "json")
        assert code == 0, err
        assert [row["exit"] for row in json.loads(out)] == wanted


def test_predictions_are_asked_for_where_a_score_reads_those_of_the_fit(run, tmp_path):
    confidence, quality = graded()
    prediction = np.random.default_rng(1).integers(0, 2, (N, K)).astype(np.int32)
    data = po.from_arrays(confidence=confidence, quality=quality, prediction=prediction, **COSTS)
    bare = [{"confidence": confidence[:, k]} for k in range(K)]
    assert len(po.fit(data, "60%", "max_prob").policy.decide(bare).exit) == N
    fitted = po.fit(data, "60%", "optimal_stopping")
    refuses("with predictions.*advantage.*max_prob", fitted.policy.decide, bare)
    fitted.save(tmp_path / "p.json")
    np.savez(tmp_path / "new.npz", conf=confidence.T)
    code, _, err = run("run", tmp_path / "p.json", tmp_path / "new.npz")
    assert code == 2 and "with predictions (pred)" in err


def test_new_rows_without_confidences_are_refused_by_key(run, tmp_path):
    confidence, quality = graded()
    data = po.from_arrays(confidence=confidence, quality=quality, **COSTS)
    po.fit(data, "60%", "max_prob").save(tmp_path / "p.json")
    np.savez(tmp_path / "a.npz", sure=confidence.T)
    (tmp_path / "b.csv").write_text("age,sure_0\n3,0.5\n")
    for name, words in (("a.npz", "key conf"), ("b.csv", "confidence for each exit")):
        code, _, err = run("run", tmp_path / "p.json", tmp_path / name)
        assert code == 2 and words in err and "sure" in err, err
