"""``policyopt evaluate`` and ``policyopt run``: what a policy does with rows of a cache, or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cli import options, output
from policyopt._cli.options import argument, option
from policyopt._cli.output import chosen_method, interval, number, off_budget, percent, shares
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import load_any
from policyopt.runtime._files import write_file
from policyopt.runtime._outputs_file import decide_file, read_outputs
from policyopt.runtime._reading import FEWEST, refuse_probabilities

_COLUMNS = ("row", "exit", "prediction", "cost", "quality")
_AXES = ("KNC", "NKC", "KN", "NK")


def evaluate(
    policy: Path = options.POLICY,
    cache: Path = options.CACHE,
    split: str = options.SPLIT,
    out: Path | None = option(None, "CSV with exit, prediction, cost and quality per row."),
    utility: str | None = options.UTILITY,
    metric: str | None = options.METRIC,
    cost: str | None = options.COST,
    style: output.Format = options.STYLE,
) -> None:
    """Show realised cost and accuracy of a policy."""
    from policyopt._api import cost_for, utility_for
    from policyopt._frontier import summary
    from policyopt._metrics import metric_fields
    from policyopt._replay import replay
    from policyopt._table import Tables

    if out is not None:
        options.out_table(out, ",".join(_COLUMNS))
    loaded = load_any(policy)
    data = options.read_cache(cache)
    worth, told = utility_for(loaded, data, utility)
    table = Tables(data, cost_for(loaded, data, cost), utility=worth).get(split)
    outcome = replay(loaded, table)
    if told:
        output.note(told)
    if loaded.provenance.get("cache") not in (None, data.fingerprint):
        output.note("this is not the cache that the policy was fitted on: its budget may not hold")
    if out is not None:
        with output.writing(out):
            write_file(out, output.to_csv(_rows(outcome, _COLUMNS)))
    # Provenance decides nothing, so the loader takes any: what is no name or number is not shown.
    provenance = loaded.provenance
    method, budget, chosen = (provenance.get(name) for name in ("method", "budget", "chosen"))
    if cost not in (None, fitted_on := provenance.get("cost")) and budget is not None:
        output.note(f"the policy's budget is of the cost {fitted_on}, not of {cost}: left out")
        budget = None
    record = {
        "method": method if isinstance(method, str) else None,
        "chosen": chosen.get("method") if isinstance(chosen, dict) else None, "split": split,
        "budget": budget if isinstance(budget, (int, float)) else None, "unit": loaded.unit,
        **summary(outcome, loaded),
    }  # fmt: skip
    if metric is not None:
        record = metric_fields(metric, table.statistics.labels, outcome.prediction) | record
    columns = {
        "method": chosen_method, "split": "split", "rows": "rows", f"budget [{loaded.unit}]": "budget",
        "realised cost [95 %]": interval("realised_cost"), "off %": off_budget,
        **output.quality_column(outcome.graded), **output.metric_column(metric), "exit share %": shares("exit_share"),
    }  # fmt: skip
    output.print_records([record], style, columns)


def run(
    policy: Path = options.POLICY,
    outputs: Path = argument(".npy or .npz with the outputs of all exits.", "OUTPUTS"),
    axes: str | None = option(None, "KNC or NKC; default: found from the policy."),
    style: output.Format = options.STYLE,
) -> None:
    """Decide for new outputs: exit, prediction and cost per row (json, csv), or a summary (table)."""
    loaded = load_any(policy)
    if axes is not None and axes.upper() not in _AXES:
        raise input_error("--axes", f"one of {', '.join(_AXES)}", axes, "Classes come last.")
    found = read_outputs(outputs, loaded, axes and axes.upper())
    _refuse_odd(found, loaded.kind, outputs)
    decisions = decide_file(loaded, found, outputs)
    if style is not output.Format.table:
        output.print_records(_rows(decisions, _COLUMNS[:-1]), style)
        return
    counts = np.bincount(decisions.exit, minlength=loaded.model_exits)
    output.print_table(
        [
            {"exit": k, "rows": int(counts[k]), "cost": float(cost)}
            for k, cost in zip(loaded.active_exits, loaded.costs, strict=True)
        ],
        {
            "exit": "exit",
            "rows": "rows",
            "share %": lambda r: percent(r["rows"] / len(decisions.exit), 1),
            f"cost [{loaded.unit}]": "cost",
        },
    )
    mean = number(float(decisions.cost.mean()))
    output.say(f"mean cost {mean} {loaded.unit}; --format csv prints a line per row")


def _rows(outcome: Any, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a record per row, of the columns that a replay or decisions have."""
    values = [getattr(outcome, name).tolist() for name in columns[1:]]
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(range(len(outcome.exit)), *values, strict=True)
    ]


def _refuse_odd(found: list[Any], kind: str, path: Path) -> None:
    """Refuse no rows at all, and probabilities where the policy takes logits."""
    record = kind == "summary"
    first = found[0]["confidence"] if record else found[0]
    if not len(first):
        raise input_error("OUTPUTS", "of a row or more", f"none in {path}", "Is it the right file?")
    if not record and all(exit_.dtype.kind in "fiu" for exit_ in found):
        # Of every exit, so that even one row tells where there are exits enough.
        few = FEWEST if kind == "logits" else 64
        refuse_probabilities(np.concatenate([exit_[:few] for exit_ in found]), "OUTPUTS", kind)
