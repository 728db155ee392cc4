"""HHA from depth (docs/method.md#hha): horizontal disparity, height above ground, angle with gravity.

The encoding of Gupta et al., "Learning Rich Features from RGB-D Images" (ECCV 2014), in the numerical form that
reproduces the distributed NYU Depth V2 files pixel for pixel. NumPy and OpenCV only.

Coordinates: x right, y down, z forward from the camera; pixel coordinates count from 1, as in the calibration of
NYU Depth V2. Lengths are centimetres inside, metres in the public function.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ktb.errors import ConfigError, DataError

__all__ = ["NYU_CAMERA", "Camera", "hha"]

Doubles = NDArray[np.float64]

ANGLE_RADIUS = 3
"""Half width in pixels of the window behind the angle channel."""
GRAVITY_RADIUS = 10
"""Half width in pixels of the smoother normals that gravity is estimated from."""
GRAVITY_STEPS = (45.0,) * 5 + (15.0,) * 5
"""Degrees within which a normal counts as floor (or wall) in each refinement of gravity."""


@dataclass(frozen=True)
class Camera:
    """Pinhole camera in pixels.

    Args:
        fx, fy: focal lengths.
        cx, cy: principal point, the centre of the top left pixel being (1, 1); add 1 to a calibration that counts from
            0.
        size: (height, width) the calibration holds for; None: any size, unchecked.

    Raises:
        ConfigError: numbers that no camera has.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not np.isfinite((self.fx, self.fy, self.cx, self.cy)).all() or min(self.fx, self.fy) <= 0:
            raise ConfigError(
                f"camera fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy}: expected finite numbers in pixels, "
                "focal lengths above 0"
            )
        if self.size is not None and min(self.size) < 1:
            raise ConfigError(f"camera size {self.size}: expected (height, width) of at least 1 pixel each")

    def scaled(self, size: tuple[int, int]) -> Camera:
        """The same camera after its whole image is resized to `size` = (height, width) pixels.

        Raises:
            ConfigError: the camera has no size of its own.
        """
        if self.size is None:
            raise ConfigError("camera without a size cannot be scaled: give size=(height, width) of its calibration")
        sy, sx = size[0] / self.size[0], size[1] / self.size[1]
        # Pixel 1 begins at 0.5, so that is the point that stays where it is.
        return Camera(
            self.fx * sx, self.fy * sy, (self.cx - 0.5) * sx + 0.5, (self.cy - 0.5) * sy + 0.5, (size[0], size[1])
        )


NYU_CAMERA = Camera(518.857901, 519.469611, 325.582449, 253.736166, (480, 640))
"""Colour camera of NYU Depth V2 (its toolbox' calibration)."""


def hha(depth_m: ArrayLike, *, raw_depth_m: ArrayLike | None = None, camera: Camera = NYU_CAMERA) -> NDArray[np.uint8]:
    """Encode a depth map (docs/method.md#hha).

    Args:
        depth_m: (H, W) float, metres along the optical axis, holes filled as well as may be. Values that are NaN,
            infinite, not positive or outside 10 µm … 10,000 km are holes.
        raw_depth_m: (H, W) the sensor's own map, with holes as above; only where it has a measurement does the depth
            take part in the surface normals. None: `depth_m` says where there is one.
        camera: that of the depth map.

    Returns:
        (H, W, 3) uint8: disparity (310 / metres), height in cm above the lowest point, and angle with gravity in
        degrees + 38, each rounded half to even and clipped to 255. A hole in `depth_m` has disparity 255 and the
        camera's own height; a pixel without a surface (fewer than three measurements, or all on one line, in its
        window) counts as 180 degrees. Without any surface in the whole map gravity points down the image.

    Raises:
        DataError: a map is not a 2-D array of floats, the sizes differ, or the size is not the camera's.
    """
    z, measured = _centimetres(depth_m, "depth_m")
    if raw_depth_m is not None:
        raw_measured = _centimetres(raw_depth_m, "raw_depth_m")[1]
        if raw_measured.shape != measured.shape:
            raise DataError(
                f"raw_depth_m is {_hw(raw_measured.shape)} but depth_m is {_hw(measured.shape)}: expected the same size"
            )
        measured &= raw_measured
    if camera.size is not None and camera.size != z.shape:
        raise DataError(
            f"depth is {_hw(z.shape)} but the camera is calibrated for {_hw(camera.size)} (height x width): pass this "
            "sensor's camera, or camera.scaled((height, width)) when the whole image was resized"
        )

    # Rays (x, y, 1) through the pixel centres, as a row and a column.
    x = (np.arange(1, z.shape[1] + 1, dtype=np.float64)[None, :] - camera.cx) / camera.fx
    y = (np.arange(1, z.shape[0] + 1, dtype=np.float64)[:, None] - camera.cy) / camera.fy

    gravity = _gravity(_normals(z, measured, camera, GRAVITY_RADIUS))
    # A camera level to a tenth of a degree is taken as level.
    tilt = np.degrees(np.arccos(np.clip(gravity[1], -1.0, 1.0)))
    down = gravity if tilt > 0.1 else np.array([0.0, 1.0, 0.0])
    height = -z * (down[0] * x + down[1] * y + down[2])
    lowest = height.min()
    # With no floor in view the camera is assumed to be 1.3 m above it.
    height -= lowest if lowest <= -90.0 else -130.0

    cosine = np.tensordot(gravity, _normals(z, measured, camera, ANGLE_RADIUS), axes=1)
    angle = np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0)))
    angle[np.isnan(angle)] = 180.0

    encoded = np.empty((*z.shape, 3), np.uint8)
    for channel, values in enumerate((31000.0 / np.maximum(z, 100.0), height, angle + (128.0 - 90.0))):
        encoded[..., channel] = np.clip(np.rint(values), 0.0, 255.0)
    return encoded


