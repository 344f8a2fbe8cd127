"""Consistency, distance and class-aware methods against their papers, sample by sample, and against libraries."""

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import rules
from checks import batch_of, fit_one, fit_table, pool, with_probabilities
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, cosine, jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from synthetic import cache, outputs

import policyopt as po
from policyopt._answers.calibrators import equal_mass_edges
from policyopt._methods.prototypes import classes_of, locate
from policyopt._methods.registry import make_method
from policyopt._methods.threshold import weights
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt._thresholds.problem import Problem
from policyopt._thresholds.quotas import solve_planned
from policyopt.runtime._arithmetic import distances
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._outputs import (
    ExitOutput,
    reduce_logits,
    reduce_record,
    with_columns,
    with_log_prob,
)
from policyopt.runtime._policy import first_exit
from policyopt.runtime._scores import RULES, Entropy, make_rule, score_table
from policyopt.runtime._scores.consistency import MEASURES

# Consistency.
LIBRARY = {
    "kl": entropy,
    "rekl": lambda p, q: entropy(q, p),
    "bikl": lambda p, q: entropy(p, q) + entropy(q, p),
    "js": lambda p, q: jensenshannon(p, q) ** 2,
    "kd": lambda p, q: entropy(p) + entropy(p, q),
    "rekd": lambda p, q: entropy(q) + entropy(q, p),
    "bikd": lambda p, q: entropy(p) + entropy(p, q) + entropy(q) + entropy(q, p),
    "jskd": lambda p, q: (entropy(p) + entropy(q)) / 2 + jensenshannon(p, q) ** 2,
}


def test_votes_with_geometric_shares_are_eenets_baseline_pabee():
    """Its release: votes and a little noise, the quotas of Algorithm 1, at any budget; here the same within 2 points."""
    data = cache(4000, exits=4)
    table, test = fit_table(data), Tables(data).get("test")
    stats, rng = test.statistics, np.random.default_rng(0)
    same = stats.prediction[:, :, None] == stats.prediction[:, None, :]
    votes = np.stack(
        [same[:, :, : k + 1].sum(axis=2)[:, : k + 1].max(axis=1) / (k + 1) for k in range(4)],
        axis=1,
    )
    noisy, n = votes + 1e-6 * rng.normal(size=votes.shape), len(votes)
    for budget in (2.0, 3.3, 5.0):
        fitted = fit_one("vote:thresholds=geometric+spend=all", table, budget)
        assert abs(fitted.expected.cost / budget - 1) < 0.01
        kept = fit_one("vote:thresholds=geometric+ties=kept+spend=all", table, budget)
        assert fitted.policy.mixture is None and kept.policy.mixture is not None
        found = replay(fitted.policy, test)
        shares, alive, exits = found.exit_share, np.arange(n), np.full(n, 3)
        for k in range(3):
            leave = alive[np.argsort(noisy[alive, k])[::-1][: round(shares[k] * n)]]
            exits[leave], alive = k, np.setdiff1d(alive, leave)
        theirs = stats.quality[np.arange(n), exits].mean()
        assert abs(found.quality.mean() - theirs) < 0.02


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("patience", [1, 2])
def test_similarity_stops_where_the_papers_counter_does(measure, patience):
    """PF-BERxiT and Leco: the distance is under one threshold for `patience` exits in a row."""
    logits, _ = outputs(120, exits=5, seed=4)
    p = softmax(logits.astype(float), axis=-1)
    far = np.array([[LIBRARY[measure](*pair) for pair in pairwise(row)] for row in p])
    threshold = float(np.quantile(far, 0.4))
    rule = make_rule("similarity", {"measure": measure, "patience": patience})
    scores = score_table(rule, with_probabilities(logits))
    taken = first_exit(scores, np.full(4, np.nextafter(1 / (1 + threshold), 1)))
    for n in range(120):
        counter, left = 0, 4
        for k in range(1, 5):
            counter = counter + 1 if far[n, k - 1] < threshold else 0
            if counter >= patience:
                left = k
                break
        assert taken[n] == left


INPUTS = ("berxit:inputs=features", "failure_prediction:inputs=both", "failure_prediction:inputs=features+target=true_class",
          "epnet:inputs=both+steps=60+hidden=8")  # fmt: skip


