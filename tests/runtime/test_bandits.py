"""Bandits: against formulas summed anew from the history, saved states, what comes of them."""

import copy
import itertools
import json
import math

import numpy as np
import pytest
from conftest import refuses
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from policyopt.runtime._bandits import NORMAL, UNIFORM, RandomRows, make_bandit, upper_bound
from policyopt.runtime._online.serving import REVEALS, reveal_chances

SPECS = [
    ("ucb1", {}), ("ucb1", {"c": 0.3}), ("ucb_tuned", {}), ("ucb_v", {}), ("ucb_v", {"zeta": 1.2, "c": 0.5}),
    ("kl_ucb", {}), ("kl_ucb", {"c": 3}), ("sliding_window_ucb", {"window": 2}),
    ("sliding_window_ucb", {"window": 17}), ("discounted_ucb", {"discount": 0.9}),
    ("discounted_ucb", {"discount": 0.01}), ("discounted_ucb", {"discount": 1e-300}), ("thompson", {}),
]  # fmt: skip
DRAWN = [("thompson", {"posterior": "beta"}), ("exp3", {}), ("exp3", {"share": 0.01})]
EVERY = pytest.mark.parametrize(("name", "keys"), [*SPECS, *DRAWN], ids=str)
REWARDS = {
    "any": lambda rng, shape: rng.random(shape),
    "0 or 1": lambda rng, shape: rng.integers(0, 2, shape).astype(float),
    "tenths": lambda rng, shape: rng.integers(0, 4, shape) / 10,  # sums that differ by rounding
    "alike": lambda rng, shape: np.full(shape, 0.3),
    "ends": lambda rng, shape: rng.choice([-1e-9, 0.0, 1.0, 1.0 + 1e-9], shape),
}


class History:
    """What a bandit has seen, as a list; its indices by the textbook."""

    def __init__(self, name, keys, arms, seed):
        self.name, self.keys, self.arms, self.seed = name, keys, arms, seed
        self.seen, self.tries = [], [0] * arms  # (round, arm, reward)

    def indices(self, t):
        """Return the index of each arm in round t, or None where nothing is in memory."""
        window = self.keys.get("window", math.inf)
        gamma = self.keys.get("discount", 1.0)
        found = []
        for a in range(self.arms):
            mine = [(gamma ** (t - s), x) for s, b, x in self.seen if b == a and t - s < window]
            if not mine or sum(w for w, _ in mine) < 1e-250:
                found.append(None)
                continue
            n = math.fsum(w for w, _ in mine)
            mean = math.fsum(w * x for w, x in mine) / n
            variance = math.fsum(w * (x - mean) ** 2 for w, x in mine) / n
            found.append(self.index(t, n, mean, variance, a))
        return found

    def index(self, t, n, mean, v, a):
        k, log = self.keys, math.log(t)
        e = k.get("zeta", 1.0) * log
        forgets = math.fsum(k.get("discount", 1.0) ** i for i in range(t))
        z = RandomRows(NORMAL, self.seed, 5, self.arms)[t - 1][a] if self.name == "thompson" else 0
        level = log + k.get("c", 0.0) * (math.log(log) if log > 1 else 0.0)
        return {
            "ucb1": lambda: mean + k.get("c", 1.0) * math.sqrt(log / n),
            "ucb_tuned": lambda: mean + math.sqrt(log / n * min(0.25, v + math.sqrt(2 * log / n))),
            "ucb_v": lambda: mean + math.sqrt(2 * v * e / n) + 3 * k.get("c", 1.0) * e / n,
            "kl_ucb": lambda: by_bisection(min(max(mean, 0.0), 1.0), level / n),
            "sliding_window_ucb": lambda: mean + math.sqrt(0.6 * math.log(min(t, k["window"])) / n),
            "discounted_ucb": lambda: mean + 2 * math.sqrt(0.6 * math.log(forgets) / n),
            "thompson": lambda: mean + z * math.sqrt(min(0.25, v + math.sqrt(2 * log / n)) / n),
        }[self.name]()

    def check(self, t, arm, strict):
        """Demand that an arm has the largest index; nothing known first, the largest of equals."""
        found = self.indices(t)
        empty = [a for a, value in enumerate(found) if value is None]
        if empty:
            least = min(self.tries[a] for a in empty)
            assert arm == max(a for a in empty if self.tries[a] == least)
        else:
            top = max(found)
            near = [a for a, value in enumerate(found) if value >= top - 1e-9]
            assert arm in near
            if strict:  # sums without rounding: what is equal is equal to the last bit
                assert arm == max(a for a, value in enumerate(found) if value >= top - 1e-12)
        self.tries[arm] += 1


