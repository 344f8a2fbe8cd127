"""A row of the registry: all that command line, docs and shared checks know of a method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any

import numpy as np

from policyopt.methods.base import Method

#: What the columns that a method reads are called in a cache.
_NEEDS = {"log_prob": "logits", "margin": "top_prob"}


@dataclass(frozen=True)
class Row:
    """What the registry knows about a method.

    Attributes
    ----------
    name, family, summary, paper, reference : str
        `summary` completes "leaves where ..."; `reference` is where to find the paper.
    year : int
        Of the paper.
    wins : str
        When to choose it, and when not: a sentence for the docs.
    factory : str
        ``module:Class``, imported when used.
    preset : mapping
        Settings that make the class this method; not open to the user.
    defaults : mapping
        Defaults that differ from the class's own.
    trains : bool
        Whether it trains for long: ``all`` leaves it out.
    online : bool
        Whether one number orders its policies from cheap to dear, so that a controller or a
        bandit can move it while serving.
    seconds : pair of float
        Of a processor, for nine budgets and 549 or 5,000 fit rows of five exits and ten classes: what is
        told before long work (benchmarks/few_rows.py; stated where they are a second or more).
    discrete : bool
        Whether its scores have few distinct values, so that budgets are met by mixing.
    """

    name: str
    family: str
    summary: str
    paper: str
    year: int
    reference: str
    factory: str
    wins: str = ""
    preset: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    trains: bool = False
    online: bool = True
    discrete: bool = False
    seconds: tuple[float, float] = (0.2, 0.8)

    def load(self) -> type[Method]:
        """Import the class."""
        module, name = self.factory.split(":")
        return getattr(import_module(module), name)

    def settings(self) -> dict[str, Any]:
        """Return the settings open to the user, with their defaults."""
        own = {f.name: f.default for f in fields(self.load()) if f.name not in self.preset}
        return {**own, **self.defaults}

    def needs(self) -> list[str]:
        """Return what a cache must hold for it beyond predictions and confidences.

        ``labels`` (to fit), ``logits``, ``features``, or of records ``entropy``, ``top_prob``.
        """
        method = self.load()(**self.preset, **self.defaults)
        columns = {_NEEDS.get(name, name) for name in method.needs()}
        if "logits" in columns:  # they hold all that a record may
            columns &= {"logits", "features"}
        return [*(["labels"] if method.labelled() else []), *sorted(columns)]

    def expected_seconds(self, rows: int, budgets: int) -> float:
        """Return about how many processor seconds a fit takes.

        More than 5,000 rows are not cross-validated: some 30,000 take as long as 5,000 do.
        """
        found = float(np.interp(rows, (549, 5000), self.seconds))
        return found * (budgets / 9 if self.trains else 1.0)

    def supports(self) -> dict[str, bool]:
        """Return whether it can be steered ``online``, and whether it works on ``records``."""
        return {"online": self.online, "records": not {"logits", "features"} & set(self.needs())}
