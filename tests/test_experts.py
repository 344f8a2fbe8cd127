"""Expert policies: routing, batch and step alike, the artifact, the division of a budget, the commands."""

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from conftest import refuses
from mutations import signed
from rules import C
from rules import policy as made
from synthetic import outputs

import policyopt as po
from policyopt._experts import divide, hull
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime import BudgetError, ExpertPolicy, Policy, load_any
from policyopt.runtime._experts import experts_to_dict
from policyopt.runtime._outputs_file import context_of, read_new
from policyopt.runtime._policy import load_policy
from policyopt.runtime._strict_json import digest_of

NAMES = ("clean", "blur", "noise")
COSTS = [1.0, 2.0, 4.0, 8.0]


def routed(n=1500, seed=0, shares=(0.5, 0.3, 0.2), exits=4):
    """Outputs of three contexts, each harder than the one before: logits, labels, context."""
    logits, labels = outputs(n, exits=exits, seed=seed)
    rng = np.random.default_rng(seed + 100)
    context = rng.choice(3, n, p=shares)
    logits = logits * np.array([1.5, 0.8, 0.4], np.float32)[context][:, None, None]
    logits += rng.normal(size=logits.shape).astype(np.float32) * context[:, None, None] * 0.4
    return logits, labels, context


def cache(n=1500, seed=0, **more):
    logits, labels, context = routed(n, seed, **more)
    return po.from_arrays(
        logits, labels, COSTS, unit="ms", context=context, contexts=NAMES,
        split={"fit": 0.5, "test": 0.5},
    )  # fmt: skip


def test_batch_step_side_by_side_and_each_policy_alone_agree():
    """Other scores, answers, mixtures and exits per context: rows wait at exits that their policy skips."""
    fitted = lambda spec, budget: po.fit(cache(), budget, spec).policy  # noqa: E731
    whole = fitted("max_prob", "50%")
    some = {"active_exits": (0, 2), "model_exits": 4}
    skips = Policy(whole.rule, whole.thresholds[:1], [1.0, 4.0], "ms", "logits", 6, **some)
    policies = fitted("patience", "30%"), skips, fitted("max_prob:answer=combined", "60%")
    policy = ExpertPolicy(NAMES, policies)
    assert policy.active_exits == (0, 1, 2, 3)
    assert ExpertPolicy(NAMES, (whole, skips, whole)).costs == pytest.approx(whole.costs)
    logits, _, context = routed(400, seed=5)
    numbers = np.arange(400) + 7
    whole = policy.decide(logits, context, numbers)
    by_list = policy.decide(list(logits.swapaxes(0, 1)), context, numbers)
    for e, one in enumerate(policies):
        rows = context == e
        alone = one.decide(logits[rows], numbers[rows])
        for found, name in product((whole, by_list), ("exit", "prediction", "cost")):
            np.testing.assert_array_equal(getattr(found, name)[rows], getattr(alone, name))
    assert set(whole.exit[context == 1]) == {0, 2}
    assert policy.decide(logits[:0], context[:0]).exit.shape == (0,)
    for i in range(100):  # one by one
        state = policy.start(int(context[i]), int(numbers[i]))
        for k in policies[context[i]].active_exits:
            decision = policy.step(k, logits[i, k], state)
            if decision.exit:
                break
        assert (k, decision.prediction) == (whole.exit[i], whole.prediction[i])
    state, left = policy.start(context, numbers), np.arange(400)
    for k in policy.active_exits:
        decision = policy.step(k, logits[left, k], state)
        gone, skipping = decision.exit, (context[left] == 1) & (k == 1)
        assert (whole.exit[left[gone]] == k).all()
        np.testing.assert_array_equal(decision.prediction[gone], whole.prediction[left[gone]])
        assert decision.answer.shape == (len(left), 6)
        assert (decision.score[skipping] == -1e30).all()
        assert (decision.prediction[skipping] == -1).all()
        left = left[~gone]
        state.keep(~gone)
    assert not len(left)


def test_routing_by_hand():
    arrays = [np.full((5, 2, 3), e, np.float32) for e in range(3)]
    np.testing.assert_array_equal(po.route(arrays, [2, 0, 1, 1, 0])[:, 1, 2], [2, 0, 1, 1, 0])
    for context in ([0, 0, 0, 0, 3], [0, 0, 0, 0, -1], [0.0] * 5, [0] * 4, [[0]] * 5):
        refuses("'context' must be", po.route, arrays, context)
    for broken in ([], [arrays[0], arrays[1][:4]], [arrays[0][0]]):
        refuses("outputs_by_expert", po.route, broken, [0] * 5)


