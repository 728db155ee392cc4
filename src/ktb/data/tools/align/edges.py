"""Where two pictures of one scene agree, whatever their sensors are: by the directions of their edges.

An edge of a thing may go from dark to bright in one sensor and from bright to dark in the other, but it lies in the
same place and has the same direction. A direction without a sign is an angle taken twice, so the edges of a picture are
one complex number per pixel, and how well two pictures agree under every shift is one correlation, by Fourier
transforms.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Array, Mask
from ktb.data.readers.holes import fill_holes

Field = NDArray[np.complex64]
"""(H, W), the edges of a picture."""

SMOOTHED = 1.0
"""Standard deviation in pixels of the Gaussian before gradients are taken."""
STRONG = 3.0
"""So many times the median gradient counts half as much as the strongest edge: a few strong edges must not decide."""
BORDER, RAMP = 0.02, 0.04
"""Shares of the shorter side: left out at the borders, as pictures have frames there, and faded in next to them."""
WHITENED = 0.5
"""Exponent by which every frequency of the correlation is made equally strong: 0 not at all, 1 altogether."""
MERGED = 1.5
"""Standard deviation in pixels of the Gaussian over the correlation: sensors double or widen edges."""
AROUND = 6
"""Pixels around the best shift that are no part of the background it is compared with."""


class Peak(NamedTuple):
    """The best shift between two fields.

    Attributes:
        dx, dy: in pixels; what lies at x, y in the first field lies at x + dx, y + dy in the second.
        height: of the correlation there.
        strength: its height above the mean of all other shifts, in their standard deviations; 3 to 4 by chance.
        uncertainty: standard deviation of dx and dy, the larger one, in pixels.
    """

    dx: float
    dy: float
    height: float
    strength: float
    uncertainty: float


NOWHERE = Peak(0.0, 0.0, 0.0, 0.0, float("inf"))
"""No shift is better than others."""


def edges(image: Array, valid: Mask | None = None) -> Field:
    """Strength and direction of the edges of a picture; the sign of the contrast does not matter.

    Args:
        image: (H, W) or (H, W, C), finite where valid.
        valid: (H, W), False in holes, whose rims are no edges; None: there are none.

    Returns:
        (H, W): the angle of the gradient, taken twice, as the angle of a complex number of magnitude 0 to 1; its mean
        is 0, as are the borders and the surroundings of holes.
    """
    image = np.atleast_3d(image)
    inside = np.ones(image.shape[:2], np.uint8)
    if valid is not None and not valid.all():
        image, inside = fill_holes(image, valid), valid.astype(np.uint8)
    squared = np.zeros(image.shape[:2], np.complex64)
    for channel in range(image.shape[2]):
        smooth = cv2.GaussianBlur(image[..., channel].astype(np.float32), (0, 0), SMOOTHED)
        squared += (cv2.Scharr(smooth, cv2.CV_32F, 1, 0) + 1j * cv2.Scharr(smooth, cv2.CV_32F, 0, 1)) ** 2
    magnitude = np.sqrt(np.abs(squared))
    reach = 2 * int(np.ceil(3 * SMOOTHED)) + 1
    window = cv2.erode(inside, np.ones((reach, reach), np.uint8), borderType=cv2.BORDER_REPLICATE) * _frame(
        (image.shape[0], image.shape[1])
    )
    weight = float(window.sum())
    looked_at = magnitude[window > 0]
    usual = STRONG * float(np.median(looked_at)) if weight else 0.0
    usual = usual or (float(looked_at.mean()) if weight else 0.0)
    if usual == 0.0:
        return np.zeros(magnitude.shape, np.complex64)
    field = squared / (np.maximum(magnitude, 1e-6 * usual) * (magnitude + usual))
    return np.asarray((field - (field * window).sum() / weight) * window, np.complex64)


def _frame(size: tuple[int, int]) -> NDArray[np.float32]:
    """(H, W) weights: 0 at the borders, 1 further inside."""
    shorter = min(size)
    left_out, ramp = round(BORDER * shorter) + int(np.ceil(3 * SMOOTHED)), max(4.0, RAMP * shorter)

    def along(length: int) -> NDArray[np.float32]:
        inward = np.arange(length, dtype=np.float32) + 0.5
        inward = np.minimum(inward, inward[::-1])
        return np.clip((inward - left_out) / ramp, 0, 1)

    return np.outer(along(size[0]), along(size[1]))


class Correlator:
    """One field, ready to be compared with others of the same size under every shift up to `reach` pixels.

    Args:
        field: what `edges` gave.
        reach: largest shift in pixels.
    """

    def __init__(self, field: Field, reach: int) -> None:
        self.reach = reach
        height, width = (cv2.getOptimalDFTSize(n + reach) for n in field.shape)
        rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
        self._low_pass = np.exp(-2 * np.pi**2 * MERGED**2 * (rows**2 + columns**2)).astype(np.float32)
        self._spectrum = np.conj(np.fft.fft2(field, (height, width)))

    def surface(self, other: Field) -> NDArray[np.float32]:
        """How well `other` agrees under each shift.

        Args:
            other: (H, W) as the field.

        Returns:
            (2 · reach + 1, 2 · reach + 1): at [reach + dy, reach + dx] the agreement for the shift (dx, dy).
        """
        product = self._spectrum * np.fft.fft2(other, self._spectrum.shape)
        strength = np.abs(product)
        product *= self._low_pass / (strength + 1e-3 * strength.mean() + np.finfo(np.float32).tiny) ** WHITENED
        shifts = np.arange(-self.reach, self.reach + 1)
        found: NDArray[np.float32] = np.fft.ifft2(product).real[np.ix_(shifts, shifts)].astype(np.float32)
        return found


def peak(surface: NDArray[np.float32]) -> Peak:
    """The shift at which a surface is highest, to a fraction of a pixel.

    Args:
        surface: what `Correlator.surface` gave, or a sum of several.

    Returns:
        The best shift; `NOWHERE` where the surface is highest at its border or is the same everywhere.
    """
    reach = surface.shape[0] // 2
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    if min(row, column) < 1 or max(row, column) >= 2 * reach:
        return NOWHERE
    background = np.ones(surface.shape, bool)
    background[max(0, row - AROUND) : row + AROUND + 1, max(0, column - AROUND) : column + AROUND + 1] = False
    mean, noise = float(surface[background].mean()), float(surface[background].std())
    if noise == 0:
        return NOWHERE
    # a + bx + cy + dx² + ey² + fxy, fitted to the peak and its eight neighbours.
    y, x = (n.ravel() for n in np.mgrid[-1:2, -1:2])
    terms = np.stack([np.ones(9), x, y, x**2, y**2, x * y], axis=1)
    near = surface[row - 1 : row + 2, column - 1 : column + 2].astype(np.float64).ravel()
    _, b, c, d, e, f = np.linalg.lstsq(terms, near, rcond=None)[0]
    bend = np.array([[2 * d, f], [f, 2 * e]])
    if np.linalg.eigvalsh(bend)[1] >= 0:  # flat in one direction
        return NOWHERE
    inverse = np.linalg.inv(bend)
    dx, dy = np.clip(-inverse @ (b, c), -1, 1)
    # The background's slope moves the top by slope / bend; it varies over about MERGED pixels.
    uncertainty = noise / (np.sqrt(2) * MERGED) * float(np.sqrt((inverse @ inverse).diagonal().max()))
    height = float(surface[row, column])
    return Peak(column - reach + float(dx), row - reach + float(dy), height, (height - mean) / noise, uncertainty)
