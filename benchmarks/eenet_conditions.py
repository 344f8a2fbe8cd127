"""When EENet gains: against its paper's baselines and ours, on text, while one condition is moved.

python benchmarks/eenet_conditions.py [--networks joint=DIR,late=DIR] [--divisions N]

Networks: the one that ships, `overfit` (cache/wordnet), and those that `python -m examples.wordnet --recipe NAME
--out DIR` makes: `joint`, and `late`, on which conditions are moved. Their held-out rows are a pool: per division 5,000
drawn anew fit, the others test. Each line of results/eenet_conditions.jsonl is one division of one condition; those
that are there are not measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from _caches import ROOT
from _common import table
from _gains import against, over_seeds

from policyopt._cache.arrays import from_arrays
from policyopt._cache.data import ExitData
from policyopt._cache.reader import open_cache
from policyopt._frontier import curve, path_of
from policyopt._report.figures import COLOURS, MARKERS, add_legend, new_figure, save_figure, tidy
from policyopt._table import Tables
from policyopt.runtime._files import write_file

Logits = npt.NDArray[np.float32]
OUT = ROOT / "benchmarks" / "results" / "eenet_conditions.jsonl"
FIT_ROWS = 5_000
#: Of the full model's cost; exits cost 25, 50, 75 and 100 % of it. The paper's for AgNews are 40, 54 and 67 %.
BUDGETS = "30%,40%,50.1%,62.5%"
#: The paper's settings for text, at a learning rate that converges and with a hundredth of its weight decay; one start,
#: one training for all budgets.
_TEXT = "eenet:hidden=2+alpha=0.01+training=warm+restarts=1"
EENET = f"{_TEXT}+beta=0.0001+weight_decay=0.0001"
#: The paper's baselines as there: MSDNet, BranchyNet and PABEE with geometric quotas that spend the budget.
PAPER = ("max_prob:spend=all", "entropy:spend=all", "vote:thresholds=geometric+spend=all")
#: Held against it everywhere: the same quotas where a budget is a limit (later exits may be left out), joint
#: thresholds, a confidence that is calibrated per exit or by class, and exits by no score at all.
OURS = ("max_prob", "max_prob:thresholds=joint", "max_prob:answer=temperature", "cbt", "always")
#: Where nothing is moved, also these.
MORE = ("margin", "max_prob:thresholds=shared", "patience", "optimal_stopping:answer=plain")
#: On one network: the budget spent as in the paper, its weight decay, a plan of more weight, and none.
VARIANTS = {
    f"{EENET}+spend=all": "the budget is spent, as in the paper",
    f"{_TEXT}+beta=0.0001+weight_decay=0.01": "weight decay 0.01, as in the paper",
    f"{_TEXT}+beta=1+weight_decay=0.0001": "beta 1: the plan weighs more",
    f"{EENET}+distribution=geometric": "its scores, geometric shares",
}


def scaled_early(logits: Logits, strength: float) -> Logits:
    """Early exits surer, or less sure, all alike: answers stay."""
    logits[:, :-1] *= strength
    return logits


def scaled_by_class(logits: Logits, strength: float) -> Logits:
    """Early exits surer where they answer an even class, less sure where an odd one: answers stay."""
    even = logits[:, :-1].argmax(axis=2) % 2 == 0
    logits[:, :-1] *= np.where(even, strength, 1 / strength)[..., None].astype(np.float32)
    return logits


def noisy(exit_: int) -> Callable[[Logits, float], Logits]:
    """Return what makes an exit worse, by noise in units of its logits' standard deviation."""

    def distort(logits: Logits, strength: float) -> Logits:
        noise = np.random.default_rng(0).standard_normal(logits[:, exit_].shape, dtype=np.float32)
        logits[:, exit_] += np.float32(strength) * logits[:, exit_].std() * noise
        return logits

    return distort


#: What is moved: how, by how much, and on which networks.
KNOBS: dict[str, tuple[Callable[[Logits, float], Logits], tuple[float, ...]]] = {
    "early logits by class, times or through": (scaled_by_class, (4, 2)),
    "early logits times": (scaled_early, (4,)),
    "noise on the first exit": (noisy(0), (1,)),
    "noise on the last exit": (noisy(-1), (1,)),
}
PLAIN, VARIED, MOVED = "as trained", "variants", "late"
KEY = ("network", "knob", "by", "division")


def pool(path: Path) -> tuple[Logits, npt.NDArray[np.integer], Any]:
    """Return logits (N, K, C) and labels of all rows that were held out, and the cost."""
    data = open_cache(path)
    splits = [data.splits[name] for name in ("fit", "test")]
    logits = np.concatenate([np.asarray(rows.array("outputs"), np.float32) for rows in splits])
    return (
        logits,
        np.concatenate([np.asarray(rows.array("labels")) for rows in splits]),
        data.cost(),
    )


