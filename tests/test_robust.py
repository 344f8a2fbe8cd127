"""Parts of rows: metrics by part, and fits for the mean or the worst of them."""

import json
from itertools import product

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st

import policyopt as po
from policyopt._api import evaluate
from policyopt._frontier import summary
from policyopt._methods.base import outcome_of
from policyopt._parts import column, took_part
from policyopt._replay import replay
from policyopt._robust import parts_in
from policyopt._table import Tables

COSTS, NAMES = [1.0, 2.0, 4.0], np.array(["easy", "hard"])


def rows(n, seed=0, hard=0.3, exits=3, classes=4):
    """Logits (n, K, C), labels and part: of the hard rows exits know less, and are as sure."""
    rng = np.random.default_rng(seed)
    labels, part = rng.integers(0, classes, n), (rng.random(n) < hard).astype(int)
    logits = rng.normal(size=(n, exits, classes)) * np.where(part, 1.4, 1.0)[:, None, None]
    gain = np.linspace(1.0, 2.6, exits) * np.where(part, 0.75, 1.0)[:, None]
    logits[np.arange(n), :, labels] += gain
    return logits.astype("f4"), labels, part


def data_of(n, seed=0, **more):
    logits, labels, part = rows(n, seed, **more)
    return po.from_arrays(
        logits, labels, COSTS, unit="ms", context=part, contexts=NAMES.tolist(), split={"fit": 1.0}
    )  # fmt: skip


def streams(n=800, seed=0, dim=(1.0, 0.6, 0.4)):
    """A cache of rows to fit on, test rows, and the same test rows, distorted."""
    logits, labels, _ = rows(2 * n, seed, hard=0.0)
    rng = np.random.default_rng(seed + 99)
    fit, test = slice(n), slice(n, None)
    splits = {"fit": {"outputs": logits[fit], "labels": labels[fit]}}
    for name, scale in zip(("test", "dim", "dark"), dim, strict=True):
        moved = scale * (logits[test] + (1 - scale) * rng.normal(size=logits[test].shape))
        splits[name] = {"outputs": moved.astype("f4"), "labels": labels[test]}
    return po.from_arrays(splits=splits, costs=COSTS, unit="ms")


def by_parts(fitted, data, over="context", split="fit"):
    outcome = evaluate(fitted, data, split)
    return po.by_part(outcome, column(data, Tables(data).get(split), over))


def worths(fitted, data, split="fit"):
    """Quality by context, on average over a coin."""
    table = Tables(data).get(split)
    right = outcome_of(fitted.policy, table).right
    return [right[table.context == e].mean() for e in (0, 1)]


def coarse(n, seed):
    """Summaries of five confidences: all thresholds can be tried."""
    rng = np.random.default_rng(seed)
    part, level = (rng.random(n) < 0.3).astype(int), rng.integers(0, 5, (n, 3))
    sure = 0.3 + 0.15 * level
    right = rng.random((n, 3)) < np.clip(
        sure + np.array([-0.1, 0.0, 0.15]) - 0.3 * part[:, None] * (level > 2), 0, 1
    )
    return po.from_arrays(
        confidence=sure, correct=right, costs=COSTS, unit="ms", context=part,
        contexts=NAMES.tolist(), split={"fit": 1.0},
    ), sure, right, part  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("budget", [1.8, 2.5])
def test_no_thresholds_are_better_for_the_worst_part(seed, budget):
    """All 36 pairs of thresholds tried: none within the budget is better in its worst part, by 0.3 points."""
    data, sure, right, part = coarse(8000, seed)
    best = 0.0
    for pair in product([*np.unique(sure[:, 0]), 2.0], repeat=2):
        leave = np.concatenate([sure[:, :2] >= np.array(pair), np.ones((8000, 1), bool)], axis=1)
        exit_ = leave.argmax(axis=1)
        if np.array(COSTS)[exit_].mean() <= budget:
            correct = right[np.arange(8000), exit_]
            best = max(best, min(correct[part == g].mean() for g in (0, 1)))
    method = "max_prob:thresholds=joint"
    fitted = po.fit(data, budget, method, robust="worst", over="context")
    assert outcome_of(fitted.policy, Tables(data).get("fit")).paid.mean() <= budget + 1e-9
    found, plain = (min(worths(one, data)) for one in (fitted, po.fit(data, budget, method)))
    assert found >= best - 0.003 and found >= plain + (0.005 if budget < 2 else 0.0)


