"""``policyopt watch``: whether a promised risk still holds, by losses as labels or audits come in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._certificates.risks import KINDS, Risk, losses_of, rows_for, taken
from policyopt._cli import options, output
from policyopt._cli.options import argument, option
from policyopt._cli.output import number, percent
from policyopt._intervals import with_interval
from policyopt.runtime._certificate import certificate_of
from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import CheckError, input_error
from policyopt.runtime._experts import load_any
from policyopt.runtime._files import refusing, write_file
from policyopt.runtime._risk_monitor import RiskMonitor
from policyopt.runtime._text import same_answer

#: What a row must say for a loss of it, in the place of a column `loss`.
_NEEDS = {
    "error": ("prediction", "label"), "miss": ("prediction", "label"), "selective_error": ("prediction", "label"),
    "disagreement": ("prediction", "full_prediction"), "cost": ("cost",), "loss": (),
    "drop": ("prediction", "label", "full_prediction"), "harm": ("prediction", "label", "full_prediction"),
}  # fmt: skip
_MOST_STATE = 1 << 20
_POINTS = 200  # of the course on a page
_WHOLE = re.compile(r"(-?[0-9]+)(?:\.0*)?")


def watch(
    rows: Path = argument(
        "New rows (.csv, .jsonl): loss; or prediction, label, full_prediction; probability. Or a cache that grows.",
        "ROWS",
    ),
    state: Path = option(Path("monitor.json"), "What was seen so far; written anew."),
    policy: Path | None = option(None, "Policy file whose certificate is the promise."),
    risk: str | None = option(None, 'The promise, if not the certificate\'s first: "drop<=1%".'),
    confidence: str = option("95%", "That no alarm ever comes while the promise holds."),
    least: float = option(1.0, "Least probability with which a loss is seen."),
    cost_bound: float | None = option(None, "Most that a request may cost, of a risk of cost."),
    split: str = option("recent", "Of a cache: the stream whose rows are watched, all exits run."),
    since: str | None = options.SINCE,
    report: Path | None = options.REPORT,
    style: output.Format = options.STYLE,
) -> None:
    """Watch a promised risk by new rows; exit code 4 at an alarm.

    An empty cell is a label that has not come, or an answer that was not audited: such a row is left out. Each row is
    to be given once; of a cache, only what was appended since the last time is read.
    """
    options.out_page(report)
    options.out_file(state, "--state")
    promise, bound = _promise(policy, risk, cost_bound)
    shares = promise.name != "cost"
    monitor, seen = _monitor(state, promise, confidence, least, bound)
    if promise.per:
        step = "Watch each by itself, with a --state of its own."
        raise input_error("--risk", "of all rows, or miss[CLASS]", promise.text, step)
    if not rows.is_dir() and not options.address_of(rows):
        found = list(_records(rows))
        if promise.of:
            found = [row for row in found if _said(row.get("label")) in ("", promise.of)]
        losses, probability = _losses(promise.name, found, rows)
    else:
        losses, seen = _appended(rows, split, since, seen, promise, policy, cost_bound)
        probability = np.ones(len(losses))
    course = []
    for part in np.array_split(np.arange(len(losses)), min(_POINTS, max(len(losses), 1))):
        monitor.update(losses[part], probability[part])
        low, high = monitor.risk
        course.append(
            {"losses": monitor.losses, "e": monitor.e_value}
            | with_interval("mean", (low + high) / 2, low, high)
        )
    alarm = monitor.alarm
    write_file(state, json.dumps({**monitor.state(), **({"shards": seen} if seen else {})}))
    options.write_page(report, "watched", monitor, promise.text, course)
    low, high = monitor.risk
    record = {
        "risk": promise.text, "losses": monitor.losses, "e_value": monitor.e_value, "risk_low": low, "risk_high": high,
        "alarm_after": None if alarm is None else alarm.losses, "state": str(state),
    }  # fmt: skip
    columns: output.Columns = {
        "risk": "risk", "losses": "losses",
        f"mean{' %' * shares} [at all times]": lambda r: " to ".join(map(percent if shares else number, (low, high))),
        "e-value": lambda r: f"{r['e_value']:.3g}", "alarm at": lambda r: f"{1 / (1 - monitor.confidence):.3g}",
        "alarm after": "alarm_after",
    }  # fmt: skip
    output.print_records([record], style, columns)
    if alarm is not None:
        again = output.command(
            "refit", "CACHE", "--recent", "RECENT", "--policy", policy or "policy.json", "--certify", promise.text
        )  # fmt: skip
        raise CheckError(f"{promise.text}: {alarm}. Gather recent rows, import them, and: {again}")


def _promise(
    policy: Path | None, risk: str | None, bound: float | None
) -> tuple[Any, float | None]:
    """Return the risk that is watched, and the most that a request may cost."""
    if policy is None:
        if risk is None:
            raise input_error("--risk", "given without --policy", "none", 'E.g. --risk "drop<=1%".')
        return Risk.parse(risk), bound
    found = load_any(policy)
    stated = certificate_of(found)
    if stated is None and risk is None:
        step = "Certify it (`policyopt certify`), or state --risk."
        raise input_error("--policy", "with a certificate that is of it", str(policy), step)
    claims = [] if stated is None else stated["claim"].split(" and ")
    promise = Risk.parse(risk or claims[0])
    if risk is None and claims[1:]:
        others = " and ".join(claims[1:])
        output.note(f"watches {claims[0]} alone; {others}: by --risk, with another --state")
    if stated is not None and stated["unit"] == "groups":
        output.note(
            "the promise is of groups: name them in a column group, all rows of one in one file; rows of a group that "
            "share their luck, given one by one, raise false alarms"
        )
    policies: Any = getattr(found, "policies", (found,))
    costs = np.concatenate([one.costs for one in policies])
    bound = stated["cost_bound"] if stated is not None and bound is None else bound
    if promise.share and stated is not None and stated["cost_bound"] is not None:
        step = "State it: --risk 'cost<=2.5'. What 100 % is of such rows nobody knows."
        raise input_error("--risk", "in the unit, of costs per row", promise.text, step)
    if promise.share:
        full = float(costs.max()) if stated is None else stated["full_cost"]
        promise = replace(promise, most=promise.most * full, share=False)
    if bound is None:  # the dearest exit, and whoever answers instead
        more = [one.abstention.cost if one.abstention else 0.0 for one in policies]
        bound = float(costs.max()) + max(more)
    return promise, bound


def _monitor(
    state: Path, promise: Any, confidence: str, least: float, bound: float | None
) -> tuple[RiskMonitor, list[str]]:
    """Return the monitor of a state file, or a new one, and the shards of a cache that it has seen."""
    from policyopt._bounds import delta_of

    kind = KINDS[promise.name]
    high = kind.high
    if promise.name == "cost":
        if bound is None or promise.share:
            step = "E.g. --policy policy.json, or --risk 'cost<=2.5' --cost-bound 10."
            raise input_error("--cost-bound", "given with a risk of cost, in its unit", None, step)
        high = bound
    wanted = RiskMonitor(
        promise.most, low=kind.low, high=high, confidence=1 - delta_of(confidence), least=least
    )
    if not state.exists():
        return wanted, []
    with refusing(state):
        if state.stat().st_size > _MOST_STATE:
            raise input_error("--state", f"of at most {_MOST_STATE:,} bytes", state, "Start anew.")
        text = state.read_bytes()
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise input_error("--state", "JSON", str(error), "Start anew with another file.") from None
    seen = content.pop("shards", []) if isinstance(content, dict) else []
    if not isinstance(seen, list) or not all(isinstance(name, str) for name in seen):
        raise input_error("shards of the state", "names", seen, "Start anew with another file.")
    found = RiskMonitor.restore(content)
    for name in ("most", "low", "high", "confidence", "least"):
        mine, there = getattr(wanted, name), getattr(found, name)
        if abs(mine - there) > 1e-12 * max(abs(mine), 1.0):
            step = "Give the same promise, or another --state."
            asked = f"{mine:g}, as is asked for"
            raise input_error(f"{name} of {state}", asked, f"{there:g}", step)
    return found, seen


def _appended(
    cache: Path, split: str, since: str | None, seen: Sequence[str], risk: Any, policy: Path | None,
    bound: float | None,
) -> tuple[np.ndarray[Any, Any], list[str]]:  # fmt: skip
    """Return the losses of a policy on the rows that a cache has got since, and of what the state is: shards seen."""
    from policyopt._api import cost_for, utility_for
    from policyopt._cache.manifest import window
    from policyopt._cache.places import place_of
    from policyopt._cache.reader import open_cache, read_manifest
    from policyopt._table import Tables

    if policy is None or risk.name == "selective_error":
        step = "Give --policy, which is replayed; or rows with losses."
        raise input_error("ROWS", "a .csv or .jsonl file, of this risk", cache, step)
    found, place = load_any(policy), place_of(cache)
    of = f"{sha256(policy.read_bytes()).hexdigest()[:16]} on {split} of {place}"
    shards = read_manifest(place).shards
    names = dict.fromkeys(shard.split for shard in shards)
    check_one_of("--split", split, names, "Name the stream.")
    if seen and seen[0] != of:
        step = "Give another --state; --since leaves out what is older than the policy."
        raise input_error("--state", f"of this policy and cache: {of}", seen[0], step)
    there = [shard.file for shard in shards]
    new = {s.file for s in window(shards, since) if s.split == split} - {*seen}
    losses = np.empty(0)
    if new:
        data = open_cache(cache, only=new)
        tables = Tables(data, cost_for(found, data), utility=utility_for(found, data)[0])
        table = rows_for(risk, tables.get(split))
        if KINDS[risk.name].labels and not table.valued.any():
            output.note(f"{len(table):,} new rows have no label: left out, also from now on")
        else:
            losses = losses_of(risk, [taken(found, table)], table, bound)[0].values[0]
    return losses, [of, *there]


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Return the rows of a .csv or .jsonl file."""
    if path.suffix not in (".csv", ".jsonl"):
        raise input_error("ROWS", "a .csv or .jsonl file", path, "Columns in the first line.")
    if not path.is_file():
        step = "Name what new rows were written to."
        raise input_error("ROWS", "a file", f"{path} (missing)", step)
    at = 0
    with refusing(path), path.open(encoding="utf-8-sig", newline="") as file:
        try:
            for row in _csv(file) if path.suffix == ".csv" else map(_json, file):
                at += 1
                if row is not None:
                    yield row
        except (ValueError, RecursionError, csv.Error) as error:
            step = "Save it anew in UTF-8, a cell for every column."
            allowed = "cells of CSV" if path.suffix == ".csv" else "JSON, an object per line"
            raise input_error(f"row {at} of {path}", allowed, str(error), step) from None


