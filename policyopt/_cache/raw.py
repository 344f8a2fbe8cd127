"""`Raw`: one file, read but not yet understood; keys with values to it, texts as codes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast
from zlib import crc32

import numpy as np

from policyopt._cache.data import GROUP, QUERY, group_codes
from policyopt._cache.keys import OPTIONS, Place, parse_key, place_of, places, suffixed
from policyopt.runtime._errors import input_error
from policyopt.runtime._reading import MISSING
from policyopt.runtime._text import same_answer
from policyopt.runtime._typing import Array

#: The keys that a user gives a role: ``{"labels": ("gt",)}``, or several, one per exit.
Said = Mapping[str, Sequence[str]]
#: Roles whose values may be texts: names of classes, letters, answers.
TEXTUAL = ("labels", "prediction", "context")
#: Bits of a text's code that tell spellings of one answer apart; those above are the same of all of them.
SPELLING = 21
#: Characters of a text that are kept to be shown.
_KEPT = 60


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
    keys: list[str] = field(default_factory=list)  # all that the file has
    #: Keys without a place, and shapes.
    unread: dict[str, tuple[int, ...]] = field(default_factory=dict)
    pieces: dict[str, dict[int | str, Any]] = field(default_factory=dict)  # of each exit by itself
    origin: dict[tuple[str, Any], str] = field(default_factory=dict)  # its keys in the file
    words: set[str] = field(default_factory=set)  # how exits are called there
    listed: list[str] = field(default_factory=list)  # names of exits that the user listed in order
    apart: bool = False  # whether each exit stood by itself: then no other order of axes may be
    table: bool = False  # whether numbers in keys may be of classes as well
    ordered: bool = True  # whether the file keeps the order of its keys
    texts: dict[str, dict[int, str]] = field(default_factory=dict)  # what a key's codes say
    as_text: set[tuple[str, Any]] = field(default_factory=set)  # keys, and exits, that are codes
    ids: Array | None = None  # what each row is called
    folder: str = ""  # the name of the one that it lies in

    def note(self, text: str) -> None:
        """Note what was decided rather than declared."""
        self.notes.append(f"{self.name}: {text}")

    def ignore(self, what: str, key: str) -> None:
        """Note that a key, a column or a field is not used, unless another note says why."""
        if not any(f"key {key!r} not used" in note for note in self.notes):
            self.note(f"{what} {key!r} is not known: not used")

    def plan(self, keys: Iterable[str], said: Said) -> dict[str, Place]:
        """Return where the values of the file's keys belong; the others are told."""
        self.keys = list(keys)
        if twice := [key for key, count in Counter(self.keys).items() if count > 1]:
            got = f"{', '.join(map(repr, twice[:3]))} twice"
            raise input_error(f"{self.name}: columns", "each of another name", got, "Rename one.")
        found, others = places(self.keys, said, self.note)
        self.unread = dict.fromkeys(others, ())
        for role, named in said.items():
            if (
                QUERY not in role
                and len(named) > 1
                and set(named) <= set(self.keys)
                and not self.listed
            ):
                self.listed = [(parse_key(key) or (None,))[0] or key for key in named]
                self.note(f"exits in the order that is said: {', '.join(self.listed)}")
        return found

    def put(self, key: str, place: Place, array: Array) -> None:
        """Take the values of a key."""
        if place.exit is None:
            room, at = cast("dict[Any, Any]", self.arrays), cast("Any", place.key)
        else:
            room, at = self.pieces.setdefault(place.key, {}), place.exit
            self.words.add(place.word)
            if place.column is not None:
                room, at = room.setdefault(at, {}), place.column
        mine = (place.key, place.exit if place.column is None else (place.exit, place.column))
        if at in room:
            got = f"{self.origin.get(mine, place.key)} and {key}"
            step = f"Remove one, or say which: --key {place.key}={key}."
            raise input_error(f"{self.name}: keys", f"with one key for {place.key}", got, step)
        room[at] = array
        self.origin[mine] = key


def coded(values: Iterable[Any], texts: dict[int, str]) -> Array:
    """Return texts as codes, (n,) int64, what they say put into `texts`: the same text is the same code; -1: none."""
    codes = []
    for value in values:
        text = "" if value is None or value != value else str(value).strip()
        code = -1
        if text.lower() not in MISSING:
            digest = blake2b(same_answer(text).encode(), digest_size=8).digest()
            code = int.from_bytes(digest, "little") >> (1 + SPELLING) << SPELLING
            code |= crc32(text.encode()) >> (32 - SPELLING)
            texts.setdefault(code, text[:_KEPT])
        codes.append(code)
    return np.array(codes, dtype=np.int64)


def recoded(numbers: Array, texts: dict[int, str]) -> Array:
    """Return numbers as codes of their texts, -1 where missing."""
    known = (numbers == numbers) & (numbers != -1)
    codes = np.full(numbers.shape, -1, dtype=np.int64)
    words = [str(int(v)) if v == int(v) else str(v) for v in numbers[known].ravel().tolist()]
    codes[known] = coded(words, texts)
    return codes


