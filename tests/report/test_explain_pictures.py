"""Pictures of an explanation against its data."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import cache as make_cache

import policyopt as po
from policyopt.report.explain import explain
from policyopt.report.explain.pictures import figures
from policyopt.runtime.policy import NEVER
from policyopt.table import Tables


def test_pictures_show_the_data(world):
    _, table, policy, rival = world
    result = explain(policy, table, rival)
    drawn = figures(result, policy, "a title")
    found, record = result.found, result.record
    bars = [b.get_height() for b in drawn["exits.png"].axes[0].patches[:4]]
    np.testing.assert_allclose(bars, [100 * e["share_left"] for e in record["exits"]])
    assert len(drawn["scores.png"].axes) == len(drawn["classes.png"].axes) == 4
    for k, axes in enumerate(drawn["classes.png"].axes):
        gone, here = axes.collections
        assert len(gone.get_offsets()) == (found.exit < k).sum()
        assert len(here.get_offsets()) == (found.exit >= k).sum()
        colours = {tuple(c) for c in here.get_facecolors()}
        assert len(colours) == 2
        assert f"{100 * (found.exit == k).mean():.1f} % leave" in axes.get_title()
        lines = [line.get_ydata()[0] for line in axes.lines]
        assert lines == ([policy.thresholds[k]] if k < 3 else [])
    shares = [p.get_width() for p in drawn["per_class.png"].axes[0].patches]
    assert sum(shares) == pytest.approx(100 * 5)
    heat = drawn["changes.png"].axes[0]
    np.testing.assert_array_equal(heat.images[0].get_array(), record["changes"]["transitions"])


def test_pictures_of_many_classes_are_thinned_and_both_thresholds_drawn():
    data = make_cache(n=8000, exits=2, classes=60, seed=2)
    policy = po.fit(data, "70%", "max_prob", mix=True, thresholds="joint").policy
    assert policy.mixture is not None
    drawn = figures(explain(policy, Tables(data).get("test")), policy)
    axes = drawn["classes.png"].axes[0]
    assert sum(len(c.get_offsets()) for c in axes.collections) == 3000
    assert len(axes.lines) == 2 and not axes.get_xticks().size
    assert len(drawn["per_class.png"].axes) == 2


def test_a_threshold_that_nobody_reaches_is_said(world, combined_policy):
    _, table, _, _ = world
    policy = combined_policy(table, (NEVER, 0.6, -1e30))
    axes = figures(explain(policy, table), policy)["scores.png"].axes
    assert "above all scores" in axes[0].get_title() and not axes[0].lines
    assert "below all scores" in axes[2].get_title()
