"""Two cameras in front of a slanted wall and a box, rendered point by point: what each of them really sees."""

from __future__ import annotations

import cv2
import numpy as np

from ktb.data.tools.align.calibration import Calibration
from ktb.data.tools.align.camera import LensCamera

FIRST_SIZE, OTHER_SIZE = (120, 160), (96, 112)
FIRST = LensCamera(
    np.array([[150.0, 0, 80], [0, 150, 60], [0, 0, 1]]), np.array([0.05, -0.02, 0.001, -0.002, 0]), FIRST_SIZE
)
OTHER = LensCamera(
    np.array([[110.0, 0, 55], [0, 111, 47], [0, 0, 1]]), np.array([-0.15, 0.05, 0.002, 0.001, 0]), OTHER_SIZE
)
ROTATION = cv2.Rodrigues(np.array([0.02, -0.05, 0.01]))[0]
TRANSLATION = np.array([0.06, -0.01, 0.02])
RIG = Calibration(FIRST, OTHER, ROTATION, TRANSLATION)
"""The other camera stands 6 cm beside the first one."""


def rendered(camera, size, rotation, translation):
    """(depth in metres, brightness 0 to 200, id 1 wall, 2 box) of a camera; a world point p is R p + t in it.

    The wall is z = 4 + 0.3 x, the front of the box z = 2 for |x| < 0.5 and |y| < 0.4.
    """
    y, x = np.indices(size, dtype=float)
    rays = np.concatenate([camera.rays(np.stack([x.ravel(), y.ravel()], axis=1)), np.ones((x.size, 1))], axis=1)
    origin, rays = -rotation.T @ translation, rays @ rotation
    normal = np.array([-0.3, 0, 1])
    wall = (4 - origin @ normal) / (rays @ normal)
    box = (2 - origin[2]) / rays[:, 2]
    at_box = origin + box[:, None] * rays
    hit = (np.abs(at_box[:, 0]) < 0.5) & (np.abs(at_box[:, 1]) < 0.4)
    depth = np.where(hit, box, wall)
    at = origin + depth[:, None] * rays
    brightness = 100 + 50 * np.sin(4 * at[:, 0]) + 50 * np.cos(5 * at[:, 1])
    return depth.reshape(size), brightness.reshape(size), np.where(hit, 2, 1).reshape(size)


def both():
    """What the first and what the other camera see."""
    back, moved = RIG.inverse()
    return rendered(FIRST, FIRST_SIZE, np.eye(3), np.zeros(3)), rendered(OTHER, OTHER_SIZE, back, moved)
