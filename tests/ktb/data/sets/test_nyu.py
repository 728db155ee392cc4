"""NYU Depth V2: every list dialect, both kinds of depth, and the real sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktb.data.sets.nyu import CLASSES, NYUDataModule
from ktb.data.spec import IGNORE
from ktb.errors import ConfigError, DataError
from tests.ktb.data.written import save

SIZE = (40, 56)
IDS = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 41  # every stored id, 0 = void
EXPECTED = np.where(IDS == 0, IGNORE, IDS - 1)


def module(root: Path, **options) -> NYUDataModule:
    return NYUDataModule(root, **{"streams": ["rgb", "depth"], "num_workers": 0, "batch_size": 2, **options})


@pytest.fixture
def root(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for i in range(5):
        save(tmp_path / f"RGB/{i}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(tmp_path / f"HHA/{i}.jpg", rng.integers(0, 256, (*SIZE, 3), np.uint8))
        save(tmp_path / f"Depth/{i}.npy", np.full(SIZE, i + 0.5, np.float32))
        save(tmp_path / f"Label/{i}.png", IDS.astype(np.uint8))
    (tmp_path / "train.txt").write_text("0\n1\n2\n")
    (tmp_path / "test.txt").write_text("3\n4\n")
    return tmp_path


def test_description():
    spec = module(Path("anywhere")).spec
    assert (spec.num_classes, spec.classes[0], spec.classes[39]) == (40, "wall", "otherprop")
    assert spec.palette[:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))
    assert spec.palette[39] == (64, 0, 64)  # id 40 = 0b101_000: bits 3 and 5 are bit 6 of red and of blue
    assert len(set(spec.palette)) == 40
    assert spec.splits == ("train", "test")
    assert (spec.selection_split, spec.report_split) == ("test", "test")
    assert dict(spec.counts) == {"train": 795, "test": 654}
    assert "refridgerator" in CLASSES


@pytest.mark.parametrize("line", ["RGB/{i}.jpg\tLabel/{i}.png", "RGB/{i}.jpg Label/{i}.png", "{i}"])
def test_list_dialects_with_ids_from_one(root, line):
    (root / "train.txt").write_text("".join(line.format(i=i) + "\n" for i in (2, 0, 1)))
    dataset = module(root).dataset("train")
    assert [dataset[i]["id"] for i in range(3)] == ["RGB/2", "RGB/0", "RGB/1"]
    np.testing.assert_array_equal(dataset[0]["label"], EXPECTED)
    with Image.open(root / "HHA/2.jpg") as hha:
        assert np.abs(dataset[0]["inputs"]["depth"].permute(1, 2, 0).int().numpy() - np.asarray(hha)).max() <= 1


def test_three_columns_hold_class_ids(root):
    ids = np.where(IDS == 40, IGNORE, IDS).astype(np.uint8)
    save(root / "rgb/000003.png", np.zeros((*SIZE, 3), np.uint8))
    save(root / "masks/000003.png", ids)
    save(root / "depth/000003.png", np.full(SIZE, 2500, np.uint16))
    (root / "test.txt").write_text("rgb/000003.png masks/000003.png depth/000003.png\n")
    sample = module(root, depth_source="depth").dataset("test")[0]
    np.testing.assert_array_equal(sample["label"], ids)
    np.testing.assert_allclose(sample["inputs"]["depth"], 2.5)
    assert sample["id"] == "rgb/000003"
    with pytest.raises(DataError, match=r"HHA/000003.jpg: no such file, but .*test.txt names it"):
        module(root).dataset("test")


def test_depth_is_metric_whatever_the_file(root):
    dataset = module(root, depth_source="depth").dataset("train")
    depth = dataset[1]["inputs"]["depth"]
    assert depth.shape == (1, *SIZE)
    np.testing.assert_allclose(depth, 1.5)
    assert module(root, depth_source="depth").modalities[1].normalize(depth[None]).unique().item() == pytest.approx(
        0.15
    )
    (root / "Depth/1.npy").unlink()
    millimetres = np.full(SIZE, 1500, np.uint16)
    millimetres[5:9] = 0
    save(root / "Depth/1.png", millimetres)
    depth = module(root, depth_source="depth").dataset("train")[1]["inputs"]["depth"]
    np.testing.assert_allclose(depth[0], np.where(millimetres == 0, 0, 1.5))
    save(root / "Depth/1.png", np.full(SIZE, 51, np.uint8))
    np.testing.assert_allclose(
        module(root, depth_source="depth").dataset("train")[1]["inputs"]["depth"], 2.0, rtol=1e-6
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("0\nRGB/1.jpg Label/1.png\n", "line 2: 2 columns; expected 1 as on the first line"),
        ("a b c d\n", "line 1: 4 columns; expected 1 to 3"),
        ("RGB/1.jpg\n", "line 1: 'RGB/1.jpg' alone; expected a frame number, or image and label"),
        ("0\n7\n8\n", "RGB/7.jpg: no such file, but"),
        ("rgb/1.jpg Label/1.png\n", "has 'RGB', not 'rgb': upper and lower case matter"),
    ],
)
def test_broken_lists(root, content, expected):
    (root / "train.txt").write_text(content)
    with pytest.raises(DataError) as caught:
        module(root).setup("fit")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_can_be_left_out(root, caplog):
    (root / "train.txt").write_text("0\n1\n2\n77\n78\n")
    (root / "HHA/1.jpg").unlink()
    with pytest.raises(DataError, match=r"HHA/1.jpg: no such file, but .* \(and 6 more\).*dataset.missing=skip"):
        module(root).dataset("train")
    with caplog.at_level("INFO"):
        assert len(module(root, missing="skip").dataset("train")) == 2
    assert "train: 3 of 5 listed samples left out" in caplog.text
    # HHA is not needed where it is not used.
    assert len(module(root, missing="skip", streams=["rgb"]).dataset("train")) == 3
    (root / "train.txt").write_text("77\n")
    with pytest.raises(DataError, match="none of its 1 samples has all its files"):
        module(root, missing="skip").dataset("train")


def test_own_lists(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("lists") / "mine.txt"
    elsewhere.write_text("4\n")
    own = module(root, lists={"train": "train.txt", "val": "test.txt", "test": str(elsewhere)}, selection_split="val")
    assert [len(own.dataset(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert own.dataset("test")[0]["id"] == "RGB/4"


def test_settings_that_cannot_work(root):
    with pytest.raises(ConfigError, match="dataset.depth_source is 'hah'; expected one of hha, depth"):
        module(root, depth_source="hah")
    with pytest.raises(ConfigError, match="dataset.missing is 'ignore'; expected one of error, skip"):
        module(root, missing="ignore")


def test_label_outside_the_classes_names_the_file(root):
    save(root / "Label/1.png", np.full(SIZE, 41, np.uint8))
    with pytest.raises(DataError, match=r"Label/1.png: label id 41 at 2240 pixels, .* expected 0-40, 255"):
        module(root).dataset("train")[1]


# --- the real sample -------------------------------------------------------------------------------------------------


def test_real_sample(shared):
    root = shared / "samples/NYUDepthv2"
    lists = {"train": "test.txt", "test": "test.txt"}  # its one frame stands in the test list
    options = {"missing": "skip", "lists": lists, "batch_size": 1, "crop": (480, 640), "eval_size": [480, 640]}
    dataset = module(root, **options).dataset("test")
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample["id"] == "RGB/0"
    assert sample["inputs"]["rgb"].shape == sample["inputs"]["depth"].shape == (3, 480, 640)
    counts = np.bincount(sample["label"].numpy().ravel(), minlength=256)
    assert {int(i): int(counts[i]) for i in np.flatnonzero(counts)} == {
        0: 125411, 1: 3609, 2: 29204, 4: 23397, 6: 672, 11: 3030, 21: 33356, 23: 10354, 25: 4671, 37: 11782, 38: 21249,
        39: 18661, 255: 21804,
    }  # fmt: skip
    raw = module(root, **options, depth_source="depth").dataset("test")[0]["inputs"]["depth"]
    assert raw.shape == (1, 480, 640)
    assert (raw.min().item(), raw.max().item()) == pytest.approx((1.7985953, 3.615639))
    batch = next(iter(module(root, **options).train_dataloader()))
    assert batch["inputs"]["rgb"].shape == (1, 3, 480, 640)


def test_real_lists(shared):
    from ktb.data.lists import read_list

    root = shared / "samples/NYUDepthv2"
    for split, count, first in (("train", 795, "RGB/2.jpg"), ("test", 654, "RGB/0.jpg")):
        lines = read_list(root / f"{split}.txt", root)
        assert len(lines) == count
        assert lines[0].columns == (first, first.replace("RGB", "Label").replace("jpg", "png"))
