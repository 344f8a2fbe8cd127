"""Artifacts of learned policies: whole or refused, whatever is changed in them."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from synthetic import cache, outputs

import policyopt as po
from policyopt.runtime import load_policy
from policyopt.runtime._errors import InputError
from policyopt.runtime._policy import Policy, from_dict, to_dict
from policyopt.runtime._scores import MaxProb
from policyopt.runtime._strict_json import digest_of

WRONG = (None, "x", -1, 2, 1e300, float("nan"), True, [], {}, [[]], [1, [2]], "\ud800")


@pytest.fixture(scope="module")
def artifacts():
    """Policies that use every part of version 3: kept exits, answers, mixtures of two rules, confidence."""
    data = cache(1500)
    some = Policy(
        MaxProb(), [0.5, 0.8], [1, 2, 4], "ms", "logits", 6, kept=(0, 2, 3), model_exits=4
    )
    return [to_dict(some)] + [
        to_dict(po.fit(data, 3.0, method, calibrator=confidence).policy)
        for method, confidence in (
            ("optimal_stopping:mix=true", "isotonic"),
            ("max_prob:answer=vector", "beta"),
            ("margin:answer=ztw", "histogram"),
            ("eenet:max_epochs=2+restarts=1", "platt"),
            ("eenet_released:max_epochs=2", None),
            ("max_prob:answer=temperature", None),
        )
    ]


def leaves(node, path=()):
    """Yield the path of every value in a nested structure, long lists by their first two entries."""
    yield path
    if isinstance(node, dict):
        for key in node:
            yield from leaves(node[key], (*path, key))
    elif isinstance(node, list):
        for i in range(min(len(node), 2)):
            yield from leaves(node[i], (*path, i))


def changed(content, path, value):
    """Return a copy with one value replaced (or, value `...`, taken out), its checksum right."""
    content = copy.deepcopy(content)
    at = content
    for step in path[:-1]:
        at = at[step]
    if value is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    body = {k: v for k, v in content.items() if k != "sha256"}
    try:
        content["sha256"] = digest_of(body)
    except (ValueError, UnicodeEncodeError):  # not JSON: refused before the checksum is looked at
        content["sha256"] = "-"
    return content


def test_whatever_is_changed_it_is_refused_or_decides(artifacts):
    """Every value of every artifact, replaced by each of a dozen wrong ones or left out."""
    logits, _ = outputs(3, seed=1)
    tried = 0
    for content in artifacts:
        for path in leaves(content):
            if not path or path[0] in ("provenance", "sha256"):
                continue
            for value in (*WRONG, ...):
                tried += 1
                try:
                    policy = from_dict(changed(content, path, value), "p.json")
                except InputError:
                    continue
                assert isinstance(policy, Policy)
                with np.errstate(all="ignore"):
                    try:
                        exits = policy.decide(logits).exit
                    except InputError:
                        continue
                assert ((exits >= 0) & (exits < policy.model_exits)).all()
    assert tried > 1500


@pytest.mark.parametrize("name", ["combined", "kept"])
def test_golden_files(root, name):
    """Files as they were once written, and what they decided: they must load and decide so."""
    folder = root / "tests" / "golden"
    golden = json.loads((folder / f"decisions_{name}.json").read_text())
    logits = np.array(golden["logits"], dtype=np.float32)
    policy = load_policy(folder / f"policy_{name}.json")
    assert (policy.path == (0, 2, 3)) == (name == "kept")
    trace = policy.trace(logits)
    assert trace.exit.tolist() == golden["exits"]
    assert trace.taken.tolist() == golden["predictions"]
    np.testing.assert_allclose(trace.scores, golden["scores"], atol=1e-9)
    state = policy.start(0)
    assert policy.step(0, logits[0, 0], state).confidence == pytest.approx(golden["confidence"])
