"""The drift watch: p-values against enumeration, false alarms against their bound, shifts found."""

import itertools
import json
import tracemalloc

import numpy as np
import pytest
from conftest import refuses

from policyopt.runtime._drift import (
    BETS,
    CELLS,
    GROUPS,
    DriftWatch,
    Movement,
    Reference,
    advance,
    densities,
    remember,
    shifted,
    smoothed,
    start_sums,
)
from policyopt.runtime._errors import InputError

PATH = (0, 1, 2)
THRESHOLDS = np.array([0.8, 0.6])


def requests(n, seed, power=1.0, classes=4, thresholds=THRESHOLDS):
    """Scores (n, 3) that are past the exit taken NaN, class at exit 0, exit taken."""
    rng = np.random.default_rng(seed)
    scores = rng.beta(4, 2, size=(n, 3)) ** power
    passed = scores[:, :2] >= thresholds
    exits = np.where(passed.any(axis=1), passed.argmax(axis=1), 2)
    scores[np.arange(3) > exits[:, None]] = np.nan
    return scores, rng.integers(0, classes, n), exits


def watch(n=800, run_length=20_000, **more):
    return DriftWatch.fit(*requests(n, 1), classes=4, run_length=run_length, **more)


def test_p_values_of_all_orders_are_uniform_and_independent():
    """Over all orders of five rows, the last two p-values fill the unit square evenly."""
    grid = (np.arange(60) + 0.5) / 60
    counts = np.zeros((5, 5))
    for order in itertools.permutations([0, 0, 1, 2, 2]):
        pool = np.bincount(order[:3], minlength=3)
        p4 = smoothed(np.tile(pool, (60, 1, 1)), np.full((60, 1), order[3]), grid[:, None])[:, 0]
        pool[order[3]] += 1
        p5 = smoothed(np.tile(pool, (60, 1, 1)), np.full((60, 1), order[4]), grid[:, None])[:, 0]
        fourth = np.bincount((p4 * 5).astype(int), minlength=5)
        fifth = np.bincount((p5 * 5).astype(int), minlength=5)
        counts += np.outer(fourth, fifth)
    share = counts / counts.sum()
    # Coins on a grid of 60: a cell of 1/5 holds 12 of them, and each end may be one off.
    assert np.allclose(share.sum(axis=0), 0.2, atol=2e-3)
    assert np.allclose(share, 0.04, atol=1e-3)


