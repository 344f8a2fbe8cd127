"""``python -m examples.training_strategies.page OUT``: write the tables of the README from caches.

OUT is a directory that the example wrote, or ``cache/training_strategies``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import log_softmax
from scipy.stats import f_oneway

import policyopt as po
from policyopt.runtime._files import write_file

from .findings import FINDINGS, HYBRIDS, PLAIN, Answer, Finding, Floats
from .model import BACKBONES
from .ship import found

README = Path(__file__).with_name("README.md")


@dataclass(frozen=True)
class Network:
    """What one cache says of a trained network; the first four per exit, (K,)."""

    accuracy: Floats
    loss: Floats
    gap: Floats
    best_epoch: Floats
    seconds: float
    memory: float
    epochs: float
    rows: int


Study = dict[tuple[str, str], list[Network]]
"""Networks by backbone and strategy, seed by seed."""


def read(place: Path) -> Network:
    """Read a cache's unseen rows, the official test set's, and what its training took."""
    data = po.open_cache(place)
    rows = data.splits["pool" if data.pooled else "test"]
    logits, labels = rows.array("outputs").astype(float), rows.array("labels")
    right = logits.argmax(axis=2) == labels[:, None]
    true = np.take_along_axis(log_softmax(logits, axis=2), labels[:, None, None], axis=2)
    accuracy, told = 100 * right.mean(axis=0), data.metadata["per_exit"]
    training = data.metadata["training"]
    return Network(
        accuracy,
        -true[..., 0].mean(axis=0),
        100 * np.array(told["train_accuracy"]) - accuracy,
        np.array(told["best_epoch"]),
        training["processor_seconds"],
        training["peak_memory_bytes"] / 2**20,
        training["epochs"],
        len(labels),
    )


def read_all(out: Path) -> Study:
    """Read all finished caches, and keep of each backbone the seeds that all its strategies have."""
    places = {tuple(place.parts[-3:]): place for place in found(out)}
    study: Study = {}
    for backbone in BACKBONES:
        mine = {key for key in places if key[0] == backbone}
        strategies = [s for s in ("backbone", *PLAIN, *HYBRIDS) if any(k[1] == s for k in mine)]
        seeds = sorted({k[2] for k in mine}, key=int)
        whole = [seed for seed in seeds if all((backbone, s, seed) in mine for s in strategies)]
        for strategy in strategies:
            study[backbone, strategy] = [read(places[backbone, strategy, s]) for s in whole]
    return study


def values(study: Study, backbone: str, strategy: str, measure: str) -> Floats:
    """Return a measure of a strategy's networks, seeds first."""
    return np.array([getattr(network, measure) for network in study[backbone, strategy]])


def table(head: Iterable[str], rows: Iterable[Iterable[str]], words: int = 2) -> list[str]:
    """Return a Markdown table, the first columns of words, the others of numbers."""
    head = list(head)
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return ["| " + " | ".join(line) + " |" for line in (head, rule, *rows)]


def _spread(numbers: Floats, digits: int = 1) -> str:
    spread = numbers.std(ddof=1) if len(numbers) > 1 else 0.0
    return f"{numbers.mean():.{digits}f} ± {spread:.{digits}f}"


def accuracies(study: Study) -> list[str]:
    """Return test accuracy per exit, and how much more the training rows have."""
    rows = []
    for backbone, strategy in study:
        accuracy, gap = (values(study, backbone, strategy, m) for m in ("accuracy", "gap"))
        blank = [""] * (4 - accuracy.shape[1])
        cells = [*blank, *(_spread(column) for column in accuracy.T)]
        gaps = [*blank, *(f"{column.mean():.1f}" for column in gap.T)]
        rows.append([backbone, strategy, *cells, *gaps])
    head = [
        "backbone",
        "strategy",
        *(f"exit {k}" for k in range(1, 5)),
        *(f"gap {k}" for k in range(1, 5)),
    ]
    return table(head, rows)


def training(study: Study) -> list[str]:
    """Return what training took."""
    rows = []
    for backbone, strategy in study:
        cells = [
            _spread(values(study, backbone, strategy, m), 0)
            for m in ("seconds", "epochs", "memory")
        ]
        rows.append([backbone, strategy, *cells])
    return table(["backbone", "strategy", "processor seconds", "epochs", "peak memory [MiB]"], rows)


def check(study: Study, finding: Finding) -> dict[str, Answer]:
    """Return a finding's answers, backbone by backbone."""
    backbones = dict.fromkeys(backbone for backbone, _ in study)
    return {b: finding.check(lambda s, m, b=b: values(study, b, s, m)) for b in backbones}


def verdict(answers: Iterable[Answer]) -> str:
    """Return whether a finding holds on all backbones, on some, or on none."""
    signs = [answer.margin > 0 for answer in answers]
    return (
        "holds"
        if all(signs)
        else f"holds on {sum(signs)} of {len(signs)}"
        if any(signs)
        else "does not hold"
    )


