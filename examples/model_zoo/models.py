"""Eleven classifiers of Fashion-MNIST, from a linear map to residual networks: nobody's chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def conv(inside: int, outside: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    """Return a convolution with batch norm and ReLU."""
    pad = kernel // 2
    layer = nn.Conv2d(inside, outside, kernel, stride, pad, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outside), nn.ReLU())


def mlp(*widths: int, pool: int = 1) -> nn.Module:
    """Return fully connected layers, on an image made smaller `pool` times."""
    layers: list[nn.Module] = [nn.AvgPool2d(pool), nn.Flatten()]
    for inside, outside in pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def convs(*channels: int) -> nn.Module:
    """Return convolutions, each but the first after a pooling by two."""
    layers: list[nn.Module] = [conv(1, channels[0])]
    for inside, outside in pairwise(channels):
        layers += [nn.MaxPool2d(2), conv(inside, outside)]
    return nn.Sequential(*layers, head(channels[-1]))


def strided(*channels: int) -> nn.Module:
    """Return convolutions of stride two."""
    pairs = zip((1, *channels[:-1]), channels, strict=True)
    return nn.Sequential(*(conv(a, b, stride=2) for a, b in pairs), head(channels[-1]))


def depthwise(width: int) -> nn.Module:
    """Return depthwise and pointwise convolutions in turn."""
    layers = [conv(1, width, stride=2)]
    for factor, stride in ((2, 2), (2, 1), (4, 2)):
        inside = layers[-1][0].out_channels  # type: ignore[index]
        layers += [conv(inside, inside, 3, stride, inside), conv(inside, factor * width, 1)]
    return nn.Sequential(*layers, head(4 * width))


def head(channels: int) -> nn.Module:
    """Return a pooling to 3 x 3 places and a linear map."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(9 * channels, 10))


class Cosines(nn.Module):
    """Random cosine features, never trained: a Gaussian kernel machine, nearly (Rahimi & Recht, 2007)."""

    def __init__(self, count: int, width: float = 7.0) -> None:
        super().__init__()
        self.register_buffer("waves", torch.randn(784, count) / width)
        self.register_buffer("phases", 2 * math.pi * torch.rand(count))

    def forward(self, images: Tensor) -> Tensor:
        """Return the features, (n, count)."""
        return torch.cos(images.flatten(1) @ self.waves + self.phases)


class Residual(nn.Module):
    """Two convolutions around which the input passes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return what is passed on."""
        return F.relu(images + self.second(self.first(images)))


def residual(width: int) -> nn.Module:
    """Return two residual blocks at half resolution, two of twice the width at a quarter."""
    return nn.Sequential(
        conv(1, width, stride=2), Residual(width), Residual(width),
        conv(width, 2 * width, stride=2), Residual(2 * width), Residual(2 * width), head(2 * width),
    )  # fmt: skip


class Mixer(nn.Module):
    """Tokens and channels mixed in turn (Tolstikhin et al., 2021)."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.across = nn.Sequential(
            nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)
        )
        self.within = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the tokens mixed."""
        tokens = tokens + self.across(self.norms[0](tokens).mT).mT
        return tokens + self.within(self.norms[1](tokens))


def mixer(width: int, blocks: int) -> nn.Module:
    """Return a network that mixes patches of 7 x 7 pixels."""
    return nn.Sequential(
        nn.Conv2d(1, width, 7, 7), nn.Flatten(2), Transposed(),
        *(Mixer(16, width) for _ in range(blocks)), nn.LayerNorm(width), nn.Flatten(), nn.Linear(16 * width, 10),
    )  # fmt: skip


class Transposed(nn.Module):
    """The last two axes exchanged."""

    def forward(self, values: Tensor) -> Tensor:
        """Return them so."""
        return values.mT


#: How each model is made; the cheapest first.
MODELS: dict[str, Callable[[], nn.Module]] = {
    "linear_half": lambda: mlp(196, 10, pool=2),
    "linear": lambda: mlp(784, 10),
    "mlp_64": lambda: mlp(784, 64, 10),
    "conv_tiny": lambda: strided(8, 16),
    "depthwise": lambda: depthwise(16),
    "mlp_256": lambda: mlp(784, 256, 10),
    "conv_small": lambda: strided(16, 32),
    "mixer": lambda: mixer(64, 2),
    "kernel": lambda: nn.Sequential(Cosines(1024), nn.Linear(1024, 10)),
    "conv_medium": lambda: convs(16, 32, 64),
    "residual": lambda: residual(16),
}


def multiply_adds(model: nn.Module) -> float:
    """Count the million multiply-adds of one image."""
    model.eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops() / 2 / 1e6  # it counts a product and a sum
