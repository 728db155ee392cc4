from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from ktb.metrics.counts import boundary_counts


def region(mask: np.ndarray, distance: int) -> np.ndarray:
    """Boundary region as Cheng et al. define it: the mask without its erosion, the image surrounded by nothing."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return mask & ~eroded[1:-1, 1:-1].astype(bool)


@pytest.mark.parametrize(("size", "distance"), [((40, 56), 1), ((96, 128), 3), ((120, 400), 8)])
def test_boundary_regions_class_by_class(size: tuple[int, int], distance: int) -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 4, (2, 3, 6, 9)).astype(np.uint8)  # class 4 occurs nowhere
    truth, prediction = (
        np.stack([cv2.resize(x, size[::-1], interpolation=cv2.INTER_NEAREST) for x in y]) for y in coarse
    )
    prediction[:, 5:30, 10:40] = 0
    ours = boundary_counts(torch.from_numpy(prediction), torch.from_numpy(truth), 5).numpy()
    assert ours.dtype == np.int64
    for b in range(3):
        for c in range(5):
            t, p = region(truth[b] == c, distance), region(prediction[b] == c, distance)
            assert ours[b, :, c].tolist() == [(t & p).sum(), t.sum(), p.sum()]
    assert ours[:, 0].sum() > 0
    perfect = boundary_counts(torch.from_numpy(truth), torch.from_numpy(truth), 5)
    assert torch.equal(perfect[:, 0], perfect[:, 1])


def test_boundaries_and_void() -> None:
    """A strip of void between two classes hides where their contour is, and is not a contour itself."""
    truth = np.zeros((100, 100), np.uint8)  # 2 % of the diagonal: 3 pixels
    truth[:, 60:] = 1
    prediction = truth.copy()
    truth[:, 59:61] = 255
    truth[:20] = 255
    counts = boundary_counts(torch.from_numpy(prediction)[None], torch.from_numpy(truth)[None], 2)
    both, of_truth, of_prediction = counts[0].tolist()
    inside = 80 - 3  # rows that are neither void nor within 3 of the lower edge
    left = 80 * 3 + 3 * (59 - 3) + inside  # the image's left and lower edge; column 58 is 3 from class 1's first
    right = 80 * 3 + 3 * (39 - 3) + inside
    assert both == of_truth == of_prediction == [left, right]
