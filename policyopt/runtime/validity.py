"""What a policy must be; everything in an artifact is untrusted, so this is where it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .answers import Plain
from .checks import MAX_COST, check_text
from .errors import input_error
from .typing import Floats

if TYPE_CHECKING:
    from .policy import Policy

_MOST_CLASSES = 10**7


def finite_row(name: str, value: Any) -> Floats:
    """Return a read-only copy of a list of finite numbers, (n,) float64.

    Examples
    --------
    >>> finite_row("costs", [1, 2])
    array([1., 2.])
    """
    array = np.array(value, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all():
        raise input_error(name, "a list of finite numbers", array.tolist(), "Check the policy.")
    array.flags.writeable = False
    return array


def check_policy(policy: Policy) -> None:
    """Refuse a policy whose parts do not fit each other.

    Parameters
    ----------
    policy : Policy
        Its thresholds, costs and overhead are finite rows already.

    Raises
    ------
    InputError
        The first part that does not fit, by name.
    """
    check_text("unit", policy.unit, step="E.g. ms, MMACs, USD.")
    least = 0 if policy.kind == "record" else 1
    if isinstance(policy.classes, bool) or not least <= policy.classes <= _MOST_CLASSES:
        allowed = f"from {least} to {_MOST_CLASSES}"
        raise input_error("classes", allowed, policy.classes, "Check the policy.")
    _check_costs(policy.costs, policy.overhead)
    _check_thresholds(policy)
    if policy.kind == "record" and not isinstance(policy.answer, Plain):
        raise input_error(
            "answer", "plain where only records are kept", policy.answer.name, "Fit again."
        )
    policy.answer.check(policy.exits, policy.classes)
    for rule in (*policy.rules, *([policy.confidence] if policy.confidence else [])):
        rule.check(policy.exits, policy.classes)


def _check_costs(costs: Floats, overhead: Floats) -> None:
    if (costs > MAX_COST).any():
        raise input_error("costs", f"at most {MAX_COST:g}", costs.tolist(), "Choose a larger unit.")
    if (costs < 0).any() or (np.diff(costs) < 0).any():
        got = costs.tolist()
        raise input_error("costs", "0 or more and not decreasing", got, "They are cumulative.")
    # A cost is mean plus overhead in floats: the overhead may pass it by a rounding.
    if (
        overhead.shape != costs.shape
        or (overhead < 0).any()
        or (overhead > costs * (1 + 1e-9)).any()
    ):
        raise input_error(
            "overhead", "one number per exit, from 0 to the costs, of which it is a part",
            overhead.tolist(), "Check the policy.",
        )  # fmt: skip


def _check_thresholds(policy: Policy) -> None:
    sets = [policy.thresholds]
    if policy.mixture is not None:
        share = policy.mixture.share
        other = np.asarray(policy.mixture.thresholds, dtype=np.float64)
        if not 0 <= share <= 1 or other.ndim != 1 or not np.isfinite(other).all():
            raise input_error(
                "mixture", "finite thresholds and a share in [0, 1]",
                f"share {share}, thresholds {other.tolist()}", "Check the policy.",
            )  # fmt: skip
        sets.append(other)
    needed = policy.exits - 1
    for thresholds in sets:
        if len(thresholds) != needed:
            raise input_error(
                "thresholds", f"one per exit but the last: {needed}", f"{len(thresholds)}",
                "The last exit always stops.",
            )  # fmt: skip