@pytest.mark.parametrize("spec", INPUTS)
def test_hidden_states_are_read_where_asked_for(spec):
    """Only they know how noisy a row is; with them, it is told. All that methods promise holds."""
    pytest.importorskip("torch" if "epnet" in spec else "numpy")
    po.check_method(spec)
    rng, (n, classes) = np.random.default_rng(0), (2400, 5)
    labels, hard = rng.integers(0, classes, n), rng.normal(size=n)
    logits, vectors = np.empty((n, 3, classes), np.float32), []
    for k in range(3):
        noise = np.exp(0.8 * hard) * (2.5 - 0.8 * k) / 2.5
        logits[:, k] = 2 * np.eye(classes)[labels] + 1.3 * noise[:, None] * rng.normal(
            size=(n, classes)
        )
        mixed = np.concatenate([3 * hard[:, None], rng.normal(size=(n, 19))], axis=1)
        vectors.append(mixed @ np.linalg.qr(rng.normal(size=(20, 20)))[0])
    data = po.from_arrays(logits, labels, [1.0, 2.0, 4.0], unit="ms", features=vectors)
    batch = batch_of(data, features=True)
    if "epnet" in spec:
        assert po.fit(data, 2.0, spec).policy.required_columns >= {"features", "log_prob"}
        return
    rule, blind = learned(spec, batch), learned("berxit", batch)
    right = batch.quality[:, 0] > 0.5
    areas = []
    for one in (rule, blind):
        score = score_table(one, batch.outputs)[:, 0]
        areas.append((score[right][:, None] > score[~right]).mean())
    assert areas[0] > (areas[1] if "both" in spec else 0.65)


def test_one_module_of_all_exits_asks_for_vectors_of_one_width():
    data = with_features()
    with pytest.raises(InputError, match=r"of one width.*shared=false"):
        po.fit(data, 2.0, "berxit:inputs=both")
    policy = po.fit(data, 2.0, "berxit:inputs=both+shared=false").policy
    outputs = np.asarray(data.splits["pool"].array("outputs"))[:3]
    with pytest.raises(InputError, match="3 numbers, as in the fit"):
        policy.decide(outputs, features=[np.zeros((3, 9))] * 3)
    with pytest.raises(InputError, match="features"):
        po.fit(cache(300), 2.0, "berxit:inputs=both")


def test_classes_that_cannot_be_leave_scores_finite():
    logits = np.array([[[0.0, -np.inf, 1.0], [0.0, 2.0, -np.inf], [0.0, 2.0, -np.inf]]], np.float32)
    seen = with_probabilities(logits)
    for measure in MEASURES:
        scores = score_table(make_rule("similarity", {"measure": measure}), seen)
        assert np.isfinite(scores).all()
    assert scores[0, 2] > scores[0, 1]
    assert np.isfinite(score_table(make_rule("dda", {}), seen)).all()


def test_pf_berxit_chooses_the_most_accurate_patience_that_the_budget_allows():
    """More patience costs more under given thresholds: what one patience meets is not refused."""
    table, spec = fit_table(cache(n=600)), "pf_berxit:thresholds=0.9,0.9,0.9"
    specs = ("pf_berxit", *(f"pf_berxit:patience={p}" for p in (1, 2)))
    free, *fixed = (make_method(s).propose(table, [6.0])[0].quality for s in specs)
    assert free == max(fixed)
    costs = [fit_one(f"{spec}+patience={p}", table, 8.0).expected.cost for p in (1, 2)]
    result = fit_one(spec, table, sum(costs) / 2)
    assert result.policy.rule.patience == 1 and result.expected.cost == costs[0]
    with pytest.raises(BudgetError, match="mean cost of"):
        fit_one(spec, table, costs[0] * 0.9)
    # Quotas need no labels, the choice of a patience does.
    table = fit_table(pool(outputs(200)[0]))
    with pytest.raises(InputError, match="label for every row"):
        fit_one("pf_berxit:thresholds=geometric", table, 3.0)
    assert fit_one("pf_berxit:thresholds=geometric+patience=1", table, 3.0)


