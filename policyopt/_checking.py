"""What every policy passes, ours and yours, on made-up rows of 4 exits and 6 classes: `check_score`, `check_method`."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._cache.arrays import from_arrays
from policyopt._methods.base import Method, outcome_of
from policyopt._methods.fitted import Fitted
from policyopt._methods.registry import make_method
from policyopt._replay import replay
from policyopt._table import Tables
from policyopt.runtime._checks import check_one_of, check_type
from policyopt.runtime._errors import BudgetError, CheckError, InputError, input_error
from policyopt.runtime._experts import any_to_dict
from policyopt.runtime._outputs import ExitOutput, reduce_logits, with_columns, with_log_prob
from policyopt.runtime._parameters import Array, Choice, Number, fields_of, size_of
from policyopt.runtime._policy import Policy, from_dict
from policyopt.runtime._routing import RoutingPolicy, routing_from_dict
from policyopt.runtime._scores import ScoreRule, make_rule, score_table
from policyopt.runtime._typing import Floats, Ints

EXITS, CLASSES, FEATURES = 4, 6, 5
COSTS = (1.0, 2.0, 4.0, 8.0)
BUDGETS = (1.3, 2.0, 3.7, 6.5)


def made_up(n: int, exits: int = EXITS, classes: int = CLASSES, seed: int = 0) -> tuple[Any, Ints]:
    """Return logits (n, K, C) float32 and labels (n,): the signal grows over exits, rows differ in difficulty."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    signal = np.linspace(1.5, 5.0, exits)[None, :] / (0.6 + rng.gamma(2.0, 1.0, n))[:, None]
    noise = rng.normal(size=(n, 1, classes)) * 0.6 + rng.normal(size=(n, exits, classes)) * 0.8
    logits = noise + signal[:, :, None] * np.eye(classes)[labels][:, None, :]
    return logits.astype(np.float32), labels


def check_method(method: str | Method | type[Method], only: str = "") -> None:
    """Fit a method on made-up rows and see that it keeps what all methods promise.

    The budget is kept on the rows of the fit and near on others; budgets out of range are refused; the
    same seed gives the same policy, and one budget alone the policy of the whole path; later exits change
    no decision; a batch, survivors and single steps decide the same; the file comes back as it was;
    arrays are left alone; few rows, or all alike, are no accident.

    Parameters
    ----------
    method : str, Method or its class
        A registered name (perhaps with settings, ``max_prob:thresholds=joint``), or the method itself.
    only : str
        The name of one check; default all.

    Raises
    ------
    CheckError
        Which check failed, and how.

    Examples
    --------
    >>> import policyopt as po
    >>> po.check_method("max_prob", only="no_peeking")
    """
    made: Any = method() if isinstance(method, type) else method
    made = make_method(made) if isinstance(made, str) else made
    check_type("method", made, Method, "a name or a Method", "E.g. 'max_prob'.")
    trial = Trial(made)
    for name, check in _chosen(METHOD_CHECKS, only).items():
        trial.checking = name
        check(trial)


def check_score(
    score: type[ScoreRule] | ScoreRule, only: str = "", exits: int = EXITS, classes: int = CLASSES
) -> None:
    """Try a score on made-up rows and see that it keeps what all scores promise.

    It reads what it declares and nothing else; one row, some rows and survivors score as in the whole
    batch, bit for bit; scores are finite numbers; its file comes back as it was; arrays are left alone;
    every export target that is installed decides the same.

    Parameters
    ----------
    score : ScoreRule or its class
        Of a class whose fields need values, an instance for 4 exits and 6 classes is drawn from their
        declarations; give one where no random numbers will do.
    only : str
        The name of one check; default all.
    exits, classes : int
        What an instance was made for.

    Raises
    ------
    CheckError
        Which check failed, and how.

    Examples
    --------
    >>> import policyopt as po
    >>> from policyopt.runtime._scores import Margin
    >>> po.check_score(Margin, only="columns")
    """
    kind = score if isinstance(score, type) else type(score)
    if not issubclass(kind, ScoreRule):
        step = "E.g. po.check_score(MyScore)."
        raise input_error("score", "a ScoreRule or its class", kind.__name__, step)
    rule = example(score, exits, classes) if isinstance(score, type) else score
    for name, check in _chosen(SCORE_CHECKS, only).items():
        try:
            check(rule, exits, classes)
        except Exception as error:  # of a rule of somebody's own: whatever it is
            kind = type(error) if isinstance(error, InputError) else CheckError
            told = str(error) or repr(error)
            raise kind(f"Score '{rule.name}', check '{name}': {told}") from error


