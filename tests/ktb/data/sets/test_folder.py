"""The user's own data: patterns, pairing, splits, values, labels, all from settings alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ktb.config.compose import conf_dir
from ktb.data.sets.folder import FolderDataModule
from ktb.data.spec import IGNORE, IMAGENET_MEAN
from ktb.errors import ConfigError, DataError

SIZE = (36, 44)
STEMS = ("a_01", "a_02", "b_01", "b_02", "b_03")


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def module(root: Path, **changes: Any) -> FolderDataModule:
    settings: dict[str, Any] = {
        "modalities": {
            "rgb": {"files": "rgb/*.png"},
            "disparity": {"files": "disparity/*.png", "dtype": "uint16", "hole_value": 0},
        },
        "label": {"files": "label/*.png"},
        "classes": ["road", "pothole"],
        "splits": {"train": "train.txt", "val": "val.txt"},
        "num_workers": 0,
        "batch_size": 2,
    }
    settings |= changes
    return FolderDataModule(root, **({"streams": list(settings["modalities"])} | settings))


def ids(data: FolderDataModule, split: str) -> list[str]:
    dataset = data.dataset(split)
    return [dataset[i]["id"] for i in range(len(dataset))]


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for stem in STEMS:
        save(tmp_path / f"rgb/{stem}.png", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(tmp_path / f"disparity/{stem}.png", rng.integers(1, 65536, SIZE).astype(np.uint16))
        save(tmp_path / f"label/{stem}.png", rng.integers(0, 2, SIZE, np.uint8))
    (tmp_path / "train.txt").write_text("a_01\nb_02\na_02\n")
    (tmp_path / "val.txt").write_text("b_01\n")
    return tmp_path


# --- where files are -------------------------------------------------------------------------------------------------


def test_lists_name_samples(root):
    data = module(root)
    assert ids(data, "train") == ["a_01", "b_02", "a_02"]
    assert (data.spec.selection_split, data.spec.report_split) == ("val", "val")
    for names in (
        "rgb/b_03.png label/b_03.png",
        "rgb/b_03.png\tlabel/b_03.png",
        "rgb/b_03.png",
        "label/b_03.png",
        "disparity/b_03",
        "b_03.png",
        "b_03",
    ):
        (root / "val.txt").write_text(names + "\n")
        assert ids(module(root), "val") == ["b_03"]


def test_samples_are_the_files(root):
    sample = module(root).dataset("train")[1]
    for name, folder in (("rgb", "rgb"), ("disparity", "disparity")):
        with Image.open(root / folder / "b_02.png") as image:
            stored = np.asarray(image, np.float32)
        np.testing.assert_array_equal(sample["inputs"][name].permute(1, 2, 0).squeeze(), stored)
    with Image.open(root / "label/b_02.png") as image:
        np.testing.assert_array_equal(sample["label"], np.asarray(image))


def test_shares(root):
    def splits(split_seed: int, **changes: Any) -> list[list[str]]:
        data = module(root, splits={"train": 0.6, "val": 0.2, "test": 0.2}, split_seed=split_seed, **changes)
        return [ids(data, split) for split in ("train", "val", "test")]

    assert [len(split) for split in splits(0)] == [3, 1, 1]
    assert sorted(itertools.chain(*splits(0))) == list(STEMS)
    assert splits(0) == splits(0, seed=99, streams=["rgb"])  # neither the run's seed nor its modalities matter
    assert len({tuple(map(tuple, splits(seed))) for seed in range(5)}) > 1


def test_folders(root):
    for split in ("training", "validation"):
        for kind in ("rgb", "disparity", "label"):
            source = root / f"{kind}/{'a' if split == 'training' else 'b'}_01.png"
            target = root / f"by_split/{split}/{kind}/1.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    data = module(
        root / "by_split",
        modalities={
            "rgb": {"files": "{split}/rgb/*.png"},
            "x": {"files": "{split}/disparity/*.png", "dtype": "uint16"},
        },
        label={"files": "{split}/label/*.png"},
        splits={"train": "training", "val": "validation"},
    )
    assert [ids(data, split) for split in ("train", "val")] == [["1"], ["1"]]
    with Image.open(root / "rgb/b_01.png") as image:
        np.testing.assert_array_equal(data.dataset("val")[0]["inputs"]["rgb"].permute(1, 2, 0), np.asarray(image))


def test_wildcards(tmp_path):
    rng = np.random.default_rng(0)
    for place in ("north/1", "north/2", "south/deep/1"):
        folder, _, frame = place.rpartition("/")
        save(tmp_path / f"data/{folder}/{frame}_colour.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(tmp_path / f"data/{folder}/{frame}_range.npy", rng.random(SIZE, np.float32))
        save(tmp_path / f"data/{folder}/{frame}_mask.png", rng.integers(0, 2, SIZE, np.uint8))
    data = module(
        tmp_path,
        modalities={
            "rgb": {"files": "data/**/*_colour.*"},
            "range": {"files": "data/**/*_range.npy", "dtype": "float32"},
        },
        label={"files": "data/**/*_mask.png"},
        splits={"train": 2 / 3, "val": 1 / 3},
    )
    assert sorted(ids(data, "train") + ids(data, "val")) == ["north/1", "north/2", "south/deep/1"]
    doubled = tmp_path / "data/north/1_colour.png"
    save(doubled, np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(DataError, match=r"is the same sample as data/north/1_colour\.... by the pattern"):
        data.open_split("train")


def test_ambiguous_names_in_a_list(tmp_path):
    for folder in ("north", "south"):
        save(tmp_path / f"{folder}/rgb/1.png", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / f"{folder}/label/1.png", np.zeros(SIZE, np.uint8))
    options = {"modalities": {"rgb": {"files": "*/rgb/*.png"}}, "label": {"files": "*/label/*.png"}}
    (tmp_path / "train.txt").write_text("north/1\n")
    (tmp_path / "val.txt").write_text("1.png\n")
    assert ids(module(tmp_path, **options), "train") == ["north/1"]
    with pytest.raises(DataError, match=r"val.txt, line 1: '1.png' is not one sample .* expected names like 'north/1'"):
        module(tmp_path, **options).dataset("val")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda r: (r / "train.txt").write_text("a_01\na_09\n"), "line 2: 'a_09' is not one sample with all its files"),
        (lambda r: (r / "train.txt").write_text("a_01\nrgb/a_01.png\n"), "lines 1 and 2 name the same sample 'a_01'"),
        (lambda r: (r / "train.txt").write_text("a_01\n../a_02\n"), "line 2: '../a_02' leaves the data root"),
        (lambda r: (r / "train.txt").unlink(), "train.txt: no such file"),
        (lambda r: (r / "disparity/a_01.png").unlink(), "'a_01' is not one sample with all its files"),
        (lambda r: (r / "disparity").rename(r / "Disparity"), "has 'Disparity', not 'disparity': upper and lower case"),
    ],
)  # fmt: skip
def test_broken_lists_and_folders(root, spoil, expected):
    spoil(root)
    with pytest.raises(DataError) as caught:
        module(root).dataset("train")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_pattern_without_files(root):
    with pytest.raises(DataError) as caught:
        module(root, label={"files": "label/*.tif"}).dataset("train")
    assert str(caught.value) == (
        f"{root}/label/*.tif: no file matches this pattern; correct dataset.label.files or dataset.root"
    )


def test_unpaired_files_without_lists(root):
    (root / "disparity/b_03.png").unlink()
    shares = {"train": 0.5, "val": 0.5}
    for streams in (["rgb", "disparity"], ["rgb"]):
        with pytest.raises(DataError, match=r"rgb/b_03.png: no file of 'disparity' belongs to it"):
            module(root, splits=shares, streams=streams).dataset("train")
    assert ids(module(root, streams=["rgb"]), "val") == ["b_01"]  # with lists, what is not used need not be there


# --- what values mean ------------------------------------------------------------------------------------------------


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


# --- labels ----------------------------------------------------------------------------------------------------------


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


# --- settings --------------------------------------------------------------------------------------------------------

RGB = {"rgb": {"files": "rgb/*.png"}}


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
        ({"modalities": {"x": {"files": "x/*", "channels": 5}}}, "modalities.x: channels is 5; expected 1 to 4"),
        ({"modalities": {"x": {"files": "x/*", "scale": 0}}}, "dataset.modalities.x: scale is 0; expected a positive"),
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
    ],
)  # fmt: skip
def test_settings_that_cannot_work(tmp_path, changes, expected):
    with pytest.raises(ConfigError) as caught:
        module(tmp_path, **changes)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the shipped example on the real frames --------------------------------------------------------------------------


def test_potholes(shared):
    settings = {
        key: value
        for name in ("folder", "potholes")
        for key, value in yaml.safe_load((conf_dir() / f"dataset/{name}.yaml").read_text()).items()
        if key not in ("defaults", "_target_", "recipe", "default_modality", "default_streams", "seed")
    }
    settings |= {"root": shared / "real/potholes", "streams": ["rgb", "disparity"], "num_workers": 0}
    data = FolderDataModule(**settings)
    assert [len(data.dataset(split)) for split in ("train", "val")] == [37, 8]
    hits = union = 0
    for i in range(8):
        sample = data.dataset("val")[i]
        x, label = sample["inputs"]["disparity"][0], sample["label"]
        assert x.min() >= 0
        assert x.max() <= 1
        dip = x < 0.22  # the best threshold on the training frames
        hits, union = hits + int((dip & (label == 1)).sum()), union + int((dip | (label == 1)).sum())
    # With the road's plane taken out, a mere threshold finds the potholes (0.65 measured).
    assert hits / union > 0.6


@pytest.mark.parametrize("name", [0, False])
def test_classes_are_text(root: Path, name: Any) -> None:
    """A checkpoint that calls its classes 0 and 1 could not be read again."""
    with pytest.raises(ConfigError, match=f"dataset.classes holds {name}, which is no text; put it in quotes"):
        module(root, classes=["road", name])


def test_names_with_commas_spaces_and_absolute_paths_in_lists(root):
    for kind in ("rgb", "disparity", "label"):
        (root / kind / "b_03.png").rename(root / kind / "b, 03 x.png")
    for line in (
        "b, 03 x",
        "b, 03 x.png ",
        "rgb/b, 03 x.png,label/b, 03 x.png",
        "rgb/b, 03 x.png label/b, 03 x.png",
        f"{root}/rgb/b, 03 x.png {root}/label/b, 03 x.png",
        f"{root}/rgb/b, 03 x.png;{root}/label/b, 03 x.png",
        "rgb\\b, 03 x.png\tlabel\\b, 03 x.png",
        "/rgb/b, 03 x.png",
    ):
        (root / "val.txt").write_bytes(f"{line}\r\n".encode())
        assert ids(module(root), "val") == ["b, 03 x"], line
    for line, message in (
        ("rgb/a_01.png label/a_02.png", "names two samples, 'a_01' and 'a_02'; expected one per line"),
        (
            "/elsewhere/rgb/a_01.png",
            "'/elsewhere/rgb/a_01.png' leaves the data root .*; expected a name below the root",
        ),
        ("C:\\data\\rgb\\a_01.png", "leaves the data root"),
    ):
        (root / "val.txt").write_text(f"{line}\n")
        with pytest.raises(DataError, match=message):
            module(root).open_split("val")


# --- files of several sizes ------------------------------------------------------------------------------------------


def unequal(root: Path, disparity: tuple[int, int] = (18, 22), label: tuple[int, int] = SIZE) -> None:
    """Disparity of another size, its left half without measurements and the rest 1000; labels of rows 0, 1, 0, ..."""
    values = np.full(disparity, 1000, np.uint16)
    values[:, : disparity[1] // 2] = 0
    for stem in STEMS:
        save(root / f"disparity/{stem}.png", values)
        save(root / f"label/{stem}.png", np.repeat(np.arange(label[0]) % 2, label[1]).reshape(label).astype(np.uint8))


def test_modalities_are_resized_to_the_first_without_their_holes(root):
    unequal(root)
    raw = module(root).open_split("train").read(0, ["rgb", "disparity"])
    assert raw.images["disparity"].shape == (*SIZE, 1)
    # Values are those that were measured; plain interpolation would give 250, 500 and 750 at the edge.
    assert sorted(np.unique(raw.images["disparity"])) == [0, 1000]
    np.testing.assert_array_equal(raw.images["disparity"][..., 0] > 0, raw.valid["disparity"])
    assert (raw.images["disparity"][:, 22:] == 1000).all()
    assert raw.stored == {"disparity": (18, 22)}
    # Bilinear in between where everything is measured.
    ramp = np.tile(np.arange(1, 23, dtype=np.uint16) * 100, (18, 1))
    save(root / "disparity/a_01.png", ramp)
    row = module(root).open_split("train").read(0, ["rgb", "disparity"]).images["disparity"][0, :, 0]
    np.testing.assert_array_equal(row[:6], [100, 125, 175, 225, 275, 325])


def test_labels_of_another_size_train_at_the_images_and_score_at_their_own(root):
    unequal(root, label=(72, 88))
    data = module(root, crop=None)
    train, val = data.dataset("train", train=True)[0], data.dataset("val")[0]
    assert train["inputs"]["rgb"].shape[1:] == train["label"].shape == SIZE
    assert val["inputs"]["rgb"].shape[1:] == val["inputs"]["disparity"].shape[1:] == SIZE
    assert val["label"].shape == (72, 88)
    np.testing.assert_array_equal(val["label"][:4, 0], [0, 1, 0, 1])
    assert val["label"].unique().tolist() == [0, 1]
    data = module(root, crop=None, resize="label")
    for sample in (data.dataset("train", train=True)[0], data.dataset("val")[0]):
        assert {x.shape[1:] for x in sample["inputs"].values()} == {(72, 88)}
        assert sample["label"].shape == (72, 88)
    # The first modality is the first that is used.
    alone = module(root, streams=["disparity"]).dataset("val")[0]
    assert (alone["inputs"]["disparity"].shape[1:], tuple(alone["label"].shape)) == ((18, 22), (72, 88))


def test_resizing_is_said_once_and_can_be_refused(root):
    assert module(root).open_split("train").notes == []
    unequal(root, label=(72, 88))
    (note,) = module(root).open_split("train").notes
    assert note == (
        "resized to 36x44 (height x width) of the rgb: disparity of 18x22, label of 72x88 in training, scored at its "
        "own size (labels nearest, all others bilinear without their holes; dataset.resize=first; first sample)"
    )
    with pytest.raises(DataError, match=r"disparity is 22 x 18 pixels but its label .* is 88 x 72; all files"):
        module(root, resize=None, streams=["disparity"]).open_split("train").read(0, ["disparity"])
    with pytest.raises(ConfigError, match="dataset.resize is 'big'; expected first, label or null"):
        module(root, resize="big")


@pytest.mark.parametrize(("disparity", "label"), [((18, 30), SIZE), ((18, 22), (72, 120))])
def test_another_aspect_ratio_is_another_view(root, disparity, label):
    unequal(root, disparity, label)
    with pytest.raises(DataError, match=r"another aspect ratio, so they don't show the same view; cut"):
        module(root).open_split("train").read(0, ["rgb", "disparity"])


# --- a split without labels ------------------------------------------------------------------------------------------


def test_a_test_split_may_lack_labels(root):
    lists = {"train": "train.txt", "val": "val.txt", "test": "test.txt"}
    (root / "test.txt").write_text("b_02.png\nb_03\n")
    (root / "train.txt").write_text("a_01\na_02\n")
    assert module(root, splits=lists).labelled("test")
    for stem in ("b_02", "b_03"):
        (root / f"label/{stem}.png").unlink()
    data = module(root, splits=lists)
    assert (data.labelled("val"), data.labelled("test")) == (True, False)
    assert ids(data, "test") == ["b_02", "b_03"]
    sample = data.dataset("test")[0]
    assert sample["label"].shape == SIZE
    assert sample["label"].unique().tolist() == [IGNORE]
    assert "no sample has a label (label/*.png): there are no scores" in data.open_split("test").notes[-1]
    # Some labels are a mistake, and so are none where training needs them.
    (root / "test.txt").write_text("b_02\nb_01\n")
    with pytest.raises(DataError, match="test.txt, line 1: 'b_02' is not one sample with all its files"):
        module(root, splits=lists).open_split("test")
    (root / "val.txt").write_text("b_03\n")
    with pytest.raises(DataError, match="'b_03' is not one sample with all its files"):
        module(root, splits=lists).open_split("val")


def test_a_test_folder_may_lack_labels(tmp_path):
    for split, stem in (("training", "1"), ("validation", "2"), ("testing", "3")):
        save(tmp_path / split / f"rgb/{stem}.png", np.zeros((*SIZE, 3), np.uint8))
        if split != "testing":
            save(tmp_path / split / f"label/{stem}.png", np.zeros(SIZE, np.uint8))
    settings = {
        "modalities": {"rgb": {"files": "{split}/rgb/*.png"}},
        "label": {"files": "{split}/label/*.png"},
        "splits": {"train": "training", "val": "validation", "test": "testing"},
    }
    data = module(tmp_path, **settings)
    assert [data.labelled(split) for split in ("train", "val", "test")] == [True, True, False]
    assert ids(data, "test") == ["3"]
    settings["splits"] = {"train": "training", "val": "testing"}
    with pytest.raises(DataError, match="no file matches this pattern"):
        module(tmp_path, **settings).open_split("val")


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


# --- pairing by time -------------------------------------------------------------------------------------------------


def timed(root: Path) -> dict[str, Any]:
    """Ten frames of RGB at 10 Hz from 100 s on, labels for the even ones, a thermal sensor 20 ms behind that sleeps in
    the middle; TUM-like lists for it."""
    lines = ["# timestamp filename"]
    for i in range(10):
        save(root / f"rgb/{100 + i / 10:.6f}.png", np.full((*SIZE, 3), i, np.uint8))
        if i % 2 == 0:
            save(root / f"label/{100 + i / 10:.6f}.png", np.full(SIZE, i % 4 // 2, np.uint8))
        if i not in (4, 5):
            save(root / f"thermal/{i} x.png", np.full(SIZE, 10 * i, np.uint8))
            lines.append(f"{100.02 + i / 10:.6f} thermal/{i} x.png")
    (root / "thermal.txt").write_text("\n".join(lines))
    return {
        "modalities": {"rgb": {"files": "rgb/*.png"}, "thermal": {"files": "thermal.txt"}},
        "splits": {"train": 0.5, "val": 0.5},
        "max_gap": 0.03,
    }


def test_frames_are_paired_by_time(tmp_path):
    settings = timed(tmp_path)
    data = module(tmp_path, **settings)
    assert sorted(ids(data, "train") + ids(data, "val")) == ["100.000000", "100.200000", "100.600000", "100.800000"]
    for split in ("train", "val"):
        samples = data.open_split(split)
        for i, entry in enumerate(samples.entries):
            raw = samples.read(i, ["rgb", "thermal"])
            frame = int(raw.images["rgb"][0, 0, 0])
            assert entry.id == f"{100 + frame / 10:.6f}"
            assert raw.images["thermal"][0, 0, 0] == 10 * frame
            assert raw.label[0, 0] == frame % 4 // 2
            assert entry.gaps == {"thermal": pytest.approx(0.02), "label": 0.0}
    assert data.open_split("val").notes == [
        "4 of 10 frames of rgb paired by time, within 30 ms; left out: 4 without label, 2 without thermal "
        "(dataset.max_gap=0.03)"
    ]
    # Which modalities are used does not change the samples, nor their names.
    assert ids(module(tmp_path, streams=["thermal"], **settings), "val") == ids(data, "val")
    with pytest.raises(DataError, match=r"none of 10 frames of rgb has a frame of each of thermal, label within 1 ms"):
        module(tmp_path, **settings | {"max_gap": 0.001}).open_split("train")


def test_lists_of_frames_paired_by_time(tmp_path):
    settings = timed(tmp_path) | {"splits": {"train": "train.txt", "val": "val.txt"}}
    (tmp_path / "train.txt").write_text("100.000000\n100.100000\n100.200000\n100.400000\n")
    (tmp_path / "val.txt").write_text("rgb/100.600000.png\n100.800000.png\n")
    data = module(tmp_path, **settings)
    assert ids(data, "train") == ["100.000000", "100.200000"]  # the others lack a partner
    assert ids(data, "val") == ["100.600000", "100.800000"]
    (tmp_path / "val.txt").write_text("100.650000\n")
    with pytest.raises(DataError, match="val.txt, line 1: '100.650000' is not one sample"):
        module(tmp_path, **settings).open_split("val")


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
