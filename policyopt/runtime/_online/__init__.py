"""Serving while adapting: a family of policies, who moves along it, and the object that serves."""

from __future__ import annotations

from .controller import Controller
from .family import PolicyFamily
from .linucb import LinUCB
from .serving import Online, Request
from .splitee import SplitEE
from .uee_ucb import UEEUCB

__all__ = ["Controller", "LinUCB", "Online", "PolicyFamily", "Request", "SplitEE", "UEEUCB"]
