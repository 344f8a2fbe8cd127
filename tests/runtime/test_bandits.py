"""Bandits: against formulas summed anew from the history, one stream against many, saved states."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from policyopt.runtime import InputError
from policyopt.runtime.bandits import BANDITS, make_bandit
from policyopt.runtime.bandits.kl_ucb import upper_bound, upper_bounds
from policyopt.runtime.bandits.parts.noise import BLOCK, normals, uniforms
from policyopt.runtime.bandits.parts.reveal import REVEALS, reveal_chances

SPECS = [
    ("ucb1", {}),
    ("ucb1", {"c": 0.3}),
    ("ucb_tuned", {}),
    ("ucb_v", {}),
    ("ucb_v", {"zeta": 1.2, "c": 0.5}),
    ("kl_ucb", {}),
    ("kl_ucb", {"c": 3}),
    ("sliding_window_ucb", {"window": 2}),
    ("sliding_window_ucb", {"window": 17}),
    ("discounted_ucb", {"discount": 0.9}),
    ("discounted_ucb", {"discount": 0.01}),
    ("thompson", {}),
]
DRAWN = [("thompson", {"posterior": "beta"}), ("exp3", {}), ("exp3", {"share": 0.01})]
EVERY = pytest.mark.parametrize(("name", "keys"), [*SPECS, *DRAWN], ids=str)
REWARDS = {
    "any": lambda rng, shape: rng.random(shape),
    "0 or 1": lambda rng, shape: rng.integers(0, 2, shape).astype(float),
    "tenths": lambda rng, shape: rng.integers(0, 4, shape) / 10,  # sums that differ by rounding
    "alike": lambda rng, shape: np.full(shape, 0.3),
    "ends": lambda rng, shape: rng.choice([-1e-9, 0.0, 1.0, 1.0 + 1e-9], shape),
}
SEED = st.integers(0, 2**31)


# ---- against the formulas of the papers, everything summed anew each round


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

    def index(self, t, n, mean, variance, a):
        k, log = self.keys, math.log(t)
        if self.name == "ucb1":
            return mean + k.get("c", 1.0) * math.sqrt(log / n)
        if self.name == "ucb_tuned":
            return mean + math.sqrt(log / n * min(0.25, variance + math.sqrt(2 * log / n)))
        if self.name == "ucb_v":
            e = k.get("zeta", 1.0) * log
            return mean + math.sqrt(2 * variance * e / n) + 3 * k.get("c", 1.0) * e / n
        if self.name == "kl_ucb":
            level = log + k.get("c", 0.0) * (math.log(log) if log > 1 else 0.0)
            return by_bisection(min(max(mean, 0.0), 1.0), level / n)
        if self.name == "sliding_window_ucb":
            return mean + math.sqrt(0.6 * math.log(min(t, k["window"])) / n)
        if self.name == "discounted_ucb":
            rounds = math.fsum(k["discount"] ** i for i in range(t))
            return mean + 2 * math.sqrt(0.6 * math.log(rounds) / n)
        assert self.name == "thompson"
        z = normals(self.seed, 5, (t - 1) // BLOCK, self.arms)[(t - 1) % BLOCK, a]
        return mean + z * math.sqrt(min(0.25, variance + math.sqrt(2 * math.log(t) / n)) / n)

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
    """Feedback of one arm or of all smaller ones; some of it late, some lost."""
    for seed in range(3):
        rng = np.random.default_rng(seed)
        arms = int(rng.integers(1, 6))
        player = make_bandit(name, keys).one(arms, seed, 5)
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
    player = make_bandit("exp3", keys).one(arms, seed=3, stream=2)
    weights, gains, share = np.ones(arms), np.zeros(arms), keys.get("share", 0.0)
    for t in range(1, 400):
        if "gamma" in keys:
            gamma = keys["gamma"]
        elif share:
            horizon = 1 / share
            gamma = min(
                1, math.sqrt(arms * (math.log(arms * horizon) + math.e) / (math.e - 1) / horizon)
            )
        else:
            gamma = min(1, math.sqrt(arms * math.log(arms) / (math.e - 1) / t))
            weights = np.exp(gamma / arms * gains)
        chances = (1 - gamma) * weights / weights.sum() + gamma / arms
        arm = player.choose()
        assert np.allclose(player.chances, chances, atol=1e-12)
        u = uniforms(3, 2, (t - 1) // BLOCK, 1)[(t - 1) % BLOCK, 0]
        assert arm == int(np.searchsorted(np.cumsum(chances), u * chances.sum(), side="right"))
        rewards = rng.random(arms) * [0.2, 0.9, 0.5, 0.4]
        player.learn(arm, arm, rewards.tolist())
        estimate = np.where(np.arange(arms) == arm, rewards / chances, 0.0)
        gains += estimate
        weights = weights * np.exp(gamma / arms * estimate) + math.e * share / arms * weights.sum()


@pytest.mark.parametrize("reveal", REVEALS)
def test_exp3_estimates_are_unbiased(reveal):
    """The mean estimate over all arms that might have been played is the reward, for every arm."""
    starts, rewards = (
        [0, 0, 2, 3, 3],
        [0.9, 0.1, 0.5, 0.0, 1.0],
    )  # arms 0 and 1 leave alike, 3 and 4
    player = make_bandit("exp3", {"gamma": 0.3}).one(5)
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
    player = make_bandit("thompson", {"posterior": "beta"}).one(3, seed=1)
    player.pulls, player.total, player._empty = [1.0, 2.0, 400.0], [0.0, 1.0, 390.0], 0
    draws = np.array([player._noise_of(t) for t in range(6000)])
    for a, (n, ones) in enumerate(zip(player.pulls, player.total, strict=True)):
        assert stats.kstest(draws[:, a], stats.beta(1 + ones, 1 + n - ones).cdf).pvalue > 1e-3
    assert np.abs(np.corrcoef(draws.T) - np.eye(3)).max() < 0.05


def test_binarised_rewards_keep_their_mean_and_come_as_0_and_1():
    player = make_bandit("thompson", {"posterior": "beta"}).one(2, seed=4)
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
    assert upper_bounds(np.array([p]), np.array([share]))[0] == pytest.approx(found, abs=1e-14)
    assert found == pytest.approx(by_bisection(p, share), abs=1e-12)
    assert p - 1e-15 <= found <= 1.0


# ---- one stream and many


@EVERY
@settings(max_examples=15, deadline=None)
@given(seed=SEED, arms=st.integers(1, 7), kind=st.sampled_from(sorted(REWARDS)), side=st.booleans())
def test_one_stream_plays_as_many_do(name, keys, seed, arms, kind, side):
    rng = np.random.default_rng(seed)
    streams, rounds = 3, 70
    bandit = make_bandit(name, keys)
    many = bandit.many(arms, streams, seed)
    ones = [bandit.one(arms, seed, r) for r in range(streams)]
    rewards = REWARDS[kind](rng, (rounds, streams, arms))
    late = []
    for t in range(rounds):
        chosen = many.choose()
        assert chosen.tolist() == [one.choose() for one in ones]
        chance = None
        if bandit.draws:
            assert (many.chances == [one.chances for one in ones]).all()
            chance = reveal_chances(many.chances, "smaller" if side else "played")
        columns = np.arange(arms)
        seen = columns <= chosen[:, None] if side else columns == chosen[:, None]
        seen = seen & (rng.random(streams) < 0.8)[:, None]
        late.append((seen, rewards[t], chance))
        for _ in range(int(rng.integers(0, 3))):
            if late:
                seen, row, chance = late.pop(0)
                many.learn(seen, row, chance)
                for r, one in enumerate(ones):
                    if seen[r].any():
                        first, last = np.nonzero(seen[r])[0][[0, -1]].tolist()
                        one.learn(
                            first, last, row[r].tolist(), None if chance is None else chance[r]
                        )
    for part in ("pulls", "total", "square", "choices", "gains"):
        if hasattr(many, part):
            assert (getattr(many, part) == [getattr(one, part) for one in ones]).all(), part


@pytest.mark.parametrize("kind", ["any", "tenths", "0 or 1"])
@EVERY
def test_one_stream_plays_as_many_do_for_long(name, keys, kind):
    """Past the blocks of random numbers, and with arms that are all good, so that indices are near."""
    bandit, rounds = make_bandit(name, keys), 2 * BLOCK + 80
    rewards = REWARDS[kind](np.random.default_rng(0), (rounds, 2, 5))
    many, ones = bandit.many(5, 2, 9), [bandit.one(5, 9, r) for r in range(2)]
    for row in rewards:
        chosen = many.choose()
        assert chosen.tolist() == [one.choose() for one in ones]
        many.learn(np.arange(5) == chosen[:, None], row)
        for one, arm, x in zip(ones, chosen.tolist(), row.tolist(), strict=True):
            one.learn(arm, arm, x)


def test_streams_of_many_differ_and_are_those_of_one():
    bandit = make_bandit("thompson")
    first, second = bandit.one(3, 0, 0), bandit.one(3, 0, 1)
    for player in (first, second):
        player.learn(0, 2, [0.5, 0.5, 0.5])
    assert [first.choose() for _ in range(50)] != [second.choose() for _ in range(50)]


# ---- saved states


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
    player, other = bandit.one(4, 7, 3), bandit.one(4, 7, 3)
    play(player, before, 0)
    other.restore(json.loads(json.dumps(player.state())))
    assert other.state() == player.state()
    assert play(other, 300, 1) == play(player, 300, 1)
    assert other.state() == player.state()


def test_a_saved_state_shares_nothing_with_the_player():
    player = make_bandit("sliding_window_ucb", {"window": 3}).one(4)
    play(player, 10, 0)
    state = player.state()
    kept = copy.deepcopy(state)
    play(player, 10, 1)
    assert state == kept


HOSTILE = st.sampled_from(
    [None, "x", "1", True, math.nan, math.inf, -1, -0.5, 1e300, 10**400, 0.3, [], [[]], {}, [1, 2],
     [math.nan] * 4, [-1.0] * 4, ["1"] * 4, [1e9] * 4, [True] * 4, [0.5] * 4, [None] * 4,
     [0.0] * 4, [0] * 100_000, [[[0, [0.5]]]] * 17, [[[3, [0.5, 0.5]]]] * 17, 7]
)  # fmt: skip


@EVERY
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_hostile_states_are_refused_by_name_or_played(name, keys, data):
    """Whatever a state holds: an error that names it and changes nothing, or a player that works."""
    bandit = make_bandit(name, keys)
    player = bandit.one(4)
    play(player, 30, 0)
    kept, state = player.state(), player.state()
    field = data.draw(st.sampled_from([*sorted(state), "else"]))
    value = data.draw(HOSTILE)
    if isinstance(state.get(field), list) and state[field] and data.draw(st.booleans()):
        state[field] = list(state[field])
        state[field][data.draw(st.integers(0, len(state[field]) - 1))] = value
    else:
        state[field] = value
    try:
        player.restore(state)
    except InputError as error:
        assert "state" in str(error) or field in str(error) or field in ("pulls", "total")
        assert player.state() == kept
    else:
        play(player, 60, 1)
        json.dumps(player.state(), allow_nan=False)


@EVERY
@pytest.mark.parametrize("state", [None, [], {}, "ucb1", {"rounds": 1}])
def test_states_with_other_fields_are_refused(name, keys, state):
    with pytest.raises(InputError, match="state of the bandit"):
        make_bandit(name, keys).one(4).restore(state)


def test_a_state_of_other_arms_is_refused():
    state = make_bandit("ucb1").one(3).state()
    with pytest.raises(InputError, match="4 numbers"):
        make_bandit("ucb1").one(4).restore(state)


# ---- what comes in


@EVERY
@pytest.mark.parametrize("reward", [math.nan, math.inf, -0.1, 1.1])
def test_rewards_outside_0_to_1_are_refused_and_leave_nothing(name, keys, reward):
    bandit = make_bandit(name, keys)
    player, many = bandit.one(2), bandit.many(2, 1)
    player.choose()
    many.choose()
    state = player.state()
    with pytest.raises(InputError, match="rewards"):
        player.learn(0, 1, [0.5, reward], [1.0, 0.5])
    assert player.state() == state
    with pytest.raises(InputError, match="rewards"):
        many.learn(np.ones((1, 2), dtype=bool), np.array([[0.5, reward]]), np.array([[1.0, 0.5]]))
    many.learn(np.array([[True, False]]), np.array([[0.5, reward]]), np.array([[1.0, 0.5]]))


@EVERY
@pytest.mark.parametrize(("first", "last"), [(-1, 0), (1, 0), (0, 2), (2, 2)])
def test_arms_that_there_are_not(name, keys, first, last):
    with pytest.raises(InputError, match="first, last"):
        make_bandit(name, keys).one(2).learn(first, last, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0])


@pytest.mark.parametrize("chance", [None, [0.0, 0.5], [math.nan, 0.5], [1.5, 0.5], [-1.0, 0.5]])
def test_exp3_needs_the_chance_of_several_rewards(chance):
    player = make_bandit("exp3").one(2)
    player.choose()
    state = player.state()
    with pytest.raises(InputError, match="chance"):
        player.learn(0, 1, [0.5, 0.5], chance)
    assert player.state() == state


@EVERY
def test_feedback_that_never_comes(name, keys):
    """The arms take turns where they are not drawn, and nothing breaks, discounted counts included."""
    player = make_bandit(name, keys).one(3)
    arms = [player.choose() for _ in range(30)]
    assert make_bandit(name, keys).draws or arms == [2, 1, 0] * 10
    player.learn(0, 2, [0.5, 0.5, 0.5], [1.0, 1.0, 1.0])
    assert all(0 <= player.choose() < 3 for _ in range(2000))


@pytest.mark.parametrize("discount", [1e-300, 0.01, 0.9, 0.9999])
def test_discounted_sums_over_many_weights(discount):
    """The growing weight, brought down now and then, gives what fading every round gives."""
    player = make_bandit("discounted_ucb", {"discount": discount}).one(2)
    n, total = [0.0, 0.0], [0.0, 0.0]
    rng = np.random.default_rng(0)
    for t in range(5000):
        player.choose()
        n, total = [discount * x for x in n], [discount * x for x in total]
        if t % 50 == 0:
            x = float(rng.random())
            player.learn(1, 1, [0.0, x])
            n[1], total[1] = n[1] + 1, total[1] + x
            assert player.pulls[1] / player.weight == pytest.approx(n[1], rel=1e-9)
            assert player.total[1] / player.pulls[1] == pytest.approx(total[1] / n[1], rel=1e-9)
    assert player.pulls[0] == 0


def test_a_window_does_not_gather_rounding_errors():
    window, rng = 7, np.random.default_rng(0)
    player = make_bandit("sliding_window_ucb", {"window": window}).one(2)
    rows = rng.random((50_000, 2)).tolist()
    for row in rows:
        player.choose()
        player.learn(0, 1, row)
    for a in range(2):
        assert player.pulls[a] == window
        assert abs(player.total[a] - math.fsum(row[a] for row in rows[-window:])) < 1e-14


# ---- what comes of it


@EVERY
def test_the_best_arm_is_found(name, keys):
    if "window" in keys or "discount" in keys:  # those of the other tests forget nearly all
        keys = {}
    if "share" in keys:
        keys = {"share": 1e-3, "gamma": 0.1}
    rng, means = np.random.default_rng(0), np.array([0.2, 0.8, 0.3])
    many, late = make_bandit(name, keys).many(3, 20), 0
    for t in range(1500):
        arm = many.choose()
        rewards = (rng.random((20, 3)) < means).astype(float)
        many.learn(np.arange(3) == arm[:, None], rewards)
        late += int((arm == 1).sum()) if t >= 1000 else 0
    assert late / (20 * 500) > 0.6


def test_what_forgets_follows_a_change():
    def share(name, keys):
        rng, many, late = np.random.default_rng(0), make_bandit(name, keys).many(2, 20), 0
        for t in range(3000):
            arm = many.choose()
            means = [0.8, 0.3] if t < 2000 else [0.3, 0.8]
            rewards = (rng.random((20, 2)) < means).astype(float)
            many.learn(np.arange(2) == arm[:, None], rewards)
            late += int((arm == 1).sum()) if t >= 2500 else 0
        return late / (20 * 500)

    assert share("sliding_window_ucb", {"window": 300}) > 0.7
    assert share("discounted_ucb", {"discount": 0.99}) > 0.6
    assert share("exp3", {"share": 1e-3, "gamma": 0.2}) > 0.6
    assert share("exp3", {}) < 0.4  # what does not forget, does not


# ---- the chance that a reward becomes known


@given(data=st.data(), arms=st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_reveal_chances_by_brute_force(data, arms):
    p = np.array(data.draw(st.lists(st.floats(0.01, 1), min_size=arms, max_size=arms)))
    p /= p.sum()
    new = data.draw(st.lists(st.booleans(), min_size=arms - 1, max_size=arms - 1))
    starts = [0]
    for a, is_new in enumerate(new, 1):
        starts.append(a if is_new else starts[-1])
    shows = {  # is the reward of a known when b is played?
        "played": lambda a, b: a == b,
        "smaller": lambda a, b: a <= b,
        "all": lambda a, b: starts[a] <= starts[b],
    }
    for mode in REVEALS:
        wanted = [sum(p[b] for b in range(arms) if shows[mode](a, b)) for a in range(arms)]
        plain = reveal_chances(p.tolist(), mode, starts)
        assert isinstance(plain, list)
        assert plain == pytest.approx(wanted, abs=1e-12)
        both = reveal_chances(np.stack([p, p]), mode, np.array([starts, starts]))
        assert (both == plain).all()


def test_reveal_names_what_it_knows():
    with pytest.raises(InputError, match="played, smaller, all"):
        reveal_chances([1.0], "larger")


# ---- names and settings


def test_bandits_are_found_by_their_files():
    assert set(BANDITS) == {
        "discounted_ucb", "exp3", "kl_ucb", "sliding_window_ucb", "thompson", "ucb1", "ucb_tuned", "ucb_v",
    }  # fmt: skip
    for name, bandit in BANDITS.items():
        assert bandit.name == name and bandit.summary and bandit().name == name


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("ucb2", {}), ("base", {}), (None, {}), ("ucb1", {"x": 1}), ("ucb1", {"c": 0}), ("ucb1", {"c": "1"}),
        ("kl_ucb", {"c": -1}), ("kl_ucb", {"c": math.nan}), ("kl_ucb", {"c": True}),
        ("thompson", {"posterior": "normal"}), ("exp3", {"gamma": 1.1}),
        ("exp3", {"gamma": 0}), ("exp3", {"share": -1}), ("exp3", {"share": 2}),
        ("sliding_window_ucb", {"window": 1}), ("sliding_window_ucb", {"window": 2.5}),
        ("discounted_ucb", {"discount": 1.0}), ("discounted_ucb", {"discount": 0}), ("ucb_v", {"zeta": math.inf}),
    ],
)  # fmt: skip
def test_names_and_settings_are_checked(name, keys):
    with pytest.raises(InputError):
        make_bandit(name, keys)


@EVERY
def test_players_are_checked(name, keys):
    bandit = make_bandit(name, keys)
    for call in (
        lambda: bandit.one(0), lambda: bandit.one(2, -1), lambda: bandit.many(2, 0),
        lambda: bandit.one(2.0), lambda: bandit.one(2, 0, -1), lambda: bandit.many(2, 2, 1 << 70),
    ):  # fmt: skip
        with pytest.raises(InputError):
            call()


def test_thompson_does_not_give_up_an_arm_for_a_few_zeros():
    """Bernoulli(0.3) beside a constant 0.2: the better arm often begins with zeros."""
    rng, streams = np.random.default_rng(0), 200
    many = make_bandit("thompson").many(2, streams, seed=1)
    lost = early = np.zeros(streams)
    for t in range(6000):
        if t == 2000:
            early = lost.copy()
        arm = many.choose()
        lost += 0.1 * (arm == 1)
        rewards = np.stack([rng.random(streams) < 0.3, np.full(streams, 0.2)], axis=1)
        many.learn(np.arange(2) == arm[:, None], rewards.astype(float))
    # Who gave the arm up for good would lose 400 more; a few streams did.
    assert (lost - early).max() < 80 and (lost - early).mean() < 8
