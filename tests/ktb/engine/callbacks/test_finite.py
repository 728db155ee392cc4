"""Training and scoring end at the first value that is not finite, and nothing of it is saved."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from ktb.data.sets.synthetic import SyntheticDataModule
from ktb.engine.callbacks import finite
from ktb.engine.callbacks.finite import FiniteCheck
from ktb.engine.callbacks.robustness import Robustness
from ktb.engine.callbacks.saving import Saving
from ktb.engine.callbacks.speed import Speed
from ktb.engine.checkpoint_files import AtomicIO
from ktb.engine.module import SegmentationModule
from ktb.engine.optim import published
from ktb.engine.schedules import Poly
from ktb.errors import NotFiniteError
from ktb.jobs.trainer import quiet_lightning
from ktb.losses.self_teaching import SelfTeachingLoss
from ktb.models.finite import not_finite
from ktb.models.segmentor import KTBSegmentor, SegOutput
from tests.ktb.distributed.test_ddp import in_processes

NAN, INF = float("nan"), float("inf")
OPTIM = published(lr=0.01, weight_decay=0.01, warmup_epochs=1)


class Loss(SelfTeachingLoss):
    """`change` may change the terms of the loss in the batch of that number (from 1)."""

    def __init__(self, change: Callable[[int, dict[str, Tensor]], None]) -> None:
        super().__init__("ce")
        self.change = change
        self.batch = 0

    def forward(self, *args: Any) -> dict[str, Tensor]:
        terms = super().forward(*args)
        self.batch += 1
        self.change(self.batch, terms)
        return terms


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.predict = nn.Conv2d(3, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.predict(self.norm(x))
        return logits


class Small(nn.Module):
    """What a `KTBSegmentor` is to the engine, of a few hundred numbers."""

    modalities, num_classes = ("rgb", "depth"), 10
    config: ClassVar = {"small": True}

    def __init__(self) -> None:
        super().__init__()
        self.head = Head()
        self.side_heads = nn.ModuleDict({m: Head() for m in self.modalities})

    def forward(self, inputs: dict[str, Tensor], *, side: bool = False, masked: Tensor | None = None) -> SegOutput:
        logits = self.head(sum(inputs.values()))
        return SegOutput(logits, {m: self.side_heads[m](x) for m, x in inputs.items() if side})


class Rows(Logger):
    """What a logger is given, by step."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict[str, float]] = []

    name = version = ""  # type: ignore[assignment]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append({**metrics, "step": float(step or 0)})


class Training:
    """A tiny one: 4 batches of 2 an epoch, a checkpoint after every step."""

    def __init__(self, folder: Path, change: Callable[[int, dict[str, Tensor]], None] = lambda *_: None) -> None:
        torch.manual_seed(0)
        self.data = SyntheticDataModule(
            size=(32, 40), train=8, val=3, test=3, streams=["rgb", "depth"], num_workers=0, batch_size=2,
            eval_batch_size=2,
        )  # fmt: skip
        self.module = SegmentationModule(
            cast(KTBSegmentor, Small()), Loss(change),
            modalities=self.data.modalities, classes=self.data.spec.classes, seed=0, optim=OPTIM, keep_frozen=True,
        )  # fmt: skip
        self.saving = Saving(folder / "checkpoints", every_steps=1)
        self.check = FiniteCheck(self.saving)
        self.rows = Rows()

    def trainer(self, *callbacks: Callback, plugins: tuple[Any, ...] = (), **options: Any) -> L.Trainer:
        quiet_lightning()
        settings: dict[str, Any] = {"max_epochs": 2, "devices": 1, **options}
        return L.Trainer(
            accelerator="cpu", logger=self.rows, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, log_every_n_steps=1, use_distributed_sampler=False,
            callbacks=[self.saving, self.check, Speed(), *callbacks], plugins=[AtomicIO(3), *plugins], **settings,
        )  # fmt: skip

    def fit(self, *callbacks: Callback, **options: Any) -> L.Trainer:
        trainer = self.trainer(*callbacks, **options)
        trainer.fit(self.module, datamodule=self.data)
        return trainer

    def error(self, *callbacks: Callback, **options: Any) -> str:
        with pytest.raises(NotFiniteError) as stopped:
            self.fit(*callbacks, **options)
        assert "\n" not in str(stopped.value)
        return str(stopped.value)

    def saved(self, name: str = "last.ckpt") -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.saving.folder / name, weights_only=True)
        assert not_finite(content["state_dict"]) == []
        return content


