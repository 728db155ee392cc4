"""Members of the group callbacks, and one of the user's own, in whole trainings that are stopped and continued."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch import Tensor

from ktb import load_model
from ktb.errors import ConfigError
from tests.ktb.jobs.test_resume import Killed, killed_after
from tests.ktb.jobs.test_train import evaluate, last_state, metric_rows, train

QUICK = ("modality=rgb", "loss=ce", "dataset.train=4", "dataset.test=1", "trainer.log_every_n_steps=1", "test=false")
"""Two epochs of two steps, validation after each."""
DECAY = 0.3


class Recorder(Callback):
    """A callback as a user writes one: the weights after every step."""

    seen: ClassVar[list[dict[str, Tensor]]] = []

    def __init__(self, start: bool = True) -> None:
        self.start = start

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seen.clear()
        if self.start:
            self.on_train_batch_end(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.seen.append({name: tensor.clone() for name, tensor in pl_module.state_dict().items()})


OWN = "+callbacks.mine={_target_: tests.ktb.jobs.test_callbacks.Recorder, start: true}"
EMA = ("callbacks=ema", f"callbacks.ema.decay={DECAY}")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain") / "run"
    train(folder, *QUICK, OWN)
    return folder


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[dict[str, Tensor]]]:
    """A run with EMA, its result, and the weights that it was trained with, from before the first step on."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    result = train(folder, *QUICK, *EMA, OWN)
    return folder, result, list(Recorder.seen)


