"""Tuning: a search over what a method declares in `space`, judged by cross-validation on the fit rows."""

from __future__ import annotations

from policyopt._tuning.study import Tuned, tune

__all__ = ["Tuned", "tune"]
