"""What the page of a cache holds: the numbers of `fit`, `evaluate` and `compare`, whole policy files, nothing hostile."""

import base64
import gzip
import json
import re
import sys

import numpy as np
import pytest
from conftest import refuses

import policyopt as po
from policyopt._frontier import summary
from policyopt._page import content as made
from policyopt._page.samples import EACH, MOST, Samples
from policyopt._table import Tables
from policyopt.runtime import load_policy
from policyopt.runtime._certificate import fingerprint

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


@pytest.fixture
def few(monkeypatch):
    """Fewer budgets, where that all of them are there is not what is tested."""
    monkeypatch.setattr(made, "BUDGETS", 21)


def cache(rows=1600, exits=4, classes=5, seed=0, **more):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    skill = np.linspace(0.8, 3.0, exits)[:, None]
    noise = rng.normal(size=(rows, exits, classes)) + 1.2 * rng.normal(size=(rows, 1, classes))
    logits = noise + skill * np.eye(classes)[labels][:, None]
    own = {"costs": [1.0, 2.0, 4.0, 8.0][:exits], "unit": "ms", **more}
    return po.from_arrays(logits, own.pop("labels", labels), **own)


def page_of(data, methods=None, policies=None, **more):
    found = made.content(Tables(data, **more.pop("tables", {})), methods, policies, **more)
    json.dumps(found, allow_nan=False)
    return found


def texts(explorer):
    """The policy files that a page carries, by method, level by level."""
    pieces = json.loads(gzip.decompress(base64.b64decode(explorer["chunks"])))
    return {
        m["label"]: ["".join(pieces[i] for i in level["file"]) for level in m["levels"]]
        for m in explorer["methods"]
    }


def near(found, wanted):
    np.testing.assert_allclose(
        np.array(found, float), np.array(wanted, float), rtol=1e-11, atol=1e-14
    )


def test_numbers_are_those_of_fit_evaluate_and_compare(tmp_path):
    data, methods = cache(700), ["max_prob", "patience", "margin"]
    explorer = page_of(data, methods)["explorer"]
    budgets, files = explorer["budgets"], texts(explorer)
    assert len(budgets) == 101 and budgets[0] == 1.0 and budgets[-1] == 8.0
    for method in explorer["methods"]:
        assert len(method["levels"]) == len({*method["at"]} - {-1})  # each is at some budget
        for i in range(0, 101, 10):
            before, behind = method["command"]
            assert before == "policyopt fit CACHE --budget " and method["label"] in behind
            try:
                fitted = po.fit(data, float(repr(budgets[i])), method["label"])
            except po.BudgetError:
                assert method["at"][i] == -1
                continue
            level = method["levels"][method["at"][i]]
            (tmp_path / "page.json").write_text(files[method["label"]][method["at"][i]])
            assert fingerprint(load_policy(tmp_path / "page.json")) == fingerprint(fitted.policy)
            seen = po.evaluate(fitted, data)
            told = summary(seen, fitted.policy)
            near(level["cost"], [told[f"realised_cost{end}"] for end in ("", "_low", "_high")])
            near(level["quality"], [told[f"quality{end}"] for end in ("", "_low", "_high")])
            near(level["exit_share"], told["exit_share"])
            near(level["expected_cost"][0], fitted.expected.cost)
            near(level["expected_quality"][0], fitted.quality)
            labels = Tables(data).get("test").statistics.labels
            for name, shares in zip(explorer["classes"]["names"], level["by_class"], strict=True):
                rows = seen.exit[labels == int(name.split()[-1])]
                np.testing.assert_allclose(
                    shares, np.bincount(rows, minlength=4) / len(rows), atol=1e-4
                )
    compared = po.compare(po.curve(data, methods, budgets), "max_prob")
    for method in explorer["methods"][1:]:
        own = [r for r in compared if r["method"] == method["label"] and r["budget"] is not None]
        for record in own:
            told = method["levels"][method["at"][budgets.index(record["budget"])]]["to_reference"]
            near(told[0], record["difference"])
            np.testing.assert_allclose(
                told[1:], [record["difference_low"], record["difference_high"]], atol=2e-3
            )


