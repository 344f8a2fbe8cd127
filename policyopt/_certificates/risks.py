"""Risks: what a certificate bounds the mean of, in one grammar, and the losses of rows under policies."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._engine import run
from policyopt._methods.registry import here_only
from policyopt._replay import follow, trace
from policyopt._table import Table, Tables, known_rows
from policyopt.runtime._answers import Identity
from policyopt.runtime._checks import check_least, check_one_of, check_type
from policyopt.runtime._errors import PolicyOptError, input_error
from policyopt.runtime._experts import ExpertPolicy, renumbered
from policyopt.runtime._kinds import KINDS as MODEL_KINDS
from policyopt.runtime._routing import RoutingPolicy
from policyopt.runtime._scores import OWN, RULES
from policyopt.runtime._typing import Array, Bools, Floats, Ints

_GRAMMAR = re.compile(
    r"^(?P<name>[a-z_]+)(?:\[(?P<of>[^\]]+)\])?\s*<=\s*(?P<most>[^\s%]+)(?P<percent>%)?"
    r"(?:\s+per\s+(?P<per>class|context))?$"
)
#: Nats at which a log loss is cut: no mean of what has no end can be shown.
LONGEST = 7.0
_FORM = "RISK<=NUMBER[%] [per class|context]"
_E_G = 'E.g. --risk "drop<=1%".'


@dataclass(frozen=True, eq=False)
class Taken:
    """What one policy did with N rows, beside the full model."""

    quality: Floats | None  # (N,): NaN where not known
    full_quality: Floats | None  # (N,)
    prediction: Array  # (N,): as classes, -1 where the answer is none
    full_prediction: Array  # (N,)
    cost: Floats  # (N,)
    abstained: Bools  # (N,)
    costs: tuple[float, float] | None  # least and most that a row may cost; None: no bound is known
    exit: Ints  # (N,): the model's number of the exit taken
    labels: Array | None  # (N,): classes
    split: str
    rows: Ints  # (N,): which of the split's these are
    graded: bool  # whether quality may be more than right or wrong, by whom rows are handed to
    #: Gives (N, C) each: log-probabilities at the exit taken and at the last, of whole outputs and plain answers.
    log_prob: Any


Loss = Callable[[Taken], Floats]
Worst = Callable[[Floats], Floats]  # of losses (L, N) of levels, the greatest up to each


def _known(seen: Taken) -> tuple[Floats, Floats]:
    assert seen.quality is not None and seen.full_quality is not None
    return seen.quality, seen.full_quality


def _drop(seen: Taken) -> Floats:
    quality, full = _known(seen)
    return full - quality


def _other(seen: Taken) -> Floats:
    if (seen.full_prediction < 0).all():  # whose answers are no classes
        step = "Use drop, or harm."
        raise input_error("risk disagreement", "of answers that are classes", "others", step)
    return (seen.prediction != seen.full_prediction).astype(np.float64)


def _gap(score: Callable[[Array, Array], Floats]) -> Loss:
    """Return a proper score of the policy's probabilities less that of the full model's."""

    def loss(seen: Taken) -> Floats:
        if seen.labels is None or seen.labels.ndim != 1:
            step = "Use drop, or harm."
            raise input_error("risk", "of rows that have one class each", "others", step)
        mine, full = seen.log_prob()
        return score(mine, seen.labels) - score(full, seen.labels)

    return loss


def _brier(log_prob: Array, labels: Array) -> Floats:
    prob = np.exp(log_prob.astype(np.float64))
    at = prob[np.arange(len(labels)), labels]
    return np.asarray((prob**2).sum(axis=1) - 2 * at + 1.0)


def _log_loss(log_prob: Array, labels: Array) -> Floats:
    return np.minimum(-log_prob[np.arange(len(labels)), labels].astype(np.float64), LONGEST)


@dataclass(frozen=True)
class Kind:
    """A risk: the loss of a row, between which ends it lies, and what it needs to know."""

    loss: Loss
    low: float
    high: float
    says: str
    shape: str = "binary"  # of losses of answers that are right or wrong
    labels: bool = True


#: By name. Losses (N,) of rows; `miss` looks at rows of a class only, `selective_error` at all, see there.
KINDS: dict[str, Kind] = {
    "error": Kind(lambda s: 1.0 - _known(s)[0], 0.0, 1.0, "share of wrong answers"),
    "loss": Kind(lambda s: 1.0 - _known(s)[0], 0.0, 1.0, "1 - mean quality"),
    "drop": Kind(_drop, -1.0, 1.0, "quality of the full model less the policy's", "ternary"),
    "harm": Kind(
        lambda s: np.maximum(_drop(s), 0.0), 0.0, 1.0,
        "share of answers that the full model has right and the policy wrong",
    ),
    "disagreement": Kind(
        _other, 0.0, 1.0,
        "share of answers that are not the full model's", labels=False,
    ),
    "miss": Kind(lambda s: 1.0 - _known(s)[0], 0.0, 1.0, "share of a class's rows that are answered wrong"),
    "selective_error": Kind(
        lambda s: np.where(s.abstained, np.nan, 1.0 - _known(s)[0]), 0.0, 1.0,
        "share of wrong answers among the answered", "selective",
    ),
    "brier_gap": Kind(_gap(_brier), -2.0, 2.0, "Brier score less the full model's", "bounded"),
    "log_loss_gap": Kind(
        _gap(_log_loss), -LONGEST, LONGEST, f"log loss, {LONGEST:g} nats at most, less the full model's", "bounded",
    ),
    "cost": Kind(lambda s: s.cost, 0.0, float("inf"), "mean cost", "bounded", labels=False),
}  # fmt: skip


#: What the full model has none of.
BESIDE_FULL = ("drop", "harm", "disagreement", "brier_gap", "log_loss_gap")


def _home(loss: Loss) -> tuple[Any, Any]:
    """Return where a loss is defined."""
    return getattr(loss, "__module__", None), getattr(loss, "__qualname__", loss)


def register_risk(
    name: str, low: float = 0.0, high: float = 1.0, *, labels: bool = True
) -> Callable[[Loss], Loss]:
    """Make a loss of your own a risk that `certify` knows by name.

    Parameters
    ----------
    name : str
        Small letters and underscores.
    low, high : float
        Between which each row's loss lies.
    labels : bool
        Whether it needs to know which answers are right.

    Returns
    -------
    callable
        A decorator of a function from `Taken` to losses (N,).

    Examples
    --------
    >>> @register_risk("dear", labels=False)
    ... def dear(taken):
    ...     return taken.cost > 2.0
    >>> Risk.parse("dear<=5%").text
    'dear<=5%'
    """
    if not isinstance(name, str) or not re.fullmatch(r"[a-z_]+", name):
        step = "E.g. late_answer."
        raise input_error("name of a risk", "small letters and underscores", name, step)
    ends = (low, high)
    finite = all(isinstance(end, (int, float)) and abs(end) < np.inf for end in ends)
    if not (finite and low < high):
        raise input_error("low, high", "finite, low below high", (low, high), "0 and 1 of a share.")

    def register(loss: Loss) -> Loss:
        check_type("loss", loss, Callable, "a function from Taken to losses (N,)")
        # A notebook's cell may run twice.
        if name in KINDS and _home(KINDS[name].loss) != _home(loss):
            step = "Choose another name."
            raise input_error("name of a risk", f"new: not {', '.join(KINDS)}", name, step)
        shape = "bounded"
        words = (loss.__doc__ or name).splitlines()[0]
        KINDS[name] = Kind(loss, float(low), float(high), words, shape, labels)
        return loss

    return register


@dataclass(frozen=True)
class Risk:
    """A claim: the mean of a loss is at most a number, for all rows or for each class or context at once.

    Parameters
    ----------
    name : str
        One of `KINDS`.
    most : float
        In quality, or for ``cost`` in its unit.
    of : str, optional
        The class that ``miss`` is of.
    per : {"", "class", "context"}
        The claim is of each of these at once.

    Examples
    --------
    >>> Risk.parse("drop<=1% per class")
    Risk(name='drop', most=0.01, of='', per='class', share=False)
    """

    name: str
    most: float
    of: str = ""
    per: str = ""
    share: bool = False  # of a cost: of the full model's

    @staticmethod
    def parse(text: str) -> Risk:
        """Read ``RISK<=NUMBER[%] [per class|context]``, e.g. ``miss[3]<=5%``."""
        found = _GRAMMAR.match(text.strip()) if isinstance(text, str) else None
        if found is None:
            step = f"{_E_G} RISK is one of {', '.join(KINDS)}; accuracy of 95 % is error<=5%."
            raise input_error("risk", _FORM, text, step)
        step = f"{_E_G} One of your own: --plugin FILE, with po.register_risk."
        check_one_of("risk", found["name"], KINDS, step)
        try:
            most = float(found["most"])
        except ValueError:
            raise input_error("risk", _FORM, text, _E_G) from None
        share = bool(found["percent"]) and found["name"] == "cost"
        return Risk(
            found["name"], most / 100 if found["percent"] else most, found["of"] or "", found["per"] or "", share,
        )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse what the grammar does not say, and what no rows could show."""
        check_one_of("name of a risk", self.name, tuple(KINDS), _E_G)
        check_one_of("per", self.per, ("", "class", "context"), _E_G)
        check_type("of", self.of, str, "a class, as a text", 'E.g. "3".')
        check_type("share", self.share, bool, "True or False")
        if self.share and self.name != "cost":
            raise input_error("share", "False: only a cost is one of the full model's", True, _E_G)
        check_least(f"risk {self.name}", self.most, allowed="a number above 0")
        kind = KINDS[self.name]
        most = 1.0 if self.share else kind.high
        if not 0.0 < self.most < most:
            allowed = f"above 0 and below {most:g}" if most < float("inf") else "above 0"
            step = "No number of rows shows that nothing at all is lost; allow a little, e.g. 0.5%."
            if self.most > 0:
                step = f"1 is all: for {self.most:g} percent write {self.name}<={self.most:g}%."
            raise input_error(f"risk {self.name}", allowed, f"{self.most:g}", step)
        if (self.name == "miss") != bool(self.of):
            step = 'E.g. --risk "miss[3]<=5%", of class 3.'
            raise input_error("risk", "miss[CLASS]<=NUMBER; others of no class", self.text, step)

    @property
    def text(self) -> str:
        """As it is written on a command line."""
        of, per = f"[{self.of}]" if self.of else "", f" per {self.per}" if self.per else ""
        percent, scale = ("%", 100) if self.share or self.name != "cost" else ("", 1)
        near = [scale * self.most, *np.nextafter(scale * self.most, [0.0, np.inf]).tolist()]
        texts = (f"{value:.{digits}g}" for digits in range(6, 18) for value in near)
        # To the last digit: what is stated is what was tested.
        exact = (f"{text}{percent}" for text in texts if float(text) / scale == self.most)
        number = next(exact, f"{near[1]!r}%" if self.share else repr(float(self.most)))
        return f"{self.name}{of}<={number}{per}"


