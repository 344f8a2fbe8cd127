"""Bandits: regret beside SMPyBandits and MABWiser, and how fast a stream is served.

python benchmarks/bandits.py [regret] [speed]

The libraries: see `_bandit_libraries.py`. Without them ``regret`` is refused; ``speed`` needs none.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np
from _bandit_libraries import contestants
from _common import machine, machine_line, table, times, write

from policyopt.runtime._bandits import BANDITS, make_bandit
from policyopt.runtime._online.serving import reveal_chances
from policyopt.runtime._typing import Floats

OUT = Path(__file__).parent / "results" / "bandits.json"
MEANS = np.array([0.25, 0.4, 0.5, 0.6, 0.7])  # of five Bernoulli arms
AT = (100, 1_000, 10_000)
SERVED = (1_000, 10_000, 100_000, 1_000_000)
ARMS, WIDTH = 6, 2_000  # of the speed part: arms, rounds that are timed
SPECS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in BANDITS), ("thompson", {"posterior": "beta"}), ("exp3", {"share": 1e-3}),
]  # fmt: skip


def main() -> None:
    """Run the parts asked for and write what they found beside what others left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["regret", "speed"])
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    start = machine()
    found = json.loads(OUT.read_text()) if OUT.exists() else {}
    if "regret" in options.parts:
        found["regret"] = regret(options.repetitions, options.processes)
    if "speed" in options.parts:
        found["speed"] = speed()
        found["machine"] = [start, machine()]
    write(OUT, found, text(found))


def regret(repetitions: int, processes: int) -> dict[str, Any]:
    """Play ours and theirs on the same rewards; pseudo-regret at `AT` by repetition."""
    tasks = [(number, repetitions) for number in range(len(contestants()))]
    with Pool(processes) as pool:
        rows = pool.starmap(_contest, tasks, chunksize=1)
    return {"means": MEANS.tolist(), "at": AT, "repetitions": repetitions, "rows": rows}


def _contest(number: int, repetitions: int) -> dict[str, Any]:
    """Play one of `contestants`, ours and theirs."""
    np.seterr(all="ignore")  # theirs divides by counts of 0
    label, name, keys, whose, make = contestants()[number]
    rng = np.random.default_rng(0)
    rewards = (rng.random((repetitions, AT[-1], len(MEANS))) < MEANS).astype(np.float64)
    ours, theirs = np.empty((2, repetitions, len(AT)))
    for r in range(repetitions):
        own = make_bandit(name, keys).player(len(MEANS), 1, r)
        ours[r] = _lost(
            own, lambda arm, row, own=own: own.learn(arm, arm, row), rewards[r].tolist()
        )
    began = time.process_time()
    for r in range(repetitions):
        peer = make(len(MEANS), r)
        learn = lambda arm, row, peer=peer: peer.learn(arm, row[arm])  # noqa: E731
        theirs[r] = _lost(peer, learn, rewards[r].tolist())
    spent = (time.process_time() - began) / repetitions / AT[-1]
    print(label, whose, ours.mean(axis=0).round(1), theirs.mean(axis=0).round(1), flush=True)
    return {
        "label": label, "bandit": name, "settings": keys, "library": whose,
        "ours": _mean(ours), "theirs": _mean(theirs), "difference": _mean(ours - theirs),
        "theirs_us_per_round": spent * 1e6,
    }  # fmt: skip


def _mean(values: Floats) -> list[list[float]]:
    """Return the mean over repetitions and half the width of its 95 % interval, per column."""
    half = 1.96 * values.std(axis=0, ddof=1) / math.sqrt(len(values))
    return [[float(m), float(h)] for m, h in zip(values.mean(axis=0), half, strict=True)]


def _lost(player: Any, learn: Any, rewards: Sequence[Sequence[float]]) -> list[float]:
    """Play one stream; return the pseudo-regret at `AT`."""
    gaps, lost, out = (MEANS.max() - MEANS).tolist(), 0.0, []
    for t, row in enumerate(rewards, 1):
        arm = player.choose()
        learn(arm, row)
        lost += gaps[arm]
        if t in AT:
            out.append(lost)
    return out


