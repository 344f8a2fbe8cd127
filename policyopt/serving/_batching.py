"""`ContinuousBatcher`: a queue before every exit, from which the survivors of many requests run together.

As Orca's at every token (Yu et al., OSDI 2022, section 3.1); the names are those of Triton's dynamic batcher.
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

from policyopt.runtime._checks import check_least, check_whole, sample_numbers
from policyopt.runtime._errors import input_error
from policyopt.runtime._forks import Line, tell_of_forks
from policyopt.runtime._policy import Policy, State
from policyopt.runtime._typing import Ints

from ._server import Results, Served, Server
from ._staged import form, join, part, size, take


@dataclass(slots=True, eq=False)
class Flight:
    """Samples that came to a queue together; only those of one `form` run with others."""

    samples: int
    slots: Any  # (samples,) int, where their results go
    form: Any = None
    hidden: Any = None
    state: Any = None
    since: float = 0.0


class Queues:
    """Flights before each of P exits, and which run next; on the server's clock or a simulated one."""

    def __init__(self, exits: int, max_batch_size: int, max_queue_delay: float) -> None:
        check_whole("max_batch_size", max_batch_size)
        check_least("max_queue_delay", max_queue_delay)
        self.waiting, self.samples = [deque[Flight]() for _ in range(exits)], [0] * exits
        self._most, self._delay = max_batch_size, max_queue_delay

    def put(self, at: int, flight: Flight, now: float) -> None:
        """Queue a flight before exit `at`."""
        flight.since = now
        self.waiting[at].append(flight)
        self.samples[at] += flight.samples

    def pop(self, now: float) -> tuple[int, list[Flight]] | None:
        """Take what runs next, and say before which exit; None: nothing waits.

        The deepest queue; while another fills a batch, the deepest that does or has waited long enough: so survivors
        wait for more of them when there is more to do than time, and only then.
        """
        full = [count >= self._most for count in self.samples]
        busy, at = any(full), -1
        for k, flights in enumerate(self.waiting):
            if flights and (not busy or full[k] or now - flights[0].since >= self._delay):
                at = k
        if at < 0:
            return None
        flights, taken, passed, room = self.waiting[at], list[Flight](), list[Flight](), self._most
        while flights and room > 0:
            flight = flights.popleft()
            fits = not taken or (flight.samples <= room and flight.form == taken[0].form)
            (taken if fits else passed).append(flight)
            room -= flight.samples if fits else 0
        flights.extendleft(reversed(passed))
        self.samples[at] -= sum(flight.samples for flight in taken)
        return at, taken


@dataclass(slots=True, eq=False)
class _Request:
    """A call of `submit`, and how many of its samples have not left."""

    batch: Any
    numbers: Ints
    slots: Ints
    left: int
    future: Future[Served] = field(default_factory=Future)


