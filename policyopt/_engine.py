"""One seam for work in parts: in turn, in processes (joblib), or on a cluster (Dask).

`run` does the parts, `parallel` says where. The numbers are the same everywhere: parts are cut and seeded without
regard to who does them, and numpy's libraries add up in one thread. Within a part there is no further engine, no bar.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from pickle import loads
from tempfile import TemporaryDirectory
from threading import Lock
from traceback import format_exc
from typing import Any
from uuid import uuid4

from policyopt._optional import need, release
from policyopt._progress import progress, report, stage
from policyopt.runtime._checks import check_whole
from policyopt.runtime._errors import PolicyOptError, input_error
from policyopt.runtime._files import refusing

#: How often tasks are given out whose workers ended: what ends each is the task itself.
_ATTEMPTS = 3
#: Bytes from which on what tasks share is sent to each worker of a cluster once, and not with each task.
_SHARED_BYTES = 1 << 20
#: Seconds for which a scheduler is looked for.
_SECONDS = 15
#: Yields numbers of tasks and results as they are done; ends early where workers were lost.
_Engine = Callable[[Callable[[Any], Any], str, Mapping[int, Any]], Iterator[tuple[int, Any]]]
_ENGINE: ContextVar[_Engine | None] = ContextVar("engine", default=None)  # None: in turn
_RECEIVED = dict[str, Callable[[Any], Any]]()
_LOCK, _LIMITS, _BUSY = Lock(), list[Any](), list[None]()


@contextmanager
def parallel(jobs: int | None = None, *, scheduler: str | None = None) -> Iterator[None]:
    """Do the parts of long work, such as the methods and seeds of `curve`, in processes or on a cluster.

    Results are the same as without, to the last digit. Workers open caches by themselves; data made of arrays travel.

    Parameters
    ----------
    jobs : int, optional
        Processes of this machine; 1: none but this one.
    scheduler : str, optional
        Address of a Dask scheduler, ``tcp://host:8786``, whose workers have this policyopt and see the same paths.

    Raises
    ------
    InputError
        Both or neither, no scheduler there, or workers of another version.
    PolicyOptError
        Within the block: workers that ended time and again.

    Examples
    --------
    >>> import numpy as np, policyopt as po
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 1000)
    >>> logits = rng.normal(size=(1000, 2, 3)) + 2 * np.eye(3)[labels][:, None] * [[1], [2]]
    >>> data = po.from_arrays(logits, labels, costs=[1, 4], unit="ms")
    >>> with po.parallel(jobs=2):
    ...     frontier = po.curve(data, "max_prob,margin", "50%")
    >>> frontier.records == po.curve(data, "max_prob,margin", "50%").records
    True
    """
    if (jobs is None) == (scheduler is None):
        got = "neither" if jobs is None else "both"
        raise input_error("jobs", "given, or scheduler, and not both", got, "E.g. jobs=4.")
    if jobs is not None:
        check_whole("jobs", jobs, step="E.g. --jobs 2.")
    with nullcontext() if scheduler is None else _client(scheduler) as client:
        engine = _cluster(client) if client else _processes(jobs) if jobs and jobs > 1 else None
        token = _ENGINE.set(engine)
        try:
            yield
        finally:
            _ENGINE.reset(token)


def elsewhere() -> bool:
    """Return whether others do the work than this process."""
    return _ENGINE.get() is not None


def run(
    function: Callable[[Any], Any], tasks: Iterable[Any], what: str | Sequence[str] | None = None,
    kept: Any = None,
) -> Iterator[Any]:  # fmt: skip
    """Yield the function's result for each task, in their order; both are pickled where others do the work.

    `what` is done, of all or of each task, for the bar; None: part of other work, nothing is told. `kept`: has ``load``
    and ``save``; what it has is not done again, and it gets what is done at once.
    """
    engine, tasks = _ENGINE.get() or _in_turn, list(tasks)
    found = {} if kept is None else {i: kept.load(task) for i, task in enumerate(tasks)}
    found = {i: result for i, result in found.items() if result is not None}
    left = {i: task for i, task in enumerate(tasks) if i not in found}
    token, attempts, first, total = uuid4().hex, 0, 0, len(tasks)
    results: Any = iter(())
    while left:
        told = what if isinstance(what, str) else what[min(left)] if what else ""
        with nullcontext() if what is None else stage(total - len(left), total, told):
            one = next(results, None)
        if one is None:  # the beginning, or workers ended
            if attempts == _ATTEMPTS:
                raise PolicyOptError(
                    f"Workers ended within {len(left)} of {total} tasks, {_ATTEMPTS} times over; perhaps the system "
                    "ended them for lack of memory. Use fewer (--jobs), or some with more memory."
                )
            attempts, results = attempts + 1, engine(function, token, dict(left))
            continue
        i, found[one[0]] = one
        task = left.pop(i)
        if kept is not None and not isinstance(found[i], _Failed):
            kept.save(task, found[i])
        if what is not None and not left:
            report(total, total, told)
        while first in found:
            if isinstance(result := found.pop(first), _Failed):  # the first in order, as in turn
                results.close()
                raise result.error
            yield result
            first += 1
    for i in range(first, total):
        yield found.pop(i)


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit numpy's libraries to one thread until the last task of this process has ended."""
    from threadpoolctl import threadpool_limits

    with _LOCK:
        _BUSY.append(None)
        _LIMITS.append(threadpool_limits(1))  # torch may have been loaded since the first
    try:
        yield
    finally:
        with _LOCK:
            _BUSY.pop()
            while _LIMITS and not _BUSY:  # the first, which knows what was before, goes last
                _LIMITS.pop().restore_original_limits()


