"""Queues before the exits: decisions are the policy's whoever runs beside; a request fails, waits and ends by itself."""

import multiprocessing
import queue
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import Mock

import faults
import numpy as np
import pytest
from policies import fitted
from replayed import LOGITS, C, K, N, Replayed, batches, same, simple
from synthetic import cache

import policyopt as po
from policyopt.runtime import InputError, Mixture, PolicyFamily
from policyopt.runtime._scores import MaxProb

torch = pytest.importorskip("torch")
from policyopt.serving import (  # noqa: E402
    ContinuousBatcher,
    LatencyTable,
    StagedModel,
    export_cache,
    measure,
    serve,
)
from policyopt.serving._batching import Flight, Queues  # noqa: E402
from policyopt.serving._staged import form, join, take  # noqa: E402


def submitted(batcher, parts):
    """Submit parts of the rows from four threads, numbered by row; exits, predictions and costs by row."""
    found = {name: np.full(N, np.nan) for name in ("exit", "prediction", "cost")}
    with ThreadPoolExecutor(4) as pool:
        give = lambda rows: batcher.submit({"row": torch.from_numpy(rows)}, samples=rows)  # noqa: E731
        futures = list(pool.map(give, parts))
    for rows, future in zip(parts, futures, strict=True):
        one = future.result(30)
        for name, column in found.items():
            column[rows] = getattr(one, name)
    return found


#: Of every kind of state that survivors take along: none, runs, votes, features seen, answers combined, draws.
SPECS = [
    "max_prob", "patience", "vote", "e2cm", "random", "optimal_stopping", "max_prob:answer=combined",
    "entropy:thresholds=joint+mix=true",
]  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
def test_every_policy_leaves_where_the_replay_says(spec):
    """Requests of 1 to 40 in four threads, batches of 16 at most; every row passes each head once, in larger batches."""
    policy, stored = fitted(spec), Replayed(LOGITS)
    with ContinuousBatcher(serve(stored.model(), policy), max_batch_size=16) as batcher:
        for seed in range(3):
            for seen in stored.seen:
                seen.clear()
            found = submitted(batcher, batches(N, [1, 7, 40, 3], seed))
            same(found, policy.decide(LOGITS))
            for k in range(K):
                ran = (
                    np.flatnonzero(found["exit"] >= k).tolist() if k in policy.active_exits else []
                )
                assert sorted(stored.seen[k]) == ran
    assert sorted(batcher._free) == list(range(4096))


class Gated(Replayed):
    """Its first stage waits to be let through, so that requests gather."""

    def __init__(self, logits=LOGITS):
        super().__init__(logits)
        self.gate, self.sizes = threading.Event(), []

    def model(self):
        def first(hidden):
            assert self.gate.wait(30)
            return dict(hidden)

        def second(hidden):
            self.sizes.append(len(hidden["row"]))
            return dict(hidden)

        return StagedModel([first, second, dict, dict], [self.head(k) for k in range(K)])


def rows(*numbers):
    return {"row": torch.tensor(numbers)}


def test_survivors_of_many_requests_run_together_and_columns_come_along():
    """Answers, confidence, who is handed over, and the server's own numbers, in one request each."""
    plain = po.fit(cache(400), 3.0, "max_prob", abstain=0.2).policy
    mixed = simple(MaxProb(), mixture=Mixture([0.9, 0.9, 0.9], 0.5, seed=3))
    for policy, more in (
        (plain, {"probabilities": True, "confidence": True}), (mixed, {"confidence": True}),
    ):  # fmt: skip
        stored = Gated()
        server = serve(stored.model(), policy, **more)
        with ContinuousBatcher(server, max_batch_size=N) as batcher:
            futures = [batcher.submit(rows(i)) for i in range(N)]
            stored.gate.set()
            found = [future.result(30) for future in futures]
        stored.gate.set()
        wanted = serve(stored.model(), policy, **more)(rows(*range(N)))
        for name, column in vars(wanted).items():
            if column is not None:
                np.testing.assert_array_equal(
                    np.concatenate([vars(f)[name] for f in found]), column
                )
        assert len(stored.sizes) <= 4  # the first alone, all others together, and the server's own
    assert wanted.abstained.sum() == 0 < plain.decide(LOGITS).abstained.sum()


