"""What the settings of `dataset=folder` make of stored values and labels, and which settings are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ktb.data.spec import IGNORE, IMAGENET_MEAN
from ktb.errors import ConfigError, DataError
from tests.ktb.data.sets.own import SIZE, STEMS, module, timed
from tests.ktb.data.written import save

NAN, INF = float("nan"), float("inf")


def test_modalities_without_rgb(root):
    rng = np.random.default_rng(1)
    for stem in STEMS:
        save(root / f"red/{stem}.png", rng.integers(0, 256, SIZE, np.uint8))
        save(root / f"nir/{stem}.npy", rng.random((*SIZE, 2)).astype(np.float64) * 4)
    data = module(
        root,
        modalities={
            "red": {"files": "red/*.png", "mean": 0.5, "std": 0.25},
            "nir": {"files": "nir/*.npy", "dtype": "float32", "channels": 2, "scale": 4, "mean": [0.1, 0.2]},
        },
        crop=(32, 32),
    )
    assert [m.channels for m in data.modalities] == [3, 2]
    batch = next(iter(data.train_dataloader()))
    assert {name: tuple(x.shape) for name, x in batch["inputs"].items()} == {
        "red": (2, 1, 32, 32),
        "nir": (2, 2, 32, 32),
    }
    red, nir = data.modalities
    stored = data.dataset("train")[0]["inputs"]
    assert red.normalize(stored["red"][None]).shape == (1, 3, *SIZE)
    np.testing.assert_allclose(
        red.normalize(stored["red"][None])[0, 2], (stored["red"][0] / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(nir.normalize(stored["nir"][None])[0, 1], stored["nir"][1] / 4 - 0.2, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels(root, channels):
    values = np.random.default_rng(0).integers(0, 256, (*SIZE, channels), np.uint8)
    for stem in STEMS:
        save(root / f"x/{stem}.npy", values)
    data = module(root, modalities={"x": {"files": "x/*.npy", "channels": channels}})
    stored = data.dataset("train")[0]["inputs"]["x"]
    assert stored.shape == (channels, *SIZE)
    model_input = data.modalities[0].normalize(stored[None])
    assert model_input.shape[1] == data.modalities[0].channels == (3 if channels == 1 else channels)
    np.testing.assert_allclose(model_input[0, -1], values[..., -1] / 255, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "scale"), [("uint8", None), ("uint16", 4000), ("float32", 0.5)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_model_gets_stored_over_scale_in_every_form(root, dtype, scale, channels):
    """(stored / scale - mean) / std, holes as they are treated, whatever the type and the number of channels."""
    values = np.random.default_rng(0).integers(40, 200, (*SIZE, channels)).astype(dtype)
    hole = np.zeros(SIZE, bool)
    hole[12:15, 20:24] = True
    values[hole] = 7
    for stem in STEMS:
        save(root / f"x/{stem}.npy", values)
    x = {
        "files": "x/*.npy",
        "dtype": dtype,
        "channels": channels,
        "scale": scale,
        "mean": 0.25,
        "std": 2,
        "hole_value": 7,
    }
    for holes in ("zero", "fill", "validity"):
        data = module(root, modalities={"x": {**x, "holes": holes}})
        got = data.modalities[0].normalize(data.dataset("train")[0]["inputs"]["x"][None])[0].numpy()
        expected = (values.astype(np.float64) / (scale or 255) - 0.25) / 2
        stored = got[:channels].transpose(1, 2, 0)
        np.testing.assert_allclose(stored[~hole], expected[~hole], rtol=1e-5, atol=1e-6)
        if holes == "fill":
            near = expected[8:19, 16:28][~hole[8:19, 16:28]]
            assert near.min() <= stored[hole].min() <= stored[hole].max() <= near.max()
        else:
            np.testing.assert_allclose(stored[hole], -0.125)
        if holes == "validity":
            np.testing.assert_allclose(got[-1], (~hole - 0.25) / 2, atol=1e-6)


def test_holes_zero_fill_validity(root):
    image = np.full(SIZE, 30000, np.uint16)
    image[10:20, 10:20] = 0
    for stem in STEMS:
        save(root / f"disparity/{stem}.png", image)
    expected = {"zero": np.where(image == 0, 0, 30000), "fill": np.full(SIZE, 30000)}
    for holes in ("zero", "fill", "validity"):
        x = {"files": "disparity/*.png", "dtype": "uint16", "hole_value": 0, "holes": holes}
        data = module(root, modalities={"x": x})
        stored = data.dataset("train")[0]["inputs"]["x"]
        model_input = data.modalities[0].normalize(stored[None])[0]
        np.testing.assert_array_equal(stored[0], expected.get(holes, expected["zero"]))
        assert model_input.shape[0] == (2 if holes == "validity" else 3)
        assert data.modalities[0].validity == (holes == "validity")
        if holes == "validity":
            np.testing.assert_array_equal(model_input[1], image > 0)


def test_16bit_rgb_becomes_8bit_when_declared(root):
    deep = np.random.default_rng(0).integers(0, 65536, (*SIZE, 3)).astype(np.uint16)
    for stem in STEMS:
        save(root / f"deep/{stem}.npy", deep)
    with pytest.raises(DataError, match="holds uint16 values, expected uint8"):
        module(root, modalities={"rgb": {"files": "deep/*.npy"}}).dataset("train")[0]
    data = module(root, modalities={"rgb": {"files": "deep/*.npy", "dtype": "uint16"}})
    stored = data.dataset("train")[0]["inputs"]["rgb"].permute(1, 2, 0).numpy()
    assert stored.dtype == np.uint8
    assert np.abs(stored - deep / 257).max() <= 0.5
    assert (data.modalities[0].scale, data.modalities[0].mean) == (255.0, IMAGENET_MEAN)


def test_nan_in_x(root):
    bad = np.ones(SIZE, np.float32)
    bad[3, 4] = np.nan
    for stem in STEMS:
        save(root / f"x/{stem}.npy", bad)
    x = {"files": "x/*.npy", "dtype": "float32"}
    with pytest.raises(DataError, match=r"x/a_01.npy: 1 values are NaN or infinite, the first at row 3, column 4"):
        module(root, modalities={"x": x}).dataset("train")[0]
    for nan in (float("nan"), "nan"):  # YAML's own word for it is .nan; nan is text to it
        filled = module(root, modalities={"x": {**x, "hole_value": nan, "holes": "fill"}}).dataset("train")[0]
        assert (filled["inputs"]["x"] == 1).all()


def labels(root: Path, stored: np.ndarray, **label: Any) -> np.ndarray:
    for stem in STEMS:
        save(root / f"label/{stem}.png", stored)
    changes = {key: label.pop(key) for key in ("classes", "palette") if key in label}
    return module(root, label={"files": "label/*.png", **label}, **changes).dataset("train")[0]["label"].numpy()


def test_label_settings(root):
    stored = np.resize(np.array([0, 1, 2, 255], np.uint8), SIZE)
    expect = {0: IGNORE, 1: 0, 2: 1, 255: IGNORE}
    by_id = np.vectorize(expect.get)(stored)
    np.testing.assert_array_equal(labels(root, stored, offset=-1, ignore=[0, 255]), by_id)
    np.testing.assert_array_equal(labels(root, stored, map={1: "road", 2: "pothole"}, ignore=[0, 255]), by_id)
    np.testing.assert_array_equal(labels(root, stored, map={"1": 0, 2: 1}, ignore=[0, 255]), by_id)
    with pytest.raises(DataError, match=r"label/a_01.png: label id 2 at \d+ pixels, .* expected 0-1, 255"):
        labels(root, stored)
    channels = np.stack([np.zeros_like(stored), stored % 2, stored], axis=-1)
    np.testing.assert_array_equal(labels(root, channels, channel=1), stored % 2)
    with pytest.raises(DataError, match="3 channels that differ, so it holds colours"):
        labels(root, channels)


def test_colour_labels(root):
    palette = [[10, 20, 30], [40, 50, 60]]
    stored = np.resize(np.array([0, 1, 2]), SIZE)
    image = np.array([*palette, [0, 0, 0]], np.uint8)[stored]
    got = labels(root, image, colours=True, palette=palette, ignore=[[0, 0, 0]])
    np.testing.assert_array_equal(got, np.where(stored == 2, IGNORE, stored))
    with pytest.raises(DataError, match=r"label colour \(0, 0, 0\) at row 0, column 2"):
        labels(root, image, colours=True, palette=palette)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"modalities": {}, "streams": []}, "dataset.modalities is empty; see dataset=potholes"),
        ({"classes": []}, "dataset.classes is empty"),
        ({"modalities": {"label": {"files": "x/*.png"}}}, "a modality called label"),
        ({"modalities": {"x": {"file": "x/*.png"}}}, "no setting 'file'; it has files, channels"),
        ({"modalities": {"x": {"file": "x/*.png"}}}, "did you mean 'files'?"),
        ({"modalities": {"x": {"dtype": "uint8"}}}, "dataset.modalities.x.files is empty; expected a pattern"),
        ({"modalities": {"x": {"files": "x/1.png"}}}, "dataset.modalities.x.files is 'x/1.png'; expected a wildcard"),
        ({"modalities": {"x": {"files": "../x/*.png"}}}, "expected a pattern below dataset.root"),
        ({"modalities": {"x": {"files": "{split}/x/*.png"}}}, "use {split} in the patterns of all or of none"),
        ({"modalities": {"x": {"files": "x/*", "dtype": "int8"}}}, "modalities.x: dtype is 'int8'; expected one"),
        ({"modalities": {"x": {"files": "x/*", "holes": "fill"}}}, "modalities.x: holes: fill needs a hole_value"),
        ({"modalities": {"x": {"files": "x/*", "channels": 65}}}, "modalities.x: channels is 65; expected 1 to 64"),
        ({"modalities": {"x": {"files": "x/*", "scale": 0}}}, "dataset.modalities.x: scale is 0; expected a positive"),
        ({"modalities": {"x": {"files": "x/*", "scale": NAN}}}, "x.scale is nan; expected a number"),
        ({"modalities": {"x": {"files": "x/*", "scale": [1, INF], "channels": 2}}}, "expected a list of numbers"),
        ({"modalities": {"x": {"files": "x/*", "hole_value": INF}}}, "hole_value is inf; expected a number (nan for"),
        ({"modalities": {"x": {"files": "x/*", "plane_range": NAN}}}, "x.plane_range is nan; expected a number"),
        ({"modalities": {"x": {"files": "x/*", "mean": NAN}}}, "modalities.x: mean is [nan]; expected 1 or 1 numbers"),
        ({"modalities": {"x": {"files": "x/*", "std": INF}}}, "modalities.x: std is [inf]; expected 1 or 1 numbers"),
        ({"modalities": {"x": {"files": "x/*", "std": [1, 2]}}}, "modalities.x: std is [1.0, 2.0]; expected 1 or 1"),
        ({"modalities": {"rgb": {"files": "x/*", "channels": 1}}}, "dataset.modalities.rgb: rgb has 3 channels"),
        ({"modalities": {"x": {"files": "x/*", "channels": "two"}}}, "x.channels is 'two'; expected a whole number"),
        ({"modalities": {"x": {"files": "x/*", "channels": 1.5}}}, "x.channels is 1.5; expected a whole number"),
        ({"modalities": {"x": {"files": "x/*", "pick": 3}}}, "x.pick is 3; expected a list of whole numbers"),
        ({"modalities": {"x": {"files": "x/*", "pick": [-1]}}}, "x.pick is [-1]; expected a list of whole numbers"),
        ({"modalities": {"x": {"files": "x/*", "percentiles": [2]}}}, "x.percentiles is [2]; expected two numbers"),
        ({"modalities": {"x": {"files": "x/*", "hole_value": "none"}}}, "x.hole_value is 'none'; expected a number"),
        ({"label": {"files": "label/*", "offset": "a"}}, "dataset.label.offset is 'a'; expected a whole number"),
        ({"splits": {"train": 0.7, "val": 0.4}}, "positive shares that add up to at most 1"),
        ({"splits": {"train": 0.7, "val": "val.txt"}}, "expected either list files, or folders"),
        ({"splits": {"train": "train.txt"}}, "expected train and at least one of val, test"),
        ({"palette": [[0, 0, 0]]}, "dataset.palette has 1 colours for 2 classes"),
        ({"palette": [[0, 0, 0], [0, 0, 256]]}, "dataset.palette holds [0, 0, 256]; expected colours"),
        ({"classes": ["a", "a"]}, "different names"),
        ({"label": {"files": "label/*.png", "map": {1: "lake"}}}, "label.map names the class 'lake'"),
        ({"label": {"files": "label/*.png", "ignore": ["-"]}}, "dataset.label names the stored id '-'"),
        ({"label": {"files": "label/*.png", "ignore": 255}}, "dataset.label.ignore is 255; expected a list, as in"),
        ({"label": {"files": "label/*.png", "ignore": "255"}}, "dataset.label.ignore is '255'; expected a list"),
        ({"label": {"files": "label/*.png", "map": [1, 2]}}, "dataset.label.map is [1, 2]; expected classes by"),
        ({"label": {"files": "label/*.png", "colours": "false"}}, "dataset.label.colours is 'false'; expected true or"),
        ({"label": {"files": "label/*.png", "channel": -1}}, "dataset.label.channel is -1; expected 0 or more"),
        ({"label": {"files": "label/*.png", "colours": True, "offset": -1}}, "so dataset.label.offset, which explains"),
        ({"label": {"files": "label/*.png", "colours": True, "map": {1: 0}, "channel": 0}}, "label.map and"),
        ({"modalities": {"x": {"files": "x/*", "hole_value": -1}}}, "hole_value is -1, which no uint8 value is"),
        ({"modalities": {"x": {"files": "x/*", "hole_value": 65536, "dtype": "uint16"}}}, "which no uint16 value is"),
        ({"modalities": {"x": {"files": "x/*", "hole_value": 0.5}}}, "hole_value is 0.5, which no uint8 value is"),
        ({"modalities": {"x": {"files": "x/*", "hole_value": NAN}}}, "hole_value is nan, which no uint8 value is"),
        ({"modalities": {"x": {"files": "x/*", "mean": "a"}}}, "x.mean is 'a'; expected a number, or a list of them"),
        ({"modalities": {"x": {"files": "x/*", "key": 3}}}, "x.key is 3; expected the name of an array"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path, changes, expected):
    with pytest.raises(ConfigError) as caught:
        module(tmp_path, **changes)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [0, False])
def test_classes_are_text(root: Path, name: Any) -> None:
    """A checkpoint that calls its classes 0 and 1 could not be read again."""
    with pytest.raises(ConfigError, match=f"dataset.classes holds {name}, which is no text; put it in quotes"):
        module(root, classes=["road", name])


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ({}, [[0, 1]]),
        ({"offset": -1}, [[1, 2]]),
        ({"map": {300: "pothole", 7: 0, 8: "road"}}, [[7, 300]]),
        ({"colours": True}, [[[1, 2, 3], [4, 5, 6]]]),
    ],
)
def test_predictions_as_they_would_be_stored(root, label, expected):
    data = module(root, label={"files": "label/*.png", **label}, palette=[[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(data.as_stored(np.array([[0, 1]])), expected)


def test_settings_of_time_that_cannot_be_right(tmp_path):
    settings = timed(tmp_path)
    for changes, message in (
        ({"max_gap": None}, "thermal.files is the list 'thermal.txt'; lists of time stamps need dataset.max_gap"),
        ({"max_gap": "x"}, "dataset.max_gap is 'x'; expected a number of seconds"),
        ({"max_gap": -1}, "dataset.max_gap is -1; expected a number of seconds"),
        ({"time_unit": "h"}, "dataset.time_unit is 'h'; expected null or one of s, ms, us, ns"),
    ):
        with pytest.raises(ConfigError, match=message):
            module(tmp_path, **settings | changes)
    (tmp_path / "thermal/0 x.png").unlink()
    with pytest.raises(DataError, match=r"thermal/0 x.png: no such file, but .*thermal.txt names it"):
        module(tmp_path, **settings).open_split("train")
