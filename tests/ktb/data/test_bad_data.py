"""What goes wrong with real data, each case by itself: `check` fails with one line that names the file, what was found,
what was expected and what to do; training, which reads through the same code, stops with the same line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data import dataset as base
from ktb.data.sets.deliver import DELIVERDataModule
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.mcubes import MCubeSDataModule
from ktb.data.sets.nyu import NYUDataModule
from ktb.data.sets.pst900 import PST900DataModule
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.summary import summarise
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.parallel import parallel
from ktb.errors import DataError

SIZE = (40, 48)


def failures(data) -> list[str]:
    try:
        planned = open_splits(data)
    except DataError as error:
        return [str(error)]
    return summarise(data, planned, parallel(look, planned.looks, 1))["failures"]


def nyu(root: Path, **settings) -> NYUDataModule:
    return NYUDataModule(root, **({"streams": ["rgb", "depth"], "num_workers": 0, "batch_size": 3} | settings))


def read_all(data) -> list:
    """All batches of one epoch of training and validation."""
    data.setup("fit")
    return [*data.train_dataloader(), *data.val_dataloader()]


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def truncated(root: Path) -> None:
    path = root / "RGB/1.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def zero_bytes(root: Path) -> None:
    (root / "HHA/2.jpg").write_bytes(b"")


def sixteen_bit(root: Path) -> None:
    Image.fromarray(np.full(SIZE, 3000, np.uint16)).save(root / "RGB/1.png")
    (root / "RGB/1.png").replace(root / "RGB/1.jpg")


def colours_for_ids(root: Path) -> None:
    """The palette label as a program wrote it that knows only colours."""
    label = Image.open(root / "Label/0.png").convert("P")
    label.putpalette(list(range(256)) * 3)
    label.convert("RGB").save(root / "Label/0.png")


def other_size(root: Path) -> None:
    Image.open(root / "HHA/1.jpg").resize((24, 20)).save(root / "HHA/1.jpg")


def other_label_size(root: Path) -> None:
    Image.open(root / "Label/1.png").resize((24, 20), Image.Resampling.NEAREST).save(root / "Label/1.png")


def unpaired(root: Path) -> None:
    (root / "HHA/2.jpg").unlink()


def leaves_the_root(root: Path) -> None:
    with (root / "train.txt").open("a") as file:
        file.write("../other/RGB/5.jpg\t../other/Label/5.png\n")


def duplicate(root: Path) -> None:
    with (root / "train.txt").open("a") as file:
        file.write("RGB/1.jpg\tLabel/1.png\n")


def wrong_case(root: Path) -> None:
    (root / "HHA").rename(root / "Hha")


def unknown_id(root: Path) -> None:
    rewrite(root / "Label/2.png", lambda label: np.where(label == label[0, 0], 41, label).astype(np.uint8))


def too_few(root: Path) -> None:
    (root / "train.txt").write_text("RGB/1.jpg\tLabel/1.png\n")


@pytest.mark.parametrize(
    ("spoil", "file", "found", "expected", "remedy"),
    [
        (truncated, "RGB/1.jpg", "JPEG cut short after", "no end marker", "copy or download it again"),
        (zero_bytes, "HHA/2.jpg", "empty (0 bytes)", "", "copy or download it again"),
        (sixteen_bit, "RGB/1.jpg", "holds uint16 values", "expected uint8", "convert it"),
        (colours_for_ids, "Label/0.png", "so it holds colours", "expected one channel of class ids",
         "convert it, or tell the data set how its colours"),
        (other_size, "HHA/1.jpg", "depth is 24 x 20 pixels", "label", "resize the wrong one"),
        (other_label_size, "Label/1.png", "its label", "is 24 x 20; all files of a sample must have one size",
         "resize the wrong"),
        (unpaired, "HHA/2.jpg", "no such file", "train.txt names it", "copy the files there"),
        (leaves_the_root, "train.txt", "line 4: '../other/RGB/5.jpg' leaves the data root", "expected a name below the",
         "with '/' between its parts"),
        (duplicate, "train.txt", "'RGB/1.jpg' stands on lines 2 and 4", "expected each sample once", "remove one"),
        (wrong_case, "HHA/0.jpg", "no such file", "has 'Hha', not 'HHA'", "rename it"),
        (unknown_id, "Label/2.png", "label id 41 at", "expected 0-40, 255", "correct the file, or the classes"),
        (too_few, "nyu", "the train split has 1 samples", "fewer than one batch of 3", "set dataset.batch_size=1"),
    ],
)  # fmt: skip
def test_one_line_per_mistake(tmp_path, spoil, file, found, expected, remedy):
    root = make_fixture("nyu", tmp_path / "nyu", counts={"train": 3, "test": 2}, size=SIZE)
    spoil(root)
    lines = failures(nyu(root))
    assert len(lines) == 1, lines
    for part in (file, found, expected, remedy):
        assert part in lines[0]
    assert "\n" not in lines[0]
    with pytest.raises(DataError) as caught:
        read_all(nyu(root))
    for part in (file, found, remedy):
        assert part in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_finite(tmp_path, value):
    root = make_fixture("mcubes", tmp_path / "mcubes", counts=dict.fromkeys(("train", "val", "test"), 1), size=SIZE)
    path = min((root / "polL_dolp").iterdir())
    array = np.load(path)
    array[5, 200:203] = value
    np.save(path, array)
    (line,) = failures(MCubeSDataModule(root, streams=["rgb", "dolp"], batch_size=1))
    assert line.startswith(f"{path}: 3 values are NaN or infinite, the first at row 5, column 200")
    assert "expected finite numbers: mend the file, or declare them as holes with hole_value: nan" in line


def test_wrong_case_of_a_split_folder(tmp_path):
    root = make_fixture("pst900", tmp_path / "pst900", counts={"train": 1, "test": 1}, size=SIZE)
    (root / "train").rename(root / "Train")
    (line,) = failures(PST900DataModule(root, streams=["rgb", "thermal"], batch_size=1))
    assert "has 'Train', not 'train': upper and lower case matter, rename it" in line


def test_the_weather_rain_is_not_found_in_train(tmp_path):
    root = make_fixture("deliver", tmp_path / "deliver", counts={"train": 5, "val": 5, "test": 5}, size=SIZE)
    data = DELIVERDataModule(root, streams=["rgb"], weather=["rain"])
    assert [e.id.split("/")[:2] for e in data.open_split("train").entries] == [["rain", "train"]]
    with pytest.raises(DataError, match=r"img/\{fog\}/train: no picture of the cases motionblur"):
        DELIVERDataModule(root, streams=["rgb"], weather=["fog"], case=["motionblur"]).open_split("train")


def test_labels_off_by_one_are_pointed_out(tmp_path):
    root = make_fixture("nyu", tmp_path / "nyu", counts={"train": 3, "test": 2}, size=SIZE)
    for path in (root / "Label").iterdir():
        rewrite(path, lambda label: np.where(label == 0, 0, label - 1).astype(np.uint8))
    data = nyu(root)
    planned = open_splits(data)
    report = summarise(data, planned, parallel(look, planned.looks, 1))
    assert report["failures"] == []
    assert report["splits"]["train"]["classes"]["otherprop"] == 0
    assert (
        "train: no pixel of 1 classes (otherprop); the first or the last alone is missing where labels are off by one"
        in report["findings"]
    )


# --- batches that the loaders cannot make, though each file is right ----------------------------------------------


def own(root: Path, sizes: dict[str, tuple[int, int]], **settings) -> FolderDataModule:
    for stem, size in sizes.items():
        for folder, shape in (("rgb", (*size, 3)), ("x", size), ("label", size)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            values = np.random.default_rng(len(stem)).integers(0, 2, shape, np.uint8)
            Image.fromarray(values if folder == "label" else values * 200).save(root / folder / f"{stem}.png")
    half = len(sizes) // 2
    for split, stems in (("train", list(sizes)[:half]), ("val", list(sizes)[half:])):
        (root / f"{split}.txt").write_text("\n".join(stems))
    options = {
        "modalities": {"rgb": {"files": "rgb/*.png"}, "x": {"files": "x/*.png"}},
        "label": {"files": "label/*.png"},
        "classes": ["a", "b"],
        "splits": {"train": "train.txt", "val": "val.txt"},
        "streams": ["rgb", "x"],
        "batch_size": 2,
        "num_workers": 0,
    }
    return FolderDataModule(root, **(options | settings))


PAIRS = {"crop": (32, 32), "eval_size": 32, "eval_batch_size": 2}
MIXED = {"a": (40, 48), "b": (40, 56), "c": (40, 48), "d": (40, 56)}


@pytest.mark.parametrize(
    ("sizes", "settings", "expected"),
    [
        (MIXED, {"crop": (32, 32)}, []),
        (MIXED, {"crop": None}, ["train: b is 40x56 (height x width) but a is 40x48, and a batch needs one size"]),
        (MIXED, {"crop": None, "batch_size": 1}, []),
        (MIXED, {"crop": (32, 32), "eval_batch_size": 2}, ["val: d is 40x56 (height x width) but c, in the same"]),
        # Both become 32x64 in the network, but labels of two sizes make no batch either.
        ({**MIXED, "c": (40, 50)}, PAIRS, ["val: d is 40x56"]),
        ({**MIXED, "c": (40, 50)}, {**PAIRS, "scoring": "published"}, []),
        (dict.fromkeys("abcd", (24, 40)), {"crop": (32, 32)}, ["val: the network's input from c is 24x40"]),
        (dict.fromkeys("abcd", (24, 40)), {"crop": (32, 32), "eval_size": 32}, []),
    ],
)  # fmt: skip
def test_check_fails_exactly_where_the_loaders_do(tmp_path, sizes, settings, expected):
    lines = failures(own(tmp_path, sizes, **settings))
    assert len(lines) == len(expected)
    assert all(part in line for part, line in zip(expected, lines, strict=True))
    try:
        small = any(min(batch["inputs"]["rgb"].shape[2:]) < 32 for batch in read_all(own(tmp_path, sizes, **settings)))
    except DataError:
        assert expected
    else:
        assert bool(expected) == small


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (1000, "train: x reaches 9 times its scale of 1000"),
        (10_000, None),
        (1_000_000, "train: x reaches 0.009 times its scale of 1e+06"),
    ],
)
def test_values_far_from_their_scale_are_pointed_out(tmp_path, scale, expected):
    x = {"files": "x/*.png", "dtype": "uint16", "scale": scale}
    data = own(tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32), streams=["x"], modalities={"x": x})
    for stem in "abcd":
        Image.fromarray(np.linspace(600, 9000, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint16)).save(
            tmp_path / f"x/{stem}.png"
        )
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(tmp_path / "label/a.png")
    planned = open_splits(data)
    findings = summarise(data, planned, parallel(look, planned.looks, 1))["findings"]
    assert [line for line in findings if line.startswith("train: x")] == (
        [f"{expected}; about 1 is expected: another unit or bit depth? correct the modality's scale or hole value"]
        if expected
        else []
    )
    assert "train: 1 labels are void altogether (first: a)" in findings


def findings(data) -> list[str]:
    planned = open_splits(data)
    return summarise(data, planned, parallel(look, planned.looks, 1))["findings"]


@pytest.mark.parametrize(
    ("white", "scale", "expected"),
    [
        (1023, None, "rgb reaches 0.0156 times its scale"),
        (4095, None, "rgb reaches 0.0625 times its scale"),
        (16383, None, "rgb reaches 0.25 times its scale"),
        (65535, None, None),
        (4095, 4095, None),
        (65535, 4095, "rgb reaches 16 times its scale"),
    ],
)
def test_bits_that_do_not_fit_the_scale_are_pointed_out(tmp_path, white, scale, expected):
    rgb = {"files": "rgb/*.npy", "dtype": "uint16", "scale": scale}
    data = own(tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32), streams=["rgb"], modalities={"rgb": rgb})
    for i, stem in enumerate("abcd"):
        values = np.random.default_rng(i).integers(0, white + 1, (*SIZE, 3)).astype(np.uint16)
        values[0, 0] = white
        np.save(tmp_path / f"rgb/{stem}.npy", values)
    lines = [line for line in findings(data) if ": rgb " in line]
    assert [line.split(": ")[1].split(";")[0] for line in lines] == [expected] * 2 * (expected is not None)


def test_one_picture_of_other_bits_among_the_rest_is_pointed_out(tmp_path):
    x = {"files": "x/*.png", "dtype": "uint16"}
    data = own(tmp_path, dict.fromkeys("abcdefgh", SIZE), crop=(32, 32), streams=["x"], modalities={"x": x})
    for i, stem in enumerate("abcdefgh"):
        values = np.random.default_rng(i).integers(0, 4096 if stem == "b" else 65536, SIZE).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / f"x/{stem}.png")
    (line,) = [line for line in findings(data) if line.startswith("x: ")]
    assert line.startswith("x: files in two units or bit depths? 1 reach 40")
    assert "(uint16; such as x/b.png) and 7 reach 6" in line


def test_pictures_that_are_no_plain_rgb_are_listed(tmp_path):
    data = own(tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32))
    Image.open(tmp_path / "rgb/a.png").convert("L").save(tmp_path / "rgb/a.png")
    Image.open(tmp_path / "rgb/b.png").convert("RGBA").save(tmp_path / "rgb/b.png")
    (line,) = [line for line in findings(data) if "RGB" in line]
    assert line == (
        f"train: 2 pictures are no plain RGB (first: {tmp_path / 'rgb/a.png'}: grey, taken as three equal channels)"
    )


def test_training_says_once_that_it_reads_them(tmp_path, capfd):
    base._said[0] = 0
    data = own(tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32), num_workers=2, batch_size=1)
    for stem in "abcd":
        Image.open(tmp_path / f"rgb/{stem}.png").convert("L").save(tmp_path / f"rgb/{stem}.png")
    assert read_all(data)
    assert capfd.readouterr().err.count("is no plain RGB picture: grey, taken as three equal channels") == 1


def test_larger_pictures_by_a_setting(tmp_path):
    small = own(tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32), max_pixels=SIZE[0] * SIZE[1] - 1)
    lines = failures(small)
    assert len(lines) == 12
    expected = "claims 48 x 40 pixels; expected at most 1919: the file is damaged, or set dataset.max_pixels=1920"
    assert all(expected in line for line in lines)
    with pytest.raises(DataError, match="set dataset.max_pixels=1920"):
        read_all(small)
    assert read_all(own(tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32), max_pixels=SIZE[0] * SIZE[1]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_pictures_fit_their_labels(tmp_path, orientation):
    """Of a phone, in JPEG; the label was drawn over what the viewer showed."""
    data = own(
        tmp_path, dict.fromkeys("abcd", SIZE), crop=(32, 32), modalities={"rgb": {"files": "rgb/*.*"}}, streams=["rgb"]
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    for stem in "abcd":
        label = np.kron(np.random.default_rng(3).integers(0, 2, (5, 6)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / f"label/{stem}.png")
        # What is stored is turned back by the tag: 6 and 8 undo each other, all others undo themselves.
        back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 2: Image.Transpose.FLIP_LEFT_RIGHT,
                3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
                7: Image.Transpose.TRANSVERSE}.get(orientation)  # fmt: skip
        picture = Image.fromarray((label * 200)[..., None].repeat(3, 2))
        (tmp_path / f"rgb/{stem}.png").unlink()
        (picture.transpose(back) if back is not None else picture).save(
            tmp_path / f"rgb/{stem}.jpg", quality=95, exif=exif
        )
    assert failures(data) == []
    for raw in (data.open_split("train").read(i, ["rgb"]) for i in range(2)):
        np.testing.assert_array_equal(raw.images["rgb"][..., 0] > 100, raw.label == 1)