def flat(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return values by key, those of an object within (splits, exits by name) under both keys."""
    whole: dict[str, Any] = {}
    for key, value in found.items():
        inner = {f"{key}_{k}": v for k, v in value.items()} if isinstance(value, dict) else {}
        held = [k for k, v in inner.items() if _shape(v) or isinstance(v, (list, dict))]
        useful = any(place_of(k) or suffixed(k) for k in held)
        whole |= inner if useful else {key: value}
    return whole


def declared(name: str, found: Mapping[str, Any], said: Said) -> Raw:
    """Divide named values (arrays, lists, texts, numbers) into arrays, options and metadata."""
    raw, found = Raw(name), flat(found)
    own = [key for key in found if key in OPTIONS or key == "cost_unit"]
    at = without_texts(raw, raw.plan([key for key in found if key not in own], said), found)
    for key, value in found.items():
        place, argument = at.get(key), f"{name}: {key}"
        role = place.role if place else None
        if role not in (None, "metadata", "exit", "sample") and isinstance(value, dict):
            value = [*value.values()]  # as pandas writes columns: row to cell
        # A lone number or text under a key that holds rows is none of these.
        shape, least = _shape(value), 2 if key == "exits" else int(role in ("sample", "split"))
        if key in own:
            text = value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value
            if key == "error_scale" and isinstance(text, (int, float)):
                text = str(text)
            if not isinstance(text, str):
                raise input_error(argument, "a text", repr(value), "Mend the file.")
            raw.options["unit" if key == "cost_unit" else key] = text
        elif place is None or role in ("metadata", "exit") or len(shape) < least:
            raw.metadata[key] = _plain(value)
            if role == "sample" or (place is None and (shape or key != "classes")):
                raw.unread[key] = shape
                if shape:
                    raw.ignore("key", key)
        elif role == GROUP:
            raw.put(key, place, group_codes(np.asarray(value)))
        elif role in ("sample", "split"):
            words = value.ravel().tolist() if isinstance(value, np.ndarray) else list(value)
            if role == "sample":
                raw.ids = coded(words, raw.texts.setdefault("ids", {}))
            elif max(len(str(word)) for word in words) > _KEPT:  # of which each takes the room
                allowed = f"names of at most {_KEPT} characters"
                raise input_error(argument, allowed, "longer ones", "Shorten them.")
            else:
                raw.split = np.array(words, dtype=np.str_)
        else:
            if role in TEXTUAL and is_text(value):
                value = _text_array(argument, value, raw.texts.setdefault(place.key, {}))
                raw.as_text.add((place.key, place.exit))
            _refuse_text(argument, value)
            try:
                array = np.asarray(value)
                if array.dtype.kind == "O":  # null where a number is missing
                    array = np.asarray(value, dtype=np.float64)
                raw.put(key, place, array)
            except (TypeError, ValueError) as error:
                raise input_error(argument, "an array", f"{error}", "Mend the file.") from error
    return raw


def without_texts(raw: Raw, at: Mapping[str, Place], first: Mapping[str, Any]) -> dict[str, Place]:
    """Return the places of keys, but of a query whose first value is a text, which tells nothing as it is."""
    words = {k: first[k] for k, place in at.items() if QUERY in place.key}
    for key, value in words.items():
        text = (
            value.strip()[:1] not in "+-.0123456789" if isinstance(value, str) else is_text(value)
        )
        if text:
            raw.unread[key] = ()
            raw.note(
                f"key {key!r} not used, for it holds texts: give numbers (a length, an embedding)"
            )
    return {key: place for key, place in at.items() if key not in words or key not in raw.unread}


def _shape(value: Any) -> tuple[int, ...]:
    """Return the shape of an array, or of lists by their first ones."""
    found = list[int]()
    while not hasattr(value, "shape") and isinstance(value, (list, tuple)) and len(found) < 4:
        found.append(len(value))
        value = value[0] if value else None
    return (*found, *getattr(value, "shape", ()))


def is_text(value: Any) -> bool:
    """Whether a value is an array of texts, or a list with a text, or of such lists."""
    if isinstance(value, np.ndarray):
        return value.dtype.kind == "U"
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return any(isinstance(item, str) for item in value) or is_text(value[0])


def _text_array(argument: str, value: Any, texts: dict[int, str]) -> Array:
    """Return texts in lists of one length, or in an array, as codes of the same shape."""
    cells = np.array(value, dtype=object)  # in which lists of other lengths stay lists
    words = cells.ravel().tolist()
    if any(isinstance(word, (list, tuple)) for word in words):
        raise input_error(argument, "texts in lists of one length", "others", "Mend the file.")
    return coded(words, texts).reshape(cells.shape)


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
