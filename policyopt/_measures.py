"""What answers are worth that are no class numbers: sets of labels, and values; in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policyopt.runtime._checks import check_one_of
from policyopt.runtime._errors import input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._typing import Array

#: Of sets of labels.
SETS = ("subset", "hamming", "jaccard")


@dataclass(frozen=True)
class Measure:
    """How answers of a cache are valued.

    Attributes
    ----------
    quality_of : {"", "subset", "hamming", "jaccard"}
        Of sets of labels: 1 where the whole set is right, the share of labels that are, or the labels in
        both over those in either (1 of two empty sets). "": right or wrong by class, or by error.
    error_scale : float
        Of values: the error at which an answer is worth 1/e; quality is ``exp(-error / error_scale)``,
        the error the mean absolute one over a row's values. 0: none.
    """

    quality_of: str = ""
    error_scale: float = 0.0

    def __str__(self) -> str:
        if self.error_scale:
            return f"quality of a value: exp(-error / {self.error_scale:g})"
        told = {
            "subset": "all are right",
            "hamming": "share that are right",
            "jaccard": "in both / in either",
        }
        return f"quality of a set of labels: {self.quality_of} ({told.get(self.quality_of, '')})"

    @property
    def dtype(self) -> type:
        """Type of worths: bool where answers are right or wrong."""
        return bool if self.quality_of == "subset" else float

    def worth(self, said: Array | None, targets: Array) -> Array:
        """Return the worth of answers (n,) or (n, W) by targets (n, W), (n,)."""
        assert said is not None  # of kinds with targets
        said = said.reshape(targets.shape)
        if self.error_scale:
            with np.errstate(over="ignore"):
                error = np.abs(said.astype(np.float64) - targets).mean(axis=1)
            return np.exp(-error / self.error_scale)
        mine, true = said != 0, targets != 0
        if self.quality_of == "hamming":
            return (mine == true).mean(axis=1)
        if self.quality_of == "jaccard":
            either, both = (mine | true).sum(axis=1), (mine & true).sum(axis=1)
            return np.where(either > 0, both / np.maximum(either, 1), 1.0)
        return (mine == true).all(axis=1)


def measure_of(kind: str, quality_of: str | None, error_scale: object) -> Measure:
    """Return how a kind's answers are valued, as the user says or by default; all else is refused."""
    found, scale = KINDS[kind], error_scale or 0.0
    if isinstance(scale, str):
        try:
            scale = float(scale)
        except ValueError:
            scale = error_scale
    if not found.targets or found.scaled:
        if quality_of:
            allowed, step = "given for kind multilabel alone", "Leave it out."
            raise input_error("quality_of (--quality-of)", allowed, quality_of, step)
    elif quality_of is not None:
        check_one_of("quality_of", quality_of, SETS, "Choose one (--quality-of).")
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if found.scaled and not (number and 0 < scale < np.inf):  # type: ignore[operator]
        raise input_error(
            "error_scale (--error-scale)", "the error at which an answer is worth 1/e, over 0",
            "none" if error_scale is None else error_scale,
            "State it in the unit of the targets: quality is exp(-error / scale).",
        )  # fmt: skip
    if not found.scaled and error_scale:
        allowed, step = "given for kind regression alone", "Leave it out."
        raise input_error("error_scale (--error-scale)", allowed, error_scale, step)
    sets = found.targets and not found.scaled
    return Measure((quality_of or SETS[0]) if sets else "", float(scale))  # type: ignore[arg-type]