def measure(data: ExitData, knob: str, division: int) -> dict[str, Any]:
    """Return EENet against each rival, what was there to gain from, and where samples left."""
    tables = Tables(data)
    test = tables.get("test")
    variants = list(VARIANTS) if knob == VARIED else []
    rivals = [] if variants else [*PAPER, *OURS, *(MORE if knob == PLAIN else ())]
    methods = [*(variants or [EENET]), *(rivals or PAPER[:1])]
    frontier = curve(data, methods, BUDGETS, tables=tables)
    paths = {name: path_of(frontier, name, 0, test) for name in methods}
    accuracy = test.quality.mean(axis=0)
    sure = np.exp(test.log_prob().max(axis=2)).mean(axis=0)
    return {
        "accuracy": accuracy.tolist(),
        "overconfidence": (sure - accuracy).tolist(),
        "against": {name: against(paths[EENET], paths[name], division) for name in rivals},
        "variants": {name: against(paths[name], paths[PAPER[0]], division) for name in variants},
        "records": [
            {key: r[key] for key in ("method", "budget", "realised_cost", "accuracy", "exit_share")}
            for r in frontier.records
        ],
    }


def conditions(networks: list[str], divisions: int) -> list[tuple[str, str, float, int]]:
    """Return what is to be measured: network, what is moved on it, by how much, and the division."""
    moved = [(knob, by) for knob, (_, strengths) in KNOBS.items() for by in strengths]
    each = [(network, PLAIN, 0.0) for network in networks]
    each += [(MOVED, *one) for one in [*moved, (VARIED, 0.0)] if MOVED in networks]
    return [(*one, division) for division in range(divisions) for one in each]


