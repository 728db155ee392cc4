"""Pictures of one camera in the view of another: depth by its own points, others by depth or by a homography."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ktb.data.arrays import Array, Mask, Size
from ktb.data.resizing import HALF, measured_means, premultiply
from ktb.data.tools.align.calibration import Calibration
from ktb.data.tools.align.camera import Doubles, LensCamera

FINEST = 16
"""Points per side at most that stand for one pixel."""
SAME_SURFACE = 0.02
"""Relative difference in depth up to which two points lie on one surface."""


class Warped(NamedTuple):
    """A picture in another view.

    Attributes:
        image: (H, W) or (H, W, C), of the type it had; 0 where nothing was measured.
        valid: (H, W), False where nothing was measured.
    """

    image: Array
    valid: Mask


def depth_in_first(depth: Doubles, calibration: Calibration, size: Size) -> Doubles:
    """A depth map of the other camera as the first camera would have measured it; the nearest surface wins.

    Args:
        depth: (H, W) in metres along the optical axis; not positive or not finite where nothing was measured.
        calibration: of both cameras.
        size: (height, width) of the first camera's pictures.

    Returns:
        (height, width) in metres along the first camera's axis; 0 where nothing is known.
    """
    return _splat(depth, calibration.other, calibration.first, calibration.rotation, calibration.translation, size)


def where_in_other(depth: Doubles, calibration: Calibration, size: Size) -> Doubles:
    """Where the other camera sees what the first one sees in each pixel.

    Args:
        depth: (H, W) of the first camera, as `depth_in_first` gives it.
        calibration: of both cameras.
        size: (height, width) of the other camera's pictures.

    Returns:
        (H, W, 2) x and y in the other camera's pictures; NaN where depth is not known, where the place lies outside,
        and where something nearer hides it from the other camera.
    """
    rotation, translation = calibration.inverse()
    rows, columns = np.nonzero(_measured(depth))
    points = _points(calibration.first, np.stack([columns, rows], axis=1).astype(float), depth[rows, columns])
    points = points @ rotation.T + translation
    pixels = calibration.other.pixels(points)
    nearest = _splat(depth, calibration.first, calibration.other, rotation, translation, size)
    inside = _inside(pixels, size)
    column, row = np.rint(pixels[inside]).astype(int).T
    shown = nearest[row, column]
    inside[inside] = (shown == 0) | (points[inside, 2] <= shown * (1 + SAME_SURFACE))
    found = np.full((*depth.shape, 2), np.nan)
    found[rows[inside], columns[inside]] = pixels[inside]
    return found


def sample(image: Array, valid: Mask | None, places: Doubles, *, nearest: bool) -> Warped:
    """The values of a picture at places between its pixels.

    Args:
        image: (H, W) or (H, W, C).
        valid: (H, W), False in its holes, which are never mixed into other values; None: it has none.
        places: (height, width, 2), x first; NaN: nowhere.
        nearest: take the nearest pixel, as of ids and depth; else between four pixels, linearly.

    Returns:
        The values at the places.
    """
    known = np.isfinite(places).all(axis=-1)
    x, y = (np.where(known, places[..., i], -1e6).astype(np.float32) for i in (0, 1))
    mask = np.ones(image.shape[:2], bool) if valid is None else valid
    pixels = image.reshape(*image.shape[:2], -1)
    if nearest:
        # OpenCV rounds places to 1/32 pixel and has no remapping of all types; whole numbers need neither.
        column, row = np.rint(x).astype(int), np.rint(y).astype(int)
        seen = known & (column >= 0) & (column < image.shape[1]) & (row >= 0) & (row < image.shape[0])
        row, column = np.where(seen, row, 0), np.where(seen, column, 0)
        seen &= mask[row, column]
        values = np.where(seen[..., None], pixels[row, column], np.zeros((), image.dtype))
        return Warped(values.reshape(*places.shape[:2], *image.shape[2:]), seen)
    weighted = premultiply(pixels, mask)
    planes = [
        cv2.remap(weighted[..., i], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        for i in range(weighted.shape[2])
    ]
    moved = np.stack(planes, axis=-1)
    seen = moved[..., -1] >= HALF
    values = measured_means(moved)
    if image.dtype.kind in "iu":
        limits = np.iinfo(image.dtype)
        values = np.clip(np.rint(values), limits.min, limits.max)
    return Warped(values.astype(image.dtype).reshape(*places.shape[:2], *image.shape[2:]), seen)


def by_homography(homography: Doubles, size: Size) -> Doubles:
    """Where each pixel of the first picture lies in the other one.

    Args:
        homography: (3, 3), pixel of the other picture → pixel of the first.
        size: (height, width) of the first picture.

    Returns:
        (height, width, 2), x first; NaN where the plane lies behind the camera.
    """
    back = np.linalg.inv(homography)
    y, x = np.indices(size, dtype=np.float64)
    place = np.stack([x, y, np.ones(size)], axis=-1) @ back.T
    ahead = place[..., 2:] * np.sign(back[2, 2] or 1.0) > 1e-9
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(ahead, place[..., :2] / place[..., 2:], np.nan)


def _measured(depth: Doubles) -> Mask:
    return np.isfinite(depth) & (depth > 0)


def _inside(pixels: Doubles, size: Size) -> Mask:
    x, y = pixels[:, 0], pixels[:, 1]  # a comparison with NaN is false
    return (x >= -0.5) & (x < size[1] - 0.5) & (y >= -0.5) & (y < size[0] - 0.5)


def _points(camera: LensCamera, pixels: Doubles, depth: Doubles) -> Doubles:
    """(N, 3) points in the camera's coordinates."""
    rays = camera.rays(pixels)
    return np.concatenate([rays, np.ones((len(rays), 1))], axis=1) * depth[:, None]


def _splat(depth: Doubles, source: LensCamera, target: LensCamera, rotation: Doubles, translation: Doubles,
           size: Size) -> Doubles:  # fmt: skip
    """The depth of `source` in the view of `target`: of all points that fall into a pixel the nearest; 0: none.

    A pixel is a small square of the scene, so several points stand for it: with one alone a surface would have gaps
    where the target has the finer pixels or looks at a slant, through which one sees what is behind.
    """
    rows, columns = np.nonzero(_measured(depth))
    result = np.zeros(size)
    fine = int(np.clip(np.ceil(2 * target.focal / source.focal), 2, FINEST))
    steps = (np.arange(fine) + 0.5) / fine - 0.5
    nearest = np.full(size[0] * size[1], np.inf)
    for down in steps:
        for right in steps:
            pixels = np.stack([columns + right, rows + down], axis=1)
            points = _points(source, pixels, depth[rows, columns]) @ rotation.T + translation
            place = target.pixels(points)
            inside = _inside(place, size)
            column, row = np.rint(place[inside]).astype(int).T
            z = points[inside, 2]
            far_to_near = np.argsort(-z)  # of several values for one element the last is kept
            flat = (row * size[1] + column)[far_to_near]
            found = np.full(size[0] * size[1], np.inf)
            found[flat] = z[far_to_near]
            np.minimum(nearest, found, out=nearest)
    known = np.isfinite(nearest)
    result.ravel()[known] = nearest[known]
    return result
