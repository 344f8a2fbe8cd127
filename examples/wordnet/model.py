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

    def stages(self, words: Tensor) -> Iterator[Tensor]:
        """Yield the logits exit by exit; what is not asked for is not computed."""
        padding = words == 0
        x = self.embedding(words) + self.places
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = layer(x, src_key_padding_mask=padding)
            # Detached, an early head learns, but does not shape the layers below it.
            own = self.detached and head is not self.heads[-1]
            yield head(x[:, 0].detach() if own else x[:, 0])

    def multiply_adds(self) -> list[float]:
        """Return the million multiply-adds (MMACs) of a definition that leaves at exit k, (K,)."""
        places, width = self.places.shape
        layer = places * 12 * width**2 + 2 * places**2 * width
        return [
            (k + 1) * (layer + width * self.heads[0][1].out_features) / 1e6
            for k in range(self.exits)
        ]

    def forward(self, words: Tensor) -> list[Tensor]:
        """Return the logits of all exits."""
        return list(self.stages(words))
