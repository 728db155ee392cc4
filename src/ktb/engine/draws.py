"""Dropout and stochastic depth that belong to the sample, not to the process that happens to compute it.

A value is dropped or kept by a hash of (sample's key, layer, position): stateless, so that it is the same however the
global batch is divided among processes, after a resume, and when activations are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers import DropPath
from torch import Tensor, nn


class Draws:
    """What all `SampleDropout` of a model share: the keys of the samples that are being computed."""

    keys: Tensor | None = None
    """(B,) int32; None: as if the layers were torch's own."""


class SampleDropout(nn.Module):
    """In place of a dropout layer.

    Args:
        inner: nn.Dropout on (M, B, ...), nn.Dropout2d on (B, C, H, W), or DropPath on (M·B, ...), modality-major.
        draws: the model's.
        layer: number of the layer in the model.
    """

    def __init__(self, inner: nn.Module, draws: Draws, layer: int) -> None:
        super().__init__()
        self.inner = inner
        self.draws = draws
        self.layer = layer
        self.p = float(inner.drop_prob if isinstance(inner, DropPath) else inner.p)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        keys = self.draws.keys
        if not self.training or self.p == 0.0:
            return x
        if keys is None:
            return self.inner(x)
        b = len(keys)
        if isinstance(self.inner, DropPath):
            axes: int = 1
            drawn: tuple[int, ...] = (len(x) // b, b)
        elif isinstance(self.inner, nn.Dropout2d):
            axes, drawn = 2, (1, *x.shape[:2])
        else:
            axes, drawn = x.dim(), tuple(x.shape)
        kept = uniform(keys, self.layer, drawn) >= self.p * 2.0**32 - 2**31
        kept = kept.view(*x.shape[:axes], *[1] * (x.dim() - axes))
        return x * (kept * (1.0 / (1.0 - self.p))).to(x.dtype)


def uniform(keys: Tensor, layer: int, shape: Sequence[int]) -> Tensor:
    """int32, uniform over its range, of `shape` = (M, B, ...): a function of (key of the sample, layer, place)."""
    lead, b, *rest = shape
    places = torch.arange(lead * math.prod(rest), dtype=torch.int32, device=keys.device).view(lead, 1, *rest)
    base = _mixed(keys ^ _mixed(torch.full_like(keys, layer + 1))).view(1, b, *[1] * len(rest))
    return _mixed(_mixed(places + 0x3C6EF372) + base)


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 32 bits that changes half of them for each one that changes (integer arithmetic wraps; the shifts
    are masked because those of signed numbers copy the sign)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * (0x846CA68B - 2**32)
    return x ^ ((x >> 16) & 0xFFFF)


def per_sample(model: nn.Module) -> Draws:
    """Replace the dropout layers of `model`; its parameters and their names stay as they are."""
    draws = Draws()
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Dropout | nn.Dropout2d | DropPath)
    ]
    for layer, (parent, name, child) in enumerate(found):
        setattr(parent, name, SampleDropout(child, draws, layer))
    return draws
