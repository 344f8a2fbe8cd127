"""The manifest of a cache: one strict JSON file that names every shard and its checksum."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from policyopt._cache.data import NAME, Layout, check_shares
from policyopt._costs import Cost
from policyopt._measures import Measure
from policyopt.runtime import _strict_json as strict_json
from policyopt.runtime._checks import check_seed
from policyopt.runtime._errors import InputError, input_error
from policyopt.runtime._kinds import KINDS

MANIFEST = "manifest.json"
#: The same of a cache that is being written: lists the shards that are finished.
UNFINISHED = "manifest.unfinished.json"
#: Larger manifests are refused before they are parsed (a shard takes about 200 bytes).
MAX_BYTES = 32 << 20
MAX_METADATA = 1 << 20
_ANEW = "Write the cache anew."
_FILE = re.compile(r"[A-Za-z0-9_.-]{1,120}\.safetensors")
_SHA = re.compile(r"[0-9a-f]{64}")
CACHE = strict_json.Form(
    "a cache's manifest", "policyopt-cache", 1,
    {
        "format": str, "version": int, "complete": bool, "kind": str, "exits": int, "classes": int,
        "dtype": str, "features?": list, "query?": int, "contexts?": list, "costs": list, "shares": dict,
        "split_seed": int, "metadata": dict, "shards": list, "sha256": str,
        "quality_of?": str, "error_scale?": (int, float),
    },
    "Give a cache: `policyopt import` makes one.", _ANEW,
)  # fmt: skip
_COST = {"name": str, "unit": str, "values": (list, type(None)), "cascade?": bool, "heads?": list}
_SHARD = {"file": str, "split": str, "rows": int, "bytes": int, "sha256": str, "time?": str}
_LAST = re.compile(r"(\d{1,12})([dh]?)")


@dataclass(frozen=True)
class Shard:
    """One file of rows of one split; its size in bytes and SHA-256; when it was appended, if it was."""

    file: str
    split: str
    rows: int
    bytes: int
    sha256: str
    time: str = ""

    def __post_init__(self) -> None:
        # A plain name: no directory part, so no way out of the cache.
        if not _FILE.fullmatch(self.file):
            step = "Do not trust this cache: write it anew."
            raise input_error("shard file", "a plain name NAME.safetensors", self.file, step)
        if not NAME.fullmatch(self.split) or not _SHA.fullmatch(self.sha256) or self.rows < 1:
            got = f"{self.split!r}, {self.rows} and {self.sha256[:12]!r}"
            allowed = "of a split name, at least 1 row and a SHA-256"
            raise input_error(f"shard {self.file}", allowed, got, _ANEW)
        if self.time:
            moment(f"time of shard {self.file}", self.time)


def moment(argument: str, text: object) -> datetime:
    """Return the moment that an ISO 8601 text means; UTC where it does not say."""
    try:
        found = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        step = "E.g. 2026-11-30, or 2026-11-30T06:00."
        raise input_error(argument, "a date, or a date and time", text, step) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def window(
    shards: Sequence[Shard], since: str | None = None, last: str | int | None = None
) -> tuple[Shard, ...]:
    """Return the shards from a moment on, or the last of each split: so many days, hours or (at least) rows.

    Days and hours count back from the newest. Rows that were not appended, and so have no time, always stay.
    """
    if since is not None:
        first = moment("since", since)
        shards = [s for s in shards if not s.time or moment("time", s.time) >= first]
    if last is None:
        return tuple(shards)
    text = _LAST.fullmatch(str(last))
    if text is None or not int(text[1]):
        step = "E.g. 7d, 12h, or 100000."
        raise input_error("last", "a number of days (7d), hours (12h) or rows", last, step)
    if text[2]:
        times = {s.time: moment("time", s.time) for s in shards if s.time}
        back = timedelta(**{{"d": "days", "h": "hours"}[text[2]]: min(int(text[1]), 10**6)})
        newest = max(times.values(), default=datetime.now(UTC))
        old = {time for time, at in times.items() if newest - at >= back}
        return tuple(s for s in shards if s.time not in old)
    kept, rows = list[Shard](), dict[str, int]()
    for shard in reversed(shards):
        if not shard.time or rows.get(shard.split, 0) < int(text[1]):
            kept.append(shard)
            rows[shard.split] = rows.get(shard.split, 0) + shard.rows * bool(shard.time)
    return tuple(reversed(kept))


@dataclass(frozen=True)
class Manifest:
    """All that ``manifest.json`` says; not ``complete``: the list of an unfinished cache."""

    layout: Layout
    shares: Mapping[str, float] = field(default_factory=dict)
    split_seed: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the shards' checksums, the costs and the kind."""
        return fingerprint([(s.split, s.sha256) for s in self.shards], self.layout)


