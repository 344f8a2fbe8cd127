"""What pages of explanations, certificates, simulations, studies and monitors hold: in the form that pages draw."""

import dataclasses
import json

import numpy as np
import pytest
from conftest import ROOT

import policyopt as po
from policyopt._page import panels, results
from policyopt._page.page import render
from policyopt._replay import replay
from policyopt._report.calibration import calibration_records, observe
from policyopt._report.explanation import explain_rows as explain
from policyopt.runtime import BudgetError, RiskMonitor
from policyopt.runtime._bandits import make_bandit
from policyopt.runtime._online.controller import Controller
from policyopt.runtime._online.serving import Online

SHIPPED = ROOT / "cache/fashion_mnist"
KINDS = {"text", "number", "percent", "points", "interval"}


def check_panels(found):
    """Every panel is as the page draws it: whole, JSON-able, described, and not too long."""
    json.dumps(found, allow_nan=False)
    assert len({one["id"] for one in found}) == len(found)
    for one in found:
        assert set(one) == {"id", "title", "words", "alt", "figure", "views", "table", "items"}
        assert one["title"] and one["words"] and one["alt"], one["id"]
        assert "{" not in one["words"] + one["alt"] + one["title"]
        assert not (one["figure"] and one["views"])
        views = one["views"] or [["", one["figure"]]]
        for drawn in (drawn for _, drawn in views if drawn):
            assert set(drawn) == {"data", "layout"} and drawn["data"], one["id"]
            for trace in drawn["data"]:
                assert all(len(v) <= 2000 for v in trace.values() if isinstance(v, list))
                x, y = trace.get("x", []), trace.get("y", [])
                assert trace["type"] in ("heatmap", "sankey") or len(x) == len(y) > 0, one["id"]
        if told := one["table"]:
            assert {head["kind"] for head in told["columns"]} <= KINDS
            for head in told["columns"]:
                assert set(head) == {"name", "kind", "digits", "title"}
            assert all(len(row) == len(told["columns"]) for row in told["rows"])
            for column in ("group", "budget"):
                assert told[column] is None or len(told[column]) == len(told["rows"])
            cells = [cell for row in told["rows"] for cell in row]
            assert all(len(cell) == 3 for cell in cells if isinstance(cell, list))
        for item in one["items"] or ():
            assert set(item) == {"title", "text", "image", "facts"}
    return {one["id"]: one for one in found}


@pytest.fixture(scope="module")
def tables():
    return po.Tables(po.open_cache(SHIPPED))


def test_explanation_panels_say_what_the_explanation_says(tables):
    policy, other = (
        po.fit(tables.data, of, "max_prob", tables=tables).policy for of in ("15%", "40%")
    )
    found = explain(policy, tables.get("test"), other)
    by_id = check_panels(panels.explanation_panels(found, ["<b>shirt</b>"]))
    assert list(by_id) == ["exits", "scores", "classes", "changes"]
    leave = by_id["exits"]["views"][0][1]["data"][0]["y"]
    assert sum(leave) == pytest.approx(1, abs=1e-5)
    assert [one["share_left"] for one in found.record["exits"]] == pytest.approx(leave, abs=1e-6)
    worse = found.record["changes"]["rows_worse"]
    assert by_id["changes"]["items"][0]["title"] == f"worse: row {worse[0]} of test"
    drawn = json.dumps(by_id["classes"]["figure"])
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn  # plotly reads marks
    assert any("<b>" in row[0] for row in by_id["classes"]["table"]["rows"])  # the page escapes


def test_calibration_panels(tables):
    policy = po.fit(tables.data, "40%", "max_prob", tables=tables).policy
    table = tables.get("test")
    seen, exits = observe(table, policy.answer), replay(policy, table).exit
    records = calibration_records("none", seen, exits)
    columns = {"none": (seen.confidence, seen.correct, exits)}
    (one,) = check_panels(panels.calibration_panels(records, columns)).values()
    assert len(one["views"]) == len(records) // 2 == len(one["table"]["rows"])
    assert one["table"]["rows"][0][2] == pytest.approx(
        [records[0][of] for of in ("ece", "ece_low", "ece_high")], abs=1e-5
    )


