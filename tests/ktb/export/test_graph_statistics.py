"""Percentiles and the dominating plane as tensor operations, against those of the readers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ktb.data.arrays import Array
from ktb.data.readers.plane import plane_residual as of_the_reader
from ktb.export.graph_statistics import percentiles, plane_residual

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[0:120, 0:160]


def disparity(outliers: float) -> Array:
    values = 9000 + 70.0 * ROWS + 3.0 * COLUMNS + RNG.normal(0, 40, ROWS.shape)
    return np.where(RNG.random(ROWS.shape) < outliers, values + 3000, values).astype(np.float32)


def holes(kind: str) -> Array | None:
    valid = RNG.random(ROWS.shape) < 0.7
    if kind == "none":
        return None
    if kind == "a column":  # all measured pixels on one line
        valid[:, :] = False
        valid[:, 50] = True
    elif kind == "two pixels":
        valid[:, :] = False
        valid[[4, 40], [8, 44]] = True
    elif kind == "all":
        valid[:, :] = False
    return valid


@pytest.mark.parametrize("outliers", [0.0, 0.2, 0.45])
@pytest.mark.parametrize("kind", ["none", "some", "a column", "two pixels"])
def test_the_plane_of_the_reader(kind: str, outliers: float) -> None:
    image, valid = disparity(outliers), holes(kind)
    if valid is not None:
        image[~valid] = 0
    expected = of_the_reader(image, valid)
    mask = None if valid is None else torch.from_numpy(valid)
    found = plane_residual(torch.from_numpy(image), mask).numpy()
    assert np.abs(expected).max() > 50
    np.testing.assert_allclose(found, expected, atol=4e-3 if kind != "a column" else 2.0)  # of values around 15000


def test_without_a_measured_pixel_the_plane_is_finite() -> None:
    image, valid = np.zeros(ROWS.shape, np.float32), torch.from_numpy(np.zeros(ROWS.shape, bool))
    assert torch.equal(plane_residual(torch.from_numpy(image), valid), torch.from_numpy(image))


@pytest.mark.parametrize("kind", ["none", "some", "two pixels", "all"])
@pytest.mark.parametrize(("low", "high"), [(2.0, 98.0), (0.0, 100.0), (5.0, 90.0)])
def test_percentiles_of_what_is_measured(kind: str, low: float, high: float) -> None:
    values, valid = disparity(0.1).ravel(), holes(kind)
    mask = None if valid is None else valid.ravel()
    counted = values if mask is None or not mask.any() else values[mask]
    found = percentiles(torch.from_numpy(values), None if mask is None else torch.from_numpy(mask), low, high)
    np.testing.assert_allclose([float(v) for v in found], np.percentile(counted, [low, high]), rtol=1e-9)
