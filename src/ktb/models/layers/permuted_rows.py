"""Rows of a matrix taken in another order, with a gradient that is a copy and not a sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def take_rows(
    x: Tensor, index: Tensor, inverse: Tensor, *, holes: Tensor | None = None, unused: Tensor | None = None
) -> Tensor:
    """`x[index]`, where `x[index][inverse]` gives every row of x that is taken back.

    Args:
        x: (R, C).
        index: (N) rows of x.
        inverse: (R) for every row of x a place in `index` that holds it, any one for a row in `unused`.
        holes: places of the result that are zero instead; what `index` says there does not matter.
        unused: rows of x that are not taken; their gradient is zero.

    Returns:
        (N, C).
    """
    out: Tensor = _Rows.apply(x, index, inverse, holes, unused)
    return out


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, index: Tensor, inverse: Tensor, holes: Tensor | None, unused: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(inverse, unused)
        out = x.index_select(0, index)
        return out if holes is None else out.index_fill_(0, holes, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        inverse, unused = ctx.saved_tensors
        out = grad.index_select(0, inverse)
        return (out if unused is None else out.index_fill_(0, unused, 0.0)), None, None, None, None
