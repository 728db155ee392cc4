"""What the model receives of a stored modality."""

from __future__ import annotations

import torch

from tests.ktb.data.stand_ins import SPEC


def test_normalised_input_repeats_one_channel():
    stored = torch.full((2, 1, 4, 5), 500.0)
    out = SPEC.modalities["depth"].normalize(stored)
    assert out.shape == (2, 3, 4, 5)
    assert (out == 0.5).all()