class ContinuousBatcher:
    """A server with a queue before every exit: any number of threads submit, one runs the model.

    Parameters
    ----------
    server : Server
        Of one policy, from `serve`. Decisions are those that it makes of the same sample numbers, whoever runs beside.
    max_batch_size : int, default 64
        Most samples that a stage runs at once: where its time per sample has ceased to fall.
    max_queue_delay : float, default 0.01
        Seconds that survivors wait for more of them, at most, while a full batch waits elsewhere; else none wait.
    max_queue_size : int, default 4096
        Most samples that wait or run; `submit` waits for room.

    Raises
    ------
    InputError
        No server, or one of several policies; numbers out of their range.

    Notes
    -----
    Close it, or use ``with``: its thread keeps it alive. A forked child has empty queues and a thread of its own;
    requests from before are its parent's.

    Examples
    --------
    >>> with ContinuousBatcher(serve(model, policy)) as batcher:  # doctest: +SKIP
    ...     futures = [batcher.submit(batch) for batch in batches]
    ...     exits = [future.result().exit for future in futures]
    """

    def __init__(
        self, server: Server, *, max_batch_size: int = 64, max_queue_delay: float = 0.01,
        max_queue_size: int = 4096,
    ) -> None:  # fmt: skip
        if not isinstance(server, Server) or not isinstance(server.policy, Policy):
            got = type(getattr(server, "policy", server)).__name__
            raise input_error("server", "a Server of one Policy", got, "E.g. serve(model, policy).")
        check_whole("max_queue_size", max_queue_size)
        self.server, self.max_batch_size = server, max_batch_size
        self.max_queue_delay, self.max_queue_size = max_queue_delay, max_queue_size
        self._clock, self._closed = time.monotonic, False
        self._renew(())
        tell_of_forks(self)

    def _renew(self, line: Line) -> None:
        """Begin with empty queues, here and in a forked child."""
        self._lock, self._thread = threading.Lock(), None
        self._work, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        exits = len(self.server.policy.active_exits)
        self._queues = Queues(exits, self.max_batch_size, self.max_queue_delay)
        self._results = Results(self.server, self.max_queue_size, None)
        self._free, self._turns = [*range(self.max_queue_size)], deque[object]()
        self._owners = np.empty(self.max_queue_size, dtype=object)

    def submit(
        self, batch: Any, *, samples: npt.ArrayLike | None = None, timeout: float | None = None
    ) -> Future[Served]:
        """Queue a request.

        Parameters
        ----------
        batch, samples
            As `Server` takes them. A batch must not be changed before it is done.
        timeout : float, optional
            Seconds to wait for room; default: as long as it takes.

        Returns
        -------
        Future of Served
            Or of what a stage raised for this request; those that ran beside it go on.

        Raises
        ------
        InputError
            More samples than `max_queue_size`, numbers that are none.
        queue.Full
            No room within `timeout`.
        RuntimeError
            After `close`.
        """
        n, most, policy = size(batch), self.max_batch_size, self.server.policy
        if n > self.max_queue_size:
            step = "Divide it, or make max_queue_size larger."
            raise input_error("batch", f"at most {self.max_queue_size} samples", n, step)
        numbers = sample_numbers(samples, n) + (self.server._counted(n) if samples is None else 0)
        flights = []
        for low in range(0, n, most):
            piece = part(batch, low, low + most, n) if n > most else batch
            own = numbers[low : low + most]
            flights.append(Flight(len(own), None, form(piece), piece, policy.start(own)))
        with self._lock:
            self._turns.append(turn := object())  # in turn: a large request comes to its own
            try:
                found = self._room.wait_for(
                    lambda: self._closed or (self._turns[0] is turn and len(self._free) >= n),
                    timeout,
                )
            finally:  # interrupted, too: nobody waits behind who is not there
                self._turns.remove(turn)
                self._room.notify_all()
            if self._closed:
                raise RuntimeError("the batcher is closed: it takes no more requests")
            if not found:
                raise queue.Full(f"no room for {n} samples within {timeout} seconds")
            slots, self._free = np.array(self._free[:n], dtype=np.int64), self._free[n:]
            request = self._owners[slots] = _Request(batch, numbers, slots, n)
            request.future.set_running_or_notify_cancel()
            for at, flight in enumerate(flights):
                flight.slots = slots[at * most : (at + 1) * most]
                self._queues.put(0, flight, self._clock())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="policyopt", daemon=True)
                self._thread.start()
            self._work.notify()
        if not n:
            request.future.set_result(self.server(batch))
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
                    self._work.wait_for(lambda: self._closed or any(self._queues.waiting))
                    taken = self._queues.pop(self._clock())
                if taken is None:
                    return
                self._step(*taken)

    def _step(self, at: int, flights: list[Flight]) -> None:
        """Run flights to exit `at`, and tell the requests that are done."""
        slots: Ints = np.concatenate([flight.slots for flight in flights])
        try:
            gone = self._exit(at, flights, slots)
        except BaseException:  # which of the requests it was is not known: each runs by itself
            gone = slots
            for request in dict.fromkeys(self._owners[slots].tolist()):
                if request.future.done():
                    continue
                try:
                    served = self.server(request.batch, samples=request.numbers)
                    request.future.set_result(served)
                except BaseException as error:
                    request.future.set_exception(error)
        for request, count in Counter(self._owners[gone].tolist()).items():
            request.left -= count
            if not request.left:
                done = request.future.done()  # by itself: then not all that is here was filled in
                served = None if done else self._results.served(request.slots)
                self._owners[request.slots] = None
                with self._lock:
                    self._free += request.slots.tolist()
                    self._room.notify_all()
                if served is not None:
                    request.future.set_result(served)

    def _exit(self, at: int, flights: list[Flight], slots: Ints) -> Ints:
        """Run flights to exit `at`, queue the survivors, and return the slots of those who leave."""
        hidden, state = flights[0].hidden, flights[0].state
        if len(flights) > 1:
            hidden = join([f.hidden for f in flights], [f.samples for f in flights])
            state = State.join([flight.state for flight in flights])
        hidden, decision = self.server._exit(at, hidden, state)
        leaving: Any = decision.exit
        gone, stay = slots[leaving], np.flatnonzero(~leaving)
        self._results.leave(self.server.policy.active_exits[at], gone, decision, leaving)
        if len(stay):
            if len(gone):
                hidden, state = take(hidden, stay, len(slots)), state.keep(stay)
            on = Flight(len(stay), slots[stay], form(hidden), hidden, state)
            with self._lock:
                self._queues.put(at + 1, on, self._clock())
        return gone
