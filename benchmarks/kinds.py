"""Does every kind of outputs go the whole way? Six kinds, made up and real, by the command line from file to export.

python benchmarks/kinds.py [--rows 2000] [--only KIND,...] [--out benchmarks/results/kinds.json]

Each case is a file with rows to fit on and rows to test on. All commands are those that a user types, each in a
process of its own: import, fit, curve, compare, explain; run on the outputs of the test rows alone, as files of several
sorts; export to all targets, verify. A cell holds a figure, or what the command said when it refused. Real files are
those of ``../shared/data``; where none is of a kind, it is made from the columns of one, as the table says.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from _common import machine, machine_line, synthetic, table, write
from safetensors.numpy import save_file
from scipy.special import logsumexp

_ROOT = Path(__file__).resolve().parent.parent
_SHARED = _ROOT.parent / "shared" / "data"
COMMANDS = ("import", "fit", "curve", "compare", "explain", "run", "export", "verify")
METHODS = "max_prob,optimal_stopping"
#: Words of messages that tell a user where a kind does not go, and is not meant to.
BY_DESIGN = ("be one of logits alone",)
BUDGET = "70%"
EXITS, ANIMALS, CAT = 4, (2, 3, 4, 5, 6, 7), 3
#: Code, standard output and standard error of a command line.
Call = Callable[[Sequence[str], Path], tuple[int, str, str]]


@dataclass(frozen=True)
class Case:
    """A file of one kind: arrays of all exits first, (K, N, ...), and how it is imported."""

    kind: str
    source: str
    outputs: dict[str, Any]  # by key: all that new rows have
    truth: dict[str, Any]  # labels (N, ...), quality (K, N)
    fit: Any  # rows to fit on; the others test
    test: Any
    costs: dict[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ("--unit", "ms", "--cost-kind", "cumulative")


def generated(rows: int) -> Iterator[Case]:
    """Yield a made-up file of each kind, `rows` to fit on and as many to test."""
    rng, n = np.random.default_rng(0), 2 * rows
    halves: dict[str, Any] = {"fit": np.arange(rows), "test": np.arange(rows, n)}
    halves["costs"] = {"costs": 2.0 ** np.arange(EXITS)}
    gain = np.array([0.6, 1.2, 2.0, 2.6])[:, None, None]
    logits, labels = synthetic(n, EXITS, 10)
    logits = logits.swapaxes(0, 1)
    tags = (rng.random((n, 5)) < 0.3).astype(np.int64)
    says = rng.normal(size=(EXITS, n, 5)) + gain * (2 * tags - 1)
    true, hard = rng.normal(40, 12, n), rng.gamma(2.0, 0.5, n)
    guess = true + rng.normal(size=(EXITS, n)) * hard * (8 / gain[:, :, 0])
    sure = np.clip(rng.beta(3, 2, n) + rng.normal(0, 0.1, (EXITS, n)), 0.01, 0.99)
    marks = np.round(np.clip(sure + 0.1 * gain[:, :, 0] + rng.normal(0, 0.2, (EXITS, n)), 0, 1) * 4)
    tell = ("--unit", "ms", "--cost-kind", "cumulative")
    single = says[:, :, 0].astype(np.float32)
    made = "generated"
    yield Case("binary, one logit", made, {"logits": single}, {"labels": tags[:, 0]},
               told=(*tell, "--kind", "logit"), **halves)  # fmt: skip
    yield Case("multi-class", made, {"logits": logits}, {"labels": labels}, **halves)
    yield Case("multi-label", made, {"logits": says.astype(np.float32)}, {"labels": tags},
               told=(*tell, "--kind", "multilabel", "--quality-of", "jaccard"), **halves)  # fmt: skip
    yield Case("regression", made, {"values": guess}, {"labels": true},
               told=(*tell, "--kind", "regression", "--error-scale", "5"), **halves)  # fmt: skip
    yield Case("graded, from summaries", made, {"conf": sure}, {"quality": marks / 4}, **halves)
    worth = 0.5 * (logits.argmax(axis=2) == labels) + 0.5 * (
        np.abs(logits.argmax(axis=2) - labels) < 3
    )
    yield Case("graded, with logits", made, {"logits": logits}, {"quality": worth}, **halves)


def real() -> Iterator[Case]:
    """Yield the real files that are there, of the kinds that they have or that can be made of their columns."""
    cascade = _load("cifar10_cascade5")
    if cascade:
        logits, labels = cascade["logits"], cascade["labels"].astype(np.int64)
        halves: dict[str, Any] = _halved(labels.size)
        halves["costs"] = {"costs": cascade["costs"]}
        halves["told"] = ("--unit", "MFLOPs", "--cost-kind", "standalone")
        wide, others = logits.astype(np.float64), np.arange(10) != CAT
        one = wide[:, :, CAT] - logsumexp(wide[:, :, others], axis=2)
        binary = {**halves, "told": (*halves["told"], "--kind", "logit")}
        yield Case("binary, one logit",
                   "cifar10_cascade5: class 3 against the rest, its logit less the log-sum-exp of theirs",
                   {"logits": one.astype(np.float32)}, {"labels": (labels == CAT).astype(np.int64)},
                   **binary)  # fmt: skip
        yield Case(
            "multi-class", "cifar10_cascade5", {"logits": logits}, {"labels": labels}, **halves
        )
    parts = [_load(f"mmlu_llama5_{part}") for part in ("train", "test")]
    if all(parts):
        both = {key: np.concatenate([part[key] for part in parts], axis=1)
                for key in ("conf_logprob", "correct", "pred", "cost_usd")}  # fmt: skip
        count = len(parts[0]["labels"])
        quality = 0.5 * both["correct"] + 0.5 * (
            (both["pred"] == both["pred"][-1]) & (both["pred"] >= 0)
        )
        yield Case(
            "graded, from summaries",
            "mmlu_llama5: half for the right answer, half for that of the largest model",
            {"conf_logprob": both["conf_logprob"]}, {"quality": quality}, np.arange(count),
            np.arange(count, quality.shape[1]), {"cost_usd": both["cost_usd"]}, ("--cost-kind", "standalone"),
        )  # fmt: skip
    two = _load("resnet8_2exit_cifar10")
    if two:
        labels, said = two["labels"].astype(np.int64), two["logits"].argmax(axis=2)
        alike = np.isin(said, ANIMALS) == np.isin(labels, ANIMALS)
        yield Case(
            "graded, with logits",
            "resnet8_2exit_cifar10: 1 for the class, 1/2 for an animal or a vehicle where it is one",
            {"logits": two["logits"]}, {"quality": 0.5 * alike + 0.5 * (said == labels)},
            costs={"costs": np.array([1.0, 2.0])}, told=("--unit", "units", "--cost-kind", "cumulative"),
            **_halved(labels.size),
        )  # fmt: skip


def _load(name: str) -> dict[str, Any]:
    path = _SHARED / f"{name}.npz"
    if not path.exists():
        print(f"{name}: skipped, {path} is not there", file=sys.stderr)
        return {}
    with np.load(path) as archive:
        return {key: archive[key] for key in archive.files}


def _halved(n: int) -> dict[str, Any]:
    order = np.random.default_rng(0).permutation(n)
    return {"fit": np.sort(order[: n // 2]), "test": np.sort(order[n // 2 :])}


def typed(words: Sequence[str], place: Path) -> tuple[int, str, str]:
    """Run a command line in a process of its own."""
    line = [sys.executable, "-m", "policyopt", *words]
    done = subprocess.run(line, capture_output=True, text=True, cwd=place)
    return done.returncode, done.stdout, done.stderr


def followed(
    case: Case, place: Path, call: Call = typed, method: str = "auto"
) -> dict[str, dict[str, Any]]:
    """Go the whole way with a case; return per command whether it was done, refused or broke, and a figure."""
    cells: dict[str, dict[str, Any]] = {}
    lacks: list[str] = []

    def done(command: str, *words: str) -> str | None:
        """Run a command that is part of a cell; return what it printed, None once the cell is lost."""
        if command in lacks:
            return None
        code, out, err = call([command, *words], place)
        if code == 0:
            return out
        lacks.append(command)
        cells[command] = _lost(code, err)
        return None

    _save(case, place)
    done("import", "a.npz", "--out", "cache", *case.told)
    if not lacks:
        cells["import"] = {"state": "ok", "figure": "ok"}
        paths = ("cache", "--format", "json")
        if out := done(
            "fit", *paths, "--budget", BUDGET, "--method", method, "--out", "policy.json"
        ):
            (told,) = json.loads(out)
            cells["fit"] = _ok(told["expected_cost"], told["expected_quality"], told["unit"])
        path = ("--methods", METHODS, "--budgets", "3")
        if out := done("curve", *paths, *path, "--out", "curve"):
            told = [r for r in json.loads(out) if r["method"] == "optimal_stopping"][1]
            cells["curve"] = _ok(told["realised_cost"], told["quality"], told["unit"])
        if out := done("compare", *paths, *path, "--out", "compare"):
            told = [r for r in json.loads(out) if r["method"] == "optimal_stopping"][1]
            gain, *ends = (100 * told[f"difference{end}"] for end in ("", "_low", "_high"))
            figure = "{:+.1f} [{:+.1f}, {:+.1f}]".format(gain, *ends)
            cells["compare"] = {"state": "ok", "figure": figure, "gain": gain}
        if done("explain", "policy.json", "cache", "--out", "explained"):
            told = json.loads((place / "explained" / "explain.json").read_text())
            cells["explain"] = _ok(told["realised_cost"], told["quality"], told["unit"])
        if done("evaluate", "policy.json", "cache", "--out", "rows.csv") is not None:
            _run(case, place, done, cells)
        if done("export", "policy.json", "--cache", "cache", "--out", "export") is not None:
            made = json.loads((place / "export" / "manifest.json").read_text())
            cells["export"] = {"state": "ok", "figure": ", ".join(made["targets"])}
            if out := done("verify", "export", "--format", "json"):
                ran = json.loads(out)
                there = [r["runtime"] for r in ran if not r["absent"]]
                absent = {r["runtime"]: r["absent"] for r in ran if r["absent"]}
                figure = f"{len(there)} runtimes equal"
                if absent:
                    figure += f", {len(absent)} " + (
                        "refused" if all(map(_meant, absent.values())) else "ABSENT"
                    )
                cells["verify"] = {"state": "ok", "figure": figure, "ran": there, "absent": absent}
    missing = {"state": "not reached", "figure": "not reached"}
    return {command: cells.get(command, missing) for command in COMMANDS}


def _ok(cost: float, quality: float, unit: str) -> dict[str, Any]:
    return {
        "state": "ok",
        "figure": f"{100 * quality:.1f} at {cost:.3g} {unit}",
        "cost": cost,
        "quality": quality,
    }


def _lost(code: int, err: str) -> dict[str, Any]:
    """Return the cell of a command that ended otherwise than with 0: refused with a message, or broken."""
    lines = [line for line in err.splitlines() if line and not line.startswith("note: ")]
    says = lines[0] if lines else f"exit code {code}"
    if code not in (2, 3) or "Traceback" in err or len(lines) != 1:
        return {"state": "broken", "figure": f"BROKEN: {lines[-1] if lines else code}"}
    how = "refused, by design" if _meant(says) else "REFUSED"
    return {"state": "refused", "by_design": _meant(says), "figure": f"{how}: {says}"}


def _meant(says: str) -> bool:
    return any(words in says for words in BY_DESIGN)


def _run(case: Case, place: Path, done: Callable[..., str | None], cells: dict[str, Any]) -> None:
    """Decide for the outputs of the test rows, from a file of each sort; they must leave where a replay says."""
    with (place / "rows.csv").open(newline="") as file:
        wanted = [row["exit"] for row in csv.DictReader(file)]
    new, sorts, differ, cost = {k: a[:, case.test] for k, a in case.outputs.items()}, [], 0, []
    for name in _new_files(new, place):
        out = done("run", "policy.json", name, "--format", "csv")
        if out is None:
            return
        rows = list(csv.DictReader(io.StringIO(out)))
        differ += sum(a != row["exit"] for a, row in zip(wanted, rows, strict=True))
        cost, sorts = [float(row["cost"]) for row in rows], [*sorts, name.rpartition(".")[2]]
    state = "broken" if differ else "ok"
    figure = f"{', '.join(sorts)}: {differ} of {len(wanted):,} differ"
    cells["run"] = {
        "state": state,
        "figure": figure,
        "differ": differ,
        "cost": float(np.mean(cost)),
    }


def _save(case: Case, place: Path) -> None:
    arrays = dict(case.costs) if "costs" in case.costs else {}
    for split, rows in (("val", case.fit), ("test", case.test)):
        arrays |= {f"{split}_{k}": a[:, rows] for k, a in case.outputs.items()}
        arrays |= {
            f"{split}_{k}": a[:, rows] if k == "quality" else a[rows] for k, a in case.truth.items()
        }
        if "costs" not in case.costs:
            arrays |= {f"{split}_{k}": a[:, rows] for k, a in case.costs.items()}
    np.savez(place / "a.npz", **arrays)


def _new_files(arrays: dict[str, Any], place: Path) -> Iterator[str]:
    """Write the outputs of new rows as files of the sorts that hold them; yield their names."""
    np.savez(place / "new.npz", **arrays)
    yield "new.npz"
    by_row = {key: array.swapaxes(0, 1) for key, array in arrays.items()}
    ((key, array),) = arrays.items()
    if key.startswith("conf"):
        wide = {f"{key}_{k}": array[k] for k in range(len(array))}
        frame = pandas.DataFrame(wide)
        frame.to_csv(place / "new.csv", index=False)
        frame.to_parquet(place / "new.parquet")
        yield from ("new.csv", "new.parquet")
    else:
        np.save(place / "new.npy", array)
        save_file({key: np.ascontiguousarray(array)}, place / "new.safetensors")
        yield from ("new.npy", "new.safetensors")
    if array.ndim == 3 or key != "logits":
        lines = (json.dumps({key: row.tolist()}) for row in by_row[key])
        (place / "new.jsonl").write_text("\n".join(lines) + "\n")
        yield "new.jsonl"


def main() -> None:
    """Go the whole way with every case and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=2000, help="generated rows to fit on")
    parser.add_argument("--only", default="", help="kinds, comma-separated (their first words)")
    parser.add_argument("--out", type=Path, default=_ROOT / "benchmarks/results/kinds.json")
    options = parser.parse_args()
    start, records = machine(), []
    for case in (*generated(options.rows), *real()):
        if options.only and not any(case.kind.startswith(k) for k in options.only.split(",")):
            continue
        with tempfile.TemporaryDirectory() as place:
            cells = followed(case, Path(place))
        size = {"fit": len(case.fit), "test": len(case.test)}
        records.append({"kind": case.kind, "source": case.source, "rows": size, "cells": cells})
        print(json.dumps({c: cell.get("figure") for c, cell in cells.items()}), file=sys.stderr)
    write(options.out, {"records": records, "machine": [start, machine()]}, text(records, start))


