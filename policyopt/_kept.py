"""Cells of a curve that outlive it: a method fitted for one seed is a file, found again by all that it depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.files import map_tensors, sha256_arrays
from policyopt._engine import versions
from policyopt._methods.fitted import Expectation, Fitted
from policyopt._optional import need
from policyopt.runtime._errors import BudgetError, InputError
from policyopt.runtime._files import write_file
from policyopt.runtime._policy import from_dict
from policyopt.runtime._routing import ROUTING, routing_from_dict
from policyopt.runtime._strict_json import Form, digest_of, parse

#: Results: {"refused": why}, or the policy's file, what is expected of it, and its record. Arrays stand beside.
CELL = Form(
    "a cell of a curve", "policyopt-cell", 1,
    {"format": str, "version": int, "results": list, "arrays": str, "sha256": str},
    "`policyopt curve --keep` writes them.",
)  # fmt: skip
_MAX_BYTES = 256 << 20


@dataclass(frozen=True)
class KeptCells:
    """Cells in a folder; `facts` are what all of them depend on. Those of methods of one's own are not kept."""

    folder: str | os.PathLike[str]
    facts: Mapping[str, Any]
    own: Any  # which methods those are
    notes: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)  # files

    def place(self, task: Any) -> Path | None:
        """Return where a cell is kept; its name is a digest of what it depends on."""
        seed, label, method = task
        if self.own(label, method):
            return None
        kind = f"{type(method).__module__}.{type(method).__qualname__}"
        facts = {**self.facts, "seed": seed, "label": label, "method": kind}
        facts |= {"settings": method.settings(), "versions": versions()}
        name = digest_of(json.loads(json.dumps(facts, default=repr)))[:32]
        return Path(self.folder) / f"{name}.cell"

    def save(self, task: Any, result: Any) -> None:
        """Write a cell, whole or not at all."""
        if (path := self.place(task)) is None:
            return
        arrays, told = dict[str, Any](), list[Any]()
        for i, (one, record) in enumerate(result):
            if isinstance(one, BudgetError):
                told.append({"refused": str(one)})
                continue
            more = {"method": one.method, "budget": one.budget, "flat": [*map(int, one.flat)]}
            told.append({"policy": json.loads(one.policy.file_text()), "record": record, **more})
            of = {at.name: getattr(one.expected, at.name) for at in fields(Expectation)}
            for name, value in {**of, "quality": one.quality}.items():
                if value is not None:
                    arrays[f"{i}.{name}"] = np.asarray(value, order="C")
        text = json.dumps(CELL.signed(results=told, arrays=sha256_arrays(arrays)))
        arrays["cell"] = np.frombuffer(text.encode(), np.uint8)
        write_file(path, need("safetensors.numpy", "fit", "to keep cells").save(arrays))

    def load(self, task: Any) -> Any:
        """Return a cell, None where there is none; a damaged one is told and fitted anew."""
        path = self.place(task)
        try:
            if path is None or not path.exists():
                return None
            result = _read(path)
            self.found.append(path.name)
            return result
        except (InputError, KeyError, TypeError, ValueError) as error:
            self.notes.append(f"{path} is damaged, and fitted anew: {error}")
            return None


def _read(path: Path) -> list[tuple[Fitted | BudgetError, Any]]:
    arrays = {name: array for name, (_, array) in map_tensors(path, "cell", mmap=False).items()}
    content = parse(arrays.pop("cell").tobytes(), path.name, _MAX_BYTES, CELL.again)
    CELL.check(content, path.name)
    if sha256_arrays(arrays) != content["arrays"]:
        raise InputError("its arrays are others than were written")
    found = list[tuple[Fitted | BudgetError, Any]]()
    for i, told in enumerate(content["results"]):
        if "refused" in told:
            found.append((BudgetError(told["refused"]), None))
            continue
        of = told["policy"]
        policy = (routing_from_dict if of["format"] == ROUTING.format else from_dict)(of, path.name)
        mine = [(name.partition("."), a) for name, a in arrays.items()]
        each: Any = {name: a if a.ndim else a.item() for (n, _, name), a in mine if n == str(i)}
        each |= {"ends": tuple(each["ends"].tolist())} if "ends" in each else {}
        quality, expected = each.pop("quality"), Expectation(**each)
        fitted = policy, told["method"], told["budget"], expected, quality, tuple(told["flat"])
        found.append((Fitted(*fitted), told["record"]))
    return found
