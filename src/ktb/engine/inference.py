"""From a dict of modalities to logits at a wanted size."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from ktb.models.segmentor import KTBSegmentor


def resize_logits(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, H, W) → (B, K, *size), bilinear; unchanged when the size is right already."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def whole_image(model: KTBSegmentor, inputs: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
    """Logits (B, K, *size) of one forward pass over whole images."""
    return resize_logits(model(inputs, side=False).logits, size)
