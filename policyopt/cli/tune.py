"""``policyopt tune``: a method's settings searched by cross-validation on the fit rows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from policyopt.api import fit as fit_policy
from policyopt.cli.options import (
    CachePath,
    CostName,
    Seed,
    Settings,
    Style,
    make_tables,
    out_folder,
    read_cache,
    read_settings,
)
from policyopt.cli.output import (
    Format,
    note,
    percent,
    print_csv,
    print_json,
    print_table,
    say,
    writing,
)
from policyopt.cli.progress import progress
from policyopt.methods.registry import ROWS, make_method
from policyopt.runtime.errors import input_error
from policyopt.runtime.files import refusing, write_file
from policyopt.tuning import Tuned
from policyopt.tuning import tune as run_tuning
from policyopt.tuning.objective import Objective


def tune(
    cache: CachePath,
    method: Annotated[str, typer.Option("--method", help="`policyopt methods` lists them.")],
    objective: Annotated[
        str,
        typer.Option("--objective", help="area (under the curve) or accuracy (at --budget)."),
    ] = "area",
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="For accuracy; also fits and writes OUT/policy.json."),
    ] = None,
    budgets: Annotated[
        str | None,
        typer.Option("--budgets", help="For area: a count or a list, as for curve.  [default: 5]"),
    ] = None,
    trials: Annotated[
        int, typer.Option("--trials", help="In all: the same command again goes on.")
    ] = 30,
    folds: Annotated[int, typer.Option("--folds", help="Of the fit rows.")] = 5,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Seconds; no trial starts later.")
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            help="Storage URL of Optuna, for several machines.  [default: sqlite:///OUT/study.db]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Directory for tuned.json.")] = Path("tuned"),
    seed: Seed = 0,
    settings: Settings = None,
    cost: CostName = None,
    style: Style = Format.table,
) -> None:
    """Tune a method's settings on split `fit`; the test rows are not touched."""
    fixed = read_settings(settings)
    if objective == "accuracy" and budgets is not None:
        raise input_error("--budgets", "used with --objective area", budgets, "Leave it out.")
    out_folder(out, policy=budget is not None)
    data = read_cache(cache)
    tables = make_tables(data, cost, ("fit",))
    if budget is not None:  # refuse it before the work, whatever it is for
        Objective("accuracy", budget).check(tables.get("fit"))
    if storage is None:
        with refusing(out):
            out.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{(out / 'study.db').absolute()}"
    try:
        with progress("tuning") as step:
            tuned = run_tuning(
                data, method, fixed, objective=objective,
                budget=budget if objective != "area" else None,
                budgets=budgets or "5", trials=trials, folds=folds, timeout=timeout,
                storage=storage, seed=seed, tables=tables, progress=step,
            )  # fmt: skip
    except KeyboardInterrupt:
        note("the same command goes on where it stopped")
        raise
    chosen = flags(tuned, tuned.recommended)
    command = ["policyopt", "fit", str(cache), "--method", tuned.method]
    command += ["--budget", budget or "40%", *(["--cost", cost] if cost else [])]
    command += [word for text in chosen for word in ("--set", text)]
    content = {**as_record(tuned), "set": chosen, "command": shlex.join(command)}
    written = [out / "tuned.json"]
    with writing(out):
        write_file(written[0], json.dumps(content, indent=1, allow_nan=False) + "\n")
        if budget is not None:
            written.append(out / "policy.json")
            best = make_method(tuned.method, tuned.recommended)
            fit_policy(data, budget, best, seed=seed, tables=tables).save(written[-1])
    if style is Format.json:
        print_json(content)
    elif style is Format.csv:
        print_csv(tuned.history)
    else:
        print_tuned(tuned)
        say(f"wrote {' and '.join(map(str, written))}. Fit with:", f"  {content['command']}")


def as_record(tuned: Tuned) -> dict[str, Any]:
    """Return what tuning found in plain types; ``settings`` are those recommended."""
    return {
        "method": tuned.method,
        "objective": tuned.objective,
        "settings": tuned.recommended,
        "recommended": "tuned" if tuned.worthwhile else "default",
        "best": {
            "settings": tuned.settings,
            "value": tuned.value,
            "standard_error": tuned.standard_error,
        },
        "default": {
            "settings": tuned.default_settings,
            "value": tuned.default_value,
            "standard_error": tuned.default_error,
        },
        "gain": tuned.gain,
        "gain_standard_error": tuned.gain_error,
        "complete": tuned.complete,
        "pruned": tuned.pruned,
        "failed": tuned.failed,
        "exhausted": tuned.exhausted,
        "study": tuned.study,
        "history": list(tuned.history),
    }


def flags(tuned: Tuned, settings: dict[str, Any]) -> list[str]:
    """Return KEY=VALUE texts for ``--set``, of those settings that are not the method's own."""
    own = ROWS[tuned.method].settings()
    return [f"{k}={_flag(v)}" for k, v in settings.items() if k not in own or v != own[k]]


def print_tuned(tuned: Tuned) -> None:
    """Print best and default side by side, and whether the difference means anything."""
    lines = [("best", tuned.settings, tuned.value, tuned.standard_error)]
    if tuned.default_value is not None:
        lines.append(
            ("default", tuned.default_settings, tuned.default_value, tuned.default_error or 0.0)
        )
    what = "mean height of curve %" if tuned.objective == "area" else "accuracy at budget %"
    print_table(
        lines,
        {
            "": lambda r: r[0],
            f"{what} ± standard error": lambda r: f"{percent(r[2])} ± {percent(r[3])}",
            "settings": lambda r: " ".join(f"{k}={_flag(v)}" for k, v in r[1].items()),
        },
    )
    say(f"trials: {tuned.complete} complete, {tuned.pruned} pruned, {tuned.failed} failed")
    if tuned.exhausted:
        say("every combination of settings was tried")
    if tuned.gain is None or tuned.gain_error is None:
        say("the default could not be fitted")
    elif tuned.settings == tuned.default_settings:
        say("nothing was better than the default: keep it")
    else:
        gain = f"{100 * tuned.gain:+.2f} ± {percent(tuned.gain_error)} points, paired over folds"
        if tuned.worthwhile:
            say(f"gain over the default: {gain} (best of many trials: test rows decide)")
        else:
            say(f"gain over the default: {gain}: within one standard error. Keep the default.")


def _flag(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return str(value)
