"""SUN RGB-D: label and depth coding, list dialects, sizes that differ."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ktb.data.sets.nyu import CLASSES as NYU_CLASSES
from ktb.data.sets.sunrgbd import CLASSES, SUNRGBDDataModule
from ktb.data.tools.fixtures import draw, make_fixture
from ktb.errors import DataError

SIZE = (40, 48)


def module(root, **options):
    return SUNRGBDDataModule(root, **{"streams": ["rgb", "depth"], "num_workers": 0, **options})


@pytest.fixture
def root(tmp_path):
    return make_fixture("sunrgbd", tmp_path / "SUN-RGBD", size=SIZE)


def test_classes_are_the_first_37_of_nyu():
    assert NYU_CLASSES[:37] == CLASSES
    assert (CLASSES[0], CLASSES[36], len(CLASSES)) == ("wall", "bag", 37)


def test_labels_lose_one_and_void_is_ignored(root):
    data = module(root)
    np.testing.assert_array_equal(
        data.dataset("train")[0]["label"], np.where((t := draw(SIZE, 37, 0, void=True).label) < 0, 255, t)
    )
    stored = np.zeros(SIZE, np.uint8)
    stored[0, :4] = (0, 1, 37, 255)
    Image.fromarray(stored).save(root / "labels/train_0.png")
    assert data.dataset("train")[0]["label"][0, :4].tolist() == [255, 0, 36, 255]


def test_sizes_of_the_sensors_stay(root):
    data = module(root)
    sizes = [tuple(data.dataset("train")[i]["label"].shape) for i in range(4)]
    assert sizes == [(40, 48), (48, 60), (56, 72), (40, 84)]


def test_sixteen_bit_depth_is_its_high_byte(tmp_path, root):
    sixteen = make_fixture("sunrgbd", tmp_path / "16", layout="16bit", size=SIZE)
    a, b = (module(r).dataset("test")[1]["inputs"]["depth"] for r in (root, sixteen))
    assert (np.array(Image.open(sixteen / "Depth/test_1.png")) >> 8 == a[0].numpy()).all()
    np.testing.assert_array_equal(a, b)
    assert a.shape[0] == 1


def test_grey_saved_as_colour_is_grey_and_colour_is_refused(root):
    grey = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
    Image.fromarray(np.dstack([grey] * 3)).save(root / "Depth/train_0.png")
    np.testing.assert_array_equal(module(root).dataset("train")[0]["inputs"]["depth"][0], grey)
    Image.fromarray(np.dstack([grey, grey, 255 - grey])).save(root / "Depth/train_0.png")
    with pytest.raises(
        DataError, match=r"Depth/train_0\.png: holds uint8 values of shape \(40, 48, 3\); expected depth"
    ):
        module(root).dataset("train")[0]


def test_depth_of_another_size_is_resized_without_new_values(root):
    depth = np.arange(20 * 24, dtype=np.uint8).reshape(20, 24)
    Image.fromarray(depth).save(root / "Depth/train_0.png")
    read = module(root).dataset("train")[0]["inputs"]["depth"][0]
    np.testing.assert_array_equal(read, depth.repeat(2, 0).repeat(2, 1))
    Image.fromarray(np.zeros((20, 24, 3), np.uint8)).save(root / "RGB/train_0.jpg")
    with pytest.raises(DataError, match=r"rgb is 24 x 20 pixels but its label .* is 48 x 40"):
        module(root).dataset("train")[0]


def test_list_dialects_agree_and_the_third_column_names_the_depth(tmp_path, root):
    tabs = make_fixture("sunrgbd", tmp_path / "tabs", layout="tabs", size=SIZE)
    for split in ("train", "test"):
        a, b = (module(r).open_split(split).entries for r in (root, tabs))
        assert a == b
    (tabs / "Depth").rename(tabs / "elsewhere")
    lines = (tabs / "train.txt").read_text().replace("Depth/", "elsewhere/")
    (tabs / "train.txt").write_text(lines)
    assert module(tabs).open_split("train").entries[0].files["depth"] == ("elsewhere/train_0.png",)
    assert module(tabs).open_split("train").entries[0].id == "RGB/train_0"


def test_broken_lists_and_missing_files(root):
    (root / "test.txt").write_text("RGB/test_0.jpg\n")
    with pytest.raises(DataError, match=r"test\.txt, line 1: 1 columns; expected an image and a label"):
        module(root).open_split("test")
    (root / "Depth/train_2.png").unlink()
    with pytest.raises(DataError, match=r"Depth/train_2\.png: no such file, but .*train\.txt names it"):
        module(root).open_split("train")
    assert len(module(root, streams=["rgb"]).open_split("train")) == 4


def test_a_label_beyond_the_classes_is_named(root):
    Image.fromarray(np.full(SIZE, 38, np.uint8)).save(root / "labels/train_0.png")
    with pytest.raises(DataError, match=r"labels/train_0\.png: label id 38 at 1920 pixels.*expected 0-37, 255"):
        module(root).dataset("train")[0]
