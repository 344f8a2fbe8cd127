"""Routing policies in every form: random ones and fitted ones decide as numpy does; what is damaged is refused."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import rules
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import signed
from random_routes import random_routing

import policyopt as po
from policyopt._export.bundle import TARGETS, read_export, write_bundle
from policyopt._export.c_compiler import NoCompiler, compiler
from policyopt._export.c_header import routes_source
from policyopt._export.graph import evaluate
from policyopt._export.python_file import python_source
from policyopt._export.rounding import ULPS
from policyopt._export.routes import RouteGraphs, golden_routes, run_graphs, run_steps, walked
from policyopt._export.verify import verify
from policyopt.runtime._errors import CheckError, InputError
from policyopt.runtime._routing import routing_from_dict, routing_to_dict

KINDS = ["logits", "probabilities", "logit", "probability", "summary"]
POLICIES = {
    "kind": st.sampled_from(KINDS), "timed": st.booleans(), "arms": st.integers(1, 2), "query": st.booleans(),
}  # fmt: skip


def zoo(rows=900, models=4, paid=False):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, rows)
    logits = rng.normal(size=(rows, models, 5))
    logits += np.linspace(1.5, 3.0, models)[:, None] * np.eye(5)[labels][:, None]
    costs = {"costs": 2.0 ** np.arange(models)}
    if paid:
        costs = {
            "sample_costs": {"ms": rng.gamma(4, size=(rows, models)) * 2.0 ** np.arange(models)}
        }
    return po.from_arrays(logits, labels, unit="ms", cost_kind="standalone", **costs)


def exported(policy, folder, data=None, targets=TARGETS, rows=80):
    golden = golden_routes(policy, data, rows=rows)
    write_bundle(policy, folder, list(targets), golden)
    return golden


def ran(folder):
    """Verify a folder; return how far gains were off by runtime, of those that are here."""
    found = {v.runtime: v for v in verify(folder)}
    lacking = {"onnx": find_spec("onnxruntime") is None, "c": not has_compiler()}
    for name, v in found.items():
        assert bool(v.absent) == lacking.get(name, False), v
        assert v.absent or v.rows == len(read_export(folder).golden)
    return {name: v.error for name, v in found.items() if not v.absent}


def has_compiler():
    try:
        return bool(compiler())
    except NoCompiler:
        return False


@pytest.mark.parametrize("query", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_decides_as_numpy(kind, query, tmp_path):
    """Two arms, costs of each call, and queries: equal in Python to the bit, elsewhere within the ulps stated."""
    pytest.importorskip("onnx")
    policy = random_routing(3, kind, timed=True, arms=2, query=query, models=4)
    golden = exported(policy, tmp_path / "out")
    assert len(golden) == 80 and (golden.expected.model >= 0).sum(axis=1).max() > 1
    errors = ran(tmp_path / "out")
    assert {n: errors[n] for n in ("numpy batch", "numpy step", "python")} == dict.fromkeys(
        ("numpy batch", "numpy step", "python"), 0.0
    )
    assert all(error <= ULPS["c"] for error in errors.values())


@settings(max_examples=40, deadline=None, database=None)
@given(st.integers(0, 2**32 - 1), st.fixed_dictionaries(POLICIES))
def test_random_policies_step_as_they_decide_and_as_their_graphs(seed, how):
    policy = random_routing(seed, **how)
    golden = golden_routes(policy, rows=25, seed=seed % 7)
    walk, scale, _ = walked(policy, golden)
    stepped = run_steps(policy, golden)
    graphs = [
        lambda known, graph=graph: dict(zip(graph.outputs, said(graph, known), strict=True))
        for graph in RouteGraphs(policy).graphs()
    ]
    by_graphs = run_graphs(policy, golden, *graphs)
    for other, ulps in ((stepped, 0), (by_graphs, ULPS["onnx"])):
        np.testing.assert_array_equal(walk.model, other.model)
        np.testing.assert_array_equal(walk.prediction, other.prediction)
        assert (np.abs(walk.gain - other.gain) <= ulps * 2.0**-23 * scale).all()


def said(graph, known):
    values = evaluate(graph, {n: known[n] for n in graph.inputs}, ())
    n = len(known["sample"])
    return [np.broadcast_to(values[id(x)], (n, *x.shape[1:])) for x in graph.outputs.values()]


@pytest.mark.parametrize("paid", [False, True])
def test_a_fitted_policy_on_the_rows_of_its_cache(paid, tmp_path):
    """Steps, batches and every form on outputs, numbers and costs as the cache has them."""
    data, rows = zoo(paid=paid), 60
    policy = po.fit(data, "35%", "routing").policy
    golden = exported(policy, tmp_path / "out", data, ["python", "c"], rows)
    table = po.Tables(data).get("test")
    outputs = table.source.array("outputs")[table.places[golden.sample]]
    for m, told in zip(policy.active_exits, golden.inputs, strict=True):
        np.testing.assert_array_equal(told["logits"], outputs[:, m])
        if paid:
            np.testing.assert_array_equal(told["cost"], table.standalone_costs[golden.sample, m])
    assert policy.needs_costs == paid and len(golden) == rows
    assert ran(tmp_path / "out")["python"] == 0
    rules.assert_valid(json.loads((tmp_path / "out" / "manifest.json").read_text()))


def test_the_commands_ship_a_fitted_policy(run, tmp_path):
    pytest.importorskip("onnx")
    data = zoo()
    arrays = {n: data.splits["pool"].array(n) for n in ("outputs", "labels")}
    np.savez(tmp_path / "zoo.npz", logits=arrays["outputs"].swapaxes(0, 1), labels=arrays["labels"])
    cost = ["--costs", "1,2,4,8", "--unit", "ms", "--cost-kind", "standalone"]
    place = {n: tmp_path / n for n in ("zoo.npz", "cache", "p.json", "out")}
    po.fit(data, "35%", "routing").save(place["p.json"])
    for command in (
        ["import", place["zoo.npz"], "--out", place["cache"], *cost],
        ["export", place["p.json"], "--out", place["out"], "--cache", place["cache"]],
    ):
        code, _, err = run(*command)
        assert code == 0, err
    code, told, err = run("verify", place["out"], "--format", "json")
    assert code == 0, err
    assert {r["runtime"] for r in json.loads(told)} == {"numpy batch", "numpy step", *TARGETS}
    code, told, err = run("verify", place["p.json"], place["cache"], "--format", "json")
    assert code == 0 and {r["error_ulps"] for r in json.loads(told)} == {0.0}, err
    rules.assert_valid(json.loads((place["out"] / "onnx" / "manifest.json").read_text()))


def test_a_policy_that_was_changed_is_found(tmp_path):
    policy = po.fit(zoo(), "35%", "routing").policy
    exported(policy, tmp_path / "out", targets=["python"])
    assert set(ran(tmp_path / "out")) == {"numpy batch", "numpy step", "python"}
    one = policy.arms[0].standings[0]
    other = replace(one, weights=one.weights + 0.3)
    arm = replace(policy.arms[0], standings=(other, *policy.arms[0].standings[1:]))
    changed = replace(policy, arms=(arm, *policy.arms[1:]))
    export = read_export(tmp_path / "out")
    with pytest.raises(CheckError, match="golden row"):
        list(verify(replace(export, policy=changed)))


def test_the_python_file_needs_numpy_alone_and_pastes_no_name(tmp_path):
    """Names and units of anyone are texts in the file, whatever they hold."""
    names = ('"""', "'); raise SystemExit('run') #", "*/ #error", "{x}\\")
    policy = random_routing(5, timed=True, models=4, names=names)
    policy = replace(policy, unit='*/"""\\')
    (tmp_path / "policy.py").write_text(python_source(policy))
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('p', 'policy.py');"
        "m = u.module_from_spec(s); s.loader.exec_module(m); r = m.start(3); print(m.POLICY.names);"
        "assert not any('policyopt' in n for n in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == repr(names)
    assert 'UNIT "\\052/\\042\\042\\042\\134"' in routes_source(policy)


