"""The `ktb-data` command as called: exit codes, what it prints, what it leaves on disk."""

from __future__ import annotations

import csv
import json
import os
import signal
import time

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from ktb.cli.data import main
from ktb.data.tools import new as guess
from ktb.data.tools.fixtures import draw, make_fixture
from ktb.data.tools.hha import NYU_CAMERA, Camera, hha
from ktb.jobs.train import train
from tests.ktb.commands import run, start_process
from tests.ktb.jobs.test_train import configured


@pytest.fixture
def depth(tmp_path):
    source = tmp_path / "Depth"
    source.mkdir()
    for i in range(3):
        values = np.random.default_rng(i).integers(1500, 4000, (16, 20)).astype(np.uint16)
        Image.fromarray(values).save(source / f"{i}.png")
    return source


def call(*arguments):
    return main([str(a) for a in arguments])


def test_hha_of_a_folder(depth, tmp_path, capsys):
    target = tmp_path / "HHA"
    arguments = ("hha", depth, target, "--unit", "mm", "--camera", "20,21,10,8", "--workers", 1)
    assert call(*arguments) == 0
    assert f"{target}: 3 written, 0 kept, 0 failed" in capsys.readouterr().out
    stored = np.array(Image.open(depth / "1.png")) * 1e-3
    np.testing.assert_array_equal(np.array(Image.open(target / "1.png")), hha(stored, camera=Camera(20, 21, 10, 8)))
    assert call(*arguments) == 0
    assert "0 written, 3 kept, 0 failed" in capsys.readouterr().out
    assert call(*arguments, "--overwrite") == 0
    assert "3 written, 0 kept, 0 failed" in capsys.readouterr().out


def test_hha_with_the_scaled_nyu_camera(depth, tmp_path):
    assert call("hha", depth, tmp_path / "HHA", "--unit", "0.001", "--scale-camera", "--workers", 1) == 0
    stored = np.array(Image.open(depth / "0.png")) * 1e-3
    expected = hha(stored, camera=NYU_CAMERA.scaled((16, 20)))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "HHA/0.png")), expected)


def test_damaged_files_make_exit_code_1(depth, tmp_path, capsys):
    (depth / "1.png").write_bytes(b"")
    assert call("hha", depth, tmp_path / "HHA", "--unit", "mm", "--camera", "20,21,10,8", "--workers", 1) == 1
    printed = capsys.readouterr()
    assert "2 written, 0 kept, 1 failed" in printed.out
    assert [line for line in printed.err.splitlines() if line.startswith(f"failed: {depth / '1.png'}: the file is")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--unit", "km"], "unit 'km': expected mm"),
        (["--unit", "mm", "--camera", "1,2,3"], "--camera '1,2,3': expected nyu or four numbers"),
        (["--unit", "mm", "--camera", "0,2,3,4"], "focal lengths above 0"),
        (["--unit", "mm", "--camera-size", "480x640"], "--camera-size belongs to --camera"),
        (["--unit", "mm", "--camera", "1,2,3,4", "--scale-camera"], "--scale-camera needs --camera-size"),
    ],
)
def test_wrong_calls_make_exit_code_2_and_one_line(depth, tmp_path, capsys, arguments, message):
    assert call("hha", depth, tmp_path / "HHA", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "HHA").exists()


def test_missing_source_and_unusable_target(depth, tmp_path, capsys):
    assert call("hha", tmp_path / "nowhere", tmp_path / "HHA", "--unit", "mm") == 2
    assert "nowhere: no depth map found" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert call("hha", depth, tmp_path / "file", "--unit", "mm") == 2
    assert "file: cannot be made a folder" in capsys.readouterr().err


