"""Names of Lightning and PyTorch that are not public and that the engine needs: a release without one shows here."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import nn

from ktb.engine.callbacks.finite import norms
from ktb.engine.optim import OptimConfig, apply_settings, build_optimizer, settings_of


def test_lightnings_loop_says_whether_validation_is_due() -> None:
    """`ktb.engine.callbacks.saving._validation_is_due`."""
    loop = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop
    assert loop._data_fetcher is None
    assert list(type(loop.epoch_loop)._should_check_val_fx.__annotations__) == ["data_fetcher", "return"]


def test_lightnings_loops_keep_the_counts_that_checkpoints_correct() -> None:
    """`Saving.on_save_checkpoint` and `ktb.engine.epochs.carry_over`."""
    loop = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop
    state = loop.state_dict()
    assert state.keys() >= {"epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress", "epoch_progress"}
    assert state["epoch_loop.batch_progress"].keys() == {"total", "current", "is_last_batch"}
    assert state["epoch_loop.batch_progress"]["total"].keys() == {"ready", "completed", "started", "processed"}
    assert "_batches_that_stepped" in state["epoch_loop.state_dict"]


def test_the_bar_asks_for_its_description() -> None:
    """`Progress._get_train_description`."""
    assert callable(RichProgressBar._get_train_description)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_of_many_tensors(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(3, 4).to(dtype), torch.full((5,), 2.0, dtype=dtype)]
    found = norms(tensors)
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([float(t.float().norm()) for t in tensors], rel=1e-6)


def test_a_schedule_says_the_rate_that_it_was_given() -> None:
    model = nn.Linear(2, 2)
    optimizer, schedule = build_optimizer(model, OptimConfig(0.1, 0.0), epochs=2, steps_per_epoch=10)
    settings = settings_of(optimizer)
    settings[0]["initial_lr"] = 0.4
    apply_settings(optimizer, schedule, settings)
    assert schedule.get_last_lr() == pytest.approx([0.04])  # warm-up begins at a tenth
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.04)
