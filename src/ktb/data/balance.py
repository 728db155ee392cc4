"""Class weights for a loss, from how many pixels each class has in the training split."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ktb.data.module import MAX_WORKERS, RGBXDataModule
from ktb.data.readers.decode import pixel_limit
from ktb.errors import DataError

MAX_RATIO = 10.0
"""A class counts at most this many times as much per pixel as the most frequent one."""
MAX_LABELS = 1000
"""Labels that are counted, spread evenly over the split."""


@dataclass(frozen=True)
class ClassPixels:
    """Pixels of each class in `labels` labels of the training split."""

    counts: tuple[int, ...]
    labels: int


def count_pixels(data: RGBXDataModule) -> ClassPixels:
    """Pixels per class of the training labels as stored, before augmentation.

    Raises:
        DataError: a label that cannot be read, or none with a pixel of any class.
    """
    samples, classes = data.dataset("train").samples, data.spec.num_classes
    chosen = sorted(set(np.linspace(0, len(samples) - 1, min(len(samples), MAX_LABELS)).round().astype(int).tolist()))

    def count(index: int) -> NDArray[np.int64]:
        with pixel_limit(data.max_pixels):
            label = samples.read(index, []).label
        return np.bincount(label[label < classes], minlength=classes)  # void is greater than all ids

    with ThreadPoolExecutor(MAX_WORKERS) as pool:
        counts = sum(pool.map(count, chosen), np.zeros(classes, np.int64))
    if not counts.any():
        raise DataError(f"{data.spec.name}: the training labels are void altogether; expected pixels of some class")
    return ClassPixels(tuple(int(n) for n in counts), len(chosen))


def balanced_weights(counts: Sequence[int]) -> list[float]:
    """Class weights of 1 / frequency, as scikit-learn's "balanced": all classes have the same share of the loss.

    total / (number of classes that occur · pixels of the class). A class without a pixel gets 1: none of its pixels
    will ever be trained on.
    """
    present, total = sum(n > 0 for n in counts), sum(counts)
    return [float(f"{total / (present * n):.4g}") if n else 1.0 for n in counts]


def softened_weights(counts: Sequence[int]) -> list[float]:
    """Class weights of 1 / √frequency, at most `MAX_RATIO` times that of the most frequent class.

    The square root is a compromise: with `balanced_weights` a rare class is found in far more places than it is.
    Scaled so that the mean over all pixels is 1. A class without a pixel gets 1: none of its pixels will ever be
    trained on.
    """
    total, most = sum(counts), max(counts)
    raw = [min(math.sqrt(most / n), MAX_RATIO) if n else 0.0 for n in counts]
    mean = sum(w * n for w, n in zip(raw, counts, strict=True)) / total
    return [float(f"{w / mean:.4g}") if w else 1.0 for w in raw]


CLASS_WEIGHTS: dict[str, Callable[[Sequence[int]], list[float]]] = {
    "auto": softened_weights,
    "balanced": balanced_weights,
}
"""What a loss's class weights may be called instead of given → how they follow from the pixels of each class."""
