"""Certificates of a network with two exits beside MAPIE's controller of one binary decision.

MAPIE 1.x knows a decision by a threshold on a probability, and risks that are 0 or 1; no cost, and no losses of -1,
0, 1. That is one early exit: leave at exit 0 where its confidence is at least a threshold, of 100. Two claims that it
can state:

- *precision*: of the rows that leave early at least 95 % are answered right. MAPIE tests the rows that leave, as if
  their number were given; so does our `selective_error<=5%`;
- *harm*: of all rows at most 2 % leave with a wrong answer that the full model would have had right; a `BinaryRisk` of
  one's own there, 0 or 1 and binomial here.

MAPIE: `BinaryClassificationController`, whose p-values are the exact binomial's for both; Bonferroni-Holm (its
default), fixed sequence from one end of the thresholds, and split fixed sequence, the order of which it learns on other
rows. Ours: one fixed sequence in the order of the p-values of other rows, as `certify` takes it from the rows of the
fit; *normal*: the same with the normal's p-values, which promise nothing. All on the same draws, at 90 %, and as many
other rows.
`drop`, what is won counted against what is lost, MAPIE cannot state.

Draws are rows of a population of 200,000 with known risks. A certificate is wrong where the true risk of a threshold
that it shows is over the claim; *used*: the true risk over the claim of the threshold at which most leave, 0 where
nothing is certified; *leave*: the share that leaves there.

    pip install --target DIRECTORY --no-deps mapie==1.6.0     # and scikit-learn; no dependency of the package
    PYTHONPATH=DIRECTORY python benchmarks/certify_mapie.py [--draws 1000]
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from _common import machine, table, write
from numpy.typing import NDArray

from policyopt._bounds import P_VALUES
from policyopt._testing import fallback

OUT = Path(__file__).parent / "results" / "certify_mapie.json"
ROWS, DELTA = (300, 1000, 5000), 0.1
CLAIMS = {"precision": 0.05, "harm": 0.02}
THRESHOLDS = np.linspace(0.5, 0.995, 100)
Floats = NDArray[np.float64]
Bools, Ints = NDArray[np.bool_], NDArray[np.int64]
Sample = tuple[Any, ...]  # confidence, right, and right of the full model


def population(rows: int = 200_000) -> tuple[Floats, Bools, Bools]:
    """Return the confidence at exit 0, whether its answer is right, and whether the full model's is, (N,)."""
    rng = np.random.default_rng(5)
    hard = rng.normal(size=rows)
    early = 0.8 - hard + rng.normal(0, 0.6, rows)
    late = 2.0 - hard + rng.normal(0, 0.6, rows)
    return 1 / (1 + np.exp(-1.5 * early + rng.normal(0, 1.5, rows))), early > 0, late > 0


def losses_of(
    claim: str, sure: Floats, right: Bools, full: Bools
) -> tuple[Floats, float, float, float]:
    """Return losses (L, n), the most that their mean may be, and their ends, from the highest threshold on."""
    left = sure >= THRESHOLDS[::-1, None]
    if claim == "harm":
        return (left & (full & ~right)).astype(float), CLAIMS[claim], 0.0, 1.0
    most = CLAIMS[claim]
    return np.asarray(left * (~right - most), np.float64), 0.0, -most, 1 - most


def ours(claim: str, procedure: str, rows: Sample, others: Sample) -> Ints:
    """Return the places of the thresholds that are shown, from the highest on."""
    losses, most, low, high = losses_of(claim, *rows)
    test = P_VALUES[procedure]
    before = test(losses_of(claim, *others)[0], most, low=low, high=high, delta=DELTA)
    sure = (
        before <= DELTA / 2
    )  # as `certify` orders levels: these from the dearest on, then by p-values
    order = np.lexsort((np.arange(len(before)), np.where(sure, 0.0, before), ~sure))
    p = test(losses, most, low=low, high=high, delta=DELTA)
    return order[fallback(p[order], DELTA)]


