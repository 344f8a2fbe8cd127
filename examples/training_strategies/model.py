"""Three small staged networks for 28 x 28 grey images: residual, depthwise and plain.

Each is a chain of four blocks of layers with an exit after every one. They stand for the ResNet,
MobileNet and VGG of the study, about a thousand times smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from examples.fashion_mnist.model import PIXEL_MEAN, PIXEL_STD, conv_unit, exit_head

BACKBONES = ("residual", "depthwise", "plain")
CLASSES = 10
WIDTHS = {
    "residual": (8, 16, 32, 64),
    "depthwise": (32, 48, 64, 96),
    "plain": (8, 16, 32, 64),
}
"""Channels behind each block."""

STRIDES = (1, 1, 2, 2)
"""Of each block; with the stem's, the sides of their outputs are 7, 7, 4 and 2 pixels."""

HEAD_CHANNELS, HEAD_UNITS, DROPOUT = 16, 32, 0.3


class Normalise(nn.Module):
    """Pixels in [0, 1] to zero mean and unit variance: all the preparation there is."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the pixels, normalised."""
        return (images - PIXEL_MEAN) / PIXEL_STD


class Residual(nn.Module):
    """Two 3 x 3 convolutions and a way around them, as in ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_unit(inputs, outputs, stride),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.around = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.around = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the block's output."""
        return torch.relu(self.body(hidden) + self.around(hidden))


def depthwise_unit(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Return a 3 x 3 convolution per channel and a 1 x 1 convolution across them.

    MobileNet has a rectifier between the two: with as few channels as here it costs five points of
    accuracy (Xception has none, either).
    """
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def plain_block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    """Return two 3 x 3 convolutions, pooled before, as in VGG."""
    pooled = [nn.MaxPool2d(2, ceil_mode=True)] if stride > 1 else []
    return [*pooled, conv_unit(inputs, outputs), conv_unit(outputs, outputs)]


def blocks_of(backbone: str) -> nn.ModuleList:
    """Return the four blocks of a backbone; the first holds the stem."""
    widths = WIDTHS[backbone]
    layers: list[nn.Module] = [Normalise(), conv_unit(1, widths[0], 2)]
    blocks, inputs = nn.ModuleList(), widths[0]
    if backbone != "depthwise":
        layers.append(nn.MaxPool2d(2))
    for outputs, stride in zip(widths, STRIDES, strict=True):
        if backbone == "residual":
            layers.append(Residual(inputs, outputs, stride))
        elif backbone == "depthwise":
            down = stride if blocks else 2
            layers += [depthwise_unit(inputs, outputs, down), depthwise_unit(outputs, outputs, 1)]
        else:
            layers += plain_block(inputs, outputs, stride)
        blocks.append(nn.Sequential(*layers))
        layers, inputs = [], outputs
    return blocks


def early_head(channels: int, pooled_twice: bool) -> nn.Sequential:
    """Return an early exit as in the study, narrower: the deeper one keeps its resolution."""
    side = nn.MaxPool2d(2) if pooled_twice else nn.Identity()
    return nn.Sequential(
        nn.MaxPool2d(2, ceil_mode=True),
        conv_unit(channels, HEAD_CHANNELS),
        side,
        nn.Flatten(),
        nn.Linear(4 * HEAD_CHANNELS, HEAD_UNITS),
        nn.ReLU(inplace=True),
        nn.Dropout(DROPOUT),
        nn.BatchNorm1d(HEAD_UNITS),
        nn.Linear(HEAD_UNITS, CLASSES),
    )


def heads_of(backbone: str) -> nn.ModuleList:
    """Return three early exits and the backbone's own, final one."""
    first, second, third, last = WIDTHS[backbone]
    early = [early_head(first, True), early_head(second, True), early_head(third, False)]
    return nn.ModuleList([*early, exit_head(last, CLASSES)])


class StagedNet(nn.Module):
    """A chain of blocks, each with its exit."""

    def __init__(self, blocks: nn.ModuleList, heads: nn.ModuleList) -> None:
        super().__init__()
        self.blocks, self.heads = blocks, heads

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.heads)

    def stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the logits exit by exit: who stops asking saves the blocks that follow."""
        hidden = images
        for block, head in zip(self.blocks, self.heads, strict=True):
            hidden = block(hidden)
            yield head(hidden)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits of all exits, each of shape (n, C)."""
        return list(self.stages(images))


class Assembled(nn.Module):
    """Models of their own, one per exit: nothing is shared, an input that goes on begins anew."""

    def __init__(self, models: Iterable[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.models)

    def stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the logits model by model."""
        for model in self.models:
            yield model(images)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits of all models, each of shape (n, C)."""
        return list(self.stages(images))


def build(backbone: str, seed: int) -> StagedNet:
    """Return a freshly initialised network; channels-last storage is clearly faster on a CPU."""
    torch.manual_seed(seed)
    net = StagedNet(blocks_of(backbone), heads_of(backbone))
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def sub_model(net: StagedNet, exit_: int) -> nn.Sequential:
    """Return the backbone up to an exit with that exit's head; the modules are the network's own."""
    return nn.Sequential(*net.blocks[: exit_ + 1], net.heads[exit_])


def single_exit(net: StagedNet) -> StagedNet:
    """Return the network without its early exits."""
    return StagedNet(nn.ModuleList([nn.Sequential(*net.blocks)]), nn.ModuleList([net.heads[-1]]))
