"""Routing from logs: what is explored, how it is written and read, and what is learnt. Oracle: all models' outputs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from test_routing import specialists, zoo

import policyopt as po
from policyopt._cache.data import COST_PREFIX
from policyopt._cache.writer import CacheWriter
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime import DecisionLog
from policyopt.runtime._errors import InputError
from policyopt.runtime._outputs import with_columns
from policyopt.runtime._routing import routing_to_dict


def seen_by(table):
    """Return the outputs of all models as policies look at them."""
    every = table.log_prob() if table.whole else None
    outputs = enumerate(table.statistics.outputs())
    return {m: o if every is None else with_columns(o, every[:, m]) for m, o in outputs}


def served(policy, table, out, told=None, tail=0.0):
    """Return the censored cache that a policy's service of all rows would leave, without its log."""
    n, k = len(table), table.exits
    found = policy.follow(seen_by(table), np.arange(n))
    outputs = np.stack([table.outputs(m, np.arange(n)) for m in range(k)], axis=1)
    cost = po.Cost("cost", table.unit, table.standalone_costs, "standalone")
    length = np.random.default_rng(0).lognormal(0, tail, (n, 1))
    paid = (
        {COST_PREFIX + "cost": length / length.mean() * table.standalone_costs.cumsum()}
        if tail
        else {}
    )
    cost = po.Cost("cost", table.unit, None, "standalone", cascade=True) if tail else cost
    more = {"shares": {"fit": 1.0}, "overwrite": True, "metadata": told}
    with CacheWriter(out, costs=cost, **more) as writer:
        writer.add("pool", {
            "outputs": np.where(found.called[:, :, None], outputs, 0.0), "labels": table.statistics.labels,
            "called": found.turn, "propensity": found.propensity, "group": np.arange(n),
            **paid,
        })  # fmt: skip
    return po.open_cache(out)


def write_log(path, policy, data, rows, judged=False):
    """Serve some rows one by one and log them; return their routes."""
    log, source, routes = DecisionLog(path, policy), next(iter(data.splits.values())), []
    for n in range(rows):
        route = policy.start(n)
        while (model := route.next) is not None:
            if data.kind == "summary":
                names = ("prediction", "confidence")
                policy.step({name: source.array(name)[n, model] for name in names}, route)
            else:
                policy.step(source.array("outputs")[n, model], route)
        log.write(f"request {n}", route, latency=1.5)
        label = int(source.array("labels")[n])
        if judged:
            right = [said["prediction"] == label for said in route.said.values()]
            log.feedback(f"request {n}", correct=right)
        else:
            log.feedback(f"request {n}", label=label)
        routes.append(route)
    return routes


@pytest.fixture(scope="module")
def first():
    """A policy of few rows, which explores."""
    return po.fit(zoo(300, seed=5), "35%", "routing", explore=0.2).policy


def test_decisions_are_as_likely_as_is_said(first):
    table = Tables(zoo(40)).get("fit")
    draws, k = 100_000, table.exits
    for row in (1, 2):
        seen = {m: output.take(np.full(draws, row)) for m, output in seen_by(table).items()}
        found = first.follow(seen, np.arange(draws))
        paths = np.where(found.called, found.propensity, 1.0).cumprod(axis=1)[:, -1]
        for m in range(k):
            begins = found.turn[:, m] == 1
            weight = begins / found.propensity[:, m]
            assert abs(weight.mean() - 1) < 5 * weight.std() / draws**0.5  # of each model: 1
            for then in {*range(k)} - {m}:
                both = begins & (found.turn[:, then] == 2)
                pair = both / (found.propensity[:, m] * found.propensity[:, then])
                assert abs(pair.mean() - 1) < 5 * pair.std() / draws**0.5
        assert (paths > 0).all() and (paths <= 1).all()
        explored = (found.propensity < 0.5).any(axis=1).mean()
        assert 0.1 < explored < 0.3  # `explore`, about
    plain = first.exploring(0.0)
    assert replay(plain, table).cost.mean() < replay(first, table).cost.mean()
    assert (plain.follow(seen_by(table), np.arange(len(table))).propensity == 1).all()