def theirs(module: Any, claim: str, testing: str, rows: Sample, others: Sample) -> Ints:
    """Return the same of MAPIE."""
    if claim == "precision":
        risk, target = module.precision, 1 - CLAIMS[claim]
    else:  # 1: leaving does no harm
        risk = module.BinaryRisk(
            lambda y, left: (y == 0) & (left == 1), lambda y, _: np.ones(len(y), bool), False
        )
        target = CLAIMS[claim]
    controller = module.BinaryClassificationController(
        lambda x: np.stack([1 - x[:, 0], x[:, 0]], axis=1), risk, target, confidence_level=1 - DELTA,
        best_predict_param_choice=module.predicted_positive_fraction, list_predict_params=THRESHOLDS,
        fwer_method=testing,
    )  # fmt: skip

    def given(sure: Floats, right: Bools, full: Bools) -> tuple[Floats, Ints]:
        return sure[:, None], (right if claim == "precision" else ~(full & ~right)).astype(int)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if testing == "split_fixed_sequence":
            controller.learn_fixed_sequence_order(
                *given(*others), beta_grid=np.logspace(-25, 0, 100), binary=True
            )
        controller.calibrate(*given(*rows))
    valid = np.asarray(controller.valid_predict_params, dtype=float)
    return np.flatnonzero(np.isin(THRESHOLDS[::-1], valid))


def main() -> None:
    """Draw, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    try:
        import mapie.risk_control as module
    except ImportError:
        sys.exit(
            "MAPIE 1.x is not installed, and nothing was measured. `pip install --target DIRECTORY --no-deps "
            "mapie==1.6.0` and put DIRECTORY on PYTHONPATH; it is no dependency of policyopt."
        )
    everyone = population()
    left = everyone[0] >= THRESHOLDS[::-1, None]
    risks = {
        "precision": (left & ~everyone[1]).sum(axis=1) / left.sum(axis=1),
        "harm": (left & everyone[2] & ~everyone[1]).mean(axis=1),
    }
    shares = left.mean(axis=1)
    counts: dict[str, dict[str, float]] = {}
    for n in ROWS:
        for claim, most in CLAIMS.items():
            rng = np.random.default_rng(n)
            default = "binomial" if claim == "harm" else "selective"
            for _ in range(given.draws):
                rows, others = (
                    tuple(one[at] for one in everyone) for at in rng.integers(0, len(everyone[0]), (2, n))
                )  # fmt: skip
                each = {
                    f"MAPIE, {name.replace('_', ' ')}": theirs(module, claim, name, rows, others)
                    for name in ("bonferroni_holm", "fixed_sequence", "split_fixed_sequence")
                }
                each[f"ours, {default}"] = ours(claim, default, rows, others)
                each["normal"] = ours(claim, "normal", rows, others)
                for name, at in each.items():
                    one = counts.setdefault(
                        f"{claim}|{n}|{name}", dict.fromkeys(("wrong", "none", "used", "leave"), 0)
                    )
                    one["wrong"] += int((risks[claim][at] > most).any())
                    one["none"] += int(not len(at))
                    one["used"] += float(risks[claim][max(at)] / most) if len(at) else 0.0
                    one["leave"] += float(shares[at].max(initial=0.0))
    lines = []
    for key, one in counts.items():
        claim, n, name = key.split("|")
        wrong, none, used, leave = (v / given.draws for v in one.values())
        lines.append((
            claim, f"{int(n):,}", name, f"{100 * wrong:.1f}", f"{100 * none:.1f}", f"{used:.3f}", f"{100 * leave:.1f}",
        ))  # fmt: skip
    header = ("claim", "n", "procedure", "wrong, %", "none, %", "used", "leave, %")
    body = table(f"{given.draws:,} draws, at most 10 % may be wrong", header, lines)
    page = f"# Beside MAPIE\n\n{(__doc__ or '').strip()}\n\n{body}\n\n{machine()}\n"
    write(given.out, {"draws": given.draws, "counts": counts}, page)


if __name__ == "__main__":
    main()
