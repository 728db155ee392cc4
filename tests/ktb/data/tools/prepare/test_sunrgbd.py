"""SUN RGB-D's pictures and toolbox become what was stored in them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ktb.data.sets.sunrgbd import SUNRGBDDataModule
from ktb.data.spec import IGNORE
from tests.ktb.data.tools.prepare.calls import RNG, SIZE, call

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
