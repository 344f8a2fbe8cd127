"""``policyopt simulate``: policies that adapt, played on a stream of cached outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from policyopt.cli.options import (
    CachePath,
    CostName,
    Seed,
    Style,
    out_folder,
    read_cache,
)
from policyopt.cli.output import Format, note, print_records, say, to_csv, writing
from policyopt.cli.progress import progress
from policyopt.cli.simulated import columns, meaning, told
from policyopt.progress import progress_callback
from policyopt.runtime.errors import input_error
from policyopt.runtime.files import write_file
from policyopt.table import Tables


def simulate(
    cache: CachePath,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="Names, comma-separated, with settings as ucb1:c=2 (`policyopt methods online` "
            "lists both); bandits stands for all bandits.",
        ),
    ] = "ucb1",
    schedule: Annotated[
        str,
        typer.Option(
            "--schedule",
            help="stationary (several streams: mixed in equal parts), abrupt, gradual, recurring "
            "(two streams or more), or streams with rounds: test:4000,blur:6000.",
        ),
    ] = "stationary",
    streams: Annotated[
        str | None,
        typer.Option(
            "--streams",
            help="Streams that the schedule goes through, in order (default: test, or those named).",
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=2, help="Requests (default: 10000).")
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "--seeds", min=1, help="Independent runs.")
    ] = 20,
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            help="Thresholds low:high:step or a list, or a whole number N: N points of the fitted "
            "family and its two ends, N + 2 arms.",
        ),
    ] = "0:1:0.2",
    method: Annotated[
        str, typer.Option("--method", help="Whose score and family are steered.")
    ] = "max_prob",
    overhead: Annotated[
        str,
        typer.Option(
            "--overhead", help="Of the last exit, in units of the reward: 0.1, or 0.05:0.15."
        ),
    ] = "0.1",
    reward: Annotated[
        str,
        typer.Option(
            "--reward",
            help="What an exit is worth beyond exit 0: confidence (AdaEE: gained, never below 0), "
            "signed (gained or lost), calibrated (signed, of the probability of being right), or "
            "label (right there, less right at exit 0).",
        ),
    ] = "confidence",
    reveal: Annotated[
        str,
        typer.Option("--reveal", help="smaller (side information), played (none), or all."),
    ] = "smaller",
    budget: Annotated[
        str | None, typer.Option("--budget", help="For controller and fixed: 2.5, or 40%.")
    ] = None,
    delay: Annotated[int, typer.Option("--delay", min=0, help="Rounds until feedback comes.")] = 0,
    label_share: Annotated[
        float,
        typer.Option("--label-share", help="Share of the requests whose feedback comes, above 0."),
    ] = 1.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory for simulation.csv and .png.")
    ] = None,
    seed: Seed = 0,
    cost: CostName = None,
    style: Style = Format.table,
) -> None:
    """Play adaptive policies on requests drawn from a cache's streams: regret, cost, accuracy."""
    from policyopt.online.simulate import simulate as play
    from policyopt.report.simulation import simulation_figure

    out_folder(out, {"simulation.csv": "policy,rounds,"})
    data = read_cache(cache)
    with progress("simulating") as step, progress_callback(step):
        found = play(
            data, policy, schedule=schedule, streams=streams, rounds=rounds,
            repetitions=repetitions, seed=seed, arms=arms, method=method,
            overhead=_overhead(overhead), reward=reward, reveal=reveal, budget=budget,
            delay=delay, label_share=label_share, tables=Tables(data, cost),
        )  # fmt: skip
    if delay >= found.schedule.rounds:
        note(
            f"feedback comes after {delay:,} rounds, the simulation has {found.schedule.rounds:,}: none comes"
        )
    if out is not None:
        from policyopt.report.figures import save_figure

        with writing(out):
            write_file(out / "simulation.csv", to_csv(found.records))
            save_figure(simulation_figure(found), out / "simulation.png")
    if style is Format.table:
        say(*told(found.records[0]))
    print_records(found.records, style, columns(found.records))
    if style is Format.table:
        say(*meaning(found.records[0]).splitlines())


def _overhead(text: str) -> tuple[float, float]:
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not np.isfinite(ends).all():
        raise input_error(
            "--overhead", "a number, or a range low:high", text, "E.g. 0.1 or 0.05:0.15."
        )
    return ends[0], ends[-1]
