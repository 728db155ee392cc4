"""The backbone's Linear layers called in the form that is fastest, unless somebody has changed what they compute.

A fast form reads a layer's weight and so passes by whatever stands around it: LoRA, quantisation, a hook. Backbones
therefore call their Linears through these functions and read no weight themselves.
"""

from __future__ import annotations

from typing import TypeGuard

import torch.nn.functional as F
from torch import Tensor, nn

from ktb.models.layers.linear import linear, linear_gelu


def is_unwrapped(layer: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a layer computes nothing but the product with its weight and bias: no subclass, no wrapper, no hook."""
    # PyTorch has no public way to ask for hooks.
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


def through(layer: nn.Module, x: Tensor, add: Tensor | None = None) -> Tensor:
    """`layer(x)`, plus `add` if given: (..., in), (..., out) → (..., out)."""
    if is_unwrapped(layer):
        return linear(x, layer.weight, layer.bias, add)
    out: Tensor = layer(x)
    return out if add is None else add + out


def through_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """`F.gelu(layer(x))`: (..., in) → (..., out)."""
    return linear_gelu(x, layer.weight, layer.bias) if is_unwrapped(layer) else F.gelu(layer(x))
