"""Seeds of a training step's draws: a resumed run draws what an undisturbed one would have drawn.

Every draw belongs to a place in the global batch. The sampler deals that out in turn: of W processes, rank r has the
places r, r + W, r + 2W, ...
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


def mixed(*parts: int) -> int:
    """One well-mixed 63-bit seed out of several small numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def sample_keys(step: tuple[int, int, int], places: Iterable[int]) -> Tensor:
    """A key per sample, (B,) int32, for dropout and stochastic depth (see `ktb.engine.draws`).

    Args:
        step: seed of the run, epoch, number of the batch in it.
        places: of the samples in the global batch.
    """
    return torch.tensor([mixed(*step, 1 + place) for place in places]).int()


def masking_generator(step: tuple[int, int, int]) -> np.random.Generator:
    """What the masks of a step's whole batch are drawn with, in all processes alike."""
    return np.random.default_rng(mixed(*step, 0))
