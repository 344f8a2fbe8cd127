"""`ContinuousBatcher`: a queue before every exit, from which the survivors of many requests run together.

The schedule is that of an iteration-level scheduler (Yu et al., Orca, OSDI 2022, section 3.1) with exits for iterations.
The names are Triton's dynamic batcher's. What decides is the server, sample by sample; who runs beside whom is of no matter to it.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt.runtime._checks import sample_numbers
from policyopt.runtime._errors import input_error
from policyopt.runtime._forks import Line, tell_of_forks
from policyopt.runtime._typing import Ints

from ._server import Results, Served, Server, started
from ._staged import form, join, part, size, take


@dataclass(slots=True, eq=False)
class Flight:
    """Samples that have come to a queue together: how many, what they must have in common to run with others."""

    samples: int
    form: Any = None
    hidden: Any = None
    state: Any = None
    slots: Any = None  # (samples,) int, of their results
    since: float = 0.0


@dataclass(slots=True, eq=False)
class _Request:
    """A call of `submit`: what it was given, for the case that it has to run alone, and how many have not left."""

    given: tuple[Any, dict[str, Any]]
    slots: Ints
    left: int
    future: Future[Served] = field(default_factory=Future)


class Queues:
    """Flights before each of P exits, and which are run next; on the server's clock or a simulated one."""

    def __init__(self, exits: int, max_batch_size: int, max_queue_delay: float) -> None:
        self.waiting: list[deque[Flight]] = [deque() for _ in range(exits)]
        self.samples = [0] * exits
        self.most, self._delay = max_batch_size, max_queue_delay

    def put(self, at: int, flight: Flight, now: float) -> None:
        """Queue a flight before exit `at`."""
        flight.since = now
        self.waiting[at].append(flight)
        self.samples[at] += flight.samples

    def pop(self, now: float) -> tuple[int, list[Flight]] | None:
        """Take what is run next, and say before which exit; None: nothing waits.

        The deepest queue that fills a batch or has waited long enough; else the first in which anything is, so that
        survivors meet later ones on their way. Nothing waits for company while the model has nothing else to do.
        """
        filled = [at for at, flights in enumerate(self.waiting) if flights]
        if not filled:
            return None
        due = [at for at in filled if self.samples[at] >= self.most or now - self.waiting[at][0].since >= self._delay]  # fmt: skip
        at = due[-1] if due else filled[0]
        flights, others, room = list[Flight](), deque[Flight](), self.most
        alike = self.waiting[at][0].form
        for flight in self.waiting[at]:
            fits = flight.form == alike and (flight.samples <= room or not flights)
            (flights if fits else others).append(flight)
            room -= flight.samples if fits else 0
        self.waiting[at] = others
        self.samples[at] -= sum(flight.samples for flight in flights)
        return at, flights


