"""Reading what exits gave, numpy or torch: outputs, summaries and features, checked by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import input_error
from ._kinds import KINDS, Kind, looks_after_sigmoid
from ._outputs import ExitOutput, check_peaks, reduce_logits, reduce_record
from ._sparse import from_top
from ._text import same_answer
from ._typing import Array, Bools

_COLUMNS = ("confidence", "prediction", "top_prob", "entropy")
#: Fewer rows of logits could look like probabilities by chance; more need not be looked at.
FEWEST, _MOST = 4, 64
#: What stands for a missing text.
MISSING = ("", "nan", "null", "none", "na", "n/a", "<na>", "#n/a")
_SUM_TOLERANCE = 1e-3  # covers a softmax in float16
#: Kinds whose numbers a softmax or sigmoid would make probabilities.
_OF_LOGITS = ("logits", *(name for name, kind in KINDS.items() if kind.after_sigmoid))
# Of one probability, which a softmax may take past 1 and `import` and `run` clip; of a sum of rounded ones.
UNIT_TOLERANCE, _TOP_TOLERANCE = 1e-5, 1e-2


def reduce_exit(output: object, kind: str, classes: int, name: str = "output") -> ExitOutput:
    """Check what an exit gave and reduce it.

    Parameters
    ----------
    output : array of shape (n, C), or `ExitOutput`, or mapping
        Logits or probabilities; for records a mapping with ``confidence`` and perhaps
        ``prediction``, ``top_prob``, ``entropy``, or with ``top_logits``, ``top_classes``, ``rest``.
    kind : str
        What the policy was fitted on: one of the kinds but regression, which takes a state.
    classes : int
        C; 0 where unknown (records).
    name : str
        Name used in errors.

    Returns
    -------
    ExitOutput

    Raises
    ------
    InputError
        Wrong shape, NaN, +inf, or no finite logit in a row.

    Examples
    --------
    >>> reduce_exit(np.zeros((2, 4)), "logits", 4).confidence
    array([0.25, 0.25])
    """
    if isinstance(output, ExitOutput):
        return output
    if kind == "summary":
        if not hasattr(output, "keys"):
            allowed = "a mapping with 'confidence' and perhaps 'prediction'"
            step = "The policy was fitted on summaries; pass summaries."
            raise input_error(name, allowed, type(output).__name__, step)
        columns = {key: as_array(output[key], f"{key} of {name}") for key in output}  # type: ignore
        columns = from_top(columns, classes, name)
        _mark_missing(columns)
        _check_record(columns, name)
        return reduce_record(**{"prediction": -1, **columns})
    read, values = KINDS[kind], read_values(output, KINDS[kind], classes, name)
    if not read.whole:
        start = read.start(len(values), classes)
        return read.reduce(0, values, start, 1.0)[0]
    return reduce_logits(read.logits(values), name=name)


def read_values(
    output: object, kind: Kind, classes: int, name: str = "output"
) -> npt.NDArray[np.floating]:
    """Check what an exit gave, but for infinite logits, and return its numbers, (n, W)."""
    array, width = as_array(output, name), kind.width(classes)
    if array.dtype.kind not in "fiu":
        raise input_error(name, f"an array of {kind.name}", f"dtype {array.dtype}", "Pass floats.")
    if kind.single and array.ndim == 1 and width == 1:
        array = array[:, None]
    if array.ndim != 2 or array.shape[1] != width:
        step = f"One row per sample, of {kind.name}."
        raise input_error(name, f"of shape (n, {width})", f"shape {array.shape}", step)
    kind.check(array, name)
    return array


def looks_like_probabilities(output: object, kind: str = "logits") -> bool:
    """Say whether the first rows, four or more, are all non-negative with sum 1, as no logits are.

    Of kinds that a sigmoid makes probabilities: whether numbers enough are all in [0, 1].
    """
    deep = (1, 2) if KINDS[kind].single else (2,)
    rows: Any = output[:_MOST] if getattr(output, "ndim", 0) in deep else None  # type: ignore[index]
    if rows is None or len(rows) < FEWEST or not rows.shape[-1]:
        return False
    rows = as_array(rows)
    if KINDS[kind].after_sigmoid:
        return rows.dtype.kind == "f" and looks_after_sigmoid(rows)
    # The least first: of logits nearly always negative, which ends it. NaN is not 0 or more.
    if rows.dtype.kind != "f" or not rows.min() >= 0:
        return False
    with np.errstate(over="ignore"):  # a sum that is inf is not 1
        return bool((np.abs(rows.sum(axis=1, dtype=np.float64) - 1) <= _SUM_TOLERANCE).all())


def refuse_probabilities(output: object, name: str, kind: str = "logits") -> None:
    """Refuse probabilities where the policy takes logits: their softmax is nearly even, so all would run on."""
    if kind in _OF_LOGITS and looks_like_probabilities(output, kind):
        after = KINDS[kind].after_sigmoid
        got = "numbers in [0, 1]" if after else "rows that are non-negative and sum to 1"
        made = f"sigmoid), or fit the policy on {after}." if after else ""
        step = f"Give the logits (before {made or 'softmax), or fit the policy on probabilities.'}"
        raise input_error(
            name, "logits, which the policy was fitted on", f"{got}: probabilities", step
        )


def _mark_missing(columns: dict[str, Any]) -> None:
    """Take predictions that are missing, None or NaN, as -1, and a confidence that lacks with one as the least."""
    try:
        said, sure = (columns[n].astype(np.float64) for n in ("prediction", "confidence"))
    except (KeyError, TypeError, ValueError):  # lacking, or refused by name
        return
    gone = np.isnan(said) | (said == -1)
    if said.shape == sure.shape and (np.isnan(said) | np.isnan(sure) & gone).any():
        said = np.where(gone, -1.0, said)
        columns["prediction"] = said.astype(np.int64) if (said % 1 == 0).all() else said
        columns["confidence"] = np.where(gone & np.isnan(sure), 0.0, sure)


def _check_record(columns: dict[str, Any], name: str) -> None:
    """Refuse summaries that lack a column, hold an unknown one, or a confidence that is none."""
    if "confidence" not in columns or columns.keys() - set(_COLUMNS):
        allowed = f"confidence, perhaps {', '.join(_COLUMNS[1:])}"
        got = ", ".join(sorted(columns)) or "none"
        raise input_error(f"columns of {name}", allowed, got, "Rename or add columns.")
    confidence = columns["confidence"]
    prediction = columns.get("prediction", np.broadcast_to(-1, confidence.shape))
    if confidence.shape != prediction.shape or confidence.ndim > 1:
        allowed = "of one shape, one number per sample"
        got = f"shapes {prediction.shape} and {confidence.shape}"
        raise input_error(f"pred and conf of {name}", allowed, got, "Take both from the same rows.")
    if prediction.dtype.kind not in "iu":
        got = f"dtype {prediction.dtype}"
        raise input_error(
            f"pred of {name}", "whole numbers", got, 'Number the classes, or say {"answer": text}.'
        )
    if confidence.dtype.kind not in "fiu" or not ((confidence >= 0) & (confidence <= 1)).all():
        got = confidence.ravel()[:5].tolist()
        raise input_error(f"confidence of {name}", "numbers in [0, 1]", got)
    top, entropy = columns.get("top_prob"), columns.get("entropy")
    shape = confidence.shape
    if top is not None and not (
        top.shape[:-1] == shape and top.ndim == len(shape) + 1 and top.size and ranked(top).all()
    ):
        got = f"shape {top.shape}: {top.ravel()[:6].tolist()}"
        allowed = f"of shape {(*shape, 'T')}, in [0, 1], largest first with a sum of at most 1"
        raise input_error(f"top_prob of {name}", allowed, got, "Sort them, a row per sample.")
    if entropy is not None and not (entropy.shape == shape and (entropy >= 0).all()):
        got = f"shape {entropy.shape}: {entropy.ravel()[:6].tolist()}"
        raise input_error(f"entropy of {name}", f"of shape {shape}, 0 or more", got, "In nats.")


@lru_cache(maxsize=64)
def _by_meaning(names: tuple[str, ...]) -> dict[str, str]:
    return {same_answer(name): name for name in names}


def class_texts(told: Mapping[str, Any]) -> dict[str, str]:
    """Return ``class_names`` in their order, by what texts have in common; none where two of them mean the same."""
    names = told.get("class_names")
    texts = _by_meaning(tuple(map(str, names))) if isinstance(names, (list, tuple)) else {}
    return dict(texts) if names and len(texts) == len(names) else {}


def number_answer(output: Any, state: Any, told: Mapping[str, Any]) -> Any:
    """Return a summary of one request, a number in the place of its ``answer``; `state` keeps the texts.

    Classes whose names the policy's provenance, `told`, has are numbered so, other texts after them. No confidence is
    the least one, as in tables; where the fit had none, all count as 1.
    """
    least = float(told.get("confidences") is False)
    sure = output.get("confidence", None if least else 0.0) if hasattr(output, "keys") else 0.0
    if sure is None or (np.ndim(sure) == 0 and sure != sure):
        output = {**output, "confidence": least}
    if not hasattr(output, "keys") or "answer" not in output:
        return output
    state.texts = class_texts(told) if state.texts is None else state.texts
    given, text = {key: output[key] for key in output if key != "answer"}, output["answer"]
    text = "" if text is None or text != text else text
    if not isinstance(text, str):
        raise input_error("answer", "a text, or None", text, "A class number is a prediction.")
    if text.strip().lower() in MISSING:  # the least sure
        return {**given, "prediction": -1, "confidence": least}
    state.texts.setdefault(meant := same_answer(text), text.strip())
    return {**given, "prediction": list(state.texts).index(meant)}


def text_of(prediction: Any, state: Any) -> Any:
    """Return the text that a prediction stands for, None of -1; itself where answers are no texts."""
    if state.texts is None:
        return prediction
    return None if prediction < 0 else list(state.texts.values())[prediction]


def ranked(top: Array) -> Bools:
    """Return which rows (..., T) are probabilities, the largest first, with a sum of at most 1."""
    top = top.astype(np.float64, copy=False)
    falls = (np.diff(top, axis=-1) <= UNIT_TOLERANCE).all(axis=-1)
    inside = (top >= -UNIT_TOLERANCE).all(axis=-1) & (top[..., 0] <= 1 + UNIT_TOLERANCE)
    return falls & inside & (top.sum(axis=-1) <= 1 + _TOP_TOLERANCE)


def as_array(output: object, name: str = "output") -> Array:
    """Return `output` as an ndarray; torch tensors are detached and brought to the CPU, by their own methods."""
    if hasattr(output, "detach"):
        tensor = output.detach().cpu()  # type: ignore[attr-defined]
        if "bfloat16" in str(tensor.dtype):  # numpy has no such type
            tensor = tensor.float()
        return tensor.numpy()
    try:
        return np.asarray(output)
    except ValueError as error:
        raise input_error(name, "an array", "rows of unequal length", "Pad the rows.") from error


def check_finite(array: npt.NDArray[np.floating], name: str) -> None:
    """Refuse NaN, +inf and rows without a finite value; -inf alone marks a class that cannot be."""
    check_peaks(array.max(axis=1), name)


def read_vectors(
    k: int, features: object, samples: int, scalar: bool = False
) -> npt.NDArray[np.float32]:
    """Check the feature vectors that exit k gave, and return them as (n, D) float32."""
    name = f"features of exit {k}"
    if features is None:
        step = "Pass features= beside the outputs: the vectors that the cache holds for this exit."
        raise input_error(name, "given: what decides reads them", "none", step)
    array = as_array(features, name)
    array = array[None] if scalar and array.ndim == 1 else array
    if array.ndim != 2 or len(array) != samples or not array.shape[1]:
        got = f"shape {array.shape}"
        raise input_error(name, f"of shape ({samples}, D)", got, "One row per sample.")
    if array.dtype.kind not in "fiu":
        raise input_error(name, "an array of numbers", f"dtype {array.dtype}", "Pass floats.")
    with np.errstate(over="ignore"):  # a number too large for float32 is found as infinity
        array = array.astype(np.float32, order="C", copy=False)
    if not np.isfinite(array).all():
        raise input_error(name, "finite", "NaN or infinity", "Look for overflow in the model.")
    return array


def read_exits(
    outputs: Any, exits: int, kind: Kind, classes: int, path: Sequence[int] | None = None
) -> tuple[int, Callable[[int, Any], Any]]:
    """Return the number of samples, and a way to read some of them at one exit."""
    if isinstance(outputs, Mapping):
        raise input_error("outputs", "one entry per exit", "a mapping", "Pass K of them, a list.")
    is_array = hasattr(outputs, "ndim")
    if not is_array and not hasattr(outputs, "__len__"):
        raise input_error("outputs", "an array, or one entry per exit", type(outputs).__name__, "")
    deep = (2, 3) if kind.single else (3,)
    count = (outputs.shape[1] if outputs.ndim in deep else -1) if is_array else len(outputs)
    if count != exits:
        came = f"shape {tuple(outputs.shape)}" if is_array else f"{count} entries"
        allowed = f"of shape (N, {exits}, {kind.width(classes)}), or a sequence of {exits} exits"
        raise input_error("outputs", allowed, came)
    if is_array:
        array = as_array(outputs)
        return len(array), lambda k, part: array[part, k]
    entries = {
        k: o if isinstance(o, (ExitOutput, Mapping)) else as_array(o, f"output of exit {k}")
        for k, o in enumerate(outputs)
        if path is None or k in path
    }
    lengths = {k: _length(entry) for k, entry in entries.items()}
    first, rows = next(iter(lengths.items()))
    for k, length in lengths.items():
        if length != rows:
            raise input_error(f"output of exit {k}", f"{rows} rows, as exit {first} has", length)
    return rows, lambda k, part: _part(entries[k], part)


def _length(entry: Any) -> int:
    if isinstance(entry, Mapping):
        return max((len(np.atleast_1d(as_array(column))) for column in entry.values()), default=0)
    return len(entry) if isinstance(entry, ExitOutput) or entry.ndim else 0


def _part(entry: Any, part: slice) -> Any:
    if isinstance(entry, ExitOutput):
        return entry.take(part)
    if isinstance(entry, Mapping):
        return {key: np.atleast_1d(as_array(column))[part] for key, column in entry.items()}
    return entry[part] if entry.ndim else entry


def read_features(
    features: Any, exits: int, samples: int, path: Sequence[int] | None = None
) -> list[Array]:
    """Return the feature vectors of many samples, one array per exit of the path."""
    several = isinstance(features, (list, tuple))
    if not several or len(features) != exits:
        got = f"{len(features)} entries" if several else f"a {type(features).__name__}"
        allowed = f"a list of {exits} arrays of shape (N, D_k), one per exit"
        step = "Widths may differ by exit, so they do not stand in one array."
        raise input_error("features", allowed, got, step)
    arrays = []
    for k in range(exits) if path is None else path:
        name = f"features of exit {k}"
        arrays.append(array := as_array(features[k], name))
        if array.ndim != 2 or len(array) != samples:
            got = f"shape {array.shape}"
            raise input_error(name, f"of shape ({samples}, D)", got, "As the outputs.")
    return arrays
