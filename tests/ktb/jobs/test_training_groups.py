"""Every member of the groups that say how a model is trained, and parts of the user's own: two steps each."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from ktb.config.compose import groups
from ktb.errors import ConfigError, DataError
from ktb.jobs.train import train as trained
from ktb.jobs.trainer import build_trainer
from tests.ktb.data.written import save
from tests.ktb.jobs.test_train import TINY, configured, metric_rows, train

ALONE = ("modality=rgb", "loss=ce")
SHORT = ("trainer.max_steps=2", "trainer.log_every_n_steps=1", "trainer.limit_val_batches=0", "test=false")


def logged(folder: Path) -> list[dict[str, float]]:
    """What was logged of each step, without the names' "train/"."""
    rows = [row for row in metric_rows(folder) if "train/loss" in row]
    return [{k.removeprefix("train/"): float(v) for k, v in row.items()} for row in rows]


LOSSES = {
    "ce_dice": ["loss_ce", "loss_dice"],
    "self_teaching": ["loss_fused", "loss_rgb", "loss_depth"],
    "self_teaching_ohem": ["loss_fused", "loss_rgb", "loss_depth"],
}
"""Terms that a member of the group loss logs beside the loss."""


@pytest.mark.parametrize("member", groups("train")["loss"])
def test_every_loss(tmp_path: Path, member: str) -> None:
    train(tmp_path / "run", f"loss={member}", *SHORT)
    steps = logged(tmp_path / "run")
    assert len(steps) == 2
    for step in steps:
        terms = {name: value for name, value in step.items() if name.startswith("loss")}
        assert sorted(terms) == sorted(["loss", *LOSSES.get(member, [])])
        assert all(math.isfinite(value) and value > 0 for value in terms.values())
    assert steps[0]["loss"] != steps[1]["loss"]


@pytest.mark.parametrize(
    ("pixel_loss", "parts"),
    [
        ("lovasz", []),
        ("{ce: 1, dice: 0.5}", ["loss_fused_ce", "loss_fused_dice"]),
        ("{_target_: torch.nn.CrossEntropyLoss, ignore_index: 255, label_smoothing: 0.1}", []),
        (
            "{ce: 1, mine: {_target_: tests.ktb.losses.test_pixel.Squared, factor: 2}}",
            ["loss_fused_ce", "loss_fused_mine"],
        ),
    ],
)
def test_every_pixel_loss_of_self_teaching(tmp_path: Path, pixel_loss: str, parts: list[str]) -> None:
    train(tmp_path / "run", f"loss.pixel_loss={pixel_loss}", "modality=rgb", *SHORT)
    (first, _) = logged(tmp_path / "run")
    assert {name for name in first if name.startswith("loss")} == {"loss", "loss_fused", "loss_rgb", *parts}
    assert first["loss"] == pytest.approx(first["loss_fused"] + 0.01 * first["loss_rgb"], rel=1e-5)
    if parts:
        weights = {"loss_fused_ce": 1.0, "loss_fused_dice": 0.5, "loss_fused_mine": 1.0}
        assert first["loss_fused"] == pytest.approx(sum(weights[name] * first[name] for name in parts), rel=1e-5)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["loss=dice", "+loss.label_smoothing=0.1"], "label_smoothing=0.1 is for the cross-entropy ce"),
        (["loss.pixel_loss=dice", "loss.label_smoothing=0.1"], "label_smoothing=0.1 is for the cross-entropy ce"),
        (["loss=ce", "+loss.side_weight=0.1"], "PixelLoss takes no setting 'side_weight'"),
        (["loss=ce", "loss.kind={_target_: torch.nn.NoLoss}"], "torch.nn.NoLoss"),
    ],
)
def test_a_loss_that_cannot_work_is_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", *options, *SHORT)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def rates(folder: Path) -> list[float]:
    return [step["lr"] for step in logged(folder)]


@pytest.mark.parametrize("member", groups("train")["optim"])
def test_every_optimiser(tmp_path: Path, member: str) -> None:
    train(tmp_path / "run", f"optim={member}", "schedule=constant", "schedule.warmup_epochs=0", *ALONE, *SHORT)
    losses = [step["loss"] for step in logged(tmp_path / "run")]
    assert len(losses) == 2
    assert losses[0] != losses[1]
    assert rates(tmp_path / "run") == pytest.approx([0.01 if member == "sgd" else 2e-3] * 2, rel=1e-6)
    config = OmegaConf.load(tmp_path / "run" / "config.yaml")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    (group,) = state["param_groups"]
    for key, value in config.optim.items():
        if key not in ("name", "_target_"):
            assert list(group[key]) == list(value) if key == "betas" else group[key] == value


@pytest.mark.parametrize("member", groups("train")["schedule"])
def test_every_schedule(tmp_path: Path, member: str) -> None:
    options = ["schedule.step_size=1"] if member == "step" else []
    train(tmp_path / "run", f"schedule={member}", *options, *ALONE, *SHORT, "trainer.max_steps=4")
    found = [rate / 2e-3 for rate in rates(tmp_path / "run")]
    expected = {"step": [1.0, 1.0, 1.0, 0.1], "onecycle": onecycle(6)[:4]}.get(member, [0.1, 0.4, 0.7, 1.0])
    assert found == pytest.approx(expected, rel=1e-6)


