"""Fusion without parameters, to compare DSCF with."""

from __future__ import annotations

from torch import Tensor

from ktb.models.fusion.base import Fusion


class PlainSum(Fusion):
    """Fusion by adding the streams: what DSCF is compared with in the ablation. Arguments: see `Fusion`."""

    def forward(self, streams: Tensor) -> Tensor:
        """Stream features (M, B, H, W, C) → their sum (B, H, W, C)."""
        return streams.sum(0)
