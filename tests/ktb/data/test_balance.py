"""Class weights from the pixels of the training labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from ktb.data.balance import MAX_RATIO, balanced_weights, count_pixels, softened_weights
from ktb.data.sets.folder import FolderDataModule
from ktb.errors import DataError


def folder(root: Path, labels: list[np.ndarray]) -> FolderDataModule:
    for i, label in enumerate(labels):
        for kind, image in (("x", np.full_like(label, i)), ("label", label)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / kind / f"{i:02d}.png")
    (root / "train.txt").write_text("".join(f"{i:02d}\n" for i in range(len(labels) - 1)))
    (root / "val.txt").write_text(f"{len(labels) - 1:02d}\n")
    return FolderDataModule(
        root, modalities={"x": {"files": "x/*.png"}}, label={"files": "label/*.png"}, classes=["a", "b", "c"],
        splits={"train": "train.txt", "val": "val.txt"}, streams=["x"], num_workers=0,
    )  # fmt: skip


def stripes(*pixels: int) -> np.ndarray:
    """A label of 40 rows with so many pixels per row of the ids 0, 1, 2 and 255."""
    return np.repeat(np.array([0, 1, 2, 255], np.uint8), pixels)[None].repeat(40, axis=0)


def test_pixels_of_the_training_split_without_void(tmp_path: Path) -> None:
    data = folder(tmp_path, [stripes(30, 2, 1, 7), stripes(40, 0, 0, 0), stripes(0, 0, 40, 0)])
    pixels = count_pixels(data)
    assert pixels.counts == (70 * 40, 2 * 40, 40)
    assert pixels.labels == 2


def test_of_many_labels_some_are_counted_spread_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktb.data.balance.MAX_LABELS", 3)
    data = folder(tmp_path, [stripes(40 - i, i, 0, 0) for i in range(8)])
    assert count_pixels(data).counts == (40 * (40 + 37 + 34), 40 * (0 + 3 + 6), 0)
    assert count_pixels(data).labels == 3


def test_labels_that_are_void_altogether(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="folder: the training labels are void altogether"):
        count_pixels(folder(tmp_path, [stripes(0, 0, 0, 40), stripes(40, 0, 0, 0)]))


def test_weights_are_inverse_square_roots_of_mean_one() -> None:
    counts = [9000, 900, 100]
    weights = softened_weights(counts)
    assert weights[1] / weights[0] == pytest.approx(10**0.5, rel=1e-3)
    assert weights[2] / weights[0] == pytest.approx(90**0.5, rel=1e-3)
    assert np.dot(weights, counts) / sum(counts) == pytest.approx(1, rel=1e-3)


def test_weights_are_limited_and_absent_classes_count_as_one() -> None:
    weights = softened_weights([10**6, 10, 0])
    assert weights[1] / weights[0] == pytest.approx(MAX_RATIO, rel=1e-3)
    assert weights[2] == 1
    assert softened_weights([5, 5]) == [1, 1]


def test_balanced_weights_are_scikit_learns() -> None:
    counts = [9000, 0, 900, 100]
    ids = np.repeat(np.arange(4), counts)
    expected = compute_class_weight("balanced", classes=np.array([0, 2, 3]), y=ids)
    weights = balanced_weights(counts)
    assert [weights[0], *weights[2:]] == pytest.approx(expected.tolist(), rel=1e-3)
    assert weights[1] == 1
    assert balanced_weights([20, 20]) == [1, 1]