@given(
    st.integers(0, 1000), st.sampled_from(["30%", "45%", "70%"]),
    st.sampled_from(["max_prob", "margin:thresholds=joint", "entropy", "patience"]),
)  # fmt: skip
@settings(max_examples=3, deadline=None)
def test_the_worst_part_is_no_worse_than_by_a_plain_fit(seed, budget, method):
    """On the rows of the fit, of which above 5,000 none is left out; of the mean of parts that holds, too."""
    data = data_of(5200, seed)
    plain = po.fit(data, budget, method)
    for robust, of in (("worst", min), ("mean", np.mean)):
        fitted = po.fit(data, budget, method, robust=robust, over="context")
        assert of(worths(fitted, data)) >= of(worths(plain, data)) - 1e-9, robust
        paid = outcome_of(fitted.policy, Tables(data).get("fit")).paid
        assert paid.mean() <= fitted.budget * (1 + 1e-6)


@pytest.mark.parametrize("method", ["max_prob"])
def test_rows_kept_for_evaluation_are_not_looked_at(method):
    """Whatever stands in the other half of the streams and of the test rows: the same policy."""
    data, policies = streams(400), []
    kept = data.rows("dim[50%:]")[1]
    assert (kept == data.rows("dark[50%:]")[1]).all() and len(kept) == 200
    for spoil in (False, True):
        splits = {n: dict(rows.blocks[0]) for n, rows in data.splits.items()}
        for name in ("test", "dim", "dark") if spoil else ():
            splits[name] = {k: np.array(a) for k, a in splits[name].items()}
            splits[name]["outputs"][kept] = np.roll(splits[name]["outputs"][kept], 1, axis=2)
            splits[name]["labels"][kept] = (splits[name]["labels"][kept] + 2) % 4
        other = po.from_arrays(splits=splits, costs=COSTS, unit="ms")
        fitted = po.fit(other, "50%", method, robust="worst", over=["test", "dim", "dark"])
        policies.append(fitted)
        assert took_part(fitted.policy, other, "dark") and took_part(fitted.policy, other, "fit")
        assert not took_part(fitted.policy, other, "dark[50%:]")
    one, two = (fitted.policy for fitted in policies)
    np.testing.assert_array_equal(one.thresholds, two.thresholds)
    assert one.rule.params() == two.rule.params() or str(one.rule.params()) == str(
        two.rule.params()
    )
    assert policies[0].quality == policies[1].quality


def test_copies_of_an_input_are_one_group():
    """Rows of streams that are the same inputs are never divided, and a copy of a row of the fit counts as it."""
    data = streams()
    parts = parts_in(Tables(data), "fit", "dim,dark,fit")
    group = parts.table.group
    assert sorted(group[parts.at == 0]) == sorted(group[parts.at == 1])
    assert not np.isin(group[parts.at == 2], group[parts.at < 2]).any()
    assert parts.splits == ["dim[:50%]", "dark[:50%]", "fit"]
    statistics = Tables(data).get("dark[:50%]").statistics
    np.testing.assert_array_equal(
        parts.table.take(np.flatnonzero(parts.at == 1)).statistics.confidence, statistics.confidence
    )
    for rows_, outputs in parts.table.chunks():
        assert len(outputs) == len(parts.table) == 1600 and rows_.start == 0
        mine = Tables(data).get("dark[:50%]")
        np.testing.assert_array_equal(
            outputs[400:800], data.splits["dark"].pick("outputs", mine.places)
        )
    fitted = po.fit(data, "50%", "max_prob", robust="mean", over="dim,dark")
    assert took_part(fitted.policy, data, "test[:50%]") and not took_part(
        fitted.policy, data, "test[50%:]"
    )
    with pytest.raises(po.InputError, match="no part in the fit"):
        po.certify(data, "drop<=50%", method=fitted, split="test")


@pytest.mark.parametrize("robust", ["mean", "worst"])
def test_budget_in_every_stream(robust):
    """The worst keeps it in each, on rows apart; a plain fit does not. The mean keeps it on average."""
    over, paid, plain = ["test", "dim", "dark"], [], []
    for seed in range(2):
        data = streams(3600, seed)
        fitted = po.fit(data, "50%", "max_prob:spend=all", robust=robust, over=over)
        for one, out in ((fitted, paid), (po.fit(data, "50%", "max_prob:spend=all"), plain)):
            out.append([evaluate(one, data, f"{n}[50%:]").cost.mean() for n in over])
    mean, before = np.mean(paid, axis=0), np.mean(plain, axis=0)
    assert before.max() > 2.2
    assert 1.9 < (mean.max() if robust == "worst" else mean.mean()) < 2.05  # 2 standard errors


def test_floors_hold_in_the_worst_part_on_average():
    """Over 3 draws of 400 rows, of which 120 are of the hard part: on new rows the floor is met in the mean."""
    fresh, found = data_of(20_000, 10**6), []
    for seed in range(3):
        data = data_of(400, seed)
        fitted = po.fit(data, accuracy=0.55, method="max_prob", robust="worst", over="context")
        found.append(min(worths(fitted, fresh)))
        told = fitted.policy.provenance["robust"]["parts"]
        assert min(part["quality"] for part in told) >= 0.55 - 1e-9
    assert np.mean(found) > 0.55 - 2 * np.std(found) / 3**0.5 and np.mean(found) < 0.62


