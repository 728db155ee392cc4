"""What labels mean, against what was written into the files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data.spec import IGNORE
from ktb.data.tools.new.found import Survey
from ktb.errors import DataError
from tests.ktb.data.tools.new.folders import SIZE, label, look, opened, rgb
from tests.ktb.data.written import save


def test_class_names_in_utf_16(tmp_path):
    for i in range(3):
        save(tmp_path / f"rgb/{i}.png", rgb(i))
        save(tmp_path / f"label/{i}.png", label(0, 1))
    (tmp_path / "classes.txt").write_text("Straße\nWäldchen\n", encoding="utf-16")
    assert [name for name, _ in look(tmp_path).classes] == ["Straße", "Wäldchen"]


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


def test_colours_that_were_in_a_jpeg_are_refused(tmp_path):
    palette = np.array([(0, 0, 0), (128, 64, 128), (0, 0, 142)])
    noisy = [
        np.clip(
            palette[label(0, 1, 2)] + np.random.default_rng(i).integers(-1, 2, (*label(0).shape, 3)) * [0, 1, 1], 0, 255
        )
        for i in range(3)
    ]
    expected = r"0.png: and the other labels have \d+ colours, \d+ of which differ from another by 2 or less in each"
    with pytest.raises(DataError, match=expected):
        labelled(tmp_path, [image.astype(np.uint8) for image in noisy])
    # Where the list names the colours, the user knows better.
    names = "".join(f"c{i} {i} 0 {200 - i}\n" for i in range(9))
    near = np.array([(i, 0, 200 - i) for i in range(9)], np.uint8)
    found = labelled(tmp_path / "named", [near[np.resize(np.arange(9), label(0).shape)]] * 3, names)
    assert len(found.classes) == 9


def smoothed(colours: np.ndarray, seed: int) -> np.ndarray:
    """Discs of three values on the first, drawn twice as large as they come out."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: 2 * SIZE[0], : 2 * SIZE[1]]
    large = np.zeros(rows.shape, np.int64)
    for i in (1, 2, 3):
        y, x, radius = rng.integers(0, 2 * SIZE[0]), rng.integers(0, 2 * SIZE[1]), rng.integers(15, 25)
        large[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = i
    drawn = colours[large].reshape(SIZE[0], 2, SIZE[1], 2, -1).mean(axis=(1, 3))
    return np.rint(drawn).astype(np.uint8).squeeze()


@pytest.mark.parametrize(
    ("values", "what"),
    [([[0, 0, 0], [128, 64, 128], [0, 0, 142], [250, 170, 30]], "colours"), ([[0], [255], [255], [255]], "ids")],
)
@pytest.mark.parametrize("files", [2, 9])
def test_small_labels_with_smoothed_borders_are_refused(tmp_path, values, what, files):
    expected = rf"0.png: and the other labels have \d+ {what}, \d+ of which come from smoothed borders"
    images = [smoothed(np.array(values), seed) for seed in range(files)]
    with pytest.raises(DataError, match=expected):
        labelled(tmp_path, images)
    sharp = [image // 255 * 255 if image.ndim == 2 else image for image in images]
    if what == "ids":  # the remedy that is named
        assert labelled(tmp_path / "sharp", sharp).label.settings["map"] == {0: 0, 255: 1}


def test_one_thin_class_between_two_others_is_remarked_on(tmp_path):
    image = label(0, 128, 255)
    image[:, :] = 0
    image[:, 20:] = 255
    image[:, 20] = 128
    found = labelled(tmp_path, [image] * 3)
    assert len(found.classes) == 3
    assert any(note.startswith("1 of 3 ids may come from smoothed borders (128: between") for note in found.notes)


def test_thin_classes_that_are_no_mixtures_are_left_alone(tmp_path):
    image = label(0)
    for i in range(1, 6):  # lanes
        image[:, 8 * i] = i
    assert labelled(tmp_path, [image] * 3).label.settings == {"files": "label/*.png"}
    named = label(0, 9).copy()
    for i in range(1, 6):
        named[:, 4 * i] = i
    names = "".join(f"{i} c{i}\n" for i in range(10))
    assert len(labelled(tmp_path / "named", [named] * 3, names).classes) == 10


def test_masks_of_0_and_1_among_masks_of_0_and_255(tmp_path):
    found = labelled(tmp_path, [label(0, 1), label(0, 255), label(0), label(1, 0)])
    assert found.label.settings == {"files": "label/*.png", "map": {0: 0, 1: 1, 255: 1}, "ignore": []}
    (note,) = [note for note in found.notes if "1 and 255 are taken for one class" in note]
    assert note.startswith(f"2 labels hold 0 and 1 (first: {tmp_path / 'label/0.png'}), 1 hold 0 and 255 (first: ")
    samples = opened(found).open_split("train"), opened(found).open_split("val")
    read = {e.id: s.read(i, ["rgb"]).label for s in samples for i, e in enumerate(s.entries)}
    np.testing.assert_array_equal(read["0"], label(0, 1))
    np.testing.assert_array_equal(read["1"], label(0, 1))
    # A void border beside class 1 in one file is a void border everywhere.
    found = labelled(tmp_path / "void", [label(0, 1), label(0, 255), label(0, 1, 255)])
    assert found.label.settings == {"files": "label/*.png"}


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


def test_few_numbers_of_instances_are_remarked_on(tmp_path):
    numbered = [label(1000 + i, 2000 + i, 3000 + i, dtype=np.uint16) for i in range(4)]
    note = "most of the 12 ids are in one file only: are they instances rather than classes?"
    assert note in labelled(tmp_path / "a", numbered).notes
    same = [label(1000, 2000, 3000, dtype=np.uint16)] * 4
    assert not [n for n in labelled(tmp_path / "b", same).notes if "instances" in n]


def test_labels_are_known_by_their_look(tmp_path):
    found = labelled(tmp_path, [label(0, 1)] * 3, folder="y")
    assert found.label.settings == {"files": "y/*.png"}
