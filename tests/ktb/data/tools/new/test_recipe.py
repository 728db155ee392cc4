"""What `ktb-data new` proposes for the training, against what the folder holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from ktb.config.checks import check
from ktb.config.compose import compose
from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.data.tools.new.output import write_yaml
from ktb.data.tools.new.recipe import guess_recipe
from ktb.data.tools.new.survey import survey
from ktb.jobs.build import build_loss
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.segmentor import SegOutput


def field(root: Path, samples: int, *pixels: int, size: tuple[int, int] = (70, 100)) -> Path:
    """Pictures and labels of `size`; a row of a label has so many pixels per mille of each class."""
    label = np.repeat(np.arange(len(pixels), dtype=np.uint8), [size[1] * p // 1000 for p in pixels])
    label = np.resize(label, size[1])[None].repeat(size[0], axis=0)
    for kind in ("rgb", "label"):
        (root / kind).mkdir(parents=True, exist_ok=True)
    for i in range(samples):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size, 3), np.uint8)).save(root / f"rgb/{i:03d}.png")
        Image.fromarray(label).save(root / f"label/{i:03d}.png")
    return root


def written(root: Path, folder: Path) -> tuple[dict[str, object], str]:
    path = write_yaml(survey(root, workers=1), "mine", folder)
    text = path.read_text()
    return yaml.safe_load(text), text


def test_rare_classes_get_weights_and_the_reason_is_beside_them(tmp_path: Path) -> None:
    content, text = written(field(tmp_path / "data", 20, 920, 50, 30), tmp_path / "conf")
    # 16 training samples, 4 to a batch: 4 steps per epoch.
    assert content["recipe"] == {
        "epochs": 300, "warmup_epochs": 15, "lr": "${backbone.lr}", "class_weights": "auto",
        "pixel_loss": {"ce": 1, "lovasz": 1},
    }  # fmt: skip
    assert content["crop"] == [64, 96]
    assert content["batch_size"] == 4
    lines = [line.strip() for line in text.splitlines()]
    assert lines[lines.index("epochs: 300") - 1] == "# 4 steps per epoch: 1200 steps; more if the report says so"
    before = lines[lines.index("class_weights: auto") - 1]
    assert before == "# rare in the training pixels: class_2 3 %. Weights are 1 / sqrt(share), 10 : 1 at most"


def test_classes_of_like_size_get_none(tmp_path: Path) -> None:
    content, text = written(field(tmp_path / "data", 5, 500, 300, 200), tmp_path / "conf")
    assert content["recipe"]["class_weights"] is None  # type: ignore[index]
    assert "pixel_loss" not in content["recipe"]  # type: ignore[operator]
    assert "  # no class has less than 5 % of the training pixels\n" in text


def test_classes_without_a_training_pixel_are_named(tmp_path: Path) -> None:
    root = field(tmp_path / "data", 5, 500, 470, 30)
    (root / "classes.txt").write_text("soil\nweed\ncrop\nstone\n")
    content, text = written(root, tmp_path / "conf")
    assert (
        "crop 3 %. Weights are 1 / sqrt(share), 10 : 1 at most; without a training pixel, so never learned: stone"
        in text
    )
    assert content["recipe"]["class_weights"] == "auto"  # type: ignore[index]


@pytest.mark.parametrize(("samples", "epochs"), [(1, 300), (64, 250), (400, 40), (9000, 40)])
def test_epochs_by_the_number_of_samples(samples: int, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktb.data.balance.MAX_LABELS", 2)
    data = SyntheticDataModule(size=(32, 40), train=samples, val=1, test=1, streams=["rgb"], num_workers=0)
    found = {setting.key: setting.value for setting in guess_recipe(data)}
    assert (found["epochs"], found["warmup_epochs"]) == (epochs, round(epochs / 20))


@pytest.mark.parametrize(("backbone", "lr"), [("swin_nano", 2e-3), ("efficientnet_lite0", 2e-3), ("swin_b", 4e-4)])
def test_what_is_written_trains_with_these_settings(tmp_path: Path, backbone: str, lr: float) -> None:
    written(field(tmp_path / "data", 4, 960, 40), tmp_path / "conf")
    overrides = ["dataset=mine", f"backbone={backbone}", "run_dir=x", f"hydra.searchpath=[file://{tmp_path / 'conf'}]"]
    cfg = compose("train", overrides)
    check(cfg)
    assert (cfg.optim.lr, cfg.schedule.warmup_epochs, cfg.trainer.max_epochs) == (lr, 15, 300)
    assert (cfg.loss.class_weights, cfg.head.init, cfg.dataset.batch_size) == ("auto", "small", 3)
    cfg.loss.class_weights = [0.5, 2.0]  # what training puts in the place of the word
    loss = build_loss(cfg)
    assert isinstance(loss, SelfTeachingLoss)
    out = SegOutput(torch.tensor([[[[2.0, 0.0]], [[0.0, 1.0]]]]), {"rgb": torch.zeros(1, 2, 1, 2)})
    terms = loss(out, torch.tensor([[[0, 0]]]))
    assert float(terms["loss_fused"]) == pytest.approx(float(terms["loss_fused_ce"] + terms["loss_fused_lovasz"]))


def test_a_name_cannot_break_the_comment(tmp_path: Path) -> None:
    root = field(tmp_path / "data", 4, 960, 40)
    (root / "classes.txt").write_text("soil\ncr\x07op # : {\n")
    content, text = written(root, tmp_path / "conf")
    assert "rare in the training pixels: cr?op # : { 4 %" in text
    assert content["recipe"]["class_weights"] == "auto"  # type: ignore[index]
