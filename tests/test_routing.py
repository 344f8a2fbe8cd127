"""Routing: which model to ask first and next. Oracles: the optimum by enumeration, and one sample at a time."""

import dataclasses
import json
import re
from itertools import product

import numpy as np
import pytest

import policyopt as po
from policyopt._cache.importers import import_sources
from policyopt._cli.watch import _losses
from policyopt._export.bundle import write_bundle
from policyopt._methods import choosing
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._routing import ROUTING, routing_from_dict, routing_to_dict
from policyopt.runtime._several import policy_of
from policyopt.runtime._text import same_answer


def zoo(rows, models=4, seed=0, signal=1.0, unit="ms", **more):
    """Return a cache of classifiers whose noise is their own, the later ones better, paid one by one."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, rows)
    signal = signal * np.linspace(1.5, 3.0, models)[:, None] * np.eye(5)[labels][:, None]
    logits = rng.normal(size=(rows, models, 5)) + signal
    return po.from_arrays(
        logits, labels, 2.0 ** np.arange(models), unit=unit, cost_kind="standalone", **more
    )


def fits_of(data, budgets, method="routing"):
    return po.make_method(method).fit_path(Tables(data).get("fit"), budgets)


def specialists(rows):
    """Return records of a cheap model whose confidence says who knows the answer: itself, model 1, or model 2."""
    splits = {}
    for seed, name in enumerate(("fit", "test")):
        rng = np.random.default_rng(seed)
        kind, labels = rng.permutation(np.arange(rows) % 3), rng.integers(0, 4, rows)
        right = kind[:, None] == np.arange(3)
        confidence = np.full((rows, 3), 0.5)
        confidence[:, 0] = np.array([0.9, 0.6, 0.3])[kind]
        splits[name] = {
            "prediction": np.where(
                right, labels[:, None], (labels[:, None] + 1 + np.arange(3)) % 4
            ),
            # Equal rows would be one group.
            "confidence": confidence + 0.01 * rng.random(confidence.shape),
            "labels": labels,
        }
    paid = {"costs": [1.0, 2.0, 2.0], "unit": "ms", "cost_kind": "standalone"}
    return po.from_arrays(splits=splits, kind="summary", classes=4, **paid)


def optimum(budget):
    """Return the best quality of all policies of `specialists` within a mean cost, mixtures included."""
    points = []
    ways = {(): (0.0, []), (1,): (2.0, [1]), (2,): (2.0, [2]), (1, 2): (4.0, [1, 2])}
    for plan in product(ways, repeat=3):  # of each kind, who is asked after model 0
        cost = 1.0 + np.mean([ways[way][0] for way in plan])
        points.append(
            (cost, np.mean([kind in (0, *ways[way][1]) for kind, way in enumerate(plan)]))
        )
    points = np.array(sorted(points))
    return max(
        np.interp(budget, [a[0], b[0]], [a[1], b[1]])
        for a in points
        for b in points
        if a[0] <= budget <= b[0]
    )


def test_who_knows_is_asked():
    data = specialists(1500)
    for budget in (1.4, 5 / 3, 2.2, 7 / 3):
        fitted = po.fit(data, budget, "routing")
        outcome = po.evaluate(fitted, data)
        best = optimum(outcome.cost.mean())
        assert outcome.quality.mean() >= 1 / 3 + 0.95 * (best - 1 / 3)
        assert outcome.quality.mean() <= best + 0.01
        assert outcome.cost.mean() <= 1.06 * budget  # rows of the fit and of the test are chance


@pytest.mark.parametrize("kind", ["logits", "summary", "query"])
def test_steps_decide_as_batches(kind):
    asked = np.random.default_rng(0).normal(size=(900, 70)) * 1e3
    data = specialists(900) if kind == "summary" else zoo(900)
    if kind == "query":
        right = zoo(900).splits["pool"].array("labels") == 0
        data = zoo(900, query=asked + 3e3 * right[:, None])
    policy = po.fit(data, "35%", "routing").policy
    rows = Tables(data).get("test").take(np.arange(60))
    outcome = replay(policy, rows)
    raw = rows.source
    for n, place in enumerate(rows.places):
        query = data.splits["pool"].array("query")[place] if kind == "query" else None
        route, cost = policy.start(n, query), 0.0
        while (model := route.next) is not None:
            if kind != "summary":
                output = raw.array("outputs")[place, model]
            else:
                names = ("prediction", "confidence")
                output = {name: raw.array(name)[place, model] for name in names}
            told, cost = policy.step(output, route), cost + policy.costs[model]
        assert told.exit and told.prediction == outcome.prediction[n]
        assert cost == pytest.approx(outcome.cost[n]) and route.seen.keys() <= set(range(4))
    with pytest.raises(InputError, match="has ended"):
        policy.step(output, route)


@pytest.mark.parametrize("method", ["routing", "max_prob", "agreement_cascade"])
def test_a_step_takes_answers_as_texts_and_decides_as_their_numbers_do(method, tmp_path):
    """A table of texts, spelled anyhow and at times missing: each served row costs and answers what its replay does."""
    rng = np.random.default_rng(0)
    right = rng.random((600, 3)) < [0.5, 0.7, 0.9]
    sure = np.clip(np.where(right, 0.7, 0.45) + 0.15 * rng.normal(size=right.shape), 0, 1).round(3)
    forms = ("city {}", "City {}.", '"CITY  {}"', "the city {}", "")
    texts = [
        [
            forms[rng.integers(5)].format(n if right[n, k] else n + rng.integers(600, 602))
            for k in range(3)
        ]
        for n in range(600)
    ]
    rows = [
        {
            "model": f"m{k}",
            "sample": n,
            "answer": texts[n][k],
            "confidence": sure[n, k],
            "label": f"City {n}",
        }
        for n, k in np.ndindex(600, 3)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = {"costs": [1.0, 3.0, 9.0], "unit": "ct", "cost_kind": "standalone"}
    data = import_sources([tmp_path / "a.jsonl"], tmp_path / "cache", **options).data
    policy = po.fit(data, "60%", method).policy
    table = Tables(data).get("test")
    outcome = replay(policy, table)
    for n, place in enumerate(table.places.tolist()):
        state, cost = policy.start(n), 0.0
        while (model := state.next) is not None:
            said = {
                "answer": texts[place][model] or (None, "", float("nan"))[n % 3],
                "confidence": sure[place, model],
            }
            if method == "routing":
                told, cost = policy.step(said, state), cost + policy.costs[model]
            else:
                told, cost = policy.step(model, said, state), policy.costs[model]
                assert policy.answer_now(state).prediction == told.prediction
        assert cost == pytest.approx(outcome.cost[n])
        number = outcome.prediction[n]  # the model that gave it first
        wanted = None if number < 0 else texts[place][number]
        assert (told.prediction and same_answer(told.prediction)) == (
            wanted and same_answer(wanted)
        )
        assert (wanted is not None and same_answer(wanted) == f"city {place}") == outcome.quality[n]
    with pytest.raises(InputError, match="a text, or None"):
        policy.step(*[0][: method != "routing"], {"answer": 3, "confidence": 0.5}, policy.start())


@pytest.mark.parametrize("method", ["subset:most=2", "optimal_stopping", "family"])
def test_fixed_lists_say_which_model_is_next(method):
    """One loop for all: by what the state asks for, one by one and side by side, rows end where `decide` ends them."""
    data = zoo(600, metadata={"names": [*"abcd"]})
    outputs = data.splits["pool"].array("outputs")
    level = [np.arange(600) % 2] if method == "family" else []
    fit = po.fit_family if level else po.fit
    policy = fit(data, *[["30%", "70%"], "max_prob"] if level else ["40%", method]).policy
    found, alive = policy.decide(outputs, *level), np.arange(600)
    for n in range(40):
        state, asked = policy.start(*(one[n].item() for one in level), n), []
        while (k := state.next) is not None:
            asked.append(state.model)
            told = policy.step(k, outputs[n, k], state)
            assert (told.next, told.model) == (state.next, state.model)
        assert told.exit and k is None and asked[-1] == "abcd"[found.exit[n]]
    state, exits = policy.start(*level, alive), np.full(600, -1)
    while (k := state.next) is not None:
        told = policy.step(k, outputs[alive, k], state)
        exits[alive[told.exit]], alive = k, alive[~told.exit]
        state.keep(~told.exit)
    assert (exits == found.exit).all()


def test_classifiers_are_as_often_right_as_they_are_sure():
    data = zoo(1500, signal=0.5)
    fitted = po.fit(data, "60%", "routing")
    policy, rows = fitted.policy, Tables(data).get("test").take(np.arange(500))
    sure, outputs = [], rows.source.array("outputs")
    for place in rows.places:
        route = policy.start(0)
        while (model := route.next) is not None:
            told = policy.step(outputs[place, model], route)
        sure.append((told.confidence, told.prediction == rows.source.array("labels")[place]))
    sure, right = np.array(sure).T
    for part in (sure < np.median(sure), sure >= np.median(sure)):
        assert abs(sure[part].mean() - right[part].mean()) < 0.08
    assert repr(policy) == f"RoutingPolicy(4 models, {len(policy.arms)} arms, ms)"
    assert len(repr(fitted)) < 300 and len(repr(po.fit(data, "60%", "max_prob").policy)) < 60


def test_marks_are_as_often_right_as_they_are_sure():
    """Where one model's answer is given its own confidence tells, wherever its columns stand."""
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.1, 0.95, (4000, 3))
    right = rng.random((4000, 3)) < sure * [0.6, 0.85, 1.0]
    rows = {"fit": slice(2000), "test": slice(2000, 4000)}
    splits = {n: {"correct": right[at], "confidence": sure[at]} for n, at in rows.items()}
    paid = {"costs": [1.0, 3.0, 9.0], "unit": "ms", "cost_kind": "standalone"}
    found = po.evaluate(
        po.fit(data := po.from_arrays(splits=splits, kind="summary", **paid), "60%", "routing"),
        data,
    )
    several = (found.turn > 0).sum(axis=1) > 1
    assert (found.answerer[several] > 0).any()
    for part in (several, ~several):
        assert abs(found.confidence[part].mean() - found.quality[part].mean()) < 0.06