def test_torn_files_are_refused_and_not_valid():
    for policy in (
        po.fit(zoo(), "35%", "routing").policy,
        random_routing(3, query=True, arms=2, models=4),
    ):
        content = json.loads(json.dumps(routing_to_dict(policy)))
        rules.assert_valid(content)
        torn = [
            {n: v for n, v in content.items() if n != name} for name in content if name != "query"
        ]
        torn += [{**content, "extra": 1}, {**content, "version": 9}, {**content, "arms": []}]
        torn += [
            {**content, "kind": "regression"},
            {**content, "costs": [-1.0]},
            {**content, "share": 2},
        ]
        standing = {**content["arms"][0]["standings"][0], "called": [0, 0]}
        torn.append({**content, "arms": [{"first": 0, "standings": [standing]}]})
        for wrong in torn:
            assert not rules.validator("routing.schema.json").is_valid(wrong), wrong
            with pytest.raises(InputError):
                routing_from_dict(signed(wrong) if "sha256" in wrong else wrong)


def test_what_cannot_be_exported_is_refused(tmp_path, monkeypatch):
    policy = random_routing(3, models=4)
    with pytest.raises(InputError, match="rows"):
        golden_routes(policy, rows=0)
    monkeypatch.setattr("policyopt._export.routes._MOST", 10)
    with pytest.raises(InputError, match="--to python"):
        exported(policy, tmp_path / "out", targets=["c"])
    exported(policy, tmp_path / "out", targets=["python"])