def test_dda_is_the_released_distance_on_exits_so_far():
    logits, _ = outputs(60, exits=4, seed=5)
    p, seen = softmax(logits.astype(float), axis=-1), with_probabilities(logits)
    given = ({"confidence": c, "history": c} for c in (1, 0))
    paper, alone = (score_table(make_rule("dda", params), seen) for params in given)
    for n, k in np.ndindex(60, 4):
        mean = p[n, : k + 1].mean(axis=0)
        near = [1 - cosine(p[n, j], mean) for j in range(k + 1)]
        assert paper[n, k] == pytest.approx(np.mean(near) * mean.max(), abs=1e-6)
        assert alone[n, k] == pytest.approx(near[-1], abs=1e-6)


@pytest.mark.parametrize("kind", ["accuracy", "cost"])
def test_beem_follows_the_papers_recursion(kind):
    table = fit_table(cache(n=400))
    policy, stats = fit_one(f"beem:weights={kind}", table, 3.0).policy, table.statistics
    w = table.quality.mean(axis=0) if kind == "accuracy" else np.array([1, 2, 4, 8]) / 8
    gathered = w * stats.confidence
    for k in range(1, 4):
        agrees = stats.prediction[:, k] == stats.prediction[:, k - 1]
        gathered[agrees, k] += gathered[agrees, k - 1]
    exits = policy.decide(stats.outputs()).exit
    np.testing.assert_array_equal(exits, first_exit(gathered, policy.thresholds))


# Distances.
DISTANCES = ("e2cm", "de3_bert", "trust_score")


def with_features(n=600, exits=3, classes=4, widths=(3, 5, 7)):
    logits, labels = outputs(n, exits, classes)
    rng = np.random.default_rng(0)
    vectors = [2 * rng.normal(size=(classes, w))[labels] + rng.normal(size=(n, w)) for w in widths]
    return po.from_arrays(logits, labels, [1.0, 2.0, 4.0], unit="ms", features=vectors)


def learned(spec, seen):
    return make_method(spec).learn(seen, 0)


def logits_of(output):
    return np.array(output.log_prob, float) + output.log_sum_exp[:, None]


def test_e2cm_by_the_papers_formulas_sample_by_sample():
    seen = batch_of(cache(400))
    scores = score_table(learned("e2cm", seen), seen.outputs)
    for k in range(3):
        z = logits_of(seen.outputs[k])
        far = cdist(z, [z[seen.labels == c].mean(axis=0) for c in range(6)])
        wanted = softmax(-far / far.mean(axis=0), axis=1).max(axis=1)
        np.testing.assert_allclose(scores[:, k], wanted, atol=2e-3)  # stored to four digits


@pytest.mark.parametrize("space", ["logits", "features"])
def test_e2cm_answers_with_the_nearest_class_mean(space):
    """Heads that were never trained: the answer of scipy's distances to means of the fit's rows is right, theirs is not."""
    rng, (n, classes, width) = np.random.default_rng(0), (800, 5, 12)
    labels, means = rng.integers(0, classes, n), rng.normal(size=(classes, width))
    vectors = [means[labels] + 0.7 * rng.normal(size=(n, width)) for _ in range(3)]
    logits = np.stack([v @ rng.normal(size=(width, classes)) for v in vectors], axis=1)
    logits[:, 2] = 5 * np.eye(classes)[labels]
    parts = {
        name: {"outputs": logits[rows], "labels": labels[rows], "features": [v[rows] for v in vectors]}
        for name, rows in (("fit", slice(400)), ("test", slice(400, None)))
    }  # fmt: skip
    data = po.from_arrays(splits=parts, costs=[1.0, 2.0, 4.0], unit="ms")
    spec = f"e2cm:vectors={space}"
    fitted, heads = (po.fit(data, 1.9, s, spend="all") for s in (spec, f"{spec}+answer=plain"))
    right = [po.evaluate(one, data, split="test").quality.mean() for one in (fitted, heads)]
    assert right[0] > 0.85 and right[1] < 0.6 and abs(fitted.quality - right[0]) < 0.03
    seen = fitted.policy.trace(logits[400:], features=[v[400:] for v in vectors])
    for k in range(2):
        x = logits[:, k] if space == "logits" else vectors[k]
        far = cdist(x, [x[:400][labels[:400] == c].mean(axis=0) for c in range(classes)])
        shares = softmax(-far / far[:400].mean(axis=0), axis=1)[400:]
        assert (seen.predictions[:, k] == shares.argmax(axis=1)).mean() > 0.99  # four digits kept
        np.testing.assert_allclose(seen.scores[:, k], shares.max(axis=1), atol=2e-3)