def test_free_texts_are_joined_as_classes_are(tmp_path):
    """Answers that are texts of their own question are votes; so is their worth known, and what new rows get."""
    rng, n = np.random.default_rng(0), 1600
    ok, label = rng.random((n, 3)) < [0.6, 0.65, 0.7], rng.integers(0, 8, n)
    said = np.where(ok, label[:, None], (label[:, None] + rng.integers(1, 8, (n, 3))) % 8)
    sure = np.clip(0.35 + 0.3 * ok + 0.1 * rng.normal(size=(n, 3)), 0.01, 0.99)
    outcomes = []
    for form in ("city {0}", "city {0} of {1}"):
        lines = ["sample,model,answer,confidence,label"]
        lines += [
            f"{i},m{k},{form.format(said[i, k], i)},{sure[i, k]},{form.format(label[i], i)}"
            for i in range(n) for k in range(3)
        ]  # fmt: skip
        (tmp_path / "a.csv").write_text("\n".join(lines))
        out, paid = tmp_path / f"c{len(outcomes)}", {"unit": "ct", "cost_kind": "standalone"}
        data = import_sources([tmp_path / "a.csv"], out, costs="1,2,4", **paid).data
        outcomes.append(po.evaluate(po.fit(data, "100%", "routing"), data))
    classes, texts = outcomes
    assert (texts.answerer[(texts.turn > 0).sum(axis=1) > 2] < 0).all()
    assert abs(texts.quality.mean() - classes.quality.mean()) < 0.01
    assert texts.quality.mean() > ok[:, 2].mean() + 0.03


