"""Results that show themselves: every class has a documented frame, a picture, an escaped table and a short line."""

import copy
import os
import re
import subprocess
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

import policyopt as po
from policyopt._report.routes import Routes
from policyopt._views import flat, view
from policyopt.runtime._shown import Shown

HOSTILE = "<script>alert(1)</script>"
NAMES = [HOSTILE, "b $x$ & 'c'", "_last"]
SHARES = {"fit": 0.4, "calibrate": 0.2, "test": 0.4}
MIX = "margin:thresholds=joint+mix=true"


def cache(n=900, seed=0, **more):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    means = 2 * np.eye(3)[labels][:, None] * np.array([[1], [1.5], [2]])
    metadata = {"names": NAMES, "per_exit": {"parameters": [1, 2, 3]}}
    given = {"costs": [1, 2, 4], "unit": HOSTILE, "split": SHARES, "metadata": metadata}
    return po.from_arrays(rng.normal(size=(n, 3, 3)) + means, labels, **{**given, **more})


def planned():
    tiers = po.Tiers(
        (po.Tier("device", ms_per_unit=8.0), po.Tier("cloud", ms_per_unit=0.1)),
        (po.Link(200.0, round_trip_ms=12.0),), 200.0, (4000.0, 4000.0),
    )  # fmt: skip
    return po.plan(tiers, po.Tables(cache()).get("fit"), po.Goal("latency", budget=15.0))


def sets_of_labels():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, (200, 3))
    logits = rng.normal(size=(200, 2, 3)) + 2 * (2 * targets - 1)[:, None]
    data = po.from_arrays(
        logits, targets, [1, 2], unit="ms", kind="multilabel", split={"test": 1.0}
    )
    return po.evaluate(po.fit(data, split="test", method="max_prob", thresholds=[0.8]), data)


def runs():
    return {f"{HOSTILE}/{s}": cache(seed=s) for s in range(2)} | {
        f"b/{s}": cache(seed=9 + s) for s in range(2)
    }


