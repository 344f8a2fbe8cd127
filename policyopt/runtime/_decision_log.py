"""`DecisionLog`: one JSON line per request that a routing policy served, and what was learnt of its answer later."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ._checks import check_least, check_type
from ._errors import input_error
from ._files import refusing
from ._kinds import KINDS
from ._outputs import ExitOutput
from ._reading import class_texts
from ._routing import Route, RoutingPolicy, routing_to_dict
from ._text import same_answer

FORMAT = "policyopt-decisions"
_KEPT = 1000  # characters of an id, and of a text by which answers and labels are compared


class DecisionLog:
    """Appends to a file what a routing policy did, whole lines at a time: several processes may share it.

    The first line that it writes, and each time that it is opened, says which policy served.

    Parameters
    ----------
    path : path
    policy : RoutingPolicy
        Who decides; `RoutingPolicy.exploring`, or else nothing is learnt of what it does not do.

    Examples
    --------
    >>> import tempfile
    >>> from policyopt.runtime._routing import Arm, Ensemble, Standing
    >>> ensemble = Ensemble(
    ...     np.array([[0.0, 1]]), np.array([2.0]), 2, False, np.ones(1), 3.0, np.zeros((1, 1))
    ... )
    >>> arm = Arm(0, (Standing((0,), np.ones(1)),))
    >>> policy = RoutingPolicy((arm,), 0.0, 0, ensemble, "ms", "probabilities")
    >>> log = DecisionLog(Path(tempfile.mkdtemp()) / "decisions.jsonl", policy)
    >>> route = policy.start(7)
    >>> _ = policy.step([0.9, 0.1], route)
    >>> log.write("request-7", route)
    >>> log.feedback("request-7", label=0)
    >>> print(log.path.read_text().splitlines()[1])
    {"id": "request-7", "called": [0], "propensity": [1.0, 1.0], "said": [[0.9, 0.1]], "cost": [2.0], "answer": 0}
    """

    def __init__(self, path: str | os.PathLike[str], policy: RoutingPolicy) -> None:
        step = "E.g. po.fit(data, budget, 'routing').policy."
        check_type("policy", policy, RoutingPolicy, "a routing policy", step)
        self.path, self.policy, self._texts = Path(path), policy, [*class_texts(policy.provenance)]
        self._append({
            "format": FORMAT, "version": 1, "policy": routing_to_dict(policy)["sha256"], "kind": policy.kind,
            "classes": policy.classes, "unit": policy.unit, "costs": policy.costs.tolist(),
            "names": list(policy.names),
            **({"class_names": policy.provenance["class_names"]} if self._texts else {}),
        })  # fmt: skip

    def write(
        self, id: str | int, route: Route, *, query: Any = None, latency: float | None = None
    ) -> None:
        """Append a request that has ended: its name, and, where wanted, its query vector and how long it took."""
        if route.next is not None:
            allowed, step = "one that has ended", "Write it after the last `step`."
            raise input_error("route", allowed, f"one that asks model {route.next} next", step)
        texts = [text[:_KEPT] for text in route.texts or ()][len(self._texts) :]
        self._append({
            "id": id, "called": [*route.said], "propensity": route.propensity,
            "said": [_plain(said) for said in route.said.values()], "cost": route.spent,
            "answer": route.prediction,
            **({} if route.texts is None or (self._texts and not texts) else {"texts": texts}),
            **({} if query is None else {"query": _plain(query)}),
            **({} if latency is None else {"latency": check_least("latency", latency)}),
        })  # fmt: skip

    def feedback(
        self, id: str | int, *, label: int | str | None = None, correct: Sequence[bool] | None = None
    ) -> None:  # fmt: skip
        """Append what came out: the right answer, or of each model called, in turn, whether it was right."""
        if (label is None) == (correct is None):
            raise input_error("feedback", "a label, or correct", "both or neither", "Give one.")
        classes, most = self.policy.classes or len(self._texts), self.policy.model_exits
        if isinstance(label, str) and label.strip() and KINDS[self.policy.kind].record:
            meant = same_answer(label)
            label = self._texts.index(meant) if meant in self._texts else meant[:_KEPT]
        elif label is not None and (
            isinstance(label, bool) or not isinstance(label, (int, np.integer))
            or not -1 <= label < (classes or 1 << 31)
        ):  # fmt: skip
            span = f" from 0 to {classes - 1}" if classes else ""
            allowed = f"the number of a class{span}, or the right answer where answers are texts"
            raise input_error("label", allowed, label, "E.g. label=1, or label='Oslo'.")
        if correct is not None and not (
            isinstance(correct, (list, tuple, np.ndarray)) and 1 <= len(correct) <= most
        ):
            step = "E.g. correct=[True, False]: of each model called, in turn."
            raise input_error("correct", f"a list of 1 to {most} truth values", correct, step)
        told = {"label": label} if correct is None else {"correct": [bool(c) for c in correct]}
        self._append({"id": id, **told})

    def _append(self, content: Mapping[str, Any]) -> None:
        id = content.get("id", 0)
        if (
            isinstance(id, bool)
            or not isinstance(id, (str, int, np.integer))
            or len(str(id)) > _KEPT
        ):
            allowed = f"a text of {_KEPT} characters or fewer, or a whole number"
            raise input_error("id", allowed, id, "E.g. the request's number.")
        text = json.dumps(content, allow_nan=False, default=_plain) + "\n"
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        with refusing(self.path):
            descriptor = os.open(self.path, flags, 0o666)
            try:
                size = os.lseek(descriptor, 0, os.SEEK_END)
                if size:  # a line that a crash has torn stays a line of its own
                    os.lseek(descriptor, size - 1, os.SEEK_SET)
                    text = text if os.read(descriptor, 1) == b"\n" else "\n" + text
                data = text.encode()
                while data:
                    data = data[os.write(descriptor, data) :]
            finally:
                os.close(descriptor)


def _plain(value: Any) -> Any:
    """Return arrays and records as lists and objects of numbers with six digits."""
    if isinstance(value, ExitOutput):
        value = {"prediction": value.prediction[0], "confidence": value.confidence[0]}
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    array = np.asarray(value)
    if array.dtype.kind == "f":  # what JSON has no word for
        array = np.nan_to_num(array, nan=0.0, posinf=1e30, neginf=-1e30)
    if array.dtype.kind == "f":
        return [float(f"{v:.6g}") for v in array.ravel()] if array.ndim else float(f"{array:.6g}")
    return array.tolist()