def fingerprint(parts: Iterable[tuple[str, str]], layout: Layout) -> str:
    """Return the SHA-256 that names a cache: of its parts (split, checksum) in any order, and its layout."""
    costs = [
        [c.name, c.unit, c.values, *(["cascade"] * c.cascade), *filter(None, [c.heads])]
        for c in layout.costs
    ]
    named: list[Any] = [list(layout.contexts)] if layout.contexts else []
    named += [list(vars(layout.measure).values())] if layout.measure != Measure() else []
    text = json.dumps([sorted(parts), costs, layout.kind, *named])
    return hashlib.sha256(text.encode()).hexdigest()


def dump(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, keys in a fixed order; `parse` reads it back."""
    at = manifest.layout
    content: dict[str, Any] = {"complete": manifest.complete}
    content |= {"kind": at.kind, "exits": at.exits, "classes": at.classes, "dtype": at.dtype}
    more = {"features": at.features, "query": at.query, "contexts": at.contexts, **vars(at.measure)}
    content |= {name: value for name, value in more.items() if value}  # only where there are any
    content["costs"] = [
        {"name": c.name, "unit": c.unit, "values": c.values}
        | {name: value for name in ("cascade", "heads") if (value := getattr(c, name))}
        for c in at.costs
    ]
    content |= {"shares": dict(manifest.shares), "split_seed": manifest.split_seed}
    content["metadata"] = dict(manifest.metadata)
    shards = map(asdict, manifest.shards)
    content["shards"] = [{n: v for n, v in s.items() if n != "time" or v} for s in shards]
    return (json.dumps(CACHE.signed(**content), indent=1, allow_nan=False) + "\n").encode()


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as plain JSON values, or refuse what JSON cannot hold."""
    try:
        text = json.dumps({} if metadata is None else dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise input_error("metadata", "a mapping that JSON can hold", f"{error}") from error
    if len(text) > MAX_METADATA:
        raise input_error("metadata", f"at most {MAX_METADATA} bytes as JSON", f"{len(text)} bytes")
    # As it will be read, one level down: what reads no more must not be written.
    data = f"[{text}]".encode()
    return strict_json.parse(data, "metadata", MAX_BYTES, "", MAX_METADATA)[0]


def with_told(metadata: Mapping[str, Any], **told: Any) -> dict[str, Any]:
    """Return metadata and what was decided; where that takes a name, what stood there is ``own_<name>``."""
    return {f"own_{key}" if key in told else key: v for key, v in metadata.items()} | told


def parse(text: bytes) -> Manifest:
    """Read a manifest, which may come from anyone; anything unexpected is refused."""
    content = strict_json.parse(text, MANIFEST, MAX_BYTES, _ANEW, MAX_METADATA)
    CACHE.check(content, MANIFEST)
    try:
        return _read(content)
    except InputError as error:
        raise InputError(f"{MANIFEST}: {error}") from error


def _read(content: dict[str, Any]) -> Manifest:
    for entry in content["costs"]:
        strict_json.check_fields(entry, _COST, "costs", _ANEW)
        for value in (*(entry["values"] or ()), *entry.get("heads", ())):
            if type(value) not in (int, float) or abs(value) > 1 << 1023:
                raise input_error("cost", "finite numbers", value, _ANEW)
    for entry in content["shards"]:
        strict_json.check_fields(entry, _SHARD, "shards", _ANEW)
    costs = [Cost(**cost) for cost in content["costs"]]
    shards = tuple(Shard(**entry) for entry in content["shards"])
    kind, exits, classes, dtype = (content[n] for n in ("kind", "exits", "classes", "dtype"))
    widths, contexts = (tuple(content.get(name, ())) for name in ("features", "contexts"))
    measure = Measure(content.get("quality_of", ""), content.get("error_scale", 0.0))
    query = content.get("query", 0)
    layout = Layout(kind, exits, classes, dtype, tuple(costs), widths, contexts, measure, query)
    if not all(type(width) is int and 0 < width < 1 << 31 for width in widths):
        raise input_error("features", "a width of 1 or more per exit", list(widths), _ANEW)
    if widths and len(widths) != layout.exits:
        got = f"{len(widths)} for {layout.exits} exits"
        raise input_error("features", "one width per exit", got, _ANEW)
    if len({shard.file for shard in shards}) < len(shards):
        raise input_error("shards", "each of another file", "a file twice", _ANEW)
    if shards and not layout.exits:
        raise input_error("exits", "at least 1", 0, _ANEW)
    if shards and not layout.classes and KINDS[layout.kind].least:
        raise input_error("classes", f"of the outputs, {KINDS[kind].least} or more", 0, _ANEW)
    shares = check_shares(content["shares"]) if content["shares"] else {}
    seed = check_seed(content["split_seed"])
    return Manifest(layout, shares, seed, content["metadata"], shards, content["complete"])
