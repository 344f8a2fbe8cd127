"""The exit problem as `gymnasium` environments: one sample at a time, or thousands side by side.

An episode is one sample of a cache. At each exit but the last the agent sees its history features, the
exit and the price of cost, and goes on (0) or leaves (1); going on from the last exit but one ends at
the last one, where leaving is forced and nothing is asked. Undiscounted, an episode earns the
quality of the answer it left with, less price times the cost of getting there, cost in shares of the
full model. By default each step pays for the exits it runs, the first one for exit 0 too; with
``late=True`` all is paid at the end. Costs may differ by sample.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._cache.data import ExitData
from policyopt._methods.reinforcement import Episodes, drawn_prices, log_price
from policyopt._optional import need
from policyopt.rl._problem import ExitProblem, exit_problem
from policyopt.runtime._checks import check_least, check_seed, check_whole
from policyopt.runtime._errors import input_error
from policyopt.runtime._scores.history import CLIP
from policyopt.runtime._typing import Array, Bools, Floats

gym = need("gymnasium", "rl", "for the exit problem as an environment")
vector = need("gymnasium.vector", "rl", "for the exit problem as an environment")

Observation = npt.NDArray[np.float32]
Price = float | tuple[float, float]
_MOST = 1000.0  # a price beyond which every cost is beyond every worth


class ExitEnv(gym.Env):
    """One sample at a time.

    Parameters
    ----------
    problem : ExitProblem or ExitData
        Of a cache, the problem of its rows ``fit``.
    price : float or (float, float)
        Success that the full model's cost is worth; of a pair, the logarithm is drawn evenly per episode.
    late : bool
        Pay at the end of the episode instead of at each step.

    Notes
    -----
    ``observation_space``: ``Box`` of M + K + 1 float32: basis columns of the standardised history
    features (zeros at the last exit, which decides nothing), exit one-hot, log10(price + 0.001).
    ``action_space``: ``Discrete(2)``. The info has the sample's number (``row``), ``exit`` and ``price``;
    at the end also ``quality`` and ``cost`` (share of the full model). ``reset(options={"row": 7})``
    plays that sample, else a random one.

    Examples
    --------
    >>> import policyopt as po
    >>> logits = np.random.default_rng(0).normal(size=(300, 3, 4))
    >>> env = ExitEnv(po.from_arrays(logits, np.arange(300) % 4, [1.0, 2.0, 4.0]), price=0.4)
    >>> observation, info = env.reset(seed=0)
    >>> observation.shape, info["exit"]
    ((32,), 0)
    >>> observation, reward, terminated, truncated, info = env.step(0)
    >>> round(reward, 2), terminated, info["exit"]
    (-0.2, False, 1)
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own form)

    def __init__(
        self, problem: ExitProblem | ExitData, price: Price = 0.1, late: bool = False
    ) -> None:
        self.problem, self._range = _posed(problem), _checked(price)
        self._played = Episodes(self.problem.samples, late)
        self.render_mode = None
        self.observation_space = _seen(self.problem)
        self.action_space = gym.spaces.Discrete(2)
        self._ended = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin an episode."""
        super().reset(seed=None if seed is None else check_seed(seed))
        row, rows = (options or {}).get("row"), len(self.problem)
        if row is None:
            row = self.np_random.integers(rows)
        row = check_whole("row", row, 0, rows - 1, "Rows are counted from 0.")
        self._played.start(np.array([row]), _prices(self.np_random, self._range, 1))
        self._ended = False
        return self._played.observe()[0], self._info()

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Go on (0) or leave (1)."""
        if self._ended:
            raise input_error("step", "called in an episode", "none has begun", "Call reset first.")
        if not self.action_space.contains(action):
            raise input_error("action", "0 (go on) or 1 (leave)", action)
        rewards, ended = self._played.step(np.array([action]))
        self._ended, info = bool(ended[0]), self._info()
        if self._ended:
            info |= {key: value[0].item() for key, value in _outcome(self._played).items()}
        return self._played.observe()[0], float(rewards[0]), self._ended, False, info

    def _info(self) -> dict[str, Any]:
        return {key: value[0].item() for key, value in _place(self._played).items()}