def test_a_class_without_rows_is_never_the_nearest():
    """However far off a sample: 40 average distances, where a class at 0 would be nearer by its 30."""
    rng = np.random.default_rng(0)
    labels, x = rng.integers(1, 3, 200), 0.01 * rng.normal(size=(200, 4))
    x[labels == 2] += 0.05
    outputs = rng.normal(size=(200, 2, 3)).astype("f4")
    data = po.from_arrays(
        splits={"fit": {"outputs": outputs, "labels": labels, "features": [x, x]}}, costs=[1, 2]
    )
    policy = po.fit(data, 1.5, "e2cm:vectors=features").policy
    far = [100 * x, 100 * x]
    assert set(policy.trace(outputs, features=far).predictions[:, 0]) <= {1, 2}


def test_de3_bert_by_hand():
    """Prototypes (3, 0) and (0, 3), a sample at (2, 0) with p = (0.75, 0.25): r1 = 1, r2 = sqrt(13)."""
    params = {
        "space": "features", "classes": 2, "points": [[[3.0, 0.0], [0.0, 3.0]]],
        "owner": [[0, 1]], "projection": None, "weight": 2.0,
    }  # fmt: skip
    output = reduce_logits(np.log([[0.75, 0.25], [0.25, 0.75]]))
    output = with_columns(output, features=np.array([[2.0, 0.0], [2.0, 0.0]], dtype=np.float32))
    doubt = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    wanted = []
    for r1, r2 in ((1.0, 13**0.5), (13**0.5, 1.0)):  # the second answers against the prototypes
        ratio = 0.5 * (1 + (r1 - r2) / max(r1, r2))
        wanted.append(1 - 3 / (2 / ratio + 1 / doubt))
    found = make_rule("de3_bert", params).score(0, output, ())[0]
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert wanted[0] > wanted[1]
    seen = batch_of(cache(300))  # without weight it is the entropy
    scores = score_table(learned("de3_bert:weight=0", seen), seen.outputs)
    np.testing.assert_allclose(scores[:, :-1], score_table(Entropy(6), seen.outputs)[:, :-1])


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_trust_score_is_that_of_nearest_neighbours(alpha):
    """With room for all points: distances of scipy, filtered as in the paper's algorithm 1."""
    seen = batch_of(cache(600, classes=3))
    fit, fresh = seen.take(np.arange(200)), seen.take(np.arange(200, 300))
    scores = score_table(learned(f"trust_score:points=400+alpha={alpha}", fit), fresh.outputs)
    for k in range(3):
        old, new = (logits_of(s.outputs[k]) for s in (fit, fresh))
        distance = np.empty((len(new), 3))
        for c in range(3):
            rows = old[fit.labels == c]
            radius = np.sort(cdist(rows, rows), axis=1)[:, 9]
            kept = rows[radius <= np.quantile(radius, 1 - alpha)]
            assert abs(len(kept) - (1 - alpha) * len(rows)) <= 1
            distance[:, c] = cdist(new, kept).min(axis=1)
        own = np.eye(3, dtype=bool)[fresh.outputs[k].prediction]
        other = np.min(distance, axis=1, where=~own, initial=np.inf)
        np.testing.assert_allclose(scores[:, k], other / (other + distance[own]), atol=2e-3)


@pytest.mark.parametrize("name", DISTANCES)
def test_features_are_measured_where_asked_for(name):
    spec, table = f"{name}:vectors=features", fit_table(with_features())
    po.check_method(spec)
    policy = fit_one(spec, table, 2.0).policy
    assert policy.needs_features
    narrow, (_, logits) = [table.feature(k)[:, :2] for k in range(3)], next(iter(table.chunks()))
    with pytest.raises(InputError, match=r"features of exit 0.*3 numbers"):
        policy.decide(logits, features=narrow)
    with pytest.raises(InputError, match=f"'{name}' needs .*features"):
        fit_one(spec, fit_table(cache()), 2.0)