def test_colours_go_from_early_to_late():
    assert panels.shades(1) == ["#f2c14e"] and len(set(panels.shades(12))) == 12
    assert panels.plain(np.array([np.nan, 1 / 3])) == [None, 0.333333]


def check_page(page, kind):
    """A page holds what the contract says, and is drawn."""
    assert page["kind"] == kind and page["title"] and page["subtitle"]
    assert set(page) == {
        "kind", "title", "subtitle", "verdict", "notes", "made", "explorer", "panels"
    }  # fmt: skip
    if told := page["verdict"]:
        assert told["pays"] in (True, False, None) and told["headline"]
        assert all(isinstance(text, str) for text in told["sentences"])
    assert set(page["made"]) == {"command", "versions", "date", "facts"}
    assert render(page).startswith("<!doctype html>")
    return check_panels(page["panels"])


@pytest.fixture(scope="module")
def study():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 2000)
    noise = rng.normal(size=(2000, 2, 3))

    def model(strength):
        logits = noise + strength * np.eye(3)[labels][:, None] * [[1], [2]]
        return po.from_arrays(logits, labels, costs=[1, 4], unit="ms")

    models = {"weak": model(1.0), "<i>strong</i>": model(1.6), "twin": model(1.59)}
    return po.study(models, "40%,80%", "max_prob", join=False)


def test_a_study_says_which_model_to_deploy(study):
    page = results.study_content(study)
    by_id = check_page(page, "study")
    assert list(by_id) == ["frontiers", "deploy", "pairs"]
    deploy = by_id["deploy"]["table"]
    assert deploy["budget"] == sorted(deploy["budget"]) and len(deploy["rows"]) == 6
    for one in study.budgets:
        rows = [i for i, at in enumerate(deploy["budget"]) if at == one["budget"]]
        names = {deploy["rows"][i][1]: deploy["group"][i] for i in rows}
        assert len({names[m] for m in one["contenders"]}) == 1
        others = [g for m, g in names.items() if m not in one["contenders"]]
        assert len(set(others)) == len(others) and not set(others) & {names[one["best"]]}
    won = {one["winner"] for one in study.budgets}
    assert page["verdict"]["pays"] is (True if won - {None} else None)
    told = page["verdict"]["headline"] + " ".join(page["verdict"]["sentences"])
    assert all(name in told for name in won - {None})


def test_where_no_model_wins_the_verdict_says_so(study):
    alike = dataclasses.replace(
        study,
        budgets=[{**b, "winner": None, "contenders": list(b["quality"])} for b in study.budgets],
    )
    told = results.study_content(alike)["verdict"]
    assert told["pays"] is None and "cannot be told" in told["sentences"][0]
    assert len(told["sentences"]) == 1  # neighbours are told together
    lone = [{**b, "winner": None, "contenders": [b["best"]]} for b in study.budgets]
    told = results.study_content(dataclasses.replace(study, budgets=lone))["verdict"]
    assert "leads, which may be chance" in told["sentences"][0] and "one of" not in str(told)


def test_a_simulation(tables):
    found = po.simulate(
        tables.data, ["ucb1", "controller"], schedule="abrupt", streams=["test", "blur_medium"], rounds=400,
        repetitions=2, budget="40%", tables=tables,
    )  # fmt: skip
    by_id = check_page(results.simulation_content(found, "S"), "simulate")
    regret = by_id["simulation"]["views"][0][1]["data"]
    last = {one["name"]: one["y"][-1] for one in regret if "fill" not in one}
    assert last == pytest.approx({r["policy"]: r["regret"] for r in found.records}, rel=1e-5)
    assert [name for name, _ in by_id["arms"]["views"]] == [
        r["policy"] for r in sorted(found.records, key=lambda r: r["regret"])
    ]


