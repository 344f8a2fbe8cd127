"""A small transformer with an exit after every layer."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from .data import BUCKETS, LENGTH


class TextNet(nn.Module):
    """Words in, logits of every exit out; heads read the mark that stands first, as BERT's do."""

    def __init__(
        self,
        classes: int,
        width: int = 64,
        exits: int = 4,
        dropout: float = 0.1,
        detached: bool = False,
    ) -> None:
        super().__init__()
        self.exits, self.detached = exits, detached
        self.embedding = nn.Embedding(BUCKETS, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(LENGTH + 1, width))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, 4, 4 * width, dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(exits)
        )
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes)) for _ in range(exits)
        )

    def features(self, words: Tensor) -> Iterator[Tensor]:
        """Yield what the heads read, (n, width), exit by exit."""
        padding = words == 0
        x = self.embedding(words) + self.places
        for layer in self.layers:
            x = layer(x, src_key_padding_mask=padding)
            yield x[:, 0]

    def stages(self, words: Tensor) -> Iterator[Tensor]:
        """Yield the logits exit by exit; what is not asked for is not computed."""
        for head, read in zip(self.heads, self.features(words), strict=True):
            # Detached, an early head learns, but does not shape the layers below it.
            yield head(read.detach() if self.detached and head is not self.heads[-1] else read)

    def multiply_adds(self) -> list[float]:
        """Return the million multiply-adds (MMACs) of a definition that leaves at exit k, (K,)."""
        places, width = self.places.shape
        layer = places * 12 * width**2 + 2 * places**2 * width
        heads = [sum(p.numel() for p in head.parameters() if p.ndim == 2) for head in self.heads]
        return [((k + 1) * layer + sum(heads[: k + 1])) / 1e6 for k in range(self.exits)]

    def forward(self, words: Tensor) -> list[Tensor]:
        """Return the logits of all exits."""
        return list(self.stages(words))
