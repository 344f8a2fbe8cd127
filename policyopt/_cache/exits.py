"""What stands exit by exit, in keys or in files, to arrays over all exits; names of classes to numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policyopt._cache.blocks import ANSWERS, WORTH
from policyopt._cache.data import MAX_EXITS, QUERY
from policyopt._cache.keys import (
    DEPTHS,
    PER_SAMPLE,
    SYNONYMS,
    Place,
    counted,
    names_split,
    parse_key,
    without_split,
)
from policyopt._cache.raw import SPELLING, Raw, recoded
from policyopt.runtime._errors import input_error
from policyopt.runtime._typing import Array

#: Roles of one number, or one vector, per row and exit.
_ONE = ("confidence", "conf_logprob", "prediction", "entropy", *WORTH)
_DEEP = ("logits", "probabilities", "outputs", "values")
CONFIDENCES = ("confidence", "conf_logprob")
#: What to do with a file of one exit.
FILES = "give the files of all, cheapest first: --exits A B."
#: Letters up to here are options, by their place in the alphabet.
_LETTERS = "ABCDEFGHIJ"
#: Most names of classes that a cache keeps.
_MOST_NAMES = 1000


def by_exit(raw: Raw) -> Raw:
    """Stack what a file holds for each exit by itself, under numbers or names, to arrays (N, K, ...)."""
    _positional(raw)
    for key in [k for k, a in raw.arrays.items() if _parsed(k)[1] == "prediction" and a.ndim == 3]:
        raw.arrays.setdefault(_spelled(key, "outputs"), raw.arrays.pop(key))  # of Hugging Face
        raw.note(f"{raw.origin.get((key, None), key)} read as outputs: they are no class numbers")
    _by_prefix(raw)
    whole = {
        _parsed(key)[1] for key, a in raw.arrays.items() if a.ndim > 2 or _parsed(key)[1] in _ONE
    }
    for key in list(raw.pieces):
        guessed = _parsed(key)[1] == "outputs" or not all(
            isinstance(e, int) for e in raw.pieces[key]
        )
        if key in raw.arrays or (guessed and whole & {*_DEEP, *_ONE} and not raw.listed):
            named = [raw.origin.get((key, e), f"{key}_{e}") for e in raw.pieces.pop(key)]
            raw.note(f"keys {', '.join(named[:4])} not used beside {', '.join(raw.arrays)}")
    if not raw.pieces:
        return raw
    for at in raw.pieces.values():
        for e, columns in at.items():
            at[e] = _of_classes(raw, f"exit {e}", columns) if isinstance(columns, dict) else columns
    _refuse_left_out(raw)
    exits = _exits(raw)
    for key, at in raw.pieces.items():
        raw.arrays[key] = _stacked(raw, key, at, exits)
    raw.pieces, raw.axes, raw.apart = {}, "NKC", not raw.table
    return raw


def with_logarithms(raw: Raw) -> Raw:
    """Call confidences that are all 0 or less what they must be, logarithms."""
    for key in [k for k in raw.arrays if _parsed(k)[1] == "confidence"]:
        array, logs = raw.arrays[key], _spelled(key, "conf_logprob")
        if logs not in raw.arrays and (array < 0).any() and not (array > 0).any():
            raw.arrays[logs] = raw.arrays.pop(key)
            raw.note(f"{key}: confidences are all 0 or less: read as their logarithms")
    return raw


def with_queries(raw: Raw) -> Raw:
    """Put columns query_0, query_1, ... together, (N, D); one alone is (N, 1)."""
    several = dict[str, dict[int, Array]]()
    for key in [k for k in raw.arrays if _parsed(k)[1] == QUERY]:
        whole, _, number = key.rpartition("_")
        if number.isdecimal():
            several.setdefault(whole, {})[int(number)] = raw.arrays.pop(key)
        elif raw.arrays[key].ndim == 1:
            raw.arrays[key] = raw.arrays[key][:, None]
    for key, columns in several.items():
        raw.put(f"{key}_0", Place(key), _of_classes(raw, key, columns))
    return raw


def _refuse_left_out(raw: Raw) -> None:
    """Refuse an array (N, C) of no known place that looks just like those of the exits."""
    for key, at in raw.pieces.items() if not raw.listed else ():
        shapes = {a.shape for a in at.values() if a.ndim == 2}
        if alike := [k for k, shape in raw.unread.items() if shape in shapes]:
            own = ",".join(raw.origin.get((key, e), str(e)) for e in at)
            got = f"{own} and, of the same shape, {', '.join(alike)}"
            step = f"If these are all: --key {key}={own}; else list the others too, cheapest first."
            raise input_error(f"{raw.name}: exits", "known to be all", got, step)


def _parsed(key: str) -> tuple[str | None, str, str]:
    return parse_key(key) or (None, key, key)


def _positional(raw: Raw) -> None:
    """Tell labels from outputs among ``arr_0``, ``arr_1``, ..., as `numpy.savez` calls what has no name."""
    at = raw.pieces.get("outputs", {})
    if "arr" not in raw.words or not at:
        return
    flat = [e for e, a in at.items() if a.ndim == 1 and a.dtype.kind in "iu"]
    labelled = any(_parsed(key)[1] == "labels" for key in raw.arrays)
    if len(flat) == 1 < len(at) and not labelled:
        raw.arrays["labels"] = at.pop(flat[0])
        raw.note(f"arr_{flat[0]} read as labels, of whole numbers")
    if len(at) == 1:
        (raw.arrays["outputs"],) = raw.pieces.pop("outputs").values()


def _by_prefix(raw: Raw) -> None:
    """Take prefixes for names of exits where the arrays behind them are of one exit: ``small_logits`` (N, C)."""
    found: dict[str, set[str]] = {}
    bare = list[str]()
    for key, array in raw.arrays.items():
        prefix, role, _ = _parsed(key)
        if array.ndim in ((1, 2) if role in _DEEP else (1,)) and role in (*_DEEP, *_ONE):
            if prefix is None and role == "prediction":
                bare.append(key)
            elif prefix is None or names_split(prefix):
                return
            else:
                found.setdefault(prefix, set()).add(role)
    if len(found) < 2:
        return
    for key in bare:  # such as the answer that is right, which has to be said
        own = raw.origin.get((key, None), key)
        raw.unread[own] = raw.arrays.pop(key).shape
        raw.note(f"key {own!r} not used: it is of no exit")
    for key in list(raw.arrays):
        prefix, role, base = _parsed(key)
        if prefix not in found:
            continue
        array = raw.arrays.pop(key)
        if key in raw.texts:
            raw.texts.setdefault(base, {}).update(raw.texts.pop(key))
            raw.as_text.add((base, prefix))
        if role in PER_SAMPLE:
            _same(raw, base, array, prefix)
        elif base.startswith("features_"):
            raw.arrays[base] = array
        else:
            raw.pieces.setdefault(base, {})[prefix] = array
            raw.origin[base, prefix] = key


def _same(raw: Raw, key: str, array: Array, of: str) -> None:
    """Keep what all exits must share, labels or groups; refuse the first row that differs."""
    given = raw.arrays.setdefault(key, array)
    first = raw.origin.setdefault((key, "shared"), of)
    if given.shape != array.shape:
        got = f"shape {given.shape} in {first} and {array.shape} in {of}"
        step = "Leave out what not all exits have; of splits: --exits val=A val=B test=C test=D."
        raise input_error(key, "of the same rows for every exit", got, step)
    off = np.flatnonzero((given != array).reshape(len(given), -1).any(axis=1))
    if len(off):
        row, told = int(off[0]), raw.texts.get(key, {})
        one, other = (told.get(int(a[row]), a[row]) if told else a[row] for a in (given, array))
        got = f"{one} in {first} and {other} in {of} at row {row} ({len(off)} of {len(given)} rows differ)"
        step = "Bring the rows of all to one order; of splits: --exits val=A val=B test=C test=D."
        raise input_error(key, "the same for every exit, row by row", got, step)


def _of_classes(raw: Raw, of: str, columns: Mapping[int, Array]) -> Array:
    """Return the columns of an exit's classes, or of a query, numbered from 0 or 1, as (N, C)."""
    numbers = sorted(columns)
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        allowed, got = "a column for each class or number, from 0 on", f"{numbers[:12]} of {of}"
        raise input_error(f"{raw.name}: columns", allowed, got, "Add the columns that lack.")
    return np.stack([columns[c] for c in numbers], axis=1)


