"""Where a sensor measured nothing: holes filled from the values around them."""

from __future__ import annotations

import cv2
import numpy as np

from ktb.data.arrays import Array, Mask


def fill_holes(image: Array, valid: Mask) -> Array:
    """Holes of (H, W, C) filled smoothly from the valid pixels around them, which stay as they are; all 0 if none is.

    Push-pull: means over valid pixels on coarser and coarser grids, then back, each hole taking the finest grid that
    has a value. Linear in the number of pixels, whatever the size of the holes.
    """
    if not valid.any():
        return np.zeros_like(image)
    filled = _push_pull(np.where(valid[..., None], image, 0).astype(np.float32), valid.astype(np.float32))
    if image.dtype != np.float32:
        filled = np.rint(filled)
    return np.where(valid[..., None], image, filled.astype(image.dtype))


def _push_pull(image: Array, weight: Array) -> Array:
    """Fill where weight is 0; image is premultiplied by weight, the result is not."""
    height, width, channels = image.shape
    known = (weight > 0)[..., None]
    values = np.divide(image, weight[..., None], out=np.zeros_like(image), where=known)
    if known.all():
        return values
    half = ((width + 1) // 2, (height + 1) // 2)
    coarse = _push_pull(
        cv2.resize(image, half, interpolation=cv2.INTER_AREA).reshape(half[1], half[0], channels),
        cv2.resize(weight, half, interpolation=cv2.INTER_AREA),
    )
    fine = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR).reshape(image.shape)
    return np.where(known, values, fine)