@pytest.mark.parametrize("method", ["routing", "max_prob"])
def test_a_model_without_an_answer_is_the_least_sure_in_batch_and_step(method):
    data = specialists(600)
    policy = po.fit(data, "60%", method).policy
    rows = {"prediction": np.array([-1, 2, 1]), "confidence": np.array([0.0, 0.9, 0.6])}
    gaps = {"prediction": np.array([np.nan, 2, 1]), "confidence": np.array([np.nan, 0.9, 0.6])}
    one, other = (policy.decide([given] * 3) for given in (rows, gaps))
    for name in ("exit", "prediction", "cost"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    least = policy.step(
        *[0][: method != "routing"], {"prediction": 2, "confidence": 0.0}, policy.start()
    )
    for said in (
        {"prediction": None, "confidence": None},
        {"prediction": -1, "confidence": np.nan},
        {"prediction": 2, "confidence": None},  # as import takes empty cells of tables
        {"prediction": 2, "confidence": float("nan")},
    ):
        state = policy.start()
        told = policy.step(*[0][: method != "routing"], said, state)
        assert not told.exit and told.prediction == (-1 if said["prediction"] != 2 else 2)
        assert told.prediction == -1 or told.confidence == least.confidence < 0.5


#: How often four models, costs 1, 2, 2 and 10, are right on three topics: each has its own best buy.
TOPICS = np.array([[0.5, 0.5, 0.5], [0.9, 0.3, 0.3], [0.3, 0.9, 0.3], [0.8, 0.8, 0.9]])


def by_topic(rows, seed=0, width=3, query=True):
    """Return marks of the four models, no confidences, and a query that tells the topic, noisily where it is wide."""
    rng = np.random.default_rng(seed)
    topic = rng.integers(0, 3, rows)
    right = rng.random((rows, 4)) < TOPICS[:, topic].T
    told, paid = np.eye(3)[topic], np.array([1.0, 2, 2, 10])
    if width > 3:  # and calls have prices of their own
        paid = paid * rng.gamma(20, 1 / 20, size=(rows, 4))
        told = told @ np.random.default_rng(9).normal(size=(3, width))
        told += rng.normal(size=(rows, width))
    more = {"query": told} if query else {}
    return po.from_arrays(correct=right, costs=paid, unit="ct", cost_kind="standalone", **more)


def best_by_topic(cost):
    """Return the best quality of a first model by topic within a mean cost, by all assignments and their mixtures."""
    paid = np.array([1.0, 2, 2, 10])
    plans = [np.array(plan) for plan in product(range(4), repeat=3)]
    points = sorted((paid[p].mean(), TOPICS[p, range(3)].mean()) for p in plans)
    return max(
        np.interp(cost, [a, b], [p, q]) for a, p in points for b, q in points if a <= cost <= b
    )


@pytest.mark.parametrize("width", [3, 200])
def test_the_topic_decides_the_first_model(width, tmp_path):
    data, blind = (by_topic(4000, width=width, query=query) for query in (True, False))
    budgets = [1.4, 4.0]
    without = [po.evaluate(one, blind).quality.mean() for one in fits_of(blind, budgets)]
    for method in ("routing", "router") if width == 3 else ("router",):
        for budget, fitted, other in zip(
            budgets, fits_of(data, budgets, method), without, strict=True
        ):
            outcome = po.evaluate(fitted, data)
            best = best_by_topic(outcome.cost.mean())
            assert best - 0.03 <= outcome.quality.mean() <= best + 0.02
            assert outcome.cost.mean() <= 1.05 * budget
            assert outcome.quality.mean() >= other + 0.12
    told = data.splits["pool"].array("query")
    asked = [fitted.policy.start(n, told[n]).next for n in range(200)]  # of the last, one call
    assert asked == fitted.policy.follow(
        dict(enumerate(Tables(data).get("pool").take(np.arange(200)).statistics.outputs())),
        np.arange(200), query=told[:200],
    ).exit.tolist()  # fmt: skip
    fitted.save(tmp_path / "router.json")
    read = po.load_policy(tmp_path / "router.json")
    assert asked == [read.start(n, told[n]).next for n in range(200)]
    content = routing_to_dict(read)
    for change in (
        {"width": 0.0}, {"points": [[0.0]]}, {"weights": content["query"]["weights"][1:]},
        {"more": 1}, {"axes": []}, {"center": "abc"}, None,
    ):  # fmt: skip
        torn = {k: v for k, v in content.items() if k not in ("format", "version", "query")}
        torn |= {} if change is None else {"query": {**content["query"], **change}}
        with pytest.raises(InputError):
            routing_from_dict(ROUTING.signed(**torn))
    with pytest.raises(InputError, match="query' must be given: "):
        fitted.policy.start(0)
    for wrong in (told[0, 1:], told[0] * np.nan, "who?"):
        with pytest.raises(InputError, match="query' must be"):
            fitted.policy.start(0, wrong)
    with pytest.raises(InputError, match="left out"):
        fits_of(blind, [2.0])[0].policy.start(0, told[0])
    with pytest.raises(InputError, match="key query"):
        po.fit(blind, 2.0, "router")


def test_the_length_decides_the_price():
    """Two models pay by the length of a question, which tells nothing of what they know: the dearer has short ones."""
    rng = np.random.default_rng(0)
    length = rng.choice([0.2, 1.8], 4000)
    right = rng.random((4000, 2)) < [0.6, 0.9]
    paid = length[:, None] * [1.0, 10.0] * rng.gamma(50, 1 / 50, (4000, 2))
    told = np.c_[np.log(length), rng.normal(size=(4000, 3))]
    data = po.from_arrays(correct=right, costs=paid, unit="ct", cost_kind="standalone", query=told)
    outcome = po.evaluate(fits_of(data, [1.9], "router")[0], data)
    assert outcome.cost.mean() <= 2.1 and outcome.quality.mean() >= 0.72  # 0.75; without, 0.63


def test_saved_and_read(tmp_path):
    data = zoo(900)
    fitted = po.fit(data, "35%", "routing")
    fitted.save(tmp_path / "policy.json")
    outputs = data.splits["pool"].array("outputs")
    mine, read = fitted.policy, po.load_policy(tmp_path / "policy.json")
    for name in ("exit", "prediction", "cost"):
        assert (getattr(mine.decide(outputs), name) == getattr(read.decide(outputs), name)).all()
    content = routing_to_dict(mine)
    for change in ({"share": 7.0}, {"unit": "s"}, {"arms": []}):
        with pytest.raises(InputError):
            routing_from_dict({**content, **change})

    def twice(torn):
        one = torn["arms"][0]["standings"][0]
        one["actions"] += one["actions"][:1]
        one["weights"] += one["weights"][:1]

    for tear, words in (
        (lambda torn: torn["arms"][0]["standings"].pop(), "hangs together"),
        (twice, "hangs together"),
        (lambda torn: torn.update(names=[*"aabc"]), "each its own"),
        (lambda torn: torn.update(knots=[[0.0] * 99] * 4), "or fewer of each model"),
    ):
        tear(torn := json.loads(json.dumps(content)))
        torn = {k: v for k, v in torn.items() if k not in ("sha256", "format", "version")}
        with pytest.raises(InputError, match=words):
            routing_from_dict(ROUTING.signed(**torn))


def test_more_is_no_worse_and_budgets_are_kept():
    data = zoo(6000)
    fit, test = (Tables(data).get(name) for name in ("fit", "test"))
    budgets = [1.0, 1.5, 2.5, 4.0, 7.0, 12.0]
    fits = fits_of(data, budgets)
    seen = [replay(one.policy, test) for one in fits]
    cost, quality = np.array([(o.cost.mean(), o.quality.mean()) for o in seen]).T
    assert (cost <= 1.03 * np.array(budgets)).all()
    assert (np.diff([one.quality for one in fits]) >= -1e-3).all() and quality[-1] > quality[
        0
    ] + 0.05
    alone = test.quality.mean(axis=0)
    for m, price in enumerate(fit.standalone_costs):  # never worse than one model for all
        assert np.interp(price, cost, quality) >= alone[m] - 0.01


def test_a_zoo_has_more_models_than_sets_can_be_listed_of():
    data = zoo(1500, models=9)
    fitted = po.fit(data, "1%", "routing")
    outcome = po.evaluate(fitted, data)
    assert outcome.cost.mean() <= 1.05 * fitted.budget
    one = po.evaluate(po.fit(data, budget="1%", method="max_prob"), data)
    assert outcome.quality.mean() >= one.quality.mean()


def test_what_cannot_be_routed_is_refused(tmp_path):
    fitted, saved = po.fit(zoo(600), "50%", "routing"), tmp_path / "policy.json"
    fitted.save(saved)
    rng = np.random.default_rng(0)
    network = po.from_arrays(
        rng.normal(size=(300, 2, 3)), rng.integers(0, 3, 300), [1, 4], unit="ms"
    )
    with pytest.raises(InputError, match="paid one by one"):
        po.fit(network, "60%", "routing")
    with pytest.raises(BudgetError, match="budget"):
        po.fit(zoo(300), 0.5, "routing")
    with pytest.raises(BudgetError, match="accuracy"):
        po.fit(zoo(900), accuracy="99.9%", method="routing")
    with pytest.raises(InputError, match="load_policy reads it"):
        po.load_family(saved)
    with pytest.raises(InputError, match="with thresholds"):  # what other commands ask for
        policy_of(fitted, single=True)


def test_models_that_tell_nothing_are_no_fault(tmp_path):
    """Confidences that speak against the label, few rows of no signal: finite, and the best model is asked."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 1000)
    against = np.array([2.0, 2, 4])[:, None] * np.eye(4)[(labels + 1) % 4][:, None]
    logits = rng.normal(size=(1000, 3, 4)) + against
    logits[:, 2] = rng.normal(size=(1000, 4))
    data = po.from_arrays(logits, labels, [1, 2, 8], unit="ms", cost_kind="standalone")
    fitted = po.fit(data, "100%", "routing")
    fitted.save(tmp_path / "policy.json")
    alone = Tables(data).get("test").quality.mean(axis=0)
    assert po.evaluate(fitted, data).quality.mean() >= alone.max() - 0.05
    for seed in range(5):
        few = rng.normal(size=(60, 2, 3)), rng.integers(0, 3, 60), [1, 3]
        noise = po.from_arrays(*few, unit="ms", cost_kind="standalone", seed=seed)
        po.fit(noise, "60%", "routing").save(tmp_path / "noise.json")


def test_every_budget_from_the_cheapest_model_on_can_be_met(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 1200)
    logits = (
        rng.normal(size=(1200, 3, 5)) + np.array([1, 2, 3])[:, None] * np.eye(5)[labels][:, None]
    )
    far = po.from_arrays(logits, labels, [1, 10, 5000], unit="ct", cost_kind="standalone")
    for budget in (1.0, 3.0, 40.0):
        fitted = po.fit(far, budget, "routing")
        assert po.evaluate(fitted, far).cost.mean() <= (2.0 if budget > 3 else 1.3) * budget
        low, high = fitted.policy.provenance["expected_cost_95"]
        assert 1.0 <= low <= high <= 5011
    paid = rng.gamma(4, size=(1200, 3)) * [0, 2, 4]
    free = po.from_arrays(
        logits, labels, sample_costs={"ct": paid}, unit="ct", cost_kind="standalone"
    )
    for fitted in fits_of(free, np.array([1.0, 3.0])):
        fitted.save(tmp_path / "free.json")
        assert fitted.policy.needs_costs and fitted.expected.cost > 0.5


def test_what_is_wrong_is_said():
    data = zoo(600)
    fitted = po.fit(data, "50%", "routing")
    policy, outputs = fitted.policy, data.splits["pool"].array("outputs")[:4]
    network = po.from_arrays(outputs[[0, 1, 2, 3] * 90], [0, 1, 2] * 120, [1, 2, 4, 8], unit="ms")
    with pytest.raises(InputError, match="paid one by one"):
        po.evaluate(fitted, network)
    for costs in (np.ones((3, 3)), "abc", [np.nan] * 4, [-1.0] * 4, np.ones((4, 1))):
        with pytest.raises(InputError, match="costs"):
            policy.decide(outputs, costs=costs)
    for sample in ("a", 2**70, 1.5):
        with pytest.raises(InputError):
            policy.start(sample)
    with pytest.raises(InputError, match="cost"):
        policy.step(outputs[0, 0], policy.start(), cost="x")
    with pytest.raises(InputError, match=r"policy\.step\(output, route\)"):
        policy.step(0, outputs[0, 0], policy.start())
    family = po.PolicyFamily((policy,))
    with pytest.raises(InputError, match=r"step\(state\.next, output, state\)"):
        family.step(outputs[0, 0], family.start(0))
    content = routing_to_dict(policy)
    content["arms"][0]["standings"][-1]["powers"] = [1.0, 1.0, 1.0, 1.0, 1.0]
    for change in ({}, {"classes": 10**25}, {"costs": [1e308] * 4}, {"seed": -1}, {"unit": "m\ns"}):
        given = {k: v for k, v in {**content, **change}.items() if k not in ("format", "version")}
        with pytest.raises(InputError):
            routing_from_dict(ROUTING.signed(**given))


def test_commands_show_routing_and_refuse_what_needs_thresholds(run, room):
    """A fit tells who is asked first; ways, calls and costs of rows are told; the rest names a next step."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 800)
    logits = (
        rng.normal(size=(800, 3, 5))
        + np.array([1.5, 2.0, 3.0])[:, None] * np.eye(5)[labels][:, None]
    )
    for k, name in enumerate(("small", "mid", "large")):
        np.save(room / f"{name}.npy", logits[:, k])
    np.save(room / "labels.npy", labels)
    files = [room / f"{name}.npy" for name in ("small", "mid", "large")]
    paid = ["--costs", "1,2,4", "--unit", "ms", "--cost-kind", "standalone"]
    code, _, err = run(
        "import", "--exits", *files, "--labels", room / "labels.npy", "--out", room / "zoo", *paid
    )
    assert code == 0, err
    policy = room / "routing.json"
    fit = ["fit", room / "zoo", "--method", "routing", "--out", policy]
    code, out, _ = run(*fit, "--budget", "50%", "--format", "json")
    assert code == 0
    (record,) = json.loads(out)
    assert record["thresholds"] is None and set(record["asked_first"]) <= {"small", "mid", "large"}
    code, out, _ = run("run", policy, *files, "--format", "json")
    rows = json.loads(out)
    for row in rows:
        own = {"small": 1.0, "mid": 2.0, "large": 4.0}
        assert row["cost"] == sum(own[name] for name in row["asked"])
        assert row["answer_of"] in (*row["asked"], "joined")
    (room / "models").mkdir()  # listed as large, mid, small: read as the policy has them
    for file in (*files, room / "labels.npy"):
        (room / "models" / file.name).write_bytes(file.read_bytes())
    assert json.loads(run("run", policy, room / "models", "--format", "json")[1]) == rows
    code, out, _ = run("explain", policy, room / "zoo", "--out", room / "seen", "--format", "json")
    record = json.loads(out)
    ways = {tuple(one["asked"]): one for one in record["ways"]}
    assert sum(one["share"] for way, one in ways.items() if len(way) == 1) == pytest.approx(
        1, abs=0.03
    )
    stop = sum(one["stop"] * one["cost"] for one in ways.values() if one["stop"])
    assert stop == pytest.approx(record["realised_cost"], abs=0.2)
    assert sum(one["stop"] for one in ways.values()) + record["rare"] == pytest.approx(1)
    assert (room / "seen" / "routes.png").stat().st_size > 5000
    assert run("explain", policy, room / "zoo")[1].count(" > ") >= 1
    for arguments in (
        ["evaluate", policy, room / "zoo", "--by", "label"], ["info", policy], ["run", policy, *files],
        ["compare", room / "zoo", "--methods", "routing,max_prob", "--budgets", "2"],
        [*fit, "--accuracy", "80%"], ["certify", room / "zoo", "--policy", policy, "--risk", "drop<=60%", "--out", room / "c.json"],
        ["verify", room / "c.json", room / "zoo"], ["certify", room / "zoo", "--method", "routing", "--risk", "drop<=9%", "--family", "--out", room / "c.json"],
        ["verify", room / "c.json", room / "zoo"], ["info", room / "c.json", "--level", "0"],
        [*fit, "--accuracy", "80%"], [*fit, "--budget", "50%", "--set", "explore=0.2"],
    ):  # fmt: skip
        assert run(*arguments)[0] == 0, arguments
    assert "explores: about 20.0 % of requests" in run("evaluate", policy, room / "zoo")[2]
    for arguments in (
        ["calibration", room / "zoo", "--policy", policy], ["risk-coverage", policy, room / "zoo"],
        [*fit, "--budgets", "3", "--calibrator", "beta"], [*fit, "--budget", "50%", "--abstain", "5%"],
        [*fit, "--budget", "50%", "--max-exits", "2"], [*fit, "--budget", "50%", "--calibrator", "beta"],
        [*fit, "--budget", "50%", "--robust", "worst", "--over", "label"],
        [*fit, "--budget", "50%", "--limit", "p95<=4"],
        ["fit", room / "zoo", "--method", "subset:inner=routing", "--budget", "50%"],
    ):  # fmt: skip
        code, _, err = run(*arguments)
        assert code == 2 and ("--method subset" in err or "--method auto" in err), (arguments, err)


def test_commands_take_a_level_of_routing(run, room):
    np.savez(room / "zoo.npz", **{
        "logits": zoo(900).splits["pool"].array("outputs").swapaxes(0, 1),
        "labels": zoo(900).splits["pool"].array("labels"), "costs": 2.0 ** np.arange(4),
    })  # fmt: skip
    assert (
        run("import", room / "zoo.npz", "--out", room / "zoo", "--cost-kind", "standalone", "--unit", "USD")[0] == 0
    )  # fmt: skip
    file, told = room / "f.json", lambda *line: json.loads(run(*line, "--format", "json")[1])
    fits = told("fit", room / "zoo", "--budgets", "4", "--method", "routing", "--out", file)
    assert [one["level"] for one in fits] == list(range(len(fits))) and "asked_first" in fits[0]
    whole = told("evaluate", file, room / "zoo")
    assert [one["level"] for one in whole] == [one["level"] for one in fits]
    assert {"level": 1, **told("evaluate", file, room / "zoo", "--level", "1")[0]} == whole[1]
    family = po.load_family(file)
    decided = told("run", file, room / "zoo.npz", "--level", "1")
    found = family.decide(zoo(900).splits["pool"].array("outputs"), 1)
    assert [one["cost"] for one in decided] == found.cost.tolist()
    lines = {
        "explain": (file, room / "zoo"), "run": (file, room / "zoo.npz"), "export": (file, "--to", "python", "--out", room / "out"),
        "refit": (room / "zoo", "--policy", file, "--out", room / "p.json"),
    }  # fmt: skip
    for command, line in lines.items():
        code, _, err = run(command, *line)
        assert code == 2 and "given for a family" in err, (command, err)
        assert run(command, *line, "--level", "1")[0] == 0, command
    code, _, err = run("verify", file, room / "zoo")
    assert code == 2 and "'--level' must be given for a family" in err
    for level in ("1", f"{family.budgets[1] * 1000}$/1000"):
        assert run("verify", file, room / "zoo", "--level", level)[0] == 0
        assert told("evaluate", file, room / "zoo", "--level", level) == [
            {name: value for name, value in whole[1].items() if name != "level"}
        ]
    assert run("verify", room / "out", "--level", "1")[0] == 2
    code, out, _ = run("info", file)
    assert code == 0 and f"{len(family)} levels" in out and "asked first" in out
    with pytest.raises(InputError, match="Take a level"):
        write_bundle(family, room / "whole", ["python"], None)


@pytest.mark.parametrize("form", ["names", "texts", "marks"])
def test_run_takes_what_import_takes(form, run, room):
    """Names of classes, answers spelled anyhow, marks alone: `run` decides as the policy does on the cache."""
    rng, columns = (
        np.random.default_rng(0),
        ["sample", "model", "prediction", "confidence", "label"],
    )
    cities, lines, said = ["Bern", "Oslo", "Rome", "Wien"], [], {}
    for n in range(240):
        right = rng.random(3) < [0.5, 0.7, 0.9]
        for k in range(3):
            city = f"{cities[(n + 1 - right[k]) % 4]}{f' {n}' * (form == 'texts')}"
            spelled = city if form == "names" or k else f'"{city.upper()}."'
            sure = 0.5 + 0.3 * right[k] + 0.1 * rng.random()
            said[n, f"m{k}"] = spelled.strip('"')
            lines.append(
                f"{n},m{k},{spelled},{sure:.3f},{cities[n % 4]}{f' {n}' * (form == 'texts')}"
            )
        if form == "marks":
            told = f"{n % 4},{right[0]:d}"
            lines[-3:] = [f"{n},m{k},{right[k]:d},{told}" for k in range(3)]
            columns = ["sample", "model", "correct", "query_0", "query_1"]
    (room / "a.csv").write_text("\n".join([",".join(columns), *lines]))
    paid = ["--costs", "1,2,9", "--unit", "ct", "--cost-kind", "standalone"]
    assert run("import", room / "a.csv", "--out", room / "c", *paid)[0] == 0
    line = ["--budget", "50%", "--method", "routing", "--out", room / "p.json"]
    assert run("fit", room / "c", *line)[0] == 0
    code, out, err = run("run", room / "p.json", room / "a.csv", "--format", "json")
    assert code == 0, err
    pool = po.open_cache(room / "c").splits["pool"]
    summaries = {name: pool.array(name) for name in ("prediction", "confidence")}
    found = po.load_policy(room / "p.json").decide(
        [{name: array[:, k] for name, array in summaries.items()} for k in range(3)],
        query=pool.array("query") if form == "marks" else None,
    )
    rows = json.loads(out)
    assert [row["cost"] for row in rows] == found.cost.tolist()
    if form == "marks":  # nor need a step be told any
        policy, query = po.load_policy(room / "p.json"), pool.array("query")[0]
        asked = []
        for said in ({}, {"confidence": float("nan")}, {"confidence": None}):
            route = policy.start(0, query)
            while route.next is not None:
                policy.step({"prediction": -1, **said}, route)
            asked.append([*route.seen])
        assert asked[0] == asked[1] == asked[2]
    if form == "names":
        assert [row["prediction"] for row in rows] == [cities[p] for p in found.prediction]
    if form == "texts":
        assert all(same_answer(row["prediction"]).endswith(f" {row['row']}") for row in rows)
        own = [row for row in rows if row["answer_of"] != "joined"]  # in the words of whose it is
        assert own and all(r["prediction"] == said[r["row"], r["answer_of"]] for r in own)
        assert any(row["prediction"].isupper() for row in own)
        for row in rows:  # which a watch holds against labels as `import` does
            row["label"] = f"{cities[row['row'] % 4]} {row['row']}"
        lines = [json.dumps({k: row[k] for k in ("prediction", "label")}) for row in rows]
        (room / "new.jsonl").write_text("\n".join(lines))
        line = ["--risk", "error<=90%", "--state", room / "m.json"]
        assert run("watch", room / "new.jsonl", *line)[0] == 0
        losses, probability = _losses("error", [json.loads(one) for one in lines], room)
        right = pool.array("correct")
        assert len(own) > 30 and (probability == 1).all()
        assert [losses[r["row"]] for r in own] == [
            1.0 - right[r["row"], int(r["answer_of"][1:])] for r in own
        ]
        apart = [("us", "US"), ("us", "us"), ("**Us.**", "them")]  # labels that differ stay apart
        apart = [dict(zip(("prediction", "label"), pair, strict=True)) for pair in apart]
        assert _losses("error", apart, room)[0].tolist() == [1, 0, 1]


def test_auto_takes_routing_where_it_may(monkeypatch):
    """Where who knows is asked out of turn, auto routes; what needs thresholds, and exits of a network, have them."""
    data = specialists(1000)
    fitted = po.fit(data, 2.0)
    chosen = fitted.policy.provenance["chosen"]["method"]
    assert fitted.method == "auto" and chosen == "routing" and fitted.policy.asked_first == ["0"]
    assert "routing" in {one["method"] for one in fitted.policy.provenance["compared"]}

    own = choosing.compare

    def worse(rows, candidates, *more):
        found = own(rows, candidates, *more)
        return (
            dataclasses.replace(found, values=found.values - 0.2)
            if candidates == [choosing.ROUTING]
            else found
        )

    monkeypatch.setattr(choosing, "compare", worse)
    other = po.fit(data, 2.0).policy.provenance
    for told in (
        other,
        fitted.policy.provenance,
    ):  # what it came to is told where it was not taken, too
        gain, error = re.search(
            r"^routing against .*: (\S+) ± (\S+) points", told["notes"][0]
        ).groups()
        assert (told["chosen"]["method"] == "routing") == (float(gain) > -float(error))
    assert other["chosen"]["method"] != "routing"
    for same in (po.fit(data, 2.0, "auto:routes=false"), po.fit(data, 2.0, max_exits=2)):
        assert len(same.policy.thresholds) == len(same.policy.active_exits) - 1
    assert po.fit_family(data, [1.5, 2.5]).policy.levels >= 1
    network = po.Tables(
        po.from_arrays(np.zeros((300, 2, 3)) + np.eye(3)[:2], [0, 1, 2] * 100, [1, 4], unit="ms")
    )
    assert po.make_method("routing").missing_columns(network.get("fit"))


def test_what_few_rows_state_is_not_what_flatters_them():
    """Equally good models, of which few rows take some to be better: folds left out of the whole fit say by how much."""
    off = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 5, 2100)
        logits = rng.normal(size=(2100, 4, 5)) + 1.2 * np.eye(5)[labels][:, None]
        at = {"fit": slice(100), "test": slice(100, None)}
        splits = {
            name: {"outputs": logits[rows], "labels": labels[rows]} for name, rows in at.items()
        }
        paid = {"costs": [1, 2, 2, 3], "unit": "ms", "cost_kind": "standalone"}
        data = po.from_arrays(splits=splits, **paid)
        fitted = po.fit(data, "40%", "routing")
        off.append(fitted.quality - po.evaluate(fitted, data).quality.mean())
    assert abs(np.mean(off)) < 0.03


def test_own_arithmetic_is_told_where_it_matters():
    """Beside models of a thousand multiply-adds it is some percent; of more it is nothing."""
    for unit, told in (("kMACs", True), ("MMACs", False), ("ms", False)):
        policy = po.fit(zoo(300, unit=unit), "50%", "routing").policy
        assert (
            "about 112 multiply-adds a call, 11 %" in str(policy.provenance.get("notes"))
        ) == told
    with pytest.raises(InputError, match="'models of the cache' must be"):
        po.evaluate(policy, zoo(300, models=3))


def test_requests_without_a_number_draw_their_coin():
    policy = po.fit(zoo(900), "35%", "routing").policy
    assert len(policy.arms) == 2
    drawn = [policy.start().arm is policy.arms[1] for _ in range(400)]
    assert abs(np.mean(drawn) - policy.share) < 0.12
    assert all(policy.start(7).arm is policy.start(7).arm for _ in range(20))
