"""Losses of a class's whole region instead of its pixels: soft Dice and Lovász-softmax (docs/method.md#other-losses).

Both are means over the classes that occur in the labels of the global batch; with class weights, weighted means of
them. A class that does not occur has no term of its own, but a pixel that is given to it lacks in the class it belongs
to. Without any labelled pixel they are 0. Pixels without a class count nowhere.

Of several processes each returns the loss of the global batch, or its share of it times their number: the mean over
processes is the loss of the global batch, and so is the mean of the gradients. Neither waits for the device.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ktb.data.spec import ignore_index
from ktb.distributed.collectives import summed, world_size


def dice(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Soft Dice loss: the mean over classes of `1 − 2·Σ p·y / Σ (p + y)`, sums over all labelled pixels of the batch.

    p is the softmax of the logits and y is 1 where the target is the class, else 0.

    Args:
        logits: (B, K, H, W).
        target: (B, H, W) int64.
        weights: (K,) one per class, 0 or more; None: all classes count alike.
    """
    p = _probabilities(logits)
    valid = target != ignore_index(logits.shape[1])
    index = torch.where(valid, target, 0)[:, None]
    p = torch.where(valid[:, None], p, 0.0)
    size = summed(
        torch.zeros(p.shape[1], dtype=torch.int64, device=p.device).scatter_add_(
            0, index.flatten(), valid.flatten().long()
        )
    )
    hit = torch.zeros_like(p).scatter(1, index, p.gather(1, index)).sum((0, 2, 3))
    hit, guess = _of_all(torch.stack([hit, p.sum((0, 2, 3))])).unbind(0)
    return _mean_of_present(1 - 2 * hit / (guess + size).clamp(min=1), size > 0, weights)


def lovasz_softmax(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Lovász-softmax: the convex surrogate of `1 − IoU` of every class, as in Berman et al., CVPR 2018.

    With the errors `e = 1 − p` at a class's own pixels and `e = p` at all others, from the largest to the smallest, the
    loss of the class is `Σ_j e_j · (Δ_j − Δ_{j−1})`, where Δ_j is `1 − IoU` if exactly the first j pixels were wrong.
    Taken over all pixels of the batch together.

    Several processes exchange the errors of one class after the other, and must hold equally many pixels.

    Args:
        logits, target, weights: see `dice`.
    """
    p = _probabilities(logits)
    valid = target != ignore_index(logits.shape[1])
    losses, present = [], []
    for k, of_class in enumerate(p.unbind(1)):
        own = target == k
        errors = torch.where(own, 1 - of_class, of_class)
        slopes, occurs = _slopes(errors.detach(), own, valid)
        losses.append((slopes * torch.where(valid, errors, 0.0)).sum())
        present.append(occurs)
    return world_size() * _mean_of_present(torch.stack(losses), torch.stack(present), weights)


@torch.no_grad()
def _slopes(errors: Tensor, own: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Factor of each error (B, H, W) in the loss of a class, and whether the class occurs, over all processes.

    Of the j-th largest error: with U the class's pixels and the other ones up to j, and I its pixels after j, Δ is
    1 − I/U. At a pixel of the class I falls by one, so Δ rises by 1/U; at another one U rises by one, so Δ rises by
    I/(U − 1) − I/U. This form has no difference of almost equal numbers.
    """
    flat = torch.stack([torch.where(valid, errors, -1.0), own.to(errors.dtype), valid.to(errors.dtype)]).flatten(1)
    share, count = 0, flat.shape[1]
    if world_size() > 1:
        shares = [torch.empty_like(flat) for _ in range(world_size())]
        dist.all_gather(shares, flat)
        flat, share = torch.cat(shares, dim=1), dist.get_rank()
    order = flat[0].sort(descending=True, stable=True).indices  # pixels without a class come last
    inside, labelled = flat[1:].bool()[:, order].unbind(0)
    before = inside.cumsum(0)
    after, union = before[-1] - before, before[-1] + (labelled & ~inside).cumsum(0)
    rises = torch.where(inside, 1, after / (union - 1).clamp(min=1).to(errors.dtype)) / union.clamp(min=1)
    rises = torch.where(labelled, rises, 0.0).to(errors.dtype)
    slopes = torch.empty_like(rises).scatter_(0, order, rises)
    return slopes[share * count : (share + 1) * count].view_as(errors), before[-1] > 0


def _probabilities(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(1)


def _of_all(share: Tensor) -> Tensor:
    """The sum over all processes, whose gradient reaches this process's share, times the number of processes."""
    if world_size() == 1:
        return share
    return summed(share) + world_size() * (share - share.detach())


def _mean_of_present(losses: Tensor, present: Tensor, weights: Tensor | None) -> Tensor:
    """Weighted mean (K) → scalar over the classes that are present."""
    of_class = present.to(losses.dtype) if weights is None else torch.where(present, weights.to(losses), 0.0)
    total = of_class.sum()
    return (of_class * losses).sum() / torch.where(total > 0, total, 1)
