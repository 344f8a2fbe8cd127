"""Caches: per-exit outputs, labels, costs and metadata, on disk or in memory."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyopt._cache.arrays import from_arrays
    from policyopt._cache.data import ExitData, Rows
    from policyopt._cache.importers import ImportReport, import_sources
    from policyopt._cache.reader import open_cache
    from policyopt._cache.writer import CacheWriter

__all__ = [
    "CacheWriter", "ExitData", "ImportReport", "Rows", "from_arrays", "import_sources", "open_cache",
]  # fmt: skip
_HOMES = dict(
    zip(
        __all__,
        ["writer", "data", "importers", "data", "arrays", "importers", "reader"],
        strict=True,
    )
)


def __getattr__(name: str) -> Any:
    """Load a public name on first use, so that importing the package stays light."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
