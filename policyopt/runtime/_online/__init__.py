"""Serving while adapting: who moves along a family of policies, and the object that serves."""

from __future__ import annotations

from .controller import Controller
from .exit_rules import UEEUCB, LinUCB, SplitEE
from .serving import Online, Request

__all__ = ["Controller", "LinUCB", "Online", "Request", "SplitEE", "UEEUCB"]