@pytest.mark.parametrize("name", DISTANCES)
def test_wide_vectors_are_projected_and_artifacts_stay_small(name):
    seen = batch_of(with_features(300, classes=40, widths=(500, 700, 30)), features=True)
    located = locate(seen, "features", 0)
    assert [v.shape[1] for v in located.vectors] == [64, 64]
    assert len(json.dumps(learned(f"{name}:vectors=features", seen).params())) < 2_000_000
    # Class means so far apart keep their distances.
    wide = distances(seen.outputs[0].features.astype(float), np.zeros((1, 500)))
    narrow = distances(located.vectors[0], np.zeros((1, 64)))
    assert np.corrcoef(wide[:, 0], narrow[:, 0])[0, 1] > 0.9


def test_classes_without_rows_are_far_away():
    seen = batch_of(cache(300, classes=5)).take(np.arange(150))
    few = seen.take(np.flatnonzero(np.isin(seen.labels, (0, 3))))
    for name in DISTANCES:
        scores = score_table(learned(name, few), seen.outputs)
        assert np.isfinite(scores).all() and (scores >= 0).all() and (scores <= 1).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_memory_follows_the_points_and_not_the_classes_an_artifact_claims(name):
    """Records do not say how many classes there are: a small file must not ask for gigabytes."""
    more = {"e2cm": {"norm": [[1.0, 1.0]]}, "de3_bert": {"weight": 1.0}}.get(name, {})
    params = {
        "space": "features", "classes": 10**6, "points": [[[0.0], [4.0]]],
        "owner": [[3, 999_999]], "projection": None, **more,
    }  # fmt: skip
    rule, half = make_rule(name, params), np.full(2000, 0.5)
    output = reduce_record(np.tile([3, -1, 7, 999_999], 500), half, entropy=half)
    output = with_columns(output, features=np.ones((2000, 1), np.float32))
    tracemalloc.start()
    scores = rule.score(0, output, ())[0]
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    if name == "trust_score":  # 1 from the point of one class, 3 from that of the other
        np.testing.assert_allclose(scores[:4], [0.75, 0.0, 0.0, 0.25])


# Aware of classes, of accuracy, of risks.
def records(labelled=True):
    logits, labels = outputs(800, 3, 4)
    reduced = [reduce_logits(logits[:, k]) for k in range(3)]
    said = [(r.prediction, r.confidence) for r in reduced]
    prediction, confidence = (np.stack(column, axis=1) for column in zip(*said, strict=True))
    prediction[::50, 0], confidence[::50, 0] = -1, 0.0
    known = {"labels": labels} if labelled else {"correct": prediction == labels[:, None]}
    return po.from_arrays(prediction=prediction, confidence=confidence, costs=[1, 2, 4], **known)


def test_cbt_by_the_papers_rule_sample_by_sample():
    """Mean probabilities over rows and exits, gap of the two largest, straight onto [alpha, beta]."""
    seen, alpha, beta = batch_of(cache(500, classes=4)), 0.6, 0.9
    scores = score_table(learned("cbt:kappa=0+width=0.3", seen), seen.outputs)
    p = np.exp(np.stack([o.log_prob for o in seen.outputs], axis=1).astype(float))
    means = [np.sort(p[seen.labels == c].mean(axis=(0, 1))) for c in range(4)]
    gaps = np.array([mean[-1] - mean[-2] for mean in means])
    threshold = beta - (gaps - gaps.min()) / np.ptp(gaps) * (beta - alpha)
    np.testing.assert_array_equal(p.max(2) >= threshold[p.argmax(2)], scores >= alpha)


