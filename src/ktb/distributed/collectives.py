"""Sums over the processes of a distributed training; with one process everything is what it is."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from ktb.errors import NotFiniteError


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """Sum over all processes, without a gradient."""
    x = x.detach()
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def stop_together(message: str | None, device: torch.device) -> None:
    """End the job if any process has a message. All processes call this at the same place.

    Raises:
        NotFiniteError: on rank 0, with the first message.
        SystemExit: on the others, as rank 0 says why.
    """
    if not summed(torch.tensor(int(message is not None), device=device)):
        return
    messages = [message]
    if world_size() > 1:
        messages = [None] * world_size()
        dist.all_gather_object(messages, message)
        if dist.get_rank() > 0:
            raise SystemExit(2)
    raise NotFiniteError(next(text for text in messages if text is not None))
