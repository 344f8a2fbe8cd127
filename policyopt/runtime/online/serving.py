"""`Online`: a policy that adapts inside inference code. It decides, takes feedback, and is saved."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..bandits import Bandit
from ..bandits.parts.reveal import reveal_chances
from ..checks import check_seed, check_type, check_whole
from ..decision import Decision
from ..errors import input_error
from ..experts import policy_of
from ..forks import Line, parted, tell_of_forks
from ..policy import Policy
from .by_exit import ByExit, driver
from .controller import Controller, OneController
from .ladder import Ladder
from .rewards import gain, load_of, overhead_range, reward_range
from .steering import KINDS, check_fit, refuse_given

_REMEMBERED = 64  # files that an object may replace, the latest


class Request:
    """One request on its way through the exits; made by `Online.start`, used by one thread at a time.

    Attributes
    ----------
    arm : int
        The rung it is served on; for those that choose by exit, what they planned.
    exit : int or None
        Position of the exit taken on the policy's path; None as long as it is on its way.
    """

    __slots__ = (
        "arm", "chances", "done", "exit", "levels", "owner", "predictions", "scores", "state",
    )  # fmt: skip

    def __init__(self, owner: Online, arm: int, state: Any, chances: Any) -> None:
        self.owner, self.arm, self.state, self.chances = owner, arm, state, chances
        self.exit: int | None = None
        self.done = False
        self.scores: list[float] = []
        self.levels: list[float] = []
        self.predictions: list[int] = []


class Online:
    """A policy and who steers it: a bandit or the budget controller on a ladder, or a rule by exit.

    Constant time and memory per request; safe to call from many threads. Per request: `start`,
    `decide` at each exit until it says leave, then `feedback`, at once or whenever it is there.

    Parameters
    ----------
    ladder : Ladder or Policy
        E.g. from `policyopt.online.ladders`: of two rungs or more. Rules by exit look at no rungs:
        they take a policy.
    steering : Bandit, Controller, LinUCB, SplitEE or UEEUCB
        The last three say at each exit whether to leave, from confidences and predictions; the
        prices of SplitEE and UEEUCB are their own, `overhead` is for what `feedback` returns.
    overhead : float or (low, high)
        Of going to the last exit, in units of the reward; earlier exits bear their share by cost.
        A range: `feedback` says each time what it was; without that, the middle counts.
    reward : str
        One of `policyopt.runtime.online.rewards.REWARDS`. ``calibrated`` takes a policy that
        carries a confidence map; ``label`` needs `feedback` to say what was correct: it is refused
        where nothing learns from that (SplitEE, UEEUCB, the controller).
    reveal : {"smaller", "played", "all"}
        For bandits: whose rewards feedback counts for; ``all`` only with those that draw.
    seed, stream : int
        Of the bandit's random numbers; servers side by side take streams of their own. Forked
        workers get one each: what they share is what was learned before the fork.

    Examples
    --------
    >>> from policyopt.runtime.policy import Policy
    >>> from policyopt.runtime.scores import MaxProb
    >>> from policyopt.runtime.bandits import make_bandit
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> online = Online(Ladder(policy, [[0.0], [0.5], [1.0]]), make_bandit("ucb1"), overhead=0.1)
    >>> request = online.start()
    >>> online.decide(0, [0.9, 0.1], request).exit  # the largest rung first: it goes on
    False
    >>> online.decide(1, [0.95, 0.05], request).exit
    True
    >>> round(online.feedback(request), 3)  # 0.95 - 0.9 - 0.1
    -0.05
    """

    def __init__(
        self,
        ladder: Ladder | Policy,
        steering: Bandit | Controller | ByExit,
        *,
        overhead: float | Sequence[float] = 0.0,
        reward: str = "confidence",
        reveal: str = "smaller",
        seed: int = 0,
        stream: int = 0,
    ) -> None:
        if not isinstance(ladder, Ladder):
            policy = policy_of(ladder, single=True, argument="ladder")
            ladder = Ladder(policy, policy.thresholds[None])
        allowed = "a bandit, a Controller, or a rule by exit such as LinUCB()"
        check_type("steering", steering, KINDS, allowed, "E.g. make_bandit('ucb1').")
        check_fit(ladder, steering, reward, reveal)
        self.seed = check_seed(seed)
        self.stream = check_whole("stream", stream, 0, 2**63 - 1)
        self.ladder, self.steering = ladder, steering
        self.overhead = overhead_range(overhead)
        self.reward, self.reveal = reward, reveal
        self.requests, self._first = 0, 0  # how many have started, and the number of the first
        self._saves = 0
        #: Checksums of files whose content this object has been through: it may replace them.
        self._own_files: deque[str] = deque(maxlen=_REMEMBERED)
        self._load = load_of(ladder.policy.costs.tolist())
        self._least, most_reward = reward_range(reward, self._load, self.overhead)
        self._width = most_reward - self._least
        self._rows = ladder.thresholds.tolist()
        self._lock = threading.Lock()
        self._play()
        tell_of_forks(self)

    def _play(self) -> None:
        """Make the player of this stream, who knows nothing yet."""
        steering, ladder = self.steering, self.ladder
        self._driver: Any = None
        if isinstance(steering, ByExit):
            self._driver = driver(steering, ladder.policy.exits, self.seed, self.stream)
            self._player: Any = self._driver.player
        elif isinstance(steering, Bandit):
            self._player = steering.one(ladder.arms, self.seed, self.stream)
        else:
            self._player = steering.one(ladder.arms)

    def _renew(self, line: Line) -> None:
        """Go on in a forked child, with what was learned and a stream of its own."""
        self._lock = threading.Lock()
        self.stream, self._first = parted(self.stream, line), parted(self._first, line)
        if not isinstance(self.steering, Controller):  # which draws nothing
            learned = self._player.state()
            self._play()
            self._player.restore(learned)

    def start(self) -> Request:
        """Begin a request: the rung it will be served on is chosen here."""
        with self._lock:
            chooser = self._player if self._driver is None else self._driver
            arm = chooser.choose()
            chances = getattr(chooser, "chances", None)
            number, self.requests = self.requests, self.requests + 1
        return Request(self, arm, self.ladder.policy.start(self._first + number), chances)

    def decide(self, k: int, output: object, request: Request, features: object = None) -> Decision:
        """Decide at exit k.

        Parameters
        ----------
        k : int
            The model's number of the exit: those of `ladder.policy.path` in turn.
        output, features : object
            What the exit gave, as `Policy.step` takes it.
        request : Request

        Returns
        -------
        Decision
            Of `Policy.step`, by the thresholds of the request's rung.

        Raises
        ------
        InputError
            The request has left already, or what `Policy.step` refuses.
        """
        self._check_own(request)
        if request.exit is not None:
            raise input_error(
                "request", "on its way", "one that has left", "One start per request."
            )
        policy = self.ladder.policy
        decision = policy.step(k, output, request.state, features)
        at = request.state.position - 1
        request.scores.append(decision.score)
        request.levels.append(decision.confidence)
        request.predictions.append(decision.prediction)
        if at < policy.exits - 1:
            decision = replace(decision, exit=self._leaves(request, at))
        if decision.exit:
            request.exit = at
        return decision

    def _leaves(self, request: Request, at: int) -> bool:
        if self._driver is None:
            return bool(request.scores[at] >= self._rows[request.arm][at])
        with self._lock:  # feedback of another request may be moving the model
            return self._driver.leaves(request, at)

    def feedback(
        self, request: Request, *, correct: Sequence[bool] | None = None,
        overhead: float | None = None, cost: float | None = None,
    ) -> float:  # fmt: skip
        """Learn from a request that has left; once per request, in any order, late or never.

        Parameters
        ----------
        request : Request
        correct : sequence of bool, optional
            For ``label``: whether the answers of exits 0 to the one taken were right.
        overhead : float, optional
            What going to the last exit would have cost this time, in units of the reward.
        cost : float, optional
            For the controller: what the request really cost, in the policy's unit; default the mean
            cost of its exit.

        Returns
        -------
        float
            The reward; for the controller, the cost.

        Raises
        ------
        InputError
            The request has not left, or was learned from before; labels missing or superfluous.
        """
        self._check_own(request)
        if request.exit is None or request.done:
            got = "one still on its way" if request.exit is None else "one learned from before"
            raise input_error(
                "request", "one that has left, once", got, "Call it after decide says leave."
            )
        if isinstance(self._player, OneController):
            refuse_given("the controller", correct=correct, overhead=overhead)
            return self._charge(request, cost)
        refuse_given("all but the controller", cost=cost)
        low, high = self.overhead
        over = (low + high) / 2 if overhead is None else overhead
        if not low <= over <= high:
            allowed = f"from {low} to {high}"
            raise input_error("overhead", allowed, over, "Give Online the range that it may have.")
        levels = self._levels(request, correct)
        every = [gain(self.reward, levels, k) - over * self._load[k] for k in range(len(levels))]
        if self._driver is not None:
            with self._lock:
                self._claim(request)
                self._driver.learn(request, every)
            return every[request.exit]
        scaled = [(value - self._least) / self._width for value in every]
        known = self.ladder.taken(request.scores, request.exit == self.ladder.policy.exits - 1)
        rewards = [0.0 if k is None else scaled[k] for k in known]
        chance = None
        if request.chances is not None:
            chance = reveal_chances(list(request.chances), self.reveal, _starts(known))
        with self._lock:
            self._claim(request)
            for first, last in self._known(request.arm, known):
                self._player.learn(first, last, rewards, chance)
        return every[request.exit]

    def _check_own(self, request: Any) -> None:
        step = "Pass what its start() returned."
        if check_type("request", request, Request, "a Request", step).owner is not self:
            raise input_error("request", "one that this Online started", "one of another", step)

    def _claim(self, request: Request) -> None:
        """Mark a request as learned from; of two threads that come with it, one is refused."""
        if request.done:
            raise input_error("request", "one that has left, once", "one learned from before", "")
        request.done = True

    def _charge(self, request: Request, cost: float | None) -> float:
        costs = self.ladder.policy.costs
        paid = float(costs[request.exit]) if cost is None else float(cost)
        if not 0 <= paid < 1e300:
            raise input_error("cost", "a number, 0 or more", paid, "In the policy's unit.")
        assert isinstance(self.steering, Controller)
        share = self.steering.share(costs, paid)
        with self._lock:
            self._claim(request)
            self._player.learn(share)
        return paid

    def _levels(self, request: Request, correct: Sequence[bool] | None) -> list[float]:
        """Return confidences, or correctness, of the exits seen."""
        if self.reward != "label":
            if correct is not None:
                raise input_error(
                    "correct", "left out", correct, f"Reward '{self.reward}' reads no labels."
                )
            return request.levels
        wanted = f"one truth value per exit seen: {len(request.levels)}"
        if isinstance(correct, str) or not hasattr(correct, "__len__"):
            raise input_error(
                "correct", wanted, "none" if correct is None else correct, "Exits 0 to k."
            )
        assert correct is not None
        if len(correct) != len(request.levels) or not all(right in (0, 1) for right in correct):
            raise input_error("correct", wanted, list(correct), "For exits 0 to k, in order.")
        return [float(right) for right in correct]

    def _known(self, arm: int, known: list[int | None]) -> list[tuple[int, int]]:
        """Return the runs of arms whose rewards count."""
        if self.reveal == "played":
            return [(arm, arm)]
        last = arm if self.reveal == "smaller" else len(known) - 1
        while last > arm and known[last] is None:  # rungs nest: what is known is one run
            last -= 1
        return [(0, last)]

    def state(self) -> dict[str, Any]:
        """Return what was learned so far, JSON-able; requests on their way are not in it."""
        with self._lock:
            return {"requests": self.requests, "player": self._player.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, checked."""
        if not isinstance(state, Mapping) or state.keys() != {"requests", "player"}:
            raise input_error("state", "a mapping of player and requests", state, "Start anew.")
        if type(state["requests"]) is not int or not 0 <= state["requests"] < 2**62:
            raise input_error(
                "requests", "a whole number, 0 or more", state["requests"], "Start anew."
            )
        with self._lock:
            self._player.restore(state["player"])
            self.requests = state["requests"]

    def save(self, path: Any) -> None:
        """Write policy, rungs, settings and state as one JSON file, whole or not at all.

        Raises
        ------
        InputError
            The file has been written by another since this object loaded or saved it (what that one
            learned would be lost), or is no such file; the system refuses to write.
        """
        from .online_file import save_online

        save_online(self, path)

    @classmethod
    def load(cls, path: Any) -> Online:
        """Read what `save` wrote, checked; it goes on where it stopped.

        Raises
        ------
        InputError
            No such file, not JSON, changed since written, or a field that is not what it must be.
        """
        from .online_file import load_online

        return load_online(path)


def _starts(known: list[int | None]) -> list[int]:
    """Return, per arm, the smallest arm next to it that takes the same exit."""
    found = list(range(len(known)))
    for a in range(1, len(known)):
        if known[a] is not None and known[a] == known[a - 1]:
            found[a] = found[a - 1]
    return found
