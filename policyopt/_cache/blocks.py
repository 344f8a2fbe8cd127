"""Row arrays in any form to blocks of one layout, names, axes, shapes, types and values checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from policyopt._cache.data import (
    CALLED,
    CONTEXT,
    COST_PREFIX,
    FEATURES_PREFIX,
    GROUP,
    PROPENSITY,
    QUERY,
    TARGETS,
    Block,
    Layout,
    group_codes,
)  # fmt: skip
from policyopt._costs import cumulative
from policyopt.runtime._checks import check_one_of, check_type
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._experts import MAX_CONTEXTS, checked_names
from policyopt.runtime._kinds import KINDS, Kind, looks_after_sigmoid
from policyopt.runtime._reading import UNIT_TOLERANCE, ranked
from policyopt.runtime._sparse import SPARSE, from_top
from policyopt.runtime._typing import Array, Bools

#: The arrays of a block: their axes, and the type in which they are kept (None: the layout's).
COLUMNS: Mapping[str, tuple[str, str | None]] = {
    "outputs": ("NKC", None), "variances": ("NKC", None), "labels": ("N", "int32"),
    TARGETS: ("NC", None), CONTEXT: ("N", "int16"), GROUP: ("N", "int64"),
    "prediction": ("NK", "int32"), "confidence": ("NK", None), "top_prob": ("NKC", None),
    "entropy": ("NK", None), "correct": ("NK", "bool"), "quality": ("NK", "float32"),
    CALLED: ("NK", "int16"), PROPENSITY: ("NK", "float64"),
    COST_PREFIX: ("NK", "float64"), FEATURES_PREFIX: ("ND", "float32"), QUERY: ("ND", "float32"),
}  # fmt: skip
SUMMARY_ARRAYS = ("prediction", "confidence", "top_prob", "entropy", "correct")
#: Shares, kept within [0, 1].
_SHARES = ("confidence", "top_prob", "quality")
#: Arrays that say how good each answer is, which need no outputs beside them.
WORTH = ("quality", "correct")
#: Arrays with something for every exit, the last one included.
ANSWERS = (*WORTH, "prediction")
#: Arrays with one number per row.
ROW_NUMBERS = tuple(name for name, (axes, _) in COLUMNS.items() if axes == "N")
#: A row of probabilities sums to 1 within this: covers float16 and tables rounded to 4 digits.
SUM_TOLERANCE = 1e-2
#: What PyTorch and Hugging Face call labels that do not count.
IGNORED = -100
#: Rows below which an accuracy at chance says nothing.
_FEW_TO_JUDGE = 50
#: Rows, evenly spread, that are looked at for what is odd about labels.
_MOST_TO_JUDGE = 50_000
#: Share of rows that must look like probabilities before they are taken for such.
_NEARLY_ALL = 0.99
_PIECE_BYTES = 16 << 20
_ONE_NUMBER = (
    "If each is the one logit of a binary model, say --kind logit (kind='logit'); its sigmoid, "
    "--kind probability; a value, --kind regression."
)
#: What to do about a bad value, by array.
_REMEDY = {
    "outputs": "Look for overflow (float16?) where they were made, mend that row or leave it out.",
    "confidence": "Give shares (0.5, not 50; of a score of another range its sigmoid), one for each exit but the "
    "last, whose confidences may all lack: mend that row or leave it out.",
    "labels": "Number classes from 0 (-1 where unknown).",
    "prediction": "Number classes from 0 (-1 where there was no answer).",
    "quality": "Divide by the best mark there is (4 of 5 points: 0.8); mend that row or leave it out.",
}


def normalise(
    layout: Layout, arrays: Mapping[str, Any], axes: str, split: str, first_row: int = 0
) -> tuple[Layout, dict[str, Array]]:
    """Return layout and block of row arrays in any form; all that is wrong with them is refused."""
    layout, block = to_block(layout, orient(arrays, axes, KINDS[layout.kind], layout.classes))
    check_block(layout, block, split, first_row)
    return layout, block


def column_of(name: str) -> str:
    """Return the row of `COLUMNS` for an array: ``features:0`` is one of ``features:``."""
    return name[: name.find(":") + 1] or name


def is_features(name: str) -> bool:
    """Whether an array of that name holds feature vectors."""
    return name.startswith(FEATURES_PREFIX)


def storage_type(name: str, layout: Layout) -> np.dtype[Any]:
    """Return the dtype in which the array `name` is kept; of features the widest."""
    if name == TARGETS:
        return np.dtype(KINDS[layout.kind].targets or "float64")
    return np.dtype(COLUMNS[column_of(name)][1] or layout.dtype)


def natural_dtype(kind: str, arrays: Iterable[Array]) -> str:
    """Return the narrowest storage type that loses nothing; summaries keep float64 (confidences crowd below 1)."""
    types = {np.dtype(a.dtype).name for a in arrays}
    if kind == "summary":
        return "float64" if "float64" in types else "float32"
    return "float16" if types == {"float16"} else "float32"


def store(layout: Layout, name: str, array: Array) -> Array:
    """Return `array` in storage type, contiguous (a copy unless it already is)."""
    half = is_features(name) and array.dtype == np.float16  # which features stay
    kept = np.ascontiguousarray(array, array.dtype if half else storage_type(name, layout))
    # Rounding of a softmax may pass 1 by a hair.
    return np.clip(kept, 0, 1) if name in _SHARES else kept


def own(layout: Layout, name: str, array: Array) -> Array:
    """Return a copy of `array` in storage type: its caller may write to it afterwards."""
    kept = store(layout, name, array)
    return kept.copy() if np.may_share_memory(kept, array) else kept


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
            step = "Encode names as whole numbers from 0; of classes in the order of the outputs' columns."
        raise input_error(argument, "an array of numbers", f"dtype {array.dtype}", step)
    return array


def check_axes(axes: str) -> str:
    """Return `axes` in capitals where it orders N, K and C, or refuse it."""
    if not isinstance(axes, str) or sorted(axes.upper()) not in (sorted("NKC"), sorted("NK")):
        raise input_error("axes", "an order of N, K and C, e.g. NKC or KNC", axes, "State it.")
    return axes.upper() if len(axes) == 3 else axes.upper() + "C"


def _rows_first(argument: str, value: Any, axes: str) -> Array:
    """Return an array (n, K) or (n, K, C) from one of any axis order or a sequence of K arrays."""
    if isinstance(value, (list, tuple)) and value and all(hasattr(v, "shape") for v in value):
        parts = [to_numpy(f"{argument}[{k}]", v) for k, v in enumerate(value)]
        shapes = [p.shape for p in parts]
        if len(set(shapes)) > 1 or parts[0].ndim != len(axes) - 1:
            allowed = f"K arrays of one shape with axes {axes.replace('K', '')}"
            raise input_error(argument, allowed, f"shapes {shapes}")
        array = np.stack(parts, axis=axes.index("K"))
        array.flags.writeable = False  # no caller has it, so none need copy it
    else:
        array = to_numpy(argument, value)
    if array.ndim != len(axes):
        step = _ONE_NUMBER if argument == "outputs" and array.ndim == 2 else ""
        raise input_error(argument, f"of {len(axes)} axes ({axes})", f"shape {array.shape}", step)
    return rows_first(array, axes)


def rows_first(array: Array, axes: str) -> Array:
    """Return a view (n, K) or (n, K, C) of an array whose axes lie in this order."""
    return array.transpose([axes.index(letter) for letter in "NKC"[: len(axes)]])


def orient(
    arrays: Mapping[str, Any], axes: str, kind: Kind | None = None, classes: int = 0
) -> dict[str, Array]:
    """Bring arrays of any axis order to the names and shapes in `Rows`; ``features``, ``sample_costs`` hold several."""
    axes, kind = check_axes(axes), kind or KINDS["logits"]
    given = {name: value for name, value in arrays.items() if value is not None}
    if kind.targets and "labels" in given:
        given[TARGETS] = given.pop("labels")
    if kind.single or "variances" in given:
        for name in ("outputs", "variances"):
            if name in given:
                given[name] = _deepened(given[name], axes)
    vectors, costs = given.pop("features", None), given.pop("sample_costs", {})
    if vectors is not None:
        if not isinstance(vectors, (list, tuple)) or not vectors:
            allowed, got = "a list of K arrays of shape (n, D_k)", f"a {type(vectors).__name__}"
            raise input_error("features", allowed, got, "One per exit: their widths may differ.")
        given |= {f"{FEATURES_PREFIX}{k}": array for k, array in enumerate(vectors)}
    allowed, step = "a mapping of cost name to array (N, K)", "E.g. {'price': array}."
    check_type("sample_costs", costs, Mapping, allowed, step)
    given |= {COST_PREFIX + name: value for name, value in costs.items()}
    block: dict[str, Array] = {}
    for name, value in given.items():
        order = SPARSE.get(name) or COLUMNS.get(column_of(name), ("NK",))[0]
        if "K" in order:
            shown = name.replace(COST_PREFIX, "sample_costs ")
            block[name] = _rows_first(shown, value, axes if "C" in order else axes.replace("C", ""))
            continue
        block[name] = group_codes(np.asarray(value)) if name == GROUP else to_numpy(name, value)
        if name == "labels":
            block[name] = known_labels(block[name])
        if name in (TARGETS, QUERY) and block[name].ndim == 1:
            block[name] = block[name][:, None]
        if order == "N" and block[name].ndim != 1:
            step = label_step(block[name])
            raise input_error(name, "of shape (n,)", f"shape {block[name].shape}", step)
    variances = block.pop("variances", None)
    if variances is not None:
        values = block.get("outputs", np.empty(0))
        if values.shape != variances.shape:
            got = f"shape {variances.shape}"
            raise input_error("variances", f"of shape {values.shape}, as the outputs", got)
        block["outputs"] = np.concatenate([values, variances], axis=2)
    return confident(from_top(block, classes))


def confident(block: dict[str, Array]) -> dict[str, Array]:
    """Return a summary block with a confidence at every exit: the largest probability, or where none is given 1."""
    # That tells no row from another. The last exit decides nothing, so a score for the exits before it is enough;
    # without any, only shares of the rows can be chosen.
    if "outputs" in block:
        return block
    if "confidence" not in block and block.get("top_prob", np.empty(0)).size:
        return {**block, "confidence": block["top_prob"][:, :, 0]}
    given = block.get("confidence")
    lead = next((name for name in ANSWERS if name in block), None)
    if lead is None or (given is None and lead not in WORTH and QUERY not in block):
        return block
    n, exits = block[lead].shape[:2]
    if given is None:  # a view of one number: it takes no memory
        return {**block, "confidence": np.broadcast_to(np.float32(1.0), (n, exits))}
    if given.shape == (n, exits) and exits > 1 and np.isnan(given[:, -1]).all():
        given = given[:, :-1]
    if given.shape == (n, exits - 1):
        return {**block, "confidence": np.column_stack([given, np.ones(n, given.dtype)])}
    if len(given) == n and given.shape[1] != exits:
        most = max(given.shape[1], exits)
        allowed = (
            f"of one number of exits, with confidence for one fewer at least: {most - 1} of {most}"
        )
        got = f"confidence of {given.shape[1]} exits, {lead} of {exits}"
        raise input_error("exits", allowed, got, "Add what lacks; the last exit's confidence may.")
    return block


def _deepened(value: Any, axes: str) -> Any:
    """Return outputs of one number per row and exit with an axis of its own for it."""
    several = isinstance(value, (list, tuple)) and all(hasattr(v, "shape") for v in value)
    if several and value:
        return [v[:, None] if v.ndim == 1 else v for v in value]
    array = to_numpy("outputs", value)
    return np.expand_dims(array, axes.index("C")) if array.ndim == 2 else array


def known_labels(labels: Array) -> Array:
    """Return class labels, -1 where they are ignored (-100) or missing (NaN)."""
    off = (labels == IGNORED) | (labels != labels)
    return np.where(off, -1, labels) if off.any() else labels


def label_step(labels: Array) -> str:
    """Return what to do about labels that are no class numbers, by what they hold."""
    if labels.ndim != 2:
        return "Give a class number per row."
    if np.isin(labels, (0, 1)).all():
        ones = labels.sum(axis=1)
        if (ones == 1).all() and labels.shape[1] > 1:
            return "For one-hot rows take their argmax."
        return (
            f"Rows hold {int(ones.min())} to {int(ones.max())} ones: several labels per row, or none. "
            "Say --kind multilabel (Python: kind='multilabel')."
        )
    if labels.dtype.kind == "f":
        return "If they are values to be met, say --kind regression and --error-scale."
    return "Give a class number per row; 0 and 1 per label with --kind multilabel."


def to_block(layout: Layout, arrays: Mapping[str, Array]) -> tuple[Layout, dict[str, Array]]:
    """Check rows-first arrays against each other and the layout; return both, what was open filled in."""
    block = dict(arrays)
    _check_names(layout, block)
    for name, array in block.items():
        if not array.size and COLUMNS.get(column_of(name), ("NK",))[0] != "ND":
            got = f"{name} of shape {array.shape}"
            raise input_error("rows", "at least 1, with an exit and a class", got, "Leave it out.")
    rows, exits = block["outputs" if "outputs" in block else "confidence"].shape[:2]
    if layout.exits and exits != layout.exits:
        allowed = f"{layout.exits}, as in the costs and the rows before"
        raise input_error("exits", allowed, exits, "Check the axes and the number of costs.")
    for name, array in block.items():
        axes, shape = COLUMNS[column_of(name)][0], f"shape {array.shape}"
        if axes == "N" and array.shape != (rows,):
            got = f"{len(array)} {name}" if array.ndim == 1 else shape
            step = label_step(array) if array.ndim == 2 else "Add them, or check the axes."
            raise input_error(name, f"one for each of the {rows} rows", got, step)
        if name == QUERY and (array.ndim != 2 or len(array) != rows or not array.shape[1]):
            raise input_error(name, f"of shape ({rows}, D)", shape, "Give each row a vector.")
        if axes == "NC" and array.ndim != 2:
            raise input_error("labels", f"of shape ({rows}, C)", shape, "One row per sample.")
        if "K" in axes and (array.shape[:2] != (rows, exits) or array.ndim != len(axes)):
            raise input_error(name, f"of {rows} rows and {exits} exits", shape, "Check its axes.")
    features = _widths(block, rows, exits)
    if layout.features not in (None, features):
        step = "Every split and batch needs the vectors of one model, or none has them."
        allowed = f"as in the rows before: {_shown(layout.features or ())}"
        raise input_error("features", allowed, _shown(features), step)
    asked = block[QUERY].shape[1] if QUERY in block else 0
    if layout.query not in (None, asked):
        allowed, step = f"{layout.query} numbers, as in the rows before", "Give every row the same."
        raise input_error("query", allowed, f"{asked}", step)
    classes, kind = layout.classes, KINDS[layout.kind]
    if "outputs" in block:
        width = block["outputs"].shape[2]
        classes = kind.classes(width)
        if classes < kind.least:
            _refuse_width(kind, width)
        if layout.classes not in (0, classes):
            allowed = f"{layout.classes}, as stated or in the rows before"
            raise input_error("classes", allowed, classes, "All splits need outputs of one model.")
    aims = block.get(TARGETS)
    if aims is not None and aims.shape != (rows, classes):
        allowed = f"of shape ({rows}, {classes}), a number for each of the {kind.name}'s"
        step = "Give them for the same rows and columns as the outputs."
        raise input_error("labels", allowed, f"shape {aims.shape}", step)
    found = replace(layout, exits=exits, classes=classes, features=features, query=asked)
    return found, block


def _refuse_width(kind: Kind, width: int) -> None:
    """Refuse outputs of as many numbers per row and exit as are none of the kind."""
    if kind.single and kind.whole:
        step = "Of several classes say logits or probabilities, of several labels multilabel."
        raise input_error("outputs", f"one number per row and exit ({kind.name})", width, step)
    if kind.targets:
        allowed = "values, then as many variances, on the last axis"
        raise input_error("outputs", allowed, f"{width} numbers", "Give both.")
    raise input_error("outputs", "of at least 2 classes", width, _ONE_NUMBER)


def _check_names(layout: Layout, block: dict[str, Array]) -> None:
    """Refuse arrays that are missing from, or do not belong to, this kind of cache."""
    kind = layout.kind
    if kind == "summary":
        if "outputs" in block:
            raise input_error("outputs", "absent for kind summary", "outputs", "Say kind='logits'.")
        if "confidence" not in block:
            raise input_error("confidence", "given for kind summary", "none", "Pass confidence=.")
        if not {"prediction", *WORTH} & block.keys():
            step = "Add pred (class numbers), correct (1 or 0) or quality (0 to 1), for each exit."
            allowed = "given for kind summary (or else correct, or quality)"
            raise input_error("prediction", allowed, "neither", step)
    elif "outputs" not in block:
        raise input_error("outputs", f"given for kind {kind}", "none", "Pass outputs=.")
    elif extra := next((name for name in SUMMARY_ARRAYS if name in block), None):
        raise input_error(extra, "absent where outputs are given", extra, "Say kind='summary'.")
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
    odd = sorted(name for name in block if column_of(name) not in COLUMNS)
    odd += [TARGETS] if TARGETS in block and not KINDS[kind].targets else []
    if odd:
        known = sorted(name for name in COLUMNS if not name.endswith(":"))
        raise input_error("arrays", f"of {', '.join(known)}", f"{odd}", "Leave them out.")


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


def check_block(layout: Layout, block: Block, split: str, first_row: int = 0) -> None:
    """Refuse a block whose values are not allowed; `first_row` is its first row's number."""
    where = f"split {split!r}"
    rows = len(next(iter(block.values())))
    row_bytes = max(1, sum(a.nbytes for a in block.values()) // rows)
    step = max(1, _PIECE_BYTES // row_bytes)
    exits = range(block["outputs"].shape[1] if layout.kind == "logits" else 0)
    totals = [_total(block["outputs"][:, k : k + 1]) for k in exits]
    if any(totals) and (all(totals) or rows >= 20):  # of few rows some may sum to 1 by chance
        total = max(totals)
        got = f"rows that are non-negative and sum to {total} ({where}): probabilities"
        advice = "Say kind='probabilities' (--kind probabilities)."
        if total > 1:
            advice = f"Divide by {total}, and save them under a key probs."
        if not all(totals):
            got = f"logits, but at exit {totals.index(total)} {got}"
            advice = "Give the logits of every exit, or the probabilities of every exit."
        raise input_error("outputs", "logits, as declared", got, advice)
    after = KINDS[layout.kind].after_sigmoid
    if after and looks_after_sigmoid(block["outputs"]):
        got = f"numbers in [0, 1] alone ({where}): probabilities after a sigmoid"
        advice = f"Say kind='{after}' (--kind {after}), or give the logits."
        raise input_error("outputs", "logits, as declared", got, advice)
    for low in range(0, rows, step):
        piece = {name: array[low : low + step] for name, array in block.items()}
        _Piece(layout, piece, where, first_row + low).check()


@dataclass
class _Piece:
    """A few rows of a block under check."""

    layout: Layout
    block: Block
    where: str
    first: int  # number of the first row in its split

    def check(self) -> None:
        """Refuse the first bad value."""
        for name, array in self.block.items():
            _CHECKS[column_of(name)](self, name, array)
        if "top_prob" in self.block:
            top = self.block["top_prob"]
            off = ~ranked(top)
            allowed = "largest first with a sum of at most 1"
            self._refuse("top_prob", off, top, allowed, "Sort them.")
        if "correct" in self.block and "prediction" in self.block:
            self._agree(self.block["correct"].astype(bool), self.block["prediction"])

    def outputs(self, name: str, outputs: Array) -> None:
        """Refuse NaN, +inf, rows without a finite logit, overflow, and rows that are no probabilities."""
        kind = KINDS[self.layout.kind]
        if outputs.dtype.kind == "b":
            step = f"Give the {kind.name} themselves."
            raise input_error(name, "numbers", f"dtype bool ({self.where})", step)
        if not _all_finite(outputs):
            top = outputs.max(axis=2)  # NaN and +inf reach the top, -inf only where all are
            self._refuse(name, np.isnan(top), ["NaN"], "free of NaN")
            self._refuse(name, top == np.inf, ["inf"], "below +inf")
            if kind.whole and not kind.single:
                self._refuse(name, top == -np.inf, ["only -inf"], "finite for at least one class")
        dtype = storage_type(name, self.layout)
        if outputs.dtype != dtype:
            self._refuse_overflow(outputs, dtype)
        for off, allowed, step in kind.faults(outputs):
            self._refuse(name, off, outputs, allowed, step)
        if kind.name == "probabilities":
            wide = outputs.astype(np.float32) if outputs.dtype == np.float16 else outputs
            off = ~sums_to_one(wide) | (wide.min(axis=2) < 0)
            step = "If these are logits, say kind='logits' (--kind logits)."
            if (wide >= 0).all():
                step = "None is negative, so they are no logits: divide each row by its sum."
            if looks_after_sigmoid(outputs):
                step = (
                    "All are in [0, 1]: if they were rounded, divide each row by its sum; after a sigmoid, each label "
                    "by itself, they are of --kind multilabel (kind='multilabel'), with labels (N, C) of 0 and 1. "
                    "No argmax makes classes of them."
                )
            self._refuse(name, off, outputs, "0 or more, with sum 1 (probabilities)", step)

    def _refuse_overflow(self, outputs: Array, dtype: np.dtype[Any]) -> None:
        limit = float(np.finfo(dtype).max)
        if max(float(outputs.max()), -float(outputs.min())) <= limit:
            return
        finite = outputs[np.isfinite(outputs)]  # -inf stays -inf in any type
        worst = float(finite[np.abs(finite).argmax()])
        if abs(worst) > limit:
            step = "Scale them, or mend that value."
            if dtype.name == "float16":
                step = "Keep them as float32: --dtype float32 (Python: dtype='float32')."
            allowed = f"within +-{limit:.6g} to be kept as {dtype.name}"
            raise input_error("outputs", allowed, f"{worst:g} ({self.where})", step)

    def context(self, name: str, array: Array) -> None:
        """There is always one expert that gave the outputs."""
        names = self.layout.contexts
        allowed = f"whole numbers from 0 to {len(names) - 1} ({', '.join(names)})"
        step = "Number the contexts in the order of their names."
        self._refuse(name, ~np.isin(array, np.arange(len(names))), array, allowed, step)

    def group(self, name: str, array: Array) -> None:
        """Any code will do."""

    def classes(self, name: str, array: Array) -> None:
        """Labels and predictions: whole numbers from -1 (unknown, unparsed) to C-1."""
        classes = self.layout.classes
        if array.dtype.kind == "f":
            off = ~(np.isfinite(array) & (array == np.floor(array)))
            self._refuse(name, off, array, "whole numbers")
        limit = classes or np.iinfo(np.int32).max
        span = f"classes 0 to {limit - 1}" if classes else "class numbers from 0"
        allowed = f"{span}, or -1 ({'unknown' if name == 'labels' else 'no answer'})"
        more = f" If there are more than {classes} classes, check --axes." if classes else ""
        self._refuse(name, (array < -1) | (array >= limit), array, allowed, _REMEDY[name] + more)

    def targets(self, name: str, array: Array) -> None:
        """Of sets of labels 0 and 1; of values finite numbers."""
        if KINDS[self.layout.kind].scaled:
            with np.errstate(invalid="ignore"):
                off, allowed, step = ~np.isfinite(array), "finite numbers", "Leave such rows out."
        else:
            off, allowed = ~np.isin(array, (0, 1)), "0 or 1 for each label"
            step = "Rows whose labels are not known are left out, or all labels are."
        self._refuse("labels", off.any(axis=1), array, allowed, step)

    def features(self, name: str, array: Array) -> None:
        """Numbers that are finite in float32."""
        if is_features(name):
            name = f"features of exit {name.removeprefix(FEATURES_PREFIX)}"
        if array.dtype.kind not in "fiu":
            got = f"dtype {array.dtype} ({self.where})"
            raise input_error(name, "numbers", got, "Convert them to float.")
        with np.errstate(over="ignore"):
            fits = np.isfinite(array.astype(np.float32, copy=False))
        if not fits.all():
            row, column = np.argwhere(~fits)[0]
            got = [f"{array[row, column]} in column {column}"]
            off = ~fits.all(axis=1)
            self._refuse(name, off, got, "finite in float32", "Look for overflow.")

    def cost(self, name: str, array: Array) -> None:
        """Cumulative costs."""
        shown = f"{name.removeprefix(COST_PREFIX)} ({self.where})"
        cumulative(array, "cumulative", shown, self.first)

    def called(self, name: str, array: Array) -> None:
        """Orders of calls."""
        order = -np.sort(-array.astype(np.int64), axis=1)
        count = (order > 0).sum(axis=1, keepdims=True)
        off = (order != np.maximum(count - np.arange(order.shape[1]), 0)).any(axis=1) | (count < 1)[
            :, 0
        ]
        self._refuse(
            name, off, array, "1, 2, ... in the order of the calls, 0 of models not called"
        )

    def likely(self, name: str, array: Array) -> None:
        """Probabilities of decisions that were taken."""
        self._refuse(name, ~((array > 0) & (array <= 1)), array, "in (0, 1]")

    def entropy(self, name: str, array: Array) -> None:
        """In nats."""
        most = np.log(self.layout.classes) + 1e-3 if self.layout.classes else np.inf
        self._range(name, array, most, "nats, at least 0 and at most log C")

    def share(self, name: str, array: Array) -> None:
        """Confidences and probabilities."""
        self._range(name, array, 1.0, "in [0, 1]")

    def _range(self, name: str, array: Array, most: float, allowed: str) -> None:
        with np.errstate(invalid="ignore"):
            fits = (array >= -UNIT_TOLERANCE) & (array <= most + UNIT_TOLERANCE)
        self._refuse(name, ~(fits & np.isfinite(array)), array, allowed)

    def correct(self, name: str, array: Array) -> None:
        """Booleans, or 0 and 1."""
        if array.dtype.kind != "b":
            step = "Grades from 0 to 1 go under the key quality; or round them to right and wrong."
            off = ~np.isin(array, (0, 1))
            self._refuse(name, off, array, "true or false (1 or 0)", step)

    def _agree(self, correct: Bools, prediction: Array) -> None:
        """`correct` must say what prediction and label say; an unparsed answer (-1) is always wrong."""
        labels = self.block.get("labels")
        clash = correct & (prediction < 0)
        if labels is not None:
            right = (prediction == labels[:, None]) & (prediction >= 0)
            clash |= (labels[:, None] >= 0) & (correct != right)
        if clash.any():
            row, k = np.argwhere(clash)[0]
            label = "none" if labels is None else labels[row]
            got = [f"{correct[row, k]} with prediction {prediction[row, k]} and label {label}"]
            step = "Mend the one that is off, or leave `correct` out."
            self._refuse("correct", clash, got, "prediction == label (-1 is wrong)", step)

    def _refuse(self, name: str, off: Any, got: Any, allowed: str, step: str = "") -> None:
        """Raise the error for the first place of `off` (row, exit, ...); `got`: values, or one text."""
        if not off.any():
            return
        at = tuple(np.argwhere(off)[0])
        values = got[0] if isinstance(got, list) else got[at]
        shown = values if isinstance(got, list) or not values.ndim else values[..., :4]
        place = f"row {self.first + int(at[0])}" + (f", exit {int(at[1])}" if len(at) > 1 else "")
        step = step or _REMEDY.get(name, "Mend that row or leave it out.")
        raise input_error(name, allowed, f"{shown} at {place} of {self.where}", step)


#: The check of each array's values.
_CHECKS = {
    "outputs": _Piece.outputs, TARGETS: _Piece.targets, "labels": _Piece.classes, CONTEXT: _Piece.context,
    GROUP: _Piece.group,
    "prediction": _Piece.classes, "confidence": _Piece.share, "top_prob": _Piece.share,
    "entropy": _Piece.entropy, "correct": _Piece.correct, "quality": _Piece.share,
    CALLED: _Piece.called, PROPENSITY: _Piece.likely,
    COST_PREFIX: _Piece.cost, FEATURES_PREFIX: _Piece.features, QUERY: _Piece.features,
}  # fmt: skip


def _all_finite(array: Array) -> bool:
    if array.dtype == np.float16:  # by its bits: numpy's own test of half floats is 20 times slower
        return bool((array.view(np.uint16) & np.uint16(0x7FFF)).max() < 0x7C00)
    return bool(np.isfinite(array).all())


def known_kind(kind: object) -> str:
    """Return the name of a kind, or refuse it."""
    return check_one_of("kind", kind, tuple(KINDS), "Choose one (--kind).")


def kind_with(kind: str | None, variances: bool) -> str | None:
    """Return the kind that the user says, of a regression the one with variances where they are given."""
    if not variances:
        return kind
    if kind not in ("regression", "regression_variances"):
        step = "Say --kind regression (kind='regression'), or leave the variances out."
        raise input_error("variances", "given for a regression", f"kind {kind}", step)
    return "regression_variances"


def after_sigmoid(
    kind: str | None, parts: Iterable[Mapping[str, Array]], notes: list[str]
) -> str | None:
    """Return the kind, or where all numbers are in [0, 1] that of its sigmoids, which is noted."""
    after = KINDS[kind].after_sigmoid if kind in KINDS else ""
    found = [part["outputs"] for part in parts if "outputs" in part]
    if not after or not found or not all(map(looks_after_sigmoid, found)):
        return kind
    notes.append(f"outputs are all in [0, 1]: read as {after}, after a sigmoid; policies take such")
    return after


def sigmoids_as_logits(outputs: Array, where: str) -> Iterator[str]:
    """Yield what is odd about logits that are all in [0, 1]."""
    if looks_after_sigmoid(outputs):
        yield (
            f"{where}: all of the numbers read as logits are in [0, 1]. If they are rounded probabilities, divide each "
            "row by its sum, under a key probs; if they are sigmoids, each label by "
            "itself, no argmax makes classes of them: say --kind multilabel, with labels (N, C) of 0 and 1"
        )


def truth_notes(where: str, block: Mapping[str, Array], kind: str) -> Iterator[str]:
    """Yield what is odd about labels beside outputs (N, K, C) or predictions: ruled out, at chance, numbered from 1."""
    outputs, labels = block.get("outputs"), block.get("labels")
    if labels is not None and labels.dtype.kind in "biuf" and (labels == -1).any():
        yield (
            f"{where}: {int((labels == -1).sum())} of {len(labels)} rows have no label (-1, -100): they take part "
            "where none is needed, and are left out of accuracies and of what learns from labels"
        )
    said = block.get("prediction") if kind == "summary" else outputs
    if said is None or labels is None or kind not in ("logits", "probabilities", "summary"):
        return
    if said.ndim < 2 or labels.shape != said.shape[:1] or labels.dtype.kind not in "biuf":
        return  # refused elsewhere
    known = np.flatnonzero((labels >= 0) & ((labels < said.shape[2]) if said.ndim > 2 else True))
    if not len(known):
        return
    known = known[:: -(-len(known) // _MOST_TO_JUDGE)]
    told = labels[known].astype(np.int64)
    impossible, right = np.zeros(len(known), dtype=bool), np.zeros((3, said.shape[1]))
    for k in range(said.shape[1]):
        answer = said[known, k]
        if said.ndim > 2:
            least = answer.max(axis=1) - 700.0 if kind == "logits" else 0  # whose exp() is 0
            impossible |= answer[np.arange(len(known)), told] <= least
            answer = answer.argmax(axis=1)
        right[:, k] = [(answer == told + shift).mean() for shift in (0, -1, 1)]
    if impossible.any():
        yield (
            f"{where}: {int(impossible.sum())} of {len(known)} rows have a true class that some exit rules out (-inf "
            "or near, or probability 0): never right there. Is the mask, or the list of classes, the right one?"
        )
    share = np.unique(told, return_counts=True)[1] / len(known)
    chance = float(share.max())  # of whoever says the commonest class
    line = chance + 3 * (chance / len(known)) ** 0.5
    if len(known) < _FEW_TO_JUDGE:
        return
    if right[0].max() > line:
        for k in range(1, len(right[0])):
            if right[0, k] <= line < right[0, :k].max():
                yield (
                    f"{where}: exit {k} is right no more often ({100 * right[0, k]:.1f} %) than by guessing, where "
                    "one before it is: are its rows and its classes in the order of the others'?"
                )
        return
    best = right.mean(axis=1)
    more = "are labels numbered from 0, and in the order of the outputs? Are the --axes right?"
    if best[1:].max() > best[0] + 0.1:
        up = best[1] > best[2]
        more = (
            f"with {'1 less' if up else '1 more'} they would be right in {100 * best[1:].max():.0f} %: "
            f"labels are numbered from {1 if up else -1}, not 0. {'Subtract' if up else 'Add'} 1 (--labels FILE)"
        )
    yield (
        f"{where}: no exit is right more often ({100 * right[0].max():.1f} %) than guessing the commonest class "
        f"({100 * chance:.1f} %): {more}"
    )


def summary_notes(where: str, block: Mapping[str, Array]) -> Iterator[str]:
    """Yield what is odd about summaries: of two classes none is predicted with less than 1/2."""
    if not {"prediction", "confidence"} <= block.keys():
        return
    if "correct" in block and "labels" not in block:
        return  # numbers of answers, perhaps, to each question
    prediction, confidence = block["prediction"], block["confidence"]
    asked = prediction >= 0
    classes = set(np.unique(prediction[asked]).tolist())
    if "labels" in block:
        classes |= set(np.unique(block["labels"][block["labels"] >= 0]).tolist())
    low = asked & (confidence < 0.5 - SUM_TOLERANCE)
    if len(classes) != 2 or not low.any():
        return
    share, of = low.sum() / asked.sum(), np.unique(prediction[low]).tolist()
    told = f"where class {of[0]:g} is predicted" if len(of) == 1 else "of predictions"
    yield (
        f"{where}: {100 * share:.0f} % of confidences are under 0.5, {told}, which none of two "
        "classes can have. If they are P(class 1), a sigmoid, a sure 0 counts as unsure: fold them, "
        "max(p, 1 - p), or import the sigmoids as outputs with --kind probability"
    )


def detect_kind(outputs: Array | None) -> str:
    """Return the kind that the values show: ``summary`` without outputs, else by their sums."""
    if outputs is None:
        return "summary"
    return "probabilities" if _total(outputs) == 1 else "logits"


def _total(outputs: Array) -> int:
    """Return what nearly all rows, none of it negative, sum to: 1, 100 (percent) or 255 (bytes); 0: none of these."""
    with np.errstate(over="ignore"):  # a sum that is inf is not 1
        some = np.asarray(outputs[:: max(1, len(outputs) // 2048)], dtype=np.float32)
    positive = some.size and some.min(axis=2) >= 0
    for total in (1, 100, 255) if np.mean(positive) > _NEARLY_ALL else ():
        if (positive & sums_to_one(some / np.float32(total))).mean() > _NEARLY_ALL:
            return total
    return 0


def sums_to_one(outputs: Array) -> Bools:
    """Say for each row and exit, (n, K), whether its values sum to 1."""
    wide = np.float64 if outputs.dtype == np.float64 else np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(outputs.sum(axis=2, dtype=wide) - 1) <= SUM_TOLERANCE
