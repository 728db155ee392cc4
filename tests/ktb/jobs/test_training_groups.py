"""Every member of the groups that say how a model is trained, and parts of the user's own: two steps each."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ktb.config.compose import groups
from ktb.errors import ConfigError
from tests.ktb.jobs.test_train import metric_rows, train

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
