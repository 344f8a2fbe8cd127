"""Online policies: AdaEE's experiment with every bandit, changing streams, and the budget controller."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from _caches import ROOT, caches
from _common import machine, machine_line, write

from policyopt._cache.reader import open_cache
from policyopt._online.simulate import simulate
from policyopt._page.results import simulation_content
from policyopt._progress import progress
from policyopt._report.figures import panel_figure, save_figure
from policyopt.runtime._bandits import BANDITS
from policyopt.runtime._online.controller import Controller

OVERHEADS = (0.0, 0.05, 0.1, 0.15)
STREAMS = ("test", "blur_medium", "noise_medium")
# Settings of the bandits that forget. Window and discount by the papers' formulas for T rounds and Y
# changes. xi: the papers' 0.6 allows for rewards of any spread (standard deviation 1/2); gains in
# confidence spread by about 0.2, so 0.6 * (0.2 / 0.5)**2 = 0.1; D-UCB has twice the weight, squared: 4.
ROUNDS, CHANGES = 30_000, 2
# The papers' formulas give 786 rounds and 490. What tells two arms apart by 0.03 at 4 standard errors,
# spread 0.2, is 2 * (4 * 0.2 / 0.03)**2 = 1,422: both memories are shown. (This one was added after
# seeing that the formulas' forgets too fast here.)
MEMORY = 1_500


def horizon(rounds: int, changes: int) -> tuple[int, float]:
    """Window and discount for T rounds with Y changes (Garivier & Moulines 2011, after theorems 2 and 1)."""
    from math import log, sqrt

    return round(2 * sqrt(rounds * log(rounds) / changes)), 1 - sqrt(changes / rounds) / 4


def forgetful(rounds: int, changes: int, scaled: bool) -> list[str]:
    """The two bandits that forget, window and discount for the horizon; `scaled`: xi for the gains."""
    window, discount = horizon(rounds, changes)
    return [
        f"sliding_window_ucb:window={window}" + "+xi=0.1" * scaled,
        f"discounted_ucb:discount={discount:.6f}" + "+xi=0.025" * scaled,
    ]


def bandits(rounds: int, changes: int, scaled: bool) -> list[str]:
    """Every bandit, those that forget with settings for the horizon."""
    special = {spec.partition(":")[0]: spec for spec in forgetful(rounds, changes, scaled)}
    return [special.get(name, name) for name in BANDITS]


#: The same two with MEMORY instead.
REMEMBERING = [
    f"sliding_window_ucb:window={MEMORY}+xi=0.1",
    f"discounted_ucb:discount={1 - 1 / MEMORY:.6f}+xi=0.025",
]


def adaee(place: Path) -> list[dict[str, Any]]:
    """AdaEE's arms and overheads on its authors' outputs: regret with and without side information."""
    found = []
    for _, data in caches(place, ["alexnet2_cifar10_confidence"]):
        for reveal in ("played", "smaller"):
            for overhead in OVERHEADS:
                for rounds in (1_000, 10_000, 100_000):
                    run = simulate(
                        data, [*bandits(rounds, 1, False), *forgetful(rounds, 1, True)],
                        overhead=overhead, reveal=reveal, rounds=rounds, streams=("fit", "test"),
                        repetitions=20 if rounds <= 10_000 else 5,
                    )  # fmt: skip
                    found += run.records
                print(f"adaee: {reveal}, overhead {overhead}", file=sys.stderr)
    return found


def changing() -> list[dict[str, Any]]:
    """Clean, blur, noise, one after the other: who recovers, and how soon."""
    data = open_cache(ROOT / "cache" / "fashion_mnist")
    found = []
    for overhead in (0.1, 0.2, 0.3):
        for seed in (0, 1):
            run = simulate(
                data, [*bandits(ROUNDS, CHANGES, True), *REMEMBERING, "fixed", "controller"], schedule="abrupt",
                streams=STREAMS, rounds=ROUNDS, overhead=overhead, budget="40%", seed=seed,
            )  # fmt: skip
            found += [{**record, "seed": seed} for record in run.records]
    return found


def picture() -> Any:
    """Return the simulation of a few of these, for docs/online.png."""
    data = open_cache(ROOT / "cache" / "fashion_mnist")
    few = ["ucb1", "ucb_tuned", *REMEMBERING, "fixed", "controller"]
    return simulate(
        data, few, schedule="abrupt", streams=STREAMS, rounds=ROUNDS, overhead=0.3, budget="40%"
    )


def keeping() -> list[dict[str, Any]]:
    """The controller and a fixed policy on every schedule, three budgets, 20,000 requests."""
    data = open_cache(ROOT / "cache" / "fashion_mnist")
    found = []
    for method in ("max_prob", "optimal_stopping"):
        for schedule in ("stationary", "abrupt", "gradual", "recurring"):
            for budget in ("20%", "40%", "60%"):
                run = simulate(
                    data, ["fixed", "controller"], schedule=schedule, streams=STREAMS,
                    rounds=20_000, budget=budget, method=method, arms="0:1:0.2"
                    if method == "max_prob" else 5,
                )  # fmt: skip
                found += [{**r, "method": method, "asked": budget} for r in run.records]
            print(f"keeping: {method}, {schedule}", file=sys.stderr)
    return found


def long(place: Path) -> list[dict[str, Any]]:
    """The bandits that forget, ten times longer: window and discount grow with the horizon."""
    found = []
    for _, data in caches(place, ["alexnet2_cifar10_confidence"]):
        for rounds in (10_000, 100_000, 1_000_000):
            both = [*forgetful(rounds, 1, False), *forgetful(rounds, 1, True)]
            found += simulate(
                data, both, overhead=0.1, rounds=rounds, streams=("fit", "test"), repetitions=5
            ).records
            print(f"long: {rounds:,} rounds", file=sys.stderr)
    return found


def called(record: dict[str, Any]) -> str:
    """Return the bandit, with its xi where that is not the default."""
    name, _, settings = record["policy"].partition(":")
    return name + (", xi" + settings.partition("+xi")[2] if "+xi" in settings else "")


def pm(record: dict[str, Any], name: str, digits: int = 1) -> str:
    half = (record[f"{name}_high"] - record[f"{name}_low"]) / 2
    return f"{record[name]:.{digits}f} ± {half:.{digits}f}"


def text(parts: dict[str, Any]) -> str:
    lines = ["# Online policies", ""]
    rows = parts["adaee"]
    for reveal, what in (("smaller", "with side information"), ("played", "without")):
        lines += [
            f"## AdaEE's experiment, {what}", "",
            "`alexnet2_cifar10_confidence`, arms 0 to 1 in steps of 0.2, 10,000 rounds, 20 repetitions: "
            "pseudo-regret to the best fixed arm ± 95 %; growth: regret after 100,000 rounds (5 "
            "repetitions) over that after 10,000, largest over the overheads (10 would be linear in T).", "",
            "| bandit | " + " | ".join(f"overhead {o}" for o in OVERHEADS) + " | growth |",
            "|---|" + "---:|" * (len(OVERHEADS) + 1),
        ]  # fmt: skip
        names = list(dict.fromkeys(called(r) for r in rows))
        for name in names:
            mine = [r for r in rows if called(r) == name and r["reveal"] == reveal]
            at = {(r["overhead"][0], r["rounds"]): r for r in mine}
            growth = max(
                at[o, 100_000]["regret"] / at[o, 10_000]["regret"]
                for o in OVERHEADS
                if at[o, 10_000]["regret"] > 1
            ) if any(at[o, 10_000]["regret"] > 1 for o in OVERHEADS) else 0.0  # fmt: skip
            cells = [pm(at[o, 10_000], "regret") for o in OVERHEADS]
            lines.append(f"| {name} | " + " | ".join(cells) + f" | {growth:.1f} |")
        lines.append("")
    long_rows = parts.get("long", [])
    ends = sorted({r["rounds"] for r in long_rows})
    lines += [
        "## The bandits that forget, ten times longer", "",
        "The same at overhead 0.1 with side information, 5 repetitions: pseudo-regret, and in brackets how "
        "often that of a tenth of the rounds. Their theorems give T to the power 1/2, times a logarithm; that "
        "begins when the window is long enough to tell the arms apart.", "",
        "| bandit | " + " | ".join(f"{n:,} rounds" for n in ends) + " |", "|---|" + "---:|" * len(ends),
    ]  # fmt: skip
    for name in dict.fromkeys(called(r) for r in long_rows):
        mine = [r["regret"] for r in long_rows if called(r) == name]
        more = ["", *(f" ({b / a:.1f})" for a, b in pairwise(mine))]
        cells = [f"{x:,.0f}{m}" for x, m in zip(mine, more, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "", "## Clean, then blur, then noise", "",
        f"`cache/fashion_mnist`, {ROUNDS:,} requests, a change every 10,000, 20 repetitions. Recovered: the "
        "regret to the best arm of the moment is down to a quarter of what staying with the arm of "
        "before would cost (or 0.01), over 400 requests and all repetitions; - not before the next change.", "",
        "| overhead | policy | regret to the best fixed arm | to the best at each time "
        "| recovered after (seed 0) | (seed 1) | cost [MMACs] | accuracy % |",
        "|---:|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    changing = parts["changing"]
    again = {(r["overhead"][0], r["policy"]): r for r in changing if r["seed"] == 1}
    for r in (r for r in changing if r["seed"] == 0):
        other = again[r["overhead"][0], r["policy"]]
        back, more = (
            ", ".join("-" if x is None else f"{x:,}" for x in y["recovery"]) for y in (r, other)
        )
        lines.append(
            f"| {r['overhead'][0]} | {r['policy']} | {pm(r, 'regret')} | {pm(r, 'moving_regret')} | {back} "
            f"| {more} | {r['realised_cost']:.3f} | {100 * r['accuracy']:.2f} |"
        )
    bound = Controller(0.4).bound(20_000)
    lines += [
        "", "## The budget, whatever comes", "",
        "`cache/fashion_mnist`, 20,000 requests over clean, blur and noise, 20 repetitions: how far the mean "
        f"cost is off the budget. The controller's bound is {100 * bound:.2f} % of the way from the first to "
        "the last exit.", "",
        "| method | schedule | budget | fixed: off % | controller: off % "
        "| its repetitions: least, most | fixed: accuracy % | controller: accuracy % |",
        "|---|---|---:|---:|---:|---|---:|---:|",
    ]  # fmt: skip
    pairs = parts["keeping"]
    for fixed, steered in zip(pairs[::2], pairs[1::2], strict=True):
        off, mine = (100 * (r["realised_cost"] / r["budget"] - 1) for r in (fixed, steered))
        ends = [100 * (x / steered["budget"] - 1) for x in steered["cost_range"]]
        lines.append(
            f"| {fixed['method']} | {fixed['schedule']} | {fixed['asked']} | {off:+.1f} | {mine:+.2f} | "
            f"[{ends[0]:+.2f}, {ends[1]:+.2f}] | {100 * fixed['accuracy']:.2f} | {100 * steered['accuracy']:.2f} |"
        )
    return "\n".join([*lines, "", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--only", help="keeping, changing, adaee or long; the rest stays as measured"
    )
    only = parser.parse_args().only
    stored = ROOT / "benchmarks/results/online.json"
    parts = json.loads(stored.read_text()) if only else {}
    started, at_start = time.monotonic(), machine()
    with tempfile.TemporaryDirectory() as folder, progress(None):
        if only in (None, "keeping"):
            parts["keeping"] = keeping()
        if only in (None, "changing"):
            parts["changing"] = changing()
            drawn = panel_figure(*simulation_content(picture(), "")["panels"])
            save_figure(drawn, ROOT / "docs" / "online.png", dpi=110)
        if only in (None, "adaee"):
            parts["adaee"] = adaee(Path(folder) / "adaee")
        if only in (None, "long"):
            parts["long"] = long(Path(folder) / "long")
    shown = text(parts) + machine_line(at_start, machine()) + "\n"
    write(stored, {**parts, "machine": at_start}, shown)
    print(shown)
    print(f"{(time.monotonic() - started) / 60:.1f} minutes", file=sys.stderr)


if __name__ == "__main__":
    main()
