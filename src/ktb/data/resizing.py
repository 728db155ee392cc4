"""Pictures of one sample that differ in size, and resizing that never mixes a hole into a measured value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Array, Reading, Size
from ktb.data.augment import resize, resize_nearest
from ktb.errors import DataError

ASPECT_TOLERANCE = 0.1
"""Largest relative difference of two aspect ratios that resizing one picture to the other's size may hide."""


@dataclass(frozen=True)
class Resizing:
    """Which files of a sample may come in another size than the rest, and what is done with them.

    modalities: those that may; all others must agree in size.
    to_first: they are resized to the first modality, and so is the label in training (nearest; in evaluation it keeps
        its size). Otherwise they are resized to the label.
    smooth: bilinear, where holes have no weight; else nearest, so that no value arises that was not measured. Only
        with it the aspect ratios must agree, within `ASPECT_TOLERANCE`.
    """

    modalities: tuple[str, ...] = ()
    to_first: bool = False
    smooth: bool = False

    def __call__(self, image: Array, valid: NDArray[np.bool_] | None, size: Size) -> Reading:
        """(H, W, C), and where it is valid, at `size` (height, width)."""
        if not self.smooth:
            mask = None if valid is None else resize_nearest(valid.astype(np.uint8), size).astype(bool)
            return Reading(resize_nearest(image, size).reshape(*size, -1), mask)
        if valid is None:
            return Reading(resize(image, size))
        weighted = resize(premultiply(image, valid), size)
        values = measured_means(weighted)
        values = values if image.dtype == np.float32 else np.rint(values).astype(image.dtype)
        return Reading(values, weighted[..., -1] >= HALF)

    def check(self, size: Size, what: str, like: tuple[Size, str]) -> None:
        """Check that what is resized shows the same view.

        Args:
            size: (height, width) of something.
            what: its name, for messages.
            like: the size it must have the aspect ratio of, and what has that size.

        Raises:
            DataError: the aspect ratios differ by more than `ASPECT_TOLERANCE` and resizing is smooth.
        """
        if self.smooth and aspect_difference(size, like[0]) > ASPECT_TOLERANCE:
            raise DataError(
                f"{what} is {size[1]} x {size[0]} pixels but {like[1]} is {like[0][1]} x {like[0][0]}: another aspect "
                "ratio, so they don't show the same view; cut the larger view to the smaller one"
            )


SAME_SIZE = Resizing()
"""All files of a sample must agree in size."""


def aspect_difference(a: Size, b: Size) -> float:
    """How far the aspect ratios of two sizes differ.

    Args:
        a, b: (height, width) in pixels.

    Returns:
        The ratio of the two aspect ratios less 1; 0 where rounding to whole pixels explains the difference.
    """
    if any(abs(a[i] * b[1 - i] / a[1 - i] - b[i]) <= 1 for i in (0, 1)):
        return 0.0
    ratio = a[0] * b[1] / (a[1] * b[0])
    return max(ratio, 1 / ratio) - 1


def premultiply(image: Array, valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """An image and its mask in one array that may be interpolated.

    Interpolated as it is and divided by the interpolated mask, it gives the mean of the valid neighbours only.

    Args:
        image: (H, W, C).
        valid: (H, W) bool, False in holes.

    Returns:
        (H, W, C + 1) float32, holes 0, the mask as last channel.
    """
    mask = valid[..., None].astype(np.float32)
    return np.concatenate([np.where(valid[..., None], image, 0).astype(np.float32), mask], axis=-1)


HALF = 0.5
"""Share of measured neighbours from which on an interpolated pixel counts as measured."""


def measured_means(weighted: Array) -> Array:
    """What `premultiply` gave, interpolated → means over measured neighbours.

    Args:
        weighted: (H, W, C + 1).

    Returns:
        (H, W, C) float32, 0 where less than `HALF` of the weight was measured.
    """
    weight = weighted[..., -1:]
    return np.where(weight >= HALF, weighted[..., :-1] / np.maximum(weight, HALF), 0)
