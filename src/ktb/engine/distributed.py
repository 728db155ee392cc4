"""Sums over the processes of a distributed training; with one process everything is what it is."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """Sum over all processes, without a gradient."""
    x = x.detach()
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x