@pytest.mark.parametrize(
    "method",
    [
        "auto",
        "random",
        "always:exit=1",
        "patience",
        "max_prob:thresholds=0.6,0.6",
        "subset",
        "e2cm",
    ],
)
@pytest.mark.parametrize("over", ["context", ["dim", "dark"]])
def test_any_method(method, over, tmp_path):
    if method in ("auto", "e2cm") and over != "context":
        pytest.skip("once will do: it takes long")
    data = data_of(300) if over == "context" else streams(300)
    budget = None if "0.6" in method else "60%"
    fitted = po.fit(data, budget, method, robust="worst", over=over)
    told = fitted.policy.provenance["robust"]
    assert told["for"] == "worst" and len(told["parts"]) == 2
    assert sum(part["weight"] for part in told["parts"]) == pytest.approx(1)
    fitted.save(tmp_path / "p.json")
    assert po.load_policy(tmp_path / "p.json").provenance["robust"] == told
    assert fitted.policy.provenance["method"] == method.partition(":")[0]
    assert fitted.policy.costs[-1] <= 4.0 + fitted.policy.overhead[-1]


def test_parts_tell_what_their_rows_do():
    """Each as a replay of its rows alone, groups whole; rows without a label have no part of their own by label."""
    logits, labels, part = rows(600, 3)
    labels = np.where(np.arange(600) % 10 == 0, -1, labels)
    data = po.from_arrays(
        logits, labels, COSTS, unit="ms", context=part, contexts=NAMES.tolist(), group=np.arange(600) // 3,
        split={"fit": 0.5, "test": 0.5},
    )  # fmt: skip
    fitted, tables = po.fit(data, "60%", "max_prob"), Tables(data)
    table = tables.get("test")
    outcome = evaluate(fitted, data)
    for by in ("context", "label", NAMES[part]):
        values = column(data, table, by)
        records = po.by_part(outcome, values)
        assert sum(r["rows"] for r in records) == (values != "").sum()
        assert sum(r["worst"] for r in records) == 1
        for one in records:
            mine = np.flatnonzero(np.asarray(values).astype(str) == one["part"])
            alone = summary(replay(fitted.policy, table.take(mine)), fitted.policy)
            for name in ("realised_cost", "quality", "quality_low", "exit_share", "labelled"):
                assert one[name] == alone[name], name
    whole = po.by_part(outcome, ["all"] * len(table))[0]
    assert {k: v for k, v in whole.items() if k not in ("part", "worst")} == summary(
        outcome, fitted.policy
    )
    numbers = [r["part"] for r in po.by_part(outcome, np.arange(len(table)) % 12)]
    assert numbers == list(map(str, range(12)))
    declines = po.fit(data, "60%", "max_prob", abstain="20%")
    assert all(0 < r["coverage"] < 1 for r in by_parts(declines, data, split="test"))


