"""What all blocks of a cache have in common: kind, K, C, storage types; and the check against it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt.cache.data import CONTEXT, KINDS
from policyopt.cache.features import agreed, is_features, stored_features, widths_of
from policyopt.costs import Cost
from policyopt.runtime.contexts import checked_names
from policyopt.runtime.errors import InputError, input_error
from policyopt.runtime.typing import Array

#: More exits than this are a wrong axis order, not a model.
MAX_EXITS = 1024
#: As in a policy: outputs of one sample and exit must fit into memory many times.
MAX_CLASSES = 10**7
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
RECORD_ARRAYS = ("prediction", "confidence", "top_prob", "entropy", "correct")
COST_PREFIX = "cost:"
#: Arrays with one number per row.
ROW_NUMBERS = ("labels", CONTEXT)


@dataclass(frozen=True)
class Layout:
    """What every block of one cache has in common; ``exits`` and ``classes`` 0 = not known yet.

    Parameters
    ----------
    kind : {"logits", "probabilities", "record"}
        What the rows hold.
    exits, classes : int
        K and C.
    dtype : {"float16", "float32", "float64"}
        Storage type of outputs, and of confidences and the like (float64: records only).
    costs : tuple of Cost
        The first is the default.
    features : tuple of K int, optional
        Widths of the feature vectors, exit by exit; empty where there are none, None = not known.
    contexts : tuple of str
        Names of the contexts that every row's ``context`` counts; empty: rows have none.

    Raises
    ------
    InputError
        A field is not what it must be.

    Examples
    --------
    >>> Layout("logits", 0, 10, "float32", (Cost("compute", "MMACs", (1, 2)),)).exits
    2
    """

    kind: str
    exits: int
    classes: int
    dtype: str
    costs: tuple[Cost, ...]
    features: tuple[int, ...] | None = None
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise input_error(
                "kind", f"one of {', '.join(KINDS)}", self.kind, "Say what the outputs are."
            )
        allowed = ("float32", "float64") if self.kind == "record" else ("float16", "float32")
        dtype = getattr(self.dtype, "name", getattr(self.dtype, "__name__", self.dtype))
        if dtype not in allowed:
            raise input_error(
                "dtype", f"{' or '.join(allowed)} for kind {self.kind}", dtype, "Choose one."
            )
        object.__setattr__(self, "dtype", dtype)  # np.float16 and np.dtype("f2") are welcome too
        if (
            not isinstance(self.classes, int)
            or not 0 <= self.classes <= MAX_CLASSES
            or self.classes == 1
        ):
            raise input_error("classes", f"0 (not known) or 2 to {MAX_CLASSES}", self.classes)
        if not self.costs:
            raise input_error(
                "costs", "at least one Cost", "none", "E.g. Cost('compute', 'MMACs', [1, 2])."
            )
        exits = {len(c.values) for c in self.costs if c.values is not None}
        if self.exits:
            exits.add(self.exits)
        if len(exits) > 1:
            raise input_error(
                "costs",
                "one value per exit, K alike for all",
                f"K = {sorted(exits)}",
                "Give each cost one value for each exit.",
            )
        if exits and not 1 <= max(exits) <= MAX_EXITS:
            raise input_error("exits", f"1 to {MAX_EXITS}", max(exits), "Check the axes.")
        object.__setattr__(self, "exits", max(exits, default=0))
        names = [c.name for c in self.costs]
        for name in names:
            check_name("cost name", name)
            if names.count(name) > 1:
                raise input_error("costs", "each of another name", f"{name!r} twice", "Rename one.")
        object.__setattr__(self, "contexts", checked_names(self.contexts, 0))

    @property
    def sample_costs(self) -> tuple[str, ...]:
        """Names of the costs that every row brings along."""
        return tuple(c.name for c in self.costs if c.per_sample)


def check_name(argument: str, name: object) -> str:
    """Return `name` where it is 1 to 64 of ``A-Z a-z 0-9 _ . -``; else raise `InputError`.

    Examples
    --------
    >>> check_name("split", "fit")
    'fit'
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise input_error(
            argument, "1 to 64 of the characters A-Z a-z 0-9 _ . -", name, "Rename it."
        )
    return name


def storage_type(name: str, layout: Layout) -> np.dtype[Any]:
    """Return the dtype in which the array `name` is kept.

    Examples
    --------
    >>> storage_type("labels", Layout("logits", 2, 3, "float16", (Cost("c", "ms", (1, 2)),)))
    dtype('int32')
    """
    if name in ("labels", "prediction"):
        return np.dtype(np.int32)
    if name == CONTEXT:
        return np.dtype(np.int16)
    if name == "correct":
        return np.dtype(np.bool_)
    if name.startswith(COST_PREFIX):
        return np.dtype(np.float64)
    if is_features(name):
        return np.dtype(np.float32)  # at most: float16 stays what it is
    return np.dtype(layout.dtype)


def natural_dtype(kind: str, arrays: Iterable[Array]) -> str:
    """Return the narrowest storage type that loses nothing a user would miss.

    float16 outputs stay float16, all others become float32. The confidences of records keep
    float64 where it came: those of large models crowd just below 1.

    Examples
    --------
    >>> natural_dtype("logits", [np.zeros(2, np.float16)]), natural_dtype("record", [np.zeros(2)])
    ('float16', 'float64')
    """
    types = {np.dtype(a.dtype).name for a in arrays}
    if kind == "record":
        return "float64" if "float64" in types else "float32"
    return "float16" if types == {"float16"} else "float32"


