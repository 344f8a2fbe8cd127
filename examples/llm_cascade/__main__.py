"""``python -m examples.llm_cascade``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import policyopt as po
from policyopt._intervals import bootstrap_means, interval
from policyopt._replay import Replay
from policyopt._table import Tables

from .records import read, stand_in
from .serve import Models, ask

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def main() -> None:
    """Fit by price, hold against each model alone, write the artifact, and serve with it."""
    parser = argparse.ArgumentParser(prog="python -m examples.llm_cascade", description=__doc__)
    parser.add_argument("--train", type=Path, default=_SHARED / "mmlu_llama5_train.npz")
    parser.add_argument("--test", type=Path, default=_SHARED / "mmlu_llama5_test.npz")
    parser.add_argument("--stand-in", action="store_true", help="use generated records")
    parser.add_argument("--budget", default="30%", help="of asking every model in turn")
    parser.add_argument("--methods", default="max_prob,subset,frugalgpt,auto:routes=false")
    parser.add_argument("--out", type=Path, default=Path("llm_cascade.json"))
    options = parser.parse_args()
    try:
        play(options)
    except po.PolicyOptError as error:
        sys.exit(f"error: {error}")


def play(options: argparse.Namespace) -> None:
    """Fit, compare, save, serve."""
    there = options.train.is_file() and options.test.is_file() and not options.stand_in
    with tempfile.TemporaryDirectory() as place:
        data = read(options.train, options.test, Path(place) / "cache") if there else stand_in()
        print(f"records: {'of ' + options.test.name if there else 'a generated stand-in'}")
        tables = Tables(data)
        test = tables.get("test")
        alone = [po.fit(data, method="always", exit=k).policy for k in range(data.exits)]
        singles = [po.evaluate(policy, data) for policy in alone]
        print(f"{'':>32}   USD per 1,000  accuracy [95 %]        models asked per question")
        for k, outcome in enumerate(singles):
            say(f"model {k} alone", outcome, 1.0)
        print()
        chosen: Any = None
        for name in options.methods.split(","):
            fitted = po.fit(data, options.budget, method=name, tables=tables)
            outcome = po.evaluate(fitted.policy, data)
            asked = np.searchsorted(fitted.policy.active_exits, outcome.exit) + 1
            say(f"{name} at {options.budget}", outcome, float(asked.mean()))
            # Chosen on the rows of the fit, never on those shown here.
            if chosen is None or fitted.quality > chosen.quality:
                chosen = fitted
        _saved(po.evaluate(chosen.policy, data), singles)
        chosen.save(options.out)
        print(
            f"wrote {options.out} ({chosen.method}, asks models {list(chosen.policy.active_exits)} in turn)"
        )
        _serve(po.load_policy(options.out), data, test)


def say(label: str, outcome: Replay, asked: float) -> None:
    """Print one line of the table."""
    low, high = spread(outcome.quality)
    cost = 1000 * outcome.cost.mean()
    accuracy = f"{100 * outcome.quality.mean():.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    print(f"{label:>32}   {cost:13.4f}  {accuracy:20}  {asked:.2f}")


def spread(column: np.ndarray) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a mean."""
    low, high = interval(bootstrap_means(column[:, None], np.random.default_rng(0)))
    return float(low[0]), float(high[0])


def _saved(outcome: Replay, singles: list[Replay]) -> None:
    """Say what the policy saves against mixing single models to the same accuracy."""
    points = sorted((s.cost.mean(), s.quality.mean()) for s in singles)
    reached = outcome.quality.mean()
    price = min(
        (
            c0 + (c1 - c0) * (reached - a0) / (a1 - a0)
            for c0, a0 in points
            for c1, a1 in points
            if a0 < reached <= a1 and c1 > c0
        ),
        default=np.nan,
    )
    own = outcome.cost.mean()
    best = max(singles, key=lambda s: s.quality.mean())
    low, high = spread(outcome.quality - best.quality)
    print(
        f"\nagainst the best single model: {100 * (1 - own / best.cost.mean()):.0f} % cheaper at "
        f"{100 * (reached - best.quality.mean()):+.2f} [{100 * low:+.2f}, {100 * high:+.2f}] points"
    )
    if np.isfinite(price):
        print(
            f"at equal accuracy, a coin between two single models costs {1000 * price:.4f} USD per "
            f"1,000 questions, the policy {1000 * own:.4f}: {100 * (1 - own / price):+.0f} % saved"
        )


def _serve(policy: po.Policy, data: po.ExitData, test: Any) -> None:
    """Ask the models one question at a time, and check the bill against the replay."""
    models = Models(data, "test")
    replayed = po.evaluate(policy, data)
    answers = np.array([ask(policy, models, question) for question in range(len(test))])
    if not np.array_equal(answers, replayed.prediction):
        sys.exit("error: the loop did not answer as the replay did")
    calls = models.calls.sum()
    print(
        f"served {len(test):,} questions with {calls:,} calls, {models.spent:.4f} USD "
        f"(replay: {replayed.cost.sum():.4f}); all models each time: {models.every:.4f} USD"
    )


if __name__ == "__main__":
    main()
