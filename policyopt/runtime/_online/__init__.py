"""Serving while adapting: a family of policies, who moves along it, and the object that serves."""

from __future__ import annotations

from .controller import Controller
from .exit_rules import UEEUCB, LinUCB, SplitEE
from .family import PolicyFamily
from .serving import Online, Request

__all__ = ["Controller", "LinUCB", "Online", "PolicyFamily", "Request", "SplitEE", "UEEUCB"]
