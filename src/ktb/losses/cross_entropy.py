"""Cross-entropy and OHEM (docs/method.md#mmst).

Each is a mean over selected pixels of the global batch and 0, never NaN, when nothing is selected. With class
weights it is the weighted mean, Σ w·loss / Σ w with w the weight of a pixel's true class, as in `F.cross_entropy`. Of
several processes each returns its share times their number: the mean over processes, which is what DDP makes of the
gradients, is then the loss of the global batch, also when they hold different numbers of valid pixels. None of them
waits for the device.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ktb.data.spec import ignore_index
from ktb.distributed.collectives import summed, world_size


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over pixels whose target is not `ignore_index` of K.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64.
        weights: (K,) one per class, 0 or more; None: all pixels count alike.
    """
    loss = _pixel_losses(logits, target)
    if weights is None:
        return _mean(loss.sum(), summed((target != ignore_index(logits.shape[1])).sum()))
    of_pixel = _pixel_weights(weights, target, loss.dtype)
    return _mean((of_pixel * loss).sum(), summed(of_pixel.sum()))


def _pixel_losses(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of each pixel (B, H, W), 0 where the target does not count; at least float32."""
    losses: Tensor = _CrossEntropy.apply(logits.to(torch.promote_types(logits.dtype, torch.float32)), target)
    return losses


class _CrossEntropy(torch.autograd.Function):
    """As `F.cross_entropy(..., reduction="none")`. That one keeps log-probabilities beside the logits, and its gradient
    passes through one more tensor of their size; this one keeps the logits and the logarithm of their sum."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        valid = target != ignore_index(logits.shape[1])
        index = torch.where(valid, target, 0)[:, None]
        log_p = logits.log_softmax(1)
        # Of the likeliest class, where the difference loses least.
        log_sum = logits.amax(1, keepdim=True) - log_p.amax(1, keepdim=True)
        ctx.save_for_backward(logits, log_sum, index, valid)
        return torch.where(valid, -log_p.gather(1, index)[:, 0], 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        logits, log_sum, index, valid = ctx.saved_tensors
        out = (logits - log_sum).exp_()
        out.scatter_(1, index, out.gather(1, index) - 1)
        return out.mul_(torch.where(valid, grad, 0.0)[:, None]), None


def _pixel_weights(weights: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of each pixel's class (B, H, W), 0 where the target is no class."""
    valid = target < len(weights)
    return torch.where(valid, weights.to(dtype)[torch.where(valid, target, 0)], 0.0)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    """This process's part of the mean; `count`, of pixels or of their weights, is that of all processes."""
    return total * world_size() / torch.where(count > 0, count, 1)


def ohem_cross_entropy(
    logits: Tensor, target: Tensor, threshold: float = 0.7, share: int = 16, *, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over hard pixels: loss > −log `threshold`, and at least the ⌊n_valid / share⌋ largest.

    Class weights take no part in the choice of pixels; the mean over those chosen is weighted.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64.
        threshold: pixels count as hard whose true class has a smaller probability.
        share: at least one valid pixel of so many is chosen.
        weights: (K,) one per class, 0 or more; None: all pixels count alike.
    """
    loss = _pixel_losses(logits, target).flatten()
    hard = (loss > -math.log(threshold)).sum()
    hard, valid = summed(torch.stack([hard, (target != ignore_index(logits.shape[1])).sum()])).unbind(0)
    count = torch.maximum(hard, valid // share)
    # The hard pixels are the largest losses, so both rules select the head of one descending order.
    if world_size() == 1 and weights is None:
        loss = loss.sort(descending=True).values
        selected = torch.arange(len(loss), device=loss.device) < count
        return _mean(torch.where(selected, loss, 0.0).sum(), count)
    size = loss.detach().float()
    least = _kth_largest(size, count)
    larger, equal = ~(size <= least), size == least  # NaN counts as larger: it must not drop out of the loss
    ahead, ties = summed(torch.stack([larger.sum(), equal.sum()])).unbind(0)
    part = (count - ahead) / ties.clamp(min=1)  # pixels of one loss share what is left of the count
    if weights is None:
        return _mean(torch.where(larger, loss, torch.where(equal, part * loss, 0.0)).sum(), count)
    chosen = torch.where(larger, 1.0, torch.where(equal, part, 0.0)).to(loss.dtype)
    chosen = chosen * _pixel_weights(weights, target, loss.dtype).flatten()
    return _mean((chosen * loss).sum(), summed(chosen.sum()))


def _kth_largest(values: Tensor, k: Tensor) -> Tensor:
    """The k-th largest (from 1) of the float32 `values` ≥ 0 of all processes: digit by digit, four sums of 256 counts
    instead of a gathering of all values."""
    # Floats that are not negative are ordered as their bits are; -0.0, the loss of a pixel that is sure, has others.
    bits = values.abs().view(torch.int32).long()
    prefix, left = torch.zeros_like(k), k.clamp(min=1)
    for shift in (24, 16, 8, 0):
        among = (bits >> (shift + 8)) == (prefix >> (shift + 8))
        counts = torch.zeros(256, dtype=torch.int64, device=values.device)
        counts = summed(counts.scatter_add_(0, (bits >> shift) & 255, among.long()))
        at_least = counts.flip(0).cumsum(0).flip(0)
        digit = (at_least >= left).sum() - 1
        left = left - (at_least[digit] - counts[digit])
        prefix = prefix | (digit << shift)
    return prefix.int().view(torch.float32)
