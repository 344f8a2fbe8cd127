"""The exit problem as an environment: by hand, by gymnasium's own checks, and beside its own loops."""

import subprocess
import sys

import numpy as np
import pytest
from synthetic import cache

import policyopt as po
from policyopt._table import Tables
from policyopt.runtime._errors import InputError

gym = pytest.importorskip("gymnasium")
from policyopt.rl import ExitEnv, ExitVectorEnv, exit_problem  # noqa: E402

AutoresetMode = gym.vector.AutoresetMode


@pytest.fixture(scope="module")
def problem():
    return exit_problem(cache(400))


def own_costs(n=300):
    rng = np.random.default_rng(0)
    right = rng.random((n, 3)) < [0.6, 0.7, 0.9]
    costs = np.cumsum(rng.uniform(1, 3, (n, 3)), axis=1)
    seen = {"prediction": 1 - right, "confidence": rng.uniform(0.3, 1, (n, 3))}
    return po.from_arrays(correct=right, costs=costs, **seen)


def test_gymnasiums_own_check(problem):
    from gymnasium.utils.env_checker import check_env

    check_env(ExitEnv(problem, price=0.3), skip_render_check=True)
    check_env(ExitEnv(problem, price=(0.01, 1.0), late=True), skip_render_check=True)
    check_env(ExitEnv(own_costs()), skip_render_check=True)


def test_an_episode_by_hand(problem):
    """Costs 1, 2, 4, 8: shares 1/8, 1/4, 1/2, 1. Rewards, exits and observations step by step."""
    env, columns = ExitEnv(problem, price=0.4), problem.samples.columns
    row, place = int(np.flatnonzero(problem.samples.success[:, 2] == 1)[0]), problem.columns
    observation, info = env.reset(options={"row": row})
    assert info == {"row": row, "exit": 0, "price": 0.4}
    np.testing.assert_array_equal(observation[:-1], [*columns[row, 0], 1, 0, 0, 0])
    assert observation[-1] == pytest.approx(np.log10(0.401))
    observation, reward, ended, cut, info = env.step(0)
    assert (reward, ended, cut, info["exit"]) == (pytest.approx(-0.4 / 4), False, False, 1)
    np.testing.assert_array_equal(observation[:place], columns[row, 1])
    assert env.step(0)[1:3] == (pytest.approx(-0.4 / 4), False)
    _, reward, ended, cut, info = env.step(1)
    assert (reward, ended, cut) == (1.0, True, False)
    assert (info["exit"], info["quality"], info["cost"]) == (2, 1.0, 0.5)
    with pytest.raises(InputError, match="Call reset first"):
        env.step(0)
    env.reset(options={"row": 5})  # the last exit is forced
    observation, reward, ended, _, info = [env.step(0) for _ in range(3)][-1]
    assert ended and info["exit"] == 3 and info["cost"] == 1.0
    assert reward == pytest.approx(problem.samples.success[5, 3] - 0.4 / 2)
    assert not observation[:place].any() and observation[-2] == 1.0


