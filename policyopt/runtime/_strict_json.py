"""JSON from anyone: size, depth and number of values are looked at before it is parsed, then all else.

Python's parser takes NaN, a key twice (the last one wins), numbers that no float holds, and nesting up to
the recursion limit; and 3 bytes of text (``[],``) become 64 bytes of memory.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ._checks import check_type
from ._errors import InputError, input_error

#: Deeper than any file of ours (weights of layers, in a policy, in a file of experts: 8).
MAX_DEPTH = 32
#: Bytes of one string: names, settings and notes are shorter.
MAX_STRING = 1 << 16
#: Digits of one whole number: random generators hold 128 bits, which are 39.
MAX_DIGITS = 40
#: A file may hold one value per so many bytes of its size limit; most numbers take more as text.
BYTES_PER_VALUE = 8
AGAIN = "Fit and save it again."
#: What files are, and what reads them, by their format.
_KNOWN = {f"policyopt-{name}": text for name, text in {
    "policy": "one policy: load_policy reads it", "experts": "expert policies: load_experts reads them",
    "family": "a policy family: load_family reads it",
    "online": "an online policy: runtime.Online.load reads it", "tier-policy": "a tier's policy: load_tier reads it",
    "plan": "a plan's report, whose policy is policy.json", "export": "an export: `policyopt verify` reads its folder",
    "routing": "a routing policy: load_policy reads it",
}.items()}  # fmt: skip
_SHOWN = 20  # unknown fields that are named, and letters of each
# A string, closed or cut off. Possessive, so that it is read once whatever stands in it.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_PIECE = 1 << 20


def open_plain(
    path: str | os.PathLike[str], argument: str, step: str = "", links: bool = True
) -> int:
    """Return a descriptor of a plain file to be read; directories, pipes, devices are refused, and links where said."""
    # O_NONBLOCK: opening a named pipe must not wait for a writer that never comes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    flags |= 0 if links else getattr(os, "O_NOFOLLOW", 0)
    if not links and Path(path).is_symlink():  # also where O_NOFOLLOW does not exist
        step = "Put the file itself there."
        raise input_error(argument, "a plain file", f"{path} (a link)", step)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise input_error(argument, "a file", f"{path} (missing)", step) from None
    except (OSError, ValueError) as error:  # no permission, links in a circle, NUL in the path
        raise input_error(argument, "a readable file", f"{path!r} ({error})", step) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise input_error(argument, "a file", f"{path} (a directory, pipe or device)", step)
    return descriptor


def read_plain(
    path: str | os.PathLike[str], argument: str, most: int, step: str = "", links: bool = True
) -> bytes:
    """Return a plain file's bytes, see `open_plain`; its size, at most `most`, checked before memory is taken."""
    with os.fdopen(open_plain(path, argument, step, links), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise input_error(argument, f"at most {most} bytes", f"{size}", "Is it the right file?")
        return file.read(size)


def parse(data: bytes, source: str, most: int, step: str, most_string: int = MAX_STRING) -> Any:
    """Read JSON strictly: UTF-8 without a mark, finite numbers, each key once; `most` bytes bound its values."""
    if data.startswith(codecs.BOM_UTF8):
        got = "a byte order mark before it (save it as UTF-8 without one)"
        raise input_error(source, "JSON", got, step)
    _refuse_excess(data, source, most, step, most_string)
    try:
        return json.loads(
            data.decode("utf-8"), object_pairs_hook=_object, parse_float=_float,
            parse_int=_whole, parse_constant=_constant,
        )  # fmt: skip
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise input_error(source, "JSON", str(error), step) from error


@dataclass(frozen=True)
class Form:
    """One kind of file: what it is called, its format, its fields (see `check_fields`), and what writes one."""

    what: str
    format: str
    version: int
    fields: Mapping[str, Any]
    step: str
    again: str = AGAIN  # what to do about a damaged one

    def signed(self, **content: Any) -> dict[str, Any]:
        """Return a file's whole content: format and version before it, its checksum behind."""
        whole = {"format": self.format, "version": self.version, **content}
        whole.pop("sha256", None)  # of content that was signed before
        return {**whole, "sha256": digest_of(whole)}

    def check(self, content: Any, source: str) -> None:
        """Refuse content that is not a whole file of this kind: its fields, their types, its checksum."""
        if not isinstance(content, dict) or content.get("format") != self.format:
            allowed = f"{self.what} (format '{self.format}')"
            came = content.get("format") if isinstance(content, dict) else None
            got = _KNOWN.get(came if isinstance(came, str) else "", "something else")
            raise input_error(source, allowed, got, self.step)
        came = content.get("version")
        if type(came) is not int or came != self.version:
            step = "Use a policyopt that knows it."
            raise input_error(f"version of {source}", f"{self.version}", came, step)
        check_fields(content, self.fields, source, self.again)
        try:
            digest = digest_of({name: content[name] for name in content if name != "sha256"})
        except ValueError as error:  # a number too large for a float reads as infinity
            raise input_error(source, "free of infinite numbers", str(error), self.again) from error
        if digest != content["sha256"]:
            told = "was changed after it was written: its checksum differs"
            raise InputError(f"'{source}' {told}. {self.again}")


def check_fields(content: Any, fields: Mapping[str, Any], source: str, again: str) -> None:
    """Refuse what has not these fields, each of its type or types; those that may be left out end in "?"."""
    check_type(source, content, dict, "a JSON object", again)
    known = {name.rstrip("?"): kinds for name, kinds in fields.items()}
    wanted = {name for name in fields if not name.endswith("?")}
    unknown, missing = content.keys() - known, wanted - content.keys()
    for kind, names in (("unknown", sorted(unknown)), ("missing", sorted(missing))):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            told = ", ".join(name[:_SHOWN] for name in names[:_SHOWN]) + more
            raise InputError(f"'{source}' has {kind} fields: {told}. {again}")
    for name, value in content.items():
        several = known[name] if isinstance(known[name], tuple) else (known[name],)
        if not isinstance(value, several) or (isinstance(value, bool) and bool not in several):
            told = " or ".join(kind.__name__ for kind in several)
            raise input_error(f"{name} in {source}", f"of type {told}", value, again)


def digest_of(content: Any) -> str:
    """Return the SHA-256 of a file's content in canonical form."""
    text = _canonical(content)
    if "\\ud" in text:  # halves of a letter given apart are read back as one, which sorts elsewhere
        text = _canonical(json.loads(text))
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_text(content: Any, argument: str, most: int, indent: int | None = None) -> str:
    r"""Return content as JSON; refused where `parse` would not read it back."""
    text = json.dumps(content, indent=indent, allow_nan=False) + "\n"
    step = "Make it smaller."
    if len(text) > most:
        raise input_error(argument, f"at most {most} bytes as a file", f"{len(text)}", step)
    _refuse_excess(text.encode(), argument, most, step, MAX_STRING)
    return text


def _refuse_excess(data: bytes, source: str, most: int, step: str, most_string: int) -> None:
    """Refuse long strings, many values and deep nesting by the text alone."""
    for string in _STRING.finditer(data):
        if string.end() - string.start() > most_string + 2:
            allowed = f"JSON of strings up to {most_string} bytes"
            raise input_error(source, allowed, "a longer one", step)
    bare = _STRING.sub(b"", data)
    values = bare.count(b",") + bare.count(b"[") + bare.count(b"{") + 1
    if values > most // BYTES_PER_VALUE:
        allowed = f"JSON of at most {most // BYTES_PER_VALUE} values"
        raise input_error(source, allowed, f"{values}", step)
    depth = 0
    for low in range(0, len(bare), _PIECE):
        # Brackets and braces differ in one bit: with it set, all are braces.
        codes = np.frombuffer(bare, np.uint8, min(_PIECE, len(bare) - low), low) | 0x20
        turns = (codes == ord("{")).astype(np.int8) - (codes == ord("}"))
        levels = depth + np.cumsum(turns, dtype=np.int32)
        if levels.max() > MAX_DEPTH:
            raise input_error(source, f"JSON at most {MAX_DEPTH} deep", f"{levels.max()}", step)
        depth = int(levels[-1])


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:60]!r} twice")
        found[key] = value
    return found


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"{text[:40]}, beyond what a float holds")
    return value


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _constant(name: str) -> float:
    raise ValueError(f"{name}, which is no JSON")
