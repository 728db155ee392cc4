"""The dominating plane of a disparity map, and what sticks out of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Mask


def plane_residual(image: NDArray[np.float32], valid: Mask | None) -> NDArray[np.float32]:
    """A map minus its dominating plane a + b·row + c·column.

    Least squares over a grid of about 2500 valid pixels, repeated without those beyond 2.5 robust standard deviations
    (1.4826 times the median absolute residual), so that what sticks out of the surface does not tilt it.

    Args:
        image: (H, W) float32.
        valid: (H, W) bool, False in holes; None: no holes.

    Returns:
        (H, W) float32 in the image's unit; above the plane is positive.
    """
    height, width = image.shape
    step = max(int(np.sqrt(height * width / 2500)), 1)
    rows, columns = np.mgrid[0:height:step, 0:width:step].astype(np.float64)
    measured = np.ones(rows.shape, bool) if valid is None else valid[::step, ::step]
    if measured.sum() < 3:
        return image - np.float32(image.mean() if valid is None else image[valid].mean())
    terms = np.stack([np.ones(int(measured.sum())), rows[measured] / height, columns[measured] / width], axis=1)
    values = image[::step, ::step][measured].astype(np.float64)
    inlier = np.ones(len(values), bool)
    for _ in range(6):
        kept = terms[inlier]
        plane = np.linalg.lstsq(kept.T @ kept, kept.T @ values[inlier], rcond=None)[0]
        residual = np.abs(values - terms @ plane)
        closer = residual <= 2.5 * 1.4826 * np.median(residual[inlier])
        if closer.sum() < 3 or (closer == inlier).all():
            break
        inlier = closer
    down = plane[0] + plane[1] * np.arange(height) / height
    across = plane[2] * np.arange(width) / width
    return image - (down.astype(np.float32)[:, None] + across.astype(np.float32))
