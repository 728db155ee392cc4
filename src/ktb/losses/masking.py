"""Which samples lose which modality in training (docs/method.md#mmst)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def draw_masks(num_modalities: int, batch_size: int, rng: np.random.Generator) -> Tensor:
    """Which sample loses which modality in one training step (docs/method.md#mmst).

    ⌊B/2⌋ random samples lose one modality each (one more with probability ½ when B is odd), dealt out in turn from a
    random first modality. With one modality nothing is masked.

    Args:
        num_modalities, batch_size: of the global batch.
        rng: what is drawn with.

    Returns:
        (num_modalities, batch_size) bool, True = masked; at most one True per sample.
    """
    masks = torch.zeros(num_modalities, batch_size, dtype=torch.bool)
    if num_modalities == 1:
        return masks
    count = batch_size // 2 + (batch_size % 2 and int(rng.integers(2)))
    samples = rng.permutation(batch_size)[:count]
    turns = (int(rng.integers(num_modalities)) + np.arange(count)) % num_modalities
    masks[turns, samples] = True
    return masks