def test_a_request_fails_by_itself():
    broken = LOGITS.copy()
    broken[5, 1], broken[6] = np.nan, np.nan
    stored, policy = Gated(broken), simple(MaxProb(), [2.0] * 3)
    parts = [np.arange(a, a + 4) for a in range(0, 40, 4)]
    with ContinuousBatcher(serve(stored.model(), policy)) as batcher:
        futures = [batcher.submit(rows(*part), samples=part) for part in parts]
        wrong = batcher.submit({"other": torch.tensor([1])})
        stored.gate.set()
        for part, future in zip(parts, futures, strict=True):
            if part[0] == 4:
                with pytest.raises(InputError, match="finite largest value"):
                    future.result(30)
            else:
                due = policy.decide(LOGITS[part])
                np.testing.assert_array_equal(future.result(30).prediction, due.prediction)
        with pytest.raises(KeyError, match="row"):
            wrong.result(30)
    assert sorted(batcher._free) == list(range(4096))


def test_queues_are_bounded_served_in_turn_and_closed():
    stored = Gated()
    batcher = ContinuousBatcher(serve(stored.model(), simple(MaxProb())), max_queue_size=8)
    assert len(batcher.submit({"row": torch.arange(0)}).result(30).exit) == 0
    futures, order = [batcher.submit(rows(*range(5)))], []
    with pytest.raises(queue.Full, match=r"no room for 4 samples within 0\.01 seconds"):
        batcher.submit(rows(1, 2, 3, 4), timeout=0.01)
    with pytest.raises(InputError, match="'batch' must be at most 8 samples"):
        batcher.submit(rows(*range(9)))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batcher._room, "wait_for", Mock(side_effect=KeyboardInterrupt))
        batcher.submit(rows(1))  # and nobody waits behind it

    def later(n):
        batcher.submit(rows(*range(n))).add_done_callback(lambda _: order.append(n))

    with ThreadPoolExecutor(2) as pool:
        pool.submit(later, 8)
        while not batcher._turns:
            pass
        jobs = [pool.submit(later, 1)]  # there is room for it, but it has come later
        with pytest.raises(queue.Full):
            batcher.submit(rows(1), timeout=0.05)
        stored.gate.set()
        jobs[0].result(30)
    futures[0].result(30)
    batcher.close()
    batcher.close()
    assert order == [8, 1] and not batcher._thread.is_alive()
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit(rows(1))


def test_who_waits_for_room_is_told_of_the_end():
    stored = Gated()
    batcher = ContinuousBatcher(serve(stored.model(), simple(MaxProb())), max_queue_size=1)
    first = batcher.submit(rows(0))
    with ThreadPoolExecutor(2) as pool:
        waits = pool.submit(batcher.submit, rows(1))
        while not batcher._turns:
            pass
        closes = pool.submit(batcher.close)
        with pytest.raises(RuntimeError, match="closed"):
            waits.result(30)
        stored.gate.set()
        closes.result(30)
    assert len(first.result(0).exit) == 1


def test_arguments_are_checked():
    server, mine = serve(Replayed(LOGITS).model(), simple(MaxProb())), simple(MaxProb())
    family = PolicyFamily([replace(mine, thresholds=[t] * 3) for t in (0.4, 0.6)])
    several = serve(Replayed(LOGITS).model(), family)
    for words, call in {
        "'server' must be a Server of one Policy.*Policy": lambda: ContinuousBatcher(mine),
        "'server' must be a Server of one.*PolicyFamily": lambda: ContinuousBatcher(several),
        "'max_batch_size' must be": lambda: ContinuousBatcher(server, max_batch_size=0),
        "'max_queue_delay' must be": lambda: ContinuousBatcher(server, max_queue_delay=-1),
        "'max_queue_size' must be": lambda: ContinuousBatcher(server, max_queue_size=1.5),
        "one number per sample": lambda: ContinuousBatcher(server).submit(rows(1), samples=[1, 2]),
    }.items():
        with pytest.raises(InputError, match=words):
            call()


def test_a_forked_child_serves_with_queues_of_its_own():
    policy = simple(MaxProb())
    stored = Gated()
    batcher = ContinuousBatcher(serve(stored.model(), policy), max_queue_size=10)
    pending = batcher.submit(rows(*range(10)))  # the parent's queues are full, its thread runs
    fork = multiprocessing.get_context("fork")
    read, say = fork.Pipe(duplex=False)

    def tell():
        signal.alarm(20)
        stored.gate.set()
        say.send(batcher.submit(rows(*range(10, 20))).result(10).exit)
        batcher.close()

    with faults.quiet():
        (child := fork.Process(target=tell)).start()
    child.join()
    assert child.exitcode == 0 and not pending.done()
    np.testing.assert_array_equal(read.recv(), policy.decide(LOGITS[10:20]).exit)
    stored.gate.set()
    np.testing.assert_array_equal(pending.result(30).exit, policy.decide(LOGITS[:10]).exit)
    batcher.close()


