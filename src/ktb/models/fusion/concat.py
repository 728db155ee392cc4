"""Fusion by concatenation: all streams side by side, mixed per position by one trained Linear (a 1×1 convolution)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
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
