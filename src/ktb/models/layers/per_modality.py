"""Layers that every modality has its own of, applied to all streams at once, stacked as (M, B, H, W, C)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ktb.models.layers.init import down_linear


def per_modality_down(modalities: Sequence[str], in_features: int, out_features: int) -> nn.ModuleDict:
    """One Kaiming-uniform(a=√5) reduction per modality."""
    return nn.ModuleDict({m: down_linear(in_features, out_features) for m in modalities})


def apply_per_modality(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    """Each stream through its own Linear, as one batched product: (M, B, H, W, in) → (M, B, H, W, out)."""
    linears = cast(Iterable[nn.Linear], layers.values())
    weight, bias = (torch.stack(x) for x in zip(*((linear.weight, linear.bias) for linear in linears), strict=True))
    out = torch.baddbmm(bias[:, None].to(x.dtype), x.flatten(1, 3), weight.transpose(1, 2))
    return out.view(*x.shape[:-1], -1)