def _exits(raw: Raw) -> list[Any]:
    """Return the exits of a file in order, what calls them by numbers or names; names are kept."""
    given = list(dict.fromkeys(e for at in raw.pieces.values() for e in at))
    numbers = sorted(e for e in given if isinstance(e, int))
    named = [e for e in given if not isinstance(e, int)]
    if named and numbers:
        got = f"{', '.join(map(str, [*numbers, *named][:12]))}"
        step = "Say the keys in order, e.g. --key outputs=A,B,C."
        raise input_error(f"{raw.name}: exits", "numbered, or named", got, step)
    if named:
        if not raw.ordered:
            key, at = next(iter(raw.pieces.items()))
            keys = ", ".join(raw.origin.get((key, e), str(e)) for e in at)
            step = f"This kind of file does not keep their order: --key {key}=A,B,... with {keys}, cheapest first."
            raise input_error(f"{raw.name}: exits", "in a known order", ", ".join(named), step)
        if "names" not in raw.metadata:
            raw.metadata["names"] = named
            raw.note(f"exits in the order of the file: {', '.join(named)}")
        return named
    if raw.listed:
        raw.metadata["names"] = without_split(raw.listed)
        return list(range(len(raw.listed)))
    depth = next((word for word in DEPTHS if word in raw.words), None)
    if numbers[-1] >= MAX_EXITS and depth is None:
        allowed = f"fewer than {MAX_EXITS}"
        raise input_error(f"{raw.name}: exits", allowed, f"{numbers[-1]}", "Renumber.")
    if depth is not None and numbers != list(range(len(numbers))):
        raw.metadata.setdefault("names", [f"{depth} {e}" for e in numbers])
        raw.note(f"exits are the {depth}s {', '.join(map(str, numbers))}")
        return numbers
    if numbers[0] == 1:
        raw.note(f"exits numbered from 1 to {numbers[-1]}: called 0 to {numbers[-1] - 1}")
    return list(range(int(numbers[0] == 1), numbers[-1] + 1))


