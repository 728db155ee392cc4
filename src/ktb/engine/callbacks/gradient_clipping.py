"""Gradient clipping as a member of a group, beside `trainer.gradient_clip_val`."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.callbacks import Callback


class GradientClipping(Callback):
    """Has the trainer scale gradients down to a norm, over all parameters, where theirs is larger.

    Args:
        max_norm: above 0.

    Raises:
        ValueError: another one.
    """

    def __init__(self, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"max_norm={max_norm}: expected above 0")
        self.max_norm = max_norm

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        trainer.gradient_clip_val = self.max_norm
