"""Losses per pixel: cross-entropy and OHEM (docs/method.md#mmst), alone on the fused head.

Every loss is a mean over selected pixels of the global batch and 0, never NaN, when nothing is selected. With class
weights it is the weighted mean, Σ w·loss / Σ w with w the weight of a pixel's true class, as in `F.cross_entropy`. Of
several processes each returns its share times their number: the mean over processes, which is what DDP makes of the
gradients, is then the loss of the global batch, also when they hold different numbers of valid pixels. None of them
waits for the device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ktb.data.spec import ignore_index
from ktb.distributed.collectives import summed, world_size
from ktb.models.segmentor import SegOutput

PixelLossKind = Literal["ce", "ohem"]


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


_PIXEL_LOSSES: dict[str, Callable[..., Tensor]] = {"ce": cross_entropy, "ohem": ohem_cross_entropy}


class PixelLoss(nn.Module):
    """CE or OHEM on the fused head alone.

    Args:
        kind: "ce" or "ohem".
        class_weights: one per class, 0 or more (0: the class is not trained on); None: all pixels count alike.

    Raises:
        ValueError: another kind, or weights that can be none.
    """

    class_weights: Tensor | None

    masking = False
    """Whether training samples lose modalities (see `draw_masks`)."""
    uses_side_heads = False

    def __init__(self, kind: PixelLossKind = "ce", class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if kind not in _PIXEL_LOSSES:
            raise ValueError(f"pixel loss must be one of {sorted(_PIXEL_LOSSES)}, got {kind!r}")
        self._pixel_loss = _PIXEL_LOSSES[kind]
        weights = None
        if class_weights is not None:
            weights = torch.tensor([float(w) for w in class_weights])
            if not (weights.isfinite().all() and (weights >= 0).all() and weights.any()):
                raise ValueError(f"class_weights must be numbers of 0 or more, not all 0, got {list(class_weights)}")
        # They are in the run's configuration: checkpoints are the same with and without them.
        self.register_buffer("class_weights", weights, persistent=False)

    def pixel_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one head, with the class weights.

        Args:
            logits: (B, K, H, W).
            target: (B, H, W) int64.
        """
        return self._pixel_loss(logits, target, weights=self.class_weights)

    def forward(self, out: SegOutput, target: Tensor) -> dict[str, Tensor]:
        """The terms of the loss.

        Args:
            out: what the model gave.
            target: class ids (B, H, W), any integer type.

        Returns:
            terms by name; "loss" is what is minimised.
        """
        return {"loss": self.pixel_loss(out.logits, target.long())}