@pytest.mark.parametrize("late", [False, True])
def test_what_an_episode_earns_does_not_hang_on_when_it_pays(late):
    problem = exit_problem(own_costs())
    env, table = ExitEnv(problem, price=0.7, late=late), problem.table
    wanted = table.quality - 0.7 * table.costs / table.mean_costs[-1]
    for row, exit in np.ndindex(20, 3):
        env.reset(options={"row": row})
        steps = [env.step(int(k == exit))[1:3] for k in range(min(exit + 1, 2))]
        assert sum(reward for reward, _ in steps) == pytest.approx(wanted[row, exit])
        assert [ended for _, ended in steps] == [False] * (len(steps) - 1) + [True]


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_the_vector_environment_is_many_single_ones(problem, mode):
    """Every episode of it, replayed alone: the same observations, rewards and ends."""
    envs = ExitVectorEnv(problem, 20, price=(0.01, 1.0), autoreset_mode=mode)
    assert envs.metadata["autoreset_mode"] == mode
    rng = np.random.default_rng(1)
    observations, infos = envs.reset(seed=3)
    assert envs.observation_space.contains(observations)
    alone = ExitEnv(problem, price=(0.01, 1.0))
    over = np.zeros(20, bool)
    for _ in range(12):
        actions = rng.integers(0, 2, 20)
        rows, exits, prices = (infos[key].copy() for key in ("row", "exit", "price"))
        seen = observations
        observations, rewards, ended, cut, infos = envs.step(actions)
        assert not cut.any() and envs.observation_space.contains(observations)
        for i in range(20):
            if over[i]:  # NEXT_STEP: this step only began the next episode
                assert rewards[i] == 0 and not ended[i] and infos["exit"][i] == 0
                continue
            alone.reset(options={"row": rows[i]})
            alone._played.exit[:], alone._played.prices[:] = exits[i], prices[i]
            np.testing.assert_array_equal(alone._played.observe()[0], seen[i])
            after, reward, end, _, info = alone.step(int(actions[i]))
            assert (reward, end) == (pytest.approx(rewards[i]), ended[i])
            final = infos
            if mode == AutoresetMode.SAME_STEP and end:
                assert infos["_final_obs"][i] and infos["exit"][i] == 0
                np.testing.assert_array_equal(infos["final_obs"][i], after)
                final = infos["final_info"]
            else:
                np.testing.assert_array_equal(observations[i], after)
            if end:
                assert final["_quality"][i] and final["quality"][i] == info["quality"]
                assert final["cost"][i] == info["cost"]
        over = ended if mode == AutoresetMode.NEXT_STEP else np.zeros(20, bool)
        if mode == AutoresetMode.DISABLED and ended.any():
            with pytest.raises(InputError, match="are over"):
                envs.step(actions)
            observations, infos = envs.reset(options={"reset_mask": ended})
            assert (infos["exit"][ended] == 0).all()


def test_it_is_what_sync_vector_env_would_do(problem):
    mine = ExitVectorEnv(problem, 8, price=0.2)
    theirs = gym.vector.SyncVectorEnv([lambda: ExitEnv(problem, price=0.2)] * 8)
    assert mine.single_observation_space == theirs.single_observation_space
    assert mine.action_space == theirs.action_space
    assert set(mine.reset(seed=0)[1]) == set(theirs.reset(seed=0)[1])
    for actions in ([0] * 8, [1, 0] * 4, [0] * 8, [0] * 8):
        one, two = mine.step(np.array(actions)), theirs.step(np.array(actions))
        np.testing.assert_array_equal(one[2], two[2])
        assert set(one[4]) == set(two[4])
        assert all(one[i].dtype == two[i].dtype for i in range(4))


def test_same_seed_same_episodes(problem):
    for kind, more in ((ExitEnv, ()), (ExitVectorEnv, (9,))):
        a, b, other = (kind(problem, *more, (0.01, 1.0)).reset(seed=seed)[1] for seed in (7, 7, 8))
        for key in ("row", "price"):
            np.testing.assert_array_equal(a[key], b[key])
            assert not np.array_equal(a[key], other[key])


def test_a_problem_like_another_shows_other_rows_by_its_answers_and_standardisation():
    """On the rows of the first, whose answers learn nothing, it is the first; on others what they earn and pay."""
    tables = Tables(cache(4000))
    first = exit_problem(tables, answer="plain")
    again, test = (exit_problem(tables, split, like=first) for split in ("fit", "test"))
    np.testing.assert_allclose(again.samples.columns, first.samples.columns, atol=1e-6)
    for problem, table in ((again, tables.get("fit")), (test, tables.get("test"))):
        np.testing.assert_array_equal(problem.samples.success, table.quality)
        np.testing.assert_allclose(problem.samples.costs, [[1 / 8, 1 / 4, 1 / 2, 1]] * len(table))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: ExitEnv(p, price=-1), "'price' must be a number"),
        (lambda p: ExitEnv(p, price=(0.5, 0.1)), "the lower one first"),
        (lambda p: ExitEnv(p).reset(options={"row": 10_000}), "'row' must be a whole number"),
        (lambda p: ExitVectorEnv(p, 0), "num_envs"),
        (lambda p: ExitEnv(p).step(0), "Call reset first"),
        (lambda p: exit_problem(cache(100), answer="magic"), "answer"),
    ],
)
def test_bad_use_is_named(problem, make, words):
    with pytest.raises(InputError, match=words):
        make(problem)


def test_a_missing_gymnasium_is_named(root):
    ban = "import sys; sys.modules['gymnasium'] = None; from policyopt.rl import exit_problem"
    command = [sys.executable, "-c", f"{ban}; print('so far'); from policyopt.rl import ExitEnv"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.stdout == "so far\n" and "MissingExtraError" in done.stderr
    assert "policyopt[rl]" in done.stderr
