"""Serving while adapting: a family of policies, who moves along it, and the object that serves."""

from __future__ import annotations

from .exit_rules import UEEUCB, LinUCB, SplitEE
from .family import Controller, PolicyFamily
from .serving import Online, Request

__all__ = ["Controller", "LinUCB", "Online", "PolicyFamily", "Request", "SplitEE", "UEEUCB"]
