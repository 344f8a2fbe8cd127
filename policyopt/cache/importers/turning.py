"""From groups to parts with rows first: finds the axis order, and says how it was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from policyopt.cache.data import CONTEXT
from policyopt.cache.features import widths_of
from policyopt.cache.importers.keys import Group
from policyopt.cache.importers.raw import Array, split_name
from policyopt.cache.layout import MAX_EXITS, check_name
from policyopt.cache.orient import check_axes
from policyopt.runtime.errors import InputError, input_error

_SHAPES = {"KNC": "(K, N, C)", "NKC": "(N, K, C)", "KN": "(K, N)", "NK": "(N, K)"}


@dataclass
class Part:
    """The rows of one split, rows first; `costs` are (K,) or (n, K) as the file states them."""

    split: str
    source: str
    kind: str | None
    arrays: dict[str, Array]
    costs: dict[str, Array] = field(default_factory=dict)

    @property
    def lead(self) -> Array:
        """The array that shows n and K."""
        return self.arrays["outputs" if "outputs" in self.arrays else "confidence"]


def turn(group: Group, hint: int, notes: list[str]) -> Part:
    """Bring the arrays of a group to rows first.

    Parameters
    ----------
    group : Group
        Arrays as in the file, with labels where there are any.
    hint : int
        K where the costs tell it, else 0.
    notes : list of str
        Receives how the axes were found.

    Returns
    -------
    Part

    Raises
    ------
    InputError
        No order, or two orders, fit.

    Examples
    --------
    >>> g = Group("fit", "a.npz", "logits", {"logits": np.zeros((2, 5, 3))}, "logits")
    >>> g.labels = np.zeros(5, int)
    >>> turn(g, 0, []).arrays["outputs"].shape
    (5, 2, 3)
    """
    lead = group.arrays[group.lead]
    where = f"{group.source}: {group.split} {group.lead}"
    deep = group.lead in ("logits", "probabilities", "outputs")
    if lead.ndim != (3 if deep else 2):
        allowed = "of shape (K, N, C) or (N, K, C)" if deep else "of shape (K, N) or (N, K)"
        raise input_error(where, allowed, f"shape {lead.shape}", "Save one array over all exits.")
    if not lead.size:
        allowed = "of at least one row, one exit and one class"
        raise input_error(
            where, allowed, f"shape {lead.shape}", "Save it anew, or leave that split out."
        )
    labels = group.labels
    if labels is not None and labels.ndim == 2 and 1 in labels.shape:
        labels = labels.reshape(-1)
    axes = _find_axes(group, lead, None if labels is None else len(labels), hint, where, notes)
    arrays: dict[str, Array] = {}
    for role, array in group.arrays.items():
        if role.startswith("features"):
            continue
        if role == CONTEXT:  # one number per row, however the axes lie
            arrays[role] = array
            continue
        order = (
            axes if role == "top_prob" or (deep and role == group.lead) else axes.replace("C", "")
        )
        if array.ndim != len(order):
            shape = f"shape {array.shape}"
            raise input_error(
                f"{group.source}: {role}", f"of axes {order}", shape, "Save it like the others."
            )
        turned = array.transpose([order.index(letter) for letter in "NKC"[: len(order)]])
        if role == "conf_logprob":
            with np.errstate(over="ignore"):
                turned, role = np.exp(turned.astype(np.float64)), "confidence"
        arrays["outputs" if deep and role == group.lead else role] = turned
    if labels is not None:
        arrays["labels"] = labels
    n, exits = arrays["outputs" if deep else "confidence"].shape[:2]
    vectors = _features(group, exits, axes)
    try:
        widths_of(vectors, n, exits)
    except InputError as error:
        raise InputError(f"{group.source}: {group.split}: {error}") from error
    arrays |= vectors
    part = Part(group.split, group.source, group.kind, arrays)
    for name, cost in group.costs.items():
        part.costs[name] = _turn_cost(f"{group.source}: {name}", cost, n, exits, axes)
    return part


def _features(group: Group, exits: int, axes: str) -> dict[str, Array]:
    """Return the feature vectors by exit; those of all exits in one array lie as the logits do."""
    given = {role: array for role, array in group.arrays.items() if role.startswith("features")}
    if "features" not in given:
        return {f"features:{role.removeprefix('features_')}": a for role, a in given.items()}
    whole, where = given["features"], f"{group.source}: {group.split} features"
    if len(given) > 1 or whole.ndim != 3:
        got = f"{', '.join(given)}" if len(given) > 1 else f"shape {whole.shape}"
        step = f"Save features_0 to features_{exits - 1}, each of shape (N, D)."
        raise input_error(where, f"one array with axes {axes.replace('C', 'D')}", got, step)
    turned = whole.transpose([axes.index(letter) for letter in "NKC"])
    return {f"features:{k}": turned[:, k] for k in range(turned.shape[1])}


def _find_axes(
    group: Group, lead: Array, n: int | None, hint: int, where: str, notes: list[str]
) -> str:
    deep = lead.ndim == 3
    if group.axes is not None:
        axes = check_axes(group.axes)
        _refuse_swapped(axes if deep else axes.replace("C", ""), lead, n, hint, where)
        return axes
    fits = [
        axes
        for axes in ("KNC", "NKC")
        if (n is None or lead.shape[axes.index("N")] == n)
        and (not hint or lead.shape[axes.index("K")] == hint)
        and lead.shape[axes.index("K")] <= MAX_EXITS
    ]
    shown = [_SHAPES[axes if deep else axes[:2]] for axes in ("KNC", "NKC")]
    if not fits:
        _refuse_miscounted(group, lead, n, hint, where)
        rows = "" if n is None else f" and {n} labels"
        costs = f" and {hint} costs" if hint else ""
        raise input_error(
            where,
            " or ".join(shown),
            f"shape {lead.shape}{rows}{costs}",
            "Give a label per row and a cost per exit; if they are right, another axis order may "
            "be, e.g. --axes NCK.",
        )
    if len(fits) == 2 and (n is not None or hint):
        raise input_error(
            where,
            "of an axis order that labels and costs decide",
            f"shape {lead.shape}, which fits {' and '.join(shown)}",
            "State the order with --axes KNC or --axes NKC.",
        )
    order = fits[0] if deep else fits[0][:2]
    reason = (
        f"fits {n} labels" if n is not None else f"fits {hint} costs" if hint else "the default"
    )
    if n is None and not hint:
        reason += "; no labels and no costs to check it against, see --axes"
    notes.append(f"{where}: axes read as {order} ({reason})")
    return fits[0]


def _refuse_miscounted(group: Group, lead: Array, n: int | None, hint: int, where: str) -> None:
    """Refuse labels or costs of a wrong number, where the other ones fit one axis order alone."""
    if n is None or not hint:
        return
    by_labels = [axes for axes in ("KNC", "NKC") if lead.shape[axes.index("N")] == n]
    by_costs = [axes for axes in ("KNC", "NKC") if lead.shape[axes.index("K")] == hint]
    if len(by_labels) == 1 and not by_costs:
        exits = lead.shape[by_labels[0].index("K")]
        if exits <= MAX_EXITS:
            why = f"{hint}, where {where} of shape {lead.shape} have {exits} exits for {n} labels"
            step = f"Give {exits} (--costs), or state the order of the axes (--axes)."
            raise input_error("costs", f"{exits} numbers, one per exit", why, step)
    if len(by_costs) == 1 and not by_labels:
        rows = lead.shape[by_costs[0].index("N")]
        why = f"{n}, where {where} of shape {lead.shape} have {rows} rows for {hint} costs"
        step = "Give a label for each row, or state the order of the axes (--axes)."
        raise input_error(f"{group.source}: labels", f"{rows}, one for each row", why, step)


def _refuse_swapped(axes: str, lead: Array, n: int | None, hint: int, where: str) -> None:
    """Refuse a stated order that labels and costs speak against, where another one fits them."""
    if n is None:
        return

    def fits(order: str) -> bool:
        rows, exits = (lead.shape[order.index(letter)] for letter in "NK")
        return n == rows and hint in (0, exits)

    better = ["".join(order) for order in permutations(axes) if fits("".join(order))]
    if better and axes not in better:
        stated = ", ".join(f"{letter} = {lead.shape[i]}" for i, letter in enumerate(axes))
        costs = f" and the {hint} costs" if hint else ""
        raise input_error(
            "axes",
            f"an order that fits the {n} labels{costs}",
            f"{axes}, which makes {where} of {stated}",
            f"Say --axes {better[0]}, or mend what does not fit.",
        )


def _turn_cost(where: str, cost: Array, n: int, exits: int, axes: str) -> Array:
    if cost.ndim == 0:
        raise input_error(
            where, f"of shape ({exits},) or per sample", "one number", "Give one per exit."
        )
    if cost.shape == (exits,):
        return cost
    fits = [
        order for order, shape in (("KN", (exits, n)), ("NK", (n, exits))) if cost.shape == shape
    ]
    if not fits:
        allowed = f"of shape ({exits},), ({exits}, {n}) or ({n}, {exits})"
        raise input_error(
            where, allowed, f"shape {cost.shape}", "One cost per exit, or per sample and exit."
        )
    order = fits[0] if len(fits) == 1 else axes.replace("C", "")
    return cost.T if order == "KN" else cost


def divide(part: Part, rows: Array | None) -> Iterator[Part]:
    """Divide a part by the split that each of its rows names.

    Parameters
    ----------
    part : Part
    rows : ndarray of str of shape (n,), or None
        None leaves the part whole.

    Yields
    ------
    Part

    Raises
    ------
    InputError
        A name that is empty or not allowed.

    Examples
    --------
    >>> part = Part("pool", "a.csv", "record", {"confidence": np.zeros((3, 2))})
    >>> [(p.split, len(p.lead)) for p in divide(part, np.array(["val", "test", "val"]))]
    [('test', 1), ('fit', 2)]
    """
    if rows is None:
        yield part
        return
    meant = {str(name): split_name(str(name)) for name in np.unique(rows)}
    for split in dict.fromkeys(meant.values()):
        check_name(f"{part.source}: split", split)
        at = np.flatnonzero(np.isin(rows, [name for name, to in meant.items() if to == split]))
        yield Part(
            split,
            part.source,
            part.kind,
            {name: array[at] for name, array in part.arrays.items()},
            {name: cost if cost.ndim == 1 else cost[at] for name, cost in part.costs.items()},
        )
