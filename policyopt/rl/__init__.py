"""Reinforcement learning on a cache: the exit problem as a gymnasium environment (extra ``rl``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from policyopt.rl._problem import ExitProblem, exit_problem

if TYPE_CHECKING:
    from policyopt.rl._environment import ExitEnv, ExitVectorEnv

__all__ = ["ExitEnv", "ExitProblem", "ExitVectorEnv", "exit_problem"]


def __getattr__(name: str) -> Any:
    """Import an environment when it is asked for: they need gymnasium, the problem does not."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from policyopt.rl import _environment

    return getattr(_environment, name)
