"""BatchNorm whose training statistics are those of the global batch, on any device.

torch's SyncBatchNorm runs on accelerators only; this one is the same mathematics with whatever collectives the process
group has. In evaluation, and with one process, it is `nn.BatchNorm2d`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm over (B, C, H, W) of all processes of a distributed training.

    A batch with a single value per channel (batch 1 on a map of one pixel) takes the running statistics: there is
    nothing to normalise by, and torch would refuse.
    """

    synchronised = True
    """False: each process normalises by the statistics of its own share of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        if self.synchronised and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            assert self.momentum is not None
            y, mean, var, count = _Synchronised.apply(x, self.weight, self.bias, self.eps)
            with torch.no_grad():
                assert self.running_mean is not None
                assert self.running_var is not None
                assert self.num_batches_tracked is not None
                self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
                self.running_var.lerp_((var * count / (count - 1).clamp(min=1)).to(self.running_var), self.momentum)
                self.num_batches_tracked.add_(1)
            return y
        if x.shape[0] * x.shape[2] * x.shape[3] == 1:
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        return super().forward(x)


class _Synchronised(torch.autograd.Function):
    """x (B, C, H, W) → normalised x, and mean, biased variance (C) and number of values per channel over all ranks,
    whose shares may differ in size."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = _wide(x)
        var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        mine = torch.cat([mean, var, mean.new_tensor([x.numel() / x.shape[1]])])
        shares = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, mine)
        means, variances, counts = torch.stack(shares).split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / count
        y = F.batch_norm(wide, mean, var, weight.to(mean), bias.to(mean), False, 0.0, eps).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, torch.rsqrt(var + eps), count)
        ctx.mark_non_differentiable(mean, var, count)
        return y, mean, var, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, scale, count = ctx.saved_tensors
        mean, scale = mean[:, None, None], scale[:, None, None]
        grad, normal = _wide(grad), (_wide(x) - mean) * scale
        both = torch.stack([grad.sum((0, 2, 3)), (grad * normal).sum((0, 2, 3))])
        grad_bias, grad_weight = both.clone().unbind(0)  # of this rank: DDP sums the parameters' gradients itself
        dist.all_reduce(both)
        over, along = (both / count)[:, :, None, None].unbind(0)
        grad_x = weight.to(scale)[:, None, None] * scale * (grad - over - normal * along)
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
