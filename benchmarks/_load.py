"""`simulate_load`: how long requests take at a rate, reckoned from a `LatencyTable` with the queues that serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats

from ._batching import Flight, Queues
from ._latency import LatencyTable


class Load(NamedTuple):
    """Seconds from each request's arrival to its end, (R,); samples per second; the share of time the model ran."""

    latency: Floats
    throughput: float
    busy: float


def simulate_load(
    table: LatencyTable,
    exits: npt.ArrayLike,
    rate: float,
    *,
    path: Sequence[int],
    request_size: int = 1,
    requests: int = 2000,
    max_batch_size: int = 64,
    max_queue_delay: float = 0.01,
    overhead: float = 0.0,
    seed: int = 0,
) -> Load:
    """Simulate a `ContinuousBatcher` at a load; requests come at random (a Poisson process).

    Parameters
    ----------
    table : LatencyTable
    exits : array of shape (N,), int
        Exits that samples take, e.g. ``po.evaluate(policy, data).exit``; requests draw from them.
    rate : float
        Samples per second that arrive.
    path : sequence of int
        The policy's `active_exits`. ``exits=[K-1], path=[K-1]`` is the full model.
    request_size, requests : int
        Samples per request, and how many requests.
    max_batch_size, max_queue_delay
        Of the batcher. `request_size` and 0: one request after another, each to its end, as a `Server` has them.
    overhead : float, default 0
        Seconds per exit and batch that the table lacks: decisions, and the server's own work.
    seed : int, default 0

    Returns
    -------
    Load

    Raises
    ------
    InputError
        Exits that are not on the path; numbers out of their range.

    Examples
    --------
    >>> table = LatencyTable([1, 8], [[1, 1], [2, 2]], [[0, 0], [0, 0]], [[0, 0], [0, 0]])
    >>> load = simulate_load(table, [0, 0, 0, 1], rate=0.5, path=[0, 1])
    >>> float(load.latency.min()), load.busy < 1
    (1.0, True)
    """
    exits, path = np.asarray(exits), [*path]
    if exits.ndim != 1 or not exits.size or not np.isin(exits, path).all():
        raise input_error("exits", f"(N,) of {path}", np.unique(exits)[:9], "Give the path.")
    if min(request_size, requests) < 1 or not (0 < rate < np.inf and 0 <= overhead < np.inf):
        got = (rate, request_size, requests, overhead)
        raise input_error("rate, request_size, requests, overhead", "positive", got, "")
    queues, rng = Queues(len(path), max_batch_size, max_queue_delay), np.random.default_rng(seed)
    most = min(request_size, max_batch_size)
    arrivals = np.cumsum(rng.exponential(request_size / rate, requests))
    place = np.searchsorted(path, exits)[rng.integers(0, len(exits), requests * request_size)]
    seconds = table.seconds(path, max_batch_size + 1) + overhead
    gathering, ends = table.gathering(path, max_batch_size + 1), np.zeros(requests)
    now, busy, come = 0.0, 0.0, 0
    while True:
        while come < requests and arrivals[come] <= now:
            for slots in np.split(np.arange(request_size), range(most, request_size, most)):
                flight = Flight(len(slots), slots=slots + come * request_size)
                queues.put(0, flight, float(arrivals[come]))
            come += 1
        taken = queues.pop(now)
        if taken is None:
            if come == requests:
                whole = float(ends.max() - arrivals[0])
                return Load(ends - arrivals, len(place) / whole, busy / whole)
            now = float(arrivals[come])
            continue
        at, flights = taken
        slots: Any = np.concatenate([flight.slots for flight in flights])
        on = slots[place[slots] > at]
        took = seconds[len(slots), at] + (0 < len(on) < len(slots)) * gathering[len(on), at]
        took += (len(flights) > 1) * gathering[len(slots), at - 1 if at else 0]  # to join them
        now, busy = now + took, busy + took
        ends[slots // request_size] = now  # of each, the last of these stays
        if len(on):
            queues.put(at + 1, Flight(len(on), slots=on), now)
