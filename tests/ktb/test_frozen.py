"""Runs, bundles and sweeps of an earlier version load, evaluate, resume, predict and report as they did then."""

from __future__ import annotations

import csv
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ktb import KTBSegmentor, load_model, load_published
from ktb.weights.older import upgraded
from tests.ktb.commands import run

DATA = Path(__file__).parents[1] / "data" / "frozen"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected.json").read_text())


def unpacked(name: str, folder: Path) -> Path:
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
        return folder / archive.getnames()[0]


def command(name: str, *arguments: str | Path, cwd: Path) -> str:
    """Output of a command that must succeed."""
    done = run(name, *arguments, cwd=cwd, WANDB_MODE="offline")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def inputs() -> dict[str, torch.Tensor]:
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(80.0), indexing="ij")
    waves = torch.stack([torch.sin(0.1 * (c + 1) * x + 0.07 * (c + 2) * y) for c in range(6)]).double()
    return {"rgb": waves[None, :3], "depth": 0.5 + 0.5 * waves[None, 3:]}


def logits(model: KTBSegmentor) -> list[float]:
    with torch.no_grad():
        sampled: list[float] = model.double().eval()(inputs()).logits[0, :, ::16, ::16].flatten().tolist()
    return sampled


def test_a_run_s_model(tmp_path: Path) -> None:
    model = load_model(unpacked("finished", tmp_path))
    assert logits(model) == pytest.approx(EXPECTED["finished"], rel=1e-5, abs=1e-6)  # the inputs' sines are float32


def test_a_bundle(tmp_path: Path) -> None:
    model = KTBSegmentor.from_pretrained(unpacked("bundle", tmp_path))
    assert logits(model) == pytest.approx(EXPECTED["bundle"], rel=1e-5, abs=1e-6)


def test_a_published_file(tmp_path: Path) -> None:
    model = load_published(unpacked("published", tmp_path))
    assert logits(model) == pytest.approx(EXPECTED["published"], rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_evaluation(tmp_path: Path) -> None:
    run = unpacked("finished", tmp_path)
    command("ktb-eval", f"checkpoint={run}", f"run_dir={tmp_path / 'scores'}", cwd=tmp_path)
    result = json.loads((tmp_path / "scores" / "result.json").read_text())
    counts, expected = np.array(result["confusion_matrix"]), np.array(EXPECTED["eval"]["confusion_matrix"])
    assert counts.sum() == expected.sum()
    assert np.abs(counts - expected).sum() <= 0.002 * expected.sum()  # processors round differently
    for name, value in EXPECTED["eval"]["metrics"].items():
        assert result["metrics"][name] == pytest.approx(value, abs=0.002), name


@pytest.mark.slow
def test_resuming(tmp_path: Path) -> None:
    run = unpacked("interrupted", tmp_path)
    wandb_id = (run / "wandb_id.txt").read_text()
    command("ktb-train", "ckpt_path=last", f"run_dir={run}", cwd=tmp_path)
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == EXPECTED["resumed_steps"]
    then = upgraded({"ktb": {"model": {"arch": {}}}, "state_dict": EXPECTED["resumed"]})["state_dict"]  # today's names
    assert content["state_dict"].keys() == then.keys()
    for name, value in content["state_dict"].items():
        value = value.double()
        assert [value.sum().item(), value.norm().item()] == pytest.approx(then[name], rel=1e-7, abs=1e-7), name
    with (run / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses == pytest.approx(EXPECTED["resumed_losses"], rel=1e-7)
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
    assert (run / "wandb_id.txt").read_text() == wandb_id


@pytest.mark.slow
def test_predicting_and_reporting(tmp_path: Path) -> None:
    run = unpacked("finished", tmp_path)
    draw = np.random.default_rng(0)
    for name, shape in (("rgb", (32, 40, 3)), ("depth", (32, 40))):
        Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    command("ktb-predict", run, "--rgb", "rgb.png", "--depth", "depth.png", "--out", "masks", cwd=tmp_path)
    [mask] = (tmp_path / "masks" / "index").glob("*.png")
    assert np.asarray(Image.open(mask)).shape == (32, 40)
    command("ktb-report", run, "--out", "page.html", cwd=tmp_path)
    shown = json.loads((run / "result.json").read_text())["metrics"]["miou"]
    assert f"{100 * shown:.1f}" in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_going_on_with_a_sweep(tmp_path: Path) -> None:
    sweep = unpacked("sweep", tmp_path / "sweeps")
    first = (sweep / "seed1" / "result.json").read_bytes()
    overrides = json.loads((sweep / "sweep.json").read_text())["jobs"]["seed1"][:-1]
    command("ktb-train", "-m", *overrides, "seed=1,2,3", "sweep=sweep", cwd=tmp_path)
    assert (sweep / "seed1" / "result.json").read_bytes() == first
    for job in ("seed2", "seed3"):
        result = json.loads((sweep / job / "result.json").read_text())
        assert (result["status"], result["epochs"], result["steps"]) == ("finished", 3, 12), job
    shown = command("ktb-report", "sweep", sweep, "--format", "csv", cwd=tmp_path)
    [row] = csv.DictReader(shown.splitlines())
    scores = [json.loads((sweep / f"seed{n}" / "result.json").read_text())["metrics"]["miou"] for n in (1, 2, 3)]
    assert row["scored"] == "3/3"
    assert float(row["mIoU mean"]) == pytest.approx(np.mean(scores))
