"""The watch of a promised risk: alarms by simulation and by hand, the running interval, audits, saved states."""

import json
import math

import numpy as np
import pytest
from conftest import refuses

from policyopt.runtime import InputError, RiskMonitor
from policyopt.runtime._arithmetic import coin
from policyopt.runtime._risk_monitor import advance, audited, left_at, owned, stakes_of

MOST, DELTA = 0.05, 0.05


def first_alarms(rate, streams, losses, seed=0, most=MOST):
    """When each of many streams of losses alarms, inf where it does not."""
    rng, wealth = np.random.default_rng(seed), np.zeros((streams, 12))
    first = np.full(streams, np.inf)
    for t in range(1, losses + 1):
        wealth = advance(wealth, rng.random(streams) < rate, most, t)
        first[(owned(wealth, t) >= 1 / DELTA) & np.isinf(first)] = t
    return first


def test_false_alarms_ever_and_the_delay_on_a_doubled_risk():
    false = np.isfinite(first_alarms(MOST, 1000, 4000)).mean()
    assert 0.005 < false <= DELTA + 3 * (DELTA * (1 - DELTA) / 1000) ** 0.5
    divergence = 2 * MOST * math.log(2) + (1 - 2 * MOST) * math.log((1 - 2 * MOST) / (1 - MOST))
    assert np.median(first_alarms(2 * MOST, 400, 1500)) <= 1.5 * math.log(1 / DELTA) / divergence


def test_wealth_is_fair_at_the_border_and_all_of_it_is_put_in():
    """Over all 2^10 sequences of losses the mean of what is owned is 1, as at each step before."""
    n, most = 10, 0.3
    bits = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
    chance = np.prod(np.where(bits, most, 1 - most), axis=1)
    wealth = np.zeros((2**n, 12))
    for t in range(1, n + 1):
        wealth = advance(wealth, bits[:, t - 1].astype(float), most, t)
        assert chance @ owned(wealth, t) == pytest.approx(1)
    assert left_at(0) == 1 and 0 < left_at(10**9) < left_at(1) < 1
    assert (stakes_of(most) * most < 1).all()


def test_a_monitor_is_the_sum_over_stakes_and_starts():
    rng = np.random.default_rng(1)
    losses = (rng.random(60) < 0.2).astype(float)
    monitor = RiskMonitor(0.1)
    monitor.update(losses)
    by_hand = float(left_at(60))
    for start in range(60):
        put_in = left_at(start) - left_at(start + 1)
        for stake in stakes_of(0.1):
            by_hand += put_in * np.prod(1 + stake * (losses[start:] - 0.1)) / 12
    assert monitor.e_value == pytest.approx(by_hand)
    assert monitor.losses == 60


def test_the_running_interval_holds_the_mean_at_all_times():
    rng, missed = np.random.default_rng(2), 0
    for _ in range(60):
        monitor, losses = RiskMonitor(0.2, confidence=0.9), rng.beta(2, 8, 400)
        for part in np.split(losses, 8):
            monitor.update(part)
            low, high = monitor.risk
            missed += not low <= 0.2 <= high
            if not low <= 0.2 <= high:
                break
    assert missed <= 60 * 0.1 + 3 * (60 * 0.09) ** 0.5
    assert monitor.risk[1] - monitor.risk[0] < 0.1


def test_audits_count_by_their_probability_and_what_is_signed_is_scaled():
    rng = np.random.default_rng(3)
    surer = rng.random(6000) < 0.5
    loss = (rng.random(6000) < np.where(surer, 0.02, 0.10)).astype(float)  # mean 0.06
    share = np.where(surer, 0.1, 0.5)
    seen = audited(7, np.arange(6000), share)
    assert seen.mean() == pytest.approx(share.mean(), abs=0.02)
    assert (audited(7, np.arange(6000), share) == seen).all()
    monitor = RiskMonitor(0.1, least=0.1)
    assert monitor.update(np.where(seen, loss, np.nan), share) is None
    low, high = monitor.risk
    assert low < 0.06 < high and monitor.losses == seen.sum()
    assert RiskMonitor(0.02, least=0.1).update(np.where(seen, loss, np.nan), share) is not None
    late = RiskMonitor(0.05)
    late.update([0.0, math.nan, 1.0, math.nan])  # labels that never came
    assert late.losses == 2
    drop = RiskMonitor(0.01, low=-1.0)
    alarm = drop.update(rng.choice([-1.0, 0.0, 1.0], 4000, p=[0.02, 0.90, 0.08]))
    assert (
        alarm is not None and alarm.risk[0] < 0.06 < alarm.risk[1] + 0.05 and "broken" in str(alarm)
    )