def _stacked(raw: Raw, key: str, at: dict[Any, Array], exits: Sequence[Any]) -> Array:
    """Return an array (N, K, ...) of each exit's; the last may lack a confidence."""
    role, least = _parsed(key)[1], list(exits)
    roles = {_parsed(k)[1] for k in (*raw.pieces, *raw.arrays)}
    if role in CONFIDENCES and roles & {*ANSWERS}:
        least = least[:-1]
        if exits[-1] in at and at[exits[-1]].dtype.kind == "f" and np.isnan(at[exits[-1]]).all():
            del at[exits[-1]]
    lacking = [e for e in least if e not in at]
    if lacking:

        def called(e: Any) -> str:
            known = next(iter(at))
            own = raw.origin.get((key, known), f"{key}_{known}")
            return re.sub(rf"{known}(?!.*{known})", str(e), own)

        last = " (the last exit needs none)" if len(least) < len(exits) else ""
        shown = f"the exits {exits[0]} to {exits[-1]}"
        shown = shown if isinstance(exits[0], int) else ", ".join(exits)
        got = ", ".join(raw.origin.get((key, e), str(e)) for e in list(at)[:12]) or "none of them"
        more = f" and {len(lacking) - 3} more" if lacking[3:] else ""
        these = ",".join(raw.origin.get((key, e), str(e)) for e in exits if e in at)
        step = f"Add {', '.join(map(called, lacking[:3]))}{more}; exits are numbered from 0."
        if raw.listed:
            step = f"List a key for each of {', '.join(raw.listed)}."
        elif len(at) > 1 and len(least) == len(exits):
            step += f" If these are all exits: --key {key}={these}."
        raise input_error(f"{raw.name}: columns", f"{key} of {shown}{last}", got, step)
    told = raw.texts.get(key)
    if told is not None:  # texts at some exits: what look like numbers at others are such, too
        at |= {e: recoded(a, told) for e, a in at.items() if (key, e) not in raw.as_text}
    arrays = [at[e] for e in exits if e in at]
    if not arrays:
        return np.full((next(len(a) for b in raw.pieces.values() for a in b.values()), 0), np.nan)
    shapes = {a.shape for a in arrays}
    if len(shapes) > 1:
        got = ", ".join(f"{raw.origin.get((key, e), e)} {a.shape}" for e, a in list(at.items())[:4])
        step = "Give every exit the same rows and classes; keep summaries (conf, pred) where classes differ."
        raise input_error(f"{raw.name}: {key}", "arrays of one shape, one per exit", got, step)
    return np.stack(arrays, axis=min(1, arrays[0].ndim))


