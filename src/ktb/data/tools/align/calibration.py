"""Calibration files → two cameras and how they stand to each other."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ktb.data.arrays import Size
from ktb.data.files import read_text
from ktb.data.tools.align.camera import TOO_MUCH, Doubles, LensCamera
from ktb.data.tools.align.kinect import azure_kinect
from ktb.errors import DataError, first_line

DEEPEST = 64
"""Nested values of a calibration file; OpenCV's reader ends the process at some ten thousand."""
FARTHEST_M = 3.0
"""Metres between the cameras of one rig above which the unit of the translation must be another."""


@dataclass(frozen=True)
class Calibration:
    """Two cameras.

    Args:
        first: the one whose view is kept.
        other: the one whose pictures are moved.
        rotation: (3, 3), and
        translation: (3,) in metres: a point p of the other camera's coordinates is rotation · p + translation in the
            first one's.
    """

    first: LensCamera
    other: LensCamera
    rotation: Doubles
    translation: Doubles

    def inverse(self) -> tuple[Doubles, Doubles]:
        """Rotation and translation from the first camera's coordinates to the other's."""
        return self.rotation.T, -self.rotation.T @ self.translation


def read_calibration(
    path: Path,
    first_size: Size,
    other_size: Size,
    *,
    translation_m: float = 1.0,
    scale_camera: bool = False,
) -> Calibration:
    """A calibration file of any kind that is known, for pictures of these sizes.

    Args:
        path: OpenCV FileStorage (YAML, XML, JSON), RealSense JSON or Azure Kinect JSON; see docs/datasets.md.
        first_size, other_size: (height, width) of the pictures of the two cameras.
        translation_m: metres per unit of the translation in OpenCV files.
        scale_camera: pictures of another size than the file says are the whole picture resized.

    Raises:
        DataError: it cannot be read, has fields missing or values that cannot be, or holds for other sizes.
    """
    text = read_text(path)
    data = _json(text)
    if data is not None and "CalibrationInformation" in data:
        first, other, rotation, translation = azure_kinect(path, data, first_size, other_size)
    elif data is not None and _stream(data, ("color", "rgb")) is not None:
        first, other, rotation, translation = _realsense(path, data)
    else:
        first, other, rotation, translation = _opencv(path, text, translation_m)
    _check_pose(path, rotation, translation)
    fitted = [
        camera.fitted(path, what, size, scale_camera=scale_camera)
        for camera, what, size in ((first, "first", first_size), (other, "other", other_size))
    ]
    return Calibration(fitted[0], fitted[1], rotation, translation)


def read_homography(path: Path, pattern: str) -> Doubles | None:
    """The matrix `H` of an OpenCV file, or of the record of an earlier `ktb-data align`: pixel → pixel of the first.

    Args:
        path: the file.
        pattern: of the files to move, as the record may have a matrix for each of several.

    Returns:
        (3, 3); None where the file has none.

    Raises:
        DataError: the file cannot be read, or the matrix is singular.
    """
    text = read_text(path)
    data = _json(text)
    known = None if data is None else data.get("homographies")
    matrix: Doubles | None
    if isinstance(known, dict) and known:
        if pattern not in known and len(known) > 1:
            raise DataError(f"{path}: has no matrix for {pattern!r}; it has some for {', '.join(known)}")
        matrix = _numbers(path, "homographies", known.get(pattern, next(iter(known.values()))), (3, 3))
    else:
        matrix = _matrix(path, _storage(path, text), "H", (3, 3))
    if matrix is not None:
        check_homography(str(path), matrix)
    return matrix


def check_homography(where: str, matrix: Doubles) -> None:
    """Refuse a matrix that maps a picture to a line or a point.

    Args:
        where: begins the message.
        matrix: (3, 3).

    Raises:
        DataError: it is singular or not finite.
    """
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix / max(np.abs(matrix).max(), 1e-300))) < 1e-12:
        raise DataError(
            f"{where}: the homography {np.round(matrix, 6).tolist()} is singular, so it maps the picture to a line; "
            "expected a 3 x 3 matrix that can be inverted: correct it"
        )


