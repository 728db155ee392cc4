"""Shift and scale between pictures of different sensors, of scenes in which both are known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ktb.data.scenes.draw import draw
from ktb.data.scenes.scene import sample_scene
from ktb.data.tools.align.offset import Offset, displacement, find_offset

MARGIN = 16


def moved(image, dx=0.0, dy=0.0, scale=1.0, flags=cv2.INTER_LINEAR):
    """An image whose content is scaled about its centre and moved to the right and down."""
    height, width = image.shape[:2]
    cx, cy = (width - 1) / 2, (height - 1) / 2
    matrix = np.array([[scale, 0, cx - scale * cx + dx], [0, scale, cy - scale * cy + dy]])
    return cv2.warpAffine(image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE)


def inner(image):
    return image[MARGIN:-MARGIN, MARGIN:-MARGIN]


@pytest.fixture(scope="module")
def scene():
    """A scene with depth (float, holes 0) and where it was measured."""
    drawn = draw(sample_scene(5, 0), 240, 320)
    return drawn.rgb, drawn.depth.astype(np.float32), drawn.depth > 0


def offset_of(rgb, depth, valid, **how):
    shown = moved(valid.astype(np.uint8), **how, flags=cv2.INTER_NEAREST) > 0
    return find_offset(inner(rgb), inner(moved(depth, **how)), inner(shown))


@pytest.fixture(scope="module")
def still(scene):
    return offset_of(*scene)


def test_a_scene_that_lines_up_is_found_so(still):
    assert still.reliable
    assert still.displacement < 1.0
    assert still.scale == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize(("dx", "dy"), [(0.5, 0), (0, -1), (-2, 2), (4, 0), (0, -8), (-12, 12), (12, -0.5)])
def test_shifts_are_found_to_a_quarter_of_a_pixel(scene, still, dx, dy):
    found = offset_of(*scene, dx=dx, dy=dy)
    assert found.reliable
    assert (found.dx - still.dx, found.dy - still.dy) == pytest.approx((dx, dy), abs=0.25)


@pytest.mark.parametrize("scale", [0.9, 0.97, 1.05, 1.12])
def test_scales_are_found_beside_shifts(scene, scale):
    found = offset_of(*scene, dx=3, dy=-2, scale=scale)
    assert found.reliable
    assert found.scale == pytest.approx(scale, abs=0.01)
    assert (found.dx, found.dy) == pytest.approx((3, -2), abs=1.0)


def test_the_sign_of_the_contrast_does_not_matter(scene):
    grey = scene[0].mean(axis=2).astype(np.float32)
    same, inverted = (
        find_offset(inner(scene[0]), inner(moved(image, dx=5.5, dy=-3.25))) for image in (grey, 255 - grey)
    )
    assert (same.dx, same.dy, same.scale) == pytest.approx((5.5, -3.25, 1), abs=0.1)
    assert (inverted.dx, inverted.dy) == pytest.approx((same.dx, same.dy), abs=0.02)


def test_holes_that_do_not_move_with_the_scene_do_not_count(scene):
    rgb, depth, _ = scene
    rng = np.random.default_rng(0)
    valid = np.ones(depth.shape, bool)
    for row, column in rng.integers(0, 200, (25, 2)):
        valid[row : row + 14, column : column + 14] = False
    holes_alone = find_offset(np.where(valid[..., None], rgb, 0), np.where(valid, moved(depth, dx=6), 0), valid, valid)
    whole = find_offset(rgb, moved(depth, dx=6))
    assert holes_alone.reliable
    assert (holes_alone.dx, holes_alone.dy) == pytest.approx((whole.dx, whole.dy), abs=0.5)


def test_the_result_is_in_pixels_of_large_pictures_too(scene):
    large = [cv2.resize(a, (1120, 840), interpolation=cv2.INTER_CUBIC) for a in scene[:2]]
    found = find_offset(large[0], moved(large[1], dx=20, dy=10))
    assert found.size == (840, 1120)
    assert (found.dx, found.dy) == pytest.approx((20, 10), abs=3)


def test_chance_is_not_believed():
    rng = np.random.default_rng(1)
    believed = []
    for _ in range(20):
        first, other = (cv2.GaussianBlur(rng.standard_normal((72, 96)).astype(np.float32), (0, 0), 3) for _ in "ab")
        believed.append(find_offset(first, other).reliable)
    assert believed == [False] * 20


@pytest.mark.parametrize("size", [(96, 128), (20, 30), (64, 50)])
def test_pictures_without_edges_say_nothing(size):
    found = find_offset(np.zeros((*size, 3), np.uint8), np.full(size, 7, np.uint16), np.zeros(size, bool))
    assert (found.strength, found.reliable, found.displacement) == (0, False, 0)


def test_displacement_and_matrix_agree():
    size = (30, 40)
    offset = Offset(2.0, -1.0, 1.1, 9.0, 0.1, size)
    y, x = np.mgrid[:30, :40]
    there = np.stack([x, y, np.ones_like(x)], axis=-1) @ offset.matrix().T
    away = there - np.stack([x, y], axis=-1)
    assert displacement(2.0, -1.0, 1.1, size) == pytest.approx(np.sqrt((away**2).sum(axis=-1).mean()), rel=2e-3)
    assert offset.displacement == displacement(2.0, -1.0, 1.1, size)