def test_a_level_begins_at_its_least_budget_and_the_last_exit_is_the_full_model(few):
    explorer = page_of(cache(), ["always"])["explorer"]
    always = next(m for m in explorer["methods"] if m["label"] == "always")
    assert always["at"] == sorted(always["at"])
    assert [one["budget"] for one in always["levels"]] == [
        explorer["budgets"][always["at"].index(j)] for j in range(len(always["levels"]))
    ]
    assert always["levels"][0]["thresholds"] == [["always"] * 3]
    assert always["levels"][-1]["to_full"][0] == 0.0 == always["levels"][-1]["exit_share"][0]
    full = explorer["exits"][-1]
    assert explorer["full"]["cost"] == full["cost"] == 8.0
    assert explorer["full"]["quality"][0] == full["quality"]
    assert explorer["singles"][-1] == max(e["quality"] for e in explorer["exits"])
    assert all(b >= s - 1e-9 for b, s in zip(explorer["bound"], explorer["singles"], strict=True))


def test_files_are_byte_for_byte_what_save_writes(few, tmp_path):
    data, more = (
        cache(600),
        {"cost_kind": "standalone", "metadata": {"names": ["a", "b", "c", "d"]}},
    )
    of = {
        "plain": po.fit(data, 3.0, "max_prob"), "mixture": po.fit(data, 3.0, "patience"),
        "calibrated": po.fit(data, 3.0, "margin", calibrator="isotonic"),
        "combined": po.fit(data, 3.0, "margin:answer=combined"),
        "learned": po.fit(data, 3.0, "optimal_stopping"), "abstaining": po.fit(data, 3.0, abstain="5%"),
    }  # fmt: skip
    assert of["mixture"].policy.mixture is not None
    family = po.fit_family(data, 5, "max_prob")
    given = {name: one.policy for name, one in of.items()} | {"family": family.policy}
    explorer = page_of(data, policies=given)["explorer"]
    for name, found in texts(explorer).items():
        policies = {"family": family.policy.policies, "max_prob": ()}.get(name) or [given.get(name)]
        for policy, text in zip(policies, found, strict=False):
            if policy is not None:
                policy.save(tmp_path / "p.json")
                assert text.encode() == (tmp_path / "p.json").read_bytes(), name
    pieces = json.loads(gzip.decompress(base64.b64decode(explorer["chunks"])))
    assert len(pieces) == len(set(pieces))
    routed = cache(rows=400, **more)
    explorer = page_of(routed, ["routing"])["explorer"]
    routing = next(m for m in explorer["methods"] if m["label"] == "routing")
    for j, text in enumerate(texts(explorer)["routing"][::20]):
        level = routing["levels"][20 * j]
        po.fit(routed, level["budget"], "routing").save(tmp_path / "p.json")
        assert text.encode() == (tmp_path / "p.json").read_bytes()
        assert level["thresholds"] is None
        np.testing.assert_allclose(sum(way["stop"] for way in level["ways"]), 1.0, atol=0.2)
        assert max(len(way["path"]) for way in level["ways"]) >= 1


def test_policies_that_are_given_stand_at_what_they_were_fitted_for(few, tmp_path):
    data = cache()
    family, alone = po.fit_family(data, 6, "margin"), po.fit(data, 4.0, "entropy")
    family.save(tmp_path / "family.json")
    page = page_of(data, ["margin"], {"family.json": family, "one.json": alone})
    explorer = page["explorer"]
    assert [m["label"] for m in explorer["methods"]] == [
        "max_prob",
        "margin",
        "family.json",
        "one.json",
    ]
    levels, single = explorer["methods"][2:]
    for budget, j in zip(explorer["budgets"], levels["at"], strict=True):
        try:  # each of them is a stop of the slider
            assert j == family.policy.number(budget)
        except po.BudgetError:
            assert j == -1
    least = np.minimum(family.policy.expected_costs, family.policy.budgets)
    assert {b for b in least if 1 < b < 8} <= {*explorer["budgets"]} and 4.0 in explorer["budgets"]
    assert single["at"] == [-1 if b < 4.0 * (1 - 1e-9) else 0 for b in explorer["budgets"]]
    assert levels["command"] == ["policyopt evaluate family.json CACHE --level ", ""]
    assert single["command"] == ["policyopt evaluate one.json CACHE"]
    assert explorer["chosen"] == "family.json"
    alone_page = page_of(data, policies={"one.json": alone})
    shown, told = alone_page["explorer"], alone_page["verdict"]
    assert shown["chosen"] == "one.json" and shown["budgets"][shown["start"]] == 4.0
    assert told["pays"] is None and told["headline"].startswith("one.json: ")
    cost = po.evaluate(alone, data).cost.mean()
    assert f"it costs {cost:.4g} ms, {100 * (1 - cost / 8):.1f} % less" in told["sentences"][0]
    table = next(p for p in alone_page["panels"] if p["id"] == "methods")["table"]
    lines = zip(table["rows"], table["budget"], strict=True)
    assert 4.0 in {budget for row, budget in lines if row[0] == "one.json"}
    near(single["levels"][0]["cost"][0], po.evaluate(alone, data).cost.mean())
    refuses(
        "exits of the cache.*as the policy was fitted on: 4",
        page_of,
        cache(exits=3),
        None,
        {"x": alone.policy},
    )