def test_unit_must_be_given(depth, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("hha", depth, tmp_path / "HHA")
    assert "--unit" in capsys.readouterr().err


def test_sizes_are_height_x_width(depth, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        call("hha", depth, tmp_path / "HHA", "--unit", "mm", "--camera", "1,2,3,4", "--camera-size", "640")
    assert "argument --camera-size: '640' is not HEIGHTxWIDTH such as 480x640" in capsys.readouterr().err


def test_make_fixture(tmp_path, capsys):
    root = tmp_path / "MFNet"
    assert call("make-fixture", "mfnet", root, "--layout", "rgba", "--samples", 3, "--size", "40x48", "--seed", 7) == 0
    assert f"{root}: 3 samples in each of train, val, test" in capsys.readouterr().out
    names = [(root / f"{split}.txt").read_text().split() for split in ("train", "val", "test")]
    assert [len(n) for n in names] == [3, 3, 3]
    picture = np.array(Image.open(root / f"images/{names[2][2]}.png"))
    expected = draw((40, 48), 9, 8, void=False, seed=7)
    np.testing.assert_array_equal(picture, np.dstack([expected.rgb, (255 * expected.x).astype(np.uint8)]))

    before = sorted(root.rglob("*"))
    assert call("make-fixture", "mfnet", root) == 2
    assert "MFNet: exists and is not an empty folder" in capsys.readouterr().err
    assert sorted(root.rglob("*")) == before
    assert call("make-fixture", "nyu", tmp_path / "new", "--layout", "rgba") == 2
    assert "nyu has no layout 'rgba'; it has tabs, spaces, stems, three_columns" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


BATCH = "dataset.batch_size=2"  # the fixture has three samples to train on


@pytest.fixture
def nyu(tmp_path):
    return make_fixture("nyu", tmp_path / "nyu", counts={"train": 3, "test": 2}, size=(40, 48))


def test_check(nyu, tmp_path, capsys):
    out = tmp_path / "new" / "report"
    assert (
        call("check", "dataset=nyu", "--workers", 1, "--out", out, f"dataset.root={nyu}", "modality=depth", BATCH) == 0
    )
    printed = capsys.readouterr().out
    assert "nyu: 5 samples, 0 failures" in printed
    assert str(out / "report.html") in printed.replace("\n", "")
    report = json.loads((out / "report.json").read_text())
    assert report["modalities"] == ["depth"]
    assert {split: found["samples"] for split, found in report["splits"].items()} == {"train": 3, "test": 2}
    stored = np.concatenate([np.array(Image.open(nyu / f"Label/{i}.png")).ravel() for i in range(3)])
    assert list(report["splits"]["train"]["classes"].values()) == [int((stored == i + 1).sum()) for i in range(40)]
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]


def test_check_draws_modalities_over_each_other(tmp_path, capsys):
    root = make_fixture("nyu", tmp_path / "nyu", counts={"train": 3, "test": 2}, size=(64, 80))
    arguments = ("check", "dataset=nyu", "--workers", 1, f"dataset.root={root}", "modality=rgb_d", BATCH)
    assert call(*arguments, "--out", tmp_path / "a", "--alignment", 3) == 0
    assert str(tmp_path / "a/alignment.png") in capsys.readouterr().out.replace("\n", "")
    assert json.loads((tmp_path / "a/report.json").read_text())["alignment"]["depth"]["samples"] == 3
    with Image.open(tmp_path / "a/alignment.png") as drawn:
        assert drawn.size[1] > drawn.size[0]  # three samples above each other, one pair of modalities
    assert call(*arguments, "--out", tmp_path / "b", "--alignment", 0) == 0
    assert json.loads((tmp_path / "b/report.json").read_text())["alignment"] == {}
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["report.html", "report.json"]


def test_check_of_damaged_files_is_exit_code_1(nyu, capsys):
    picture = nyu / "RGB/1.jpg"
    picture.write_bytes(picture.read_bytes()[:-100])
    label = np.array(Image.open(nyu / "Label/4.png"))
    label[0, 0] = 41
    Image.fromarray(label).save(nyu / "Label/4.png")
    assert call("check", "dataset=nyu", f"dataset.root={nyu}", "--workers", 1, BATCH) == 1
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"failed: {picture}: JPEG cut short" in printed
    assert f"failed: {nyu / 'Label/4.png'}: label id 41 at 1 pixels" in printed
    assert "nyu: 5 samples, 2 failures" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=nyo"], "unknown dataset 'nyo': did you mean 'nyu'?"),
        (["dataset=nyu", "dataset.root=nowhere"], "data root nowhere does not exist"),
        (
            ["dataset=nyu", "dataset.rot=x"],
            "unknown setting 'dataset.rot' of dataset=nyu: did you mean 'dataset.root'?",
        ),
        (["dataset=nyu", "modality=rgb_t"], "nyu has no modality 'thermal'; it has rgb, depth"),
        (["dataset=folder"], "must be given"),
        (["--config-dir", "nowhere"], "--config-dir nowhere is not a folder"),
    ],
)
def test_wrong_calls_of_check(tmp_path, capsys, arguments, message):
    assert call("check", *arguments, "--out", tmp_path / "report") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "report").exists()