def onecycle(steps: int) -> list[float]:
    """Up from 1/25 over 30 % of the steps and down to 1/250000 at the end, along half cosines."""
    top = 0.3 * steps - 1

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) * (1 + math.cos(math.pi * share)) / 2

    return [
        between(1 / 25, 1, i / top) if i <= top else between(1, 1 / 25e4, (i - top) / (steps - 1 - top))
        for i in range(steps)
    ]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["optim=sgd", "+optim.betas=[0.9,0.99]"], "torch.optim.SGD takes no setting 'betas'"),
        (["optim._target_=torch.nn.Linear"], "torch.nn.Linear is no torch.optim.Optimizer"),
        (["optim.betas=[2,0.9]"], "optimiser or schedule: Invalid beta parameter at index 0: 2"),
        (["schedule._target_=torch.optim.lr_scheduler.StepLR"], "schedule.interval=None: expected what"),
        (["schedule=step", "schedule.interval=batch"], "schedule.interval=batch: expected what the schedule counts"),
        (["schedule=poly", "+schedule.interval=step"], "schedule.interval=step: ktb.engine.schedules.Poly goes by"),
        (["schedule=constant", "+schedule.power=2"], "Constant takes no setting 'power'"),
        (
            ["schedule=onecycle", "schedule.pct_start=3"],
            "optimiser or schedule: Expected float between 0",
        ),
    ],
)
def test_an_optimiser_or_schedule_that_cannot_work_is_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", *options, *ALONE, *SHORT)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_follows_a_score_is_refused(tmp_path: Path) -> None:
    options = ["schedule._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"]
    with pytest.raises(ConfigError, match="follows a score: .* choose one for which it does"):
        train(tmp_path / "run", "schedule=step", *options, "~schedule.step_size", "~schedule.gamma", *ALONE, *SHORT)


@pytest.mark.slow
def test_a_continued_run_has_the_rates_of_another_batch_size(tmp_path: Path) -> None:
    """PyTorch's schedules too stand where they would have stood with it from the start."""
    options = ["schedule=onecycle", *ALONE, *SHORT[1:], "dataset.train=12"]
    train(tmp_path / "whole", *options, "dataset.batch_size=4", "trainer.max_epochs=3")
    train(tmp_path / "run", *options, "dataset.batch_size=2", "trainer.max_epochs=1")
    train(tmp_path / "run", "dataset.train=12", "ckpt_path=last", "dataset.batch_size=4", "trainer.max_epochs=3")
    assert rates(tmp_path / "run")[6:] == rates(tmp_path / "whole")[3:]


def test_another_optimiser_cannot_go_on_from_the_moments_of_the_first(tmp_path: Path) -> None:
    train(tmp_path / "run", *ALONE, *SHORT)
    with pytest.raises(ConfigError, match=r"with torch.optim.AdamW, .* no use to torch.optim.SGD; .*init_from"):
        train(tmp_path / "run", "optim=sgd", "ckpt_path=last", "trainer.max_steps=3")


def test_a_training_on_files_of_two_units_is_refused_or_remarked_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(8):
        metres = np.random.default_rng(i).uniform(0.6, 8, (32, 32)).astype(np.float32)
        save(tmp_path / f"data/depth/{i}.npy", metres if i % 4 else (1000 * metres).astype(np.uint16))
        save(tmp_path / f"data/label/{i}.npy", np.zeros((32, 32), np.uint8))
    own = [
        *(option for option in TINY if not option.startswith("dataset")),
        "dataset=folder", f"dataset.root={tmp_path / 'data'}", "dataset.classes=[a,b]", "modality=depth",
        "dataset.modalities={depth:{files:depth/*.npy,dtype:float32}}", "dataset.label={files:label/*.npy}",
        "dataset.splits={train:0.5,val:0.5}", "dataset.num_workers=0", "dataset.crop=null", "dataset.batch_size=2",
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"files in two units or bit depths\? 2 reach .* \(uint16"):
        trained(configured("train", [*own, *SHORT, f"run_dir={tmp_path / 'run'}"]))
    assert not (tmp_path / "run").exists()
    for i in range(8):
        np.save(tmp_path / f"data/depth/{i}.npy", np.load(tmp_path / f"data/depth/{i}.npy").astype(np.float32))
    trained(configured("train", [*own, *SHORT, f"run_dir={tmp_path / 'run'}"]))
    assert "note: folder: depth: files in two units or bit depths? 2 reach" in capsys.readouterr().out


def test_a_whole_number_of_the_trainer_may_be_written_as_another(tmp_path: Path) -> None:
    options = ["trainer.num_sanity_val_steps=2.0", "trainer.devices=1.0", "trainer.limit_train_batches=1.0"]
    trainer = build_trainer(configured("train", [*TINY, *options, f"run_dir={tmp_path}"]), [])
    assert repr(trainer.num_sanity_val_steps) == "2"
    assert repr(trainer.limit_train_batches) == "1.0"  # a share, which is not one batch
    with pytest.raises(ConfigError, match="trainer.num_sanity_val_steps=2.5: expected a whole number"):
        train(tmp_path / "run", "trainer.num_sanity_val_steps=2.5")
