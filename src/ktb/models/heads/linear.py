"""A head without hidden layers: what the fused features hold already, for probing and for very few labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class LinearHead(nn.Module):
    """Features of all scales → logits, by one Linear per scale.

    The logits of a scale are resized to the finest one and added there, which is the same as one Linear on the resized
    and concatenated features. The weights start at N(0, 0.01), so that all classes start about equally likely.

    Args:
        channels: channels of each scale, finest first.
        num_classes: K.
    """

    def __init__(self, channels: Sequence[int], num_classes: int) -> None:
        super().__init__()
        # One bias is enough for a sum.
        self.predict = nn.ModuleList(nn.Linear(c, num_classes, bias=i == 0) for i, c in enumerate(channels))
        for layer in cast(Iterable[nn.Linear], self.predict):
            nn.init.normal_(layer.weight, 0.0, 0.01)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Features (B, H_i, W_i, C_i), finest first → contiguous logits (B, K, *size)."""
        grid = features[0].shape[1:3]
        parts = [layer(x).movedim(-1, 1) for layer, x in zip(self.predict, features, strict=True)]
        logits = parts[0]
        for part in parts[1:]:
            logits = logits + F.interpolate(part, size=grid, mode="bilinear", align_corners=False)
        return F.interpolate(logits.contiguous(), size=size, mode="bilinear", align_corners=False)
