"""One tier's part of a policy: leave, go on, or send on; the same decisions as the whole policy.

Each tier holds the whole policy (thresholds, rules) and runs the exits that stand on it. What a score or
an answer remembers of earlier exits goes along in a message when a sample is sent on, so that rules with
a memory (patience, combined answers) decide as if they had never moved. Numpy and the standard
library only, as `policyopt.runtime`.
"""

from __future__ import annotations

import base64
import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.artifact import read_json, to_dict
from policyopt.runtime.checks import MAX_NAME, check_text
from policyopt.runtime.content import digest_of, from_dict
from policyopt.runtime.decision import Decision, State
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.files import write_file
from policyopt.runtime.policy import Policy

FORMAT, MESSAGE, VERSION = "policyopt-tier-policy", "policyopt-tier-message", 1
MESSAGE_VERSION = 2  # 1 did not name its policy
LEAVE, GO_ON, SEND_ON = "leave", "go on", "send on"
_FIELDS = {"format", "version", "tier", "exits", "next", "policy", "sha256"}
_PARTS = {"format", "version", "policy", "position", "scalar", "samples", "arm", "answer", "rules"}
#: Samples of one message: a batch that a tier runs side by side.
MOST_SAMPLES = 1 << 12
#: Bytes of each array of a message: 4096 samples that remember 512 numbers each.
MOST_STATE = 16 << 20


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
    >>> from policyopt.runtime.scores import MaxProb
    >>> whole = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "probabilities", 2)
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
        path = self.policy.path
        at = path.index(self.exits[0]) if self.exits and self.exits[0] in path else 0
        if self.exits and path[at : at + len(self.exits)] != self.exits:
            raise input_error(
                "exits of the tier", f"consecutive ones of {path}", self.exits, "Plan again."
            )
        if (self.next is None) != (bool(self.exits) and self.exits[-1] == path[-1]):
            raise input_error(
                "next", "given unless the tier has the policy's last exit", self.next, "Plan again."
            )

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
            raise input_error(
                "k", f"an exit of tier '{self.tier}': {self.exits}", k, "See `exits`."
            )
        decision = self.policy.step(k, output, state, features)
        onward = SEND_ON if k == self.exits[-1] else GO_ON
        if state.scalar:
            return (LEAVE if decision.exit else onward), decision
        return np.where(decision.exit, LEAVE, onward), decision

    def hand_over(self, state: State) -> dict[str, Any]:
        """Return what the next tier has to know of samples that are sent on, JSON-able.

        At most 4096 samples, and 16 MiB per array of what scores and answers remember.
        """
        if len(state.arm) > MOST_SAMPLES:
            raise input_error(
                "samples of the message", f"at most {MOST_SAMPLES}", f"{len(state.arm)}",
                "Run fewer side by side.",
            )  # fmt: skip
        return {
            "format": MESSAGE,
            "version": MESSAGE_VERSION,
            "policy": self.identity,
            "position": state.position,
            "scalar": state.scalar,
            "samples": len(state.arm),
            "arm": _packed(state.arm),
            "answer": [_packed(a) for a in state.answer_state],
            "rules": [[_packed(a) for a in rule] for rule in state.rule_states],
        }

    def take_over(self, message: Any) -> State:
        """Return the state of samples that another tier sent on, checked: it came over a network.

        At most 4096 samples of it.

        Raises
        ------
        InputError
            Not such a message, of another policy or another exit.
        """
        if not isinstance(message, dict) or message.keys() != _PARTS:
            allowed = f"a mapping of {', '.join(sorted(_PARTS))}"
            got = sorted(message) if isinstance(message, dict) else type(message).__name__
            raise input_error(
                "message", allowed, f"{got!s:.200}", "Made by `hand_over` of the tier before."
            )
        version = message["version"]
        if message["format"] != MESSAGE or not _is_version(version, MESSAGE_VERSION):
            got = f"{message['format']!r:.80}, version {version!r:.20}"
            raise input_error("message", f"{MESSAGE}, version {MESSAGE_VERSION}", got, "")
        if message["policy"] != self.identity:
            raise input_error(
                "policy of the message", f"{self.identity[:12]}..., as here",
                f"{message['policy']!r:.16}", "Give all tiers the files of one plan.",
            )  # fmt: skip
        n, scalar, at = message["samples"], message["scalar"], message["position"]
        path = self.policy.path
        due = path.index(self.exits[0]) if self.exits else None
        if type(n) is not int or not 0 <= n <= MOST_SAMPLES or type(scalar) is not bool:
            raise input_error(
                "samples of the message", f"a whole number up to {MOST_SAMPLES}", n, ""
            )
        if scalar and n != 1:
            raise input_error("samples of the message", "1, of one sample", n, "")
        if type(at) is not int or not 0 <= at < len(path) or due not in (None, at):
            raise input_error(
                "position of the message", f"{due}, where tier '{self.tier}' begins", at, ""
            )
        answer, rules = message["answer"], message["rules"]
        if not isinstance(answer, list) or not isinstance(rules, list):
            raise input_error("message", "given lists of arrays", "another", "")
        if len(rules) != len(self.policy.rules) or not all(isinstance(r, list) for r in rules):
            raise input_error(
                "rules of the message", f"{len(self.policy.rules)} lists", "others", ""
            )
        arm = _unpacked(message["arm"], n)
        if arm.dtype != np.bool_ or arm.ndim != 1:
            raise input_error("arm of the message", "truth values", str(arm.dtype), "")
        return _checked(self.policy, State(
            tuple(tuple(_unpacked(a, n) for a in rule) for rule in rules),
            tuple(_unpacked(a, n) for a in answer), arm, scalar,
        ), at)  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the tier's artifact (JSON)."""
        content: dict[str, Any] = {
            "format": FORMAT, "version": VERSION, "tier": self.tier, "exits": list(self.exits),
            "next": self.next, "policy": to_dict(self.policy),
        }  # fmt: skip
        text = json.dumps({**content, "sha256": digest_of(content)}, indent=2, allow_nan=False)
        write_file(path, text + "\n")