def test_answers_as_texts_are_learnt_from_by_the_right_text(tmp_path):
    """A label is held against what each model called said, by what texts mean; a log of it is as one of `correct`."""
    policy = po.fit(specialists(400), "50%", "routing", explore=0.3).policy
    path, expected = tmp_path / "decisions.jsonl", []
    log = DecisionLog(path, policy)
    for n in range(60):
        route = policy.start(n)
        while (model := route.next) is not None:
            said = [None, "Oslo.", '"the OSLO"', "Rome"][(n + model) % 4]
            policy.step({"answer": said, "confidence": 0.6}, route)
            expected.append((n + model) % 4 in (1, 2))
        log.write(n, route)
        log.feedback(n, label="oslo")
    rows = po.import_sources(path, tmp_path / "log").data.splits["pool"]
    order = rows.array("called")
    found = [
        rows.array("correct")[n, m] for n in range(60) for m in np.argsort(order[n]) if order[n, m]
    ]
    assert found == expected
    for wrong in ({"label": " "}, {"label": 1.5}, {"label": "a", "correct": [True]}):
        with pytest.raises(InputError, match=r"label|feedback"):
            log.feedback(3, **wrong)
    for name, latency in (
        (None, 1.0),
        (True, 1.0),
        ("x" * 5000, 1.0),
        ("a", float("nan")),
        ("a", -1),
    ):
        with pytest.raises(InputError, match=r"'id'|'latency'"):
            log.write(name, route, latency=latency)
    log.feedback(3, label=1)  # a number, of answers that are texts
    with pytest.raises(InputError, match="right answer's text, or correct"):
        po.import_sources(path, tmp_path / "other")


@pytest.mark.parametrize("kind", ["logits", "summary", "judged"])
def test_a_log_becomes_a_cache_of_what_was_called(kind, tmp_path):
    data = zoo(400) if kind == "logits" else specialists(400)
    policy = po.fit(data, "50%", "routing").policy.exploring(0.3)
    policy.save(tmp_path / "policy.json")
    policy = po.load_policy(tmp_path / "policy.json")
    assert policy.explore == 0.3
    path = tmp_path / "decisions.jsonl"
    routes = write_log(path, policy, data, 150, kind == "judged")
    source = next(iter(data.splits.values()))
    with path.open("a") as file:
        for text in ('"prop', '"said": [{"prediction": 1}', '"said": [{"answer": "}'):
            file.write(f'{{"id": "request 150", "called": [0], {text}\n')  # the machine stops
        file.write('{"id": "request 150", "correct": [true]}\n{"id": "request 151", "called": [{}')
    late = policy.start(0)
    with pytest.raises(InputError, match="has ended"):
        DecisionLog(path, policy).write("late", late)
    report = po.import_sources(path, tmp_path / "log")
    assert sum("torn" in note for note in report.notes) == 4 and report.data.censored
    assert report.data.metadata["policies"] == [routing_to_dict(policy)["sha256"]]
    rows = report.data.splits["pool"]
    order, likely = rows.array("called"), rows.array("propensity")
    for n, route in enumerate(routes):
        called = [*route.seen]
        assert np.flatnonzero(order[n])[np.argsort(order[n][order[n] > 0])].tolist() == called
        assert likely[n, called] == pytest.approx(route.propensity[:-1], abs=1e-12)
    name = "outputs" if kind == "logits" else "confidence"
    mine = source.array(name)[:150]
    assert rows.array(name)[order > 0] == pytest.approx(mine[order > 0], rel=1e-5)
    if kind == "judged":
        right = source.array("prediction") == source.array("labels")[:, None]
        assert (rows.array("correct") == (right[:150] & (order > 0))).all()
    else:
        assert (rows.array("labels") == source.array("labels")[:150]).all()
    po.open_cache(tmp_path / "log")


