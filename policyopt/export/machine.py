"""The arithmetic of a machine: what of it decides the last bits of a score, and how far those may differ.

On the machine that exported, the runtime gives the recorded scores again, to the bit. Another may have
another `exp`, `log`, `log1p` or `tanh`: numpy chooses its own by the processor's features, and the C
library does. Sums go in the same order everywhere (see `c_helpers`), and the rest is IEEE arithmetic.
So exports to other machines differ from the runtime in what exports to C and ONNX do, and are held to
the same number, `policyopt.thresholds.flat.ULPS` = 64 units of 2**-23 of the larger of score and 1.

Where it comes from. Let r be the sum of exp(d_i), d_i <= 0 the difference of a logit to the largest, the
same float32 everywhere. Two exponentials differ by 4 ulp at most (numpy documents 2.52, libms are
within 1), and two sums of C of them by the roundings of 19 + log2(C / 128) additions each (8 partial
sums of up to 16, 3 to join them, halves), half a unit each: r differs by rho = 23 + log2(C / 128) units
of itself if all err to their worst and to one side. Of `max_prob` and `margin`, 1 - s is a fraction
of r over 1 + r: rho / 4 and rho / 2 at most. Of `entropy`, the sum of exp(d_i) |d_i| rounds once more,
and the score moves by 2 (rho + 1) at most: 64 units at 32,768 classes. Measured with AVX-512 and AVX2
taken away (all score rules, 4,096 awkward rows each): 1.1 units of these three, 2.3 of fitted
learned scores. A logarithm of probabilities adds its own 4 ulp.

A learned score that multiplies what it reads multiplies its rounding too: one with random weights moved by
79. What rounding does to a score is seen without another machine: `verify` runs plain Python, in
doubles, and allows `TIMES` times its distance where that is more than 64 (`own_rounding`).
"""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

from policyopt.runtime.errors import input_error

#: Two processors may both be off by what plain Python shows, to either side, and these are few rows.
TIMES = 8
FIELDS = ("numpy", "features", "system", "architecture", "libc")
_MOST, _LONG = 256, 64


def this_machine() -> dict[str, Any]:
    """Return what decides the last bits here: numpy's version and its processor features, the C library.

    Examples
    --------
    >>> this_machine() == this_machine(), sorted(this_machine()) == sorted(FIELDS)
    (True, True)
    """
    simd: Any = np.show_config(mode="dicts")["SIMD Extensions"]  # type: ignore[index]
    return {
        "numpy": np.__version__,
        "features": [*simd["baseline"], *simd.get("found", ())],
        "system": platform.system(), "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip(),
    }  # fmt: skip


def check_machine(value: Any, argument: str, step: str) -> None:
    """Refuse what is no machine."""
    texts = isinstance(value, dict) and value.keys() == set(FIELDS)
    texts = texts and isinstance(value["features"], list) and len(value["features"]) <= _MOST
    texts = texts and all(
        isinstance(text, str) and len(text) <= _LONG
        for name, given in value.items()
        for text in (given if name == "features" else [given])
    )
    if not texts:
        allowed = f"{', '.join(FIELDS)}: texts of at most {_LONG} letters"
        raise input_error(argument, allowed, value, step)
