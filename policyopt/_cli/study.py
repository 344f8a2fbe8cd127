"""``policyopt study``: several models side by side, which to deploy at a budget."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import interval, number, percent, points, shown
from policyopt._study.streams import Robustness, robustness
from policyopt._study.study import Study, named_caches
from policyopt._study.study import study as run_study
from policyopt.runtime._errors import input_error

#: What is written, and how it begins.
_FILES = {
    "models.csv": "model,", "budgets.csv": "budget,", "pairs.csv": "better,", "points.csv": "model,",
    "exits.csv": "model,", "tests.csv": "metric,", "heights.csv": "budget,", "streams.csv": "model,",
    "dearest.csv": "model,",
}  # fmt: skip
#: Metrics over runs that are printed and drawn; the files have all.
_SHOWN = 6
_PAIRS, _BUDGETS = 45, 12


def study(
    caches: list[str] = options.argument(
        "Caches, folders of caches, or NAME=CACHE; NAME/0, NAME/1 are runs of one model.",
        "CACHE...",
    ),
    methods: str = option("auto", "Policy that each model gets; several: each is an entrant."),
    budgets: str | None = option(
        None, f"{options.COUNTED} Default: 9; of --streams 40%.", "--budgets"
    ),
    streams: str | None = option(
        None, "Replay policies on streams, too: all, or names.", "--streams"
    ),
    max_drop: str | None = option(
        None, "Floor on streams: most points under the full model there.", "--max-drop"
    ),
    quality: str | None = option(None, "Floor on streams: least mean quality.", "--quality"),
    seeds: int = options.SEEDS,
    out: Path | None = option(None, "Directory for the tables and pictures."),
    level: float = option(0.95, "Confidence of intervals, winners and tests."),
    paired: bool = option(False, "State that rows stand in the same order in all.", "--paired"),
    join: bool = option(True, "Try the full models as one cascade, too.", "--join/--no-join"),
    jobs: int | None = option(None, "Processes (default: one per processor).", "--jobs", min=1),
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    test: str = options.TEST,
    style: output.Format = options.STYLE,
) -> None:
    """Compare models at equal realised cost: which to deploy at a budget."""
    options.out_folder(out, _FILES)
    named, on_streams = named_caches(caches), list[dict[str, Any]]()
    if streams is not None:
        floors = {"floor": quality, "max_drop": max_drop}
        found = [
            (name, _on_streams(path, methods, budgets or "40%", streams, test, cost, utility, floors))
            for name, path in named.items()
        ]  # fmt: skip
        on_streams = _tell_streams(found, out, style, len(named) == 1)
        if len(named) == 1:
            return
    elif quality or max_drop:
        name = "--quality" if quality else "--max-drop"
        raise input_error(name, "given with --streams", quality or max_drop, "Add --streams all.")
    with output.progress("studying") as step:
        found = run_study(
            named, budgets or 9, methods, seeds=seeds, test=test, cost=cost, utility=utility, level=level,
            paired=paired, join=join, jobs=jobs or os.cpu_count() or 1, progress=step,
        )  # fmt: skip
    for text in found.notes:
        output.note(text)
    if out is not None:
        _write(found, out)
    content = {
        name: getattr(found, name)
        for name in ("models", "budgets", "pairs", "tests", "exits", "points")
    }
    content |= {"streams": on_streams} if streams is not None else {}
    if not output.print_data(style, content, found.budgets):
        _print(found)
        if out is not None:
            output.say(f"wrote tables and pictures into {out}")


def _on_streams(
    path: Path, methods: str, budgets: str, streams: str, test: str, cost: str | None, utility: str | None,
    floors: dict[str, Any],
) -> Robustness:  # fmt: skip
    """Replay policies that were fitted on clean rows on the streams of a cache."""
    data = options.read_cache(path)
    tables = options.make_tables(data, cost, ("fit", test), utility)
    with output.progress("replaying on streams") as step:
        return robustness(
            data, methods, budgets, streams=streams, test=test, tables=tables, **floors,
            progress=lambda what, done, total: step(done, total, what),
        )  # fmt: skip


def _tell_streams(
    found: list[tuple[str, Robustness]], out: Path | None, style: output.Format, alone: bool
) -> list[dict[str, Any]]:
    """Print and write what policies do on streams, cache by cache; as data only where nothing follows."""
    from policyopt._study.figures import robustness_figure

    rows = [{"model": name, **record} for name, one in found for record in one.records]
    for text in dict.fromkeys(text for _, one in found for text in one.notes):
        output.note(text)
    if out is not None:
        files: dict[str, Any] = {"streams.csv": output.to_csv(rows)}
        files["dearest.csv"] = output.to_csv(
            [{"model": n, **r} for n, one in found for r in one.dearest]
        )
        several = len(found) > 1
        for name, one in found:
            picture = f"streams-{name.replace('/', '-')}.png" if several else "streams.png"
            files[picture] = robustness_figure(one.records, name if several else "")
        output.write_results(out, files)
    if alone:
        output.print_data(style, rows, rows)
    for name, one in found if style is output.Format.table else ():
        output.print_table(one.records, {
            "method": "method", "stream": "stream", f"cost [{one.unit}]": shown("realised_cost", number),
            "off budget %": shown("off_budget", points), "over": "over_budget", "accuracy %": shown("quality", percent),
            "under floor": "below_floor", "slower x": shown("slowdown", number),
            "dearest 1 %": shown("cost_cvar99", number),
            "efficacy %": shown("efficacy", percent),
        }, title=f"{name}: policies of clean rows on streams")  # fmt: skip
    return rows


def _write(found: Study, out: Path) -> None:
    from policyopt._study.figures import dominance_figure, study_figure

    names = ("models", "budgets", "pairs", "points", "exits", "tests")
    files: dict[str, Any] = {f"{name}.csv": output.to_csv(getattr(found, name)) for name in names}
    rows = [
        {"budget": one["budget"], "model": name, "realised_cost": one["cost"][name], "quality": quality}
        for one in found.budgets for name, quality in one["quality"].items()
    ]  # fmt: skip
    files["heights.csv"] = output.to_csv(rows)
    files["study.png"] = study_figure(found)
    if drawn := [one for one in found.tests if one["pairs"]][:_SHOWN]:
        files["dominance.png"] = dominance_figure(drawn, found.level)
    output.write_results(out, files)


def _print(found: Study) -> None:
    word = output.quality_word(found.graded)
    output.print_table(found.models, {
        "rank": "rank", "model": "model", "runs": "runs", f"full cost [{found.unit}]": shown("full_cost", number),
        f"full {word} %": shown("full_quality", percent), "not parted": "group",
        f"mean {word} % over the budgets [{100 * found.level:g} %]": interval("area", percent),
    }, title="models, best first")  # fmt: skip
    output.print_table(found.budgets, {
        f"budget [{found.unit}]": shown("budget", number), "best": "best",
        f"{word} %": lambda r: percent(r["quality"][r["best"]]), "next": "next",
        "lead in points": interval("lead", points), "shown": lambda r: r["winner"] is not None,
        "the best is among": lambda r: ", ".join(r["contenders"]),
    }, title="at each budget, at equal realised cost")  # fmt: skip
    if len(found.budgets) <= _BUDGETS:
        head = {f"{word} % at [{found.unit}]": "model"}
        columns = {number(one["budget"]): _height(one["quality"]) for one in found.budgets}
        output.print_table(found.models, {**head, **columns}, title="every model at each budget")
    if len(found.pairs) <= _PAIRS:
        output.print_table(found.pairs, {
            "better": "better", "worse": "worse", "by points": interval("area", points),
            "p (Holm)": shown("holm_p", _p), "rows": lambda r: "shared" if r["paired"] else "other",
        }, title="mean over the budgets that both can keep")  # fmt: skip
    if found.tests:
        output.print_table([one for one in found.tests if one["test"]][:_SHOWN], {
            "metric": "metric", "test": "test", "p": shown("p", _p),
            "omega squared": shown("omega_squared", number), "Shapiro p": shown("shapiro_p", _p),
            "Levene p": shown("levene_p", _p), "afterwards": "post_hoc", "not parted": _groups,
        }, title="over training runs")  # fmt: skip


def _height(quality: dict[str, float]) -> Any:
    return lambda r: percent(quality[r["model"]], 1) if r["model"] in quality else None


def _p(value: float) -> str:
    return f"{value:.2g}"


def _groups(record: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {record['groups'][name]}"
        for name in sorted(record["rank"], key=record["rank"].get)
    )