def joined(raws: Sequence[Raw], wanted: Sequence[str] = ()) -> Raw:
    """Return files of one exit or model each, and perhaps one of labels, as one of all, as given, or as `wanted`."""
    told = [r for r in raws if [*r.arrays] == ["outputs"] and whole_numbers(r.arrays["outputs"])]
    for raw in told if len(told) < len(raws) else []:
        raw.arrays = {"labels": raw.arrays["outputs"]}
        raw.note("read as labels, of whole numbers")
    told = [raw for raw in raws if [*map(_ours, raw.arrays)] == ["labels"]]
    raws = [raw for raw in raws if [*map(_ours, raw.arrays)] != ["labels"]]
    endings = r"(\.(npz|npy|safetensors|pth?|csv|tsv|jsonl?|parquet|gz))+$"
    names = [re.sub(endings, "", raw.name) for raw in raws]
    folders = [raw.folder for raw in raws]
    if len(set(names)) < len(names) and len(set(folders)) == len(names):
        names = folders
    if len(set(names)) < len(names):
        names = [f"{name} {k}" for k, name in enumerate(names)]
    names = without_split(names)
    order = counted(names)
    if {*wanted} == {*names}:
        raws, names = [raws[names.index(name)] for name in wanted], [*wanted]
    elif order != sorted(order) and names == sorted(names):  # as a shell lists them
        step = f"Say --exits {' '.join(raws[k].name for k in order)}."
        raise input_error("exits", "in the order of their numbers", ", ".join(names), step)
    whole = Raw(", ".join(names[:3]) + (", ..." if names[3:] else ""))
    for k, (name, raw) in enumerate(zip([*names, *names], [*raws, *told], strict=False)):
        for key, texts in raw.texts.items():
            whole.texts.setdefault(_ours(key), {}).update(texts)
        for own, array in raw.arrays.items():
            key, role = _ours(own), _parsed(own)[1]
            if role in PER_SAMPLE:
                _same(whole, key, array, raw.name)
            elif role.startswith("features"):
                whole.arrays[f"features_{k}"] = array
            else:
                wide = array.ndim > 1 and 1 not in array.shape[1:]
                if role == "prediction" and array.dtype.kind == "f" and wide:
                    key = _spelled(key, "outputs")  # (N, C), as Hugging Face calls them
                if role == "logit" and array.ndim == 2 and wide:
                    key = _spelled(key, "logits")  # a column per class
                if own in raw.texts:
                    whole.as_text.add((key, name))
                whole.pieces.setdefault(key, {})[name] = _of_one(raw, key, array)
                whole.origin[key, name] = f"{own} of {raw.name}"
        for what in ("ids", "split"):
            if getattr(raw, what) is not None:
                _same(whole, what, getattr(raw, what), raw.name)
        whole.notes += raw.notes
        whole.keys += raw.keys
        whole.unread |= raw.unread
        whole.options |= raw.options
        for what, value in raw.metadata.items():
            other = whole.metadata.setdefault(what, value) != value
            whole.metadata |= {f"{what} of {raw.name}": value} if other else {}
    whole.ids, whole.split = (whole.arrays.pop(what, None) for what in ("ids", "split"))
    optional = ("cost", "costs", "entropy", "top_prob")
    for key, at in list(whole.pieces.items()):
        if len(at) < len(raws) and _parsed(key)[1] in optional:
            whole.note(f"{key} left out: {next(n for n in names if n not in at)} has none")
            del whole.pieces[key]
    whole.metadata["names"] = names
    whole.note(f"one exit per file, in this order: {', '.join(names)}")
    return by_exit(whole)


