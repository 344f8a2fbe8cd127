"""What a routing policy logged while serving (`runtime.DecisionLog`), as a censored cache: of models called only.

A row knows what the models said that were called, in which order, and how likely each of these decisions was.
What stands at the other models (no answer, confidence 0, outputs of no information, usual costs) is read by nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from policyopt._cache.data import CALLED, COST_PREFIX, GROUP, POOL, PROPENSITY, QUERY
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
_MEND = "Mend that line, or leave it out."
#: Fields of a policy's line, of which all but the policy are the same in all of a log; a request's; what came out.
_HEAD = {
    "kind": str, "classes": int, "unit": str, "costs": list, "names": list, "format": str, "version": int,
    "policy": str,
}  # fmt: skip
_ALIKE = tuple(_HEAD)[:5]
_REQUEST = {
    "id": (str, int), "called": list, "propensity": list, "said": list, "cost": list, "answer": int,
    "query?": list, "latency?": (int, float),
}  # fmt: skip
_FEEDBACK = {"id": (str, int), "label?": int, "correct?": list}


def is_log(path: Path) -> bool:
    """Whether a file begins as such a log does."""
    if not path.name.endswith(".jsonl") or not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"{FORMAT}"'.encode() in file.readline(4096)


class _Log:
    """Requests of a log by name, each (line, content), and what came out about them, checked."""

    def __init__(self, path: Path) -> None:
        self.name, self.notes, self.head = path.name, list[str](), dict[str, Any]()
        self.requests: dict[str | int, tuple[int, dict[str, Any]]] = {}
        self.known: dict[str | int, dict[str, Any]] = {}
        self.room = Room("SRC", path.name)
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LINE + 1), b""), 1):
                text = line.strip()
                if len(line) > _LINE:
                    self._refuse(number, "at most 4 MiB", "more")
                if text and not text.endswith(b"}"):
                    self.notes.append(f"{path.name}: line {number} is torn: left out")
                elif text:
                    content = parse(text, f"{path.name}: line {number}", _LINE, _MEND)
                    self._take(number, content, len(line))

    def _refuse(self, number: int, allowed: str, got: Any, step: str = _MEND) -> NoReturn:
        raise input_error(f"{self.name}: line {number}", allowed, str(got)[:80], step)

    def _take(self, number: int, content: Any, size: int) -> None:
        given = content.keys() if isinstance(content, dict) else set()
        fields = _HEAD if "format" in given else _REQUEST if "called" in given else _FEEDBACK
        check_fields(content, fields, f"{self.name}: line {number}", _MEND)
        if fields is _HEAD:
            unlike = [n for n in _ALIKE if self.head and content[n] != self.head[n]]
            kind, costs = KINDS.get(content["kind"]), content["costs"]
            fine = (content["format"], content["version"]) == (FORMAT, 1) and not unlike
            fine = (
                fine
                and kind is not None
                and kind.answers_class
                and 0 <= content["classes"] < 1 << 31
            )
            if not fine or not 1 <= len(costs) <= MAX_MODELS or not _numbers(costs, 0.0):
                step = "Import logs of other models apart."
                self._refuse(
                    number, "a policy of the same models as before", f"another {unlike}", step
                )
            self.head = content
            return
        name = content["id"]
        if not self.head or (fields is _REQUEST) == (name in self.requests):
            got = "one before any policy" if not self.head else f"id {name!r}"
            self._refuse(
                number, "a request with an id of its own, or what came out about one before", got
            )
        if fields is _REQUEST:
            self._check(number, content)
            models, width = (
                len(self.head["costs"]),
                KINDS[self.head["kind"]].width(self.head["classes"]),
            )
            self.room.take(models * (20 + 4 * width), size)
            self.requests[name] = number, content
            return
        called = self.requests[name][1]["called"]
        if [*map(type, content.get("correct", [True] * len(called)))] != [bool] * len(called):
            self._refuse(number, f"correct: {len(called)} of true or false", content["correct"])
        self.known[name] = content  # what is told later counts

    def _check(self, number: int, content: dict[str, Any]) -> None:
        """Refuse a request that no policy of these models could have logged."""
        head, called, likely = self.head, content["called"], content["propensity"]
        models, kind, count = len(head["costs"]), KINDS[head["kind"]], len(called)
        if (
            not all(type(m) is int and 0 <= m < models for m in called)
            or not 0 < len(set(called)) == count
        ):
            self._refuse(number, f"called: some of models 0 to {models - 1}, each once", called)
        if len(likely) != count + 1 or not _numbers(likely, 1e-12, 1.0):
            self._refuse(
                number, f"propensity: {count + 1} numbers in (0, 1], the last of stopping", likely
            )
        if len(content["cost"]) != count or not _numbers(content["cost"], 0.0):
            self._refuse(number, f"cost: {count} numbers, 0 or more", content["cost"])
        width, said = kind.width(head["classes"]), content["said"]
        fine, what = len(said) == count, f"{width} numbers"
        if kind.record:
            what = "a confidence in [0, 1] and a prediction, a whole number"
            fine = fine and all(
                isinstance(one, dict) and _numbers([one.get("confidence")], 0.0, 1.0)
                and type(one.get("prediction", -1)) is int and -1 <= one.get("prediction", -1) < 1 << 31
                for one in said
            )  # fmt: skip
        else:
            fine = fine and all(
                isinstance(o, list) and len(o) == width and _numbers(o, -1e30) for o in said
            )
        if not fine:
            self._refuse(number, f"said: of each model called {what}", said)


def _numbers(values: Any, low: float, high: float = 1e30) -> bool:
    return all(type(value) in (int, float) and low <= value <= high for value in values)


def import_log(
    path: Path, out: Path, labels: Array | None, shares: Mapping[str, float] | None, seed: int, overwrite: bool
) -> list[str]:  # fmt: skip
    """Write a log as a cache; return a line on each thing that was decided."""
    log = _Log(path)
    names, kind = list(log.requests), KINDS[log.head.get("kind", "summary")]
    truth = np.array([log.known.get(name, {}).get("label", -1) for name in names], dtype=np.int64)
    if labels is not None and labels.shape != truth.shape:
        allowed = f"one for each of the {len(truth)} requests, in their order"
        raise input_error("labels", allowed, f"shape {labels.shape}", "Or log feedback by id.")
    truth = truth if labels is None else labels
    judged = [] if (truth >= 0).any() else [n for n in names if "correct" in log.known.get(n, {})]
    if judged and not kind.record:
        step = "Give the label of each request."
        raise input_error(
            "feedback", "labels, where models say more than an answer", "correct", step
        )
    asked = [log.requests[name][1] for name in judged or names]
    if not asked:
        raise input_error("SRC", "a log of one request or more", path.name, "Serve some.")
    usual, n = np.array(log.head["costs"], dtype=np.float64), len(asked)
    count = np.array([len(one["called"]) for one in asked])
    rows, called = np.repeat(np.arange(n), count), np.concatenate([one["called"] for one in asked])

    def spread(values: Any, other: Any, dtype: Any) -> Array:
        values = np.asarray(values, dtype)
        out = np.full((n, len(usual), *values.shape[1:]), other, dtype)
        out[rows, called] = values
        return out

    def each(field: str) -> list[Any]:
        return [value for one in asked for value in one[field][: len(one["called"])]]

    paid = spread(each("cost"), 0.0, float)
    turn = spread(1 + np.arange(len(rows)) - np.repeat(count.cumsum() - count, count), 0, np.int16)
    paid = np.where(turn > 0, paid, usual)
    # Rows that are alike are requests all the same: each is a group.
    arrays = {CALLED: turn, PROPENSITY: spread(each("propensity"), 1.0, float), GROUP: np.arange(n)}
    if kind.record:
        arrays["confidence"] = spread([one["confidence"] for one in each("said")], 0.0, float)
        arrays["prediction"] = spread([one.get("prediction", -1) for one in each("said")], -1, int)
    else:
        even = 0.0 if "logit" in kind.name else 1.0 / log.head["classes"]
        arrays["outputs"] = spread(each("said"), even, np.float32)
    if judged:
        arrays["correct"] = spread(
            [c for name in judged for c in log.known[name]["correct"]], False, bool
        )
    else:
        arrays["labels"] = truth
    if all("query" in one for one in asked):
        arrays[QUERY] = np.array([one["query"] for one in asked], dtype=np.float32)
    same = bool((paid == usual).all())
    if not same:
        arrays[COST_PREFIX + "cost"] = cumulative(paid, "standalone", "cost")
    if unknown := len(names) - (len(judged) or int((truth >= 0).sum())):
        log.notes.append(f"{unknown} of the {len(names)} requests have no feedback")
    log.notes.append(
        f"{n} requests of {count.mean():.2f} calls: models not called are unknown (a censored cache), which "
        "`policyopt fit CACHE --method routing` and `policyopt refit CACHE --policy FILE` take"
    )
    cost = Cost(
        "cost",
        log.head["unit"],
        None if same is False else tuple(usual),
        "standalone",
        cascade=True,
    )
    told = {"notes": log.notes, "sources": [path.name], "names": log.head["names"]}
    with CacheWriter(
        out, costs=cost, kind=kind.name, classes=log.head["classes"] if kind.record else None,
        shares=shares or {"fit": 1.0}, dtype="float64" if kind.record else "float32", split_seed=seed,
        metadata=told, overwrite=overwrite,
    ) as writer:  # fmt: skip
        try:
            writer.add(POOL, arrays)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
    return log.notes
