"""The manifest of a cache: one strict JSON file that names every shard and its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from policyopt.cache.layout import Layout
from policyopt.costs import Cost
from policyopt.runtime.errors import input_error
from policyopt.runtime.strict_json import digest_of, parse

#: Version 1 is read too: it has no checksum of its own, so of what stands in it (costs, metadata)
#: a change may go unseen. Arrays have theirs in both.
FORMAT, VERSION = "policyopt-cache", 2
MANIFEST = "manifest.json"
#: The same of a cache that is being written: lists the shards that are finished.
UNFINISHED = "manifest.unfinished.json"
#: The manifest of a cache that was overwritten, until its shards are gone.
REPLACED = "manifest.replaced.json"
#: Larger manifests are refused before they are parsed (a shard takes about 200 bytes).
MAX_BYTES = 32 << 20
MAX_METADATA = 1 << 20


@dataclass(frozen=True)
class Shard:
    """One file of rows of one split; its size in bytes and SHA-256."""

    file: str
    split: str
    rows: int
    bytes: int
    sha256: str


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
    """Return the SHA-256 that names a cache.

    Parameters
    ----------
    parts : iterable of (str, str)
        Split and checksum of each shard, in any order.
    layout : Layout
        Kind, costs and names of contexts count too: other costs make other policies.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> from policyopt.costs import Cost
    >>> at = Layout("logits", 2, 3, "float32", (Cost("c", "ms", (1, 2)),))
    >>> len(fingerprint([("fit", "00")], at))
    64
    """
    costs = [[c.name, c.unit, c.values, *(["cascade"] * c.cascade)] for c in layout.costs]
    named = [list(layout.contexts)] if layout.contexts else []
    text = json.dumps([sorted(parts), costs, layout.kind, *named])
    return hashlib.sha256(text.encode()).hexdigest()


def dump(manifest: Manifest) -> bytes:
    """Return the manifest as JSON, keys in a fixed order.

    Examples
    --------
    >>> from policyopt.costs import Cost
    >>> at = Layout("logits", 2, 3, "float32", (Cost("c", "ms", (1, 2)),))
    >>> from policyopt.cache.parsing import parse
    >>> parse(dump(Manifest(at))).layout == at
    True
    """
    at = manifest.layout
    content = {
        "format": FORMAT,
        "version": VERSION,
        "complete": manifest.complete,
        "kind": at.kind,
        "exits": at.exits,
        "classes": at.classes,
        "dtype": at.dtype,
        # Only where there are any: a cache without features reads as it always did.
        **({"features": list(at.features)} if at.features else {}),
        **({"contexts": list(at.contexts)} if at.contexts else {}),
        "costs": [_cost(cost) for cost in at.costs],
        "shares": dict(manifest.shares),
        "split_seed": manifest.split_seed,
        "metadata": dict(manifest.metadata),
        "shards": [asdict(s) for s in manifest.shards],
    }
    return (json.dumps(signed(content), indent=1, allow_nan=False) + "\n").encode()


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a manifest's content with its checksum, which replaces an older one.

    Examples
    --------
    >>> list(signed({"format": "policyopt-cache"}))
    ['format', 'sha256']
    """
    body = {name: value for name, value in content.items() if name != "sha256"}
    return {**body, "sha256": digest_of(body)}


def _cost(cost: Cost) -> dict[str, Any]:
    """Return what is said of a cost; of a cascade only where it is one, as `fingerprint` does."""
    more = {"cascade": True} if cost.cascade else {}
    return {"name": cost.name, "unit": cost.unit, "values": cost.values, **more}


def check_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return metadata as plain JSON values; refuse what JSON cannot hold.

    Examples
    --------
    >>> check_metadata({"model": "MSDNet", "depths": (1, 2)})
    {'model': 'MSDNet', 'depths': [1, 2]}
    """
    try:
        text = json.dumps({} if metadata is None else dict(metadata), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise input_error("metadata", "a mapping that JSON can hold", f"{error}") from error
    if len(text) > MAX_METADATA:
        raise input_error("metadata", f"at most {MAX_METADATA} bytes as JSON", f"{len(text)} bytes")
    # As it will be read, one level down: what reads no more must not be written.
    return parse(f"[{text}]".encode(), "metadata", MAX_BYTES, "", MAX_METADATA)[0]
