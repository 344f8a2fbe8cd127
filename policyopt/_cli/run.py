"""``policyopt evaluate`` and ``policyopt run``: what a policy does with rows of a cache, or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cli import options, output
from policyopt._cli.options import argument, option
from policyopt._cli.output import (
    chosen_method,
    interval,
    number,
    off_budget,
    percent,
    points,
    shown,
)
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._files import write_file
from policyopt.runtime._outputs_file import decide_arrays, outputs_of
from policyopt.runtime._reading import FEWEST, refuse_probabilities
from policyopt.runtime._routing import RoutingPolicy

_COLUMNS = ("row", "exit", "prediction", "cost", "quality")
_AXES = ("KNC", "NKC", "KN", "NK")


def evaluate(
    policy: Path = options.POLICY,
    cache: Path = options.CACHE,
    split: str = options.SPLIT,
    out: Path | None = option(None, "CSV with exit, prediction, cost and quality per row."),
    by: str | None = option(None, "Each part, too: context, label, group, or a file."),
    level: str | None = options.LEVEL,
    utility: str | None = options.UTILITY,
    metric: str | None = options.METRIC,
    cost: str | None = options.COST,
    jobs: int = options.jobs(1, "1"),
    scheduler: str | None = options.SCHEDULER,
    style: output.Format = options.STYLE,
) -> None:
    """Show realised cost and accuracy of a policy, or of a family's levels."""
    from policyopt._api import cost_for, utility_for
    from policyopt._frontier import beside_full, span_of, summary, told_metric
    from policyopt._parts import by_part, column, took_part
    from policyopt._replay import replay
    from policyopt._table import Tables, unlabelled

    if out is not None:
        options.out_table(out, ",".join(_COLUMNS), whole=False)
    loaded = load_any(policy)
    family = loaded if isinstance(loaded, PolicyFamily) and level is None else None
    if family and out is not None:
        raise input_error("--out", f"given with --level: {family.told()}", out, "E.g. --level 0.")
    found = list(family.policies) if family else [options.at_level(loaded, level)]
    routes = isinstance(found[0], RoutingPolicy)
    output.tell_exploring(loaded)
    data = options.read_cache(cache)
    worth, told = utility_for(found[0], data, utility)
    if told:
        output.note(told)
    if found[0].provenance.get("cache") not in (None, data.fingerprint):
        output.note("this is not the cache that the policy was fitted on: its budget may not hold")
    fitted_on = found[0].provenance.get("cost")
    of_another = cost not in (None, fitted_on) and found[0].provenance.get("budget") is not None
    if of_another:
        output.note(f"the policy's budget is of the cost {fitted_on}, not of {cost}: left out")
    table = Tables(data, cost_for(found[0], data, cost), utility=worth).get(split)
    outcomes = [replay(one, table) for one in found]
    if np.isnan(outcomes[0].quality).any():
        output.note(unlabelled(table))
    if any(took_part(one, data, split) for one in found):
        output.note(f"rows of {split}, or copies of them, took part in the fit: they flatter it")
    if out is not None:
        with output.writing(out):
            write_file(out, output.to_csv(_rows(outcomes[0], _COLUMNS, found[0])))
    records: list[dict[str, Any]] = [
        {
            **({"level": a} if family else {}), **_named(one, of_another), "split": split,
            "unit": one.unit, **summary(outcome, one),
            **beside_full(table.priced_for(one), outcome.cost, outcome.quality),
        }
        for a, (one, outcome) in enumerate(zip(found, outcomes, strict=True))
    ]  # fmt: skip
    if metric is not None:
        records = [
            told_metric(metric, table, outcome) | record
            for record, outcome in zip(records, outcomes, strict=True)
        ]
    if by is not None:
        values = column(data, table, by)
        of_all = [n for n in records[0] if n.startswith(("budget", "full_", "saving", "to_full"))]
        records = [
            {**record, "part": None, "worst": False, **part, **(dict.fromkeys(of_all) if part else {})}
            for record, outcome in zip(records, outcomes, strict=True)
            for part in ({}, *by_part(outcome, values, span=span_of(found[0])))
        ]  # fmt: skip
    columns = {
        **({"level": "level"} if family else {}),
        "method": chosen_method, "split": "split", **(output.PART if by else {"rows": "rows"}),
        f"budget [{loaded.unit}]": "budget",
        "realised cost [95 %]": interval("realised_cost"), "off %": off_budget,
        **output.quality_column(outcomes[0].graded), "points to full [95 %]": interval("to_full", points),
        "saving %": shown("saving", percent), **output.metric_column(metric),
        **output.share_columns(data.names, "ends with %" if routes else "exit share %"),
        **({"asked %": output.shares("asked_share")} if routes else {}),
        **output.coverage_columns(records[0], outcomes[0].graded),
    }  # fmt: skip
    output.print_records(records, style, columns)
    output.tell_unspent(zip(records, found, strict=by is None))


