"""Resizing as tensor operations gives cv2's numbers, for sizes of every kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from ktb.data.arrays import Array, Size
from ktb.export.graph_resizing import halved, linear, linear_bytes, nearest


def sizes() -> Iterator[tuple[Size, Size]]:
    """Pairs of sizes: any, to the half, the double, a third, along one side only, of one row."""
    rng = np.random.default_rng(0)
    for i in range(60):
        size = tuple(int(v) for v in rng.integers(1, 8, 2) * 32)
        source = tuple(int(v) for v in rng.integers(2, 160, 2))
        if i % 6 == 1:
            source = (2 * size[0], 2 * size[1])
        elif i % 6 == 2:
            source = (size[0], source[1])
        elif i % 6 == 3:
            source = (3 * size[0], 2 * size[1])
        elif i % 6 == 4:
            source = (size[0] // 2, size[1] // 2)
        elif i % 30 == 5:
            source = (1, source[1])
        yield (source[0], source[1]), (size[0], size[1])


def resized(function: Callable[[Tensor, Size], Tensor], picture: Array, size: Size) -> Array:
    x = torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)
    return function(x, size).permute(1, 2, 0).numpy()


def test_bytes_and_the_nearest_pixel_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    for source, size in sizes():
        picture = rng.integers(0, 256, (*source, 3)).astype(np.uint8)
        for function, kind in ((linear_bytes, cv2.INTER_LINEAR), (nearest, cv2.INTER_NEAREST_EXACT)):
            expected = cv2.resize(picture, size[::-1], interpolation=kind)
            np.testing.assert_array_equal(resized(function, picture, size), expected, err_msg=f"{source} → {size}")


def test_floats_up_to_the_order_of_additions() -> None:
    rng = np.random.default_rng(2)
    for source, size in sizes():
        picture = rng.random((*source, 3), dtype=np.float32)
        expected = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
        bound = 3e-7 if source[0] > 1 else 1e-5  # one row cv2 resizes in a way of its own
        np.testing.assert_allclose(resized(linear, picture, size), expected, atol=bound, err_msg=f"{source} → {size}")


@pytest.mark.parametrize("size", [(480, 640), (45, 60), (7, 9), (15, 20), (3, 2), (2, 1), (1, 5), (480, 41)])
def test_half_the_size(size: Size) -> None:
    picture = np.random.default_rng(3).random((*size, 2), dtype=np.float32)
    half = ((size[1] + 1) // 2, (size[0] + 1) // 2)
    expected = cv2.resize(picture, half, interpolation=cv2.INTER_AREA).reshape(half[1], half[0], 2)
    np.testing.assert_allclose(resized(lambda x, _: halved(x), picture, size), expected, atol=3e-7)
