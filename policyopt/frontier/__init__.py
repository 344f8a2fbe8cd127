"""Replay, frontier, bounds and comparison: what policies cost and earn on rows that chose nothing."""

from __future__ import annotations

from policyopt.frontier.bounds import oracle
from policyopt.frontier.compare import compare
from policyopt.frontier.curve import Frontier, curve
from policyopt.replay import Replay, replay

__all__ = ["Frontier", "Replay", "compare", "curve", "oracle", "replay"]
