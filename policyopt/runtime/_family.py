"""`PolicyFamily`: policies of one fit, their levels ordered by cost, in one file.

A level may be chosen per request (slow moments, premium users), by a controller, or by a bandit. One level for
all samples decides exactly as its own policy does. Levels that share one rule differ in their thresholds alone.
Levels may be routing policies, too: they share their ensemble and, neighbours, an arm.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _routing as routing
from ._certificate import certificate_of, says
from ._errors import BudgetError, InputError, input_error
from ._files import write_file
from ._parameters import numbers
from ._policy import (
    ALWAYS,
    NEVER,
    POLICY,
    Policy,
    first_exit,
    from_dict,
    own_from_dict,
    own_to_dict,
    read_json,
    to_dict,
)
from ._routing import ROUTING, Arm, RoutingPolicy
from ._several import Several, policy_of
from ._strict_json import AGAIN, Form, check_fields, to_text
from ._typing import Floats

MAX_LEVELS = 10_000
MAX_FAMILY_BYTES = 64 << 20
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_NEAR = 1e-9  # share by which a budget may be passed: rounding
#: Fields of a policy's file that levels may differ in, though they share a rule; of routing, likewise.
_OWN = ("thresholds", "mixture", "provenance", "abstention?")
_OWN_ROUTING = ("arms", "share", "seed", "explore?", "provenance")
#: Fields that all levels share.
_SHARED = ("kind", "classes", "unit", "model_exits")


@dataclass(frozen=True, eq=False, repr=False)
class PolicyFamily(Several):
    """Policies of one fit, from the cheapest level to the dearest: numpy only, ready to deploy.

    Parameters
    ----------
    policies : tuple of Policy, or of RoutingPolicy
        One per level, for the same model and unit.
    expected_costs : array of shape (A,), optional
        Mean cost to expect of each level, in the unit, rising.
    budgets : array of shape (A,), optional
        What each level was fitted for, in the unit, rising; default as `expected_costs`.
    full_cost : float, optional
        What 100 % is: mean cost of the full model. Default: what the dearest level's last exit costs.
    names : tuple of str, optional
        What people call the levels, e.g. ("thrifty", "usual", "premium").
    provenance : mapping
        What the levels' provenances share; JSON-able, not used to decide.

    Raises
    ------
    InputError
        No level, costs that do not rise, policies that do not fit each other.

    Examples
    --------
    >>> from policyopt.runtime._scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> family = PolicyFamily.of(policy, [[0.6], [0.9]], expected_costs=[1.5, 2.5])
    >>> family.at("60%").thresholds, family.at(1).thresholds  # at most 1.8 ms; level 1
    (array([0.6]), array([0.9]))
    >>> outputs = np.array([[[0.8, 0.2], [1, 0]], [[0.8, 0.2], [0, 1]]])
    >>> family.decide(outputs, level=[0, 1]).exit
    array([0, 1])
    >>> family.step(0, [0.8, 0.2], family.start(1)).exit
    False
    """

    policies: tuple[Any, ...]
    expected_costs: Floats | None = None
    budgets: Floats | None = None
    full_cost: float | None = None
    names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    role, routable = "level", True
    remedy = "Number the levels from 0, the cheapest."
    singly = "Take a level: family.at(0), or family.at('35%') (command line: --level)."

    def __post_init__(self) -> None:
        self._check_alike()
        if not 1 <= self.levels <= MAX_LEVELS:
            allowed = f"1 to {MAX_LEVELS}, one per level"
            raise input_error("policies", allowed, self.levels, "Fit with fewer budgets.")
        if len({isinstance(policy, RoutingPolicy) for policy in self.policies}) > 1:
            step = "Fit them by one method."
            raise input_error("policies", "all of routing, or none", "some of each", step)
        names = tuple(self.names) if isinstance(self.names, (list, tuple)) else (None,)
        fits = all(isinstance(name, str) and _NAME.fullmatch(name) for name in names)
        if not fits or len(set(names)) < len(names) or len(names) not in (0, self.levels):
            allowed = f"none, or {self.levels} different ones that begin with a letter"
            raise input_error("names of levels", allowed, self.names, "E.g. thrifty, premium.")
        object.__setattr__(self, "names", names)
        for what in ("expected_costs", "budgets"):
            if (given := getattr(self, what)) is not None:
                rising = numbers(what, given, 1)
                if len(rising) != self.levels or (np.diff(rising) <= 0).any() or rising[0] < 0:
                    allowed = f"{self.levels} rising numbers, from the cheapest level on"
                    raise input_error(what, allowed, rising.tolist(), "Leave out equal levels.")
                object.__setattr__(self, what, rising)
        if self.budgets is not None and self.expected_costs is None:
            step = "Say what the levels are to cost."
            raise input_error("expected_costs", "given beside budgets", "none", step)
        if self.full_cost is not None:
            full = float(numbers("full_cost", [self.full_cost], 1)[0])
            if not full > 0:
                raise input_error("full_cost", "over 0", full, "In the unit of the costs.")
            object.__setattr__(self, "full_cost", full)

    @classmethod
    def of(
        cls, policy: Policy, thresholds: npt.ArrayLike, expected_costs: Any = None, **more: Any
    ) -> PolicyFamily:
        """Return the family of one policy with A sets of thresholds, (A, K-1), and no coin."""
        policy, table = policy_of(policy, single=True), numbers("thresholds", thresholds, 2)
        if not len(table) or table.shape[1] != policy.exits - 1:
            allowed = f"of shape (A, {policy.exits - 1})"
            raise input_error("thresholds", allowed, f"shape {table.shape}", "One row per level.")
        if policy.mixture is not None:
            step = "Fit without mix; equal scores need one: take another."
            raise input_error("policy", "without a mixture", "one that draws a coin", step)
        each = tuple(replace(policy, thresholds=row) for row in table[:MAX_LEVELS])
        return cls(each, expected_costs, **more)

    def named(self) -> str:
        return f"a family of {self.levels} levels"

    @property
    def levels(self) -> int:
        """A."""
        return len(self.policies)

    def __len__(self) -> int:
        return self.levels

    def number(self, level: int | float | str) -> int:
        """Return the number of a level.

        Parameters
        ----------
        level : int, float or str
            A whole number counts the levels from 0, the cheapest. A number with a point is a budget in the
            unit, ``"35%"`` one in % of the full model: the dearest level for at most that. Or a name. Texts
            stand for what they spell.

        Raises
        ------
        InputError
            No such level.
        BudgetError
            The cheapest level costs more.
        """
        given: Any = level.item() if isinstance(level, np.generic) else level
        if isinstance(given, str) and given in self.names:
            return self.names.index(given)
        share = isinstance(given, str) and given.strip().endswith("%")
        if isinstance(given, str):
            text = given.strip().removesuffix("%")
            try:
                given = int(text) if re.fullmatch(r"\d{1,9}", text) and not share else float(text)
            except ValueError:
                given = None
        if type(given) is int and 0 <= given < self.levels:
            return given
        if type(given) is not float or not np.isfinite(given) or self.expected_costs is None:
            raise input_error("level", self.told(), level, "E.g. 0, the cheapest.")
        most = (given / 100 * self.full if share else given) * (1 + _NEAR)
        # A level is for its budget, by however little new rows are to cost more.
        for_budget = self.expected_costs if self.budgets is None else self.budgets
        found = int(np.searchsorted(np.minimum(self.expected_costs, for_budget), most, "right"))
        if not found:
            least = float(min(self.expected_costs[0], for_budget[0]))
            raise BudgetError(
                f"No level costs {most:.6g} {self.unit} or less: the cheapest costs {least:.6g} "
                f"{self.unit}, {100 * least / self.full:.3g} % of the full model. Take level 0, or fit "
                "a family with smaller budgets."
            )
        return found - 1

    @property
    def full(self) -> float:
        """What 100 % is, in the unit."""
        last = self.policies[-1]
        if self.full_cost is not None:
            return self.full_cost
        return float(last.costs.sum() if self.routes else last.costs[-1] - last.overhead[-1])

    def told(self) -> str:
        """Return what a level may be, for people."""
        of = f"from 0 (the cheapest) to {self.levels - 1}"
        named = f", one of {', '.join(self.names[:8])}" if self.names else ""
        if self.expected_costs is None:
            return f"a whole number {of}{named}"
        low, high = (100 * float(c) / self.full for c in self.expected_costs[[0, -1]])
        unit = f"{float(f'{self.expected_costs[-1]:.4g}')} ({self.unit}, with a point)"
        return f"a whole number {of}{named}, a budget such as {unit}, or one from {low:.3g}% to {high:.3g}%"

    def at(self, level: int | float | str) -> Any:
        """Return the policy of one level, which `number` finds: e.g. ``"35%"``, or 0."""
        return self.policies[self.number(level)]

    def start(
        self, level: int | float | str | npt.ArrayLike, samples: int | npt.ArrayLike | None = None,
        query: npt.ArrayLike | None = None,
    ) -> Any:  # fmt: skip
        """Begin one sample, or several side by side.

        Parameters
        ----------
        level : as `number` takes it, or array of shape (n,), int
            One for all, or the number of each sample's level; of routing, one sample at a time.
        samples : int or array of shape (n,), int, optional
            The samples' numbers, see `Policy.start`, `RoutingPolicy.start`; of several samples, 0..n-1.
        query : array of shape (D,), where levels `need_query`
            See `RoutingPolicy.start`.

        Returns
        -------
        SeveralState, or of routing Route
        """
        routing.only_routing(self.routes, query=query)
        return self._start(level, samples, query)

    def decide(
        self,
        outputs: object,
        level: int | float | str | npt.ArrayLike,
        samples: npt.ArrayLike | None = None,
        features: Any = None,
        costs: npt.ArrayLike | None = None,
        query: npt.ArrayLike | None = None,
    ) -> Any:
        """Decide for many samples whose outputs are all known.

        Parameters
        ----------
        outputs, samples, features, costs, query
            As `Policy.decide` and `RoutingPolicy.decide` take them.
        level : as `number` takes it, or array of shape (N,), int
            One for all, or the number of each sample's level.

        Returns
        -------
        Decisions, or of routing Followed

        Raises
        ------
        InputError
            As `Policy.decide`; no such level.
        """
        routing.only_routing(self.routes, costs=costs, query=query)
        if isinstance(level, str) or np.ndim(level) == 0:
            more = (costs, query) if self.routes else (features,)
            return self.at(level).decide(outputs, samples, *more)  # type: ignore[arg-type]
        return self._decide(outputs, level, samples, features, costs, query)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artifact, one JSON file, atomically."""
        write_file(path, to_text(family_to_dict(self), "policy", MAX_FAMILY_BYTES, indent=1))

    # What controllers and bandits ask for.

    def certified(
        self, claim: str, confidence: float = 0.95, *, by_request: bool = False
    ) -> PolicyFamily:
        """Return the levels that carry a certificate of a claim: a floor that no bandit and no controller goes under.

        Parameters
        ----------
        claim : str
            E.g. ``"drop<=1%"``; a certificate of less will do.
        confidence : float
            Of the certificate, at least.
        by_request : bool
            Who chooses looks at the request itself: only certificates that cover this count.
        """
        found = [certificate_of(policy) for policy in self.policies]
        said = [one is not None and says(one, claim, confidence, by_request) for one in found]
        kept = np.flatnonzero(said).tolist()
        if not kept:
            allowed = f"a claim that a level carries a certificate of, at {100 * confidence:g} %"
            allowed += ", that covers levels chosen by the request" if by_request else ""
            known = {f"{c['claim']} at {100 * (c['confidence'] or 0):g} %" for c in found if c}
            got = f"{claim}, of levels with {'; '.join(sorted(known)) or 'none, or changed since'}"
            step = f'`policyopt certify CACHE --risk "{claim}" --confidence {100 * confidence:g}% --family'
            step += " --covers request` makes one." if by_request else "` makes one."
            raise input_error("certified", allowed, got, step)
        if len({one["tested"] for a in kept if (one := found[a])}) > 1:
            allowed, step = (
                "of levels of one test: these hold together",
                "Certify them as one family.",
            )
            raise input_error("certified", allowed, "levels of several", step)
        if len(kept) == self.levels:
            return self
        both = self.expected_costs, self.budgets
        costs, budgets = (None if c is None else c[kept] for c in both)
        each, names = (tuple(of[a] for a in kept if of) for of in (self.policies, self.names))
        return replace(self, policies=each, expected_costs=costs, budgets=budgets, names=names)

    @cached_property
    def all_certified(self) -> bool:
        """Whether every level carries a certificate: then nobody adds levels, or moves them."""
        return all(certificate_of(policy) is not None for policy in self.policies)

    @cached_property
    def one_rule(self) -> bool:
        """Whether levels differ in their thresholds alone, and none draws a coin or abstains."""
        plain = not self.routes and all(
            p.mixture is None and p.abstention is None for p in self.policies
        )
        return plain and len({_key(content) for content in _rules(self.policies)}) == 1

    @property
    def policy(self) -> Any:
        """The dearest level's policy; of one rule, it scores and answers for all of them."""
        return self.policies[-1]

    @cached_property
    def thresholds(self) -> Floats:
        """Of levels of one rule: level a leaves at the first k with ``score >= thresholds[a, k]``, (A, K-1)."""
        if not self.one_rule:
            allowed = (
                "of one rule on all levels, without a coin: a bandit learns of all from one score"
            )
            got = "levels whose scores, answers or exits differ, or that draw a coin"
            raise input_error("family", allowed, got, "Fit max_prob; or steer by a Controller.")
        return np.array([policy.thresholds for policy in self.policies])

    @cached_property
    def nested(self) -> bool:
        """Whether no sample leaves earlier on a larger level: playing one shows what smaller ones would have done."""
        return self.one_rule and bool((np.diff(self.thresholds, axis=0) >= 0).all())

    def steered(self) -> PolicyFamily:
        """Return the family that a controller moves along: its ends leave at the first exit always, and never early.

        Of one rule, a threshold that would fall from one level to the next is held, so that the levels nest. Levels
        that are all certified stay as they are, and those of routing, whose ends are what was fitted.
        """
        if self.routes or self.all_certified:
            return self
        each, nested = list(self.policies), self.nested or not self.one_rule
        if not nested:
            held = np.maximum.accumulate(self.thresholds, axis=0)
            each = [replace(p, thresholds=t) for p, t in zip(each, held, strict=True)]
        first, last = each[0], each[-1]
        before = [] if _leaves_all(first, ALWAYS) else [ended(first, ALWAYS)]
        behind = [] if _leaves_all(last, NEVER) else [ended(last, NEVER)]
        if nested and not before and not behind:
            return self
        costs = self.expected_costs
        if costs is not None:
            low, high = ([float(p.costs[k]) for p in end] for end, k in ((before, 0), (behind, -1)))
            inside = (costs > max([*low, -1.0])) & (costs < min([*high, np.inf]))
            each = [p for p, kept in zip(each, inside, strict=True) if kept]
            costs = np.array([*low, *costs[inside], *high])
        return PolicyFamily((*before, *each, *behind), costs, None, self.full_cost)

    @cached_property
    def ends(self) -> Floats:
        """Costs between which a controller's budget is a share: of first and last exit; of routing, of its levels."""
        if not self.routes:
            return self.policy.costs[[0, -1]]
        known, each = self.expected_costs, self.policy.costs
        return (
            np.array([each.min(), each.sum()])
            if known is None or self.levels < 2
            else known[[0, -1]]
        )

    def exits_of(self, scores: Floats) -> npt.NDArray[np.integer]:
        """Return the exit of each row (n, K) on each level of one rule: (n, A), int8 (int64 where K passes 127).

        Of routing, whose outcomes are looked up by level, the level.
        """
        if self.routes:
            return np.tile(np.arange(self.levels), (len(scores), 1))
        dtype = np.int8 if self.policy.exits < 128 else np.int64
        found = np.empty((len(scores), self.levels), dtype=dtype)
        for a, thresholds in enumerate(self.thresholds):
            found[:, a] = first_exit(scores, thresholds)
        return found

    @cached_property
    def _columns(self) -> list[list[float]]:
        """Per exit, the thresholds of all levels as plain numbers, for `taken`."""
        return self.thresholds.T.tolist()

    def taken(self, scores: Sequence[float], last: bool) -> list[int | None]:
        """Return the exit of each level of one rule as far as the scores of one sample's first exits tell.

        `last`: it went to the last exit, whose score is not looked at. None: the level would have gone on
        beyond what was seen.
        """
        exits = self.policy.exits
        found: list[int | None] = [exits - 1 if last else None] * self.levels
        for k in reversed(range(min(len(scores), exits - 1))):
            for a, threshold in enumerate(self._columns[k]):
                if scores[k] >= threshold:
                    found[a] = k
        return found


