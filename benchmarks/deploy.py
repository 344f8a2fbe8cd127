"""The same decision everywhere: every method's policy on all test rows, by every runtime.

python benchmarks/deploy.py [--only NAME,...]
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _caches import caches
from _common import machine, machine_line, table, write

import policyopt as po
from policyopt._cli.export import runners
from policyopt._export.bundle import write_bundle
from policyopt._export.c_native import ASK, native
from policyopt._export.golden import Golden, Ran, expect, given_output, joined
from policyopt._export.rounding import scaled_error
from policyopt._export.samples import from_cache
from policyopt._export.symbolic import trace_policy
from policyopt._export.verify import RUNNERS, run_torch
from policyopt._methods.registry import ROWS
from policyopt._table import Tables
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._policy import Policy
from policyopt.serving._server import caught_up

OUT = Path(__file__).parent / "results" / "deploy.json"
CACHES = ["fashion_mnist", "cifar10_cascade5"]
BUDGET = "40%"
RUNTIMES: dict[str, Callable[[Policy, Golden, Path], Ran | str]] = {
    "numpy step": lambda policy, golden, folder: stepped(policy, golden),
    "machine code": lambda policy, golden, folder: in_machine_code(policy, golden),
    "torch": lambda policy, golden, folder: run_torch(policy, golden),
    "torch server": lambda policy, golden, folder: served(policy, golden),
    "python": lambda policy, golden, folder: RUNNERS["python"](folder, golden),
    "onnx": lambda policy, golden, folder: RUNNERS["onnx"](folder, golden),
    "c": lambda policy, golden, folder: RUNNERS["c"](folder, golden),
}


def main() -> None:
    """Export every method's policy, and run all runtimes on all test rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="methods, comma-separated")
    only = [name for name in parser.parse_args().only.split(",") if name]
    start, rows = machine(), []
    with tempfile.TemporaryDirectory() as place:
        for name, data in caches(Path(place), CACHES):
            tables = Tables(data)
            for method in only or ROWS:
                rows.append({"cache": name, "method": method, **_compared(data, tables, method)})
                print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    write(OUT, {"budget": BUDGET, "rows": rows, "machine": [start, machine()]}, text(rows, start))


def _compared(data: Any, tables: Tables, method: str) -> dict[str, Any]:
    """Return, per runtime, how many exits and answers differ, and how far scores are off."""
    try:
        policy = po.fit(data, BUDGET, method, tables=tables).policy
    except (InputError, BudgetError) as error:
        return {"refused": str(error)}
    graphs = trace_policy(policy)
    parts = from_cache(policy, graphs, data, "test", 8192)
    golden = functools.reduce(joined, [expect(policy, *part) for part in parts])
    batch = policy.decide([_of(policy, golden.inputs, k) for k in range(policy.model_exits)])
    path = np.asarray(policy.active_exits)
    found: dict[str, Any] = {
        "rows": len(golden),
        "numpy batch": {"exits": int((path[golden.expected.exit] != batch.exit).sum())},
    }
    with tempfile.TemporaryDirectory() as folder:
        write_bundle(policy, Path(folder) / "out", ["python", "onnx", "c"], golden, graphs)
        for runtime, run in RUNTIMES.items():
            began = time.perf_counter()
            ran = run(policy, golden, Path(folder) / "out")
            if isinstance(ran, str):
                found[runtime] = {"absent": ran}
                continue
            rows, taken = np.arange(len(golden)), golden.expected.exit
            reached = np.arange(policy.exits) <= taken[:, None]
            error = np.where(reached, scaled_error(ran.score, golden.expected.score), 0.0)
            found[runtime] = {
                "exits": int((ran.exit != taken).sum()),
                "answers": int(
                    (ran.prediction[rows, taken] != golden.expected.prediction[rows, taken]).sum()
                ),
                "ulps": float(error.max()), "seconds": round(time.perf_counter() - began, 2),
            }  # fmt: skip
    return found


