"""Methods: how a policy is found. One file each, one row each in the registry."""

from __future__ import annotations

from policyopt.methods.base import Expectation, Fitted, Method
from policyopt.methods.registry import ROWS, Row, make_method

__all__ = ["ROWS", "Expectation", "Fitted", "Method", "Row", "make_method"]
