"""Where the training stands: a bar on a terminal, lines in a log file."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from rich import get_console

_SHOWN = {"loss": "train/loss", "val mIoU": "val/miou"}
"""What a line in a log file shows: title → logged name."""


class Progress(RichProgressBar):
    """Rich bar on a terminal; in a log file one line per validation instead."""

    def __init__(self) -> None:
        super().__init__()
        self._on_terminal = get_console().is_terminal
        if not self._on_terminal:
            self.disable()  # Rich would print where its bar stood when it is stopped

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print a line where there is no terminal."""
        super().on_validation_end(trainer, pl_module)
        if trainer.sanity_checking or not trainer.is_global_zero or self._on_terminal:
            return
        metrics = trainer.callback_metrics
        parts = [f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}", f"step {trainer.global_step}"]
        parts += [f"{name} {float(metrics[key]):.4f}" for name, key in _SHOWN.items() if key in metrics]
        print(", ".join(parts), flush=True)

    def _get_train_description(self, current_epoch: int) -> str:
        # Lightning's bar counts epochs from 0, up to one less than there are.
        text = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return f"{text:{len(self.validation_description)}}"