def ended(policy: Any, end: float) -> Any:
    """Return a policy that leaves at the first exit always (`ALWAYS`), or never early (`NEVER`).

    Of routing, for `NEVER`: that asks the last model, with which certificates compare.
    """
    if isinstance(policy, RoutingPolicy):
        last = policy.model_exits - 1
        arm = Arm(last, (routing.Standing((last,), np.ones(1), last),))
        return replace(policy, arms=(arm,), share=0.0, explore=0.0)
    return replace(policy, thresholds=np.full(policy.exits - 1, end), mixture=None)


def _leaves_all(policy: Policy, end: float) -> bool:
    """Whether a policy leaves at the first exit always (`ALWAYS`), or never early (`NEVER`)."""
    some = policy.thresholds[:1] if end == ALWAYS else policy.thresholds
    return policy.mixture is None and bool((some <= end if end == ALWAYS else some >= end).all())


FAMILY = Form(
    "a file of a policy family", "policyopt-family", 1,
    {
        "format": str, "version": int,
        **{name: POLICY.fields[name] for name in _SHARED},
        "full_cost": (int, float, type(None)),  # what 100 % is; null: the dearest level's last exit
        "rules": list,  # what else a policy's file holds, but for what levels have of their own
        "arms?": list,  # of routing policies, each once: levels have their numbers
        "levels": list,  # from the cheapest to the dearest: see `LEVELS`
        "provenance": dict,  # what all levels share of how they were found
        "sha256": str,  # of all the above in canonical form
    },
    "`policyopt fit --budgets` writes one.",
)  # fmt: skip
_HEAD = ("format", "version", "sha256")
_LEVEL = {
    "rule": int,  # number of its rule
    "name": (str, type(None)),
    "expected_cost": (int, float, type(None)), "budget": (int, float, type(None)),
}  # fmt: skip
#: Fields of a rule and of a level, of policies with thresholds and of routing.
RULES, LEVELS = [], []
for _form, _names in ((POLICY, _OWN), (ROUTING, _OWN_ROUTING)):
    _others = (*_HEAD, *_SHARED, *_names)
    RULES.append({n: kind for n, kind in _form.fields.items() if n not in _others})
    LEVELS.append({**_LEVEL, **{name: _form.fields[name] for name in _names}})


