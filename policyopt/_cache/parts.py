"""What a file holds, by its own keys, to parts with rows first: one per split, its axes found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from policyopt._cache.blocks import (
    ANSWERS,
    IGNORED,
    ROW_NUMBERS,
    WORTH,
    check_axes,
    kind_with,
    known_kind,
    known_labels,
    label_step,
    orient,
    rows_first,
    summary_notes,
)  # fmt: skip
from policyopt._cache.data import (
    FEATURES_PREFIX,
    MAX_EXITS,
    POOL,
    QUERY,
    check_name,
)  # fmt: skip
from policyopt._cache.exits import CONFIDENCES, FILES, whole_numbers
from policyopt._cache.keys import names_split, parse_key, split_name
from policyopt._cache.raw import Raw
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._sparse import SPARSE
from policyopt.runtime._typing import Array

#: Which key to take for a kind, best first; ``outputs`` fits both.
_LEADS = {
    "logits": ("logits", "outputs", "probabilities"),
    "probabilities": ("probabilities", "outputs", "logits"),
    "summary": ("confidence", "conf_logprob", *WORTH),
    None: ("logits", "probabilities", "logit", "outputs", "confidence", "conf_logprob", *WORTH),
}
_LEADS |= dict.fromkeys(("logit", "multilabel"), ("logit", "logits", "outputs", "probabilities"))
_LEADS |= dict.fromkeys(
    ("probability", "multilabel_probabilities"), ("probabilities", "outputs", "logits")
)
_LEADS |= dict.fromkeys(
    ("regression", "regression_variances"), ("values", "outputs", "prediction", "logits")
)
_SUMMARY = ("prediction", "correct", "entropy", "top_prob", *SPARSE)
_WANTED = (
    "logits or probs (K, N, C), or conf and pred, correct or quality (K, N; of the last exit no conf); labels (N,); "
    "costs (K,); with a prefix such as val_ and test_ where the file holds several splits"
)
_REGRESSION = "--kind regression --error-scale X (the error at which an answer is worth 37 %)."
_SHAPES = {"KNC": "(K, N, C)", "NKC": "(N, K, C)", "KN": "(K, N)", "NK": "(N, K)"}
_ORDERS = ("KNC", "NKC")


@dataclass
class Part:
    """The rows of one split: arrays by role as they stand in the file, then (`turn`) as in `Rows`."""

    split: str
    source: str  # the file, for notes and errors
    kind: str | None  # None: to be detected from the values
    arrays: dict[str, Array]
    costs: dict[str, Array] = field(default_factory=dict)  # (K,) or per sample, as stated
    key: str = "outputs"  # role of the array that shows N and K: logits, confidence, ...
    axes: str | None = None  # where the file or the user fixes them
    rows: Array | None = None  # split of each row
    apart: bool = False  # whether each exit stood by itself
    classes: int = 0  # C, where the file states it

    @property
    def lead(self) -> Array:
        """The array that shows n and K."""
        return self.arrays[next(n for n in (self.key, "outputs", "confidence") if n in self.arrays)]


def divide(raw: Raw, split: str | None, kind: str | None, axes: str | None) -> list[Part]:
    """Divide a file into one part per split; `split`, `kind` and `axes` are what the user says."""
    kind = kind or raw.options.get("kind")
    if kind is not None:
        known_kind(kind)
    axes = raw.axes or axes or raw.options.get("axes")
    parts: dict[str | None, Part] = {}
    keys: dict[tuple[str | None, str], str] = {}  # of the file, by prefix and role or cost
    where = f"{raw.name}: keys"
    for key, array in raw.arrays.items():
        prefix, role, base = parse_key(key) or (None, key, key)
        slot = base if role == "cost" else role
        if (prefix, slot) in keys:
            got = f"{keys[prefix, slot]} and {key}"
            step = f"Say which: --key {base}={key}."
            raise input_error(where, f"with one key for {role}", got, step)
        keys[prefix, slot] = key
        part = parts.setdefault(prefix, Part(POOL, raw.name, kind, {}, axes=axes, key=""))
        (part.costs if role in ("cost", "costs") else part.arrays)[slot] = array
    for prefix, part in parts.items():
        known = ("top_classes", *(("prediction",) if QUERY in part.arrays else ()))
        known = known if kind in (None, "summary") else ()
        part.key = next((role for role in (*_LEADS[kind], *known) if role in part.arrays), "")
        if kind is None and part.key == "logit" and not raw.table:
            part.kind = "logit"
        if part.key in (*_LEADS["summary"], *known):
            part.kind = "summary"
        if part.key in CONFIDENCES:  # the last exit may lack one
            least = part.arrays[part.key].size
            larger = (r for r in ANSWERS if r in part.arrays and part.arrays[r].size > least)
            part.key = next(larger, part.key)
        for role in _LEADS[None]:
            if role in part.arrays and part.key not in ("", role, *ANSWERS) and role not in WORTH:
                raw.note(f"{keys[prefix, role]} ignored beside {keys[prefix, part.key]}")
        if prefix is not None and not part.key:
            raw.note(f"keys {prefix}_* ignored (no outputs among them)")
            for role, array in part.arrays.items():
                key = keys[prefix, role]
                raw.unread[raw.origin.get((key, None), key)] = array.shape
    named = [prefix for prefix, part in parts.items() if part.key and prefix is not None]
    shared = parts.get(None, Part(POOL, raw.name, kind, {}, key=""))
    if not named and not shared.key:
        free = [k for k in raw.metadata if k not in raw.unread]
        got = ", ".join([*raw.arrays, *free, *raw.unread][:12])
        allowed, step = _WANTED, _which(raw)
        found = {role: a for part in parts.values() for role, a in part.arrays.items()}
        classes = "prediction" in found and found["prediction"].dtype.kind in "iu"
        if kind is None and found.keys() & {"values", "variances", "prediction"}:
            step = "Values, whose labels are the true ones, are of --kind regression; see --error-scale."
        if kind is None and "prediction" in found:
            step = f"Add conf beside pred. {'' if classes else f'{step} '}If it is (N, C) of one model: {FILES}"
        if kind == "summary":
            allowed = "conf and pred, correct or quality (K, N), as kind summary says"
            step = "Say which are which (--key conf=KEY), or drop --kind."
        raise input_error(where, allowed, got or "none", step)
    if named and shared.key:
        got = f"{keys[None, shared.key]} beside {', '.join(f'{p}_' for p in named)}"
        step = "Rename them, e.g. val_logits and test_logits."
        raise input_error(where, "with a prefix on all outputs, or on none", got, step)
    if named and split is not None:
        allowed = f"PATH alone where the file names its splits ({', '.join(named)})"
        raise input_error("SRC", allowed, f"{split}={raw.name}", f"Leave {split}= out.")
    stated = str(raw.metadata.get("classes"))
    classes = int(stated) if stated.isdecimal() and len(stated) < 10 else 0
    splits = _split_names(raw, named) if named else {None: split_name(split or POOL)}
    for prefix, name in splits.items():
        part = parts[prefix]
        summary = part.kind == "summary"
        part.kind = kind_with(part.kind, "variances" in part.arrays and not summary)
        kept = (part.key, "variances", *ROW_NUMBERS, "quality", *(_SUMMARY if summary else ()))
        kept += (QUERY, *(CONFIDENCES if summary and part.key in ANSWERS else ()))
        arrays = {r: a for r, a in part.arrays.items() if r in kept or r.startswith("features")}
        for role in part.arrays.keys() - arrays.keys() - {*_LEADS[None]}:
            raw.note(f"{keys[prefix, role]} not used beside {keys[prefix, part.key]}")
            own = raw.origin.get((keys[prefix, role], None), keys[prefix, role])
            raw.unread[own] = part.arrays[role].shape
        if prefix is None:
            part.rows = raw.split
        else:
            part.costs = {b: a for b, a in shared.costs.items() if a.ndim == 1} | part.costs
            if "labels" in shared.arrays and name not in ("fit", "calibrate"):
                arrays.setdefault("labels", shared.arrays["labels"])
        if part.key in KINDS and not (raw.table and part.key == "logit"):
            part.kind = part.kind or part.key  # what the user declares goes before the key's name
        part.split, part.arrays, part.apart, part.classes = name, arrays, raw.apart, classes
    return [parts[prefix] for prefix in splits]


def _which(raw: Raw) -> str:
    """Return how to say which keys are the outputs, by the shapes of those that are not known."""
    deep = [key for key, shape in raw.unread.items() if len(shape) == 3]
    alike = [key for key, shape in raw.unread.items() if len(shape) == 2]
    if len(deep) == 1:
        return f"If {deep[0]} holds them: --key outputs={deep[0]}."
    splits = list(dict.fromkeys(key.split("_")[0] for key in alike))
    if splits and all(map(names_split, splits)):
        keys = [[key for key in alike if key.startswith(f"{split}_")] for split in splits]
        said = (f"--key {s}_outputs={','.join(k)}" for s, k in zip(splits, keys, strict=True))
        return f"If each is an exit's of a split, say so, cheapest first: {' '.join(said)}."
    if len(alike) > 1 and len({raw.unread[key] for key in alike}) == 1:
        return f"If each is an exit's, say so, cheapest first: --key outputs={','.join(alike)}."
    return "Say which are which: --key outputs=KEY, or one key per exit: --key outputs=A,B, cheapest first."


def _split_names(raw: Raw, prefixes: list[str]) -> dict[str | None, str]:
    """Return the split of each prefix; training rows serve as `fit` where nothing else does."""
    names: dict[str | None, str] = {prefix: split_name(prefix) for prefix in prefixes}
    if "train" in prefixes and "fit" not in names.values():
        names["train"] = "fit"
        raw.note(
            "train_ taken as split fit; if the model was trained on these rows its "
            "confidences are too high there, so held-out rows (val_) are better"
        )
    for prefix, name in names.items():
        if name != prefix and prefix != "train":
            raw.note(f"{prefix}_ taken as split {name}")
    if len(set(names.values())) < len(names):
        step = "Rename or remove one: val and fit mean the same."
        raise input_error(f"{raw.name}: keys", "one prefix per split", f"{sorted(prefixes)}", step)
    return names


def turn(part: Part, hint: int, notes: list[str]) -> None:
    """Bring the arrays of a part to rows first; `hint` is K where the costs tell it, else 0."""
    lead, key = part.lead, part.key
    where = f"{part.source}: {part.split} {key}"
    deep, kind = part.kind != "summary", KINDS[part.kind or "logits"]
    labels = part.arrays.get("labels")
    if labels is not None and labels.ndim == 2 and 1 in labels.shape:
        part.arrays["labels"] = labels = labels.reshape(-1)
    if labels is not None and not kind.targets:
        part.arrays["labels"] = labels = _each_row(labels, lead, f"{part.source}: labels")
    binary = lead.ndim == 2 or (lead.ndim == 3 and lead.shape[2] < 3)
    if labels is not None and binary and deep and set(np.unique(labels).tolist()) == {-1, 1}:
        got, step = "-1 and 1 alone", "-1 means unknown: give (labels + 1) // 2 (--labels FILE)."
        raise input_error(f"{part.source}: labels", "0 or 1 for two classes", got, step)
    if part.kind in (None, "logits", "probabilities") and deep:
        _take_for_one_number(part, labels, where, notes)
        kind = KINDS[part.kind or "logits"]
    classes = labels is not None and labels.size and labels.max() > 1
    if part.kind == "logit" and part.key == "logit" and lead.ndim == 2 and classes:
        _refuse_shape(part, labels, where)  # columns of classes
    flat = lead.ndim == 2 and (kind.single or "variances" in part.arrays)
    if lead.ndim != (3 if deep or key in SPARSE else 2) and not flat:
        _refuse_shape(part, labels, where)
    if not lead.size:
        allowed = "of at least one row, one exit and one class"
        raise input_error(where, allowed, f"shape {lead.shape}", "Save it anew, or leave it out.")
    count = None if labels is None or not labels.ndim else len(labels)
    axes = _find_axes(part, lead, count, hint, where, notes)
    # One number per row lies as it does, and feature vectors on their own.
    alone = {role for role in part.arrays if role in ROW_NUMBERS or role.startswith("features")}
    arrays = {role: a for role, a in part.arrays.items() if role not in alone}
    if deep:
        arrays["outputs"] = arrays.pop(key)
    if "conf_logprob" in arrays:
        with np.errstate(over="ignore"):
            arrays["confidence"] = np.exp(arrays.pop("conf_logprob").astype(np.float64))
    if kind.targets and "labels" in alone:
        alone.discard("labels")
        arrays["labels"] = part.arrays["labels"]
    elif labels is not None and labels.ndim > 1:
        got, step = f"shape {labels.shape}", label_step(labels)
        raise input_error(f"{part.source}: labels", "one class number per row", got, step)
    try:
        arrays = orient(arrays, axes, kind, part.classes)
    except InputError as error:
        raise InputError(f"{part.source}: {error}") from error
    given = arrays | {name: a for name, a in part.arrays.items() if name == "labels"}
    notes += summary_notes(f"{part.source}: {part.split}", given)
    n, exits = arrays["outputs" if deep else "confidence"].shape[:2]
    if not deep:
        _note_unsure(part, n, exits, notes)
    numbers = {role: part.arrays[role] for role in ROW_NUMBERS if role in alone}
    part.arrays = arrays | numbers | _features(part, exits, axes)
    for name, cost in part.costs.items():
        part.costs[name] = _turn_cost(f"{part.source}: {name}", cost, n, exits, axes)


def _each_row(labels: Array, lead: Array, argument: str) -> Array:
    """Return a label per row, -1 where unknown; those that every exit repeats are taken once."""
    if not labels.ndim:
        step = "Save one array over all rows; in JSON also a list of samples, each an object."
        raise input_error(argument, "one for each row", "a single one", step)
    if lead.ndim == 3 and labels.shape == lead.shape[:2] and not np.isin(labels, (0, 1)).all():
        alike = [axis for axis in (0, 1) if (labels == labels.take([0], axis)).all()]
        if not alike:
            step = "If these are batches: concatenate outputs and labels (torch.cat)."
            raise input_error(argument, "one class number per row", f"shape {labels.shape}", step)
        labels = labels.take(0, alike[0])
    return known_labels(labels)


def _take_for_one_number(part: Part, labels: Array | None, where: str, notes: list[str]) -> None:
    """Take one number per row and exit for a logit or its sigmoid, where labels and values leave nothing else."""
    lead, step = part.lead, ""
    if labels is None or lead.ndim not in (2, 3) or (lead.ndim == 3 and lead.shape[2] != 1):
        return
    known = labels[~np.isin(labels, (-1, IGNORED))] if labels.ndim == 1 else np.empty(0)
    binary = set(np.unique(known).tolist()) == {0, 1}
    if known.dtype.kind == "f" and (known != np.floor(known)).any():
        step = f"Labels such as {known[known != np.floor(known)][0]:.6g} are values to be met: {_REGRESSION}"
    elif lead.ndim == 3 and known.size and not binary:
        step = f"Labels up to {known.max():g} are classes, which need a column each; or values to be met: {_REGRESSION}"
    if step:
        got = f"shape {lead.shape}, one number per row"
        raise input_error(where, "of 2 classes or more, or of a kind that is declared", got, step)
    fits = lead.ndim == 3 or part.apart or len(labels) == lead.shape[1] != lead.shape[0]
    if not binary or not fits or part.key not in ("logits", "probabilities"):
        return
    with np.errstate(invalid="ignore"):
        inside = not ((lead < 0) | (lead > 1)).any()
    if part.key == "probabilities" and inside and (lead < 0.49).any():
        part.kind = "probability"
    elif part.key == "logits" and not inside:
        part.kind = "logit"
    else:
        return
    notes.append(
        f"{where}: one number per row, labels 0 and 1: read as kind {part.kind}, of class 1"
    )


def _refuse_shape(part: Part, labels: Array | None, where: str) -> None:
    """Refuse outputs of another number of axes, by what they seem to be."""
    lead, shape = part.lead, f"shape {part.lead.shape}"
    n = len(labels) if labels is not None and labels.ndim else None
    if part.kind == "summary":
        step = f"Of one exit or model: {FILES} In a table also columns conf_0, conf_1, ..., or a column exit."
        if lead.ndim > 2:
            step = f"If it holds all classes, it is no confidence: --key probs={part.key}."
        raise input_error(where, "of shape (K, N) or (N, K)", shape, step)
    allowed = "of shape (K, N, C) or (N, K, C)"
    if lead.ndim > 3:
        raise input_error(where, allowed, shape, _flattening(lead, labels))
    inside = bool(((lead >= 0) & (lead <= 1)).all())
    one = (
        "one number per row and exit: a sigmoid, P(class 1), say --kind probability; how sure an answer is, "
        "--key conf=KEY beside pred; a value, --kind regression --error-scale X."
        if inside
        else f"one number per row and exit: the logit of a binary model, say --kind logit; a value, {_REGRESSION}"
    )
    model = f"C numbers of one exit or model: {FILES}"
    if lead.ndim < 2:
        step = f"Of one exit or model: {FILES} If it is {one}"
        if whole_numbers(lead):
            step = f"If they are labels: --labels {part.source}. {step}"
    elif n == lead.shape[1] != lead.shape[0]:
        step = f"(K, N) is {one}"
    elif part.apart:
        step = f"Of each exit it is {one}"
    elif labels is not None and n == lead.shape[0] != lead.shape[1] and (labels > 1).any():
        step = f"(N, C) is {model}"
    else:
        step = f"If it is (N, C), {model} If it is (N, K) or (K, N), {one}"
    raise input_error(where, allowed, shape, step)


def _flattening(lead: Array, labels: Array | None) -> str:
    """Return how tokens, or pixels, become rows: exits first and classes last, what is between flattened."""
    axes = list(range(lead.ndim))
    orders = {
        "": axes, "np.moveaxis(logits, 0, 1)": [1, 0, *axes[2:]],
        "np.moveaxis(logits, 2, -1)": [*axes[:2], *axes[3:], 2],
        "np.moveaxis(np.moveaxis(logits, 0, 1), 2, -1)": [1, 0, *axes[3:], 2],
    }  # fmt: skip
    shapes = {code: tuple(lead.shape[i] for i in order) for code, order in orders.items()}
    fits = (
        [] if labels is None else [c for c, shape in shapes.items() if shape[1:-1] == labels.shape]
    )
    if labels is not None and labels.ndim == 1 and 1 in lead.shape:
        return "For one label per row drop the axes of length 1 (numpy.squeeze)."
    if len(fits) != 1:
        return (
            "For an output per token or pixel: exits first, classes last, and flattened between to (K, N*T, C), "
            "labels alike to (N*T,), -100 where padded, and group (N*T,) the number of the sentence or image. "
            "Labels (N, T) would tell which axis is which."
        )
    k, n, *rest, c = shapes[fits[0]]
    count = int(np.prod(rest))
    return (
        f"An output per token or pixel: flatten to (K, N*T, C), logits={fits[0] or 'logits'}.reshape({k}, {n * count}, "
        f"{c}), labels.reshape(-1) with -100 where padded, and group=np.repeat(np.arange({n}), {count}), the sentence "
        "or image."
    )


def _note_unsure(part: Part, n: int, exits: int, notes: list[str]) -> None:
    """Tell which exits have no confidence of their own."""
    given = next((part.arrays[role] for role in CONFIDENCES if role in part.arrays), None)
    if given is None and not {"top_prob", "top_logits"} & part.arrays.keys():
        notes.append(
            f"{part.source}: NO CONFIDENCES: all are 1, which tells no row from another, so a policy can only choose "
            "shares of the rows; or routing by what is known before any model is asked (a router's score, a length, an "
            "embedding): key query"
        )
    elif given is not None and (given.size < n * exits or np.isnan(given).any()):
        notes.append(f"{part.source}: exit {exits - 1} has no confidence; it needs none: set to 1")


def _features(part: Part, exits: int, axes: str) -> dict[str, Array]:
    """Return the feature vectors by exit; those of all exits in one array lie as the logits do."""
    given = {role: array for role, array in part.arrays.items() if role.startswith("features")}
    if "features" not in given:
        return {role.replace("features_", FEATURES_PREFIX): a for role, a in given.items()}
    whole, where = given["features"], f"{part.source}: {part.split} features"
    if len(given) > 1 or whole.ndim != 3:
        got = f"{', '.join(given)}" if len(given) > 1 else f"shape {whole.shape}"
        step = f"Save features_0 to features_{exits - 1}, each of shape (N, D)."
        raise input_error(where, f"one array with axes {axes.replace('C', 'D')}", got, step)
    turned = rows_first(whole, axes)
    return {f"{FEATURES_PREFIX}{k}": turned[:, k] for k in range(turned.shape[1])}


def _find_axes(
    part: Part, lead: Array, n: int | None, hint: int, where: str, notes: list[str]
) -> str:
    """Return the order that is stated, or the one that n labels and `hint` costs fit."""
    deep = lead.ndim == 3
    if part.axes is not None:
        axes = check_axes(part.axes)
        _refuse_swapped(axes if deep else axes.replace("C", ""), lead, n, hint, where)
        return axes
    rows = {axes: lead.shape[axes.index("N")] for axes in _ORDERS}
    exits = {axes: lead.shape[axes.index("K")] for axes in _ORDERS}
    by_labels = [axes for axes in _ORDERS if n in (None, rows[axes])]
    by_costs = [axes for axes in _ORDERS if hint in (0, exits[axes])]
    fits = [axes for axes in by_labels if axes in by_costs and exits[axes] <= MAX_EXITS]
    shown = [_SHAPES[axes if deep else axes[:2]] for axes in _ORDERS]
    if not fits:
        # Labels or costs of a wrong number, where the other ones fit one order alone.
        if len(by_labels) == 1 and not by_costs and exits[by_labels[0]] <= MAX_EXITS:
            count = exits[by_labels[0]]
            got = f"{hint}, where {where} of shape {lead.shape} have {count} exits for {n} labels"
            step = f"Give {count} (--costs), or state the order of the axes (--axes)."
            step = f"It is of one exit: {FILES}" if count == 1 else step
            raise input_error("costs", f"{count} numbers, one per exit", got, step)
        if len(by_costs) == 1 and not by_labels:
            count = rows[by_costs[0]]
            got = f"{n}, where {where} of shape {lead.shape} have {count} rows for {hint} costs"
            step = "Give a label for each row, or state the order of the axes (--axes)."
            raise input_error(f"{part.source}: labels", f"{count}, one for each row", got, step)
        got = f"shape {lead.shape}" + ("" if n is None else f" and {n} labels")
        got += f" and {hint} costs" if hint else ""
        step = (
            "Give a label per row and a cost per exit; if they are right, another axis order may "
            "be, e.g. --axes NCK."
        )
        raise input_error(where, " or ".join(shown), got, step)
    if len(fits) == 2 and (n is not None or hint):
        allowed = "of an axis order that labels and costs decide"
        got = f"shape {lead.shape}, which fits {' and '.join(shown)}"
        raise input_error(where, allowed, got, "State the order with --axes KNC or --axes NKC.")
    reason = "the default; no labels and no costs to check it against, see --axes"
    if n is not None or hint:
        reason = f"fits {hint} costs" if n is None else f"fits {n} labels"
    notes.append(f"{where}: axes read as {fits[0] if deep else fits[0][:2]} ({reason})")
    return fits[0]


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
        allowed = f"an order that fits the {n} labels" + (f" and the {hint} costs" if hint else "")
        step = f"Say --axes {better[0]}, or mend what does not fit."
        raise input_error("axes", allowed, f"{axes}, which makes {where} of {stated}", step)


def _turn_cost(where: str, cost: Array, n: int, exits: int, axes: str) -> Array:
    if cost.shape == (exits,):
        return cost
    fits = [o for o, shape in (("KN", (exits, n)), ("NK", (n, exits))) if cost.shape == shape]
    if not fits:
        allowed = f"of shape ({exits},), ({exits}, {n}) or ({n}, {exits})"
        step, got = "One cost per exit, or per sample and exit.", f"shape {cost.shape}"
        raise input_error(where, allowed, got if cost.ndim else "one number", step)
    order = fits[0] if len(fits) == 1 else axes.replace("C", "")
    return cost.T if order == "KN" else cost


def by_row(part: Part) -> Iterator[Part]:
    """Divide a part by the split that each of its rows names, if any."""
    if part.rows is None:
        yield part
        return
    meant = {str(name): split_name(str(name)) for name in np.unique(part.rows)}
    for split in dict.fromkeys(meant.values()):
        check_name(f"{part.source}: split", split)
        named = [name for name, to in meant.items() if to == split]
        at = np.flatnonzero(np.isin(part.rows, named))
        arrays = {name: array[at] for name, array in part.arrays.items()}
        costs = {name: cost if cost.ndim == 1 else cost[at] for name, cost in part.costs.items()}
        yield Part(split, part.source, part.kind, arrays, costs)
