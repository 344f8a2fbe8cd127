"""What a routing policy logged while serving (`runtime.DecisionLog`), as a censored cache: of models called only.

A row knows what the models said that were called, in which order, and how likely each of these decisions was.
What stands at the other models (no answer, confidence 0, outputs of no information, usual costs) is read by nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from policyopt._cache.data import CALLED, COST_PREFIX, GROUP, POOL, PROPENSITY, QUERY
from policyopt._cache.writer import CacheWriter
from policyopt._costs import Cost, cumulative
from policyopt.runtime._decision_log import FORMAT
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._reading import class_texts
from policyopt.runtime._routing import MAX_MODELS
from policyopt.runtime._sizes import Room
from policyopt.runtime._strict_json import check_fields, parse
from policyopt.runtime._typing import Array

_LINE = 4 << 20  # bytes
_MEND, _TORN = "Mend that line, or leave it out.", " is torn: left out"
#: Fields of a policy's line, of which all but the policy are the same in all of a log; a request's; what came out.
_HEAD = {
    "kind": str, "classes": int, "unit": str, "costs": list, "names": list, "format": str, "version": int,
    "policy": str, "class_names?": list,
}  # fmt: skip
_ALIKE = (*tuple(_HEAD)[:5], "class_names")
_REQUEST = {
    "id": (str, int), "called": list, "propensity": list, "said": list, "cost": list, "answer": int,
    "query?": list, "latency?": (int, float), "texts?": list,
}  # fmt: skip
_FEEDBACK = {"id": (str, int), "label?": (int, str), "correct?": list}


def is_log(path: Path) -> bool:
    """Whether a file begins as such a log does."""
    if not path.name.endswith(".jsonl") or not path.is_file():
        return False
    with path.open("rb") as file:
        return f'"{FORMAT}"'.encode() in file.readline(4096)


class Log:
    """Requests of a log by name, each (line, content), and what came out about them, checked."""

    def __init__(self, path: Path) -> None:
        self.name, self.notes, self.head = path.name, list[str](), dict[str, Any]()
        self.requests: dict[str | int, tuple[int, dict[str, Any]]] = {}
        self.known: dict[str | int, dict[str, Any]] = {}
        self.strays, self.classes, self.row = 0, list[str](), 0  # bytes that a request takes
        room, self.policies = Room("SRC", path.name), dict[str, None]()  # by checksum
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LINE + 1), b""), 1):
                text, where = line.strip(), f"{path.name}: line {number}"
                if text and not text.endswith(b"}") and len(line) <= _LINE:
                    self.notes.append(where + _TORN)
                elif text:
                    room.take(self.row, len(line))
                    try:
                        content = parse(text, where, _LINE, _MEND)
                    except InputError as error:
                        cut: Any = error.__cause__  # read to its end, and more was to come
                        if getattr(cut, "pos", -1) < len(text) and "Unterminated" not in str(cut):
                            raise
                        self.notes.append(where + _TORN)
                        continue
                    for allowed, fine in self._take(number, content, where):
                        if not fine:
                            raise input_error(where, allowed, str(content)[:80], _MEND)
        if self.strays:
            told = "feedback left out, as the log has no such request before it:"
            self.notes.append(f"{told} {self.strays}")

    def _take(self, number: int, content: Any, where: str) -> Iterator[tuple[str, bool]]:
        """Keep a line's content; yield what it must be, and whether it is."""
        given = content.keys() if isinstance(content, dict) else set()
        fields = _HEAD if "format" in given else _REQUEST if "called" in given else _FEEDBACK
        check_fields(content, fields, where, _MEND)
        head = self.head
        if fields is _HEAD:
            fine = (content["format"], content["version"]) == (FORMAT, 1)
            fine = fine and getattr(KINDS.get(content["kind"]), "answers_class", False)
            fine = fine and content["classes"] >= 2 * KINDS[content["kind"]].whole
            yield "a policy that routes", fine and 0 <= content["classes"] < 1 << 31
            yield "a policy of models with costs", _numbers(content["costs"], 0.0, 1, MAX_MODELS)
            names = content["names"]
            fine = all(isinstance(name, str) for name in names)
            yield "names of its models", fine and len(names) in (0, len(content["costs"]))
            alike = not head or all(content.get(n) == head.get(n) for n in _ALIKE)
            yield "a policy of the same models as before (import logs of others apart)", alike
            self.head, self.classes = content, [*class_texts(content)]
            width = KINDS[content["kind"]].width(content["classes"])
            self.row = len(content["costs"]) * (20 + 4 * width)
            self.policies[content["policy"]] = None
            return
        name = content["id"]
        yield "after the line of the policy that served", bool(head)
        new = name not in self.requests
        yield (
            f"of another id: {name!r} is that of line {self.requests.get(name, (0,))[0]}",
            new or fields is _FEEDBACK,
        )
        if new and fields is _FEEDBACK:  # a torn line, or one of a file before
            self.strays += 1
            return
        if fields is _FEEDBACK:
            about = self.requests[name][1]
            called, texts = about["called"], about.get("texts")
            if isinstance(content.get("label"), str) and self.classes:
                meant = [*self.classes, *(texts or []), content["label"]]
                content, texts = {"id": name, "label": meant.index(content["label"])}, None
            elif isinstance(content.get("label"), str):
                yield "label: a class number, as its answers are no texts", texts is not None
                said = [one.get("prediction", -1) for one in about["said"]]
                right = [p >= 0 and about["texts"][p : p + 1] == [content["label"]] for p in said]
                content, texts = {"id": name, "correct": right}, None
            types = [*map(type, content.get("correct", [True] * len(called)))]
            yield f"correct: {len(called)} of true or false", types == [bool] * len(called)
            fine = "label" not in content or texts is None or len(self.classes) > 0
            yield "label: the right answer's text, or correct, as its answers are texts", fine
            first = next(iter(self.known.values()), content)
            yield (
                "of one sort in a log: label, or correct",
                ("label" in content) == ("label" in first),
            )
            most = 1 << 31 if KINDS[head["kind"]].record else head["classes"]
            yield "label: a class number, or -1", -1 <= content.get("label", -1) < most
            self.known[name] = content  # what is told later counts
            return
        called, said = content["called"], content["said"]
        models, kind, count = len(head["costs"]), KINDS[head["kind"]], len(called)
        fine = all(type(m) is int and 0 <= m < models for m in called)
        yield (
            f"called: some of models 0 to {models - 1}, each once",
            fine and 0 < len(set(called)) == count,
        )
        fine = _numbers(content["propensity"], 1e-12, count + 1, most=1.0)
        yield f"propensity: {count + 1} numbers in (0, 1], the last of stopping", fine
        yield f"cost: {count} numbers, 0 or more", _numbers(content["cost"], 0.0, count)
        query = content.get("query", [0])
        yield "query: numbers", _numbers(query, -1e30, 1, len(query))
        if kind.record:
            fine = all(
                isinstance(one, dict) and _numbers([one.get("confidence")], 0.0, 1, most=1.0)
                and type(one.get("prediction", -1)) is int and -1 <= one.get("prediction", -1) < 1 << 31
                for one in said
            )  # fmt: skip
        else:
            fine = all(_numbers(one, -1e30, kind.width(head["classes"])) for one in said)
        what = "a confidence in [0, 1], a prediction" if kind.record else "numbers of its output"
        yield f"said: of each model called {what}", fine and len(said) == count
        self.requests[name] = number, content