def test_class_thresholds_hold_at_all_exits_and_ask_no_budget():
    """CBT's own range, and MonoBERT's two thresholds: leave where the confidence reaches that of the class predicted."""
    data = cache(600, exits=3, classes=2)
    stats = fit_table(data).statistics
    range_ = po.fit(data, method="cbt", alpha=0.7, beta=0.95).policy
    assert range_.rule.offset.min() == 0.7 and range_.rule.offset.max() == 0.95
    for policy in (range_, po.fit(data, method="cbt", class_thresholds=(0.9, 0.6)).policy):
        if policy is not range_:
            np.testing.assert_array_equal(policy.rule.offset, [0.9, 0.6])
        leaves = stats.confidence >= policy.rule.offset[stats.prediction]
        leaves[:, -1] = True
        found = policy.decide(stats.outputs())
        np.testing.assert_array_equal(found.exit, leaves.argmax(axis=1))
    for wrong in ("alpha=0.9", "alpha=0.9+beta=0.8", "alpha=0.1+beta=0.2+class_thresholds=0.9,0.6"):
        with pytest.raises(InputError, match="alpha"):
            make_method(f"cbt:{wrong}")
    with pytest.raises(InputError, match="must be 2 numbers"):
        po.fit(data, method="cbt", class_thresholds=(0.9, 0.6, 0.5))
    with pytest.raises(BudgetError, match="class_thresholds"):
        po.fit(data, 1.2, "cbt", class_thresholds=(1.0, 1.0))


def test_cbt_shrinks_classes_of_few_rows():
    seen = batch_of(cache(600, classes=4))
    rare = np.flatnonzero(seen.labels == 2)
    some = seen.take(np.concatenate([np.flatnonzero(seen.labels != 2), rare[:2]]))
    own, shrunk = (learned(f"cbt:kappa={k}", some) for k in (0, 1000))
    assert np.ptp(own.offset) == pytest.approx(0.098)
    assert abs(shrunk.offset[2] - shrunk.other) < 0.003 * abs(own.offset[2] - own.other) + 1e-9
    assert (learned("cbt:width=0", some).offset == 0).all()


def test_cbt_learns_classes_from_records_that_know_only_what_is_right():
    labelled, seen = batch_of(records()), batch_of(records(labelled=False))
    classes, count = classes_of(seen)
    wanted = np.where(seen.quality.any(axis=1), labelled.labels, -1)
    np.testing.assert_array_equal(classes, wanted)
    assert seen.labels is None and count == 4


@pytest.mark.parametrize("name", ["cbt", "pcee", "eero", "beem", "window"])
@pytest.mark.parametrize("labelled", [True, False])
def test_records_suffice(name, labelled):
    for result in make_method(name).fit_path(fit_table(records(labelled=labelled)), [1.3, 2.5]):
        assert result.policy.kind == "summary"
        assert 0.97 * result.budget <= result.expected.cost <= result.budget * (1 + 1e-9)
        step = result.policy.step(0, {"prediction": -1, "confidence": 0.0}, result.policy.start(0))
        assert name == "window" or not step.exit  # a window gives hopeless samples up


@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_pcee_leaves_where_the_bins_accuracy_reaches_delta(smooth):
    """The paper's rule on the reliability diagram, made rising from above."""
    table, delta, bins = fit_table(cache(1500)), 0.85, 10
    stats = table.statistics
    policy = fit_one(f"pcee:delta={delta}+bins={bins}+smooth={smooth}", table, 8.0).policy
    accuracy = np.ones((len(table), 4))
    for k in range(3):
        edge = equal_mass_edges(stats.confidence[:, k], bins)
        place = np.searchsorted(edge, stats.confidence[:, k], side="right")
        raw = [stats.quality[place == b, k].mean() for b in range(len(edge) + 1)]
        if smooth:
            b = np.arange(len(raw))
            window = np.exp(-0.5 * ((b[:, None] - b) / smooth) ** 2)
            raw = [np.average(raw, weights=w) for w in window]
        accuracy[:, k] = np.array([min(raw[b:]) for b in range(len(raw))])[place]
    exits = policy.decide(stats.outputs()).exit
    np.testing.assert_array_equal(exits, first_exit(accuracy, np.full(3, delta)))
    with pytest.raises(BudgetError, match="delta"):
        fit_one("pcee:delta=0.999", table, 1.2)


