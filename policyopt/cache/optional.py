"""Packages that are not in the base install, loaded when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from policyopt.runtime.errors import MissingExtraError


def need(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or say which extra of policyopt brings it.

    Parameters
    ----------
    module : str
        Dotted name.
    extra : str
        Extra of policyopt that installs it.
    purpose : str
        What cannot be done without it, e.g. ``"to read .pt files"``.

    Returns
    -------
    module

    Raises
    ------
    MissingExtraError
        It is not installed.

    Examples
    --------
    >>> need("json", "fit", "to read JSON").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"'{module.split('.')[0]}' is needed {purpose} and is not installed. "
            f"Install it with: pip install 'policyopt[{extra}]'."
        ) from error
