"""Importers: one file per format reads, the shared rest understands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from policyopt.cache.importers.run import ImportReport, import_sources

__all__ = ["ImportReport", "import_sources"]


def __getattr__(name: str) -> Any:
    """Load the public names on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from policyopt.cache.importers import run

    return getattr(run, name)
