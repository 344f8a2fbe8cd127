"""Packages: those that are not in the base install, loaded when they are needed; which version is installed."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

from policyopt.runtime._errors import MissingExtraError


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or say which extra of policyopt brings it, and what cannot be done without."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"'{module.split('.')[0]}' is needed {purpose} and is not installed. "
            f"Install it with: pip install 'policyopt[{extra}]'."
        ) from error


@cache
def release(package: str = "policyopt") -> str:
    """Return the version that is installed."""
    from importlib.metadata import PackageNotFoundError, version  # as long to load as all of this

    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
