"""Moved pictures against what the first camera really sees, rendered from the same surfaces."""

from __future__ import annotations

import numpy as np
import pytest

from ktb.data.tools.align.warp import by_homography, depth_in_first, sample, where_in_other
from tests.ktb.data.tools.align.rigs import FIRST_SIZE, OTHER_SIZE, RIG, both


def test_depth_arrives_where_the_first_camera_would_measure_it():
    (truth, _, ids), (seen, _, _) = both()
    found = depth_in_first(seen, RIG, FIRST_SIZE)
    known = found > 0
    assert known.mean() > 0.9
    error = np.abs(found - truth)[known]
    assert np.median(error) < 0.004  # metres, at 2 to 5
    assert np.percentile(error, 98) < 0.02  # half a pixel of the other camera on the slanted wall
    # What is further off lies at the box's outline, where a pixel is on the box or beside it.
    outline = np.zeros(FIRST_SIZE, bool)
    for axis in (0, 1):
        for step in (-2, -1, 0, 1, 2):
            outline |= np.roll(ids, step, axis) != ids
    assert np.abs(found - truth)[known & ~outline].max() < 0.05


def test_the_nearest_surface_wins():
    depth = np.full(OTHER_SIZE, 4.0)
    depth[:, 60:] = 1.0  # moves by 6 cm · 150 / 1 m = 9 pixels, the wall behind it by 2
    found = depth_in_first(depth, RIG, FIRST_SIZE)
    near = np.abs(found - 1.0) < 0.15
    assert near.any()
    first = near.argmax(axis=1)[20:100]
    # To the right of the edge of what is near no wall shines through its gaps.
    assert all(near[20 + i, column : column + 40].all() for i, column in enumerate(first))


def test_holes_stay_holes_and_move_with_the_surface():
    depth = np.full(OTHER_SIZE, 2.0)
    depth[40:60, 40:60] = 0
    depth[10, 10] = np.nan
    found = depth_in_first(depth, RIG, FIRST_SIZE)
    whole = depth_in_first(np.full(OTHER_SIZE, 2.0), RIG, FIRST_SIZE)
    hole = (whole > 0) & (found == 0)
    assert 450 < hole.sum() < 850  # 20 x 20 pixels, 150 / 110 times as large in each direction: 744
    assert np.isfinite(found).all()


def test_intensities_and_ids_follow_depth():
    (truth, brightness, ids), (_, seen, seen_ids) = both()
    places = where_in_other(truth, RIG, OTHER_SIZE)
    moved = sample(seen.astype(np.float32), None, places, nearest=False)
    assert moved.valid.mean() > 0.85
    assert np.abs(moved.image - brightness)[moved.valid].mean() < 0.5  # of 0 to 200
    labels = sample(seen_ids.astype(np.uint8), None, places, nearest=True)
    assert (labels.image == ids)[labels.valid].mean() > 0.99
    assert set(np.unique(labels.image[labels.valid])) == {1, 2}


def test_what_the_other_camera_cannot_see_is_not_measured():
    (truth, _, ids), _ = both()
    places = where_in_other(truth, RIG, OTHER_SIZE)
    hidden = np.isnan(places).any(axis=-1)
    # The other camera stands to the left of the first one's axis or to its right: one side of the box hides the wall.
    beside = (ids == 1) & (np.roll(ids, 2, axis=1) == 2) | (ids == 1) & (np.roll(ids, -2, axis=1) == 2)
    rows = np.flatnonzero((ids == 2).any(axis=1))[3:-3]
    assert (hidden & beside)[rows].any(axis=1).all()
    inner = hidden[10:-10, 30:-30]
    assert (ids[10:-10, 30:-30][inner] == 1).mean() > 0.95


def test_a_homography_moves_by_whole_pixels_exactly():
    image = np.arange(60, dtype=np.uint16).reshape(6, 10)
    valid = image != 23
    places = by_homography(np.array([[1.0, 0, 2], [0, 1, -1], [0, 0, 1]]), (6, 12))
    for nearest in (True, False):
        moved = sample(image, valid, places, nearest=nearest)
        assert moved.image.dtype == np.uint16
        expected = np.zeros((6, 12), np.uint16)
        expected[:5, 2:] = np.where(valid, image, 0)[1:]
        np.testing.assert_array_equal(moved.image, expected)
        assert moved.valid[:5, 2:].sum() == 49  # one hole
        assert not moved.valid[5].any()
        assert not moved.valid[:, :2].any()


def test_holes_are_not_mixed_into_their_neighbours():
    image = np.full((8, 8), 100.0, np.float32)
    image[:, 4:] = np.nan
    moved = sample(
        image, np.isfinite(image), by_homography(np.array([[1.0, 0, 0.3], [0, 1, 0], [0, 0, 1]]), (8, 8)), nearest=False
    )
    assert set(np.unique(moved.image[moved.valid])) == {100}
    assert moved.valid.sum() == 8 * 3 + 8  # columns 1 to 4: more than half of each was measured


@pytest.mark.parametrize("tilt", [0.0, 1e-3])
def test_by_homography_is_the_inverse_of_the_matrix(tilt):
    matrix = np.array([[1.1, 0.1, 3], [-0.05, 0.9, 2], [tilt, 0, 1]])
    places = by_homography(matrix, (20, 30))
    there = np.concatenate([places, np.ones((20, 30, 1))], axis=-1) @ matrix.T
    y, x = np.mgrid[:20, :30]
    np.testing.assert_allclose(there[..., :2] / there[..., 2:], np.stack([x, y], axis=-1), atol=1e-9)
