"""Pixels to rays and back, with lenses of every kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ktb.data.tools.align.camera import LensCamera
from ktb.errors import DataError

MATRIX = np.array([[300.0, 0, 158], [0, 310, 121], [0, 0, 1]])
SIZE = (240, 320)
FILE = Path("rig.yml")


@pytest.mark.parametrize(
    "lens",
    [
        {},
        {"distortion": np.array([-0.3, 0.12, 0.001, -0.002])},
        {"distortion": np.array([0.5, -2.4, 0.0008, -0.0001, 1.5, 0.4, -2.2, 1.4])},
        {"distortion": np.array([0.02, -0.01, 0.003, -0.001]), "fisheye": True},
        {"distortion": np.array([-0.05, 0.06, 0.0005, 0.0001, -0.02]), "inverse": True},
    ],
)
def test_rays_and_pixels_are_inverse(lens):
    camera = LensCamera(MATRIX, size=SIZE, **lens)
    y, x = np.mgrid[0:240:20, 0:320:20].reshape(2, -1).astype(float)
    pixels = np.stack([x, y], axis=1)
    points = np.concatenate([camera.rays(pixels), np.ones((len(x), 1))], axis=1) * 2.5
    np.testing.assert_allclose(camera.pixels(points), pixels, atol=0.02)


def test_the_inverse_model_undistorts_by_its_polynomial():
    camera = LensCamera(MATRIX, np.array([0.1, 0, 0, 0, 0]), SIZE, inverse=True)
    x, y = 0.4, 0.2
    ray = camera.rays(np.array([[158 + 300 * x, 121 + 310 * y]]))
    np.testing.assert_allclose(ray, [[x * (1 + 0.1 * 0.2), y * (1 + 0.1 * 0.2)]])  # r² = 0.2


def test_what_a_camera_cannot_see():
    camera = LensCamera(MATRIX, np.array([-0.3, 0.05, 0, 0]), SIZE)
    found = camera.pixels(np.array([[0.0, 0, 1], [0, 0, -1], [3.0, 0, 1]]))
    np.testing.assert_allclose(found[0], [158, 121])
    assert np.isnan(found[1:]).all()  # behind it; and where the polynomial has turned back into the picture


def test_scaled_with_the_whole_picture():
    camera = LensCamera(MATRIX, size=SIZE).fitted(FILE, "first", (480, 640), scale_camera=True)
    np.testing.assert_allclose(camera.matrix, [[600, 0, 316.5], [0, 620, 242.5], [0, 0, 1]])
    assert camera.size == (480, 640)


@pytest.mark.parametrize(
    ("camera", "size", "message"),
    [
        (LensCamera(MATRIX, size=SIZE), (480, 640), "holds for pictures of 240x320 .* are 480x640; .*--scale-camera"),
        (LensCamera(MATRIX), (100, 100), r"looks through pixel \(158.0, 121.0\), outside"),
        (LensCamera(np.zeros((3, 3))), SIZE, "the matrix of the first camera .* none of a camera"),
    ],
)
def test_cameras_that_do_not_fit(camera, size, message):
    with pytest.raises(DataError, match=f"rig.yml: .*{message}"):
        camera.fitted(FILE, "first", size, scale_camera=False)
