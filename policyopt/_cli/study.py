"""``policyopt study``: several models side by side, which to deploy at a budget."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import interval, number, percent, points, shown
from policyopt._page.results import study_content
from policyopt._study.streams import robustness
from policyopt._study.study import Study, named_caches
from policyopt._study.study import study as run_study
from policyopt.runtime._errors import input_error

#: What is written, and its first column, or all of one that may be empty; the lists of a study first.
_FILES = {
    "models.csv": "model", "budgets.csv": "budget",
    "pairs.csv": "better,worse,area,area_low,area_high,budgets,p,holm_p,paired,runs",
    "tests.csv": "metric,less_is_better,runs,means,sds,rank,shapiro_p,levene_p,test,statistic,p,eta_squared,"
    "omega_squared,post_hoc,pairs,groups",
    "exits.csv": "model", "points.csv": "model", "heights.csv": "budget", "streams.csv": "model",
    "dearest.csv": "model",
}  # fmt: skip
_LISTS = [name.removesuffix(".csv") for name in _FILES][:6]
#: Metrics over runs that are printed and drawn, pairs and budgets that are printed; the files have all.
_METRICS, _PAIRS, _BUDGETS = 6, 45, 12


def study(
    caches: list[str] = options.argument(
        "Caches, folders of caches, or NAME=CACHE; NAME/0, NAME/1 are runs of one model.",
        "CACHE...",
    ),
    methods: str = option("auto", "Policy that each model gets; several: each is an entrant."),
    budgets: str | None = option(None, f"{options.COUNTED} Default: 9; of --streams 40%."),
    streams: str | None = option(None, "Replay policies on streams, too: all, or names."),
    max_drop: str | None = option(None, "Floor on streams: most points under the full model."),
    quality: str | None = option(None, "Floor on streams: least mean quality."),
    seeds: int = options.SEEDS,
    out: Path | None = option(None, "Directory for the tables and pictures."),
    report: Path | None = options.REPORT,
    confidence: str = option("95%", "Of intervals, winners and tests."),
    paired: bool = option(False, "State that rows stand in the same order in all.", "--paired"),
    join: bool = option(True, "Try the full models as one cascade, too.", "--join/--no-join"),
    jobs: int = options.jobs(os.cpu_count() or 1, "one per processor"),
    scheduler: str | None = options.SCHEDULER,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    test: str = options.TEST,
    figure: Path | None = options.FIGURE,
    width: str | None = options.WIDTH,
    table: str | None = options.TABLE,
    style: output.Format = options.STYLE,
) -> None:
    """Compare models at equal realised cost: which to deploy at a budget."""
    if streams is None and (floor := quality or max_drop):
        name = "--quality" if quality else "--max-drop"
        raise input_error(name, "given with --streams", floor, "Add --streams all.")
    options.out_folder(out, {name: f"{all_.partition(',')[0]}," for name, all_ in _FILES.items()})
    options.out_page(report)
    named, content = named_caches(caches, output.note), dict[str, Any]()
    more = {"cost": cost, "test": test, "utility": utility}
    if streams is not None:
        wish = {"streams": streams, "floor": quality, "max_drop": max_drop}
        picture = figure if len(named) == 1 else None, options.inches(width)
        found = _streams(named, (methods, budgets or "40%"), wish, more, out, style, picture)
        if len(named) == 1:
            output.print_data(style, found, found)
            return
        content["streams"] = found
    with output.progress("studying"):
        told = run_study(
            named, budgets or 9, methods, seeds=seeds, confidence=confidence, paired=paired,
            join=join, **more,
        )  # fmt: skip
    for text in told.notes:
        output.note(text)
    options.write_page(report, "study", told)
    if out is not None or figure is not None:
        _write(told, out, figure, options.inches(width))
    if table:
        output.say(*told.table(table).splitlines())
        return
    content = {name: getattr(told, name) for name in _LISTS} | content
    if not output.print_data(style, content, told.budgets):
        _print(told, {one["id"]: one for one in study_content(told)["panels"]})
        output.say(*([f"wrote tables and pictures into {out}"] if out else []))


def _streams(
    named: dict[str, Path], asked: Any, wish: Any, more: Any, out: Path | None, style: Any, picture: Any
) -> list[dict[str, Any]]:  # fmt: skip
    """Replay policies of clean rows on the streams of each cache; print and write what they do there."""
    from policyopt._study.figures import robustness_figure

    rows, dearest, files, notes = [], [], dict[str, Any](), dict[str, None]()
    for name, path in named.items():
        data, wish["test"] = options.read_cache(path), more["test"]
        tables = options.make_tables(data, more["cost"], ("fit", more["test"]), more["utility"])
        with output.progress("replaying on streams"):
            found = robustness(data, *asked, **wish, tables=tables)
        rows += [{"model": name, **record} for record in found.records]
        dearest += [{"model": name, **record} for record in found.dearest]
        notes |= dict.fromkeys(found.notes)
        title = name if len(named) > 1 else ""
        if out is not None or picture[0] is not None:
            files[_picture(title, files)] = robustness_figure(found.records, title)
        several = len({one["budget"] for one in found.records}) > 1
        if style is output.Format.table:
            records = [
                {**one, "budgeted": one["budget"] if several else None} for one in found.records
            ]
            word = output.quality_word(found.records[0]["accuracy"] is None)
            output.print_declared("streams", records, name=name, unit=found.unit, word=word)
    for text in notes:
        output.note(text)
    files |= {"streams.csv": output.to_csv(rows), "dearest.csv": output.to_csv(dearest)}
    output.write_results(out, files, *picture)
    return rows


def _picture(name: str, taken: Any) -> str:
    """Return the name of a model's picture: not too long for any disk, and none of those taken."""
    end = "-" * bool(name) + name.replace("/", "-").encode()[:100].decode(errors="ignore")
    ways = (f"streams{end}{f'-{i + 1}' * (i > 0)}.png" for i in range(len(taken) + 1))
    return next(way for way in ways if way not in taken)


