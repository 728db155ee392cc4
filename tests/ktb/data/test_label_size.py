"""What takes the place of a label's size where there is no label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data.label_size import LabelSize, LabelSizes, known, measure
from ktb.data.sets.folder import FolderDataModule


def data_set(root: Path, label_sizes: list[tuple[int, int]], **settings: str) -> FolderDataModule:
    """Pictures of 40 x 60 pixels and depth of 20 x 30, with labels of the given (height, width)."""
    for i, (height, width) in enumerate(label_sizes):
        for folder, size in (("rgb", (40, 60, 3)), ("depth", (20, 30)), ("label", (height, width))):
            for split in ("train", "val"):
                path = root / split / folder / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.ones(size, np.uint8)).save(path)
    return FolderDataModule(
        root,
        streams=("rgb", "depth"),
        modalities={m: {"files": f"{{split}}/{m}/*.png"} for m in ("rgb", "depth")},
        label={"files": "{split}/label/*.png"},
        classes=["a", "b"],
        splits={"train": "train", "val": "val", "test": "test"},
        num_workers=0,
        **{"resize": "label", **settings},
    )


def test_the_scale_is_kept_where_labels_follow_their_pictures(tmp_path: Path) -> None:
    record = measure(data_set(tmp_path, [(20, 30), (20, 30)]), "train")
    assert record == {"rgb": {"scale": 0.5}, "depth": {"scale": 1.0}}
    sizes = known(record)
    assert sizes("rgb", (101, 200)) == (50, 100)
    assert sizes("depth", (20, 30)) == (20, 30)
    assert sizes("thermal", (7, 9)) == (7, 9)


def test_the_short_side_is_kept_where_it_is_the_same_for_pictures_of_any_size(tmp_path: Path) -> None:
    data = data_set(tmp_path, [(20, 30), (20, 30)])
    for split in ("train", "val"):
        Image.fromarray(np.ones((80, 120, 3), np.uint8)).save(tmp_path / split / "rgb" / "1.png")
    record = measure(data, "train")
    assert record == {"rgb": {"short_side": 20}, "depth": {"scale": 1.0}}
    assert known(record)("rgb", (80, 120)) == (20, 30)
    assert known(record)("rgb", (60, 40)) == (30, 20)


def test_nothing_is_kept_where_pictures_are_not_resized_to_labels(tmp_path: Path) -> None:
    assert measure(data_set(tmp_path, [(20, 30)], resize="first"), "train") == {}


@pytest.mark.parametrize("record", [None, 3, {"rgb": 3}, {"rgb": {"scale": 0.0}}, {"rgb": {"scale": "x"}}, {"rgb": {}}])
def test_a_record_of_something_else_says_nothing(record: object) -> None:
    assert known(record) == {}


def test_a_split_without_labels_is_read_at_the_size_that_labels_have_in_training(tmp_path: Path) -> None:
    data = data_set(tmp_path, [(20, 30), (20, 30)])
    for name, size in (("rgb", (40, 60, 3)), ("depth", (20, 30))):
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.fromarray(np.ones(size, np.uint8)).save(tmp_path / "test" / name / "0.png")
    raw = data.open_split("test").read(0, ["rgb", "depth"])
    assert {image.shape[:2] for image in raw.images.values()} == {raw.label.shape} == {(20, 30)}
    data.label_sizes = LabelSizes(rgb=LabelSize(scale=0.25))  # a checkpoint's word counts
    raw = data.open_split("test").read(0, ["rgb", "depth"])
    assert {image.shape[:2] for image in raw.images.values()} == {(10, 15)}
