"""What tuning found: the best settings beside the default ones, with standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policyopt.runtime.errors import InputError


@dataclass(frozen=True)
class Tuned:
    """The result of `tune`.

    Standard errors are over folds, which share training rows: they are a little small. The best
    of many trials is chosen by its value, so `value` is a little high. Quote neither as a result;
    a replay on the test rows is one.

    Attributes
    ----------
    method, objective : str
    settings : dict
        The best trial's, fixed ones included.
    value, standard_error : float
        Its mean over folds.
    default_settings : dict
        The method's own values of what was tuned, and the fixed settings.
    default_value, default_error : float or None
        None where the default could not be fitted.
    gain, gain_error : float or None
        Best less default, mean and standard error over folds (paired).
    complete, pruned, failed : int
        Number of trials.
    exhausted : bool
        Whether all combinations there are were tried.
    study : str
        Name of the study in its storage.
    history : tuple of dict
        One per trial: trial, state, value, standard_error, folds, realised_cost, default,
        settings, error.
    """

    method: str
    objective: str
    settings: dict[str, Any]
    value: float
    standard_error: float
    default_settings: dict[str, Any]
    default_value: float | None
    default_error: float | None
    gain: float | None
    gain_error: float | None
    complete: int
    pruned: int
    failed: int
    exhausted: bool
    study: str
    history: tuple[dict[str, Any], ...]

    @property
    def worthwhile(self) -> bool:
        """Whether the gain is more than one standard error."""
        return self.gain is None or self.gain > (self.gain_error or 0.0)

    @property
    def recommended(self) -> dict[str, Any]:
        """The best settings where the gain is worthwhile, else the default ones."""
        return self.settings if self.worthwhile else self.default_settings


def describe_trial(
    number: int,
    state: str,
    values: Sequence[float],
    settings: Mapping[str, Any],
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a trial as a record of `Tuned.history`; `values` are those of the folds it saw."""
    return {
        "trial": number,
        "state": state,
        "value": float(np.mean(values)) if len(values) else None,
        "standard_error": standard_error(values) if len(values) > 1 else None,
        "folds": list(values),
        "realised_cost": notes.get("realised_cost"),
        "default": bool(notes.get("default", False)),
        "settings": dict(settings),
        "error": notes.get("error"),
    }


def conclude(
    history: Sequence[dict[str, Any]],
    method: str,
    objective: str,
    fixed: Mapping[str, Any],
    default: Mapping[str, Any],
    study: str,
    exhausted: bool,
) -> Tuned:
    """Find the best trial and hold it against the default.

    Raises
    ------
    InputError
        No trial was completed; with the message of the first that failed.
    """
    states = [record["state"] for record in history]
    done = [record for record in history if record["state"] == "complete"]
    if not done:
        why = next((r["error"] for r in history if r["error"]), "none was started")
        raise InputError(f"None of {len(history)} trials of '{method}' could be completed: {why}")
    # Of equal values the earliest: the default, where nothing is better than it.
    best = max(done, key=lambda r: (r["value"], r["default"], -r["trial"]))
    base = next((r for r in done if r["default"]), None)
    gains = None if base is None else np.subtract(best["folds"], base["folds"])
    return Tuned(
        method,
        objective,
        {**fixed, **default, **best["settings"]},
        best["value"],
        best["standard_error"],
        {**fixed, **default},
        None if base is None else base["value"],
        None if base is None else base["standard_error"],
        None if gains is None else float(gains.mean()),
        None if gains is None else standard_error(gains),
        states.count("complete"),
        states.count("pruned"),
        states.count("failed"),
        exhausted,
        study,
        tuple(history),
    )


def standard_error(values: Any) -> float:
    """Return the standard error of a mean.

    Examples
    --------
    >>> standard_error([0.8, 0.9])
    0.05
    """
    values = np.asarray(values, dtype=np.float64)
    return round(float(values.std(ddof=1) / np.sqrt(len(values))), 12)