class After(Callback):
    """Does something when so many steps have been taken, or with the gradients of that step."""

    def __init__(self, step: int, action: Callable[[SegmentationModule], None], *, gradients: bool = False) -> None:
        self.step, self.action, self.gradients = step, action, gradients

    def on_after_backward(self, trainer: L.Trainer, pl_module: Any) -> None:
        if self.gradients and trainer.global_step + 1 == self.step:
            self.action(pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, *args: Any) -> None:
        if not self.gradients and trainer.global_step == self.step:
            self.action(pl_module)


def side_loss(batch: int, terms: dict[str, Tensor]) -> None:
    if batch == 6:
        terms["loss_depth"] = terms["loss_depth"] * NAN
        terms["loss"] = terms["loss"] + terms["loss_depth"]


def test_a_term_of_the_loss_that_is_nan(tmp_path: Path) -> None:
    """Said before the step is taken: step, epoch, learning rate, term, last good checkpoint and how to go on."""
    training = Training(tmp_path, side_loss)
    text = training.error()
    lr = 0.01 * Poly(1).factor(5, epochs=2, steps_per_epoch=4)
    assert text.startswith(f"step 6 (epoch 2, learning rate {lr:.3g}): loss_depth is nan; last good checkpoint: ")
    assert f"{training.saving.folder / 'last.ckpt'}; lower optim.lr or set trainer.gradient_clip_val=1, " in text
    assert text.endswith(f"then continue with ckpt_path=last run_dir={tmp_path}")
    assert training.saved()["global_step"] == 5
    assert not_finite(training.module.state_dict()) == []


def test_before_the_first_checkpoint(tmp_path: Path) -> None:
    training = Training(tmp_path, lambda batch, terms: terms.update(loss=terms["loss"] * INF))
    assert training.error(gradient_clip_val=1.0) == (
        "step 1 (epoch 1, learning rate 0.001): loss is inf; last good checkpoint: none yet; lower optim.lr, "
        "then start again"
    )
    assert not training.saving.folder.exists()


