"""``policyopt tune``: a method's settings searched by cross-validation on the fit rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policyopt._api import fit as fit_policy
from policyopt._cli import options, output
from policyopt._cli.options import option
from policyopt._cli.output import percent, points
from policyopt._methods.registry import ROWS, make_method
from policyopt._table import known_rows
from policyopt._tuning import Objective, Tuned
from policyopt._tuning import tune as run_tuning
from policyopt.runtime._errors import input_error
from policyopt.runtime._files import refusing, write_file


def tune(
    cache: Path = options.CACHE,
    method: str = option(..., "`policyopt methods` lists them."),
    objective: str = option("area", "area (under the curve) or accuracy (at --budget)."),
    budget: str | None = option(None, "For accuracy; also fits and writes OUT/policy.json."),
    budgets: str | None = option(None, "For area: a count or a list, as for curve.  [default: 5]"),
    trials: int = option(30, "In all: the same command again goes on."),
    folds: int = option(5, "Of the fit rows."),
    timeout: float | None = option(None, "Seconds; no trial starts later."),
    storage: str | None = option(
        None, "Storage URL of Optuna, for several machines.  [default: sqlite:///OUT/study.db]"
    ),
    out: Path = option(Path("tuned"), "Directory for tuned.json."),
    seed: int = options.SEED,
    settings: list[str] | None = options.SETTINGS,
    utility: str | None = options.UTILITY,
    cost: str | None = options.COST,
    style: output.Format = options.STYLE,
) -> None:
    """Tune a method's settings on split `fit`; the test rows are not touched."""
    fixed = options.read_settings(settings)
    if objective == "accuracy" and budgets is not None:
        raise input_error("--budgets", "used with --objective area", budgets, "Leave it out.")
    options.out_folder(out, policy=budget is not None)
    data = options.read_cache(cache)
    tables = options.make_tables(data, cost, ("fit",), utility)
    if budget is not None:  # refuse it before the work, whatever it is for
        Objective("accuracy", budget).check(known_rows(tables.get("fit")))
    if storage is None:
        with refusing(out):
            out.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{(out / 'study.db').absolute()}"
    try:
        with output.progress("tuning"):
            tuned = run_tuning(
                data, method, fixed, objective=objective,
                budget=budget if objective != "area" else None,
                budgets=budgets or "5", trials=trials, folds=folds, timeout=timeout,
                storage=storage, seed=seed, tables=tables,
            )  # fmt: skip
    except KeyboardInterrupt:
        output.note("the same command goes on where it stopped")
        raise
    own = ROWS[tuned.method].settings()
    # Settings that are not the method's own.
    others = {k: v for k, v in tuned.recommended.items() if k not in own or v != own[k]}
    chosen = [f"{key}={_flag(value)}" for key, value in others.items()]
    words = ["fit", cache, "--method", tuned.method, "--budget"]
    words.append(budget or options.usual_budget(tables.get("fit").mean_costs))
    words += [*(["--cost", cost] if cost else []), *(["--seed", seed] if seed else [])]
    words += ["--utility", utility] if utility else []
    words += [word for text in chosen for word in ("--set", text)]
    content = {**_record(tuned), "set": chosen, "command": output.command(*words)}
    written = [out / "tuned.json"]
    with output.writing(out):
        write_file(written[0], output.to_json(content))
        if budget is not None:
            written.append(out / "policy.json")
            best = make_method(tuned.method, tuned.recommended)
            fit_policy(data, budget, best, seed=seed, tables=tables).save(written[-1])
    if not output.print_data(style, content, tuned.history):
        _print(tuned, tables.get("fit").graded)
        output.say(f"wrote {' and '.join(map(str, written))}. Fit with:", f"  {content['command']}")


def _record(tuned: Tuned) -> dict[str, Any]:
    """Return what tuning found in plain types; ``settings`` are those recommended."""
    names = ("settings", "value", "standard_error")
    best = (tuned.settings, tuned.value, tuned.standard_error)
    default = (tuned.default_settings, tuned.default_value, tuned.default_error)
    counts = ("complete", "pruned", "failed", "exhausted", "study")
    return {
        "method": tuned.method, "objective": tuned.objective, "settings": tuned.recommended,
        "recommended": "tuned" if tuned.worthwhile else "default",
        "best": dict(zip(names, best, strict=True)), "default": dict(zip(names, default, strict=True)),
        "gain": tuned.gain, "gain_standard_error": tuned.gain_error,
        **{name: getattr(tuned, name) for name in counts}, "history": list(tuned.history),
    }  # fmt: skip


def _print(tuned: Tuned, graded: bool) -> None:
    """Print best and default side by side, and whether the difference means anything."""
    lines = [("best", tuned.settings, tuned.value, tuned.standard_error)]
    if tuned.default_value is not None:
        error = tuned.default_error or 0.0
        lines.append(("default", tuned.default_settings, tuned.default_value, error))
    word = output.quality_word(graded)
    what = "mean height of curve %" if tuned.objective == "area" else f"{word} at budget %"
    columns = {
        "": lambda r: r[0],
        f"{what} ± standard error": lambda r: f"{percent(r[2])} ± {percent(r[3])}",
        "settings": lambda r: " ".join(f"{k}={_flag(v)}" for k, v in r[1].items()),
    }
    output.print_table(lines, columns)
    output.say(f"trials: {tuned.complete} complete, {tuned.pruned} pruned, {tuned.failed} failed")
    if tuned.exhausted:
        output.say("every combination of settings was tried")
    if tuned.gain is None or tuned.gain_error is None:
        output.say("the default could not be fitted")
    elif tuned.settings == tuned.default_settings:
        output.say("nothing was better than the default: keep it")
    else:
        gain = f"{points(tuned.gain)} ± {percent(tuned.gain_error)} points, paired over folds"
        better = f"{gain} (best of many trials: test rows decide)"
        same = f"{gain}: within one standard error. Keep the default."
        output.say(f"gain over the default: {better if tuned.worthwhile else same}")


def _flag(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
