"""Sensors of many bands, in real file forms, all the way: new, check, preview, train, eval, predict, export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tifffile
import yaml
from PIL import Image
from scripts.make_bands import make

from ktb import Predictor
from ktb.cli import data, model, predict
from ktb.jobs import train as training
from ktb.weights.files import find_checkpoint
from tests.ktb.jobs.test_train import configured, evaluate

EXPECTED = {
    "thirteen": {"sentinel": {"files": "sentinel/*.tif", "channels": 13, "dtype": "uint16", "hole_value": 0,
                              "show": [4, 3, 2]}},
    "eighteen": {"rgb": {"files": "rgb/*.png"},
                 "spectral": {"files": "spectral/*.tiff", "channels": 18, "dtype": "float32"}},
    "files": {"bands": {"files": ["b02/*.tif", "b03/*.tif", "b04/*.tif", "b11/*.tif"], "channels": 4,
                        "dtype": "uint16", "hole_value": 0, "show": [3, 2, 1]}},
}  # fmt: skip


def arrays(form: str, root: Path, stem: str) -> dict[str, object]:
    """The scene as a program has it in memory."""
    if form == "files":
        return {"bands": tuple(tifffile.imread(root / f"{band}/{stem}.tif") for band in ("b02", "b03", "b04", "b11"))}
    if form == "eighteen":
        planes = tifffile.imread(root / f"spectral/{stem}.tiff")  # channels first
        return {"rgb": np.array(Image.open(root / f"rgb/{stem}.png")), "spectral": planes}
    return {"sentinel": tifffile.imread(root / f"sentinel/{stem}.tif")}


@pytest.mark.slow
@pytest.mark.parametrize("form", EXPECTED)
def test_from_a_folder_to_masks_and_a_shipped_model(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, own, run = tmp_path / form, tmp_path / "conf", tmp_path / "run"
    make(form, root, count=6, size=(64, 64))
    assert data.main(["new", str(root), "--config-dir", str(own), "--workers", "1"]) == 0
    settings = yaml.safe_load((own / f"dataset/{form}.yaml").read_text(encoding="utf-8"))["modalities"]
    for name, expected in EXPECTED[form].items():
        assert {key: settings[name].get(key) for key in expected} == expected
        if name != "rgb":
            assert len(settings[name]["mean"]) == len(settings[name]["std"]) == expected["channels"]
            assert settings[name]["holes"] == "mean"
    capsys.readouterr()
    assert data.main(["check", "--config-dir", str(own), f"dataset={form}", "--workers", "1"]) == 0
    checked = capsys.readouterr().out
    assert f"{form}: 6 samples, 0 failures" in checked
    if form == "files":
        assert "bands " in checked
        assert "of 32x32" in checked
    sheets = tmp_path / "sheets"
    preview = ["preview", "--config-dir", str(own), f"dataset={form}", "--out", str(sheets), "--samples", "1"]
    assert data.main(preview) == 0
    assert np.array(Image.open(sheets / "train.png")).std() > 10

    overrides = [
        f"dataset={form}", f"hydra.searchpath=[file://{own}]", f"run_dir={run}", "trainer=cpu", "trainer.max_epochs=2",
        "trainer.enable_progress_bar=false", "dataset.num_workers=0", "optim.warmup_epochs=1",
    ]  # fmt: skip
    trained = training.train(configured("train", overrides))
    assert evaluate(run, tmp_path / "eval")["metrics"]["miou"] == trained["metrics"]["miou"]
    assert any((run / "panels").glob("*.png"))

    folders = {"thirteen": ["sentinel"], "eighteen": ["rgb", "spectral"], "files": ["b02", "b03", "b04", "b11"]}[form]
    names = [name for name in EXPECTED[form] for _ in (folders if form == "files" else [0])]
    sources = [part for name, folder in zip(names, folders, strict=True) for part in (f"--{name}", str(root / folder))]
    masks = tmp_path / "masks"
    assert predict.main([str(run), *sources, "--out", str(masks), "--device", "cpu"]) == 0
    written = np.array(Image.open(masks / "index/000.png"))
    assert np.array(Image.open(masks / "overlay/000.png")).std() > 10
    predictor = Predictor(run, device="cpu")
    np.testing.assert_array_equal(predictor(arrays(form, root, "000")), written)  # type: ignore[arg-type]

    bundle = tmp_path / "bundle"
    assert model.main(["bundle", str(run), str(bundle)]) == 0
    stated = json.loads((bundle / "config.json").read_text(encoding="utf-8"))["preparation"]
    last = next(reversed(EXPECTED[form]))
    assert stated[last][-2] == {"do": "zero holes"}  # behind the normalisation: a hole is the mean
    assert ("stack files" in [step["do"] for step in stated[last]]) == (form == "files")
    file = tmp_path / "model.onnx"
    assert model.main(["export", str(find_checkpoint(run)), str(file), "--size", "64x64"]) == 0
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    channels = {name: expected.get("channels", 3) for name, expected in EXPECTED[form].items()}
    assert {i.name: i.shape for i in session.get_inputs()} == {name: [1, n, 64, 64] for name, n in channels.items()}
    metadata = json.loads(session.get_modelmeta().custom_metadata_map["ktb"])
    assert metadata["preparation"] == stated
