"""Serving while adapting: a ladder of thresholds, who moves along it, and the object that serves."""

from __future__ import annotations

from .controller import Controller
from .ladder import Ladder
from .serving import Online, Request

__all__ = ["Controller", "Ladder", "Online", "Request"]
