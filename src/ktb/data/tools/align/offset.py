"""How far a picture is shifted and scaled against that of another sensor."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Array, Mask, Size
from ktb.data.tools.align.edges import NOWHERE, Correlator, Field, Peak, edges, peak

LONGEST = 768
"""Pixels of a side of the pictures that are compared; larger ones are made smaller first."""
SHORTEST = 48
"""Pixels of a side below which nothing is found."""
REACH, REACH_PIXELS = 0.1, 16
"""Largest shift that is found: the share of the longer side, and at least so many pixels."""
SCALES = 0.15
"""Largest difference in scale that is looked for."""
BETTER = 1.1
"""Another scale must agree so many times better than scale 1."""
TURNS, SETTLED = 6, 0.05
"""Refinements at most; pixels below which no further one is needed."""
STRENGTH = 6.0
"""Least strength of a peak that is believed."""
UNCERTAINTY = 1.0
"""Pixels by which a believed shift may be uncertain."""


@dataclass(frozen=True)
class Offset:
    """Where a picture lies against the first one: what is at p in the first is at c + scale · (p - c) + (dx, dy).

    Attributes:
        dx, dy: to the right and down, in pixels of the first picture; c is its centre.
        scale: above 1 where things are larger than in the first picture.
        strength: of the agreement, above that of other shifts, in standard deviations; by chance 3 to 5.
        uncertainty: standard deviation of dx and dy in pixels.
        size: (height, width) of the pictures.
    """

    dx: float
    dy: float
    scale: float
    strength: float
    uncertainty: float
    size: Size

    @property
    def reliable(self) -> bool:
        """Whether it is more than chance."""
        return self.strength >= STRENGTH and self.uncertainty <= UNCERTAINTY

    @property
    def displacement(self) -> float:
        """Root mean square distance, over the picture, between where things are and where they should be, in pixels."""
        return displacement(self.dx, self.dy, self.scale, self.size)

    def matrix(self) -> NDArray[np.float64]:
        """(2, 3): pixel of the first picture → pixel of this one."""
        return _similarity(self.dx, self.dy, self.scale, self.size)


def displacement(dx: float, dy: float, scale: float, size: Size) -> float:
    """As `Offset.displacement`.

    Args:
        dx, dy, scale, size: as in `Offset`.
    """
    return float(np.sqrt(dx**2 + dy**2 + (scale - 1) ** 2 * (size[0] ** 2 + size[1] ** 2) / 12))


def find_offset(first: Array, other: Array, valid: Mask | None = None, first_valid: Mask | None = None) -> Offset:
    """Estimate shift and scale of a picture against another of the same size, of whatever sensors they are.

    Args:
        first: (H, W) or (H, W, C).
        other: (H, W) or (H, W, C).
        valid: (H, W), False where `other` has holes; None: it has none.
        first_valid: the same for `first`.

    Returns:
        The estimate; strength 0 where nothing can be said, as of pictures without edges.
    """
    size = (other.shape[0], other.shape[1])
    if min(size) < SHORTEST:
        return Offset(0.0, 0.0, 1.0, 0.0, float("inf"), size)
    shrink = max(size) / LONGEST
    if shrink > 1:
        smaller = (round(size[0] / shrink), round(size[1] / shrink))
        found = find_offset(
            _shrunk(first, smaller), _shrunk(other, smaller), _kept(valid, smaller), _kept(first_valid, smaller)
        )
        return Offset(
            found.dx * shrink, found.dy * shrink, found.scale, found.strength, found.uncertainty * shrink, size
        )
    field = edges(first, first_valid)
    scale = _rough_scale(field, edges(other, valid))
    correlator = Correlator(field, _reach(size))
    # One shift at first, then shift and scale together: a picture moved by what is known overlaps the first one well.
    best, dx, dy = NOWHERE, 0.0, 0.0
    step = 4.0 / float(np.hypot(*size))  # moves the corners by 2 pixels
    for turn in range(TURNS):
        tried = [scale] if turn == 0 else [scale * (1 - step), scale, scale * (1 + step)]
        peaks = [_moved_peak(correlator, other, valid, _similarity(dx, dy, s, size)) for s in tried]
        if NOWHERE in peaks:
            return Offset(0.0, 0.0, 1.0, 0.0, float("inf"), size)
        best = peaks[len(peaks) // 2]
        by = step * _top(*(p.height for p in peaks)) if turn else 0.0
        dx, dy, scale = dx + scale * best.dx, dy + scale * best.dy, scale * (1.0 + by)
        if turn and max(abs(by) / step, abs(best.dx), abs(best.dy)) < SETTLED:
            break
    return Offset(dx, dy, scale, best.strength, best.uncertainty, size)


def _reach(size: Size) -> int:
    return max(REACH_PIXELS, round(REACH * max(size)))


def _similarity(dx: float, dy: float, scale: float, size: Size) -> NDArray[np.float64]:
    """(2, 3): p → c + scale · (p - c) + (dx, dy), c the centre of a picture of that size."""
    y, x = ((n - 1) / 2 for n in size)
    return np.array([[scale, 0, x - scale * x + dx], [0, scale, y - scale * y + dy]])


def _moved_peak(correlator: Correlator, other: Array, valid: Mask | None, matrix: NDArray[np.float64]) -> Peak:
    """The best shift of `other` after it was moved back by `matrix`."""
    height, width = other.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    seen = np.ones((height, width), np.uint8) if valid is None else valid.astype(np.uint8)
    moved_valid = cv2.warpAffine(seen, matrix, (width, height), flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    known = other if valid is None else np.where(valid.reshape(height, width, *(1,) * (other.ndim - 2)), other, 0)
    moved = cv2.warpAffine(known.astype(np.float32), matrix, (width, height), flags=flags)
    return peak(correlator.surface(edges(moved.reshape(other.shape), moved_valid)))


def _top(low: float, middle: float, high: float) -> float:
    """Where the parabola through values at -1, 0 and 1 is highest, within -2 to 2."""
    bend = low - 2 * middle + high
    if bend >= 0:
        return 1.0 if high > low else -1.0
    return float(np.clip(0.5 * (low - high) / bend, -2, 2))


def _rough_scale(field: Field, other: Field) -> float:
    """The scale at which two fields agree best, of steps of about 1.5 %; 1 if no other is clearly better."""
    half = (field.shape[1] // 2, field.shape[0] // 2)
    small, moved = (_resized(f, half) for f in (field, other))
    correlator = Correlator(small, _reach(half))
    steps = int(np.log1p(SCALES) / np.log(1.015))
    scales = 1.015 ** np.arange(-steps, steps + 1)
    heights = [float(correlator.surface(_scaled(moved, float(s))).max()) for s in scales]
    best = int(np.argmax(heights))
    return float(scales[best]) if heights[best] > BETTER * heights[steps] else 1.0


def _resized(field: Field, size: tuple[int, int]) -> Field:
    return _as_field(cv2.resize(_as_planes(field), size, interpolation=cv2.INTER_AREA))


def _scaled(field: Field, scale: float) -> Field:
    matrix = _similarity(0, 0, scale, (field.shape[0], field.shape[1]))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return _as_field(cv2.warpAffine(_as_planes(field), matrix, field.shape[::-1], flags=flags))


def _as_planes(field: Field) -> Array:
    """(H, W) complex → (H, W, 2), real and imaginary part."""
    return np.ascontiguousarray(field).view(np.float32).reshape(*field.shape, 2)


def _as_field(planes: Array) -> Field:
    return np.ascontiguousarray(planes).view(np.complex64)[..., 0]


def _shrunk(image: Array, size: Size) -> Array:
    kind = image if image.dtype in (np.uint8, np.uint16) else image.astype(np.float32)
    return cv2.resize(kind, size[::-1], interpolation=cv2.INTER_AREA)


def _kept(valid: Mask | None, size: Size) -> Mask | None:
    """A mask made smaller: False wherever a pixel of it was."""
    if valid is None:
        return None
    return cv2.resize(valid.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) >= 1
