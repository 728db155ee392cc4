"""Labels of every form that people store them in: what `ktb-data new` writes is accepted, and reads what was meant."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ktb.data.readers import limits
from ktb.data.readers.label import LabelReader, id_table
from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.summary import summarise
from ktb.data.tools.new.output import write_yaml
from ktb.data.tools.new.survey import survey
from ktb.errors import ConfigError, DataError

SIZE = (40, 56)
FILES = 6
COLOURS = np.array([[128, 0, 0], [0, 128, 0], [0, 0, 128], [90, 90, 90]], np.uint8)
VOID = 3
"""In the labels that the tests draw: the author meant "unlabelled"."""

Write = Callable[[Path, np.ndarray, int], None]


def drawn(seed: int, classes: int = 3, void: bool = True) -> np.ndarray:
    """Blocks of the classes 0.., in places that differ from file to file, and some of `VOID`."""
    truth = np.random.default_rng(seed).permutation(np.arange(20) % classes).reshape(4, 5)
    truth = truth.repeat(10, axis=0).repeat(12, axis=1)[:, : SIZE[1]]
    if void:
        truth[:5, 7:20] = VOID
    return truth


def png(path: Path, image: Image.Image, **options: Any) -> None:
    image.save(path.with_suffix(".png"), **options)


def npy(dtype: Any, void: int) -> Write:
    return lambda path, truth, seed: np.save(
        path.with_suffix(".npy"), np.where(truth == VOID, void, truth).astype(dtype)
    )


def grey(ids: np.ndarray, dtype: Any = np.uint8) -> Image.Image:
    return Image.fromarray(ids.astype(dtype))


def palette_of_its_own(path: Path, truth: np.ndarray, seed: int) -> None:
    """The same colours in another order in every file, and only those that occur."""
    order = np.random.default_rng(seed).permutation([c for c in range(4) if (truth == c).any()])
    place = np.zeros(4, np.uint8)
    place[order] = np.arange(len(order))
    image = Image.fromarray(place[truth])
    image.putpalette(COLOURS[order].ravel().tolist())
    png(path, image)


def palette_with_transparency(path: Path, truth: np.ndarray, seed: int) -> None:
    image = Image.fromarray(np.where(truth == VOID, 0, truth + 1).astype(np.uint8))
    image.putpalette([0, 0, 0, *COLOURS[:3].ravel().tolist()])
    png(path, image, transparency=0)


def rgba(path: Path, truth: np.ndarray, seed: int) -> None:
    image = np.dstack([COLOURS[truth % 3], np.where(truth == VOID, 0, 255)]).astype(np.uint8)
    image[truth == VOID, :3] = 0
    png(path, Image.fromarray(image))


KINDS: dict[str, tuple[Write, dict[str, Any]]] = {
    "grey, 255": (lambda p, t, s: png(p, grey(np.where(t == VOID, 255, t))), {}),
    "16 bits, 65535": (
        lambda p, t, s: png(p, grey(np.where(t == VOID, 65535, t), np.uint16)),
        {"ignore": [255, 65535]},
    ),
    "int16, -1": (npy(np.int16, -1), {"ignore": [-1, 255]}),
    "int32, -1": (npy(np.int32, -1), {"ignore": [-1, 255]}),
    "int64, -1": (npy(np.int64, -1), {"ignore": [-1, 255]}),
    "float32, -1": (npy(np.float32, -1), {"ignore": [-1, 255]}),
    "float64, 255": (npy(np.float64, 255), {}),
    "uint32, its greatest": (npy(np.uint32, 2**32 - 1), {"ignore": [255, 2**32 - 1]}),
    "uint64, 255": (npy(np.uint64, 255), {}),
    "big endian, -100": (npy(">i4", -100), {"ignore": [-100, 255]}),
    "three channels": (
        lambda p, t, s: np.save(p.with_suffix(".npy"), np.where(t == VOID, -1, t)[..., None].repeat(3, 2)),
        {"ignore": [-1, 255]},
    ),
    "RGB triplets": (
        lambda p, t, s: png(p, Image.fromarray(np.where(t == VOID, 255, t).astype(np.uint8)[..., None].repeat(3, 2))),
        {},
    ),
    "grey and alpha": (
        lambda p, t, s: png(p, Image.merge("LA", (grey(t % 3), grey(np.where(t == VOID, 0, 255))))),
        {"channel": 0},
    ),
    "grey and full alpha": (
        lambda p, t, s: png(p, Image.merge("LA", (grey(np.where(t == VOID, 255, t)), grey(t * 0 + 255)))),
        {"channel": 0},
    ),
    "transparent grey": (lambda p, t, s: png(p, grey(np.where(t == VOID, 9, t)), transparency=9), {}),
    "RGBA": (rgba, {"colours": True}),
    "RGB": (
        lambda p, t, s: png(p, Image.fromarray(COLOURS[t % 3] if s % 2 else COLOURS[t % 3].copy())),
        {"colours": True},
    ),
    "palette": (
        lambda p, t, s: (lambda i: (i.putpalette(COLOURS.ravel().tolist()), png(p, i)))(grey(t % 3))[1],
        {},
    ),
    "palette of its own": (palette_of_its_own, {"colours": True}),
    "transparent palette": (palette_with_transparency, {"offset": -1, "ignore": [0, 255]}),
    "far apart": (
        lambda p, t, s: png(p, grey(np.array([7, 26, 140, 255])[t])),
        {"map": {7: 0, 26: 1, 140: 2, 255: 3}, "ignore": []},
    ),
}
TWO: dict[str, tuple[Write, dict[str, Any]]] = {
    "bool": (lambda p, t, s: np.save(p.with_suffix(".npy"), t == 1), {}),
    "1 bit": (lambda p, t, s: png(p, Image.fromarray(t == 1)), {}),
    "0 and 255": (lambda p, t, s: png(p, grey(t * 255)), {"map": {0: 0, 255: 1}, "ignore": []}),
    "0 and 255 in RGB": (
        lambda p, t, s: png(p, Image.fromarray((t * 255).astype(np.uint8)[..., None].repeat(3, 2))),
        {"map": {0: 0, 255: 1}, "ignore": []},
    ),
    "-1 and 1": (lambda p, t, s: np.save(p.with_suffix(".npy"), 2 * t - 1), {"map": {-1: 0, 1: 1}}),
    "2-bit palette": (
        lambda p, t, s: (lambda i: (i.putpalette([0, 0, 0, 255, 0, 0]), png(p, i, bits=2)))(grey(t))[1],
        {},
    ),
}


def checked(root: Path, name: str = "mine", **options: Any) -> tuple[dict[str, Any], FolderDataModule, dict[str, Any]]:
    """What `ktb-data new` writes for `root`, the data set that it says, and what `ktb-data check` says of that."""
    path = write_yaml(survey(root, workers=1, **options), name, root.parent / "conf")
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key in ("defaults", "recipe"):
        written.pop(key, None)
    data = FolderDataModule(**written, streams=list(written["modalities"]), num_workers=0)
    planned = open_splits(data)
    return written, data, summarise(data, planned, map(look, planned.looks))


def write(root: Path, kind: Write, truths: list[np.ndarray], folder: str = "label") -> None:
    for name in ("rgb", folder):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i, truth in enumerate(truths):
        noise = np.random.default_rng(i).integers(0, 256, (*truth.shape, 3), np.uint8)
        png(root / f"rgb/{i}", Image.fromarray(noise))
        kind(root / f"{folder}/{i}", truth, i)


@pytest.mark.parametrize("kind", [*KINDS, *TWO])
def test_what_new_writes_is_read_as_it_was_meant(tmp_path: Path, kind: str) -> None:
    write_label, settings = (KINDS | TWO)[kind]
    count = 2 if kind in TWO else 3
    void = kind not in TWO and kind not in ("RGB", "palette")
    truths = [drawn(i, count, void) for i in range(FILES)]
    write(tmp_path / "data", write_label, truths)
    written, data, report = checked(tmp_path / "data")
    suffix = next((tmp_path / "data/label").iterdir()).suffix
    got = {key: value for key, value in written["label"].items() if key != "files"}
    assert report["failures"] == []
    meant_void = void and kind not in ("palette of its own", "far apart")  # there it is one more colour or id
    assert len(written["classes"]) == count + (void and not meant_void)
    assert (got, written["label"]["files"]) == (settings, f"label/*{suffix}")
    pairs = set()
    for split in data.spec.splits:
        dataset = data.dataset(split)
        for i in range(len(dataset)):
            sample = dataset[i]
            read = sample["label"].numpy()
            pairs |= set(zip(truths[int(sample["id"])].ravel().tolist(), read.ravel().tolist(), strict=True))
    # One class for every id that was drawn, in their order, and void for what was meant as such.
    expected = {t: t for t in range(count)} | ({VOID: 255} if meant_void else {VOID: 3} if void else {})
    if "colours" in settings:
        by_colour = sorted(range(4 if void and not meant_void else 3), key=lambda c: COLOURS[c].tolist())
        expected |= {c: i for i, c in enumerate(by_colour)}
    assert dict(pairs) == expected
    assert len(pairs) == len(expected)


ALL = range(4)
BOTH = {"val": "val", "test": "test"}
"""Splits beside train, and their folders."""


def folders(root: Path, layout: str, lacking: Sequence[str] = (), names: Mapping[str, str] = BOTH) -> None:
    """Pictures, depth and labels by split, four in each, but for those whose "kind/split" or "kind/split/number" is
    `lacking`; of every split, the names are the same."""
    for split, folder in {"train": "train", **names}.items():
        for i in range(4):
            truth = drawn(i)
            images = {
                "rgb": np.random.default_rng(i).integers(0, 256, (*truth.shape, 3), np.uint8),
                "depth": np.random.default_rng(i).integers(600, 8000, truth.shape).astype(np.uint16),
                "label": np.where(truth == VOID, 255, truth).astype(np.uint8),
            }
            for kind, image in images.items():
                if not {f"{kind}/{split}", f"{kind}/{split}/{i}"} & set(lacking):
                    path = root / layout.format(split=folder, kind=kind) / f"{i}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    png(path, Image.fromarray(image))


@pytest.mark.parametrize("layout", ["{split}/{kind}", "{kind}/{split}"])
@pytest.mark.parametrize(
    ("lacking", "names", "expected"),
    [
        # A file of some sample is missing: the others stay in their splits.
        (["label/train/2"], {"val": "valid"}, {"train": [0, 1, 3], "val": ALL}),
        (["depth/val/0", "rgb/test/1"], BOTH, {"train": ALL, "val": [1, 2, 3], "test": [0, 2, 3]}),
        (["label/test", "depth/test/3"], BOTH, {"train": ALL, "val": ALL, "test": [0, 1, 2]}),
        (["label/test", "rgb/train/3"], {"val": "dev", "test": "testing"},
         {"train": [0, 1, 2], "val": ALL, "test": ALL}),
        # A whole kind is missing.
        (["depth/test"], BOTH, {"train": ALL, "val": ALL}),
        # No labels to choose a checkpoint by: some of train are taken.
        (["label/test"], {"test": "test"}, {"train": None, "val": None, "test": ALL}),
        (["label/val"], BOTH, {"train": None, "val": None, "test": ALL}),
        (["label/val", "label/test"], BOTH, {"train": None, "val": None, "test": ALL}),
        # Labels of test that are not all there.
        (["label/test/0"], {"test": "test"}, {"train": ALL, "test": [1, 2, 3]}),
    ],
)  # fmt: skip
def test_splits_by_folders_stay_the_users_where_files_are_missing(
    tmp_path: Path, layout: str, lacking: list[str], names: dict[str, str], expected: dict[str, Sequence[int] | None]
) -> None:
    folders(tmp_path / "data", layout, lacking, names)
    written, data, report = checked(tmp_path / "data")
    assert report["failures"] == []
    assert list(written["splits"]) == list(data.spec.splits) == list(expected)
    files = {split: [e.files["rgb"][0] for e in data.open_split(split).entries] for split in expected}
    own = {"train": "train", **names}
    for split, numbers in expected.items():
        if numbers is not None:
            where = layout.format(split=own[split], kind="rgb")
            assert files[split] == [f"{where}/{i}.png" for i in numbers]
    if expected["train"] is None:
        where = layout.format(split="train", kind="rgb")
        assert sorted(files["train"] + files["val"]) == [f"{where}/{i}.png" for i in ALL]
        assert len(files["val"]) == 1
    for split in expected:
        assert data.labelled(split) == (split != "test" or "label/test" not in lacking)


def test_folders_of_two_names_for_one_split_are_both_used(tmp_path: Path) -> None:
    folders(tmp_path / "data", "{split}/{kind}")
    (tmp_path / "data/test").rename(tmp_path / "data/validation")
    _, data, report = checked(tmp_path / "data")
    assert report["failures"] == []
    assert {split: len(data.open_split(split)) for split in data.spec.splits} == {"train": 4, "val": 8}


def test_splits_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    folders(tmp_path / "a", "{kind}/{split}", ["depth/train/0", "depth/train/1", "rgb/train/2", "rgb/train/3"])
    with pytest.raises(DataError, match=r"a: no sample in train has all of rgb, depth, label; expected names that run"):
        survey(tmp_path / "a", workers=1)
    folders(tmp_path / "b", "{kind}/{split}", ["label/test", *(f"label/train/{i}" for i in range(3))], {"test": "test"})
    with pytest.raises(DataError, match=r"b: 1 complete sample; expected two or more, to train and to validate"):
        survey(tmp_path / "b", workers=1)


def test_a_colour_label_among_grey_ones_saved_as_colour_is_refused_by_what_new_wrote(tmp_path: Path) -> None:
    write(tmp_path / "data", KINDS["RGB triplets"][0], [drawn(i) for i in range(FILES)])
    _, data, report = checked(tmp_path / "data")
    assert report["failures"] == []
    for path in (tmp_path / "data/label").iterdir():
        Image.fromarray(np.dstack([drawn(0) % 2, drawn(0) % 2, drawn(0) * 0]).astype(np.uint8)).save(path)
    with pytest.raises(DataError, match="label has 3 channels that differ, so it holds colours"):
        data.dataset("train")[0]


def module(root: Path, **label: Any) -> FolderDataModule:
    return FolderDataModule(
        root,
        modalities={"rgb": {"files": "rgb/*.png"}},
        label={"files": "label/*.*"} | label,
        classes=["a", "b", "c"],
        palette=COLOURS[:3].tolist(),
        splits={"train": 0.5, "val": 0.5},
        streams=["rgb"],
        batch_size=1,
        num_workers=0,
    )


def test_palettes_that_differ_are_found_where_the_configuration_does_not_know(tmp_path: Path) -> None:
    write(tmp_path, palette_of_its_own, [drawn(i, void=False) for i in range(FILES)])
    data = module(tmp_path)
    with pytest.raises(DataError, match=r"label/\d.png: id \d has the colour .* read them by colour") as error:
        data.setup("fit")
    assert "\n" not in str(error.value)
    assert "dataset.label.colours=true" in str(error.value)
    by_colour = module(tmp_path, colours=True)
    for split in ("train", "val"):
        for i in range(3):
            sample = by_colour.dataset(split)[i]
            np.testing.assert_array_equal(sample["label"].numpy(), drawn(int(sample["id"]), void=False))
    assert len(module(tmp_path, palettes="unused").dataset("train")) == 3
    with pytest.raises(ConfigError, match="label.palettes is 'none'; expected one of equal, unused"):
        module(tmp_path, palettes="none")


def test_palettes_are_compared_across_splits_and_by_the_ids_that_occur(tmp_path: Path) -> None:
    write(tmp_path, palette_of_its_own, [drawn(0, void=False) for _ in range(FILES)])
    colours = COLOURS.copy()
    for i in range(FILES):
        image = Image.fromarray((drawn(0, void=False) % 2).astype(np.uint8))
        colours[2] = i  # of an id that no pixel has
        image.putpalette(colours.ravel().tolist())
        image.save(tmp_path / f"label/{i}.png")
    data = module(tmp_path)
    assert [len(data.open_split(s)) for s in ("train", "val")] == [3, 3]
    for entry in data.open_split("train").entries:
        image = Image.open(tmp_path / entry.label)
        image.putpalette(COLOURS[[1, 0, 2]].ravel().tolist())
        image.save(tmp_path / entry.label)
    data = module(tmp_path)
    assert len(data.open_split("train")) == 3
    with pytest.raises(DataError, match="palettes that differ"):
        data.open_split("val")


def test_transparent_pixels_do_not_count_unless_said_so(tmp_path: Path) -> None:
    write(tmp_path, rgba, [drawn(i) for i in range(FILES)])
    sample = module(tmp_path, colours=True).dataset("train")[0]
    np.testing.assert_array_equal(sample["label"].numpy() == 255, drawn(int(sample["id"])) == VOID)
    with pytest.raises(DataError, match=r"label colour \(0, 0, 0\)"):
        module(tmp_path, colours=True, alpha="unused").dataset("train")[0]
    for path in (tmp_path / "label").iterdir():
        image = np.array(Image.open(path))
        image[20, 3, 3] = 100
        Image.fromarray(image).save(path)
    with pytest.raises(DataError, match=r"alpha is 100 at row 20, column 3; expected 0 \(unlabelled\) or 255"):
        module(tmp_path, colours=True).dataset("train")[0]
    with pytest.raises(ConfigError, match="alpha is 'some'; expected one of void, unused"):
        module(tmp_path, alpha="some")


def test_negative_ids_are_ignored_or_mapped(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for dtype in (np.int8, np.int16, np.int32, np.int64, np.float32):
        np.save(path, np.array([[-1, 0], [1, 2]], dtype))
        assert LabelReader(id_table(3, ignore=(-1,)))(path).tolist() == [[255, 0], [1, 2]]
        assert LabelReader({-1: 0, 0: 1, 1: 2, 2: 255})(path).tolist() == [[0, 1], [2, 255]]
    np.save(path, np.array([[0, 2**40], [-(2**40), 1]]))
    assert LabelReader({0: 0, 1: 1, 2**40: 2, -(2**40): 255})(path).tolist() == [[0, 2], [255, 1]]
    np.save(path, np.array([[0, 2**64 - 1]], np.uint64))
    with pytest.raises(DataError, match="label id"):
        LabelReader(id_table(3))(path)
    np.save(path, np.array([[0, np.nan]]))
    with pytest.raises(DataError, match="float64 values, nan at row 0, column 1; expected whole numbers"):
        LabelReader(id_table(3))(path)


def test_of_two_sets_of_labels_the_one_that_fits_is_taken_and_label_chooses(tmp_path: Path) -> None:
    root = tmp_path / "data"
    save = KINDS["grey, 255"][0]
    write(root, save, [drawn(i) % 2 for i in range(FILES)], "label")
    write(root, save, [drawn(i) for i in range(FILES)], "mask_fine")
    written, _, report = checked(root)
    assert (written["label"]["files"], report["failures"]) == ("mask_fine/*.png", [])
    notes = survey(root, workers=1).notes
    assert any("label/0.png and 5 like it are left out" in n and "--label 'label/*.png' takes them" in n for n in notes)
    (root / "classes.txt").write_text("ground\nweed\n")
    written = checked(root, "two")[0]
    assert (written["label"]["files"], written["classes"]) == ("label/*.png", ["ground", "weed"])
    (root / "classes.txt").write_text("ground\nweed\ncrop\n")
    assert checked(root, "three")[0]["label"]["files"] == "mask_fine/*.png"
    for name, given in (("a", "label"), ("b", "label/*.png"), ("c", str(root / "label"))):
        assert checked(root, name, label_files=given)[0]["label"]["files"] == "label/*.png"
    with pytest.raises(
        DataError, match=r"--label masks: no files of .* lie there; it has label/0.png, mask_fine/0.png"
    ):
        survey(root, label_files="masks", workers=1)
    with pytest.raises(DataError, match=r"--label label/0.png: takes 1 of 6 files like label/0.png; expected all"):
        survey(root, label_files="label/0.png", workers=1)


def instances(path: Path, truth: np.ndarray, seed: int) -> None:
    """24-bit numbers, as panoptic labels have them: other ones in every file."""
    number = 256 * (1 + np.arange(truth.size).reshape(truth.shape) // 40) + 1_000_000 * seed + truth
    png(path, Image.fromarray(np.dstack([number >> 16 & 255, number >> 8 & 255, number & 255]).astype(np.uint8)))


def smoothed(path: Path, truth: np.ndarray, seed: int) -> None:
    image = Image.fromarray(COLOURS[truth % 3]).resize((31, 23), Image.Resampling.BICUBIC)
    png(path, image.resize(SIZE[::-1], Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("kind", "expected"), [(instances, "instances"), (smoothed, "resized or saved as JPEG")])
def test_colours_that_are_no_classes_are_refused(tmp_path: Path, kind: Write, expected: str) -> None:
    write(tmp_path, kind, [drawn(i) for i in range(FILES)])
    with pytest.raises(DataError, match=rf"label/\d.png: and the other labels have \d+ colours.*{expected}.*class ids"):
        survey(tmp_path, workers=1)


def test_colours_of_what_is_void_may_differ_between_files(tmp_path: Path) -> None:
    """The ignored id and transparent pixels are of no class, whatever their colour."""
    write(tmp_path, palette_of_its_own, [drawn(0, void=False) for _ in range(FILES)])
    for i in range(FILES):
        ids = drawn(0, void=False).astype(np.uint8)
        ids[0], ids[1] = 255, 3
        image = Image.fromarray(ids)
        palette = np.zeros((256, 3), np.uint8)
        palette[:3], palette[3], palette[255] = COLOURS[:3], i, i + 10
        image.putpalette(palette.ravel().tolist())
        image.save(tmp_path / f"label/{i}.png", transparency=bytes([255, 255, 255, 0]))
    sample = module(tmp_path, ignore=[255]).dataset("train")[0]
    assert (sample["label"][:2] == 255).all()
    assert (sample["label"][2:] < 3).all()


def test_palettes_are_compared_in_labels_above_the_usual_limit_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, palette_of_its_own, [drawn(i, void=False) for i in range(FILES)])
    monkeypatch.setattr(limits, "_limit", ContextVar("pixel_limit", default=10))
    data = module(tmp_path)
    data.max_pixels = 10**6
    with pytest.raises(DataError, match="palettes that differ"):
        data.open_split("train")


@pytest.mark.parametrize("label", [{"map": {0: 0, 7: 1, 255: 2}}, {"offset": -253}])
def test_255_is_a_class_where_the_configuration_says_so(tmp_path: Path, label: dict[str, Any]) -> None:
    stored = {0: 0, 1: 7, 2: 255} if "map" in label else {0: 253, 1: 254, 2: 255}
    write(
        tmp_path,
        lambda p, t, s: png(p, grey(t)),
        [np.vectorize(stored.get)(drawn(i, void=False)) for i in range(FILES)],
    )
    for i in range(3):
        sample = module(tmp_path, **label).dataset("train")[i]
        np.testing.assert_array_equal(sample["label"].numpy(), drawn(int(sample["id"]), void=False))
