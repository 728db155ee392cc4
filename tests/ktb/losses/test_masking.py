from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from ktb.losses.masking import draw_masks


def test_masks_of_the_published_batch_of_four() -> None:
    """B = 4, two modalities: always one sample without RGB and another one without X."""
    for seed in range(50):
        masks = draw_masks(2, 4, np.random.default_rng(seed))
        assert masks.sum(1).tolist() == [1, 1]
        assert masks.sum(0).max() == 1


@pytest.mark.parametrize(("modalities", "batch"), [(2, 1), (2, 3), (3, 4), (3, 7), (4, 2), (2, 16)])
def test_mask_statistics(modalities: int, batch: int) -> None:
    draws = 4000
    generator = np.random.default_rng(0)
    counts: Counter[int] = Counter()
    per_cell = torch.zeros(modalities, batch)
    for _ in range(draws):
        masks = draw_masks(modalities, batch, generator)
        assert masks.sum(0).max() <= 1  # a sample never loses more than one modality
        per_modality = masks.sum(1)
        assert per_modality.max() - per_modality.min() <= 1  # dealt out in turn
        counts[int(masks.sum())] += 1
        per_cell += masks
    half = batch // 2
    assert set(counts) == ({half} if batch % 2 == 0 else {half, half + 1})
    if batch % 2:
        assert counts[half + 1] / draws == pytest.approx(0.5, abs=0.03)
    # every sample and every modality equally often: B/2 masked samples on average
    expected = draws * (batch / 2) / (batch * modalities)
    assert torch.allclose(per_cell, torch.full_like(per_cell, expected), rtol=0.15)


def test_one_modality_is_never_masked() -> None:
    assert not draw_masks(1, 5, np.random.default_rng(0)).any()