def _rules(policies: Iterable[Any]) -> list[dict[str, Any]]:
    """Return of each policy what it may share with others: the same object, where the parts are the same."""
    known: dict[Any, dict[str, Any]] = {}
    found = []
    for policy in policies:
        if isinstance(policy, RoutingPolicy):
            found.append(
                known.setdefault((id(policy.ensemble), policy.names), routing.rule_to_dict(policy))
            )
            continue
        parts = (policy.rule, policy.answer, policy.calibrator)
        costs = policy.costs.tobytes(), policy.overhead.tobytes(), policy.active_exits
        if (key := (*map(id, parts), *costs)) not in known:
            content = to_dict(replace(policy, provenance={}, mixture=None, abstention=None))
            names = [name.rstrip("?") for name in RULES[0]]
            known[key] = {name: content[name] for name in names if name in content}
        found.append(known[key])
    return found


def _key(rule: dict[str, Any]) -> str:
    return json.dumps(rule, sort_keys=True)


def family_to_dict(family: PolicyFamily) -> dict[str, Any]:
    """Return the file's content, checksum included; each rule once."""
    each = _rules(family.policies)
    keys = {id(rule): _key(rule) for rule in each}
    rules, arms = dict[str, int](), dict[str, int]()
    contents, levels = [], []
    common = dict(family.provenance)
    for a, (policy, rule) in enumerate(zip(family.policies, each, strict=True)):
        if (key := keys[id(rule)]) not in rules:
            rules[key] = len(rules)
            contents.append(rule)
        own = routing.own_to_dict(policy) if family.routes else own_to_dict(policy)
        if family.routes:
            texts = [_key(routing.arm_to_dict(arm)) for arm in policy.arms]
            own["arms"] = [arms.setdefault(text, len(arms)) for text in texts]
        own["provenance"] = {
            k: v for k, v in own["provenance"].items() if k not in common or common[k] != v
        }
        levels.append({
            "rule": rules[key], "name": family.names[a] if family.names else None,
            "expected_cost": _at(family.expected_costs, a), "budget": _at(family.budgets, a), **own,
        })  # fmt: skip
    first = family.policies[0]
    each_arm = {"arms": [json.loads(text) for text in arms]} if family.routes else {}
    return FAMILY.signed(
        **{name: getattr(first, name) for name in _SHARED},
        full_cost=family.full_cost, rules=contents, **each_arm, levels=levels, provenance=common,
    )  # fmt: skip