def test_a_certificate_and_why_there_is_none(tables):
    found = po.certify(tables.data, ["drop<=1%", "cost<=90%"], method="max_prob", budgets=6)
    page = results.certificate_content(found.records, found.certificate, "C")
    check_page(page, "certify")
    assert page["verdict"]["pays"] is True and "drop<=1%" in page["verdict"]["headline"]
    with pytest.raises(BudgetError) as caught:
        po.certify(tables.data, "drop<=0.01%", method="max_prob", budgets=3)
    page = results.certificate_content(caught.value.levels, None, "C", str(caught.value))
    check_page(page, "certify")
    assert page["verdict"]["pays"] is False
    assert page["verdict"]["sentences"] == [str(caught.value)]


def test_a_curve_and_an_explanation(tables):
    frontier = po.curve(tables.data, ["margin", "max_prob"], 3, tables=tables)
    by_id = check_page(results.curve_content(frontier, "C"), "curve")
    assert len(by_id["curve"]["table"]["rows"]) == 6
    policy = po.fit(tables.data, "40%", "max_prob", tables=tables).policy
    found = explain(policy, tables.get("test"))
    page = results.explanation_content(found, "E", tables.get("test"))
    assert "calibration" in check_page(page, "explain")


# --- what was written while serving -----------------------------------------------------------


def written(path, requests):
    head = {
        "format": "policyopt-decisions", "version": 1, "policy": "0" * 64, "kind": "probabilities", "classes": 2,
        "unit": "ms", "costs": [1.0, 3.0], "names": ["small", "<b>large</b>"],
    }  # fmt: skip
    lines = [head]
    for i in range(requests):
        called = [0] if i < requests / 2 or i % 2 else [0, 1]
        lines.append({
            "id": i, "called": called, "propensity": [1.0] * (len(called) + 1), "said": [[0.9, 0.1]] * len(called),
            "cost": [[1.0, 3.0][m] for m in called], "answer": 0,
        })  # fmt: skip
        if i % 4 == 0:
            lines.append({"id": i, "label": int(i % 8 == 0)})
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return path


def test_a_log_against_its_budget(tmp_path):
    path = written(tmp_path / "decisions.jsonl", 400)
    assert results.is_state(path)
    kept, over, unknown = (results.monitor_content([path], b) for b in (2.5, "1.2 ms", None))
    by_id = check_page(kept, "monitor")
    assert list(by_id) == ["budget", "answers", "feedback"]
    assert [one["verdict"]["pays"] for one in (kept, over, unknown)] == [True, False, None]
    assert "1.75" in kept["verdict"]["headline"]  # half at 1, a quarter at 4, a quarter at 1
    assert by_id["budget"]["table"] is None
    alarm = check_page(over, "monitor")["budget"]["table"]["rows"][0]
    assert 200 < alarm[1] <= 400 and f"{alarm[1]:,} requests" in alarm[2]
    x = [shape["x0"] for shape in over["panels"][0]["figure"]["layout"]["shapes"]]
    assert alarm[1] in x
    answered = {row[0]: row[3] for row in by_id["answers"]["table"]["rows"]}
    assert answered == {"small": 0.75, "<b>large</b>": 0.25}
    stacked = by_id["answers"]["views"][0][1]["data"]
    assert np.sum([one["y"] for one in stacked], axis=0) == pytest.approx(1, abs=1e-4)
    assert "25.0 % have feedback" in by_id["feedback"]["words"]
    assert by_id["feedback"]["alt"].endswith("of these 50.0 % right.")


