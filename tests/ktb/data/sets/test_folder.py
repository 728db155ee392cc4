"""The user's own data: its splits, what it reads, files of another size, splits without labels."""

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
from ktb.data.spec import IGNORE
from ktb.errors import ConfigError, DataError
from tests.ktb.data.sets.own import SIZE, STEMS, ids, module
from tests.ktb.data.written import save


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


def test_samples_that_are_trained_on_and_scored_are_told(root):
    assert module(root).trained_and_scored() is None
    (root / "val.txt").write_text("b_03\na_02\nb_02\n")
    assert module(root, name="mine").trained_and_scored() == (
        "mine: 2 of 3 samples of val are trained on too (first: a_02): scores on them say nothing about new pictures"
    )


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
