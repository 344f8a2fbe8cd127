"""Modules in training mode, whose dropout and batch norms make every answer another one: told once."""

from __future__ import annotations

import warnings
from typing import Any

from .modules import modules_of
from .staged import StagedModel


class TrainingModeWarning(UserWarning):
    """A model that is exported, measured or served is in training mode."""


def warn_of_training(model: StagedModel) -> None:
    """Warn where a module among the stages, heads or features trains and is another one in training.

    Modules are found in what the callables hold, too: wrapped by `from_sequential` and `from_encoder`,
    in a closure, a default argument, a partial, a bound method.
    """
    found: dict[str, list[str]] = {}
    for name in ("stages", "heads", "features"):
        for k, call in enumerate(getattr(model, name) or ()):
            for kind in sorted({type(m).__name__ for m in modules_of(call) if _random(m)}):
                found.setdefault(kind, []).append(f"{name}[{k}]")
    if found:
        held = "; ".join(f"{kind} in {', '.join(places)}" for kind, places in found.items())
        warnings.warn(
            f"The model is in training mode ({held}): its answers depend on chance or on the other "
            "samples of a batch. Call eval() on its modules first.",
            TrainingModeWarning,
            stacklevel=3,
        )


def _random(module: Any) -> bool:
    """Say whether a module of torch gives other answers because it is in training mode."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm
    from torch.nn.modules.dropout import _DropoutNd

    if not module.training:
        return False
    if isinstance(module, _DropoutNd):
        return module.p > 0
    if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)):
        return module.dropout > 0
    # Of other libraries, by their names: timm's DropPath, torchvision's StochasticDepth.
    return isinstance(module, _BatchNorm) or type(module).__name__ in (
        "DropPath", "StochasticDepth"
    )  # fmt: skip
