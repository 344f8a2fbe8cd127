"""What one decision costs per exit, for every score, in process time: numpy runtime, C.

python benchmarks/step.py [--classes 10,100,1000] [--out benchmarks/results/step.json]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _c_steps import c_microseconds
from _common import machine, machine_line, synthetic, table, write

import policyopt as po
from policyopt._methods.registry import make_method
from policyopt._table import Tables
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._outputs import with_columns
from policyopt.runtime._policy import Observer, Policy
from policyopt.runtime._scores import RULES, MaxProb

EXITS = 5
TARGET = 60.0  # us per exit of max_prob at C = 100
_ROWS = 400  # to fit on
_SAMPLES = 10  # stepped through per round
_FEATURES = 16  # numbers of a feature vector
#: A method whose policy has the score; short training, for the time does not depend on its weights.
_METHODS = {
    "advantage": "optimal_stopping:answer=plain", "advantage of combined answers": "optimal_stopping",
   
    "agreement": "agreement_cascade", "beem": "beem", "class_offset": "cbt", "constant": "always",
    "dda": "dda", "de3_bert": "de3_bert", "e2cm": "e2cm", "eenet": "eenet:max_epochs=2+restarts=1",
    "eenet_released": "eenet_released:max_epochs=2+restarts=1", "entropy": "entropy", "halting": "act:answer=plain",
    "logistic": "failure_prediction", "margin": "margin", "max_prob": "max_prob",
    "network": "dqn:steps=20+hidden=8+answer=plain", "patience": "patience", "random": "random", "similarity": "leco",
    "trust_score": "trust_score", "vote": "vote", "window": "hidec",
}  # fmt: skip
_HERE = Path(__file__).resolve().parent


def main() -> None:
    """Time all scores at all widths and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=_HERE / "results" / "step.json")
    parser.add_argument("--classes", default="10,100,1000", metavar="C,C,...")
    parser.add_argument("--rounds", type=int, default=60, help="the fastest one counts")
    options = parser.parse_args()
    widths = [int(part) for part in options.classes.split(",")]
    start = machine()
    found = {str(classes): _at(classes, options.rounds) for classes in widths}
    end = machine()
    results = {"machine": start, "load_average_at_end": end["load_average"], "us": found}
    names = sorted({name for times in found.values() for name in times}, key=_order(found))
    header = ("per exit, K = 5", *(f"C = {classes:,}: step" for classes in widths),
              *(f"{classes:,}: score alone" for classes in widths),
              *(f"{classes:,}: C" for classes in widths))  # fmt: skip
    rows = [
        (name, *(_cell(found[str(c)], name, "step_us") for c in widths),
         *(_cell(found[str(c)], name, "score_us") for c in widths),
         *(_cell(found[str(c)], name, "c_us", 2) for c in widths))
        for name in names
    ]  # fmt: skip
    title = "One decision (logits in float32), us of process time"
    note = (
        f"Target: max_prob at C = 100 under {TARGET:g} us. *Score alone*: the score rule on columns "
        "that are there already. *C*: the exported header, gcc -O2.\n"
    )
    write(
        options.out,
        results,
        "\n".join([table(title, header, rows), note, machine_line(start, end), ""]),
    )


