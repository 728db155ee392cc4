"""Which tensors hold values that are not finite: NaN or infinities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors in which a value is NaN or infinite; waits for the device once."""
    floating = {k: v for k, v in state.items() if v.is_floating_point() or v.is_complex()}
    if not floating:
        return []
    # Floating-point types of one byte know no isfinite.
    wide = [v.float() if v.element_size() == 1 else v for v in floating.values()]
    good = torch.stack([v.isfinite().all() for v in wide]).tolist()
    return [name for name, fine in zip(floating, good, strict=True) if not fine]


def some_of(names: Sequence[str]) -> str:
    """ "head.predict.weight (and 57 more)"."""
    return names[0] + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")