@pytest.mark.parametrize("beta", [0.02, 0.3])
def test_eero_solves_the_papers_problem(beta):
    """Where the budget binds: the minimiser that a general solver finds under the same constraints."""
    risk, costs, budget = np.array([0.4, 0.2, 0.25, 0.1]), np.array([1.0, 2.0, 4.0, 8.0]), 2.2
    prior = (1 / costs) / (1 / costs).sum()

    def objective(eps):
        eps = np.maximum(eps, 1e-300)
        return eps @ risk + beta * (eps @ np.log(eps / prior))

    found = minimize(
        objective, prior, method="SLSQP", bounds=[(0, 1)] * 4, options={"maxiter": 500, "ftol": 1e-14},
        constraints=[
            {"type": "eq", "fun": lambda e: e.sum() - 1},
            {"type": "ineq", "fun": lambda e: budget - e @ costs},
        ],
    )  # fmt: skip
    assert found.success and found.x @ costs == pytest.approx(budget)  # it binds
    # Shares as they leave, where every sample has its own score.
    n = 20_000
    problem = Problem(np.random.default_rng(0).random((n, 4)), np.tile(1 - risk, (n, 1)), costs)
    solution = solve_planned(problem, weights(risk, costs, beta, "cost"), budget)
    shares = np.bincount(first_exit(problem.scores, solution.thresholds), minlength=4) / n
    np.testing.assert_allclose(shares, found.x, atol=2e-3)


