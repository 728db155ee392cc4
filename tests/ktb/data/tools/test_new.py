"""What `ktb-data new` makes of folders as people have them: every guess against what was written into the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ktb.data.sets.folder import FolderDataModule
from ktb.data.spec import IGNORE
from ktb.data.tools.new.found import Survey, module_settings
from ktb.data.tools.new.output import write_yaml
from ktb.data.tools.new.survey import survey
from ktb.errors import ConfigError, DataError

SIZE = (40, 56)


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path)


def rgb(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def label(*ids: int, dtype: Any = np.uint8) -> np.ndarray:
    """Stripes of these ids."""
    return np.repeat(np.array(ids, dtype), -(-SIZE[1] // len(ids)))[None, : SIZE[1]].repeat(SIZE[0], axis=0)


def depth(seed: int = 0, low: int = 600, high: int = 8000, hole: int | None = 0) -> np.ndarray:
    values = np.random.default_rng(seed).integers(low, high, SIZE).astype(np.uint16)
    if hole is not None:
        values[:8, :8] = hole
    return values


def look(root: Path) -> Survey:
    return survey(root, workers=1)


def modalities(found: Survey) -> dict[str, dict[str, Any]]:
    return {guess.name: guess.settings for guess in found.modalities}


def opened(found: Survey) -> FolderDataModule:
    return FolderDataModule(**module_settings(found), num_workers=0)


# --- where files are -------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("pattern", ["{split}/{kind}/{name}.png", "{kind}/{split}/{name}.png"])
def test_split_folders(tmp_path, pattern):
    for split, count in (("training", 3), ("validation", 2)):
        for i in range(count):
            for kind, image in (("rgb", rgb(i)), ("ther", rgb(i)[..., 0]), ("labels", label(0, 1))):
                save(tmp_path / pattern.format(split=split, kind=kind, name=f"{i}"), image)
    found = look(tmp_path)
    assert modalities(found)["thermal"] == {"files": pattern.format(split="{split}", kind="ther", name="*")}
    assert found.splits == {"train": "training", "val": "validation"}
    assert found.batch_size == 3
    assert [len(opened(found).open_split(s)) for s in ("train", "val")] == [3, 2]


def test_words_in_names(tmp_path):
    for i in range(4):
        save(tmp_path / f"{i:03d}_rgb.png", rgb(i))
        save(tmp_path / f"{i:03d}_ir.png", rgb(i)[..., 0])
        save(tmp_path / f"{i:03d}_gt.png", label(0, 1, 3))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "*_rgb.png"}, "thermal": {"files": "*_ir.png"}}
    assert found.label.settings == {"files": "*_gt.png"}
    assert "no pixel of the ids 2" in " ".join(found.notes)
    assert len(found.classes) == 4
    assert len(opened(found).open_split("train")) == 3


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_pictures_without_a_word_beside_masks_with_one(tmp_path, suffix):
    for i in range(5):
        save(tmp_path / f"data/{i:03d}.{suffix}", rgb(i))
        save(tmp_path / f"data/{i:03d}_mask.png", label(0, 1))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": f"data/*.{suffix}"}}
    assert found.label.settings == {"files": "data/*_mask.png"}
    write_yaml(found, "mine", tmp_path / "conf")
    assert [len(opened(found).open_split(s)) for s in ("train", "val")] == [4, 1]


def test_folders_of_several_depths_and_words_that_part_the_samples(tmp_path):
    for i, name in enumerate(("1_day", "2_night", "north/3_day", "north/hill/4_night")):
        save(tmp_path / f"rgb/{name}.PNG", rgb(i))
        save(tmp_path / f"label/{name}.PNG", label(0, 1))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "rgb/**/*.PNG"}}
    assert found.label.settings == {"files": "label/**/*.PNG"}
    ids = [e.id for split in ("train", "val") for e in opened(found).open_split(split).entries]
    assert sorted(ids) == ["1_day", "2_night", "north/3_day", "north/hill/4_night"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    for i in range(3):
        save(tmp_path / f"disk/{i}.png", rgb(i))
        save(tmp_path / f"mine/label/{i}.png", label(0, 1))
    (tmp_path / "mine/rgb").symlink_to(tmp_path / "disk")
    (tmp_path / "mine/rgb/again").symlink_to(tmp_path / "mine")
    found = look(tmp_path / "mine")
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}}
    assert len(opened(found).open_split("train")) == 2


def test_cities_with_several_renderings_of_one_label(tmp_path):
    for split in ("train", "val"):
        for city in ("ulm", "bonn"):
            for i in range(2):
                name = f"{city}_{i:06d}_000019"
                save(tmp_path / f"leftImg8bit/{split}/{city}/{name}_leftImg8bit.png", rgb(i))
                save(tmp_path / f"disparity/{split}/{city}/{name}_disparity.png", depth(i, high=32000))
                folder = tmp_path / f"gtFine/{split}/{city}"
                save(folder / f"{name}_gtFine_labelIds.png", label(0, 1, 2))
                save(folder / f"{name}_gtFine_instanceIds.png", label(0, 1000, 2000, dtype=np.uint16))
                save(folder / f"{name}_gtFine_color.png", np.dstack([label(0, 70)] * 3))
    found = look(tmp_path)
    assert found.label.settings["files"] == "gtFine/{split}/*/*_gtFine_labelIds.png"
    assert modalities(found)["rgb"] == {"files": "leftImg8bit/{split}/*/*_leftImg8bit.png"}
    assert modalities(found)["disparity"]["files"] == "disparity/{split}/*/*_disparity.png"
    assert found.splits == {"train": "train", "val": "val"}
    assert len(opened(found).open_split("train")) == 4


def test_lists(tmp_path):
    for i in range(6):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits/train_v2.txt").write_text("".join(f"rgb/{i}.png label/{i}.png\n" for i in range(4)))
    (tmp_path / "splits/test.txt").write_text("4\n5\n")
    found = look(tmp_path)
    assert found.splits == {"train": "splits/train_v2.txt", "test": "splits/test.txt"}
    assert found.split_reason == "lists in the folder"
    (tmp_path / "splits/test.txt").write_text("44\n")
    found = look(tmp_path)
    assert found.splits == {"train": 0.8, "val": 0.2}
    assert any("test.txt are not used" in note for note in found.notes)


def test_incomplete_samples_are_left_out_by_lists(tmp_path):
    for i in range(10):
        save(tmp_path / f"data/rgb/{i}.png", rgb(i))
        if i != 3:
            save(tmp_path / f"data/label/{i}.png", label(0, 1))
    found = look(tmp_path / "data")
    path = write_yaml(found, "mine", tmp_path / "conf")
    written = yaml.safe_load(path.read_text())["splits"]
    names = {split: Path(file).read_text().split() for split, file in written.items()}
    assert [len(n) for n in names.values()] == [7, 2]
    assert sorted(names["train"] + names["val"]) == [str(i) for i in range(10) if i != 3]
    assert [len(opened(found).open_split(s)) for s in ("train", "val")] == [7, 2]
    assert any(note.startswith("1 names lack a file") for note in found.notes)


# --- what values mean ------------------------------------------------------------------------------------------------


def guessed(root: Path, files: dict[str, list[np.ndarray]], suffix: str = ".png") -> Survey:
    for name, images in files.items():
        for i, image in enumerate(images):
            save(root / f"{name}/{i}{suffix}", image)
    for i in range(len(next(iter(files.values())))):
        save(root / f"label/{i}.png", label(0, 1))
    return look(root)


def test_no_rgb_at_all(tmp_path):
    twelve = [depth(i, 0, 4096, hole=None) for i in range(4)]
    twelve[0][0, :2] = 0, 4095
    found = guessed(tmp_path, {"red": [rgb(i)[..., 0] for i in range(4)], "nir": twelve})
    assert modalities(found) == {
        "nir": {"files": "nir/*.png", "dtype": "uint16", "scale": 4095},
        "red": {"files": "red/*.png"},
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (lambda r: r.random(SIZE), {"dtype": "float32"}),
        (lambda r: r.normal(0, 8, SIZE), {"dtype": "float32", "scale": 50}),
        (lambda r: np.where(r.random(SIZE) < 0.1, np.nan, r.uniform(1, 9, SIZE)),
         {"dtype": "float32", "hole_value": pytest.approx(np.nan, nan_ok=True), "holes": "zero", "scale": 10}),
        (lambda r: np.where(r.random(SIZE) < 0.1, -9999, r.uniform(1, 9, SIZE)),
         {"dtype": "float32", "hole_value": -9999, "holes": "zero", "scale": 10}),
        (lambda r: r.random((*SIZE, 2)), {"dtype": "float32", "channels": 2}),
        (lambda r: r.integers(0, 256, (*SIZE, 4)).astype(np.uint8), {"channels": 4}),
        (lambda r: r.integers(0, 60000, SIZE).astype(np.uint16), {"dtype": "uint16"}),
        (lambda r: r.integers(0, 1024, SIZE).astype(np.uint16).clip(0, 1023), {"dtype": "uint16", "scale": 1023}),
        # Zeros that other values lead up to are measurements.
        (lambda r: (r.random(SIZE) ** 4 * 4000).astype(np.uint16), {"dtype": "uint16", "scale": 5000}),
    ],
)  # fmt: skip
def test_types_scales_and_holes(tmp_path, values, expected):
    images = [values(np.random.default_rng(i)) for i in range(4)]
    found = guessed(tmp_path, {"sensor": images}, ".npy")
    assert modalities(found) == {"sensor": {"files": "sensor/*.npy"} | expected}
    sample = opened(found).dataset("train")[0]
    scaled = opened(found).modalities[0].normalize(sample["inputs"]["sensor"][None])
    assert float(scaled.abs().max()) <= 1.05


@pytest.mark.parametrize(
    ("most", "scale"), [(255, 255), (1000, 1023), (1023, 1023), (4080, 4095), (4096, 16383), (16384, None)]
)
def test_bits_that_sixteen_bit_colour_uses(tmp_path, most, scale):
    for i in range(3):
        image = (rgb(i) / 255 * most / 2).astype(np.uint16)
        image[i, 5] = most  # a single pixel
        save(tmp_path / f"rgb/{i}.npy", image)
        save(tmp_path / f"label/{i}.png", label(0, 1))
    found = look(tmp_path)
    assert modalities(found)["rgb"].get("scale") == scale
    assert any("bits of 16 are used" in reason for reason in found.modalities[0].reasons) == (scale is not None)
    image = opened(found).dataset("val")[0]["inputs"]["rgb"]
    assert image.max() == round(255 * most / (scale or 65535))


def test_colour_pictures_of_several_kinds(tmp_path):
    """Grey ones, one with alpha and one of 16 bits among them."""
    for i in range(6):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    save(tmp_path / "rgb/1.png", rgb(1)[..., 0])
    save(tmp_path / "rgb/2.png", np.dstack([rgb(2), np.full(SIZE, 200, np.uint8)]))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}}
    assert (
        "grey pictures among them are taken as three equal channels, alpha is left out" in found.modalities[0].reasons
    )
    samples = opened(found).open_split("train")
    read = {e.id: samples.read(i, ["rgb"]).images["rgb"] for i, e in enumerate(samples.entries)}
    for i in set(read) & {"1", "2"}:
        np.testing.assert_array_equal(read[i], rgb(int(i))[..., :1].repeat(3, 2) if i == "1" else rgb(2))
    (tmp_path / "rgb/3.png").unlink()
    np.save(tmp_path / "rgb/3.npy", rgb(3).astype(np.uint16) * 257)
    (tmp_path / "rgb/3.npy").rename(tmp_path / "rgb/3.png")
    assert modalities(look(tmp_path)) == {"rgb": {"files": "rgb/*.png", "dtype": "uint16"}}


def test_larger_pictures_by_an_option(tmp_path):
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    pixels = SIZE[0] * SIZE[1]
    with pytest.raises(DataError, match=f"expected at most {pixels - 1}: .*--max-pixels of ktb-predict"):
        survey(tmp_path, workers=1, max_pixels=pixels - 1)
    found = survey(tmp_path, workers=2, max_pixels=pixels)
    written = yaml.safe_load(write_yaml(found, "large", tmp_path / "conf").read_text())
    assert written["max_pixels"] == opened(found).max_pixels == pixels


def test_class_names_in_utf_16(tmp_path):
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    (tmp_path / "classes.txt").write_text("Straße\nWäldchen\n", encoding="utf-16")
    assert [name for name, _ in look(tmp_path).classes] == ["Straße", "Wäldchen"]


def test_grey_as_colour_is_one_channel(tmp_path):
    found = guessed(
        tmp_path, {"rgb": [rgb(i) for i in range(3)], "ir": [rgb(i)[..., :1].repeat(3, 2) for i in range(3)]}
    )
    assert modalities(found)["thermal"] == {"files": "ir/*.png", "pick": [0]}
    assert opened(found).dataset("train")[0]["inputs"]["thermal"].shape[0] == 1


@pytest.mark.parametrize("name", ["ir", "sensor"])
@pytest.mark.parametrize("alpha", [False, True])
def test_one_channel_saved_as_grey_and_as_colour(tmp_path, name, alpha):
    values = [rgb(i)[..., 0] for i in range(4)]
    full = [np.full_like(values[0], 255)] * alpha
    images = [np.dstack([v] * 3 + full) if i % 2 else v for i, v in enumerate(values)]
    found = guessed(tmp_path, {"rgb": [rgb(i + 9) for i in range(4)], name: images})
    stream = "thermal" if name == "ir" else "sensor"
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}, stream: {"files": f"{name}/*.png"}}
    assert found.modalities[1].reasons[0] == "1 channel of 8 bits, in some files saved as several equal ones"
    samples = opened(found).open_split("train")
    for i, entry in enumerate(samples.entries):
        np.testing.assert_array_equal(samples.read(i, [stream]).images[stream][..., 0], values[int(entry.id)])
    save(tmp_path / f"{name}/1.png", rgb(1))
    found = look(tmp_path)
    assert modalities(found) == {"rgb": {"files": "rgb/*.png"}}
    assert any(
        f"{name}/0.png and others like it have 1 and 3 {'and 4 ' * alpha}channels and are left" in n
        for n in found.notes
    )


def test_one_channel_saved_both_ways_is_no_rgb(tmp_path):
    values = [rgb(i)[..., 0] for i in range(4)]
    found = guessed(tmp_path, {"camera": [v if i % 2 else np.dstack([v] * 3) for i, v in enumerate(values)]})
    assert modalities(found) == {"camera": {"files": "camera/*.png"}}


def test_palette_that_is_filled_up(tmp_path):
    """The entries beyond those that count have the colour of void."""
    colours = {"void": (0, 0, 0), "road": (128, 64, 128), "car": (0, 0, 142)}
    (tmp_path / "classes.txt").write_text("".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in colours.items()))
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        image = Image.fromarray(label(0, 1, 2))
        image.putpalette([v for c in colours.values() for v in c] + [0, 0, 0] * 253)
        (tmp_path / "label").mkdir(exist_ok=True)
        image.save(tmp_path / f"label/{i}.png")
    found = look(tmp_path)
    assert found.label.settings == {"files": "label/*.png", "offset": -1, "ignore": [0, 255]}
    assert [name for name, _ in found.classes] == ["road", "car"]


def test_a_fourth_channel_that_varies_is_another_sensor(tmp_path):
    rgba = [np.dstack([rgb(i), rgb(i + 9)[..., 0]]) for i in range(3)]
    found = guessed(tmp_path, {"images": rgba})
    assert modalities(found) == {
        "rgb": {"files": "images/*.png", "pick": [0, 1, 2]},
        "x": {"files": "images/*.png", "pick": [3]},
    }
    sample = opened(found).dataset("train")[0]
    np.testing.assert_array_equal(sample["inputs"]["x"][0], rgba[int(sample["id"])][..., 3])


# --- labels ----------------------------------------------------------------------------------------------------------


def labelled(root: Path, images: list[np.ndarray], names: str = "", folder: str = "label") -> Survey:
    for i, image in enumerate(images):
        save(root / f"rgb/{i}.png", rgb(i))
        save(root / f"{folder}/{i}.png", image)
    if names:
        (root / "classes.txt").write_text(names)
    return look(root)


@pytest.mark.parametrize(
    ("stored", "names", "settings", "classes", "maps"),
    [
        ((0, 1, 2), "", {}, ["class_0", "class_1", "class_2"], {0: 0, 2: 2}),
        ((0, 1, 255), "road\ncar\n", {}, ["road", "car"], {1: 1, 255: IGNORE}),
        ((1, 2, 3), "", {"offset": -1, "ignore": [0, 255]}, ["class_1", "class_2", "class_3"], {1: 0, 3: 2}),
        ((0, 1, 2), "1 road\n2 car\n", {"offset": -1, "ignore": [0, 255]}, ["road", "car"], {0: IGNORE, 2: 1}),
        ((0, 1, 2), "0: void\n1: road\n2: car\n", {"offset": -1, "ignore": [0, 255]}, ["road", "car"],
         {0: IGNORE, 1: 0}),
        ((0, 1, 2), "road\ncar\n", {"offset": -1, "ignore": [0, 255]}, ["road", "car"], {0: IGNORE, 2: 1}),
        ((1, 2), "road\ncar\n", {"offset": -1, "ignore": [0, 255]}, ["road", "car"], {1: 0, 2: 1}),
        ((1, 2), "0 sky\n1 road\n2 car\n", {}, ["sky", "road", "car"], {1: 1, 2: 2}),
        ((0, 1), "road\ncar\n", {}, ["road", "car"], {1: 1}),
        ((0, 255), "", {"map": {0: 0, 255: 1}, "ignore": []}, ["class_0", "class_255"], {255: 1}),
        ((0, 128, 255), "", {"map": {0: 0, 128: 1, 255: 2}, "ignore": []}, ["class_0", "class_128", "class_255"],
         {128: 1, 255: 2}),
        # Void between the classes, whether it occurs or not, and whatever id the list starts at.
        ((0, 1, 2, 3), "0 a\n1 b\n2 void\n3 c\n", {"map": {0: 0, 1: 1, 3: 2}, "ignore": [2, 255]}, ["a", "b", "c"],
         {1: 1, 2: IGNORE, 3: 2}),
        ((0, 1, 3), "a\nb\nunlabeled\nc\n", {"map": {0: 0, 1: 1, 3: 2}, "ignore": [2, 255]}, ["a", "b", "c"],
         {1: 1, 3: 2}),
        ((1, 2, 3), "a\nIgnore\nc\n", {"map": {1: 0, 3: 1}, "ignore": [0, 2, 255]}, ["a", "c"],
         {1: 0, 2: IGNORE, 3: 1}),
        ((0, 1, 2), "a\nvoid\nc\nd\n", {"map": {0: 0, 2: 1, 3: 2}, "ignore": [1, 255]}, ["a", "c", "d"],
         {0: 0, 1: IGNORE, 2: 1}),
        ((0, 1), "a\nb\nvoid\n", {"ignore": [2, 255]}, ["a", "b"], {0: 0, 1: 1}),
        ((7, 26, 40), "", {"map": {7: 0, 26: 1, 40: 2}}, ["class_7", "class_26", "class_40"], {26: 1}),
    ],
)  # fmt: skip
def test_ids(tmp_path, stored, names, settings, classes, maps):
    found = labelled(tmp_path, [label(*stored)] * 3, names)
    assert found.label.settings == {"files": "label/*.png"} | settings
    assert [name for name, _ in found.classes] == classes
    read = opened(found).dataset("train")[0]["label"].numpy()
    for id_, class_ in maps.items():
        assert (read[label(*stored) == id_] == class_).all()


def test_colours(tmp_path):
    palette = {(0, 0, 0): "void", (128, 64, 128): "road", (0, 0, 142): "car"}
    image = np.array(list(palette), np.uint8)[label(0, 1, 2)]
    names = "# label:color\n" + "".join(f"{name}:{r},{g},{b}::\n" for (r, g, b), name in palette.items())
    found = labelled(tmp_path, [image] * 3, names)
    assert found.label.settings == {"files": "label/*.png", "colours": True, "ignore": [[0, 0, 0]]}
    assert [name for name, _ in found.classes] == ["road", "car"]
    assert found.palette == [(128, 64, 128), (0, 0, 142)]
    read = opened(found).dataset("train")[0]["label"].numpy()
    np.testing.assert_array_equal(read, np.array([IGNORE, 0, 1])[label(0, 1, 2)])

    (tmp_path / "classes.txt").unlink()
    found = look(tmp_path)
    assert found.palette == sorted(palette)
    assert any("3 colours have no name yet" in note for note in found.notes)


@pytest.mark.parametrize(
    ("channels", "settings", "reason"),
    [
        (lambda ids: np.dstack([ids] * 3), {}, "several channels with the same ids: the first is taken"),
        (
            lambda ids: np.dstack([ids] * 3 + [ids * 0 + 255]),
            {},
            "several channels with the same ids: the first is taken",
        ),
        (lambda ids: np.dstack([ids, ids * 0, ids * 0, ids * 0 + 255]), {"channel": 0}, "ids in the first channel"),
    ],
)
def test_ids_in_a_colour_file(tmp_path, channels, settings, reason):
    found = labelled(tmp_path, [channels(label(0, 1, 2))] * 3)
    assert found.label.settings == {"files": "label/*.png"} | settings
    assert reason in found.label.reasons
    np.testing.assert_array_equal(opened(found).dataset("train")[0]["label"], label(0, 1, 2))


def test_palette_files_bring_their_colours(tmp_path):
    found = labelled(tmp_path, [label(0, 1)] * 3)
    for i in range(3):
        image = Image.fromarray(label(0, 1)).convert("P")
        image.putpalette([10, 20, 30, 200, 100, 0])
        image.save(tmp_path / f"label/{i}.png")
    found = look(tmp_path)
    assert found.palette == [(10, 20, 30), (200, 100, 0)]
    assert found.label.settings == {"files": "label/*.png"}


def test_labels_with_too_many_ids(tmp_path):
    stripes = [
        np.repeat(np.arange(i * 50, i * 50 + 50), 8)[None].repeat(40, axis=0).astype(np.uint16) for i in range(6)
    ]
    for i, stripe in enumerate(stripes):
        save(tmp_path / f"rgb/{i}.png", np.zeros((*stripe.shape, 3), np.uint8))
        save(tmp_path / f"label/{i}.png", stripe)
    with pytest.raises(
        DataError,
        match=r"hold 300 different ids, most of them in one file only; expected ids of classes: are they instances",
    ):
        look(tmp_path)


def test_labels_are_known_by_their_look(tmp_path):
    found = labelled(tmp_path, [label(0, 1)] * 3, folder="y")
    assert found.label.settings == {"files": "y/*.png"}


# --- the file, and what cannot be ------------------------------------------------------------------------------------


def test_written_file(tmp_path):
    found = guessed(tmp_path / "my data", {"rgb": [rgb(i) for i in range(5)], "depth": [depth(i) for i in range(5)]})
    path = write_yaml(found, "mine", tmp_path / "conf")
    assert path == tmp_path / "conf/dataset/mine.yaml"
    text = path.read_text()
    written = yaml.safe_load(text)
    assert written["root"] == str(tmp_path / "my data")
    assert written["modalities"] == modalities(found)
    assert (written["classes"], written["splits"]) == (["class_0", "class_1"], {"train": 0.8, "val": 0.2})
    assert (written["crop"], written["batch_size"]) == ([32, 32], 4)
    assert "  # 0 in 2.9% of pixels and nothing near it" in text
    assert "# holes: zero | fill" in text
    assert max(map(len, text.splitlines())) < 400
    with pytest.raises(DataError, match=r"mine.yaml: exists already"):
        write_yaml(found, "mine", tmp_path / "conf")
    with pytest.raises(ConfigError, match="'my data' cannot name a data set"):
        write_yaml(found, "my data", tmp_path / "conf")
    assert [p.name for p in path.parent.iterdir()] == ["mine.yaml"]


def test_folders_that_say_nothing(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        look(tmp_path / "nowhere")
    (tmp_path / "a").mkdir()
    for name in ("1.tif", "1.bmp", "2.bmp"):
        (tmp_path / "a" / name).touch()
    unread = r"\(2 files ending in .bmp are not read: .*; 1 files ending in .tif are not read: convert them"
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


@pytest.mark.parametrize("pattern", ["{split}/{kind}/{i}.png", "{kind}/{split}/{i}.png"])
def test_a_test_folder_without_labels(tmp_path, pattern):
    for split, count in (("train", 4), ("val", 2), ("test", 3)):
        for i in range(count):
            save(tmp_path / pattern.format(split=split, kind="rgb", i=i), rgb(i))
            if split != "test":
                save(tmp_path / pattern.format(split=split, kind="label", i=i), label(0, 1))
    found = look(tmp_path)
    assert found.splits == {"train": "train", "val": "val", "test": "test"}
    assert any("test: no labels, so evaluation on it writes predictions" in note for note in found.notes)
    data = FolderDataModule(**module_settings(found), num_workers=0)
    assert [len(data.dataset(s)) for s in found.splits] == [4, 2, 3]
    assert not data.labelled("test")
