"""What a file holds, by its own keys, to parts with rows first: one per split, its axes found."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import numpy as np

from policyopt._cache.blocks import (
    ANSWERS,
    ROW_NUMBERS,
    WORTH,
    check_axes,
    kind_with,
    known_kind,
    label_step,
    orient,
    rows_first,
    summary_notes,
)  # fmt: skip
from policyopt._cache.data import (
    FEATURES_PREFIX,
    GROUP,
    MAX_EXITS,
    POOL,
    check_name,
    group_codes,
)  # fmt: skip
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._kinds import KINDS
from policyopt.runtime._typing import Array

#: Names a file may use, and the name each has in `Rows` (or its role).
SYNONYMS = {
    "logits": "logits", "probs": "probabilities", "probabilities": "probabilities", "logit": "logit",
    "values": "values", "variances": "variances", "variance": "variances", "outputs": "outputs",
    "labels": "labels", "label": "labels", "targets": "labels",
    "target": "labels", "conf": "confidence", "confidence": "confidence",
    "conf_logprob": "conf_logprob", "pred": "prediction", "prediction": "prediction",
    "correct": "correct", "quality": "quality", "entropy": "entropy", "top_prob": "top_prob", "features": "features",
    "context": "context", "group": "group", "groups": "group", "group_id": "group", "costs": "costs", "cost": "costs",
}  # fmt: skip
#: Texts a file may hold about itself.
OPTIONS = ("axes", "kind", "unit", "cost_kind", "quality_of", "error_scale")
_KEY = re.compile(
    r"(?:(?P<prefix>[A-Za-z0-9_.-]+?)_)??"
    rf"(?P<base>mean_\w+|names|contexts|{'|'.join(sorted(SYNONYMS, key=len, reverse=True))}"
    r"|features_\d{1,4}|cost_\w+|latency_\w+)"
)
_MAX_KEY = 256  # characters: reading one takes time that grows with their square
_ALIASES = {
    "fit": ("fit", "val", "valid", "validation", "dev"),
    "calibrate": ("calibrate", "calibration", "calib", "cal"),
    "test": ("test",),
}
#: Which key to take for a kind, best first; ``outputs`` fits both.
_LEADS = {
    "logits": ("logits", "outputs", "probabilities"),
    "probabilities": ("probabilities", "outputs", "logits"),
    "summary": ("confidence", "conf_logprob", *WORTH),
    None: ("logits", "probabilities", "logit", "outputs", "confidence", "conf_logprob", *WORTH),
}
CONFIDENCES = ("confidence", "conf_logprob")
_LEADS |= dict.fromkeys(("logit", "multilabel"), ("logit", "logits", "outputs", "probabilities"))
_LEADS |= dict.fromkeys(
    ("probability", "multilabel_probabilities"), ("probabilities", "outputs", "logits")
)
_LEADS |= dict.fromkeys(
    ("regression", "regression_variances"), ("values", "outputs", "prediction", "logits")
)
_SUMMARY = ("prediction", "correct", "entropy", "top_prob")
_WANTED = (
    "logits or probs (K, N, C), or conf and pred, correct or quality (K, N; of the last exit no conf); labels (N,); "
    "costs (K,); with a prefix such as val_ and test_ where the file holds several splits"
)
_SHAPES = {"KNC": "(K, N, C)", "NKC": "(N, K, C)", "KN": "(K, N)", "NK": "(N, K)"}
_ORDERS = ("KNC", "NKC")


@dataclass
class Raw:
    """One file, read but not yet understood."""

    name: str  # the file's, for notes and errors
    arrays: dict[str, Array] = field(default_factory=dict)  # by the file's own keys
    axes: str | None = None  # where the format fixes them (tables have rows first)
    split: Array | None = None  # of each row, where a table says so
    options: dict[str, str] = field(default_factory=dict)  # see `OPTIONS`
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)  # keys of no meaning, left out

    def note(self, text: str) -> None:
        """Note what was decided rather than declared."""
        self.notes.append(f"{self.name}: {text}")


def parse_key(key: str) -> tuple[str | None, str, str] | None:
    """Divide a key into prefix, role (of `SYNONYMS`, ``features_0``, ``cost``, ``metadata``) and base, if known."""
    match = _KEY.fullmatch(key) if len(key) <= _MAX_KEY else None
    if match is None:
        return None
    base = match["base"]
    if base in ("names", "contexts") or base.startswith("mean_"):
        return match["prefix"], "metadata", base
    role = base if base.startswith("features_") else SYNONYMS.get(base, "cost")
    return match["prefix"], role, base


def split_name(name: str) -> str:
    """Return the split that a name means: ``val`` is ``fit``, ``cal`` is ``calibrate``."""
    return next((split for split, names in _ALIASES.items() if name.lower() in names), name)


def declared(name: str, found: Mapping[str, Any]) -> Raw:
    """Divide named values (arrays, lists, texts, numbers) into arrays, options and metadata."""
    raw = Raw(name)
    for key, value in found.items():
        known, argument = parse_key(key), f"{name}: {key}"
        if key in OPTIONS or key == "cost_unit":
            text = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
            if key == "error_scale" and isinstance(text, (int, float)):
                text = str(text)
            if not isinstance(text, str):
                raise input_error(argument, "a text", repr(value), "Mend the file.")
            raw.options["unit" if key == "cost_unit" else key] = text
        elif known is not None and known[1] == GROUP:
            raw.arrays[key] = group_codes(np.asarray(value))
        elif known is not None and known[1] != "metadata":
            _refuse_text(argument, value)
            try:
                raw.arrays[key] = np.asarray(value)
            except ValueError as error:
                raise input_error(argument, "an array", f"{error}", "Mend the file.") from error
        else:
            raw.metadata[key] = _plain(value)
            if known is None and getattr(value, "ndim", isinstance(value, (list, tuple))):
                raw.note(f"key {key!r} is not known: not used")
    return raw


def _refuse_text(argument: str, value: Any) -> None:
    """Refuse text in lists of numbers: numpy would make room for the longest one in every place."""
    waiting = [value] if isinstance(value, (list, tuple)) else []
    while waiting:
        for item in waiting.pop():
            if isinstance(item, (list, tuple)):
                waiting.append(item)
            elif isinstance(item, (str, bytes)):
                step = "Encode names of classes as whole numbers from 0."
                raise input_error(argument, "numbers", f"the text {item[:60]!r}", step)


def _plain(value: Any) -> Any:
    """Return a small value as JSON can hold it; large arrays as a text that tells their shape."""
    if isinstance(value, (np.ndarray, np.generic)):
        if value.size > 4096 or value.dtype.kind not in "biufU":
            return f"{value.dtype} of shape {value.shape}, not kept"
        return _plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, (list, tuple)) and len(value) <= 4096:
        return [_plain(item) for item in value]
    if isinstance(value, dict) and len(value) <= 4096:
        return {str(key): _plain(item) for key, item in value.items()}
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return f"{type(value).__name__}, not kept"


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
            raise input_error(where, f"with one key for {role}", got, "Remove one.")
        keys[prefix, slot] = key
        part = parts.setdefault(prefix, Part(POOL, raw.name, kind, {}, axes=axes, key=""))
        (part.costs if role in ("cost", "costs") else part.arrays)[slot] = array
    for prefix, part in parts.items():
        part.key = next((role for role in _LEADS[kind] if role in part.arrays), "")
        if kind is None and part.key == "logit":
            part.kind = "logit"
        if part.key in _LEADS["summary"]:
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
    named = [prefix for prefix, part in parts.items() if part.key and prefix is not None]
    shared = parts.get(None, Part(POOL, raw.name, kind, {}, key=""))
    if not named and not shared.key:
        got = ", ".join([*raw.arrays, *raw.metadata, *raw.unread][:12]) or "none"
        allowed, step = _WANTED, "Rename them."
        found = {role for part in parts.values() for role in part.arrays}
        if kind is None and found & {"values", "variances", "prediction"}:
            step = "Values, whose labels are the true ones, are of --kind regression; see --error-scale."
        if kind is None and "prediction" in found:
            step = f"Add conf beside pred. {step}"
        if kind == "summary":
            allowed = "conf and pred, correct or quality (K, N), as kind summary says"
            step = "Rename, or drop --kind."
        raise input_error(where, allowed, got, step)
    if named and shared.key:
        got = f"{keys[None, shared.key]} beside {', '.join(f'{p}_' for p in named)}"
        step = "Rename them, e.g. val_logits and test_logits."
        raise input_error(where, "with a prefix on all outputs, or on none", got, step)
    if named and split is not None:
        allowed = f"PATH alone where the file names its splits ({', '.join(named)})"
        raise input_error("SRC", allowed, f"{split}={raw.name}", f"Leave {split}= out.")
    splits = _split_names(raw, named) if named else {None: split_name(split or POOL)}
    for prefix, name in splits.items():
        part = parts[prefix]
        summary = part.kind == "summary"
        part.kind = kind_with(part.kind, "variances" in part.arrays and not summary)
        kept = (part.key, "variances", *ROW_NUMBERS, "quality", *(_SUMMARY if summary else ()))
        kept += CONFIDENCES if summary and part.key in ANSWERS else ()
        arrays = {r: a for r, a in part.arrays.items() if r in kept or r.startswith("features")}
        if prefix is None:
            part.rows = raw.split
        else:
            part.costs = {b: a for b, a in shared.costs.items() if a.ndim == 1} | part.costs
            if "labels" in shared.arrays and name not in ("fit", "calibrate"):
                arrays.setdefault("labels", shared.arrays["labels"])
        if part.key in KINDS:  # what the user declares goes before the key's name
            part.kind = part.kind or part.key
        part.split, part.arrays = name, arrays
    return [parts[prefix] for prefix in splits]


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
    flat = lead.ndim == 2 and (kind.single or "variances" in part.arrays)
    if lead.ndim != (3 if deep else 2) and not flat:
        allowed = "of shape (K, N, C) or (N, K, C)" if deep else "of shape (K, N) or (N, K)"
        step = "Save one array over all exits."
        if deep and lead.ndim == 2:
            step = (
                "Save one array over all exits. If there is one number per row and exit, say --kind logit of "
                "the logit of a binary model, --kind probability of its sigmoid, --kind regression of a value."
            )
        raise input_error(where, allowed, f"shape {lead.shape}", step)
    if not lead.size:
        allowed = "of at least one row, one exit and one class"
        raise input_error(where, allowed, f"shape {lead.shape}", "Save it anew, or leave it out.")
    labels = part.arrays.get("labels")
    if labels is not None and labels.ndim == 2 and 1 in labels.shape:
        part.arrays["labels"] = labels = labels.reshape(-1)
    count = None if labels is None or not labels.ndim else len(labels)
    axes = _find_axes(part, lead, count, hint, where, notes)
    _take_for_one_logit(part, labels, where, notes)
    kind = KINDS[part.kind or "logits"]
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
        arrays = orient(arrays, axes, kind)
    except InputError as error:
        raise InputError(f"{part.source}: {error}") from error
    notes += summary_notes(f"{part.source}: {part.split}", {**arrays, **_labels_of(part)})
    n, exits = arrays["outputs" if deep else "confidence"].shape[:2]
    if not deep:
        _note_unsure(part, n, exits, notes)
    numbers = {role: part.arrays[role] for role in ROW_NUMBERS if role in alone}
    part.arrays = arrays | numbers | _features(part, exits, axes)
    for name, cost in part.costs.items():
        part.costs[name] = _turn_cost(f"{part.source}: {name}", cost, n, exits, axes)


def _take_for_one_logit(part: Part, labels: Array | None, where: str, notes: list[str]) -> None:
    """Take logits of one column for one logit, where labels of 0 and 1 and values leave nothing else."""
    lead = part.lead
    if part.key != "logits" or part.kind != "logits" or lead.ndim != 3 or lead.shape[2] != 1:
        return
    if labels is None or not np.isin(labels, (-1, 0, 1)).all() or not (labels >= 0).any():
        return
    with np.errstate(invalid="ignore"):
        if not ((lead < 0) | (lead > 1)).any():
            return
    part.kind = "logit"
    notes.append(f"{where}: one number per row, labels 0 and 1: read as kind logit, of class 1")


def _note_unsure(part: Part, n: int, exits: int, notes: list[str]) -> None:
    """Tell which exits have no confidence of their own."""
    given = next((part.arrays[role] for role in CONFIDENCES if role in part.arrays), None)
    if given is None and "top_prob" not in part.arrays:
        notes.append(
            f"{part.source}: NO CONFIDENCES: nothing tells one row from another, so a policy can only choose shares "
            "of the rows. A score that is known before exit k+1 (such as a router's) becomes usable as conf_k "
            "(0 to 1, higher: stop there); the last exit needs none"
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


def _labels_of(part: Part) -> dict[str, Array]:
    return {name: a for name, a in part.arrays.items() if name == "labels"}


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
