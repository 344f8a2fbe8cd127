"""`simulate_load`: how long requests would take at a rate, reckoned from a `LatencyTable` by the queues that serve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Floats, Ints

from ._batching import Flight, Queues, check_queues
from ._latency import LatencyTable

#: One stage after another of one request after another; with a queue per exit; the full model.
SERVERS = ("requests", "queues", "full")


@dataclass(frozen=True)
class Load:
    """What requests met.

    Attributes
    ----------
    latency : ndarray of shape (R,), float64
        Seconds from a request's arrival until its last sample has left.
    throughput : float
        Samples per second, from the first arrival to the last end.
    busy : float
        Share of that time in which the model ran.
    """

    latency: Floats
    throughput: float
    busy: float

    def percentile(self, q: float) -> float:
        """Return the latency that q percent of the requests keep, in seconds."""
        return float(np.percentile(self.latency, q))


def simulate_load(
    table: LatencyTable,
    exits: npt.ArrayLike,
    rate: float,
    *,
    server: str = "queues",
    path: Sequence[int] | None = None,
    request_size: int = 1,
    requests: int = 2000,
    max_batch_size: int = 64,
    max_queue_delay: float = 0.01,
    overhead: float = 0.0,
    seed: int = 0,
) -> Load:
    """Simulate a server at a load: one model that runs one batch at a time, requests that come at random.

    Parameters
    ----------
    table : LatencyTable
        From `measure` with `batches`.
    exits : array of shape (N,), int
        Exits that samples take, e.g. ``po.evaluate(policy, data).exit``; requests draw from them.
    rate : float
        Samples per second that arrive, in requests whose gaps are exponential (a Poisson process).
    server : {"queues", "requests", "full"}, default "queues"
        `ContinuousBatcher`; `Server`, one request after another, survivors regrouped where the table says that it
        pays; the full model, one request after another.
    path : sequence of int, optional
        The policy's `active_exits`; default all.
    request_size : int, default 1
        Samples per request.
    requests : int, default 2000
    max_batch_size, max_queue_delay
        As `ContinuousBatcher` has them.
    overhead : float, default 0
        Seconds per exit and batch that the table lacks: the policy's decision and the server's own work.
    seed : int, default 0

    Returns
    -------
    Load

    Raises
    ------
    InputError
        Exits that are not on the path, a rate or an overhead that is none, sizes below 1.

    Examples
    --------
    >>> table = LatencyTable([1, 8], [[1, 1], [2, 2]], [[0, 0], [0, 0]], [[0, 0], [0, 0]])
    >>> load = simulate_load(table, [0, 0, 0, 1], rate=2.0)
    >>> load.busy < 1 and load.percentile(50) >= 1
    True
    """
    exits, path = np.asarray(exits), list(range(table.exits) if path is None else path)
    check_one_of("server", server, SERVERS, "Choose one.")
    check_queues(max_batch_size, max_queue_delay)
    if exits.ndim != 1 or not exits.size or not np.isin(exits, path).all():
        got = f"shape {exits.shape}, values {np.unique(exits)[:9].tolist()}"
        raise input_error("exits", f"(N,) of {', '.join(map(str, path))}", got, "Give the path.")
    if min(request_size, requests) < 1 or not (0 < rate < np.inf and 0 <= overhead < np.inf):
        got = f"{rate}, {overhead}, {request_size}, {requests}"
        allowed = "above 0, 0 or more, from 1, from 1"
        raise input_error("rate, overhead, request_size, requests", allowed, got, "")
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(request_size / rate, requests))
    places = np.searchsorted(path, exits)[rng.integers(0, len(exits), (requests, request_size))]
    if server == "queues":
        queues = Queues(len(path), max_batch_size, max_queue_delay)
        ends, busy = _queued(table, path, places, arrivals, queues, overhead)
    else:
        if server == "full":
            times = np.full(requests, float(table.seconds(request_size, (table.exits - 1,))[0]))
        else:
            times = _one_by_one(table, path, places, overhead)
        ends, busy = one_after_another(arrivals, times), float(times.sum())
    whole = ends.max() - arrivals[0]
    return Load(ends - arrivals, requests * request_size / whole, busy / whole)


def one_after_another(arrivals: Floats, seconds: Floats) -> Floats:
    """Return when requests end, (R,), that take so long and are served in turn."""
    # The end is the latest, over earlier arrivals, of that arrival and all that was served since (Lindley, 1952).
    served = np.cumsum(seconds)
    return np.maximum.accumulate(arrivals - served + seconds) + served


def _one_by_one(table: LatencyTable, path: list[int], places: Ints, overhead: float) -> Floats:
    """Return the seconds of each request, (R,): stage by stage, its survivors regrouped where it pays."""
    size = places.shape[1]
    seconds = table.seconds(np.arange(size + 1), path) + overhead
    copying, plan = table.gathering(np.arange(size + 1), path), table.plan(path)
    times = np.zeros(len(places))
    for r, request in enumerate(places):
        of = size
        for at in range(int(request.max()) + 1):
            times[r] += seconds[of, at]
            left = int((request > at).sum())
            if 0 < left < of and left <= plan(at, of):
                times[r] += copying[left, at]
                of = left
    return times


def _queued(
    table: LatencyTable, path: list[int], places: Ints, arrivals: Floats, queues: Queues, overhead: float
) -> tuple[Floats, float]:  # fmt: skip
    """Return when requests end, (R,), and how long the model ran, with a queue before every exit."""
    size, most = places.shape[1], queues.most
    sizes = np.arange(max(size, most) + 1)
    seconds, copying = table.seconds(sizes, path) + overhead, table.gathering(sizes, path)
    flat, ends, left = places.ravel(), np.empty(len(places)), [size] * len(places)
    now = busy = 0.0
    come = 0
    while True:
        while come < len(arrivals) and arrivals[come] <= now:
            for low in range(come * size, (come + 1) * size, most):
                slots = np.arange(low, min(low + most, (come + 1) * size))
                queues.put(0, Flight(len(slots), slots=slots), float(arrivals[come]))
            come += 1
        taken = queues.pop(now)
        if taken is None:
            if come == len(arrivals):
                return ends, busy
            now = float(arrivals[come])
            continue
        at, flights = taken
        slots: Any = np.concatenate([flight.slots for flight in flights])
        on, gone = slots[flat[slots] > at], slots[flat[slots] <= at]
        took = float(seconds[len(slots), at])
        took += copying[len(slots), at - 1] if len(flights) > 1 and at else 0.0  # to join them
        took += copying[len(on), at] if len(on) and len(gone) else 0.0
        now, busy = now + took, busy + took
        for request, count in Counter((gone // size).tolist()).items():
            left[request] -= count
            ends[request] = now  # the last of these
        if len(on):
            queues.put(at + 1, Flight(len(on), slots=on), now)