@pytest.mark.parametrize("value", [NAN, -INF, 1e30])
@pytest.mark.parametrize("options", [{}, {"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
def test_a_gradient_norm_that_is_not_finite(tmp_path: Path, value: float, options: dict[str, Any]) -> None:
    """The loss is; of 1e30 the square is not."""

    def spoil(module: SegmentationModule) -> None:
        module.model.head.predict.weight.grad[3, 2] = value  # type: ignore[index]

    training = Training(tmp_path)
    before = {k: v.clone() for k, v in training.module.state_dict().items()}
    what = "nan" if value != value else "inf"
    text = training.error(After(2, spoil, gradients=True), **options)
    assert re.match(rf"step 2 \(epoch 1, .*\): the gradient of model\.head\.predict\.weight is {what}; ", text)
    state = training.saved()
    assert state["global_step"] == 1
    assert not torch.equal(state["state_dict"]["model.head.predict.weight"], before["model.head.predict.weight"])
    assert not_finite(training.module.state_dict()) == []


@pytest.mark.parametrize("name", ["head.predict.weight", "side_heads.depth.norm.running_var"])
def test_weights_and_running_statistics_are_never_saved(tmp_path: Path, name: str) -> None:
    """They become NaN in the last step before validation, after the gradients have been looked at."""

    def spoil(module: SegmentationModule) -> None:
        module.model.state_dict()[name].view(-1)[0] = NAN

    training = Training(tmp_path)
    text = training.error(After(8, spoil))
    assert f"the weights are not finite after step 8: model.{name}; last good checkpoint: {tmp_path}" in text
    assert training.saved()["global_step"] == 7
    assert training.saved("best.ckpt")["global_step"] == 4


def test_a_step_over_several_batches(tmp_path: Path) -> None:
    """Every batch is looked at; the logged loss is the mean over those of the step."""
    losses: list[float] = []
    training = Training(tmp_path, lambda batch, terms: losses.append(terms["loss_fused"].item()))
    training.fit(accumulate_grad_batches=3, max_epochs=1, limit_val_batches=0)
    assert len(losses) == 4
    rows = [row for row in training.rows.rows if "train/loss_fused" in row]
    assert [row["train/loss_fused"] for row in rows] == pytest.approx([sum(losses[:3]) / 3, losses[3]], rel=1e-6)
    text = Training(tmp_path / "b", side_loss).error(accumulate_grad_batches=4)
    assert text.startswith("step 2 (epoch 2, ")
    assert "): loss_depth is nan;" in text


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}])
def test_the_learning_rate_of_a_step_is_the_one_it_used(tmp_path: Path, options: dict[str, int]) -> None:
    used: list[float] = []

    class Watch(Callback):
        def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
            used.append(optimizer.param_groups[0]["lr"])

    training = Training(tmp_path)
    training.fit(Watch(), limit_val_batches=0, **options)
    steps = 8 // options.get("accumulate_grad_batches", 1)
    assert used == [0.01 * Poly(1).factor(step, epochs=2, steps_per_epoch=steps // 2) for step in range(steps)]
    rows = [row for row in training.rows.rows if "train/lr" in row]
    assert [row["step"] for row in rows] == list(range(steps))
    assert [row["epoch"] for row in rows] == [step // (steps // 2) for step in range(steps)]
    assert [row["train/lr"] for row in rows] == pytest.approx(used, rel=1e-6)


@pytest.mark.parametrize("factor", [-1.0, NAN, INF])
def test_a_schedule_that_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    monkeypatch.setattr(Poly, "factor", lambda self, step, **_: factor if step >= 2 else 1.0)
    rate = f"{0.01 * factor:.3g}"
    expected = (
        f"step 3 (epoch 1, learning rate {rate}): expected a rate of 0 or more; correct the schedule that gives it"
    )
    training = Training(tmp_path)
    assert training.error(limit_val_batches=0) == expected
    training.saved()


class OnDevice:
    """In place of an event of a GPU."""

    waited = 0

    def synchronize(self) -> None:
        OnDevice.waited += 1


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers come as those of a GPU do."""
    monkeypatch.setattr(finite, "_on_its_way", lambda numbers: (numbers.clone(), OnDevice()))
    monkeypatch.setattr(OnDevice, "waited", 0)


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize(("wrong", "until"), [(2, 4), (3, 4), (5, 7)])
def test_on_a_gpu_two_batches_later_or_before_anything_is_saved(tmp_path: Path, wrong: int, until: int) -> None:
    """An epoch's last batch is the fourth; of the batch that is being computed nothing is waited for."""

    def change(batch: int, terms: dict[str, Tensor]) -> None:
        if batch == wrong:
            terms["loss_rgb"] = terms["loss_rgb"] + INF
        assert OnDevice.waited <= 2 * max(0, batch - 1)

    training = Training(tmp_path, change)
    training.saving.every_steps = None
    text = training.error()
    assert text.startswith(f"step {wrong} (epoch {1 + wrong // 5}, ")
    assert "): loss_rgb is inf; " in text
    loss: Any = training.module.loss
    assert loss.batch == until
    if wrong == 5:
        assert training.saved()["global_step"] == 4


@pytest.mark.usefixtures("late")
def test_a_checkpoint_is_never_ahead_of_what_has_been_looked_at(tmp_path: Path) -> None:
    training = Training(tmp_path, side_loss)
    assert training.error().startswith("step 6 ")
    assert training.saved()["global_step"] == 5


# --------------------------------------------------------------------------------------------- precision, anomalies


def with_scale(scale: float) -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=scale))


def test_steps_that_the_loss_scale_skips_are_no_error(tmp_path: Path) -> None:
    def spoil(module: SegmentationModule) -> None:
        module.model.head.predict.weight.grad[0, 0] = INF  # type: ignore[index]

    def weight(module: SegmentationModule) -> None:
        seen.append(module.model.head.predict.weight.detach().clone())

    seen: list[Tensor] = []
    training = Training(tmp_path)
    precision = with_scale(64.0)
    training.fit(After(3, spoil, gradients=True), *(After(n, weight) for n in (2, 3, 4)), plugins=(precision,))
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert precision.scaler is not None
    assert precision.scaler.get_scale() == 32.0
    assert training.saved()["global_step"] == 8


def test_skipping_for_ever_is_one(tmp_path: Path) -> None:
    """From 0.00128 on, halved in steps 2 to 5, the scale is below 0.0001 when step 6 is looked at."""

    def change(batch: int, terms: dict[str, Tensor]) -> None:
        if batch > 1:
            terms["loss_fused"] = terms["loss_fused"] * NAN
            terms["loss"] = terms["loss"] + terms["loss_fused"]

    training = Training(tmp_path, change)
    training.module.loss.uses_side_heads = True
    text = training.error(plugins=(with_scale(0.00128),))
    assert text.startswith("step 6 (epoch 2, ")
    assert "): loss_fused is nan, as in many steps before: the loss scale of 16-mixed has fallen to 8e-05; " in text
    assert "lower optim.lr or set trainer.gradient_clip_val=1 or trainer.precision=bf16-mixed, then" in text


class Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * NAN


def test_what_detect_anomaly_finds_is_one_line_too(tmp_path: Path) -> None:
    def change(batch: int, terms: dict[str, Tensor]) -> None:
        if batch == 2:
            terms["loss"] = Backwards.apply(terms["loss"])

    training = Training(tmp_path, change)
    trainer = training.trainer(detect_anomaly=True)
    with pytest.raises(RuntimeError) as stopped:
        trainer.fit(training.module, datamodule=training.data)
    error = training.check.explain(trainer, stopped.value)
    assert str(error).startswith("step 2 (epoch 1, learning rate 0.00325): the gradient becomes nan in Backwards")
    assert training.check.explain(trainer, RuntimeError("something else")) is None
    assert Training(tmp_path / "b", side_loss).error(detect_anomaly=True).startswith("step 6 ")


# --------------------------------------------------------------------------------------------------------- processes


def train_as(rank: int, folder: Path, kind: str) -> None:
    """One of two processes, of which the second alone meets what is not finite."""

    def change(batch: int, terms: dict[str, Tensor]) -> None:
        if kind == "loss" and rank == 1 and batch == 2:
            terms["loss"] = terms["loss"] * NAN

    def statistics(module: SegmentationModule) -> None:
        if kind == "statistics" and rank == 1:
            module.model.head.norm.running_mean[0] = NAN  # type: ignore[index]

    def answers(model: nn.Module, inputs: Any, output: Any) -> None:
        if kind == "logits" and rank == 1 and not model.training:
            output.logits[0, :, 3, 4] = NAN

    training = Training(folder, change)
    training.module.model.register_forward_hook(answers)
    try:
        training.fit(After(2, statistics), strategy="ddp", devices=2, max_epochs=1)
    except NotFiniteError as error:
        print(f"error: {error}")
        sys.exit(2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("loss", r"step 2 \(epoch 1, .*\): loss is nan; "),
        ("statistics", r"the weights are not finite after step 2: model\.head\.norm\.running_mean; "),
        ("logits", r"validation after step 2: the logits of val/00001 are not finite, "),
    ],
)
def test_all_processes_stop_together(tmp_path: Path, kind: str, said: str) -> None:
    printed = in_processes(2, train_as, tmp_path, kind, codes=[2, 2])
    assert len(re.findall(f"^error: {said}", printed, re.MULTILINE)) == 1, printed
    assert "Traceback" not in printed
    assert printed.count("error: ") == 1