def test_eero_sends_few_to_an_exit_that_is_worse_than_a_cheaper_one():
    risk, costs = np.array([0.3, 0.1, 0.3]), np.array([1.0, 2.0, 2.2])
    cold, warm = (weights(risk, costs, beta, "uniform") for beta in (0.01, 100.0))
    np.testing.assert_allclose(cold, [0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(warm, 1 / 3, atol=1e-3)
    assert np.isfinite(weights(risk, np.zeros(3), 0.1, "cost")).all()


def test_cbt_keeps_its_budget_where_confidences_crowd_at_one():
    """Saturated exits, a dear last one: learned fold by fold, places a hair apart cost 58 % too much."""
    off, halves = [], {"fit": 0.5, "test": 0.5}
    for seed in range(4):
        logits, labels = outputs(8000, 3, 8, seed=seed)
        tables = Tables(po.from_arrays(30 * logits, labels, [1.0, 20.0, 200.0], split=halves))
        result = fit_one("cbt", tables.get("fit"), 10.0)
        off.append(replay(result.policy, tables.get("test")).cost.mean() / result.expected.cost - 1)
    assert abs(np.mean(off)) < 0.15


# Parameters from files.
_POINTS = {
    "space": "logits", "classes": 2, "points": [[[1.0, 0.0], [0.0, 1.0]]], "owner": [[0, 1]],
    "projection": None, "norm": [[1.0, 1.0]],
}  # fmt: skip
_WIDE = [[0.1] * 5]
_EENET = {"shared": [[[0.1] * n] for n in (7, 8, 9)], "utility": [[1.0]] * 3}
_HISTORY = {"features": "summary", "center": [[0.0] * 7], "scale": [[1.0] * 7]}
_NETWORK = {
    "features": "summary", "center": [[0.0] * 7] * 2, "scale": [[1.0] * 7] * 2, "activation": "relu",
    "weights": [[[[2.0, *[0.0] * 6]]], [[[3.0]]]], "biases": [[[0.0], [1.0]], [[1.0]]],
}  # fmt: skip
_HALTING = {**_HISTORY, "weights": [[0.0] * 7], "offset": [0.0]}
#: By rule: what is changed in parameters that are right, and what is said.
BAD = {
    "e2cm": (_POINTS, [
        ({"owner": [[1, 0]]}, "owner of the score at exit 0"), ({"owner": [[0, 2]]}, "owner of the score at exit 0"),
        ({"owner": [[0]]}, "owner of score e2cm, number 0"), ({"points": []}, "points of score e2cm"),
        ({"points": [[["a", "b"], [1, 2]]]}, "points of score e2cm"), ({"space": "nowhere"}, "logits, features"),
        ({"projection": [[[1.0, 0.0]]]}, "projection of score e2cm"), ({"norm": [[1.0, 0.0]]}, "norm of score e2cm"),
        ({"classes": 2.5}, "classes of score e2cm.* a whole number"),
    ]),
    "similarity": ({"measure": "kl"}, [({"measure": ["kl"]}, "measure"), ({"patience": 0}, "patience")]),
    "dda": ({}, [({"history": 3}, "history")]),
    "beem": ({}, [({"weights": [1.0, -1.0]}, "weights"), ({"weights": "x"}, "weights")]),
    "window": ({}, [({"middle": [[0.5]]}, "middle")]),
    "class_offset": ({"other": 0.0}, [
        ({"offset": []}, "offset of score class_offset"), ({"offset": [[0.1]]}, "offset of score class_offset"),
    ]),
    "halting": (_HALTING, [({"eps": 1.0}, "eps of score halting")]),
    "eenet": ({}, [({"shared": shared, "utility": utility}, "eenet") for shared, utility in (
        ([_WIDE], [[1.0, 2.0]]), ([_WIDE], [[1.0], [1.0]]), ([], []), ([[[0.1, float("nan")]]], [[1.0]]),
        ([[[0.1], [0.1, 0.2]]], [[1.0, 1.0]]),
    )]),
    "eenet_released": ({}, [({"weights": [[0.1] * 4, [0.1] * 4]}, "eenet_released"), ({}, "eenet_released")]),
    "network": (_NETWORK, [
        ({"activation": "cosine"}, "relu, tanh"), ({"scale": [[0.0] * 7] * 2}, "scale"),
        ({"weights": [[[[0.0] * 6]], [[[3.0]]]]}, "weights of layer 0"), ({"weights": 3}, "a list of L arrays"),
        ({"biases": [[[0.0], [1.0], [2.0]], [[1.0]]]}, "biases of layer 0"),
        ({"weights": [[[[3.0]]]]}, "biases of score network"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_untrusted_parameters_are_checked(name):
    right, wrong = BAD[name]
    for change, words in wrong:
        with pytest.raises(InputError, match=words):
            make_rule(name, {**right, **change})


def test_a_network_by_hand():
    """One hidden unit: relu(2 x_0 + b_k), times 3, plus 1; x_0 the standardised log odds of a record."""
    record, odds = reduce_record([1, 1], [0.5, 0.8]), np.log(0.8 / 0.2)
    scores = score_table(make_rule("network", _NETWORK), [record] * 3)
    np.testing.assert_allclose(scores, [[1.0, 4.0, 0.0], [1 + 6 * odds, 4 + 6 * odds, 0.0]])


def test_parameters_must_fit_the_exits():
    assert make_rule("halting", _HALTING).params()["eps"] == 0.01
    for name, params, fits, misfits, words in (
        ("e2cm", _POINTS, (2, 2), (3, 2), "e2cm"),
        ("class_offset", {"offset": [0.0, 0.1], "other": 0.05}, (3, 2), (3, 3), r"offset.*C = 3"),
        ("eenet", _EENET, (3, 4), (4, 4), "eenet"),
        ("eenet", _EENET, (3, 4), (3, 5), "eenet"),
        ("beem", {"weights": [1.0, 1.0]}, (2, 3), (4, 3), r"weights of score beem.*K = 4"),
        ("network", _NETWORK, (3, 0), (4, 0), r"of score network.*K = 4"),
        ("window", {"middle": [0.5]}, (2, 3), (4, 3), r"middle of score window.*K = 4"),
    ):
        make_rule(name, params).check(*fits)
        with pytest.raises(InputError, match=words):
            make_rule(name, params).check(*misfits)


@pytest.mark.parametrize("name", [n for n, rule in RULES.items() if not rule.reads_predictions])
def test_scores_that_say_so_do_not_look_at_predictions(name):
    rule, logits = (
        make_rule(name, rules.SCORES[name]),
        np.random.default_rng(0).normal(size=(3, 50, 3)),
    )
    seen = [with_log_prob(reduce_logits(z), z) for z in logits]
    blind = [ExitOutput(np.full(50, -1, np.int32), *one.columns()[1:]) for one in seen]
    np.testing.assert_array_equal(score_table(rule, seen), score_table(rule, blind))
