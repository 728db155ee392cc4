"""Where the positions of a map are, as all fast forms of DSCF's attention see them."""

from __future__ import annotations

import torch
from torch import Tensor


def evenly_spaced(n: int, like: Tensor) -> Tensor:
    """Coordinates (n) of positions from -1 to 1; 0 for a single one.

    Args:
        n: positions along one axis.
        like: gives type and device.
    """
    if n == 1:
        return like.new_zeros(1)
    return torch.linspace(-1, 1, n, device=like.device, dtype=like.dtype)
