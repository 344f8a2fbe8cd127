"""One tier's part of a policy: leave, go on, or send on; the same decisions as the whole policy.

Each tier holds the whole policy and runs its own exits. What a score or an answer remembers of earlier exits goes
along in a message. Numpy and the standard library only, as `policyopt.runtime`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime._checks import MAX_NAME, check_text
from policyopt.runtime._errors import input_error
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import Decision, Policy, State, from_dict, read_json, to_dict
from policyopt.runtime._strict_json import Form, digest_of
from policyopt.runtime._typing import Array

if TYPE_CHECKING:
    from policyopt._tiers.plans import Plan

MESSAGE, VERSION = "policyopt-tier-message", 1
LEAVE, GO_ON, SEND_ON = "leave", "go on", "send on"
#: Samples of one message: a batch that a tier runs side by side.
MOST_SAMPLES = 1 << 12
#: Bytes of each array of a message: 4096 samples that remember 512 numbers each.
MOST_STATE = 16 << 20
TIER_POLICY = Form(
    "a tier's artifact", "policyopt-tier-policy", VERSION,
    {
        "format": str, "version": int, "tier": str, "exits": list, "next": (str, type(None)),
        "policy": dict, "sha256": str,
    },
    "`policyopt plan --out` writes one.", "Plan again.",
)  # fmt: skip
_PARTS = {"format", "version", "policy", "position", "scalar", "samples", "arm", "answer", "rules"}
_KINDS = ("<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1")


@dataclass(frozen=True, eq=False)
class TierPolicy:
    """The part of a policy that one tier runs.

    Parameters
    ----------
    policy : Policy
        The whole one.
    tier : str
        Name of the tier.
    exits : tuple of int
        The model's exits that it decides at; consecutive ones of the policy's path, perhaps none.
    next : str or None
        The tier that it sends on to.

    Examples
    --------
    >>> import policyopt as po
    >>> whole = Policy(po.make_score("max_prob"), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
    >>> device, cloud = TierPolicy(whole, "device", (0,), "cloud"), TierPolicy(whole, "cloud", (1,))
    >>> state = device.start()
    >>> device.step(0, [0.6, 0.4], state)[0]
    'send on'
    >>> cloud.step(1, [0.3, 0.7], cloud.take_over(device.hand_over(state)))[0]
    'leave'
    """

    policy: Policy
    tier: str
    exits: tuple[int, ...]
    next: str | None = None

    def __post_init__(self) -> None:
        check_text("tier", self.tier, MAX_NAME)
        if self.next is not None:
            check_text("next", self.next, MAX_NAME)
        path, exits, step = self.policy.active_exits, self.exits, "Plan again."
        at = path.index(exits[0]) if exits and exits[0] in path else 0
        if exits and path[at : at + len(exits)] != exits:
            raise input_error("exits of the tier", f"consecutive ones of {path}", exits, step)
        if (self.next is None) != (bool(exits) and exits[-1] == path[-1]):
            raise input_error("next", "given unless the tier has the last exit", self.next, step)

    @cached_property
    def identity(self) -> str:
        """The whole policy's checksum, which tiers compare."""
        return digest_of(to_dict(self.policy))

    def start(self, samples: int | npt.ArrayLike = 0) -> State:
        """Begin one sample, or several side by side, where nothing ran before; see `Policy.start`."""
        return self.policy.start(samples)

    def step(
        self, k: int, output: object, state: State, features: object = None
    ) -> tuple[Any, Decision]:
        """Decide at exit k; see `Policy.step`.

        Returns
        -------
        str, or ndarray of shape (n,) of str
            ``"leave"``, ``"go on"`` to this tier's next exit, or ``"send on"`` to the next tier.
        Decision
        """
        if k not in self.exits:
            allowed = f"an exit of tier '{self.tier}': {self.exits}"
            raise input_error("k", allowed, k, "See `exits`.")
        decision = self.policy.step(k, output, state, features)
        onward = SEND_ON if k == self.exits[-1] else GO_ON
        if state.scalar:
            return (LEAVE if decision.exit else onward), decision
        return np.where(decision.exit, LEAVE, onward), decision

    def hand_over(self, state: State) -> dict[str, Any]:
        """Return what the next tier has to know of samples that are sent on, JSON-able.

        At most 4096 samples, and 16 MiB per array of what scores and answers remember.
        """
        samples = len(state.arm)
        if samples > MOST_SAMPLES:
            step = "Run fewer side by side."
            raise input_error("samples of the message", f"at most {MOST_SAMPLES}", samples, step)
        return {
            "format": MESSAGE, "version": VERSION, "policy": self.identity, "position": state.position,
            "scalar": state.scalar, "samples": samples, "arm": _packed(state.arm),
            "answer": [_packed(a) for a in state.answer_state],
            "rules": [[_packed(a) for a in rule] for rule in state.rule_states],
        }  # fmt: skip

    def take_over(self, message: Any) -> State:
        """Return the state of samples (4096 at most) that another tier sent on.

        The message came over a network: what is none, of another policy or of another exit is refused.
        """
        if not isinstance(message, dict) or message.keys() != _PARTS:
            allowed = f"a mapping of {', '.join(sorted(_PARTS))}"
            got = sorted(message) if isinstance(message, dict) else type(message).__name__
            raise input_error("message", allowed, f"{got!s:.200}", "Pass what `hand_over` made.")
        n, scalar, at = message["samples"], message["scalar"], message["position"]
        answer, rules = message["answer"], message["rules"]
        path, count = self.policy.active_exits, len(self.policy.rules)
        due = path.index(self.exits[0]) if self.exits else None
        version = type(message["version"]) is int and message["version"] == VERSION  # true equals 1
        one = type(scalar) is bool and (not scalar or n == 1)
        whole = type(at) is int and 0 <= at < len(path)
        lists = isinstance(rules, list) and all(isinstance(r, list) for r in rules)
        for name, fits, allowed in (
            ("format", message["format"] == MESSAGE, f"{MESSAGE}, version {VERSION}"),
            ("version", version, f"{VERSION}"),
            ("policy", message["policy"] == self.identity, f"{self.identity[:12]}..., as here"),
            ("samples", type(n) is int and 0 <= n <= MOST_SAMPLES, f"at most {MOST_SAMPLES}"),
            ("scalar", one, "true of 1 sample, or false"),
            ("position", whole and due in (None, at), f"{due}, where tier '{self.tier}' begins"),
            ("answer", isinstance(answer, list), "a list of arrays"),
            ("rules", lists and len(rules) == count, f"{count} lists of arrays"),
        ):
            if not fits:
                step = "Give all tiers the files of one plan." if name == "policy" else ""
                raise input_error(f"{name} of the message", allowed, f"{message[name]!r:.80}", step)
        arm = _unpacked(message["arm"], n)
        if arm.dtype != np.bool_ or arm.ndim != 1:
            raise input_error("arm of the message", "truth values", str(arm.dtype))
        rule_states = tuple(tuple(_unpacked(a, n) for a in rule) for rule in rules)
        state = State(rule_states, tuple(_unpacked(a, n) for a in answer), arm, scalar)
        return _checked(self.policy, state, at)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tier's artifact (JSON)."""
        content = TIER_POLICY.signed(
            tier=self.tier, exits=list(self.exits), next=self.next, policy=to_dict(self.policy)
        )
        write_file(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def load_tier(path: str | os.PathLike[str]) -> TierPolicy:
    """Read a tier's artifact and check it.

    Parameters
    ----------
    path : path
        As `TierPolicy.save`, or ``policyopt plan --out``, wrote it.

    Returns
    -------
    TierPolicy

    Raises
    ------
    InputError
        No such file, not JSON, not a tier's artifact, or changed since it was written.
    """
    content, name = read_json(path), "tier policy"
    TIER_POLICY.check(content, name)
    exits = content["exits"]
    if not all(type(k) is int for k in exits):
        raise input_error(name, "such that exits are whole numbers", exits)
    policy = from_dict(content["policy"], "its policy")
    return TierPolicy(policy, content["tier"], tuple(exits), content["next"])


def tier_policies(policy: Policy, plan: Plan, names: Sequence[str]) -> list[TierPolicy]:
    """Divide a policy among the tiers that run a stage, in order.

    Exits that the policy itself skips are left out. A tier beyond the policy's last exit is too.

    Parameters
    ----------
    policy : Policy
        E.g. ``planned.fitted.policy``.
    plan : Plan
        ``planned.plan``, of `plan`.
    names : sequence of str
        Of all tiers, in order.

    Returns
    -------
    list of TierPolicy

    Examples
    --------
    >>> planned = po.plan(tiers, table, po.Goal("latency", 12.0))  # doctest: +SKIP
    >>> names = [tier.name for tier in tiers.tiers]  # doctest: +SKIP
    >>> parts = po.tier_policies(planned.fitted.policy, planned.plan, names)  # doctest: +SKIP
    """
    last = plan.tier[policy.active_exits[-1]]
    used = [t for t in range(len(names)) if plan.stages(t) and t <= last]
    following = [*(names[t] for t in used[1:]), None]
    exits = [tuple(k for k in plan.exits(t) if k in policy.active_exits) for t in used]
    parts = zip(used, exits, following, strict=True)
    return [TierPolicy(policy, names[t], own, after) for t, own, after in parts]


def emit(
    policy: Policy, plan: Plan, names: Sequence[str], report: dict[str, Any], out: Path
) -> None:
    """Write policy.json, tier-0-NAME.json, ... and, last, plan.json with the checksums of all that is there."""
    policy.save(out / "policy.json")
    for i, tier in enumerate(tier_policies(policy, plan, names)):
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in tier.tier[:32])
        tier.save(out / f"tier-{i}-{safe}.json")
    whole = {"format": "policyopt-plan", "version": 1, **report}
    whole["files"] = {path.name: _checksum(path) for path in sorted(out.glob("[!.]*"))}
    write_file(out / "plan.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")


def check_plan(out: Path) -> None:
    """Refuse to replace a folder that holds other than what an earlier plan wrote there."""
    try:
        there = {path.name: path for path in out.iterdir()}
        files = dict(read_json(there.pop("plan.json"))["files"]) if there else {}
        plain = all(path.is_file() and not path.is_symlink() for path in there.values())
        ours = plain and files == {name: _checksum(path) for name, path in there.items()}
    except (OSError, ValueError, LookupError, TypeError):
        ours = False
    if not ours:
        allowed = "a new folder, or an earlier plan as it was written"
        raise input_error("--out", allowed, str(out), "Name another, or take away what is there.")


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _packed(array: Array) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": little.dtype.str, "shape": list(array.shape), "data": data}


def _unpacked(packed: Any, n: int) -> Array:
    """Return an array of a message: its kind, first axis and number of bytes are checked."""
    if not isinstance(packed, dict) or packed.keys() != {"dtype", "shape", "data"}:
        raise input_error("array of the message", "a mapping of dtype, shape, data", "another")
    shape, kind, data = packed["shape"], packed["dtype"], packed["data"]
    if kind not in _KINDS:
        raise input_error("dtype of the message", "of numbers or truth values", kind)
    small = isinstance(shape, list) and all(type(s) is int and 0 <= s <= MOST_STATE for s in shape)
    if not small or not 1 <= len(shape) <= 4 or shape[0] != n:
        raise input_error("shape of the message", f"of {n} samples", shape)
    size = np.dtype(kind).itemsize * prod(shape)
    if not isinstance(data, str) or size > MOST_STATE or len(data) > 2 * MOST_STATE:
        raise input_error("data of the message", f"at most {MOST_STATE} bytes", "another")
    try:
        raw = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise input_error("data of the message", "base64", str(error)) from error
    if len(raw) != size:
        raise input_error("data of the message", f"{size} bytes", f"{len(raw)}", "Is it whole?")
    if kind == "|b1" and raw.strip(b"\x00\x01"):
        raise input_error("data of the message", "truth values, 0 or 1", "others")
    return np.frombuffer(raw, kind).reshape(shape).astype(np.dtype(kind).newbyteorder("="))


def _checked(policy: Policy, state: State, at: int) -> State:
    """Refuse a state whose arrays are not those that the policy itself has after `at` exits."""
    state.position, state.next, state.names = at, policy.active_exits[at], policy.names
    if policy.needs_features:  # whose widths are not known here
        return state
    model = policy.start([0])
    for k in policy.active_exits[:at]:
        policy.step(k, _any_output(policy), model)
    pairs = [(state.answer_state, model.answer_state)]
    pairs += list(zip(state.rule_states, model.rule_states, strict=True))
    for pair in pairs:
        got, due = ([(a.dtype, a.shape[1:]) for a in arrays] for arrays in pair)
        if got != due:
            raise input_error("state in the message", f"arrays {due}", got, "Another policy?")
    return state


def _any_output(policy: Policy) -> Any:
    """Return outputs of one sample that any policy of the kind accepts."""
    kind = policy.observer.kind
    if not kind.record:
        width = kind.width(policy.classes)
        return np.full((1, width), 1.0 / width)
    top = np.array([[0.5, 0.25]])
    none = {"prediction": np.zeros(1, np.int32), "entropy": np.full(1, 0.5)}
    return {**none, "confidence": top[:, 0], "top_prob": top}