def by_bisection(p, share):
    """Return the largest d with kl(p, p + d) <= share, plus p."""

    def kl(d):
        left = -p * math.log1p(d / p) if p else 0.0
        return left - ((1 - p) * math.log1p(-d / (1 - p)) if p < 1 else 0.0)

    low, high = 0.0, 1.0 - p
    for _ in range(90):
        middle = (low + high) / 2
        low, high = (middle, high) if middle < 1 - p and kl(middle) <= share else (low, middle)
    return p + low


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize(("name", "keys"), SPECS, ids=str)
def test_the_largest_index_by_the_textbook(name, keys, kind):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arms = int(rng.integers(1, 6))
        player = make_bandit(name, keys).player(arms, seed, 5)
        history, late = History(name, keys, arms, seed), []
        rewards = REWARDS[kind](rng, (120, arms))
        for t in range(1, 121):
            arm = player.choose()
            history.check(t, arm, kind == "0 or 1" and name != "discounted_ucb")
            fate = rng.random()
            if fate < 0.9:
                late.append((0 if rng.random() < 0.5 else arm, arm, rewards[t - 1].tolist()))
            while late and (fate < 0.7 or len(late) > 4):
                first, last, row = late.pop(0)
                player.learn(first, last, row)
                history.seen += [(t, a, row[a]) for a in range(first, last + 1)]


@pytest.mark.parametrize(
    "keys", [{"gamma": 0.3}, {}, {"share": 0.02}, {"gamma": 0.2, "share": 0.5}]
)
def test_exp3_by_the_textbook(keys):
    arms = 4
    rng = np.random.default_rng(1)
    player = make_bandit("exp3", keys).player(arms, seed=3, stream=2)
    weights, gains, share = np.ones(arms), np.zeros(arms), keys.get("share", 0.0)
    for t in range(1, 400):
        gamma = keys.get("gamma")
        if gamma is None:
            grown = arms * (math.log(arms / share) + math.e) * share if share else 0
            gamma = min(1, math.sqrt((grown or arms * math.log(arms) / t) / (math.e - 1)))
        if not keys:
            weights = np.exp(gamma / arms * gains)
        chances = (1 - gamma) * weights / weights.sum() + gamma / arms
        arm = player.choose()
        assert np.allclose(player.chances, chances, atol=1e-12)
        u = RandomRows(UNIFORM, 3, 2, 1, 1)[t - 1][0]
        assert arm == int(np.searchsorted(np.cumsum(chances), u * chances.sum(), side="right"))
        rewards = rng.random(arms) * [0.2, 0.9, 0.5, 0.4]
        player.learn(arm, arm, rewards.tolist())
        estimate = np.where(np.arange(arms) == arm, rewards / chances, 0.0)
        gains += estimate
        weights = weights * np.exp(gamma / arms * estimate) + math.e * share / arms * weights.sum()


@pytest.mark.parametrize("reveal", REVEALS)
def test_exp3_estimates_are_unbiased(reveal):
    """The mean estimate over all arms that might have been played is the reward, for every arm."""
    starts = [0, 0, 2, 3, 3]  # arms 0 and 1 leave alike, 3 and 4
    rewards = [0.9, 0.1, 0.5, 0.0, 1.0]
    player = make_bandit("exp3", {"gamma": 0.3}).player(5)
    for a in (4, 1, 1):
        player.choose()
        player.learn(a, a, [0.3] * 5)
    player.choose()
    chances = player.chances
    chance = reveal_chances(chances, reveal, starts)
    mean = np.zeros(5)
    for b, p in enumerate(chances):
        one = copy.deepcopy(player)
        last = max(a for a in range(5) if starts[a] <= b) if reveal == "all" else b
        one.learn(b if reveal == "played" else 0, last, rewards, chance)
        mean += p * (np.array(one.gains) - player.gains)
    assert np.allclose(mean, rewards, atol=1e-12)


