"""One matrix for a folder, estimated from scenes whose depth was moved by a known one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from ktb.data.scenes.draw import draw
from ktb.data.scenes.scene import sample_scene
from ktb.data.tools.align.homography import Pair, estimate
from ktb.errors import DataError
from tests.ktb.data.written import save

SIZE = (192, 256)


def watch(outcomes, total, title):
    return list(outcomes)


def pairs(root, onto_first, other_size=SIZE, count=5):
    """Pairs of which the second is moved onto the first by the matrix given: RGB, and brightness inverted."""
    made = []
    for i in range(count):
        rgb = draw(sample_scene(5, [0, 6, 12, 20, 1][i]), *SIZE).rgb
        moved = cv2.warpPerspective(
            255 - rgb.mean(axis=2).astype(np.uint8),
            onto_first,
            other_size[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        first, other = save(root / f"rgb/{i}.png", rgb), save(root / f"x/{i}.png", moved)
        made.append(Pair(first, other, None))
    return made


def furthest(found, truth, other_size):
    """Largest distance in pixels between where the two matrices move the pixels of the other picture."""
    y, x = np.mgrid[10 : other_size[0] - 10 : 10, 10 : other_size[1] - 10 : 10].reshape(2, -1).astype(float)
    points = np.stack([x, y], axis=1)[:, None]
    away = cv2.perspectiveTransform(points, found) - cv2.perspectiveTransform(points, truth)
    return float(np.hypot(*away[:, 0].T).max())


@pytest.mark.parametrize(
    ("model", "truth", "other_size", "within"),
    [
        ("similarity", [[1.03, 0, -6], [0, 1.03, 2], [0, 0, 1]], SIZE, 0.5),
        ("affine", [[1.02, 0.015, -5], [-0.01, 0.99, 4], [0, 0, 1]], SIZE, 0.75),
        ("homography", [[1.0, 0.01, -4], [0, 1.0, 3], [5e-5, 2e-5, 1]], SIZE, 1.0),
        ("affine", [[2.0, 0, 3], [0, 2.0, -2], [0, 0, 1]], (96, 128), 1.0),  # half as many pixels
    ],
)
def test_the_matrix_is_found(tmp_path, model, truth, other_size, within):
    truth = np.array(truth, float)
    found, samples = estimate(pairs(tmp_path, truth, other_size), model, watch=watch, workers=1)
    assert samples >= 4
    assert furthest(found, truth, other_size) < within


def test_pictures_without_edges_in_common_are_refused(tmp_path):
    made = pairs(tmp_path, np.eye(3), count=2)
    rng = np.random.default_rng(0)
    for pair in made:
        save(pair.other, rng.integers(0, 255, SIZE).astype(np.uint8))
    with pytest.raises(DataError, match=r"too few edges in common with .* \(found in 0 of 2 samples\)"):
        estimate(made, "similarity", watch=watch, workers=1)


def test_pictures_of_several_sizes_are_refused(tmp_path):
    made = pairs(tmp_path / "a", np.eye(3), count=1) + pairs(tmp_path / "b", np.diag([2.0, 2, 1]), (96, 128), count=1)
    with pytest.raises(DataError, match="several sizes; found 96x128 beside 192x256 and 192x256 beside 192x256"):
        estimate(made, "similarity", watch=watch, workers=1)


def test_damaged_files_are_left_out_and_named_if_all_are(tmp_path):
    made = pairs(tmp_path, np.eye(3), count=3)
    made[0].other.write_bytes(b"")
    _, samples = estimate(made, "similarity", watch=watch, workers=1)
    assert samples == 2
    for pair in made:
        pair.other.write_bytes(b"")
    with pytest.raises(DataError, match=r"x/0.png: the file is empty"):
        estimate(made, "similarity", watch=watch, workers=1)
