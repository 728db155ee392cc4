"""A camera with lens distortion: pixels to rays and points to pixels, as OpenCV defines them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ktb.data.arrays import Size
from ktb.errors import DataError

Doubles = NDArray[np.float64]

TOO_MUCH = 1e15
"""From here on a number is none of a calibration's, whatever its unit."""
STEPS, CLOSE = 10, 1e-6
"""Refinements of an undistorted ray at most, and the error (at distance 1) below which none is needed."""


@dataclass(frozen=True)
class LensCamera:
    """A camera by its matrix and the coefficients of its lens; whole numbers are the centres of pixels.

    Args:
        matrix: (3, 3) with focal lengths and principal point in pixels.
        distortion: coefficients in OpenCV's order (k1, k2, p1, p2, k3, ...), 0 to 14 of them; 4 of a fisheye lens.
        size: (height, width) of the pictures that the matrix holds for; None: not known.
        fisheye: the lens follows OpenCV's fisheye model.
        inverse: the coefficients lead from distorted to undistorted coordinates, as RealSense's inverse Brown-Conrady.
    """

    matrix: Doubles
    distortion: Doubles = field(default_factory=lambda: np.zeros(0))
    size: Size | None = None
    fisheye: bool = False
    inverse: bool = False

    @property
    def focal(self) -> float:
        """Mean focal length in pixels."""
        return float(np.sqrt(abs(self.matrix[0, 0] * self.matrix[1, 1])))

    def rays(self, pixels: Doubles) -> Doubles:
        """Pixels (N, 2), x first → directions (N, 2): x and y at distance 1."""
        if self.inverse and self.distortion.any():
            return self._distorted((pixels - self.matrix[:2, 2]) / self.matrix.diagonal()[:2])
        return self._undistorted(pixels, self.matrix)

    def pixels(self, points: Doubles) -> Doubles:
        """Points (N, 3) in the camera's coordinates, z forward → pixels (N, 2); NaN for what it cannot see."""
        with np.errstate(divide="ignore", invalid="ignore"):
            directions = points[:, :2] / points[:, 2:]
        # Far outside of the picture the polynomials of a lens turn back into it.
        seen = (points[:, 2] > 0) & (np.hypot(*directions.T) <= self._widest())
        result = np.full((len(points), 2), np.nan)
        if not seen.any():
            return result
        if self.inverse and self.distortion.any():
            normal = self._undistorted(directions[seen], np.eye(3))
        else:
            normal = self._distorted(directions[seen])
        result[seen] = normal * self.matrix.diagonal()[:2] + self.matrix[:2, 2]
        return result

    def fitted(self, path: Path, what: str, size: Size, *, scale_camera: bool) -> LensCamera:
        """The camera for pictures of a size.

        Args:
            path: its file, and
            what: which of the two it is, for messages.
            size: (height, width) of the pictures.
            scale_camera: pictures of another size are the whole picture resized.

        Raises:
            DataError: it holds for pictures of another size, or no such camera can be.
        """
        fx, fy, cx, cy = (float(self.matrix[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
        if min(fx, fy) <= 0 or abs(np.linalg.det(self.matrix)) < 1e-9:
            raise DataError(
                f"{path}: the matrix of the {what} camera {np.round(self.matrix, 4).tolist()} is none of a camera; "
                "expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]] with focal lengths above 0 in pixels"
            )
        camera = self
        if self.size is not None and min(self.size) < 1:
            raise DataError(
                f"{path}: the {what} camera's pictures have {self.size[0]}x{self.size[1]} pixels (height x width); "
                "expected 1 or more: correct the file"
            )
        if self.size is not None and self.size != size:
            if not scale_camera:
                raise DataError(
                    f"{path}: holds for pictures of {self.size[0]}x{self.size[1]} (height x width), but those of the "
                    f"{what} camera are {size[0]}x{size[1]}; give the calibration of this resolution, or "
                    "--scale-camera "
                    "if they are the whole picture resized"
                )
            camera = self._scaled(size)
            cx, cy = float(camera.matrix[0, 2]), float(camera.matrix[1, 2])
        if not (0 <= cx < size[1] and 0 <= cy < size[0]):
            raise DataError(
                f"{path}: the {what} camera looks through pixel ({cx:.1f}, {cy:.1f}), outside of its pictures of "
                f"{size[0]}x{size[1]} (height x width); give the calibration of this resolution"
            )
        return replace(camera, size=size)

    def _scaled(self, size: Size) -> LensCamera:
        assert self.size is not None  # `fitted` has looked
        by = np.array([size[1] / self.size[1], size[0] / self.size[0]])
        matrix = self.matrix.copy()
        matrix[:2, :2] *= by[:, None]
        matrix[:2, 2] = (matrix[:2, 2] + 0.5) * by - 0.5  # the corners of the picture stay its corners
        return replace(self, matrix=matrix, size=size)

    def _widest(self) -> float:
        """Longest direction that a picture shows, with a little more."""
        if self.size is None:
            return float("inf")
        height, width = self.size
        along = np.linspace(0, 1, 33)
        x, y = along * (width - 1), along * (height - 1)
        border = [*((v, e) for v in x for e in (0, height - 1)), *((e, v) for v in y for e in (0, width - 1))]
        return 1.05 * float(np.hypot(*self.rays(np.array(border, float)).T).max())

    def _undistorted(self, pixels: Doubles, matrix: Doubles) -> Doubles:
        points = np.ascontiguousarray(pixels, np.float64).reshape(-1, 1, 2)
        if self.fisheye:
            return np.asarray(cv2.fisheye.undistortPoints(points, matrix, self.distortion), np.float64).reshape(-1, 2)
        if not self.distortion.any():
            return (pixels - matrix[:2, 2]) / matrix.diagonal()[:2]
        found = np.asarray(cv2.undistortPoints(points, matrix, self.distortion), np.float64).reshape(-1, 2)
        # OpenCV stops after five steps, some tenths of a pixel off at the corners of a wide lens.
        normal = (pixels - matrix[:2, 2]) / matrix.diagonal()[:2]
        for _ in range(STEPS):
            missing = normal - self._distorted(found)
            found = found + missing
            if not missing.size or np.abs(missing).max() < CLOSE:
                break
        return found

    def _distorted(self, directions: Doubles) -> Doubles:
        if not self.distortion.any() and not self.fisheye:
            return directions
        if self.fisheye:
            points = np.ascontiguousarray(directions, np.float64).reshape(-1, 1, 2)
            return np.asarray(cv2.fisheye.distortPoints(points, np.eye(3), self.distortion), np.float64).reshape(-1, 2)
        points = np.concatenate([directions, np.ones((len(directions), 1))], axis=1)
        found, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), np.eye(3), self.distortion)
        return np.asarray(found, np.float64).reshape(-1, 2)