def _some(shown: int, found: Any, what: str, file: str) -> str:
    """Say that a table or picture shows some only, and where all are."""
    return f": {shown} of {len(found)} {what}; {file} (--out) has all" * (len(found) > shown)


def _write(found: Study, out: Path | None, figure: Path | None, width: float | None) -> None:
    from policyopt._study.figures import dominance_figure, study_figure

    files, lists = dict[str, Any](), {f"{name}.csv": getattr(found, name) for name in _LISTS}
    files |= {name: output.to_csv(of) if of else f"{_FILES[name]}\n" for name, of in lists.items()}
    files["heights.csv"] = output.to_csv([
        {"budget": one["budget"], "model": name, "realised_cost": one["cost"][name], "quality": quality}
        for one in found.budgets for name, quality in one["quality"].items()
    ])  # fmt: skip
    files["study.png"] = study_figure(found)
    if drawn := [one for one in found.tests if one["pairs"]]:
        more = _some(_METRICS, drawn, "metrics", "tests.csv")
        files["dominance.png"] = dominance_figure(drawn[:_METRICS], found.confidence, more)
    output.write_results(out, files, figure, width)


def _print(found: Study, panels: dict[str, Any]) -> None:
    """Print the page's tables, and who is ahead at each budget."""
    word, unit = output.quality_word(found.graded), found.unit
    output.print_panel(panels["frontiers"])
    output.print_table(found.budgets, {
        f"budget [{unit}]": shown("budget", number), "best": "best",
        f"{word} %": lambda r: percent(r["quality"][r["best"]]), "next": "next",
        "lead in points": interval("lead", points), "shown": lambda r: r["winner"] is not None,
        "the best is among": lambda r: ", ".join(r["contenders"]),
    }, title="at each budget, at equal realised cost")  # fmt: skip
    if len(found.budgets) <= _BUDGETS:
        columns: dict[str, Any] = {f"{word} % at [{unit}]": "model"}
        for one in found.budgets:
            each = {name: percent(worth, 1) for name, worth in one["quality"].items()}
            columns[number(one["budget"])] = lambda r, each=each: each.get(r["model"])
        output.print_table(found.models, columns, title="every model at each budget")
    else:
        output.say(f"every model at each budget{_some(0, found.budgets, 'budgets', 'heights.csv')}")
    if len(found.pairs) > _PAIRS:
        output.say(f"pairs of models{_some(0, found.pairs, 'pairs', 'pairs.csv')}")
    elif found.pairs:
        output.print_panel(panels["pairs"])
    if "tests" in panels:
        output.print_panel(panels["tests"], _METRICS)
        more = _some(_METRICS, panels["tests"]["table"]["rows"], "metrics", "tests.csv")
        output.say(*([f"tests{more}"] if more else []))
