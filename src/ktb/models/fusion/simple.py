"""Fusion without parameters, to compare DSCF with."""

from __future__ import annotations

from torch import Tensor

from ktb.models.fusion.base import Fusion


class PlainSum(Fusion):
    """Fusion by adding the streams: what DSCF is compared with in the ablation. Arguments: see `Fusion`."""

    def forward(self, streams: Tensor) -> Tensor:
        """Stream features (M, B, H, W, C) → their sum (B, H, W, C)."""
        return streams.sum(0)

    def pictures(self, streams: Tensor) -> dict[str, Tensor]:
        """How far the streams agree: 1 where all are the same, one over their number where they have nothing in common,
        0 where they cancel each other out."""
        # Not each one's share: after their LayerNorms all are of the same length.
        if len(streams) == 1:
            return {}
        lengths = streams.square().sum((0, -1)).clamp_min(1e-12)
        return {"agreement of the streams": streams.sum(0).square().sum(-1) / (len(streams) * lengths)}