def _ours(key: str) -> str:
    """Return a key as this package spells it first: files may spell one thing in several ways."""
    main = next((k for k, role in SYNONYMS.items() if role == _parsed(key)[1]), key)
    return key if main in (key, "cost", "sample") else _spelled(key, main)


def _spelled(key: str, base: str) -> str:
    return key.removesuffix(_parsed(key)[2]) + base


def whole_numbers(array: Array) -> bool:
    """Whether an array has one whole number per row, as labels have."""
    return array.ndim == 1 and array.dtype.kind in "iu"


def _of_one(raw: Raw, key: str, array: Array) -> Array:
    """Return what a file of one exit holds without the axis of exits."""
    role = _parsed(key)[1]
    if role in ("cost", "costs"):
        array = array.reshape(-1) if 1 in array.shape else array
        return array.reshape(()) if array.size == 1 else array
    deep = role in (*_DEEP, "logit", "variances", "top_prob", "top_logits", "top_classes")
    if array.ndim != (3 if deep else 2):
        return array
    place = 0 if raw.axes != "NKC" and array.shape[0] == 1 else 1
    if array.shape[place] != 1:
        got = f"{key} of shape {array.shape} in {raw.name}"
        step = "Without --exits each file is a split: fit=A test=B."
        raise input_error("exits", "files of one exit each, (N, C)", got, step)
    return array[:, 0] if place else array[0]


# --- texts ---------------------------------------------------------------------------------------