def live(folder: Path) -> dict[str, Tensor]:
    content = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    weights: dict[str, Tensor] = content["callbacks"]["EMA"]["live"]
    return weights


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_average_is_what_is_saved(averaged: tuple[Path, dict[str, Any], list[dict[str, Tensor]]]) -> None:
    folder, _, seen = averaged
    state, trained = last_state(folder), live(folder)
    assert len(seen) == 5
    assert trained.keys() == state.keys()
    assert not any(name.startswith("model.backbone.") for name in state), "the frozen backbone is in no checkpoint"
    for name, tensor in state.items():
        expected = seen[0][name].double()
        for step, weights in enumerate(seen[1:]):
            decay = min(DECAY, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * weights[name].double()
        if not tensor.is_floating_point():
            expected = seen[-1][name]
        assert torch.allclose(tensor.double(), expected.double(), rtol=1e-5, atol=1e-8), name
        assert torch.equal(trained[name], seen[-1][name]), name
    model = load_model(folder / "checkpoints" / "last.ckpt")
    assert torch.equal(model.head.predict.weight, state["model.head.predict.weight"])
    assert not torch.equal(model.head.predict.weight, seen[-1]["model.head.predict.weight"])


def test_training_itself_knows_nothing_of_the_average(
    plain: Path, averaged: tuple[Path, dict[str, Any], list[dict[str, Tensor]]]
) -> None:
    assert same(live(averaged[0]), last_state(plain))
    losses = [[row["train/loss"] for row in metric_rows(run) if "train/loss" in row] for run in (plain, averaged[0])]
    assert losses[0] == losses[1]


def test_the_average_is_what_is_validated(
    averaged: tuple[Path, dict[str, Any], list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    folder, result, _ = averaged
    scores = evaluate(folder, tmp_path / "eval", "split=val")
    assert scores["metrics"]["miou"] == pytest.approx(result["best_val_miou"], rel=1e-6)  # logged as float32


def test_a_continued_run_has_the_same_average_and_weights(
    averaged: tuple[Path, dict[str, Any], list[dict[str, Tensor]]], tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    train(folder, *QUICK, *EMA, "trainer.max_steps=3")  # within an epoch
    train(folder, *QUICK, "ckpt_path=last", "trainer.max_steps=-1")
    assert same(last_state(folder), last_state(averaged[0]))
    assert same(live(folder), live(averaged[0]))
    assert metric_rows(folder) == metric_rows(averaged[0])


@pytest.mark.slow
def test_ema_may_end_and_begin_with_a_continued_run(plain: Path, tmp_path: Path) -> None:
    """Without it training goes on with the weights that it was trained with."""
    train(tmp_path / "ends", *QUICK, *EMA, "trainer.max_steps=3")
    train(tmp_path / "ends", *QUICK, "callbacks=none", "ckpt_path=last", "trainer.max_steps=-1")
    assert same(last_state(tmp_path / "ends"), last_state(plain))
    train(tmp_path / "begins", *QUICK, "trainer.max_steps=3")
    start = last_state(tmp_path / "begins")
    train(tmp_path / "begins", *QUICK, *EMA, "ckpt_path=last", "trainer.max_steps=-1")
    assert same(live(tmp_path / "begins"), last_state(plain))
    name = "model.head.predict.weight"
    mean = 0.1 * start[name] + 0.9 * live(tmp_path / "begins")[name]
    assert torch.allclose(last_state(tmp_path / "begins")[name], mean, rtol=1e-5)


STILL = (
    "callbacks=early_stopping", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1",
    "trainer.max_epochs=4",
)  # fmt: skip
"""No score beats the first one by 1, so the second validation is the last one."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    return folder, train(folder, *QUICK, *STILL)


def test_early_stopping(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, result = stopped
    assert (result["status"], result["epochs"], result["steps"]) == ("finished", 2, 4)
    assert result["stopped_early"].startswith("val/miou has not risen above 0.")
    assert result["stopped_early"].endswith(" in 1 validations")
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    again = train(folder, *QUICK, *STILL, "ckpt_path=last")
    said = capsys.readouterr().out
    assert "got to epoch 2, where it was stopped early (callbacks.early_stopping.patience=1; a larger one" in said
    assert again == result
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == files


def test_more_patience_trains_on(stopped: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    file = stopped[0] / "checkpoints" / "last.ckpt"
    result = train(folder, *QUICK, *STILL, "callbacks.early_stopping.patience=2", f"ckpt_path={file}")
    assert (result["epochs"], result["steps"]) == (3, 6)
    assert result["stopped_early"].endswith(" in 2 validations")


def test_killed_right_after_it_was_stopped(
    stopped: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        written = killed_after(4, patch)  # before every validation, and after it
        with pytest.raises(Killed):
            train(folder, *QUICK, *STILL)
    assert written[-1] == (4, "after validation")
    result = train(folder, *QUICK, *STILL, "ckpt_path=auto")
    for key in ("stopped_early", "epochs", "steps", "best_val_miou", "checkpoint"):
        assert result[key] == stopped[1][key], key
    assert metric_rows(folder) == metric_rows(stopped[0])
    assert same(last_state(folder), last_state(stopped[0]))


def test_gradient_clipping(tmp_path: Path) -> None:
    """The first step of SGD is as long as the learning rate times the norm that is left."""
    options = ["optim=sgd", "optim.weight_decay=0", "schedule=constant", "schedule.warmup_epochs=0"]
    options += ["trainer.max_steps=1", "trainer.limit_val_batches=0", "callbacks=gradient_clipping"]
    train(tmp_path / "run", *QUICK, *options, "callbacks.gradient_clipping.max_norm=0.5", OWN)
    before, after = Recorder.seen
    trained = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    moved = [after[name] - before[name] for name in trained if not name.endswith(("running_mean", "running_var"))]
    length = torch.cat([tensor.double().flatten() for tensor in moved if tensor.is_floating_point()]).norm()
    assert length.item() == pytest.approx(0.01 * 0.5, rel=1e-4)


class WithoutModule(Callback):
    def on_train_start(self, trainer: L.Trainer) -> None:  # type: ignore[override]
        raise AssertionError


def lightning(name: str, *settings: str) -> list[str]:
    """A callback of Lightning's own."""
    return [f"+callbacks.x._target_=lightning.pytorch.callbacks.{name}", *(f"+callbacks.x.{s}" for s in settings)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["callbacks=ema", "callbacks.ema.decay=1"], "decay=1: expected 0 or more, below 1"),
        (["callbacks=early_stopping", "callbacks.early_stopping.patience=0"], "patience=0: expected a number of"),
        (
            ["callbacks=early_stopping", "trainer.limit_val_batches=0"],
            "early_stopping goes by the validation mIoU",
        ),
        (["callbacks=gradient_clipping", "trainer.gradient_clip_val=1"], "both clip gradients: give one of them"),
        (["callbacks=gradient_clipping", "callbacks.gradient_clipping.max_norm=0"], "max_norm=0: expected above 0"),
        (["+callbacks.mine._target_=torch.nn.Identity"], "callbacks.mine._target_=torch.nn.Identity is no lightning"),
        (
            [f"+callbacks.mine._target_={__name__}.WithoutModule"],
            f"callbacks.mine: {__name__}.WithoutModule: its method on_train_start(trainer: 'L.Trainer') -> 'None' is "
            f"called as on_train_start(trainer, pl_module) ({__file__}, line",
        ),
        (["+callbacks.mine=3"], "callbacks.mine=3: expected a class, +callbacks.mine._target_=..."),
        (["callbacks=ema", "+callbacks.two=${callbacks.ema}"], "callbacks: EMA is there more than once"),
        (lightning("StochasticWeightAveraging", "swa_lrs=1e-3"), "callbacks.x: StochasticWeightAveraging puts other"),
        (lightning("StochasticWeightAveraging"), "StochasticWeightAveraging needs a value for its setting 'swa_lrs'"),
        (lightning("EMAWeightAveraging"), "resumed: callbacks=ema"),
        (lightning("LearningRateFinder"), "callbacks.x: LearningRateFinder changes optim.lr after the schedule"),
        (lightning("BatchSizeFinder"), "callbacks.x: BatchSizeFinder changes dataset.batch_size after the schedule"),
        (
            lightning("ModelCheckpoint", "monitor=val/miou"),
            "callbacks.x: ModelCheckpoint writes checkpoints at moments",
        ),
        (lightning("ModelPruning", "pruning_fn=l1_unstructured"), "callbacks.x: ModelPruning puts masks beside"),
        (lightning("ModelPruning", "pruning_fn=no"), "The provided `pruning_fn` no isn't available"),
        (lightning("GradientAccumulationScheduler", "scheduling={0: 2}"), "set trainer.accumulate_grad_batches"),
        (lightning("BackboneFinetuning"), "train all of it from the start: peft=full"),
        (lightning("Timer", "duration=abc"), "Timer: `Timer(duration='abc')` is not a valid duration"),
        (
            lightning("EarlyStopping", "monitor=val/miuo"),
            "val/miuo: no validation logs it; did you mean 'val/miou'?",
        ),
        (lightning("EarlyStopping", "monitor=val/miou"), "with mode=min the training ends as soon as val/miou rises"),
        (lightning("EarlyStopping", "monitor=val/miou", "mode=up"), "EarlyStopping: `mode` can be min, max, got up"),
    ],
)
def test_callbacks_that_cannot_work_are_one_line(tmp_path: Path, options: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", *QUICK, *options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_killed_after_every_checkpoint_with_ema_and_early_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [
        *QUICK, *STILL, "callbacks=[ema,early_stopping]",
        "trainer.val_check_interval=2", "dataset.train=6", "save.every_n_steps=1",
    ]  # fmt: skip
    expected = train(tmp_path / "undisturbed", *options)
    with monkeypatch.context() as patch:
        killed_after(1, patch)
        for _ in range(20):
            try:
                result = train(tmp_path / "killed", *options, "ckpt_path=auto")
                break
            except Killed:
                pass
    assert "stopped_early" in expected
    for key in ("stopped_early", "epochs", "steps", "best_val_miou"):
        assert result[key] == expected[key], key
    assert metric_rows(tmp_path / "killed") == metric_rows(tmp_path / "undisturbed")
    assert same(last_state(tmp_path / "killed"), last_state(tmp_path / "undisturbed"))
    assert same(live(tmp_path / "killed"), live(tmp_path / "undisturbed"))
    assert OmegaConf.load(tmp_path / "killed" / "config.yaml").callbacks.keys() == {"ema", "early_stopping"}


def test_what_a_callback_of_lightning_s_runs_into_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        train(tmp_path / "run", *QUICK, *lightning("EarlyStopping", "monitor=train/nothing"))
    assert str(error.value).startswith(
        "callbacks.x (EarlyStopping): Early stopping conditioned on metric `train/nothing` which is not available."
    )


def test_callbacks_of_lightning_that_only_watch_work(tmp_path: Path) -> None:
    result = train(
        tmp_path / "run", *QUICK, *lightning("EarlyStopping", "monitor=val/miou", "mode=max"),
        "+callbacks.timer._target_=lightning.pytorch.callbacks.Timer", "+callbacks.timer.duration=00:01:00:00",
        "+callbacks.lr._target_=lightning.pytorch.callbacks.LearningRateMonitor",
    )  # fmt: skip
    assert result["status"] == "finished"
