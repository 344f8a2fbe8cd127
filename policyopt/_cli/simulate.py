"""``policyopt simulate``: policies that adapt, played on a stream of cached outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._online.simulate import simulate as play
from policyopt._page.results import simulation_content
from policyopt._report.figures import panel_figure
from policyopt._table import Tables
from policyopt.runtime._errors import input_error
from policyopt.runtime._family import load_family


def simulate(
    cache: Path = options.CACHE,
    policy: str = option(
        "ucb1",
        "Names, comma-separated, with settings as ucb1:c=2 (`policyopt methods online` "
        "lists both); bandits stands for all bandits.",
    ),
    schedule: str = option(
        "stationary",
        "stationary (several streams: mixed in equal parts), abrupt, gradual, recurring "
        "(two streams or more), or streams with rounds: test:4000,blur:6000.",
    ),
    streams: str | None = option(
        None, "Streams that the schedule goes through, in order (default: test, or those named)."
    ),
    rounds: int | None = option(None, "Requests (default: 10000).", min=2),
    repetitions: int = option(20, "Independent runs.", "--repetitions", "--seeds", min=1),
    arms: str = option(
        "0:1:0.2",
        "Thresholds low:high:step or a list, or a whole number N: N points of the fitted "
        "family and its two ends, N + 2 arms; or a family file.",
    ),
    method: str = option("max_prob", "Whose score and family are steered."),
    overhead: str = option("0.1", "Of the last exit, in units of the reward: 0.1, or 0.05:0.15."),
    offload_at: str | None = option(
        None, "Last exits of tiers, 0 or 0,2: the overhead falls due past them (default: by cost)."
    ),
    reward: str = option(
        "confidence",
        "What an exit is worth beyond exit 0: confidence (AdaEE: gained, never below 0), signed (gained or lost), "
        "calibrated (signed, of the probability of being right), or label (right there, less right at exit 0).",
    ),
    reveal: str = option("smaller", "smaller (side information), played (none), or all."),
    budget: str | None = option(None, "For controller and fixed: 2.5, or 40%."),
    delay: int = option(0, "Rounds until feedback comes.", min=0),
    label_share: float = option(1.0, "Share of the requests whose feedback comes, above 0."),
    certified: str | None = option(
        None, 'Of a family file: only levels with a certificate of this, e.g. "drop<=1%".'
    ),
    confidence: str = option("95%", "Of these certificates, at least."),
    out: Path | None = option(None, "Directory for simulation.csv and .png."),
    report: Path | None = options.REPORT,
    seed: int = options.SEED,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    style: output.Format = options.STYLE,
) -> None:
    """Play adaptive policies on a cache's streams: regret, cost, accuracy of requests drawn from them."""
    options.out_folder(out, {"simulation.csv": "policy,rounds,"})
    options.out_page(report)
    given = load_family(arms) if arms.endswith(".json") else None
    if certified is not None:
        if given is None:
            step = f'`policyopt certify {cache} --risk "{certified}" --family` writes one.'
            raise input_error("--certified", "given with a family file as --arms", arms, step)
        from policyopt._bounds import delta_of  # which loads scipy

        given = given.certified(certified, 1.0 - delta_of(confidence))
    data = options.read_cache(cache)
    with output.progress("simulating"):
        found = play(
            data, policy, schedule=schedule, streams=streams, rounds=rounds,
            repetitions=repetitions, seed=seed, method=method,
            arms=arms if given is None else given,
            overhead=_overhead(overhead), offload_at=_exits(offload_at), reward=reward, reveal=reveal, budget=budget,
            delay=delay, label_share=label_share, tables=Tables(data, cost, utility=utility),
        )  # fmt: skip
    if delay >= found.schedule.rounds:
        has = f"the simulation has {found.schedule.rounds:,}"
        output.note(f"feedback comes after {delay:,} rounds, {has}: none comes")
    for text in found.notes:
        output.note(text)
    content = simulation_content(found, "")
    if out is not None or figure is not None:
        files = {"simulation.csv": output.to_csv(found.records)}
        files["simulation.png"] = panel_figure(*content["panels"])
        output.write_results(out, files, figure, options.inches(width))
    options.write_page(report, "simulation", found, f"Simulation on {options.title(cache)}")
    if not output.print_data(style, found.records, found.records):
        told = (f"{name} {value}" for name, value in content["made"]["facts"])
        output.say(content["subtitle"], ", ".join(told))
        output.print_panel(content["panels"][0])


def _overhead(text: str) -> tuple[float, float]:
    try:
        ends = [float(part) for part in text.split(":")]
    except ValueError:
        ends = []
    if len(ends) not in (1, 2) or not np.isfinite(ends).all():
        allowed, step = "a number, or a range low:high", "E.g. 0.1 or 0.05:0.15."
        raise input_error("--overhead", allowed, text, step)
    return ends[0], ends[-1]


def _exits(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError as error:
        raise input_error("--offload-at", "exit numbers", text, "E.g. 0, or 0,2.") from error
