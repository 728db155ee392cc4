"""Names of Lightning and PyTorch that are not public and that the engine needs: a release without one shows here."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import RichProgressBar

from ktb.engine.callbacks.finite import norms


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
