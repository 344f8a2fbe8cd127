"""From a policy to the decision graph of each of its exits, by running its own rules on symbols."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from policyopt.runtime.answers import Plain
from policyopt.runtime.deciding import observer_of
from policyopt.runtime.errors import InputError
from policyopt.runtime.experts import policy_of
from policyopt.runtime.output import TOP, ExitOutput, with_log_prob
from policyopt.runtime.policy import Policy

from .graph import ExitGraph, Node, Pool
from .symbol import Symbol


def trace_policy(policy: Any) -> list[ExitGraph]:
    """Return the decision graphs of a policy, one per exit on its path.

    Parameters
    ----------
    policy : Policy, or a fit that holds one

    Returns
    -------
    list of K ExitGraph

    Raises
    ------
    InputError
        A rule does what graphs cannot say.

    Examples
    --------
    >>> from policyopt.runtime.scores import MaxProb
    >>> policy = Policy(MaxProb(), [0.8], [1.0, 3.0], "ms", "logits", 2)
    >>> sorted(trace_policy(policy)[0].outputs)
    ['confidence', 'exit', 'prediction', 'probabilities', 'score']
    """
    policy = policy_of(policy, single=True)
    try:
        return _Tracing(policy).graphs()
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise InputError(
            f"'policy' must have a score, answer and confidence that can be exported. Score "
            f"'{policy.rule.name}' cannot: {error}. Deploy it with policyopt.runtime."
        ) from error


class _Tracing:
    def __init__(self, policy: Policy) -> None:
        self.policy, self.pool = policy, Pool()
        self.inputs: dict[str, Node] = {}

    def graphs(self) -> list[ExitGraph]:
        policy, found = self.policy, []
        sample = self.input("sample", (1,), np.int64)
        answer: Any = policy.answer.start(1, policy.classes)
        scores: Any = tuple(rule.start(sample) for rule in policy.rules)  # type: ignore[arg-type]
        before: tuple[Node, ...] = ()
        for at in range(policy.exits):
            self.inputs = {"sample": sample.node}
            outputs, answer, scores = self.exit(at, answer, scores)
            names = [s for s in (*answer, *(x for state in scores for x in state))]
            # What is left: arrays of the state that are no constants and not the sample's number.
            left = tuple(
                dict.fromkeys(
                    s.node for s in names
                    if isinstance(s, Symbol) and s.node.op != "const" and s.node is not sample.node
                )
            )  # fmt: skip
            left = () if at == policy.exits - 1 else left
            graph = ExitGraph(at, policy.path[at], {}, before, outputs, left)
            used = {id(node) for node in graph.order()}
            inputs = {name: node for name, node in self.inputs.items() if id(node) in used}
            found.append(replace(graph, inputs=inputs))
            # The next exit sees them as its inputs.
            anew = {
                id(n): self.input(f"state{at}_{i}", n.shape, n.dtype) for i, n in enumerate(left)
            }
            before = tuple(s.node for s in anew.values())
            renew = lambda x: anew.get(id(x.node), x) if isinstance(x, Symbol) else x  # noqa: E731, B023
            answer = tuple(map(renew, answer))
            scores = tuple(tuple(map(renew, state)) for state in scores)
        return found

    def input(self, name: str, shape: tuple[int, ...], dtype: Any) -> Symbol:
        node = self.pool.make("input", (), shape, dtype, name=name)
        self.inputs[name] = node
        return Symbol(self.pool, node)

    def exit(self, at: int, answer: Any, states: Any) -> tuple[dict[str, Node], Any, Any]:
        policy = self.policy
        output, logits, answer = self.observe(at, answer)
        last = at == policy.exits - 1
        scored = [
            rule.score(at, output, state) for rule, state in zip(policy.rules, states, strict=True)
        ]
        score, states = scored[0][0], tuple(state for _, state in scored)
        thresholds: Any = None if last else policy.thresholds[at]
        sample: Any = Symbol(self.pool, self.inputs["sample"])
        if policy.mixture is not None:
            arm = sample.traced_coin(policy.mixture.seed, 0) < policy.mixture.share
            if len(scored) > 1:
                score = np.where(arm, scored[1][0], score)  # type: ignore[call-overload]
            if not last:
                thresholds = np.where(
                    arm, float(policy.mixture.thresholds[at]), float(policy.thresholds[at])
                )  # type: ignore[call-overload]
        score = sample.of(score).astype(np.float64)
        leave = sample.of(np.ones(1, dtype=bool)) if last else score >= thresholds
        sure: Any = output.confidence
        if policy.confidence is not None:
            sure = policy.confidence.curve(at, sure)
        outputs = {
            "exit": leave, "prediction": output.prediction, "score": score, "confidence": sure,
        }  # fmt: skip
        given: Any = logits
        if given is not None:
            shift: Any = given - given.max(axis=1, keepdims=True)
            mass = np.exp(shift.astype(np.float64))
            outputs["probabilities"] = mass / mass.sum(axis=1, keepdims=True)
        return {name: sample.of(x).node for name, x in outputs.items()}, answer, states

    def observe(self, at: int, state: Any) -> tuple[ExitOutput, Symbol | None, Any]:
        """As `Observer.look`, on symbols."""
        policy = self.policy
        if policy.kind == "record":
            return self.record(), None, state
        name = "logits" if policy.kind == "logits" else "probabilities"
        logits: Any = self.input(name, (1, policy.classes), np.float32)
        if policy.kind == "probabilities":
            logits = np.log(logits)  # as `log_of`
        if not isinstance(policy.answer, Plain):
            logits, state = policy.answer.answer(at, logits, state)
        output = logits.traced_reduce(TOP)
        if observer_of(policy).full:
            output = with_log_prob(output, logits)
        if policy.needs_features and (width := self.width(at)):
            vectors = self.input("features", (1, width), np.float32)
            output = replace(output, features=vectors)  # type: ignore[arg-type]
        return output, logits, state

    def record(self) -> ExitOutput:
        """Return the columns that the rules read."""
        needs = frozenset().union(*(rule.needs for rule in self.policy.rules))
        prediction = self.input("prediction", (1,), np.int32)
        confidence = self.input("confidence", (1,), np.float64)
        tops = [confidence]
        if "margin" in needs:
            tops.append(self.input("second", (1,), np.float64))
        unknown = prediction.of(np.full(1, np.nan))
        entropy = self.input("entropy", (1,), np.float64) if "entropy" in needs else unknown
        stacked: Any = np.stack(tops, axis=1)  # type: ignore[call-overload]
        return ExitOutput(prediction, stacked, None, entropy, unknown)  # type: ignore[arg-type]

    def width(self, at: int) -> int:
        """Numbers of the model's feature vector at an exit; 0 where no rule looks at it."""
        for rule in self.policy.rules:
            arrays = getattr(rule, "projection", None) or getattr(rule, "points", None)
            if arrays is not None and at < len(arrays):
                return int(arrays[at].shape[1])
        return 0
