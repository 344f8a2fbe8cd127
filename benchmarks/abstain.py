"""What policies that may decline are worth: shares and costs, scores on shifted streams, answers at a deadline.

On the cache that ships, `max_prob` within 40 % of the full model. Scores decline 5 % of the rows they are fitted on;
what they would decline of blurred and noisy images is what they would have flagged. At a deadline, the last exit seen
is held against the most confident one so far, calibrated on the rows of the fit.

    python benchmarks/abstain.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from _caches import ROOT
from _common import machine, table, write

import policyopt as po

OUT = ROOT / "benchmarks" / "results" / "abstain.json"
BUDGET, PERSON, SHARE = "40%", 20.0, "5%"
SCORES = (None, "max_prob", "entropy", "energy", "max_logit", "e2cm")
STREAMS = (
    "test", "blur_mild", "blur_medium", "blur_ruinous", "noise_mild", "noise_medium", "noise_ruinous",
)  # fmt: skip


def asked(data: Any) -> dict[str, dict[str, float]]:
    """Return what declining is worth on the test rows: not at all, a share of them, at a cost."""
    ways: dict[str, dict[str, Any]] = {
        "never declines": {}, f"declines {SHARE}": {"abstain": SHARE},
        f"a person costs {PERSON:g}": {"abstain_cost": PERSON},
    }  # fmt: skip
    found = {}
    for name, options in ways.items():
        outcome = po.evaluate(po.fit(data, BUDGET, "max_prob", **options), data)
        given = np.ones(len(outcome.quality), dtype=bool)
        if outcome.abstained is not None:
            given = ~outcome.abstained
        found[name] = {
            "declined": float(1 - given.mean()), "own answers": float(outcome.quality[given].mean()),
            "in all": float(outcome.quality.mean()), "cost": float(outcome.cost.mean()),
        }  # fmt: skip
    return found


def flagged(data: Any) -> dict[str, dict[str, float]]:
    """Return by score the share of each stream that is declined, and AURC (x 1000) on three of them."""
    found = {}
    for score in SCORES:
        fitted = po.fit(data, BUDGET, "max_prob", abstain=SHARE, abstain_score=score)
        shares = {s: float(po.evaluate(fitted, data, split=s).abstained.mean()) for s in STREAMS}
        areas = {
            f"AURC {s}": 1000 * po.risk_coverage(fitted, data, split=s).area
            for s in ("test", "blur_medium", "noise_medium")
        }
        found[score or "calibrated confidence"] = shares | areas
    return found


def deadline(data: Any) -> dict[str, dict[str, list[float]]]:
    """Return how often the last exit seen and the most confident one so far are right, by exits seen."""
    calibrated = po.fit(data, BUDGET, "max_prob", calibrator="platt").policy.calibrator
    assert calibrated is not None
    found = {}
    for split in ("test", "blur_medium"):
        rows = data.splits[split]
        outputs, labels = (np.asarray(rows.array(name)) for name in ("outputs", "labels"))
        right = outputs.argmax(axis=2) == labels[:, None]
        z = outputs - outputs.max(axis=2, keepdims=True)
        top = np.clip(1 / np.exp(z, dtype=np.float64).sum(axis=2), 1e-12, 1 - 1e-12)
        sure = np.stack([calibrated.curve(k, top[:, k]) for k in range(top.shape[1])], axis=1)
        best = np.stack([sure[:, : k + 1].argmax(axis=1) for k in range(top.shape[1])], axis=1)
        found[split] = {
            "last exit seen": right.mean(axis=0).tolist(),
            "most confident so far": np.take_along_axis(right, best, axis=1).mean(axis=0).tolist(),
        }
    return found


def main() -> None:
    """Measure, and write the page."""
    data = po.open_cache(ROOT / "cache" / "fashion_mnist")
    ways, scores, late = asked(data), flagged(data), deadline(data)
    percent = "{:.1%}".format
    first = [
        (name, *map(percent, list(row.values())[:3]), f"{row['cost']:.2f}")
        for name, row in ways.items()
    ]
    second = [
        (name, *(percent(row[s]) for s in STREAMS), *(f"{v:.1f}" for k, v in row.items() if k[0] == "A"))
        for name, row in scores.items()
    ]  # fmt: skip
    third = [
        (f"{split}, {name}", *map(percent, row)) for split, rows in late.items() for name, row in rows.items()
    ]  # fmt: skip
    exits = len(third[0]) - 1
    text = "\n".join([
        f"# abstain\n\n{(__doc__ or '').split('    python')[0].strip()}\n",
        table("Within 40 % of the full model, test rows",
              ("max_prob", "declined", "own answers right", "right in all", "cost, MMACs"), first),
        table("Declined by score, and AURC x 1000",
              ("score", *STREAMS, *("AURC " + s for s in ("test", "blur_medium", "noise_medium"))), second),
        table("Right at a deadline", ("rows, answer", *(f"after exit {k + 1}" for k in range(exits))), third),
        str(machine()), "",
    ])  # fmt: skip
    write(OUT, {"asked": ways, "scores": scores, "deadline": late}, text)


if __name__ == "__main__":
    main()