def test_beta_draws_have_the_beta_distribution():
    player = make_bandit("thompson", {"posterior": "beta"}).player(3, seed=1)
    player.learn(0, 2, [0.5] * 3)
    player.pulls, player.total, draws = [1.0, 2.0, 400.0], [0.0, 1.0, 390.0], []
    for _ in range(6000):
        arm = player.choose()
        draws.append(player.draws())  # those of this round, again
        assert draws[-1][arm] == max(draws[-1])
    draws = np.array(draws)
    for a, (n, ones) in enumerate(zip(player.pulls, player.total, strict=True)):
        assert stats.kstest(draws[:, a], stats.beta(1 + ones, 1 + n - ones).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.05


def test_random_rows_follow_from_their_numbers_alone():
    found = []
    for key in ((1, 2, 3), (1, 3, 3), (2, 2, 3), (1, 2, 3, 1)):  # others: stream, seed, series
        forward, backward = RandomRows(NORMAL, *key), RandomRows(NORMAL, *key)
        rows = [backward[t] for t in reversed(range(600))][::-1]
        assert rows == [forward[t] for t in range(600)]
        assert stats.kstest(np.ravel(rows), "norm").pvalue > 1e-3
        found.append(rows)
    assert len(np.unique(found)) == 4 * 600 * 3


def test_binarised_rewards_keep_their_mean_and_come_as_0_and_1():
    player = make_bandit("thompson", {"posterior": "beta"}).player(2, seed=4)
    for _ in range(20_000):
        player.learn(0, 1, [0.3, 0.85])
    assert all(x == int(x) for x in player.total)
    mean = np.array(player.total) / 20_000
    assert np.abs(mean - [0.3, 0.85]).max() < 4 * 0.5 / math.sqrt(20_000)


@given(
    st.floats(0, 1).filter(lambda p: p == 0 or p > 1e-250),  # where p / q is still a number
    st.one_of(st.floats(0, 1e-3), st.floats(0, 60)),
)
@settings(max_examples=300, deadline=None)
def test_kl_bounds_solve_their_equation(p, share):
    found = upper_bound(p, share)
    assert found == pytest.approx(by_bisection(p, share), abs=1e-12)
    assert p - 1e-15 <= found <= 1.0


def play(player, rounds, seed):
    rng, arms = np.random.default_rng(seed), []
    for _ in range(rounds):
        arms.append(player.choose())
        chance = reveal_chances(player.chances, "smaller") if player.chances is not None else None
        player.learn(0, arms[-1], rng.random(4).tolist(), chance)
    return arms


@EVERY
@pytest.mark.parametrize("before", [0, 1, 255, 300])
def test_a_restored_player_goes_on_alike(name, keys, before):
    bandit = make_bandit(name, keys)
    player, other = bandit.player(4, 7, 3), bandit.player(4, 7, 3)
    play(player, before, 0)
    state = player.state()
    other.restore(json.loads(json.dumps(state)))
    assert other.state() == state
    kept = copy.deepcopy(state)
    assert play(other, 300, 1) == play(player, 300, 1)
    assert other.state() == player.state() and state == kept  # which shares nothing


@EVERY
def test_broken_states_are_refused_and_change_nothing(name, keys):
    player = make_bandit(name, keys).player(4)
    play(player, 30, 0)
    state = player.state()
    wrong = (
        None, "x", True, math.nan, math.inf, -1, 1e300, 10**400, 0.3, [], [[]], {}, [math.nan] * 4, ["1"] * 4,
        [True] * 4, [None] * 4, [0] * 100_000, [[30, 0, [0.5]]] * 17, [[30, 3, [0.5, 0.5]]],
    )  # fmt: skip
    for field, value in itertools.product((*state, "else"), wrong):
        if (field, value) != ("chances", None):  # those of a player that has not chosen yet
            refuses("state|pulls|total|" + field, player.restore, {**state, field: value})
            assert player.state() == state


@pytest.mark.parametrize(("name", "keys"), [SPECS[0], SPECS[2], SPECS[8], *DRAWN[:2]], ids=str)
def test_what_cannot_be_learned_is_refused_and_leaves_nothing(name, keys):
    player = make_bandit(name, keys).player(2)
    player.choose()
    state = player.state()
    for reward in (math.nan, math.inf, -0.1, 1.1):
        refuses("rewards", player.learn, 0, 1, [0.5, reward], [1.0, 0.5])
    for first, last in ((-1, 0), (1, 0), (0, 2), (2, 2)):
        refuses("first, last", player.learn, first, last, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
    refuses("'rewards' must be one per arm", player.learn, 0, 1, [0.5], [1.0, 1.0])
    for chance in (None, [0.0, 0.5], [math.nan, 0.5], [1.5, 0.5], [-1.0, 0.5]):
        if name == "exp3":
            refuses("chance", player.learn, 0, 1, [0.5, 0.5], chance)
    assert player.state() == state
    player.learn(0, 0, [0.5, math.nan], [1.0, 0.5])  # what is not read may be anything


def test_names_settings_and_players_are_checked():
    for name, keys in (
        ("ucb2", {}), ("base", {}), (None, {}), ("ucb1", {"x": 1}), ("ucb1", {"c": 0}), ("ucb1", {"c": "1"}),
        ("kl_ucb", {"c": -1}), ("kl_ucb", {"c": math.nan}), ("kl_ucb", {"c": True}),
        ("thompson", {"posterior": "normal"}), ("exp3", {"gamma": 1.1}),
        ("exp3", {"gamma": 0}), ("exp3", {"share": -1}), ("exp3", {"share": 2}),
        ("sliding_window_ucb", {"window": 1}), ("sliding_window_ucb", {"window": 2.5}),
        ("discounted_ucb", {"discount": 1.0}), ("discounted_ucb", {"discount": 0}), ("ucb_v", {"zeta": math.inf}),
    ):  # fmt: skip
        refuses(".", make_bandit, name, keys)
    wrong = (0,), (2, -1), (2.0,), (2, 0, -1), (2, 1 << 70)
    for name, player in itertools.product(("ucb1", "exp3"), wrong):
        refuses(".", make_bandit(name).player, *player)
