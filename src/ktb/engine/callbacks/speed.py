"""How many samples per second the training takes, and the learning rate, logged."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class Speed(Callback):
    """Logs `train/samples_per_s`, over the steps of the epoch since the last logged one (a validation between them does
    not count), and `train/lr`, the learning rate that the step used."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._samples = time.perf_counter(), 0  # an epoch that is continued does not start

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since, self._samples = time.perf_counter(), 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._step = trainer.global_step
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]  # the schedule moves on before the batch ends

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._since += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log after every batch; Lightning keeps the values of the steps that are logged."""
        now = time.perf_counter()
        self._samples += len(batch["label"]) * trainer.world_size
        pl_module.log_dict({"train/samples_per_s": self._samples / (now - self._since), "train/lr": self._lr})
        step = trainer.global_step
        if step > self._step and step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._since, self._samples = now, 0
