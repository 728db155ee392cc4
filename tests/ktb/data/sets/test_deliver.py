"""DELIVER: conditions on path components, label channel, low-resolution events."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from ktb.data.sets.deliver import CASES, CLASSES, PALETTE, WEATHERS, DELIVERDataModule
from ktb.data.tools.fixtures import draw, make_fixture
from ktb.errors import ConfigError, DataError

STREAMS = ["rgb", "depth", "event", "lidar"]
SIDE = 64


def module(root, **options):
    return DELIVERDataModule(root, **{"streams": STREAMS, "num_workers": 0, **options})


@pytest.fixture
def root(tmp_path):
    return make_fixture("deliver", tmp_path / "DELIVER", counts={"train": 30, "val": 10, "test": 5}, size=(SIDE, SIDE))


def path(root, top, entry_id, kind=None):
    return root / top / f"{entry_id}_{kind or top}_front.png"


def test_every_condition_is_found_and_named(root):
    entries = module(root).open_split("train").entries
    assert len(entries) == 30
    assert {(e.condition["weather"], e.condition["case"]) for e in entries} == {(w, c) for w in WEATHERS for c in CASES}
    for entry in entries:
        weather, split, scene, frame = entry.id.split("/")
        assert (weather, split, frame) == (entry.condition["weather"], "train", "045050")
        suffix = "" if entry.condition["case"] == "normal" else "_" + entry.condition["case"]
        assert scene.removeprefix("MAP_10_point").lstrip("0123456789") == suffix
    # File names repeat across conditions; whole paths do not.
    assert len({e.id for e in entries}) == 30
    assert len({e.files["rgb"][0].rpartition("/")[2] for e in entries}) == 1


def test_rain_is_not_in_train(root):
    rain = module(root, weather=["rain"])
    assert len(rain.open_split("train")) == 6
    assert {e.condition["weather"] for e in rain.open_split("train").entries} == {"rain"}
    assert all(e.id.startswith("rain/") for split in ("train", "val", "test") for e in rain.open_split(split).entries)
    assert len(module(root, weather=["sun", "cloud"], case=["normal"]).open_split("train")) == 2
    assert [e.condition["case"] for e in module(root, case=["eventlowres"]).open_split("val").entries] == [
        "eventlowres"
    ] * 2
    with pytest.raises(ConfigError, match=r"dataset\.weather is 'rainy'; expected some of .*did you mean 'rain'"):
        module(root, weather=["rainy"])
    with pytest.raises(ConfigError, match=r"dataset\.case is 'train'"):
        module(root, case=["train"])
    with pytest.raises(ConfigError, match=r"dataset\.case is empty"):
        module(root, case=[])


def test_samples_are_what_was_stored(root):
    data = module(root)
    index = {e.id: i for i, e in enumerate(data.open_split("train").entries)}
    truth = draw((SIDE, SIDE), 25, 0, void=True)
    sample = data.dataset("train")[index["cloud/train/MAP_10_point102/045050"]]
    np.testing.assert_array_equal(sample["label"], np.where(truth.label < 0, 255, truth.label))
    np.testing.assert_array_equal(sample["inputs"]["rgb"], truth.rgb.transpose(2, 0, 1))
    reading = (255 * truth.x).astype(np.uint8)
    np.testing.assert_array_equal(sample["inputs"]["lidar"], np.stack([np.where(truth.hole, 0, reading)] * 3))
    hha = sample["inputs"]["depth"]
    np.testing.assert_array_equal(hha[1], reading)
    assert not np.array_equal(hha[0], hha[1])
    raw = module(root, depth_source="depth").dataset("train")[index["cloud/train/MAP_10_point102/045050"]]
    np.testing.assert_array_equal(raw["inputs"]["depth"], np.stack([reading] * 3))
    with pytest.raises(ConfigError, match=r"dataset\.depth_source is 'HHA'; expected one of hha, depth"):
        module(root, depth_source="HHA")


def test_ids_are_in_the_first_channel_with_two_voids(root):
    data = module(root)
    entry = data.open_split("val").entries[0]
    pixels = np.full((SIDE, SIDE, 4), 77, np.uint8)
    pixels[..., 0] = 1
    pixels[0, :4, 0] = (0, 255, 25, 7)
    Image.fromarray(pixels).save(root / entry.label)
    label = data.dataset("val")[0]["label"]
    assert label[0, :4].tolist() == [255, 255, 24, 6]
    assert (label[1:] == 0).all()
    assert (CLASSES[0], CLASSES[24], CLASSES[6]) == ("Building", "Truck", "Road")
    assert (PALETTE[6], PALETTE[24]) == ((128, 64, 128), (0, 0, 70))
    pixels[9, 9, 0] = 26
    Image.fromarray(pixels).save(root / entry.label)
    with pytest.raises(DataError, match=r"label id 26 at 1 pixels, the first at row 9, column 9; expected 0-25, 255"):
        data.dataset("val")[0]


def test_low_resolution_events_are_resized_nearest_and_nothing_else_is(root):
    data = module(root)
    entry = next(e for e in data.open_split("val").entries if e.condition["case"] == "eventlowres")
    i = data.open_split("val").entries.index(entry)
    small = np.array(Image.open(root / entry.files["event"][0]))
    assert small.shape == (31, 31, 3)
    event = data.dataset("val")[i]["inputs"]["event"]
    assert event.shape == (3, SIDE, SIDE)
    expected = cv2.resize(small, (SIDE, SIDE), interpolation=cv2.INTER_NEAREST_EXACT)
    np.testing.assert_array_equal(event, expected.transpose(2, 0, 1))
    Image.fromarray(np.zeros((31, 31, 3), np.uint8)).save(root / entry.files["lidar"][0])
    with pytest.raises(DataError, match=r"lidar is 31 x 31 pixels but its label .* is 64 x 64"):
        data.dataset("val")[i]


@pytest.mark.parametrize(("channels", "expected"), [(1, [5, 5, 5]), (3, [5, 6, 7]), (4, [5, 6, 7])])
def test_pictures_of_one_three_and_four_channels(root, channels, expected):
    data = module(root)
    entry = data.open_split("test").entries[0]
    pixels = np.broadcast_to(np.array([5, 6, 7, 8], np.uint8)[:channels], (SIDE, SIDE, channels))
    for name in STREAMS[1:]:
        Image.fromarray(pixels.squeeze()).save(root / entry.files[name][0])
    inputs = data.dataset("test")[0]["inputs"]
    assert all(inputs[name][:, 3, 3].tolist() == expected for name in STREAMS[1:])
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)).save(root / entry.files["lidar"][0])
    with pytest.raises(
        DataError, match=r"lidar_front\.png: holds uint16 values in 1 channels; expected an 8-bit picture"
    ):
        data.dataset("test")[0]


def test_low_resolution_events_are_mentioned_once_per_split(root, caplog):
    with caplog.at_level("INFO"):
        module(root, streams=["rgb", "event"]).dataset("train")
        module(root, streams=["rgb"]).dataset("train")
    (message,) = (r.message for r in caplog.records if "low resolution" in r.message)
    assert message.startswith("deliver: train: 5 of 30 event pictures are of low resolution (case eventlowres)")


def test_missing_and_unknown_folders(root):
    scene = next((root / "img/fog/val").iterdir())
    scene.rename(scene.with_name("MAP_10_point9_blurry"))
    with pytest.raises(
        DataError, match=r"img/fog/val/MAP_10_point9_blurry: unknown kind of scene; expected MAP_<x>_point"
    ):
        module(root).open_split("val")
    assert len(module(root, weather=["sun"]).open_split("val")) == 2
    event = next((root / "event/sun/val").rglob("*.png"))
    event.unlink()
    with pytest.raises(DataError, match=r"event_front\.png: no such file"):
        module(root, weather=["sun"]).open_split("val")
    assert len(module(root, weather=["sun"], streams=["rgb"]).open_split("val")) == 2
    with pytest.raises(
        DataError, match=r"no picture of the cases lidarjitter; expected <scene>/<frame>_rgb_front\.png"
    ):
        module(root, case=["lidarjitter"], weather=["rain"]).open_split("test")
    (root / "img").rename(root / "Img")
    with pytest.raises(DataError, match=r"img: no such folder.*has 'Img', not 'img'"):
        module(root).open_split("train")
