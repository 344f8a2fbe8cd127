"""``policyopt import``, ``info`` and ``methods``: into a cache; what is in it, in a policy file, in the catalogue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policyopt._cache.data import ExitData
from policyopt._cache.manifest import Shard
from policyopt._cli import options, output
from policyopt._cli.files import POLICY, recognised
from policyopt._cli.options import argument, option
from policyopt._cli.output import number, percent
from policyopt._costs import Cost, per_thousand
from policyopt._intervals import worth_fields
from policyopt._measures import Measure
from policyopt._table import Tables, known_rows
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import ExpertPolicy, load_any
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._thresholds import list_text, scale_text

if TYPE_CHECKING:
    from policyopt._methods.registry import MethodSpec
    from policyopt._study.exits import ExitMetrics

#: Characters of a value in the table of a policy file.
_SHOWN = 120


def import_(
    sources: list[str] = argument(
        "A file, SPLIT=FILE for several, one per exit, a folder; or addresses.", "SRC..."
    ),
    out: Path = option(..., "Directory of the cache to write."),
    exits: bool = option(
        False, "Each file is one exit or model of the same rows, cheapest first.", "--exits"
    ),
    key: list[str] | None = options.KEY,
    axes: str | None = option(None, "KNC or NKC (exits, samples, classes)."),
    kind: str | None = option(
        None, "logits, probabilities or summary; or logit, multilabel, regression."
    ),
    costs: str | None = option(None, "1,2,4 (one per exit), a=1,b=4, or a key of the file."),
    unit: str | None = option(None, "Unit of the costs, e.g. MFLOPs, ms, USD."),
    cost_kind: str | None = option(
        None, "cumulative, standalone, or measured (cumulative, smoothed where it falls)."
    ),
    head_cost: list[str] | None = options.HEAD_COST,
    split: str | None = option(None, "Division of one pool, e.g. fit=0.5,test=0.5."),
    seed: int = options.SEED,
    labels: Path | None = option(None, ".npy with the labels; they go before those of the source."),
    dtype: str | None = option(None, "float16 or float32; default: as the source."),
    quality_of: str | None = option(None, "Of sets of labels: subset, hamming or jaccard."),
    error_scale: float | None = option(None, "Of values: the error at which one is worth 1/e."),
    allow_pickle: bool = option(
        False, "Load .pt that needs pickle: IT CAN RUN ANY CODE.", "--allow-pickle"
    ),
    overwrite: bool = option(False, "Replace a cache that is there.", "--overwrite"),
    append: bool = option(False, "Add the rows to a cache that is there: recent=FILE.", "--append"),
    time: str | None = option(None, "Of appended rows, for --since and --last.  [default: now]"),
    retain: str | None = option(None, "Appending, keep the last 30d, 12h, or rows of each split."),
    style: output.Format = options.STYLE,
) -> None:
    """Read the outputs of a model into a cache: .npz, .npy, .safetensors, .pt, .csv, .jsonl, .parquet and more."""
    from policyopt._cache.importers import import_sources

    options.out_directory(out, store=True)
    with output.progress("importing"):
        report = import_sources(
            sources, out, axes=axes, kind=kind, costs=costs, unit=unit, cost_kind=cost_kind,
            head_cost=head_cost, shares=_shares(split), seed=seed, labels=labels, dtype=dtype,
            overwrite=overwrite, append=append, time=time, retain=retain,
            quality_of=quality_of, error_scale=error_scale,
            allow_pickle=allow_pickle, exits=exits, keys=options.roles(key),
        )  # fmt: skip
    for text in report.notes:
        output.note(text)
    data = report.data
    rows = [{"split": name, "rows": len(data.rows(name)[1])} for name in data.split_names]
    place = output.place(out)
    content = {"cache": place, "kind": data.kind, "exits": data.exits, "classes": data.classes}
    if not output.print_data(style, {**content, "splits": rows}, rows):
        output.print_table(rows)
        then = output.command("info", out)
        output.say(f"wrote {place}: {data.exits} exits, {data.kind}. Next: {then}")


def _shares(text: str | None) -> dict[str, float] | None:
    """Read NAME=SHARE pairs."""
    if text is None:
        return None
    from policyopt._methods.settings import key_values

    try:
        return {k: float(v) for k, v in key_values(text.split(","), "--split").items()}
    except ValueError:
        step = "E.g. --split fit=0.5,test=0.5."
        raise input_error("--split", "NAME=SHARE pairs, each name once", text, step) from None


def info(
    cache: Path = argument("Directory of a cache, or a file that policyopt wrote.", "CACHE"),
    cost: str | None = options.COST,
    utility: str | None = options.UTILITY,
    incomplete: bool = option(False, "Read a cache whose writing was cut off.", "--incomplete"),
    full: bool = option(False, "Also loss, calibration, overfitting, ... of each exit.", "--full"),
    split: str | None = option(None, "With --full: split or stream to look at (default: test)."),
    level: str | None = options.LEVEL,
    since: str | None = options.SINCE,
    last: str | None = options.LAST,
    jobs: int = options.jobs(1, "1"),
    scheduler: str | None = options.SCHEDULER,
    style: output.Format = options.STYLE,
) -> None:
    """Show what a cache holds, or another file: rows, accuracy per exit, costs and metadata; or what to do with it."""
    if split is not None and not full:
        raise input_error("--split", "given with --full", split, "Add --full.")
    found = recognised(cache)
    if found or cache.is_file() or (cache.suffix == ".json" and not cache.is_dir()):
        given = {"--cost": cost, "--utility": utility, "--incomplete": incomplete, "--full": full}
        if name := next((name for name, value in given.items() if value), None):
            raise input_error(name, "given with a cache", f"{cache}, a file", "Leave it out.")
        if not found and cache.suffix != ".json":
            allowed, step = "a cache, or a file of policyopt", "`policyopt import` reads outputs."
            raise input_error("CACHE", allowed, f"{cache}, which is none", step)
        if not found or found["what"] == POLICY:
            _print_policy(cache, level, style)
            return
        pairs = [("what", found["what"]), ("next", found["next"]), *found["facts"].items()]
        rows = [{"field": name, "value": value} for name, value in pairs]
        if not output.print_data(style, found, rows):
            output.print_table(rows)
        return
    if level is not None:
        raise input_error("--level", "given with a file of a family", level, "Leave it out.")
    data = options.read_cache(cache, incomplete, since, last)
    with output.progress("reading the outputs"):
        tables = Tables(data, cost, utility)
        splits = [_split(tables, name, data.kept.shards) for name in data.split_names]
    metrics = None
    if full:
        from policyopt._study.exits import exit_metrics

        usual = "test" if "test" in data.split_names else data.split_names[-1]
        metrics = exit_metrics(data, split or usual, tables=tables)
    content: dict[str, Any] = {
        "kind": data.kind, "exits": data.exits, "classes": data.classes, "names": list(data.names),
        **vars(data.measure),
        "features": list(data.feature_widths), "query": data.query_width,
        "contexts": list(data.contexts), "pooled": data.pooled,
        "splits": splits, "costs": [_cost(data, cost) for cost in data.costs],
        "metadata": dict(data.metadata), "fingerprint": data.fingerprint,
    }  # fmt: skip
    content |= {} if metrics is None else {"metrics": vars(metrics)}
    if not output.print_data(style, content, metrics.exits if metrics else splits):
        _print_cache(content, data, data.graded or utility is not None)
        if metrics:
            _print_metrics(metrics)


def _split(tables: Tables, name: str, shards: Sequence[Shard]) -> dict[str, Any]:
    table = tables.get(name, censored=True)
    stats, worth = table.statistics, None
    known = known_rows(table)
    if table.log is None and known.labelled and known.statistics.quality_dtype is not None:
        worth = known.mean_quality.tolist()
    found = {
        "split": name,
        "role": name if name in ("fit", "calibrate", "test") else "stream",
        "rows": len(table),
        "labelled": int(table.valued.sum()),
        **worth_fields(worth, table.graded),
        "no_answer": float((stats.prediction < 0).mean()),
    }
    if table.log is not None:
        called = table.log[0] > 0
        found["called_share"] = called.mean(axis=0).tolist()
        found["no_answer"] = float((stats.prediction < 0)[called].mean())
    elif table.group is not None:
        found["groups"] = len(np.unique(table.group))
    if table.context is not None:
        counts = np.bincount(table.context, minlength=len(table.contexts))
        found["context_share"] = (counts / len(table)).tolist()
    times = sorted(shard.time for shard in shards if shard.split == name and shard.time)
    return found | ({"appended": [times[0], times[-1]]} if times else {})


def _cost(data: ExitData, cost: Cost) -> dict[str, Any]:
    values: Any = cost.values
    if values is None:
        arrays = [rows.array(f"cost:{cost.name}") for rows in data.splits.values()]
        values = np.concatenate(arrays).mean(axis=0).tolist()
    told = {"cost": cost.name, "unit": cost.unit, "per_sample": cost.per_sample}
    told |= {"cascade": cost.cascade, "cumulative_mean": list(values)}
    return told if cost.heads is None else {**told, "heads": list(cost.heads)}


def _print_cache(content: dict[str, Any], data: ExitData, graded: bool) -> None:
    classes = f"{data.classes} {KINDS[data.kind].counted}" if data.classes else "classes unknown"
    pool = ", one pool divided by seed" if data.pooled else ""
    output.say(f"{data.kind}: {data.exits} exits, {classes}{pool}")
    if data.measure != Measure():
        output.say(str(data.measure))
    if data.censored:
        output.say(
            "a log of decisions: models not called are unknown, so only routing is fitted on it"
        )
    if data.feature_widths:
        output.say(f"feature vectors of width {', '.join(map(str, data.feature_widths))}")
    if data.query_width:
        known = f"{data.query_width} number{'s' if data.query_width > 1 else ''}"
        output.say(f"known of every row before any model is asked (query): {known}")
    if data.contexts:
        output.say(f"every row has a context: {', '.join(data.contexts)}; their shares stand last")
    if data.metadata:
        output.say(f"metadata: {_cut(json.dumps(content['metadata']), 70)}")
    columns: dict[str, Any] = {"split": "split", "role": "role", "rows": "rows"}
    if any("appended" in one for one in content["splits"]):
        columns["appended"] = lambda one: " to ".join(t[:16] for t in one.get("appended", []))
    if any(0 < found["labelled"] < found["rows"] for found in content["splits"]):
        columns["labelled"] = "labelled"
    if any("groups" in found for found in content["splits"]):
        columns["groups"] = lambda r: r.get("groups")
    for k in range(data.exits):
        columns[f"exit {data.called(k)}"] = lambda r, k=k: (
            percent(r["called_share"][k])
            if data.censored
            else r["quality"] and percent(r["quality"][k])
        )
    for e, name in enumerate(data.contexts):
        columns[f"{name} share %"] = lambda r, e=e: percent(r["context_share"][e], 1)
    word = "called" if data.censored else output.quality_word(graded)
    output.print_table(content["splits"], columns, title=f"{word} [%]")
    columns = {"cost": "cost", "unit": "unit"}
    columns["given"] = lambda r: "per sample" if r["per_sample"] else "per exit"
    columns["a skipped exit"] = lambda r: (
        "is free" if r["cascade"] else "saves its head" if any(r.get("heads", ())) else "is paid"
    )
    for k in range(data.exits):
        columns[f"exit {data.called(k)}"] = lambda r, k=k: (
            number(r["cumulative_mean"][k]) + per_thousand(r["cumulative_mean"][k], r["unit"])
        )
    stated = [one for one in content["costs"] if "heads" in one]
    heads = [{**r, "cost": f"{r['cost']}: head", "cumulative_mean": r["heads"]} for r in stated]
    alone = [
        {**r, "cost": f"{r['cost']}: alone", "cumulative_mean": np.diff(r["cumulative_mean"], prepend=0.0)}
        for r in content["costs"] if r["cascade"]
    ]  # fmt: skip
    output.print_table([*content["costs"], *alone, *heads], columns, title="cumulative cost")


def _print_metrics(found: ExitMetrics) -> None:
    """Print what each exit is worth by itself, and what is known of its training."""
    exits = [
        {**one, "called": f"{one['exit']} {one.get('name', '')}".rstrip()} for one in found.exits
    ]
    facts = {"split": found.split, "gap_from": exits[0]["gap_from"]}
    facts["word"] = output.quality_word(exits[0]["accuracy"] is None)
    output.print_declared("metrics", exits, **facts)
    if names := list(exits[0]["recorded"]):  # many numbers of few exits
        each = {f"exit {r['called']}": lambda n, r=r: r["recorded"][n] for r in exits}
        output.print_table(names, {"": lambda n: n.replace("_", " "), **each}, title="as recorded")
    if told := found.training:
        facts = [f"{n} {number(v) if isinstance(v, float) else v}" for n, v in told.items()]
        output.say(f"training: {', '.join(facts)}")
    for text in found.notes:
        output.note(text)


def _print_policy(path: Path, level: str | None, style: output.Format) -> None:
    """Print what stands in a policy file, its checksum and contents checked; large values are cut."""
    policy = load_any(path)
    if isinstance(policy, ExpertPolicy):
        experts = dict(zip(policy.contexts, map(_facts, policy.policies), strict=True))
        content = {"certificate": _certificate(policy), "experts": experts}
        content["provenance"] = dict(policy.provenance)
    elif isinstance(policy, PolicyFamily) and level is None:
        content = {"levels": policy.levels, **_facts(policy.policies[0])}
        content["certificate"] = said = _certificate(policy)
        content["provenance"] = dict(policy.provenance)
        rows = _levels(policy)
        if not output.print_data(style, {**content, "each level": rows}, rows):
            columns = {**_LEVELS, **(_ROUTES if policy.routes else _RULE)}
            output.print_table(rows, columns, title=f"{policy.levels} levels [{policy.unit}]")
            output.say(*([f"certificate: {said}"] if said else []))
        return
    else:
        content = _facts(options.at_level(policy, level))
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in _flat(content).items()}
    rows = [
        {"field": name, "value": text} for name, text in texts.items()
        if not name.startswith("provenance.certificate.")  # in words already
    ]  # fmt: skip
    if not output.print_data(style, content, rows):
        plain = _flat(content)  # in which numbers are cut to four digits, and some are words
        output.print_table(
            rows, {"field": "field", "value": lambda r: _short(r["field"], plain[r["field"]])}
        )


_LEVELS = {
    "level": "level", "name": "name", "budget": "budget", "expected cost": "expected_cost",
    "expected accuracy %": output.shown("expected_accuracy", percent),
}  # fmt: skip
_RULE = {
    "score": "score", "answer": "answer", "thresholds": lambda r: list_text(r["thresholds"]),
}  # fmt: skip
_ROUTES = {"asked first": lambda r: " or ".join(r["asked first"])}


def _levels(family: PolicyFamily) -> list[dict[str, Any]]:
    """Return a record per level."""
    found = []
    for a, policy in enumerate(family.policies):
        right = policy.provenance.get("expected_quality")
        found.append({
            "level": a, "name": family.names[a] if family.names else None,
            "budget": None if family.budgets is None else float(family.budgets[a]),
            "expected_cost": None if family.expected_costs is None else float(family.expected_costs[a]),
            "expected_accuracy": right if isinstance(right, float) else None,
            **({"asked first": policy.asked_first} if family.routes else {
                "score": policy.rule.name, "answer": policy.answer.name,
                "exits run": list(policy.active_exits), "thresholds": policy.thresholds.tolist(),
            }),
        })  # fmt: skip
    return found


def _cut(text: str, most: int = _SHOWN) -> str:
    head = text[: most - 4]
    return text if len(text) <= most else f"{head.rpartition(' ')[0] or head} ..."


def _short(name: str, value: Any) -> str:
    if name.endswith("thresholds") and isinstance(value, list):
        return list_text(value)
    own = " (the policy's own arithmetic, contained in the costs)" * name.endswith("overhead")
    return value if name in ("certificate", "scale") and value else _cut(output.text(value)) + own


def _facts(policy: Any) -> dict[str, Any]:
    if isinstance(policy, RoutingPolicy):
        return {
            "kind": policy.kind, "classes": policy.classes, "models": policy.model_exits,
            "models that may be asked": [policy.called(m) for m in policy.active_exits],
            "unit": policy.unit, "costs of a call": policy.costs.tolist(),
            "asked first": policy.asked_first, "looks at what calls cost": policy.needs_costs,
            "standings": sum(len(arm.standings) for arm in policy.arms),
            "certificate": _certificate(policy), "provenance": dict(policy.provenance),
        }  # fmt: skip
    mixture, calibrator = policy.mixture, policy.calibrator
    return {
        "kind": policy.kind, "classes": policy.classes, "model exits": policy.model_exits,
        "exits run": list(policy.active_exits), "unit": policy.unit, "costs": policy.costs.tolist(),
        "overhead": policy.overhead.tolist(), "score": policy.rule.name, "answer": policy.answer.name,
        "calibrator": None if calibrator is None else calibrator.name,
        "thresholds": policy.thresholds.tolist(), "scale": scale_text(policy),
        "share of the mixture": None if mixture is None else mixture.share,
        "certificate": _certificate(policy),
        "provenance": dict(policy.provenance),
    }  # fmt: skip


def _certificate(policy: Any) -> str | None:
    """Return what a policy's certificate says, in plain words; None where it never had one."""
    from policyopt.runtime._certificate import FIELD, certificate_of, in_words

    if FIELD not in policy.provenance:
        return None
    found = certificate_of(policy)
    return "void: the policy was changed since" if found is None else in_words(found)


