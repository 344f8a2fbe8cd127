"""Reading a manifest: strict, for it may come from anyone."""

from __future__ import annotations

import re
from typing import Any

from policyopt.cache.layout import NAME, Layout
from policyopt.cache.manifest import (
    FORMAT,
    MANIFEST,
    MAX_BYTES,
    MAX_METADATA,
    VERSION,
    Manifest,
    Shard,
    signed,
)
from policyopt.cache.splits import check_shares
from policyopt.costs import Cost
from policyopt.runtime import strict_json
from policyopt.runtime.checks import check_seed
from policyopt.runtime.errors import InputError, input_error

_FILE = re.compile(r"[A-Za-z0-9_.-]{1,120}\.safetensors")
_SHA = re.compile(r"[0-9a-f]{64}")


def parse(text: bytes) -> Manifest:
    """Read a manifest; anything unexpected is refused.

    Parameters
    ----------
    text : bytes
        Content of ``manifest.json``.

    Returns
    -------
    Manifest

    Raises
    ------
    InputError
        Not JSON, another format or version, an unknown or missing field, a wrong type.

    Examples
    --------
    >>> parse(b"{}")
    Traceback (most recent call last):
        ...
    policyopt.runtime.errors.InputError: 'manifest.json: format' must be 'policyopt-cache'...
    """
    step = "Write the cache anew."
    content = strict_json.parse(text, MANIFEST, MAX_BYTES, step, MAX_METADATA)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        got = content.get("format") if isinstance(content, dict) else content
        raise input_error(
            f"{MANIFEST}: format", repr(FORMAT), got, "Give a cache: `policyopt import` makes one."
        )
    version = content.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        allowed = f"from 1 to {VERSION}"
        raise input_error(
            f"{MANIFEST}: version", allowed, version, "Use a policyopt that knows it."
        )
    try:
        return _read(content)
    except InputError as error:
        raise InputError(f"{MANIFEST}: {error}") from error


def _read(content: dict[str, Any]) -> Manifest:
    top = _Fields("manifest", content)
    for name in ("format", "version"):  # checked before
        top.take(name, str, int)
    checksum = top.take("sha256", str) if content["version"] > 1 else None
    complete = top.take("complete", bool)
    costs = []
    for entry in top.take("costs", list):
        cost = _Fields("costs", entry)
        values = cost.take("values", list, type(None))
        if values is not None:
            values = tuple(_number("cost", v) for v in values)
        cascade = "cascade" in cost.left and cost.take("cascade", bool)
        costs.append(Cost(cost.take("name", str), cost.take("unit", str), values, cascade=cascade))
        cost.done()
    layout = Layout(
        top.take("kind", str),
        _count(top, "exits"),
        _count(top, "classes"),
        top.take("dtype", str),
        tuple(costs),
        _features(top) if "features" in top.left else None,
        tuple(top.take("contexts", list)) if "contexts" in top.left else (),
    )
    if layout.features is not None and len(layout.features) != layout.exits:
        got = f"{len(layout.features)} for {layout.exits} exits"
        raise input_error("features", "one width per exit", got, "Write the cache anew.")
    shares = top.take("shares", dict)
    seed, metadata = check_seed(top.take("split_seed", int)), top.take("metadata", dict)
    shards = tuple(_shard(entry) for entry in top.take("shards", list))
    top.done()
    files = [s.file for s in shards]
    if len(set(files)) < len(files):
        raise input_error("shards", "each of another file", "a file twice", "Write the cache anew.")
    if shards and not layout.exits:
        raise input_error("exits", "at least 1", 0, "Write the cache anew.")
    shares = check_shares(shares) if shares else {}
    if checksum is not None and signed(content)["sha256"] != checksum:
        raise InputError("changed after it was written: its checksum differs. Write it anew.")
    return Manifest(layout, shares, seed, metadata, shards, complete)


def _shard(entry: Any) -> Shard:
    item = _Fields("shard", entry)
    shard = Shard(
        item.take("file", str),
        item.take("split", str),
        _count(item, "rows"),
        _count(item, "bytes"),
        item.take("sha256", str),
    )
    item.done()
    # A plain name: no directory part, so no way out of the cache.
    if not _FILE.fullmatch(shard.file):
        step = "Do not trust this cache: write it anew."
        raise input_error("shard file", "a plain name NAME.safetensors", shard.file, step)
    if not NAME.fullmatch(shard.split) or not _SHA.fullmatch(shard.sha256) or shard.rows < 1:
        got = f"{shard.split!r}, {shard.rows} and {shard.sha256[:12]!r}"
        allowed = "of a split name, at least 1 row and a SHA-256"
        raise input_error(f"shard {shard.file}", allowed, got, "Write the cache anew.")
    return shard


class _Fields:
    """A JSON object of which every field is taken once, by type, and none is left."""

    def __init__(self, where: str, content: Any) -> None:
        if not isinstance(content, dict):
            raise input_error(where, "a JSON object", content, "Write the cache anew.")
        self.where, self.left = where, dict(content)

    def take(self, name: str, *types: type) -> Any:
        if name not in self.left:
            raise input_error(f"{self.where}.{name}", "given", "nothing", "Write the cache anew.")
        value = self.left.pop(name)
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            allowed = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise input_error(
                f"{self.where}.{name}", f"of type {allowed}", value, "Write the cache anew."
            )
        return value

    def done(self) -> None:
        if self.left:
            raise input_error(
                self.where,
                "free of unknown fields",
                f"{sorted(self.left)}",
                "A newer policyopt may have written it: update, or remove them.",
            )


def _features(top: _Fields) -> tuple[int, ...]:
    widths = top.take("features", list)
    if not all(type(width) is int and 0 < width < 1 << 31 for width in widths):
        raise input_error(
            "features", "a width of 1 or more per exit", widths, "Write the cache anew."
        )
    return tuple(widths)


def _count(fields: _Fields, name: str) -> int:
    value = fields.take(name, int)
    if not 0 <= value < 1 << 62:
        raise input_error(
            f"{fields.where}.{name}", "a count of 0 or more", value, "Write the cache anew."
        )
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise input_error(name, "a number", value, "Write the cache anew.")
    try:
        return float(value)
    except OverflowError:
        raise input_error(name, "a finite number", "a huge one", "Write the cache anew.") from None
