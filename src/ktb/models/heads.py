"""SegFormer MLP head (METHOD §4), computed scale by scale.

The published wiring upsamples four maps, concatenates them and multiplies by one 4D×D matrix. That matrix, the
Linears and the resize are all linear, so each scale's share is taken at its own resolution with one merged matrix,
resized and added: the same numbers for a fraction of the work (METHOD §9).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.dscf import conv
from ktb.models.mapa import trunc_linear
from ktb.models.norm import BatchNorm


class MLPHead(nn.Module):
    """Features of four scales → logits.

    Args:
        channels: channels of each scale, finest first.
        width: D of the paper, 512 for the fused and 256 for the side heads.
        num_classes: K.
    """

    def __init__(self, channels: Sequence[int], width: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.ModuleList(trunc_linear(c, width) for c in channels)
        self.fuse = conv(width * len(channels), width, bias=False)
        self.norm = BatchNorm(width)
        self.dropout = nn.Dropout2d(0.1)
        self.predict = conv(width, num_classes)

    def forward(self, features: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Features (B, H_i, W_i, C_i), finest first → logits (B, K, *size)."""
        # The fuse convolution's input is ordered coarsest scale first.
        shares = self.fuse.weight.flatten(1).chunk(len(features), dim=1)[::-1]
        grid = features[0].shape[1:3]
        x: Tensor | None = None
        for feature, linear, share in zip(features, cast(Iterable[nn.Linear], self.linear), shares, strict=True):
            part = F.linear(feature, share @ linear.weight, share @ linear.bias).movedim(-1, 1)
            if x is not None:
                part = F.interpolate(part, size=grid, mode="bilinear", align_corners=False)
            x = part if x is None else x + part
        assert x is not None
        x = self.dropout(torch.relu(self.norm(x)))
        return F.interpolate(self.predict(x), size=size, mode="bilinear", align_corners=False)
