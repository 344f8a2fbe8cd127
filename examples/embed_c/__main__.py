"""``python -m examples.embed_c``: fit, export to C, compile, run, and compare with numpy."""

from __future__ import annotations

import argparse
import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np

import policyopt as po
from policyopt._export.c_compiler import compiler
from policyopt._export.c_header import c_source
from policyopt._export.symbolic import trace_policy
from policyopt.runtime._errors import input_error
from policyopt.runtime._files import write_file

SERVE = Path(__file__).with_name("serve.c")


def main() -> None:
    """Write the header and the rows, and run the program on them."""
    parser = argparse.ArgumentParser(prog="python -m examples.embed_c", description=__doc__)
    parser.add_argument("cache", nargs="?", default="cache/fashion_mnist", type=Path)
    parser.add_argument("--method", default="optimal_stopping")
    parser.add_argument("--budget", default="40%")
    parser.add_argument("--rows", type=int, default=10_000, help="at most, of the test split")
    parser.add_argument("--out", default="build/embed_c", type=Path)
    options = parser.parse_args()
    try:
        play(options)
    except po.PolicyOptError as error:
        sys.exit(f"error: {error}")


def play(options: argparse.Namespace) -> None:
    """From the cache to decisions in C."""
    data = po.open_cache(options.cache)
    if data.kind != "logits":
        raise input_error("cache", "one of logits", data.kind, "serve.c reads logits.")
    policy = po.fit(data, options.budget, options.method).policy
    key, places = data.rows("test")
    logits = np.asarray(data.splits[key].array("outputs")[places[: options.rows]], dtype="<f4")
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    header = c_source(policy, trace_policy(policy))
    write_file(out / "policyopt_policy.h", header)
    write_file(out / "logits.f32", logits.tobytes())
    print(next(line.strip() for line in header.splitlines() if "Bytes:" in line))
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror"]
    command = [*compiler(), *strict, f"-I{out}", str(SERVE), "-o", str(out / "serve"), "-lm"]
    print(" ".join(command))
    subprocess.run(command, check=True)
    done = subprocess.run(
        [out / "serve", out / "logits.f32"], capture_output=True, text=True, check=True
    )
    print(done.stderr.strip())
    found = list(csv.DictReader(io.StringIO(done.stdout)))
    decided = policy.decide(logits)
    exits, classes = (np.array([int(row[name]) for row in found]) for name in ("exit", "class"))
    differ = int(((exits != decided.exit) | (classes != decided.prediction)).sum())
    print(f"{len(found)} rows; {differ} decided otherwise than by policyopt.runtime")
    if differ or len(found) != len(logits):
        sys.exit(4)


if __name__ == "__main__":
    main()