def test_edges_are_set_by_rows_outside_the_pool():
    """With edges at rows that are counted too, the first p-value of 15 rows is off by 5 % a cell."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(8000):
        rows = rng.normal(size=(16, 1))
        reference = Reference.of(rows[:15], np.zeros(15, int), np.zeros(15, int), 1, (0,), True, 4)
        cell, _ = reference.read(rows[15:], np.zeros(1, int), np.zeros(1, int))
        found.append(smoothed(reference.pool[None], cell, rng.random((1, 2)))[0, 0])
    observed = np.bincount((np.array(found) * 12).astype(int), minlength=12)
    assert ((observed - 8000 / 12) ** 2 / (8000 / 12)).sum() < 31.3  # chi square, 11 df, 0.1 %


def test_every_bet_is_fair_whatever_the_histograms_learned():
    rng = np.random.default_rng(0)
    histograms = np.zeros((2, GROUPS))
    for p in rng.random(50) ** 3:
        histograms = remember(histograms, np.array(p))
    middle = (np.arange(CELLS) + 0.5) / CELLS
    paid = densities(middle, np.broadcast_to(histograms, (CELLS, 2, GROUPS)))
    assert paid.shape == (CELLS, BETS)
    assert np.allclose(paid.mean(axis=0), 1.0, atol=1e-12)
    assert (paid[0] > 1.5).any()


def test_no_statistic_of_a_policy_raises_false_alarms_oftener_than_stated():
    """``E[R at T] = E[T]`` of each, of which ``limit * P(T <= m) <= E[min(T, m)]`` is half."""
    rng, pools, cells = np.random.default_rng(0), [], []
    for seed in range(100):
        rows = requests(1800, seed)
        reference = Reference.of(*(part[:900] for part in rows), 4, PATH, False, 16)
        pools.append(np.pad(reference.pool, ((0, 0), (0, 16 - reference.pool.shape[1]))))
        cells.append(reference.read(*(part[900:] for part in rows))[0])
    pools, cells = np.stack(pools), np.stack(cells)
    state, none = start_sums(pools[0], 100), np.zeros(cells[:, 0].shape)
    state.pool[...] = pools
    coins = rng.random(cells.shape)
    sums = [advance(state, cells[:, t], none, coins[:, t], t) for t in range(900)]  # (R, J) each
    assert (np.array(sums) >= 2.0 * 5 * 900).any(axis=(0, 2)).mean() <= 0.5
    for over in np.moveaxis(np.array(sums) >= 400.0, 2, 0):  # a limit that raises alarms, of each
        raised = over.any(axis=0)
        gain = np.where(raised, over.argmax(axis=0) + 1, 900) - 400.0 * raised
        assert gain.mean() > -3 * gain.std() / 10
        assert raised.mean() > 0.2  # and not by never raising one


def test_lower_scores_are_found_named_and_dated_and_nothing_before():
    found = watch()
    assert found.update_batch(*requests(4000, 2)) is None
    assert max(m.level for m in found.report()) < 1
    alarm = found.update_batch(*requests(400, 3, power=2.0))
    assert alarm is not None
    assert 4000 < alarm.request < 4100
    assert 3950 <= alarm.moved.since <= 4050
    score = {m.statistic: m for m in (alarm.moved, *alarm.others)}["score at exit 0"]
    assert score.direction == "lower" and score.now < score.before - 0.1
    assert "exit 2 more often" in {m.direction for m in alarm.others}
    assert str(alarm).startswith(f"drift at request {alarm.request}: {alarm.moved.statistic}")
    still = Movement("exit taken", 1.0, "exit 0 more often", 1.0, 1.0, 5, 9)  # by coins alone
    assert str(still) == "exit taken: no visible movement, share 1, over 9 requests since request 5"


def test_spread_one_class_and_a_later_exit_are_found_alone():
    rng, zeros = np.random.default_rng(0), np.zeros(1500, int)
    wide = DriftWatch.fit(rng.normal(size=(1500, 1)), zeros, classes=1, steered=True)
    moved = wide.update_batch(rng.normal(size=(600, 1)) * 2, zeros[:600]).moved
    assert (moved.statistic, moved.direction) == ("score at exit 0", "wider")
    assert 1.7 < moved.now / moved.before < 2.4
    # One of 16 classes more often: a bump in the middle, which no Beta density has.
    often = DriftWatch.fit(
        rng.random((2000, 1)), rng.integers(0, 16, 2000), classes=16, steered=True
    )
    classes = np.where(rng.random(600) < 0.3, 5, rng.integers(0, 16, 600))
    moved = often.update_batch(rng.random((600, 1)), classes).moved
    assert (moved.statistic, moved.direction) == ("class at exit 0", "class 5 more often")
    assert moved.before == pytest.approx(1 / 16, abs=0.02)
    assert moved.now == pytest.approx(0.3 + 0.7 / 16, abs=0.15)
    assert often.sums.sums[0, 1].argmax() >= BETS - 2  # a bet that learned
    scores, first, exits = requests(3000, 5)
    scores[:, 2] = scores[:, 2] ** 3
    moved = watch().update_batch(scores, first, exits).moved
    assert (moved.statistic, moved.direction) == ("score at exit 2", "lower")


def test_steering_is_no_drift_to_a_watch_that_knows_of_it():
    steered = requests(2000, 6, thresholds=np.array([0.4, 0.4]))
    blind = watch(steered=True)
    assert blind.update_batch(*steered) is None
    alarm = watch().update_batch(*steered)
    assert alarm is not None and alarm.moved.statistic != "score at exit 0"
    moved = blind.update_batch(*requests(500, 7, power=2.0))
    assert moved is not None and moved.moved.statistic == "score at exit 0"


@pytest.mark.parametrize("steered", [False, True])
def test_steps_batches_and_restored_watches_agree_bit_for_bit(steered):
    scores, first, exits = requests(300, 8, power=1.2)
    whole, steps = (watch(steered=steered, seed=3) for _ in range(2))
    alarm = whole.update_batch(scores, first, exits)
    for i in range(300):
        if i in (1, 120):
            steps = DriftWatch.restore(json.loads(json.dumps(steps.state())))
        raised = steps.update(scores[i, : exits[i] + 1], int(first[i]), int(exits[i]))
        if raised:
            assert raised == alarm
    assert steps.state() == whole.state()
    assert steps.alarm == whole.alarm
    assert json.loads(json.dumps(whole.state())) == whole.state()
    other = watch(steered=steered, seed=4)  # other coins
    other.update_batch(scores, first, exits)
    assert other.state()["sums"] != whole.state()["sums"]


def test_after_an_alarm_the_watch_stands_until_it_is_reset_and_learns_anew():
    found = watch()
    alarm = found.update_batch(*requests(400, 3, power=2.0))
    state = found.state()
    assert found.update_batch(*requests(50, 4, power=2.0)) is None
    same = {"requests": 0, "next": 0}
    assert {**found.state(), **same} == {**state, **same}
    assert found.alarm == alarm is not None
    found.reset(learn=1000)
    assert found.alarm is None and found.sums.recent.sum() == 0
    found.update_batch(*requests(500, 4, power=2.0))
    found = DriftWatch.restore(found.state())
    assert found.learning == 500
    new = requests(1500, 5, power=2.0)
    found.update_batch(*(part[:500] for part in new))
    assert found.learning == 0
    rows = np.concatenate([requests(500, 4, power=2.0)[0][:, 0], new[0][:500, 0]])
    assert found.reference.moments[0] == pytest.approx([rows.mean(), rows.std()])
    assert found.reference.pool[0].sum() == 1000
    assert found.update_batch(*(part[500:] for part in new)) is None
    for _ in range(2):
        back = found.update_batch(*requests(400, 6))
        directions = {m.statistic: m.direction for m in (back.moved, *back.others)}
        assert directions["score at exit 0"] == "higher"
        found.reset()  # to what it knew before


def in_runs(requests, length, start):
    """The same requests, each so many times in a row, from the middle of a run on."""
    return tuple(np.repeat(part, length, axis=0)[start:] for part in requests)


def test_false_alarms_with_ten_alike_in_a_row():
    """Of 1,500 requests, a stated quarter of streams at most; taken one by one, all of them at once."""
    alarms, single, streams, promise = 0, 0, 40, 1500 / (2 * 3000)
    for seed in range(streams):
        runs = in_runs(requests(160, 100 + seed), 10, seed % 10)
        block = watch(run_length=3000, block=10, seed=seed)
        alarms += block.update_batch(*runs) is not None
        if seed < 5:
            single += (
                watch(run_length=3000).update_batch(*(part[:200] for part in runs)) is not None
            )
    assert alarms <= streams * promise and single == 5
    alarm = block.update_batch(*in_runs(requests(60, 7, power=3.0), 10, 3))
    assert alarm is not None and alarm.moved.direction == "lower"


def test_of_a_run_one_counts_at_most_and_each_place_of_it_alike():
    found, at = watch(100, block=5, seed=3), [-1]
    for _ in range(20_000):
        at.append(found._after(at[-1]))
    gaps, places = np.diff(at), np.array(at[1:]) % 5
    assert gaps.min() == 5 and gaps.max() == 9
    pairs = np.bincount(5 * places[:-1] + places[1:], minlength=25)
    assert ((pairs - pairs.mean()) ** 2 / pairs.mean()).sum() < 52.6  # chi square, 24 df, 0.1 %
    runs = in_runs(requests(200, 9), 5, 2)
    found.update_batch(*runs)
    rest = watch(100, block=5, seed=3)
    for low in range(0, 998, 7):
        rest.update_batch(*(part[low : low + 7] for part in runs))
        rest = DriftWatch.restore(json.loads(json.dumps(rest.state())))
    assert rest.state() == found.state() and found.requests == 998
    assert found.sums.recent[0, 0].sum() <= 998 / 5
    found.reset(learn=50)
    found.update_batch(*in_runs(requests(200, 10), 5, 0))
    assert found.learning == 0 and found.reference.pool[0].sum() == 50
    assert watch(run_length=5000, block=10).limit == watch(run_length=500).limit


@pytest.mark.parametrize("within", [60, 300])
def test_shifts_that_are_said_to_be_noticed_are(within):
    """Streams whose shares move as far as is said, and half as far, in one statistic alone."""
    rng, streams = np.random.default_rng(within), 60
    rows, firsts, exits = requests(2000, 1)
    found = DriftWatch.fit(rows, firsts, exits, classes=4, run_length=20_000)
    notices = {(n["statistic"], n["share"]): n for n in found.notices(within)}
    r = found.reference
    for name, what, cell in (
        ("score at exit 0", "below its median", -1), ("class at exit 0", "class 1", 1), ("exit taken", "exit 0", 0),
    ):  # fmt: skip
        j, notice = r.names.index(name), notices[name, what]
        pool = r.pool[j, : r.widths[j]]
        for end in (notice[way] for way in ("more", "less") if notice[way] is not None):
            raised = []
            for share in (end, (end + notice["before"]) / 2):
                state, none = start_sums(pool[None], streams), np.zeros((streams, 1))
                usual, moved = pool / pool.sum(), shifted(pool.astype(float), cell, share)
                over = np.zeros(streams, bool)
                for t in range(-100, within):
                    cells = rng.choice(len(pool), (streams, 1), p=usual if t < 0 else moved)
                    over |= (
                        advance(state, cells, none, rng.random((streams, 1)), t)[:, 0]
                        >= found.limit
                    )
                raised.append(over.mean())
            assert raised[0] > 0.5 and raised[1] < 0.4, (name, end, raised)
    first, later = (notices[f"score at exit {k}", "below its median"]["more"] for k in (0, 2))
    assert later > first  # fewer come there
    for slow in watch(2000, block=10).notices(within):
        usual = notices[slow["statistic"], slow["share"]]["more"]
        assert slow["more"] is None or slow["more"] > usual
    assert len(notices) == 3 + 4 + 3
    refuses("'within' must be a whole number, at least 1", found.notices, 0)


@pytest.mark.parametrize(("rows", "classes"), [(1, 0), (2, 2), (5, 1)])
def test_tiny_and_uniform_references_of_some_exits(rows, classes):
    alike, exits = np.full((rows, 2), 0.5), np.full(rows, 4)
    found = DriftWatch.fit(alike, np.zeros(rows, int), exits, classes=classes, active_exits=(1, 4))
    assert found.reference.names[-1] == "score at exit 4"
    assert found.update([0.5, 0.5], 0, 4) is None
    assert found.update(0.7, -1, 1) is None
    assert len(found.report()) == 4
    assert all(np.isfinite([m.before, m.now, m.level]).all() for m in found.report())
    assert DriftWatch.restore(found.state()).state() == found.state()
    assert all(n["more"] is None or rows > 1 for n in found.notices(50) if n["before"] == 0.5)
    refuses(r"'exit' must be one of 1, 4\. Got 0", found.update, [0.1, 0.2], 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.update([0.5], 0, 1), "'scores' must be 2, one per exit run"),
        (lambda w: w.update([0.5], 0), "'exit' must be one of 0, 1, 2. Got None"),
        (lambda w: w.update([np.nan], 0, 0), "finite at every exit"), (lambda w: w.update_batch(np.zeros((2, 4)), [0, 0], [0, 0]), "of shape"),
        (lambda w: w.update([[0.5], [0.5]], 0, 0), "'scores' must be 1, one per exit run"),
        (lambda w: w.update_batch([[0.5], [0.5, 1.0]], [0, 0], [0, 0]), "'scores' must be numbers"),
        (lambda w: w.update(["a"], 0, 0), "'scores' must be numbers"), (lambda w: w.update([0.5], 0.5, 0), "'predictions' must be 1 integers"),
        (lambda w: w.update_batch(np.zeros((2, 3)), [0], [0, 0]), "'predictions' must be 2"),
        (lambda w: w.reset(learn=-1), "'learn' must be a whole number, at least 0"), (lambda w: w.reset(learn=True), "'learn' must be a whole number"),
        (lambda w: watch(run_length=0), "'run_length' must be a whole number, at least 1"),
        (lambda w: watch(block=0), "'block' must be a whole number, at least 1"),
        (lambda w: watch(bins=1), "'bins' must be a whole number, at least 2, at most 1,024"),
        (lambda w: watch(active_exits=(2, 1, 0)), "'active_exits' must be exit numbers, ascending"),
        (lambda w: DriftWatch.fit(np.zeros((2, 2)), [0, 0], classes=2), "'exits' must be given"),
        (lambda w: DriftWatch.fit(np.zeros((0, 2)), np.zeros(0, int), np.zeros(0, int), classes=2), "of one row or more"),
    ],
)  # fmt: skip
def test_mistakes_are_named(call, message):
    refuses(message, call, watch())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", "other"), ("format", None), ("active_exits", []), ("active_exits", [0, 0, 1]), ("active_exits", [0, 1]),
        ("active_exits", [0.5, 1, 2]), ("active_exits", "abc"), ("classes", -1), ("classes", 10**9),
        ("classes", 5), ("steered", True), ("steered", 0), ("run_length", 0), ("run_length", "x"),
        ("seed", 1.5), ("block", 0), ("block", None), ("next", 19), ("next", 21), ("requests", -1), ("requests", 2**60), ("learning", True),
        ("edges", []), ("edges", None), ("edges", [[0.2, 0.1]] * 3),
        ("edges", [[float("nan")]] * 3), ("usual", [[0, -1]] * 5), ("usual", [[0, 1]]),
        ("reference", []), ("reference", [[1]] * 5), ("pool", [[-1] * 32] * 5), ("pool", None),
        ("recent", [["a"]] * 5), ("start", [0] * 4), ("start", [10**9] * 5), ("start", [0.5] * 5),
        ("sums", [[0.0]] * 5), ("sums", [[-1.0] * BETS] * 5), ("run", [float("inf")] * 5),
        ("histograms", [[0.0]] * 5), ("moments", [[0.0, -1.0]] * 5), ("moments", {}),
    ],
)  # fmt: skip
def test_a_tampered_state_is_refused(name, value):
    found = watch()
    found.update_batch(*requests(20, 2))
    state = found.state()
    less = {key: kept for key, kept in state.items() if key != name}
    for wrong in ({**state, name: value}, {**state, "alarm_at": 10**6}, less, None, [state], "x"):
        refuses(".", DriftWatch.restore, wrong)


@pytest.mark.parametrize(("exits", "classes"), [(400, 1 << 20), (64, 70_000)])
def test_a_state_whose_table_is_far_larger_than_its_numbers_is_refused(exits, classes):
    """Each statistic has a row as long as the longest: megabytes of JSON became gigabytes."""
    found, count = watch().state(), exits + 2
    rows = [[1], [1] * (classes + 1), [1] * exits, *[[1]] * (exits - 1)]
    found |= {"active_exits": list(range(exits)), "classes": classes, "edges": [[]] * exits}
    found |= {"usual": [[0, 1]] * count, "start": [0] * count}
    found |= {name: rows for name in ("reference", "pool", "recent")}
    found |= {name: [found[name][0]] * count for name in ("sums", "histograms", "run", "moments")}
    tracemalloc.start()
    refuses(r"'statistics' must be \d+ at most.*Got \d+", DriftWatch.restore, found)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    scores, seen = np.zeros((8, exits)), np.zeros(8, int)
    with pytest.raises(InputError, match=r"'statistics' must be.*steered=True"):
        DriftWatch.fit(scores, seen, np.full(8, exits - 1), classes=classes)
    found |= {"classes": 9, "reference": [[1], [1] * 10, *rows[2:]]}
    found |= {"pool": found["reference"], "recent": found["reference"]}
    assert DriftWatch.restore(found).reference.classes == 9