class ExitVectorEnv(vector.VectorEnv):
    """Thousands of samples side by side, without a loop over them.

    Parameters
    ----------
    problem : ExitProblem or ExitData
        As of `ExitEnv`.
    num_envs : int
        Episodes at once.
    price : float or (float, float)
        As of `ExitEnv`.
    late : bool
        As of `ExitEnv`.
    autoreset_mode : gymnasium.vector.AutoresetMode, optional
        ``NEXT_STEP`` (default): the step after an episode's end begins the next one, whatever the
        action, with a reward of 0. ``SAME_STEP``: the step that ends an episode also begins the next;
        info has ``final_obs`` and ``final_info``. ``DISABLED``: ``reset(options={"reset_mask": ...})``.

    Examples
    --------
    >>> import policyopt as po
    >>> logits = np.random.default_rng(0).normal(size=(300, 3, 4))
    >>> envs = ExitVectorEnv(
    ...     po.from_arrays(logits, np.arange(300) % 4, [1, 2, 4]), 1000, (0.01, 1.0)
    ... )
    >>> observations, infos = envs.reset(seed=0)
    >>> observations.shape, infos["row"].shape
    ((1000, 32), (1000,))
    >>> envs.step(np.ones(1000, dtype=int))[2].all()
    np.True_
    """

    def __init__(
        self,
        problem: ExitProblem | ExitData,
        num_envs: int,
        price: Price = 0.1,
        late: bool = False,
        autoreset_mode: Any = None,
    ) -> None:
        self.problem, self._range = _posed(problem), _checked(price)
        self.num_envs = num_envs = check_whole("num_envs", num_envs)
        self.autoreset_mode = vector.AutoresetMode(
            vector.AutoresetMode.NEXT_STEP if autoreset_mode is None else autoreset_mode
        )
        self.metadata = {"autoreset_mode": self.autoreset_mode, "render_modes": []}
        self._played = Episodes(self.problem.samples, late)
        self.single_observation_space = _seen(self.problem)
        self.single_action_space = gym.spaces.Discrete(2)
        batch = vector.utils.batch_space
        self.observation_space = batch(self.single_observation_space, num_envs)
        self.action_space = batch(self.single_action_space, num_envs)
        self._all = np.ones(num_envs, dtype=bool)
        self._ended = self._all.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin all episodes, or those of ``options["reset_mask"]``, (num_envs,) bool."""
        super().reset(seed=None if seed is None else check_seed(seed))
        which = self._all
        if options and "reset_mask" in options:
            which = np.asarray(options["reset_mask"])
            if which.shape != (self.num_envs,) or which.dtype != bool or not which.any():
                got = f"shape {which.shape}, dtype {which.dtype}"
                raise input_error("reset_mask", f"{self.num_envs} truth values, one true", got)
        if len(self._played.rows) != self.num_envs:
            self._played.start(np.zeros(self.num_envs, np.int64), np.zeros(self.num_envs))
        self._begin(which)
        return self._played.observe(), self._info(self._all)

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Go on (0) or leave (1), one action per episode."""
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or not np.isin(actions, (0, 1)).all():
            allowed = f"{self.num_envs} of 0 (go on) or 1 (leave)"
            raise input_error("actions", allowed, actions.shape)
        played, over, modes = self._played, self._ended, vector.AutoresetMode
        begun = len(played.rows) == self.num_envs
        if not begun or (over.any() and self.autoreset_mode != modes.NEXT_STEP):
            got = f"{over.sum()} are over" if begun else "none has begun"
            raise input_error("step", "called in episodes", got, "Call reset first.")
        rewards, ended = np.zeros(self.num_envs), ~self._all
        if not over.all():
            # Those that are over take no step: their exit is put back by the reset below.
            rewards, ended = played.step(np.where(over, 1, actions))
            rewards, ended = np.where(over, 0.0, rewards), ended & ~over
        if over.any():
            self._begin(over)
        self._ended = ended
        observations, infos = played.observe(), self._info(self._all)
        if ended.any():
            final = {k: np.where(ended, v, 0) for k, v in _outcome(played).items()}
            final |= {f"_{key}": ended.copy() for key in final}
            if self.autoreset_mode == modes.SAME_STEP:
                last = np.full(self.num_envs, None, dtype=object)
                for i in np.flatnonzero(ended):  # gymnasium's own form: an array of arrays
                    last[i] = observations[i]
                final |= self._info(ended)
                self._begin(ended)
                observations, infos = played.observe(), self._info(self._all)
                infos |= {"final_obs": last, "_final_obs": ended.copy()}
                infos |= {"final_info": final, "_final_info": ended.copy()}
            else:
                infos |= final
        return observations, rewards, ended.copy(), ~self._all, infos

    def _begin(self, which: Bools) -> None:
        """Put random samples in place of some."""
        count = int(which.sum())
        rows = self.np_random.integers(len(self.problem), size=count)
        self._played.restart(which, rows, _prices(self.np_random, self._range, count))
        self._ended = self._ended & ~which

    def _info(self, which: Bools) -> dict[str, Any]:
        infos = {key: np.where(which, value, 0) for key, value in _place(self._played).items()}
        return infos | {f"_{key}": which.copy() for key in infos}


def _posed(problem: ExitProblem | ExitData) -> ExitProblem:
    return problem if isinstance(problem, ExitProblem) else exit_problem(problem)


def _checked(price: Price) -> tuple[float, float]:
    """Return the range of prices."""
    ends = price if isinstance(price, (tuple, list)) and len(price) == 2 else (price, price)
    low, high = (check_least("price", end, _MOST) for end in ends)
    if low > high or low == 0 < high:
        allowed = f"a number in [0, {_MOST:g}], or two of them, both over 0, the lower one first"
        step = "E.g. 0.1: the full model may cost a tenth of a right answer."
        raise input_error("price", allowed, price, step)
    return float(low), float(high)


def _prices(rng: np.random.Generator, ends: tuple[float, float], count: int) -> Floats:
    return np.full(count, ends[0]) if ends[0] == ends[1] else drawn_prices(rng, count, ends)


def _seen(problem: ExitProblem) -> Any:
    """Return the space of observations: features are cut at +-CLIP, so squares at CLIP squared."""
    most = np.full(problem.columns + problem.exits + 1, CLIP * CLIP, dtype=np.float32)
    low = -most
    low[problem.columns : -1], most[problem.columns : -1] = 0.0, 1.0
    low[-1], most[-1] = log_price(np.array([0.0, 2 * _MOST]))
    return gym.spaces.Box(low, most, dtype=np.float32)


def _place(played: Episodes) -> dict[str, Array]:
    """Return where the episodes are."""
    return {"row": played.rows, "exit": played.exit, "price": played.prices}


def _outcome(played: Episodes) -> dict[str, Array]:
    """Return what leaving where the episodes are gives, and costs."""
    at, samples = (played.rows, played.exit), played.samples
    return {"quality": samples.success[at], "cost": samples.costs[at]}
