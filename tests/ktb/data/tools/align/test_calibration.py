"""Calibration files of every kind give the same two cameras, and what is wrong in them is one line."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from ktb.data.tools.align.calibration import read_calibration, read_homography
from ktb.errors import DataError
from tests.ktb.data.tools.align.rigs import FIRST, FIRST_SIZE, OTHER, OTHER_SIZE, RIG


def opencv(path, **changed):
    """As cv2.stereoCalibrate gives it: R and T lead from the first camera to the other one."""
    rotation, translation = RIG.inverse()
    values = {
        "M1": FIRST.matrix,
        "D1": FIRST.distortion,
        "M2": OTHER.matrix,
        "D2": OTHER.distortion,
        "R": rotation,
        "T": translation,
        "size1": np.array(FIRST_SIZE[::-1], float),
        "size2": np.array(OTHER_SIZE[::-1], float),
    } | changed
    storage = cv2.FileStorage(str(path), cv2.FILE_STORAGE_WRITE)
    for key, value in values.items():
        if value is not None:
            storage.write(key, value)
    storage.release()
    return path


def intrinsics(camera, model):
    (height, width), matrix = camera.size, camera.matrix
    return {
        "width": width, "height": height, "fx": matrix[0, 0], "fy": matrix[1, 1], "ppx": matrix[0, 2],
        "ppy": matrix[1, 2], "model": model, "coeffs": camera.distortion.tolist(),
    }  # fmt: skip


def realsense(path, **changed):
    data = {
        "color": intrinsics(FIRST, "Brown Conrady"),
        "depth": intrinsics(OTHER, "distortion.brown_conrady"),
        "depth_to_color": {"rotation": RIG.rotation.T.ravel().tolist(), "translation": RIG.translation.tolist()},
    } | changed
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return path


def the_rig(found):
    np.testing.assert_allclose(found.first.matrix, FIRST.matrix)
    np.testing.assert_allclose(found.first.distortion, FIRST.distortion)
    np.testing.assert_allclose(found.other.matrix, OTHER.matrix)
    np.testing.assert_allclose(found.rotation, RIG.rotation, atol=1e-9)
    np.testing.assert_allclose(found.translation, RIG.translation, atol=1e-9)
    assert (found.first.size, found.other.size) == (FIRST_SIZE, OTHER_SIZE)


@pytest.mark.parametrize("suffix", ["yml", "xml", "json"])
def test_opencv_files(tmp_path, suffix):
    the_rig(read_calibration(opencv(tmp_path / f"rig.{suffix}"), FIRST_SIZE, OTHER_SIZE))


def test_the_translation_of_opencv_files_has_the_unit_of_the_board(tmp_path):
    _, translation = RIG.inverse()
    path = opencv(tmp_path / "rig.yml", T=translation * 1000)
    the_rig(read_calibration(path, FIRST_SIZE, OTHER_SIZE, translation_m=1e-3))
    with pytest.raises(DataError, match=r"would stand 64.03 m apart, .*--translation-unit mm"):
        read_calibration(path, FIRST_SIZE, OTHER_SIZE)


def test_realsense_files(tmp_path):
    the_rig(read_calibration(realsense(tmp_path / "rs.json"), FIRST_SIZE, OTHER_SIZE))
    rotation, translation = RIG.inverse()
    backward = {"rotation": rotation.T.ravel().tolist(), "translation": translation.tolist()}
    path = realsense(tmp_path / "back.json", depth_to_color=None, color_to_depth=backward)
    the_rig(read_calibration(path, FIRST_SIZE, OTHER_SIZE))


def kinect(path, **rt):
    """The numbers of a real device; the pose is made up."""

    def camera(location, parameters, rotation, translation):
        return {
            "Location": f"CALIBRATION_{location}",
            "Intrinsics": {"ModelParameterCount": 14, "ModelParameters": parameters},
            "Rt": {"Rotation": np.ravel(rotation).tolist(), "Translation": translation},
        }

    depth = [0.5122697949409485, 0.49451231956481934, 0.4921168386936188, 0.4921667277812958, 3.1305770874023438,
             2.324939012527466, 0.1304156482219696, 3.458651542663574, 3.350114583969116, 0.6629416346549988, 0, 0,
             -0.0000511557373101823, 0.00008132171933539212]  # fmt: skip
    color = [0.4967627227306366, 0.5108628273010254, 0.470907062292099, 0.6274453997612, 0.7227460145950317,
             -2.8855900287628174, 1.6327226161956787, 0.6021990180015564, -2.7196261882781982, 1.565053105354309, 0, 0,
             -0.0001431911950930953, 0.0007828465895727277]  # fmt: skip
    cameras = [
        camera("CameraLocationD0", depth, np.eye(3), [0, 0, 0]),
        camera("CameraLocationPV0", color, rt.get("rotation", RIG.rotation), RIG.translation.tolist()),
    ]
    path.write_text(json.dumps({"CalibrationInformation": {"Cameras": cameras}}))
    return path


def test_azure_kinect_files_hold_for_the_mode_of_the_pictures(tmp_path):
    found = read_calibration(kinect(tmp_path / "k.json"), (1080, 1920), (576, 640))
    # What the device's own software says for these modes.
    color, depth = found.first.matrix, found.other.matrix
    np.testing.assert_allclose(
        [color[0, 2], color[1, 2], color[0, 0], color[1, 1]], [953.284, 555.142, 904.142, 903.521], atol=1e-3
    )
    np.testing.assert_allclose(
        [depth[0, 2], depth[1, 2], depth[0, 0], depth[1, 1]], [332.064, 325.881, 503.928, 503.979], atol=1e-3
    )
    np.testing.assert_allclose(
        found.other.distortion[:5], [3.130577, 2.324939, 0.000081, -0.000051, 0.130416], atol=1e-6
    )
    np.testing.assert_allclose(found.translation, RIG.translation)
    np.testing.assert_allclose(found.rotation, RIG.rotation)
    with pytest.raises(DataError, match="no mode of an Azure Kinect gives depth pictures of 480x640"):
        read_calibration(tmp_path / "k.json", (1080, 1920), (480, 640))


@pytest.mark.parametrize(
    ("make", "changed", "message"),
    [
        (opencv, {"M2": None}, "has no camera matrix 'M2'"),
        (opencv, {"R": None}, "has no matrix 'R'; expected R and T of cv2.stereoCalibrate"),
        (opencv, {"M1": np.zeros((3, 3))}, "the matrix of the first camera"),
        (opencv, {"M1": np.eye(2)}, "M1 is .*; expected 3 x 3 numbers"),
        (opencv, {"D1": np.zeros(3)}, "D1 has 3 numbers; expected 4, 5, 8, 12 or 14"),
        (opencv, {"R": np.ones((3, 3))}, "is no rotation"),
        (opencv, {"size1": np.array([640.0, 0])}, "the first camera's pictures have 0x640 pixels"),
        (opencv, {"size1": np.array([640.0, 480])}, "holds for pictures of 480x640 .* are 120x160"),
        (realsense, {"depth": None}, "no intrinsics 'depth' in it"),
        (realsense, {"depth_to_color": None}, "no extrinsics in it; expected 'depth_to_color'"),
        (
            realsense,
            {"depth_to_color": {"rotation": [1, 0], "translation": [0, 0, 0]}},
            "rotation is .*; expected 3 x 3",
        ),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line(tmp_path, make, changed, message):
    path = make(tmp_path / ("rig.yml" if make is opencv else "rig.json"), **changed)
    with pytest.raises(DataError, match=message) as caught:
        read_calibration(path, FIRST_SIZE, OTHER_SIZE)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_model_of_a_lens_that_is_not_known(tmp_path):
    path = realsense(tmp_path / "rs.json", color=intrinsics(FIRST, "ftheta"))
    with pytest.raises(DataError, match="color.model is 'ftheta'; expected one of brown_conrady"):
        read_calibration(path, FIRST_SIZE, OTHER_SIZE)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400, 1e300, True, "3"])
@pytest.mark.parametrize(
    "place",
    [
        (realsense, "color", "fx"),
        (realsense, "depth", "width"),
        (realsense, "depth", "coeffs", 0),
        (realsense, "depth_to_color", "rotation", 3),
        (realsense, "depth_to_color", "translation", 0),
        (kinect, "CalibrationInformation", "Cameras", 0, "Intrinsics", "ModelParameters", 2),
        (kinect, "CalibrationInformation", "Cameras", 1, "Rt", "Rotation", 4),
        (kinect, "CalibrationInformation", "Cameras", 1, "Rt", "Translation", 1),
    ],
)
def test_numbers_that_can_be_none_are_one_line(tmp_path, place, number):
    make, *keys, last = place
    sizes = (FIRST_SIZE, OTHER_SIZE) if make is realsense else ((1080, 1920), (576, 640))
    path = make(tmp_path / "rig.json")
    data = json.loads(path.read_text())
    inner = data
    for key in keys:
        inner = inner[key]
    inner[last] = number
    path.write_text(json.dumps(data))
    if number in (True, "3") and (make is kinect or last in (0, 3)):
        return  # NumPy takes these for numbers, and what comes of them may be a camera
    with pytest.raises(DataError) as caught:
        read_calibration(path, *sizes)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 100_000, "%YAML:1.0\n---\na: " + "[" * 100_000, "<a>" * 100_000])
def test_a_file_that_is_nested_without_end_does_not_end_the_process(tmp_path, text):
    (tmp_path / "rig.yml").write_text(text)
    for read in (lambda p: read_homography(p, "x/*"), lambda p: read_calibration(p, FIRST_SIZE, OTHER_SIZE)):
        with pytest.raises(DataError, match=r"rig.yml: is no calibration .* nested more than 64 times"):
            read(tmp_path / "rig.yml")


@pytest.mark.parametrize(
    "text", ["fx = 3", "{}", "[1, 2]", "%YAML:1.0\n---\n", "%YAML:1.0\n---\nM1: [", "<html></html>"]
)
def test_files_of_unknown_kinds(tmp_path, text):
    (tmp_path / "rig.txt").write_text(text)
    with pytest.raises(DataError, match=r"rig.txt: (is no calibration file that ktb knows|has no camera matrix)"):
        read_calibration(tmp_path / "rig.txt", FIRST_SIZE, OTHER_SIZE)


def test_homographies(tmp_path):
    matrix = np.array([[1.0, 0, 3], [0, 1, 2], [0, 0, 1]])
    np.testing.assert_array_equal(read_homography(opencv(tmp_path / "h.yml", H=matrix), "x/*"), matrix)
    assert read_homography(opencv(tmp_path / "none.yml"), "x/*") is None
    (tmp_path / "aligned.json").write_text(
        json.dumps({"homographies": {"a/*": np.eye(3).tolist(), "b/*": matrix.tolist()}})
    )
    np.testing.assert_array_equal(read_homography(tmp_path / "aligned.json", "b/*"), matrix)
    with pytest.raises(DataError, match=r"has no matrix for 'c/\*'; it has some for a/\*, b/\*"):
        read_homography(tmp_path / "aligned.json", "c/*")
    with pytest.raises(DataError, match="is singular"):
        read_homography(opencv(tmp_path / "flat.yml", H=np.array([[1.0, 2, 0], [2, 4, 0], [0, 0, 1]])), "x/*")