def _named(policy: Any, of_another: bool) -> dict[str, Any]:
    """Return method and budget of a policy: provenance may hold anything, what is no name or number is not shown."""
    provenance = policy.provenance
    method, budget, chosen = (provenance.get(name) for name in ("method", "budget", "chosen"))
    known = isinstance(budget, (int, float)) and not of_another
    return {
        "method": method if isinstance(method, str) else None,
        "chosen": chosen.get("method") if isinstance(chosen, dict) else None,
        "budget": budget if known else None,
    }


def run(
    policy: Path = options.POLICY,
    outputs: list[Path] = argument(
        "New rows: a file that `import` reads, one per exit, or a folder of them.", "OUTPUTS..."
    ),
    key: list[str] | None = options.KEY,
    axes: str | None = option(None, "KNC or NKC; default: found from the policy."),
    level: str | None = options.LEVEL,
    style: output.Format = options.STYLE,
) -> None:
    """Decide for new outputs: exit, prediction and cost per row (json, csv), or a summary (table)."""
    from policyopt._cache.exits import number_answers
    from policyopt._cache.importers import read_files, refuse_orders

    loaded = options.at_level(load_any(policy), level)
    if axes is not None and axes.upper() not in _AXES:
        raise input_error("--axes", f"one of {', '.join(_AXES)}", axes, "Classes come last.")
    names = loaded.provenance.get("names")
    names = list(map(str, names)) if isinstance(names, list) else []
    raw = read_files(outputs, options.roles(key), "OUTPUTS", names)
    known = ((policy.name, loaded.provenance), (raw.name, raw.metadata))
    refuse_orders((of, told.get("names")) for of, told in known)
    if raw.split is not None:
        raw.note("column 'split' not used: all rows are decided")
    for told in raw.notes:
        output.note(told)
    spoken = {k: raw.arrays[k] for k in raw.texts if k in raw.arrays and k[:4] == "pred"}
    words = {code: text for key in spoken for code, text in raw.texts[key].items()}
    texts = number_answers(raw) if loaded.kind == "summary" else []
    arrays = raw.arrays
    if "contexts" in raw.metadata:
        arrays = {**arrays, "contexts": np.asarray(raw.metadata["contexts"])}
    order, keys = raw.axes or axes or raw.options.get("axes"), [*raw.arrays, *raw.metadata]
    how = (loaded, order and order.upper(), raw.name, keys)
    found, said = outputs_of(arrays, *how), outputs_of({**arrays, **spoken}, *how)
    _refuse_odd(found, loaded.kind, raw.name)
    costs = _costs_of(raw, loaded)
    decisions: Any = decide_arrays(loaded, found, arrays, raw.name, costs)
    if style is not output.Format.table:
        columns = (*_COLUMNS[:-1], "abstained") if loaded.abstains else _COLUMNS[:-1]
        records = _rows(decisions, columns, loaded)
        taken = getattr(decisions, "answerer", decisions.exit).tolist()
        for i, row in enumerate(records if texts else ()):  # in the words of who was taken
            p, who = row["prediction"], (taken[i], *range(len(found)))
            at = next((k for k in who if found[k]["prediction"][i] == p), -1)
            code = int(said[at]["prediction"][i])
            row["prediction"] = None if p < 0 else words.get(code, texts[p])
        output.print_records(records, style)
        return
    of = range(loaded.model_exits)
    names = names if len(names) == len(of) else of
    counts = np.bincount(decisions.exit, minlength=loaded.model_exits)
    mean = number(float(decisions.cost.mean()))
    routing = isinstance(loaded, RoutingPolicy)
    paid = loaded.costs[list(loaded.active_exits)] if routing else loaded.costs
    records = list[dict[str, Any]]()
    for k, cost in zip(loaded.active_exits, paid.tolist(), strict=True):
        one = {"model": loaded.called(k)} if routing else {"exit": str(names[k])}
        one |= {"rows": int(counts[k]), "share %": percent(int(counts[k]) / len(decisions.exit), 1)}
        if routing:
            one["asked %"] = percent(float((decisions.turn[:, k] > 0).mean()), 1)
        records.append({**one, f"cost {'of a call ' * routing}[{loaded.unit}]": cost})
    output.print_table(records)
    if not routing and loaded.abstains:
        output.say(f"{percent(float(decisions.abstained.mean()))} % are handed over")
    output.say(f"mean cost {mean} {loaded.unit}; --format csv prints a line per row")


