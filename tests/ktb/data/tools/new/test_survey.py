"""A whole look at a folder, against what was written into it."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.new.found import module_settings
from ktb.data.tools.new.output import write_yaml
from ktb.errors import DataError
from tests.ktb.data.tools.new.folders import depth, guessed, label, look, modalities, opened, rgb
from tests.ktb.data.written import save


def test_parallel_folders(tmp_path):
    for i in range(10):
        save(tmp_path / f"colour/{i:04d}.jpg", rgb(i))
        save(tmp_path / f"depth_mm/{i:04d}.png", depth(i))
        save(tmp_path / f"masks/{i:04d}.png", label(0, 1, 2, 255))
    save(tmp_path / "notes/sketch.png", rgb())
    found = look(tmp_path)
    assert modalities(found) == {
        "rgb": {"files": "colour/*.jpg"},
        "depth": {"files": "depth_mm/*.png", "dtype": "uint16", "scale": 10000, "hole_value": 0, "holes": "zero"},
    }
    assert found.label.settings == {"files": "masks/*.png"}
    assert found.classes[1] == ("class_1", "stored 1, 25.0% of pixels")
    assert found.splits == {"train": 0.8, "val": 0.2}
    assert found.crop == (32, 32)
    assert any("notes/sketch.png" in note and "left out" in note for note in found.notes)
    data = opened(found)
    assert [len(data.open_split(s)) for s in ("train", "val")] == [8, 2]
    sample = data.dataset("val")[0]
    i = int(sample["id"])
    np.testing.assert_array_equal(sample["inputs"]["depth"][0], depth(i))
    assert data.modalities[1].normalize(sample["inputs"]["depth"][None]).max() <= 0.8


def test_folders_that_say_nothing(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        look(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    for name in ("1.webp", "1.bmp", "2.bmp"):
        (tmp_path / "a" / name).touch()
    unread = r"\(2 files ending in .bmp are not read: .*; 1 files ending in .webp are not read: convert them"
    with pytest.raises(DataError, match=rf"no picture in it .* {unread}"):
        look(tmp_path)
    for i in range(3):
        save(tmp_path / f"a/{i}.png", rgb(i))
        save(tmp_path / f"b/{i}.png", rgb(i + 5))
    with pytest.raises(DataError, match="none of a, b looks like labels; expected PNG or NPY files with few values"):
        look(tmp_path)
    for i in range(3):
        save(tmp_path / f"label/other{i}.png", label(0, 1))
    with pytest.raises(DataError, match="taken for a label, but no other files have names that go with the labels'"):
        look(tmp_path)
    for i in range(3):
        save(tmp_path / f"label/{i}.png", label(0, 1))
        (tmp_path / f"label/other{i}.png").unlink()
    save(tmp_path / "jpeg/rgb/1.png", rgb())
    save(tmp_path / "jpeg/mask/1.jpg", rgb())
    with pytest.raises(DataError, match=r"mask/1.jpg: JPEG changes values, so it can hold no label"):
        look(tmp_path / "jpeg")
    for path in (tmp_path / "jpeg").glob("*/*"):
        path.unlink()
    (tmp_path / "label/1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"label/1.png: the file is empty"):
        look(tmp_path)


def test_sizes_that_differ_are_mentioned(tmp_path):
    found = guessed(tmp_path, {"rgb": [rgb(i) for i in range(3)], "depth": [depth(i)[:20, :28] for i in range(3)]})
    assert any("depth/0.png: pictures of 20x28 (height x width), but no label has this size" in n for n in found.notes)


def test_sizes_that_differ_are_resized(tmp_path):
    """To the first modality, from which crops are then cut; what is written opens and trains."""
    pictures = {"rgb": [np.kron(rgb(i), np.ones((4, 4, 1), np.uint8)) for i in range(3)], "nir": [depth()] * 3}
    found = guessed(tmp_path / "data", pictures)
    height, width = pictures["rgb"][0].shape[:2]
    assert any("files of unequal size are resized to rgb (resize: first)" in n for n in found.notes)
    assert found.crop == (height // 32 * 32, width // 32 * 32)
    written = yaml.safe_load(write_yaml(found, "mine", tmp_path / "conf").read_text())
    assert written["resize"] == "first"
    sample = FolderDataModule(**module_settings(found), num_workers=0).dataset("train", train=True)[0]
    assert {x.shape[1:] for x in sample["inputs"].values()} == {sample["label"].shape} == {found.crop}
