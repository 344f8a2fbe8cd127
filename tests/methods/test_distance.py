"""Distance methods against hand-computed cases, brute force and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors
from synthetic import cache, outputs

import policyopt as po
from policyopt._answers.crossfit import crossfit
from policyopt._methods.exit_batch import build_batch
from policyopt._methods.prototypes import high_density, locate
from policyopt._methods.registry import make_method
from policyopt._table import Tables
from policyopt.runtime._arithmetic import distances
from policyopt.runtime._artifact import from_dict, to_dict
from policyopt.runtime._errors import InputError
from policyopt.runtime._outputs import with_columns
from policyopt.runtime._scores import make_rule, score_table

NAMES = ("e2cm", "de3_bert", "trust_score")


def seen_of(data, features=False):
    table = Tables(data).get("fit")
    return build_batch(table, crossfit(table, "plain", np.zeros(len(table), int)), features)


def learned(spec, seen):
    return make_method(spec).learn(seen, 0)


def with_features(n=600, exits=3, classes=4, widths=(3, 5, 7), seed=0):
    """A cache whose exits have features of their own widths, class by class apart."""
    logits, labels = outputs(n, exits, classes, seed)
    rng = np.random.default_rng(seed)
    vectors = [
        2.0 * rng.normal(size=(classes, w))[labels] + rng.normal(size=(n, w)) for w in widths
    ]
    return po.from_arrays(logits, labels, [1.0, 2.0, 4.0][:exits], unit="ms", features=vectors)


def test_distances_are_those_of_scipy_and_alone_as_in_company():
    from scipy.spatial.distance import cdist

    rng = np.random.default_rng(0)
    rows, points = rng.normal(size=(700, 13)), rng.normal(size=(57, 13))
    found = distances(rows, points)
    np.testing.assert_allclose(found, cdist(rows, points), rtol=1e-13)
    alone = np.concatenate([distances(rows[i : i + 1], points) for i in range(len(rows))])
    np.testing.assert_array_equal(found, alone)


def test_e2cm_by_the_papers_formulas_sample_by_sample():
    seen = seen_of(cache(400))
    scores = score_table(learned("e2cm", seen), seen.outputs)
    for k in range(3):
        z = np.array(seen.outputs[k].log_prob, float) + seen.outputs[k].log_sum_exp[:, None]
        means = [z[seen.labels == c].mean(axis=0) for c in range(6)]
        average = [np.mean([np.linalg.norm(x - m) for x in z]) for m in means]
        for row in range(0, len(z), 7):
            d = [np.linalg.norm(z[row] - m) / a for m, a in zip(means, average, strict=True)]
            p = np.exp(-np.array(d)) / np.exp(-np.array(d)).sum()
            assert scores[row, k] == pytest.approx(p.max(), abs=2e-3)  # stored to four digits


def test_de3_bert_by_hand():
    """Prototypes (3, 0) and (0, 3), a sample at (2, 0) with p = (0.75, 0.25): r1 = 1, r2 = sqrt(13)."""

    from policyopt.runtime._outputs import reduce_probabilities

    rule = make_rule(
        "de3_bert",
        {
            "space": "features", "classes": 2, "points": [[[3.0, 0.0], [0.0, 3.0]]],
            "owner": [[0, 1]], "projection": None, "weight": 2.0,
        },
    )  # fmt: skip
    output = reduce_probabilities(np.array([[0.75, 0.25], [0.25, 0.75]]))
    output = with_columns(output, features=np.array([[2.0, 0.0], [2.0, 0.0]], dtype=np.float32))
    entropy = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
    wanted = []
    for r1, r2 in ((1.0, 13**0.5), (13**0.5, 1.0)):  # the second answers against the prototypes
        ratio = 0.5 * (1 + (r1 - r2) / max(r1, r2))
        wanted.append(1 - 3 / (2 / ratio + 1 / entropy))
    np.testing.assert_allclose(rule.score(0, output, ())[0], wanted, atol=1e-6)
    assert wanted[0] > wanted[1]


def test_de3_bert_without_weight_is_the_entropy():
    seen = seen_of(cache(300))
    from policyopt.runtime._scores import Entropy

    scores = score_table(learned("de3_bert:weight=0", seen), seen.outputs)
    np.testing.assert_allclose(scores[:, :-1], score_table(Entropy(6), seen.outputs)[:, :-1])


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_trust_score_is_that_of_nearest_neighbours(alpha):
    """With room for all points: scikit-learn's neighbours, filtered as in the paper's algorithm 1."""
    seen = seen_of(cache(600, classes=3))
    fit, fresh = seen.take(np.arange(200)), seen.take(np.arange(200, 300))
    scores = score_table(learned(f"trust_score:points=400+alpha={alpha}", fit), fresh.outputs)
    for k in range(3):
        old, new = (
            np.array(s.outputs[k].log_prob, float) + s.outputs[k].log_sum_exp[:, None]
            for s in (fit, fresh)
        )
        distance = np.empty((len(new), 3))
        for c in range(3):
            rows = old[fit.labels == c]
            radius = np.sort(np.linalg.norm(rows[:, None] - rows[None], axis=2), axis=1)[:, 9]
            kept = rows[radius <= np.quantile(radius, 1 - alpha)]
            assert abs(len(kept) - (1 - alpha) * len(rows)) <= 1
            search = NearestNeighbors(n_neighbors=1).fit(kept)
            distance[:, c] = search.kneighbors(new)[0][:, 0]
        for row, answer in enumerate(fresh.outputs[k].prediction):
            own, other = distance[row, answer], np.delete(distance[row], answer).min()
            assert scores[row, k] == pytest.approx(other / (other + own), abs=2e-3)


def test_high_density_leaves_out_the_sparse():
    rows = np.concatenate([np.random.default_rng(0).normal(size=(95, 2)), np.full((5, 2), 50.0)])
    rows[95:] += np.arange(5)[:, None] * 10
    np.testing.assert_array_equal(high_density(rows, 0.05, 10), np.arange(95))
    assert len(high_density(rows[:1], 0.9, 10)) == 1


@pytest.mark.parametrize("name", NAMES)
def test_features_are_measured_where_asked_for(name):
    data = with_features()
    tables = Tables(data)
    method = make_method(name, {"vectors": "features"})
    (result,) = method.fit_path(tables.get("fit"), [2.0])
    assert result.policy.needs_features
    table = tables.get("test")
    logits = next(iter(table.chunks()))[1]
    features = [table.feature(k) for k in range(3)]
    exits = result.policy.decide(logits, features=features).exit
    again = from_dict(json.loads(json.dumps(to_dict(result.policy))))
    np.testing.assert_array_equal(again.decide(logits, features=features).exit, exits)
    for row in range(20):
        state = again.start(row)
        for k in range(3):
            if again.step(k, logits[row, k], state, features=features[k][row]).exit:
                break
        assert k == exits[row]
    with pytest.raises(InputError, match=r"features of exit 0.*3 numbers"):
        again.decide(logits, features=[f[:, :2] for f in features])


@pytest.mark.parametrize("name", NAMES)
def test_caches_without_features_are_refused_by_name(name):
    with pytest.raises(InputError, match=f"'{name}' needs .*features"):
        make_method(name, {"vectors": "features"}).fit_path(Tables(cache()).get("fit"), [2.0])


@pytest.mark.parametrize("name", NAMES)
def test_wide_vectors_are_projected_and_artifacts_stay_small(name):
    data = with_features(300, classes=40, widths=(500, 700, 30))
    seen = seen_of(data, features=True)
    located = locate(seen, "features", 0)
    assert [v.shape[1] for v in located.vectors] == [64, 64]
    rule = learned(f"{name}:vectors=features", seen)
    assert len(json.dumps(rule.params())) < 2_000_000
    # Class means so far apart keep their distances.
    wide = distances(seen.outputs[0].features.astype(float), np.zeros((1, 500)))
    narrow = distances(located.vectors[0], np.zeros((1, 64)))
    assert np.corrcoef(wide[:, 0], narrow[:, 0])[0, 1] > 0.9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"owner": [[1, 0]]}, "owner of the score at exit 0"),
        ({"owner": [[0, 2]]}, "owner of the score at exit 0"),
        ({"owner": [[0]]}, "owner of score e2cm, number 0"),
        ({"points": []}, "points of score e2cm"),
        ({"points": [[["a", "b"], [1, 2]]]}, "points of score e2cm"),
        ({"projection": [[[1.0, 0.0]]]}, "projection of score e2cm"),
        ({"space": "nowhere"}, "logits, features"),
        ({"norm": [[1.0, 0.0]]}, "norm of score e2cm"),
        ({"classes": 2.5}, "classes of score e2cm.* a whole number"),
    ],
)
def test_untrusted_parameters_are_checked(change, words):
    params = {
        "space": "logits", "classes": 2, "points": [[[1.0, 0.0], [0.0, 1.0]]],
        "owner": [[0, 1]], "projection": None, "norm": [[1.0, 1.0]],
    }  # fmt: skip
    make_rule("e2cm", params).check(2, 2)
    with pytest.raises(InputError, match=words):
        make_rule("e2cm", {**params, **change})


def test_classes_without_rows_are_far_away():
    data = cache(300, classes=5)
    seen = seen_of(data).take(np.arange(150))
    few = seen.take(np.flatnonzero(np.isin(seen.labels, (0, 3))))
    for name in NAMES:
        scores = score_table(learned(name, few), seen.outputs)
        assert np.isfinite(scores).all()
        assert (scores >= 0).all()
        assert (scores <= 1).all()


@pytest.mark.parametrize("name", NAMES)
def test_memory_follows_the_points_and_not_the_classes_an_artifact_claims(name):
    """Records do not say how many classes there are: a small file must not ask for gigabytes."""
    import tracemalloc

    from policyopt.runtime._outputs import reduce_record

    more = {"e2cm": {"norm": [[1.0, 1.0]]}, "de3_bert": {"weight": 1.0}}.get(name, {})
    rule = make_rule(
        name,
        {
            "space": "features", "classes": 10**6, "points": [[[0.0], [4.0]]],
            "owner": [[3, 999_999]], "projection": None, **more,
        },
    )  # fmt: skip
    rows = 2000
    half = np.full(rows, 0.5)
    output = reduce_record(np.tile([3, -1, 7, 999_999], rows // 4), half, entropy=half)
    output = with_columns(output, features=np.full((rows, 1), 1.0, np.float32))
    tracemalloc.start()
    scores = rule.score(0, output, ())[0]
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    if name == "trust_score":  # 1 from the point of one class, 3 from that of the other
        np.testing.assert_allclose(scores[:4], [0.75, 0.0, 0.0, 0.25])