def test_commands(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    logits, labels, part = rows(600, 1)
    np.savez(
        "a.npz",
        logits=logits.swapaxes(0, 1),
        labels=labels,
        costs=COSTS,
        context=part,
        contexts=NAMES,
    )
    assert run("import", "a.npz", "--out", "c", "--unit", "ms")[0] == 0
    data = po.open_cache("c")
    for split in ("fit", "test"):
        values = column(data, Tables(data).get(split), "context")
        (tmp_path / f"{split}.csv").write_text("light\n" + "\n".join(values))
    np.save("all.npy", part)
    found = []
    for over in ("context", "fit.csv", "all.npy"):
        code, out, told = run(
            "fit",
            "c",
            "--budget",
            "60%",
            "--method",
            "max_prob",
            "--robust",
            "worst",
            "--over",
            over,
            "--out",
            "p.json",
            "--format",
            "json",
        )
        assert code == 0, told
        (record,) = json.loads(out)
        found.append([(p["rows"], p["cost"], p["quality"]) for p in record["parts"]])
    assert found[0] == found[1] == found[2]
    code, out, told = run("evaluate", "p.json", "c", "--by", "context", "--format", "json")
    records = json.loads(out)
    assert [r["part"] for r in records] == [None, "easy", "hard"] and "took part" not in told
    assert [r["worst"] for r in records] == [False, False, True]
    assert records[1]["rows"] + records[2]["rows"] == records[0]["rows"] == 300
    code, out, told = run("evaluate", "p.json", "c", "--split", "fit", "--by", "fit.csv")
    assert code == 0 and "hard (worst)" in out and "took part in the fit" in told
    for words, said in (
        (("--robust", "worst"), "'over' must be given with robust"),
        (("--over", "context"), "'robust' must be one of mean, worst"),
        (("--robust", "best", "--over", "context"), "'robust' must be one of mean, worst"),
        (("--robust", "worst", "--over", "night"), "'split' must be one of"),
        (("--robust", "worst", "--over", "night.csv"), "night.csv ([Errno 2] No such file"),
        (("--robust", "worst", "--over", "test.csv,fit"), "'split' must be one of"),
        (("--robust", "worst", "--over", "group"), "which it lacks"),
        (("--robust", "worst", "--over", "context", "--limit", "p90<=3"), "'limits' must be absent"),
        (("--robust", "worst", "--over", "context", "--abstain", "5%"), "'abstain' must be absent"),
        (("--robust", "worst", "--over", "context", "--budgets", "3"), "--robust' must be absent"),
    ):  # fmt: skip
        budget = () if "--budgets" in words else ("--budget", "60%")
        code, _, told = run("fit", "c", *budget, *words)
        assert code == 2 and said in told, (words, told)
    code, _, told = run(
        "fit",
        "c",
        "--accuracy",
        "99%",
        "--robust",
        "worst",
        "--over",
        "context",
        "--method",
        "max_prob",
    )
    assert code == 3 and "in the worst part" in told
    code, _, told = run("evaluate", "p.json", "c", "--by", "colour")
    assert code == 2 and "context, label, group" in told


def test_empty_cells_are_rows_of_no_part(tmp_path, recwarn):
    """In a file, with a header or none, whatever its end; and None and NaN in arrays: nothing else moves."""
    data = data_of(400)
    table, values = (
        Tables(data).get("fit"),
        np.where(np.arange(400) % 7, NAMES[np.arange(400) % 2], ""),
    )
    values[-1] = ""
    text = "\n".join(values) + "\n"
    for whole in (
        text,
        f"part\n{text}",
        f"{text}\n",
        f"part\n{text}\n\n",
        text.replace("\n", "\r\n"),
    ):
        (tmp_path / "parts.csv").write_bytes(whole.encode())
        assert (column(data, table, tmp_path / "parts.csv") == values).all()
    outcome = evaluate(po.fit(data, "60%", "max_prob"), data, "fit")
    numbers = np.where(values == "", np.nan, values == "hard")
    for given_, names in (
        (values, ["easy", "hard"]), (np.where(values == "", None, values), ["easy", "hard"]),
        (numbers, ["0.0", "1.0"]), ([None if v == "" else v for v in values], ["easy", "hard"]),
    ):  # fmt: skip
        found = po.by_part(outcome, given_)
        assert [r["part"] for r in found] == names
        assert sum(r["rows"] for r in found) == (values != "").sum()
    (tmp_path / "parts.csv").write_text("a,b\nc,d\n")
    refuses("line 1 has several columns", column, data, table, tmp_path / "parts.csv")
    assert not recwarn.list


@pytest.mark.parametrize("over", ["dark,dark", ["dark[:50%]", "dark"], "dark,dim,dark[:20%]"])
def test_rows_are_of_one_part(over):
    told = r"'over' must be parts without a row in common. Got dark\[:50%\], d"
    refuses(told, po.fit, streams(300), "60%", "max_prob", robust="worst", over=over)


def test_a_subset_is_chosen_once(monkeypatch):
    """All parts alike; the weightings are fitted on the exits that it keeps, which the policy says."""
    from policyopt._methods.choosing import Subset

    asked, choices = [], Subset.choices
    monkeypatch.setattr(Subset, "choices", lambda *a: asked.append(1) or choices(*a))
    data = data_of(300)
    fitted = po.fit(data, "60%", "max_prob", max_exits=2, robust="worst", over="context")
    told = fitted.policy.provenance["chosen"]
    assert len(asked) == 1 and len(fitted.policy.active_exits) <= 2
    assert list(fitted.policy.active_exits) == told["exits"] and told["inner"] == "max_prob"


def test_parts_that_are_none():
    data, many = data_of(400), np.arange(400) // 2
    refuses("each of 30 labelled rows", po.fit, data, "60%", "max_prob", robust="worst", over=many)
    refuses("one value for each", po.fit, data, "60%", "max_prob", robust="worst", over=many[:7])
    refuses("2 parts or more", po.fit, data, "60%", "max_prob", robust="worst", over="fit")
    for nothing in ("streams", [], ""):
        said = "this cache has none.*Name a column"
        refuses(said, po.fit, data, "60%", "max_prob", robust="worst", over=nothing)
    refuses("names of splits", po.fit, data, "60%", "max_prob", robust="worst", over=7)
    outcome = evaluate(po.fit(data, "60%", "max_prob"), data, "fit")
    refuses("one value for each of the 400 rows", po.by_part, outcome, many[:7])
    with pytest.raises(po.BudgetError, match="in the worst part"):
        po.fit(streams(400), accuracy=0.999, method="max_prob", robust="worst", over="dim,dark")
