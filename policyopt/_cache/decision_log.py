"""What a routing policy logged while it served (`runtime.DecisionLog`), as a censored cache: models not called are unknown.

A row knows what the models said that were called, in which order, and how likely each of these decisions was.
What stands at the other models (no answer, confidence 0, outputs of no information, usual costs) is read by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.data import CALLED, COST_PREFIX, GROUP, POOL, PROPENSITY
from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost, cumulative
from policyopt.runtime._decision_log import FORMAT
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._routing import MAX_MODELS
from policyopt.runtime._sizes import Room
from policyopt.runtime._strict_json import check_fields, parse
from policyopt.runtime._typing import Array

_LINE = 4 << 20  # bytes
_HEAD = {
    "format": str, "version": int, "policy": str, "kind": str, "classes": int, "unit": str, "costs": list,
    "names?": list,
}  # fmt: skip
_REQUEST = {
    "id": (str, int), "called": list, "propensity": list, "said": list, "cost": list, "answer": int,
    "query?": list, "latency?": (int, float),
}  # fmt: skip
_FEEDBACK = {"id": (str, int), "label?": int, "correct?": list}
_MEND = "Mend that line, or leave it out."
#: What must be the same in all of a log.
_ALIKE = ("kind", "classes", "unit", "costs")


def is_log(path: Path) -> bool:
    """Whether a file begins as such a log does."""
    if not path.name.endswith(".jsonl") or not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"{FORMAT}"'.encode() in file.readline(4096)


class _Log:
    """Requests of a log by name, each (line, content), and what came out about them."""

    def __init__(self, path: Path) -> None:
        self.name, self.notes = path.name, list[str]()
        self.head: dict[str, Any] = {}
        self.requests: dict[str | int, tuple[int, dict[str, Any]]] = {}
        self.known: dict[str | int, dict[str, Any]] = {}
        self.room = Room("SRC", path.name)
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LINE + 1), b""), 1):
                if len(line) > _LINE:
                    self.refuse(number, "at most 4 MiB", "more")
                if line.strip() and not line.rstrip().endswith(b"}"):
                    self.notes.append(f"{path.name}: line {number} is torn: left out")
                elif line.strip():
                    self._take(
                        number, parse(line.strip(), f"{path.name}: line {number}", _LINE, _MEND)
                    )

    def refuse(self, number: int, allowed: str, got: Any, step: str = _MEND) -> None:
        """Raise the error for a line."""
        raise input_error(f"{self.name}: line {number}", allowed, got, step)

    def _take(self, number: int, content: Any) -> None:
        where = f"{self.name}: line {number}"
        if isinstance(content, dict) and "format" in content:
            check_fields(content, _HEAD, where, _MEND)
            costs, unlike = content["costs"], [n for n in _ALIKE if self.head and content[n] != self.head[n]]
            fine = content["format"] == FORMAT and content["version"] == 1
            fine &= content["kind"] in KINDS and KINDS[content["kind"]].answers_class
            fine &= 1 <= len(costs) <= MAX_MODELS and all(_number(c, 0.0) for c in costs)
            if not fine or unlike:
                got = f"another {', '.join(unlike)} than before" if unlike else "something else"
                self.refuse(number, "a policy of the same models as the lines before", got, "Import logs apart.")
            self.head = content
            return
        if not self.head:
            self.refuse(number, "the line that names the policy first", "a request", _MEND)
        asked = isinstance(content, dict) and "called" in content
        check_fields(content, _REQUEST if asked else _FEEDBACK, where, _MEND)
        name = content["id"]
        if asked == (name in self.requests):
            got = f"id {name!r} " + (f"of line {self.requests[name][0]}, too" if asked else "of no request before")
            self.refuse(number, "a request of its own id, or what came out about one", got)
        if asked:
            self._check(number, content)
            self.requests[name] = number, content
            return
        correct, count = content.get("correct"), len(self.requests[name][1]["called"])
        if correct is not None and ([*map(type, correct)] != [bool] * count):
            self.refuse(number, f"correct as {count} of true and false, one per model called", correct)
        self.known[name] = content  # what is told later counts

    def _check(self, number: int, content: dict[str, Any]) -> None:
        models, called, likely = len(self.head["costs"]), content["called"], content["propensity"]
        whole = bool(called) and all(type(m) is int and 0 <= m < models for m in called)
        if not whole or len(set(called)) < len(called):
            self.refuse(number, f"called: models 0 to {models - 1}, each once", called)
        if len(likely) != len(called) + 1 or not all(_number(p, 1e-12, 1.0) for p in likely):
            self.refuse(number, f"propensity: {len(called) + 1} numbers in (0, 1], the last of stopping", likely)
        if len(content["cost"]) != len(called) or not all(_number(c, 0.0) for c in content["cost"]):
            self.refuse(number, f"cost: {len(called)} numbers of 0 or more", content["cost"])
        record, width = KINDS[self.head["kind"]].record, KINDS[self.head["kind"]].width(self.head["classes"])
        for said in content["said"]:
            fine = isinstance(said, dict if record else list)
            if fine and record:
                fine = _number(said.get("confidence"), 0.0, 1.0) and type(said.get("prediction", -1)) is int
            elif fine:
                fine = len(said) == width and all(_number(v, -1e30) for v in said)
            if not fine:
                what = "a confidence in [0, 1] and a prediction" if record else f"{width} numbers"
                self.refuse(number, f"said: of each model {what}", str(said)[:80])
        if len(content["said"]) != len(called):
            self.refuse(number, f"said: {len(called)} answers, one per model called", len(content["said"]))
        self.room.take(models * (16 if record else 4 * width + 12), len(str(content)))


def _number(value: Any, low: float, high: float = 1e30) -> bool:
    return type(value) in (int, float) and low <= value <= high


def import_log(
    path: Path, out: Path, *, labels: Array | None = None, shares: Mapping[str, float] | None = None,
    seed: int = 0, overwrite: bool = False,
) -> list[str]:  # fmt: skip
    """Write a log as a cache; return a line on each thing that was decided."""
    log = _Log(path)
    if not log.requests:
        raise input_error("SRC", "a log of one request or more", f"{path.name} without", "Serve some.")
    names, asked = list(log.requests), [content for _, content in log.requests.values()]
    truth = np.array([log.known.get(name, {}).get("label", -1) for name in names], dtype=np.int64)
    if labels is not None and labels.shape != truth.shape:
        got = f"shape {labels.shape}"
        raise input_error("labels", f"one for each of the {len(truth)} requests, in their order", got)
    truth = truth if labels is None else labels
    judged = np.array(["correct" in log.known.get(name, {}) for name in names])
    by_label = bool((truth >= 0).any()) or not judged.any()
    if not by_label:  # judged answers: others tell nothing
        names, asked = ([one for one, j in zip(x, judged, strict=True) if j] for x in (names, asked))
    n, head = len(asked), log.head
    kind, usual = KINDS[head["kind"]], np.array(head["costs"], dtype=np.float64)
    called = np.concatenate([one["called"] for one in asked])
    count = np.array([len(one["called"]) for one in asked])
    rows = np.repeat(np.arange(n), count)
    turn = np.arange(len(rows)) - np.repeat(count.cumsum() - count, count)

    def spread(values: Any, start: Array, dtype: Any) -> Array:
        out = np.broadcast_to(np.asarray(start, dtype), (n, len(usual), *np.shape(values)[1:])).copy()
        out[rows, called] = values
        return out

    def each(field: str) -> list[Any]:
        return [value for one in asked for value in one[field][: len(one["called"])]]

    arrays: dict[str, Any] = {
        CALLED: spread(turn + 1, np.array(0), np.int16), PROPENSITY: spread(each("propensity"), np.array(1.0), float),
        GROUP: np.arange(n),  # rows alike are requests all the same
    }  # fmt: skip
    said = each("said")
    if kind.record:
        arrays["confidence"] = spread([one["confidence"] for one in said], np.array(0.0), float)
        arrays["prediction"] = spread([one.get("prediction", -1) for one in said], np.array(-1), np.int64)
    else:
        even = np.full(kind.width(head["classes"]), 1.0 / head["classes"] if "prob" in kind.name else 0.0)
        arrays["outputs"] = spread(said, even, np.float32)
    if by_label:
        arrays["labels"] = truth
    elif kind.record:
        right = [value for name in names for value in log.known[name]["correct"]]
        arrays["correct"] = spread(right, np.array(False), bool)
    else:
        step = "Give the label of each request."
        raise input_error("feedback", "labels where outputs are kept", "correct", step)
    paid = spread(each("cost"), usual, float)
    same = bool((paid == usual).all())
    if not same:
        arrays[COST_PREFIX + "cost"] = cumulative(paid, "standalone", "cost")
    unknown = int((truth < 0).sum()) if by_label else len(judged) - n
    log.notes += [f"{unknown} of the {len(truth)} requests have no feedback"] if unknown else []
    log.notes.append(
        f"{n} requests, of {count.mean():.2f} calls on average: models not called are unknown (a censored cache); "
        "`policyopt fit CACHE --method routing` takes it"
    )
    cost = Cost("cost", head["unit"], tuple(usual.tolist()) if same else None, "standalone", cascade=True)
    told = {"notes": log.notes, "sources": [path.name]} | ({"names": head["names"]} if "names" in head else {})
    with CacheWriter(
        out, costs=cost, kind=kind.name, classes=head["classes"] or None, shares=shares or {"fit": 1.0},
        dtype="float64" if kind.record else "float32", split_seed=seed, metadata=told, overwrite=overwrite,
    ) as writer:  # fmt: skip
        try:
            writer.add(POOL, arrays)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
    return log.notes
