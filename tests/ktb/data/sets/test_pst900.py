"""PST900: pairing by folder, scales of thermal and depth, no void."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ktb.data.sets.pst900 import PST900DataModule
from ktb.data.tools.fixtures import draw, make_fixture
from ktb.errors import ConfigError, DataError

SIZE = (36, 64)
FIRST = "1_bag1a_rect_rgb_frame0000000000.png"


def module(root, **options):
    return PST900DataModule(root, **{"streams": ["rgb", "thermal"], "num_workers": 0, **options})


@pytest.fixture
def root(tmp_path):
    return make_fixture("pst900", tmp_path / "PST900", size=SIZE)


def test_samples_are_what_was_stored_whatever_the_name_says(root):
    """The files' names contain "rgb" themselves."""
    for split, first in (("train", 0), ("test", 4)):
        dataset = module(root).dataset(split)
        for i in range(4):
            truth = draw(SIZE, 5, first + i, void=False)
            sample = dataset[i]
            np.testing.assert_array_equal(sample["label"], truth.label)
            np.testing.assert_array_equal(sample["inputs"]["rgb"], truth.rgb.transpose(2, 0, 1))
            thermal = np.where(truth.hole, 0, 255 * truth.x).astype(np.uint8)
            np.testing.assert_array_equal(sample["inputs"]["thermal"][0], thermal)
    assert module(root).dataset("train")[0]["id"] == "train/1_bag1a_rect_rgb_frame0000000000"


def test_depth_is_in_units_of_25_6_metres(root):
    stored = np.zeros(SIZE, np.uint16)
    stored[0, :3] = (2560, 25600, 65535)
    Image.fromarray(stored).save(root / "train/depth" / FIRST)
    data = module(root, streams=["depth"])
    ready = data.spec.modalities["depth"].normalize(data.dataset("train")[0]["inputs"]["depth"][None])
    np.testing.assert_allclose(ready[0, 0, 0, :4] * 25.6, [1, 10, 25.6, 0], rtol=1e-4)


def test_holes_in_depth_do_not_bleed_when_resized(root):
    stored = np.full(SIZE, 5120, np.uint16)
    stored[:, ::5] = 0
    Image.fromarray(stored).save(root / "train/depth" / FIRST)
    resized = module(root, streams=["depth"], eval_size=96).dataset("train")[0]["inputs"]["depth"]
    assert resized.shape[1:] == (96, 192)
    assert set(resized.round().unique().tolist()) <= {0.0, 5120.0}


def test_raw_thermal_is_scaled_per_picture(root):
    ramp = np.linspace(28_000, 30_000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)
    ramp[0, 0] = 0  # a hole, no temperature
    Image.fromarray(ramp).save(root / "train/thermal_raw" / FIRST)
    data = module(root, streams=["thermal"], thermal_source="thermal_raw")
    read = data.dataset("train")[0]["inputs"]["thermal"]
    ready = data.spec.modalities["thermal"].normalize(read[None])[0, 0]
    assert (ready.min(), ready.max()) == (0, 1)
    assert ready[18, 0] == pytest.approx(0.5, abs=0.06)  # percentiles are taken of every fourth pixel
    with pytest.raises(ConfigError, match="dataset.thermal_source is 'raw'; expected one of thermal, thermal_raw"):
        module(root, thermal_source="raw")


def test_there_is_no_void(root):
    for wrong in (5, 255):
        Image.fromarray(np.full(SIZE, wrong, np.uint8)).save(
            root / "test/labels" / "5_bag5a_rect_rgb_frame0000000028.png"
        )
        with pytest.raises(DataError, match=f"label id {wrong} at 2304 pixels.*expected 0-4"):
            module(root).dataset("test")[0]


def test_the_sorted_folder_is_the_list(root):
    ids = [module(root).dataset("test")[i]["id"] for i in range(4)]
    assert ids == sorted(ids)
    (root / "train/rgb/notes.txt").touch()
    assert len(module(root).open_split("train")) == 4
    (root / "train/thermal" / FIRST).rename(root / "train/thermal/x.png")
    with pytest.raises(DataError, match=f"train/thermal/{FIRST}: no such file"):
        module(root).open_split("train")


def test_missing_and_misspelt_folders(tmp_path, root):
    (root / "train").rename(root / "Train")
    with pytest.raises(DataError, match=r"train/rgb: is not there.*has 'Train', not 'train': upper and lower case"):
        module(root).open_split("train")
    for file in (root / "test/rgb").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"test/rgb: holds no \.png file"):
        module(root).open_split("test")
    with pytest.raises(DataError, match="data root .*nowhere does not exist"):
        module(tmp_path / "nowhere").open_split("train")


def test_evaluation_size(root):
    """720 x 1280 go up to multiples of 32: 736 x 1280; the label stays."""
    transform = module(root, eval_size=[720, 1280]).eval_transform()
    images, label = transform({"rgb": np.zeros((720, 1280, 3), np.uint8)}, np.zeros((720, 1280), np.uint8), entropy=())
    assert (images["rgb"].shape, label.shape) == ((736, 1280, 3), (720, 1280))
    assert torch.equal(*(module(root).dataset("test")[0]["inputs"]["rgb"] for _ in range(2)))