def findings(study: Study) -> list[str]:
    """Return the table of findings: margins per backbone, and whether they hold."""
    rows = []
    for finding in FINDINGS:
        answers = check(study, finding)
        cells = []
        for answer in answers.values():
            number = f"{answer.margin:+.2f}"
            if finding.unit == "log2":
                number = f"x {2**answer.margin:.2f}"
            cells.append(f"{number} (p {answer.p:.2g}; {answer.told})")
        rows.append([finding.claim, finding.where, verdict(answers.values()), *cells])
    backbones = list(dict.fromkeys(backbone for backbone, _ in study))
    return table(["finding", "section", "here", *backbones], rows, words=3)


def analysis(study: Study) -> list[str]:
    """Return one-way analyses of variance over the five strategies, as in the study's Table 2."""
    rows = []
    for backbone in dict.fromkeys(backbone for backbone, _ in study):
        for measure, name in (("accuracy", "accuracy"), ("loss", "loss"), ("gap", "gap")):
            cells = []
            for exit_ in range(4):
                groups = [values(study, backbone, s, measure)[:, exit_] for s in PLAIN]
                if len(groups[0]) < 2:
                    cells.append("one run: no test")
                    continue
                found = f_oneway(*groups)
                cells.append(f"{found.statistic:.1f} / {found.pvalue:.2g}")
            rows.append([backbone, name, *cells])
    return table(["backbone", "measure", *(f"exit {k}" for k in range(1, 5))], rows)


def deployed(out: Path) -> list[str]:
    """Return what `po.study` says of each backbone's strategies, each with a policy at nine budgets."""
    places = [place for place in found(out) if place.parts[-3] in BACKBONES]
    rows = []
    for backbone in dict.fromkeys(place.parts[-3] for place in places):
        caches = {"/".join(p.parts[-2:]): p for p in places if p.parts[-3] == backbone}
        outcome = po.study(caches, 9, "max_prob", join=False)
        groups = {test["metric"]: test["groups"] for test in outcome.tests}
        for one in outcome.models:
            name = one["model"]
            ends = [one[f"area{end}"] for end in ("", "_low", "_high")]
            area = (
                "{:.2f} [{:.2f}, {:.2f}]".format(*(100 * end for end in ends))
                if one["rank"]
                else ""
            )
            told = [
                groups.get(m, {}).get(name, "")
                for m in ("area", *(f"quality of exit {k}" for k in range(4)))
            ]
            rows.append([backbone, name, *told, area, str(one["rank"] or "")])
    head = [
        "backbone",
        "strategy",
        "area",
        *(f"exit {k}" for k in range(1, 5)),
        "mean accuracy over the budgets",
        "rank",
    ]
    return table(head, rows, words=7)


def results(study: Study, out: Path) -> str:
    """Return all tables as Markdown."""
    counts = {backbone: len(networks) for (backbone, _), networks in study.items()}
    seeds = ", ".join(f"{n} of {backbone}" for backbone, n in counts.items())
    rows = next(iter(study.values()))[0].rows
    lines = [
        f"Means over seeds ({seeds}), ± their standard deviation; {rows:,} test images.",
        "",
        "Accuracy per exit [%], and the overfitting gap: accuracy on the training rows less that, in points.",
        "",
        *accuracies(study),
        "",
        "With a policy (`max_prob`) at nine budgets of `compute`: the mean accuracy over the budgets, the area under",
        "the frontier, [95 %] over rows and seeds. Letters: strategies that share one are not parted over the seeds",
        "(Tukey's HSD; Games and Howell's where spreads differ; Dunn's of ranks where residuals are not normal)",
        "in that area, and in the accuracy of each exit.",
        "",
        *deployed(out),
        "",
        "What training took, all phases included:",
        "",
        *training(study),
        "",
        "### What the paper finds, and what holds here",
        "",
        "Margins are above zero (or one, where they are ratios) where the finding holds; p is of a paired t-test",
        "over the seeds against no difference, not corrected for how many there are. Where several strategies",
        "compete, the pair that decides is named.",
        "",
        *findings(study),
        "",
        "One-way analysis of variance over the five strategies that are no hybrids, F / p (section 5.6):",
        "",
        *analysis(study),
        "",
    ]
    return "\n".join(lines)


def fill(page: Path, name: str, text: str) -> None:
    """Put a text between a page's marks of that name, in place of what is there."""
    begin, end = f"<!-- begin {name}: generated -->\n", f"<!-- end {name} -->\n"
    before, rest = page.read_text().split(begin)
    _, after = rest.split(end)
    write_file(page, f"{before}{begin}\n{text}\n{end}{after}")


def main() -> None:
    """Write the results into the README."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.training_strategies.page", description=__doc__
    )
    parser.add_argument("out", type=Path, help="directory of the caches")
    parser.add_argument("--readme", type=Path, default=README, help="page to write into")
    given = parser.parse_args()
    fill(given.readme, "results", results(read_all(given.out), given.out))


if __name__ == "__main__":
    main()
