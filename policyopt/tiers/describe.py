"""The description of tiers and links: a TOML or JSON file, every field checked by name.

What it holds is what the partitioning papers measure first: the time of each stage on each tier and the
bytes at each cut (Edgent, arXiv:1806.07840, Algorithm 1: layer sizes, regressed layer times, bandwidth;
Pacheco & Couto, ISCC 2020, arXiv:2005.04099: a processing factor between edge and cloud and the bytes of
each layer; SPINN, MobiCom 2020, arXiv:2008.06402: a profile per device; DDNN, ICDCS 2017, arXiv:1709.01921:
bytes sent by a device). Departures: tiers stand in one row, each joined to the next by one link, so that
what is sent from the first to the third passes the second; the bytes are those that really pass,
compressed or not, and waiting in queues is not modelled: state times under the load that is expected.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime.errors import bad

Floats = npt.NDArray[np.float64]
OBJECTIVES = ("latency", "energy", "price")
MAX_BYTES, MAX_TIERS = 1 << 20, 8
_SEE = "See docs/tiers.md for an example."


@dataclass(frozen=True)
class Tier:
    """A place where stages run.

    Parameters
    ----------
    name : str
    ms_per_unit : float
        Time of one unit of the cache's cost; unused where `stage_ms` is given.
    stage_ms : tuple of K floats
        Measured time of each stage, its head included, instead.
    mJ_per_unit, price_per_unit : float
        Energy and price of one unit of the cache's cost.
    watts, price_per_hour : float
        Energy and price of the time that it computes, added to those.
    most_stages : int, optional
        How many stages fit into its memory.
    """

    name: str
    ms_per_unit: float = 0.0
    stage_ms: tuple[float, ...] = ()
    mJ_per_unit: float = 0.0
    watts: float = 0.0
    price_per_unit: float = 0.0
    price_per_hour: float = 0.0
    most_stages: int | None = None

    def work(self, objective: str, amounts: Floats) -> Floats:
        """Return what each stage costs here, shaped as `amounts`: (K,) or (N, K) units of cost."""
        if len(self.stage_ms) not in (0, amounts.shape[-1]):
            raise bad(
                f"stage_ms of tier '{self.name}'", f"{amounts.shape[-1]} times, one per stage",
                f"{len(self.stage_ms)}", _SEE,
            )  # fmt: skip
        ms = self.ms_per_unit * amounts
        if self.stage_ms:
            ms = np.broadcast_to(np.array(self.stage_ms), amounts.shape)
        if objective == "latency":
            return ms
        if objective == "energy":  # watts times milliseconds are millijoules
            return self.mJ_per_unit * amounts + self.watts * ms
        return self.price_per_unit * amounts + self.price_per_hour * ms / 3.6e6


@dataclass(frozen=True)
class Link:
    """What joins a tier to the next; each way takes half the round trip.

    Parameters
    ----------
    megabits_per_second, back_megabits_per_second : float
        Bandwidth onward, and of the way back (default the same).
    round_trip_ms : float
    mJ_per_kB, price_per_GB : float
        Energy and price of the bytes, either way; 1 kB is 1000 bytes.
    """

    megabits_per_second: float
    back_megabits_per_second: float = 0.0
    round_trip_ms: float = 0.0
    mJ_per_kB: float = 0.0
    price_per_GB: float = 0.0

    def carry(self, objective: str, size: float, back: bool = False) -> float:
        """Return what it costs to send `size` bytes."""
        if objective == "latency":
            speed = (self.back_megabits_per_second if back else 0.0) or self.megabits_per_second
            return self.round_trip_ms / 2 + 8 * size / (speed * 1e3)
        return size * (self.mJ_per_kB / 1e3 if objective == "energy" else self.price_per_GB / 1e9)


@dataclass(frozen=True)
class Tiers:
    """Tiers from the one where inputs arise to the farthest, and what passes between them.

    Parameters
    ----------
    tiers : tuple of T Tier
    links : tuple of T-1 Link
    input_bytes : float
        Of one input.
    cut_bytes : tuple of K-1 floats
        Of what passes from stage k to stage k+1; empty for a cascade, whose models read the input.
    answer_bytes : float or None
        Of the answer on its way back to the first tier; None: it is used where it is found.
    message_bytes : float
        That go along whenever something is sent onward: headers, the policy's state.
    head_share : tuple of K floats
        Share of each stage's cost that its exit's head is, saved where the exit is not kept.
    currency : str
    unit : str
        Unit of the cache's cost that the numbers are for; empty: not checked.

    Examples
    --------
    >>> tiers = Tiers(
    ...     (Tier("device", 2.0), Tier("cloud", 0.1)), (Link(8.0, round_trip_ms=10.0),), 1000
    ... )
    >>> tiers.links[0].carry("latency", tiers.input_bytes)  # 5 ms one way, and 1 ms of bytes
    6.0
    """

    tiers: tuple[Tier, ...]
    links: tuple[Link, ...]
    input_bytes: float
    cut_bytes: tuple[float, ...] = ()
    answer_bytes: float | None = 0.0
    message_bytes: float = 0.0
    head_share: tuple[float, ...] = ()
    currency: str = "USD"
    unit: str = ""

    def __post_init__(self) -> None:
        names = [tier.name for tier in self.tiers]
        if not 1 <= len(names) <= MAX_TIERS or len(set(names)) < len(names):
            raise bad("tier", f"1 to {MAX_TIERS} tiers of different names", names, _SEE)
        if len(self.links) != len(names) - 1:
            allowed = f"{len(names) - 1} of them, one from each tier to the next"
            raise bad("link", allowed, f"{len(self.links)}", _SEE)

    def unit_of(self, objective: str) -> str:
        """Return the unit of an objective: ms, mJ or the currency."""
        return {"latency": "ms", "energy": "mJ"}.get(objective, self.currency)

    def check(self, exits: int, cascade: bool, unit: str) -> None:
        """Refuse a description that is not of a model with K exits whose cost is in `unit`."""
        if self.unit and self.unit != unit:
            raise bad(
                "unit of the tiers' model", f"that of the cache's cost: {unit}", self.unit,
                "Choose another cost of the cache with --cost, or describe the tiers in its unit.",
            )  # fmt: skip
        wanted = {"cut_bytes": exits - 1, "head_share": exits}
        for name, count in wanted.items():
            given = len(getattr(self, name))
            optional = name == "head_share" or cascade or len(self.tiers) == 1
            if given != count and not (optional and given == 0):
                raise bad(f"{name} of the model", f"{count} numbers", f"{given}", _SEE)
        for tier in self.tiers:
            tier.work("latency", np.zeros(exits))


def load_tiers(path: str | os.PathLike[str]) -> Tiers:
    """Read a description, TOML or (where the name ends so) JSON.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Tiers

    Raises
    ------
    InputError
        No such file, more than 1 MiB, not TOML or JSON, or a field that is unknown, missing or wrong.
    """
    path = Path(path)
    if not path.is_file():
        raise bad("tiers", "a file", str(path), _SEE)
    if path.stat().st_size > MAX_BYTES:
        raise bad("tiers", "at most 1 MiB", f"{path.stat().st_size} bytes", _SEE)
    read = json.loads if path.suffix.lower() == ".json" else tomllib.loads
    try:
        content = read(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix.lower() == ".json" else "TOML"
        raise bad(path.name, kind, str(error), _SEE) from error
    return tiers_from(content)


def tiers_from(content: Any) -> Tiers:
    """Build the description from what a file holds, checked; see docs/tiers.md for its fields.

    Examples
    --------
    >>> tiers = tiers_from(
    ...     {"model": {"input_bytes": 784}, "tier": [{"name": "a", "ms_per_unit": 1}]}
    ... )
    >>> tiers.tiers[0].ms_per_unit
    1.0
    """
    top = _fields("tiers", content, {"model", "tier", "link", "currency"}, {"model", "tier"})
    model = _fields(
        "model", top["model"],
        {"input_bytes", "cut_bytes", "answer_bytes", "message_bytes", "head_share", "unit"},
        {"input_bytes"},
    )  # fmt: skip
    answer = model.get("answer_bytes", 0.0)
    return Tiers(
        tuple(_tier(i, one) for i, one in enumerate(_list("tier", top["tier"]))),
        tuple(_link(i, one) for i, one in enumerate(_list("link", top.get("link", [])))),
        _number("input_bytes of the model", model["input_bytes"]),
        _numbers("cut_bytes of the model", model.get("cut_bytes", [])),
        None if answer is False else _number("answer_bytes of the model", answer),
        _number("message_bytes of the model", model.get("message_bytes", 0.0)),
        _numbers("head_share of the model", model.get("head_share", []), most=1.0),
        _text("currency", top.get("currency", "USD")),
        _text("unit of the model", model["unit"]) if "unit" in model else "",
    )


def _tier(place: int, content: Any) -> Tier:
    where = f"tier {place}"
    rates = {"ms_per_unit", "mJ_per_unit", "watts", "price_per_unit", "price_per_hour"}
    found = _fields(where, content, rates | {"name", "stage_ms", "most_stages"}, {"name"})
    if ("ms_per_unit" in found) == ("stage_ms" in found):
        raise bad(where, "given ms_per_unit or stage_ms, one of the two", sorted(found), _SEE)
    most = found.get("most_stages")
    if most is not None and (type(most) is not int or most < 0):
        raise bad(f"most_stages of {where}", "a whole number, 0 or more", most, _SEE)
    return Tier(
        _text(f"name of {where}", found["name"]),
        stage_ms=_numbers(f"stage_ms of {where}", found.get("stage_ms", [])),
        most_stages=most,
        **{name: _number(f"{name} of {where}", found[name]) for name in rates & found.keys()},
    )


def _link(place: int, content: Any) -> Link:
    where = f"link {place}"
    found = _fields(where, content, set(Link.__dataclass_fields__), {"megabits_per_second"})
    return Link(**{
        name: _number(f"{name} of {where}", value, positive=name.endswith("megabits_per_second"))
        for name, value in found.items()
    })  # fmt: skip


def _fields(where: str, content: Any, known: set[str], needed: set[str]) -> Mapping[str, Any]:
    if not isinstance(content, Mapping):
        raise bad(where, f"a table with {', '.join(sorted(known))}", content, _SEE)
    if content.keys() - known:
        unknown = ", ".join(sorted(map(str, content.keys() - known)))
        raise bad(f"fields of {where}", f"of {', '.join(sorted(known))}", unknown, _SEE)
    if needed - content.keys():
        missing = f"without {', '.join(sorted(needed - content.keys()))}"
        raise bad(where, f"given {', '.join(sorted(needed))}", missing, _SEE)
    return content


def _list(where: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise bad(where, f"a list of tables, [[{where}]]", value, _SEE)
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 100:
        raise bad(where, "a short text", value, _SEE)
    return value.strip()


def _number(where: str, value: Any, positive: bool = False, most: float = 1e15) -> float:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not fits or not math.isfinite(value) or not 0 <= value <= most or (positive and value == 0):
        low = "above 0" if positive else "0 or more"
        raise bad(where, f"a number, {low} and at most {most:g}", value, _SEE)
    return float(value)


def _numbers(where: str, value: Any, most: float = 1e15) -> tuple[float, ...]:
    if not isinstance(value, list):
        raise bad(where, "a list of numbers", value, _SEE)
    return tuple(_number(where, one, most=most) for one in value)