def test_unknown_options_of_check(capsys):
    with pytest.raises(SystemExit, match="2"):
        call("check", "dataset=nyu", "--ot", "report", "--wrong")
    assert "unrecognized arguments: --ot report --wrong" in capsys.readouterr().err


def test_check_of_ones_own_configuration(nyu, tmp_path, capsys):
    own = tmp_path / "conf" / "dataset"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text(f"defaults: [nyu, _self_]\nname: mine\nroot: {nyu}\n")
    assert call("check", "--config-dir", own.parent, "dataset=mine", "--workers", 1, BATCH) == 0
    assert "mine: 5 samples, 0 failures" in capsys.readouterr().out


@pytest.mark.slow
def test_preview(nyu, tmp_path, capsys):
    out = tmp_path / "sheets"
    arguments = ("preview", "dataset=nyu", "--samples", 2, "--out", out, f"dataset.root={nyu}", "dataset.crop=[32,32]")
    assert call(*arguments) == 0
    assert capsys.readouterr().out.split() == [str(out / "train.png"), str(out / "test.png")]
    with Image.open(out / "train.png") as image:
        assert image.format == "PNG"
    with pytest.raises(SystemExit, match="2"):
        call(*arguments, "--epoch", "-1")
    assert "--epoch: '-1' is not a whole number of at least 0" in capsys.readouterr().err
    assert call(*arguments, "--split", "val") == 2
    assert "nyu has no split 'val'; it has train, test" in capsys.readouterr().err
    (nyu / "RGB/0.jpg").write_bytes(b"")
    (out / "train.png").unlink()
    assert call(*arguments, "--split", "train") == 2
    assert f"{nyu / 'RGB/0.jpg'}: the file is empty" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["test.png"]


@pytest.fixture
def fields(tmp_path):
    """Red and near infrared of fields, no RGB: 8 and 12 bits, weeds bright in the infrared only."""
    root = tmp_path / "fields"
    for i in range(6):
        rng = np.random.default_rng(i)
        weeds = np.zeros((64, 64), bool)
        weeds[16 * (i % 4) : 16 * (i % 4) + 16, 8:56] = True
        red = rng.integers(90, 130, weeds.shape).astype(np.uint8)
        nir = np.where(weeds, 3000, 800) + rng.integers(0, 200, weeds.shape)
        nir[:4, :4] = 4095
        for name, image in (("red", red), ("nir", nir.astype(np.uint16)), ("weeds_gt", weeds.astype(np.uint8))):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / name / f"{i}.png")
    (root / "classes.txt").write_text("soil\nweed\n")
    return root


@pytest.mark.parametrize(
    ("there", "first"), [(True, "next: ktb-train"), (False, "next: pip install 'ktb[offline]', then")]
)
def test_new_names_a_backbone_with_real_weights(fields, tmp_path, capsys, monkeypatch, there, first):
    monkeypatch.setattr("ktb.weights.offline.is_installed", lambda: there)
    own = tmp_path / "conf"
    assert call("new", fields, "--config-dir", own, "--workers", 1) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "ktb-train" in line]
    assert line.startswith(first)
    assert line.endswith(f"ktb-train --config-dir {own} dataset=fields backbone=efficientnet_lite0")


