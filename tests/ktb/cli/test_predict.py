"""ktb-predict: the model's answer at the picture's own size, files paired and read as in training, damage reported,
nothing foreign overwritten, and a stopped call that goes on."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ktb import load_model
from ktb.cli import predict as predict_cli
from ktb.cli.predict import main
from ktb.data.augment import EvalTransform, resize
from ktb.data.pictures import overlay
from ktb.data.scenes.scene import CLASSES
from ktb.data.sets.synthetic import PALETTE
from ktb.engine.inference import sliding_window, whole_image
from ktb.errors import DataError
from ktb.models.segmentor import KTBSegmentor
from ktb.weights.tensor_names import to_published
from tests.ktb.cli.predicting import SIZES, call, files, pixels, write_pairs
from tests.ktb.commands import start_process
from tests.ktb.data.sets.own import module, timed

pytestmark = pytest.mark.usefixtures("opened_once")


def inputs(pairs: Path, name: str, size: tuple[int, int] | None = None) -> dict[str, torch.Tensor]:
    """The model's inputs, as docs/method.md#data-flow has them, without the data layer (the scenes have no holes)."""
    rgb, depth = (pixels(pairs / m / f"{name}.png") for m in ("rgb", "depth"))
    if size is not None:
        assert (depth > 0).all()
        rgb, depth = resize(rgb, size), resize(depth[..., None], size)[..., 0]
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    return {
        "rgb": torch.from_numpy((rgb / 255 - mean) / std).float().permute(2, 0, 1)[None],
        "depth": torch.from_numpy(depth / 255).float().expand(1, 3, -1, -1),
    }


@torch.inference_mode()
def answer(model: KTBSegmentor, x: dict[str, torch.Tensor], size: tuple[int, int]) -> np.ndarray:
    return whole_image(model, x, size)[0].numpy()


