"""What pages of explanations, certificates, simulations, studies and monitors hold: in the form that pages draw."""

import json

import numpy as np
import pytest
from conftest import ROOT

import policyopt as po
from policyopt._page import panels
from policyopt._replay import replay
from policyopt._report.calibration import calibration_records, observe
from policyopt._report.explanation import explain_rows as explain

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
    return po.Tables(po.open_cache(ROOT / "cache/fashion_mnist"))


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
    assert by_id["changes"]["items"][0]["title"] == f"worse: row {worse[0]}"
    drawn = json.dumps(by_id["classes"]["figure"])
    assert "<b>" not in drawn and "&lt;b&gt;" in drawn  # plotly reads marks
    assert any("<b>" in row[0] for row in by_id["classes"]["table"]["rows"])  # the page escapes


def test_calibration_panels(tables):
    policy = po.fit(tables.data, "40%", "max_prob", tables=tables).policy
    table = tables.get("test")
    seen, exits = observe(table, policy.answer), replay(policy, table).exit
    records = calibration_records("none", seen.confidence, seen.correct, exits)
    columns = {"none": (seen.confidence, seen.correct, exits)}
    (one,) = check_panels(panels.calibration_panels(records, columns)).values()
    assert len(one["views"]) == len(records) // 2 == len(one["table"]["rows"])
    assert one["table"]["rows"][0][2] == pytest.approx(
        [records[0][of] for of in ("ece", "ece_low", "ece_high")], abs=1e-5
    )


def test_colours_go_from_early_to_late():
    assert panels.shades(1) == ["#f2c14e"] and len(set(panels.shades(12))) == 12
    assert panels.plain(np.array([np.nan, 1 / 3])) == [None, 0.333333]
