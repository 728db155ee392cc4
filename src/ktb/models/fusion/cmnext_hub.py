"""CMNeXt's way from several auxiliary modalities to one, so that a block for two modalities can follow
(docs/method.md#other-fusion-blocks).

After "Delivering Arbitrary-Modal Semantic Segmentation" (CVPR 2023). Written from its formulas; numbers of the
published implementation are in tests/data/reference/fusion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ktb.models.layers.init import conv
from ktb.models.layers.norm import BatchNorm


def depthwise(channels: int, kernel: int) -> nn.Conv2d:
    """Depthwise convolution that keeps the map's size; weight N(0, √2 / kernel), bias 0."""
    layer = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0) / kernel)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class Hub(nn.Module):
    """Scores every position of every auxiliary modality and takes, per value, the largest of the scored maps.

    `s_m = sigmoid(Conv1×1(DWConv3×3(x_m)))`, `x_m ← x_m + s_m · x_m`, `joint = max_m x_m`.

    Args:
        count: auxiliary modalities, 2 or more.
        channels: C.
    """

    def __init__(self, count: int, channels: int) -> None:
        super().__init__()
        self.score = nn.ModuleList(nn.Sequential(depthwise(channels, 3), conv(channels, 1)) for _ in range(count))

    def scores(self, maps: Tensor) -> Tensor:
        """(M, B, H, W, C) → (M, B, H, W) in [0, 1]."""
        nets = cast(Iterable[nn.Module], self.score)
        return torch.stack([net(x.movedim(-1, 1))[:, 0] for net, x in zip(nets, maps.unbind(0), strict=True)]).sigmoid()

    def forward(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """(M, B, H, W, C) → the scored maps, same shape, and the joint map (B, H, W, C)."""
        scored = maps + self.scores(maps)[..., None] * maps
        return scored, scored.amax(0)


def carried(scored: Tensor, rectified: Tensor, *, scrambled: bool = False) -> Tensor:
    """Auxiliary streams that go on: each one's scored map plus the joint map after rectification.

    Args:
        scored: (M, B, H, W, C).
        rectified: (B, H, W, C).
        scrambled: first read each scored map's values, which lie channel by channel, as if they lay position by
            position. The published code does so, presumably without meaning to, and its weights are trained with it.
    """
    if scrambled:
        h, w, c = scored.shape[2:]
        scored = scored.movedim(-1, 2).flatten(2).unflatten(2, (h, w, c))
    return scored + rectified


class PoolingMixer(nn.Module):
    """CMNeXt's parallel pooling mixer (PPX), a block on the joint map.

    With `n = BN(x)` and `g = DWConv7×7(n)`:
    `x ← x + l₁ · (sigmoid(Conv1×1(g + P₃(g) + P₇(g) + P₁₁(g))) · n + n)`, where P is the mean of the k×k neighbours
    inside the map; then `w · x + l₂ · MLP(BN(x))` with a weight w per channel. That the residual of the second half is
    `w · x` and not `x` is as published.

    Args:
        channels: C.
        mlp_ratio: width of the MLP over C.
        drop_path: share of samples whose branch is dropped.
    """

    POOLS = (3, 7, 11)

    def __init__(self, channels: int, mlp_ratio: int = 8, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = BatchNorm(channels), BatchNorm(channels)
        self.local = depthwise(channels, 7)
        self.gate = conv(channels, channels)
        self.channel_weight = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.expand = conv(channels, mlp_ratio * channels)
        self.hidden = depthwise(mlp_ratio * channels, 3)
        self.contract = conv(mlp_ratio * channels, channels)
        self.scale1 = nn.Parameter(torch.full((channels,), 0.01))
        self.scale2 = nn.Parameter(torch.full((channels,), 0.01))
        self.drop_path = DropPath(drop_path)

    def mixed(self, x: Tensor) -> Tensor:
        """The first branch, before its scale: (B, C, H, W) → (B, C, H, W)."""
        n = self.norm1(x)
        g = self.local(n)
        pooled = [F.avg_pool2d(g, k, stride=1, padding=k // 2, count_include_pad=False) for k in self.POOLS]
        return torch.addcmul(n, self.gate(g + sum(pooled)).sigmoid(), n)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        x = x + self.drop_path(self.scale1[:, None, None] * self.mixed(x))
        weight = self.channel_weight(x.mean((2, 3))[:, None]).sigmoid().mT[..., None]  # B, C, 1, 1
        mlp = self.contract(F.gelu(self.hidden(self.expand(self.norm2(x)))))
        return weight * x + self.drop_path(self.scale2[:, None, None] * mlp)
