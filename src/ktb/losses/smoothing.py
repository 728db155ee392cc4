"""Cross-entropy against targets that are not quite sure, so that logits need not grow without bound."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ktb.data.spec import ignore_index
from ktb.distributed.collectives import summed, world_size


def smoothed_cross_entropy(
    logits: Tensor, target: Tensor, weights: Tensor | None = None, *, smoothing: float = 0.1
) -> Tensor:
    """Mean cross-entropy against `(1 − smoothing)` for the true class plus `smoothing / K` for every class.

    With class weights the mean is weighted by each pixel's true class, as everywhere in ktb, so that a class of weight
    0 is not trained on; `F.cross_entropy` weighs the smoothed part by all classes instead. Mean of the global batch,
    and 0 where nothing counts, as `ktb.losses.cross_entropy.cross_entropy`, which this is with `smoothing` 0.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64; pixels of `ignore_index` of K do not count.
        weights: (K,) one per class, 0 or more; None: all pixels count alike.
        smoothing: from 0 to 1.

    Raises:
        ValueError: smoothing outside of that.
    """
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label smoothing must be from 0 to 1, got {smoothing}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    void = ignore_index(logits.shape[1])
    valid = target != void
    losses = F.cross_entropy(logits, target, ignore_index=void, reduction="none", label_smoothing=smoothing)
    counts = valid.to(losses.dtype)
    if weights is not None:
        counts = torch.where(valid, weights.to(losses)[torch.where(valid, target, 0)], 0.0)
    count = summed(counts.sum())
    return (counts * losses).sum() * world_size() / torch.where(count > 0, count, 1)
