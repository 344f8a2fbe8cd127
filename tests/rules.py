"""One small policy of every rule, made by hand: K = 3 exits, C = 3 classes."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jsonschema import Draft202012Validator

from policyopt.runtime._answers import make_answer
from policyopt.runtime._bandits import BANDITS, make_bandit
from policyopt.runtime._calibrators import make_calibrator
from policyopt.runtime._experts import ExpertPolicy
from policyopt.runtime._family import PolicyFamily
from policyopt.runtime._online import UEEUCB, Controller, LinUCB, Online, SplitEE
from policyopt.runtime._online.serving import ExitRule
from policyopt.runtime._policy import ALWAYS, NEVER, Abstention, Mixture, Policy, to_dict
from policyopt.runtime._scores import make_rule
from policyopt.runtime._scores.history import FEATURES, Hidden, basis_size

K, C = 3, 3
DOCS = Path(__file__).resolve().parents[1] / "docs"


def _numbers(*shape):
    return (np.random.default_rng(shape).normal(size=shape).round(2)).tolist()


def _history(name="summary"):
    width, size = FEATURES[name].width, basis_size(name)
    return {
        "features": name, "center": _numbers(K - 1, width),
        "scale": [[0.5] * width] * (K - 1), "weights": _numbers(K - 1, size), "offset": [0.1, -0.2],
    }  # fmt: skip


def _points(space="logits"):
    return {
        "space": space, "classes": C, "points": [_numbers(3, 3), _numbers(2, 2)],
        "owner": [[0, 1, 2], [0, 2]], "projection": [_numbers(3, 3), _numbers(2, 3)],
    }  # fmt: skip


def _network():
    given = _history()
    size = basis_size("summary")
    del given["offset"]
    layers = {
        "weights": [_numbers(1, 2, size), _numbers(2, 1, 2)],
        "biases": [[[0.1, 0]], [[0.5], [0]]],
    }
    return {**given, "activation": "tanh", **layers}


SCORES: dict[str, dict[str, Any]] = {
    "advantage": _history("distribution"), "logistic": _history(), "halting": {**_history(), "eps": 0.05},
    "agreement": {"size": 2, "soft": 1}, "beem": {"weights": [0.5, 1.0, 1.5]},
    "class_offset": {"offset": [0.1, 0.0, -0.1], "other": 0.2}, "constant": {},
    "energy": {}, "max_logit": {}, "dda": {"confidence": 1, "history": 0}, "de3_bert": {**_points(), "weight": 0.5},
    "e2cm": {**_points(), "norm": [[1.0, 2.0, 0.5], [1.0, 1.5]], "projection": None,
             "points": [_numbers(3, 3), _numbers(2, 3)]},
    "eenet": {"shared": [_numbers(2, C + 3 + k) for k in range(K)], "utility": _numbers(K, 2)},
    "eenet_released": {"weights": [_numbers(C + 2 + k) for k in range(K)]},
    "entropy": {"classes": C}, "margin": {}, "max_prob": {}, "network": _network(), "patience": {},
    "random": {"seed": 7}, "similarity": {"measure": "js", "patience": 2},
    "trust_score": _points("features"), "vote": {}, "window": {"middle": [0.5, 0.6]},
}  # fmt: skip
ANSWERS: dict[str, dict[str, Any]] = {
    "plain": {}, "temperature": {"temperatures": [1.0, 1.5, 2.0]},
    "vector": {"scale": [[1.0, 0.9, 1.1]] * K, "bias": _numbers(K, C)},
    "nearest_mean": {"space": "features", "points": [_numbers(3, 3), _numbers(3, 2)], "norm": [[1.0, 2.0, 0.5]] * 2,
                     "offset": [[0.0, 0.0, -30.0], [0.0] * 3], "projection": [_numbers(3, 3), _numbers(2, 4)]},
    "combined": {"weights": [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], "bias": None},
}  # fmt: skip
CALIBRATORS: dict[str, dict[str, Any]] = {
    "platt": {"slope": [1.0, 1.1, 1.2], "offset": [0.0, 0.1, 0.2]},
    "beta": {"a": [1.0] * K, "b": [0.5] * K, "c": [0.0] * K},
    "isotonic": {"knots": [[0.4, 0.8]] * K, "values": [[0.5, 0.9]] * K},
    "histogram": {"edges": [[0.5], [], [0.3, 0.6]], "values": [[0.3, 0.9], [0.7], [0.2, 0.5, 0.8]]},
}


def policy(score="max_prob", answer="plain", calibrator=None, mixed=None, kind="logits", **more):
    """Return a policy of these rules; `mixed` names the score of its mixture, "" the same one."""
    other = None if not mixed else make_rule(mixed, SCORES[mixed])
    return Policy(
        make_rule(score, SCORES[score]), [0.6, 0.7], [1.0, 2.0, 4.0], "ms", kind, C,
        mixture=None if mixed is None else Mixture(np.array([0.5, 0.9]), 0.25, 3, other),
        provenance={"method": score, "budget": 2.5, "versions": {"policyopt": "0.1.0"}},
        answer=make_answer(answer, ANSWERS[answer]), overhead=[0.0, 0.01, 0.02],
        calibrator=None if calibrator is None else make_calibrator(calibrator, CALIBRATORS[calibrator]),
        **more,
    )  # fmt: skip


_SETS = ("max_prob", "margin", "entropy", "patience", "logistic")
#: Of each kind that is neither class outputs nor a summary, scores that read it.
KIND_SCORES = {
    "logit": ("max_prob", "entropy", "advantage"), "probability": ("margin", "vote"),
    "multilabel": _SETS, "multilabel_probabilities": _SETS,
    "regression": ("max_prob", "logistic"), "regression_variances": ("max_prob", "beem"),
}  # fmt: skip


def of_kind(kind, score="max_prob", classes=None, **more):
    """Return a policy of one of `KIND_SCORES`; `classes`: labels, or values."""
    classes = classes or (2 if kind in ("logit", "probability") else C)
    params = {"entropy": {"classes": classes}}.get(score, SCORES[score])
    scaled = {"error_scale": 0.7} if kind.startswith("regression") else {}
    costs, step = [1.0, 2.0, 4.0], [0.3, 0.4]
    return Policy(make_rule(score, params), step, costs, "ms", kind, classes, **scaled, **more)


def policies() -> dict[str, Policy]:
    """Return policies that use every rule and every part of a policy file."""
    found = {f"score {name}": policy(name) for name in SCORES}
    found |= {f"answer {name}": policy(answer=name) for name in ANSWERS}
    found |= {f"calibrator {name}": policy(calibrator=name) for name in CALIBRATORS}
    found["mixture of one score"] = policy("patience", mixed="")
    found["mixture of two scores"] = policy("margin", "temperature", "platt", mixed="window")
    found["kept exits"] = policy(active_exits=(0, 2, 3), model_exits=5)
    declines = Abstention([0.5, 0.6, 0.6], cost=2.0, quality=0.9)
    found["abstains"] = policy("margin", calibrator="platt", abstention=declines)
    by_energy = replace(declines, rule=make_rule("energy", {}), thresholds=[1.0, 1.5, 2.0])
    found["abstains by a score"] = policy("patience", mixed="window", abstention=by_energy)
    found["records"] = policy("logistic", kind="summary")
    return found


def experts() -> ExpertPolicy:
    some = {"active_exits": (0, 2, 3), "model_exits": 4}
    return ExpertPolicy(("clean", "blur"), (policy(**some), policy("margin", **some)))


def families() -> dict[str, PolicyFamily]:
    """Return families of one rule, of several rules with a coin and a map, and of several sets of exits."""
    one, costs = policy(), [1.5, 2.0, 3.5]
    mixed = [
        policy("patience", mixed=""), policy("margin", "temperature", "platt"),
        policy("entropy", abstention=Abstention([0.4, 0.5, 0.5], cost=0.5)),
    ]  # fmt: skip
    skips = [
        replace(one, active_exits=kept, model_exits=4) for kept in ((0, 1, 2), (0, 2, 3), (1, 2, 3))
    ]  # fmt: skip
    told = {"versions": {"policyopt": "0.1.0"}}
    return {
        "one rule": PolicyFamily.of(
            one, [[0.3, 0.4], [0.6, 0.5], [0.7, 0.8]], costs, full_cost=4.5, provenance=told
        ),
        "without costs": PolicyFamily.of(one, [[0.3, 0.4], [0.6, 0.5]]),
        "several rules": PolicyFamily(tuple(mixed), costs, costs, names=("thrifty", "usual", "premium")),
        "several sets of exits": PolicyFamily(tuple(skips), costs),
    }  # fmt: skip


def online_policies() -> dict[str, Online]:
    """Return an online policy of everything that steers, each after a few requests."""
    one = policy()
    family = PolicyFamily.of(one, [[ALWAYS, ALWAYS], [0.6, 0.7], [NEVER, NEVER]])
    steering: dict[str, Any] = {
        name: make_bandit(name, {"window": 8} if name == "sliding_window_ucb" else {})
        for name in BANDITS
    }
    steering |= {
        "controller": Controller(0.4), "controller, several rules": Controller(0.4), "linucb": LinUCB(),
        "linucb, features": LinUCB(0.3, "both", Hidden([_numbers(2, 3)] * (K - 1), _numbers(K - 1, 2))),
        "splitee": SplitEE((0.1, 0.2, 0.3), 0.1), "uee_ucb": UEEUCB((0.1, 0.2, 0.3)),
    }  # fmt: skip
    logits = np.random.default_rng(0).normal(size=(20, K, C)) * 2
    found = {}
    for name, who in steering.items():
        on = one if isinstance(who, ExitRule) else family  # rules by exit look at no rungs
        on = families()["several rules"] if "several" in name else on
        online = Online(on, who, overhead=(0.1, 0.2), seed=5)
        for row in logits:
            request = online.start()
            for k in one.active_exits:
                if online.decide(k, row[k], request, row[k]).exit:
                    break
            online.feedback(request)
        found[name] = online
    return found


@cache
def validator(file: str) -> Draft202012Validator:
    schema = json.loads((DOCS / file).read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def schema_of(content: Any) -> str:
    return content["format"].removeprefix("policyopt-") + ".schema.json"


def assert_valid(content: Any) -> None:
    errors = list(validator(schema_of(content)).iter_errors(content))
    assert not errors, [(list(e.absolute_path), e.message[:300]) for e in errors]


def artifact(value: Policy) -> dict[str, Any]:
    return json.loads(json.dumps(to_dict(value), allow_nan=False))
