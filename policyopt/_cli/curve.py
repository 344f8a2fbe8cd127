"""``policyopt curve``, ``compare`` and ``demo``: methods side by side over a range of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from policyopt._api import fit as fit_policy
from policyopt._cli import options, output
from policyopt._cli.fit import COLUMNS, describe, foretell
from policyopt._cli.options import option
from policyopt._cli.output import interval, off_budget, percent, points, shares, shown
from policyopt._costs import parse_budgets
from policyopt._frontier import Frontier, means_over, over_seeds
from policyopt._frontier import compare as compare_methods
from policyopt._frontier import curve as make_curve
from policyopt._methods.registry import ROWS, apply_settings, method_list
from policyopt._table import Tables
from policyopt.runtime._errors import input_error

_DEMO = "max_prob,max_prob:thresholds=joint,margin,entropy,patience,optimal_stopping,auto"
_SHIPPED = Path("cache") / "fashion_mnist"


def curve(
    cache: Path = options.CACHE,
    methods: str = options.methods("max_prob,entropy,margin,patience"),
    budgets: str = options.BUDGETS,
    seeds: int = options.SEEDS,
    out: Path | None = option(None, "Directory for curve.csv and curve.png."),
    settings: list[str] | None = options.SETTINGS,
    cost: str | None = options.COST,
    test: str = options.TEST,
    bounds: bool = option(
        False, "Add the hindsight bound (not deployable) to the output.", "--bounds"
    ),
    style: output.Format = options.STYLE,
) -> None:
    """Fit methods at several budgets; show accuracy at realised cost on the test rows."""
    options.out_folder(out, {"curve.csv": "method,budget,"})
    tables = options.make_tables(options.read_cache(cache), cost, ("fit", test))
    frontier = _run(tables, methods, budgets, seeds, settings, test)
    records = frontier.records + (frontier.bound if bounds else [])
    if out is not None:
        _write(frontier, records, out, f"{cache.resolve().name}, split {test}")
    if output.print_data(style, records, records):
        return
    _print_curve(frontier)
    if bounds:
        columns = {
            "bound in hindsight (not deployable)": "method",
            f"budget [{frontier.unit}]": "budget",
            "accuracy %": shown("accuracy", percent),
        }
        output.print_table(_mean_over_seeds(frontier.bound), columns)
    if out is not None:
        output.say(f"wrote {out / 'curve.csv'} and {out / 'curve.png'}")


def compare(
    cache: Path = options.CACHE,
    methods: str = options.methods(...),
    reference: str | None = option(None, "Method to compare with (default: the first)."),
    budgets: str = options.BUDGETS,
    seeds: int = options.SEEDS,
    out: Path | None = option(None, "Directory for compare.csv."),
    settings: list[str] | None = options.SETTINGS,
    cost: str | None = options.COST,
    test: str = options.TEST,
    style: output.Format = options.STYLE,
) -> None:
    """Compare methods at equal realised cost: paired bootstrap, McNemar, area between curves."""
    options.out_folder(out, {"compare.csv": "method,reference,"})
    tables = options.make_tables(options.read_cache(cache), cost, ("fit", test))
    frontier = _run(tables, methods, budgets, seeds, settings, test)
    records = compare_methods(frontier, reference)
    if out is not None:
        output.write_results(out, {"compare.csv": output.to_csv(records)})
    if not output.print_data(style, records, records):
        _print_comparison(records, frontier.unit, seeds)


def demo(
    out: Path = option(Path("demo"), "Directory for what the demo makes."),
    cache: Path | None = option(None, "Another cache."),
    budget: str = option("40%", "Budget of the policy file."),
) -> None:
    """Compare policies on a real cache, fit one, and write it: table, curve.png, policy.json."""
    options.out_folder(out, {"curve.csv": "method,budget,"}, policy=True)
    path = cache or _shipped()
    data = options.read_cache(path)
    tables = options.make_tables(data, None)
    fitted = fit_policy(data, budget, tables=tables)  # a budget out of range ends it here
    rows = f"{path.name}, {len(tables.get('test')):,} test rows"
    output.say(f"1. Policies at nine budgets, on rows that chose nothing ({rows})")
    frontier = _run(tables, _DEMO, "9", 1, None)
    _print_curve(frontier)
    _write(frontier, frontier.records, out, f"{path.name}: accuracy at realised cost")
    output.say(f"2. One policy for a budget of {budget}")
    with output.writing(out):
        fitted.save(out / "policy.json")
    output.print_table([describe(fitted, str(out / "policy.json"))], COLUMNS)
    then = "the same on your own outputs: policyopt import, info, fit, curve."
    output.say(f"3. Look at {out / 'curve.png'}; {then}")


def _shipped() -> Path:
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / _SHIPPED / "manifest.json").is_file():
            return root / _SHIPPED
    allowed = f"{_SHIPPED} under this folder or the checkout"
    raise input_error("cache", allowed, "none", "Run it in a checkout, or give --cache.")


def _run(
    tables: Tables, methods: str, budgets: str, seeds: int, settings: Any, test: str = "test"
) -> Frontier:
    """Run `policyopt.curve` with command-line texts and a progress bar."""
    names, given = method_list(methods, "--methods"), options.read_settings(settings)
    everything, fit_rows = names == ["all"], tables.get("fit")
    if everything and given:
        allowed = "used with methods by name"
        raise input_error("--set", allowed, "--methods all", "Name the methods.")
    chosen: Any = names if everything else apply_settings(names, given)
    told = [n for n, row in ROWS.items() if not row.trains] if everything else names
    foretell(told, len(fit_rows), len(parse_budgets(budgets, fit_rows.mean_costs)), seeds)
    with output.progress("fitting") as step:
        frontier = make_curve(
            tables.data, chosen, budgets, seeds=seeds, test=test, tables=tables,
            progress=lambda what, done, total: step(done, total, what),
        )  # fmt: skip
    for text in frontier.notes:
        output.note(text)
    return frontier


def _write(frontier: Frontier, records: Sequence[dict[str, Any]], out: Path, title: str) -> None:
    from policyopt._report.figures import frontier_figure

    picture = frontier_figure(frontier, title)
    output.write_results(out, {"curve.csv": output.to_csv(records), "curve.png": picture})


def _print_curve(frontier: Frontier) -> None:
    """Print one line per method and budget, means over seeds."""
    columns = {
        "method": "method",
        f"budget [{frontier.unit}]": "budget",
        "realised": "realised_cost",
        "off %": off_budget,
        "accuracy % [95 %]": interval("accuracy", percent),
        "exit share %": shares("exit_share"),
    }
    output.print_table(_mean_over_seeds(frontier.records), columns)


def _mean_over_seeds(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**group[0], **means_over(group)} for group in over_seeds(records)]


def _print_comparison(records: list[dict[str, Any]], unit: str, seeds: int) -> None:
    """Print the records over all seeds; p-values are each seed's."""
    groups = over_seeds([r for r in records if r["seed"] is not None and r["budget"] is not None])
    means = [record for record in records if seeds == 1 or record["seed"] is None]
    by_budget = [record for record in means if record["budget"] is not None]
    for record, group in zip(by_budget, groups, strict=True):
        record["p"] = " ".join(f"{one['mcnemar_p']:.3f}" for one in group)
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    columns: dict[str, Any] = {
        "method": "method",
        f"budget [{unit}]": "budget",
        "at cost": "realised_cost",
        "accuracy %": shown("accuracy", percent),
        "reference %": shown("reference_accuracy", percent),
        "difference [95 %]": interval("difference", points),
        "McNemar p": "p",
    }
    told = f"at equal realised cost{over} (points of accuracy)"
    output.print_table(by_budget, columns, title=f"against {records[0]['reference']} {told}")
    area = interval("area", partial(points, digits=3))
    columns = {"method": "method", "area between curves [95 %]": area}
    if seeds > 1:
        columns["sd over seeds"] = shown("area_sd", partial(percent, digits=3))
    output.print_table([record for record in means if record["budget"] is None], columns)
