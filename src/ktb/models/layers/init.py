"""Layers with the initialisations of the published model (docs/method.md)."""

from __future__ import annotations

import math

from torch import nn


def conv(in_channels: int, out_channels: int, kernel: int = 1, **kwargs: int | bool) -> nn.Conv2d:
    """Convolution whose weight starts at N(0, √(2/(k²·c_out))), bias 0 (docs/method.md#dscf).

    Args:
        in_channels, out_channels: c_out is not divided by groups.
        kernel: its side k.
        kwargs: further arguments of `nn.Conv2d`.
    """
    layer = nn.Conv2d(in_channels, out_channels, kernel, **kwargs)  # type: ignore[arg-type]
    nn.init.normal_(layer.weight, 0.0, math.sqrt(2.0 / (kernel * kernel * out_channels)))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def down_linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer, weight Kaiming-uniform (a = √5), bias 0."""
    layer = nn.Linear(in_features, out_features)
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    nn.init.zeros_(layer.bias)
    return layer


def trunc_linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer, weight truncated normal 0.02, bias 0."""
    layer = nn.Linear(in_features, out_features)
    nn.init.trunc_normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def zero_linear(in_features: int, out_features: int) -> nn.Linear:
    """Linear layer that gives 0 before it is trained."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
