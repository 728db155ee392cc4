"""Files for devices: class ids of ktb.Predictor without ktb, int8 with its scores, and what is refused."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from ktb import Predictor
from ktb.cli import model_export
from ktb.cli.model import main
from ktb.data.module import RGBXDataModule
from ktb.errors import ConfigError
from ktb.export.session import OnnxFile, operations
from ktb.jobs.device_files import Score, frames_of, open_with_data, score, write_int8
from ktb.weights.files import find_checkpoint
from tests.ktb.jobs.saved import OWN_CASES, own_data, save

pytestmark = pytest.mark.slow

SETTINGS = [
    "dataset=synthetic", "dataset.size=[64,64]", "dataset.train=4", "dataset.val=1", "dataset.test=2",
    "backbone.depths=[1,1,1,1]", "backbone.weights=random", "fusion=sum", "peft=none",
]  # fmt: skip
ROOT = Path(__file__).parents[3]


def silent(items: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    return items


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device") / "bundle"
    save(folder, SETTINGS)
    return folder


@pytest.fixture(scope="module")
def data(bundle: Path) -> RGBXDataModule:
    return open_with_data(find_checkpoint(bundle), [], [])[0]


@pytest.fixture(scope="module")
def raw(bundle: Path) -> Path:
    """A file that takes frames."""
    file = bundle.parent / "raw.onnx"
    assert main(["export", str(bundle), str(file), "--size", "64x64", "--raw"]) == 0
    return file


def frames(raw: Path, data: RGBXDataModule) -> list[dict[str, Any]]:
    return [read().arrays for read in frames_of(OnnxFile(raw), data, "test", None)]


def test_a_device_without_ktb_gives_the_class_ids_of_the_predictor(
    raw: Path, bundle: Path, data: RGBXDataModule, tmp_path: Path
) -> None:
    (program,) = re.findall(
        r"```python\n(import json.*?)```", (ROOT / "docs/predict.md").read_text(encoding="utf-8"), re.S
    )
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    hidden = "import sys\nsys.modules.update(dict.fromkeys(['ktb', 'torch', 'timm', 'cv2']))\n"
    (tmp_path / "segment.py").write_text(hidden + program)
    frame = frames(raw, data)[0]
    assert {name: (array.dtype.name, array.shape) for name, array in frame.items()} == {
        "rgb": ("uint8", (64, 64, 3)),
        "depth": ("uint8", (64, 64)),
    }
    for name, array in frame.items():
        np.save(tmp_path / f"{name}.npy", array)
    done = subprocess.run(
        [sys.executable, "segment.py", str(raw), "."], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    predictor = Predictor(bundle, device="cpu")
    expected = predictor(frame)
    mask = np.load(tmp_path / "mask.npy")
    assert mask.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    assert (mask != expected).mean() <= 1e-3
    np.testing.assert_array_equal(np.load(tmp_path / "colour.npy"), np.array(predictor.palette, np.uint8)[mask])
    named = {line.split()[-1] for line in done.stdout.splitlines()[1:]}
    assert named == {predictor.classes[i] for i in np.unique(mask)}


def test_a_file_that_takes_frames_says_all_that_any_file_says(raw: Path, bundle: Path) -> None:
    about = OnnxFile(raw).about
    known = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    for key in ("dataset", "classes", "palette", "modalities", "preparation"):
        assert about[key] == known[key]
    assert about["inputs"]["rgb"] == {"type": "uint8", "shape": [64, 64, 3], "channels": 3}
    assert about["output"] == {"name": "mask", "type": "uint8", "shape": [64, 64]}


def test_int8_is_small_close_and_says_the_same(raw: Path, data: RGBXDataModule, tmp_path: Path) -> None:
    target = tmp_path / "int8.onnx"
    found = write_int8(raw, target, data, calibrate=2, most=None, max_drop=100, watch=silent)
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]
    exact, small = OnnxFile(raw), OnnxFile(target)
    assert (found.before.frames, found.calibrated, found.other_size) == (2, 2, 0)
    assert found.before == score(exact, data, None, silent)
    assert found.after == score(small, data, None, silent)
    assert target.stat().st_size < 0.6 * raw.stat().st_size
    assert small.about == exact.about
    assert small.inputs == exact.inputs
    counted = operations(target)
    assert found.operations == sum(counted[kind][1] for kind in ("Conv", "MatMul", "Gemm") if kind in counted) > 20
    assert counted["Softmax"][1] == 0
    same = [float((exact(frame) == small(frame)).mean()) for frame in frames(raw, data)]
    assert 0.6 < min(same) < 1


def test_int8_that_loses_too_much_is_not_written(
    raw: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[float] = []

    def scored(file: OnnxFile, *args: Any) -> Score:
        written.append(0)
        return Score(70.0 if len(written) % 2 else 68.5, 2, 0)

    def copied(arguments: argparse.Namespace, model: Any, data: Any, file: Path) -> None:
        shutil.copy(raw, file)

    monkeypatch.setattr("ktb.jobs.device_files.score", scored)
    monkeypatch.setattr(model_export, "_write", copied)
    target = tmp_path / "int8.onnx"
    call = ["export", str(bundle), str(target), "--size", "64x64", "--raw", "--int8", "--calibrate", "1"]
    assert main(call) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not written: int8 takes mIoU on test from 70.00 to 68.50, a loss of 1.50 points (at most 1" in line
    assert list(tmp_path.iterdir()) == []
    assert main([*call, "--max-drop", "1.5"]) == 0
    assert "mIoU on test (2 frames): 70.00 with float32, 68.50 with int8 (-1.50" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["int8.onnx"]


def test_info_measures_a_file(
    raw: Path, bundle: Path, data: RGBXDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(bundle), "--onnx", str(raw), "--threads", "1", "--repeat", "2", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes"] == raw.stat().st_size
    assert report["inputs"]["depth"] == {"type": "uint8", "shape": [64, 64]}
    assert report["operations"]["Softmax"]["count"] == 4
    assert 0 < report["time"]["fastest_s"] <= report["time"]["median_s"]
    assert report["score"] == {
        "dataset": "synthetic",
        "split": "test",
        "frames": 2,
        "other_size": 0,
        "miou": score(OnnxFile(raw), data, None, silent).miou,
    }
    assert main(["info", "--onnx", str(raw), "--repeat", "1"]) == 0
    shown = capsys.readouterr().out
    assert "64 x 64 x 3" in shown
    assert "frames per second" in shown


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (["--raw", "--dynamic"], "takes frames of one size"),
        (["--int8", "--out", "x.pt2"], "--int8 makes a file called .onnx"),
        (["--sensor", "depth=uint8"], "--sensor is of --raw, which was not asked for"),
        (["--score-on", "3"], "--score-on is of --int8"),
        (["dataset.root=/data"], "key=value is of --raw or --int8"),
        (["--raw", "--sensor", "deph=uint8"], "did you mean 'depth'?"),
        (["--raw", "--sensor", "depth=float32"], "--sensor depth=float32: its preparation takes uint8"),
        (["--raw", "dataset.rot=3"], "rot"),
        (["--raw", "--modalities", "rgb,depth"], "--modalities: with --raw and --int8 the data set says them"),
        (["--raw", "--max-drop", "-1"], "is no number of points"),
        (["--raw", "--sensor", "depth=int4"], "is not NAME=uint8|uint16|float32"),
        (["--raw", "surplus"], "unrecognized arguments: surplus"),
    ],
)
def test_a_wrong_call_is_one_line(
    call: list[str], text: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / (call.pop() if "--out" in call else "x.onnx"))
    call = [word for word in call if word != "--out"]
    try:
        code = main(["export", str(bundle), output, "--size", "64x64", *call])
    except SystemExit as error:  # argparse's own
        code = int(error.code or 0)
    assert code == 2
    assert text in capsys.readouterr().err.strip().splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (["--onnx", "{folder}/nothing.onnx"], "nothing.onnx: no such file"),
        (["--onnx", "{folder}/bundle/README.md"], "not a file that ONNX Runtime can run"),
        (["--threads", "2", "{folder}/bundle"], "--threads is of --onnx FILE"),
        (["--onnx", "{folder}/raw.onnx", "--size", "32x32"], "takes rgb as [64, 64, 3] only"),
        (["--onnx", "{folder}/raw.onnx", "--backbone", "swin_b"], "--backbone is not of --onnx"),
    ],
)
def test_a_file_that_cannot_be_measured_is_one_line(
    call: list[str], text: str, raw: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", *(word.format(folder=raw.parent) for word in call)]) == 2
    error = capsys.readouterr().err.strip()
    assert text in error
    assert "\n" not in error


def test_frames_of_another_size_or_type_say_how_to_export(raw: Path, bundle: Path) -> None:
    other, _ = open_with_data(find_checkpoint(bundle), ["dataset.size=[32,64]"], [])
    with pytest.raises(ConfigError, match="is 32x64 .* but the file takes 64x64; export with --size 32x64"):
        score(OnnxFile(raw), other, None, silent)


def test_files_with_a_no_data_tag_are_not_taken_for_what_sensors_give(
    raw: Path, data: RGBXDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = OnnxFile(raw)
    monkeypatch.setitem(file.about["preparation"], "depth", [{"do": "mark no-data"}])
    with pytest.raises(ConfigError, match="depth: files of synthetic say by a tag .* export without --raw"):
        frames_of(file, data, "test", None)


def test_frames_of_another_size_among_fitting_ones_are_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, target, root = tmp_path / "bundle", tmp_path / "int8.onnx", tmp_path / "d"
    settings = own_data(root, OWN_CASES["zero"], "dataset.splits={train: train.txt, val: val.txt}")
    for name in ("rgb", "x", "label"):
        picture = cv2.imread(str(root / name / "0.png"), cv2.IMREAD_UNCHANGED)
        for i in (1, 3):
            cv2.imwrite(str(root / name / f"{i}.png"), picture[:40])
        cv2.imwrite(str(root / name / "2.png"), picture)
    (root / "train.txt").write_text("0\n1\n")
    (root / "val.txt").write_text("2\n3\n")
    save(folder, [*settings, "backbone.depths=[1,1,1,1]", "backbone.weights=random", "fusion=sum", "peft=none"])
    call = ["export", str(folder), str(target), "--raw", "--int8", "--max-drop", "100"]
    assert main([*call, "--size", "45x60"]) == 0
    shown = capsys.readouterr().out
    assert "calibrated on 1 training frames, 1 of another size left out" in shown
    assert "(1 frames, 1 of another size left out)" in shown
    assert main([*call, "--size", "44x60"]) == 2
    assert "45x60 (height x width), but the file takes 44x60; export with --size 45x60" in capsys.readouterr().err
