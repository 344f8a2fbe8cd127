"""Requests that come at random: how long they take, reckoned from a `LatencyTable` and on the processor's clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from policyopt.runtime._typing import Floats
from policyopt.serving import ContinuousBatcher, LatencyTable
from policyopt.serving._batching import Flight, Queues
from policyopt.serving._staged import size


class Load(NamedTuple):
    """Seconds from each request's arrival to its end, (R,); samples per second; the share of time the model ran."""

    latency: Floats
    throughput: float
    busy: float


def arriving(rate: float, request_size: int, requests: int, seed: int = 0) -> Floats:
    """Return when requests come, (R,): a Poisson process of so many samples per second; all at 0 of infinity."""
    return np.cumsum(np.random.default_rng(seed).exponential(request_size / rate, requests))


def simulated(
    table: LatencyTable,
    exits: npt.ArrayLike,
    arrivals: Floats,
    *,
    path: Sequence[int],
    request_size: int = 1,
    max_batch_size: int = 64,
    max_queue_delay: float = 0.01,
    overhead: float = 0.0,
    seed: int = 0,
) -> Load:
    """Simulate a `ContinuousBatcher`: its own queues, on the clock of the table.

    Parameters
    ----------
    exits
        (N,), which samples take; requests draw from them. ``exits=[K-1], path=[K-1]`` is the full model.
    max_batch_size, max_queue_delay
        `request_size` and 0: one request after another, each to its end, as a `Server` has them.
    overhead
        Seconds per exit and batch that the table lacks: decisions, and the server's own work.
    """
    exits, path, requests = np.asarray(exits), [*path], len(arrivals)
    queues, rng = Queues(len(path), max_batch_size, max_queue_delay), np.random.default_rng(seed)
    most = min(request_size, max_batch_size)
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


def queued(
    batcher: ContinuousBatcher, batches: Sequence[Any], arrivals: Floats
) -> tuple[Load, list[Any]]:
    """Serve requests as they arrive on a clock that runs only while this thread does; return what they got, too.

    What other processes do at the time does not count, nor who waits for the core. All is done in this thread: what
    callers spend in `submit` counts as well.
    """
    ends, futures, now, busy, start = np.zeros(len(arrivals)), list[Future[Any]](), 0.0, 0.0, 0.0
    batcher._thread = threading.current_thread()  # none is started
    batcher._clock = lambda: now + time.thread_time() - start
    while True:
        start = time.thread_time()
        while len(futures) < len(arrivals) and arrivals[came := len(futures)] <= now:
            batch = batches[came % len(batches)]
            if len(batcher._free) < size(batch):
                break  # it waits for room
            future = batcher.submit(batch)
            future.add_done_callback(lambda _, came=came: ends.__setitem__(came, batcher._clock()))
            futures.append(future)
        taken = batcher._queues.pop(now)
        if taken is None and len(futures) == len(arrivals):
            whole = float(ends.max() - arrivals[0])
            found = [future.result() for future in futures]
            samples = sum(len(one.exit) for one in found)
            return Load(ends - arrivals, samples / whole, busy / whole), found
        if taken is not None:
            with batcher.server._inference():
                batcher._step(*taken)
        took = time.thread_time() - start
        now, busy, start = now + took, busy + took, time.thread_time()
        if taken is None:
            now = max(now, float(arrivals[len(futures)]))


def in_turn(arrivals: Floats, seconds: Floats, request_size: int) -> Load:
    """Return what requests meet that take so long, (R,), and are served one after another."""
    # The end is the latest, over earlier arrivals, of that arrival and all that was served since (Lindley, 1952).
    served = np.cumsum(seconds)
    ends = np.maximum.accumulate(arrivals - served + seconds) + served
    whole = float(ends.max() - arrivals[0])
    return Load(ends - arrivals, len(arrivals) * request_size / whole, float(served[-1]) / whole)