def example(rule: type[ScoreRule], exits: int, classes: int, seed: int = 0) -> ScoreRule:
    """Return an instance with random parameters, as the class declares them."""
    rng = np.random.default_rng(seed)

    def size(dimension: str, k: int) -> int:
        known = {"K": exits, "C": classes, "k": k, "D": min(FEATURES, classes)}
        total, other = size_of(dimension, known)
        return total + 2 * len(other)

    def numbers(spec: Array, k: int = 0) -> Floats:
        low = max(spec.least, spec.over)
        found = rng.normal(size=[size(d, k) for d in spec.shape])
        found = np.abs(found) * 0.3 + low if low > -math.inf else found
        most = np.floor(spec.most) if spec.whole else spec.most
        return np.minimum(np.ceil(found) if spec.whole else found, most)

    given: dict[str, Any] = {}
    for one in fields_of(rule):
        spec = rule.specs.get(one.name)
        if isinstance(spec, Array):
            each = [numbers(spec, k) for k in range(size(spec.each, 0))] if spec.each else None
            given[one.name] = numbers(spec) if each is None else each
        elif one.default is dataclasses.MISSING and isinstance(spec, Choice):
            given[one.name] = spec.names[0]
        elif one.default is dataclasses.MISSING:
            spec, whole = spec or Number(), one.type in ("int", int)
            most = classes if one.name == "classes" else min(1, spec.most, spec.below - 1)
            number = max(spec.least, math.floor(most) if whole else most)
            given[one.name] = math.ceil(number) if whole else number
    try:
        return rule(**given)
    except (InputError, TypeError) as error:
        allowed, step = "made of what its class declares", "Give check_score an instance."
        raise input_error("score", allowed, str(error), step) from error


def _chosen(checks: dict[str, Any], only: str) -> dict[str, Any]:
    return {check_one_of("only", only, checks): checks[only]} if only else checks


