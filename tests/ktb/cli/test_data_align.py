"""`ktb-data align` as called: what it writes, that a second call goes on, and what it refuses."""

from __future__ import annotations

import json
import re

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from ktb.cli.data import main
from ktb.data.sets.folder import FolderDataModule
from ktb.data.tools.check.look import look
from ktb.data.tools.check.opened import open_splits
from ktb.data.tools.check.summary import summarise
from tests.ktb.data.tools.align.rigs import FIRST_SIZE, OTHER_SIZE, both
from tests.ktb.data.tools.align.test_calibration import opencv
from tests.ktb.data.written import save


def call(*arguments):
    return main([str(a) for a in arguments])


@pytest.fixture(scope="module")
def seen():
    return both()


@pytest.fixture
def folder(tmp_path, seen):
    """A rig's data: RGB, and of another camera depth in mm, infrared and ids; lists beside them."""
    (_, bright, ids), (depth, infrared, other_ids) = seen
    root = tmp_path / "raw"
    stored = np.rint(depth * 1000).astype(np.uint16)
    stored[5:9, 5:9] = 0
    for i in range(2):
        save(root / f"rgb/{i}.jpg", np.repeat(bright[..., None], 3, axis=2).astype(np.uint8))
        save(root / f"label/{i}.png", (ids - 1).astype(np.uint8))
        save(root / f"depth/{i}.png", stored)
        save(root / f"ir/{i}.png", (infrared * 100 + 1).astype(np.uint16))
        save(root / f"metres/{i}.npy", np.where(stored > 0, depth, np.nan).astype(np.float32))
        save(root / f"seen/{i}.png", other_ids.astype(np.uint8))
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("0\n1\n")
    return root


@pytest.fixture
def rig(tmp_path):
    return opencv(tmp_path / "rig.yml")


MOVED = ("--onto", "rgb/*.jpg", "--depth", "depth/*.png", "--intensity", "ir/*.png", "--labels", "seen/*.png")


def test_a_folder_is_moved_by_a_calibration(folder, rig, tmp_path, seen, capsys):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    assert call("align", folder, out, *MOVED, "--depth", "metres/*.npy", "--calibration", rig, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert f"{out}: 14 written, 0 kept, 0 failed" in printed
    assert "depth/*.png: hole_value is 0" in printed
    assert "metres/*.npy: hole_value is nan" in printed
    assert "seen/*.png: void is 255" in printed
    assert {path: path.read_bytes() for path in before} == before
    (truth, bright, ids), _ = seen

    depth = np.array(Image.open(out / "depth/1.png"))
    assert (depth.dtype, depth.shape) == (np.uint16, FIRST_SIZE)
    assert np.median(np.abs(depth / 1000 - truth)[depth > 0]) < 0.005
    metres = np.load(out / "metres/1.npy")
    assert metres.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(metres), depth == 0)
    assert np.quantile(np.abs(metres - depth / 1000)[depth > 0], 0.99) < 0.0011  # depth is rounded twice

    infrared = np.array(Image.open(out / "ir/1.png"))
    assert infrared.dtype == np.uint16
    known = infrared > 0
    assert known.mean() > 0.85
    assert np.abs((infrared - 1.0) / 100 - bright)[known].mean() < 1
    labels = np.array(Image.open(out / "seen/1.png"))
    assert (labels == ids)[labels != 255].mean() > 0.98

    for same in ("rgb/0.jpg", "label/1.png", "train.txt"):
        assert (out / same).read_bytes() == (folder / same).read_bytes()
    record = json.loads((out / "aligned.json").read_text())
    assert record["moved"][:2] == [
        {"files": "depth/*.png", "as": "depth", "hole": "0", "unit_m": 0.001},
        {"files": "metres/*.npy", "as": "depth", "hole": "nan", "unit_m": 1.0},
    ]
    assert record["calibration"] == rig.read_text()

    data = FolderDataModule(
        out,
        modalities={
            "rgb": {"files": "rgb/*.jpg"},
            "depth": {"files": "depth/*.png", "dtype": "uint16", "scale": 6000, "hole_value": 0},
            "ir": {"files": "ir/*.png", "dtype": "uint16", "scale": 20000, "hole_value": 0},
        },
        label={"files": "label/*.png"},
        classes=["wall", "box"],
        splits={"train": "train.txt", "val": "val.txt"},
        streams=["rgb", "depth", "ir"],
        num_workers=0,
        batch_size=1,
    )
    planned = open_splits(data)
    assert summarise(data, planned, map(look, planned.looks))["failures"] == []