def test_what_is_no_expert_policy_is_refused():
    one = made()
    for names in ((), ("a", "a", "b"), ("a", "b", "c d"), "abc", ("a", "b", 3)):
        refuses("'contexts' must be", ExpertPolicy, names, (one, one, one))
    policy = ExpertPolicy(NAMES, (one, one, one))
    for context in ("rain", 3, -1, True, 0.5):
        refuses("one of clean, blur, noise", policy.start, context)
    for words, call in (
        (r"'policies' must be one per context. Got 2 for 3", lambda: ExpertPolicy(NAMES, (one, one))),
        ("unit of the policies", lambda: ExpertPolicy(("a", "b"), (one, replace(one, unit="mJ")))),
        (r"from 0 to 2. Got 3 at sample 1", lambda: policy.start([0, 3])),
        ("the next exit, 0", lambda: policy.step(1, np.zeros(C), policy.start("blur"))),
        ("an exit that a policy runs", lambda: policy.step(4, np.zeros((2, C)), policy.start([0, 1]))),
    ):  # fmt: skip
        refuses(words, call)


def test_saved_and_read_back(tmp_path):
    policies = (made("max_prob"), made("patience"), made("margin"))
    policy = ExpertPolicy(NAMES, policies, {"budget": 3.0})
    policy.save(tmp_path / "p.json")
    again = load_any(tmp_path / "p.json")
    assert isinstance(again, ExpertPolicy) and again.contexts == NAMES
    assert experts_to_dict(again) == experts_to_dict(policy)
    policies[0].save(tmp_path / "one.json")
    assert isinstance(load_any(tmp_path / "one.json"), Policy)
    refuses("a policy file", load_policy, tmp_path / "p.json")
    assert not list(tmp_path.glob(".*"))


def inside(content):
    """A policy inside was changed, its own checksum left."""
    content["policies"][1]["thresholds"][0] = 0.1
    return {**content, "sha256": digest_of({k: v for k, v in content.items() if k != "sha256"})}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: {**c, "contexts": ["a", "b", "b"]}, "checksum differs"), (inside, r"policy 1 of p.json' was changed"),
        (lambda c: signed({**c, "contexts": ["a", "b", "b"]}), "different names"),
        (lambda c: signed({**c, "contexts": ["a", "b"]}), "one per context"),
        (lambda c: signed({**c, "contexts": ["a", "b", 3]}), "different names"),
        (lambda c: signed({**c, "contexts": "abc"}), "contexts in"), (lambda c: signed({**c, "policies": []}), "policies in"),
        (lambda c: signed({**c, "policies": [c["policies"][0]] * 2000}), "policies in"),
        (lambda c: signed({**c, "policies": [1, 2, 3]}), "policy 0 of"),
        (lambda c: signed({**c, "policies": [c, c, c]}), "policy 0 of"),
        (lambda c: signed({**c, "more": 1}), "unknown fields: more"),
        (lambda c: signed({k: v for k, v in c.items() if k != "provenance"}), "missing fields"),
        (lambda c: signed({**c, "version": 2}), "version"), (lambda c: signed({**c, "version": True}), "version"),
        (lambda c: [c], "a policy file"), (lambda c: {"format": "policyopt-experts", "version": np.inf}, "JSON"),
    ],
)  # fmt: skip
def test_a_changed_file_is_refused(tmp_path, change, said):
    content = json.loads(json.dumps(experts_to_dict(ExpertPolicy(NAMES, (made(),) * 3))))
    (tmp_path / "p.json").write_text(json.dumps(change(content)))
    refuses(said, load_any, tmp_path / "p.json")


def test_the_hull_is_the_upper_one():
    """Against brute force: at every cost, the best mixture of two points, as far as it pays."""
    rng = np.random.default_rng(0)
    for _ in range(25):
        n = int(rng.integers(1, 9))
        cost, value = rng.integers(0, 6, n).astype(float), rng.random(n)
        xs, ys = hull(cost, value)
        assert (np.diff(xs) > 0).all() and (np.diff(ys) > 0).all()
        if len(xs) > 2:
            assert (np.diff(np.diff(ys) / np.diff(xs)) < 0).all()
        for at in np.linspace(cost.min(), cost.max(), 13):
            best = max(
                a + (b - a) * (min(at, y) - x) / (y - x) if y > x else max(a, b)
                for (x, a), (y, b) in product(zip(cost, value, strict=True), repeat=2)
                if x <= min(at, y) and x <= y
            )
            assert np.interp(at, xs, ys) == pytest.approx(best)


