"""What one pass over a split counts: over all of it, per value of each condition, and per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any, cast

import numpy as np
import torch.distributed
from torch import Tensor

from ktb.metrics.counts import boundary_counts, image_matrices
from ktb.metrics.scores import IMAGE_SCORES, Counts, boundary_scores, scores


@dataclass
class Tally:
    """Counts over some of a split's images.

    Attributes:
        samples: number of images.
        matrix: confusion matrix (K, K).
        boundary: `boundary_counts` (3, K).
    """

    samples: int
    matrix: Counts
    boundary: Counts

    def add(self, other: Tally) -> None:
        """Count another tally's images too."""
        self.samples += other.samples
        self.matrix = self.matrix + other.matrix
        self.boundary = self.boundary + other.boundary

    def scores(self, mean_without: Sequence[int] = ()) -> dict[str, Any]:
        """`scores` of the matrix with `boundary_scores`."""
        return scores(self.matrix, mean_without) | boundary_scores(self.boundary, mean_without)


@dataclass
class Evaluation:
    """What one pass over a split counted: over all of it, per value of each condition, and per image.

    Attributes:
        num_classes: K.
        mean_without: ids of classes left out of the means.
        total: everything.
        conditions: condition → value → its images.
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
        """Count a batch.

        Args:
            prediction, target: class ids (B, H, W).
            ids: names of the images.
            conditions: of each image, condition → value (such as "light" → "night").
        """
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