class ContinuousBatcher:
    """A server with a queue before every exit; one thread runs the model, any number submit.

    Parameters
    ----------
    server : Server
        From `serve`. Its own calls go past the queues.
    max_batch_size : int, default 64
        Most samples that a stage runs at once. Where a stage's time per sample has ceased to fall.
    max_queue_delay : float, default 0.01
        Seconds. What has waited so long before an exit is run before others, however few it is.
    max_queue_size : int, default 4096
        Most samples that wait or run; `submit` waits for room.

    Raises
    ------
    InputError
        No server, sizes below 1, a delay that is negative or not finite.

    Notes
    -----
    Exits, answers and costs are those of the server for the same sample numbers, whatever else runs beside; what
    a model rounds otherwise in batches of another size, it does here, too. After a fork the child has empty queues and a
    thread of its own; requests from before are the parent's.

    Examples
    --------
    >>> with ContinuousBatcher(serve(model, policy)) as batcher:  # doctest: +SKIP
    ...     futures = [batcher.submit(batch) for batch in batches]
    ...     exits = [future.result().exit for future in futures]
    """

    def __init__(
        self,
        server: Server,
        *,
        max_batch_size: int = 64,
        max_queue_delay: float = 0.01,
        max_queue_size: int = 4096,
    ) -> None:
        if not isinstance(server, Server):
            step = "E.g. serve(model, policy)."
            raise input_error("server", "a Server", type(server).__name__, step)
        check_queues(max_batch_size, max_queue_delay)
        if not isinstance(max_queue_size, int) or max_queue_size < 1:
            raise input_error("max_queue_size", "a whole number from 1", max_queue_size, "")
        self.server = server
        self.max_batch_size, self.max_queue_delay = max_batch_size, max_queue_delay
        self.max_queue_size, self._clock = max_queue_size, time.monotonic
        self._renew(())
        tell_of_forks(self)

    def _renew(self, line: Line) -> None:
        """Begin with empty queues, here and in a forked child."""
        exits = len(self.server.policy.active_exits)
        self._lock = threading.Lock()
        self._work, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._queues = Queues(exits, self.max_batch_size, self.max_queue_delay)
        self._free, self._turns = list(range(self.max_queue_size)), deque[object]()
        several = len(self.server.policies) > 1
        chosen = np.zeros(self.max_queue_size, dtype=np.int64) if several else None
        self._results = Results(self.server, self.max_queue_size, chosen)
        self._owners = np.empty(self.max_queue_size, dtype=object)
        self._closed, self._thread = getattr(self, "_closed", False), None

    def submit(
        self,
        batch: Any,
        *,
        samples: npt.ArrayLike | None = None,
        context: Any = None,
        level: Any = None,
        timeout: float | None = None,
    ) -> Future[Served]:
        """Queue a request.

        Parameters
        ----------
        batch, samples, context, level
            As `Server` takes them. The batch must not be changed before the future is done.
        timeout : float, optional
            Seconds to wait for room; default: as long as it takes.

        Returns
        -------
        Future of Served
            Has what a stage raised for this request; those that ran beside it do not.

        Raises
        ------
        InputError
            Arguments that the server refuses; more samples than `max_queue_size`.
        queue.Full
            No room within `timeout`.
        RuntimeError
            After `close`.
        """
        n = size(batch)
        if n > self.max_queue_size:
            step = "Divide it, or make max_queue_size larger."
            raise input_error("batch", f"at most {self.max_queue_size} samples", n, step)
        numbers = sample_numbers(samples, n) + (self.server._counted(n) if samples is None else 0)
        given = batch, {"samples": numbers, "context": context, "level": level}
        state, chosen = started(self.server.policy, numbers, context, level)
        pieces = []
        for low in range(0, n, self.max_batch_size):
            high = min(low + self.max_batch_size, n)
            whole = high - low == n
            piece = batch if whole else part(batch, low, high, n)
            own = state if whole else started(self.server.policy, numbers[low:high], *(
                x if x is None or np.ndim(x) == 0 else x[low:high] for x in (context, level)))[0]  # fmt: skip
            pieces.append(Flight(high - low, form(piece), piece, own))
        with self._lock:
            self._turns.append(
                turn := object()
            )  # in turn, so that a large request comes to its own
            ready = lambda: self._closed or (self._turns[0] is turn and len(self._free) >= n)  # noqa: E731
            found = self._room.wait_for(ready, timeout)
            self._turns.remove(turn)
            self._room.notify_all()
            if self._closed:
                raise RuntimeError("the batcher is closed: it takes no more requests")
            if not found:
                raise queue.Full(f"no room for {n} samples within {timeout} seconds")
            slots = np.array(self._free[len(self._free) - n :], dtype=np.int64)
            del self._free[len(self._free) - n :]
            request = _Request(given, slots, n)
            request.future.set_running_or_notify_cancel()  # what is queued is run
            if not n:
                request.future.set_result(self._results.served(slots))
            self._owners[slots] = request
            if chosen is not None and self._results.chosen is not None:
                self._results.chosen[slots] = chosen
            first, now = 0, self._clock()
            for piece in pieces:
                piece.slots = slots[first : first + piece.samples]
                first += piece.samples
                self._queues.put(0, piece, now)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="policyopt", daemon=True)
                self._thread.start()
            self._work.notify()
        return request.future

    def close(self) -> None:
        """Take no more requests, finish those that wait, and end the thread."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
            self._room.notify_all()
        if self._thread is not None:
            self._thread.join()

    def __enter__(self) -> ContinuousBatcher:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def _run(self) -> None:
        """Run what waits, until it is closed and nothing waits."""
        with self.server._inference():
            while True:
                with self._lock:
                    self._work.wait_for(lambda: self._closed or any(self._queues.samples))
                    taken = self._queues.pop(self._clock())
                if taken is None:
                    return
                self._step(*taken)

    def _step(self, at: int, flights: list[Flight]) -> None:
        """Run flights to exit `at`, and tell those that are done."""
        slots = np.concatenate([flight.slots for flight in flights])
        try:
            gone = self._exit(at, flights, slots)
        except BaseException:  # of whatever kind: it is the callers'
            self._alone(slots)
            gone = slots
        self._leave(gone)

    def _exit(self, at: int, flights: list[Flight], slots: Ints) -> Ints:
        """Run flights to exit `at`, queue the survivors, and return the slots of those who leave."""
        hidden, state = flights[0].hidden, flights[0].state
        if len(flights) > 1:
            hidden = join([f.hidden for f in flights], [f.samples for f in flights])
            state = type(state).join([flight.state for flight in flights])
        hidden, decision = self.server.exit(at, hidden, state)
        leaving: Any = decision.exit
        gone, stay = slots[leaving], np.flatnonzero(~leaving)
        self._results.leave(self.server.policy.active_exits[at], gone, decision, leaving)
        if len(stay):
            if len(gone):
                hidden, state = take(hidden, stay, len(slots)), state.keep(stay)
            on = Flight(len(stay), form(hidden), hidden, state, slots[stay])
            with self._lock:
                self._queues.put(at + 1, on, self._clock())
        return gone

    def _alone(self, slots: Ints) -> None:
        """Serve the requests of a batch that failed by themselves, from their start, so that one fails for itself."""
        for request in dict.fromkeys(self._owners[slots].tolist()):
            if not request.future.done():
                batch, more = request.given
                try:
                    request.future.set_result(self.server(batch, **more))
                except BaseException as error:
                    request.future.set_exception(error)

    def _leave(self, slots: Ints) -> None:
        """Tell the requests of samples that have left; give back the slots of those that are done."""
        for request, count in Counter(self._owners[slots].tolist()).items():
            request.left -= count
            if request.left:
                continue
            served = self._results.served(request.slots)
            self._owners[request.slots] = None
            with self._lock:
                self._free += request.slots.tolist()
                self._room.notify_all()
            if not request.future.done():
                request.future.set_result(served)


def check_queues(max_batch_size: int, max_queue_delay: float) -> None:
    """Refuse sizes below 1, and delays that are no seconds."""
    if not isinstance(max_batch_size, int) or max_batch_size < 1:
        raise input_error("max_batch_size", "a whole number from 1", max_batch_size, "E.g. 64.")
    if not 0 <= max_queue_delay < float("inf"):
        step = "0: nothing waits for company."
        raise input_error("max_queue_delay", "seconds, 0 or more", max_queue_delay, step)
