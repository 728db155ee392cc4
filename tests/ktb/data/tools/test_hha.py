"""HHA against its definition: a slow literal reading of it, scenes known in closed form, and the real sample."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from ktb.data.tools.hha import NYU_CAMERA, Camera, hha
from ktb.errors import ConfigError, DataError

ROOM_NUMBERS = Path(__file__).parents[3] / "data" / "hha_room.npz"
SHARED = Path(os.environ.get("KTB_SHARED", Path(__file__).parents[5] / "shared"))
SAMPLE = SHARED / "samples" / "hha"

SMALL = NYU_CAMERA.scaled((48, 64))
LEVEL = Camera(fx=400.0, fy=400.0, cx=120.5, cy=120.0)


def literal_hha(depth_m, raw_depth_m, camera):
    """The definition, step by step, one pixel and one least-squares fit at a time."""
    z = np.where(np.isfinite(depth_m) & (depth_m > 0), depth_m, 0.0) * 100
    measured = np.isfinite(raw_depth_m) & (raw_depth_m > 0) & (z > 0)
    height, width = z.shape
    rays = np.array(
        [[((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0) for u in range(1, width + 1)]
         for v in range(1, height + 1)]
    )  # fmt: skip
    points = rays * z[..., None]

    def normals(radius):
        out = np.full((height, width, 3), np.nan)
        for row, col in np.ndindex(height, width):
            window = (
                slice(max(row - radius, 0), row + radius + 1),
                slice(max(col - radius, 0), col + radius + 1),
            )
            mask = measured[window]
            design, target = rays[window][mask], 1 / z[window][mask]
            grid = np.argwhere(mask)
            if len(grid) < 3 or np.linalg.matrix_rank(grid - grid[0]) < 2:
                continue
            n = np.linalg.lstsq(design, target, rcond=None)[0]
            n /= np.linalg.norm(n)
            n = n if n[2] >= 0 else -n
            out[row, col] = n if n @ points[row, col] >= 0 else -n
        return out

    smooth = normals(10).reshape(-1, 3)
    smooth = smooth[~np.isnan(smooth[:, 0])]
    y = np.array([0.0, 1.0, 0.0])
    for degrees in (45,) * 5 + (15,) * 5:
        t = np.radians(degrees)
        floor, wall = smooth[abs(smooth @ y) > np.cos(t)], smooth[abs(smooth @ y) < np.sin(t)]
        if len(floor) + len(wall):
            new = np.linalg.eigh(wall.T @ wall - floor.T @ floor)[1][:, 0]
            y = new if new @ y > 0 else -new
    up = y if np.degrees(np.arccos(min(y[1], 1.0))) > 0.1 else np.array([0.0, 1.0, 0.0])
    above = -(points @ up)
    above -= above.min() if above.min() <= -90 else -130
    angle = np.degrees(np.arccos(np.clip(normals(3) @ y, -1, 1)))
    angle[np.isnan(angle)] = 180
    encoded = np.stack([31000 / np.maximum(z, 100), above, angle + 128 - 90], axis=-1)
    return np.array([min(max(round(value), 0), 255) for value in encoded.ravel()], np.uint8).reshape(encoded.shape)


def room_truth(camera, size, pitch=12.0, roll=3.0):
    """A room of 4 × 2.6 × 5 m with a box, seen from 1.4 m above the floor by a tilted camera.

    Depth in metres, height above the floor in cm, angle of the surface with gravity in degrees; (H, W) each.
    """
    v, u = np.mgrid[1 : size[0] + 1, 1 : size[1] + 1].astype(float)
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(size)], axis=-1)
    p, r = np.radians((pitch, roll))
    tilt_x = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    tilt_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    world = rays @ (tilt_x @ tilt_z).T  # x right, y down, z into the room
    planes = [((0, 1, 0), 1.4), ((0, -1, 0), 1.2), ((0, 0, 1), 4.0), ((1, 0, 0), 2.1), ((-1, 0, 0), 1.9)]
    along = world @ np.array([normal for normal, _ in planes], float).T
    distances = np.where(along > 1e-9, [distance for _, distance in planes] / np.maximum(along, 1e-9), np.inf)
    depth, angle = distances.min(-1), np.array([0.0, 180.0, 90.0, 90.0, 90.0])[distances.argmin(-1)]
    front = 2.2 / world[..., 2]
    hit = front[..., None] * world
    box = (abs(hit[..., 0] - 0.4) < 0.5) & (hit[..., 1] > 0.5) & (front < depth)
    depth, angle = np.where(box, front, depth), np.where(box, 90.0, angle)
    return depth, 140 - 100 * depth * world[..., 1], angle


def room(camera, size):
    """The room's depth, rough by a few mm and rounded to 0.1 mm."""
    v, u = np.mgrid[1 : size[0] + 1, 1 : size[1] + 1].astype(float)
    depth = room_truth(camera, size)[0] + 0.004 * np.sin(12.9898 * u + 78.233 * v)
    return np.rint(depth * 1e4) * 1e-4