def test_a_second_call_goes_on_and_other_settings_are_refused(folder, rig, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("align", folder, out, "--onto", "rgb/*.jpg", "--depth", "depth/*.png", "--calibration", rig)
    arguments = (*arguments, "--workers", 1)
    assert call(*arguments) == 0
    kept = (out / "depth/0.png").stat().st_mtime_ns
    (out / "depth/1.png").unlink()
    capsys.readouterr()
    assert call(*arguments) == 0
    assert "1 written, 13 kept, 0 failed" in capsys.readouterr().out
    assert (out / "depth/0.png").stat().st_mtime_ns == kept
    assert call(*arguments, "--overwrite") == 0
    assert "14 written, 0 kept" in capsys.readouterr().out
    assert call(*arguments, "--unit", "0.1mm") == 2
    assert (
        "aligned.json: says that the folder was made from other files or with other settings" in capsys.readouterr().err
    )
    opencv(rig, T=np.zeros(3))  # another calibration under the same name
    assert call(*arguments) == 2
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def test_tiff_files_stay_tiff_and_say_what_is_no_data(folder, rig, tmp_path, capsys):
    for file in sorted((folder / "metres").iterdir()):
        metres = np.load(file)
        file.unlink()
        bands = np.stack([metres, 2 * metres + 1], axis=2)
        tags = [(42113, "s", 0, "-9999", True)]
        for name, image in (("far", metres), ("bands", bands)):
            path = folder / name / f"{file.stem}.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, np.nan_to_num(image, nan=-9999), planarconfig="contig", extratags=tags)
    out = tmp_path / "out"
    moving = ("--onto", "rgb/*.jpg", "--depth", "far/*.tif", "--intensity", "bands/*.tif")
    assert call("align", folder, out, *moving, "--calibration", rig, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert "far/*.tif: hole_value is -9999\n" in printed
    far, bands = tifffile.imread(out / "far/1.tif"), tifffile.imread(out / "bands/1.tif")
    assert (far.dtype, far.shape, bands.shape) == (np.float32, FIRST_SIZE, (*FIRST_SIZE, 2))
    assert 0.02 < (far == -9999).mean() < 0.5
    assert 0.02 < (bands == -9999).all(2).mean() < 0.5
    seen = (bands != -9999).all(2)
    np.testing.assert_allclose(bands[seen][:, 1], 2 * bands[seen][:, 0] + 1, rtol=1e-5)
    assert [m["hole"] for m in json.loads((out / "aligned.json").read_text())["moved"]] == ["-9999", "-9999"]


@pytest.mark.parametrize("record", ["{", "[1]", '{"homographies": 3}'])
def test_a_record_that_cannot_be_read_is_refused_in_one_line(record, folder, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "aligned.json").write_text(record)
    arguments = ("--onto", "rgb/*.jpg", "--intensity", "ir/*.png", "--estimate", "similarity", "--workers", 1)
    assert call("align", folder, out, *arguments) == 2
    assert "says that the folder was made from other files" in capsys.readouterr().err


def test_damaged_files_fail_alone(folder, rig, tmp_path, capsys):
    (folder / "depth/1.png").write_bytes((folder / "depth/1.png").read_bytes()[:60])
    out = tmp_path / "out"
    arguments = ("--onto", "rgb/*.jpg", "--depth", "depth/*.png", "--hole", 0, "--calibration", rig, "--workers", 1)
    assert call("align", folder, out, *arguments) == 1
    printed = capsys.readouterr()
    assert "13 written, 0 kept, 1 failed" in printed.out
    assert f"failed: {folder / 'depth/1.png'}: PNG cut short" in printed.err
    assert not (out / "depth/1.png").exists()


def test_an_estimated_matrix_is_used_again(tmp_path, capsys):
    rng = np.random.default_rng(3)
    for i in range(3):
        grey = cv2.GaussianBlur(rng.integers(0, 2, (140, 180)).astype(np.float32) * 255, (0, 0), 4) * 3
        grey = np.clip(grey - grey.min() + 1, 1, 254).astype(np.uint8)
        save(tmp_path / f"raw/rgb/{i}.png", np.repeat(grey[10:-10, 10:-10, None], 3, axis=2))
        save(tmp_path / f"raw/nir/{i}.jpg", 255 - grey[14:-6, 4:-16], quality=98)  # 6 px to the right, 4 px higher
    arguments = ("align", tmp_path / "raw", tmp_path / "out", "--onto", "rgb/*.png", "--intensity", "nir/*.jpg",
                 "--hole", "nir/*.jpg=0", "--estimate", "similarity", "--workers", 1)  # fmt: skip
    assert call(*arguments) == 0
    printed = capsys.readouterr()
    assert "nir/*.jpg: similarity found in 3 samples" in printed.err
    assert "nir/*.jpg: hole_value is 0; its files end in .png now" in printed.out
    record = json.loads((tmp_path / "out/aligned.json").read_text())
    np.testing.assert_allclose(record["homographies"]["nir/*.jpg"], [[1, 0, -6], [0, 1, 4], [0, 0, 1]], atol=0.3)
    moved = np.array(Image.open(tmp_path / "out/nir/0.png"))
    assert (moved[:3] == 0).all()  # above the first row that it shows
    assert (moved[:, -5:] == 0).all()
    inner = (slice(8, -8), slice(8, -8))
    rgb = np.array(Image.open(tmp_path / "raw/rgb/0.png"))[..., 0]
    assert np.abs(255 - moved.astype(int) - rgb)[inner].mean() < 3
    assert moved[inner].min() > 0  # what was measured never becomes the hole's value
    (tmp_path / "out/nir/2.png").unlink()
    assert call(*arguments) == 0
    printed = capsys.readouterr()
    assert "1 written, 5 kept" in printed.out
    assert "found in" not in printed.err
    again = ("--onto", "rgb/*.png", "--intensity", "nir/*.jpg", "--hole", 0, "--workers", 1)
    assert call("align", tmp_path / "raw", tmp_path / "b", *again, "--calibration", tmp_path / "out/aligned.json") == 0
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "b/nir/0.png")), moved)