def _outputs(exits: int, classes: int, n: int = 60) -> list[ExitOutput]:
    """Return what exits gave, all columns there; some rows are ties, some certain, in some a class cannot be."""
    logits, _ = made_up(n, exits, classes, seed=3)
    logits[: n // 4] = np.round(logits[: n // 4])
    features = np.ascontiguousarray(logits.swapaxes(0, 1)[..., :FEATURES])
    logits[n // 2 :: 9, :, -1] = -np.inf
    found = []
    for k in range(exits):
        whole = with_log_prob(reduce_logits(logits[:, k]), logits[:, k])
        found.append(with_columns(whole, features=features[k]))
        for column in found[-1].columns():  # whoever writes to what it is shown is found out
            column.flags.writeable = False
    return found


def _columns(rule: ScoreRule, exits: int, classes: int) -> None:
    """Require: it reads what it declares, and writes to nothing that it is shown."""
    if not np.isfinite(score_table(rule, _outputs(exits, classes))).all():
        raise CheckError("scores must be finite numbers, even where log_prob is -inf")


def _rows_alone(rule: ScoreRule, exits: int, classes: int) -> None:
    """Require: a row by itself, and survivors of a batch, score as in the whole batch, bit for bit."""
    outputs, n = _outputs(exits, classes), 60
    whole = score_table(rule, outputs)
    for row in range(0, n, 7):
        one = score_table(rule, [o.take(slice(row, row + 1)) for o in outputs], np.array([row]))
        if not np.array_equal(one[0], whole[row]):
            raise CheckError(f"row {row} alone scores {one[0]}, in a batch {whole[row]}")
    alive, state = np.arange(n), rule.start(np.arange(n))
    for k, output in enumerate(outputs):
        score, state = rule.score(k, output.take(alive).shown_to(rule.required_columns), state)
        if not np.array_equal(score, whole[alive, k]):
            raise CheckError(f"survivors score otherwise at exit {k} than the whole batch")
        keep = np.arange(len(alive)) % 3 > 0
        alive, state = alive[keep], tuple(part[keep] for part in state)


def _comes_back(rule: ScoreRule, exits: int, classes: int) -> None:
    """Require: its parameters come back from JSON as they were."""
    again = make_rule(rule.name, json.loads(json.dumps(rule.params(), allow_nan=False)))
    made = [score_table(one, _outputs(exits, classes)) for one in (rule, again)]
    if again != rule or not np.array_equal(made[0], made[1]):
        raise CheckError(f"its parameters come back as {again}, or score otherwise")
    rule.check(exits, classes)


def _exports(rule: ScoreRule, exits: int, classes: int) -> None:
    """Require: every export target that is installed decides as numpy does."""
    from policyopt._export.bundle import write_bundle
    from policyopt._export.samples import golden_of
    from policyopt._export.symbolic import trace_policy
    from policyopt._export.verify import verify

    scores = score_table(rule, _outputs(exits, classes))
    policy = Policy(
        rule, np.median(scores[:, :-1], axis=0), np.arange(1.0, exits + 1), "ms", "logits", classes
    )
    targets = ["python", *["c"] * bool(shutil.which("cc")), *["onnx"] * bool(find_spec("onnx"))]
    graphs = trace_policy(policy)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        write_bundle(policy, out, targets, golden_of(policy, graphs, rows=64), graphs)
        list(verify(out))  # raises at the first difference


SCORE_CHECKS: dict[str, Callable[[ScoreRule, int, int], None]] = {
    "columns": _columns, "rows_alone": _rows_alone, "comes_back": _comes_back, "exports": _exports,
}  # fmt: skip


class Trial:
    """A method fitted on made-up rows, once for all checks."""

    def __init__(self, method: Method) -> None:
        self.method, self.checking, splits = method, "", {}
        for seed, name in enumerate(("fit", "test")):
            logits, labels = made_up(1000, seed=seed)
            vectors = [logits[:, k, :FEATURES] * 0.5 for k in range(EXITS)]
            splits[name] = {"outputs": logits, "labels": labels, "features": vectors}
        self.tables, self.cascade = self.rows(splits), False
        if method.missing_columns(self.tables.get("fit")):
            self.cascade = True  # models that are paid one by one, which come to the same costs
            self.tables = self.rows(splits)
        # What is known of a row before any exit, where that is read.
        self.query = "query" in method.missing_columns(self.tables.get("fit"))
        self.tables = self.rows(splits)

    def rows(self, splits: dict[str, Any], costs: Sequence[float] = COSTS) -> Tables:
        """Return the tables of splits, of a kind that the method takes."""
        paid: dict[str, Any] = {"costs": list(costs), "unit": "ms"}
        if getattr(self, "cascade", False):
            paid |= {"costs": np.diff(costs, prepend=0.0).tolist(), "cost_kind": "standalone"}
        if getattr(self, "query", False):
            splits = {n: {**s, "query": s["outputs"][:, 0, :2]} for n, s in splits.items()}
        return Tables(from_arrays(splits=splits, **paid))

    @cached_property
    def fits(self) -> list[Fitted]:
        """One fit per budget of `BUDGETS`."""
        return self.fit(BUDGETS)

    def fit(self, budgets: tuple[float, ...]) -> list[Fitted]:
        """Fit anew."""
        return self.method.fit_path(self.tables.get("fit"), list(budgets))

    def require(self, holds: object, says: str) -> None:
        """Fail the present check unless something holds."""
        if not holds:
            raise CheckError(f"Method '{self.method}', check '{self.checking}': {says}")

    def vectors(self, logits: npt.NDArray[Any]) -> list[Any] | None:
        """Return feature vectors of other rows, where policies read some."""
        wanted = any(fitted.policy.needs_features for fitted in self.fits)
        return [logits[:, k, :FEATURES] * 0.5 for k in range(EXITS)] if wanted else None

    def decide(self, policy: Any, outputs: npt.NDArray[Any], logits: Any = None) -> Any:
        """Decide for other rows, `logits` where their vectors are those of others."""
        logits = outputs if logits is None else logits
        vectors, more = self.vectors(logits), dict[str, Any]()
        if vectors is not None:
            more["features"] = vectors
        if self.query:
            more["query"] = logits[:, 0, :2]
        return policy.decide(outputs, **more)

    def steps(self, policy: Any, logits: npt.NDArray[Any], row: int) -> tuple[int, int]:
        """Return exit and class of one row, stepped through alone."""
        if isinstance(policy, RoutingPolicy):
            query = logits[row, 0, :2] if self.query else None
            route, last, said = policy.start(row, query), -1, None
            while (model := route.next) is not None:
                last, said = model, policy.step(logits[row, model], route)
            return last, said.prediction if said else -1
        state, vectors = policy.start(row), self.vectors(logits)
        for k in policy.active_exits:
            vector = None if vectors is None else vectors[k][row]
            decision = policy.step(k, logits[row, k], state, vector)
            if decision.exit:
                return k, decision.prediction
        raise CheckError("the last exit did not stop")


def _budget(trial: Trial) -> None:
    """Require: on the rows of the fit the cost is at most the budget; on others it is within the stated interval."""
    test = trial.tables.get("test")
    for fitted in trial.fits:
        at, cost = fitted.budget or 0.0, fitted.expected.cost
        trial.require(cost <= at * 1.000001, f"expects {cost:g} for a budget of {at:g}")
        realised = replay(fitted.policy, test).cost.mean()
        low, high = fitted.expected.interval(len(test), level=0.99999)
        told = f"realised {realised:g} for a budget of {at:g}, stated {low:g} to {high:g}"
        trial.require(not low > realised and not realised > high, told)


def _budget_out_of_range(trial: Trial) -> None:
    """Require: budgets that nothing can meet, or nothing can spend, are refused."""
    for budget in (0.5 * COSTS[0], COSTS[-1] + 0.5):
        try:
            trial.fit((budget,))
        except BudgetError:
            continue
        trial.require(False, f"took a budget of {budget:g} where costs run from 1 to 8")


def _same_seed(trial: Trial) -> None:
    """Require: the same seed gives the same policies."""
    for a, b in zip(trial.fits, trial.fit(BUDGETS), strict=True):
        trial.require(
            any_to_dict(a.policy) == any_to_dict(b.policy), f"two policies for {a.budget:g}"
        )


def _alone(trial: Trial) -> None:
    """Require: a budget alone gives the policy of the whole path, unless each is trained for and chosen among."""
    if trial.method.per_budget and trial.method.limits:
        return
    for fitted in trial.fits[1::2]:
        (one,) = trial.fit((fitted.budget or 0.0,))
        same = any_to_dict(one.policy) == any_to_dict(fitted.policy)
        trial.require(same, f"another policy for {fitted.budget:g} alone")


def _more_is_never_worse(trial: Trial) -> None:
    """Require: where the last exit is worse than the one before, more budget does no harm; spent it may be."""
    if not trial.method.limits:
        return
    splits = {}
    for seed, (name, rows) in enumerate((("fit", 600), ("test", 2000)), 21):
        logits, labels = made_up(rows, seed=seed)
        logits[:, -1] += np.random.default_rng(seed).normal(size=logits[:, -1].shape) * 2.5
        vectors = [logits[:, k, :FEATURES] * 0.5 for k in range(EXITS)]
        splits[name] = {"outputs": logits, "labels": labels, "features": vectors}
    tables = trial.rows(splits)
    fits = trial.method.fit_path(tables.get("fit"), [1.5, 3.0, 4.5, 6.0, 8.0])
    here, there = ([outcome_of(f.policy, tables.get(n)).right for f in fits] for n in splits)
    for i, j in combinations(range(len(fits)), 2):
        told = f"is worse at a budget of {fits[j].budget:g} than at {fits[i].budget:g}"
        trial.require(here[j].mean() >= here[i].mean() - 1e-9, f"{told} on the rows of the fit")
        gap = there[i] - there[j]
        error = max(float(gap.std()), 0.02) / len(gap) ** 0.5
        trial.require(gap.mean() <= 3.5 * error, f"{told} on other rows, by {gap.mean():.4f}")


def _batch_is_step(trial: Trial) -> None:
    """Require: a batch, its survivors, and single steps decide the same, ties and all."""
    logits, _ = made_up(200, seed=9)
    logits[:40] = np.round(logits[:40])
    vectors = trial.vectors(logits)
    for fitted in trial.fits:
        policy = fitted.policy
        batch = trial.decide(policy, logits)
        for row in range(0, len(logits), 3):
            came = trial.steps(policy, logits, row)
            wanted = (batch.exit[row], batch.prediction[row])
            trial.require(came == wanted, f"row {row} leaves with {came}, in a batch with {wanted}")
        if isinstance(policy, RoutingPolicy):
            continue
        alive, exits = np.arange(len(logits)), np.full(len(logits), -1)
        state = policy.start(alive)
        for k in policy.active_exits:
            vector = None if vectors is None else vectors[k][alive]
            leaves = policy.step(k, logits[alive, k], state, vector).exit
            exits[alive[leaves]] = k
            state.keep(~leaves)
            alive = alive[~leaves]
        trial.require(np.array_equal(exits, batch.exit), "survivors leave elsewhere than the batch")


def _no_peeking(trial: Trial) -> None:
    """Require: what comes after exit k, or what a model says that is not asked, cannot change a decision."""
    logits, _ = made_up(400, seed=11)
    rng = np.random.default_rng(0)
    for fitted in trial.fits:
        policy = fitted.policy
        before = trial.decide(policy, logits)
        if isinstance(policy, RoutingPolicy):
            noise = rng.normal(size=logits.shape).astype(logits.dtype) * 9
            after = trial.decide(policy, np.where(before.called[:, :, None], logits, noise), logits)
            names = "turn", "prediction", "cost"
            same = all(np.array_equal(getattr(before, n), getattr(after, n)) for n in names)
            trial.require(same, "models that are not asked change decisions")
            continue
        for k in policy.active_exits[:-1]:
            other = logits.copy()
            other[:, k + 1 :] = rng.normal(size=other[:, k + 1 :].shape) * 9
            after, early = trial.decide(policy, other), before.exit <= k
            same = np.array_equal(after.exit[early], before.exit[early])
            same &= np.array_equal(after.prediction[early], before.prediction[early])
            same &= np.array_equal(after.exit <= k, early)
            trial.require(same, f"exits after {k} change decisions up to {k}")


def _round_trip(trial: Trial) -> None:
    """Require: a policy comes back from its file as it was, and decides as it did."""
    logits, _ = made_up(200, seed=12)
    for fitted in trial.fits:
        read = routing_from_dict if isinstance(fitted.policy, RoutingPolicy) else from_dict
        again = read(json.loads(json.dumps(any_to_dict(fitted.policy), allow_nan=False)))
        trial.require(
            any_to_dict(again) == any_to_dict(fitted.policy), "its file reads as another policy"
        )
        exits = [trial.decide(policy, logits).exit for policy in (again, fitted.policy)]
        trial.require(np.array_equal(exits[0], exits[1]), "read from its file it decides otherwise")


def _inputs(trial: Trial) -> None:
    """Require: arrays are left alone, and wrong ones are named."""
    logits, _ = made_up(100, seed=13)
    logits.flags.writeable = False
    policy = trial.fits[0].policy
    trial.decide(policy, logits)
    broken = logits.copy()
    broken[3, policy.active_exits[0], 2] = np.nan
    for wrong in (broken, logits[:, :3], logits[:, :, :5], logits.astype(str)):
        try:
            trial.decide(policy, wrong, logits)
        except InputError:
            continue
        said = f"took outputs of shape {wrong.shape}, dtype {wrong.dtype}, or with NaN"
        trial.require(False, said)


def _small(trial: Trial) -> None:
    """Require: one row, and forty alike, two exits and two classes, fit within the budget."""
    one = np.array([[[0.2, 0.1], [0.0, 3.0]]], dtype=np.float32)
    for logits in (one, np.repeat(one, 40, axis=0)):
        rows: dict[str, Any] = {"outputs": logits, "labels": np.ones(len(logits), dtype=np.int32)}
        rows["features"] = [logits[:, k] for k in range(2)]
        table = trial.rows({"fit": rows}, [1.0, 3.0]).get("fit")
        for budget in (1.0, 2.0, 3.0):
            (fitted,) = trial.method.fit_path(table, [budget])
            cost = fitted.expected.cost
            fits = 1.0 - 1e-9 <= cost <= budget + 1e-9
            trial.require(fits, f"{cost:g} for a budget of {budget:g}")


METHOD_CHECKS: dict[str, Callable[[Trial], None]] = {
    "budget": _budget, "budget_out_of_range": _budget_out_of_range, "same_seed": _same_seed,
    "alone": _alone, "more_is_never_worse": _more_is_never_worse, "batch_is_step": _batch_is_step,
    "no_peeking": _no_peeking,
    "round_trip": _round_trip, "inputs": _inputs, "small": _small,
}  # fmt: skip