def test_what_is_wrong_in_a_log_is_told_by_its_line(tmp_path):
    policy, path = (
        po.fit(specialists(300), "50%", "routing", explore=0.3).policy,
        tmp_path / "log.jsonl",
    )
    write_log(path, policy, specialists(300), 30)
    lines = path.read_text().splitlines()
    request = json.loads(lines[3])
    bad = {
        "called": [7], "propensity": [0.0] * len(request["propensity"]), "cost": [-1.0],
        "said": [{"confidence": 2.0}], "id": "request 0", "answer": "x", "more": 1,
    }  # fmt: skip
    for field, value in bad.items():
        changed = [*lines[:3], json.dumps({**request, field: value}), *lines[4:]]
        path.write_text("\n".join(changed) + "\n")
        with pytest.raises(InputError, match=r"line 4|line 2"):
            po.import_sources(path, tmp_path / "cache")
    for text in (
        lines[:1],
        lines[1:],
        [*lines, f'{{"id": "request 1", "label": {2**70}}}'],
        [*lines, lines[0].replace("ms", "s")],
        [lines[0].replace('"names": []', '"names": ["a"]'), *lines[1:]],
        [lines[0].replace('"names": []', '"names": ["a", "a", 7]'), *lines[1:]],
    ):
        path.write_text("\n".join(text) + "\n")
        with pytest.raises(InputError):
            po.import_sources(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    log = DecisionLog(path, policy)  # each of these would make the file one that is refused
    for told in ({"label": 7}, {"label": -2}, {"correct": [True] * 9}, {"correct": []}):
        with pytest.raises(InputError, match=r"'label'|'correct'"):
            log.feedback("request 1", **told)
    path.write_text("\n".join(lines) + "\n")
    for id in ("nobody", 7):  # of a file before this one
        log.feedback(id, label=1)
    report = po.import_sources(path, tmp_path / "cache")
    assert any(
        note.startswith("feedback left out") and note.endswith(": 2") for note in report.notes
    )
    assert (report.data.splits["pool"].array("labels") >= 0).all()


@pytest.mark.parametrize("foreign", [False, True])
def test_texts_that_are_names_of_classes_are_logged_as_their_numbers(foreign, tmp_path):
    """Whatever way classes are told, by name or by number, cache and refit are the same; others count beyond them."""
    whole, names = specialists(600), ["Accra", "Bern", "Cairo", "The Hague", "Lima", "Oslo"]
    source = next(iter(whole.splits.values()))
    arrays = {name: source.array(name) for name in ("prediction", "confidence", "labels")}
    names = names[: 1 + int(max(arrays["prediction"].max(), arrays["labels"].max()))]
    cost = po.Cost("cost", "ms", tuple(whole.cost().values), "standalone", cascade=True)
    told = {"metadata": {"class_names": names}, "shares": {"fit": 1.0}}
    with CacheWriter(tmp_path / "data", costs=cost, kind="summary", **told) as writer:
        writer.add("pool", arrays)
    policy = po.fit(po.open_cache(tmp_path / "data"), "50%", "routing", explore=0.3).policy
    found, spelled = [], [f' "{name.upper()}." ' for name in names]
    for texts in (False, True):
        path = tmp_path / f"{texts}.jsonl"
        log = DecisionLog(path, policy)
        for n in range(600):
            route, label = policy.start(n), int(arrays["labels"][n])
            if foreign and n < 5:
                label = [len(names), 0][n % 2]  # the models' own answer, or a class
            while (model := route.next) is not None:
                at, sure = arrays["prediction"][n, model], arrays["confidence"][n, model]
                if foreign and n < 5:
                    at = len(names)
                answer = [*spelled, "Ulan Bator"][at]
                said = {"answer": answer} if texts else {"prediction": at}
                last = policy.step({**said, "confidence": sure}, route)
            assert not texts or last.prediction == [*names, "Ulan Bator"][route.prediction]
            log.write(n, route)
            if texts:
                log.feedback(n, label=[*spelled, "Ulan Bator"][label])
            elif label < len(names):
                log.feedback(n, label=label)
            else:
                with path.open("a") as file:
                    file.write(f'{{"id": {n}, "label": {label}}}\n')
        data = po.import_sources(path, tmp_path / f"{texts}").data
        assert data.metadata["class_names"] == names
        again = po.fit(data, "50%", "routing").policy
        assert again.provenance["class_names"] == names
        found.append((data.fingerprint, routing_to_dict(again)["arms"]))
    assert found[0] == found[1]


def test_what_a_log_states_is_true_of_new_rows(first, tmp_path):
    test = Tables(zoo(20_000, seed=99)).get("test")
    off, outside = [], 0
    for seed in range(6):
        whole = zoo(16_000, seed=10 + seed)
        log = served(first, Tables(whole).get("fit"), tmp_path / "log")
        fitted = po.fit(log, "35%", "routing")
        real = replay(fitted.policy, test)
        low, high = fitted.policy.provenance["expected_quality_95"]
        outside += not low <= real.quality.mean() <= high
        off.append((fitted.quality - real.quality.mean()) / ((high - low) / 4))
        assert abs(real.cost.mean() / fitted.expected.cost - 1) < 0.1
    assert abs(np.mean(off)) < 2.5 / len(off) ** 0.5 and outside <= 2


def test_exploring_gives_back_the_gain_and_nothing_else_does(first, tmp_path):
    whole = zoo(16_000, seed=3)
    tables = Tables(whole)
    fit, test = tables.get("fit"), tables.get("test")
    log = served(first, fit, tmp_path / "log")
    found = {
        "whole": po.fit(whole, "35%", "routing"), "log": po.fit(log, "35%", "routing"),
        "fixed": po.fit(whole, "35%", "always"),
    }  # fmt: skip
    value = {name: replay(one.policy, test).quality.mean() for name, one in found.items()}
    assert value["log"] - value["fixed"] >= 0.8 * (value["whole"] - value["fixed"]) > 0.01
    blind = served(first.exploring(0.0), fit, tmp_path / "blind")
    with pytest.raises(InputError, match=r"exploring\(0.1\), .*: about [0-9,]+ requests"):
        po.fit(blind, "35%", "routing")
    for other in ("always", "optimal_stopping", "max_prob"):
        with pytest.raises(InputError, match="routing"):
            po.fit(log, "35%", other)
    with pytest.raises(InputError, match="models that were not called are unknown"):
        po.evaluate(found["log"], log, "fit")


def test_refit_closes_the_loop(first, run, tmp_path):
    first.save(tmp_path / "first.json")
    of = {"policies": [routing_to_dict(first)["sha256"]]}
    served(first, Tables(zoo(8000, seed=4)).get("fit"), tmp_path / "log", of)
    code, shown, _ = run("info", str(tmp_path / "log"))
    assert code == 0 and "a log of decisions" in shown
    files = ["--policy", str(tmp_path / "first.json"), "--out", str(tmp_path / "next.json")]
    code, shown, told = run("refit", str(tmp_path / "log"), *files)
    assert code == 0, told
    after = po.load_policy(tmp_path / "next.json")
    assert after.explore == first.explore and "explores: about 20.0 % of requests" in told
    assert "another policy" not in told
    assert after.provenance["budget"] == first.provenance["budget"]
    assert "is below" not in told and "the log tells the cost" not in told
    better = replace(first, provenance={**first.provenance, "expected_quality": 1.2})
    better.save(tmp_path / "first.json")
    told = run("refit", str(tmp_path / "log"), *files)[2]
    assert "below 120.00 %, which --policy states" in told
    assert "below" not in run("refit", str(tmp_path / "log"), *files, "--budget", "30%")[2]
    served(first, Tables(zoo(8000, seed=4)).get("fit"), tmp_path / "log", of, tail=2.5)
    assert "the log tells the cost to within" in run("refit", str(tmp_path / "log"), *files)[2]
    files[1] = files[3]
    served(first, Tables(zoo(8000, seed=4)).get("fit"), tmp_path / "log", of)
    assert "the log is of another policy" in run("refit", str(tmp_path / "log"), *files)[2]


def test_exploring_where_the_usual_model_is_free_has_no_share_of_its_cost():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 300)
    logits = rng.normal(size=(300, 2, 5)) + np.array([[9.0], [1.0]]) * np.eye(5)[labels][:, None]
    data = po.from_arrays(logits, labels, [0, 1], unit="ms", cost_kind="standalone")
    (note,) = po.fit(data, 0.5, "routing", explore=0.3).policy.provenance["notes"]
    assert "exploring costs 0" in note and "%" not in note