def _check_pose(path: Path, rotation: Doubles, translation: Doubles) -> None:
    turned = np.abs(rotation).max() < 2 and np.abs(rotation @ rotation.T - np.eye(3)).max() <= 1e-3
    if not turned or np.linalg.det(rotation) < 0:
        raise DataError(
            f"{path}: its rotation {np.round(rotation, 4).tolist()} is no rotation; expected a 3 x 3 matrix R "
            "with R Rᵀ "
            "= 1 and determinant 1: write it again from the calibration"
        )
    distance = float(np.linalg.norm(translation))
    if distance > FARTHEST_M:
        raise DataError(
            f"{path}: the cameras would stand {distance:.4g} m apart, expected at most {FARTHEST_M:g} m; give the unit "
            "of its translation, such as --translation-unit mm"
        )


# --- JSON as librealsense names its fields ----------------------------------------------------------------------------


_STREAMS = (("color", "rgb"), ("depth", "infrared", "infra1", "ir"))


def _json(text: str) -> dict[str, Any] | None:
    try:
        data = json.loads(text, parse_int=float)  # a number of a thousand digits is infinite then
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


def _stream(data: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Mapping[str, Any]] | None:
    return next(((n, data[n]) for n in names if isinstance(data.get(n), dict) and "fx" in data[n]), None)


def _realsense(path: Path, data: Mapping[str, Any]) -> tuple[LensCamera, LensCamera, Doubles, Doubles]:
    cameras, names = [], []
    for wanted in _STREAMS:
        stream = _stream(data, wanted)
        if stream is None:
            raise DataError(
                f"{path}: no intrinsics {wanted[0]!r} in it; expected an object with width, height, fx, fy, ppx, ppy, "
                "model and coeffs, as librealsense names them"
            )
        name, fields = stream
        for key in ("width", "height", "fx", "fy", "ppx", "ppy"):
            value = fields.get(key)
            if not isinstance(value, float) or not abs(value) < TOO_MUCH:
                raise DataError(f"{path}: {name}.{key} is {str(value)[:60]!r}; expected a number of pixels")
        matrix = np.array([[fields["fx"], 0, fields["ppx"]], [0, fields["fy"], fields["ppy"]], [0, 0, 1]], float)
        coefficients = _numbers(path, f"{name}.coeffs", fields.get("coeffs", [0] * 5), (5,))
        model = str(fields.get("model", "none" if not coefficients.any() else None)).rsplit(".", 1)[-1]
        model = model.lower().replace(" ", "_")
        known = {"none", "brown_conrady", "modified_brown_conrady", "inverse_brown_conrady", "kannala_brandt4"}
        if model not in known:
            raise DataError(f"{path}: {name}.model is {model[:60]!r}; expected one of {', '.join(sorted(known))}")
        fisheye = model == "kannala_brandt4"
        cameras.append(
            LensCamera(
                matrix,
                coefficients[:4] if fisheye else coefficients,
                (int(fields["height"]), int(fields["width"])),
                fisheye=fisheye,
                inverse=model == "inverse_brown_conrady",
            )
        )
        names.append(name)
    forward, backward = f"{names[1]}_to_{names[0]}", f"{names[0]}_to_{names[1]}"
    for key in (forward, backward):
        if isinstance(pose := data.get(key), dict):
            # librealsense stores columns one after another.
            rotation = _numbers(path, f"{key}.rotation", pose.get("rotation"), (3, 3)).T
            translation = _numbers(path, f"{key}.translation", pose.get("translation"), (3,))
            if key == backward:
                rotation, translation = rotation.T, -rotation.T @ translation
            return cameras[0], cameras[1], rotation, translation
    raise DataError(
        f"{path}: no extrinsics in it; expected {forward!r} (or {backward!r}) with rotation (9 numbers, column by "
        "column) and translation (3, in metres)"
    )


# --- OpenCV FileStorage -----------------------------------------------------------------------------------------------


_OF_FIRST = {
    "matrix": ("M1", "K1", "cameraDoubles1", "camera_matrix_1", "camera_matrix1"),
    "distortion": ("D1", "distCoeffs1", "distortion_coefficients_1", "dist_coeffs1"),
    "size": ("size1", "image_size_1", "imageSize1"),
}
_OF_OTHER = {key: tuple(name.replace("1", "2") for name in names) for key, names in _OF_FIRST.items()}


