"""Counts of pixels and the scores that follow from them (docs/method.md#metrics).

Counts are int64 and summed over ranks before anything is computed from them; every score is then a function of them in
float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, cast

import numpy as np
import torch
import torch.distributed
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from ktb.data.spec import ignore_index

Counts = NDArray[np.int64]

BOUNDARY_RATIO = 0.02
"""Width of the boundary region as a share of the image diagonal (Cheng et al., "Boundary IoU", CVPR 2021)."""


# ------------------------------------------------------------------------------------------------------------- counts


def image_matrices(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """M[truth, prediction] of each image over pixels that count: (B, ...) class ids → (B, K, K) int64.

    torchmetrics' own matrix drops ignored pixels by indexing, which waits for the device at every update; here they
    are counted in one more cell that is cut off.
    """
    cell = torch.add(prediction.long(), target.long(), alpha=num_classes)
    cell.masked_fill_(target == ignore_index(num_classes), num_classes**2)
    return _histograms(cell, num_classes**2 + 1)[:, :-1].unflatten(1, (num_classes, num_classes))


def boundary_counts(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Pixels in the boundary regions of each class: (B, H, W) class ids → (B, 3, K) int64.

    The rows are: pixels of the class in both truth and prediction and in both boundary regions; in the truth's region;
    in the prediction's. A class's boundary region is its pixels at most d from a pixel of another class or from the
    outside of the image (measured along the longer axis, as repeated 3 x 3 erosion does), d = 2 % of the diagonal,
    rounded, at least 1. Void pixels count nowhere and make no boundary: contours next to them are not known.

    All classes at once: a pixel belongs to its class's region iff the largest or the smallest label of its
    (2d + 1)² neighbourhood is another one.
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
        """Class ids (B, ...) of the same shape, any integer type."""
        self.counts += image_matrices(prediction, target, self.num_classes).sum(0)

    def compute(self) -> Tensor:
        """(K, K) int64."""
        return self.counts


@dataclass
class Tally:
    """Counts over some of a split's images: confusion matrix (K, K) and `boundary_counts` (3, K)."""

    samples: int
    matrix: Counts
    boundary: Counts

    def add(self, other: Tally) -> None:
        self.samples += other.samples
        self.matrix = self.matrix + other.matrix
        self.boundary = self.boundary + other.boundary

    def scores(self, mean_without: Sequence[int] = ()) -> dict[str, Any]:
        """`scores` of the matrix with `boundary_scores`."""
        return scores(self.matrix, mean_without) | boundary_scores(self.boundary, mean_without)


@dataclass
class Evaluation:
    """What one pass over a split counted: over all of it, per value of each condition, and per image.

    mean_without: ids of classes left out of the means. total: everything. conditions: condition → value → its images.
    images: one row per image, in the order of the split after `gather`, as written to per_image.csv.
    """

    num_classes: int
    mean_without: tuple[int, ...] = ()
    total: Tally = field(init=False)
    conditions: dict[str, dict[str, Tally]] = field(default_factory=dict)
    images: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.total = self._nothing()

    def _nothing(self) -> Tally:
        k = self.num_classes
        return Tally(0, np.zeros((k, k), np.int64), np.zeros((3, k), np.int64))

    def update(
        self,
        prediction: Tensor,
        target: Tensor,
        ids: Sequence[str],
        conditions: Sequence[Mapping[str, str]],
    ) -> None:
        """Count a batch: class ids (B, H, W), and what `Batch` says of each image."""
        matrices = image_matrices(prediction, target, self.num_classes).cpu().numpy()
        boundaries = boundary_counts(prediction, target, self.num_classes).cpu().numpy()
        for matrix, boundary, name, condition in zip(matrices, boundaries, ids, conditions, strict=True):
            tally = Tally(1, matrix, boundary)
            self.total.add(tally)
            for key, value in condition.items():
                self.conditions.setdefault(key, {}).setdefault(value, self._nothing()).add(tally)
            values = {"labelled_pixels": int(matrix.sum()), **scores(matrix, self.mean_without)}
            self.images.append({"id": name, **condition, **{k: values[k] for k in IMAGE_SCORES}})

    def gather(self) -> Evaluation:
        """The sum over all ranks, on each of them.

        Images are dealt out to the ranks in turn (`EpochSampler`), and put back in order here.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, self)
        return merged(cast(list[Evaluation], parts))


def merged(parts: Sequence[Evaluation]) -> Evaluation:
    """One evaluation out of those of each rank, in rank order."""
    whole = Evaluation(parts[0].num_classes, parts[0].mean_without)
    for part in parts:
        whole.total.add(part.total)
        for key, values in part.conditions.items():
            for value, tally in values.items():
                whole.conditions.setdefault(key, {}).setdefault(value, whole._nothing()).add(tally)
    turns = chain.from_iterable(zip_longest(*(part.images for part in parts)))
    whole.images = [row for row in turns if row is not None]
    return whole


# ------------------------------------------------------------------------------------------------------------- scores


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
    """Boundary IoU of `boundary_counts`: mboundary_iou over the classes that have a boundary in truth or prediction
    (those of `mean_without` left out), and boundary_iou per class (list of K, NaN for those that have none)."""
    both, truth, predicted = np.asarray(counts, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = both / (truth + predicted - both)
    return {"mboundary_iou": _mean(iou, mean_without), "boundary_iou": iou.tolist()}


def _mean(values: NDArray[np.float64], without: Sequence[int]) -> float:
    kept = np.delete(values, np.asarray(without, np.intp))
    known = kept[~np.isnan(kept)]
    return float(known.mean()) if known.size else float("nan")


PER_CLASS = ("iou", "acc", "f1", "boundary_iou")
"""The scores that are lists, one value per class."""

IMAGE_SCORES = ("labelled_pixels", "miou", "pixel_acc")
"""What `Evaluation.images` says of each image beside its id and conditions."""
