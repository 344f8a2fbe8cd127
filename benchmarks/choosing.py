"""Write docs/choosing_a_policy.md from the registry and from what benchmarks/catalogue.py measured.

python benchmarks/choosing.py

A test holds the page against what this would write, so it cannot go stale.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from _caches import ROOT
from _common import seconds

from policyopt._methods.registry import METHODS, ROWS, MethodSpec
from policyopt.runtime._files import write_file

PAGE = ROOT / "docs" / "choosing_a_policy.md"
MEASURED = ROOT / "benchmarks" / "results" / "catalogue.json"
_TITLES = {
    "confidence": "Confidence: what the present exit says",
    "consistency": "Consistency: whether the exits so far agree",
    "distance": "Distances: how near a sample lies to what each class looks like",
    "class_aware": "Class-aware and accuracy-controlled thresholds",
    "learned": "Learned: what an exit's answer is worth",
    "halting": "Halting: evidence that adds up",
    "reinforcement": "Reinforcement learning: the exit problem as a Markov decision process",
    "cascade": "Cascades: models that are each paid for",
    "choice": "Choice among methods",
    "null": "Null baselines",
}


class UnsupportedMethod(NamedTuple):
    """Methods that the package does not have: what they need that no cache keeps, or where their idea is found."""

    names: str
    paper: str
    why: str


UNSUPPORTED = (
    UnsupportedMethod("SkipNet, BlockDrop", "Wang et al., ECCV 2018; Wu et al., CVPR 2018",
              "choose blocks inside the backbone, whose outputs for every choice no cache can hold"),
    UnsupportedMethod("HydraNet, soft gates", "Mullapudi et al., CVPR 2018; Scardapane et al., ICASSP 2020",
              "gates are trained with the branches and change what the network computes"),
    UnsupportedMethod("JEI-DNN", "Chataoui et al., ICLR 2024, arXiv:2310.09163",
              "gates and heads are trained jointly; its gate alone is `berxit` with another loss"),
    UnsupportedMethod("EENets (confidence branch)", "Demir and Akbas, arXiv:2409.05336",
              "the confidence branch reads feature maps and is trained with the backbone"),
    UnsupportedMethod("DynExit, DeeDiff, Zero Time Waste's cascading connections",
              "Wang et al., SiPS 2019; Tang et al., 2023; Wolczyk et al., NeurIPS 2021",
              "change training or the heads; their exit rules are `max_prob` and `entropy`, and ZTW's "
              "ensemble is `answer=ztw`"),
    UnsupportedMethod("Spatially adaptive computation time", "Figurnov et al., CVPR 2017",
              "halts per position inside a feature map; the halting score per sample is `act`"),
    UnsupportedMethod("Depth-adaptive Transformer, CALM", "Elbayad et al., ICLR 2020; Schuster et al., NeurIPS 2022",
              "decide per generated token, and a token that leaves early changes the states of all later ones"),
    UnsupportedMethod("RANet, DVABatch, temporal exits for video", "Yang et al., CVPR 2020; Sabet et al., 2021",
              "change the input's resolution, or compare with the frame before; within one pass they are `max_prob`"),
    UnsupportedMethod("GPF (global past-future)", "Liao et al., EMNLP 2021",
              "imitates the hidden states of layers not yet run; what outputs allow of it is the soft target of "
              "`optimal_stopping`"),
    UnsupportedMethod("Edgent, EdgeML, SPINN, DDNN",
              "Li et al., 2020; Zhao et al., 2021; Laskaridis et al., MobiCom 2020",
              "choose where to cut a model between device and cloud by measured links: a matter of deployment")
)  # fmt: skip
_INTRO = """# Choosing a policy

This page is written by `python benchmarks/choosing.py` from the registry (`policyopt methods --format json`)
and from the measurements of `benchmarks/catalogue.py`; a test keeps it up to date.

- **Start with `auto`**, the default: it tries several methods on held-out rows, shrinks what they gain by what noise
  can explain, and takes the best; the simpler one where there is nothing to choose. Where models are paid one by one it
  tries single models and lists of them, and takes `routing` unless these are better.
