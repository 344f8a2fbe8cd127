"""The network of `examples.fashion_mnist` as a staged model: from weights or trained here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from examples.fashion_mnist.data import Split
from examples.fashion_mnist.model import PIXEL_MEAN, PIXEL_STD, MultiExitNet
from examples.fashion_mnist.train import Recipe, train
from policyopt.serving import StagedModel


def network(weights: Path | None, split: Split, epochs: int, seed: int = 0) -> MultiExitNet:
    """Return the trained network in evaluation mode.

    Parameters
    ----------
    weights
        File of a state dictionary to load; None trains on `split`.
    split
        Training rows.
    epochs, seed
        Of the training.
    """
    if weights is None:
        return train(split, replace(Recipe(), epochs=epochs, seed=seed), lambda step, loss: None)
    model = MultiExitNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.load_state_dict(torch.load(weights, weights_only=True))
    return model.eval()


def staged(model: MultiExitNet) -> StagedModel:
    """Return the network stage by stage; the first one standardises and has the stem before it."""

    def first(images: Tensor) -> Tensor:
        return model.blocks[0](model.stem((images - PIXEL_MEAN) / PIXEL_STD))

    return StagedModel([first, *model.blocks[1:]], list(model.heads))