def test_one_distance_takes_the_place_of_depth(folder, rig, tmp_path):
    arguments = ("--onto", "rgb/*.jpg", "--intensity", "ir/*.png", "--calibration", rig, "--workers", 1)
    assert call("align", folder, tmp_path / "far", *arguments, "--distance", 4) == 0
    moved = np.array(Image.open(tmp_path / "far/ir/0.png"))
    assert moved.shape == FIRST_SIZE
    assert (moved > 0).mean() > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--calibration", "rig.yml"], "nothing to move: give --depth, --intensity or --labels"),
        (["--calibration", "rig.yml", "--depth", "dept/*.png"], "no file matches this pattern; .*did you mean 'depth'"),
        (["--calibration", "none.yml", "--depth", "depth/*.png"], "none.yml: no such file"),
        (["--calibration", "rig.yml", "--intensity", "ir/*.png"], "no depth tells where it belongs; give --depth"),
        (["--calibration", "rig.yml", "--depth", "depth/*.png", "--hole", "x"], "--hole x: is no number"),
        (
            ["--calibration", "rig.yml", "--depth", "depth/*.png", "--hole", "a=0"],
            "--hole a=...: there is no such pattern",
        ),
        (["--calibration", "rig.yml", "--depth", "depth/*.png", "--unit", "km"], "unit 'km'"),
        (["--calibration", "rig.yml", "--depth", "depth/*.png", "--distance", "-1"], "--distance -1: expected"),
        (["--calibration", "flat.yml", "--depth", "depth/*.png"], "flat.yml: the homography .* is singular"),
        (["--calibration", "large.yml", "--depth", "depth/*.png"], "large.yml: holds for pictures of 480x640"),
        (["--calibration", "rig.yml", "--labels", "seen/*.png", "--labels", "seen/*.png"], "is given twice"),
    ],
)
def test_wrong_calls_are_one_line_and_write_nothing(folder, rig, tmp_path, capsys, monkeypatch, arguments, message):
    opencv(tmp_path / "flat.yml", H=np.zeros((3, 3)))
    opencv(tmp_path / "large.yml", size1=np.array([640.0, 480]))
    monkeypatch.chdir(tmp_path)
    assert call("align", folder, "out", "--onto", "rgb/*.jpg", *arguments) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_zero_is_no_hole_where_it_is_a_value(folder, rig, tmp_path, capsys):
    for i in range(2):
        save(folder / f"ir/{i}.png", np.arange(OTHER_SIZE[0] * OTHER_SIZE[1], dtype=np.uint16).reshape(OTHER_SIZE))
    assert call("align", folder, tmp_path / "out", *MOVED, "--calibration", rig) == 2
    assert "0 is a value in its files, so it can't mean that nothing was measured" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["raw", "raw/new", "."])
def test_the_data_are_never_written_to(folder, rig, tmp_path, capsys, out):
    assert call("align", folder, tmp_path / out, *MOVED, "--calibration", rig) == 2
    assert "expected another folder, as the data are never changed" in capsys.readouterr().err
