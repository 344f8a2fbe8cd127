"""Papers read again: each before and after on one cache, with the setting that keeps what was before.

python benchmarks/papers.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _caches import ROOT
from _common import machine, machine_line, table, write

import policyopt as po
from policyopt._table import Tables

sys.path.append(str(ROOT))  # of the examples
_COLUMNS = ("paper", "cache", "at", "before", "after")
OUT = Path(__file__).parent / "results" / "papers.json"


def main() -> None:
    """Run every paper's case."""
    shipped = po.open_cache(ROOT / "cache" / "fashion_mnist")
    rows = [
        entropy(), *class_means(shipped), adaee(shipped), *pabee(shipped), cbt(shipped),
        asymmetric(), *hidden_states(), dee_made(),
    ]  # fmt: skip
    write(OUT, {"rows": rows, "machine": machine()}, text(rows))


def row(paper: str, cache: str, at: str, before: str, after: str) -> dict[str, Any]:
    """Return a line of the table."""
    return {"paper": paper, "cache": cache, "at": at, "before": before, "after": after}


def said(data: Any, fitted: Any) -> str:
    """Return what a policy does with the test rows."""
    found = po.evaluate(fitted, data, split="test")
    return f"{100 * found.quality.mean():.1f} % right at cost {found.cost.mean():.3g}"


def made(gains: list[float], rows: int, classes: int, seed: int = 0, share: Any = None) -> Any:
    """Return logits (N, K, C) of exits that grow better, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(classes, rows, p=share)
    gain = np.array(gains)[None, :, None]
    return rng.normal(size=(rows, len(gains), classes)) + gain * np.eye(classes)[labels][
        :, None
    ], labels


def halved(outputs: Any, labels: Any, costs: list[float], features: Any = None) -> Any:
    """Return a cache of which half fits and half tests."""
    parts = {}
    for name, rows in (("fit", slice(0, None, 2)), ("test", slice(1, None, 2))):
        parts[name] = {"outputs": outputs[rows].astype(np.float32), "labels": labels[rows]}
        if features is not None:
            parts[name]["features"] = [one[rows].astype(np.float32) for one in features]
    return po.from_arrays(splits=parts, costs=costs, unit="ms")


def entropy() -> dict[str, Any]:
    """BranchyNet's 0.3 nats, read as a score and as what they are."""
    outputs, labels = made([1.0, 1.8, 2.6], 600, 4)[:2]
    data = halved(outputs, labels, [1.0, 2.0, 3.0])
    found = []
    for given in ("0.3,0.3", "nats<0.3,0.3"):
        policy = po.fit(data, method=f"entropy:thresholds={given}").policy
        early = 1 - po.evaluate(policy, data, split="test").exit_share[-1]
        found.append(f"`thresholds={given}`: {100 * early:.0f} % leave early")
    return row("BranchyNet's entropies", "made, 3 exits, 4 classes", "0.3 nats", *found)


def class_means(shipped: Any) -> list[dict[str, Any]]:
    """E2CM on features of exits whose heads were never trained, and where they were."""
    rng = np.random.default_rng(0)
    labels, means = rng.integers(0, 10, 3000), rng.normal(size=(10, 16))
    features = [means[labels] * (1 + k / 2) + rng.normal(size=(3000, 16)) for k in range(4)]
    outputs = np.stack([f @ rng.normal(size=(16, 10)) / 4 for f in features], axis=1)
    outputs[:, -1] = 4 * np.eye(10)[labels] + rng.normal(size=(3000, 10))
    untrained = halved(outputs, labels, [1.0, 2.0, 4.0, 8.0], features)
    cases = (
        ("made, 4 exits, untrained heads", untrained, 3.0, ""),
        ("made, 4 exits, untrained heads", untrained, 3.0, "+vectors=features"),
        ("fashion_mnist (trained heads)", shipped, "40%", ""),
    )
    found = []
    for name, data, budget, more in cases:
        one, other = (f"e2cm:answer={a}{more}" for a in ("plain", "class_mean"))
        results = [said(data, po.fit(data, budget, spec)) for spec in (one, other)]
        where = f"budget {budget}" + (", features" if more else ", logits")
        found.append(row("E2CM: the nearest class mean answers", name, where, *results))
    return found


def adaee(shipped: Any) -> dict[str, Any]:
    """AdaEE with exits 0 and 1 on the device, the others beyond it."""
    found = []
    for at in (None, 1):
        record = po.simulate(
            shipped,
            ["ucb1"],
            rounds=20_000,
            repetitions=10,
            overhead=0.5,
            arms="0:1:0.1",
            offload_at=at,
        ).records[0]
        early = 100 * sum(record["exit_share"][:2])
        found.append(
            f"`offload_at={at}`: best threshold {record['best_arm']:g}, {early:.0f} % stay on the device, "
            f"{100 * record['accuracy']:.1f} % right"
        )
    where = "overhead 0.5, device: exits 0, 1"
    return row("AdaEE: overhead where the device is left", "fashion_mnist, 5 exits", where, *found)


def pabee(shipped: Any) -> list[dict[str, Any]]:
    """The column PABEE of EENet's Table 1: votes, geometric shares, at three budgets."""
    found = []
    for budget in ("25%", "40%", "70%"):
        both = [
            said(
                shipped, po.fit(shipped, budget, f"vote:thresholds=geometric+ties={ties}+spend=all")
            )
            for ties in ("kept", "coin")
        ]
        found.append(row("EENet's baseline PABEE", "fashion_mnist", f"budget {budget}", *both))
    return found