def made():
    """Return every result there is, some of other kinds besides."""
    data = cache()
    models = cache(cost_kind="standalone")
    context = np.arange(900) % 2
    branches = cache(context=context, contexts=["clean", "blur"])
    fitted, routing = po.fit(data, "50%", "max_prob"), po.fit(models, "60%", "routing")
    mixed = po.fit(data, "50%", MIX)
    frontier = po.curve(data, ["max_prob", MIX], 3, seeds=2)
    family = po.fit_family(data, 4, "max_prob")
    yield from (
        data,
        fitted,
        routing,
        mixed,
        fitted.policy,
        mixed.policy,
        routing.policy,
        frontier,
        family,
    )
    yield from (
        family.policy,
        po.fit_family(models, 3, "routing").policy,
        po.compare(frontier),
        po.verdict(frontier),
    )
    yield po.curve(data, "max_prob", "40%", abstain="5%")
    yield from (po.evaluate(one, of) for one, of in ((fitted, data), (routing, models)))
    yield from (
        po.explain(fitted, data),
        po.explain(mixed, data),
        po.explain(routing, models),
        sets_of_labels(),
    )
    yield from (po.calibration(fitted, data, maps="none,platt"), po.risk_coverage(fitted, data))
    yield from (po.exit_metrics(data), po.study(runs(), 3, "max_prob", join=False), planned())
    yield po.certify(data, ["drop<=20%", "error<=30%"], 0.9, method="max_prob")
    yield po.tune(data, "max_prob", trials=2, folds=2)
    yield po.simulate(
        data,
        ["ucb1", "fixed"],
        schedule="abrupt",
        streams="calibrate,test",
        rounds=600,
        repetitions=2,
        budget=2.0,
    )
    yield po.fit_experts(branches, 2.0, MIX).policy
    yield from ((mixes := po.fit_family(data, 3, MIX)), mixes.policy)
    yield po.evaluate(fitted, cache(group=np.arange(900) // 2))
    yield po.study({"b": data, "dear": cache(costs=[3, 5, 9])}, [2.0, 4.0], "max_prob", join=False)


@pytest.fixture(scope="module")
def results():
    return list(made())


@pytest.fixture(scope="module")
def documented(root):
    """Return the columns that docs/frames.md lists, by class and frame, as patterns; and those that it explains."""
    text = (root / "docs" / "frames.md").read_text()
    first, second = text.split("## What the columns say")
    frames, name = {}, ""
    for who, of, columns in re.findall(r"^\| (.*?) ?\| `(\w+)` \| (.*) \|$", first, re.M):
        name = re.match(r"`(\w+)`", who)[1] if who else name
        listed = re.findall(r"`(\w+±?)`", re.sub(r"and those of .*", "", columns))
        if also := re.search(r"and those of `(\w+)`'s? `(\w+)`", columns):
            listed += (
                frames[also[1], also[2]] if (also[1], also[2]) in frames else [also[1], also[2]]
            )
        frames[name, of] = listed
    for key, listed in frames.items():  # of one that stands further below
        if len(listed) == 4 and tuple(listed[2:]) in frames:
            frames[key] = [*listed[:2], *frames[tuple(listed[2:])]]
    explained = re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", second, re.M)))
    return frames, explained


def ended(columns):
    """Return the names of columns, those with intervals three times."""
    return [
        one.removesuffix("±") + end
        for one in columns
        for end in (("", "_low", "_high") if "±" in one else ("",))
    ]


def like(pattern, column):
    """Say whether a column is one of a documented name, whose ``_k`` is a number and whose ``_NAME`` any name."""
    exact = re.escape(pattern)
    exact = re.sub(r"_k$", r"_\\d+", exact)
    return re.fullmatch(re.sub(r"_NAME$", "_.+", exact), column, re.S) is not None


def test_every_class_is_there(results, documented):
    shown = {type(one).__name__ for one in results}
    assert shown == {name for name, _ in documented[0]}
    assert all(isinstance(one, Shown) for one in results)


def test_every_column_is_documented_and_every_documented_one_exists(results, documented):
    found = {}
    for one in results:
        for of in view(one).lists:
            frame = one.to_frame(of)
            found.setdefault((type(one).__name__, of), set()).update(frame.columns)
            held = [
                name
                for name in frame
                if frame[name].map(lambda v: isinstance(v, (list, dict))).any()
            ]
            assert not held, (of, held)
        assert list(one.to_frame().columns) == list(
            one.to_frame(next(iter(view(one).lists))).columns
        )
        assert len(one.to_frame())
    frames, explained = documented
    inherited = {("Study", "points"), ("Study", "exits"), ("FittedFamily", "levels")}
    assert found.keys() == frames.keys()
    wrong = {}
    for key, columns in found.items():
        patterns = ended(frames[key])
        unknown = [c for c in columns if not any(like(p, c) for p in patterns)]
        own = patterns if key not in inherited else []
        absent = [p for p in own if not any(like(p, c) for c in columns)]
        wrong |= {key: (unknown, absent)} if unknown or absent else {}
    assert not wrong, "\n".join(map(str, wrong.items()))
    named = {one.removesuffix("±") for columns in frames.values() for one in columns}
    assert named == set(explained)


def test_frames_hold_the_records(results):
    frontier = next(one for one in results if type(one).__name__ == "Frontier")
    frame = frontier.to_frame()
    assert len(frame) == len(frontier.records)
    for record, (_, row) in zip(frontier.records, frame.iterrows(), strict=True):
        assert row["realised_cost"] == record["realised_cost"] and row["method"] == record["method"]
        assert [row[f"exit_share_{k}"] for k in range(3)] == record["exit_share"]
        if record["mixture"]:
            first, second = record["mixture"]["thresholds"]
            assert row["threshold_0"] == first[0] and row["second_threshold_1"] == second[1]
            assert row["second_share"] == record["mixture"]["share"]
        else:
            bound = record["thresholds"][1]
            assert row["threshold_1"] == (bound if abs(bound) < 1e30 else np.sign(bound) * np.inf)
            assert np.isnan(row["second_share"])
    assert flat({"thresholds": [1e30, 0.5, -1e30]}) == {
        "threshold_0": np.inf, "threshold_1": 0.5, "threshold_2": -np.inf,
    }  # fmt: skip
    with pytest.raises(po.InputError, match="'of' must be one of records, exits, bound"):
        frontier.to_frame("row")


def test_plots_draw_into_given_axes_and_into_new_ones(results):
    for one in results:
        figure, (axes, other) = plt.subplots(1, 2)
        assert one.plot(axes, title="mine") is axes and axes.get_title() == "mine"
        assert axes.has_data() or axes.texts, type(one)
        assert not other.has_data()
        new = one.plot()
        assert new.figure is not figure and (new.has_data() or new.texts)
        assert new.get_xlabel() or isinstance(one, Routes)
        new.figure.canvas.draw()  # names between dollar signs are no formulas
        plt.close("all")


def test_tables_for_notebooks_escape_what_files_say(results):
    shown = ""
    for one in results:
        found = one._repr_html_()
        assert found.startswith('<div class="policyopt"><p><b>' + type(one).__name__)
        assert "<script" not in found and len(found) < 6000, type(one)
        assert 1 < found.count("<tr>") <= 9 and not re.search(
            r"<(?!/?(div|p|b|table|tr|td|th)\b)", found
        )
        shown += found
    assert "&lt;script&gt;" in shown


def test_lines_are_short_and_need_no_package_but_the_runtime(results):
    for one in results:
        line = repr(one)
        assert line.startswith(type(one).__name__) and "\n" not in line and 10 < len(line) <= 600, (
            line
        )


def test_results_are_copied(results):
    for one in results:
        again = copy.copy(one)
        assert type(again) is type(one) and repr(again) == repr(one)
    policy = copy.deepcopy(results[4])
    assert policy.to_frame().equals(results[4].to_frame())


def test_a_runtime_that_was_copied_alone_says_so(root, tmp_path):
    """It decides, has a line, and refuses frames and plots with the next step; notebooks show the line."""
    import shutil

    shutil.copytree(root / "policyopt" / "runtime", tmp_path / "product" / "exits")
    (tmp_path / "product" / "__init__.py").touch()
    script = """
from product.exits import MissingExtraError, Policy, make_score
policy = Policy(make_score("max_prob"), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
assert repr(policy) == "Policy(max_prob, 2 of 2 exits, ms)" and policy._repr_html_() is None
for call in (policy.to_frame, policy.plot):
    try:
        call()
    except MissingExtraError as error:
        assert "pip install 'policyopt[fit]'" in str(error), error
    else:
        raise AssertionError(call)
"""
    path = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_nothing_heavy_is_loaded_before_it_is_shown():
    script = """
import sys, policyopt as po
policy = po.Policy(po.make_score("max_prob"), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
repr(policy), policy._repr_html_()
loaded = {"pandas", "matplotlib", "torch", "sklearn", "optuna"} & sys.modules.keys()
assert not loaded, loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
