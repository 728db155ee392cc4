"""The confusion matrix and what follows from it.

Counts are int64 and summed over ranks before anything is computed from them; every score is then a function of one
(K, K) matrix in float64 (DATASETS.md, Metrics).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ktb.data.spec import IGNORE


class ConfusionMatrix(Metric):
    """M[truth, prediction] over pixels that are not `IGNORE`, int64, summed over ranks.

    torchmetrics' own matrix drops ignored pixels by indexing, which waits for the device at every update; here they
    are counted in one more cell that is cut off.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes**2 + 1, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Class ids of the same shape, any integer type."""
        cell = target.long() * self.num_classes + prediction.long()
        cell = torch.where(target == IGNORE, self.num_classes**2, cell).flatten()
        if cell.device.type == "cpu":
            self.counts += torch.bincount(cell, minlength=len(self.counts))
        else:  # bincount waits for a CUDA device to learn its size
            self.counts.scatter_add_(0, cell, torch.ones_like(cell))

    def compute(self) -> Tensor:
        """(K, K) int64."""
        return self.counts[:-1].view(self.num_classes, self.num_classes)


def scores(matrix: Tensor | NDArray[np.int64]) -> dict[str, Any]:
    """Scores of a confusion matrix, in [0, 1]; NaN where nothing was there to score.

    miou is the mean over classes that occur in truth or prediction; miou_all counts absent classes as 0, as the
    published code does. Per class: iou, acc, f1 (lists of K, NaN for absent classes).
    """
    m = np.asarray(matrix, dtype=np.float64)
    tp, rows, cols, total = np.diag(m), m.sum(1), m.sum(0), m.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = tp / (rows + cols - tp)
        acc = tp / rows
        f1 = 2 * tp / (rows + cols)
        return {
            "miou": _mean(iou),
            "miou_all": float(np.nan_to_num(iou).mean()),
            "macc": _mean(acc),
            "pixel_acc": float(tp.sum() / total),
            "mf1": _mean(f1),
            "fwiou": float(np.nansum(rows / total * iou)) if total else float("nan"),
            "iou": iou.tolist(),
            "acc": acc.tolist(),
            "f1": f1.tolist(),
        }


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def class_table(result: dict[str, Any], classes: Sequence[str]) -> list[tuple[str, float, float, float]]:
    """Rows (class, IoU, accuracy, F1) of `scores`."""
    return list(zip(classes, result["iou"], result["acc"], result["f1"], strict=True))
