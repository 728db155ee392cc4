"""Scores that follow from counts of pixels, in float64 (docs/method.md#metrics)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Counts = NDArray[np.int64]


def scores(matrix: Tensor | Counts, mean_without: Sequence[int] = ()) -> dict[str, Any]:
    """Scores of a confusion matrix, in [0, 1]; NaN where nothing was there to score.

    miou is the mean over classes that occur in truth or prediction; miou_all counts absent classes as 0, as the
    published code does. Per class: iou, acc, f1 (lists of K, NaN for absent classes).

    Args:
        matrix: (K, K) counts, M[truth, prediction].
        mean_without: ids of classes that the means (miou, miou_all, macc, mf1) leave out. Their pixels still count as
            errors of other classes, in pixel_acc and in fwiou.
    """
    m = np.atleast_2d(np.asarray(matrix, dtype=np.float64))  # torchmetrics makes a number of that of one class
    tp, rows, cols, total = np.diag(m), m.sum(1), m.sum(0), m.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = tp / (rows + cols - tp)
        acc = tp / rows
        f1 = 2 * tp / (rows + cols)
        return {
            "miou": _mean(iou, mean_without),
            "miou_all": float(np.delete(np.nan_to_num(iou), np.asarray(mean_without, np.intp)).mean()),
            "macc": _mean(acc, mean_without),
            "pixel_acc": float(tp.sum() / total),
            "mf1": _mean(f1, mean_without),
            "fwiou": float(np.nansum(rows / total * iou)) if total else float("nan"),
            "iou": iou.tolist(),
            "acc": acc.tolist(),
            "f1": f1.tolist(),
        }


def boundary_scores(counts: Counts, mean_without: Sequence[int] = ()) -> dict[str, Any]:
    """Boundary IoU.

    Args:
        counts: of `boundary_counts`, (3, K).
        mean_without: ids of classes that the mean leaves out.

    Returns:
        mboundary_iou over the classes that have a boundary in truth or prediction, and boundary_iou per class (list of
        K, NaN for those that have none).
    """
    both, truth, predicted = np.asarray(counts, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = both / (truth + predicted - both)
    return {"mboundary_iou": _mean(iou, mean_without), "boundary_iou": iou.tolist()}


def _mean(values: NDArray[np.float64], without: Sequence[int]) -> float:
    kept = np.delete(values, np.asarray(without, np.intp))
    known = kept[~np.isnan(kept)]
    return float(known.mean()) if known.size else float("nan")


MEANS = ("miou", "miou_all", "macc", "pixel_acc", "mf1", "fwiou", "mboundary_iou")
"""The scores of all classes together."""

PER_CLASS = ("iou", "acc", "f1", "boundary_iou")
"""The scores that are lists, one value per class."""

IMAGE_SCORES = ("labelled_pixels", "miou", "pixel_acc")
"""What `Evaluation.images` says of each image beside its id and conditions."""


def finite(value: float) -> float | None:
    """NaN and infinities become None, which JSON knows."""
    return value if math.isfinite(value) else None