def test_audits_of_one_share_say_as_much_as_as_many_losses():
    """Chance adds no spread: with a share for all, the audit of a drop is a monitor of what it has seen."""
    rng = np.random.default_rng(5)
    loss = rng.choice([-1.0, 0.0, 1.0], 20_000, p=[0.02, 0.88, 0.1])
    seen = audited(1, np.arange(20_000), 0.05)
    audit, plain = RiskMonitor(0.01, low=-1.0, least=0.05), RiskMonitor(0.01, low=-1.0)
    audit.update(np.where(seen, loss, np.nan), 0.05)
    assert plain.update(loss[seen]) == audit.alarm is not None
    assert (audit.e_value, audit.risk, audit.losses) == (plain.e_value, plain.risk, seen.sum())


def test_the_interval_is_fine_where_the_promise_is():
    """Of 1 % in 10,000 losses: within twice the width of the exact interval of as many, the mean in it."""
    losses = (np.arange(10_000) % 100 == 7).astype(float)
    monitor = RiskMonitor(0.01)
    assert monitor.update(losses) is None
    low, high = monitor.risk
    assert 0.0061 < low < 0.01 < high < 0.0141
    assert RiskMonitor(0.01).risk == (0.0, 1.0)


def test_a_saved_monitor_goes_on_to_the_bit():
    rng = np.random.default_rng(4)
    losses = rng.random(300) < 0.1
    whole, part = RiskMonitor(MOST), RiskMonitor(MOST)
    for one in losses:
        whole.update(one)
    part.update(losses[:150])
    again = RiskMonitor.restore(json.loads(json.dumps(part.state())))
    again.update(losses[150:])
    assert again.state() == whole.state() and again.alarm == whole.alarm


def test_audits_know_nothing_of_a_policys_coin_and_nothing_overflows():
    """Of requests that a mixture of the same seed sends one way as many are audited as of the others."""
    numbers = np.arange(20_000)
    seen = audited(0, numbers, 0.1)
    assert seen[coin(0, numbers) < 0.2].mean() == pytest.approx(0.1, abs=0.02)
    monitor = RiskMonitor(1e-11, least=0.5)
    with np.errstate(all="raise"):
        alarm = monitor.update(np.append(np.ones(1200), np.nan), np.append(np.ones(1200), np.nan))
    assert alarm.losses == 1 and monitor.losses == 1200 and monitor.e_value <= 1e300


def test_what_is_refused():
    for argument, call in {
        "most": lambda: RiskMonitor(0.0), "confidence": lambda: RiskMonitor(0.1, confidence=1.0),
        "least": lambda: RiskMonitor(0.1, least=0.0), "low": lambda: RiskMonitor(0.1, low=math.nan),
        "losses": lambda: RiskMonitor(0.1).update(1.5),
        "probability": lambda: RiskMonitor(0.1).update(0.0, 0.5), "share": lambda: audited(0, [1], 0.0),
    }.items():  # fmt: skip
        refuses(argument, call)
    for argument, call in (
        ("confidence", lambda: RiskMonitor(0.1, confidence="95%")), ("least", lambda: RiskMonitor(0.1, least="1")),
        ("high", lambda: RiskMonitor(0.1, high=10**400)), ("high", lambda: RiskMonitor(0.1, high=1e308)),
        ("most", lambda: RiskMonitor(5e-324)), ("most", lambda: RiskMonitor(1 - 1e-13)),
        ("losses", lambda: RiskMonitor(0.1).update(["a"])), ("losses", lambda: RiskMonitor(0.1).update([10**400])),
        ("losses", lambda: RiskMonitor(0.1).update(np.ones(2, complex))),
        ("probability", lambda: RiskMonitor(0.1).update([0.0, 1.0], [1.0, 1.0, 1.0])),
        ("share", lambda: audited(0, [1, 2], [0.1] * 3)), ("share", lambda: audited(0, 1, "x")),
        ("samples", lambda: audited(0, 1.5, 0.1)), ("seed", lambda: audited(-1, 1, 0.1)),
    ):  # fmt: skip
        refuses(argument, call)
    good = RiskMonitor(0.1).state()
    for field, wrong in (
        ("wealth", [1.0]), ("losses", -1), ("hedged", [[math.nan] * 256] * 2), ("format", "x"), ("alarm", [1]),
        ("most", "a"), ("wealth", [-1.0] * 12), ("least", 2.0),
    ):  # fmt: skip
        with pytest.raises(InputError):
            RiskMonitor.restore({**good, field: wrong})
    with pytest.raises(InputError):
        RiskMonitor.restore({**good, "more": 1})