def _numbers(values: Any, low: float, least: int, longest: int = 0, most: float = 1e30) -> bool:
    """Whether this is a list of that many numbers in a range."""
    fine = isinstance(values, list) and least <= len(values) <= max(longest, least)
    return fine and all(type(v) in (int, float) and low <= v <= most for v in values)


def import_log(
    path: Path, out: Any, labels: Array | None, shares: Mapping[str, float] | None, seed: int, overwrite: bool
) -> list[str]:  # fmt: skip
    """Write a log as a cache; return a line on each thing that was decided."""
    log = Log(path)
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
    classes = log.head["classes"]
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
        said = [one.get("prediction", -1) for one in each("said")]
        arrays["prediction"] = spread(said, -1, int)
        classes = classes and max(classes, 1 + max(said), 1 + int(truth.max()))  # texts of none
    else:
        even = 0.0 if "logit" in kind.name else 1.0 / classes
        arrays["outputs"] = spread(each("said"), even, np.float32)
    if judged:
        arrays["correct"] = spread(
            [c for name in judged for c in log.known[name]["correct"]], False, bool
        )
    else:
        arrays["labels"] = truth
    if len({len(one.get("query", ())) for one in asked}) == 1 and "query" in asked[0]:
        arrays[QUERY] = np.array([one["query"] for one in asked], dtype=np.float32)
    means = tuple(usual) if (paid == usual).all() else None
    if means is None:
        arrays[COST_PREFIX + "cost"] = cumulative(paid, "standalone", "cost")
    if unknown := len(names) - (len(judged) or int((truth >= 0).sum())):
        log.notes.append(f"{unknown} of the {len(names)} requests have no feedback")
    log.notes.append(
        f"{n} requests of {count.mean():.2f} calls: models not called are unknown (a censored cache), which "
        "`policyopt fit CACHE --method routing` and `policyopt refit CACHE --policy FILE` take"
    )
    cost = Cost("cost", log.head["unit"], means, "standalone", cascade=True)
    told = {"notes": log.notes, "sources": [path.name], "names": log.head["names"]}
    told["policies"] = [*log.policies]
    told |= {"class_names": log.head["class_names"]} if log.classes else {}
    with CacheWriter(
        out, costs=cost, kind=kind.name, classes=classes if kind.record else None,
        shares=shares or {"fit": 1.0}, dtype="float64" if kind.record else "float32", split_seed=seed,
        metadata=told, overwrite=overwrite,
    ) as writer:  # fmt: skip
        try:
            writer.add(POOL, arrays)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
    return log.notes