def taken(policy: Any, table: Table) -> Taken:
    """Replay a policy as it is deployed, its coin included, row i being sample i; experts by each row's context."""
    if not isinstance(policy, ExpertPolicy):
        return _taken(policy, table, np.arange(len(table)))
    if table.context is None:
        step = "Import with a key 'context' (Python: context=)."
        raise input_error("cache", "of rows with contexts, for experts", "rows without", step)
    at = renumbered(table.context, table.contexts, policy.contexts)
    rows = [np.flatnonzero(at == e) for e in np.unique(at)]
    parts = [_taken(policy.policies[at[mine[0]]], table.take(mine), mine) for mine in rows]
    back = np.argsort(np.concatenate(rows))

    def whole(name: str) -> Any:
        each = [getattr(part, name) for part in parts]
        return None if any(one is None for one in each) else np.concatenate(each)[back]

    def log_prob() -> tuple[Array, Array]:
        mine, full = zip(*(part.log_prob() for part in parts), strict=True)
        return np.concatenate(mine)[back], np.concatenate(full)[back]

    arrays = {name: whole(name) for name in (
        "quality", "full_quality", "prediction", "full_prediction", "cost", "abstained", "exit", "labels", "rows",
    )}  # fmt: skip
    ends = [part.costs for part in parts]
    known = [one for one in ends if one is not None]
    whole_known = len(known) == len(ends)
    costs = (min(a for a, _ in known), max(b for _, b in known)) if whole_known else None
    graded = any(part.graded for part in parts)
    arrays |= {"costs": costs, "split": table.split, "graded": graded, "log_prob": log_prob}
    return _frozen(Taken(**arrays))


