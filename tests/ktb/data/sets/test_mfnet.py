"""MFNet: both layouts, day and night, labels without void."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ktb.data.sets.mfnet import CLASSES, PALETTE, MFNetDataModule
from ktb.data.tools.fixtures import draw, make_fixture
from ktb.errors import ConfigError, DataError

SIZE = (40, 56)


def module(root, **options):
    return MFNetDataModule(root, **{"streams": ["rgb", "thermal"], "num_workers": 0, **options})


@pytest.fixture
def root(tmp_path):
    return make_fixture("mfnet", tmp_path / "MFNet", size=SIZE)


def test_samples_are_what_was_stored(root):
    for split, first in (("train", 0), ("val", 4), ("test", 8)):
        for i in range(4):
            truth = draw(SIZE, 9, first + i, void=False)
            sample = module(root).dataset(split)[i]
            np.testing.assert_array_equal(sample["label"], truth.label)
            np.testing.assert_array_equal(sample["inputs"]["rgb"], truth.rgb.transpose(2, 0, 1))
            np.testing.assert_array_equal(sample["inputs"]["thermal"][0], (255 * truth.x).astype(np.uint8))


def test_rgba_files_hold_the_same_samples(tmp_path, root):
    rgba = make_fixture("mfnet", tmp_path / "rgba", layout="rgba", size=SIZE)
    assert np.array(Image.open(rgba / "images/00001D.png")).shape == (*SIZE, 4)
    for split in ("train", "val", "test"):
        for i in range(4):
            a, b = module(root).dataset(split)[i], module(rgba).dataset(split)[i]
            assert a["id"] == b["id"]
            assert a["condition"] == b["condition"]
            assert torch.equal(a["label"], b["label"])
            assert all(torch.equal(a["inputs"][m], b["inputs"][m]) for m in ("rgb", "thermal"))


def test_transparent_pixels_keep_their_colour(tmp_path):
    """A cold pixel has alpha 0; nothing may take that for "nothing to see here"."""
    rgba = make_fixture("mfnet", tmp_path / "rgba", layout="rgba", size=SIZE)
    image = np.full((*SIZE, 4), (10, 20, 30, 0), np.uint8)
    Image.fromarray(image).save(rgba / "images/00001D.png")
    inputs = module(rgba).dataset("train")[0]["inputs"]
    assert inputs["rgb"][:, 0, 0].tolist() == [10, 20, 30]
    assert inputs["thermal"].max() == 0


def test_day_and_night(root):
    entries = module(root).open_split("test").entries
    assert [e.id for e in entries] == ["00009D", "00010N", "00011D", "00012N"]
    assert [e.condition for e in entries] == [{"time": "day"}, {"time": "night"}] * 2
    for folder in ("rgb", "ther", "labels"):
        for old, new in (("00009D", "00009D_flip"), ("00010N", "extra")):
            (root / folder / f"{old}.png").rename(root / folder / f"{new}.png")
    (root / "test.txt").write_text("00009D_flip\nextra\n")
    assert [e.condition for e in module(root).open_split("test").entries] == [{"time": "day"}, {}]


def test_names_may_have_endings_but_no_folders(root):
    (root / "test.txt").write_text("00009D.png\n00010N\n")
    assert [e.id for e in module(root).open_split("test").entries] == ["00009D", "00010N"]
    (root / "test.txt").write_text("rgb/00009D.png\n")
    with pytest.raises(DataError, match=r"test\.txt, line 1: 'rgb/00009D\.png'; expected the name of a picture"):
        module(root).open_split("test")


def test_train_on_train_and_val(root):
    lists = {"train": ["train.txt", "val.txt"], "test": "test.txt"}
    data = module(root, lists=lists, selection_split="test")
    assert [e.id for e in data.open_split("train").entries] == [f"{i:05d}{'DN'[(i - 1) % 2]}" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="mfnet has no split 'val'; it has train, test"):
        module(root, lists=lists)
    with pytest.raises(DataError, match=r"test\.txt, line 1: '00009D' is listed before"):
        module(root, lists={"train": ["test.txt", "test.txt"], "val": "val.txt", "test": "test.txt"}).open_split(
            "train"
        )


def test_there_is_no_void(root):
    label = np.zeros(SIZE, np.uint8)
    label[3, 5] = 8
    Image.fromarray(label).save(root / "labels/00001D.png")
    assert module(root).dataset("train")[0]["label"].unique().tolist() == [0, 8]
    for wrong in (9, 255):
        label[3, 5] = wrong
        Image.fromarray(label).save(root / "labels/00001D.png")
        with pytest.raises(
            DataError, match=f"label id {wrong} at 1 pixels, the first at row 3, column 5; expected 0-8"
        ):
            module(root).dataset("train")[0]
    assert dict(zip(CLASSES, PALETTE, strict=True))["bump"] == (192, 64, 0)


def test_bad_files_and_roots(tmp_path, root):
    Image.fromarray(np.arange(SIZE[0] * SIZE[1] * 3, dtype=np.uint8).reshape(*SIZE, 3)).save(root / "ther/00001D.png")
    with pytest.raises(DataError, match=r"ther/00001D\.png: has 3 channels, expected 1"):
        module(root).dataset("train")[0]
    rgba = make_fixture("mfnet", tmp_path / "rgba", layout="rgba", size=SIZE)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(rgba / "images/00001D.png")
    with pytest.raises(DataError, match=r"images/00001D\.png: has 3 channels, expected at least 4"):
        module(rgba).dataset("train")[0]
    with pytest.raises(DataError, match=r"MFNet/rgb: has no folders; expected rgb, ther and labels, or images"):
        module(root / "rgb").open_split("train")
    (root / "ther/00002N.png").unlink()
    with pytest.raises(DataError, match=r"ther/00002N\.png: no such file, but .*train\.txt names it"):
        module(root).open_split("train")
