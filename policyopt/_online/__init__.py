"""Policies that adapt while serving, played on cached outputs: streams, bandits, budgets, drift."""

from __future__ import annotations