def _rows(outcome: Any, columns: tuple[str, ...], policy: Any) -> list[dict[str, Any]]:
    """Return a record per row, of the columns that a replay or decisions have, and what answers are if not classes."""
    from policyopt._report.routes import ways_of
    from policyopt._utility import ANSWERS, coarse_exits, coarse_note

    values = [getattr(outcome, name).tolist() for name in columns[1:]]
    if isinstance(policy, RoutingPolicy):
        columns = (*columns, "answer_of", "asked")
        values.append([policy.called(m) if m >= 0 else "joined" for m in outcome.answerer.tolist()])
        ways = ways_of(outcome).tolist()
        values.append([[policy.called(m) for m in way if m >= 0] for way in ways])
    if coarse := coarse_exits(policy.provenance):
        output.note(coarse_note(policy.provenance))
        columns = (*columns, "answers")
        values.append([ANSWERS[k in coarse] for k in outcome.exit.tolist()])
    return [
        dict(zip(columns, row, strict=True))
        for row in zip(range(len(outcome.exit)), *values, strict=True)
    ]


def _costs_of(raw: Any, policy: Any) -> Any:
    """Return what each call cost, (N, K), where a routing policy looks at it and the file says."""
    name = policy.provenance.get("cost")
    found = raw.arrays.get("costs" if name == "cost" else name)
    if not isinstance(policy, RoutingPolicy) or not policy.needs_costs:
        if found is not None and found.ndim == 2 and not isinstance(policy, RoutingPolicy):
            output.note("costs are the policy's means; `import` and `evaluate` take rows' own")
        return None
    if found is None or found.ndim != 2:
        output.note(
            "the file says no costs of calls: each is taken to cost what it does on average"
        )
        return None
    return found if found.shape[1] == policy.model_exits else found.T


def _refuse_odd(found: list[Any], kind: str, path: str) -> None:
    """Refuse no rows at all, and probabilities where the policy takes logits."""
    record = kind == "summary"
    first = found[0]["confidence"] if record else found[0]
    if not len(first):
        raise input_error("OUTPUTS", "of a row or more", f"none in {path}", "Is it the right file?")
    if not record and all(exit_.dtype.kind in "fiu" for exit_ in found):
        # Of every exit, so that even one row tells where there are exits enough.
        few = FEWEST if kind == "logits" else 64
        refuse_probabilities(np.concatenate([exit_[:few] for exit_ in found]), "OUTPUTS", kind)