def load_tier(path: str | os.PathLike[str]) -> TierPolicy:
    """Read a tier's artifact and check it.

    Raises
    ------
    InputError
        No such file, not JSON, not a tier's artifact, or changed since it was written.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise input_error(
            "tier policy", f"a file of format '{FORMAT}'", "another", "`policyopt plan --out`."
        )
    if not _is_version(content.get("version"), VERSION) or content.keys() != _FIELDS:
        got = f"version {content.get('version')}, fields {', '.join(sorted(content))}"
        raise input_error(
            "tier policy", f"version {VERSION} with {', '.join(sorted(_FIELDS))}", got, ""
        )
    body = {name: value for name, value in content.items() if name != "sha256"}
    try:
        same = digest_of(body) == content["sha256"]
    except ValueError as error:  # a number too large for a float reads as infinity
        raise input_error(
            "tier policy", "free of infinite numbers", str(error), "Plan again."
        ) from error
    if not same:
        raise InputError(
            "'tier policy' was changed after it was written. Got another checksum. Plan again."
        )
    exits, tier, following = content["exits"], content["tier"], content["next"]
    whole = isinstance(exits, list) and all(type(k) is int for k in exits)
    if not whole or not isinstance(tier, str) or not isinstance(following, (str, type(None))):
        raise input_error(
            "tier policy", "such that exits are whole numbers and tiers texts", exits, ""
        )
    return TierPolicy(from_dict(content["policy"], "its policy"), tier, tuple(exits), following)


def _is_version(version: object, wanted: int) -> bool:
    return type(version) is int and version == wanted  # true and 1.0 equal 1, too


def _packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "dtype": little.dtype.str, "shape": list(array.shape),
        "data": base64.b64encode(little.tobytes()).decode("ascii"),
    }  # fmt: skip


def _unpacked(packed: Any, n: int) -> npt.NDArray[Any]:
    """Return an array of a message: its kind, first axis and number of bytes are checked."""
    if not isinstance(packed, dict) or packed.keys() != {"dtype", "shape", "data"}:
        raise input_error("array of the message", "a mapping of dtype, shape, data", "another", "")
    shape, kind, data = packed["shape"], packed["dtype"], packed["data"]
    if kind not in ("<f8", "<f4", "<i8", "<i4", "<i2", "|i1", "|u1", "|b1"):
        raise input_error("dtype of the message", "of numbers or truth values", kind, "")
    small = isinstance(shape, list) and all(type(s) is int and 0 <= s <= MOST_STATE for s in shape)
    if not small or not shape or len(shape) > 4 or shape[0] != n:
        raise input_error("shape of the message", f"of {n} samples", shape, "")
    size = np.dtype(kind).itemsize
    for length in shape:
        size *= length
    if not isinstance(data, str) or size > MOST_STATE or len(data) > 2 * MOST_STATE:
        raise input_error("data of the message", f"at most {MOST_STATE} bytes", "another", "")
    try:
        raw = base64.b64decode(data, validate=True)
    except ValueError as error:
        raise input_error("data of the message", "base64", str(error), "") from error
    if len(raw) != size:
        raise input_error("data of the message", f"{size} bytes", f"{len(raw)}", "Is it whole?")
    if kind == "|b1" and raw.strip(b"\x00\x01"):
        raise input_error("data of the message", "truth values, 0 or 1", "others", "")
    return np.frombuffer(raw, kind).reshape(shape).astype(np.dtype(kind).newbyteorder("="))


def _checked(policy: Policy, state: State, at: int) -> State:
    """Refuse a state whose arrays are not those that the policy itself has after `at` exits."""
    state.position = at
    model = policy.start([0])
    if not policy.needs_features:  # whose widths are not known here
        for k in policy.path[:at]:
            policy.step(k, _plain(policy), model)
        pairs = [(state.answer_state, model.answer_state)]
        pairs += list(zip(state.rule_states, model.rule_states, strict=True))
        for got, due in pairs:
            shapes = [[(a.dtype, a.shape[1:]) for a in arrays] for arrays in (got, due)]
            if shapes[0] != shapes[1]:
                raise input_error(
                    "state in the message", f"arrays {shapes[1]}", shapes[0], "Another policy?"
                )
    return state


def _plain(policy: Policy) -> Any:
    """Return outputs of one sample that any policy of the kind accepts."""
    if policy.kind != "record":
        return np.full((1, policy.classes), 1.0 / policy.classes)
    top = np.array([[0.5, 0.25]])
    return {
        "prediction": np.zeros(1, np.int32), "confidence": top[:, 0], "top_prob": top,
        "entropy": np.full(1, 0.5),
    }  # fmt: skip
