"""Per-tier policies decide as the whole policy; their files and messages are checked; paid models served so."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import synthetic
from mutations import signed

import policyopt as po
from policyopt._tiers.plans import Plan
from policyopt._tiers.tier_policy import (
    LEAVE,
    MOST_SAMPLES,
    SEND_ON,
    TierPolicy,
    load_tier,
    tier_policies,
)
from policyopt.runtime._errors import InputError

NAMES = ("device", "edge", "cloud")
METHODS = (
    "max_prob", "patience", "vote", "window", "optimal_stopping", "random", "beem",
    "margin:answer=combined", "max_prob:thresholds=joint+mix=true", "subset",
)  # fmt: skip
DATA = synthetic.cache(300, 5, 4)


RECORDS = "vote of records"


@cache
def fitted(method):
    if method != RECORDS:
        outputs = np.asarray(DATA.splits["pool"].array("outputs"))[:200]
        return po.fit(DATA, "45%", method=method).policy, list(outputs.swapaxes(0, 1))
    rng = np.random.default_rng(0)
    sure, right, labels = rng.random((200, 5)), rng.random((200, 5)) < 0.7, rng.integers(0, 4, 200)
    said = np.where(right, labels[:, None], (labels[:, None] + 1) % 4)
    rows = {"confidence": sure, "prediction": said, "labels": labels}
    data = po.from_arrays(splits={"fit": rows}, costs=[1, 2, 4, 8, 16], unit="USD")
    outputs = [{"prediction": said[:, k], "confidence": sure[:, k]} for k in range(5)]
    return po.fit(data, "60%", method="vote").policy, outputs


def divided(policy):
    return tier_policies(policy, Plan((0, 1, 2, 3, 4), (0, 0, 1, 1, 2)), NAMES)


def through_tiers(parts, step, number):
    """Serve one sample tier by tier; what is sent on goes as JSON text."""
    message = None
    for part in parts:
        state = part.start(number) if message is None else part.take_over(json.loads(message))
        for k in part.exits:
            action, decision = part.step(k, step(k), state)
            if action == LEAVE:
                return k, decision.prediction
            assert (action == SEND_ON) == (k == part.exits[-1])
        message = json.dumps(part.hand_over(state))
    raise AssertionError("the last exit always stops")


def batch_through_tiers(parts, outputs, numbers):
    taken, said = np.full(len(numbers), -1), np.full(len(numbers), -1)
    rows, message = np.arange(len(numbers)), None
    for part in parts:
        state = part.start(numbers) if message is None else part.take_over(json.loads(message))
        for k in part.exits:
            action, decision = part.step(k, picked(outputs[k], rows), state)
            left = action == LEAVE
            taken[rows[left]], said[rows[left]] = k, decision.prediction[left]
            rows, state = rows[~left], state.keep(~left)
        message = json.dumps(part.hand_over(state))
    assert not len(rows)
    return taken, said


def picked(output, rows):
    record = isinstance(output, dict)
    return {name: column[rows] for name, column in output.items()} if record else output[rows]


@pytest.mark.parametrize("method", [*METHODS, RECORDS])
@pytest.mark.parametrize("tier", [(0, 0, 1, 1, 2), (1, 1, 1, 2, 2)])
def test_tiers_decide_as_the_whole_policy(method, tier, tmp_path):
    policy, outputs = fitted(method)
    numbers = np.arange(1000, 1200)
    parts = []
    for i, part in enumerate(tier_policies(policy, Plan((0, 1, 2, 3, 4), tier), NAMES)):
        part.save(tmp_path / f"{i}.json")
        parts.append(load_tier(tmp_path / f"{i}.json"))
    assert [k for part in parts for k in part.exits] == list(policy.active_exits)
    whole = policy.decide(outputs, numbers)
    taken, said = batch_through_tiers(parts, outputs, numbers)
    np.testing.assert_array_equal(taken, whole.exit)
    np.testing.assert_array_equal(said, whole.prediction)
    for row in range(0, 200, 29):
        found = through_tiers(parts, lambda k, row=row: picked(outputs[k], [row]), numbers[row])
        assert found == (whole.exit[row], whole.prediction[row])


def test_a_tier_without_exits_hands_on_what_began():
    policy, kept = fitted("patience")[0], Plan((2, 4), (0, 1, 1, 2, 2))
    small = replace(
        policy, active_exits=(2, 4), model_exits=5, thresholds=policy.thresholds[:1],
        costs=policy.costs[:2], overhead=policy.overhead[:2], mixture=None,
    )  # fmt: skip
    first, second, third = tier_policies(small, kept, NAMES)
    assert (first.exits, second.exits, third.exits) == ((), (2,), (4,))
    assert second.take_over(first.hand_over(first.start(7))).position == 0


def test_changed_files_are_refused(tmp_path):
    part, path = divided(fitted("max_prob")[0])[1], tmp_path / "tier.json"
    part.save(path)
    text = path.read_text()
    content = json.loads(text)
    changes = (
        {"version": 2}, {"version": True}, {"version": 1.0}, {"exits": [True]}, {"tier": 1}, {"more": 1},
    )  # fmt: skip
    less = {k: v for k, v in content.items() if k != "next"}
    forged = [json.dumps(signed(other)) for other in (less, *({**content, **c} for c in changes))]
    for wrong in (text[:-20], text.replace('"edge"', '"edgy"'), "[]", *forged):
        path.write_text(wrong)
        with pytest.raises(InputError):
            load_tier(path)


def test_wrong_messages_are_refused():
    parts = divided(fitted("patience")[0])
    state = parts[0].start([1, 2])
    for k in (0, 1):
        parts[0].step(k, np.zeros((2, 4)), state)
    good = parts[0].hand_over(state)
    parts[1].take_over(good)
    arm, rule = good["arm"], good["rules"][0]
    arms = [("shape", [2, 10**9]), ("data", "!!"), ("data", ""), ("data", "AgI="), ("dtype", "O")]
    changes = [
        ("more", 1), ("position", 1), ("position", True), ("position", 5), ("samples", 3), ("samples", -1),
        ("samples", 10**12), ("samples", True), ("samples", 2.0), ("scalar", True), ("rules", []), ("rules", [[]]),
        ("rules", [rule + rule]), ("rules", [1]), ("answer", [arm]), ("answer", {}), ("format", "x"), ("format", ["x"]),
        ("version", True), ("version", 1.0), ("version", [1]), ("version", 2), ("policy", "0" * 64),
        *(("arm", {**arm, key: value}) for key, value in arms),
    ]  # fmt: skip
    for wrong in (None, [], *({**good, name: value} for name, value in changes)):
        with pytest.raises(InputError):
            parts[1].take_over(wrong)
    # The same shapes, other thresholds: what was decided before would not be this policy's.
    other = TierPolicy(replace(parts[1].policy, thresholds=[9.0] * 4), "edge", (2, 3), "cloud")
    with pytest.raises(InputError, match=r"policy of the message.*the files of one plan"):
        other.take_over(good)
    with pytest.raises(InputError, match="an exit of tier 'edge'"):
        parts[1].step(0, np.zeros((2, 4)), parts[1].take_over(good))


def test_a_message_holds_no_more_samples_than_it_says():
    parts = divided(fitted("max_prob")[0])
    state = parts[0].start(np.arange(MOST_SAMPLES + 1))
    for k in (0, 1):
        parts[0].step(k, np.zeros((MOST_SAMPLES + 1, 4)), state)
    with pytest.raises(InputError, match=f"at most {MOST_SAMPLES}"):
        parts[0].hand_over(state)
    part = state.keep(np.arange(MOST_SAMPLES + 1) < MOST_SAMPLES)
    message = parts[0].hand_over(part)
    assert len(parts[1].take_over(message).arm) == MOST_SAMPLES
    # As long as it says, all its arrays too, and more than is taken.
    raw = base64.b64encode(bytes(MOST_SAMPLES + 1)).decode()
    arm = {"dtype": "|b1", "shape": [MOST_SAMPLES + 1], "data": raw}
    with pytest.raises(InputError, match="samples of the message"):
        parts[1].take_over({**message, "samples": MOST_SAMPLES + 1, "arm": arm})


def example(root, *words):
    command = [sys.executable, "-m", "examples.llm_cascade", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True)


def test_the_whole_way_on_the_stand_in(root, tmp_path):
    done = example(
        root, "--stand-in", "--out", tmp_path / "p.json", "--methods", "max_prob,frugalgpt"
    )
    assert done.returncode == 0, done.stderr
    assert "a generated stand-in" in done.stdout and "frugalgpt at 30%" in done.stdout
    policy = po.load_policy(tmp_path / "p.json")
    assert policy.unit == "USD" and policy.model_exits == 5


def test_the_loop_pays_for_the_calls_it_makes(root, monkeypatch):
    monkeypatch.syspath_prepend(root)
    from examples.llm_cascade.records import stand_in
    from examples.llm_cascade.serve import Models, ask

    data = stand_in(400)
    policy = po.fit(data, "35%", method="subset").policy
    replayed, models = po.evaluate(policy, data), Models(data, "test")
    answers = [ask(policy, models, q) for q in range(len(replayed.exit))]
    np.testing.assert_array_equal(answers, replayed.prediction)
    assert models.spent == pytest.approx(replayed.cost.sum())
    asked = np.searchsorted(policy.active_exits, replayed.exit) + 1
    assert models.calls.sum() == asked.sum() < 0.6 * models.calls.size * len(answers)
    assert not models.calls[[k for k in range(5) if k not in policy.active_exits]].any()
