"""Downloads in their original form become what the loaders read, value for value; a stopped conversion goes on."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ktb.cli.data import main
from ktb.data.sets.mfnet import MFNetDataModule
from ktb.data.sets.nyu import NYUDataModule
from ktb.data.sets.sunrgbd import SUNRGBDDataModule
from ktb.data.spec import IGNORE
from ktb.data.tools import prepare
from ktb.data.tools.fixtures import make_fixture
from ktb.data.tools.parallel import parallel
from ktb.errors import ConfigError, DataError

SIZE = (36, 44)
RNG = np.random.default_rng(0)


def call(*arguments) -> int:
    return main([str(a) for a in arguments])


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


# --- NYU -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nyu(tmp_path_factory) -> tuple[Path, dict[str, np.ndarray]]:
    """The download with six frames: MATLAB 7.3 is HDF5 with reversed axes."""
    root = tmp_path_factory.mktemp("nyu")
    frames = {
        "images": RNG.integers(0, 256, (6, *SIZE, 3)).astype(np.uint8),
        "labels": RNG.integers(0, 895, (6, *SIZE)).astype(np.uint16),
        "depths": RNG.uniform(0.7, 9.9, (6, *SIZE)).astype(np.float32),
    }
    frames["rawDepths"] = np.where(RNG.random((6, *SIZE)) < 0.2, 0, frames["depths"]).astype(np.float32)
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w", userblock_size=512) as file:
        for name, values in frames.items():
            axes = (0, 3, 2, 1) if name == "images" else (0, 2, 1)
            file.create_dataset(name, data=values.transpose(axes), compression="gzip")
    savemat(root / "splits.mat", {"trainNdxs": np.array([[3], [4], [6]]), "testNdxs": np.array([[1], [2]])})
    frames["mapClass"] = RNG.integers(1, 41, 894)
    savemat(root / "classMapping40.mat", {"mapClass": frames["mapClass"][None].astype(np.uint8)})
    return root, frames


def test_nyu(nyu, tmp_path, capsys):
    source, frames = nyu
    target = tmp_path / "NYUDepthv2"
    assert call("prepare", "nyu", source, target, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert f"{target}: 5 written, 0 kept, 0 failed" in printed
    assert f"next: ktb-data hha {target}/Depth {target}/HHA --raw {target}/RawDepth --unit m" in printed
    assert (target / "train.txt").read_text() == "".join(f"RGB/{i}.png\tLabel/{i}.png\n" for i in (2, 3, 5))
    assert (target / "test.txt").read_text().splitlines()[0] == "RGB/0.png\tLabel/0.png"
    assert not (target / "RGB/4.png").exists()  # in neither split
    np.testing.assert_array_equal(np.load(target / "RawDepth/3.npy"), frames["rawDepths"][3])

    data = NYUDataModule(target, streams=["rgb", "depth"], depth_source="depth", num_workers=0)
    sample = data.dataset("train")[1]
    np.testing.assert_array_equal(sample["inputs"]["rgb"].permute(1, 2, 0), frames["images"][3])
    np.testing.assert_array_equal(sample["inputs"]["depth"][0], frames["depths"][3])
    classes = np.concatenate([[IGNORE + 1], frames["mapClass"]])[frames["labels"][3]] - 1
    np.testing.assert_array_equal(sample["label"], classes)

    hha = ("hha", target / "Depth", target / "HHA", "--raw", target / "RawDepth", "--unit", "m", "--workers", 1)
    assert call(*hha, "--scale-camera") == 0
    settings = (f"dataset.root={target}", "dataset.batch_size=2", "--workers", 1)
    assert call("check", "dataset=nyu", *settings) == 0


def test_a_stopped_conversion_goes_on(nyu, tmp_path):
    source, frames = nyu
    target = tmp_path / "out"
    planned = prepare.plan("nyu", source, target)
    first = [prepare.convert(job).state for job in planned.jobs[:2]]
    assert first == ["written", "written"]
    assert not (target / "train.txt").exists()  # a folder with lists is a complete one
    (target / "Depth/0.npy").unlink()
    marked = target / "RGB/1.png"
    Image.new("RGB", (44, 36)).save(marked)

    planned = prepare.plan("nyu", source, target)
    outcomes = list(parallel(prepare.convert, planned.jobs, 1))
    assert [o.state for o in outcomes] == ["written", "kept", "written", "written", "written"]
    assert stored(marked).max() == 0  # a finished file is not touched
    np.testing.assert_array_equal(np.load(target / "Depth/0.npy"), frames["depths"][0])
    assert prepare.convert(planned.jobs[1], overwrite=True).state == "written"
    np.testing.assert_array_equal(stored(marked), frames["images"][1])
    assert [p for p in target.rglob("*") if p.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "splits.mat").unlink(), r"splits.mat: no such file; expected the file with trainNdxs"),
        (lambda root: (root / "nyu_depth_v2_labeled.mat").rename(root / "nyu_depth_v2_Labeled.mat"),
         r"no such file; .* upper and lower case matter"),
        (lambda root: (root / "nyu_depth_v2_labeled.mat").write_bytes(b"MATLAB 7.3 MAT-file" * 99),
         r"labeled.mat: is no readable HDF5 file .* download it again"),
        (lambda root: (root / "classMapping40.mat").write_bytes(b"not found"),
         r"classMapping40.mat: is no readable MATLAB file"),
        (lambda root: savemat(root / "classMapping40.mat", {"mapping": [1]}),
         r"has no variable 'mapClass', only mapping; expected the original file"),
        (lambda root: savemat(root / "classMapping40.mat", {"mapClass": np.arange(894)}),
         r"mapClass has 894 values from 0 to 893; expected 894 from 1 to 40"),
        (lambda root: savemat(root / "splits.mat", {"trainNdxs": [1, 2], "testNdxs": [2, 3]}),
         r"splits.mat: frames 1 to 3, 1 of them twice; expected each of 1 to 6 at most once"),
        (lambda root: savemat(root / "splits.mat", {"trainNdxs": [1, 7], "testNdxs": [2, 3]}), r"frames 1 to 7, 0 of"),
    ],
)  # fmt: skip
def test_broken_downloads_stop_before_anything_is_written(nyu, tmp_path, spoil, message):
    source, target = tmp_path / "download", tmp_path / "out"
    source.mkdir()
    for path in nyu[0].iterdir():
        (source / path.name).write_bytes(path.read_bytes())
    spoil(source)
    with pytest.raises(DataError, match=message) as caught:
        prepare.plan("nyu", source, target)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def test_targets_that_cannot_be(nyu, tmp_path, capsys):
    source, _ = nyu
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a.txt").touch()
    with pytest.raises(DataError, match="full: exists and was not begun by this command"):
        prepare.plan("nyu", source, tmp_path / "full")
    with pytest.raises(DataError, match="is the source itself"):
        prepare.plan("nyu", source, source)
    mfnet = make_fixture("mfnet", tmp_path / "mfnet", layout="rgba", size=SIZE)
    prepare.plan("mfnet", mfnet, tmp_path / "out")
    with pytest.raises(DataError, match=r"out/prepared.json: says that the folder was made from other files"):
        prepare.plan("nyu", source, tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing to prepare for 'pst900'; there is nyu, sunrgbd, mfnet"):
        prepare.plan("pst900", source, tmp_path / "new")
    assert call("prepare", "nyu", tmp_path / "nowhere", tmp_path / "new") == 2
    assert "nowhere: no such folder" in capsys.readouterr().err


# --- SUN RGB-D -------------------------------------------------------------------------------------------------------

ON_THE_AUTHORS_MACHINE = "/n/fs/sun3d/data/SUNRGBD/"


@pytest.fixture(scope="module")
def sunrgbd(tmp_path_factory) -> tuple[Path, list[np.ndarray], list[np.ndarray]]:
    """Four frames as the two archives unpack them; frame 1 is in neither split."""
    root = tmp_path_factory.mktemp("sun")
    folders = ["kv1/NYUdata/NYU0001", "kv2/a/f1", "xtion/b/f2", "realsense/c/f3"]
    labels = [RNG.integers(0, 38, SIZE).astype(np.uint8) for _ in folders]
    depths = [RNG.integers(500, 8192, SIZE).astype(np.uint16) for _ in folders]
    depths[3][0, 0] = 9000  # beyond 13 bits
    frames = np.zeros((1, 4), [(name, object) for name in ("rgbpath", "rgbname", "depthpath", "depthname")])
    for i, folder in enumerate(folders):
        place = root / "SUNRGBD" / folder
        for name in ("image", "depth_bfx"):
            (place / name).mkdir(parents=True)
        Image.fromarray(RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)).save(place / f"image/{i}.jpg")
        rotated = (depths[i] << 3) | (depths[i] >> 13)
        Image.fromarray(rotated).save(place / f"depth_bfx/{i}_abs.png")
        frames[0, i] = (
            f"{ON_THE_AUTHORS_MACHINE}{'/' * (i == 2)}{folder}/image/{i}.jpg", f"{i}.jpg",
            f"{ON_THE_AUTHORS_MACHINE}{folder}/depth_bfx/{i}_abs.png", f"{i}_abs.png",
        )  # fmt: skip
    toolbox = root / "SUNRGBDtoolbox"
    for name in ("Metadata", "traintestSUNRGBD"):
        (toolbox / name).mkdir(parents=True)
    savemat(toolbox / "Metadata/SUNRGBDMeta.mat", {"SUNRGBDMeta": frames})
    train = np.array([[f"{ON_THE_AUTHORS_MACHINE}{folders[i]}" for i in (3, 0)]], dtype=object)
    test = np.array([[f"{ON_THE_AUTHORS_MACHINE}{folders[2]}"]], dtype=object)
    savemat(toolbox / "traintestSUNRGBD/allsplit.mat", {"alltrain": train, "alltest": test})
    with h5py.File(toolbox / "Metadata/SUNRGBD2Dseg.mat", "w") as file:
        references = file.create_dataset("SUNRGBD2Dseg/seglabel", (4, 1), h5py.ref_dtype)
        for i, label in enumerate(labels):
            references[i, 0] = file.create_dataset(f"#refs#/{i}", data=label.T.astype(np.float64)).ref
    return root, labels, depths


def test_sunrgbd(sunrgbd, tmp_path, capsys):
    source, labels, depths = sunrgbd
    target = tmp_path / "SUN-RGBD"
    assert call("prepare", "sunrgbd", source, target, "--workers", 1) == 0
    printed = capsys.readouterr()
    assert "1 frames of" in printed.err
    assert f"{target}: 3 written" in printed.out
    data = SUNRGBDDataModule(target, streams=["rgb", "depth"], num_workers=0)
    for split, index, frame in (("train", 0, 0), ("train", 1, 3), ("test", 0, 2)):
        sample = data.dataset(split)[index]
        np.testing.assert_array_equal(sample["label"], np.where(labels[frame] == 0, IGNORE, labels[frame] - 1))
        np.testing.assert_array_equal(sample["inputs"]["depth"][0], np.minimum(depths[frame], 8191) // 32)
        folder = ("kv1/NYUdata/NYU0001", "", "xtion/b/f2", "realsense/c/f3")[frame]
        copied = (target / f"{sample['id']}.jpg").read_bytes()
        assert copied == (source / f"SUNRGBD/{folder}/image/{frame}.jpg").read_bytes()
    assert [len(data.dataset(split)) for split in ("train", "test")] == [2, 1]


def test_a_frame_that_is_missing_fails_alone_and_no_list_is_written(sunrgbd, tmp_path, capsys):
    source, target = sunrgbd[0], tmp_path / "out"
    picture = source / "SUNRGBD/xtion/b/f2/image/2.jpg"
    kept = picture.read_bytes()
    picture.unlink()
    try:
        assert call("prepare", "sunrgbd", source, target, "--workers", 1) == 1
    finally:
        picture.write_bytes(kept)
    assert f"failed: {picture}: no such file" in capsys.readouterr().err
    assert not list(target.glob("*.txt"))
    assert call("prepare", "sunrgbd", source, target, "--workers", 1) == 0
    assert f"{target}: 1 written, 2 kept, 0 failed" in capsys.readouterr().out
    assert sorted(p.name for p in target.glob("*.txt")) == ["test.txt", "train.txt"]


# --- MFNet -----------------------------------------------------------------------------------------------------------


def test_mfnet(tmp_path, capsys):
    source = make_fixture("mfnet", tmp_path / "download", layout="rgba", size=SIZE)
    target = tmp_path / "MFNet"
    assert call("prepare", "mfnet", source, target, "--workers", 1) == 0
    assert f"{target}: 12 written" in capsys.readouterr().out
    modules = [MFNetDataModule(root, streams=["rgb", "thermal"], num_workers=0) for root in (source, target)]
    for split in ("train", "val", "test"):
        before, after = (module.dataset(split) for module in modules)
        for a, b in zip(before, after, strict=True):
            assert (a["id"], a["condition"]) == (b["id"], b["condition"])
            for name in ("rgb", "thermal"):
                np.testing.assert_array_equal(a["inputs"][name], b["inputs"][name])
            np.testing.assert_array_equal(a["label"], b["label"])
    assert sorted(p.name for p in (target / "ther").iterdir())[0] == "00001D.png"
    (target / "rgb/00001D.png").unlink()
    Image.new("RGB", (44, 36)).save(source / "images/00001D.png")
    assert call("prepare", "mfnet", source, target, "--workers", 1) == 1
    assert "images/00001D.png: holds uint8 values of shape (36, 44, 3); expected 8-bit RGBA" in capsys.readouterr().err


def test_names_in_a_list_stay_below_the_target(tmp_path):
    source = make_fixture("mfnet", tmp_path / "download", layout="rgba", size=SIZE)
    for name, message in (("../../00001D", "leaves the data root"), ("sub/00001D", "expected names of pictures")):
        (source / "train.txt").write_text(f"{name}\n")
        with pytest.raises(DataError, match=message):
            prepare.plan("mfnet", source, tmp_path / "out")