def holes(size):
    v, u = np.mgrid[: size[0], : size[1]]
    return ((u // 9 + v // 7) % 5 == 0) | ((u * 7 + v * 3) % 11 == 0)


def test_equals_the_literal_definition_with_holes_in_both_maps():
    depth = room(SMALL, (48, 64))
    raw = np.where(holes(depth.shape), 0.0, depth)
    raw[:26, :26] = 0.0  # wider than the angle window: no surface there
    depth[5, 40:43] = (np.nan, np.inf, -1.0)
    ours = hha(depth, raw_depth_m=raw, camera=SMALL).astype(int)
    expected = literal_hha(depth, raw, SMALL).astype(int)
    assert (ours[:15, :15, 2] == 180 + 38).all()
    # A value within rounding noise of a half may fall either way, nothing else.
    assert abs(ours - expected).max() <= 1
    assert (ours != expected).sum() <= 2


def test_equals_stored_numbers_at_full_size():
    depth = room(NYU_CAMERA, (480, 640))
    ours = hha(depth, raw_depth_m=np.where(holes(depth.shape), 0.0, depth))
    with np.load(ROOM_NUMBERS) as stored:
        expected = stored["hha"]
    assert expected.shape == (30, 40, 3)
    np.testing.assert_array_equal(ours[::16, ::16], expected)


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="real sample not beside this checkout")
def test_real_sample_is_exact():
    depth = cv2.imread(str(SAMPLE / "0.png"), cv2.IMREAD_UNCHANGED) * 1e-4
    golden = cv2.imread(str(SAMPLE / "hha_complete.png"), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert (hha(depth) != golden).sum() == 0
    # One map for both is the same as giving it twice.
    assert (hha(depth, raw_depth_m=depth) != golden).sum() == 0


def level_scene(camera_height_m):
    """Floor below and a vertical wall 4 m ahead, from a level camera: depth in metres (480, 240)."""
    v = np.arange(1, 481, dtype=float)[:, None] * np.ones((1, 240))
    return np.minimum(4.0, camera_height_m / np.maximum((v - LEVEL.cy) / LEVEL.fy, 1e-9))


def test_floor_and_wall_have_their_known_values():
    depth = level_scene(1.5)
    out = hha(depth, camera=LEVEL).astype(int)
    seam = 120 + 150  # first row of the floor: 400 px · 1.5 m / 4 m below the horizon
    np.testing.assert_array_equal(out[..., 0], np.rint(310 / np.maximum(depth, 1.0)))
    # Floor: height 0, facing up (0° + 38). Wall: height above the floor, 90° + 38. The rounded edge where they meet
    # turns the estimate of gravity by a quarter of a degree.
    assert out[seam + 4 :, :, 1].max() <= 1
    assert abs(out[seam + 4 :, :, 2] - 38).max() <= 1
    wall = np.arange(seam - 4)
    assert abs(out[wall, :, 1] - np.clip(150 - (wall + 1 - 120), 0, 255)[:, None]).max() <= 3
    assert abs(out[wall, :, 2] - 128).max() <= 1


def test_no_floor_in_view_means_camera_at_130_cm():
    # A surface 0.6 m below, nearer than 0.9 m, is no floor: it lies 1.3 m - 0.6 m above the ground.
    out = hha(level_scene(0.6)[-240:], camera=replace(LEVEL, cy=-120.0))
    assert (out[..., 1] == 70).all()
    assert (out[..., 2] == 38).all()


@pytest.mark.parametrize(("pitch", "roll"), [(0.0, 0.0), (20.0, 0.0), (12.0, -8.0)])
def test_a_tilted_room_has_its_true_heights_and_angles(pitch, roll):
    camera = NYU_CAMERA.scaled((240, 320))
    depth, height, angle = room_truth(camera, (240, 320), pitch, roll)
    out = hha(depth, camera=camera).astype(float)
    np.testing.assert_array_equal(out[..., 0], np.rint(310 / np.maximum(depth, 1)))
    # Normals mix over edges (a sixth of the pixels) and gravity with them, by a fraction of a degree.
    errors = np.abs(out[..., 1:] - np.stack([np.clip(height, 0, 255), np.clip(angle + 38, 0, 255)], axis=-1))
    assert (np.quantile(errors, 0.8, axis=(0, 1)) <= (3, 1.5)).all()
    assert {0.0, 90.0} <= set(np.unique(angle))


def test_distance_scales_disparity_only():
    depth = room(SMALL, (48, 64)) + 2.0
    near, far = hha(depth, camera=SMALL), hha(2 * depth, camera=SMALL)
    np.testing.assert_array_equal(far[..., 0], np.rint(155 / depth))
    np.testing.assert_array_equal(far[..., 2], near[..., 2])


def test_mirrored_scene_gives_the_mirrored_picture():
    depth = room(SMALL, (48, 64))
    mirrored = hha(depth[:, ::-1], camera=replace(SMALL, cx=65 - SMALL.cx))
    assert abs(mirrored[:, ::-1].astype(int) - hha(depth, camera=SMALL)).max() <= 1


def test_camera_follows_a_resize():
    double = NYU_CAMERA.scaled((960, 1280))
    assert (double.fx, double.fy, double.size) == (2 * NYU_CAMERA.fx, 2 * NYU_CAMERA.fy, (960, 1280))
    # Edge of the picture to principal point: doubled, as everything is.
    assert double.cx - 0.5 == pytest.approx(2 * (NYU_CAMERA.cx - 0.5))
    back = double.scaled((480, 640))
    assert (back.fx, back.fy, back.cx, back.cy) == pytest.approx(
        (NYU_CAMERA.fx, NYU_CAMERA.fy, NYU_CAMERA.cx, NYU_CAMERA.cy)
    )
    # A pixel of the small picture sees between the four of the large one that it replaces.
    quarter, half = NYU_CAMERA.scaled((120, 160)), NYU_CAMERA.scaled((240, 320))
    near = 1 / room_truth(quarter, (120, 160))[0]
    pooled = (1 / room_truth(half, (240, 320))[0]).reshape(120, 2, 160, 2).mean((1, 3))
    assert np.median(abs(pooled / near - 1)) < 1e-9


@pytest.mark.parametrize("empty", [0.0, np.nan, np.inf, -3.0])
def test_a_map_of_holes_has_the_documented_values(empty):
    out = hha(np.full((6, 9), empty), camera=replace(LEVEL, size=(6, 9)))
    assert out.dtype == np.uint8
    assert (out == (255, 130, 218)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (2, 2), (3, 200)])
def test_tiny_maps(size):
    out = hha(np.full(size, 2.0), camera=LEVEL)
    assert out.shape == (*size, 3)
    assert (out[..., 0] == 155).all()
    # One row or column is a line: no surface. Anything wider is the fronto-parallel plane it is.
    assert (out[..., 2] == (218 if 1 in size else 128)).all()


@pytest.mark.parametrize(
    ("depth", "raw", "camera", "message"),
    [
        (np.ones((4, 4, 1)), None, LEVEL, r"shape \(4, 4, 1\): expected \(height, width\)"),
        (np.ones((0, 4)), None, LEVEL, "at least one pixel"),
        (np.ones((4, 4), np.uint16), None, LEVEL, "uint16: expected float metres"),
        (np.ones((4, 4)), np.ones((4, 5)), LEVEL, "raw_depth_m is 4x5 but depth_m is 4x4"),
        (np.ones((240, 320)), None, NYU_CAMERA, r"240x320 but the camera is calibrated for 480x640.*camera\.scaled"),
    ],
)
def test_bad_maps_are_refused_in_one_line(depth, raw, camera, message):
    with pytest.raises(DataError, match=message) as error:
        hha(depth, raw_depth_m=raw, camera=camera)
    assert "\n" not in str(error.value)


def test_impossible_cameras_are_refused():
    with pytest.raises(ConfigError, match="fx=0"):
        Camera(0.0, 1.0, 1.0, 1.0)
    with pytest.raises(ConfigError, match="cx=nan"):
        Camera(1.0, 1.0, float("nan"), 1.0)
    with pytest.raises(ConfigError, match="camera size"):
        Camera(1.0, 1.0, 1.0, 1.0, (0, 3))
    with pytest.raises(ConfigError, match="without a size"):
        LEVEL.scaled((10, 10))


if __name__ == "__main__":  # writes the stored numbers again, by the literal definition (a minute or two)
    full = room(NYU_CAMERA, (480, 640))
    result = literal_hha(full, np.where(holes(full.shape), 0.0, full), NYU_CAMERA)
    np.savez_compressed(ROOM_NUMBERS, hha=result[::16, ::16])