def to_block(layout: Layout, arrays: Mapping[str, Array]) -> tuple[Layout, dict[str, Array]]:
    """Check the shapes of one batch against each other and the cache; fix K and C if still open.

    Parameters
    ----------
    layout : Layout
        What is known of the cache so far.
    arrays : mapping of str to ndarray
        As `orient` returns them.

    Returns
    -------
    (Layout, dict of str to ndarray)
        Layout with K and C, and the arrays.

    Raises
    ------
    InputError
        Wrong shapes, missing or superfluous arrays.

    Examples
    --------
    >>> start = Layout("logits", 0, 0, "float32", (Cost("c", "ms", (1, 2)),))
    >>> layout, block = to_block(start, {"outputs": np.zeros((5, 2, 3))})
    >>> layout.exits, layout.classes
    (2, 3)
    """
    block = dict(arrays)
    _check_names(layout, block)
    lead = block["outputs" if "outputs" in block else "confidence"]
    rows, exits = lead.shape[:2]
    if not lead.size:
        shape = f"none in shape {lead.shape}"
        raise input_error("rows", "at least 1, with an exit and a class", shape, "Leave it out.")
    if layout.exits and exits != layout.exits:
        raise input_error(
            "exits",
            f"{layout.exits}, as in the costs and the rows before",
            exits,
            "Check the axes and the number of costs.",
        )
    for name, array in block.items():
        if name in ROW_NUMBERS and array.shape != (rows,):
            got = f"{len(array)} {name}" if array.ndim == 1 else f"shape {array.shape}"
            raise input_error(
                name, f"one for each of the {rows} rows", got, "Add them, or check the axes."
            )
        if name not in ROW_NUMBERS and not is_features(name) and array.shape[:2] != (rows, exits):
            shape = f"shape {array.shape}"
            raise input_error(name, f"of {rows} rows and {exits} exits", shape, "Check its axes.")
    features = agreed(layout.features, widths_of(block, rows, exits))
    classes = layout.classes
    if "outputs" in block:
        classes = block["outputs"].shape[2]
        if classes < 2:
            raise input_error(
                "outputs", "of at least 2 classes", classes, "For one logit z give [0, z]."
            )
        if layout.classes and classes != layout.classes:
            allowed = f"{layout.classes}, as stated or in the rows before"
            raise input_error("classes", allowed, classes, "All splits need outputs of one model.")
    return replace(layout, exits=exits, classes=classes, features=features), block


def _check_names(layout: Layout, block: dict[str, Array]) -> None:
    """Refuse arrays that are missing from, or do not belong to, this kind of cache."""
    if layout.kind == "record":
        if "outputs" in block:
            raise input_error("outputs", "absent for kind record", "outputs", "Say kind='logits'.")
        if "confidence" not in block and "top_prob" in block and block["top_prob"].shape[-1]:
            block["confidence"] = block["top_prob"][:, :, 0]
        if "confidence" not in block:
            raise input_error("confidence", "given for kind record", "none", "Pass confidence=.")
        if "prediction" not in block and "correct" not in block:
            raise input_error(
                "prediction",
                "given for kind record (or else correct)",
                "neither",
                "Add pred (class numbers), or correct (1 or 0), for each exit.",
            )
    else:
        if "outputs" not in block:
            raise input_error("outputs", f"given for kind {layout.kind}", "none", "Pass outputs=.")
        extra = [n for n in RECORD_ARRAYS if n in block]
        if extra:
            raise input_error(
                extra[0], "absent where outputs are given", extra[0], "Say kind='record'."
            )
    if (CONTEXT in block) != bool(layout.contexts):
        named = ", ".join(layout.contexts)
        raise input_error(
            "context", f"given with every batch, one of {named} per row" if named else
            "absent, for the cache names no contexts", "none" if named else "an array",
            "Name the contexts (contexts=), and give each row the number of its own.",
        )  # fmt: skip
    given = {n.removeprefix(COST_PREFIX) for n in block if n.startswith(COST_PREFIX)}
    wanted = set(layout.sample_costs)
    if given != wanted:
        missing, odd = sorted(wanted - given), sorted(given - wanted)
        raise InputError(
            f"'sample_costs' must hold exactly {sorted(wanted) or 'nothing'}, the costs declared "
            f"per sample. Missing {missing}, superfluous {odd}. "
            "Declare Cost(name, unit, None) for each, and give each with every batch."
        )


def store(layout: Layout, name: str, array: Array) -> Array:
    """Return `array` in storage type, contiguous (a copy unless it already is).

    Examples
    --------
    >>> at = Layout("logits", 2, 3, "float16", (Cost("c", "ms", (1, 2)),))
    >>> store(at, "outputs", np.zeros((1, 2, 3))).dtype
    dtype('float16')
    """
    if is_features(name):
        return stored_features(array)
    kept = np.ascontiguousarray(array, dtype=storage_type(name, layout))
    if name in ("confidence", "top_prob"):  # rounding of a softmax may pass 1 by a hair
        kept = np.clip(kept, 0, 1)
    return kept
