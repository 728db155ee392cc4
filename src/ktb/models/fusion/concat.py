"""Fusion by concatenation: all streams side by side, mixed per position by one trained Linear (a 1×1 convolution)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.models.fusion.base import Fusion
from ktb.models.layers.init import trunc_linear


class Concat(Fusion):
    """M·C → C at every position. The weight starts truncated normal, σ = 0.02, the bias at 0. Arguments: `Fusion`."""

    def __init__(self, modalities: Sequence[str], channels: int, stage: int, stride: float) -> None:
        super().__init__(modalities, channels, stage, stride)
        self.mix = trunc_linear(len(modalities) * channels, channels)

    def forward(self, streams: Tensor) -> Tensor:
        """(M, B, H, W, C) → (B, H, W, C)."""
        return self.mix(torch.cat(streams.unbind(0), dim=-1))

    def pictures(self, streams: Tensor) -> dict[str, Tensor]:
        """The share of each modality in what the Linear adds up: its vector's length over the sum of all lengths."""
        if len(streams) == 1:
            return {}
        weights = self.mix.weight.chunk(len(streams), dim=1)
        parts = [F.linear(x, w) for x, w in zip(streams.unbind(0), weights, strict=True)]
        lengths = torch.stack(parts).norm(dim=-1)
        shares = lengths / lengths.sum(0).clamp_min(1e-12)
        return {f"share of {m}": share for m, share in zip(self.modalities, shares, strict=True)}