def _hw(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _centimetres(depth_m: ArrayLike, name: str) -> tuple[Doubles, NDArray[np.bool_]]:
    """Depth in cm with 0 at holes, and the mask of measurements."""
    depth = np.asarray(depth_m)
    if depth.ndim != 2 or depth.size == 0:
        raise DataError(f"{name} has shape {depth.shape}: expected (height, width) with at least one pixel")
    if not np.issubdtype(depth.dtype, np.floating):
        raise DataError(f"{name} is {depth.dtype}: expected float metres (multiply stored integers by their unit)")
    with np.errstate(over="ignore"):
        z = depth.astype(np.float64) * 100.0
    measured = (z > 1e-3) & (z < 1e9)  # false for NaN and infinity; within these limits no product overflows
    return np.where(measured, z, 0.0), measured


def _normals(z: Doubles, measured: NDArray[np.bool_], camera: Camera, radius: int) -> Doubles:
    """Unit surface normals (3, H, W) that point away from the camera; NaN where no plane can be fitted.

    Least squares fit of 1/z = m · (u, v, 1) over the measurements in a (2·radius+1)² window.
    """
    height, width = z.shape
    u = np.arange(1, width + 1, dtype=np.float64)[None, :]
    v = np.arange(1, height + 1, dtype=np.float64)[:, None]
    weight = measured.astype(np.float64)
    inverse = np.divide(1.0, z, out=np.zeros_like(z), where=measured)

    def box(values: Doubles) -> Doubles:
        side = 2 * radius + 1
        summed = cv2.boxFilter(values, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
        return np.asarray(summed, np.float64).reshape(height, width)

    weight_u, weight_v = weight * u, weight * v
    sums = [box(s) for s in (weight, weight_u, weight_v, weight_u * u, weight_u * v, weight_v * v)]
    sums += [box(s) for s in (inverse, inverse * u, inverse * v)]

    normals = np.empty((3, height, width))
    # Strips of rows keep the thirty temporaries below in the processor's cache; it halves the time.
    rows = max(1, 16384 // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        n, su, sv, suu, suv, svv, b2, b0, b1 = (s[strip] for s in sums)
        vs = v[strip]
        # Moments about the window's own centre: well conditioned, and whole numbers, so that "all on one line" is
        # an exact zero of the determinant.
        b0, b1 = b0 - u * b2, b1 - vs * b2
        suu = suu + u * (u * n - 2.0 * su)
        svv = svv + vs * (vs * n - 2.0 * sv)
        suv = suv + u * (vs * n - sv) - vs * su
        su, sv = su - u * n, sv - vs * n
        c00, c01, c02 = svv * n - sv * sv, su * sv - suv * n, suv * sv - su * svv
        c11, c12, c22 = suu * n - su * su, su * suv - suu * sv, suu * svv - suv * suv
        determinant = suu * c00 + suv * c01 + su * c02
        m0 = c00 * b0 + c01 * b1 + c02 * b2
        m1 = c01 * b0 + c11 * b1 + c12 * b2
        m2 = c02 * b0 + c12 * b1 + c22 * b2
        # From pixels about the centre to the ray (x, y, 1) of the camera.
        nx, ny, nz = m0 * camera.fx, m1 * camera.fy, m0 * (camera.cx - u) + m1 * (camera.cy - vs) + m2
        length = np.sqrt(nx * nx + ny * ny + nz * nz)
        length[(determinant <= 0.0) | (length == 0.0)] = np.nan
        # Away from the camera: n·P >= 0, and n·(x, y, 1) is m2. At a hole P is the origin, so n_z >= 0 decides.
        towards = np.where((m2 != 0.0) & (z[strip] > 0.0), m2, nz)
        length[towards < 0.0] *= -1.0
        for component, values in zip(normals, (nx, ny, nz), strict=True):
            np.divide(values, length, out=component[strip])
    return normals


def _gravity(normals: Doubles) -> Doubles:
    """Direction of gravity (3,), unit length: the axis along the normals of floors and across those of walls."""
    n = np.nan_to_num(normals.reshape(3, -1), copy=False)
    products = np.stack([n[i] * n[j] for i, j in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))])
    gravity = np.array([0.0, 1.0, 0.0])
    for degrees in GRAVITY_STEPS:
        alignment = np.abs(gravity @ n)
        walls, floors = alignment < np.sin(np.radians(degrees)), alignment > np.cos(np.radians(degrees))
        s00, s01, s02, s11, s12, s22 = products @ (walls.astype(np.float64) - floors)
        scatter = np.array([[s00, s01, s02], [s01, s11, s12], [s02, s12, s22]])
        if not scatter.any():
            continue
        axis = np.linalg.eigh(scatter)[1][:, 0]
        gravity = axis if axis @ gravity >= 0.0 else -axis
    return gravity