def replays(policies: Sequence[Any], tables: Tables, table: Table) -> list[Taken]:
    """Replay policies on the table of a split, or of its rows with labels."""
    replay = _Replays(tables, table.split, len(table) < len(tables.get(table.split)), table)
    with here_only(next((rule.name for rule in RULES.values() if rule not in OWN), "")):
        found = zip(policies, list(run(replay, policies, "replaying levels")), strict=True)
    return [
        _frozen(seen if seen.log_prob else replace(seen, log_prob=lambda p=policy: taken(p, table).log_prob()))
        for policy, seen in found
    ]  # fmt: skip


@dataclass
class _Replays:
    """Replays policies on the rows of a split, which another process reads by itself."""

    tables: Tables
    split: str
    known: bool  # only rows whose label is
    table: Table | None
    here: bool = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "table": None, "here": False}

    def __call__(self, policy: Any) -> Taken:
        if self.table is None:
            whole = self.tables.get(self.split)
            self.table = known_rows(whole) if self.known else whole
        seen = taken(policy, self.table)
        return seen if self.here else replace(seen, log_prob=None)


def _frozen(seen: Taken) -> Taken:
    """Return it with arrays that a loss of one's own cannot write to: the next risk reads them, too."""
    arrays = {name: one.view() for name, one in vars(seen).items() if isinstance(one, np.ndarray)}
    for one in arrays.values():
        one.flags.writeable = False
    return replace(seen, **arrays)


