"""Does `study` find the better model, and no winner among equals? A made case whose truth is known.

Three models of the same 10,000 test rows: two equally good, one better by about a point. Per draw: whether one of the
equal two was called the winner at any budget, whether their areas were parted, whether the better one was found.

    python benchmarks/study.py
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from _common import machine, table

import policyopt as po

OUT = Path(__file__).parent / "results" / "study.md"
CLASSES, ROWS = 5, 20_000  # half of them are tested on
BUDGETS = "35%,50%,65%,80%,100%"


def made(seed: int, better: float, own: float) -> dict[str, po.ExitData]:
    """Return caches of three models that err alike but for a share of their own."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, ROWS)
    shared = rng.normal(size=(ROWS, 2, CLASSES))
    shared[:, 1] = 0.8 * shared[:, 0] + 0.6 * shared[:, 1]
    found = {}
    for name, extra in {"first": 0.0, "second": 0.0, "better": better}.items():
        noise = (1 - own**2) ** 0.5 * shared + own * rng.normal(size=shared.shape)
        truth = np.eye(CLASSES)[labels][:, None] * np.array([[1.2 + extra], [2.0 + extra]])
        found[name] = po.from_arrays(
            (noise + truth).astype(np.float32), labels, costs=[1, 4], unit="ms"
        )
    return found


def draw(seed: int, better: float, own: float) -> list[float]:
    """Return (false winner, false pair, better found, gain in points, rows on which the better differs)."""
    caches = made(seed, better, own)
    found = po.study(caches, BUDGETS, "max_prob", join=False)
    equal = next(p for p in found.pairs if "better" not in (p["better"], p["worse"]))
    others = [p for p in found.pairs if p is not equal]
    last = found.budgets[-1]["quality"]
    right = [po.Tables(caches[name]).get("test").quality[:, 1] for name in ("first", "better")]
    return [
        any(row["winner"] in ("first", "second") for row in found.budgets),
        equal["holm_p"] <= 0.05,
        all(p["better"] == "better" and p["holm_p"] <= 0.05 for p in others),
        100 * (last["better"] - last["first"]),
        float((right[0] != right[1]).mean()),
    ]  # fmt: skip


def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=200)
    arguments = parser.parse_args()
    rows = []
    for better, own in ((0.05, 0.35), (0.05, 0.5), (0.0, 0.35)):
        found = [draw(seed, better, own) for seed in range(arguments.draws)]
        false, parted, shown, gain, apart = np.mean(found, axis=0)
        shares = [f"{100 * share:.1f} %" for share in (apart, false, parted, shown)]
        rows.append(
            [f"{gain:+.2f}", *shares[:3], shares[3] if better else f"{shares[3]} (falsely)"]
        )
        print(rows[-1], flush=True)
    header = [
        "better by, points",
        "rows right in one only",
        "false winners",
        "the equal two parted",
        "better one found",
    ]
    title = f"{arguments.draws} draws, stated level 5 %"
    text = f"# Studies of models whose truth is known\n\n{__doc__}\n{table(title, header, rows)}\n{machine()}\n"
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
