"""Where a sensor measured nothing: holes filled from the values around them."""

from __future__ import annotations

import cv2
import numpy as np

from ktb.data.arrays import Array, Mask


def fill_holes(image: Array, valid: Mask) -> Array:
    """Fill holes smoothly from the valid pixels around them.

    Means over valid pixels are taken on coarser and coarser grids; on the way back each hole takes the finest grid that
    has a value. The time is linear in the number of pixels, whatever the size of the holes.

    Args:
        image: (H, W, C).
        valid: (H, W) bool, False in holes.

    Returns:
        (H, W, C) of the same type; valid pixels as they were; all 0 if there is no valid pixel.
    """
    if not valid.any():
        return np.zeros_like(image)
    filled = _push_pull(np.where(valid[..., None], image, 0).astype(np.float32), valid.astype(np.float32))
    if image.dtype != np.float32:
        filled = np.rint(filled)
    return np.where(valid[..., None], image, filled.astype(image.dtype))


def _push_pull(image: Array, weight: Array) -> Array:
    """Values where the weight is 0 from those where it is not.

    Args:
        image: (H, W, C) float32, multiplied by the weight already.
        weight: (H, W) float32.

    Returns:
        (H, W, C) float32, no longer multiplied by the weight.
    """
    height, width, _ = image.shape
    known = (weight > 0)[..., None]
    values = np.divide(image, weight[..., None], out=np.zeros_like(image), where=known)
    if known.all():
        return values
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse = _push_pull(
        _halved(image, half),
        cv2.resize(weight, half, interpolation=cv2.INTER_AREA),
    )
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(image.shape)
    return np.where(known, values, fine)


def _halved(image: Array, size: tuple[int, int]) -> Array:
    """(H, W, C) at half the size (width, height)."""
    channels = range(0, image.shape[2], 4)  # OpenCV averages areas of four channels at most
    parts = [cv2.resize(image[..., c : c + 4], size, interpolation=cv2.INTER_AREA) for c in channels]
    return np.concatenate([part.reshape(size[1], size[0], -1) for part in parts], axis=2)