# ----------------------------------------------------------------------------------------------------------- answers


def spoil_picture(module: SegmentationModule, value: float, when: Callable[[Any], bool] = lambda inputs: True) -> None:
    """One pixel of the second picture of each batch has no answer."""

    def change(model: nn.Module, args: Any, output: Any) -> None:
        if not model.training and when(args[0]):
            output.logits[1:2, :, 3, 4] = value

    module.model.register_forward_hook(change)


@pytest.mark.parametrize("value", [NAN, INF])
def test_validation_without_an_answer_is_no_score(tmp_path: Path, value: float) -> None:
    training = Training(tmp_path)
    spoil_picture(training.module, value)
    text = training.error()
    assert text.startswith(
        "validation after step 4: the logits of val/00001 are not finite, so no score would mean any"
    )
    assert not (training.saving.folder / "best.ckpt").exists()
    assert training.saved()["global_step"] == 4


def test_test_scores_neither(tmp_path: Path) -> None:
    training = Training(tmp_path)
    spoil_picture(training.module, NAN)
    with pytest.raises(NotFiniteError, match="^the logits of test/00001 are not finite, so no score"):
        (trainer := training.trainer()).test(training.module, datamodule=training.data, verbose=False)
    assert not any(key.startswith("test") for key in trainer.callback_metrics)


def test_nor_scores_of_disturbed_inputs(tmp_path: Path) -> None:
    training = Training(tmp_path)
    settings = {"emm": {"missing": ["masked"]}}
    robustness = Robustness(settings, training.data.modalities, 0)
    spoil_picture(training.module, NAN, when=lambda inputs: list(inputs) == ["depth"])
    with pytest.raises(NotFiniteError, match=r"^the logits of test/00001 are not finite in the case emm masked rgb, "):
        training.trainer(robustness).test(training.module, datamodule=training.data, verbose=False)
    assert robustness.result == {}
