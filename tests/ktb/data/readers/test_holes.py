"""Holes filled from the values around them."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.data.readers.holes import fill_holes
from tests.ktb.data.readers.common_checks import RNG


def test_fill_is_smooth_local_and_leaves_measurements_alone():
    rows, columns = np.mgrid[0:60, 0:80].astype(np.float32)
    ramp = (2 * rows + 3 * columns)[..., None]
    valid = RNG.random((60, 80)) < 0.3
    filled = fill_holes(ramp, valid)
    np.testing.assert_array_equal(filled[valid], ramp[valid])
    assert np.abs(filled - ramp).mean() < 4  # neighbours differ by 3
    corner = np.zeros((60, 80), bool)
    corner[:10, :10] = True
    spread = fill_holes(ramp, corner)
    assert spread.min() >= 0
    assert spread.max() <= ramp[corner].max()
    assert not fill_holes(ramp, np.zeros_like(valid)).any()


def test_one_valid_pixel_of_a_large_image_fills_it():
    image, valid = np.full((1500, 1400, 1), 7, np.uint16), np.zeros((1500, 1400), bool)
    valid[800, 10] = True
    assert (fill_holes(image, valid) == 7).all()


@pytest.mark.parametrize("channels", [4, 5, 13, 64])
def test_every_one_of_many_channels_is_filled_as_if_it_were_alone(channels: int) -> None:
    image = RNG.uniform(1, 900, (33, 41, channels)).astype(np.float32)
    valid = RNG.random((33, 41)) < 0.4
    filled = fill_holes(image, valid)
    assert filled.shape == image.shape
    for channel in range(channels):
        alone = fill_holes(image[..., channel : channel + 1], valid)
        np.testing.assert_allclose(filled[..., channel], alone[..., 0], rtol=1e-5)
