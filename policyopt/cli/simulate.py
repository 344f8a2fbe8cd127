"""``policyopt simulate``: policies that adapt, played on a stream of cached outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from policyopt.cli.options import (
    CachePath,
    CostName,
    Seed,
    Style,
    out_directory,
    read_cache,
)
from policyopt.cli.output import Format, number, percent, print_records, to_csv
from policyopt.cli.progress import progress
from policyopt.runtime.artifact import write_text
from policyopt.runtime.errors import bad
from policyopt.table import Tables
from policyopt.telling import listening


def simulate(
    cache: CachePath,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="Names, comma-separated, with settings as ucb1:c=2. Bandits, linucb, splitee, "
            "uee_ucb, controller, fixed; "
            "bandits stands for all of them.",
        ),
    ] = "ucb1",
    schedule: Annotated[
        str,
        typer.Option(
            "--schedule",
            help="stationary, abrupt, gradual, recurring, or streams with rounds: test:4000,blur:6000.",
        ),
    ] = "stationary",
    streams: Annotated[
        str, typer.Option("--streams", help="Streams that the schedule goes through, in order.")
    ] = "test",
    rounds: Annotated[
        int | None, typer.Option("--rounds", min=1, help="Requests (default: 10000).")
    ] = None,
    repetitions: Annotated[
        int, typer.Option("--repetitions", "--seeds", min=1, help="Independent runs.")
    ] = 20,
    arms: Annotated[
        str,
        typer.Option(
            "--arms",
            help="Thresholds low:high:step or a list, or a number of points of the fitted family.",
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
        str, typer.Option("--reward", help="confidence (AdaEE), signed, calibrated or label.")
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
        float, typer.Option("--label-share", help="Share of the requests whose feedback comes.")
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
    from policyopt.runtime.bandits import BANDITS

    out_directory(out)
    names = [name for item in _names(policy) for name in (BANDITS if item == "bandits" else [item])]
    data = read_cache(cache)
    with progress("simulating") as step, listening(step):
        found = play(
            data, list(dict.fromkeys(names)), schedule=schedule, streams=_names(streams),
            rounds=rounds,
            repetitions=repetitions, seed=seed, arms=arms, method=method,
            overhead=_overhead(overhead), reward=reward, reveal=reveal, budget=budget,
            delay=delay, label_share=label_share, tables=Tables(data, cost),
        )  # fmt: skip
    if out is not None:
        from policyopt.report.figures import save_figure

        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "simulation.csv", to_csv(found.records))
        save_figure(simulation_figure(found), out / "simulation.png")
    print_records(found.records, style, _columns(found.unit), _title(found, overhead, reward))


def _columns(unit: str) -> dict[str, Any]:
    def with_interval(name: str, text: Any) -> Any:
        def shown(r: dict[str, Any]) -> str:
            if r[name] is None:
                return "-"
            half = (r[f"{name}_high"] - r[f"{name}_low"]) / 2
            return f"{text(r[name])} ± {text(half)}"

        return shown

    def plain(value: float) -> str:
        return f"{value:.1f}"

    return {
        "policy": lambda r: r["policy"],
        "regret": with_interval("regret", plain),
        "to the best at each time": with_interval("moving_regret", plain),
        "best arm": lambda r: r["best_arm"],
        "played at the end %": lambda r: (
            None if r["best_arm_share"] is None else percent(r["best_arm_share"], 1)
        ),
        "recovered after": lambda r: (
            " ".join("-" if x is None else str(x) for x in r["recovery"]) or None
        ),
        f"cost [{unit}]": with_interval("realised_cost", lambda x: number(x)),
        "off budget %": lambda r: (
            None if r["budget"] is None else f"{100 * (r['realised_cost'] / r['budget'] - 1):+.2f}"
        ),
        "accuracy %": with_interval("accuracy", percent),
    }


def _title(found: Any, overhead: str, reward: str) -> str:
    record = found.records[0]
    return (
        f"{record['rounds']:,} requests, {record['repetitions']} repetitions, {record['schedule']} "
        f"over {', '.join(found.schedule.streams)}; reward {reward}, overhead {overhead}; "
        "± 95 % over repetitions"
    )


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _overhead(text: str) -> tuple[float, float]:
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not np.isfinite(ends).all():
        raise bad("--overhead", "a number, or a range low:high", text, "E.g. 0.1 or 0.05:0.15.")
    return ends[0], ends[-1]
