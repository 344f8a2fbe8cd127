"""Serving while adapting: a ladder of thresholds, who moves along it, and the object that serves."""

from __future__ import annotations

from .controller import Controller
from .ladder import Ladder
from .linucb import LinUCB
from .serving import Online, Request
from .splitee import SplitEE
from .uee_ucb import UEEUCB

__all__ = ["Controller", "Ladder", "LinUCB", "Online", "Request", "SplitEE", "UEEUCB"]