@dataclass(frozen=True)
class _Failed:
    """What a task raised elsewhere."""

    error: Exception


def _apart(packed: str | bytes, token: str, i: int, task: Any) -> tuple[int, Any]:
    """Do one task in another process, by its copy of the function, a file or bytes; those of earlier work go."""
    if (function := _RECEIVED.get(token)) is None:
        for old in list(_RECEIVED)[:-1]:
            _RECEIVED.pop(old, None)
        content = Path(packed).read_bytes() if isinstance(packed, str) else packed
        function = _RECEIVED.setdefault(token, loads(content))
    with progress(None), one_thread():
        try:
            return i, function(task)
        except Exception as error:
            error.add_note(format_exc())  # of there: here it is raised again
            return i, _Failed(error)


# --- who does it --------------------------------------------------------------------------------


def _in_turn(function: Any, _: str, tasks: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
    for i, task in tasks.items():
        with one_thread():
            result = function(task)
        yield i, result


def _processes(jobs: int) -> _Engine:
    """Return the engine of processes on this machine."""

    def engine(function: Any, token: str, tasks: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        from joblib import Parallel, delayed, wrap_non_picklable_objects
        from joblib.externals.loky.backend.reduction import dumps
        from joblib.externals.loky.process_executor import TerminatedWorkerError

        # Wrapped: arrays of an opened cache joblib would map there, from a file whose name it lacks.
        packed = partial(wrap_non_picklable_objects, keep_wrapper=False)
        with refusing("the folder for temporary files"):
            folder = TemporaryDirectory(prefix="policyopt-")
            file = Path(folder.name, "function")  # which a process reads once, not with each task
            file.write_bytes(dumps(function))
        with folder:
            calls = (delayed(_apart)(str(file), token, i, packed(one)) for i, one in tasks.items())
            done = Parallel(jobs, return_as="generator_unordered", batch_size=1)(calls)
            try:
                yield from chain(done)  # which is closed below, and quietly
            except TerminatedWorkerError:
                return
            finally:
                with warnings.catch_warnings(action="ignore"):
                    done.close()

    return engine


@contextmanager
def _client(address: str) -> Iterator[Any]:
    """Connect to a scheduler whose workers have the same policyopt."""
    import asyncio  # here, and not where each command starts
    from concurrent.futures import ThreadPoolExecutor

    distributed, ours = need("distributed", "dask", "for --scheduler"), versions()
    allowed, step = "the address of a Dask scheduler, tcp://host:8786", "Start one: dask scheduler."
    try:
        with ThreadPoolExecutor(1) as beside:  # a notebook has a loop in this thread
            beside.submit(asyncio.run, asyncio.wait_for(_hear(address), _SECONDS)).result()
        client = distributed.Client(address, set_as_default=False, timeout=_SECONDS)
    except Exception as error:  # whatever it is that listens there
        got = f"{address} ({str(error) or type(error).__name__})"
        raise input_error("scheduler", allowed, got, step) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            step = f"Start some: dask worker {address}."
            raise input_error("scheduler", "one that has workers", "none", step) from None
        try:
            found = client.run(versions)
        except Exception as error:  # whatever keeps a worker from loading this package
            found = {"a worker": f"none that loads ({error})"}
        for worker, had in found.items():
            if had != ours:
                got, step = f"{had} at {worker}", "Install these there."
                raise input_error("scheduler", f"of workers with {ours}", got, step)
        yield client


async def _hear(address: str) -> None:
    """Talk to a scheduler once: where none, or something else, listens a client stays half open, or waits for ever."""
    from distributed import Security
    from distributed.comm import connect

    of = Security().get_connection_args("client")
    await (await connect(address, timeout=_SECONDS / 5, **of)).close()


def versions() -> str:
    """Return what results depend on."""
    return ", ".join(f"{name} {release(name)}" for name in ("policyopt", "numpy", "scipy"))


def _cluster(client: Any) -> _Engine:
    """Return the engine of a cluster; tasks whose workers end go to others, and lost results are made anew."""
    from distributed import KilledWorker, as_completed
    from distributed.protocol.pickle import dumps

    def sent(one: Any) -> Any:
        small = len(dumps(one)) < _SHARED_BYTES
        return one if small else client.scatter(one, broadcast=True, hash=False)

    def engine(function: Any, token: str, tasks: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        what, give = sent(dumps(function)), partial(client.submit, _apart, pure=False)
        futures = [give(what, token, i, sent(task)) for i, task in tasks.items()]
        try:
            for future in as_completed(futures, loop=client.loop):
                if future.status in ("finished", "error"):  # and not lost with its worker
                    yield future.result()
        except KilledWorker:
            return
        finally:
            client.cancel(futures)

    return engine
