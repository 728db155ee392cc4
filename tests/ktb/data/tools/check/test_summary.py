"""What is counted is what lies on disk."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from ktb.data.sets.deliver import DELIVERDataModule
from ktb.data.sets.folder import FolderDataModule
from ktb.data.sets.mcubes import MCubeSDataModule
from ktb.data.sets.mfnet import MFNetDataModule
from ktb.data.sets.pst900 import PST900DataModule
from ktb.data.sets.sunrgbd import SUNRGBDDataModule
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.data.tools.check.report import show
from ktb.data.tools.fixtures import make_fixture
from tests.ktb.data.tools.check.reports import SIZE, nyu_data, report_of


def test_counts_sizes_classes_and_void_of_nyu(nyu):
    report = report_of(nyu_data(nyu))
    assert report["failures"] == []
    assert list(report["splits"]) == ["train", "test"]
    for split, indices, published in (("train", (0, 1, 2), 795), ("test", (3, 4), 654)):
        found = report["splits"][split]
        stored = np.concatenate([np.array(Image.open(nyu / f"Label/{i}.png")).ravel() for i in indices])
        assert (found["samples"], found["published"], found["failed"]) == (len(indices), published, 0)
        assert found["sizes"] == {"40x48": len(indices)}
        assert list(found["classes"].values()) == [int((stored == i + 1).sum()) for i in range(40)]
        assert found["void"] == int((stored == 0).sum()) > 0
        assert found["void_share"] == pytest.approx((stored == 0).mean())
        assert found["pixels"] == len(stored)
        pixels = np.stack([np.array(Image.open(nyu / f"RGB/{i}.jpg")) for i in indices])
        rgb = found["modalities"]["rgb"]
        assert rgb["kinds"] == {"uint8 x 3": len(indices)}
        # Two JPEG decoders differ by a grey value or two.
        assert [rgb["min"], rgb["max"]] == pytest.approx([pixels.min(), pixels.max()], abs=3)
        assert rgb["mean"] == pytest.approx(pixels.mean(), abs=0.5)
    assert f"train: 3 samples, published are {795}" in report["findings"]


def test_measured_share_and_range_of_raw_depth(nyu):
    report = report_of(nyu_data(nyu, streams=["depth"], depth_source="depth"))
    metres = np.stack([np.load(nyu / f"Depth/{i}.npy") for i in (3, 4)])
    depth = report["splits"]["test"]["modalities"]["depth"]
    assert depth["kinds"] == {"float32 x 1": 2}
    assert depth["measured"] == pytest.approx((metres > 0).mean())
    assert depth["measured"] < 1
    assert depth["min"] == pytest.approx(metres[metres > 0].min())
    assert depth["max"] == pytest.approx(metres.max())


@pytest.mark.parametrize(
    ("name", "module", "streams"),
    [
        ("sunrgbd", SUNRGBDDataModule, ["rgb", "depth"]),
        ("mfnet", MFNetDataModule, ["rgb", "thermal"]),
        ("pst900", PST900DataModule, ["rgb", "thermal", "depth"]),
        ("mcubes", MCubeSDataModule, ["rgb", "aolp", "dolp", "nir"]),
        ("deliver", DELIVERDataModule, ["rgb", "depth", "event", "lidar"]),
    ],
)
def test_every_data_set_with_all_its_modalities(tmp_path, name, module, streams):
    root = make_fixture(name, tmp_path / name, size=SIZE)
    report = report_of(module(root, streams=streams, crop=(32, 32)))
    assert report["failures"] == []
    for split in report["splits"].values():
        assert (split["samples"], split["failed"]) == (4, 0)
        assert list(split["modalities"]) == streams
        assert split["pixels"] == split["void"] + sum(split["classes"].values()) > 0


def test_conditions_are_counted(tmp_path):
    root = make_fixture("mfnet", tmp_path / "mfnet", counts={"train": 3, "val": 1, "test": 1}, size=SIZE)
    splits = report_of(MFNetDataModule(root, streams=["rgb", "thermal"]))["splits"]
    assert splits["train"]["conditions"] == {"time": {"day": 2, "night": 1}}
    assert splits["val"]["conditions"] == {"time": {"night": 1}}


def test_a_data_set_without_files(tmp_path):
    data = SyntheticDataModule(batch_size=2, train=2, val=1, test=1, size=[32, 32], streams=["rgb", "depth"])
    report = report_of(data)
    assert [s["samples"] for s in report["splits"].values()] == [2, 1, 1]
    assert report["failures"] == []


def test_sizes_gaps_and_missing_labels_are_facts_of_own_data(tmp_path):
    """Nothing of it stops a training, so nothing of it is a failure."""
    for i in range(6):
        for kind, size in (("rgb", (*SIZE, 3)), ("depth", (20, 24)), ("label", SIZE)):
            late = 0.004 * i if kind == "depth" else 0.0
            path = tmp_path / f"{kind}/{100 + i + late:.3f}.png"
            path.parent.mkdir(exist_ok=True)
            picture = np.random.default_rng(i).integers(0, 2, size, np.uint8)
            if kind != "label" or i != 5:
                Image.fromarray(picture).save(path)
    for split, names in {"train": (0, 1, 2), "val": (3, 4), "test": (5,)}.items():
        (tmp_path / f"{split}.txt").write_text("".join(f"{100 + i}.000\n" for i in names))
    data = FolderDataModule(
        tmp_path,
        modalities={"rgb": {"files": "rgb/*.png"}, "depth": {"files": "depth/*.png", "scale": 1}},
        label={"files": "label/*.png"},
        classes=["a", "b"],
        splits={"train": "train.txt", "val": "val.txt", "test": "test.txt"},
        max_gap=0.015,
        streams=["rgb", "depth"],
        batch_size=1,
        num_workers=0,
    )
    report = report_of(data)
    assert report["unopened"] == {"test": report["unopened"]["test"]}  # its only frame has no partner within the gap
    data.max_gap = 0.05
    report = report_of(data)
    assert (report["failures"], report["unopened"]) == ([], {})
    depth = report["splits"]["val"]["modalities"]["depth"]
    assert depth["sizes"] == {"20x24": 2}
    gap = report["splits"]["val"]["gaps"]["depth"]
    assert (gap["samples"], gap["median"], gap["max"]) == (2, pytest.approx(0.014), pytest.approx(0.016))
    assert report["splits"]["train"]["gaps"]["label"]["max"] == 0
    assert report["splits"]["test"]["sizes"] == {}
    assert report["splits"]["test"]["pixels"] == 0
    said = "\n".join(report["findings"])
    assert "val: resized to 40x48 (height x width) of the rgb: depth of 20x24" in said
    assert "test: no sample has a label" in said
    assert "void altogether" not in said
    text = io.StringIO()
    show(report, Console(file=text, width=200))
    assert "Gaps of pairs by time, milliseconds" in text.getvalue()