def numbered(raws: Sequence[Raw], notes: list[str]) -> list[str]:
    """Turn names of classes, letters and answers as text, kept as codes, into numbers; return the names."""
    number_contexts(raws)
    wide = 0
    for raw in raws:
        deep = [key for key in raw.arrays if _parsed(key)[1] in _DEEP]
        wide = max([wide, *(raw.arrays[key].shape[-1] for key in deep if raw.arrays[key].ndim)])
        said = [k for k in raw.texts if k in raw.arrays and _parsed(k)[1] == "prediction"]
        for key in said if deep else []:
            own = raw.origin.get((key, None), key)
            raw.note(f"{own} not used beside {deep[0]}")
            raw.unread[own] = raw.arrays.pop(key).shape
            del raw.texts[key]
    mine = [(raw, key) for raw in raws for key in raw.texts if key in raw.arrays]
    if not mine:
        return []
    texts = {code: text for raw, key in mine for code, text in raw.texts[key].items()}
    named = ("labels", "prediction")
    for raw, key in [(r, k) for r in raws for k in r.arrays if _parsed(k)[1] in named]:
        if key not in raw.texts:
            _meet(raw, key, texts)
            mine.append((raw, key))
    labels = [raw.arrays[key] for raw, key in mine if _parsed(key)[1] == "labels"]
    every = np.concatenate([a.ravel() for a in labels or [raw.arrays[key] for raw, key in mine]])
    every = every[every >= 0]
    own = len(np.unique(every)) > max(len(every) / 2, 1) or len(texts) > _MOST_NAMES
    if labels:  # what means the same as a label is spelled like it
        known = set(every.tolist())
        alike = {code >> SPELLING: code for code in sorted(known)}
        spelled = {c: c if c in known else alike.get(c >> SPELLING, c) for c in (*texts, -1)}
        _renumber(mine, spelled)
        texts = {c: texts[c] for c in spelled.values() if c != -1}
    _refuse_unlike(mine)
    _least_sure(mine)
    if own and not wide:  # an answer of its own for each row
        for raw in raws:
            _as_answers(raw, notes)
        return []
    names, place = sorted(set(texts.values())), dict[str, int]()
    lists = [raw.metadata.get(k) for raw in raws for k in ("class_names", "classes", "label_names")]
    stated = next((given for given in lists if isinstance(given, list)), None)
    how = "in the order of the alphabet"
    if stated and set(names) <= {str(name) for name in stated}:
        names, how = [str(name) for name in stated], "as the file names them"
    elif all(re.fullmatch(r"\d{1,9}", name) for name in names):
        place = {name: int(name) for name in names}
        names, how = [], "as their texts say"
    elif set(names) <= set(_LETTERS):
        names = list(_LETTERS[: 1 + max(map(_LETTERS.index, names))])
    if names and wide and len(names) != wide and not (stated or set(names) <= set(_LETTERS)):
        got = f"{len(names)} names ({', '.join(names[:4])}, ...) for {wide} columns of outputs"
        step = "Add class_names, the names in the order of the columns, or give labels as numbers from 0."
        raise input_error("labels", "names whose columns are known", got, step)
    place = {name: number for number, name in enumerate(names)} or place
    numbers = {code: place[text] for code, text in texts.items()} | {-1: -1}
    _renumber(mine, numbers)
    shown = ", ".join(f"{name} = {number}" for name, number in list(place.items())[:6])
    kept = " (kept as class_names)" if names else ""
    notes.append(
        f"names of classes numbered {how}: {shown}{', ...' if len(place) > 6 else ''}{kept}"
    )
    if len({name.casefold() for name in names}) < len(names):
        notes.append("NAMES THAT DIFFER IN CASE ONLY count as different classes")
    return names


def number_answers(raw: Raw) -> list[str]:
    """Turn answers as text into numbers, the same for what means the same; return a text for each number."""
    mine = [(raw, k) for k in raw.texts if k in raw.arrays and _parsed(k)[1] == "prediction"]
    _least_sure(mine)
    texts = {code: text for _, key in mine for code, text in raw.texts[key].items()}
    said = {code >> SPELLING: text for code, text in texts.items()}
    place = {meant: number for number, meant in enumerate(said)}
    _renumber(mine, {code: place[code >> SPELLING] for code in texts} | {-1: -1})
    return [*said.values()]


def _least_sure(mine: Sequence[tuple[Raw, str]]) -> None:
    """Take who gave no answer, of those as text, for the least sure."""
    for raw, key in mine:
        of, role, _ = _parsed(key)
        for k in [k for k in raw.arrays if role == "prediction" and _parsed(k)[0] == of]:
            if _parsed(k)[1] in CONFIDENCES:  # which the last exit may lack
                gone = raw.arrays[key][tuple(map(slice, raw.arrays[k].shape))] < 0
                least = -np.inf if _parsed(k)[1] == "conf_logprob" else 0.0
                raw.arrays[k] = np.where(gone, least, raw.arrays[k])


def number_contexts(raws: Sequence[Raw]) -> None:
    """Turn contexts that are texts, kept as codes, into numbers, in the order of the key contexts, or the alphabet."""
    mine = [(raw, key) for raw in raws for key in raw.texts if _parsed(key)[1] == "context"]
    texts = {code: text for raw, key in mine for code, text in raw.texts.pop(key).items()}
    stated = [raw.metadata["contexts"] for raw in raws if "contexts" in raw.metadata]
    known = bool(stated) and isinstance(stated[0], list)
    names = stated[0] if known else sorted(set(texts.values()))
    if unknown := set(texts.values()) - set(names):
        allowed, step = f"one of {', '.join(map(str, names))}", "Add it to the key contexts."
        raise input_error(f"{mine[0][0].name}: context", allowed, min(unknown), step)
    _renumber(mine, {code: names.index(text) for code, text in texts.items()} | {-1: -1})
    for raw, _ in mine:
        raw.metadata.setdefault("contexts", names)


