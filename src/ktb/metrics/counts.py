"""Counts of pixels: confusion matrices and boundary regions (docs/method.md#metrics).

Counts are int64 and summed over ranks before anything is computed from them.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from ktb.data.spec import ignore_index

BOUNDARY_RATIO = 0.02
"""Width of the boundary region as a share of the image diagonal (Cheng et al., "Boundary IoU", CVPR 2021)."""


def image_matrices(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """The confusion matrix of each image.

    torchmetrics' own matrix drops ignored pixels by indexing, which waits for the device at every update; here they
    are counted in one more cell that is cut off.

    Args:
        prediction, target: class ids (B, ...); pixels whose target is `ignore_index` do not count.
        num_classes: K.

    Returns:
        M[truth, prediction], (B, K, K) int64.
    """
    cell = torch.add(prediction.long(), target.long(), alpha=num_classes)
    cell.masked_fill_(target == ignore_index(num_classes), num_classes**2)
    return _histograms(cell, num_classes**2 + 1)[:, :-1].unflatten(1, (num_classes, num_classes))


def boundary_counts(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixels in the boundary regions of each class.

    A class's boundary region is its pixels at most d from a pixel of another class or from the
    outside of the image (measured along the longer axis, as repeated 3 x 3 erosion does), d = 2 % of the diagonal,
    rounded, at least 1. Void pixels count nowhere and make no boundary: contours next to them are not known.

    All classes at once: a pixel belongs to its class's region iff the largest or the smallest label of its
    (2d + 1)² neighbourhood is another one.

    Args:
        prediction, target: class ids (B, H, W).
        num_classes: K.

    Returns:
        (B, 3, K) int64: pixels of the class in both truth and prediction and in both boundary regions; in the truth's
        region; in the prediction's.
    """
    distance = max(1, round(BOUNDARY_RATIO * float(np.hypot(*target.shape[-2:]))))
    void = target == ignore_index(num_classes)
    none = num_classes
    regions = []
    for labels in (target, prediction):
        labels = labels.to(torch.int16)
        largest = _window_max(labels.masked_fill(void, -1), distance, outside=none)
        smallest = -_window_max(-labels.masked_fill(void, none), distance, outside=1)
        inner = (largest == labels) & (smallest == labels)
        regions.append(labels.masked_fill(inner | void, none).long())
    truth, predicted = regions
    both = torch.where(truth == predicted, truth, none)
    return torch.stack([_histograms(x, num_classes + 1)[:, :-1] for x in (both, truth, predicted)], dim=1)


def _window_max(x: Tensor, distance: int, *, outside: int) -> Tensor:
    """Maximum over (2 · distance + 1)² windows of (..., H, W); the image is surrounded by `outside`."""
    for axis in (-1, -2):
        length = x.shape[axis]
        pad = (distance, distance) if axis == -1 else (0, 0, distance, distance)
        x = F.pad(x, pad, value=outside)
        covered = 1  # pixels each maximum looks at so far, itself first
        while covered < 2 * distance + 1:
            step = min(covered, 2 * distance + 1 - covered)
            size = x.shape[axis] - step
            x = torch.maximum(x.narrow(axis, 0, size), x.narrow(axis, step, size))
            covered += step
        assert x.shape[axis] == length
    return x


def _histograms(values: Tensor, bins: int) -> Tensor:
    """(B, ...) integers in [0, bins) → (B, bins) int64."""
    images = len(values)
    cell = values.flatten(1)
    if images > 1:
        cell = cell + torch.arange(images, device=values.device)[:, None] * bins
    cell = cell.flatten()
    if cell.device.type == "cpu":
        counts = torch.bincount(cell, minlength=images * bins)
    else:  # bincount waits for a CUDA device to learn its size
        counts = cell.new_zeros(images * bins).scatter_add_(0, cell, torch.ones_like(cell))
    return counts.view(images, bins)


class ConfusionMatrix(Metric):
    """M[truth, prediction] over pixels that count (see `ignore_index`), int64, summed over ranks."""

    full_state_update = False
    counts: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("counts", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction, target: class ids (B, ...) of the same shape, any integer type.
        """
        self.counts += image_matrices(prediction, target, self.num_classes).sum(0)

    def compute(self) -> Tensor:
        """(K, K) int64."""
        return self.counts
