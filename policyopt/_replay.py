"""A policy run over a table by the code that is deployed: what it did, and what every exit said."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from policyopt._cache.files import empty
from policyopt._table import Table, is_right, known_rows
from policyopt.runtime._answers import Identity
from policyopt.runtime._errors import input_error
from policyopt.runtime._experts import ExpertPolicy, renumbered
from policyopt.runtime._outputs import with_columns
from policyopt.runtime._policy import Abstention, Policy, Trace
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._several import policy_of, shaped
from policyopt.runtime._shown import Shown
from policyopt.runtime._typing import Array, Bools, Floats, Ints

#: What a `Replay` has of each row, where it has it.
_COLUMNS = (
    "exit", "prediction", "cost", "quality", "abstained", "correct", "turn", "answerer", "confidence",
)  # fmt: skip
_ROWS = 8192  # whose feature vectors are read at a time
_PART_BYTES = 1 << 26  # of what exits said, that are replayed at a time


@dataclass(frozen=True)
class Traced(Trace):
    """A `Trace` of a table's rows with costs and qualities, by the K exits that run (`active_exits`)."""

    cost: Floats  # (N,): paid at the exit taken, the policy's own arithmetic included
    exit_costs: Floats  # (K,): what it would cost on average if all rows left there
    labels: npt.NDArray[np.int32] | None  # (N,): classes; None unless every row has one
    quality: Array | None  # (N, K): of the policy's answers; None unless known of every row
    correct: Array | None  # (N, K) bool: which of them are right; None unless known of every row
    graded: bool  # whether quality may be anything from 0 to 1
    model_exits: int
    abstention: Abstention | None = None
    group: Ints | None = None  # (N,), see `Table.group`

    @property
    def exits(self) -> int:
        """K, the exits that the policy runs."""
        return self.scores.shape[1]

    @property
    def quality_taken(self) -> Array | None:
        """Worth of the answer at the exit taken, (N,): of whoever answers where the policy abstained."""
        if self.quality is None:
            return None
        answered = self.quality[np.arange(len(self.exit)), self.position]
        declines = self.abstention
        return answered if declines is None else declines.worth(answered, self.abstained)

    @property
    def correct_taken(self) -> Array | None:
        """Whether the answer at the exit taken is right, (N,)."""
        if self.correct is None:
            return None
        return self.correct[np.arange(len(self.exit)), self.position]


def trace(policy: Any, table: Table, samples: Ints | None = None) -> Traced:
    """Run a policy over rows, `samples` (N,) their numbers, and keep every exit's score and prediction."""
    policy = policy_of(policy, single=True)
    check_match(policy, table)
    table = table.built_for(policy)
    seen = _run(policy, table, np.arange(len(table)) if samples is None else samples)
    stats = table.statistics
    labels = stats.labels if stats.labels is not None and (stats.labels >= 0).all() else None
    if isinstance(policy.answer, Identity):
        quality, correct = stats.quality, stats.correct
    else:
        quality = table.worth(seen.predictions)
        correct = None if labels is None else is_right(seen.predictions, labels)
    if stats.labels is not None and labels is None:
        correct = None
    cost = table.cost_at(seen.position) + policy.overhead[seen.position]
    declines = policy.abstention
    if declines is not None:
        cost = declines.paid(cost, seen.abstained)
    return Traced(
        seen.scores, seen.predictions, seen.thresholds, seen.exit, cost,
        table.mean_costs + policy.overhead, labels, quality if table.labelled else None, correct, table.graded,
        policy.model_exits, active_exits=policy.active_exits,
        standing=seen.standing, declines=seen.declines, abstention=declines, group=table.group,
    )  # fmt: skip


def _run(policy: Policy, table: Table, samples: Ints) -> Trace:
    """Run a policy over a table of the exits that it runs, a few rows at a time where it must."""
    n, exits = len(table), policy.exits
    reduced = table.statistics.outputs(policy.required_columns) if policy.reads_summaries else []
    if policy.reads_summaries and not policy.needs_features:
        return policy.trace(_at_exits(policy, reduced), samples)
    spans = (slice(low, min(low + _ROWS, n)) for low in range(0, n, _ROWS))
    parts: Iterable[tuple[slice, Sequence[Any]]] = (
        ((span, [output.take(span) for output in reduced]) for span in spans)
        if policy.reads_summaries
        else ((span, list(outputs.swapaxes(0, 1))) for span, outputs in table.chunks())
    )
    out = Trace(
        np.empty((n, exits), order="F"), np.empty((n, exits), np.int32),
        np.empty((n, exits - 1)), np.empty(n, np.int64), active_exits=policy.active_exits,
        standing=None if policy.abstention is None else np.empty((n, exits)),
        declines=None if policy.abstention is None else policy.abstention.thresholds,
    )  # fmt: skip
    for span, outputs in parts:
        vectors = None
        if policy.needs_features:
            vectors = _at_exits(policy, [table.feature(k, span) for k in range(exits)])
        seen = policy.trace(_at_exits(policy, outputs), samples[span], vectors)
        for name in ("scores", "predictions", "thresholds", "exit"):
            getattr(out, name)[span] = getattr(seen, name)
        if out.standing is not None:
            out.standing[span] = seen.standing
    return out


