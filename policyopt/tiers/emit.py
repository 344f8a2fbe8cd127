"""What a plan leaves behind: the whole policy, one artifact per tier, and plan.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policyopt.runtime.artifact import read_json
from policyopt.runtime.errors import InputError
from policyopt.runtime.files import refusing, write_file
from policyopt.runtime.policy import Policy
from policyopt.tiers.plans import Plan
from policyopt.tiers.tier_policy import TierPolicy


def tier_policies(policy: Policy, plan: Plan, names: Sequence[str]) -> list[TierPolicy]:
    """Divide a policy among the tiers that run a stage, in order.

    Exits that the policy itself skips are left out. A tier beyond the policy's last exit is too.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> whole = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> [(t.tier, t.exits, t.next) for t in tier_policies(whole, Plan((0, 1), (0, 2)), "abc")]
    [('a', (0,), 'c'), ('c', (1,), None)]
    """
    used = [t for t in range(len(names)) if plan.stages(t) and t <= plan.tier[policy.path[-1]]]
    return [
        TierPolicy(
            policy,
            names[t],
            tuple(k for k in plan.exits(t) if k in policy.path),
            names[after] if after is not None else None,
        )
        for t, after in zip(used, [*used[1:], None], strict=True)
    ]


def emit(
    policy: Policy, plan: Plan, names: Sequence[str], report: dict[str, Any], out: Path
) -> list[Path]:
    """Write policy.json, tier-0-NAME.json and so on, and plan.json; return their paths.

    Each is written whole or not at all, plan.json last: it has their checksums. Tiers that an earlier
    plan in the same folder wrote are removed: they would not go with these.
    """
    earlier = _earlier(out)
    written = [out / "policy.json"]
    policy.save(written[0])
    for i, tier in enumerate(tier_policies(policy, plan, names)):
        safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in tier.tier[:32])
        written.append(out / f"tier-{i}-{safe}.json")
        tier.save(written[-1])
    whole = {"format": "policyopt-plan", "version": 1, **report}
    whole["files"] = {path.name: _checksum(path) for path in written}
    write_file(out / "plan.json", json.dumps(whole, indent=1, allow_nan=False) + "\n")
    with refusing(out):
        for old in set(earlier) - set(written):
            old.unlink(missing_ok=True)
    return [*written, out / "plan.json"]


def _earlier(out: Path) -> list[Path]:
    """Return the tiers' files that an earlier plan in the folder wrote, and none else has changed."""
    try:
        files = dict(read_json(out / "plan.json")["files"])
        tiers = [path for path in out.glob("tier-*-*.json") if path.name in files]
        plain = [path for path in tiers if path.is_file() and not path.is_symlink()]
        return [path for path in plain if files[path.name] == _checksum(path)]
    except (InputError, OSError, ValueError, LookupError, TypeError):
        return []


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
