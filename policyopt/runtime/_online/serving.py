"""`Online`: a policy that adapts inside inference code. It decides, takes feedback, and is saved."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from .._bandits import BANDITS, Bandit, make_bandit
from .._checks import check_least, check_one_of, check_seed, check_type, check_whole, to_python
from .._errors import InputError, input_error
from .._family import PolicyFamily, ended, family_from_dict, family_to_dict
from .._files import write_file
from .._forks import Line, parted, tell_of_forks
from .._parameters import Rule
from .._policy import NEVER, Policy, position
from .._reading import read_vectors
from .._routing import RoutingPolicy, check_next, no_thresholds, only_routing
from .._saved_state import check_fields, refused
from .._several import policy_of
from .._strict_json import Form, parse, read_plain, to_text
from .._typing import Floats
from .controller import MAKES_ONE, Controller
from .exit_rules import EXIT_RULES, ExitRule, LinUCB

#: Readings of the gain: AdaEE's ``max(conf_k - conf_0, 0)``; the same without the maximum (UCBEE);
#: of calibrated confidences, signed; correctness at k less that at 0.
REWARDS = ("confidence", "signed", "calibrated", "label")
#: Shares of the overhead on levels of routing, as `load_of` has them: of nothing, of the least, of all models.
ROUTED_LOAD = [0.0, 0.0, 1.0]
#: Whose rewards feedback shows: of the arm played, of all smaller ones, of all that are known.
REVEALS = ("played", "smaller", "all")

ONLINE = Form(
    "a file of an online policy", "policyopt-online", 1,
    {
        "format": str, "version": int, "saves": int, "family": dict, "steering": dict, "settings": dict,
        "state": dict, "sha256": str,
    },
    "`Online.save` writes one.", "Save it again.",
)  # fmt: skip
MAX_BYTES = 64 << 20
_SETTINGS = ("overhead", "offload_at", "reward", "reveal", "seed", "stream")
_AGAIN = "Save it again."
_REMEMBERED = 64  # files that an object may replace, the latest


@dataclass(slots=True, eq=False)
class Request:
    """One request on its way through the exits; made by `Online.start`, used by one thread at a time."""

    owner: Online
    arm: int  #: the level it is served on; for rules by exit, what they planned
    policy: Any
    state: Any  #: of the policy; of routing a Route
    chances: Sequence[float] | None
    full: bool = False  #: it goes to the last exit, whoever steers
    exit: int | None = None  #: position of the exit taken on the policy's path; None on its way
    done: bool = False
    scores: list[float] = field(default_factory=list)
    confidences: list[float] = field(default_factory=list)
    predictions: list[int] = field(default_factory=list)
    hidden: list[Floats] = field(default_factory=list)  #: of its vectors, where the rule reads them

    @property
    def next(self) -> int | None:
        """Of routing: number of the model to ask; None: stop."""
        return self.state.next


class Online:
    """A policy and who steers it: a bandit or the budget controller on a family, or a rule by exit.

    Constant time and memory per request; safe to call from many threads. Per request: `start`,
    `decide` at each exit until it says leave, then `feedback`, at once or whenever it is there.

    Parameters
    ----------
    family : PolicyFamily or Policy
        From a fit or `load_family`: of two levels or more, for bandits of one rule. The controller adds the ends
        that its bound needs (`PolicyFamily.steered`), but none where all levels are certified, or of routing. Rules by
        exit look at no levels: they take a policy.
    steering : Bandit, Controller, LinUCB, SplitEE or UEEUCB
        The last three say at each exit whether to leave, from confidences and predictions (a LinUCB of
        `policyopt.fit_linucb` also from features); the prices of SplitEE and UEEUCB are their own,
        `overhead` is for what `feedback` returns.
    overhead : float or (low, high)
        Of going to the last exit, in units of the reward; earlier exits bear their share by cost.
        A range: `feedback` says each time what it was; without that, the middle counts.
    offload_at : int or sequence of int, optional
        Last exits of tiers, in the model's numbers, as AdaEE has it: the overhead falls due on going on from
        them to the next tier (of several, in equal parts), and exits on one tier bear none of their own.
    reward : {"confidence", "signed", "calibrated", "label"}
        ``calibrated`` takes a policy that carries a confidence map; of routing, ``confidence`` is that of the answer
        given; ``label`` needs `feedback` to say what was correct: it is refused where nothing learns from that
        (SplitEE, UEEUCB, the controller).
    reveal : {"smaller", "played", "all"}
        For bandits: whose rewards feedback counts for; ``all`` only with those that draw; ``played`` on routing.
    seed, stream : int
        Of the bandit's random numbers; servers side by side take streams of their own. Forked
        workers get one each: what they share is what was learned before the fork.

    Examples
    --------
    >>> from policyopt.runtime._policy import Policy
    >>> from policyopt.runtime._scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> family = PolicyFamily.of(policy, [[0.0], [0.5], [1.0]])
    >>> online = Online(family, make_bandit("ucb1"), overhead=0.1)
    >>> request = online.start()
    >>> online.decide(0, [0.9, 0.1], request).exit  # the largest level first: it goes on
    False
    >>> online.decide(1, [0.95, 0.05], request).exit
    True
    >>> round(online.feedback(request), 3)  # 0.95 - 0.9 - 0.1
    -0.05
    """

    def __init__(
        self,
        family: PolicyFamily | Policy,
        steering: Bandit | Controller | ExitRule,
        *,
        overhead: float | Sequence[float] = 0.0,
        offload_at: int | Sequence[int] | None = None,
        reward: str = "confidence",
        reveal: str = "smaller",
        seed: int = 0,
        stream: int = 0,
    ) -> None:
        family = policy_of(family, argument="family", routes=True)
        if isinstance(family, RoutingPolicy):
            family = PolicyFamily((family,))
        elif not isinstance(family, PolicyFamily):
            policy = policy_of(family, single=True, argument="family")
            family = PolicyFamily.of(policy, policy.thresholds[None])
        if isinstance(steering, Controller) and family.levels > 1:
            family = family.steered()
        allowed = "a bandit, a Controller, or a rule by exit such as LinUCB()"
        kinds = (Bandit, Controller, *EXIT_RULES.values())
        check_type("steering", steering, kinds, allowed, "E.g. make_bandit('ucb1').")
        _check_fit(family, steering, reward, reveal)
        if family.routes:
            check_routed(reward, offload_at, reveal if isinstance(steering, Bandit) else "played")
        self.seed = check_seed(seed)
        self.stream = check_whole("stream", stream, 0, 2**63 - 1)
        self.family, self.steering = family, steering
        self._full = ended(family.policy, NEVER)
        self.overhead = overhead_range(overhead)
        self.reward, self.reveal = reward, reveal
        self.requests, self._first = 0, 0  # how many have started, and the number of the first
        self._saves = 0
        #: Checksums of files whose content this object has been through: it may replace them.
        self._own_files: deque[str] = deque(maxlen=_REMEMBERED)
        self.offload_at = tier_ends(offload_at, family.policy.active_exits)
        self._load = ROUTED_LOAD if family.routes else load_of(
            family.policy.costs.tolist(), self.offload_at, family.policy.active_exits
        )  # fmt: skip
        self._least, most_reward = reward_range(reward, self._load, self.overhead)
        self._width = most_reward - self._least
        self._lock = threading.Lock()
        self._play()
        tell_of_forks(self)

    def _play(self) -> None:
        """Make the player of this stream, who knows nothing yet."""
        by_exit = isinstance(self.steering, ExitRule)
        count = self.family.policy.exits if by_exit else self.family.levels
        self._player: Any = self.steering.player(count, self.seed, self.stream)

    def _renew(self, line: Line) -> None:
        """Go on in a forked child, with what was learned and a stream of its own."""
        self._lock = threading.Lock()
        self.stream, self._first = parted(self.stream, line), parted(self._first, line)
        if not isinstance(self.steering, Controller):  # which draws nothing
            learned = self._player.state()
            self._play()
            self._player.restore(learned)

    def start(self, full: bool = False, query: Any = None) -> Request:
        """Begin a request: the level it will be served on is chosen here.

        `full`: it goes to the last exit (of routing: the last model is asked), and nobody learns from it, e.g. once a
        monitor has alarmed. `query`: of routing, see `RoutingPolicy.start`.
        """
        only_routing(self.family.routes, query=query)
        more = {"query": query} if self.family.routes else {}
        with self._lock:
            arm = self.family.levels - 1 if full else self._player.choose()
            chances = None if full else getattr(self._player, "chances", None)
            number, self.requests = self.requests, self.requests + 1
        by_exit = isinstance(self.steering, ExitRule)  # of one policy
        policy = self._full if full else self.family.policies[0 if by_exit else arm]
        return Request(self, arm, policy, policy.start(self._first + number, **more), chances, full)

    def decide(
        self, k: int, output: object, request: Request, features: object = None, cost: float | None = None,
    ) -> Any:  # fmt: skip
        """Decide at exit k.

        Parameters
        ----------
        k : int
            The model's number of the exit: those of `family.policy.active_exits` in turn; of routing `request.next`.
        output, features : object
            What the exit gave, as `Policy.step` takes it. A LinUCB that reads features wants them at all exits
            but the last.
        request : Request
        cost : float, optional
            Of routing: what the call cost, as `RoutingPolicy.step` takes it.

        Returns
        -------
        Decision, or of routing Routed
            Of `Policy.step`, by the thresholds of the request's level; of `RoutingPolicy.step`.

        Raises
        ------
        InputError
            The request has left already, or what `Policy.step` refuses.
        """
        self._check_own(request)
        if request.exit is not None:
            got = "one that has left"
            raise input_error("request", "on its way", got, "One start per request.")
        policy, rule = request.policy, self.steering
        if self.family.routes:
            check_next(k, request.state)
            told = policy.step(output, request.state, cost)
            request.confidences, request.exit = [request.state.confidence], 0 if told.exit else None
            return told
        only_routing(False, cost=cost)
        at = position(policy, k, request.state)
        shown = []
        if isinstance(rule, LinUCB) and rule.hidden is not None and at < policy.exits - 1:
            vectors = read_vectors(k, features, 1, scalar=True)
            shown.append(rule.look(at, vectors, k)[0])  # refused before the request moves on
        decision = policy.step(k, output, request.state, features)
        request.hidden += shown
        request.scores.append(decision.score)
        request.confidences.append(decision.confidence)
        request.predictions.append(decision.number)
        if at < policy.exits - 1 and isinstance(rule, ExitRule) and not request.full:
            with self._lock:  # feedback of another request may be moving the model
                leaves, state = self._player.leaves(request, at), request.state
            state.next = None if leaves else policy.active_exits[at + 1]
            decision = replace(decision, exit=leaves, next=state.next, model=state.model)
        if decision.exit:
            request.exit = at
        return decision

    def feedback(
        self, request: Request, *, correct: Sequence[float] | None = None,
        overhead: float | None = None, cost: float | None = None,
    ) -> float:  # fmt: skip
        """Learn from a request that has left; once per request, in any order, late or never.

        Parameters
        ----------
        request : Request
        correct : sequence of bool or float, optional
            For ``label``: whether the answers of exits 0 to the one taken were right, or their quality in [0, 1]. Of
            routing: of the answer that was given, ``[True]``.
        overhead : float, optional
            What going to the last exit would have cost this time, in units of the reward.
        cost : float, optional
            For the controller: what the request really cost, in the policy's unit; default the mean
            cost of its exit, or of routing what its calls cost.

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
            step = "Call it after decide says leave."
            raise input_error("request", "one that has left, once", got, step)
        steering = self.steering
        if isinstance(steering, Controller):
            _refuse_given("the controller", correct=correct, overhead=overhead)
            routed, own = self.family.routes, request.policy.costs
            mean = request.state.paid if routed else float(own[request.exit])
            paid = check_least("cost", mean if cost is None else cost, 1e300)
            self._learn(request, (steering.share(self.family.ends, paid),))
            return paid
        _refuse_given("all but the controller", cost=cost)
        low, high = self.overhead
        over = check_least("overhead", (low + high) / 2 if overhead is None else overhead)
        if not low <= over <= high:
            step = "Give Online the range that it may have."
            raise input_error("overhead", f"from {low} to {high}", over, step)
        worth = self._worth(request, correct, over)
        if isinstance(steering, ExitRule):
            self._learn(request, (request, worth))
            return worth[request.exit]
        known: list[int | None] = [0] * self.family.levels
        if not self.family.routes:
            last = request.exit == self.family.policy.exits - 1
            known = self.family.taken(request.scores, last)
        scaled = [(value - self._least) / self._width for value in worth]
        rewards = [0.0 if k is None else scaled[k] for k in known]
        chance = None
        if request.chances is not None:
            chance = reveal_chances(request.chances, self.reveal, _starts(known))
        first, last = (0 if self.reveal != "played" else request.arm), request.arm
        if self.reveal == "all":  # levels nest: what is known is one run
            last = max(a for a, k in enumerate(known) if k is not None)
        self._learn(request, (first, last, rewards, chance))
        return worth[request.exit]

    def _check_own(self, request: Any) -> None:
        step = "Pass what its start() returned."
        if check_type("request", request, Request, "a Request", step).owner is not self:
            raise input_error("request", "one that this Online started", "one of another", step)

    def _learn(self, request: Request, feedback: Sequence[Any]) -> None:
        """Hand feedback to the player; of two threads that come with one request, one is refused."""
        with self._lock:
            if request.done:
                raise input_error("request", "one that has left, once", "one learned from before")
            request.done = True
            if not request.full:
                self._player.learn(*feedback)

    def _worth(self, request: Request, correct: Sequence[float] | None, over: float) -> list[float]:
        """Return what each exit seen was worth: its gain over exit 0, less its share of the overhead."""
        levels = request.confidences
        if self.reward == "label":
            count = len(levels)
            listed = hasattr(correct, "__len__") and not isinstance(correct, str)
            given = [to_python(one) for one in correct] if listed and correct is not None else []
            fine = all(isinstance(one, (int, float)) and 0 <= one <= 1 for one in given)
            if len(given) != count or not fine:
                allowed = f"one truth value or quality (0 to 1) per exit seen: {count}"
                raise input_error("correct", allowed, given if listed else correct, "Exits 0 to k.")
            levels = [float(one) for one in given]
        elif correct is not None:
            step = f"Reward '{self.reward}' reads no labels."
            raise input_error("correct", "left out", correct, step)
        if self.family.routes:  # there is no exit 0 to gain over
            called = np.isin(np.arange(self.family.model_exits), list(request.state.seen))
            return [levels[0] - over * float(request.policy.load(called[None])[0])]
        gains = [level - levels[0] for level in levels]
        if self.reward == "confidence":
            gains = [max(gain, 0.0) for gain in gains]
        return [gain - over * share for gain, share in zip(gains, self._load, strict=False)]

    def state(self) -> dict[str, Any]:
        """Return what was learned so far, JSON-able; requests on their way are not in it."""
        with self._lock:
            return {"requests": self.requests, "player": self._player.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`, checked."""
        state = check_fields("state", state, ("requests", "player"))
        if type(state["requests"]) is not int or not 0 <= state["requests"] < 2**62:
            raise refused("requests", "a whole number, 0 or more", state["requests"])
        with self._lock:
            self._player.restore(state["player"])
            self.requests = state["requests"]

    def save(self, path: Any) -> None:
        """Write policy, levels, settings and state as one JSON file, whole or not at all.

        Raises
        ------
        InputError
            The file has been written by another since this object loaded or saved it (what that one
            learned would be lost), or is no such file; the system refuses to write.
        """
        path = Path(check_type("path", path, (str, os.PathLike), "a path", "E.g. online.json."))

        def text() -> str:
            # Asked for while no one else writes the file: two threads that save cannot turn it back.
            if path.exists():
                _check_last_saved(self, path)
            content = online_to_dict(self, self._saves + 1)
            self._saves += 1
            self._own_files.append(content["sha256"])
            return to_text(content, "online policy", MAX_BYTES)

        write_file(path, text)

    @classmethod
    def load(cls, path: Any) -> Online:
        """Read what `save` wrote, checked; it goes on where it stopped.

        Raises
        ------
        InputError
            No such file, not JSON, changed since written, or a field that is not what it must be.
        """
        path = Path(path)
        content = _read(path)
        steering = check_fields("steering", content["steering"], ("name", "settings"))
        given = content["settings"]
        if isinstance(given, Mapping):
            given = {"offload_at": None, **given}
        settings = check_fields("settings", given, _SETTINGS)
        if not isinstance(settings["overhead"], list):  # in a file, a number will not do
            raise input_error("overhead", "a list of two numbers", settings["overhead"], _AGAIN)
        try:
            family = family_from_dict(content["family"], f"family of {path.name}")
            online = cls(family, _steering(steering["name"], steering["settings"]), **settings)
            if online.family is not family:
                allowed = "one whose ends leave at the first exit always, and never early"
                raise input_error(f"family of {path.name}", allowed, "another", _AGAIN)
            online.restore(content["state"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise input_error(path.name, "a whole online policy", str(error), _AGAIN) from error
        online._saves = content["saves"]
        online._own_files.append(content["sha256"])
        return online


# ---- what a request was worth, and how probable it was that it would be shown


def load_of(
    costs: Sequence[float], tiers: Sequence[int] | None = None, exits: Sequence[int] | None = None
) -> list[float]:
    """Return the share of the overhead that leaving at each exit bears.

    By `tiers`, the last of the `exits` (their numbers) on each tier but the last: of the tiers left behind; else by
    cost, or by number if all are alike.

    >>> load_of([1.0, 2.0, 5.0]), load_of([3.0, 3.0]), load_of([1.0, 2.0, 5.0], [1])
    ([0.0, 0.25, 1.0], [0.0, 1.0], [0.0, 0.0, 1.0])
    """
    if tiers:
        return [sum(k > end for end in tiers) / len(tiers) for k in exits or range(len(costs))]
    span, last = costs[-1] - costs[0], max(len(costs) - 1, 1)
    return [(c - costs[0]) / span if span > 0 else k / last for k, c in enumerate(costs)]


def tier_ends(offload_at: Any, exits: Sequence[int]) -> list[int] | None:
    """Return the last exits of tiers, ascending, of a policy's `exits`; None where none are given."""
    if offload_at is None:
        return None
    given = to_python(offload_at)
    ends = list(given) if isinstance(given, (list, tuple)) else [given]
    fine = all(type(k) is int and k in exits[:-1] for k in ends)
    if not ends or not fine or len({*ends}) < len(ends):
        allowed = f"exits before the last, of {', '.join(map(str, exits[:-1]))}"
        step = f"E.g. {exits[-2]}: the last exit alone is on another tier." if exits[1:] else ""
        raise input_error("offload_at", allowed, offload_at, step)
    return sorted(ends)


def reward_range(
    reward: str, load: Sequence[float], overhead: tuple[float, float]
) -> tuple[float, float]:
    """Return the least and the largest reward there can be, by load (K,) and range of the overhead."""
    least = 0.0 if reward == "confidence" else -1.0
    low, high = overhead
    return least - high * max(load), max(0.0, 1.0 - low * min(load[1:], default=1.0))


def overhead_range(overhead: Any) -> tuple[float, float]:
    """Return an overhead, a number or a pair, as a range."""
    ends = overhead if isinstance(overhead, (tuple, list)) else (overhead, overhead)
    ends = [to_python(x) for x in ends]
    fine = len(ends) == 2 and all(type(x) in (int, float) for x in ends)
    if not fine or not 0 <= ends[0] <= ends[1] < 1e6:
        raise input_error("overhead", "a number, 0 or more, or a range", overhead, "E.g. 0.1.")
    return float(ends[0]), float(ends[1])


def reveal_chances(
    probabilities: Sequence[float], reveal: str, start: Sequence[int] = ()
) -> Sequence[float]:
    """Return the probability that each arm's reward becomes known; `start`: smallest arm with the same exit."""
    if reveal == "played":
        return probabilities
    tail = list(accumulate(reversed(probabilities)))[::-1]
    return tail if reveal == "smaller" else [tail[a] for a in start]


def _starts(known: list[int | None]) -> list[int]:
    """Return, per arm, the smallest arm next to it that takes the same exit."""
    found = list(range(len(known)))
    for a in range(1, len(known)):
        if known[a] is not None and known[a] == known[a - 1]:
            found[a] = found[a - 1]
    return found


# ---- what goes together


def check_routed(reward: str, offload_at: Any, reveal: str) -> None:
    """Refuse what is said of exits in turn, where levels ask models in any order."""
    if offload_at is not None:
        raise no_thresholds("offload_at")
    if reward not in ("confidence", "label"):
        step = "No exit 0 is there to gain over; confidence is that of the answer given."
        raise input_error("reward", "confidence or label for routing", reward, step)
    if reveal != "played":
        step = 'Say reveal="played" (command line: --reveal played): others are not always seen.'
        raise input_error("reveal", "played for bandits on routing", reveal, step)


def _check_fit(family: PolicyFamily, steering: Any, reward: str, reveal: str) -> None:
    """Refuse a family that this steering cannot move along, and settings that it would not look at."""
    for name, value, known in (("reward", reward, REWARDS), ("reveal", reveal, REVEALS)):
        check_one_of(name, value, known, f"E.g. {known[0]}.")
    who = steering.name
    if reward == "calibrated" and family.policy.calibrator is None:
        allowed = "confidence, signed or label for a policy without a confidence map"
        raise input_error("reward", allowed, reward, "Fit with --calibrator platt.")
    if reward == "label" and not isinstance(steering, (Bandit, LinUCB)):
        raise input_error("reward", f"label-free for {who}", reward, "It learns from no labels.")
    if not isinstance(steering, Bandit) and reveal != "smaller":
        raise input_error("reveal", f"left out for {who}", reveal, "Bandits look at it.")
    if isinstance(steering, ExitRule):
        if family.routes:
            raise no_thresholds("family", who)
        if family.levels > 1:
            got = f"a family of {family.levels} levels"
            raise input_error("family", f"a policy, for {who}", got, "It looks at no levels.")
        if family.all_certified:
            got = f"{who}, which looks at the request at each exit"
            step = "No certificate of the policy covers that: steer certified levels, or give a policy without one."
            raise input_error("steering", "one that plays certified levels alone", got, step)
    elif family.levels < 2:
        allowed = f"of at least 2 levels, for {who}"
        raise input_error("family", allowed, family.levels, f"{MAKES_ONE} makes one.")
    if isinstance(steering, Controller):
        steering.check_family(family)
    if isinstance(steering, Bandit) and not family.routes:
        _ = family.thresholds  # refuses levels of several rules
        if reveal == "all" and not steering.draws:
            allowed = "smaller or played for bandits that draw nothing"
            step = "Rewards of larger arms are known for hard inputs only: exp3 weighs them."
            raise input_error("reveal", allowed, reveal, step)
        check_nested(reveal, family.nested)


def check_nested(reveal: str, nested: bool) -> None:
    """Refuse side information where levels do not nest."""
    if reveal != "played" and not nested:
        step = "A larger level that leaves earlier hides what a smaller one would do: family.steered() nests."
        raise input_error("reveal", "played for a family whose levels do not nest", reveal, step)


def _refuse_given(who: str, **given: Any) -> None:
    """Refuse feedback that nobody would look at."""
    for name, value in given.items():
        if value is not None:
            raise input_error(name, f"left out for {who}", value, "It is not looked at.")


# ---- the file: policy, levels, settings and state in one JSON, checked when loaded


def online_to_dict(online: Online, saves: int) -> dict[str, Any]:
    """Return the file's content, checksum included; `saves`: how often its line was saved."""
    settings = {name: getattr(online, name) for name in _SETTINGS}
    own = {one.name: getattr(online.steering, one.name) for one in fields(online.steering)}  # type: ignore[arg-type]
    own = {
        name: value.params() if isinstance(value, Rule) else value for name, value in own.items()
    }
    return ONLINE.signed(
        saves=saves,
        family=family_to_dict(online.family),
        steering={"name": online.steering.name, "settings": own},
        settings={**settings, "overhead": list(online.overhead)},
        state=online.state(),
    )


def _check_last_saved(online: Online, path: Path) -> None:
    """Refuse a file that holds what this object never knew."""
    try:
        content = _read(path)
    except InputError as error:
        allowed, got = "a new file, or one that Online.save wrote", f"{path} ({error})"
        raise input_error("path", allowed, got, "Save to another file.") from error
    if content["sha256"] not in online._own_files:
        allowed = f"a file that this object was the last to save (it has {online._saves} saves)"
        got = f"{path}, which another has saved since ({content['saves']} saves)"
        step = "Load it and go on from there, give each process a file of its own, or delete it."
        raise input_error("path", allowed, got, step)


def _read(path: Path) -> dict[str, Any]:
    """Return a file's content, its form and checksum checked."""
    data = read_plain(path, "online policy", MAX_BYTES, ONLINE.step)
    content = parse(data, path.name, MAX_BYTES, "Is the file whole? Save it again.")
    ONLINE.check(content, path.name)
    check_whole(f"saves of {path.name}", content["saves"], step=_AGAIN)
    return content


def _steering(name: Any, settings: Any) -> Bandit | Controller | ExitRule:
    """Return who steers, by name."""
    check_type("settings of the steering", settings, Mapping, "a mapping", _AGAIN)
    if name in BANDITS:
        return make_bandit(name, settings)
    others = {Controller.name: Controller, **EXIT_RULES}
    if name not in others:
        raise InputError(f"'{name}' steers nothing that this version knows.")
    try:
        return others[name](**settings)
    except TypeError as error:
        raise input_error(f"settings of {name}", "those it has", settings, _AGAIN) from error
