"""Resizing with holes: no value arises that was not measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ktb.data.augment import EvalTransform
from ktb.data.dataset import RGBXDataset
from ktb.data.samples import RawSample
from ktb.data.spec import ModalitySpec


class Holed:
    """A ramp from 1000 with a hole of a quarter of the image."""

    def __init__(self, dtype) -> None:
        self.dtype = dtype

    def __len__(self) -> int:
        return 1

    def read(self, index, streams):
        image = (100 + np.arange(64)[None] * np.ones((48, 1))).astype(self.dtype)
        image[10:34, 20:52] = 0
        label = np.zeros((48, 64), np.uint8)
        return RawSample({"x": image[..., None]}, label, "0", valid={"x": image > 0})


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("validity", [False, True])
def test_resizing_never_mixes_holes_into_measurements(dtype, validity):
    modality = ModalitySpec("x", channels=2 if validity else 3, scale=200.0, validity=validity)
    dataset = RGBXDataset(Holed(dtype), [modality], EvalTransform(96))
    x = dataset[0]["inputs"]["x"]
    assert x.dtype == (torch.uint8 if dtype == np.uint8 else torch.float32)
    assert x.shape == (1 + validity, 96, 128)
    values = x[0].float()
    # Twice the size: pixel j lies at (j + ½)/2 - ½ of the ramp, never between 0 and 100.
    ramp = (100 + (torch.arange(128) + 0.5) / 2 - 0.5).clamp(100, 163).expand(96, -1)
    measured = values > 0
    assert (values[measured] - ramp[measured]).abs().max() <= 1.0
    assert 0.23 < 1 - measured.float().mean() < 0.27
    assert not measured[24:64, 44:100].any()
    if validity:
        np.testing.assert_array_equal(x[1], measured * 200)
        normal = modality.normalize(x[None])
        assert sorted(normal[0, 1].unique().tolist()) == [0.0, 1.0]