def _at(values: Floats | None, a: int) -> float | None:
    return None if values is None else float(values[a])


def family_from_dict(content: Any, source: str = "policy") -> PolicyFamily:
    """Build a family from its file's content, checked; `source` names it in errors."""
    FAMILY.check(content, source)
    rules, levels = content["rules"], content["levels"]
    if not 1 <= len(levels) <= MAX_LEVELS:
        raise input_error(f"levels in {source}", f"1 to {MAX_LEVELS}", len(levels), AGAIN)
    shared, routes = {name: content[name] for name in _SHARED}, "arms" in content
    made: list[Any] = []  # one policy per rule, of its first level
    policies, its, used = [], tuple[Arm, ...](), 0
    for r, rule in enumerate(rules):
        check_fields(rule, RULES[routes], f"rule {r} of {source}", AGAIN)
    with routing.whole(source):
        arms = tuple(map(routing.arm_from_dict, content.get("arms", ())))
    for a, level in enumerate(levels):
        place = f"level {a} of {source}"
        check_fields(level, LEVELS[routes], place, AGAIN)
        fields = (name.rstrip("?") for name in (_OWN, _OWN_ROUTING)[routes])
        own = {name: level[name] for name in fields if name in level}
        common = content["provenance"]
        if twice := [k for k, v in own["provenance"].items() if k in common and common[k] == v]:
            allowed = "without what all levels share"
            raise input_error(f"provenance of {place}", allowed, twice[0], AGAIN)
        own["provenance"] = {**common, **own["provenance"]}
        r = _in_turn(level["rule"], len(made), len(rules), f"rule of {place}")
        if routes:
            for at in own.pop("arms"):
                used = max(used, _in_turn(at, used, len(arms), f"arms of {place}") + 1)
            its = tuple(arms[at] for at in level["arms"])
        try:
            if r < len(made):
                if routes:
                    more = {"arms": its, **routing.own_from_dict(own)}
                else:
                    more = {"abstention": None, **own_from_dict(own)}
                policies.append(replace(made[r], **more))
                continue
            all_of = {**shared, **rules[r], **own}
            one = (
                routing.routed(all_of, its) if routes else from_dict(POLICY.signed(**all_of), place)
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise input_error(place, "whole, its numbers finite", str(error), AGAIN) from error
        policies.append(one)
        made.append(one)
    if routes and (
        used < len(arms) or len({_key(routing.arm_to_dict(arm)) for arm in arms}) < len(arms)
    ):
        allowed = "different, and each used by a level"
        raise input_error(f"arms of {source}", allowed, f"{len(arms)}", AGAIN)
    if len(made) < len(rules) or len(set(map(_key, _rules(made)))) < len(rules):
        allowed = "different, and each used by a level"
        raise input_error(
            f"rules of {source}", allowed, f"{len(rules)} of {len(levels)} levels", AGAIN
        )
    columns = {n: [level[n] for level in levels] for n in ("name", "expected_cost", "budget")}
    for name, column in columns.items():
        if any(value is None for value in column) and any(value is not None for value in column):
            raise input_error(f"{name} of levels in {source}", "of all or none", column, AGAIN)
    if policies[0].model_exits != content["model_exits"]:
        got = f"{policies[0].model_exits} models"
        raise input_error(f"model_exits of {source}", f"{content['model_exits']}", got, AGAIN)
    given: list[Any] = [None if c[0] is None else c for c in columns.values()]
    names, costs, budgets = given
    return PolicyFamily(
        tuple(policies),
        costs,
        budgets,
        content["full_cost"],
        tuple(names or ()),
        content["provenance"],
    )


def _in_turn(number: Any, next_one: int, count: int, what: str) -> int:
    """Return a number of a list's entries, refused unless they come first in turn."""
    if type(number) is not int or not 0 <= number <= next_one or number >= count:
        raise input_error(
            what, "numbers of those in the file, each first used in turn", number, AGAIN
        )
    return number


def at_level(policy: Any, level: str | None, argument: str = "--level") -> Any:
    """Return the policy of a level of a family; of anything else, itself: `level` must be None there."""
    if not isinstance(policy, PolicyFamily):
        if level is None:
            return policy
        step = "Leave it out; `policyopt fit --budgets 30` makes a family."
        raise input_error(argument, "given with a family alone", level, step)
    if level is None:
        raise input_error(argument, f"given for a family: {policy.told()}", "none", "E.g. 0.")
    return policy.at(level)


def load_family(path: str | os.PathLike[str]) -> PolicyFamily:
    """Read an artifact of a policy family and check it.

    Raises
    ------
    InputError
        No such file, too large, not JSON, or no family.
    """
    return family_from_dict(read_json(path, MAX_FAMILY_BYTES), Path(path).name)