def cbt(shipped: Any) -> dict[str, Any]:
    """CBT's own range of thresholds against levels that meet the same cost."""
    own = po.fit(shipped, method="cbt:alpha=0.9+beta=0.998")
    cost = float(po.evaluate(own, shipped, split="fit").cost.mean())
    before = po.fit(shipped, cost, "cbt:spend=all")
    return row(
        "CBT: thresholds by class, as given", "fashion_mnist", "alpha 0.9, beta 0.998, or their cost",
        f"levels at that cost: {said(shipped, before)}", said(shipped, own),
    )  # fmt: skip


def asymmetric() -> dict[str, Any]:
    """MonoBERT: few documents are relevant; two thresholds against one, at the cost of the two."""
    gains, share = [1.0, 2.0, 4.0], [0.95, 0.05]
    outputs, labels = made(gains, 20_000, 2, share=share)
    outputs = outputs * np.array(gains)[:, None] + np.log(share)  # calibrated
    data = halved(outputs, labels, [1.0, 2.0, 3.0])
    two = po.fit(data, method="cbt:class_thresholds=0.99,0.9")
    one = po.fit(data, float(po.evaluate(two, data, split="fit").cost.mean()), "max_prob:spend=all")
    relevant = np.asarray(Tables(data).get("test").statistics.labels) == 1
    found = []
    for fitted in (one, two):
        replayed = po.evaluate(fitted, data, split="test")
        told = replayed.prediction == 1
        f1 = 2 * (told & relevant).sum() / (told.sum() + relevant.sum())
        found.append(
            f"{100 * replayed.quality[relevant].mean():.1f} % of the relevant found, F1 {f1:.3f}, "
            f"cost {replayed.cost.mean():.3g}"
        )
    return row(
        "MonoBERT: a threshold per class", "made, 3 exits, 5 % relevant", "equal cost", *found
    )


def hidden_states() -> list[dict[str, Any]]:
    """BERxiT, failure prediction, EPNet and DEE with the hidden states of `examples.hidden_states`, three networks."""
    from examples.hidden_states.model import make_cache

    papers = {
        "BERxiT's hidden state": "berxit", "Failure prediction": "failure_prediction", "EPNet": "epnet",
    }  # fmt: skip
    played: dict[str, list[Any]] = {}
    online: dict[str, list[Any]] = {"label": [], "confidence": []}
    for seed in range(3):
        with tempfile.TemporaryDirectory() as place:
            data = make_cache(f"{place}/cache", 300, seed)
            for name in papers.values():
                for inputs in ("history", "both"):
                    fitted = po.fit(data, "50%", f"{name}:inputs={inputs}")
                    found = po.evaluate(fitted, data, split="test")
                    took = played.setdefault(f"{name}:inputs={inputs}", [])
                    took.append((100 * found.quality.mean(), found.cost.mean()))
            for reward, took in online.items():
                took.append(dee(data, reward, 0.2))
    said = {
        spec: f"`{spec}`: {right:.1f} % right at cost {cost:.3g}"
        for spec, took in played.items()
        for right, cost in [np.mean(took, axis=0)]
    }
    where = "examples/hidden_states, 9 exits"
    return [
        row(
            paper, where, "budget 50 %", said[f"{name}:inputs=history"], said[f"{name}:inputs=both"]
        )
        for paper, name in papers.items()
    ] + [
        row(
            "DEE: hidden states in the context",
            where,
            f"overhead 0.2, reward={reward}",
            *dee_said(took),
        )
        for reward, took in online.items()
    ]


def dee(data: Any, reward: str, overhead: float) -> list[tuple[float, float, float]]:
    """Return what is right in %, cost and regret of LinUCB without and with hidden states, over 10,000 requests."""
    names = ["linucb", "linucb:inputs=both"]
    played = po.simulate(data, names, repetitions=5, overhead=overhead, reward=reward).records
    return [(100 * one["accuracy"], one["realised_cost"], one["regret"]) for one in played]


def dee_said(runs: list[list[tuple[float, float, float]]]) -> list[str]:
    """Return both, means over runs, in words."""
    return [
        f"`{name}`: {right:.1f} % right at cost {cost:.3g}, regret {regret:+.0f}"
        for name, (right, cost, regret) in zip(
            ("linucb", "linucb:inputs=both"), np.mean(runs, axis=0), strict=True
        )
    ]


def dee_made() -> dict[str, Any]:
    """DEE where exit 0 is wrong on half of the rows, as sure as on the others, and only its vector says which."""
    rng = np.random.default_rng(0)
    labels, hard = rng.integers(0, 4, 4000), rng.random(4000) < 0.5
    outputs = np.stack([3 * np.eye(4)[(labels + hard) % 4], 3 * np.eye(4)[labels]], axis=1)
    features = rng.normal(size=(2, 4000, 64))
    features[:, :, 7] += 3 * hard
    data = halved(outputs, labels, [1.0, 4.0], list(features))
    where = "made, 2 exits, equal confidences"
    said = dee_said([dee(data, "label", 0.5)])
    return row("DEE: hidden states in the context", where, "overhead 0.5, reward=label", *said)


def text(rows: list[dict[str, Any]]) -> str:
    """Return the page."""
    return "\n".join([
        "# Papers read again", "",
        "Written by `python benchmarks/papers.py`. Before: as it was, by the setting that keeps it; after: as the "
        "paper has it. Half of a made cache fits, the other half tests; costs are means over the test rows.", "",
        table("Before and after", _COLUMNS, [[one[name] for name in _COLUMNS] for one in rows]),
        machine_line(machine(), machine()), "",
    ])  # fmt: skip


if __name__ == "__main__":
    main()
