"""The dominating plane of a disparity map."""

from __future__ import annotations

import numpy as np

from ktb.data.readers.plane import plane_residual


def test_plane_residual_finds_the_surface_under_what_sticks_out():
    rows, columns = np.mgrid[0:120, 0:160].astype(np.float32)
    noise = np.random.default_rng(3).normal(0, 5, rows.shape).astype(np.float32)
    surface = 40000 + 60 * rows - 20 * columns
    dip = (rows > 70) & (rows < 110) & (columns > 20) & (columns < 80)  # an eighth of the image
    image = surface + noise - 3000 * dip
    valid = np.random.default_rng(4).random(rows.shape) > 0.1
    residual = plane_residual(np.where(valid, image, 0).astype(np.float32), valid)
    assert np.abs(residual[valid & ~dip] - noise[valid & ~dip]).max() < 3
    assert abs(residual[valid & dip].mean() + 3000) < 3
