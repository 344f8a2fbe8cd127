"""Row arrays in any form to blocks of one layout: names, axes, shapes and storage types, checked.

What `from_arrays`, the writer and the importers share; values are looked at in `checks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._cache.data import CONTEXT, COST_PREFIX, FEATURES_PREFIX, KINDS, check_name
from policyopt._costs import Cost
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import MAX_CONTEXTS, checked_names
from policyopt.runtime._typing import Array

#: More exits than this are a wrong axis order, not a model.
MAX_EXITS = 1024
#: As in a policy: outputs of one sample and exit must fit into memory many times.
MAX_CLASSES = 10**7
RECORD_ARRAYS = ("prediction", "confidence", "top_prob", "entropy", "correct")
#: Arrays with one number per row, and those with a third axis.
ROW_NUMBERS, DEEP = ("labels", CONTEXT), ("outputs", "top_prob")
_STORED = {"labels": "int32", "prediction": "int32", CONTEXT: "int16", "correct": "bool"}


@dataclass(frozen=True)
class Layout:
    """What every block of one cache has in common; ``exits`` and ``classes`` 0 = not known yet."""

    kind: str
    exits: int
    classes: int
    dtype: str  # of outputs, and of confidences and the like (float64: records only)
    costs: tuple[Cost, ...]  # the first is the default
    features: tuple[int, ...] | None = None  # widths by exit; () where there are none, None: open
    contexts: tuple[str, ...] = ()  # names; (): rows have none

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            step = "Say what the outputs are."
            raise input_error("kind", f"one of {', '.join(KINDS)}", self.kind, step)
        allowed = ("float32", "float64") if self.kind == "record" else ("float16", "float32")
        dtype = getattr(self.dtype, "name", getattr(self.dtype, "__name__", self.dtype))
        if dtype not in allowed:
            wanted = f"{' or '.join(allowed)} for kind {self.kind}"
            raise input_error("dtype", wanted, dtype, "Choose one.")
        object.__setattr__(self, "dtype", dtype)  # np.float16 and np.dtype("f2") are welcome too
        classes = self.classes
        if not isinstance(classes, int) or not 0 <= classes <= MAX_CLASSES or classes == 1:
            raise input_error("classes", f"0 (not known) or 2 to {MAX_CLASSES}", classes)
        if not self.costs:
            step = "E.g. Cost('compute', 'MMACs', [1, 2])."
            raise input_error("costs", "at least one Cost", "none", step)
        exits = {len(c.values) for c in self.costs if c.values is not None}
        exits |= {self.exits} if self.exits else set()
        if len(exits) > 1:
            step = "Give each cost one value for each exit."
            got = f"K = {sorted(exits)}"
            raise input_error("costs", "one value per exit, K alike for all", got, step)
        if exits and not 1 <= max(exits) <= MAX_EXITS:
            raise input_error("exits", f"1 to {MAX_EXITS}", max(exits), "Check the axes.")
        object.__setattr__(self, "exits", max(exits, default=0))
        names = [check_name("cost name", c.name) for c in self.costs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise input_error("costs", "each of another name", f"{twice!r} twice", "Rename one.")
        object.__setattr__(self, "contexts", checked_names(self.contexts, 0))

    @property
    def sample_costs(self) -> tuple[str, ...]:
        """Names of the costs that every row brings along."""
        return tuple(c.name for c in self.costs if c.per_sample)


# --- storage -----------------------------------------------------------------------------------


def is_features(name: str) -> bool:
    """Whether an array of that name holds feature vectors."""
    return name.startswith(FEATURES_PREFIX)


def storage_type(name: str, layout: Layout) -> np.dtype[Any]:
    """Return the dtype in which the array `name` is kept; of features the widest."""
    if name.startswith(COST_PREFIX):
        return np.dtype(np.float64)
    return np.dtype("float32" if is_features(name) else _STORED.get(name, layout.dtype))


def natural_dtype(kind: str, arrays: Iterable[Array]) -> str:
    """Return the narrowest storage type that loses nothing a user would miss.

    float16 outputs stay float16, all others become float32. The confidences of records keep
    float64 where it came: those of large models crowd just below 1.
    """
    types = {np.dtype(a.dtype).name for a in arrays}
    if kind == "record":
        return "float64" if "float64" in types else "float32"
    return "float16" if types == {"float16"} else "float32"


def store(layout: Layout, name: str, array: Array) -> Array:
    """Return `array` in storage type, contiguous (a copy unless it already is)."""
    half = is_features(name) and array.dtype == np.float16  # which features stay
    dtype = array.dtype if half else storage_type(name, layout)
    kept = np.ascontiguousarray(array, dtype=dtype)
    if name in ("confidence", "top_prob"):  # rounding of a softmax may pass 1 by a hair
        kept = np.clip(kept, 0, 1)
    return kept


# --- axes --------------------------------------------------------------------------------------


def to_numpy(argument: str, value: Any) -> Array:
    """Return an array of booleans or numbers, a view where possible; torch tensors of any device."""
    if hasattr(value, "detach") and hasattr(value, "cpu"):  # a tensor, without importing torch
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":  # numpy has no bfloat16; float32 holds it exactly
            value = value.float()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        got = f"a {type(value).__name__} ({error})"
        raise input_error(argument, "an array of numbers", got) from error
    if array.dtype.kind not in "biuf":
        step = "Convert it first."
        if array.dtype.kind in "US":
            step = "Encode names of classes as whole numbers from 0."
        raise input_error(argument, "an array of numbers", f"dtype {array.dtype}", step)
    return array


def check_axes(axes: str) -> str:
    """Return `axes` in capitals where it orders N, K and C, or refuse it."""
    if not isinstance(axes, str) or sorted(axes.upper()) not in (sorted("NKC"), sorted("NK")):
        allowed = "an order of N, K and C, e.g. NKC or KNC"
        raise input_error("axes", allowed, axes, "State the order.")
    return axes.upper() if len(axes) == 3 else axes.upper() + "C"


def _rows_first(argument: str, value: Any, axes: str) -> Array:
    """Return an array (n, K) or (n, K, C) from one of any axis order or a sequence of K arrays."""
    if isinstance(value, (list, tuple)) and value and all(hasattr(v, "shape") for v in value):
        parts = [to_numpy(f"{argument}[{k}]", v) for k, v in enumerate(value)]
        shapes = [p.shape for p in parts]
        if len(set(shapes)) > 1 or parts[0].ndim != len(axes) - 1:
            allowed = f"K arrays of one shape with axes {axes.replace('K', '')}"
            raise input_error(argument, allowed, f"shapes {shapes}")
        return np.stack(parts, axis=1)
    array = to_numpy(argument, value)
    if array.ndim != len(axes):
        raise input_error(argument, f"of {len(axes)} axes ({axes})", f"shape {array.shape}")
    return array.transpose([axes.index(letter) for letter in "NKC"[: len(axes)]])


def orient(arrays: Mapping[str, Any], axes: str) -> dict[str, Array]:
    """Bring row arrays of any axis order to the names and shapes in `Rows`; None means absent.

    ``features`` (a list of K arrays) and ``sample_costs`` (arrays by name) hold several.
    """
    axes = check_axes(axes)
    given = {name: value for name, value in arrays.items() if value is not None}
    vectors, costs = given.pop("features", None), given.pop("sample_costs", {})
    if vectors is not None:
        if not isinstance(vectors, (list, tuple)) or not vectors:
            allowed, got = "a list of K arrays of shape (n, D_k)", f"a {type(vectors).__name__}"
            raise input_error("features", allowed, got, "One per exit: their widths may differ.")
        given |= {f"{FEATURES_PREFIX}{k}": array for k, array in enumerate(vectors)}
    if not isinstance(costs, Mapping):
        allowed, step = "a mapping of cost name to array (N, K)", "E.g. {'price': array}."
        raise input_error("sample_costs", allowed, type(costs).__name__, step)
    given |= {COST_PREFIX + name: value for name, value in costs.items()}
    block: dict[str, Array] = {}
    for name, value in given.items():
        if name in ROW_NUMBERS:
            block[name] = to_numpy(name, value)
            if block[name].ndim != 1:
                step = "For one-hot rows take their argmax."
                raise input_error(name, "of shape (n,)", f"shape {block[name].shape}", step)
        elif is_features(name):  # rows first in any case
            block[name] = to_numpy(name, value)
        else:
            shown = name.replace(COST_PREFIX, "sample_costs ")
            order = axes if name in DEEP else axes.replace("C", "")
            block[name] = _rows_first(shown, value, order)
    return block


# --- blocks ------------------------------------------------------------------------------------


def to_block(layout: Layout, arrays: Mapping[str, Array]) -> tuple[Layout, dict[str, Array]]:
    """Check names and shapes of rows-first arrays against each other and the cache's layout.

    Returned are the layout, with K, C and the widths of features where they were open, and the
    arrays, confidence taken from `top_prob` where it is not given.
    """
    block = dict(arrays)
    _check_names(layout, block)
    for name, array in block.items():
        if not array.size and not is_features(name):
            got = f"{name} of shape {array.shape}"
            raise input_error("rows", "at least 1, with an exit and a class", got, "Leave it out.")
    rows, exits = block["outputs" if "outputs" in block else "confidence"].shape[:2]
    if layout.exits and exits != layout.exits:
        allowed = f"{layout.exits}, as in the costs and the rows before"
        raise input_error("exits", allowed, exits, "Check the axes and the number of costs.")
    for name, array in block.items():
        if name in ROW_NUMBERS and array.shape != (rows,):
            got = f"{len(array)} {name}" if array.ndim == 1 else f"shape {array.shape}"
            step = "Add them, or check the axes."
            if array.ndim == 2:
                step = "For one-hot rows take their argmax."
            raise input_error(name, f"one for each of the {rows} rows", got, step)
        deep = name not in ROW_NUMBERS and not is_features(name)
        if deep and (array.shape[:2] != (rows, exits) or array.ndim != 2 + (name in DEEP)):
            shape = f"shape {array.shape}"
            raise input_error(name, f"of {rows} rows and {exits} exits", shape, "Check its axes.")
    features = _widths(block, rows, exits)
    if layout.features not in (None, features):
        step = "Every split and batch needs the vectors of one model, or none has them."
        allowed = f"as in the rows before: {_shown(layout.features or ())}"
        raise input_error("features", allowed, _shown(features), step)
    classes = layout.classes
    if "outputs" in block:
        classes = block["outputs"].shape[2]
        if classes < 2:
            step = "For one logit z give [0, z]."
            raise input_error("outputs", "of at least 2 classes", classes, step)
        if layout.classes not in (0, classes):
            allowed = f"{layout.classes}, as stated or in the rows before"
            raise input_error("classes", allowed, classes, "All splits need outputs of one model.")
    return replace(layout, exits=exits, classes=classes, features=features), block


def _check_names(layout: Layout, block: dict[str, Array]) -> None:
    """Refuse arrays that are missing from, or do not belong to, this kind of cache."""
    kind = layout.kind
    if kind == "record":
        if "outputs" in block:
            raise input_error("outputs", "absent for kind record", "outputs", "Say kind='logits'.")
        if "confidence" not in block and block.get("top_prob", np.empty(0)).size:
            block["confidence"] = block["top_prob"][:, :, 0]
        if "confidence" not in block:
            raise input_error("confidence", "given for kind record", "none", "Pass confidence=.")
        if "prediction" not in block and "correct" not in block:
            step = "Add pred (class numbers), or correct (1 or 0), for each exit."
            allowed = "given for kind record (or else correct)"
            raise input_error("prediction", allowed, "neither", step)
    else:
        if "outputs" not in block:
            raise input_error("outputs", f"given for kind {kind}", "none", "Pass outputs=.")
        extra = next((name for name in RECORD_ARRAYS if name in block), None)
        if extra:
            raise input_error(extra, "absent where outputs are given", extra, "Say kind='record'.")
    if (CONTEXT in block) != bool(layout.contexts):
        allowed, got = "absent, for the cache names no contexts", "an array"
        if layout.contexts:
            allowed = f"given with every batch, one of {', '.join(layout.contexts)} per row"
            got = "none"
        step = "Name the contexts (contexts=), and give each row the number of its own."
        raise input_error("context", allowed, got, step)
    given = {n.removeprefix(COST_PREFIX) for n in block if n.startswith(COST_PREFIX)}
    wanted = set(layout.sample_costs)
    if given != wanted:
        raise InputError(
            f"'sample_costs' must hold exactly {sorted(wanted) or 'nothing'}, the costs declared "
            f"per sample. Missing {sorted(wanted - given)}, superfluous {sorted(given - wanted)}. "
            "Declare Cost(name, unit, None) for each, and give each with every batch."
        )
    known = {"outputs", *ROW_NUMBERS, *RECORD_ARRAYS}
    odd = sorted(
        n for n in block.keys() - known if not n.startswith((COST_PREFIX, FEATURES_PREFIX))
    )
    if odd:
        raise input_error("arrays", f"of {', '.join(sorted(known))}", f"{odd}", "Leave them out.")


def _widths(block: Mapping[str, Array], rows: int, exits: int) -> tuple[int, ...]:
    """Return the width of each exit's feature vectors, D_k; none where a block has no features."""
    given = {name for name in block if is_features(name)}
    wanted = [f"{FEATURES_PREFIX}{k}" for k in range(exits)]
    if not given:
        return ()
    if given != set(wanted):
        got = f"missing {sorted(set(wanted) - given)}, superfluous {sorted(given - set(wanted))}"
        allowed = f"of every exit, 0 to {exits - 1}, or of none"
        raise input_error("features", allowed, got, "Save one array (n, D_k) for each exit.")
    for k, name in enumerate(wanted):
        shape = block[name].shape
        if len(shape) != 2 or shape[0] != rows or not shape[1]:
            allowed = f"of shape ({rows}, D), a row for each row of the outputs"
            step = "Save them for the same rows, flattened to vectors."
            raise input_error(f"features of exit {k}", allowed, f"shape {shape}", step)
    return tuple(block[name].shape[1] for name in wanted)


def _shown(widths: tuple[int, ...]) -> str:
    return f"widths {', '.join(map(str, widths))}" if widths else "none"


def name_contexts(names: Any, columns: Iterable[Array | None]) -> tuple[str, ...]:
    """Return the names of contexts: those given, else "0", "1", ... as far as the rows count."""
    if names is not None:
        return checked_names(names, 0)
    found = [array for array in columns if array is not None and array.size]
    if not found:
        return ()
    with np.errstate(invalid="ignore"):
        top = max(float(np.nan_to_num(array).max()) for array in found)
    return tuple(str(e) for e in range(int(np.clip(top + 1, 1, MAX_CONTEXTS))))