@pytest.mark.slow
def test_new_writes_a_configuration_that_checks_and_trains_without_rgb(fields, tmp_path, capsys):
    own = tmp_path / "conf"
    assert call("new", fields, "--config-dir", own, "--workers", 1) == 0
    printed = capsys.readouterr().out
    assert "train: 5 samples, one read: " in printed
    assert f"ktb-train --config-dir {own} dataset=fields backbone=efficientnet_lite0\n" in printed
    assert call("check", "--config-dir", own, "dataset=fields", "--workers", 1) == 0
    assert "fields: 6 samples, 0 failures, 0 findings" in capsys.readouterr().out

    overrides = [
        "dataset=fields", f"hydra.searchpath=[file://{own}]", f"run_dir={tmp_path / 'run'}", "trainer=cpu",
        "trainer.max_epochs=16", "trainer.enable_progress_bar=false", "dataset.num_workers=0", "dataset.batch_size=5",
        "optim.lr=3e-3", "optim.warmup_epochs=1", "loss=ce",
    ]  # fmt: skip
    cfg = configured("train", overrides)
    assert list(cfg.modality.streams) == ["nir", "red"]
    nir = OmegaConf.to_container(cfg.dataset.modalities.nir)
    stored = np.stack([np.asarray(Image.open(file)) for file in sorted((fields / "nir").iterdir())])
    assert nir.pop("mean") == [pytest.approx(stored.mean() / 4095, abs=0.02)]
    assert nir.pop("std") == [pytest.approx(stored.std() / 4095, abs=0.02)]
    assert nir == {"files": "nir/*.png", "dtype": "uint16", "scale": 4095, "holes": "mean"}
    train(cfg)
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert (result["status"], result["modalities"], result["steps"]) == ("finished", ["nir", "red"], 16)
    rows = list(csv.DictReader((tmp_path / "run/metrics.csv").read_text().splitlines()))
    weed = [float(row["val_iou/weed"]) for row in rows if row["val_iou/weed"]]
    assert weed[0] < 0.2 < 0.4 < weed[-1]


def test_new_refuses_a_taken_name_before_it_looks(tmp_path, capsys, monkeypatch):
    def survey(*_, **__):
        raise AssertionError("looked")

    monkeypatch.setattr(guess, "survey", survey)
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset/mine.yaml").touch()
    assert call("new", tmp_path, "--config-dir", tmp_path, "--name", "mine") == 2
    assert "mine.yaml: exists already; choose another --name" in capsys.readouterr().err
    assert call("new", tmp_path, "--config-dir", tmp_path, "--name", "my own") == 2
    assert "'my own' cannot name a data set" in capsys.readouterr().err


def test_new_leaves_nothing_that_cannot_be_read(fields, tmp_path, capsys):
    first = min((fields / "weeds_gt").iterdir())
    whole = first.read_bytes()
    Image.open(first).resize((20, 60)).save(first)  # another view than its pictures'
    assert call("new", fields, "--config-dir", tmp_path / "conf", "--workers", 1) == 2
    assert "another aspect ratio" in capsys.readouterr().err
    assert [path for path in (tmp_path / "conf").rglob("*") if path.is_file()] == []
    first.write_bytes(whole)
    assert call("new", fields, "--config-dir", tmp_path / "conf", "--workers", 1) == 0


def test_new_for_masks_of_0_and_255(fields, tmp_path, capsys):
    for path in (fields / "weeds_gt").iterdir():
        Image.fromarray(np.array(Image.open(path)) * np.uint8(255)).save(path)
    (fields / "classes.txt").unlink()
    assert call("new", fields, "--config-dir", tmp_path / "conf", "--workers", 1) == 0
    assert call("check", "--config-dir", tmp_path / "conf", "dataset=fields", "--workers", 1, BATCH) == 0
    assert "fields: 6 samples, 0 failures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--name", "nyu"], "'nyu' is one of ktb's own data sets; choose another --name"),
        (["--name", "my-fields"], "'my-fields' cannot name a data set; expected letters, digits and _"),
    ],
)
def test_names_that_new_refuses(fields, tmp_path, capsys, arguments, message):
    assert call("new", fields, "--config-dir", tmp_path / "conf", "--workers", 1, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "conf").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGINT") or os.name == "nt", reason="needs POSIX signals")
def test_interrupted_in_the_middle_goes_on_later(tmp_path):
    source, target = tmp_path / "Depth", tmp_path / "HHA"
    source.mkdir()
    total = 60
    for i in range(total):
        np.save(source / f"{i}.npy", np.random.default_rng(i).uniform(1, 4, (240, 320)).astype(np.float32))
    arguments = [source, target, "--unit", "m", "--scale-camera", "--workers", "2"]
    process = start_process("ktb-data", "hha", *arguments, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not list(target.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "interrupted; finished files are kept" in error
    assert "Traceback" not in error
    done = sorted(target.iterdir())
    assert 0 < len(done) < total
    assert all(np.array(Image.open(p)).shape == (240, 320, 3) for p in done)
    again = run("ktb-data", "hha", *arguments, cwd=tmp_path)
    assert again.returncode == 0
    assert f"{total - len(done)} written, {len(done)} kept, 0 failed" in again.stdout