def _storage(path: Path, text: str) -> Any:
    if _depth(text) > DEEPEST:
        raise _unknown(path, f"its values are nested more than {DEEPEST} times")
    try:
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        opened = storage.isOpened() and storage.root().isMap()
    except (cv2.error, SystemError) as error:
        raise _unknown(path, first_line(error)) from None
    if not opened:
        raise _unknown(path, "it has no named values")
    return storage


def _depth(text: str) -> int:
    """How deep values are nested in a text of JSON, YAML or XML."""
    steps = re.finditer(r"(?P<out>\]|\}|</|/>)|[\[{]|<\w", text)
    return max(itertools.accumulate((-1 if step["out"] else 1 for step in steps), initial=0))


def _unknown(path: Path, why: str) -> DataError:
    return DataError(
        f"{path}: is no calibration file that ktb knows ({why}); expected OpenCV FileStorage (.yml, .xml or .json "
        "with M1, "
        "D1, M2, D2, R, T), RealSense JSON (color, depth, depth_to_color) or an Azure Kinect's JSON"
    )


def _opencv(path: Path, text: str, translation_m: float) -> tuple[LensCamera, LensCamera, Doubles, Doubles]:
    storage = _storage(path, text)
    cameras = [_opencv_camera(path, storage, keys) for keys in (_OF_FIRST, _OF_OTHER)]
    rotation, translation = (_matrix(path, storage, key, shape) for key, shape in (("R", (3, 3)), ("T", (3,))))
    for key, value in (("R", rotation), ("T", translation)):
        if value is None:
            raise DataError(
                f"{path}: has no matrix {key!r}; expected R and T of cv2.stereoCalibrate, which bring points of the "
                "first camera to the other one"
            )
    assert rotation is not None  # for mypy
    assert translation is not None
    return cameras[0], cameras[1], rotation.T, -rotation.T @ (translation * translation_m)


def _opencv_camera(path: Path, storage: Any, keys: Mapping[str, Sequence[str]]) -> LensCamera:
    def first_of(names: Sequence[str], shape: tuple[int, ...] | None) -> Doubles | None:
        return next((m for name in names if (m := _matrix(path, storage, name, shape)) is not None), None)

    matrix = first_of(keys["matrix"], (3, 3))
    if matrix is None:
        raise DataError(
            f"{path}: has no camera matrix {keys['matrix'][0]!r} (or {', '.join(keys['matrix'][1:])}); add it"
        )
    distortion = first_of(keys["distortion"], None)
    distortion = np.zeros(0) if distortion is None else distortion.ravel()
    if len(distortion) not in (0, 4, 5, 8, 12, 14):
        raise DataError(
            f"{path}: {keys['distortion'][0]} has {len(distortion)} numbers; expected 4, 5, 8, 12 or 14, as "
            "OpenCV has them"
        )
    size = first_of((*keys["size"], "image_size", "imageSize"), (2,))
    model = storage.getNode("distortion_model").string() if not storage.getNode("distortion_model").empty() else ""
    return LensCamera(
        matrix,
        distortion,
        None if size is None else (int(size[1]), int(size[0])),  # OpenCV has the width first
        fisheye=model in ("fisheye", "equidistant"),
    )


def _matrix(path: Path, storage: Any, key: str, shape: tuple[int, ...] | None) -> Doubles | None:
    """A matrix or a list of numbers of a FileStorage; None where there is none of that name."""
    node = storage.getNode(key)
    if node.empty():
        return None
    if node.isSeq():
        return _numbers(path, key, [node.at(i).real() for i in range(node.size())], shape)
    try:
        return _numbers(path, key, node.mat(), shape)
    except cv2.error:
        return _numbers(path, key, None, shape)


def _numbers(path: Path, key: str, value: Any, shape: tuple[int, ...] | None) -> Doubles:
    """Numbers of a file in the shape wanted.

    Raises:
        DataError: they are none, too few or too many, or not finite.
    """
    try:
        array = np.asarray(value, np.float64)
        array = array if shape is None else array.reshape(shape)
        if array.size == 0 or not (np.abs(array) < TOO_MUCH).all():
            raise ValueError
    except (TypeError, ValueError):
        expected = "numbers" if shape is None else f"{' x '.join(map(str, shape))} numbers"
        raise DataError(f"{path}: {key} is {str(value)[:60]!r}; expected {expected}, all finite") from None
    return array
