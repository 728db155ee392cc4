"""The calibration that an Azure Kinect keeps: for whole sensors, of which every mode gives a part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ktb.data.arrays import Size
from ktb.data.tools.align.camera import TOO_MUCH, Doubles, LensCamera
from ktb.errors import DataError

# (height, width) of the pictures of a mode → (height, width) that the sensor has in it, and (row, column) at which the
# picture begins.
_DEPTH_MODES: dict[Size, tuple[Size, Size]] = {
    (576, 640): ((1024, 1024), (180, 192)),
    (288, 320): ((512, 512), (90, 96)),
    (1024, 1024): ((1024, 1024), (0, 0)),
    (512, 512): ((512, 512), (0, 0)),
}
_COLOR_MODES: dict[Size, tuple[Size, Size]] = {
    (720, 1280): ((960, 1280), (120, 0)),
    (1080, 1920): ((1440, 1920), (180, 0)),
    (1440, 2560): ((1920, 2560), (240, 0)),
    (1536, 2048): ((1536, 2048), (0, 0)),
    (2160, 3840): ((2880, 3840), (360, 0)),
    (3072, 4096): ((3072, 4096), (0, 0)),
}


def azure_kinect(
    path: Path, data: Mapping[str, Any], color_size: Size, depth_size: Size
) -> tuple[LensCamera, LensCamera, Doubles, Doubles]:
    """Colour and depth camera of an Azure Kinect.

    Args:
        path: the file, for messages.
        data: its content, as `k4a_device_get_raw_calibration` gives it.
        color_size, depth_size: (height, width) of the pictures, which tell the modes.

    Returns:
        Colour camera, depth camera, and rotation (3, 3) and translation (3,), in metres, from depth to colour.

    Raises:
        DataError: a field is missing, or no mode has pictures of such a size.
    """
    try:
        cameras = {str(c["Location"]).rsplit("_", 1)[-1]: c for c in data["CalibrationInformation"]["Cameras"]}
        color, depth = cameras["CameraLocationPV0"], cameras["CameraLocationD0"]
        found = [_camera(path, color, color_size, _COLOR_MODES), _camera(path, depth, depth_size, _DEPTH_MODES)]
        poses = [
            (np.array(c["Rt"]["Rotation"], float).reshape(3, 3), np.array(c["Rt"]["Translation"], float).reshape(3))
            for c in (color, depth)
        ]
        numbers = [*(camera.matrix for camera in found), *(part for pose in poses for part in pose)]
        if not all(np.isfinite(part).all() and np.abs(part).max() < TOO_MUCH for part in numbers):
            raise ValueError("numbers that no camera has")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path}: is no whole calibration of an Azure Kinect ({type(error).__name__}: {error}); expected "
            "CalibrationInformation.Cameras with the locations PV0 and D0, each with Intrinsics.ModelParameters (14 "
            "numbers), Rt.Rotation (9) and Rt.Translation (3)"
        ) from None
    # Each pose leads from the device's coordinates, those of the depth camera, to the camera's.
    (rotation, translation), (of_depth, moved) = poses
    rotation = rotation @ of_depth.T
    return found[0], found[1], rotation, translation - rotation @ moved


def _camera(path: Path, camera: Mapping[str, Any], size: Size, modes: Mapping[Size, tuple[Size, Size]]) -> LensCamera:
    if size not in modes:
        raise DataError(
            f"{path}: no mode of an Azure Kinect gives {'depth' if modes is _DEPTH_MODES else 'colour'} pictures of "
            f"{size[0]}x{size[1]} (height x width); expected one of {', '.join(f'{h}x{w}' for h, w in modes)}"
        )
    (height, width), (top, left) = modes[size]
    cx, cy, fx, fy, k1, k2, k3, k4, k5, k6, _, _, p2, p1 = map(float, camera["Intrinsics"]["ModelParameters"][:14])
    matrix = np.array(
        [[fx * width, 0, cx * width - left - 0.5], [0, fy * height, cy * height - top - 0.5], [0, 0, 1]], float
    )
    return LensCamera(matrix, np.array([k1, k2, p1, p2, k3, k4, k5, k6]), size)