def _flat(content: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Return fields in order, those of objects under dotted names."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        nested = isinstance(value, dict) and value
        found |= _flat(value, f"{above}{name}.") if nested else {f"{above}{name}": value}
    return found


def methods(
    method: str | None = argument(
        "A method or a family (online: those of simulate); without, all.", "name", None
    ),
    style: output.Format = options.STYLE,
) -> None:
    """List the methods; of one, also its settings and when to choose it."""
    from policyopt._methods.registry import ROWS, load_installed
    from policyopt._online.entrants import every

    load_installed()
    online = every()
    if method is None:
        table = style is output.Format.table  # without settings: importing their classes takes time
        records = [_record(row, settings=not table) for row in ROWS.values()]
        output.print_records(records, style, _COLUMNS)
        if table:
            output.print_table(online, _ONLINE)
            output.note(
                "`policyopt methods NAME` shows paper, needs, settings; --format csv has all of each; "
                "which to choose: docs/choosing_a_policy.md"
            )
        return
    found = [one for one in online if method in (one["method"], one["family"])]
    found += [_record(row) for row in ROWS.values() if method in (row.name, row.family)]
    if not found:
        raise _unknown(method, [one["method"] for one in online])
    if output.print_data(style, found, found):
        return
    for one in found:
        told = {k: _plain(v) for k, v in one.items() if k not in ("settings", "explained")}
        output.print_table(list(told.items()), {"": itemgetter(0), " ": itemgetter(1)})
        output.print_table(one["explained"], _SETTINGS)


def _unknown(name: str, online: list[str]) -> Exception:
    from policyopt._methods.registry import FAMILIES, ROWS

    known = [*ROWS, *FAMILIES, *online, "online"]
    hint = output.meant(name.partition(":")[0], known) + "`policyopt methods` lists them."
    families = f"a family ({', '.join(FAMILIES)}, online)"
    allowed = f"{families} or a method ({', '.join(ROWS)}; online: {', '.join(online)})"
    return input_error("NAME", allowed, name, hint)


def _record(row: MethodSpec, settings: bool = True) -> dict[str, Any]:
    return {
        "method": row.name, "family": row.family, "summary": row.summary, "paper": row.paper,
        "year": row.year or None, "reference": row.reference, "needs": list(row.needs),
        "supports": row.supports(), "wins": row.wins,
        **({"scale": row.scale(), "settings": row.settings(), "explained": row.explained()} if settings else {}),
    }  # fmt: skip


def _pairs(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key}={_value(value)}" for key, value in settings.items()) or "-"


def _value(value: Any) -> str:
    """Return a setting's value as the command line takes it."""
    return str(value).lower() if isinstance(value, (bool, type(None))) else str(value)


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return _pairs(value)
    return ", ".join(value) or "-" if isinstance(value, list) else str(value or "-")


_SETTINGS: output.Columns = {
    "setting (--set)": "setting", "default": lambda r: _value(r["default"]),
    "allowed": "allowed", "what it does": "what",
}  # fmt: skip
_COLUMNS: output.Columns = {
    "method": "method",
    "family": "family",
    "leaves where": "summary",
}
_ONLINE: output.Columns = {
    "online policy (policyopt simulate)": "method",
    "kind": "kind",
    "what it does": "summary",
    "settings, as NAME:key=value+key=value": lambda r: _pairs(r["settings"]),
}
