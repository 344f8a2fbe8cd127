"""Tiers and the links between them: what stages and bytes cost there. `read` reads them from a file.

What it holds is what the partitioning papers measure first: the time of each stage on each tier and the
bytes at each cut (Edgent, arXiv:1806.07840, Algorithm 1: layer sizes, regressed layer times, bandwidth;
Pacheco & Couto, ISCC 2020, arXiv:2005.04099: a processing factor between edge and cloud and the bytes of
each layer; SPINN, MobiCom 2020, arXiv:2008.06402: a profile per device; DDNN, ICDCS 2017, arXiv:1709.01921:
bytes sent by a device). Departures: tiers stand in one row, each joined to the next by one link, so that
what is sent from the first to the third passes the second; the bytes are those that really pass,
compressed or not, and waiting in queues is not modelled: state times under the load that is expected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt.runtime.errors import input_error
from policyopt.runtime.typing import Floats

OBJECTIVES = ("latency", "energy", "price")
MAX_TIERS = 8
SEE = "See docs/tiers.md for an example."


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
            raise input_error(
                f"stage_ms of tier '{self.name}'", f"{amounts.shape[-1]} times, one per stage",
                f"{len(self.stage_ms)}", SEE,
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
            raise input_error("tier", f"1 to {MAX_TIERS} tiers of different names", names, SEE)
        if len(self.links) != len(names) - 1:
            allowed = f"{len(names) - 1} of them, one from each tier to the next"
            raise input_error("link", allowed, f"{len(self.links)}", SEE)

    def unit_of(self, objective: str) -> str:
        """Return the unit of an objective: ms, mJ or the currency."""
        return {"latency": "ms", "energy": "mJ"}.get(objective, self.currency)

    def check(self, exits: int, cascade: bool, unit: str) -> None:
        """Refuse a description that is not of a model with K exits whose cost is in `unit`."""
        if self.unit and self.unit != unit:
            raise input_error(
                "unit of the tiers' model", f"that of the cache's cost: {unit}", self.unit,
                "Choose another cost of the cache with --cost, or describe the tiers in its unit.",
            )  # fmt: skip
        wanted = {"cut_bytes": exits - 1, "head_share": exits}
        for name, count in wanted.items():
            given = len(getattr(self, name))
            optional = name == "head_share" or cascade or len(self.tiers) == 1
            if given != count and not (optional and given == 0):
                raise input_error(f"{name} of the model", f"{count} numbers", f"{given}", SEE)
        for tier in self.tiers:
            tier.work("latency", np.zeros(exits))