def test_levels_that_are_certified_say_what_of(few):
    rows, spans = cache(900).splits["pool"], {"fit": 0, "calibrate": 300, "test": 600}
    splits = {
        name: {of: rows.array(of)[low : low + 300] for of in ("outputs", "labels")}
        for name, low in spans.items()
    }
    data, risk = po.from_arrays(splits=splits, costs=[1, 2, 4, 8], unit="ms"), "drop<=15%"
    family = po.certify(data, risk, method="max_prob", budgets=6).family
    page = page_of(data, policies={made.CERTIFIED + risk: family})
    explorer = page["explorer"]
    method = explorer["methods"][-1]
    assert method["command"] == ["policyopt certify CACHE --risk 'drop<=15%' --out certified.json"]
    assert explorer["chosen"] == method["label"] and method["at"][explorer["start"]] == 0
    told = page["verdict"]
    assert told["pays"] is True and told["badge"] == "Certified"
    assert "keeps drop <= 15 % with 95 % confidence: certified on 300 rows" in told["headline"]
    assert len(method["levels"]) == len(family)
    assert all(risk in level["certificate"] for level in method["levels"])


@pytest.mark.parametrize(
    "kind", ["graded", "groups", "costs", "regression", "multilabel", "money", "some labels"]
)
def test_other_kinds_of_caches_have_a_page(few, kind):
    rng, n = np.random.default_rng(1), 1200
    if kind == "regression":
        truth = rng.normal(size=n)
        said = (
            truth[:, None, None] + rng.normal(size=(n, 3, 1)) * np.array([1.0, 0.5, 0.1])[:, None]
        )
        data = po.from_arrays(
            said, truth, costs=[1, 2, 4], unit="ms", kind="regression", error_scale=0.5
        )
        methods = ["always"]
    elif kind == "multilabel":
        truth = rng.random((n, 6)) < 0.3
        said = 2 * (2 * truth[:, None] - 1) * np.array([0.3, 0.6, 1.0])[:, None] + rng.normal(
            size=(n, 3, 6)
        )
        data, methods = (
            po.from_arrays(said, truth.astype(int), costs=[1, 2, 4], unit="ms", kind="multilabel"),
            ["always"],
        )
    else:
        more = {
            "graded": {"quality": rng.random((n, 4))}, "groups": {"group": np.repeat(np.arange(n // 4), 4)},
            "costs": {"costs": np.cumsum(rng.random((n, 4)) + 0.1, axis=1)}, "money": {"unit": "USD"},
            "some labels": {"labels": np.where(np.arange(n) % 5, rng.integers(0, 5, n), -1)},
        }[kind]  # fmt: skip
        data, methods = cache(n, **more), ["always", "margin"]
    found = page_of(data, methods)
    explorer = found["explorer"]
    assert explorer["word"] == ("quality" if kind in ("graded", "regression") else "accuracy")
    assert (explorer["classes"] is None) == (kind in ("regression", "multilabel"))
    for method in explorer["methods"]:
        for level in method["levels"]:
            low, high = level["quality"][1:]
            assert low <= level["quality"][0] <= high
    assert {p["id"] for p in found["panels"]} >= {"data", "frontier", "methods", "costs"}


@pytest.mark.parametrize("method", ["max_prob", "routing", "auto"])
def test_rows_that_fare_otherwise_are_shown_of_whatever_is_shown_first(few, method):
    data = cache(1600, cost_kind="standalone", metadata={"names": ["a", "b", "c", "d"]})
    given = {"p.json": po.fit(data, 4.0, method)} if method != "max_prob" else None
    labels = data.splits["pool"].array("labels")
    found = page_of(
        data, [] if method == "max_prob" else None, given, samples=lambda row: {"text": str(row)}
    )
    shown = next(p for p in found["panels"] if p["id"] == "changes")
    against = "d alone" if method == "max_prob" else "max_prob"
    assert shown["title"] == f"Against {against}"
    assert shown["items"] or any("no sample is shown" in note for note in found["notes"])
    for item in shown["items"] or ():
        now, before, label = re.findall(r"\d+", dict(item["facts"])["answer"])
        assert int(label) == labels[int(item["text"])]
        assert (now == label) == item["title"].startswith("better") and (before == label) != (
            now == label
        )


def test_costs_and_shares_are_of_all_rows_and_qualities_of_those_with_a_label(few):
    rng = np.random.default_rng(1)
    costs = np.cumsum(rng.random((1200, 4)) + 0.1, axis=1)
    labels = np.where(costs[:, 0] < 0.8, rng.integers(0, 5, 1200), -1)
    data = cache(1200, labels=labels, costs=costs)
    found = page_of(data, ["margin", "always"])
    explorer, table = found["explorer"], Tables(data).get("test")
    known, table_of_fit = int((labels[data.rows("test")[1]] >= 0).sum()), Tables(data).get("fit")
    assert (explorer["rows"], explorer["labelled"]) == (600, known)
    assert f"600 rows of test, {known} labelled" in found["subtitle"]
    near([one["cost"] for one in explorer["exits"]], table.mean_costs)
    near(explorer["full"]["cost"], table.mean_costs[-1])
    always = next(m for m in explorer["methods"] if m["label"] == "always")
    assert always["at"][-1] >= 0  # the largest budget is met, though labelled rows cost less
    assert not any("left out at" in note for note in found["notes"])
    for end in table_of_fit.mean_costs[[0, -1]]:  # as errors and pages print it
        for printed in (float(f"{end:.6g}"), f"{end:.6g} ms"):
            assert po.fit(data, printed, "always").budget == pytest.approx(end, rel=1e-5)


def test_unlabelled_rows_are_said_and_not_failed_on(few):
    rows = cache(600)
    outputs, labels = rows.splits["pool"].array("outputs"), rows.splits["pool"].array("labels")
    splits = {
        "fit": {"outputs": outputs[:300], "labels": labels[:300]}, "test": {"outputs": outputs[300:]},
    }  # fmt: skip
    data = po.from_arrays(costs=[1, 2, 4, 8], unit="ms", splits=splits)
    found = page_of(data)
    assert found["explorer"] is None and found["verdict"] is None
    assert any("no row of test has a label" in note and "--test" in note for note in found["notes"])
    assert found["panels"][0]["id"] == "data"


def test_names_are_told_as_they_are_and_figures_escape_them(few):
    evil = "</script><img src=x onerror=alert(1)>{rows}"
    data = cache(
        metadata={"names": [evil, "b", "c", "d"], "class_names": [evil, "x", "y", "z", "w"]}
    )
    found = page_of(data, ["margin"], {evil: po.fit(data, 3.0, "max_prob").policy}, title=evil)
    assert found["explorer"]["exits"][0]["name"] == evil and found["title"] == evil
    assert evil in found["explorer"]["classes"]["names"]
    figures = [p["figure"] for p in found["panels"]] + [
        v for p in found["panels"] for _, v in p["views"] or ()
    ]
    assert "<img" not in json.dumps(figures)


def test_a_method_that_cannot_meet_some_budgets_is_left_out_there(few):
    found = page_of(cache(rows=800), ["always:exit=2"])
    at = found["explorer"]["methods"][-1]["at"]
    assert at == sorted(at) and {*at} == {-1, 0}  # exit 2 costs 4, and budgets begin at 1
    assert sum("always:exit=2 left out" in note for note in found["notes"]) == 1
    assert found["panels"][2]["id"] == "methods"  # and no row of it where it cannot be
    told = found["panels"][2]["table"]
    lines = zip(told["rows"], told["budget"], strict=True)
    assert {budget < 4 for row, budget in lines if row[0] == "always:exit=2"} == {False}


def test_samples_are_small_pictures_and_texts(tmp_path):
    (tmp_path / "0.png").write_bytes(PNG)
    (tmp_path / "1.png").write_bytes(b"<svg onload='alert(1)'/>")
    (tmp_path / "2.jpg").write_bytes(b"\xff\xd8\xff" + bytes(EACH))
    (tmp_path / "3.txt").write_text("two\nlines\x1b[31m")
    found = Samples(str(tmp_path))
    assert base64.b64decode(found(0)["image"].removeprefix("data:image/png;base64,")) == PNG
    assert found(1) == found(2) == found(9) == {}
    assert "\x1b" not in found(3)["text"] and "two" in found(3)["text"]
    assert [note.split(" is not shown")[0] for note in found.notes] == ["1.png", "2.jpg"]
    for i in range(10, 12 + MOST):
        (tmp_path / f"{i}.png").write_bytes(PNG)
    assert sum("image" in found(i) for i in range(10, 12 + MOST)) == MOST - 1
    (tmp_path / "t.csv").write_text("text,other\nhello,1\nworld,2\n")
    table = Samples(f"{tmp_path}/t.csv:text")
    assert table(1) == {"text": "world"} and table(2) == {}
    refuses("column.*one of text, other.*Got", Samples, f"{tmp_path}/t.csv:none")
    refuses("a folder, or FILE:COLUMN", Samples, str(tmp_path / "none"))


@pytest.mark.parametrize("pooled", [True, False])
def test_changed_rows_show_their_own_samples(few, run, tmp_path, pooled):
    rows = cache(1600).splits["pool"]
    outputs, labels = rows.array("outputs"), rows.array("labels").copy()
    labels[::7] = -1
    shares = {"shares": {"fit": 0.5, "test": 0.5}} if pooled else {}
    parts = {"pool": slice(None)} if pooled else {"fit": slice(0, 800), "test": slice(800, 1600)}
    with po.CacheWriter(tmp_path / "cache", costs=cache(60).costs, **shares) as writer:
        for name, some in parts.items():
            writer.append(name, outputs[some], labels[some])
    texts = [f"text {i}" for i in range(1600)]  # of the rows in the order imported
    mine = texts if pooled else texts[800:]
    for name, lines in {"mine": mine, "torn": mine[1:], "twice": mine + mine}.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["text", *lines]) + "\n")
    found = page_of(
        data := po.open_cache(tmp_path / "cache"), ["margin:answer=combined"],
        samples=Samples(f"{tmp_path}/mine.csv:text", rows=len(mine)),
    )  # fmt: skip
    items = next(p for p in found["panels"] if p["id"] == "changes")["items"]
    of = data.rows("test")[1] + (0 if pooled else 800)
    assert len(items) > 3
    for item in items:
        row = int(item["text"].split()[1])
        assert row in of and dict(item["facts"])["answer"].endswith(f"(label {labels[row]})")
        where = f"{row} of the pool" if pooled else f"{row - 800} of test"
        assert item["title"].partition(": row ")[2] == where
    for name in ("torn", "twice"):
        code, _, err = run("report", tmp_path / "cache", "--samples", f"{tmp_path}/{name}.csv:text")
        assert code == 2 and f"with the {len(mine):,} rows of" in err and "order imported" in err


def test_the_command_writes_a_page_and_replaces_none_but_its_own(few, run, tmp_path):
    data = cache(600)
    rows = data.splits["pool"]
    with po.CacheWriter(tmp_path / "cache", costs=data.costs) as writer:
        for name, some in (("fit", slice(0, 300)), ("test", slice(300, 600))):
            writer.append(name, rows.array("outputs")[some], rows.array("labels")[some])
    for budget, name in ((3.0, "a.json"), (5.0, "b.json")):
        po.fit(po.open_cache(tmp_path / "cache"), budget, "margin").save(tmp_path / name)
    files = tmp_path / "a.json", tmp_path / "b.json"
    code, out, _ = run(
        "report", tmp_path / "cache", "--policies", *files, "--out", tmp_path / "r.html"
    )
    assert code == 0 and "wrote" in out
    page = (tmp_path / "r.html").read_text()
    assert "a.json" in page and "b.json" in page
    command = ("report", tmp_path / "cache", "--methods", "margin", "--out")
    assert run(*command, tmp_path / "r.html")[0] == 0
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    code, _, err = run(*command, tmp_path / "mine.html")
    assert (
        code == 2
        and "which is none" in err
        and (tmp_path / "mine.html").read_text() == "<html>mine</html>"
    )
    code, _, err = run(
        "report", tmp_path / "cache", tmp_path / "cache", "--out", tmp_path / "s.html"
    )
    assert code == 2 and "two or more models" in err
    code, _, err = run(
        "report", tmp_path / "cache", "--risk", "drop<=5%", "--out", tmp_path / "s.html"
    )
    assert code == 2 and "calibrate" in err


def test_a_missing_package_is_said_before_the_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(po.PolicyOptError, match=r"jinja2.*policyopt\[report\]"):
        po.report(None)