def test_nothing_is_lost_and_waits_are_bounded():
    """Flights that come faster than they run: at most the delay and a run for each depth."""
    rng, queues, now = np.random.default_rng(0), Queues(3, 16, 1.0), 0.0
    given, taken, waits = [[], [], []], [[], [], []], []
    for turn in range(2000):
        for _ in range(rng.integers(0, 3) if turn < 1500 else 0):
            flight = Flight(int(rng.integers(1, 17)), None, int(rng.integers(2)))
            queues.put(0, flight, now)
            given[0].append(flight)
        found = queues.pop(now)
        if found is None:
            continue
        at, flights = found
        assert len({flight.form for flight in flights}) == 1
        assert all(flights[0].since <= flight.since for flight in queues.waiting[at])
        assert sum(flight.samples for flight in flights) <= 16
        taken[at] += flights
        waits += [now - flight.since for flight in flights if at == 2]
        now += 0.1
        if at < 2:
            on = Flight(max(sum(f.samples for f in flights) // 2, 1), None, flights[0].form)
            queues.put(at + 1, on, now)
            given[at + 1].append(on)
    assert not any(queues.waiting) and len(waits) > 100
    assert [{*came} for came in given] == [{*went} for went in taken]
    assert list(map(len, given)) == list(map(len, taken))
    assert max(waits) <= 1.0 + 3 * 0.1


def test_batches_are_joined_where_they_are_of_one_form():
    def hidden(n, width=3, value=7, bias=1.0):
        shared = torch.full((1, 2), bias)
        return {"a": torch.randn(n, width), "b": (shared, None, value), "t": ["x"] * n}

    one, two = hidden(2), hidden(3, bias=2.0)
    assert form(one) == form(two)
    both = join([one, two], [2, 3])
    torch.testing.assert_close(take(both, np.array([2, 3, 4]), 5)["a"], two["a"])
    assert both["b"][0].tolist() == [[1.0, 1.0]] * 2 + [[2.0, 2.0]] * 3 and len(both["t"]) == 5
    two["b"] = one["b"]
    assert join([one, two], [2, 3])["b"][0] is one["b"][0]
    for other in (hidden(2, width=4), hidden(2, value=8), {**one, "c": 1}, {**one, "a": one["a"].double()}):  # fmt: skip
        assert form(other) != form(one)
    images = torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last)
    assert join([images, images], [4, 4]).is_contiguous(memory_format=torch.channels_last)


def test_requests_of_other_lengths_run_apart():
    """As sentences padded per request: what cannot be one tensor is run after each other."""
    head = lambda h: torch.nn.functional.pad(h["x"].sum(1, keepdim=True), (0, C - 1))  # noqa: E731
    model = StagedModel([dict] * K, [head] * K)
    policy = simple(MaxProb(), [0.9] * 3)
    with ContinuousBatcher(serve(model, policy)) as batcher:
        parts = [{"x": torch.randn(2, 3 + i % 4)} for i in range(20)]
        futures = [batcher.submit(part) for part in parts]
        for part, future in zip(parts, futures, strict=True):
            wanted = policy.decide(np.repeat(head(part).numpy()[:, None], K, axis=1))
            np.testing.assert_array_equal(future.result(30).exit, wanted.exit)


TABLE = LatencyTable(
    [1, 4, 16], [[1, 1, 1, 1], [1, 2, 2, 4], [1, 8, 8, 16]], np.zeros((3, 4)), [[0.5] * 4] * 3
)


@pytest.mark.parametrize(
    "spec", ["max_prob", "patience", "e2cm", "max_prob:answer=combined", "random"]
)
def test_a_batch_is_kept_whole_where_regrouping_does_not_pay(spec):
    """Decisions are the same; gone rows run on in the stages, and nothing is decided of them."""
    policy = fitted(spec)
    dear = replace(TABLE, regroup=np.full((3, 4), 99.0))
    for table in (TABLE, dear):
        stored = Replayed(LOGITS)
        server, whole = serve(stored.model(), policy, latency=table), 0
        for part in batches(N, [16, 3, 40]):
            found = server({"row": torch.from_numpy(part)}, samples=part)
            same({n: getattr(found, n) for n in ("exit", "prediction", "cost")}, policy.decide(LOGITS[part], part))  # fmt: skip
            whole += len(part) * (found.exit.max() + 1)
        ran = sum(map(len, stored.seen))
        assert ran == whole if table is dear else ran < whole


def test_the_plan_is_the_cheaper_of_both():
    plan, path = TABLE.plan([0, 1, 3]), [0, 1, 3]
    seconds = lambda column, n: np.interp(n, [1, 4, 16], column) * max(n / 16, 1)  # noqa: E731
    for at in (0, 1):
        ahead = TABLE.stages[:, path[at] + 1 : path[at + 1] + 1].sum(axis=1)
        for of in (2, 3, 7, 16, 32):
            pays = [m for m in range(1, of) if seconds([0.5] * 3, m) + seconds(ahead, m) < seconds(ahead, of)]  # fmt: skip
            assert plan(at, of) == max(pays, default=0)
    assert TABLE.seconds([3], 33)[[4, 32], 0].tolist() == [9.0, 66.0]  # skipped heads are not paid
    noisy = replace(TABLE, stages=[[2.0] * 4, [1.0] * 4, [3.0] * 4])
    assert (np.diff(noisy.stages, axis=0) >= 0).all()


def test_tables_are_measured_kept_with_the_cache_and_checked(tmp_path):
    def stage(hidden):
        return hidden @ torch.eye(C)

    model = StagedModel([stage] * 2, [lambda h: h, lambda h: h])
    x = torch.randn(40, C)
    measured = measure(model, x[:8], runs=5, warmup=1, batches=[1, 64])
    assert measured.table.batches == (1, 8, 64) and measured.seconds.shape == (5, 2)
    export_cache(model, {"fit": (x, x.argmax(1))}, tmp_path / "a", costs=measured.costs, metadata=measured.describe())  # fmt: skip
    kept = LatencyTable(**po.open_cache(tmp_path / "a").metadata["latency_table"])
    for name in ("stages", "heads", "regroup"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(measured.table, name))
        assert (getattr(kept, name) > 0).all()
    for words, change in (
        ("'batches' must be whole numbers", {"batches": [4, 1, 16]}), ("'batches' must", {"batches": [0, 1, 2]}),
        ("'batches' must", {"batches": "abc"}), ("'stages' must be seconds of shape", {"stages": [[1.0]]}),
        ("'heads' must be seconds", {"heads": np.full((3, 4), np.nan)}), ("'heads' must", {"heads": "abc"}),
        ("'stages'", {"stages": [[1.0], [1.0, 2.0], [1.0]]}), ("'regroup' must", {"regroup": np.ones((3, 5))}),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            replace(TABLE, **change)
    with pytest.raises(InputError, match="'latency' must be of 4 exits"):
        serve(Replayed(LOGITS).model(), simple(MaxProb()), latency=kept)
    with pytest.raises(InputError, match="'batches' must be whole numbers from 1"):
        measure(model, x, batches=[0])


def test_simulated_waits_are_those_of_queueing_theory(root, monkeypatch):
    """One stage and one request after another: an M/D/1 queue, whose mean wait is known."""
    monkeypatch.syspath_prepend(root / "benchmarks")
    from _load import arriving, in_turn, queued, simulated

    table = LatencyTable([1, 64], [[0.01], [0.02]], [[0.0], [0.0]], [[0.0], [0.0]])
    for load in (0.5, 0.8):
        arrivals = arriving(load / 0.01, 1, 20_000)
        found = simulated(table, [0], arrivals, path=[0], max_batch_size=1)
        wait = load * 0.01 / (2 * (1 - load))
        assert np.mean(found.latency) - 0.01 == pytest.approx(wait, rel=0.1)
        assert found.busy == pytest.approx(load, rel=0.03)
        plain = in_turn(arrivals, np.full(len(arrivals), 0.01), 1)
        np.testing.assert_allclose(plain.latency, found.latency, rtol=1e-6)
    more = simulated(table, [0], arriving(150.0, 1, 4000), path=[0])  # past what single ones allow
    assert more.throughput == pytest.approx(150, rel=0.05) and more.busy < 0.99
    server = serve(Replayed(LOGITS).model(), simple(MaxProb()))
    batcher = ContinuousBatcher(server, max_queue_size=40)
    load, answers = queued(batcher, [rows(i) for i in range(N)], arriving(1e5, 1, N))
    exits = np.concatenate([one.exit for one in answers])
    np.testing.assert_array_equal(exits, simple(MaxProb()).decide(LOGITS).exit)
    assert 0 < load.busy < 1.1 and (load.latency > 0).all()