- **Compare on your own cache**: `policyopt curve CACHE --methods all --seeds 5 --out DIR`, then
  `policyopt compare CACHE --methods a,b`. What wins on five caches need not win on yours.
- **In a cascade of models that are paid for one by one**, look at `routing`, `subset` and `always` first: which models
  to ask, and in what order, can matter more than when to stop.
- All methods stand in the same frame: thresholds are set on rows that did not train the score (`act` and `cbt`
  say why they do otherwise), so that the budget is the mean cost really paid; and any score may use other
  answers (`--set answer=combined`), which often gains more than another score.

In the tables, *needs* is what the cache must hold besides predictions and confidences (`labels`: to fit, never to
decide); *summaries* says whether it works where full logits were not kept; *online* whether one number orders
its policies from cheap to dear, so that a controller can move it while serving.
"""


def main() -> None:
    """Write the page."""
    write_file(PAGE, page())


def page() -> str:
    """Return the page's text."""
    found = json.loads(MEASURED.read_text())
    parts = [_INTRO, _measured(found)]
    ours = dict.fromkeys(row.family for row in METHODS)
    parts += [_family(family) for family in ours]
    parts.append(_elsewhere())
    return "\n".join(parts)


def _family(family: str) -> str:
    rows = [row for row in ROWS.values() if row.family == family]
    lines = [
        f"## {_TITLES[family]}\n",
        "| method | leaves where | choose it | needs | summaries | online | source |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(row) for row in rows),
        "",
    ]
    return "\n".join(lines)


def _row(row: MethodSpec) -> str:
    supports = {name: "yes" if value else "no" for name, value in row.supports().items()}
    source = row.paper + (f" ({row.year})" if row.year else "")
    source += f", {row.reference}" if row.reference != "-" else ""
    cells = [
        f"`{row.name}`", row.summary, row.wins, ", ".join(row.needs) or "-",
        supports["summaries"], supports["online"], source,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _measured(found: Mapping[str, Any]) -> str:
    caches = found["caches"]
    lines = [
        "## Measured\n",
        "![Gain of every method over max_prob, per cache](catalogue.png)\n",
        "Points of accuracy over `max_prob` with [geometric quotas](glossary.md), mean of nine budgets, each at its "
        f"own realised cost, {found['seeds']} seeds. In bold where the 95 % interval over test rows (half its width "
        "follows) is clear of 0; `-`: the cache does not hold what the method needs. `always` and `frugalgpt` may "
        "leave a part of the budget unspent: they are compared at what they cost. "
        "[Budget by budget, with times](../benchmarks/results/catalogue.md).\n",
        "| method | " + " | ".join(caches) + " | fit, nine budgets (slowest cache) |",
        "| --- | " + "---: | " * (len(caches) + 1),
    ]
    for method in found["methods"]:
        gains = [_gain(caches[cache].get(method)) for cache in caches]
        times = [one["fit_s"] for cache in caches if "fit_s" in (one := caches[cache][method])]
        lines.append(f"| `{method}` | {' | '.join(gains)} | {seconds(max(times, default=0.0))} |")
    used = [f"`{spec}`" for name, spec in found["methods"].items() if spec != name]
    if used:
        lines.append(
            f"\nMeasured with settings of their own (networks train less, heads are trained): {', '.join(used)}."
        )
    lines.append("\nWhere `eenet` does gain, and why not here: [When EENet gains](eenet.md).")
    return "\n".join(lines) + "\n"


def _gain(one: Mapping[str, Any] | None) -> str:
    if one is None or "lacks" in one:
        return "-"
    if "average" not in one:
        return f"{one['budgets_met']} of 9 budgets"
    low, high, mean = (100 * one[k] for k in ("average_low", "average_high", "average"))
    text = f"{mean:+.2f}"
    text = f"**{text}**" if low > 0 or high < 0 else text
    return f"{text} ± {(high - low) / 2:.2f}"


def _elsewhere() -> str:
    lines = [
        "## What is not here, and why\n",
        "Policies of the surveys that cached outputs cannot stand for:\n",
        *(f"- **{one.names}** ({one.paper}): {one.why}." for one in UNSUPPORTED),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