def _csv(file: Iterable[str]) -> Iterator[dict[str, Any]]:
    rows = csv.DictReader(file, strict=True)
    names = rows.fieldnames or ()
    if len(set(names)) < len(names):
        raise ValueError(f"columns {', '.join(names)}: one is there twice")
    for row in rows:
        if None in row or None in row.values():
            raise ValueError(f"another number of cells than the {len(names)} columns")
        yield row


def _json(line: str) -> dict[str, Any] | None:
    row = json.loads(line) if line.strip() else {}
    if not isinstance(row, dict):
        raise ValueError(f"no object with fields, but {type(row).__name__}")
    return row or None


def _losses(
    risk: str, rows: Sequence[dict[str, Any]], path: Path
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return losses, NaN where not seen, and the probabilities with which they were to be, (N,) each."""
    names = {name for row in rows for name in row}
    needs = ("loss",) if "loss" in names else _NEEDS.get(risk, ()) or ("loss",)
    lacking = [name for name in needs if name not in names]
    if lacking:
        step = f"Or a column loss. Found: {', '.join(sorted(map(str, names))) or 'nothing'}."
        raise input_error(f"columns of {path}", ", ".join(needs), f"no {lacking[0]}", step)
    said = {n: np.array([_said(row.get(n)) for row in rows], dtype=object) for n in needs}
    seen = np.all([cells != "" for cells in said.values()], axis=0)
    out = np.full(len(rows), np.nan)
    if needs in (("loss",), ("cost",)):
        places = np.flatnonzero(seen).tolist()
        out[seen] = [_number(said[needs[0]][i], needs[0], i, path) for i in places]
    else:
        numbers = {
            name: {_WHOLE.fullmatch(text) is not None for text in values[seen]}
            for name, values in said.items()
        }
        if {True} in numbers.values() and {False} in numbers.values():
            got = ", ".join(f"{name} {said[name][seen][0]}" for name in needs)
            step = "Write one class the same in all columns."
            raise input_error(f"columns of {path}", "numbers in all, or names", got, step)
        # As `import` does: an answer that means the same as a label is spelled like it.
        known = set(said["label"][seen]) if "label" in said else set[str]()
        alike = {same_answer(label): label for label in sorted(known)}
        for name in {"prediction", "full_prediction"} & said.keys():
            means = {text: same_answer(text) for text in set(said[name])}
            spelled = {t: t if t in known else alike.get(m, m) for t, m in means.items()}
            said[name] = np.array([spelled[text] for text in said[name]], dtype=object)
        answer, full = said["prediction"], said.get("full_prediction")
        if risk == "disagreement":
            out[seen] = (answer != full)[seen]
        else:
            wrong = (answer != said["label"]).astype(float)
            if full is not None:
                wrong = wrong - (full != said["label"])
            out[seen] = np.maximum(wrong, 0.0)[seen] if risk == "harm" else wrong[seen]
    chance = np.ones(len(rows))
    if "probability" in names:
        for i, row in enumerate(rows):
            if (text := _said(row.get("probability"))) != "":
                chance[i] = _number(text, "probability", i, path)
    if "group" in names:  # one draw each, its mean loss, in the order in which they begin
        if (chance < 1).any():
            step = "Audit whole groups, and give each group's mean loss."
            raise input_error(f"columns of {path}", "group without probability", "both", step)
        import pandas as pd

        groups = [_said(row.get("group")) for row in rows]
        out = pd.Series(out).groupby(groups, sort=False).mean().to_numpy()
        chance = np.ones(len(out))
    return out, chance


def _said(value: Any) -> str:
    """Return a cell as a text: "" where there is none, whole numbers without a point."""
    text = "" if value is None else str(int(value) if isinstance(value, bool) else value).strip()
    whole = _WHOLE.fullmatch(text)  # a column with gaps may be one of floats
    return "" if text.lower() == "nan" else whole[1] if whole else text


def _number(text: str, name: str, row: int, path: Path) -> float:
    try:
        return float(text)
    except ValueError:
        step = "Leave the cell empty where it is not known."
        raise input_error(f"{name} of row {row} of {path}", "a number", text, step) from None
