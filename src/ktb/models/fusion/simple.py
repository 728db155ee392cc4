"""Fusion without parameters, to compare DSCF with."""

from __future__ import annotations

from torch import Tensor, nn


class PlainSum(nn.Module):
    """Fusion by adding the streams: what DSCF is compared with in the ablation."""

    def forward(self, features: Tensor) -> Tensor:
        """Stream features (M, B, H, W, C) → their sum (B, H, W, C)."""
        return features.sum(0)