def _taken(policy: Any, table: Table, samples: Ints) -> Taken:
    """Replay one policy on rows of those numbers."""
    stats, routes = table.statistics, isinstance(policy, RoutingPolicy)
    quality = full = worth = ends = declines = None
    if routes:
        seen: Any = follow(policy, table)
        worth, said = seen.quality, seen.prediction
    else:
        seen = trace(policy, table, samples)
        said, declines = seen.taken, seen.abstention
        worth = seen.quality_taken if seen.quality is not None else None
        if worth is None and table.valued.any():
            own = table.keep_exits(seen.active_exits).worth(seen.predictions)
            worth = None if own is None else own[np.arange(len(table)), seen.position]
    if worth is not None and stats.quality is not None:
        unknown = ~table.valued
        quality = np.where(unknown, np.nan, np.asarray(worth, dtype=np.float64))
        full = np.where(unknown, np.nan, stats.quality[:, -1].astype(np.float64))
    label = stats.labels if stats.labels is not None and stats.labels.ndim == 1 else None

    exits = seen.exit  # what is kept of `seen`: of many levels all would be much

    def log_prob() -> tuple[Array, Array]:
        if not table.whole or routes or not isinstance(policy.answer, Identity):
            step = "Import full outputs; certify a policy with answer=plain."
            raise input_error("risk", "of plain answers with probabilities", "others", step)
        whole = table.log_prob()
        at = np.searchsorted(table.active_exits, exits)
        return whole[np.arange(len(table)), at], whole[:, -1]

    if table.costs.ndim == 1:
        each = policy.ways(table.standalone_costs) if routes else seen.exit_costs
        more = 0.0 if declines is None else declines.cost
        ends = float(each.min()), float(each.max()) + more
    last = stats.prediction[:, -1]
    if MODEL_KINDS[table.kind].scaled:  # values, which are no classes
        said = last = np.full(len(table), -1)
    return _frozen(Taken(
        quality, full, said, last, seen.cost, seen.abstained, ends, seen.exit, label,
        table.split, np.arange(len(table)) if table.places is None else table.places,
        declines is not None and declines.quality not in (0.0, 1.0), log_prob,
    ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of L policies on what counts as one draw each (rows, or groups), and the claim about their mean."""

    values: Floats  # (L, n)
    most: float
    low: float
    high: float
    kind: str  # of `default_of`
    text: str  # of the claim
    means: Floats  # (L,): as the claim has them, at most `claimed`
    claimed: float
    cell: str = ""  # the class or context, where the claim is of each
    unit: str = "rows"

    def is_at(self, j: int) -> str:
        """Return what the risk of policy j is on these draws, beside the claim."""
        cost, each = self.text.startswith("cost<"), (float(self.means[j]), self.claimed)
        said, claimed = (f"{x:.4g}" if cost else f"{100 * x:.3g} %" for x in each)
        return f"{self.text} {self.cell}".strip() + f" is at {said} (claimed: {claimed})"


def losses_of(
    risk: Risk, policies: Sequence[Taken], table: Table, bound: float | None = None, worst: Worst | None = None
) -> list[Losses]:  # fmt: skip
    """Return the losses of policies on a table's rows, one entry per class or context where the claim is of each."""
    # `bound`: the most that a row may cost, where rows have costs of their own. `worst`: where any level may be met.
    kind = KINDS[risk.name]
    if kind.labels and any(one.quality is None for one in policies):
        step = "disagreement and cost need none."
        raise input_error(f"risk {risk.name}", "of rows with labels", "rows without", step)
    if kind.labels and risk.name in ("error", "miss", "selective_error") and table.graded:
        step = f'Use "loss<={100 * risk.most:g}%", 1 - mean quality.'
        raise input_error(f"risk {risk.name}", "of answers right or wrong", "graded ones", step)
    most, low, high = risk.most, kind.low, kind.high
    if risk.name == "cost":
        most, low, high = _of_costs(risk, policies, table, bound)
    values = np.stack([_checked(risk.name, kind, one, high) for one in policies])
    raw, claimed = values, most
    if risk.share and table.costs.ndim > 1:  # E[cost - share of the full model's] <= 0
        full = table.costs[:, -1]
        if full.max() > high * (1 + 1e-9):
            allowed = f"{full.max():.6g} or more: a row costs that"
            raise input_error("cost_bound", allowed, high, "Raise it.")
        values = values - risk.most * full
        most, low = 0.0, -risk.most * high
    if risk.name == "selective_error":  # E[answered (wrong - most)] <= 0
        values = np.where(np.isnan(values), 0.0, values - most)
        values[:, ~table.valued] = np.nan
        most, low, high = 0.0, -risk.most, 1.0 - risk.most
    if worst is not None:
        values, raw = worst(values), raw if risk.name == "selective_error" else worst(raw)
    rows = ~np.isnan(values).any(axis=0)
    out = []
    for cell, mine in _cells(risk, table):
        at = np.flatnonzero(rows & mine)
        if len(at) < 2:
            step = "Leave it out, or gather more of them."
            raise input_error(f"rows of {cell or 'the split'}", "2 or more", len(at), step)
        each, unit, shape = values[:, at], "rows", kind.shape
        weight = np.ones(len(at))
        if table.group is not None:
            each, unit = _by_group(each, table.group[at]), "groups"
            _, of, sizes = np.unique(table.group[at], return_inverse=True, return_counts=True)
            weight = 1.0 / sizes[of]
        graded = shape != "selective" and (table.graded or any(one.graded for one in policies))
        if unit == "groups" or (kind.labels and graded) or (worst and shape == "selective"):
            shape = "bounded"
        means = np.array([_mean(one[at], weight) for one in raw])
        out.append(Losses(each, most, low, high, shape, risk.text, means, claimed, cell, unit))
    return out


def _mean(values: Floats, weight: Floats) -> float:
    """Return the mean of those that are known, by weight."""
    known = ~np.isnan(values)
    return float(values[known] @ weight[known] / max(weight[known].sum(), 1e-12))


def _checked(name: str, kind: Kind, seen: Taken, high: float) -> Floats:
    """Return the losses of rows, (N,), refused unless they are what the risk says."""
    try:
        given = np.asarray(kind.loss(seen))
        found = given.astype(np.float64, casting="unsafe" if given.dtype == object else "same_kind")
    except PolicyOptError:
        raise
    except Exception as error:  # of whoever wrote it
        got = f"{type(error).__name__}: {error}"
        raise input_error(f"losses of risk {name}", "numbers, (N,)", got, "Mend it.") from error
    if found.shape != seen.exit.shape:
        raise input_error(f"losses of risk {name}", f"of shape {seen.exit.shape}", found.shape)
    if name != "selective_error" and np.isnan(found).any():
        step = "Rows without labels are left out before; give each of the others a loss."
        raise input_error(f"losses of risk {name}", "numbers, one of each row", "NaN", step)
    known = found[~np.isnan(found)]
    slack = 1e-9 * max(abs(kind.low), abs(high))
    if len(known) and (known.min() < kind.low - slack or known.max() > high + slack):
        allowed = f"from {kind.low:g} to {high:g}"
        raise input_error(f"losses of risk {name}", allowed, f"{known.min():g} to {known.max():g}")
    return np.clip(found, kind.low, high)


def _of_costs(
    risk: Risk, policies: Sequence[Taken], table: Table, bound: float | None
) -> tuple[float, float, float]:
    """Return the most that the mean cost may be, and the ends between which each row's lies."""
    most = risk.most * float(table.mean_costs[-1]) if risk.share else risk.most
    ends = [one.costs for one in policies]
    if bound is None and any(one is None for one in ends):
        step = "State what no request can cost more than: --cost-bound (Python: cost_bound=)."
        raise input_error("risk cost", "of costs per exit, or with a bound", "costs per row", step)
    high = max(one[1] for one in ends if one is not None) if bound is None else float(bound)
    worst = max([float(one.cost.max()) for one in policies] + [one[1] for one in ends if one])
    if worst > high * (1 + 1e-9):
        step = "State what no request can cost more than, e.g. a limit of tokens times their price."
        raise input_error("cost_bound", f"above {worst:.6g}: a row may cost that", high, step)
    return most, 0.0, high


def _cells(risk: Risk, table: Table) -> list[tuple[str, Bools]]:
    """Return the names of what the claim is of each of, and their rows, (N,)."""
    labels = table.statistics.labels
    if risk.per == "context":
        if table.context is None:
            step = "Import with a key 'context' (Python: context=)."
            raise input_error("risk per context", "of rows that have one", "rows without", step)
        context = table.context
        return [(f"context {name}", context == e) for e, name in enumerate(table.contexts)]
    if risk.per == "class" or risk.of:
        if labels is None or labels.ndim != 1:
            step = "Import with labels, one class per row."
            raise input_error(f"risk {risk.text}", "of rows of a class", "rows without", step)
        last = int(labels.max(initial=-1))
        classes = list(range(max(table.classes, last + 1)))
        if risk.of:
            classes = np.unique(labels[labels >= 0]).tolist()
            if risk.of not in map(str, classes):
                step = "Number classes from 0."
                allowed = f"of a class that occurs, 0 to {classes[-1]}"
                raise input_error("risk", allowed, risk.of, step)
            classes = [int(risk.of)]
        return [(f"class {c}", labels == c) for c in classes]
    return [("", np.ones(len(table), dtype=bool))]


def _by_group(values: Floats, group: Ints) -> Floats:
    """Return the mean losses of groups, (L, G), of rows (L, N)."""
    _, at, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = np.argsort(at, kind="stable")
    first = np.flatnonzero(np.diff(at[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[:, order], first, axis=1) / sizes)


def rows_for(risk: Risk, table: Table) -> Table:
    """Return the rows that a risk can be told of."""
    return known_rows(table) if KINDS[risk.name].labels else table
