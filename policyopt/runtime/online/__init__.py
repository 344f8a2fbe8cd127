"""Serving while adapting: a ladder of thresholds, who moves along it, and the object that serves."""

from __future__ import annotations
