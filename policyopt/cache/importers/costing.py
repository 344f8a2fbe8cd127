"""Costs of an import: which the files and the user state, in which unit, cumulative or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policyopt.cache.importers.raw import Array
from policyopt.cache.importers.turning import Part
from policyopt.cache.layout import COST_PREFIX
from policyopt.costs import KINDS, Cost, cumulative
from policyopt.runtime.errors import input_error

#: Unit that the end of a key tells.
UNITS = {
    "usd": "USD", "eur": "EUR", "s": "s", "ms": "ms", "us": "us", "mj": "mJ", "j": "J",
    "flops": "FLOPs", "mflops": "MFLOPs", "gflops": "GFLOPs", "macs": "MACs", "mmacs": "MMACs",
    "gmacs": "GMACs", "tokens": "tokens",
}  # fmt: skip


def stated_values(costs: Any) -> tuple[tuple[float, ...] | None, str | None]:
    """Read the user's `costs`: values, or the name of a cost in the file.

    Parameters
    ----------
    costs : sequence of float, text such as ``"1,2,4"`` or ``"latency_ms"``, or None

    Returns
    -------
    (tuple of float or None, str or None)

    Raises
    ------
    InputError
        Neither numbers nor a name.

    Examples
    --------
    >>> stated_values("1,2,4"), stated_values("cost_usd")
    (((1.0, 2.0, 4.0), None), (None, 'cost_usd'))
    """
    if costs is None:
        return None, None
    parts = costs.split(",") if isinstance(costs, str) else costs
    try:
        return tuple(float(part) for part in parts), None
    except (TypeError, ValueError):
        if isinstance(costs, str) and len(parts) == 1:
            return None, costs.strip()
    raise input_error(
        "costs",
        "numbers such as 1,2,4, or the name of a cost in the file",
        costs,
        "Give one number per exit, separated by commas: --costs 1,2,4.",
    )


def resolve(
    parts: Sequence[Part],
    *,
    costs: Any,
    unit: str | None,
    kind: str | None,
    name: str | None,
    options: Mapping[str, str],
    notes: list[str],
) -> tuple[Cost, ...]:
    """Fix the costs of the cache, and put those per sample into the parts' arrays.

    Parameters
    ----------
    parts : sequence of Part
        Their `arrays` receive ``cost:<name>``, cumulative.
    costs, unit, kind, name
        What the user says, see `import_sources`.
    options : mapping
        ``unit`` and ``cost_kind`` where a file declares them.
    notes : list of str
        Receives what was decided.

    Returns
    -------
    tuple of Cost
        The first is the default.

    Raises
    ------
    InputError
        Costs decrease, differ between files, or are not there under that name.

    Examples
    --------
    >>> part = Part("fit", "a", "logits", {"outputs": np.zeros((5, 2, 3))}, {"costs": np.ones(2)})
    >>> resolve([part], costs=None, unit="ms", kind="standalone", name=None, options={}, notes=[])
    (Cost(name='cost', unit='ms', values=(1.0, 2.0), kind='cumulative', cascade=True),)
    """
    values, wanted = stated_values(costs)
    exits = parts[0].lead.shape[1]
    common = _common(parts, notes)
    plain = name or "cost"
    found = {plain if key == "costs" else key: per_part for key, per_part in common.items()}
    if plain in found:  # the nameless cost is the main one
        found = {plain: found.pop(plain), **found}
    if values is not None:
        if len(values) != exits:
            allowed = f"{exits} numbers, one per exit"
            raise input_error(
                "costs", allowed, f"{len(values)}", "Give as many as there are exits."
            )
        if found.pop(plain, None) is not None:
            notes.append(f"costs of the file under {plain!r} replaced by the ones given")
        found = {plain: [np.asarray(values)] * len(parts), **found}
    if wanted is not None:
        wanted = plain if wanted in ("costs", "cost") and wanted not in found else wanted
        if wanted not in found:
            allowed = "numbers such as 1,2,4"
            if found:
                allowed += f", or a cost that the file names: one of {', '.join(found)}"
            raise input_error("costs", allowed, wanted, "E.g. --costs 1,2,4.")
        found = {wanted: found.pop(wanted), **found}
    if not found:
        notes.append(
            f"NO COSTS STATED: counted in exits, 1..{exits}. A budget means little so: "
            "pass --costs and --unit"
        )
        return (Cost("exits", "exits", tuple(float(k) for k in range(1, exits + 1))),)
    told = kind or options.get("cost_kind")
    if told is None:
        notes.append(
            "costs read as cumulative; where each is the cost of that exit alone, "
            "say --cost-kind standalone"
        )
    elif told not in KINDS:
        raise input_error(
            "cost kind", f"one of {', '.join(KINDS)}", told, "Choose one (--cost-kind)."
        )
    return tuple(
        _settle(parts, key, per_part, told or "cumulative",
                _unit(key, key == plain or key == next(iter(found)), unit, options, notes), notes)
        for key, per_part in found.items()
    )  # fmt: skip


def _common(parts: Sequence[Part], notes: list[str]) -> dict[str, list[Array]]:
    """Return the costs that all parts state, per part."""
    keys = dict.fromkeys(key for part in parts for key in part.costs)
    common = {}
    for key in keys:
        lacking = [part.split for part in parts if key not in part.costs]
        if lacking:
            notes.append(f"cost {key!r} left out: split {lacking[0]!r} does not state it")
        else:
            common[key] = [part.costs[key] for part in parts]
    return common


def _unit(
    key: str, default: bool, unit: str | None, options: Mapping[str, str], notes: list[str]
) -> str:
    """Take the unit the user gives (for the default cost), else the key's, else the file's."""
    told = UNITS.get(key.rsplit("_", 1)[-1].lower()) if "_" in key else None
    if unit and (default or told is None):
        return unit
    if told or options.get("unit"):
        return told or options["unit"]
    notes.append(f"cost {key!r}: unit unknown, called 'units'; pass --unit")
    return "units"


def _settle(
    parts: Sequence[Part], key: str, per_part: list[Array], kind: str, unit: str, notes: list[str]
) -> Cost:
    for part, array in zip(parts, per_part, strict=True):
        if array.dtype.kind not in "biuf":
            raise input_error(
                f"{part.source}: {key}", "numbers", f"dtype {array.dtype}", "Convert them."
            )
    rows = {tuple(a.tolist()) if a.ndim == 1 else None for a in per_part}
    if None not in rows:
        if len(rows) > 1:
            shown = " and ".join(str(row) for row in list(rows)[:2])
            raise input_error(f"cost {key}", "the same in every file", shown, "Pass --costs.")
        return Cost(key, unit, next(iter(rows)), kind)
    full = [
        np.broadcast_to(a, part.lead.shape[:2]) for part, a in zip(parts, per_part, strict=True)
    ]
    if sum(map(len, full)) > 1 and all((a == full[0][:1]).all() for a in full):
        notes.append(f"cost {key!r} is the same for every sample: kept per exit")
        return Cost(key, unit, tuple(full[0][0].tolist()), kind)
    for part, array in zip(parts, full, strict=True):
        where = f"{key} (split {part.split!r})"
        part.arrays[COST_PREFIX + key] = cumulative(array.astype(np.float64), kind, where)
    return Cost(key, unit, None, kind)