def _at_exits(policy: Policy, entries: Sequence[Any]) -> list[Any]:
    """Return entries of the exits that the policy runs at their places among the model's exits."""
    found: list[Any] = [None] * policy.model_exits
    for k, entry in zip(policy.active_exits, entries, strict=True):
        found[k] = entry
    return found


def check_match(policy: Policy | RoutingPolicy, table: Table) -> None:
    """Refuse a table that the policy was not made for."""
    exits = "models" if isinstance(policy, RoutingPolicy) else "exits"
    pairs = {
        "kind of outputs": (policy.kind, table.kind),
        exits: (policy.model_exits, table.model_exits),
        "classes": (policy.classes, table.classes),
        "cost unit": (policy.unit, table.unit),
        "error scale": (policy.error_scale, table.measure.error_scale),
    }
    for name, (made_for, got) in pairs.items():
        if made_for != got:
            step = "Use the policy with a cache of the same model, and the same --cost."
            allowed = f"as the policy was fitted on: {made_for}"
            raise input_error(f"{name} of the cache", allowed, got, step)


@dataclass(frozen=True, repr=False)
class Replay(Shown):
    """What a policy did with N rows."""

    exit: Ints  # (N,): the model's number of the exit taken
    prediction: Array  # (N,), int32; sets of labels, values: as `Decision` has them
    cost: Floats  # (N,): paid by each row, its own where the cache has costs per sample
    quality: Floats  # (N,): worth of the answer, in [0, 1]; NaN where a row has no label, and others have one
    exits: int  # how many the model has
    abstained: Bools  # (N,): who was handed over; cost and quality are those of `Abstention`
    #: (N,) bool: whether it is right; None where nobody knows of all rows.
    correct: Array | None = None
    graded: bool = False  # whether quality may be anything from 0 to 1
    group: Ints | None = None  # (N,): codes of what rows belong to, see `Table.group`
    turn: Ints | None = (
        None  # (N, K) of routing: when each model was asked, from 1; 0 where it was not
    )
    answerer: Ints | None = None  # (N,) of routing: whose answer it is; -1 where several are joined
    confidence: Floats | None = None  # (N,) of routing: that the answer is right

    @property
    def exit_share(self) -> Floats:
        """Share of the rows that leave at each of the model's exits."""
        return np.bincount(self.exit, minlength=self.exits) / len(self.exit)

    def take(self, rows: Ints) -> Replay:
        """Return some of the rows."""
        columns = {n: a[rows] for n, a in vars(self).items() if isinstance(a, np.ndarray)}
        return replace(self, **columns)


def replay(policy: Any, table: Table) -> Replay:
    """Run a policy over labelled rows; row i is sample i to a policy that draws a coin."""
    known_rows(table).check_quality()  # before the work
    policy = policy_of(policy, routes=True)
    if isinstance(policy, RoutingPolicy):
        return follow(policy, table)
    if isinstance(policy, ExpertPolicy):
        return _replay_experts(policy, table)
    return _replay_one(policy, table)