def test_every_output_is_the_models_answer(
    trained: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktb.predict.outputs._OVERLAY_ROWS", 7)
    out = tmp_path / "out"
    assert call(trained, pairs, out, "--write", "colour,overlay,confidence,probabilities") == 0
    model = load_model(trained)
    for name, size in SIZES.items():
        logits = answer(model, inputs(pairs, name), size)
        index = pixels(out / "index" / f"{name}.png")
        assert index.dtype == np.uint8
        np.testing.assert_array_equal(index, logits.argmax(0))
        colour = Image.open(out / "colour" / f"{name}.png")
        np.testing.assert_array_equal(np.array(colour), index)
        np.testing.assert_array_equal(np.array(colour.convert("RGB")), np.array(PALETTE)[index])
        probabilities = np.load(out / "probabilities" / f"{name}.npz")["probabilities"]
        expected = torch.from_numpy(logits).softmax(0).permute(1, 2, 0).numpy()
        assert probabilities.dtype == np.float16
        np.testing.assert_allclose(probabilities, expected, atol=1e-3)
        confidence = pixels(out / "confidence" / f"{name}.png")
        np.testing.assert_allclose(confidence, 255 * expected.max(2), atol=0.51)
        drawn = overlay(pixels(pairs / "rgb" / f"{name}.png"), index, PALETTE)
        np.testing.assert_array_equal(pixels(out / "overlay" / f"{name}.png"), drawn)
    assert {p.parts[0] for p in map(Path, files(out))} == {
        "index", "colour", "overlay", "confidence", "probabilities", "predict.json",
    }  # fmt: skip
    manifest = json.loads((out / "predict.json").read_text())
    assert [c["name"] for c in manifest["classes"]] == list(CLASSES)


def test_tiles_and_legend(trained: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert call(trained, pairs, out, "--tile", "32", "--overlap", "0.4", "--legend") == 0
    model = load_model(trained)
    for name, size in SIZES.items():
        x = inputs(pairs, name)
        with torch.inference_mode():
            tiled = sliding_window(model, x, size, window=32 if size[0] * size[1] > 2048 else size, overlap=0.4)
        np.testing.assert_array_equal(pixels(out / "index" / f"{name}.png"), tiled[0].argmax(0).numpy())
        drawn = pixels(out / "overlay" / f"{name}.png")
        assert drawn.shape[0] > size[0]
        assert (drawn[-1] == 255).all()  # white below the legend


def test_the_picture_is_resized_for_the_model_as_in_evaluation(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ktb.engine.inference.BAND_VALUES", 3000)  # resized logits come in several bands
    pairs = write_pairs(tmp_path / "pairs", {"x": (50, 75)})
    depth = pixels(pairs / "depth" / "x.png")
    Image.fromarray(np.maximum(depth, 1)).save(pairs / "depth" / "x.png")  # no hole
    size = EvalTransform(64).size((50, 75))
    assert size == (64, 96)
    assert call(trained, pairs, tmp_path / "a", "dataset.eval_size=64", "--write", "none") == 0
    assert call(trained, pairs, tmp_path / "b", "--short-side", "64", "--write", "none") == 0
    expected = answer(load_model(trained), inputs(pairs, "x", size), (50, 75))
    for out in ("a", "b"):
        index = pixels(tmp_path / out / "index" / "x.png")
        top = np.sort(expected, axis=0)
        clear = top[-1] - top[-2] > 1e-4  # bytes are resized as bytes, so ties may fall otherwise
        assert clear.mean() > 0.99
        np.testing.assert_array_equal(index[clear], expected.argmax(0)[clear])
    assert call(trained, pairs, tmp_path / "b", "--short-side", "native", "--write", "none") == 0
    native = answer(load_model(trained), inputs(pairs, "x"), (50, 75))
    np.testing.assert_array_equal(pixels(tmp_path / "b" / "index" / "x.png"), native.argmax(0))


def test_finished_pictures_are_kept_until_something_changes(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(trained, pairs, out) == 0
    before = files(out)
    assert call(trained, pairs, out) == 0
    assert f"{out}: 0 written, 3 kept, 0 failed" in capsys.readouterr().out
    write_pairs(pairs, {"sub/b": (35, 44)})
    (out / "overlay" / "a.png").unlink()
    assert call(trained, pairs, out) == 0
    assert "2 written, 1 kept" in capsys.readouterr().out
    assert pixels(out / "index" / "sub" / "b.png").shape == (35, 44)
    assert {k for k, v in files(out).items() if before[k] != v} == {
        f"{kind}/sub/b.png" for kind in ("index", "colour", "overlay")
    }
    for changed in (["--tile", "32"], ["--legend"], ["dataset.eval_size=32"]):
        assert call(trained, pairs, out, *changed) == 0
        assert "3 written, 0 kept" in capsys.readouterr().out
    assert call(trained, pairs, out, "dataset.eval_size=32", "--overwrite") == 0
    assert "3 written, 0 kept" in capsys.readouterr().out


def test_what_it_did_not_write_is_not_overwritten(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    foreign = {out / "overlay" / "a.png": None, out / "probabilities" / "sub" / "b.npz": b"mine"}
    for path, content in foreign.items():
        path.parent.mkdir(parents=True)
        if content is None:
            Image.new("L", (3, 3)).save(path)
        else:
            path.write_bytes(content)
    before = files(out)
    assert call(trained, pairs, out, "--write", "overlay,probabilities", "--overwrite") == 1
    captured = capsys.readouterr()
    assert "1 written, 0 kept, 2 failed" in captured.out
    assert f"failed: {out / 'overlay' / 'a.png'}: is there already and was not written by ktb-predict" in captured.err
    after = files(out)
    assert all(after[name] == content for name, content in before.items())
    other = tmp_path / "other"
    other.mkdir()
    (other / "predict.json").write_text("{}")
    assert call(trained, pairs, other) == 2
    assert "predict.json: was not written by ktb-predict" in capsys.readouterr().err
    assert list(other.iterdir()) == [other / "predict.json"]


def test_a_missing_modality(trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = load_model(trained), tmp_path / "out"
    assert main([str(trained), "--rgb", str(pairs / "rgb"), "--out", str(out), "--write", "none"]) == 0
    assert "depth is not given: the model answers from rgb alone" in capsys.readouterr().out
    x = inputs(pairs, "a")
    alone = answer(model, {"rgb": x["rgb"]}, SIZES["a"]).argmax(0)
    np.testing.assert_array_equal(pixels(out / "index" / "a.png"), alone)
    (pairs / "rgb" / "a.png").unlink()
    assert call(trained, pairs, out, "--write", "overlay", "--allow-missing") == 0
    assert "1 of 3 pictures lack a modality" in capsys.readouterr().out
    alone = answer(model, {"depth": x["depth"]}, SIZES["a"]).argmax(0)
    np.testing.assert_array_equal(pixels(out / "index" / "a.png"), alone)
    assert pixels(out / "overlay" / "a.png").shape == (*SIZES["a"], 3)  # over the depth map, made visible


def test_a_table(trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = pairs / "table.csv", tmp_path / "out"
    rows = ["rgb/a.png, depth/a.png, first", f"{pairs}/rgb/sub/b.png,depth/sub/b.png,", "", ",depth/sub/b.png,no/rgb"]
    table.write_text("\ufeff" + "\n".join(["rgb,depth,name", *rows]) + "\n")
    arguments = [str(trained), "--csv", str(table), "--out", str(out), "--write", "none"]
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert "2 written, 0 kept, 1 failed" in captured.out
    assert f"failed: {table}, row 5: no file for rgb; add it, or use --allow-missing" in captured.err
    assert main([*arguments, "--allow-missing"]) == 0
    assert set(files(out)) == {"index/first.png", "index/rgb/sub/b.png", "index/no/rgb.png", "predict.json"}
    for text, message in (
        ("rgb,dept\n", "column 'dept'; expected rgb, depth or name; did you mean 'depth'?"),
        ("rgb,depth\na.png\n", "row 2: 1 columns; expected 2"),
        ("rgb,depth,name\na.png,b.png,../x\n", "row 2: the name '../x' leaves the results folder"),
        ("", "its first row is ''; expected some of rgb, depth"),
        ("rgb,depth\n", "no row below the names of the columns"),
        ("rgb,depth,name\na.png,a.png,x\nb.png,b.png,x\n", "would both be called x"),
    ):
        table.write_text("\ufeff" + text)
        assert main(arguments) == 2
        assert message in capsys.readouterr().err


def test_a_published_checkpoint_read_as_a_data_set(trained: Path, pairs: Path, tmp_path: Path) -> None:
    file = tmp_path / "published.pth"
    torch.save({"model_state_dict": to_published(load_model(trained).state_dict(), ("rgb", "depth"))}, file)
    assert call(file, pairs, tmp_path / "ours", "dataset=synthetic", "--write", "none") == 0
    assert call(trained, pairs, tmp_path / "theirs", "--write", "none") == 0
    for name in SIZES:
        np.testing.assert_array_equal(*(pixels(tmp_path / o / "index" / f"{name}.png") for o in ("ours", "theirs")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rgb", "{pairs}/rgb", "--detph", "{pairs}/depth"], "--detph is no option and no modality of .*'depth'"),
        (["--rgb", "{pairs}/rbg", "--depth", "{pairs}/depth"], "no such file or folder; did you mean 'rgb'"),
        (["--rgb", "{pairs}/rgb/a.png", "--depth", "{pairs}/depth"], "is one file but --depth .* is not"),
        (["--rgb", "{pairs}/rgb/*.jpg"], "no file matches this pattern"),
        (["--csv", "{pairs}/none.csv"], "none.csv: no such file"),
        ([], "give the pictures either as --rgb"),
        (["--rgb", "{pairs}/rgb", "--write", "color"], "expected some of colour.*did you mean 'colour'"),
        (["--rgb", "{pairs}/rgb", "--device", "cuda:99"], "--device cuda:99: cannot be used here"),
        (["--rgb", "{pairs}/rgb", "dataset=nyu", "dataset.root=/nowhere"], "was trained for 10 classes"),
        (["--rgb", "{pairs}/rgb", "datset=nyu"], "unknown setting 'datset'"),
        (["--rgb", "{pairs}/rgb", "--out", "{pairs}/rgb"], "is the folder for the results"),
        (["--rgb", "{pairs}/rgb", "--out", "/dev/null/x"], "no results can be written here"),
    ],
)
def test_mistakes_are_one_line(
    trained: Path, pairs: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [text.format(pairs=pairs) for text in arguments]
    assert main([str(trained), "--out", str(pairs / "out"), *given]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]
    assert not (pairs / "out" / "index").exists()


@pytest.mark.slow
def test_killed_and_interrupted_it_goes_on_to_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs", {f"{i:02d}": (100 + 4 * i, 180) for i in range(12)})
    assert call(trained, pairs, tmp_path / "undisturbed", "--tile", "64") == 0
    out = tmp_path / "out"
    arguments = [trained, "--rgb", pairs / "rgb", "--depth", pairs / "depth", "--out", out, "--tile", "64"]
    threads = str(torch.get_num_threads())
    done = 0
    for kind, code in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        process = start_process("ktb-predict", *arguments, "--device", "cpu", cwd=tmp_path, OMP_NUM_THREADS=threads)
        try:
            while process.poll() is None and len(list(out.glob("index/*.png"))) < done + 2:
                time.sleep(0.01)
            process.send_signal(kind)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        assert process.returncode == code
        done = len(list(out.glob("index/*.png")))
        assert done < 12
    assert errors.splitlines()[-1] == (
        f"ktb-predict: interrupted; finished pictures are in {out}, the same call goes on from there"
    )
    (out / "index" / ".left.png.123.tmp").write_bytes(b"of a killed process")
    assert call(trained, pairs, out, "--tile", "64") == 0
    assert files(out) == files(tmp_path / "undisturbed")


def test_a_second_process_is_told_to_wait(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    out.mkdir()
    folder = os.open(out, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    assert call(trained, pairs, out) == 2
    assert "another ktb-predict is writing into it" in capsys.readouterr().err
    os.close(folder)
    assert call(trained, pairs, out) == 0


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from ktb.cli.predict import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'hydra'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_an_answer_that_is_not_finite_is_no_mask(
    trained: Path, pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest of NaN would be class 0. Nothing is written of that picture, and the others are."""
    forward = KTBSegmentor.forward

    def spoilt(self: KTBSegmentor, given: Any, **options: Any) -> Any:
        out = forward(self, given, **options)
        if out.logits.shape[-2:] == SIZES["sub/b"]:
            out.logits[:, :, 30, 7] = float("nan")
        return out

    monkeypatch.setattr(KTBSegmentor, "forward", spoilt)
    assert call(trained, pairs, tmp_path / "out", "--write", "probabilities") == 1
    assert "sub/b.png: the model's answer is not finite; look for extreme values" in capsys.readouterr().err
    written = {name for name in files(tmp_path / "out") if name.endswith((".png", ".npz"))}
    assert written == {f"{kind}/{name}{end}" for name in ("a", "sub/deep/c.1")
                       for kind, end in (("index", ".png"), ("probabilities", ".npz"))}  # fmt: skip


def test_the_command_pairs_by_time_where_it_is_told_to(
    trained: Path, pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for modality, shift in (("rgb", 0), ("depth", 7)):
        for i, name in enumerate(("a", "sub/b")):
            file = tmp_path / modality / f"{1700000000000 + 100 * i + shift}.png"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes((pairs / modality / f"{name}.png").read_bytes())
    given = [str(trained), "--rgb", str(tmp_path / "rgb"), "--depth", str(tmp_path / "depth"), "--write", "none"]
    assert main([*given, "--out", str(tmp_path / "named")]) == 1  # nothing belongs together by name
    capfd.readouterr()
    assert main([*given, "--out", str(tmp_path / "timed"), "--max-gap", "0.01"]) == 0
    assert "2 of 2 frames of rgb paired by time, within 10 ms\n" in capfd.readouterr().out
    alone = [str(trained), "--rgb", str(pairs / "rgb/a.png"), "--depth", str(pairs / "depth/a.png"), "--write", "none"]
    assert main([*alone, "--out", str(tmp_path / "alone")]) == 0
    written = tmp_path / "timed" / "index" / "1700000000000.png"
    assert (pixels(written) == pixels(tmp_path / "alone" / "index" / "a.png")).all()


def test_a_model_trained_by_time_pairs_by_time(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    data = module(tmp_path, **timed(tmp_path))
    arguments = argparse.Namespace(max_gap=None, allow_missing=False, out=tmp_path / "out")
    sources = {"rgb": [str(tmp_path / "rgb")], "thermal": [str(tmp_path / "thermal.txt")]}
    assert len(predict_cli._planned(arguments, sources, data)[0]) == 8
    assert capfd.readouterr().out.startswith("8 of 10 frames of rgb paired by time, within 30 ms")
    # One file for each is one picture, whatever their names; so it is by name where the user says so.
    alone = {"rgb": [str(tmp_path / "rgb/100.400000.png")], "thermal": [str(tmp_path / "thermal/1 x.png")]}
    assert predict_cli._planned(arguments, alone, data)[0][0].name == "100.400000"
    arguments.max_gap = math.nan
    with pytest.raises(DataError, match="is a list, whose files are paired by time"):
        predict_cli._planned(arguments, sources, data)