def text(records: list[dict[str, Any]], start: Any) -> str:
    """Return the table, and what was refused or absent."""
    states = [cell["state"] for r in records for cell in r["cells"].values()]
    rows, said = [], []
    for r in records:
        file = r["source"]
        if file != "generated":
            sizes = f"{r['rows']['fit']:,} rows to fit on, {r['rows']['test']:,} to test"
            said.append(f"- Real {len(said) + 1}: {file}; {sizes}.")
            file = f"real {len(said)}"
        rows.append([r["kind"], file, *(r["cells"][c]["figure"] for c in COMMANDS[1:])])
    absent = {
        f"- {name}: *{says}* ({'by design' if _meant(says) else 'not here'})"
        for r in records for name, says in r["cells"]["verify"].get("absent", {}).items()
    }  # fmt: skip
    head = (
        "# Kinds of outputs\n\nWritten by `python benchmarks/kinds.py`. Each kind from a file to every export, by "
        "the command line alone, a process per command; all were imported. Quality is in %: right answers, of sets "
        "Jaccard, of values exp(-error / scale), of grades the grade.\n\n"
        f"**{states.count('ok')} cells of {len(states)} done, {states.count('refused')} refused, "
        f"{len(states) - states.count('ok') - states.count('refused')} broken.**\n"
    )
    body = table("Kinds by command", ["kind", "file", *COMMANDS[1:]], rows)
    foot = (
        f"`fit`: `auto` at a budget of {BUDGET}, expected quality and cost. `curve`: `optimal_stopping` at the middle "
        "of three budgets, on the test rows. `compare`: the same less `max_prob` at equal cost, points [95 %]. "
        "`explain`: the fitted policy on the test rows. `run`: the outputs of the test rows alone, without labels or "
        "quality, from a file of each sort; how many leave at another exit than a replay says. `export`: the forms "
        "written; `verify`: the runtimes that chose the same exits and answers on all golden rows, and those that do "
        "not take the kind. Several labels and values: no real file is at hand.\n\n"
    )
    lists = "\n".join([*said, *sorted(absent)])
    return f"{head}\n{body}\n{foot}{lists}\n\n{machine_line(start, machine())}\n"


if __name__ == "__main__":
    main()