def _renumber(mine: Sequence[tuple[Raw, str]], numbers: dict[int, int]) -> None:
    """Put numbers in the place of codes."""
    for raw, key in mine:
        codes, at = np.unique(raw.arrays[key], return_inverse=True)
        found = np.array([numbers[code] for code in codes.tolist()], dtype=np.int64)
        raw.arrays[key] = found[at].reshape(raw.arrays[key].shape)


def _refuse_unlike(mine: Sequence[tuple[Raw, str]]) -> None:
    """Refuse predictions none of which is any label, as where ``(a)`` stands for ``A``."""
    told = {code: text for raw, key in mine for code, text in raw.texts[key].items()}
    found = dict[str, set[int]]()
    for raw, key in mine:
        found.setdefault(_parsed(key)[1], set()).update(np.unique(raw.arrays[key]).tolist())
    said, true = (found.get(role, set()) - {-1} for role in ("prediction", "labels"))
    given = {_parsed(key)[1] for raw, _ in mine for key in raw.arrays}
    if said and true and not said & true and not given & {*WORTH}:
        texts = (", ".join(sorted(told[c] for c in codes)[:3]) for codes in (said, true))
        got = "predictions such as {} and labels such as {}: none is equal to any".format(*texts)
        step = "Write both alike (case, brackets, units), or give correct or quality in the place of labels."
        raise input_error("labels", "in the words of the predictions", got, step)


def _meet(raw: Raw, key: str, texts: dict[int, str]) -> None:
    """Take numbers for texts where the others are texts of numbers (answers such as 42), else refuse the mixture."""
    told = dict[int, str]()
    codes = recoded(raw.arrays[key], told)
    if not set(told.values()) & set(texts.values()):
        shown = ", ".join(sorted(texts.values())[:3])
        got = f"numbers under {raw.origin.get((key, None), key)}, names such as {shown} beside"
        step = "Give labels and predictions both as names, or both as numbers; --key labels=KEY takes another key."
        raise input_error(
            f"{raw.name}: {_parsed(key)[1]}", "as the predictions or labels beside it", got, step
        )
    texts |= told
    raw.arrays[key], raw.texts[key] = codes, told


def _as_answers(raw: Raw, notes: list[str]) -> None:
    """Hold answers as text against the label's, equal or not; answers are numbered per question."""
    for key in [k for k in raw.texts if k in raw.arrays and _parsed(k)[1] == "prediction"]:
        prefix, _, base = _parsed(key)
        head, answers = key.removesuffix(base), raw.arrays[key]
        label = next((k for k in raw.arrays if _parsed(k)[:2] == (prefix, "labels")), None)
        rows_first = raw.axes == "NKC" or label is None or len(answers) == len(raw.arrays[label])
        turned = (answers if rows_first else answers.T) >> SPELLING  # -1 stays
        if label is not None and f"{head}correct" not in raw.arrays and turned.ndim == 2:
            truth = raw.arrays[label]
            right = (turned == truth[:, None] >> SPELLING) & (turned >= 0)
            raw.arrays[f"{head}correct"] = right if rows_first else right.T
            notes.append(f"{raw.name}: answers as text: right where equal to the label's text")
        if turned.ndim == 2:
            # 0, 1, 2 by their first exit: only whether two exits agree has a meaning.
            first = (turned[:, :, None] == turned[:, None, :]).argmax(axis=2)
            kept = np.where(turned < 0, -1, first)
            raw.arrays[key] = kept if rows_first else kept.T
    for key in [k for k in raw.texts if k in raw.arrays and _parsed(k)[1] == "labels"]:
        del raw.arrays[key]
