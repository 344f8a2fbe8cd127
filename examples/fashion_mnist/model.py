"""A small multi-exit convolutional network for 28 x 28 grey images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530
"""Mean and standard deviation of the Fashion-MNIST training pixels, scaled to [0, 1]."""

STEM_CHANNELS = 16
STAGES: tuple[tuple[tuple[int, int], ...], ...] = (
    ((16, 1),),
    ((24, 1),),
    ((32, 1),),
    ((64, 2), (64, 1)),
    ((96, 1), (96, 1)),
)
"""Per stage, the (channels, stride) of its convolutions; each stage ends in an exit.

The widths are chosen so that the multiply-adds spent by exit k about double from one
exit to the next: leaving one exit earlier then saves about half of the work.
"""


def conv_unit(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3 x 3 convolution followed by batch norm and a rectifier."""
    return nn.Sequential(
        # Batch norm follows, so a bias would be cancelled at once.
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def exit_head(channels: int, classes: int) -> nn.Sequential:
    """Return an exit: global average pooling and one linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class MultiExitNet(nn.Module):
    """A stem and a chain of stages, each with its own classifier."""

    def __init__(
        self, stages: Sequence[Sequence[tuple[int, int]]] = STAGES, classes: int = 10
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_unit(1, STEM_CHANNELS), nn.MaxPool2d(2))
        self.blocks = nn.ModuleList()
        self.heads = nn.ModuleList()
        width = STEM_CHANNELS
        for stage in stages:
            units: list[nn.Module] = []
            for channels, stride in stage:
                units.append(conv_unit(width, channels, stride))
                width = channels
            self.blocks.append(nn.Sequential(*units))
            self.heads.append(exit_head(width, classes))

    @property
    def exits(self) -> int:
        """Number of exits."""
        return len(self.heads)

    def stages(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the logits exit by exit.

        A stage runs only when its logits are asked for: a caller that stops iterating
        saves the remaining stages, which is what early exit means at run time.
        """
        hidden = self.stem((images - PIXEL_MEAN) / PIXEL_STD)
        for block, head in zip(self.blocks, self.heads, strict=True):
            hidden = block(hidden)
            yield head(hidden)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the logits of all exits, each of shape (n, classes)."""
        return list(self.stages(images))


def build_model(seed: int) -> MultiExitNet:
    """Return a freshly initialised network with a fixed seed.

    Channels-last storage makes the convolutions clearly faster on a CPU.
    """
    torch.manual_seed(seed)
    return MultiExitNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