def speed() -> dict[str, Any]:
    """Time choose and learn with the rewards of all smaller arms, late in a stream."""
    rng = np.random.default_rng(0)
    means = np.linspace(0.5, 0.62, ARMS)
    rewards = np.clip(rng.normal(means, 0.15, (20_000, ARMS)), 0, 1).tolist()
    found = {}
    for name, keys in SPECS:
        label = name + "".join(f", {k} = {v}" for k, v in keys.items())
        runs = [_served(name, keys, rewards) for _ in range(3)]
        found[label] = [max(each) for each in zip(*runs, strict=True)]
        print(label, [round(x) for x in found[label]], flush=True)
    found["history summed anew"] = [_summed_anew(rounds, rewards) for rounds in SERVED]
    print(found["history summed anew"], flush=True)
    return {"rounds": SERVED, "arms": ARMS, "decisions_per_second": found}


def _served(name: str, keys: dict[str, Any], rewards: Sequence[Sequence[float]]) -> list[float]:
    """Play one stream to the last of `SERVED`; the fastest 200 of the rounds just before each.

    The fastest, since other work on the machine can only make a round slower, never faster.
    """
    player, out, begin = make_bandit(name, keys).player(ARMS), [], 0
    for rounds in SERVED:
        pieces = [begin, *range(max(rounds - WIDTH, begin) // 200 * 200, rounds + 1, 200)]
        spent = []
        for low, high in pairwise(pieces):
            part = [rewards[t % len(rewards)] for t in range(low, high)]
            before = time.process_time()
            _play(player, part)
            spent.append((time.process_time() - before) / max(high - low, 1))
        out.append(1 / min(spent[1:]))
        begin = rounds
    return out


def _play(player: Any, rewards: Sequence[Sequence[float]]) -> None:
    choose, learn = player.choose, player.learn
    if not hasattr(player, "gains"):
        for row in rewards:
            learn(0, choose(), row)
        return
    for row in rewards:
        arm = choose()
        learn(0, arm, row, reveal_chances(player.chances, "smaller"))


def _summed_anew(rounds: int, rewards: Sequence[Sequence[float]]) -> float:
    """Return the rounds per second of UCB1 that keeps the history and sums it in every round."""
    size = rounds // ARMS
    history = [[rewards[t % len(rewards)][a] for t in range(size)] for a in range(ARMS)]
    spent = []
    for t in range(rounds, rounds + max(3, 20_000 // rounds)):
        before = time.process_time()
        clock = math.log(t)
        index = [sum(seen) / len(seen) + math.sqrt(clock / len(seen)) for seen in history]
        arm = index.index(max(index))
        history[arm].append(rewards[t % len(rewards)][arm])
        spent.append(time.process_time() - before)
    return 1 / min(spent)


def text(found: dict[str, Any]) -> str:
    """Return the tables."""
    parts = ["# Bandits\n\nWritten by `python benchmarks/bandits.py`.\n"]
    if "regret" in found:
        parts.append(_regret_text(found["regret"]))
    if "speed" in found:
        parts += [_speed_text(found["speed"]), machine_line(*found["machine"]) + "\n"]
    return "\n".join(parts)


def _regret_text(found: dict[str, Any]) -> str:
    rows = []
    for row in found["rows"]:
        cells = [row["label"], row["library"]]
        for column in range(len(found["at"])):
            cells += [
                f"{row[who][column][0]:,.1f} ± {row[who][column][1]:.1f}"
                for who in ("ours", "theirs")
            ]
        mean, half = row["difference"][-1]
        rows.append([*cells, f"{mean:+.1f} ± {half:.1f}", f"{row['theirs_us_per_round']:.0f} us"])
    header = ["bandit", "library"]
    for at in found["at"]:
        header += [f"ours, T = {at:,}", "theirs"]
    return table(
        f"Pseudo-regret on Bernoulli arms {', '.join(map(str, found['means']))}; "
        f"{found['repetitions']} repetitions, 95 %",
        [*header, f"difference, T = {found['at'][-1]:,}", "theirs per round"], rows,
    )  # fmt: skip


def _speed_text(found: dict[str, Any]) -> str:
    speeds = found["decisions_per_second"]
    anew, base = speeds["history summed anew"], speeds["ucb1"]
    rows = [
        [label, *(f"{x:,.0f}" for x in row), f"{row[-1] / base[-1]:.2f}", times(row[-1] / anew[-1])]
        for label, row in speeds.items()
    ]
    header = ["bandit", *(f"round {rounds:,}" for rounds in found["rounds"])]
    return table(
        f"Decisions per second on one core, {found['arms']} arms, rewards of all smaller arms fed back",
        [*header, "of UCB1's", "to the history summed anew"], rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