def test_the_division_is_the_best_there_is():
    """Against every division on a fine grid, for two and three contexts of unequal shares."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        count = int(rng.integers(2, 4))
        hulls = [hull(np.sort(rng.random(5)) * 4 + 1, np.sort(rng.random(5))) for _ in range(count)]
        shares = rng.dirichlet(np.ones(count))
        least = sum(w * x[0] for w, (x, _) in zip(shares, hulls, strict=True))
        most = sum(w * x[-1] for w, (x, _) in zip(shares, hulls, strict=True))
        budget = float(rng.uniform(least, most))

        def worth(costs, hulls=hulls, shares=shares):
            return sum(w * np.interp(c, *h) for w, c, h in zip(shares, costs, hulls, strict=True))

        found = divide(hulls, shares, budget)
        assert shares @ found == pytest.approx(budget)
        grids = [np.linspace(x[0], x[-1], 25) for x, _ in hulls]
        best = max(worth(c) for c in product(*grids) if shares @ np.array(c) <= budget + 1e-12)
        assert worth(found) >= best - 1e-12
    easy = hull([1, 4], [0.9, 0.9])
    np.testing.assert_array_equal(divide([easy, easy], [0.5, 0.5], 3.0), [1, 1])  # buys nothing
    np.testing.assert_array_equal(divide([easy, easy], [0.5, 0.5], 0.5), [1, 1])


def test_the_budget_is_kept_by_all_contexts_together():
    """On many unseen rows; better than the same part for each."""
    logits, labels, context = routed(30_000, 2)
    few = np.arange(30_000) < 6000
    splits = {
        name: {"outputs": logits[rows], "labels": labels[rows], "context": context[rows]}
        for name, rows in (("fit", few), ("test", ~few))
    }
    data = po.from_arrays(splits=splits, costs=COSTS, unit="ms", contexts=NAMES)
    table = Tables(data).get("fit")
    for budget in (1.6, 4.0):
        found = po.fit_experts(data, budget, "max_prob:spend=all")
        outcome = po.evaluate(found.policy, data)
        low, high = found.expected.interval(rows=24_000)
        assert found.expected.cost == pytest.approx(budget, rel=0.01)
        assert low <= outcome.cost.mean() <= high
        assert outcome.quality.mean() == pytest.approx(found.quality, abs=0.02)
        rows = [table.take(np.flatnonzero(table.context == e)) for e in range(3)]
        own = po.make_method("max_prob:spend=all")
        each = [own.fit_path(mine, [budget])[0].policy for mine in rows]
        others = ExpertPolicy(NAMES, tuple(each)), po.fit(data, budget, own).policy
        right = [po.evaluate(other, data).quality.mean() for other in others]
        gains = outcome.quality.mean() - right
        assert gains[0] > 0.002 and gains[1] > 0.01
        # Measured: the hopeless context spends least, the easy one most.
        costs = [part["expected_cost"] for part in found.policy.provenance["division"]]
        assert costs == sorted(costs, reverse=True) and costs[0] > budget


def test_few_rows_fall_back_to_the_policy_of_all_rows():
    logits, labels, context = routed(400, 6)
    context = np.where(np.arange(400) < 388, 0, np.where(np.arange(400) < 395, 1, 0))
    given = {"outputs": logits, "labels": labels, "context": context}
    data = po.from_arrays(splits={"fit": given}, costs=COSTS, unit="ms", contexts=NAMES)
    found = po.fit_experts(data, 2.5, "max_prob:spend=all")
    whole = po.fit(data, 2.5, "max_prob:spend=all").policy
    assert [part.pooled for part in found.parts] == [False, True, True]
    assert [part.rows for part in found.parts] == [393, 7, 0] and np.isnan(found.parts[2].quality)
    for part in found.parts[1:]:
        np.testing.assert_array_equal(part.fitted.policy.thresholds, whole.thresholds)
    assert found.expected.cost == pytest.approx(2.5, rel=0.02)
    assert replay(found.policy, Tables(data).get("fit")).cost.mean() == pytest.approx(2.5, rel=0.02)
    tiny = {"outputs": logits[:2, -2:, :2], "labels": [0, 1], "context": [0, 1]}
    data = po.from_arrays(splits={"fit": tiny}, costs=[1, 2], contexts=("a", "b"))
    small = po.fit_experts(data, 1.5, "max_prob")
    assert all(part.pooled for part in small.parts) and small.expected.cost <= 2


def test_rows_without_a_label_are_left_out():
    """Their quality is not known: not 0, and not NaN, by which any division of the budget was as good."""
    logits, labels, context = routed(900, 6)
    known = np.random.default_rng(0).random(900) < 0.6
    given = {"outputs": logits, "labels": np.where(known, labels, -100), "context": context}
    kept = {name: array[known] for name, array in given.items()}
    data = [
        po.from_arrays(splits={"fit": part}, costs=COSTS, unit="ms", contexts=NAMES)
        for part in (given, kept)
    ]
    found, wanted = (po.fit_experts(one, 2.5, "max_prob") for one in data)
    assert found.quality == wanted.quality
    assert [part.cost for part in found.parts] == [part.cost for part in wanted.parts]


def test_costs_per_sample_and_the_ends_of_the_budget():
    logits, labels, context = routed(600, 7)
    each = np.array(COSTS) * (1 + 0.5 * context[:, None])
    data = po.from_arrays(logits, labels, each, unit="ms", context=context, contexts=NAMES)
    low, *_, high = Tables(data).get("fit").mean_costs.tolist()
    found = po.fit_experts(data, low + 1, "max_prob")
    assert found.expected.cost == pytest.approx(low + 1, rel=0.02)
    for budget in (low, high):
        assert po.fit_experts(data, budget, "max_prob").expected.cost <= budget * (1 + 1e-9)
    for budget in (0.5, 40.0):
        with pytest.raises(BudgetError):
            po.fit_experts(data, budget, "max_prob")


def test_what_cannot_be_fitted_or_replayed_is_said():
    logits, labels, context = routed(200, 1)
    bare = po.from_arrays(logits, labels, COSTS, unit="ms")
    policy = po.fit_experts(cache(600), 2.5, "max_prob").policy
    names = {"context": context, "contexts": ("clean", "rain", "noise")}
    named = po.from_arrays(logits, labels, COSTS, unit="ms", **names)
    for words, call in (
        ("one whose rows have a context", lambda: po.fit_experts(bare, 2.5, "max_prob")),
        ("'folds' must be", lambda: po.fit_experts(cache(200), 2.5, "max_prob", folds=1)),
        ("whose rows have a context", lambda: po.evaluate(policy, bare)),
        ("one that the policy knows: clean, blur, noise", lambda: po.evaluate(policy, named)),
    ):
        refuses(words, call)


def test_contexts_are_known_by_name_whatever_their_numbers(tmp_path):
    logits, labels, context = routed(500, 11)
    policy = po.fit_experts(cache(900), 2.5, "max_prob").policy
    places = {"noise": 0, "clean": 1, "blur": 2}
    other = np.array([places[NAMES[e]] for e in context])
    exits = []
    for numbers, names in ((context, NAMES), (other, list(places))):
        rows = {"outputs": logits, "labels": labels, "context": numbers}
        data = po.from_arrays(splits={"test": rows}, costs=COSTS, unit="ms", contexts=names)
        exits.append(po.evaluate(policy, data).exit)
    np.testing.assert_array_equal(*exits)
    np.savez(tmp_path / "a.npz", logits=logits, context=other, contexts=list(places))
    read, _ = read_new(tmp_path / "a.npz", policy)
    np.testing.assert_array_equal(context_of(read, policy, "a.npz"), context)
    refuses("'context' must be", context_of, {"context": np.array(1)}, policy, "b.npz")


def test_the_commands(tmp_path, run):
    logits, labels, context = routed(1200, 12)
    keys = {"contexts": np.array(NAMES), "costs": np.array(COSTS)}
    for name, part in (("val", slice(0, 700)), ("test", slice(700, None))):
        keys[f"{name}_logits"] = logits[part].swapaxes(0, 1)
        keys[f"{name}_labels"], keys[f"{name}_context"] = labels[part], context[part]
    np.savez(tmp_path / "a.npz", **keys)
    place, out, new, no = (tmp_path / name for name in ("c", "p.json", "new.npz", "no.npz"))
    np.savez(new, logits=logits[700:], context=context[700:])
    np.savez(no, logits=logits[700:])
    fit = ("fit", place, "--experts", "--method", "max_prob", "--out", out)

    def told(*words, code=0, form="json"):
        found = run(*words, "--format", form)
        assert found[0] == code and "Traceback" not in found[2]
        return json.loads(found[1]) if form == "json" and not code else "".join(found[1:])

    assert run("import", tmp_path / "a.npz", "--out", place, "--unit", "ms")[0] == 0
    found = told(*fit, "--budget", "2.5")
    assert [r["context"] for r in found] == [*NAMES, None]
    assert found[-1]["expected_cost"] == pytest.approx(2.5, rel=0.02)
    table = told(*fit, "--budget", "2.5", form="table")
    assert "noise" in table and "all" in table and "p.json" in table
    outcome = po.evaluate(load_any(out), po.open_cache(place))
    assert told("evaluate", out, place)[0]["accuracy"] == pytest.approx(outcome.quality.mean())
    assert [r["exit"] for r in told("run", out, new)] == outcome.exit.tolist()
    assert "mean cost" in told("run", out, new, form="table")
    assert "context" in told("run", out, no, code=2)
    for more, code in (("", 2), ("--budget 0.1", 3), ("--budget 2.5 --calibrator platt", 2)):
        told(*fit, *more.split(), code=code)
