"""The exported Python file run on golden vectors."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np

from .golden import Golden, Ran


def run_python(path: Path, golden: Golden) -> Ran:
    """Return what an exported file says.

    It is run: only files whose checksum is that of the manifest should come here.

    Parameters
    ----------
    path : Path
    golden : Golden
    """
    module = runpy.run_path(str(path))
    n, exits = len(golden), len(module["PATH"])
    score, confidence = np.empty((n, exits)), np.empty((n, exits))
    prediction, leave = np.empty((n, exits), np.int32), np.empty((n, exits), bool)
    state = module["start"](golden.sample)
    for at, (k, given) in enumerate(zip(module["PATH"], golden.inputs, strict=True)):
        output: Any = given.get(module["KIND"], given)
        if "second" in given:
            output = {**given, "top_prob": np.stack([given["confidence"], given["second"]], axis=1)}
        seen = module["step"](k, output, state, given.get("features"))
        score[:, at], confidence[:, at] = seen.score, seen.confidence
        prediction[:, at], leave[:, at] = seen.prediction, seen.exit
    return Ran(score, confidence, prediction, leave)