def _replay_one(policy: Policy, table: Table, samples: Ints | None = None) -> Replay:
    """Replay an exit policy on all rows, a part of them at a time: it decides row by row."""
    whole = table.labelled or not table.valued.any()
    n, size = len(table), max(_PART_BYTES // (64 * table.exits), 1)
    if n <= size:
        return _replay_part(policy, table, np.arange(n) if samples is None else samples, whole)
    parts = (np.arange(low, min(low + size, n)) for low in range(0, n, size))
    numbered = ((rows, rows if samples is None else samples[rows]) for rows in parts)
    return _joined(
        table, ((rows, _replay_part(policy, table.take(rows), at, whole)) for rows, at in numbered)
    )


def _joined(table: Table, parts: Iterable[tuple[Ints, Replay]]) -> Replay:
    """Return what a policy did with all rows, from (numbers of rows, what it did with them) that are all of them."""
    out, columns = None, dict[str, Any]()
    for rows, out in parts:
        for name in _COLUMNS:
            part = getattr(out, name)
            if part is None or columns.get(name, part) is None:
                columns[name] = None
                continue
            if name not in columns:
                columns[name] = empty((len(table), *part.shape[1:]), part.dtype)
            columns[name][rows] = part
    assert out is not None  # a table has rows
    return replace(out, **columns, group=table.group)


def _replay_part(policy: Policy, table: Table, samples: Ints, whole: bool) -> Replay:
    """Replay some rows; not `whole`: some of all have no label, whose quality is NaN."""
    found = trace(policy, table, samples)
    quality, correct = found.quality_taken, found.correct_taken
    if not whole:
        known = np.flatnonzero(table.valued)
        quality, correct = np.full(len(table), np.nan), None
        if len(known):
            quality[known] = _replay_part(policy, table.take(known), samples[known], True).quality
    if quality is None:
        allowed = "plain where the cache has a graded quality of the exits' own"
        step = "Fit with answer=plain, or state a utility instead of the quality."
        raise input_error("answers of the policy", allowed, policy.answer.name, step)
    return Replay(
        found.exit, _answers(policy, table, found), found.cost, quality.astype(np.float64), table.model_exits,
        found.abstained, correct, found.graded, table.group,
    )  # fmt: skip


def _answers(policy: Policy, table: Table, found: Traced) -> Array:
    """Return the answers at the exits taken as users see them: what is no class number is read from the outputs."""
    kind = policy.observer.kind
    if kind.answers_class or table.source is None:
        return found.taken
    places = np.arange(len(table)) if table.places is None else table.places
    said = np.empty(0)
    for k in np.unique(found.exit).tolist():
        mine = np.flatnonzero(found.exit == k)
        here: Any = kind.answer(table.source.pick("outputs", places[mine], [k])[:, 0])
        said = (
            shaped(said, here) if len(said) else np.empty((len(table), *here.shape[1:]), here.dtype)
        )
        said[mine] = here
    return said


def _replay_experts(policy: ExpertPolicy, table: Table) -> Replay:
    """Run each context's policy over its rows."""
    if table.context is None:
        step = "The policy has thresholds for each: import with a key 'context' (Python: context=)."
        place = f"split '{table.split}'"
        raise input_error(place, "one whose rows have a context", "rows without", step)
    context = renumbered(table.context, table.contexts, policy.contexts)
    mine = ((e, np.flatnonzero(context == e)) for e in np.unique(context).tolist())
    return _joined(
        table, ((at, _replay_one(policy.policies[e], table.take(at), at)) for e, at in mine)
    )


def follow(policy: RoutingPolicy, table: Table) -> Replay:
    """Run a policy that asks models in any order over the rows, some at a time; quality is NaN where unknown."""
    check_match(policy, table)
    if not table.cascade:
        step = (
            "Use the policy with a cache of the same models, imported with --cost-kind standalone."
        )
        raise input_error("cost", "of models that are paid one by one", table.cost_name, step)
    out = _joined(table, _followed(policy, table))
    right = None if table.graded or not table.labelled else out.quality > 0.5
    return replace(out, correct=right)


def _followed(policy: RoutingPolicy, table: Table) -> Iterator[tuple[Ints, Replay]]:
    """Yield numbers of rows, a few at a time, and what became of them."""
    n = len(table)
    alone = np.broadcast_to(table.standalone_costs, (n, table.exits))
    for low in range(0, n, _ROWS):
        rows = np.arange(low, min(low + _ROWS, n))
        part = table.take(rows)
        seen = dict(enumerate(part.statistics.outputs()))
        if table.whole:
            every = part.log_prob()
            seen = {m: with_columns(output, every[:, m]) for m, output in seen.items()}
        query = part.query if policy.needs_query else None
        found = policy.follow(seen, rows, alone[rows], query)
        own = found.answerer[:, None] == np.arange(table.exits)  # whose answer it is
        worth = part.worth(np.repeat(found.prediction[:, None], table.exits, axis=1))
        apart = part.plain_only and not part.says
        worth = part.statistics.quality if worth is None or apart else worth
        taken = np.full(own.shape, np.nan) if worth is None else worth.astype(np.float64)
        quality = np.where(own.any(axis=1), (taken * own).sum(axis=1), taken[:, 0])
        yield rows, Replay(
            found.exit, found.prediction, found.cost, np.where(part.valued, quality, np.nan), table.model_exits,
            np.zeros(len(rows), bool), None, table.graded, None, found.turn, found.answerer, found.confidence,
        )  # fmt: skip