def main() -> None:
    """Measure what is not there yet, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--networks", default="", help="more of them: name=DIR, comma-separated")
    parser.add_argument("--divisions", type=int, default=3, help="0: write the tables anew")
    options = parser.parse_args()
    found = [json.loads(line) for line in OUT.read_text().splitlines()] if OUT.exists() else []
    done = {tuple(row[name] for name in KEY) for row in found}
    given = [word.split("=", 1) for word in options.networks.split(",") if word]
    networks = {"overfit": ROOT / "cache" / "wordnet", **{name: Path(p) for name, p in given}}
    for key in conditions([*networks], options.divisions):
        network, knob, by, division = key
        if key in done:
            continue
        if not (networks[network] / "manifest.json").exists():
            print(f"{network}: skipped, {networks[network]} is not there", file=sys.stderr)
            continue
        print(*key, file=sys.stderr, flush=True)
        logits, labels, cost = pool(networks[network])
        moved = KNOBS[knob][0](logits, by) if knob in KNOBS else logits
        share = FIT_ROWS / len(labels)
        data = from_arrays(
            moved, labels, cost.values, unit=cost.unit,
            split={"fit": share, "test": 1 - share}, seed=division,
        )  # fmt: skip
        row = dict(zip(KEY, key, strict=True)) | measure(data, knob, division)
        found.append(row)
        with OUT.open("a") as file:
            file.write(json.dumps(row) + "\n")
    write_file(OUT.with_suffix(".md"), text_of(found))
    draw(found, ROOT / "docs" / "eenet.png")


def text_of(found: list[dict[str, Any]]) -> str:
    """Return the tables."""
    groups: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in found:
        groups.setdefault((row["network"], row["knob"], row["by"]), []).append(row)
    plain = {network: rows for (network, knob, _), rows in groups.items() if knob == PLAIN}
    exits = [f"exit {k}" for k in range(len(found[0]["accuracy"]))]
    budgets = [f"{budget}" for budget in BUDGETS.split(",")]
    header = ["against", *budgets, "mean", "95 %", "sd over divisions", "divisions"]

    def mean(rows: list[dict[str, Any]], key: str) -> list[str]:
        return [f"{100 * v:.1f}" for v in np.mean([row[key] for row in rows], axis=0)]

    parts = [
        "# When EENet gains\n",
        f"`python benchmarks/eenet_conditions.py`. EENet: `{EENET}`. Points of accuracy at equal realised cost; in",
        "brackets and after ± the 95 % bootstrap interval over test rows, mean of the divisions.\n",
        table("Accuracy per exit [%]", ["network", *exits], [(n, *mean(r, "accuracy")) for n, r in plain.items()]),
        table("Mean confidence less accuracy [points]", ["network", *exits],
              [(n, *mean(r, "overconfidence")) for n, r in plain.items()]),
    ]  # fmt: skip
    for network, rows in plain.items():
        lines = [_line(name, [row["against"][name] for row in rows]) for name in rows[0]["against"]]
        parts.append(table(f"EENet over others, `{network}` as trained", header, lines))
        if network == MOVED:
            lines = [("as here", *_line("", [row["against"][PAPER[0]] for row in rows])[1:])]
            varied = [row["variants"] for row in groups.get((network, VARIED, 0.0), [])]
            lines += [_line(told, [v[n] for v in varied]) for n, told in VARIANTS.items() if varied]
            parts.append(
                table(
                    f"EENets over `{PAPER[0]}`, `{network}`",
                    ["EENet", *header[1:]],
                    lines,
                )
            )
        parts.append(_shares(network, rows, budgets))
    shown = (*PAPER, *OURS)
    lines = []
    for (network, knob, by), rows in groups.items():
        if network == MOVED and knob != VARIED:
            accuracy = " ".join(mean(rows, "accuracy"))
            cells = [_short([row["against"][name] for row in rows]) for name in shown]
            lines.append((f"{knob} {by:g}" if by else knob, accuracy, *cells))
    title = f"EENet over others, mean of the budgets, one condition moved on `{MOVED}`"
    parts.append(table(title, ["condition", "accuracy per exit", *shown], lines))
    return "\n".join(parts)


def draw(found: list[dict[str, Any]], path: Path) -> None:
    """Draw the mean gain over three rivals under each condition, with its interval."""
    rivals = {
        PAPER[0]: "max_prob, the budget spent", OURS[0]: "max_prob, the budget a limit",
        OURS[1]: "max_prob, joint thresholds",
    }  # fmt: skip
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in found:
        if row["knob"] != VARIED:
            moved = row["knob"].replace(", times or through", ", times/through")
            by = "" if moved.startswith("noise") else f" {row['by']:g}"
            name = row["network"] if row["knob"] == PLAIN else f"{MOVED}, {moved}{by}"
            rows.setdefault(name, []).append(row)
    figure = new_figure(7.0, 4.6)
    axes = figure.add_subplot()
    for i, (rival, told) in enumerate(rivals.items()):
        gains = [over_seeds([row["against"][rival] for row in each]) for each in rows.values()]
        middle = np.array([100 * f["average"] for f in gains])
        ends = [[100 * f[end] for f in gains] for end in ("average_low", "average_high")]
        off = np.abs(np.array(ends) - middle)
        at = np.arange(len(rows)) + 0.24 * (i - 1)
        look = {"fmt": MARKERS[i], "color": COLOURS[i], "markersize": 4.5, "capsize": 2}
        axes.errorbar(middle, at, xerr=off, label=f"over {told}", **look)
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlabel("EENet's gain, points at equal realised cost (95 %)")
    tidy(axes, grid="x")
    add_legend(figure)
    save_figure(figure, path, dpi=130)


def _line(name: str, each: list[dict[str, Any]]) -> tuple[object, ...]:
    """Return a row: gains per budget, on average, and how far they are known."""
    f = over_seeds(each)
    return (
        name,
        *(f"{100 * v:+.2f}" for v in f["difference"]),
        f"{100 * f['average']:+.2f}",
        f"[{100 * f['average_low']:+.2f}, {100 * f['average_high']:+.2f}]",
        f"{100 * f['sd_over_seeds']:.2f}" if len(each) > 1 else "-",
        len(each),
    )


def _short(each: list[dict[str, Any]]) -> str:
    """Return the mean gain, bold where the interval is clear of 0."""
    f = over_seeds(each)
    half = 50 * (f["average_high"] - f["average_low"])
    text = f"{100 * f['average']:+.2f}"
    clear = f["average_low"] > 0 or f["average_high"] < 0
    return f"{f'**{text}**' if clear else text} ± {half:.2f}"


def _shares(network: str, rows: list[dict[str, Any]], budgets: list[str]) -> str:
    """Return where samples leave, in percent, per budget."""
    lines = []
    for name in (EENET, PAPER[0], "max_prob", "max_prob:thresholds=joint"):
        each = [[r["exit_share"] for r in row["records"] if r["method"] == name] for row in rows]
        cells = [" ".join(f"{100 * v:.0f}" for v in one) for one in np.mean(each, axis=0)]
        lines.append((name.partition(":")[0] if name == EENET else name, *cells))
    return table(f"Who leaves where [%], `{network}`", ["method", *budgets], lines)


if __name__ == "__main__":
    main()
