"""An exponential moving average of the weights, which is what is validated, saved and used."""

from __future__ import annotations

from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ktb.engine.module import SegmentationModule


class EMA(Callback):
    """Averages what training changes: trained parameters, and statistics of trained norms.

    The average is what is validated, what checkpoints hold as the model's weights, and what is tested; the weights that
    training goes on with are kept in the checkpoint beside it. Lightning's own callback copies the whole model, the
    frozen backbone too, and writes it into every checkpoint.

    Args:
        decay: of the average, per optimiser step; 0 to 1.
        warmup: let the decay be (1 + n) / (10 + n) after n steps as long as that is smaller.

    Raises:
        ValueError: another decay.
    """

    def __init__(self, decay: float = 0.999, warmup: bool = True) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: expected 0 or more, below 1")
        self.decay = decay
        self.warmup = warmup
        self._trained: dict[str, Tensor] = {}
        self._average: dict[str, Tensor] = {}
        self._steps = 0  # that are in the average
        self._seen = 0  # the trainer's count of them
        self._swapped = False
        self._live: dict[str, Tensor] | None = None  # of a checkpoint

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps, "seen": self._seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._steps, self._seen, self._live = state_dict["steps"], state_dict["seen"], state_dict["live"]

    # ---------------------------------------------------------------------------------------------------- training

    @torch.no_grad()
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._trained = _trained(pl_module)
        # A checkpoint's weights, which are in the model by now, are the average.
        self._average = {name: tensor.clone() for name, tensor in self._trained.items()}
        self._swapped = False
        if self._live is None:
            self._steps, self._seen = 0, trainer.global_step
            return
        for name, tensor in self._trained.items():
            tensor.copy_(self._live[name])
        self._live = None

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._seen:  # gradients are being accumulated
            return
        self._seen = trainer.global_step
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps)) if self.warmup else self.decay
        self._steps += 1
        pairs = [(self._average[name], tensor) for name, tensor in self._trained.items()]
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        average = get_ema_multi_avg_fn(decay)
        average([a for a, _ in floating], [b for _, b in floating], self._steps)
        for ours, counted in pairs:
            if not ours.is_floating_point():
                ours.copy_(counted)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        """Let the model and the average change places; nothing before training has begun or after it has ended."""
        for name, average in self._average.items():
            ours = self._trained[name].clone()
            self._trained[name].copy_(average)
            average.copy_(ours)
        self._swapped = not self._swapped

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the average in the model."""
        self._swap()
        self._average, self._trained = {}, {}

    # -------------------------------------------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write the average as the model's weights, and those of the training beside it."""
        current = {name: checkpoint["state_dict"][name] for name in self._average}
        average, live = (current, self._average) if self._swapped else (self._average, current)
        checkpoint["state_dict"] = {**checkpoint["state_dict"], **average}
        checkpoint["callbacks"][self.state_key] = {**self.state_dict(), "live": dict(live)}


def without_average(content: dict[str, Any], state: dict[str, Any]) -> None:
    """Let a training without EMA go on from a checkpoint of one with it.

    Args:
        content: of the checkpoint, changed in place.
        state: what EMA has put into it.
    """
    content["state_dict"] = {**content["state_dict"], **state["live"]}


def _trained(module: L.LightningModule) -> dict[str, Tensor]:
    """What training changes, by its name in the module's state: the tensors themselves."""
    parameters = dict(module.named_parameters())
    moving = "" if cast(SegmentationModule, module).model.peft.trains_backbone else "model.backbone."
    return {
        name: parameters[name].detach() if name in parameters else tensor
        for name, tensor in module.state_dict(keep_vars=True).items()
        # Statistics of a frozen backbone stay as they are.
        if (parameters[name].requires_grad if name in parameters else not moving or not name.startswith(moving))
    }