def test_saved_states_on_one_page(tables, tmp_path, run):
    family = po.fit_family(tables.data, "5", method="max_prob", tables=tables).policy.steered()
    policies = {"controller": Controller(budget=0.3), "bandit": make_bandit("ucb1")}
    paths, costs = [], []
    key, rows = tables.data.rows("test")
    outputs = np.asarray(tables.data.splits[key].array("outputs"))[rows[:300]]
    for name, steering in policies.items():
        online = Online(family, steering)
        for row in outputs:
            request = online.start()
            for k in online.family.policy.active_exits:
                if online.decide(k, row[k], request).exit:
                    break
            costs.append(online.feedback(request))
        paths.append(tmp_path / f"{name}.json")
        online.save(paths[-1])
    policy = po.fit(tables.data, "40%", "max_prob", tables=tables).policy
    watch = po.watch(policy, tables.get("calibrate"))
    monitor = RiskMonitor(0.05)
    monitor.update(np.arange(500) % 2)
    for name, state in {"drift": watch.state(), "monitor": monitor.state()}.items():
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(state))
    page = results.monitor_content(paths)
    by_id = check_page(page, "monitor")
    assert list(by_id) == ["steering-0", "steering-1", "drift-2", "promise-3"]
    assert page["verdict"]["badge"] == "Alarm" and page["verdict"]["pays"] is False
    # What the controller's price says of the mean cost is what was paid.
    assert f"mean cost {np.mean(costs[:300]):.4g} " in " ".join(page["verdict"]["sentences"])
    played = [row[2] for row in by_id["steering-1"]["table"]["rows"]]
    assert sum(played) == 300
    status, _, told = run("report", *paths, "--out", tmp_path / "page.html")
    assert status == 0 and "page.html" in told
    status, _, told = run("report", paths[0], tmp_path / "none.json", "--out", tmp_path / "p.html")
    assert status == 2 and "saved state" in told


def test_watch_draws_how_the_evidence_grew(tmp_path, run):
    rows = tmp_path / "rows.csv"
    rows.write_text("loss\n" + "".join(f"{int(i % 20 == 0)}\n" for i in range(3000)))
    where = ("--state", tmp_path / "m.json", "--report", tmp_path / "w.html")
    status, *_ = run("watch", rows, "--risk", "error<=10%", *where)
    page = (tmp_path / "w.html").read_text()
    assert status == 0 and "The promise is believed" in page
    whole = RiskMonitor(0.1)
    whole.update((np.arange(3000) % 20 == 0).astype(float))
    parts = RiskMonitor.restore(json.loads((tmp_path / "m.json").read_text()))
    assert parts.e_value == pytest.approx(whole.e_value, rel=1e-9)
    assert parts.risk == pytest.approx(whole.risk)


def test_a_page_that_is_none_of_ours_stays(tmp_path, run):
    other = tmp_path / "mine.html"
    other.write_text("<p>mine</p>")
    status, _, told = run("curve", SHIPPED, "--methods", "margin", "--report", other)
    assert status == 2 and other.read_text() == "<p>mine</p>" and "page" in told


def test_reports_of_several_caches_and_what_they_refuse(tmp_path, run, root):
    caches = [root / f"cache/training_strategies/{of}/joint/0" for of in ("plain", "residual")]
    if not caches[0].is_dir():
        pytest.skip("the shipped caches are not here")
    out = tmp_path / "study.html"
    status, _, told = run("report", *caches, "--methods", "max_prob", "--out", out)
    assert status == 0 and "study.html" in told and "Which to deploy" in out.read_text()
    status, _, told = run("report", *caches, "--policies", "p.json", "--out", out)
    assert status == 2 and "--policies" in told
    log = written(tmp_path / "decisions.jsonl", 20)
    status, _, told = run("report", log, "--risk", "drop<=1%", "--out", out)
    assert status == 2 and "--risk" in told
    data = po.open_cache(caches[0])
    po.fit(data, "50%", "max_prob").save(tmp_path / "other.json")
    status, _, told = run("report", log, "--policies", tmp_path / "other.json", "--out", out)
    assert status == 2 and "the policy that served" in told
    status, _, told = run("report", caches[0], "--budget", "2", "--out", out)
    assert status == 2 and "--budget" in told


def test_a_risk_that_is_not_shown_has_a_page_too(tmp_path, run):
    out = tmp_path / "c.html"
    status, *_ = run(
        "certify", SHIPPED, "--risk", "drop<=0.01%", "--method", "max_prob", "--budgets", "3", "--report", out,
        "--out", tmp_path / "p.json",
    )  # fmt: skip
    assert status == 3 and "No level is shown to keep the risk" in out.read_text()
    assert not (tmp_path / "p.json").exists()