def _at(classes: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the microseconds per exit of every score at one number of classes."""
    logits, labels = synthetic(_ROWS, EXITS, classes)
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=(_ROWS, _FEATURES)).astype(np.float32) for _ in range(EXITS)]
    costs = np.arange(1.0, EXITS + 1)
    data = po.from_arrays(
        splits={"fit": {"outputs": logits, "labels": labels, "features": vectors}},
        costs=costs,
        unit="ms",
    )
    fit = Tables(data).get("fit")
    samples, points = logits[:_SAMPLES], [v[:_SAMPLES] for v in vectors]
    runs: dict[str, tuple[Callable[[], None] | None, ...]] = {
        "plain numpy: softmax and argmax": (lambda: _plain(samples), None)
    }
    policies: dict[str, Policy] = {}
    for name, spec in _METHODS.items():
        (result,) = make_method(spec).fit_path(fit, [3.0])
        policies[name] = policy = result.policy
        assert policy.exits == EXITS
        assert name.startswith(policy.rule.name), (name, policy.rule.name)
        given = points if policy.needs_features else [[None] * _SAMPLES] * EXITS
        runs[name] = (
            lambda p=policy, g=given: _steps(p, samples, g),
            _scores(policy, samples, points),
        )
    assert {name.partition(" ")[0] for name in _METHODS} == set(RULES)
    thresholds = np.full(EXITS - 1, 0.8)
    for kind in ("probabilities", "summary"):
        policy = Policy(MaxProb(), thresholds, costs, "ms", kind, classes)
        runs[f"max_prob of {kind}"] = (_others(policy, samples), None)
    best = _fastest(runs, rounds)
    for name, policy in policies.items():
        spent = c_microseconds(policy, samples, points if policy.needs_features else None, rounds)
        if spent is not None:
            best[name]["c_us"] = spent
    return best


def _fastest(runs: Mapping[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    """Time all in turn, so that a busy moment meets them all."""
    best: dict[str, dict[str, float]] = {name: {} for name in runs}
    for _ in range(rounds):
        for name, pair in runs.items():
            for key, run in zip(("step_us", "score_us"), pair, strict=True):
                if run is None:
                    continue
                begin = time.process_time()
                run()
                spent = 1e6 * (time.process_time() - begin) / (_SAMPLES * EXITS)
                best[name][key] = min(spent, best[name].get(key, np.inf))
    return best


def _plain(samples: np.ndarray) -> None:
    for sample in samples:
        for z in sample:
            e = np.exp(z - z.max())
            p = e / e.sum()
            p.argmax()


def _steps(policy: Policy, samples: Any, vectors: Any) -> None:
    for row, sample in enumerate(samples):
        state = policy.start(row)
        for k in policy.active_exits:
            policy.step(k, sample[k], state, vectors[k][row])


def _others(policy: Policy, samples: np.ndarray) -> Callable[[], None]:
    """Step through probabilities, or records, of the same samples."""
    e = np.exp(samples - samples.max(axis=2, keepdims=True))
    given: Any = e / e.sum(axis=2, keepdims=True)
    if policy.kind == "summary":
        given = [
            [{"prediction": int(p.argmax()), "confidence": float(p.max())} for p in row]
            for row in given
        ]
    none = [[None] * _SAMPLES] * EXITS
    return lambda: _steps(policy, given, none)


def _scores(policy: Policy, samples: np.ndarray, vectors: Any) -> Callable[[], None]:
    """Only the rule's own part, on outputs that are reduced already."""
    classes = samples.shape[2]
    observer = Observer(policy.answer, KINDS["logits"], classes, full=True)
    seen = []
    for row, sample in enumerate(samples):
        state, outputs = policy.answer.start(1, classes), []
        for at, k in enumerate(policy.active_exits):
            output, _, state = observer.look(at, sample[k][None], state, 1)
            outputs.append(with_columns(output, features=vectors[k][row : row + 1]))
        seen.append(outputs)

    def run() -> None:
        for row, outputs in enumerate(seen):
            state = policy.rule.start(np.array([row]))
            for at, output in enumerate(outputs):
                _, state = policy.rule.score(at, output, state)

    return run


def _order(found: Mapping[str, Any]) -> Callable[[str], tuple[bool, float]]:
    times = next(iter(found.values()))
    return lambda name: (not name.startswith("plain"), times[name]["step_us"])


def _cell(times: Mapping[str, Any], name: str, key: str, digits: int = 1) -> str:
    return f"{times[name][key]:.{digits}f}" if key in times[name] else ""


if __name__ == "__main__":
    main()