def stepped(policy: Policy, golden: Golden) -> Ran:
    """One sample after the other, each until it leaves; exits beyond are as expected."""
    out = _copy(golden.expected)
    for row, number in enumerate(golden.sample):
        state = policy.start(int(number))
        for at, k in enumerate(policy.active_exits):
            given = {name: array[row] for name, array in golden.inputs[at].items()}
            seen = policy.step(k, given_output(policy, given), state, given.get("features"))
            out.put(row, at, seen)
            if seen.exit:
                break
    return out


def in_machine_code(policy: Policy, golden: Golden) -> Ran | str:
    """The same as `serve(native=True)` decides; scores are not looked at."""
    try:
        made = native(policy)
    except InputError as error:
        return str(error)
    out = _copy(golden.expected)
    outputs = [np.ascontiguousarray(given["logits"], np.float32) for given in golden.inputs]
    for row, number in enumerate(golden.sample.tolist()):
        state, slow = ctypes.create_string_buffer(made.size), None
        for at, k in enumerate(policy.active_exits):
            logits = outputs[at][row : row + 1]
            said = ASK if slow else made.step(state, number, at, logits.ctypes.data)
            if said == ASK:
                slow = slow or caught_up(policy, number, made.seen(state, at))
                seen = policy.step(k, logits[0], slow)
                said = 2 * int(seen.prediction) + int(seen.exit)
            out.prediction[row, at], out.leave[row, at] = said >> 1, said & 1
            if said & 1:
                break
    return out


def served(policy: Policy, golden: Golden) -> Ran | str:
    """`policyopt.serving`: one batch, survivors regrouped after every exit; scores are not looked at."""
    taken = runners()["torch server, one batch"](policy, golden)
    if isinstance(taken, str):
        return taken
    out, rows = _copy(golden.expected), np.arange(len(golden))
    at = np.searchsorted(policy.active_exits, taken.exit)
    out.leave[:] = np.arange(policy.exits) >= at[:, None]
    out.prediction[rows, at] = taken.prediction
    return out


def _copy(ran: Ran) -> Ran:
    return Ran(**{name: array.copy() for name, array in vars(ran).items()})


def _of(policy: Policy, inputs: list[Any], k: int) -> Any:
    return inputs[policy.active_exits.index(k)][policy.kind] if k in policy.active_exits else None


def text(rows: list[dict[str, Any]], start: Any) -> str:
    """Return the table."""
    shown, names = [], ["numpy batch", *RUNTIMES]
    for row in rows:
        if "refused" in row:
            shown.append([row["cache"], row["method"], *["not fitted"] * len(names), ""])
            continue
        cells = [
            str(row[n]["exits"] + row[n].get("answers", 0)) if "exits" in row[n] else "absent"
            for n in names
        ]
        worst = max(row[n].get("ulps", 0.0) for n in ("onnx", "c"))
        shown.append([row["cache"], row["method"], *cells, f"{worst:.2g}"])
    ran = [row for row in rows if "refused" not in row]
    total = sum(row[n].get("exits", 0) + row[n].get("answers", 0) for row in ran for n in names)
    checked = sum(row["rows"] * sum("exits" in row[n] for n in names) for row in ran)
    head = (
        "# Deployment\n\nWritten by `python benchmarks/deploy.py`. Each method fitted at a budget of "
        f"{BUDGET}; exits and answers on *all* test rows that differ from `policyopt.runtime`. Scores: largest "
        "difference of ONNX and C at exits that were reached, in units of float32 rounding of the larger of "
        f"score and 1.\n\n**{total} differences in {checked:,} decisions.**\n"
    )
    refused = "".join(
        f"- `{row['method']}` on {row['cache']}: {row['refused']}\n"
        for row in rows
        if "refused" in row
    )
    body = table(
        "Exits and answers that differ", ["cache", "method", *names, "scores off by"], shown
    )
    return f"{head}\n{body}\n{refused}\n{machine_line(start, machine())}\n"


if __name__ == "__main__":
    main()
